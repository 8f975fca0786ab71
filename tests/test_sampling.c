/* test_sampling.c - what --temp, --top-p and --seed draw: the probabilities that mi.h gives.
 *
 * Runs $MI (./mi) with tests/golden/odd7.safetensors, whose tokens 0-52 are the characters ! to U,
 * and reads the text it makes from its JSON. */
#define _DEFAULT_SOURCE
#include "check.h"
#include "mi.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MODEL  "tests/golden/odd7.safetensors"
#define PROMPT "44 34 35"      /* after which four tokens are about as likely */

enum { V = 53, N_PROMPT = 3, MOST = 24 };

static const char *program;
static MiModel    *model;

/* The logits after the prompt and n further tokens. */
static void logits_after(const int *tokens, int n, float *logits)
{
    int all[N_PROMPT + MOST] = {44, 34, 35};
    MiOptions options = {.threads = 1};
    for (int i = 0; i < n; i++) all[N_PROMPT + i] = tokens[i];
    MiRun *run = mi_run(model, all, N_PROMPT + n, NULL, &options);
    if (!run || mi_logits(run, 0, N_PROMPT + n - 1, logits) < 0) {
        printf("FAIL sampling: %s\n", mi_error());
        exit(1);
    }
    mi_free(run);
}

/* "text":{"base":"..." of mi's JSON -> its tokens; how many, or -1 */
static int read_text(const char *json, int *tokens)
{
    const char *at = strstr(json, "\"text\":{");
    int n = 0;
    if (!at || !(at = strstr(at, "\"base\":")) || !(at = strchr(at + 7, '"'))) return -1;
    for (at++; *at && *at != '"' && n < MOST; at++) {
        unsigned code = (unsigned char)*at;
        if (*at == '\\' && *++at == 'u' && sscanf(at + 1, "%4x", &code) == 1) at += 4;
        else code = *at == '\\' ? code : (unsigned char)*at;
        tokens[n++] = (int)code - '!';
    }
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V) return -1;
    return *at == '"' ? n : -1;
}

/* The n tokens that the program makes of the prompt with these flags. */
__attribute__((format(printf, 3, 4)))
static int draw(int *tokens, int n, const char *format, ...)
{
    char command[1200], flags[200], json[8192];
    va_list list;
    va_start(list, format);
    vsnprintf(flags, sizeof flags, format, list);
    va_end(list);
    snprintf(command, sizeof command, "%s -m " MODEL " --tokens '" PROMPT "' --threads 1 --json "
             "-n %d %s", program, n, flags);
    FILE *pipe = popen(command, "r");
    size_t size = pipe ? fread(json, 1, sizeof json - 1, pipe) : 0;
    json[size] = 0;
    int status = pipe ? pclose(pipe) : -1, got = read_text(json, tokens);
    if (status || got != n) {
        CHECK(0, "%s: ends with %d and %d tokens", command, status, got);
        return -1;
    }
    return 0;
}

typedef struct { int order[V]; double p[V]; } Ranks;    /* likeliest first, and its probability */

static Ranks ranks_of(const float *logits, double temp)
{
    Ranks ranks;
    double total = 0;
    mi_top(logits, V, V, ranks.order);
    for (int i = 0; i < V; i++) {
        ranks.p[i] = exp(((double)logits[ranks.order[i]] - (double)logits[ranks.order[0]]) / temp);
        total += ranks.p[i];
    }
    for (int i = 0; i < V; i++) ranks.p[i] /= total;
    return ranks;
}

static int rank_of(const Ranks *ranks, int token)
{
    int rank = 0;
    while (ranks->order[rank] != token) rank++;
    return rank;
}

/* Pearson's test: the tokens of n seeds are drawn as the first k of `ranks` say. Rare ones count
 * together. */
