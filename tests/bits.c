/* bits.c - one line for each kind of number that mi.h computes, with a hash of their bits. Builds
 * whose lines are the same agree bit for bit: test_builds.sh compares them. */
#include "world.h"

#include <stdio.h>

static uint64_t hash;

static void add_bits(const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        if (x[i] != x[i]) bits = 0x7FC00000;            /* what is not a number is only that */
        hash = (hash ^ bits) * 0x100000001b3;
    }
}

static void say(int seed, const char *what)
{
    printf("seed %d %s %016llx\n", seed, what, (unsigned long long)hash);
    hash = 0xcbf29ce484222325;
}

static void add_site(const World *w, View v, int site)
{
    for (int l = 0; l < layers_of(w, site); l++)
        for (int t = 0; t < w->T; t++)
            for (int h = 0; h < (is_keys(site) ? w->s.n_head : 1); h++) {
                const float *x = part(v, site, l, is_keys(site) ? h : -1, t);
                if (x) add_bits(x, is_keys(site) ? t + 1 : width_of(w, site));
            }
}

static void add_logits(const World *w, const MiRun *run, int lane)
{
    float logits[4096];
    if (run && mi_logits(run, lane, mi_n_tokens(run, lane) - 1, logits) == 0)
        add_bits(logits, w->s.n_vocab);
}

static void say_lens(const World *w, int seed)
{
    float logits[4096];
    for (int final = 0; final < 2; final++)
        for (int l = 0; l < w->s.n_layer; l++)
            for (int t = 0; t < w->T; t++)
                if (mi_lens(w->base, 0, MI_resid_mid, l, t, final, logits) == 0)
                    add_bits(logits, w->s.n_vocab);
    say(seed, "lens");
}

static void say_greedy(World *w, int seed)
{
    float logits[4096];
    MiRun *run = mi_run(w->model, w->tokens, 1, NULL, &(MiOptions){.capacity = w->T, .threads = 1});
    for (int t = 0, next; run && t + 1 < w->T; t++) {
        if (mi_logits(run, 0, t, logits) < 0) break;
        add_bits(logits, w->s.n_vocab);
        mi_top(logits, w->s.n_vocab, 1, &next);
        if (mi_append(run, &next, 1) < 0) break;
    }
    mi_free(run);
    say(seed, "greedy");
}

static double metric(void *context, const MiRun *run, int lane)
{
    float pair[2];
    int   tokens[2] = {0, 1};
    (void)context;
    mi_logits_of(run, lane, mi_n_tokens(run, lane) - 1, tokens, 2, pair);
    return (double)pair[0] - (double)pair[1];
}

/* One edit of each kind at each site: as a run, a fork and the cells of a sweep. */
static void say_edits(World *w, int seed)
{
    enum { N = 40 };
    static int    first[N + 1];
    static double values[N];
    MiEdits list = {0};
    for (int i = 0; i < N; i++) {
        add_edit(w, &list, random_edit(w, i % MI_N_SITES, w->T));
        first[i + 1] = i + 1;
    }
    for (int i = 0; i < N; i += 3) {
        MiEdits one = {.at = list.at + i, .n = 1};
        add_logits(w, whole(w, &one), 0);
    }
    say(seed, "edits");
    MiSweep sweep = {.trunk = w->base, .edits = list.at, .first = first, .n_cells = N,
                     .read = w->T, .metric = metric};
    if (mi_sweep(&sweep, values) < 0) printf("seed %d: %s\n", seed, mi_error());
    for (int i = 0; i < N; i++) add_bits(&(float){(float)values[i]}, 1);
    say(seed, "sweep");
    MiEdits noise = {0};
    for (int l = 0; l < w->s.n_layer; l++)
        add_edit(w, &noise, (MiEdit){.op = MI_NOISE, .site = MI_resid_mid, .layer = l, .head = -1,
                 .count = w->s.d_model, .pos_end = INT_MAX, .amount = 0.5f, .seed = 7});
    MiRun *noisy = whole(w, &noise);
    if (noisy) add_site(w, trunk(noisy), MI_resid_post), add_logits(w, noisy, 0);
    say(seed, "noise");
}

int main(void)
{
    static World w;
    hash = 0xcbf29ce484222325;
    for (int seed = 1; seed <= 8; seed++) {
        if (open_world(&w, (uint64_t)(seed == 8 ? 37 : seed))) return printf("%s\n", lost), 1;
        begin(&w, (uint64_t)seed);
        for (int site = 0; site < MI_N_SITES; site++) {
            add_site(&w, trunk(w.base), site);
            say(seed, mi_site_info(site)->name);
        }
        add_logits(&w, w.base, 0);
        say(seed, "logits");
        say_lens(&w, seed);
        say_greedy(&w, seed);
        say_edits(&w, seed);
        close_world(&w);
    }
    return 0;
}
