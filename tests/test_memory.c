/* test_memory.c - memory that runs out at any place is an error that says so; nothing is leaked.
 *
 * Includes mi.c with allocations that count. The same work is done again and again: first its first
 * allocation fails, then its second ..., alone and with all that follow, until none does. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int   left, for_ever;    /* how many may succeed; whether all after them fail too */
static int   failures;          /* how many did fail */
static void *alive[4096];       /* what is not given back yet */
static int   n_alive;

static int fails(void)
{
    int now = left == 0 || (left < 0 && for_ever);
    left--;
    failures += now;
    if (now) errno = ENOMEM;
    return now;
}

static void *born(void *at)
{
    if (at && at != MAP_FAILED && n_alive < 4096) alive[n_alive++] = at;
    return at;
}

static void dead(void *at)      /* (what libc allocated by itself is not counted) */
{
    int i = 0;
    while (i < n_alive && alive[i] != at) i++;
    if (i < n_alive) alive[i] = alive[--n_alive];
}

static void *test_malloc(size_t n) { return fails() ? NULL : born(malloc(n)); }
static void *test_calloc(size_t n, size_t size) { return fails() ? NULL : born(calloc(n, size)); }
static void  test_free(void *at) { dead(at), free(at); }
static int   test_munmap(void *at, size_t n) { return dead(at), munmap(at, n); }

static void *test_realloc(void *at, size_t n)
{
    if (fails()) return NULL;
    dead(at);
    return born(realloc(at, n));
}

static void *test_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset)
{
    return fails() ? MAP_FAILED : born(mmap(at, n, protection, flags, file, offset));
}

#define malloc  test_malloc
#define calloc  test_calloc
#define realloc test_realloc
#define free    test_free
#define mmap    test_mmap
#define munmap  test_munmap
#undef _DEFAULT_SOURCE
#include "../mi.c"
#undef malloc
#undef calloc
#undef realloc
#undef strdup
#undef free
#undef mmap
#undef munmap

#include "check.h"

static const char *doing_what;  /* the call under way */
static const char *model_file;

static double metric(void *context, const MiRun *run, int lane)
{
    float logit;
    int   token = 1;
    (void)context;
    return mi_logits_of(run, lane, mi_n_tokens(run, lane) - 1, &token, 1, &logit) < 0 ? 0 : logit;
}

#define STEP(what, condition) do { doing_what = what; if (!(condition)) return -1; } while (0)

/* Edits of all kinds, in every form a run takes them. */
static int with_edits(const MiModel *model, const MiTokenizer *words, const MiRun *base,
                      const MiRun *source, MiEdits *edits, MiRun **runs)
{
    static const char *const texts[][2] = {
        {"ablate", "L0H1=mean"}, {"ablate", "L1H*@2=tlzero"}, {"patch", "L0.resid_mid@1-2=0.5"},
        {"freeze", "L1.mlp_out"}, {"noise", "embed=3s"}, {"knockout", "L1H0@3:1"},
        {"scale", "not:L0N3,L1N4=2"}, {"scale", "L0.q@\"C\"=2"},
    };
    int     tokens[5] = {33, 34, 35, 33, 36}, first[4] = {0, 1, 2, 3};
    double  values[3];
    float   logits[64];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        STEP(texts[i][1], mi_edits_parse(edits, model, words, tokens, 5, texts[i][0],
                                         texts[i][1]) == 0);
    STEP("mi_edits_bind", mi_edits_bind(edits, base, source) == 0);
    STEP("mi_run with edits", runs[0] = mi_run(model, tokens, 5, edits, NULL));
    MiLane lanes[2] = {{base, edits->at, edits->n, -1, 0}, {base, edits->at + 1, 1, -1, 0}};
    STEP("mi_fork", runs[1] = mi_fork(lanes, 2, -1, MI_KEEP_ALL));
    MiSweep sweep = {.trunk = base, .edits = edits->at, .first = first, .n_cells = 3, .read = 5,
                     .metric = metric};
    STEP("mi_sweep", mi_sweep(&sweep, values) == 0);
    STEP("mi_lens", mi_lens(base, 0, MI_resid_mid, 1, 2, 0, logits) == 0);
    STEP("mi_logits", mi_logits(base, 0, 4, logits) == 0);
    STEP("mi_logits_at", mi_logits_at(&(MiPosition){base, 0, 4}, 1, logits) == 0);
    STEP("mi_gradient", runs[2] = mi_gradient(runs[1], 0, 4, logits, 0));
    return 0;
}

static int everything(void)
{
    int tokens[5] = {33, 34, 35, 33, 36}, others[5] = {33, 40, 35, 41, 36}, status = -1, ids[8];
    MiEdits edits = {0};
    MiRun *base = NULL, *source = NULL, *runs[3] = {0};
    MiTokenizer *words = NULL;
    MiOptions options = {.capacity = 6};
    doing_what = "mi_open";
    MiModel *model = mi_open(model_file);
    if (model) doing_what = "mi_tokenizer_open", words = mi_tokenizer_open("tokenizer.bin", model);
    if (words) {
        doing_what = "mi_encode";
        if (mi_encode(words, "ABCAD", 5, ids, 8) == 5)
            doing_what = "mi_run", base = mi_run(model, tokens, 5, NULL, &options);
    }
    if (base) source = mi_run(model, others, 5, NULL, NULL);
    if (source) status = with_edits(model, words, base, source, &edits, runs);
    if (status == 0) doing_what = "mi_append", status = mi_append(base, others, 1);
    mi_free(runs[0]);
    mi_free(runs[1]);
    mi_free(runs[2]);
    mi_free(source);
    mi_free(base);
    mi_edits_free(&edits);
    mi_tokenizer_close(words);
    mi_close(model);
    return status;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    model_file = "tests/golden/odd7.safetensors";
    for (for_ever = 0; for_ever < 2; for_ever++) {
        int n = 0, status, said = 0;
        do {
            left = n++;
            failures = n_alive = 0;
            error_text[0] = 0;
            status = everything();
            int spoke = strstr(mi_error(), "memory") || strstr(mi_error(), strerror(ENOMEM));
            int good = failures ? status == -1 && spoke : status == 0;
            if (n_alive || !good) said++;
            if (said > 5) break;
            CHECK(n_alive == 0, "memory: allocation %d fails in %s, and %d are not given back", n,
                  doing_what, n_alive);
            CHECK(good, "memory: allocation %d fails%s in %s, which gives %d and says \"%s\"", n,
                  for_ever ? " with all that follow" : "", doing_what, status, mi_error());
        } while (failures && n < 10000);
        CHECK(said || n > 50, "memory: only %d allocations are made", n);
    }
    return report();
}
