/* test_calls.c - what a caller of mi.h adds to it or takes from it: functions as edits (MI_CALL),
 * the subspaces of MI_MIX, paths, weights (mi_weight), and files of other tools. That functions
 * keep the promises of bits, whatever they look at, is tried by test_promises.c. */
#include "scratch.h"
#include "check.h"
#include "world.h"

static World w;

/* ---- A function that does what an operation does ---- */

static int as_edit(void *context, const MiView *view, float *x, int n)
{
    const MiEdit *e = context;
    const float  *v = e->value ? e->value + (size_t)(view->pos - e->pos) * e->value_stride : NULL;
    for (int i = 0; i < n; i++) x[i] = e->op == MI_SET ? v ? v[i] : e->amount : e->amount * x[i];
    return 0;
}

static MiEdits as_calls(MiEdits list)
{
    MiEdits calls = {.at = memory(&w, (size_t)list.n * sizeof *calls.at), .n = list.n};
    for (int i = 0; i < list.n; i++) {
        MiEdit *e = &calls.at[i];
        *e = list.at[i];
        e->op = MI_CALL, e->call = as_edit, e->context = &list.at[i], e->value = NULL;
    }
    return calls;
}

static double first_logits(void *context, const MiRun *run, int lane)
{
    float logit[2];
    (void)context;
    return mi_logits_of(run, lane, w.T - 1, (int[]){0, 1}, 2, logit) < 0 ? NAN
           : (double)logit[0] - 0.5 * (double)logit[1];
}

/* In a trunk, in decoding, in a fork, in lanes beside each other, in a sweep. */
static const char *calls_are_operations(void)
{
    MiEdits list = {0};
    for (int i = 0; i < 4; i++) {
        MiEdit e = random_edit(&w, below(&w, MI_N_SITES), w.T);
        if (e.op != MI_SET) e.op = MI_SCALE, e.value = NULL, e.amount = 1.5f;
        add_edit(&w, &list, e);
    }
    MiEdits calls = as_calls(list);
    MiRun  *ops = whole(&w, &list), *fns = whole(&w, &calls);
    TRY(same(&w, trunk(fns), trunk(ops)));
    TRY(same(&w, trunk(fork_one(&w, w.base, calls, -1, -1)), trunk(ops)));
    MiRun *grown = run(&w, w.tokens, 1, &calls, (MiOptions){.capacity = w.T});
    for (int t = 1; t < w.T; t++)
        if (mi_append(grown, w.tokens + t, 1) < 0) return because("mi_append: %s", message());
    TRY(same(&w, trunk(grown), trunk(ops)));
    MiLane lanes[8];
    for (int i = 0; i < 8; i++)
        lanes[i] = (MiLane){w.base, (i & 1 ? calls : list).at + i / 2, 1, -1, 0};
    MiRun *fork = fork_lanes(&w, lanes, 8, -1, MI_KEEP_ALL);
    for (int i = 0; i < 8; i += 2) TRY(same(&w, lane_of(fork, i + 1), lane_of(fork, i)));
    double  value[2][4];
    MiSweep sweep = {.trunk = w.base, .first = (int[]){0, 1, 2, 3, 4}, .n_cells = 4, .read = w.T,
                     .metric = first_logits};
    for (int i = 0; i < 2; i++) {
        sweep.edits = (i ? calls : list).at;
        if (mi_sweep(&sweep, value[i]) < 0) return because("mi_sweep: %s", message());
    }
    return memcmp(value[0], value[1], sizeof *value) ? "a sweep of functions has other values"
                                                     : NULL;
}

/* ---- When it is called, and what it may look at ---- */

typedef struct { int calls, pos; MiSite site; int layer, head, at, fails; } Spy;

static int spy(void *context, const MiView *view, float *x, int n)
{
    Spy *s = context;
    (void)x, (void)n;
    s->calls++;
    if (view->pos != s->pos) return 0;
    if (s->fails) return -1;
    const float *seen = mi_look(view, s->site, s->layer, s->head, s->at);
    return seen ? 0 : -1;
}

static MiEdit spying(MiSite site, int layer, uint64_t sees, Spy *s)
{
    return (MiEdit){.op = MI_CALL, .site = site, .layer = layer, .head = -1, .pos_end = INT_MAX,
                    .count = width_of(&w, site), .call = spy, .context = s, .sees = sees};
}

/* One that changes nothing is called all the same, once a row: here 3 of a cell are read. */
static void calls_are_never_skipped(void)
{
    Spy     s = {.pos = -1};
    MiEdit  edit = spying(MI_resid_mid, 0, 0, &s);
    double  value;
    MiSweep sweep = {.trunk = w.base, .edits = &edit, .first = (int[]){0, 1}, .n_cells = 1,
                     .read = 0, .metric = first_logits};
    edit.pos = w.T - 3;
    CHECK(mi_sweep(&sweep, &value) == 0 && s.calls == 3, "a function is called %d times, not 3: %s",
          s.calls, mi_error());
    CHECK(value == first_logits(NULL, w.base, 0), "a function that does nothing changes a metric");
}

