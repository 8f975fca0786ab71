/* test_promises.c - same bits, always: every promise of mi.h about equal bits, as a property of
 * random models, prompts, edits, lanes and threads.
 *
 *     test_promises               all configurations
 *     test_promises 17            the one with seed 17
 *
 * A configuration is a random model and prompt with a seed; each promise is tried on each of them
 * and counts as one check. A failure says which promise broke, for which shape, seed and edits,
 * and where the first wrong number is.
 */
#include "scratch.h"
#include "check.h"
#include "world.h"

enum { N_CONFIGURATIONS = 50, MAX_LANES = 12 };

static const char *decode_is_prefill(World *w)
{
    int n = 1 + below(w, w->T), one_by_one = below(w, 2);
    int capacity = w->T + below(w, w->s.n_ctx - w->T + 1);
    MiRun *grown = run(w, w->tokens, n, NULL, (MiOptions){.capacity = capacity});
    while (grown && n < w->T) {
        int step = one_by_one ? 1 : 1 + below(w, w->T - n);
        if (mi_append(grown, w->tokens + n, step) < 0) return because("mi_append: %s", message());
        n += step;
        TRY(same_logits(w, trunk(grown), trunk(w->base), n - 1));
    }
    TRY(same(w, trunk(grown), trunk(w->base)));
    int *more = random_tokens(w, capacity - w->T + 1);
    if (mi_append(grown, more, capacity - w->T + 1) >= 0)
        return because("mi_append beyond the capacity of %d is no error", capacity);
    return same(w, trunk(grown), trunk(w->base));
}

static const char *fork_is_whole_pass(World *w)
{
    MiEdits held = {0}, own = {0};
    w->calls = 1;
    if (below(w, 2)) TRY(random_edits(w, &held, 1 + below(w, 2)));
    TRY(random_edits(w, &own, 1 + below(w, 3)));
    MiEdits all = joined(w, held, own);
    MiRun *base = held.n ? whole(w, &held) : w->base, *all_rows = whole(w, &all);
    TRY(same(w, trunk(fork_one(w, base, own, -1, -1)), trunk(all_rows)));
    for (int i = 0; i < 2; i++) {
        int half = below(w, lowest_half(w, own) + 1), t0 = below(w, lowest_row(own) + 1);
        if (!below(w, 4)) half = -1;
        if (!below(w, 4)) t0 = -1;
        const char *why = same(w, trunk(fork_one(w, base, own, half, t0)), trunk(all_rows));
        if (why) return because("from half %d, row %d: %s", half, t0, why);
    }
    return NULL;
}

/* Lanes over up to four trunks of other prompts and lengths, held edits included. Half of the
 * lanes put an ADD between a held SCALE and a held ADD of the same site: those do not commute. */
static const char *lane_is_run_alone(World *w)
{
    int n = 1 + below(w, MAX_LANES), n_trunks = 1 + below(w, 4), own_T = w->T;
    int *prompts[4] = {0}, lengths[4];
    const MiRun *trunks[4];
    MiEdits held[4] = {{0}}, own[MAX_LANES] = {{0}};
    MiLane lanes[MAX_LANES];
    int site = below(w, MI_N_SITES);
    for (int i = 0; i < n_trunks; i++) {
        lengths[i] = below(w, 3) ? 1 + below(w, own_T) : own_T;
        prompts[i] = random_tokens(w, lengths[i]);
        MiEdit e = random_edit(w, site, lengths[i]);
        e.layer = layers_of(w, site) - 1, e.pos = 0, e.pos_end = INT_MAX, e.value_stride = 0;
        e.op = MI_SCALE, e.amount = 1.5f, e.order = 0;
        if (below(w, 2)) add_edit(w, &held[i], e);
        e.op = MI_ADD, e.amount = 0.125f, e.order = 2;
        e.value = random_values(w, MI_ADD, site, 1, e.count);
        if (below(w, 2)) add_edit(w, &held[i], e);
        trunks[i] = run(w, prompts[i], lengths[i], &held[i], (MiOptions){0});
    }
    for (int i = 0; i < n; i++) {
        int k = below(w, n_trunks);
        MiEdit e = random_edit(w, site, lengths[k]);
        e.op = MI_ADD, e.amount = 0.25f, e.order = 1, e.value_stride = 0;
        e.layer = layers_of(w, site) - 1;
        e.value = random_values(w, MI_ADD, site, 1, e.count);
        if (below(w, 2)) add_edit(w, &own[i], e);
        w->calls = 1;
        for (int j = below(w, 2) + !own[i].n; j > 0; j--)
            add_edit(w, &own[i], random_edit(w, below(w, MI_N_SITES), lengths[k]));
        w->calls = 0;
        lanes[i] = (MiLane){trunks[k], own[i].at, own[i].n,
                            below(w, 3) ? -1 : below(w, lowest_row(own[i]) + 1), 0};
    }
    MiRun *fork = fork_lanes(w, lanes, n, below(w, 3) ? -1 : 0, MI_KEEP_ALL);
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (trunks[k] != lanes[i].trunk) k++;
        MiEdits all = joined(w, held[k], own[i]);
        MiRun *alone = fork_one(w, trunks[k], own[i], -1, -1);
        MiRun *pass = run(w, prompts[k], lengths[k], &all, (MiOptions){0});
        const char *why = same(w, lane_of(fork, i), trunk(alone));
        if (!why) why = same(w, lane_of(fork, i), trunk(pass));
        if (why) return because("lane %d of %d, trunk %d of %d tokens: %s", i, n, k, lengths[k],
                                why);
    }
    return NULL;
}

