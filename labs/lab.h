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

static inline Prompt tokens_of(const Lab *lab, const char *text)
{
    Prompt  prompt;
    int64_t n = mi_encode(lab->words, text, strlen(text), prompt.at, MOST_TOKENS);
    prompt.n = check((int)n);
    if (n > MOST_TOKENS) fprintf(stderr, "lab: %d tokens are too many\n", prompt.n), exit(1);
    return prompt;
}

/* " Mary" -> its token: the row of the model's tables. It has to be a single one. */
static inline int token_of(const Lab *lab, const char *text)
{
    Prompt one = tokens_of(lab, text);
    if (one.n != 1) fprintf(stderr, "lab: \"%s\" is %d tokens\n", text, one.n), exit(1);
    return one.at[0];
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