/* Layer, site and position of what is looked at, from L1.ln1 of position 2. */
static void what_can_be_seen(void)
{
    const uint64_t all = MI_KEEP(z) | MI_KEEP(ln1) | MI_KEEP(resid_pre) | MI_KEEP(q) |
                         MI_KEEP(embed) | MI_KEEP(ln_f) | MI_KEEP(pattern);
    static const struct { MiSite site; int layer, head, at; const char *says; } cases[] = {
        {MI_resid_pre, 1, -1, 2, NULL}, {MI_resid_pre, 0, -1, 0, NULL}, {MI_z, 0, 1, 1, NULL},
        {MI_embed, 0, -1, 2, NULL}, {MI_pattern, 0, 1, 2, NULL}, {MI_z, 0, -1, 2, NULL},
        {MI_resid_pre, 1, -1, 3, "not finished"}, {MI_ln1, 1, -1, 2, "not finished"},
        {MI_ln1, 1, -1, 1, "not finished"}, {MI_q, 1, -1, 0, "not finished"},
        {MI_z, 1, -1, 0, "not finished"}, {MI_ln_f, 0, -1, 0, "not finished"},
        {MI_resid_pre, 1, -1, -1, "no such value"}, {MI_resid_pre, 9, -1, 1, "no such value"},
        {MI_z, 0, 99, 1, "no head"}, {MI_resid_pre, 0, 0, 1, "no head"},
        {MI_mlp_out, 0, -1, 1, "not kept"},
        {MI_pos_embed, 0, -1, 1, "does not say"}, {MI_z, INT_MAX, -1, 1, "no such value"},
        {(MiSite)99, 0, -1, 1, "no such value"}, {(MiSite)-1, 0, -1, 1, "no such value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Spy     s = {.pos = 2, .site = cases[i].site, .layer = cases[i].layer,
                     .head = cases[i].head, .at = cases[i].at};
        MiEdit  edit = spying(MI_ln1, 1, all, &s);
        MiEdits list = {.at = &edit, .n = 1};
        MiRun  *pass = mi_run(w.model, w.tokens, w.T, &list, &(MiOptions){.keep = MI_KEEP_CACHE});
        const char *says = cases[i].says;
        CHECK(!pass == !!says && (!says || strstr(mi_error(), says)), "looking at site %d of "
              "layer %d, position %d: %s", (int)cases[i].site, cases[i].layer, cases[i].at,
              pass ? "it can" : mi_error());
        mi_free(pass);
        MiLane lane = {.trunk = w.base, .edits = &edit, .n_edits = 1, .t0 = -1, .read = w.T};
        pass = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
        CHECK(!pass == !!says, "the same in a fork: %s", pass ? "it can" : mi_error());
        mi_free(pass);
    }
}

/* Of scores and pattern it gets the keys up to the query, and where there are none no call. */
typedef struct { int calls, wrong; } Counted;

static int count_keys(void *context, const MiView *view, float *x, int n)
{
    Counted *c = context;
    const MiEdit *e = view->edit;
    c->calls++;
    c->wrong += n != least(e->count, view->pos + 1 - e->first) || n < 1 || !isfinite(x[n - 1]);
    return 0;
}

static void functions_of_keys(void)
{
    Counted c = {0};
    MiEdit  edit = {.op = MI_CALL, .site = MI_pattern, .layer = 1, .head = 1, .first = 3,
                    .count = 2, .pos_end = INT_MAX, .call = count_keys, .context = &c};
    MiRun  *pass = whole(&w, &(MiEdits){.at = &edit, .n = 1});
    CHECK(pass && c.calls == w.T - 3 && !c.wrong, "keys 3 and 4 of queries 0 to %d: %d calls, %d "
          "with other numbers of keys: %s", w.T - 1, c.calls, c.wrong, mi_error());
}

/* A function that fails ends what computes the run; a run that it ended while growing is as long as
 * before. */
static void failing_functions(void)
{
    Spy     s = {.pos = 2, .fails = 1};
    MiEdit  edit = spying(MI_mlp_post, 0, 0, &s);
    MiEdits list = {.at = &edit, .n = 1};
    MiRun  *pass = mi_run(w.model, w.tokens, w.T, &list, NULL);
    CHECK(!pass && strstr(mi_error(), "mlp_post failed at position 2"), "mi_run: %s", mi_error());
    CHECK(s.calls == 3, "a function that failed is called again: %d times", s.calls);
    mi_free(pass);
    pass = mi_run(w.model, w.tokens, 2, &list, &(MiOptions){.capacity = w.T});
    CHECK(pass && mi_append(pass, w.tokens + 2, 1) == -1 && mi_n_tokens(pass, 0) == 2,
          "mi_append: %s", mi_error());
    s.fails = 0, s.pos = -1;
    CHECK(pass && mi_append(pass, w.tokens + 2, w.T - 2) == 0, "growing again: %s", mi_error());
    const char *why = same(&w, trunk(pass), trunk(w.base));
    CHECK(!why, "a run that could not grow and then did: %s", why);
    s = (Spy){.pos = w.T - 1, .fails = 1};
    MiLane lane = {.trunk = w.base, .edits = &edit, .n_edits = 1, .t0 = -1};
    CHECK(!mi_fork(&lane, 1, -1, MI_KEEP_ALL), "mi_fork with a function that fails");
    double  value;
    MiSweep sweep = {.trunk = w.base, .edits = &edit, .first = (int[]){0, 1}, .n_cells = 1,
                     .read = w.T, .metric = first_logits};
    CHECK(mi_sweep(&sweep, &value) == -1 && strstr(mi_error(), "failed"), "mi_sweep: %s",
          mi_error());
    mi_free(pass);
}

