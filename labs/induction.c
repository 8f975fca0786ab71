/* induction.c - which heads look for what followed the last time?
 *
 *     build/labs/induction [MODEL]
 *
 * On random tokens, said twice, there is nothing to understand: whoever continues them correctly
 * has copied. A head that does so looks, from each token of the second half, at the position after
 * the same token in the first. Olsson et al. 2022, "In-context Learning and Induction Heads". The
 * diagonal is that of TransformerLens and of ./mi --heads */
#include "lab.h"

enum { N_RANDOM = 40 };

/* The mean of pattern[i, i - n + 1] over i = n - 1 .. 2n - 1    run of n tokens, said twice
 *
 * Token i was at i - n before, so what came after it then is at i - n + 1. mi_head(run, 0,
 * MI_pattern, layer, head, i) is the row of the query i: one weight for each key 0 .. i. The
 * diagonal has n + 1 entries: its first is the last token of the first half, which looks at 0. */
static double induction_score(const MiRun *run, int layer, int head, int n)
{
    double sum = 0;
    for (int i = n - 1; i < 2 * n; i++) {
        const float *pattern = must(mi_head(run, 0, MI_pattern, layer, head, i));
        sum += pattern[i - n + 1];
    }
    return sum / (n + 1);
}

/* n tokens, all different, and once more. The same for everyone: x <- 1103515245 x + 12345. */
static Prompt random_twice(const Lab *lab, int n, unsigned seed)
{
    Prompt twice = {.n = 2 * n};
    for (int i = 0, is_new; i < n; i += is_new) {
        seed = seed * 1103515245u + 12345;
        int token = (int)(seed >> 8) % lab->shape.n_vocab;
        is_new = 1;
        for (int j = 0; j < i; j++) is_new &= twice.at[j] != token;
        twice.at[i] = twice.at[n + i] = token;
    }
    return twice;
}

int main(int argc, char **argv)
{
    Lab     lab = open_lab(argc, argv);
    Prompt  twice = random_twice(&lab, N_RANDOM, 1);
    MiRun  *run = run_of(&lab, &twice);
    int     L = lab.shape.n_layer, H = lab.shape.n_head;
    double *score = must(calloc(L * H, sizeof *score));

    for (int i = 0; i < L * H; i++) score[i] = induction_score(run, i / H, i % H, N_RANDOM);
    printf("induction score of each head, on %d random tokens, twice\n", N_RANDOM);
    print_map(score, L, H, "H");
    free(score);
    mi_free(run);
    close_lab(&lab);
    return 0;
}
