/* mi.c - mechanistic interpretability of GPT-2 in one file.
 *
 *     cc -O3 -march=native mi.c -lm -o mi && ./mi --ablate L5H3
 *
 * mi runs a GPT-2, shows every number on the way, and lets you change any of them. The idea:
 *
 *   A forward pass is a list of named arrays ("sites"). Each stays where it was computed:
 *   reading is free.
 *   Writing is a row in one table: an edit says where and what. After each site the forward pass
 *   calls hook(), and knows nothing else about interpretability.
 *   An edit can only touch its light cone: the layers from it up, the positions from it on. A fork
 *   recomputes that cone and borrows the rest from its trunk. A fork has many lanes: many
 *   experiments that go through each matrix product together.
 *   Every number is summed in one fixed order, whatever the batch, the threads or the place of
 *   restart. So experiments are compared with ==.
 *
 * One block, with the names of its sites (l = layer; TransformerLens uses the same names):
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
 *
 * Letters:  L layers  H heads  D d_model  d = D/H  F = 4D  V vocabulary  T positions
 *           l layer   h head   t position (query)  j key   r row of a run
 *
 * In reading order: tools, tables, the kernels to read, runs and forks, edits, THE FORWARD PASS,
 * reading, the kernels to run, the model on disk, tokens, addresses, printing, the command line.
 */
#define _DEFAULT_SOURCE
#include "mi.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
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

/* Append text to a message. It may come from anywhere: control characters and broken UTF-8, which
 * could move a terminal's cursor, become '?'. */
static void append_visible(char *out, size_t size, const char *text, size_t n)
{
    size_t used = strlen(out);
    for (size_t i = 0; i < n && used + 8 < size;) {
        int length;
        int32_t code = utf8_decode((const uint8_t *)text + i, n - i, &length);
        if (code < 32 || (code >= 127 && code < 160)) out[used++] = '?';
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

/* Make room for one more element. Doubling keeps n appends at O(n); NULL when memory is out. */
static void *grow(void *array, int n, size_t element)
{
    if (n & (n - 1)) return array;                      /* full only when n is a power of two */
    void *bigger = realloc(array, (n ? 2 * (size_t)n : 1) * element);
    if (!bigger) mi_fail("out of memory");
    return bigger;
}

/* A weight as it lies in the mapped file. The published GPT-2 has its tensors at odd addresses;
 * this type tells the compiler so, and reading stays defined and fast. */
typedef float weight __attribute__((aligned(1), may_alias));

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
 * y = x W + b. W_QKV is W_Q, W_K, W_V side by side, each with its H heads side by side. */
typedef struct {
    const weight *ln1_gamma, *ln1_beta;                 /* [D] */
    const weight *W_QKV, *b_QKV;                        /* [D,3D] [3D] */
    const weight *W_O, *b_O;                            /* [D,D] [D] */
    const weight *ln2_gamma, *ln2_beta;                 /* [D] */
    const weight *W_in, *b_in;                          /* [D,F] [F] */
    const weight *W_out, *b_out;                        /* [F,D] [D] */
} Block;

struct MiModel {
    MiShape       shape;
    const weight *wte, *wpe;                            /* [V,D] [n_ctx,D] */
    Block        *block;                                /* [L] */
    const weight *ln_f_gamma, *ln_f_beta;               /* [D] */
    const weight *W_U;                                  /* [V,D]: wte, or the file's own */
    int          *vocab_ids;                            /* [V] GPT-2 ids of the rows, or NULL */
    char         *file;                                 /* its name, for messages */
    void         *map;                                  /* the mapped file */
    size_t        map_size;
    float       **converted;                            /* tensors that were not F32 */
    int           n_converted;
};

MiShape mi_shape(const MiModel *model)
{
    return model->shape;
}

static int n_layers_of(const MiModel *model, MiSite site)
{
    return SITES[site].place == MI_BLOCK ? model->shape.n_layer : 1;
}

/* The half-layer that computes a site: 2l attention, 2l+1 MLP, 2L the final LayerNorm. */
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
/* These say what is computed, in which order. The fast ones further down give the same bits:    */
/* tests compare them with memcmp.                                                               */
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

/* The tree that ends every sum along a row: lane i takes lane i+8, then i+4, i+2, i+1. */
static float sum_lanes(const float lane[16])
{
    float s[16];
    memcpy(s, lane, sizeof s);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

/* sum(x)    x [n] -> scalar. Element i goes to lane i mod 16, so a vector of any width up to 16
 * adds the same numbers in the same order; a row is padded with zeros to a multiple of 16. */
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

/* logits = x W_U^T    x [rows,D], W_U [V,D] -> logits [rows,V]: how much the residual stream looks
 * like each token's row. */
static void naive_unembed(float *logits, const float *x, int rows, const weight *W_U, int V, int D,
                          int threads)
{
    (void)threads;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < V; i++)
            logits[(size_t)r * V + i] = naive_dot(x + (size_t)r * D, W_U + (size_t)i * D, D);
}

/* e^x = 2^k e^r with k = round(x / ln 2), |r| <= ln(2)/2, and a polynomial for e^r. Ours, because
 * the C library's differs between machines and between scalar and vector code. */
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

/* pattern_j = e^(s_j - max) / sum    s [n] -> s [n], in place. The largest score is subtracted so
 * that nothing overflows. Without any key left (all -infinity) the head looks at nothing: 0. */
static void naive_softmax(float *s, int n)
{
    float max = -INFINITY;
    for (int j = 0; j < n; j++)
        if (s[j] > max) max = s[j];
    for (int j = 0; j < n; j++)
        s[j] = max == -INFINITY ? 0 : naive_exp(s[j] - max);
    float total = naive_sum(s, n);
    for (int j = 0; j < n; j++)
        if (max != -INFINITY) s[j] /= total;
}

/* GELU(x) = x / (1 + e^(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3)    x [n] -> y [n]
 * The tanh form of GPT-2, written with e^x: x/2 (1 + tanh u) is the same number. */
static void naive_gelu(float *y, const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        float cube = x[i] * x[i] * x[i];
        float u = 0.7978845608f * (x[i] + 0.044715f * cube);
        y[i] = x[i] / (1 + naive_exp(-2 * u));
    }
}

/* The keys or values that a row can see. Key j is below[j] of the trunk for j < t0, then own[j -
 * t0], and the last one (the row that is read) may lie apart. Rows are `stride` floats long. */
typedef struct {
    const float *below, *own, *last;
    int          t0, n, stride;
} Keys;

static inline const float *key_at(const Keys *keys, int j, int column)
{
    const float *key = j < keys->t0 ? keys->below + (size_t)j * keys->stride
                     : j + 1 < keys->n ? keys->own + (size_t)(j - keys->t0) * keys->stride
                     : keys->last;
    return key + column;
}

/* scores_j = q.k_j / sqrt(d)    q [rows,d], keys [n,d] -> s [rows,n], its rows `stride` apart
 * The rows are neighbours in a prompt, so each sees one key more than the row before: n + r. */
static void naive_scores(float *s, size_t stride, const float *q, int rows, const Keys *keys,
                         int column, int n, int d)
{
    float scale = 1 / sqrtf((float)d);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n + r; j++)
            s[r * stride + j] = naive_dot(q + (size_t)r * keys->stride, key_at(keys, j, column), d)
                                * scale;
}

/* z = sum_j pattern_j v_j    pattern [rows,n], values [n,d] -> z [rows,d]; row r sees n + r keys.
 * In key order; a weight of zero is not skipped, or it would hide an infinite value. */
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

typedef struct {
    float (*sum)(const float *, int);
    float (*dot)(const float *, const weight *, int);
    float (*squares)(const float *, float, int);
    void  (*linear)(float *, const float *, int, int, int, const weight *, size_t, const weight *,
                    int);
    void  (*unembed)(float *, const float *, int, const weight *, int, int, int);
    void  (*softmax)(float *, int);
    void  (*gelu)(float *, const float *, int);
    void  (*scores)(float *, size_t, const float *, int, const Keys *, int, int, int);
    void  (*mix)(float *, const float *, size_t, int, const Keys *, int, int, int);
} Kernels;

static const Kernels naive_kernels = {
    naive_sum, naive_dot, naive_squares, naive_linear, naive_unembed, naive_softmax, naive_gelu,
    naive_scores, naive_mix,
};
static const Kernels fast_kernels;

/* ============================================================================================= */
/* A run, its lanes and its forks                                                                */
/* ============================================================================================= */

/* One experiment of a run. A trunk is a run with one lane that owns all rows (trunk NULL, t0 0). A
 * lane of a fork owns positions t0..n_pos-1; rows below t0, and layers below the fork's first
 * half-layer, are its trunk's. Position t0 + i lies in row first_row + i, but the last one in
 * last_row: when it alone is read, the last rows of all lanes lie side by side. */
typedef struct {
    const MiRun   *trunk;
    int            t0, n_pos;
    int            first_row, last_row;
    const MiEdit **edits;                               /* in the order in which they apply */
    int            n_edits;
} Lane;

typedef struct { void *at; size_t size; } Memory;

struct MiRun {
    const MiModel *model;
    const Kernels *kernel;
    int            threads;
    int            half;                                /* the first half-layer that it computes */
    int            first_read;                          /* rows before it are not read at the end */
    int            n_rows, capacity;
    Lane          *lanes;
    int            n_lanes;
    int           *row_lane, *row_pos, *row_token;      /* [capacity] */
    int            key_stride;                          /* keys in a row of scores, padded to 16 */
    uint64_t       keep;
    float         *buffer[MI_N_SITES];                  /* [layers kept][capacity][width] */
    size_t         layer_stride[MI_N_SITES];            /* 0: one buffer, the current layer's */
    Memory         memory;                              /* where all buffers lie */
    int            shared;                              /* resid_post is the next resid_pre */
    unsigned char *edited;                              /* [site][layer]: does any lane edit it? */
    const MiEdit **edit_table;                          /* the lanes' edits, one after another */
};

/* Where a row of a site lies in this run. */
static inline float *at(const MiRun *run, MiSite site, int layer, int row)
{
    size_t width = (size_t)width_of(run->model, site, run->key_stride);
    return run->buffer[site] + layer * run->layer_stride[site] + row * width;
}

/* The finished value of a site for one of our rows: ours, or below our first half-layer the
 * trunk's. With it the forward pass needs to know nothing about forks. */
static inline const float *finished(const MiRun *run, MiSite site, int layer, int row)
{
    if (half_of(run->model, site, layer) >= run->half) return at(run, site, layer, row);
    return at(run->lanes[run->row_lane[row]].trunk, site, layer, run->row_pos[row]);
}

static inline int row_of(const Lane *lane, int pos)
{
    return pos + 1 == lane->n_pos ? lane->last_row : lane->first_row + pos - lane->t0;
}

/* The keys (site k) or values (site v) that the rows of a lane look at. */
static Keys keys_of(const MiRun *run, MiSite site, int layer, const Lane *lane)
{
    Keys keys = { .t0 = lane->t0, .n = lane->n_pos, .stride = run->model->shape.d_model };
    keys.own = at(run, site, layer, lane->first_row);
    keys.last = at(run, site, layer, lane->last_row);
    keys.below = lane->trunk ? at(lane->trunk, site, layer, 0) : keys.own;
    return keys;
}

/* Below so many multiply-adds in one product, waking other threads costs more than it saves. */
#define MIN_WORK 500000

static int kept(const MiRun *run, MiSite site)
{
    return SITES[site].place != MI_BLOCK || (run->keep >> site & 1);
}

/* ============================================================================================= */
/* Edits: the one place where activations are changed                                            */
/* ============================================================================================= */

/* A standard normal number that depends on its address alone, not on how many were drawn before:
 * so a cone that starts late sees the noise that the whole pass saw. Counter in, bits out
 * (splitmix64's mixer), then Box and Muller's sqrt(-2 ln u) cos(2 pi v). */
static uint64_t mix_bits(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static float normal_at(const MiEdit *edit, int pos, int element)
{
    uint64_t key = mix_bits(mix_bits(mix_bits(edit->seed) ^ edit->sample) ^
                            ((uint64_t)edit->site << 32 | (uint32_t)edit->layer));
    uint64_t bits = mix_bits(key ^ ((uint64_t)pos << 32 | (uint32_t)element));
    double u = ((bits >> 32) + 1) / 4294967296.0, v = (uint32_t)bits / 4294967296.0;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* x [n] <- edited x. v: the edit's value for this row; `first`: the column of x[0].
 * Zeroing assigns: 0 times infinity would not be 0. */
static void apply_edit(const MiRun *run, const MiEdit *edit, float *x, const float *v, int n,
                       int pos)
{
    float amount = edit->amount;
    switch (edit->op) {
    case MI_SET:
        for (int i = 0; i < n; i++) x[i] = v ? v[i] : amount;
        break;
    case MI_MIX:
        for (int i = 0; i < n; i++) x[i] += amount * (v[i] - x[i]);
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
    }
}

/* One edit on one row. Of a row of scores or pattern, only keys up to the query exist. */
static void edit_row(const MiRun *run, const MiEdit *edit, int layer, int row)
{
    int    pos = run->row_pos[row];
    int    n = edit->count;
    float *x = at(run, edit->site, layer, row) + edit->first;
    if (SITES[edit->site].width == MI_KEYS) {
        x += (size_t)edit->head * run->key_stride;
        n = min_int(n, pos + 1 - edit->first);
    }
    const float *v = edit->value ? edit->value + (pos - edit->pos) * edit->value_stride : NULL;
    apply_edit(run, edit, x, v, n, pos);
}

/* Called after each site, when its rows are complete and before anyone reads them: apply every
 * lane's edits of that site to the rows from <= r < to. */
static void hook(const MiRun *run, MiSite site, int layer, int from, int to)
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

/* ============================================================================================= */
/* The forward pass                                                                              */
/*                                                                                               */
/* Rows from <= r < to of a run, half-layer by half-layer. Every function computes one site (or  */
/* the two of a LayerNorm) and calls hook() on it; what it reads is finished.                     */
/* ============================================================================================= */

enum { GROUP = 4 };     /* rows whose attention one thread computes together */

/* embed = wte[token], pos_embed = wpe[position]    -> [rows,D] each */
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

/* y = a + b    rows of finished sites a, b [rows,D] -> site y [rows,D]: the residual stream only
 * ever changes by addition. b = NONE copies. */
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
        else if (out != xa) memcpy(out, xa, D * sizeof *out);   /* (or they share a buffer) */
    }
    hook(run, y, layer, from, to);
}

/* sigma = sqrt(variance(x) + epsilon);  y = (x - mean) / sigma * gamma + beta
 * x [rows,D] -> site scale [rows,1], site y [rows,D]. Sigma is a site of its own: freezing it makes
 * LayerNorm linear. */
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
        *at(run, scale, layer, r) = sqrtf(kernel->squares(in, mean, D) / D + 1e-5f);
    }
    hook(run, scale, layer, from, to);
    #pragma omp parallel for num_threads(run->threads) if (to - from > 16)
    for (int r = from; r < to; r++) {
        const float *in = finished(run, x, x_layer, r);
        float *out = at(run, y, layer, r);
        float mean = kernel->sum(in, D) / D, sigma = *at(run, scale, layer, r);
        for (int i = 0; i < D; i++) out[i] = (in[i] - mean) / sigma * gamma[i] + beta[i];
    }
    hook(run, y, layer, from, to);
}

/* y = x W + b    site x [rows,in] -> site y [rows,out] */
static void linear(MiRun *run, MiSite x, MiSite y, int layer, const weight *W, int stride,
                   const weight *b, int from, int to)
{
    int in = width_of(run->model, x, 0), out = width_of(run->model, y, 0);
    run->kernel->linear(at(run, y, layer, from), at(run, x, layer, from), to - from, in, out,
                        W, stride, b, run->threads);
    hook(run, y, layer, from, to);
}

/* How many of the rows from `row` up to `last` belong to the same lane. */
static int neighbours(const MiRun *run, int row, int last)
{
    int n = 1;
    while (row + n < last && run->row_lane[row + n] == run->row_lane[row]) n++;
    return n;
}

/* scores[h,j] = q_h . k_h,j / sqrt(d) for keys j <= t    q [rows,H,d] -> [rows,H,keys]
 * Whom does each position look at? Head by head, so that the head's keys stay in the cache. The
 * rest of the last 16 keys is -infinity, so that softmax can run over whole vectors. */
static void attention_scores(MiRun *run, int l, int from, int to)
{
    int    H = run->model->shape.n_head, d = run->model->shape.d_head;
    int    groups = (to - from + GROUP - 1) / GROUP;
    size_t stride = (size_t)H * run->key_stride;
    #pragma omp parallel for schedule(dynamic, 4) num_threads(run->threads) if (groups > 1)
    for (int i = 0; i < groups * H; i++) {
        int h = i / groups, row = from + i % groups * GROUP, last = min_int(row + GROUP, to);
        for (int n_rows; row < last; row += n_rows) {
            Keys   keys = keys_of(run, MI_k, l, &run->lanes[run->row_lane[row]]);
            float *s = at(run, MI_scores, l, row) + (size_t)h * run->key_stride;
            int    n = run->row_pos[row] + 1;
            n_rows = neighbours(run, row, last);
            run->kernel->scores(s, stride, at(run, MI_q, l, row) + h * d, n_rows, &keys, h * d, n,
                                d);
            for (int r = 0; r < n_rows; r++)
                for (int j = n + r; j < round_up(n + r, 16); j++) s[r * stride + j] = -INFINITY;
        }
    }
    hook(run, MI_scores, l, from, to);
}

/* pattern = softmax(scores)    [rows,H,keys] -> [rows,H,keys] */
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

/* z[h] = sum_j pattern[h,j] v_h,j    [rows,H,keys], v [keys,H,d] -> [rows,H,d]
 * What each head carries from where it looks. */
static void attention_z(MiRun *run, int l, int from, int to)
{
    int    H = run->model->shape.n_head, d = run->model->shape.d_head;
    int    groups = (to - from + GROUP - 1) / GROUP;
    size_t stride = (size_t)H * run->key_stride;
    #pragma omp parallel for schedule(dynamic, 4) num_threads(run->threads) if (groups > 1)
    for (int i = 0; i < groups * H; i++) {
        int h = i / groups, row = from + i % groups * GROUP, last = min_int(row + GROUP, to);
        for (int n_rows; row < last; row += n_rows) {
            Keys values = keys_of(run, MI_v, l, &run->lanes[run->row_lane[row]]);
            n_rows = neighbours(run, row, last);
            run->kernel->mix(at(run, MI_z, l, row) + h * d,
                             at(run, MI_pattern, l, row) + (size_t)h * run->key_stride, stride,
                             n_rows, &values, h * d, run->row_pos[row] + 1, d);
        }
    }
    hook(run, MI_z, l, from, to);
}

/* In the last layer, rows that nobody reads are needed only for their keys and values. */
static int first_needed(const MiRun *run, int l, int from)
{
    return l + 1 == run->model->shape.n_layer ? max_int(from, run->first_read) : from;
}

/* Half-layer 2l: move information between positions. */
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
    linear(run, MI_ln1, MI_k, l, w->W_QKV + D, 3 * D, w->b_QKV + D, from, to);
    linear(run, MI_ln1, MI_v, l, w->W_QKV + 2 * D, 3 * D, w->b_QKV + 2 * D, from, to);
    from = first_needed(run, l, from);
    linear(run, MI_ln1, MI_q, l, w->W_QKV, 3 * D, w->b_QKV, from, to);
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

/* Half-layer 2l+1: think about each position by itself. */
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

/* tokens [rows] -> every site of every layer from the run's first half-layer up. For a trunk that
 * is the whole model; for a fork, its cones. */
int mi_forward(MiRun *run, int from, int to)
{
    const MiModel *model = run->model;
    if (from < 0 || from > to || to > run->n_rows)
        return mi_fail("this run has no rows %d to %d", from, to - 1);
    int threads = run->threads, D = model->shape.d_model;
    if ((double)(to - from) * D * D < MIN_WORK) run->threads = 1;
    for (int half = run->half; half < 2 * model->shape.n_layer; half++)
        half & 1 ? mlp(run, half / 2, from, to) : attention(run, half / 2, from, to);
    layernorm(run, MI_resid_post, MI_ln_f_scale, MI_ln_f, 0, model->ln_f_gamma, model->ln_f_beta,
              max_int(from, run->first_read), to);
    run->threads = threads;
    return 0;
}

/* ============================================================================================= */
/* Reading                                                                                       */
/* ============================================================================================= */

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

/* Which run holds a site of a lane at a position, and in which row. NULL: nobody kept it. */
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

/* logits = ln_f W_U^T    -> [V] at one position: only what is asked for is computed */
int mi_logits(const MiRun *run, int lane, int pos, float *logits)
{
    const MiModel *model = run->model;
    const float *x = mi_site(run, lane, MI_ln_f, 0, pos);
    if (!x) return -1;
    int V = model->shape.n_vocab, D = model->shape.d_model;
    run->kernel->unembed(logits, x, 1, model->W_U, V, D,
                         (double)V * D < MIN_WORK ? 1 : run->threads);
    return 0;
}

int mi_logits_of(const MiRun *run, int lane, int pos, const int *tokens, int n, float *logits)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model;
    const float *x = mi_site(run, lane, MI_ln_f, 0, pos);
    if (!x || check_tokens(model, tokens, n) < 0) return -1;
    for (int i = 0; i < n; i++)
        logits[i] = run->kernel->dot(x, model->W_U + (size_t)tokens[i] * D, D);
    return 0;
}

/* logits of the logit lens: W_U LN_f(x) of any site of width D    -> [V] at one position
 * LayerNorm's mean and sigma are those of x, or with `final` those of the end of the same run, so
 * that the contributions of the layers between add up. */
int mi_lens(const MiRun *run, int lane, MiSite site, int layer, int pos, int final, float *logits)
{
    const MiModel *model = run->model;
    const Kernels *kernel = run->kernel;
    int D = model->shape.d_model;
    if (SITES[site].width != MI_D_MODEL) return mi_fail("%s has no lens", SITES[site].name);
    const float *x = mi_site(run, lane, site, layer, pos);
    const float *end = mi_site(run, lane, MI_resid_post, model->shape.n_layer - 1, pos);
    const float *scale = mi_site(run, lane, MI_ln_f_scale, 0, pos);
    float       *out = malloc(D * sizeof *out);
    if (!x || !end || !scale || !out) return free(out), out ? -1 : mi_fail("out of memory");
    float mean = kernel->sum(final ? end : x, D) / D;
    float sigma = final ? *scale : sqrtf(kernel->squares(x, mean, D) / D + 1e-5f);
    for (int i = 0; i < D; i++)
        out[i] = (x[i] - mean) / sigma * model->ln_f_gamma[i] + model->ln_f_beta[i];
    kernel->unembed(logits, out, 1, model->W_U, model->shape.n_vocab, D, run->threads);
    free(out);
    return 0;
}

/* The k highest of n, best first; equal ones in order of their index. Returns how many (<= n). */
int mi_top(const float *logits, int n, int k, int *top)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        int place = found;
        while (place > 0 && logits[i] > logits[top[place - 1]]) place--;
        if (place == k) continue;
        found = min_int(found + 1, k);
        memmove(top + place + 1, top + place, (found - place - 1) * sizeof *top);
        top[place] = i;
    }
    return found;
}

/* log sum_i e^logit_i: what is subtracted from a logit to get a log probability. */
double mi_log_sum_exp(const float *logits, int n)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        if (logits[i] > max) max = logits[i];
    if (!isfinite(max)) return max;
    for (int i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum);
}

/* The kernels use all cores unless told otherwise. */
static int default_threads(int wanted)
{
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_max_threads();
#else
    return wanted > 0 ? 1 : 1;
#endif
}

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

/* What trunks keep whatever is asked: a fork may start at any layer and reads these. */
#define ALWAYS_KEPT (MI_KEEP(k) | MI_KEEP(v) | MI_KEEP(resid_pre) | MI_KEEP(attn_out) | \
                     MI_KEEP(resid_post))

/* Floats that a site takes in a run: one row after another, layer after layer if it is kept. The
 * shared residual stream has one layer more than resid_pre, its end. */
static size_t site_floats(const MiModel *model, MiSite site, int rows, int key_stride, int is_kept,
                          int shared)
{
    size_t layer = (size_t)width_of(model, site, key_stride) * rows;
    int    layers = is_kept ? n_layers_of(model, site) : 1;
    if (shared && site == MI_resid_pre) layers += is_kept;
    if (shared && site == MI_resid_post) layers = 0;
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

/* Lay out all buffers in one block of memory. The end of a layer is the start of the next: unless
 * an edit of resid_pre makes them differ, both names stand for one buffer. */
static int allocate_sites(MiRun *run, Memory *spare)
{
    const MiModel *model = run->model;
    size_t total = 0, offset[MI_N_SITES];
    run->shared = kept(run, MI_resid_pre) == kept(run, MI_resid_post);
    for (int l = 0; l < model->shape.n_layer; l++)
        if (run->edited[MI_resid_pre * model->shape.n_layer + l]) run->shared = 0;
    for (int site = 0; site < MI_N_SITES; site++) {
        int is_kept = kept(run, site);
        if (is_kept && SITES[site].place == MI_BLOCK)
            run->layer_stride[site] =
                (size_t)width_of(model, site, run->key_stride) * run->capacity;
        offset[site] = total;
        total += site_floats(model, site, run->capacity, run->key_stride, is_kept, run->shared);
    }
    if (run->shared)
        offset[MI_resid_post] = offset[MI_resid_pre] + run->layer_stride[MI_resid_pre];
    if (take_memory(run, total * sizeof(float), spare) < 0) return -1;
    for (int site = 0; site < MI_N_SITES; site++)
        run->buffer[site] = (float *)run->memory.at + offset[site];
    return 0;
}

/* An empty run, which has no edits and no buffers yet. keys: the longest row of scores. */
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
    if (edit->first < 0 || edit->count < 1 || edit->count > width - edit->first)
        return mi_fail("%s has no columns %d to %d", info->name, edit->first,
                       edit->first + edit->count - 1);
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
    run->threads = default_threads(options->threads);
    run->kernel = options->naive ? &naive_kernels : &fast_kernels;
    if (lane_edits(run, &run->lanes[0], run->edit_table, edits ? edits->at : NULL, n_edits) < 0 ||
        allocate_sites(run, NULL) < 0 || mi_append(run, tokens, n) < 0) {
        mi_free(run);
        return NULL;
    }
    return run;
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
    return mi_forward(run, from, from + n);
}

/* The positions of a lane: nothing that comes after the one that is read can change it. */
static int positions_of(const MiLane *lane)
{
    return lane->read > 0 ? lane->read : lane->trunk->n_rows;
}

/* The cone of a lane's own edits: its first half-layer and its first row. */
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

