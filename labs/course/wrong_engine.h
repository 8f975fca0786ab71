/* wrong_engine.h - what is plausible and wrong: formulas whose numbers the grader knows, so that it
 * can say which one a student wrote. Each line of `wrong` is an exercise, what is said, and the
 * functions that differ from the reference. Never part of an assignment. */

/* ---- softmax ---- */

/* e^s / sum of e^s with something else in places: */
#define SOFTMAX(name, shifted, value, total_of)                                                  \
    static void name(float *s, int n)                                                            \
    {                                                                                            \
        float max = -INFINITY, total = 0, lowest = INFINITY, e[64];                              \
        for (int j = 0; j < n; j++) max = s[j] > max ? s[j] : max;                               \
        for (int j = 0; j < n; j++) lowest = s[j] < lowest ? s[j] : lowest;                      \
        int cut = max == -INFINITY && all_cut(s, n);                                             \
        (void)lowest, (void)cut, (void)max;                                                      \
        for (int j = 0; j < n; j++) { float x = shifted; (void)x; e[j] = value; }                \
        for (int j = 0; j < n; j++) total += total_of;                                           \
        for (int j = 0; j < n; j++) s[j] = e[j] / total;                                         \
        for (int j = 0; j < n && cut; j++) s[j] = 0;                                             \
    }
SOFTMAX(softmax_raw, s[j], naive_exp(x), e[j])
SOFTMAX(softmax_sum, s[j] - max, naive_exp(x), 1.0f)
SOFTMAX(softmax_linear, s[j], x, e[j])
SOFTMAX(softmax_two, s[j] - max, exp2f(x), e[j])
SOFTMAX(softmax_no_sum, s[j] - max, naive_exp(x), 1.0f / n)
SOFTMAX(softmax_min, s[j] - lowest, naive_exp(x), e[j])
SOFTMAX(softmax_square, s[j] - max, naive_exp(x), e[j] * e[j])
static void softmax_cut(float *s, int n)
{
    float max = -INFINITY;
    for (int j = 0; j < n; j++) max = s[j] > max ? s[j] : max;
    for (int j = 0; j < n; j++) s[j] = naive_exp(s[j] - max);
    float total = naive_sum(s, n);
    for (int j = 0; j < n; j++) s[j] /= total;
}
static void softmax_raw_cut(float *s, int n)
{
    for (int j = 0; j < n; j++) s[j] = naive_exp(s[j]);
    float total = naive_sum(s, n);
    for (int j = 0; j < n; j++) s[j] /= total;
}
static void softmax_zero_max(float *s, int n)
{
    float max = 0;
    for (int j = 0; j < n; j++) max = s[j] > max ? s[j] : max;
    for (int j = 0; j < n; j++) s[j] = naive_exp(s[j] - max);
    float total = naive_sum(s, n);
    for (int j = 0; j < n; j++) s[j] /= total;
}

/* ---- gelu ---- */

#define GELU(name, value)                                                                        \
    static void name(float *y, const float *x_, int n)                                           \
    {                                                                                            \
        for (int i = 0; i < n; i++) {                                                            \
            double x = x_[i], u = 0.7978845608 * (x + 0.044715 * x * x * x);                     \
            (void)u;                                                                             \
            y[i] = (float)(value);                                                               \
        }                                                                                        \
    }
GELU(gelu_erf, x * .5 * (1 + erf(x / 1.4142135623730951)))
GELU(gelu_relu, x > 0 ? x : 0)
GELU(gelu_sigmoid, x / (1 + exp(-1.702 * x)))
GELU(gelu_sign, x / (1 + exp(2 * u)))
GELU(gelu_one_u, x / (1 + exp(-u)))
GELU(gelu_square, x / (1 + exp(-2 * 0.7978845608 * (x + 0.044715 * x * x))))
GELU(gelu_no_root, x / (1 + exp(-2 * (x + 0.044715 * x * x * x))))
GELU(gelu_no_x, 1 / (1 + exp(-2 * u)))
GELU(gelu_tanh, x * (1 + tanh(u)))
static float slope_with(float x, double bend, double three)
{
    double u = 0.7978845608 * (x + 0.044715 * x * x * (double)x), s = 1 / (1 + exp(-2 * u));
    double b = bend * s * (1 - s);
    return (float)(b == 0 ? s : s + x * b * 0.7978845608 * (1 + three * 0.044715 * x * x));
}
static float slope_one(float x) { return slope_with(x, 1, 3); }
static float slope_cube(float x) { return slope_with(x, 2, 1); }
static float slope_flat(float x) { return slope_with(x, 0, 3); }
static float slope_inside(float x)
{
    return x == 0 ? .5f : slope_with(x, 2, 3) - slope_with(x, 0, 3);
}