static const char *one_thread_is_n_threads(World *w)
{
    MiEdits held = {0}, own = {0};
    int threads = 2 + below(w, 4);
    w->calls = 1;
    TRY(same(w, trunk(run(w, w->tokens, w->T, NULL, (MiOptions){.threads = threads})),
             trunk(w->base)));
    TRY(random_edits(w, &held, 1));
    TRY(random_edits(w, &own, 2));
    MiRun *one = whole(w, &held);
    MiRun *many = run(w, w->tokens, w->T, &held, (MiOptions){.threads = threads});
    return same(w, trunk(fork_one(w, many, own, -1, -1)), trunk(fork_one(w, one, own, -1, -1)));
}

/* Lanes that set a site to what it is anyway: all of it, or one head or column; at all rows, or
 * one. Then the same as text: --freeze. */
static const char *self_patch_is_no_edit(World *w)
{
    int every_layer = w->seed % 4 == 0, last = w->T - 1;
    for (int site = 0; site < MI_N_SITES; site++) {
        MiLane lanes[MAX_LANES];
        int n = 0, chosen = below(w, layers_of(w, site));
        for (int layer = 0; layer < layers_of(w, site) && n < MAX_LANES; layer++) {
            if (layer != chosen && !every_layer) continue;
            int width = is_keys(site) ? w->T : width_of(w, site), t = below(w, w->T);
            int heads = mi_site_info(site)->width == MI_HEADS, head = below(w, w->s.n_head);
            MiEdits all = {0}, some = {0};
            for (int h = 0; h < (is_keys(site) ? w->s.n_head : 1); h++)
                add_edit(w, &all, copy_edit(w, w->base, site, layer, is_keys(site) ? h : -1, 0,
                                            width, 0, w->T));
            add_edit(w, &some, copy_edit(w, w->base, site, layer, is_keys(site) ? head : -1,
                                         heads ? head * w->s.d_head : 0,
                                         heads ? w->s.d_head : width, t, t + 1));
            lanes[n++] = (MiLane){w->base, all.at, all.n, -1, 0};
            lanes[n++] = (MiLane){w->base, some.at, some.n, -1, 0};
        }
        MiRun *fork = fork_lanes(w, lanes, n, -1, MI_KEEP_ALL);
        w->edits[0] = 0;
        for (int i = 0; i < n; i++) {
            const char *why = same(w, lane_of(fork, i), trunk(w->base));
            if (why) return because("%s set to itself, lane %d of %d: %s",
                                    mi_site_info(site)->name, i, n, why);
        }
    }
    char text[128];
    MiEdits frozen = {0};
    snprintf(text, sizeof text, "heads,L*.resid_mid@0,L*.mlp_out@%d,L0.ln1,resid,embed", last);
    TRY(parse_edits(w, &frozen, "freeze", text, w->base, NULL));
    TRY(same(w, trunk(whole(w, &frozen)), trunk(w->base)));
    return same(w, trunk(fork_one(w, w->base, frozen, -1, -1)), trunk(w->base));
}

static const char *later_token_changes_no_earlier_row(World *w)
{
    int n = w->T, t = below(w, 2) ? n - 1 : below(w, n);
    int *tokens = memory(w, (size_t)n * sizeof *tokens);
    memcpy(tokens, w->tokens, (size_t)n * sizeof *tokens);
    for (int i = t; i < n; i++) tokens[i] = (tokens[i] + 1) % w->s.n_vocab;
    MiRun *other = run(w, tokens, n, NULL, (MiOptions){0});
    TRY(same_sites(w, trunk(other), trunk(w->base), rows(0, t)));
    if (t) TRY(same_logits(w, trunk(other), trunk(w->base), t - 1));
    Range first = {0, 0, t, t + 1, MI_KEEP_ALL};
    if (w->s.n_vocab > 1 && !same_sites(w, trunk(other), trunk(w->base), first))
        return because("embed of pos %d does not depend on its token", t);
    return NULL;
}

