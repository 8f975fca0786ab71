/* test_kernels.c - the arithmetic of mi.c from the inside: the fast kernels against the ones to
 * read, bit for bit, at every length, width, address and number of threads; and both against
 * double precision. Built by itself: it includes mi.c.
 */
#define aligned_alloc aligned_or_not
#include "../mi.c"
#include "check.h"
#include "random_model.h"

#include <float.h>

/* What kernels allocate only makes them faster: they do without. */
static int no_memory;
void *aligned_or_not(size_t alignment, size_t size)
{
    void *memory;
    return no_memory || posix_memalign(&memory, alignment, size) ? NULL : memory;
}

static uint64_t state = 20;

static int below(int n) { return random_below(&state, n); }

/* n random floats `bytes` after an address that malloc gave: 1-3 is odd for a float. The block
 * ends with them, so that a sanitizer sees every read beyond. */
typedef struct { char *block; weight *at; } Floats;

static Floats random_floats(int n, int bytes, float size)
{
    char *block = malloc((size_t)n * 4 + (size_t)bytes + 1);
    if (!block) abort();
    char *start = block + bytes;
    for (int i = 0; i < n; i++) {
        float x = size * random_float(&state);
        memcpy(start + 4 * (size_t)i, &x, 4);
    }
    return (Floats){block, (weight *)start};
}

static float *floats(int n, float size)                 /* aligned as any float array */
{
    return (float *)random_floats(n, 0, size).block;
}

/* The first index at which n floats differ in their bits, or -1. */
static int differ(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a)) return i;
    return -1;
}

/* |y - exact| in units of the last place of a float of that size. */
static double ulps(float y, long double exact)
{
    int exponent;
    frexpl(exact, &exponent);
    if (exponent < -125) exponent = -125;               /* subnormals share one last place */
    return (double)(fabsl((long double)y - exact) / ldexpl(1, exponent - 24));
}

static float fast_exp(float x)
{
    float out[VEC];
    vec y = exp_vec(all(x));
    memcpy(out, &y, sizeof out);
    return out[VEC - 1];
}

static void test_exp(void)
{
    float from_bits, worst_x = 0, unequal_x = 0;
    double worst = 0;
    int n = 0, unequal = 0;
    for (uint32_t bits = 0; bits < 0x42d00000; bits += 4001) {      /* 0 .. 104 */
        memcpy(&from_bits, &bits, 4);
        for (int sign = -1; sign <= 1; sign += 2, n++) {
            float x = (float)sign * from_bits, naive = naive_exp(x), fast = fast_exp(x);
            if (memcmp(&naive, &fast, 4)) unequal++, unequal_x = x;
            if (x > 88.72f) continue;
            double error = ulps(naive, expl((long double)x));
            if (!(error <= worst)) worst = error, worst_x = x;
        }
    }
    CHECK(unequal == 0, "exp_vec == naive_exp: %d of %d differ, e.g. at %a", unequal, n,
          (double)unequal_x);
    CHECK(worst <= 2, "naive_exp within 2 ulp of e^x: %g ulp at %a", worst, (double)worst_x);
    static const struct { float x, y; } special[] = {
        {0, 1}, {-0.0f, 1}, {1e-30f, 1}, {-FLT_MIN / 8, 1}, {-INFINITY, 0}, {-FLT_MAX, 0},
        {-1e30f, 0}, {-104, 0}, {-103.9f, 0x1p-149f}, {88.73f, INFINITY}, {89, INFINITY},
        {89.5f, INFINITY}, {1e30f, INFINITY}, {FLT_MAX, INFINITY}, {INFINITY, INFINITY}};
    for (int i = 0; i < (int)(sizeof special / sizeof *special); i++) {
        float x = special[i].x, y = special[i].y, naive = naive_exp(x), fast = fast_exp(x);
        CHECK(naive == y, "naive_exp(%g) is %g, not %g", (double)x, (double)naive, (double)y);
        CHECK(memcmp(&naive, &fast, 4) == 0, "exp_vec(%g) is %a, naive_exp has %a", (double)x,
              (double)fast, (double)naive);
    }
    CHECK(isnan(naive_exp(NAN)), "naive_exp(NaN) is %g", (double)naive_exp(NAN));
    CHECK(isnan(fast_exp(NAN)), "exp_vec(NaN) is %g", (double)fast_exp(NAN));
}

