/* random_model.h - small random GPT-2s for the tests, written as Hugging Face writes them.
 *
 *     RandomModel shape = {.n_layer = 2, .n_head = 3, .d_head = 5, .n_ctx = 40, .n_vocab = 31};
 *     MiModel *model = random_model_open(shape);            // with mi.h included before
 *     const char *path = random_model_file(shape);          // or the file itself, for a program
 *
 * The same shape and seed give the same bytes everywhere. Weights are large enough that attention
 * is far from uniform and that every gain and bias matters. Files live in one temporary directory
 * ($TMPDIR or /tmp), which goes when the test exits.
 */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H

#include "mi.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *mkdtemp(char *template);      /* POSIX; stdlib.h hides it under -std=c11 */

typedef struct {
    int n_layer, n_head, d_head, n_ctx, n_vocab;
    int lm_head;            /* 1: an unembedding of its own, not wte */
    int blanks;             /* blanks after the header: 1-3 put the tensors at odd addresses */
    int buffers;            /* 1: with the attn.bias masks of the published files (to be ignored) */
    const char *prefix;     /* "transformer." in some files; NULL: none */
    const char *vocab;      /* what the metadata say it is; NULL: nothing */
    uint64_t seed;
} RandomModel;

/* One step of splitmix64: the same numbers on every machine. */
static inline uint64_t random_bits(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [-1, 1), 24 random bits. */
static inline float random_float(uint64_t *state)
{
    return (float)(int32_t)(random_bits(state) >> 40) * 0x1p-23f - 1.0f;
}

/* Uniform in 0 .. n-1. */
static inline int random_below(uint64_t *state, int n)
{
    return (int)(random_bits(state) % (uint64_t)n);
}

/* The tensors of a layer, or those around the layers: name, shape (rows 0: a vector), and the
 * values: centre +- spread. A matrix [in, out] has spread ~ 1/sqrt(in): values keep their size. */
typedef struct {
    const char *name;
    int rows, cols;
    float centre, spread;
} RandomTensor;

enum { RANDOM_PER_LAYER = 13, RANDOM_AROUND = 5 };

/* A dimension of mi.h's table of tensors, by its letter; 0 if there is none. */
static inline int random_dim(const RandomModel *m, char letter)
{
    int D = m->n_head * m->d_head;
    switch (letter) {
    case 'V': return m->n_vocab;
    case 'N': return m->n_ctx;
    case 'A': return 3 * D;
    case 'F': return 4 * D;
    case 'D': return D;
    default:  return 0;
    }
}

/* One row of that table: LayerNorm's weights around 1, all else around 0; matrices spread so that
 * what they make is neither lost in rounding nor uniform after softmax. */
static inline RandomTensor random_tensor(const RandomModel *m, const char *name, const char *shape)
{
    int   matrix = shape[1] != 0, first = random_dim(m, shape[0]);
    float root = 1, spread = 0.5f;
    while (root * root < (float)first) root += 0.0625f;     /* square root without libm */
    if (matrix) spread = (strstr(name, "c_attn") ? 3.0f : 2.0f) / root;
    if (strstr(name, "wte") || strstr(name, "lm_head")) spread = 1.5f;
    if (strstr(name, "wpe")) spread = 0.75f;
    int gamma = strstr(name, "ln_") && strstr(name, ".weight");
    return (RandomTensor){name, matrix ? first : 0, matrix ? random_dim(m, shape[1]) : first, gamma,
                          spread};
}

static inline int random_tensors(const RandomModel *m, int layer, RandomTensor *out)
{
#define X(field, name, shape) random_tensor(m, name, shape),
    RandomTensor block[RANDOM_PER_LAYER] = {
        MI_BLOCK_TENSORS(X)
        {"attn.bias", m->n_ctx, m->n_ctx, 1, 0},            /* last: may be left out */
    };
    RandomTensor around[RANDOM_AROUND] = {
        MI_MODEL_TENSORS(X)
        random_tensor(m, "lm_head.weight", "VD"),           /* last: may be left out */
    };
#undef X
    int n = layer < m->n_layer ? RANDOM_PER_LAYER - !m->buffers : RANDOM_AROUND - !m->lm_head;
    memcpy(out, layer < m->n_layer ? block : around, (size_t)n * sizeof *out);
    return n;
}

/* Pass 0 appends the tensors' lines to the header, pass 1 their values to the file. */
static inline size_t random_pass(const RandomModel *m, char *header, size_t at, FILE *file)
{
    uint64_t state = m->seed * 2 + 1, offset = 0;
    for (int layer = 0; layer <= m->n_layer; layer++) {
        RandomTensor t[RANDOM_PER_LAYER];
        int n = random_tensors(m, layer, t);
        for (int i = 0; i < n; i++) {
            uint64_t size = (uint64_t)(t[i].rows ? t[i].rows : 1) * (uint64_t)t[i].cols;
            int whole = strcmp(t[i].name, "lm_head.weight") == 0;   /* never prefixed */
            if (file) {
                float *values = malloc(size * sizeof *values);
                if (!values) abort();
                for (uint64_t j = 0; j < size; j++)     /* exact in double: no compiler's choice */
                    values[j] = (float)((double)t[i].centre
                                        + (double)t[i].spread * (double)random_float(&state));
                fwrite(values, sizeof *values, size, file);
                free(values);
                continue;
            }
            at += (size_t)sprintf(header + at, ",\"%s",
                                  m->prefix && !whole ? m->prefix : "");
            if (layer < m->n_layer) at += (size_t)sprintf(header + at, "h.%d.", layer);
            at += (size_t)sprintf(header + at, "%s\":{\"dtype\":\"F32\",\"shape\":[", t[i].name);
            if (t[i].rows == m->n_ctx && t[i].cols == m->n_ctx && t[i].spread == 0)
                at += (size_t)sprintf(header + at, "1,1,");
            if (t[i].rows) at += (size_t)sprintf(header + at, "%d,", t[i].rows);
            at += (size_t)sprintf(header + at, "%d],\"data_offsets\":[%llu,%llu]}", t[i].cols,
                                  (unsigned long long)(offset * 4),
                                  (unsigned long long)((offset + size) * 4));
            offset += size;
        }
    }
    return at;
}

/* Write the model to path: the header's length (8 bytes, little endian), the header, the floats. */
static inline int random_model_write(const char *path, const RandomModel *m)
{
    size_t room = 1024 + (size_t)(m->n_layer + 1) * RANDOM_PER_LAYER * 160;
    char *header = malloc(room);
    FILE *file = fopen(path, "wb");
    if (!header || !file) abort();
    size_t n = (size_t)sprintf(header, "{\"__metadata__\":{\"format\":\"pt\",\"n_head\":\"%d\"",
                               m->n_head);
    if (m->vocab) n += (size_t)sprintf(header + n, ",\"vocab\":\"%.100s\"", m->vocab);
    header[n++] = '}';
    n = random_pass(m, header, n, NULL);
    header[n++] = '}';
    while (n % 8) header[n++] = ' ';
    for (int i = 0; i < m->blanks; i++) header[n++] = ' ';
    for (int i = 0; i < 8; i++) fputc((int)((uint64_t)n >> (8 * i) & 255), file);
    fwrite(header, 1, n, file);
    free(header);
    random_pass(m, NULL, 0, file);
    int bad = ferror(file);
    return fclose(file) || bad ? -1 : 0;
}

static char random_directory[4096];
static int  random_files;

static inline void random_remove(void)
{
    char path[4200];
    for (int i = 0; i < random_files; i++) {
        snprintf(path, sizeof path, "%s/model%d.safetensors", random_directory, i);
        unlink(path);
    }
    rmdir(random_directory);
}

/* The path of a new file with this model; it is removed when the test exits. */
static inline const char *random_model_file(RandomModel m)
{
    static char path[4200];
    if (!random_directory[0]) {
        const char *tmp = getenv("TMPDIR");
        snprintf(random_directory, sizeof random_directory, "%s/mi-test-XXXXXX",
                 tmp && *tmp ? tmp : "/tmp");
        if (!mkdtemp(random_directory)) {
            fprintf(stderr, "no temporary directory %s\n", random_directory);
            exit(1);
        }
        atexit(random_remove);
    }
    snprintf(path, sizeof path, "%s/model%d.safetensors", random_directory, random_files++);
    if (random_model_write(path, &m)) {
        fprintf(stderr, "cannot write %s\n", path);
        exit(1);
    }
    return path;
}

#ifdef MI_H
/* The model, opened; its file is gone already (the mapping holds it). */
static inline MiModel *random_model_open(RandomModel m)
{
    const char *path = random_model_file(m);
    MiModel *model = mi_open(path);
    unlink(path);
    return model;
}
#endif

#endif
