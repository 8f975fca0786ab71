/* Any bytes -> tokens -> the same bytes, with all of GPT-2's tokens and with tiny's. */
#include "fuzz.h"
#include "mi.h"

static void round_trip(const MiTokenizer *words, const char *text, size_t size)
{
    int *tokens = malloc((size + 1) * sizeof *tokens), length;
    char *exact = malloc(size + !size);                 /* so that its end is seen */
    memcpy(exact, text, size);
    int64_t n = mi_encode(words, exact, size, tokens, (int64_t)size);
    MUST(n >= 0 && n <= (int64_t)size, "%lld tokens: %s", (long long)n, mi_error());
    size_t at = 0;
    for (int64_t i = 0; i < n; i++, at += (size_t)length) {
        const char *bytes = mi_token_bytes(words, tokens[i], &length);
        MUST(length > 0 && (size_t)length <= size - at && !memcmp(bytes, text + at, (size_t)length),
             "token %d of %d", (int)i, (int)n);
        MUST(mi_row_of_id(words, mi_id_of_row(words, tokens[i])) == tokens[i], "row %d", tokens[i]);
    }
    MUST(at == size, "%zu of %zu bytes come back", at, size);
    int few[3] = {-1, -1, -1};
    MUST(mi_encode(words, exact, size, few, 2) == n && few[2] == -1, "with room for two");
    for (int i = 0; i < 2 && i < n; i++) MUST(few[i] == tokens[i], "token %d with room for two", i);
    free(exact);
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static MiTokenizer *all, *tiny;
    if (!all) {
        MiModel *model = mi_open("tiny.safetensors");
        all = mi_tokenizer_open("tokenizer.bin", NULL);
        tiny = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
        MUST(all && tiny, "%s", mi_error());
        mi_close(model);
    }
    round_trip(all, (const char *)data, size);
    round_trip(tiny, (const char *)data, size);
    return 0;
}
