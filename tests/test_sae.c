/* test_sae.c - labs/sae.c against SAELens: features, reconstructions, L0, variance explained,
 * losses and edits of tests/golden/sae.golden (random files of all architectures, make_sae.py) and
 * sae_tiny.golden (labs/sae, make_sae_tiny.py); and that an unedited splice changes no bit. */
#include "scratch.h"
#include "check.h"

#define main sae_main
#include "../labs/sae.c"
#undef main

static const int ROWS[4][7] = {{32, 33, 34, 32, 33, 35, 40}, {1, 2, 3, 4, 5, 6, 7},
                               {9, 8, 7, 6, 5, 4, 3}, {40, 41, 42, 43, 40, 41, 42}};

/* In how many logits do two runs differ? */
static int differ(const Lab *lab, const MiRun *a, const MiRun *b)
{
    int    V = lab->shape.n_vocab, n = mi_n_tokens(a, 0), count = 0;
    float *x = must(calloc((size_t)V * n * 2, sizeof *x)), *y = x + (size_t)V * n;
    check(mi_logits_all(a, 0, 0, n, x)), check(mi_logits_all(b, 0, 0, n, y));
    for (size_t i = 0; i < (size_t)V * n; i++) count += memcmp(x + i, y + i, sizeof *x) != 0;
    free(x);
    return count;
}

static int near(double a, double b)
{
    return fabs(a - b) <= 2e-5 * (1 + fabs(b));
}

static void copy(const char *from, const char *to)
{
    char   bytes[4096];
    size_t n;
    FILE  *in = fopen(from, "rb"), *out = fopen(to, "wb");
    CHECK(in && out, "%s is not there", from);
    while (in && out && (n = fread(bytes, 1, sizeof bytes, in)) > 0) fwrite(bytes, 1, n, out);
    if (in) fclose(in);
    if (out) fclose(out);
}

typedef struct {
    char     name[80];
    Lab      lab;
    Sae      sae;
    Prompt   rows[8];
    int      n, at;
    Question q;
    MiRun   *run[8];
    float   *f, *to;
    Quality  quality;
    int      measured;
} Case;

static void end_case(Case *c)
{
    if (!c->f) return;
    for (int i = 0; i < c->n; i++) mi_free(c->run[i]);
    free(c->f), free(c->to);
    close_sae(&c->sae);
    close_lab(&c->lab);
    *c = (Case){0};
}

/* The runs of a case, once its rows are known; and what holds of any SAE. */
static void begin_runs(Case *c)
{
    Sae *s = &c->sae;
    int  n = c->rows[0].n;
    if (c->run[0]) return;
    int *all = must(calloc(s->d_sae, sizeof *all));
    for (int i = 0; i < c->n; i++) c->run[i] = run_of(&c->lab, &c->rows[i]);
    c->f = must(calloc(s->d_sae, sizeof *c->f)), c->to = must(calloc(s->d_sae, sizeof *c->to));
    for (int j = 0; j < s->d_sae; j++) all[j] = j;
    encode(s, vector_at(c->run[0], s, n - 2), c->f);
    MiRun *same = spliced(c->run[0], s, n - 2, n - 1, &(Splice){s, all, s->d_sae, c->f});
    CHECK(differ(&c->lab, c->run[0], same) == 0, "%s: an unedited splice changes bits", c->name);
    mi_free(same);
    same = spliced(c->run[0], s, 0, n, &(Splice){s, all, 0, NULL});
    CHECK(differ(&c->lab, c->run[0], same) == 0, "%s: no edit changes bits", c->name);
    mi_free(same);
    same = spliced(c->run[0], s, n - 2, n - 1, &(Splice){s, all, s->d_sae, NULL});
    CHECK(differ(&c->lab, c->run[0], same) > 0, "%s: without features nothing changes", c->name);
    mi_free(same), free(all);
}

