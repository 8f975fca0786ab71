/* world.h - a random model and prompt, random edits of every kind, and comparisons at every
 * address: what the tests of equal bits are made of.
 *
 *     static World w;
 *     if (open_world(&w, 17)) ...                      // model, prompt and unedited run number 17
 *     MiEdits list = {0};
 *     add_edit(&w, &list, random_edit(&w, MI_z, w.T));
 *     MiRun *fork = fork_one(&w, w.base, list, -1, -1), *pass = whole(&w, &list);
 *     const char *why = same(&w, trunk(fork), trunk(pass));
 *     CHECK(!why, "fork == whole pass: %s: %s", w.where, why);
 *     free_from(&w, 1);                                // all but w.base
 *     close_world(&w);
 */
#ifndef WORLD_H
#define WORLD_H

#include "mi.h"
#include "random_model.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>

/* ---- A configuration, and what has to be freed after a promise was tried on it ---- */

enum { MAX_RUNS = 2000, MAX_LISTS = 400, MAX_BLOCKS = 20000 };

typedef struct {
    uint64_t seed, random;      /* which one this is; the state of its random numbers */
    RandomModel made;
    MiShape  s;
    MiModel *model;
    int      T, *tokens;
    MiRun   *base;              /* the prompt, unedited: all sites, one thread, fast kernels */
    int      knockouts;         /* edits may set scores to -inf (and then do nothing that
                                 * would make NaN of them) */
    int      calls;             /* some random edits are functions */
    MiRun   *runs[MAX_RUNS];     int n_runs;
    MiEdits  lists[MAX_LISTS];   int n_lists;
    void    *blocks[MAX_BLOCKS]; int n_blocks;
    char     where[256], edits[1024];
} World;

/* Why a promise is broken: one line. Promises return NULL when they hold. An earlier reason may be
 * part of a new one. */
static char lost[512];          /* why there is no run, when there should be one */

static inline const char *because(const char *format, ...)
{
    static char reason[1024];
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return memcpy(reason, text, sizeof reason);
}

#define TRY(expression) do { const char *why_ = (expression); if (why_) return why_; } while (0)

static inline const char *message(void)
{
    const char *text = mi_error();
    return text && *text ? text : "(no message)";
}

static inline int below(World *w, int n) { return random_below(&w->random, n); }
static inline float real(World *w) { return random_float(&w->random); }
static inline int least(int a, int b) { return a < b ? a : b; }

static inline void *memory(World *w, size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p || w->n_blocks == MAX_BLOCKS) abort();
    return w->blocks[w->n_blocks++] = p;
}

static inline MiRun *keep_run(World *w, const char *what, MiRun *run)
{
    if (!run) snprintf(lost, sizeof lost, "%s gave no run: %s", what, message());
    else if (w->n_runs == MAX_RUNS) abort();
    else w->runs[w->n_runs++] = run;
    return run;
}

/* Get ready for another experiment with this model. */
static inline void begin(World *w, uint64_t seed)
{
    w->random = seed;
    w->edits[0] = 0;
    w->calls = 0;
    w->knockouts = below(w, 3) == 0;
    snprintf(lost, sizeof lost, "no run");
}

/* Free all edits and values, and the runs from number first_run on. */
static inline void free_from(World *w, int first_run)
{
    while (w->n_runs > first_run) mi_free(w->runs[--w->n_runs]);
    while (w->n_lists) mi_edits_free(&w->lists[--w->n_lists]);
    while (w->n_blocks) free(w->blocks[--w->n_blocks]);
}

/* ---- Running ---- */

static inline MiRun *run(World *w, const int *tokens, int n, const MiEdits *edits,
                         MiOptions options)
{
    if (!options.threads) options.threads = 1;
    return keep_run(w, "mi_run", mi_run(w->model, tokens, n, edits, &options));
}

static inline MiRun *whole(World *w, const MiEdits *edits)
{
    return run(w, w->tokens, w->T, edits, (MiOptions){0});
}

