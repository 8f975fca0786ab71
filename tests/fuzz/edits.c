/* Addresses and edits: refused in one line (with the argument under it), or the fork, the sweep of
 * one cell and the whole pass agree in every bit.
 * Input: lines "OP ARGUMENT", as on the command line; those that begin with ! hold in the trunk. */
#include "fuzz.h"
#include "../world.h"

static World w;
static MiTokenizer *words;
static MiRun *source;
static float constants[4096];

static int same_float(float a, float b) { return a == b ? !memcmp(&a, &b, 4) : a != a && b != b; }

/* Bit for bit; but what is not a number is only that. */
static void must_agree(const MiRun *a, const MiRun *b)
{
    for (int site = 0; site < MI_N_SITES; site++)
        for (int l = 0; l < layers_of(&w, site); l++)
            for (int t = 0; t < w.T; t++)
                for (int h = 0; h < (is_keys(site) ? w.s.n_head : 1); h++) {
                    int keys = is_keys(site), head = keys ? h : -1;
                    int n = keys ? t + 1 : width_of(&w, site);
                    const float *x = part(trunk(a), site, l, head, t);
                    const float *y = part(trunk(b), site, l, head, t);
                    MUST(x && y, "%s", mi_error());
                    for (int i = 0; i < n; i++)
                        MUST(same_float(x[i], y[i]), "%s layer %d head %d pos %d [%d]: %a is %a",
                             mi_site_info(site)->name, l, head, t, i, (double)x[i], (double)y[i]);
                }
}

static double metric(void *context, const MiRun *run, int lane)
{
    float logits[4096];
    double sum = 0;
    (void)context;
    MUST(mi_logits(run, lane, mi_n_tokens(run, lane) - 1, logits) == 0, "%s", mi_error());
    for (int i = 0; i < w.s.n_vocab; i++) sum = sum * 3 + (double)logits[i];
    return sum;
}

static void must_refuse_well(const char *why)
{
    int lines = 1;
    for (const char *c = why; *c; c++) {
        lines += *c == '\n';
        MUST(*c == '\n' || ((unsigned char)*c >= 32 && *c != 127), "control character in: %s", why);
    }
    MUST(*why && lines <= 3, "%d lines: %s", lines, why);
}

/* A line -> the edits it means, ready to run; 0 if it is refused. */
static int parse(MiEdits *edits, char *line)
{
    char *argument = strchr(line, ' ');
    if (!argument) return 0;
    *argument++ = 0;
    if (mi_edits_parse(edits, w.model, words, w.tokens, w.T, line, argument) < 0)
        return must_refuse_well(mi_error()), 0;
    if (edits->n > 3000) return 0;
    for (int i = 0; i < edits->n; i++) {
        MiEdit *edit = &edits->at[i];
        if (edit->from != MI_FROM_CALLER || edit->value) continue;
        MUST(edit->count <= 4096, "%d columns", edit->count);
        edit->value = constants;
    }
    return 1;
}

static void must_sweep(const MiRun *trunk, const MiEdits *own, double alone)
{
    int first[2] = {0, own->n};
    double value;
    MiSweep sweep = {.trunk = trunk, .edits = own->at, .first = first, .n_cells = 1, .read = w.T,
                     .metric = metric};
    MUST(mi_sweep(&sweep, &value) == 0, "%s", mi_error());
    MUST(value == alone || (value != value && alone != alone), "a sweep gives %g for %g", value,
         alone);
}

static void compare(MiEdits *held, MiEdits *own)
{
    MiOptions options = {.threads = 1};
    if (mi_edits_bind(held, w.base, source) < 0 || mi_edits_bind(own, w.base, source) < 0) {
        must_refuse_well(mi_error());
        return;
    }
    MiEdits all = {.n = held->n + own->n};
    all.at = malloc(((size_t)all.n + 1) * sizeof *all.at);
    if (held->n) memcpy(all.at, held->at, (size_t)held->n * sizeof *all.at);
    if (own->n) memcpy(all.at + held->n, own->at, (size_t)own->n * sizeof *all.at);
    MiRun *base = mi_run(w.model, w.tokens, w.T, held, &options);
    MiRun *pass = mi_run(w.model, w.tokens, w.T, &all, &options);
    MUST(base && pass, "%s", mi_error());
    MiLane lane = {base, own->at, own->n, -1, 0};
    MiRun *fork = mi_fork(&lane, 1, -1, MI_KEEP_ALL);
    MUST(fork, "%s", mi_error());
    must_agree(fork, pass);
    if (own->n) must_sweep(base, own, metric(NULL, pass, 0));
    mi_free(fork);
    mi_free(pass);
    mi_free(base);
    free(all.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!w.model) {                     /* tokens ! to U, so that texts name positions too */
        static int prompt[7] = {33, 34, 35, 33, 36, 33, 34};
        static int other[7] = {33, 40, 35, 41, 36, 33, 42};
        MiOptions options = {.threads = 1};
        w.model = mi_open("tests/golden/odd7.safetensors");
        MUST(w.model, "%s", mi_error());
        w.s = mi_shape(w.model), w.T = 7, w.tokens = prompt;
        w.base = mi_run(w.model, prompt, 7, NULL, &options);
        source = mi_run(w.model, other, 7, NULL, &options);
        words = mi_tokenizer_open("tokenizer.bin", w.model);
        MUST(w.base && source && words, "%s", mi_error());
        for (int i = 0; i < 4096; i++) constants[i] = i % 5 ? 0.25f : -0.5f;
    }
    char *text = malloc(size + 1), *rest = text;
    memcpy(text, data, size);
    text[size] = 0;
    MiEdits held = {0}, own = {0};
    int ok = 1, lines = 0;
    for (char *line; ok && lines++ < 6 && (line = strsep(&rest, "\n"));)
        if (*line) ok = parse(*line == '!' ? &held : &own, line + (*line == '!'));
    if (ok) compare(&held, &own);
    mi_edits_free(&held);
    mi_edits_free(&own);
    free(text);
    return 0;
}