/* Sums along a row: every length, every alignment, weights at odd addresses. */
static void test_sums(void)
{
    const Kernels *naive = &naive_kernels, *fast = &fast_kernels;
    for (int n = 0; n <= 200; n++) {
        int shift = n % 17, odd = n % 5;
        float *a = floats(n + shift, 3), *x = a + shift, mean = n ? x[0] / 4 : 0;
        Floats b = random_floats(n, odd, 3);
        double dot = 0, sum = 0, squares = 0, size = 1e-6;
        for (int i = 0; i < n; i++) {
            double xi = (double)x[i], bi = (double)b.at[i], centred = (double)(x[i] - mean);
            dot += xi * bi, sum += xi, squares += centred * centred;
            size += fabs(xi * bi) + fabs(xi) + centred * centred;
        }
        float result[6] = {naive->dot(x, b.at, n), fast->dot(x, b.at, n), naive->sum(x, n),
                           fast->sum(x, n), naive->squares(x, mean, n), fast->squares(x, mean, n)};
        double exact[3] = {dot, sum, squares};
        static const char *const names[] = {"dot", "sum", "squares"};
        for (int i = 0; i < 3; i++) {
            float y = result[2 * i], z = result[2 * i + 1];
            CHECK(memcmp(&y, &z, 4) == 0, "fast %s == naive %s: n %d, %d floats and %d bytes off: "
                  "%a, not %a", names[i], names[i], n, shift, odd, (double)z, (double)y);
            CHECK(fabs((double)y - exact[i]) <= 1e-6 * size, "naive %s against double: n %d: %.9g, "
                  "not %.9g", names[i], n, (double)y, exact[i]);
        }
        free(a), free(b.block);
    }
}

/* One shape: fast == naive == double; nothing is written beside y; rows, columns and threads do
 * not change a row's bits. */
static void check_linear(int rows, int in, int out, int threads)
{
    int odd = below(4), gap = below(3) ? 0 : out * 2, stride = out + gap;
    float *x = floats(rows * in, 1), *y = floats(rows * out + 2, 1), *z = floats(rows * out + 2, 1);
    Floats W = random_floats((in - 1) * stride + out, odd, 1), b = random_floats(out, odd, 1);
    y[0] = z[0] = y[rows * out + 1] = z[rows * out + 1] = 12345;
    naive_kernels.linear(y + 1, x, rows, in, out, W.at, (size_t)stride, b.at, 1);
    fast_kernels.linear(z + 1, x, rows, in, out, W.at, (size_t)stride, b.at, threads);
    int i = differ(y, z, rows * out + 2);
    CHECK(i < 0, "fast linear == naive linear: rows %d in %d out %d stride %d %d bytes off, "
          "%d threads: row %d column %d is %a, not %a", rows, in, out, stride, odd, threads,
          (i - 1) / out, (i - 1) % out, (double)z[i < 0 ? 0 : i], (double)y[i < 0 ? 0 : i]);
    int r = below(rows), c = below(out);
    double exact = (double)b.at[c], size = fabs(exact);
    for (int k = 0; k < in; k++) {
        double term = (double)x[r * in + k] * (double)W.at[k * stride + c];
        exact += term, size += fabs(term);
    }
    float got = y[1 + r * out + c];
    CHECK(fabs((double)got - exact) <= 2e-6 * size + 1e-30, "naive linear against double: rows %d "
          "in %d out %d: row %d column %d is %.9g, not %.9g", rows, in, out, r, c, (double)got,
          exact);
    fast_kernels.linear(z + 1 + r * out, x + r * in, 1, in, out, W.at, (size_t)stride, b.at, 1);
    i = differ(y, z, rows * out + 2);
    CHECK(i < 0, "a row by itself == that row of a batch: rows %d in %d out %d: row %d column %d",
          rows, in, out, (i - 1) / out, (i - 1) % out);
    free(x), free(y), free(z), free(W.block), free(b.block);
}

