/* mi.c - mechanistic interpretability of GPT-2 in one file.
 *
 *     cc -O3 -march=native mi.c -lm -o mi && ./mi --ablate L5H3
 *
 * mi runs a GPT-2, shows every number on the way, and lets you change any of them. The idea:
 *
 *   A forward pass is a list of named arrays ("sites"). Each has its own buffer: reading is free.
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
 *     resid_pre ──┬──────────────────────────────────────────────────────────┐
 *                 └─ ln1_scale ─ ln1 ─┬─ q ─┬─ scores ─ pattern ─┐            │
 *                                     ├─ k ─┘                    ├─ z ─ attn_out
 *                                     └─ v ─────────────────────┘            │
 *     resid_mid ──┬─────────────────────────── = resid_pre + attn_out ────────┤
 *                 └─ ln2_scale ─ ln2 ─ mlp_pre ─ mlp_post ─ mlp_out           │
 *     resid_post ──────────────────────────── = resid_mid + mlp_out ──────────┘
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
#include <sys/mman.h>
#include <sys/stat.h>
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

/* Say why and return -1, so that a failing function can end with `return mi_fail(...)`. File names
 * and such may hold anything: what could move a terminal's cursor becomes '?'. */
__attribute__((format(printf, 1, 2)))
static int mi_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    for (char *c = error_text; *c; c++)
        if (iscntrl((unsigned char)*c)) *c = '?';
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
    const weight *W_U;                                  /* [V,D]: wte, unless the file has its own */
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

/* The keys or values that a row can see, head by head: below t0 they are the trunk's, from t0 on
 * the lane's own. Key j of head h lies at (j < t0 ? below : own) + j D + h d. */
typedef struct {
    const float *below, *own;
    int          t0, stride;
} Keys;

