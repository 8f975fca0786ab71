/* drive_engine.c - cases for the exercises of mi.c. It is compiled with mi.c inside, so that it
 * reaches functions that are not in mi.h; -DWRONG="wrong_engine.h" adds formulas that are wrong. */
#ifndef ENGINE
#define ENGINE "mi.c"
#endif
#define main mi_main
#include ENGINE
#undef main
#include "drive.h"

static MiModel *small;

void course_open(void)
{
    small = mi_open("small.safetensors");
    if (!small) fprintf(stderr, "%s\n", mi_error()), exit(1);
}

/* What a case calls: the function to be written, or one of the wrong ones. */
typedef struct {
    void  (*softmax)(float *, int);
    void  (*gelu)(float *, const float *, int);
    float (*slope)(float);
    void  (*scores)(float *, size_t, const float *, int, const Keys *, int, int, int);
    void  (*mix)(float *, const float *, size_t, int, const Keys *, int, int, int);
    float (*sigma)(const MiRun *, const float *, float);
    void  (*normalize)(float *, const float *, float, float, const weight *, const weight *, int);
    void  (*mlp)(MiRun *, int, int, int);
    void  (*edit)(const MiRun *, const MiEdit *, float *, const float *, int, int);
    int   (*lens)(const MiRun *, int, MiSite, int, int, int, float *);
    int   (*sample)(const Command *, const float *, Choice *, int, int);
} Written;

typedef struct { const char *exercise, *says; Written f; } Variant;

#ifdef WRONG
#include WRONG
#else
static const Variant wrong[] = {{"", "", {0}}};
#endif

#ifndef STUDENT
static const Written right = { naive_softmax, naive_gelu, gelu_slope, naive_scores, naive_mix, sigma_of,
                               normalize, mlp, apply_edit, lens_row, sample };
#else
static const Written right = {
#ifdef HAS_softmax
    .softmax = student_naive_softmax,
#endif
#ifdef HAS_gelu
    .gelu = student_naive_gelu, .slope = student_gelu_slope,
#endif
#ifdef HAS_scores
    .scores = student_naive_scores,
#endif
#ifdef HAS_mix
    .mix = student_naive_mix,
#endif
#ifdef HAS_layernorm
    .sigma = student_sigma_of, .normalize = student_normalize,
#endif
#ifdef HAS_mlp
    .mlp = student_mlp,
#endif
#ifdef HAS_apply_edit
    .edit = student_apply_edit,
#endif
#ifdef HAS_lens
    .lens = student_lens_row,
#endif
#ifdef HAS_sample
    .sample = student_sample,
#endif
};
#endif

/* ---- softmax ---- */

static void do_softmax(const Written *f, int which, uint64_t seed, Out *out)
{
    static const char *const names[] = {
        "5 scores", "scores above 100", "keys that are cut off", "all keys cut off", "one key",
        "a NaN among the scores", "scores below -100",
    };
    float s[24];
    int   n = which == 0 ? 5 : which == 4 ? 1 : 9;
    fill(s, n, which == 1 ? 150 : 3, &seed);
    if (which == 1) s[2] = 151;
    for (int j = 0; j < n && which == 6; j++) s[j] -= 110;
    for (int j = 0; j < n; j++)
        if (which == 3 || (which == 2 && j >= 6)) s[j] = -INFINITY;
    if (which == 5) s[4] = NAN;
    strcpy(out->name, names[which]);
    s[n] = 77;
    f->softmax(s, n);
    put(out, s[n], "!writes behind the last of n = %d scores", n);
    for (int j = 0; j < n; j++) put(out, s[j], "element %d", j);
}

/* ---- gelu ---- */

