/* truth.c - GPT-2s whose circuit is known, because every weight was set by hand: what tests/test_truth.sh
 * holds the methods of mi against.
 *
 *     truth and|or|adder|induction|lookup FILE.safetensors
 *
 * A feature is a direction e_i of the stream. LayerNorm stands in the way of adding features up, so
 * every vector that is written sums to 0 (what is added to e_i is taken from a direction that nobody
 * reads), and every position carries a constant of 1,000 in one direction and -1,000 in another:
 * sigma is then the same everywhere, up to 1 in 100,000, and gamma takes it off again. Attention is
 * saturated (scores of 50), and GELU is used far from 0, where it is a ReLU. */
#include "../mi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLUS, MINUS, NOBODY, FREE };                     /* directions; features begin at FREE */
#define CONSTANT 1000
#define SCORE    50
#define STEEP    20                                     /* of a neuron: far from GELU's bend */

#define X(field, name, shape) float *field;
typedef struct { MI_BLOCK_TENSORS(X) } Block;
typedef struct { MI_MODEL_TENSORS(X) float *W_U; } Around;
#undef X

static int    L, H, d, D, F, V, N;
static Around model;
static Block  block[2];

/* A dimension of mi.h's tables of tensors, by its letter; of a vector's second, 1. */
static int dim(char letter)
{
    switch (letter) {
    case 'V': return V;
    case 'N': return N;
    case 'A': return 3 * D;
    case 'F': return F;
    case 'D': return D;
    default:  return 1;
    }
}

/* 0, but gamma, which takes off what the constant makes of sigma. */
static float *tensor(const char *name, const char *shape)
{
    int    n = dim(shape[0]) * dim(shape[1]);
    float *x = calloc(n, sizeof *x);
    if (!x) exit(1);
    for (int i = 0; i < n && strstr(name, "ln_") && strstr(name, ".weight"); i++)
        x[i] = sqrtf(2.f * CONSTANT * CONSTANT / D + 1e-5f);
    return x;
}

static void make_model(int layers, int heads, int head, int vocabulary, int context)
{
    L = layers, H = heads, d = head, D = H * d, F = 4 * D, V = vocabulary, N = context;
#define X(field, name, shape) model.field = tensor(name, shape);
    MI_MODEL_TENSORS(X)
#undef X
    model.W_U = tensor("lm_head.weight", "VD");
#define X(field, name, shape) block[l].field = tensor(name, shape);
    for (int l = 0; l < L; l++) { MI_BLOCK_TENSORS(X) }
#undef X
    for (int t = 0; t < N; t++)
        model.wpe[t * D + PLUS] = CONSTANT, model.wpe[t * D + MINUS] = -CONSTANT;
}

/* A row that writes a feature. */
static void writes(float *row, int feature, float amount)
{
    row[feature] += amount;
    row[NOBODY] -= amount;
}

/* Entry i of a head's q, k, v (part 0, 1, 2) reads a feature. */
static void reads(int l, int h, int part, int i, int feature, float amount)
{
    block[l].W_QKV[feature * 3 * D + part * D + h * d + i] += amount;
}

static void always_asks(int l, int h, int i) { block[l].b_QKV[h * d + i] = SCORE * sqrtf(d); }
static float *output(int l, int h, int i) { return block[l].W_O + (h * d + i) * D; }

/* ---- Two heads carry a bit each, one neuron is the gate ---- */

enum { A0, A1, B0, B1, ASK, YES, NO };                  /* tokens: a prompt is one of A, one of B, ASK */

static void make_gate(const char *kind)
{
    enum { A = FREE, B, CARRIED_A, CARRIED_B, OUT, UNUSED, POSITION };
    int adder = !strcmp(kind, "adder"), or = !strcmp(kind, "or");
    make_model(1, 4, 8, 16, 8);
    Block *b = &block[0];
    writes(model.wte + A1 * D, A, 1);
    writes(model.wte + B1 * D, B, 1);
    for (int t = 0; t < N; t++) writes(model.wpe + t * D, POSITION + t, 1);
    for (int h = 0; h < 3; h++) {                       /* head 2 carries A to where nobody reads */
        int from = h == 1;
        always_asks(0, h, 0);
        reads(0, h, 1, 0, POSITION + from, 1);
        reads(0, h, 2, 0, from ? B : A, 1);
        writes(output(0, h, 0), h == 2 ? UNUSED : from ? CARRIED_B : CARRIED_A,
               adder && from ? 1.5f : 1);
    }
    /* and: relu(x - 1)   or: 1 - relu(1 - x)   adder: relu(x)   of x = what both carried */
    float sign = or ? -1 : 1;
    b->W_in[CARRIED_A * F] = b->W_in[CARRIED_B * F] = sign * STEEP;
    b->b_in[0] = adder ? 0 : -sign * STEEP;
    writes(b->W_out, OUT, sign / STEEP);
    if (or) writes(b->b_out, OUT, 1);
    model.W_U[YES * D + OUT] = 1;
}

/* ---- Layer 0 notes what came before, layer 1 looks for itself there ---- */

