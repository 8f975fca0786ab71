/* test_gradient.c - mi_gradient() is the derivative of what the forward pass computes.
 *
 * The judge of most checks is the forward pass itself: numbers of a site are moved up and down by
 * edits, and the metric is measured (finite differences, single numbers and whole sites). Then
 * PyTorch in float64 (tests/golden/gradient.golden, by make_gradient.py), identities that hold for
 * any model, equal bits, and what is refused. The model is random, and its metric random weights of
 * all logits. */
#include "check.h"
#include "mi.h"
#include "random_model.h"

#include <math.h>

enum { T = 8, POS = 6, MAX_V = 64, PER_SITE = 6, LAST = 1000 };

static const MiOptions ONE_THREAD = {.threads = 1};
static uint64_t state = 99;
static double   worst_number, worst_direction;         /* errors of finite differences */

/* ---- What is differentiated ---- */

static int   n_vocab;
static float dlogits[MAX_V];

static double metric(const MiRun *run, int lane)
{
    float  logits[MAX_V];
    double sum = 0;
    if (mi_logits(run, lane, POS, logits) < 0) return NAN;
    for (int i = 0; i < n_vocab; i++) sum += (double)dlogits[i] * logits[i];
    return sum;
}

static void new_metric(const MiModel *model)
{
    n_vocab = mi_shape(model).n_vocab;
    for (int i = 0; i < n_vocab; i++) dlogits[i] = random_float(&state);
}

static int is_keys(int site) { return mi_site_info(site)->width == MI_KEYS; }
static int layers_of(const MiModel *m, int site)
{
    return mi_site_info(site)->place == MI_BLOCK ? mi_shape(m).n_layer : 1;
}
static int width_of(const MiModel *m, int site)        /* of a row, without heads of keys */
{
    MiShape s = mi_shape(m);
    MiWidth w = mi_site_info(site)->width;
    return w == MI_ONE ? 1 : w == MI_D_MLP ? s.d_mlp : s.d_model;
}
static int heads_of(const MiModel *m, int site) { return is_keys(site) ? mi_shape(m).n_head : 1; }

/* One row of a site, of one head if it has keys, and how long it is. */
static const float *row(const MiModel *m, const MiRun *run, int lane, int site, int l, int h, int t,
                        int *n)
{
    *n = is_keys(site) ? t + 1 : width_of(m, site);
    return is_keys(site) ? mi_head(run, lane, site, l, h, t) : mi_site(run, lane, site, l, t);
}

/* The size of a site's values: root of their mean square. */
static double size_of(const MiModel *m, const MiRun *run, int site, int l)
{
    double sum = 0, count = 0;
    for (int t = 0; t <= POS; t++)
        for (int h = 0; h < heads_of(m, site); h++) {
            int n;
            const float *x = row(m, run, 0, site, l, h, t, &n);
            for (int i = 0; i < n; i++)
                if (isfinite(x[i])) sum += (double)x[i] * x[i], count++;
        }
    return sqrt(sum / count) + 1e-3;
}

/* m'(0) of m(h), from four values: the error is of the order h^4. */
static double slope(const double m[4], double h)       /* at h, -h, 2h, -2h */
{
    return (8 * (m[0] - m[1]) - (m[2] - m[3])) / (12 * h);
}
static const float STEPS[4] = {1, -1, 2, -2};

/* What the metric does when edits (one or more, all with these values) are added h times. */
static double measured(const MiRun *trunk, const MiEdit *edits, int n, float h)
{
    MiEdit moved[4][64];
    MiLane lanes[4];
    double m[4];
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < n; i++) moved[s][i] = edits[i], moved[s][i].amount = h * STEPS[s];
        lanes[s] = (MiLane){.trunk = trunk, .edits = moved[s], .n_edits = n, .t0 = -1};
    }
    MiRun *fork = mi_fork(lanes, 4, -1, MI_KEEP_NONE);
    CHECK(fork != NULL, "a fork: %s", mi_error());
    if (!fork) return NAN;
    for (int s = 0; s < 4; s++) m[s] = metric(fork, s);
    mi_free(fork);
    return slope(m, h);
}

/* ---- Finite differences ---- */

/* Single numbers of a site against measured slopes, relative to the largest of its gradient. */
static void check_numbers(const char *name, const MiModel *m, const MiRun *run, const MiRun *grad,
                          int site, int l, double h)
{
    static const float one = 1;
    double most = 0;
    int    n;
    for (int t = 0; t <= POS; t++)
        for (int head = 0; head < heads_of(m, site); head++) {
            const float *g = row(m, grad, 0, site, l, head, t, &n);
            for (int i = 0; i < n; i++) most = fmax(most, fabs(g[i]));
        }
    int end = mi_site_info(site)->place == MI_FINAL ||
              (l == mi_shape(m).n_layer - 1 && site > MI_v);    /* where only POS counts */
    for (int i = 0; i < PER_SITE; i++) {
        int t = end && i % 3 ? POS : random_below(&state, POS + 1);
        int head = random_below(&state, heads_of(m, site));
        const float *g = row(m, grad, 0, site, l, head, t, &n);
        int c = random_below(&state, n);
        MiEdit edit = {.op = MI_ADD, .site = site, .layer = l, .head = is_keys(site) ? head : -1,
                       .first = c, .count = 1, .pos = t, .pos_end = t + 1, .value = &one,
                       .order = LAST};
        double want = measured(run, &edit, 1, (float)h), error = fabs(g[c] - want) / (most + 1e-3);
        worst_number = fmax(worst_number, error);
        CHECK(error < 4e-3, "%s: %s of layer %d, position %d, head %d, number %d: %g, measured %g",
              name, mi_site_info(site)->name, l, t, head, c, g[c], want);
    }
}

