/* test_files.c - model files that are broken, lie, or mean harm, and odd ones that are right.
 *
 * A bad file must give NULL and one line that names it; a good one must load, whatever the order
 * of its parts, and compute the same bits. All of them are made here, from one small model. */
#include "scratch.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>

#include "mi.h"
#include "check.h"

/* ---- One small model: a list of tensors that can be bent before it is written ---- */

enum { N_VOCAB = 260, N_CTX = 8 };

typedef struct {
    char name[72], dtype[24], shape[120], offsets[120];     /* the last three as JSON */
    size_t begin, end;                                      /* where the data really are */
} Tensor;

typedef struct {
    Tensor *at;
    int n;
    char metadata[300];             /* JSON; "" means that the key is absent */
    unsigned char *data;
    size_t size;
} File;

typedef struct {                    /* what kind of file to make; zero means the plain one */
    int n_layer, d_model, n_head;
    const char *prefix;             /* "transformer." */
    const char *dtype;              /* "F32", "F16", "BF16" */
    int first;                      /* data order: begin with this tensor, go round */
    int backwards;                  /* data order: from last to first */
    int masks, lm_head, no_metadata;
} Kind;

static uint64_t random_state = 1;

static uint64_t any(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

/* Weights are small multiples of a power of two, so that F16 and BF16 hold them exactly. A few are
 * so small that they are subnormal in F16. */
static float weight(uint32_t seed, size_t i, int is_gain)
{
    uint32_t x = seed + (uint32_t)i * 2654435761u;
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
    int k = (int)(x % 127) - 63;
    if (is_gain) return 1.0f + (float)(k / 4) * 0x1p-6f;
    return (float)k * (x >> 24 == 7 ? 0x1p-24f : 0x1p-7f);
}

static unsigned half_of(float value, int bfloat)    /* exact for the weights above */
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (bfloat) return bits >> 16;
    unsigned sign = bits >> 16 & 0x8000;
    float size = fabsf(value);
    if (size < 0x1p-14f) return sign | (unsigned)(size * 0x1p24f);
    return sign | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023);
}

static void name_shape(Tensor *t, int rank, const size_t *shape)
{
    int n = snprintf(t->shape, sizeof t->shape, "[");
    for (int i = 0; i < rank; i++)
        n += snprintf(t->shape + n, sizeof t->shape - n, "%s%zu", i ? "," : "", shape[i]);
    snprintf(t->shape + n, sizeof t->shape - n, "]");
}

static void place(Tensor *t, int64_t shift)
{
    snprintf(t->offsets, sizeof t->offsets, "[%lld,%lld]", (long long)t->begin + shift,
             (long long)t->end + shift);
}

static Tensor *add(File *f, const char *name, const char *dtype, int rank, const size_t *shape)
{
    f->at = realloc(f->at, (size_t)(f->n + 1) * sizeof *f->at);
    Tensor *t = &f->at[f->n++];
    size_t n = strstr("F32 I32", dtype) ? 4 : strstr("F16 BF16", dtype) ? 2 : 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "\"%s\"", dtype);
    name_shape(t, rank, shape);
    t->begin = f->size, t->end = f->size + n;
    place(t, 0);
    f->data = realloc(f->data, f->size + n + 1);
    memset(f->data + f->size, 0, n);
    f->size += n;
    return t;
}

static void add_weight(File *f, const Kind *kind, const char *name, int rank, size_t a, size_t b)
{
    char full[100];
    const char *dtype = kind->dtype ? kind->dtype : "F32";
    size_t shape[2] = {a, b}, n = rank == 2 ? a * b : a;
    snprintf(full, sizeof full, "%s%s", kind->prefix ? kind->prefix : "", name);
    const Tensor *t = add(f, full, dtype, rank, shape);
    uint32_t seed = 0;
    for (const char *c = strcmp(name, "lm_head.weight") ? name : "wte.weight"; *c; c++)
        seed = seed * 31 + (unsigned char)*c;
    int is_gain = strstr(name, "ln_") && strstr(name, ".weight");
    for (size_t i = 0; i < n; i++) {
        float value = weight(seed, i, is_gain);
        unsigned half = half_of(value, dtype[0] == 'B');
        unsigned char *to = f->data + t->begin;
        if (dtype[1] == '3') memcpy(to + 4 * i, &value, 4);
        else to[2 * i] = half & 255, to[2 * i + 1] = half >> 8;
    }
}

static void put_id(File *f, int row, int32_t id)        /* into vocab_ids */
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->at[i].name, "vocab_ids")) memcpy(f->data + f->at[i].begin + 4 * row, &id, 4);
}

static const char *const per_layer[] = {
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
    "mlp.c_proj.weight", "mlp.c_proj.bias"
};
enum { PER_LAYER = sizeof per_layer / sizeof *per_layer };

/* Add tensor number `which`; 0 when there is no such number. */
static int add_one(File *f, const Kind *kind, int which)
{
    size_t D = (size_t)kind->d_model;
    const size_t rows[] = {D, D, D, 3 * D, D, D, D, D, D, 4 * D, 4 * D, D};
    const size_t columns[] = {0, 0, 3 * D, 0, D, 0, 0, 0, 4 * D, 0, D, 0};
    int layers = PER_LAYER * kind->n_layer;
    if (which < layers) {
        char name[64];
        int kind_of = which % PER_LAYER;
        snprintf(name, sizeof name, "h.%d.%s", which / PER_LAYER, per_layer[kind_of]);
        add_weight(f, kind, name, columns[kind_of] ? 2 : 1, rows[kind_of], columns[kind_of]);
        return 1;
    }
    switch (which - layers) {
    case 0: add_weight(f, kind, "ln_f.weight", 1, D, 0); return 1;
    case 1: add_weight(f, kind, "ln_f.bias", 1, D, 0); return 1;
    case 2: add_weight(f, kind, "wpe.weight", 2, N_CTX, D); return 1;
    case 3: add_weight(f, kind, "wte.weight", 2, N_VOCAB, D); return 1;
    case 4: {                       /* every byte, " t", "he", " the" = " t" + "he", the end */
        const int others[] = {256, 258, 262, 50256};
        add(f, "vocab_ids", "I32", 1, (size_t[]){N_VOCAB});
        for (int i = 0; i < N_VOCAB; i++) put_id(f, i, i < 256 ? i : others[i - 256]);
        return 1;
    }
    default: return 0;
    }
}

static File make(Kind kind)
{
    File f = {0};
    if (!kind.n_layer) kind.n_layer = 2;
    if (!kind.d_model) kind.d_model = 16;
    if (!kind.n_head) kind.n_head = 2;
    int n = PER_LAYER * kind.n_layer + 5;
    for (int i = 0; i < n; i++) {
        int j = (i + kind.first) % n;
        if (kind.masks && j % PER_LAYER == 4 && j < n - 5) {
            char name[64];
            int layer = j / PER_LAYER;
            const char *prefix = kind.prefix ? kind.prefix : "";
            snprintf(name, sizeof name, "%sh.%d.attn.bias", prefix, layer);
            add(&f, name, layer % 2 ? "U8" : "F32", 4, (size_t[]){1, 1, N_CTX, N_CTX});
            snprintf(name, sizeof name, "%sh.%d.attn.masked_bias", prefix, layer);
            add(&f, name, "F32", 0, NULL);
        }
        add_one(&f, &kind, kind.backwards ? n - 1 - j : j);
    }
    if (kind.lm_head) {             /* never with the prefix, as in GPT2LMHeadModel */
        Kind bare = kind;
        bare.prefix = NULL;
        add_weight(&f, &bare, "lm_head.weight", 2, N_VOCAB, (size_t)kind.d_model);
    }
    if (!kind.no_metadata)
        snprintf(f.metadata, sizeof f.metadata, "{\"n_head\":\"%d\"}", kind.n_head);
    return f;
}

static void drop(File *f)
{
    free(f->at);
    free(f->data);
    *f = (File){0};
}

static Tensor *tensor(File *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->at[i].name, name)) return &f->at[i];
    CHECK(0, "test_files: no tensor %s to bend", name);
    return f->at;
}

static void swap_entries(File *f, int i, int j)
{
    Tensor t = f->at[i];
    f->at[i] = f->at[j], f->at[j] = t;
}

/* ---- Writing ---- */

static char path[1300];

static void write_bytes(const void *bytes, size_t n)
{
    remove(path);                   /* (some file systems are slow to truncate) */
    FILE *file = fopen(path, "wb");
    int ok = file && fwrite(bytes, 1, n, file) == n;
    ok &= file && fclose(file) == 0;
    CHECK(ok, "test_files: cannot write %s: %s", path, strerror(errno));
}

static char *header_of(const File *f)
{
    size_t room = sizeof f->metadata + 100 + (size_t)f->n * (sizeof(Tensor) + 60), n = 0;
    char *text = malloc(room);
    n += snprintf(text + n, room - n, "{");
    if (f->metadata[0]) n += snprintf(text + n, room - n, "\"__metadata__\":%s,", f->metadata);
    for (int i = 0; i < f->n; i++)
        n += snprintf(text + n, room - n,
                      "%s\"%s\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}", i ? "," : "",
                      f->at[i].name, f->at[i].dtype, f->at[i].shape, f->at[i].offsets);
    snprintf(text + n, room - n, "}");
    return text;
}