/* Patch a whole cut through the model: everything above it is the source run's. */
static const char *patched_everywhere_is_source(World *w)
{
    MiRun *source = source_run(w);
    int l = below(w, w->s.n_layer), D = w->s.d_model;
    Range above = rows(0, w->T);
    MiEdits list = {0};
    add_edit(w, &list, copy_edit(w, source, MI_embed, 0, -1, 0, D, 0, w->T));
    add_edit(w, &list, copy_edit(w, source, MI_pos_embed, 0, -1, 0, D, 0, w->T));
    TRY(same_sites(w, trunk(whole(w, &list)), trunk(source), above));
    static const int cuts[] = {MI_resid_pre, MI_resid_mid, MI_resid_post};
    for (int i = 0; i < 3; i++) {
        MiEdits *cut = only(w, copy_edit(w, source, cuts[i], l, -1, 0, D, 0, w->T));
        above.first = step_of(w, cuts[i], l);
        MiRun *pass = whole(w, cut), *fork = fork_one(w, w->base, *cut, -1, -1);
        TRY(same_sites(w, trunk(pass), trunk(source), above));
        TRY(same_sites(w, trunk(fork), trunk(source), above));
        TRY(same_logits(w, trunk(fork), trunk(source), below(w, w->T)));
    }
    MiEdits text = {0};         /* every write into the residual stream, as text */
    TRY(parse_edits(w, &text, "patch", "embed,attns,mlps", w->base, source));
    above.first = 0;
    above.sites = MI_KEEP(resid_pre) | MI_KEEP(resid_mid) | MI_KEEP(resid_post) | MI_KEEP(ln_f);
    MiRun *pass = whole(w, &text);
    TRY(same_sites(w, trunk(pass), trunk(source), above));
    return same_logits(w, trunk(pass), trunk(source), w->T - 1);
}

static const char *fast_is_naive(World *w)
{
    MiEdits held = {0}, own = {0};
    w->calls = 1;
    MiRun *naive = run(w, w->tokens, w->T, NULL, (MiOptions){.naive = 1});
    TRY(same(w, trunk(naive), trunk(w->base)));
    TRY(random_edits(w, &held, 1));
    TRY(random_edits(w, &own, 2));
    naive = run(w, w->tokens, w->T, &held, (MiOptions){.naive = 1});
    MiRun *fork = fork_one(w, naive, own, -1, -1);
    TRY(same(w, trunk(fork), trunk(fork_one(w, whole(w, &held), own, -1, -1))));
    float all[4096], some[2];
    int pair[2] = {below(w, w->s.n_vocab), below(w, w->s.n_vocab)};
    if (mi_logits(w->base, 0, w->T - 1, all) < 0
        || mi_logits_of(w->base, 0, w->T - 1, pair, 2, some) < 0) return message();
    for (int i = 0; i < 2; i++) {
        const char *why = unequal(some + i, all + pair[i], 1);
        if (why) return because("mi_logits_of token %d against mi_logits: %s", pair[i], why);
    }
    return NULL;
}

static int edited(MiEdits list, int site, int layer)
{
    for (int i = 0; i < list.n; i++)
        if ((int)list.at[i].site == site && list.at[i].layer == layer) return 1;
    return 0;
}

static const char *residual_adds_up(World *w)
{
    MiEdits list = {0};
    if (below(w, 2)) TRY(random_edits(w, &list, 1 + below(w, 2)));
    MiRun *r = whole(w, &list);
    if (!r) return lost;
    int D = w->s.d_model;
    float *sum = memory(w, (size_t)D * sizeof *sum);
    for (int l = 0; l < w->s.n_layer; l++)
        for (int t = 0; t < w->T; t++) {
            struct { int site; const float *total, *a, *b; } rule[3] = {
                {MI_resid_pre, mi_site(r, 0, MI_resid_pre, l, t),
                 l ? mi_site(r, 0, MI_resid_post, l - 1, t) : mi_site(r, 0, MI_embed, 0, t),
                 l ? NULL : mi_site(r, 0, MI_pos_embed, 0, t)},
                {MI_resid_mid, mi_site(r, 0, MI_resid_mid, l, t),
                 mi_site(r, 0, MI_resid_pre, l, t), mi_site(r, 0, MI_attn_out, l, t)},
                {MI_resid_post, mi_site(r, 0, MI_resid_post, l, t),
                 mi_site(r, 0, MI_resid_mid, l, t), mi_site(r, 0, MI_mlp_out, l, t)}};
            for (int i = 0; i < 3; i++) {
                if (edited(list, rule[i].site, l)) continue;
                if (!rule[i].total || !rule[i].a || (!rule[i].b && (i || !l)))
                    return because("a residual site cannot be read: %s", message());
                if (rule[i].total == rule[i].a)
                    return because("%s layer %d pos %d has no buffer of its own",
                                   mi_site_info(rule[i].site)->name, l, t);
                for (int c = 0; c < D; c++)
                    sum[c] = rule[i].b ? rule[i].a[c] + rule[i].b[c] : rule[i].a[c];
                const char *why = unequal(rule[i].total, sum, D);
                if (why) return because("%s layer %d pos %d against its two parts: %s",
                                        mi_site_info(rule[i].site)->name, l, t, why);
            }
        }
    return NULL;
}

