/* sae.c - of which features is a vector the sum, and what does the model do with them?
 *
 *     build/labs/sae [MODEL [SAE [PROMPT SOURCE ANSWER VERSUS [POSITION [TEXT]]]]]
 *
 * A sparse autoencoder writes a vector x of the model as the sum of a few of many directions, the
 * rows of W_dec; how much of each, its features f, are read off x:
 *     f = relu((x - b_dec) W_enc + b_enc)        x^ = f W_dec + b_dec        x = x^ + error
 * SAE is a folder that SAELens saved (sae_files.h), TEXT a file with a text in each line, POSITION
 * a token of PROMPT and SOURCE, -1 the last. How good the sum is: L0, variance explained, loss
 * recovered (O'Neill et al. 2025, "Resurrecting the Salmon"). What features do: take some out, or
 * swap them with those of another prompt, beside as many random ones (Chen et al. 2025, "How does
 * Chain of Thought Think?"; Harrasse et al. 2025, "TinySQL"). The error stays where it is. */
#include "sae_files.h"

enum { MOST_TEXTS = 200, DRAWS = 20 };

static void *zeros(size_t n, size_t size)
{
    return must(calloc(n + 1, size));
}

/* How encode() normalized a vector, for decode(): x = scale (what W_dec writes) + mean + centre. */
typedef struct { double scale, mean, centre; } Norm;

/* What 1 of f_j adds, in rows of W_dec. 1, unless f is what it would be with rows of length 1. */
static double unit_of(const Sae *s, int j)
{
    return s->rescales ? (s->norm == AVERAGE ? s->factor : 1) / s->size[j] : 1;
}

/* x [d_in] -> f [d_sae]. With p = u W_enc, u the normalized x, less b_dec if it was trained so:
 *
 *     standard  relu(p + b_enc)         gated     relu(exp(r_mag) p + b_mag) where p + b_gate > 0
 *     topk      the k highest of those  jumprelu  relu(p + b_enc) where p + b_enc > threshold */
static Norm encode(const Sae *s, const float *x, float *f)
{
    Norm   norm = {.scale = 1};
    double sum = 0, squares = 0, *u = s->u, *p = s->p;
    int    n = s->d_in;
    for (int i = 0; i < n; i++) sum += x[i];
    if (s->centred) norm.centre = sum / n;
    if (s->norm == LAYER_NORM) norm.mean = sum / n - norm.centre;
    for (int i = 0; i < n; i++) u[i] = x[i] - norm.centre - norm.mean, squares += u[i] * u[i];
    if (s->norm == AVERAGE) norm.scale = 1 / s->factor;
    if (s->norm == RESCALE) norm.scale = sqrt(squares / n);
    if (s->norm == LAYER_NORM) norm.scale = sqrt(squares / (n - 1));
    double divisor = norm.scale + (s->norm == LAYER_NORM ? 1e-5 : 0);
    for (int i = 0; i < n; i++) u[i] = u[i] / divisor - s->less_b_dec * s->b_dec[i];

    memset(p, 0, s->d_sae * sizeof *p);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < s->d_sae; j++) p[j] += u[i] * s->W_enc[(size_t)i * s->d_sae + j];
    for (int j = 0; j < s->d_sae; j++) {
        double pre = p[j] + s->b_enc[j];
        int    off = pre <= (s->threshold ? s->threshold[j] : 0);
        if (s->architecture == GATED) pre = exp(s->r_mag[j]) * p[j] + s->b_mag[j];
        f[j] = off || pre < 0 ? 0 : (float)(pre / unit_of(s, j));
    }
    if (s->architecture != TOPK) return norm;
    mi_top(f, s->d_sae, s->k, s->top);
    for (int i = 0; i < s->k; i++) p[i] = f[s->top[i]];
    memset(f, 0, s->d_sae * sizeof *f);
    for (int i = 0; i < s->k; i++) f[s->top[i]] = (float)p[i];
    return norm;
}