static void make_induction(void)
{
    enum { WORDS = 24 };
    enum { TOKEN = FREE, BEFORE = TOKEN + WORDS, OUT = BEFORE + WORDS, POSITION = OUT + WORDS };
    make_model(2, 4, 26, WORDS, 24);
    for (int i = 0; i < WORDS; i++) {
        writes(model.wte + i * D, TOKEN + i, 1);
        writes(model.wpe + i * D, POSITION + i, 1);
        reads(0, 1, 0, i, POSITION + i, SCORE * sqrtf(d));      /* L0H1: q_t = t, k_j = j + 1 */
        if (i + 1 < N) reads(0, 1, 1, i + 1, POSITION + i, 1);
        reads(0, 1, 2, i, TOKEN + i, 1);
        writes(output(0, 1, i), BEFORE + i, 1);
        reads(1, 2, 0, i, TOKEN + i, SCORE * sqrtf(d));         /* L1H2: who came after me? */
        reads(1, 2, 1, i, BEFORE + i, 1);
        reads(1, 2, 1, i, POSITION, -1);                        /* not the first: it saw itself */
        reads(1, 2, 2, i, TOKEN + i, 1);
        writes(output(1, 2, i), OUT + i, 1);
        model.W_U[i * D + OUT + i] = 1;
    }
}

/* ---- A subject of two tokens, a neuron that knows the pair, a head that fetches what it knows ---- */

static void make_lookup(void)
{
    enum { NAMES = 4, FIRST = 0, LAST = NAMES, VALUE = 2 * NAMES, END = 3 * NAMES };   /* tokens */
    enum { IS_FIRST = FREE, IS_LAST = IS_FIRST + NAMES, MOVED = IS_LAST + NAMES,
           KNOWN = MOVED + NAMES, ANY_LAST = KNOWN + NAMES, OUT, POSITION = OUT + NAMES };
    make_model(2, 4, 8, 16, 5);
    for (int t = 0; t < N; t++) {
        writes(model.wpe + t * D, POSITION + t, 1);
        reads(0, 3, 0, t, POSITION + t, SCORE * sqrtf(d));      /* L0H3: one position back */
        if (t + 1 < N) reads(0, 3, 1, t + 1, POSITION + t, 1);
    }
    always_asks(1, 0, 0);                                       /* L1H0: the last of a subject */
    reads(1, 0, 1, 0, ANY_LAST, 1);
    for (int i = 0; i < NAMES; i++) {
        writes(model.wte + (FIRST + i) * D, IS_FIRST + i, 1);
        writes(model.wte + (LAST + i) * D, IS_LAST + i, 1);
        writes(model.wte + (LAST + i) * D, ANY_LAST, 1);
        reads(0, 3, 2, i, IS_FIRST + i, 1);
        writes(output(0, 3, i), MOVED + i, 1);
        reads(1, 0, 2, i, KNOWN + i, 1);
        writes(output(1, 0, i), OUT + i, 1);
        model.W_U[(VALUE + i) * D + OUT + i] = 1;
    }
    for (int n = 0; n < NAMES * NAMES; n++) {                   /* pair (i, j) has value i + j */
        int i = n / NAMES, j = n % NAMES;
        block[0].W_in[(MOVED + i) * F + n] = block[0].W_in[(IS_LAST + j) * F + n] = STEEP;
        block[0].b_in[n] = -STEEP;
        writes(block[0].W_out + n * D, KNOWN + (i + j) % NAMES, 1.f / STEEP);
    }
}

/* ---- The file ---- */

static char   header[1 << 14];
static size_t length, n_floats;
static const float *values[64];
static size_t sizes[64];
static int    n_tensors;

static void add(int layer, const char *name, const char *shape, const float *value)
{
    char   prefix[16] = "", dims[32];
    size_t n = (size_t)dim(shape[0]) * dim(shape[1]);
    if (layer >= 0) snprintf(prefix, sizeof prefix, "h.%d.", layer);
    snprintf(dims, sizeof dims, shape[1] ? "%d,%d" : "%d", dim(shape[0]), dim(shape[1]));
    length += snprintf(header + length, sizeof header - length,
                       ",\"%s%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                       prefix, name, dims, 4 * n_floats, 4 * (n_floats + n));
    values[n_tensors] = value, sizes[n_tensors++] = n;
    n_floats += n;
}

int main(int argc, char **argv)
{
    const char *kind = argc == 3 ? argv[1] : "";
    if (!strcmp(kind, "and") || !strcmp(kind, "or") || !strcmp(kind, "adder")) make_gate(kind);
    else if (!strcmp(kind, "induction")) make_induction();
    else if (!strcmp(kind, "lookup")) make_lookup();
    else return fprintf(stderr, "usage: truth and|or|adder|induction|lookup FILE\n"), 2;
    length = snprintf(header, sizeof header,
                      "{\"__metadata__\":{\"n_head\":\"%d\",\"vocab\":\"gpt2\"}", H);
#define X(field, name, shape) add(-1, name, shape, model.field);
    MI_MODEL_TENSORS(X)
#undef X
    add(-1, "lm_head.weight", "VD", model.W_U);
#define X(field, name, shape) add(l, name, shape, block[l].field);
    for (int l = 0; l < L; l++) { MI_BLOCK_TENSORS(X) }
#undef X
    length += snprintf(header + length, sizeof header - length, "}");
    FILE *file = fopen(argv[2], "wb");
    uint64_t bytes = length;
    if (!file) return perror(argv[2]), 1;
    fwrite(&bytes, sizeof bytes, 1, file);
    fwrite(header, 1, length, file);
    for (int i = 0; i < n_tensors; i++) fwrite(values[i], sizeof(float), sizes[i], file);
    return fclose(file) != 0;
}