/* The whole file in memory. said: the length that its first 8 bytes claim. */
static unsigned char *bytes_of(const File *f, const char *header, size_t n_header, uint64_t said,
                               size_t *size)
{
    unsigned char *all = malloc(8 + n_header + f->size + 1);
    for (int i = 0; i < 8; i++) all[i] = said >> 8 * i & 255;
    memcpy(all + 8, header, n_header);
    if (f->size) memcpy(all + 8 + n_header, f->data, f->size);
    *size = 8 + n_header + f->size;
    return all;
}

static void write_with(const File *f, const char *header, size_t n_header)
{
    size_t size;
    unsigned char *all = bytes_of(f, header, n_header, n_header, &size);
    write_bytes(all, size);
    free(all);
}

static void write_file(const File *f)
{
    char *header = header_of(f);
    write_with(f, header, strlen(header));
    free(header);
}

/* A copy of text in which `from` became `to` (once). */
static char *replaced(const char *text, const char *from, const char *to)
{
    const char *found = strstr(text, from);
    CHECK(found, "test_files: no %s in the header to replace", from);
    if (!found) found = text, from = "";
    char *new = malloc(strlen(text) + strlen(to) + 1);
    memcpy(new, text, (size_t)(found - text));
    strcpy(new + (found - text), to);
    strcat(new, found + strlen(from));
    return new;
}

/* ---- What must happen ---- */

/* Is the error message one printable line that names the file (or its directory's config.json)? */
static const char *complaint(const char *name)
{
    const char *message = mi_error();
    if (!message || !*message) return "there is no message";
    for (const char *c = message; *c; c++)
        if (iscntrl((unsigned char)*c)) return "the message is not one printable line";
    if (name && !strstr(message, name)) return "the message does not name the file";
    return NULL;
}

static const char *base_name(const char *p)
{
    const char *slash = strrchr(p, '/');
    return slash ? slash + 1 : p;
}

static void refused_at(const char *where, const char *mention, const char *case_name)
{
    doing("mi_open of %s", case_name);
    MiModel *model = mi_open(where);
    const char *wrong = model ? "is accepted" : complaint(base_name(where));
    if (!wrong && mention && !strstr(mi_error(), mention)) wrong = "the message does not say which";
    CHECK(!wrong, "mi_open: %s: %s (%s)", case_name, wrong, model ? "no error" : mi_error());
    mi_close(model);
}

static void refused(const char *format, ...)
{
    char name[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    refused_at(path, NULL, name);
}

/* Does the model run? Fills the logits after three tokens if the pointer is there. */
static const char *run_three(const MiModel *model, float *logits)
{
    const int tokens[3] = {40, 0, 7};
    MiRun *run = mi_run(model, tokens, 3, NULL, &(MiOptions){.threads = 1});
    if (!run) return complaint(NULL) ? complaint(NULL) : "cannot run";
    int V = mi_shape(model).n_vocab;
    float *all = malloc((size_t)V * sizeof *all);
    const char *wrong = mi_logits(run, 0, 2, all) < 0 ? "gives no logits" : NULL;
    if (!wrong && logits) memcpy(logits, all, (size_t)V * sizeof *all);
    free(all);
    mi_free(run);
    return wrong;
}

/* The file at `path` is right: it loads and computes these logits (any, if NULL), bit for bit. */
static void loads(const float *expected, const char *format, ...)
{
    char name[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    doing("mi_open of %s", name);
    MiModel *model = mi_open(path);
    CHECK(model, "mi_open: refuses %s (%s)", name, mi_error());
    if (!model) return;
    float logits[N_VOCAB];
    const char *wrong = mi_shape(model).n_vocab == N_VOCAB ? run_three(model, logits)
                                                           : "has another vocabulary";
    if (!wrong && expected && memcmp(logits, expected, sizeof logits))
        wrong = "computes other logits than the plain file of the same weights";
    CHECK(!wrong, "mi_open: %s %s", name, wrong);
    mi_close(model);
}

/* Whatever the file at `path` is: it opens and runs, or fails with a message. 1: it opened. */
static int survives(const char **wrong)
{
    MiModel *model = mi_open(path);
    if (!model) {
        const char *why = complaint(base_name(path));
        if (why) *wrong = why;
        return 0;
    }
    int cannot_run = run_three(model, NULL) != NULL && complaint(NULL) != NULL;
    if (cannot_run) *wrong = "opens, but running it fails without a message";
    mi_close(model);
    return 1;
}

static void either(const char *name)
{
    const char *wrong = NULL;
    doing("mi_open of %s", name);
    survives(&wrong);
    CHECK(!wrong, "mi_open: %s: %s (%s)", name, wrong, mi_error());
}

/* As refused(), but mi_tokenizer_open(), which knows the merges, may be the one to find out. */
static void vocabulary_refused(const char *name)
{
    doing("vocab_ids %s", name);
    MiModel *model = mi_open(path);
    MiTokenizer *words = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
    const char *wrong = words ? "is accepted" : complaint(NULL);
    if (!wrong && !strstr(mi_error(), base_name(path)) && !strstr(mi_error(), "tokenizer.bin"))
        wrong = "the message names no file";
    CHECK(!wrong, "vocab_ids: %s: %s (%s)", name, wrong, words ? "no error" : mi_error());
    mi_tokenizer_close(words);
    mi_close(model);
}

/* ---- Files that are right ---- */

static float plain[N_VOCAB];        /* the logits of the plain file */

static void test_plain(void)
{
    File f = make((Kind){0});
    write_file(&f);
    doing("mi_open of a plain file");
    MiModel *model = mi_open(path);
    CHECK(model, "mi_open: refuses a plain file (%s)", mi_error());
    if (model) {
        MiShape s = mi_shape(model);
        CHECK(s.n_layer == 2 && s.n_head == 2 && s.d_model == 16 && s.d_head == 8 &&
              s.d_mlp == 64 && s.n_ctx == N_CTX && s.n_vocab == N_VOCAB,
              "mi_shape: L %d H %d D %d d %d F %d T %d V %d", s.n_layer, s.n_head, s.d_model,
              s.d_head, s.d_mlp, s.n_ctx, s.n_vocab);
        const char *wrong = run_three(model, plain);
        CHECK(!wrong, "mi_run: a plain file %s", wrong);
        int good = plain[0] != plain[1];
        for (int i = 0; i < N_VOCAB; i++) good &= isfinite(plain[i]) != 0;
        CHECK(good, "mi_logits: nonsense from a plain file");
        MiTokenizer *words = mi_tokenizer_open("tokenizer.bin", model);
        CHECK(words, "mi_tokenizer_open: refuses a plain file (%s)", mi_error());
        if (words) {
            int tokens[16];
            int64_t n = mi_encode(words, "I the", 5, tokens, 16);
            CHECK(n == 2 && mi_id_of_row(words, tokens[1]) == 262,
                  "vocab_ids: 'I the' is not 2 tokens (%lld)", (long long)n);
        }
        mi_tokenizer_close(words);
    }
    mi_close(model);
    drop(&f);
}

static void test_variants(void)
{
    File f;
    f = make((Kind){.backwards = 1}), write_file(&f);
    loads(plain, "data in another order"), drop(&f);
    f = make((Kind){.masks = 1}), write_file(&f);
    loads(plain, "attn.bias buffers"), drop(&f);
    f = make((Kind){.prefix = "transformer."}), write_file(&f);
    loads(plain, "names with transformer."), drop(&f);
    f = make((Kind){.prefix = "transformer.", .masks = 1, .lm_head = 1}), write_file(&f);
    loads(plain, "transformer., buffers, and lm_head equal to wte"), drop(&f);
    f = make((Kind){.dtype = "F16"}), write_file(&f), loads(plain, "F16 weights"), drop(&f);
    f = make((Kind){.dtype = "BF16"}), write_file(&f), loads(plain, "BF16 weights"), drop(&f);
    f = make((Kind){.dtype = "BF16", .masks = 1, .lm_head = 1}), write_file(&f);
    loads(plain, "BF16 weights with lm_head"), drop(&f);
    f = make((Kind){.n_layer = 48, .masks = 1, .lm_head = 1}), write_file(&f);
    loads(NULL, "48 layers, 677 tensors"), drop(&f);
    f = make((Kind){.n_layer = 11, .backwards = 1}), write_file(&f);
    loads(NULL, "11 layers (h.10 before h.2)"), drop(&f);

    f = make((Kind){.lm_head = 1});             /* lm_head that differs: one logit is another */
    float *row = (float *)(void *)(f.data + tensor(&f, "lm_head.weight")->begin) + 5 * 16;
    for (int i = 0; i < 16; i++) row[i] += i % 3 ? 0.5f : -0.25f;
    write_file(&f);
    doing("lm_head.weight that differs from wte");
    MiModel *model = mi_open(path);
    float logits[N_VOCAB] = {0};
    int ran = model && !run_three(model, logits);
    CHECK(ran, "lm_head: cannot load one that differs (%s)", mi_error());
    int differ = 0;
    for (int i = 0; i < N_VOCAB; i++) differ += logits[i] != plain[i];
    CHECK(differ == 1 && logits[5] != plain[5], "lm_head: %d logits differ, 1 expected", differ);
    mi_close(model);
    drop(&f);

    f = make((Kind){0});                        /* NaN is a weight like any other */
    for (int i = 0; i < f.n; i++)
        if (strcmp(f.at[i].name, "vocab_ids")) memset(f.data + f.at[i].begin, 0xff, 4);
    write_file(&f), loads(NULL, "NaN weights"), drop(&f);
}

static void test_headers_that_are_right(void)
{
    File f = make((Kind){.masks = 1});
    char *text = header_of(&f), *new;
    size_t n = strlen(text);
    char *padded = malloc(n + 5000);
    for (size_t blanks = 0; blanks < 20; blanks++) {    /* tensors at every address modulo 4 */
        memcpy(padded, text, n), memset(padded + n, ' ', blanks);
        write_with(&f, padded, n + blanks), loads(plain, "%zu spaces after the header", blanks);
    }
    memset(padded, ' ', 3000), memcpy(padded + 3000, text, n);
    write_with(&f, padded, n + 3000), loads(plain, "spaces before the header");
    free(padded);

    for (int shuffle = 0; shuffle < 8; shuffle++) {     /* the entries, not the data */
        for (int i = f.n - 1; i > 0; i--) swap_entries(&f, i, (int)any((uint64_t)i + 1));
        write_file(&f), loads(plain, "header entries in another order (%d)", shuffle);
    }
    char *spaced = malloc(8 * n), *to = spaced;         /* blanks wherever JSON allows them */
    int quoted = 0;
    for (char *c = text; *c; c++) {
        if (*c == '"') quoted = !quoted;
        int mark = !quoted && strchr("{}[]:,", *c);
        if (mark) *to++ = ' ';
        *to++ = *c;
        if (mark) *to++ = '\n', *to++ = '\t', *to++ = '\r', *to++ = ' ';
    }
    write_with(&f, spaced, (size_t)(to - spaced));
    loads(plain, "a header laid out with white space");
    free(spaced);

    static const char *const metadata[] = {
        "{\"format\":\"pt\",\"n_head\":\"2\"}", "{\"n_head\":\"2\",\"n_layer\":\"2\"}",
        "{\"n_head\":\"2\",\"a\":\"\"}", "{\"\":\"\",\"n_head\":\"2\"}",
        "{\"quotes\":\"\\\"}\\\\\",\"n_head\":\"2\",\"x\":\"\\b\\f\\n\\r\\t\\/\"}",
        "{\"\\u00fcn\\u0131\":\"\\ud83d\\ude00 \\u0000 \\uFfFd\",\"n_head\":\"2\"}",
        "{\"n\303\244me\":\"\360\237\230\200 \344\275\240\345\245\275\",\"n_head\":\"2\"}",
        "{\"braces\":\"}]{[,:\",\"n_head\":\"2\"}"
    };
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++) {
        snprintf(f.metadata, sizeof f.metadata, "%s", metadata[i]);
        write_file(&f), loads(plain, "metadata %s", metadata[i]);
    }
    new = replaced(text, "\"wte.weight\"", "\"\\u0077te\\u002Eweight\"");
    write_with(&f, new, strlen(new)), loads(plain, "a tensor's name written with \\u escapes");
    free(new);
    new = replaced(text, "{\"__metadata__\"", "{\"other\":{\"dtype\":\"BF16\",\"shape\":[0,7],"
                   "\"data_offsets\":[0,0]},\"__metadata__\"");
    write_with(&f, new, strlen(new)), loads(plain, "an unknown tensor, of no elements");
    free(new);
    new = replaced(text, "{\"__metadata__\"", "{\"other\":{\"dtype\":\"F8_E4M3\",\"shape\":[],"
                   "\"data_offsets\":[0,0]},\"__metadata__\"");
    write_with(&f, new, strlen(new)), loads(plain, "an unknown tensor of an unknown type");
    free(new), free(text), drop(&f);
}

/* The file ends with a page; after it, no memory: who reads beyond the end crashes (where the
 * system puts the mapping below the guard). Each tensor in turn is the last one; then files of
 * nothing but a header that ends too early. */
static void test_end_of_page(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), hole = (size_t)4 << 20;
    char *guard = mmap(NULL, hole + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guard != MAP_FAILED) munmap(guard, hole);
    int n = PER_LAYER * 2 + 5;
    for (int first = 0; first < n; first++) {
        File f = make((Kind){.first = first});
        char *text = header_of(&f);
        size_t used = strlen(text);
        size_t blanks = page - (8 + used + f.size) % page + hole / 2;
        char *padded = malloc(used + blanks);
        memcpy(padded, text, used), memset(padded + used, ' ', blanks);
        write_with(&f, padded, used + blanks);
        loads(plain, "%s at the end of file and page", f.at[f.n - 1].name);
        free(padded), free(text), drop(&f);
    }
    static const char *const ends[] = {
        "", "{", "{\"", "{\"a", "{\"\\", "{\"\\u", "{\"\\u1", "{\"\\u12", "{\"\\u123", "{\"\\ud83d",
        "{\"\\ud83d\\", "{\"\\ud83d\\u", "{\"\\ud83d\\ude0", "{\"\303", "{\"\360\237", "{\"a\"",
        "{\"a\":",
        "{\"a\":{", "{\"a\":{\"dtype\":\"F", "{\"a\":{\"shape\":[1", "{\"a\":{\"shape\":[1,",
        "{\"a\":{\"x\":tru", "{\"a\":{\"x\":-", "{\"a\":{\"x\":[", "{\"__metadata__\":",
        "{\"__metadata__\":{",
        "{\"__metadata__\":{\"n_head\":\"2"
    };
    File none = {0};
    size_t size = hole - 8;
    char *header = malloc(size);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t length = strlen(ends[i]);
        memset(header, ' ', size), memcpy(header + size - length, ends[i], length);
        write_with(&none, header, size);
        refused("a header that ends with page, file and %s", ends[i]);
    }
    free(header);
    if (guard != MAP_FAILED) munmap(guard + hole, page);
}