static inline MiRun *fork_lanes(World *w, const MiLane *lanes, int n, int half, uint64_t keep)
{
    for (int i = 0; i < n; i++)
        if (!lanes[i].trunk) return NULL;
    return keep_run(w, "mi_fork", mi_fork(lanes, n, half, keep));
}

static inline MiRun *fork_one(World *w, const MiRun *trunk, MiEdits edits, int half, int t0)
{
    MiLane lane = {.trunk = trunk, .edits = edits.at, .n_edits = edits.n, .t0 = t0};
    return fork_lanes(w, &lane, 1, half, MI_KEEP_ALL);
}

static inline int *random_tokens(World *w, int n)
{
    int *tokens = memory(w, (size_t)n * sizeof *tokens);
    for (int i = 0; i < n; i++) tokens[i] = below(w, w->s.n_vocab);
    return tokens;
}

static inline MiRun *source_run(World *w)      /* another prompt of the same length */
{
    return run(w, random_tokens(w, w->T), w->T, NULL, (MiOptions){0});
}

/* ---- Comparing: bits, at every address ---- */

static inline int layers_of(const World *w, int site)
{
    return mi_site_info(site)->place == MI_BLOCK ? w->s.n_layer : 1;
}

static inline int width_of(const World *w, int site)       /* not for KEYS */
{
    MiWidth width = mi_site_info(site)->width;
    return width == MI_ONE ? 1 : width == MI_D_MLP ? w->s.d_mlp : w->s.d_model;
}

static inline int is_keys(int site) { return mi_site_info(site)->width == MI_KEYS; }

/* The half-layer that computes an address, and the order in which addresses are computed. */
static inline int half_of(const World *w, int site, int layer)
{
    const MiSiteInfo *info = mi_site_info(site);
    return info->place == MI_ENTRY ? 0 : info->place == MI_FINAL ? 2 * w->s.n_layer
                                                                 : 2 * layer + info->half;
}

static inline int step_of(const World *w, int site, int layer)
{
    MiPlace place = mi_site_info(site)->place;
    return site + MI_N_SITES * (place == MI_ENTRY ? 0 : place == MI_FINAL ? w->s.n_layer + 1
                                                                          : layer + 1);
}

typedef struct { const MiRun *run; int lane; } View;
static inline View lane_of(const MiRun *r, int lane) { return (View){r, lane}; }
static inline View trunk(const MiRun *r) { return (View){r, 0}; }

/* The part of one head, or a whole row with head -1. */
static inline const float *part(View v, int site, int layer, int head, int pos)
{
    return head < 0 ? mi_site(v.run, v.lane, (MiSite)site, layer, pos)
                    : mi_head(v.run, v.lane, (MiSite)site, layer, head, pos);
}

static inline const char *unequal(const float *a, const float *b, int n)
{
    static char text[160];
    if (memcmp(a, b, (size_t)n * sizeof *a) == 0) return NULL;
    int i = 0;
    while (i < n - 1 && memcmp(a + i, b + i, sizeof *a) == 0) i++;
    snprintf(text, sizeof text, "[%d] of %d is %.9g (%a), not %.9g (%a)", i, n, (double)a[i],
             (double)a[i], (double)b[i], (double)b[i]);
    return text;
}

/* Addresses: steps first .. last (step_of), rows from .. to-1; the sites in the mask. */
typedef struct { int first, last, from, to; uint64_t sites; } Range;
static inline Range rows(int from, int to) { return (Range){0, INT_MAX, from, to, MI_KEEP_ALL}; }

