/* test_traps.c - calls that a program written on mi.h gets wrong end with an error and its reason,
 * and one model serves many threads.
 *
 *     cc -O1 -g -fsanitize=thread -DMI_NO_MAIN -I. tests/test_traps.c mi.c -lm -lpthread
 *
 * is what tests/test_threads.sh runs. Only mi.h is used. */
#include "mi.h"
#include "check.h"
#include "random_model.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>

enum { T = 9, V = 31 };
static const int tokens[T] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
static MiModel *model;
static MiShape  shape;
static MiRun   *base;

static void refused(const char *name, int refuses, const char *word)
{
    CHECK(refuses, "%s: is accepted", name);
    CHECK(!refuses || strstr(mi_error(), word), "%s: no word of %s: %s", name, word, mi_error());
}

static MiEdit zero_z(int layer, int head)
{
    return (MiEdit){.op = MI_SET, .site = MI_z, .layer = layer, .head = -1, .pos_end = INT_MAX,
                    .first = head * shape.d_head, .count = shape.d_head};
}

static MiRun *fork_of(const MiEdit *edits, int n)
{
    MiLane lane = {.trunk = base, .edits = edits, .n_edits = n, .t0 = -1};
    return mi_fork(&lane, 1, -1, MI_KEEP_ALL);
}

static double answer(void *context, const MiRun *run, int lane)
{
    float logit;
    int   token = *(int *)context;
    return mi_logits_of(run, lane, T - 1, &token, 1, &logit) < 0 ? NAN : (double)logit;
}

/* ---- Edits ---- */

static void edit_refused(const char *name, MiEdit edit, const char *word)
{
    MiEdits list = {.at = &edit, .n = 1};
    MiRun  *run = mi_run(model, tokens, T, &list, NULL);
    refused(name, run == NULL, word);
    mi_free(run);
    run = fork_of(&edit, 1);
    refused(name, run == NULL, word);
    mi_free(run);
    double value = 0;
    int    first[2] = {0, 1}, token = 3;
    MiSweep sweep = {.trunk = base, .edits = &edit, .first = first, .n_cells = 1, .read = T,
                     .metric = answer, .context = &token};
    refused(name, mi_sweep(&sweep, &value) < 0, word);
}

static void test_edits(void)
{
    MiEdit edit = zero_z(1, 0);
    edit.head = 2;
    edit_refused("z with a head, which are its columns", edit, "head");
    edit.head = -2, edit_refused("z with head -2", edit, "head");
    edit = (MiEdit){.op = MI_SET, .site = MI_mlp_out, .head = 1, .count = 1, .pos_end = 1};
    edit_refused("mlp_out with a head", edit, "head");
    edit = zero_z(1, 1), edit.op = (MiOp)17, edit_refused("an operation 17", edit, "operation");
    edit = zero_z(1, 1), edit.op = (MiOp)-1, edit_refused("an operation -1", edit, "operation");
    edit = zero_z(1, 1), edit.site = (MiSite)99, edit_refused("a site 99", edit, "site");
    edit = zero_z(1, 1), edit.first = INT_MAX, edit_refused("column 2^31 - 1", edit, "column");
    edit = zero_z(INT_MAX, 1), edit_refused("layer 2^31 - 1", edit, "layer");
    for (int head = -1; head <= 0; head++) {    /* what a struct of zeros says is no mistake */
        edit = zero_z(1, 0), edit.head = head;
        MiRun *run = fork_of(&edit, 1);
        CHECK(run && mi_head(run, 0, MI_z, 1, 0, T - 1)[0] == 0, "z with head %d: %s", head,
              mi_error());
        mi_free(run);
    }
}

/* ---- Reading ---- */