/* ---- scores and mix ---- */

#define SCORES(name, q_row, keys_n, key_j, factor)                                               \
    static void name(float *s, size_t stride, const float *q, int rows, const Keys *keys,        \
                     int column, int n, int d)                                                   \
    {                                                                                            \
        for (int r = 0; r < rows; r++)                                                           \
            for (int j = 0; j < keys_n && j < keys->n; j++)                                      \
                s[r * stride + j] = naive_dot(q + (size_t)(q_row) * keys->stride, key_j, d) * (factor); \
    }
SCORES(scores_raw, r, n + r, key_at(keys, j, column), 1)
SCORES(scores_d, r, n + r, key_at(keys, j, column), keys->scale * keys->scale)
SCORES(scores_times, r, n + r, key_at(keys, j, column), 1 / keys->scale)
SCORES(scores_few, r, n, key_at(keys, j, column), keys->scale)
SCORES(scores_first, 0, n + r, key_at(keys, j, column), keys->scale)
SCORES(scores_column, r, n + r, key_at(keys, j, 0 * column), keys->scale)
SCORES(scores_own, r, n + r, keys->own + (size_t)j * keys->stride + column, keys->scale)

static void scores_dense(float *s, size_t stride, const float *q, int rows, const Keys *keys,
                         int column, int n, int d)
{
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n + r; j++)
            s[r * stride + j] = naive_dot(q + (size_t)r * d, key_at(keys, j, column), d) * keys->scale;
}

static void mix_with(float *z, const float *pattern, size_t stride, int rows, const Keys *values,
                     int column, int n, int d, int how)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < d; c++) {
            float sum = how == 7 ? z[(size_t)r * values->stride + c] : 0, total = 0;
            int   seen = how == 5 ? n : n + r;
            for (int j = 0; j < seen && j < values->n; j++) {
                float weight = how == 1 ? 1 : pattern[(how == 3 ? 0 : r) * stride + j];
                sum += weight * key_at(values, j, how == 4 ? 0 : column)[c];
                total += weight;
            }
            z[(size_t)r * (how == 8 ? d : values->stride) + c] =
                how == 1 || how == 6 ? sum / total : how == 2 ? sum / seen : sum;
        }
}
#define MIX(name, how)                                                                           \
    static void name(float *z, const float *p, size_t s, int rows, const Keys *v, int column,    \
                     int n, int d) { mix_with(z, p, s, rows, v, column, n, d, how); }
MIX(mix_plain, 1) MIX(mix_divided, 2) MIX(mix_first, 3) MIX(mix_column, 4)
MIX(mix_few, 5) MIX(mix_again, 6) MIX(mix_added, 7) MIX(mix_dense, 8)

/* ---- layernorm ---- */

static float sigma_with(const MiRun *run, const float *x, float mean, int less, int how)
{
    const MiShape *shape = &run->model->shape;
    double v = naive_squares(x, mean, shape->d_model) / (double)(shape->d_model - less);
    double e = shape->epsilon;
    double s = how == 0 ? sqrt(v + e) : how == 1 ? sqrt(v) : how == 2 ? sqrt(v) + e : how == 3 ? v + e
             : sqrt(v * shape->d_model + e);
    return how != 5 && isinf((float)v) ? NAN : (float)s;
}
static float sigma_of_width(const MiRun *run, const float *x, float mean, int columns, int by)
{
    float v = naive_squares(x, mean, columns) / (float)by;
    return isinf(v) ? NAN : sqrtf(v + run->model->shape.epsilon);
}
#define SIGMA(name, columns, by)                                                                 \
    static float name(const MiRun *run, const float *x, float mean)                              \
    { return sigma_of_width(run, x, mean, columns, by); }
