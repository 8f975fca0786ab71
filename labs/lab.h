/* lab.h - what all labs begin with: a model, its tokenizer, and tokens of texts. A lab is built on
 * mi.h alone; its first argument is the model, tiny.safetensors if there is none. Errors end it.
 *
 *     Lab lab = open_lab(argc, argv);
 *     Prompt prompt = tokens_of(&lab, "The keys to the cabinet");
 *     MiRun *base = run_of(&lab, &prompt);
 */
#ifndef LAB_H
#define LAB_H

#include "mi.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TOKENS = 128 };

typedef struct { int at[MOST_TOKENS], n; } Prompt;

typedef struct {
    MiModel     *model;
    MiTokenizer *words;
    MiShape      shape;
} Lab;

/* The end, with one line that says why: status 2 for what was typed, 1 for what went wrong. */
__attribute__((noreturn, format(printf, 2, 3)))
static inline void refuse(int status, const char *format, ...)
{
    char    why[400];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    for (char *s = why; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127) *s = '?';     /* names in files may be anything */
    fprintf(stderr, "lab: %s\n", why);
    exit(status);
}

/* What a function of mi.h returned, unless it is NULL: then why, and the end. */
static void *must(const void *result)
{
    if (!result) {
        fprintf(stderr, "lab: %s\n", mi_error());
        exit(1);
    }
    return (void *)result;
}

/* The same for those that return a negative number. */
static int check(int result)
{
    return must(result < 0 ? NULL : "fine"), result;
}

static inline Lab open_lab(int argc, char **argv)
{
    Lab lab = {.model = must(mi_open(argc > 1 ? argv[1] : "tiny.safetensors"))};
    lab.words = must(mi_tokenizer_open("tokenizer.bin", lab.model));
    lab.shape = mi_shape(lab.model);
    return lab;
}

static inline void close_lab(Lab *lab)
{
    mi_tokenizer_close(lab->words);
    mi_close(lab->model);
}

/* The tokens of a text. "#464 8251 284" are ids; a model that knows no text has nothing else. */
static inline Prompt tokens_of(const Lab *lab, const char *text)
{
    Prompt  prompt = {.n = 0};
    int64_t n = 0;
    char   *end;
    if (*text != '#' || text[strspn(text, "# 0123456789")])
        n = check((int)mi_encode(lab->words, text, strlen(text), prompt.at, MOST_TOKENS));
    else for (text++; *(text += strspn(text, " ")); text = end) {
        long id = strtol(text, &end, 10);
        int  token = id == (int)id ? mi_row_of_id(lab->words, (int)id) : -1;
        if (end == text || token < 0) refuse(2, "no token of this model: %.40s", text);
        if (n < MOST_TOKENS) prompt.at[n] = token;
        n++;
    }
    if (n > MOST_TOKENS) refuse(2, "%d tokens are too many", (int)n);
    prompt.n = (int)n;
    return prompt;
}

/* " Mary" -> its token: the row of the model's tables. It has to be a single one. */
static inline int token_of(const Lab *lab, const char *text)
{
    Prompt one = tokens_of(lab, text);
    if (one.n != 1) refuse(2, "\"%s\" is %d tokens", text, one.n);
    return one.at[0];
}

/* " are| were" -> its tokens: several that count as one. */
static inline Prompt set_of(const Lab *lab, const char *text)
{
    Prompt set = {.n = 0};
    char   one[200];
    for (size_t n; ; text += n + 1) {
        n = strcspn(text, "|");
        snprintf(one, sizeof one, "%.*s", (int)n, text);
        if (n >= sizeof one || set.n == MOST_TOKENS) refuse(2, "no set of tokens: %.40s", text);
        set.at[set.n++] = token_of(lab, one);
        if (!text[n]) return set;
    }
}

/* A table as ./mi --data reads it. */
static inline MiTable table_of(const char *path)
{
    MiTable table;
    if (mi_table_read(&table, path) < 0) refuse(2, "%s", mi_error());
    return table;
}

/* A run of the whole prompt that keeps all sites. */
static inline MiRun *run_of(const Lab *lab, const Prompt *prompt)
{
    return must(mi_run(lab->model, prompt->at, prompt->n, NULL, NULL));
}

/* What is asked of a run: logit answer - logit versus, after its last token. */
typedef struct { int answer, versus; } Question;

static inline double logit_diff(const MiRun *run, Question q)
{
    int   tokens[2] = {q.answer, q.versus};
    float logits[2];
    check(mi_logits_of(run, 0, mi_n_tokens(run, 0) - 1, tokens, 2, logits));
    return (double)logits[0] - logits[1];
}

