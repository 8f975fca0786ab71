/* tokenizer.bin, damaged: refused in one line, or a tokenizer whose tokens spell what they encode.
 * Input: one byte for each 4: where (3 bytes, from the end if the highest bit is set) and what; the
 * first 2 bytes cut so many off the file's end. */
#include "fuzz.h"
#include "mi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *good, *bad;
    static size_t n;
    if (!good) {
        FILE *file = fopen("tokenizer.bin", "rb");
        good = malloc(1 << 20), bad = malloc(1 << 20);
        if (!file || !(n = fread(good, 1, 1 << 20, file))) abort();
        fclose(file);
    }
    if (size < 2) return -1;
    size_t cut = (size_t)(data[0] | data[1] << 8);
    memcpy(bad, good, n);
    for (size_t i = 2; i + 4 <= size; i += 4) {
        size_t place = (size_t)(data[i] | data[i + 1] << 8 | (data[i + 2] & 127) << 16) % n;
        bad[data[i + 2] & 128 ? n - 1 - place : place] = data[i + 3];
    }
    MiTokenizer *tokenizer = mi_tokenizer_open(file_of(bad, n - cut % n), NULL);
    if (!tokenizer) return must_say_why(mi_error()), 0;
    int tokens[4096], length;
    if (size > sizeof tokens / sizeof *tokens) size = sizeof tokens / sizeof *tokens;
    int64_t n_tokens = mi_encode(tokenizer, (const char *)data, size, tokens, 4096);
    size_t at = 0;
    for (int64_t i = 0; i < n_tokens; i++, at += (size_t)length) {
        const char *bytes = mi_token_bytes(tokenizer, tokens[i], &length);
        MUST(length > 0 && (size_t)length <= size - at && !memcmp(bytes, data + at, (size_t)length),
             "token %d of %d", (int)i, (int)n_tokens);
    }
    MUST(at == size, "%zu of %zu bytes come back", at, size);
    mi_tokenizer_close(tokenizer);
    return 0;
}
