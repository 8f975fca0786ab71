/* probe.c - can it be read from the residual stream, where, and does the model read it?
 *
 *     build/labs/probe [MODEL [TABLE [LAYER [NAME]]]]
 *
 * TABLE (tests/data/sentiment.tsv) has prompts with a label, 0 or 1; those of one group, made from
 * one template, stay together. Of each layer's resid_pre at the last token three directions are
 * fitted to four fifths of the groups and tried on the rest: the difference of the class means,
 * ridge regression, and linear discriminant analysis (probes.h). Alain and Bengio 2016,
 * "Understanding intermediate layers using linear classifier probes"; Hewitt and Liang 2019,
 * "Designing and Interpreting Probes with Control Tasks". What finds anything in so many numbers
 * finds something in shuffled labels too, and random directions tell classes apart that lie far
 * from each other: so both are beside it. Below: where the classes lie (Geometry of Prompting).
 *
 * What can be read is not yet what the model reads. So at LAYER (the middle one) each row loses its
 * part along the direction, or is moved along it to where the other class is, and if the table has
 * answers the logit difference is read again; random directions of that length are the control.
 * NAME: the directions of all rows go to NAME-ridge.npy and so on, for --steer, --project and
 * --patch --along of ./mi. */
#include "probes.h"

enum { FOLDS = 5, DRAWS = 19, N_KINDS = N_PROBES + 1 };     /* a number above 19 draws: p = 1/20 */
static const char *const NAME[N_KINDS] = {"mean", "ridge", "lda", "random"};

typedef struct {
    MiTable table;
    int     n, n_groups, *group, *label, *fold;
    int     whole;              /* each group has one label */
    float  *x;                  /* [n_layer,n,D] resid_pre at the last tokens */
} Data;

/* Labels, groups and vectors of all rows. */
static Data data_of(const Lab *lab, const char *path)
{
    Data         d = {.table = table_of(path)};
    int          L = lab->shape.n_layer, D = lab->shape.d_model;
    const char **name = must(calloc(d.table.n_rows, sizeof *name));
    d.n = d.table.n_rows;
    if (!mi_cell(&d.table, 0, "prompt")) refuse(2, "%s: no column prompt", path);
    if (!mi_cell(&d.table, 0, "label")) refuse(2, "%s: no column label, of 0 and 1", path);
    if (mi_cell(&d.table, 0, "at")) refuse(2, "%s: a column at: the last token is read here", path);
    d.x = must(malloc((size_t)L * d.n * D * sizeof *d.x));
    d.label = must(calloc(d.n, sizeof *d.label)), d.fold = must(calloc(d.n, sizeof *d.fold));
    for (int r = 0; r < d.n; r++) {
        const char *label = mi_cell(&d.table, r, "label");
        Prompt      prompt = tokens_of(lab, mi_cell(&d.table, r, "prompt"));
        if (strcmp(label, "0") && strcmp(label, "1"))
            refuse(2, "%s: row %d: the label is \"%.40s\", not 0 or 1", path, r + 1, label);
        if (prompt.n < 1) refuse(2, "%s: row %d: an empty prompt", path, r + 1);
        d.label[r] = *label == '1';
        name[r] = mi_cell(&d.table, r, "group");
        MiRun *run = must(mi_run(lab->model, prompt.at, prompt.n, NULL,
                                 &(MiOptions){.keep = MI_KEEP_NONE}));
        for (int l = 0; l < L; l++)
            memcpy(d.x + ((size_t)l * d.n + r) * D,
                   must(mi_site(run, 0, MI_resid_pre, l, prompt.n - 1)), D * sizeof *d.x);
        mi_free(run);
    }
    d.group = must(mi_groups(name, d.n, &d.n_groups));
    free(name);
    return d;
}

/* Whole groups to folds, in turn: those with mostly 1 apart from the others, so that each fold has
 * of both. Are there enough? */
static int deal_folds(const Data *d, const int *label, int *fold)
{
    int *sum = must(calloc(2 * d->n_groups, sizeof *sum)), *of = sum + d->n_groups;
    int  has[FOLDS][2] = {{0}}, enough = 1;
    for (int r = 0; r < d->n; r++) sum[d->group[r]] += label[r] ? 1 : -1;
    for (int mostly = 0; mostly < 2; mostly++)
        for (int g = 0, dealt = 0; g < d->n_groups; g++)
            if ((sum[g] >= 0) == mostly) of[g] = dealt++ % FOLDS;
    for (int r = 0; r < d->n; r++) has[fold[r] = of[d->group[r]]][label[r]]++;
    for (int f = 0; f < FOLDS; f++) enough &= has[f][0] && has[f][1];
    free(sum);
    return enough;
}