/* f [d_sae] -> x^ [d_in], less the centre, as encode()'s x. */
static void decode(const Sae *s, Norm norm, const float *f, double *x)
{
    for (int i = 0; i < s->d_in; i++) x[i] = s->b_dec[i];
    for (int j = 0; j < s->d_sae; j++)
        for (int i = 0; f[j] != 0 && i < s->d_in; i++)
            x[i] += f[j] * unit_of(s, j) * s->W_dec[(size_t)j * s->d_in + i];
    for (int i = 0; i < s->d_in; i++) x[i] = norm.scale * x[i] + norm.mean;
}

/* An edit of the model: x <- x^ (n < 0), or features list[0..n-1] set to those of `to` [d_sae],
 * NULL: 0, and the error kept:   x <- x + decode(f') - decode(f) = x + scale sum (f'_j - f_j) W_j
 * summed over what differs: what is set to its own value changes no bit. */
typedef struct { const Sae *sae; const int *list; int n; const float *to; } Splice;

static int splice(void *context, const MiView *view, float *x, int width)
{
    const Splice *c = context;
    const Sae    *s = c->sae;
    float  *f = zeros(s->d_sae, sizeof *f);
    double *change = zeros(width, sizeof *change);
    Norm    norm = encode(s, x, f);
    (void)view;
    if (c->n < 0) decode(s, norm, f, change);
    for (int i = 0; c->n < 0 && i < width; i++) x[i] = (float)(change[i] + norm.centre);
    for (int k = 0; k < c->n; k++) {
        int    j = c->list[k];
        double d = ((c->to ? c->to[j] : 0) - (double)f[j]) * norm.scale * unit_of(s, j);
        for (int i = 0; d != 0 && i < width; i++) change[i] += d * s->W_dec[(size_t)j * width + i];
    }
    for (int i = 0; c->n >= 0 && i < width; i++)
        if (change[i] != 0) x[i] = (float)(x[i] + change[i]);
    free(change), free(f);
    return 0;
}

/* The run with x edited at positions from <= t < to: by the splice, or set to 0. */
static MiRun *spliced(const MiRun *base, const Sae *s, int from, int to, Splice *how)
{
    MiEdit edit = {.op = how ? MI_CALL : MI_SET, .site = s->site, .layer = s->layer, .head = -1,
                   .first = s->first, .count = s->d_in, .pos = from, .pos_end = to,
                   .call = how ? splice : NULL, .context = how};
    return must(mi_fork(&(MiLane){.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1}, 1, -1,
                        MI_KEEP_NONE));
}

static const float *vector_at(const MiRun *run, const Sae *s, int pos)
{
    return (const float *)must(mi_site(run, 0, s->site, s->layer, pos)) + s->first;
}

/* Texts as the SAE was trained on them: after <|endoftext|>, if it says so. That position is never
 * counted and never spliced; the zeros go there too. */
static Prompt prompt_of(const Lab *lab, const Sae *s, const char *text)
{
    Prompt p = tokens_of(lab, text);
    if (!s->bos) return p;
    if (p.n == MOST_TOKENS) refuse(2, "%d tokens are too many", p.n + 1);
    memmove(p.at + 1, p.at, p.n++ * sizeof *p.at);
    if ((p.at[0] = mi_row_of_id(lab->words, 50256)) < 0)
        refuse(1, "prepend_bos, and the model has no <|endoftext|>");
    return p;
}

/* One row of numbers for each token; a text is one group of them. */
enum { L0, ERROR, VARIANCE, LOSS, LOSS_SAE, LOSS_ZERO, GAIN, ROOM, COLUMNS };
typedef struct { MiEstimate l0, fvu, loss, of_sae, of_zero, recovered; } Quality;

/* -log p of each next token -> loss, in one column of rows */
static void losses(const MiRun *run, const Prompt *p, int from, int V, double *loss)
{
    float *logits = zeros((size_t)p->n * V, sizeof *logits);
    check(mi_logits_all(run, 0, from, p->n - 1, logits));
    for (int t = from; t < p->n - 1; t++) {
        const float *row = logits + (size_t)(t - from) * V;
        loss[(size_t)(t - from) * COLUMNS] = mi_log_sum_exp(row, V) - row[p->at[t + 1]];
    }
    free(logits);
}

