/* wrong_labs.h - as wrong_engine.h, for labs/. */

static MiRun *edited(const MiRun *base, const MiEdit *edit)
{
    MiLane lane = {.trunk = base, .edits = edit, .n_edits = 1, .t0 = -1};
    return must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
}

static double answer_alone(const MiRun *run, Question q)
{
    float logit;
    check(mi_logits_of(run, 0, mi_n_tokens(run, 0) - 1, &q.answer, 1, &logit));
    return logit;
}

static void ablate_with(const Lab *lab, const MiRun *base, Question q, double *change, int how)
{
    int H = lab->shape.n_head, d = lab->shape.d_head, T = mi_n_tokens(base, 0);
    for (int i = 0; i < lab->shape.n_layer * H; i++) {
        MiEdit edit = {.op = MI_SET, .site = how == 5 ? MI_v : MI_z, .layer = i / H, .count = d,
                       .first = i % H * d, .pos_end = T};
        if (how == 1) edit.pos = T - 1;
        if (how == 2) edit.first = 0, edit.count = lab->shape.d_model;
        if (how == 6) edit.first = i % H;
        if (how == 7) edit.op = MI_SCALE, edit.amount = .5f;
        if (how == 10) edit.pos_end = T - 1;
        int place = how == 9 ? i % H * lab->shape.n_layer + i / H : i;
        MiRun *fork = edited(base, &edit);
        double with = logit_diff(fork, q), before = logit_diff(base, q);
        change[place] = how == 0 ? before - with : how == 3 ? with : how == 8 ? (with - before) / before
                  : how == 4 ? answer_alone(fork, q) - answer_alone(base, q) : with - before;
        mi_free(fork);
    }
}
#define ABLATE(name, how)                                                                        \
    static void name(const Lab *l, const MiRun *b, Question q, double *c) { ablate_with(l, b, q, c, how); }
ABLATE(ablate_sign, 0) ABLATE(ablate_last, 1) ABLATE(ablate_layer, 2) ABLATE(ablate_raw, 3)
ABLATE(ablate_answer, 4) ABLATE(ablate_columns, 6) ABLATE(ablate_share, 8)
ABLATE(ablate_order, 9) ABLATE(ablate_short, 10)
static void ablate_none(const Lab *lab, const MiRun *base, Question q, double *change)
{
    (void)base, (void)q;
    for (int i = 0; i < lab->shape.n_layer * lab->shape.n_head; i++) change[i] = 0;
}

static void patch_with(const Lab *lab, const MiRun *base, const MiRun *source, Question q, double *share,
                       int how)
{
    int T = mi_n_tokens(base, 0);
    double b = logit_diff(base, q), s = logit_diff(source, q);
    for (int i = 0; i < lab->shape.n_layer * T; i++) {
        MiEdit edit = {.op = MI_SET, .site = how == 7 ? MI_resid_post : MI_resid_pre, .layer = i / T,
                       .pos = i % T, .pos_end = how == 4 ? T : i % T + 1, .count = lab->shape.d_model};
        const MiRun *from = how == 3 ? base : source, *into = how == 3 ? source : base;
        edit.value = mi_site(from, 0, edit.site, edit.layer, edit.pos);
        if (how == 9) edit.pos_end = T;
        if (how == 4) edit.value_stride = lab->shape.d_model;
        MiRun *fork = edited(into, &edit);
        double p = logit_diff(fork, q);
        share[i] = how == 0 ? p - b : how == 1 ? (p - s) / (b - s) : how == 2 ? p / s
                 : how == 5 ? (p - b) / s : how == 6 ? p : how == 8 ? (p - b) / (b - s)
                 : (p - b) / (s - b);
        mi_free(fork);
    }
}
#define PATCH(name, how)                                                                         \
    static void name(const Lab *l, const MiRun *b, const MiRun *s, Question q, double *x)        \
    { patch_with(l, b, s, q, x, how); }
PATCH(patch_difference, 0) PATCH(patch_flipped, 1) PATCH(patch_ratio, 2) PATCH(patch_reverse, 3)
PATCH(patch_from, 4) PATCH(patch_of_source, 5) PATCH(patch_raw, 6) PATCH(patch_post, 7)
PATCH(patch_sign, 8) PATCH(patch_repeated, 9)

static double induction_with(const MiRun *run, int layer, int head, int n, int how)
{
    double sum = 0;
    int    rows = 0, back = how == 0 ? n : how == 1 ? 1 : how == 2 ? n + 1 : n - 1;
    for (int i = how == 3 ? n : n - 1; i < 2 * n - (how == 6); i++, rows++) {
        int key = i - back;
        if (key >= 0) sum += mi_head(run, 0, MI_pattern, layer, head, i)[key];
    }
    return how == 4 ? sum : how == 5 ? sum / (2 * n) : how == 7 ? sum / n : sum / rows;
}
#define INDUCTION(name, how)                                                                     \
    static double name(const MiRun *run, int l, int h, int n) { return induction_with(run, l, h, n, how); }