/* ---- Files that are cut ---- */

static void test_cut(void)
{
    File f = make((Kind){.masks = 1});
    char *text = header_of(&f);
    size_t size, n = strlen(text);
    unsigned char *all = bytes_of(&f, text, n, n, &size);
    for (size_t keep = 0; keep <= 8; keep++)
        write_bytes(all, keep), refused("a file cut to %zu bytes", keep);
    write_bytes(all, 9), refused("a file cut after {");
    write_bytes(all, 8 + n / 2), refused("a file cut inside the header");
    write_bytes(all, 8 + n - 1), refused("a file cut before the header's last }");
    write_bytes(all, 8 + n), refused("a file cut after the header");
    write_bytes(all, 8 + n + 1), refused("a file cut after the first data byte");
    write_bytes(all, size - 1), refused("a file without its last byte");
    for (int i = 0; i < f.n; i++) {
        write_bytes(all, 8 + n + (f.at[i].begin + f.at[i].end) / 2);
        refused("a file cut inside %s", f.at[i].name);
    }
    free(all), free(text), drop(&f);

    for (int first = 0; first < PER_LAYER * 2 + 5; first++) {   /* each tensor as the last one */
        f = make((Kind){.first = first}), text = header_of(&f), n = strlen(text);
        all = bytes_of(&f, text, n, n, &size);
        const char *last = f.at[f.n - 1].name;
        write_bytes(all, size - 1), refused("%s without its last byte", last);
        write_bytes(all, size - 4), refused("%s without its last element", last);
        free(all), free(text), drop(&f);
    }
    f = make((Kind){.dtype = "F16", .first = 1}), text = header_of(&f), n = strlen(text);
    all = bytes_of(&f, text, n, n, &size);
    write_bytes(all, size - 1), refused("an F16 file without its last byte");
    free(all), free(text), drop(&f);
}

static void test_header_length(void)
{
    File f = make((Kind){0});
    char *text = header_of(&f);
    size_t size, n = strlen(text);
    uint64_t top = (uint64_t)1 << 63;
    size_t total = 8 + n + f.size;
    const struct { const char *name; uint64_t length; } cases[] = {
        {"0", 0}, {"1", 1}, {"one less", n - 1}, {"one more", n + 1}, {"2^63", top},
        {"2^63 + the right one", top + n}, {"2^63 - 1", top - 1}, {"-1", (uint64_t)-1},
        {"-8", (uint64_t)-8}, {"-8 + the right one", (uint64_t)-8 + n}, {"-9", (uint64_t)-9},
        {"2^32 + the right one", ((uint64_t)1 << 32) + n}, {"2^31", (uint64_t)1 << 31},
        {"2^40", (uint64_t)1 << 40}, {"the file's", total}, {"the file's - 7", total - 7},
        {"the file's - 8", total - 8}, {"big-endian", (uint64_t)n << 48},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *all = bytes_of(&f, text, n, cases[i].length, &size);
        write_bytes(all, size), refused("a header length of %s", cases[i].name);
        free(all);
    }
    free(text), drop(&f);
}

/* ---- Headers that are not JSON ---- */

static void header_refused(const char *name, const File *f, const char *header)
{
    write_with(f, header, strlen(header)), refused("%s", name);
}