static void test_linear(void)
{
    static const int edges[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 47, 48, 49, 63,
                                64, 65, 95, 96, 97, 143, 145};
    enum { N = sizeof edges / sizeof *edges };
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            check_linear(1 + below(i % 3 ? 20 : 70), edges[i], edges[j], 1 + below(4));
    for (int i = 0; i < N; i++) check_linear(edges[i], 1 + below(80), 1 + below(150), 1 + below(4));
    static const int long_sums[] = {255, 256, 257, 511, 513, 767, 768, 769, 1024, 1535, 1537, 2305};
    for (int i = 0; i < 12; i++)
        for (int rows = 1; rows < 20; rows += 7)        /* 1, 8, 15 */
            check_linear(rows, long_sums[i], 1 + below(60), 1 + below(3));
    check_linear(1, 40, 1025, 3);                       /* decoding: wide panels and a rest */
    check_linear(1, 65, 1023, 2);
    check_linear(17, 300, 769, 4);
    check_linear(1, 9, SUMS + 77, 1);                   /* more columns than sums */
    check_linear(MOST, 2 * DEPTH + 1, WIDTH + PANEL + 3, 2);                /* no tile yet */
    check_linear(MOST + 1, 2 * DEPTH + 7, 2 * WIDTH + 5, 1);                /* one */
    check_linear(3 * MOST, DEPTH, WIDTH + 2 * PANEL, 3);
    check_linear(257, DEPTH + 2, PANEL + 1, 1);
    no_memory = 1;
    check_linear(3 * MOST + 1, DEPTH + 3, WIDTH + PANEL + 2, 2);
    no_memory = 0;
    static const int many[] = {255, 256, 257, 264, 265, 512, 513, 600};    /* several blocks of rows */
    for (int i = 0; i < 8; i++) check_linear(many[i], 1 + below(60), 1 + below(150), 1 + below(3));
}

static void test_unembed(void)
{
    for (int i = 0; i < 120; i++) {
        int V = 1 + i % 61, D = 1 + below(i % 2 ? 40 : 200), odd = below(4), threads = 1 + below(4);
        int rows = 1 + below(i % 3 ? 1 : 10);
        if (i % 5 == 0) D = 16 + D / 16 * 16;
        if (i % 10 == 0) rows = 1 + below(300), V += i;                 /* many: they are turned */
        int n = rows * V;
        float *x = floats(rows * D, 1), *y = floats(n + 1, 1), *z = floats(n + 1, 1);
        Floats W = random_floats(V * D, odd, 1);
        y[n] = z[n] = 12345;
        naive_kernels.unembed(y, x, rows, W.at, V, D, 1);
        no_memory = i % 20 == 10;
        fast_kernels.unembed(z, x, rows, W.at, V, D, threads);
        no_memory = 0;
        int at = differ(y, z, n + 1), r = below(rows), one = below(V);
        CHECK(at < 0, "fast unembed == naive unembed: rows %d V %d D %d %d bytes off: row %d token "
              "%d", rows, V, D, odd, at / V, at % V);
        float alone = fast_kernels.dot(x + r * D, W.at + one * D, D);
        CHECK(memcmp(&alone, y + r * V + one, 4) == 0,
              "one logit == that logit of all: V %d D %d token %d", V, D, one);
        free(x), free(y), free(z), free(W.block);
    }
}

