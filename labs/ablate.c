/* ablate.c - which heads does an answer need?
 *
 *     build/labs/ablate [MODEL]
 *
 * Take one head away at a time: its z, what it carries from the positions that it looks at, is set
 * to 0 at every position, and all that depends on it is computed again. How much of the logit
 * difference is gone? Known as zero ablation; what it can and cannot show: Wang et al. 2022,
 * "Interpretability in the Wild", and chapter 7 of walkthrough.md. The same as
 * ./mi --ablate heads --each */
#include "lab.h"

/* change[l * H + h] = logit_diff without head h of layer l - logit_diff    base -> change [L,H]
 *
 * base is a run of the prompt without edits. An edit that sets the z of head h to 0 is
 *     {.op = MI_SET, .site = MI_z, .layer = l, .first = h * d, .count = d, .pos = 0, .pos_end = T}
 * (z has H d columns, those of head h begin at h * d). mi_fork() of a lane with this edit is the
 * run without the head. Free each fork before the next: a big model has many heads. */
static void ablate_heads(const Lab *lab, const MiRun *base, Question q, double *change)
{
    int    H = lab->shape.n_head, d = lab->shape.d_head, T = mi_n_tokens(base, 0);
    double before = logit_diff(base, q);
    for (int i = 0; i < lab->shape.n_layer * H; i++) {
        MiEdit edit = {.op = MI_SET, .site = MI_z, .layer = i / H, .first = i % H * d, .count = d,
                       .pos_end = T};
        MiLane lane = {.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1};
        MiRun *fork = must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
        change[i] = logit_diff(fork, q) - before;
        mi_free(fork);
    }
}

int main(int argc, char **argv)
{
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, "When Mary and John went to the store, John gave a drink to");
    Question q = {token_of(&lab, " Mary"), token_of(&lab, " John")};
    MiRun   *base = run_of(&lab, &prompt);
    double  *change = must(calloc(lab.shape.n_layer * lab.shape.n_head, sizeof *change));

    ablate_heads(&lab, base, q, change);
    printf("logit difference %.2f; without one head, it changes by\n", logit_diff(base, q));
    print_map(change, lab.shape.n_layer, lab.shape.n_head, "H");
    free(change);
    mi_free(base);
    close_lab(&lab);
    return 0;
}