static void test_not_json(void)
{
    File f = make((Kind){0});
    char *text = header_of(&f), *new;
    size_t n = strlen(text);
    for (size_t keep = 0; keep < n; keep += keep < 300 || keep > n - 300 ? 1 : 7)
        write_with(&f, text, keep), refused("a header that stops after %zu characters", keep);

    const struct { const char *name, *from, *to; } cases[] = {
        {"an empty object", text, "{}"}, {"an array", text, "[]"}, {"a string", text, "\"F32\""},
        {"a number", text, "1"}, {"null", text, "null"}, {"blanks only", text, "      "},
        {"a comma before }", "]}}", "]},}"}, {"a comma after {", "{\"__", "{,\"__"},
        {"two commas", "},\"", "},,\""}, {"no comma", "},\"", "} \""},
        {"no colon", ":", " "}, {"two colons", ":", "::"}, {"= for :", ":", "="},
        {"a name without quotes", "\"wpe.weight\"", "wpe.weight"},
        {"a name with one quote", "\"wpe.weight\"", "\"wpe.weight"},
        {"single quotes", "\"wpe.weight\"", "'wpe.weight'"},
        {"a number as name", "\"wpe.weight\"", "7"}, {"] for }", "]}}", "]]}"},
        {"} for ]", "]}}", "}}}"}, {"an escape \\q", "{\"n_head\"", "{\"\\q\":\"\",\"n_head\""},
        {"an escape \\x41", "{\"n_head\"", "{\"\\x41\":\"\",\"n_head\""},
        {"an escape \\u12", "{\"n_head\"", "{\"\\u12\":\"\",\"n_head\""},
        {"an escape \\u12G4", "{\"n_head\"", "{\"\\u12G4\":\"\",\"n_head\""},
        {"an escape \\u-123", "{\"n_head\"", "{\"\\u-123\":\"\",\"n_head\""},
        {"an escape of the closing quote", "\"wpe.weight\"", "\"wpe.weight\\\""},
        {"a comment", "{\"__", "/* */{\"__"}, {"a word", "{\"n_head\":\"2\"}", "{\"n_head\":two}"},
        {"\\u0000 after a name", "\"wpe.weight\"", "\"wpe.weight\\u0000\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        new = replaced(text, cases[i].from, cases[i].to);
        char name[100];
        snprintf(name, sizeof name, "a header with %s", cases[i].name);
        header_refused(name, &f, new), free(new);
    }
    static const char *const said[][2] = {
        {"{\"\\q\":1}", "malformed escape"}, {"{\"\\x41\":1}", "malformed escape"},
        {"{\"wpe", "unterminated string"}, {"{\"a\":1,", "expected"}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        write_with(&f, said[i][0], strlen(said[i][0])), refused_at(path, said[i][1], said[i][0]);
    static const char *const garbage[] = {"x", "{}", ",", "]", "}", "\"", "0", " x", "null"};
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        new = malloc(n + 10);
        strcpy(new, text), strcat(new, garbage[i]);
        write_with(&f, new, strlen(new)), refused("a header with %s after it", garbage[i]);
        free(new);
    }
    new = malloc(n + 2);
    memcpy(new, text, n + 1), new[n + 1] = 'x';
    write_with(&f, new, n + 2), refused("a header with garbage after a zero byte");
    free(new);

    static const char *const doubtful[][2] = {
        {"a lone surrogate", "{\"\\ud800\":\"\",\"n_head\""},
        {"two high surrogates", "{\"\\ud800\\ud800\":\"\",\"n_head\""},
        {"a control character", "{\"\001\n\":\"\",\"n_head\""},
        {"invalid UTF-8", "{\"\377\300\200\":\"\355\240\200\",\"n_head\""},
    };
    for (size_t i = 0; i < sizeof doubtful / sizeof *doubtful; i++) {
        new = replaced(text, "{\"n_head\"", doubtful[i][1]);
        write_with(&f, new, strlen(new)), either(doubtful[i][0]);
        free(new);
    }
    free(text), drop(&f);
}

/* before, open × n, middle, close × n, after: refused, as nothing in a header nests so deep */
static void nested(const char *name, const char *before, const char *open, const char *middle,
                   const char *close, const char *after, size_t n)
{
    File f = make((Kind){0});
    size_t around = strlen(before) + strlen(middle) + strlen(after);
    char *text = malloc(around + n * (strlen(open) + strlen(close)) + 1), *to = text;
    to = stpcpy(to, before);
    for (size_t i = 0; i < n; i++) to = stpcpy(to, open);
    to = stpcpy(to, middle);
    for (size_t i = 0; i < n; i++) to = stpcpy(to, close);
    stpcpy(to, after);
    header_refused(name, &f, text);
    free(text), drop(&f);
}

static void test_deep_and_long(void)
{
    File f = make((Kind){0});
    char *text = header_of(&f), *rest = text + 1;       /* a right header without its { */
    char *after = malloc(strlen(rest) + 10);
    sprintf(after, ",%s", rest);
    size_t n = 100000;
    nested("100,000 [ and nothing else", "", "[", "", "", "", n);
    nested("1,000,000 { in a row", "", "{\"a\":", "", "", "", 10 * n);
    nested("100,000 closed [", "", "[", "", "]", "", n);
    nested("a tensor that is 1,000,000 nested arrays", "{\"a\":", "[", "", "]", after, 10 * n);
    nested("a tensor that is 1,000,000 nested objects", "{\"a\":", "{\"a\":", "1", "}", after,
           10 * n);
    nested("a shape of 1,000,000 nested arrays",
           "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0],\"shape\":", "[", "", "]}", after,
           10 * n);
    nested("metadata of 1,000,000 nested arrays", "{\"__metadata__\":", "[", "", "]", after,
           10 * n);
    nested("a shape of 100,000 numbers",
           "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4],\"shape\":[1", ",1", "", "]}", after,
           n);
    nested("an endless string", "{\"a", "a", "", "", "", 10 * n);
    nested("an endless string of escapes", "{\"", "\\u0041", "", "", "", n);
    nested("an endless number", "{\"a\":{\"shape\":[", "9", "", "", "", 10 * n);
    free(after), free(text), drop(&f);
}

/* ---- Headers that are JSON and lie ---- */

typedef enum { DTYPE, SHAPE, OFFSETS } Field;

/* One tensor's field becomes this JSON. */
static void bent(const char *name, Field field, const char *json)
{
    File f = make((Kind){0});
    Tensor *t = tensor(&f, name);
    char *where = field == DTYPE ? t->dtype : field == SHAPE ? t->shape : t->offsets;
    size_t room = field == DTYPE ? sizeof t->dtype : sizeof t->shape;
    CHECK(strlen(json) < room, "test_files: no room for %s", json);
    snprintf(where, room, "%s", json);
    write_file(&f);
    refused("%s with %s %s", name,
            field == DTYPE ? "dtype" : field == SHAPE ? "shape" : "offsets", json);
    drop(&f);
}

static void test_dtypes(void)
{
    static const char *const dtypes[] = {"\"I64\"", "\"F64\"", "\"I32\"", "\"U8\"", "\"BOOL\"",
        "\"string\"", "\"\"", "\"f32\"", "\"F32 \"", "\"F\"", "\"F16\"", "\"BF16\"", "7", "null",
        "[\"F32\"]", "{}", "\"F32\\u0000\""};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        bent("wpe.weight", DTYPE, dtypes[i]);
    File all = make((Kind){0});
    for (int i = 0; i < all.n; i++) {
        bent(all.at[i].name, DTYPE, strcmp(all.at[i].name, "vocab_ids") ? "\"F64\"" : "\"F32\"");
        bent(all.at[i].name, DTYPE, "\"I64\"");
        /* I64 and F64 with the bytes that those need */
        File f = make((Kind){0});
        size_t n = (f.at[i].end - f.at[i].begin) * 2;
        snprintf(f.at[i].dtype, sizeof f.at[i].dtype, "\"%s\"", i % 2 ? "I64" : "F64");
        f.data = realloc(f.data, f.size + n), memset(f.data + f.size, 0, n);
        f.at[i].begin = f.size, f.at[i].end = f.size += n, place(&f.at[i], 0);
        write_file(&f), refused("%s as %s, with as many bytes", f.at[i].name, f.at[i].dtype);
        drop(&f);
    }
    drop(&all);
}

static void test_offsets(void)
{
    File all = make((Kind){0});
    size_t first = all.at[0].end, size = all.size;
    char json[120];
    for (int i = 0; i < all.n; i++) {
        const Tensor *t = &all.at[i];
        unsigned long long b = t->begin, e = t->end, n = e - b, max = ~0ull;
        unsigned long long cases[][2] = {
            {b - 4, e - 4}, {b - 1, e - 1},                 /* over the one before, or negative */
            {e, b}, {b, b}, {b, e - 1}, {b, e + 1}, {b, e - 4}, {b, e + 4}, {0, e + (b == 0)},
            {b + size, e + size}, {size, size + n}, {size - n + 1, size + 1},
            {size - 1, size - 1 + n},
            {max - n + 1, 0}, {1ull << 63, (1ull << 63) + n}, {b, 1ull << 63}, {b, max},
            {max, max}, {max - n, max}, {b + (1ull << 32), e + (1ull << 32)},
            {b + (1ull << 62), e + (1ull << 62)}, {b + (1ull << 63), e + (1ull << 63)},
        };
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            if (cases[k][0] == b && cases[k][1] == e) continue;
            snprintf(json, sizeof json, "[%llu,%llu]", cases[k][0], cases[k][1]);
            bent(t->name, OFFSETS, json);
        }
    }
    for (int i = 0; i < all.n; i++)         /* the same bytes twice */
        for (int j = 0; j < i; j++)
            if (!strcmp(all.at[i].shape, all.at[j].shape))
                bent(all.at[i].name, OFFSETS, all.at[j].offsets);

    /* the first tensor is at [0,64] */
    CHECK(first == 64, "test_files: the first tensor has %zu bytes", first);
    static const char *const offsets[] = {
        "[-4,60]", "[-64,0]", "[0,-64]", "[-0,64]", "[0,64.0]", "[0,64.5]", "[0,1e999]", "[0,1.5]",
        "[0,6.4e1]", "[0,64e0]", "[0,-1e999]", "[0,0x40]", "[00,64]", "[0,064]", "[+0,64]",
        "[0,+64]", "[0,NaN]", "[0,Infinity]", "[0,\\u0036\\u0034]", "[\"0\",\"64\"]", "[0,\"64\"]",
        "[0]", "[64]", "[]",
        "[0,64,64]", "[0,64,]", "[,0,64]", "[0 64]", "[[0,64]]", "[0,[64]]", "0", "64", "null",
        "\"0,64\"", "{\"0\":64}", "[null,64]", "[0,true]", "[18446744073709551616,64]",
        "[0,18446744073709551680]", "[18446744073709551616,18446744073709551680]",
        "[0,340282366920938463463374607431768211520]", "[4294967296,4294967360]", "[0,4294967360]",
        "[0,99999999999999999999999999999999999999999999]", "[0,6 4]", "[0,64"
    };
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
        bent(all.at[0].name, OFFSETS, offsets[i]);
    drop(&all);
}

