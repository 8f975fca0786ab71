/* patch.c - where is the information that tells two prompts apart?
 *
 *     build/labs/patch [MODEL]
 *
 * Of another prompt, the source, take one vector of the residual stream, and put it at the same
 * place of this one. If the answer follows the source, the difference between the two went through
 * that place. Known as activation patching or causal tracing: Meng et al. 2022, "Locating and
 * Editing Factual Associations in GPT"; Heimersheim and Nanda 2024, "How to Use and Interpret
 * Activation Patching". The same as ./mi --source "..." --patch 'L*.resid_pre@*' --each */
#include "lab.h"

/* share[l * T + t] = (patched - base) / (source - base)    -> share [L,T]
 *
 * All three are logit differences: of base, of source (both runs without edits, of T tokens), and
 * of base with resid_pre of layer l at position t taken from source. 0: nothing changed; 1: all as
 * in the source. mi_site() is the source's vector; an edit MI_SET with it as .value puts it into a
 * fork of base: .first = 0, .count = D, .pos = t, .pos_end = t + 1. */
static void patch_stream(const Lab *lab, const MiRun *base, const MiRun *source, Question q,
                         double *share)
{
    int    T = mi_n_tokens(base, 0);
    double of_base = logit_diff(base, q), whole = logit_diff(source, q) - of_base;
    for (int i = 0; i < lab->shape.n_layer * T; i++) {
        int    l = i / T, t = i % T;
        MiEdit edit = {.op = MI_SET, .site = MI_resid_pre, .layer = l, .pos = t, .pos_end = t + 1,
                       .count = lab->shape.d_model,
                       .value = must(mi_site(source, 0, MI_resid_pre, l, t))};
        MiLane lane = {.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1};
        MiRun *fork = must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
        share[i] = (logit_diff(fork, q) - of_base) / whole;
        mi_free(fork);
    }
}

int main(int argc, char **argv)
{
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, "When Mary and John went to the store, John gave a drink to");
    Prompt   other = tokens_of(&lab, "When Mary and John went to the store, Mary gave a drink to");
    Question q = {token_of(&lab, " Mary"), token_of(&lab, " John")};
    MiRun   *base = run_of(&lab, &prompt), *source = run_of(&lab, &other);
    double  *share = must(calloc(lab.shape.n_layer * prompt.n, sizeof *share));

    patch_stream(&lab, base, source, q, share);
    printf("logit difference %.2f, in the source %.2f; resid_pre from the source, one position at "
           "a time\n", logit_diff(base, q), logit_diff(source, q));
    print_map(share, lab.shape.n_layer, prompt.n, "");
    free(share);
    mi_free(base);
    mi_free(source);
    close_lab(&lab);
    return 0;
}