INDUCTION(induction_duplicate, 0) INDUCTION(induction_previous, 1) INDUCTION(induction_before, 2)
INDUCTION(induction_late, 3) INDUCTION(induction_sum, 4) INDUCTION(induction_all, 5)
INDUCTION(induction_short, 6) INDUCTION(induction_n, 7)

static double dla_with(const double *x, double sigma, const MiWeight *gamma, const MiWeight *W_U,
                       Question q, int D, int how)
{
    double mean = 0, sum = 0;
    for (int i = 0; i < D && how != 0; i++) mean += x[i] / D;
    for (int i = 0; i < D; i++) {
        double a = W_U[(size_t)q.answer * D + i], v = W_U[(size_t)q.versus * D + i];
        double y = (x[i] - mean) / (how == 1 ? 1 : how == 6 ? sigma * sigma : sigma);
        sum += (how == 2 ? y : y * gamma[i]) * (how == 3 ? a : how == 4 ? v - a : a - v);
    }
    return sum;
}
#define DLA(name, how)                                                                           \
    static double name(const double *x, double s, const MiWeight *g, const MiWeight *w, Question q, int D) \
    { return dla_with(x, s, g, w, q, D, how); }
DLA(dla_mean, 0) DLA(dla_sigma, 1) DLA(dla_gamma, 2) DLA(dla_versus, 3) DLA(dla_sign, 4) DLA(dla_twice, 6)

static double path_with(const Lab *lab, const MiRun *base, const MiRun *source, Head s, Head r,
                        Question q, int how)
{
    int     d = lab->shape.d_head, T = mi_n_tokens(base, 0);
    MiEdit  from = {.op = MI_SET, .site = MI_z, .layer = s.layer, .first = s.head * d, .count = d,
                    .pos_end = T, .from = MI_FROM_SOURCE};
    MiEdit  into = {.op = MI_SET, .site = how == 1 ? MI_k : how == 2 ? MI_v : MI_q, .layer = r.layer,
                    .first = r.head * d, .count = d, .pos_end = T};
    MiEdits edits = {0};
    if (how == 0) {                                     /* the whole effect of the sender */
        from.from = MI_FROM_VALUE;
        from.value = mi_site(source, 0, MI_z, s.layer, 0) + from.first;
        from.value_stride = (size_t)lab->shape.d_model;
        MiRun *fork = edited(base, &from);
        double effect = logit_diff(fork, q) - logit_diff(base, q);
        mi_free(fork);
        return effect;
    }
    MiRun *senders = must(mi_senders(base, source, &from, 1, how == 3));
    check(mi_receiver(senders, T, into, &edits));
    MiLane lane = {.trunk = base, .edits = edits.at, .n_edits = edits.n, .t0 = -1};
    MiRun *fork = must(mi_fork(&lane, 1, -1, MI_KEEP_NONE));
    double of_base = logit_diff(base, q), of_fork = logit_diff(fork, q);
    double effect = how == 4 ? of_base - of_fork : how == 5 ? of_fork
                  : how == 6 ? logit_diff(senders, q) - of_base
                  : how == 7 ? (of_fork - of_base) / (logit_diff(source, q) - of_base) : of_fork - of_base;
    mi_free(fork);
    mi_free(senders);
    mi_edits_free(&edits);
    return effect;
}
#define PATH(name, how)                                                                          \
    static double name(const Lab *l, const MiRun *b, const MiRun *s, Head x, Head y, Question q) \
    { return path_with(l, b, s, x, y, q, how); }
PATH(path_total, 0) PATH(path_key, 1) PATH(path_value, 2) PATH(path_frozen, 3) PATH(path_sign, 4)
PATH(path_raw, 5) PATH(path_share, 7)

static double slope_with(const MiRun *base, Question q, Place place, double step, int how)
{
    const float one = 1;
    double      m[2], at = logit_diff(base, q);
    for (int i = 0; i < 2; i++) {
        MiEdit edit = {.op = MI_ADD, .site = place.site, .layer = place.layer, .pos = place.pos,
                       .pos_end = place.pos + 1, .first = place.element, .count = 1,
                       .amount = (float)(i ? -step : step), .value = &one};
        if (how == 6) edit.op = MI_SET, edit.value = NULL;
        MiRun *fork = edited(base, &edit);
        m[i] = logit_diff(fork, q);
        mi_free(fork);
    }
    return how == 0 ? (m[0] - at) / step : how == 1 ? (m[0] - m[1]) / step : how == 2 ? m[0] - m[1]
         : how == 3 ? (m[1] - m[0]) / (2 * step) : how == 4 ? (m[0] - m[1]) / 2
         : how == 5 ? (at - m[1]) / step : (m[0] - m[1]) / (2 * step);
}
#define SLOPE(name, how)                                                                         \
    static double name(const MiRun *b, Question q, Place p, double s) { return slope_with(b, q, p, s, how); }
