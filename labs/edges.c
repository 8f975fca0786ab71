/* edges.c - which connections between heads and MLPs are enough for an answer?
 *
 *     build/labs/edges MODEL SCORES.json [TABLE.tsv [N OUT.json]]
 *
 * A circuit C is some edges of the graph of heads and MLPs (graph.h); run alone (circuit.h), it has
 * the logit difference m(C). Faithfulness f = (m(C) - m(no edge)) / (m(all) - m(no edge)), of means
 * over prompts; completeness D_KL(all but C || all), high where all but C is broken. The circuits
 * are the best edges by score, pruned, at shares p of all edges. CPR is the integral of f dp from
 * .001 to 1, CMD that of |1 - f| dp: where f is nowhere above 1 they add up to .999. (Hanna et al.
 * 2024, "Have Faith in Faithfulness"; Mueller et al. 2025, "MIB": CPR by score, CMD by |score|.)
 *
 * SCORES: EAP-IG's JSON, or what ./mi --json says of --edges or --attribute edges. TABLE: columns
 * prompt, source, answer, versus, and maybe group. OUT: the best N edges by |score|, pruned, in
 * EAP-IG's JSON. The control are edges ranked at random. */
#include "circuit.h"

#include <math.h>

enum { N_SHARES = 10, SIGNED = 0, ABSOLUTE, RANDOM, N_RANDOM = 5, N_RANKINGS = RANDOM + N_RANDOM,
       NONE = N_RANKINGS * N_SHARES, ALL, GIVEN, SOURCE, N_CIRCUITS };
static const double SHARE[N_SHARES] = {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1};

/* ---- Circuits ---- */

typedef struct { double key; int edge; } Ranked;

static int largest_first(const void *a, const void *b)
{
    const Ranked *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key) - (x->key > y->key) : x->edge - y->edge;
}

static void rank(const Graph *g, int ranking, Ranked *order)
{
    uint64_t state = (uint64_t)ranking << 40;           /* of splitmix64 */
    for (int e = 0; e < g->n_edges; e++) {
        uint64_t x = state += 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        double at_random = (double)(x ^ x >> 31), score = g->score[e];
        order[e] = (Ranked){ranking >= RANDOM ? at_random : ranking ? fabs(score) : score, e};
    }
    qsort(order, g->n_edges, sizeof *order, largest_first);
}

typedef struct { char *in; int top, n; double *m, *kl; } Circuit;   /* n: what pruning leaves */

/* Of the first `top` edges in this order, or, without one, those that are in. */
static Circuit circuit_of(const Graph *g, const Ranked *order, int top, const char *in, int n_rows)
{
    Circuit c = {must(calloc(g->n_edges, 1)), top, 0, must(calloc(n_rows, sizeof *c.m)),
                 must(calloc(n_rows, sizeof *c.kl))};
    for (int i = 0; i < top; i++) c.in[order[i].edge] = 1;
    for (int e = 0; e < g->n_edges && in; e++) c.top += c.in[e] = in[e];
    c.n = prune(g, c.in);
    return c;
}

/* ---- Runs ---- */

static double kl(const float *p, const float *q, int V)
{
    double sum = 0, a = mi_log_sum_exp(p, V), b = mi_log_sum_exp(q, V);
    for (int i = 0; i < V; i++) sum += exp(p[i] - a) * ((p[i] - a) - (q[i] - b));
    return sum;
}

/* All circuits on one row. What has no edge, or all, is run once. */
static void run_row(Splice *s, Circuit *c, int row, const Prompt *p, const Prompt *source,
                    Question q)
{
    int    V = s->g->s.n_vocab;
    float *x = must(malloc(3 * V * sizeof *x)), *whole = x + V, *none = x + 2 * V;
    run_source(s, c[ALL].in, source, x);
    c[SOURCE].m[row] = (double)x[q.answer] - x[q.versus];
    run_circuit(s, c[ALL].in, 0, p, whole);
    run_circuit(s, c[NONE].in, 0, p, none);
    for (; c->in; c++) {
        int          few = c->n == 0, full = c->n == s->g->n_edges;
        const float *own = few ? none : full ? whole : run_circuit(s, c->in, 0, p, x);
        c->m[row] = (double)own[q.answer] - own[q.versus];
        const float *rest = few ? whole : full ? none : run_circuit(s, c->in, 1, p, x);
        c->kl[row] = kl(rest, whole, V);
    }
    free(x);
}

