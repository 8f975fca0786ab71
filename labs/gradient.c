/* gradient.c - is the gradient right, and how far can it be trusted?
 *
 *     build/labs/gradient [MODEL]
 *
 * A gradient says how fast a metric rises with each number of a site. That can be checked: change
 * the number a little up, a little down, and divide. Too little drowns in rounding, too much leaves
 * the straight part of the curve: so the step matters (Baydin et al. 2018, "Automatic
 * Differentiation in Machine Learning: a Survey"). The second table is why attribution patching
 * (Nanda 2023; Syed et al. 2023) needs its audit: a step as large as a patch is not small. */
#include "lab.h"

#include <math.h>

typedef struct { MiSite site; int layer, pos, element; } Place;

/* slope = (m(x + step) - m(x - step)) / (2 step)    m: the logit difference, x: a number of a site
 *
 * Add +step to the element at `place` in a fork of base and read logit_diff, then -step. The edit
 * is MI_ADD, x <- x + amount v, with v one number, 1: .first = element, .count = 1. Differences to
 * both sides are exact up to step^2; those to one side only up to step. */
static double finite_difference(const MiRun *base, Question q, Place place, double step)
{
    const float one = 1;
    double      m[2];
    for (int i = 0; i < 2; i++) {
        MiEdit edit = {.op = MI_ADD, .site = place.site, .layer = place.layer, .pos = place.pos,
                       .pos_end = place.pos + 1, .first = place.element, .count = 1,
                       .amount = (float)(i ? -step : step), .value = &one};
        MiLane lane = {.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1};
        MiRun *fork = must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
        m[i] = logit_diff(fork, q);
        mi_free(fork);
    }
    return (m[0] - m[1]) / (2 * step);
}

int main(int argc, char **argv)
{
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, "When Mary and John went to the store, John gave a drink to");
    Question q = {token_of(&lab, " Mary"), token_of(&lab, " John")};
    MiRun   *base = run_of(&lab, &prompt), *gradient = gradient_of(&lab, base, q);
    int      l = lab.shape.n_layer - 1, last = prompt.n - 1;
    Place    place[] = {{MI_embed, 0, 9, 0}, {MI_resid_pre, l / 2, 9, 0}, {MI_q, l, last, 0},
                        {MI_v, l, 1, 0}, {MI_mlp_post, l, last, 0}, {MI_ln_f, 0, last, 0}};

    printf("  of the number with the largest    gradient   step .1    step 1   step 10\n");
    for (size_t i = 0; i < sizeof place / sizeof *place; i++) {
        Place       *p = &place[i];
        const float *row = must(mi_site(gradient, 0, p->site, p->layer, p->pos));
        for (int e = 1; e < lab.shape.d_model; e++)
            if (fabsf(row[e]) > fabsf(row[p->element])) p->element = e;
        printf("  L%d.%-10s at %2d, element %3d %+9.3f", p->layer, mi_site_info(p->site)->name,
               p->pos, p->element, row[p->element]);
        for (double step = .1; step < 20; step *= 10)
            printf(" %+9.3f", finite_difference(base, q, *p, step));
        printf("\n");
    }
    mi_free(gradient);
    mi_free(base);
    close_lab(&lab);
    return 0;
}