static void begin_case(Case *c, const char *name, const char *model, const char *weights,
                       const char *cfg)
{
    char  path[1100], from[200];
    FILE *f;
    int   is_tiny = !strcmp(model, "tiny");
    end_case(c);
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(path, sizeof path, "%s/cfg.json", scratch);
    if ((f = fopen(path, "w"))) fputs(cfg, f), fclose(f);
    snprintf(from, sizeof from, "tests/golden/sae/%s.safetensors", weights);
    snprintf(path, sizeof path, "%s/sae_weights.safetensors", scratch);
    copy(is_tiny ? "labs/sae/sae_weights.safetensors" : from, path);
    char *argv[] = {NULL, is_tiny ? "tiny.safetensors" : "tests/golden/odd7.safetensors"};
    c->lab = open_lab(2, argv);
    c->sae = open_sae(&c->lab, scratch);
    c->q = (Question){36, 37};
    if (is_tiny) c->q = (Question){token_of(&c->lab, " Mary"), token_of(&c->lab, " John")};
    for (; !is_tiny && c->n < 4; c->n++) {
        c->rows[c->n].n = 7;
        memcpy(c->rows[c->n].at, ROWS[c->n], sizeof *ROWS);
    }
}

static void compare_vector(Case *c, int b, int t, char *values)
{
    Sae    *s = &c->sae;
    double *x = must(calloc(s->d_in, sizeof *x));
    Norm    norm = encode(s, vector_at(c->run[b], s, t), c->f);
    for (int j = 0; j < s->d_sae; j++) {
        float got = c->f[j], want = c->to[j];
        CHECK((got != 0) == (want != 0) && near(got, want),
              "%s: row %d, position %d: feature %d is %g, not %g", c->name, b, t, j, got, want);
        c->to[j] = 0;
    }
    decode(s, norm, c->f, x);
    for (int i = 0; i < s->d_in; i++) {
        double want = strtod(values, &values);
        CHECK(near(x[i], want), "%s: row %d, position %d: x^[%d] is %g, not %g", c->name, b, t, i,
              x[i], want);
    }
    free(x);
}

/* A vector and its x^: by decode(), and as a splice writes it, with the centre of what was there. */
static void compare_given(Case *c, char *values)
{
    Sae    *s = &c->sae;
    int     D = s->d_in, *all = must(calloc(s->d_sae, sizeof *all));
    float  *x = must(calloc(D, sizeof *x)), *y = must(calloc(D, sizeof *y));
    double *xhat = must(calloc(D, sizeof *xhat)), mean = 0;
    for (int i = 0; i < D; i++) x[i] = y[i] = strtof(values, &values), mean += x[i] / D;
    decode(s, encode(s, x, c->f), c->f, xhat);
    splice(&(Splice){s, NULL, -1, NULL}, NULL, y, D);
    for (int i = 0; i < D; i++) {
        double want = strtod(values, &values);
        CHECK(near(xhat[i], want), "%s: given x: x^[%d] is %g, not %g", c->name, i, xhat[i], want);
        CHECK(near(y[i], want + (s->centred ? mean : 0)), "%s: given x: %g for x^[%d], not %g",
              c->name, y[i], i, want);
    }
    x[0] = -0.f;
    memcpy(y, x, D * sizeof *x);
    encode(s, x, c->f);
    for (int j = 0; j < s->d_sae; j++) all[j] = j;
    splice(&(Splice){s, all, s->d_sae, c->f}, NULL, y, D);
    CHECK(!memcmp(x, y, D * sizeof *x), "%s: a 0 with a sign loses it", c->name);
    free(all), free(x), free(y), free(xhat);
}