/* Head by head where there are heads, whole rows elsewhere. */
static inline const char *same_address(const World *w, View a, View b, int site, int layer, int pos)
{
    const char *name = mi_site_info(site)->name;
    MiWidth width = mi_site_info(site)->width;
    int heads = width == MI_KEYS || width == MI_HEADS;
    int n = width == MI_KEYS ? pos + 1 : heads ? w->s.d_head : width_of(w, site);
    for (int h = 0; h < (heads ? w->s.n_head : 1); h++) {
        const float *x = part(a, site, layer, heads ? h : -1, pos);
        const float *y = part(b, site, layer, heads ? h : -1, pos);
        if (!x || !y) return because("site %s layer %d pos %d cannot be read: %s", name, layer, pos,
                                     message());
        const char *why = unequal(x, y, n);
        if (why && heads) return because("site %s layer %d pos %d head %d: %s", name, layer, pos, h,
                                         why);
        if (why) return because("site %s layer %d pos %d: %s", name, layer, pos, why);
    }
    return NULL;
}

static inline const char *same_sites(const World *w, View a, View b, Range r)
{
    if (!a.run || !b.run) return because("%s", lost);
    for (int layer = 0; layer < w->s.n_layer; layer++)
        for (int site = 0; site < MI_N_SITES; site++) {
            int step = step_of(w, site, layer);
            if (layer >= layers_of(w, site) || step < r.first || step > r.last) continue;
            if (!(r.sites >> site & 1)) continue;
            for (int pos = r.from; pos < r.to; pos++)
                TRY(same_address(w, a, b, site, layer, pos));
        }
    return NULL;
}

static inline const char *same_logits(const World *w, View a, View b, int pos)
{
    static float x[4096], y[4096];
    if (!a.run || !b.run) return because("%s", lost);
    if (mi_logits(a.run, a.lane, pos, x) < 0 || mi_logits(b.run, b.lane, pos, y) < 0)
        return because("logits of pos %d: %s", pos, message());
    const char *why = unequal(x, y, w->s.n_vocab);
    return why ? because("logits of pos %d: %s", pos, why) : NULL;
}

/* Everything that can be read: all sites, layers and rows; logits of three rows. */
static inline const char *same(World *w, View a, View b)
{
    if (!a.run || !b.run) return because("%s", lost);
    int T = mi_n_tokens(b.run, b.lane);
    if (mi_n_tokens(a.run, a.lane) != T)
        return because("%d tokens, not %d", mi_n_tokens(a.run, a.lane), T);
    for (int t = 0; t < T; t++)
        if (mi_token(a.run, a.lane, t) != mi_token(b.run, b.lane, t))
            return because("token of pos %d is %d, not %d", t, mi_token(a.run, a.lane, t),
                           mi_token(b.run, b.lane, t));
    TRY(same_sites(w, a, b, rows(0, T)));
    TRY(same_logits(w, a, b, T - 1));
    TRY(same_logits(w, a, b, below(w, T)));
    return same_logits(w, a, b, 0);
}

/* ---- Random edits ---- */

static inline void add_edit(World *w, MiEdits *list, MiEdit e)
{
    static const char *const ops[] = {"set", "mix", "add", "scale", "project", "noise",
                                      "call"};
    MiEdit *at = memory(w, (size_t)(list->n + 1) * sizeof *at);
    if (list->n) memcpy(at, list->at, (size_t)list->n * sizeof *at);
    at[list->n++] = e;
    list->at = at;
    size_t used = strlen(w->edits);
    snprintf(w->edits + used, sizeof w->edits - used,
             " {%s %s layer %d head %d columns %d+%d rows %d-%d amount %g order %d}",
             ops[e.op], mi_site_info(e.site)->name, e.layer, e.head, e.first, e.count, e.pos,
             e.pos_end == INT_MAX ? -1 : e.pos_end - 1, (double)e.amount, e.order);
}

/* SET to what a run holds at these rows and columns (pos_end at most T). */
static inline MiEdit copy_edit(World *w, const MiRun *from, int site, int layer, int head,
                               int first, int count, int pos, int pos_end)
{
    float *value = memory(w, (size_t)(pos_end - pos) * (size_t)count * sizeof *value);
    for (int t = pos; from && t < pos_end; t++) {
        const float *x = part(trunk(from), site, layer, head, t);
        int n = is_keys(site) ? least(first + count, t + 1) - first : count;
        if (x && n > 0)
            memcpy(value + (size_t)(t - pos) * (size_t)count, x + first, (size_t)n * sizeof *x);
    }
    return (MiEdit){.op = MI_SET, .site = (MiSite)site, .layer = layer, .head = head,
                    .first = first, .count = count, .pos = pos, .pos_end = pos_end,
                    .value = value, .value_stride = (size_t)count};
}