static void test_shapes(void)
{
    static const struct { const char *tensor, *shape; } cases[] = {
        {"h.0.attn.c_attn.weight", "[16,49]"}, {"h.0.attn.c_attn.weight", "[48,16]"},
        {"h.1.attn.c_attn.weight", "[16,16,3]"}, {"h.1.attn.c_attn.weight", "[768]"},
        {"h.0.attn.c_attn.weight", "[17,48]"}, {"h.0.attn.c_attn.bias", "[49]"},
        {"h.0.attn.c_attn.bias", "[16,3]"}, {"h.0.attn.c_attn.bias", "[1,48]"},
        {"h.1.mlp.c_fc.weight", "[64,16]"}, {"h.1.mlp.c_fc.weight", "[32,32]"},
        {"h.1.mlp.c_proj.weight", "[16,64]"}, {"h.0.ln_1.weight", "[16,1]"},
        {"h.0.ln_1.weight", "16"}, {"h.0.ln_1.weight", "[]"}, {"h.0.ln_1.weight", "[4,4]"},
        {"h.0.ln_1.weight", "\"[16]\""}, {"h.0.ln_1.weight", "null"}, {"h.0.ln_1.weight", "[16.0]"},
        {"h.0.ln_1.weight", "[1.6e1]"}, {"h.0.ln_1.weight", "[-16]"},
        {"h.0.ln_1.weight", "[\"16\"]"},
        {"h.0.ln_1.weight", "[016]"}, {"h.0.ln_1.weight", "[16,]"}, {"h.0.ln_1.weight", "[[16]]"},
        {"h.0.ln_1.weight", "[18446744073709551632]"}, {"h.0.ln_1.weight", "[4294967312]"},
        {"h.0.ln_1.weight", "[4611686018427387920]"},               /* 2^62 + 16: 4 n overflows */
        {"h.0.ln_1.weight", "[1e999]"}, {"h.0.ln_1.weight", "[0]"},
        {"wpe.weight", "[16,8]"}, {"wpe.weight", "[9,16]"}, {"wpe.weight", "[7,16]"},
        {"wpe.weight", "[-8,-16]"}, {"wpe.weight", "[0,16]"}, {"wpe.weight", "[128]"},
        {"wpe.weight", "[288230376151711752,16]"},                  /* 2^58 + 8, bytes overflow */
        {"wpe.weight", "[4294967304,16]"}, {"wpe.weight", "[4294967296,4294967296]"},
        {"wpe.weight", "[9223372036854775808,2]"}, {"wpe.weight", "[2,2,2,2,2,2,2]"},
        {"wte.weight", "[16,260]"}, {"wte.weight", "[520,8]"}, {"wte.weight", "[4160]"},
        {"wte.weight", "[261,16]"}, {"wte.weight", "[259,16]"}, {"wte.weight", "[260,-16]"},
        {"wte.weight", "[288230376151712004,16]"}, {"wte.weight", "[0,16]"},
        {"wte.weight", "[260,0]"},
        {"wte.weight", "[4294967556,16]"},
        {"wte.weight", "[18446744073709551615,18446744073709551615]"},
        {"ln_f.weight", "[8,2]"}, {"ln_f.bias", "[4294967296,4294967296,4294967296,4294967296]"},
        {"vocab_ids", "[260,1]"}, {"vocab_ids", "[261]"}, {"vocab_ids", "[-260]"}
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bent(cases[i].tensor, SHAPE, cases[i].shape);

    /* Shapes that match their bytes but not the model. */
    static const struct { const char *tensor; int rank; size_t shape[3]; } others[] = {
        {"wpe.weight", 2, {8, 17}}, {"wpe.weight", 2, {0, 16}}, {"wte.weight", 2, {0, 16}},
        {"wte.weight", 2, {260, 15}}, {"wte.weight", 2, {260, 0}}, {"wte.weight", 3, {260, 16, 1}},
        {"h.0.attn.c_attn.weight", 2, {16, 49}}, {"h.0.attn.c_attn.weight", 2, {17, 48}},
        {"h.0.attn.c_proj.weight", 2, {17, 16}}, {"h.1.mlp.c_fc.weight", 2, {16, 65}},
        {"h.1.mlp.c_fc.weight", 2, {16, 32}}, {"h.1.mlp.c_proj.weight", 2, {65, 16}},
        {"h.1.mlp.c_proj.bias", 1, {17, 0}}, {"h.0.ln_2.weight", 1, {15, 0}},
        {"h.1.ln_1.bias", 1, {0, 0}}, {"ln_f.bias", 1, {32, 0}},
        {"h.1.attn.c_attn.bias", 1, {16, 0}},
        {"vocab_ids", 1, {259, 0}}, {"vocab_ids", 1, {261, 0}}, {"vocab_ids", 1, {0, 0}},
        {"lm_head.weight", 2, {261, 16}}, {"lm_head.weight", 2, {16, 260}},
        {"lm_head.weight", 1, {4160, 0}}, {"lm_head.weight", 2, {260, 17}}
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        File f = make((Kind){.lm_head = 1});
        Tensor *old = tensor(&f, others[i].tensor);
        char dtype[8] = "F32";
        if (!strcmp(old->name, "vocab_ids")) strcpy(dtype, "I32");
        strcpy(old->name, "unused");
        const Tensor *t = add(&f, others[i].tensor, dtype, others[i].rank, others[i].shape);
        int n = dtype[0] == 'I' ? (int)others[i].shape[0] : 0;
        for (int k = 0; k < n; k++) put_id(&f, k, k < n - 1 ? k : 50256);
        write_file(&f), refused("%s of shape %s and that size", t->name, t->shape);
        drop(&f);
    }
}

static void test_names(void)
{
    File f = make((Kind){0});                           /* V 0, which no other tensor contradicts */
    strcpy(tensor(&f, "wte.weight")->name, "unused");
    strcpy(tensor(&f, "vocab_ids")->name, "unused too");
    add(&f, "wte.weight", "F32", 2, (size_t[]){0, 16});
    write_file(&f), refused("no tokens at all"), drop(&f);

    File all = make((Kind){0});
    for (int i = 0; i < all.n; i++) {
        const char *name = all.at[i].name;
        if (!strcmp(name, "vocab_ids")) continue;
        f = make((Kind){0});
        char case_name[200];
        strcpy(f.at[i].name, "something.else"), write_file(&f);
        snprintf(case_name, sizeof case_name, "a file without %s", name);
        refused_at(path, name, case_name);
        strcpy(f.at[i].name, name);                     /* both names are longer or shorter */
        strcat(f.at[i].name, "s"), write_file(&f), refused("%s instead of %s", f.at[i].name, name);
        f.at[i].name[strlen(name) - 1] = 0, write_file(&f);
        refused("%s instead of %s", f.at[i].name, name);
        strcpy(f.at[i].name, name);
        Tensor *twin = add(&f, name, "F32", 1, (size_t[]){(f.at[i].end - f.at[i].begin) / 4});
        strcpy(twin->shape, f.at[i].shape), write_file(&f);
        refused("%s twice, each with bytes of its own", name);
        *twin = f.at[i], write_file(&f), refused("%s twice, the same bytes", name);
        drop(&f);
    }
    drop(&all);

    f = make((Kind){0});
    add(&f, "vocab_ids", "I32", 1, (size_t[]){N_VOCAB});
    write_file(&f), refused("vocab_ids twice"), drop(&f);
    f = make((Kind){.masks = 1});
    strcpy(tensor(&f, "h.1.attn.bias")->name, "h.0.attn.bias");
    write_file(&f), either("an unused buffer twice"), drop(&f);

    f = make((Kind){.n_layer = 3});                     /* h.0 and h.2 */
    for (int i = 0; i < f.n; i++)
        if (!strncmp(f.at[i].name, "h.1.", 4)) f.at[i].name[0] = 'x';
    write_file(&f), refused("layers 0 and 2 without 1"), drop(&f);
    static const char *const numbers[] = {"9", "1000000000", "2147483648", "4294967297",
        "18446744073709551617", "99999999999999999999999999"};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        f = make((Kind){0});                            /* h.0 and h.9 */
        for (int i = 0; i < f.n; i++)
            if (!strncmp(f.at[i].name, "h.1.", 4))
                snprintf(f.at[i].name, sizeof f.at[i].name, "h.%s.%s", numbers[k],
                         per_layer[i % PER_LAYER]);
        write_file(&f), refused("layers 0 and %s", numbers[k]), drop(&f);
    }
    f = make((Kind){.n_layer = 1});
    for (int i = 0; i < f.n; i++)
        if (!strncmp(f.at[i].name, "h.0.", 4)) f.at[i].name[2] = '1';
    write_file(&f), refused("layer 1 without 0"), drop(&f);
    f = make((Kind){.n_layer = 1});
    for (int i = 0; i < f.n; i++)
        if (!strncmp(f.at[i].name, "h.0.", 4)) f.at[i].name[0] = 'x';
    write_file(&f), refused("no layers at all"), drop(&f);

    f = make((Kind){0});
    add(&f, "transformer.wte.weight", "F32", 2, (size_t[]){N_VOCAB, 16});
    write_file(&f), either("wte.weight and transformer.wte.weight"), drop(&f);
    f = make((Kind){0});
    add(&f, "h.-1.ln_1.weight", "F32", 1, (size_t[]){16});
    add(&f, "h.01.ln_1.bias", "F32", 1, (size_t[]){16});
    add(&f, "h..", "F32", 1, (size_t[]){16});
    add(&f, "", "F32", 1, (size_t[]){16});
    add(&f, "h.", "F32", 1, (size_t[]){16});
    add(&f, "h.2", "F32", 1, (size_t[]){16});
    write_file(&f), either("names like h.-1.ln_1.weight"), drop(&f);
}