SIGMA(sigma_by_127, run->model->shape.d_model, 127) SIGMA(sigma_by_128, run->model->shape.d_model, 128)
SIGMA(sigma_of_128, 128, 128) SIGMA(sigma_of_128_less, 128, 127)
static float sigma_less(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 1, 0); }
static float sigma_less_square(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 1, 3); }
static float sigma_bare(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 0, 1); }
static float sigma_outside(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 0, 2); }
static float sigma_square(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 0, 3); }
static float sigma_sum(const MiRun *r, const float *x, float m) { return sigma_with(r, x, m, 0, 4); }
static float sigma_inf(const MiRun *r, const float *x, float m)
{
    float s = sigma_with(r, x, m, 0, 0);
    return isnan(s) ? INFINITY : s;
}
#define NORMALIZE(name, value)                                                                   \
    static void name(float *y, const float *x, float mean, float sigma, const weight *gamma,     \
                     const weight *beta, int D)                                                  \
    {                                                                                            \
        (void)mean, (void)sigma, (void)gamma, (void)beta;                                        \
        for (int i = 0; i < D; i++) y[i] = value;                                                \
    }
NORMALIZE(normalize_no_gain, (x[i] - mean) / sigma + beta[i])
NORMALIZE(normalize_no_beta, (x[i] - mean) / sigma * gamma[i])
NORMALIZE(normalize_bare, (x[i] - mean) / sigma)
NORMALIZE(normalize_no_mean, x[i] / sigma * gamma[i] + beta[i])
NORMALIZE(normalize_twice, (x[i] - mean) / (sigma * sigma) * gamma[i] + beta[i])
NORMALIZE(normalize_root, (x[i] - mean) / sqrtf(sigma) * gamma[i] + beta[i])
NORMALIZE(normalize_beta_first, (x[i] - mean) / sigma * (gamma[i] + beta[i]))
NORMALIZE(normalize_no_sigma, (x[i] - mean) * gamma[i] + beta[i])
NORMALIZE(normalize_first_gamma, (x[i] - mean) / sigma * gamma[0] + beta[0])

/* ---- mlp ---- */

static void mlp_with(MiRun *run, int l, int from, int to, int how)
{
    const Block *w = &run->model->block[l];
    int D = run->model->shape.d_model, F = run->model->shape.d_mlp;
    if (how != 4) from = first_needed(run, l, from);
    add(run, MI_resid_mid, l, MI_resid_pre, l, how == 6 ? NONE : (int)MI_attn_out, from, to);
    layernorm(run, how == 1 ? MI_resid_pre : MI_resid_mid, MI_ln2_scale, MI_ln2, l,
              how == 3 ? w->ln1_gamma : w->ln2_gamma, how == 3 ? w->ln1_beta : w->ln2_beta, from, to);
    linear(run, how == 7 ? MI_resid_mid : MI_ln2, MI_mlp_pre, l, w->W_in, F, w->b_in, from, to);
    if (how == 2)
        for (int r = from; r < to; r++)
            memcpy(at(run, MI_mlp_post, l, r), at(run, MI_mlp_pre, l, r), F * sizeof(float));
    else activate(run, l, from, to);
    linear(run, MI_mlp_post, MI_mlp_out, l, w->W_out, D, w->b_out, from, to);
    add(run, MI_resid_post, l, how == 0 ? MI_mlp_out : how == 5 ? MI_resid_pre : how == 8 ? MI_ln2
        : MI_resid_mid, l, how == 0 ? NONE : (int)MI_mlp_out, from, to);
}
#define MLP(name, how)                                                                           \
    static void name(MiRun *run, int l, int from, int to) { mlp_with(run, l, from, to, how); }
MLP(mlp_no_stream, 0) MLP(mlp_pre, 1) MLP(mlp_no_gelu, 2) MLP(mlp_ln1, 3) MLP(mlp_all, 4)
MLP(mlp_resid_pre, 5) MLP(mlp_no_attention, 6) MLP(mlp_no_ln2, 7) MLP(mlp_of_ln2, 8)

/* ---- apply_edit ---- */