/* All numbers of a site at once, moved along a random direction. */
static void check_direction(const char *name, const MiModel *m, const MiRun *run, const MiRun *grad,
                            int site, int l, double h)
{
    static float along[64][4096];
    MiEdit edits[64];
    int    n_edits = 0, n;
    double want, says = 0, square = 0;
    for (int t = 0; t <= POS; t++)
        for (int head = 0; head < heads_of(m, site); head++) {
            const float *g = row(m, grad, 0, site, l, head, t, &n);
            for (int i = 0; i < n; i++) {
                float u = along[n_edits][i] = random_float(&state);
                says += (double)g[i] * u;
                square += (double)g[i] * g[i];
            }
            edits[n_edits] = (MiEdit){.op = MI_ADD, .site = site, .layer = l, .order = LAST,
                                      .head = is_keys(site) ? head : -1, .count = n, .pos = t,
                                      .pos_end = t + 1, .value = along[n_edits]};
            n_edits++;
        }
    want = measured(run, edits, n_edits, (float)h);
    double error = fabs(says - want) / (sqrt(square) + 1e-3);
    worst_direction = fmax(worst_direction, error);
    CHECK(error < 4e-3, "%s: all of %s of layer %d: %g, measured %g (length %g)", name,
          mi_site_info(site)->name, l, says, want, sqrt(square));
}

/* Every site of every layer; 0 after POS. */
static void check_run(const char *name, const MiModel *m, const MiRun *run)
{
    MiRun *grad = mi_gradient(run, 0, POS, dlogits, 0);
    CHECK(grad != NULL, "%s: %s", name, mi_error());
    for (int t = 0; t < mi_n_tokens(run, 0) && grad; t++)
        CHECK(mi_token(grad, 0, t) == mi_token(run, 0, t), "%s: another token at %d", name, t);
    for (int site = 0; grad && site < MI_N_SITES; site++)
        for (int l = 0; l < layers_of(m, site); l++) {
            double h = 0.02 * size_of(m, run, site, l);
            check_numbers(name, m, run, grad, site, l, h);
            check_direction(name, m, run, grad, site, l, h);
            for (int t = POS + 1, n; t < mi_n_tokens(run, 0); t++) {
                const float *g = row(m, grad, 0, site, l, 0, t, &n);
                for (int i = 0; i < n; i++)
                    CHECK(g[i] == 0, "%s: %s of layer %d at position %d, after the metric's, is %g",
                          name, mi_site_info(site)->name, l, t, g[i]);
            }
        }
    mi_free(grad);
}

/* ---- Runs with edits ---- */

static float values[40][256];

/* Every operation, at sites where its past matters: in attention, in the stream, at sigma, twice
 * at one site; a query without any key, and one without the last. */
