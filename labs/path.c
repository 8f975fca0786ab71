/* path.c - who tells a head where to look?
 *
 *     build/labs/path [MODEL]
 *
 * Patching one head changes everything above it. To ask about one edge, from what a sender writes
 * to what a receiver reads, hold all other heads at what they did: then only the residual stream
 * (and the MLPs) carry the sender's change, and only the receiver listens. Known as path patching:
 * Wang et al. 2022, "Interpretability in the Wild"; Goldowsky-Dill et al. 2023. The same as
 * ./mi --source "..." --path L4H3 --into L5H3.q */
#include "lab.h"

typedef struct { int layer, head; } Head;

/* logit_diff if the receiver's query alone sees the sender's change - logit_diff of base
 *
 * Three steps, which mi.h describes under "Paths":
 *   1. mi_senders(): base's prompt, the sender's z from source at all positions (an edit MI_SET
 *      with .from = MI_FROM_SOURCE), all other heads held at base's own; freeze_mlps 0.
 *   2. mi_receiver(): what the receiver reads there, {.site = MI_q, ...}, becomes an edit of base.
 *   3. A fork of base with this edit alone. */
static double path_effect(const Lab *lab, const MiRun *base, const MiRun *source, Head sender,
                          Head receiver, Question q)
{
    int     d = lab->shape.d_head, T = mi_n_tokens(base, 0);
    MiEdit  from = {.op = MI_SET, .site = MI_z, .layer = sender.layer, .first = sender.head * d,
                    .count = d, .pos_end = T, .from = MI_FROM_SOURCE};
    MiEdit  into = {.op = MI_SET, .site = MI_q, .layer = receiver.layer,
                    .first = receiver.head * d, .count = d, .pos_end = T};
    MiEdits edits = {0};
    MiRun  *senders = must(mi_senders(base, source, &from, 1, 0));
    check(mi_receiver(senders, T, into, &edits));
    MiLane  lane = {.trunk = base, .edits = edits.at, .n_edits = edits.n, .t0 = -1};
    MiRun  *fork = must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
    double  effect = logit_diff(fork, q) - logit_diff(base, q);
    mi_free(fork);
    mi_free(senders);
    mi_edits_free(&edits);
    return effect;
}

int main(int argc, char **argv)
{
    Lab      lab = open_lab(argc, argv);
    Prompt   prompt = tokens_of(&lab, "When Mary and John went to the store, John gave a drink to");
    Prompt   other = tokens_of(&lab, "When Mary and John went to the store, Mary gave a drink to");
    Question q = {token_of(&lab, " Mary"), token_of(&lab, " John")};
    MiRun   *base = run_of(&lab, &prompt), *source = run_of(&lab, &other);
    int      H = lab.shape.n_head, l = lab.shape.n_layer - 1;

    printf("logit difference %.2f; one edge from the source, into a query of layer %d\n",
           logit_diff(base, q), l);
    for (int h = 0; h < H; h++) {
        printf("  into L%dH%d:\n", l, h);
        double *effect = must(calloc(l * H, sizeof *effect));
        for (int i = 0; i < l * H; i++)
            effect[i] = path_effect(&lab, base, source, (Head){i / H, i % H}, (Head){l, h}, q);
        print_map(effect, l, H, "H");
        free(effect);
    }
    mi_free(base);
    mi_free(source);
    close_lab(&lab);
    return 0;
}