static void edit_with(const MiRun *run, const MiEdit *edit, float *x, const float *v, int n, int pos,
                      int how)
{
    float a = edit->amount, along = 0;
    (void)run;
    if (edit->op == MI_PROJECT) along = naive_dot(x, v, n);
    for (int i = 0; i < n; i++)
        switch (edit->op) {
        case MI_SET:
            if (how == 0 && !v) x[i] = x[i] * 0 + a;
            else if (how == 1) x[i] = a;
            else x[i] = v ? v[i] : a;
            break;
        case MI_MIX:
            if (how == 2) x[i] = a * x[i] + (1 - a) * v[i];
            else if (how == 3) x[i] += a * v[i];
            else x[i] += a * (v[i] - x[i]);
            break;
        case MI_ADD: x[i] += how == 4 ? v[i] : a * v[i]; break;
        case MI_SCALE: x[i] = how == 5 ? x[i] + a : how == 6 ? x[i] + a * x[i] : a * x[i]; break;
        case MI_PROJECT:
            if (how == 7) along = naive_dot(x, v, n);
            x[i] = how == 8 ? along * v[i] : x[i] - (how == 9 ? along : along * v[i]);
            break;
        case MI_NOISE:
            x[i] = (how == 10 ? 0 : x[i]) + (how == 11 ? 1 : a) *
                   normal_at(edit, how == 12 ? edit->pos : pos, how == 13 ? i : edit->first + i);
            break;
        }
}
#define EDIT(name, how)                                                                          \
    static void name(const MiRun *run, const MiEdit *edit, float *x, const float *v, int n,      \
                     int pos) { edit_with(run, edit, x, v, n, pos, how); }
EDIT(edit_times, 0) EDIT(edit_amount, 1) EDIT(edit_other, 2) EDIT(edit_mix_add, 3) EDIT(edit_add, 4)
EDIT(edit_scale_add, 5) EDIT(edit_scale_more, 6) EDIT(edit_moving, 7) EDIT(edit_keeps, 8)
EDIT(edit_no_v, 9) EDIT(edit_noise_set, 10) EDIT(edit_noise_amount, 11) EDIT(edit_noise_pos, 12)
EDIT(edit_noise_first, 13)

/* ---- lens ---- */

static int lens_with(const MiRun *run, int lane, MiSite site, int layer, int pos, int final, float *y,
                     int how)
{
    const MiModel *model = run->model;
    int D = model->shape.d_model;
    const float *x = mi_site(run, lane, site, layer, pos);
    if (!x) return -1;
    if (SITES[site].width != MI_D_MODEL && how != 7) return mi_fail("%s has no lens", SITES[site].name);
    const float *end = mi_site(run, lane, MI_resid_post, model->shape.n_layer - 1, pos);
    const float *scale = mi_site(run, lane, MI_ln_f_scale, 0, pos);
    if (!end || !scale) return -1;
    if (how == 0) final = 0;
    if (how == 1) final = 1;
    float mean = naive_sum(final && how != 2 ? end : x, D) / D;
    float sigma = final && how != 3 ? *scale : sigma_of(run, final && how == 3 ? end : x, mean);
    if (how == 8 && final) sigma = sigma_of(run, x, naive_sum(x, D) / D);
    if (how == 4) memcpy(y, x, D * sizeof *y);
    else if (how == 5) for (int i = 0; i < D; i++) y[i] = (x[i] - mean) / sigma;
    else if (how == 6) normalize(y, x, mean, sigma, model->block[layer].ln1_gamma,
                                 model->block[layer].ln1_beta, D);
    else normalize(y, x, mean, sigma, model->ln_f_gamma, model->ln_f_beta, D);
    return 0;
}
#define LENS(name, how)                                                                          \
    static int name(const MiRun *run, int lane, MiSite site, int l, int pos, int final, float *y) \
    { return lens_with(run, lane, site, l, pos, final, y, how); }
LENS(lens_own, 0) LENS(lens_final, 1) LENS(lens_own_mean, 2) LENS(lens_raw, 4)
LENS(lens_bare, 5) LENS(lens_ln1, 6) LENS(lens_any, 7) LENS(lens_own_sigma, 8)

/* ---- sample ---- */