/* Over all tokens of the texts, with x less its centre, and x_ its mean:
 *     L0 = mean of the number of f_j > 0          FVU = sum |x - x^|^2 / sum |x - x_|^2
 *     recovered = (loss with 0 - loss with x^) / (loss with 0 - loss), of the next tokens */
static Quality measure(const Lab *lab, const Sae *s, const Prompt *text, int n)
{
    int     D = s->d_in, V = lab->shape.n_vocab, rows = 0, r = 0;
    Quality q;
    for (int i = 0; i < n; i++) rows += text[i].n;
    double *v = zeros((size_t)rows * COLUMNS, sizeof *v), *mean = zeros(D, sizeof *mean);
    double *xhat = zeros(D, sizeof *xhat);
    float  *x = zeros((size_t)rows * D, sizeof *x), *f = zeros(s->d_sae, sizeof *f);
    int    *group = zeros(rows, sizeof *group), *of_next = zeros(rows, sizeof *of_next);
    for (int i = 0; i < n; i++) {
        const Prompt *p = &text[i];
        if (p->n < s->bos + 2) continue;
        double *first = v + (size_t)r * COLUMNS;
        MiRun  *base = run_of(lab, p), *zero = spliced(base, s, 0, p->n, NULL);
        MiRun  *sae = spliced(base, s, s->bos, p->n, &(Splice){s, NULL, -1, NULL});
        losses(base, p, s->bos, V, first + LOSS);
        losses(sae, p, s->bos, V, first + LOSS_SAE);
        losses(zero, p, s->bos, V, first + LOSS_ZERO);
        for (int t = s->bos; t < p->n; t++, r++) {
            double *row = v + (size_t)r * COLUMNS;
            const float *at = vector_at(base, s, t);
            Norm norm = encode(s, at, f);
            decode(s, norm, f, xhat);
            for (int j = 0; j < s->d_sae; j++) row[L0] += f[j] != 0;
            for (int d = 0; d < D; d++) {
                x[(size_t)r * D + d] = (float)(at[d] - norm.centre);
                mean[d] += at[d] - norm.centre;
                row[ERROR] += pow(at[d] - norm.centre - xhat[d], 2);
            }
            row[GAIN] = row[LOSS_ZERO] - row[LOSS_SAE], row[ROOM] = row[LOSS_ZERO] - row[LOSS];
            group[r] = i, of_next[r] = t < p->n - 1 ? i : -1;
        }
        mi_free(zero), mi_free(sae), mi_free(base);
    }
    for (size_t e = 0; e < (size_t)r * D; e++)
        v[e / D * COLUMNS + VARIANCE] += pow(x[e] - mean[e % D] / r, 2);
    check(mi_mean(v + L0, COLUMNS, group, r, &q.l0));
    check(mi_ratio(v + ERROR, COLUMNS, v + VARIANCE, COLUMNS, group, r, &q.fvu));
    check(mi_mean(v + LOSS, COLUMNS, of_next, r, &q.loss));
    check(mi_mean(v + LOSS_SAE, COLUMNS, of_next, r, &q.of_sae));
    check(mi_mean(v + LOSS_ZERO, COLUMNS, of_next, r, &q.of_zero));
    check(mi_ratio(v + GAIN, COLUMNS, v + ROOM, COLUMNS, of_next, r, &q.recovered));
    free(v), free(mean), free(x), free(f), free(xhat), free(group), free(of_next);
    return q;
}

/* What a feature's row of W_dec says to the unembedding, before sigma: (w - mean(w)) gamma W_U,
 * of z and neurons after W_O and W_out. -> logits [V] */