/* Check the lanes of a fork and find where it begins: *half, and each lane's t0 into t0[]. */
static int plan_fork(const MiLane *lanes, int n_lanes, int *half, int *t0)
{
    if (n_lanes < 1) return mi_fail("a fork needs at least one lane");
    const MiModel *model = lanes[0].trunk->model;
    int lowest = 2 * model->shape.n_layer;
    for (int i = 0; i < n_lanes; i++) {
        const MiLane *lane = &lanes[i];
        int edit_half, edit_t0;
        if (lane->trunk->model != model) return mi_fail("lanes of a fork share one model");
        if (lane->trunk->lanes[0].trunk) return mi_fail("a fork cannot be a trunk");
        if (ALWAYS_KEPT & ~lane->trunk->keep)
            return mi_fail("a run with MI_KEEP_CACHE cannot be a trunk");
        if (lane->read < 0 || lane->read > lane->trunk->n_rows || !lane->read != !lanes[0].read)
            return mi_fail("lane %d: either all lanes are read at one of their positions, or none",
                           i);
        if (cone(model, lane, &edit_half, &edit_t0) < 0) return -1;
        if (lane->t0 >= positions_of(lane))
            return mi_fail("lane %d starts at position %d: its last one is %d", i, lane->t0,
                           positions_of(lane) - 1);
        if (lane->n_edits && (lane->t0 > edit_t0 || *half > edit_half))
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

/* Give the lanes of a fork their rows. Where only one position of each lane is read, these rows
 * come last, side by side, so that the last layer can do without the others. */
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

/* A fork, in the memory of another one that is gone (or NULL). */
static MiRun *fork_in(const MiLane *lanes, int n_lanes, int half, uint64_t keep, Memory *spare)
{
    int *t0 = malloc(max_int(n_lanes, 1) * sizeof *t0);
    if (!t0) return mi_fail("out of memory"), NULL;
    if (plan_fork(lanes, n_lanes, &half, t0) < 0) return free(t0), NULL;

    int rows = 0, keys = 0, n_edits = 0;
    for (int i = 0; i < n_lanes; i++) {
        rows += positions_of(&lanes[i]) - t0[i];
        keys = max_int(keys, positions_of(&lanes[i]));
        n_edits += lanes[i].trunk->lanes[0].n_edits + lanes[i].n_edits;
    }
    const MiRun *first = lanes[0].trunk;
    MiRun *fork = new_run(first->model, n_lanes, rows, keys, keep ? keep : MI_KEEP_ALL, n_edits);
    if (!fork) return free(t0), NULL;
    fork->threads = first->threads;
    fork->kernel = first->kernel;
    fork->half = half;
    lay_out_rows(fork, lanes, t0);
    free(t0);
    const MiEdit **table = fork->edit_table;
    for (int i = 0; i < n_lanes; i++)
        table += lane_edits(fork, &fork->lanes[i], table, lanes[i].edits, lanes[i].n_edits);
    if (allocate_sites(fork, spare) == 0 && mi_forward(fork, 0, fork->n_rows) == 0) return fork;
    mi_free(fork);
    return NULL;
}

MiRun *mi_fork(const MiLane *lanes, int n_lanes, int half, uint64_t keep)
{
    return fork_in(lanes, n_lanes, half, keep, NULL);
}

/* ============================================================================================= */
/* Sweeps: one experiment per cell                                                               */
/* ============================================================================================= */

/* Would a cell write what its trunk has there anyway? Then its run is its trunk's, bit for bit, and
 * nothing needs to be computed: so prefixes that source and prompt share cost nothing. Only if no
 * held edit comes after at the same place, which would have changed what the trunk shows. */
static int changes_nothing(const MiRun *trunk, const MiEdit *edits, int n, int n_pos)
{
    const Lane *held = &trunk->lanes[0];
    for (int i = 0; i < n; i++) {
        const MiEdit *edit = &edits[i];
        int last = min_int(edit->pos_end, n_pos), keys = SITES[edit->site].width == MI_KEYS;
        if (edit->pos >= last) continue;
        if ((edit->op != MI_SET && edit->op != MI_MIX) || !kept(trunk, edit->site)) return 0;
        for (int j = 0; j < held->n_edits; j++)
            if (held->edits[j]->site == edit->site && held->edits[j]->layer == edit->layer)
                return 0;
        for (int t = edit->pos; t < last; t++) {
            const float *x = at(trunk, edit->site, edit->layer, t) + edit->first;
            const float *v = NULL;
            if (edit->value) v = edit->value + (t - edit->pos) * edit->value_stride;
            int count = keys ? min_int(edit->count, t + 1 - edit->first) : edit->count;
            if (keys) x += (size_t)edit->head * trunk->key_stride;
            for (int c = 0; c < count; c++)
                if (memcmp(&x[c], v ? &v[c] : &edit->amount, sizeof *x)) return 0;
        }
    }
    return 1;
}

enum { SWEEP_ROWS = 512 };                              /* of one fork of a sweep */

typedef struct { int cell, half, rows; } Job;           /* a cell that has to be computed */

static int by_half(const void *a, const void *b)
{
    const Job *x = a, *y = b;
    return x->half != y->half ? x->half - y->half : x->cell - y->cell;
}

/* The cells of a sweep in the order of their cones, without those that change nothing. */
static int plan_sweep(const MiSweep *sweep, Job *jobs)
{
    int n = 0;
    for (int cell = 0; cell < sweep->n_cells; cell++) {
        int     first = sweep->first[cell], t0, half;
        MiLane  lane = { sweep->trunk, sweep->edits + first, sweep->first[cell + 1] - first, -1,
                         sweep->read };
        int     n_pos = positions_of(&lane), touched = 0;
        for (int i = 0; i < lane.n_edits; i++) touched |= lane.edits[i].pos < n_pos;
        if (!touched || changes_nothing(sweep->trunk, lane.edits, lane.n_edits, n_pos)) continue;
        if (cone(sweep->trunk->model, &lane, &half, &t0) < 0) return -1;
        jobs[n++] = (Job){ cell, half, n_pos - t0 };
    }
    qsort(jobs, n, sizeof *jobs, by_half);
    return n;
}

/* Run every cell as a lane, a few hundred rows to a fork, and measure each: values [n_cells].
 * The rows of a fork go through each matrix product together; weights are read once for all. */
int mi_sweep(const MiSweep *sweep, double *values)
{
    Job    *jobs = malloc(max_int(sweep->n_cells, 1) * sizeof *jobs);
    MiLane *lanes = malloc(SWEEP_ROWS * sizeof *lanes);
    Memory  spare = {0};
    int     n = jobs && lanes ? plan_sweep(sweep, jobs) : mi_fail("out of memory");
    int     status = n < 0 ? -1 : 0;
    double  unchanged = status == 0 ? sweep->metric(sweep->context, sweep->trunk, 0) : 0;
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
                                         sweep->first[job->cell + 1] - first, -1, sweep->read };
        }
        MiRun *fork = fork_in(lanes, n_lanes, -1, MI_KEEP_NONE, &spare);
        if (!fork) status = -1;
        for (int i = 0; i < n_lanes && fork; i++)
            values[jobs[done + i].cell] = sweep->metric(sweep->context, fork, i);
        release(&spare);                                /* it was too small, if it is still there */
        if (fork) spare = fork->memory, fork->memory = (Memory){0};
        mi_free(fork);
        done += n_lanes;
        if (sweep->progress) sweep->progress(sweep->context, done, n);
    }
    release(&spare);
    free(jobs);
    free(lanes);
    return status;
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

/* Start to read a line of memory into the second-level cache. Any address will do. */
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
        for (int c = 0; c < C && ahead; c++) fetch(b[c] + i + ahead);
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
            for (int i = 0; i < PAIR; i += LINE) fetch(W + (4 * TOGETHER + k) * stride + c + i);
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
        float *to = pack + c / PANEL * panel + c % PANEL;
        for (int k = 0; k < n && pack; k++)
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

