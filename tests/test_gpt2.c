/* test_gpt2.c - GPT-2 124M as it is published: its shapes, its names, its file, at random weights.
 *
 * Hugging Face's file has a header of 14,283 bytes, so that every tensor starts at an odd address,
 * attention masks among the tensors, no lm_head, and no number of heads. Such a file is written
 * here (548 MB, for a few seconds), and what mi computes from it is compared with a second forward
 * pass: plain loops over doubles that share nothing with mi.c, not even the file. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <sys/statvfs.h>

#include "mi.h"
#include "check.h"

enum {
    N_LAYER = 12, N_HEAD = 12, D_MODEL = 768, D_HEAD = 64, D_MLP = 3072, N_CTX = 1024,
    N_VOCAB = 50257, PUBLISHED_HEADER = 14283, N_TOKENS = 5
};
static const int tokens[N_TOKENS] = {15496, 11, 50256, 0, 995};

/* ---- Weights: a function of (tensor, row, column), so that no one needs to keep them ---- */

typedef struct {
    char name[64];
    int rank, rows, columns;        /* a vector has one row */
    int gain;                       /* 1: values near 1 */
    double spread;                  /* their standard deviation */
    uint32_t seed;
} Tensor;

enum { MAX_TENSORS = 200 };
static Tensor tensors[MAX_TENSORS];
static int n_tensors;

static void add(int layer, const char *name, int rank, int rows, int columns, double spread)
{
    Tensor *t = &tensors[n_tensors];
    if (layer < 0) snprintf(t->name, sizeof t->name, "%s", name);
    else snprintf(t->name, sizeof t->name, "h.%d.%s", layer, name);
    t->rank = rank, t->rows = rows, t->columns = columns, t->spread = spread;
    t->gain = strstr(name, "ln_") && strstr(name, "weight");
    t->seed = 0x9e3779b9u * (uint32_t)++n_tensors;
}

/* The spreads are GPT-2's initialisation, but where that would hide a mistake: biases are not
 * zero, and queries and keys are large enough for attention to choose. */
static void list_tensors(void)
{
    add(-1, "wte.weight", 2, N_VOCAB, D_MODEL, 0.02);
    add(-1, "wpe.weight", 2, N_CTX, D_MODEL, 0.01);
    for (int l = 0; l < N_LAYER; l++) {
        add(l, "ln_1.weight", 1, 1, D_MODEL, 0.1);
        add(l, "ln_1.bias", 1, 1, D_MODEL, 0.05);
        add(l, "attn.c_attn.weight", 2, D_MODEL, 3 * D_MODEL, 0.05);
        add(l, "attn.c_attn.bias", 1, 1, 3 * D_MODEL, 0.05);
        add(l, "attn.c_proj.weight", 2, D_MODEL, D_MODEL, 0.02);
        add(l, "attn.c_proj.bias", 1, 1, D_MODEL, 0.05);
        add(l, "ln_2.weight", 1, 1, D_MODEL, 0.1);
        add(l, "ln_2.bias", 1, 1, D_MODEL, 0.05);
        add(l, "mlp.c_fc.weight", 2, D_MODEL, D_MLP, 0.04);
        add(l, "mlp.c_fc.bias", 1, 1, D_MLP, 0.05);
        add(l, "mlp.c_proj.weight", 2, D_MLP, D_MODEL, 0.02);
        add(l, "mlp.c_proj.bias", 1, 1, D_MODEL, 0.05);
    }
    add(-1, "ln_f.weight", 1, 1, D_MODEL, 0.1);
    add(-1, "ln_f.bias", 1, 1, D_MODEL, 0.05);
}

/* Uniform noise from an integer hash. A value is an integer below 2^24 times a float: rounded once,
 * hence the same wherever this is inlined and however it is vectorized. */