static void decoder_logits(const Lab *lab, const Sae *s, int j, float *logits)
{
    int    rows, D = lab->shape.d_model, cols, is_z = s->site == MI_z;
    double mean = 0, *w = zeros(D, sizeof *w), scale = s->norm == AVERAGE ? 1 / s->factor : 1;
    const MiWeight *own = s->W_dec + (size_t)j * s->d_in, *gamma, *W_U, *W = NULL;
    gamma = must(mi_weight(lab->model, "ln_f_gamma", 0, &rows, &cols));
    W_U = must(mi_weight(lab->model, "W_U", 0, &rows, &cols));
    if (is_z || s->site == MI_mlp_post)
        W = must(mi_weight(lab->model, is_z ? "W_O" : "W_out", s->layer, &rows, &cols));
    for (int i = 0; i < s->d_in; i++)
        for (int d = 0; W && d < D; d++) w[d] += own[i] * W[(size_t)(s->first + i) * D + d];
    for (int d = 0; !W && d < D; d++) w[d] = own[d];
    for (int d = 0; d < D; d++) mean += w[d] / D;
    for (int t = 0; t < lab->shape.n_vocab; t++) {
        double sum = 0;
        for (int d = 0; d < D; d++) sum += (w[d] - mean) * gamma[d] * W_U[(size_t)t * D + d];
        logits[t] = (float)(scale * sum);
    }
    free(w);
}

/* The features that differ in f and `to` (NULL: 0), those that move x furthest first -> list;
 * returns how many. */
static int differing(const Sae *s, const float *f, const float *to, int *list)
{
    float *distance = zeros(s->d_sae, sizeof *distance);
    int    n = 0;
    for (int j = 0; j < s->d_sae; j++) {
        distance[j] = (float)(fabs(f[j] - (to ? to[j] : 0.)) * unit_of(s, j) * s->size[j]);
        n += distance[j] > 0;
    }
    mi_top(distance, s->d_sae, n, list);
    free(distance);
    return n;
}

static void print_features(const Lab *lab, const Sae *s, const float *f, const int *list, int n)
{
    int    V = lab->shape.n_vocab, top[6];
    float *logits = zeros(V, sizeof *logits);
    printf("  feature        f  tokens that its decoder promotes\n");
    for (int i = 0; i < n && i < 8; i++) {
        decoder_logits(lab, s, list[i], logits);
        printf("  %7d %8.3f ", list[i], f[list[i]]);
        for (int k = 0, most = mi_top(logits, V, 6, top); k < most; k++) {
            MiLabel token;
            printf(" %s", mi_token_label(lab->words, top[k], token, sizeof token));
        }
        printf("\n");
    }
    free(logits);
}

/* The logit difference with the first 1, 2, 4 ... of list set to `to` at one position, and with as
 * many random ones of the list: mean and standard error of DRAWS. */
static void print_edits(const char *what, const Sae *s, const MiRun *base, int at, Question q,
                        const float *to, const int *list, int n)
{
    uint64_t seed = 1;
    int     *drawn = zeros(n, sizeof *drawn);
    printf("  %s   strongest      random\n", what);
    for (int k = 1; k <= n; k = k < n && 2 * k > n ? n : 2 * k) {
        double first = 0, sum = 0, squares = 0;
        memcpy(drawn, list, n * sizeof *drawn);
        for (int draw = 0; draw <= (k < n ? DRAWS : 0); draw++) {       /* 0: the strongest */
            for (int i = 0; draw && i < k; i++) {
                int j = i + below(&seed, n - i), kept = drawn[i];
                drawn[i] = drawn[j], drawn[j] = kept;
            }
            MiRun *fork = spliced(base, s, at, at + 1, &(Splice){s, drawn, k, to});
            double value = logit_diff(fork, q);
            if (draw) sum += value - first, squares += pow(value - first, 2);
            else first = value;
            mi_free(fork);
        }
        double mean = sum / DRAWS, variance = squares / DRAWS - mean * mean;
        printf("  %7d %+11.3f", k, first);
        if (k == n) printf("   all of them\n");
        else printf(" %+11.3f ± %.3f\n", first + mean,
                    variance < 0 ? 0 : sqrt(variance / (DRAWS - 1)));
    }
    free(drawn);
}