/* Whole panels of columns, as many as a block is wide, or as the sums of few rows allow. */
static void panels(float *y, const float *x, int rows, int in, int out, const weight *W,
                   size_t stride, const weight *b, int columns)
{
    float  sum[SUMS + MOST * 2 * LINE], pack[DEPTH * WIDTH] __attribute__((aligned(64)));
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

/* Threads share out the columns, never the sum over inputs. Of many rows only so many at a time
 * that they stay in the cache with a block of W. */
static void fast_linear(float *y, const float *x, int rows, int in, int out,
                        const weight *W, size_t stride, const weight *b, int threads)
{
    enum { ROWS = 256 };
    int share = round_up((out + threads - 1) / threads, max_int(PANEL, LINE));
    for (int n; rows > 0; rows -= n, y += (size_t)n * out, x += (size_t)n * in) {
        n = rows / ((rows + ROWS - 1) / ROWS);
        int width = n > MOST ? WIDTH : SUMS / n / PANEL * PANEL;
        #pragma omp parallel for schedule(static) num_threads(threads)
        for (int t = 0; t < threads; t++)
            for (int c = t * share, end = min_int(out, c + share), columns; c < end; c += columns) {
                columns = min_int(width, end - c);
                if (columns >= PANEL) columns -= columns % PANEL;
                (columns < PANEL ? edge : panels)(y + c, x, n, in, out, W + c, stride, b + c,
                                                  columns);
            }
    }
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
            dots(out, x + (size_t)r * D, D, b + c, 4, D, 0);
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
 * tile: TILE_ROWS tokens W_U [TILE_ROWS,D], turned rows x [16,D/16,PANEL] -> sum [TILE_ROWS,PANEL] */
static void sum_tree(float *sum, const weight *W_U, const float *x, int D, int lane, int half)
{
    float other[TILE_ROWS * PANEL];
    if (half == 8) {
        const float *a = x + (size_t)lane * (D / 16) * PANEL, *b = a + (size_t)D / 2 * PANEL;
        tile(sum, PANEL, W_U + lane, D, 16, a, D / 16, 1, NULL, 0);
        tile(sum, PANEL, W_U + lane + 8, D, 16, b, D / 16, 1, sum, PANEL);
        return;
    }
    sum_tree(sum, W_U, x, D, lane, 2 * half);
    sum_tree(other, W_U, x, D, lane + half, 2 * half);
    for (int i = 0; i < TILE_ROWS * PANEL; i += VEC) store(sum + i, load(sum + i) + load(other + i));
}

/* Logits of turned rows for TILE_ROWS tokens, whose part of W_U stays in the cache. */
static void unembed_turned(float *logits, const float *turned, int rows, const weight *W_U, int V,
                           int D)
{
    float sum[TILE_ROWS * PANEL];
    for (int first = 0; first < rows; first += PANEL, turned += (size_t)D * PANEL) {
        sum_tree(sum, W_U, turned, D, 0, 1);
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
        float *turned = many ? malloc((size_t)round_up(many, PANEL) * D * sizeof *turned) : NULL;
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
    if (max == -INFINITY) {
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
    vec   scale = all(1 / sqrtf((float)d));
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

/* ============================================================================================= */
/* The model on disk                                                                             */
/*                                                                                               */
/* A .safetensors file: 8 bytes (little-endian) with the length of a JSON header, the header,     */
/* then the data. The file may come from anyone: nothing in it is believed before it is checked.  */
/* ============================================================================================= */

/* What is left of a JSON text, which ends with NUL. Strings are decoded where they stand. */
typedef struct { char *at, *end; } Json;

static int json_fail(const char *what)
{
    return mi_fail("not a safetensors file: %s", what);
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
    *(*out)++ = (char)(tail ? (0xF00 >> tail & 0xFF) | c >> 6 * tail : c);
    while (tail--)                                      /* 0 takes two bytes: it ends no string */
        *(*out)++ = (char)(0x80 | (c >> 6 * tail & 0x3F));
    return 0;
}

/* "..." -> its text, ended by NUL, which is never longer than its JSON; NULL if malformed. */
static const char *json_string(Json *json)
{
    static const char names[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    if (!json_take(json, '"')) return json_fail("expected a string in the header"), NULL;
    char *start = json->at, *out = start;
    while (*json->at != '"') {
        if (json->at == json->end) return json_fail("unterminated string in the header"), NULL;
        if ((unsigned char)*json->at < 0x20)
            return json_fail("control character in a string of the header"), NULL;
        if (*json->at != '\\') {
            *out++ = *json->at++;
            continue;
        }
        const char *known = *++json->at ? strchr(names, *json->at) : NULL;
        if (known) *out++ = meaning[known - names], json->at++;
        else if (json_unicode(json, &out) < 0)
            return json_fail("malformed escape in a string of the header"), NULL;
    }
    json->at++;
    *out = 0;
    return start;
}

/* A non-negative integer: all that offsets and shapes may be. */
static int json_integer(Json *json, int64_t *value)
{
    if (!isdigit((unsigned char)json_peek(json)))
        return json_fail("expected a non-negative integer in the header");
    if (*json->at == '0' && isdigit((unsigned char)json->at[1]))
        return json_fail("a number of the header starts with 0");
    errno = 0;
    *value = strtoll(json->at, &json->at, 10);
    if (errno) return json_fail("an integer of the header is too large");
    if (json->at < json->end && strchr(".eE", *json->at))
        return json_fail("expected a whole number in the header");
    return 0;
}

/* [1, 2, 3] -> list; returns how many, or -1. */
static int json_integers(Json *json, int64_t *list, int most)
{
    int n = 0;
    if (!json_take(json, '[')) return json_fail("expected a list in the header");
    if (json_take(json, ']')) return 0;
    do {
        if (n == most) return json_fail("a list of the header is too long");
        if (json_integer(json, &list[n++]) < 0) return -1;
    } while (json_take(json, ','));
    return json_take(json, ']') ? n : json_fail("malformed list in the header");
}

/* Pass over any value: what is nested deeper than `depth` is refused. */
static int json_skip(Json *json, int depth)
{
    char c = json_peek(json), *start = json->at;
    if (c == '"') return json_string(json) ? 0 : -1;
    if (c == '{' || c == '[') {
        if (depth == 0) return json_fail("the header is nested too deeply");
        char close = c == '{' ? '}' : ']';
        json->at++;
        if (json_take(json, close)) return 0;
        do {
            if (c == '{' && (!json_string(json) || !json_take(json, ':')))
                return json_fail("malformed object in the header");
            if (json_skip(json, depth - 1) < 0) return -1;
        } while (json_take(json, ','));
        return json_take(json, close) ? 0 : json_fail("malformed value in the header");
    }
    while (isalnum((unsigned char)*json->at) || (*json->at && strchr("+-.", *json->at))) json->at++;
    return json->at > start ? 0 : json_fail("malformed value in the header");
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
    const char *n_head;                                 /* of __metadata__, or NULL */
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
    if (!json_take(json, '{')) return json_fail("expected a tensor in the header");
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        int field = 0;
        while (field < 3 && strcmp(key, fields[field])) field++;
        if (!json_take(json, ':') || (field < 3 && seen >> field & 1))
            return json_fail("malformed tensor in the header");
        seen |= 1 << field;
        if (field == 0 && !(tensor->dtype = json_string(json))) return -1;
        if (field == 1 && (n = tensor->n_dims = json_integers(json, tensor->shape, MOST_DIMS)) < 0)
            return -1;
        if (field == 2 && (n = json_integers(json, tensor->range, 2)) != 2)
            return n < 0 ? -1 : json_fail("data_offsets are not two numbers");
        if (field == 3 && json_skip(json, 4) < 0) return -1;
    } while (json_take(json, ','));
    if (!json_take(json, '}') || (seen & 7) != 7)
        return json_fail("a tensor needs dtype, shape and data_offsets");
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

/* {"n_head":"4", ...}: strings by name */
static int read_metadata(Json *json, Header *header)
{
    if (header->has_metadata++) return json_fail("__metadata__ appears twice");
    if (!json_take(json, '{')) return json_fail("__metadata__ is not an object");
    if (json_take(json, '}')) return 0;
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        if (!json_take(json, ':')) return json_fail("malformed __metadata__");
        const char *value = json_string(json);
        if (!value) return -1;
        if (strcmp(key, "n_head")) continue;
        if (header->n_head) return json_fail("n_head appears twice");
        header->n_head = value;
    } while (json_take(json, ','));
    return json_take(json, '}') ? 0 : json_fail("malformed __metadata__");
}

/* One member of the header: a tensor by its name, or __metadata__. */
static int read_member(Json *json, Header *header)
{
    const char *name = json_string(json);
    if (!name) return -1;
    if (!json_take(json, ':')) return json_fail("malformed header");
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
    Json json = { header->text, header->text + header->text_size };
    if (!json_take(&json, '{')) return json_fail("its header is not a JSON object");
    if (!json_take(&json, '}')) {
        do {
            if (read_member(&json, header) < 0) return -1;
        } while (json_take(&json, ','));
        if (!json_take(&json, '}')) return json_fail("malformed header");
    }
    if (json_peek(&json) || json.at != json.end)
        return json_fail("text after the end of its header");
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

/* n numbers of type F16 or BF16 -> F32, which live as long as the model. */
static float *convert(MiModel *model, const char *data, int64_t n, int bf16)
{
    float **list = grow(model->converted, model->n_converted, sizeof *list);
    if (!list) return NULL;
    model->converted = list;
    float *values = malloc((size_t)n * sizeof *values + 1);
    if (!values) return mi_fail("out of memory"), NULL;
    list[model->n_converted++] = values;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        uint32_t wide = (uint32_t)bits << 16;           /* BF16 is the upper half of F32 */
        if (bf16) memcpy(&values[i], &wide, 4);
        else values[i] = half_to_float(bits);
    }
    return values;
}

/* What a letter of MI_TENSORS' shapes stands for. */
static int64_t dimension(const MiShape *shape, char letter)
{
    switch (letter) {
    case 'V': return shape->n_vocab;
    case 'N': return shape->n_ctx;
    case 'A': return 3 * (int64_t)shape->d_model;
    case 'F': return shape->d_mlp;
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
    if (!tensor) return mi_fail("tensor %s is missing", name), NULL;
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
    return convert(model, data, rows * columns, bf16);
}

/* The tensors of GPT-2: where each goes, its name and shape. One table for loading and checking;
 * the tests' random models are written from it too. */
typedef struct { size_t field; const char *name, *shape; } TensorField;

static const TensorField model_tensors[] = {
#define X(field, name, shape) { offsetof(MiModel, field), name, shape },
    MI_MODEL_TENSORS(X)
#undef X
    { 0 },
};
static const TensorField block_tensors[] = {
#define X(field, name, shape) { offsetof(Block, field), name, shape },
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
        memcpy((char *)owner + field->field, &data, sizeof data);
    }
    return 0;
}

/* L, D, V and n_ctx follow from the tensors that are there. */
static int find_shape(MiModel *model, const Header *header)
{
    enum { MOST = 1 << 24 };
    const Tensor *wte = find_tensor(header, "wte.weight"), *wpe = find_tensor(header, "wpe.weight");
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
    model->shape = (MiShape){ .n_layer = (int)layers, .d_model = (int)D, .d_mlp = 4 * (int)D,
                              .n_ctx = (int)n_ctx, .n_vocab = (int)V };
    return 0;
}

/* Read a whole small text file; NULL if there is none. */
static char *read_text(const char *path, size_t most)
{
    FILE *file = fopen(path, "rb");
    char *text = file ? malloc(most + 1) : NULL;
    if (text) text[fread(text, 1, most, file)] = 0;
    if (file) fclose(file);
    return text;
}

/* n_head of the config.json beside the model, as it is written there; "" if there is none. */
static void config_n_head(const char *file, char value[32])
{
    const char *slash = strrchr(file, '/');
    char path[4096], raw[32];
    snprintf(path, sizeof path, "%.*sconfig.json", slash ? (int)(slash + 1 - file) : 0, file);
    char *text = read_text(path, 1 << 20);
    value[0] = 0;
    if (!text) return;
    Json json = { text, text + strlen(text) };
    if (json_take(&json, '{') && !json_take(&json, '}'))
        do {
            const char *key = json_string(&json);
            if (!key || !json_take(&json, ':')) break;
            json_peek(&json);
            const char *start = json.at;
            snprintf(raw, sizeof raw, "%.31s", start);
            if (json_skip(&json, 32) < 0) break;
            if (!strcmp(key, "n_head")) snprintf(value, 32, "%.*s", (int)(json.at - start), raw);
        } while (json_take(&json, ','));
    free(text);
}

/* The number of heads is in no tensor's shape: it stands in the metadata, or in config.json, or
 * is D/64 as in every published GPT-2. */
static int find_heads(MiModel *model, const Header *header)
{
    MiShape *shape = &model->shape;
    char     beside[32] = "", *end;
    if (!header->n_head) config_n_head(model->file, beside);
    const char *text = header->n_head ? header->n_head : beside;
    errno = 0;
    long heads = *text ? strtol(text, &end, 10) : shape->d_model / 64;
    if ((*text && (*end || errno || !isdigit((unsigned char)*text))) || heads < 1 ||
        heads > shape->d_model || shape->d_model % heads)
        return mi_fail("n_head %.20s does not divide its %d dimensions",
                       *text ? text : "(none given; D/64)", shape->d_model);
    shape->n_head = (int)heads;
    shape->d_head = shape->d_model / (int)heads;
    return 0;
}

/* vocab_ids: the GPT-2 ids of the rows of a model with a smaller vocabulary. */
static int take_vocab_ids(MiModel *model, const Header *header)
{
    const Tensor *tensor = find_tensor(header, "vocab_ids");
    int V = model->shape.n_vocab;
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

static int take_weights(MiModel *model, const Header *header)
{
    if (find_shape(model, header) < 0 || find_heads(model, header) < 0) return -1;
    MiShape *shape = &model->shape;
    model->block = calloc(shape->n_layer, sizeof *model->block);
    if (!model->block) return mi_fail("out of memory");
    if (take_fields(model, header, model, "", model_tensors) < 0) return -1;
    for (int l = 0; l < shape->n_layer; l++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "h.%d.", l);
        if (take_fields(model, header, &model->block[l], prefix, block_tensors) < 0) return -1;
    }
    model->W_U = model->wte;
    if (find_tensor(header, "lm_head.weight")) {
        const weight *own = take_tensor(model, header, "lm_head.weight", "VD");
        if (!own) return -1;
        size_t bytes = (size_t)shape->n_vocab * shape->d_model * sizeof(float);
        if (memcmp(own, model->wte, bytes)) model->W_U = own;
    }
    return take_vocab_ids(model, header);
}

/* Map the file and find its header and its data. */
static int map_file(MiModel *model, Header *header)
{
    int         descriptor = open(model->file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat info = { 0 };
    if (descriptor < 0) return mi_fail("%s", strerror(errno));
    if (fstat(descriptor, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size < 8) {
        close(descriptor);
        return mi_fail(S_ISDIR(info.st_mode) ? "is a directory"
                       : "too short for a safetensors file");
    }
    size_t size = (size_t)info.st_size;
    const unsigned char *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    if (bytes == MAP_FAILED) return mi_fail("cannot be mapped: %s", strerror(errno));
    model->map = (void *)bytes;
    model->map_size = size;
    uint64_t header_size = 0;
    for (int i = 7; i >= 0; i--) header_size = header_size << 8 | bytes[i];
    if (header_size > size - 8)
        return mi_fail("not a safetensors file, or truncated: its header should have %llu bytes",
                       (unsigned long long)header_size);
    header->text = malloc(header_size + 1);
    if (!header->text) return mi_fail("out of memory");
    memcpy(header->text, bytes + 8, header_size);
    header->text[header_size] = 0;
    header->text_size = (int64_t)header_size;
    header->data = (const char *)bytes + 8 + header_size;
    header->data_size = (int64_t)(size - 8 - header_size);
    return 0;
}

MiModel *mi_open(const char *path)
{
    MiModel *model = calloc(1, sizeof *model);
    Header   header = { 0 };
    if (!model) return mi_fail("out of memory"), NULL;
    model->file = strdup(path);
    int ok = model->file && map_file(model, &header) == 0 && read_header(&header) == 0 &&
             take_weights(model, &header) == 0;
    free(header.tensors);
    free(header.text);
    if (ok) return model;
    mi_fail_in(path);
    mi_close(model);
    return NULL;
}

void mi_close(MiModel *model)
{
    if (!model) return;
    for (int i = 0; i < model->n_converted; i++) free(model->converted[i]);
    if (model->map) munmap(model->map, model->map_size);
    free(model->file);
    free(model->converted);
    free(model->vocab_ids);
    free(model->block);
    free(model);
}

/* ============================================================================================= */
/* Tokens                                                                                        */
/* ============================================================================================= */

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
    int      n_rows;                    /* of the model that have an id */
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
    tokenizer->n_rows = n_vocab < N_IDS ? n_vocab : N_IDS;
    for (int id = 0; id < N_IDS; id++) tokenizer->row_of_id[id] = -1;
    for (int row = 0, lowest = 0; row < tokenizer->n_rows; row++) {
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

int mi_row_of_id(const MiTokenizer *tokenizer, int id)
{
    return id < 0 || id >= N_IDS ? -1 : tokenizer->row_of_id[id];
}

int mi_id_of_row(const MiTokenizer *tokenizer, int row)
{
    return row < 0 || row >= tokenizer->n_rows ? -1 : tokenizer->id_of_row[row];
}

/* row -> its n bytes, which may contain 0 and are not ended by it; none if the row has no id. */
const char *mi_token_bytes(const MiTokenizer *tokenizer, int row, int *n)
{
    int id = mi_id_of_row(tokenizer, row);
    *n = 0;
    return id < 0 ? "" : (const char *)bytes_of_id(tokenizer, id, n);
}

void mi_tokenizer_close(MiTokenizer *tokenizer)
{
    free(tokenizer);
}

/* path -> the tokenizer, at first with each of GPT-2's ids as its own row. */
static MiTokenizer *tokenizer_open(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) return mi_fail("%s: %s", path, strerror(errno)), NULL;
    MiTokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    int status = tokenizer ? 0 : mi_fail("out of memory");
    if (tokenizer) {
        tokenizer->file_size = fread(tokenizer->file, 1, TOKENIZER_SIZE, file);
        status = ferror(file) ? mi_fail("%s", strerror(errno)) : read_tokenizer(tokenizer);
    }
    fclose(file);
    if (status == 0 && tokenizer_use_vocab(tokenizer, NULL, N_IDS) == 0) return tokenizer;
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
    if (tokenizer_use_vocab(tokenizer, model->vocab_ids, model->shape.n_vocab) == 0)
        return tokenizer;
    mi_fail_in(model->file);
    mi_tokenizer_close(tokenizer);
    return NULL;
}

/* ============================================================================================= */
/* The address grammar                                                                           */
/*                                                                                               */
/*     L5H3  L5H3.q@-1  L0-3H*@2-4  L5N120-130  L5.resid_pre@" Mary"  embed  L9H9.pattern@14:10   */
/*     blocks.5.attn.hook_z   heads  mlps  attns  resid   lists: A,B@3,C   not:LIST               */
/* ============================================================================================= */

/* lo .. hi, both included. many: it was written with more than one value (* or a range). */
typedef struct { int lo, hi, many; } Range;

typedef enum { WHOLE_ROW, HEAD, NEURON } Unit;

typedef struct {                        /* one element of a list of addresses */
    MiSite site;
    Unit   unit;
    Range  layer, index, pos, key;      /* index: which heads or neurons; key: of an edge */
    int    has_pos, has_key;
    const char *text;                   /* where it stands in the argument */
} Address;

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
} Parser;

/* Columns that text [n] takes on a terminal: one a character. */
static int columns_of(const char *text, size_t n)
{
    int columns = 0;
    for (int length; n > 0; columns++, text += length, n -= length)
        utf8_decode((const uint8_t *)text, n, &length);
    return columns;
}

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

/* "--ablate: what is wrong", the argument, and a caret under the culprit. */
__attribute__((format(printf, 3, 4)))
static int fail_at(const Parser *p, const char *where, const char *format, ...)
{
    char why[1024], quoted[512] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    size_t before = where - p->argument, shift = before > 50 ? before - 50 : 0;
    while (shift && (p->argument[shift] & 0xC0) == 0x80) shift--;   /* not within a character */
    append_visible(quoted, sizeof quoted, p->argument + shift,
                   strnlen(p->argument + shift, 100));  /* show the culprit, not a long start */
    mi_fail("%s: %s", p->flag, why);
    append(error_text, sizeof error_text, "\n    %s%s\n    %*s^", shift ? "..." : "", quoted,
           columns_of(p->argument + shift, before - shift) + (shift ? 3 : 0), "");
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
    *range = (Range){ 0, count - 1, 1 };
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

/* The site whose name stands at the cursor, or -1. */
static int find_site(const Parser *p)
{
    size_t n = word_length(p);
    for (int site = 0; site < MI_N_SITES; site++)
        if (strlen(SITES[site].name) == n && !strncmp(SITES[site].name, p->at, n)) return site;
    return -1;
}

/* "0-3H*.z", "5N7", "5.mlp_out": what follows the L. Heads and neurons have a default site. */
static int parse_layered(Parser *p, Address *address)
{
    const MiShape *shape = &p->model->shape;
    if (parse_range(p, "layer", shape->n_layer, &address->layer) < 0) return -1;
    if (take(p, "H")) {
        address->unit = HEAD;
        address->site = MI_z;
        if (parse_range(p, "head", shape->n_head, &address->index) < 0) return -1;
    } else if (take(p, "N")) {
        address->unit = NEURON;
        address->site = MI_mlp_post;
        if (parse_range(p, "neuron", shape->d_mlp, &address->index) < 0) return -1;
    }
    if (!take(p, "."))
        return address->unit != WHOLE_ROW ? 0
               : fail_at(p, p->at, "expected H (a head), N (a neuron) or a site such as "
                         ".resid_pre after the layer");
    int     site = find_site(p);
    MiWidth width = site < 0 ? MI_ONE : SITES[site].width;
    if (address->unit == HEAD && width != MI_HEADS && width != MI_KEYS)
        return fail_at(p, p->at, "a head has the sites z, q, k, v, scores and pattern");
    if (site < 0 || SITES[site].place != MI_BLOCK)
        return fail_at(p, p->at, "no such site in a layer; mi --sites lists them");
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
        address->layer = (Range){ layer, layer, 0 };
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
            address->layer = (Range){ 0, shape->n_layer - 1, 1 };
            if (address->unit == HEAD) address->index = (Range){ 0, shape->n_head - 1, 1 };
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
    return fail_at(p, p->at, "expected an address such as L5H3, L5.resid_pre, L5N12, heads or "
                   "embed; mi --sites lists the sites");
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

/* @"TEXT" or @word, which may have a space before it, with #n to choose among several matches. */
static int parse_text_position(Parser *p, Range *pos)
{
    const char *start = p->at, *text = p->at;
    int         quoted = take(p, "\""), number = 1, found = 0;
    size_t      n = 0;
    if (quoted) {
        text = p->at;
        while (p->at + n < p->end && p->at[n] != '"') n++;
        if (p->at + n == p->end) return fail_at(p, start, "the quote is not closed");
    } else
        while (p->at + n < p->end && !strchr(",:#=", p->at[n])) n++;
    p->at += n + quoted;
    if (n == 0) return fail_at(p, start, "expected a position: a number, a range, *, or text");
    if (!p->tokenizer) return fail_at(p, start, "text positions need a tokenizer");
    int         chosen = take(p, "#");
    const char *digits = p->at;
    if (chosen && (!take_number(p, &number) || number < 1))
        return fail_at(p, digits, "expected a number after #: #1 is the first match");
    char list[128] = "";
    for (int first = 0; first < p->n; first++)
        for (int space = 0; space <= !quoted; space++) {
            int last = last_spelling(p, first, space, text, n);
            if (last < 0) continue;
            if (++found == number) *pos = (Range){ first, last, 0 };
            if (found <= 8) append(list, sizeof list, " #%d at %d", found, first);
        }
    if (found == 0)
        return fail_at(p, text, "%s; mi PROMPT --explain shows the tokens", quoted
                       ? "no run of whole tokens of the prompt spells this text"
                       : "this is not a position, and no token of the prompt");
    if (!chosen && found > 1)
        return fail_at(p, text, "this text stands %d times in the prompt:%s", found, list);
    if (number > found)
        return fail_at(p, digits, "this text stands only %d times in the prompt", found);
    return 0;
}

/* A number from the start of the prompt, or negative from its end. */
static int parse_index(Parser *p, int *index)
{
    const char *start = p->at;
    int         negative = take(p, "-");
    if (!take_number(p, index)) return fail_at(p, start, "expected a position");
    if (negative) *index = p->n - *index;
    if (*index < 0 || *index >= p->n)
        return fail_at(p, start, "there is no position %.*s: the prompt has %d tokens, 0-%d "
                       "(or -%d to -1)", (int)(p->at - start), start, p->n, p->n - 1, p->n);
    return 0;
}

/* After the @: 3, -1, 2-4, -3--1, *, all, or text. */
static int parse_position(Parser *p, Range *pos)
{
    size_t word = word_length(p);
    if (take(p, "*") || (word == 3 && take(p, "all"))) {
        *pos = (Range){ 0, p->n - 1, 1 };
        return 0;
    }
    const char *start = p->at, *digit = start + (p->at < p->end && *p->at == '-');
    if (digit >= p->end || !isdigit((unsigned char)*digit)) return parse_text_position(p, pos);
    if (parse_index(p, &pos->lo) < 0) return -1;
    pos->hi = pos->lo;
    pos->many = take(p, "-");
    if (pos->many && parse_index(p, &pos->hi) < 0) return -1;
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
    Address a = { .text = p->at, .pos = { 0, p->n - 1, 0 }, .key = { 0, p->n - 1, 0 } };
    if (parse_site(p, &a) < 0) return -1;
    const char *site_end = p->at;
    a.has_pos = take(p, "@");
    if (a.has_pos && parse_position(p, &a.pos) < 0) return -1;
    a.has_key = a.has_pos && take(p, ":");
    const char *key = p->at;
    if (a.has_key && parse_position(p, &a.key) < 0) return -1;
    if (a.has_key && SITES[a.site].width != MI_KEYS && strcmp(p->flag, "--knockout"))
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

/* not:LIST -> all units of the list's kind that it does not name, one address a unit. */
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
        for (int u = 0; u < units; u++) {
            int named = 0;
            for (int i = 0; i < listed && !named; i++) {
                const Address *a = &p->found[i];
                named = a->layer.lo <= l && l <= a->layer.hi && a->index.lo <= u &&
                        u <= a->index.hi;
            }
            one.layer = (Range){ l, l, 0 };
            one.index = (Range){ u, u, 0 };
            if (!named && add_address(p, &one) < 0) return -1;
        }
    p->n_found -= listed;
    memmove(p->found, p->found + listed, p->n_found * sizeof *p->found);
    return p->n_found ? 0 : fail_at(p, start, "nothing is left: the list names every unit");
}

/* LIST or not:LIST -> p->found */
static int parse_list(Parser *p)
{
    const char *start = p->at;
    int negate = take(p, "not:");
    do {
        if (parse_address(p) < 0) return -1;
    } while (take(p, ","));
    return negate ? complement(p, start) : 0;
}

/* Where "=VALUE" begins: the last = outside quotes; NULL if there is none. */
static const char *find_value(const char *argument)
{
    const char *equals = NULL;
    int         quoted = 0;
    for (const char *c = argument; *c; c++) {
        if (*c == '"') quoted = !quoted;
        if (*c == '=' && !quoted) equals = c;
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
static int parse_noise(const MiModel *model, const char *value, float *amount)
{
    if (!parse_float(value, "s", amount)) return parse_float(value, "", amount);
    double sum = 0, squares = 0;
    size_t entries = (size_t)model->shape.n_vocab * model->shape.d_model;
    for (size_t i = 0; i < entries; i++) {
        sum += model->wte[i];
        squares += (double)model->wte[i] * model->wte[i];
    }
    *amount *= (float)sqrt(squares / entries - sum / entries * (sum / entries));
    return 1;
}

/* What each --OP puts into its edits, and what has to stand behind the = of its argument. */
typedef enum { NO_VALUE, KIND, FACTOR, MAYBE_FACTOR, SIZE, FILE_NAME } Value;

static const struct { const char *name; MiOp op; MiFrom from; Value value; const char *otherwise; }
OPS[] = {
    { "ablate",   MI_SET,     MI_FROM_VALUE,  KIND,
      "an ablation is =zero, =tlzero, =mean or =resample" },
    { "patch",    MI_MIX,     MI_FROM_SOURCE, MAYBE_FACTOR,
      "expected a number: 1 patches, 0.5 goes half way" },
    { "freeze",   MI_SET,     MI_FROM_BASE,   NO_VALUE, "--freeze takes no value" },
    { "scale",    MI_SCALE,   MI_FROM_VALUE,  FACTOR, "expected a factor, as in L5H3=2" },
    { "noise",    MI_NOISE,   MI_FROM_VALUE,  SIZE,
      "expected a size, as in embed=0.1, or 3s for 3 standard deviations of the embedding" },
    { "steer",    MI_ADD,     MI_FROM_CALLER, FACTOR, "expected a factor, as in L3.resid_pre=4" },
    { "project",  MI_PROJECT, MI_FROM_CALLER, NO_VALUE, "--project takes no value" },
    { "set",      MI_SET,     MI_FROM_CALLER, FILE_NAME, "expected =FILE.npy" },
    { "knockout", MI_SET,     MI_FROM_VALUE,  NO_VALUE, "--knockout takes no value" },
};

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
static int read_value(const MiModel *model, const char *value, Value kind, MiEdit *edit)
{
    static const struct { const char *name; MiFrom from; } kinds[] = {
        { "zero", MI_FROM_VALUE }, { "tlzero", MI_FROM_TLZERO }, { "mean", MI_FROM_MEAN },
        { "resample", MI_FROM_CALLER },
    };
    switch (kind) {
    case NO_VALUE:     return !value;
    case FACTOR:       return value && parse_float(value, "", &edit->amount);
    case MAYBE_FACTOR: return parse_float(value ? value : "1", "", &edit->amount);
    case SIZE:         return value && parse_noise(model, value, &edit->amount);
    case FILE_NAME:    return value && *value;
    case KIND:
        for (int i = 0; value && i < 4; i++)
            if (!strcmp(value, kinds[i].name)) return edit->from = kinds[i].from, 1;
    }
    return !value;                                      /* the default is zero */
}

/* What an op does with its "=VALUE": the edit that all its addresses share. */
static int parse_value(Parser *p, const char *op, const char *value, MiEdit *edit)
{
    enum { N_OPS = sizeof OPS / sizeof *OPS };
    const char    *where = value ? value : p->argument + strlen(p->argument);
    const Address *edges = NULL, *sigma = NULL;         /* sites that not every op can edit */
    int            i = 0, ablate = !strcmp(op, "ablate");
    while (i < N_OPS && strcmp(op, OPS[i].name)) i++;
    if (i == N_OPS) return mi_fail("no such intervention: %s", op);
    for (Address *a = p->found; a < p->found + p->n_found; a++) {
        if (SITES[a->site].width == MI_KEYS && !edges) edges = a;
        if (SITES[a->site].width == MI_ONE) sigma = a;
    }
    *edit = (MiEdit){ .op = OPS[i].op, .from = OPS[i].from, .head = -1 };
    if (edges && (edit->op == MI_ADD || edit->op == MI_PROJECT))
        return fail_at(p, edges->text, "the rows of scores and pattern differ in length: they have "
                       "no direction");
    if (!read_value(p->model, value, OPS[i].value, edit))
        return fail_at(p, where - (OPS[i].value == NO_VALUE), "%s", OPS[i].otherwise);
    if (edit->op == MI_MIX && edit->amount == 1) edit->op = MI_SET;
    if (ablate && edges && edit->from != MI_FROM_VALUE)
        return fail_at(p, where, "scores and pattern have no =%s: their rows differ in length",
                       value);
    if (ablate && sigma && (edit->from == MI_FROM_VALUE || edit->from == MI_FROM_TLZERO))
        return fail_at(p, sigma->text, "LayerNorm divides by this: it cannot be zero");
    if (strcmp(op, "knockout")) return 0;
    edit->amount = -INFINITY;
    return aim_knockout(p);
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
    Range heads = !keys ? (Range){ -1, -1, 0 }
                : whole ? (Range){ 0, shape->n_head - 1, 0 } : address->index;
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
    char        flag[32];
    const char *equals = find_value(argument);
    snprintf(flag, sizeof flag, "--%s", op);
    Parser p = { .model = model, .tokenizer = tokenizer, .tokens = tokens, .n = n, .flag = flag,
                 .argument = argument, .at = argument,
                 .end = equals ? equals : argument + strlen(argument) };
    MiEdit edit;
    int    status = parse_list(&p);
    if (status == 0) status = parse_value(&p, op, equals ? equals + 1 : NULL, &edit);
    edit.order = edits->n ? edits->at[edits->n - 1].order + 1 : 0;
    for (int i = 0; i < p.n_found && status == 0; i++)
        status = expand(edits, &p, &p.found[i], edit);
    free(p.found);
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

#ifndef MI_NO_MAIN
/* ============================================================================================= */
/* Printing: one Grid feeds the terminal, SVG and TSV                                            */
/* ============================================================================================= */

typedef struct { FILE *out; int color, columns; } Screen;
typedef struct { int r, g, b; } Color;

/* A table of numbers with a label for each row and column. NAN: there is nothing there. */
typedef struct {
    char    title[160];
    int     n_rows, n_cols;
    double *value, *error;              /* [n_rows, n_cols]; standard errors, or NULL */
    char  (*row)[40], (*col)[40];       /* labels; those of the columns follow those of the rows */
    char  (*word)[40];                  /* shown instead of the number, or NULL */
    int     diverging;                  /* colours from -limit to limit, else from 0 to limit */
    double  limit;                      /* 0: the largest absolute value */
} Grid;

/* Any text, made fit for a terminal, and cut. */
static const char *visible(const char *text, char shown[256])
{
    *shown = 0;
    append_visible(shown, 256, text, strlen(text));
    return shown;
}

static int cells_of(const Grid *grid) { return grid->n_rows * grid->n_cols; }

static double grid_limit(const Grid *grid)
{
    double limit = grid->limit;
    for (int i = 0; i < cells_of(grid) && !grid->limit; i++)
        if (isfinite(grid->value[i])) limit = fmax(limit, fabs(grid->value[i]));
    return limit > 0 ? limit : 1;
}

/* share -1..1 -> blue, white, orange; 0 is white in both kinds of map. */
static Color heat(double share)
{
    static const Color ends[2][2] = {
        { { 146, 197, 222 }, { 5, 80, 160 } }, { { 253, 190, 125 }, { 190, 60, 5 } },
    };
    const Color *end = ends[share > 0];
    double       s = fmin(fabs(share), 1) * 2;
    Color        from = s < 1 ? (Color){ 247, 247, 247 } : end[0], to = s < 1 ? end[0] : end[1];
    if (s >= 1) s -= 1;
    return (Color){ (int)(from.r + s * (to.r - from.r)), (int)(from.g + s * (to.g - from.g)),
                    (int)(from.b + s * (to.b - from.b)) };
}

static Color heat_of(const Grid *grid, int i, double limit)
{
    return heat((grid->diverging ? grid->value[i] : fabs(grid->value[i])) / limit);
}

static int is_dark(Color c)
{
    return 299 * c.r + 587 * c.g + 114 * c.b < 140000;
}

/* A number that may well be 0: within two standard errors of it. */
static int is_pale(const Grid *grid, int i)
{
    return grid->error && fabs(grid->value[i]) < 2 * grid->error[i];
}

/* What stands in a cell: its word, or its number in at most 5 columns: .97  -1.3  12.4  1e+05; 0 if
 * it is exactly that, · if it is below .005, ~ if it may well be 0. */
static const char *cell_text(const Grid *grid, int i, char text[48])
{
    double value = grid->value[i], a = fabs(value);
    char   digits[8];
    if (grid->word) return grid->word[i];
    if (!isfinite(value)) return "";
    if (is_pale(grid, i)) return "~";
    if (value == 0) return "0";
    if (a < 0.005) return "·";
    if (a < 0.995) {
        snprintf(digits, sizeof digits, "%.2f", a);
        snprintf(text, 48, "%s%s", value < 0 ? "-" : grid->diverging ? "+" : "", digits + 1);
    }
    else if (a < 1000) snprintf(text, 48, grid->diverging ? "%+.*f" : "%.*f", a < 9.95, value);
    else snprintf(text, 48, "%.0e", value);
    return text;
}

/* The bytes of the first characters of a text. */
static int bytes_of(const char *text, int columns)
{
    int n = 0;
    for (int length; columns > 0 && text[n]; columns--, n += length)
        utf8_decode((const uint8_t *)text + n, strlen(text + n), &length);
    return n;
}

/* Text padded with spaces to a number of columns, cut with … where it is longer. */
static void print_padded(FILE *out, const char *text, int columns)
{
    int shown = columns_of(text, strlen(text));
    if (shown <= columns) fprintf(out, "%s%*s", text, columns - shown, "");
    else fprintf(out, "%.*s…", bytes_of(text, columns - 1), text);
}

/* Words stand at the left of their column, numbers at its right. */
static void print_cell(const Screen *screen, const Grid *grid, int i, int width, double limit)
{
    char        number[48];
    const char *text = cell_text(grid, i, number);
    int color = screen->color && isfinite(grid->value[i]) && !is_pale(grid, i);
    if (color) {
        Color c = heat_of(grid, i, limit);
        fprintf(screen->out, "\033[48;2;%d;%d;%dm\033[38;2;%sm", c.r, c.g, c.b,
                is_dark(c) ? "255;255;255" : "20;20;20");
    }
    if (grid->word) print_padded(screen->out, text, width - 1), fputc(' ', screen->out);
    else fprintf(screen->out, "%*s%s", width - columns_of(text, strlen(text)), "", text);
    if (color) fputs("\033[0m", screen->out);
}

/* The labels of some columns. "12 ·Mary" takes two lines, "12" above "Mary"; others only one. */
static void print_header(FILE *out, const Grid *grid, int first, int last, int label, int width,
                         int line)
{
    int needed = 0;
    for (int c = first; c < last; c++)
        needed |= line ? strchr(grid->col[c], ' ') != NULL : *grid->col[c] != 0;
    if (!needed) return;
    fprintf(out, "%*s", label + 3, "");
    for (int c = first; c < last; c++) {
        char  copy[40], *text = copy;
        snprintf(copy, sizeof copy, "%s", grid->col[c]);
        char *second = strchr(copy, ' ');
        if (second && line) {
            text = second + 1;
            if (!grid->word && !strncmp(text, "·", 2) && text[2]) text += 2;
        } else if (second) *second = 0;
        else if (line) text = "";
        int fits = bytes_of(text, width - 1);           /* no room for a sign that it was cut */
        if (grid->word) print_padded(out, text, width - 1), fputc(' ', out);
        else fprintf(out, "%*s%.*s", width - columns_of(text, fits), "", fits, text);
    }
    fputc('\n', out);
}

/* A heat map for people, cut into panels where the window is too narrow for all columns. */
static void print_grid(const Screen *screen, const Grid *grid)
{
    FILE  *out = screen->out;
    int    label = 0;
    double limit = grid_limit(grid);
    for (int r = 0; r < grid->n_rows; r++)
        label = max_int(label, columns_of(grid->row[r], strlen(grid->row[r])));
    label = min_int(label, 16);
    int least = grid->diverging ? 5 : 4, room = screen->columns - label - 3;
    int width = grid->word ? 9 : max_int(least, min_int(9, room / grid->n_cols));
    int per_panel = max_int(1, room / width);
    fprintf(out, "  %s\n", grid->title);
    for (int first = 0; first < grid->n_cols; first += per_panel) {
        int last = min_int(first + per_panel, grid->n_cols);
        for (int line = 0; line < 2; line++)
            print_header(out, grid, first, last, label, width, line);
        for (int r = 0; r < grid->n_rows; r++) {
            const double *value = grid->value + r * grid->n_cols;
            int           filled = first == 0;          /* keys after the query do not exist */
            for (int c = first; c < last; c++) filled |= isfinite(value[c]);
            if (!filled) continue;
            fputs("  ", out);
            print_padded(out, grid->row[r], label);
            fputc(' ', out);
            for (int c = first; c < last; c++)
                print_cell(screen, grid, r * grid->n_cols + c, width, limit);
            fputc('\n', out);
        }
        fputc('\n', out);
    }
}

static void tsv_bytes(FILE *out, const char *text, size_t n)
{
    for (; n > 0; text++, n--) fputc(iscntrl((unsigned char)*text) ? ' ' : *text, out);
}

static void tsv_text(FILE *out, const char *text) { tsv_bytes(out, text, strlen(text)); }

/* One more column. */
static void tsv_number(FILE *out, double value)
{
    fprintf(out, isfinite(value) ? "\t%.9g" : "\tnan", value);
}

static void tsv_grid(FILE *out, const Grid *grid)
{
    tsv_text(out, grid->title);
    for (int c = 0; c < grid->n_cols; c++) fputc('\t', out), tsv_text(out, grid->col[c]);
    for (int i = 0; i < cells_of(grid); i++) {
        if (i % grid->n_cols == 0) fputc('\n', out), tsv_text(out, grid->row[i / grid->n_cols]);
        fputc('\t', out);
        if (grid->word) tsv_text(out, grid->word[i]), fputc(' ', out);
        if (isfinite(grid->value[i])) fprintf(out, "%.9g", grid->value[i]);
    }
    fputc('\n', out);
    if (!grid->error) return;
    Grid errors = *grid;
    strcpy(errors.title, "standard error");
    errors.value = grid->error;
    errors.error = NULL;
    tsv_grid(out, &errors);
}

static void xml_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        const char *name = *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;"
                         : *text == '"' ? "&quot;" : NULL;
        if (name) fputs(name, out);
        else fputc(*text, out);
    }
}

enum { SVG_ROW = 24, SVG_LEFT = 130, SVG_TOP = 96, SVG_RIGHT = 110 };

/* The width of a column. Where there are very many, only their colours are left. */
static int svg_column(const Grid *grid)
{
    return grid->word ? 84 : grid->n_cols > 64 ? max_int(2, 2400 / grid->n_cols) : 46;
}
static int svg_height(const Grid *grid)
{
    return SVG_TOP + max_int(grid->n_rows * SVG_ROW, 120) + 30;
}

static void svg_label(FILE *out, double x, double y, const char *anchor, const char *more,
                      const char *text)
{
    fprintf(out, "<text x=\"%g\" y=\"%g\" text-anchor=\"%s\"%s>", x, y, anchor, more);
    xml_text(out, text);
    fputs("</text>\n", out);
}

static void svg_rect(FILE *out, int x, int y, int width, int height, Color c)
{
    fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%02x%02x%02x\"/>", x,
            y, width, height, c.r, c.g, c.b);
}

/* The scale at the right: what the colours mean. */
static void svg_color_bar(FILE *out, const Grid *grid, double limit)
{
    enum { STEPS = 24, HEIGHT = 5 };
    int  x = SVG_LEFT + grid->n_cols * svg_column(grid) + 24;
    char text[32];
    for (int i = 0; i < STEPS; i++) {
        double share = 1 - (double)i / (STEPS - 1);
        svg_rect(out, x, SVG_TOP + i * HEIGHT, 14, HEIGHT,
                 heat(grid->diverging ? 2 * share - 1 : share));
        fputc('\n', out);
    }
    snprintf(text, sizeof text, "%.3g", limit);
    svg_label(out, x + 20, SVG_TOP + 8, "start", "", text);
    snprintf(text, sizeof text, "%.3g", grid->diverging ? -limit : 0);
    svg_label(out, x + 20, SVG_TOP + STEPS * HEIGHT, "start", "", text);
}

/* A coloured cell; pointing at it shows where it is and all its digits. */
static void svg_cell(FILE *out, const Grid *grid, int i, double limit)
{
    char  number[48];
    int   r = i / grid->n_cols, c = i % grid->n_cols, width = svg_column(grid);
    int   x = SVG_LEFT + c * width, y = SVG_TOP + r * SVG_ROW;
    Color color = is_pale(grid, i) ? heat(0) : heat_of(grid, i, limit);
    fputs("<g>", out);
    svg_rect(out, x, y, max_int(width - 1, 2), SVG_ROW - 1, color);
    fputs("<title>", out);
    xml_text(out, grid->row[r]);
    fputs(" | ", out);
    xml_text(out, grid->col[c]);
    fprintf(out, " : %.6g", grid->value[i]);
    if (grid->error) fprintf(out, " ± %.2g", grid->error[i]);
    if (grid->word) fputc(' ', out), xml_text(out, grid->word[i]);
    fputs("</title>", out);
    const char *text = cell_text(grid, i, number);
    if (columns_of(text, strlen(text)) > 10) {
        snprintf(number, sizeof number, "%.*s…", bytes_of(text, 9), text);
        text = number;
    }
    if (width > 40)
        svg_label(out, x + 0.5 * width, y + 16, "middle", is_dark(color) ? " fill=\"#fff\""
                  : " fill=\"#222\"", text);
    fputs("</g>\n", out);
}

static void svg_grid(FILE *out, const Grid *grid, int top)
{
    double limit = grid_limit(grid);
    fprintf(out, "<g transform=\"translate(0,%d)\">\n", top);
    svg_label(out, 12, 24, "start", " font-size=\"15\" font-weight=\"bold\"", grid->title);
    int every = grid->n_cols > 64 ? 1 + 24 / svg_column(grid) : 1;  /* how many have a label */
    for (int c = 0; c < grid->n_cols; c += every) {
        char more[80];
        double x = SVG_LEFT + (c + 0.5) * svg_column(grid);
        snprintf(more, sizeof more, " transform=\"rotate(-40 %g %d)\"", x, SVG_TOP - 8);
        svg_label(out, x, SVG_TOP - 8, "start", more, grid->col[c]);
    }
    for (int i = 0; i < cells_of(grid); i++) {
        int r = i / grid->n_cols;
        if (i % grid->n_cols == 0)
            svg_label(out, SVG_LEFT - 8, SVG_TOP + r * SVG_ROW + 16, "end", "", grid->row[r]);
        if (isfinite(grid->value[i])) svg_cell(out, grid, i, limit);
    }
    svg_color_bar(out, grid, limit);
    fputs("</g>\n", out);
}

/* All maps of a report in one picture, one below the other; it needs no other file. The lines of
 * the caption say of what. */
static void print_svg(FILE *out, const char *caption, const Grid *grids, int n)
{
    enum { LETTER_WIDTH = 8, LINE_HEIGHT = 18 };
    int width = 0, height = 12, top;
    for (const char *line = caption; *line; height += LINE_HEIGHT) {
        size_t length = strcspn(line, "\n");
        width = max_int(width, 24 + LETTER_WIDTH * columns_of(line, length));
        line += length + (line[length] == '\n');
    }
    top = height;
    for (int i = 0; i < n; i++) {
        width = max_int(width, SVG_LEFT + grids[i].n_cols * svg_column(&grids[i]) + SVG_RIGHT);
        width = max_int(width, 24 + LETTER_WIDTH * (int)strlen(grids[i].title));
        height += svg_height(&grids[i]);
    }
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 "
            "%d %d\" font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            width, height, width, height);
    for (int y = 24; *caption; y += LINE_HEIGHT) {
        int length = (int)strcspn(caption, "\n");
        char line[4 * 200 + 1];
        snprintf(line, sizeof line, "%.*s", bytes_of(caption, min_int(length, 200)), caption);
        line[strcspn(line, "\n")] = 0;
        svg_label(out, 12, y, "start", " font-size=\"13\"", line);
        caption += length + (caption[length] == '\n');
    }
    for (int i = 0; i < n; top += svg_height(&grids[i++])) svg_grid(out, &grids[i], top);
    fputs("</svg>\n", out);
}

/* A bar of eighths of a column, share 0..1 of `columns`. */
static void print_bar(FILE *out, double share, int columns, const char *color)
{
    static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int n = share > 0 ? (int)lrint(fmin(share, 1) * columns * 8) : 0;
    if (share > 0 && n == 0) n = 1;
    fputs(color, out);
    for (int i = 0; i < n / 8; i++) fputs("█", out);
    fprintf(out, "%s%s%*s", eighths[n % 8], *color ? "\033[0m" : "", columns - (n + 7) / 8, "");
}

/* A bar to either side of a line in the middle, share -1..1 of half the columns. */
static void print_signed_bar(FILE *out, double share, int columns, const char *color)
{
    int half = columns / 2, n = share < 0 ? (int)lrint(-share * half) : 0;
    fprintf(out, "%*s%s", half - n, "", color);
    for (int i = 0; i < n; i++) fputs("█", out);
    fprintf(out, "%s│", *color ? "\033[0m" : "");
    if (share > 0) print_bar(out, share, half, color);
}

/* The colour of a run, or another style; two letters tell their names apart. */
static const char *color_of(const Screen *screen, const char *name)
{
    static const struct { const char *name, *code; } colors[] = {
        { "base", "\033[38;2;86;156;214m" }, { "edited", "\033[38;2;232;137;61m" },
        { "held", "\033[38;2;232;137;61m" }, { "swept", "\033[38;2;200;110;200m" },
        { "source", "\033[38;2;120;180;110m" }, { "bold", "\033[1m" }, { "dim", "\033[2m" },
        { "off", "\033[0m" },
    };
    for (size_t i = 0; screen->color && i < sizeof colors / sizeof *colors; i++)
        if (!memcmp(colors[i].name, name, 2)) return colors[i].code;
    return "";
}

/* The name of a run in its colour, at the start of its line. */
static void print_name(const Screen *screen, const char *indent, const char *name)
{
    fprintf(screen->out, "%s%s%-6s%s", indent, color_of(screen, name), name,
            color_of(screen, "off"));
}

/* Could this character move a terminal's cursor? -1 is no character. */
static int is_control(int32_t code) { return code < 32 || (code >= 127 && code < 160); }

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

/* The labels of a grid's rows and columns */
static void json_labels(FILE *out, const Grid *grid)
{
    json(out, "'rows':[");
    for (int i = 0; i < grid->n_rows; i++) json(out, i ? ",%s" : "%s", grid->row[i]);
    json(out, "],'cols':[");
    for (int i = 0; i < grid->n_cols; i++) json(out, i ? ",%s" : "%s", grid->col[i]);
    json(out, "],");
}

/* The numbers of a grid as a list of rows. */
static void json_values(FILE *out, const char *name, const double *value, const Grid *grid)
{
    json(out, "%s:[", name);
    for (int i = 0; i < cells_of(grid); i++)
        json(out, i % grid->n_cols ? ",%g" : i ? "],\n   [%g" : "\n   [%g", value[i]);
    json(out, "]]");
}

/* ============================================================================================= */
/* Arrays on disk: NumPy's .npy, float32                                                         */
/* ============================================================================================= */

typedef struct {
    int    n_dims, dim[4];
    size_t n;
    float *values;
} Array;

static void print_shape(char *text, size_t size, const Array *array)
{
    text[0] = 0;
    for (int i = 0; i < array->n_dims; i++)
        append(text, size, i ? " %d%s" : "%d%s", array->dim[i],
               i + 1 < array->n_dims || !i ? "," : "");
}

static int write_npy(FILE *out, const Array *array)
{
    char shape[64], header[128];
    print_shape(shape, sizeof shape, array);
    int n = snprintf(header, sizeof header,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
    int padded = round_up(10 + n + 1, 64) - 10;
    fprintf(out, "%cNUMPY%c%c%c%c%s%*s\n", 0x93, 1, 0, padded & 255, padded >> 8, header,
            padded - n - 1, "");
    return fwrite(array->values, sizeof(float), array->n, out) == array->n ? 0 : -1;
}

/* float32 or float64 in C order. The file is not trusted. */
static int read_npy(const char *path, Array *array)
{
    unsigned char start[10];
    char  header[2048], *shape;
    FILE *file = fopen(path, "rb");
    *array = (Array){ .n = 1 };
    if (!file) return mi_fail("%s: %s", path, strerror(errno));
    size_t length = 0, ok = fread(start, 1, 10, file) == 10 && !memcmp(start, "\x93NUMPY\1", 7);
    if (ok) length = start[8] | start[9] << 8;
    ok = ok && length < sizeof header && fread(header, 1, length, file) == length;
    header[ok ? length : 0] = 0;
    int wide = strstr(header, "'<f8'") != NULL;
    ok = ok && (wide || strstr(header, "'<f4'")) && strstr(header, "'fortran_order': False") &&
         (shape = strstr(header, "'shape': (")) != NULL;
    for (shape = ok ? shape + 10 : header; ok && isdigit((unsigned char)*shape);) {
        long dim = strtol(shape, &shape, 10);
        ok = array->n_dims < 4 && dim > 0 && dim < 1 << 28 && (array->n *= dim) < 1u << 28;
        if (ok) array->dim[array->n_dims++] = (int)dim;
        while (*shape == ',' || *shape == ' ') shape++;
    }
    array->values = ok ? malloc(array->n * sizeof(float)) : NULL;
    for (size_t i = 0; array->values && i < array->n && ok; i++) {
        double number = 0;
        ok = fread(wide ? (void *)&number : (void *)&array->values[i], wide ? 8 : 4, 1, file) == 1;
        if (wide) array->values[i] = (float)number;
    }
    fclose(file);
    if (ok && array->values) return 0;
    free(array->values);
    array->values = NULL;
    return mi_fail("%s: not an array of float32 or float64 in C order (.npy), or truncated", path);
}

/* ---- SHA-256, to say in a report which weights made it ---- */

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t state[8], const unsigned char *block, const uint32_t k[64])
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] +
               (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t t = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                     ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                     ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t;
        s[0] = t + u;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

/* bytes [n] -> 64 hexadecimal digits. The constants are the first 32 bits of the fractions of the
 * square and cube roots of the primes. */
static void sha256(const void *bytes, size_t n, char digest[65])
{
    uint32_t state[8], k[64];
    for (int i = 0, prime = 2; i < 64; prime++) {
        int d = 2;
        while (d < prime && prime % d) d++;
        if (d < prime) continue;
        if (i < 8) state[i] = (uint32_t)(uint64_t)(sqrt(prime) * 4294967296.0);
        k[i++] = (uint32_t)(uint64_t)(cbrt(prime) * 4294967296.0);
    }
    const unsigned char *block = bytes;
    size_t left = n;
    for (; left >= 64; left -= 64, block += 64) sha256_block(state, block, k);
    unsigned char tail[128] = {0};
    size_t padded = left < 56 ? 64 : 128;
    memcpy(tail, block, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; i++) tail[padded - 1 - i] = (unsigned char)((uint64_t)n * 8 >> 8 * i);
    for (size_t i = 0; i < padded; i += 64) sha256_block(state, tail + i, k);
    for (int i = 0; i < 8; i++) snprintf(digest + 8 * i, 9, "%08x", state[i]);
}

/* ============================================================================================= */
/* The command line: what was asked                                                              */
/* ============================================================================================= */

enum { FAULT_OF_RUN = 1, FAULT_OF_USER = 2 };           /* exit statuses */

static int fail(int status)
{
    fprintf(stderr, "mi: %s\n", mi_error());
    return status;
}

/* Memory, or a stream in memory: the program, unlike the library, ends where there is none. */
static void *must(void *memory)
{
    if (memory) return memory;
    mi_fail("out of memory");
    exit(fail(FAULT_OF_RUN));
}

static void must_close(FILE *memory) { must(fclose(memory) ? NULL : memory); }

/* An intervention with its modifiers, or a --save. */
typedef struct {
    const char *op, *argument, *toward, *away, *direction;
    const char *typed;                  /* the argument before a row of --data filled it in */
    int         window;                 /* ROME's: a sweep of so many layers at a time */
} Request;
typedef struct { Request *at; int n; } Requests;

typedef struct {
    const char *prompt, *tokens, *source, *source_tokens, *model, *tokenizer;
    const char *answer, *versus, *at, *metric, *color, *lens, *attn, *align, *svg, *trace, *kind,
               *data, *mean_from;
    int         bos, top, generate, threads, samples, seed, loss;
    int         window, json, tsv, provenance, explain, sites, help, version;
    double      temp, top_p;
    Requests    edits, saves;
    int         swept;                                  /* which edit has the --each; -1: none */
    char       *traced;                                 /* the address that --trace stands for */
} Command;

typedef enum { HEADING, FLAG, TEXT, INTEGER, REAL, CHOICE, REQUEST, MODIFIER, EACH } OptionKind;

/* One table drives the parser and --help. */
typedef struct {
    OptionKind  kind;
    char        letter;
    const char *name, *argument;                        /* HEADING: the title, an example */
    size_t      field;                                  /* of Command; MODIFIER: of Request */
    int         low, high;                              /* of numbers */
    const char *help;                                   /* CHOICE: the words stand in argument */
} Option;

#define TITLE(title, example) { HEADING, 0, title, example, 0, 0, 0, NULL }
#define OPTION(kind, letter, name, argument, field, help) \
    { kind, letter, name, argument, offsetof(Command, field), 0, 0, help }
#define EDIT(op, argument, help) OPTION(REQUEST, 0, op, argument, edits, help)
#define NUMBER(kind, letter, name, argument, field, low, high, help) \
    { kind, letter, name, argument, offsetof(Command, field), low, high, help }
#define DIRECTION(name, argument, help) \
    { MODIFIER, 0, #name, argument, offsetof(Request, name), 0, 0, help }

static const Option OPTIONS[] = {
    TITLE("Input", "mi \"The keys to the cabinet\" --answer \" are\" --versus \" is\""),
    OPTION(TEXT, 'm', "model", "FILE", model, "a GPT-2 in .safetensors ($MI_MODEL, or tiny)"),
    OPTION(TEXT, 0, "tokenizer", "FILE", tokenizer, "the tokenizer.bin to use"),
    OPTION(TEXT, 0, "tokens", "IDS", tokens, "the prompt as GPT-2 ids: \"464 3290\""),
    OPTION(FLAG, 0, "bos", NULL, bos, "put <|endoftext|> first, as TransformerLens does"),
    OPTION(TEXT, 0, "source", "PROMPT", source, "the donor of --patch; same = the prompt"),
    OPTION(TEXT, 0, "source-tokens", "IDS", source_tokens, "the donor, as GPT-2 ids"),
    OPTION(TEXT, 0, "answer", "TOKEN", answer, "the token to watch: text, #id, a|b, or 33-99"),
    OPTION(TEXT, 0, "versus", "TOKEN", versus, "the token to compare it with"),
    OPTION(TEXT, 0, "at", "POS", at, "the position to read at (-1, the last)"),
    OPTION(TEXT, 0, "data", "FILE.tsv", data, "many prompts: columns prompt, answer, source ..."),
    OPTION(CHOICE, 0, "mean-from", "prompt|source", mean_from,
           "what --ablate =mean averages over with --data"),
    NUMBER(INTEGER, 0, "threads", "N", threads, 1, 1024, "how many cores to use (all)"),

    TITLE("Interventions, in the order given (SITES: L5H3, L0-3H*, L5.resid_pre@-1)",
          "mi --ablate heads --each"),
    EDIT("ablate", "SITES[=KIND]", "remove: =zero, =tlzero, =mean, =resample"),
    EDIT("patch", "SITES[=ALPHA]", "take the source's value (ALPHA: part of the way)"),
    EDIT("freeze", "SITES", "hold at the unedited run's value"),
    EDIT("knockout", "HEADS@QUERY:KEY", "cut an attention edge"),
    EDIT("scale", "SITES=K", "multiply by K"),
    EDIT("noise", "SITES=S", "add normal noise; 3s: 3 deviations of embeddings"),
    EDIT("steer", "SITES=C", "add C times a direction"),
    EDIT("project", "SITES", "remove what lies along a direction"),
    EDIT("set", "SITES=FILE.npy", "write back what --save wrote"),
    DIRECTION(toward, "TEXT", "the direction: the site's value after TEXT ..."),
    DIRECTION(away, "TEXT", "... minus its value after TEXT"),
    DIRECTION(direction, "FILE.npy|random:SEED", "a file's, or random, of the texts' length or 1"),
    OPTION(CHOICE, 0, "align", "last|front", align, "front: steer token by token from the first"),
    OPTION(EACH, 0, "each", NULL, swept, "sweep the edit before it: one run per cell"),
    OPTION(TEXT, 0, "trace", "TEXT", trace, "causal trace: noise on TEXT, each state restored"),
    OPTION(CHOICE, 0, "kind", "resid|mlp|attn", kind, "what --trace restores (resid)"),
    NUMBER(INTEGER, 0, "window", "N", window, 1, 1000, "layers at a time, for mlp and attn (10)"),
    NUMBER(INTEGER, 0, "samples", "N", samples, 1, 10000, "average over N draws of noise (10)"),
    NUMBER(INTEGER, 0, "seed", "N", seed, 0, INT_MAX, "of noise and sampling (0)"),

    TITLE("Readouts", "mi \"Once upon a time\" -n 20"),
    NUMBER(INTEGER, 'k', "top", "K", top, 0, 1000, "show the K most likely next tokens (10)"),
    OPTION(CHOICE, 0, "metric", "logit_diff|prob|logprob|logit|rank|kl|loss", metric,
           "the number to report"),
    OPTION(CHOICE, 0, "lens", "each|final", lens, "the logit lens; final: with the last LayerNorm"),
    OPTION(TEXT, 0, "attn", "HEADS", attn, "attention patterns as pictures"),
    OPTION(FLAG, 0, "loss", NULL, loss, "how surprising each token of the prompt is"),
    NUMBER(INTEGER, 'n', "generate", "N", generate, 1, 1 << 20, "continue by N tokens"),
    NUMBER(REAL, 0, "temp", "T", temp, 0, 100, "sample with temperature T (0: the likeliest)"),
    NUMBER(REAL, 0, "top-p", "P", top_p, 0, 1, "sample from the likeliest tokens of mass P"),
    OPTION(REQUEST, 0, "save", "SITES=FILE.npy", saves, "write values; logits=FILE too"),

    TITLE("Output", "mi --attn L5H3 --svg pattern.svg"),
    OPTION(FLAG, 0, "json", NULL, json, "one JSON object instead of text"),
    OPTION(FLAG, 0, "tsv", NULL, tsv, "tables with tabs instead of text"),
    OPTION(TEXT, 0, "svg", "FILE", svg, "the pictures as SVG"),
    OPTION(CHOICE, 0, "color", "auto|always|never", color, "auto: on a terminal"),
    OPTION(FLAG, 0, "provenance", NULL, provenance, "the model's sha256 in the JSON"),

    TITLE("Information", "mi --ablate L5H3 --explain"),
    OPTION(FLAG, 0, "explain", NULL, explain, "show tokens, resolved edits and memory; stop"),
    OPTION(FLAG, 0, "sites", NULL, sites, "list the sites"),
    OPTION(FLAG, 'h', "help", NULL, help, "this text"),
    OPTION(FLAG, 0, "version", NULL, version, "the version"),
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof *OPTIONS };

static void print_help(FILE *out)
{
    fprintf(out, "mi - look inside a GPT-2 while it thinks\n\n"
                 "    mi [PROMPT] [options]          PROMPT may be - for standard input\n");
    for (const Option *o = OPTIONS; o < OPTIONS + N_OPTIONS; o++) {
        char left[96];
        if (o->kind == HEADING) {
            fprintf(out, "\n%s\n    %s\n", o->name, o->argument);
            continue;
        }
        snprintf(left, sizeof left, "  %c%c%c --%s %s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
                 o->argument ? o->argument : "");
        if (strlen(left) >= 32) fprintf(out, "%s\n%32s%s\n", left, "", o->help);
        else fprintf(out, "%-32s%s\n", left, o->help);
    }
    fprintf(out,
            "\nSITES is a list with commas; not:LIST is every unit that the list does not name.\n"
            "@POS binds to its own element: @3  @-1  @2-4  @*  @\" Mary\"  @Mary#2 (the second)\n"
            "In pictures: 0 exactly, · below .005, ~ within two standard errors of 0.\n"
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

/* --NAME, --NAME=VALUE, -k -> its row of the table; *value is what follows the =. */
static const Option *find_option(const char *word, const char **value)
{
    size_t n = strcspn(word, "=");
    *value = word[n] ? word + n + 1 : NULL;
    for (const Option *o = OPTIONS; o < OPTIONS + N_OPTIONS; o++) {
        if (o->kind == HEADING) continue;
        if (n > 2 && !strncmp(word, "--", 2) && strlen(o->name) == n - 2 &&
            !strncmp(o->name, word + 2, n - 2))
            return o;
        if (o->letter && word[0] == '-' && word[1] == o->letter && !word[2]) return o;
    }
    return NULL;
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

static int fail_option(const char *word)
{
    const Option *nearest = NULL;
    size_t n = strcspn(word, "=");
    int    least = n > 7 ? 3 : 2, named = !strncmp(word, "--", 2) && n > 4 && n < 40;
    for (const Option *o = OPTIONS; named && o < OPTIONS + N_OPTIONS; o++) {
        int d = o->kind == HEADING ? least : distance(o->name, word + 2, n - 2);
        if (d < least) least = d, nearest = o;
    }
    if (nearest) return mi_fail("%.100s: no such option; did you mean --%s?", word, nearest->name);
    return mi_fail("%.100s: no such option; mi --help lists them", word);
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

static int set_number(char *field, const Option *o, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    int    whole = o->kind == INTEGER;
    if (!*value || *end || isspace((unsigned char)*value) || strpbrk(value, "xX") ||
        !(number >= o->low) || !(number <= o->high) ||
        (whole && strspn(value, "0123456789") != strlen(value)))
        return mi_fail("--%s: \"%.100s\" is not a %snumber from %d to %d", o->name, value,
                       whole ? "whole " : "", o->low, o->high);
    if (whole) *(int *)field = (int)number;
    else *(double *)field = number;
    return 0;
}

/* Does this intervention need a direction? */
static int is_directed(const Request *request)
{
    return !strcmp(request->op, "steer") || !strcmp(request->op, "project");
}

static int set_modifier(Command *command, const Option *o, const char *value)
{
    for (int i = command->edits.n - 1; i >= 0; i--) {
        Request *request = &command->edits.at[i];
        if (!is_directed(request)) continue;
        const char **field = (const char **)((char *)request + o->field);
        if (*field)
            return mi_fail("--%s: the --%s before it has one already", o->name, request->op);
        *field = value;
        return 0;
    }
    return mi_fail("--%s: there is no --steer or --project before it", o->name);
}

/* --each belongs to the intervention before it, and there is one sweep at most. */
static int set_each(Command *command)
{
    if (!command->edits.n) return mi_fail("--each: there is no intervention before it");
    if (command->swept >= 0) return mi_fail("--each: one sweep at a time");
    command->swept = command->edits.n - 1;
    return 0;
}

static void add_request(Requests *list, Request request)
{
    list->at = must(grow(list->at, list->n, sizeof *list->at));
    request.typed = request.argument;
    list->at[list->n++] = request;
}

/* Store the value of one option. */
static int set_option(Command *command, const Option *o, const char *value)
{
    char *field = (char *)command + o->field;
    switch (o->kind) {
    case FLAG:     return *(int *)field = 1, 0;
    case INTEGER:
    case REAL:     return set_number(field, o, value);
    case MODIFIER: return set_modifier(command, o, value);
    case REQUEST:
        return add_request((Requests *)field, (Request){ .op = o->name, .argument = value }), 0;
    case EACH:     return set_each(command);
    default:
        if (o->kind == CHOICE && !is_choice(o->argument, value))
            return mi_fail("--%s: \"%.100s\" is not one of %s", o->name, value, o->argument);
        return *(const char **)field = value, 0;
    }
}

/* ROME's causal trace in other words: noise on the subject, and from the clean run of the same
 * prompt each layer at each position put back. */
static int add_trace(Command *command)
{
    const char *kind = command->kind ? command->kind : "resid";
    const char *sites = *kind == 'm' ? "mlps@*" : *kind == 'a' ? "attns@*" : "L*.resid_post@*";
    int         window = *kind == 'r' ? 0 : command->window ? command->window : 10;
    if (!command->trace && (command->kind || command->window))
        return mi_fail("--kind and --window are for --trace");
    if (!command->trace) return 0;
    if (command->window && !window) return mi_fail("--window is for --kind mlp and attn");
    if (command->source || command->source_tokens)
        return mi_fail("--trace takes its values from the prompt itself; leave out --source");
    size_t n = strlen(command->trace) + 16;
    command->traced = must(malloc(n));
    /* a position as after any @; other text is quoted, but for "#2", the second match */
    const char *text = command->trace + (*command->trace == '@'), *hash = strrchr(text, '#');
    int length = (int)strlen(text), plain = isalnum((unsigned char)*text) || strchr("-*", *text);
    if (hash && hash[1] && !hash[1 + strspn(hash + 1, "0123456789")]) length = (int)(hash - text);
    plain &= strcspn(text, "\",:#=@") >= (size_t)length;
    snprintf(command->traced, n, plain ? "embed@%.*s%s=3s" : "embed@\"%.*s\"%s=3s", length, text,
             text + length);
    command->source = "same";
    Request noise = { .op = "noise", .argument = command->traced },
            patch = { .op = "patch", .argument = sites, .window = window };
    add_request(&command->edits, noise);
    add_request(&command->edits, patch);
    return set_each(command);
}

static int uses(const Command *command, const char *op)
{
    for (int i = 0; i < command->edits.n; i++)
        if (!strcmp(command->edits.at[i].op, op)) return 1;
    return 0;
}

/* What cannot be asked together. */
static int check_command(Command *c)
{
    int from_stdin = c->prompt && c->source && !strcmp(c->prompt, "-") && !strcmp(c->source, "-");
    int pictures = c->swept >= 0 || c->lens || c->attn || c->loss;
    const struct { int wrong; const char *why; } rules[] = {
        { from_stdin, "--source: the prompt is read from standard input already" },
        { c->source && c->source_tokens, "--source-tokens: there is a --source already" },
        { c->data && (c->prompt || c->tokens),
          "--data: there is a prompt already; the prompts stand in the file" },
        { c->data && (c->generate || c->saves.n),
          "--data: --generate and --save are for one prompt" },
        { c->mean_from && !c->data, "--mean-from is for --data" },
        { c->align && !uses(c, "steer"), "--align is for --steer" },
        { c->json && c->tsv, "--tsv: there is --json already" },
        { (c->temp >= 0 || c->top_p >= 0) && !c->generate,
          "--temp and --top-p are for --generate" },
        { c->provenance && !c->json, "--provenance is for --json" },
        { c->samples && !uses(c, "noise"), "--samples is for --noise and --trace" },
        { c->svg && !pictures,
          "--svg: there is no picture to draw; --each, --lens, --attn and --loss make one" },
        { c->generate && c->swept >= 0, "--each and --generate exclude each other" },
    };
    if (c->prompt && c->tokens)
        return mi_fail("--tokens: there is a prompt already, \"%.100s\"", c->prompt);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].wrong) return mi_fail("%s", rules[i].why);
    if (c->top < 0) c->top = c->generate || pictures ? 0 : 10;
    if (!c->samples) c->samples = 10;
    return 0;
}

static int parse_command(Command *command, int argc, char **argv)
{
    int only_prompts = 0, seen[N_OPTIONS] = {0};
    *command = (Command){ .top = -1, .color = "auto", .temp = -1, .top_p = -1, .swept = -1 };
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value;
        if (!only_prompts && !strcmp(word, "--")) {
            only_prompts = 1;
            continue;
        }
        if (only_prompts || word[0] != '-' || !word[1]) {
            if (command->prompt)
                return mi_fail("\"%.100s\": there is a prompt already, \"%.100s\"; a prompt of "
                               "several words needs quotes", word, command->prompt);
            command->prompt = word;
            continue;
        }
        const Option *o = find_option(word, &value);
        if (!o) return fail_option(word);
        if (!o->argument && value) return mi_fail("--%s takes no value", o->name);
        if (!value && !strcmp(o->name, "lens"))             /* which may stand alone */
            value = argv[i + 1] && is_choice(o->argument, argv[i + 1]) ? argv[++i] : "each";
        if (!value && o->argument && !(value = argv[++i]))
            return mi_fail("--%s needs a value: %s", o->name, o->argument);
        if (seen[o - OPTIONS]++ && o->kind == TEXT) return mi_fail("--%s is given twice", o->name);
        if (set_option(command, o, value) < 0) return -1;
    }
    return add_trace(command) < 0 ? -1 : check_command(command);
}

/* ============================================================================================= */
/* An experiment: the prompt, the runs and what is read from them                                */
/* ============================================================================================= */

/* One token, or several that count as one: logits by log-sum-exp, probabilities by sum. */
typedef struct {
    int *tokens, n;
    char label[64];
    int  spaced;                        /* 1: a space was put before the text to make it one token;
                                         * -1: it was not, but that would be a token too */
} TokenSet;

typedef struct { int *tokens, n; } Prompt;

/* The numbers to report. Those up to rank need an answer. */
typedef enum { LOGIT_DIFF, PROB, LOGPROB, LOGIT, RANK, KL, LOSS, N_METRICS } Metric;
static const struct { const char *name, *title; } METRICS[] = {
    { "logit_diff", "logit difference  %s − %s" }, { "prob", "probability of %s" },
    { "logprob", "log probability of %s" }, { "logit", "logit of %s" }, { "rank", "rank of %s" },
    { "kl", "KL divergence from base, in nats" }, { "loss", "mean loss over the prompt, in nats" },
};

/* What the model says at the position of interest in one run, averaged over its samples. */
typedef struct {
    const char   *name;                 /* base, edited or held, source */
    const MiRun  *run;
    int           lane, n_lanes;        /* its first one, and one for each sample */
    float        *logits, *prob;        /* [V] */
    double        metric, error, hits;  /* over --data: mean, standard error, share of top-1 */
    double       *each;                 /* [n_data] the metric of each row */
    int          *top, n_top;
    char         *text;                 /* generated */
    size_t        text_size;
} Reading;

/* A file that appears under its name only when it is complete. */
typedef struct { const char *path; char *part; FILE *file; } Output;

/* Addresses are read as edits that are never applied: one for each row to be read. */
typedef struct { MiEdits rows; Array array; int logits; Output output; } Save;
static const MiEdit READ_ONLY = { .op = MI_SET, .from = MI_FROM_CALLER, .head = -1 };

/* What an intervention needs besides its words. */
typedef struct {
    int    first_edit;                  /* its edits end where those of the next one begin */
    Prompt text[2];                     /* --toward and --away */
    double strength;                    /* |C v| / |h| of a steering; the deviation of noise */
    Array  file;                        /* the shape that --set expects */
} Detail;

typedef struct {
    const Command *command;
    MiModel       *model;
    MiTokenizer   *tokenizer;
    void         **owned;               /* the memory of everything below */
    int            n_owned;
    Prompt         prompt, donor;
    TokenSet       answer, versus;
    Metric         metric;
    int            at, samples, n_data, aligned;
    MiEdits        edits;               /* in all cells of --each */
    Detail        *detail;              /* [requests + 1] of each intervention */
    MiEdits        sweep;               /* in one cell: cell i, numbered as in grids[0], has */
    int           *first_swept;         /* first_swept[i] .. first_swept[i + 1] - 1; none: there */
    double        *cell;                /* is no such cell. [n_cells] the metric of each */
    int            n_cells;
    MiEdit        *sampled;             /* [samples, edits] */
    int            sample;              /* which one a sweep has come to, */
    double         started;             /* and when it began */
    MiRun         *base, *source, *edited, *other;  /* other: another row of --data */
    int            lane;                /* of edited, the first of `samples` */
    float         *logits;              /* [V] for whoever reads next */
    Reading        readings[3];
    int            n_readings;
    MiEdits        heads;               /* of --attn */
    Save          *saves;
    int            n_saves;
    Output         svg;
    Grid          *grids;
    int            n_grids, first_attn;
} Experiment;

/* The prompt that is used without one: who got the drink? */
static const char DEFAULT_PROMPT[] = "When Mary and John went to the store, John gave a drink to";

/* Memory that lives as long as the experiment. */
static void *own(Experiment *x, void *memory)
{
    x->owned = must(grow(x->owned, x->n_owned, sizeof *x->owned));
    return x->owned[x->n_owned++] = must(memory);
}

/* n elements of zeros, and one more */
static void *room(Experiment *x, size_t n, size_t size)
{
    return own(x, calloc(n + 1, size));
}

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

static int open_model(Experiment *x, const char *argv0)
{
    const Command *command = x->command;
    char        folder[4096], model[4200], tokenizer[4200];
    const char *chosen = command->model ? command->model : getenv("MI_MODEL");
    program_folder(argv0, folder, sizeof folder);
    snprintf(model, sizeof model, "%stiny.safetensors", folder);
    snprintf(tokenizer, sizeof tokenizer, "%stokenizer.bin", folder);
    x->model = mi_open(chosen && *chosen ? chosen : model);
    if (!x->model) return -1;
    x->tokenizer = mi_tokenizer_open(command->tokenizer ? command->tokenizer : tokenizer, x->model);
    return x->tokenizer ? 0 : -1;
}

/* A token as people can read it: its leading space as a dot, control characters escaped. */
static const char *token_label(const Experiment *x, int token, char *label, size_t size)
{
    int         n;
    const char *bytes = mi_token_bytes(x->tokenizer, token, &n);
    *label = 0;
    if (n == 0) append(label, size, "<%d>", token);
    for (int i = 0, length; i < n && strlen(label) + 12 < size; i += length) {
        int32_t code = utf8_decode((const uint8_t *)bytes + i, n - i, &length);
        if (bytes[i] == ' ') append(label, size, "·");
        else if (bytes[i] == '\n') append(label, size, "\\n");
        else if (bytes[i] == '\t') append(label, size, "\\t");
        else if (is_control(code))
            append(label, size, "<%02X>", (unsigned char)bytes[i]), length = 1;
        else append(label, size, "%.*s", length, bytes + i);
    }
    return label;
}

/* "3 ·John", or where the rows of --data differ in length "-1", from the end. */
static void pos_label(const Experiment *x, int t, char label[40])
{
    char token[32];
    const Command *c = x->command;
    int from_end = c->swept < 0 || strstr(c->edits.at[c->swept].typed, "@-");
    if (c->data && !x->aligned) snprintf(label, 40, "%d", from_end ? t - x->prompt.n : t);
    else snprintf(label, 40, "%d %s", t, token_label(x, x->prompt.tokens[t], token, sizeof token));
}

/* The tokens of a prompt side by side, for messages: "When|·Mary|·and". */
static void list_tokens(const Experiment *x, const Prompt *prompt, char *out, size_t size)
{
    char label[64];
    out[0] = 0;
    for (int t = 0; t < prompt->n && strlen(out) + 80 < size; t++)
        append(out, size, "%s%s", t ? "|" : "", token_label(x, prompt->tokens[t], label, 64));
}

/* ---- Prompts ---- */

/* An empty prompt with room for n tokens; --bos puts <|endoftext|> first. */
static int begin_prompt(Experiment *x, size_t n, Prompt *prompt)
{
    size_t most = x->model->shape.n_ctx;
    prompt->tokens = room(x, (n > most ? n : most) + 1, sizeof(int));
    prompt->n = x->command->bos;
    if (prompt->n && (prompt->tokens[0] = mi_row_of_id(x->tokenizer, END_OF_TEXT)) < 0)
        return mi_fail("--bos: the model has no token <|endoftext|>");
    return 0;
}

static int check_prompt(const Experiment *x, const char *flag, const Prompt *prompt)
{
    int n_ctx = x->model->shape.n_ctx;
    if (prompt->n == 0) return mi_fail("%s is empty", flag);
    if (prompt->n > n_ctx)
        return mi_fail("%s has %d tokens; this model's context is %d", flag, prompt->n, n_ctx);
    return 0;
}

/* Everything on standard input without its last newline */
static const char *read_stdin(Experiment *x, size_t *n)
{
    char *input = NULL;
    FILE *memory = must(open_memstream(&input, n));
    for (int c; (c = getchar()) != EOF;) putc(c, memory);
    must_close(memory);
    if (*n && input[*n - 1] == '\n') --*n;
    return own(x, input);
}

/* Text -> tokens. Only the prompt and the source can be - for standard input. */
static int encode_prompt(Experiment *x, const char *flag, const char *text, Prompt *prompt)
{
    size_t n = strlen(text);
    if (!strcmp(text, "-") && !x->command->data && is_choice("the prompt|--source", flag))
        text = read_stdin(x, &n);
    int64_t count = mi_encode(x->tokenizer, text, n, NULL, 0);
    if (count > INT_MAX / 8) count = mi_fail("%s is too long", flag);
    if (count < 0) return mi_fail_in(flag);
    if (begin_prompt(x, count, prompt) < 0) return -1;
    mi_encode(x->tokenizer, text, n, prompt->tokens + prompt->n, count);
    prompt->n += (int)count;
    return check_prompt(x, flag, prompt);
}

/* An argument with addresses; value is where its "=VALUE" begins, or NULL. */
static Parser parser_of(const Experiment *x, const char *flag, const char *text, const char *value)
{
    return (Parser){ .model = x->model, .tokenizer = x->tokenizer, .tokens = x->prompt.tokens,
                     .n = x->prompt.n, .flag = flag, .argument = text, .at = text,
                     .end = value ? value : text + strlen(text) };
}

/* The addresses before the "=VALUE" -> p->found, which lives as long as the experiment */
static int read_list(Experiment *x, Parser *p)
{
    int status = parse_list(p);
    if (p->found) own(x, p->found);
    return status;
}

/* "464 3290" -> tokens */
static int parse_ids(Experiment *x, const char *flag, const char *text, Prompt *prompt)
{
    static const char gaps[] = " ,\t\n";
    Parser p = parser_of(x, flag, text, NULL);
    int    id;
    if (begin_prompt(x, strlen(text) + 1, prompt) < 0) return -1;
    for (;;) {
        p.at += strspn(p.at, gaps);
        const char *start = p.at;
        if (p.at == p.end) return check_prompt(x, flag, prompt);
        if (!take_number(&p, &id) || (p.at < p.end && !strchr(gaps, *p.at)))
            return fail_at(&p, p.at, "expected GPT-2 ids, as in \"464 3290\"");
        int row = mi_row_of_id(x->tokenizer, id);
        if (row < 0) return fail_at(&p, start, "the model has no token with the id %d", id);
        prompt->tokens[prompt->n++] = row;
    }
}

static int read_prompt(Experiment *x)
{
    const Command *c = x->command;
    int status = c->tokens ? parse_ids(x, "--tokens", c->tokens, &x->prompt)
               : encode_prompt(x, "the prompt", c->prompt ? c->prompt : DEFAULT_PROMPT, &x->prompt);
    if (status < 0) return -1;
    if (c->generate > x->model->shape.n_ctx - x->prompt.n)
        return mi_fail("--generate: %d tokens after the prompt's %d are more than this model's "
                       "context of %d", c->generate, x->prompt.n, x->model->shape.n_ctx);
    if (c->loss && x->prompt.n < 2) return mi_fail("--loss needs a prompt of at least two tokens");
    return 0;
}

/* The unedited donor of --patch: another prompt of the same number of tokens. */
static int read_source(Experiment *x)
{
    const Command *c = x->command;
    int status = 0;
    if (c->data && !uses(c, "patch") && !c->mean_from) return 0;  /* a column that is not needed */
    if (c->source_tokens) status = parse_ids(x, "--source-tokens", c->source_tokens, &x->donor);
    else if (!c->source) return 0;
    else if (!strcmp(c->source, "same")) x->donor = x->prompt;
    else status = encode_prompt(x, "--source", c->source, &x->donor);
    if (status < 0 || x->donor.n == x->prompt.n) return status;
    char ours[700], theirs[700];
    list_tokens(x, &x->prompt, ours, sizeof ours);
    list_tokens(x, &x->donor, theirs, sizeof theirs);
    mi_fail("--source: it has %d tokens, the prompt %d; patching needs the same number", x->donor.n,
            x->prompt.n);
    append(error_text, sizeof error_text, "\n    prompt  %s\n    source  %s", ours, theirs);
    return -1;
}

static int is_in(const TokenSet *set, int token)
{
    for (int i = 0; i < set->n; i++)
        if (set->tokens[i] == token) return 1;
    return 0;
}

/* One alternative of --answer: "#id", or text that is one token, else with a space before it. */
static int parse_answer(const Experiment *x, const char *flag, const char *text, size_t n,
                        TokenSet *set)
{
    char spaced[256];
    int  tokens[16], row;
    if (n > 1 && text[0] == '#' && strspn(text + 1, "0123456789") >= n - 1) {
        row = n < 8 ? mi_row_of_id(x->tokenizer, atoi(text + 1)) : -1;
        return row >= 0 ? row : mi_fail("%s: the model has no token %.*s", flag, (int)n, text);
    }
    if (n == 0 || n > 200) return mi_fail("%s: expected a token", flag);
    int64_t pieces = mi_encode(x->tokenizer, text, n, tokens, 16);
    if (pieces < 0) return mi_fail_in(flag);
    snprintf(spaced, sizeof spaced, " %.*s", (int)n, text);
    int also = *text != ' ' && mi_encode(x->tokenizer, spaced, n + 1, &row, 1) == 1;
    if (also) set->spaced = pieces == 1 ? -1 : 1;
    if (pieces == 1) return tokens[0];
    if (also) return row;
    Prompt list = { tokens, (int)(pieces < 16 ? pieces : 16) };
    char   shown[700];
    list_tokens(x, &list, shown, sizeof shown);
    return mi_fail("%s: \"%.*s\" is more than one token: %s", flag, (int)n, text, shown);
}

static int add_answer(const Experiment *x, const char *flag, const char *text, size_t n,
                      TokenSet *set)
{
    char label[64];
    int  row = parse_answer(x, flag, text, n, set);
    if (row < 0) return -1;
    if (!is_in(set, row)) set->tokens[set->n++] = row;
    append(set->label, sizeof set->label, "%s%s", *set->label ? "|" : "",
           token_label(x, row, label, 40));
    return 0;
}

/* "Mary", "#5335", " are| were", "33-99" (two-digit tokens) -> the tokens */
static int parse_token_set(Experiment *x, const char *flag, const char *text, TokenSet *set)
{
    int low, high, n = 0;
    if (!text) return 0;
    set->tokens = room(x, strlen(text) + 100, sizeof(int));
    if (isdigit((unsigned char)*text) && sscanf(text, "%2d-%2d%n", &low, &high, &n) == 2 &&
        n == 5 && isdigit((unsigned char)text[3]) && !text[5] && low <= high) {
        for (char digits[16]; low <= high; low++) {
            snprintf(digits, sizeof digits, "%02d", low);
            if (add_answer(x, flag, digits, 2, set) < 0) return -1;
        }
        strcpy(set->label, text);
        set->spaced = 0;
        return 0;
    }
    for (;; text++) {
        size_t length = strcspn(text, "|");
        if (add_answer(x, flag, text, length, set) < 0) return -1;
        text += length;
        if (!*text) return 0;
    }
}

/* --at: one position, with or without the @ */
static int read_position(Experiment *x)
{
    Range pos;
    x->at = x->prompt.n - 1;
    if (!x->command->at) return 0;
    Parser p = parser_of(x, "--at", x->command->at, NULL);
    if (take(&p, "@"), parse_position(&p, &pos) < 0) return -1;
    if (p.at < p.end) return fail_at(&p, p.at, "expected the end of the position");
    if (pos.lo != pos.hi) return fail_at(&p, p.argument, "expected one position");
    x->at = pos.lo;
    return 0;
}

static int read_answers(Experiment *x)
{
    const Command *c = x->command;
    int built_in = !c->prompt && !c->tokens && !c->answer && !c->versus;
    if (c->versus && !c->answer) return mi_fail("--versus needs --answer");
    int status = parse_token_set(x, "--answer", built_in ? " Mary" : c->answer, &x->answer);
    if (status == 0)
        status = parse_token_set(x, "--versus", built_in ? " John" : c->versus, &x->versus);
    if (status < 0 && !built_in) return -1;
    if (status < 0) x->answer.n = x->versus.n = 0;      /* another model may lack our names */
    x->metric = x->versus.n ? LOGIT_DIFF : x->answer.n ? PROB : KL;
    for (Metric m = 0; c->metric && m < N_METRICS; m++)
        if (!strcmp(c->metric, METRICS[m].name)) x->metric = m;
    if (x->metric == LOGIT_DIFF && !x->versus.n)
        return mi_fail("--metric: logit_diff needs --answer and --versus");
    if (x->metric <= RANK && !x->answer.n) return mi_fail("--metric: %s needs --answer", c->metric);
    if (x->metric == LOSS && x->prompt.n < 2)
        return mi_fail("--metric: loss needs a prompt of at least two tokens");
    return read_position(x);
}

/* ---- The cells of a sweep ---- */

static Grid *next_grid(Experiment *x, int n_rows, int n_cols, int words)
{
    size_t cells = (size_t)n_rows * n_cols;
    x->grids = must(grow(x->grids, x->n_grids, sizeof *x->grids));
    Grid *grid = &x->grids[x->n_grids++];
    *grid = (Grid){ .n_rows = n_rows, .n_cols = n_cols };
    grid->value = room(x, cells, sizeof *grid->value);
    grid->row = room(x, n_rows + n_cols, sizeof *grid->row);
    grid->col = grid->row + n_rows;
    if (words) grid->word = room(x, cells, sizeof *grid->word);
    for (size_t i = 0; i < cells; i++) grid->value[i] = NAN;
    return grid;
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
        total *= layout.n[i];
    }
    int tall = list || last == 0 || (last == 1 && a->unit == NEURON && total == layout.n[1]);
    layout.column = tall ? -1 : last;
    layout.n_cols = tall ? 1 : layout.n[last];
    layout.n_rows = total / layout.n_cols;
    return layout;
}

/* Add one axis to the label of a cell's row or column: "L5", "H3", "L5H3", "12 ·John". */
static void add_to_label(const Experiment *x, const Address *a, int axis, int value, char label[40])
{
    char letter = axis == 0 ? 'L' : a->unit == NEURON ? 'N' : 'H', text[40];
    if (axis >= 2) pos_label(x, value, text);
    else snprintf(text, sizeof text, "%c%d", letter, value);
    append(label, 40, "%s%.30s", *label && axis != 1 ? " " : "", text);
}

/* The position "@S2" of element i of a list as it was typed; "" if it has none. */
static const char *typed_position(const char *list, int i, int *length)
{
    const char *position = "";
    int         quoted = 0;
    for (; *list && (i > 0 || quoted || !strchr(",=", *list)); list++) {
        if (*list == '"') quoted = !quoted;
        if (*list == ',' && !quoted) i--;
        if (*list == '@' && i == 0 && !quoted) position = list;
    }
    *length = *position ? (int)(list - position) : 0;
    return position;
}

/* The full name of a cell, to tell the elements of a list apart: "L5H3", "L0.mlp_out@S2". */
static void name_cell(const Address *a, const Range now[4], const char *typed, int i,
                      char label[40])
{
    static const MiSite usual[] = { MI_N_SITES, MI_z, MI_mlp_post };
    int         length, in_block = SITES[a->site].place == MI_BLOCK;
    const char *position = typed_position(typed, i, &length);
    *label = 0;
    if (in_block) append(label, 40, "L%d", now[0].lo);
    if (a->unit != WHOLE_ROW) append(label, 40, "%c%d", a->unit == HEAD ? 'H' : 'N', now[1].lo);
    if (a->site != usual[a->unit])
        append(label, 40, "%s%s", in_block ? "." : "", SITES[a->site].name);
    const char *colon = a->has_key && !a->key.many ? memchr(position, ':', length) : NULL;
    if (!a->pos.many) append_visible(label, 40, position, length);
    else if (colon) append_visible(label, 40, colon, length - (colon - position));
}

/* One address -> its cells, each with its edits, from row `first` of the table on. */
static int add_cells(Experiment *x, const Parser *p, const Address *a, const MiEdit *edit,
                     const Layout *layout, int first)
{
    int n_layer = x->model->shape.n_layer;
    const Request *request = &x->command->edits.at[x->command->swept];
    int window = request->window, element = p->argument[0] == 'n' ? 0 : (int)(a - p->found);
    for (int i = 0; i < layout->n_rows * layout->n_cols; i++) {
        char *row = x->grids[0].row[first + i / layout->n_cols];
        char *col = x->grids[0].col[i % layout->n_cols];
        Range now[4];
        for (int axis = 3, rest = i; axis >= 0; rest /= layout->n[axis--]) {
            now[axis] = layout->axis[axis];
            if (now[axis].many) now[axis].lo = now[axis].hi = now[axis].lo + rest % layout->n[axis];
        }
        int list = p->n_found > 1;
        *row = *col = 0;
        if (list) name_cell(a, now, request->typed, element, row);
        for (int axis = list ? 2 : 0; axis < 4; axis++)
            if (now[axis].many)
                add_to_label(x, a, axis, now[axis].lo, axis == layout->column ? col : row);
        Address one = *a;
        int     l = now[0].lo;
        one.layer = now[0], one.index = now[1], one.pos = now[2], one.key = now[3];
        if (window)
            one.layer = (Range){ max_int(0, l - window / 2),
                                 min_int(n_layer, l + (window + 1) / 2) - 1, 0 };
        if (one.key.lo <= one.pos.hi && expand(&x->sweep, p, &one, *edit) < 0) return -1;
        x->first_swept[++x->n_cells] = x->sweep.n;
    }
    return 0;
}

/* --each: the argument of one request -> its table of cells. Their edits take the place that the
 * command gave the swept intervention. */
static int read_sweep(Experiment *x, const Request *request)
{
    const char *text = request->argument, *equals = find_value(text);
    char        flag[32];
    MiEdit      edit;
    snprintf(flag, sizeof flag, "--%s", request->op);
    Parser p = parser_of(x, flag, text, equals);
    int    n_rows = 0, n_cols = 1, n = 0;
    if (read_list(x, &p) < 0) return -1;
    if (parse_value(&p, request->op, equals ? equals + 1 : NULL, &edit) < 0) return -1;
    if (!strcmp(request->op, "set")) return mi_fail("--each: a --set is not swept");
    for (int i = 0; i < p.n_found; i++) {
        Layout layout = lay_out(&p.found[i], p.n_found > 1);
        n_rows += layout.n_rows, n_cols = layout.n_cols;
    }
    x->first_swept = room(x, (size_t)n_rows * n_cols, sizeof *x->first_swept);
    x->cell = room(x, (size_t)n_rows * n_cols, sizeof *x->cell);
    next_grid(x, n_rows, n_cols, 0);
    edit.order = x->command->swept;
    edit.seed = x->command->seed;
    x->detail[edit.order].strength = edit.amount;
    for (int i = 0, row = 0; i < p.n_found; i++) {
        Layout layout = lay_out(&p.found[i], p.n_found > 1);
        if (add_cells(x, &p, &p.found[i], &edit, &layout, row) < 0) return -1;
        row += layout.n_rows;
    }
    for (int i = 0; i < x->n_cells; i++) n += x->first_swept[i + 1] > x->first_swept[i];
    return n >= 2 ? 0 : fail_at(&p, text, "--each sweeps what is written with several values: "
                                "L*H*, L5H3@*, a list");
}

/* ---- Edits and readouts ---- */

/* The shape that --save writes an address in, and --set reads:
 * [L,]T,H,d for q k v z, [L,]H,T,T for scores and pattern, [L,]T,width otherwise. */
static Array shape_of(const Experiment *x, const Address *a)
{
    const MiShape *s = &x->model->shape;
    MiWidth width = SITES[a->site].width;
    int     units = a->index.hi - a->index.lo + 1;
    int     heads = a->unit == HEAD ? units : s->n_head, many = a->unit != HEAD || a->index.many;
    Array   array = { .n = 1 };
    if (a->layer.many) array.dim[array.n_dims++] = a->layer.hi - a->layer.lo + 1;
    if (width == MI_KEYS && many) array.dim[array.n_dims++] = heads;
    array.dim[array.n_dims++] = a->pos.hi - a->pos.lo + 1;
    if (width == MI_HEADS && many) array.dim[array.n_dims++] = heads;
    array.dim[array.n_dims++] = width == MI_KEYS ? x->prompt.n : width == MI_HEADS ? s->d_head
                              : a->unit == NEURON ? units : width_of(x->model, a->site, 0);
    for (int i = 0; i < array.n_dims; i++) array.n *= array.dim[i];
    return array;
}

/* SITES=FILE with exactly one address (a range is one) -> the file's shape, and its rows. */
static int one_address(Experiment *x, const char *flag, const char *text, Array *array,
                       MiEdits *rows)
{
    const char *equals = find_value(text);
    Parser p = parser_of(x, flag, text, equals);
    if (!equals || !equals[1]) return fail_at(&p, text + strlen(text), "expected =FILE.npy");
    if (read_list(x, &p) < 0) return -1;
    if (p.n_found != 1)
        return fail_at(&p, text, "expected one address a file; a range like L*H* is one");
    if (p.found->has_key)
        return fail_at(&p, text, "scores and pattern are saved with all their keys");
    *array = shape_of(x, p.found);
    return expand(rows, &p, p.found, READ_ONLY);
}

static int aligns_front(const Experiment *x)
{
    return x->command->align && !strcmp(x->command->align, "front");
}

/* The direction of a --steer or --project, as far as the command line goes. */
static int read_direction(Experiment *x, const Request *request, Detail *detail)
{
    const char *texts[2] = { request->toward, request->away }, *file = request->direction;
    if (!texts[0] && !texts[1] && !file)
        return mi_fail("--%s needs a direction: --toward TEXT, --away TEXT, or --direction",
                       request->op);
    for (int i = 0; i < 2; i++) {
        Prompt     *prompt = &detail->text[i];
        const char *flag = i ? "--away" : "--toward";
        if (texts[i] && encode_prompt(x, flag, texts[i], prompt) < 0) return -1;
        if (aligns_front(x) && prompt->n > x->prompt.n)
            return mi_fail("--align front: %s has %d tokens, the prompt only %d", flag, prompt->n,
                           x->prompt.n);
    }
    if (!file) return 0;
    if (!strncmp(file, "random:", 7)) {
        size_t digits = strspn(file + 7, "0123456789");
        if (digits < 1 || digits > 18 || file[7 + digits])
            return mi_fail("--direction: expected a whole number after random:");
    } else if (texts[0] || texts[1])
        return mi_fail("--direction: there is a direction already, --toward or --away");
    return 0;
}

/* One intervention -> its edits, or the cells of its sweep. */
static int read_edit(Experiment *x, int which)
{
    const Command *c = x->command;
    const Request *request = &c->edits.at[which];
    const char    *text = request->argument, *value = find_value(text);
    Detail        *detail = &x->detail[which];
    int status = which == c->swept ? read_sweep(x, request)
               : !strcmp(request->op, "set")
               ? one_address(x, "--set", text, &detail->file, &x->edits)
               : mi_edits_parse(&x->edits, x->model, x->tokenizer, x->prompt.tokens, x->prompt.n,
                                request->op, text);
    if (status < 0) return -1;
    for (int i = detail->first_edit; i < x->edits.n; i++) {
        x->edits.at[i].seed = c->seed;
        x->edits.at[i].order = which;
        if (x->edits.at[i].op == MI_NOISE) detail->strength = x->edits.at[i].amount;
    }
    detail[1].first_edit = x->edits.n;
    if (!c->data && !strcmp(request->op, "ablate") && value && !strcmp(value, "=resample"))
        return mi_fail("--ablate =resample takes another row's value: it needs --data");
    return is_directed(request) ? read_direction(x, request, detail) : 0;
}

static int read_edits(Experiment *x)
{
    const Command *c = x->command;
    int patched = uses(c, "patch");
    x->detail = room(x, c->edits.n, sizeof *x->detail);
    x->logits = room(x, x->model->shape.n_vocab, sizeof *x->logits);
    x->samples = uses(c, "noise") ? c->samples : 1;
    for (int i = 0; i < c->edits.n; i++)
        if (read_edit(x, i) < 0) return -1;
    if (patched && !x->donor.n)
        return mi_fail("--patch needs --source PROMPT: where the value comes from");
    if (!patched && x->donor.n && !c->data)
        return mi_fail("--source is for --patch, and there is none");
    return 0;
}

/* --attn: heads, or all heads of a layer's scores or pattern */
static int read_heads(Experiment *x)
{
    if (!x->command->attn) return 0;
    Parser p = parser_of(x, "--attn", x->command->attn, NULL);
    if (read_list(x, &p) < 0) return -1;
    for (Address *a = p.found; a < p.found + p.n_found; a++) {
        int keys = SITES[a->site].width == MI_KEYS;
        if (!keys && (a->unit != HEAD || a->site != MI_z))
            return fail_at(&p, a->text, "expected heads, as in L5H3, or L5H3.scores");
        if (a->has_key) return fail_at(&p, a->text, "the picture has all keys; leave out the :");
        if (!keys) a->site = MI_pattern;
        if (expand(&x->heads, &p, a, READ_ONLY) < 0) return -1;
    }
    return 0;
}

/* All that can be known before anything runs. */
static int resolve(Experiment *x)
{
    return read_prompt(x) < 0 || read_source(x) < 0 || read_answers(x) < 0 || read_edits(x) < 0 ||
           read_heads(x) < 0 ? -1 : 0;
}

/* Open the file under another name; it gets its own when it is complete. Devices and pipes are
 * written directly. */
static int open_output(Experiment *x, Output *output)
{
    struct stat info;
    const char *path = output->path;
    if (output->file) return 0;
    if (!*path) return mi_fail("an output needs the name of a file");
    if (stat(path, &info) < 0 || S_ISREG(info.st_mode)) {
        size_t n = strlen(path) + 8;
        output->part = room(x, n, 1);
        snprintf(output->part, n, "%s.part", path);
    }
    output->file = fopen(output->part ? output->part : path, "wb");
    return output->file ? 0 : mi_fail("%s: cannot be written: %s", path, strerror(errno));
}

static int close_output(Output *output, int complete)
{
    int failed = output->file && (ferror(output->file) | fclose(output->file));
    if (output->part && output->file) {
        if (complete && !failed) failed = rename(output->part, output->path);
        if (!complete || failed) unlink(output->part);
    }
    *output = (Output){ .path = output->path };
    return failed && complete
         ? mi_fail("%s: cannot be written: %s", output->path, strerror(errno)) : 0;
}

/* Before any work: can it be written? Devices and pipes stay open; of a file nothing is there until
 * it is written, so that nothing is left behind by a program that is interrupted. */
static int try_output(Experiment *x, Output *output)
{
    if (open_output(x, output) < 0) return -1;
    return output->part ? close_output(output, 0) : 0;
}

/* --save SITES=FILE: one address, or logits */
static int read_saves(Experiment *x)
{
    const Requests *saves = &x->command->saves;
    x->saves = room(x, saves->n, sizeof *x->saves);
    for (int i = 0; i < saves->n; i++) {
        const char *text = saves->at[i].argument, *equals = find_value(text);
        Save       *save = &x->saves[x->n_saves++];
        save->output.path = equals ? equals + 1 : "";
        save->logits = equals && equals[1] && equals - text == 6 && !strncmp(text, "logits", 6);
        save->array = (Array){ 2, { x->prompt.n, x->model->shape.n_vocab },
                               (size_t)x->prompt.n * x->model->shape.n_vocab, NULL };
        if (!save->logits && one_address(x, "--save", text, &save->array, &save->rows) < 0)
            return -1;
        for (int j = 0; j < i; j++)
            if (!strcmp(x->saves[j].output.path, save->output.path))
                return mi_fail("--save: two of them write to %s", save->output.path);
        if (x->command->svg && !strcmp(x->command->svg, save->output.path))
            return mi_fail("--save: --svg writes to %s too", save->output.path);
    }
    return 0;
}

static int open_outputs(Experiment *x)
{
    for (int i = 0; i < x->n_saves; i++)
        if (try_output(x, &x->saves[i].output) < 0) return -1;
    x->svg.path = x->command->svg;
    return x->svg.path ? try_output(x, &x->svg) : 0;
}

/* ---- Running ---- */

enum {                                  /* sets of MiFrom */
    FROM_MEAN = 1 << MI_FROM_MEAN, FROM_SOURCE = 1 << MI_FROM_SOURCE, FROM_BASE = ~FROM_SOURCE,
    FROM_ANYWHERE = ~0
};

/* The sites of the edits whose values come from there. */
static uint64_t sites_of(const MiEdits *edits, int from)
{
    uint64_t keep = MI_KEEP_NONE;
    for (int i = 0; i < edits->n; i++)
        if (from & 1 << edits->at[i].from) keep |= (uint64_t)1 << edits->at[i].site;
    return keep;
}

/* v [count] from a file */
static int read_direction_file(const char *path, float *v, int count)
{
    Array array;
    if (read_npy(path, &array) < 0) return -1;
    int fits = array.n == (size_t)count;
    if (fits) memcpy(v, array.values, count * sizeof *v);
    free(array.values);
    return fits ? 0 : mi_fail("%s: a direction here has %d numbers; the file has %zu", path, count,
                              array.n);
}

/* v [count] at one edit: toward minus away, a file's values, or random ones of the same norm. */
static int direction_row(const Experiment *x, const Request *request, const MiEdit *edit,
                         MiRun *const runs[2], int row, float *v)
{
    const char *from = request->direction;
    for (int side = 0; side < 2; side++) {
        if (!runs[side]) continue;
        int pos = aligns_front(x) ? row : mi_n_tokens(runs[side], 0) - 1;
        const float *h = row_at(runs[side], 0, edit, pos);
        if (!h) return -1;
        for (int i = 0; i < edit->count; i++) v[i] = side ? v[i] - h[i] : h[i];
    }
    if (!from) return 0;
    if (strncmp(from, "random:", 7)) return read_direction_file(from, v, edit->count);
    MiEdit noise = *edit;
    double norm = sqrt(x->base->kernel->dot(v, v, edit->count)), drawn = 0;
    noise.seed = strtoull(from + 7, NULL, 10);
    for (int i = 0; i < edit->count; i++) {
        v[i] = normal_at(&noise, 0, i);
        drawn += v[i] * v[i];
    }
    for (int i = 0; i < edit->count; i++)
        v[i] *= (float)((runs[0] || runs[1] ? norm : 1) / sqrt(drawn));
    return 0;
}

/* |C v| / |h|, averaged over the rows that are steered: how hard do we push? */
static double push(const Experiment *x, const MiEdit *edit)
{
    double ratio = 0;
    int    last = min_int(edit->pos_end, x->prompt.n);
    for (int t = edit->pos; t < last; t++) {
        const float *v = edit->value + (t - edit->pos) * edit->value_stride;
        const float *h = row_at(x->base, 0, edit, t);
        ratio += fabs(edit->amount) * sqrt(x->base->kernel->dot(v, v, edit->count) /
                                           x->base->kernel->dot(h, h, edit->count));
    }
    return ratio / (last - edit->pos);
}

/* One edit's direction: a row, or with --align front one for each of the first positions. */
static int bind_direction(Experiment *x, int which, MiEdit *edit, MiRun *const runs[2], int rows)
{
    const Request *request = &x->command->edits.at[which];
    float *v = room(x, (size_t)rows * edit->count, sizeof *v);
    for (int row = 0; row < rows; row++)
        if (direction_row(x, request, edit, runs, row, v + (size_t)row * edit->count) < 0)
            return -1;
    double norm = sqrt(x->base->kernel->dot(v, v, rows * edit->count));
    if (!isfinite(norm) || (norm == 0 && which != x->command->swept))
        return mi_fail("--%s: the direction at L%d.%s is %s", request->op, edit->layer,
                       SITES[edit->site].name, norm == 0 ? "zero" : "infinite");
    for (int i = 0; i < edit->count && edit->op == MI_PROJECT && norm > 0; i++)
        v[i] /= (float)norm;                            /* in a sweep's cell, 0 changes nothing */
    edit->value = v;
    if (aligns_front(x)) edit->pos = 0, edit->pos_end = rows, edit->value_stride = edit->count;
    x->detail[which].strength += push(x, edit);
    return 0;
}

/* The directions of one --steer or --project, into its edits. To be aligned at the front, the
 * shorter text is padded with spaces. */
static int bind_directions(Experiment *x, int which, MiEdits edits)
{
    Detail    *detail = &x->detail[which];
    MiOptions  options = { .keep = sites_of(&edits, FROM_ANYWHERE) | MI_KEEP_CACHE,
                           .threads = x->command->threads };
    MiRun     *runs[2] = { NULL, NULL };
    int        rows = 1, space, status = 0;
    if (aligns_front(x)) rows = max_int(1, max_int(detail->text[0].n, detail->text[1].n));
    for (int side = 0; side < 2 && status == 0; side++) {
        Prompt *text = &detail->text[side];
        if (!text->n) continue;
        if (text->n < rows && mi_encode(x->tokenizer, " ", 1, &space, 1) != 1)
            status = mi_fail("--%s: cannot be padded with spaces", side ? "away" : "toward");
        while (text->n < rows && status == 0) text->tokens[text->n++] = space;
        if (status == 0) runs[side] = mi_run(x->model, text->tokens, text->n, NULL, &options);
        if (!runs[side]) status = -1;
    }
    for (int i = 0; i < edits.n && status == 0; i++)
        status = bind_direction(x, which, &edits.at[i], runs, rows);
    detail->strength /= edits.n;
    mi_free(runs[0]);
    mi_free(runs[1]);
    return status;
}

/* --set SITES=FILE.npy: the file's values into the request's edits. */
static int bind_file(Experiment *x, int which)
{
    const char   *text = x->command->edits.at[which].argument, *path = find_value(text) + 1;
    const Detail *detail = &x->detail[which];
    Array         array;
    char          have[64], want[64];
    if (read_npy(path, &array) < 0) return -1;
    float *values = own(x, array.values);
    print_shape(want, sizeof want, &detail->file);
    print_shape(have, sizeof have, &array);
    if (strcmp(want, have))
        return mi_fail("%s has the shape (%s), but --set %.200s needs (%s)", path, have, text,
                       want);
    for (int i = detail->first_edit; i < detail[1].first_edit; i++) {
        MiEdit *edit = &x->edits.at[i];
        edit->value = values;
        edit->value_stride = edit->head >= 0 ? x->prompt.n : edit->count;
        values += (edit->pos_end - edit->pos) * edit->value_stride;
    }
    return 0;
}

static int bind_requests(Experiment *x)
{
    for (int i = 0; i < x->command->edits.n; i++) {
        const Request *request = &x->command->edits.at[i];
        int     first = x->detail[i].first_edit;
        MiEdits ours = { .n = x->detail[i + 1].first_edit - first };
        if (ours.n) ours.at = x->edits.at + first;
        if (!strcmp(request->op, "set") && bind_file(x, i) < 0) return -1;
        if (is_directed(request) &&
            bind_directions(x, i, i == x->command->swept ? x->sweep : ours) < 0)
            return -1;
    }
    if (mi_edits_bind(&x->sweep, x->base, x->source) < 0) return -1;
    return mi_edits_bind(&x->edits, x->base, x->source);
}

/* The sites that the readouts will ask for, from any run. */
static uint64_t sites_shown(const Experiment *x)
{
    uint64_t keep = sites_of(&x->heads, FROM_ANYWHERE);
    if (x->command->lens) keep |= MI_KEEP(resid_pre) | MI_KEEP(resid_mid) | MI_KEEP(resid_post);
    for (int i = 0; i < x->n_saves; i++) keep |= sites_of(&x->saves[i].rows, FROM_ANYWHERE);
    return keep;
}

/* The unedited runs, and what the edits take from them. The base keeps what a sweep edits: so it is
 * known which cells change nothing. */
static int prepare(Experiment *x)
{
    MiOptions options = { .keep = sites_shown(x), .threads = x->command->threads };
    options.keep |= sites_of(&x->edits, FROM_BASE) | sites_of(&x->sweep, FROM_ANYWHERE);
    if (!x->edits.n && !x->sweep.n) options.keep |= MI_KEEP_CACHE;
    x->base = mi_run(x->model, x->prompt.tokens, x->prompt.n, NULL, &options);
    if (!x->base) return -1;
    options.keep = sites_of(&x->edits, FROM_SOURCE) | sites_of(&x->sweep, FROM_SOURCE) |
                   MI_KEEP_CACHE;
    if (x->donor.n && uses(x->command, "patch") &&
        !(x->source = mi_run(x->model, x->donor.tokens, x->donor.n, NULL, &options)))
        return -1;
    if (bind_requests(x) < 0) return -1;
    int n = x->edits.n;
    x->sampled = room(x, (size_t)x->samples * n, sizeof *x->sampled);
    for (int i = 0; i < x->samples * n; i++) {
        x->sampled[i] = x->edits.at[i % n];
        x->sampled[i].sample = i / n;
    }
    return 0;
}

/* The edited runs of n experiments in one fork: a lane for each, or for each sample of its noise.
 * It belongs to the first of them. */
static int run_edited(Experiment *x, int n)
{
    int n_lanes = 0;
    for (int i = 0; i < n; i++) n_lanes += x[i].samples;
    if (!x->edits.n) return 0;
    MiLane *lanes = room(x, n_lanes, sizeof *lanes);
    n_lanes = 0;
    for (int i = 0; i < n; i++) {
        x[i].lane = n_lanes;
        for (int s = 0; s < x[i].samples; s++)
            lanes[n_lanes++] = (MiLane){ x[i].base, x[i].sampled + (size_t)s * x[i].edits.n,
                                         x[i].edits.n, -1, 0 };
    }
    MiRun *fork = mi_fork(lanes, n_lanes, -1, sites_shown(x));
    for (int i = 0; i < n; i++) x[i].edited = fork;
    return fork ? 0 : -1;
}

/* ---- Reading ---- */

/* The logit of a set of tokens: log of the sum of their e^logit. */
static double set_logit(const TokenSet *set, const float *logits)
{
    if (set->n == 1) return logits[set->tokens[0]];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < set->n; i++) max = fmax(max, logits[set->tokens[i]]);
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

/* -log p(token t | the tokens before it) */
static double token_loss(const Experiment *x, const MiRun *run, int lane, const Prompt *prompt,
                         int t)
{
    if (mi_logits(run, lane, t - 1, x->logits) < 0) return NAN;
    return mi_log_sum_exp(x->logits, x->model->shape.n_vocab) - x->logits[prompt->tokens[t]];
}

static double mean_loss(const Experiment *x, const MiRun *run, int lane, const Prompt *prompt)
{
    double sum = 0;
    for (int t = 1; t < prompt->n; t++) sum += token_loss(x, run, lane, prompt, t);
    return sum / (prompt->n - 1);
}

/* The metric, from the logits at the position of interest. kl compares with base's logits. */
static double metric_of(const Experiment *x, const float *logits, const float *base)
{
    int    V = x->model->shape.n_vocab;
    double logit = x->answer.n ? set_logit(&x->answer, logits) : NAN;
    switch (x->metric) {
    case LOGIT_DIFF: return logit - set_logit(&x->versus, logits);
    case PROB:       return exp(logit - mi_log_sum_exp(logits, V));
    case LOGPROB:    return logit - mi_log_sum_exp(logits, V);
    case LOGIT:      return logit;
    case RANK:       return rank_of(&x->answer, logits, V);
    case KL:         return divergence(base, logits, V);
    default:         return NAN;
    }
}

static int has_sign(Metric m) { return m == LOGIT_DIFF || m == LOGPROB || m == LOGIT; }

static int read_run(Experiment *x, Reading what, const Prompt *prompt)
{
    int      V = x->model->shape.n_vocab, k = min_int(x->command->top, V), S = what.n_lanes;
    float   *logits = x->logits;
    Reading *reading = &x->readings[x->n_readings++];
    *reading = what;
    reading->logits = room(x, V, sizeof *reading->logits);
    reading->prob = room(x, V, sizeof *reading->prob);
    reading->top = room(x, k, sizeof *reading->top);
    for (int s = 0; s < S; s++) {
        if (mi_logits(what.run, what.lane + s, x->at, logits) < 0) return -1;
        double log_sum = mi_log_sum_exp(logits, V);
        for (int i = 0; i < V; i++) {
            reading->logits[i] += logits[i] / S;
            reading->prob[i] += (float)exp(logits[i] - log_sum) / S;
        }
        reading->metric += (x->metric == LOSS ? mean_loss(x, what.run, what.lane + s, prompt)
                            : metric_of(x, logits, x->readings[0].logits)) / S;
    }
    reading->n_top = isfinite(reading->prob[0]) ? mi_top(reading->prob, V, k, reading->top) : 0;
    return 0;
}

static int read_all(Experiment *x)
{
    Reading base = { .name = "base", .run = x->base, .n_lanes = 1 };
    Reading source = { .name = "source", .run = x->source, .n_lanes = 1 };
    Reading edited = { .name = x->command->swept < 0 ? "edited" : "held", .run = x->edited,
                       .lane = x->lane, .n_lanes = x->samples };
    if (read_run(x, base, &x->prompt) < 0) return -1;
    if (x->edited && read_run(x, edited, &x->prompt) < 0) return -1;
    return x->source ? read_run(x, source, &x->donor) : 0;
}

/* The reading of the source, or NULL; and of the run that a sweep's edits are added to. */
static const Reading *source_of(const Experiment *x)
{
    for (int i = 1; i < x->n_readings; i++)
        if (!strcmp(x->readings[i].name, "source")) return &x->readings[i];
    return NULL;
}

static const Reading *held_of(const Experiment *x)
{
    int edited = x->n_readings > 1 && strcmp(x->readings[1].name, "source");
    return &x->readings[edited];
}

/* ---- Sweeping ---- */

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* The metric of one lane: only the logits that it needs are computed. */
static double measure_lane(void *context, const MiRun *run, int lane)
{
    const Experiment *x = context;
    int diff = x->metric == LOGIT_DIFF;
    if (x->metric == LOSS) return mean_loss(x, run, lane, &x->prompt);
    if ((diff && x->answer.n == 1 && x->versus.n == 1) ||
        (x->metric == LOGIT && x->answer.n == 1)) {
        int   tokens[2] = { x->answer.tokens[0], diff ? x->versus.tokens[0] : 0 };
        float logits[2] = {0};
        if (mi_logits_of(run, lane, x->at, tokens, 1 + diff, logits) < 0) return NAN;
        return diff ? (double)logits[0] - logits[1] : logits[0];
    }
    if (mi_logits(run, lane, x->at, x->logits) < 0) return NAN;
    return metric_of(x, x->logits, x->readings[0].logits);
}

/* On a terminal that has waited for more than a second. */
static void show_progress(void *context, int done, int n)
{
    const Experiment *x = context;
    if (!isatty(2) || seconds_now() - x->started < 1) return;
    double share = ((double)done / n + x->sample) / x->samples;
    fputs("\r  ", stderr);
    print_bar(stderr, share, 40, "");
    fprintf(stderr, " %3.0f %%", 100 * share);
    if (share >= 1) fprintf(stderr, "\r%50s\r", "");
}

/* All cells, averaged over the samples of noise, each with its own held run. */
static int run_sweep(Experiment *x)
{
    double *values = room(x, x->n_cells, sizeof *values);
    int     status = 0;
    x->started = seconds_now();
    for (int s = 0; s < x->samples && status == 0; s++) {
        int       n = x->edits.n;
        MiEdits   held = { .at = n ? x->sampled + (size_t)s * n : NULL, .n = n };
        MiOptions options = { .keep = sites_of(&x->sweep, FROM_ANYWHERE),
                              .threads = x->command->threads };
        MiRun    *trunk = x->base;
        if (held.n) trunk = mi_run(x->model, x->prompt.tokens, x->prompt.n, &held, &options);
        x->sample = s;
        for (int i = 0; i < x->sweep.n; i++) x->sweep.at[i].sample = s;
        MiSweep plan = { trunk, x->sweep.at, x->first_swept, x->n_cells,
                         x->metric == LOSS ? 0 : x->at + 1, measure_lane, show_progress, x };
        status = trunk ? mi_sweep(&plan, values) : -1;
        for (int i = 0; i < x->n_cells; i++) x->cell[i] += values[i] / x->samples;
        if (trunk != x->base) mi_free(trunk);
    }
    for (int i = 0; i < x->n_cells; i++)
        if (x->first_swept[i] == x->first_swept[i + 1]) x->cell[i] = NAN;
    return status;
}

/* What the source has more than the held run; NAN if that is nothing. */
static double restorable(const Experiment *x)
{
    double range = source_of(x) ? source_of(x)->metric - held_of(x)->metric : NAN;
    return fabs(range) < 1e-6 ? NAN : range;
}

/* (value - held) / (source - held): 0 is nothing restored, 1 as in the source; NAN without one. */
static double normalize(const Experiment *x, double value)
{
    double held = held_of(x)->metric, range = restorable(x);
    return value == held && isfinite(range) ? 0 : (value - held) / range;       /* 0, not -0 */
}

/* ---- Pictures ---- */

/* The run that pictures and --save show: with the edits, if there are any. */
static const MiRun *shown_run(const Experiment *x)
{
    return x->edited ? x->edited : x->base;
}

static int is_final(const Experiment *x) { return !strcmp(x->command->lens, "final"); }

/* The points of the lens: resid_pre and resid_mid of each layer, then the end. */
static int n_points(const Experiment *x) { return 2 * x->model->shape.n_layer + 1; }

/* The logits at one point and position, and the point's name. */
static int read_lens(const Experiment *x, int point, int t, char label[40])
{
    int    end = point == n_points(x) - 1, layer = end ? point / 2 - 1 : point / 2;
    MiSite site = end ? MI_resid_post : point % 2 ? MI_resid_mid : MI_resid_pre;
    snprintf(label, 40, "L%d.%s", layer, SITES[site].name);
    return mi_lens(shown_run(x), x->lane, site, layer, t, is_final(x), x->logits);
}

/* The likeliest token at each depth and position. */
static int lens_words(Experiment *x)
{
    int   V = x->model->shape.n_vocab, T = x->prompt.n, points = n_points(x), top;
    Grid *grid = next_grid(x, points, T, 1);
    snprintf(grid->title, sizeof grid->title, "logit lens%s%s: the likeliest next token at each "
             "depth", is_final(x) ? ", final statistics" : "", x->edited ? ", edited" : "");
    grid->limit = 1;
    for (int t = 0; t < T; t++) pos_label(x, t, grid->col[t]);
    for (int i = 0; i < points * T; i++) {
        if (read_lens(x, i / T, i % T, grid->row[i / T]) < 0) return -1;
        mi_top(x->logits, V, 1, &top);
        grid->value[i] = exp(x->logits[top] - mi_log_sum_exp(x->logits, V));
        if (isfinite(grid->value[i])) token_label(x, top, grid->word[i], 40);
    }
    return 0;
}

/* The metric at each depth, at the position of interest. */
static int lens_depth(Experiment *x)
{
    int   points = n_points(x), possible = x->answer.n && x->metric <= RANK;
    if (!possible && !x->command->data) return 0;
    if (!possible) return mi_fail("--lens with --data needs --answer, and no --metric kl or loss");
    Grid *grid = next_grid(x, points, 1, 0);
    snprintf(grid->title, sizeof grid->title, !x->command->data ? "%s by depth, at position %d"
             : x->command->at ? "%s by depth, at the row's position"
             : "%s by depth, at the last position", METRICS[x->metric].name, x->at);
    grid->diverging = has_sign(x->metric);
    pos_label(x, x->at, grid->col[0]);
    for (int i = 0; i < points; i++) {
        if (read_lens(x, i, x->at, grid->row[i]) < 0) return -1;
        grid->value[i] = metric_of(x, x->logits, NULL);
    }
    return 0;
}

static int attn_grids(Experiment *x)
{
    int T = x->prompt.n;
    x->first_attn = x->n_grids;
    for (int i = 0; i < x->heads.n; i++) {
        const MiEdit *head = &x->heads.at[i];
        Grid *grid = next_grid(x, head->pos_end - head->pos, T, 0);
        snprintf(grid->title, sizeof grid->title,
                 "%s of L%dH%d%s: row = who looks, column = at whom", SITES[head->site].name,
                 head->layer, head->head, x->edited ? ", edited" : "");
        grid->diverging = head->site == MI_scores;
        if (head->site == MI_pattern) grid->limit = 1;
        for (int t = 0; t < T; t++) pos_label(x, t, grid->col[t]);
        for (int t = head->pos, row = 0; t < head->pos_end; t++, row++) {
            const float *keys = row_at(shown_run(x), x->lane, head, t);
            if (!keys) return -1;
            pos_label(x, t, grid->row[row]);
            for (int j = 0; j <= t; j++) grid->value[row * T + j] = keys[j];
        }
    }
    return 0;
}

static int loss_grid(Experiment *x)
{
    int   T = x->prompt.n, runs = x->edited ? 2 : 1;
    Grid *grid = next_grid(x, T - 1, runs, 0);
    snprintf(grid->title, sizeof grid->title, "loss of each token (-log p after the tokens before "
             "it, in nats); mean %.6g", mean_loss(x, x->base, 0, &x->prompt));
    if (x->edited)
        append(grid->title, sizeof grid->title, ", edited %.6g",
               mean_loss(x, x->edited, x->lane, &x->prompt));
    for (int i = 0; i < runs; i++) {
        strcpy(grid->col[i], x->readings[i].name);
        for (int t = 1; t < T; t++)
            grid->value[(t - 1) * runs + i] =
                token_loss(x, x->readings[i].run, x->readings[i].lane, &x->prompt, t);
    }
    for (int t = 1; t < T; t++) pos_label(x, t, grid->row[t - 1]);
    return 0;
}

/* The sweep as a heat map: what a patch restored, or what each edit did to the metric. */
static void sweep_grid(Experiment *x)
{
    Grid *grid = &x->grids[0];
    const char *held = held_of(x)->name;
    snprintf(grid->title, sizeof grid->title, x->source
             ? "--%s, one run per cell: %s, 0 as in %s, 1 as in source"
             : "--%s, one run per cell: change of %s from %s",
             x->command->edits.at[x->command->swept].op, METRICS[x->metric].name, held);
    grid->diverging = 1;
    for (int i = 0; i < x->n_cells; i++)
        grid->value[i] = x->source && !x->command->data ? normalize(x, x->cell[i])
                       : x->cell[i] - held_of(x)->metric;
}

/* When the runs are done: the cells of a sweep, and all that is shown. */
static int examine(Experiment *x)
{
    if (read_all(x) < 0) return -1;
    if (x->command->swept >= 0) {
        if (run_sweep(x) < 0) return -1;
        sweep_grid(x);
    }
    if (x->command->lens && !x->command->data && lens_words(x) < 0) return -1;
    if (x->command->lens && lens_depth(x) < 0) return -1;
    if (x->command->attn && attn_grids(x) < 0) return -1;
    return x->command->loss ? loss_grid(x) : 0;
}

/* ---- Saving ---- */

/* The values of one address, in the order of shape_of(). Keys after the query do not exist. */
static int gather(const Experiment *x, const MiEdits *rows, float *out)
{
    for (int i = 0; i < rows->n; i++)
        for (int t = rows->at[i].pos; t < rows->at[i].pos_end; t++) {
            const MiEdit *edit = &rows->at[i];
            const float  *row = row_at(shown_run(x), x->lane, edit, t);
            int n = edit->head >= 0 ? x->prompt.n : edit->count, last = edit->head >= 0 ? t : n;
            if (!row) return -1;
            for (int c = 0; c < n; c++)
                *out++ = c <= last ? row[c] : edit->site == MI_scores ? -INFINITY : 0;
        }
    return 0;
}

static int write_saves(Experiment *x)
{
    for (int i = 0; i < x->n_saves; i++) {
        Save *save = &x->saves[i];
        int   V = x->model->shape.n_vocab;
        save->array.values = room(x, save->array.n, sizeof(float));
        if (gather(x, &save->rows, save->array.values) < 0) return -1;
        for (int t = 0; save->logits && t < x->prompt.n; t++) {
            float *logits = save->array.values + (size_t)t * V;
            if (mi_logits(shown_run(x), x->lane, t, logits) < 0) return -1;
        }
        if (open_output(x, &save->output) < 0) return -1;
        write_npy(save->output.file, &save->array);
        if (close_output(&save->output, 1) < 0) return -1;
    }
    return 0;
}

/* ---- Generating ---- */

typedef struct { double p; int token; } Choice;

static int by_probability(const void *a, const void *b)
{
    const Choice *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->token - y->token;
}

/* logits [V] -> the next token: the likeliest, or drawn from the likeliest of mass top_p after
 * logits / temp. Number `step` of a seed's draws, so that runs can be compared. */
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

/* Text on its way to a terminal: characters are put together from tokens that cut them, and what
 * could move the cursor becomes '?'. On its way to a file it stays as it is. */
typedef struct { FILE *out; int as_is; char held[8]; int n; } Stream;

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
        if (is_control(code) && code != '\n' && code != '\t') fputc('?', stream->out);
        else fwrite(stream->held, 1, length, stream->out);
        stream->n -= length;
        memmove(stream->held, stream->held + length, stream->n);
    }
    fflush(stream->out);
}

/* Continue the prompt; the text goes to the stream as it is made. */
static int generate(Experiment *x, const MiEdits *edits, Stream *stream)
{
    const Command *c = x->command;
    int       V = x->model->shape.n_vocab, status = 0, length, next;
    MiOptions options = { .keep = MI_KEEP_CACHE, .threads = c->threads,
                          .capacity = x->prompt.n + c->generate };
    Choice   *choices = room(x, V, sizeof *choices);
    MiRun    *run = mi_run(x->model, x->prompt.tokens, x->prompt.n, edits, &options);
    if (!run) status = -1;
    for (int i = 0; i < c->generate && status == 0; i++) {
        if (i > 0) status = mi_append(run, &next, 1);
        if (status == 0) status = mi_logits(run, 0, run->n_rows - 1, x->logits);
        if (status < 0) break;
        next = sample(c, x->logits, choices, V, i);
        const char *bytes = mi_token_bytes(x->tokenizer, next, &length);
        int         ended = mi_id_of_row(x->tokenizer, next) == END_OF_TEXT;
        if (!ended || !stream->as_is) stream_bytes(stream, bytes, length, 0);
        if (ended) break;
    }
    mi_free(run);
    return status;
}

/* Both texts, with and without the edits, for JSON and TSV. */
static int generate_texts(Experiment *x)
{
    for (int i = 0; i < (x->edited ? 2 : 1); i++) {
        Reading *reading = &x->readings[i];
        Stream   stream = { .as_is = 1 };
        stream.out = must(open_memstream(&reading->text, &reading->text_size));
        int status = generate(x, i ? &x->edits : NULL, &stream);
        must_close(stream.out);
        own(x, reading->text);
        if (status < 0) return -1;
    }
    return 0;
}

static void close_experiment(Experiment *x)
{
    for (int i = 0; i < x->n_saves; i++) {
        close_output(&x->saves[i].output, 0);
        mi_edits_free(&x->saves[i].rows);
    }
    close_output(&x->svg, 0);
    mi_free(x->edited);
    mi_free(x->source);
    mi_free(x->other);
    mi_free(x->base);
    mi_edits_free(&x->edits);
    mi_edits_free(&x->sweep);
    mi_edits_free(&x->heads);
    for (int i = 0; i < x->n_owned; i++) free(x->owned[i]);
    free(x->owned);
    free(x->grids);
}

/* ============================================================================================= */
/* The report                                                                                    */
/* ============================================================================================= */

/* Tokens from <= t < to of the prompt as they were typed, what could move a cursor replaced. */
static void print_tokens(const Experiment *x, FILE *out, int from, int to)
{
    char  *text = NULL;
    size_t size;
    FILE  *memory = must(open_memstream(&text, &size));
    for (int t = from; t < to; t++) {
        int         n;
        const char *bytes = mi_token_bytes(x->tokenizer, x->prompt.tokens[t], &n);
        if (n == 0) fprintf(memory, "<%d>", x->prompt.tokens[t]);
        fwrite(bytes, 1, n, memory);
    }
    must_close(memory);
    char *shown = must(calloc(size + 16, 1));
    append_visible(shown, size + 16, text, size);
    fputs(shown, out);
    free(shown);
    free(text);
}

/* The prompt, a long one cut; ▸ follows the position that is read, if it is not the last. */
static void print_prompt(const Experiment *x, const Screen *screen)
{
    int n = x->prompt.n, at = x->at, parts[3][2] = { { 0, n }, { n, n }, { n, n } };
    if (n > 80) {
        parts[0][1] = 40, parts[2][0] = n - 30;
        if (at >= 40 && at < n - 30) parts[1][0] = at, parts[1][1] = at + 1;
    }
    fprintf(screen->out, "  %s", color_of(screen, "bold"));
    for (int i = 0; i < 3; i++) {
        int from = parts[i][0], to = parts[i][1], mark = at >= from && at < to && at != n - 1;
        if (from == to) continue;
        if (from > 0) fputs(" … ", screen->out);
        print_tokens(x, screen->out, from, mark ? at + 1 : to);
        if (mark) fputs(" ▸", screen->out);
        if (mark) print_tokens(x, screen->out, at + 1, to);
    }
    fprintf(screen->out, " …%s\n", color_of(screen, "off"));
}

static void print_typed(FILE *out, const char *flag, const char *text, const char *quote)
{
    char shown[256];
    fprintf(out, "--%s %s%s%s", flag, quote, visible(text, shown), quote);
}

/* The direction of a --steer or --project as it was typed, on a line of its own. */
static void print_direction(FILE *out, const char *indent, const Request *request)
{
    const char *words[] = { request->toward, request->away, request->direction };
    static const char *const flags[] = { "toward", "away", "direction" };
    for (int i = 0; i < 3; i++) {
        if (!words[i]) continue;
        fputs(indent, out);
        print_typed(out, flags[i], words[i], i < 2 ? "\"" : "");
        indent = " ";
    }
    if (is_directed(request)) fputc('\n', out);
}

static void print_note(const Screen *screen, const char *text)
{
    fprintf(screen->out, "  %snote    %s", color_of(screen, "dim"), text);
}

/* Which of two tokens was taken, with or without a space before it. */
static void print_answer_note(const Experiment *x, const Screen *screen, const TokenSet *set,
                              const char *text)
{
    char shown[256];
    if (!set->spaced || !text || x->command->data) return;
    print_note(screen, "");
    visible(text, shown);
    fprintf(screen->out, set->spaced > 0
            ? "\"%s\" was taken as \" %s\": only so is it one token%s\n"
            : "\"%s\" is the token without a space; after a word it is \" %s\"%s\n",
            shown, shown, color_of(screen, "off"));
}

/* Does a later intervention set again all that this one changed? Which, or NULL. */
static const Request *undone_by(const Experiment *x, int which)
{
    const Detail *detail = &x->detail[which];
    int           by = -1, last = x->command->generate ? INT_MAX : x->prompt.n;
    for (int i = detail->first_edit; i < detail[1].first_edit; i++) {
        const MiEdit *e = &x->edits.at[i], *f = x->edits.at + detail[1].first_edit;
        const MiEdit *end = x->edits.at + x->edits.n;
        while (f < end && (f->op != MI_SET || f->site != e->site || f->layer != e->layer ||
                           f->head != e->head || f->pos > e->pos || f->first > e->first ||
                           f->first + f->count < e->first + e->count ||
                           min_int(f->pos_end, last) < min_int(e->pos_end, last)))
            f++;
        if (f == end || (by >= 0 && by != f->order)) return NULL;
        by = f->order;
    }
    return by < 0 ? NULL : &x->command->edits.at[by];
}

/* What was changed, request by request, with what the reader should know of it. */
static void print_requests(const Experiment *x, const Screen *screen)
{
    const Command *c = x->command;
    FILE *out = screen->out;
    for (int i = 0; i < c->edits.n; i++) {
        const Request *request = &c->edits.at[i];
        const char    *value = find_value(request->argument);
        print_name(screen, "  ", i == c->swept ? "swept" : c->swept < 0 ? "edited" : "held");
        fputs("  ", out);
        print_typed(out, request->op, request->argument, "");
        if (!strcmp(request->op, "ablate") && value && !strcmp(value, "=mean"))
            fputs(!c->data ? "   (posmean: the mean over all positions, later ones too)"
                  : x->aligned ? "   (mean over the rows, position by position)"
                  : "   (mean over the rows and their positions)", out);
        if (request->window) fprintf(out, "   (%d layers at a time, around each)", request->window);
        if (!c->data && !strcmp(request->op, "steer") && i != c->swept)
            fprintf(out, "   (|C v| / |h| = %.3g)", x->detail[i].strength);
        if (!c->data && !strcmp(request->op, "noise"))
            fprintf(out, "   (deviation %.3g; mean of %d samples, seed %d)",
                    x->detail[i].strength, x->samples, c->seed);
        fputc('\n', out);
        print_direction(out, "          ", request);
        const Request *later = c->data ? NULL : undone_by(x, i);
        if (!later) continue;
        print_note(screen, "");
        print_typed(out, later->op, later->typed, "");
        fprintf(out, " comes after it and sets all of this anew%s\n", color_of(screen, "off"));
    }
    print_answer_note(x, screen, &x->answer, c->answer);
    print_answer_note(x, screen, &x->versus, c->versus);
    int length;
    if (!c->data && *mi_token_bytes(x->tokenizer, x->prompt.tokens[x->prompt.n - 1], &length) ==
        ' ' && length == 1) {
        print_note(screen, "the prompt ends with a space, which belongs to the next token: ");
        fprintf(out, "leave it out%s\n", color_of(screen, "off"));
    }
}

static void print_top(const Experiment *x, const Screen *screen)
{
    int   rows = 0, bar = x->n_readings > 2 ? 4 : 12, gap = x->n_readings > 2 ? 3 : 4;
    FILE *out = screen->out;
    for (int i = 0; i < x->n_readings; i++) rows = max_int(rows, x->readings[i].n_top);
    if (rows == 0) return;
    fprintf(out, "     ");
    for (int i = 0; i < x->n_readings; i++) {
        const char *name = x->readings[i].name;
        fprintf(out, "%s%s%s", color_of(screen, name), name, color_of(screen, "off"));
        if (i + 1 < x->n_readings) fprintf(out, "%*s", 19 + bar + gap - (int)strlen(name), "");
    }
    fputc('\n', out);
    for (int row = 0; row < rows; row++) {
        fprintf(out, "%4d ", row + 1);
        for (int i = 0; i < x->n_readings; i++) {
            const Reading *reading = &x->readings[i];
            char   label[64];
            int    token = row < reading->n_top ? reading->top[row] : -1;
            if (token < 0) {
                fprintf(out, "%*s", 19 + bar + gap, "");
                continue;
            }
            print_padded(out, token_label(x, token, label, sizeof label), 11);
            fprintf(out, "%5.1f %% ", 100.0 * reading->prob[token]);
            print_bar(out, reading->prob[token], bar, color_of(screen, reading->name));
            if (i + 1 < x->n_readings) fprintf(out, "%*s", gap, "");
        }
        fputc('\n', out);
    }
    fputc('\n', out);
}

/* What the edit did to a logit difference, in a sentence. */
static void print_verdict(const Experiment *x, FILE *out)
{
    double base = x->readings[0].metric, edited = x->edited ? x->readings[1].metric : 0;
    if (!x->edited || x->command->swept >= 0 || x->metric != LOGIT_DIFF || base < 0.05 ||
        !isfinite(edited))
        return;
    double lost = 100 * (1 - edited / base);
    char   label[64], likeliest[100] = "";
    int    best = x->readings[1].n_top ? x->readings[1].top[0] : -1;
    if (best >= 0 && !is_in(&x->versus, best))
        snprintf(likeliest, sizeof likeliest, "\n  The likeliest token is %s",
                 token_label(x, best, label, sizeof label));
    if (fabs(edited) < 0.05)
        fprintf(out, "\n  The edit leaves no preference.\n");
    else if (edited < 0)
        fprintf(out, "\n  The edit turns the answer around: %s is now ahead of %s.%s%s\n",
                x->versus.label, x->answer.label, likeliest, *likeliest ? "." : "");
    else if (fabs(lost) < 0.5)
        fprintf(out, "\n  The edit hardly changes the preference for %s.\n", x->answer.label);
    else
        fprintf(out, "\n  The edit %s %.0f %% %s the preference for %s.\n", lost > 0 ? "takes away"
                : "adds", fabs(lost), lost > 0 ? "of" : "to", x->answer.label);
}

/* What an edit left of the mean over --data, or how far a patch went towards its source. */
static void print_share(const Experiment *x, FILE *out)
{
    const Reading *base = &x->readings[0], *edited = &x->readings[1], *source = source_of(x);
    if (x->n_readings < 2 || x->command->swept >= 0 || !isfinite(edited->metric)) return;
    double left = edited->metric / base->metric;
    if (x->command->data && edited != source && base->metric > 0 && x->metric != RANK &&
        x->metric != KL)
        fprintf(out, left < 0 ? "\n  With the edit, the mean has the other sign.\n"
                : "\n  With the edit, %.0f %% of base is left.\n", 100 * left);
    if (x->command->data || !source || fabs(source->metric - base->metric) < 1e-6) return;
    fprintf(out, "\n  normalized %.3f: 0 is as in base, 1 as in the source\n",
            (edited->metric - base->metric) / (source->metric - base->metric));
}

/* The metric of each run, with a bar; over --data its mean. */
static void print_metric(const Experiment *x, const Screen *screen)
{
    FILE  *out = screen->out;
    int    data = x->command->data != NULL;
    int    columns = data ? 28 : 40, negative = 0;
    double largest = 1e-9;
    if (!data && x->metric == KL && x->n_readings == 1) return;
    if (x->command->generate && !x->answer.n) return;
    fputs("  ", out);
    fprintf(out, METRICS[x->metric].title, x->answer.label, x->versus.label);
    fprintf(out, "%s%s\n", data ? ": mean ± SE" : "",
            data && x->answer.n ? "; share of rows with the answer on top" : "");
    for (int i = 0; i < x->n_readings; i++)
        if (isfinite(x->readings[i].metric)) {
            largest = fmax(largest, fabs(x->readings[i].metric));
            negative |= x->readings[i].metric < 0;
        }
    if (!data && x->metric == PROB) largest = 1;
    for (int i = 0; i < x->n_readings; i++) {
        const Reading *reading = &x->readings[i];
        print_name(screen, "     ", reading->name);
        if (!isfinite(reading->metric)) {
            fputs("   not a number: something in this run became infinite\n", out);
            continue;
        }
        if (data && isfinite(reading->error))
            fprintf(out, " %+9.4f ± %-8.2g", reading->metric, reading->error);
        else if (data) fprintf(out, " %+9.4f           ", reading->metric);
        else fprintf(out, x->metric != LOGPROB && has_sign(x->metric) ? " %+10.4f  " : " %10.4g  ",
                     reading->metric);
        if (data && x->answer.n) fprintf(out, " %5.1f %%  ", 100 * reading->hits);
        if (negative && x->metric != LOGPROB)
            print_signed_bar(out, reading->metric / largest, columns,
                             color_of(screen, reading->name));
        else
            print_bar(out, x->metric == RANK ? 0 : fabs(reading->metric) / largest, columns,
                      color_of(screen, reading->name));
        fputc('\n', out);
    }
    if (!data) print_verdict(x, out);
    print_share(x, out);
    fputc('\n', out);
}

/* The n largest numbers of sign * value, or by their size with sign 0, none of them 0: places in
 * the grid. */
static int strongest(const Grid *grid, int sign, int n, int *top)
{
    float *size = must(malloc((cells_of(grid) + 1) * sizeof *size));
    for (int i = 0; i < cells_of(grid); i++) {
        double value = grid->value[i];
        if (!isfinite(value) || is_pale(grid, i)) value = 0;
        size[i] = (float)(sign ? sign * value : fabs(value));
    }
    n = mi_top(size, cells_of(grid), n, top);
    while (n && !(size[top[n - 1]] > 0)) n--;
    free(size);
    return n;
}

/* Where a cell is: "L5H3", "L4 at 9 ·John". */
static void place_of(const Grid *grid, int i, char place[96])
{
    const char *row = grid->row[i / grid->n_cols], *col = grid->col[i % grid->n_cols];
    int         apart = *row && *col && *col != 'H' && *col != 'N';
    snprintf(place, 96, "%s%s%s", row, apart ? " at " : "", col);
}

static void print_strongest(FILE *out, const Grid *grid)
{
    int   top[5], found = strongest(grid, 0, 5, top), column = 11, numbers = 0;
    char  place[96];
    for (int i = 0; i < cells_of(grid); i++) numbers |= isfinite(grid->value[i]);
    fputs(found ? "  strongest" : numbers ? "  No cell changes anything."
          : "  Not a number in any cell: something became infinite.", out);
    for (int i = 0; i < found; i++) {
        place_of(grid, top[i], place);
        int width = columns_of(place, strlen(place)) + 9;
        if (column + width > 78) fprintf(out, "\n           "), column = 11;
        column += width;
        fprintf(out, " %s %+.3f%s", place, grid->value[top[i]], i + 1 < found ? "," : "");
    }
    fputs("\n\n", out);
}

/* A map and its strongest cells; of one with very many neurons only the largest both ways. */
static void print_sweep(const Experiment *x, const Screen *screen, const Grid *grid)
{
    enum { TOO_MANY = 64, SHOWN = 20 };
    int   top[SHOWN], n = cells_of(grid);
    char  place[96];
    FILE *out = screen->out;
    if ((grid->n_cols == 1 || grid->col[0][0] == 'N') && n > TOO_MANY) {
        fprintf(out, "  %s; the %d largest both ways of %d\n", grid->title, SHOWN, n);
        for (int sign = 1; sign >= -1; sign -= 2) {
            for (int i = 0, found = strongest(grid, sign, SHOWN, top); i < found; i++) {
                place_of(grid, top[i], place);
                fputs("    ", out);
                print_padded(out, place, 24);
                fprintf(out, " %+9.4f\n", grid->value[top[i]]);
            }
            fputc('\n', out);
        }
    } else {
        print_grid(screen, grid);
        print_strongest(out, grid);
    }
    if (source_of(x) && !x->command->data &&
        fabs(source_of(x)->metric - held_of(x)->metric) < 1e-6)
        fprintf(out, "  The source's metric is that of the run it is patched into: nothing to "
                "restore.\n\n");
}

/* Of what the report is: the prompt, or the table, and the edits. */
static void print_heading(const Experiment *x, const Screen *screen)
{
    const Command *c = x->command;
    char           file[256];
    if (!c->data) print_prompt(x, screen);
    else
        fprintf(screen->out, "  %s%d prompt%s%s of %s\n", color_of(screen, "bold"), x->n_data,
                x->n_data > 1 ? "s" : "", color_of(screen, "off"), visible(c->data, file));
    print_requests(x, screen);
}

static void print_report(const Experiment *x, const Screen *screen)
{
    const Command *c = x->command;
    FILE *out = screen->out;
    int   swept = c->swept >= 0;
    if (c->data || !c->generate || c->edits.n) fputc('\n', out), print_heading(x, screen);
    fputc('\n', out);
    print_top(x, screen);
    if (c->data) print_metric(x, screen);
    if (swept) print_sweep(x, screen, &x->grids[0]);
    if (!c->data) print_metric(x, screen);
    for (int i = swept; i < x->n_grids; i++) print_grid(screen, &x->grids[i]);
    if (c->data && x->n_grids)
        fprintf(out, "  ~ is within two standard errors of 0; about 5 %% of the cells pass by "
                "chance.\n\n");
    for (int i = 0; i < x->n_saves; i++) {
        char shape[64], path[256];
        print_shape(shape, sizeof shape, &x->saves[i].array);
        visible(x->saves[i].output.path, path);
        fprintf(out, "  wrote %s: float32 (%s), %s\n%s", path, shape,
                x->edited ? "of the edited run" : "of the prompt", i + 1 < x->n_saves ? "" : "\n");
    }
    if (!c->prompt && !c->tokens && !c->data && !c->edits.n && !c->generate && !x->n_grids &&
        !x->n_saves)
        fprintf(out, "  Try   ./mi --ablate L5H3               what one head does\n"
                     "        ./mi --lens                      where the answer comes up\n"
                     "        ./mi \"Once upon a time\" -n 40    let it write\n"
                     "        ./mi --help                      all that can be asked\n\n");
}

/* The metric of each row of --data. */
static void tsv_rows(const Experiment *x, FILE *out)
{
    fputs("row", out);
    for (int i = 0; i < x->n_readings; i++) fprintf(out, "\t%s", x->readings[i].name);
    for (int row = 0; row < x->n_data; row++) {
        fprintf(out, "\n%d", row + 1);
        for (int i = 0; i < x->n_readings; i++) tsv_number(out, x->readings[i].each[row]);
    }
    fputc('\n', out);
}

static void print_tsv(const Experiment *x, FILE *out)
{
    const char *metric = METRICS[x->metric].name;
    if (x->command->data) fprintf(out, "run\tmetric\tmean\tse\tn\taccuracy\n");
    for (int i = 0; x->command->data && i < x->n_readings; i++) {
        const Reading *reading = &x->readings[i];
        fprintf(out, "%s\t%s", reading->name, metric);
        tsv_number(out, reading->metric);
        tsv_number(out, reading->error);
        fprintf(out, "\t%d", x->n_data);
        tsv_number(out, reading->hits);
        fputc('\n', out);
    }
    for (int i = 0; i < x->n_grids; i++) tsv_grid(out, &x->grids[i]);
    if (x->command->data) tsv_rows(x, out);
    if (x->command->generate) fprintf(out, "run\ttext\n");
    for (int i = 0; x->command->generate && i < (x->edited ? 2 : 1); i++) {
        fprintf(out, "%s\t", x->readings[i].name);
        tsv_bytes(out, x->readings[i].text, x->readings[i].text_size);
        fputc('\n', out);
    }
    if (x->command->data || (x->n_grids && x->command->top == 0)) return;
    fprintf(out, "run\trank\tid\ttoken\tlogit\tprob\n");
    for (int i = 0; i < x->n_readings; i++)
        for (int k = 0; k < x->readings[i].n_top; k++) {
            const Reading *reading = &x->readings[i];
            char label[64];
            int  token = reading->top[k];
            fprintf(out, "%s\t%d\t%d\t%s\t%.9g\t%.9g\n", reading->name, k + 1,
                    mi_id_of_row(x->tokenizer, token), token_label(x, token, label, sizeof label),
                    reading->logits[token], reading->prob[token]);
        }
    fprintf(out, "run\tmetric\tvalue\n");
    for (int i = 0; i < x->n_readings; i++) {
        fprintf(out, "%s\t%s", x->readings[i].name, metric);
        tsv_number(out, x->readings[i].metric);
        fputc('\n', out);
    }
}

/* ---- JSON ---- */

static void json_token(FILE *out, const Experiment *x, int token)
{
    int         n;
    const char *bytes = mi_token_bytes(x->tokenizer, token, &n);
    json(out, "'id':%d,'text':", mi_id_of_row(x->tokenizer, token));
    json_bytes(out, bytes, n);
}

/* One of the likeliest tokens. */
static void json_choice(FILE *out, const Experiment *x, int token, double logit, double prob)
{
    json(out, "{");
    json_token(out, x, token);
    json(out, ",'logit':%g,'prob':%g}", logit, prob);
}

/* The name of an edit's site: TransformerLens' with its layer, "" if it has none. */
static void tl_name(const MiEdit *edit, char name[64])
{
    const char *pattern = SITES[edit->site].tl_name;
    snprintf(name, 64, pattern ? pattern : "", edit->layer);
}

/* The last position of the prompt, and the last column or key, that an edit touches. */
static int last_pos(const Experiment *x, const MiEdit *edit)
{
    return min_int(edit->pos_end, x->prompt.n) - 1;
}

static int last_column(const Experiment *x, const MiEdit *edit)
{
    int last = edit->first + edit->count - 1;
    return edit->head < 0 ? last : min_int(last, last_pos(x, edit));
}

static void json_edits(FILE *out, const Experiment *x)
{
    int which = 0;
    json(out, ",\n 'edits':[");
    for (int i = 0; i < x->edits.n; i++) {
        const MiEdit *edit = &x->edits.at[i];
        int  last = last_pos(x, edit);
        char name[64];
        while (x->detail[which + 1].first_edit <= i) which++;
        snprintf(name, sizeof name, "L%d.%s", edit->layer, SITES[edit->site].name);
        if (SITES[edit->site].place != MI_BLOCK) strcpy(name, SITES[edit->site].name);
        json(out, i ? ",\n  {'op':%s,'site':%s" : "\n  {'op':%s,'site':%s",
             x->command->edits.at[which].op, name);
        tl_name(edit, name);
        json(out, *name ? ",'tl':%s" : ",'tl':null", name);
        json(out, ",'pos':[%d,%d],%s:[%d,%d]", edit->pos, last,
             edit->head < 0 ? "columns" : "keys", edit->first, last_column(x, edit));
        if (edit->head >= 0) json(out, ",'head':%d", edit->head);
        json(out, ",'hits':%d}", last - edit->pos + 1);
    }
    json(out, "]");
}

static void json_reading(FILE *out, const Experiment *x, const Reading *reading)
{
    json(out, ",\n %s:{'metric':%g", reading->name, reading->metric);
    if (x->command->data)
        json(out, ",'se':%g,'accuracy':%g,'n':%d", reading->error, reading->hits, x->n_data);
    json(out, x->command->data ? ",'values':[" : ",'top':[");
    for (int i = 0; i < x->n_data; i++) json(out, i ? ",%g" : "%g", reading->each[i]);
    for (int i = 0; i < reading->n_top; i++) {
        int token = reading->top[i];
        json(out, i ? ",\n  " : "\n  ");
        json_choice(out, x, token, reading->logits[token], reading->prob[token]);
    }
    json(out, "]}");
}

static void json_token_set(FILE *out, const Experiment *x, const TokenSet *set, const char *name)
{
    json(out, set->n ? ",%s:[" : ",%s:null", name);
    for (int i = 0; i < set->n; i++) {
        json(out, i ? ",{" : "{");
        json_token(out, x, set->tokens[i]);
        json(out, "}");
    }
    if (set->n) json(out, "]");
}

/* The lens at every depth and position: its five likeliest tokens, the answer, the metric. */
static int json_lens(FILE *out, Experiment *x)
{
    int    V = x->model->shape.n_vocab, T = x->prompt.n, status = 0, top[5];
    float *logits = x->logits, *base = room(x, V, sizeof *base);
    json(out, ",\n 'lens':[");
    for (int i = 0; i < n_points(x) * T && status == 0; i++) {
        char label[40];
        status = read_lens(x, i / T, i % T, label) | mi_logits(x->base, 0, i % T, base);
        double log_sum = mi_log_sum_exp(logits, V);
        json(out, i ? ",\n  {" : "\n  {");
        json(out, "'site':%s,'pos':%d,'top':[", label, i % T);
        for (int k = 0, n = mi_top(logits, V, 5, top); k < n; k++) {
            if (k) json(out, ",");
            json_choice(out, x, top[k], logits[top[k]], exp(logits[top[k]] - log_sum));
        }
        json(out, "]");
        if (x->answer.n) {
            double logit = set_logit(&x->answer, logits);
            json(out, ",'answer':{'logit':%g,'prob':%g,'rank':%g}", logit, exp(logit - log_sum),
                 rank_of(&x->answer, logits, V));
        }
        json(out, ",'metric':%g}", metric_of(x, logits, base));
    }
    json(out, "]");
    return status;
}

/* A sweep's table: the metric of every cell, and what is restored of it. */
static void json_sweep(FILE *out, Experiment *x)
{
    const Grid    *grid = &x->grids[0];
    const Request *request = &x->command->edits.at[x->command->swept];
    double        *restored = room(x, x->n_cells, sizeof *restored);
    for (int i = 0; i < x->n_cells; i++) restored[i] = normalize(x, x->cell[i]);
    json(out, ",\n 'grid':{'op':%s,'sites':%s,'window':%d,", request->op, request->argument,
         request->window);
    json_labels(out, grid);
    json(out, "\n  ");
    json_values(out, "values", x->cell, grid);
    if (x->source) json(out, ",\n  "), json_values(out, "normalized", restored, grid);
    json(out, "}");
}

static void json_attn(FILE *out, const Experiment *x)
{
    json(out, ",\n 'attn':[");
    for (int i = 0; i < x->heads.n; i++) {
        const MiEdit *head = &x->heads.at[i];
        const Grid   *grid = &x->grids[x->first_attn + i];
        json(out, i ? ",\n  {" : "\n  {");
        json(out, "'site':%s,'layer':%d,'head':%d,'queries':[%d,%d],'keys':[0,%d],",
             SITES[head->site].name, head->layer, head->head, head->pos, head->pos_end - 1,
             x->prompt.n - 1);
        json_values(out, "values", grid->value, grid);
        json(out, "}");
    }
    json(out, "]");
}

/* The means over --data, and their standard errors. */
static void json_data(FILE *out, const Experiment *x)
{
    json(out, ",\n 'data':{'file':%s,'n':%d,'aligned':", x->command->data, x->n_data);
    json(out, x->aligned ? "true" : "false");
    json(out, "},\n 'metric':{'name':%s}", METRICS[x->metric].name);
    for (int i = 0; i < x->n_readings; i++) json_reading(out, x, &x->readings[i]);
    json(out, ",\n 'grids':[");
    for (int i = 0; i < x->n_grids; i++) {
        const Grid *grid = &x->grids[i];
        json(out, i ? ",\n  {'title':%s," : "\n  {'title':%s,", grid->title);
        json_labels(out, grid);
        json_values(out, "values", grid->value, grid);
        json(out, ",");
        json_values(out, "se", grid->error, grid);
        json(out, "}");
    }
    json(out, "]");
}

static void json_model(FILE *out, const Experiment *x, int argc, char **argv)
{
    const MiShape *s = &x->model->shape;
    json(out, "{'version':%s,'argv':[", MI_VERSION);
    for (int i = 0; i < argc; i++) json(out, i ? ",%s" : "%s", argv[i]);
    json(out, "],\n 'model':{'file':%s", x->model->file);
    if (x->command->provenance) {
        char digest[65];
        sha256(x->model->map, x->model->map_size, digest);
        json(out, ",'sha256':%s", digest);
    }
    json(out, ",'n_layer':%d,'n_head':%d,'d_model':%d,'n_ctx':%d,'n_vocab':%d},\n"
         " 'seed':%d,'samples':%d", s->n_layer, s->n_head, s->d_model, s->n_ctx, s->n_vocab,
         x->command->seed, x->samples);
}

/* One prompt: everything that was asked. */
static int json_prompt(FILE *out, Experiment *x)
{
    const Command *c = x->command;
    json(out, ",\n 'tokens':[");
    for (int t = 0; t < x->prompt.n; t++) {
        json(out, t ? ",\n  {'pos':%d," : "\n  {'pos':%d,", t);
        json_token(out, x, x->prompt.tokens[t]);
        json(out, "}");
    }
    json(out, "]");
    json_edits(out, x);
    json(out, ",\n 'metric':{'name':%s", METRICS[x->metric].name);
    json_token_set(out, x, &x->answer, "answer");
    json_token_set(out, x, &x->versus, "versus");
    json(out, ",'at':%d}", x->at);
    for (int i = 0; i < x->n_readings; i++) json_reading(out, x, &x->readings[i]);
    if (c->swept >= 0) json_sweep(out, x);
    if (c->lens && json_lens(out, x) < 0) return -1;
    if (c->attn) json_attn(out, x);
    if (c->loss) {
        const Grid *grid = &x->grids[x->n_grids - 1];
        json(out, ",\n 'loss':{'from':1,");
        json_values(out, "values", grid->value, grid);
        json(out, "}");
    }
    for (int i = 0; c->generate && i < (x->edited ? 2 : 1); i++) {
        json(out, i ? ",%s:" : ",\n 'text':{%s:", x->readings[i].name);
        json_bytes(out, x->readings[i].text, x->readings[i].text_size);
    }
    if (c->generate) json(out, "}");
    return 0;
}

static int print_json(Experiment *x, FILE *out, int argc, char **argv)
{
    json_model(out, x, argc, argv);
    if (x->command->data) json_data(out, x);
    else if (json_prompt(out, x) < 0) return -1;
    json(out, "}\n");
    return 0;
}

/* ---- --explain ---- */

/* The megabytes of a run's sites. */
static double run_megabytes(const MiModel *model, int rows, int keys, uint64_t keep)
{
    double floats = 0;
    for (int site = 0; site < MI_N_SITES; site++)
        floats += site_floats(model, site, rows, round_up(keys, 16), keep >> site & 1,
                              !((keep >> MI_resid_pre ^ keep >> MI_resid_post) & 1));
    return floats * sizeof(float) / 1e6;
}

static void explain_edit(const Experiment *x, FILE *out, const MiEdit *edit)
{
    char name[64];
    tl_name(edit, name);
    fprintf(out, "  L%d.%-10s %-32s positions %d-%d, %s %d-%d", edit->layer,
            SITES[edit->site].name, *name ? name : "(not in TransformerLens)", edit->pos,
            last_pos(x, edit), edit->head < 0 ? "columns" : "keys", edit->first,
            last_column(x, edit));
    if (edit->head >= 0) fprintf(out, " of head %d", edit->head);
    fputc('\n', out);
}

/* The rows that the cells of a sweep recompute, and how many of them at once. */
static double swept_rows(const Experiment *x, int *at_once)
{
    double total = 0;
    int    largest = 0, end = x->metric == LOSS ? x->prompt.n : x->at + 1;
    for (int i = 0; i < x->n_cells; i++) {
        int t0 = end;
        for (int j = x->first_swept[i]; j < x->first_swept[i + 1]; j++)
            t0 = min_int(t0, x->sweep.at[j].pos);
        total += end - t0;
        largest = max_int(largest, end - t0);
    }
    *at_once = (int)fmin(total, max_int(largest, SWEEP_ROWS));
    return total;
}

/* The edits as they were understood, what they recompute, and the memory that takes. */
static void explain_cost(const Experiment *x, FILE *out)
{
    int T = x->prompt.n, t0 = T, half = 2 * x->model->shape.n_layer, at_once = 0;
    for (int i = 0; i < x->command->edits.n; i++) {
        const Request *request = &x->command->edits.at[i];
        print_typed(out, request->op, request->argument, "");
        fputs(i == x->command->swept ? " --each\n" : "\n", out);
        print_direction(out, "  ", request);
        for (int j = x->detail[i].first_edit; j < x->detail[i + 1].first_edit; j++) {
            const MiEdit *edit = &x->edits.at[j];
            explain_edit(x, out, edit);
            t0 = min_int(t0, edit->pos);
            half = min_int(half, half_of(x->model, edit->site, edit->layer));
        }
    }
    uint64_t shown = sites_shown(x), kept = shown | sites_of(&x->edits, FROM_BASE) |
                                            sites_of(&x->sweep, FROM_ANYWHERE) | ALWAYS_KEPT;
    double   trunk = run_megabytes(x->model, T, T, kept), total = trunk * (x->donor.n ? 2 : 1);
    if (x->edits.n) {
        fprintf(out, "edited  %d of %d positions are recomputed, from half-layer %d of %d up%s\n",
                T - t0, T, half, 2 * x->model->shape.n_layer,
                x->samples > 1 ? ", for each sample" : "");
        total += run_megabytes(x->model, (T - t0) * x->samples, T, shown);
    }
    if (x->n_cells) {
        double rows = swept_rows(x, &at_once);
        fprintf(out, "swept   %d cells recompute %.0f rows, %d at a time%s\n", x->n_cells, rows,
                at_once, x->samples > 1 ? ", for each sample" : "");
        total += run_megabytes(x->model, at_once, T, MI_KEEP_NONE) + (x->edits.n ? trunk : 0);
    }
    fprintf(out, "memory  %.1f MB beside the weights\n", total);
}

/* Everything that is known before the first run. */
static void print_plan(const Experiment *x, FILE *out)
{
    const MiShape *s = &x->model->shape;
    const char *name = x->model->file, *slash = strrchr(name, '/');
    char file[256];
    if (slash && !x->command->model) name = slash + 1;
    fprintf(out, "model   %s: %d layers, %d heads, d_model %d, context %d, vocabulary %d\ntokens\n",
            visible(name, file), s->n_layer, s->n_head, s->d_model, s->n_ctx, s->n_vocab);
    for (int t = 0; t < x->prompt.n; t++) {
        char label[64];
        fprintf(out, "  %4d  %6d  %s\n", t, mi_id_of_row(x->tokenizer, x->prompt.tokens[t]),
                token_label(x, x->prompt.tokens[t], label, sizeof label));
    }
    explain_cost(x, out);
}

/* ============================================================================================= */
/* --data: the same experiment on many prompts                                                   */
/* ============================================================================================= */

/* A file of rows and columns separated by tabs; row 0 has the names of the columns. */
typedef struct {
    const char *file;
    char       *text, **cell;
    int         n_rows, n_cols;
} Table;

static int column(const Table *table, const char *name, size_t n)
{
    for (int c = 0; c < table->n_cols; c++)
        if (strlen(table->cell[c]) == n && !strncmp(table->cell[c], name, n)) return c;
    return -1;
}

static const char *cell_of(const Table *table, int row, const char *name)
{
    int c = column(table, name, strlen(name));
    return c < 0 ? NULL : table->cell[row * table->n_cols + c];
}

/* Cut the text at tabs and line ends, in place. */
static int split_table(Table *table)
{
    for (char *line = table->text, *next; *line; line = next) {
        size_t length = strcspn(line, "\n");
        next = line + length + (line[length] == '\n');
        line[length] = 0;
        if (length && line[length - 1] == '\r') line[--length] = 0;
        if (!length) continue;
        int n = 0, used = table->n_rows * table->n_cols;
        for (char *cell = line; cell; n++) {
            table->cell = must(grow(table->cell, used + n, sizeof *table->cell));
            table->cell[used + n] = cell;
            cell = strchr(cell, '\t');
            if (cell) *cell++ = 0;
        }
        if (table->n_rows++ == 0) table->n_cols = n;
        if (n != table->n_cols)
            return mi_fail("%s: row %d does not have the header's %d columns", table->file,
                           table->n_rows - 1, table->n_cols);
    }
    return 0;
}

static int read_table(Experiment *x, Table *table)
{
    enum { MOST = 1 << 28 };
    struct stat info;
    const char *path = table->file = x->command->data;
    if (stat(path, &info) < 0) return mi_fail("%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > MOST) return mi_fail("%s: not a table", path);
    table->text = read_text(path, (size_t)info.st_size);
    if (!table->text) return mi_fail("%s: %s", path, strerror(errno));
    own(x, table->text);
    if (strlen(table->text) != (size_t)info.st_size)
        return mi_fail("%s: not a table: it has a zero byte", path);
    int status = split_table(table);
    if (table->cell) own(x, table->cell);
    if (status < 0) return -1;
    if (table->n_rows < 2 || !cell_of(table, 0, "prompt"))
        return mi_fail("%s: expected a header with a column named prompt, and rows", path);
    return 0;
}

/* "@S2" -> "@9" or "@Mary#2", what the row says in its column S2. */
static const char *fill_in(Experiment *y, const Table *table, int row, const char *argument)
{
    char  *out = NULL;
    size_t size;
    FILE  *memory = must(open_memstream(&out, &size));
    int    quoted = 0, bad = 0;
    for (const char *c = argument; *c; c++) {
        fputc(*c, memory);
        if (*c == '"') quoted = !quoted;
        size_t n = strspn(c + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
        int    found = (*c == '@' || *c == ':') && !quoted && n ? column(table, c + 1, n) : -1;
        if (found < 0) continue;
        const char *value = table->cell[row * table->n_cols + found], *hash = strrchr(value, '#');
        int length = (int)strlen(value);
        if (hash && !hash[1 + strspn(hash + 1, "0123456789")]) length = (int)(hash - value);
        int plain = *value != ' ' && (int)strcspn(value, ",:=@") >= length;
        bad |= strchr(value, '"') != NULL;
        fprintf(memory, plain ? "%.*s%s" : "\"%.*s\"%s", length, value, value + length);
        c += n;
    }
    must_close(memory);
    own(y, out);
    return bad ? mi_fail("a position cannot have a quote in it"), NULL : out;
}

/* The command of one row: the table's prompts and answers, and positions by the row's columns. */
static int row_command(Experiment *y, const Command *all, const Table *table, int row)
{
    Command *c = room(y, 1, sizeof *c);
    Request *edits = room(y, all->edits.n, sizeof *edits);
    *c = *all;
    c->prompt = cell_of(table, row, "prompt");
    c->edits.at = edits;
    y->command = c;
    const char *fields[] = { "source", "answer", "versus", "at" };
    const char **places[] = { &c->source, &c->answer, &c->versus, &c->at };
    for (int i = 0; i < 4; i++) {
        const char *cell = cell_of(table, row, fields[i]);
        if (!*places[i] && cell && *cell) *places[i] = cell;
    }
    if (c->at && cell_of(table, 0, c->at)) c->at = cell_of(table, row, c->at);
    for (int i = 0; i < all->edits.n; i++) {
        edits[i] = all->edits.at[i];
        if (!(edits[i].argument = fill_in(y, table, row, edits[i].argument))) return -1;
    }
    return 0;
}

/* What the rows have in common, and what each gave: its metrics, and the cells of its grids. */
typedef struct {
    Table    table;
    int      n;                         /* tokens of the longest row */
    double **sum;                       /* [edits] of the rows' values [n or 1, count], for =mean */
    long    *count;                     /* [edits] */
    int      n_edits;
    int     *partner, *group;           /* [rows] of =resample; the first row of the same group */
    double  *numbers;                   /* [rows, width] */
    int      width;
} Data;

/* One row, read and resolved but not run. */
static int open_row(const Experiment *x, const Data *data, int row, Experiment *y)
{
    *y = (Experiment){ .model = x->model, .tokenizer = x->tokenizer, .aligned = x->aligned };
    if (row_command(y, x->command, &data->table, row + 1) == 0 && resolve(y) == 0) return 0;
    char why[sizeof error_text], file[256];
    memcpy(why, error_text, sizeof why);
    snprintf(error_text, sizeof error_text, "%s, row %d: %.1700s",
             visible(data->table.file, file), row + 1, why);
    return -1;
}

/* Edit j of a row, counting the held ones first and then those of the sweep's cells. */
static int n_edits_of(const Experiment *y) { return y->edits.n + y->sweep.n; }

static MiEdit *edit_of(Experiment *y, int j)
{
    return j < y->edits.n ? &y->edits.at[j] : &y->sweep.at[j - y->edits.n];
}

/* Row r's cells are not those of row 1. */
static int fail_shape(const Experiment *x, int r)
{
    return mi_fail("%s, row %d: its picture has another shape than row 1's: --attn and --loss "
                   "need rows of one length, --each positions by name or from the end",
                   x->command->data, r + 1);
}

/* Add one row's activations to the sums of =mean. Where rows differ in length, positions are not
 * told apart. */
static int add_to_means(Experiment *x, Data *data, int r, Experiment *y)
{
    int n_edits = n_edits_of(y), aligned = x->aligned;
    int from_source = x->command->mean_from && !strcmp(x->command->mean_from, "source");
    const Prompt *prompt = from_source ? &y->donor : &y->prompt;
    MiOptions options = { .threads = x->command->threads,
                          .keep = sites_of(&y->edits, FROM_MEAN) | sites_of(&y->sweep, FROM_MEAN) };
    if (options.keep == MI_KEEP_NONE) return 0;
    options.keep |= MI_KEEP_CACHE;
    if (!data->sum) {
        data->n_edits = n_edits;
        data->sum = room(x, n_edits, sizeof *data->sum);
        data->count = room(x, n_edits, sizeof *data->count);
    }
    if (n_edits != data->n_edits) return fail_shape(x, r);
    if (!prompt->n) return mi_fail("--mean-from source needs a column source");
    MiRun *run = mi_run(x->model, prompt->tokens, prompt->n, NULL, &options);
    for (int j = 0; run && j < n_edits; j++) {
        const MiEdit *edit = edit_of(y, j);
        if (edit->from != MI_FROM_MEAN) continue;
        if (!data->sum[j]) data->sum[j] = room(x, (size_t)data->n * edit->count, sizeof(double));
        for (int t = 0; t < prompt->n; t++) {
            const float *row = row_at(run, 0, edit, t);
            double *sum = data->sum[j] + (aligned ? (size_t)t * edit->count : 0);
            for (int i = 0; i < edit->count; i++) sum[i] += row[i];
        }
        data->count[j] += aligned ? 1 : prompt->n;
    }
    mi_free(run);
    return run ? 0 : -1;
}

/* Look at all rows before the first is run: their lengths and groups, then the means. */
static int survey(Experiment *x, Data *data)
{
    const Table *table = &data->table;
    int          rows = x->n_data = table->n_rows - 1;
    x->aligned = 1;
    if (!x->command->answer && !cell_of(table, 0, "answer") && !x->command->metric &&
        !x->command->edits.n)
        return mi_fail("%s has no column answer, and --answer is not given: nothing to measure",
                       table->file);
    data->partner = room(x, rows, sizeof *data->partner);
    data->group = room(x, rows, sizeof *data->group);
    for (int pass = 0; pass < 2; pass++)
        for (int r = 0; r < rows; r++) {
            Experiment y;
            int status = open_row(x, data, r, &y);
            if (status == 0 && pass == 1) status = add_to_means(x, data, r, &y);
            if (pass == 0 && r > 0 && y.prompt.n != data->n) x->aligned = 0;
            if (pass == 0) data->n = max_int(data->n, y.prompt.n);
            close_experiment(&y);
            if (status < 0) return -1;
        }
    for (int r = 0; r < rows; r++) {
        const char *group = cell_of(table, r + 1, "group");
        data->partner[r] = r;
        data->group[r] = group ? 0 : r;
        while (group && strcmp(group, cell_of(table, data->group[r] + 1, "group")))
            data->group[r]++;
    }
    /* One cycle through all rows (Sattolo's shuffle): nobody is its own partner. */
    for (int i = rows - 1; i > 0; i--) {
        int j = (int)(mix_bits(mix_bits(x->command->seed) ^ i) % i), swap = data->partner[i];
        data->partner[i] = data->partner[j];
        data->partner[j] = swap;
    }
    return 0;
}

static void share_means(const Experiment *x, const Data *data, Experiment *y)
{
    for (int j = 0; data->sum && j < n_edits_of(y); j++) {
        MiEdit *edit = edit_of(y, j);
        if (edit->from != MI_FROM_MEAN) continue;
        int    n = x->aligned ? data->n * edit->count : edit->count;
        float *mean = room(y, n, sizeof *mean);
        for (int i = 0; i < n; i++) mean[i] = (float)(data->sum[j][i] / data->count[j]);
        edit->value = mean + (x->aligned ? (size_t)edit->pos * edit->count : 0);
        edit->value_stride = x->aligned ? edit->count : 0;
        edit->pos_end = min_int(edit->pos_end, y->prompt.n);
        edit->from = MI_FROM_CALLER;
    }
}

/* =resample: the values of the partner's run. */
static int share_partner(const Experiment *x, const Data *data, int row, Experiment *y)
{
    for (int j = 0; j < n_edits_of(y); j++) {
        MiEdit *edit = edit_of(y, j);
        if (edit->from != MI_FROM_CALLER || edit->value) continue;
        if (strcmp(x->command->edits.at[edit->order].op, "ablate")) continue;
        if (!x->aligned || x->n_data < 2)
            return mi_fail(
                "%s: =resample needs at least two rows, all of the same number of tokens",
                data->table.file);
        if (!y->other) {
            Experiment z;
            MiOptions  options = { .threads = x->command->threads };
            if (open_row(x, data, data->partner[row], &z) == 0)
                y->other = mi_run(x->model, z.prompt.tokens, z.prompt.n, NULL, &options);
            close_experiment(&z);
            if (!y->other) return -1;
        }
        edit->value = row_at(y->other, 0, edit, edit->pos);
        edit->value_stride = width_of(x->model, edit->site, 0);
    }
    return 0;
}

/* mean and standard error of one number over the rows (NAN: missing), clustered by group: rows of
 * a group are not independent. */
static void mean_and_error(const Data *data, int number, int n, double *mean, double *error)
{
    const double *v = data->numbers + number;
    size_t stride = data->width;
    double sum = 0, squares = 0;
    int    count = 0, clusters = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(v[i * stride])) sum += v[i * stride], count++;
    *mean = count ? sum / count : NAN;
    for (int g = 0; g < n; g++) {
        double inside = 0;
        int    any = 0;
        for (int i = g; i < n; i++)
            if (data->group[i] == g && isfinite(v[i * stride]))
                inside += v[i * stride] - *mean, any = 1;
        squares += inside * inside;
        clusters += any;
    }
    *error = clusters > 1 ? sqrt(squares * clusters / (clusters - 1)) / count : NAN;
}

/* The numbers of one row: of each run the metric and whether it says the answer, then all cells. */
static int keep_numbers(Experiment *x, Experiment *y, Data *data, int r)
{
    int width = 2 * y->n_readings;
    for (int g = 0; g < y->n_grids; g++) width += cells_of(&y->grids[g]);
    if (r == 0) {
        data->width = width;
        data->numbers = room(x, (size_t)x->n_data * width, sizeof *data->numbers);
    }
    if (width != data->width) return fail_shape(x, r);
    double *number = data->numbers + (size_t)r * width;
    for (int i = 0; i < y->n_readings; i++) {
        int best = 0;
        mi_top(y->readings[i].logits, x->model->shape.n_vocab, 1, &best);
        *number++ = y->readings[i].metric;
        *number++ = y->answer.n ? is_in(&y->answer, best) : NAN;
    }
    for (int g = 0; g < y->n_grids; number += cells_of(&y->grids[g++]))
        memcpy(number, y->grids[g].value, cells_of(&y->grids[g]) * sizeof *number);
    return 0;
}

/* The first row lends its form: the runs, and the grids but for their numbers. */
static void take_form(Experiment *x, const Experiment *y)
{
    x->samples = y->samples;
    x->metric = y->metric;
    x->answer = (TokenSet){ .n = y->answer.n, .label = "answer" };
    x->versus = (TokenSet){ .n = y->versus.n, .label = "versus" };
    if (x->command->answer) strcpy(x->answer.label, y->answer.label);
    if (x->command->versus) strcpy(x->versus.label, y->versus.label);
    x->n_readings = y->n_readings;
    for (int i = 0; i < y->n_readings; i++) x->readings[i].name = y->readings[i].name;
    for (int g = 0; g < y->n_grids; g++) {
        const Grid *theirs = &y->grids[g];
        Grid       *ours = next_grid(x, theirs->n_rows, theirs->n_cols, 0);
        ours->error = room(x, cells_of(ours), sizeof *ours->error);
        memcpy(ours->title, theirs->title, sizeof ours->title);
        memcpy(ours->row, theirs->row, (ours->n_rows + ours->n_cols) * sizeof *ours->row);
        ours->diverging = theirs->diverging;
        ours->limit = theirs->limit;
    }
}

/* Labels that differ between rows keep their position only. */
static void common_labels(Experiment *x, const Experiment *y)
{
    for (int g = 0; g < x->n_grids; g++)
        for (int i = 0; i < x->grids[g].n_rows + x->grids[g].n_cols; i++) {
            char *label = x->grids[g].row[i], *space = strrchr(label, ' '), theirs[40];
            strcpy(theirs, y->grids[g].row[i]);
            if (!strcmp(label, theirs)) continue;
            if (strrchr(theirs, ' ')) *strrchr(theirs, ' ') = 0;
            if (space && strcmp(label, theirs)) *space = 0;     /* (or it was cut before) */
        }
}

/* As many rows as fill a fork: their edited runs are its lanes. Returns how many, or -1. */
static int run_rows(Experiment *x, Data *data, int first)
{
    enum { MOST = 64 };
    Experiment y[MOST];
    int        n = 0, status = 0;
    for (int filled = 0; status == 0 && n < MOST && first + n < x->n_data && filled < SWEEP_ROWS;) {
        Experiment *row = &y[n];
        status = open_row(x, data, first + n, row);
        if (status == 0) share_means(x, data, row);
        if (status == 0) status = share_partner(x, data, first + n, row);
        if (status == 0) status = prepare(row);
        n++;
        filled += row->prompt.n * row->samples;
    }
    if (status == 0) status = run_edited(y, n);
    for (int i = 0; i < n && status == 0; i++) {
        status = examine(&y[i]);
        if (status == 0) status = keep_numbers(x, &y[i], data, first + i);
        if (status == 0 && first + i == 0) take_form(x, &y[i]);
        if (status == 0) common_labels(x, &y[i]);
    }
    for (int i = n - 1; i >= 0; i--) {
        if (i) y[i].edited = NULL;                      /* it is the first one's */
        close_experiment(&y[i]);
    }
    return status < 0 ? -1 : n;
}

/* Means over the rows into the experiment's own readings and grids. For patches: the ratio of the
 * means, never the mean of ratios. */
static void summarize(Experiment *x, const Data *data)
{
    double ignored;
    int    number = 0;
    for (int i = 0; i < x->n_readings; i++, number += 2) {
        Reading *reading = &x->readings[i];
        mean_and_error(data, number, x->n_data, &reading->metric, &reading->error);
        mean_and_error(data, number + 1, x->n_data, &reading->hits, &ignored);
        reading->each = room(x, x->n_data, sizeof *reading->each);
        for (int r = 0; r < x->n_data; r++)
            reading->each[r] = data->numbers[(size_t)r * data->width + number];
    }
    for (int g = 0; g < x->n_grids; g++) {
        Grid  *grid = &x->grids[g];
        double scale = g == 0 && x->command->swept >= 0 && source_of(x) ? restorable(x) : 1;
        for (int i = 0; i < cells_of(grid); i++) {
            mean_and_error(data, number++, x->n_data, &grid->value[i], &grid->error[i]);
            grid->value[i] = grid->value[i] == 0 ? 0 : grid->value[i] / scale;  /* 0, not -0 */
            grid->error[i] /= fabs(scale);
        }
    }
}

/* --explain: the first row stands for all. */
static int explain_data(Experiment *x)
{
    Data       data = {0};
    Experiment y;
    char       file[256];
    if (read_table(x, &data.table) < 0) return -1;
    int status = open_row(x, &data, 0, &y);
    if (status == 0) {
        printf("data    %s: %d rows, of which this is the first\n",
               visible(x->command->data, file), data.table.n_rows - 1);
        print_plan(&y, stdout);
    }
    close_experiment(&y);
    return status;
}

static int run_data(Experiment *x)
{
    Data data = {0};
    if (read_table(x, &data.table) < 0 || survey(x, &data) < 0) return -1;
    for (int r = 0, n; r < x->n_data; r += n) {
        if ((n = run_rows(x, &data, r)) < 0) return -1;
        if (isatty(2) && x->n_data > 20)
            fprintf(stderr, "\r  row %d of %d%s", r + n, x->n_data,
                    r + n < x->n_data ? "" : "\r\033[K");
    }
    summarize(x, &data);
    return 0;
}

/* ============================================================================================= */
/* main                                                                                          */
/* ============================================================================================= */

/* Generated text streams to the terminal, one run after the other. */
static int stream_text(Experiment *x, const Screen *screen)
{
    for (int i = 0; i < (x->edited ? 2 : 1); i++) {
        const char *name = i ? "edited" : "base";
        printf("  %s%s%s%s", color_of(screen, name), x->edited ? name : "",
               color_of(screen, "off"), x->edited ? "\n  " : "");
        Stream stream = { .out = stdout };
        for (int t = 0; t < x->prompt.n; t++) {
            int         length;
            const char *bytes = mi_token_bytes(x->tokenizer, x->prompt.tokens[t], &length);
            stream_bytes(&stream, bytes, length, t + 1 == x->prompt.n);
        }
        printf("%s", color_of(screen, name));
        if (generate(x, i ? &x->edits : NULL, &stream) < 0) return -1;
        stream_bytes(&stream, "", 0, 1);
        printf("%s\n\n", color_of(screen, "off"));
    }
    return 0;
}

static int window_columns(void)
{
    struct winsize window;
    if (isatty(1) && ioctl(1, TIOCGWINSZ, &window) == 0 && window.ws_col >= 40)
        return window.ws_col;
    return 80;
}

/* --svg: the pictures, under the prompt and the edits as the screen shows them. */
static void draw(const Experiment *x)
{
    char  *caption = NULL;
    size_t size;
    Screen screen = { must(open_memstream(&caption, &size)), 0, 0 };
    print_heading(x, &screen);
    must_close(screen.out);
    print_svg(x->svg.file, caption, x->grids, x->n_grids);
    free(caption);
}

/* What could not be written, to a full disk for example, is a failure too. */
static int flush_output(void)
{
    return fflush(stdout) || ferror(stdout) ? mi_fail("cannot write: %s", strerror(errno)) : 0;
}

/* Everything is computed before anything is printed: a failure leaves nothing half-written. Only
 * generated text comes while it is made. */
static int report(Experiment *x, int argc, char **argv)
{
    const Command *c = x->command;
    char  *text = NULL;
    size_t size = 0;
    int    color = !strcmp(c->color, "always") ||
                   (!strcmp(c->color, "auto") && isatty(1) && !getenv("NO_COLOR"));
    Screen screen = { must(open_memstream(&text, &size)), color, window_columns() };
    int    status = 0;
    if (c->json) status = print_json(x, screen.out, argc, argv);
    else if (c->tsv) print_tsv(x, screen.out);
    else print_report(x, &screen);
    must_close(screen.out);
    own(x, text);
    if (status < 0) return -1;
    if (c->svg && open_output(x, &x->svg) < 0) return -1;
    if (c->svg) draw(x);
    if (write_saves(x) < 0 || close_output(&x->svg, 1) < 0) return -1;
    fwrite(text, 1, size, stdout);
    if (c->generate && !c->json && !c->tsv && stream_text(x, &screen) < 0) return -1;
    return flush_output();
}

static int run_command(Experiment *x, int argc, char **argv)
{
    const Command *c = x->command;
    if (open_model(x, argv[0]) < 0) return fail(FAULT_OF_RUN);
    if (c->data && c->explain) return explain_data(x) < 0 ? fail(FAULT_OF_RUN) : 0;
    if (!c->data && (resolve(x) < 0 || read_saves(x) < 0)) return fail(FAULT_OF_USER);
    if (c->explain) return print_plan(x, stdout), 0;
    int status = open_outputs(x);
    if (status == 0 && c->data) status = run_data(x);
    else if (status == 0 && (prepare(x) < 0 || run_edited(x, 1) < 0 || examine(x) < 0)) status = -1;
    if (status == 0 && c->generate && (c->json || c->tsv)) status = generate_texts(x);
    if (status == 0) status = report(x, argc, argv);
    return status < 0 ? fail(FAULT_OF_RUN) : 0;
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

int main(int argc, char **argv)
{
    Command    command;
    Experiment x = { .command = &command };
    int        status = 0;
    spin_less(argv);
    if (parse_command(&command, argc, argv) < 0) status = fail(FAULT_OF_USER);
    else if (command.help) print_help(stdout);
    else if (command.version) printf("mi %s\n", MI_VERSION);
    else if (command.sites) print_sites(stdout);
    else status = run_command(&x, argc, argv);
    close_experiment(&x);
    mi_tokenizer_close(x.tokenizer);
    mi_close(x.model);
    if (status == 0 && flush_output() < 0) status = fail(FAULT_OF_RUN);
    free(command.traced);
    free(command.edits.at);
    free(command.saves.at);
    return status;
}
#endif