static void weights(const Tensor *t, int row, float *out)
{
    uint32_t seed = t->seed ^ ((uint32_t)row + 1) * 0x85ebca6bu;
    int one = t->gain ? (int)lround(32768 / (t->spread * sqrt(3.0))) : 0;
    float unit = t->gain ? 1.0f / (float)one : (float)(t->spread * sqrt(3.0) / 32768);
    int n = t->columns;
    for (int i = 0; i < n; i++) {
        uint32_t x = seed + (uint32_t)i * 0x9e3779b9u;
        x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
        out[i] = (float)(one + (int)(x >> 16) - 32768) * unit;
    }
}

/* find(3, "ln_1", "bias") is h.3.ln_1.bias */
static const Tensor *find(int layer, const char *name, const char *part)
{
    char full[100];
    if (layer < 0) snprintf(full, sizeof full, "%s.%s", name, part);
    else snprintf(full, sizeof full, "h.%d.%s.%s", layer, name, part);
    for (int i = 0; i < n_tensors; i++)
        if (!strcmp(tensors[i].name, full)) return &tensors[i];
    abort();
}

/* ---- The files ---- */

static char path[1200];

/* Entry of the header, and data at the end of the file. */
typedef struct { char *header; size_t n, room; uint64_t offset; } Header;

static void entry(Header *h, const char *prefix, const char *name, const char *shape,
                  uint64_t bytes)
{
    const char *format = "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%llu,%llu]}";
    unsigned long long begin = h->offset, end = begin + bytes;
    h->n += (size_t)snprintf(h->header + h->n, h->room - h->n, format, h->offset ? "," : "", prefix,
                             name, shape, begin, end);
    h->offset += bytes;
}

static uint64_t entry_of(Header *h, const char *prefix, const char *name, const Tensor *t)
{
    char shape[40];
    if (t->rank == 2) snprintf(shape, sizeof shape, "[%d,%d]", t->rows, t->columns);
    else snprintf(shape, sizeof shape, "[%d]", t->columns);
    uint64_t bytes = (uint64_t)t->rows * t->columns * sizeof(float);
    entry(h, prefix, name, shape, bytes);
    return bytes;
}

static int put(FILE *file, const Tensor *t)
{
    enum { CHUNK = 1 << 19 };                       /* floats; 2 MB stay in the cache */
    static float chunk[CHUNK];
    int rows_per_chunk = CHUNK / t->columns;
    for (int row = 0; row < t->rows; row += rows_per_chunk) {
        int n = t->rows - row < rows_per_chunk ? t->rows - row : rows_per_chunk;
        for (int i = 0; i < n; i++) weights(t, row + i, chunk + (size_t)i * t->columns);
        size_t floats = (size_t)n * t->columns;
        if (fwrite(chunk, sizeof(float), floats, file) != floats) return 0;
    }
    return 1;
}

/* Vectors first: small offsets have few digits, and the header must not become too long. */
static int by_rank_and_name(const void *a, const void *b)
{
    const Tensor *x = a, *y = b;
    return x->rank != y->rank ? x->rank - y->rank : strcmp(x->name, y->name);
}

/* As published: masks, and exactly so many bytes of header; or as saved from GPT2LMHeadModel:
 * with transformer. and lm_head.weight, in the order of the layers. 1: written. */