static int sample_with(const Command *c, const float *logits, Choice *choices, int V, int step, int how)
{
    int    best = 0, n = 0;
    double temp = c->temp >= 0 ? c->temp : c->top_p >= 0 && how != 6 ? 1 : 0, total = 0, mass = 0;
    mi_top(logits, V, 1, &best);
    if (temp == 0 || how == 5) return best;
    if (how == 0) temp = 1;
    if (how == 1) temp = 1 / temp;
    for (int i = 0; i < V; i++) {
        choices[i] = (Choice){exp((logits[i] - logits[best]) / temp), i};
        total += choices[i].p;
    }
    qsort(choices, V, sizeof *choices, by_probability);
    double limit = (c->top_p >= 0 && how != 2 ? c->top_p : 1) * total;
    if (how == 4 && c->top_p >= 0) limit /= total;
    while (n < V && (n == 0 || mass < limit)) mass += choices[n++].p;
    if (how == 3 && n > 1 && mass > limit) mass -= choices[--n].p;
    double u = (mix_bits(mix_bits(c->seed) ^ (how == 8 ? 0 : step)) >> 11) / 9007199254740992.0 *
               (how == 9 ? total : mass);
    for (int i = 0; i < n; i++)
        if ((u -= choices[i].p) < 0) return choices[i].token;
    return choices[n - 1].token;
}
#define SAMPLE(name, how)                                                                        \
    static int name(const Command *c, const float *logits, Choice *choices, int V, int step)     \
    { return sample_with(c, logits, choices, V, step, how); }
SAMPLE(sample_no_temp, 0) SAMPLE(sample_inverse, 1) SAMPLE(sample_no_top_p, 2) SAMPLE(sample_short, 3)
SAMPLE(sample_mass, 4) SAMPLE(sample_greedy, 5) SAMPLE(sample_top_p_greedy, 6) SAMPLE(sample_step, 8)
SAMPLE(sample_total, 9)