static void print_quality(const Lab *lab, const Sae *s, const char *path)
{
    static Prompt text[MOST_TEXTS];
    char   *line = NULL;
    size_t  room = 0;
    int     n = 0;
    FILE   *file = fopen(path, "r");
    if (!file) refuse(2, "%s: %s", path, strerror(errno));
    while (n < MOST_TEXTS && getline(&line, &room, file) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (*line) text[n++] = prompt_of(lab, s, line);
    }
    free(line), fclose(file);
    Quality q = measure(lab, s, text, n);
    const struct { const char *name; MiEstimate *e; const char *what; } rows[] = {
        {"L0", &q.l0, "features of a token that are not 0"},
        {"FVU", &q.fvu, "sum |x - x^|² / sum |x - mean x|²; variance explained is 1 - FVU"},
        {"loss", &q.loss, "of the next token, as the model is"},
        {"", &q.of_sae, "with x^ in place of x"}, {"", &q.of_zero, "with 0 in place of x"},
        {"recovered", &q.recovered, "(loss with 0 - loss with x^) / (loss with 0 - loss)"},
    };
    if (q.l0.n == 0) refuse(2, "%s: no text of two tokens", path);
    printf("%d tokens, the first %d texts of %s; ± standard error\n", q.l0.n, q.l0.n_groups, path);
    for (int i = 0; i < 6; i++)
        printf("  %-9s %9.3f ± %.3f  %s\n", rows[i].name, rows[i].e->mean, rows[i].e->error,
               rows[i].what);
}

int main(int argc, char **argv)
{
    const char *arg[] = {
        NULL, NULL, "labs/sae", "When Mary and John went to the store, John gave a drink to",
        "When Mary and John went to the store, Mary gave a drink to", " Mary", " John", "9",
        "tests/data/text.txt"
    };
    for (int i = 1; i < argc && i < 9; i++) arg[i] = argv[i];
    Lab      lab = open_lab(argc, argv);
    Sae      s = open_sae(&lab, arg[2]);
    Prompt   prompt = prompt_of(&lab, &s, arg[3]), other = prompt_of(&lab, &s, arg[4]);
    Question q = {token_of(&lab, arg[5]), token_of(&lab, arg[6])};
    char    *end;
    long     place = strtol(arg[7], &end, 10), at = place + (place < 0 ? prompt.n : s.bos);
    long     there = place + (place < 0 ? other.n : s.bos);
    if (*end || at < s.bos || at >= prompt.n || there < s.bos || there >= other.n)
        refuse(2, "no position %s in both prompts", arg[7]);
    print_quality(&lab, &s, arg[8]);

    MiRun  *base = run_of(&lab, &prompt), *source = run_of(&lab, &other);
    float  *f = zeros(s.d_sae, sizeof *f), *g = zeros(s.d_sae, sizeof *g);
    int    *list = zeros(s.d_sae, sizeof *list), n;
    MiLabel token;
    encode(&s, vector_at(source, &s, (int)there), g);
    encode(&s, vector_at(base, &s, (int)at), f);
    n = differing(&s, f, NULL, list);
    mi_token_label(lab.words, prompt.at[at], token, sizeof token);
    printf("%s at position %ld, %s: %d of %d features\n", s.hook, at - s.bos, token, n, s.d_sae);
    print_features(&lab, &s, f, list, n);
    printf("logit difference %.3f, in the source %.3f; with features of this position\n",
           logit_diff(base, q), logit_diff(source, q));
    print_edits("ablated", &s, base, (int)at, q, NULL, list, n);
    n = differing(&s, f, g, list);
    print_edits("swapped", &s, base, (int)at, q, g, list, n);
    free(f), free(g), free(list);
    mi_free(base), mi_free(source);
    close_sae(&s);
    close_lab(&lab);
    return 0;
}