/* out [n] <- the labels anew: between whole groups where each has one label, else within groups. */
static void shuffle(const Data *d, uint64_t *seed, int *out)
{
    int n = d->whole ? d->n_groups : d->n, *label = must(calloc(n, sizeof *label));
    for (int r = 0; r < d->n; r++) label[d->whole ? d->group[r] : r] = d->label[r];
    for (int i = n - 1; i > 0; i--) {
        int j = below(seed, i + 1), swap = label[i];
        while (!d->whole && d->group[i] != d->group[j]) j = below(seed, i + 1);
        label[i] = label[j], label[j] = swap;
    }
    for (int r = 0; r < d->n; r++) out[r] = label[d->whole ? d->group[r] : r];
    free(label);
}

/* score [n] of a random direction, turned so that rows with 1 are on its upper side. */
static Probe random_probe(const Rows *r, const double *x, const int *fold, int f, uint64_t seed)
{
    Probe probe = {.score = must(calloc(r->n, sizeof *probe.score))};
    for (int i = 0; i < r->D; i++) {
        double g = normal(&seed);
        for (int j = 0; j < r->n; j++) probe.score[j] += g * x[(size_t)j * r->D + i];
    }
    set_threshold(&probe, r, MEAN_DIFFERENCE, fold, f);
    for (int j = 0; j < r->n && probe.step < 0; j++) probe.score[j] *= -1;
    set_threshold(&probe, r, MEAN_DIFFERENCE, fold, f);
    return probe;
}

/* Balanced accuracy and AUROC of one kind of probe, each fold by the probe of the others; kind
 * N_PROBES: of a random direction. */
static void try_folds(const Rows *r, const double *x, int kind, const int *fold, uint64_t seed,
                      MiEstimate out[2])
{
    double value[2][FOLDS];
    int    each[FOLDS];
    for (int f = 0; f < FOLDS; f++) {
        Probe p = kind < N_PROBES ? fit(kind, r, fold, f) : random_probe(r, x, fold, f, seed);
        value[0][f] = balanced_accuracy(&p, r, fold, f), value[1][f] = auroc(&p, r, fold, f);
        each[f] = f;
        free_probe(&p);
    }
    for (int i = 0; i < 2; i++) check(mi_mean(value[i], 1, each, FOLDS, &out[i]));
}

/* The rows of a layer less the first of them, x [n,D], and their inner products, K [n,n]: where the
 * origin is makes no difference to anything here, and rows that are equal become exactly 0. */
static Rows rows_of(const Data *d, int layer, int D, double *x, double *K)
{
    const float *row = d->x + (size_t)layer * d->n * D;
    for (size_t i = 0; i < (size_t)d->n * D; i++) x[i] = (double)row[i] - row[i % D];
    for (int i = 0; i < d->n; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int e = 0; e < D; e++) sum += x[(size_t)i * D + e] * x[(size_t)j * D + e];
            K[(size_t)i * d->n + j] = K[(size_t)j * d->n + i] = sum;
        }
    if (!isfinite(square(K, d->n))) refuse(1, "L%d.resid_pre is not all numbers", layer);
    return (Rows){d->n, D, K, d->label};
}

/* Mean of the draws, its error, and the highest: what chance gives. */
static void print_draws(const double *value)
{
    int        each[DRAWS];
    double     most = value[0];
    MiEstimate e;
    for (int i = 0; i < DRAWS; i++) each[i] = i, most = fmax(most, value[i]);
    check(mi_mean(value, 1, each, DRAWS, &e));
    printf("  %.2f ± %.2f  to %.2f", e.mean, e.error, most);
}