static void test_softmax(void)
{
    for (int n = 1; n <= 130; n++) {
        float *y = floats(n, n % 2 ? 3 : 60), *z = malloc((size_t)n * sizeof *z);
        double *exact = malloc((size_t)n * sizeof *exact), max = -INFINITY, total = 0, worst = 0;
        if (!z || !exact) abort();
        int masked = n % 3 == 0 ? below(n) : 0;         /* the last ones, as after a query */
        for (int i = n - masked; i < n; i++) y[i] = -INFINITY;
        if (n % 7 == 0) y[below(n)] = -INFINITY;        /* an edge that was knocked out */
        memcpy(z, y, (size_t)n * sizeof *z);
        for (int i = 0; i < n; i++) max = fmax(max, (double)y[i]);
        for (int i = 0; i < n; i++)                     /* like scores, a difference is a float */
            total += exact[i] = max == -INFINITY ? 0 : exp((double)(y[i] - (float)max));
        naive_kernels.softmax(y, n);
        fast_kernels.softmax(z, n);
        int at = differ(y, z, n);
        CHECK(at < 0, "fast softmax == naive softmax: n %d: key %d is %a, not %a", n, at,
              (double)z[at < 0 ? 0 : at], (double)y[at < 0 ? 0 : at]);
        for (int i = 0; i < n && total > 0; i++)        /* relative, down to where floats end */
            worst = fmax(worst, fabs((double)y[i] - exact[i] / total)
                                / (exact[i] / total + 1e-37));
        CHECK(worst <= 1e-6, "naive softmax against double: n %d: off by %g", n, worst);
        for (int i = 0; i < n; i++) y[i] = z[i] = -INFINITY;
        naive_kernels.softmax(y, n);
        fast_kernels.softmax(z, n);
        int zeros = 1;
        for (int i = 0; i < n; i++) zeros &= y[i] == 0 && z[i] == 0;
        CHECK(zeros, "softmax of nothing but -infinity is 0: n %d", n);
        free(y), free(z), free(exact);
    }
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static void test_gelu(void)
{
    for (int n = 0; n <= 130; n++) {
        float *x = floats(n, n % 2 ? 3 : 12), *y = floats(n + 1, 1), *z = floats(n + 1, 1);
        double worst = 0;
        y[n] = z[n] = 12345;
        naive_kernels.gelu(y, x, n);
        fast_kernels.gelu(z, x, n);
        int at = differ(y, z, n + 1);
        CHECK(at < 0, "fast gelu == naive gelu: n %d: element %d", n, at);
        for (int i = 0; i < n; i++)
            worst = fmax(worst, fabs((double)y[i] - gelu_tanh((double)x[i])) / fabs((double)x[i]));
        CHECK(worst <= 1e-6, "naive gelu against tanh in double: n %d: off by %g |x|", n, worst);
        free(x), free(y), free(z);
    }
    float x[4] = {0, 1e20f, -1e20f, 100}, y[4];
    fast_kernels.gelu(y, x, 4);
    CHECK(y[0] == 0 && y[1] == 1e20f && y[2] == 0 && y[3] == 100, "gelu of 0, 1e20, -1e20, 100 is "
          "%g, %g, %g, %g", (double)y[0], (double)y[1], (double)y[2], (double)y[3]);
}

/* Scores and mix: fast == naive, over the keys of one run and over keys that lie in three places,
 * the trunk's, the lane's and the row that is read. */
static void test_attention(void)
{
    for (int d = 1; d <= 140; d += d < 36 ? 1 : 13) {
        int H = 1 + below(3), h = below(H), n = 1 + below(70), t0 = below(n), D = H * d;
        float *all_keys = floats(n * D, 1), *below_t0 = floats(t0 * D, 1);
        float *own = floats((n - 1 - t0) * D, 1), *last = floats(D, 1);
        memcpy(below_t0, all_keys, (size_t)(t0 * D) * sizeof *own);
        memcpy(own, all_keys + t0 * D, (size_t)((n - 1 - t0) * D) * sizeof *own);
        memcpy(last, all_keys + (n - 1) * D, (size_t)D * sizeof *own);
        float scale = 1 / sqrtf((float)d);
        Keys one = {.below = all_keys, .own = all_keys, .last = all_keys + (n - 1) * D, .n = n,
                    .stride = D, .scale = scale};
        Keys apart = {.below = below_t0, .own = own, .last = last, .t0 = t0, .n = n, .stride = D,
                      .scale = scale};
        /* `rows` queries: row r sees the first n - rows + 1 + r keys, so the last one all */
        int rows = 1 + below(n < 7 ? n : 7), first = n - rows + 1, stride = n + below(3);
        int sizes = (rows - 1) * stride + n, sizez = (rows - 1) * D + d;
        float *q = floats((rows - 1) * D + d, 2), *p = floats(sizes, 1), *s[3], *z[3];
        for (int i = 0; i < 3; i++) {
            const Kernels *kernel = i ? &fast_kernels : &naive_kernels;
            s[i] = malloc((size_t)(sizes + 1) * sizeof *q);
            z[i] = malloc((size_t)(sizez + 1) * sizeof *q);
            if (!s[i] || !z[i]) abort();
            for (int k = 0; k <= sizes; k++) s[i][k] = 12345;
            for (int k = 0; k <= sizez; k++) z[i][k] = 12345;
            kernel->scores(s[i], (size_t)stride, q, rows, i == 2 ? &apart : &one, h * d, first, d);
            kernel->mix(z[i], p, (size_t)stride, rows, i == 2 ? &apart : &one, h * d, first, d);
        }
        CHECK(differ(s[0], s[1], sizes + 1) < 0, "fast scores == naive scores: d %d keys %d rows "
              "%d: %d", d, n, rows, differ(s[0], s[1], sizes + 1));
        CHECK(differ(z[0], z[1], sizez + 1) < 0, "fast mix == naive mix: d %d keys %d rows %d: "
              "%d", d, n, rows, differ(z[0], z[1], sizez + 1));
        CHECK(differ(s[1], s[2], sizes + 1) < 0 && differ(z[1], z[2], sizez + 1) < 0,
              "keys of trunk and lane == keys of one run: d %d keys %d t0 %d", d, n, t0);
        q += (rows - 1) * D, p += (rows - 1) * stride;
        for (int i = 0; i < 3; i++) s[i] += (rows - 1) * stride, z[i] += (rows - 1) * D;
        int j = below(n), c = below(d);
        double dot = 0, sum = 0, size = 0;
        for (int i = 0; i < d; i++) dot += (double)q[i] * (double)all_keys[j * D + h * d + i];
        for (int i = 0; i < n; i++) {
            double term = (double)p[i] * (double)all_keys[i * D + h * d + c];
            sum += term, size += fabs(term);
        }
        CHECK(fabs((double)s[0][j] - dot / sqrt((double)d)) <= 1e-6 * (1 + 2 * sqrt((double)d)),
              "naive scores against double: d %d keys %d: key %d is %.9g, not %.9g", d, n, j,
              (double)s[0][j], dot / sqrt((double)d));
        CHECK(fabs((double)z[0][c] - sum) <= 1e-6 * size, "naive mix against double: d %d keys %d: "
              "element %d is %.9g, not %.9g", d, n, c, (double)z[0][c], sum);
        for (int i = 0; i < 3; i++) free(s[i] - (rows - 1) * stride), free(z[i] - (rows - 1) * D);
        free(all_keys), free(below_t0), free(own), free(last);
        free(q - (rows - 1) * D), free(p - (rows - 1) * stride);
    }
}

/* How far sigma and the normalized row y of one row x of a run are from double precision. */
static double layernorm_error(const float *x, const float *sigma, const float *y,
                              const weight *gamma, const weight *beta, int D)
{
    if (!x || !sigma || !y) return INFINITY;
    double mean = 0, variance = 0;
    for (int i = 0; i < D; i++) mean += (double)x[i] / D;
    for (int i = 0; i < D; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean) / D;
    double exact_sigma = sqrt(variance + 1e-5), worst = fabs((double)*sigma / exact_sigma - 1);
    for (int i = 0; i < D; i++) {
        double g = (double)gamma[i], b = (double)beta[i], unit = (double)x[i] / exact_sigma;
        double exact = (unit - mean / exact_sigma) * g + b;
        double size = fabs(unit * g) + fabs(mean / exact_sigma * g) + fabs(b) + 1e-30;
        worst = fmax(worst, fabs((double)y[i] - exact) / size);
    }
    return worst;
}

/* a*b + c, rounded twice whatever the compiler likes to fuse. */
static float twice(float a, float b, float c)
{
    volatile float product = a * b;
    return product + c;
}

/* Outside the kernels' own fma nothing is fused: else bits depend on where a loop's tail begins.
 * LayerNorm, GELU and the edits against their formulas in single roundings. */
static void test_rounding(void)
{
    enum { N = 61 };
    float *x = floats(N, 3), *v = floats(N, 1), *y = floats(N, 1), *formula = floats(N, 1);
    naive_kernels.gelu(y, x, N);
    for (int i = 0; i < N; i++) {
        float u = 0.7978845608f * twice(0.044715f, x[i] * x[i] * x[i], x[i]);
        volatile float denominator = 1 + naive_exp(-2 * u);
        formula[i] = x[i] / denominator;
    }
    int at = differ(y, formula, N);
    CHECK(at < 0, "gelu rounds as its formula: element %d", at);
    MiRun run = {.kernel = &fast_kernels};
    static const MiOp ops[] = {MI_ADD, MI_MIX, MI_PROJECT};
    static const char *const names[] = {"x + amount v", "x + amount (v - x)", "x - (x.v) v"};
    for (int op = 0; op < 3; op++)
        for (int n = 1; n <= N; n++) {
            MiEdit edit = {.op = ops[op], .amount = 0.3f};
            memcpy(y, x, (size_t)n * sizeof *y);
            apply_edit(&run, &edit, y, v, n, 0);
            float along = op == 2 ? fast_kernels.dot(x, v, n) : 0;
            for (int i = 0; i < n; i++)
                formula[i] = op == 0 ? twice(0.3f, v[i], x[i])
                           : op == 1 ? twice(0.3f, v[i] - x[i], x[i]) : twice(-along, v[i], x[i]);
            at = differ(y, formula, n);
            CHECK(at < 0, "%s rounds as its formula: element %d of %d", names[op], at, n);
        }
    free(x), free(v), free(y), free(formula);
}

static void test_layernorm(void)
{
    static const int heads[] = {1, 1, 2, 3, 5, 3, 7}, widths[] = {2, 7, 8, 5, 13, 16, 19};
    for (int i = 0; i < 7; i++) {
        RandomModel shape = {.n_layer = 2, .n_head = heads[i], .d_head = widths[i], .n_ctx = 9,
                             .n_vocab = 11, .blanks = i % 4, .seed = 100 + (uint64_t)i};
        int tokens[9] = {3, 1, 4, 1, 5, 9, 2, 6, 5}, D = heads[i] * widths[i];
        MiModel *m = random_model_open(shape);
        MiRun *run = m ? mi_run(m, tokens, 9, NULL, NULL) : NULL;
        CHECK(run, "layernorm: no run of a random model of width %d: %s", D, mi_error());
        if (!run) continue;
        const struct {
            MiSite x, scale, y;
            int x_layer, layer;
            const weight *gamma, *beta;
        } at[3] = {
            {MI_resid_pre, MI_ln1_scale, MI_ln1, 1, 1, m->block[1].ln1_gamma, m->block[1].ln1_beta},
            {MI_resid_mid, MI_ln2_scale, MI_ln2, 1, 1, m->block[1].ln2_gamma, m->block[1].ln2_beta},
            {MI_resid_post, MI_ln_f_scale, MI_ln_f, 1, 0, m->ln_f_gamma, m->ln_f_beta}};
        for (int t = 0; t < 9; t++)
            for (int j = 0; j < 3; j++) {
                const float *x = mi_site(run, 0, at[j].x, at[j].x_layer, t);
                const float *sigma = mi_site(run, 0, at[j].scale, at[j].layer, t);
                const float *y = mi_site(run, 0, at[j].y, at[j].layer, t);
                double error = layernorm_error(x, sigma, y, at[j].gamma, at[j].beta, D);
                CHECK(error <= 1e-6, "layernorm against double: %s of width %d pos %d is off by %g",
                      mi_site_info(at[j].y)->name, D, t, error);
                if (!x || !sigma || !y) continue;
                float mean = naive_kernels.sum(x, D) / (float)D;
                int unequal = 0;
                for (int c = 0; c < D; c++)
                    unequal += y[c] != twice((x[c] - mean) / *sigma, at[j].gamma[c], at[j].beta[c]);
                CHECK(!unequal, "layernorm rounds as its formula: %s of width %d pos %d: %d differ",
                      mi_site_info(at[j].y)->name, D, t, unequal);
            }
        mi_free(run);
        mi_close(m);
    }
}

/* Logits of many positions at once are those of each alone: of a run and of a lane. */
static void test_many_logits(void)
{
    enum { T = 70, V = 83, D = 32 };
    RandomModel shape = {.n_layer = 2, .n_head = 2, .d_head = D / 2, .n_ctx = T, .n_vocab = V};
    static float many[T * V], one[V];
    int tokens[T];
    for (int t = 0; t < T; t++) tokens[t] = below(V);
    MiModel *m = random_model_open(shape);
    MiRun   *base = m ? mi_run(m, tokens, T, NULL, NULL) : NULL;
    MiEdit   edit = {.op = MI_SCALE, .site = MI_mlp_out, .layer = 0, .head = -1, .count = D,
                     .pos = 40, .pos_end = 41, .amount = 3};
    MiLane   lane = {.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1};
    MiRun   *fork = base ? mi_fork(&lane, 1, -1, MI_KEEP_ALL) : NULL;
    MiModel *second = random_model_open(shape);
    MiRun   *other = second ? mi_run(second, tokens, 1, NULL, NULL) : NULL;
    CHECK(fork && other, "many logits: no fork of a random model: %s", mi_error());
    for (int i = 0; i < 6 && fork; i++) {
        const MiRun *run = i % 2 ? fork : base;
        int from = i < 2 ? 0 : below(T - 1), to = i < 2 ? T : from + 1 + below(T - from), bad = -1;
        int final = i / 2 - 1, ok = 1;                  /* -1: no lens */
        ok &= (final < 0 ? mi_logits_all(run, 0, from, to, many)
                         : mi_lens_all(run, 0, MI_resid_mid, 1, from, to, final, many)) == 0;
        for (int t = from; t < to; t++) {
            ok &= (final < 0 ? mi_logits(run, 0, t, one)
                             : mi_lens(run, 0, MI_resid_mid, 1, t, final, one)) == 0;
            if (memcmp(one, many + (t - from) * V, sizeof one)) bad = t;
        }
        CHECK(ok && bad < 0, "logits of positions %d to %d at once, %s: position %d is not that "
              "alone", from, to, final < 0 ? "the end" : "lens", bad);
    }
    static const int wrong[][2] = {{-1, 2}, {0, T + 1}, {3, 3}, {5, 2}, {0, INT_MAX}};
    for (int i = 0; i < 5 && fork; i++)
        CHECK(mi_logits_all(fork, 0, wrong[i][0], wrong[i][1], many) < 0 &&
              mi_lens_all(fork, 0, MI_resid_mid, 1, wrong[i][0], wrong[i][1], 0, many) < 0,
              "logits of positions %d to %d: there are %d", wrong[i][0], wrong[i][1], T);
    CHECK(!fork || mi_logits_all(fork, 1, 0, 2, many) < 0, "logits of a lane that is not there");
    MiPosition at[] = {{fork, 0, 69}, {base, 0, 69}, {fork, 0, 3}, {base, 0, 50}, {base, 0, 0}};
    CHECK(!fork || mi_logits_at(at, 5, many) == 0, "logits of two runs at once: %s", mi_error());
    for (int i = 0; i < 5 && fork; i++)
        CHECK(mi_logits(at[i].run, at[i].lane, at[i].pos, one) == 0 &&
              !memcmp(one, many + i * V, sizeof one), "number %d of logits of two runs at once", i);
    at[3].pos = T;
    CHECK(!fork || mi_logits_at(at, 5, many) < 0, "logits of a position that is not there");
    at[3] = (MiPosition){other, 0, 0};
    CHECK(!other || (mi_logits_at(at, 5, many) < 0 && mi_logits_at(at, 3, many) == 0 &&
                     strstr(mi_error(), "two models")), "logits of two models at once");
    mi_free(fork), mi_free(base), mi_free(other), mi_close(m), mi_close(second);
}

int main(void)
{
    test_exp();
    test_sums();
    test_linear();
    test_unembed();
    test_many_logits();
    test_softmax();
    test_gelu();
    test_attention();
    test_rounding();
    test_layernorm();
    return report();
}