static void test_entries(void)
{
    File f = make((Kind){0});
    char *text = header_of(&f);
    const char *entry =
        "\"h.0.ln_1.weight\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}";
    static const char *const entries[] = {
        "{}", "[]", "1", "null", "true", "\"F32\"", "{\"dtype\":\"F32\",\"shape\":[16]}",
        "{\"dtype\":\"F32\",\"data_offsets\":[0,64]}", "{\"shape\":[16],\"data_offsets\":[0,64]}",
        "{\"dtype\":\"F32\",\"shape\":[16],\"offsets\":[0,64]}",
        "{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}",
        "{\"dtype\":\"I8\",\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}",
        "{\"dtype\":\"F32\",\"shape\":[4],\"shape\":[16],\"data_offsets\":[0,64]}",
        "{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64],\"data_offsets\":[0,64]}",
        "{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64],}",
        "{\"dtype\":\"F32\" \"shape\":[16],\"data_offsets\":[0,64]}",
        "[{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}]"
    };
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        char with[300], name[300];
        snprintf(with, sizeof with, "\"h.0.ln_1.weight\":%s", entries[i]);
        snprintf(name, sizeof name, "a tensor that is %s", entries[i]);
        char *new = replaced(text, entry, with);
        header_refused(name, &f, new), free(new);
    }
    char *new = replaced(text, entry, "\"h.0.ln_1.weight\":{\"data_offsets\":[0,64],\"shape\":[16],"
                         "\"dtype\":\"F32\"}");
    write_with(&f, new, strlen(new)), loads(plain, "a tensor's keys in another order"), free(new);
    new = replaced(text, "\"data_offsets\":[0,64]",
                   "\"data_offsets\":[0,64],\"more\":[{\"x\":null}]");
    write_with(&f, new, strlen(new)), either("an unknown key in a tensor"), free(new);

    /* What a message quotes must not break its line or speak to the terminal. */
    new = replaced(text, "\"wpe.weight\":{\"dtype\":\"F32\"",
                   "\"a\\nb\\u001b[31m\":{\"dtype\":\"\\nX\\r\\u001b\"");
    header_refused("control characters in a name and a dtype", &f, new), free(new);
    new = replaced(text, "\"wpe.weight\"", "\"wte\\n.weight\\u001b[2J\"");
    header_refused("control characters in a name", &f, new), free(new);
    new = replaced(text, "\"n_head\":\"2\"", "\"n_head\":\"2\\n\\u001b[2J\"");
    header_refused("control characters in n_head", &f, new), free(new);
    free(text), drop(&f);

    f = make((Kind){0});                    /* a name longer than any message's buffer */
    text = header_of(&f);
    char *name = malloc(100000), *tail = malloc(100010);
    memset(name, 'n', 99999), name[99999] = 0;
    sprintf(tail, "\"%s\"", name);
    new = replaced(text, "\"wpe.weight\"", tail);
    header_refused("a name of 99,999 characters", &f, new), free(new);
    sprintf(tail, "\"%s\"", name);
    char *twice = replaced(text, "\"wpe.weight\"", tail);
    new = replaced(twice, "\"wte.weight\"", tail);
    header_refused("a name of 99,999 characters twice", &f, new);
    free(new), free(twice), free(tail), free(name), free(text), drop(&f);
}

/* ---- Metadata, the number of heads, the vocabulary ---- */

static void test_metadata(void)
{
    static const char *const metadata[] = {
        "{\"n_head\":2}", "{\"n_head\":[\"2\"]}", "{\"n_head\":null}", "{\"n_head\":{\"n\":\"2\"}}",
        "{\"format\":1,\"n_head\":\"2\"}", "{\"format\":null,\"n_head\":\"2\"}", "[]",
        "\"n_head\"", "1", "null", "{\"n_head\":\"2\",\"n_head\":\"2\"}",
        "{\"n_head\":\"2\",\"n_head\":\"4\"}",
        "{\"n_head\":\"2\"},\"__metadata__\":{\"n_head\":\"2\"}",
        "{\"n_head\":\"2\"},\"__metadata__\":{}",
        "{\"n_head\":\"0\"}", "{\"n_head\":\"-2\"}", "{\"n_head\":\"3\"}", "{\"n_head\":\"4x\"}",
        "{\"n_head\":\"x\"}", "{\"n_head\":\"\"}", "{\"n_head\":\"2.0\"}", "{\"n_head\":\"2 4\"}",
        "{\"n_head\":\"0x2\"}", "{\"n_head\":\"1e0\"}", "{\"n_head\":\"32\"}",
        "{\"n_head\":\"17\"}",
        "{\"n_head\":\"4294967298\"}", "{\"n_head\":\"18446744073709551618\"}",
        "{\"n_head\":\"99999999999999999999999\"}", "{\"n_head\":\"-4294967294\"}",
        "{\"n_head\":\"2147483648\"}", "{\"n_head\":\"2\\u0000\"}", "{\"n_head\":\"-1\"}"
    };
    File f = make((Kind){0});
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++) {
        snprintf(f.metadata, sizeof f.metadata, "%s", metadata[i]);
        write_file(&f), refused("metadata %s", metadata[i]);
    }
    static const int heads[] = {1, 4, 8, 16};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        snprintf(f.metadata, sizeof f.metadata, "{\"n_head\":\"%d\"}", heads[i]);
        write_file(&f), loads(NULL, "n_head %d", heads[i]);
        MiModel *model = mi_open(path);
        MiShape shape = model ? mi_shape(model) : (MiShape){0};
        CHECK(shape.n_head == heads[i] && shape.d_head == 16 / heads[i],
              "mi_shape: n_head in the metadata is %d", heads[i]);
        mi_close(model);
    }
    drop(&f);
    f = make((Kind){.no_metadata = 1});
    write_file(&f), refused("no n_head and D/64 = 0"), drop(&f);
    f = make((Kind){.no_metadata = 1, .d_model = 128});     /* 2 heads of 64, or 8 of 16? */
    write_file(&f), refused_at(path, "--n-head", "no n_head and D = 128"), drop(&f);
    f = make((Kind){.no_metadata = 1, .d_model = 768, .n_layer = 1});
    write_file(&f), loads(NULL, "no n_head and D = 768");
    MiModel *model = mi_open(path);
    CHECK(model && mi_shape(model).n_head == 12, "mi_shape: OpenAI's smallest has 12 heads");
    mi_close(model);
    snprintf(f.metadata, sizeof f.metadata, "{\"n_head\":\"0\"}");
    write_file(&f), refused("n_head 0 and D = 768"), drop(&f);
}

static void write_text(const char *name, const char *text, size_t n)
{
    char old[sizeof path];
    strcpy(old, path);
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    write_bytes(text, n);
    strcpy(path, old);
}

