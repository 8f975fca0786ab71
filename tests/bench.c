/* bench.c - how fast is it, as a share of what this machine can do?
 *
 *     make bench                      the whole table
 *     build/bench linear prefill      only rows whose name begins so
 *
 * Beside each row the machine itself is measured: multiply-adds on registers, and reading memory.
 * The row's limit is the time that its arithmetic or its bytes would take at that speed. Times are
 * medians of a few repeats, on a random model of the shape of GPT-2 (124M parameters).
 */
/* What runs once in mi.c is optimized less; what is measured here must not be, and has to have the
 * options of the kernels for them to be inlined. */
#pragma GCC push_options
#include "../mi.c"
#pragma GCC pop_options
#ifndef __clang__
#pragma GCC optimize("fp-contract=off")
#endif
#include "random_model.h"

#include <sys/wait.h>
#include <time.h>

enum { MAX_REPEATS = 64 };

static char **only;                         /* the rows asked for; NULL: all */

/* One thread is measured in processor time, so that others on the machine cost it no more than
 * their share of the caches; several threads wait for each other, and for the clock on the wall. */
static clockid_t which_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(which_clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* ---- Repeating ---- */

typedef struct {
    const MiModel *model;
    MiRun   *run;
    int     *tokens, n, threads;            /* the prompt */
    int      rows, in, out;                 /* a linear layer */
    const weight *W, *b;
    float   *x, *y, *logits;
    MiEdit  *edits;                         /* a sweep: cell i has edits[i] */
    int     *first, n_cells, cell;
    uint64_t keep;
    const char *path;
    double   peak, bandwidth;               /* multiply-adds and bytes a second, just now */
} Work;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int wanted(const char *name)
{
    if (!only) return 1;
    for (char **o = only; *o; o++)
        if (strncmp(name, *o, strlen(*o)) == 0) return 1;
    return 0;
}

/* ---- The machine ---- */

#ifdef _OPENMP
#define TEAM(threads) (threads)
#else
#define TEAM(threads) 1
#endif

/* Independent chains of fma on registers: nothing to wait for, nothing to read. */
static __attribute__((noinline)) float spin(long n, float start)
{
    enum { CHAINS = 12 };
    vec sum[CHAINS], a = all(start), b = all(start * 0.5f);
    for (int i = 0; i < CHAINS; i++) sum[i] = all(start + i);
    for (long k = 0; k < n; k++) {
        #pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sum[i] = fma_vec(a, b, sum[i]);
    }
    vec total = {0};
    for (int i = 0; i < CHAINS; i++) total += sum[i];
    return ((float *)&total)[0];
}

/* What else runs on a machine changes from second to second: the median of several, no best. */
static double measure_peak(int threads)
{
    (void)threads;
    enum { REPEATS = 15 };
    const double adds = 12 * VEC;
    double speed[REPEATS];
    long   n = 1 << 16;
    float  sink = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        double start = now();
        #pragma omp parallel num_threads(threads) reduction(+ : sink)
        sink += spin(n, 1e-3f + sink * 1e-30f);
        speed[repeat] = TEAM(threads) * n * adds / (now() - start);
    }
    qsort(speed, REPEATS, sizeof *speed, by_size);
    return sink == 1 ? 1 : speed[REPEATS / 2];
}

/* Add up 256 MB, in pieces. */
static double measure_bandwidth(int threads)
{
    (void)threads;
    enum { PIECES = 15 };
    const size_t n = 4 << 20;                           /* floats of a piece */
    static float *memory;
    double speed[PIECES];
    float  sink = 0;
    if (!memory) {
        memory = malloc(PIECES * n * sizeof(float));
        if (!memory) exit(1);
        for (size_t i = 0; i < PIECES * n; i++) memory[i] = 1;
    }
    for (int piece = 0; piece < PIECES; piece++) {
        double start = now();
        #pragma omp parallel for num_threads(threads) reduction(+ : sink)
        for (int part = 0; part < 16; part++) {
            const float *p = memory + piece * n + n / 16 * part;
            vec sum[8] = {0};
            for (size_t i = 0; i < n / 16; i += 8 * VEC)
                for (int j = 0; j < 8; j++) {
                    if (j * VEC % LINE == 0) fetch(beyond(p, i + 2048 + j * VEC));
                    sum[j] += load(p + i + j * VEC);
                }
            for (int j = 1; j < 8; j++) sum[0] += sum[j];
            sink += ((float *)&sum[0])[0];
        }
        speed[piece] = n * sizeof(float) / (now() - start);
    }
    qsort(speed, PIECES, sizeof *speed, by_size);
    return sink == 1 ? 1 : speed[PIECES / 2];
}

