/* relevance.c - which tokens of the prompt does an answer come from?
 *
 *     build/labs/relevance [MODEL [PROMPT ANSWER VERSUS]]
 *
 * Four usual answers, and the exact one beside them. m is the logit difference at the last token t,
 * A_l the patterns of layer l, e_j the embedding of token j (its place's is held):
 *
 *     rollout     row t of R = prod_l (mean_h A_l + I) / 2 (Abnar and Zuidema 2020)
 *     gradient    row t of R = prod_l (I + mean_h relu(A_l * dm/dA_l)) (Chefer et al. 2021; ULTra,
 *                 2411.12589, of any latent token)
 *     input       e_j . dm/de_j, gradient x input
 *     path        e_j . mean_k dm/de_j at k e / N, k = 1/2, 3/2 ...: integrated gradients from an
 *                 embedding of 0 (Sundararajan et al. 2017); they add up to m - m(0), so N
 *                 is four times as large until they do, to 1 in 100
 *     exact       how much m falls if another token stands there, mean over random ones ± SE
 *
 * The last line is what a method has to beat: how well random numbers agree with the exact ones.
 * Rollout and gradient have no sign, so they are held against the size of the exact effect. */
#include "lab.h"

#include <math.h>

enum { MOST_STEPS = 4096, DRAWS = 20, SHUFFLES = 1000 };

/* Row T - 1 of the product over layers of (I + mean over heads M) -> relevance [T]. From the top
 * down a row is enough: r <- r + r M. Without a gradient M is the pattern, the sum is halved. */
static void roll(const Lab *lab, const MiRun *run, const MiRun *gradient, double *relevance)
{
    int     H = lab->shape.n_head, T = mi_n_tokens(run, 0);
    double *next = must(malloc(T * sizeof *next));
    for (int j = 0; j < T; j++) relevance[j] = j == T - 1;
    for (int l = lab->shape.n_layer - 1; l >= 0; l--) {
        for (int j = 0; j < T; j++) next[j] = relevance[j];
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                const float *a = must(mi_head(run, 0, MI_pattern, l, h, t)), *g = NULL;
                if (gradient) g = must(mi_head(gradient, 0, MI_pattern, l, h, t));
                for (int j = 0; j <= t; j++)
                    next[j] += relevance[t] * (g ? fmax(0, (double)a[j] * g[j]) : a[j]) / H;
            }
        for (int j = 0; j < T; j++) relevance[j] = gradient ? next[j] : next[j] / 2;
    }
    free(next);
}

/* e_j . (the gradient at `part` of the embeddings), times share, onto relevance [T]; returns m. */
static double add_slope(const Lab *lab, const MiRun *base, Question q, double part, double share,
                        double *relevance)
{
    int     D = lab->shape.d_model, T = mi_n_tokens(base, 0);
    MiEdit  edit = {.op = MI_SCALE, .site = MI_embed, .head = -1, .count = D, .pos_end = T,
                    .amount = (float)part};
    MiEdits edits = {.at = &edit, .n = 1};
    int    *tokens = must(malloc(T * sizeof *tokens));
    for (int t = 0; t < T; t++) tokens[t] = mi_token(base, 0, t);
    MiRun  *run = must(mi_run(lab->model, tokens, T, &edits, NULL));
    MiRun  *gradient = gradient_of(lab, run, q);
    for (int t = 0; t < T; t++) {
        const float *e = must(mi_site(base, 0, MI_embed, 0, t));
        const float *g = must(mi_site(gradient, 0, MI_embed, 0, t));
        for (int i = 0; i < D; i++) relevance[t] += share * e[i] * g[i];
    }
    double m = logit_diff(run, q);
    mi_free(gradient), mi_free(run), free(tokens);
    return m;
}

/* m - m with another token at each position: means over random tokens, and their errors. */
static void replace_tokens(const Lab *lab, const Prompt *prompt, Question q, double m,
                           double *effect, double *error)
{
    uint64_t   seed = 1;
    int        group[DRAWS];
    double     fall[DRAWS];
    MiEstimate mean;
    for (int t = 0; t < prompt->n; t++) {
        for (int i = 0; i < DRAWS; i++) {
            Prompt other = *prompt;
            do other.at[t] = below(&seed, lab->shape.n_vocab);
            while (other.at[t] == prompt->at[t]);
            MiRun *run = run_of(lab, &other);
            group[i] = i, fall[i] = m - logit_diff(run, q);
            mi_free(run);
        }
        check(mi_mean(fall, 1, group, DRAWS, &mean));
        effect[t] = mean.mean, error[t] = mean.error;
    }
}