/* A trunk steered at S, forked from every half-layer: below S, at S (where the first site of the
 * half is computed and hooked again) and above; with and without one more edit of the lane. */
static const char *fork_steers_once(World *w)
{
    static const int firsts[] = {MI_embed, MI_pos_embed, MI_resid_pre, MI_resid_mid, MI_ln_f_scale,
                                 MI_ln_f};
    int site = below(w, 3) ? firsts[below(w, 6)] : below(w, MI_N_SITES);
    MiEdit steer = random_edit(w, site, w->T), more;
    steer.op = MI_ADD, steer.amount = 0.5f, steer.pos_end = INT_MAX, steer.value_stride = 0;
    steer.value = random_values(w, MI_ADD, site, 1, steer.count);
    MiEdits *held = only(w, steer), none = {0};
    MiRun *steered = whole(w, held);
    for (int half = 0; half <= 2 * w->s.n_layer; half++) {
        int t0 = below(w, w->T);
        const char *why = same(w, trunk(fork_one(w, steered, none, half, t0)), trunk(steered));
        if (why) return because("recomputed from half %d, row %d: %s", half, t0, why);
        if (half_of(w, site, steer.layer) >= half) more = steer;
        else more = random_edit(w, MI_ln_f, w->T);
        more.pos = t0, more.pos_end = INT_MAX, more.value_stride = 0;
        if (is_keys(site)) more.first = least(more.first, t0);
        MiEdits *own = only(w, more), all = joined(w, *held, *own);
        why = same(w, trunk(fork_one(w, steered, *own, half, t0)), trunk(whole(w, &all)));
        if (why) return because("steered again from half %d, row %d: %s", half, t0, why);
    }
    return NULL;
}

static const char *edit_outside_the_cone_is_an_error(World *w)
{
    for (int i = 0; i < 4; i++) {
        MiEdit e = random_edit(w, below(w, MI_N_SITES), w->T);
        int half = half_of(w, e.site, e.layer), above = half + 1 + below(w, 3);
        MiLane lanes[2] = {{w->base, &e, 1, -1, 0}, {w->base, &e, 1, -1, 0}};
        add_edit(w, &(MiEdits){0}, e);
        if (above <= 2 * w->s.n_layer) {
            MiRun *missed = mi_fork(lanes, 2, above, MI_KEEP_ALL);
            if (missed) mi_free(missed);
            if (missed) return because("a fork from half %d misses its edit of half %d", above,
                                       half);
            if (!mi_error() || !*mi_error()) return "a fork above its edit gives no message";
        }
        if (e.pos + 1 < w->T) {
            lanes[1].t0 = e.pos + 1 + below(w, w->T - e.pos - 1);
            MiRun *missed = mi_fork(lanes, 2, -1, MI_KEEP_ALL);
            if (missed) mi_free(missed);
            if (missed) return because("a lane from row %d misses its edit of row %d", lanes[1].t0,
                                       e.pos);
            if (!mi_error() || !*mi_error()) return "a lane below its edit gives no message";
        }
    }
    return NULL;
}

/* Whatever can be read is right: the sites in `must` are there (from a half-layer and a row on),
 * the others may be, and are not stale. */
static const char *readable_is_right(World *w, View v, View full, uint64_t must, int half, int from)
{
    if (!v.run || !full.run) return because("%s", lost);
    int n = mi_n_tokens(v.run, v.lane);
    for (int site = 0; site < MI_N_SITES; site++)
        for (int layer = 0; layer < layers_of(w, site); layer++)
            for (int t = 0; t < n; t++) {
                const char *name = mi_site_info(site)->name;
                if (part(v, site, layer, is_keys(site) ? 0 : -1, t))
                    TRY(same_address(w, v, full, site, layer, t));
                else if (must >> site & 1 && half_of(w, site, layer) >= half && t >= from)
                    return because("%s layer %d pos %d was kept: %s", name, layer, t, message());
                else if (!mi_error() || !*mi_error())
                    return because("%s is not kept, and mi_error() says nothing", name);
            }
    return same_logits(w, v, full, n - 1);
}

/* Lanes of which one position is read: they end there (edits may lie behind it), and the last layer
 * leaves the rows before it out. What can be read is right; the row that is read is complete. */