/* ---- Measuring ---- */

/* The median time of one call, from three or about half a second. The speed of the machine is
 * measured before, between and after: its median is what the row is compared with. */
static void call_start(Work *w);

static double median(void (*call)(Work *), Work *work)
{
    enum { LOOKS = 3 };
    double times[MAX_REPEATS], peak[LOOKS], bandwidth[LOOKS], total = 0;
    int n = 0, looks = 0;
    which_clock = work->threads > 1 || call == call_start ? CLOCK_MONOTONIC
                                                          : CLOCK_PROCESS_CPUTIME_ID;
    while ((n < 3 && total < 3) || (total < 0.5 && n < MAX_REPEATS)) {
        if (looks < LOOKS - 1 && total >= 0.25 * looks) {
            peak[looks] = measure_peak(work->threads);
            bandwidth[looks++] = measure_bandwidth(work->threads);
        }
        double start = now();
        call(work);
        total += times[n++] = now() - start;
    }
    while (looks < LOOKS) {
        peak[looks] = measure_peak(work->threads);
        bandwidth[looks++] = measure_bandwidth(work->threads);
    }
    qsort(times, n, sizeof *times, by_size);
    qsort(peak, LOOKS, sizeof *peak, by_size);
    qsort(bandwidth, LOOKS, sizeof *bandwidth, by_size);
    work->peak = peak[LOOKS / 2];
    work->bandwidth = bandwidth[LOOKS / 2];
    return times[n / 2];
}

/* Print one row: its time, and the limit that its multiply-adds and its bytes set together. */
static void line(const char *name, const Work *w, double seconds, double adds, double bytes)
{
    double compute = adds / w->peak, memory = bytes / w->bandwidth;
    double limit = compute > memory ? compute : memory;
    printf("%-30s %d %10.3f ms  %7.1f GFLOP/s of %5.1f %6.1f GB/s of %4.1f %5.0f %% %6.2f x\n",
           name, w->threads, seconds * 1e3, 2e-9 * adds / seconds, 2e-9 * w->peak,
           1e-9 * bytes / seconds, 1e-9 * w->bandwidth, 100 * limit / seconds, seconds / limit);
    fflush(stdout);
}

/* ---- Rows of the table ---- */

static void call_linear(Work *w)
{
    fast_kernels.linear(w->y, w->x, w->rows, w->in, w->out, w->W, w->out, w->b, w->threads);
}

/* Each repeat takes the matrix of the next layer, as a forward pass does: it is not cached. */
static void call_linear_cold(Work *w)
{
    static int l;
    const Block *block = &w->model->block[l++ % w->model->shape.n_layer];
    w->W = w->out == 2304 ? block->W_QKV : w->out == 3072 ? block->W_in :
           w->in == 3072 ? block->W_out : block->W_O;
    call_linear(w);
}

static void linears(Work *w)
{
    static const int shapes[][2] = {{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}};
    static const int rows[] = {1, 2, 4, 8, 16, 64, 256, 1024};
    enum { N = sizeof rows / sizeof *rows };
    w->b = w->model->block[0].b_in;
    for (int s = 0; s < 4; s++)
        for (int r = 0; r < N; r++) {
            char name[64];
            w->in = shapes[s][0], w->out = shapes[s][1], w->rows = rows[r];
            snprintf(name, sizeof name, "linear %d -> %d, T = %d", w->in, w->out, w->rows);
            if (!wanted(name)) continue;
            double seconds = median(call_linear_cold, w);
            line(name, w, seconds, (double)w->rows * w->in * w->out,
                 4.0 * w->in * w->out);
        }
}