static inline const float *key_at(const Keys *keys, int j, int column)
{
    return (j < keys->t0 ? keys->below : keys->own) + (ptrdiff_t)j * keys->stride + column;
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
 * half-layer, are its trunk's. */
typedef struct {
    const MiRun   *trunk;
    int            t0, n_pos;
    int            first_row;                           /* the row of position t0 */
    const MiEdit **edits;                               /* in the order in which they apply */
    int            n_edits;
} Lane;

struct MiRun {
    const MiModel *model;
    const Kernels *kernel;
    int            threads;
    int            half;                                /* the first half-layer that it computes */
    int            n_rows, capacity;
    Lane          *lanes;
    int            n_lanes;
    int           *row_lane, *row_pos, *row_token;      /* [capacity] */
    int            key_stride;                          /* keys in a row of scores, padded to 16 */
    uint64_t       keep;
    float         *buffer[MI_N_SITES];                  /* [layers kept][capacity][width] */
    size_t         layer_stride[MI_N_SITES];            /* 0: one buffer, the current layer's */
    void          *memory;                              /* where all buffers lie */
    size_t         memory_size;
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

/* The keys (site k) or values (site v) that the rows of a lane look at. */
static Keys keys_of(const MiRun *run, MiSite site, int layer, const Lane *lane)
{
    Keys keys = { .t0 = lane->t0, .stride = run->model->shape.d_model };
    keys.own = at(run, site, layer, lane->first_row) - (ptrdiff_t)lane->t0 * keys.stride;
    keys.below = lane->trunk ? at(lane->trunk, site, layer, 0) : keys.own;
    return keys;
}

static int kept(const MiRun *run, MiSite site)
{
    return SITES[site].place != MI_BLOCK || (run->keep >> site & 1);
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

void mi_free(MiRun *run)
{
    if (!run) return;
    free(run->lanes);
    free(run->row_lane);
    free(run->row_pos);
    free(run->row_token);
    if (run->memory) munmap(run->memory, run->memory_size);
    free(run->edited);
    free(run->edit_table);
    free(run);
}

/* Lay out all buffers in one block of memory. Pages that are never touched cost nothing. */
static int allocate_sites(MiRun *run)
{
    const MiModel *model = run->model;
    size_t total = 0, offset[MI_N_SITES];
    for (int site = 0; site < MI_N_SITES; site++) {
        size_t rows = (size_t)width_of(model, site, run->key_stride) * run->capacity;
        int    layers = kept(run, site) ? n_layers_of(model, site) : 1;
        run->layer_stride[site] = layers > 1 ? rows : 0;
        offset[site] = total;
        total += (rows * layers + 15) / 16 * 16;
    }
    run->memory_size = total * sizeof(float);
    void *memory = mmap(NULL, run->memory_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return mi_fail("out of memory: the activations of %d rows need %.0f MB", run->capacity,
                       run->memory_size / 1e6);
    run->memory = memory;
    madvise(memory, run->memory_size, MADV_HUGEPAGE);
    for (int site = 0; site < MI_N_SITES; site++)
        run->buffer[site] = (float *)memory + offset[site];
    return 0;
}

/* An empty run: all its memory, no rows computed yet. keys: the longest row of scores. */
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
    if (!run->lanes || !run->row_lane || !run->row_pos || !run->row_token || !run->edited ||
        !run->edit_table)
        mi_fail("out of memory");
    else if (allocate_sites(run) == 0)
        return run;
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

static int check_tokens(const MiModel *model, const int *tokens, int n)
{
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= model->shape.n_vocab)
            return mi_fail("token %d at position %d is not in the model's vocabulary of %d",
                           tokens[i], i, model->shape.n_vocab);
    return 0;
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
    uint64_t always = MI_KEEP(k) | MI_KEEP(v) | MI_KEEP(resid_pre) | MI_KEEP(attn_out) |
                      MI_KEEP(resid_post);
    uint64_t keep = options->keep ? options->keep | always : MI_KEEP_ALL;
    MiRun *run = new_run(model, 1, capacity, capacity, keep, n_edits);
    if (!run) return NULL;
    run->threads = default_threads(options->threads);
    run->kernel = options->naive ? &naive_kernels : &fast_kernels;
    if (lane_edits(run, &run->lanes[0], run->edit_table, edits ? edits->at : NULL, n_edits) < 0 ||
        mi_append(run, tokens, n) < 0) {
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
    return mi_forward(run, from, from + n);
}

/* The cone of a lane's own edits: its first half-layer and its first row. */
static int cone(const MiModel *model, const MiLane *lane, int *half, int *t0)
{
    int n_pos = lane->trunk->n_rows;
    *half = 2 * model->shape.n_layer;
    *t0 = n_pos - 1;
    for (int i = 0; i < lane->n_edits; i++) {
        const MiEdit *edit = &lane->edits[i];
        if (check_edit(model, edit) < 0) return -1;
        if (edit->pos >= n_pos)
            return mi_fail("an edit of %s at position %d: the prompt ends at %d",
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
        if (cone(model, lane, &edit_half, &edit_t0) < 0) return -1;
        if (lane->t0 >= lane->trunk->n_rows)
            return mi_fail("lane %d starts at position %d: the prompt ends at %d", i, lane->t0,
                           lane->trunk->n_rows - 1);
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

MiRun *mi_fork(const MiLane *lanes, int n_lanes, int half, uint64_t keep)
{
    int *t0 = malloc(max_int(n_lanes, 1) * sizeof *t0);
    if (!t0) return mi_fail("out of memory"), NULL;
    if (plan_fork(lanes, n_lanes, &half, t0) < 0) return free(t0), NULL;

    int rows = 0, keys = 0, n_edits = 0;
    for (int i = 0; i < n_lanes; i++) {
        rows += lanes[i].trunk->n_rows - t0[i];
        keys = max_int(keys, lanes[i].trunk->n_rows);
        n_edits += lanes[i].trunk->lanes[0].n_edits + lanes[i].n_edits;
    }
    const MiRun *first = lanes[0].trunk;
    MiRun *fork = new_run(first->model, n_lanes, rows, keys, keep ? keep : MI_KEEP_ALL, n_edits);
    if (!fork) return free(t0), NULL;
    fork->threads = first->threads;
    fork->kernel = first->kernel;
    fork->half = half;
    const MiEdit **table = fork->edit_table;
    for (int i = 0; i < n_lanes; i++) {
        const MiRun *trunk = lanes[i].trunk;
        Lane *lane = &fork->lanes[i];
        *lane = (Lane){ .trunk = trunk, .t0 = t0[i], .n_pos = trunk->n_rows,
                        .first_row = fork->n_rows };
        table += lane_edits(fork, lane, table, lanes[i].edits, lanes[i].n_edits);
        for (int t = t0[i]; t < trunk->n_rows; t++, fork->n_rows++) {
            fork->row_lane[fork->n_rows] = i;
            fork->row_pos[fork->n_rows] = t;
            fork->row_token[fork->n_rows] = trunk->row_token[t];
        }
    }
    free(t0);
    if (mi_forward(fork, 0, fork->n_rows) == 0) return fork;
    mi_free(fork);
    return NULL;
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
    for (const Lane *lane = run->lanes; lane < run->lanes + run->n_lanes; lane++) {
        int shift = lane->first_row - lane->t0;         /* row = position + shift */
        for (int i = 0; i < lane->n_edits; i++) {
            const MiEdit *edit = lane->edits[i];
            if (edit->site != site || edit->layer != layer) continue;
            int first = max_int(max_int(edit->pos, lane->t0) + shift, from);
            int last = min_int(min_int(edit->pos_end, lane->n_pos) + shift, to);
            for (int row = first; row < last; row++) edit_row(run, edit, layer, row);
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
        memcpy(at(run, MI_embed, 0, r), model->wte + (size_t)run->row_token[r] * D, D * sizeof(float));
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
        for (int i = 0; i < D; i++) out[i] = xb ? xa[i] + xb[i] : xa[i];
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
            run->kernel->scores(s, stride, at(run, MI_q, l, row) + h * d, n_rows, &keys, h * d, n, d);
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
    linear(run, MI_ln1, MI_q, l, w->W_QKV, 3 * D, w->b_QKV, from, to);
    linear(run, MI_ln1, MI_k, l, w->W_QKV + D, 3 * D, w->b_QKV + D, from, to);
    linear(run, MI_ln1, MI_v, l, w->W_QKV + 2 * D, 3 * D, w->b_QKV + 2 * D, from, to);
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
    for (int half = run->half; half < 2 * model->shape.n_layer; half++)
        half & 1 ? mlp(run, half / 2, from, to) : attention(run, half / 2, from, to);
    layernorm(run, MI_resid_post, MI_ln_f_scale, MI_ln_f, 0, model->ln_f_gamma, model->ln_f_beta,
              from, to);
    return 0;
}

/* ============================================================================================= */
/* Reading                                                                                       */
/* ============================================================================================= */

int mi_n_tokens(const MiRun *run, int lane)
{
    return run->lanes[lane].n_pos;
}

int mi_token(const MiRun *run, int lane, int pos)
{
    const Lane *l = &run->lanes[lane];
    return pos < l->t0 ? l->trunk->row_token[pos] : run->row_token[l->first_row + pos - l->t0];
}

/* Which run holds a site of a lane at a position, and in which row. NULL: nobody kept it. */
static const MiRun *holder(const MiRun *run, int lane, MiSite site, int layer, int pos, int *row)
{
    if (lane < 0 || lane >= run->n_lanes || (int)site < 0 || site >= MI_N_SITES || layer < 0 ||
        layer >= n_layers_of(run->model, site) || pos < 0 || pos >= run->lanes[lane].n_pos)
        return mi_fail("no such value: lane %d, site %d, layer %d, position %d", lane, (int)site,
                       layer, pos), NULL;
    const Lane *l = &run->lanes[lane];
    *row = l->first_row + pos - l->t0;
    if (pos < l->t0 || half_of(run->model, site, layer) < run->half) {
        run = l->trunk;
        *row = pos;
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
    run->kernel->unembed(logits, x, 1, model->W_U, model->shape.n_vocab, model->shape.d_model,
                         run->threads);
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
 * is 0. The R x C chains of fma are independent, so they overlap; a load serves R or C of them. */
static inline __attribute__((always_inline))
void products(Lanes *sum, const float *a, size_t stride, const weight *const *b, int R, int C, int n)
{
    Lanes s[4][4];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) s[r][c] = (Lanes){0};
    for (int i = 0; i < n; i += 16)
        for (int p = 0; p < PARTS; p++)
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++)
                    s[r][c].part[p] = fma_vec(load(a + r * stride + i + p * VEC),
                                              load(b[c] + i + p * VEC), s[r][c].part[p]);
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

/* out_rc = a_r . b_c    a [R,n], rows `stride` apart, b: 16/R rows [n] -> out [R,16/R]; R: 1 or 4 */
static inline __attribute__((always_inline))
void dots(float out[16], const float *a, size_t stride, const weight *const *b, int R, int n)
{
    enum { R_STEP = VEC == 16 ? 4 : VEC == 8 ? 2 : 1, C_STEP = VEC == 16 ? 4 : 2,
           ONE_STEP = VEC == 4 ? 2 : 4 };
    Lanes sum[16];
    int   C = 16 / R;
    if (n % 16)
        for (int i = 0; i < 16; i++) out[i] = fast_dot(a + i / C * stride, b[i % C], n);
    else {
        if (R == 4)
            for (int r = 0; r < 4; r += R_STEP)
                for (int c = 0; c < 4; c += C_STEP)
                    products(sum + 4 * r + c, a + r * stride, stride, b + c, R_STEP, C_STEP, n);
        else
            for (int c = 0; c < 16; c += ONE_STEP) products(sum + c, a, 0, b + c, 1, ONE_STEP, n);
        fold(out, sum);
    }
}

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
            dots(out, x + (size_t)r * D, D, b + c, 4, D);
            for (int i = 0; i < 4; i++)
                copy(logits + (size_t)(r + i) * V + c, out + 4 * i, min_int(4, count - c));
        }
    for (; r < rows; r++)
        for (int c = 0; c < count; c += 16) {
            dots(out, x + (size_t)r * D, D, b + c, 1, D);
            copy(logits + (size_t)r * V + c, out, min_int(16, count - c));
        }
}

/* Each thread takes a range of the vocabulary. */
static void fast_unembed(float *logits, const float *x, int rows, const weight *W_U, int V, int D,
                         int threads)
{
    (void)threads;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < V; i += 32)
        unembed_block(logits + i, x, rows, W_U + (size_t)i * D, min_int(32, V - i), V, D);
}

/* ---- Linear layers ----
 *
 * A tile of y, TILE_ROWS x PANEL, keeps its sums in registers: a load of W serves all its rows, a
 * load of x all its columns. A block of W, DEPTH x PANEL, stays in the second-level cache while all
 * rows of x pass by. Its rows lie far apart in W; the first tile packs them side by side as it
 * reads them. Between blocks the sums wait in y, so their order is still k = 0..in-1. */
enum { TILE_ROWS = VEC == 16 ? 8 : 4, TILE_VECS = 3, PANEL = TILE_VECS * VEC, DEPTH = 384 };

typedef struct {
    const weight *W;                                    /* [depth,PANEL], rows `stride` apart */
    size_t        stride;
    int           depth;
    const weight *bias;                                 /* [PANEL] if this block ends the sums */
    int           first;                                /* does it begin them? */
    const weight *ahead;                                /* W of the next block: fetch it */
    size_t        ahead_stride;
    int           lines;                                /* so many cache lines of each of its rows */
} Slab;

/* y <- y + x W    x [rows,depth], W [depth,PANEL] -> y [rows,PANEL]; pack [depth,PANEL] <- W */
static inline __attribute__((always_inline))
void tile(float *y, size_t y_stride, const float *x, size_t x_stride, int rows, const Slab *slab,
          float *pack)
{
    vec sum[TILE_ROWS][TILE_VECS];
    const weight *W = slab->W, *ahead = slab->ahead;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < TILE_VECS; v++)
            sum[r][v] = slab->first ? (vec){0} : load(y + r * y_stride + v * VEC);
    for (int i = 0; i < slab->depth; i++, W += slab->stride, ahead += slab->ahead_stride) {
        vec w[TILE_VECS];
        for (int v = 0; v < TILE_VECS; v++) {
            w[v] = load(W + v * VEC);
            if (pack) store(pack + i * PANEL + v * VEC, w[v]);
        }
        for (int line = 0; line < slab->lines; line++) __builtin_prefetch(ahead + 16 * line, 0, 2);
        for (int r = 0; r < rows; r++) {
            vec xi = all(x[r * x_stride + i]);
            for (int v = 0; v < TILE_VECS; v++) sum[r][v] = fma_vec(xi, w[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < TILE_VECS; v++)
            store(y + r * y_stride + v * VEC,
                  slab->bias ? sum[r][v] + load(slab->bias + v * VEC) : sum[r][v]);
}

/* A tile of as many rows as there are: each number of rows has its own registers. */
static void some_rows(float *y, size_t y_stride, const float *x, size_t x_stride, int rows,
                      const Slab *slab)
{
    switch (rows) {
#define CASE(n) case n: if (n <= TILE_ROWS) tile(y, y_stride, x, x_stride, n, slab, NULL); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
}

/* All rows of x through one slab. */
static void slab_rows(float *y, size_t y_stride, const float *x, size_t x_stride, int rows,
                      Slab *slab, float *pack)
{
    int r = 0, n_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    int lines = PANEL / 16 + 1, per = (lines + n_tiles - 1) / n_tiles, fetched = 0;
    if (rows > TILE_ROWS) {
        slab->lines = per;
        tile(y, y_stride, x, x_stride, TILE_ROWS, slab, pack);
        slab->W = pack;
        slab->stride = PANEL;
        r = TILE_ROWS;
        fetched = per;
        slab->ahead += 16 * per;
    }
    for (; r < rows; r += TILE_ROWS) {
        slab->lines = min_int(per, lines - fetched);
        some_rows(y + r * y_stride, y_stride, x + r * x_stride, x_stride,
                  min_int(TILE_ROWS, rows - r), slab);
        fetched += slab->lines;
        slab->ahead += 16 * slab->lines;
    }
}

/* One panel of columns, slab by slab. The last columns of a matrix may fill only a part of a
 * panel: they go through copies padded with zeros. */
static void panel(float *y, const float *x, int rows, int in, int out, const weight *W,
                  size_t stride, const weight *b, int columns)
{
    float pack[DEPTH * PANEL];
    for (int i = 0; i < in; i += DEPTH) {
        int depth = min_int(DEPTH, in - i), last = i + depth == in;
        Slab slab = { .W = W + i * stride, .stride = stride, .depth = depth, .first = i == 0,
                      .bias = last ? b : NULL, .ahead_stride = stride,
                      .ahead = last ? W + PANEL : W + (i + depth) * stride };
        if (columns == PANEL) {
            slab_rows(y, out, x + i, in, rows, &slab, pack);
            continue;
        }
        float part[TILE_ROWS * PANEL] = {0}, bias[PANEL] = {0};
        size_t size = columns * sizeof(float);
        memset(pack, 0, sizeof pack);
        for (int k = 0; k < depth; k++) memcpy(pack + k * PANEL, slab.W + k * stride, size);
        if (last) memcpy(bias, b, size), slab.bias = bias;
        slab.W = pack, slab.stride = PANEL;
        for (int r = 0; r < rows; r += TILE_ROWS) {
            int n = min_int(TILE_ROWS, rows - r);
            for (int j = 0; j < n; j++) memcpy(part + j * PANEL, y + (size_t)(r + j) * out, size);
            some_rows(part, PANEL, x + (size_t)r * in + i, in, n, &slab);
            for (int j = 0; j < n; j++) memcpy(y + (size_t)(r + j) * out, part + j * PANEL, size);
        }
    }
}

/* One row: W is used once, so all that counts is to read it in long stretches. The sums of all
 * columns stay in the cache while four rows of W at a time go by. */
static void one_row(float *y, const float *x, int in, const weight *W, size_t stride,
                    const weight *b, int columns)
{
    int whole = columns / VEC * VEC, i = 0;
    for (int c = 0; c < columns; c++) y[c] = 0;
    for (; i + 4 <= in; i += 4, W += 4 * stride) {
        vec x0 = all(x[i]), x1 = all(x[i + 1]), x2 = all(x[i + 2]), x3 = all(x[i + 3]);
        for (int c = 0; c < whole; c += VEC) {
            for (int k = 0; k < 4; k++) __builtin_prefetch(W + (16 + k) * stride + c, 0, 2);
            vec sum = fma_vec(x0, load(W + c), load(y + c));
            sum = fma_vec(x1, load(W + stride + c), sum);
            sum = fma_vec(x2, load(W + 2 * stride + c), sum);
            store(y + c, fma_vec(x3, load(W + 3 * stride + c), sum));
        }
        for (int c = whole; c < columns; c++)
            for (int k = 0; k < 4; k++) y[c] = fma1(x[i + k], W[k * stride + c], y[c]);
    }
    for (; i < in; i++, W += stride)
        for (int c = 0; c < columns; c++) y[c] = fma1(x[i], W[c], y[c]);
    for (int c = 0; c < columns; c++) y[c] += b[c];
}

/* Threads share out the columns, never the sum over inputs. */
static void fast_linear(float *y, const float *x, int rows, int in, int out,
                        const weight *W, size_t stride, const weight *b, int threads)
{
    int step = rows == 1 ? round_up((out + threads - 1) / threads, 16) : PANEL;
    int small = (size_t)rows * in * out < 1 << 16;
    (void)small;
    #pragma omp parallel for schedule(static) num_threads(threads) if (!small)
    for (int c = 0; c < out; c += step) {
        int columns = min_int(step, out - c);
        if (rows == 1) one_row(y + c, x, in, W + c, stride, b + c, columns);
        else panel(y + c, x, rows, in, out, W + c, stride, b + c, columns);
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
        dots(out, q, keys->stride, k, R, d);
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

typedef struct {
    const char *at, *end;
    char       *text;                                   /* decoded strings go here, one by one */
    const char *file;
} Json;

static int json_fail(const Json *json, const char *what)
{
    return mi_fail("%s: not a safetensors file: %s", json->file, what);
}

/* The next character that is not white space, without taking it; 0 at the end. */
static char json_peek(Json *json)
{
    while (json->at < json->end && *json->at && strchr(" \t\r\n", *json->at)) json->at++;
    return json->at < json->end ? *json->at : 0;
}

static int json_take(Json *json, char expected)
{
    if (json_peek(json) != expected) return 0;
    json->at++;
    return 1;
}

static int json_hex(Json *json)
{
    int value = 0;
    if (json->end - json->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = *json->at++;
        if (!isxdigit((unsigned char)c)) return -1;
        value = value * 16 + (isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

/* \uXXXX, or a surrogate pair of them, as UTF-8. */
static int json_unicode(Json *json)
{
    int c = json_hex(json);
    if (c >= 0xD800 && c < 0xDC00 && json->end - json->at >= 6 && json->at[0] == '\\' &&
        json->at[1] == 'u') {
        json->at += 2;
        int low = json_hex(json);
        c = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00) : -1;
    }
    if (c < 0 || (c >= 0xD800 && c < 0xE000)) return -1;
    if (c > 0 && c < 0x80) *json->text++ = (char)c;     /* 0 takes two bytes: it ends no string */
    else {
        int tail = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        *json->text++ = (char)((0xF00 >> tail & 0xFF) | c >> 6 * tail);
        while (tail--) *json->text++ = (char)(0x80 | (c >> 6 * tail & 0x3F));
    }
    return 0;
}

/* "..." -> its text, ended by NUL; NULL if malformed. Never longer than its JSON. */
static const char *json_string(Json *json)
{
    const char *start = json->text;
    if (!json_take(json, '"')) return json_fail(json, "expected a string in the header"), NULL;
    while (json->at < json->end && *json->at != '"') {
        unsigned char c = (unsigned char)*json->at++;
        if (c < 0x20) return json_fail(json, "control character in a string of the header"), NULL;
        if (c != '\\') {
            *json->text++ = (char)c;
            continue;
        }
        static const char names[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
        char escape = json->at < json->end ? *json->at++ : 0;
        const char *known = escape ? strchr(names, escape) : NULL;
        if (known) *json->text++ = meaning[known - names];
        else if (escape != 'u' || json_unicode(json) < 0)
            return json_fail(json, "malformed escape in a string of the header"), NULL;
    }
    if (json->at == json->end) return json_fail(json, "unterminated string in the header"), NULL;
    json->at++;
    *json->text++ = 0;
    return start;
}

/* A non-negative integer: all that offsets and shapes may be. */
static int json_integer(Json *json, int64_t *value)
{
    if (!isdigit((unsigned char)json_peek(json)))
        return json_fail(json, "expected a non-negative integer in the header");
    if (*json->at == '0' && json->end - json->at > 1 && isdigit((unsigned char)json->at[1]))
        return json_fail(json, "a number of the header starts with 0");
    *value = 0;
    while (json->at < json->end && isdigit((unsigned char)*json->at)) {
        int digit = *json->at++ - '0';
        if (*value > (INT64_MAX - digit) / 10)
            return json_fail(json, "an integer of the header is too large");
        *value = *value * 10 + digit;
    }
    if (json->at < json->end && strchr(".eE", *json->at))
        return json_fail(json, "expected a whole number in the header");
    return 0;
}

/* [1, 2, 3] -> list; returns how many, or -1. */
static int json_integers(Json *json, int64_t *list, int most)
{
    int n = 0;
    if (!json_take(json, '[')) return json_fail(json, "expected a list in the header");
    if (json_take(json, ']')) return 0;
    do {
        if (n == most) return json_fail(json, "a list of the header is too long");
        if (json_integer(json, &list[n++]) < 0) return -1;
    } while (json_take(json, ','));
    return json_take(json, ']') ? n : json_fail(json, "malformed list in the header");
}

/* Pass over any value: what is nested deeper than `depth` is refused. */
static int json_skip(Json *json, int depth)
{
    char c = json_peek(json);
    if (c == '"') {
        char *text = json->text;
        const char *string = json_string(json);
        json->text = text;
        return string ? 0 : -1;
    }
    if (c == '{' || c == '[') {
        if (depth == 0) return json_fail(json, "the header is nested too deeply");
        char close = c == '{' ? '}' : ']';
        json->at++;
        if (json_take(json, close)) return 0;
        do {
            if (c == '{' && (json_skip(json, 0) < 0 || !json_take(json, ':')))
                return json_fail(json, "malformed object in the header");
            if (json_skip(json, depth - 1) < 0) return -1;
        } while (json_take(json, ','));
        return json_take(json, close) ? 0 : json_fail(json, "malformed value in the header");
    }
    const char *start = json->at;
    while (json->at < json->end && (isalnum((unsigned char)*json->at) || strchr("+-.", *json->at)))
        if (!*json->at++) break;
    return json->at > start ? 0 : json_fail(json, "malformed value in the header");
}

enum { MOST_DIMS = 8 };
typedef struct {
    const char *name;
    char        dtype[8];
    int         n_dims;
    int64_t     shape[MOST_DIMS], range[2];             /* bytes range[0] .. range[1]-1 of the data */
} Tensor;

typedef struct {
    const char *file;
    const char *data;
    int64_t     data_size;
    Tensor     *tensors;
    int         n_tensors;
    char       *text;                                   /* memory of the names */
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
    int seen = 0;
    if (!json_take(json, '{')) return json_fail(json, "expected a tensor in the header");
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        int field = !strcmp(key, "dtype") ? 1 : !strcmp(key, "shape") ? 2
                  : !strcmp(key, "data_offsets") ? 4 : 0;
        if (!json_take(json, ':') || (seen & field))
            return json_fail(json, "malformed tensor in the header");
        seen |= field;
        if (field == 0 && json_skip(json, 4) < 0) return -1;
        if (field == 1) {
            const char *dtype = json_string(json);
            if (!dtype) return -1;
            snprintf(tensor->dtype, sizeof tensor->dtype, "%s", dtype);
        }
        if (field == 2 && (tensor->n_dims = json_integers(json, tensor->shape, MOST_DIMS)) < 0)
            return -1;
        if (field == 4) {
            int n = json_integers(json, tensor->range, 2);
            if (n < 0) return -1;
            if (n != 2) return json_fail(json, "data_offsets are not two numbers");
        }
    } while (json_take(json, ','));
    if (!json_take(json, '}') || seen != 7)
        return json_fail(json, "a tensor needs dtype, shape and data_offsets");
    return 0;
}

/* Does the tensor lie within the data, and is it as large as its shape says? */
static int check_tensor(const Header *header, const Tensor *tensor)
{
    int64_t size = element_size(tensor->dtype), bytes = tensor->range[1] - tensor->range[0];
    if (bytes < 0 || tensor->range[1] > header->data_size)
        return mi_fail("%s: tensor %.80s lies at bytes %lld to %lld of %lld: the file is truncated "
                       "or its header is wrong", header->file, tensor->name,
                       (long long)tensor->range[0], (long long)tensor->range[1],
                       (long long)header->data_size);
    if (size == 0) return 0;                            /* a type we never read */
    for (int i = 0; i < tensor->n_dims; i++) {
        if (tensor->shape[i] && size > INT64_MAX / tensor->shape[i])
            return mi_fail("%s: the shape of tensor %.80s is too large", header->file, tensor->name);
        size *= tensor->shape[i];
    }
    if (size != bytes)
        return mi_fail("%s: tensor %.80s has %lld bytes; its shape and type say %lld", header->file,
                       tensor->name, (long long)bytes, (long long)size);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const Tensor *x = a, *y = b;
    if (x->range[0] != y->range[0]) return x->range[0] < y->range[0] ? -1 : 1;
    return (x->range[1] > y->range[1]) - (x->range[1] < y->range[1]);
}

/* No two tensors share bytes or a name. Leaves them sorted by name. */
static int check_tensors(Header *header)
{
    Tensor *tensors = header->tensors;
    int     n = header->n_tensors;
    qsort(tensors, n, sizeof *tensors, by_offset);
    for (int i = 1; i < n; i++)
        if (tensors[i].range[0] < tensors[i - 1].range[1])
            return mi_fail("%s: tensors %.80s and %.80s overlap", header->file,
                           tensors[i - 1].name, tensors[i].name);
    qsort(tensors, n, sizeof *tensors, by_name);
    for (int i = 1; i < n; i++)
        if (!strcmp(tensors[i].name, tensors[i - 1].name))
            return mi_fail("%s: tensor %.80s appears twice", header->file, tensors[i].name);
    return 0;
}

/* {"n_head":"4", ...}: strings by name */
static int read_metadata(Json *json, Header *header)
{
    if (!json_take(json, '{')) return json_fail(json, "__metadata__ is not an object");
    if (json_take(json, '}')) return 0;
    do {
        const char *key = json_string(json);
        if (!key) return -1;
        if (!json_take(json, ':')) return json_fail(json, "malformed __metadata__");
        const char *value = json_string(json);
        if (!value) return -1;
        if (strcmp(key, "n_head")) continue;
        if (header->n_head) return json_fail(json, "n_head appears twice");
        header->n_head = value;
    } while (json_take(json, ','));
    return json_take(json, '}') ? 0 : json_fail(json, "malformed __metadata__");
}

/* The whole header: one object of tensors by name, and __metadata__. */
static int read_header(Header *header, const char *text, size_t size)
{
    header->text = malloc(size + 1);
    if (!header->text) return mi_fail("out of memory");
    Json json = { text, text + size, header->text, header->file };
    if (!json_take(&json, '{')) return json_fail(&json, "its header is not a JSON object");
    if (!json_take(&json, '}')) {
        do {
            const char *name = json_string(&json);
            if (!name) return -1;
            if (!json_take(&json, ':')) return json_fail(&json, "malformed header");
            if (!strcmp(name, "__metadata__")) {
                if (header->has_metadata++) return json_fail(&json, "__metadata__ appears twice");
                if (read_metadata(&json, header) < 0) return -1;
                continue;
            }
            Tensor *bigger = grow(header->tensors, header->n_tensors, sizeof *bigger);
            if (!bigger) return -1;
            header->tensors = bigger;
            Tensor *tensor = &bigger[header->n_tensors];
            *tensor = (Tensor){ .name = name };
            if (read_tensor(&json, tensor) < 0 || check_tensor(header, tensor) < 0) return -1;
            header->n_tensors++;
        } while (json_take(&json, ','));
        if (!json_take(&json, '}')) return json_fail(&json, "malformed header");
    }
    if (json_peek(&json) || json.at != json.end)
        return json_fail(&json, "text after the end of its header");
    return check_tensors(header);
}

/* A tensor by name, with or without the "transformer." that some files put before it. */
static const Tensor *find_tensor(const Header *header, const char *name)
{
    static const char *const prefixes[] = { "", "transformer." };
    for (int i = 0; i < 2 && header->n_tensors; i++) {
        char full[128];
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        Tensor key = { .name = full };
        const Tensor *found = bsearch(&key, header->tensors, header->n_tensors, sizeof key, by_name);
        if (found) return found;
    }
    return NULL;
}

/* F16 or BF16 -> F32, exactly. A half is sign, 5 bits of exponent, 10 of fraction. */
static float half_to_float(uint16_t half)
{
    int   exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                : exponent ? ldexpf((float)(fraction + 1024), exponent - 25)
                : ldexpf((float)fraction, -24);
    return half & 0x8000 ? -value : value;
}

static float *convert(MiModel *model, const char *data, int64_t n, int bf16)
{
    float **list = grow(model->converted, model->n_converted, sizeof *list);
    if (!list) return NULL;
    model->converted = list;
    float *values = malloc((size_t)n * sizeof *values + 1);
    if (!values) return mi_fail("out of memory"), NULL;
    model->converted[model->n_converted++] = values;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        uint32_t wide = (uint32_t)bits << 16;
        if (bf16) memcpy(&values[i], &wide, 4);
        else values[i] = half_to_float(bits);
    }
    return values;
}

/* Check a tensor's shape and hand out its weights: in place if F32, else converted. */
static const weight *take_tensor(MiModel *model, const Header *header, const char *name,
                                 int n_dims, int64_t rows, int64_t columns)
{
    const Tensor *tensor = find_tensor(header, name);
    if (!tensor) return mi_fail("%s: tensor %s is missing", header->file, name), NULL;
    int64_t last = n_dims == 2 ? columns : rows;
    if (tensor->n_dims != n_dims || tensor->shape[0] != rows || tensor->shape[n_dims - 1] != last) {
        char want[48];
        snprintf(want, sizeof want, n_dims == 2 ? "[%lld,%lld]" : "[%lld]", (long long)rows,
                 (long long)columns);
        return mi_fail("%s: tensor %s should have the shape %s", header->file, name, want), NULL;
    }
    const char *data = header->data + tensor->range[0];
    if (!strcmp(tensor->dtype, "F32")) return (const weight *)data;
    int bf16 = !strcmp(tensor->dtype, "BF16");
    if (!bf16 && strcmp(tensor->dtype, "F16"))
        return mi_fail("%s: tensor %s has type %s; F32, F16 and BF16 can be read", header->file,
                       name, tensor->dtype), NULL;
    return convert(model, data, rows * (n_dims == 2 ? columns : 1), bf16);
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

/* The tensors of GPT-2: where each goes, its name and shape. One table for loading and checking;
 * the tests' random models are written from it too. */
typedef struct { size_t field; const char *name, *shape; } TensorField;

static const TensorField model_tensors[] = {
#define X(field, name, shape) { offsetof(MiModel, field), name, shape },
    MI_MODEL_TENSORS(X)
#undef X
};
static const TensorField block_tensors[] = {
#define X(field, name, shape) { offsetof(Block, field), name, shape },
    MI_BLOCK_TENSORS(X)
#undef X
};

static int take_field(MiModel *model, const Header *header, void *owner, const TensorField *field,
                      const char *prefix)
{
    char name[96];
    snprintf(name, sizeof name, "%s%s", prefix, field->name);
    const MiShape *shape = &model->shape;
    const weight *data = take_tensor(model, header, name, (int)strlen(field->shape),
                                     dimension(shape, field->shape[0]),
                                     dimension(shape, field->shape[1]));
    if (!data) return -1;
    memcpy((char *)owner + field->field, &data, sizeof data);
    return 0;
}

/* L, D, V and n_ctx follow from the tensors that are there. */
static int find_shape(MiModel *model, const Header *header)
{
    const Tensor *wte = find_tensor(header, "wte.weight"), *wpe = find_tensor(header, "wpe.weight");
    if (!wte || !wpe)
        return mi_fail("%s: tensor %s is missing: not a GPT-2", header->file,
                       wte ? "wpe.weight" : "wte.weight");
    if (wte->n_dims != 2 || wpe->n_dims != 2)
        return mi_fail("%s: wte.weight and wpe.weight should have two dimensions", header->file);
    enum { MOST = 1 << 24 };
    int64_t V = wte->shape[0], D = wte->shape[1], n_ctx = wpe->shape[0], layers = 0;
    if (V < 1 || D < 1 || n_ctx < 1 || V > MOST || D > MOST / 64 || n_ctx > MOST)
        return mi_fail("%s: a vocabulary of %lld, %lld dimensions and a context of %lld are not a "
                       "GPT-2", header->file, (long long)V, (long long)D, (long long)n_ctx);
    for (int i = 0; i < header->n_tensors; i++) {
        const char *name = header->tensors[i].name;
        if (!strncmp(name, "transformer.", 12)) name += 12;
        if (strncmp(name, "h.", 2) || !isdigit((unsigned char)name[2])) continue;
        char *end;
        long long layer = strtoll(name + 2, &end, 10);  /* an absurd one becomes the largest */
        if (*end == '.' && layer >= layers) layers = layer < INT_MAX ? layer + 1 : INT_MAX;
    }
    if (layers < 1) return mi_fail("%s: it has no layers (h.0.ln_1.weight ...)", header->file);
    if (layers > header->n_tensors)
        return mi_fail("%s: layers are missing below the highest, h.%lld", header->file,
                       (long long)layers - 1);
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

/* n_head of the config.json beside the model: "" if there is none. */
static int config_n_head(const char *file, char *value, size_t size)
{
    const char *slash = strrchr(file, '/');
    char path[4096];
    snprintf(path, sizeof path, "%.*sconfig.json", slash ? (int)(slash + 1 - file) : 0, file);
    char *text = read_text(path, 1 << 20);
    value[0] = 0;
    if (!text) return 0;
    char *strings = malloc(strlen(text) + 1);
    Json json = { text, text + strlen(text), strings, path };
    int  status = strings ? 0 : mi_fail("out of memory");
    if (status == 0 && json_take(&json, '{') && !json_take(&json, '}'))
        do {
            const char *key = json_string(&json);
            if (!key || !json_take(&json, ':')) break;
            json_peek(&json);
            const char *start = json.at;
            if (json_skip(&json, 32) < 0) break;
            if (!strcmp(key, "n_head"))
                snprintf(value, size, "%.*s", (int)(json.at - start), start);
        } while (json_take(&json, ','));
    free(strings);
    free(text);
    return status;
}

/* The number of heads is in no tensor's shape: it stands in the metadata, or in config.json, or
 * is D/64 as in every published GPT-2. */
static int find_heads(MiModel *model, const Header *header)
{
    MiShape *shape = &model->shape;
    char     beside[32], *end;
    if (!header->n_head && config_n_head(header->file, beside, sizeof beside) < 0) return -1;
    const char *text = header->n_head ? header->n_head : beside;
    errno = 0;
    long heads = *text ? strtol(text, &end, 10) : shape->d_model / 64;
    if ((*text && (*end || errno || !isdigit((unsigned char)*text))) || heads < 1 ||
        heads > shape->d_model || shape->d_model % heads)
        return mi_fail("%s: n_head %.20s%s does not divide its %d dimensions", header->file,
                       *text ? text : "", *text ? "" : "(none given; D/64)", shape->d_model);
    shape->n_head = (int)heads;
    shape->d_head = shape->d_model / (int)heads;
    return 0;
}

/* vocab_ids: the GPT-2 ids of the rows of a model with a smaller vocabulary. */
static int take_vocab_ids(MiModel *model, const Header *header)
{
    const Tensor *tensor = find_tensor(header, "vocab_ids");
    if (!tensor) return 0;
    int V = model->shape.n_vocab;
    if (strcmp(tensor->dtype, "I32") || tensor->n_dims != 1 || tensor->shape[0] != V)
        return mi_fail("%s: vocab_ids should be %d numbers of type I32", header->file, V);
    model->vocab_ids = malloc(V * sizeof *model->vocab_ids);
    if (!model->vocab_ids) return mi_fail("out of memory");
    memcpy(model->vocab_ids, header->data + tensor->range[0], V * sizeof *model->vocab_ids);
    for (int i = 0; i < V; i++)
        if (model->vocab_ids[i] < 0 || model->vocab_ids[i] > 50256 ||
            (i && model->vocab_ids[i] <= model->vocab_ids[i - 1]))
            return mi_fail("%s: vocab_ids should be ascending GPT-2 ids, 0 to 50256; number %d is "
                           "%d", header->file, i, model->vocab_ids[i]);
    return 0;
}

static int take_weights(MiModel *model, const Header *header)
{
    if (find_shape(model, header) < 0 || find_heads(model, header) < 0) return -1;
    MiShape *shape = &model->shape;
    model->block = calloc(shape->n_layer, sizeof *model->block);
    if (!model->block) return mi_fail("out of memory");
    for (size_t i = 0; i < sizeof model_tensors / sizeof *model_tensors; i++)
        if (take_field(model, header, model, &model_tensors[i], "") < 0) return -1;
    for (int l = 0; l < shape->n_layer; l++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "h.%d.", l);
        for (size_t i = 0; i < sizeof block_tensors / sizeof *block_tensors; i++)
            if (take_field(model, header, &model->block[l], &block_tensors[i], prefix) < 0) return -1;
    }
    model->W_U = model->wte;
    if (find_tensor(header, "lm_head.weight")) {
        const weight *own = take_tensor(model, header, "lm_head.weight", 2, shape->n_vocab,
                                        shape->d_model);
        if (!own) return -1;
        size_t bytes = (size_t)shape->n_vocab * shape->d_model * sizeof(float);
        if (memcmp(own, model->wte, bytes)) model->W_U = own;
    }
    return take_vocab_ids(model, header);
}

/* Map the file and find its header and its data. */
static int map_file(MiModel *model, Header *header, uint64_t *header_size)
{
    int         descriptor = open(header->file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat info;
    if (descriptor < 0) return mi_fail("%s: %s", header->file, strerror(errno));
    if (fstat(descriptor, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size < 8) {
        close(descriptor);
        return mi_fail("%s: %s", header->file, S_ISDIR(info.st_mode) ? "is a directory"
                       : "too short for a safetensors file");
    }
    model->map_size = (size_t)info.st_size;
    model->map = mmap(NULL, model->map_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    if (model->map == MAP_FAILED) {
        model->map = NULL;
        return mi_fail("%s: cannot be mapped: %s", header->file, strerror(errno));
    }
    const unsigned char *bytes = model->map;
    for (int i = 7; i >= 0; i--) *header_size = *header_size << 8 | bytes[i];
    if (*header_size > model->map_size - 8)
        return mi_fail("%s: not a safetensors file, or truncated: its header should have %llu "
                       "bytes", header->file, (unsigned long long)*header_size);
    header->data = (const char *)bytes + 8 + *header_size;
    header->data_size = (int64_t)(model->map_size - 8 - *header_size);
    return 0;
}

MiModel *mi_open(const char *path)
{
    MiModel *model = calloc(1, sizeof *model);
    Header   header = { .file = path };
    uint64_t header_size = 0;
    if (!model) return mi_fail("out of memory"), NULL;
    model->file = strdup(path);
    int ok = model->file && map_file(model, &header, &header_size) == 0 &&
             read_header(&header, (const char *)model->map + 8, header_size) == 0 &&
             take_weights(model, &header) == 0;
    free(header.tensors);
    free(header.text);
    if (ok) return model;
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

/* ==== Tokens ====================================================================================
 *
 * Text becomes tokens in three steps; no merge crosses the edge of a word:
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
    N_CODE_POINTS  = 0x110000,
    N_SLOTS        = 1 << 17,                           /* a power of two, over twice N_IDS */
    TOKENIZER_SIZE = 1 << 19,                           /* the file is smaller */
};

struct MiTokenizer {
    uint8_t  file[TOKENIZER_SIZE];      /* tokenizer.bin as it was read */
    size_t   file_size;
    const char *path;                   /* for messages while it is read */
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
        if (length == n && memcmp(token, bytes, (size_t)n) == 0)
            break;
    }
    return slot;
}

/* bytes [n] -> id, or -1. A file's tokens have at most 255 bytes: more are not worth hashing. */
static int find_id(const MiTokenizer *tokenizer, const uint8_t *bytes, int n)
{
    return n > 255 ? -1 : tokenizer->slots[find_slot(tokenizer, bytes, n)] - 1;
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
            return mi_fail("%s: U+%04X to U+%04X is out of order or no range", tokenizer->path,
                           first, last);
        for (uint32_t code = first; code <= last; code++) {
            if (tokenizer->class_of[code] != OTHER)
                return mi_fail("%s: U+%04X is in two classes", tokenizer->path, code);
            tokenizer->class_of[code] = (uint8_t)class;
        }
        lowest = last + 1;
    }
    return 0;
}

/* The tokens, from `at` to the end of the file -> place_of, slots, id_of_byte. The end of text
 * stays out of the hash table, since no merge makes it. */
static int read_tokens(MiTokenizer *tokenizer, size_t at)
{
    for (int id = 0; id < N_IDS; id++) {
        size_t left = tokenizer->file_size - at;
        int length = left > 0 ? tokenizer->file[at] : 0;
        if (left < 1 + (size_t)length)
            return mi_fail("%s: it ends within token %d", tokenizer->path, id);
        if (id < 256 ? length != 1 : length < 2)
            return mi_fail("%s: token %d cannot be %d bytes long", tokenizer->path, id, length);
        tokenizer->place_of[id] = (uint32_t)at;
        int32_t *slot = tokenizer->slots + find_slot(tokenizer, tokenizer->file + at + 1, length);
        if (*slot)
            return mi_fail("%s: tokens %d and %d are the same", tokenizer->path, *slot - 1, id);
        if (id < 256)
            tokenizer->id_of_byte[tokenizer->file[at + 1]] = id;
        if (id != END_OF_TEXT)
            *slot = 1 + id;
        at += 1 + (size_t)length;
    }
    if (at != tokenizer->file_size)
        return mi_fail("%s: it goes on after its last token", tokenizer->path);
    return 0;
}

static int read_tokenizer(MiTokenizer *tokenizer)
{
    const uint8_t *header = tokenizer->file;
    size_t at = 24, size = tokenizer->file_size;
    if (size < at || size == TOKENIZER_SIZE || memcmp(header, "MITOKEN1", 8) != 0)
        return mi_fail("%s: not a tokenizer file", tokenizer->path);
    if (read_u32(header + 20) != N_IDS)
        return mi_fail("%s: it says %u tokens, GPT-2 has %d", tokenizer->path,
                       read_u32(header + 20), N_IDS);
    for (int class = LETTER; class <= SPACE; class++) {
        uint32_t n_ranges = read_u32(header + 4 + 4 * class);
        if (n_ranges > (size - at) / 8)
            return mi_fail("%s: it ends within its character ranges", tokenizer->path);
        if (read_ranges(tokenizer, header + at, n_ranges, class) < 0)
            return -1;
        at += 8 * (size_t)n_ranges;
    }
    return read_tokens(tokenizer, at);
}

/* ---- Words: GPT-2's pattern, by hand ----
 *
 *     's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
 */

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
        if (e->heap[child] >= key)
            break;
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
    if (right >= n)
        return;
    int id = find_id(tokenizer, bytes + left, right - left + e->part[right].length);
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
        if (!e->heap)
            return mi_fail("out of memory for a word of %d bytes", n);
        e->part = (Part *)(e->heap + 3 * e->capacity);
    }
    for (int i = 0; i < n; i++)
        e->part[i] = (Part){1, i - 1, tokenizer->id_of_byte[bytes[i]]};
    for (int i = 0; i < n; i++)
        push_pair(tokenizer, e, bytes, n, i);
    while (e->n_heap > 0) {
        uint64_t key = heap_pop(e);
        int id = (int)(key >> 32), left = (int)(key & 0xFFFFFFFF), length;
        Part *part = &e->part[left];
        int right = left + part->length;
        bytes_of_id(tokenizer, id, &length);
        if (right >= n || part->length + e->part[right].length != length)
            continue;
        e->part[right].length = 0;
        *part = (Part){length, part->previous, id};
        if (left + length < n)
            e->part[left + length].previous = left;
        push_pair(tokenizer, e, bytes, n, left);
        if (left > 0)
            push_pair(tokenizer, e, bytes, n, part->previous);
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
        if ((status = merge_word(tokenizer, &e, bytes, n)) < 0)
            break;
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
    for (int id = 0; id < N_IDS; id++)
        tokenizer->row_of_id[id] = -1;
    for (int row = 0, lowest = 0; row < tokenizer->n_rows; row++) {
        int id = vocab_ids ? vocab_ids[row] : row;
        if (id < lowest || id >= N_IDS)
            return mi_fail("vocab_ids: entry %d is %d: not ascending, or no id", row, id);
        tokenizer->id_of_row[row] = id;
        tokenizer->row_of_id[id] = row;
        lowest = id + 1;
    }
    if (!vocab_ids)
        return 0;
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
    if (!file) {
        mi_fail("%s: %s", path, strerror(errno));
        return NULL;
    }
    MiTokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    int status = tokenizer ? 0 : mi_fail("%s: out of memory", path);
    if (tokenizer) {
        tokenizer->path = path;
        tokenizer->file_size = fread(tokenizer->file, 1, TOKENIZER_SIZE, file);
        status = ferror(file) ? mi_fail("%s: %s", path, strerror(errno))
                              : read_tokenizer(tokenizer);
    }
    fclose(file);
    if (status == 0)
        status = tokenizer_use_vocab(tokenizer, NULL, N_IDS);
    if (status == 0)
        return tokenizer;
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
    if (merge_word(tokenizer, e, bytes, n) < 0)
        return -1;
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
        if (memcmp(text + at, token, (size_t)length) == 0)
            return at;
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
    int length, status = n > INT32_MAX ? mi_fail("a text of %zu bytes is too long", n) : 0;
    bytes_of_id(tokenizer, END_OF_TEXT, &length);
    for (size_t at = 0; status == 0 && at < n;) {
        size_t stop = find_end_of_text(tokenizer, bytes, n, at);
        while (status == 0 && at < stop) {
            size_t end = word_end(tokenizer, bytes, stop, at);
            status = encode_word(tokenizer, &e, bytes + at, (int)(end - at));
            at = end;
        }
        if (stop < n)
            add_row(&e, tokenizer->row_of_id[END_OF_TEXT]);
        at = stop < n ? stop + (size_t)length : n;
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
    Range  layer, index, pos, key;      /* index: which heads or neurons; key: of a pattern's edge */
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

/* Append text to a message, with control characters and broken UTF-8 made visible as '?'. */
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

/* Columns that text [n] takes on a terminal: one a character. */
static int columns_of(const char *text, size_t n)
{
    int columns = 0;
    for (size_t i = 0; i < n; columns++) {
        int length;
        utf8_decode((const uint8_t *)text + i, n - i, &length);
        i += length;
    }
    return columns;
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
    size_t length = strlen(p->argument), shift = 0, before = where - p->argument;
    if (before > 50) shift = before - 50;               /* show the culprit, not a long start */
    while (shift && (p->argument[shift] & 0xC0) == 0x80) shift--;
    size_t shown = length - shift > 100 ? 100 : length - shift;
    append_visible(quoted, sizeof quoted, p->argument + shift, shown);
    mi_fail("%s: %s", p->flag, why);
    size_t used = strlen(error_text);
    snprintf(error_text + used, sizeof error_text - used, "\n    %s%s\n    %*s^",
             shift ? "..." : "", quoted,
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
    const char *start = p->at;
    if (take(p, "*")) {
        *range = (Range){ 0, count - 1, 1 };
        return 0;
    }
    if (!take_number(p, &range->lo))
        return fail_at(p, p->at, "expected a %s: a number 0-%d, a range like 0-%d, or *", what,
                       count - 1, count - 1);
    range->hi = range->lo;
    range->many = 0;
    const char *second = start;
    if (p->at < p->end && *p->at == '-') {
        second = ++p->at;
        range->many = 1;
        if (!take_number(p, &range->hi))
            return fail_at(p, p->at, "expected the last %s of the range", what);
        if (range->hi < range->lo)
            return fail_at(p, start, "the range of %ss runs backwards", what);
    }
    if (range->hi >= count)
        return fail_at(p, range->lo >= count ? start : second,
                       "%s %d does not exist; this model has %ss 0-%d", what,
                       range->lo >= count ? range->lo : range->hi, what, count - 1);
    return 0;
}

static int find_site(const char *name, size_t n, MiPlace place, int head_only)
{
    for (int site = 0; site < MI_N_SITES; site++) {
        MiWidth width = SITES[site].width;
        if (strlen(SITES[site].name) == n && !strncmp(SITES[site].name, name, n) &&
            SITES[site].place == place &&
            (!head_only || width == MI_HEADS || width == MI_KEYS))
            return site;
    }
    return -1;
}

/* The letters, digits and underscores at the cursor. */
static size_t word_length(const Parser *p)
{
    size_t n = 0;
    while (p->at + n < p->end && (isalnum((unsigned char)p->at[n]) || p->at[n] == '_')) n++;
    return n;
}

/* ".NAME" of a site; without one the default. */
static int parse_site_name(Parser *p, Address *address)
{
    int head = address->unit == HEAD;
    if (!take(p, ".")) {
        if (address->unit != WHOLE_ROW) return 0;
        return fail_at(p, p->at, "expected H (a head), N (a neuron) or a site such as .resid_pre "
                       "after the layer");
    }
    int site = find_site(p->at, word_length(p), MI_BLOCK, head);
    if (site < 0)
        return fail_at(p, p->at, head ? "a head has the sites z, q, k, v, scores and pattern"
                       : "no such site in a layer; mi --sites lists them");
    p->at += word_length(p);
    address->site = site;
    if (address->unit == NEURON && SITES[site].width != MI_D_MLP)
        return fail_at(p, p->at - strlen(SITES[site].name), "a neuron has the sites mlp_post and "
                       "mlp_pre");
    return 0;
}

/* "L0-3H*.z", "L5N7", "L5.mlp_out" */
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
    return parse_site_name(p, address);
}

/* blocks.5.attn.hook_z, hook_embed ...: names of TransformerLens, as they are. 1 if it was one. */
static int parse_tl_name(Parser *p, Address *address)
{
    int longest = 0;
    for (int site = 0; site < MI_N_SITES; site++) {
        const char *name = SITES[site].tl_name, *slot = name ? strstr(name, "%d") : NULL;
        Parser q = *p;
        int layer = 0;
        if (!name) continue;
        if (slot) {
            char before[32];
            snprintf(before, sizeof before, "%.*s", (int)(slot - name), name);
            if (!take(&q, before) || !take_number(&q, &layer)) continue;
        }
        if (!take(&q, slot ? slot + 2 : name) || word_length(&q) || q.at - p->at <= longest)
            continue;
        longest = (int)(q.at - p->at);
        address->site = site;
        address->layer = (Range){ layer, layer, 0 };
    }
    if (longest && address->layer.lo >= n_layers_of(p->model, address->site))
        return fail_at(p, p->at + 7, "layer %d does not exist; this model has layers 0-%d",
                       address->layer.lo, p->model->shape.n_layer - 1);
    p->at += longest;
    return longest > 0;
}

static int parse_site(Parser *p, Address *address)
{
    static const struct { const char *word; MiSite site; Unit unit; } groups[] = {
        { "heads", MI_z, HEAD }, { "mlps", MI_mlp_out, WHOLE_ROW },
        { "attns", MI_attn_out, WHOLE_ROW }, { "resid", MI_resid_pre, WHOLE_ROW },
    };
    const MiShape *shape = &p->model->shape;
    size_t         n = word_length(p);
    *address = (Address){ .text = p->at, .unit = WHOLE_ROW };
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (n == strlen(groups[i].word) && take(p, groups[i].word)) {
            address->site = groups[i].site;
            address->unit = groups[i].unit;
            address->layer = (Range){ 0, shape->n_layer - 1, 1 };
            address->index = (Range){ 0, shape->n_head - 1, 1 };
            return 0;
        }
    int site = find_site(p->at, n, MI_ENTRY, 0);
    if (site < 0) site = find_site(p->at, n, MI_FINAL, 0);
    if (site >= 0) {
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

/* Do the tokens first..last spell text [n]? */
static int tokens_spell(const Parser *p, int first, int last, const char *text, size_t n)
{
    for (int t = first; t <= last; t++) {
        int         length;
        const char *bytes = mi_token_bytes(p->tokenizer, p->tokens[t], &length);
        if ((size_t)length > n || memcmp(bytes, text, length)) return 0;
        text += length;
        n -= length;
    }
    return n == 0;
}

/* All runs of tokens that spell text, with or without a space before it. */
static int find_text(const Parser *p, const char *text, size_t n, int space, Range *matches,
                     int most)
{
    char *spaced = malloc(n + 2);
    int   found = 0;
    if (!spaced) return 0;
    spaced[0] = ' ';
    memcpy(spaced + 1, text, n);
    for (int first = 0; first < p->n; first++)
        for (int last = first; last < p->n && last <= first + (int)n; last++)
            if (tokens_spell(p, first, last, text, n) || (space && tokens_spell(p, first, last, spaced, n + 1)))
                if (found++ < most) matches[found - 1] = (Range){ first, last, 0 };
    free(spaced);
    return found;
}

/* @"TEXT" or @word, with #n to choose among several matches (#1 is the first). */
static int parse_text_position(Parser *p, Range *pos)
{
    const char *start = p->at, *text = p->at;
    int         quoted = take(p, "\""), number = 1;
    size_t      n = 0;
    if (quoted) {
        text = p->at;
        while (p->at + n < p->end && p->at[n] != '"') n++;
        if (p->at + n == p->end) return fail_at(p, start, "the quote is not closed");
        p->at += n + 1;
    } else {
        while (p->at + n < p->end && !strchr(",:#=", p->at[n])) n++;
        p->at += n;
    }
    if (n == 0) return fail_at(p, start, "expected a position: a number, a range, *, or text");
    if (!p->tokenizer) return fail_at(p, start, "text positions need a tokenizer");
    Range matches[16];
    int   found = find_text(p, text, n, !quoted, matches, 16), chosen = take(p, "#");
    if (chosen && (!take_number(p, &number) || number < 1))
        return fail_at(p, p->at, "expected a number after #: #1 is the first match");
    if (found == 0) {
        const char *as_token = quoted ? "no run of whole tokens of the prompt spells this text"
                                      : "this is not a position, and no token of the prompt";
        return fail_at(p, text, "%s; mi PROMPT -k 0 shows the tokens", as_token);
    }
    if (!chosen && found > 1) {
        char list[128] = "";
        for (int i = 0; i < min_int(found, 8); i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), " #%d at %d", i + 1,
                     matches[i].lo);
        return fail_at(p, text, "this text stands %d times in the prompt:%s", found, list);
    }
    if (number > min_int(found, 16))
        return fail_at(p, p->at - 1, "this text stands only %d times in the prompt", found);
    *pos = matches[number - 1];
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

/* SITE[@POS[:KEY]] -> one more address */
static int parse_address(Parser *p)
{
    Address *list = grow(p->found, p->n_found, sizeof *list);
    if (!list) return -1;
    p->found = list;
    Address *address = &list[p->n_found];
    if (parse_site(p, address) < 0) return -1;
    const char *pos = p->at, *key = NULL;
    address->pos = (Range){ 0, p->n - 1, 0 };
    address->key = (Range){ 0, p->n - 1, 0 };
    address->has_pos = take(p, "@");
    if (address->has_pos && parse_position(p, &address->pos) < 0) return -1;
    if (address->has_pos && (address->has_key = take(p, ":"))) {
        key = p->at;
        if (parse_position(p, &address->key) < 0) return -1;
    }
    int edges = SITES[address->site].width == MI_KEYS;
    if (key && !edges && strcmp(p->flag, "--knockout"))
        return fail_at(p, key, "only scores and pattern have keys (@query:key); %s has one value "
                       "a position", SITES[address->site].name);
    if (address->key.lo > address->pos.hi)
        return fail_at(p, key, "key %d comes after query %d: no position looks ahead",
                       address->key.lo, address->pos.hi);
    if (p->at < p->end && *p->at != ',')
        return fail_at(p, p->at, address->has_pos ? "expected , or the end after the position"
                       : pos == p->at ? "expected @POSITION, a comma or the end after the site"
                       : "expected , or the end");
    p->n_found++;
    return 0;
}

/* not:LIST -> all units of the list's kind that it does not name, one address a unit. */
static int complement(Parser *p, const char *start)
{
    Address first = p->found[0];
    int     L = n_layers_of(p->model, first.site);
    int     units = first.unit == HEAD ? p->model->shape.n_head
                  : first.unit == NEURON ? p->model->shape.d_mlp : 1;
    unsigned char *named = calloc(L, units);
    if (!named) return mi_fail("out of memory");
    for (int i = 0; i < p->n_found; i++) {
        const Address *a = &p->found[i];
        if (a->site != first.site || a->unit != first.unit || a->pos.lo != first.pos.lo ||
            a->pos.hi != first.pos.hi || a->has_key) {
            free(named);
            return fail_at(p, a->text, "not: needs units of one kind at the same positions");
        }
        for (int l = a->layer.lo; l <= a->layer.hi; l++)
            for (int u = a->unit == WHOLE_ROW ? 0 : a->index.lo;
                 u <= (a->unit == WHOLE_ROW ? 0 : a->index.hi); u++)
                named[l * units + u] = 1;
    }
    p->n_found = 0;
    for (int i = 0; i < L * units; i++) {
        if (named[i]) continue;
        Address *list = grow(p->found, p->n_found, sizeof *list);
        if (!list) return free(named), -1;
        p->found = list;
        list[p->n_found] = first;
        list[p->n_found].layer = (Range){ i / units, i / units, 0 };
        list[p->n_found++].index = (Range){ i % units, i % units, 0 };
    }
    free(named);
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

/* A finite number; nothing may follow it. */
static int parse_float(const char *text, float *value)
{
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    *value = (float)number;
    return *text && !isspace((unsigned char)*text) && !*end && isfinite(number) && isfinite(*value);
}

/* What an op does with its "=VALUE": the edit that all its addresses share. */
static int parse_value(Parser *p, const char *op, const char *value, MiEdit *edit)
{
    const char *where = value ? value : p->argument + strlen(p->argument);
    int keys = 0, scales = 0;
    for (int i = 0; i < p->n_found; i++) {
        keys |= SITES[p->found[i].site].width == MI_KEYS;
        scales |= SITES[p->found[i].site].width == MI_ONE;
    }
    *edit = (MiEdit){ .op = MI_SET, .head = -1 };
    if (!strcmp(op, "ablate")) {
        int tlzero = value && !strcmp(value, "tlzero"), mean = value && !strcmp(value, "mean");
        if (value && strcmp(value, "zero") && !tlzero && !mean)
            return fail_at(p, where, "an ablation is =zero, =tlzero or =mean");
        if ((tlzero || mean) && keys)
            return fail_at(p, where, "scores and pattern have no =%s: their rows differ in length",
                           value);
        edit->from = tlzero ? MI_FROM_TLZERO : mean ? MI_FROM_MEAN : MI_FROM_VALUE;
    } else if (!strcmp(op, "patch")) {
        edit->from = MI_FROM_SOURCE;
        edit->amount = 1;
        if (value && !parse_float(value, &edit->amount))
            return fail_at(p, where, "expected a number: 1 patches, 0.5 goes half way");
        if (edit->amount != 1) edit->op = MI_MIX;
    } else if (!strcmp(op, "freeze")) {
        if (value) return fail_at(p, where - 1, "--freeze takes no value");
        edit->from = MI_FROM_BASE;
    } else if (!strcmp(op, "scale")) {
        edit->op = MI_SCALE;
        if (!value || !parse_float(value, &edit->amount))
            return fail_at(p, where, "expected a factor, as in L5H3=2");
    } else if (!strcmp(op, "knockout")) {
        if (value) return fail_at(p, where - 1, "--knockout takes no value");
        edit->amount = -INFINITY;
        for (int i = 0; i < p->n_found; i++) {
            if (p->found[i].unit != HEAD || !p->found[i].has_key)
                return fail_at(p, p->found[i].text, "a knockout is an attention edge of a head: "
                               "L5H3@QUERY:KEY");
            p->found[i].site = MI_scores;
        }
    } else {
        return mi_fail("no such intervention: %s", op);
    }
    return 0;
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
    int keys = SITES[address->site].width == MI_KEYS;
    int whole = address->unit == WHOLE_ROW;
    int unit = address->unit == HEAD ? p->model->shape.d_head : 1;
    int first_head = whole ? 0 : address->index.lo;
    int last_head = !keys ? first_head : whole ? p->model->shape.n_head - 1 : address->index.hi;
    /* A patch or a frozen value exists for the prompt's rows only; other edits without a position
     * also cover what is generated later. */
    int bound = address->has_pos || edit.from == MI_FROM_BASE || edit.from == MI_FROM_SOURCE;
    edit.site = address->site;
    edit.pos = address->pos.lo;
    edit.pos_end = bound ? address->pos.hi + 1 : INT_MAX;
    for (edit.layer = address->layer.lo; edit.layer <= address->layer.hi; edit.layer++)
        for (int head = first_head; head <= last_head; head++) {
            if (keys) {
                edit.head = head;
                edit.first = address->key.lo;
                edit.count = (address->has_key ? address->key.hi + 1 : p->model->shape.n_ctx) -
                             edit.first;
            } else {
                edit.first = whole ? 0 : address->index.lo * unit;
                edit.count = whole ? width_of(p->model, edit.site, 0)
                                   : (address->index.hi - address->index.lo + 1) * unit;
            }
            if (add_edit(edits, &edit) < 0) return -1;
        }
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
    const Block *w = &model->block[edit->layer];
    int          D = model->shape.d_model;
    for (int i = 0; i < edit->count; i++) {
        int c = edit->first + i;
        switch (edit->site) {
        case MI_z:
        case MI_v: {
            double sum = w->b_QKV[2 * D + c];
            for (int j = 0; j < D; j++)
                sum += (double)w->ln1_beta[j] * w->W_QKV[(size_t)j * 3 * D + 2 * D + c];
            row[i] = (float)sum;
            break;
        }
        case MI_ln1:  row[i] = w->ln1_beta[c]; break;
        case MI_ln2:  row[i] = w->ln2_beta[c]; break;
        case MI_ln_f: row[i] = model->ln_f_beta[c]; break;
        default:      row[i] = 0;
        }
    }
}

/* The mean over all positions of an unedited run. */
static int mean_row(const MiRun *base, const MiEdit *edit, float *row)
{
    int n = mi_n_tokens(base, 0);
    for (int i = 0; i < edit->count; i++) {
        double sum = 0;
        for (int t = 0; t < n; t++) {
            const float *x = mi_site(base, 0, edit->site, edit->layer, t);
            if (!x) return -1;
            sum += x[edit->first + i];
        }
        row[i] = (float)(sum / n);
    }
    return 0;
}

int mi_edits_bind(MiEdits *edits, const MiRun *base, const MiRun *source)
{
    for (int i = 0; i < edits->n; i++) {
        MiEdit *edit = &edits->at[i];
        const MiRun *donor = edit->from == MI_FROM_SOURCE ? source : base;
        const char *site = SITES[edit->site].name;
        if (edit->from == MI_FROM_VALUE) continue;
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
        int keys = SITES[edit->site].width == MI_KEYS;
        const float *x = keys ? mi_head(donor, 0, edit->site, edit->layer, edit->head, edit->pos)
                              : mi_site(donor, 0, edit->site, edit->layer, edit->pos);
        if (!x) return -1;
        edit->value = x + edit->first;
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
/* The command line: what was asked                                                              */
/* ============================================================================================= */

enum { FAULT_OF_RUN = 1, FAULT_OF_USER = 2 };           /* exit statuses */

typedef struct { const char *op, *argument; } Intervention;

typedef struct {
    const char   *prompt, *tokens, *source, *source_tokens, *model, *tokenizer;
    const char   *answer, *versus, *at, *metric, *color;
    int           bos, top, generate, threads, json, explain, sites, help, version;
    Intervention *interventions;
    int           n_interventions;
} Command;

typedef enum { HEADING, FLAG, TEXT, INTEGER, CHOICE, EDIT } OptionKind;

/* One table drives the parser and --help. */
typedef struct {
    OptionKind  kind;
    char        letter;
    const char *name, *argument;                        /* HEADING: the title, an example */
    size_t      field;                                  /* of Command */
    int         low, high;                              /* INTEGER */
    const char *help;                                   /* CHOICE: the words stand in argument */
} Option;

#define FIELD(name) offsetof(Command, name)
static const Option OPTIONS[] = {
    { HEADING, 0, "Input", "mi \"The keys to the cabinet\" --answer \" are\" --versus \" is\"",
      0, 0, 0, NULL },
    { TEXT, 'm', "model", "FILE", FIELD(model), 0, 0,
      "a GPT-2 in .safetensors ($MI_MODEL, or tiny.safetensors beside mi)" },
    { TEXT, 0, "tokenizer", "FILE", FIELD(tokenizer), 0, 0, "tokenizer.bin (the one beside mi)" },
    { TEXT, 0, "tokens", "IDS", FIELD(tokens), 0, 0,
      "the prompt as GPT-2 ids, \"464 3290\", instead of PROMPT" },
    { FLAG, 0, "bos", NULL, FIELD(bos), 0, 0, "put <|endoftext|> before prompts, as TransformerLens does" },
    { TEXT, 0, "source", "PROMPT", FIELD(source), 0, 0,
      "where --patch takes values from; `same` = the prompt itself" },
    { TEXT, 0, "source-tokens", "IDS", FIELD(source_tokens), 0, 0, "the same, as GPT-2 ids" },
    { TEXT, 0, "answer", "TOKEN", FIELD(answer), 0, 0,
      "the token to watch: text, #id, several a|b, or 33-99" },
    { TEXT, 0, "versus", "TOKEN", FIELD(versus), 0, 0, "the token to compare it with" },
    { TEXT, 0, "at", "POS", FIELD(at), 0, 0, "where to read: a position of the prompt (-1)" },
    { INTEGER, 0, "threads", "N", FIELD(threads), 1, 1024, "how many cores to use (all)" },

    { HEADING, 0, "Interventions, applied in the order given; SITES as in L5H3, L0-3H*, "
      "L5.resid_pre@-1", "mi --ablate 'L5H3@-1=mean'", 0, 0, 0, NULL },
    { EDIT, 0, "ablate", "SITES[=zero|tlzero|mean]", 0, 0, 0,
      "remove: zero, TransformerLens' zero, the mean over the prompt" },
    { EDIT, 0, "patch", "SITES[=ALPHA]", 0, 0, 0, "put in the source's value (ALPHA: part of the way)" },
    { EDIT, 0, "freeze", "SITES", 0, 0, 0, "hold at the value of the unedited run" },
    { EDIT, 0, "knockout", "HEADS@QUERY:KEY", 0, 0, 0, "cut an attention edge" },
    { EDIT, 0, "scale", "SITES=K", 0, 0, 0, "multiply by K" },

    { HEADING, 0, "Readouts", "mi \"Once upon a time\" -n 20", 0, 0, 0, NULL },
    { INTEGER, 'k', "top", "K", FIELD(top), 0, 1000, "how many next tokens to show (10)" },
    { INTEGER, 'n', "generate", "N", FIELD(generate), 1, 1 << 20, "continue the prompt by N tokens" },
    { CHOICE, 0, "metric", "logit_diff|prob|logprob|logit|rank|kl|loss", FIELD(metric), 0, 0,
      "the number to report" },

    { HEADING, 0, "Output", "mi --ablate L5H3 --json", 0, 0, 0, NULL },
    { FLAG, 0, "json", NULL, FIELD(json), 0, 0, "one JSON object instead of text" },
    { CHOICE, 0, "color", "auto|always|never", FIELD(color), 0, 0, "colours (auto: on a terminal)" },

    { HEADING, 0, "Information", "mi --ablate L5H3 --explain", 0, 0, 0, NULL },
    { FLAG, 0, "explain", NULL, FIELD(explain), 0, 0, "show the tokens and the resolved edits; run nothing" },
    { FLAG, 0, "sites", NULL, FIELD(sites), 0, 0, "list the sites" },
    { FLAG, 'h', "help", NULL, FIELD(help), 0, 0, "this text" },
    { FLAG, 0, "version", NULL, FIELD(version), 0, 0, "the version" },
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof *OPTIONS };

/* The prompt that is used without one: who got the drink? */
static const char DEFAULT_PROMPT[] = "When Mary and John went to the store, John gave a drink to";

static void print_help(FILE *out)
{
    fprintf(out, "mi - look inside a GPT-2 while it thinks\n\n"
                 "    mi [PROMPT] [options]        PROMPT may be - for standard input\n");
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &OPTIONS[i];
        char left[80];
        if (o->kind == HEADING) {
            fprintf(out, "\n%s\n    e.g.  %s\n", o->name, o->argument);
            continue;
        }
        snprintf(left, sizeof left, "%c%c%s--%s %s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name,
                 o->argument ? o->argument : "");
        fprintf(out, strlen(left) > 30 ? "  %s\n  %31s%s\n" : "  %-31s%s%s\n", left, "", o->help);
    }
    fprintf(out, "\nA list of SITES is separated by commas; not:LIST is every unit that the list does "
                 "not name.\n@POS binds to its own element: @3, @-1, @2-4, @*, @\" Mary\", "
                 "@Mary#2 (the second).\n");
}

static void print_sites(FILE *out)
{
    static const char *const widths[] = { "1", "D", "H*d", "F", "H*T" };
    fprintf(out, "%-11s %-5s %-33s %s\n", "site", "width", "TransformerLens", "what");
    for (int i = 0; i < MI_N_SITES; i++) {
        char tl[64], *slot;
        snprintf(tl, sizeof tl, "%s", SITES[i].tl_name ? SITES[i].tl_name : "-");
        if ((slot = strstr(tl, "%d"))) slot[0] = 'l', memmove(slot + 1, slot + 2, strlen(slot + 1));
        fprintf(out, "%-11s %-5s %-33s %s\n", SITES[i].name, widths[SITES[i].width], tl, SITES[i].what);
    }
}

/* --NAME, --NAME=VALUE, -k VALUE -> its row of the table; *value is what follows the =. */
static const Option *find_option(const char *word, const char **value)
{
    const char *equals = strchr(word, '=');
    size_t      n = equals ? (size_t)(equals - word) : strlen(word);
    *value = equals ? equals + 1 : NULL;
    for (int i = 0; i < N_OPTIONS; i++) {
        const Option *o = &OPTIONS[i];
        if (o->kind == HEADING) continue;
        if (n > 2 && !strncmp(word, "--", 2) && strlen(o->name) == n - 2 &&
            !strncmp(o->name, word + 2, n - 2))
            return o;
        if (o->letter && word[0] == '-' && word[1] == o->letter && !word[2]) return o;
    }
    return NULL;
}

static int is_choice(const char *choices, const char *word)
{
    size_t n = strlen(word);
    for (const char *c = choices; c; c = strchr(c, '|')) {
        c += *c == '|';
        if (n && !strncmp(c, word, n) && (c[n] == '|' || !c[n])) return 1;
    }
    return 0;
}

/* Store the value of one option. */
static int set_option(Command *command, const Option *o, const char *value)
{
    char *field = (char *)command + o->field, *end;
    switch (o->kind) {
    case FLAG:
        *(int *)field = 1;
        return 0;
    case INTEGER: {
        errno = 0;
        long number = strtol(value, &end, 10);
        if (!*value || *end || errno || isspace((unsigned char)*value) || number < o->low ||
            number > o->high)
            return mi_fail("--%s: \"%.100s\" is not a whole number from %d to %d", o->name, value,
                           o->low, o->high);
        *(int *)field = (int)number;
        return 0;
    }
    case CHOICE:
        if (!is_choice(o->argument, value))
            return mi_fail("--%s: \"%.100s\" is not one of %s", o->name, value, o->argument);
        *(const char **)field = value;
        return 0;
    case EDIT: {
        Intervention *list = grow(command->interventions, command->n_interventions, sizeof *list);
        if (!list) return -1;
        command->interventions = list;
        list[command->n_interventions++] = (Intervention){ o->name, value };
        return 0;
    }
    default:
        if (*(const char **)field) return mi_fail("--%s is given twice", o->name);
        *(const char **)field = value;
        return 0;
    }
}

static int parse_command(Command *command, int argc, char **argv)
{
    int only_prompts = 0;
    *command = (Command){ .top = 10, .color = "auto" };
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
        if (!o) return mi_fail("%.100s: no such option; mi --help lists them", word);
        if (o->kind == FLAG && value) return mi_fail("--%s takes no value", o->name);
        if (o->kind != FLAG && !value) {
            if (i + 1 == argc) return mi_fail("--%s needs a value: %s", o->name, o->argument);
            value = argv[++i];
        }
        if (set_option(command, o, value) < 0) return -1;
    }
    if (command->prompt && command->tokens)
        return mi_fail("--tokens: there is a prompt already, \"%.100s\"", command->prompt);
    if (command->source && command->source_tokens)
        return mi_fail("--source-tokens: there is a --source already");
    return 0;
}

/* ============================================================================================= */
/* An experiment: the prompt, the runs and what is read from them                                */
/* ============================================================================================= */

/* One token, or several that count as one: logits by log-sum-exp, probabilities by sum. */
typedef struct {
    int *tokens, n;
    char label[64];
} TokenSet;

typedef struct {
    int   *tokens, n;
} Prompt;

/* What the model says at the position of interest, in one run. */
typedef struct {
    const char *name;                   /* base, edited, source */
    float      *logits;                 /* [V] */
    double      log_sum;
    double      metric;
    int        *top, n_top;
    char       *text;                   /* generated */
    size_t      text_size;
} Reading;

typedef struct {
    const Command *command;
    MiModel       *model;
    MiTokenizer   *tokenizer;
    Prompt         prompt, donor;
    TokenSet       answer, versus;
    const char    *metric;
    int            at;
    MiEdits        edits;
    int           *first_edit;          /* [interventions + 1] where each one's edits begin */
    MiRun         *base, *source, *edited;
    Reading        readings[3];
    int            n_readings;
} Experiment;

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

/* Text, or everything on standard input without its last newline -> tokens. */
static int encode_prompt(Experiment *x, const char *flag, const char *text, Prompt *prompt)
{
    char   *input = NULL;
    size_t  n = strlen(text);
    FILE   *memory;
    int64_t count = -1;
    if (!strcmp(text, "-")) {
        if (!(memory = open_memstream(&input, &n))) return mi_fail("out of memory");
        for (int c; (c = getchar()) != EOF;) putc(c, memory);
        if (fclose(memory)) return mi_fail("out of memory");
        if (n && input[n - 1] == '\n') n--;
        text = input;
    }
    int bos = x->command->bos ? 1 : 0;
    count = mi_encode(x->tokenizer, text, n, NULL, 0);
    if (count > INT_MAX / 8) count = mi_fail("%s is too long", flag);
    if (count >= 0) {
        prompt->tokens = malloc((count + 1) * sizeof(int));
        if (!prompt->tokens) count = mi_fail("out of memory");
        else mi_encode(x->tokenizer, text, n, prompt->tokens + bos, count);
    }
    free(input);
    if (count < 0) return -1;
    if (bos && (prompt->tokens[0] = mi_row_of_id(x->tokenizer, END_OF_TEXT)) < 0)
        return mi_fail("--bos: the model has no token <|endoftext|>");
    prompt->n = (int)count + bos;
    return 0;
}

/* "464 3290" -> tokens */
static int parse_ids(Experiment *x, const char *flag, const char *text, Prompt *prompt)
{
    Parser p = { .flag = flag, .argument = text, .at = text, .end = text + strlen(text) };
    prompt->tokens = malloc((strlen(text) + 2) * sizeof(int));
    if (!prompt->tokens) return mi_fail("out of memory");
    if (x->command->bos) prompt->tokens[prompt->n++] = mi_row_of_id(x->tokenizer, END_OF_TEXT);
    for (;;) {
        while (p.at < p.end && strchr(" ,\t\n", *p.at)) p.at++;
        if (p.at == p.end) return 0;
        const char *start = p.at;
        int         id;
        if (!take_number(&p, &id) || (p.at < p.end && !strchr(" ,\t\n", *p.at)))
            return fail_at(&p, p.at, "expected GPT-2 ids, as in \"464 3290\"");
        int row = mi_row_of_id(x->tokenizer, id);
        if (row < 0) return fail_at(&p, start, "the model has no token with the id %d", id);
        prompt->tokens[prompt->n++] = row;
    }
}

static int read_prompt(Experiment *x)
{
    const Command *c = x->command;
    int n_ctx = x->model->shape.n_ctx;
    const char *text = c->prompt ? c->prompt : DEFAULT_PROMPT;
    int status = c->tokens ? parse_ids(x, "--tokens", c->tokens, &x->prompt)
                           : encode_prompt(x, "the prompt", text, &x->prompt);
    if (status < 0) return -1;
    if (x->prompt.n == 0) return mi_fail("the prompt is empty");
    if (x->prompt.n > n_ctx)
        return mi_fail("the prompt has %d tokens; this model's context is %d", x->prompt.n, n_ctx);
    if (c->generate > n_ctx - x->prompt.n)
        return mi_fail("--generate: %d tokens after the prompt's %d are more than this model's "
                       "context of %d", c->generate, x->prompt.n, n_ctx);
    return 0;
}

/* A token as people can read it: its leading space as a dot, control characters escaped. */
static const char *token_label(const Experiment *x, int token, char *label, size_t size)
{
    int         n, used = 0;
    const char *bytes = mi_token_bytes(x->tokenizer, token, &n);
    if (n == 0) snprintf(label, size, "<%d>", token);
    for (int i = 0; i < n && used + 12 < (int)size;) {
        int     length;
        int32_t code = utf8_decode((const uint8_t *)bytes + i, n - i, &length);
        if (bytes[i] == ' ') used += sprintf(label + used, "·");
        else if (bytes[i] == '\n') used += sprintf(label + used, "\\n");
        else if (bytes[i] == '\t') used += sprintf(label + used, "\\t");
        else if (code < 32 || (code >= 127 && code < 160))
            used += sprintf(label + used, "<%02X>", (unsigned char)bytes[i]), length = 1;
        else used += sprintf(label + used, "%.*s", length, bytes + i);
        i += length;
    }
    return label;
}

/* The tokens of a prompt side by side, for messages: "When|·Mary|·and". */
static void list_tokens(const Experiment *x, const Prompt *prompt, char *out, size_t size)
{
    char label[64];
    out[0] = 0;
    for (int t = 0; t < prompt->n && strlen(out) + 80 < size; t++)
        sprintf(out + strlen(out), "%s%s", t ? "|" : "", token_label(x, prompt->tokens[t], label, 64));
}

/* The unedited donor of --patch: another prompt of the same number of tokens. */
static int read_source(Experiment *x)
{
    const Command *c = x->command;
    if (!c->source && !c->source_tokens) return 0;
    int status = c->source_tokens ? parse_ids(x, "--source-tokens", c->source_tokens, &x->donor)
               : !strcmp(c->source, "same") ? 0 : encode_prompt(x, "--source", c->source, &x->donor);
    if (status < 0) return -1;
    if (!x->donor.tokens) {
        x->donor.tokens = malloc(x->prompt.n * sizeof(int));
        if (!x->donor.tokens) return mi_fail("out of memory");
        memcpy(x->donor.tokens, x->prompt.tokens, x->prompt.n * sizeof(int));
        x->donor.n = x->prompt.n;
    }
    if (x->donor.n == x->prompt.n) return 0;
    char ours[700], theirs[700];
    list_tokens(x, &x->prompt, ours, sizeof ours);
    list_tokens(x, &x->donor, theirs, sizeof theirs);
    mi_fail("--source: it has %d tokens, the prompt %d; patching needs the same number", x->donor.n,
            x->prompt.n);
    size_t used = strlen(error_text);
    snprintf(error_text + used, sizeof error_text - used, "\n    prompt  %s\n    source  %s", ours,
             theirs);
    return -1;
}

/* One alternative of --answer: "#id", or text that is one token, else with a space before it. */
static int parse_answer(const Experiment *x, const char *flag, const char *text, size_t n)
{
    char spaced[256];
    int  tokens[16], row;
    if (n > 1 && text[0] == '#' && strspn(text + 1, "0123456789") >= n - 1) {
        row = n < 8 ? mi_row_of_id(x->tokenizer, atoi(text + 1)) : -1;
        return row >= 0 ? row : mi_fail("%s: the model has no token %.*s", flag, (int)n, text);
    }
    if (n == 0 || n > 200) return mi_fail("%s: expected a token", flag);
    if (mi_encode(x->tokenizer, text, n, tokens, 16) == 1) return tokens[0];
    snprintf(spaced, sizeof spaced, " %.*s", (int)n, text);
    if (mi_encode(x->tokenizer, spaced, n + 1, &row, 1) == 1) return row;
    Prompt pieces = { tokens, (int)mi_encode(x->tokenizer, text, n, tokens, 16) };
    char   list[700];
    pieces.n = min_int(pieces.n, 16);
    list_tokens(x, &pieces, list, sizeof list);
    return mi_fail("%s: \"%.*s\" is more than one token: %s", flag, (int)n, text, list);
}

/* "Mary", "#5335", " are| were", "33-99" (two-digit tokens) -> the tokens */
static int parse_token_set(const Experiment *x, const char *flag, const char *text, TokenSet *set)
{
    int low, high, n = 0;
    if (!text) return 0;
    set->tokens = malloc((strlen(text) + 101) * sizeof(int));
    if (!set->tokens) return mi_fail("out of memory");
    if (sscanf(text, "%2d-%2d%n", &low, &high, &n) == 2 && n == 5 && !text[5] && low <= high) {
        for (int i = low; i <= high; i++) {
            char digits[16];
            snprintf(digits, sizeof digits, "%02d", i);
            if ((set->tokens[set->n++] = parse_answer(x, flag, digits, 2)) < 0) return -1;
        }
        snprintf(set->label, sizeof set->label, "%s", text);
        return 0;
    }
    for (const char *start = text;; start++) {
        size_t length = strcspn(start, "|");
        int    row = parse_answer(x, flag, start, length);
        char   label[64];
        if (row < 0) return -1;
        set->tokens[set->n++] = row;
        size_t used = strlen(set->label);
        snprintf(set->label + used, sizeof set->label - used, "%s%s", used ? "|" : "",
                 token_label(x, row, label, 40));
        start += length;
        if (!*start) return 0;
    }
}

static int read_answers(Experiment *x)
{
    const Command *c = x->command;
    int built_in = !c->prompt && !c->tokens && !c->answer && !c->versus;
    if (c->versus && !c->answer) return mi_fail("--versus needs --answer");
    if (parse_token_set(x, "--answer", built_in ? " Mary" : c->answer, &x->answer) < 0 ||
        parse_token_set(x, "--versus", built_in ? " John" : c->versus, &x->versus) < 0)
        return built_in ? (x->answer.n = x->versus.n = 0) : -1;
    x->metric = c->metric ? c->metric : x->versus.n ? "logit_diff" : x->answer.n ? "prob" : "kl";
    if (!strcmp(x->metric, "logit_diff") && !x->versus.n)
        return mi_fail("--metric: logit_diff needs --answer and --versus");
    if (strstr("prob logprob logit rank", x->metric) && !x->answer.n)
        return mi_fail("--metric: %s needs --answer", x->metric);
    if (!strcmp(x->metric, "loss") && x->prompt.n < 2)
        return mi_fail("--metric: loss needs a prompt of at least two tokens");
    x->at = x->prompt.n - 1;
    if (!c->at) return 0;
    Parser p = { x->model, x->tokenizer, x->prompt.tokens, x->prompt.n, "--at", c->at,
                 c->at, c->at + strlen(c->at), NULL, 0 };
    Range pos;
    if (take(&p, "@"), parse_position(&p, &pos) < 0) return -1;
    if (p.at < p.end) return fail_at(&p, p.at, "expected the end of the position");
    if (pos.lo != pos.hi) return fail_at(&p, p.argument, "--at is one position");
    x->at = pos.lo;
    return 0;
}

static int read_edits(Experiment *x)
{
    const Command *c = x->command;
    int patches = 0;
    x->first_edit = calloc(c->n_interventions + 1, sizeof(int));
    if (!x->first_edit) return mi_fail("out of memory");
    for (int i = 0; i < c->n_interventions; i++) {
        const Intervention *change = &c->interventions[i];
        if (mi_edits_parse(&x->edits, x->model, x->tokenizer, x->prompt.tokens, x->prompt.n,
                           change->op, change->argument) < 0)
            return -1;
        x->first_edit[i + 1] = x->edits.n;
        patches |= !strcmp(change->op, "patch");
    }
    if (patches && !x->donor.n)
        return mi_fail("--patch needs --source PROMPT: where the value comes from");
    if (!patches && x->donor.n) return mi_fail("--source is for --patch, and there is none");
    return 0;
}

/* The sites that the edits will read from an unedited run. */
static uint64_t sites_read(const MiEdits *edits, MiFrom one, MiFrom other)
{
    uint64_t keep = MI_KEEP_NONE;
    for (int i = 0; i < edits->n; i++)
        if (edits->at[i].from == one || edits->at[i].from == other)
            keep |= (uint64_t)1 << edits->at[i].site;
    return keep;
}

static int run_all(Experiment *x)
{
    const Prompt *prompt = &x->prompt;
    MiOptions options = { .threads = x->command->threads };
    options.keep = sites_read(&x->edits, MI_FROM_BASE, MI_FROM_MEAN);
    x->base = mi_run(x->model, prompt->tokens, prompt->n, NULL, &options);
    if (!x->base) return -1;
    if (x->donor.n) {
        options.keep = sites_read(&x->edits, MI_FROM_SOURCE, MI_FROM_SOURCE);
        x->source = mi_run(x->model, x->donor.tokens, x->donor.n, NULL, &options);
        if (!x->source) return -1;
    }
    if (!x->edits.n) return 0;
    if (mi_edits_bind(&x->edits, x->base, x->source) < 0) return -1;
    MiLane lane = { x->base, x->edits.at, x->edits.n, -1 };
    x->edited = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
    return x->edited ? 0 : -1;
}

/* The logit of a set of tokens: log of the sum of their e^logit. */
static double set_logit(const TokenSet *set, const float *logits)
{
    if (set->n == 1) return logits[set->tokens[0]];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < set->n; i++) max = fmax(max, logits[set->tokens[i]]);
    for (int i = 0; i < set->n; i++) sum += exp(logits[set->tokens[i]] - max);
    return max + log(sum);
}

/* KL(p || q) in nats, from logits [V] and their log-sum-exps */
static double divergence(const Reading *p, const Reading *q, int V)
{
    double sum = 0;
    for (int i = 0; i < V; i++) {
        double log_p = p->logits[i] - p->log_sum, log_q = q->logits[i] - q->log_sum;
        sum += exp(log_p) * (log_p - log_q);
    }
    return fmax(sum, 0);
}

/* Mean of -log p(next token) over the prompt, the field's "loss". NAN on failure. */
static double mean_loss(const Experiment *x, const MiRun *run, const Prompt *prompt)
{
    int    V = x->model->shape.n_vocab;
    float *logits = malloc(V * sizeof *logits);
    double sum = 0;
    for (int t = 0; t + 1 < prompt->n && logits; t++) {
        if (mi_logits(run, 0, t, logits) < 0) sum = NAN;
        sum += mi_log_sum_exp(logits, V) - logits[prompt->tokens[t + 1]];
    }
    free(logits);
    return logits ? sum / (prompt->n - 1) : NAN;
}

static double metric_of(const Experiment *x, const Reading *reading, const MiRun *run,
                        const Prompt *prompt)
{
    const char *metric = x->metric;
    double logit = x->answer.n ? set_logit(&x->answer, reading->logits) : 0;
    if (!strcmp(metric, "logit_diff")) return logit - set_logit(&x->versus, reading->logits);
    if (!strcmp(metric, "prob")) return exp(logit - reading->log_sum);
    if (!strcmp(metric, "logprob")) return logit - reading->log_sum;
    if (!strcmp(metric, "logit")) return logit;
    if (!strcmp(metric, "loss")) return mean_loss(x, run, prompt);
    if (!strcmp(metric, "kl")) return divergence(&x->readings[0], reading, x->model->shape.n_vocab);
    int rank = 1;
    for (int i = 0; i < x->model->shape.n_vocab; i++) {
        int own = 0;
        for (int j = 0; j < x->answer.n; j++) own |= x->answer.tokens[j] == i;
        rank += !own && reading->logits[i] > logit;
    }
    return rank;
}

static int read_run(Experiment *x, const char *name, const MiRun *run, const Prompt *prompt)
{
    int      V = x->model->shape.n_vocab, k = min_int(x->command->top, V);
    Reading *reading = &x->readings[x->n_readings++];
    reading->name = name;
    reading->logits = malloc(V * sizeof(float));
    reading->top = malloc((k + 1) * sizeof(int));
    if (!reading->logits || !reading->top) return mi_fail("out of memory");
    if (mi_logits(run, 0, x->at, reading->logits) < 0) return -1;
    reading->log_sum = mi_log_sum_exp(reading->logits, V);
    reading->n_top = mi_top(reading->logits, V, k, reading->top);
    reading->metric = metric_of(x, reading, run, prompt);
    return 0;
}

static int read_all(Experiment *x)
{
    if (read_run(x, "base", x->base, &x->prompt) < 0) return -1;
    if (x->edited && read_run(x, "edited", x->edited, &x->prompt) < 0) return -1;
    if (x->source && read_run(x, "source", x->source, &x->donor) < 0) return -1;
    return 0;
}

/* Continue the prompt, greedily: ties go to the lowest token. The text goes to out as it is made. */
static int generate(Experiment *x, const MiEdits *edits, FILE *out)
{
    const Command *c = x->command;
    int       V = x->model->shape.n_vocab, status = 0;
    MiOptions options = { .keep = MI_KEEP_NONE, .threads = c->threads,
                          .capacity = x->prompt.n + c->generate };
    MiRun    *run = mi_run(x->model, x->prompt.tokens, x->prompt.n, edits, &options);
    float    *logits = malloc(V * sizeof *logits);
    if (run && !logits) mi_fail("out of memory");
    for (int i = 0; i < c->generate && run && logits && status == 0; i++) {
        int next = 0, length;
        status = mi_logits(run, 0, run->n_rows - 1, logits);
        if (status < 0 || mi_top(logits, V, 1, &next) < 1) break;
        if (mi_id_of_row(x->tokenizer, next) == END_OF_TEXT) break;
        const char *bytes = mi_token_bytes(x->tokenizer, next, &length);
        fwrite(bytes, 1, length, out);
        if (out == stdout) fflush(out);
        if (i + 1 < c->generate) status = mi_append(run, &next, 1);
    }
    status = run && logits ? status : -1;
    mi_free(run);
    free(logits);
    return status;
}

static int generate_text(Experiment *x, Reading *reading, const MiEdits *edits)
{
    FILE *memory = open_memstream(&reading->text, &reading->text_size);
    if (!memory) return mi_fail("out of memory");
    int status = generate(x, edits, memory);
    return fclose(memory) ? mi_fail("out of memory") : status;
}

static void close_experiment(Experiment *x)
{
    for (int i = 0; i < x->n_readings; i++) {
        free(x->readings[i].logits);
        free(x->readings[i].top);
        free(x->readings[i].text);
    }
    mi_free(x->edited);
    mi_free(x->source);
    mi_free(x->base);
    mi_edits_free(&x->edits);
    free(x->first_edit);
    free(x->answer.tokens);
    free(x->versus.tokens);
    free(x->prompt.tokens);
    free(x->donor.tokens);
    mi_tokenizer_close(x->tokenizer);
    mi_close(x->model);
}

/* ============================================================================================= */
/* Printing                                                                                      */
/* ============================================================================================= */

/* Text padded with spaces to a number of columns, cut with … where it is longer. */
static void print_padded(FILE *out, const char *text, int columns)
{
    int shown = columns_of(text, strlen(text));
    if (shown <= columns) {
        fprintf(out, "%s%*s", text, columns - shown, "");
        return;
    }
    for (int i = 0; i < columns - 1; i++) {
        int length;
        utf8_decode((const uint8_t *)text, strlen(text), &length);
        fprintf(out, "%.*s", length, text);
        text += length;
    }
    fputs("…", out);
}

/* A bar of eighths of a column, share 0..1 of `columns`. */
static void print_bar(FILE *out, double share, int columns, const char *color)
{
    static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int n = share > 0 ? (int)lrint(fmin(share, 1) * columns * 8) : 0;
    if (share > 0 && n == 0) n = 1;
    fputs(color, out);
    for (int i = 0; i < n / 8; i++) fputs("█", out);
    fputs(eighths[n % 8], out);
    if (*color) fputs("\033[0m", out);
    if (columns - (n + 7) / 8 > 0) fprintf(out, "%*s", columns - (n + 7) / 8, "");
}

typedef struct { FILE *out; int color; } Screen;

static const char *color_of(const Screen *screen, const char *name)
{
    static const struct { const char *name, *code; } colors[] = {
        { "base", "\033[38;2;86;156;214m" }, { "edited", "\033[38;2;232;137;61m" },
        { "source", "\033[38;2;120;180;110m" }, { "bold", "\033[1m" }, { "dim", "\033[2m" },
        { "off", "\033[0m" },
    };
    for (size_t i = 0; screen->color && i < sizeof colors / sizeof *colors; i++)
        if (!strcmp(colors[i].name, name)) return colors[i].code;
    return "";
}

/* The prompt as it was typed, any control characters made harmless; long ones cut in the middle. */
static void print_prompt(const Experiment *x, const Screen *screen)
{
    fprintf(screen->out, "\n  %s", color_of(screen, "bold"));
    for (int t = 0; t < x->prompt.n; t++) {
        char label[64];
        if (x->prompt.n > 80 && t == 40) fputs(" … ", screen->out);
        if (x->prompt.n > 80 && t >= 40 && t < x->prompt.n - 30) continue;
        const char *text = token_label(x, x->prompt.tokens[t], label, sizeof label);
        if (!strncmp(text, "·", 2)) fputc(' ', screen->out), text += 2;
        fputs(text, screen->out);
        if (t == x->at && x->at != x->prompt.n - 1) fputs(" ▸", screen->out);
    }
    fprintf(screen->out, "%s …\n\n", color_of(screen, "off"));
}

static void print_top(const Experiment *x, const Screen *screen)
{
    int rows = 0, bar = x->n_readings > 2 ? 6 : 12;
    FILE *out = screen->out;
    for (int i = 0; i < x->n_readings; i++) rows = max_int(rows, x->readings[i].n_top);
    if (rows == 0) return;
    fprintf(out, "     ");
    for (int i = 0; i < x->n_readings; i++) {
        const Reading *reading = &x->readings[i];
        fputs(color_of(screen, reading->name), out);
        print_padded(out, reading->name, 24 + bar);
        fputs(color_of(screen, "off"), out);
    }
    fputc('\n', out);
    for (int row = 0; row < rows; row++) {
        fprintf(out, "%4d ", row + 1);
        for (int i = 0; i < x->n_readings; i++) {
            const Reading *reading = &x->readings[i];
            char   label[64];
            int    token = reading->top[row];
            double p = exp(reading->logits[token] - reading->log_sum);
            print_padded(out, token_label(x, token, label, sizeof label), 12);
            fprintf(out, "%5.1f %%  ", 100 * p);
            print_bar(out, p, bar, color_of(screen, reading->name));
            if (i + 1 < x->n_readings) fprintf(out, "   ");
        }
        fputc('\n', out);
    }
    fputc('\n', out);
}

static const char *metric_title(const Experiment *x, char *title, size_t size)
{
    const char *a = x->answer.label, *b = x->versus.label, *m = x->metric;
    if (!strcmp(m, "logit_diff")) snprintf(title, size, "logit difference  %s − %s", a, b);
    else if (!strcmp(m, "prob")) snprintf(title, size, "probability of %s", a);
    else if (!strcmp(m, "logprob")) snprintf(title, size, "log probability of %s", a);
    else if (!strcmp(m, "logit")) snprintf(title, size, "logit of %s", a);
    else if (!strcmp(m, "rank")) snprintf(title, size, "rank of %s", a);
    else if (!strcmp(m, "loss")) snprintf(title, size, "mean loss over the prompt");
    else snprintf(title, size, "KL divergence from base, in nats");
    return title;
}

/* The metric of each run as a bar, and what the edit did to it in a sentence. */
static void print_metric(const Experiment *x, const Screen *screen)
{
    FILE  *out = screen->out;
    double largest = 1e-9, base = x->readings[0].metric;
    char   title[256];
    if (!strcmp(x->metric, "kl") && !x->edited) return;
    fprintf(out, "  %s\n", metric_title(x, title, sizeof title));
    for (int i = 0; i < x->n_readings; i++) largest = fmax(largest, fabs(x->readings[i].metric));
    if (!strcmp(x->metric, "prob")) largest = 1;
    for (int i = 0; i < x->n_readings; i++) {
        const Reading *reading = &x->readings[i];
        fprintf(out, "     %s%-7s%s %+9.4f  ", color_of(screen, reading->name), reading->name,
                color_of(screen, "off"), reading->metric);
        print_bar(out, fabs(reading->metric) / largest, 40, color_of(screen, reading->name));
        fputc('\n', out);
    }
    if (x->edited && !strcmp(x->metric, "logit_diff") && base > 0.05) {
        double edited = x->readings[1].metric, lost = 100 * (1 - edited / base);
        if (edited < 0)
            fprintf(out, "\n  The edit turns the answer around: %s is now ahead.\n", x->versus.label);
        else if (lost > 0.5)
            fprintf(out, "\n  The edit takes away %.0f %% of the preference for %s.\n", lost,
                    x->answer.label);
        else
            fprintf(out, "\n  The edit changes the preference for %s by %+.1f %%.\n", x->answer.label,
                    -lost);
    }
    fputc('\n', out);
}

static int print_report(Experiment *x, const Screen *screen)
{
    FILE *out = screen->out;
    const Command *c = x->command;
    print_prompt(x, screen);
    for (int i = 0; i < c->n_interventions; i++) {
        char quoted[256] = "";
        append_visible(quoted, sizeof quoted, c->interventions[i].argument,
                       strlen(c->interventions[i].argument));
        fprintf(out, "%s  %sedited%s  --%s %s%s\n", "", color_of(screen, "edited"),
                color_of(screen, "off"), c->interventions[i].op, quoted,
                x->edits.at[x->first_edit[i]].from == MI_FROM_MEAN
                ? "   (posmean: the mean over all positions, later ones too)" : "");
    }
    if (c->n_interventions) fputc('\n', out);
    print_top(x, screen);
    print_metric(x, screen);
    if (!c->prompt && !c->tokens && !c->n_interventions && !c->generate)
        fprintf(out, "  Try:  mi --ablate L5H3                   what one head does\n"
                     "        mi \"Once upon a time\" -n 40        let it write\n"
                     "        mi --help                          all that can be asked\n\n");
    return 0;
}

/* ---- JSON: numbers with 9 digits, what is not finite as null, text as valid UTF-8 ---- */

static void json_text(FILE *out, const char *text, size_t n)
{
    fputc('"', out);
    for (size_t i = 0; i < n;) {
        int     length;
        int32_t code = utf8_decode((const uint8_t *)text + i, n - i, &length);
        if (code < 0) fputs("\xEF\xBF\xBD", out);
        else if (code == '"' || code == '\\') fprintf(out, "\\%c", (char)code);
        else if (code < 32 || code == 127) fprintf(out, "\\u%04x", (unsigned)code);
        else fwrite(text + i, 1, length, out);
        i += length;
    }
    fputc('"', out);
}

static void json_number(FILE *out, double value)
{
    if (isfinite(value)) fprintf(out, "%.9g", value);
    else fputs("null", out);
}

static void json_token(FILE *out, const Experiment *x, int token)
{
    int         n;
    const char *bytes = mi_token_bytes(x->tokenizer, token, &n);
    fprintf(out, "\"id\":%d,\"text\":", mi_id_of_row(x->tokenizer, token));
    json_text(out, bytes, n);
}

static void json_edits(FILE *out, const Experiment *x)
{
    fputs(",\n \"edits\":[", out);
    for (int i = 0; i < x->edits.n; i++) {
        const MiEdit     *edit = &x->edits.at[i];
        const MiSiteInfo *info = &SITES[edit->site];
        int which = 0, hits = min_int(edit->pos_end, x->prompt.n) - edit->pos;
        char name[64];
        while (x->first_edit[which + 1] <= i) which++;
        fprintf(out, "%s\n  {\"op\":\"%s\",\"site\":\"", i ? "," : "",
                x->command->interventions[which].op);
        if (info->place == MI_BLOCK) fprintf(out, "L%d.", edit->layer);
        fprintf(out, "%s\",\"tl\":", info->name);
        if (info->tl_name) {
            const char *slot = strstr(info->tl_name, "%d");
            snprintf(name, sizeof name, "%.*s", slot ? (int)(slot - info->tl_name) : 60, info->tl_name);
            if (slot) snprintf(name + strlen(name), 40, "%d%s", edit->layer, slot + 2);
            json_text(out, name, strlen(name));
        } else fputs("null", out);
        fprintf(out, ",\"pos\":[%d,%d],\"%s\":[%d,%d]", edit->pos, edit->pos + hits - 1,
                edit->head < 0 ? "columns" : "keys", edit->first,
                edit->head < 0 ? edit->first + edit->count - 1
                               : min_int(edit->first + edit->count, x->prompt.n) - 1);
        if (edit->head >= 0) fprintf(out, ",\"head\":%d", edit->head);
        fprintf(out, ",\"hits\":%d}", hits);
    }
    fputs("]", out);
}

static void json_reading(FILE *out, const Experiment *x, const Reading *reading)
{
    fprintf(out, ",\n \"%s\":{\"metric\":", reading->name);
    json_number(out, reading->metric);
    fputs(",\"top\":[", out);
    for (int i = 0; i < reading->n_top; i++) {
        fputs(i ? ",\n  {" : "\n  {", out);
        json_token(out, x, reading->top[i]);
        fputs(",\"logit\":", out);
        json_number(out, reading->logits[reading->top[i]]);
        fputs(",\"prob\":", out);
        json_number(out, exp(reading->logits[reading->top[i]] - reading->log_sum));
        fputc('}', out);
    }
    fputs("]}", out);
}

static void json_tokens_of(FILE *out, const Experiment *x, const TokenSet *set, const char *name)
{
    fprintf(out, ",\"%s\":", name);
    if (!set->n) {
        fputs("null", out);
        return;
    }
    fputc('[', out);
    for (int i = 0; i < set->n; i++) {
        fputs(i ? ",{" : "{", out);
        json_token(out, x, set->tokens[i]);
        fputc('}', out);
    }
    fputc(']', out);
}

static void print_json(const Experiment *x, FILE *out, int argc, char **argv)
{
    const MiShape *s = &x->model->shape;
    fprintf(out, "{\"version\":\"%s\",\"argv\":[", MI_VERSION);
    for (int i = 0; i < argc; i++) {
        if (i) fputc(',', out);
        json_text(out, argv[i], strlen(argv[i]));
    }
    fputs("],\n \"model\":{\"file\":", out);
    json_text(out, x->model->file, strlen(x->model->file));
    fprintf(out, ",\"n_layer\":%d,\"n_head\":%d,\"d_model\":%d,\"n_ctx\":%d,\"n_vocab\":%d},\n"
                 " \"tokens\":[", s->n_layer, s->n_head, s->d_model, s->n_ctx, s->n_vocab);
    for (int t = 0; t < x->prompt.n; t++) {
        fprintf(out, "%s\n  {\"pos\":%d,", t ? "," : "", t);
        json_token(out, x, x->prompt.tokens[t]);
        fputc('}', out);
    }
    fputs("]", out);
    json_edits(out, x);
    fprintf(out, ",\n \"metric\":{\"name\":\"%s\"", x->metric);
    json_tokens_of(out, x, &x->answer, "answer");
    json_tokens_of(out, x, &x->versus, "versus");
    fprintf(out, ",\"at\":%d}", x->at);
    for (int i = 0; i < x->n_readings; i++) json_reading(out, x, &x->readings[i]);
    if (x->command->generate) {
        fputs(",\n \"text\":{", out);
        for (int i = 0; i < (x->edited ? 2 : 1); i++) {
            fprintf(out, "%s\"%s\":", i ? "," : "", x->readings[i].name);
            json_text(out, x->readings[i].text, x->readings[i].text_size);
        }
        fputs("}", out);
    }
    fputs("}\n", out);
}

/* --explain: the tokens, the edits as they were understood, and what they will cost. */
static void print_plan(const Experiment *x, FILE *out)
{
    const MiShape *s = &x->model->shape;
    int t0 = x->prompt.n, half = 2 * s->n_layer;
    fprintf(out, "model   %s: %d layers, %d heads, d_model %d, context %d, vocabulary %d\ntokens\n",
            x->model->file, s->n_layer, s->n_head, s->d_model, s->n_ctx, s->n_vocab);
    for (int t = 0; t < x->prompt.n; t++) {
        char label[64];
        fprintf(out, "  %4d  %6d  %s\n", t, mi_id_of_row(x->tokenizer, x->prompt.tokens[t]),
                token_label(x, x->prompt.tokens[t], label, sizeof label));
    }
    for (int i = 0; i < x->command->n_interventions; i++) {
        fprintf(out, "--%s ", x->command->interventions[i].op);
        char quoted[256] = "";
        append_visible(quoted, sizeof quoted, x->command->interventions[i].argument,
                       strlen(x->command->interventions[i].argument));
        fprintf(out, "%s\n", quoted);
        for (int j = x->first_edit[i]; j < x->first_edit[i + 1]; j++) {
            const MiEdit     *e = &x->edits.at[j];
            const MiSiteInfo *info = &SITES[e->site];
            int last = min_int(e->pos_end, x->prompt.n) - 1;
            char tl[64] = "no TransformerLens name";
            const char *slot = info->tl_name ? strstr(info->tl_name, "%d") : NULL;
            if (slot) snprintf(tl, sizeof tl, "%.*s%d%s", (int)(slot - info->tl_name),
                               info->tl_name, e->layer, slot + 2);
            else if (info->tl_name) snprintf(tl, sizeof tl, "%s", info->tl_name);
            fprintf(out, "  %-10s %-34s positions %d-%d, %s %d-%d", info->name, tl, e->pos, last,
                    e->head < 0 ? "columns" : "keys", e->first, e->head < 0 ? e->first + e->count - 1
                    : min_int(e->first + e->count - 1, last));
            fprintf(out, e->head < 0 ? "\n" : " of head %d\n", e->head);
            t0 = min_int(t0, e->pos);
            half = min_int(half, half_of(x->model, e->site, e->layer));
        }
    }
    if (x->edits.n)
        fprintf(out, "recomputed: %d of %d positions, from half-layer %d of %d up\n",
                x->prompt.n - t0, x->prompt.n, half, 2 * s->n_layer);
}

/* ============================================================================================= */
/* main                                                                                          */
/* ============================================================================================= */

static int fail(int status)
{
    fprintf(stderr, "mi: %s\n", mi_error());
    return status;
}

/* Generated text streams to the terminal, one run after the other. */
static int stream_text(Experiment *x, const Screen *screen)
{
    for (int i = 0; i < (x->edits.n ? 2 : 1); i++) {
        const char *name = i ? "edited" : "base";
        printf("  %s%s%s", color_of(screen, name), x->edits.n ? name : "", color_of(screen, "off"));
        printf("%s", x->edits.n ? "\n  " : "");
        for (int t = 0; t < x->prompt.n; t++) {
            int         length;
            const char *bytes = mi_token_bytes(x->tokenizer, x->prompt.tokens[t], &length);
            fwrite(bytes, 1, length, stdout);
        }
        printf("%s", color_of(screen, name));
        if (generate(x, i ? &x->edits : NULL, stdout) < 0) return -1;
        printf("%s\n\n", color_of(screen, "off"));
    }
    return 0;
}

/* Everything is computed before anything is printed: a failure leaves nothing half-written. */
static int report(Experiment *x, int argc, char **argv)
{
    const Command *c = x->command;
    char  *text = NULL;
    size_t size;
    FILE  *out = open_memstream(&text, &size);
    int    color = !strcmp(c->color, "always") ||
                   (!strcmp(c->color, "auto") && isatty(1) && !getenv("NO_COLOR"));
    Screen screen = { out, color };
    if (!out) return mi_fail("out of memory");
    if (c->explain) print_plan(x, out);
    else if (c->json) print_json(x, out, argc, argv);
    else print_report(x, &screen);
    if (fclose(out)) return mi_fail("out of memory");
    fwrite(text, 1, size, stdout);
    free(text);
    if (c->generate && !c->json && !c->explain && stream_text(x, &screen) < 0) return -1;
    return fflush(stdout) || ferror(stdout) ? mi_fail("cannot write: %s", strerror(errno)) : 0;
}

static int run_command(Experiment *x, int argc, char **argv)
{
    const Command *c = x->command;
    if (open_model(x, argv[0]) < 0) return fail(FAULT_OF_RUN);
    if (read_prompt(x) < 0 || read_source(x) < 0 || read_answers(x) < 0 || read_edits(x) < 0)
        return fail(FAULT_OF_USER);
    if (!c->explain) {
        if (run_all(x) < 0 || read_all(x) < 0) return fail(FAULT_OF_RUN);
        if (c->generate && c->json &&
            (generate_text(x, &x->readings[0], NULL) < 0 ||
             (x->edits.n && generate_text(x, &x->readings[1], &x->edits) < 0)))
            return fail(FAULT_OF_RUN);
    }
    return report(x, argc, argv) < 0 ? fail(FAULT_OF_RUN) : 0;
}

int main(int argc, char **argv)
{
    Command    command;
    Experiment x = { .command = &command };
    int        status = 0;
    if (parse_command(&command, argc, argv) < 0) status = fail(FAULT_OF_USER);
    else if (command.help) print_help(stdout);
    else if (command.version) printf("mi %s\n", MI_VERSION);
    else if (command.sites) print_sites(stdout);
    else {
        status = run_command(&x, argc, argv);
        close_experiment(&x);
    }
    free(command.interventions);
    return status;
}
#endif