static const char *read_position_is_whole_pass(World *w)
{
    int n = 1 + below(w, MAX_LANES);
    MiEdits held = {0}, own[MAX_LANES] = {{0}};
    MiLane lanes[MAX_LANES];
    w->calls = 1;
    TRY(random_edits(w, &held, below(w, 2)));
    MiRun *base = whole(w, &held);
    for (int i = 0; i < n; i++) {
        int read = 1 + below(w, w->T);
        for (int j = 1 + below(w, 2); j > 0; j--)
            add_edit(w, &own[i], random_edit(w, below(w, MI_N_SITES), w->T));
        int t0 = below(w, least(lowest_row(own[i]), read - 1) + 1);
        lanes[i] = (MiLane){base, own[i].at, own[i].n, below(w, 2) ? -1 : t0, read};
    }
    int half = below(w, 3) ? -1 : 0, few = below(w, 2);
    MiRun *fork = fork_lanes(w, lanes, n, half, few ? MI_KEEP_NONE : MI_KEEP_ALL);
    for (int i = 0; i < n; i++) {
        MiEdits all = joined(w, held, own[i]);
        View v = lane_of(fork, i), pass = trunk(whole(w, &all));
        int read = lanes[i].read;
        const char *why = readable_is_right(w, v, pass, 0, 0, 0);
        if (!why && mi_n_tokens(fork, i) != read) why = "it does not end at what is read";
        if (!why && !few) why = same_sites(w, v, pass, rows(read - 1, read));
        if (why) return because("lane %d of %d, read at %d: %s", i, n, read - 1, why);
    }
    return NULL;
}

/* The last residual stream is what the model says: the lens there gives the logits. */
static const char *lens_ends_at_the_logits(World *w)
{
    static float lens[4096], logits[4096];
    int t = below(w, w->T);
    for (int final = 0; final < 2; final++) {
        if (mi_logits(w->base, 0, t, logits) < 0
            || mi_lens(w->base, 0, MI_resid_post, w->s.n_layer - 1, t, final, lens) < 0)
            return because("mi_lens or mi_logits: %s", message());
        const char *why = unequal(lens, logits, w->s.n_vocab);
        if (why) return because("pos %d, %s statistics: %s", t, final ? "final" : "own", why);
    }
    return NULL;
}

static const char *kept_sites_change_nothing(World *w)
{
    uint64_t always = MI_KEEP(k) | MI_KEEP(v) | MI_KEEP(resid_pre) | MI_KEEP(attn_out)
                      | MI_KEEP(resid_post);
    uint64_t keep = MI_KEEP_NONE | (below(w, 3) ? 0 : random_bits(&w->random) & MI_KEEP_ALL);
    MiEdits list = {0};
    MiRun *few = run(w, w->tokens, w->T, NULL, (MiOptions){.keep = keep});
    TRY(readable_is_right(w, trunk(few), trunk(w->base), keep | always, 0, 0));
    for (int site = 0; site < MI_N_SITES; site++)
        if (mi_site_info(site)->place == MI_BLOCK && !((keep | always) >> site & 1)
            && part(trunk(few), site, 0, is_keys(site) ? 0 : -1, 0))
            return because("%s was not kept and can be read", mi_site_info(site)->name);
    TRY(random_edits(w, &list, 2));
    MiRun *pass = whole(w, &list);
    TRY(same_logits(w, trunk(fork_one(w, few, list, -1, -1)), trunk(pass), w->T - 1));
    int half = lowest_half(w, list), t0 = lowest_row(list);
    MiLane lane = {w->base, list.at, list.n, -1, 0};
    MiRun *fork = fork_lanes(w, &lane, 1, -1, keep);
    TRY(readable_is_right(w, trunk(fork), trunk(pass), keep, half, t0));
    lane.trunk = few;
    fork = fork_lanes(w, &lane, 1, -1, MI_KEEP_ALL);
    uint64_t entry = MI_KEEP(embed) | MI_KEEP(pos_embed);   /* may come from the trunk */
    return readable_is_right(w, trunk(fork), trunk(pass), ~entry, half, t0);
}

/* A run that keeps only keys and values reads the same, and is refused as a trunk. */
static const char *cache_is_no_trunk(World *w)
{
    uint64_t keep = MI_KEEP_CACHE | (below(w, 2) ? 0 : MI_KEEP(resid_mid) | MI_KEEP(resid_post));
    MiRun *few = run(w, w->tokens, w->T, NULL, (MiOptions){.keep = keep});
    MiLane lane = {few, NULL, 0, -1, 0};
    if (mi_fork(&lane, 1, -1, MI_KEEP_ALL)) return "a run with MI_KEEP_CACHE was forked";
    TRY(readable_is_right(w, trunk(few), trunk(w->base), keep | MI_KEEP(k) | MI_KEEP(v), 0, 0));
    return same_logits(w, trunk(few), trunk(w->base), w->T - 1);
}