static void call_unembed(Work *w)
{
    const MiModel *m = w->model;
    fast_kernels.unembed(w->logits, w->x, w->rows, m->W_U, m->shape.n_vocab, m->shape.d_model,
                         w->threads);
}

static void unembeddings(Work *w)
{
    static const int rows[] = {1, 4, 16, 64};
    MiShape s = w->model->shape;
    double size = (double)s.n_vocab * s.d_model;
    for (int r = 0; r < 4; r++) {
        char name[64];
        w->rows = rows[r];
        snprintf(name, sizeof name, "unembed, T = %d", w->rows);
        if (wanted(name))
            line(name, w, median(call_unembed, w), w->rows * size, 4 * size);
    }
}

static double adds_of(const MiShape *s, int rows, int first, int logits)
{
    double D = s->d_model, F = s->d_mlp, T = rows;
    double attention = 0;
    for (int t = first; t < first + rows; t++) attention += 2 * D * (t + 1);
    return s->n_layer * (T * (4 * D * D + 2 * D * F) + attention) + logits * D * s->n_vocab;
}

static double bytes_of(const MiShape *s)
{
    double D = s->d_model, F = s->d_mlp;
    return 4 * (s->n_layer * (4 * D * D + 2 * D * F) + D * s->n_vocab);
}

static void call_prefill(Work *w)
{
    MiOptions options = {.keep = w->keep, .threads = w->threads};
    MiRun *run = mi_run(w->model, w->tokens, w->n, NULL, &options);
    if (!run || mi_logits(run, 0, w->n - 1, w->logits) < 0) exit(1);
    mi_free(run);
}

static void call_all_logits(Work *w)
{
    const MiModel *m = w->model;
    MiOptions options = {.keep = w->keep, .threads = w->threads};
    MiRun *run = mi_run(m, w->tokens, w->n, NULL, &options);
    if (!run) exit(1);
    for (int t = 0; t < w->n; t += 64)
        run->kernel->unembed(w->logits, at(run, MI_ln_f, 0, t), min_int(64, w->n - t), m->W_U,
                             m->shape.n_vocab, m->shape.d_model, w->threads);
    mi_free(run);
}

static void prefills(Work *w)
{
    static const int lengths[] = {16, 256, 1024};
    MiShape s = w->model->shape;
    for (int i = 0; i < 3; i++) {
        char name[64];
        w->n = lengths[i];
        snprintf(name, sizeof name, "prefill, last logits, T = %d", w->n);
        if (wanted(name))
            line(name, w, median(call_prefill, w), adds_of(&s, w->n, 0, 1),
                 bytes_of(&s));
        snprintf(name, sizeof name, "prefill, all logits, T = %d", w->n);
        if (wanted(name))
            line(name, w, median(call_all_logits, w), adds_of(&s, w->n, 0, w->n),
                 bytes_of(&s));
    }
}

static void call_decode(Work *w)
{
    if (mi_append(w->run, w->tokens + w->run->n_rows, 1) < 0 ||
        mi_logits(w->run, 0, w->run->n_rows - 1, w->logits) < 0)
        exit(1);
}

static void decode(Work *w)
{
    if (!wanted("decode")) return;
    MiOptions options = {.keep = w->keep, .threads = w->threads, .capacity = 128};
    w->run = mi_run(w->model, w->tokens, 16, NULL, &options);
    if (!w->run) exit(1);
    double seconds = median(call_decode, w);
    line("decode, one token", w, seconds, 0, bytes_of(&w->model->shape));
    mi_free(w->run);
}

/* ---- Sweeps over a prompt of 16 tokens: the logit difference of two tokens in every cell ---- */

static double logit_diff(void *context, const MiRun *run, int lane)
{
    const int names[2] = {262, 257};
    float logits[2];
    (void)context;
    if (mi_logits_of(run, lane, mi_n_tokens(run, lane) - 1, names, 2, logits) < 0) exit(1);
    return logits[0] - logits[1];
}

