/* drive_labs.c - cases for the exercises of labs/: each lab is compiled into it, its main under another
 * name, and linked with mi. -DWRONG adds formulas that are wrong, as in drive_engine.c. */
#define main main_ablate
#include "ablate.c"
#undef main
#define main main_patch
#include "patch.c"
#undef main
#define main main_induction
#include "induction.c"
#undef main
#define main main_dla
#include "dla.c"
#undef main
#define main main_path
#include "path.c"
#undef main
#define main main_gradient
#include "gradient.c"
#undef main
#include "drive.h"

static Lab lab;

void course_open(void)
{
    lab = open_lab(1, NULL);
}

typedef struct {
    void   (*ablate)(const Lab *, const MiRun *, Question, double *);
    void   (*patch)(const Lab *, const MiRun *, const MiRun *, Question, double *);
    double (*induction)(const MiRun *, int, int, int);
    double (*dla)(const double *, double, const MiWeight *, const MiWeight *, Question, int);
    double (*path)(const Lab *, const MiRun *, const MiRun *, Head, Head, Question);
    double (*gradient)(const MiRun *, Question, Place, double);
} Written;

typedef struct { const char *exercise, *says; Written f; } Variant;

#ifdef WRONG
#include WRONG
#else
static const Variant wrong[] = {{"", "", {0}}};
#endif

static const Written right = {
#ifndef STUDENT
    ablate_heads, patch_stream, induction_score, contribution, path_effect, finite_difference,
#else
#ifdef HAS_ablate
    .ablate = student_ablate_heads,
#endif
#ifdef HAS_patch
    .patch = student_patch_stream,
#endif
#ifdef HAS_induction
    .induction = student_induction_score,
#endif
#ifdef HAS_dla
    .dla = student_contribution,
#endif
#ifdef HAS_path
    .path = student_path_effect,
#endif
#ifdef HAS_gradient
    .gradient = student_finite_difference,
#endif
#endif
};

/* Two prompts, each with a source that differs in one token. */
typedef struct { const char *name, *text, *other, *answer, *versus; } Ask;
static const Ask asks[] = {
    {"the drink", "When Mary and John went to the store, John gave a drink to",
     "When Mary and John went to the store, Mary gave a drink to", " Mary", " John"},
    {"the keys", "The keys to the cabinet", "The key to the cabinet", " are", " is"},
};

typedef struct { MiRun *base, *source; Question q; int T; } Runs;

static Runs runs_of(const Ask *ask, Out *out)
{
    Prompt p = tokens_of(&lab, ask->text), other = tokens_of(&lab, ask->other);
    strcpy(out->name, ask->name);
    return (Runs){run_of(&lab, &p), run_of(&lab, &other),
                  {token_of(&lab, ask->answer), token_of(&lab, ask->versus)}, p.n};
}

static void do_ablate(const Written *f, int which, uint64_t seed, Out *out)
{
    Runs   r = runs_of(&asks[which], out);
    int    H = lab.shape.n_head, n = lab.shape.n_layer * H;
    double change[n];
    (void)seed;
    for (int i = 0; i < n; i++) change[i] = 777;
    f->ablate(&lab, r.base, r.q, change);
    for (int i = 0; i < n; i++) put(out, change[i], "the change without L%dH%d", i / H, i % H);
}

static void do_patch(const Written *f, int which, uint64_t seed, Out *out)
{
    Runs   r = runs_of(&asks[which], out);
    int    n = lab.shape.n_layer * r.T, differs = 0;
    double share[n];
    (void)seed;
    for (int i = 0; i < n; i++) share[i] = 777;
    f->patch(&lab, r.base, r.source, r.q, share);
    while (mi_token(r.base, 0, differs) == mi_token(r.source, 0, differs)) differs++;
    for (int i = 0; i < n; i++)
        put(out, share[i], "the share of L%d at position %d", i / r.T, i % r.T);
    for (int i = 0; i < n; i++)
        if (i % r.T < differs)
            put(out, share[i] != 0, "!L%d at %d is left of what differs: exactly 0", i / r.T, i % r.T);
}

static void do_induction(const Written *f, int which, uint64_t seed, Out *out)
{
    int    n = which ? 9 : 20, H = lab.shape.n_head;
    Prompt twice = random_twice(&lab, n, (unsigned)seed);
    MiRun *run = run_of(&lab, &twice);
    snprintf(out->name, sizeof out->name, "%d tokens, twice", n);
    for (int i = 0; i < lab.shape.n_layer * H; i++)
        put(out, f->induction(run, i / H, i % H, n), "the score of L%dH%d", i / H, i % H);
}

static void do_dla(const Written *f, int which, uint64_t seed, Out *out)
{
    enum { D = 24, V = 9 };
    float    gamma[D], W_U[V * D];
    double   x[D], sigma = which ? 7.5 : 1.3;
    Question q = {which ? 2 : 7, 4};
    fill(gamma, D, 2, &seed);
    fill(W_U, V * D, 1, &seed);
    for (int i = 0; i < D; i++) x[i] = 3 * draw(&seed) + (which ? 2 : .5);
    snprintf(out->name, sizeof out->name, "sigma %.1f", sigma);
    put(out, f->dla(x, sigma, gamma, W_U, q, D), "the contribution");
}

static void do_path(const Written *f, int which, uint64_t seed, Out *out)
{
    Runs r = runs_of(&asks[which], out);
    int  H = lab.shape.n_head, l = lab.shape.n_layer - 1;
    (void)seed;
    for (int h = 0; h < H; h++)                         /* of two layers, into all of the last */
        for (int i = (l - 2) * H; i < l * H; i++)
            put(out, f->path(&lab, r.base, r.source, (Head){i / H, i % H}, (Head){l, h}, r.q),
                "the effect of L%dH%d on L%dH%d", i / H, i % H, l, h);
}

static void do_gradient(const Written *f, int which, uint64_t seed, Out *out)
{
    Runs  r = runs_of(&asks[which], out);
    int   l = lab.shape.n_layer - 1;
    Place place[] = {{MI_embed, 0, 1, 0}, {MI_v, l, 1, 0}, {MI_mlp_post, l, r.T - 1, 0},
                     {MI_resid_pre, l - 1, r.T - 1, 0}};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            place[i].element = (int)((draw(&seed) + 1) / 2 * lab.shape.d_model);
            for (double step = 2; step < 9; step *= 3)
                put(out, f->gradient(r.base, r.q, place[i], step), "the slope at L%d.%s, step %g",
                    place[i].layer, mi_site_info(place[i].site)->name, step);
        }
}

static const struct {
    const char *name;
    void      (*run)(const Written *f, int which, uint64_t seed, Out *out);
} exercises[] = {
    {"ablate", do_ablate}, {"patch", do_patch}, {"induction", do_induction},
    {"dla", do_dla}, {"path", do_path}, {"gradient", do_gradient},
};
#define CASES(i) 2
#include "variants.h"