static void do_gelu(const Written *f, int which, uint64_t seed, Out *out)
{
    static const float large[] = {-80, -20, -6, 6, 20, 80};
    float x[12], y[12], before[12];
    fill(x, 12, 3, &seed);
    if (which & 1) memcpy(x, large, sizeof large);
    memcpy(before, x, sizeof x);
    snprintf(out->name, sizeof out->name, "%s, %s", which < 2 ? "naive_gelu" : "gelu_slope",
             which & 1 ? "large numbers too" : "numbers about 0");
    if (which < 2) f->gelu(y, x, 12);
    for (int i = 0; i < 12; i++) {
        double wanted = which < 2 ? y[i] : f->slope(x[i]);
        put(out, wanted, "%s of %.3f", which < 2 ? "GELU" : "the slope", before[i]);
    }
}

/* ---- scores and mix: 4 rows of 2 heads, whose keys lie in three places ---- */

enum { d2 = 6, D2 = 12, ROWS = 4, FIRST = 3, KEYS2 = FIRST + ROWS - 1, S2 = 16 };

static Keys three_places(const float key[KEYS2][D2], float own[KEYS2][D2], float last[D2])
{
    memcpy(own, key[2], (KEYS2 - 2) * sizeof *own);
    memcpy(last, key[KEYS2 - 1], sizeof key[0]);
    for (int c = 0; c < D2; c++) own[KEYS2 - 3][c] = 1e3f;     /* the last row is not here */
    return (Keys){.below = key[0], .own = own[0], .last = last, .t0 = 2, .n = KEYS2, .stride = D2,
                  .scale = 0.40824829f};
}

/* What nobody writes, to see where something is written. */
static void mark(float *x, int n) { for (int i = 0; i < n; i++) x[i] = 777; }

static void do_scores(const Written *f, int which, uint64_t seed, Out *out)
{
    float key[KEYS2][D2], own[KEYS2][D2], last[D2], q[ROWS][D2], s[ROWS][S2];
    fill(key[0], KEYS2 * D2, 1.5f, &seed);
    fill(q[0], ROWS * D2, 1.5f, &seed);
    Keys keys = three_places(key, own, last);
    int  head = which & 1, rows = which < 2 ? ROWS : 1;
    if (rows == 1) keys.n = FIRST, keys.last = key[FIRST - 1];
    snprintf(out->name, sizeof out->name, "head %d, %s", head, rows > 1 ? "4 rows" : "one row");
    mark(s[0], ROWS * S2);
    f->scores(s[0], S2, q[0] + head * d2, rows, &keys, head * d2, FIRST, d2);
    for (int r = 0; r < rows; r++)
        for (int j = FIRST + r; j < S2; j++)
            put(out, s[r][j], "!row %d reads position %d, the future", r, j);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < FIRST + r; j++) put(out, s[r][j], "row %d, key %d", r, j);
}

static void do_mix(const Written *f, int which, uint64_t seed, Out *out)
{
    float value[KEYS2][D2], own[KEYS2][D2], last[D2], pattern[ROWS][S2], z[2][ROWS][D2];
    fill(value[0], KEYS2 * D2, 2, &seed);
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < S2; j++) pattern[r][j] = fabsf(draw(&seed)) / 3;
    int head = which & 1, rows = which < 2 ? ROWS : 1;
    snprintf(out->name, sizeof out->name, "head %d, %s", head, rows > 1 ? "4 rows" : "one row");
    mark(z[0][0], ROWS * D2);
    Keys values = three_places(value, own, last);
    if (rows == 1) values.n = FIRST, values.last = value[FIRST - 1];
    f->mix(z[0][0] + head * d2, pattern[0], S2, rows, &values, head * d2, FIRST, d2);
    for (int r = 0; r < rows; r++)
        put(out, z[0][r][head * d2] == 777, "!z + %d * values->stride, row %d, is not written", r, r);
    for (int r = 0; r < rows; r++)
        for (int p = FIRST + r; p < KEYS2 && rows > 1; p++) {
            float other[KEYS2][D2];                     /* as it was, but for the value at p */
            memcpy(other, value, sizeof other);
            for (int c = 0; c < D2; c++) other[p][c] += 50;
            Keys these = three_places(other, own, last);
            mark(z[1][0], ROWS * D2);
            f->mix(z[1][0] + head * d2, pattern[0], S2, rows, &these, head * d2, FIRST, d2);
            put(out, memcmp(z[0][r] + head * d2, z[1][r] + head * d2, d2 * sizeof(float)) != 0,
                "!row %d reads position %d, the future", r, p);
        }
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < d2; c++) put(out, z[0][r][head * d2 + c], "row %d, column %d", r, c);
        put(out, z[0][r][(1 - head) * d2], "!row %d: writes into the other head's columns", r);
    }
}