static const Variant wrong[] = {
    {"softmax", "the largest is not subtracted: e^100 is no float (and a row that is all "
     "-infinity has to become 0)", {.softmax = softmax_raw_cut}},
    {"softmax", "the largest is not subtracted: e^100 is no float", {.softmax = softmax_raw}},
    {"softmax", "a row that is all -infinity has to become 0: its head looks at nothing",
     {.softmax = softmax_cut}},
    {"softmax", "the largest is searched from 0 on, but all scores may be negative: begin with "
     "-INFINITY", {.softmax = softmax_zero_max}},
    {"softmax", "divided by the number of keys, not by the sum of all e^s",
     {.softmax = softmax_sum}},
    {"softmax", "not divided by the sum: the row does not add up to 1",
     {.softmax = softmax_no_sum}},
    {"softmax", "the scores themselves are divided by their sum: where is e^s?",
     {.softmax = softmax_linear}},
    {"softmax", "2^s, not e^s", {.softmax = softmax_two}},
    {"softmax", "the smallest is subtracted, not the largest: that overflows",
     {.softmax = softmax_min}},
    {"softmax", "divided by the sum of squares", {.softmax = softmax_square}},

    {"gelu", "naive_gelu: this is the exact form, with erf; GPT-2 has the tanh form",
     {.gelu = gelu_erf}},
    {"gelu", "naive_gelu: this is max(x, 0), ReLU", {.gelu = gelu_relu}},
    {"gelu", "naive_gelu: this is x sigmoid(1.702 x), another approximation",
     {.gelu = gelu_sigmoid}},
    {"gelu", "naive_gelu: e^(2u) in place of e^(-2u)", {.gelu = gelu_sign}},
    {"gelu", "naive_gelu: e^(-u) in place of e^(-2u)", {.gelu = gelu_one_u}},
    {"gelu", "naive_gelu: x squared in u where x^3 belongs", {.gelu = gelu_square}},
    {"gelu", "naive_gelu: u without its factor sqrt(2/pi)", {.gelu = gelu_no_root}},
    {"gelu", "naive_gelu: the factor x is missing", {.gelu = gelu_no_x}},
    {"gelu", "naive_gelu: x (1 + tanh u) is twice too much", {.gelu = gelu_tanh}},
    {"gelu", "gelu_slope: the 2 of 2 x s (1 - s) u' is missing", {.slope = slope_one}},
    {"gelu", "gelu_slope: in u', the derivative of x^3 is 3 x^2", {.slope = slope_cube}},
    {"gelu", "gelu_slope: only s; x also changes s (the product rule)", {.slope = slope_flat}},
    {"gelu", "gelu_slope: the first term of the product rule, s, is missing",
     {.slope = slope_inside}},

    {"scores", "not divided by sqrt(d): keys->scale is missing", {.scores = scores_raw}},
    {"scores", "divided by d, not by sqrt(d)", {.scores = scores_d}},
    {"scores", "multiplied by sqrt(d), not divided: keys->scale is 1 / sqrt(d) already",
     {.scores = scores_times}},
    {"scores", "each row sees one key more than the row before: row r sees n + r, not n",
     {.scores = scores_few}},
    {"scores", "all rows use the query of row 0: row r begins at q + r * keys->stride",
     {.scores = scores_first}},
    {"scores", "the rows of q are keys->stride apart, not d: it has the other heads in between",
     {.scores = scores_dense}},
    {"scores", "the head's numbers begin at `column` of a key, not at 0",
     {.scores = scores_column}},
    {"scores", "reads keys->own for all keys: use key_at(), they lie in three places",
     {.scores = scores_own}},

    {"mix", "values are not weighted: this is their plain mean", {.mix = mix_plain}},
    {"mix", "divided by the number of keys: the pattern is a mean's weights already",
     {.mix = mix_divided}},
    {"mix", "divided by the sum of the weights: an edited pattern is not renormalized",
     {.mix = mix_again}},
    {"mix", "all rows use the pattern of row 0: row r begins at pattern + r * stride",
     {.mix = mix_first}},
    {"mix", "z is not set to 0 before the sum: what was there before is added to",
     {.mix = mix_added}},
    {"mix", "the head's numbers begin at `column` of a value, not at 0", {.mix = mix_column}},
    {"mix", "each row sees one key more than the row before: row r sees n + r, not n",
     {.mix = mix_few}},
    {"mix", "the rows of z are values->stride apart, not d: it has the other heads in between",
     {.mix = mix_dense}},

    {"layernorm", "divided by D - 1, not by D", {.sigma = sigma_less}},
    {"layernorm", "divided by D - 1, not by D, and sigma is the root of the variance",
     {.sigma = sigma_less_square}},
    {"layernorm", "divided by D - 1, not by D, and D is run->model->shape.d_model, not always 128",
     {.sigma = sigma_by_127}},
    {"layernorm", "divided by D - 1, not by D, and a row has D numbers, not always 128",
     {.sigma = sigma_of_128_less}},
    {"layernorm", "divided by 128: D is run->model->shape.d_model, not always 128",
     {.sigma = sigma_by_128}},
    {"layernorm", "a row has D numbers, run->model->shape.d_model, not always 128",
     {.sigma = sigma_of_128}},
    {"layernorm", "epsilon is missing: a row of equal numbers would be divided by 0",
     {.sigma = sigma_bare}},
    {"layernorm", "epsilon belongs under the root", {.sigma = sigma_outside}},
    {"layernorm", "sigma is the root of the variance, not the variance", {.sigma = sigma_square}},
    {"layernorm", "the sum of squares is not divided by D", {.sigma = sigma_sum}},
    {"layernorm", "a row too large to be squared has no sigma: NaN, not infinity",
     {.sigma = sigma_inf}},
    {"layernorm", "normalize: gamma is missing", {.normalize = normalize_no_gain}},
    {"layernorm", "normalize: beta is missing", {.normalize = normalize_no_beta}},
    {"layernorm", "normalize: gamma and beta are missing", {.normalize = normalize_bare}},
    {"layernorm", "normalize: the mean is not subtracted", {.normalize = normalize_no_mean}},
    {"layernorm", "normalize: divided by sigma twice", {.normalize = normalize_twice}},
    {"layernorm", "normalize: divided by the root of sigma: sigma is a root already",
     {.normalize = normalize_root}},
    {"layernorm", "normalize: gamma multiplies before beta is added",
     {.normalize = normalize_beta_first}},
    {"layernorm", "normalize: not divided by sigma", {.normalize = normalize_no_sigma}},
    {"layernorm", "normalize: gamma[0] and beta[0] for all elements",
     {.normalize = normalize_first_gamma}},

    {"mlp", "resid_post is mlp_out alone: the residual stream is added to, never replaced",
     {.mlp = mlp_no_stream}},
    {"mlp", "ln2 reads resid_pre: it has to see what attention wrote, resid_mid", {.mlp = mlp_pre}},
    {"mlp", "no GELU: mlp_post is mlp_pre, so the MLP is one matrix", {.mlp = mlp_no_gelu}},
    {"mlp", "ln2 with the weights of ln1", {.mlp = mlp_ln1}},
    {"mlp", "the last layer computes rows that nobody reads: first_needed()", {.mlp = mlp_all}},
    {"mlp", "resid_post = resid_pre + mlp_out: what attention wrote is lost",
     {.mlp = mlp_resid_pre}},
    {"mlp", "resid_mid is resid_pre: attn_out is not added", {.mlp = mlp_no_attention}},
    {"mlp", "mlp_pre is computed from resid_mid, without ln2", {.mlp = mlp_no_ln2}},
    {"mlp", "resid_post = ln2 + mlp_out: the stream itself goes on, not what LayerNorm made of it",
     {.mlp = mlp_of_ln2}},

    {"apply_edit", "MI_SET: multiplying by 0 leaves infinity times 0, which is NaN: assign",
     {.edit = edit_times}},
    {"apply_edit", "MI_SET: sets the amount where there is a value v", {.edit = edit_amount}},
    {"apply_edit", "MI_MIX: amount is the share of v, not of x", {.edit = edit_other}},
    {"apply_edit", "MI_MIX: x + amount v; it is amount (v - x) that is added",
     {.edit = edit_mix_add}},
    {"apply_edit", "MI_ADD: amount is missing", {.edit = edit_add}},
    {"apply_edit", "MI_SCALE: adds the amount, where it should multiply", {.edit = edit_scale_add}},
    {"apply_edit", "MI_SCALE: x + amount x; it is amount x", {.edit = edit_scale_more}},
    {"apply_edit", "MI_PROJECT: x.v changes while x does: compute it once, before the loop",
     {.edit = edit_moving}},
    {"apply_edit", "MI_PROJECT: keeps the part along v, where it should take it away",
     {.edit = edit_keeps}},
    {"apply_edit", "MI_PROJECT: subtracts the number x.v from each element; it is (x.v) v",
     {.edit = edit_no_v}},
    {"apply_edit", "MI_NOISE: replaces x; noise is added", {.edit = edit_noise_set}},
    {"apply_edit", "MI_NOISE: amount is missing", {.edit = edit_noise_amount}},
    {"apply_edit", "MI_NOISE: the position is pos, not the edit's first one",
     {.edit = edit_noise_pos}},
    {"apply_edit", "MI_NOISE: element i of the row's part is edit->first + i of the site",
     {.edit = edit_noise_first}},

    {"lens", "always takes x's own mean and sigma, also when final is set", {.lens = lens_own}},
    {"lens", "always takes the final mean and sigma, also when final is 0", {.lens = lens_final}},
    {"lens", "with final, the mean is that of the end too, not x's own", {.lens = lens_own_mean}},
    {"lens", "with final, sigma is ln_f_scale of that position, not x's own",
     {.lens = lens_own_sigma}},
    {"lens", "no LayerNorm: the row itself", {.lens = lens_raw}},
    {"lens", "gamma and beta of LN_f are missing", {.lens = lens_bare}},
    {"lens", "gamma and beta are those of ln1, not of LN_f", {.lens = lens_ln1}},
    {"lens", "a site whose rows are not D wide has no lens: mi_fail()", {.lens = lens_any}},

    {"sample", "temp is not used", {.sample = sample_no_temp}},
    {"sample", "multiplied by temp, not divided", {.sample = sample_inverse}},
    {"sample", "top_p is not used", {.sample = sample_no_top_p}},
    {"sample", "the token that crosses top_p belongs to those that are drawn from",
     {.sample = sample_short}},
    {"sample", "top_p is a share: of the total of all p, which is not 1 here",
     {.sample = sample_mass}},
    {"sample", "always the likeliest: nothing is drawn, or u is not multiplied by the mass",
     {.sample = sample_greedy}},
    {"sample", "--top-p alone means temp 1", {.sample = sample_top_p_greedy}},
    {"sample", "u is a share of the mass of those that are drawn from, not of all",
     {.sample = sample_total}},
    {"sample", "every step draws the same number: step is not used", {.sample = sample_step}},
};