/* ---- The report ---- */

typedef struct { const Circuit *c; int n_rows; const int *group; } Study;
typedef enum { MEAN, F, KL, CPR, CMD, ABOVE } What;     /* ABOVE: the area of f above 1 */

/* Of circuit i; an area of the ranking that begins there, by trapezoids between its shares. All are
 * ratios of sums over rows, so an area has an error as f has. */
static MiEstimate estimate(const Study *s, int i, What what)
{
    double    *a = must(calloc(2 * s->n_rows, sizeof *a)), *b = a + s->n_rows;
    MiEstimate e;
    for (int k = 0; k < (what < CPR ? 1 : N_SHARES); k++) {
        double width = (SHARE[k < N_SHARES - 1 ? k + 1 : k] - SHARE[k ? k - 1 : k]) / 2;
        int    above = what > CPR && estimate(s, i + k, F).mean > 1;
        for (int r = 0; r < s->n_rows; r++) {
            double m = s->c[i + k].m[r], none = s->c[NONE].m[r], all = s->c[ALL].m[r];
            b[r] = what == MEAN || what == KL ? 1 : all - none;
            a[r] += what == MEAN ? m : what == KL ? s->c[i].kl[r] : what == F ? m - none
                  : width * (what == CPR ? m - none : above ? m - all : what == CMD ? all - m : 0);
        }
    }
    check(mi_ratio(a, 1, b, 1, s->group, s->n_rows, &e));
    free(a);
    return e;
}

/* The mean of n rankings, with the error over them; of one with that over the rows' groups. */
static double print(const Study *s, int i, int n, What what)
{
    static const int own[N_RANDOM] = {0, 1, 2, 3, 4};
    double     mean[N_RANDOM];
    MiEstimate e = estimate(s, i, what);
    for (int k = 0; k < n; k++) mean[k] = estimate(s, i + k * N_SHARES, what).mean;
    if (n > 1) check(mi_mean(mean, 1, own, n, &e));
    printf(" %+9.4f", e.mean + 0.0);                    /* -0 is 0 */
    if (isfinite(e.error)) printf(" ± %-7.4f", e.error);
    else printf("%10s", "");
    return e.mean;
}

static void print_ranking(const Study *s, const char *name, int ranking, int n)
{
    int first = ranking * N_SHARES;
    printf("\n  %s\n    share    top   left   faithfulness        D_KL of the rest\n", name);
    for (int k = 0; k < N_SHARES; k++) {
        double left = 0;
        for (int i = 0; i < n; i++) left += (double)s->c[first + i * N_SHARES + k].n / n;
        printf("   %5.1f%% %6d %6.0f", 100 * SHARE[k], s->c[first + k].top, left);
        print(s, first + k, n, F), print(s, first + k, n, KL);
        printf("\n");
    }
    printf("    CPR"); double cpr = print(s, first, n, CPR);
    printf("  CMD"); double cmd = print(s, first, n, CMD);
    printf("  f above 1"); double above = print(s, first, n, ABOVE);
    printf("\n    CPR + CMD - 2 (f above 1) = %.4f\n", cpr + cmd - 2 * above);
}

#define BUILT_IN(giver) "When Mary and John went to the store, " giver " gave a drink to"