static void check_draws(const char *name, const Ranks *ranks, int k, int n, const char *flags)
{
    int count[V] = {0}, outside = 0, missing = 0, cells = 0;
    double mass = 0, chi = 0, rare = 0, rare_count = 0;
    for (int i = 0; i < k; i++) mass += ranks->p[i];
    for (int seed = 1; seed <= n; seed++) {
        int token;
        if (draw(&token, 1, "%s --seed %d", flags, seed) < 0) return;
        count[rank_of(ranks, token)]++;
    }
    for (int i = 0; i < V; i++) {
        double expected = i < k ? n * ranks->p[i] / mass : 0;
        if (i >= k) { outside += count[i]; continue; }
        missing += expected > 5 && !count[i];
        if (expected < 4) { rare += expected, rare_count += count[i]; continue; }
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        cells++;
    }
    if (rare > 0) chi += (rare_count - rare) * (rare_count - rare) / fmax(rare, 1), cells++;
    CHECK(outside == 0, "%s (%s): %d of %d draws are not among the %d likeliest", name, flags,
          outside, n, k);
    CHECK(missing == 0, "%s (%s): %d of the %d likeliest are never drawn", name, flags, missing, k);
    CHECK(chi < cells + 4 * sqrt(2.0 * cells), "%s (%s): chi squared is %.1f for %d kinds of token",
          name, flags, chi, cells);
}

static void test_one_step(void)
{
    float logits[V];
    char  flags[100];
    int   token;
    logits_after(NULL, 0, logits);
    Ranks ranks = ranks_of(logits, 1);
    if (draw(&token, 1, " ") == 0)
        CHECK(token == ranks.order[0], "without --temp: not the likeliest token");
    check_draws("a temperature of 1", &ranks, V, 200, "--temp 1");
    for (int i = 0; i < 2; i++) {
        Ranks other = ranks_of(logits, i ? 3 : 0.4);
        check_draws("a temperature", &other, V, 100, i ? "--temp 3" : "--temp 0.4");
    }
    double mass = 0;            /* --top-p just below and just above the mass of the first k */
    for (int k = 1; k <= 3; k++) {
        mass += ranks.p[k - 1];
        for (int above = 0; above < 2; above++) {
            snprintf(flags, sizeof flags, "--top-p %.9f", mass + (above ? 1e-5 : -1e-5));
            check_draws("--top-p", &ranks, k + above, 50, flags);
        }
    }
}

/* Cold, a token is the likeliest or as likely; hot, any may come, at each step another rank. */
static void test_text(void)
{
    enum { N = 12, SEEDS = 10 };
    int cold[N], hot[N], last = 0, seen[V] = {0}, most = 0, kinds = 0, best;
    double jumps = 0, rank = 0;
    for (int seed = 1; seed <= SEEDS; seed++) {
        if (draw(cold, N, "--temp 0.01 --seed %d", seed) < 0) return;
        for (int i = 0; i < N; i++) {
            float logits[V];
            logits_after(cold, i, logits);
            mi_top(logits, V, 1, &best);
            CHECK(logits[best] - logits[cold[i]] < 0.1f, "--temp 0.01 --seed %d: token %d is %d, "
                  "whose logit is %g below the best", seed, i, cold[i],
                  (double)(logits[best] - logits[cold[i]]));
        }
        if (draw(hot, N, "--temp 100 --seed %d", seed) < 0) return;
        for (int i = 0; i < N; i++) {
            float logits[V];
            logits_after(hot, i, logits);
            Ranks ranks = ranks_of(logits, 100);
            int   now = rank_of(&ranks, hot[i]);
            seen[hot[i]]++;
            rank += now;
            if (i) jumps += abs(now - last);
            last = now;
        }
    }
    for (int i = 0; i < V; i++) {
        kinds += seen[i] > 0;
        most = seen[i] > most ? seen[i] : most;
    }
    CHECK(kinds > V / 2 && most < N * SEEDS / 8, "--temp 100: %d kinds of token, one of them %d "
          "times in %d", kinds, most, N * SEEDS);
    jumps /= SEEDS * (N - 1), rank /= SEEDS * N;
    CHECK(fabs(jumps - V / 3.0) < 5, "--temp 100: from step to step the rank jumps by %.1f of %d",
          jumps, V);
    CHECK(fabs(rank - V / 2.0) < 6, "--temp 100: the mean rank is %.1f of %d", rank, V);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    program = getenv("MI");
    if (!program || !*program) program = "./mi";
    model = mi_open(MODEL);
    CHECK(model && mi_shape(model).n_vocab == V, "sampling: %s", mi_error());
    if (model) {
        test_one_step();
        test_text();
    }
    mi_close(model);
    return report();
}