/* ---- layernorm ---- */

static void do_layernorm(const Written *f, int which, uint64_t seed, Out *out)
{
    static const char *const names[] = {
        "sigma_of", "sigma_of a row of equal numbers", "sigma_of a row too large to be squared",
        "normalize", "normalize with a given mean and sigma",
    };
    int   D = small->shape.d_model;
    MiRun run = {.model = small, .kernel = &naive_kernels, .threads = 1};
    float x[128], y[64], gamma[64], beta[64], mean = 0;     /* behind the row: what nobody should read */
    fill(x, 128, 2, &seed);
    fill(gamma, D, 1, &seed);
    fill(beta, D, 1, &seed);
    strcpy(out->name, names[which]);
    for (int i = 0; i < D; i++) {
        if (which == 1) x[i] = 3;
        if (which == 2) x[i] *= 1e30f;
        mean += x[i] / D;
    }
    if (which < 3) {
        put(out, (which == 1 ? 1000 : 1) * f->sigma(&run, x, mean), which == 1 ? "1000 sigma" : "sigma");
        return;
    }
    f->normalize(y, x, which == 3 ? mean : 0.3f, which == 3 ? 1.2f : 3, gamma, beta, D);
    for (int i = 0; i < D; i++) put(out, y[i], "element %d", i);
}

/* ---- mlp: a half-layer of small.safetensors between two sums ---- */

static MiRun *blank_run(int n, uint64_t *seed)
{
    MiRun *run = new_run(small, 1, n, n, MI_KEEP_ALL, 0);
    if (!run || allocate_sites(run, NULL) < 0) exit(1);
    run->kernel = &naive_kernels;
    run->threads = 1;
    run->n_rows = run->lanes[0].n_pos = n;
    run->lanes[0].last_row = n - 1;
    for (int t = 0; t < n; t++) run->row_pos[t] = t;
    for (int site = 0; site < MI_N_SITES; site++)
        for (int l = 0; l < n_layers_of(small, site); l++)
            for (int t = 0; t < n; t++)
                fill(at(run, site, l, t), width_of(small, site, run->key_stride), 1, seed);
    return run;
}

static void do_mlp(const Written *f, int which, uint64_t seed, Out *out)
{
    static const MiSite shown[] = {MI_resid_mid, MI_ln2_scale, MI_ln2, MI_mlp_pre, MI_mlp_post,
                                   MI_mlp_out, MI_resid_post};
    int    L = small->shape.n_layer, l = which ? L - 1 : 0, n = 3;
    MiRun *run = blank_run(n, &seed);
    if (which) run->first_read = 2;
    snprintf(out->name, sizeof out->name, "%s", which ?
             "the last layer, of which only the last row is read" : "layer 0, three rows");
    for (int t = 0; t < n; t++) *at(run, MI_resid_post, l, t) = 777;
    f->mlp(run, l, 0, n);
    for (int t = 0; t < 2 && which; t++)
        put(out, *at(run, MI_resid_post, l, t), "!computes row %d, which nobody reads (first_needed)", t);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        for (int t = which ? 2 : 0; t < n; t++)
            for (int c = 0; c < 5 && c < width_of(small, shown[i], 0); c++)
                put(out, at(run, shown[i], l, t)[c], "%s, row %d, element %d", SITES[shown[i]].name, t,
                    c);
    mi_free(run);
}

/* ---- apply_edit ---- */