static const char *edit_touches_only_its_cone(World *w)
{
    for (int i = 0; i < 3; i++) {
        int site = i ? below(w, MI_N_SITES) : MI_k + below(w, 4);   /* k, v, scores, pattern */
        MiEdit e = random_edit(w, site, w->T);
        e.op = MI_ADD, e.amount = 0.5f, e.value_stride = 0;
        e.value = random_values(w, MI_ADD, site, 1, e.count);
        MiRun *pass = whole(w, only(w, e));
        View a = trunk(pass), b = trunk(w->base);
        int here = step_of(w, site, e.layer), end = least(e.pos_end, w->T);
        TRY(same_sites(w, a, b, rows(0, e.pos)));                           /* the past */
        TRY(same_sites(w, a, b, (Range){0, here - 1, 0, w->T, MI_KEEP_ALL}));  /* what is below */
        TRY(same_sites(w, a, b, (Range){here, here, end, w->T, MI_KEEP_ALL}));
        if (mi_site_info(site)->place == MI_BLOCK && site != MI_resid_pre && site != MI_ln1_scale
            && site != MI_ln1 && site != MI_k && site != MI_v) {    /* no other row sees it here */
            int last = step_of(w, MI_resid_post, e.layer);
            TRY(same_sites(w, a, b, (Range){here, last, end, w->T, MI_KEEP_ALL}));
        }
        if (!same_address(w, a, b, site, e.layer, e.pos))
            return because("the edit left its own row %d unchanged", e.pos);
        int alone = (site == MI_q || site == MI_k || site == MI_scores) && end == 1;
        if (site == MI_ln_f || alone || w->s.d_model < 3) continue;     /* a single key: weight 1 */
        if (!same_sites(w, a, b, (Range){here + 1, INT_MAX, e.pos, w->T, MI_KEEP_ALL}))
            return because("nothing reads the edited %s", mi_site_info(site)->name);
    }
    return NULL;
}

/* Edits element by element do not mind being cut into pieces of columns and rows. (They do where a
 * compiler rounds the tail of a loop otherwise than its body.) */
static const char *edit_is_its_pieces(World *w)
{
    MiEdit e = random_edit(w, below(w, MI_N_SITES), w->T);
    if (e.op == MI_PROJECT) e.op = MI_ADD;
    MiEdits *list = only(w, e), pieces = {0};
    int row = e.pos + below(w, least(e.pos_end, w->T) - e.pos), column = below(w, e.count);
    for (int i = 0; i < 4; i++) {
        MiEdit piece = e;
        if (i & 1) piece.first += column, piece.count -= column;
        else piece.count = column;
        if (i & 2) piece.pos = row;
        else piece.pos_end = row;
        if (piece.count == 0 || piece.pos == piece.pos_end) continue;
        if (e.value) piece.value += (size_t)(piece.pos - e.pos) * e.value_stride
                                    + (size_t)(piece.first - e.first);
        add_edit(w, &pieces, piece);
    }
    return same(w, trunk(whole(w, &pieces)), trunk(whole(w, list)));
}

static const char *generation_is_whole_pass(World *w)
{
    MiEdits list = {0}, own = {0};
    w->calls = 1;
    for (int i = 1 + below(w, 3); i > 0; i--) {
        MiEdit e = random_edit(w, below(w, MI_N_SITES), w->T);
        if (below(w, 4)) e.pos_end = INT_MAX, e.value_stride = 0;
        add_edit(w, &list, e);
    }
    int n = 1;
    for (int i = 0; i < list.n; i++)                /* all of them begin within the prompt */
        if (list.at[i].pos >= n) n = list.at[i].pos + 1;
    n += below(w, w->T - n + 1);
    MiRun *pass = whole(w, &list);
    MiRun *grown = run(w, w->tokens, n, &list, (MiOptions){.capacity = w->T});
    while (grown && n < w->T) {
        int step = below(w, 3) ? 1 : 1 + below(w, w->T - n);
        if (mi_append(grown, w->tokens + n, step) < 0) return because("mi_append: %s", message());
        n += step;
    }
    TRY(same(w, trunk(grown), trunk(pass)));
    TRY(random_edits(w, &own, 1));
    return same(w, trunk(fork_one(w, grown, own, -1, -1)), trunk(fork_one(w, pass, own, -1, -1)));
}

/* Upstream values are driven to inf and NaN; a zero ablation further on must give exactly what
 * it gives without them. Multiplying by zero would give NaN. */