/* A line for each probe: how well it does, and the same with shuffled labels and folds of these. */
static void print_probes(const Data *d, const Rows *r, const double *x, int layer)
{
    int *label = must(calloc(r->n, sizeof *label)), *fold = must(calloc(r->n, sizeof *fold));
    for (int kind = 0; kind < N_KINDS; kind++) {
        MiEstimate e[2];
        double     draw[2][DRAWS];
        uint64_t   seed = 1;
        Rows       rows = *r;
        if (kind < N_PROBES) try_folds(r, x, kind, d->fold, 0, e), rows.label = label;
        for (int i = 0; i < DRAWS; i++) {
            MiEstimate one[2];
            shuffle(d, &seed, label);
            deal_folds(d, rows.label, fold);
            try_folds(&rows, x, kind, fold, i, one);
            draw[0][i] = one[0].mean, draw[1][i] = one[1].mean;
        }
        printf("  L%-2d %-7s", layer, NAME[kind]);
        for (int i = 0; i < 2; i++) {
            if (kind < N_PROBES) printf("  %.2f ± %.2f", e[i].mean, e[i].error);
            else printf("             ");
            print_draws(draw[i]);
        }
        printf("\n");
    }
    free(label), free(fold);
}

/* Of the rows of each class, less their mean: radius, the root of their mean squared length; and
 * participation ratio, (sum of l)^2 / sum of l^2 of the eigenvalues l of their covariance: how many
 * dimensions they fill. Both are traces of inner products. And how far the means lie apart. */
static void print_geometry(const Data *d, const Rows *r, int layer)
{
    double  size[2] = {0, 0}, tr[2] = {0, 0}, squares[2] = {0, 0}, far[DRAWS];
    double *C = centred(r->K, r->n, r->label);
    int    *label = must(calloc(r->n, sizeof *label)), *fold = must(calloc(r->n, sizeof *fold));
    uint64_t seed = 1;
    for (int i = 0; i < r->n; i++) {
        int k = r->label[i];
        size[k]++, tr[k] += C[(size_t)i * r->n + i];
        for (int j = 0; j < r->n; j++)
            if (r->label[j] == k) squares[k] += pow(C[(size_t)i * r->n + j], 2);
    }
    for (int i = -1; i < DRAWS; i++) {
        Rows  rows = {r->n, r->D, r->K, i < 0 ? r->label : label};
        if (i >= 0) shuffle(d, &seed, label);
        Probe p = fit(MEAN_DIFFERENCE, &rows, fold, -1);
        if (i < 0) printf("  L%-2d  %9.2f", layer, sqrt(p.step));
        else far[i] = sqrt(p.step);
        free_probe(&p);
    }
    print_draws(far);
    for (int k = 0; k < 2; k++)
        printf("   %8.2f %6.2f", sqrt(tr[k] / size[k]), tr[k] * tr[k] / squares[k]);
    printf("\n");
    free(C), free(label), free(fold);
}

/* w <- X' a of length 1; returns how far apart the classes lie along it. */
static double direction(const Probe *p, const Rows *r, const double *x, float *w)
{
    double  length = 0, *sum = must(calloc(r->D, sizeof *sum));
    for (int i = 0; i < r->n; i++)
        for (int e = 0; e < r->D; e++) sum[e] += p->a[i] * x[(size_t)i * r->D + e];
    for (int e = 0; e < r->D; e++) length += sum[e] * sum[e];
    length = sqrt(length);
    for (int e = 0; e < r->D; e++) w[e] = (float)(sum[e] / length);
    free(sum);
    return p->step / length;
}

/* What is done to a row: its part along w is projected out, or it is moved along w to the other
 * class. First for each probe; then for each random direction, moved as far as each probe moves. */
enum { PER_DRAW = 1 + N_PROBES, N_WAYS = 2 * N_PROBES + DRAWS * PER_DRAW };