/* The values v of an edit: rows x count, of norm 1 for PROJECT, near 1 for the sigmas. */
static inline float *random_values(World *w, MiOp op, int site, int n_rows, int count)
{
    float *v = memory(w, (size_t)n_rows * (size_t)count * sizeof *v);
    for (int r = 0; r < n_rows; r++) {
        double norm = 0;
        for (int i = 0; i < count; i++) {
            float x = mi_site_info(site)->width == MI_ONE ? 1.25f + 0.75f * real(w) : real(w);
            v[(size_t)r * (size_t)count + (size_t)i] = x;
            norm += (double)x * (double)x;
        }
        for (int i = 0; i < count && op == MI_PROJECT; i++)
            v[(size_t)r * (size_t)count + (size_t)i] /= (float)sqrt(norm);
    }
    return v;
}

/* A pure function: x scaled, and every other number of it replaced by some of what was finished
 * `back` positions before. */
typedef struct { MiSite site; int layer, head, back, width; float amount; } Call;

static inline int call(void *context, const MiView *view, float *x, int n)
{
    const Call *c = context;
    int pos = view->pos > c->back ? view->pos - c->back : 0, width = c->width ? c->width : pos + 1;
    for (int i = 0; i < n; i++) x[i] *= c->amount;
    if (!view->edit->sees) return 0;
    const float *seen = mi_look(view, c->site, c->layer, c->head, pos);
    for (int i = pos % 2; seen && i < n; i += 2) x[i] = seen[i % width];
    return seen ? 0 : -1;
}

/* An edit becomes a function at the same address. */
static inline void make_call(World *w, MiEdit *e)
{
    int sigma = mi_site_info(e->site)->width == MI_ONE, own = half_of(w, e->site, e->layer);
    Call *c = memory(w, sizeof *c);
    c->amount = sigma || w->knockouts ? 1.25f + 0.75f * real(w) : 2 * real(w);
    c->back = below(w, 4);
    e->op = MI_CALL, e->call = call, e->context = c, e->value = NULL, e->value_stride = 0;
    for (int tries = 0; tries < 30 && !sigma && !e->sees; tries++) {
        int site = below(w, MI_N_SITES), layer = below(w, layers_of(w, site));
        int half = half_of(w, site, layer), keys = is_keys(site);
        if (half > own || (half == own && site >= (int)e->site) || (keys && w->knockouts)) continue;
        c->site = (MiSite)site, c->layer = layer;
        c->head = keys ? below(w, w->s.n_head) : -1;
        c->width = keys ? 0 : width_of(w, site);
        e->sees = (uint64_t)1 << site;
    }
}

/* Any op at any address of a run of T rows. Sigmas stay positive and infinite scores never meet
 * an op that makes NaN of them: every number stays finite, and so do comparisons. */
