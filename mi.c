/* mi.c - mechanistic interpretability of GPT-2 in one file.
 *
 *     cc -O3 -march=native mi.c -lm -o mi && ./mi --ablate L5H3
 *
 * GPT-2 reads the beginning of a text, cut into tokens, and gives every token a score to come next.
 * What it computes is a few pages of C, "The forward pass". Why this makes sense is hidden in
 * millions of numbers, the weights, which were found by fitting those pages to a lot of text. mi
 * runs a GPT-2, shows every number on the way, and lets you change any of them. The idea:
 *
 *   A forward pass is a list of named arrays ("sites"). Each has a buffer of its own, which never
 *   holds anything else: reading is free. (Of a site that a run was not told to keep, the buffer
 *   holds one layer, the current one.)
 *   Writing is a row in one table: an edit says where and what. After each site the forward pass
 *   calls hook(), and knows nothing else about interpretability.
 *   An edit can only touch its light cone: the layers from it up, the positions from it on. A fork
 *   recomputes that cone and borrows the rest from its trunk. A fork has many lanes: many
 *   experiments that go through each matrix product together.
 *   Every number is summed in one fixed order, whatever the batch, the threads or the place of
 *   restart. So experiments are compared with ==.
 *
 * One block, with the names of its sites (TransformerLens uses the same names). GPT-2 is L of them,
 * one on the other:
 *
 *     resid_pre ── ln1_scale ─ ln1 ─┬─ q ─┬─ scores ─ pattern ─┬─ z ─ attn_out ─┐
 *         │                         ├─ k ─┘                    │                │
 *         │                         └─ v ──────────────────────┘                │
 *         + <───────────────────────────────────────────────────────────────────┘
 *         │
 *     resid_mid ── ln2_scale ─ ln2 ─ mlp_pre ─ mlp_post ─ mlp_out ──────────────┐
 *         + <───────────────────────────────────────────────────────────────────┘
 *         │
 *     resid_post
 *
 * below the first block: embed + pos_embed; above the last: ln_f_scale, ln_f, and the unembedding.
 * The way down to attn_out is the first half-layer, attention; the rest is the second, the MLP.
 *
 * Letters:  L layers  H heads  D d_model  d = D/H  F (4D in GPT-2)  V vocabulary  T positions
 *           l layer   h head   t position (query)  j key   r row of a run
 *
 * Words:
 *     token            a piece of text, often a word with the space before it, as a number < V
 *     vector           D numbers that stand for what is known at one position, at one depth
 *     residual stream  that vector on its way up: every half-layer reads it and adds to it
 *     head             a part of attention: it looks at earlier positions and copies from there
 *     logit            the score of a token to come next; softmax makes probabilities of all V
 *     site             an intermediate value with a name, such as q: an array, one row per position
 *     edit             a change to some columns of some rows of a site: one line of the table
 *     run              one pass through the model with all its sites
 *     trunk            a run that computes all layers and positions of a prompt
 *     fork             a run that computes only what its edits can reach
 *     lane             one experiment of a fork: its own edits on a trunk
 *     cone             what an edit can reach: its half-layer and those above, from its position on
 *     metric           one number that the logits give, such as one of them less another
 *     gradient         for each number of each site: how fast the metric rises with it
 *
 * To try, on the model and prompt that are built in:
 *     ./mi --sites                            all that can be read and changed
 *     ./mi --lens                             what it would say if it stopped at each depth
 *     ./mi --attn L5H3                        where a head looks
 *     ./mi --ablate heads --each              what the answer loses without each head
 *     ./mi --noise embed@3=1 --explain        what an edit means, before it is run
 *
 * In reading order:
 *     Small tools
 *     Names and shapes
 *     The kernels to read                     each sum of the model, as a loop
 *     What a run is                           with a drawing of trunk, fork, lanes and cones
 *     Edits: the one place where activations are changed
 *     The forward pass                        the model: start here if you like
 *     Reading                                 sites, logits, the logit lens, writers
 *     Making runs: trunks and forks
 *     Sweeps: one experiment per cell
 *     The backward pass                       the forward pass mirrored: gradients of all sites
 *     The kernels to run                      the same sums, fast
 *     The model on disk
 *     Tokens
 *     The address grammar                     "L5H3@-1" -> edits; cells of sweeps; paths
 *     Means over many prompts, and how sure they are
 *   and behind MI_NO_MAIN the program, which uses the library above:
 *     Files: whole or not at all
 *     Tables: what a readout returns          and how tables print themselves
 *     The command line: what can be typed
 *     Cases: one prompt under the command     what was typed, resolved for it, and its runs
 *     Readouts: what can be asked             one function each, and a row of a table
 *     The report
 *     main
 */
#define _DEFAULT_SOURCE
#include "mi.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "mi promises the same bits always, and tells NaN from numbers: no -Ofast, no -ffast-math"
#endif

/* a*b + c must round twice unless we write fma: compilers fuse some sums of a loop and not others,
 * and then the same sum has other bits in the tail of a loop than in its body. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

/* ============================================================================================= */
/* Small tools                                                                                   */
/* ============================================================================================= */

/* The one mutable global: why the last call of this thread failed. */
static _Thread_local char error_text[2048];

const char *mi_error(void)
{
    return error_text;
}

enum { N_CODE_POINTS = 0x110000 };

/* The character at the start of text [n >= 1] -> its code point and its length; or -1 and length 1
 * if it is not UTF-8: cut off, overlong, a surrogate, above U+10FFFF. */
static int32_t utf8_decode(const uint8_t *text, size_t n, int *length)
{
    static const int32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};   /* below: overlong */
    *length = 1;
    if (text[0] < 0x80)
        return text[0];
    int n_bytes = text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : 4;
    if (text[0] < 0xC0 || text[0] > 0xF4 || n < (size_t)n_bytes)
        return -1;
    int32_t code = text[0] & (0x7F >> n_bytes);
    for (int i = 1; i < n_bytes; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return -1;
        code = code << 6 | (text[i] & 0x3F);
    }
    if (code < lowest[n_bytes] || code >= N_CODE_POINTS || (code >= 0xD800 && code < 0xE000))
        return -1;
    *length = n_bytes;
    return code;
}

/* Code points from .first to .last */
typedef struct { int32_t first, last; } CodeRange;

static int is_in_ranges(int32_t code, const CodeRange *range, size_t n)
{
    while (n > 0 && code > range->last) range++, n--;
    return n > 0 && code >= range->first;
}
#define IN_RANGES(code, ranges) is_in_ranges(code, ranges, sizeof (ranges) / sizeof *(ranges))

/* Could this character move a terminal's cursor, or turn the direction in which text runs, so that
 * it does not read as it is stored? -1 is no character. */
static int is_control(int32_t code)
{
    static const CodeRange ranges[] = {
        {-1,31}, {127,159}, {0x61C,0x61C}, {0x200E,0x200F}, {0x2028,0x202E}, {0x2066,0x2069},
    };
    return IN_RANGES(code, ranges);
}

/* Append text to a message. It may come from anywhere: control characters and broken UTF-8, which
 * could move a terminal's cursor, become '?'. */
static void append_visible(char *out, size_t size, const char *text, size_t n)
{
    size_t used = strlen(out);
    for (size_t i = 0; i < n && used + 8 < size;) {
        int length;
        if (is_control(utf8_decode((const uint8_t *)text + i, n - i, &length))) out[used++] = '?';
        else memcpy(out + used, text + i, length), used += length;
        i += length;
    }
    out[used] = 0;
}

/* Say why and return -1, so that a failing function can end with `return mi_fail(...)`. */
__attribute__((format(printf, 1, 2)))
static int mi_fail(const char *format, ...)
{
    char    raw[sizeof error_text];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    error_text[0] = 0;
    append_visible(error_text, sizeof error_text, raw, strlen(raw));
    return -1;
}

/* Put a name before the last error, as in "FILE: what is wrong". */
static int mi_fail_in(const char *name)
{
    char why[sizeof error_text];
    memcpy(why, error_text, sizeof why);
    return mi_fail("%.1000s: %.1000s", name, why);
}

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }
static int round_up(int n, int step) { return (n + step - 1) / step * step; }

/* Make room for one more element of an array that has n. Doubling keeps n appends at O(n). NULL
 * when memory is out. */
static void *grow(void *array, int n, size_t element)
{
    if (n & (n - 1)) return array;                      /* full only when n is a power of two */
    void *bigger = realloc(array, (n ? 2 * (size_t)n : 1) * element);
    if (!bigger) mi_fail("out of memory");
    return bigger;
}

typedef MiWeight weight;

/* ============================================================================================= */
/* Names and shapes                                                                              */
/* ============================================================================================= */

static const MiSiteInfo SITES[] = {
#define X(name, width, place, half, tl, what) \
    { #name, MI_##width, MI_##place, half, tl, what },
    MI_SITES(X)
#undef X
};

const MiSiteInfo *mi_site_info(int site)
{
    return site >= 0 && site < MI_N_SITES ? &SITES[site] : NULL;
}

/* The weights of one block, by the names of the papers. Matrices are [in, out] as in the file:
 * y = x W + b. W_QKV is W_Q, W_K, W_V side by side, each with its H heads side by side. Gamma and
 * beta are the gain and the offset that end a LayerNorm. */
typedef struct {
    const weight *ln1_gamma, *ln1_beta;                 /* [D] */
    const weight *W_QKV, *b_QKV;                        /* [D,3D] [3D] */
    const weight *W_O, *b_O;                            /* [D,D] [D] */
    const weight *ln2_gamma, *ln2_beta;                 /* [D] */
    const weight *W_in, *b_in;                          /* [D,F] [F] */
    const weight *W_out, *b_out;                        /* [F,D] [D] */
    float         score_scale;                          /* of q.k: 1/sqrt(d) in GPT-2 */
} Block;

/* A file in memory, and its tensors that were not F32, converted. */
typedef struct {
    void   *map;
    size_t  size;
    float **converted;
    int     n_converted;
} Mapped;

struct MiModel {
    MiShape       shape;
    const weight *wte, *wpe;                            /* [V,D] of tokens, [n_ctx,D] of places */
    Block        *block;                                /* [L] */
    const weight *ln_f_gamma, *ln_f_beta;               /* [D] */
    const weight *W_U;                                  /* [V,D]: wte, or the file's own */
    int          *vocab_ids;                            /* [V] GPT-2 ids of the rows, or NULL */
    int           has_text;                             /* its tokens are GPT-2's */
    char         *file;                                 /* its name, for messages */
    Mapped        mapped;
};

MiShape mi_shape(const MiModel *model)
{
    return model->shape;
}

/* How many arrays a site has: one for each layer, or one around the blocks. */
static int n_layers_of(const MiModel *model, MiSite site)
{
    return SITES[site].place == MI_BLOCK ? model->shape.n_layer : 1;
}

/* The half-layer that computes a site: 2l attention, 2l+1 MLP, 2L the final LayerNorm. The unit in
 * which runs begin, since information only flows up. */
static int half_of(const MiModel *model, MiSite site, int layer)
{
    switch (SITES[site].place) {
    case MI_ENTRY: return 0;
    case MI_FINAL: return 2 * model->shape.n_layer;
    default:       return 2 * layer + SITES[site].half;
    }
}

/* Floats in one row of a site; rows of scores and pattern are [H, key_stride]. */
static int width_of(const MiModel *model, MiSite site, int key_stride)
{
    switch (SITES[site].width) {
    case MI_ONE:   return 1;
    case MI_D_MLP: return model->shape.d_mlp;
    case MI_KEYS:  return model->shape.n_head * key_stride;
    default:       return model->shape.d_model;
    }
}

/* ============================================================================================= */
/* The kernels to read                                                                           */
/*                                                                                               */
/* These say what is computed, in which order: (a + b) + c and a + (b + c) differ in the last    */
/* bits of a float. The fast ones further down keep the order; tests compare them with memcmp.   */
/* ============================================================================================= */

/* a*b + c, rounded once where the machine can (and then everywhere), else twice. */
static inline float fma1(float a, float b, float c)
{
#if (defined(__AVX2__) && defined(__FMA__)) || (defined(__ARM_NEON) && defined(__aarch64__))
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* The tree that ends every sum along a row, 16 partial sums -> one: lane i takes lane i+8, then
 * i+4, i+2, i+1. */
static float sum_lanes(const float lane[16])
{
    float s[16];
    memcpy(s, lane, sizeof s);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

/* sum(x)    x [n] -> scalar. Element i goes to lane i mod 16, so a vector of any width up to 16
 * adds the same numbers in the same order; a row is padded with zeros to a multiple of 16. (These
 * 16 lanes are registers of the processor, not the lanes of a fork.) */
static float naive_sum(const float *x, int n)
{
    float lane[16] = {0};
    for (int i = 0; i < round_up(n, 16); i++)
        lane[i % 16] += i < n ? x[i] : 0;
    return sum_lanes(lane);
}

/* a.b       a [n], b [n] -> scalar */
static float naive_dot(const float *a, const weight *b, int n)
{
    float lane[16] = {0};
    for (int i = 0; i < round_up(n, 16); i++)
        lane[i % 16] = i < n ? fma1(a[i], b[i], lane[i % 16]) : fma1(0, 0, lane[i % 16]);
    return sum_lanes(lane);
}

/* sum((x - mean)^2)    x [n] -> scalar: n times the variance */
static float naive_squares(const float *x, float mean, int n)
{
    float lane[16] = {0};
    for (int i = 0; i < round_up(n, 16); i++) {
        float centred = i < n ? x[i] - mean : 0;
        lane[i % 16] = fma1(centred, centred, lane[i % 16]);
    }
    return sum_lanes(lane);
}

/* y = x W + b    x [rows,in], W [in,out] with rows `stride` apart, b [out] -> y [rows,out]
 * Each y starts at 0 and takes one fma per input, in order, and the bias last. So a row's bits do
 * not depend on how many rows, columns or threads there are. */
static void naive_linear(float *y, const float *x, int rows, int in, int out,
                         const weight *W, size_t stride, const weight *b, int threads)
{
    (void)threads;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < out; c++) {
            float sum = 0;
            for (int i = 0; i < in; i++)
                sum = fma1(x[(size_t)r * in + i], W[i * stride + c], sum);
            y[(size_t)r * out + c] = sum + b[c];
        }
}

/* logits = x W_U^T    x [rows,D], W_U [V,D] -> logits [rows,V]: how much the end of the residual
 * stream points along each token's row of W_U. */
static void naive_unembed(float *logits, const float *x, int rows, const weight *W_U, int V, int D,
                          int threads)
{
    (void)threads;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < V; i++)
            logits[(size_t)r * V + i] = naive_dot(x + (size_t)r * D, W_U + (size_t)i * D, D);
}

/* e^x, at most 2 units in the last place away. Ours, because the C library's differs between
 * machines and between scalar and vector code. The body stands with its fast twin, exp_vec. */
static float naive_exp(float x);

/* Is no key left to look at? NaN is not -infinity. */
static int all_cut(const float *s, int n)
{
    for (int j = 0; j < n; j++)
        if (s[j] != -INFINITY) return 0;
    return 1;
}

/* pattern_j = e^(s_j - max) / sum_i e^(s_i - max)    s [n] -> s [n], in place
 * Scores become shares, positive and adding up to 1. The largest is subtracted, which changes no
 * share, so that nothing overflows. Without any key left (all -infinity) the head looks at
 * nothing: 0. A score of +infinity or NaN makes the whole row NaN. */
static void naive_softmax(float *s, int n)
{
    float max = -INFINITY;
    for (int j = 0; j < n; j++)
        if (s[j] > max) max = s[j];
    int cut = max == -INFINITY && all_cut(s, n);
    for (int j = 0; j < n; j++)
        s[j] = cut ? 0 : naive_exp(s[j] - max);
    float total = naive_sum(s, n);
    for (int j = 0; j < n; j++)
        if (!cut) s[j] /= total;
}

/* GELU(x) = x / (1 + e^(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3)    x [n] -> y [n]
 * Near x for large x, near 0 for negative: without this bend the MLP would be one matrix. GPT-2's
 * tanh form, written with e^x: x/2 (1 + tanh u) is the same number. */
static void naive_gelu(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        float cube = x[i] * x[i] * x[i];
        float u = 0.7978845608f * (x[i] + 0.044715f * cube);
        y[i] = x[i] / (1 + naive_exp(-2 * u));
    }
}

/* The keys or values that a row can see, one for each position: key j of n. They lie in up to
 * three places (see "What a run is"): for j < t0 in the trunk, then in rows of the run's own, and
 * the last one may lie apart. A row is `stride` floats long, all heads side by side. */
typedef struct {
    const float *below, *own, *last;
    int          t0, n, stride;
    float        scale;                                 /* of their scores */
} Keys;

static inline const float *key_at(const Keys *keys, int j, int column)
{
    const float *key = j < keys->t0 ? keys->below + (size_t)j * keys->stride
                     : j + 1 < keys->n ? keys->own + (size_t)(j - keys->t0) * keys->stride
                     : keys->last;
    return key + column;
}

/* scores_j = (q . k_j) * scale, which is 1 / sqrt(d)    q [rows,d], keys [n,d] -> s [rows,n]
 * How well does what the query looks for match what each key offers? A dot product of d numbers
 * grows with sqrt(d); without the factor, softmax would look at one key only. The rows are
 * neighbours in a prompt, so each sees one key more than the row before: row r sees n + r. Rows of
 * q lie keys->stride floats apart, with the other heads in between; rows of s, `stride`. */
static void naive_scores(float *s, size_t stride, const float *q, int rows, const Keys *keys,
                         int column, int n, int d)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n + r; j++)
            s[r * stride + j] = naive_dot(q + (size_t)r * keys->stride, key_at(keys, j, column), d)
                                * keys->scale;
}

/* z = sum_j pattern_j v_j    pattern [rows,n], values [n,d] -> z [rows,d]
 * The mean of the values, weighted by how much the row looks at each; row r sees n + r. In key
 * order; a weight of zero is not skipped, or it would hide an infinite value. Rows of z lie
 * values->stride floats apart, as the values do; rows of the pattern, `stride`. */
static void naive_mix(float *z, const float *pattern, size_t stride, int rows, const Keys *values,
                      int column, int n, int d)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < d; c++) {
            float sum = 0;
            for (int j = 0; j < n + r; j++)
                sum = fma1(pattern[r * stride + j], key_at(values, j, column)[c], sum);
            z[(size_t)r * values->stride + c] = sum;
        }
}

/* What the forward pass calls, twice: naive_... above is to be read, fast_... further down is run.
 * A kernel knows arrays and sizes, nothing of runs or edits. Rows lie `stride` floats apart where
 * they are parts of wider ones; `threads` is how many may share the work. */
typedef struct {
    /* sum_i x_i                                            x [n] */
    float (*sum)(const float *x, int n);
    /* a . b = sum_i a_i b_i                                a [n], b [n] */
    float (*dot)(const float *a, const weight *b, int n);
    /* sum_i (x_i - mean)^2, which is n variances           x [n] */
    float (*squares)(const float *x, float mean, int n);
    /* y = x W + b                      x [rows,in], W [in,out], b [out] -> y [rows,out] */
    void  (*linear)(float *y, const float *x, int rows, int in, int out, const weight *W,
                    size_t stride, const weight *b, int threads);
    /* logits = x W_U^T                 x [rows,D], W_U [V,D] -> logits [rows,V] */
    void  (*unembed)(float *logits, const float *x, int rows, const weight *W_U, int V, int D,
                     int threads);
    /* s = softmax(s)                   s [n], in place */
    void  (*softmax)(float *s, int n);
    /* y = GELU(x)                      x [n] -> y [n] */
    void  (*gelu)(float *y, const float *x, int n);
    /* s_j = q . k_j / sqrt(d)          q [rows,d], keys [n + rows - 1, d] -> s [rows, n..]
     * One head of some neighbouring rows: its d numbers begin at `column` of each key. The first
     * row sees n keys, each further row one more. */
    void  (*scores)(float *s, size_t stride, const float *q, int rows, const Keys *keys,
                    int column, int n, int d);
    /* z = sum_j pattern_j v_j          pattern [rows, n..], values [n + rows - 1, d] -> z [rows,d]
     * Rows, `column` and n as in scores. */
    void  (*mix)(float *z, const float *pattern, size_t stride, int rows, const Keys *values,
                 int column, int n, int d);
} Kernels;

static const Kernels naive_kernels = {
    naive_sum, naive_dot, naive_squares, naive_linear, naive_unembed, naive_softmax, naive_gelu,
    naive_scores, naive_mix,
};
static const Kernels fast_kernels;

/* ============================================================================================= */
/* What a run is                                                                                 */
/* ============================================================================================= */

/* The forward pass is a table: a column for each position of the prompt, a line for each
 * half-layer. A cell needs cells below it and to its left, never to its right: no position sees
 * what comes later. So all that an edit at x can change is the rectangle that begins there: its
 * cone, shaded. A trunk is a run that computes the whole table. A fork computes only the cones of
 * its lanes, each an experiment, and borrows the rest from their trunks.
 *
 *     half-layer                  a trunk           a fork: lane 0    lane 1
 *      4  final LayerNorm         ■ ■ ■ ■ ■ ■       · · · · ▒ ▒       · · ▒ ▒ ▒ ▒
 *      3  MLP of layer 1          ■ ■ ■ ■ ■ ■       · · · · ▒ ▒       · · ▒ ▒ ▒ ▒
 *      2  attention of layer 1    ■ ■ ■ ■ ■ ■       · · · · ▒ ▒       · · x ▒ ▒ ▒
 *      1  MLP of layer 0          ■ ■ ■ ■ ■ ■       · · · · x ▒       · · ▒ ▒ ▒ ▒
 *      0  attention of layer 0    ■ ■ ■ ■ ■ ■       · · · · · ·       · · · · · ·
 *     position                    0 1 2 3 4 5       0 1 2 3 4 5       0 1 2 3 4 5
 *     row                         0 1 2 3 4 5               0 1           2 3 4 5
 *     row, if only 5 is read                                0 4           1 2 3 5
 *
 * All lanes of a fork begin at one half-layer, the lowest of their edits (here 1), and each at its
 * own position t0 (here 4 and 2). Their rows lie one after another, so that one matrix product
 * takes them all. Where only the last position of a lane is read, its row lies apart: these rows
 * come last, side by side, and of the others the last layer computes keys and values alone. */

/* One experiment of a run. A trunk has one lane, which owns all rows (trunk NULL, t0 0); a lane of
 * a fork owns positions t0 .. n_pos-1. Position t0 + i lies in row first_row + i, the last one in
 * last_row. */
typedef struct {
    const MiRun   *trunk;
    int            t0, n_pos;
    int            first_row, last_row;
    const MiEdit **edits;                               /* in the order in which they apply */
    int            n_edits;
} Lane;

typedef struct { void *at; size_t size; } Memory;

typedef struct { int found; MiSite site; int layer, pos; } NoNumber;

struct MiRun {
    const MiModel *model;
    const Kernels *kernel;
    int            threads;
    int            half;                                /* the first half-layer that it computes */
    int            first_read;                          /* the last layer leaves out rows before */
    int            n_rows, capacity;                    /* rows there are, and could be */
    Lane          *lanes;
    int            n_lanes;
    int           *row_lane, *row_pos, *row_token;      /* [capacity] what each row stands for */
    int            key_stride;                          /* keys in a row of scores, padded to 16 */
    uint64_t       keep;                                /* bit i: site i is kept for all layers */
    float         *buffer[MI_N_SITES];                  /* [layers kept][capacity][width] */
    size_t         layer_stride[MI_N_SITES];            /* 0: one buffer, the current layer's */
    Memory         memory;                              /* where all buffers lie */
    unsigned char *edited;                              /* [site][layer]: does any lane edit it? */
    const MiEdit **edit_table;                          /* the lanes' edits, one after another */
    NoNumber      *no_number;                           /* where to note the first one, or NULL */
    int            is_gradient;                         /* of values: made by mi_gradient() */
    int            failed;                              /* a function of the caller's said so */
};

/* Where a row of a site lies in this run: width_of(site) floats. */
static inline float *at(const MiRun *run, MiSite site, int layer, int row)
{
    size_t width = (size_t)width_of(run->model, site, run->key_stride);
    return run->buffer[site] + layer * run->layer_stride[site] + row * width;
}

/* The finished value of a site for one of our rows: ours, or below our first half-layer the
 * trunk's. What a half-layer reads from below it reads with finished(), what it made itself with
 * at(); so it needs to know nothing about forks. */
static inline const float *finished(const MiRun *run, MiSite site, int layer, int row)
{
    if (half_of(run->model, site, layer) >= run->half) return at(run, site, layer, row);
    return at(run->lanes[run->row_lane[row]].trunk, site, layer, run->row_pos[row]);
}

/* The row of a position that the lane owns. */
static inline int row_of(const Lane *lane, int pos)
{
    return pos + 1 == lane->n_pos ? lane->last_row : lane->first_row + pos - lane->t0;
}

/* The keys (site k) or values (site v) that the rows of a lane look at. */
static Keys keys_of(const MiRun *run, MiSite site, int layer, const Lane *lane)
{
    Keys keys = { .t0 = lane->t0, .n = lane->n_pos, .stride = run->model->shape.d_model };
    keys.scale = run->model->block[layer].score_scale;
    keys.own = at(run, site, layer, lane->first_row);
    keys.last = at(run, site, layer, lane->last_row);
    keys.below = lane->trunk ? at(lane->trunk, site, layer, 0) : keys.own;
    return keys;
}

/* ============================================================================================= */
/* Edits: the one place where activations are changed                                            */
/*                                                                                               */
/* Ablate, patch, steer, freeze, add noise, cut an edge: to the model they are one thing: some   */
/* numbers of a site that become others before anyone reads them. mi.h lists the operations.     */
/* An edit looks at nothing but its own row and constants that were fixed before the run (and a  */
/* function of the caller's at what the row could have seen). So it gives the same number in the */
/* whole pass, in a cone, and beside other lanes.                                                */
/* ============================================================================================= */

/* Counter in, random bits out: splitmix64's mixer. */
static uint64_t mix_bits(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* g ~ N(0, 1) = sqrt(-2 ln u) cos(2 pi v)    Box and Muller: u in (0,1], v in [0,1) are uniform
 * It depends on (seed, sample, site, layer, head of a row of keys, pos, element) alone, not on how
 * many were drawn before: so a cone that starts late sees the noise that the whole pass saw. */
static float normal_at(const MiEdit *edit, int pos, int element)
{
    uint64_t head = SITES[edit->site].width == MI_KEYS ? edit->head + 1 : 0;
    uint64_t key = mix_bits(mix_bits(mix_bits(edit->seed) ^ edit->sample) ^
                            (head << 48 | (uint64_t)edit->site << 32 | (uint32_t)edit->layer));
    uint64_t bits = mix_bits(key ^ ((uint64_t)pos << 32 | (uint32_t)element));
    double u = ((bits >> 32) + 1) / 4294967296.0, v = (uint32_t)bits / 4294967296.0;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* x [n] <- edited x: the part of a row at position pos that the edit is about. v [n]: its value for
 * this row, or NULL. Zeroing assigns: 0 times infinity would not be 0. */
static void apply_edit(const MiRun *run, const MiEdit *edit, float *x, const float *v, int n,
                       int pos)
{
    float amount = edit->amount;
    switch (edit->op) {
    case MI_SET:
        for (int i = 0; i < n; i++) x[i] = v ? v[i] : amount;
        break;
    case MI_MIX:
        for (int i = 0; i < n && !edit->basis; i++) x[i] += amount * (v[i] - x[i]);
        for (int r = 0; r < edit->rank; r++) {              /* orthogonal: one by one */
            const float *b = edit->basis + (size_t)r * n;
            float along = amount * (run->kernel->dot(v, b, n) - run->kernel->dot(x, b, n));
            for (int i = 0; i < n && along != 0; i++) x[i] += along * b[i];
        }
        break;
    case MI_ADD:
        for (int i = 0; i < n; i++) x[i] += amount * v[i];
        break;
    case MI_SCALE:
        for (int i = 0; i < n; i++) x[i] *= amount;
        break;
    case MI_PROJECT: {
        float along = run->kernel->dot(x, v, n);
        for (int i = 0; i < n; i++) x[i] -= along * v[i];
        break;
    }
    case MI_NOISE:
        for (int i = 0; i < n; i++) x[i] += amount * normal_at(edit, pos, edit->first + i);
        break;
    case MI_CALL: break;                                /* has more to look at: call_edit() */
    }
}

const float *mi_look(const MiView *view, MiSite site, int layer, int head, int pos)
{
    const MiModel *model = view->run->model;
    const MiEdit  *edit = view->edit;
    const float   *x = head < 0 ? mi_site(view->run, view->lane, site, layer, pos)
                                : mi_head(view->run, view->lane, site, layer, head, pos);
    int own = half_of(model, edit->site, edit->layer), half = x ? half_of(model, site, layer) : 0;
    if (!x) return NULL;
    if (pos <= view->pos && (half < own || (half == own && site < edit->site)) &&
        edit->sees >> site & 1)
        return x;
    return mi_fail("a function at %s of position %d looks at %s of layer %d, position %d: it is "
                   "not finished then, or the edit does not say that it sees it",
                   SITES[edit->site].name, view->pos, SITES[site].name, layer, pos), NULL;
}

/* x [n] <- what a function of the caller's makes of it. Where it fails the run does. */
static void call_edit(MiRun *run, const MiEdit *edit, float *x, int n, int row)
{
    MiView view = { run, run->row_lane[row], run->row_pos[row], edit };
    if (run->failed) return;
    error_text[0] = 0;
    if (edit->call(edit->context, &view, x, n) == 0) return;
    run->failed = 1;
    if (!error_text[0])
        mi_fail("a function at %s failed at position %d", SITES[edit->site].name, view.pos);
}

/* One edit on one row. Of a row of scores or pattern, only keys up to the query exist. */
static void edit_row(MiRun *run, const MiEdit *edit, int layer, int row)
{
    int    pos = run->row_pos[row];
    int    n = edit->count;
    float *x = at(run, edit->site, layer, row) + edit->first;
    if (SITES[edit->site].width == MI_KEYS) {
        x += (size_t)edit->head * run->key_stride;
        n = min_int(n, pos + 1 - edit->first);
    }
    if (n < 1) return;                                  /* keys after the query: there are none */
    const float *v = edit->value ? edit->value + (pos - edit->pos) * edit->value_stride : NULL;
    if (edit->op == MI_CALL) call_edit(run, edit, x, n, row);
    else apply_edit(run, edit, x, v, n, pos);
}

/* Apply every lane's edits of a site to the rows from <= r < to. */
static void edit_rows(MiRun *run, MiSite site, int layer, int from, int to)
{
    if (!run->edited[site * run->model->shape.n_layer + layer]) return;
    for (const Lane *lane = run->lanes; lane < run->lanes + run->n_lanes; lane++)
        for (int i = 0; i < lane->n_edits; i++) {
            const MiEdit *edit = lane->edits[i];
            if (edit->site != site || edit->layer != layer) continue;
            int last = min_int(edit->pos_end, lane->n_pos);
            for (int t = max_int(edit->pos, lane->t0); t < last; t++) {
                int row = row_of(lane, t);
                if (row >= from && row < to) edit_row(run, edit, layer, row);
            }
        }
}

/* Are all values of a row numbers? Of scores and pattern those of keys up to the query; a score of
 * -infinity is a key cut off. */
static int all_numbers(const MiRun *run, MiSite site, int layer, int row)
{
    const float *x = at(run, site, layer, row);
    int keys = SITES[site].width == MI_KEYS, heads = keys ? run->model->shape.n_head : 1;
    int n = keys ? run->row_pos[row] + 1 : width_of(run->model, site, 0);
    for (int h = 0; h < heads; h++, x += run->key_stride)
        for (int i = 0; i < n; i++)
            if (!isfinite(x[i]) && !(site == MI_scores && x[i] == -INFINITY)) return 0;
    return 1;
}

/* Called after each site, when its rows are complete and before anyone reads them. */
static void hook(MiRun *run, MiSite site, int layer, int from, int to)
{
    edit_rows(run, site, layer, from, to);
    for (int row = from; run->no_number && !run->no_number->found && row < to; row++)
        if (!all_numbers(run, site, layer, row))
            *run->no_number = (NoNumber){ 1, site, layer, run->row_pos[row] };
}

/* ============================================================================================= */
/* The forward pass                                                                              */
/*                                                                                               */
/* Rows from <= r < to of a run, half-layer by half-layer: first the parts, in the order in which */
/* they are used; attention(), mlp() and mi_forward() put them together. Each part computes one   */
/* site or two and calls hook() on it; what it reads is finished.                                 */
/* ============================================================================================= */

enum { GROUP = 4 };     /* rows whose attention one thread computes together */

/* embed = wte[token], pos_embed = wpe[position]    -> [rows,D] each
 * A token begins as a row of one table: the vector that was learned for it, wherever it stands. The
 * other table says where it stands; without it, attention could not tell first from last. */
static void embed(MiRun *run, int from, int to)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model;
    for (int r = from; r < to; r++) {
        memcpy(at(run, MI_embed, 0, r), model->wte + (size_t)run->row_token[r] * D,
               D * sizeof(float));
        memcpy(at(run, MI_pos_embed, 0, r), model->wpe + (size_t)run->row_pos[r] * D,
               D * sizeof(float));
    }
    hook(run, MI_embed, 0, from, to);
    hook(run, MI_pos_embed, 0, from, to);
}

/* y = a + b    sites a, b [rows,D] -> site y [rows,D]
 * The residual stream only ever changes by addition: so the model's last vector is a sum, and one
 * can ask who wrote which part of it. b = NONE copies. */
enum { NONE = MI_N_SITES };
static void add(MiRun *run, MiSite y, int layer, MiSite a, int layer_a, int b, int from, int to)
{
    int D = run->model->shape.d_model;
    #pragma omp parallel for num_threads(run->threads) if (to - from > 16)
    for (int r = from; r < to; r++) {
        const float *xa = finished(run, a, layer_a, r);
        const float *xb = b == NONE ? NULL : finished(run, b, layer_a, r);
        float *out = at(run, y, layer, r);
        if (xb) for (int i = 0; i < D; i++) out[i] = xa[i] + xb[i];
        else memcpy(out, xa, D * sizeof *out);
    }
    hook(run, y, layer, from, to);
}

/* sigma = sqrt(sum_i (x_i - mean)^2 / D + epsilon)    x [D] -> scalar. The sum is divided by D, not
 * D - 1. A row too large to be squared has none: divided by infinity it would be beta, a number
 * like any other. */
static float sigma_of(const MiRun *run, const float *x, float mean)
{
    const MiShape *shape = &run->model->shape;
    float squares = run->kernel->squares(x, mean, shape->d_model);
    float sigma = sqrtf(squares / shape->d_model + shape->epsilon);
    return isinf(sigma) ? NAN : sigma;
}

/* y_i = (x_i - mean) / sigma * gamma_i + beta_i    x [D] -> y [D] */
static void normalize(float *y, const float *x, float mean, float sigma, const weight *gamma,
                      const weight *beta, int D)
{
    for (int i = 0; i < D; i++) y[i] = (x[i] - mean) / sigma * gamma[i] + beta[i];
}

/* mean = sum_i x_i / D,  sigma and y as above    x [rows,D] -> site scale [rows,1], y [rows,D]
 * A half-layer sees the direction of the stream, not its length, which grows from layer to layer.
 * Sigma is a site of its own: with a frozen sigma, LayerNorm is linear. (The final one reads the
 * last layer's resid_post, hence x_layer.) */
static void layernorm(MiRun *run, MiSite x, MiSite scale, MiSite y, int layer,
                      const weight *gamma, const weight *beta, int from, int to)
{
    int D = run->model->shape.d_model;
    int x_layer = SITES[x].place == SITES[y].place ? layer : run->model->shape.n_layer - 1;
    const Kernels *kernel = run->kernel;
    #pragma omp parallel for num_threads(run->threads) if (to - from > 16)
    for (int r = from; r < to; r++) {
        const float *in = finished(run, x, x_layer, r);
        float mean = kernel->sum(in, D) / D;
        *at(run, scale, layer, r) = sigma_of(run, in, mean);
    }
    hook(run, scale, layer, from, to);
    #pragma omp parallel for num_threads(run->threads) if (to - from > 16)
    for (int r = from; r < to; r++) {
        const float *in = finished(run, x, x_layer, r);
        normalize(at(run, y, layer, r), in, kernel->sum(in, D) / D, *at(run, scale, layer, r),
                  gamma, beta, D);
    }
    hook(run, y, layer, from, to);
}

/* y = x W + b    site x [rows,in], W [in,out], b [out] -> site y [rows,out]
 * Nearly all weights, and nearly all time, are here. Each row by itself: positions do not meet. */
static void linear(MiRun *run, MiSite x, MiSite y, int layer, const weight *W, int stride,
                   const weight *b, int from, int to)
{
    int in = width_of(run->model, x, 0), out = width_of(run->model, y, 0);
    run->kernel->linear(at(run, y, layer, from), at(run, x, layer, from), to - from, in, out,
                        W, stride, b, run->threads);
    hook(run, y, layer, from, to);
}

/* Attention is computed in pieces: one head, and up to GROUP rows that are neighbours in one lane
 * and so look at the same keys (each at one more than the row before). */
typedef void Piece(MiRun *run, int l, int head, int row, int n_rows);

/* Call compute() on every piece of the rows from <= r < to. Threads take pieces head by head, so
 * that the head's keys stay in the cache. */
static void each_piece(MiRun *run, int l, int from, int to, Piece *compute)
{
    int groups = (to - from + GROUP - 1) / GROUP;
    #pragma omp parallel for schedule(dynamic, 4) num_threads(run->threads) if (groups > 1)
    for (int i = 0; i < groups * run->model->shape.n_head; i++) {
        int row = from + i % groups * GROUP, end = min_int(row + GROUP, to);
        for (int n; row < end; row += n) {
            for (n = 1; row + n < end && run->row_lane[row + n] == run->row_lane[row];) n++;
            compute(run, l, i / groups, row, n);
        }
    }
}

/* scores[h,j] = q_h . k_h,j / sqrt(d) for keys j <= t    q [n_rows,H,d] -> [n_rows,H,keys]
 * The rest of the last 16 keys is -infinity, so that softmax can run over whole vectors. */
static void score_piece(MiRun *run, int l, int head, int row, int n_rows)
{
    int    d = run->model->shape.d_head, n = run->row_pos[row] + 1;
    size_t stride = (size_t)run->model->shape.n_head * run->key_stride;
    Keys   keys = keys_of(run, MI_k, l, &run->lanes[run->row_lane[row]]);
    float *s = at(run, MI_scores, l, row) + (size_t)head * run->key_stride;
    run->kernel->scores(s, stride, at(run, MI_q, l, row) + head * d, n_rows, &keys, head * d, n, d);
    for (int r = 0; r < n_rows; r++)
        for (int j = n + r; j < round_up(n + r, 16); j++) s[r * stride + j] = -INFINITY;
}

/* Whom does each position look at? Its q is what it looks for, each earlier position's k what that
 * one offers; their product is the score of the pair. */
static void attention_scores(MiRun *run, int l, int from, int to)
{
    each_piece(run, l, from, to, score_piece);
    hook(run, MI_scores, l, from, to);
}

/* pattern = softmax(scores)    [rows,H,keys] -> [rows,H,keys]
 * Each head's scores become shares of its attention, which add up to 1. */
static void attention_pattern(MiRun *run, int l, int from, int to)
{
    int H = run->model->shape.n_head;
    #pragma omp parallel for schedule(dynamic, 16) num_threads(run->threads) if (to - from > 4)
    for (int i = from * H; i < to * H; i++) {
        int    row = i / H, n = round_up(run->row_pos[row] + 1, 16);
        size_t head = (size_t)(i % H) * run->key_stride;
        float *pattern = at(run, MI_pattern, l, row) + head;
        memcpy(pattern, at(run, MI_scores, l, row) + head, n * sizeof(float));
        run->kernel->softmax(pattern, n);
    }
    hook(run, MI_pattern, l, from, to);
}

/* z[h] = sum_j pattern[h,j] v_h,j    pattern [n_rows,H,keys], v [keys,H,d] -> [n_rows,H,d] */
static void mix_piece(MiRun *run, int l, int head, int row, int n_rows)
{
    int    d = run->model->shape.d_head;
    size_t stride = (size_t)run->model->shape.n_head * run->key_stride;
    Keys   values = keys_of(run, MI_v, l, &run->lanes[run->row_lane[row]]);
    run->kernel->mix(at(run, MI_z, l, row) + head * d,
                     at(run, MI_pattern, l, row) + (size_t)head * run->key_stride, stride, n_rows,
                     &values, head * d, run->row_pos[row] + 1, d);
}

/* What each head carries from where it looks: a mean of the values v there. */
static void attention_z(MiRun *run, int l, int from, int to)
{
    each_piece(run, l, from, to, mix_piece);
    hook(run, MI_z, l, from, to);
}

/* In the last layer, rows that nobody reads are needed only for their keys and values: the rows
 * that are read look at those, and at nothing else of their neighbours. */
static int first_needed(const MiRun *run, int l, int from)
{
    return l + 1 == run->model->shape.n_layer ? max_int(from, run->first_read) : from;
}

/* Half-layer 2l: move information between positions. W_QKV [D,3D] holds W_Q, W_K and W_V side by
 * side, so that D columns further the next begins. */
static void attention(MiRun *run, int l, int from, int to)
{
    const Block *w = &run->model->block[l];
    int D = run->model->shape.d_model;
    if (l == 0) {
        embed(run, from, to);
        add(run, MI_resid_pre, 0, MI_embed, 0, MI_pos_embed, from, to);
    } else {
        add(run, MI_resid_pre, l, MI_resid_post, l - 1, NONE, from, to);
    }
    layernorm(run, MI_resid_pre, MI_ln1_scale, MI_ln1, l, w->ln1_gamma, w->ln1_beta, from, to);
    int needed = first_needed(run, l, from);
    linear(run, MI_ln1, MI_q, l, w->W_QKV, 3 * D, w->b_QKV, needed, to);
    linear(run, MI_ln1, MI_k, l, w->W_QKV + D, 3 * D, w->b_QKV + D, from, to);
    linear(run, MI_ln1, MI_v, l, w->W_QKV + 2 * D, 3 * D, w->b_QKV + 2 * D, from, to);
    from = needed;
    attention_scores(run, l, from, to);
    attention_pattern(run, l, from, to);
    attention_z(run, l, from, to);
    linear(run, MI_z, MI_attn_out, l, w->W_O, D, w->b_O, from, to);
}

/* mlp_post = GELU(mlp_pre)    [rows,F] -> [rows,F] */
static void activate(MiRun *run, int l, int from, int to)
{
    int F = run->model->shape.d_mlp;
    #pragma omp parallel for num_threads(run->threads) if (to - from > 1)
    for (int r = from; r < to; r++)
        run->kernel->gelu(at(run, MI_mlp_post, l, r), at(run, MI_mlp_pre, l, r), F);
    hook(run, MI_mlp_post, l, from, to);
}

/* Half-layer 2l+1: think about each position by itself, from the first row that is needed.
 * mlp_post has F numbers, the neurons: each is active when its column of W_in matches what is
 * there, and then adds its row of W_out. */
static void mlp(MiRun *run, int l, int from, int to)
{
    const Block *w = &run->model->block[l];
    const MiShape *shape = &run->model->shape;
    from = first_needed(run, l, from);
    add(run, MI_resid_mid, l, MI_resid_pre, l, MI_attn_out, from, to);
    layernorm(run, MI_resid_mid, MI_ln2_scale, MI_ln2, l, w->ln2_gamma, w->ln2_beta, from, to);
    linear(run, MI_ln2, MI_mlp_pre, l, w->W_in, shape->d_mlp, w->b_in, from, to);
    activate(run, l, from, to);
    linear(run, MI_mlp_post, MI_mlp_out, l, w->W_out, shape->d_model, w->b_out, from, to);
    add(run, MI_resid_post, l, MI_resid_mid, l, MI_mlp_out, from, to);
}

/* Below so many multiply-adds in one product, waking other threads costs more than it saves. */
#define MIN_WORK 500000

/* A run of gradients has the sites of one of values, and nothing follows from them. */
static int check_values(const MiRun *run)
{
    return run->is_gradient ? mi_fail("this run holds gradients: only their sites can be read") : 0;
}

/* tokens [rows] -> every site of every layer from the run's first half-layer up. For a trunk that
 * is the whole model; for a fork, its cones. */
int mi_forward(MiRun *run, int from, int to)
{
    const MiModel *model = run->model;
    if (check_values(run) < 0) return -1;
    if (from < 0 || from > to || to > run->n_rows)
        return mi_fail("this run has no rows %d to %d", from, to - 1);
    int threads = run->threads, D = model->shape.d_model;
    run->failed = 0;
    if ((double)(to - from) * D * D < MIN_WORK) run->threads = 1;
    for (int half = run->half; half < 2 * model->shape.n_layer; half++)
        half & 1 ? mlp(run, half / 2, from, to) : attention(run, half / 2, from, to);
    layernorm(run, MI_resid_post, MI_ln_f_scale, MI_ln_f, 0, model->ln_f_gamma, model->ln_f_beta,
              max_int(from, run->first_read), to);
    run->threads = threads;
    return -run->failed;
}

/* ============================================================================================= */
/* Reading                                                                                       */
/*                                                                                               */
/* After a run all kept sites lie in their buffers. A lane of a fork reads like a whole run:     */
/* what its cone leaves out is its trunk's.                                                      */
/* ============================================================================================= */

/* A token is an index into wte: one that is not in it must not get so far. */
static int check_tokens(const MiModel *model, const int *tokens, int n)
{
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= model->shape.n_vocab)
            return mi_fail("token %d at position %d is not in the model's vocabulary of %d",
                           tokens[i], i, model->shape.n_vocab);
    return 0;
}

int mi_n_tokens(const MiRun *run, int lane)
{
    if (lane < 0 || lane >= run->n_lanes) return mi_fail("this run has no lane %d", lane);
    return run->lanes[lane].n_pos;
}

int mi_token(const MiRun *run, int lane, int pos)
{
    if (pos < 0 || pos >= mi_n_tokens(run, lane))
        return mi_fail("lane %d has no position %d", lane, pos);
    const Lane *l = &run->lanes[lane];
    return pos < l->t0 ? l->trunk->row_token[pos] : run->row_token[row_of(l, pos)];
}

/* Are a site's values of all layers still there after the run? */
static int kept(const MiRun *run, MiSite site)
{
    return SITES[site].place != MI_BLOCK || (run->keep >> site & 1);
}

/* Which run holds a site of a lane at a position, the lane's own or its trunk, and in which row.
 * NULL: there is no such value, nobody kept it, or the last layer left its row out. */
static const MiRun *holder(const MiRun *run, int lane, MiSite site, int layer, int pos, int *row)
{
    if (lane < 0 || lane >= run->n_lanes || (int)site < 0 || site >= MI_N_SITES || layer < 0 ||
        layer >= n_layers_of(run->model, site) || pos < 0 || pos >= run->lanes[lane].n_pos)
        return mi_fail("no such value: lane %d, site %d, layer %d, position %d", lane, (int)site,
                       layer, pos), NULL;
    const Lane *l = &run->lanes[lane];
    *row = pos < l->t0 ? 0 : row_of(l, pos);
    if (pos < l->t0 || half_of(run->model, site, layer) < run->half) {
        run = l->trunk;
        *row = pos;
    } else if (*row < run->first_read && !(site == MI_k || site == MI_v) &&
               half_of(run->model, site, layer) >= 2 * run->model->shape.n_layer - 2) {
        return mi_fail("%s of position %d was left out: only position %d of this lane is read",
                       SITES[site].name, pos, l->n_pos - 1), NULL;
    }
    if (!kept(run, site))
        return mi_fail("%s was not kept by this run", SITES[site].name), NULL;
    return run;
}

const float *mi_site(const MiRun *run, int lane, MiSite site, int layer, int pos)
{
    int row;
    run = holder(run, lane, site, layer, pos, &row);
    return run ? at(run, site, layer, row) : NULL;
}

const float *mi_head(const MiRun *run, int lane, MiSite site, int layer, int head, int pos)
{
    int row;
    run = holder(run, lane, site, layer, pos, &row);
    if (!run) return NULL;
    MiWidth width = SITES[site].width;
    if ((width != MI_HEADS && width != MI_KEYS) || head < 0 || head >= run->model->shape.n_head)
        return mi_fail("%s has no head %d", SITES[site].name, head), NULL;
    int stride = width == MI_KEYS ? run->key_stride : run->model->shape.d_head;
    return at(run, site, layer, row) + (size_t)head * stride;
}

/* logits = x W_U^T    x [rows,D] -> [rows,V]: W_U is read once for all rows. */
static void unembed(const MiRun *run, const float *x, int rows, float *logits)
{
    const MiModel *model = run->model;
    int V = model->shape.n_vocab, D = model->shape.d_model;
    run->kernel->unembed(logits, x, rows, model->W_U, V, D,
                         (double)rows * V * D < MIN_WORK ? 1 : run->threads);
}

/* logits = ln_f W_U^T    -> [V] at one position: only what is asked for is computed */
int mi_logits(const MiRun *run, int lane, int pos, float *logits)
{
    const float *x = mi_site(run, lane, MI_ln_f, 0, pos);
    if (!x || check_values(run) < 0) return -1;
    unembed(run, x, 1, logits);
    return 0;
}

int mi_logits_of(const MiRun *run, int lane, int pos, const int *tokens, int n, float *logits)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model;
    const float *x = mi_site(run, lane, MI_ln_f, 0, pos);
    if (!x || check_values(run) < 0 || check_tokens(model, tokens, n) < 0) return -1;
    for (int i = 0; i < n; i++)
        logits[i] = run->kernel->dot(x, model->W_U + (size_t)tokens[i] * D, D);
    return 0;
}

/* y = LN_f(x)    x [D], a site of that width at one position -> [D]
 * LayerNorm's mean and sigma are those of x, or with `final` those of the end of the same run: then
 * all is linear, and the contributions of the layers between add up. */
static int lens_row(const MiRun *run, int lane, MiSite site, int layer, int pos, int final,
                    float *y)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model;
    const float *x = mi_site(run, lane, site, layer, pos);
    if (!x) return -1;
    if (SITES[site].width != MI_D_MODEL) return mi_fail("%s has no lens", SITES[site].name);
    const float *end = mi_site(run, lane, MI_resid_post, model->shape.n_layer - 1, pos);
    const float *scale = mi_site(run, lane, MI_ln_f_scale, 0, pos);
    if (!end || !scale) return -1;
    float mean = run->kernel->sum(final ? end : x, D) / D;
    float sigma = final ? *scale : sigma_of(run, x, mean);
    normalize(y, x, mean, sigma, model->ln_f_gamma, model->ln_f_beta, D);
    return 0;
}

/* logits of n positions from `from` on    -> [n,V], of ln_f as it is or of a site through the lens,
 * with its own statistics or the final ones. */
enum { FINAL = 1, AS_IT_IS = 2 };
static int logits_of_rows(const MiRun *run, int lane, MiSite site, int layer, int from, int n,
                          int how, float *logits)
{
    size_t D = (size_t)run->model->shape.d_model;
    int    status = check_values(run);
    float *rows = malloc(n * D * sizeof *rows);
    if (!rows) return mi_fail("out of memory");
    for (int i = 0; i < n && status == 0; i++) {
        const float *x = mi_site(run, lane, site, layer, from + i);
        if (!x) status = -1;
        else if (how == AS_IT_IS) memcpy(rows + i * D, x, D * sizeof *x);
        else status = lens_row(run, lane, site, layer, from + i, how == FINAL, rows + i * D);
    }
    if (status == 0) unembed(run, rows, n, logits);
    free(rows);
    return status;
}

static int check_positions(const MiRun *run, int lane, int from, int to)
{
    int n = mi_n_tokens(run, lane);
    if (n < 0) return -1;
    if (from >= 0 && from < to && to <= n) return 0;
    return mi_fail("lane %d has no positions from %d up to %d: it has %d", lane, from, to, n);
}

int mi_logits_all(const MiRun *run, int lane, int from, int to, float *logits)
{
    if (check_positions(run, lane, from, to) < 0) return -1;
    return logits_of_rows(run, lane, MI_ln_f, 0, from, to - from, AS_IT_IS, logits);
}

int mi_logits_at(const MiPosition *positions, int n, float *logits)
{
    const MiRun *first = positions->run;
    size_t D = (size_t)first->model->shape.d_model;
    int    status = 0;
    float *rows = malloc(max_int(n, 1) * D * sizeof *rows);
    if (!rows) return mi_fail("out of memory");
    for (int i = 0; i < n && status == 0; i++) {
        const MiRun *run = positions[i].run;
        const float *x = mi_site(run, positions[i].lane, MI_ln_f, 0, positions[i].pos);
        if (!x || check_values(run) < 0) status = -1;
        else if (run->model != first->model)
            status = mi_fail("runs of two models cannot be read together");
        else memcpy(rows + i * D, x, D * sizeof *x);
    }
    if (status == 0) unembed(first, rows, n, logits);
    free(rows);
    return status;
}

/* The logit lens: what the model would say if x were the end of the residual stream. */
int mi_lens(const MiRun *run, int lane, MiSite site, int layer, int pos, int final, float *logits)
{
    return logits_of_rows(run, lane, site, layer, pos, 1, final ? FINAL : 0, logits);
}

int mi_lens_all(const MiRun *run, int lane, MiSite site, int layer, int from, int to, int final,
                float *logits)
{
    if (check_positions(run, lane, from, to) < 0) return -1;
    return logits_of_rows(run, lane, site, layer, from, to - from, final ? FINAL : 0, logits);
}

/* Numbers in their order, and NaN below them all. */
static int is_above(float a, float b)
{
    return a > b || (isnan(b) && !isnan(a));
}

/* The k highest of n, best first; equal ones in order of their index. Returns how many (<= n). */
int mi_top(const float *logits, int n, int k, int *top)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        int place = found;
        while (place > 0 && is_above(logits[i], logits[top[place - 1]])) place--;
        if (place >= k) continue;
        found = min_int(found + 1, k);
        memmove(top + place + 1, top + place, (found - place - 1) * sizeof *top);
        top[place] = i;
    }
    return found;
}

/* log sum_i e^logit_i, in double: what is subtracted from a logit to get a log probability, since
 * p_i = e^logit_i / sum. As in softmax, the largest is taken out first. */
double mi_log_sum_exp(const float *logits, int n)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(logits[i])) return NAN;
        if (logits[i] > max) max = logits[i];
    }
    if (!isfinite(max)) return max;
    for (int i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum);
}

/* ---- Writers: who adds to the residual stream ---- */

/* x += sign * site    x [D], at one position */
static int add_site(const MiRun *run, int lane, MiSite site, int layer, int pos, double sign,
                    double *x)
{
    const float *row = mi_site(run, lane, site, layer, pos);
    if (!row) return -1;
    for (int i = 0; i < run->model->shape.d_model; i++) x[i] += sign * row[i];
    return 0;
}

/* x += sign sum_k (z_k - b'_k) W_O[k] of one head, or with head -1 all that does not depend on what
 * heads look at: b_O + sum_k b'_k W_O[k].    b' = b_V + beta W_V: what a head writes if its pattern
 * adds up to 1, whatever it looks at. */
static int add_head(const MiRun *run, int lane, int l, int head, int pos, double sign, double *x)
{
    const Block *w = &run->model->block[l];
    int D = run->model->shape.d_model, d = run->model->shape.d_head;
    int first = head < 0 ? 0 : head * d, last = head < 0 ? D : first + d;
    const float *z = mi_site(run, lane, MI_z, l, pos);
    if (!z) return -1;
    for (int k = first; k < last; k++) {
        double b = w->b_QKV[2 * D + k];
        for (int j = 0; j < D; j++)
            b += (double)w->ln1_beta[j] * w->W_QKV[(size_t)j * 3 * D + 2 * D + k];
        for (int i = 0; i < D; i++)
            x[i] += sign * (head < 0 ? b : z[k] - b) * w->W_O[(size_t)k * D + i];
    }
    for (int i = 0; i < D && head < 0; i++) x[i] += sign * w->b_O[i];
    return 0;
}

/* Number n of the lane's edits of a sum of the stream, each sum once; NULL: there are no more. */
static const MiEdit *edited_sum(const MiRun *run, int lane, int n)
{
    const Lane *l = &run->lanes[lane];
    for (int i = 0; i < l->n_edits; i++) {
        MiSite site = l->edits[i]->site;
        int    seen = site != MI_resid_pre && site != MI_attn_out && site != MI_resid_mid &&
                      site != MI_resid_post;
        for (int j = 0; j < i; j++)
            seen |= l->edits[j]->site == site && l->edits[j]->layer == l->edits[i]->layer;
        if (!seen && n-- == 0) return l->edits[i];
    }
    return NULL;
}

int mi_n_writers(const MiRun *run, int lane)
{
    int n = 0;
    if (mi_n_tokens(run, lane) < 0 || check_values(run) < 0) return -1;
    while (edited_sum(run, lane, n)) n++;
    return 2 + run->model->shape.n_layer * (run->model->shape.n_head + 2) + n;
}

/* x += what an edit left at a sum of the stream, less what the sum would have been. */
static int add_edited(const MiRun *run, int lane, MiSite site, int l, int pos, double *x)
{
    int status = add_site(run, lane, site, l, pos, 1, x);
    if (site == MI_attn_out) {
        for (int h = -1; h < run->model->shape.n_head; h++)
            status |= add_head(run, lane, l, h, pos, -1, x);
        return status;
    }
    if (site == MI_resid_pre && l > 0)
        return status | add_site(run, lane, MI_resid_post, l - 1, pos, -1, x);
    MiSite a = site == MI_resid_pre ? MI_embed : site == MI_resid_mid ? MI_resid_pre : MI_resid_mid;
    MiSite b = site == MI_resid_pre ? MI_pos_embed : site == MI_resid_mid ? MI_attn_out
             : MI_mlp_out;
    return status | add_site(run, lane, a, l, pos, -1, x) |
           add_site(run, lane, b, l, pos, -1, x);
}

int mi_writer(const MiRun *run, int lane, int writer, int pos, double *x, MiLabel name)
{
    int H = run->model->shape.n_head, l = (writer - 2) / (H + 2), h = (writer - 2) % (H + 2);
    int n = 2 + run->model->shape.n_layer * (H + 2);
    if (writer < 0 || writer >= mi_n_writers(run, lane)) return mi_fail("no writer %d", writer);
    memset(x, 0, run->model->shape.d_model * sizeof *x);
    if (writer >= n) {
        const MiEdit *edit = edited_sum(run, lane, writer - n);
        snprintf(name, sizeof(MiLabel), "edit of L%d.%s", edit->layer, SITES[edit->site].name);
        return add_edited(run, lane, edit->site, edit->layer, pos, x);
    }
    if (writer < 2) {
        MiSite site = writer ? MI_pos_embed : MI_embed;
        snprintf(name, sizeof(MiLabel), "%s", SITES[site].name);
        return add_site(run, lane, site, 0, pos, 1, x);
    }
    if (h < H) snprintf(name, sizeof(MiLabel), "L%dH%d", l, h);
    else snprintf(name, sizeof(MiLabel), h == H ? "L%d biases" : "L%d.mlp_out", l);
    if (h > H) return add_site(run, lane, MI_mlp_out, l, pos, 1, x);
    return add_head(run, lane, l, h < H ? h : -1, pos, 1, x);
}

/* ============================================================================================= */
/* Making runs: trunks and forks                                                                 */
/*                                                                                               */
/* Everything is checked before the first number is computed, so that the forward pass has       */
/* nothing to check: edits that fit their sites, tokens that exist, cones that contain their     */
/* edits.                                                                                        */
/* ============================================================================================= */

/* How many threads a run uses if it is told `wanted`: 0 means all cores. A compiler without OpenMP
 * makes programs of one thread. */
static int threads_for(int wanted)
{
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_max_threads();
#else
    return (void)wanted, 1;
#endif
}

/* Back to the system; not with free(), since it came from mmap (see take_memory). */
static void release(Memory *memory)
{
    if (memory->at) munmap(memory->at, memory->size);
    *memory = (Memory){0};
}

void mi_free(MiRun *run)
{
    if (!run) return;
    free(run->lanes);
    free(run->row_lane);
    free(run->row_pos);
    free(run->row_token);
    release(&run->memory);
    free(run->edited);
    free(run->edit_table);
    free(run);
}

/* ---- Memory ---- */

/* What trunks keep whatever is asked: a fork may start at any layer and reads these. */
#define ALWAYS_KEPT (MI_KEEP(k) | MI_KEEP(v) | MI_KEEP(resid_pre) | MI_KEEP(attn_out) | \
                     MI_KEEP(resid_post))

/* Floats that a site takes in a run: one row after another, layer after layer if it is kept. */
static size_t site_floats(const MiModel *model, MiSite site, int rows, int key_stride, int is_kept)
{
    size_t layer = (size_t)width_of(model, site, key_stride) * rows;
    int    layers = is_kept ? n_layers_of(model, site) : 1;
    return (layer * layers + 15) / 16 * 16;
}

/* Memory of at least so many bytes: the spare block if that is large enough, or a new one. Pages
 * that are never touched cost nothing; those that are cost time once, so sweeps pass theirs on. */
static int take_memory(MiRun *run, size_t size, Memory *spare)
{
    if (spare && spare->size >= size) {
        run->memory = *spare;
        *spare = (Memory){0};
        return 0;
    }
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return mi_fail("out of memory: the activations of %d rows need %.0f MB; a shorter prompt "
                       "or fewer samples need less", run->capacity, size / 1e6);
    run->memory = (Memory){ at, size };
#ifdef MADV_HUGEPAGE
    madvise(at, size, MADV_HUGEPAGE);
#endif
    return 0;
}

/* Give each site its own buffer; all of them lie in one block of memory. What functions of the
 * caller's look at is kept, and in the last layer nothing is left out. */
static int allocate_sites(MiRun *run, Memory *spare)
{
    const MiModel *model = run->model;
    size_t total = 0, offset[MI_N_SITES];
    for (const Lane *lane = run->lanes; lane < run->lanes + run->n_lanes; lane++)
        for (int i = 0; i < lane->n_edits; i++)
            if (lane->edits[i]->sees)
                run->keep |= lane->edits[i]->sees & MI_KEEP_ALL, run->first_read = 0;
    for (int site = 0; site < MI_N_SITES; site++) {
        int is_kept = kept(run, site);
        if (is_kept && SITES[site].place == MI_BLOCK)
            run->layer_stride[site] =
                (size_t)width_of(model, site, run->key_stride) * run->capacity;
        offset[site] = total;
        total += site_floats(model, site, run->capacity, run->key_stride, is_kept);
    }
    if (take_memory(run, total * sizeof(float), spare) < 0) return -1;
    for (int site = 0; site < MI_N_SITES; site++)
        run->buffer[site] = (float *)run->memory.at + offset[site];
    return 0;
}

/* An empty run, which has no edits and no buffers yet. keys: the longest row of scores. Rows of
 * scores are padded to 16 keys, so that kernels read whole vectors. */
static MiRun *new_run(const MiModel *model, int n_lanes, int capacity, int keys, uint64_t keep,
                      int n_edits)
{
    MiRun *run = calloc(1, sizeof *run);
    if (!run) return mi_fail("out of memory"), NULL;
    run->model = model;
    run->capacity = capacity;
    run->n_lanes = n_lanes;
    run->keep = keep;
    run->key_stride = round_up(keys, 16);
    run->lanes = calloc(n_lanes, sizeof *run->lanes);
    run->row_lane = calloc(capacity, sizeof(int));
    run->row_pos = calloc(capacity, sizeof(int));
    run->row_token = calloc(capacity, sizeof(int));
    run->edited = calloc(MI_N_SITES, model->shape.n_layer);
    run->edit_table = calloc(n_edits + 1, sizeof *run->edit_table);
    if (run->lanes && run->row_lane && run->row_pos && run->row_token && run->edited &&
        run->edit_table)
        return run;
    mi_fail("out of memory");
    mi_free(run);
    return NULL;
}

/* ---- Trunks ---- */

/* Does an edit fit its site? Columns beyond the row would be another row's numbers. */
static int check_edit(const MiModel *model, const MiEdit *edit)
{
    const MiShape *shape = &model->shape;
    if ((int)edit->site < 0 || edit->site >= MI_N_SITES) return mi_fail("no such site");
    const MiSiteInfo *info = &SITES[edit->site];
    int keys = info->width == MI_KEYS;
    int width = keys ? shape->n_ctx : width_of(model, edit->site, 0);
    if (edit->layer < 0 || edit->layer >= n_layers_of(model, edit->site))
        return mi_fail("%s has no layer %d", info->name, edit->layer);
    if (keys && (edit->head < 0 || edit->head >= shape->n_head))
        return mi_fail("%s has no head %d", info->name, edit->head);
    if (!keys && edit->head != -1 && edit->head != 0)
        return mi_fail("an edit of %s cannot choose head %d: its columns say which", info->name,
                       edit->head);
    if ((int)edit->op < 0 || edit->op > MI_CALL)
        return mi_fail("there is no operation %d", (int)edit->op);
    if (!edit->call != (edit->op != MI_CALL) || (edit->sees && !edit->call))
        return mi_fail("an edit of %s: MI_CALL, and it alone, has a function, which sees sites",
                       info->name);
    if ((edit->basis || edit->rank) && (edit->op != MI_MIX || keys || edit->rank < 1))
        return mi_fail("an edit of %s cannot have a basis of rank %d", info->name, edit->rank);
    if (edit->first < 0 || edit->count < 1 || edit->count > width - edit->first)
        return mi_fail("%s has no columns %d to %lld", info->name, edit->first,
                       (long long)edit->first + edit->count - 1);
    if (edit->pos < 0 || edit->pos_end <= edit->pos)
        return mi_fail("an edit of %s touches no position", info->name);
    if (!edit->value && (edit->op == MI_MIX || edit->op == MI_ADD || edit->op == MI_PROJECT))
        return mi_fail("an edit of %s has no value", info->name);
    if (!edit->value && edit->from != MI_FROM_VALUE)
        return mi_fail("an edit of %s is not bound to its value yet", info->name);
    return 0;
}

/* Give a lane its edits: its trunk's first (they hold in every lane), then its own, sorted by
 * `order`. Stable: equal orders keep their sequence. Returns how many, or -1. */
static int lane_edits(MiRun *run, Lane *lane, const MiEdit **table, const MiEdit *own, int n_own)
{
    int n = 0;
    lane->edits = table;
    for (int i = 0; lane->trunk && i < lane->trunk->lanes[0].n_edits; i++)
        table[n++] = lane->trunk->lanes[0].edits[i];
    for (int i = 0; i < n_own; i++) {
        if (check_edit(run->model, &own[i]) < 0) return -1;
        for (int site = 0; site < MI_N_SITES && lane->trunk; site++)
            if (own[i].sees >> site & 1 && !kept(lane->trunk, site))
                return mi_fail("a function looks at %s, which its trunk did not keep",
                               SITES[site].name);
        table[n++] = &own[i];
    }
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && table[j - 1]->order > table[j]->order; j--) {
            const MiEdit *swap = table[j];
            table[j] = table[j - 1];
            table[j - 1] = swap;
        }
    for (int i = 0; i < n; i++)
        run->edited[table[i]->site * run->model->shape.n_layer + table[i]->layer] = 1;
    lane->n_edits = n;
    return n;
}

MiRun *mi_run(const MiModel *model, const int *tokens, int n, const MiEdits *edits,
              const MiOptions *options)
{
    static const MiOptions defaults;
    if (!options) options = &defaults;
    int capacity = max_int(options->capacity, n);
    int n_edits = edits ? edits->n : 0;
    if (n < 1) return mi_fail("a run needs at least one token"), NULL;
    if (capacity > model->shape.n_ctx)
        return mi_fail("%d tokens do not fit: this model's context is %d", capacity,
                       model->shape.n_ctx), NULL;
    uint64_t keep = options->keep ? options->keep | ALWAYS_KEPT : MI_KEEP_ALL;
    if (options->keep & MI_KEEP_CACHE)
        keep = options->keep | MI_KEEP(k) | MI_KEEP(v);
    MiRun *run = new_run(model, 1, capacity, capacity, keep, n_edits);
    if (!run) return NULL;
    run->threads = threads_for(options->threads);
    run->kernel = options->naive ? &naive_kernels : &fast_kernels;
    if (lane_edits(run, &run->lanes[0], run->edit_table, edits ? edits->at : NULL, n_edits) < 0 ||
        allocate_sites(run, NULL) < 0 || mi_append(run, tokens, n) < 0) {
        mi_free(run);
        return NULL;
    }
    return run;
}

/* The whole pass of the lane once more, keeping nothing, while hook() looks at each site. */
int mi_first_nonfinite(const MiRun *run, int lane, MiSite *site, int *layer, int *pos)
{
    int n = mi_n_tokens(run, lane), status = -1;
    if (n < 0 || check_values(run) < 0) return -1;
    const Lane *of = &run->lanes[lane];
    NoNumber    first = { 0 };
    int        *tokens = malloc((size_t)n * sizeof *tokens);
    MiRun      *again = new_run(run->model, 1, n, n, MI_KEEP_CACHE | MI_KEEP(k) | MI_KEEP(v),
                                of->n_edits);
    if (tokens && again) {
        for (int t = 0; t < n; t++) tokens[t] = mi_token(run, lane, t);
        again->threads = run->threads;
        again->kernel = run->kernel;
        again->no_number = &first;
        again->lanes[0].edits = memcpy(again->edit_table, of->edits,
                                       (size_t)of->n_edits * sizeof *of->edits);
        again->lanes[0].n_edits = of->n_edits;
        memcpy(again->edited, run->edited, (size_t)MI_N_SITES * run->model->shape.n_layer);
        if (allocate_sites(again, NULL) == 0) status = mi_append(again, tokens, n);
    } else if (!tokens) {
        mi_fail("out of memory");
    }
    mi_free(again);
    free(tokens);
    if (status < 0 || !first.found) return status;
    *site = first.site, *layer = first.layer, *pos = first.pos;
    return 1;
}

/* Only a trunk grows, and in place: a new row reads the keys and values of the rows before it,
 * which is all that is known as a "KV cache". */
int mi_append(MiRun *run, const int *tokens, int n)
{
    int from = run->n_rows;
    if (run->lanes[0].trunk) return mi_fail("a fork cannot grow");
    if (n < 0 || n > run->capacity - from)
        return mi_fail("%d tokens do not fit: this run holds %d", from + n, run->capacity);
    if (check_tokens(run->model, tokens, n) < 0) return -1;
    for (int i = 0; i < n; i++) {
        run->row_pos[from + i] = from + i;
        run->row_token[from + i] = tokens[i];
    }
    run->lanes[0].n_pos = run->n_rows = from + n;
    run->lanes[0].last_row = from + n - 1;
    if (mi_forward(run, from, from + n) == 0) return 0;
    run->lanes[0].n_pos = run->n_rows = from;           /* a function of the caller's failed */
    run->lanes[0].last_row = from - 1;
    return -1;
}

/* ---- Forks ---- */

/* The positions of a lane, 0 .. n-1. Nothing that comes after the one that is read can change it:
 * so nothing after it is computed. */
static int positions_of(const MiLane *lane)
{
    return lane->read > 0 ? lane->read : lane->trunk->n_rows;
}

/* The cone of a lane's own edits: its first half-layer, *half, and its first position, *t0. */
static int cone(const MiModel *model, const MiLane *lane, int *half, int *t0)
{
    int n_pos = positions_of(lane);
    *half = 2 * model->shape.n_layer;
    *t0 = n_pos - 1;
    for (int i = 0; i < lane->n_edits; i++) {
        const MiEdit *edit = &lane->edits[i];
        if (check_edit(model, edit) < 0) return -1;
        if (edit->pos >= n_pos && lane->read) continue; /* outside the cone that is read */
        if (edit->pos >= n_pos)
            return mi_fail("an edit of %s at position %d: the last one that is read is %d",
                           SITES[edit->site].name, edit->pos, n_pos - 1);
        *half = min_int(*half, half_of(model, edit->site, edit->layer));
        *t0 = min_int(*t0, edit->pos);
    }
    return 0;
}

/* Check the lanes of a fork and find where it begins: *half, and each lane's t0 into t0[]. A caller
 * may ask for more than the cones (to read what did not change in the fork itself), never less;
 * only a sweep knows from where on its edits change anything (planned). */
static int plan_fork(const MiLane *lanes, int n_lanes, int planned, int *half, int *t0)
{
    if (n_lanes < 1) return mi_fail("a fork needs at least one lane");
    const MiModel *model = lanes[0].trunk->model;
    int lowest = 2 * model->shape.n_layer;
    for (int i = 0; i < n_lanes; i++) {
        const MiLane *lane = &lanes[i];
        int edit_half, edit_t0;
        if (lane->trunk->model != model) return mi_fail("lanes of a fork share one model");
        if (lane->trunk->lanes[0].trunk) return mi_fail("a fork cannot be a trunk");
        if (check_values(lane->trunk) < 0) return -1;
        if (ALWAYS_KEPT & ~lane->trunk->keep)
            return mi_fail("a run with MI_KEEP_CACHE cannot be a trunk");
        if (lane->read < 0 || lane->read > lane->trunk->n_rows || !lane->read != !lanes[0].read)
            return mi_fail("lane %d: either all lanes are read at one of their positions, or none",
                           i);
        if (cone(model, lane, &edit_half, &edit_t0) < 0) return -1;
        if (lane->t0 >= positions_of(lane))
            return mi_fail("lane %d starts at position %d: its last one is %d", i, lane->t0,
                           positions_of(lane) - 1);
        if (lane->n_edits && ((lane->t0 > edit_t0 && !planned) || *half > edit_half))
            return mi_fail("lane %d has an edit outside its cone: it starts at half-layer %d, "
                           "position %d; the edit at half-layer %d, position %d", i, *half,
                           lane->t0, edit_half, edit_t0);
        t0[i] = lane->t0 < 0 ? edit_t0 : lane->t0;
        lowest = min_int(lowest, edit_half);
    }
    if (*half > 2 * model->shape.n_layer)
        return mi_fail("there is no half-layer %d; the last is %d", *half,
                       2 * model->shape.n_layer);
    if (*half < 0) *half = lowest;
    return 0;
}

/* Give the lanes of a fork their rows, as in the drawing of "What a run is". */
static void lay_out_rows(MiRun *fork, const MiLane *lanes, const int *t0)
{
    int apart = lanes[0].read > 0, last = fork->capacity - (apart ? fork->n_lanes : 0);
    fork->first_read = apart ? last : 0;
    for (int i = 0; i < fork->n_lanes; i++) {
        Lane *lane = &fork->lanes[i];
        *lane = (Lane){ .trunk = lanes[i].trunk, .t0 = t0[i], .n_pos = positions_of(&lanes[i]),
                        .first_row = fork->n_rows };
        int n = lane->n_pos - lane->t0;
        fork->n_rows += apart ? n - 1 : n;
        lane->last_row = apart ? last++ : fork->n_rows - 1;
        for (int t = lane->t0; t < lane->n_pos; t++) {
            int row = row_of(lane, t);
            fork->row_lane[row] = i;
            fork->row_pos[row] = t;
            fork->row_token[row] = lane->trunk->row_token[t];
        }
    }
    fork->n_rows = fork->capacity;
}

/* A fork, of a sweep in the memory of another one that is gone (else NULL): plan it, give every
 * lane its rows and its edits, then compute. All is counted first, so that nothing has to grow. */
static MiRun *fork_in(const MiLane *lanes, int n_lanes, int half, uint64_t keep, Memory *spare)
{
    int *t0 = malloc(max_int(n_lanes, 1) * sizeof *t0);
    if (!t0) return mi_fail("out of memory"), NULL;
    if (plan_fork(lanes, n_lanes, spare != NULL, &half, t0) < 0) return free(t0), NULL;

    int     keys = 0;
    int64_t rows = 0, n_edits = 0;
    for (int i = 0; i < n_lanes; i++) {
        rows += positions_of(&lanes[i]) - t0[i];
        keys = max_int(keys, positions_of(&lanes[i]));
        n_edits += lanes[i].trunk->lanes[0].n_edits + lanes[i].n_edits;
    }
    const MiRun *first = lanes[0].trunk;
    if (rows > INT_MAX / first->model->shape.n_head || n_edits > INT_MAX - 1)
        return free(t0), mi_fail("a fork of %lld rows and %lld edits is too large",
                                 (long long)rows, (long long)n_edits), NULL;
    MiRun *fork = new_run(first->model, n_lanes, (int)rows, keys, keep ? keep : MI_KEEP_ALL,
                          (int)n_edits);
    if (!fork) return free(t0), NULL;
    fork->threads = first->threads;
    fork->kernel = first->kernel;
    fork->half = half;
    lay_out_rows(fork, lanes, t0);
    free(t0);
    const MiEdit **table = fork->edit_table;
    int n = 0;
    for (int i = 0; i < n_lanes && n >= 0; i++, table += n)
        n = lane_edits(fork, &fork->lanes[i], table, lanes[i].edits, lanes[i].n_edits);
    if (n >= 0 && allocate_sites(fork, spare) == 0 && mi_forward(fork, 0, fork->n_rows) == 0)
        return fork;
    mi_free(fork);
    return NULL;
}

MiRun *mi_fork(const MiLane *lanes, int n_lanes, int half, uint64_t keep)
{
    return fork_in(lanes, n_lanes, half, keep, NULL);
}

/* ============================================================================================= */
/* Sweeps: one experiment per cell                                                               */
/*                                                                                               */
/* "Which head matters?" is one run per head. Each cell of the answer is a lane; lanes of        */
/* similar cones share a fork, and so read the weights once for all of them.                     */
/* ============================================================================================= */

/* The first position at which an edit writes something else than the trunk has there anyway, or
 * n_pos: each number is tried, for x + amount (v - x) is not always x where v is x: -0 becomes 0,
 * infinity not a number. Only if no held edit comes after at the same place, which would have
 * changed what the trunk shows. */
static int first_change(const MiRun *trunk, const MiEdit *edit, int n_pos)
{
    const Lane *held = &trunk->lanes[0];
    int last = min_int(edit->pos_end, n_pos), keys = SITES[edit->site].width == MI_KEYS;
    if (edit->pos >= last) return n_pos;
    if ((edit->op != MI_SET && edit->op != MI_MIX) || edit->basis || !kept(trunk, edit->site))
        return edit->pos;
    for (int j = 0; j < held->n_edits; j++)
        if (held->edits[j]->site == edit->site && held->edits[j]->layer == edit->layer)
            return edit->pos;
    for (int t = edit->pos; t < last; t++) {
        const float *x = at(trunk, edit->site, edit->layer, t) + edit->first;
        const float *v = NULL;
        if (edit->value) v = edit->value + (t - edit->pos) * edit->value_stride;
        int count = keys ? min_int(edit->count, t + 1 - edit->first) : edit->count;
        if (keys) x += (size_t)edit->head * trunk->key_stride;
        for (int c = 0; c < count; c++) {
            float written = x[c];
            apply_edit(trunk, edit, &written, v ? &v[c] : NULL, 1, t);
            if (memcmp(&written, &x[c], sizeof written)) return t;
        }
    }
    return n_pos;
}

enum { SWEEP_ROWS = 512 };                              /* of one fork of a sweep */

typedef struct { int cell, half, t0, rows; } Job;       /* a cell that has to be computed */

static int by_half(const void *a, const void *b)
{
    const Job *x = a, *y = b;
    return x->half != y->half ? x->half - y->half : x->cell - y->cell;
}

/* The cells of a sweep that have to be computed -> jobs, in the order in which their cones begin.
 * Before the first position that any of its edits changes, a cell is its trunk, bit for bit, and
 * nothing needs to be computed: so the words with which source and prompt begin cost nothing. Left
 * out are cells that touch no position that is read, and those that change nothing. */
static int plan_sweep(const MiSweep *sweep, Job *jobs)
{
    int n = 0;
    if (check_values(sweep->trunk) < 0) return -1;
    for (int cell = 0; cell < sweep->n_cells; cell++) {
        int     first = sweep->first[cell], t0, half, changed;
        MiLane  lane = { sweep->trunk, sweep->edits + first, sweep->first[cell + 1] - first, -1,
                         sweep->read };
        int     n_pos = changed = positions_of(&lane);
        for (int i = 0; i < lane.n_edits; i++) {
            if (check_edit(sweep->trunk->model, &lane.edits[i]) < 0) return -1;
            changed = first_change(sweep->trunk, &lane.edits[i], changed);
        }
        if (changed == n_pos) continue;
        if (cone(sweep->trunk->model, &lane, &half, &t0) < 0) return -1;
        jobs[n++] = (Job){ cell, half, changed, n_pos - changed };
    }
    qsort(jobs, n, sizeof *jobs, by_half);
    return n;
}

/* A metric's value: an error if it is not a number because a reading in it failed. */
static int measure(const MiSweep *sweep, const MiRun *run, int lane, double *value)
{
    error_text[0] = 0;
    *value = sweep->metric(sweep->context, run, lane);
    return isnan(*value) && error_text[0] ? -1 : 0;
}

/* Run every cell as a lane, a few hundred rows to a fork, and measure each: values [n_cells].
 * The more rows in a product, the better it uses what it reads of the weights, until activations
 * leave the cache. A fork begins at its lowest half-layer for all its lanes, so once it has some
 * rows, a cell that begins higher up waits for the next one. */
int mi_sweep(const MiSweep *sweep, double *values)
{
    Job    *jobs = malloc(max_int(sweep->n_cells, 1) * sizeof *jobs);
    MiLane *lanes = malloc(SWEEP_ROWS * sizeof *lanes);
    Memory  spare = {0};
    int     n = jobs && lanes ? plan_sweep(sweep, jobs) : mi_fail("out of memory");
    double  unchanged = 0;
    int     status = n < 0 ? -1 : measure(sweep, sweep->trunk, 0, &unchanged);
    for (int i = 0; i < sweep->n_cells; i++) values[i] = unchanged;
    for (int done = 0; done < n && status == 0;) {
        int n_lanes = 0, rows = 0;
        while (done + n_lanes < n && n_lanes < SWEEP_ROWS &&
               (n_lanes == 0 || rows + jobs[done + n_lanes].rows <= SWEEP_ROWS) &&
               (rows < 128 || jobs[done + n_lanes].half == jobs[done].half)) {
            const Job *job = &jobs[done + n_lanes];
            int first = sweep->first[job->cell];
            rows += job->rows;
            lanes[n_lanes++] = (MiLane){ sweep->trunk, sweep->edits + first,
                                         sweep->first[job->cell + 1] - first, job->t0,
                                         sweep->read };
        }
        MiRun *fork = fork_in(lanes, n_lanes, -1, MI_KEEP_NONE, &spare);
        if (!fork) status = -1;
        for (int i = 0; i < n_lanes && status == 0; i++)
            status = measure(sweep, fork, i, &values[jobs[done + i].cell]);
        release(&spare);                                /* it was too small, if it is still there */
        if (fork) spare = fork->memory, fork->memory = (Memory){0};
        mi_free(fork);
        done += n_lanes;
        if (sweep->progress && status == 0) sweep->progress(sweep->context, done, n);
    }
    release(&spare);
    free(jobs);
    free(lanes);
    return status;
}

/* ============================================================================================= */
/* The backward pass                                                                             */
/*                                                                                               */
/* What would a metric gain if a site changed a little? Its gradient answers for every number of */
/* every site, from one walk down the model. Each part of the forward pass has a twin here: it   */
/* takes the gradient of what the part made, dy, and leaves that of what it read, dx. A site with */
/* several readers gets the sum. Gradients lie in a run of their own, under the sites' names.    */
/* ============================================================================================= */

typedef struct {
    const MiRun *of;            /* the values, those of its lane: see value() */
    int          lane, n;       /* positions 0 .. n-1: later ones cannot change the metric */
    MiRun       *run;           /* the gradients: row t is position t */
    float       *before;        /* [n,widest] room for unhook() */
    float       *side;          /* [n,3D] room for q, k and v side by side */
} Backward;

static const float *value(const Backward *b, MiSite site, int layer, int t)
{
    return mi_site(b->of, b->lane, site, layer, t);
}

/* g [n] <- the gradient before an edit, from that after it: what is set has no past, what is added
 * changes nothing, and a projection is its own transpose. Twin of apply_edit(). */
static void unapply_edit(const MiRun *run, const MiEdit *edit, float *g, const float *v, int n)
{
    float share = edit->op == MI_MIX && !edit->basis ? 1 - edit->amount
                : edit->op == MI_SCALE ? edit->amount : 1;
    float along = edit->op == MI_PROJECT ? run->kernel->dot(g, v, n) : 0;
    for (int r = 0; r < edit->rank; r++) {
        const float *b = edit->basis + (size_t)r * n;
        float part = edit->amount * run->kernel->dot(g, b, n);
        for (int i = 0; i < n; i++) g[i] -= part * b[i];
    }
    for (int i = 0; i < n; i++)
        g[i] = edit->op == MI_SET ? 0 : edit->op == MI_PROJECT ? g[i] - along * v[i] : share * g[i];
}

/* The gradient of a site before its edits, [n,width], of which rows from <= t < n are there: in the
 * site's buffer is that of what was read, the edited value. Called by each twin on what it takes,
 * as each part calls hook() on what it made. */
static const float *unhook(const Backward *b, MiSite site, int layer, int from)
{
    const MiRun *run = b->run;
    const Lane  *lane = &b->of->lanes[b->lane];
    size_t       width = (size_t)width_of(run->model, site, run->key_stride);
    if (!b->of->edited[site * run->model->shape.n_layer + layer]) return at(run, site, layer, 0);
    memcpy(b->before + from * width, at(run, site, layer, from),
           (b->n - from) * width * sizeof(float));
    for (int i = lane->n_edits - 1; i >= 0; i--) {
        const MiEdit *edit = lane->edits[i];
        if (edit->site != site || edit->layer != layer) continue;
        for (int t = max_int(edit->pos, from); t < min_int(edit->pos_end, b->n); t++) {
            int    keys = SITES[site].width == MI_KEYS;
            int    count = keys ? min_int(edit->count, t + 1 - edit->first) : edit->count;
            float *g = b->before + t * width + edit->first;
            if (keys) g += (size_t)edit->head * run->key_stride;
            size_t value_row = (t - edit->pos) * edit->value_stride;
            unapply_edit(run, edit, g, edit->value ? edit->value + value_row : NULL, count);
        }
    }
    return b->before;
}

/* y = a + c:  da = dy, dc = dy    c = NONE: y = a */
static void add_back(const Backward *b, MiSite y, int layer, MiSite a, int layer_a, int c, int from)
{
    size_t       D = (size_t)b->run->model->shape.d_model, size = (b->n - from) * D * sizeof(float);
    const float *dy = unhook(b, y, layer, from) + from * D;
    memcpy(at(b->run, a, layer_a, from), dy, size);
    if (c != NONE) memcpy(at(b->run, c, layer_a, from), dy, size);
}

/* y_i = (x_i - mean) / sigma * gamma_i + beta_i.  With g_i = dy_i gamma_i:
 *     dx_i += (g_i - mean(g)) / sigma
 *     dsigma = - sum_i g_i (x_i - mean) / sigma^2, which is returned
 * How x reaches y, less what all lose by the mean. In double: the sums cancel. */
static float normalize_back(const MiRun *run, const float *dy, const weight *gamma, const float *x,
                            float sigma, float *dx)
{
    int    D = run->model->shape.d_model;
    float  mean = run->kernel->sum(x, D) / D;
    double sum = 0, along = 0;
    for (int i = 0; i < D; i++) {
        double g = (double)dy[i] * gamma[i];
        sum += g;
        along += g * (x[i] - mean);
    }
    for (int i = 0; i < D; i++) dx[i] += (float)(((double)dy[i] * gamma[i] - sum / D) / sigma);
    return (float)(-along / ((double)sigma * sigma));
}

/* dx_i += dsigma (x_i - mean) / (D sigma):  how x reaches sigma, as that was before its own edits.
 * Together nothing is left along x - mean: LayerNorm does not see the length of its input. */
static void sigma_back(const MiRun *run, float dsigma, const float *x, float *dx)
{
    int   D = run->model->shape.d_model;
    float mean = run->kernel->sum(x, D) / D, sigma = sigma_of(run, x, mean);
    for (int i = 0; i < D; i++) dx[i] += dsigma * (x[i] - mean) / (D * sigma);
}

/* y = LayerNorm(x): both ways */
static void layernorm_back(const Backward *b, MiSite x, MiSite scale, MiSite y, int layer,
                           const weight *gamma, int from)
{
    const MiRun *run = b->run;
    int D = run->model->shape.d_model;
    int x_layer = SITES[x].place == SITES[y].place ? layer : run->model->shape.n_layer - 1;
    const float *dy = unhook(b, y, layer, from);
    #pragma omp parallel for num_threads(run->threads) if (b->n - from > 16)
    for (int t = from; t < b->n; t++)
        *at(run, scale, layer, t) =
            normalize_back(run, dy + (size_t)t * D, gamma, value(b, x, x_layer, t),
                           *value(b, scale, layer, t), at(run, x, x_layer, t));
    const float *dsigma = unhook(b, scale, layer, from);
    #pragma omp parallel for num_threads(run->threads) if (b->n - from > 16)
    for (int t = from; t < b->n; t++)
        sigma_back(run, dsigma[t], value(b, x, x_layer, t), at(run, x, x_layer, t));
}

/* y = x W + b:  dx = dy W^T    site y [rows,out], W [in,out] -> site x [rows,in]
 * dx_i is the dot product of dy with row i of W: an unembedding, with W for W_U. */
static void linear_back(const Backward *b, MiSite x, MiSite y, int layer, const weight *W, int from)
{
    int in = width_of(b->run->model, x, 0), out = width_of(b->run->model, y, 0);
    const float *dy = unhook(b, y, layer, from) + (size_t)from * out;
    b->run->kernel->unembed(at(b->run, x, layer, from), dy, b->n - from, W, in, out,
                            b->run->threads);
}

/* GELU'(x) = s + 2 x s (1 - s) u',  s = 1 / (1 + e^(-2u)),  u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
 * (u as in naive_gelu.) Far from 0 it is 0 or 1, where x^2 may be infinite and s (1 - s) is 0. */
static float gelu_slope(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * (x * x * x)), s = 1 / (1 + naive_exp(-2 * u));
    float bend = 2 * s * (1 - s);
    if (bend == 0) return s;
    return s + x * bend * (0.7978845608f * (1 + 3 * 0.044715f * (x * x)));
}

/* mlp_post = GELU(mlp_pre):  dx = dy GELU'(x)    [n,F] -> [n,F] */
static void activate_back(const Backward *b, int l, int from)
{
    int          F = b->run->model->shape.d_mlp;
    const float *dy = unhook(b, MI_mlp_post, l, from);
    #pragma omp parallel for num_threads(b->run->threads) if (b->n - from > 1)
    for (int t = from; t < b->n; t++) {
        const float *x = value(b, MI_mlp_pre, l, t);
        float       *dx = at(b->run, MI_mlp_pre, l, t);
        for (int i = 0; i < F; i++) dx[i] = dy[(size_t)t * F + i] * gelu_slope(x[i]);
    }
}

/* The rows of k or v of a layer side by side, as kernels read them    -> side [n,D] */
static Keys gather(const Backward *b, MiSite site, int l)
{
    int D = b->run->model->shape.d_model;
    for (int t = 0; t < b->n; t++)
        memcpy(b->side + (size_t)t * D, value(b, site, l, t), D * sizeof(float));
    return (Keys){ .below = b->side, .own = b->side, .last = b->side, .t0 = b->n, .n = b->n,
                   .stride = D, .scale = 1 };
}

/* y_j += a_j x    a [n], x [d] -> y [n,d], rows D apart: what one query sends to the keys it saw */
static void spread(float *y, const float *a, const float *x, int n, int d, int D)
{
    for (int j = 0; j < n; j++)
        for (int c = 0; c < d; c++) y[(size_t)j * D + c] = fma1(a[j], x[c], y[(size_t)j * D + c]);
}

/* z_t = sum_j pattern_tj v_j:  dpattern_tj = dz_t . v_j, which is a score with v for k, and
 * dv_j = sum_t pattern_tj dz_t    dz [n,H,d] -> [n,H,keys], [n,H,d] */
static void z_back(const Backward *b, int l, int from)
{
    const MiRun *run = b->run;
    int    H = run->model->shape.n_head, d = run->model->shape.d_head, D = H * d;
    size_t stride = (size_t)H * run->key_stride;
    Keys   values = gather(b, MI_v, l);
    float *dv = at(run, MI_v, l, 0);
    const float *dz = unhook(b, MI_z, l, from);
    memset(dv, 0, (size_t)b->n * D * sizeof *dv);
    #pragma omp parallel for num_threads(run->threads)
    for (int h = 0; h < H; h++) {
        run->kernel->scores(at(run, MI_pattern, l, from) + (size_t)h * run->key_stride, stride,
                            dz + (size_t)from * D + h * d, b->n - from, &values, h * d, from + 1,
                            d);
        for (int t = from; t < b->n; t++)
            spread(dv + h * d, mi_head(b->of, b->lane, MI_pattern, l, h, t),
                   dz + (size_t)t * D + h * d, t + 1, d, D);
    }
}

/* a = softmax(s):  ds_j = a_j (da_j - sum_i a_i da_i)    [n,H,keys] -> [n,H,keys]
 * What one key gains, all others lose; where nothing is left to look at, a is 0 and so is ds. The
 * pattern is computed again: edits may have changed the one that was kept. */
static void softmax_back(const Backward *b, int l, int from)
{
    const MiRun *run = b->run;
    int          H = run->model->shape.n_head;
    const float *da = unhook(b, MI_pattern, l, from);
    #pragma omp parallel for schedule(dynamic, 16) num_threads(run->threads) if (b->n - from > 4)
    for (int i = from * H; i < b->n * H; i++) {
        int    h = i % H, t = i / H, n = t + 1;
        size_t head = (size_t)i * run->key_stride;
        float *a = at(run, MI_scores, l, 0) + head;
        memcpy(a, mi_head(b->of, b->lane, MI_scores, l, h, t), n * sizeof *a);
        run->kernel->softmax(a, n);
        float sum = run->kernel->dot(a, da + head, n);
        for (int j = 0; j < n; j++) a[j] *= da[head + j] - sum;
    }
}

/* s_tj = q_t . k_j scale:  dq_t = scale sum_j ds_tj k_j, which is a mix with k for v, and
 * dk_j = scale sum_t ds_tj q_t    ds [n,H,keys] -> [n,H,d], [n,H,d] */
static void scores_back(const Backward *b, int l, int from)
{
    const MiRun *run = b->run;
    int    H = run->model->shape.n_head, d = run->model->shape.d_head, D = H * d;
    size_t stride = (size_t)H * run->key_stride;
    Keys   keys = gather(b, MI_k, l);
    float *dq = at(run, MI_q, l, 0), *dk = at(run, MI_k, l, 0);
    float  scale = run->model->block[l].score_scale;
    const float *ds = unhook(b, MI_scores, l, from);
    memset(dk, 0, (size_t)b->n * D * sizeof *dk);
    #pragma omp parallel for num_threads(run->threads)
    for (int h = 0; h < H; h++) {
        const float *of_head = ds + (size_t)h * run->key_stride;
        run->kernel->mix(dq + (size_t)from * D + h * d, of_head + from * stride, stride,
                         b->n - from, &keys, h * d, from + 1, d);
        for (int t = from; t < b->n; t++)
            spread(dk + h * d, of_head + t * stride, value(b, MI_q, l, t) + h * d, t + 1, d, D);
    }
    for (size_t i = (size_t)from * D; i < (size_t)b->n * D; i++) dq[i] *= scale;
    for (size_t i = 0; i < (size_t)b->n * D; i++) dk[i] *= scale;
}

/* q, k, v = ln1 W_Q + b_Q, ...:  dln1 = dq W_Q^T + dk W_K^T + dv W_V^T, which is one product of
 * [dq dk dv] [n,3D] with W_QKV [D,3D]. */
static void qkv_back(const Backward *b, int l)
{
    int D = b->run->model->shape.d_model;
    for (int i = 0; i < 3; i++) {
        const float *dy = unhook(b, MI_q + i, l, 0);
        for (int t = 0; t < b->n; t++)
            memcpy(b->side + ((size_t)t * 3 + i) * D, dy + (size_t)t * D, D * sizeof(float));
    }
    b->run->kernel->unembed(at(b->run, MI_ln1, l, 0), b->side, b->n, b->run->model->block[l].W_QKV,
                            D, 3 * D, b->run->threads);
}

/* Half-layer 2l+1, down from resid_post; rows below `from` have no part in the metric. */
static void mlp_back(const Backward *b, int l, int from)
{
    const Block *w = &b->run->model->block[l];
    add_back(b, MI_resid_post, l, MI_resid_mid, l, MI_mlp_out, from);
    linear_back(b, MI_mlp_post, MI_mlp_out, l, w->W_out, from);
    activate_back(b, l, from);
    linear_back(b, MI_ln2, MI_mlp_pre, l, w->W_in, from);
    layernorm_back(b, MI_resid_mid, MI_ln2_scale, MI_ln2, l, w->ln2_gamma, from);
}

/* Half-layer 2l, down from resid_mid. Its keys and values are where other positions come in. */
static void attention_back(const Backward *b, int l, int from)
{
    const Block *w = &b->run->model->block[l];
    add_back(b, MI_resid_mid, l, MI_resid_pre, l, MI_attn_out, from);
    linear_back(b, MI_z, MI_attn_out, l, w->W_O, from);
    z_back(b, l, from);
    softmax_back(b, l, from);
    scores_back(b, l, from);
    qkv_back(b, l);
    layernorm_back(b, MI_resid_pre, MI_ln1_scale, MI_ln1, l, w->ln1_gamma, 0);
    if (l == 0) add_back(b, MI_resid_pre, 0, MI_embed, 0, MI_pos_embed, 0);
    else add_back(b, MI_resid_pre, l, MI_resid_post, l - 1, NONE, 0);
}

/* logits = ln_f W_U^T:  dln_f = dlogits W_U. Then everything below, of the last position that the
 * metric looks at: in the last layer only keys and values of other positions have reached it. Or
 * from the end of the stream, dresid [n,D], if that is given. */
static void backward(const Backward *b, const float *dlogits, const float *dresid)
{
    const MiModel *model = b->run->model;
    int L = model->shape.n_layer, D = model->shape.d_model, last = b->n - 1;
    memset(b->side, 0, D * sizeof *b->side);                    /* no bias */
    if (dresid)
        memcpy(at(b->run, MI_resid_post, L - 1, 0), dresid, (size_t)b->n * D * sizeof *dresid);
    else {
        b->run->kernel->linear(at(b->run, MI_ln_f, 0, last), dlogits, 1, model->shape.n_vocab, D,
                               model->W_U, D, b->side, b->run->threads);
        layernorm_back(b, MI_resid_post, MI_ln_f_scale, MI_ln_f, 0, model->ln_f_gamma, last);
    }
    for (int l = L - 1; l >= 0; l--) {
        int from = l + 1 == L && !dresid ? last : 0;
        mlp_back(b, l, from);
        attention_back(b, l, from);
    }
}

/* Are all values there that the twins read? */
static int check_backward(const Backward *b)
{
    static const MiSite reads[] = { MI_resid_pre, MI_ln1_scale, MI_q, MI_k, MI_v, MI_scores,
                                    MI_pattern, MI_resid_mid, MI_ln2_scale, MI_mlp_pre };
    int n_reads = sizeof reads / sizeof *reads, L = b->of->model->shape.n_layer;
    for (int i = 0; i < n_reads * L; i++)
        for (int t = 0; t < b->n; t++)
            if (!value(b, reads[i / L], i % L, t)) return -1;
    return value(b, MI_resid_post, L - 1, b->n - 1) ? 0 : -1;
}

static MiRun *gradient_from(const MiRun *of, int lane, int pos, const float *dlogits,
                            const float *dresid, uint64_t keep)
{
    int T = mi_n_tokens(of, lane);
    if (T < 0 || check_values(of) < 0 || mi_token(of, lane, pos) < 0) return NULL;
    Backward b = { .of = of, .lane = lane, .n = pos + 1 };
    const Lane *edited = &of->lanes[lane];
    for (int i = 0; i < edited->n_edits; i++)
        if (edited->edits[i]->op == MI_CALL)
            return mi_fail("there is no gradient through a function of the caller's, at %s",
                           SITES[edited->edits[i]->site].name), NULL;
    if (check_backward(&b) < 0) return NULL;
    MiRun *run = b.run = new_run(of->model, 1, T, T, keep ? keep : MI_KEEP_ALL, 0);
    if (!run) return NULL;
    size_t D = of->model->shape.d_model, F = of->model->shape.d_mlp, widest = F > D ? F : D;
    size_t keys = (size_t)of->model->shape.n_head * run->key_stride;
    if (keys > widest) widest = keys;
    run->is_gradient = 1;
    run->kernel = of->kernel;
    run->threads = (double)b.n * D * D < MIN_WORK ? 1 : of->threads;
    run->n_rows = run->lanes[0].n_pos = T;
    run->lanes[0].last_row = T - 1;
    for (int t = 0; t < T; t++) run->row_pos[t] = t, run->row_token[t] = mi_token(of, lane, t);
    b.before = malloc(b.n * (widest + 3 * D) * sizeof(float));
    int status = b.before ? allocate_sites(run, NULL) : mi_fail("out of memory");
    if (status == 0) {
        b.side = b.before + b.n * widest;
        backward(&b, dlogits, dresid);
    }
    free(b.before);
    if (status == 0) return run;
    mi_free(run);
    return NULL;
}

MiRun *mi_gradient(const MiRun *run, int lane, int pos, const float *dlogits, uint64_t keep)
{
    return gradient_from(run, lane, pos, dlogits, NULL, keep);
}

MiRun *mi_gradient_of_stream(const MiRun *run, int lane, int n, const float *dresid, uint64_t keep)
{
    return gradient_from(run, lane, n - 1, NULL, dresid, keep);
}

/* ============================================================================================= */
/* The kernels to run                                                                            */
/*                                                                                               */
/* The same sums in the same order as the kernels to read, on vectors and threads.                */
/* ============================================================================================= */

#if defined(__AVX512F__)
enum { VEC = 16 };
#elif defined(__AVX2__) && defined(__FMA__)
enum { VEC = 8 };
#else
enum { VEC = 4 };
#endif

typedef float    vec     __attribute__((vector_size(4 * VEC)));
typedef float    vec_any __attribute__((vector_size(4 * VEC), aligned(1), may_alias));
typedef int32_t  vec_int __attribute__((vector_size(4 * VEC)));
typedef uint32_t vec_bits __attribute__((vector_size(4 * VEC)));

static inline vec load(const weight *p) { return *(const vec_any *)p; }
static inline void store(float *p, vec v) { *(vec_any *)p = v; }
static inline vec all(float x) { return x - (vec){0}; }

/* The address n floats behind p, where there may be nothing: p + n must not even be formed then. */
static inline const weight *beyond(const weight *p, size_t n)
{
    return (const weight *)((uintptr_t)p + n * sizeof *p);
}

/* Start to read a line of memory into the second-level cache. The processor takes any address. */
static inline void fetch(const weight *p) { __builtin_prefetch(p, 0, 2); }

/* a*b + c, one instruction where there is one: the same choice as fma1. */
static inline vec fma_vec(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* The 16 lanes of a sum, in as many vectors as it takes. */
enum { PARTS = 16 / VEC };
typedef struct { vec part[PARTS]; } Lanes;

static inline float sum_of(const Lanes *lanes)
{
    float lane[16];
    memcpy(lane, lanes, sizeof lane);
    return sum_lanes(lane);
}

/* The last n < 16 elements of a row, padded with `fill`. */
static inline void pad(float padded[16], const weight *x, int n, float fill)
{
    for (int i = 0; i < 16; i++) padded[i] = i < n ? x[i] : fill;
}

static float fast_sum(const float *x, int n)
{
    Lanes lanes = {0};
    float padded[16];
    for (int i = 0; i < n; i += 16) {
        const float *next = x + i;
        if (n - i < 16) pad(padded, x + i, n - i, 0), next = padded;
        for (int p = 0; p < PARTS; p++) lanes.part[p] += load(next + p * VEC);
    }
    return sum_of(&lanes);
}

static float fast_squares(const float *x, float mean, int n)
{
    Lanes lanes = {0};
    float padded[16];
    for (int i = 0; i < n; i += 16) {
        const float *next = x + i;
        if (n - i < 16) pad(padded, x + i, n - i, mean), next = padded;
        for (int p = 0; p < PARTS; p++) {
            vec centred = load(next + p * VEC) - all(mean);
            lanes.part[p] = fma_vec(centred, centred, lanes.part[p]);
        }
    }
    return sum_of(&lanes);
}

static float fast_dot(const float *a, const weight *b, int n)
{
    Lanes sum = {0};
    float pad_a[16], pad_b[16];
    for (int i = 0; i < n; i += 16) {
        const float  *next_a = a + i;
        const weight *next_b = b + i;
        if (n - i < 16) {
            pad(pad_a, a + i, n - i, 0), next_a = pad_a;
            pad(pad_b, b + i, n - i, 0), next_b = pad_b;
        }
        for (int p = 0; p < PARTS; p++)
            sum.part[p] = fma_vec(load(next_a + p * VEC), load(next_b + p * VEC), sum.part[p]);
    }
    return sum_of(&sum);
}

/* ---- Many dot products at once ---- */

/* sum[r][c] = the 16 lanes of a_r . b_c    a [R,n] with rows `stride` apart, b: C rows [n]; n % 16
 * is 0. The R x C chains of fma are independent, so they overlap; a load serves R or C of them.
 * `ahead`: fetch what lies that far behind each b, or 0. */
static inline __attribute__((always_inline))
void products(Lanes *sum, const float *a, size_t stride, const weight *const *b, int R, int C,
              int n, size_t ahead)
{
    Lanes s[4][4];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) s[r][c] = (Lanes){0};
    for (int i = 0; i < n; i += 16) {
        for (int c = 0; c < C && ahead; c++) fetch(beyond(b[c], i + ahead));
        #pragma GCC unroll 4                            /* or the sums do not stay in registers */
        for (int p = 0; p < PARTS; p++) {
            vec of_a[4], of_b[4];
            for (int r = 0; r < R; r++) of_a[r] = load(a + r * stride + i + p * VEC);
            for (int c = 0; c < C; c++) of_b[c] = load(b[c] + i + p * VEC);
            __atomic_signal_fence(__ATOMIC_SEQ_CST);    /* or gcc loads each R or C times */
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++)
                    s[r][c].part[p] = fma_vec(of_a[r], of_b[c], s[r][c].part[p]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sum[4 * r + c] = s[r][c];
}

/* Of two vectors side by side take every second run of h lanes, from lane `first` on. */
#define RUN(i, h, first)    ((i) / (h) * 2 * (h) + (i) % (h) + (first))
#define RUN4(i, h, first)   RUN(i, h, first), RUN(i + 1, h, first), RUN(i + 2, h, first),          \
                            RUN(i + 3, h, first)
#define RUN8(i, h, first)   RUN4(i, h, first), RUN4(i + 4, h, first)
#define RUN16(i, h, first)  RUN8(i, h, first), RUN8(i + 8, h, first)
#if defined(__AVX512F__)
#define RUNS(h, first)      RUN16(0, h, first)
#elif defined(__AVX2__) && defined(__FMA__)
#define RUNS(h, first)      RUN8(0, h, first)
#else
#define RUNS(h, first)      RUN4(0, h, first)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...)  __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...)  __builtin_shuffle(a, b, (vec_int){ __VA_ARGS__ })
#endif

/* One step of the tree in sum_lanes for all sums at once: vectors 2i and 2i+1 become vector i, with
 * half as many lanes of each sum. */
#define FOLD(s, h)                                                                               \
    for (int i_ = 0; i_ < (h); i_++)                                                             \
        s[i_] = SHUFFLE(s[2 * i_], s[2 * i_ + 1], RUNS(h, 0)) +                                  \
                SHUFFLE(s[2 * i_], s[2 * i_ + 1], RUNS(h, h));

/* out_i = the sum of sum_i    16 sums -> out [16]. VEC trees at a time: folding them two by two
 * takes a third of the instructions of one after another. */
static inline void fold(float out[16], const Lanes sum[16])
{
    for (int first = 0; first < 16; first += VEC) {
        vec s[VEC];
        for (int i = 0; i < VEC; i++) {
            Lanes lanes = sum[first + i];
            for (int half = PARTS / 2; half; half /= 2)
                for (int p = 0; p < half; p++) lanes.part[p] += lanes.part[p + half];
            s[i] = lanes.part[0];
        }
#if defined(__AVX512F__)
        FOLD(s, 8);
#endif
#if defined(__AVX2__) && defined(__FMA__)
        FOLD(s, 4);
#endif
        FOLD(s, 2);
        FOLD(s, 1);
        store(out + first, s[0]);
    }
}

/* to <- from for n <= 16: most often 4 or 16, which the compiler knows how to do in one step. */
static inline void copy(float *to, const float *from, int n)
{
    if (n == 16) memcpy(to, from, 16 * sizeof(float));
    else if (n == 4) memcpy(to, from, 4 * sizeof(float));
    else for (int i = 0; i < n; i++) to[i] = from[i];
}

/* out_rc = a_r . b_c    a [R,n], rows `stride` apart, b: 16/R rows [n] -> out [R,16/R]; R: 1 or 4
 * In as many pieces as the sums need to stay in registers. */
static inline __attribute__((always_inline))
void dots(float out[16], const float *a, size_t stride, const weight *const *b, int R, int n,
          size_t ahead)
{
    enum { STEP = VEC == 4 ? 2 : 4, R_STEP = VEC == 16 ? 4 : VEC == 8 ? 2 : 1,
           C_STEP = VEC == 16 ? 4 : 2 };
    Lanes sum[16];
    int   C = 16 / R;
    if (n % 16) {
        for (int i = 0; i < 16; i++) out[i] = fast_dot(a + i / C * stride, b[i % C], n);
        return;
    }
    if (R == 1)
        for (int c = 0; c < 16; c += STEP) products(sum + c, a, 0, b + c, 1, STEP, n, ahead);
    else
        for (int r = 0; r < 4; r += R_STEP)
            for (int c = 0; c < 4; c += C_STEP)
                products(sum + 4 * r + c, a + r * stride, stride, b + c, R_STEP, C_STEP, n, ahead);
    fold(out, sum);
}

/* ---- Linear layers ----
 *
 * W is read once, and in long stretches: its rows lie far apart, and no cache, page table or
 * prefetcher likes to visit many of them for a few numbers each. So the first rows of x take W as
 * it lies, a few of its rows at a time, against wide rows of sums that stay in the first-level
 * cache: stream(). While they do, they pack W into panels of PANEL columns, which stay in the
 * second-level cache. Through these go the other rows of x, in tiles whose sums stay in registers:
 * tile(). A load of W serves all rows of a tile, a load of x all its columns. From one block of W
 * to the block below it the sums wait, so they still run over k = 0..in-1. */
enum { LINE = 16,                                       /* floats in a line of the cache */
       TILE_ROWS = 6, TILE_VECS = VEC == 16 ? 4 : 2,    /* whose sums are most of the registers */
       PANEL = TILE_VECS * VEC, PAIR = 2 * VEC,
       TOGETHER = VEC == 16 ? 8 : 4,                    /* rows of W that stream() takes at once */
       FEW = 16, MOST = FEW + TILE_ROWS - 1,            /* rows of x that it takes */
       SUMS = 8192,                                     /* of all of them */
       DEPTH = 256, WIDTH = 256,                        /* a block of W that is packed */
       RESULTS = 32768,                                 /* of many rows, beside such a block */
       CHUNK = 64, CHUNK_STRIDE = CHUNK + LINE };       /* inputs of a row of x, side by side */

/* sum <- sum + x W    x [rows,n], W [n,columns] -> sum [rows,columns], n <= TOGETHER
 * In each panel of `pack`, which are `panel` floats apart, n rows <- W. */
static inline __attribute__((always_inline))
void stream_step(float *sum, size_t sum_stride, const float *x, int rows, const weight *W,
                 size_t stride, int n, int columns, float *pack, size_t panel)
{
    for (int c = 0; c < columns; c += PAIR) {
        vec w[TOGETHER][2];
        for (int k = 0; k < n; k++) {
            for (int i = 0; i < PAIR; i += LINE)
                fetch(beyond(W, (4 * TOGETHER + k) * stride + c + i));
            for (int v = 0; v < 2; v++) w[k][v] = load(W + k * stride + c + v * VEC);
        }
        for (int r = 0; r < rows; r++) {
            float *s = sum + r * sum_stride + c;
            vec    s0 = load(s), s1 = load(s + VEC);
            for (int k = 0; k < n; k++) {
                vec xk = all(x[r * CHUNK_STRIDE + k]);
                s0 = fma_vec(xk, w[k][0], s0);
                s1 = fma_vec(xk, w[k][1], s1);
            }
            store(s, s0);
            store(s + VEC, s1);
        }
        if (!pack) continue;
        float *to = pack + c / PANEL * panel + c % PANEL;
        for (int k = 0; k < n; k++)
            for (int v = 0; v < 2; v++) store(to + k * PANEL + v * VEC, w[k][v]);
    }
}

/* sum <- sum + x W    x [rows,depth], W [depth,columns] -> sum [rows,columns]; rows <= MOST
 * pack [columns/PANEL,depth,PANEL] <- W, or NULL. A copy of x, chunk by chunk, keeps its rows from
 * fighting for one place in the cache, as they do where their distance is a power of two. */
static void stream(float *sum, size_t sum_stride, const float *x, size_t x_stride, int rows,
                   const weight *W, size_t stride, int depth, int columns, float *pack)
{
    float  chunk[MOST * CHUNK_STRIDE];
    size_t panel = (size_t)depth * PANEL;
    for (int first = 0; first < depth; first += CHUNK) {
        int n = min_int(CHUNK, depth - first), i = 0;
        for (int r = 0; r < rows; r++)
            memcpy(chunk + r * CHUNK_STRIDE, x + r * x_stride + first, n * sizeof *x);
        for (; i + TOGETHER <= n; i += TOGETHER, W += TOGETHER * stride) {
            if (rows == 1)                              /* decoding, which hardly computes */
                stream_step(sum, 0, chunk + i, 1, W, stride, TOGETHER, columns, NULL, 0);
            else
                stream_step(sum, sum_stride, chunk + i, rows, W, stride, TOGETHER, columns,
                            pack ? pack + (first + i) * PANEL : NULL, panel);
        }
        for (; i < n; i++, W += stride)
            stream_step(sum, sum_stride, chunk + i, rows, W, stride, 1, columns,
                        pack ? pack + (first + i) * PANEL : NULL, panel);
    }
}

/* y <- y + x W    x [TILE_ROWS,depth], W [depth,PANEL] -> y [TILE_ROWS,PANEL]
 * Inputs of a row of x are x_step apart. begins: the sums start here, y is not read. If they end
 * here, `last` is added to them, [TILE_ROWS,PANEL] with rows last_stride apart, or NULL. */
static void tile(float *y, size_t y_stride, const weight *x, size_t x_stride, int x_step,
                 const float *W, int depth, int begins, const weight *last, size_t last_stride)
{
    vec sum[TILE_ROWS][TILE_VECS], w[TILE_VECS];
    #pragma GCC unroll 6                                /* or the sums do not stay in registers */
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < TILE_VECS; v++)
            sum[r][v] = begins ? (vec){0} : load(y + r * y_stride + v * VEC);
    for (int i = 0; i < depth; i++, W += PANEL, x += x_step) {
        for (int v = 0; v < TILE_VECS; v++) w[v] = load(W + v * VEC);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);        /* or gcc loads them once for each row */
        #pragma GCC unroll 6
        for (int r = 0; r < TILE_ROWS; r++)
            for (int v = 0; v < TILE_VECS; v++)
                sum[r][v] = fma_vec(all(x[r * x_stride]), w[v], sum[r][v]);
    }
    #pragma GCC unroll 6
    for (int r = 0; r < TILE_ROWS; r++)
        for (int v = 0; v < TILE_VECS; v++) {
            if (last) sum[r][v] = load(last + r * last_stride + v * VEC) + sum[r][v];
            store(y + r * y_stride + v * VEC, sum[r][v]);
        }
}

/* y <- sum + b    sum [rows,columns], its rows `stride` apart */
static void finish(float *y, int out, const float *sum, size_t stride, int rows, const weight *b,
                   int columns)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) y[(size_t)r * out + c] = sum[r * stride + c] + b[c];
}

/* Whole panels of columns, as many as a block is wide, or as the sums of few rows allow. pack
 * [DEPTH * WIDTH]: room for a block, if there are more than a few rows. */
static void panels(float *y, const float *x, int rows, int in, int out, const weight *W,
                   size_t stride, const weight *b, int columns, float *pack)
{
    float  sum[SUMS + MOST * 2 * LINE] __attribute__((aligned(64)));
    int    few = rows <= MOST ? rows : FEW + (rows - FEW) % TILE_ROWS, many = rows > few;
    int    step = many ? DEPTH : in;
    size_t sum_stride = (round_up(columns, LINE) / LINE | 1) * LINE;    /* no power of two */
    memset(sum, 0, few * sum_stride * sizeof *sum);
    for (int i = 0; i < in; i += step) {
        int depth = min_int(step, in - i), ends = i + depth == in;
        stream(sum, sum_stride, x + i, in, few, W + i * stride, stride, depth, columns,
               many ? pack : NULL);
        for (int c = 0; c < columns && many; c += PANEL)
            for (int r = few; r < rows; r += TILE_ROWS)
                tile(y + (size_t)r * out + c, out, x + (size_t)r * in + i, in, 1,
                     pack + c * depth, depth, i == 0, ends ? b + c : NULL, 0);
    }
    finish(y, out, sum, sum_stride, few, b, columns);
}

/* The last columns may fill only a part of a panel: W padded with zeros. */
static void edge(float *y, const float *x, int rows, int in, int out, const weight *W,
                 size_t stride, const weight *b, int columns)
{
    float sum[MOST * PANEL], pad_W[DEPTH * PANEL] = {0};
    for (int n; rows > 0; rows -= n, y += (size_t)n * out, x += (size_t)n * in) {
        n = min_int(rows, MOST);
        memset(sum, 0, sizeof sum);
        for (int i = 0, depth; i < in; i += depth) {
            depth = min_int(DEPTH, in - i);
            for (int k = 0; k < depth; k++)
                memcpy(pad_W + k * PANEL, W + (i + k) * stride, columns * sizeof *pad_W);
            stream(sum, PANEL, x + i, in, n, pad_W, PANEL, depth, PANEL, NULL);
        }
        finish(y, out, sum, PANEL, n, b, columns);
    }
}

/* One thread's columns. */
static void all_panels(float *y, const float *x, int rows, int in, int out, const weight *W,
                       size_t stride, const weight *b, int columns, float *pack)
{
    int width = rows > MOST ? min_int(WIDTH, RESULTS / rows / PANEL * PANEL)
                            : SUMS / rows / PANEL * PANEL;
    for (int c = 0, n; c < columns; c += n) {
        n = min_int(width, columns - c);
        if (n < PANEL) {
            edge(y + c, x, rows, in, out, W + c, stride, b + c, n);
        } else {
            n -= n % PANEL;
            panels(y + c, x, rows, in, out, W + c, stride, b + c, n, pack);
        }
    }
}

/* Threads share out the columns, never the sum over inputs. Of many rows only so many at a time
 * that they stay in the cache with a block of W. Where memory ends, a few at a time. */
static void fast_linear(float *y, const float *x, int rows, int in, int out,
                        const weight *W, size_t stride, const weight *b, int threads)
{
    enum { ROWS = 256, BLOCK = DEPTH * WIDTH };
    int    share = round_up((out + threads - 1) / threads, max_int(PANEL, LINE));
    float *packs = NULL;
    if (rows > MOST) packs = aligned_alloc(64, (size_t)threads * BLOCK * sizeof *packs);
    for (int n; rows > 0; rows -= n, y += (size_t)n * out, x += (size_t)n * in) {
        n = rows / ((rows + ROWS - 1) / ROWS);
        if (!packs) n = min_int(n, MOST);
        #pragma omp parallel for schedule(static) num_threads(threads)
        for (int t = 0; t < threads; t++)
            if (t * share < out)
                all_panels(y + t * share, x, n, in, out, W + t * share, stride, b + t * share,
                           min_int(share, out - t * share),
                           packs ? packs + (size_t)t * BLOCK : NULL);
    }
    free(packs);
}

/* ---- Unembedding ---- */

/* Logits of rows x [rows,D] for `count` <= 32 tokens, whose part of W_U stays in the cache. */
static void unembed_block(float *logits, const float *x, int rows, const weight *W_U, int count,
                          int V, int D)
{
    float out[16];
    const weight *b[32];
    for (int i = 0; i < 32; i++) b[i] = W_U + (size_t)min_int(i, count - 1) * D;
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        for (int c = 0; c < count; c += 4) {
            dots(out, x + (size_t)r * D, D, b + c, 4, D, r ? 0 : 4 * (size_t)D);
            for (int i = 0; i < 4; i++)
                copy(logits + (size_t)(r + i) * V + c, out + 4 * i, min_int(4, count - c));
        }
    for (; r < rows; r++)
        for (int c = 0; c < count; c += 16) {
            dots(out, x + (size_t)r * D, D, b + c, 1, D, 4 * (size_t)D);
            copy(logits + (size_t)r * V + c, out, min_int(16, count - c));
        }
}

/* Many rows: with rows of x side by side in a vector, a lane of a dot product (every 16th element)
 * is a tile like that of a linear layer, x and W having changed places. */

/* The rows of x, PANEL of them side by side, lane by lane: x [rows,D] -> [rows/PANEL,16,D/16,PANEL]
 * What is missing of the last panel is 0. */
static void turn(float *turned, const float *x, int rows, int D)
{
    for (int first = 0; first < rows; first += PANEL, turned += (size_t)D * PANEL)
        for (int r = 0; r < PANEL; r++)
            for (int i = 0; i < D; i += 16)
                for (int lane = 0; lane < 16; lane++)
                    turned[((size_t)lane * D + i) / 16 * PANEL + r] =
                        first + r < rows ? x[(size_t)(first + r) * D + i + lane] : 0;
}

/* The tree of sum_lanes, from `lane` on, whose branches are `half` lanes apart, of all sums of a
 * tile: TILE_ROWS tokens W_U [TILE_ROWS,D], turned rows x [16,D/16,PANEL]
 * -> sum [TILE_ROWS,PANEL]. On the way, fetch what lies `ahead` floats behind W_U, or nothing. */
static void sum_tree(float *sum, const weight *W_U, const float *x, int D, int lane, int half,
                     size_t ahead)
{
    float other[TILE_ROWS * PANEL];
    if (half == 8) {
        const float *a = x + (size_t)lane * (D / 16) * PANEL, *b = a + (size_t)D / 2 * PANEL;
        size_t n = ahead / 16;                          /* a part: few lines can be under way */
        for (size_t i = 0; i < n; i += LINE) fetch(beyond(W_U, ahead + lane * n + i));
        tile(sum, PANEL, W_U + lane, D, 16, a, D / 16, 1, NULL, 0);
        for (size_t i = 0; i < n; i += LINE) fetch(beyond(W_U, ahead + (lane + 8) * n + i));
        tile(sum, PANEL, W_U + lane + 8, D, 16, b, D / 16, 1, sum, PANEL);
        return;
    }
    sum_tree(sum, W_U, x, D, lane, 2 * half, ahead);
    sum_tree(other, W_U, x, D, lane + half, 2 * half, ahead);
    for (int i = 0; i < TILE_ROWS * PANEL; i += VEC)
        store(sum + i, load(sum + i) + load(other + i));
}

/* Logits of turned rows for TILE_ROWS tokens, whose part of W_U stays in the cache. */
static void unembed_turned(float *logits, const float *turned, int rows, const weight *W_U, int V,
                           int D)
{
    float sum[TILE_ROWS * PANEL];
    for (int first = 0; first < rows; first += PANEL, turned += (size_t)D * PANEL) {
        sum_tree(sum, W_U, turned, D, 0, 1, first ? 0 : TILE_ROWS * (size_t)D);
        for (int r = 0; r < PANEL && first + r < rows; r++)
            for (int i = 0; i < TILE_ROWS; i++)
                logits[(size_t)(first + r) * V + i] = sum[i * PANEL + r];
    }
}

/* Each thread takes ranges of the vocabulary. W_U is read once for so many rows as stay in the
 * cache when they are turned; a few rows, or those of an odd width, are left as they are. */
static void fast_unembed(float *logits, const float *x, int rows, const weight *W_U, int V, int D,
                         int threads)
{
    enum { ROWS = 128, TOKENS = 32 * TILE_ROWS / 2 };
    (void)threads;
    for (int n; rows > 0; rows -= n, x += (size_t)n * D, logits += (size_t)n * V) {
        n = min_int(rows, ROWS);
        int    many = D % 16 ? 0 : n % PANEL < PANEL * 5 / 8 ? n / PANEL * PANEL : n;
        size_t size = (size_t)round_up(many, PANEL) * D * sizeof(float);
        float *turned = many ? aligned_alloc(64, size) : NULL;
        if (!turned) many = 0;
        turn(turned, x, many, D);
        #pragma omp parallel for schedule(static) num_threads(threads)
        for (int first = 0; first < V; first += TOKENS) {
            int i = first, end = min_int(first + TOKENS, V);
            for (; many && i + TILE_ROWS <= end; i += TILE_ROWS)
                unembed_turned(logits + i, turned, many, W_U + (size_t)i * D, V, D);
            if (many && i < end)
                unembed_block(logits + i, x, many, W_U + (size_t)i * D, end - i, V, D);
            for (i = first; i < end && many < n; i += 32)
                unembed_block(logits + (size_t)many * V + i, x + (size_t)many * D, n - many,
                              W_U + (size_t)i * D, min_int(32, end - i), V, D);
        }
        free(turned);
    }
}

/* where the mask is set a, else b */
static inline vec choose(vec_int mask, vec a, vec b)
{
    return (vec)((mask & (vec_int)a) | (~mask & (vec_int)b));
}

/* e^x = 2^k e^r with k = round(x / ln 2), |r| <= ln(2)/2, and a polynomial for e^r. exp_vec does
 * the same on vectors, step by step. */
static float naive_exp(float x)
{
    if (x < -104) x = -104;                             /* rounds to 0 */
    if (x > 89) x = 89;                                 /* rounds to infinity */
    const float shift = 12582912;                       /* 1.5 * 2^23: the sum's last bits are k */
    float    n = fma1(x, 1.44269504f, shift);
    uint32_t bits, shift_bits;
    memcpy(&bits, &n, 4);
    memcpy(&shift_bits, &shift, 4);
    float k = n - shift;
    float r = fma1(k, -0.693359375f, x);                /* ln 2 in two pieces; the first is exact */
    r = fma1(k, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fma1(p, r, 1.3981999507e-3f);
    p = fma1(p, r, 8.3334519073e-3f);
    p = fma1(p, r, 4.1665795894e-2f);
    p = fma1(p, r, 1.6666665459e-1f);
    p = fma1(p, r, 5.0000001201e-1f);
    p = fma1(p, r * r, r) + 1;
    uint32_t whole = bits - shift_bits;                 /* k as an integer, in two halves: 2^k */
    uint32_t low = (uint32_t)((int32_t)whole >> 1);     /* itself may be too small for a float */
    uint32_t bits1 = (low + 127) << 23, bits2 = (whole - low + 127) << 23;
    float    scale1, scale2;
    memcpy(&scale1, &bits1, 4);
    memcpy(&scale2, &bits2, 4);
    return p * scale1 * scale2;
}

static inline vec exp_vec(vec x)
{
    x = choose(x < -104, all(-104), x);
    x = choose(x > 89, all(89), x);
    vec n = fma_vec(x, all(1.44269504f), all(12582912));
    vec k = n - 12582912;
    vec r = fma_vec(k, all(-0.693359375f), x);
    r = fma_vec(k, all(2.12194440e-4f), r);
    vec p = all(1.9875691500e-4f);
    p = fma_vec(p, r, all(1.3981999507e-3f));
    p = fma_vec(p, r, all(8.3334519073e-3f));
    p = fma_vec(p, r, all(4.1665795894e-2f));
    p = fma_vec(p, r, all(1.6666665459e-1f));
    p = fma_vec(p, r, all(5.0000001201e-1f));
    p = fma_vec(p, r * r, r) + 1;
    vec_bits whole = (vec_bits)n - (vec_bits)all(12582912);
    vec_bits low = (vec_bits)((vec_int)whole >> 1);
    return p * (vec)((low + 127) << 23) * (vec)((whole - low + 127) << 23);
}

/* y <- f(x) a vector at a time, the last few elements on a padded copy. */
#define EACH_VEC(y, x, n, value)                                                                 \
    do {                                                                                         \
        int i_ = 0;                                                                              \
        vec in = {0};                                                                            \
        for (; i_ + VEC <= (n); i_ += VEC) in = load((x) + i_), store((y) + i_, value);          \
        if (i_ == (n)) break;                                                                    \
        memcpy(&in, (x) + i_, ((n) - i_) * sizeof(float));                                       \
        vec out_ = value;                                                                        \
        memcpy((y) + i_, &out_, ((n) - i_) * sizeof(float));                                     \
    } while (0)

static void fast_softmax(float *s, int n)
{
    vec most = all(-INFINITY);
    float max = -INFINITY;
    int j = 0;
    for (; j + VEC <= n; j += VEC) most = choose(load(s + j) > most, load(s + j), most);
    for (; j < n; j++) max = s[j] > max ? s[j] : max;
    for (j = 0; j < VEC; j++) max = most[j] > max ? most[j] : max;
    if (max == -INFINITY && all_cut(s, n)) {
        for (j = 0; j < n; j++) s[j] = 0;
        return;
    }
    EACH_VEC(s, s, n, exp_vec(in - max));
    float total = fast_sum(s, n);
    EACH_VEC(s, s, n, in / total);
}

static void fast_gelu(float *y, const float *x, int n)
{
    EACH_VEC(y, x, n, in / (1 + exp_vec(-2 * (0.7978845608f * (in + 0.044715f * (in * in * in))))));
}

/* ---- Attention ---- */

/* R queries (1 or 4) against 16/R keys at a time. Beyond the last key its scores are computed once
 * more, and dropped. */
static inline __attribute__((always_inline))
void score_rows(float *s, size_t stride, const float *q, int R, const Keys *keys, int column, int n,
                int d)
{
    int   C = 16 / R;
    float out[16];
    vec   scale = all(keys->scale);
    for (int j = 0; j < n + R - 1; j += C) {
        const weight *k[16];
        for (int i = 0; i < C; i++) k[i] = key_at(keys, min_int(j + i, n + R - 2), column);
        dots(out, q, keys->stride, k, R, d, 0);
        for (int i = 0; i < 16; i += VEC) store(out + i, load(out + i) * scale);
        for (int r = 0; r < R; r++) copy(s + r * stride + j, out + r * C, min_int(C, n + r - j));
    }
}

static void fast_scores(float *s, size_t stride, const float *q, int rows, const Keys *keys,
                        int column, int n, int d)
{
    int r = 0;
    for (; r + 4 <= rows; r += 4)
        score_rows(s + r * stride, stride, q + (size_t)r * keys->stride, 4, keys, column, n + r, d);
    for (; r < rows; r++)
        score_rows(s + r * stride, stride, q + (size_t)r * keys->stride, 1, keys, column, n + r, d);
}

/* z of R queries (1 or 4) and `vecs` vectors: in registers while the keys go by. */
static inline __attribute__((always_inline))
void mix_tile(float *z, const float *pattern, size_t stride, int R, const Keys *values, int column,
              int n, int vecs)
{
    vec sum[4][4];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < vecs; i++) sum[r][i] = (vec){0};
    for (int j = 0; j < n; j++) {
        const float *v = key_at(values, j, column);
        for (int r = 0; r < R; r++)
            for (int i = 0; i < vecs; i++)
                sum[r][i] = fma_vec(all(pattern[r * stride + j]), load(v + i * VEC), sum[r][i]);
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < vecs; i++) {
            for (int j = n; j < n + r; j++)
                sum[r][i] = fma_vec(all(pattern[r * stride + j]),
                                    load(key_at(values, j, column) + i * VEC), sum[r][i]);
            store(z + (size_t)r * values->stride + i * VEC, sum[r][i]);
        }
}

static inline __attribute__((always_inline))
void mix_rows(float *z, const float *pattern, size_t stride, int R, const Keys *values, int column,
              int n, int d)
{
    enum { WIDE = VEC == 16 ? 4 : 2 };
    int c = 0;
    for (; c + WIDE * VEC <= d; c += WIDE * VEC)
        mix_tile(z + c, pattern, stride, R, values, column + c, n, WIDE);
    for (; c + VEC <= d; c += VEC) mix_tile(z + c, pattern, stride, R, values, column + c, n, 1);
    naive_mix(z + c, pattern, stride, R, values, column + c, n, d - c);
}

static void fast_mix(float *z, const float *pattern, size_t stride, int rows, const Keys *values,
                     int column, int n, int d)
{
    int r = 0;
    size_t D = values->stride;
    for (; r + 4 <= rows; r += 4)
        mix_rows(z + r * D, pattern + r * stride, stride, 4, values, column, n + r, d);
    for (; r < rows; r++)
        mix_rows(z + r * D, pattern + r * stride, stride, 1, values, column, n + r, d);
}

static const Kernels fast_kernels = {
    fast_sum, fast_dot, fast_squares, fast_linear, fast_unembed, fast_softmax, fast_gelu,
    fast_scores, fast_mix,
};

/* What follows runs once: optimizing it less makes the whole compile in less time. */
#if defined __OPTIMIZE__ && !defined __clang__
#pragma GCC optimize("O1")
#endif

/* ============================================================================================= */
/* The model on disk                                                                             */
/*                                                                                               */
/* A .safetensors file: 8 bytes (little-endian) with the length of a JSON header, the header,     */
/* then the data. The file may come from anyone: nothing in it is believed before it is checked.  */
/* ============================================================================================= */

/* Open a file to read; -1 where it is none: a pipe would block, and a device has no end. */
static int open_file(const char *path, struct stat *info)
{
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return mi_fail("%s", strerror(errno));
    if (fstat(descriptor, info) == 0 && S_ISREG(info->st_mode)) return descriptor;
    close(descriptor);
    if (S_ISDIR(info->st_mode)) return mi_fail("%s", strerror(EISDIR));
    return mi_fail("is a %s, not a file", S_ISFIFO(info->st_mode) ? "pipe" : "device");
}

/* The first bytes of a file, at most `most` -> how many there are, or -1. */
static int64_t read_file(const char *path, void *bytes, size_t most)
{
    struct stat info;
    int     descriptor = open_file(path, &info);
    size_t  n = 0;
    ssize_t got = 1;
    if (descriptor < 0) return -1;
    while (n < most && (got = read(descriptor, (char *)bytes + n, most - n)) > 0) n += (size_t)got;
    if (got < 0) mi_fail("%s", strerror(errno));
    close(descriptor);
    return got < 0 ? -1 : (int64_t)n;
}

/* A file of at most `most` bytes, whole, and a 0. NULL if it cannot be read. */
static char *read_text(const char *path, size_t most, size_t *n)
{
    char   *text = malloc(most + 2);
    int64_t got = text ? read_file(path, text, most + 1) : mi_fail("out of memory");
    if (got > (int64_t)most) got = mi_fail("more than %zu bytes", most);
    if (got < 0) return free(text), NULL;
    text[*n = got] = 0;
    return text;
}

/* What is left of a JSON text, which ends with NUL. Strings are decoded where they stand. */
typedef struct {
    char       *at, *end;
    const char *broken;                                 /* what to call it if it is malformed */
} Json;

static int json_fail(const Json *json, const char *what)
{
    return mi_fail("%s: %s", json->broken, what);
}

/* The next character that is not white space, without taking it; 0 at the end. */
static char json_peek(Json *json)
{
    json->at += strspn(json->at, " \t\r\n");
    return *json->at;
}

static int json_take(Json *json, char expected)
{
    if (json_peek(json) != expected) return 0;
    json->at++;
    return 1;
}

/* uXXXX -> its code; -1 if it is not that. */
static int json_hex(Json *json)
{
    int value = 0;
    if (*json->at != 'u') return -1;
    for (int i = 0; i < 4; i++) {
        char c = *++json->at;
        if (!isxdigit((unsigned char)c)) return -1;
        value = value * 16 + (isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    json->at++;
    return value;
}

/* uXXXX, or a surrogate pair uXXXX\uXXXX, as UTF-8. */
static int json_unicode(Json *json, char **out)
{
    int c = json_hex(json);
    if (c >= 0xD800 && c < 0xDC00 && *json->at == '\\') {
        json->at++;
        int low = json_hex(json);
        c = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00) : -1;
    }
    if (c < 0 || (c >= 0xD800 && c < 0xE000)) return -1;
    int tail = c > 0 && c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    *(*out)++ = (char)(tail ? (0xFF00 >> (tail + 1) & 0xFF) | c >> 6 * tail : c);
    while (tail--)                                      /* 0 takes two bytes: it ends no string */
        *(*out)++ = (char)(0x80 | (c >> 6 * tail & 0x3F));
    return 0;
}

/* "..." -> its text, ended by NUL, which is never longer than its JSON; NULL if malformed. */
static const char *json_string(Json *json)
{
    static const char names[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    if (!json_take(json, '"')) return json_fail(json, "expected a string"), NULL;
    char *start = json->at, *out = start;
    while (*json->at != '"') {
        if (json->at == json->end) return json_fail(json, "unterminated string"), NULL;
        if ((unsigned char)*json->at < 0x20)
            return json_fail(json, "control character in a string"), NULL;
        if (*json->at != '\\') {
            *out++ = *json->at++;
            continue;
        }
        const char *known = *++json->at ? strchr(names, *json->at) : NULL;
        if (known) *out++ = meaning[known - names], json->at++;
        else if (json_unicode(json, &out) < 0)
            return json_fail(json, "malformed escape in a string"), NULL;
    }
    json->at++;
    *out = 0;
    return start;
}

/* A non-negative integer: all that offsets and shapes may be. */
static int json_integer(Json *json, int64_t *value)
{
    if (!isdigit((unsigned char)json_peek(json)))
        return json_fail(json, "expected a non-negative integer");
    if (*json->at == '0' && isdigit((unsigned char)json->at[1]))
        return json_fail(json, "a number starts with 0");
    errno = 0;
    *value = strtoll(json->at, &json->at, 10);
    if (errno) return json_fail(json, "an integer is too large");
    if (json->at < json->end && strchr(".eE", *json->at))
        return json_fail(json, "expected a whole number");
    return 0;
}

/* [1, 2, 3] -> list; returns how many, or -1. */
static int json_integers(Json *json, int64_t *list, int most)
{
    int n = 0;
    if (!json_take(json, '[')) return json_fail(json, "expected a list");
    if (json_take(json, ']')) return 0;
    do {
        if (n == most) return json_fail(json, "a list is too long");
        if (json_integer(json, &list[n++]) < 0) return -1;
    } while (json_take(json, ','));
    return json_take(json, ']') ? n : json_fail(json, "malformed list");
}

/* Pass over any value: what is nested deeper than `depth` is refused. */
static int json_skip(Json *json, int depth)
{
    char c = json_peek(json), *start = json->at;
    if (c == '"') return json_string(json) ? 0 : -1;
    if (c == '{' || c == '[') {
        if (depth == 0) return json_fail(json, "nested too deeply");
        char close = c == '{' ? '}' : ']';
        json->at++;
        if (json_take(json, close)) return 0;
        do {
            if (c == '{' && (!json_string(json) || !json_take(json, ':')))
                return json_fail(json, "malformed object");
            if (json_skip(json, depth - 1) < 0) return -1;
        } while (json_take(json, ','));
        return json_take(json, close) ? 0 : json_fail(json, "malformed value");
    }
    while (isalnum((unsigned char)*json->at) || (*json->at && strchr("+-.", *json->at))) json->at++;
    return json->at > start ? 0 : json_fail(json, "malformed value");
}

enum { MOST_DIMS = 8 };
typedef struct {
    const char *name, *dtype;
    int         n_dims;
    int64_t     shape[MOST_DIMS], range[2];             /* range: its first byte and its end */
} Tensor;

typedef struct {
    char       *text;                                   /* a copy, which names and dtypes lie in */
    const char *data;
    int64_t     text_size, data_size;
    Tensor     *tensors;
    int         n_tensors;
    int         has_metadata;
    const char *n_head, *vocab;                         /* of __metadata__, or NULL */
} Header;

static int element_size(const char *dtype)
{
    static const struct { const char *name; int size; } types[] = {
        { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "I32", 4 }, { "I64", 8 }, { "F64", 8 },
        { "U8", 1 }, { "I8", 1 }, { "BOOL", 1 }, { "I16", 2 }, { "U16", 2 }, { "U32", 4 },
        { "U64", 8 },
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(dtype, types[i].name)) return types[i].size;
    return 0;
}

/* {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]} */
static int read_tensor(Json *json, Tensor *tensor)
{
    static const char *const fields[] = { "dtype", "shape", "data_offsets" };
    int seen = 0, n = 0;
    if (!json_take(json, '{')) return json_fail(json, "expected a tensor");
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        int field = 0;
        while (field < 3 && strcmp(key, fields[field])) field++;
        if (!json_take(json, ':') || (field < 3 && seen >> field & 1))
            return json_fail(json, "malformed tensor");
        seen |= 1 << field;
        if (field == 0 && !(tensor->dtype = json_string(json))) return -1;
        if (field == 1 && (n = tensor->n_dims = json_integers(json, tensor->shape, MOST_DIMS)) < 0)
            return -1;
        if (field == 2 && (n = json_integers(json, tensor->range, 2)) != 2)
            return n < 0 ? -1 : json_fail(json, "data_offsets are not two numbers");
        if (field == 3 && json_skip(json, 4) < 0) return -1;
    } while (json_take(json, ','));
    if (!json_take(json, '}') || (seen & 7) != 7)
        return json_fail(json, "a tensor needs dtype, shape and data_offsets");
    return 0;
}

/* Does the tensor lie within the data, and is it as large as its shape says? */
static int check_tensor(const Tensor *tensor, int64_t data_size)
{
    int64_t size = element_size(tensor->dtype), bytes = tensor->range[1] - tensor->range[0];
    if (bytes < 0 || tensor->range[1] > data_size)
        return mi_fail("tensor %.80s lies at bytes %lld to %lld of %lld: the file is truncated or "
                       "its header is wrong", tensor->name, (long long)tensor->range[0],
                       (long long)tensor->range[1], (long long)data_size);
    if (size == 0) return 0;                            /* a type we never read */
    for (int i = 0; i < tensor->n_dims; i++) {
        if (tensor->shape[i] && size > INT64_MAX / tensor->shape[i])
            return mi_fail("the shape of tensor %.80s is too large", tensor->name);
        size *= tensor->shape[i];
    }
    if (size != bytes)
        return mi_fail("tensor %.80s has %lld bytes; its shape and type say %lld", tensor->name,
                       (long long)bytes, (long long)size);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const int64_t *x = ((const Tensor *)a)->range, *y = ((const Tensor *)b)->range;
    return x[0] != y[0] ? (x[0] > y[0]) - (x[0] < y[0]) : (x[1] > y[1]) - (x[1] < y[1]);
}

/* No two tensors share bytes or a name. Leaves them sorted by name. */
static int check_tensors(Tensor *tensors, int n)
{
    if (n == 0) return 0;
    qsort(tensors, n, sizeof *tensors, by_offset);
    for (int i = 1; i < n; i++)
        if (tensors[i].range[0] < tensors[i - 1].range[1])
            return mi_fail("tensors %.80s and %.80s overlap", tensors[i - 1].name,
                           tensors[i].name);
    qsort(tensors, n, sizeof *tensors, by_name);
    for (int i = 1; i < n; i++)
        if (!strcmp(tensors[i].name, tensors[i - 1].name))
            return mi_fail("tensor %.80s appears twice", tensors[i].name);
    return 0;
}

/* {"n_head":"4", "vocab":"gpt2", ...}: strings by name */
static int read_metadata(Json *json, Header *header)
{
    if (header->has_metadata++) return json_fail(json, "__metadata__ appears twice");
    if (!json_take(json, '{')) return json_fail(json, "__metadata__ is not an object");
    if (json_take(json, '}')) return 0;
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        if (!json_take(json, ':')) return json_fail(json, "malformed __metadata__");
        const char *value = json_string(json);
        if (!value) return -1;
        const char **known = !strcmp(key, "n_head") ? &header->n_head
                           : !strcmp(key, "vocab") ? &header->vocab : NULL;
        if (!known) continue;
        if (*known) return json_fail(json, "a key of __metadata__ appears twice");
        *known = value;
    } while (json_take(json, ','));
    return json_take(json, '}') ? 0 : json_fail(json, "malformed __metadata__");
}

/* One member of the header: a tensor by its name, or __metadata__. */
static int read_member(Json *json, Header *header)
{
    const char *name = json_string(json);
    if (!name) return -1;
    if (!json_take(json, ':')) return json_fail(json, "expected ':' after a name");
    if (!strcmp(name, "__metadata__")) return read_metadata(json, header);
    Tensor *list = grow(header->tensors, header->n_tensors, sizeof *list);
    if (!list) return -1;
    header->tensors = list;
    Tensor *tensor = &list[header->n_tensors++];
    *tensor = (Tensor){ .name = name };
    return read_tensor(json, tensor) < 0 ? -1 : check_tensor(tensor, header->data_size);
}

static int read_header(Header *header)
{
    Json json = { header->text, header->text + header->text_size,
                  "not a safetensors file: its header is malformed" };
    if (!json_take(&json, '{')) return json_fail(&json, "expected an object");
    if (!json_take(&json, '}')) {
        do {
            if (read_member(&json, header) < 0) return -1;
        } while (json_take(&json, ','));
        if (!json_take(&json, '}')) return json_fail(&json, "expected , or }");
    }
    if (json_peek(&json) || json.at != json.end) return json_fail(&json, "text after its end");
    return check_tensors(header->tensors, header->n_tensors);
}

/* A tensor by name, with or without the "transformer." that some files put before it. */
static const Tensor *find_tensor(const Header *header, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "transformer.%s", name);
    for (int i = 0; i < 2 && header->n_tensors; i++) {
        Tensor key = { .name = i ? full : name };
        Tensor *found = bsearch(&key, header->tensors, header->n_tensors, sizeof key, by_name);
        if (found) return found;
    }
    return NULL;
}

/* F16 -> F32, exactly: sign, 5 bits of exponent, 10 of fraction. */
static float half_to_float(uint16_t half)
{
    int   exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                : exponent ? ldexpf((float)(fraction + 1024), exponent - 25)
                : ldexpf((float)fraction, -24);
    return half & 0x8000 ? -value : value;
}

/* n numbers of type F16 or BF16 -> F32, which live as long as the file is mapped. */
static float *convert(Mapped *file, const char *data, int64_t n, int bf16)
{
    float **list = grow(file->converted, file->n_converted, sizeof *list);
    if (!list) return NULL;
    file->converted = list;
    float *values = malloc((size_t)n * sizeof *values + 1);
    if (!values) return mi_fail("out of memory"), NULL;
    list[file->n_converted++] = values;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        uint32_t wide = (uint32_t)bits << 16;           /* BF16 is the upper half of F32 */
        if (bf16) memcpy(&values[i], &wide, 4);
        else values[i] = half_to_float(bits);
    }
    return values;
}

/* What a letter of the shapes in MI_MODEL_TENSORS and MI_BLOCK_TENSORS stands for. */
static int64_t dimension(const MiShape *shape, char letter)
{
    switch (letter) {
    case 'V': return shape->n_vocab;
    case 'N': return shape->n_ctx;
    case 'A': return 3 * (int64_t)shape->d_model;
    case 'F': return shape->d_mlp;
    case 'L': return shape->n_layer;
    default:  return shape->d_model;
    }
}

/* Check a tensor's shape and hand out its weights: in place if F32, else converted. */
static const weight *take_tensor(MiModel *model, const Header *header, const char *name,
                                 const char *shape)
{
    const Tensor *tensor = find_tensor(header, name);
    int       n_dims = (int)strlen(shape);
    long long rows = dimension(&model->shape, shape[0]);
    long long columns = n_dims == 2 ? dimension(&model->shape, shape[1]) : 1;
    if (!tensor)
        return mi_fail("tensor %s is missing%s", name, n_dims > 1 || !strstr(name, ".bias") ? ""
                       : ": if this is a model without biases, save zeros in their place"), NULL;
    if (tensor->n_dims != n_dims || tensor->shape[0] != rows ||
        (n_dims == 2 && tensor->shape[1] != columns)) {
        char want[48];
        snprintf(want, sizeof want, n_dims == 2 ? "[%lld,%lld]" : "[%lld]", rows, columns);
        return mi_fail("tensor %s should have the shape %s", name, want), NULL;
    }
    const char *data = header->data + tensor->range[0];
    if (!strcmp(tensor->dtype, "F32")) return (const weight *)data;
    int bf16 = !strcmp(tensor->dtype, "BF16");
    if (!bf16 && strcmp(tensor->dtype, "F16"))
        return mi_fail("tensor %s has type %.7s; F32, F16 and BF16 can be read", name,
                       tensor->dtype), NULL;
    return convert(&model->mapped, data, rows * columns, bf16);
}

/* The tensors of GPT-2: where each goes, its name and shape. One table for loading and checking;
 * the tests' random models are written from it too. */
typedef struct { const char *field; size_t offset; const char *name, *shape; } TensorField;

static const TensorField model_tensors[] = {
#define X(field, name, shape) { #field, offsetof(MiModel, field), name, shape },
    MI_MODEL_TENSORS(X)
#undef X
    { 0 },
};
static const TensorField block_tensors[] = {
#define X(field, name, shape) { #field, offsetof(Block, field), name, shape },
    MI_BLOCK_TENSORS(X)
#undef X
    { 0 },
};

/* The tensors of one table -> the fields of their owner, the model or one of its blocks. */
static int take_fields(MiModel *model, const Header *header, void *owner, const char *prefix,
                       const TensorField *field)
{
    for (; field->name; field++) {
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, field->name);
        const weight *data = take_tensor(model, header, name, field->shape);
        if (!data) return -1;
        memcpy((char *)owner + field->offset, &data, sizeof data);
    }
    return 0;
}

const MiWeight *mi_weight(const MiModel *model, const char *name, int layer, int *rows, int *cols)
{
    static const TensorField W_U = { "W_U", offsetof(MiModel, W_U), "", "VD" };
    const TensorField *field = model_tensors, *found = strcmp(name, W_U.field) ? NULL : &W_U;
    for (; field->name && !found; field++)
        if (!strcmp(name, field->field)) found = field;
    int in_block = !found, n_layer = in_block ? model->shape.n_layer : 1;
    for (field = block_tensors; field->name && !found; field++)
        if (!strcmp(name, field->field)) found = field;
    if (!found) return mi_fail("there is no weight %.40s; mi.h has their names", name), NULL;
    if (layer < 0 || layer >= n_layer)
        return mi_fail("%s has no layer %d: 0-%d", name, layer, n_layer - 1), NULL;
    const void     *owner = in_block ? (const void *)&model->block[layer] : model;
    int             is_matrix = found->shape[1] != 0;
    const MiWeight *data;
    *rows = is_matrix ? (int)dimension(&model->shape, found->shape[0]) : 1;
    *cols = (int)dimension(&model->shape, found->shape[is_matrix]);
    return memcpy(&data, (const char *)owner + found->offset, sizeof data), data;
}

/* Models that are GPT-2s, but not as Hugging Face writes them: say so. */
static int check_layout(const Header *header)
{
    for (int i = 0; i < header->n_tensors && !find_tensor(header, "wte.weight"); i++) {
        const char *name = header->tensors[i].name, *known = strstr(name, "wte.weight");
        if (known && !known[sizeof "wte.weight" - 1])
            return mi_fail("wte.weight is called %.80s here: save it with the names that Hugging "
                           "Face uses", name);
    }
    const Tensor *W_QKV = find_tensor(header, "h.0.attn.c_attn.weight");
    if (!W_QKV || W_QKV->n_dims != 2 || W_QKV->shape[0] / 3 != W_QKV->shape[1] ||
        W_QKV->shape[0] % 3)
        return 0;
    return mi_fail("its matrices are [out,in] as in nanoGPT, not [in,out] as Hugging Face has "
                   "them: transpose attn.c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj in a copy%s",
                   find_tensor(header, "h.0.attn.c_attn.bias") ? ""
                   : ", and add zeros for the biases that it lacks");
}

/* L, D, F, V and n_ctx follow from the tensors that are there. */
static int find_shape(MiModel *model, const Header *header)
{
    enum { MOST = 1 << 24 };
    const Tensor *wte = find_tensor(header, "wte.weight"), *wpe = find_tensor(header, "wpe.weight");
    if (check_layout(header) < 0) return -1;
    if (!wte || !wpe)
        return mi_fail("tensor %s is missing: not a GPT-2", wte ? "wpe.weight" : "wte.weight");
    if (wte->n_dims != 2 || wpe->n_dims != 2)
        return mi_fail("wte.weight and wpe.weight should have two dimensions");
    long long V = wte->shape[0], D = wte->shape[1], n_ctx = wpe->shape[0], layers = 0;
    if (V < 1 || D < 1 || n_ctx < 1 || V > MOST || D > MOST / 64 || n_ctx > MOST)
        return mi_fail("a vocabulary of %lld, %lld dimensions and a context of %lld are not a "
                       "GPT-2", V, D, n_ctx);
    for (int i = 0; i < header->n_tensors; i++) {
        const char *name = header->tensors[i].name;
        if (!strncmp(name, "transformer.", 12)) name += 12;
        if (strncmp(name, "h.", 2) || !isdigit((unsigned char)name[2])) continue;
        char *end;
        long long layer = strtoll(name + 2, &end, 10);  /* an absurd one becomes the largest */
        if (*end == '.' && layer >= layers) layers = layer < INT_MAX ? layer + 1 : INT_MAX;
    }
    if (layers < 1) return mi_fail("it has no layers (h.0.ln_1.weight ...)");
    if (layers > header->n_tensors)
        return mi_fail("layers are missing below the highest, h.%lld", layers - 1);
    const Tensor *W_in = find_tensor(header, "h.0.mlp.c_fc.weight");
    long long F = W_in && W_in->n_dims == 2 ? W_in->shape[1] : 4 * D;
    if (F < 1 || F > MOST) return mi_fail("%lld neurons in a layer are not a GPT-2", F);
    model->shape = (MiShape){ .n_layer = (int)layers, .d_model = (int)D, .d_mlp = (int)F,
                              .n_ctx = (int)n_ctx, .n_vocab = (int)V, .epsilon = 1e-5f };
    return 0;
}

/* What config.json says that no tensor shows. All 0: as in GPT-2. */
typedef struct {
    int n_head;                                         /* 0: it does not say */
    int unscaled, by_layer, untied;                     /* scores without 1/sqrt(d); with 1/(l+1) */
} Config;

/* The settings of transformers' GPT2Config that change numbers. A letter: the dimension that the
 * tensors have as well, H the heads, e epsilon. Words: the values that can be computed; the number
 * of the one that is there goes to `field`. The tanh form of GELU has five names. */
static const struct {
    const char *key;
    char        letter;
    const char *words;
    size_t      field;
} SETTINGS[] = {
    { "model_type", 0, "\"gpt2\"", 0 },
    { "activation_function", 0, "\"gelu_new\" \"gelu_pytorch_tanh\" \"gelu_fast\" "
                                "\"gelu_accurate\" \"gelu_python_tanh\"", 0 },
    { "add_cross_attention", 0, "false null", 0 },
    { "is_causal", 0, "true", 0 },
    { "scale_attn_weights", 0, "true false", offsetof(Config, unscaled) },
    { "scale_attn_by_inverse_layer_idx", 0, "false true", offsetof(Config, by_layer) },
    { "tie_word_embeddings", 0, "true false", offsetof(Config, untied) },
    { "layer_norm_epsilon", 'e', NULL, 0 },
    { "n_head", 'H', NULL, 0 },      { "num_attention_heads", 'H', NULL, 0 },
    { "n_embd", 'D', NULL, 0 },      { "hidden_size", 'D', NULL, 0 },
    { "n_layer", 'L', NULL, 0 },     { "num_hidden_layers", 'L', NULL, 0 },
    { "n_positions", 'N', NULL, 0 }, { "max_position_embeddings", 'N', NULL, 0 },
    { "n_ctx", 'N', NULL, 0 },
    { "vocab_size", 'V', NULL, 0 },  { "n_inner", 'F', "null", 0 },
};

/* The number of a word in a list of words with blanks between them; -1 if it is not there. */
static int word_number(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (int i = 0; list && *list; i++) {
        size_t n = strcspn(list, " ");
        if (n == length && !memcmp(list, word, n)) return i;
        list += n + (list[n] == ' ');
    }
    return -1;
}

/* A whole number of at most nine digits; -1 if it is none. */
static int whole_number(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n == 0 || n > 9 || text[n] ? -1 : atoi(text);
}

/* One member of config.json, its value as it is written there. */
static int take_setting(MiModel *model, Config *config, const char *key, const char *value)
{
    size_t i = 0, n = sizeof SETTINGS / sizeof *SETTINGS;
    while (i < n && strcmp(key, SETTINGS[i].key)) i++;
    if (i == n) return 0;
    int word = word_number(SETTINGS[i].words, value), number = whole_number(value);
    if (word >= 0 && SETTINGS[i].field) *(int *)((char *)config + SETTINGS[i].field) = word;
    if (word >= 0) return 0;
    char letter = SETTINGS[i].letter;
    if (letter == 0)
        return mi_fail("%s is %s; what can be computed is %s", key, value, SETTINGS[i].words);
    if (letter == 'e') {
        char *end;
        float epsilon = strtof(value, &end);
        if (*end || value[strspn(value, "0123456789.eE+-")] || !(epsilon >= 0) || isinf(epsilon))
            return mi_fail("%s is %s, not a number from 0", key, value);
        model->shape.epsilon = epsilon;
        return 0;
    }
    if (number < 1) return mi_fail("%s is %s, not a whole number from 1", key, value);
    if (letter == 'H') {
        if (config->n_head && config->n_head != number)
            return mi_fail("%s is %d, but it says %d heads as well", key, number, config->n_head);
        config->n_head = number;
        return 0;
    }
    long long there = dimension(&model->shape, letter);
    return number == there ? 0 : mi_fail("%s is %d, but the tensors have %lld: another model's "
                                         "config.json?", key, number, there);
}

/* The bytes of a byte order mark before a text, with which some editors mark UTF-8: 3, or 0. */
static size_t mark_length(const char *text, size_t n)
{
    return n >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3) ? 3 : 0;
}

/* {"n_head": 12, "activation_function": "gelu_new", ...} */
static int read_config(MiModel *model, Config *config, char *text, int64_t n)
{
    Json json = { text + mark_length(text, n), text + n, "malformed JSON" };
    char value[64];
    if (!json_take(&json, '{')) return json_fail(&json, "expected an object");
    if (!json_take(&json, '}')) {
        do {
            const char *key = json_string(&json);
            if (!key) return -1;
            if (!json_take(&json, ':')) return json_fail(&json, "expected ':' after a name");
            json_peek(&json);
            const char *start = json.at;
            snprintf(value, sizeof value, "%.63s", start);      /* before its quotes are gone */
            if (json_skip(&json, 32) < 0) return -1;
            if ((size_t)(json.at - start) < sizeof value) value[json.at - start] = 0;
            if (take_setting(model, config, key, value) < 0) return -1;
        } while (json_take(&json, ','));
        if (!json_take(&json, '}')) return json_fail(&json, "expected , or }");
    }
    if (json_peek(&json) || json.at != json.end) return json_fail(&json, "text after its end");
    return 0;
}

/* The config.json beside a file: 1, or 0 if there is none. One that is of no use is an error. */
static int config_beside(MiModel *model, Config *config, const char *file)
{
    enum { MOST = 1 << 20 };
    const char *slash = strrchr(file, '/');
    int         folder = slash ? (int)(slash + 1 - file) : 0, status = 1;
    size_t      size = (size_t)folder + sizeof "config.json", n;
    char       *path = malloc(size), *text = NULL;
    struct stat info;
    if (!path) return mi_fail("out of memory");
    snprintf(path, size, "%.*sconfig.json", folder, file);
    if (lstat(path, &info) < 0 ? errno == ENOENT || errno == ENOTDIR : S_ISDIR(info.st_mode)) {
        status = 0;
    } else if (!(text = read_text(path, MOST, &n)) || read_config(model, config, text, n) < 0)
        status = -1;
    if (status < 0) mi_fail_in(file == model->file ? "config.json beside it" : path);
    free(path);
    free(text);
    return status;
}

/* Beside the file as it was named, or else beside what that name is a link to. */
static int find_config(MiModel *model, Config *config)
{
    int status = config_beside(model, config, model->file);
    if (status) return status < 0 ? -1 : 0;
    char *target = realpath(model->file, NULL);
    if (target) status = config_beside(model, config, target);
    free(target);
    return status < 0 ? -1 : 0;
}

/* The number of heads is in no tensor's shape. It stands in the metadata or in config.json, or the
 * caller knows it. OpenAI's four models have heads of 64 dimensions; of others nobody can tell. */
static int find_heads(MiModel *model, const Header *header, int of_config, int given)
{
    MiShape *shape = &model->shape;
    int D = shape->d_model, heads = of_config;
    if (header->n_head && (heads = whole_number(header->n_head)) < 1)
        return mi_fail("n_head of its metadata is %.20s", header->n_head);
    if ((header->n_head || of_config) && given && heads != given)
        return mi_fail("it has %d heads, not %d", heads, given);
    if (!header->n_head && !of_config) heads = given;
    if (!heads && (D == 768 || D == 1024 || D == 1280 || D == 1600)) heads = D / 64;
    if (!heads)
        return mi_fail("nothing says how many heads its %d dimensions are: put its config.json "
                       "beside it, or give --n-head N", D);
    if (heads < 1 || heads > D || D % heads)
        return mi_fail("n_head %d does not divide its %d dimensions", heads, D);
    if (heads > INT_MAX / round_up(shape->n_ctx, 16))
        return mi_fail("%d heads and a context of %d are too large", heads, shape->n_ctx);
    shape->n_head = heads;
    shape->d_head = D / heads;
    return 0;
}

/* vocab_ids: the GPT-2 ids of the rows of a model with a smaller vocabulary. Without them row i is
 * id i, and GPT-2's token i if the metadata say so or there are as many; in some models rows that
 * stand for nothing follow, up to a round number. Of other vocabularies nothing is known. */
static int take_vocab_ids(MiModel *model, const Header *header)
{
    enum { ALL = 50257, PADDED = 50304 };
    const Tensor *tensor = find_tensor(header, "vocab_ids");
    int V = model->shape.n_vocab;
    model->has_text = tensor || (header->vocab ? !strcmp(header->vocab, "gpt2")
                                               : V >= ALL && V <= PADDED);
    if (!tensor) return 0;
    if (strcmp(tensor->dtype, "I32") || tensor->n_dims != 1 || tensor->shape[0] != V)
        return mi_fail("vocab_ids should be %d numbers of type I32", V);
    int *ids = model->vocab_ids = malloc(V * sizeof *ids);
    if (!ids) return mi_fail("out of memory");
    memcpy(ids, header->data + tensor->range[0], V * sizeof *ids);
    for (int i = 0; i < V; i++)
        if (ids[i] < 0 || ids[i] > 50256 || (i && ids[i] <= ids[i - 1]))
            return mi_fail("vocab_ids should be ascending GPT-2 ids, 0 to 50256; number %d is %d",
                           i, ids[i]);
    return 0;
}

static int take_weights(MiModel *model, const Header *header, int n_head)
{
    Config config = { 0 };
    if (find_shape(model, header) < 0 || find_config(model, &config) < 0 ||
        find_heads(model, header, config.n_head, n_head) < 0)
        return -1;
    MiShape *shape = &model->shape;
    model->block = calloc(shape->n_layer, sizeof *model->block);
    if (!model->block) return mi_fail("out of memory");
    if (take_fields(model, header, model, "", model_tensors) < 0) return -1;
    for (int l = 0; l < shape->n_layer; l++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "h.%d.", l);
        if (take_fields(model, header, &model->block[l], prefix, block_tensors) < 0) return -1;
        model->block[l].score_scale = (config.unscaled ? 1 : 1 / sqrtf((float)shape->d_head)) /
                                      (config.by_layer ? l + 1 : 1);
    }
    model->W_U = model->wte;
    if (config.untied && !find_tensor(header, "lm_head.weight"))
        return mi_fail("config.json says tie_word_embeddings false; lm_head.weight is missing");
    if (find_tensor(header, "lm_head.weight")) {
        const weight *own = take_tensor(model, header, "lm_head.weight", "VD");
        if (!own) return -1;
        size_t bytes = (size_t)shape->n_vocab * shape->d_model * sizeof(float);
        if (memcmp(own, model->wte, bytes)) model->W_U = own;
    }
    return take_vocab_ids(model, header);
}

/* What Python makes of any file or folder that transformers can read. */
#define CONVERT "convert it: python3 -c \"from transformers import GPT2LMHeadModel as G; "      \
                "G.from_pretrained('FOLDER').save_pretrained('NEW', max_shard_size='99GB')\""

/* What a file is that is no safetensors file, by how it begins. */
static int not_safetensors(const char *bytes, size_t size, uint64_t header_size)
{
    static const struct { const char *magic, *what; } known[] = {
        { "version https://git-lfs", "a Git LFS pointer: git lfs pull fetches the file itself" },
        { "PK\3\4", "PyTorch's format: " CONVERT }, { "\200\2", "PyTorch's format: " CONVERT },
        { "\211HDF", "TensorFlow's format: " CONVERT },
        { "GGUF", "a GGUF file: get the same model as .safetensors" },
        { "<", "a web page: the file itself has /resolve/ in its address, not /blob/" },
        { "{", "a JSON file: the weights are .safetensors; if these are several files, " CONVERT },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i].magic);
        if (size >= n && !memcmp(bytes, known[i].magic, n)) return mi_fail("%s", known[i].what);
    }
    if (header_size <= size - 8)
        return mi_fail("not a safetensors file: a header of %llu bytes; at most 100 MB can be read",
                       (unsigned long long)header_size);
    if (header_size > (uint64_t)1 << 32) return mi_fail("not a safetensors file");
    return mi_fail("not a safetensors file, or truncated: its header should have %llu bytes",
                   (unsigned long long)header_size);
}

/* Is there such a file in a folder? */
static int has_file(const char *folder, const char *name)
{
    char path[4096];
    int  n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n < (int)sizeof path && access(path, F_OK) == 0;
}

/* path, or if that is a folder the model in it, as Hugging Face names it -> a copy, or NULL. */
static char *weights_file(const char *path)
{
    static const char name[] = "model.safetensors";
    struct stat info;
    char       *file = malloc(strlen(path) + sizeof name + 1);
    if (!file) return mi_fail("out of memory"), NULL;
    int is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    sprintf(file, is_folder ? "%s/%s" : "%s", path, name);
    if (!is_folder || has_file(path, name)) return file;
    free(file);
    if (has_file(path, "model.safetensors.index.json"))
        return mi_fail("a model in several files (model.safetensors.index.json): " CONVERT), NULL;
    if (has_file(path, "pytorch_model.bin"))
        return mi_fail("pytorch_model.bin is PyTorch's format: " CONVERT), NULL;
    return mi_fail("%s, and without a model.safetensors", strerror(EISDIR)), NULL;
}

/* Map a file and find its header and its data. */
static int map_file(const char *path, Mapped *file, Header *header)
{
    enum { MOST_HEADER = 100000000 };                   /* as in the safetensors library */
    struct stat info = { 0 };
    int         descriptor = open_file(path, &info);
    if (descriptor < 0) return -1;
    if (info.st_size < 8) {
        close(descriptor);
        return mi_fail("too short for a safetensors file");
    }
    size_t size = (size_t)info.st_size;
    const unsigned char *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    if (bytes == MAP_FAILED) return mi_fail("cannot be mapped: %s", strerror(errno));
    file->map = (void *)bytes;
    file->size = size;
    uint64_t header_size = 0;
    for (int i = 7; i >= 0; i--) header_size = header_size << 8 | bytes[i];
    if (header_size > size - 8 || header_size > MOST_HEADER)
        return not_safetensors((const char *)bytes, size, header_size);
    header->text = malloc(header_size + 1);
    if (!header->text) return mi_fail("out of memory");
    memcpy(header->text, bytes + 8, header_size);
    header->text[header_size] = 0;
    header->text_size = (int64_t)header_size;
    header->data = (const char *)bytes + 8 + header_size;
    header->data_size = (int64_t)(size - 8 - header_size);
    return 0;
}

static void unmap_file(Mapped *file)
{
    for (int i = 0; i < file->n_converted; i++) free(file->converted[i]);
    free(file->converted);
    if (file->map) munmap(file->map, file->size);
}

MiModel *mi_open_with(const char *path, const MiOpen *options)
{
    MiModel *model = calloc(1, sizeof *model);
    Header   header = { 0 };
    if (!model) return mi_fail("out of memory"), NULL;
    model->file = weights_file(path);
    int ok = model->file && map_file(model->file, &model->mapped, &header) == 0 &&
             read_header(&header) == 0 &&
             take_weights(model, &header, options ? options->n_head : 0) == 0;
    free(header.tensors);
    free(header.text);
    if (ok) return model;
    mi_fail_in(model->file ? model->file : path);
    mi_close(model);
    return NULL;
}

MiModel *mi_open(const char *path)
{
    return mi_open_with(path, NULL);
}

void mi_close(MiModel *model)
{
    if (!model) return;
    unmap_file(&model->mapped);
    free(model->file);
    free(model->vocab_ids);
    free(model->block);
    free(model);
}

/* ---- Files of other tools ---- */

struct MiFile {
    Mapped mapped;
    Header header;
};

/* All tensors of a file, whatever they are. F32 is read in place, F16 and BF16 are converted. */
static int take_tensors(MiTensors *tensors, MiFile *file)
{
    const Header *header = &file->header;
    tensors->at = calloc(header->n_tensors + 1, sizeof *tensors->at);
    if (!tensors->at) return mi_fail("out of memory");
    for (int i = 0; i < header->n_tensors; i++) {
        const Tensor *tensor = &header->tensors[i];
        const char   *data = header->data + tensor->range[0];
        MiTensor     *out = &tensors->at[tensors->n++];
        *out = (MiTensor){ .name = tensor->name, .dtype = tensor->dtype,
                           .n_dims = tensor->n_dims };
        memcpy(out->shape, tensor->shape, sizeof out->shape);
        int is_bf16 = !strcmp(tensor->dtype, "BF16");
        if (!strcmp(tensor->dtype, "F32")) out->value = (const weight *)data;
        else if (is_bf16 || !strcmp(tensor->dtype, "F16")) {
            int64_t n = (tensor->range[1] - tensor->range[0]) / 2;
            out->value = convert(&file->mapped, data, n, is_bf16);
            if (!out->value) return -1;
        }
    }
    return 0;
}

int mi_tensors_open(MiTensors *tensors, const char *path)
{
    MiFile *file = calloc(1, sizeof *file);
    *tensors = (MiTensors){ .file = file };
    if (!file) return mi_fail("out of memory");
    if (map_file(path, &file->mapped, &file->header) == 0 && read_header(&file->header) == 0 &&
        take_tensors(tensors, file) == 0)
        return 0;
    mi_fail_in(path);
    mi_tensors_close(tensors);
    return -1;
}

void mi_tensors_close(MiTensors *tensors)
{
    MiFile *file = tensors->file;
    free(tensors->at);
    if (file) {
        unmap_file(&file->mapped);
        free(file->header.tensors);
        free(file->header.text);
    }
    free(file);
    *tensors = (MiTensors){ 0 };
}

/* -12.5e3, as JSON writes numbers */
static int json_number(Json *json, double *value)
{
    const char digits[] = "0123456789";
    char *s = json->at + (*json->at == '-');
    size_t n = strspn(s, digits);
    int  ok = n == 1 || (n && *s != '0');
    s += n;
    if (ok && *s == '.') {
        n = strspn(s + 1, digits);
        ok = n > 0;
        s += 1 + n;
    }
    if (ok && (*s == 'e' || *s == 'E')) {
        s += s[1] == '+' || s[1] == '-' ? 2 : 1;
        n = strspn(s, digits);
        ok = n > 0;
        s += n;
    }
    if (!ok) return json_fail(json, "malformed value");
    *value = strtod(json->at, NULL);
    json->at = s;
    return isinf(*value) ? json_fail(json, "a number is too large") : 0;
}

/* One value and all in it, after those that are in the list: objects and lists before what they
 * hold. What is nested deeper than `depth` is refused. */
static int json_value(Json *json, MiJson *out, int parent, const char *key, int depth)
{
    static const char *const words[] = { "true", "false", "null" };
    char     type = json_peek(json), close = type == '{' ? '}' : ']';
    MiValue *list = grow(out->at, out->n, sizeof *list);
    if (!list) return -1;
    out->at = list;
    int me = out->n++;
    list[me] = (MiValue){ .parent = parent, .type = type, .key = key };
    if (type == '"') return (list[me].text = json_string(json)) ? 0 : -1;
    for (int i = 0; i < 3; i++)
        if (!strncmp(json->at, words[i], strlen(words[i])))
            return json->at += strlen(words[i]), 0;
    if (type != '{' && type != '[') {
        list[me].type = '0';
        return json_number(json, &list[me].number);
    }
    if (depth == 0) return json_fail(json, "nested too deeply");
    json->at++;
    if (json_take(json, close)) return 0;
    do {
        if (type == '{' && (!(key = json_string(json)) || !json_take(json, ':')))
            return key ? json_fail(json, "malformed object") : -1;
        if (json_value(json, out, me, type == '{' ? key : NULL, depth - 1) < 0) return -1;
    } while (json_take(json, ','));
    return json_take(json, close) ? 0 : json_fail(json, "malformed value");
}

static int by_owner(const void *a, const void *b)
{
    const MiValue *x = *(MiValue *const *)a, *y = *(MiValue *const *)b;
    return x->parent != y->parent ? (x->parent > y->parent) - (x->parent < y->parent)
                                  : strcmp(x->key, y->key);
}

/* No object has a key twice: readers would differ in which they take. */
static int check_keys(const MiJson *json)
{
    MiValue **member = malloc((json->n + 1) * sizeof *member);
    int       n = 0, status = 0;
    if (!member) return mi_fail("out of memory");
    for (int i = 0; i < json->n; i++)
        if (json->at[i].key) member[n++] = &json->at[i];
    qsort(member, n, sizeof *member, by_owner);
    for (int i = 1; i < n && status == 0; i++)
        if (by_owner(&member[i - 1], &member[i]) == 0)
            status = mi_fail("key \"%.80s\" appears twice", member[i]->key);
    free(member);
    return status;
}

/* A file's text in the memory that it needs, which is not known of a pipe. */
static char *read_foreign(const char *path, size_t *n)
{
    enum { MOST = 1 << 26 };
    struct stat info;
    int known = stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size < MOST;
    return read_text(path, known ? (size_t)info.st_size : MOST, n);
}

int mi_json_read(MiJson *json, const char *path)
{
    enum { DEPTH = 64 };
    size_t n;
    *json = (MiJson){ .text = read_foreign(path, &n) };
    if (json->text) {
        Json text = { json->text + mark_length(json->text, n), json->text + n, "malformed JSON" };
        if (json_value(&text, json, -1, NULL, DEPTH) == 0 &&
            (!json_peek(&text) && text.at == text.end ? 0
             : json_fail(&text, "text after its end")) == 0 && check_keys(json) == 0)
            return 0;
    }
    mi_fail_in(path);
    mi_json_free(json);
    return -1;
}

void mi_json_free(MiJson *json)
{
    free(json->at);
    free(json->text);
    *json = (MiJson){ 0 };
}

/* ---- Tables: a header, then rows; tabs or commas; cells quoted as RFC 4180 says ---- */

static int column_of(const MiTable *table, const char *name)
{
    for (int c = 0; c < table->n_cols; c++)
        if (!strcmp(table->header[c], name)) return c;
    return -1;
}

const char *mi_cell(const MiTable *table, int row, const char *column)
{
    int c = column_of(table, column);
    return c < 0 ? NULL : table->cells[(size_t)row * table->n_cols + c];
}

void mi_table_free(MiTable *table)
{
    free(table->header);
    free(table->text);
    *table = (MiTable){ 0 };
}

/* Commas in a .csv; elsewhere what the header has, and tabs if it has neither. */
static char separator_of(const char *path, const char *text)
{
    size_t n = strlen(path);
    int    quoted = 0, comma = 0;
    if (n >= 4 && !strcasecmp(path + n - 4, ".csv")) return ',';
    for (; *text && (quoted || !strchr("\r\n", *text)); text++) {
        quoted ^= *text == '"';
        if (*text == '\t' && !quoted) return '\t';
        comma |= *text == ',' && !quoted;
    }
    return comma ? ',' : '\t';
}

/* The cell at *at, in place and without its quotes. Returns what ends it: the separator, '\n', or
 * 0 at the end of the text; '"' if its quote stays open, else what follows the closing quote. */
static int next_cell(char **at, char separator, int *line)
{
    char *in = *at, *out = *at;
    if (*in == '"') {
        for (in++; *in != '"' || *++in == '"'; in++) {
            if (!*in) return '"';
            *line += *in == '\n';
            *out++ = *in;
        }
    } else {
        out = in += strcspn(in, (char[]){ separator, '\n', '\r', 0 });
    }
    int end = *in == '\r' ? '\n' : *in;
    *line += end == '\n';
    *at = in + (*in != 0) + (*in == '\r' && in[1] == '\n');
    *out = 0;
    return end;
}

/* The cells of all rows, row 0 being the header. A column without a name, as pandas writes one for
 * its index, is nobody's and may be there. */
static int split_rows(MiTable *table, char separator)
{
    enum { MOST = 4096 };
    char **cells = table->header, *at = table->text;
    for (int line = 1, row = 0; *at;) {
        int start = line, n = 0, end;
        if (*at == '\n' || *at == '\r') {               /* an empty line is no row */
            next_cell(&at, separator, &line);
            continue;
        }
        do {
            if (n == MOST) return mi_fail("row %d has more than %d columns", row, MOST);
            cells[n++] = at;
            end = next_cell(&at, separator, &line);
        } while (end == separator);
        if (end == '"')
            return mi_fail("row %d (line %d): a quote is opened and never closed", row, start);
        if (end && end != '\n')
            return mi_fail("row %d (line %d): text after a closing quote; a quote inside a quoted "
                           "cell is doubled", row, start);
        if (row && n != table->n_cols)
            return mi_fail("row %d (line %d): expected the header's %d cells, found %d", row,
                           start, table->n_cols, n);
        table->n_cols = n;
        table->n_rows = row++;
        for (int c = 0; row == 1 && c < n; c++)
            if (*cells[c] && column_of(table, cells[c]) < c)
                return mi_fail("two columns are named %s", cells[c]);
        cells += n;
    }
    table->cells = table->header + table->n_cols;
    return table->n_rows ? 0 : mi_fail("expected a header and rows");
}

/* The text of n bytes that is there already, into cells. */
static int parse_table(MiTable *table, size_t n)
{
    char   separator = separator_of(table->file, table->text);
    size_t most = 1;
    for (size_t i = 0; i < n; i++)
        most += table->text[i] == separator || table->text[i] == '\n' || table->text[i] == '\r';
    table->header = malloc(most * sizeof *table->header);
    if (!table->header) return mi_fail("out of memory");
    return memchr(table->text, 0, n) ? mi_fail("not a table: it has a zero byte")
                                     : split_rows(table, separator);
}

int mi_table_read(MiTable *table, const char *path)
{
    size_t n;
    *table = (MiTable){ .file = path, .text = read_foreign(path, &n) };
    size_t mark = table->text ? mark_length(table->text, n) : 0;
    if (mark) memmove(table->text, table->text + mark, n - mark + 1);
    if (table->text && parse_table(table, n - mark) == 0) return 0;
    mi_fail_in(path);
    mi_table_free(table);
    return -1;
}

/* ============================================================================================= */
/* Tokens                                                                                        */
/* ============================================================================================= */

/* ---- Characters, as people see them ---- */

/* What stands on the character before it: nonspacing and enclosing marks, and format characters
 * (Mn, Me, Cf of UnicodeData.txt, version 14) of scripts that terminals can show; the vowels and
 * final consonants of Hangul's conjoining letters. */
static const CodeRange NO_COLUMN[] = {
    {0x300,0x36F}, {0x483,0x489}, {0x591,0x5BD}, {0x5BF,0x5BF}, {0x5C1,0x5C2}, {0x5C4,0x5C5},
    {0x5C7,0x5C7}, {0x610,0x61A}, {0x61C,0x61C}, {0x64B,0x65F}, {0x670,0x670}, {0x6D6,0x6DC},
    {0x6DF,0x6E4}, {0x6E7,0x6E8}, {0x6EA,0x6ED}, {0x711,0x711}, {0x730,0x74A}, {0x900,0x902},
    {0x93A,0x93A}, {0x93C,0x93C}, {0x941,0x948}, {0x94D,0x94D}, {0x951,0x957}, {0x962,0x963},
    {0x981,0x981}, {0x9BC,0x9BC}, {0x9C1,0x9C4}, {0x9CD,0x9CD}, {0x9E2,0x9E3}, {0x9FE,0x9FE},
    {0xE31,0xE31}, {0xE34,0xE3A}, {0xE47,0xE4E}, {0xEB1,0xEB1}, {0xEB4,0xEBC}, {0xEC8,0xECD},
    {0x1160,0x11FF}, {0x1AB0,0x1AFF}, {0x1DC0,0x1DFF}, {0x200B,0x200F}, {0x202A,0x202E},
    {0x2060,0x206F}, {0x20D0,0x20FF}, {0x302A,0x302D}, {0x3099,0x309A}, {0xFE00,0xFE0F},
    {0xFE20,0xFE2F}, {0xFEFF,0xFEFF}
};

/* Wide and Fullwidth in EastAsianWidth.txt, version 14, block by block: in those of pictures a few
 * are narrow, and the twenty wide signs among narrow ones before U+2E80 are not told apart. */
static const CodeRange TWO_COLUMNS[] = {
    {0x1100,0x115F}, {0x2E80,0x303E}, {0x3041,0x4DBF}, {0x4E00,0xA4CF}, {0xA960,0xA97C},
    {0xAC00,0xD7A3}, {0xF900,0xFAFF}, {0xFE10,0xFE19}, {0xFE30,0xFE6F}, {0xFF01,0xFF60},
    {0xFFE0,0xFFE6}, {0x16FE0,0x18D08}, {0x1AFF0,0x1B2FF}, {0x1F300,0x1F64F}, {0x1F680,0x1F6FF},
    {0x1F7E0,0x1F7F0}, {0x1F900,0x1FAFF}, {0x20000,0x3FFFD}
};

/* Columns that text [n] takes on a terminal, with a '?' where append_visible() puts one. */
static int columns_of(const char *text, size_t n)
{
    int columns = 0;
    for (int length; n > 0; text += length, n -= length) {
        int32_t code = utf8_decode((const uint8_t *)text, n, &length);
        columns += code < 0x300 || is_control(code) ? 1
                 : IN_RANGES(code, NO_COLUMN) ? 0 : 1 + IN_RANGES(code, TWO_COLUMNS);
    }
    return columns;
}

/* Append text to a label. Line ends, broken UTF-8 and characters that nobody could see (spaces of
 * other kinds, controls of direction) are spelt out. Cut between characters, with …: returns 0. */
static int label_append(char *label, size_t size, const char *text, size_t n)
{
    static const CodeRange unseen[] = {
        {0xA0,0xA0}, {0xAD,0xAD}, {0x34F,0x34F}, {0x115F,0x1160}, {0x1680,0x1680}, {0x180E,0x180E},
        {0x2000,0x200F}, {0x202F,0x202F}, {0x205F,0x206F}, {0x3000,0x3000}, {0x3164,0x3164},
        {0xFEFF,0xFEFF}, {0xFFF9,0xFFFB}, {0xFFFE,0xFFFF},
    };
    size_t used = strlen(label);
    for (int length; n > 0; text += length, n -= length) {
        char    shown[16];
        int32_t code = utf8_decode((const uint8_t *)text, n, &length);
        if (code == '\n' || code == '\t') strcpy(shown, code == '\n' ? "\\n" : "\\t");
        else if (code < 0 || (code < 128 && is_control(code)))
            snprintf(shown, sizeof shown, "<%02X>", (unsigned char)*text);
        else if (is_control(code) || IN_RANGES(code, unseen))
            snprintf(shown, sizeof shown, "<U+%04X>", (unsigned)code);
        else snprintf(shown, sizeof shown, "%.*s", length, text);
        if (used + strlen(shown) + sizeof "…" > size) {
            if (used + sizeof "…" <= size) strcpy(label + used, "…");
            return 0;
        }
        strcpy(label + used, shown);
        used += strlen(shown);
    }
    return 1;
}

/* ---- Tokens ---- */

/* Text becomes tokens in three steps; no merge crosses the edge of a word:
 *
 *     "John's  cat"   words: "John" "'s" " " " cat"
 *                     merges: c a t -> c at -> cat       (bytes at first; earliest merge first)
 *                     vocabulary: GPT-2's id -> row of the model's embedding
 *
 * tokenizer.bin, written by train/make_tokenizer.py; all integers little-endian:
 *
 *     8 bytes    magic "MITOKEN1"
 *     4 x u32    number of ranges of letters (\p{L}), numbers (\p{N}), spaces (\s); of tokens
 *     2 x u32    first and last code point, for each range: letters, numbers, spaces
 *     u8, bytes  length and bytes, for each token in id order
 *
 * Ids 0-255 are the single bytes, the last is <|endoftext|>, and each id between is the result of
 * one merge: merge number i makes token 256 + i. So "first the earliest merge" means "first the
 * neighbours whose bytes together are the token of lowest id", and no list of merges is needed.
 * Neighbours that GPT-2 does not list can spell a token too, but never meet: the listed merges
 * would have made that token of these bytes before. (The script proves it, and checks the premise:
 * every token's own bytes encode to that token.) */

enum { OTHER, LETTER, NUMBER, SPACE };                  /* the classes that words are made of */

enum {
    N_IDS          = 50257,
    END_OF_TEXT    = N_IDS - 1,
    N_SLOTS        = 1 << 17,                           /* a power of two, over twice N_IDS */
    TOKENIZER_SIZE = 1 << 19,                           /* the file is smaller */
};

struct MiTokenizer {
    uint8_t  file[TOKENIZER_SIZE];      /* tokenizer.bin as it was read */
    size_t   file_size;
    uint8_t  class_of[N_CODE_POINTS];
    uint32_t place_of[N_IDS];           /* where in the file the token's length byte is */
    int32_t  slots[N_SLOTS];            /* hash table, bytes -> 1 + id; 0 is empty */
    int      id_of_byte[256];
    int      n_rows;                    /* of the model */
    int      has_text;                  /* they are GPT-2's tokens */
    int      is_chosen;                 /* by vocab_ids; else row i is id i */
    int      row_of_id[N_IDS];          /* -1: the model does not have it */
    int      id_of_row[N_IDS];
};

static const uint8_t *bytes_of_id(const MiTokenizer *tokenizer, int id, int *n)
{
    const uint8_t *place = tokenizer->file + tokenizer->place_of[id];
    *n = place[0];
    return place + 1;
}

/* bytes [n] -> the slot of the token they spell, or the empty slot where it would be. (FNV-1a
 * hash, linear probing; at least half of the slots are empty, so the search ends.) */
static uint32_t find_slot(const MiTokenizer *tokenizer, const uint8_t *bytes, int n)
{
    uint32_t slot = 2166136261u;
    for (int i = 0; i < n; i++)
        slot = (slot ^ bytes[i]) * 16777619u;
    for (slot %= N_SLOTS; tokenizer->slots[slot]; slot = (slot + 1) % N_SLOTS) {
        int length;
        const uint8_t *token = bytes_of_id(tokenizer, tokenizer->slots[slot] - 1, &length);
        if (length == n && memcmp(token, bytes, (size_t)n) == 0) break;
    }
    return slot;
}

/* ---- Reading tokenizer.bin. The file is not trusted: each count and offset is checked. ---- */

static uint32_t read_u32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* n ranges of one class -> class_of, which makes the class of a character one load. */
static int read_ranges(MiTokenizer *tokenizer, const uint8_t *range, uint32_t n, int class)
{
    uint32_t lowest = 0;
    for (uint32_t i = 0; i < n; i++, range += 8) {
        uint32_t first = read_u32(range), last = read_u32(range + 4);
        if (first < lowest || last < first || last >= N_CODE_POINTS)
            return mi_fail("U+%04X to U+%04X is out of order or no range", first, last);
        for (uint32_t code = first; code <= last; code++) {
            if (tokenizer->class_of[code] != OTHER)
                return mi_fail("U+%04X is in two classes", code);
            tokenizer->class_of[code] = (uint8_t)class;
        }
        lowest = last + 1;
    }
    return 0;
}

/* The tokens, from `at` to the end of the file -> place_of, slots, id_of_byte. The end of text is
 * among them, but no merge ever makes it: its signs and its letters are different words. */
static int read_tokens(MiTokenizer *tokenizer, size_t at)
{
    for (int id = 0; id < N_IDS; id++) {
        size_t left = tokenizer->file_size - at;
        int length = left > 0 ? tokenizer->file[at] : 0;
        if (left < 1 + (size_t)length)
            return mi_fail("it ends within token %d", id);
        if (id < 256 ? length != 1 : length < 2)
            return mi_fail("token %d cannot be %d bytes long", id, length);
        tokenizer->place_of[id] = (uint32_t)at;
        int32_t *slot = tokenizer->slots + find_slot(tokenizer, tokenizer->file + at + 1, length);
        if (*slot)
            return mi_fail("tokens %d and %d are the same", *slot - 1, id);
        if (id < 256)
            tokenizer->id_of_byte[tokenizer->file[at + 1]] = id;
        *slot = 1 + id;
        at += 1 + (size_t)length;
    }
    return at == tokenizer->file_size ? 0 : mi_fail("it goes on after its last token");
}

static int read_tokenizer(MiTokenizer *tokenizer)
{
    const uint8_t *header = tokenizer->file;
    size_t at = 24, size = tokenizer->file_size;
    if (size < at || size == TOKENIZER_SIZE || memcmp(header, "MITOKEN1", 8) != 0)
        return mi_fail("not a tokenizer file");
    if (read_u32(header + 20) != N_IDS)
        return mi_fail("it says %u tokens, GPT-2 has %d", read_u32(header + 20), N_IDS);
    for (int class = LETTER; class <= SPACE; class++) {
        uint32_t n_ranges = read_u32(header + 4 + 4 * class);
        if (n_ranges > (size - at) / 8)
            return mi_fail("it ends within its character ranges");
        if (read_ranges(tokenizer, header + at, n_ranges, class) < 0) return -1;
        at += 8 * (size_t)n_ranges;
    }
    return read_tokens(tokenizer, at);
}

/* ---- Words: GPT-2's pattern, by hand ----
 *
 *     's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
 */

/* The class and the length of the character at `at`. A byte that is not UTF-8 is a character of
 * class OTHER by itself, so that all byte strings can be encoded and come back unchanged. */
static int class_at(const MiTokenizer *tokenizer, const uint8_t *text, size_t n, size_t at,
                    int *length)
{
    int32_t code = utf8_decode(text + at, n - at, length);
    return code < 0 ? OTHER : tokenizer->class_of[code];
}

/* start -> where the word that starts there ends. */
static size_t word_end(const MiTokenizer *tokenizer, const uint8_t *text, size_t n, size_t start)
{
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (int i = 0; text[start] == '\'' && i < 7; i++) {
        size_t length = strlen(contractions[i]);
        if (length <= n - start && memcmp(text + start, contractions[i], length) == 0)
            return start + length;
    }
    int length, class = class_at(tokenizer, text, n, start, &length);
    size_t at = start, last = start;
    if (text[start] == ' ' && n - start > 1) {          /* " ?": a space joins the word after it */
        class = class_at(tokenizer, text, n, start + 1, &length);
        at += class != SPACE;
    }
    while (at < n && class_at(tokenizer, text, n, at, &length) == class) {
        last = at;
        at += (size_t)length;
    }
    /* "\s+(?!\S)": of several spaces before a word, the last is left for that word */
    return class == SPACE && at < n && last > start ? last : at;
}

/* ---- Merges ---- */

typedef struct {
    int32_t length;             /* 0: it was merged into the part before it */
    int32_t previous;           /* where the part before it starts */
    int32_t id;
} Part;

/* An encoding under way: one word's parts, and the rows so far. The part that starts at byte i is
 * part[i]; the next one starts at i + length. The heap holds the pairs that could be merged, as
 * id << 32 | start of the left part, so that its least is the earliest merge, leftmost first. A
 * word of n bytes puts at most n pairs there at the start and two for each of its < n merges. */
typedef struct {
    uint64_t  *heap;            /* [3 capacity], and in the same allocation */
    Part      *part;            /* [capacity] */
    size_t     n_heap, capacity;
    const int *row_of_id;       /* only tokens that have a row are made; NULL: all are */
    int        below;           /* and of those only ids below this */
    int       *rows;            /* [cap], the result */
    int64_t    n_rows, cap;
} Encoding;

static void heap_push(Encoding *e, uint64_t key)
{
    size_t i = e->n_heap++;
    for (; i > 0 && e->heap[(i - 1) / 2] > key; i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = key;
}

static uint64_t heap_pop(Encoding *e)
{
    uint64_t least = e->heap[0], key = e->heap[--e->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < e->n_heap; i = child) {
        child += child + 1 < e->n_heap && e->heap[child + 1] < e->heap[child];
        if (e->heap[child] >= key) break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = key;
    return least;
}

/* The part at `left` and the next one -> the heap, if together they are a token. */
static void push_pair(const MiTokenizer *tokenizer, Encoding *e, const uint8_t *bytes, int n,
                      int left)
{
    int right = left + e->part[left].length;
    if (right >= n) return;
    int length = right - left + e->part[right].length;
    int id = tokenizer->slots[find_slot(tokenizer, bytes + left, length)] - 1;
    if (id >= 0 && id < e->below && (!e->row_of_id || e->row_of_id[id] >= 0))
        heap_push(e, (uint64_t)id << 32 | (uint32_t)left);
}

/* bytes [n] of one word -> e->part. O(n log n), because a pair that went out of date is not
 * searched for in the heap, but known when it is popped: what starts there is longer by then. */
static int merge_word(const MiTokenizer *tokenizer, Encoding *e, const uint8_t *bytes, int n)
{
    if ((size_t)n > e->capacity) {
        free(e->heap);
        e->capacity = n < 256 ? 256 : (size_t)n;
        e->heap = calloc(e->capacity, 3 * sizeof *e->heap + sizeof *e->part);
        if (!e->heap) return mi_fail("out of memory for a word of %d bytes", n);
        e->part = (Part *)(e->heap + 3 * e->capacity);
    }
    for (int i = 0; i < n; i++)
        e->part[i] = (Part){1, i - 1, tokenizer->id_of_byte[bytes[i]]};
    for (int i = 0; i < n; i++) push_pair(tokenizer, e, bytes, n, i);
    while (e->n_heap > 0) {
        uint64_t key = heap_pop(e);
        int id = (int)(key >> 32), left = (int)(key & 0xFFFFFFFF), length;
        Part *part = &e->part[left];
        int right = left + part->length;
        bytes_of_id(tokenizer, id, &length);
        if (right >= n || part->length + e->part[right].length != length) continue;
        e->part[right].length = 0;
        *part = (Part){length, part->previous, id};
        if (left + length < n) e->part[left + length].previous = left;
        push_pair(tokenizer, e, bytes, n, left);
        if (left > 0) push_pair(tokenizer, e, bytes, n, part->previous);
    }
    return 0;
}

/* ---- The vocabulary of a model ---- */

/* Are, with each token, the two that GPT-2 makes it of in the vocabulary? They are what all earlier
 * merges leave of its bytes. Else some tokens could not be spelled, or by other merges than
 * GPT-2's. */
static int check_closed(const MiTokenizer *tokenizer, const int32_t *vocab_ids, int n_vocab)
{
    Encoding e = {0};
    int status = 0;
    for (int row = 256; row < n_vocab - 1 && status == 0; row++) {
        int n, id = e.below = vocab_ids[row];
        const uint8_t *bytes = bytes_of_id(tokenizer, id, &n);
        if ((status = merge_word(tokenizer, &e, bytes, n)) < 0) break;
        const Part *left = e.part, *right = left + left->length;
        if (left->length == n || left->length + right->length != n)
            status = mi_fail("tokenizer: token %d is not the merge of two others", id);
        else if (tokenizer->row_of_id[left->id] < 0 || tokenizer->row_of_id[right->id] < 0)
            status = mi_fail("vocab_ids: token %d is there, but not both of its parts, %d and %d",
                             id, left->id, right->id);
    }
    free(e.heap);
    return status;
}

/* Row i of the model is GPT-2's id vocab_ids[i] (ascending), and only merges that make one of these
 * ids exist. Without vocab_ids row i is id i, and a smaller model has the first merges. */
static int tokenizer_use_vocab(MiTokenizer *tokenizer, const int32_t *vocab_ids, int n_vocab)
{
    if (n_vocab < 1 || (vocab_ids && (n_vocab < 257 || n_vocab > N_IDS)))
        return mi_fail("a vocabulary cannot have %d tokens", n_vocab);
    tokenizer->n_rows = n_vocab;
    tokenizer->has_text = 1;
    tokenizer->is_chosen = vocab_ids != NULL;
    for (int id = 0; id < N_IDS; id++) tokenizer->row_of_id[id] = -1;
    for (int row = 0, lowest = 0; row < min_int(n_vocab, N_IDS); row++) {
        int id = vocab_ids ? vocab_ids[row] : row;
        if (id < lowest || id >= N_IDS)
            return mi_fail("vocab_ids: entry %d is %d: not ascending, or no id", row, id);
        tokenizer->id_of_row[row] = id;
        tokenizer->row_of_id[id] = row;
        lowest = id + 1;
    }
    if (!vocab_ids) return 0;
    if (vocab_ids[255] != 255 || vocab_ids[n_vocab - 1] != END_OF_TEXT)
        return mi_fail("vocab_ids: must contain the bytes, 0-255, and the end of text, %d",
                       END_OF_TEXT);
    return check_closed(tokenizer, vocab_ids, n_vocab);
}

int mi_has_text(const MiTokenizer *tokenizer)
{
    return tokenizer->has_text;
}

int mi_row_of_id(const MiTokenizer *tokenizer, int id)
{
    if (id < 0 || id >= (tokenizer->is_chosen ? N_IDS : tokenizer->n_rows)) return -1;
    return tokenizer->is_chosen ? tokenizer->row_of_id[id] : id;
}

int mi_id_of_row(const MiTokenizer *tokenizer, int row)
{
    if (row < 0 || row >= tokenizer->n_rows) return -1;
    return tokenizer->is_chosen ? tokenizer->id_of_row[row] : row;
}

/* row -> its n bytes, which may contain 0 and are not ended by it; none if they are not known. */
const char *mi_token_bytes(const MiTokenizer *tokenizer, int row, int *n)
{
    int id = mi_id_of_row(tokenizer, row);
    *n = 0;
    if (id < 0 || id >= N_IDS || !tokenizer->has_text) return "";
    return (const char *)bytes_of_id(tokenizer, id, n);
}

/* A token as people can read it: its spaces as dots, and a dot as something else. */
const char *mi_token_label(const MiTokenizer *words, int token, char *label, size_t size)
{
    int         n, length, fits = 1;
    const char *bytes = mi_token_bytes(words, token, &n);
    *label = 0;
    if (n == 0) snprintf(label, size, "<%d>", token);
    for (int i = 0; i < n && fits; i += length) {
        int32_t code = utf8_decode((const uint8_t *)bytes + i, n - i, &length);
        const char *as = code == ' ' ? "·" : code == 0xB7 ? "<U+00B7>" : NULL;
        fits = label_append(label, size, as ? as : bytes + i, as ? strlen(as) : (size_t)length);
    }
    return label;
}

void mi_tokenizer_close(MiTokenizer *tokenizer)
{
    free(tokenizer);
}

/* path -> the tokenizer, at first with each of GPT-2's ids as its own row. */
static MiTokenizer *tokenizer_open(const char *path)
{
    MiTokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    int64_t n = tokenizer ? read_file(path, tokenizer->file, TOKENIZER_SIZE)
              : mi_fail("out of memory");
    if (n >= 0) tokenizer->file_size = (size_t)n;
    if (n >= 0 && read_tokenizer(tokenizer) == 0 &&
        tokenizer_use_vocab(tokenizer, NULL, N_IDS) == 0)
        return tokenizer;
    mi_fail_in(path);
    free(tokenizer);
    return NULL;
}

/* ---- Encoding ---- */

static void add_row(Encoding *e, int row)
{
    if (e->n_rows < e->cap)
        e->rows[e->n_rows] = row;
    e->n_rows++;
}

/* bytes [n] of one word -> rows. Only a model of fewer than 256 rows can lack a byte. */
static int encode_word(const MiTokenizer *tokenizer, Encoding *e, const uint8_t *bytes, int n)
{
    if (merge_word(tokenizer, e, bytes, n) < 0) return -1;
    for (int i = 0; i < n; i += e->part[i].length) {
        int row = tokenizer->row_of_id[e->part[i].id];
        if (row < 0)
            return mi_fail("the model has no token for the byte 0x%02X", bytes[i]);
        add_row(e, row);
    }
    return 0;
}

/* at -> where <|endoftext|> comes next; n if it does not, or if the model does not have it. */
static size_t find_end_of_text(const MiTokenizer *tokenizer, const uint8_t *text, size_t n,
                               size_t at)
{
    int length;
    const uint8_t *token = bytes_of_id(tokenizer, END_OF_TEXT, &length);
    for (; at + (size_t)length <= n && tokenizer->row_of_id[END_OF_TEXT] >= 0; at++)
        if (memcmp(text + at, token, (size_t)length) == 0) return at;
    return n;
}

/* text [n] -> rows of the model: how many, also when that is more than cap (only cap are written);
 * -1 on failure. Any bytes can be encoded, and their tokens spell them again. The text
 * <|endoftext|> becomes the token of that name, as in Hugging Face's tokenizer, and the text up to
 * it is split into words as if nothing followed. */
int64_t mi_encode(const MiTokenizer *tokenizer, const char *text, size_t n, int *tokens,
                  int64_t cap)
{
    const uint8_t *bytes = (const uint8_t *)text;
    Encoding e = {.row_of_id = tokenizer->row_of_id, .below = N_IDS, .rows = tokens, .cap = cap};
    if (!tokenizer->has_text)
        return mi_fail("this model's %d tokens are not GPT-2's, and their text is not known: give "
                       "them by number, --tokens \"1 2 3\" and #4", tokenizer->n_rows);
    if (n > INT32_MAX) return mi_fail("a text of %zu bytes is too long", n);
    size_t at = 0, stop = find_end_of_text(tokenizer, bytes, n, 0);
    int length, status = 0;
    bytes_of_id(tokenizer, END_OF_TEXT, &length);
    while (status == 0 && at < n) {
        if (at < stop) {
            size_t end = word_end(tokenizer, bytes, stop, at);
            status = encode_word(tokenizer, &e, bytes + at, (int)(end - at));
            at = end;
        } else {
            add_row(&e, tokenizer->row_of_id[END_OF_TEXT]);
            at += (size_t)length;
            stop = find_end_of_text(tokenizer, bytes, n, at);
        }
    }
    free(e.heap);
    return status < 0 ? -1 : e.n_rows;
}

/* The tokenizer of a model: GPT-2's, with the model's rows. */
MiTokenizer *mi_tokenizer_open(const char *path, const MiModel *model)
{
    MiTokenizer *tokenizer = tokenizer_open(path);
    if (!tokenizer || !model) return tokenizer;
    if (tokenizer_use_vocab(tokenizer, model->vocab_ids, model->shape.n_vocab) == 0) {
        tokenizer->has_text = model->has_text;
        return tokenizer;
    }
    mi_fail_in(model->file);
    mi_tokenizer_close(tokenizer);
    return NULL;
}

/* ============================================================================================= */
/* The address grammar                                                                           */
/*                                                                                               */
/*     L5H3  L5H3.q@-1  L0-3H*@2-4  L5N120-130  L5.resid_pre@" Mary"  embed  L9H9.pattern@14:10   */
/*     blocks.5.attn.hook_z   heads  mlps  attns  resid   lists: A,B@3,C   not:LIST   file:NAME   */
/* ============================================================================================= */

/* lo .. hi, both included. many: it was written with more than one value (* or a range); at_end:
 * it was counted from the end. */
typedef struct { int lo, hi, many, at_end; } Range;

typedef enum { WHOLE_ROW, HEAD, NEURON } Unit;

typedef struct {                        /* one element of a list of addresses */
    MiSite site;
    Unit   unit;
    Range  layer, index, pos, key;      /* index: which heads or neurons; key: of an edge */
    int    has_pos, has_key;
    const char *text;                   /* where it stands in the argument, */
    const char *pos_text, *key_text;    /* its @POS and :KEY, */
    const char *end;                    /* and where it ends */
} Address;

/* A name that stands for a position, because a row of a table says so: "S2" -> "9", "John#2". */
typedef struct { const char *name, *cell; } Column;

/* Files of addresses, as they were read: what was found in them points into them. */
typedef struct { char *name, *text; size_t n; } ListFile;
typedef struct {
    ListFile *at;
    int       n;
    char   *(*read)(const char *path, size_t most, size_t *n);
} ListFiles;

/* What is being read, and all that is needed to resolve it. */
typedef struct {
    const MiModel     *model;
    const MiTokenizer *tokenizer;
    const int         *tokens;          /* [n] the prompt */
    int                n;
    const char        *flag, *argument; /* "--ablate", "L5H3@-1=mean" */
    const char        *at, *end;        /* the rest of its addresses */
    Address           *found;
    int                n_found;
    const Column      *columns;         /* [n_columns] names that positions may have, or NULL */
    int                n_columns;
    float             *deviation;       /* of all entries of wte, once it is known; or NULL */
    int                uneven;          /* other prompts of the table have other lengths */
    ListFiles         *files;
} Parser;

/* printf to the end of a text */
__attribute__((format(printf, 3, 4)))
static void append(char *text, size_t size, const char *format, ...)
{
    size_t  used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, size - used, format, args);
    va_end(args);
}

/* "--ablate: what is wrong", the argument, and a caret under the culprit; in a file of addresses
 * "--ablate: FILE:LINE: what is wrong", and that line. */
__attribute__((format(printf, 3, 4)))
static int fail_at(const Parser *p, const char *where, const char *format, ...)
{
    char        why[1024], quoted[512] = "", place[300] = "";
    const char *line = p->argument, *end = line + strlen(line);
    va_list     args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    for (int i = 0, number = 1; p->files && i < p->files->n; i++) {
        const ListFile *file = &p->files->at[i];
        if (where < file->text || where > file->text + file->n) continue;
        line = file->text;
        for (const char *c = line; c < where; c++) if (*c == '\n') line = c + 1, number++;
        end = line + strcspn(line, "\r\n");
        snprintf(place, sizeof place, "%.250s:%d: ", file->name, number);
    }
    size_t before = where - line, shift = before > 50 ? before - 50 : 0;
    while (shift && (line[shift] & 0xC0) == 0x80) shift--;      /* not within a character */
    append_visible(quoted, sizeof quoted, line + shift,         /* the culprit, not a long start */
                   min_int(100, (int)(end - line - shift)));
    mi_fail("%s: %s%s", p->flag, place, why);
    append(error_text, sizeof error_text, "\n    %s%s\n    %*s^", shift ? "..." : "", quoted,
           columns_of(line + shift, before - shift) + (shift ? 3 : 0), "");
    return -1;
}

static int take(Parser *p, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || strncmp(p->at, word, n)) return 0;
    p->at += n;
    return 1;
}

/* Digits -> number. Absurdly large ones are cut off at a number that no model has. */
static int take_number(Parser *p, int *number)
{
    const char *start = p->at;
    *number = 0;
    while (p->at < p->end && isdigit((unsigned char)*p->at))
        *number = min_int(*number * 10 + (*p->at++ - '0'), 99999999);
    return p->at > start;
}

/* "*", "3" or "0-3" of `count` things called `what`. */
static int parse_range(Parser *p, const char *what, int count, Range *range)
{
    const char *start = p->at, *last = start;
    *range = (Range){ 0, count - 1, 1, 0 };
    if (take(p, "*")) return 0;
    if (!take_number(p, &range->lo))
        return fail_at(p, p->at, "expected a %s: a number 0-%d, a range like 0-%d, or *", what,
                       count - 1, count - 1);
    range->hi = range->lo;
    range->many = take(p, "-");
    if (range->many) {
        last = p->at;
        if (!take_number(p, &range->hi))
            return fail_at(p, p->at, "expected the last %s of the range", what);
        if (range->hi < range->lo)
            return fail_at(p, start, "the range of %ss runs backwards", what);
    }
    if (range->hi < count) return 0;
    int first_bad = range->lo >= count;
    return fail_at(p, first_bad ? start : last, "%s %d does not exist; this model has %ss 0-%d",
                   what, first_bad ? range->lo : range->hi, what, count - 1);
}

/* The letters, digits and underscores at the cursor. */
static size_t word_length(const Parser *p)
{
    size_t n = 0;
    while (p->at + n < p->end && (isalnum((unsigned char)p->at[n]) || p->at[n] == '_')) n++;
    return n;
}

/* How many letters must be put in, left out or exchanged to make b [n] of a? */
static int distance(const char *a, const char *b, size_t n)
{
    int row[64];
    for (size_t j = 0; j <= n; j++) row[j] = (int)j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0]++;
        for (size_t j = 1; j <= n; j++) {
            int least = min_int(min_int(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = row[j];
            row[j] = least;
        }
    }
    return row[n];
}

/* The site whose name stands at the cursor, or -1. */
static int find_site(const Parser *p)
{
    size_t n = word_length(p);
    for (int site = 0; site < MI_N_SITES; site++)
        if (strlen(SITES[site].name) == n && !strncmp(SITES[site].name, p->at, n)) return site;
    return -1;
}

/* What the word at the cursor may have been meant for: "; did you mean resid_pre?", or "". */
static const char *suggest_site(const Parser *p, int in_block, char text[64])
{
    size_t n = word_length(p);
    int    least = n > 5 ? 3 : 2;
    *text = 0;
    for (int site = 0; site < MI_N_SITES && n > 0 && n < 40; site++) {
        if ((SITES[site].place == MI_BLOCK) != in_block) continue;
        int hook = n > 5 && !strncmp(p->at, "hook_", 5) ? 5 : 0;
        int d = distance(SITES[site].name, p->at + hook, n - hook);
        if (n > 2 && !strncmp(SITES[site].name, p->at, n)) d = 1;
        if (d < least) least = d, snprintf(text, 64, "; did you mean %s?", SITES[site].name);
    }
    static const char *const groups[] = { "heads", "mlps", "attns", "resid" };
    for (int i = 0; i < 4 && !in_block && n > 2 && n < 40; i++)
        if (distance(groups[i], p->at, n) < 3)
            snprintf(text, 64, "; did you mean %s?", groups[i]);
    return text;
}

/* "0-3H*.z", "5N7", "5.mlp_out": what follows the L. Heads and neurons have a default site. */
static int parse_layered(Parser *p, Address *address)
{
    const MiShape *shape = &p->model->shape;
    if (parse_range(p, "layer", shape->n_layer, &address->layer) < 0) return -1;
    int all = !strcmp(p->flag, "--neurons") && (p->at == p->end || *p->at == ',');
    if (take(p, "H")) {
        address->unit = HEAD;
        address->site = MI_z;
        if (parse_range(p, "head", shape->n_head, &address->index) < 0) return -1;
    } else if (all || take(p, "N")) {
        address->unit = NEURON;
        address->site = MI_mlp_post;
        address->index = (Range){ 0, shape->d_mlp - 1, 1, 0 };
        if (!all && parse_range(p, "neuron", shape->d_mlp, &address->index) < 0) return -1;
    }
    if (!take(p, "."))
        return address->unit != WHOLE_ROW ? 0
               : fail_at(p, p->at, "expected H (a head), N (a neuron) or a site such as "
                         ".resid_pre after the layer");
    int     site = find_site(p);
    MiWidth width = site < 0 ? MI_ONE : SITES[site].width;
    if (address->unit == HEAD && width != MI_HEADS && width != MI_KEYS)
        return fail_at(p, p->at, "a head has the sites z, q, k, v, scores and pattern");
    char meant[64];
    if (site < 0 && (!strncmp(p->at, "hook_result", 11) || !strncmp(p->at, "result", 6)))
        return fail_at(p, p->at, "a head's result is its z times W_O; edit or read z");
    if (site < 0 || SITES[site].place != MI_BLOCK)
        return fail_at(p, p->at, "no such site in a layer%s mi --sites lists them",
                       *suggest_site(p, 1, meant) ? meant : ";");
    if (address->unit == NEURON && width != MI_D_MLP)
        return fail_at(p, p->at, "a neuron has the sites mlp_post and mlp_pre");
    address->site = site;
    p->at += word_length(p);
    return 0;
}

/* blocks.5.attn.hook_z, hook_embed ...: names of TransformerLens, as they are. 1 if it was one. */
static int parse_tl_name(Parser *p, Address *address)
{
    Parser after = *p;
    int    layer = 0, in_block = take(&after, "blocks.") && take_number(&after, &layer);
    for (int site = 0; site < MI_N_SITES; site++) {
        const char *name = SITES[site].tl_name, *slot = name ? strstr(name, "%d") : NULL;
        Parser q = in_block ? after : *p;
        if (!name || (slot != NULL) != in_block || !take(&q, slot ? slot + 2 : name) ||
            word_length(&q))
            continue;
        if (layer >= n_layers_of(p->model, site))
            return fail_at(p, p->at + 7, "layer %d does not exist; this model has layers 0-%d",
                           layer, p->model->shape.n_layer - 1);
        address->site = site;
        address->layer = (Range){ layer, layer, 0, 0 };
        p->at = q.at;
        return 1;
    }
    return 0;
}

static int parse_site(Parser *p, Address *address)
{
    static const struct { const char *word; MiSite site; Unit unit; } groups[] = {
        { "heads", MI_z, HEAD }, { "mlps", MI_mlp_out, WHOLE_ROW },
        { "attns", MI_attn_out, WHOLE_ROW }, { "resid", MI_resid_pre, WHOLE_ROW },
    };
    const MiShape *shape = &p->model->shape;
    size_t         n = word_length(p);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (n == strlen(groups[i].word) && take(p, groups[i].word)) {
            address->site = groups[i].site;
            address->unit = groups[i].unit;
            address->layer = (Range){ 0, shape->n_layer - 1, 1, 0 };
            if (address->unit == HEAD) address->index = (Range){ 0, shape->n_head - 1, 1, 0 };
            return 0;
        }
    int site = find_site(p);
    if (site >= 0 && SITES[site].place != MI_BLOCK) {
        address->site = site;
        p->at += n;
        return 0;
    }
    int tl = parse_tl_name(p, address);
    if (tl) return tl < 0 ? -1 : 0;
    if (take(p, "L")) return parse_layered(p, address);
    char meant[64];
    if (*p->at == 'l' && n > 1 && (isdigit((unsigned char)p->at[1]) || p->at[1] == '*'))
        return fail_at(p, p->at, "addresses are written with capital letters: L5H3, L5N12");
    const char *result = strstr(p->at, "hook_result");
    if (result && result < p->end)
        return fail_at(p, p->at, "a head's result is its z times W_O; edit or read z");
    return fail_at(p, p->at, "expected an address such as L5H3, L5.resid_pre, L5N12, heads or "
                   "embed%s mi --sites lists the sites", *suggest_site(p, 0, meant) ? meant : ";");
}

/* The last of the tokens that from `first` on spell text [n]; -1 if they do not. With space, they
 * must have one more before it. */
static int last_spelling(const Parser *p, int first, int space, const char *text, size_t n)
{
    for (int t = first; t < p->n; t++, space = 0) {
        int         length;
        const char *bytes = mi_token_bytes(p->tokenizer, p->tokens[t], &length);
        if (space && (length == 0 || *bytes != ' ')) return -1;
        length -= space;
        if ((size_t)length > n || memcmp(bytes + space, text, length)) return -1;
        text += length;
        if ((n -= length) == 0) return t;
    }
    return -1;
}

/* Text [n] of the prompt, which if it is not exact may have a space before it -> its tokens, or of
 * several such places number `number` (0: there must be only one). Errors point at `where`, or at
 * the number, `which`. */
static int find_text(const Parser *p, const char *where, const char *text, size_t n, int exact,
                     int number, const char *which, Range *pos)
{
    char list[128] = "";
    int  found = 0;
    if (!p->tokenizer) return fail_at(p, where, "text positions need a tokenizer");
    for (int first = 0; first < p->n; first++)
        for (int space = 0; space <= !exact; space++) {
            int last = last_spelling(p, first, space, text, n);
            if (last < 0) continue;
            if (++found == max_int(number, 1)) *pos = (Range){ first, last, 0, 0 };
            if (found <= 8) append(list, sizeof list, " #%d at %d", found, first);
        }
    char names[256] = "";
    for (int i = 0; i < p->n_columns && !exact; i++)
        append(names, sizeof names, "%s%.40s", i ? ", " : "; the columns are ", p->columns[i].name);
    if (found == 0)
        return fail_at(p, where, "%s%s; mi PROMPT --explain shows the tokens", exact
                       ? "no run of whole tokens of the prompt spells this text"
                       : "this is not a position, and no token of the prompt", names);
    if (number == 0 && found > 1)
        return fail_at(p, where, "this text stands %d times in the prompt:%s", found, list);
    if (number > found)
        return fail_at(p, which, found == 1 ? "this text stands only once in the prompt"
                       : "this text stands only %d times in the prompt", found);
    return 0;
}

/* @"TEXT" or @word, with #n to choose among several matches. */
static int parse_text_position(Parser *p, Range *pos)
{
    const char *start = p->at, *text = p->at;
    int         quoted = take(p, "\""), number = 0;
    size_t      n = 0;
    if (quoted) {
        text = p->at;
        while (p->at + n < p->end && p->at[n] != '"') n++;
        if (p->at + n == p->end) return fail_at(p, start, "the quote is not closed");
    } else
        while (p->at + n < p->end && !strchr(",:#=", p->at[n])) n++;
    p->at += n + quoted;
    if (n == 0) return fail_at(p, start, "expected a position: a number, a range, *, or text");
    const char *digits = p->at + 1;
    if (take(p, "#") && (!take_number(p, &number) || number < 1))
        return fail_at(p, digits, "expected a number after #: #1 is the first match");
    return find_text(p, text, text, n, quoted, number, digits, pos);
}

/* A number from the start of the prompt, or negative from its end. */
static int parse_index(Parser *p, int *index, int *at_end)
{
    const char *start = p->at;
    *at_end = take(p, "-");
    if (!take_number(p, index)) return fail_at(p, start, "expected a position");
    if (*at_end) *index = p->n - *index;
    if (*index < 0 || *index >= p->n)
        return fail_at(p, start, "there is no position %.*s: the prompt has %d tokens, 0-%d "
                       "(or -%d to -1)", (int)(p->at - start), start, p->n, p->n - 1, p->n);
    return 0;
}

/* A cell of a table is one place of the prompt, "9", "-1", "Mary", "Mary#2", and never grammar. */
static int read_cell(const Parser *p, const char *where, const Column *column, Range *pos)
{
    const char *cell = column->cell, *hash = strrchr(cell, '#'), *digits = cell + (*cell == '-');
    size_t      n = strlen(cell);
    int         number = 0;
    if (n == 0) return fail_at(p, where, "the column %s is empty in this row", column->name);
    if (*digits && strspn(digits, "0123456789") == strlen(digits)) {
        int place = strlen(digits) > 8 ? p->n : *cell == '-' ? p->n - atoi(digits) : atoi(digits);
        if (place < 0 || place >= p->n)
            return fail_at(p, where, "the column %s says %s, but the prompt has %d tokens",
                           column->name, cell, p->n);
        *pos = (Range){ .lo = place, .hi = place };
        return 0;
    }
    if (hash && hash > cell && hash[1] && !hash[1 + strspn(hash + 1, "0123456789")])
        n = hash - cell, number = atoi(hash + 1);
    if (find_text(p, where, cell, n, *cell == ' ', number, where, pos) == 0) return 0;
    int several = number == 0 && find_text(p, where, cell, n, *cell == ' ', 1, where, pos) == 0;
    return fail_at(p, where, several ? "the column %s says \"%.100s\", which stands several times "
                   "in the prompt: \"%.100s#2\" is the second"
                   : "the column %s says \"%.100s\": no index, and not in the prompt as whole "
                   "tokens", column->name, cell, cell);
}

/* The column whose name stands at the cursor, the longest that fits; NULL if there is none. A
 * number and * are always positions, text in quotes is always text, {NAME} always a column. */
static const Column *find_column(Parser *p)
{
    const Column *best = NULL;
    int           braced = p->at < p->end && *p->at == '{';
    size_t        length = 0, left = p->end - p->at - braced;
    for (int i = 0; i < p->n_columns; i++) {
        const Column *c = &p->columns[i];
        size_t n = strlen(c->name);
        if (n <= length || n > left || strncmp(p->at + braced, c->name, n)) continue;
        const char *after = p->at + braced + n;
        if (braced ? after < p->end && *after == '}' : after == p->end || strchr(",:", *after))
            best = c, length = n;
    }
    if (best) p->at += length + 2 * braced;
    return best;
}

/* After the @: 3, -1, 2-4, -3--1, *, all, the name of a column, or text. */
static int parse_position(Parser *p, Range *pos)
{
    const char *start = p->at, *digit = start + (p->at < p->end && *p->at == '-');
    size_t      word = word_length(p);
    int         is_number = digit < p->end && isdigit((unsigned char)*digit), ignored;
    const char *after = digit + strspn(digit, "0123456789");
    if (take(p, "*") || (word == 3 && take(p, "all"))) {
        *pos = (Range){ 0, p->n - 1, 1, 0 };
        return 0;
    }
    /* a number is no name of a column, but "3rd" may be one */
    int has_name = !is_number || (after < p->end && !strchr(",:-", *after));
    const Column *column = has_name ? find_column(p) : NULL;
    if (column) {
        Range  text;
        char   kept[sizeof error_text];
        size_t n = strlen(column->name);
        memcpy(kept, error_text, sizeof kept);
        if (*start != '{' && p->tokenizer && find_text(p, start, start, n, 0, 1, start, &text) == 0)
            return fail_at(p, start, "\"%s\" is a column of the table and a token of the prompt: "
                           "@{%s} is the column, @\"%s%s\" the token", column->name, column->name,
                           last_spelling(p, text.lo, 1, start, n) < 0 ? "" : " ", column->name);
        memcpy(error_text, kept, sizeof kept);
        return read_cell(p, start, column, pos);
    }
    if (!is_number) return parse_text_position(p, pos);
    *pos = (Range){ 0 };
    if (parse_index(p, &pos->lo, &pos->at_end) < 0) return -1;
    pos->hi = pos->lo;
    pos->many = take(p, "-");
    if (pos->many && parse_index(p, &pos->hi, &ignored) < 0) return -1;
    if (pos->hi < pos->lo) return fail_at(p, start, "the range of positions runs backwards");
    return 0;
}

static int add_address(Parser *p, const Address *address)
{
    Address *list = grow(p->found, p->n_found, sizeof *list);
    if (!list) return -1;
    p->found = list;
    list[p->n_found++] = *address;
    return 0;
}

/* SITE[@POS[:KEY]] -> one more address */
static int parse_address(Parser *p)
{
    Address a = { .text = p->at, .pos = { 0, p->n - 1, 0, 0 }, .key = { 0, p->n - 1, 0, 0 } };
    if (parse_site(p, &a) < 0) return -1;
    const char *site_end = a.pos_text = p->at;
    a.has_pos = take(p, "@");
    if (a.has_pos && parse_position(p, &a.pos) < 0) return -1;
    a.key_text = p->at;
    a.has_key = a.has_pos && take(p, ":");
    const char *key = p->at;
    if (a.has_key && parse_position(p, &a.key) < 0) return -1;
    a.end = p->at;
    if (a.has_key && SITES[a.site].width != MI_KEYS && strcmp(p->flag, "--knockout") &&
        strcmp(p->flag, "--attn"))
        return fail_at(p, key, "only scores and pattern have keys (@query:key); %s has one value "
                       "a position", SITES[a.site].name);
    if (a.key.lo > a.pos.hi)
        return fail_at(p, key, "key %d comes after query %d: no position looks ahead", a.key.lo,
                       a.pos.hi);
    if (p->at < p->end && *p->at != ',')
        return fail_at(p, p->at, a.has_pos ? "expected , or the end after the position"
                       : site_end == p->at ? "expected @POSITION, a comma or the end after the site"
                       : "expected , or the end");
    return add_address(p, &a);
}

/* Does one of the first n addresses name this unit of this layer? */
static int is_named(const Address *found, int n, int layer, int unit)
{
    for (const Address *a = found; a < found + n; a++)
        if (a->layer.lo <= layer && layer <= a->layer.hi && a->index.lo <= unit &&
            unit <= a->index.hi)
            return 1;
    return 0;
}

/* not:LIST -> all units of the list's kind that it does not name, an address for each run of
 * neighbours: of a layer of 3,072 neurons less one, two. */
static int complement(Parser *p, const char *start)
{
    Address one = p->found[0];
    int     listed = p->n_found, units = one.unit == HEAD ? p->model->shape.n_head
                                       : one.unit == NEURON ? p->model->shape.d_mlp : 1;
    for (int i = 0; i < listed; i++) {
        const Address *a = &p->found[i];
        if (a->site != one.site || a->unit != one.unit || a->pos.lo != one.pos.lo ||
            a->pos.hi != one.pos.hi || a->has_key)
            return fail_at(p, a->text, "not: needs units of one kind at the same positions");
    }
    for (int l = 0; l < n_layers_of(p->model, one.site); l++)
        for (int u = 0, end; u < units; u = end) {
            int named = is_named(p->found, listed, l, u);
            for (end = u + 1; end < units && is_named(p->found, listed, l, end) == named;) end++;
            one.layer = (Range){ l, l, 0, 0 };
            one.index = (Range){ u, end - 1, end - u > 1, 0 };
            if (!named && add_address(p, &one) < 0) return -1;
        }
    p->n_found -= listed;
    memmove(p->found, p->found + listed, p->n_found * sizeof *p->found);
    return p->n_found ? 0 : fail_at(p, start, "nothing is left: the list names every unit");
}

static int parse_addresses(Parser *p)
{
    do {
        if (parse_address(p) < 0) return -1;
    } while (take(p, ","));
    return 0;
}

/* The text of a file of addresses, which is read once; NULL if it cannot be. */
static const char *text_of(ListFiles *files, const char *name, size_t length)
{
    enum { MOST = 1 << 24 };
    for (int i = 0; i < files->n; i++)
        if (strlen(files->at[i].name) == length && !strncmp(files->at[i].name, name, length))
            return files->at[i].text;
    ListFile *list = grow(files->at, files->n, sizeof *list), one = { .name = NULL };
    if (list) files->at = list, one.name = strndup(name, length);
    if (!one.name) return mi_fail("out of memory"), NULL;
    one.text = (files->read ? files->read : read_text)(one.name, MOST, &one.n);
    if (one.text && memchr(one.text, 0, one.n)) mi_fail("not text: it has a zero byte");
    else if (one.text) return list[files->n++] = one, one.text;
    mi_fail_in(one.name);
    free(one.name);
    free(one.text);
    return NULL;
}

/* The name of a file -> the addresses in it, a line each; # after a space begins a comment. */
static int parse_file(Parser *p)
{
    const char *name = p->at, *end = p->end, *after = memchr(name, ',', end - name);
    int         found = p->n_found, status = 0;
    if (!after) after = end;
    if (after == name) return fail_at(p, name, "expected the name of a file");
    const char *line = text_of(p->files, name, after - name);
    if (!line) return -1;
    for (; *line && status == 0; line += strcspn(line, "\n"), line += *line == '\n') {
        p->at = p->end = line + strspn(line, " \t\r");
        int quoted = 0;
        for (const char *c = p->at, *comment = c; *c && *c != '\n'; c++) {
            quoted ^= *c == '"';
            if (*c == '#' && c == comment && !quoted) break;
            if (isspace((unsigned char)*c)) comment = c + 1;
            else p->end = c + 1;
        }
        if (p->at < p->end) status = parse_addresses(p);
    }
    p->at = after, p->end = end;
    return status < 0 || p->n_found > found ? status : fail_at(p, name, "it has no address in it");
}

/* LIST or not:LIST -> p->found */
static int parse_list(Parser *p)
{
    const char *start = p->at;
    int negate = take(p, "not:");
    do {
        if ((take(p, "file:") ? parse_file(p) : parse_address(p)) < 0) return -1;
    } while (take(p, ","));
    return negate ? complement(p, start) : 0;
}

static void free_files(ListFiles *files)
{
    for (int i = 0; i < files->n; i++) free(files->at[i].name), free(files->at[i].text);
    free(files->at);
}

/* Where "=VALUE" begins: the last = outside quotes, or the first, where the value is the name of a
 * file, which may have more of them. NULL if there is none. */
static const char *find_value(const char *argument, int is_file)
{
    const char *equals = NULL;
    int         quoted = 0;
    for (const char *c = argument; *c; c++) {
        if (*c == '"') quoted = !quoted;
        if (*c == '=' && !quoted && !(is_file && equals)) equals = c;
    }
    return equals;
}

/* A finite number and then exactly this suffix. */
static int parse_float(const char *text, const char *suffix, float *value)
{
    char  *end;
    double number = strtod(text, &end);
    *value = (float)number;
    return end > text && !strpbrk(text, "xX") && !isspace((unsigned char)*text) &&
           !strcmp(end, suffix) && isfinite(number) && isfinite(*value);
}

/* "0.1", or "3s": so many standard deviations of all entries of wte. */
static int parse_noise(const Parser *p, const char *value, float *amount)
{
    const MiModel *model = p->model;
    float          deviation = p->deviation ? *p->deviation : 0;
    if (!parse_float(value, "s", amount)) return parse_float(value, "", amount);
    if (deviation == 0) {
        double sum = 0, squares = 0;
        size_t entries = (size_t)model->shape.n_vocab * model->shape.d_model;
        for (size_t i = 0; i < entries; i++) {
            sum += model->wte[i];
            squares += (double)model->wte[i] * model->wte[i];
        }
        deviation = (float)sqrt(squares / entries - sum / entries * (sum / entries));
        if (p->deviation) *p->deviation = deviation;
    }
    *amount *= deviation;
    return 1;
}

/* What has to stand behind the = of an intervention's argument, and what it needs besides. */
typedef enum { NO_VALUE, KIND, FACTOR, MAYBE_FACTOR, SIZE, FILE_NAME } Value;
enum { NEEDS_DIRECTION = 1, NEEDS_SOURCE = 2, NEEDS_EDGE = 4 };

/* One row says all there is of an intervention: the parser, --help and the runs read it. */
typedef struct {
    const char *name, *argument, *help;
    MiOp        op;
    MiFrom      from;
    Value       value;
    int         needs;
    const char *otherwise;              /* why a value is refused */
} Intervention;

static const Intervention INTERVENTIONS[] = {
    { "ablate", "SITES[=KIND]", "remove: =zero, =tlzero, =mean, =resample", MI_SET, MI_FROM_VALUE,
      KIND, 0, "an ablation is =zero, =tlzero, =mean or =resample" },
    { "patch", "SITES[=ALPHA]", "take the source's value (ALPHA: part of the way)", MI_MIX,
      MI_FROM_SOURCE, MAYBE_FACTOR, NEEDS_SOURCE,
      "expected a number: 1 patches, 0.5 goes half way" },
    { "freeze", "SITES", "hold at the unedited run's value", MI_SET, MI_FROM_BASE, NO_VALUE, 0,
      "--freeze takes no value" },
    { "knockout", "HEADS@QUERY:KEY", "cut an attention edge", MI_SET, MI_FROM_VALUE, NO_VALUE,
      NEEDS_EDGE, "--knockout takes no value" },
    { "scale", "SITES=K", "multiply by K", MI_SCALE, MI_FROM_VALUE, FACTOR, 0,
      "expected a factor, as in L5H3=2" },
    { "noise", "SITES=S", "add normal noise; 3s: 3 deviations of embeddings", MI_NOISE,
      MI_FROM_VALUE, SIZE, 0,
      "expected a size, as in embed=0.1, or 3s for 3 standard deviations of the embedding" },
    { "steer", "SITES=C", "add C times a direction", MI_ADD, MI_FROM_CALLER, FACTOR,
      NEEDS_DIRECTION, "expected a factor, as in L3.resid_pre=4" },
    { "project", "SITES", "remove what lies along a direction", MI_PROJECT, MI_FROM_CALLER,
      NO_VALUE, NEEDS_DIRECTION, "--project takes no value" },
    { "set", "SITES=FILE.npy", "write back what --save wrote", MI_SET, MI_FROM_CALLER, FILE_NAME,
      0, "expected =FILE.npy" },
};
enum { N_INTERVENTIONS = sizeof INTERVENTIONS / sizeof *INTERVENTIONS };

static const Intervention *find_intervention(const char *name)
{
    for (const Intervention *what = INTERVENTIONS; what < INTERVENTIONS + N_INTERVENTIONS; what++)
        if (!strcmp(what->name, name)) return what;
    return mi_fail("no such intervention: %s", name), NULL;
}

/* A knockout sets the scores of edges to -infinity: all its addresses are edges of heads. */
static int aim_knockout(Parser *p)
{
    for (int i = 0; i < p->n_found; i++) {
        Address *a = &p->found[i];
        int      other = a->unit == HEAD && a->site != MI_z && a->site != MI_scores;
        if (a->unit != HEAD || !a->has_key || other)
            return fail_at(p, other ? strchr(a->text, '.') : a->text,
                           "a knockout is an attention edge of a head: L5H3@QUERY:KEY");
        a->site = MI_scores;
    }
    return 0;
}

/* "=VALUE" of one kind -> where the edit's values come from, or its amount. 1 if it is right. */
static int read_value(const Parser *p, const char *value, Value kind, MiEdit *edit)
{
    static const struct { const char *name; MiFrom from; } kinds[] = {
        { "zero", MI_FROM_VALUE }, { "tlzero", MI_FROM_TLZERO }, { "mean", MI_FROM_MEAN },
        { "resample", MI_FROM_CALLER },
    };
    switch (kind) {
    case NO_VALUE:     return !value;
    case FACTOR:       return value && parse_float(value, "", &edit->amount);
    case MAYBE_FACTOR: return parse_float(value ? value : "1", "", &edit->amount);
    case SIZE:         return value && parse_noise(p, value, &edit->amount);
    case FILE_NAME:    return value && *value;
    case KIND:
        for (int i = 0; value && i < 4; i++)
            if (!strcmp(value, kinds[i].name)) return edit->from = kinds[i].from, 1;
    }
    return !value;                                      /* the default is zero */
}

/* What an intervention does with its "=VALUE": the edit that all its addresses share. */
static int parse_value(Parser *p, const Intervention *what, const char *value, MiEdit *edit)
{
    const char    *where = value ? value : p->argument + strlen(p->argument);
    const Address *edges = NULL, *sigma = NULL;         /* sites that not every op can edit */
    int            ablates = what->value == KIND;
    for (Address *a = p->found; a < p->found + p->n_found; a++) {
        if (SITES[a->site].width == MI_KEYS && !edges) edges = a;
        if (SITES[a->site].width == MI_ONE) sigma = a;
    }
    *edit = (MiEdit){ .op = what->op, .from = what->from, .head = -1 };
    if (edges && (what->needs & NEEDS_DIRECTION))
        return fail_at(p, edges->text, "the rows of scores and pattern differ in length: they have "
                       "no direction");
    if (!read_value(p, value, what->value, edit))
        return fail_at(p, where - (what->value == NO_VALUE), "%s", what->otherwise);
    if (edit->op == MI_MIX && edit->amount == 1) edit->op = MI_SET;
    if (ablates && edges && edit->from != MI_FROM_VALUE)
        return fail_at(p, where, "scores and pattern have no =%s: their rows differ in length",
                       value);
    if (ablates && sigma && (edit->from == MI_FROM_VALUE || edit->from == MI_FROM_TLZERO))
        return fail_at(p, sigma->text, "LayerNorm divides by this: it cannot be zero");
    if (!(what->needs & NEEDS_EDGE)) return 0;
    edit->amount = -INFINITY;
    return aim_knockout(p);
}

/* "ADDRESSES[=VALUE]" -> p->found, and the edit that they share. */
static int parse_intervention(Parser *p, const Intervention *what, MiEdit *edit)
{
    const char *equals = find_value(p->argument, what->value == FILE_NAME);
    if (equals) p->end = equals;
    if (parse_list(p) < 0) return -1;
    return parse_value(p, what, equals ? equals + 1 : NULL, edit);
}

static int add_edit(MiEdits *edits, const MiEdit *edit)
{
    MiEdit *list = grow(edits->at, edits->n, sizeof *list);
    if (!list) return -1;
    edits->at = list;
    list[edits->n++] = *edit;
    return 0;
}

/* One address -> its edits: one a layer, or one a head where heads do not lie side by side. */
static int expand(MiEdits *edits, const Parser *p, const Address *address, MiEdit edit)
{
    const MiShape *shape = &p->model->shape;
    int   keys = SITES[address->site].width == MI_KEYS, whole = address->unit == WHOLE_ROW;
    int   unit = address->unit == HEAD ? shape->d_head : 1;
    Range heads = !keys ? (Range){ -1, -1, 0, 0 }
                : whole ? (Range){ 0, shape->n_head - 1, 0, 0 } : address->index;
    /* A patch or a frozen value exists for the prompt's rows only; other edits without a position
     * also cover what is generated later. */
    int bound = address->has_pos || edit.from == MI_FROM_BASE || edit.from == MI_FROM_SOURCE ||
                (edit.from == MI_FROM_CALLER && edit.op == MI_SET);
    edit.site = address->site;
    edit.pos = address->pos.lo;
    edit.pos_end = bound ? address->pos.hi + 1 : INT_MAX;
    edit.first = keys ? address->key.lo : address->index.lo * unit;
    edit.count = keys ? (address->has_key ? address->key.hi + 1 : shape->n_ctx) - edit.first
               : whole ? width_of(p->model, edit.site, 0)
               : (address->index.hi - address->index.lo + 1) * unit;
    for (edit.layer = address->layer.lo; edit.layer <= address->layer.hi; edit.layer++)
        for (edit.head = heads.lo; edit.head <= heads.hi; edit.head++)
            if (add_edit(edits, &edit) < 0) return -1;
    return 0;
}

int mi_edits_parse(MiEdits *edits, const MiModel *model, const MiTokenizer *tokenizer,
                   const int *tokens, int n, const char *op, const char *argument)
{
    char flag[32];
    const Intervention *what = find_intervention(op);
    if (!what) return -1;
    snprintf(flag, sizeof flag, "--%s", op);
    ListFiles files = { 0 };
    Parser p = { .model = model, .tokenizer = tokenizer, .tokens = tokens, .n = n, .flag = flag,
                 .argument = argument, .at = argument, .end = argument + strlen(argument),
                 .files = &files };
    MiEdit edit;
    int    status = parse_intervention(&p, what, &edit);
    edit.order = edits->n ? edits->at[edits->n - 1].order + 1 : 0;
    for (int i = 0; i < p.n_found && status == 0; i++)
        status = expand(edits, &p, &p.found[i], edit);
    free(p.found);
    free_files(&files);
    return status;
}

/* A row of constants that lives as long as the edits. */
static float *new_constant(MiEdits *edits, int n)
{
    float **list = grow(edits->constants, edits->n_constants, sizeof *list);
    if (!list) return NULL;
    edits->constants = list;
    float *row = calloc(n, sizeof *row);
    if (!row) return mi_fail("out of memory"), NULL;
    return list[edits->n_constants++] = row;
}

/* What "zero" means in TransformerLens, which folds LayerNorm's beta and the value biases into
 * later weights: z and v become b_V + beta W_V, a LayerNorm's output becomes its beta, else 0. */
static void tlzero_row(const MiModel *model, const MiEdit *edit, float *row)
{
    const Block  *w = &model->block[edit->layer];
    const weight *beta = edit->site == MI_ln1 ? w->ln1_beta : edit->site == MI_ln2 ? w->ln2_beta
                       : edit->site == MI_ln_f ? model->ln_f_beta : NULL;
    int D = model->shape.d_model, is_value = edit->site == MI_z || edit->site == MI_v;
    for (int i = 0; i < edit->count; i++) {
        int    c = edit->first + i;
        double sum = is_value ? w->b_QKV[2 * D + c] : beta ? beta[c] : 0;
        for (int j = 0; j < D && is_value; j++)
            sum += (double)w->ln1_beta[j] * w->W_QKV[(size_t)j * 3 * D + 2 * D + c];
        row[i] = (float)sum;
    }
}

/* One row that an edit touches, or would. */
static const float *row_at(const MiRun *run, int lane, const MiEdit *edit, int t)
{
    const float *row = edit->head >= 0
                     ? mi_head(run, lane, edit->site, edit->layer, edit->head, t)
                     : mi_site(run, lane, edit->site, edit->layer, t);
    return row ? row + edit->first : NULL;
}

/* The mean over all positions of an unedited run. */
static int mean_row(const MiRun *base, const MiEdit *edit, float *row)
{
    int n = mi_n_tokens(base, 0);
    for (int i = 0; i < edit->count; i++) {
        double sum = 0;
        for (int t = 0; t < n; t++) {
            const float *x = row_at(base, 0, edit, t);
            if (!x) return -1;
            sum += x[i];
        }
        row[i] = (float)(sum / n);
    }
    return 0;
}

int mi_edits_bind(MiEdits *edits, const MiRun *base, const MiRun *source)
{
    for (int i = 0; i < edits->n; i++) {
        MiEdit      *edit = &edits->at[i];
        const MiRun *donor = edit->from == MI_FROM_SOURCE ? source : base;
        const char  *site = SITES[edit->site].name;
        if (edit->from == MI_FROM_VALUE || (edit->from == MI_FROM_CALLER && edit->value)) continue;
        if (edit->from == MI_FROM_CALLER) return mi_fail("an edit of %s needs its value", site);
        if (!donor)
            return mi_fail("an edit of %s needs %s", site, edit->from == MI_FROM_SOURCE
                           ? "a source run" : "the unedited run");
        if (edit->from == MI_FROM_TLZERO || edit->from == MI_FROM_MEAN) {
            float *row = new_constant(edits, edit->count);
            if (!row) return -1;
            if (edit->from == MI_FROM_TLZERO) tlzero_row(donor->model, edit, row);
            else if (mean_row(donor, edit, row) < 0) return -1;
            edit->value = row;
            edit->value_stride = 0;
            continue;
        }
        if (edit->pos_end > donor->n_rows)
            return mi_fail("an edit of %s reads position %d of a run of %d", site,
                           edit->pos_end - 1, donor->n_rows);
        if (!(edit->value = row_at(donor, 0, edit, edit->pos))) return -1;
        edit->value_stride = width_of(donor->model, edit->site, donor->key_stride);
    }
    return 0;
}

void mi_edits_free(MiEdits *edits)
{
    for (int i = 0; i < edits->n_constants; i++) free(edits->constants[i]);
    free(edits->constants);
    free(edits->at);
    *edits = (MiEdits){0};
}

/* ---- The cells of a sweep ---- */

/* "12 ·John", or where other prompts of a table have other lengths just "12", from the end "-2". */
static void position_label(const Parser *p, int t, int at_end, MiLabel label)
{
    MiLabel token;
    snprintf(label, sizeof(MiLabel), "%d", p->uneven && at_end ? t - p->n : t);
    if (p->uneven || !p->tokenizer) return;
    append(label, sizeof(MiLabel), " %s", mi_token_label(p->tokenizer, p->tokens[t], token, 40));
}

/* How the cells of one address lie in the table: an axis for each part that was written with
 * several values. The last of them becomes the columns, all others the rows; in a list, and where
 * neurons are the only axis, all become rows. */
typedef struct {
    Range axis[4];                      /* layer, unit, position, key */
    int   n[4], column, n_rows, n_cols; /* column: which axis; -1: none */
} Layout;

static Layout lay_out(const Address *a, int list)
{
    Layout layout = { .axis = { a->layer, a->index, a->pos, a->key } };
    int    last = 0, total = 1;
    for (int i = 0; i < 4; i++) {
        Range *axis = &layout.axis[i];
        axis->many &= (i != 1 || a->unit != WHOLE_ROW) && (i != 3 || a->has_key);
        layout.n[i] = axis->many ? axis->hi - axis->lo + 1 : 1;
        if (axis->many) last = i;
        if ((int64_t)total * layout.n[i] > INT_MAX / 4) total = INT_MAX / 4, layout.n[i] = 1;
        total *= layout.n[i];
    }
    int tall = list || last == 0 || (last == 1 && a->unit == NEURON && total == layout.n[1]);
    layout.column = tall ? -1 : last;
    layout.n_cols = tall ? 1 : layout.n[last];
    layout.n_rows = total / layout.n_cols;
    return layout;
}

/* The name of a cell without its position, as it is typed: "L5H3", "L0.mlp_out", "embed". */
static void name_unit(const Address *a, const Range now[4], MiLabel label)
{
    static const MiSite usual[] = { MI_N_SITES, MI_z, MI_mlp_post };
    int in_block = SITES[a->site].place == MI_BLOCK;
    *label = 0;
    if (in_block) append(label, sizeof(MiLabel), "L%d", now[0].lo);
    if (a->unit != WHOLE_ROW)
        append(label, sizeof(MiLabel), "%c%d", a->unit == HEAD ? 'H' : 'N', now[1].lo);
    if (a->site != usual[a->unit] && !(a->site == MI_scores && a->has_key))
        append(label, sizeof(MiLabel), "%s%s", in_block ? "." : "", SITES[a->site].name);
}

/* "@S2:3" to the end of a label: positions and keys as they were typed, but where there are many
 * the cell's own number, or with 0 nothing. */
static void add_places(const Parser *p, const Address *a, const Range now[4], int numbers,
                       MiLabel label)
{
    int from_end = p->uneven && a->pos.at_end ? p->n : 0;
    if (a->has_pos && !a->pos.many)
        label_append(label, sizeof(MiLabel), a->pos_text, a->key_text - a->pos_text);
    else if (a->has_pos && numbers) append(label, sizeof(MiLabel), "@%d", now[2].lo - from_end);
    if (a->has_key && !a->key.many)
        label_append(label, sizeof(MiLabel), a->key_text, a->end - a->key_text);
    else if (a->has_key && numbers) append(label, sizeof(MiLabel), ":%d", now[3].lo);
}

/* The labels of a cell's row and column: "L5" and "H3", "L5H3" and "12 ·John". Elements of a list
 * have their full names in the row. */
static void name_cell(const Parser *p, const Address *a, const Range now[4], int column,
                      MiLabel row, MiLabel col)
{
    int list = p->n_found > 1;
    *row = *col = 0;
    if (list) name_unit(a, now, row), add_places(p, a, now, 0, row);
    for (int axis = list ? 2 : 0; axis < 4; axis++) {
        char   *label = axis == column ? col : row;
        MiLabel text;
        if (!now[axis].many) continue;
        if (axis >= 2) position_label(p, now[axis].lo, a->pos.at_end, text);
        else snprintf(text, sizeof text, "%c%d", axis == 0 ? 'L' : a->unit == NEURON ? 'N' : 'H',
                      now[axis].lo);
        append(label, sizeof(MiLabel), "%s%.40s", *label && axis != 1 ? " " : "", text);
    }
}

/* One address -> its cells, each with its edits, from row `first` of the table on. window: so many
 * layers around each one at a time. */
static int add_cells(const Parser *p, const Address *a, const MiEdit *edit, int window, int first,
                     MiCells *cells)
{
    Layout layout = lay_out(a, p->n_found > 1);
    int    n_layer = p->model->shape.n_layer, cell = first * cells->n_cols;
    for (int i = 0; i < layout.n_rows * layout.n_cols; i++, cell++) {
        Range   now[4];
        MiLabel ignored;
        for (int axis = 3, rest = i; axis >= 0; rest /= layout.n[axis--]) {
            now[axis] = layout.axis[axis];
            if (now[axis].many) now[axis].lo = now[axis].hi = now[axis].lo + rest % layout.n[axis];
        }
        name_cell(p, a, now, layout.column, cells->row[cell / cells->n_cols],
                  first ? ignored : cells->col[i % layout.n_cols]);
        Address one = *a;
        int     l = now[0].lo;
        one.layer = now[0], one.index = now[1], one.pos = now[2], one.key = now[3];
        if (window)
            one.layer = (Range){ max_int(0, l - window / 2),
                                 min_int(n_layer, l + (window + 1) / 2) - 1, 0, 0 };
        if (one.key.lo <= one.pos.hi) {
            if (expand(&cells->edits, p, &one, *edit) < 0) return -1;
            name_unit(a, now, cells->address[cell]);
            add_places(p, a, now, 1, cells->address[cell]);
        }
        cells->first[cell + 1] = cells->edits.n;
    }
    return 0;
}

/* The addresses of an intervention -> the cells of its sweep, in which all share one edit. */
static int lay_out_cells(const Parser *p, const MiEdit *edit, int window, MiCells *cells)
{
    static const char *const axes[] = { "layer", "head", "position", "key" };
    int64_t n_rows = 0;
    int     n_cols = 1, column = -1, row = 0;
    for (int i = 0; i < p->n_found; i++) {
        Layout layout = lay_out(&p->found[i], p->n_found > 1);
        n_rows += layout.n_rows, n_cols = layout.n_cols, column = layout.column;
    }
    if (n_rows * n_cols > 1 << 26)
        return fail_at(p, p->argument, "a sweep of more than %d cells", 1 << 26);
    *cells = (MiCells){ .n_rows = (int)n_rows, .n_cols = n_cols };
    cells->first = calloc(n_rows * n_cols + 1, sizeof *cells->first);
    cells->row = calloc(n_rows, sizeof(MiLabel));
    cells->col = calloc(n_cols, sizeof(MiLabel));
    cells->address = calloc(n_rows * n_cols, sizeof(MiLabel));
    if (!cells->first || !cells->row || !cells->col || !cells->address)
        return mi_fail("out of memory");
    if (column >= 0) snprintf(cells->col_axis, sizeof(MiLabel), "%s", axes[column]);
    if (p->found->layer.many && n_rows > 1) strcpy(cells->row_axis, "layer");
    for (int i = 0; i < p->n_found; i++) {
        if (add_cells(p, &p->found[i], edit, window, row, cells) < 0) return -1;
        row += lay_out(&p->found[i], p->n_found > 1).n_rows;
    }
    return 0;
}

/* One cell is no sweep. */
static int check_cells(const Parser *p, const MiCells *cells)
{
    int n = 0;
    for (int i = 0; i < cells->n_rows * cells->n_cols; i++)
        n += cells->first[i + 1] > cells->first[i];
    if (n >= 2) return 0;
    return fail_at(p, p->argument, "--each sweeps what is written with several values: L*H*, "
                   "L5H3@*, a list");
}

int mi_cells_parse(MiCells *cells, const MiModel *model, const MiTokenizer *tokenizer,
                   const int *tokens, int n, const char *op, const char *argument)
{
    char   flag[32];
    MiEdit edit;
    const Intervention *what = find_intervention(op);
    *cells = (MiCells){ 0 };
    if (!what) return -1;
    snprintf(flag, sizeof flag, "--%s", op);
    ListFiles files = { 0 };
    Parser p = { .model = model, .tokenizer = tokenizer, .tokens = tokens, .n = n, .flag = flag,
                 .argument = argument, .at = argument, .end = argument + strlen(argument),
                 .files = &files };
    int status = parse_intervention(&p, what, &edit);
    if (status == 0) status = lay_out_cells(&p, &edit, 0, cells);
    if (status == 0) status = check_cells(&p, cells);
    free(p.found);
    free_files(&files);
    if (status < 0) mi_cells_free(cells);
    return status;
}

void mi_cells_free(MiCells *cells)
{
    mi_edits_free(&cells->edits);
    free(cells->first);
    free(cells->row);
    free(cells->col);
    free(cells->address);
    *cells = (MiCells){ 0 };
}

/* ---- Paths: what comes from one part to another by the residual stream alone ---- */

MiRun *mi_senders(const MiRun *base, const MiRun *source, const MiEdit *senders, int n,
                  int freeze_mlps)
{
    static const MiSite held[] = { MI_q, MI_k, MI_v, MI_mlp_out };
    const MiShape *s = &base->model->shape;
    int     sites = 3 + (freeze_mlps != 0), status = 0;
    MiEdits edits = { 0 };
    for (int i = 0; i < s->n_layer * sites && status == 0; i++) {
        MiEdit edit = { .op = MI_SET, .from = MI_FROM_BASE, .site = held[i % sites],
                        .layer = i / sites, .head = -1, .pos_end = base->n_rows,
                        .count = s->d_model };
        status = add_edit(&edits, &edit);
    }
    for (int i = 0; i < n && status == 0; i++) {
        status = add_edit(&edits, &senders[i]);
        if (status == 0) edits.at[edits.n - 1].order = 1;
    }
    if (status == 0) status = mi_edits_bind(&edits, base, source);
    MiLane lane = { base, edits.at, edits.n, 0, 0 };
    MiRun *fork = status < 0 ? NULL : mi_fork(&lane, 1, 0, MI_KEEP(ln1) | MI_KEEP(ln2));
    mi_edits_free(&edits);
    if (fork) fork->lanes[0].n_edits = 0;               /* they have done their work */
    return fork;
}

/* Is there such a reader? Of q, k and v these columns, of ln2 and ln_f the whole row. */
static int check_reader(const MiModel *model, const MiEdit *reader)
{
    int site = reader->site, D = model->shape.d_model;
    int of_head = site == MI_q || site == MI_k || site == MI_v;
    if (!of_head && site != MI_ln2 && site != MI_ln_f)
        return mi_fail("%s does not read the residual stream",
                       mi_site_info(site) ? SITES[site].name : "no such site: it");
    if (reader->layer >= 0 && reader->layer < n_layers_of(model, site) && reader->first >= 0 &&
        reader->count >= (of_head ? 1 : D) && reader->count <= D - reader->first)
        return 0;
    return mi_fail("%s has no such layer, or no such columns", SITES[site].name);
}

int mi_receiver(const MiRun *senders, int n, MiEdit reader, MiEdits *edits)
{
    const MiModel *model = senders->model;
    int D = model->shape.d_model, part = reader.site - MI_q, of_head = part >= 0 && part < 3;
    if (check_reader(model, &reader) < 0 || check_positions(senders, 0, 0, n) < 0) return -1;
    if (reader.pos < 0) return mi_fail("a reader at no position");
    if (reader.pos >= n) return 0;
    float *value = new_constant(edits, n * (of_head ? D + reader.count : D));
    if (!value) return -1;
    float *x = of_head ? value + (size_t)n * reader.count : value;
    for (int t = 0; t < n; t++) {
        const float *row = mi_site(senders, 0, of_head ? MI_ln1 : reader.site, reader.layer, t);
        if (!row) return -1;
        memcpy(x + (size_t)t * D, row, D * sizeof *x);
    }
    if (of_head) {
        const Block *w = &model->block[reader.layer];
        size_t column = (size_t)part * D + reader.first;
        senders->kernel->linear(value, x, n, D, reader.count, w->W_QKV + column, 3 * D,
                                w->b_QKV + column, 1);
    }
    reader.op = MI_SET, reader.from = MI_FROM_VALUE;
    reader.value = value + (size_t)reader.pos * reader.count;
    reader.value_stride = reader.count;
    reader.pos_end = min_int(reader.pos_end, n);
    return add_edit(edits, &reader);
}

int mi_reader(const MiRun *run, const MiEdit *reader, const float *x, float *out)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model, part = reader->site - MI_q, is_end = reader->site == MI_ln_f;
    int of_head = part >= 0 && part < 3, l = reader->layer;
    if (check_reader(model, reader) < 0) return -1;
    const Block  *w = &model->block[l];
    const weight *gamma = is_end ? model->ln_f_gamma : of_head ? w->ln1_gamma : w->ln2_gamma;
    const weight *beta = is_end ? model->ln_f_beta : of_head ? w->ln1_beta : w->ln2_beta;
    float  mean = run->kernel->sum(x, D) / D, *y = of_head ? malloc(D * sizeof *y) : out;
    size_t column = (size_t)part * D + reader->first;
    if (!y) return mi_fail("out of memory");
    normalize(y, x, mean, sigma_of(run, x, mean), gamma, beta, D);
    if (!of_head) return 0;
    run->kernel->linear(out, y, 1, D, reader->count, w->W_QKV + column, 3 * D, w->b_QKV + column,
                        1);
    free(y);
    return 0;
}

int mi_reader_gradient(const MiRun *of, int lane, const MiRun *gradient, const MiEdit *reader,
                       int pos, float *dx)
{
    static const MiSite parts[3][3] = { { MI_resid_pre, MI_ln1_scale, MI_ln1 },
        { MI_resid_mid, MI_ln2_scale, MI_ln2 }, { MI_resid_post, MI_ln_f_scale, MI_ln_f } };
    int    D = of->model->shape.d_model, L = of->model->shape.n_layer, l = reader->layer;
    int    which = reader->site == MI_ln_f ? 2 : reader->site == MI_ln2, part = reader->site - MI_q;
    const MiSite *site = parts[which];
    if (check_reader(of->model, reader) < 0) return -1;
    const Block  *w = &of->model->block[l];
    const weight *gamma[] = { w->ln1_gamma, w->ln2_gamma, of->model->ln_f_gamma };
    const float  *x = mi_site(of, lane, site[0], which == 2 ? L - 1 : l, pos);
    const float  *sigma = mi_site(of, lane, site[1], l, pos);
    const float  *dy = row_at(gradient, 0, reader, pos);
    if (!x || !sigma || !dy) return -1;
    if (of->edited[site[1] * L + l] | of->edited[site[2] * L + l] |
        of->edited[reader->site * L + l])
        return mi_fail("an edit stands between the stream and %s", SITES[reader->site].name);
    float *dln = malloc(D * sizeof *dln);
    if (!dln) return mi_fail("out of memory");
    for (int i = 0; i < D; i++)
        dln[i] = which ? dy[i] : of->kernel->dot(dy, w->W_QKV + ((size_t)i * 3 + part) * D +
                                                 reader->first, reader->count);
    memset(dx, 0, D * sizeof *dx);
    sigma_back(of, normalize_back(of, dln, gamma[which], x, *sigma, dx), x, dx);
    free(dln);
    return 0;
}

/* ============================================================================================= */
/* Means over many prompts, and how sure they are                                                */
/*                                                                                               */
/* Rows of one group (prompts made from one template, say) are not independent: errors are those */
/* of sums over groups. A mean is summed from the first row to the last, so that whoever adds up */
/* the rows of a report, or of its parts one after another, gets the same bits.                  */
/* ============================================================================================= */

typedef struct { const char *name; int row; } Named;

static int by_name_then_row(const void *a, const void *b)
{
    const Named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->row - y->row;
}

/* name [n] -> group [n], 0 .. n_groups-1 in the order of their first rows. Without a name, a row
 * is a group of its own. */
int *mi_groups(const char *const *name, int n, int *n_groups)
{
    Named *named = malloc((n + !n) * sizeof *named);
    int   *group = malloc((n + !n) * sizeof *group), n_named = 0;
    if (!named || !group) return free(named), free(group), mi_fail("out of memory"), NULL;
    for (int i = 0; i < n; i++) {
        group[i] = i;
        if (name[i] && *name[i]) named[n_named++] = (Named){ name[i], i };
    }
    qsort(named, n_named, sizeof *named, by_name_then_row);
    for (int i = 1; i < n_named; i++)
        if (!strcmp(named[i].name, named[i - 1].name))
            group[named[i].row] = group[named[i - 1].row];
    free(named);
    *n_groups = 0;                                      /* so far a group is its first row */
    for (int i = 0; i < n; i++)
        group[i] = group[i] == i ? (*n_groups)++ : group[group[i]];
    return group;
}

/* Student's t that 95 of 100 lie within, both signs: P(|T| < t) = .95 with so many degrees of
 * freedom. Cornish and Fisher's expansion around the normal quantile; where that is too coarse,
 * Newton's steps on the exact P, a finite sum of powers of cos^2 (Abramowitz, Stegun 26.7). */
static double t_quantile(int freedom)
{
    const double z = 1.959963984540054, y = z * z, f = freedom;
    double t = z + z * ((y + 1) / 4 + (((5 * y + 16) * y + 3) / 96 +
               ((((3 * y + 19) * y + 17) * y - 15) / 384 +
               ((((79 * y + 776) * y + 1482) * y - 1920) * y - 945) / 92160 / f) / f) / f) / f;
    if (freedom < 1) return NAN;
    double density = 2 * exp(lgamma((f + 1) / 2) - lgamma(f / 2)) / sqrt(f * M_PI);
    for (int step = 0; step < 8 && freedom < 100; step++) {
        int    odd = freedom & 1;
        double square = f / (f + t * t), sine = t / sqrt(f + t * t);
        double term = odd ? sqrt(square) : 1, sum = 0;
        for (int k = odd; k < freedom - 1; term *= square * (k + 1) / (k + 2), k += 2) sum += term;
        double inside = odd ? 2 / M_PI * (asin(sine) + sine * sum) : sine * sum;
        t += (.95 - inside) / (density * pow(square, (f + 1) / 2));
    }
    return t;
}

/* sum of a over sum of b, over the rows whose group is not -1; a lies a_stride apart. A mean is
 * such a ratio, with b = 1. What R leaves of row i is e_i = a_i - R b_i; the error is the delta
 * method's: sqrt(G/(G-1) sum over the G groups of (sum over the group's rows of e_i)^2) divided by
 * |sum of b|. */
int mi_ratio(const double *a, size_t a_stride, const double *b, size_t b_stride, const int *group,
             int n, MiEstimate *e)
{
    double sum_a = 0, sum_b = 0, squares = 0;
    int    most = 0;
    *e = (MiEstimate){ .critical = NAN, .error = NAN };
    for (int i = 0; i < n; i++) {
        most = max_int(most, group[i] + 1);
        if (group[i] >= 0) sum_a += a[i * a_stride], sum_b += b[i * b_stride], e->n++;
    }
    e->mean = sum_b ? sum_a / sum_b : NAN;
    struct { double sum; int n; } *inside = calloc(most + 1, sizeof *inside);
    if (!inside) return mi_fail("out of memory");
    for (int i = 0; i < n; i++)
        if (group[i] >= 0) {
            inside[group[i]].sum += a[i * a_stride] - e->mean * b[i * b_stride];
            inside[group[i]].n++;
        }
    for (int g = 0; g < most; g++)
        squares += inside[g].sum * inside[g].sum, e->n_groups += inside[g].n > 0;
    free(inside);
    int G = e->n_groups;
    if (G > 1) e->error = sqrt(squares * G / (G - 1)) / fabs(sum_b);
    if (G > 1) e->critical = t_quantile(G - 1);
    return 0;
}

int mi_mean(const double *v, size_t stride, const int *group, int n, MiEstimate *e)
{
    static const double one = 1;
    return mi_ratio(v, stride, &one, 0, group, n, e);
}

#ifndef MI_NO_MAIN
/* From here on it is the program. What takes time is above: so this is not optimized, and all of it
 * compiles in two thirds of the time. */
#ifdef __clang__
#pragma clang optimize off
#elif defined __OPTIMIZE__
#pragma GCC optimize("O0")
#endif

/* ============================================================================================= */
/* Files: whole or not at all                                                                    */
/*                                                                                               */
/* The library says what is wrong; the program leaves where something is. What is read is read   */
/* whole, up to a limit. What is written gets its name when it is complete.                      */
/* ============================================================================================= */

enum { FAULT_OF_RUN = 1, FAULT_OF_USER = 2 };           /* exit statuses */

/* Memory that is out is nobody's command line. */
_Noreturn static void leave(int status)
{
    const char *memory = strstr(mi_error(), "out of memory");
    if (memory && (memory == mi_error() || !strncmp(memory - 2, ": ", 2)))
        status = FAULT_OF_RUN;
    fprintf(stderr, "mi: %s\n", mi_error());
    exit(status);
}

static void check(int result, int status) { if (result < 0) leave(status); }

static void *must(void *memory)
{
    if (!memory) check(mi_fail("out of memory"), FAULT_OF_RUN);
    return memory;
}

/* ---- Reading ---- */

/* What was typed, for people: cut, and with '?' for what could move a cursor. */
typedef char Shown[256];
static const char *visible(const char *text, Shown shown)
{
    *shown = 0;
    append_visible(shown, sizeof(Shown), text, strlen(text));
    return shown;
}

static const char NAMELESS[] = "a file without a name";

static void check_input(const char *path, int result)
{
    if (result >= 0) return;
    mi_fail_in(!strcmp(path, "-") ? "standard input" : *path ? path : NAMELESS);
    leave(FAULT_OF_RUN);
}

static int standard_input_is_read;      /* two flags cannot share it */

/* A file, a pipe, or "-" for standard input: everything up to the end, n <= most bytes and a 0. A
 * pipe that somebody has open for writing is waited for as long as it takes; one that nobody has,
 * for two seconds. */
static char *read_all(const char *path, size_t most, size_t *n)
{
    int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : 0;
    struct stat   info;
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    size_t        room = 1 << 16;
    if (!strcmp(path, "-") && standard_input_is_read++)
        check_input(path, mi_fail("it is read already"));
    if (fd < 0 || fstat(fd, &info) < 0) check_input(path, mi_fail("%s", strerror(errno)));
    if (S_ISDIR(info.st_mode)) check_input(path, mi_fail("a folder, not a file"));
    if (S_ISREG(info.st_mode) && (uintmax_t)info.st_size <= most) room = info.st_size + 1;
    int   wait = S_ISFIFO(info.st_mode) ? 2000 : 0;
    char *text = must(malloc(room + 1));
    for (*n = 0;;) {
        ssize_t got = read(fd, text + *n, room - *n);
        if (got == 0 && !wait) break;
        if (got == 0 && poll(&ready, 1, wait) == 0)
            check_input(path, mi_fail("a pipe that nobody writes to"));
        if (got < 0 && errno == EAGAIN) poll(&ready, 1, -1);
        else if (got < 0 && errno != EINTR)
            check_input(path, mi_fail("cannot be read: %s", strerror(errno)));
        if (got >= 0) wait = 0;
        if (got > 0 && (*n += got) > most) check_input(path, mi_fail("more than %zu bytes", most));
        if (*n == room) text = must(realloc(text, (room *= 2) + 1));
    }
    if (*n >= 2 && (!memcmp(text, "\xFF\xFE", 2) || !memcmp(text, "\xFE\xFF", 2)))
        check_input(path, mi_fail("text in UTF-16; save it as UTF-8"));
    size_t mark = mark_length(text, *n);
    if (mark) memmove(text, text + mark, *n -= mark);
    text[*n] = 0;
    if (fd) close(fd);
    return text;
}

/* The prompt "-". Its last line end is the shell's, not the prompt's. */
static char *read_standard_input(size_t *n)
{
    char *text = read_all("-", 1 << 20, n);             /* more than any context holds */
    if (*n && text[*n - 1] == '\n' && --*n && text[*n - 1] == '\r') --*n;
    text[*n] = 0;
    return text;
}

/* A table, as the library reads it: but from pipes, too. */
static MiTable read_table(const char *path)
{
    size_t  n;
    MiTable table = { .file = path, .text = read_all(path, 1 << 28, &n) };
    check_input(path, parse_table(&table, n));
    return table;
}

/* ---- Writing ---- */

/* A file that is being written. It has another name until it is complete, so that whoever looks
 * finds the old one, or none, or the whole new one. */
typedef struct {
    const char *path;                                   /* as it was typed */
    char       *target, *temporary;                     /* both NULL: fd is a device or a pipe */
    int         fd;
} Writer;

/* The temporary that exists now, one at most: an exit or a signal removes it. (A signal comes to
 * any thread, so that this one cannot block it.) */
static const char *volatile unfinished;

static void remove_unfinished(void) { if (unfinished) unlink(unfinished); }

static void remove_and_stop(int number)
{
    remove_unfinished();
    signal(number, SIG_DFL);
    raise(number);
}

/* SIGXFSZ: a write() that a limit forbids is to fail, and say so. */
static void watch_signals(void)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
    static int       watched;
    if (watched++) return;
    atexit(remove_unfinished);
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 5; i++)
        if (signal(numbers[i], remove_and_stop) == SIG_IGN)
            signal(numbers[i], SIG_IGN);                /* nohup, or a job in the background */
}

_Noreturn static void cannot_write(const char *path, const char *why)
{
    mi_fail("%.1000s: cannot be written: %s", *path ? path : NAMELESS, why);
    leave(FAULT_OF_RUN);
}

/* DIRECTORY/NAME without symlinks, there or not. All names of one file have one target. */
static char *target_of(const char *path)
{
    struct stat info;
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char       *target = realpath(path, NULL);
    if (target) return target;
    if (lstat(path, &info) == 0) cannot_write(path, "a symlink to nowhere");
    char *folder = must(strndup(slash ? path : ".", slash > path ? slash - path : 1));
    char *real = realpath(folder, NULL);
    free(folder);
    if (!real) cannot_write(path, errno == ENOENT ? "there is no such folder" : strerror(errno));
    target = must(malloc(strlen(real) + strlen(base) + 2));
    sprintf(target, "%s/%s", real[1] ? real : "", base);
    free(real);
    return target;
}

/* /dev/stdout or /dev/fd/3: what this process has open already, and writes on where it stands */
static int own_descriptor(const char *path)
{
    int  fd = -1;
    char more;
    if (!strcmp(path, "/dev/stdout")) return 1;
    if (!strcmp(path, "/dev/stderr")) return 2;
    return sscanf(path, "/dev/fd/%d%c", &fd, &more) == 1 ? fd : -1;
}

/* 1: a file, there or not, which is replaced. 0: a device or a pipe, which is written into. */
static int is_replaced(const char *path, struct stat *info)
{
    *info = (struct stat){0};
    if (stat(path, info) < 0 && (errno != ENOENT || !*path)) cannot_write(path, strerror(errno));
    if (S_ISDIR(info->st_mode)) cannot_write(path, strerror(EISDIR));
    if (info->st_mode && access(path, W_OK) < 0) cannot_write(path, strerror(errno));
    return own_descriptor(path) < 0 && (!info->st_mode || S_ISREG(info->st_mode));
}

static void forget(Writer *w)
{
    unfinished = NULL;
    free(w->target);
    free(w->temporary);
}

/* O_EXCL: the temporary is a new file, whoever else may think of its name. */
static void open_writer(Writer *w, const char *path)
{
    struct stat     info;
    struct timespec now;
    *w = (Writer){ .path = path };
    if (!is_replaced(path, &info)) {
        int own = own_descriptor(path);
        w->fd = own < 0 ? open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC) : dup(own);
        if (w->fd < 0) cannot_write(path, strerror(errno));
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t random = mix_bits(mix_bits(mix_bits(now.tv_sec) ^ now.tv_nsec) ^ getpid());
    w->target = target_of(path);
    w->temporary = must(malloc(strlen(w->target) + 32));
    strcpy(w->temporary, w->target);
    sprintf(strrchr(w->temporary, '/'), "/.mi-%016llx", (unsigned long long)random);
    watch_signals();
    unfinished = w->temporary;
    mode_t mode = info.st_mode ? info.st_mode & 0777 : 0666;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (w->fd < 0) unfinished = NULL, cannot_write(path, strerror(errno));  /* it is not ours */
    if (info.st_mode) fchmod(w->fd, mode);              /* as the file was that it replaces */
}

static void write_bytes(Writer *w, const void *bytes, size_t n)
{
    enum { PIECE = 1 << 30 };
    for (const char *at = bytes; n;) {
        ssize_t put = write(w->fd, at, n < PIECE ? n : PIECE);
        if (put < 0 && errno != EINTR) cannot_write(w->path, strerror(errno));
        if (put > 0) at += put, n -= put;
    }
}

static void finish_writer(Writer *w)
{
    int unsafe = w->target && fsync(w->fd) < 0 && errno != EINVAL && errno != ENOTSUP;
    if (unsafe || close(w->fd) < 0 || (w->target && rename(w->temporary, w->target) < 0))
        cannot_write(w->path, strerror(errno));
    forget(w);
}

static void write_whole(const char *path, const void *bytes, size_t n)
{
    Writer w;
    open_writer(&w, path);
    write_bytes(&w, bytes, n);
    finish_writer(&w);
}

/* Before any work: can it be written? A pipe is not opened: its reader would take the end of the
 * trial for the end of the file. */
static void check_writable(const char *path)
{
    struct stat info;
    Writer      w;
    if (!is_replaced(path, &info)) return;
    open_writer(&w, path);
    close(w.fd);
    unlink(w.temporary);
    forget(&w);
}

/* ---- Arrays: NumPy's .npy, float32 ---- */

enum { MOST_AXES = 6, MOST_NUMBERS = 1 << 28 };

typedef struct {
    int    n_dims, dim[MOST_AXES];
    size_t n;
    float *values;
} Array;

static const char *print_shape(char *text, size_t size, const Array *array)
{
    text[0] = 0;
    for (int i = 0; i < array->n_dims; i++)
        append(text, size, i ? " %d%s" : "%d%s", array->dim[i],
               i + 1 < array->n_dims || !i ? "," : "");
    return text;
}

/* What stands before the values has a length that is a multiple of 64. */
static void write_npy(const char *path, const Array *array)
{
    Writer w;
    char   shape[96], header[256] = "\x93NUMPY\1";
    int n = 10 + snprintf(header + 10, sizeof header - 10,
                          "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }",
                          print_shape(shape, sizeof shape, array));
    int size = round_up(n + 1, 64);
    header[8] = (char)(size - 10);
    memset(header + n, ' ', size - n - 1);
    header[size - 1] = '\n';
    open_writer(&w, path);
    write_bytes(&w, header, size);
    write_bytes(&w, array->values, array->n * sizeof *array->values);
    finish_writer(&w);
}

/* "12,64" -> dim and n. Python 2 wrote 12L. */
static int parse_shape(const char *text, Array *array)
{
    char *at = (char *)text;
    for (array->n = 1, array->n_dims = 0; *at && array->n_dims < MOST_AXES; at += *at == ',') {
        unsigned long long dim = *at == ',' ? 0 : strtoull(at, &at, 10);
        if (dim == 0 || dim > MOST_NUMBERS / array->n) return -1;
        array->n *= dim;
        array->dim[array->n_dims++] = (int)dim;
        at += *at == 'L';
        if (*at && *at != ',') return -1;
    }
    return *at ? -1 : 0;
}

/* The header, a dict of Python's, which is changed -> the shape, and the bytes of a number */
static int parse_npy_header(char *text, Array *array, int *width)
{
    static const char convert[] = "np.save(FILE, np.ascontiguousarray(x, dtype=np.float32))";
    char  descr[16] = "", order[8] = "", shape[128] = "?", *end = text;
    for (char *c = text; *c; c++)
        if (!isspace((unsigned char)*c)) *end++ = *c == '"' ? '\'' : *c;
    *end = 0;
    char *at = text + (*text == '{');
    for (int n; *at && *at != '}'; at += n + (at[n] == ',')) {
        n = 0;
        if (!strncmp(at, "'shape':()", 10)) *shape = 0, n = 10;
        if (!n) sscanf(at, "'shape':(%127[0-9L,])%n", shape, &n);
        if (!n) sscanf(at, "'descr':'%15[^']'%n", descr, &n);
        if (!n) sscanf(at, "'fortran_order':%7[A-Za-z]%n", order, &n);
        if (!n || !strchr(",}", at[n]))
            return mi_fail("its header says %.200s; expected one plain array: %s", at, convert);
    }
    if (*text != '{' || strcmp(at, "}") || !*descr || !*order || *shape == '?')
        return mi_fail("its header is not that of one array: %.200s", text);
    const char *type = descr + (strchr("<=|", *descr) != NULL);     /* of this machine */
    if (strcmp(type, "f4") && strcmp(type, "f8"))
        return mi_fail("its numbers are %s; expected <f4 or <f8: %s", descr, convert);
    if (strcmp(order, "False"))
        return mi_fail("it is in Fortran's order (fortran_order %s): %s", order, convert);
    if (parse_shape(shape, array) < 0)
        return mi_fail("its shape is (%s); at most %d axes and %d numbers, and no axis of 0, are "
                       "read", shape, MOST_AXES, MOST_NUMBERS);
    *width = type[1] - '0';
    return 0;
}

/* The bytes of an .npy [size] -> array. They are not trusted. */
static int parse_npy(const unsigned char *bytes, size_t size, Array *array)
{
    int width = 4, version = size < 12 ? 0 : bytes[6], start = version == 1 ? 10 : 12;
    if (size < 12 || memcmp(bytes, "\x93NUMPY", 6))
        return mi_fail("not an array of NumPy's (.npy)%s", size > 2 && !memcmp(bytes, "PK", 2) ?
                       " but an archive (.npz); write one array with np.save" : "");
    if (version < 1 || version > 3 || bytes[7])
        return mi_fail("version %d.%d of .npy is not known", version, bytes[7]);
    size_t length = bytes[8] | bytes[9] << 8;
    if (version > 1) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (length > size - start || length > 1 << 16)
        return mi_fail("truncated: its header should have %zu bytes", length);
    char *text = must(strndup((const char *)bytes + start, length));
    int status = parse_npy_header(text, array, &width);
    free(text);
    if (status < 0) return -1;
    size_t have = size - start - length, want = array->n * width;
    if (have != want)
        return mi_fail("its shape needs %zu bytes; %zu follow the header", want, have);
    array->values = must(malloc(array->n * sizeof *array->values));
    bytes += size - have;
    if (width == 4) memcpy(array->values, bytes, have);
    for (size_t i = 0; width == 8 && i < array->n; i++) {
        double number;
        memcpy(&number, bytes + 8 * i, 8);
        array->values[i] = (float)number;
    }
    return 0;
}

static Array read_npy(const char *path)
{
    size_t n;
    Array  array = {0};
    char  *bytes = read_all(path, (size_t)MOST_NUMBERS * 8 + (1 << 17), &n);
    check_input(path, parse_npy((unsigned char *)bytes, n, &array));
    free(bytes);
    return array;
}

/* ============================================================================================= */
/* Tables: what a readout returns                                                                */
/* ============================================================================================= */

/* A stream in memory that could not grow would be printed cut short. At the end it is cut to its
 * size, which may fail too: then there is no text. */
static void must_close(FILE *memory, char *const *text)
{
    int failed = fflush(memory) | ferror(memory);
    must(fclose(memory) || failed ? NULL : *text);
}

typedef MiLabel Label;

/* Text for a row, a column, an address or a name: label(table->row[l], "L%d", l) */
__attribute__((format(printf, 2, 3)))
static char *label(Label text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(Label), format, args);
    va_end(args);
    return text;
}

typedef enum { HEAT, TOKENS, TOP, BARS, LINES, SILENT } Look;       /* how people see it */

/* Numbers with a name for each row and column. Every readout returns some, and all that prints,
 * on a terminal, as TSV, JSON or SVG, prints these. */
typedef struct {
    Label   name;               /* its key in JSON and TSV: "metric", "change", "pattern L5H3" */
    char    title[256];
    Look    look;               /* TSV, JSON and --data do not care */
    int     n_rows, n_cols;
    Label  *row, *col;          /* [n_rows], [n_cols]: "L5", "H3", "12 ·Mary", "base" */
    Label   row_axis, col_axis; /* "layer", "head", "query", "key", "position", "run", "" */
    Label   quantity;           /* what the numbers are: "change of logit_diff" */
    double *value;              /* [n_rows, n_cols]; NAN: see exists() */
    double *error;              /* standard errors over --data, or NULL */
    double *all;                /* [n_prompts, n_rows, n_cols], or NULL */
    int     n_prompts;          /* 0: there is only one, and nothing to average */
    double  critical;           /* Student's t beyond which a cell is told from 0 */
    int    *token;              /* of TOKENS and TOP: the model's token in each cell, -1: none */
    Label  *address;            /* [n_rows, n_cols] what to type to get at the cell, or NULL */
    int     is_signed;          /* colours and bars from -limit to limit, else from 0 to limit */
    double  limit;              /* 0: the largest absolute value; INFINITY: no bars */
    int     is_share;           /* the values are parts of what `whole` stands for */
    double  whole, *wholes;     /* of this prompt; [n_prompts] */
    int     most;               /* show so many cells, the largest both ways; 0: all */
    int     from, n_from;       /* n_from > 0: it is made of so many tables' means by compare() */
} Table;

/* An array that is to be written to a file; over --data with one part for each prompt. */
typedef struct { const char *path; Array array; } Saved;

typedef struct { Table *at; int n; Saved *saved; int n_saved; } Tables;

/* Where people look: out; no colours, 256 of them, or all (0, 1, 2); columns of the window. */
typedef struct { FILE *out; int color, columns; const MiTokenizer *words; } Screen;

static int cells_of(const Table *table) { return table->n_rows * table->n_cols; }

/* A new table, with nothing in its cells. The pointer holds until the next one is added. */
static Table *add_table(Tables *out, const char *name, Look look, int n_rows, int n_cols)
{
    out->at = must(grow(out->at, out->n, sizeof *out->at));
    Table *table = &out->at[out->n++];
    *table = (Table){ .look = look, .n_rows = n_rows, .n_cols = n_cols, .critical = 2 };
    label(table->name, "%s", name);
    table->row = must(calloc(n_rows + 1, sizeof *table->row));
    table->col = must(calloc(n_cols + 1, sizeof *table->col));
    table->value = must(calloc((size_t)n_rows * n_cols + 1, sizeof *table->value));
    for (int i = 0; i < cells_of(table); i++) table->value[i] = NAN;
    return table;
}

static void free_tables(Tables *tables)
{
    for (int i = 0; i < tables->n; i++) {
        Table *table = &tables->at[i];
        void  *owned[] = { table->row, table->col, table->value, table->error, table->all,
                           table->token, table->address, table->wholes };
        for (size_t k = 0; k < sizeof owned / sizeof *owned; k++) free(owned[k]);
    }
    for (int i = 0; i < tables->n_saved; i++) free(tables->saved[i].array.values);
    free(tables->at);
    free(tables->saved);
    *tables = (Tables){ 0 };
}

/* NAN is no cell, a key after its query for example; but a cell that has an address, or a row of
 * bars, was computed and is not a number. */
static int exists(const Table *table, int i)
{
    if (table->token && table->token[i] < 0 && table->look != LINES) return 0;
    return !isnan(table->value[i]) || (table->address ? *table->address[i] != 0
                                                      : table->look == BARS);
}

/* A number that may well be 0. */
static int is_pale(const Table *table, int i)
{
    return table->error && fabs(table->value[i]) < table->critical * table->error[i];
}

/* What the darkest colour and the longest bar stand for. */
static double limit_of(const Table *table)
{
    double limit = 0;
    if (table->limit > 0 && isfinite(table->limit)) return table->limit;
    for (int i = 0; i < cells_of(table); i++)
        if (isfinite(table->value[i])) limit = fmax(limit, fabs(table->value[i]));
    return limit > 0 ? limit : 1;
}

/* ---- Labels ---- */

/* The bytes at the start of a text that fit into some columns. */
static int bytes_of(const char *text, int columns)
{
    int n = 0;
    for (int length; text[n]; n += length) {
        utf8_decode((const uint8_t *)text + n, strnlen(text + n, 4), &length);
        columns -= columns_of(text + n, length);
        if (columns < 0) break;
    }
    return n;
}

static int columns_in(const char *text) { return columns_of(text, strlen(text)); }

/* The columns of the widest of n labels, at most `most`. */
static int widest_of(const Label *label, int n, int most)
{
    int widest = 0;
    for (int i = 0; i < n; i++) widest = max_int(widest, columns_in(label[i]));
    return min_int(widest, most);
}

/* What stands in a cell: its token, or its number in at most 5 columns: .97  -1.3  12.4  1e+05; 0
 * if it is exactly that, · if it is below .005. */
static const char *cell_text(const Table *table, const MiTokenizer *words, int i, Label text)
{
    double value = table->value[i], a = fabs(value);
    char   digits[8];
    *text = 0;
    if (!exists(table, i)) return text;
    if (table->token) return mi_token_label(words, table->token[i], text, sizeof(Label));
    if (isnan(value)) return "nan";
    if (value == 0) return "0";
    if (a < 0.005) return "·";
    if (a < 0.995) {
        snprintf(digits, sizeof digits, "%.2f", a);
        return label(text, "%s%s", value < 0 ? "-" : table->is_signed ? "+" : "", digits + 1);
    }
    if (a < 1000) return label(text, table->is_signed ? "%+.*f" : "%.*f", a < 9.95, value);
    return label(text, isinf(a) ? "%g" : "%.0e", value);
}

/* ---- Colours ---- */

typedef struct { int r, g, b; } Color;

static Color between(Color from, Color to, double share)
{
    return (Color){ (int)(from.r + share * (to.r - from.r)),
                    (int)(from.g + share * (to.g - from.g)),
                    (int)(from.b + share * (to.b - from.b)) };
}

/* share -1..1 -> blue, white, orange; on paper. */
static Color heat(double share)
{
    static const Color white = { 247, 247, 247 }, ends[2][2] = {
        { { 146, 197, 222 }, { 5, 80, 160 } }, { { 253, 190, 125 }, { 190, 60, 5 } },
    };
    const Color *end = ends[share > 0];
    double       s = fmin(fabs(share), 1) * 2;
    return s < 1 ? between(white, end[0], s) : between(end[0], end[1], s - 1);
}

/* The colours of runs and of other bars, and what letters are written in: on paper, and on
 * terminals without colours, with 256, with all. */
#define INK(name, r, g, b, nearest) \
    { name, { r, g, b }, { "", "\033[38;5;" #nearest "m", "\033[38;2;" #r ";" #g ";" #b "m" } }
static const struct { const char *name; Color color; const char *code[3]; } INKS[] = {
    INK("bar", 95, 135, 175, 67), INK("base", 86, 156, 214, 74), INK("edited", 232, 137, 61, 173),
    INK("held", 232, 137, 61, 173), INK("swept", 200, 110, 200, 170),
    INK("exact", 232, 137, 61, 173), INK("pattern anew", 200, 110, 200, 170),
    INK("source", 120, 180, 110, 107), { "bold", { 0, 0, 0 }, { "", "\033[1m", "\033[1m" } },
    { "dim", { 0, 0, 0 }, { "", "\033[2m", "\033[2m" } },
    { "off", { 0, 0, 0 }, { "", "\033[0m", "\033[0m" } },
};

/* Its place in the table; 0 for all names that are not in it. */
static int ink_of(const char *name)
{
    int ink = sizeof INKS / sizeof *INKS - 1;
    while (ink > 0 && strcmp(INKS[ink].name, name)) ink--;
    return ink;
}

/* What a terminal is told, to write in the colour of a run, bold, dim, or off again. */
static const char *color_of(const Screen *screen, const char *name)
{
    int ink = ink_of(name);
    return ink ? INKS[ink].code[screen->color] : "";
}

/* The colour of a bar is that of the run its row is about, or its column; of two others, each has
 * its own. */
static int bar_ink(const Table *table, int i)
{
    int ink = ink_of(table->row[i / table->n_cols]), column = i % table->n_cols;
    if (!ink) ink = ink_of(table->col[column]);
    return ink || !column ? ink : ink_of("edited");
}

/* A terminal may be light or dark, and 0 should be neither's glare: the smallest numbers are dim,
 * small ones coloured, and only from a quarter of the limit on is what is behind them. */
static void begin_heat(const Screen *screen, double share)
{
    static const Color letters[2] = { { 70, 135, 205 }, { 215, 125, 45 } }, ends[2][2] = {
        { { 95, 125, 160 }, { 0, 75, 200 } }, { { 165, 120, 85 }, { 205, 70, 0 } },
    };
    static const int nearest[2][4] = { { 68, 67, 25, 27 }, { 172, 137, 130, 166 } };
    double s = (fmin(fabs(share), 1) - 0.25) / 0.75;
    int    up = share > 0;
    Color  c = s < 0 ? letters[up] : between(ends[up][0], ends[up][1], s);
    if (fabs(share) < 0.02) fputs(color_of(screen, "dim"), screen->out);
    else if (screen->color == 1)
        fprintf(screen->out, s < 0 ? "\033[38;5;%dm" : "\033[38;5;231;48;5;%dm",
                nearest[up][s < 0 ? 0 : 1 + (int)lrint(2 * s)]);
    else
        fprintf(screen->out, s < 0 ? "\033[38;2;%d;%d;%dm"
                : "\033[38;2;255;255;255;48;2;%d;%d;%dm", c.r, c.g, c.b);
}

/* ---- On a terminal ---- */

/* --color auto, always or never: 0 is none, 1 is 256 colours, 2 all. */
static int color_depth(const char *wish)
{
    const char *depth = getenv("COLORTERM"), *term = getenv("TERM"), *none = getenv("NO_COLOR");
    int possible = isatty(1) && term && strcmp(term, "dumb") && !(none && *none);
    if (!strcmp(wish, "never") || (!possible && strcmp(wish, "always"))) return 0;
    return depth && (strstr(depth, "truecolor") || strstr(depth, "24bit")) ? 2 : 1;
}

/* Text padded with spaces to a number of columns, cut with … where it is longer. */
static void print_padded(FILE *out, const char *text, int columns)
{
    int cut = columns_in(text) > columns, n = bytes_of(text, columns - cut);
    fprintf(out, "%.*s%s%*s", n, text, cut ? "…" : "", columns - cut - columns_of(text, n), "");
}

/* Tokens stand at the left of their column, numbers at its right. */
static void print_cell(const Screen *screen, const Table *table, int i, int width, double limit)
{
    Label       label;
    const char *text = is_pale(table, i) ? "~" : cell_text(table, screen->words, i, label);
    int         color = screen->color && *text && isfinite(table->value[i]);
    if (color) begin_heat(screen, is_pale(table, i) ? 0 : table->value[i] / limit);
    if (table->token) print_padded(screen->out, text, width - 1), fputc(' ', screen->out);
    else fprintf(screen->out, "%*s%s", width - columns_in(text), "", text);
    fputs(color ? "\033[0m" : "", screen->out);
}

/* The labels of some columns. "12 ·Mary" takes two lines, "12" above "Mary"; others only one. */
static void print_header(FILE *out, const Table *table, int first, int last, int label, int width)
{
    for (int line = 0; line < 2; line++) {
        int needed = 0;
        for (int c = first; c < last; c++)
            needed |= line ? strchr(table->col[c], ' ') != NULL : *table->col[c] != 0;
        if (!needed) return;
        fprintf(out, "%*s", label + 3, "");
        for (int c = first; c < last; c++) {
            const char *text = table->col[c], *second = strchr(text, ' ');
            Label       part;
            snprintf(part, sizeof part, "%.*s", (int)strcspn(text, " "), text);
            if (line) strcpy(part, second ? second + 1 : "");
            if (line && !table->token && !strncmp(part, "·", 2) && part[2])
                memmove(part, part + 2, strlen(part) - 1);
            int fits = bytes_of(part, width - 1);       /* no room for a sign that it was cut */
            if (table->token) print_padded(out, part, width - 1), fputc(' ', out);
            else fprintf(out, "%*s%.*s", width - columns_of(part, fits), "", fits, part);
        }
        fputc('\n', out);
    }
}

static int has_cells(const Table *table, int row, int first, int last)
{
    int found = 0;
    for (int c = first; c < last; c++) found |= exists(table, row * table->n_cols + c);
    return found;
}

/* A heat map, or tokens in the colours of their numbers, cut into panels of the same width where
 * the window is too narrow for all columns. */
static void print_map(const Screen *screen, const Table *table)
{
    int    label = widest_of(table->row, table->n_rows, 20), n = table->n_cols;
    int    room = screen->columns - label - 3, widest = 9;
    int    least = table->token ? 8 : table->is_signed ? 5 : 4;
    double limit = limit_of(table);
    Label  text;
    for (int i = 0; table->token && i < cells_of(table); i++)
        widest = max_int(widest, 1 + columns_in(cell_text(table, screen->words, i, text)));
    int per_panel = max_int(1, min_int(room / least, n));
    int panels = (n + per_panel - 1) / per_panel;
    per_panel = (n + panels - 1) / panels;
    int width = max_int(least, min_int(widest, room / per_panel));
    fprintf(screen->out, "  %s\n", table->title);
    for (int first = 0; first < n; first += per_panel) {
        int last = min_int(first + per_panel, n);
        print_header(screen->out, table, first, last, label, width);
        for (int r = 0; r < table->n_rows; r++) {
            if (first > 0 && !has_cells(table, r, first, last)) continue;
            fputs("  ", screen->out);
            print_padded(screen->out, table->row[r], label);
            fputc(' ', screen->out);
            for (int c = first; c < last; c++) print_cell(screen, table, r * n + c, width, limit);
            fputc('\n', screen->out);
        }
        fputc('\n', screen->out);
    }
}

/* The n largest numbers of sign * value, or by their size with sign 0, none of them 0: cells; of
 * bars with several columns only those of the first. */
static int strongest(const Table *table, int sign, int n, int *top)
{
    float *size = must(malloc((cells_of(table) + 1) * sizeof *size));
    for (int i = 0; i < cells_of(table); i++) {
        double value = table->value[i];
        int    other = table->look == BARS && i % table->n_cols > 0;
        if (!isfinite(value) || is_pale(table, i) || other) value = 0;
        size[i] = (float)(sign ? sign * value : fabs(value));
    }
    n = mi_top(size, cells_of(table), n, top);
    while (n && !(size[top[n - 1]] > 0)) n--;
    free(size);
    return n;
}

/* Where a cell is: "L5H3" as it can be typed, "L4 at 9 ·John" with the word at a position. */
static void place_of(const Table *table, int i, char place[160])
{
    const char *row = table->row[i / table->n_cols], *col = table->col[i % table->n_cols];
    int typed = table->address && *table->address[i] && !strchr(row, ' ') && !strchr(col, ' ');
    int apart = *row && *col && *col != 'H' && *col != 'N';
    if (typed) snprintf(place, 160, "%s", table->address[i]);
    else snprintf(place, 160, "%s%s%s", row, apart ? " at " : "", col);
}

static void print_strongest(FILE *out, const Table *table)
{
    int   top[5], found = strongest(table, 0, 5, top), column = 11, numbers = 0;
    char  place[160];
    for (int i = 0; i < cells_of(table); i++) numbers |= isfinite(table->value[i]);
    const char *none = !numbers ? "Not a number in any cell: something became infinite."
                     : table->error ? "No cell can be told from 0." : "No cell changes anything.";
    fprintf(out, "  %s", found ? "strongest" : none);
    for (int i = 0; i < found; i++) {
        place_of(table, top[i], place);
        int width = columns_in(place) + 9;
        if (column + width > 78) fprintf(out, "\n           "), column = 11;
        column += width;
        fprintf(out, " %s %+.3f%s", place, table->value[top[i]], i + 1 < found ? "," : "");
    }
    fputs("\n\n", out);
}

/* Are there so many cells that only the largest are shown? */
static int is_long(const Table *table)
{
    int n = table->look == BARS ? table->n_rows : cells_of(table);
    return table->most > 0 && n > table->most && table->look != TOP;
}

/* As bars: of such a table the largest cells both ways, or the rows of bars whose first number is;
 * of another, by depth, the first column. */
static Table *add_bars(Tables *out, const Table *table)
{
    int   cut = is_long(table), n = cut ? 0 : table->n_rows;
    int   cols = table->look == BARS ? table->n_cols : 1;
    int  *top = must(malloc((2 * table->most + n + 1) * sizeof *top));
    char  place[160];
    for (int r = 0; r < n; r++) top[r] = r * table->n_cols;
    if (cut) n = strongest(table, 1, table->most, top);
    if (cut && table->is_signed) n += strongest(table, -1, table->most, top + n);
    Table *few = add_table(out, table->name, BARS, n, cols);
    if (!cut) snprintf(few->title, sizeof few->title, "%s %.150s", table->col[0], table->title);
    else snprintf(few->title, sizeof few->title, "%.200s; the %d largest %sof %d", table->title,
                  table->most, table->is_signed ? "both ways " : "", cells_of(table) / cols);
    strcpy(few->quantity, cut ? table->quantity : table->col[0]);
    few->is_signed = table->is_signed;
    few->critical = table->critical;
    few->limit = table->limit;
    if (table->error) few->error = must(calloc(n * cols + 1, sizeof *few->error));
    if (cols > 1) memcpy(few->col, table->col, cols * sizeof(Label));
    for (int i = 0; i < n * cols; i++) {
        int from = top[i / cols] + i % cols;
        few->value[i] = table->value[from];
        if (few->error) few->error[i] = table->error[from];
        if (i % cols) continue;
        if (cut && cols == 1) place_of(table, from, place);
        else strcpy(place, table->row[from / table->n_cols]);
        label_append(few->row[i / cols], sizeof(Label), place, strlen(place));
    }
    free(top);
    return few;
}

/* A bar of eighths of a column, share 0..1 of `columns`; with sides, share -1..1 of half of them to
 * either side of a line in the middle. */
static void print_bar(FILE *out, double share, int columns, int sides, const char *color)
{
    static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    const char *off = *color ? "\033[0m" : "";
    if (sides) {
        columns /= 2;
        int left = share < 0 ? (int)lrint(fmin(-share, 1) * columns) : 0;
        fprintf(out, "%*s%s", columns - left, "", color);
        while (left-- > 0) fputs("█", out);
        fprintf(out, "%s│", off);
    }
    int n = share > 0 ? (int)lrint(fmin(share, 1) * columns * 8) : 0;
    if (n == 0 && share >= 0.0005) n = 1;               /* 0.0 % has none, 0.1 % the thinnest */
    fputs(color, out);
    for (int i = 0; i < n / 8; i++) fputs("█", out);
    fprintf(out, "%s%s%*s", eighths[n % 8], off, columns - (n + 7) / 8, "");
}

static void print_ink(const Screen *screen, const char *name)
{
    fprintf(screen->out, "%s%s%s", color_of(screen, name), name, color_of(screen, "off"));
}

/* The likeliest tokens of each run, side by side. */
static void print_top(const Screen *screen, const Table *table)
{
    int   n = table->n_cols, gap = n > 2 ? 3 : 4;
    int   bar = max_int(0, min_int(12, (screen->columns - 5 + gap) / n - 19 - gap));
    FILE *out = screen->out;
    for (int c = 0; c < n; c++) {
        fprintf(out, "%*s", c ? 19 + bar + gap - columns_in(table->col[c - 1]) : 5, "");
        print_ink(screen, table->col[c]);
    }
    for (int i = 0; i < cells_of(table); i++) {
        int   c = i % n;
        Label label;
        if (c == 0) fprintf(out, "\n%4d ", i / n + 1);
        else fprintf(out, "%*s", gap, "");
        if (exists(table, i)) {
            print_padded(out, cell_text(table, screen->words, i, label), 11);
            fprintf(out, "%5.1f %% ", 100 * table->value[i]);
            print_bar(out, table->value[i], bar, 0, color_of(screen, table->col[c]));
        } else fprintf(out, "%*s", 19 + bar, "");
    }
    fputs("\n\n", out);
}

/* A line for each row, with a bar; several columns side by side. */
static void print_bars(const Screen *screen, const Table *table)
{
    int    n = table->n_cols, label = max_int(6, widest_of(table->row, table->n_rows, 44));
    int    number = table->error ? 21 : 11, negative = 0;
    int    room = (screen->columns - 5 - label) / n - number - 3;
    int    columns = isinf(table->limit) || room < 4 ? 0 : min_int(table->error ? 28 : 40, room);
    int    before = table->error ? 10 : 11, after = label + 5;      /* of the names of columns */
    double limit = limit_of(table);
    FILE  *out = screen->out;
    const char *format = isinf(table->limit) ? "%.6g"
                       : table->is_signed ? limit < 0.01 ? "%+.3g" : "%+.4f"
                       : table->n_rows > 4 && limit >= 0.1 ? "%.4f" : "%.4g";
    for (int i = 0; i < cells_of(table); i++) negative |= table->is_signed && table->value[i] < 0;
    fprintf(out, "  %s%s", table->title, n > 1 ? "\n" : "");
    for (int c = 0; c < n && n > 1; c++) {
        fprintf(out, "%*s", after + before - columns_in(table->col[c]), "");
        print_ink(screen, table->col[c]);
        after = number - before + (columns ? columns + 2 : 0);
    }
    for (int i = 0; i < cells_of(table); i++) {
        const char *row = table->row[i / n], *color = INKS[bar_ink(table, i)].code[screen->color];
        double      value = table->value[i], share = value / limit;
        char        text[40] = "", error[24] = "";
        if (i % n == 0) {
            fprintf(out, "\n     %s", color_of(screen, row));
            print_padded(out, row, label);
            fputs(color_of(screen, "off"), out);
        }
        if (n == 1 && exists(table, i) && !isfinite(value)) {
            fputs("   not a number: something in this run became infinite", out);
            continue;
        }
        if (exists(table, i)) snprintf(text, sizeof text, isfinite(value) ? format : "nan", value);
        if (isfinite(value) && table->error && isfinite(table->error[i]))
            snprintf(error, sizeof error, " ± %.2g", table->error[i]);
        fprintf(out, " %*s%s%*s", before - 1, text, error, number - before - columns_in(error), "");
        if (columns) fputs("  ", out);
        if (columns) print_bar(out, negative ? share : fabs(share), columns, negative, color);
    }
    fputs("\n\n", out);
}

/* A line for each depth: numbers of several kinds, the last of them a token where there is one, and
 * the first, where there is room, as a bar. */
static void print_depth(const Screen *screen, const Table *table)
{
    int    n = table->n_cols, label = widest_of(table->row, table->n_rows, 20), width[8] = {0};
    int    room = screen->columns - label - 5;
    double limit = 0;
    FILE  *out = screen->out;
    fprintf(out, "  %s\n%*s", table->title, label + 2, "");
    for (int c = 0; c < n; c++) {
        int last = table->token && c == n - 1;
        width[c] = table->error ? 13 : max_int(last ? 10 : 8, columns_in(table->col[c]) + 1);
        room -= width[c];
        fprintf(out, last ? "  %.*s" : "%*s", width[c], table->col[c]);
    }
    for (int r = 0; r < table->n_rows; r++)
        if (isfinite(table->value[r * n])) limit = fmax(limit, fabs(table->value[r * n]));
    for (int i = 0; i < cells_of(table); i++) {
        const char *name = table->col[i % n];
        int   share = !strcmp(name, "prob") || !strcmp(name, "top"), rank = !strcmp(name, "rank");
        int   sign = i % n == 0 && table->is_signed;
        int   digits = table->error ? share ? 3 : rank ? 1 : 2 : rank ? 0 : share || sign ? 4 : 3;
        Label text, token;
        if (i % n == 0) fputs("\n  ", out), print_padded(out, table->row[i / n], label);
        if (!table->token || table->token[i] < 0) {
            snprintf(text, sizeof text, sign ? "%+.*f" : "%.*f", digits, table->value[i]);
            if (isnan(table->value[i])) strcpy(text, "nan");
            if (table->error && isfinite(table->error[i]))
                append(text, sizeof text, "±%.*f", digits, table->error[i]);
            fprintf(out, "%*s%s", width[i % n] - columns_in(text), "", text);
        } else {
            fputs("  ", out);
            mi_token_label(screen->words, table->token[i], token, sizeof token);
            print_padded(out, token, width[i % n]);
        }
        if (i % n < n - 1 || room < 8 || limit == 0) continue;
        fputc(' ', out);
        print_bar(out, table->value[i - n + 1] / limit, min_int(room, 40), table->is_signed, "");
    }
    fputs("\n\n", out);
}

static void print_table(const Screen *screen, const Table *table)
{
    if (table->look == SILENT || cells_of(table) == 0) return;
    if (is_long(table)) {
        Tables few = { 0 };
        print_bars(screen, add_bars(&few, table));
        if (few.at->n_rows == 0) print_strongest(screen->out, table);
        free_tables(&few);
    } else if (table->look == TOP) print_top(screen, table);
    else if (table->look == LINES) print_depth(screen, table);
    else if (table->look == BARS) print_bars(screen, table);
    else {
        print_map(screen, table);
        if (table->look == HEAT && table->is_signed) print_strongest(screen->out, table);
    }
}

/* ---- TSV: one header, one line for each cell ---- */

/* After a tab, a field: no control characters; one that begins with a quote is quoted, as its
 * readers expect. */
static void tsv_text(FILE *out, const char *text)
{
    int quoted = *text == '"';
    fputs(quoted ? "\t\"" : "\t", out);
    for (; *text; text++) {
        if (quoted && *text == '"') fputc('"', out);
        fputc(iscntrl((unsigned char)*text) ? ' ' : *text, out);
    }
    if (quoted) fputc('"', out);
}

/* With 9 digits, or those that it takes to read back the same number: sums of such numbers, over
 * the parts of a study say, have the bits of the whole's. What is not finite is `none`. */
static void print_digits(FILE *out, double value, int exact, const char *none)
{
    char text[32];
    int  digits = 9;
    do snprintf(text, sizeof text, "%.*g", digits++, value);
    while (exact && digits < 18 && strtod(text, NULL) != value);
    fputs(isfinite(value) ? text : none, out);
}

/* The cells of a table: of one prompt (from 0), which is that row of --data, or with -1 of all. */
static void tsv_cells(FILE *out, const Table *table, const MiTokenizer *words, int prompt, int row)
{
    size_t n = cells_of(table);
    for (size_t i = 0; i < n; i++) {
        Label label = "";
        if (!exists(table, i)) continue;
        fprintf(out, prompt < 0 ? "%s\t" : "%s\t%d", table->name, row);
        tsv_text(out, table->row[i / table->n_cols]);
        tsv_text(out, table->col[i % table->n_cols]);
        fputc('\t', out);
        print_digits(out, prompt < 0 ? table->value[i] : table->all[prompt * n + i], prompt >= 0,
                     "nan");
        fputc('\t', out);
        if (prompt < 0 && table->error && !isnan(table->error[i]))
            print_digits(out, table->error[i], 0, "nan");
        if (table->token && table->token[i] >= 0)
            mi_token_label(words, table->token[i], label, sizeof label);
        tsv_text(out, label);
        tsv_text(out, table->address ? table->address[i] : "");
        fputc('\n', out);
    }
}

/* Means, and for the metric, or with per_prompt for all tables, each prompt's numbers. The first
 * prompt is row `first` of the table, counted from 1. */
static void tsv_tables(FILE *out, const Tables *tables, const MiTokenizer *words, int per_prompt,
                       int first)
{
    fputs("table\tprompt\trow\tcol\tvalue\tse\ttoken\taddress\n", out);
    for (int k = 0; k < tables->n; k++) {
        const Table *table = &tables->at[k];
        int each = table->all && (per_prompt || !strcmp(table->name, "metric"));
        for (int prompt = -1; prompt < (each ? table->n_prompts : 0); prompt++)
            tsv_cells(out, table, words, prompt, first + prompt);
    }
}

/* ---- JSON: numbers with 9 digits, what is not finite as null, text as valid UTF-8 ---- */

static void json_bytes(FILE *out, const char *text, size_t n)
{
    fputc('"', out);
    for (int length; n > 0; text += length, n -= length) {
        int32_t code = utf8_decode((const uint8_t *)text, n, &length);
        if (code < 0) fputs("\xEF\xBF\xBD", out);
        else if (code == '"' || code == '\\') fprintf(out, "\\%c", (char)code);
        else if (is_control(code)) fprintf(out, "\\u%04x", (unsigned)code);
        else fwrite(text, 1, length, out);
    }
    fputc('"', out);
}

/* printf for JSON: ' stands for ", %s is a string with its quotes, %d and %g are numbers. */
__attribute__((format(printf, 2, 3)))
static void json(FILE *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (const char *c = format; *c; c++) {
        if (*c != '%') fputc(*c == '\'' ? '"' : *c, out);
        else if (*++c == 'd') fprintf(out, "%d", va_arg(args, int));
        else if (*c == 's') {
            const char *text = va_arg(args, const char *);
            json_bytes(out, text, strlen(text));
        } else {
            double number = va_arg(args, double);
            fprintf(out, isfinite(number) ? "%.9g" : "null", number);
        }
    }
    va_end(args);
}

/* A token: where it stands, unless pos is -1, its id and its bytes. */
static void json_token(FILE *out, const MiTokenizer *words, int pos, int token)
{
    int         n;
    const char *bytes = mi_token_bytes(words, token, &n);
    if (pos >= 0) json(out, "{'pos':%d,'id':%d,'text':", pos, mi_id_of_row(words, token));
    else json(out, "{'id':%d,'text':", mi_id_of_row(words, token));
    json_bytes(out, bytes, n);
    json(out, "}");
}

static void json_labels(FILE *out, const char *name, const Label *label, int n)
{
    json(out, ",%s:[", name);
    for (int i = 0; i < n; i++) json(out, i ? ",%s" : "%s", label[i]);
    json(out, "]");
}

/* [n_rows, n_cols] as a list of rows, of numbers or, with words, of tokens; NULL: of nulls */
static void json_cells(FILE *out, const Table *table, const double *value, int exact,
                       const MiTokenizer *words)
{
    json(out, "[");
    for (int i = 0; i < cells_of(table); i++) {
        fputs(i % table->n_cols ? "," : i ? "],\n   [" : "\n   [", out);
        if (words && table->token[i] >= 0) json_token(out, words, -1, table->token[i]);
        else print_digits(out, value ? value[i] : NAN, exact, "null");
    }
    json(out, cells_of(table) ? "]]" : "]");
}

static void json_table(FILE *out, const Table *table, const MiTokenizer *words)
{
    json(out, "{'title':%s", table->title);
    json_labels(out, "rows", table->row, table->n_rows);
    json_labels(out, "cols", table->col, table->n_cols);
    json(out, ",\n  'values':"), json_cells(out, table, table->value, 0, NULL);
    if (table->n_prompts || table->error)
        json(out, ",\n  'se':"), json_cells(out, table, table->error, 0, NULL);
    for (int prompt = 0; prompt < table->n_prompts; prompt++) {
        json(out, prompt ? "," : ",\n  'each':[");
        json_cells(out, table, table->all + (size_t)prompt * cells_of(table), 1, NULL);
    }
    if (table->n_prompts) json(out, "]");
    for (int i = 0; table->is_share && i < table->n_prompts; i++)   /* what 1 stands for */
        json(out, i ? ",%g" : ",\n  'wholes':[%g", table->wholes[i]);
    if (table->is_share && table->n_prompts) json(out, "]");
    if (table->token && cells_of(table))
        json(out, ",\n  'tokens':"), json_cells(out, table, NULL, 0, words);
    json(out, "}");
}

/* ---- SVG: a figure for a paper, in a file that needs no other ---- */

#define MIDDLE " text-anchor=\"middle\""
#define GREY   " fill=\"#555\""
#define PALE   " fill=\"#888\" font-style=\"italic\""
static const double EM = 0.6;           /* how wide letters are, in parts of their size */
enum { FIGURE_WIDTH = 960 };            /* pixels */

/* What is drawn goes below y; right is where it has come to. */
typedef struct { FILE *out; const MiTokenizer *words; double y, right; } Figure;

/* Text as XML: what XML cannot hold, even escaped, becomes U+FFFD. */
static void xml_text(FILE *out, const char *text, size_t n)
{
    for (int length; n > 0; text += length, n -= length) {
        int32_t code = utf8_decode((const uint8_t *)text, n, &length);
        if (is_control(code) || code == 0xFFFE || code == 0xFFFF) fputs("\xEF\xBF\xBD", out);
        else if (code < 128 && strchr("&<>\"", code)) fprintf(out, "&#%d;", code);
        else fwrite(text, 1, length, out);
    }
}

/* Text of so many pixels' size, cut to a width (0: whole); style: further attributes. */
static void svg_text(Figure *f, double x, double y, double size, double width, const char *style,
                     const char *text)
{
    int columns = width > 0 ? max_int(1, (int)(width / (size * EM))) : 1000;
    int cut = columns_in(text) > columns;
    fprintf(f->out, "<text x=\"%.5g\" y=\"%.5g\" font-size=\"%g\"%s>", x, y, size, style);
    xml_text(f->out, text, bytes_of(text, columns - cut));
    fputs(cut ? "…</text>\n" : "</text>\n", f->out);
}

/* Lines, broken between words where they are wider than `width`. */
static void svg_lines(Figure *f, double size, double width, const char *style, const char *text)
{
    while (*text) {
        int n = (int)strcspn(text, "\n"), columns = (int)(width / (size * EM));
        int fits = min_int(n, bytes_of(text, columns)), cut = fits;
        while (cut > 0 && cut < n && text[cut] != ' ') cut--;
        if (cut == 0) cut = fits;
        char line[4096];
        snprintf(line, sizeof line, "%.*s", cut, text);
        svg_text(f, 12, f->y += 1.4 * size, size, 0, style, line);
        f->right = fmax(f->right, 12 + columns_in(line) * size * EM);
        text += cut;
        text += strspn(text, *text == '\n' ? "\n" : " ");
    }
}

/* What follows its attributes, "/>\n" if nothing, is up to the caller. */
static void svg_rect(Figure *f, double x, double y, double width, double height, Color c,
                     const char *rest)
{
    fprintf(f->out, "<rect x=\"%.5g\" y=\"%.5g\" width=\"%.5g\" height=\"%.5g\" "
            "fill=\"#%02x%02x%02x\"%s", x, y, width, height, c.r, c.g, c.b, rest);
}

/* Pointing at a rectangle shows where it is and all its digits. */
static void svg_hint(Figure *f, const Table *table, int i)
{
    Label token = "";
    char  hint[320], number[32] = "nan";                /* or printf would write -nan */
    if (table->token) mi_token_label(f->words, table->token[i], token, sizeof token);
    if (!isnan(table->value[i])) snprintf(number, sizeof number, "%.6g", table->value[i]);
    snprintf(hint, sizeof hint, "%s | %s : %s", table->row[i / table->n_cols],
             table->col[i % table->n_cols], number);
    if (table->error) append(hint, sizeof hint, " ± %.2g", table->error[i]);
    append(hint, sizeof hint, " %s", token);
    fputs("><title>", f->out);
    xml_text(f->out, hint, strlen(hint));
    fputs("</title></rect>\n", f->out);
}

/* The ends of a scale that begins at x, and its 0. */
static void svg_ticks(Figure *f, double x, double y, double lo, double hi, double length)
{
    double value[] = { lo, 0, hi }, scale = length / (hi - lo);
    for (int i = 0; i < 3; i++) {
        char text[32];
        if (i != 1 && fabs(value[i]) * scale < 30) continue;
        snprintf(text, sizeof text, lo < 0 && value[i] > 0 ? "%+.3g" : "%.3g", value[i]);
        svg_text(f, x + (value[i] - lo) * scale, y, 11, 0, MIDDLE, text);
    }
}

/* Columns first .. last - 1 of a map: what is shown of them, and where. */
typedef struct {
    int    first, last;
    int    rows, cols, values;          /* whether these have labels, and cells text */
    double x, y, width, height, limit;  /* of the first cell */
    double letter, header;              /* the size of labels; the width of those of the columns, */
    double above;                       /* and their height: wider than a column they are turned */
} Panel;

/* The colour of a cell, white where it is not told from 0. */
static Color paper_color(const Table *table, int i, double limit)
{
    if (is_pale(table, i) || !isfinite(table->value[i])) return (Color){ 255, 255, 255 };
    return heat(table->value[i] / limit);
}

/* Cell i, and where cells are too small to be pointed at, those of its colour behind it as one.
 * Returns how many. */
static int svg_cells(Figure *f, const Table *table, const Panel *p, int i, double y)
{
    Label  label;
    int    c = i % table->n_cols, n = 1, pale = is_pale(table, i) || !isfinite(table->value[i]);
    double x = p->x + (c - p->first) * p->width, gap = p->width > 8;
    Color  color = paper_color(table, i, p->limit), next;
    int    dark = 299 * color.r + 587 * color.g + 114 * color.b < 140000, small = p->width < 5;
    if (!exists(table, i)) return 1;
    for (; small && c + n < p->last && exists(table, i + n); n++) {
        next = paper_color(table, i + n, p->limit);
        if (memcmp(&next, &color, sizeof color)) break;
    }
    svg_rect(f, x, y, n * p->width - gap, p->height - gap, color, small ? "/>\n" : "");
    if (!small) svg_hint(f, table, i);
    if (p->values)
        svg_text(f, x + p->width / 2 - 0.5, y + p->height / 2 + 3.5, p->letter - 1, p->width,
                 pale ? MIDDLE PALE : dark ? MIDDLE " fill=\"#fff\"" : MIDDLE,
                 cell_text(table, f->words, i, label));
    return n;
}

/* One panel -> where it ends. Rows without a cell in it are left out. */
static double svg_panel(Figure *f, const Table *table, const Panel *p)
{
    double y = p->y, size = p->letter;
    int    turned = p->header >= p->width;              /* labels that would touch are left out */
    int    every = max_int(1, (int)ceil((size + (p->width < size ? 6 : 0)) / p->width));
    int    every_row = max_int(1, (int)ceil(size / p->height));
    for (int c = p->first; p->cols && c < p->last; c += every) {
        char   style[120] = MIDDLE;
        double x = p->x + (c - p->first + 0.5) * p->width;
        if (turned) snprintf(style, sizeof style, " transform=\"rotate(-45 %.5g %.5g)\"", x, y - 4);
        svg_text(f, x, y - 5, size, 16 * size * EM, style, table->col[c]);
    }
    for (int r = 0; r < table->n_rows; r++) {
        if (p->first > 0 && !has_cells(table, r, p->first, p->last)) continue;
        if (p->rows && r % every_row == 0)
            svg_text(f, p->x - 6, y + p->height / 2 + 0.35 * size, size, 20 * size * EM,
                     " text-anchor=\"end\"", table->row[r]);
        for (int c = p->first; c < p->last;) c += svg_cells(f, table, p, r * table->n_cols + c, y);
        y += p->height;
    }
    f->right = fmax(f->right, p->x + (p->last - p->first) * p->width +
                    (p->cols && turned ? 0.7 * p->header : 0));
    return y;
}

static void svg_scale(Figure *f, const Table *table, double x, double limit)
{
    enum { STEPS = 60, STEP = 3 };
    double least = table->is_signed ? -limit : 0, end = x + STEPS * STEP + 28;
    char   pale[80] = "";
    for (int i = 0; i < STEPS; i++)
        svg_rect(f, x + i * STEP, f->y, STEP + (i + 1 < STEPS), 10,
                 heat(table->is_signed ? 2 * (i + 0.5) / STEPS - 1 : (i + 0.5) / STEPS), "/>\n");
    svg_ticks(f, x, f->y + 22, least, limit, STEPS * STEP);
    svg_text(f, end, f->y + 10, 12, 0, "", table->quantity);
    if (table->error)
        snprintf(pale, sizeof pale, "grey: within %.3g standard errors of 0", table->critical);
    if (*pale) svg_text(f, end, f->y + 25, 11, 0, PALE, pale);
    f->right = fmax(f->right, end + EM * max_int(columns_in(table->quantity) * 12,
                                                 columns_in(pale) * 11));
    f->y += 28;
}

/* The size of cells and labels. Several maps, and those of very many cells, are small, and where
 * numbers do not fit, only their colours are left; others are cut into panels of last columns. */
static Panel svg_layout(const Figure *f, const Table *table, int n, int *across)
{
    int    cols = table->n_cols, widest = 3, many = cols > 96 || (cols > 24 && table->n_rows > 24);
    Panel  p = { .last = cols, .letter = n > 1 || many ? 10 : 12, .height = 22, .values = 1 };
    Label  text;
    p.x = 34 + widest_of(table->row, table->n_rows, 20) * p.letter * EM;
    double room = FIGURE_WIDTH - p.x - 40;
    for (*across = min_int(n, 4); *across > 1 && room / *across - 14 < 2 * cols;) --*across;
    for (int i = 0; i < cells_of(table); i++)
        widest = min_int(10, max_int(widest, columns_in(cell_text(table, f->words, i, text))));
    for (int i = 0; i < n; i++) p.limit = fmax(p.limit, limit_of(&table[i]));
    if (n > 1 || many) {
        p.width = fmin(26, (room / *across - 14) / cols);
        p.height = n == 1 && table->n_rows <= 24 ? 16 : fmax(2, fmin(p.width, 20));
        p.values = p.width >= 25;
    } else {
        double least = widest * (p.letter - 1) * EM + 4;
        int    fit = max_int(1, (int)(room / least)), panels = (cols + fit - 1) / fit;
        p.last = (cols + panels - 1) / panels;
        p.width = fmin(least + 8, room / p.last);
    }
    p.header = widest_of(table->col, cols, 16) * p.letter * EM;
    p.above = p.letter + (p.header < p.width ? 6 : 0.7 * p.header);
    return p;
}

/* A map, wrapped into panels of the same width; or n maps of one shape side by side, the labels of
 * their rows and columns at the rim. */
static void svg_maps(Figure *f, const Table *table, int n)
{
    int    across, cols = table->n_cols;
    Panel  p = svg_layout(f, table, n, &across);
    int    per_panel = p.last, blocks = n > 1 ? n : (cols + per_panel - 1) / per_panel;
    double left = p.x, top = f->y + 14;
    char   style[100];
    if (*table->col_axis) f->y += 18;
    for (int i = 0; i < blocks; i++) {
        const Table *shown = n > 1 ? &table[i] : table;
        p.rows = i % across == 0;
        p.cols = i < across || n == 1;
        if (p.rows) p.y = f->y += (n > 1 ? 16 : 0) + (p.cols ? p.above : 0);
        p.first = n > 1 ? 0 : i * per_panel;
        p.last = min_int(p.first + per_panel, cols);
        p.x = left + i % across * (p.width * cols + 14);
        if (n > 1)
            svg_text(f, p.x, p.cols ? p.y - p.above - 4 : p.y - 5, 11, p.width * cols, "",
                     shown->name);
        double end = svg_panel(f, shown, &p);
        if (i == 0) {
            svg_text(f, left + per_panel * p.width / 2, top, 12, 0, MIDDLE GREY, table->col_axis);
            snprintf(style, sizeof style, MIDDLE GREY " transform=\"rotate(-90 20 %.5g)\"",
                     (p.y + end) / 2);
            svg_text(f, 20, (p.y + end) / 2, 12, 0, style, table->row_axis);
        }
        f->y = end + 14;
    }
    svg_scale(f, table, left, p.limit);
}

/* Horizontal bars with error bars; those of several columns one below the other. */
static void svg_bars(Figure *f, const Table *table)
{
    enum { LENGTH = 360 };
    int    n = table->n_cols, thick = n > 1 ? 12 : 14, step = n * thick + 8;
    double lo = 0, hi = 0, top = f->y + 10, limit = table->limit;
    double x = 34 + widest_of(table->row, table->n_rows, 24) * 12 * EM, end = x + LENGTH;
    char   text[80];
    for (int i = 0; i < cells_of(table); i++) {
        double error = table->error && isfinite(table->error[i]) ? table->error[i] : 0;
        if (!isfinite(table->value[i])) continue;
        lo = fmin(lo, table->value[i] - error), hi = fmax(hi, table->value[i] + error);
    }
    if (limit > 0 && isfinite(limit)) hi = fmax(hi, limit);
    if (hi == lo) hi = 1;
    double scale = LENGTH / (hi - lo), zero = x - lo * scale;
    int    digits = min_int(9, max_int(0, 3 - (int)floor(log10(hi - lo))));
    for (int i = 0; i < cells_of(table); i++) {
        double y = top + i / n * step + i % n * thick, middle = y + thick / 2.0;
        double value = table->value[i], error = table->error ? table->error[i] : NAN;
        if (i % n == 0)
            svg_text(f, x - 8, y + n * thick / 2.0 + 3, 12, 24 * 12 * EM, " text-anchor=\"end\"",
                     table->row[i / n]);
        if (!exists(table, i)) continue;
        if (isfinite(value)) {
            svg_rect(f, zero + fmin(value, 0) * scale, y, fabs(value) * scale, thick - 1,
                     INKS[bar_ink(table, i)].color, is_pale(table, i) ? " opacity=\"0.4\"" : "");
            svg_hint(f, table, i);
        }
        snprintf(text, sizeof text, table->is_signed ? "%+.*f" : "%.*f", digits, value);
        if (isfinite(value) && isfinite(error)) {
            fprintf(f->out, "<path d=\"M%.5g %.5gv6m0-3h%.5gm0-3v6\" stroke=\"#222\" "
                    "fill=\"none\"/>\n", zero + (value - error) * scale, middle - 3,
                    2 * error * scale);
            append(text, sizeof text, " ± %.2g", error);
        }
        svg_text(f, end + 12, middle + 3, 11, 0, "", text);
    }
    f->y = top + table->n_rows * step;
    fprintf(f->out, "<path d=\"M%.5g %.5gV%.5g\" stroke=\"#222\"/>\n", zero, top - 4, f->y);
    svg_ticks(f, x, f->y + 12, lo, hi, LENGTH);
    svg_text(f, x + LENGTH / 2, f->y + 29, 12, 0, MIDDLE, table->quantity);
    for (int c = 0; c < n && n > 1; c++) {
        svg_rect(f, end + 30, f->y + 6 + 14 * c, 10, 10, INKS[bar_ink(table, c)].color, "/>\n");
        svg_text(f, end + 46, f->y + 15 + 14 * c, 11, 0, "", table->col[c]);
    }
    f->right = fmax(f->right, end + 12 + 16 * 11 * EM);
    f->y += max_int(34, n > 1 ? 14 * n + 8 : 0);
}

/* The metric and the likeliest tokens stand in every report; they are a picture only if there is
 * no other. */
static int is_summary(const Table *table)
{
    return table->look == TOP || !strcmp(table->row_axis, "run");
}

/* How many maps, from the first on, have one shape and one scale. */
static int maps_alike(const Table *first, const Table *end)
{
    const Table *next = first + 1;
    while (first->look == HEAT && first->n_rows > 4 && next < end && next->look == HEAT &&
           next->n_rows == first->n_rows && next->n_cols == first->n_cols &&
           next->is_signed == first->is_signed && !strcmp(next->quantity, first->quantity)) next++;
    return (int)(next - first);
}

/* All tables in one picture; above it a title, or NULL, below it lines that say of what it is. */
static void print_svg(FILE *out, const char *title, const char *caption, const Tables *tables,
                      const MiTokenizer *words)
{
    enum { COLUMN = 600 };
    char  *body = NULL;
    size_t size;
    Figure f = { .out = must(open_memstream(&body, &size)), .words = words, .y = 8, .right = 440 };
    const Table *end = tables->at + tables->n;
    int others = 0, n;
    for (const Table *table = tables->at; table < end; table++)
        others |= table->look != SILENT && !is_summary(table);
    if (title) svg_lines(&f, 15, COLUMN, " font-weight=\"bold\"", title), f.y += 8;
    for (const Table *table = tables->at; table < end; table += n) {
        n = maps_alike(table, end);
        if (table->look == SILENT || !cells_of(table) || (others && is_summary(table)) ||
            (others && isinf(table->limit)))            /* numbers of several kinds */
            continue;
        Tables few = { 0 };
        const Table *shown = is_long(table) || table->look == LINES ? add_bars(&few, table) : table;
        if (n == 1) svg_lines(&f, 12, COLUMN, "", shown->title), f.y += 4;
        if (shown->look == BARS) svg_bars(&f, shown);
        else svg_maps(&f, table, n);
        f.y += 16;
        free_tables(&few);
    }
    svg_lines(&f, 12, f.right - 12, GREY, caption);
    must_close(f.out, &body);
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
            "viewBox=\"0 0 %.0f %.0f\" font-family=\"Helvetica,Arial,sans-serif\" fill=\"#222\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n",
            f.right + 12, f.y + 12, f.right + 12, f.y + 12, body);
    free(body);
}

/* ============================================================================================= */
/* The command line: what can be typed                                                           */
/* ============================================================================================= */

typedef struct Case Case;
typedef struct Readout Readout;

/* An intervention as it was typed, with its modifiers. */
typedef struct {
    const Intervention *what;
    char                flag[16];       /* "--ablate", or "--trace", which stands for two */
    const char         *argument, *toward, *away, *direction, *align, *from, *along;
    int                 window;         /* ROME's: a sweep of so many layers at a time */
} Request;

/* A readout as it was typed, and resolved for one prompt. */
typedef struct {
    const Readout *what;
    const char    *text;                /* its argument, or NULL */
    int            number;              /* the same as a number */
    MiEdits        rows;                /* what its addresses name: edits that are never applied */
    MiCells        cells;               /* or the cells that they sweep */
    Array          shape;               /* of what --save writes */
} Asked;

typedef struct {
    const char *prompt, *tokens, *source, *source_tokens, *answer, *versus, *at;
    const char *model, *tokenizer, *metric, *color, *svg, *title, *data, *rows, *mean_from, *trace,
               *kind, *into, *steps;
    int         freeze_mlps, exact;
    int         bos, generate, threads, n_head, samples, seed, window, json, tsv, per_prompt,
                explain, sites, help, version;
    double      temp, top_p;
    Request    *request;                /* the interventions, in the order in which they apply */
    int         n_requests, swept;      /* swept: which of them has the --each; -1: none */
    Asked      *asked;
    int         n_asked;
    char       *traced;                 /* the address that --trace stands for */
} Command;

/* What a readout takes: nothing, a number, a word, addresses, or addresses and a file. Where the
 * argument stands in brackets it may be missing. */
typedef enum { NOTHING, A_NUMBER, A_WORD, ADDRESSES, ADDRESS_AND_FILE } Takes;

struct Readout {
    const char *name, *argument, *help; /* --NAME ARGUMENT; no help: it cannot be typed */
    char        letter;
    Takes       takes;
    int         low, high;              /* of its number */
    uint64_t    keep;                   /* the sites that it reads, beside those it is given */
    void      (*resolve)(Case *c, Asked *asked);    /* its argument, for a prompt; or NULL */
    void      (*read)(Case *c, const Asked *asked, Tables *out);    /* NULL: see finish_tables() */
};
static const Readout *readout_at(int i);    /* row i of READOUTS (below its functions), or NULL */

typedef enum {
    HEADING, FLAG, TEXT, INTEGER, REAL, CHOICE, MODIFIER, EACH,
    INTERVENTION_ROWS, READOUT_ROWS,    /* here the rows of those tables follow */
    INTERVENTION, READOUT               /* one of them */
} OptionKind;

/* One list drives the parser and --help. */
typedef struct {
    OptionKind  kind;
    char        letter;
    const char *name, *argument;        /* HEADING: "", an example */
    size_t      field;                  /* of Command; MODIFIER: of Request */
    int         low, high;              /* of numbers */
    const char *help;                   /* HEADING: the title. CHOICE: its words are argument */
    const void *row;                    /* of INTERVENTIONS or READOUTS */
} Option;

#define TITLE(title, example) { HEADING, 0, "", example, 0, 0, 0, title, NULL }
#define OPTION(kind, letter, name, argument, field, help) \
    { kind, letter, name, argument, offsetof(Command, field), 0, 0, help, NULL }
#define NUMBER(kind, letter, name, argument, field, low, high, help) \
    { kind, letter, name, argument, offsetof(Command, field), low, high, help, NULL }
#define OF_REQUEST(name, argument, help) \
    { MODIFIER, 0, #name, argument, offsetof(Request, name), 0, 0, help, NULL }

static const Option OPTIONS[] = {
    TITLE("Input", "mi \"The keys to the cabinet\" --answer \" are\" --versus \" is\""),
    OPTION(TEXT, 'm', "model", "FILE", model, "a GPT-2 in .safetensors ($MI_MODEL, or tiny)"),
    OPTION(TEXT, 0, "tokenizer", "FILE", tokenizer, "the tokenizer.bin to use"),
    NUMBER(INTEGER, 0, "n-head", "N", n_head, 1, 100000,
           "the number of heads, where the file cannot say it"),
    OPTION(TEXT, 0, "tokens", "IDS", tokens, "the prompt as GPT-2 ids: \"464 3290\""),
    OPTION(FLAG, 0, "bos", NULL, bos, "put <|endoftext|> first, as TransformerLens does"),
    OPTION(TEXT, 0, "source", "PROMPT", source, "the donor of --patch; same = the prompt"),
    OPTION(TEXT, 0, "source-tokens", "IDS", source_tokens, "the donor, as GPT-2 ids"),
    OPTION(TEXT, 0, "answer", "TOKEN", answer, "the token to watch: text, #id, a|b, or 33-99"),
    OPTION(TEXT, 0, "versus", "TOKEN", versus, "the token to compare it with"),
    OPTION(TEXT, 0, "at", "POS", at, "the position to read at (-1, the last)"),
    OPTION(TEXT, 0, "data", "FILE", data, "many prompts: a table (.tsv, .csv, - or a pipe)"),
    OPTION(TEXT, 0, "rows", "A-B", rows, "only these rows of --data; means are of all"),
    OPTION(CHOICE, 0, "mean-from", "prompt|source", mean_from,
           "what --ablate =mean averages over with --data"),
    NUMBER(INTEGER, 0, "threads", "N", threads, 1, 1024, "how many cores to use (all)"),

    TITLE("Interventions, in the order given (SITES: L5H3, L0-3H*, L5.resid_pre@-1)",
          "mi --ablate heads --each"),
    { .kind = INTERVENTION_ROWS },
    OF_REQUEST(from, "SITE", "of --patch: the source's value of another place"),
    OF_REQUEST(along, "FILE.npy|random:SEED:K|data:FILE",
               "of --patch: only the part along K directions"),
    OF_REQUEST(toward, "TEXT", "the direction: the site's value after TEXT ..."),
    OF_REQUEST(away, "TEXT", "... minus its value after TEXT"),
    OF_REQUEST(direction, "FILE.npy|random:SEED|data:FILE",
               "a file's; random, of the texts' length or 1; or\n"
               "                                the mean of rows with label 1 less label 0"),
    OF_REQUEST(align, "last|front", "front: steer token by token from the first"),
    OPTION(EACH, 0, "each", NULL, swept, "sweep the edit before it: one run per cell"),
    OPTION(TEXT, 0, "trace", "TEXT", trace, "causal trace: noise on TEXT, each state restored"),
    OPTION(CHOICE, 0, "kind", "resid|mlp|attn", kind, "what --trace restores (resid)"),
    NUMBER(INTEGER, 0, "window", "N", window, 1, 1000, "layers at a time, for mlp and attn (10)"),
    NUMBER(INTEGER, 0, "samples", "N", samples, 1, 10000, "draws of noise to average over (10)"),
    NUMBER(INTEGER, 0, "seed", "N", seed, 0, INT_MAX, "of noise and sampling (0)"),

    TITLE("Readouts", "mi \"Once upon a time\" -n 20"),
    OPTION(CHOICE, 0, "metric", "logit_diff|prob|logprob|logit|rank|kl|loss", metric,
           "the number to report"),
    { .kind = READOUT_ROWS },
    OPTION(TEXT, 0, "into", "RECEIVERS", into, "of --path: L5H3.q, L5.ln2 (an MLP), or logits"),
    OPTION(FLAG, 0, "freeze-mlps", NULL, freeze_mlps, "of --path: hold the MLPs in between, too"),
    OPTION(TEXT, 0, "steps", "N[:left|:right]", steps,
           "of --attribute: N gradients on the way to the source"),
    OPTION(FLAG, 0, "exact", NULL, exact, "of --attribute: the exact patches, however many"),
    NUMBER(INTEGER, 'n', "generate", "N", generate, 1, 1 << 20, "continue by N tokens"),
    NUMBER(REAL, 0, "temp", "T", temp, 0, 100, "sample with temperature T (0: the likeliest)"),
    NUMBER(REAL, 0, "top-p", "P", top_p, 0, 1, "sample from the likeliest tokens of mass P"),

    TITLE("Output", "mi --attn L5H3 --svg pattern.svg"),
    OPTION(FLAG, 0, "json", NULL, json, "one JSON object instead of text"),
    OPTION(FLAG, 0, "tsv", NULL, tsv, "one line per number, with tabs, instead of text"),
    OPTION(FLAG, 0, "per-prompt", NULL, per_prompt, "--tsv: also the numbers of each prompt"),
    OPTION(TEXT, 0, "svg", "FILE", svg, "the pictures as SVG"),
    OPTION(TEXT, 0, "title", "TEXT", title, "above the pictures (none)"),
    OPTION(CHOICE, 0, "color", "auto|always|never", color, "auto: on a terminal"),

    TITLE("Information", "mi --ablate L5H3 --explain"),
    OPTION(FLAG, 0, "explain", NULL, explain, "show tokens and resolved edits; stop"),
    OPTION(FLAG, 0, "sites", NULL, sites, "list the sites"),
    OPTION(FLAG, 'h', "help", NULL, help, "this text"),
    OPTION(FLAG, 0, "version", NULL, version, "the version"),
};

enum { MOST_OPTIONS = 128 };
typedef struct { Option at[MOST_OPTIONS]; int n; } Menu;

/* All that can be typed: OPTIONS, with the rows of the other two tables where it says so. */
static Menu list_options(void)
{
    Menu menu = { .n = 0 };
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        const Option  *o = &OPTIONS[i];
        const Readout *r;
        const Intervention *what = INTERVENTIONS;
        if (o->kind != INTERVENTION_ROWS && o->kind != READOUT_ROWS) menu.at[menu.n++] = *o;
        for (; o->kind == INTERVENTION_ROWS && what < INTERVENTIONS + N_INTERVENTIONS; what++)
            menu.at[menu.n++] = (Option){ INTERVENTION, 0, what->name, what->argument, 0, 0, 0,
                                          what->help, what };
        for (int j = 0; o->kind == READOUT_ROWS && (r = readout_at(j)); j++)
            if (r->help)
                menu.at[menu.n++] = (Option){ READOUT, r->letter, r->name, r->argument, 0, r->low,
                                              r->high, r->help, r };
    }
    return menu;
}

static void print_help(FILE *out)
{
    Menu menu = list_options();
    fprintf(out, "mi - look inside a GPT-2 while it thinks\n\n"
                 "    mi [PROMPT] [options]          PROMPT may be - for standard input\n");
    for (int i = 0; i < menu.n; i++) {
        const Option *o = &menu.at[i];
        char left[96];
        if (o->kind == HEADING) {
            fprintf(out, "\n%s\n    %s\n", o->help, o->argument);
            continue;
        }
        snprintf(left, sizeof left, o->letter ? "  -%c, --%s %s" : " %c    --%s %s",
                 o->letter ? o->letter : ' ', o->name, o->argument ? o->argument : "");
        if (strlen(left) >= 32) fprintf(out, "%s\n%32s%s\n", left, "", o->help);
        else fprintf(out, "%-32s%s\n", left, o->help);
    }
    fprintf(out,
            "\nSITES is a list with commas; not:LIST is every unit that the list does not name,\n"
            "file:FILE the addresses in a file, one a line (# comments).\n"
            "@POS binds to its own element: @3  @-1  @2-4  @*  @\" Mary\"  @Mary#2 (the second)\n"
            "Columns of --data: prompt or tokens, source, answer, versus, at, group (rows that are"
            "\nnot independent, which standard errors take into account); any other names a "
            "position\nby its text or index: --ablate L5H3@S2. A flag holds for all rows "
            "instead.\nOf data:FILE: prompt or tokens, label (0 or 1), at.\n"
            "In pictures: 0 exactly, · below .005, ~ what may well be 0 (within its error).\n"
            "Without PROMPT, a built-in one is used: who got the drink?\n");
}

static void print_sites(FILE *out)
{
    static const char *const widths[] = { "1", "D", "H*d", "F", "H*T" };
    fprintf(out, "%-11s %-5s %-33s %s\n", "site", "width", "TransformerLens", "what");
    for (int i = 0; i < MI_N_SITES; i++) {
        char tl[64], *slot;
        snprintf(tl, sizeof tl, "%s", SITES[i].tl_name ? SITES[i].tl_name : "-");
        if ((slot = strstr(tl, "%d"))) slot[0] = 'l', memmove(slot + 1, slot + 2, strlen(slot + 1));
        fprintf(out, "%-11s %-5s %-33s %s\n", SITES[i].name, widths[SITES[i].width], tl,
                SITES[i].what);
    }
}

/* --NAME, --NAME=VALUE, -k, -k5 -> its row of the menu; *value is what the word has of it. */
static const Option *find_option(const Menu *menu, const char *word, const char **value)
{
    size_t n = strcspn(word, "=");
    int    is_long = !strncmp(word, "--", 2);
    int    digit = !is_long && isdigit((unsigned char)word[2]);
    *value = is_long ? word[n] ? word + n + 1 : NULL : word[2] ? word + 2 : NULL;
    for (int i = 0; i < menu->n; i++) {
        const Option *o = &menu->at[i];
        int number = digit && (o->kind == INTEGER || o->kind == READOUT);
        if (is_long ? n > 2 && strlen(o->name) == n - 2 && !strncmp(o->name, word + 2, n - 2)
                    : o->letter && o->letter == word[1] && (!word[2] || number))
            return o;
    }
    return NULL;
}

/* U+2010 to U+2015, U+2212: what a word processor makes of "--". */
static int is_typographic_dash(const char *text)
{
    if (!strncmp(text, "\xE2\x88\x92", 3)) return 1;
    return !strncmp(text, "\xE2\x80", 2) && (text[2] & 0xFF) >= 0x90 && (text[2] & 0xFF) <= 0x95;
}

/* What begins with a dash, or with what a word processor makes of one, and is no option. */
static int fail_option(const Menu *menu, const char *word)
{
    const Option *nearest = NULL;
    const char   *name = word;
    while (*name == '-') name++;
    while (is_typographic_dash(name)) name += 3;
    size_t n = strcspn(name, "=");
    int    least = n > 3 ? 3 : 2;
    for (const Option *o = menu->at; n > 2 && n < 38 && o < menu->at + menu->n; o++) {
        int d = distance(o->name, name, n);
        if (d < least) least = d, nearest = o;
    }
    char shown[256] = "";
    append_visible(shown, sizeof shown, word, strnlen(word, 100));
    if (nearest) return mi_fail("%s: no such option; did you mean --%s?", shown, nearest->name);
    return mi_fail("%s: no such option; mi --help lists them", shown);
}

/* Is a word one of "a|b|c"? */
static int is_choice(const char *choices, const char *word)
{
    for (const char *c = choices; *c; c += *c == '|') {
        size_t n = strcspn(c, "|");
        if (n == strlen(word) && !strncmp(c, word, n)) return 1;
        c += n;
    }
    return 0;
}

static int set_number(void *field, const Option *o, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    int    whole = o->kind != REAL;
    if (!*value || *end || value[strspn(value, whole ? "0123456789" : "0123456789.eE+-")] ||
        !(number >= o->low) || !(number <= o->high))
        return mi_fail("--%s: \"%.100s\" is not a %snumber from %d to %d", o->name, value,
                       whole ? "whole " : "", o->low, o->high);
    if (whole) *(int *)field = (int)number;
    else *(double *)field = number;
    return 0;
}

static int set_modifier(Command *command, const Option *o, const char *value)
{
    int is_align = !strcmp(o->name, "align"), of_patch = is_choice("from|along", o->name);
    for (int i = command->n_requests - 1; i >= 0; i--) {
        Request *request = &command->request[i];
        if (!(request->what->needs & (of_patch ? NEEDS_SOURCE : NEEDS_DIRECTION)) ||
            (is_align && request->what->op != MI_ADD))
            continue;
        const char **field = (const char **)((char *)request + o->field);
        if (*field)
            return mi_fail("--%s: the %s before it has one already", o->name, request->flag);
        *field = value;
        return 0;
    }
    return mi_fail("--%s: there is no %s before it", o->name, of_patch ? "--patch"
                   : is_align ? "--steer" : "--steer or --project");
}

/* --each belongs to the intervention before it, and there is one sweep at most. */
static int set_each(Command *command)
{
    if (!command->n_requests)
        return mi_fail("--each: there is no intervention before it; it follows the one that it "
                       "sweeps");
    if (command->swept >= 0) return mi_fail("--each: one sweep at a time");
    command->swept = command->n_requests - 1;
    return 0;
}

static Request *add_request(Command *command, const Intervention *what, const char *argument)
{
    command->request = must(grow(command->request, command->n_requests, sizeof(Request)));
    Request *request = &command->request[command->n_requests++];
    *request = (Request){ .what = what, .argument = argument };
    snprintf(request->flag, sizeof request->flag, "--%s", what->name);
    return request;
}

static const Asked *find_asked(const Command *c, const char *name)
{
    for (int i = 0; i < c->n_asked; i++)
        if (!strcmp(c->asked[i].what->name, name)) return &c->asked[i];
    return NULL;
}

static int add_asked(Command *command, const Option *o, const char *value)
{
    const Readout *what = o->row;
    Asked          asked = { .what = what, .text = value, .number = -1 };
    if (value && what->takes == A_NUMBER && set_number(&asked.number, o, value) < 0) return -1;
    if (value && what->takes == A_WORD && !is_choice("each|final", value))
        return mi_fail("--%s: \"%.100s\" is not one of each|final", o->name, value);
    if (what->takes != ADDRESS_AND_FILE && find_asked(command, o->name))
        return mi_fail("--%s is given twice", o->name);
    command->asked = must(grow(command->asked, command->n_asked, sizeof asked));
    command->asked[command->n_asked++] = asked;
    return 0;
}

static int set_option(Command *command, const Option *o, const char *value)
{
    char *field = (char *)command + o->field;
    if (value && !*value && is_choice("model|tokenizer|svg|data|direction|along", o->name))
        return mi_fail("--%s: the name of a file is empty", o->name);
    if ((o->kind == CHOICE || !strcmp(o->name, "align")) && !is_choice(o->argument, value))
        return mi_fail("--%s: \"%.100s\" is not one of %s", o->name, value, o->argument);
    switch (o->kind) {
    case FLAG:         return *(int *)field = 1, 0;
    case INTEGER:
    case REAL:         return set_number(field, o, value);
    case MODIFIER:     return set_modifier(command, o, value);
    case INTERVENTION: return add_request(command, o->row, value), 0;
    case READOUT:      return add_asked(command, o, value);
    case EACH:         return set_each(command);
    default:           return *(const char **)field = value, 0;
    }
}

/* ROME's causal trace in other words: noise on the subject, and from the clean run of the same
 * prompt each layer at each position put back. */
static int add_trace(Command *command)
{
    const char *kind = command->kind ? command->kind : "resid";
    const char *sites = *kind == 'm' ? "mlps@*" : *kind == 'a' ? "attns@*" : "L*.resid_post@*";
    if (!command->trace)
        return command->kind || command->window
               ? mi_fail("--kind and --window are for --trace") : 0;
    if (command->window && *kind == 'r') return mi_fail("--window is for --kind mlp and attn");
    if (command->source || command->source_tokens)
        return mi_fail("--trace takes its values from the prompt itself; leave out --source");
    size_t n = strlen(command->trace) + 16;
    command->traced = must(malloc(n));
    /* a position as after any @; other text is quoted, but for "#2", the second match */
    const char *text = command->trace + (*command->trace == '@'), *hash = strrchr(text, '#');
    int length = (int)strlen(text), plain = isalnum((unsigned char)*text) || strchr("-*{", *text);
    if (hash && hash[1] && !hash[1 + strspn(hash + 1, "0123456789")]) length = (int)(hash - text);
    plain &= strcspn(text, "\",:#=@") >= (size_t)length;
    snprintf(command->traced, n, plain ? "embed@%.*s%s=3s" : "embed@\"%.*s\"%s=3s", length, text,
             text + length);
    command->source = "same";
    strcpy(add_request(command, find_intervention("noise"), command->traced)->flag, "--trace");
    Request *patch = add_request(command, find_intervention("patch"), sites);
    if (*kind != 'r') patch->window = command->window ? command->window : 10;
    return set_each(command);
}

static int uses(const Command *c, MiOp op, int needs)
{
    for (int i = 0; i < c->n_requests; i++)
        if (needs ? c->request[i].what->needs & needs : c->request[i].what->op == op) return 1;
    return 0;
}

/* --circuit SITES=KIND */
static int is_circuit(const Command *c, const char *kind)
{
    const Asked *asked = find_asked(c, "circuit");
    const char  *value = asked ? find_value(asked->text, 0) : NULL;
    return asked && !strcmp(value ? value + 1 : "mean", kind);
}

/* Is there anything that reads a source? paired: at the prompt's own positions, so that both are of
 * one length and can be compared; --from SITE@POS takes a row of any source. */
static int reads_source(const Command *c, int paired)
{
    for (int i = 0; i < c->n_requests; i++) {
        const Request *r = &c->request[i];
        if ((r->what->needs & NEEDS_SOURCE) && !(paired && r->from && strchr(r->from, '@')))
            return 1;
    }
    return find_asked(c, "attribute") || find_asked(c, "edges") || find_asked(c, "path") ||
           is_circuit(c, "source");
}

static int needs_source(const Command *c) { return reads_source(c, 0); }

/* "L5...", "L*..." or a group of addresses: no word of a text. */
static int looks_like_address(const char *word)
{
    return is_choice("heads|mlps|attns|resid", word) ||
           (*word == 'L' && (isdigit((unsigned char)word[1]) || word[1] == '*') &&
            !strchr(word, ' '));
}

/* A word alone that is no prompt: an address after a space, or an option without its dashes. */
static int check_prompt_word(const Command *c)
{
    const char *prompt = c->prompt;
    if (!prompt || strchr(prompt, ' ')) return 0;
    if (looks_like_address(prompt) && (c->n_requests || c->n_asked))
        return mi_fail("\"%.100s\" looks like an address, not a prompt: a list of addresses has "
                       "commas and no spaces; mi -- %.100s makes it the prompt", prompt, prompt);
    if (is_choice("help|version|sites|explain|heads", prompt))
        return mi_fail("\"%s\" would be the prompt; did you mean --%s? mi -- %s makes it the "
                       "prompt", prompt, prompt, prompt);
    return 0;
}

/* What cannot be asked together. */
static int check_command(Command *c, const Menu *menu)
{
    int from_stdin = c->prompt && c->source && !strcmp(c->prompt, "-") && !strcmp(c->source, "-");
    int pictures = c->swept >= 0;
    for (int i = 0; i < c->n_asked; i++) {
        const Asked *a = &c->asked[i];
        pictures |= a->what->takes != ADDRESS_AND_FILE && strcmp(a->what->name, "top");
    }
    int means = is_circuit(c, "mean");
    for (int i = 0; i < c->n_requests; i++) {
        const Request *r = &c->request[i];
        const char    *value = find_value(r->argument, 0);
        means |= r->what->value == KIND && value && !strcmp(value, "=mean");
    }
    const struct { int wrong; const char *why; } rules[] = {
        { from_stdin, "--source: the prompt is read from standard input already" },
        { c->source && c->source_tokens, "--source-tokens: there is a --source already" },
        { c->data && (c->prompt || c->tokens),
          "--data: there is a prompt already; the prompts stand in the file" },
        { c->data && c->generate, "--data: --generate is for one prompt" },
        { find_asked(c, "heads") && (c->prompt || c->tokens || c->data || c->bos),
          "--heads: its prompt is random tokens; leave out yours (and --bos)" },
        { c->data && find_asked(c, "top") && c->swept < 0 && !find_asked(c, "attribute") &&
          !find_asked(c, "edges") && !find_asked(c, "neurons"),
          "--top is for one prompt: the tokens of different prompts have no mean" },
        { c->mean_from && !c->data, "--mean-from is for --data" },
        { c->mean_from && !means, "--mean-from is for --ablate SITES=mean, and there is none" },
        { find_asked(c, "stability") && (!c->data || c->swept < 0),
          "--stability chooses cells of a sweep anew on resampled rows: it needs --each and "
          "--data" },
        { (c->into || c->freeze_mlps) && !find_asked(c, "path"),
          "--into and --freeze-mlps are for --path" },
        { (c->steps || c->exact) && !find_asked(c, "attribute"),
          "--steps and --exact are for --attribute" },
        { c->rows && !c->data, "--rows is for --data" },
        { c->per_prompt && !(c->data && c->tsv), "--per-prompt is for --data with --tsv" },
        { c->title && !c->svg, "--title is for --svg" },
        { c->json && c->tsv, "--tsv: there is --json already" },
        { (c->temp >= 0 || c->top_p >= 0) && !c->generate,
          "--temp and --top-p are for --generate" },
        { c->samples && !uses(c, MI_NOISE, 0), "--samples is for --noise and --trace" },
        { c->svg && !pictures,
          "--svg: there is no picture to draw; --each, --lens, --attn, --heads and --loss make "
          "one" },
        { c->generate && c->swept >= 0, "--each and --generate exclude each other" },
    };
    if (c->prompt && c->tokens)
        return mi_fail("--tokens: there is a prompt already, \"%.100s\"", c->prompt);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].wrong) return mi_fail("%s", rules[i].why);
    if (!c->samples) c->samples = 10;
    const char *value;
    if (find_asked(c, "top") || c->generate || pictures || c->data) return 0;
    return add_asked(c, find_option(menu, "--top", &value), "10");
}

/* The value of an option that stands in the next word, if that is one: "[N]" may be missing. */
static const char *next_value(const Option *o, const char *word)
{
    const Readout *what = o->row;
    if (*o->argument != '[' || !word) return word;
    if (what->takes == A_WORD) return is_choice("each|final", word) ? word : NULL;
    if (what->takes == ADDRESSES)
        return is_choice("layers|tokens", word) || looks_like_address(word) ? word : NULL;
    return *word && strspn(word, "0123456789") == strlen(word) ? word : NULL;
}

static int parse_command(Command *command, int argc, char **argv)
{
    Menu menu = list_options();
    int  only_prompts = 0, seen[MOST_OPTIONS] = {0};
    *command = (Command){ .color = "auto", .temp = -1, .top_p = -1, .swept = -1 };
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value;
        int         dash = (word[0] == '-' && word[1]) ||
                           (is_typographic_dash(word) && !strchr(word, ' '));
        if (!only_prompts && !strcmp(word, "--")) {
            only_prompts = 1;
            continue;
        }
        if (only_prompts || !dash) {
            if (command->prompt)
                return mi_fail("\"%.100s\": there is a prompt already, \"%.100s\"; a prompt of "
                               "several words needs quotes%s", word, command->prompt,
                               strstr(command->prompt, "\xE2\x80\x9C") ?
                               ", plain ones: \"...\"" : "");
            command->prompt = word;
            continue;
        }
        const Option *o = find_option(&menu, word, &value);
        if (!o) return fail_option(&menu, word);
        if (!o->argument && value) return mi_fail("--%s takes no value", o->name);
        if (o->argument && !value) {
            value = next_value(o, argv[i + 1]);
            i += value != NULL;
            if (!value && *o->argument != '[')
                return mi_fail("--%s needs a value: %s", o->name, o->argument);
        }
        if (seen[o - menu.at]++ && (o->kind == TEXT || o->kind == CHOICE))
            return mi_fail("--%s is given twice", o->name);
        if (set_option(command, o, value) < 0) return -1;
    }
    if (add_trace(command) < 0 || check_command(command, &menu) < 0) return -1;
    return only_prompts ? 0 : check_prompt_word(command);
}

/* ============================================================================================= */
/* Cases: one prompt under the command                                                           */
/* ============================================================================================= */

typedef struct { int *tokens, n; } Prompt;

/* One token, or several that count as one: logits by log-sum-exp, probabilities by sum. */
typedef struct {
    int  *tokens, n;
    Label label;
    int   spaced;                       /* 1: a space was put before the text to make it one token,
                                         * 2: as before the other set's; -1: it was not, but that
                                         * would be a token too */
} TokenSet;

/* The numbers to report. Those up to rank need an answer. */
typedef enum { LOGIT_DIFF, PROB, LOGPROB, LOGIT, RANK, KL, LOSS, N_METRICS } Metric;
static const struct { const char *name, *title; } METRICS[] = {
    { "logit_diff", "logit difference  %s − %s" }, { "prob", "probability of %s" },
    { "logprob", "log probability of %s" }, { "logit", "logit of %s" }, { "rank", "rank of %s" },
    { "kl", "KL divergence from base, in nats" }, { "loss", "mean loss over the prompt, in nats" },
};

static int has_sign(Metric m) { return m == LOGIT_DIFF || m == LOGPROB || m == LOGIT; }

/* What is measured, and where. */
typedef struct {
    Metric   metric;
    TokenSet answer, versus;
    int      at, reversed;              /* reversed: kl to base, not from it */
    int      loss_from;                 /* the position whose prediction is the first in the loss */
} Question;

/* data:FILE, at all layers of a site: [layers,width]; and how many rows had label 0, and 1. */
typedef struct { const char *file; MiSite site; float *v; int n[2]; } Contrast;

/* What all prompts have in common: one, or the rows of --data. */
typedef struct {
    const Command *command;
    MiModel       *model;
    MiTokenizer   *words;
    MiTable        rows;                /* of --data; none: there is only one prompt */
    int            n_rows;              /* prompts that there are */
    int            aligned, longest;    /* have all the same number of tokens? the most */
    int            spaced[2];           /* --answer, --versus: all cells take a space before them */
    Metric         metric;              /* of the first prompt, and so of all */
    int           *partner;             /* [n_rows] of =resample: another row */
    int           *group, n_groups;     /* of each row that is run: rows that belong together */
    int            n_run;               /* how many those are */
    int            n_spaces;            /* prompts that end with a space */
    double       **sum;                 /* [n_sums] for =mean: over the rows, of what an edit of */
    long          *count;               /* [n_sums] `averaged` touches, [longest or 1, count] */
    int            n_sums;
    float          deviation;           /* of the entries of wte, once asked for */
    ListFiles      files;               /* of addresses */
    Contrast      *contrast;            /* [n_contrasts] what data:FILE stood for so far */
    int            n_contrasts;
} Study;

/* An intervention, resolved for one prompt. */
typedef struct {
    const Request *typed;
    MiEdits        edits;               /* held, or of all cells of the sweep */
    double         strength;            /* |C v| / |h| of a steering; the deviation of noise */
    Prompt         text[2];             /* --toward and --away */
    Array          file;                /* the shape that --set expects */
    MiEdit         from;                /* --from, one that is never applied */
    int            from_at;             /* it has a position of its own */
    int            rank, labels[2];     /* of --along; rows of data:FILE with label 0 and 1 */
} Step;

/* What the model says at the position of interest in one run, a mean over its samples of noise. */
typedef struct {
    const char   *name;                 /* base, edited or held, source */
    const MiRun  *run;
    const Prompt *prompt;
    int           lane, n_lanes;        /* its first one, and one for each sample */
    float        *logits, *prob;        /* [V] */
    double        metric;
    char          ends[96];             /* where its numbers stop being numbers, in words, or "" */
} Outcome;

/* What was typed for one prompt: on the command line, or in a row of --data. */
typedef struct {
    const char *prompt, *tokens, *source, *source_tokens, *answer, *versus, *at;
} Input;

struct Case {
    Study         *study;
    const Command *command;
    int            row;                 /* of the table, from 0 */
    Input          input;
    Column        *columns;             /* names of positions */
    int            n_columns;
    Prompt         prompt, donor;
    Question       question;
    Step          *step;                /* [requests] */
    MiCells        cells;               /* of the sweep; their edits are those of its step */
    MiEdit       **edit;                /* [n_edits] of all steps: first n_held that hold in all */
    int            n_edits, n_held;     /* cells, in order, then those of the cells of a sweep */
    MiEdit        *held;                /* [samples, n_held] */
    MiEdit       **averaged;            /* [n_averaged] whose value is a mean, of readouts too */
    int            n_averaged, samples;
    Asked         *asked;
    int            n_asked;
    MiRun         *base, *source, *edited, *other;  /* other: another row of --data */
    int            lane;                /* of edited, the first of `samples` */
    Outcome        outcome[3];
    int            n_outcomes;
    float         *logits;              /* [V] for whoever reads next */
    void         **owned;               /* the memory of everything above */
    int            n_owned;
};

/* The prompt that is used without one: who got the drink? */
static const char DEFAULT_PROMPT[] = "When Mary and John went to the store, John gave a drink to";

/* Leave where something failed; of a row of --data the message says which. */
static void check_case(const Case *c, int result, int status)
{
    char  why[sizeof error_text];
    Shown file;
    if (result >= 0) return;
    memcpy(why, error_text, sizeof why);
    if (c->study->rows.n_rows)
        snprintf(error_text, sizeof error_text, "%s, row %d: %.1700s",
                 visible(c->study->rows.file, file), c->row + 1, why);
    leave(status);
}

static void resolving(const Case *c, int result) { check_case(c, result, FAULT_OF_USER); }
static void running(const Case *c, int result) { check_case(c, result, FAULT_OF_RUN); }

/* Memory that lives as long as the case. */
static void *own(Case *c, void *memory)
{
    c->owned = must(grow(c->owned, c->n_owned, sizeof *c->owned));
    return c->owned[c->n_owned++] = must(memory);
}

/* n elements of zeros, and one more */
static void *room(Case *c, size_t n, size_t size) { return own(c, calloc(n + 1, size)); }

/* What a run was asked for; NULL: it failed. */
static void *must_run(const Case *c, const void *result)
{
    if (!result) running(c, -1);
    return (void *)result;
}

static int n_vocab(const Case *c) { return c->study->model->shape.n_vocab; }
static int is_study(const Case *c) { return c->study->rows.n_rows > 0; }

/* A space at the end belongs to the next token: " a" is one, " " before "a" is two. */
static int ends_with_space(const Case *c)
{
    int         n;
    const char *last = mi_token_bytes(c->study->words, c->prompt.tokens[c->prompt.n - 1], &n);
    return n > 0 && last[n - 1] == ' ';
}

/* ---- Prompts ---- */

/* The tokens of a prompt side by side, for messages: "When|·Mary|·and". */
static void list_tokens(const Case *c, const Prompt *prompt, char *out, size_t size)
{
    Label label;
    out[0] = 0;
    for (int t = 0; t < prompt->n && strlen(out) + sizeof label + 4 < size; t++)
        append(out, size, "%s%s", t ? "|" : "",
               mi_token_label(c->study->words, prompt->tokens[t], label, sizeof label));
}

/* An empty prompt with room for n tokens; --bos puts <|endoftext|> first. */
static void begin_prompt(Case *c, size_t n, Prompt *prompt)
{
    size_t most = c->study->model->shape.n_ctx;
    prompt->tokens = room(c, (n > most ? n : most) + 1, sizeof(int));
    prompt->n = c->command->bos;
    if (prompt->n && (!mi_has_text(c->study->words) ||
                      (prompt->tokens[0] = mi_row_of_id(c->study->words, END_OF_TEXT)) < 0))
        resolving(c, mi_fail("--bos: the model has no token <|endoftext|>"));
}

static void check_prompt(const Case *c, const char *flag, const Prompt *prompt)
{
    int n_ctx = c->study->model->shape.n_ctx;
    if (prompt->n == 0) resolving(c, mi_fail("%s is empty", flag));
    if (prompt->n > n_ctx)
        resolving(c, mi_fail("%s has %d tokens; this model's context is %d", flag, prompt->n,
                             n_ctx));
    if (c->command->bos && prompt->n > 1 && prompt->tokens[1] == prompt->tokens[0])
        resolving(c, mi_fail("--bos: %s begins with <|endoftext|> already", flag));
}

/* Text [n] -> tokens */
static void encode_prompt(Case *c, const char *flag, const char *text, size_t n, Prompt *prompt)
{
    const MiTokenizer *words = c->study->words;
    int64_t count = mi_encode(words, text, n, NULL, 0);
    if (count > INT_MAX / 8) count = mi_fail("it is too long");
    if (count < 0) mi_fail_in(flag), resolving(c, -1);
    begin_prompt(c, count, prompt);
    if (mi_encode(words, text, n, prompt->tokens + prompt->n, count) != count) running(c, -1);
    prompt->n += (int)count;
    check_prompt(c, flag, prompt);
}

/* An argument with addresses. */
static Parser parser_of(Case *c, const char *flag, const char *text)
{
    return (Parser){ .model = c->study->model, .tokenizer = c->study->words,
                     .tokens = c->prompt.tokens, .n = c->prompt.n, .flag = flag, .argument = text,
                     .at = text, .end = text + strlen(text), .columns = c->columns,
                     .n_columns = c->n_columns, .deviation = &c->study->deviation,
                     .uneven = is_study(c) && !c->study->aligned, .files = &c->study->files };
}

/* A list of addresses, which lives as long as the case even if one of them is wrong. */
static void resolve_list(Case *c, Parser *p)
{
    int status = parse_list(p);
    if (p->found) own(c, p->found);
    resolving(c, status);
}

/* "464 3290" -> tokens */
static void parse_ids(Case *c, const char *flag, const char *text, Prompt *prompt)
{
    static const char gaps[] = " ,\t\n";
    Parser p = parser_of(c, flag, text);
    int    id;
    begin_prompt(c, strlen(text) + 1, prompt);
    for (;;) {
        p.at += strspn(p.at, gaps);
        const char *start = p.at;
        if (p.at == p.end) break;
        if (!take_number(&p, &id) || (p.at < p.end && !strchr(gaps, *p.at)))
            resolving(c, fail_at(&p, p.at, "expected GPT-2 ids, as in \"464 3290\""));
        int row = mi_row_of_id(c->study->words, id);
        if (row < 0) resolving(c, fail_at(&p, start, "the model has no token with the id %d", id));
        prompt->tokens[prompt->n++] = row;
    }
    check_prompt(c, flag, prompt);
}

/* The prompt of --heads: n random tokens, twice. */
static void random_prompt(Case *c, int n)
{
    const MiShape *s = &c->study->model->shape;
    if (n < 0) n = min_int(50, s->n_ctx / 2);
    if (2 * n > s->n_ctx)
        resolving(c, mi_fail("--heads: %d tokens twice do not fit this model's context of %d", n,
                             s->n_ctx));
    begin_prompt(c, 2 * n, &c->prompt);
    c->prompt.n = 2 * n;
    for (int i = 0; i < n; i++)
        c->prompt.tokens[i] = c->prompt.tokens[i + n] =
            (int)(mix_bits(mix_bits(c->command->seed) ^ (uint64_t)i << 8) % s->n_vocab);
}

/* Only the only prompt and its source can be "-", for standard input. */
static void read_prompt(Case *c, const char *flag, const char *text, const char *ids,
                        Prompt *prompt)
{
    size_t n = text ? strlen(text) : 0;
    if (text && !strcmp(text, "-") && !is_study(c)) text = own(c, read_standard_input(&n));
    if (ids) parse_ids(c, *flag == '-' ? "--source-tokens" : "--tokens", ids, prompt);
    else encode_prompt(c, flag, text, n, prompt);
}

/* The unedited donor of --patch: another prompt of the same number of tokens. */
static void read_source(Case *c)
{
    const Command *command = c->command;
    const Input   *in = &c->input;
    int            needed = needs_source(command);
    if (!in->source && !in->source_tokens) {
        const char *who = find_asked(command, "edges") ? "edges"
                        : find_asked(command, "path") ? "path"
                        : is_circuit(command, "source") ? "circuit"
                        : needed && column_of(&c->study->rows, "source") >= 0 ? "attribute" : NULL;
        if (uses(command, 0, NEEDS_SOURCE))
            resolving(c, mi_fail("--patch needs --source PROMPT: where the value comes from"));
        if (who)
            resolving(c, mi_fail("--%s needs --source PROMPT: what the values go towards", who));
        return;
    }
    if (!needed && !command->mean_from) {               /* a column that is not needed */
        if (!is_study(c))
            resolving(c, mi_fail("--source is for --patch, --attribute, --edges, --path and "
                                 "--circuit SITES=source, and there is none"));
        return;
    }
    if (in->source && !strcmp(in->source, "same")) c->donor = c->prompt;
    else read_prompt(c, "--source", in->source, in->source_tokens, &c->donor);
    if (c->donor.n == c->prompt.n || !needed || !reads_source(command, 1)) return;
    char ours[700], theirs[700];
    list_tokens(c, &c->prompt, ours, sizeof ours);
    list_tokens(c, &c->donor, theirs, sizeof theirs);
    mi_fail("--source: it has %d tokens, the prompt %d; patching needs the same number", c->donor.n,
            c->prompt.n);
    append(error_text, sizeof error_text, "\n    prompt  %s\n    source  %s", ours, theirs);
    resolving(c, -1);
}

/* ---- The question ---- */

static int is_in(const TokenSet *set, int token)
{
    for (int i = 0; i < set->n; i++)
        if (set->tokens[i] == token) return 1;
    return 0;
}

/* The token that text [n] is, with a space before it if that is wanted; -1 if it is none, or
 * several. (A model of fewer than 256 tokens cannot even spell all texts.) */
static int one_token(const MiTokenizer *words, const char *text, size_t n, int space)
{
    char spaced[256];
    int  token;
    snprintf(spaced, sizeof spaced, "%s%.*s", space ? " " : "", (int)n, text);
    return mi_encode(words, spaced, strlen(spaced), &token, 1) == 1 ? token : -1;
}

/* One alternative of --answer: "#id", or text that is one token, else with a space before it. */
static int parse_answer(Case *c, const char *flag, const char *text, size_t n, int spaced,
                        TokenSet *set)
{
    const MiTokenizer *words = c->study->words;
    if (n > 1 && text[0] == '#' && strspn(text + 1, "0123456789") >= n - 1) {
        int row = n < 8 ? mi_row_of_id(words, atoi(text + 1)) : -1;
        if (row < 0) resolving(c, mi_fail("%s: the model has no token %.*s", flag, (int)n, text));
        return row;
    }
    if (n == 0 || n > 200) resolving(c, mi_fail("%s: expected a token", flag));
    int plain = one_token(words, text, n, 0);
    int also = *text == ' ' ? -1 : one_token(words, text, n, 1);
    if (spaced && also >= 0) return also;
    if (also >= 0) set->spaced = plain >= 0 ? -1 : 1;
    if (plain >= 0 || also >= 0) return plain >= 0 ? plain : also;
    int     tokens[16];
    char    shown[700];
    int64_t count = mi_encode(words, text, n, tokens, 16);
    if (count < 0) mi_fail_in(flag), resolving(c, -1);
    if (count == 1) running(c, mi_fail("out of memory"));       /* before, but not now */
    Prompt list = { tokens, (int)(count < 16 ? count : 16) };
    list_tokens(c, &list, shown, sizeof shown);
    resolving(c, mi_fail("%s: \"%.*s\" is more than one token: %s", flag, (int)n, text, shown));
    return -1;
}

static void add_answer(Case *c, const char *flag, const char *text, size_t n, int spaced,
                       TokenSet *set)
{
    Label label;
    int   token = parse_answer(c, flag, text, n, spaced, set);
    if (!is_in(set, token)) set->tokens[set->n++] = token;
    if (*set->label) label_append(set->label, sizeof set->label, "|", 1);
    mi_token_label(c->study->words, token, label, sizeof label);
    label_append(set->label, sizeof set->label, label, strlen(label));
}

/* "33-99": two-digit tokens */
static int is_range(const char *text, int *low, int *high)
{
    int n = 0;
    return isdigit((unsigned char)*text) && sscanf(text, "%2d-%2d%n", low, high, &n) == 2 &&
           n == 5 && isdigit((unsigned char)text[3]) && !text[5] && *low <= *high;
}

/* "Mary", "#5335", " are| were", "33-99" -> the tokens */
static void parse_token_set(Case *c, const char *flag, const char *text, int spaced, TokenSet *set)
{
    int low, high;
    if (!text) return;
    set->tokens = room(c, strlen(text) + 100, sizeof(int));
    if (is_range(text, &low, &high)) {
        for (char digits[16]; low <= high; low++) {
            snprintf(digits, sizeof digits, "%02d", low);
            add_answer(c, flag, digits, 2, 0, set);
        }
        strcpy(set->label, text);
        set->spaced = 0;
        return;
    }
    for (;; text++) {
        size_t length = strcspn(text, "|");
        add_answer(c, flag, text, length, spaced, set);
        text += length;
        if (!*text) return;
    }
}

/* Do all cells of a column take a space before them? Words do, if with it every one of them is one
 * token: the rule is one for all rows. */
static int takes_space(const Study *study, const char *column)
{
    int any = 0, low, high;
    const char *text;
    for (int r = 0; r < study->rows.n_rows && (text = mi_cell(&study->rows, r, column)); r++) {
        if (is_range(text, &low, &high)) continue;
        for (size_t n; *text; text += n + (text[n] == '|')) {
            n = strcspn(text, "|");
            if (*text == ' ' || *text == '#' || n > 200) continue;
            if (!isalpha((unsigned char)*text) && !(*text & 0x80)) return 0;
            if (n && one_token(study->words, text, n, 1) < 0) return 0;
            any = 1;
        }
    }
    return any;
}

/* --at: one position, with or without the @ */
static void read_position(Case *c)
{
    Range pos;
    c->question.at = c->prompt.n - 1;
    if (!c->input.at) return;
    Parser p = parser_of(c, "--at", c->input.at);
    take(&p, "@");
    resolving(c, parse_position(&p, &pos));
    if (p.at < p.end) resolving(c, fail_at(&p, p.at, "expected the end of the position"));
    if (pos.lo != pos.hi) resolving(c, fail_at(&p, p.argument, "expected one position"));
    c->question.at = pos.lo;
}

/* Another model may lack the names of the built-in prompt: then nothing is asked. */
static void read_answers(Case *c)
{
    const MiTokenizer *words = c->study->words;
    const Input *in = &c->input;
    Question    *q = &c->question;
    int built_in = in->prompt == DEFAULT_PROMPT && !in->answer && !in->versus;
    int known = built_in && one_token(words, "Mary", 4, 1) >= 0 &&
                one_token(words, "John", 4, 1) >= 0;
    if (in->versus && !in->answer) resolving(c, mi_fail("--versus needs --answer"));
    parse_token_set(c, "--answer", known ? " Mary" : in->answer, c->study->spaced[0], &q->answer);
    parse_token_set(c, "--versus", known ? " John" : in->versus, c->study->spaced[1], &q->versus);
    if (q->answer.spaced * q->versus.spaced == -1) {    /* one takes a space, one may: both do */
        int       versus = q->versus.spaced < 0;
        TokenSet *set = versus ? &q->versus : &q->answer;
        *set = (TokenSet){ .n = 0 };
        parse_token_set(c, versus ? "--versus" : "--answer", versus ? in->versus : in->answer, 1,
                        set);
        set->spaced = 2;
    }
    int same = q->answer.n > 0 && q->answer.n == q->versus.n;
    for (int i = 0; i < q->answer.n && same; i++) same = is_in(&q->versus, q->answer.tokens[i]);
    if (same) resolving(c, mi_fail("--versus: %s is the answer itself", q->versus.label));
    read_position(c);
}

/* The metric that was asked for, or the one that goes with what is known; one for all rows. */
static void choose_metric(Case *c)
{
    const char *asked = c->command->metric;
    Question   *q = &c->question;
    int neurons = c->n_edits > c->n_held && SITES[c->edit[c->n_held]->site].width == MI_D_MLP;
    /* one neuron moves a probability too little to be seen */
    q->metric = q->versus.n ? LOGIT_DIFF : !q->answer.n ? KL : neurons ? LOGIT : PROB;
    for (Metric m = 0; asked && m < N_METRICS; m++)
        if (!strcmp(asked, METRICS[m].name)) q->metric = m;
    if (q->metric == LOGIT_DIFF && !q->versus.n)
        resolving(c, mi_fail("--metric: logit_diff needs --answer and --versus"));
    if (q->metric <= RANK && !q->answer.n)
        resolving(c, mi_fail("--metric: %s needs --answer", METRICS[q->metric].name));
    if (q->metric == LOSS && c->prompt.n < 2)
        resolving(c, mi_fail("--metric: loss needs a prompt of at least two tokens"));
    if (c->row > 0 && q->metric != c->study->metric)
        resolving(c, mi_fail("row 1 asks for %s and this one, by its answer and versus, for %s; "
                             "the metric is one for all rows", METRICS[c->study->metric].name,
                             METRICS[q->metric].name));
    if (c->row == 0) c->study->metric = q->metric;
}

/* ---- Interventions and addresses ---- */

/* "L5.z", or "embed" */
static const char *site_name(MiSite site, int layer, Label name)
{
    if (SITES[site].place == MI_BLOCK) return label(name, "L%d.%s", layer, SITES[site].name);
    return label(name, "%s", SITES[site].name);
}

/* Addresses that are read, not changed: one edit that is never applied for each row. */
static const MiEdit READ_ONLY = { .op = MI_SET, .from = MI_FROM_CALLER, .head = -1 };

/* The shape that --save writes an address in, and --set reads:
 * [L,]T,H,d for q k v z, [L,]H,T,T for scores and pattern, [L,]T,width otherwise. */
static Array shape_of(const Case *c, const Address *a)
{
    const MiShape *s = &c->study->model->shape;
    MiWidth width = SITES[a->site].width;
    int     units = a->index.hi - a->index.lo + 1;
    int     heads = a->unit == HEAD ? units : s->n_head, many = a->unit != HEAD || a->index.many;
    Array   array = { .n = 1 };
    if (a->layer.many) array.dim[array.n_dims++] = a->layer.hi - a->layer.lo + 1;
    if (width == MI_KEYS && many) array.dim[array.n_dims++] = heads;
    array.dim[array.n_dims++] = a->pos.hi - a->pos.lo + 1;
    if (width == MI_HEADS && many) array.dim[array.n_dims++] = heads;
    array.dim[array.n_dims++] = width == MI_KEYS ? c->prompt.n : width == MI_HEADS ? s->d_head
                              : a->unit == NEURON ? units : width_of(c->study->model, a->site, 0);
    for (int i = 0; i < array.n_dims; i++) array.n *= array.dim[i];
    return array;
}

/* SITES=FILE with exactly one address (a range is one) -> the file's shape. */
static Array one_address(Case *c, const Parser *p)
{
    if (p->n_found != 1)
        resolving(c, fail_at(p, p->argument,
                             "expected one address a file; a range like L*H* is one"));
    if (p->found->has_key)
        resolving(c, fail_at(p, p->argument, "scores and pattern are saved with all their keys"));
    return shape_of(c, p->found);
}

static int is_front(const Request *request)
{
    return request->align && !strcmp(request->align, "front");
}

/* The rank of "random:SEED", 1, and of "random:SEED:K"; 0: they are written otherwise. */
static int random_rank(const char *text)
{
    static const char digits[] = "0123456789";
    size_t      n = strspn(text + 7, digits);
    const char *rank = text + 7 + n + 1;
    if (n < 1 || n > 18 || !rank[-1]) return n >= 1 && n <= 18;
    return rank[-1] == ':' && strlen(rank) < 7 && !rank[strspn(rank, digits)] ? atoi(rank) : 0;
}

/* --from: one place of the source's run, whose value all that the --patch names takes: without a
 * position, row by row; with one, everywhere; with several, as many rows in their order. */
static void read_from(Case *c, Step *step)
{
    Parser  p = parser_of(c, "--from", step->typed->from);
    MiEdits edits = { 0 };
    Label   site;
    p.tokens = c->donor.tokens, p.n = c->donor.n;
    resolve_list(c, &p);
    resolving(c, expand(&edits, &p, p.found, READ_ONLY));
    MiEdit *from = &step->from;
    *from = edits.at[0];
    step->from_at = p.found->has_pos;
    if (p.n_found != 1 || edits.n != 1)
        resolving(c, fail_at(&p, p.argument, "expected one place: a head, neurons or a site of one "
                             "layer"));
    mi_edits_free(&edits);
    int keys = from->head >= 0, given = from->pos_end - from->pos;
    if (keys && step->from_at)
        resolving(c, fail_at(&p, p.argument, "rows of scores and pattern differ in length: they "
                             "are taken from the same position; leave out the @"));
    for (int i = 0; i < step->edits.n; i++) {
        MiEdit *edit = &step->edits.at[i];
        int rows = edit->pos_end - edit->pos;
        site_name(edit->site, edit->layer, site);
        if (keys != (edit->head >= 0) || (!keys && from->count != edit->count))
            resolving(c, fail_at(&p, p.argument, "it has %d numbers a position, what is patched of "
                                 "%s has %d", from->count, site, edit->count));
        if (step->from_at && given != 1 && given != rows)
            resolving(c, fail_at(&p, p.found->pos_text, "it names %d positions, the patch of %s "
                                 "%d: give one, or as many", given, site, rows));
        edit->from = MI_FROM_CALLER;
    }
}

/* The direction of a --steer or --project, as far as the command line goes. */
static void read_direction(Case *c, Step *step)
{
    const Request *request = step->typed;
    const char *texts[2] = { request->toward, request->away }, *file = request->direction;
    if (!texts[0] && !texts[1] && !file)
        resolving(c, mi_fail("%s needs a direction: --toward TEXT, --away TEXT, or --direction",
                             request->flag));
    for (int i = 0; i < 2; i++) {
        const char *flag = i ? "--away" : "--toward";
        if (!texts[i]) continue;
        encode_prompt(c, flag, texts[i], strlen(texts[i]), &step->text[i]);
        if (is_front(request) && step->text[i].n > c->prompt.n)
            resolving(c, mi_fail("--align front: %s has %d tokens, the prompt only %d", flag,
                                 step->text[i].n, c->prompt.n));
    }
    if (!file) return;
    if (!strncmp(file, "random:", 7)) {
        if (random_rank(file) != 1)
            resolving(c, mi_fail("--direction: expected a whole number after random:"));
    } else if (texts[0] || texts[1])
        resolving(c, mi_fail("--direction: there is a direction already, --toward or --away"));
}

/* One intervention -> its edits, or the cells of its sweep. Each row of a table has noise of its
 * own: it is part of the number of the sample. */
static void read_step(Case *c, int which)
{
    const Command *command = c->command;
    Step          *step = &c->step[which];
    const Request *request = step->typed = &command->request[which];
    Parser         p = parser_of(c, request->flag, request->argument);
    MiEdit         edit;
    int status = parse_intervention(&p, request->what, &edit);
    if (p.found) own(c, p.found);
    resolving(c, status);
    edit.order = which;
    edit.seed = command->seed;
    if (edit.op == MI_NOISE) step->strength = edit.amount;
    if (request->what->value == FILE_NAME) step->file = one_address(c, &p);
    if (which == command->swept && request->what->value == FILE_NAME)
        resolving(c, mi_fail("--each: a --set is not swept"));
    if (request->what->value == KIND && edit.from == MI_FROM_CALLER && !is_study(c))
        resolving(c, mi_fail("--ablate =resample takes another row's value: it needs --data"));
    const char *along = request->along;
    for (const Address *a = p.found; a < p.found + p.n_found && along; a++)
        if (SITES[a->site].width == MI_KEYS)
            resolving(c, fail_at(&p, a->text, "the rows of scores and pattern differ in length: "
                                 "they have no direction"));
    if (along && !strncmp(along, "random:", 7) && !random_rank(along))
        resolving(c, mi_fail("--along: expected random:SEED, or random:SEED:K for K directions"));
    if (along) edit.op = MI_MIX;
    if (which == command->swept) {
        resolving(c, lay_out_cells(&p, &edit, request->window, &c->cells));
        resolving(c, check_cells(&p, &c->cells));
        step->edits = c->cells.edits;
        c->cells.edits = (MiEdits){ 0 };
    } else
        for (int i = 0; i < p.n_found; i++)
            resolving(c, expand(&step->edits, &p, &p.found[i], edit));
    if (request->what->needs & NEEDS_DIRECTION) read_direction(c, step);
    if (request->from) read_from(c, step);
}

/* ---- A case ---- */

/* What was typed, and what a row of the table says where nothing was. */
static void read_input(Case *c)
{
    const Command *command = c->command;
    const MiTable *rows = &c->study->rows;
    c->input = (Input){ command->prompt, command->tokens, command->source, command->source_tokens,
                        command->answer, command->versus, command->at };
    if (!rows->n_rows) {
        if (!command->prompt && !command->tokens && !find_asked(command, "heads"))
            c->input.prompt = DEFAULT_PROMPT;
        return;
    }
    static const char *const names[] = { "prompt", "tokens", "source", "answer", "versus" };
    const char **fields[] = { &c->input.prompt, &c->input.tokens, &c->input.source,
                              &c->input.answer, &c->input.versus };
    for (int i = 0; i < 5; i++) {
        const char *text = mi_cell(rows, c->row, names[i]);
        if (!*fields[i] && text && *text) *fields[i] = text;
    }
    if (!c->input.at && column_of(rows, "at") >= 0) c->input.at = "{at}";
    if (!c->input.prompt && !c->input.tokens) resolving(c, mi_fail("the prompt is empty"));
    if (c->input.prompt && c->input.tokens)
        resolving(c, mi_fail("it has both a prompt and tokens"));
    if (c->input.source_tokens) c->input.source = NULL;
    c->columns = room(c, rows->n_cols, sizeof *c->columns);
    for (int i = 0; i < rows->n_cols; i++)
        if (*rows->header[i])
            c->columns[c->n_columns++] =
                (Column){ rows->header[i], rows->cells[(size_t)c->row * rows->n_cols + i] };
}

/* What is asked of this prompt, in the order of READOUTS; some rows of it cannot be typed and are
 * always asked. */
static void read_asked(Case *c)
{
    const Command *command = c->command;
    const Readout *what;
    c->asked = room(c, command->n_asked + 8, sizeof *c->asked);
    for (int i = 0; (what = readout_at(i)); i++) {
        if (!what->help) c->asked[c->n_asked++] = (Asked){ .what = what, .number = -1 };
        for (int j = 0; j < command->n_asked; j++) {
            if (command->asked[j].what != what) continue;
            Asked *asked = &c->asked[c->n_asked++];
            *asked = command->asked[j];
            if (what->resolve) what->resolve(c, asked);
        }
    }
}

/* The edits of all steps in one list, those of a sweep last. */
static void list_edits(Case *c)
{
    int n = 0;
    for (int i = 0; i < c->command->n_requests; i++) n += c->step[i].edits.n;
    c->edit = room(c, n, sizeof *c->edit);
    for (int swept = 0; swept < 2; swept++)
        for (int i = 0; i < c->command->n_requests; i++)
            for (int j = 0; j < c->step[i].edits.n && (i == c->command->swept) == swept; j++) {
                c->edit[c->n_edits++] = &c->step[i].edits.at[j];
                c->n_held += !swept;
            }
}

/* The edits that take means, which over --data are summed up for them. */
static void list_averaged(Case *c)
{
    int n = c->n_edits;
    for (const Asked *a = c->asked; a < c->asked + c->n_asked; a++) n += a->rows.n;
    c->averaged = room(c, n, sizeof *c->averaged);
    for (int i = 0; i < c->n_edits; i++)
        if (c->edit[i]->from == MI_FROM_MEAN) c->averaged[c->n_averaged++] = c->edit[i];
    for (const Asked *a = c->asked; a < c->asked + c->n_asked; a++)
        for (int i = 0; i < a->rows.n && a->rows.at[i].from == MI_FROM_MEAN; i++)
            c->averaged[c->n_averaged++] = &a->rows.at[i];
}

/* One prompt, read and resolved but not run: all that can be wrong with what was typed. */
static Case *open_case(Study *study, int row)
{
    const Command *command = study->command;
    Case *c = must(calloc(1, sizeof *c));
    c->study = study;
    c->command = command;
    c->row = row;
    read_input(c);
    const Asked *heads = find_asked(command, "heads");
    if (heads) random_prompt(c, heads->number);
    else read_prompt(c, "the prompt", c->input.prompt, c->input.tokens, &c->prompt);
    if (command->generate > study->model->shape.n_ctx - c->prompt.n)
        resolving(c, mi_fail("--generate: %d tokens after the prompt's %d are more than this "
                             "model's context of %d", command->generate, c->prompt.n,
                             study->model->shape.n_ctx));
    read_source(c);
    read_answers(c);
    c->logits = room(c, n_vocab(c), sizeof *c->logits);
    c->samples = uses(command, MI_NOISE, 0) ? command->samples : 1;
    c->step = room(c, command->n_requests, sizeof *c->step);
    for (int i = 0; i < command->n_requests; i++) read_step(c, i);
    list_edits(c);
    choose_metric(c);
    read_asked(c);
    list_averaged(c);
    return c;
}

/* The runs of a case are large; what they said is kept. */
static void free_runs(Case *c)
{
    if (c->lane == 0) mi_free(c->edited);               /* else it is the first one's */
    mi_free(c->source);
    mi_free(c->other);
    mi_free(c->base);
    c->edited = c->source = c->other = c->base = NULL;
}

static void close_case(Case *c)
{
    if (!c) return;
    free_runs(c);
    for (int i = 0; i < c->command->n_requests; i++) mi_edits_free(&c->step[i].edits);
    for (int i = 0; i < c->n_asked; i++) {
        mi_edits_free(&c->asked[i].rows);
        mi_cells_free(&c->asked[i].cells);
    }
    mi_cells_free(&c->cells);
    for (int i = 0; i < c->n_owned; i++) free(c->owned[i]);
    free(c->owned);
    free(c);
}

/* ---- Running ---- */

/* The unedited run of a prompt, which keeps these sites; it is the caller's. */
static MiRun *run_prompt(const Case *c, const Prompt *prompt, uint64_t keep)
{
    MiOptions options = { .keep = keep, .threads = c->command->threads };
    return must_run(c, mi_run(c->study->model, prompt->tokens, prompt->n, NULL, &options));
}

/* One row of a run that an edit touches, or would. */
static const float *touched_row(const Case *c, const MiRun *run, const MiEdit *edit, int t)
{
    return must_run(c, row_at(run, 0, edit, t));
}

enum {                                  /* sets of MiFrom */
    FROM_MEAN = 1 << MI_FROM_MEAN, FROM_SOURCE = 1 << MI_FROM_SOURCE, FROM_BASE = ~FROM_SOURCE,
    FROM_ANYWHERE = ~0
};

static uint64_t site_of(const MiEdit *edit, int from)
{
    return from & 1 << edit->from ? (uint64_t)1 << edit->site : 0;
}

/* The sites of edits whose values come from there: of a list, or of all steps of a case. */
static uint64_t sites_of(const MiEdits *edits, int from)
{
    uint64_t keep = MI_KEEP_NONE;
    for (int i = 0; i < edits->n; i++) keep |= site_of(&edits->at[i], from);
    return keep;
}

static uint64_t sites_of_steps(const Case *c, int from)
{
    uint64_t keep = MI_KEEP_NONE;
    for (int i = 0; i < c->command->n_requests; i++) keep |= sites_of(&c->step[i].edits, from);
    return keep;
}

/* The sites that the readouts will ask for, from any run. */
static uint64_t sites_shown(const Case *c)
{
    uint64_t keep = MI_KEEP_NONE;
    for (const Asked *a = c->asked; a < c->asked + c->n_asked; a++)
        keep |= a->what->keep | sites_of(&a->rows, FROM_ANYWHERE) |
                sites_of(&a->cells.edits, FROM_ANYWHERE);
    return keep;
}

/* The mean of a site over the rows of a table with label 1 less that over those with label 0, each
 * at its column `at` or its last token. All layers at once, and once for all prompts. */
static const Contrast *contrast_of(Study *study, const char *file, MiSite site)
{
    const Command command = { .metric = "kl", .swept = -1, .bos = study->command->bos,
                              .threads = study->command->threads };
    int layers = n_layers_of(study->model, site), D = width_of(study->model, site, 0);
    for (int i = 0; i < study->n_contrasts; i++)
        if (study->contrast[i].site == site && !strcmp(study->contrast[i].file, file))
            return &study->contrast[i];
    Study of = { .command = &command, .model = study->model, .words = study->words,
                 .rows = read_table(file) };
    if (column_of(&of.rows, "label") < 0)
        check(mi_fail("%s: expected a column named label, of 0 and 1", file), FAULT_OF_RUN);
    of.n_rows = of.rows.n_rows;
    double   *sum = must(calloc(2 * (size_t)layers * D, sizeof *sum));
    Contrast  made = { .file = file, .site = site };
    for (int r = 0; r < of.n_rows; r++) {
        Case       *c = open_case(&of, r);
        const char *label = mi_cell(&of.rows, r, "label");
        int         side = *label - '0', at = c->question.at;
        if (!is_choice("0|1", label))
            running(c, mi_fail("the label is \"%.100s\", not 0 or 1", label));
        c->prompt.n = at + 1;                           /* later ones change nothing there */
        MiRun *run = run_prompt(c, &c->prompt, (uint64_t)1 << site | MI_KEEP_CACHE);
        for (int l = 0; l < layers; l++) {
            const float *x = must_run(c, mi_site(run, 0, site, l, at));
            for (int i = 0; i < D; i++) sum[(side * layers + l) * (size_t)D + i] += x[i];
        }
        made.n[side]++;
        mi_free(run);
        close_case(c);
    }
    if (!made.n[0] || !made.n[1])
        check(mi_fail("%s: no row has label %d", file, made.n[0] != 0), FAULT_OF_RUN);
    made.v = must(malloc((size_t)layers * D * sizeof *made.v));
    for (int i = 0; i < layers * D; i++)
        made.v[i] = (float)(sum[layers * D + i] / made.n[1] - sum[i] / made.n[0]);
    free(sum);
    mi_table_free(&of.rows);
    study->contrast = must(grow(study->contrast, study->n_contrasts, sizeof made));
    study->contrast[study->n_contrasts] = made;
    return &study->contrast[study->n_contrasts++];
}

/* The rows at an edit that FILE.npy, random:SEED[:K] or data:FILE stand for: [*k,count], *k at most
 * `most`. */
static float *direction_rows(Case *c, Step *step, const MiEdit *edit, const char *from, int most,
                             int *k)
{
    int    n = edit->count, random = !strncmp(from, "random:", 7);
    int    data = !strncmp(from, "data:", 5);
    Array  array = { .n = random ? (size_t)random_rank(from) * n : (size_t)n };
    MiEdit noise = *edit;
    if (!random && !data) own(c, (array = read_npy(from)).values);
    *k = (int)(array.n / n);
    if (array.n % n || *k > most || (array.n_dims && *k > 1 && array.dim[array.n_dims - 1] != n))
        running(c, mi_fail("%s: %zu numbers; a direction here has %d, and there can be %d", from,
                           array.n, n, most));
    if (array.values) return array.values;
    float *x = room(c, array.n, sizeof *x);
    if (random) noise.seed = strtoull(from + 7, NULL, 10);
    for (int i = 0; i < *k * n && random; i++) x[i] = normal_at(&noise, i / n, i % n);
    if (random) return x;
    const Contrast *contrast = contrast_of(c->study, from + 5, edit->site);
    size_t          start = (size_t)edit->layer * width_of(c->study->model, edit->site, 0);
    memcpy(step->labels, contrast->n, sizeof contrast->n);
    return memcpy(x, contrast->v + start + edit->first, n * sizeof *x);
}

/* Gram and Schmidt: b_i <- b_i - sum_{j<i} (b_i . b_j) b_j, twice, since once leaves what rounding
 * does; then of length 1. x [k,n] spans what it spanned. */
static void orthonormalize(const Case *c, const char *name, float *x, int k, int n)
{
    for (int i = 0; i < k; i++) {
        float *b = x + (size_t)i * n;
        double whole = 0, rest = 0;
        for (int e = 0; e < n; e++) whole += (double)b[e] * b[e];
        for (int j = 0; j < 2 * i; j++) {
            const float *a = x + (size_t)(j % i) * n;
            double along = 0;
            for (int e = 0; e < n; e++) along += (double)a[e] * b[e];
            for (int e = 0; e < n; e++) b[e] -= (float)(along * a[e]);
        }
        for (int e = 0; e < n; e++) rest += (double)b[e] * b[e];
        if (!isfinite(whole) || !(rest > 1e-10 * whole))
            running(c, mi_fail("--along: direction %d of %s %s", i, name, whole == 0 ? "is zero"
                               : isfinite(whole) ? "depends on those before it" : "is infinite"));
        for (int e = 0; e < n; e++) b[e] = (float)(b[e] / sqrt(rest));
    }
}

/* The bases of a --patch --along, into its edits: neighbours share what is the same. */
static void bind_along(Case *c, Step *step)
{
    const char *from = step->typed->along;
    for (int i = 0; i < step->edits.n; i++) {
        MiEdit *edit = &step->edits.at[i];
        const MiEdit *last = i ? edit - 1 : NULL;
        int   same = last && last->site == edit->site && last->layer == edit->layer &&
                     last->first == edit->first && last->count == edit->count;
        float *basis = same ? NULL : direction_rows(c, step, edit, from, edit->count, &step->rank);
        if (basis) orthonormalize(c, from, basis, step->rank, edit->count);
        edit->basis = basis ? basis : last->basis;
        edit->rank = step->rank;
    }
}

/* The values of a --patch --from. */
static void bind_from(Case *c, Step *step)
{
    const MiEdit *from = &step->from;
    for (int i = 0; i < step->edits.n; i++) {
        MiEdit *edit = &step->edits.at[i];
        const float *row = touched_row(c, c->source, from, step->from_at ? from->pos : edit->pos);
        edit->value = from->head < 0 ? row : row + edit->first;     /* of keys: the same ones */
        edit->value_stride = step->from_at && from->pos_end - from->pos == 1 ? 0
                           : width_of(c->study->model, from->site, c->source->key_stride);
    }
}

/* v [count] at one edit: toward minus away, a file's values, or random ones of the same norm. */
static void direction_row(Case *c, Step *step, const MiEdit *edit, MiRun *const runs[2],
                          int row, float *v)
{
    const char *from = step->typed->direction;
    for (int side = 0; side < 2; side++) {
        if (!runs[side]) continue;
        int pos = is_front(step->typed) ? row : mi_n_tokens(runs[side], 0) - 1;
        const float *h = touched_row(c, runs[side], edit, pos);
        for (int i = 0; i < edit->count; i++) v[i] = side ? v[i] - h[i] : h[i];
    }
    if (!from) return;
    int    n = edit->count, k;
    double norm = sqrt(c->base->kernel->dot(v, v, n)), drawn = 0;
    memcpy(v, direction_rows(c, step, edit, from, 1, &k), n * sizeof *v);
    if (strncmp(from, "random:", 7)) return;
    for (int i = 0; i < n; i++) drawn += v[i] * v[i];
    for (int i = 0; i < n; i++) v[i] *= (float)((runs[0] || runs[1] ? norm : 1) / sqrt(drawn));
}

/* |C v| / |h|, averaged over the rows that are steered: how hard do we push? */
static double push(const Case *c, const MiEdit *edit)
{
    double ratio = 0;
    int    last = min_int(edit->pos_end, c->prompt.n);
    for (int t = edit->pos; t < last; t++) {
        const float *v = edit->value + (t - edit->pos) * edit->value_stride;
        const float *h = touched_row(c, c->base, edit, t);
        ratio += fabs(edit->amount) * sqrt(c->base->kernel->dot(v, v, edit->count) /
                                           c->base->kernel->dot(h, h, edit->count));
    }
    return ratio / (last - edit->pos);
}

/* One edit's direction: a row, or with --align front one for each of the first positions. */
static void bind_direction(Case *c, Step *step, MiEdit *edit, MiRun *const runs[2], int rows)
{
    int    swept = step - c->step == c->command->swept;
    float *v = room(c, (size_t)rows * edit->count, sizeof *v);
    for (int row = 0; row < rows; row++)
        direction_row(c, step, edit, runs, row, v + (size_t)row * edit->count);
    double norm = sqrt(c->base->kernel->dot(v, v, rows * edit->count));
    if (!isfinite(norm) || (norm == 0 && !swept))
        running(c, mi_fail("%s: the direction at L%d.%s is %s", step->typed->flag, edit->layer,
                           SITES[edit->site].name, norm == 0 ? "zero" : "infinite"));
    for (int i = 0; i < edit->count && edit->op == MI_PROJECT && norm > 0; i++)
        v[i] /= (float)norm;                            /* in a sweep's cell, 0 changes nothing */
    edit->value = v;
    if (is_front(step->typed))
        edit->pos = 0, edit->pos_end = rows, edit->value_stride = edit->count;
    step->strength += push(c, edit);
}

/* The directions of one --steer or --project, into its edits. To be aligned at the front, the
 * shorter text is padded with spaces. */
static void bind_directions(Case *c, Step *step)
{
    MiRun *runs[2] = { NULL, NULL };
    int    rows = 1, space;
    if (is_front(step->typed)) rows = max_int(1, max_int(step->text[0].n, step->text[1].n));
    for (int side = 0; side < 2; side++) {
        Prompt *text = &step->text[side];
        if (!text->n) continue;
        if (text->n < rows && mi_encode(c->study->words, " ", 1, &space, 1) != 1)
            running(c, mi_fail("--%s: cannot be padded with spaces", side ? "away" : "toward"));
        while (text->n < rows) text->tokens[text->n++] = space;
        runs[side] = run_prompt(c, text, sites_of(&step->edits, FROM_ANYWHERE) | MI_KEEP_CACHE);
    }
    step->strength = 0;
    for (int i = 0; i < step->edits.n; i++) bind_direction(c, step, &step->edits.at[i], runs, rows);
    step->strength /= step->edits.n;
    mi_free(runs[0]);
    mi_free(runs[1]);
}

/* --set SITES=FILE.npy: the file's values into the step's edits. */
static void bind_file(Case *c, Step *step)
{
    const char *text = step->typed->argument, *path = find_value(text, 1) + 1;
    Array       array = read_npy(path);
    float      *values = own(c, array.values);
    char        have[64], want[64];
    if (strcmp(print_shape(want, sizeof want, &step->file),
               print_shape(have, sizeof have, &array)))
        running(c, mi_fail("%s has the shape (%s), but --set %.200s needs (%s)", path, have, text,
                           want));
    for (int i = 0; i < step->edits.n; i++) {
        MiEdit *edit = &step->edits.at[i];
        edit->value = values;
        edit->value_stride = edit->head >= 0 ? c->prompt.n : edit->count;
        values += (edit->pos_end - edit->pos) * edit->value_stride;
    }
}

/* =mean over --data: what the study summed up, over its rows or over rows and positions. */
static void bind_mean(Case *c, int which)
{
    const Study *study = c->study;
    MiEdit *edit = c->averaged[which];
    int     n = study->aligned ? study->longest * edit->count : edit->count;
    float  *mean = room(c, n, sizeof *mean);
    for (int i = 0; i < n; i++) mean[i] = (float)(study->sum[which][i] / study->count[which]);
    edit->value = mean + (study->aligned ? (size_t)edit->pos * edit->count : 0);
    edit->value_stride = study->aligned ? edit->count : 0;
    edit->pos_end = min_int(edit->pos_end, c->prompt.n);
    edit->from = MI_FROM_CALLER;
}

/* =resample: the values of the partner's run. */
static void bind_partner(Case *c, MiEdit *edit)
{
    Study *study = c->study;
    if (!study->aligned || study->n_rows < 2)
        leave((mi_fail("%s: =resample needs at least two rows, all of the same number of tokens",
                       study->rows.file), FAULT_OF_RUN));
    if (!c->other) {
        Case *other = open_case(study, study->partner[c->row]);
        c->other = run_prompt(c, &other->prompt, 0);
        close_case(other);
    }
    edit->value = touched_row(c, c->other, edit, edit->pos);
    edit->value_stride = width_of(study->model, edit->site, 0);
}

/* The unedited runs, and what the edits take from them. The base keeps what a sweep edits: so it is
 * known which cells change nothing. */
static void prepare(Case *c)
{
    const Command *command = c->command;
    uint64_t keep = sites_shown(c) | sites_of_steps(c, FROM_BASE);
    for (int i = 0; i < c->n_averaged && c->study->sum; i++) bind_mean(c, i);
    for (int i = 0; i < c->n_edits; i++) {
        MiEdit *edit = c->edit[i];
        if (i >= c->n_held) keep |= site_of(edit, FROM_ANYWHERE);
        if (edit->from == MI_FROM_CALLER && !edit->value &&
            c->step[edit->order].typed->what->value == KIND)
            bind_partner(c, edit);
    }
    if (!command->n_requests && !needs_source(command) && !find_asked(command, "heads") &&
        !find_asked(command, "circuit"))
        keep |= MI_KEEP_CACHE;
    c->base = run_prompt(c, &c->prompt, keep);
    keep = sites_of_steps(c, FROM_SOURCE) | MI_KEEP_CACHE;
    for (Step *step = c->step; step < c->step + command->n_requests; step++)
        if (step->typed->from) keep |= (uint64_t)1 << step->from.site;
    for (const Asked *a = c->asked; a < c->asked + c->n_asked; a++)
        keep |= sites_of(&a->cells.edits, FROM_SOURCE) | a->what->keep;
    if (c->donor.n && needs_source(command)) c->source = run_prompt(c, &c->donor, keep);
    for (Step *step = c->step; step < c->step + command->n_requests; step++) {
        if (step->typed->what->value == FILE_NAME) bind_file(c, step);
        if (step->typed->what->needs & NEEDS_DIRECTION) bind_directions(c, step);
        if (step->typed->from) bind_from(c, step);
        if (step->typed->along) bind_along(c, step);
        running(c, mi_edits_bind(&step->edits, c->base, c->source));
    }
    c->held = room(c, (size_t)c->samples * c->n_held, sizeof *c->held);
    for (int i = 0; i < c->samples * c->n_held; i++) {
        c->held[i] = *c->edit[i % c->n_held];
        c->held[i].sample = (uint64_t)c->row << 32 | (uint32_t)(i / c->n_held);
    }
}

/* The edited runs of n cases in one fork: a lane for each, or for each sample of its noise. */
static void run_edited(Case *const *cases, int n)
{
    int n_lanes = 0;
    if (!cases[0]->n_held) return;
    for (int i = 0; i < n; i++) n_lanes += cases[i]->samples;
    MiLane *lanes = must(calloc(n_lanes, sizeof *lanes));
    n_lanes = 0;
    for (int i = 0; i < n; i++) {
        Case *c = cases[i];
        c->lane = n_lanes;
        for (int s = 0; s < c->samples; s++)
            lanes[n_lanes++] = (MiLane){ c->base, c->held + (size_t)s * c->n_held, c->n_held, -1,
                                         0 };
    }
    MiRun *fork = must_run(cases[0], mi_fork(lanes, n_lanes, -1, sites_shown(cases[0])));
    for (int i = 0; i < n; i++) cases[i]->edited = fork;
    free(lanes);
}

/* ---- Measuring ---- */

/* The logit of a set of tokens: log of the sum of their e^logit. */
static double set_logit(const TokenSet *set, const float *logits)
{
    if (set->n == 1) return logits[set->tokens[0]];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < set->n; i++) {
        if (isnan(logits[set->tokens[i]])) return NAN;
        max = fmax(max, logits[set->tokens[i]]);
    }
    for (int i = 0; i < set->n; i++) sum += exp(logits[set->tokens[i]] - max);
    return max + log(sum);
}

/* 1 + how many tokens outside the set have a higher logit */
static double rank_of(const TokenSet *set, const float *logits, int V)
{
    double logit = set_logit(set, logits), rank = isnan(logit) ? NAN : 1;
    for (int i = 0; i < V; i++) rank += logits[i] > logit && !is_in(set, i);
    return rank;
}

/* KL(p || q) in nats, from their logits [V] */
static double divergence(const float *p, const float *q, int V)
{
    double sum_p = mi_log_sum_exp(p, V), sum_q = mi_log_sum_exp(q, V), sum = 0;
    for (int i = 0; i < V; i++) {
        double log_p = p[i] - sum_p, log_q = q[i] - sum_q;
        if (exp(log_p) != 0) sum += exp(log_p) * (log_p - log_q);   /* 0 log 0 is 0 */
    }
    return sum < 0 ? 0 : sum;
}

enum { AT_ONCE = 64 };                  /* positions whose logits are computed together */

static float *room_for_logits(const Case *c, int n)
{
    return must(malloc((size_t)min_int(n, AT_ONCE) * n_vocab(c) * sizeof(float)));
}

/* loss[t - 1] = -log p(token t | the tokens before it), unless it is NULL; returns their mean. */
static double mean_loss(const Case *c, const MiRun *run, int lane, const Prompt *prompt,
                        double *loss)
{
    int    V = n_vocab(c), first = c->question.loss_from, n = prompt->n - 1;
    float *logits = room_for_logits(c, n);
    double sum = 0;
    for (int t = first; t < n; t++) {
        const float *row = logits + (size_t)((t - first) % AT_ONCE) * V;
        if ((t - first) % AT_ONCE == 0)
            running(c, mi_logits_all(run, lane, t, min_int(t + AT_ONCE, n), logits));
        double one = mi_log_sum_exp(row, V) - row[prompt->tokens[t + 1]];
        if (loss) loss[t] = one;
        sum += one;
    }
    free(logits);
    return sum / (n - first);
}

/* The metric, from the logits [V] at the position of interest. kl compares with base's logits. */
static double metric_of(const Question *q, const float *logits, const float *base, int V)
{
    double logit = q->answer.n ? set_logit(&q->answer, logits) : NAN;
    switch (q->metric) {
    case LOGIT_DIFF: return logit - set_logit(&q->versus, logits);
    case PROB:       return exp(logit - mi_log_sum_exp(logits, V));
    case LOGPROB:    return logit - mi_log_sum_exp(logits, V);
    case LOGIT:      return logit;
    case RANK:       return rank_of(&q->answer, logits, V);
    case KL:         return q->reversed ? divergence(logits, base, V) : divergence(base, logits, V);
    default:         return NAN;
    }
}

/* Where in a run numbers stop being numbers, in words; "" if they do not. */
static void where_numbers_end(const MiRun *run, int lane, char *text, size_t size)
{
    MiSite site;
    int    layer, pos;
    Label  name;
    *text = 0;
    if (mi_first_nonfinite(run, lane, &site, &layer, &pos) != 1) return;
    snprintf(text, size, "numbers end at %s, position %d", site_name(site, layer, name), pos);
}

/* Lanes whose logits are wanted: W_U, of a small model a third of all weights, is read once for
 * as many as these. */
typedef struct {
    int        n;
    MiPosition at[AT_ONCE];
    Case      *c[AT_ONCE];
    Outcome   *outcome[AT_ONCE];
    float     *logits;                  /* [AT_ONCE,V] */
} Batch;

static void measure_batch(Batch *batch)
{
    running(batch->c[0], mi_logits_at(batch->at, batch->n, batch->logits));
    for (int b = 0; b < batch->n; b++) {
        Case    *c = batch->c[b];
        Outcome *o = batch->outcome[b];
        int      V = n_vocab(c), S = o->n_lanes, lane = batch->at[b].lane;
        const float *logits = batch->logits + (size_t)b * V;
        double log_sum = mi_log_sum_exp(logits, V);
        for (int i = 0; i < V; i++) {
            o->logits[i] += logits[i] / S;
            o->prob[i] += (float)exp(logits[i] - log_sum) / S;
        }
        double metric = c->question.metric == LOSS ? mean_loss(c, o->run, lane, o->prompt, NULL)
                      : metric_of(&c->question, logits, c->outcome[0].logits, V);
        o->metric += metric / S;
        if (!isfinite(log_sum) && !*o->ends)
            where_numbers_end(o->run, lane, o->ends, sizeof o->ends);
    }
    batch->n = 0;
}

static void add_outcome(Batch *batch, Case *c, const char *name, const MiRun *run,
                        const Prompt *prompt, int lane, int n_lanes)
{
    Outcome *o = &c->outcome[c->n_outcomes++];
    *o = (Outcome){ .name = name, .run = run, .prompt = prompt, .lane = lane, .n_lanes = n_lanes };
    o->logits = room(c, n_vocab(c), sizeof *o->logits);
    o->prob = room(c, n_vocab(c), sizeof *o->prob);
    for (int s = 0; s < o->n_lanes; s++) {
        if (batch->n == AT_ONCE) measure_batch(batch);
        batch->at[batch->n] = (MiPosition){ o->run, o->lane + s, c->question.at };
        batch->c[batch->n] = c;
        batch->outcome[batch->n++] = o;
    }
}

static void measure_runs(Case *const *cases, int n)
{
    int   swept = cases[0]->command->swept >= 0;
    Batch batch = { .logits = room_for_logits(cases[0], AT_ONCE) };
    for (Case *const *at = cases; at < cases + n; at++) {
        Case *c = *at;
        add_outcome(&batch, c, "base", c->base, &c->prompt, 0, 1);
        if (c->edited)
            add_outcome(&batch, c, swept ? "held" : "edited", c->edited, &c->prompt, c->lane,
                        c->samples);
        if (c->source && reads_source(c->command, 1))
            add_outcome(&batch, c, "source", c->source, &c->donor, 0, 1);
    }
    measure_batch(&batch);
    free(batch.logits);
}

/* The run that pictures and --save show: with the edits, if there are any. */
static const MiRun *shown_run(const Case *c) { return c->edited ? c->edited : c->base; }

/* The outcome that a sweep's edits are added to, and what the source has more; NAN without one. */
static const Outcome *held_of(const Case *c) { return &c->outcome[c->edited != NULL]; }

static double restorable(const Case *c)
{
    const Outcome *last = &c->outcome[c->n_outcomes - 1];
    return strcmp(last->name, "source") ? NAN : last->metric - held_of(c)->metric;
}

/* The runs of a few cases: those of the unedited prompts one by one, the edited ones together. */
static void run_cases(Case *const *cases, int n)
{
    for (int i = 0; i < n; i++) prepare(cases[i]);
    run_edited(cases, n);
    measure_runs(cases, n);
}

/* ============================================================================================= */
/* Readouts: what can be asked                                                                   */
/*                                                                                               */
/* Each is a function that returns tables, and a row of READOUTS below.                          */
/* ============================================================================================= */

/* What the numbers, rows and columns of a new table are, and its title. */
__attribute__((format(printf, 5, 6)))
static Table *titled(Table *table, const char *quantity, const char *rows, const char *cols,
                     const char *title, ...)
{
    va_list args;
    snprintf(table->quantity, sizeof(Label), "%s", quantity);
    snprintf(table->row_axis, sizeof(Label), "%s", rows);
    snprintf(table->col_axis, sizeof(Label), "%s", cols);
    va_start(args, title);
    vsnprintf(table->title, sizeof table->title, title, args);
    va_end(args);
    return table;
}

/* An array for --save, which owns its values from here on. */
static void add_saved(Tables *out, const char *path, Array array)
{
    out->saved = must(grow(out->saved, out->n_saved, sizeof *out->saved));
    out->saved[out->n_saved++] = (Saved){ path, array };
}

/* The columns, or rows, of runs: base, edited, source */
static void run_labels(const Case *c, Label *name, int n)
{
    for (int i = 0; i < n; i++) strcpy(name[i], c->outcome[i].name);
}

static const char *edited_or_not(const Case *c) { return c->edited ? ", edited" : ""; }

/* The likeliest next tokens of each run. */
static void read_top(Case *c, const Asked *asked, Tables *out)
{
    int    V = n_vocab(c), k = min_int(asked->number, V), n = c->n_outcomes;
    if (is_study(c)) return;            /* it is how many cells a sweep shows */
    Table *table = titled(add_table(out, "top", TOP, k, n), "probability", "rank", "run",
                          "the likeliest next tokens");
    int   *top = must(malloc((k + 1) * sizeof *top));
    table->token = must(malloc(((size_t)k * n + 1) * sizeof *table->token));
    run_labels(c, table->col, n);
    for (int i = 0; i < n; i++) {
        const float *prob = c->outcome[i].prob;
        int found = isfinite(prob[0]) ? mi_top(prob, V, k, top) : 0;
        for (int r = 0; r < k; r++) {
            table->token[r * n + i] = r < found ? top[r] : -1;
            if (r < found) table->value[r * n + i] = prob[top[r]];
        }
    }
    for (int r = 0; r < k; r++) label(table->row[r], "%d", r + 1);
    free(top);
}

/* ---- Sweeps ---- */

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* A sweep under way: of which case, and for the progress bar which sample, since when. The logits
 * of lanes from <= lane < to of the fork that is measured, if whole rows of them are needed. */
typedef struct {
    Case  *c;
    int    sample;
    double started;
    int    from, to;
    float *logits;
} Sweeping;

/* The lanes of a fork are measured in their order: W_U is read once for many. */
static const float *logits_of_lane(Sweeping *s, const MiRun *run, int lane)
{
    MiPosition at[AT_ONCE];
    if (lane == 0 || lane == s->to) {
        s->from = lane;
        for (s->to = lane; s->to < run->n_lanes && s->to - lane < AT_ONCE; s->to++)
            at[s->to - lane] = (MiPosition){ run, s->to, s->c->question.at };
        running(s->c, mi_logits_at(at, s->to - lane, s->logits));
    }
    return s->logits + (size_t)(lane - s->from) * n_vocab(s->c);
}

/* The metric of one lane: only the logits that it needs are computed. */
static double measure_lane(void *context, const MiRun *run, int lane)
{
    Sweeping       *s = context;
    Case           *c = s->c;
    const Question *q = &c->question;
    int             diff = q->metric == LOGIT_DIFF;
    if (q->metric == LOSS) return mean_loss(c, run, lane, &c->prompt, NULL);
    if (q->answer.n == 1 && (diff ? q->versus.n == 1 : q->metric == LOGIT)) {
        int   tokens[2] = { q->answer.tokens[0], diff ? q->versus.tokens[0] : 0 };
        float logits[2] = {0};
        running(c, mi_logits_of(run, lane, q->at, tokens, 1 + diff, logits));
        return diff ? (double)logits[0] - logits[1] : logits[0];
    }
    return metric_of(q, logits_of_lane(s, run, lane), c->outcome[0].logits, n_vocab(c));
}

/* On a terminal that has waited for more than a second. */
static void show_progress(void *context, int done, int n)
{
    const Sweeping *s = context;
    if (!isatty(2) || seconds_now() - s->started < 1) return;
    double share = ((double)done / n + s->sample) / s->c->samples;
    fputs("\r  ", stderr);
    print_bar(stderr, share, 40, 0, "");
    fprintf(stderr, " %3.0f %%", 100 * share);
    if (share >= 1) fprintf(stderr, "\r%50s\r", "");
}

/* The held run of a sample as a trunk, base if nothing is held: to be freed if it is not base. */
static MiRun *held_run(Case *c, int sample, uint64_t keep)
{
    MiEdits   held = { .at = c->held + (size_t)sample * c->n_held, .n = c->n_held };
    MiOptions options = { .keep = keep, .threads = c->command->threads };
    if (!held.n) return c->base;
    return must_run(c, mi_run(c->study->model, c->prompt.tokens, c->prompt.n, &held, &options));
}

/* The metric of all cells, whose edits these are, averaged over the samples of noise, each with its
 * own held run. */
static void run_sweep(Case *c, MiEdits *cells, const int *first, double *metric, int n_cells)
{
    double   *values = must(malloc((n_cells + 1) * sizeof *values));
    Sweeping  context = { c, 0, seconds_now(), 0, 0, room_for_logits(c, AT_ONCE) };
    memset(metric, 0, n_cells * sizeof *metric);
    for (int s = 0; s < c->samples; s++) {
        MiRun *trunk = held_run(c, s, sites_of(cells, FROM_ANYWHERE));
        context.sample = s;
        for (int i = 0; i < cells->n; i++)
            cells->at[i].sample = (uint64_t)c->row << 32 | (uint32_t)s;
        MiSweep plan = { trunk, cells->at, first, n_cells,
                         c->question.metric == LOSS ? 0 : c->question.at + 1, measure_lane,
                         show_progress, &context };
        running(c, mi_sweep(&plan, values));
        for (int i = 0; i < n_cells; i++) metric[i] += values[i] / c->samples;
        if (trunk != c->base) mi_free(trunk);
    }
    free(context.logits);
    free(values);
}

/* A table with a cell for each of a sweep's. */
static Table *add_cells_table(const MiCells *cells, Tables *out, const char *name, Look look)
{
    Table *table = add_table(out, name, look, cells->n_rows, cells->n_cols);
    memcpy(table->row, cells->row, cells->n_rows * sizeof(Label));
    memcpy(table->col, cells->col, cells->n_cols * sizeof(Label));
    if (!cells->address) return table;
    table->address = must(malloc((cells_of(table) + 1) * sizeof(Label)));
    memcpy(table->address, cells->address, cells_of(table) * sizeof(Label));
    return table;
}

/* How many numbers of a list people see: --top K, or otherwise so many; 0 is all. */
static int shown_of(const Case *c, int otherwise)
{
    const Asked *top = find_asked(c->command, "top");
    return top && top->number > 0 ? top->number : otherwise;
}

/* Are a sweep's cells a list, or a map too wide to be seen? */
static int is_list(const MiCells *cells)
{
    return cells->n_cols == 1 || strchr(cells->col[0], 'N');
}

/* --each: what each cell did to the metric; of a patch, as a share of what the source has more than
 * the held run. */
static void read_sweep(Case *c, const Asked *asked, Tables *out)
{
    const char *metric = METRICS[c->question.metric].name;
    (void)asked;
    if (c->command->swept < 0) return;
    const Request *request = &c->command->request[c->command->swept];
    const MiCells *form = &c->cells;
    int    n = form->n_rows * form->n_cols;
    int    patch = (request->what->needs & NEEDS_SOURCE) && !request->from;
    Label  quantity;
    double *value = titled(add_cells_table(form, out, "cells", SILENT), metric, form->row_axis,
                           form->col_axis, "--%s, one run per cell: %s", request->what->name,
                           metric)->value;
    run_sweep(c, &c->step[c->command->swept].edits, form->first, value, n);
    for (int i = 0; i < n; i++)
        if (form->first[i] == form->first[i + 1]) value[i] = NAN;
    label(quantity, patch ? "share of %s restored" : "change of %s", metric);
    Table *table = titled(add_cells_table(form, out, "change", form->n_cols == 1 ? BARS : HEAT),
                          quantity, form->row_axis, form->col_axis,
                          patch ? "--%s, one run per cell: %s, 0 as in %s, 1 as in source"
                                : "--%s, one run per cell: change of %s from %s",
                          request->what->name, metric, held_of(c)->name);
    table->is_signed = 1;
    table->is_share = patch;
    if (patch) table->whole = restorable(c);
    if (is_list(form)) table->most = shown_of(c, n > 64 ? 20 : 0);
    for (int i = 0; i < n; i++) table->value[i] = value[i] - held_of(c)->metric;
}

/* ---- The metric ---- */

static const char *answer_label(const Case *c, int versus)
{
    const TokenSet *set = versus ? &c->question.versus : &c->question.answer;
    const char     *typed = versus ? c->command->versus : c->command->answer;
    return is_study(c) && !typed ? versus ? "versus" : "answer" : set->label;
}

static const char *versus_or_mean(const Case *c)
{
    return c->question.versus.n ? answer_label(c, 1) : "mean of all tokens";
}

/* One number as a share of another. */
static void add_share(Case *c, Tables *out, const char *name, const char *title, double part,
                      double whole)
{
    Table *table = titled(add_table(out, name, SILENT, 1, 1), "share", "", "", "%s", title);
    strcpy(table->row[0], c->outcome[1].name);
    strcpy(table->col[0], METRICS[c->question.metric].name);
    table->value[0] = part;
    table->whole = whole;
    table->is_share = 1;
}

/* The metric of each run; over --data also what the edits change, row by row, how much of base they
 * leave, and how often the answer is the likeliest token. */
static void read_metric(Case *c, const Asked *asked, Tables *out)
{
    const Question *q = &c->question;
    const char *metric = METRICS[q->metric].name;
    int study = is_study(c), n = c->n_outcomes, changed = study && c->edited;
    int quiet = (!study && q->metric == KL && n == 1) || (c->command->generate && !q->answer.n);
    (void)asked;
    Table *table = titled(add_table(out, "metric", quiet ? SILENT : BARS, n + changed, 1), metric,
                          "run", "", METRICS[q->metric].title, answer_label(c, 0),
                          answer_label(c, 1));
    const char *mean = !study || c->study->n_groups < 2 ? "" : ": mean ± SE";
    append(table->title, sizeof table->title, "%s", mean);
    strcpy(table->col[0], metric);
    table->is_signed = has_sign(q->metric) && q->metric != LOGPROB;
    table->limit = q->metric == PROB ? 1 : q->metric == RANK ? INFINITY : 0;
    run_labels(c, table->row, n);
    for (int i = 0; i < n; i++) table->value[i] = c->outcome[i].metric;
    double base = c->outcome[0].metric, edited = c->outcome[changed].metric;
    if (changed) strcpy(table->row[n], "change"), table->value[n] = edited - base;
    if (study && q->answer.n) {
        table = titled(add_table(out, "accuracy", BARS, n, 1), "accuracy", "run", "",
                       "share of rows with %s on top%s", answer_label(c, 0), mean);
        strcpy(table->col[0], "accuracy");
        run_labels(c, table->row, n);
        table->limit = 1;
        for (int i = 0; i < n; i++) {
            int best = 0;
            mi_top(c->outcome[i].logits, n_vocab(c), 1, &best);
            table->value[i] = is_in(&q->answer, best);
        }
    }
    if (c->command->swept >= 0 || !c->edited) return;
    edited = c->outcome[1].metric;
    if (q->metric != RANK && q->metric != KL)
        add_share(c, out, "left", "edited / base", edited, base);
    if (c->n_outcomes == 3)
        add_share(c, out, "restored", "(edited - base) / (source - base)", edited - base,
                  c->outcome[2].metric - base);
}

/* ---- The logit lens ---- */

static void name_position(Case *c, int t, int at_end, Label label)
{
    Parser p = parser_of(c, "", "");
    position_label(&p, t, at_end, label);
}

/* Where the answer is read, in words */
static const char *where_read(Case *c, Label text)
{
    Label at;
    if (is_study(c)) return c->input.at ? "the row's position" : "the last position";
    name_position(c, c->question.at, 1, at);
    return label(text, "position %s", at);
}

static void position_labels(Case *c, Label *label, int from, int to)
{
    for (int t = from; t < to; t++) name_position(c, t, 1, label[t - from]);
}

/* The points of the lens: resid_pre and resid_mid of each layer, then the end. */
static int n_points(const Case *c) { return 2 * c->study->model->shape.n_layer + 1; }

static MiSite lens_site(const Case *c, int point, int *layer)
{
    int end = point == n_points(c) - 1;
    *layer = end ? point / 2 - 1 : point / 2;
    return end ? MI_resid_post : point % 2 ? MI_resid_mid : MI_resid_pre;
}

/* What one point of the lens says, from its logits [V] and those of the end: of the answer the
 * metric, probability and rank, then the entropy of all, KL(end || it) and the likeliest token. */
enum { MOST_KINDS = 6 };
typedef struct { const char *name; double value; } Said;

static int said_at(const Question *q, const float *logits, const float *end, int V, Said *said,
                   int *top)
{
    double log_sum = mi_log_sum_exp(logits, V), entropy = 0;
    int    n = 0;
    for (int i = 0; i < V; i++) {
        double log_p = logits[i] - log_sum;
        if (!(log_p < -700)) entropy -= exp(log_p) * log_p;
    }
    mi_top(logits, V, 1, top);
    if (q->answer.n && q->metric <= RANK)
        said[n++] = (Said){ METRICS[q->metric].name, metric_of(q, logits, NULL, V) };
    if (q->answer.n && q->metric != PROB)
        said[n++] = (Said){ "prob", exp(set_logit(&q->answer, logits) - log_sum) };
    if (q->answer.n && q->metric != RANK)
        said[n++] = (Said){ "rank", rank_of(&q->answer, logits, V) };
    said[n++] = (Said){ "entropy", entropy };
    said[n++] = (Said){ "kl", divergence(end, logits, V) };
    said[n++] = (Said){ "top", exp(logits[*top] - log_sum) };
    return n;
}

/* The number for a table, by the last word of its name; for "lens" itself the likeliest token's. */
static const Said *find_said(const Said *said, int n, const char *table)
{
    const char *word = strchr(table, ' ') ? strchr(table, ' ') + 1 : "top";
    for (int i = 0; i < n; i++)
        if (!strcmp(said[i].name, word)) return &said[i];
    return NULL;
}

/* The tables of --lens: of some kinds of numbers at all T positions, and last of all n kinds by
 * depth. Over --data T is 0 if prompts are not aligned, and tokens have no mean. */
static void add_lens_tables(Case *c, Tables *out, int T, const Said *said, int n, int final)
{
    static const char *const names[] = { "lens", "lens rank", "lens prob", "lens kl", "depth" };
    enum { MAP = 0, DEPTH = 4 };
    int   study = is_study(c);
    Label at;
    for (int i = MAP; i <= DEPTH; i++) {
        int tokens = (i == MAP || i == DEPTH) && !study, cols = i < DEPTH ? T : n - study, layer;
        if (i < DEPTH && (!T || !find_said(said, n, names[i]))) continue;
        Look   look = i == DEPTH ? LINES : tokens ? TOKENS : SILENT;
        Table *table = titled(add_table(out, names[i], look, n_points(c), cols), names[i], "point",
                              "position", "%s", names[i]);
        for (int point = 0; point < n_points(c); point++) {
            const char *site = SITES[lens_site(c, point, &layer)].name;
            label(table->row[point], "L%d.%s", layer, site);
        }
        if (i < DEPTH) position_labels(c, table->col, 0, T);
        if (tokens) table->token = must(malloc(cells_of(table) * sizeof(int)));
        for (int k = 0; k < cells_of(table) && tokens; k++) table->token[k] = -1;
        if (i > MAP) continue;
        titled(table, "probability", "point", "position", "logit lens%s%s: the likeliest next "
               "token at each depth", final ? ", final statistics" : "", edited_or_not(c));
        table->limit = 1;
    }
    Table *depth = &out->at[out->n - 1];
    titled(depth, "", "point", "", "by depth, at %s%s; KL is that of the end from it",
           where_read(c, at), edited_or_not(c));
    for (int i = 0; i < depth->n_cols; i++) strcpy(depth->col[i], said[i].name);
    depth->is_signed = c->question.answer.n && has_sign(c->question.metric);
}

/* What the model would say at each depth (nostalgebraist 2020): the likeliest token at each
 * position, and at the position of interest a line of numbers; for programs the answer's rank and
 * probability everywhere, and how far (KL) the end's distribution still is. */
static void read_lens(Case *c, const Asked *asked, Tables *out)
{
    const Question *q = &c->question;
    int    final = asked->text && !strcmp(asked->text, "final"), V = n_vocab(c), first = out->n;
    int    T = is_study(c) && !c->study->aligned ? 0 : c->prompt.n, end = T ? T : q->at + 1;
    int    top = 0, layer;
    float *last = room_for_logits(c, end), *logits = room_for_logits(c, end);
    Said   said[MOST_KINDS];            /* first of all, to know what there will be to say */
    int    n = said_at(q, c->outcome[0].logits, c->outcome[0].logits, V, said, &top);
    add_lens_tables(c, out, T, said, n, final);
    Table *depth = &out->at[out->n - 1];
    for (int from = T ? 0 : q->at, to; from < end; from = to) {
        to = min_int(from + AT_ONCE, end);
        running(c, mi_logits_all(shown_run(c), c->lane, from, to, last));
        for (int point = 0; point < n_points(c); point++) {
            MiSite site = lens_site(c, point, &layer);
            running(c, mi_lens_all(shown_run(c), c->lane, site, layer, from, to, final, logits));
            for (int t = from; t < to; t++) {
                size_t row = (size_t)(t - from) * V;
                said_at(q, logits + row, last + row, V, said, &top);
                if (!isfinite(said[n - 1].value)) top = -1;
                for (Table *table = &out->at[first]; table < depth; table++) {
                    table->value[point * T + t] = find_said(said, n, table->name)->value;
                    if (table->token) table->token[point * T + t] = top;
                }
                for (int k = 0; k < depth->n_cols && t == q->at; k++)
                    depth->value[point * depth->n_cols + k] = said[k].value;
                if (depth->token && t == q->at) depth->token[(point + 1) * depth->n_cols - 1] = top;
            }
        }
    }
    free(last);
    free(logits);
}

/* ---- Direct logit attribution ---- */

/* What is attributed: each writer; attention and MLP of each layer as one; each head's part split
 * by the tokens that it comes from; or some neurons. What is in no part is "everything else". */
typedef enum { BY_WRITER, BY_LAYER, BY_TOKEN, BY_NEURON } Split;
enum { SHOWN_NEURONS = 10 };

static Split split_of(const Asked *asked)
{
    return !asked->text ? BY_WRITER : !strcmp(asked->text, "layers") ? BY_LAYER
         : !strcmp(asked->text, "tokens") ? BY_TOKEN : BY_NEURON;
}

/* A list of heads or neurons without positions -> what is read */
static void resolve_units(Case *c, Asked *asked, Parser p, Unit unit, MiSite site,
                          const char *expected, const char *no_position)
{
    resolve_list(c, &p);
    for (const Address *a = p.found; a < p.found + p.n_found; a++) {
        if (a->unit != unit || a->site != site) resolving(c, fail_at(&p, a->text, "%s", expected));
        if (a->has_pos) resolving(c, fail_at(&p, a->pos_text, "%s", no_position));
        resolving(c, expand(&asked->rows, &p, a, READ_ONLY));
    }
}

static void resolve_dla(Case *c, Asked *asked)
{
    static const char expected[] = "expected layers, tokens, or neurons, as in L4N*; --dla alone "
                                   "has every head and MLP";
    const Question *q = &c->question;
    Split split = split_of(asked);
    if (q->answer.n != 1 || q->versus.n > 1)
        resolving(c, mi_fail("--dla attributes a logit: it needs --answer with one token, and "
                             "--versus with one or none"));
    if (split == BY_WRITER || split == BY_LAYER) return;
    Parser p = parser_of(c, "--dla", split == BY_TOKEN ? "L*H*.pattern" : asked->text);
    if (!looks_like_address(p.at) && strncmp(p.at, "not:", 4))
        resolving(c, fail_at(&p, p.at, "%s", expected));
    resolve_units(c, asked, p, split == BY_TOKEN ? HEAD : NEURON,
                  split == BY_TOKEN ? MI_pattern : MI_mlp_post, expected,
                  "it reads at the position of --at; leave out the @");
}

/* Is neuron n of layer l one that was asked for? n -1: any of the layer */
static int is_asked(const Asked *asked, int l, int n)
{
    for (int i = 0; i < asked->rows.n; i++) {
        const MiEdit *e = &asked->rows.at[i];
        if (e->layer == l && (n < 0 || (e->first <= n && n < e->first + e->count))) return 1;
    }
    return 0;
}

/* What reads the end x of the stream: (x - mean) / sigma . g + beta . u, u = W_U[answer] -
 * W_U[versus], or without versus less the mean of all rows, g = gamma * u.   g [D] -> beta . u */
static double answer_direction(const Case *c, double *g)
{
    const MiModel  *model = c->study->model;
    const Question *q = &c->question;
    int    D = model->shape.d_model, V = model->shape.n_vocab;
    double bias = 0;
    memset(g, 0, D * sizeof *g);
    for (int v = 0; v < V && !q->versus.n; v++)
        for (int i = 0; i < D; i++) g[i] -= model->W_U[(size_t)v * D + i] / (double)V;
    for (int i = 0; i < D; i++) {
        g[i] += model->W_U[(size_t)q->answer.tokens[0] * D + i];
        if (q->versus.n) g[i] -= model->W_U[(size_t)q->versus.tokens[0] * D + i];
        bias += model->ln_f_beta[i] * g[i];
        g[i] *= model->ln_f_gamma[i];
    }
    return bias;
}

/* (x - mean) / sigma . g    x [D]; sigma 0: x's own */
static double read_end(const Case *c, const double *x, const double *g, double sigma)
{
    int    D = c->study->model->shape.d_model;
    double mean = 0, squares = 0, sum = 0;
    for (int i = 0; i < D; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) {
        squares += (x[i] - mean) * (x[i] - mean);
        sum += (x[i] - mean) * g[i];
    }
    return sum / (sigma ? sigma : sqrt(squares / D + c->study->model->shape.epsilon));
}

/* One lane's attribution under way, its vectors all [D]: the end of the stream, what reads it (g),
 * what no part has taken yet (rest), and room for a part and for what is left without it. */
typedef struct {
    Case        *c;
    const Asked *asked;
    const MiRun *run;
    int          lane, edited, row, column;             /* row, column: of the next part */
    Table       *table;
    double      *end, *g, *rest, *part, *left, share, sigma, whole, sum;
} Attribution;

static void add_numbers(Attribution *a, const char *name, const char *address, double held,
                        double exact)
{
    int i = a->row * a->table->n_cols + a->column;
    strcpy(a->table->row[a->row++], name);
    for (int k = 0; k < 2; k++) {
        strcpy(a->table->address[i + k], address);
        a->table->value[i + k] += a->share * (k ? exact : held);
    }
}

/* A part x -> two columns: x . g / sigma with the run's sigma, which add up to what the model says;
 * and exactly what it says less without x. */
static void add_part(Attribution *a, const double *x, const char *name, const char *address)
{
    for (int i = 0; i < a->c->study->model->shape.d_model; i++) a->left[i] = a->end[i] - x[i];
    double held = read_end(a->c, x, a->g, a->sigma);
    add_numbers(a, name, address, held, a->whole - read_end(a->c, a->left, a->g, 0));
    a->sum += held;
}

/* What is left of x [D] after its parts is nothing, or edits in between: then they are a part. */
static void add_left(Attribution *a, const double *x, Label whole)
{
    append(whole, sizeof(Label), " edits");
    if (a->edited) add_part(a, x, whole, "");
    else a->row += a->c->edited != NULL;
}

/* y = scale * sum_k v_k W[k], less what an array has, if any    v [n], W [n,D] */
static void weigh_rows(const float *v, const weight *W, int n, double scale, const double *less,
                       double *y, int D)
{
    for (int i = 0; i < D; i++) y[i] = less ? -scale * less[i] : 0;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < D; i++) y[i] += scale * v[k] * W[(size_t)k * D + i];
}

/* What a head wrote, x = z W_O - constant [D], by source: pattern_j (v_j W_O - constant) */
static void split_head(Attribution *a, int l, int h, double *x)
{
    const MiModel *model = a->c->study->model;
    int     D = model->shape.d_model, d = model->shape.d_head, at = a->c->question.at;
    double *constant = must(malloc(D * sizeof *constant));
    Label   name, address, from;
    const weight *W_O = model->block[l].W_O + (size_t)h * d * D;
    const float  *pattern = must_run(a->c, mi_head(a->run, a->lane, MI_pattern, l, h, at));
    weigh_rows(must_run(a->c, mi_head(a->run, a->lane, MI_z, l, h, at)), W_O, d, 1, x, constant, D);
    for (int j = 0; j <= at; j++) {
        const float *v = must_run(a->c, mi_head(a->run, a->lane, MI_v, l, h, j));
        weigh_rows(v, W_O, d, pattern[j], constant, a->part, D);
        name_position(a->c, j, 1, from);
        label(address, "L%dH%d.pattern@%d:%d", l, h, at, j);
        add_part(a, a->part, label(name, "L%dH%d@%.40s", l, h, from), address);
        for (int i = 0; i < D; i++) x[i] -= a->part[i];
    }
    add_left(a, x, label(name, "L%dH%d", l, h));
    free(constant);
}

/* What an MLP wrote, x [D], by neuron, mlp_post_n W_out[n], where it was asked for, and b_out */
static void split_mlp(Attribution *a, int l, double *x)
{
    static const float one = 1;
    const MiModel *model = a->c->study->model;
    const Block   *w = &model->block[l];
    int   D = model->shape.d_model, F = model->shape.d_mlp, at = a->c->question.at;
    Label name;
    const float *active = must_run(a->c, mi_site(a->run, a->lane, MI_mlp_post, l, at));
    for (int n = 0; n <= F; n++) {
        weigh_rows(n < F ? active + n : &one, n < F ? w->W_out + (size_t)n * D : w->b_out, 1, 1,
                   NULL, a->part, D);
        label(name, n < F ? "L%dN%d" : "L%d.b_out", l, n);
        if (n == F || is_asked(a->asked, l, n)) add_part(a, a->part, name, n < F ? name : "");
        else for (int i = 0; i < D; i++) a->rest[i] += a->part[i];
        for (int i = 0; i < D; i++) x[i] -= a->part[i];
    }
    add_left(a, x, label(name, "L%d.mlp_out", l));
}

/* The parts of one lane, in the order of the writers. */
static void attribute_parts(Attribution *a)
{
    Case *c = a->c;
    int   D = c->study->model->shape.d_model, H = c->study->model->shape.n_head;
    int   L = c->study->model->shape.n_layer, n = mi_n_writers(a->run, a->lane);
    Split split = split_of(a->asked);
    Label name;
    double *x = must(malloc(D * sizeof *x));
    for (int r = 0; r < n; r++) {
        int l = (r - 2) / (H + 2), h = r < 2 || l >= L ? -1 : (r - 2) % (H + 2);
        int head = h >= 0 && h < H, splits = split == BY_TOKEN ? head
                 : split == BY_NEURON && h > H && is_asked(a->asked, l, -1);
        running(c, mi_writer(a->run, a->lane, r, c->question.at, x, name));
        if (splits && head) split_head(a, l, h, x);
        else if (splits) split_mlp(a, l, x);
        for (int i = 0; i < D && !splits; i++) a->rest[i] += x[i];
        if (split > BY_LAYER || (split == BY_LAYER && head)) continue;
        if (split == BY_LAYER && h == H) label(name, "L%d.attn_out", l);
        add_part(a, a->rest, name, strchr(name, ' ') ? "" : name);
        memset(a->rest, 0, D * sizeof *a->rest);
    }
    free(x);
    a->row = max_int(a->row, a->table->n_rows - (split > BY_LAYER ? 2 : 1));
    if (split > BY_LAYER) add_part(a, a->rest, "everything else", "");
}

/* A share of one lane -> its columns of "dla"; what the parts add up to and what the model says,
 * and how far these are apart, into "dla sum"; its sigma. */
static void attribute_lane(Case *c, const Asked *asked, int run, int sample, Tables *out, int first)
{
    const Question *q = &c->question;
    const Outcome  *o = &c->outcome[run];
    Table  *table = &out->at[first];
    int     D = c->study->model->shape.d_model, last = c->study->model->shape.n_layer - 1;
    int     lane = o->lane + sample, V = n_vocab(c);
    double *x = must(calloc(5 * D, sizeof *x)), mean = 0;
    const float *end = must_run(c, mi_site(o->run, lane, MI_resid_post, last, q->at));
    const float *sigma = must_run(c, mi_site(o->run, lane, MI_ln_f_scale, 0, q->at));
    Attribution a = { .c = c, .asked = asked, .run = o->run, .lane = lane, .column = 2 * run,
                      .edited = o->run != c->base, .table = table, .share = 1.0 / o->n_lanes,
                      .end = x, .g = x + D, .rest = x + 2 * D, .part = x + 3 * D,
                      .left = x + 4 * D, .sigma = *sigma };
    for (int i = 0; i < D; i++) a.end[i] = end[i];
    double bias = a.sum = answer_direction(c, a.g);
    a.whole = read_end(c, a.end, a.g, 0);
    attribute_parts(&a);
    add_numbers(&a, "ln_f biases", "", bias, bias);
    table->n_rows = a.row;
    free(x);
    running(c, mi_logits(o->run, lane, q->at, c->logits));
    for (int v = 0; v < V; v++) mean += c->logits[v] / (double)V;
    double than = q->versus.n ? c->logits[q->versus.tokens[0]] : mean;
    double said = c->logits[q->answer.tokens[0]] - than, off = fabs(a.sum - said);
    if (!(off <= 1e-4 * fmax(1, fabs(said))))
        running(c, mi_fail("--dla: the parts add up to %.6f, the model says %.6f", a.sum, said));
    double sums[] = { a.sum, said, off };
    for (int i = 0; i < 3; i++)
        out->at[first + 1].value[i * table->n_cols / 2 + run] += a.share * sums[i];
    out->at[first + 2].value[run] += a.share * a.sigma;
}

/* For people, a map of the heads in one run: [layer,head], or by source, [all heads,source] */
static void add_dla_map(Case *c, Tables *out, int all, int run, int by_token)
{
    int H = c->study->model->shape.n_head, L = c->study->model->shape.n_layer;
    int T = c->question.at + 1, n_cols = by_token ? T + (c->edited != NULL) : H;
    const char *of = by_token && run ? c->outcome[run].name : "";
    Label  name;
    label(name, "dla %s%s%s", by_token ? "tokens" : "heads", *of ? " " : "", of);
    Table *map = add_table(out, name, HEAT, by_token ? L * H : L, n_cols);
    const Table *from = &out->at[all];                  /* not before: adding moves the tables */
    titled(map, from->quantity, by_token ? "head" : "layer", by_token ? "source" : "head",
           "direct logit attribution of each head%s%s: %s − %s",
           by_token ? ", by source" : "", run ? edited_or_not(c) : "", answer_label(c, 0),
           versus_or_mean(c));
    map->is_signed = 1;
    map->address = must(calloc(cells_of(map), sizeof(Label)));
    if (by_token) position_labels(c, map->col, 0, T);
    if (by_token && c->edited) strcpy(map->col[T], "edits");
    for (int i = 0; i < cells_of(map); i++) {
        int row = i / n_cols, col = i % n_cols;
        int part = from->n_cols * (by_token ? i : 2 + row * (H + 2) + col);
        if (by_token) label(map->row[row], "L%dH%d", row / H, row % H);
        else label(map->row[row], "L%d", row), label(map->col[col], "H%d", col);
        map->value[i] = from->value[part + 2 * run];
        strcpy(map->address[i], from->address[part]);
    }
}

/* "dla" by writer, for people: bars of all parts, a layer's heads together, with their sum. */
static void add_dla_parts(const Case *c, Tables *out, int all)
{
    int    runs = out->at[all].n_cols / 2, rows = out->at[all].n_rows + 1, row = -1, l, h;
    Table *parts = add_table(out, "dla parts", BARS, rows, runs);
    const Table *from = &out->at[all];                  /* not before: adding moves the tables */
    titled(parts, from->quantity, "part", "run", "the same by parts, which add up; b_V W_O is in "
           "the biases, as in TransformerLens");
    double sum[2] = { 0 };
    Label  name;
    parts->is_signed = 1;
    run_labels(c, parts->col, runs);
    memset(parts->value, 0, rows * runs * sizeof *parts->value);
    for (int r = 0; r < rows; r++) {
        if (r == rows - 1) strcpy(name, "sum");
        else if (sscanf(from->row[r], "L%dH%d", &l, &h) == 2) label(name, "L%d heads", l);
        else strcpy(name, from->row[r]);
        if (row < 0 || strcmp(name, parts->row[row])) strcpy(parts->row[++row], name);
        for (int i = 0; i < runs; i++) {
            double more = r == rows - 1 ? sum[i] : from->value[2 * (r * runs + i)];
            parts->value[row * runs + i] += more;
            sum[i] += more;
        }
    }
    parts->n_rows = row + 1;
}

/* --dla: what each part adds to the answer's logit by itself (Elhage et al. 2021). A larger sigma
 * under an edit makes all that is left smaller; the reverse is one kind of self-repair. */
static void read_dla(Case *c, const Asked *asked, Tables *out)
{
    static const char *const sums[] = { "sum of parts", "the model says", "off by" };
    const MiShape *s = &c->study->model->shape;
    Split split = split_of(asked);
    int   first = out->n, runs = 1 + (c->edited != NULL), n = 2;    /* n: at most so many rows */
    n += split == BY_TOKEN ? s->n_layer * s->n_head * (c->question.at + 2)
       : split == BY_NEURON ? s->n_layer * (s->d_mlp + 2) : mi_n_writers(shown_run(c), c->lane);
    Table *table = titled(add_table(out, "dla", split % 2 ? BARS : SILENT, n, 2 * runs),
                          "direct logit attribution", "part", "", "direct logit attribution: "
                          "%s − %s", answer_label(c, 0), versus_or_mean(c));
    table->address = must(calloc(cells_of(table) + 1, sizeof(Label)));
    table->is_signed = 1;
    table->most = split == BY_NEURON ? shown_of(c, SHOWN_NEURONS) : 0;
    titled(add_table(out, "dla sum", BARS, 3, runs), "logit", "", "run",
           "sigma held, the parts add up to what the model says; exact: sigma recomputed");
    titled(add_table(out, "dla sigma", BARS, runs, 1), "sigma", "run", "",
           "sigma of the final LayerNorm, which all parts are divided by");
    Table *sum = &out->at[first + 1], *sigma = sum + 1;
    sum->limit = INFINITY;
    strcpy(sigma->col[0], "sigma");
    run_labels(c, sigma->row, runs);
    run_labels(c, sum->col, runs);
    table = &out->at[first];
    for (int i = 0; i < 3; i++) {
        strcpy(sum->row[i], sums[i]);
        memset(table[i].value, 0, cells_of(&table[i]) * sizeof(double));
    }
    table->n_rows = 0;
    for (int i = runs - 1; i >= 0; i--) {               /* with edits first: those may be parts */
        strcpy(table->col[2 * i], c->outcome[i].name);
        label(table->col[2 * i + 1], "%s exact", c->outcome[i].name);
        for (int k = 0; k < c->outcome[i].n_lanes; k++) attribute_lane(c, asked, i, k, out, first);
    }
    for (int i = 0; split == BY_NEURON && i < cells_of(table) - 4 * runs; i++)  /* but the rest */
        table->limit = fmax(table->limit, fabs(table->value[i]));
    if (runs > 1) {
        add_share(c, out, "dla sigma ratio", "sigma, edited / base: what an edit leaves alone is "
                  "divided by this", sigma->value[1], sigma->value[0]);
        out->at[out->n - 1].look = BARS, out->at[out->n - 1].limit = INFINITY;
    }
    if (split == BY_WRITER) add_dla_map(c, out, first, runs - 1, 0);
    if (split == BY_WRITER) add_dla_parts(c, out, first);
    for (int i = 0; i < runs && split == BY_TOKEN; i++) add_dla_map(c, out, first, i, 1);
}

/* ---- Neurons ---- */

/* L5N123, or L5, L3-5 and L*: all neurons of those layers */
static void resolve_neurons(Case *c, Asked *asked)
{
    resolve_units(c, asked, parser_of(c, "--neurons", asked->text), NEURON, MI_mlp_post,
                  "expected neurons, L4N12 or all of a layer, L4",
                  "neurons are read at --at; leave out the @");
}

/* The heads or neurons that were asked for, `width` entries of a row each, as layer * the number
 * of them in a layer + their own. */
static int *list_units(Case *c, const Asked *asked, int width, int in_layer, int *n)
{
    int *unit = NULL;
    *n = 0;
    for (int j = 0; j < asked->rows.n; j++) {
        const MiEdit *e = &asked->rows.at[j];
        for (int i = e->first; i < e->first + e->count; i += width) {
            unit = must(grow(unit, *n, sizeof *unit));
            unit[(*n)++] = e->layer * in_layer + i / width;
        }
    }
    return own(c, unit);
}

/* Rows x [n,D] of the stream as the end reads them, but for LN_f's beta: (x - mean) gamma W_U, with
 * `scaled` over sigma -> logits [n,V] */
static void speak(const Case *c, float *x, int n, int scaled, float *logits)
{
    const MiModel *model = c->study->model;
    int D = model->shape.d_model;
    for (float *row = x; row < x + (size_t)n * D; row += D) {
        double mean = 0, squares = 0;
        for (int i = 0; i < D; i++) mean += row[i] / (double)D;
        for (int i = 0; i < D; i++) squares += (row[i] - mean) * (row[i] - mean) / D;
        double sigma = scaled ? sqrt(squares + model->shape.epsilon) : 1;
        for (int i = 0; i < D; i++) row[i] = (row[i] - mean) / sigma * model->ln_f_gamma[i];
    }
    unembed(c->base, x, n, logits);
}

/* A table of the tokens that rows speak for most, and against. */
enum { SPOKEN = 4, UNSPOKEN = 2 };
static Table *add_spoken_table(Tables *out, const char *name, int n)
{
    Table *table = add_table(out, name, TOKENS, n, SPOKEN + UNSPOKEN);
    table->token = must(malloc((cells_of(table) + 1) * sizeof *table->token));
    table->is_signed = 1;
    for (int i = 0; i < SPOKEN + UNSPOKEN; i++)
        label(table->col[i], "%+d", i < SPOKEN ? i + 1 : SPOKEN - 1 - i);
    return table;
}

/* What one row says, logits [V] */
static void add_spoken(const Case *c, const float *logits, Table *table, int row)
{
    int    V = n_vocab(c), top[SPOKEN], cell = row * table->n_cols;
    float *size = must(malloc(V * sizeof *size));
    for (int sign = 1; sign >= -1; sign -= 2) {
        for (int v = 0; v < V; v++) size[v] = sign * logits[v];
        int n = mi_top(size, V, sign > 0 ? SPOKEN : UNSPOKEN, top);
        for (int i = 0; i < n; i++, cell++) {
            table->token[cell] = isfinite(logits[top[i]]) ? top[i] : -1;
            table->value[cell] = logits[top[i]];
        }
    }
    free(size);
}

/* Those that do most here, in order: what tokens their values, W_out[n], and their keys stand for,
 * the columns of W_in with gamma as the embeddings meet them; and how active they are where. */
static void add_strongest_neurons(Case *c, const int *neuron, Tables *out, int first, int shown)
{
    const MiModel *model = c->study->model;
    const Table   *from = &out->at[first];
    int    n = from->n_rows, cols = from->n_cols, T = c->prompt.n, V = n_vocab(c);
    int    D = model->shape.d_model, F = model->shape.d_mlp, *top = room(c, shown, sizeof *top);
    float *x = room(c, D + V + n, sizeof *x), *logits = x + D, *size = logits + V;
    for (int i = 0; i < n; i++) size[i] = fabsf((float)from->value[(i + 1) * cols - 1]);
    shown = mi_top(size, n, shown, top);
    titled(add_spoken_table(out, "neuron values", shown), "logit", "neuron", "rank", "their "
           "values, W_out[n]: what they speak for and against (LN_f without beta)");
    titled(add_spoken_table(out, "neuron keys", shown), "logit", "neuron", "rank", "their keys, "
           "W_in's columns (centred, with gamma): whose embeddings they resemble");
    Table *active = titled(add_table(out, "neuron activations", HEAT, shown, T), "mlp_post",
                           "neuron", "position", "their activations%s", edited_or_not(c));
    active->is_signed = 1;
    position_labels(c, active->col, 0, T);
    for (int i = 0; i < shown; i++) {
        int l = neuron[top[i]] / F, k = neuron[top[i]] % F;
        const Block *w = &model->block[l];
        for (int j = 0; j < D; j++) x[j] = w->W_out[(size_t)k * D + j];
        speak(c, x, 1, 0, logits);
        add_spoken(c, logits, active - 2, i);
        double mean = 0;
        for (int j = 0; j < D; j++) {
            x[j] = w->W_in[(size_t)j * F + k] * w->ln2_gamma[j];
            mean += x[j] / (double)D;
        }
        for (int j = 0; j < D; j++) x[j] -= (float)mean;    /* LN takes that off what it meets */
        c->base->kernel->unembed(logits, x, 1, model->wte, V, D, 1);
        add_spoken(c, logits, active - 1, i);
        for (Table *table = active - 2; table <= active; table++)
            label(table->row[i], "L%dN%d", l, k);
        for (int t = 0; t < T; t++) {
            const float *post = must_run(c, mi_site(shown_run(c), c->lane, MI_mlp_post, l, t));
            active->value[i * T + t] = post[k];
        }
    }
}

/* --neurons: mlp_out is a sum over neurons, activation times value (Geva et al. 2021). What each
 * adds to the answer, as in --dla with sigma held; without one answer and one or no other, how long
 * what it adds is. */
static void read_neurons(Case *c, const Asked *asked, Tables *out)
{
    const MiModel  *model = c->study->model;
    const Question *q = &c->question;
    int    first = out->n, runs = 1 + (c->edited != NULL), D = model->shape.d_model, n;
    int    F = model->shape.d_mlp, *neuron = list_units(c, asked, 1, F, &n);
    int    answers = q->answer.n == 1 && q->versus.n <= 1;
    Label  at;
    double *g = must(malloc(2 * D * sizeof *g)), *x = g + D;
    titled(add_table(out, "neurons", BARS, n, runs), answers ? "direct logit attribution" :
           "length", "neuron", "run", answers ? "what neurons add at %s: %s − %s" :
           "how long what neurons add is, at %s", where_read(c, at), answer_label(c, 0),
           answers ? versus_or_mean(c) : "");
    titled(add_table(out, "neuron active", SILENT, n, runs), "mlp_post", "neuron", "run",
           "activation");
    Table *table = &out->at[first], *active = table + 1;
    table->is_signed = answers;
    table->most = n > SHOWN_NEURONS ? shown_of(c, SHOWN_NEURONS) : 0;
    table->address = must(calloc(cells_of(table) + 1, sizeof(Label)));
    if (answers) answer_direction(c, g);
    run_labels(c, table->col, runs);
    run_labels(c, active->col, runs);
    for (int i = 0; i < n * runs; i++) {
        int    l = neuron[i / runs] / F, k = neuron[i / runs] % F;
        double length = 0;
        const Outcome *o = &c->outcome[i % runs];
        for (int j = 0; j < D; j++) {
            x[j] = model->block[l].W_out[(size_t)k * D + j];
            length += x[j] * x[j];
        }
        strcpy(active->row[i / runs], label(table->row[i / runs], "L%dN%d", l, k));
        strcpy(table->address[i], table->row[i / runs]);
        table->value[i] = active->value[i] = 0;
        for (int lane = o->lane; lane < o->lane + o->n_lanes; lane++) {
            const float *post = must_run(c, mi_site(o->run, lane, MI_mlp_post, l, q->at));
            const float *sigma = must_run(c, mi_site(o->run, lane, MI_ln_f_scale, 0, q->at));
            double adds = answers ? post[k] * read_end(c, x, g, *sigma)
                                  : fabs(post[k]) * sqrt(length);
            table->value[i] += adds / o->n_lanes;
            active->value[i] += (double)post[k] / o->n_lanes;
        }
    }
    free(g);
    if (!is_study(c))
        add_strongest_neurons(c, neuron, out, first, table->most ? min_int(n, table->most) : n);
}

/* ---- Weights ---- */

static void resolve_weights(Case *c, Asked *asked)
{
    resolve_units(c, asked, parser_of(c, "--weights", asked->text), HEAD, MI_z,
                  "expected heads, as in L5H3 or heads",
                  "weights have no positions; leave out the @");
}

/* A run of the prompt's tokens in which a site has given rows, x [T,D], in every layer (the rows of
 * a site outside the blocks: once); x NULL: 0. keep: what is read of it. */
static MiRun *run_with(Case *c, const MiSite *site, int n_sites, const float *x, uint64_t keep)
{
    const MiModel *model = c->study->model;
    int     D = model->shape.d_model, T = c->prompt.n;
    MiEdits edits = { 0 };
    MiOptions options = { .keep = keep, .threads = c->command->threads };
    for (int i = 0; i < n_sites; i++)
        for (int l = 0; l < n_layers_of(model, site[i]); l++) {
            edits.at = must(grow(edits.at, edits.n, sizeof *edits.at));
            edits.at[edits.n++] = (MiEdit){ .op = MI_SET, .site = site[i], .layer = l, .head = -1,
                                            .count = D, .pos_end = T, .value = x,
                                            .value_stride = x ? D : 0 };
        }
    own(c, edits.at);
    return must_run(c, mi_run(model, c->prompt.tokens, T, &edits, &options));
}

/* Rows of a site of layer l, one for each token of the prompt -> x [T,D] */
static void gather_rows(Case *c, const MiRun *run, MiSite site, int l, float *x)
{
    size_t D = c->study->model->shape.d_model;
    for (int t = 0; t < c->prompt.n; t++)
        memcpy(x + t * D, must_run(c, mi_site(run, 0, site, l, t)), D * sizeof *x);
}

/* What head h of layer l writes when it looks at one token only: v W_O, b_O left out -> o [T,D] */
static void written_rows(Case *c, const MiRun *run, int l, int h, float *o)
{
    const MiModel *model = c->study->model;
    int     D = model->shape.d_model, d = model->shape.d_head;
    double *y = must(malloc(D * sizeof *y));
    for (int t = 0; t < c->prompt.n; t++, o += D) {
        weigh_rows(must_run(c, mi_head(run, 0, MI_v, l, h, t)),
                   model->block[l].W_O + (size_t)h * d * D, d, 1, NULL, y, D);
        for (int i = 0; i < D; i++) o[i] = (float)y[i];
    }
    free(y);
}

/* OV and QK of a head on the tokens of the prompt, each alone: through MLP 0, since that is what a
 * head above layer 0 meets of a token, and raw, as its embedding, which is what one of layer 0
 * meets; people see the tables of what it meets. */
static void read_head_weights(Case *c, int l, int h, MiRun *const run[2], Tables *out)
{
    static const char *const how[] = { "through MLP 0", "raw" };
    const MiModel *model = c->study->model;
    const weight  *b_K = model->block[l].b_QKV + model->shape.d_model + h * model->shape.d_head;
    int    T = c->prompt.n, D = model->shape.d_model, d = model->shape.d_head, V = n_vocab(c);
    int    first = out->n;
    float *o = must(malloc(T * ((size_t)D + V) * sizeof *o)), *logits = o + (size_t)T * D;
    Label  name;
    titled(add_table(out, label(name, "ov rank L%dH%d", l, h), BARS, T, 2), "rank", "token",
           "embedding", "OV of L%dH%d: rank of the token itself in what it writes, of %d (1: a "
           "copy)", l, h, V)->limit = INFINITY;
    for (int raw = 0; raw < 2; raw++) {
        const char *which = raw ? " raw" : "";
        int  met = raw == !l;
        titled(add_spoken_table(out, label(name, "ov%s L%dH%d", which, l, h), T), "logit", "token",
               "rank", "OV of L%dH%d: what it writes of each token (%s; LN_f without beta)", l, h,
               how[raw])->look = met ? TOKENS : SILENT;
        titled(add_table(out, label(name, "qk%s L%dH%d", which, l, h), met ? HEAT : SILENT, T, T),
               "score", "query", "key", "QK of L%dH%d: how much a token looks for another (%s; no "
               "key biases)", l, h, how[raw])->is_signed = 1;
        Table *rank = &out->at[first], *qk = &out->at[out->n - 1];
        strcpy(rank->col[raw], how[raw]);
        position_labels(c, qk->col, 0, T);
        for (Table *table = rank; table <= qk; table++) position_labels(c, table->row, 0, T);
        written_rows(c, run[raw], l, h, o);
        speak(c, o, T, 0, logits);
        for (int t = 0; t < T; t++) {
            TokenSet token = { .tokens = c->prompt.tokens + t, .n = 1 };
            rank->value[t * 2 + raw] = rank_of(&token, logits + (size_t)t * V, V);
            add_spoken(c, logits + (size_t)t * V, qk - 1, t);
        }
        for (int i = 0; i < T * T; i++) {
            const float *q = must_run(c, mi_head(run[raw], 0, MI_q, l, h, i / T));
            const float *key = must_run(c, mi_head(run[raw], 0, MI_k, l, h, i % T));
            double score = 0;
            for (int j = 0; j < d; j++) score += q[j] * ((double)key[j] - b_K[j]);
            qk->value[i] = score * model->block[l].score_scale;
        }
    }
    free(o);
}

/* The copy score of Wang et al. 2022: at each position resid_post of layer 0, through LN1 of layer
 * 1 whichever the head's layer, gives v; is the token among the five that LN_f(v W_O) W_U is
 * highest for? The same for -v W_O: heads that write against what they look at. */
static void read_copy_scores(Case *c, const int *head, int n, Tables *out)
{
    enum { HIT = 5 };
    static const MiSite site[] = { MI_ln1 };
    const MiModel *model = c->study->model;
    int    L = model->shape.n_layer, H = model->shape.n_head, D = model->shape.d_model;
    int    T = c->prompt.n, V = n_vocab(c);
    float *o = must(malloc((T + 1) * ((size_t)D + V) * sizeof *o)), *bias = o + (size_t)T * D;
    float *logits = bias + V;
    Table *table = titled(add_table(out, "copy score", BARS, n + 1, 2), "share", "head", "sign",
                          "copy score: share of the prompt's tokens in the top %d of what a head "
                          "writes", HIT);
    table->limit = 1;
    strcpy(table->col[0], "copies"), strcpy(table->col[1], "negative");
    label(table->row[n], "all %d heads", L * H);
    table->value[2 * n] = table->value[2 * n + 1] = 0;
    gather_rows(c, c->base, MI_ln1, min_int(1, L - 1), o);
    MiRun *run = run_with(c, site, 1, o, MI_KEEP(v));
    for (int i = 0; i < D; i++) o[i] = model->ln_f_beta[i];
    unembed(c->base, o, 1, bias);
    for (int i = 0; i < L * H; i++) {
        double hits[2] = { 0, 0 };
        written_rows(c, run, i / H, i % H, o);
        speak(c, o, T, 1, logits);                      /* over sigma: beta is to be added */
        for (int k = 0; k < 2 * T; k++) {
            float   *row = logits + (size_t)(k / 2) * V;
            TokenSet token = { .tokens = c->prompt.tokens + k / 2, .n = 1 };
            for (int v = 0; v < V; v++)                 /* P, then P + b, then -P + b */
                row[v] = k % 2 ? 2 * bias[v] - row[v] : row[v] + bias[v];
            hits[k % 2] += rank_of(&token, row, V) <= HIT;
        }
        for (int sign = 0; sign < 2; sign++) {
            table->value[2 * n + sign] += hits[sign] / T / (L * H);
            for (int r = 0; r < n; r++)
                if (head[r] == i) table->value[2 * r + sign] = hits[sign] / T;
        }
    }
    for (int r = 0; r < n; r++) label(table->row[r], "L%dH%d", head[r] / H, head[r] % H);
    mi_free(run);
    free(o);
}

/* The matrices of a layer as others meet them (TransformerLens' processed weights): W_Q, W_K, W_V
 * with gamma, less each column's mean over D; W_O less each row's mean: what LayerNorm takes off
 * anyway. w [Q K V O][D,D]; gram [Q K V O][H][d,d]: X^T X of each head's X [D,d] */
typedef struct { float *w[4], *gram; } Met;

static void fill_gram(const MiShape *s, Met *met)
{
    int D = s->d_model, d = s->d_head;
    for (int i = 0; i < 4 * s->n_head; i++) {
        size_t row = i / s->n_head < 3 ? D : 1, column = i / s->n_head < 3 ? 1 : D;
        const float *x = met->w[i / s->n_head] + i % s->n_head * d * column;
        float *gram = met->gram + i * d * d;
        for (int a = 0; a < d; a++)
            for (int b = 0; b <= a; b++) {
                double sum = 0;
                for (int r = 0; r < D; r++)
                    sum += (double)x[r * row + a * column] * x[r * row + b * column];
                gram[a * d + b] = gram[b * d + a] = (float)sum;
            }
    }
}

/* layer -1: random matrices of the same size, another one for each `draw` */
static Met meet(Case *c, int layer, int draw)
{
    const MiModel *model = c->study->model;
    const MiShape *s = &model->shape;
    int    D = s->d_model;
    size_t n = (size_t)D * D;
    const Block *w = layer < 0 ? NULL : &model->block[layer];
    const MiEdit random = { .op = MI_NOISE, .seed = c->command->seed, .sample = draw };
    float *memory = room(c, 4 * n + (size_t)4 * D * s->d_head, sizeof *memory);
    Met    met = { { memory, memory + n, memory + 2 * n, memory + 3 * n }, memory + 4 * n };
    for (int i = 0; i < 4 * D; i++) {                   /* a column of Q, K, V, a row of O */
        int    kind = i / D, column = i % D;
        size_t step = kind < 3 ? D : 1;
        float *x = met.w[kind] + (kind < 3 ? (size_t)column : (size_t)column * D);
        double mean = 0;
        for (int j = 0; j < D; j++) {
            x[j * step] = !w ? normal_at(&random, i, j) : kind == 3
                        ? w->W_O[(size_t)column * D + j]
                        : w->W_QKV[(size_t)j * 3 * D + i] * w->ln1_gamma[j];
            mean += x[j * step] / (double)D;
        }
        for (int j = 0; j < D; j++) x[j * step] -= (float)mean;
    }
    fill_gram(s, &met);
    return met;
}

static double trace(const float *a, const float *b, int n)     /* of A B^T */
{
    double sum = 0;
    for (int i = 0; i < n * n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* ||W_OV R|| / (||W_OV|| ||R||) of each head of a layer with one later head (Elhage et al. 2021):
 * R = W_Q W_K^T, W_K W_Q^T, W_V W_O for kind 0, 1, 2. With R = A B^T and M = W_O A [d,d] it is
 * tr(V^T V M B^T B M^T): no matrix larger than a head's is multiplied.   -> score [H] */
static void composition(const Case *c, const Met *from, const Met *into, int head, int kind,
                        double *score)
{
    static const int other[] = { 1, 0, 3 };
    int    D = c->study->model->shape.d_model, d = c->study->model->shape.d_head, dd = d * d;
    int    H = c->study->model->shape.n_head;
    float *M = must(calloc((size_t)D * d + 2 * dd + d, sizeof *M)), *GM = M + (size_t)D * d;
    float *MB = GM + dd, *zero = MB + dd;
    const float *A = into->gram + (kind * H + head) * dd;
    const float *B = into->gram + (other[kind] * H + head) * dd;
    const Kernels *kernel = c->base->kernel;
    kernel->linear(M, from->w[3], D, D, d, into->w[kind] + head * d, D, zero, c->base->threads);
    for (int h = 0; h < H; h++) {
        const float *V = from->gram + (2 * H + h) * dd, *O = from->gram + (3 * H + h) * dd;
        kernel->linear(GM, V, d, d, d, M + h * dd, d, zero, 1);
        kernel->linear(MB, M + h * dd, d, d, d, B, d, zero, 1);
        score[h] = sqrt(trace(GM, MB, d) / (trace(V, O, d) * trace(A, B, d)));
    }
    free(M);
}

/* Composition with all earlier heads: of one head a map of these, of several a column each; and,
 * as a control, what random matrices of this size come to. */
static void read_composition(Case *c, const Asked *asked, const int *head, int n, Tables *out)
{
    int     H = c->study->model->shape.n_head, last = 0, first = out->n, one = n == 1;
    double *score = room(c, H, sizeof *score);
    Met    *met = room(c, c->study->model->shape.n_layer, sizeof *met), random[2];
    Label   name;
    for (int i = 0; i < n; i++) last = max_int(last, head[i] / H);
    if (last == 0) return;                              /* nothing is earlier than layer 0 */
    for (int l = 0; l <= last; l++) met[l] = meet(c, l, 0);
    for (int i = 0; i < 2; i++) random[i] = meet(c, -1, i);
    for (int kind = 0; kind < 3; kind++) {
        label(name, "%c composition", "QKV"[kind]);
        Table *table = titled(add_table(out, name, HEAT, one ? last : last * H, one ? H : n),
                              "composition", one ? "layer" : "writer", one ? "head" : "reader",
                              "%s of %s with earlier heads", name, asked->text);
        for (int i = 0; i < table->n_rows; i++)
            label(table->row[i], one ? "L%d" : "L%dH%d", one ? i : i / H, i % H);
        for (int i = 0; i < table->n_cols; i++)
            if (one) label(table->col[i], "H%d", i);
            else label(table->col[i], "L%dH%d", head[i] / H, head[i] % H);
        for (int i = 0; i < n * last; i++) {            /* a map of one has the cells of a column */
            int reader = i / last, l = i % last;
            if (l >= head[reader] / H) continue;
            composition(c, &met[l], &met[head[reader] / H], head[reader] % H, kind, score);
            for (int h = 0; h < H; h++) table->value[(l * H + h) * n + reader] = score[h];
        }
    }
    Table *chance = titled(add_table(out, "composition of random matrices", BARS, 3, 1),
                           "composition", "kind", "", "random matrices of the same size, mean of "
                           "%d pairs: what composition comes to by chance", H * H);
    strcpy(chance->col[0], "random");
    for (int kind = 0; kind < 3; kind++) {
        label(chance->row[kind], "%c", "QKV"[kind]);
        chance->value[kind] = 0;
        for (int h = 0; h < H; h++) {
            composition(c, &random[0], &random[1], h, kind, score);
            for (int i = 0; i < H; i++) chance->value[kind] += score[i] / (H * H);
        }
        chance->limit = fmax(chance->limit, limit_of(&out->at[first + kind]));
    }
    for (Table *table = &out->at[first]; table < chance; table++) table->limit = chance->limit;
}

/* --weights: what heads would do with these tokens, from the weights. Of up to MANY heads what each
 * writes and looks for; of all that were asked for, copy scores and composition. Over --data the
 * copy scores only: the others are no means. */
static void read_weights(Case *c, const Asked *asked, Tables *out)
{
    enum { MANY = 4 };
    static const MiSite alone[] = { MI_pos_embed, MI_attn_out }, stream[] = { MI_resid_pre };
    int     H = c->study->model->shape.n_head, D = c->study->model->shape.d_model, n;
    int    *head = list_units(c, asked, D / H, H, &n);
    float  *x = room(c, (size_t)c->prompt.n * D, sizeof *x);
    if (n <= MANY && !is_study(c)) {
        MiRun *run[2], *tokens = run_with(c, alone, 2, NULL, MI_KEEP(resid_post));
        for (int raw = 0; raw < 2; raw++) {
            gather_rows(c, raw ? c->base : tokens, raw ? MI_embed : MI_resid_post, 0, x);
            run[raw] = run_with(c, stream, 1, x, MI_KEEP(q) | MI_KEEP(k) | MI_KEEP(v));
        }
        for (int i = 0; i < n; i++) read_head_weights(c, head[i] / H, head[i] % H, run, out);
        mi_free(run[0]), mi_free(run[1]), mi_free(tokens);
    }
    read_copy_scores(c, head, n, out);
    if (!is_study(c)) read_composition(c, asked, head, n, out);
}

/* ---- Paths ---- */

static void resolve_edges(Case *c, Asked *asked)
{
    if (c->n_edits)
        resolving(c, mi_fail("--%s starts from the unedited run: leave out interventions",
                             asked->what->name));
}

/* --path SENDERS --into RECEIVERS: heads and MLPs, whose output is patched; and who reads it. */
static void resolve_path(Case *c, Asked *asked)
{
    const char *into = c->command->into ? c->command->into : "logits";
    Parser  p = parser_of(c, "--path", asked->text);
    MiEdit  edit = { .op = MI_SET, .from = MI_FROM_SOURCE, .head = -1 };
    resolve_edges(c, asked);
    resolve_list(c, &p);
    for (const Address *a = p.found; a < p.found + p.n_found; a++)
        if (a->site != MI_z && a->site != MI_mlp_out)
            resolving(c, fail_at(&p, a->text, "a sender is a head, L5H3, or an MLP, L5.mlp_out"));
    resolving(c, lay_out_cells(&p, &edit, 0, &asked->cells));
    p = parser_of(c, "--into", strcmp(into, "logits") ? into : "ln_f");
    resolve_list(c, &p);
    for (const Address *a = p.found; a < p.found + p.n_found; a++) {
        if (a->site != MI_q && a->site != MI_k && a->site != MI_v && a->site != MI_ln2 &&
            a->site != MI_ln_f)
            resolving(c, fail_at(&p, a->text, "a receiver reads the stream: L5H3.q, .k or .v, "
                                 "L5.ln2 (an MLP), or logits"));
        resolving(c, expand(&asked->rows, &p, a, READ_ONLY));
    }
}

/* A part of the graph of edges: what it writes or reads, as edits; its name in the files of EAP;
 * and the half-layer it writes after, or reads in. */
typedef struct { MiEdit edit[2]; int n, half; Label name; } Node;

/* head -1: the whole row. Writers are set to their values in the source, or without one to 0. */
static Node node_of(const Case *c, MiSite site, int layer, int head, int half, const char *name)
{
    const MiShape *s = &c->study->model->shape;
    MiEdit edit = { .site = site, .layer = layer, .head = -1, .pos_end = c->prompt.n,
                    .first = max_int(head, 0) * s->d_head,
                    .count = head < 0 ? s->d_model : s->d_head,
                    .from = c->source ? MI_FROM_SOURCE : MI_FROM_VALUE };
    Node   node = { { edit, edit }, 1, half, "" };
    snprintf(node.name, sizeof(Label), name, layer, head);
    return node;
}

/* All of them in order, and the edges, from each writer into each reader above it: as the rows of a
 * table. Writers: the input, then the heads of each layer and its MLP; readers: q, k and v of the
 * heads of each layer and its MLP, last the logits. */
typedef struct { Node *writer, *reader; int (*edge)[2]; MiCells cells; } Graph;

static Graph list_edges(Case *c)
{
    static const char *const names[] = { "a%d.h%d<q>", "a%d.h%d<k>", "a%d.h%d<v>" };
    int   L = c->study->model->shape.n_layer, H = c->study->model->shape.n_head, w = 0, r = 0;
    int   n = (1 + L * (H + 1)) * (1 + L * (3 * H + 1));
    Graph g = { room(c, 1 + L * (H + 1), sizeof(Node)), room(c, 1 + L * (3 * H + 1), sizeof(Node)),
                room(c, n, sizeof *g.edge), { .n_cols = 1, .row = room(c, n, sizeof(Label)),
                .col = room(c, 1, sizeof(Label)), .row_axis = "edge", .col_axis = "" } };
    g.writer[w] = node_of(c, MI_embed, 0, -1, 0, "input");
    g.writer[w].edit[1].site = MI_pos_embed;
    g.writer[w++].n = 2;
    for (int l = 0; l < L; l++) {
        for (int h = 0; h < H; h++) g.writer[w++] = node_of(c, MI_z, l, h, 2 * l + 1, "a%d.h%d");
        g.writer[w++] = node_of(c, MI_mlp_out, l, -1, 2 * l + 2, "m%d");
        for (int i = 0; i < 3 * H; i++)
            g.reader[r++] = node_of(c, MI_q + i / H, l, i % H, 2 * l, names[i / H]);
        g.reader[r++] = node_of(c, MI_ln2, l, -1, 2 * l + 1, "m%d");
    }
    g.reader[r++] = node_of(c, MI_ln_f, 0, -1, 2 * L, "logits");
    for (int i = 0; i < w * r; i++) {
        const Node *from = &g.writer[i / r], *into = &g.reader[i % r];
        if (into->half < from->half) continue;
        label(g.cells.row[g.cells.n_rows], "%.30s->%.30s", from->name, into->name);
        g.edge[g.cells.n_rows][0] = i / r, g.edge[g.cells.n_rows++][1] = i % r;
    }
    return g;
}

/* What each cell's edits change the held run's metric by. */
static void run_changes(Case *c, MiEdits *cells, const int *first, double *change, int n)
{
    run_sweep(c, cells, first, change, n);
    for (int i = 0; i < n; i++) change[i] -= held_of(c)->metric;
}

/* What edges i, i + 1 ... of one writer would change, up to number `end` -> edits of cells; returns
 * the first edge that is not among them. */
static int patch_edges(Case *c, const Graph *g, int i, int end, MiEdits *edits, int *first)
{
    int    w = g->edge[i][0];
    MiRun *fork = must_run(c, mi_senders(c->base, c->source, g->writer[w].edit, g->writer[w].n, 1));
    for (; i < end && g->edge[i][0] == w; i++) {
        running(c, mi_receiver(fork, c->question.at + 1, *g->reader[g->edge[i][1]].edit, edits));
        *++first = edits->n;
    }
    mi_free(fork);
    return i;
}

/* What each edge changes: the reader's input is changed by the writer's difference alone, all that
 * comes after the reader follows (Goldowsky-Dill et al. 2023). Exact, one run each. */
static void run_edges(Case *c, const Graph *g, double *value)
{
    int  n = g->cells.n_rows, *first = must(calloc(n + 1, sizeof *first));
    for (int i = 0, next; i < n; i = next) {
        MiEdits edits = { 0 };
        next = patch_edges(c, g, i, n, &edits, first);
        run_changes(c, &edits, first, value + i, next - i);
        mi_edits_free(&edits);
    }
    free(first);
}

/* --edges: every edge from a writer into a reader, patched from the source by itself. The graph is
 * that of EAP (Syed et al. 2023). */
static void read_edges(Case *c, const Asked *asked, Tables *out)
{
    Graph  g = list_edges(c);
    Table *table = titled(add_cells_table(&g.cells, out, "edges", BARS), "share restored", "edge",
                          "", "--edges, one run per edge: %s, 0 as in base, 1 as in source",
                          METRICS[c->question.metric].name);
    (void)asked;
    table->is_signed = table->is_share = 1;
    table->whole = restorable(c);
    table->most = shown_of(c, 20);
    run_edges(c, &g, table->value);
}

/* --path: what reaches the receivers from each sender by the residual stream, with every head in
 * between held, and MLPs recomputed or with --freeze-mlps held too: the receivers' inputs are
 * recorded there and patched, alone and all together, into the prompt's run (Wang et al. 2022). */
static void read_path(Case *c, const Asked *asked, Tables *out)
{
    const MiCells *form = &asked->cells;
    const Command *command = c->command;
    int     n = form->n_rows * form->n_cols, *first = must(calloc(n + 1, sizeof *first));
    MiEdits edits = { 0 };
    for (int i = 0; i < n; i++) {
        int    from = form->first[i], senders = form->first[i + 1] - from;
        MiRun *fork = must_run(c, mi_senders(c->base, c->source, form->edits.at + from, senders,
                                             command->freeze_mlps));
        for (int k = 0; k < asked->rows.n; k++)
            running(c, mi_receiver(fork, c->question.at + 1, asked->rows.at[k], &edits));
        first[i + 1] = edits.n;
        mi_free(fork);
    }
    Table *table = titled(add_cells_table(form, out, "path", form->n_cols == 1 ? BARS : HEAT),
                          "share restored", form->row_axis, form->col_axis,
                          "--path into %s%s: %s, 0 as in base, 1 as in source",
                          command->into ? command->into : "logits",
                          command->freeze_mlps ? ", MLPs frozen" : "",
                          METRICS[c->question.metric].name);
    table->is_signed = table->is_share = 1;
    table->whole = restorable(c);
    run_changes(c, &edits, first, table->value, n);
    mi_edits_free(&edits);
    free(first);
}

/* ---- Attribution ---- */

/* --steps N:SIDE -> N, or 0 without it, and how far in each step the gradient is taken. */
static int steps_of(Case *c, double *side)
{
    Parser p = parser_of(c, "--steps", c->command->steps ? c->command->steps : "");
    int    n = 0;
    if (!c->command->steps) return 0;
    int ok = take_number(&p, &n) && n >= 1 && n <= 10000;
    *side = take(&p, ":left") ? 0 : take(&p, ":right") ? 1 : 0.5;
    if (!ok || p.at < p.end)
        resolving(c, fail_at(&p, p.at, "expected N, N:left or N:right, N from 1 to 10000"));
    if (!c->donor.n) resolving(c, mi_fail("--steps go to the source: it needs --source PROMPT"));
    return n;
}

static void resolve_attribute(Case *c, Asked *asked)
{
    Parser p = parser_of(c, "--attribute", asked->text);
    MiEdit edit = { .op = MI_SET, .from = c->donor.n ? MI_FROM_SOURCE : MI_FROM_VALUE, .head = -1 };
    double side;
    if (c->question.metric > LOGIT)
        resolving(c, mi_fail("--attribute: %s has no gradient here; logit_diff, prob, logprob and "
                             "logit have", METRICS[c->question.metric].name));
    steps_of(c, &side);
    if (!strcmp(asked->text, "edges")) {
        resolve_edges(c, asked);
        return;
    }
    resolve_list(c, &p);
    resolving(c, lay_out_cells(&p, &edit, 0, &asked->cells));
}

/* gradient += sign * d log sum_{i in set} e^logit_i / d logits    [V] */
static void add_set_gradient(const TokenSet *set, const float *logits, double sign, float *gradient)
{
    double all = set_logit(set, logits);
    for (int i = 0; i < set->n; i++)
        gradient[set->tokens[i]] += (float)(sign * exp(logits[set->tokens[i]] - all));
}

/* d metric / d logits    [V] -> [V] */
static void metric_gradient(const Question *q, const float *logits, int V, float *gradient)
{
    double all = mi_log_sum_exp(logits, V), p = exp(set_logit(&q->answer, logits) - all);
    memset(gradient, 0, V * sizeof *gradient);
    add_set_gradient(&q->answer, logits, 1, gradient);
    if (q->metric == LOGIT_DIFF) add_set_gradient(&q->versus, logits, -1, gradient);
    if (q->metric != PROB && q->metric != LOGPROB) return;
    for (int i = 0; i < V; i++) {
        gradient[i] -= (float)exp(logits[i] - all);
        if (q->metric == PROB) gradient[i] *= (float)p;
    }
}

/* The gradient of the metric in one lane of a run, which kept what it needs. */
static MiRun *gradient_of(Case *c, const MiRun *run, int lane, uint64_t keep)
{
    float *dlogits = must(malloc(n_vocab(c) * sizeof *dlogits));
    running(c, mi_logits(run, lane, c->question.at, c->logits));
    metric_gradient(&c->question, c->logits, n_vocab(c), dlogits);
    MiRun *gradient = must_run(c, mi_gradient(run, lane, c->question.at, dlogits, keep));
    free(dlogits);
    return gradient;
}

/* A run whose gradient counts, with its share in their mean. */
typedef struct { MiRun *gradient, *fork; const MiRun *run; int lane, held; double share; } Slope;

/* Number i of those of --attribute: of each sample of the held run, or with --steps N of N runs on
 * the way from it to the source, number k with the input embedding held + (k + side) / N (source -
 * held), side 1/2, and all else free (Hanna et al. 2024: EAP-IG, inputs). 0 after the last. */
static int next_slope(Case *c, const Asked *asked, int i, uint64_t keep, Slope *slope)
{
    double side = 0;
    int    steps = steps_of(c, &side), n = max_int(steps, 1), s = i / n, held = c->n_held;
    int    samples = c->edited ? c->samples : 1;
    if (i == samples * n) return 0;
    *slope = (Slope){ .run = shown_run(c), .lane = c->lane + s, .held = c->lane + s,
                      .share = 1.0 / (samples * n) };
    if (steps) {
        MiEdit *edit = own(c, malloc((held + 2) * sizeof *edit));
        memcpy(edit, c->held + s * held, held * sizeof *edit);
        for (int k = 0; k < 2; k++) {
            MiEdit *mix = &edit[held + k];
            *mix = (MiEdit){ .op = MI_MIX, .site = k ? MI_pos_embed : MI_embed, .head = -1,
                             .amount = (float)((i % n + side) / n), .order = INT_MAX,
                             .count = c->study->model->shape.d_model, .pos_end = c->prompt.n };
            mix->value = row_at(c->source, 0, mix, 0);
            mix->value_stride = mix->count;
        }
        MiLane lane = { c->base, edit, held + 2, 0, 0 };
        slope->run = slope->fork = must_run(c, mi_fork(&lane, 1, 0, asked->what->keep));
        slope->lane = 0;
    }
    slope->gradient = gradient_of(c, slope->run, slope->lane, keep);
    return 1;
}

static void free_slope(Slope *slope)
{
    mi_free(slope->gradient);
    mi_free(slope->fork);
}

/* What is patched in: the source's row, or zeros. */
static double towards(const float *source, int i) { return source ? source[i] : 0; }

static const float *source_row(const Case *c, const MiEdit *edit, int t)
{
    return c->source ? must_run(c, row_at(c->source, 0, edit, t)) : NULL;
}

/* sum over what an edit covers of d metric / d x (source - x)    x: of the held run */
static double attributed(const Case *c, const Slope *s, const MiEdit *edit)
{
    double sum = 0;
    for (int t = edit->pos; t < min_int(edit->pos_end, c->question.at + 1); t++) {
        const float *x = must_run(c, row_at(shown_run(c), s->held, edit, t));
        const float *slope = must_run(c, row_at(s->gradient, 0, edit, t));
        const float *to = source_row(c, edit, t);
        int n = edit->head >= 0 ? min_int(edit->count, t + 1 - edit->first) : edit->count;
        for (int i = 0; i < n; i++) sum += (double)slope[i] * (towards(to, i) - x[i]);
    }
    return sum;
}

/* The same for q or k with the pattern computed anew: sum over queries t and keys j of
 * d metric / d pattern_tj (pattern'_tj - pattern_tj), so that a softmax may leave its flat end
 * (Kramar et al. 2024: AtP*, with all keys of an edit at once). */
static double softmax_anew(const Case *c, const Slope *s, const MiEdit *edit)
{
    const MiRun *run = shown_run(c);
    int    l = edit->layer, d = run->model->shape.d_head, of_q = edit->site == MI_q;
    int    T = c->question.at + 1, last = edit->first / d + edit->count / d;
    double sum = 0;
    float *a = must(malloc(2 * T * sizeof *a)), *b = a + T;
    for (int h = edit->first / d; h < last; h++)
        for (int t = edit->pos; t < (of_q ? min_int(T, edit->pos_end) : T); t++) {
            const float *score = mi_head(run, s->held, MI_scores, l, h, t);
            const float *slope = mi_head(s->gradient, 0, MI_pattern, l, h, t);
            for (int j = 0; j <= t; j++) {
                int at = of_q ? t : j;
                const float *x = mi_head(run, s->held, edit->site, l, h, at);
                const float *to = c->source ? mi_head(c->source, 0, edit->site, l, h, at) : NULL;
                const float *with = mi_head(run, s->held, of_q ? MI_k : MI_q, l, h, of_q ? j : t);
                double more = 0;
                if (at >= edit->pos && at < edit->pos_end)
                    for (int i = 0; i < d; i++) more += (towards(to, i) - x[i]) * with[i];
                a[j] = score[j];
                b[j] = (float)(score[j] + more * run->model->block[l].score_scale);
            }
            run->kernel->softmax(a, t + 1);
            run->kernel->softmax(b, t + 1);
            for (int j = 0; j <= t; j++) sum += (double)slope[j] * (b[j] - a[j]);
        }
    free(a);
    return sum;
}

/* The cells of the sites that were asked for -> told, and anew if it is not NULL    [cells] */
static void attribute_cells(Case *c, const Asked *asked, double *told, double *anew)
{
    const MiCells *form = &asked->cells;
    uint64_t keep = sites_of(&form->edits, FROM_ANYWHERE) | MI_KEEP(pattern);
    Slope    slope;
    for (int k = 0; next_slope(c, asked, k, keep, &slope); k++, free_slope(&slope))
        for (int i = 0; i < form->n_rows * form->n_cols; i++)
            for (int j = form->first[i]; j < form->first[i + 1]; j++) {
                const MiEdit *edit = &form->edits.at[j];
                told[i] += slope.share * attributed(c, &slope, edit);
                if (anew) anew[i] += slope.share * softmax_anew(c, &slope, edit);
            }
}

/* What a writer would add to the stream at a position: a head's z through W_O    -> u [D] */
static void writer_change(const Case *c, const Node *writer, int t, float *u)
{
    int D = c->study->model->shape.d_model;
    memset(u, 0, D * sizeof *u);
    for (const MiEdit *e = writer->edit; e < writer->edit + writer->n; e++) {
        const float *x = must_run(c, row_at(c->base, 0, e, t)), *to = source_row(c, e, t);
        for (int k = 0; k < e->count; k++) {
            float by = (float)(towards(to, k) - x[k]);
            const weight *W_O = c->study->model->block[e->layer].W_O + (size_t)(e->first + k) * D;
            if (e->site != MI_z) u[k] += by;
            for (int i = 0; i < D && e->site == MI_z; i++) u[i] += by * W_O[i];
        }
    }
}

/* EAP: told [edges] += sum over positions of what the writer would add, times the gradient of what
 * the reader reads. */
static void attribute_edges(Case *c, const Asked *asked, const Graph *g, double *told)
{
    size_t D = c->study->model->shape.d_model, T = c->question.at + 1;
    int    n_edges = g->cells.n_rows;
    size_t n = (g->edge[n_edges - 1][1] + 1) * T;       /* rows of all readers; the last: logits */
    float *slopes = must(calloc((n + T) * D, sizeof *slopes)), *u = slopes + n * D;
    Slope  s;
    for (int k = 0; next_slope(c, asked, k, MI_KEEP(q) | MI_KEEP(k) | MI_KEEP(v) | MI_KEEP(ln2),
                               &s); k++, free_slope(&s))
        for (size_t i = 0; i < n; i++) {
            running(c, mi_reader_gradient(s.run, s.lane, s.gradient, g->reader[i / T].edit,
                                          (int)(i % T), u));
            for (size_t j = 0; j < D; j++) slopes[i * D + j] += (float)s.share * u[j];
        }
    for (int i = 0; i < n_edges; i++) {
        int w = g->edge[i][0];
        const float *slope = slopes + g->edge[i][1] * T * D;
        for (size_t t = 0; t < T && (i == 0 || w != g->edge[i - 1][0]); t++)
            writer_change(c, &g->writer[w], (int)t, u + t * D);
        for (size_t j = 0; j < T * D; j++) told[i] += (double)slope[j] * u[j];
    }
    free(slopes);
}

/* ---- The audit of what was attributed ---- */

/* How well numbers [n] foretell the exact ones: their correlation, the slope through 0 of the exact
 * ones on them, and how far off they are at most -> audit [3], each `stride` from the next. */
static void compare_all(const Table *told, const Table *exact, double *audit, int stride)
{
    double tt = 0, te = 0, ee = 0, t = 0, e = 0, off = 0;
    int    n = 0;
    for (int i = 0; i < cells_of(exact); i++) {
        double x = told->value[i], y = exact->value[i];
        if (!isfinite(x) || !isfinite(y)) continue;
        n++, t += x, e += y, tt += x * x, te += x * y, ee += y * y;
        off = fmax(off, fabs(x - y));
    }
    audit[0] = (te - t * e / n) / sqrt((tt - t * t / n) * (ee - e * e / n));
    audit[stride] = te / tt;
    audit[2 * stride] = off;
}

/* The n cells where two tables differ most, or of one table (told NULL) the largest. */
static int furthest(const Table *told, const Table *exact, int n, int *top)
{
    float *off = must(malloc((cells_of(exact) + 1) * sizeof *off));
    for (int i = 0; i < cells_of(exact); i++) {
        double by = exact->value[i] - (told ? told->value[i] : 0);
        off[i] = isfinite(by) ? (float)fabs(by) : -1;
    }
    n = mi_top(off, cells_of(exact), n, top);
    while (n && off[top[n - 1]] < 0) n--;
    free(off);
    return n;
}

static const char *name_of(const Table *table, int cell)
{
    return table->address ? table->address[cell] : table->row[cell];
}

/* A table that is made of the means of others, the last of them exact: their audit; or cells of
 * them side by side, the largest, or where the first and the exact differ most. */
static void compare(Table *t, const Table *of)
{
    const Table *exact = of + t->n_from - 1;
    int m = t->n_cols, audit = !strcmp(t->name, "audit"), worst = !strcmp(t->name, "worst");
    t->n_prompts = 0;                                   /* there is none of a single prompt */
    for (int k = 0; k < m && audit; k++) compare_all(of + k, exact, t->value + k, m);
    if (audit) return;
    int *top = must(malloc((t->n_rows + 1) * sizeof *top));
    int  n = furthest(worst ? of : NULL, exact, t->n_rows, top);
    if (exact->error) t->error = must(calloc(cells_of(t) + 1, sizeof *t->error));
    for (int i = 0; i < n * m; i++) {
        int cell = top[i / m];
        strcpy(t->row[i / m], name_of(exact, cell));
        t->value[i] = of[i % m].value[cell];
        if (t->error) t->error[i] = of[i % m].error[cell];
    }
    t->critical = exact->critical;
    free(top);
}

/* The tables that compare() fills, with a column for each of n at `from`; the audit has no last. */
static Table *add_comparison(Tables *out, const char *name, int from, int n, int n_rows,
                             const char *title)
{
    int    audit = !strcmp(name, "audit");
    Table *table = titled(add_table(out, name, BARS, n_rows, n - audit), "", "", "", "%s", title);
    if (!audit) strcpy(table->quantity, out->at[from].quantity);
    table->from = from, table->n_from = n;
    table->address = must(calloc(cells_of(table) + 1, sizeof(Label)));  /* NAN is no cell */
    table->is_signed = 1;
    table->limit = audit ? INFINITY : 0;
    for (int k = 0; k < table->n_cols; k++) strcpy(table->col[k], out->at[from + k].name);
    return table;
}

/* In a fork, of all softmaxes, of a head at a query, the one that says most other than its slope
 * did: with all else as it was, the metric changes
 *     by its slope    sum_j d metric / d score_j (score'_j - score_j)
 *     in truth        sum_j d metric / d pattern_j (pattern'_j - pattern_j)
 * -> its place, and its highest weight in the trunk and these two. */
static void most_bent(Case *c, const MiRun *trunk, const MiRun *fork, const MiRun *gradient,
                      Label place, double numbers[3])
{
    const MiShape *s = &c->study->model->shape;
    const MiRun   *runs[] = { trunk, fork, gradient };
    int T = c->question.at + 1;
    for (int i = 0; i < s->n_layer * s->n_head * T; i++) {
        int l = i / T / s->n_head, h = i / T % s->n_head, t = i % T, key = 0;
        const float *score[3], *pattern[3];
        double slope = 0, truth = 0;
        for (int k = 0; k < 3; k++) {
            score[k] = must_run(c, mi_head(runs[k], 0, MI_scores, l, h, t));
            pattern[k] = must_run(c, mi_head(runs[k], 0, MI_pattern, l, h, t));
        }
        for (int j = 0; j <= t; j++) {
            if (isfinite(score[0][j])) slope += score[2][j] * ((double)score[1][j] - score[0][j]);
            truth += pattern[2][j] * ((double)pattern[1][j] - pattern[0][j]);
            if (pattern[0][j] > pattern[0][key]) key = j;
        }
        if (!(fabs(truth - slope) > fabs(numbers[2] - numbers[1]))) continue;
        numbers[0] = pattern[0][key], numbers[1] = slope, numbers[2] = truth;
        label(place, "L%dH%d.pattern@%d:%d", l, h, t, key);
    }
}

/* Why the worst cells are so far off: the softmax that bends most on the way, if it says at least a
 * tenth of it. One that looks at a single key, weight 1, is flat: its slope promises nothing. */
static void add_reasons(Case *c, const Asked *asked, const Graph *g, int told, int last,
                        Tables *out)
{
    enum { WORST = 5 };
    int      top[WORST], n = furthest(&out->at[told], &out->at[last], WORST, top), found = 0;
    uint64_t keep = MI_KEEP(scores) | MI_KEEP(pattern);
    MiRun   *trunk = held_run(c, 0, asked->what->keep), *gradient = gradient_of(c, trunk, 0, keep);
    Table   *table = titled(add_table(out, "why", BARS, n, 3), "", "", "", "why: which softmax "
                            "bends, its weight; the change by its slope and in truth");
    const Table   *exact = &out->at[last];
    const MiCells *form = &asked->cells;
    strcpy(table->col[0], "weight"), strcpy(table->col[1], "slope"), strcpy(table->col[2], "truth");
    table->limit = INFINITY;
    for (int i = 0, first[2] = { 0 }; i < n; i++) {
        MiEdits edits = { 0 };
        double  off = fabs(exact->value[top[i]] - out->at[told].value[top[i]]), numbers[3] = { 0 };
        Label   place = "";
        if (g) patch_edges(c, g, top[i], top[i] + 1, &edits, first);
        const MiEdit *edit = g ? edits.at : form->edits.at;
        const int    *from = g ? first : form->first + top[i];
        MiLane lane = { trunk, edit + from[0], from[1] - from[0], -1, 0 };
        MiRun *fork = must_run(c, mi_fork(&lane, 1, -1, keep));
        most_bent(c, trunk, fork, gradient, place, numbers);
        mi_free(fork);
        mi_edits_free(&edits);
        if (!*place || !(fabs(numbers[2] - numbers[1]) >= 0.1 * off)) continue;
        label(table->row[found], "%.28s, %.32s", name_of(exact, top[i]), place);
        memcpy(table->value + 3 * found++, numbers, sizeof numbers);
    }
    table->n_rows = found;
    mi_free(gradient);
    if (trunk != c->base) mi_free(trunk);
}

/* Are so many exact patches, of all prompts, a matter of minutes at most? */
static int is_affordable(const Case *c, int n)
{
    const MiShape *s = &c->study->model->shape;
    double rows = (double)n * c->samples * c->study->n_run * max_int(c->study->longest,
                                                                    c->prompt.n);
    return c->command->exact ||
           rows * s->n_layer * s->d_model * (4.0 * s->d_model + 2.0 * s->d_mlp) < 1e13;
}

/* The tables of numbers: attributed, with the pattern anew, and exact. */
static void add_attributions(Case *c, const MiCells *form, int edges, const int which[3],
                             Tables *out)
{
    static const char *const names[] = { "attribution", "pattern anew", "exact" };
    const char *metric = METRICS[c->question.metric].name;
    char    how[40] = "gradient", title[100];
    double  side;
    int     steps = steps_of(c, &side);
    if (steps) snprintf(how, sizeof how, "mean of %d gradients", steps);
    snprintf(title, sizeof title, "--attribute%s, %s . (%s - x)", edges ? " edges" : "", how,
             c->source ? "source" : "0");
    const char *titles[] = { title, "with the pattern computed anew", c->source ?
        "the same patched, one run per cell" : "the same set to 0, one run per cell" };
    for (int i = 0; i < 3; i++) {
        if (!which[i]) continue;
        Table *table = titled(add_cells_table(form, out, names[i], form->n_cols == 1 ? BARS : HEAT),
                              metric, form->row_axis, form->col_axis, "%s: change of %s from %s",
                              titles[i], metric, held_of(c)->name);
        table->is_signed = 1;
        memset(table->value, 0, cells_of(table) * sizeof *table->value);
    }
}

/* --attribute: what a patch would change if the metric were a straight line from the held run to
 * the source, d metric / d x . (source - x) (Nanda 2023; with TransformerLens' sign: what patching
 * the source in adds), beside what it does change: every patch is run. */
static void read_attribute(Case *c, const Asked *asked, Tables *out)
{
    MiEdits  cells = asked->cells.edits;
    uint64_t sites = sites_of(&cells, FROM_ANYWHERE) & ~MI_KEEP_NONE;
    int      edges = !strcmp(asked->text, "edges"), first = out->n;
    Graph    graph = edges ? list_edges(c) : (Graph){ 0 }, *g = edges ? &graph : NULL;
    const MiCells *form = edges ? &g->cells : &asked->cells;
    int      n = form->n_rows * form->n_cols, there = 0;
    int      which[] = { 1, !edges && !(sites & ~(MI_KEEP(q) | MI_KEEP(k))), is_affordable(c, n) };
    int      n_told = 1 + which[1], n_tables = n_told + which[2];
    add_attributions(c, form, edges, which, out);
    double  *told = out->at[first].value, *exact = out->at[out->n - 1].value;
    if (edges) attribute_edges(c, asked, g, told);
    else attribute_cells(c, asked, told, which[1] ? out->at[first + 1].value : NULL);
    running(c, mi_edits_bind(&cells, c->base, c->source));
    if (which[2] && edges) run_edges(c, g, exact);
    else if (which[2]) run_changes(c, &cells, form->first, exact, n);
    for (int i = 0; i < n; i++) {
        int is_cell = edges || form->first[i] < form->first[i + 1];
        for (int k = 0; k < n_tables && !is_cell; k++) out->at[first + k].value[i] = NAN;
        there += is_cell;
    }
    int  shown = is_list(form) ? min_int(n, shown_of(c, edges || n > 64 ? 20 : 0)) : 0;
    char title[200];
    snprintf(title, sizeof title, "%.*s: %s, %d of %d", (int)strcspn(out->at[first].title, ":"),
             out->at[first].title, out->at[first].quantity, shown, n);
    for (int i = first; i < first + n_tables && shown; i++) out->at[i].look = SILENT;
    if (shown) add_comparison(out, "largest", first, n_tables, shown, title);
    if (!which[2]) return;
    Table *audit = add_comparison(out, "audit", first, n_tables, 3, "the audit: how well the exact "
                                  "changes follow the attributed ones");
    strcpy(audit->row[0], "correlation");
    strcpy(audit->row[1], "slope");
    strcpy(audit->row[2], "largest error");
    add_comparison(out, "worst", first, n_tables, min_int(there, 5), "where attribution and exact "
                   "differ most");
    if (!is_study(c)) add_reasons(c, asked, g, first, first + n_told, out);
}

/* ---- Circuits ---- */

enum { RANDOM_SETS = 20 };

/* --circuit SITES[=KIND] or FILE[=KIND] -> its members as cells; and as rows what ablates each
 * layer of their sites, whole: what is no member is a part of that. */
static void resolve_circuit(Case *c, Asked *asked)
{
    const char *text = asked->text, *value = find_value(text, 0);
    int   length = (int)(value ? value - text : (int)strlen(text));
    char *name = own(c, malloc(strlen(text) + 6));
    sprintf(name, "%.*s", length, text);
    if (!strcmp(name, "-") || !access(name, F_OK)) {
        sprintf(name, "file:%s", text);
        value = find_value(text = name, 0);
    }
    Parser p = parser_of(c, "--circuit", text);
    MiEdit edit = { .op = MI_SET, .from = MI_FROM_SOURCE, .head = -1 };
    resolve_edges(c, asked);
    if (value) p.end = value;
    resolve_list(c, &p);
    for (const Address *a = p.found; a < p.found + p.n_found; a++)
        if (SITES[a->site].width == MI_KEYS || SITES[a->site].width == MI_ONE)
            resolving(c, fail_at(&p, a->text, "a circuit has heads, neurons and whole sites"));
    if (!is_circuit(c->command, "source") &&
        !read_value(&p, value ? value + 1 : "mean", KIND, &edit))
        resolving(c, fail_at(&p, value + 1, "what is not in the circuit is set =mean, =zero, "
                             "=tlzero, =resample or =source"));
    if (edit.from == MI_FROM_CALLER && !is_study(c))
        resolving(c, mi_fail("--circuit =resample takes another row's value: it needs --data"));
    resolving(c, lay_out_cells(&p, &edit, 0, &asked->cells));
    for (MiSite site = 0; site < MI_N_SITES; site++) {
        Address whole = { .site = site, .pos.hi = c->prompt.n - 1, .has_pos = 1,
                          .layer.hi = n_layers_of(c->study->model, site) - 1 };
        int named = 0;
        for (int i = 0; i < p.n_found; i++) named |= p.found[i].site == site;
        if (named) resolving(c, expand(&asked->rows, &p, &whole, edit));
    }
}

/* A circuit among all units of its sites, the narrowest that it names: site after site, layer after
 * layer. */
typedef struct {
    MiEdits whole;                      /* what ablates each layer of each site */
    int     n, T;                       /* units, positions */
    MiEdit *unit;                       /* [n] what ablates it at all positions */
    char   *member;                     /* [n,T] is it one there? */
} Circuit;

/* The part of an ablated unit that is at these positions, or with more columns its neighbours'. */
static MiEdit part_of(MiEdit unit, int count, int pos, int pos_end)
{
    if (unit.value) unit.value += pos * unit.value_stride;
    unit.count = count, unit.pos = pos, unit.pos_end = pos_end;
    return unit;
}

static int unit_of(const Circuit *x, const MiEdit *member)
{
    int u = 0;
    while (x->unit[u].site != member->site || x->unit[u].layer != member->layer ||
           x->unit[u].first != member->first) u++;
    return u;
}

static Circuit open_circuit(Case *c, const Asked *asked)
{
    const MiEdits *members = &asked->cells.edits;
    Circuit x = { .T = c->prompt.n };
    int     width[MI_N_SITES] = { 0 };
    for (int i = 0; i < asked->rows.n; i++) {
        running(c, add_edit(&x.whole, &asked->rows.at[i]));
        MiEdit *edit = &x.whole.at[i];
        if (edit->from == MI_FROM_CALLER && !edit->value) bind_partner(c, edit);
    }
    running(c, mi_edits_bind(&x.whole, c->base, c->source));
    for (int j = 0; j < members->n; j++) {
        const MiEdit *e = &members->at[j];
        width[e->site] = width[e->site] ? min_int(width[e->site], e->count) : e->count;
    }
    for (int i = 0; i < x.whole.n; i++) x.n += x.whole.at[i].count / width[x.whole.at[i].site];
    x.unit = room(c, x.n, sizeof *x.unit);
    x.member = room(c, (size_t)x.n * x.T, 1);
    MiEdit *unit = x.unit;
    for (int k = 0; k < x.whole.n; k++) {
        const MiEdit *e = &x.whole.at[k];
        for (int first = 0; first < e->count; first += width[e->site]) {
            *unit = part_of(*e, width[e->site], 0, x.T);
            if (unit->value) unit->value += first;
            unit++->first = first;
        }
    }
    for (int j = 0; j < members->n; j++) {
        const MiEdit *e = &members->at[j];
        for (int u = unit_of(&x, e), i = 0; i < e->count / width[e->site]; i++)
            memset(x.member + (size_t)(u + i) * x.T + e->pos, 1, min_int(e->pos_end, x.T) - e->pos);
    }
    return x;
}

/* order [n] -> set number `set` of random ones: which unit's place each unit takes, within its
 * site; -1: its own. (Fisher and Yates.) */
static void shuffle_units(const Circuit *x, int seed, int set, int *order)
{
    for (int u = 0, from = 0; u < x->n; u++) {
        if (u && x->unit[u].site != x->unit[u - 1].site) from = u;
        uint64_t key = mix_bits(seed) ^ ((uint64_t)set << 32 | (uint32_t)u);
        int      other = set < 0 ? u : from + (int)(mix_bits(key) % (u - from + 1));
        order[u] = order[other];
        order[other] = u;
    }
}

/* What ablates all members (of a shuffled circuit), or all others: the fewest edits. */
static void ablate_units(Case *c, const Circuit *x, const int *order, int members, MiEdits *edits)
{
    for (int u = 0, next; u < x->n; u = next) {
        const char *here = x->member + (size_t)order[u] * x->T;
        for (next = u + 1; next < x->n && x->unit[next].first > x->unit[u].first &&
             !memcmp(here, x->member + (size_t)order[next] * x->T, x->T);) next++;
        for (int t = 0, end; t < x->T; t = end) {
            for (end = t + 1; end < x->T && here[end] == here[t];) end++;
            MiEdit edit = part_of(x->unit[u], (next - u) * x->unit[u].count, t, end);
            if (here[t] == members) running(c, add_edit(edits, &edit));
        }
    }
}

/* The runs of a circuit C in the model M, as cells of one sweep: C, M less C, nothing of its kinds;
 * random sets R, each followed by M less R; then of each member v C less v, and M less v. */
static int *lay_out_circuit(Case *c, const Asked *asked, const Circuit *x, int n, MiEdits *edits)
{
    const MiCells *form = &asked->cells;
    int *order = room(c, x->n, sizeof *order), *first = room(c, n + 1, sizeof *first);
    for (int i = 0; i < n; i++) {
        int set = i < 3 ? i - 3 : (i - 3) / 2, v = set - RANDOM_SETS;
        int others = i < 3 ? i != 1 : (i - 3) % 2 == 0, members = i < 3 ? i > 0 : !others;
        shuffle_units(x, c->command->seed, v < 0 ? set : -1, order);
        if (others) ablate_units(c, x, order, 0, edits);
        if (members && v < 0) ablate_units(c, x, order, 1, edits);
        for (int j = v < 0 ? 0 : form->first[v]; v >= 0 && j < form->first[v + 1]; j++) {
            const MiEdit *e = &form->edits.at[j];
            MiEdit one = part_of(x->unit[unit_of(x, e)], e->count, e->pos,
                                 min_int(e->pos_end, x->T));
            running(c, add_edit(edits, &one));
        }
        first[i + 1] = edits->n;
    }
    return first;
}

/* "4 of 24 heads, 2 of 6 mlp_out" */
static void count_members(const Circuit *x, char *text, size_t size)
{
    for (int u = 0, n = 0, all = 0; u < x->n; u++) {
        MiSite site = x->unit[u].site;
        n += memchr(x->member + (size_t)u * x->T, 1, x->T) != NULL, all++;
        if (u + 1 < x->n && x->unit[u + 1].site == site) continue;
        append(text, size, "%s%d of %d %s", *text ? ", " : "", n, all, site == MI_z ? "heads"
               : site == MI_mlp_post ? "neurons" : SITES[site].name);
        n = all = 0;
    }
}

/* Each of the sets' numbers, and their means as rows 2 and 4 of rows[0], of the metric, and
 * rows[1], of KL. */
static void add_random_sets(const double *metric, const double *kl, double rows[2][6], Tables *out)
{
    static const char *const cols[] = { "circuit", "complement", "circuit kl", "complement kl" };
    Table *sets = titled(add_table(out, "random sets", SILENT, RANDOM_SETS, 4), "", "set", "",
                         "random sets of the circuit's size and kinds");
    for (int i = 0; i < 4 * RANDOM_SETS; i++) {
        int k = i % 4;
        sets->value[i] = (k < 2 ? metric : kl)[3 + 2 * (i / 4) + k % 2];
        rows[k / 2][2 + 2 * (k % 2)] += sets->value[i] / RANDOM_SETS;
        label(sets->row[i / 4], "%d", i / 4 + 1);
        strcpy(sets->col[k], cols[k]);
    }
}

/* Number `from` and those after it of what the sets say, less what is 0 in this table. */
static Table *add_sets(Tables *out, const char *name, const char *column, const double *value,
                       double zero, int from, int n_rows)
{
    static const char *const sets[] = { "whole", "circuit", "random circuits", "complement",
                                        "random complements", "all ablated" };
    Table *table = add_table(out, name, BARS, n_rows, 1);
    strcpy(table->col[0], column);
    for (int i = 0; i < n_rows && from + i < 6; i++) {
        strcpy(table->row[i], sets[from + i]);
        table->value[i] = value[from + i] - zero;
    }
    return table;
}

/* without [n,2]: F(C-v) and F(M-v), the circuit and the model without each member, less what either
 * is (Wang et al. 2022: minimality, and incompleteness for sets of one; theirs are absolute). */
static void add_members(const MiCells *form, const char *quantity, double circuit,
                        const double *without, Tables *out)
{
    int    n = form->n_rows * form->n_cols;
    Table *table = titled(add_table(out, "members", BARS, n, 2), quantity, "member", "",
                          "without member v: F(C-v) - F(C), its minimality; F(C-v) - F(M-v)");
    table->is_signed = 1;
    table->address = must(calloc(2 * n + 1, sizeof(Label)));
    strcpy(table->col[0], "minimality"), strcpy(table->col[1], "incompleteness");
    for (int i = 0; i < 2 * n; i++) {
        table->value[i] = without[i / 2 * 2] - (i % 2 ? without[i] : circuit);
        strcpy(table->row[i / 2], form->address[i / 2]);
        strcpy(table->address[i], form->address[i / 2]);
    }
}

/* Sets as rows: of the circuit's table all, and it less each member; of the others some. */
static void add_circuit_tables(Case *c, const Asked *asked, const Circuit *x, const double *metric,
                               const double *kl, Tables *out)
{
    const MiCells *form = &asked->cells;
    const double  *without = metric + 3 + 2 * RANDOM_SETS;
    const char    *name = METRICS[c->question.metric].name, *kind = find_value(asked->text, 0);
    int    n = form->n_rows * form->n_cols, mlps = 0;
    double rows[2][6] = { { c->outcome[0].metric, metric[0], 0, metric[1], 0, metric[2] },
                          { 0, kl[0], 0, kl[1], 0, kl[2] } };
    char   what[100] = "";
    count_members(x, what, sizeof what);
    for (int i = 0; i < x->whole.n; i++) mlps |= half_of(c->study->model, x->whole.at[i].site, 0);
    add_random_sets(metric, kl, rows, out);
    Table *table = titled(add_sets(out, "circuit", name, rows[0], 0, 0, 6 + n), name, "set", "",
                          "%s with %s, the others %s%s", name, what, kind ? kind : "=mean",
                          mlps ? "" : "; MLPs are left alone");
    table->is_signed = has_sign(c->question.metric) && c->question.metric != LOGPROB;
    table->limit = c->question.metric == PROB;
    for (int i = 0; i < n; i++) {
        label(table->row[6 + i], "less %.50s", form->address[i]);
        table->value[6 + i] = without[2 * i];
    }
    table = titled(add_sets(out, "faithfulness", "faithfulness", rows[0], metric[2], 1, 4),
                   "faithfulness", "set", "",
                   "faithfulness: 0 as with all ablated, 1 as the whole model");
    table->is_signed = table->is_share = 1;
    table->whole = rows[0][0] - metric[2];
    titled(add_sets(out, "completeness", "kl", rows[1], 0, 1, 5), "KL, in nats", "set", "",
           "completeness: KL(set || whole) of the complement, in nats; high is good");
    add_members(form, name, metric[0], without, out);
}

/* --circuit: the parts that are said to do something, alone and left out, beside random parts of
 * the same number and kind. Only units of their kinds are ablated. A member keeps its own value at
 * the positions it names, everywhere if it names none: all else of its kind is not in the circuit.
 */
static void read_circuit(Case *c, const Asked *asked, Tables *out)
{
    int      sets = 3 + 2 * RANDOM_SETS, n = sets + 2 * asked->cells.n_rows * asked->cells.n_cols;
    Circuit  x = open_circuit(c, asked);
    MiEdits  edits = { 0 };
    int     *first = lay_out_circuit(c, asked, &x, n, &edits);
    double  *metric = room(c, n, sizeof *metric), *kl = room(c, sets, sizeof *kl);
    Question typed = c->question;
    run_sweep(c, &edits, first, metric, n);
    c->question.metric = KL, c->question.reversed = 1;
    run_sweep(c, &edits, first, kl, sets);
    c->question = typed;
    add_circuit_tables(c, asked, &x, metric, kl, out);
    mi_edits_free(&edits);
    mi_edits_free(&x.whole);
}

static Table *table_named(const Tables *tables, const char *name)
{
    for (int i = 0; i < tables->n; i++)
        if (!strcmp(tables->at[i].name, name)) return &tables->at[i];
    return NULL;
}

/* Random sets have the error of a mean over sets, in the tables that follow them. */
static void finish_circuit(Tables *report)
{
    Table *sets = table_named(report, "random sets");
    double whole = fabs(sets[1].value[0] - sets[1].value[5]);
    for (int i = 1; i < 4; i++) {
        if (sets[i].error) continue;
        sets[i].error = must(malloc(cells_of(&sets[i]) * sizeof(double)));
        for (int k = 0; k < cells_of(&sets[i]); k++) sets[i].error[k] = NAN;
    }
    for (int k = 0; k < 4; k++) {
        double mean = 0, squares = 0, *value = sets->value + k;     /* mean: above the first's */
        for (int s = 0; s < RANDOM_SETS; s++) mean += (value[4 * s] - *value) / RANDOM_SETS;
        for (int s = 0; s < RANDOM_SETS; s++) squares += pow(value[4 * s] - *value - mean, 2);
        double error = sqrt(squares / RANDOM_SETS / (RANDOM_SETS - 1));
        if (k < 2) sets[1].error[2 + 2 * k] = error, sets[2].error[1 + 2 * k] = error / whole;
        else sets[3].error[1 + 2 * (k - 2)] = error;
    }
}

/* ---- Stability ---- */

static double log_choose(int n, int k)
{
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1);
}

/* E |A n B| / |A u B| of two random sets of K of n: i in common, hypergeometric, is i / (2K - i) */
static double jaccard_at_random(int n, int K)
{
    double sum = 0;
    for (int i = max_int(1, 2 * K - n); i <= K; i++)
        sum += i / (2.0 * K - i) *
               exp(log_choose(K, i) + log_choose(n - K, K - i) - log_choose(n, K));
    return sum;
}

enum { RESAMPLES = 100 };

/* The K cells with the largest |mean| over rows: of G groups drawn with replacement, resample
 * number b; after the last, of all. */
static void choose_cells(const Table *change, const Study *study, const int *groups, int G, int b,
                         int K, int *chosen)
{
    int     n = cells_of(change), *times = must(calloc(change->n_prompts + 1, sizeof *times));
    double *sum = must(calloc(n + 1, sizeof *sum));
    float  *size = must(malloc((n + 1) * sizeof *size));
    for (int j = 0; j < G; j++) {
        uint64_t key = mix_bits(study->command->seed) ^ ((uint64_t)b << 32 | (uint32_t)j);
        times[groups[b == RESAMPLES ? j : (int)(mix_bits(key) % G)]]++;
    }
    for (int r = 0, g; r < change->n_prompts; r++)
        for (int i = 0; i < n && (g = study->group[r]) >= 0 && times[g]; i++)
            sum[i] += times[g] * change->all[(size_t)r * n + i];
    for (int i = 0; i < n; i++) size[i] = (float)fabs(sum[i]);
    mi_top(size, n, K, chosen);
    free(times);
    free(sum);
    free(size);
}

/* --stability K: had the prompts been others, would the same K cells be the strongest? Groups of
 * rows are drawn again with replacement, RESAMPLES times; any two of the sets of K compared. */
static void finish_stability(const Study *study, int K, Tables *report)
{
    const double PAIRS = RESAMPLES * (RESAMPLES - 1) / 2;
    const Table change = *table_named(report, "change");
    int    n = cells_of(&change), cells = 0, G = 0;
    int   *groups = must(calloc(study->n_groups + 1, sizeof *groups));
    double jaccard = 0;
    for (int i = 0; i < n; i++) cells += isfinite(change.value[i]);
    for (int g = 0; g < study->n_groups; g++)           /* those with a row that is left */
        for (int r = 0; r < change.n_prompts && (!G || groups[G - 1] != g); r++)
            if (study->group[r] == g) groups[G++] = g;
    if (K >= cells || G < 2)
        check(mi_fail(K >= cells ? "--stability: %d of %d cells are no choice"
                      : "--stability: %d of %d cells cannot be chosen anew from one group of rows",
                      K, cells), FAULT_OF_RUN);
    int  *chosen = must(malloc((K + 1) * sizeof *chosen));          /* at last those of all rows */
    char *is_in = must(calloc((size_t)RESAMPLES * n + 1, 1));       /* [RESAMPLES,n] */
    for (int b = 0; b <= RESAMPLES; b++) {
        choose_cells(&change, study, groups, G, b, K, chosen);
        for (int i = 0; i < K && b < RESAMPLES; i++) is_in[(size_t)b * n + chosen[i]] = 1;
        for (int a = 0, both = 0; a < b && b < RESAMPLES; a++, both = 0) {
            for (int i = 0; i < K; i++) both += is_in[(size_t)a * n + chosen[i]];
            jaccard += both / (2.0 * K - both) / PAIRS;
        }
    }
    Table *table = titled(add_table(report, "stability", BARS, K, 1), "share of resamples", "cell",
                          "", "--stability: the %d strongest cells, and how often they are in %d "
                          "resamples", K, RESAMPLES);
    table->limit = 1;
    table->address = must(calloc(K + 1, sizeof(Label)));
    strcpy(table->col[0], "chosen");
    for (int i = 0; i < K; i++) {
        int  cell = chosen[i], times = 0;
        char place[160];
        place_of(&change, cell, place);
        label_append(table->row[i], sizeof(Label), place, strlen(place));
        strcpy(table->address[i], change.address[cell]);
        for (int b = 0; b < RESAMPLES; b++) times += is_in[(size_t)b * n + cell];
        table->value[i] = times / (double)RESAMPLES;
    }
    table = titled(add_table(report, "jaccard", BARS, 2, 1), "Jaccard index", "", "",
                   "mean pairwise Jaccard index of these sets (the field asks for .8)");
    table->limit = 1;
    strcpy(table->col[0], "jaccard");
    strcpy(table->row[0], "resamples"), strcpy(table->row[1], "random sets");
    table->value[0] = jaccard, table->value[1] = jaccard_at_random(cells, K);
    free(groups);
    free(chosen);
    free(is_in);
}

/* What is said of the means of all rows, when they are known. */
static void finish_tables(const Study *study, Tables *report)
{
    const Asked *stability = find_asked(study->command, "stability");
    if (find_asked(study->command, "circuit")) finish_circuit(report);
    if (stability) finish_stability(study, stability->number, report);
}

/* ---- Attention ---- */

/* Heads, or all heads of a layer's scores or pattern */
static void resolve_attn(Case *c, Asked *asked)
{
    Parser p = parser_of(c, "--attn", asked->text);
    resolve_list(c, &p);
    for (Address *a = p.found; a < p.found + p.n_found; a++) {
        int keys = SITES[a->site].width == MI_KEYS;
        if (!keys && (a->unit != HEAD || a->site != MI_z))
            resolving(c, fail_at(&p, a->text, "expected heads, as in L5H3, or L5H3.scores"));
        if (a->has_key)
            resolving(c, fail_at(&p, a->key_text + 1, "the picture has all keys; leave out the :"));
        if (!keys) a->site = MI_pattern;
        resolving(c, expand(&asked->rows, &p, a, READ_ONLY));
    }
}

/* Whom does each position look at? */
static void read_attn(Case *c, const Asked *asked, Tables *out)
{
    int T = c->prompt.n;
    for (int k = 0; k < asked->rows.n; k++) {
        const MiEdit *head = &asked->rows.at[k];
        const char *site = SITES[head->site].name;
        int    l = head->layer, h = head->head, last = min_int(head->pos_end, T);
        int    n = last - head->pos;
        Label  name;
        label(name, "%s L%dH%d", site, l, h);
        Table *table = titled(add_table(out, name, HEAT, n, T), site, "query", "key",
                              "%s of L%dH%d%s: row = who looks, column = at whom", site, l, h,
                              edited_or_not(c));
        table->is_signed = head->site == MI_scores;
        if (head->site == MI_pattern) table->limit = 1;
        table->address = must(calloc((size_t)n * T + 1, sizeof(Label)));
        position_labels(c, table->col, 0, T);
        position_labels(c, table->row, head->pos, last);
        for (int t = head->pos; t < last; t++) {
            const float *keys = must_run(c, row_at(shown_run(c), c->lane, head, t));
            for (int j = 0; j <= t; j++) {
                int i = (t - head->pos) * T + j;
                table->value[i] = keys[j];
                label(table->address[i], "L%dH%d.%s@%d:%d", l, h, site, t, j);
            }
        }
    }
}

static void resolve_heads(Case *c, Asked *asked)
{
    Parser p = parser_of(c, "--ablate", "heads");
    MiEdit edit;
    int    status = parse_intervention(&p, find_intervention("ablate"), &edit);
    if (p.found) own(c, p.found);
    resolving(c, status);
    edit.order = c->command->n_requests;                /* after all others */
    resolving(c, lay_out_cells(&p, &edit, 0, &asked->cells));
}

/* How much a head matters on that prompt: what its ablation adds to the mean loss of the tokens of
 * the second copy but its first, which nothing foretells. */
static void add_heads_loss(Case *c, const Asked *asked, Tables *out)
{
    Question asked_for = c->question;
    MiEdits  cells = asked->cells.edits;
    int      n_lanes = c->edited ? c->samples : 1;
    double   held = 0;
    Table   *table = titled(add_cells_table(&asked->cells, out, "heads loss", HEAT),
                            "rise of the loss", "layer", "head", "loss: rises by this on the "
                            "second copy, in nats, if the head is ablated (zero)%s",
                            edited_or_not(c));
    table->is_signed = 1;
    c->question.metric = LOSS, c->question.loss_from = c->prompt.n / 2;
    run_sweep(c, &cells, asked->cells.first, table->value, cells_of(table));
    for (int s = 0; s < n_lanes; s++)
        held += mean_loss(c, shown_run(c), c->lane + s, &c->prompt, NULL) / n_lanes;
    for (int i = 0; i < cells_of(table); i++) table->value[i] -= held;
    c->question = asked_for;
}

/* The three heads that look most in each way, and whether they matter: of many that look, few do.
 * The tables from `first` on are those ways, the last is the loss. */
static void add_heads_strongest(Tables *out, int first)
{
    enum { SHOWN = 3 };
    int    top[SHOWN], n_kinds = out->n - 1 - first, row = 0;
    Table *table = titled(add_table(out, "heads strongest", BARS, n_kinds * SHOWN, 2), "", "head",
                          "", "the strongest of each: how much they look, and what the loss rises "
                          "by without them");
    strcpy(table->col[0], "attention"), strcpy(table->col[1], "loss");
    table->is_signed = table->limit = 1;
    for (const Table *looks = &out->at[first]; looks < &out->at[first + n_kinds]; looks++)
        for (int i = 0, n = strongest(looks, 1, SHOWN, top); i < n; i++, row++) {
            label(table->row[row], "%.20s %.30s", looks->name, looks->address[top[i]]);
            table->value[2 * row] = looks->value[top[i]];
            table->value[2 * row + 1] = out->at[first + n_kinds].value[top[i]];
        }
    table->n_rows = row;
}

/* Which heads look where, on the prompt of --heads, n random tokens twice: at what came after this
 * token the first time (induction, A[i, i-n+1]), at the token before (previous, A[i, i-1]), at the
 * same token the first time (duplicate, A[i, i-n]); means over the queries that can. Olsson et al.
 * 2022; the convention is that of the field's notebooks, not of TransformerLens' head_detector. */
static void read_heads(Case *c, const Asked *asked, Tables *out)
{
    int n = c->prompt.n / 2, H = c->study->model->shape.n_head, first = out->n;
    const struct { const char *name, *title; int back; } kinds[] = {
        { "induction", "induction: looks at what followed this token the first time", n - 1 },
        { "previous", "previous token: looks one position back", 1 },
        { "duplicate", "duplicate token: looks at this token's first time", n },
    };
    for (int kind = 0; kind < 3; kind++) {
        int    back = kinds[kind].back;
        Table *table = titled(add_cells_table(&asked->cells, out, kinds[kind].name, HEAT),
                              "attention", "layer", "head", "%s%s", kinds[kind].title,
                              edited_or_not(c));
        table->limit = 1;
        for (int i = 0; i < cells_of(table); i++) {
            double sum = 0;
            for (int t = back; t < 2 * n; t++) {
                const float *keys = mi_head(shown_run(c), c->lane, MI_pattern, i / H, i % H, t);
                if (!keys) running(c, -1);
                sum += keys[t - back];
            }
            table->value[i] = sum / (2 * n - back);
        }
    }
    add_heads_loss(c, asked, out);
    add_heads_strongest(out, first);
}

/* ---- Loss ---- */

static void resolve_loss(Case *c, Asked *asked)
{
    (void)asked;
    if (c->prompt.n < 2) resolving(c, mi_fail("--loss needs a prompt of at least two tokens"));
}

/* How surprising each token is after those before it: -log p, in nats. */
static void read_loss(Case *c, const Asked *asked, Tables *out)
{
    int T = c->prompt.n, n = 1 + (c->edited != NULL);
    (void)asked;
    double *loss = own(c, malloc(2 * T * sizeof *loss));
    Table *means = titled(add_table(out, "mean loss", BARS, n, 1), "loss, in nats", "run", "",
                          "mean loss over the prompt, in nats");
    strcpy(means->col[0], "loss");
    run_labels(c, means->row, n);
    for (int i = 0; i < n; i++) {
        const Outcome *o = &c->outcome[i];
        means->value[i] = mean_loss(c, o->run, o->lane, o->prompt, loss + i * T);
    }
    if (is_study(c) && !c->study->aligned) return;
    Table *table = titled(add_table(out, "loss", BARS, T - 1, n), "loss, in nats", "token", "run",
                          "loss of each token: -log p after the tokens before it, in nats");
    run_labels(c, table->col, n);
    position_labels(c, table->row, 1, T);
    for (int i = 0; i < n * (T - 1); i++) table->value[i] = loss[i % n * T + i / n];
}

/* ---- Saving ---- */

static void resolve_save(Case *c, Asked *asked)
{
    const char *equals = find_value(asked->text, 1);
    Parser      p = parser_of(c, "--save", asked->text);
    int         V = n_vocab(c), T = c->prompt.n;
    if (!equals || !equals[1])
        resolving(c, fail_at(&p, p.end, "expected =FILE.npy"));
    if (equals - asked->text == 6 && !strncmp(asked->text, "logits", 6)) {
        asked->shape = (Array){ .n_dims = 2, .dim = { T, V }, .n = (size_t)T * V };
        return;
    }
    p.end = equals;
    resolve_list(c, &p);
    asked->shape = one_address(c, &p);
    resolving(c, expand(&asked->rows, &p, p.found, READ_ONLY));
}

/* The values of one address, in the order of shape_of(); without one, the logits. Keys after the
 * query do not exist. Over --data the rows lie one after another. */
static void read_save(Case *c, const Asked *asked, Tables *out)
{
    const MiRun *run = shown_run(c);
    Array array = asked->shape;
    float *x = array.values = must(malloc(array.n * sizeof *x));
    if (!asked->rows.n) running(c, mi_logits_all(run, c->lane, 0, c->prompt.n, x));
    for (int i = 0; i < asked->rows.n; i++) {
        const MiEdit *edit = &asked->rows.at[i];
        for (int t = edit->pos; t < min_int(edit->pos_end, c->prompt.n); t++) {
            const float *row = must_run(c, row_at(run, c->lane, edit, t));
            int n = edit->head >= 0 ? c->prompt.n : edit->count, last = edit->head >= 0 ? t : n;
            for (int k = 0; k < n; k++)
                *x++ = k <= last ? row[k] : edit->site == MI_scores ? -INFINITY : 0;
        }
    }
    add_saved(out, find_value(asked->text, 1) + 1, array);
}

#define RESID (MI_KEEP(resid_pre) | MI_KEEP(resid_mid) | MI_KEEP(resid_post))

#define PATH_SITES (RESID | MI_KEEP(z) | MI_KEEP(mlp_out) | MI_KEEP(q) | MI_KEEP(k) | MI_KEEP(v) | \
                    MI_KEEP(ln2))

static const Readout READOUTS[] = {
    { "top", "K", "show the K most likely next tokens (10)", 'k', A_NUMBER, 0, 1000, 0, NULL,
      read_top },
    { "each", NULL, NULL, 0, NOTHING, 0, 0, 0, NULL, read_sweep },
    { "metric", NULL, NULL, 0, NOTHING, 0, 0, 0, NULL, read_metric },
    { "lens", "[each|final]", "the logit lens; final: with the last LayerNorm", 0, A_WORD, 0, 0,
      RESID, NULL, read_lens },
    { "dla", "[layers|tokens|L4N*]", "direct logit attribution: what each part adds to the answer",
      0, ADDRESSES, 0, 0, RESID | MI_KEEP(v) | MI_KEEP(z) | MI_KEEP(attn_out) | MI_KEEP(mlp_out),
      resolve_dla, read_dla },
    { "neurons", "L4N12|L4", "what neurons add to the answer, and what their weights say", 0,
      ADDRESSES, 0, 0, MI_KEEP(mlp_post), resolve_neurons, read_neurons },
    { "weights", "HEADS", "what heads write and look for, from the weights; composition", 0,
      ADDRESSES, 0, 0, MI_KEEP(ln1), resolve_weights, read_weights },
    { "attribute", "SITES|edges", "attribution patching, beside the exact patches", 0, ADDRESSES, 0,
      0, PATH_SITES | MI_KEEP(ln1_scale) | MI_KEEP(scores) | MI_KEEP(pattern) | MI_KEEP(ln2_scale) |
      MI_KEEP(mlp_pre), resolve_attribute, read_attribute },
    { "edges", NULL, "every edge of the graph, patched from the source by itself", 0, NOTHING, 0, 0,
      PATH_SITES, resolve_edges, read_edges },
    { "path", "SENDERS", "path patching: senders from the source, into --into", 0, ADDRESSES, 0, 0,
      PATH_SITES, resolve_path, read_path },
    { "circuit", "SITES|FILE[=KIND]", "these alone, and all but these; others =mean, =source ...",
      0, ADDRESSES, 0, 0, 0, resolve_circuit, read_circuit },
    { "stability", "K", "are the K strongest of --each those of other rows of --data, too?", 0,
      A_NUMBER, 1, 1000, 0, NULL, NULL },
    { "attn", "HEADS", "attention patterns as pictures", 0, ADDRESSES, 0, 0, 0, resolve_attn,
      read_attn },
    { "heads", "[N]", "induction, previous and duplicate heads, on N random tokens, twice", 0,
      A_NUMBER, 2, 100000, MI_KEEP(pattern), resolve_heads, read_heads },
    { "loss", NULL, "how surprising each token of the prompt is", 0, NOTHING, 0, 0, 0, resolve_loss,
      read_loss },
    { "save", "SITES=FILE.npy", "write values; logits=FILE too", 0, ADDRESS_AND_FILE, 0, 0, 0,
      resolve_save, read_save },
};

static const Readout *readout_at(int i)
{
    return i < (int)(sizeof READOUTS / sizeof *READOUTS) ? &READOUTS[i] : NULL;
}

/* ---- Many prompts ---- */

/* A label that differs between rows keeps what they share: "9 ·John" and "9 ·Mary" are 9. */
static void common_label(Label label, const char *other)
{
    size_t n = strcspn(label, " ");
    if (!strcmp(label, other)) return;
    label[n == strcspn(other, " ") && !strncmp(label, other, n) ? n : 0] = 0;
}

/* The arrays of row r of n, behind those of the rows before it. */
static void save_row(const Case *c, Tables *report, Tables *one, int r, int n)
{
    for (int i = 0; i < one->n_saved; i++) {
        Array *ours = &report->saved[i].array, theirs = one->saved[i].array;
        if (r == 0) {
            if (theirs.n_dims == MOST_AXES || theirs.n > (size_t)MOST_NUMBERS / n)
                running(c, mi_fail("--save: %d rows of %zu numbers are too many for one file", n,
                                   theirs.n));
            report->saved[i].path = one->saved[i].path;
            *ours = theirs;
            memmove(ours->dim + 1, ours->dim, theirs.n_dims * sizeof *ours->dim);
            ours->dim[0] = n, ours->n_dims++, ours->n *= n;
            ours->values = must(malloc(ours->n * sizeof *ours->values));
        }
        if (theirs.n_dims + 1 != ours->n_dims ||
            memcmp(theirs.dim, ours->dim + 1, theirs.n_dims * sizeof *theirs.dim))
            running(c, mi_fail("--save: what is saved has another shape than in row 1; rows of one "
                               "length have one, and so has one position, as in L5.resid_pre@-1"));
        memcpy(ours->values + r * theirs.n, theirs.values, theirs.n * sizeof *theirs.values);
    }
}

/* Numbers of row r of n -> those of all rows; the form is the first row's. */
static int add_table_of_row(Table *ours, const Table *theirs, int r, int n)
{
    size_t cells = cells_of(ours);
    if (theirs->n_rows != ours->n_rows || theirs->n_cols != ours->n_cols ||
        strcmp(theirs->name, ours->name))
        return -1;
    if (r == 0) {
        ours->all = must(malloc((n * cells + 1) * sizeof *ours->all));
        ours->wholes = must(malloc((n + 1) * sizeof *ours->wholes));
        ours->n_prompts = n;
    }
    memcpy(ours->all + r * cells, theirs->value, cells * sizeof *ours->all);
    ours->wholes[r] = theirs->whole;
    for (size_t i = 0; i < cells && r; i++) {
        if (ours->token && ours->token[i] != theirs->token[i]) ours->token[i] = -1;
        if (ours->address && strcmp(ours->address[i], theirs->address[i])) *ours->address[i] = 0;
    }
    for (int i = 0; i < ours->n_rows; i++) common_label(ours->row[i], theirs->row[i]);
    for (int i = 0; i < ours->n_cols; i++) common_label(ours->col[i], theirs->col[i]);
    return 0;
}

/* What the readouts said of row r of n -> the report. */
static void add_prompt(const Case *c, Tables *report, Tables *one, int r, int n)
{
    if (is_study(c)) {
        if (r == 0 && one->n_saved) report->saved = must(calloc(one->n_saved, sizeof(Saved)));
        if (r == 0) report->n_saved = one->n_saved;
        save_row(c, report, one, r, n);
    } else {
        report->saved = one->saved, report->n_saved = one->n_saved;
        one->saved = NULL, one->n_saved = 0;
    }
    int same = r == 0 || report->n == one->n;
    if (r == 0) report->at = one->at, report->n = one->n;
    for (int i = 0; i < report->n && same; i++)
        same = add_table_of_row(&report->at[i], &one->at[i], r, n) == 0;
    if (!same)
        running(c, mi_fail("its picture has another shape than row 1's: --attn and --dla=tokens "
                           "need rows of one length, --each positions by name or from the end"));
    if (r == 0) one->at = NULL, one->n = 0;
    free_tables(one);
}

/* A row with a number [n,width] that is not finite leaves every mean: its group becomes -1. NAN in
 * all rows says that there is no such cell. Returns how many rows leave. */
static int drop_rows(const double *number, size_t width, int n, int *group)
{
    char *exists = must(calloc(width + 1, 1));
    int   dropped = 0;
    for (int i = 0; i < n; i++)
        for (size_t c = 0; c < width; c++) exists[c] |= !isnan(number[i * width + c]);
    for (int i = 0; i < n; i++) {
        int finite = 1;
        for (size_t c = 0; c < width; c++) finite &= !exists[c] || isfinite(number[i * width + c]);
        dropped += !finite && group[i] >= 0;
        if (!finite) group[i] = -1;
    }
    free(exists);
    return dropped;
}

static MiEstimate mean_over(const double *v, size_t stride, const int *group, int n)
{
    MiEstimate e;
    check(mi_mean(v, stride, group, n, &e), FAULT_OF_RUN);
    return e;
}

/* Means over the rows, with their standard errors; a share is a ratio of means, and of one prompt
 * too. A row with a number that is not finite leaves them all: *n_dropped, *n_groups. */
static void summarize(Tables *report, int *group, int n, int *n_dropped, int *n_groups)
{
    const double one = 1;
    int several = 0;                    /* of one group nothing is known about others */
    for (int r = 0; r < n; r++) several |= group[r] != group[0];
    *n_dropped = 0, *n_groups = 1;
    for (int i = 0; i < report->n && n > 1; i++)
        *n_dropped += drop_rows(report->at[i].all, cells_of(&report->at[i]), n, group);
    for (int j = 0; j < report->n; j++) {
        Table *t = &report->at[j];
        size_t cells = cells_of(t);
        double whole = 0;
        if (t->n_from) {
            compare(t, report->at + t->from);
            continue;
        }
        for (int r = 0; r < n; r++) whole += group[r] >= 0 ? t->wholes[r] / n : 0;
        if (several) t->error = must(calloc(cells + 1, sizeof *t->error));
        for (size_t i = 0; i < cells; i++) {
            MiEstimate e;
            check(mi_ratio(t->all + i, cells, t->is_share ? t->wholes : &one, t->is_share, group, n,
                           &e), FAULT_OF_RUN);
            if (t->is_share && !(fabs(whole) >= 1e-6)) e.mean = e.error = NAN, t->look = SILENT;
            t->value[i] = e.mean == 0 ? 0 : e.mean;     /* 0, not -0 */
            *n_groups = e.n_groups;
            if (t->error) t->error[i] = e.error, t->critical = e.critical;
        }
    }
}

/* ============================================================================================= */
/* The report                                                                                    */
/* ============================================================================================= */

/* All that is known when the runs are done. */
typedef struct {
    Study  *study;
    Case   *first;                      /* the only prompt, or the first row; without its runs */
    Tables  tables;
    int     from, n;                    /* rows that were run, from 0 */
    int     n_groups, n_dropped;
    char   *text[2];                    /* generated: base, edited */
    size_t  text_size[2];
} Report;

static const Table *find_table(const Report *report, const char *name)
{
    return table_named(&report->tables, name);
}

/* Text on its way to a terminal: characters are put together from tokens that cut them, and what
 * could move the cursor becomes '?', with one_line what ends a line too. On its way to a file it
 * stays as it is. */
typedef struct { FILE *out; int as_is, one_line; char held[8]; int n; } Stream;

static void stream_bytes(Stream *stream, const char *bytes, int n, int end)
{
    if (stream->as_is) {
        fwrite(bytes, 1, n, stream->out);
        return;
    }
    for (int i = 0; i < n || (end && stream->n); ) {
        if (i < n) stream->held[stream->n++] = bytes[i++];
        int     length, lead = (unsigned char)stream->held[0];
        int     want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
        int32_t code = utf8_decode((const uint8_t *)stream->held, stream->n, &length);
        if (code < 0 && stream->n < want && !(end && i == n)) continue;
        int     moves = is_control(code) && (stream->one_line || (code != '\n' && code != '\t'));
        if (moves) fputc('?', stream->out);
        else fwrite(stream->held, 1, length, stream->out);
        stream->n -= length;
        memmove(stream->held, stream->held + length, stream->n);
    }
    fflush(stream->out);
}

static void stream_token(const Case *c, Stream *stream, int token)
{
    int         n;
    char        number[16];
    const char *bytes = mi_token_bytes(c->study->words, token, &n);
    if (n == 0) bytes = number, n = snprintf(number, sizeof number, "<%d>", token);
    stream_bytes(stream, bytes, n, 0);
}

/* A prompt, a long one cut; ▸ follows the position that is read, if it is not the last. */
static void print_prompt(const Case *c, const Screen *screen, const Prompt *prompt)
{
    Stream stream = { .out = screen->out, .one_line = 1 };
    int    n = prompt->n, at = c->question.at, cut = 0;
    for (int t = 0; t < n; t++) {
        int skipped = cut;
        cut = n > 80 && t >= 40 && t < n - 30 && t != at;
        if (cut) continue;
        if (skipped) stream_bytes(&stream, "", 0, 1), fputs(" … ", screen->out);
        stream_token(c, &stream, prompt->tokens[t]);
        if (t == at && t < n - 1) stream_bytes(&stream, "", 0, 1), fputs(" ▸", screen->out);
    }
    stream_bytes(&stream, "", 0, 1);
    fputs(" …", screen->out);
}

static void print_typed(FILE *out, const char *flag, const char *text, const char *quote)
{
    Shown shown;
    fprintf(out, "%s %s%s%s", flag, quote, visible(text, shown), quote);
}

/* The modifiers of an intervention as they were typed, on a line of their own. */
static void print_direction(FILE *out, const char *indent, const Request *request)
{
    const char *words[] = { request->toward, request->away, request->direction, request->align,
                            request->from, request->along };
    static const char *const flags[] = { "--toward", "--away", "--direction", "--align", "--from",
                                         "--along" };
    const char *space = indent;
    for (int i = 0; i < 6; i++) {
        if (!words[i]) continue;
        fputs(space, out);
        print_typed(out, flags[i], words[i], i < 2 ? "\"" : "");
        space = " ";
    }
    if (space != indent) fputc('\n', out);
}

/* A line about something that people might take otherwise. */
__attribute__((format(printf, 2, 3)))
static void print_note(const Screen *screen, const char *format, ...)
{
    va_list args;
    fprintf(screen->out, "  %snote    ", color_of(screen, "dim"));
    va_start(args, format);
    vfprintf(screen->out, format, args);
    va_end(args);
    fprintf(screen->out, "%s\n", color_of(screen, "off"));
}

/* Which of two tokens was taken, with or without a space before it. */
static void note_answer(const Case *c, const Screen *screen, int versus)
{
    const TokenSet *set = versus ? &c->question.versus : &c->question.answer;
    const char     *flag = versus ? "versus" : "answer", *text = versus ? c->input.versus
                                                               : c->input.answer;
    Shown shown;
    if (is_study(c) && c->study->spaced[versus])
        print_note(screen, "the words of the column %s were taken with a space before them", flag);
    const char *flagged = versus ? c->command->versus : c->command->answer;
    if (!set->spaced || !text || (is_study(c) && !flagged)) return;
    visible(text, shown);
    print_note(screen, set->spaced > 0
               ? set->spaced == 2 ? "\"%s\" was taken as \" %s\", as what it is compared with"
               : "\"%s\" was taken as \" %s\": only so is it one token"
               : "\"%s\" is the token without a space; after a word it is \" %s\"", shown, shown);
}

/* Does a later intervention set again all that this one changed? Which, or NULL. */
static const Request *undone_by(const Case *c, int which)
{
    const MiEdits *edits = &c->step[which].edits;
    int            by = -1, last = c->command->generate ? INT_MAX : c->prompt.n;
    for (int j = 0; j < edits->n; j++) {
        const MiEdit *e = &edits->at[j];
        int found = -1;
        for (int i = which + 1; i < c->command->n_requests && found < 0; i++) {
            const MiEdits *later = &c->step[i].edits;
            for (int k = 0; k < later->n; k++) {
                const MiEdit *f = &later->at[k];
                if (i != c->command->swept && f->op == MI_SET && f->site == e->site &&
                    f->layer == e->layer && f->head == e->head && f->pos <= e->pos &&
                    f->first <= e->first && f->first + f->count >= e->first + e->count &&
                    min_int(f->pos_end, last) >= min_int(e->pos_end, last))
                    found = i;
            }
        }
        if (found < 0 || (by >= 0 && by != found)) return NULL;
        by = found;
    }
    return by < 0 ? NULL : &c->command->request[by];
}

/* Do all edits of a step come after the position that is read? Then nothing can be seen of them. */
static int is_too_late(const Case *c, const MiEdits *edits)
{
    int late = edits->n > 0 && c->question.metric != LOSS && !c->command->generate &&
               !find_asked(c->command, "lens") && !find_asked(c->command, "loss");
    for (int i = 0; i < edits->n; i++) late &= edits->at[i].pos > c->question.at;
    return late;
}

/* What =mean is a mean of. */
static void print_mean(FILE *out, const Case *c)
{
    const char *from = c->command->mean_from;
    if (!is_study(c)) fputs("   (posmean: the mean over all positions, later ones too)", out);
    else fprintf(out, "   (mean over the rows%s%s)", from && *from == 's' ? "' sources" : "",
                 c->study->aligned ? ", position by position" : " and their positions");
}

/* What was changed, step by step, with what the reader should know of it. */
static void print_steps(const Report *report, const Screen *screen)
{
    const Case    *c = report->first;
    const Command *command = c->command;
    FILE *out = screen->out;
    for (int i = 0; i < command->n_requests; i++) {
        const Step    *step = &c->step[i];
        const Request *request = &command->request[i];
        const char    *value = find_value(request->argument, 0), *name =
            i == command->swept ? "swept" : command->swept < 0 ? "edited" : "held";
        fprintf(out, "  %s%-6s%s  ", color_of(screen, name), name, color_of(screen, "off"));
        fputs("--", out);
        print_typed(out, request->what->name, request->argument, "");
        if (request->what->value == KIND && value && !strcmp(value, "=mean")) print_mean(out, c);
        if (request->window) fprintf(out, "   (%d layers at a time, around each)", request->window);
        if (request->what->op == MI_ADD && !is_study(c) && i != command->swept)
            fprintf(out, "   (|C v| / |h| = %.3g)", step->strength);
        if (request->what->op == MI_NOISE)
            fprintf(out, "   (deviation %.3g; mean of %d samples, seed %d)", step->strength,
                    c->samples, command->seed);
        if (request->along)
            fprintf(out, "   (the part in %d of %d dimensions)", step->rank, step->edits.at->count);
        fputc('\n', out);
        print_direction(out, "          ", request);
        if (step->labels[1])
            print_note(screen, "the direction is the mean of %d rows with label 1 less that of %d "
                       "with label 0", step->labels[1], step->labels[0]);
        const Request *later = is_study(c) || i == command->swept ? NULL : undone_by(c, i);
        Shown shown;
        if (later)
            print_note(screen, "--%s %s comes after it and sets all of this anew",
                       later->what->name, visible(later->argument, shown));
        if (is_too_late(c, &step->edits))
            print_note(screen, "it comes after position %d, which is read, and changes nothing "
                       "there", c->question.at);
    }
}

/* The circuit, and what is done to all that is not in it. */
static void print_circuit(const Case *c, const Screen *screen)
{
    const Asked *asked = find_asked(c->command, "circuit");
    if (!asked) return;
    fputs("  circuit ", screen->out);
    print_typed(screen->out, "--circuit", asked->text, "");
    if (!find_value(asked->text, 0)) fputs("=mean", screen->out);
    if (is_circuit(c->command, "mean")) print_mean(screen->out, c);
    fputc('\n', screen->out);
    print_note(screen, "random: %d sets of its size and kinds, seed %d; ± is over the sets",
               RANDOM_SETS, c->command->seed);
}

/* Of what the report is: the prompt, or the table; its source; the edits; and notes. */
static void print_heading(const Report *report, const Screen *screen)
{
    const Case  *c = report->first;
    const Study *study = report->study;
    FILE *out = screen->out;
    Shown file;
    if (is_study(c)) {
        int used = report->n - report->n_dropped;
        fprintf(out, "  %s%d prompt%s%s of %s", color_of(screen, "bold"), used,
                used == 1 ? "" : "s", color_of(screen, "off"), visible(study->rows.file, file));
        if (c->command->rows) fprintf(out, " (rows %s of %d)", c->command->rows, study->n_rows);
        if (report->n_groups > 1 && report->n_groups < used)
            fprintf(out, "; standard errors over its %d groups", report->n_groups);
    } else {
        fprintf(out, "  %s", color_of(screen, "bold"));
        print_prompt(c, screen, &c->prompt);
        fputs(color_of(screen, "off"), out);
        if (needs_source(c->command) && c->donor.n && !c->command->trace) {
            fprintf(out, "\n  %ssource%s  ", color_of(screen, "source"), color_of(screen, "off"));
            if (c->donor.tokens == c->prompt.tokens) fputs("the same prompt, unedited", out);
            else print_prompt(c, screen, &c->donor);
        }
    }
    fputc('\n', out);
    print_steps(report, screen);
    print_circuit(c, screen);
    note_answer(c, screen, 0);
    note_answer(c, screen, 1);
    int spaces = is_study(c) ? study->n_spaces : ends_with_space(c);
    if (spaces && !is_study(c))
        print_note(screen, "the prompt ends with a space, which belongs to the next token: leave "
                   "it out");
    else if (spaces)
        print_note(screen, "%d of the prompts end%s with a space, which belongs to the next token",
                   spaces, spaces == 1 ? "s" : "");
    int dropped = 0;
    while (report->n_dropped && study->group[dropped] >= 0) dropped++;
    if (report->n_dropped)
        print_note(screen, "%d of %d rows gave a number that is not finite, the first of them row "
                   "%d; they are in no mean", report->n_dropped, report->n,
                   report->from + dropped + 1);
    if (find_table(report, "attribution") && !find_table(report, "exact"))
        print_note(screen, "there is nothing exact beside the attribution: so many patches take "
                   "long; --exact\n          runs them");
    for (const Outcome *o = c->outcome; o < c->outcome + c->n_outcomes && !is_study(c); o++)
        if (*o->ends) print_note(screen, "%s: %s", o->name, o->ends);
}

/* Is a row of a table told from 0? One prompt has no error, and nothing is known of others. */
static int is_sure(const Table *table, int i)
{
    return isfinite(table->value[i]) &&
           (!table->error || fabs(table->value[i]) > table->critical * table->error[i]);
}

/* What the edit did to a logit difference, in a sentence. */
static void print_verdict(const Report *report, FILE *out)
{
    const Case     *c = report->first;
    const Question *q = &c->question;
    const Table    *metric = find_table(report, "metric"), *top = find_table(report, "top");
    double base = metric->value[0], edited = metric->value[1], lost = 100 * (1 - edited / base);
    Label  label;
    if (q->metric != LOGIT_DIFF || base < 0.05 || !isfinite(edited)) return;
    int best = top && top->n_rows ? top->token[1] : -1;
    if (fabs(edited) < 0.05)
        fprintf(out, "  The edit leaves no preference.\n");
    else if (edited < 0) {
        fprintf(out, "  The edit turns the answer around: %s is now ahead of %s.",
                q->versus.label, q->answer.label);
        if (best >= 0 && !is_in(&q->versus, best))
            fprintf(out, "\n  The likeliest token is %s.",
                    mi_token_label(c->study->words, best, label, sizeof label));
        fputc('\n', out);
    } else if (fabs(lost) < 0.5)
        fprintf(out, "  The edit hardly changes the preference for %s.\n", q->answer.label);
    else
        fprintf(out, "  The edit %s %.0f %% %s the preference for %s.\n", lost > 0 ? "takes away"
                : "adds", fabs(lost), lost > 0 ? "of" : "to", q->answer.label);
}

/* What follows from the metric over many rows, where it is more than its error. */
static void print_findings(const Report *report, FILE *out)
{
    const Table *metric = find_table(report, "metric"), *left = find_table(report, "left");
    if (!left || !left->error || !is_sure(metric, 0) || metric->value[0] < 0) return;
    int change = metric->n_rows - 1;
    if (!is_sure(metric, change))
        fprintf(out, "  What the edit changes cannot be told from 0.\n");
    else if (metric->value[1] < 0 && is_sure(metric, 1))
        fprintf(out, "  With the edit, the mean has the other sign.\n");
    else if (isfinite(left->error[0]))
        fprintf(out, "  With the edit, %.0f ± %.2g %% of base is left.\n", 100 * left->value[0],
                100 * left->error[0]);
}

/* The sentences below the metric. */
static void print_conclusions(const Report *report, FILE *out)
{
    const Case  *c = report->first;
    const Table *restored = find_table(report, "restored");
    long         before = ftell(out);
    if (c->command->swept < 0 && find_table(report, "metric")->n_rows > 1 && c->n_held) {
        if (is_study(c) && report->n > 1) print_findings(report, out);
        else print_verdict(report, out);
    }
    if (restored && isfinite(restored->value[0])) {
        if (ftell(out) > before) fputc('\n', out);
        double share = restored->value[0];
        fprintf(out, "  normalized %.3f", fabs(share) < 0.0005 ? 0 : share);
        if (restored->error && isfinite(restored->error[0]))
            fprintf(out, " ± %.2g", restored->error[0]);
        fprintf(out, ": 0 is as in base, 1 as in the source\n");
    }
    if (ftell(out) > before) fputc('\n', out);
}

/* A share of next to nothing looks like any other: say what 1 stands for. */
static void note_share(const Report *report, const Screen *screen, const Table *change)
{
    const Table *metric = find_table(report, "metric");
    int source = report->first->n_outcomes - 1, held = source - 1;
    if (!change->is_share || strcmp(metric->row[source], "source")) return;
    double a = metric->value[held], b = metric->value[source], largest = 0;
    MiEstimate e = mean_over(change->wholes, 1, report->first->study->group, report->n);
    if (!isfinite(a) || !isfinite(b)) return;
    for (int i = 0; i < cells_of(change); i++)
        if (isfinite(change->value[i])) largest = fmax(largest, fabs(change->value[i]));
    if (fabs(b - a) < 1e-6)
        fprintf(screen->out, "  The source's metric is that of the run it is patched into: nothing "
                "to restore.\n\n");
    else if (fabs(e.mean) <= e.critical * e.error)      /* unknown with one group */
        print_note(screen, "source and %s differ by %.3g ± %.2g, which may be 0: shares of it "
                   "mean little\n", metric->row[held], e.mean, e.error);
    else if (fabs(b - a) < 0.1 * fmax(fabs(a), fabs(b)) || largest > 5)
        print_note(screen, "source and %s differ by only %.3g: 1 stands for little\n",
                   metric->row[held], b - a);
}

static void print_report(const Report *report, const Screen *screen)
{
    const Case    *c = report->first;
    const Command *command = c->command;
    FILE *out = screen->out;
    int   maps = 0;
    if (is_study(c) || !command->generate || command->n_requests) {
        fputc('\n', out);
        print_heading(report, screen);
    }
    fputc('\n', out);
    for (int j = 0; j < report->tables.n; j++) {
        const Table *t = &report->tables.at[j];
        print_table(screen, t);
        maps += t->look == HEAT && t->error != NULL;
        if (!strcmp(t->name, "change") && t->is_share) note_share(report, screen, t);
        if (!strcmp(t->name, "metric") && t->look != SILENT) print_conclusions(report, out);
    }
    if (maps && report->tables.at[0].critical > 0)
        fprintf(out, "  ~ cannot be told from 0: it is within %.3g standard errors (Student's t, "
                "%d groups);\n  about 5 %% of the cells that are 0 pass by chance.\n\n",
                report->tables.at[0].critical, report->n_groups);
    for (int i = 0; i < report->tables.n_saved; i++) {
        const Saved *s = &report->tables.saved[i];
        char  shape[64];
        Shown path;
        fprintf(out, "  wrote %s: float32 (%s), %s\n%s", visible(s->path, path),
                print_shape(shape, sizeof shape, &s->array),
                c->n_held ? "of the edited run" : is_study(c) ? "of the prompts" : "of the prompt",
                i + 1 < report->tables.n_saved ? "" : "\n");
    }
    if (!command->prompt && !command->tokens && !command->data && !command->n_requests &&
        !command->generate && command->n_asked == 1 && !strcmp(command->asked->what->name, "top"))
        fprintf(out, "  Try   ./mi --ablate L5H3               what one head does\n"
                     "        ./mi --lens                      where the answer comes up\n"
                     "        ./mi \"Once upon a time\" -n 40    let it write\n"
                     "        ./mi --help                      all that can be asked\n"
                     "  and walkthrough.md, which starts at the beginning.\n\n");
}

/* ---- What programs read ---- */

/* The last position of the prompt, and the last column or key, that an edit touches. */
static int last_pos(const Case *c, const MiEdit *edit)
{
    return min_int(edit->pos_end, c->prompt.n) - 1;
}

static int last_column(const Case *c, const MiEdit *edit)
{
    int last = edit->first + edit->count - 1;
    return edit->head < 0 ? last : min_int(last, last_pos(c, edit));
}

/* TransformerLens' name of a site with its layer, "" if it has none. */
static const char *tl_name(const MiEdit *edit, Label tl)
{
    const char *pattern = SITES[edit->site].tl_name;
    return label(tl, pattern ? pattern : "", edit->layer);
}

/* Of many prompts those of the first, but without positions, which differ from row to row. */
static void json_edits(FILE *out, const Case *c, int one)
{
    json(out, ",\n 'edits':[");
    for (int i = 0; i < c->n_held; i++) {
        const MiEdit *edit = c->edit[i];
        int  last = last_pos(c, edit);
        Label name;
        json(out, i ? ",\n  {'op':%s,'site':%s" : "\n  {'op':%s,'site':%s",
             c->command->request[edit->order].what->name, site_name(edit->site, edit->layer, name));
        json(out, *tl_name(edit, name) ? ",'tl':%s" : ",'tl':null", name);
        if (edit->head >= 0) json(out, ",'head':%d", edit->head);
        if (edit->head < 0 || one)
            json(out, ",%s:[%d,%d]", edit->head < 0 ? "columns" : "keys", edit->first,
                 last_column(c, edit));
        if (one) json(out, ",'pos':[%d,%d],'hits':%d", edit->pos, last, last - edit->pos + 1);
        json(out, "}");
    }
    json(out, "]");
}

static void json_token_list(FILE *out, const Case *c, const char *name, const int *tokens, int n)
{
    json(out, n ? ",\n  %s:[" : ",\n  %s:null", name);
    for (int i = 0; i < n; i++) {
        if (i) json(out, ",");
        json_token(out, c->study->words, -1, tokens[i]);
    }
    if (n) json(out, "]");
}

static void json_prompt(FILE *out, const Case *c)
{
    const Question *q = &c->question;
    json(out, ",\n 'prompt':{'tokens':[");
    for (int t = 0; t < c->prompt.n; t++) {
        json(out, t ? ",\n   " : "\n   ");
        json_token(out, c->study->words, t, c->prompt.tokens[t]);
    }
    json(out, "]");
    json_token_list(out, c, "answer", q->answer.tokens, q->answer.n);
    json_token_list(out, c, "versus", q->versus.tokens, q->versus.n);
    json(out, ",\n  'at':%d", q->at);
    json_token_list(out, c, "source", c->donor.tokens, c->donor.n);
    json(out, "}");
}

/* One shape for one prompt and for many. */
static void print_json(const Report *report, FILE *out, int argc, char **argv)
{
    const Case    *c = report->first;
    const Study   *study = report->study;
    const MiShape *s = &study->model->shape;
    json(out, "{'version':%s,'argv':[", MI_VERSION);
    for (int i = 0; i < argc; i++) json(out, i ? ",%s" : "%s", argv[i]);
    json(out, "],\n 'model':{'file':%s,'n_layer':%d,'n_head':%d,'d_model':%d,'n_ctx':%d,"
         "'n_vocab':%d},\n 'seed':%d,'samples':%d,'metric':%s", study->model->file, s->n_layer,
         s->n_head, s->d_model, s->n_ctx, s->n_vocab, c->command->seed, c->samples,
         METRICS[c->question.metric].name);
    if (is_study(c)) {
        json(out, ",\n 'data':{'file':%s,'n':%d,'dropped':%d,'groups':%d,'aligned':",
             study->rows.file, report->n - report->n_dropped, report->n_dropped, report->n_groups);
        json(out, study->aligned ? "true}" : "false}");
    } else json_prompt(out, c);
    json_edits(out, c, report->n <= 1);
    json(out, ",\n 'tables':{");
    for (int i = 0; i < report->tables.n; i++) {
        json(out, i ? ",\n %s:" : "\n %s:", report->tables.at[i].name);
        json_table(out, &report->tables.at[i], study->words);
    }
    json(out, "}");
    for (int i = 0; i < 2; i++) {
        if (!report->text[i]) continue;
        json(out, i ? ",%s:" : ",\n 'text':{%s:", i ? "edited" : "base");
        json_bytes(out, report->text[i], report->text_size[i]);
    }
    json(out, report->text[0] ? "}}\n" : "}\n");
}

/* Generated text is a table without numbers: its words stand where tokens do. */
static void print_tsv(const Report *report, FILE *out)
{
    tsv_tables(out, &report->tables, report->study->words, report->study->command->per_prompt,
               report->from + 1);
    for (int i = 0; i < 2; i++) {
        if (!report->text[i]) continue;
        fprintf(out, "text\t\t%s\t\t\t\t", i ? "edited" : "base");
        for (size_t k = 0; k < report->text_size[i]; k++)
            fputc(iscntrl((unsigned char)report->text[i][k]) ? ' ' : report->text[i][k], out);
        fputs("\t\n", out);
    }
}

/* ---- --explain ---- */

/* The tokens, and the edits as they were understood. */
static void read_plan(Case *c, Tables *out)
{
    static const char *const cols[] = { "position", "to", "column", "to", "head" };
    int    T = c->prompt.n;
    Table *tokens = titled(add_table(out, "tokens", BARS, T, 1), "GPT-2 id", "position", "",
                           "tokens and their ids");
    tokens->token = must(malloc(T * sizeof *tokens->token));
    tokens->limit = INFINITY;
    strcpy(tokens->col[0], "id");
    for (int t = 0; t < T; t++) {
        name_position(c, t, 0, tokens->row[t]);
        tokens->token[t] = c->prompt.tokens[t];
        tokens->value[t] = mi_id_of_row(c->study->words, c->prompt.tokens[t]);
    }
    if (!c->n_held) return;
    Table *edits = titled(add_table(out, "edits", BARS, c->n_held, 5), "", "site", "",
                          "edits (columns of scores and pattern are keys)");
    edits->limit = INFINITY;
    edits->address = must(calloc(5 * c->n_held, sizeof(Label)));
    for (int k = 0; k < 5; k++) strcpy(edits->col[k], cols[k]);
    for (int i = 0; i < c->n_held; i++) {
        const MiEdit *edit = c->edit[i];
        const int values[] = { edit->pos, last_pos(c, edit), edit->first, last_column(c, edit),
                               edit->head };
        Label       tl;
        const char *name = site_name(edit->site, edit->layer, edits->row[i]);
        if (*tl_name(edit, tl)) name = tl;
        for (int k = 0; k < 5 - (edit->head < 0); k++) {
            edits->value[i * 5 + k] = values[k];
            label(edits->address[i * 5 + k], "%s", name);
        }
        if (*tl) append(edits->row[i], sizeof(Label), " %s", tl);
    }
}

/* How much of the prompt runs again, and in which cells. */
static void print_cost(const Case *c, FILE *out)
{
    int T = c->prompt.n, t0 = T, half = 2 * c->study->model->shape.n_layer, cells = 0;
    const char *samples = c->samples > 1 ? ", for each sample" : "";
    for (int i = 0; i < c->n_held; i++) {
        t0 = min_int(t0, c->edit[i]->pos);
        half = min_int(half, half_of(c->study->model, c->edit[i]->site, c->edit[i]->layer));
    }
    if (t0 < T)
        fprintf(out, "edited  %d of %d positions are recomputed, from half-layer %d of %d up%s\n",
                T - t0, T, half, 2 * c->study->model->shape.n_layer, samples);
    if (c->command->swept < 0) return;
    const MiEdit *edits = c->step[c->command->swept].edits.at;
    int    end = c->question.metric == LOSS ? T : c->question.at + 1;
    double rows = 0;
    for (; cells < c->cells.n_rows * c->cells.n_cols; cells++) {
        int first = end;
        for (int j = c->cells.first[cells]; j < c->cells.first[cells + 1]; j++)
            first = min_int(first, edits[j].pos);
        rows += end - first;
    }
    fprintf(out, "swept   %d cells recompute %.0f rows%s\n", cells, rows, samples);
}

/* Everything that is known before the first run. */
static void print_plan(const Case *c, const Tables *plan, const Screen *screen)
{
    const MiShape *s = &c->study->model->shape;
    const char *name = c->study->model->file, *slash = strrchr(name, '/');
    Shown file;
    if (slash && !c->command->model) name = slash + 1;
    if (is_study(c))
        fprintf(screen->out, "data    %s: %d rows, of which this is the first\n",
                c->study->rows.file, c->study->n_rows);
    fprintf(screen->out, "model   %s: %d layers, %d heads, d_model %d, context %d, vocabulary %d\n",
            visible(name, file), s->n_layer, s->n_head, s->d_model, s->n_ctx, s->n_vocab);
    for (int i = 0; i < c->command->n_requests; i++) {
        const Request *request = &c->command->request[i];
        print_typed(screen->out, request->flag, request->argument, "");
        fputs(i == c->command->swept ? " --each\n" : "\n", screen->out);
        print_direction(screen->out, "  ", request);
        if (!request->from) continue;
        const MiEdit *from = &c->step[i].from;
        int  at = c->step[i].from_at, many = from->pos_end - from->pos > 1;
        Label site, first = "";
        if (at) label(first, "%d", from->pos);
        fprintf(screen->out, "  takes %s of the source at %s%s\n",
                site_name(from->site, from->layer, site), first, !many ? ""
                : at ? " and the next, row by row" : "the same position");
    }
    print_cost(c, screen->out);
    fputc('\n', screen->out);
    for (int i = 0; i < plan->n; i++) print_table(screen, &plan->at[i]);
}

/* ============================================================================================= */
/* main                                                                                          */
/* ============================================================================================= */

/* ---- Generating ---- */

typedef struct { double p; int token; } Choice;

static int by_probability(const void *a, const void *b)
{
    const Choice *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->token - y->token;
}

/* logits [V] -> the next token: the likeliest, or drawn after logits / temp from the likeliest, as
 * few as have mass top_p. u in [0, their mass) is number `step` of a seed's draws, so that runs can
 * be compared; it falls on the first, likeliest first, at which the sum of the p exceeds it. */
static int sample(const Command *c, const float *logits, Choice *choices, int V, int step)
{
    int    best = 0, n = 0;
    double temp = c->temp >= 0 ? c->temp : c->top_p >= 0 ? 1 : 0, total = 0, mass = 0;
    mi_top(logits, V, 1, &best);
    if (temp == 0) return best;
    for (int i = 0; i < V; i++) {
        choices[i] = (Choice){ exp((logits[i] - logits[best]) / temp), i };
        total += choices[i].p;
    }
    qsort(choices, V, sizeof *choices, by_probability);
    double limit = (c->top_p >= 0 ? c->top_p : 1) * total;
    while (n < V && (n == 0 || mass < limit)) mass += choices[n++].p;
    double u = (mix_bits(mix_bits(c->seed) ^ step) >> 11) / 9007199254740992.0 * mass;
    for (int i = 0; i < n; i++)
        if ((u -= choices[i].p) < 0) return choices[i].token;
    return choices[n - 1].token;
}

/* Nothing is drawn from numbers that are none. */
static void check_logits(const Case *c, const MiRun *run, int step)
{
    char where[96];
    for (int i = 0; i < n_vocab(c); i++)
        if (!isfinite(c->logits[i])) {
            where_numbers_end(run, 0, where, sizeof where);
            running(c, mi_fail("token %d after the prompt cannot be chosen: %s", step + 1,
                               *where ? where : "its logits are not numbers"));
        }
}

/* Continue the prompt; the text goes to the stream as it is made. */
static void generate(Case *c, int edited, Stream *stream)
{
    const Command *command = c->command;
    const MiTokenizer *words = c->study->words;
    int       V = n_vocab(c), next = 0;
    MiEdits   edits = { .at = c->held, .n = edited ? c->n_held : 0 };
    MiOptions options = { .keep = MI_KEEP_CACHE, .threads = command->threads,
                          .capacity = c->prompt.n + command->generate };
    Choice   *choices = must(malloc(V * sizeof *choices));
    MiRun    *run = must_run(c, mi_run(c->study->model, c->prompt.tokens, c->prompt.n, &edits,
                                       &options));
    for (int i = 0; i < command->generate; i++) {
        if (i > 0) running(c, mi_append(run, &next, 1));
        running(c, mi_logits(run, 0, run->n_rows - 1, c->logits));
        check_logits(c, run, i);
        next = sample(command, c->logits, choices, V, i);
        int ended = mi_has_text(words) && mi_id_of_row(words, next) == END_OF_TEXT;
        if (!ended || !stream->as_is) stream_token(c, stream, next);
        if (ended) break;
    }
    mi_free(run);
    free(choices);
}

/* Both texts, with and without the edits, for JSON and TSV. */
static void generate_texts(Report *report)
{
    for (int i = 0; i < (report->first->n_held ? 2 : 1); i++) {
        Stream stream = { .as_is = 1 };
        stream.out = must(open_memstream(&report->text[i], &report->text_size[i]));
        generate(report->first, i, &stream);
        must_close(stream.out, &report->text[i]);
    }
}

/* Generated text streams to the terminal, one run after the other. */
static void stream_texts(const Report *report, const Screen *screen)
{
    Case *c = report->first;
    for (int i = 0; i < (c->n_held ? 2 : 1); i++) {
        const char *name = i ? "edited" : "base";
        printf("  %s%s%s%s", color_of(screen, name), c->n_held ? name : "",
               color_of(screen, "off"), c->n_held ? "\n  " : "");
        Stream stream = { .out = stdout };
        for (int t = 0; t < c->prompt.n; t++) stream_token(c, &stream, c->prompt.tokens[t]);
        stream_bytes(&stream, "", 0, 1);
        printf("%s", color_of(screen, name));
        generate(c, i, &stream);
        stream_bytes(&stream, "", 0, 1);
        printf("%s\n\n", color_of(screen, "off"));
    }
}

/* ---- Many prompts ---- */

/* Add one prompt's activations to the sums of =mean. Where prompts differ in length, positions are
 * not told apart. */
static void add_to_means(Study *study, Case *c)
{
    const Command *command = study->command;
    int from_source = command->mean_from && !strcmp(command->mean_from, "source");
    const Prompt *prompt = from_source ? &c->donor : &c->prompt;
    uint64_t keep = MI_KEEP_CACHE;
    if (!c->n_averaged) return;
    for (int i = 0; i < c->n_averaged; i++) keep |= site_of(c->averaged[i], FROM_MEAN);
    if (!study->sum) {
        study->n_sums = c->n_averaged;
        study->sum = must(calloc(c->n_averaged, sizeof *study->sum));
        study->count = must(calloc(c->n_averaged, sizeof *study->count));
    }
    if (c->n_averaged != study->n_sums)
        resolving(c, mi_fail("its cells are not those of row 1: =mean over rows of different "
                             "length needs positions by name or from the end"));
    if (!prompt->n) resolving(c, mi_fail("--mean-from source needs a column source"));
    if (study->aligned && prompt->n != study->longest)
        resolving(c, mi_fail("--mean-from source: the source has %d tokens, all prompts %d: there "
                             "is no mean position by position", prompt->n, study->longest));
    MiRun *run = run_prompt(c, prompt, keep);
    for (int i = 0; i < c->n_averaged; i++) {
        const MiEdit *edit = c->averaged[i];
        if (!study->sum[i])
            study->sum[i] = must(calloc((size_t)study->longest * edit->count, sizeof(double)));
        for (int t = 0; t < prompt->n; t++) {
            const float *row = touched_row(c, run, edit, t);
            double *sum = study->sum[i] + (study->aligned ? (size_t)t * edit->count : 0);
            for (int k = 0; k < edit->count; k++) sum[k] += row[k];
        }
        study->count[i] += study->aligned ? 1 : prompt->n;
    }
    mi_free(run);
}

/* "3-17", or "3": rows of the table, counted from 1 -> from 0, the end not included. */
static void read_row_range(const Study *study, Report *report)
{
    const char *text = study->command->rows;
    char       *end;
    report->n = study->n_rows;
    if (!text) return;
    long first = strtol(text, &end, 10), last = first;
    int  ok = isdigit((unsigned char)*text);
    if (ok && *end == '-') ok = isdigit((unsigned char)end[1]), last = strtol(end + 1, &end, 10);
    if (!ok || *end || first < 1 || last < first || last > study->n_rows)
        check(mi_fail("--rows: \"%.100s\" is not a row, or rows A-B, of 1 to %d", text,
                      study->n_rows), FAULT_OF_USER);
    report->from = (int)first - 1, report->n = (int)(last - first + 1);
}

/* Look at all rows before the first is run: is each in order, how long are they, and what are the
 * means? */
static void survey(Study *study)
{
    const Command *command = study->command;
    const MiTable *rows = &study->rows;
    if (column_of(rows, "prompt") < 0 && column_of(rows, "tokens") < 0)
        check(mi_fail("%s: expected a column named prompt, or tokens", rows->file), FAULT_OF_RUN);
    if (!command->answer && column_of(rows, "answer") < 0 && !command->metric &&
        !command->n_requests && !command->n_asked)
        check(mi_fail("%s has no column answer, and --answer is not given: nothing to measure",
                      rows->file), FAULT_OF_RUN);
    study->spaced[0] = !command->answer && takes_space(study, "answer");
    study->spaced[1] = !command->versus && takes_space(study, "versus");
    study->aligned = 1;
    int means = 0;
    for (int r = 0; r < study->n_rows; r++) {
        Case *c = open_case(study, r);
        if (r > 0 && c->prompt.n != study->longest) study->aligned = 0;
        study->longest = max_int(study->longest, c->prompt.n);
        study->n_spaces += ends_with_space(c);
        means |= c->n_averaged;
        close_case(c);
    }
    for (int r = 0; r < study->n_rows && means; r++) {
        Case *c = open_case(study, r);
        add_to_means(study, c);
        close_case(c);
    }
    /* One cycle through all rows (Sattolo's shuffle): nobody is its own partner. */
    study->partner = must(malloc((study->n_rows + 1) * sizeof *study->partner));
    for (int r = 0; r < study->n_rows; r++) study->partner[r] = r;
    for (int i = study->n_rows - 1; i > 0; i--) {
        int j = (int)(mix_bits(mix_bits(command->seed) ^ i) % i), swap = study->partner[i];
        study->partner[i] = study->partner[j];
        study->partner[j] = swap;
    }
}

/* The groups of the rows that are run: the column `group`, or each row its own. */
static void number_rows(Study *study, int from, int n)
{
    const char **name = must(calloc(n + 1, sizeof *name));
    for (int r = 0; r < n && study->rows.n_rows; r++)
        name[r] = mi_cell(&study->rows, from + r, "group");
    study->group = must(mi_groups(name, n, &study->n_groups));
    study->n_run = n;
    free(name);
}

/* Two outputs of one name would be one file. */
static void check_outputs(const Command *c)
{
    const char *path[64];
    int         n = 0;
    if (c->svg) path[n++] = c->svg;
    for (int i = 0; i < c->n_asked; i++) {
        const Asked *a = &c->asked[i];
        if (a->what->takes != ADDRESS_AND_FILE || n == 64) continue;
        const char *equals = find_value(a->text, 1);
        path[n++] = equals ? equals + 1 : "";
    }
    for (int i = 0; i < n; i++) {
        struct stat ours, theirs;
        check_writable(path[i]);
        for (int j = 0; j < i; j++)
            if (!strcmp(path[i], path[j]) ||
                (stat(path[i], &ours) == 0 && stat(path[j], &theirs) == 0 &&
                 S_ISREG(ours.st_mode) && ours.st_dev == theirs.st_dev &&
                 ours.st_ino == theirs.st_ino))
                check(mi_fail("--save: two outputs would be written to %s", path[i]),
                      FAULT_OF_USER);
    }
}

/* All rows, as many at a time as fill a fork: their edited runs are its lanes. */
static void run_study(Study *study, Report *report)
{
    enum { MOST = 64 };
    Case *cases[MOST];
    int   n;
    read_row_range(study, report);
    number_rows(study, report->from, report->n);
    int from = report->from, to = from + report->n;
    for (int r = from; r < to; r += n) {
        int filled = 0;
        for (n = 0; n < MOST && r + n < to && filled < SWEEP_ROWS; n++) {
            cases[n] = open_case(study, r + n);
            filled += cases[n]->prompt.n * cases[n]->samples;
        }
        if (r == from) check_outputs(study->command);   /* before any work */
        run_cases(cases, n);
        for (int i = 0; i < n; i++) {
            Case  *c = cases[i];
            Tables one = { 0 };
            for (const Asked *a = c->asked; a < c->asked + c->n_asked; a++)
                if (a->what->read) a->what->read(c, a, &one);
            add_prompt(c, &report->tables, &one, r + i - from, report->n);
        }
        for (int i = n - 1; i >= 0; i--) {
            free_runs(cases[i]);
            if (r + i == from) report->first = cases[i];
            else close_case(cases[i]);
        }
        if (isatty(2) && report->n > 20)
            fprintf(stderr, "\r  row %d of %d%s", r + n - from, report->n,
                    r + n < to ? "" : "\r\033[K");
    }
    summarize(&report->tables, study->group, report->n, &report->n_dropped, &report->n_groups);
    finish_tables(study, &report->tables);
    for (int i = 0; i < report->tables.n && !study->rows.n_rows; i++)
        report->tables.at[i].n_prompts = 0;
}

/* ---- The end ---- */

/* The folder of the program, ending in '/', or "". */
static void program_folder(const char *argv0, char *folder, size_t size)
{
    char *path = realpath("/proc/self/exe", NULL);
    if (!path && strchr(argv0, '/')) path = realpath(argv0, NULL);
    const char *list = path ? NULL : getenv("PATH");
    while (list && *list && !path) {
        char   candidate[4096];
        size_t n = strcspn(list, ":");
        snprintf(candidate, sizeof candidate, "%.*s/%s", (int)n, list, argv0);
        if (access(candidate, X_OK) == 0) path = realpath(candidate, NULL);
        list += n + (list[n] == ':');
    }
    char *slash = path ? strrchr(path, '/') : NULL;
    snprintf(folder, size, "%.*s", slash ? (int)(slash + 1 - path) : 0, path ? path : "");
    free(path);
}

static void open_model(Study *study, const char *argv0)
{
    const Command *command = study->command;
    char        folder[4096], model[4200], tokenizer[4200];
    const char *chosen = command->model ? command->model : getenv("MI_MODEL");
    program_folder(argv0, folder, sizeof folder);
    snprintf(model, sizeof model, "%stiny.safetensors", folder);
    snprintf(tokenizer, sizeof tokenizer, "%stokenizer.bin", folder);
    study->model = mi_open_with(chosen && *chosen ? chosen : model,
                                &(MiOpen){ .n_head = command->n_head });
    if (!study->model) leave(FAULT_OF_RUN);
    study->words = mi_tokenizer_open(command->tokenizer ? command->tokenizer : tokenizer,
                                     study->model);
    if (!study->words) leave(FAULT_OF_RUN);
}

static int window_columns(void)
{
    struct winsize window;
    if (isatty(1) && ioctl(1, TIOCGWINSZ, &window) == 0 && window.ws_col >= 40)
        return window.ws_col;
    return 80;
}

/* --svg: the pictures, and below them the prompt and the edits as the screen shows them. */
static void write_svg(const Report *report, const char *path)
{
    char  *caption = NULL, *picture = NULL;
    size_t caption_size, size;
    Screen screen = { must(open_memstream(&caption, &caption_size)), 0, 0, report->study->words };
    print_heading(report, &screen);
    must_close(screen.out, &caption);
    FILE *out = must(open_memstream(&picture, &size));
    print_svg(out, report->study->command->title, caption, &report->tables, report->study->words);
    must_close(out, &picture);
    write_whole(path, picture, size);
    free(caption);
    free(picture);
}

/* What could not be written, to a full disk for example, is a failure too. */
static void flush_output(void)
{
    if (fflush(stdout) || ferror(stdout))
        check(mi_fail("cannot write: %s", strerror(errno)), FAULT_OF_RUN);
}

/* Everything is computed before anything is printed: a failure leaves nothing half-written. Only
 * generated text comes while it is made. */
static void print_all(Report *report, int argc, char **argv)
{
    const Command *c = report->study->command;
    char  *text = NULL;
    size_t size = 0;
    Screen screen = { must(open_memstream(&text, &size)), color_depth(c->color), window_columns(),
                      report->study->words };
    int    texts = c->generate && !c->explain;
    if (texts && (c->json || c->tsv)) generate_texts(report);
    if (c->json) print_json(report, screen.out, argc, argv);
    else if (c->tsv) print_tsv(report, screen.out);
    else if (c->explain) print_plan(report->first, &report->tables, &screen);
    else print_report(report, &screen);
    must_close(screen.out, &text);
    if (c->svg && !c->explain) write_svg(report, c->svg);
    for (int i = 0; i < report->tables.n_saved; i++)
        write_npy(report->tables.saved[i].path, &report->tables.saved[i].array);
    fwrite(text, 1, size, stdout);
    free(text);
    screen.out = stdout;
    if (texts && !c->json && !c->tsv) stream_texts(report, &screen);
    flush_output();
}

static void run_command(const Command *command, int argc, char **argv)
{
    Study  study = { .command = command, .aligned = 1, .n_rows = 1, .files.read = read_all };
    Report report = { .study = &study };
    if (command->data) {
        study.rows = read_table(command->data);
        study.n_rows = study.rows.n_rows;
    }
    open_model(&study, argv[0]);
    if (command->explain) {
        report.first = open_case(&study, 0);
        read_plan(report.first, &report.tables);
    } else {
        if (command->data) survey(&study);
        run_study(&study, &report);
    }
    print_all(&report, argc, argv);
    free_tables(&report.tables);
    close_case(report.first);
    for (int i = 0; i < 2; i++) free(report.text[i]);
    for (int i = 0; i < study.n_sums; i++) free(study.sum[i]);
    free(study.sum);
    free(study.count);
    for (int i = 0; i < study.n_contrasts; i++) free(study.contrast[i].v);
    free(study.contrast);
    free(study.partner);
    free(study.group);
    mi_table_free(&study.rows);
    free_files(&study.files);
    mi_tokenizer_close(study.words);
    mi_close(study.model);
}

/* Threads of OpenMP spin while they wait for each other, for milliseconds. Where other programs
 * want the cores too, the one that is waited for cannot run meanwhile, and seconds become minutes.
 * The GNU library reads how long to spin before main() begins: so begin again. */
static void spin_less(char **argv)
{
#if defined(_OPENMP) && defined(__linux__) && !defined(__clang__)
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    if (getenv("LD_PRELOAD")) return;                   /* valgrind, say: it would lose us */
    if (setenv("GOMP_SPINCOUNT", "1000", 1) == 0) execv("/proc/self/exe", argv);
#endif
    (void)argv;
}

/* The weights are read where they lie in the file. */
static void file_is_gone(int number)
{
    static const char why[] = "mi: a file became shorter while it was read\n";
    (void)number;
    if (write(2, why, sizeof why - 1) >= 0) remove_unfinished();
    _exit(FAULT_OF_RUN);
}

int main(int argc, char **argv)
{
    Command command;
    signal(SIGBUS, file_is_gone);
    signal(SIGXFSZ, SIG_IGN);                           /* writing fails instead, and says so */
    spin_less(argv);
    check(parse_command(&command, argc, argv), FAULT_OF_USER);
    if (command.help) print_help(stdout);
    else if (command.version) printf("mi %s\n", MI_VERSION);
    else if (command.sites) print_sites(stdout);
    else run_command(&command, argc, argv);
    flush_output();
    free(command.traced);
    free(command.request);
    free(command.asked);
    return 0;
}
#endif