/* n_head from config.json beside the file. */
static void test_config(void)
{
    static const char published[] =
        "\n{\n  \"architectures\": [\n    \"GPT2LMHeadModel\"\n  ],\n  \"n_ctx\": 8,\n"
        "  \"n_head\": 2,\n  \"task_specific_params\": {\"text\": {\"do_sample\": true}},\n"
        "  \"vocab_size\": 260\n}\n";
    static const char *const good[] = {
        "{\"n_head\": 2}", "{\"n_layer\": 2, \"n_head\": 2, \"x\": 1e-05}\n", published,
        "{\"a\":{\"n_head\":4,\"b\":[1,[2,{}]]},\"c\":\"gelu\",\"n_head\":2,\"t\":true,\"n\":null}"
    };
    static const char *const bad[] = {"{\"n_head\": 0}", "{\"n_head\": -2}", "{\"n_head\": 3}",
        "{\"n_head\": \"2x\"}", "{\"n_head\": 2.5}", "{\"n_head\": 1e999}", "{\"n_head\": null}",
        "{\"n_head\": [2]}", "{\"n_head\": 4294967298}", "{\"n_head\": 18446744073709551618}",
        "{\"n_layer\": 2}", "{\"a\": {\"n_head\": 2}}", "{\"a\": \"\\\"n_head\\\": 2\"}", "{}", "",
        "[\"n_head\", 2]", "{\"n_head\"", "{\"n_head\":", "{\"n_head\": }"};
    char old[sizeof path];
    strcpy(old, path);
    snprintf(path, sizeof path, "%s/beside", scratch);
    CHECK(mkdir(path, 0777) == 0, "test_files: cannot make %s", path);
    snprintf(path, sizeof path, "%s/beside/hostile.safetensors", scratch);
    File f = make((Kind){.no_metadata = 1});
    write_file(&f);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        write_text("beside/config.json", good[i], strlen(good[i]));
        loads(plain, "n_head in config.json %s", good[i]);
    }
    write_text("beside/config.json", "{\"n_head\": 1}", 13);
    loads(NULL, "n_head in config.json is 1");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text("beside/config.json", bad[i], strlen(bad[i]));
        doing("config.json %s", bad[i]);
        MiModel *model = mi_open(path);
        const char *wrong = model ? "is accepted" : complaint(NULL);
        if (!wrong && !strstr(mi_error(), "config.json") && !strstr(mi_error(), base_name(path)))
            wrong = "the message names no file";
        CHECK(!wrong, "config.json: %s: %s (%s)", bad[i], wrong, model ? "no error" : mi_error());
        mi_close(model);
    }
    size_t n = 1000000;                     /* what is deep or long may be refused, no more */
    char *deep = malloc(n);
    const char *wrong = NULL;
    doing("a deep config.json");
    memset(deep, '[', n), write_text("beside/config.json", deep, n), survives(&wrong);
    memcpy(deep, "{\"a\":", 5), write_text("beside/config.json", deep, n), survives(&wrong);
    doing("a config.json that is one string");
    memset(deep, 'a', n), memcpy(deep, "{\"", 2);
    write_text("beside/config.json", deep, n), survives(&wrong);
    doing("a config.json of zero bytes");
    memset(deep, 0, n), write_text("beside/config.json", deep, n), survives(&wrong);
    doing("a corrupted config.json");
    size_t length = strlen(published);
    for (int i = 0; i < 300; i++) {
        memcpy(deep, published, length);
        deep[any(length)] = (char)any(256);
        deep[any(length)] = "{}[]\":,\\0-e"[any(11)];
        write_text("beside/config.json", deep, i % 3 ? length : (size_t)any(length));
        survives(&wrong);
    }
    free(deep);
    snprintf(path, sizeof path, "%s/beside/config.json", scratch);
    remove(path);
    CHECK(mkdir(path, 0777) == 0, "test_files: cannot make %s", path);
    snprintf(path, sizeof path, "%s/beside/hostile.safetensors", scratch);
    doing("a config.json that is a directory");
    survives(&wrong);
    CHECK(!wrong, "config.json: %s", wrong);
    snprintf(f.metadata, sizeof f.metadata, "{\"n_head\":\"2\"}");
    write_file(&f), loads(plain, "n_head in the metadata, config.json a directory");
    snprintf(path, sizeof path, "%s/beside/config.json", scratch), remove(path);
    snprintf(path, sizeof path, "%s/beside/hostile.safetensors", scratch);
    write_text("beside/config.json", "{\"n_head\": 4}", 13);
    loads(plain, "n_head in the metadata, another in config.json");
    drop(&f);
    strcpy(path, old);
}

static void test_vocabulary(void)
{
    enum { FIRST_FOR_MERGES = 8 };
    static const struct { const char *name; struct { int row, id; } put[3]; int n; } cases[] = {
        {"not ascending (two swapped)", {{20, 21}, {21, 20}}, 2},
        {"with one id twice", {{20, 19}}, 1},
        {"with 256 twice", {{257, 256}}, 1}, {"with id 50257", {{259, 50257}}, 1},
        {"with id 2^31 - 1", {{259, 2147483647}}, 1}, {"with id -1", {{0, -1}}, 1},
        {"with id -2^31", {{0, -2147483647 - 1}}, 1}, {"descending at the end", {{259, 100}}, 1},
        {"without byte 255", {{255, 256}, {256, 257}, {257, 258}}, 3},
        {"without 50256", {{259, 263}}, 1},
        {"not closed under merges: the without he", {{257, 257}}, 1},
        {"not closed under merges: the without t", {{256, 257}}, 1},
        {"not closed under merges: a long word", {{258, 47182}}, 1}
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        File f = make((Kind){0});
        for (int k = 0; k < cases[i].n; k++) put_id(&f, cases[i].put[k].row, cases[i].put[k].id);
        write_file(&f);
        if (i < FIRST_FOR_MERGES) refused("vocab_ids %s", cases[i].name);
        else vocabulary_refused(cases[i].name);
        drop(&f);
    }
    File f = make((Kind){0});
    for (int i = 0; i < N_VOCAB; i++) put_id(&f, N_VOCAB - 1 - i, i);
    write_file(&f), refused("vocab_ids that descend"), drop(&f);
    f = make((Kind){0});                    /* 257 = " a": the bytes and three merges of bytes */
    put_id(&f, 256, 256), put_id(&f, 257, 257), put_id(&f, 258, 258);
    write_file(&f);
    loads(plain, "another vocabulary closed under merges");
    MiModel *model = mi_open(path);
    MiTokenizer *words = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
    CHECK(words, "vocab_ids: refuses another vocabulary closed under merges (%s)", mi_error());
    mi_tokenizer_close(words), mi_close(model), drop(&f);
    f = make((Kind){0});
    strcpy(tensor(&f, "vocab_ids")->name, "other_ids");
    write_file(&f);
    const char *wrong = NULL;
    doing("260 tokens and no vocab_ids");
    model = mi_open(path);
    words = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
    if (!words) wrong = complaint(NULL);
    CHECK(!wrong, "vocab_ids: without them: %s", wrong);
    mi_tokenizer_close(words), mi_close(model), drop(&f);
}

/* ---- Paths that are no files ---- */

static void test_paths(void)
{
    char where[2000];
    snprintf(where, sizeof where, "%s/is-not-there.safetensors", scratch);
    refused_at(where, NULL, "a missing file");
    snprintf(where, sizeof where, "%s/neither/is-not-there.safetensors", scratch);
    refused_at(where, NULL, "a missing directory");
    refused_at(scratch, NULL, "a directory");
    refused_at("/", NULL, "the root directory");
    refused_at("", NULL, "an empty path");
    if (access("/dev/null", F_OK) == 0) refused_at("/dev/null", NULL, "/dev/null");
    if (access("/dev/zero", F_OK) == 0) refused_at("/dev/zero", NULL, "/dev/zero");
    File f = make((Kind){0});
    write_file(&f);
    snprintf(where, sizeof where, "%s/is-not-there.safetensors", path);
    refused_at(where, NULL, "a file as directory");
    if (geteuid() != 0) {                   /* root may read everything */
        chmod(path, 0);
        refused("a file that may not be read");
        chmod(path, 0644);
    }
    snprintf(where, sizeof where, "%s/pipe", scratch);
    if (mkfifo(where, 0644) == 0) {
        refused_at(where, NULL, "a pipe that no one writes to");
        int keep = open(where, O_RDWR);
        if (keep >= 0 && write(keep, "\2\0\0\0\0\0\0\0{}", 10) == 10)
            refused_at(where, NULL, "a pipe");
        close(keep);
    }
    char *longest = malloc(20001);
    memset(longest, 'p', 20000), longest[20000] = 0;
    doing("a path of 20,000 characters");
    MiModel *model = mi_open(longest);
    CHECK(!model && !complaint(NULL), "mi_open: a path of 20,000 characters: %s",
          model ? "is accepted" : complaint(NULL));
    mi_close(model);
    free(longest);
    snprintf(where, sizeof where, "%s/line\nfeed", scratch);
    doing("a path with a line feed");
    model = mi_open(where);
    CHECK(!model && !complaint(NULL), "mi_open: a path with a line feed: %s",
          model ? "is accepted" : complaint(NULL));
    mi_close(model);
    snprintf(where, sizeof where, "%s/link", scratch);
    char old[sizeof path];
    strcpy(old, path);
    if (symlink(path, where) == 0) strcpy(path, where), loads(plain, "a symbolic link");
    strcpy(path, old);
    drop(&f);
}

/* ---- What people have instead: told by name, with what to do ---- */

static void told(const char *name, const char *bytes, size_t n, const char *what, const char *how)
{
    write_bytes(bytes, n);
    refused_at(path, what, name);
    refused_at(path, how, name);
}

static void test_other_formats(void)
{
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707\n"
        "size 548105171\n";
    static const char list[] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"wte.weight\":"
        "\"model-00001-of-00002.safetensors\"}}\n";
    static const char zip[] = "PK\3\4\0\0\10\10\0\0\0\0\0\0\0\0archive/data.pkl";
    static const char pickle[] = "\200\2\212\12l\374\234F\371 j\250P\31.\200\2M\351\3.";
    static const char html[] = "<!doctype html>\n<html class=\"\"><head>";
    static const char config[] = "{\n  \"n_head\": 12\n}";
    told("a Git LFS pointer", lfs, sizeof lfs - 1, "Git LFS", "git lfs pull");
    told("model.safetensors.index.json", list, sizeof list - 1, "several files", "save_pretrained");
    told("pytorch_model.bin", zip, sizeof zip - 1, "PyTorch", "save_pretrained");
    told("an old pytorch_model.bin", pickle, sizeof pickle - 1, "PyTorch", "save_pretrained");
    told("tf_model.h5", "\211HDF\r\n\32\n\0\0\0\0\0", 13, "TensorFlow", "save_pretrained");
    told("a GGUF file", "GGUF\3\0\0\0\224\0\0\0", 12, "GGUF", ".safetensors");
    told("a web page", html, sizeof html - 1, "web page", "resolve");
    told("config.json", config, sizeof config - 1, "JSON", ".safetensors");
    told("any bytes", "\1\2\3\4\5\6\7\10 and so on", 17, "not a safetensors file", "file");
    CHECK(!strstr(mi_error(), "truncated"), "bytes that are no header's length: %s", mi_error());
}