static inline MiEdit random_edit(World *w, int site, int T)
{
    MiEdit e = {.site = (MiSite)site, .head = -1, .order = below(w, 3)};
    int sigma = mi_site_info(site)->width == MI_ONE, width;
    do e.op = (MiOp)below(w, 6);
    while ((sigma && e.op == MI_PROJECT)
           || (w->knockouts && site == MI_scores && (e.op == MI_MIX || e.op == MI_PROJECT)));
    e.layer = below(w, layers_of(w, site));
    e.pos = below(w, 3) ? below(w, T) : 0;
    e.pos_end = below(w, 2) ? INT_MAX : e.pos + 1 + below(w, T - e.pos);
    width = is_keys(site) ? T : width_of(w, site);
    if (is_keys(site)) e.head = below(w, w->s.n_head);
    if (below(w, 3)) e.first = below(w, is_keys(site) ? e.pos + 1 : width);
    e.count = below(w, 2) ? width - e.first : 1 + below(w, width - e.first);
    e.amount = e.op == MI_SCALE && (sigma || w->knockouts) ? 1.25f + 0.75f * real(w)
             : sigma ? 0.1f * real(w) : 2 * real(w);
    if (sigma && e.op == MI_SET) e.amount = 1.5f + real(w);
    if (sigma && e.op == MI_MIX) e.amount = 0.5f + 0.5f * real(w);
    if (e.op == MI_MIX || e.op == MI_ADD || e.op == MI_PROJECT || (e.op == MI_SET && below(w, 2))) {
        int each_row = e.pos_end != INT_MAX && below(w, 4);
        e.value = random_values(w, e.op, site, each_row ? e.pos_end - e.pos : 1, e.count);
        e.value_stride = each_row ? (size_t)e.count : 0;
    } else if (w->knockouts && site == MI_scores && e.op == MI_SET) {
        e.amount = -INFINITY;
    }
    e.seed = random_bits(&w->random);
    e.sample = (uint64_t)below(w, 3);
    if (w->calls && below(w, 3) == 0) make_call(w, &e);
    return e;
}

/* The same through the grammar of the command line: "--OP ARGUMENT" for the world's prompt. */
static inline const char *random_argument(World *w, const char **op, char *text, size_t room)
{
    static const char *const rows_of[] = {"resid_pre", "ln1", "attn_out", "resid_mid", "ln2",
                                          "mlp_pre", "mlp_post", "mlp_out", "resid_post"};
    static const char *const heads_of[] = {"", ".z", ".q", ".k", ".v"};
    static const char *const ops[] = {"ablate", "patch", "freeze", "scale", "knockout"};
    static const char *const ablations[] = {"", "=zero", "=mean", "=tlzero"};
    int l = below(w, w->s.n_layer), h = below(w, w->s.n_head), t = below(w, w->T);
    char site[64], pos[32] = "";
    *op = ops[below(w, w->knockouts ? 5 : 4)];
    if (strcmp(*op, "knockout") == 0) {
        snprintf(text, room, "L%dH%d@%d:%d", l, h, t, below(w, t + 1));
        return text;
    }
    switch (below(w, 5)) {
    case 0: snprintf(site, sizeof site, "L%dH%d%s", l, h, heads_of[below(w, 5)]); break;
    case 1: snprintf(site, sizeof site, "L0-%dH*%s", l, heads_of[below(w, 5)]); break;
    case 2: snprintf(site, sizeof site, "L%d.%s", l, rows_of[below(w, 9)]); break;
    case 3: snprintf(site, sizeof site, "L*.%s", rows_of[below(w, 9)]); break;
    default: snprintf(site, sizeof site, "L%dN%d", l, below(w, w->s.d_mlp));
    }
    switch (below(w, 4)) {
    case 0: snprintf(pos, sizeof pos, "@%d", t); break;
    case 1: snprintf(pos, sizeof pos, "@-1"); break;
    case 2: if (t) snprintf(pos, sizeof pos, "@%d-%d", below(w, t), t); break;
    default: break;
    }
    snprintf(text, room, "%s%s%s", site, pos, strcmp(*op, "ablate") == 0 ? ablations[below(w, 4)]
             : strcmp(*op, "scale") == 0 ? "=-0.625"
             : strcmp(*op, "patch") == 0 && l ? "=0.25" : "");
    return text;
}

static inline const char *parse_edits(World *w, MiEdits *list, const char *op, const char *text,
                               const MiRun *base, const MiRun *source)
{
    if (w->n_lists == MAX_LISTS) abort();
    MiEdits *parsed = &w->lists[w->n_lists++];
    *parsed = (MiEdits){0};
    if (mi_edits_parse(parsed, w->model, NULL, w->tokens, w->T, op, text) < 0)
        return because("mi_edits_parse refuses %s '%s': %s", op, text, message());
    if (mi_edits_bind(parsed, base, source) < 0)
        return because("mi_edits_bind fails on %s '%s': %s", op, text, message());
    if (parsed->n < 1) return because("%s '%s' means no edit at all", op, text);
    for (int i = 0; i < parsed->n; i++) add_edit(w, list, parsed->at[i]);
    return NULL;
}