static MiEdits every_edit(const MiModel *m)
{
    static MiEdit at[40];
    MiShape s = mi_shape(m);
    int     n = 0, D = s.d_model;
    for (int i = 0; i < 40; i++) {
        double square = 0;
        for (int c = 0; c < 256; c++) values[i][c] = random_float(&state);
        for (int c = 0; c < D; c++) square += (double)values[i][c] * values[i][c];
        for (int c = 0; c < 256 && i % 2; c++) values[i][c] /= (float)sqrt(square);
    }
#define UNIT values[2 * (n % 20) + 1]                   /* norm 1 over D columns */
#define EDIT(op_, site_, l, head_, first_, count_, from, to, amount_, ...)                       \
    (at[n] = (MiEdit){.op = op_, .site = MI_##site_, .layer = l, .head = head_, .first = first_, \
                      .count = count_, .pos = from, .pos_end = to, .amount = amount_,            \
                      .seed = 7, ##__VA_ARGS__}, n++)
    EDIT(MI_ADD, embed, 0, -1, 0, D, 1, 3, 0.5f, .value = values[0]);
    EDIT(MI_SCALE, pos_embed, 0, -1, 0, D, 2, 5, 0.5f);
    EDIT(MI_PROJECT, resid_pre, 0, -1, 0, D, 0, 4, 0, .value = UNIT);
    EDIT(MI_SET, ln1_scale, 0, -1, 0, 1, 2, 3, 1.5f);
    EDIT(MI_SCALE, ln1_scale, 1, -1, 0, 1, 0, T, 1.25f);
    EDIT(MI_MIX, ln1, 0, -1, 2, 5, 1, 6, 0.3f, .value = values[2]);
    EDIT(MI_SCALE, q, 0, -1, 1, 6, 0, T, 0.7f);
    EDIT(MI_MIX, k, 0, -1, 0, D, 3, 4, 0.25f, .value = values[4]);
    EDIT(MI_SET, v, 0, -1, 2, 4, 2, 5, 0, .value = values[6]);
    EDIT(MI_SET, scores, 0, 0, 0, s.n_ctx, 4, 5, -INFINITY);
    EDIT(MI_SET, scores, 0, 1, 2, 2, 5, 7, -INFINITY);
    EDIT(MI_SCALE, scores, 1, 0, 1, 3, 0, T, 0.5f);
    EDIT(MI_SCALE, pattern, 0, 0, 0, 3, 2, 7, 0.5f);
    EDIT(MI_SET, pattern, 1, 1, 1, 2, 5, 7, 0.25f);
    EDIT(MI_PROJECT, pattern, 1, 0, 0, s.n_ctx, 0, T, 0, .value = values[13]);
    EDIT(MI_NOISE, z, 0, -1, 0, D, 0, T, 0.1f);
    EDIT(MI_SCALE, z, 1, -1, 2, 5, 0, T, 0.5f);
    EDIT(MI_SCALE, attn_out, 0, -1, 0, D, 1, 4, -0.5f);
    EDIT(MI_PROJECT, resid_mid, 0, -1, 0, D, 0, T, 0, .value = UNIT, .order = 2);
    EDIT(MI_MIX, resid_mid, 0, -1, 3, 6, 2, 6, 0.6f, .value = values[8], .order = 1);
    EDIT(MI_SET, ln2_scale, 1, -1, 0, 1, 6, 7, 2);
    EDIT(MI_MIX, ln2, 1, -1, 0, D, 0, T, 0.1f, .value = values[10]);
    EDIT(MI_SCALE, mlp_pre, 0, -1, 3, 20, 0, T, 1.5f);
    EDIT(MI_SET, mlp_post, 0, -1, 5, 9, 0, T, 0);
    EDIT(MI_SCALE, mlp_out, 1, -1, 0, 7, 6, 7, 0.5f);
    EDIT(MI_PROJECT, resid_post, 0, -1, 0, D, 0, T, 0, .value = values[1], .value_stride = 512);
    EDIT(MI_MIX, resid_post, 1, -1, 0, D, 5, 7, 0.2f, .value = values[12]);
    EDIT(MI_SCALE, ln_f_scale, 0, -1, 0, 1, 0, T, 1.5f);
    EDIT(MI_PROJECT, ln_f, 0, -1, 0, D, 6, 7, 0, .value = UNIT);
    return (MiEdits){.at = at, .n = n};
}

/* Do two gradients have the same bits, at every site? */
static int same(const MiModel *m, const MiRun *a, const MiRun *b)
{
    for (int site = 0; site < MI_N_SITES; site++)
        for (int l = 0; l < layers_of(m, site); l++)
            for (int t = 0; t < mi_n_tokens(a, 0); t++)
                for (int h = 0, n; h < heads_of(m, site); h++) {
                    const float *x = row(m, a, 0, site, l, h, t, &n);
                    const float *y = row(m, b, 0, site, l, h, t, &n);
                    if (!x || !y || memcmp(x, y, (size_t)n * sizeof *x)) return 0;
                }
    return 1;
}

/* The gradient of a lane is that of the same edits in a trunk, wherever the cone begins. */
static void check_lane(const char *name, const MiModel *m, const int *tokens, const MiEdit *edit,
                       int half, int t0)
{
    MiEdits edits = {.at = (MiEdit *)edit, .n = 1};
    MiRun *base = mi_run(m, tokens, T, NULL, &ONE_THREAD);
    MiRun *whole = mi_run(m, tokens, T, &edits, &ONE_THREAD);
    MiLane lanes[2] = {{.trunk = base, .t0 = T - 2},
                       {.trunk = base, .edits = edit, .n_edits = 1, .t0 = t0}};
    MiRun *fork = mi_fork(lanes, 2, half, 0);
    MiRun *a = whole ? mi_gradient(whole, 0, POS, dlogits, 0) : NULL;
    MiRun *b = fork ? mi_gradient(fork, 1, POS, dlogits, 0) : NULL;
    CHECK(a && b && same(m, a, b), "%s: a lane from half-layer %d, position %d differs from the "
          "whole run: %s", name, half, t0, a && b ? "its bits" : mi_error());
    mi_free(a), mi_free(b), mi_free(fork), mi_free(whole), mi_free(base);
}

/* ---- Identities ---- */

/* What LayerNorm sends down, in double, from its own formula: dx = (g - mean(g) - xn mean(g xn)) /
 * sigma with xn = (x - mean) / sigma. Needs gamma, which the test reads off: the gradient at sigma
 * and at x are all it compares. */
static void check_identities(const MiModel *m, const MiRun *run)
{
    MiShape s = mi_shape(m);
    int     L = s.n_layer, D = s.d_model, n;
    MiRun  *grad = mi_gradient(run, 0, POS, dlogits, 0);
    if (!grad) { CHECK(0, "identities: %s", mi_error()); return; }

    /* LayerNorm sees neither the length of its input nor its mean: nothing along either */
    const float *x = mi_site(run, 0, MI_resid_post, L - 1, POS);
    const float *g = mi_site(grad, 0, MI_resid_post, L - 1, POS);
    double along = 0, sum = 0, gg = 0, xx = 0, mean = 0;
    for (int i = 0; i < D; i++) mean += x[i] / (double)D;
    for (int i = 0; i < D; i++) {
        along += g[i] * (x[i] - mean), sum += g[i];
        gg += (double)g[i] * g[i], xx += (x[i] - mean) * (x[i] - mean);
    }
    double sigma = *mi_site(run, 0, MI_ln_f_scale, 0, POS);
    CHECK(fabs(along) < 2e-6 * sqrt(gg * xx) + 2 * s.epsilon / sigma / sigma * sqrt(gg * xx) &&
          gg > 0, "the gradient of the last residual along itself is %g of %g", along,
          sqrt(gg * xx));
    CHECK(fabs(sum) < 1e-5 * sqrt(gg * D), "and its sum is %g of %g", sum, sqrt(gg * D));

    for (int l = 0; l < L; l++)
        for (int t = 0; t <= POS; t++) {
            size_t row_size = (size_t)D * sizeof(float);
#define SAME(a, la, b, lb)                                                                       \
            CHECK(!memcmp(mi_site(grad, 0, MI_##a, la, t), mi_site(grad, 0, MI_##b, lb, t),      \
                          row_size), #a " and " #b " of layer %d, position %d, differ", l, t)
            SAME(attn_out, l, resid_mid, l);            /* a sum: equal to all its parts */
            SAME(mlp_out, l, resid_post, l);
            if (l) SAME(resid_pre, l, resid_post, l - 1);
            else { SAME(resid_pre, 0, embed, 0); SAME(resid_pre, 0, pos_embed, 0); }

            /* scores: shifting all keys of a query changes nothing */
            for (int h = 0; h < s.n_head; h++) {
                const float *ds = row(m, grad, 0, MI_scores, l, h, t, &n);
                double most = 1e-6, total = 0;
                for (int j = 0; j < n; j++) total += ds[j], most = fmax(most, fabs(ds[j]));
                CHECK(fabs(total) < 2e-5 * (1 + most), "scores of L%dH%d at %d: sum %g of %g", l, h,
                      t, total, most);
            }
            /* the stream: what comes straight down, and what comes through LayerNorm, which is
             * orthogonal to 1 and, but for epsilon, to x - mean */
            for (int half = 0; half < 2; half++) {
                int in = half ? MI_resid_mid : MI_resid_pre, up = half ? MI_resid_post
                                                                      : MI_resid_mid;
                const float *a = mi_site(grad, 0, in, l, t), *b = mi_site(grad, 0, up, l, t);
                const float *v = mi_site(run, 0, in, l, t);
                double size = 0, ones = 0, self = 0, mu = 0, var = 0;
                double eps = *mi_site(run, 0, half ? MI_ln2_scale : MI_ln1_scale, l, t);
                for (int i = 0; i < D; i++) mu += v[i] / (double)D;
                for (int i = 0; i < D; i++) {
                    double through = (double)a[i] - b[i], c = v[i] - mu;
                    size += through * through, ones += through, self += through * c, var += c * c;
                }
                eps = 2 * s.epsilon / eps / eps;
                CHECK(fabs(ones) < 2e-5 * sqrt(size * D) + 1e-5 &&
                      fabs(self) < (2e-5 + eps) * sqrt(size * var) + 1e-5,
                      "%s of layer %d at %d: through LayerNorm %g along 1, %g along itself, of %g",
                      mi_site_info(in)->name, l, t, ones, self, sqrt(size));
            }
        }
    mi_free(grad);
}

/* Twice and a bit more of a metric has twice and a bit more of its gradient. */
static void check_linear(const MiModel *m, const MiRun *run)
{
    float u[MAX_V], w[MAX_V], twice[MAX_V], mixed[MAX_V];
    for (int i = 0; i < n_vocab; i++) {
        u[i] = random_float(&state), w[i] = random_float(&state);
        twice[i] = -2 * u[i], mixed[i] = 3 * u[i] + 0.7f * w[i];
    }
    MiRun *gu = mi_gradient(run, 0, POS, u, 0), *gw = mi_gradient(run, 0, POS, w, 0);
    MiRun *g2 = mi_gradient(run, 0, POS, twice, 0), *gm = mi_gradient(run, 0, POS, mixed, 0);
    for (int site = 0; gu && gw && g2 && gm && site < MI_N_SITES; site++)
        for (int l = 0; l < layers_of(m, site); l++) {
            double error = 0, most = 1e-3;
            int    equal = 1;
            for (int t = 0; t <= POS; t++)
                for (int h = 0, n; h < heads_of(m, site); h++) {
                    const float *a = row(m, gu, 0, site, l, h, t, &n);
                    const float *b = row(m, gw, 0, site, l, h, t, &n);
                    const float *c = row(m, g2, 0, site, l, h, t, &n);
                    const float *d = row(m, gm, 0, site, l, h, t, &n);
                    for (int i = 0; i < n; i++) {
                        equal &= c[i] == -2 * a[i];
                        error = fmax(error, fabs(3.0 * a[i] + 0.7f * (double)b[i] - d[i]));
                        most = fmax(most, fabs(d[i]));
                    }
                }
            CHECK(equal, "-2 of the metric is not -2 of %s of layer %d", mi_site_info(site)->name,
                  l);
            CHECK(error < 1e-5 * most, "%s of layer %d is not linear: %g of %g",
                  mi_site_info(site)->name, l, error, most);
        }
    mi_free(gu), mi_free(gw), mi_free(g2), mi_free(gm);
}

/* From the end of the stream, of two metrics at two positions: their gradients together. */
static void check_stream(const MiModel *m, const MiRun *run)
{
    enum { EARLIER = POS - 3 };
    int    D = mi_shape(m).d_model, last = mi_shape(m).n_layer - 1;
    float  u[MAX_V], w[MAX_V], *dresid = calloc((POS + 1) * D, sizeof *dresid);
    for (int i = 0; i < n_vocab; i++) u[i] = random_float(&state), w[i] = random_float(&state);
    MiRun *late = mi_gradient(run, 0, POS, u, 0), *early = mi_gradient(run, 0, EARLIER, w, 0);
    for (int t = 0; late && early && t <= POS; t++)
        for (int i = 0; i < D; i++)
            dresid[t * D + i] = mi_site(late, 0, MI_resid_post, last, t)[i] +
                                mi_site(early, 0, MI_resid_post, last, t)[i];
    MiRun *both = mi_gradient_of_stream(run, 0, POS + 1, dresid, 0);
    CHECK(both != NULL, "from the stream: %s", mi_error());
    for (int site = 0; late && early && both && site < MI_ln_f_scale; site++)
        for (int l = 0; l < layers_of(m, site); l++) {
            double error = 0, most = 1e-3;
            for (int t = 0; t <= POS; t++)
                for (int h = 0, n; h < heads_of(m, site); h++) {
                    const float *a = row(m, late, 0, site, l, h, t, &n);
                    const float *b = row(m, early, 0, site, l, h, t, &n);
                    const float *c = row(m, both, 0, site, l, h, t, &n);
                    for (int i = 0; i < n; i++) {
                        error = fmax(error, fabs((double)a[i] + b[i] - c[i]));
                        most = fmax(most, fabs(c[i]));
                    }
                }
            CHECK(error < 1e-5 * most, "from the stream, %s of layer %d is off by %g of %g",
                  mi_site_info(site)->name, l, error, most);
        }
    CHECK(!mi_gradient_of_stream(run, 0, 0, dresid, 0) && !mi_gradient_of_stream(run, 0, T + 1, dresid, 0),
          "a stream of no positions, or of more than there are, has a gradient");
    mi_free(late), mi_free(early), mi_free(both), free(dresid);
}

/* ---- Equal bits ---- */

static void check_bits(const char *name, const MiModel *m, const int *tokens, int n,
                       const MiEdits *edits, int pos, const float *d)
{
    MiOptions naive = {.threads = 1, .naive = 1}, threads = {.threads = 3}, lean = {.threads = 1};
    lean.capacity = mi_shape(m).n_ctx;
    lean.keep = MI_KEEP(ln1_scale) | MI_KEEP(q) | MI_KEEP(scores) | MI_KEEP(pattern) |
                MI_KEEP(resid_mid) | MI_KEEP(ln2_scale) | MI_KEEP(mlp_pre);
    const MiOptions *options[] = {&ONE_THREAD, &naive, &threads, &lean};
    const char *what[] = {"", "the kernels to read", "three threads", "a run that keeps little"};
    MiRun *first = NULL;
    for (int i = 0; i < 4; i++) {
        MiRun *run = mi_run(m, tokens, n, edits, options[i]);
        MiRun *grad = run ? mi_gradient(run, 0, pos, d, 0) : NULL;
        CHECK(grad != NULL, "%s: %s: %s", name, what[i], mi_error());
        if (i && first && grad)
            CHECK(same(m, first, grad), "%s: %s: other bits", name, what[i]);
        mi_free(run);                                   /* the gradient does not need it */
        if (i == 0) first = grad;
        else mi_free(grad);
    }
    /* a gradient that keeps one site has its bits, and says what it has not */
    MiRun *run = mi_run(m, tokens, n, edits, &ONE_THREAD);
    MiRun *little = run ? mi_gradient(run, 0, pos, d, MI_KEEP(resid_pre)) : NULL;
    for (int l = 0; little && first && l < mi_shape(m).n_layer; l++)
        for (int t = 0; t < n; t++)
            CHECK(!memcmp(mi_site(first, 0, MI_resid_pre, l, t),
                          mi_site(little, 0, MI_resid_pre, l, t),
                          (size_t)mi_shape(m).d_model * sizeof(float)),
                  "%s: resid_pre alone has other bits", name);
    CHECK(little && !mi_site(little, 0, MI_q, 0, 0) && strstr(mi_error(), "q was not kept"),
          "%s: a gradient that was not kept: %s", name, mi_error());
    mi_free(little), mi_free(run), mi_free(first);
}

/* Many rows and wide ones, which the fast kernels take by other paths, and more threads share. */
static void check_large(void)
{
    static const RandomModel shape = {.n_layer = 2, .n_head = 3, .d_head = 32, .n_ctx = 80,
                                      .n_vocab = 50, .seed = 4};
    MiModel *m = random_model_open(shape);
    int      tokens[75];
    for (int t = 0; t < 75; t++) tokens[t] = random_below(&state, 50);
    new_metric(m);
    check_bits("a large model", m, tokens, 75, NULL, 73, dlogits);
    mi_close(m);
}

/* ---- What is refused ---- */

static double count_calls(void *context, const MiRun *run, int lane)
{
    (void)run, (void)lane;
    return ++*(int *)context;
}

static void check_refusals(const MiModel *m, const int *tokens)
{
    float  logits[MAX_V * T];
    double x[256], sweep_value[1];
    int    layer, pos, calls = 0, first[2] = {0, 0};
    MiSite site;
    MiLabel name;
#define REFUSES(call, why) CHECK((call) && strstr(mi_error(), why), #call ": %s", mi_error())
    static const struct { uint64_t bit; const char *name; } needs[] = {
        {MI_KEEP(ln1_scale), "ln1_scale"}, {MI_KEEP(q), "q"}, {MI_KEEP(scores), "scores"},
        {MI_KEEP(pattern), "pattern"}, {MI_KEEP(resid_mid), "resid_mid"},
        {MI_KEEP(ln2_scale), "ln2_scale"}, {MI_KEEP(mlp_pre), "mlp_pre"}};
    for (int i = 0; i < (int)(sizeof needs / sizeof *needs); i++) {
        char why[40];
        MiOptions without = {.threads = 1, .keep = MI_KEEP_ALL & ~needs[i].bit};
        MiRun *run = mi_run(m, tokens, T, NULL, &without);
        snprintf(why, sizeof why, "%s was not kept", needs[i].name);
        CHECK(run && !mi_gradient(run, 0, POS, dlogits, 0) && strstr(mi_error(), why),
              "without %s: %s", needs[i].name, mi_error());
        mi_free(run);
    }
    MiOptions cache = {.threads = 1, .keep = MI_KEEP_CACHE | (MI_KEEP_ALL & ~MI_KEEP(resid_post))};
    MiRun *no_end = mi_run(m, tokens, T, NULL, &cache);
    REFUSES(!mi_gradient(no_end, 0, POS, dlogits, 0), "resid_post was not kept");
    cache.keep = MI_KEEP_CACHE;
    MiRun *small = mi_run(m, tokens, T, NULL, &cache);
    MiRun *run = mi_run(m, tokens, T, NULL, &ONE_THREAD);
    REFUSES(!mi_gradient(small, 0, POS, dlogits, 0), "resid_pre was not kept");
    REFUSES(!mi_gradient(run, 1, POS, dlogits, 0), "no lane 1");
    REFUSES(!mi_gradient(run, 0, T, dlogits, 0), "no position 8");
    REFUSES(!mi_gradient(run, 0, -1, dlogits, 0), "no position -1");
    MiLane one = {.trunk = run, .t0 = 2, .read = T};
    MiRun *read = mi_fork(&one, 1, 0, 0);
    REFUSES(!mi_gradient(read, 0, T - 1, dlogits, 0), "was left out");

    MiRun *grad = mi_gradient(run, 0, POS, dlogits, 0);
    MiLane lane = {.trunk = grad, .t0 = 0};
    MiSweep sweep = {.trunk = grad, .first = first, .n_cells = 1, .metric = count_calls,
                     .context = &calls};
    CHECK(mi_n_tokens(grad, 0) == T && mi_token(grad, 0, 3) == tokens[3], "tokens of a gradient");
    REFUSES(mi_logits(grad, 0, POS, logits) < 0, "holds gradients");
    REFUSES(mi_logits_of(grad, 0, POS, tokens, 2, logits) < 0, "holds gradients");
    REFUSES(mi_logits_all(grad, 0, 0, T, logits) < 0, "holds gradients");
    REFUSES(mi_logits_at(&(MiPosition){grad, 0, POS}, 1, logits) < 0, "holds gradients");
    REFUSES(mi_lens(grad, 0, MI_resid_pre, 0, POS, 1, logits) < 0, "holds gradients");
    REFUSES(mi_lens_all(grad, 0, MI_resid_pre, 0, 0, T, 0, logits) < 0, "holds gradients");
    REFUSES(mi_n_writers(grad, 0) < 0, "holds gradients");
    REFUSES(mi_writer(grad, 0, 0, POS, x, name) < 0, "no writer");
    REFUSES(mi_first_nonfinite(grad, 0, &site, &layer, &pos) < 0, "holds gradients");
    REFUSES(!mi_fork(&lane, 1, 0, 0), "holds gradients");
    REFUSES(mi_forward(grad, 0, T) < 0, "holds gradients");
    REFUSES(mi_append(grad, tokens, 0) < 0, "holds gradients");
    REFUSES(mi_append(grad, tokens, 1) < 0, "do not fit");
    REFUSES(!mi_gradient(grad, 0, POS, dlogits, 0), "holds gradients");
    REFUSES(mi_sweep(&sweep, sweep_value) < 0, "holds gradients");
    CHECK(calls == 0, "a sweep over a run of gradients measured %d cells", calls);
    mi_free(grad), mi_free(read), mi_free(small), mi_free(no_end), mi_free(run);
}

/* ---- Not a number, and a score without any key ---- */

static void check_odd_numbers(const MiModel *m, const int *tokens)
{
    MiEdit nan = {.op = MI_SET, .site = MI_q, .layer = 1, .head = -1, .first = 0, .count = 1,
                  .pos = POS, .pos_end = POS + 1, .amount = NAN};
    MiEdits edits = {.at = &nan, .n = 1};
    MiRun *run = mi_run(m, tokens, T, &edits, &ONE_THREAD);
    MiRun *grad = mi_gradient(run, 0, POS, dlogits, 0);
    CHECK(grad && isnan(mi_site(grad, 0, MI_resid_pre, 0, 0)[0]), "a NaN is lost on its way down");
    mi_free(grad), mi_free(run);

    /* far from 0 GELU is a line or nothing */
    MiEdit far[2] = {nan, nan};
    for (int i = 0; i < 2; i++) {
        far[i].site = MI_mlp_pre, far[i].layer = 0, far[i].first = i;
        far[i].amount = i ? -3e25f : 3e25f;
        far[i].count = 1, far[i].pos = POS, far[i].pos_end = POS + 1;
    }
    float back[2] = {1e-25f, 1};
    MiEdit small = far[0];                              /* and what it makes is small again */
    small.site = MI_mlp_post, small.op = MI_SCALE, small.amount = back[0];
    MiEdit all[3] = {far[0], far[1], small};
    edits = (MiEdits){.at = all, .n = 3};
    run = mi_run(m, tokens, T, &edits, &ONE_THREAD);
    grad = mi_gradient(run, 0, POS, dlogits, 0);
    const float *pre = grad ? mi_site(grad, 0, MI_mlp_pre, 0, POS) : NULL;
    const float *post = grad ? mi_site(grad, 0, MI_mlp_post, 0, POS) : NULL;
    CHECK(pre && post[0] != 0 && isfinite(post[0]) && pre[0] == post[0] * back[0] && pre[1] == 0,
          "GELU far from 0: %g %g of %g %g", pre ? pre[0] : NAN, pre ? pre[1] : NAN,
          post ? post[0] : NAN, post ? post[1] : NAN);
    mi_free(grad), mi_free(run);

    /* a query that sees no key sends nothing to any */
    MiEdit cut = {.op = MI_SET, .site = MI_scores, .layer = 1, .head = 0, .count = T, .pos = POS,
                  .pos_end = POS + 1, .amount = -INFINITY};
    edits = (MiEdits){.at = &cut, .n = 1};
    run = mi_run(m, tokens, T, &edits, &ONE_THREAD);
    grad = mi_gradient(run, 0, POS, dlogits, 0);
    int zero = grad != NULL, n, alive = 0;
    for (int i = 0; grad && i < mi_shape(m).d_head; i++)
        zero &= mi_head(grad, 0, MI_q, 1, 0, POS)[i] == 0;
    const float *ds = grad ? row(m, grad, 0, MI_scores, 1, 0, POS, &n) : NULL;
    const float *da = grad ? row(m, grad, 0, MI_pattern, 1, 0, POS, &n) : NULL;
    for (int i = 0; grad && i < n; i++) zero &= ds[i] == 0, alive |= da[i] != 0;
    CHECK(zero && alive, "a row of scores that are all -infinity has a gradient below");
    mi_free(grad), mi_free(run);
}

/* ---- PyTorch ---- */

static double worst_golden;

/* "NAME LAYER POSITION N NUMBER ...": an error may be 1e-4 of the line's largest number. -1 if it
 * cannot be read. */
static int golden_site(FILE *file, const char *name, const MiModel *m, const MiRun *grad)
{
    char   site_name[32];
    int    site = 0, l, t, n, length;
    double most = 0, error = 0, want;
    if (fscanf(file, "%31s %d %d %d", site_name, &l, &t, &n) != 4) return -1;
    while (site < MI_N_SITES && strcmp(mi_site_info(site)->name, site_name)) site++;
    if (site == MI_N_SITES) return -1;
    for (int h = 0; h < heads_of(m, site); h++) {
        const float *g = row(m, grad, 0, site, l, h, t, &length);
        if (!g || n != heads_of(m, site) * length) return -1;
        for (int i = 0; i < length; i++) {
            if (fscanf(file, "%lf", &want) != 1) return -1;
            most = fmax(most, fabs(want)), error = fmax(error, fabs(g[i] - want));
        }
    }
    if (most > 0) worst_golden = fmax(worst_golden, error / most);
    CHECK(error <= 1e-4 * most, "%s: %s of layer %d at %d: %g of %g off", name, site_name, l, t,
          error, most);
    return 0;
}

/* Readers of one sum of the stream add up to its gradient, less that of the next sum; and no reader
 * but those there are. */
static void check_readers(const MiModel *m, const MiRun *run)
{
    MiShape s = mi_shape(m);
    MiRun  *grad = mi_gradient(run, 0, POS, dlogits, 0);
    float   dx[256], sum[256];
    double  worst = 0;
    int     failures = 0;
    for (int half = 0; grad && half <= 2 * s.n_layer; half++) {
        int l = half / 2, mlp = half % 2, end = half == 2 * s.n_layer;
        int n = end || mlp ? 1 : 3 * s.n_head;
        for (int t = 0; t <= POS; t++) {
            memset(sum, 0, sizeof sum);
            for (int i = 0; i < n; i++) {
                MiEdit reader = {.site = end ? MI_ln_f : mlp ? MI_ln2 : MI_q + i % 3, .head = -1,
                                 .layer = end ? 0 : l, .first = n > 1 ? i / 3 * s.d_head : 0,
                                 .count = n > 1 ? s.d_head : s.d_model};
                failures += mi_reader_gradient(run, 0, grad, &reader, t, dx) < 0;
                for (int j = 0; j < s.d_model; j++) sum[j] += dx[j];
            }
            const float *at = end ? mi_site(grad, 0, MI_resid_post, l - 1, t)
                            : mi_site(grad, 0, mlp ? MI_resid_mid : MI_resid_pre, l, t);
            const float *next = end ? NULL
                              : mi_site(grad, 0, mlp ? MI_resid_post : MI_resid_mid, l, t);
            for (int j = 0; j < s.d_model; j++)
                worst = fmax(worst, fabs(at[j] - (next ? next[j] : 0) - sum[j]));
        }
    }
    CHECK(grad && !failures && worst < 1e-5, "the sums of readers: %d failures, off by %g",
          failures, worst);
    MiEdit wrong = {.site = MI_z, .head = -1, .count = s.d_head};
    MiEdit late = {.site = MI_ln2, .head = -1, .layer = 1, .count = s.d_model};
    CHECK(mi_reader_gradient(run, 0, grad, &wrong, 0, dx) < 0 &&
          strstr(mi_error(), "does not read"), "a reader z: %s", mi_error());
    CHECK(mi_reader_gradient(run, 0, grad, &late, T, dx) < 0, "a reader after the last position");
    float  *one = calloc(s.d_model, sizeof *one);
    MiEdit  set = {.op = MI_SET, .site = MI_ln2, .layer = 1, .head = -1, .count = s.d_model,
                   .pos_end = 2, .value = one};
    MiLane  lane = {run, &set, 1, 0, 0};
    MiRun  *fork = mi_fork(&lane, 1, 0, 0);
    CHECK(fork && mi_reader_gradient(fork, 0, grad, &late, 0, dx) < 0 &&
          strstr(mi_error(), "an edit stands between"), "an edited reader: %s", mi_error());
    mi_free(fork), mi_free(grad), free(one);
}

/* Replays gradient.golden: see make_gradient.py. */
static void check_golden(void)
{
    FILE    *file = fopen("tests/golden/gradient.golden", "r");
    char     word[64], name[64] = "", path[200];
    MiModel *m = NULL;
    MiRun   *run = NULL, *grad = NULL;
    int      pos = 0, n, lines = 0, bad = 0;
    CHECK(file != NULL, "tests/golden/gradient.golden is not there");
    while (file && fscanf(file, "%63s", word) == 1) {
        if (!strcmp(word, "run")) {
            int tokens[64];
            mi_free(run), mi_close(m), run = NULL;
            bad |= fscanf(file, "%63s %d %d", name, &pos, &n) != 3 || n > 64;
            for (int i = 0; i < n && !bad; i++) bad |= fscanf(file, "%d", &tokens[i]) != 1;
            snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
            m = bad ? NULL : mi_open(path);
            run = m ? mi_run(m, tokens, n, NULL, &ONE_THREAD) : NULL;
        } else if (!strcmp(word, "dlogits") && run) {
            int    V = mi_shape(m).n_vocab, token;
            float *d = calloc((size_t)V, sizeof *d), weight;
            bad |= fscanf(file, "%d", &n) != 1;
            for (int i = 0; i < n && !bad; i++) {
                bad |= fscanf(file, "%d %f", &token, &weight) != 2 || token < 0 || token >= V;
                if (!bad) d[token] = weight;
            }
            mi_free(grad);
            grad = mi_gradient(run, 0, pos, d, 0);
            free(d);
        } else if (!strcmp(word, "site") && grad) {
            bad |= golden_site(file, name, m, grad);
            lines++;
        } else {
            bad = 1;
        }
        if (bad) break;
    }
    CHECK(!bad && lines > 200, "gradient.golden: %d lines, then \"%s\": %s", lines, word,
          mi_error());
    mi_free(grad), mi_free(run), mi_close(m);
    if (file) fclose(file);
}

/* The model of a folder with this config.json: scores are divided by the layer's number too. */
static MiModel *scaled_by_layer(RandomModel shape)
{
    char        config[4300];
    const char *path = random_model_file(shape);
    snprintf(config, sizeof config, "%s/config.json", random_directory);
    FILE *file = fopen(config, "w");
    if (!file) return NULL;
    fprintf(file, "{\"model_type\": \"gpt2\", \"scale_attn_by_inverse_layer_idx\": true}");
    fclose(file);
    MiModel *model = mi_open(path);
    unlink(config);
    return model;
}

int main(void)
{
    static const RandomModel shapes[] = {
        {.n_layer = 2, .n_head = 3, .d_head = 5, .n_ctx = 40, .n_vocab = 31, .seed = 1},
        {.n_layer = 2, .n_head = 2, .d_head = 16, .n_ctx = 12, .n_vocab = 48, .seed = 2,
         .lm_head = 1},
        {.n_layer = 3, .n_head = 2, .d_head = 5, .n_ctx = 9, .n_vocab = 20, .seed = 3},
    };
    int tokens[T];
    for (int i = 0; i < 4; i++) {
        char     name[40];
        MiModel *m = i < 3 ? random_model_open(shapes[i]) : scaled_by_layer(shapes[2]);
        CHECK(m != NULL, "model %d: %s", i, mi_error());
        if (!m) continue;
        new_metric(m);
        for (int t = 0; t < T; t++) tokens[t] = random_below(&state, n_vocab);
        MiRun *run = mi_run(m, tokens, T, NULL, &ONE_THREAD);
        snprintf(name, sizeof name, "model %d", i);
        check_run(name, m, run);
        check_identities(m, run);
        check_linear(m, run);
        check_stream(m, run);
        check_readers(m, run);
        mi_free(run);

        MiEdits edits = every_edit(m);
        run = mi_run(m, tokens, T, &edits, &ONE_THREAD);
        CHECK(run != NULL, "%s: %s", name, mi_error());
        snprintf(name, sizeof name, "model %d, edited", i);
        if (run) check_run(name, m, run);
        mi_free(run);
        check_bits(name, m, tokens, T, &edits, POS, dlogits);
        for (int e = 0; e < edits.n; e++) {
            check_lane(name, m, tokens, &edits.at[e], -1, -1);
            if (e % 4 == 0) check_lane(name, m, tokens, &edits.at[e], 0, 0);
            if (i > 0) continue;
            MiEdits alone = {.at = &edits.at[e], .n = 1};
            run = mi_run(m, tokens, T, &alone, &ONE_THREAD);
            if (run) check_run(name, m, run);
            mi_free(run);
        }
        if (i == 0) {
            check_refusals(m, tokens);
            check_odd_numbers(m, tokens);
        }
        mi_close(m);
    }
    check_large();
    check_golden();
    printf("errors: numbers %.1e, directions %.1e, PyTorch %.1e\n", worst_number, worst_direction,
           worst_golden);
    return report();
}
