/* published_model.c - a GPT-2 of 12 layers of 12 heads and GPT-2's vocabulary, small, with random
 * weights: what tests/published_shape.sh compares the published figures with.
 *
 *     published_model FILE */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS = 12, HEADS = 12, D = 24, V = 50257, CONTEXT = 1024 };

static const struct { const char *name; int rows, columns; } BLOCK[] = {
    { "ln_1.weight", 0, D },             { "ln_1.bias", 0, D },
    { "attn.c_attn.weight", D, 3 * D },  { "attn.c_attn.bias", 0, 3 * D },
    { "attn.c_proj.weight", D, D },      { "attn.c_proj.bias", 0, D },
    { "ln_2.weight", 0, D },             { "ln_2.bias", 0, D },
    { "mlp.c_fc.weight", D, 4 * D },     { "mlp.c_fc.bias", 0, 4 * D },
    { "mlp.c_proj.weight", 4 * D, D },   { "mlp.c_proj.bias", 0, D },
};
enum { IN_BLOCK = sizeof BLOCK / sizeof *BLOCK };

static char   header[1 << 16];
static size_t length, n_numbers;

static void add(const char *prefix, const char *name, int rows, int columns)
{
    size_t n = (size_t)(rows ? rows : 1) * columns;
    char   shape[32];
    snprintf(shape, sizeof shape, rows ? "%d,%d" : "%.0d%d", rows, columns);
    length += snprintf(header + length, sizeof header - length,
                       ",\"%s%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                       prefix, name, shape, 4 * n_numbers, 4 * (n_numbers + n));
    n_numbers += n;
}

int main(int argc, char **argv)
{
    FILE *file = argc == 2 ? fopen(argv[1], "wb") : NULL;
    if (!file) return fprintf(stderr, "usage: published_model FILE\n"), 2;
    length = snprintf(header, sizeof header,
                      "{\"__metadata__\":{\"n_head\":\"%d\",\"vocab\":\"gpt2\"}", HEADS);
    add("", "wte.weight", V, D);
    add("", "wpe.weight", CONTEXT, D);
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < IN_BLOCK; i++) {
            char prefix[16];
            snprintf(prefix, sizeof prefix, "h.%d.", l);
            add(prefix, BLOCK[i].name, BLOCK[i].rows, BLOCK[i].columns);
        }
    add("", "ln_f.weight", 0, D);
    add("", "ln_f.bias", 0, D);
    length += snprintf(header + length, sizeof header - length, "}");

    uint64_t bytes = length, state = 1;
    fwrite(&bytes, sizeof bytes, 1, file);
    fwrite(header, 1, length, file);
    for (size_t i = 0; i < n_numbers; i++) {            /* uniform in (-.7, .7) */
        state = state * 6364136223846793005u + 1442695040888963407u;
        float x = 1.4f * ((float)(state >> 40) / (1 << 24) - .5f);
        fwrite(&x, sizeof x, 1, file);
    }
    return fclose(file) != 0;
}