static int write_file(int published, size_t header_bytes)
{
    enum { MASK = N_CTX * N_CTX * 4 };
    static char text[1 << 15];
    memset(text, ' ', sizeof text);
    Header h = {text, 0, sizeof text, 0};
    static Tensor order[MAX_TENSORS];
    memcpy(order, tensors, sizeof order);
    if (published) qsort(order, (size_t)n_tensors, sizeof *order, by_rank_and_name);

    h.n = (size_t)sprintf(text, "{\"__metadata__\":{\"format\":\"pt\"},");
    for (int i = 0; i < n_tensors; i++) {
        if (published && strstr(order[i].name, "attn.c_attn.weight")) {
            char mask[64];
            snprintf(mask, sizeof mask, "h.%d.attn.bias", atoi(order[i].name + 2));
            entry(&h, "", mask, "[1,1,1024,1024]", MASK);
        }
        entry_of(&h, published ? "" : "transformer.", order[i].name, &order[i]);
    }
    if (!published) entry_of(&h, "", "lm_head.weight", find(-1, "wte", "weight"));
    text[h.n++] = '}';
    CHECK(h.n <= header_bytes, "test_gpt2: the header needs %zu bytes", h.n);
    text[h.n] = ' ';

    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint64_t)header_bytes >> 8 * i & 255;
    int ok = fwrite(length, 1, 8, file) == 8 && fwrite(text, 1, header_bytes, file) == header_bytes;
    for (int i = 0; i < n_tensors && ok; i++) {     /* masks are zeros that take no room */
        if (published && strstr(order[i].name, "attn.c_attn.weight"))
            ok = !fseek(file, MASK, SEEK_CUR);
        ok = ok && put(file, &order[i]);
    }
    if (!published) ok = ok && put(file, find(-1, "wte", "weight"));
    return (fclose(file) == 0) & ok;
}

/* ---- The second forward pass ---- */

typedef double Rows[N_TOKENS][D_MODEL];

static void layer_norm(int layer, const char *name, double (*x)[D_MODEL], double (*y)[D_MODEL])
{
    float gain[D_MODEL], bias[D_MODEL];
    weights(find(layer, name, "weight"), 0, gain);
    weights(find(layer, name, "bias"), 0, bias);
    for (int t = 0; t < N_TOKENS; t++) {
        double mean = 0, variance = 0;
        for (int i = 0; i < D_MODEL; i++) mean += x[t][i] / D_MODEL;
        for (int i = 0; i < D_MODEL; i++) variance += (x[t][i] - mean) * (x[t][i] - mean) / D_MODEL;
        for (int i = 0; i < D_MODEL; i++)
            y[t][i] = (x[t][i] - mean) / sqrt(variance + 1e-5) * gain[i] + bias[i];
    }
}

/* x [T,in] -> y [T,out] */
static void linear(int layer, const char *name, const double *x, double *y)
{
    static float w[D_MLP];
    const Tensor *matrix = find(layer, name, "weight");
    int in = matrix->rows, out = matrix->columns;
    weights(find(layer, name, "bias"), 0, w);
    for (int t = 0; t < N_TOKENS; t++)
        for (int j = 0; j < out; j++) y[t * out + j] = w[j];
    for (int i = 0; i < in; i++) {
        weights(matrix, i, w);
        for (int t = 0; t < N_TOKENS; t++) {
            double xi = x[t * in + i], *yt = y + t * out;
            for (int j = 0; j < out; j++) yt[j] += xi * w[j];
        }
    }
}

static void attention(double (*qkv)[3 * D_MODEL], double (*z)[D_MODEL])
{
    for (int t = 0; t < N_TOKENS; t++) {
        for (int h = 0; h < N_HEAD; h++) {
            double p[N_TOKENS], highest = -INFINITY, sum = 0;
            const double *q = qkv[t] + h * D_HEAD;
            for (int s = 0; s <= t; s++) {
                const double *k = qkv[s] + D_MODEL + h * D_HEAD;
                p[s] = 0;
                for (int i = 0; i < D_HEAD; i++) p[s] += q[i] * k[i];
                p[s] /= sqrt((double)D_HEAD);
                if (p[s] > highest) highest = p[s];
            }
            for (int s = 0; s <= t; s++) sum += p[s] = exp(p[s] - highest);
            for (int i = 0; i < D_HEAD; i++) {
                double mixed = 0;
                const double *v = qkv[0] + 2 * D_MODEL + h * D_HEAD + i;
                for (int s = 0; s <= t; s++) mixed += p[s] / sum * v[s * 3 * D_MODEL];
                z[t][h * D_HEAD + i] = mixed;
            }
        }
    }
}

typedef struct { Rows first, last, ln_f; double logits[N_VOCAB]; } Reference;