static void compare_metric(Case *c, const char *name, double want)
{
    if (!c->measured++) c->quality = measure(&c->lab, &c->sae, c->rows, c->n);
    Quality *q = &c->quality;
    const struct { const char *name; double value; } all[] = {
        {"l0", q->l0.mean}, {"explained_variance", 1 - q->fvu.mean},
        {"ce_loss_without_sae", q->loss.mean}, {"ce_loss_with_sae", q->of_sae.mean},
        {"ce_loss_with_ablation", q->of_zero.mean}, {"ce_loss_score", q->recovered.mean},
    };
    int i = 0;
    while (i < 5 && strcmp(all[i].name, name)) i++;
    double room = fabs(q->of_zero.mean - q->loss.mean);     /* what the score is divided by */
    double within = 2e-5 * (1 + fabs(want)) * (i == 5 && room < 1 ? 1 / room : 1);
    CHECK(!strcmp(all[i].name, name) && fabs(all[i].value - want) <= within,
          "%s: %s is %.9g, not %.9g", c->name, name, all[i].value, want);
}

static void compare_edit(Case *c, int is_swap, char *numbers)
{
    int    list[8], n = 0, at = c->rows[0].n - 2;
    double number[9];
    for (char *end; n < 9; n++, numbers = end) {
        number[n] = strtod(numbers, &end);
        if (end == numbers) break;
    }
    for (int i = 0; i < n - 1; i++) list[i] = (int)number[i];
    encode(&c->sae, vector_at(c->run[1], &c->sae, at), c->f);
    Splice how = {&c->sae, list, n - 1, is_swap ? c->f : NULL};
    MiRun *fork = spliced(c->run[0], &c->sae, at, at + 1, &how);
    CHECK(near(logit_diff(fork, c->q), number[n - 1]), "%s: %s of %d features: %.9g, not %.9g",
          c->name, is_swap ? "swap" : "ablation", n - 1, logit_diff(fork, c->q), number[n - 1]);
    mi_free(fork);
}

static void compare(const char *path)
{
    static char line[100000], cfg[10000];
    char   name[80], model[80], weights[80];
    int    b, t, j, used, n_cases = 0;
    double value;
    Case   c = {0};
    FILE  *f = fopen(path, "r");
    CHECK(f, "%s is not there", path);
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "case %79s %79s %79s", name, model, weights) == 3) {
            doing("test_sae: %s", name);
            CHECK(fgets(cfg, sizeof cfg, f), "%s ends", path);
            begin_case(&c, name, model, weights, cfg);
            n_cases++;
            continue;
        }
        if (!strncmp(line, "row ", 4)) {
            Prompt *p = &c.rows[c.n++];
            char   *end, *at = line + 4;
            for (; t = (int)strtol(at, &end, 10), end != at; at = end) p->at[p->n++] = t;
            continue;
        }
        begin_runs(&c);
        if (sscanf(line, "f %d %d %d %lf", &b, &t, &j, &value) == 4) c.to[j] = (float)value;
        else if (sscanf(line, "xhat %d %d%n", &b, &t, &used) == 2)
            compare_vector(&c, b, t, line + used);
        else if (!strncmp(line, "given ", 6)) compare_given(&c, line + 6);
        else if (sscanf(line, "metric %79s %lf", name, &value) == 2)
            compare_metric(&c, name, value);
        else if (!strncmp(line, "ablate", 6) || !strncmp(line, "swap", 4))
            compare_edit(&c, *line == 's', strchr(line, ' '));
        else if (sscanf(line, "promote %d %d %lf", &j, &t, &value) == 3) {
            float *logits = must(calloc(c.lab.shape.n_vocab, sizeof *logits));
            decoder_logits(&c.lab, &c.sae, j, logits);
            mi_top(logits, c.lab.shape.n_vocab, 1, &b);
            CHECK(b == t && near(logits[b], value),
                  "%s: feature %d promotes %d by %g, not %d by %g", c.name, j, b,
                  logits[b], t, value);
            free(logits);
        } else CHECK(0, "%s: %.40s", path, line);
    }
    CHECK(n_cases > 0, "%s is empty", path);
    end_case(&c);
    if (f) fclose(f);
}

static int body(void)
{
    (void)sae_main;
    compare("tests/golden/sae.golden");
    compare("tests/golden/sae_tiny.golden");
    return report();
}

int main(void)
{
    return in_scratch(body);
}
