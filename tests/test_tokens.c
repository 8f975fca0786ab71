/* test_tokens.c - the tokenizer against tests/golden (how those files were made: make_tokens.mjs
 * and make_tokens_bytes.py there), against itself, and against files that lie.
 *
 *     cc -O2 -DMI_NO_MAIN tests/test_tokens.c -o test_tokens -lm && ./test_tokens
 *
 * Run it from the root of the repository. It includes mi.c to reach its static functions. */

#define calloc calloc_that_may_fail
#include "../mi.c"
#undef calloc

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "check.h"
#include "random_model.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)                          \
    || __has_feature(memory_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const char *TOKENIZER = "tokenizer.bin";

static int allocations_left = INT_MAX;

void *calloc(size_t count, size_t size);
void *calloc_that_may_fail(size_t count, size_t size)
{
    if (allocations_left <= 0)
        return NULL;
    allocations_left--;
    return calloc(count, size);
}

static uint64_t random_state = 1;

static uint32_t draw(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static uint8_t *read_all(const char *path, size_t *size)
{
    uint8_t *bytes = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    *size = file && bytes ? fread(bytes, 1, 1 << 20, file) : 0;
    if (file)
        fclose(file);
    if (*size == 0) {
        printf("FAIL %s: cannot be read (run this from the root of the repository)\n", path);
        exit(1);
    }
    return bytes;
}

/* ---- Golden files ---- */

static void check_case(const MiTokenizer *tokenizer, const char *name, const char *text, int n,
                       const uint8_t *ids, int n_ids)
{
    int *rows = malloc(((size_t)n + 1) * sizeof *rows);
    char *copy = malloc((size_t)n + (n == 0));      /* so that a sanitizer sees its end */
    memcpy(copy, text, (size_t)n);
    int got = (int)mi_encode(tokenizer, copy, (size_t)n, rows, n + 1), i = 0;
    free(copy);
    while (i < got && i < n_ids && mi_id_of_row(tokenizer, rows[i])
                                   == (ids[2 * i] | ids[2 * i + 1] << 8))
        i++;
    CHECK(got == n_ids && i == n_ids, "%s: \"%.*s\": %d tokens for %d, the first %d are right",
          name, n < 60 ? n : 60, text, got, n_ids, i);
    free(rows);
}

static void test_golden(MiTokenizer *tokenizer, const char *path, int n_cases_expected)
{
    size_t size, at = 0;
    uint8_t *golden = read_all(path, &size);
    int n_cases = 0;
    while (at < size) {
        int n_vocab = (int)read_u32(golden + at);
        int32_t *vocab = malloc(((size_t)n_vocab + 1) * sizeof *vocab);
        for (int i = 0; i < n_vocab; i++)
            vocab[i] = golden[at + 4 + 2 * (size_t)i] | golden[at + 5 + 2 * (size_t)i] << 8;
        int status = tokenizer_use_vocab(tokenizer, n_vocab ? vocab : NULL,
                                         n_vocab ? n_vocab : N_IDS);
        CHECK(status == 0, "%s: its vocabulary is refused: %s", path, mi_error());
        for (int row = 0; row < n_vocab; row++)
            CHECK(mi_id_of_row(tokenizer, row) == vocab[row]
                  && mi_row_of_id(tokenizer, vocab[row]) == row, "%s: row %d", path, row);
        at += 4 + 2 * (size_t)n_vocab;
        int n_section = (int)read_u32(golden + at);
        at += 4;
        for (int i = 0; i < n_section; i++, n_cases++) {
            int n = (int)read_u32(golden + at), n_ids = (int)read_u32(golden + at + 4 + (size_t)n);
            check_case(tokenizer, path, (const char *)golden + at + 4, n,
                       golden + at + 8 + (size_t)n, n_ids);
            at += 8 + (size_t)n + 2 * (size_t)n_ids;
        }
        free(vocab);
    }
    CHECK(n_cases == n_cases_expected, "%s: has %d cases", path, n_cases);
    free(golden);
    tokenizer_use_vocab(tokenizer, NULL, N_IDS);
}

/* ---- What must hold for all texts ---- */

/* In byte order, the strings that are one character of UTF-8 are the code points in order. */
static void test_utf8(void)
{
    int32_t next = 0;
    int length, n_bad = 0;
    for (uint32_t i = 0; i < 0x1000000; i++) {
        uint8_t text[3] = {(uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        int32_t code = utf8_decode(text, 3, &length);
        if (code < 0 ? length != 1 : (i & (0xFFFFFFu >> 8 * length)) == 0 && code != next++)
            n_bad++;
        if (next == 0xD800)
            next = 0xE000;
    }
    CHECK(n_bad == 0 && next == 0x10000, "utf8: %d wrong, ends at U+%04X", n_bad, next);
    static const uint8_t ends[] = {0x00, 0x7F, 0x80, 0x9A, 0xBF, 0xC0, 0xFF};
    for (uint32_t i = 0; i < 0x1000 * 49; i++) {
        uint8_t text[4] = {(uint8_t)(0xF0 | i / 49 >> 8), (uint8_t)(i / 49), ends[i % 7],
                           ends[i / 7 % 7]};
        int32_t code = (text[0] & 15) << 18 | (text[1] & 0x3F) << 12 | (text[2] & 0x3F) << 6
                     | (text[3] & 0x3F);
        int good = code >= 0x10000 && code <= 0x10FFFF && (text[1] & 0xC0) == 0x80
                && (text[2] & 0xC0) == 0x80 && (text[3] & 0xC0) == 0x80;
        n_bad += utf8_decode(text, 4, &length) != (good ? code : -1) || length != (good ? 4 : 1);
    }
    CHECK(n_bad == 0, "utf8: %d of four bytes are wrong", n_bad);
    CHECK(columns_of("\xF1\x80\x80\x80", 4) == 1, "a character after the last wide one is wide");
    CHECK(!is_control(0x2070), "a character after the last control character is one");
}

static int spells(const MiTokenizer *tokenizer, const char *text, size_t n)
{
    int *rows = malloc((n + 1) * sizeof *rows);
    int64_t n_rows = mi_encode(tokenizer, text, n, rows, (int64_t)n + 1);
    size_t at = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        int length;
        const char *bytes = mi_token_bytes(tokenizer, rows[i], &length);
        if (length < 1 || (size_t)length > n - at || memcmp(bytes, text + at, (size_t)length))
            break;
        at += (size_t)length;
    }
    free(rows);
    return n_rows >= 0 && at == n;
}

static size_t random_text(char *text, size_t n)
{
    static const char *pieces[] = {" ", "  ", "\n", "'s", "'LL", "the", "\xC3\xA9", "\xE2\x80\x83",
                                   "\xF0\x9F\x98\x80", "\xE6\x97\xA5", "12", "!", "<|endoftext|>",
                                   "\xED\xA0\x80", "\xC0", "\xF0\x9F"};
    size_t at = 0;
    if (draw(2))
        while (at < n)
            text[at++] = (char)draw(256);
    while (at + 16 <= n) {
        const char *piece = pieces[draw(sizeof pieces / sizeof *pieces)];
        memcpy(text + at, piece, strlen(piece));
        at += strlen(piece);
    }
    return at;
}

static void test_round_trip(MiTokenizer *tokenizer)
{
    static const int sizes[] = {N_IDS, 256, 300, 5000, N_IDS - 1, N_IDS + 47};
    for (int i = 0; i < 6000; i++) {
        char text[300];
        size_t n = random_text(text, draw(sizeof text));
        int n_vocab = sizes[i / 1000];
        tokenizer_use_vocab(tokenizer, NULL, n_vocab);
        CHECK(spells(tokenizer, text, n), "round trip: string %d of %zu bytes, %d rows", i, n,
              n_vocab);
    }
    for (int id = 0; id < N_IDS; id++) {
        int n, row = -1;
        const char *bytes = mi_token_bytes(tokenizer, id, &n);
        Encoding e = {.below = N_IDS};
        if (id == END_OF_TEXT)
            row = mi_encode(tokenizer, bytes, (size_t)n, &row, 1) == 1 ? row : -1;
        else if (merge_word(tokenizer, &e, (const uint8_t *)bytes, n) == 0)
            row = e.part[0].length == n ? e.part[0].id : -1;
        CHECK(row == id, "premise: token %d does not encode to itself", id);
        free(e.heap);
    }
}

/* Without vocab_ids only a vocabulary of GPT-2's size, padded maybe, is taken for GPT-2's, or what
 * the file says is. */
static void test_foreign(void)
{
    static const struct { int n_vocab; const char *says; int has_text; } cases[] = {
        {1, NULL, 0}, {31, NULL, 0}, {257, NULL, 0}, {5000, NULL, 0}, {N_IDS - 1, NULL, 0},
        {N_IDS, NULL, 1}, {N_IDS + 1, NULL, 1}, {50304, NULL, 1}, {50305, NULL, 0},
        {60000, NULL, 0}, {N_IDS, "portuguese", 0}, {1000, "gpt2", 1}, {1000, "GPT2", 0},
        {1000, "", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int V = cases[i].n_vocab, has_text = cases[i].has_text, rows[8], n;
        MiModel *model = random_model_open((RandomModel){.n_layer = 1, .n_head = 1, .d_head = 1,
                                                         .n_ctx = 2, .n_vocab = V,
                                                         .vocab = cases[i].says});
        MiTokenizer *tokenizer = model ? mi_tokenizer_open(TOKENIZER, model) : NULL;
        CHECK(tokenizer, "%d rows: %s", V, mi_error());
        if (!tokenizer) continue;
        CHECK(mi_has_text(tokenizer) == has_text, "%d rows: has text: %d", V, !has_text);
        int64_t got = mi_encode(tokenizer, "!A", 2, rows, 8);
        if (has_text)
            CHECK(got == 2 && rows[0] == 0 && rows[1] == 32, "%d rows: %lld tokens", V,
                  (long long)got);
        else
            CHECK(got == -1 && strstr(mi_error(), "--tokens") && strstr(mi_error(), "#"),
                  "%d rows: %lld tokens of a text (%s)", V, (long long)got, mi_error());
        const int ids[] = {-1, 0, 30, 255, 256, 50255, 50256, 50257, 50303, 50304, V - 1, V};
        for (size_t k = 0; k < sizeof ids / sizeof *ids; k++) {     /* ids are rows */
            int id = ids[k], there = id >= 0 && id < V, want = there ? id : -1;
            CHECK(mi_row_of_id(tokenizer, id) == want && mi_id_of_row(tokenizer, id) == want,
                  "%d rows: id %d is row %d", V, id, mi_row_of_id(tokenizer, id));
            mi_token_bytes(tokenizer, id, &n);
            CHECK((n > 0) == (has_text && there && id < N_IDS), "%d rows: id %d has %d bytes", V,
                  id, n);
        }
        mi_tokenizer_close(tokenizer);
        mi_close(model);
    }
}

static void test_results(MiTokenizer *tokenizer)
{
    int rows[4] = {-7, -7, -7, -7}, n;
    volatile int none = N_IDS;          /* volatile: compilers warn of what is tested here */
    tokenizer_use_vocab(tokenizer, NULL, N_IDS);
    CHECK(mi_encode(tokenizer, "Hello world, hello", 18, NULL, 0) == 4, "count: without a buffer");
    CHECK(mi_encode(tokenizer, "Hello world, hello", 18, rows, 2) == 4, "count: more than cap");
    CHECK(rows[0] == 15496 && rows[1] == 995 && rows[2] == -7, "cap: %d %d %d", rows[0], rows[1],
          rows[2]);
    CHECK(mi_encode(tokenizer, NULL, 0, rows, 4) == 0, "empty text");
    CHECK(mi_encode(tokenizer, "it's", 3, rows, 4) == 2 && rows[1] == 6, "reads beyond its text");
    CHECK(mi_encode(tokenizer, "\xC3\xA9", 1, rows, 4) == 1, "reads beyond a cut character");
    CHECK(mi_id_of_row(tokenizer, -1) == -1 && mi_id_of_row(tokenizer, none) == -1
          && mi_row_of_id(tokenizer, -1) == -1 && mi_row_of_id(tokenizer, none) == -1
          && mi_row_of_id(tokenizer, INT_MIN) == -1 && mi_id_of_row(tokenizer, INT_MAX) == -1,
          "ids and rows that do not exist");
    CHECK(mi_token_bytes(tokenizer, 995, &n) && n == 6, "token bytes: length %d", n);
    CHECK(memcmp(mi_token_bytes(tokenizer, 188, &n), "", 1) == 0 && n == 1, "token bytes: NUL");
    CHECK(mi_token_bytes(tokenizer, -1, &n) && n == 0, "token bytes: of no token");
    CHECK(mi_token_bytes(tokenizer, none, &n) && n == 0, "token bytes: of a row without id");

    tokenizer_use_vocab(tokenizer, NULL, 100);
    CHECK(mi_encode(tokenizer, "!~", 2, rows, 4) == 2, "100 rows: their bytes can be encoded");
    CHECK(mi_encode(tokenizer, "a\n", 2, rows, 4) == -1 && strstr(mi_error(), "0x0A"),
          "100 rows: no newline: %s", mi_error());
    tokenizer_use_vocab(tokenizer, NULL, N_IDS - 1);
    CHECK(mi_encode(tokenizer, "<|endoftext|>", 13, rows, 4) > 1, "no end of text in the model");
    CHECK(mi_row_of_id(tokenizer, N_IDS - 2) == N_IDS - 2
          && mi_row_of_id(tokenizer, N_IDS - 1) == -1, "50256 rows: their ids");
    tokenizer_use_vocab(tokenizer, NULL, N_IDS);
    for (int i = 0; i < 2; i++) {
        char text[600];
        memset(text, 'q', sizeof text);
        allocations_left = i;
        int64_t got = mi_encode(tokenizer, text, sizeof text, NULL, 0);
        allocations_left = INT_MAX;
        CHECK(i ? got > 0 : got == -1 && strstr(mi_error(), "memory"), "%d allocations", i);
    }
}

/* ---- Speed: a bound that only another order of growth can miss ---- */

static void time_encode(const MiTokenizer *tokenizer, const char *name, const char *text, size_t n)
{
    double start = (double)clock() / CLOCKS_PER_SEC;
    int64_t n_rows = mi_encode(tokenizer, text, n, NULL, 0);
    double seconds = (double)clock() / CLOCKS_PER_SEC - start;
    CHECK(n_rows > 0, "%s: %s", name, mi_error());
    CHECK(SANITIZED || seconds < 1.0, "%s: took %.2f s", name, seconds);
    if (getenv("MI_TEST_TIMES"))
        printf("%-24s %7zu bytes %7lld tokens %8.1f ms\n", name, n, (long long)n_rows,
               1e3 * seconds);
}

static void test_speed(MiTokenizer *tokenizer)
{
    static const char *words[] = {"the", "of", "and", "Mary", "store", "went", "it's", "drink",
                                  "because", "remarkable", "tower", "42", "quickly", "whereupon"};
    static const char *kinds[] = {"100 kB of one letter", "100 kB of random letters",
                                  "100 kB of spaces", "100 kB of punctuation",
                                  "100 kB of bad bytes"};
    enum { MEGABYTE = 1000000, WORD = 100000 };
    char *text = malloc(MEGABYTE);
    size_t n = 0;
    while (n < MEGABYTE - 32) {
        const char *word = words[draw(sizeof words / sizeof *words)];
        n += (size_t)sprintf(text + n, "%s", word);
        for (uint32_t i = 0, letters = draw(4) ? 0 : 1 + draw(9); i < letters; i++)
            text[n++] = "etaoinshrdlu"[draw(12)];
        word = draw(9) ? " " : draw(3) ? ", " : ".\n";
        n += (size_t)sprintf(text + n, "%s", word);
    }
    time_encode(tokenizer, "1 MB of English", text, n);
    for (int kind = 0; kind < 5; kind++) {
        for (n = 0; n < WORD; n++)
            text[n] = kind == 0 ? 'a' : kind == 1 ? (char)('a' + draw(26)) : kind == 2 ? ' '
                    : kind == 3 ? "=-"[draw(2)] : (char)(0x80 + draw(64));
        time_encode(tokenizer, kinds[kind], text, n);
    }
    for (n = 0; n < MEGABYTE; n++)
        text[n] = (char)draw(256);
    time_encode(tokenizer, "1 MB of random bytes", text, n);
    for (n = 0; n < MEGABYTE; n++)
        text[n] = '<';
    time_encode(tokenizer, "1 MB of <", text, n);
    free(text);
}

/* ---- Vocabularies that a model file could claim ---- */

static void check_vocab(MiTokenizer *tokenizer, const char *name, int good, const int32_t *more,
                        int n_more)
{
    int32_t vocab[300];
    for (int i = 0; i < 256; i++)
        vocab[i] = i;
    memcpy(vocab + 256, more, (size_t)n_more * sizeof *more);
    int status = tokenizer_use_vocab(tokenizer, vocab, 256 + n_more);
    CHECK(good ? status == 0 : status == -1 && !strchr(mi_error(), '\n'),
          "vocabulary %s: returns %d", name, status);
    CHECK(status == 0 || mi_error()[0], "vocabulary %s: no message", name);
}

#define VOCAB(name, good, ...)                                                                   \
    check_vocab(tokenizer, name, good, (const int32_t[]){__VA_ARGS__},                           \
                sizeof (int32_t[]){__VA_ARGS__} / sizeof(int32_t))

static void test_vocab(MiTokenizer *tokenizer)
{
    int rows[4];
    int32_t vocab[300] = {0};
    VOCAB("of bytes", 1, 50256);
    CHECK(mi_encode(tokenizer, " the", 4, rows, 4) == 4 && rows[1] == mi_row_of_id(tokenizer, 83),
          "vocabulary of bytes: ' the' should be 4 tokens");
    VOCAB("with ' the' (t + he)", 1, 256, 258, 262, 50256);
    CHECK(mi_encode(tokenizer, " the<|endoftext|>", 17, rows, 4) == 2 && rows[0] == 258
          && rows[1] == 259, "vocabulary with ' the': rows %d %d", rows[0], rows[1]);
    VOCAB("without a part of ' the'", 0, 256, 262, 50256);
    VOCAB("with 'and' (an + d)", 1, 272, 392, 50256);
    VOCAB("with 'and' from a + nd", 0, 358, 392, 50256);
    VOCAB("without the end of text", 0, 256, 258, 262);
    VOCAB("with an id twice", 0, 256, 256, 50256);
    VOCAB("out of order", 0, 258, 256, 50256);
    VOCAB("beyond the last id", 0, 256, 50257);
    VOCAB("with a huge id", 0, INT32_MAX);
    VOCAB("with a negative id", 0, -1, 50256);
    for (int i = 0; i < 300; i++)
        vocab[i] = i < 299 ? i + 1 : END_OF_TEXT;
    CHECK(tokenizer_use_vocab(tokenizer, vocab, 300) == -1, "vocabulary without byte 0");
    CHECK(tokenizer_use_vocab(tokenizer, vocab, 100) == -1, "vocabulary of 100");
    CHECK(tokenizer_use_vocab(tokenizer, vocab, N_IDS + 1) == -1, "vocabulary of too many");
    CHECK(tokenizer_use_vocab(tokenizer, NULL, 0) == -1, "vocabulary of none");
    CHECK(tokenizer_use_vocab(tokenizer, NULL, -5) == -1, "vocabulary of -5");
    CHECK(tokenizer_use_vocab(tokenizer, NULL, N_IDS) == 0, "GPT-2's vocabulary");
}

/* ---- Hostile files ---- */

static char hostile_path[1024];

static void write_hostile(const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(hostile_path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
        printf("FAIL hostile: cannot write %s\n", hostile_path);
        exit(1);
    }
}

static void refuse_path(const char *name, const char *path)
{
    MiTokenizer *tokenizer = tokenizer_open(path);
    const char *why = mi_error();
    CHECK(!tokenizer, "hostile %s: it was accepted", name);
    CHECK(tokenizer || (strlen(why) > 10 && !strchr(why, '\n') && strstr(why, path)),
          "hostile %s: message '%s'", name, why);
    if (getenv("MI_TEST_MESSAGES"))
        printf("%-28s %s\n", name, why);
    mi_tokenizer_close(tokenizer);
}

static void refuse(const char *name, const uint8_t *bytes, size_t size)
{
    write_hostile(bytes, size);
    refuse_path(name, hostile_path);
}

/* The good file with `old_size` bytes at `at` replaced by others. */
static void refuse_spliced(const char *name, const uint8_t *good, size_t n, size_t at,
                           size_t old_size, const char *bytes, size_t size)
{
    uint8_t *changed = malloc(n + size);
    memcpy(changed, good, at);
    memcpy(changed + at, bytes, size);
    memcpy(changed + at + size, good + at + old_size, n - at - old_size);
    refuse(name, changed, n - old_size + size);
    free(changed);
}

static void refuse_changed(const char *name, const uint8_t *good, size_t n, size_t at,
                           const char *bytes, size_t size)
{
    refuse_spliced(name, good, n, at, size, bytes, size);
}

static void test_hostile_files(void)
{
    size_t n;
    uint8_t *good = read_all(TOKENIZER, &n);
    size_t letters = read_u32(good + 8), numbers = letters + read_u32(good + 12);
    size_t tokens = 24 + 8 * (numbers + read_u32(good + 16)), merged = tokens + 2 * 256;
    static const struct { const char *name; size_t size; } cuts[] = {
        {"empty", 0}, {"one byte", 1}, {"cut in the magic", 5}, {"cut after the magic", 8},
        {"cut in the counts", 22}, {"cut after the counts", 24}, {"cut in the letters", 1001},
        {"cut in the numbers", 5801}, {"cut in the spaces", 6641}, {"cut before the tokens", 6672},
        {"cut in the bytes", 6673}, {"cut between the bytes", 6874}, {"cut in a token", 100001},
    };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        refuse(cuts[i].name, good, cuts[i].size);
    CHECK(tokens == 6672, "hostile: the tokens start at %zu", tokens);
    refuse("cut before the last byte", good, n - 1);
    refuse("cut before the last token", good, n - 14);

    uint8_t *longer = calloc(1 << 20, 1);
    memcpy(longer, good, n);
    refuse("one byte too many", longer, n + 1);
    refuse("half a megabyte too many", longer, 1 << 20);
    free(longer);

    refuse_changed("magic of another version", good, n, 7, "2", 1);
    refuse_changed("no tokens", good, n, 20, "\0\0\0\0", 4);
    refuse_changed("a token too few", good, n, 20, "\x50\xC4", 2);
    refuse_changed("a token too many", good, n, 20, "\x52\xC4", 2);
    refuse_changed("4 billion tokens", good, n, 20, "\xFF\xFF\xFF\xFF", 4);
    refuse_changed("4 billion letter ranges", good, n, 8, "\xFF\xFF\xFF\xFF", 4);
    refuse_changed("ranges that wrap to 0 bytes", good, n, 8, "\0\0\0\x20", 4);
    refuse_changed("4 billion space ranges", good, n, 16, "\xFF\xFF\xFF\xFF", 4);
    refuse_changed("a letter range too many", good, n, 8, "\xA6", 1);
    refuse_changed("a space range too few", good, n, 16, "\x09", 1);
    refuse_changed("a range twice", good, n, 24, (const char *)good + 32, 8);
    refuse_changed("ranges out of order", good, n, 24, "a\0\0\0z\0\0\0A\0\0\0Z\0\0\0", 16);
    refuse_changed("ranges that overlap", good, n, 32, "\x5A", 1);
    refuse_changed("a range backwards", good, n, 24, "\x5B", 1);
    refuse_changed("a range beyond Unicode", good, n, 24 + 8 * letters - 4, "\0\0\x11", 3);
    refuse_changed("a range to 2^32 - 1", good, n, 24 + 8 * letters - 4, "\xFF\xFF\xFF\xFF", 4);
    refuse_changed("a number that is a letter", good, n, 24 + 8 * letters, "A\0\0\0A\0\0\0", 8);
    refuse_changed("a space that is a number", good, n, 24 + 8 * numbers, "0\0\0\0\x30\0\0\0", 8);
    refuse_spliced("a token of 0 bytes", good, n, merged, 3, "", 1);
    refuse_spliced("a byte of 0 bytes", good, n, tokens, 2, "", 1);
    refuse_spliced("a byte of 2 bytes", good, n, tokens, 2, "\2!\1", 3);
    refuse_spliced("a merge of 1 byte", good, n, merged, 3, "\1t", 2);
    refuse_changed("a token beyond the file", good, n, n - 14, "\xFF", 1);
    refuse_changed("a token longer than it is", good, n, merged + 3, "\xFF", 1);
    refuse_changed("a byte twice", good, n, tokens + 3, "!", 1);
    refuse_changed("a merge twice", good, n, merged + 4, (const char *)good + merged + 1, 2);

    refuse_path("directory", "tests");
    CHECK(strstr(mi_error(), strerror(EISDIR)), "hostile directory: message '%s'", mi_error());
    refuse_path("missing", "tests/there_is_no_such_file");
    refuse_path("below a file", "tokenizer.bin/tokenizer.bin");
    write_hostile(good, n);
    allocations_left = 0;
    refuse_path("without memory", hostile_path);
    allocations_left = INT_MAX;
    free(good);
}

/* Random damage: whatever is still accepted has to work. */
static void test_damaged_files(void)
{
    size_t n;
    uint8_t *good = read_all(TOKENIZER, &n), *bad = malloc(n);
    for (int i = 0; i < 200; i++) {
        memcpy(bad, good, n);
        for (uint32_t k = 1 + draw(4); k > 0; k--)
            bad[draw(draw(2) ? 8000 : (uint32_t)n)] = (uint8_t)draw(256);
        write_hostile(bad, n - (draw(4) ? 0 : draw((uint32_t)n)));
        MiTokenizer *tokenizer = tokenizer_open(hostile_path);
        char text[300];
        size_t size = random_text(text, sizeof text);
        CHECK(tokenizer ? spells(tokenizer, text, size) : !strchr(mi_error(), '\n'),
              "damaged %d: does not spell a text", i);
        mi_tokenizer_close(tokenizer);
    }
    free(good);
    free(bad);
}

int main(void)
{
    const char *directory = getenv("TMPDIR");
    snprintf(hostile_path, sizeof hostile_path, "%s/test_tokens_%lx_%lx.bin",
             directory ? directory : "/tmp", (long)time(NULL), (long)(uintptr_t)&directory);
    MiTokenizer *tokenizer = tokenizer_open(TOKENIZER);
    if (!tokenizer) {
        printf("FAIL open: %s\n", mi_error());
        return 1;
    }
    test_golden(tokenizer, "tests/golden/tokens.bin", 2500);
    test_golden(tokenizer, "tests/golden/tokens_bytes.bin", 967);
    test_utf8();
    test_round_trip(tokenizer);
    test_results(tokenizer);
    test_foreign();
    test_vocab(tokenizer);
    test_speed(tokenizer);
    mi_tokenizer_close(tokenizer);
    test_hostile_files();
    test_damaged_files();
    remove(hostile_path);
    return report();
}