static void forward(Reference *out)
{
    static Rows resid, normed, z, change;
    static double qkv[N_TOKENS][3 * D_MODEL], hidden[N_TOKENS][D_MLP];
    static float w[D_MODEL];
    for (int t = 0; t < N_TOKENS; t++) {
        weights(find(-1, "wte", "weight"), tokens[t], w);
        for (int i = 0; i < D_MODEL; i++) resid[t][i] = w[i];
        weights(find(-1, "wpe", "weight"), t, w);
        for (int i = 0; i < D_MODEL; i++) resid[t][i] += w[i];
    }
    for (int l = 0; l < N_LAYER; l++) {
        layer_norm(l, "ln_1", resid, normed);
        linear(l, "attn.c_attn", &normed[0][0], &qkv[0][0]);
        attention(qkv, z);
        linear(l, "attn.c_proj", &z[0][0], &change[0][0]);
        for (int i = 0; i < N_TOKENS * D_MODEL; i++) (&resid[0][0])[i] += (&change[0][0])[i];
        layer_norm(l, "ln_2", resid, normed);
        linear(l, "mlp.c_fc", &normed[0][0], &hidden[0][0]);
        for (int i = 0; i < N_TOKENS * D_MLP; i++) {
            double *x = &hidden[0][0] + i;
            *x *= 0.5 * (1 + tanh(0.7978845608028654 * (*x + 0.044715 * *x * *x * *x)));
        }
        linear(l, "mlp.c_proj", &hidden[0][0], &change[0][0]);
        for (int i = 0; i < N_TOKENS * D_MODEL; i++) (&resid[0][0])[i] += (&change[0][0])[i];
        if (l == 0) memcpy(out->first, resid, sizeof resid);
    }
    memcpy(out->last, resid, sizeof resid);
    layer_norm(-1, "ln_f", resid, out->ln_f);
    for (int v = 0; v < N_VOCAB; v++) {
        weights(find(-1, "wte", "weight"), v, w);
        double sum = 0;
        for (int i = 0; i < D_MODEL; i++) sum += w[i] * out->ln_f[N_TOKENS - 1][i];
        out->logits[v] = sum;
    }
}

/* ---- Comparing ---- */

/* The largest difference, as a part of the largest value; 1 where something is not a number. */
static double difference(const float *x, const double *y, int n)
{
    double worst = 0, scale = 0;
    if (!x) return 1;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) return 1;
        worst = fmax(worst, fabs(x[i] - y[i]));
        scale = fmax(scale, fabs(y[i]));
    }
    return scale > 0 ? worst / scale : 1;
}

static const double tolerance = 1e-4;

static void compare(const MiRun *run, const Reference *reference, const float *logits)
{
    for (int t = 0; t < N_TOKENS; t++) {
        const struct { const char *name; const float *row; const double *expected; } rows[] = {
            {"resid_post of layer 0", mi_site(run, 0, MI_resid_post, 0, t), reference->first[t]},
            {"resid_post of layer 11", mi_site(run, 0, MI_resid_post, 11, t), reference->last[t]},
            {"ln_f", mi_site(run, 0, MI_ln_f, 0, t), reference->ln_f[t]}
        };
        for (int i = 0; i < 3; i++) {
            double d = difference(rows[i].row, rows[i].expected, D_MODEL);
            CHECK(d <= tolerance, "mi_run: %s at position %d is wrong by %.2g of its scale",
                  rows[i].name, t, d);
        }
    }
    double d = difference(logits, reference->logits, N_VOCAB);
    CHECK(d <= tolerance, "mi_logits: wrong by %.2g of their scale", d);
    int best = 0, top[1];
    for (int v = 1; v < N_VOCAB; v++)
        if (reference->logits[v] > reference->logits[best]) best = v;
    CHECK(mi_top(logits, N_VOCAB, 1, top) >= 0 && logits[top[0]] >= logits[best],
          "mi_top: token %d is not the highest", top[0]);
}

