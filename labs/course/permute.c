/* permute.c - another model that computes the same, and one that does not quite.
 *
 *     permute model IN STUDENT OUT       heads and neurons of each layer in another order
 *     permute key IN STUDENT             where each head went, for the teacher
 *     permute mystery IN STUDENT OUT     the same, with one part damaged; prints which: the answer
 *
 * Heads of a layer do not know their numbers: exchange the columns of W_Q, W_K, W_V (and their
 * biases) and the rows of W_O of two heads, and attn_out is the same sum in another order. So are
 * neurons: columns of W_in, b_in, rows of W_out. What one head or neuron computes from the same
 * input keeps its bits (its column of a product is summed by itself); attn_out and mlp_out are
 * rounded in another order, and from there on all differs in its last digits. */
#include "mi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static MiModel *model;
static MiShape  shape;
static char    *file;
static size_t   file_size;

static void *must(const void *result, const char *what)
{
    if (result) return (void *)result;
    fprintf(stderr, "permute: %s\n", what);
    exit(1);
}

static void read_file(const char *path)
{
    FILE *in = must(fopen(path, "rb"), path);
    fseek(in, 0, SEEK_END);
    file_size = (size_t)ftell(in);
    rewind(in);
    file = must(calloc(1, file_size + 1), "out of memory");
    if (fread(file, 1, file_size, in) != file_size) must(NULL, path);
    fclose(in);
}

static void write_file(const char *path)
{
    FILE *out = must(fopen(path, "wb"), path);
    if (fwrite(file, 1, file_size, out) != file_size || fclose(out)) must(NULL, path);
}

static uint64_t read_u64(const char *at)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)at[i];
    return n;
}

/* Where a tensor's floats lie in the file. mi_open() has checked the header. */
static char *tensor(int layer, const char *name, size_t n)
{
    uint64_t begin = 0, end = 0, header = read_u64(file);
    char     what[100], *json = file + 8;
    snprintf(what, sizeof what, "h.%d.%s\"", layer, name);
    char after = json[header];
    json[header] = 0;
    char *at = strstr(json, what), *close = at ? strchr(at, '}') : NULL;
    char *type = at ? strstr(at, "\"F32\"") : NULL, *offset = at ? strstr(at, "data_offsets") : NULL;
    json[header] = after;
    if (!at || !type || type > close || !offset || offset > close ||
        sscanf(strchr(offset, '['), "[%llu,%llu]", (unsigned long long *)&begin,
               (unsigned long long *)&end) != 2 || end - begin != n * sizeof(float))
        must(NULL, "only files of 32-bit floats (F32) can be permuted");
    return json + header + begin;
}

/* ---- Random numbers: the same everywhere ---- */

static uint64_t state;

static uint64_t below(uint64_t n)
{
    uint64_t x = state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (x ^ x >> 31) % n;
}

/* to[i]: where number i goes; all orders are as likely. */
static void shuffle(int *to, int n)
{
    for (int i = 0; i < n; i++) to[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)below((uint64_t)i + 1), kept = to[i];
        to[i] = to[j];
        to[j] = kept;
    }
}

/* x [rows, groups, width] -> the groups of each row in their new order, `width` floats together */
static void reorder(char *x, size_t rows, size_t stride, int groups, size_t width, const int *to)
{
    char *old = must(malloc(groups * width * sizeof(float)), "out of memory");
    for (size_t r = 0; r < rows; r++, x += stride * sizeof(float)) {
        memcpy(old, x, groups * width * sizeof(float));
        for (int g = 0; g < groups; g++)
            memcpy(x + to[g] * width * sizeof(float), old + g * width * sizeof(float),
                   width * sizeof(float));
    }
    free(old);
}

/* One layer's heads and neurons; head [H] gets where each head went. */
static void permute_layer(int l, int *head)
{
    int     H = shape.n_head, F = shape.d_mlp;
    size_t  D = (size_t)shape.d_model, d = (size_t)shape.d_head;
    int    *neuron = must(malloc(F * sizeof *neuron), "out of memory");
    shuffle(head, H);
    shuffle(neuron, F);
    for (int i = 0; i < 3; i++) {
        reorder(tensor(l, "attn.c_attn.weight", 3 * D * D) + i * D * sizeof(float), D, 3 * D, H, d, head);
        reorder(tensor(l, "attn.c_attn.bias", 3 * D) + i * D * sizeof(float), 1, D, H, d, head);
    }
    reorder(tensor(l, "attn.c_proj.weight", D * D), 1, D * D, H, d * D, head);
    reorder(tensor(l, "mlp.c_fc.weight", D * F), D, F, F, 1, neuron);
    reorder(tensor(l, "mlp.c_fc.bias", F), 1, F, F, 1, neuron);
    reorder(tensor(l, "mlp.c_proj.weight", F * D), 1, F * D, F, D, neuron);
    free(neuron);
}

/* Rows first .. first + n - 1 of a matrix with D columns become 0: that part writes nothing. */
static void silence(int l, const char *name, int rows, int first, int n)
{
    size_t D = (size_t)shape.d_model;
    memset(tensor(l, name, rows * D) + first * D * sizeof(float), 0, n * D * sizeof(float));
}

/* A head whose W_O is 0, or 64 neighbouring neurons whose W_out is. */
static void damage(void)
{
    int l = (int)below((uint64_t)shape.n_layer);
    if (below(2)) {
        int h = (int)below((uint64_t)shape.n_head);
        silence(l, "attn.c_proj.weight", shape.d_model, h * shape.d_head, shape.d_head);
        printf("L%dH%d\n", l, h);
    } else {
        int n = shape.d_mlp / 8, first = (int)below(8) * n;
        silence(l, "mlp.c_proj.weight", shape.d_mlp, first, n);
        printf("L%dN%d-%d\n", l, first, first + n - 1);
    }
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    int         is_key = !strcmp(how, "key");
    if (argc != (is_key ? 4 : 5) || (!is_key && strcmp(how, "model") && strcmp(how, "mystery")))
        must(NULL, "permute model|mystery IN STUDENT OUT, or permute key IN STUDENT");
    model = mi_open(argv[2]);
    must(model, mi_error());
    shape = mi_shape(model);
    read_file(argv[2]);
    state = strtoull(argv[3], NULL, 10) * 2654435761u + 17;
    int *head = must(calloc(shape.n_head, sizeof *head), "out of memory");
    for (int l = 0; l < shape.n_layer; l++) {
        permute_layer(l, head);
        for (int h = 0; h < shape.n_head && is_key; h++) printf("L%dH%d\tL%dH%d\n", l, h, l, head[h]);
    }
    if (!strcmp(how, "mystery")) damage();
    if (!is_key) write_file(argv[4]);
    free(head);
    free(file);
    mi_close(model);
    return 0;
}