/* n edits (or arguments that may mean several) for the world's own prompt. */
static inline const char *random_edits(World *w, MiEdits *list, int n)
{
    for (int i = 0; i < n; i++) {
        if (below(w, 3)) {
            add_edit(w, list, random_edit(w, below(w, MI_N_SITES), w->T));
            continue;
        }
        char text[128];
        const char *op;
        random_argument(w, &op, text, sizeof text);
        TRY(parse_edits(w, list, op, text, w->base,
                        strcmp(op, "patch") == 0 ? source_run(w) : NULL));
    }
    return NULL;
}

/* Held edits and then a lane's, put in order here: the list relies on no `order`. */
static inline MiEdits joined(World *w, MiEdits a, MiEdits b)
{
    MiEdits both = {.at = memory(w, (size_t)(a.n + b.n) * sizeof *a.at)};
    for (int order = 0; both.n < a.n + b.n; order++)
        for (int i = 0; i < a.n + b.n; i++) {
            MiEdit e = i < a.n ? a.at[i] : b.at[i - a.n];
            if (e.order != order) continue;
            e.order = 0;
            both.at[both.n++] = e;
        }
    return both;
}

static inline MiEdits *only(World *w, MiEdit e)                    /* a list of one */
{
    MiEdits *list = memory(w, sizeof *list);
    add_edit(w, list, e);
    return list;
}

static inline int lowest_half(const World *w, MiEdits list)
{
    int half = 2 * w->s.n_layer;
    for (int i = 0; i < list.n; i++)
        half = least(half, half_of(w, list.at[i].site, list.at[i].layer));
    return half;
}

static inline int lowest_row(MiEdits list)
{
    int row = INT_MAX;
    for (int i = 0; i < list.n; i++) row = least(row, list.at[i].pos);
    return row;
}

/* ---- Random models and prompts ---- */

static inline int open_world(World *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->random = seed * 1000003 + 1;
    RandomModel m = {.n_layer = 1 + below(w, 5), .n_head = 1 + below(w, 6),
                     .d_head = 1 + below(w, 24), .n_vocab = 3 + 2 * below(w, 60),
                     .lm_head = below(w, 2), .blanks = below(w, 4), .seed = seed};
    w->T = below(w, 4) ? 1 + below(w, 40) : 1 + below(w, 70);
    if (seed % 30 == 7)             /* wider than a panel of 768 inputs, a few times 48 + a rest */
        m.n_layer = 1 + below(w, 2), m.n_head = 5, m.d_head = 41, w->T = 1 + below(w, 24);
    m.n_ctx = w->T + below(w, 20);
    w->made = m;
    snprintf(w->where, sizeof w->where, "L%d H%d d%d V%d T%d seed %d", m.n_layer, m.n_head,
             m.d_head, m.n_vocab, w->T, (int)seed);
    w->model = random_model_open(m);
    if (!w->model) return snprintf(lost, sizeof lost, "mi_open: %s", message()), -1;
    w->s = mi_shape(w->model);
    if (w->s.n_layer != m.n_layer || w->s.n_head != m.n_head || w->s.d_head != m.d_head
        || w->s.n_vocab != m.n_vocab || w->s.n_ctx != m.n_ctx || w->s.d_mlp != 4 * w->s.d_model)
        return snprintf(lost, sizeof lost, "mi_shape is not the shape that was written"), -1;
    w->tokens = malloc((size_t)w->T * sizeof *w->tokens);
    if (!w->tokens) abort();
    for (int i = 0; i < w->T; i++) w->tokens[i] = below(w, w->s.n_vocab);
    return (w->base = whole(w, NULL)) ? 0 : -1;
}

static inline void close_world(World *w)
{
    free_from(w, 0);
    mi_close(w->model);
    free(w->tokens);
}

#endif