/* Resident memory in MB, or with "RssAnon:" without that of mapped files; -1 where the system does
 * not say. */
static double resident(const char *which)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[200];
    double kb = -1;
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, which, strlen(which))) kb = atof(line + strlen(which));
    if (status) fclose(status);
    return kb < 0 ? -1 : kb / 1024;
}

/* Opens the file at `path` and runs it. logits of the last position. NULL: it failed, and CHECK
 * has said so. */
static MiRun *run_file(const char *what, MiModel **model, float *logits)
{
    doing("%s", what);
    double before = resident("VmRSS:");
    *model = mi_open(path);
    double grown = resident("VmRSS:") - before;
    CHECK(*model, "mi_open: %s: %s", what, mi_error());
    if (!*model) return NULL;
    if (before >= 0 && !strstr(what, "lm_head"))    /* (an lm_head is compared with wte) */
        CHECK(grown < 100, "mi_open: %s takes %.0f MB before anything is run", what, grown);
    MiShape s = mi_shape(*model);
    CHECK(s.n_layer == N_LAYER && s.n_head == N_HEAD && s.d_model == D_MODEL &&
          s.d_head == D_HEAD && s.d_mlp == D_MLP && s.n_ctx == N_CTX && s.n_vocab == N_VOCAB,
          "mi_shape: %s: L %d H %d D %d d %d F %d T %d V %d", what, s.n_layer, s.n_head, s.d_model,
          s.d_head, s.d_mlp, s.n_ctx, s.n_vocab);
    MiRun *run = mi_run(*model, tokens, N_TOKENS, NULL, NULL);
    CHECK(run, "mi_run: %s: %s", what, mi_error());
    int ok = run && mi_logits(run, 0, N_TOKENS - 1, logits) >= 0;
    CHECK(ok, "mi_logits: %s: %s", what, mi_error());
    if (!ok) mi_free(run), mi_close(*model), run = NULL;
    return run;
}

/* A sweep of heads over a prompt of 64 tokens takes at most 300 MB beside the weights, and no more
 * at a time for more cells. */
static double highest(void *context, const MiRun *run, int lane)
{
    double *most = context, now = resident("RssAnon:");
    (void)run, (void)lane;
    if (now > *most) *most = now;
    return now;
}

static void test_memory(const MiModel *model)
{
    enum { T = 64 };
    int      prompt[T], first[N_HEAD + 1];
    MiEdit   edits[N_HEAD];
    double   values[N_HEAD], before = resident("RssAnon:"), most = 0;
    doing("the memory of a sweep");
    for (int t = 0; t < T; t++) prompt[t] = 31 * t + 7;
    for (int h = 0; h < N_HEAD; h++) {
        first[h] = h, first[h + 1] = h + 1;
        edits[h] = (MiEdit){ .op = MI_SET, .site = MI_z, .layer = N_LAYER - 1, .head = -1,
                             .pos = 0, .pos_end = T, .first = h * D_HEAD, .count = D_HEAD };
    }
    MiOptions options = { .keep = MI_KEEP(z) };
    MiRun    *trunk = mi_run(model, prompt, T, NULL, &options);
    MiSweep   sweep = { trunk, edits, first, N_HEAD, 0, highest, NULL, &most };
    CHECK(trunk && mi_sweep(&sweep, values) == 0, "mi_sweep: %s", mi_error());
    CHECK(before < 0 || most - before <= 300, "mi_sweep: takes %.0f MB for 64 tokens",
          most - before);
    CHECK(before < 0 || most - before > 10, "mi_sweep: its memory of %.0f MB was not seen",
          most - before);
    if (getenv("VERBOSE")) printf("a sweep over 64 tokens: %.0f MB\n", most - before);
    mi_free(trunk);
}

static Reference reference;
static float logits[N_VOCAB], others[N_VOCAB];