static void do_apply_edit(const Written *f, int which, uint64_t seed, Out *out)
{
    static const struct { MiOp op; float amount; int has_value, infinite; const char *name; } of[] = {
        {MI_SET, 0.5f, 1, 0, "MI_SET to a value"}, {MI_SET, 0.25f, 0, 1, "MI_SET to an amount"},
        {MI_MIX, 0.3f, 1, 0, "MI_MIX"}, {MI_ADD, -1.5f, 1, 0, "MI_ADD"},
        {MI_SCALE, 0.7f, 0, 0, "MI_SCALE"}, {MI_PROJECT, 1, 1, 0, "MI_PROJECT"},
        {MI_NOISE, 0.6f, 0, 0, "MI_NOISE"},
    };
    enum { N = 8 };
    MiRun  run = {.model = small, .kernel = &naive_kernels, .threads = 1};
    MiEdit edit = {.op = of[which].op, .site = MI_resid_pre, .layer = 1, .first = 3, .count = N,
                   .pos = 2, .pos_end = 5, .amount = of[which].amount, .seed = 11, .sample = 2};
    float  x[N + 1], v[N], norm = 0;
    fill(x, N + 1, 2, &seed);
    fill(v, N, 1, &seed);
    for (int i = 0; i < N; i++) norm += v[i] * v[i];
    for (int i = 0; i < N && edit.op == MI_PROJECT; i++) v[i] /= sqrtf(norm);
    if (of[which].infinite) x[1] = INFINITY;
    x[N] = 777;
    strcpy(out->name, of[which].name);
    f->edit(&run, &edit, x, of[which].has_value ? v : NULL, N, 4);
    put(out, x[N], "!%s writes behind the last of n numbers", of[which].name);
    for (int i = 0; i < N; i++) put(out, x[i], "element %d", i);
}

/* ---- lens ---- */

static void do_lens(const Written *f, int which, uint64_t seed, Out *out)
{
    MiRun *run = blank_run(4, &seed);
    float  y[64] = {0};
    int    D = small->shape.d_model, final = which == 1 || which == 2;
    MiSite site = which == 2 ? MI_attn_out : which == 4 ? MI_mlp_post : MI_resid_pre;
    snprintf(out->name, sizeof out->name, which == 3 ? "an address that does not exist" :
             which == 4 ? "a site whose rows are not of width D" : "%s of layer 1, final = %d",
             SITES[site].name, final);
    for (int t = 0; t < 4; t++) *at(run, MI_ln_f_scale, 0, t) = 2.5f + t;
    put(out, f->lens(run, 0, site, which == 3 ? 99 : 1, 2, final, y), "what it returns");
    for (int i = 0; i < D && which < 3; i++) put(out, y[i], "element %d", i);
    mi_free(run);
}

/* ---- sample ---- */

static void do_sample(const Written *f, int which, uint64_t seed, Out *out)
{
    static const struct { double temp, top_p; const char *name; } of[] = {
        {0, -1, "temp 0"}, {1, -1, "temp 1"}, {0.4, -1, "temp .4"}, {2.5, -1, "temp 2.5"},
        {1, 0.6, "temp 1, top_p .6"}, {-1, 0.8, "top_p .8 alone"}, {0.7, 0, "temp .7, top_p 0"},
    };
    enum { V = 12 };
    float   logits[V];
    Choice  choices[V];
    Command c = {.temp = of[which].temp, .top_p = of[which].top_p, .seed = 5};
    fill(logits, V, 2, &seed);
    strcpy(out->name, of[which].name);
    for (int step = 0; step < 40; step++)
        put(out, f->sample(&c, logits, choices, V, step), "the token of step %d", step);
}

/* ---- The table ---- */

static const struct {
    const char *name;
    int         n_cases;
    void      (*run)(const Written *f, int which, uint64_t seed, Out *out);
} exercises[] = {
    {"softmax", 7, do_softmax}, {"gelu", 4, do_gelu}, {"scores", 4, do_scores}, {"mix", 4, do_mix},
    {"layernorm", 5, do_layernorm}, {"mlp", 2, do_mlp}, {"apply_edit", 7, do_apply_edit},
    {"lens", 5, do_lens}, {"sample", 7, do_sample},
};
#define CASES(i) exercises[i].n_cases
#include "variants.h"