/* log of the summed odds: logsumexp of the logits of a less that of b, after the last token. */
static inline double log_odds(const MiRun *run, int lane, const Prompt *a, const Prompt *b)
{
    float logits[2][MOST_TOKENS];
    int   last = mi_n_tokens(run, lane) - 1;
    check(mi_logits_of(run, lane, last, a->at, a->n, logits[0]));
    check(mi_logits_of(run, lane, last, b->at, b->n, logits[1]));
    return mi_log_sum_exp(logits[0], a->n) - mi_log_sum_exp(logits[1], b->n);
}

/* The gradient of logit answer - logit versus, after the last token, at every site. */
static inline MiRun *gradient_of(const Lab *lab, const MiRun *run, Question q)
{
    float *dlogits = must(calloc(lab->shape.n_vocab, sizeof *dlogits));
    dlogits[q.answer] += 1;
    dlogits[q.versus] -= 1;
    MiRun *gradient = must(mi_gradient(run, 0, mi_n_tokens(run, 0) - 1, dlogits, MI_KEEP_ALL));
    free(dlogits);
    return gradient;
}

/* A random number 0 <= r < n, the same on all machines (splitmix64). */
static inline int below(uint64_t *seed, int n)
{
    uint64_t x = *seed += 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return (int)((x ^ x >> 31) % (uint64_t)n);
}

/* A random number of the standard normal distribution (Box and Muller). */
static inline double normal(uint64_t *seed)
{
    double u = (below(seed, 1 << 30) + .5) / (1 << 30), v = (below(seed, 1 << 30) + .5) / (1 << 30);
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

/* A -> U, A = U' U    A [n,n] symmetric; its upper half is read, and becomes U. -1: A is not
 * positive definite. Rows change together: one multiplied by a number goes to others below it. */
static inline int cholesky(double *A, int n)
{
    for (int k = 0; k < n; k++) {
        double *u = A + (size_t)k * n, root = sqrt(u[k]);
        if (!(root > 0)) return -1;
        for (int j = k; j < n; j++) u[j] /= root;
        for (int i = k + 1; i < n; i++)
            for (int j = i; j < n; j++) A[(size_t)i * n + j] -= u[i] * u[j];
    }
    return 0;
}

/* x <- A^-1 x    x [n], U [n,n] of cholesky() */
static inline void cholesky_solve(const double *U, int n, double *x)
{
    for (int k = 0; k < n; k++) {                       /* U' y = x */
        const double *u = U + (size_t)k * n;
        x[k] /= u[k];
        for (int j = k + 1; j < n; j++) x[j] -= x[k] * u[j];
    }
    for (int i = n - 1; i >= 0; i--) {                  /* U x = y */
        const double *u = U + (size_t)i * n;
        for (int j = i + 1; j < n; j++) x[i] -= u[j] * x[j];
        x[i] /= u[i];
    }
}

/* x [n] into a file of NumPy's, as --direction reads it. 118 of its first 128 bytes say what it is. */
static inline void write_npy(const char *path, const float *x, int n)
{
    char  text[119];
    FILE *out = fopen(path, "wb");
    snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }", n);
    if (!out || fprintf(out, "\x93NUMPY\1%cv%c%-117s\n", 0, 0, text) != 128 ||
        fwrite(x, sizeof *x, n, out) != (size_t)n || fclose(out))
        refuse(1, "%s: %s", path, strerror(errno));
}

/* A token as people can read it, in a column of so many characters. */
static inline void print_token(const Lab *lab, int token, int columns)
{
    char name[64];
    int  wide = 0;
    mi_token_label(lab->words, token, name, 24);
    for (char *s = name; *s; s++) wide += (*s & 0xC0) != 0x80;      /* characters, not bytes */
    printf("%s%*s", name, wide < columns ? columns - wide : 0, "");
}

/* A table of heads or positions: a line for each layer. 0 is exactly that; · is below .005. */
static inline void print_map(const double *value, int rows, int columns, const char *column)
{
    printf("    ");
    for (int c = 0; c < columns; c++) {
        char name[24];
        snprintf(name, sizeof name, "%s%d", column, c);
        printf(" %7s", name);
    }
    for (int i = 0; i < rows * columns; i++) {
        double v = value[i];
        if (i % columns == 0) printf("\n  L%-2d", i / columns);
        if (v == 0) printf("       0");
        else if (v < .005 && v > -.005) printf("       ·");
        else printf(" %+7.2f", v);
    }
    printf("\n");
}

#endif