static void test_reading(void)
{
    static const int sites[] = {-1, MI_N_SITES, 1000, INT_MAX, INT_MIN};
    float logits[V];
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        MiSite site = (MiSite)sites[i];
        refused("mi_lens of no site", mi_lens(base, 0, site, 0, 0, 0, logits) < 0, "site");
        refused("mi_site of no site", !mi_site(base, 0, site, 0, 0), "site");
        refused("mi_head of no site", !mi_head(base, 0, site, 0, 0, 0), "site");
        CHECK(!mi_site_info(sites[i]), "mi_site_info: of no site");
    }
    refused("mi_lens of scores", mi_lens(base, 0, MI_scores, 0, 0, 0, logits) < 0, "lens");
    refused("mi_lens of z", mi_lens(base, 0, MI_z, 0, 0, 0, logits) < 0, "lens");
    refused("mi_lens of layer 2", mi_lens(base, 0, MI_resid_pre, 2, 0, 0, logits) < 0, "layer");
    refused("mi_lens of lane 1", mi_lens(base, 1, MI_resid_pre, 0, 0, 0, logits) < 0, "lane");
    refused("mi_lens of position 9", mi_lens(base, 0, MI_resid_pre, 0, T, 0, logits) < 0, "9");
    CHECK(mi_lens(base, 0, MI_resid_pre, 0, 0, 0, logits) == 0, "mi_lens: %s", mi_error());
}

/* ---- A reading that fails within a metric ---- */

static double reads_what_is_not_kept(void *context, const MiRun *run, int lane)
{
    (void)context;
    const float *x = mi_site(run, lane, MI_mlp_pre, 1, T - 1);
    return x ? (double)*x : NAN;
}

static double recovers(void *context, const MiRun *run, int lane)
{
    mi_site(run, lane, MI_mlp_pre, 1, T - 1);
    return answer(context, run, lane);
}

static double no_number(void *context, const MiRun *run, int lane)
{
    (void)context, (void)run, (void)lane;
    return NAN;
}

static int progressed;

static void progress(void *context, int done, int n)
{
    (void)context, (void)done, (void)n;
    progressed++;
    mi_site_info(-1);
}

static void test_metric(void)
{
    enum { CELLS = 3 };
    MiEdit  edits[CELLS];
    int     first[CELLS + 1], token = 3, wrong = V;
    double  values[CELLS];
    for (int i = 0; i < CELLS; i++) edits[i] = zero_z(i & 1, i), first[i] = i;
    first[CELLS] = CELLS;
    MiSweep sweep = {.trunk = base, .edits = edits, .first = first, .n_cells = CELLS, .read = T,
                     .metric = reads_what_is_not_kept, .progress = progress, .context = &token};
    refused("a metric that reads what is not kept", mi_sweep(&sweep, values) < 0, "mlp_pre");
    CHECK(progressed == 0, "a sweep that fails says %d times how far it is", progressed);
    sweep.metric = answer, sweep.context = &wrong;
    refused("a metric that reads token 31 of 31", mi_sweep(&sweep, values) < 0, "31");
    sweep.metric = no_number;
    mi_site(base, 9, MI_z, 0, 0);               /* an old error is not the metric's */
    CHECK(mi_sweep(&sweep, values) == 0 && isnan(values[0]), "a metric that is not a number: %s",
          mi_error());
    sweep.metric = recovers, sweep.context = &token;
    CHECK(mi_sweep(&sweep, values) == 0 && isfinite(values[0]), "a metric that recovers: %s",
          mi_error());
}

/* ---- Sizes ---- */

/* More rows than an int can count are refused before anything of that size is asked for. */
static void test_sizes(void)
{
    enum { LANES = 720000, ROWS = 3000 };
    MiModel *large = random_model_open((RandomModel){.n_layer = 1, .n_head = 2, .d_head = 1,
                                                     .n_ctx = ROWS, .n_vocab = 2});
    int     *zeros = calloc(ROWS, sizeof *zeros);
    MiLane  *lanes = malloc(LANES * sizeof *lanes);
    MiOptions few = {.keep = MI_KEEP(q), .threads = 1};
    MiRun *trunk = large && zeros && lanes ? mi_run(large, zeros, ROWS, NULL, &few) : NULL;
    CHECK(trunk, "a prompt of %d tokens: %s", ROWS, mi_error());
    for (int i = 0; i < LANES && trunk; i++) lanes[i] = (MiLane){.trunk = trunk};
    MiRun *fork = trunk ? mi_fork(lanes, 1, 0, MI_KEEP_NONE) : NULL;
    CHECK(fork, "one lane of %d rows: %s", ROWS, mi_error());
    mi_free(fork);
    if (trunk) refused("2,160,000,000 rows", !mi_fork(lanes, LANES, 0, MI_KEEP_NONE), "rows");
    mi_free(trunk);
    mi_close(large);
    free(zeros), free(lanes);
}