static void test_published(void)
{
    MiModel *model;
    MiRun *run = run_file("the published layout", &model, logits);
    if (!run) return;
    doing("the second forward pass");
    forward(&reference);
    compare(run, &reference, logits);
    MiTokenizer *words = mi_tokenizer_open("tokenizer.bin", model);
    CHECK(words && mi_row_of_id(words, 50256) == 50256 && mi_id_of_row(words, 995) == 995,
          "mi_row_of_id: not the identity for the whole vocabulary");
    int hello[4];
    CHECK(words && mi_encode(words, "Hello, world", 12, hello, 4) == 3 && hello[0] == 15496 &&
          hello[1] == 11 && hello[2] == 995, "mi_encode: 'Hello, world' is not 15496 11 995");
    mi_tokenizer_close(words);
    mi_free(run);
    test_memory(model);
    mi_close(model);
}

/* lm_head equal to wte, all tensors aligned: the same bits. Then one row of it is not wte's. */
static void test_lm_head(size_t header_bytes)
{
    enum { ROW = 50001 };
    MiModel *model;
    MiRun *run = run_file("transformer. and lm_head", &model, others);
    if (!run) return;
    CHECK(!memcmp(logits, others, sizeof logits), "mi_logits: %s",
          "other bits from the same weights at aligned addresses, with lm_head");
    const float *row = mi_site(run, 0, MI_resid_post, 11, N_TOKENS - 1);
    double d = difference(row, reference.last[N_TOKENS - 1], D_MODEL);
    CHECK(d <= tolerance, "mi_run: with transformer. and lm_head wrong by %.2g of its scale", d);
    mi_free(run), mi_close(model);

    float w[D_MODEL];
    struct stat st;
    weights(find(-1, "wte", "weight"), ROW, w);
    double expected = 0;
    for (int i = 0; i < D_MODEL; i++) w[i] = -3 * w[i] + (i % 2 ? 0.01f : 0);
    for (int i = 0; i < D_MODEL; i++) expected += w[i] * reference.ln_f[N_TOKENS - 1][i];
    int file = open(path, O_WRONLY);
    off_t end = file >= 0 && !fstat(file, &st) ? st.st_size : 0;
    int ok = end > (off_t)header_bytes &&
             pwrite(file, w, sizeof w, end - (off_t)(N_VOCAB - ROW) * sizeof w) == sizeof w;
    CHECK(ok, "test_gpt2: cannot change lm_head: %s", strerror(errno));
    if (file >= 0) close(file);

    run = run_file("an lm_head that differs from wte", &model, others);
    if (!run) return;
    int differ = 0;
    for (int v = 0; v < N_VOCAB; v++) differ += v != ROW && others[v] != logits[v];
    CHECK(fabs(others[ROW] - expected) < 1e-4 * fabs(expected) + 1e-5 && !differ,
          "lm_head: of one changed row the logit is %g, not %g; %d others differ",
          others[ROW], expected, differ);
    mi_free(run), mi_close(model);
}

static int body(void)
{
    const uint64_t needed = (uint64_t)720 << 20;
    struct statvfs disk;
    if (!statvfs(scratch, &disk) && (uint64_t)disk.f_bavail * disk.f_frsize < needed) {
        printf("SKIP test_gpt2: 720 MB are needed on the disk of %s (set TMPDIR)\n", scratch);
        return report();
    }
    snprintf(path, sizeof path, "%s/model.safetensors", scratch);
    list_tensors();
    size_t aligned = 16376;                         /* 8 + 16376 is a multiple of 4096 */
    for (int published = 1; published >= 0; published--) {
        doing("writing");
        errno = 0;
        if (!write_file(published, published ? (size_t)PUBLISHED_HEADER : aligned)) {
            if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
                printf("SKIP test_gpt2: no room in %s (set TMPDIR)\n", scratch);
            else CHECK(0, "test_gpt2: cannot write %s: %s", path, strerror(errno));
            break;
        }
        if (published) test_published();
        else test_lm_head(aligned);
    }
    return report();
}

int main(void)
{
    seconds_per_case = 300;
    return in_scratch(body);
}