SLOPE(slope_forward, 0) SLOPE(slope_two, 1) SLOPE(slope_none, 2) SLOPE(slope_sign, 3) SLOPE(slope_step, 4)
SLOPE(slope_backward, 5) SLOPE(slope_set, 6)

static const Variant wrong[] = {
    {"ablate", "the sign: it is (without the head) - (with it)", {.ablate = ablate_sign}},
    {"ablate", "only the last position is ablated: a head also writes at the others",
     {.ablate = ablate_last}},
    {"ablate", "the whole layer is ablated each time: count is d, one head's columns",
     {.ablate = ablate_layer}},
    {"ablate", "this is the logit difference without the head, not its change",
     {.ablate = ablate_raw}},
    {"ablate", "the logit of the answer alone: where is versus?", {.ablate = ablate_answer}},
    {"ablate", "head h begins at column h * d, not h", {.ablate = ablate_columns}},
    {"ablate", "a change, not a share: do not divide by the logit difference",
     {.ablate = ablate_share}},
    {"ablate", "the table is [L,H]: change[l * H + h], not change[h * L + l]",
     {.ablate = ablate_order}},
    {"ablate", "the last position is left out: pos_end is the one behind it, T",
     {.ablate = ablate_short}},
    {"ablate", "all changes are 0: is the fork read, or base again?", {.ablate = ablate_none}},

    {"patch", "not normalized: divide by source - base", {.patch = patch_difference}},
    {"patch", "1 where 0 belongs: it is (patched - base) / (source - base)",
     {.patch = patch_flipped}},
    {"patch", "divided by the source's logit difference: subtract base first, from both",
     {.patch = patch_ratio}},
    {"patch", "the wrong way round: the source's value goes into base", {.patch = patch_reverse}},
    {"patch", "patches all positions from t on: pos_end is t + 1", {.patch = patch_from}},
    {"patch", "patches all positions from t on, with the vector of t: pos_end is t + 1",
     {.patch = patch_repeated}},
    {"patch", "divided by source, not by source - base", {.patch = patch_of_source}},
    {"patch", "this is the patched logit difference itself", {.patch = patch_raw}},
    {"patch", "resid_post is patched, not resid_pre", {.patch = patch_post}},
    {"patch", "the sign: divided by base - source", {.patch = patch_sign}},

    {"induction", "looks at i - n, the token's first time: a duplicate-token head; induction is "
     "one further", {.induction = induction_duplicate}},
    {"induction", "looks at i - 1: a previous-token head", {.induction = induction_previous}},
    {"induction", "looks at i - n - 1, what came before the first time; induction is what came "
     "after", {.induction = induction_before}},
    {"induction", "the diagonal begins at i = n - 1, not n", {.induction = induction_late}},
    {"induction", "the sum, not the mean", {.induction = induction_sum}},
    {"induction", "divided by 2n: the diagonal has n + 1 entries", {.induction = induction_all}},
    {"induction", "the last row, i = 2n - 1, is missing", {.induction = induction_short}},
    {"induction", "divided by n: the diagonal has n + 1 entries", {.induction = induction_n}},

    {"dla", "the part's own mean is not subtracted", {.dla = dla_mean}},
    {"dla", "not divided by sigma", {.dla = dla_sigma}},
    {"dla", "gamma is missing", {.dla = dla_gamma}},
    {"dla", "the logit of the answer alone: subtract W_U[versus]", {.dla = dla_versus}},
    {"dla", "the sign: W_U[answer] - W_U[versus]", {.dla = dla_sign}},
    {"dla", "divided by sigma twice", {.dla = dla_twice}},

    {"path", "the whole effect of the sender, by all paths: only the receiver may listen",
     {.path = path_total}},
    {"path", "into the receiver's keys, not its query", {.path = path_key}},
    {"path", "into the receiver's values, not its query", {.path = path_value}},
    {"path", "MLPs are frozen: here they are computed again (freeze_mlps 0)",
     {.path = path_frozen}},
    {"path", "the sign: (with the edge patched) - base", {.path = path_sign}},
    {"path", "this is the logit difference itself, not its change", {.path = path_raw}},
    {"path", "an effect, not a share: do not divide by source - base", {.path = path_share}},

    {"gradient", "one-sided: (m(x + step) - m(x)) / step is exact only up to step",
     {.gradient = slope_forward}},
    {"gradient", "one-sided: (m(x) - m(x - step)) / step is exact only up to step",
     {.gradient = slope_backward}},
    {"gradient", "x moves by 2 steps, from - to +: divide by 2 step", {.gradient = slope_two}},
    {"gradient", "not divided by 2 step", {.gradient = slope_none}},
    {"gradient", "not divided by the step", {.gradient = slope_step}},
    {"gradient", "the sign: m(x + step) comes first", {.gradient = slope_sign}},
    {"gradient", "the number is set to the step; the step has to be added to it",
     {.gradient = slope_set}},
};
