/* jlens.c - what is a vector in the middle of the stream about to make the model say?
 *
 *     build/labs/jlens [MODEL [TEXT [PROMPT ANSWER VERSUS [SKIP]]]]
 *
 * The logit lens reads the stream as if nothing came after it. The Jacobian lens first takes it
 * through what comes after, on average and to first order (Gurnee et al. 2026, "Verbalizable
 * Representations Form a Global Workspace in Language Models"):
 *
 *     lens_l(h) = W_U LN_f(J_l h)      J_l = E [ sum_t' d resid_post_L(t') / d resid_post_l(t) ]
 *
 * the mean over the first lines of TEXT, and in each over source positions t, of the sum over
 * target positions t' >= t; both from SKIP to the last but one, as TransformerLens' JacobianLens has
 * it. A backward pass from the end of the stream gives a row of J_l for every layer. Then, by layer at
 * the last token of PROMPT: the likeliest token and the logit difference by the logit lens and by
 * this one, and how far each is from what the model says (KL, in nats). The control reads h through
 * the J of another layer. */
#include "lab.h"

#include <math.h>

enum { MOST_TEXTS = 8 };

/* J [L-1,D,D] <- the mean over texts; returns how many there were. Row i of J_l is the gradient at
 * resid_post of layer l of entry i of the end, summed over its positions. */
static int fit(const Lab *lab, const char *path, int skip, double *J)
{
    int     L = lab->shape.n_layer, D = lab->shape.d_model, n = 0;
    char    line[512];
    FILE   *file = fopen(path, "r");
    if (!file) refuse(2, "%s: %s", path, strerror(errno));
    while (n < MOST_TEXTS && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        Prompt text = tokens_of(lab, line);
        int    sources = text.n - 1 - skip;
        if (sources < 1) continue;
        MiRun *run = run_of(lab, &text);
        float *dresid = must(malloc((size_t)text.n * D * sizeof *dresid));
        for (int i = 0; i < D; i++) {
            memset(dresid, 0, (size_t)text.n * D * sizeof *dresid);
            for (int t = skip; t < text.n - 1; t++) dresid[t * D + i] = 1;
            MiRun *slope = must(mi_gradient_of_stream(run, 0, text.n - 1, dresid,
                                                      MI_KEEP(resid_post)));
            for (int l = 0; l < L - 1; l++)
                for (int t = skip; t < text.n - 1; t++) {
                    const float *g = must(mi_site(slope, 0, MI_resid_post, l, t));
                    for (int j = 0; j < D; j++)
                        J[((size_t)l * D + i) * D + j] += (double)g[j] / sources;
                }
            mi_free(slope);
        }
        free(dresid), mi_free(run);
        n++;
    }
    fclose(file);
    if (n == 0) refuse(2, "%s: no text has more than %d tokens", path, skip + 1);
    for (size_t i = 0; i < (size_t)(L - 1) * D * D; i++) J[i] /= n;
    return n;
}

/* logits [V] <- W_U LN_f(J h)    h [D]; J NULL: h itself */
static void read_through(const Lab *lab, const MiRun *run, const double *J, const float *h,
                         float *logits)
{
    int    D = lab->shape.d_model, V, cols;
    MiEdit end = {.site = MI_ln_f, .head = -1, .count = D};
    const MiWeight *W_U = must(mi_weight(lab->model, "W_U", 0, &V, &cols));
    float *x = must(malloc(2 * D * sizeof *x)), *y = x + D;
    for (int i = 0; i < D; i++) {
        double sum = 0;
        for (int j = 0; j < D && J; j++) sum += J[(size_t)i * D + j] * h[j];
        x[i] = J ? (float)sum : h[i];
    }
    check(mi_reader(run, &end, x, y));
    for (int v = 0; v < V; v++) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += (double)W_U[(size_t)v * D + i] * y[i];
        logits[v] = (float)sum;
    }
    free(x);
}

/* KL(p || q) of two rows of logits */
static double divergence(const float *p, const float *q, int V)
{
    double all_p = mi_log_sum_exp(p, V), all_q = mi_log_sum_exp(q, V), sum = 0;
    for (int v = 0; v < V; v++)
        sum += exp(p[v] - all_p) * ((p[v] - all_p) - (q[v] - all_q));
    return sum;
}

static void print_reading(const Lab *lab, const float *logits, const float *said, Question q)
{
    int best = 0, V = lab->shape.n_vocab;
    mi_top(logits, V, 1, &best);
    printf("  ");
    print_token(lab, best, 12);
    printf(" %+9.4f %8.4f", logits[q.answer] - logits[q.versus], divergence(said, logits, V));
}

int main(int argc, char **argv)
{
    if (argc > 3 && argc != 6 && argc != 7)
        refuse(2, "usage: jlens [MODEL [TEXT [PROMPT ANSWER VERSUS [SKIP]]]]");
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, argc > 3 ? argv[3] : "The keys to the cabinet");
    Question q = {token_of(&lab, argc > 3 ? argv[4] : " are"),
                  token_of(&lab, argc > 3 ? argv[5] : " is")};
    char    *end = NULL;
    long     skip = argc > 6 ? strtol(argv[6], &end, 10) : 2;
    if (argc > 6 && (*end || end == argv[6] || skip < 0 || skip > MOST_TOKENS))
        refuse(2, "SKIP is a number of tokens, not \"%s\"", argv[6]);
    int      L = lab.shape.n_layer, D = lab.shape.d_model, V = lab.shape.n_vocab, t = prompt.n - 1;
    if (L < 2) refuse(2, "a model of one layer has nothing in between");
    double  *J = must(calloc((size_t)(L - 1) * D * D, sizeof *J));
    float   *said = must(malloc(2 * V * sizeof *said)), *logits = said + V;
    int      n = fit(&lab, argc > 2 ? argv[2] : "tests/data/text.txt", (int)skip, J);
    MiRun   *run = run_of(&lab, &prompt);

    check(mi_logits(run, 0, t, said));
    printf("J of %d texts; at the last token: likeliest, logit difference, KL(model || it)\n\n"
           "        logit lens                      Jacobian lens                   "
           "J of another layer\n", n);
    for (int l = 0; l < L - 1; l++) {
        const float *h = must(mi_site(run, 0, MI_resid_post, l, t));
        const double *of[] = {NULL, J + (size_t)l * D * D, J + (size_t)((l + 1) % (L - 1)) * D * D};
        printf("  L%-2d ", l);
        for (int i = 0; i < 3; i++) {
            read_through(&lab, run, of[i], h, logits);
            print_reading(&lab, logits, said, q);
        }
        printf("\n");
    }
    printf("  end ");
    print_reading(&lab, said, said, q);
    printf("\n");
    mi_free(run), free(said), free(J);
    close_lab(&lab);
    return 0;
}