/* ---- One model, many threads ---- */

static int set_to_zero(void *context, const MiView *view, float *x, int n)
{
    (void)view;
    for (int i = 0; i < n; i++) x[i] = *(const float *)context;
    return 0;
}

typedef struct { int id, wrong; } Worker;
static float expected[T][V];        /* logits of each position without one head */

static void *work(void *argument)
{
    Worker *w = argument;
    for (int round = 0; round < 6; round++) {
        int     t = (w->id + round) % T, row = V + w->id;
        MiEdit  edit = zero_z(1, 1);
        static float zero;                      /* every other round by a function of ours */
        if (round & 1) edit.op = MI_CALL, edit.call = set_to_zero, edit.context = &zero;
        MiEdits list = {.at = &edit, .n = 1};
        MiOptions options = {.threads = 1, .naive = w->id & 1, .keep = MI_KEEP(z)};
        edit.pos = t;
        float logits[V], lens[V];
        MiLane lane = {.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1};
        MiRun *fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
        MiRun *own = mi_run(model, tokens, T, &list, &options);
        if (!fork || !own || mi_logits(fork, 0, T - 1, logits) < 0 ||
            memcmp(logits, expected[t], sizeof logits) ||
            mi_logits(own, 0, T - 1, logits) < 0 || memcmp(logits, expected[t], sizeof logits) ||
            mi_lens(base, 0, MI_resid_post, 1, t, 0, lens) < 0)
            w->wrong++;
        char want[40];                          /* errors are each thread's own */
        snprintf(want, sizeof want, "token %d ", row);
        if (mi_logits_of(base, 0, 0, &row, 1, logits) >= 0 ||
            strncmp(mi_error(), want, strlen(want)))
            w->wrong++;
        mi_free(fork), mi_free(own);
        MiEdits parsed = {0};
        if (mi_edits_parse(&parsed, model, NULL, tokens, T, "ablate", "L1H*=mean") < 0 ||
            mi_edits_bind(&parsed, base, NULL) < 0)
            w->wrong++;
        mi_edits_free(&parsed);
    }
    return NULL;
}

static void test_threads(void)
{
    enum { THREADS = 4 };
    pthread_t thread[THREADS];
    Worker    worker[THREADS];
    for (int t = 0; t < T; t++) {
        MiEdit edit = zero_z(1, 1);
        edit.pos = t;
        MiRun *fork = fork_of(&edit, 1);
        CHECK(fork && mi_logits(fork, 0, T - 1, expected[t]) == 0, "a fork: %s", mi_error());
        mi_free(fork);
    }
    for (int i = 0; i < THREADS; i++) {
        worker[i] = (Worker){i, 0};
        if (pthread_create(&thread[i], NULL, work, &worker[i])) exit(1);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(!worker[i].wrong, "thread %d: %d wrong results", i, worker[i].wrong);
    }
}

int main(void)
{
    model = random_model_open((RandomModel){.n_layer = 2, .n_head = 3, .d_head = 5, .n_ctx = 12,
                                            .n_vocab = V, .seed = 6});
    shape = model ? mi_shape(model) : (MiShape){0};
    base = model ? mi_run(model, tokens, T, NULL, &(MiOptions){.threads = 1}) : NULL;
    CHECK(base, "random model: %s", mi_error());
    if (base) {
        test_edits();
        test_reading();
        test_metric();
        test_threads();
    }
    mi_free(base);
    mi_close(model);
    test_sizes();
    return report();
}