static void what_is_refused(void)
{
    Spy    s = {.pos = -1};
    float  dlogits[4096] = {1}, row[4096] = {1};
    MiEdit edit = spying(MI_z, 0, MI_KEEP(q), &s), none = edit, alone = edit, wrong = edit;
    MiEdits list = {.at = &edit, .n = 1};
    MiRun *pass = whole(&w, &list);
    MiRun *gradient = pass ? mi_gradient(pass, 0, w.T - 1, dlogits, 0) : NULL;
    CHECK(pass && !gradient && strstr(mi_error(), "no gradient through a function"),
          "a gradient through a function: %s", mi_error());
    MiRun *few = run(&w, w.tokens, w.T, NULL, (MiOptions){.keep = MI_KEEP(z)});
    MiLane lane = {.trunk = few, .edits = &edit, .n_edits = 1, .t0 = -1};
    CHECK(few && !mi_fork(&lane, 1, -1, MI_KEEP_ALL) && strstr(mi_error(), "q, which its trunk"),
          "a fork that sees what its trunk has not: %s", mi_error());
    none.call = NULL;
    alone.op = MI_SCALE;
    wrong = (MiEdit){.op = MI_SET, .site = MI_z, .head = -1, .count = 1, .pos_end = 1,
                     .basis = row, .rank = 1};
    MiEdit rank = wrong, keys = wrong;
    rank.op = keys.op = MI_MIX, rank.value = keys.value = row, rank.rank = 0;
    keys.site = MI_pattern, keys.head = 0;
    const struct { MiEdit edit; const char *says; } cases[] = {
        {none, "function"}, {alone, "function"}, {wrong, "basis"}, {rank, "basis"},
        {keys, "basis"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MiEdit  one = cases[i].edit;
        MiEdits single = {.at = &one, .n = 1};
        MiRun  *bad = mi_run(w.model, w.tokens, w.T, &single, NULL);
        CHECK(!bad && strstr(mi_error(), cases[i].says), "bad edit %d: %s", (int)i, mi_error());
        mi_free(bad);
    }
}

/* ---- Subspaces ---- */

/* x + amount (v - x) B^T B, in double. Rows of B are two unit vectors, turned by 30 degrees. */
static void a_mix_in_a_subspace(void)
{
    int     D = w.s.d_model, pos = w.T - 1;
    float  *basis = memory(&w, 2 * (size_t)D * sizeof *basis);
    MiRun  *other = source_run(&w);
    MiEdit  edit = copy_edit(&w, other, MI_resid_mid, 1, -1, 0, D, pos, pos + 1);
    basis[0] = 0.8660254f, basis[D - 1] = 0.5f, basis[D] = -0.5f, basis[2 * D - 1] = 0.8660254f;
    edit.op = MI_MIX, edit.amount = 0.75f, edit.basis = basis, edit.rank = 2;
    MiEdits list = {.at = &edit, .n = 1};
    const float *x = mi_site(w.base, 0, MI_resid_mid, 1, pos);
    const float *got = mi_site(whole(&w, &list), 0, MI_resid_mid, 1, pos);
    double off = 0;
    for (int i = 0; i < D && got; i++) {
        double want = x[i], share = edit.amount;
        if (i == 0 || i == D - 1) want += share * ((double)edit.value[i] - x[i]);
        off = fmax(off, fabs(got[i] - want));
    }
    CHECK(got && off < 1e-5, "x + .75 (v - x) in a plane of two axes is off by %g", off);
    edit.value = x;
    const char *why = same(&w, trunk(whole(&w, &list)), trunk(w.base));
    CHECK(!why, "a value put in its own place along two rows: %s", why);
    float  *axis = memory(&w, (size_t)D * sizeof *axis);
    float  *zeros = memory(&w, (size_t)D * sizeof *zeros);
    double  value;
    MiSweep sweep = {.trunk = w.base, .edits = &edit, .first = (int[]){0, 1}, .n_cells = 1,
                     .read = w.T, .metric = first_logits};
    axis[D - 1] = 1;
    edit = copy_edit(&w, other, MI_resid_mid, 1, -1, 0, D, pos, pos + 1);
    edit.op = MI_MIX, edit.amount = 1, edit.basis = axis, edit.rank = 1;
    CHECK(mi_sweep(&sweep, &value) == 0 && value == first_logits(NULL, whole(&w, &list), 0) &&
          value != first_logits(NULL, w.base, 0), "a cell of a sweep along the last axis is %g",
          value);
    MiEdit both[2] = {edit, edit};              /* -0 stays -0 where nothing is exchanged */
    for (int i = 0; i < D; i++) zeros[i] = -0.0f;
    both[0].op = MI_SET, both[0].basis = NULL, both[0].rank = 0;
    both[0].value = both[1].value = zeros, both[1].order = 1;
    MiRun *set = whole(&w, &(MiEdits){.at = both, .n = 1});
    why = same(&w, trunk(whole(&w, &(MiEdits){.at = both, .n = 2})), trunk(set));
    CHECK(!why, "-0 put in its own place: %s", why);
}

/* d logit / d x through the edit is that of x before it: finite differences, along its parts. */
static void its_gradient(void)
{
    int     D = w.s.d_model, pos = w.T - 1;
    float  *basis = memory(&w, 2 * (size_t)D * sizeof *basis), *dlogits = memory(&w, 4096 * 4);
    float  *push = memory(&w, (size_t)D * sizeof *push);
    MiRun  *other = source_run(&w);
    MiEdits list = {0};
    for (int i = 0; i < D; i++) push[i] = real(&w);
    basis[0] = 0.6f, basis[1] = 0.8f, basis[D] = -0.8f, basis[D + 1] = 0.6f;
    add_edit(&w, &list, (MiEdit){.op = MI_ADD, .site = MI_resid_mid, .head = -1, .count = D,
                                 .pos = pos, .pos_end = pos + 1, .value = push});
    add_edit(&w, &list, copy_edit(&w, other, MI_resid_mid, 0, -1, 0, D, pos, pos + 1));
    list.at[1].op = MI_MIX, list.at[1].amount = 0.75f, list.at[1].order = 1;
    list.at[1].basis = basis, list.at[1].rank = 2;
    dlogits[0] = 1;
    double sum = 0, said[2];
    float  logit;
    MiRun *pass = whole(&w, &list);
    MiRun *gradient = pass ? mi_gradient(pass, 0, pos, dlogits, 0) : NULL;
    for (int i = 0; i < 2; i++) {               /* attn_out goes into resid_mid and nowhere else */
        list.at[0].amount = i ? 1e-3f : -1e-3f;
        said[i] = mi_logits_of(whole(&w, &list), 0, pos, (int[]){0}, 1, &logit) < 0 ? NAN : logit;
    }
    list.at[0].amount = 0;
    pass = whole(&w, &list);
    mi_free(gradient);
    gradient = pass ? mi_gradient(pass, 0, pos, dlogits, 0) : NULL;
    const float *g = gradient ? mi_site(gradient, 0, MI_attn_out, 0, pos) : NULL;
    for (int i = 0; i < D && g; i++) sum += (double)g[i] * push[i];
    double slope = (said[1] - said[0]) / 2e-3;
    CHECK(g && fabs(sum - slope) < 5e-3 * (1 + fabs(slope)), "the gradient below a mix in a "
          "subspace: %g, by differences %g", sum, slope);
    mi_free(gradient);
}

/* ---- Readers ---- */

/* Of the stream of a run it makes what the run has; of another stream another number. */
static void readers_read(void)
{
    static const MiSite from[] = {MI_resid_pre, MI_resid_pre, MI_resid_pre, MI_resid_mid,
                                  MI_resid_post};
    static const MiSite site[] = {MI_q, MI_k, MI_v, MI_ln2, MI_ln_f};
    int    D = w.s.d_model, d = w.s.d_head, L = w.s.n_layer, t = w.T - 1;
    float *out = memory(&w, (size_t)D * sizeof *out), *x = memory(&w, (size_t)D * sizeof *x);
    for (int i = 0; i < 5; i++)
        for (int l = 0; l < (i == 4 ? 1 : L); l++) {
            int    whole = i > 2, first = whole ? 0 : d * (w.s.n_head - 1);
            MiEdit reader = {.site = site[i], .layer = l, .first = first, .count = whole ? D : d};
            const float *r = mi_site(w.base, 0, from[i], i == 4 ? L - 1 : l, t);
            const float *has = mi_site(w.base, 0, site[i], l, t) + first;
            CHECK(mi_reader(w.base, &reader, r, out) == 0 &&
                  !memcmp(out, has, (size_t)reader.count * sizeof *out),
                  "reader %s of layer %d: %s", mi_site_info(site[i])->name, l, mi_error());
            memcpy(x, r, (size_t)D * sizeof *x);
            x[0] += 1;
            CHECK(mi_reader(w.base, &reader, x, out) == 0 &&
                  memcmp(out, has, (size_t)reader.count * sizeof *out),
                  "reader %s of layer %d does not read", mi_site_info(site[i])->name, l);
        }
    static const struct { MiEdit reader; const char *says; } bad[] = {
        {{.site = MI_mlp_out, .count = 1}, "does not read"},
        {{.site = MI_ln1, .count = 1}, "does not read"},
        {{.site = MI_q, .layer = -1, .count = 1}, "no such layer"}, {{.site = MI_v}, "columns"},
        {{.site = MI_q, .first = 1, .count = 1 << 30}, "columns"},
        {{.site = MI_ln2, .count = 1}, "columns"},
        {{.site = MI_ln_f, .layer = 1, .count = 1}, "no such layer"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(mi_reader(w.base, &bad[i].reader, x, out) < 0 && strstr(mi_error(), bad[i].says),
              "bad reader %zu: %s", i, mi_error());
}

/* ---- Logits of many places at once ---- */

static void logits_of_places(void)
{
    int    V = w.s.n_vocab, T = w.T;
    MiEdit edits[2] = {{.op = MI_SCALE, .site = MI_resid_mid, .head = -1, .count = w.s.d_model,
                        .pos_end = T, .amount = 2}};
    edits[1] = edits[0], edits[1].amount = -1;
    MiLane lanes[2] = {{.trunk = w.base, .edits = edits, .n_edits = 1, .t0 = -1},
                       {.trunk = w.base, .edits = edits + 1, .n_edits = 1, .t0 = -1}};
    MiRun *fork = fork_lanes(&w, lanes, 2, -1, MI_KEEP_ALL);
    float *got = memory(&w, 5 * (size_t)V * sizeof *got);
    float *one = memory(&w, (size_t)V * sizeof *one);
    const MiPosition at[5] = {{w.base, 0, T - 1}, {fork, 1, T - 1}, {fork, 0, 1}, {w.base, 0, 0},
                              {fork, 0, T - 1}};
    CHECK(fork && mi_logits_at(at, 5, got) == 0, "mi_logits_at: %s", mi_error());
    for (int i = 0; i < 5 && fork; i++)
        CHECK(mi_logits(at[i].run, at[i].lane, at[i].pos, one) == 0 &&
              !memcmp(got + (size_t)i * (size_t)V, one, (size_t)V * sizeof *one),
              "logits of place %d of 5 are others", i);
    const MiPosition late[2] = {{w.base, 0, 0}, {w.base, 0, T}}, lane[1] = {{w.base, 1, 0}};
    CHECK(mi_logits_at(late, 2, got) == -1 && mi_logits_at(lane, 1, got) == -1,
          "logits of no place");
}

/* ---- Paths ---- */

/* The senders' run is one with all its edits: what is held, and then what the senders do. What a
 * reader reads there is what the reader makes of that run's stream. */
static void paths(int freeze)
{
    static const MiSite held[] = {MI_q, MI_k, MI_v, MI_mlp_out};
    static const MiSite from[] = {MI_resid_pre, MI_resid_pre, MI_resid_pre, MI_resid_mid,
                                  MI_resid_post};
    static const MiSite site[] = {MI_q, MI_k, MI_v, MI_ln2, MI_ln_f};
    int     D = w.s.d_model, d = w.s.d_head, L = w.s.n_layer, T = w.T, n = T - 1;
    MiRun  *source = source_run(&w);
    float  *want = memory(&w, (size_t)D * sizeof *want);
    MiEdits list = {0};
    MiEdit  send[2] = {
        {.op = MI_SET, .site = MI_z, .head = -1, .first = d, .count = d, .pos = 1, .pos_end = T,
         .from = MI_FROM_SOURCE},
        {.op = MI_SET, .site = MI_mlp_out, .head = -1, .count = D, .pos_end = T,
         .from = MI_FROM_SOURCE, .order = -1}};         /* comes last all the same */
    MiRun  *run = keep_run(&w, "mi_senders", mi_senders(w.base, source, send, 2, freeze));
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 3 + freeze; i++)
            add_edit(&w, &list, copy_edit(&w, w.base, held[i], l, -1, 0, D, 0, T));
    add_edit(&w, &list, copy_edit(&w, source, MI_z, 0, -1, d, d, 1, T));
    add_edit(&w, &list, copy_edit(&w, source, MI_mlp_out, 0, -1, 0, D, 0, T));
    MiRun *twin = whole(&w, &list);
    Range  seen = {0, INT_MAX, 0, T, MI_KEEP(ln1) | MI_KEEP(ln2) | MI_KEEP(ln_f)};
    const char *why = same_sites(&w, trunk(run), trunk(twin), seen);
    CHECK(!why, "senders, MLPs %s: %s", freeze ? "frozen" : "free", why);
    if (!run || !twin) return;
    CHECK(mi_n_writers(run, 0) == mi_n_writers(w.base, 0), "the senders' run holds edits");
    for (int i = 0; i < 5; i++)
        for (int l = 0; l < (i == 4 ? 1 : L); l++) {
            int     whole_row = i > 2, pos = i % 3, end = i % 2 ? INT_MAX : n - 1, differs = 0;
            MiEdits edits = {0};
            MiEdit  reader = {.site = site[i], .layer = l, .head = -1, .pos = pos, .pos_end = end,
                              .first = whole_row ? 0 : d, .count = whole_row ? D : d,
                              .op = MI_ADD, .from = MI_FROM_SOURCE};   /* these are replaced */
            int     status = mi_receiver(run, n, reader, &edits);
            MiEdit  e = edits.n ? edits.at[0] : (MiEdit){0};
            const char *name = mi_site_info(site[i])->name;
            CHECK(status == 0 && edits.n == 1 && e.op == MI_SET && e.pos == pos &&
                  e.pos_end == least(end, n) && e.first == reader.first &&
                  mi_edits_bind(&edits, NULL, NULL) == 0, "a receiver %s: %s", name, mi_error());
            for (int t = pos; t < e.pos_end; t++) {
                const float *x = mi_site(twin, 0, from[i], i == 4 ? L - 1 : l, t);
                differs |= mi_reader(twin, &reader, x, want) < 0 ||
                           memcmp(want, e.value + (size_t)(t - pos) * e.value_stride,
                                  (size_t)e.count * sizeof *want);
            }
            CHECK(!differs, "a receiver %s of layer %d gets something else", name, l);
            mi_edits_free(&edits);
        }
    MiEdits none = {0};
    MiEdit  good = {.site = MI_q, .layer = 1, .count = d, .pos_end = 1}, late = good;
    late.pos = n, late.pos_end = T;
    CHECK(mi_receiver(run, n, late, &none) == 0 && none.n == 0, "a reader after what is read");
    const struct { int n; MiEdit reader; const char *says; } bad[] = {
        {0, good, "no positions"}, {T + 1, good, "no positions"},
        {n, {.site = MI_z, .count = d, .pos_end = 1}, "z does not read"},
        {n, {.site = (MiSite)99, .count = 1, .pos_end = 1}, "does not read"},
        {n, {.site = MI_q, .layer = L, .count = d, .pos_end = 1}, "layer"},
        {n, {.site = MI_k, .first = 1, .count = D, .pos_end = 1}, "columns"},
        {n, {.site = MI_ln2, .count = D - 1, .pos_end = 1}, "columns"},
        {n, {.site = MI_q, .count = d, .pos = -1, .pos_end = 1}, "no position"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(mi_receiver(run, bad[i].n, bad[i].reader, &none) == -1 && none.n == 0 &&
              strstr(mi_error(), bad[i].says), "bad receiver %zu: %s", i, mi_error());
    send[0].value = want, send[0].from = MI_FROM_CALLER, send[0].first = D;
    CHECK(!mi_senders(w.base, source, send, 1, 0) && strstr(mi_error(), "columns"),
          "a sender without columns: %s", mi_error());
    CHECK(!mi_senders(w.base, NULL, send + 1, 1, 0) && strstr(mi_error(), "source"),
          "senders without a source: %s", mi_error());
    MiRun *few = keep_run(&w, "mi_run", mi_run(w.model, w.tokens, T, NULL,
                                               &(MiOptions){.keep = MI_KEEP(z), .threads = 1}));
    CHECK(few && !mi_senders(few, source, NULL, 0, 0) && strstr(mi_error(), "q was not kept"),
          "a base without q: %s", mi_error());
}

/* ---- Weights ---- */

/* embed is a row of wte, ln_f times W_U the logits, ln1 W_QKV + b_QKV at its end the values: of
 * whatever type the file is, and wherever in it the numbers lie. */
static void weights_are_those_of_the_runs(const char *path)
{
    MiModel *model = mi_open(path);
    CHECK(model, "%s", mi_error());
    if (!model) return;
    MiShape s = mi_shape(model);
    int     token = s.n_vocab - 1, rows = 0, cols = 0, l = s.n_layer - 1;
    MiRun  *run = mi_run(model, (int[]){1, token}, 2, NULL, NULL);
    const MiWeight *wte = mi_weight(model, "wte", 0, &rows, &cols);
    CHECK(wte && rows == s.n_vocab && cols == s.d_model, "%s: wte is [%d,%d]", path, rows, cols);
    CHECK(wte && !memcmp(wte + (size_t)token * cols, mi_site(run, 0, MI_embed, 0, 1),
                         (size_t)cols * sizeof(float)), "%s: wte is not what runs read", path);
    const MiWeight *W_U = mi_weight(model, "W_U", 0, &rows, &cols);
    CHECK(W_U && rows == s.n_vocab && cols == s.d_model, "%s: W_U is [%d,%d]", path, rows, cols);
    float  logit[1], *copy = malloc((size_t)s.d_model * sizeof *copy);
    double sum = 0;
    memcpy(copy, W_U + (size_t)token * cols, (size_t)cols * sizeof *copy);  /* as mi.h says */
    mi_logits_of(run, 0, 1, &token, 1, logit);
    for (int i = 0; i < cols; i++) sum += (double)copy[i] * mi_site(run, 0, MI_ln_f, 0, 1)[i];
    CHECK(fabs(sum - logit[0]) < 1e-4 * (1 + fabs(sum)), "%s: W_U says %g, not %g", path, sum,
          (double)logit[0]);
    const MiWeight *W = mi_weight(model, "W_QKV", l, &rows, &cols);
    CHECK(W && rows == s.d_model && cols == 3 * s.d_model, "%s: W_QKV is [%d,%d]", path, rows,
          cols);
    const MiWeight *b = mi_weight(model, "b_QKV", l, &rows, &cols);
    CHECK(b && rows == 1 && cols == 3 * s.d_model, "%s: b_QKV is [%d,%d]", path, rows, cols);
    sum = b[cols - 1];
    for (int i = 0; i < s.d_model; i++)
        sum += (double)mi_site(run, 0, MI_ln1, l, 1)[i] * W[(size_t)i * cols + cols - 1];
    double v = mi_site(run, 0, MI_v, l, 1)[s.d_model - 1];
    CHECK(fabs(sum - v) < 1e-4 * (1 + fabs(v)), "%s: W_QKV says %g, not %g", path, sum, v);
    free(copy);
    mi_free(run);
    mi_close(model);
}

static int dimension(char letter)
{
    return letter == 'V' ? w.s.n_vocab : letter == 'N' ? w.s.n_ctx : letter == 'F' ? w.s.d_mlp
         : letter == 'A' ? 3 * w.s.d_model : w.s.d_model;
}

static void names_of_weights(void)
{
    static const struct { const char *name, *shape; } all[] = {
#define X(field, name, shape) { #field, shape },
        MI_MODEL_TENSORS(X) MI_BLOCK_TENSORS(X)
#undef X
        { "W_U", "VD" },
    };
    int rows, cols, n = sizeof all / sizeof *all;
    for (int i = 0; i < n; i++) {
        const char *shape = all[i].shape;
        int matrix = shape[1] != 0, L = i >= 4 && i < n - 1 ? w.s.n_layer : 1;
        const MiWeight *first = mi_weight(w.model, all[i].name, 0, &rows, &cols);
        CHECK(first && rows == (matrix ? dimension(shape[0]) : 1) &&
              cols == dimension(shape[matrix]), "%s is [%d,%d]: %s", all[i].name, rows,
              cols, mi_error());
        const MiWeight *last = mi_weight(w.model, all[i].name, L - 1, &rows, &cols);
        CHECK(last && (L == 1) == (last == first), "%s of the last layer", all[i].name);
        CHECK(!mi_weight(w.model, all[i].name, L, &rows, &cols) && strstr(mi_error(), "no layer") &&
              !mi_weight(w.model, all[i].name, -1, &rows, &cols), "%s of layer %d", all[i].name, L);
    }
    static const char *const none[] = {"", "W_Q", "wte.weight", "W", "score_scale", "w_u", "W_U "};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        CHECK(!mi_weight(w.model, none[i], 0, &rows, &cols) && strstr(mi_error(), "no weight"),
              "a weight \"%s\": %s", none[i], mi_error());
}

/* ---- Files of other tools ---- */

static void put(const char *path, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n, "%s cannot be written", path);
    if (f) fclose(f);
}

/* All that a JSON text says, written again: parents by their place in the list. */
static void json_is_read(const char *path, const char *text, const char *expected)
{
    MiJson json;
    char   got[400] = "";
    put(path, text, strlen(text));
    CHECK(mi_json_read(&json, path) == 0, "JSON %s: %s", text, mi_error());
    for (int i = 0; i < json.n; i++) {
        const MiValue *v = &json.at[i];
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%d%s%s%c%s", v->parent, v->key ? "." : "",
                 v->key ? v->key : "", v->type, v->text ? v->text : "");
        if (v->type == '0') snprintf(got + strlen(got), sizeof got - strlen(got), "%g", v->number);
        strcat(got, " ");
    }
    CHECK(!strcmp(got, expected), "JSON %s: read as %s", text, got);
    mi_json_free(&json);
}

static void json_texts(void)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/a.json", scratch);
    json_is_read(path, "{}", "-1{ ");
    json_is_read(path, "\xEF\xBB\xBF null\n", "-1n ");
    json_is_read(path, "[1, -0.5e+1,\t{\"a b\": true}, []]", "-1[ 001 00-5 0{ 3.a bt 0[ ");
    json_is_read(path, "{\"a\":{\"a\":\"x\\n\\u00e9\"},\"b\":[false,\"\"]}",
                 "-1{ 0.a{ 1.a\"x\n\xC3\xA9 0.b[ 3f 3\" ");
    static const struct { const char *text, *says; } bad[] = {
        {"", "malformed"}, {"{", "expected a string"}, {"{\"a\"}", "malformed object"},
        {"{\"a\":1,}", "expected a string"}, {"[1 2]", "malformed"}, {"[1,]", "malformed"},
        {"01", "malformed"}, {"1.", "malformed"}, {".5", "malformed"}, {"1e", "malformed"},
        {"-", "malformed"}, {"+1", "malformed"}, {"NaN", "malformed"}, {"-Infinity", "malformed"},
        {"truth", "malformed"}, {"True", "malformed"}, {"nullx", "after its end"},
        {"1 2", "after its end"}, {"\"a", "unterminated"}, {"1e999", "too large"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "\"a\" appears twice"}, {"\"\\ud800\"", "escape"},
    };
    MiJson json;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(path, bad[i].text, strlen(bad[i].text));
        CHECK(mi_json_read(&json, path) < 0 && strstr(mi_error(), bad[i].says) &&
              strstr(mi_error(), "a.json") && !json.at && !json.text, "JSON %s: %s", bad[i].text,
              mi_error());
    }
    char deep[200];
    memset(deep, '[', sizeof deep), deep[199] = 0;
    put(path, deep, 199);
    CHECK(mi_json_read(&json, path) < 0 && strstr(mi_error(), "too deeply"), "%s", mi_error());
    put(path, "[\0]", 3);
    CHECK(mi_json_read(&json, path) < 0, "JSON with a zero byte");
    CHECK(mi_json_read(&json, scratch) < 0, "a folder as JSON");
}

