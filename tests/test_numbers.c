/* test_numbers.c - not a number stays not a number, and the library says where it began.
 *
 * Overflow and NaN must reach the end as NaN, in both kinds of kernels: what turns into a number
 * again on its way would be reported as a finding. It includes mi.c for the kernels. */
#include "../mi.c"

#include <float.h>

#include "check.h"
#include "random_model.h"

enum { T = 7 };
static const int tokens[T] = {3, 1, 4, 1, 5, 9, 2};

/* NaN where the other is NaN, and else the same bits. */
static int same(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        if (isnan(a[i]) != isnan(b[i]) || (!isnan(a[i]) && memcmp(&a[i], &b[i], sizeof *a)))
            return 0;
    return 1;
}

static int count_nan(const float *x, int n)
{
    int found = 0;
    for (int i = 0; i < n; i++) found += isnan(x[i]) != 0;
    return found;
}

/* ---- Softmax: as PyTorch's, but a row without any key is 0 ---- */

static void test_softmax(void)
{
    static const struct { const char *name; float fill, put; int all_nan; } cases[] = {
        {"one NaN among numbers", 1, NAN, 1},
        {"one NaN among -infinity", -INFINITY, NAN, 1},
        {"nothing but NaN", NAN, NAN, 1},
        {"one +infinity among numbers", 1, INFINITY, 1},
        {"one +infinity among -infinity", -INFINITY, INFINITY, 1},
        {"+infinity everywhere", INFINITY, INFINITY, 1},
        {"one NaN among +infinity", INFINITY, NAN, 1},
        {"one number among -infinity", -INFINITY, 3, 0},
        {"the largest number among its negative", -FLT_MAX, FLT_MAX, 0},
        {"one -infinity among numbers", 0.5f, -INFINITY, 0},
        {"-infinity everywhere", -INFINITY, -INFINITY, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int n = 1; n <= 50; n++)
            for (int at = 0; at < n; at += 1 + n / 7) {
                float a[50], b[50];
                double sum = 0;
                for (int j = 0; j < n; j++) a[j] = j == at ? cases[i].put : cases[i].fill;
                int cut = 1;
                for (int j = 0; j < n; j++) cut &= a[j] == -INFINITY;
                memcpy(b, a, sizeof a);
                naive_kernels.softmax(a, n);
                fast_kernels.softmax(b, n);
                for (int j = 0; j < n; j++) sum += (double)a[j];
                CHECK(same(a, b, n), "softmax of %s: fast is not naive, n %d", cases[i].name, n);
                if (cases[i].all_nan)
                    CHECK(count_nan(a, n) == n, "softmax of %s: %d of %d are NaN", cases[i].name,
                          count_nan(a, n), n);
                else
                    CHECK(fabs(sum - !cut) < 1e-6, "softmax of %s: adds up to %g, n %d",
                          cases[i].name, sum, n);
            }
}

/* ---- GELU has limits at both ends, but none for -infinity (0 times infinity) ---- */

static void test_gelu(void)
{
    float x[5] = {NAN, INFINITY, -INFINITY, -1e30f, FLT_MAX}, a[5], b[5];
    naive_kernels.gelu(a, x, 5);
    fast_kernels.gelu(b, x, 5);
    CHECK(same(a, b, 5), "gelu of what is no number: fast is not naive");
    CHECK(isnan(a[0]) && a[1] == INFINITY && isnan(a[2]) && a[3] == 0 && a[4] == FLT_MAX,
          "gelu of NaN, inf, -inf, -1e30, max: %g %g %g %g %g", (double)a[0], (double)a[1],
          (double)a[2], (double)a[3], (double)a[4]);
}

/* ---- A whole run ---- */

static MiModel *model;
static MiShape  shape;

static MiRun *run_with(const MiEdit *edit, int naive)
{
    MiEdits list = {.at = (MiEdit *)edit, .n = edit != NULL};
    MiRun *run = mi_run(model, tokens, T, &list, &(MiOptions){.threads = 1, .naive = naive});
    CHECK(run, "mi_run: %s", mi_error());
    return run;
}

static MiEdit scale(MiSite site, int layer, int pos, float amount)
{
    return (MiEdit){.op = MI_SCALE, .site = site, .layer = layer, .head = -1, .amount = amount,
                    .count = width_of(model, site, 0), .pos = pos, .pos_end = pos + 1};
}

/* LayerNorm of rows that are too large to be squared, or to be added up. */
static void test_layernorm(void)
{
    static const struct { MiSite site; MiSite scale, ln; float amount; } cases[] = {
        {MI_resid_pre, MI_ln1_scale, MI_ln1, 1e25f}, {MI_resid_pre, MI_ln1_scale, MI_ln1, 3e38f},
        {MI_resid_mid, MI_ln2_scale, MI_ln2, 1e25f}, {MI_resid_mid, MI_ln2_scale, MI_ln2, NAN},
        {MI_resid_post, MI_ln_f_scale, MI_ln_f, 1e25f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int naive = 0; naive < 2; naive++) {
            int    l = cases[i].ln == MI_ln_f ? shape.n_layer - 1 : 1, D = shape.d_model;
            MiEdit edit = scale(cases[i].site, l, 3, cases[i].amount);
            MiRun *run = run_with(&edit, naive);
            int    at = cases[i].ln == MI_ln_f ? 0 : l;
            const float *sigma = mi_site(run, 0, cases[i].scale, at, 3);
            const float *y = mi_site(run, 0, cases[i].ln, at, 3);
            const float *before = mi_site(run, 0, cases[i].ln, at, 2);
            float logits[64], lens[64];
            CHECK(isnan(*sigma) && count_nan(y, D) == D, "%s after %s * %g: sigma %g, %d NaN of %d",
                  SITES[cases[i].ln].name, SITES[cases[i].site].name, (double)cases[i].amount,
                  (double)*sigma, count_nan(y, D), D);
            CHECK(count_nan(before, D) == 0, "%s: a row before it is NaN", SITES[cases[i].ln].name);
            mi_logits(run, 0, 3, logits);
            mi_lens(run, 0, cases[i].site, l, 3, 0, lens);
            CHECK(count_nan(logits, shape.n_vocab) == shape.n_vocab, "logits after %s: numbers",
                  SITES[cases[i].site].name);
            CHECK(count_nan(lens, shape.n_vocab) == shape.n_vocab, "lens at %s: numbers",
                  SITES[cases[i].site].name);
            mi_free(run);
        }
    MiEdit freeze = {.op = MI_SET, .site = MI_ln1_scale, .layer = 1, .head = -1, .count = 1,
                     .pos = 3, .pos_end = 4, .amount = INFINITY};
    MiRun *run = run_with(&freeze, 0);          /* what the user writes stands */
    const float *sigma = mi_site(run, 0, MI_ln1_scale, 1, 3), *y = mi_site(run, 0, MI_ln1, 1, 3);
    CHECK(*sigma == INFINITY && count_nan(y, shape.d_model) == 0, "sigma set to infinity: %g",
          (double)*sigma);
    mi_free(run);
}

/* One head whose queries overflow does not look like one that looks nowhere. */
static void test_overflow(void)
{
    for (int naive = 0; naive < 2; naive++) {
        MiEdit edit = scale(MI_q, 1, T - 1, 3e38f);
        edit.count = shape.d_head;
        MiRun *run = run_with(&edit, naive);
        const float *pattern = mi_head(run, 0, MI_pattern, 1, 0, T - 1);
        float logits[64];
        mi_logits(run, 0, T - 1, logits);
        CHECK(count_nan(pattern, T) == T, "a query of 3e38: %d of %d weights are NaN",
              count_nan(pattern, T), T);
        CHECK(count_nan(logits, shape.n_vocab) == shape.n_vocab, "a query of 3e38: logits");
        mi_logits(run, 0, T - 2, logits);
        CHECK(count_nan(logits, shape.n_vocab) == 0, "a query of 3e38: earlier logits are NaN");
        mi_free(run);
    }
}

/* ---- Where it began ---- */

static void begins(const char *name, const MiRun *run, int lane, MiSite site, int layer, int pos)
{
    MiSite s = MI_N_SITES;
    int    l = -7, t = -7, found = mi_first_nonfinite(run, lane, &s, &l, &t);
    CHECK(found == 1 && s == site && l == layer && t == pos, "%s: begins %d at %s, layer %d, "
          "position %d", name, found, found == 1 ? SITES[s].name : "none", l, t);
}

static void ends_well(const char *name, const MiRun *run, int lane)
{
    MiSite s;
    int    l, t, found = mi_first_nonfinite(run, lane, &s, &l, &t);
    CHECK(found == 0, "%s: says %d", name, found);
}

static void test_first(void)
{
    static const uint64_t kept[] = {MI_KEEP_ALL, MI_KEEP(z), MI_KEEP_CACHE};
    for (int site = 0; site < MI_N_SITES; site++)
        for (int l = 0; l < (SITES[site].place == MI_BLOCK ? shape.n_layer : 1); l++) {
            int    pos = (site + l) % T, keys = SITES[site].width == MI_KEYS;
            MiEdit edit = scale((MiSite)site, l, pos, NAN);
            if (keys) edit.head = 1, edit.count = 1, edit.first = pos;
            MiEdits list = {&edit, 1, NULL, 0};
            MiRun *run = mi_run(model, tokens, T, &list,
                                &(MiOptions){.threads = 1, .keep = kept[site % 3]});
            begins(SITES[site].name, run, 0, (MiSite)site, l, pos);
            mi_free(run);
            MiRun *base = run_with(NULL, 0);
            MiLane lanes[2] = {{.trunk = base, .edits = &edit, .n_edits = 1, .t0 = -1},
                               {.trunk = base, .t0 = T - 1}};
            MiRun *fork = mi_fork(lanes, 1 + (site % 2 == 0), -1, MI_KEEP_NONE);
            begins("a fork", fork, 0, (MiSite)site, l, pos);
            if (site % 2 == 0) ends_well("the lane beside it", fork, 1);
            mi_free(fork), mi_free(base);
        }
}

static void test_first_of_others(void)
{
    MiRun *base = run_with(NULL, 0);
    ends_well("an unedited run", base, 0);
    MiSite s;
    int    l, t;
    CHECK(mi_first_nonfinite(base, 1, &s, &l, &t) == -1 && strstr(mi_error(), "lane"),
          "a lane that is not there: %s", mi_error());
    MiEdit cut = {.op = MI_SET, .site = MI_scores, .layer = 1, .head = 1, .count = T,
                  .pos_end = T, .amount = -INFINITY};
    MiRun *run = run_with(&cut, 0);
    ends_well("a head that looks nowhere", run, 0);
    mi_free(run);
    cut.amount = INFINITY;
    run = run_with(&cut, 0);
    begins("scores of +infinity", run, 0, MI_scores, 1, 0);
    mi_free(run);
    MiEdit large = scale(MI_resid_pre, 1, 4, 1e25f);
    run = run_with(&large, 0);
    begins("a row too large to be squared", run, 0, MI_ln1_scale, 1, 4);
    mi_free(run);

    MiEdit late = scale(MI_resid_post, 0, 5, NAN);      /* a run that grew, token by token */
    MiEdits list = {&late, 1, NULL, 0};
    run = mi_run(model, tokens, 2, &list, &(MiOptions){.threads = 1, .capacity = T,
                                                       .keep = MI_KEEP_CACHE});
    ends_well("before the edited position", run, 0);
    for (int i = 2; i < T && run; i++) mi_append(run, tokens + i, 1);
    begins("a run that grew", run, 0, MI_resid_post, 0, 5);
    mi_free(run);

    /* held edits and those of the lane, and a lane that is read before its prompt ends */
    run = run_with(&late, 0);
    MiEdit early = scale(MI_mlp_out, 0, 6, NAN);
    MiLane lane = {.trunk = run, .edits = &early, .n_edits = 1, .t0 = -1};
    MiRun *fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
    begins("held and own edits", fork, 0, MI_mlp_out, 0, 6);
    mi_free(fork), mi_free(run);
    MiEdit soon = scale(MI_z, 0, 2, NAN);
    lane = (MiLane){.trunk = base, .edits = &soon, .n_edits = 1, .t0 = -1, .read = 4};
    fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
    begins("a lane read at position 3", fork, 0, MI_z, 0, 2);
    mi_free(fork), mi_free(base);
}

/* ---- Numbers about logits that are none ---- */

static void test_logits(void)
{
    float x[6] = {NAN, 2, INFINITY, NAN, -INFINITY, 2};
    static const int order[6] = {2, 1, 5, 4, 0, 3};
    for (int k = 0; k <= 7; k++) {
        int top[8] = {-7, -7, -7, -7, -7, -7, -7, -7}, n = mi_top(x, 6, k, top);
        int right = n == (k < 6 ? k : 6) && top[n] == -7;
        for (int i = 0; i < n; i++) right &= top[i] == order[i];
        CHECK(right, "mi_top: %d of numbers and none: %d, first %d", k, n, top[0]);
    }
    int top[2] = {-7, -7};
    CHECK(mi_top(x, 6, -1, top) == 0 && top[0] == -7, "mi_top: -1 of them");
    float none[3] = {NAN, NAN, NAN}, minus[2] = {-INFINITY, -INFINITY};
    CHECK(mi_top(none, 3, 2, top) == 2 && top[0] == 0 && top[1] == 1, "mi_top: of no numbers");
    CHECK(isnan(mi_log_sum_exp(none, 3)) && isnan(mi_log_sum_exp(x, 6)) &&
          isnan(mi_log_sum_exp(x, 1)), "mi_log_sum_exp: of NaN is %g", mi_log_sum_exp(none, 3));
    CHECK(mi_log_sum_exp(x + 1, 2) == INFINITY, "mi_log_sum_exp: of +infinity");
    CHECK(mi_log_sum_exp(minus, 2) == -INFINITY && mi_log_sum_exp(minus, 0) == -INFINITY,
          "mi_log_sum_exp: of nothing");
}

int main(void)
{
    test_softmax();
    test_gelu();
    test_logits();
    model = random_model_open((RandomModel){.n_layer = 2, .n_head = 3, .d_head = 5, .n_ctx = 12,
                                            .n_vocab = 31, .seed = 4});
    CHECK(model, "random model: %s", mi_error());
    if (!model) return report();
    shape = mi_shape(model);
    test_layernorm();
    test_overflow();
    test_first();
    test_first_of_others();
    mi_close(model);
    return report();
}