/* Pearson's r of x with y, or with its size. */
static double correlation(const double *x, const double *y, int n, int size)
{
    double sum[5] = {0};
    for (int i = 0; i < n; i++) {
        double v = size ? fabs(y[i]) : y[i];
        sum[0] += x[i] / n, sum[1] += v / n;
        sum[2] += x[i] * x[i] / n, sum[3] += v * v / n, sum[4] += x[i] * v / n;
    }
    return (sum[4] - sum[0] * sum[1]) /
           sqrt((sum[2] - sum[0] * sum[0]) * (sum[3] - sum[1] * sum[1]));
}

int main(int argc, char **argv)
{
    enum { ROLLOUT, GRADIENT, INPUT, PATH, EXACT, ERROR, N_COLUMNS };
    if (argc > 2 && argc != 5) refuse(2, "usage: relevance [MODEL [PROMPT ANSWER VERSUS]]");
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, argc > 2 ? argv[2] :
                                "When Mary and John went to the store, John gave a drink to");
    Question q = {token_of(&lab, argc > 2 ? argv[3] : " Mary"),
                  token_of(&lab, argc > 2 ? argv[4] : " John")};
    int      T = prompt.n, steps;
    if (T < 3) refuse(2, "a prompt of at least three tokens is needed");
    double   value[N_COLUMNS][MOST_TOKENS] = {{0}}, nothing[MOST_TOKENS] = {0}, path = 0, zero;
    MiRun   *base = run_of(&lab, &prompt), *gradient = gradient_of(&lab, base, q);
    double   m = logit_diff(base, q);

    roll(&lab, base, NULL, value[ROLLOUT]);
    roll(&lab, base, gradient, value[GRADIENT]);
    add_slope(&lab, base, q, 1, 1, value[INPUT]);
    zero = add_slope(&lab, base, q, 0, 0, nothing);
    for (steps = 16; steps <= MOST_STEPS && fabs(path + zero - m) > .01 * fabs(m - zero);
         steps *= 4) {
        memset(value[PATH], 0, sizeof value[PATH]);
        path = 0;
        for (int k = 0; k < steps; k++)
            add_slope(&lab, base, q, (k + .5) / steps, 1. / steps, value[PATH]);
        for (int t = 0; t < T; t++) path += value[PATH][t];
    }
    replace_tokens(&lab, &prompt, q, m, value[EXACT], value[ERROR]);

    printf("logit difference %+.4f; relevance of each token by\n\n", m);
    printf("                   rollout  gradient     input      path     exact\n");
    for (int t = 0; t < T; t++) {
        printf("  %3d ", t);
        print_token(&lab, prompt.at[t], 12);
        for (int c = 0; c < EXACT; c++) printf(" %9.4f", value[c][t]);
        printf(" %9.4f ± %.4f\n", value[EXACT][t], value[ERROR][t]);
    }
    printf("\n  path, in %d steps, adds up to %+.4f; m less m without embeddings is %+.4f\n",
           steps / 4, path, m - zero);

    static const char *const name[] = {"rollout", "gradient", "input", "path"};
    printf("\n  agreement with the exact effect (r); that of the numbers in random order (SD)\n");
    for (int c = 0; c < EXACT; c++) {
        uint64_t seed = 2;
        double   squares = 0, x[MOST_TOKENS];
        memcpy(x, value[c], sizeof x);
        for (int s = 0; s < SHUFFLES; s++) {
            for (int i = T - 1; i > 0; i--) {
                int    j = below(&seed, i + 1);
                double swap = x[i];
                x[i] = x[j], x[j] = swap;
            }
            double r = correlation(x, value[EXACT], T, c < INPUT);
            squares += r * r / SHUFFLES;
        }
        printf("  %-10s %+.3f   %.3f\n", name[c], correlation(value[c], value[EXACT], T, c < INPUT),
               sqrt(squares));
    }
    mi_free(gradient), mi_free(base);
    close_lab(&lab);
    return 0;
}