/* The prompt's own run belongs to the sweep. */
static void call_sweep(Work *w)
{
    MiOptions options = {.keep = MI_KEEP_NONE, .threads = w->threads};
    MiRun *trunk = mi_run(w->model, w->tokens, w->n, NULL, &options);
    double *values = malloc(w->n_cells * sizeof *values);
    MiSweep sweep = {.trunk = trunk, .edits = w->edits, .first = w->first, .n_cells = w->n_cells,
                     .read = w->n, .metric = logit_diff};
    if (!trunk || !values || mi_sweep(&sweep, values) < 0) exit(1);
    free(values);
    mi_free(trunk);
}

/* One cell of the sweep the plain way: the whole pass with its edit. */
static void call_whole_pass(Work *w)
{
    w->cell = (w->cell + 37) % w->n_cells;
    MiEdits edits = {.at = w->edits + w->cell, .n = 1};
    MiOptions options = {.keep = MI_KEEP_CACHE, .threads = w->threads};
    MiRun *run = mi_run(w->model, w->tokens, w->n, &edits, &options);
    if (!run) exit(1);
    logit_diff(NULL, run, 0);
    mi_free(run);
}

/* One cell for each layer, each head (or once, for all of resid_pre) and each position (or once,
 * for all of them): set it to zero. `adds`: what the cells' cones need. Above the edit that is
 * every row from its position on, but in the last layer, beside keys and values, only the last. */
static void sweep(Work *w, const char *name, MiSite site, int each_pos)
{
    if (!wanted(name)) return;
    MiShape s = w->model->shape;
    double D2 = (double)s.d_model * s.d_model, adds = 0;
    int heads = site == MI_z ? s.n_head : 1, width = s.d_model / heads;
    w->n = 16;
    w->n_cells = 0;
    for (int l = 0; l < s.n_layer; l++)
        for (int h = 0; h < heads; h++)
            for (int t = 0; t < (each_pos ? w->n : 1); t++) {
                int rows = w->n - t, above = s.n_layer - 1 - l;
                w->first[w->n_cells] = w->n_cells;
                w->edits[w->n_cells++] = (MiEdit){
                    .op = MI_SET, .site = site, .layer = l, .head = -1, .first = h * width,
                    .count = width, .pos = t, .pos_end = each_pos ? t + 1 : w->n};
                if (above > 0) adds += ((above - 1) * 12 + 2) * rows * D2 + 10 * D2;
                if (above > 0) adds += (site == MI_z ? 9 : 12) * rows * D2;
                else if (site != MI_z) adds += (2 * rows + 10) * D2;
                else if (rows == 1 || !each_pos) adds += 9 * D2;
            }
    w->first[w->n_cells] = w->n_cells;
    double seconds = median(call_sweep, w), whole = median(call_whole_pass, w) * w->n_cells;
    line(name, w, seconds, adds, 0);
    printf("  as whole passes, one a cell  %d %10.3f ms  %41.1f x the sweep's time\n", w->threads,
           whole * 1e3, whole / seconds);
    fflush(stdout);
}

static void sweeps(Work *w)
{
    sweep(w, "ablate every head", MI_z, 0);
    sweep(w, "ablate head x position", MI_z, 1);
    sweep(w, "ablate resid_pre x position", MI_resid_pre, 1);
}

/* A new process: open the model, run five tokens, choose the next. */
static void call_start(Work *w)
{
    pid_t child = fork();
    if (child == 0) {
        char threads[8];
        snprintf(threads, sizeof threads, "%d", w->threads);
        execl("/proc/self/exe", "bench", "--first-token", w->path, threads, (char *)NULL);
        _exit(1);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) exit(1);
}

static int first_token(const char *path, int threads)
{
    int tokens[5] = {464, 3290, 318, 257, 845}, best;
    MiModel *model = mi_open(path);
    MiOptions options = {.keep = MI_KEEP_CACHE, .threads = threads};
    MiRun *run = model ? mi_run(model, tokens, 5, NULL, &options) : NULL;
    float *logits = model ? malloc(model->shape.n_vocab * sizeof(float)) : NULL;
    if (!run || !logits || mi_logits(run, 0, 4, logits) < 0) return 1;
    mi_top(logits, model->shape.n_vocab, 1, &best);
    free(logits);
    mi_free(run);
    mi_close(model);
    return 0;
}