/* A folder stands for its model.safetensors. */
static void test_folders(void)
{
    char folder[1100], inside[1200], old[sizeof path];
    strcpy(old, path);
    snprintf(folder, sizeof folder, "%s/folder", scratch);
    CHECK(mkdir(folder, 0777) == 0, "test_files: cannot make %s", folder);
    refused_at(folder, "model.safetensors", "a folder of nothing");
    snprintf(inside, sizeof inside, "%s/pytorch_model.bin", folder);
    strcpy(path, inside), write_bytes("PK", 2);
    refused_at(folder, "save_pretrained", "a folder with pytorch_model.bin");
    refused_at(folder, "pytorch_model.bin", "a folder with pytorch_model.bin");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    write_bytes("{}", 2);
    refused_at(folder, "several files", "a folder with an index");
    refused_at(folder, "save_pretrained", "a folder with an index");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    File f = make((Kind){.no_metadata = 1});
    write_file(&f);
    refused_at(folder, "--n-head", "a folder whose model does not say its heads");
    snprintf(path, sizeof path, "%s/config.json", folder);
    write_bytes("{\"n_head\":2}", 12);
    strcpy(path, folder);
    loads(plain, "a folder with a model and its config.json");
    strcat(path, "/");
    loads(plain, "the same with a / after it");
    drop(&f);
    strcpy(path, old);
}

/* nanoGPT saves nn.Linear's weights, [out,in], and often no biases. */
static void test_layouts(void)
{
    static const char *const transposed[] = {"attn.c_attn.weight", "attn.c_proj.weight",
                                             "mlp.c_fc.weight", "mlp.c_proj.weight"};
    for (int biases = 0; biases < 2; biases++) {
        File f = make((Kind){.prefix = "transformer.", .lm_head = 1});
        for (int i = 0; i < f.n; i++) {
            Tensor *t = &f.at[i];
            for (int k = 0; k < 4; k++) {
                size_t a, b;
                if (strstr(t->name, transposed[k]) && sscanf(t->shape, "[%zu,%zu]", &a, &b) == 2)
                    name_shape(t, 2, (size_t[]){b, a});
            }
            if (!biases && strstr(t->name, ".bias")) snprintf(t->name, sizeof t->name, "x%d", i);
        }
        write_file(&f);
        refused_at(path, "nanoGPT", biases ? "nanoGPT's layout" : "nanoGPT's without biases");
        refused_at(path, "transpose", biases ? "nanoGPT's layout" : "nanoGPT's without biases");
        if (!biases) refused_at(path, "zeros", "nanoGPT's without biases");
        drop(&f);
    }
    File f = make((Kind){0});
    for (int i = 0; i < f.n; i++)
        if (strstr(f.at[i].name, ".bias")) snprintf(f.at[i].name, sizeof f.at[i].name, "x%d", i);
    write_file(&f), refused_at(path, "without biases", "a model without biases");
    refused_at(path, "zeros", "a model without biases"), drop(&f);

    f = make((Kind){.prefix = "_orig_mod.transformer."});
    write_file(&f);
    refused_at(path, "_orig_mod.transformer.wte.weight", "the names of a compiled model");
    drop(&f);
}

/* A header of gigabytes is refused before it is read; safetensors itself reads up to 100 MB. */
static void test_large_header(void)
{
    static const uint64_t lengths[] = {100000001, 150000000, 3000000000u};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char start[9] = {0};
        for (int k = 0; k < 8; k++) start[k] = lengths[i] >> 8 * k & 255;
        start[8] = '{';
        write_bytes(start, 9);
        if (truncate(path, (off_t)lengths[i] + 1000)) continue;     /* no large files here */
        char name[60];
        snprintf(name, sizeof name, "a header of %llu bytes", (unsigned long long)lengths[i]);
        refused_at(path, "100 MB", name);
    }
    remove(path);
}

/* ---- Corruption at random (the same each time) ---- */

static void corrupt(unsigned char *bytes, size_t from, size_t to)
{
    static const char marks[] = "{}[]\":,\\0123456789-. eFIBu";
    int flips = any(3) ? 1 : 2 + (int)any(6);
    for (int i = 0; i < flips; i++) {
        size_t at = from + any(to - from);
        switch (any(4)) {
        case 0: bytes[at] ^= 1u << any(8); break;
        case 1: bytes[at] = (unsigned char)any(256); break;
        case 2: bytes[at] = (unsigned char)marks[any(sizeof marks - 1)]; break;
        default:                            /* a stretch from elsewhere */
            for (size_t n = 1 + any(20), k = from + any(to - from); n && at < to && k < to; n--)
                bytes[at++] = bytes[k++];
        }
    }
}

static void test_corruption(void)
{
    enum { HEADERS = 3000, CUTS = 400, VOCABULARIES = 150 };
    const char *wrong = NULL;
    int opened = 0, first_wrong = -1;
    random_state = 88172645463325252u;
    File f = make((Kind){.masks = 1, .lm_head = 1});
    snprintf(f.metadata, sizeof f.metadata, "%s",
             "{\"format\":\"pt\",\"n_head\":\"2\",\"n\\u00e4me\":\"\\\"\"}");
    char *text = header_of(&f);
    size_t n = strlen(text), size;
    unsigned char *all = bytes_of(&f, text, n, n, &size), *copy = malloc(size);

    for (int i = 0; i < HEADERS; i++) {
        memcpy(copy, all, size);
        corrupt(copy, i % 16 ? 8 : 0, i % 16 ? 8 + n : 8);      /* now and then the length */
        doing("corrupted header %d", i);
        write_bytes(copy, size);
        opened += survives(&wrong);
        if (wrong && first_wrong < 0) first_wrong = i;
    }
    CHECK(!wrong, "mi_open: corrupted header %d: %s", first_wrong, wrong);
    CHECK(opened > 0 && opened < HEADERS / 2, "mi_open: %d of %d corrupted headers are accepted",
          opened, HEADERS);

    int cuts_opened = 0;
    wrong = NULL, first_wrong = -1;
    for (int i = 0; i < CUTS; i++) {
        size_t keep = any(size);
        doing("a file cut to %zu of %zu bytes", keep, size);
        write_bytes(all, keep);
        cuts_opened += survives(&wrong);
        if (wrong && first_wrong < 0) first_wrong = (int)keep;
    }
    CHECK(!wrong, "mi_open: a file cut to %d bytes: %s", first_wrong, wrong);
    CHECK(!cuts_opened, "mi_open: %d of %d cut files are accepted", cuts_opened, CUTS);

    const Tensor *ids = tensor(&f, "vocab_ids");
    for (int i = 0; i < VOCABULARIES; i++) {
        memcpy(copy, all, size);
        corrupt(copy, 8 + n + ids->begin, 8 + n + ids->end);
        doing("corrupted vocab_ids %d", i);
        write_bytes(copy, size);
        MiModel *model = mi_open(path);
        MiTokenizer *words = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
        int tokens[64];
        int64_t count = words ? mi_encode(words, "Hello, then the others", 22, tokens, 64) : 0;
        const char *why = words ? NULL : complaint(NULL);
        for (int64_t k = 0; k < count && k < 64; k++)
            if (tokens[k] < 0 || tokens[k] >= N_VOCAB) why = "gives tokens that are no rows";
        CHECK(!why, "vocab_ids: corrupted %d: %s", i, why);
        mi_tokenizer_close(words);
        mi_close(model);
    }
    free(copy), free(all), free(text), drop(&f);
}

/* ---- Nothing is left behind ---- */

static int lowest_free_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY);
    close(fd);
    return fd;
}

static int mappings_of_scratch(void)        /* 0 where the system does not say */
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[3000];
    int n = 0;
    while (maps && fgets(line, sizeof line, maps)) n += strstr(line, scratch) != NULL;
    if (maps) fclose(maps);
    return n;
}

static int body(void)
{
    snprintf(path, sizeof path, "%s/hostile.safetensors", scratch);
    int descriptor = lowest_free_descriptor();
    test_plain();
    test_variants();
    test_headers_that_are_right();
    test_end_of_page();
    test_cut();
    test_header_length();
    test_not_json();
    test_deep_and_long();
    test_dtypes();
    test_offsets();
    test_shapes();
    test_names();
    test_entries();
    test_metadata();
    test_config();
    test_vocabulary();
    test_paths();
    test_other_formats();
    test_folders();
    test_layouts();
    test_large_header();
    test_corruption();
    doing("the end");
    CHECK(lowest_free_descriptor() == descriptor, "mi_open: leaves files open");
    CHECK(mappings_of_scratch() == 0, "mi_close: leaves %d mappings", mappings_of_scratch());
    return report();
}

int main(void)
{
    return in_scratch(body);
}