/* change [N_WAYS] of a row's logit difference, that of base returned. w: the probes', then random. */
static double change_row(const Lab *lab, const Data *d, int row, int layer, float *const *w,
                         const double *step, double *change)
{
    Prompt prompt = tokens_of(lab, mi_cell(&d->table, row, "prompt"));
    Prompt answer = set_of(lab, mi_cell(&d->table, row, "answer"));
    Prompt versus = set_of(lab, mi_cell(&d->table, row, "versus"));
    MiRun *base = must(mi_run(lab->model, prompt.at, prompt.n, NULL, NULL));
    MiEdit edit[N_WAYS];
    MiLane lane[N_WAYS];
    for (int i = 0, draw = i - 2 * N_PROBES; i < N_WAYS; i++, draw++) {
        int of = draw < 0 ? i / 2 : N_PROBES + draw / PER_DRAW;
        int as = draw < 0 ? i / 2 : draw % PER_DRAW - 1, move = draw < 0 ? i % 2 : as >= 0;
        edit[i] = (MiEdit){.op = move ? MI_ADD : MI_PROJECT, .site = MI_resid_pre, .layer = layer,
                           .count = lab->shape.d_model, .pos = prompt.n - 1, .pos_end = prompt.n,
                           .value = w[of]};
        if (move) edit[i].amount = (float)(d->label[row] ? -step[as] : step[as]);
        lane[i] = (MiLane){.trunk = base, .edits = &edit[i], .n_edits = 1, .t0 = -1};
    }
    MiRun *fork = must(mi_fork(lane, N_WAYS, -1, MI_KEEP_NONE));
    double of_base = log_odds(base, 0, &answer, &versus);
    for (int i = 0; i < N_WAYS; i++) change[i] = log_odds(fork, i, &answer, &versus) - of_base;
    mi_free(fork), mi_free(base);
    return of_base;
}

/* Of one way over all rows; of random directions the mean, and the one that changes most. */
static void print_change(const Data *d, const double *change, int way, int draws)
{
    double    *mean = must(calloc(d->n, sizeof *mean));
    MiEstimate e, most = {.mean = 0};
    for (int k = 0; k < draws; k++, way += PER_DRAW) {
        check(mi_mean(change + way, N_WAYS, d->group, d->n, &e));
        if (fabs(e.mean) >= fabs(most.mean)) most = e;
        for (int row = 0; row < d->n; row++) mean[row] += change[row * N_WAYS + way] / draws;
    }
    check(mi_mean(mean, 1, d->group, d->n, &e));
    printf("  %+6.2f ± %.2f", e.mean, e.error);
    if (draws > 1) printf("  to %+6.2f ± %.2f", most.mean, most.error);
    free(mean);
}

/* Each row by the directions of the folds without it. */
static void print_causal_step(const Lab *lab, const Data *d, const Rows *r, const double *x,
                              int layer)
{
    double  *base = must(calloc(d->n, sizeof *base)), step[N_PROBES], mean[N_PROBES] = {0};
    double  *change = must(calloc((size_t)d->n * N_WAYS, sizeof *change));
    float   *w[N_PROBES + DRAWS];
    uint64_t seed = 1;
    for (int i = 0; i < N_PROBES + DRAWS; i++) {
        double sum = 0;
        w[i] = must(calloc(r->D, sizeof *w[i]));
        for (int e = 0; e < r->D; e++) w[i][e] = (float)normal(&seed), sum += w[i][e] * w[i][e];
        for (int e = 0; e < r->D; e++) w[i][e] /= (float)sqrt(sum);
    }
    for (int f = 0; f < FOLDS; f++) {
        for (int i = 0; i < N_PROBES; i++) {
            Probe p = fit(i, r, d->fold, f);
            mean[i] += (step[i] = direction(&p, r, x, w[i])) / FOLDS;
            free_probe(&p);
        }
        for (int i = 0; i < d->n; i++)
            if (d->fold[i] == f)
                base[i] = change_row(lab, d, i, layer, w, step, change + (size_t)i * N_WAYS);
    }
    MiEstimate e;
    check(mi_mean(base, 1, d->group, d->n, &e));
    printf("\n  change of the logit difference from %+.2f ± %.2f, L%d.resid_pre@-1 edited: each row by\n"
           "  the directions of the folds without it; and by random ones, to the strongest\n", e.mean,
           e.error, layer);
    for (int i = 0; i < N_PROBES; i++) {
        printf("  %-6s projected out       ", NAME[i]);
        print_change(d, change, 2 * i, 1);
        print_change(d, change, 2 * N_PROBES, DRAWS);
        printf("\n         moved by %10.2f ", mean[i]);
        print_change(d, change, 2 * i + 1, 1);
        print_change(d, change, 2 * N_PROBES + 1 + i, DRAWS);
        printf("\n");
    }
    for (int i = 0; i < N_PROBES + DRAWS; i++) free(w[i]);
    free(base), free(change);
}

/* The directions of all rows, as long as the classes lie apart: --steer ...=1 moves a 0 to where
 * the 1 are, =-1 a 1 to where the 0 are. And the commands that take them there, with a control. */
