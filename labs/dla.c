/* dla.c - who speaks for the answer?
 *
 *     build/labs/dla [MODEL]
 *
 * The last vector of the residual stream is a sum of what every part wrote into it, and a logit is
 * linear in it once sigma is known: so the logit difference is a sum, too, one number for each
 * part. Known as direct logit attribution: Elhage et al. 2021, "A Mathematical Framework for
 * Transformer Circuits". It sees what is said to the unembedding, not what is said to other parts. The sum is
 * printed beside the model's own number: they have to agree. The same as ./mi --dla */
#include "lab.h"

#include <math.h>

/* ((x - mean(x)) / sigma * gamma) . (W_U[answer] - W_U[versus])    x [D], what one part wrote
 *
 * What the final LayerNorm makes of this part alone, with the sigma of the whole, and how far that
 * points from the versus token to the answer. gamma [D], W_U [V,D]: row i is W_U + i * D. Sum in
 * double: a thousand roundings in float would show. */
static double contribution(const double *x, double sigma, const MiWeight *gamma,
                           const MiWeight *W_U, Question q, int D)
{
    double mean = 0, sum = 0;
    for (int i = 0; i < D; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) {
        double u = (double)W_U[(size_t)q.answer * D + i] - W_U[(size_t)q.versus * D + i];
        sum += (x[i] - mean) / sigma * gamma[i] * u;
    }
    return sum;
}

/* beta of the final LayerNorm points somewhere, too, whatever the prompt. */
static double beta_part(const Lab *lab, const MiWeight *W_U, Question q)
{
    int             rows, D;
    double          sum = 0;
    const MiWeight *beta = must(mi_weight(lab->model, "ln_f_beta", 0, &rows, &D));
    for (int i = 0; i < D; i++)
        sum += beta[i] * ((double)W_U[(size_t)q.answer * D + i] - W_U[(size_t)q.versus * D + i]);
    return sum;
}

int main(int argc, char **argv)
{
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, "When Mary and John went to the store, John gave a drink to");
    Question q = {token_of(&lab, " Mary"), token_of(&lab, " John")};
    MiRun   *base = run_of(&lab, &prompt);
    int      rows, D, last = prompt.n - 1;
    const MiWeight *gamma = must(mi_weight(lab.model, "ln_f_gamma", 0, &rows, &D));
    const MiWeight *W_U = must(mi_weight(lab.model, "W_U", 0, &rows, &D));
    const float    *sigma = must(mi_site(base, 0, MI_ln_f_scale, 0, last));
    double         *x = must(calloc(D, sizeof *x)), sum = beta_part(&lab, W_U, q);

    printf("  %-12s %+8.3f\n", "beta", sum);
    for (int w = 0; w < mi_n_writers(base, 0); w++) {
        MiLabel name;
        check(mi_writer(base, 0, w, last, x, name));
        double part = contribution(x, *sigma, gamma, W_U, q, D);
        if (fabs(part) >= .005) printf("  %-12s %+8.3f\n", name, part);
        sum += part;
    }
    printf("  %-12s %+8.3f   the model says %+.3f%s\n", "sum", sum, logit_diff(base, q),
           fabs(sum - logit_diff(base, q)) < 1e-4 ? "" : ": THESE DO NOT AGREE");
    free(x);
    mi_free(base);
    close_lab(&lab);
    return 0;
}