/* The tensors of a model's file are the model's; those of other types have no values. */
static void tensors_are_the_models(const char *path)
{
    int       rows, cols, n = 0;
    MiModel  *model = mi_open(path);
    MiTensors file;
    CHECK(model && mi_tensors_open(&file, path) == 0, "%s: %s", path, mi_error());
    for (int i = 0; i < file.n; i++) {
        MiTensor *t = &file.at[i];
        CHECK(i == 0 || strcmp(file.at[i - 1].name, t->name) < 0, "%s: not sorted", path);
        if (!strstr(t->name, "wpe.weight")) continue;
        const MiWeight *wpe = mi_weight(model, "wpe", 0, &rows, &cols);
        n++;
        CHECK(t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols && t->value &&
              !memcmp(t->value, wpe, (size_t)rows * cols * sizeof *wpe), "%s: wpe", path);
    }
    CHECK(n == 1, "%s has wpe %d times", path, n);
    mi_tensors_close(&file);
    CHECK(!file.at && !file.n, "%s is not closed", path);
    mi_close(model);
}

static void other_tensors(void)
{
    static const char header[] = "{\"b\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[4,8]},"
        "\"c\":{\"dtype\":\"ODD\",\"shape\":[9],\"data_offsets\":[8,8]}}";
    char      bytes[8 + sizeof header - 1 + 8] = {(char)(sizeof header - 1)}, path[1100];
    float     one = 1.5f;
    size_t    n = sizeof header - 1;
    MiTensors file;
    bytes[1] = (char)(n >> 8);
    memcpy(bytes + 8, header, n);
    memcpy(bytes + 8 + n + 4, &one, 4);
    snprintf(path, sizeof path, "%s/a.safetensors", scratch);
    put(path, bytes, sizeof bytes);
    CHECK(mi_tensors_open(&file, path) == 0 && file.n == 3 && !strcmp(file.at[0].name, "a") &&
          file.at[0].n_dims == 2 && *file.at[0].value == one && !file.at[1].value &&
          !strcmp(file.at[1].dtype, "I32") && file.at[1].n_dims == 0 && !file.at[2].value &&
          file.at[2].shape[0] == 9, "three tensors: %s", mi_error());
    mi_tensors_close(&file);
    put(path, bytes, sizeof bytes - 1);
    CHECK(mi_tensors_open(&file, path) < 0 && strstr(mi_error(), "truncated") && !file.at,
          "a truncated file: %s", mi_error());
}