static const char *zeroing_assigns(World *w)
{
    static const struct { int poison, zeroed; const char *ablate; } cases[] = {
        {MI_mlp_pre, MI_mlp_post, "L%d.mlp_post"}, {MI_v, MI_z, "L%dH*"},
        {MI_mlp_post, MI_mlp_out, "L%d.mlp_out"}, {MI_z, MI_attn_out, "L%d.attn_out"},
        {MI_resid_mid, MI_resid_mid, "L%d.resid_mid"}, {MI_pattern, MI_z, "L%dH*.z"}};
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        int l = below(w, w->s.n_layer), zeroed = cases[i].zeroed, keys = is_keys(cases[i].poison);
        int width = keys ? w->T : width_of(w, cases[i].poison);
        MiEdit zero = {.op = MI_SET, .site = (MiSite)zeroed, .layer = l, .head = -1,
                       .count = width_of(w, zeroed), .pos_end = INT_MAX};
        MiEdits poisoned = {0}, clean = {0};
        for (int n = 0; n < 2 * (keys ? w->s.n_head : 1); n++)
            add_edit(w, &poisoned, (MiEdit){.op = MI_SCALE, .site = (MiSite)cases[i].poison,
                     .layer = l, .head = keys ? n / 2 : -1, .count = width, .pos_end = INT_MAX,
                     .amount = 3e38f});
        add_edit(w, &clean, zero);
        if (below(w, 2)) {
            add_edit(w, &poisoned, zero);
        } else {
            char text[64];
            snprintf(text, sizeof text, cases[i].ablate, l);
            TRY(parse_edits(w, &poisoned, "ablate", text, w->base, NULL));
        }
        View a = trunk(whole(w, &poisoned)), b = trunk(whole(w, &clean));
        TRY(same_sites(w, a, b, (Range){step_of(w, zeroed, l), INT_MAX, 0, w->T, MI_KEEP_ALL}));
        TRY(same_logits(w, a, b, w->T - 1));
        const float *x = mi_site(a.run, 0, (MiSite)zeroed, l, w->T - 1);
        for (int c = 0; c < width_of(w, zeroed); c++)
            if (x[c] != 0) return because("%s [%d] is %g and was set to 0",
                                          mi_site_info(zeroed)->name, c, (double)x[c]);
    }
    return NULL;
}

/* A weight of 0 on an infinite value gives NaN, as in the sum that is written down. */
static const char *zero_weights_are_not_skipped(World *w)
{
    int l = below(w, w->s.n_layer), h = below(w, w->s.n_head), t = below(w, w->T);
    int key = below(w, t + 1), d = w->s.d_head;
    MiEdits list = {0};
    add_edit(w, &list, (MiEdit){.op = MI_SET, .site = MI_v, .layer = l, .head = -1, .first = h * d,
                                .count = d, .pos = key, .pos_end = key + 1, .amount = INFINITY});
    add_edit(w, &list, (MiEdit){.op = MI_SET, .site = MI_pattern, .layer = l, .head = h,
                                .first = key, .count = 1, .pos = t, .pos_end = t + 1});
    MiRun *r = whole(w, &list);
    if (!r) return lost;
    const float *z = mi_head(r, 0, MI_z, l, h, t);
    for (int c = 0; z && c < d; c++)
        if (!isnan(z[c])) return because("z layer %d head %d pos %d [%d] is %g: 0 x inf left out",
                                         l, h, t, c, (double)z[c]);
    return z ? NULL : message();
}

/* A pattern is a softmax over the keys up to the query. A head that is left no key at a row looks
 * at nothing there: weights and z are 0, not NaN. */
static const char *pattern_is_a_softmax(World *w)
{
    int l = below(w, w->s.n_layer), h = below(w, w->s.n_head), t = below(w, w->T);
    for (int head = 0; head < w->s.n_head; head++) {
        const float *pattern = mi_head(w->base, 0, MI_pattern, l, head, t);
        double sum = 0;
        for (int key = 0; pattern && key <= t; key++) sum += (double)pattern[key];
        if (!pattern || !(fabs(sum - 1) < 1e-5))
            return because("pattern layer %d head %d pos %d sums to %g", l, head, t, sum);
    }
    MiEdits cut = {0}, none = {0};
    char text[64];
    snprintf(text, sizeof text, "L%dH%d@%d:*", l, h, t);
    if (below(w, 2)) TRY(parse_edits(w, &cut, "knockout", text, w->base, NULL));
    else add_edit(w, &cut, (MiEdit){.op = MI_SET, .site = MI_scores, .layer = l, .head = h,
                                    .count = w->T, .pos = t, .pos_end = t + 1,
                                    .amount = -INFINITY});
    MiRun *pass = run(w, w->tokens, w->T, &cut, (MiOptions){.naive = below(w, 2)});
    if (!pass) return lost;
    const float *pattern = mi_head(pass, 0, MI_pattern, l, h, t);
    const float *z = mi_head(pass, 0, MI_z, l, h, t);
    for (int key = 0; key <= t; key++)
        if (pattern[key] != 0) return because("no key is left, and key %d has weight %g", key,
                                              (double)pattern[key]);
    for (int c = 0; c < w->s.d_head; c++)
        if (z[c] != 0) return because("no key is left, and z[%d] is %g", c, (double)z[c]);
    TRY(same(w, trunk(fork_one(w, w->base, cut, -1, -1)), trunk(pass)));
    return same(w, trunk(fork_one(w, pass, none, 0, 0)), trunk(pass));
}

/* Noise on zeros is the noise itself: another number at every address, and the same one in every
 * prompt; a standard normal. */