static void write_directions(const Rows *r, const double *x, int layer, const char *table,
                             const char *name)
{
    float *w = must(calloc(r->D, sizeof *w));
    int   *fold = must(calloc(r->n, sizeof *fold));
    char   path[1000];
    double length = 0;
    for (int i = 0; i < N_PROBES; i++) {
        Probe  p = fit(i, r, fold, -1);
        double step = direction(&p, r, x, w);
        for (int e = 0; e < r->D; e++) w[e] *= (float)step;
        if (i == 0) length = step;
        snprintf(path, sizeof path, "%s-%s.npy", name, NAME[i]);
        write_npy(path, w, r->D);
        free_probe(&p);
    }
    printf("\n  directions of all rows: %s-mean.npy, -ridge.npy, -lda.npy. To move all along one of them,\n"
           "  and along a random one of its length; or to take out what lies along it:\n"
           "    ./mi --data %s --steer L%d.resid_pre@-1=1 --direction %s-mean.npy\n"
           "    ./mi --data %s --steer L%d.resid_pre@-1=%.2f --direction random:1\n"
           "    ./mi --data %s --project L%d.resid_pre@-1 --direction %s-mean.npy\n",
           name, table, layer, name, table, layer, length, table, layer, name);
    free(w), free(fold);
}

int main(int argc, char **argv)
{
    Lab         lab = open_lab(argc, argv);
    int         L = lab.shape.n_layer, D = lab.shape.d_model, ones = 0;
    const char *path = argc > 2 ? argv[2] : "tests/data/sentiment.tsv";
    char       *end = "";
    long        layer = argc > 3 ? strtol(argv[3], &end, 10) : L / 2;
    if (argc > 5) refuse(2, "usage: probe [MODEL [TABLE [LAYER [NAME]]]]");
    if (*end || layer < 0 || layer >= L) refuse(2, "LAYER is %s, not 0 to %d", argv[3], L - 1);
    Data    d = data_of(&lab, path);
    double *x = must(malloc((size_t)d.n * D * sizeof *x));
    double *K = must(malloc((size_t)d.n * d.n * sizeof *K));
    for (int r = 0; r < d.n; r++) ones += d.label[r];
    if (ones == 0 || ones == d.n) refuse(2, "%s: all labels are %d", path, ones > 0);
    if (!deal_folds(&d, d.label, d.fold))
        refuse(2, "%s: too few groups for %d folds that have rows of both labels", path, FOLDS);
    d.whole = 1;
    for (int r = 0; r < d.n; r++)
        for (int q = 0; q < r; q++) d.whole &= d.group[r] != d.group[q] || d.label[r] == d.label[q];
    printf("%d prompts in %d groups, %d with label 1; %d folds of whole groups; resid_pre, last token\n"
           "%d draws of labels, shuffled %s groups, and of random directions: mean, to the highest\n\n"
           "               balanced\n"
           "               accuracy     shuffled               AUROC        shuffled\n",
           d.n, d.n_groups, ones, FOLDS, DRAWS, d.whole ? "between" : "within");
    for (int l = 0; l < L; l++) {
        Rows r = rows_of(&d, l, D, x, K);
        if (trace(K, d.n) == 0) printf("  L%-2d the same vector in all rows\n", l);
        else print_probes(&d, &r, x, l);
    }
    printf("\n       distance of                             participation      participation\n"
           "       centroids  shuffled             radius of 0  ratio   radius of 1  ratio\n");
    for (int l = 0; l < L; l++) {
        Rows r = rows_of(&d, l, D, x, K);
        if (trace(K, d.n) > 0) print_geometry(&d, &r, l);
    }
    Rows r = rows_of(&d, (int)layer, D, x, K);
    if (trace(K, d.n) == 0) refuse(1, "L%ld.resid_pre is the same in all rows", layer);
    if (mi_cell(&d.table, 0, "answer") && mi_cell(&d.table, 0, "versus"))
        print_causal_step(&lab, &d, &r, x, (int)layer);
    if (argc > 4) write_directions(&r, x, (int)layer, path, argv[4]);
    free(x), free(K), free(d.x), free(d.label), free(d.fold), free(d.group);
    mi_table_free(&d.table);
    close_lab(&lab);
    return 0;
}
