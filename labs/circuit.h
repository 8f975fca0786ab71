/* circuit.h - a circuit, some edges of the graph (graph.h), run alone.
 *
 * in [n_edges] says which. Every reader reads, in place of the residual stream r,
 *
 *     r + sum of (u' - u) over the edges into it that are not in the circuit
 *
 * u' is what the writer wrote on the source prompt, u what it writes now, in this very run. With
 * all edges this is the model, with none the source's run. In mi it is a list of MI_CALL edits, one
 * for each writer and each reader. */
#ifndef CIRCUIT_H
#define CIRCUIT_H

#include "graph.h"

/* Edges go whose writer has none into it (but the input), or whose reader's owner has none out of
 * it (but the logits), until there are no such. Returns how many are left. */
static inline int prune(const Graph *g, char *in)
{
    char *fed = must(calloc(2, g->n_writers + 1)), *heard = fed + g->n_writers + 1;
    int   n = -1, before;
    do {
        before = n, n = 0;
        memset(fed, 0, 2 * (g->n_writers + 1));
        fed[0] = heard[g->n_writers] = 1;
        for (int e = 0; e < g->n_edges; e++)
            if (in[e]) fed[g->edge[e].owner] = heard[g->edge[e].writer] = 1;
        for (int e = 0; e < g->n_edges; e++)
            n += in[e] = in[e] && fed[g->edge[e].writer] && heard[g->edge[e].owner];
    } while (n != before);
    free(fed);
    return n;
}

typedef struct {
    const Graph   *g;
    const MiModel *model;
    const char    *in;
    int            all_but;     /* 1: the circuit is what is not in */
    float         *there, *more;        /* [MOST_TOKENS,n_writers,D] u' of the source; u' - u */
    MiEdits        edits;
} Splice;
typedef struct { Splice *s; int i; } Port;              /* writer i, or reader i */

/* Where a writer writes: note u' - u for the readers above, in the same row. It is a function of
 * what mi_look() shows, as an MI_CALL has to be, while only one run has the Splice. */
static inline int writes(void *context, const MiView *view, float *x, int D)
{
    const Port  *p = context;
    const Graph *g = p->s->g;
    int    l = view->edit->layer, h = (p->i - 1) % (g->s.n_head + 1), d = g->s.d_head, rows, cols;
    int    is_head = view->edit->site == MI_attn_out;
    size_t row = ((size_t)view->pos * g->n_writers + p->i) * D;
    const float    *z = is_head ? mi_look(view, MI_z, l, h, view->pos) : NULL;
    const MiWeight *W = mi_weight(p->s->model, "W_O", l, &rows, &cols);
    for (int j = 0; j < D; j++) {
        double u = is_head ? 0 : x[j];                  /* of a head z_h W_O, without b_O */
        for (int i = 0; i < d && is_head; i++) u += (double)z[i] * W[(size_t)(h * d + i) * D + j];
        p->s->more[row + j] = p->s->there[row + j] - (float)u;      /* 0 where nothing changed */
    }
    return 0;
}

/* At q, k, v (a head's columns), ln2, ln_f: x <- what the reader makes of what it reads here. Where
 * no edge into it is cut x stays as it is, to the bit. */
static inline int reads(void *context, const MiView *view, float *x, int n)
{
    const Port  *p = context;
    const Graph *g = p->s->g;
    int          D = g->s.d_model, site = view->edit->site, l = view->edit->layer, n_cut = 0;
    const float *r = site == MI_ln_f ? mi_look(view, MI_resid_post, g->s.n_layer - 1, -1, view->pos)
                   : mi_look(view, site == MI_ln2 ? MI_resid_mid : MI_resid_pre, l, -1, view->pos);
    double       sum[D];
    float        y[D];
    for (int j = 0; j < D; j++) sum[j] = r[j];
    for (int e = g->first[p->i]; e < g->first[p->i + 1]; e++) {
        if (p->s->in[e] != p->s->all_but) continue;
        const float *more = p->s->more + ((size_t)view->pos * g->n_writers + g->edge[e].writer) * D;
        for (int j = 0; j < D; j++) sum[j] += more[j];
        n_cut++;
    }
    for (int j = 0; j < D; j++) y[j] = (float)sum[j];
    (void)n;                                            /* columns: view->edit says which */
    return n_cut ? mi_reader(view->run, view->edit, y, x) : 0;
}

static inline Splice open_splice(const Graph *g, const MiModel *model, Splice *s)
{
    int     H = g->s.n_head, D = g->s.d_model, d = g->s.d_head, n = g->n_writers + g->n_readers;
    size_t  size = (size_t)MOST_TOKENS * g->n_writers * D;
    MiEdit *edit = must(calloc(n, sizeof *edit));
    Port   *port = must(calloc(n, sizeof *port));
    for (int i = 0; i < n; i++) {
        int    v = i - g->n_writers, l = v < 0 ? (i - 1) / (H + 1) : v / (3 * H + 1);
        int    place = v < 0 ? i % (H + 1) : v % (3 * H + 1), last = v == g->n_readers - 1;
        MiEdit e = {.op = MI_CALL, .head = -1, .layer = l, .count = D, .pos_end = MOST_TOKENS,
                    .call = v < 0 ? writes : reads, .context = &port[i]};
        if (i == 0) e.site = MI_resid_pre;
        else if (v < 0 && place == 0) e.site = MI_mlp_out;
        else if (v < 0) e.site = MI_attn_out, e.sees = MI_KEEP(z);
        else if (last) e.site = MI_ln_f, e.layer = 0, e.sees = MI_KEEP(resid_post);
        else if (place == 3 * H) e.site = MI_ln2, e.sees = MI_KEEP(resid_mid);
        else {
            e.site = MI_q + place / H, e.sees = MI_KEEP(resid_pre);
            e.first = place % H * d, e.count = d;
        }
        port[i] = (Port){s, v < 0 ? i : v};
        edit[i] = e;
    }
    return (Splice){.g = g, .model = model, .edits = {.at = edit, .n = n},
                    .there = must(calloc(size, sizeof *s->there)),
                    .more = must(calloc(size, sizeof *s->more))};
}

static inline void close_splice(Splice *s)
{
    free(s->edits.at[0].context);
    free(s->edits.at);
    free(s->there);
    free(s->more);
}

/* logits [V] <- those of the last position, if the circuit runs alone; all_but: if the rest does.
 * For u' it takes what the last run_source() left. */
static inline const float *run_circuit(Splice *s, const char *in, int all_but, const Prompt *p,
                                       float *logits)
{
    MiOptions options = {.keep = MI_KEEP_NONE};
    s->in = in, s->all_but = all_but;
    MiRun *run = must(mi_run(s->model, p->at, p->n, &s->edits, &options));
    check(mi_logits(run, 0, p->n - 1, logits));
    mi_free(run);
    return logits;
}

/* logits [V] <- the source's own; what its writers write is u' of the circuits to come. */
static inline void run_source(Splice *s, const char *all, const Prompt *source, float *logits)
{
    size_t size = (size_t)source->n * s->g->n_writers * s->g->s.d_model;
    memset(s->there, 0, size * sizeof *s->there);
    run_circuit(s, all, 0, source, logits);             /* u' - u is now -u of the source */
    for (size_t i = 0; i < size; i++) s->there[i] = -s->more[i];
}

#endif