static const char *field(const MiTable *t, int row, const char *column, const char *built_in)
{
    const char *cell = t->file ? mi_cell(t, row, column) : built_in;
    if (!cell && built_in) refuse(2, "the table has no column %s", column);
    return cell;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc == 5 || argc > 6)
        refuse(2, "usage: edges MODEL SCORES.json [TABLE.tsv [N OUT.json]]");
    Lab     lab = open_lab(argc, argv);
    Graph   g = graph_of(lab.shape);
    MiTable table = argc > 3 ? table_of(argv[3]) : (MiTable){.n_rows = 1};
    char   *end = "";
    long    N = argc > 4 ? strtol(argv[4], &end, 10) : 0;
    int     n_rows = table.n_rows, n_groups;
    Ranked *order = must(calloc(g.n_edges, sizeof *order));
    Circuit c[N_CIRCUITS] = {{.in = NULL}};
    if (argc > 4 && (*end || N < 1 || N > g.n_edges))
        refuse(2, "N is %s: there are %d edges", argv[4], g.n_edges);
    read_graph(&g, argv[2]);
    for (int i = 0; i < NONE; i++) {
        if (i % N_SHARES == 0) rank(&g, i / N_SHARES, order);
        c[i] = circuit_of(&g, order, (int)(SHARE[i % N_SHARES] * g.n_edges), NULL, n_rows);
    }
    rank(&g, ABSOLUTE, order);
    c[NONE] = circuit_of(&g, order, 0, NULL, n_rows);
    c[ALL] = circuit_of(&g, order, g.n_edges, NULL, n_rows);
    c[GIVEN] = circuit_of(&g, order, (int)N, N ? NULL : g.in, n_rows);
    c[SOURCE].m = must(calloc(n_rows, sizeof(double)));

    const char **group = must(calloc(n_rows, sizeof *group));
    Splice splice = open_splice(&g, lab.model, &splice);
    for (int r = 0; r < n_rows; r++) {
        const char *prompt = field(&table, r, "prompt", BUILT_IN("John"));
        Prompt   here = tokens_of(&lab, prompt);
        Prompt   source = tokens_of(&lab, field(&table, r, "source", BUILT_IN("Mary")));
        Question q = {token_of(&lab, field(&table, r, "answer", " Mary")),
                      token_of(&lab, field(&table, r, "versus", " John"))};
        if (here.n < 1 || here.n != source.n)
            refuse(2, "row %d: %d tokens, its source has %d", r + 1, here.n, source.n);
        group[r] = field(&table, r, "group", NULL);
        if (!group[r]) group[r] = prompt;
        run_row(&splice, c, r, &here, &source, q);
    }

    double gap = 0;
    for (int r = 0; r < n_rows; r++) gap += c[ALL].m[r] - c[NONE].m[r];
    if (!(fabs(gap) > 0)) refuse(1, "prompts and sources have the same logit difference: no f");
    Study s = {c, n_rows, must(mi_groups(group, n_rows, &n_groups))};
    printf("%d edges; prompts: %d, groups: %d\n  logit difference with all edges, with none, of the"
           " source:\n   ", g.n_edges, n_rows, n_groups);
    print(&s, ALL, 1, MEAN), print(&s, NONE, 1, MEAN), print(&s, SOURCE, 1, MEAN);
    printf("\n");
    print_ranking(&s, "the best by score", SIGNED, 1);
    print_ranking(&s, "the best by |score|", ABSOLUTE, 1);
    print_ranking(&s, "at random: mean of 5 rankings", RANDOM, N_RANDOM);
    if (c[GIVEN].top) {
        printf("\n  %s\n          %6d %6d", N ? argv[5] : "in_graph", c[GIVEN].top, c[GIVEN].n);
        print(&s, GIVEN, 1, F), print(&s, GIVEN, 1, KL);
        printf("\n");
    }
    if (N) write_graph(&g, c[GIVEN].in, argv[5]);
    for (int i = 0; i < N_CIRCUITS; i++) free(c[i].in), free(c[i].m), free(c[i].kl);
    free((int *)s.group), free(group), free(order);
    close_splice(&splice);
    mi_table_free(&table);
    free_graph(&g);
    close_lab(&lab);
    return 0;
}