static const char *noise_is_keyed_by_address(World *w)
{
    static const int sites[] = {MI_resid_mid, MI_mlp_out};
    int D = w->s.d_model, n = 0;
    uint64_t seed = random_bits(&w->random);
    const float **g = memory(w, (size_t)(6 * w->s.n_layer * w->T) * sizeof *g);
    double sum = 0, squares = 0;
    for (int draw = 0; draw < 3; draw++) {      /* as it is, another seed, another sample */
        MiEdits list = {0};
        for (int i = 0; i < 2 * w->s.n_layer; i++) {
            MiEdit e = {.op = MI_SET, .site = (MiSite)sites[i & 1], .layer = i / 2, .head = -1,
                        .count = D, .pos_end = INT_MAX};
            add_edit(w, &list, e);
            e.op = MI_NOISE, e.amount = 1, e.seed = seed + (draw == 1), e.sample = draw == 2;
            add_edit(w, &list, e);
        }
        MiRun *noisy = whole(w, &list);
        MiRun *other = run(w, random_tokens(w, w->T), w->T, &list, (MiOptions){0});
        Range noise = rows(0, w->T);
        noise.sites = MI_KEEP(resid_mid) | MI_KEEP(mlp_out);
        TRY(same_sites(w, trunk(noisy), trunk(other), noise));
        for (int i = 0; i < 2 * w->s.n_layer; i++)
            for (int t = 0; t < w->T; t++)
                g[n++] = mi_site(noisy, 0, (MiSite)sites[i & 1], i / 2, t);
    }
    for (int i = 0; i < n; i++)
        for (int c = 0; c < D; c++) {
            double x = (double)g[i][c];
            sum += x, squares += x * x;
        }
    double size = (double)n * D;
    if (fabs(sum / size) > 6 / sqrt(size) || fabs(squares / size - 1) > 10 / sqrt(size))
        return because("mean %g and variance %g of %g numbers", sum / size, squares / size, size);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if (memcmp(g[i], g[j], sizeof **g) == 0 && D > 1 && g[i][1] == g[j][1])
                return because("rows %d and %d of %d have the same noise", j, i, n);
    return NULL;
}

static const struct {
    const char *name;
    const char *(*holds)(World *);
} promises[] = {
    {"decode token by token == prefill", decode_is_prefill},
    {"fork == whole pass", fork_is_whole_pass},
    {"a lane == that edit run alone", lane_is_run_alone},
    {"1 thread == n threads", one_thread_is_n_threads},
    {"patching a site with itself == no edit", self_patch_is_no_edit},
    {"a later token leaves earlier rows alone", later_token_changes_no_earlier_row},
    {"source patched in everywhere == source", patched_everywhere_is_source},
    {"fast kernel == naive kernel", fast_is_naive},
    {"resid_mid and resid_post are exact sums", residual_adds_up},
    {"a lane read at one position == whole pass", read_position_is_whole_pass},
    {"the lens ends at the logits", lens_ends_at_the_logits},
    {"a fork never steers twice", fork_steers_once},
    {"an edit outside the cone is an error", edit_outside_the_cone_is_an_error},
    {"fewer kept sites change nothing else", kept_sites_change_nothing},
    {"a run of keys and values only is no trunk", cache_is_no_trunk},
    {"an edit touches only its light cone", edit_touches_only_its_cone},
    {"an edit == its pieces", edit_is_its_pieces},
    {"generation == whole pass", generation_is_whole_pass},
    {"zeroing assigns", zeroing_assigns},
    {"zero weights are not skipped", zero_weights_are_not_skipped},
    {"a pattern is a softmax", pattern_is_a_softmax},
    {"noise is keyed by its address", noise_is_keyed_by_address},
};
enum { N_PROMISES = sizeof promises / sizeof *promises };

static uint64_t first_seed = 1;
static int n_seeds = N_CONFIGURATIONS;

static int all_promises(void)
{
    static World w;
    static int failures[N_PROMISES];
    setenv("TMPDIR", scratch, 1);               /* models go where a crash does not leave them */
    for (uint64_t seed = first_seed; seed < first_seed + (uint64_t)n_seeds; seed++) {
        doing("an unedited run of a random model: seed %d", (int)seed);
        if (open_world(&w, seed)) {
            CHECK(0, "an unedited run of a random model: %s: %s", w.where, lost);
            close_world(&w);
            break;
        }
        for (int i = 0; i < N_PROMISES; i++) {
            if (failures[i] == 3) continue;     /* broken, and said so often enough */
            begin(&w, seed * 64 + (uint64_t)i);
            doing("%s: %s", promises[i].name, w.where);
            const char *why = promises[i].holds(&w);
            failures[i] += why != NULL;
            CHECK(!why, "%s: %s: %s%s%s", promises[i].name, w.where, why ? why : "",
                  w.edits[0] ? "; edits:" : "", w.edits);
            free_from(&w, 1);
        }
        close_world(&w);
    }
    return report();
}

int main(int argc, char **argv)
{
    if (argc > 1) first_seed = (uint64_t)atoi(argv[1]), n_seeds = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    return in_scratch(all_promises);
}