/* Where the time of a prefill goes, from calls of each kernel on as many numbers. */
static void profile(Work *w)
{
    if (!wanted("profile")) return;
    MiShape s = w->model->shape;
    w->n = 256;
    double whole = median(call_prefill, w);
    MiOptions options = {.keep = w->keep, .threads = w->threads};
    MiRun *run = mi_run(w->model, w->tokens, w->n, NULL, &options);
    if (!run) exit(1);
    double spent[5] = {0};
    for (int repeat = 0; repeat < 5; repeat++)
        for (int l = 0; l < s.n_layer; l++) {
            double t0 = now();
            layernorm(run, MI_resid_pre, MI_ln1_scale, MI_ln1, l, w->model->block[l].ln1_gamma,
                      w->model->block[l].ln1_beta, 0, w->n);
            layernorm(run, MI_resid_mid, MI_ln2_scale, MI_ln2, l, w->model->block[l].ln2_gamma,
                      w->model->block[l].ln2_beta, 0, w->n);
            double t1 = now();
            attention_scores(run, l, 0, w->n);
            double t2 = now();
            attention_pattern(run, l, 0, w->n);
            double t3 = now();
            attention_z(run, l, 0, w->n);
            double t4 = now();
            activate(run, l, 0, w->n);
            double t5 = now();
            spent[0] += t1 - t0, spent[1] += t2 - t1, spent[2] += t3 - t2, spent[3] += t4 - t3;
            spent[4] += t5 - t4;
        }
    mi_free(run);
    double percent = 100 / 5 / whole;
    printf("profile of prefill, T = 256    %d  LayerNorm %.1f %%, scores %.1f %%, softmax %.1f %%, z "
           "%.1f %%, GELU %.1f %%\n", w->threads, spent[0] * percent, spent[1] * percent,
           spent[2] * percent, spent[3] * percent, spent[4] * percent);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--first-token")) return first_token(argv[2], atoi(argv[3]));
    only = argc > 1 ? argv + 1 : NULL;
    RandomModel shape = {.n_layer = 12, .n_head = 12, .d_head = 64, .n_ctx = 1024,
                         .n_vocab = 50257, .blanks = 3};
    Work w = {.path = random_model_file(shape), .keep = MI_KEEP_CACHE};
    w.model = mi_open(w.path);
    w.tokens = calloc(1024, sizeof(int));
    MiRun rows = {.capacity = 1024};                    /* the memory of runs has large pages */
    if (take_memory(&rows, 2 * 1024 * 3072 * sizeof(float), NULL) < 0) return 1;
    w.x = rows.memory.at;
    w.y = w.x + 1024 * 3072;
    w.logits = calloc(64 * 50257, sizeof(float));
    w.edits = calloc(144 * 16, sizeof *w.edits);
    w.first = calloc(144 * 16 + 1, sizeof *w.first);
    if (!w.model || !w.tokens || !w.logits || !w.edits || !w.first) return 1;
    for (int t = 0; t < 1024; t++) w.tokens[t] = t * 41 % 50257;
    for (int i = 0; i < 1024 * 3072; i++) w.x[i] = (i % 1001 - 500) * 1e-3f, w.y[i] = 0;
    printf("Vectors of %d floats. Share and ratio: of the time that the arithmetic would take at "
           "the peak of\n1 or 2 threads, or the bytes at their speed of reading, whichever is "
           "longer.\n\n", VEC);
    for (w.threads = 1; w.threads <= 2; w.threads++) {
        linears(&w);
        unembeddings(&w);
        prefills(&w);
        profile(&w);
        decode(&w);
        if (wanted("start"))
            line("start to first token", &w, median(call_start, &w), 0, bytes_of(&w.model->shape));
        sweeps(&w);
    }
    release(&rows.memory);
    free(w.tokens), free(w.logits), free(w.first), free(w.edits);
    mi_close((MiModel *)w.model);
    return 0;
}