static void tables(void)
{
    char    path[1100];
    MiTable t;
    snprintf(path, sizeof path, "%s/a.csv", scratch);
    put(path, "prompt,label\n\"a, b\",1\nc,0\n", 26);
    CHECK(mi_table_read(&t, path) == 0 && t.file == path && t.n_rows == 2 && t.n_cols == 2 &&
          !strcmp(mi_cell(&t, 0, "prompt"), "a, b") && !strcmp(mi_cell(&t, 1, "label"), "0") &&
          !mi_cell(&t, 1, "labels"), "a table: %s", mi_error());
    mi_table_free(&t);
    static const struct { const char *text; size_t n; const char *says; } bad[] = {
        {"", 0, "expected a header and rows"}, {"prompt\n", 7, "expected a header and rows"},
        {"a,b\nc\n", 6, "row 1 (line 2)"}, {"a\nb\0\n", 5, "zero byte"},
        {"a,a\nb,c\n", 8, "two columns are named a"}, {"a\n\"b\n", 5, "never closed"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(path, bad[i].text, bad[i].n);
        CHECK(mi_table_read(&t, path) < 0 && strstr(mi_error(), bad[i].says) &&
              strstr(mi_error(), "a.csv") && !t.text && !t.header, "a table %s: %s", bad[i].text,
              mi_error());
    }
    CHECK(mi_table_read(&t, scratch) < 0, "a folder as a table");
}

static int body(void)
{
    json_texts();
    tables();
    other_tensors();
    for (uint64_t seed = 1; seed <= 12; seed++) {
        if (open_world(&w, seed)) return printf("%s\n0 passed, 1 failed\n", lost), 1;
        doing("test_calls: %s", w.where);
        begin(&w, seed);
        const char *why = calls_are_operations();
        CHECK(!why, "functions == operations: %s: %s; edits:%s", w.where, why, w.edits);
        if (w.s.n_layer > 1 && w.T > 4 && w.s.n_head > 1 && w.s.d_model > 1) {
            calls_are_never_skipped();
            what_can_be_seen();
            functions_of_keys();
            failing_functions();
            what_is_refused();
            a_mix_in_a_subspace();
            its_gradient();
            readers_read();
            logits_of_places();
            paths(0);
            paths(1);
            names_of_weights();
        }
        free_from(&w, 1);
        close_world(&w);
    }
    static const char *const files[] = {"odd7", "brain11", "half12"};
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/golden/%s.safetensors", files[i]);
        weights_are_those_of_the_runs(path);
        tensors_are_the_models(path);
    }
    return report();
}

int main(void)
{
    return in_scratch(body);
}
