/* test_golden.c - mi computes what transformers and transformer_lens compute.
 *
 * Replays tests/golden/NAME.golden (made by make_golden.py, whose docstring has the format): runs a
 * prompt of a model with the edits of a command line, as a fork and once more as a trunk, and
 * compares logits, sites, loss or greedy text. A number may be off by 1e-4 of the largest number
 * in its tensor: the references are exact (float64), mi is not (float32).
 *
 * The first message is where to begin: sites without edits come first, in the order in which they
 * are computed, and a model says no more than a few lines. */
#include "scratch.h"
#include "check.h"
#include "mi.h"

#include <math.h>
#include <stdint.h>

#define TOLERANCE 1e-4
#define MAX_EDITS 8
#define MOST_LINES 5            /* of one model */
static const MiOptions ONE_THREAD = {.threads = 1};     /* small models: more would only wait */
#define MAX_DIRECTIONS 32

static const char *names[] = {"odd7", "beside5", "half12", "brain11", "wide64", "tiny"};

typedef struct { int n, at[64]; } Rows;

static struct {                     /* the record that is being read */
    char     file[200], by[64];
    MiModel *model;
    Rows     tokens, source, toward, away;
    MiRun   *base, *donor;          /* unedited runs, of base_of and donor_of */
    Rows     base_of, donor_of;
    int      n_edits;
    char     edit[MAX_EDITS][2][200];   /* op, argument */
    MiEdits  edits;
    MiRun   *run[2];                /* what is compared: the fork, the trunk */
    int      ready;                 /* 0 not run yet, 1 runs are there, -1 running failed */
    int      wrong;                 /* how many tensors of this model */
} now;

/* "odd7.safetensors ablate L1H2.z@3=mean; ..." */
static const char *title(void)
{
    static char text[2000];
    const char *shown = strncmp(now.file, "tests/golden/", 13) ? now.file : now.file + 13;
    int n = snprintf(text, sizeof text, "golden %s", shown);
    for (int i = 0; i < now.n_edits; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s %s %s", i ? ";" : "", now.edit[i][0],
                      now.edit[i][1]);
    if (!now.n_edits) snprintf(text + n, sizeof text - (size_t)n, " unedited");
    return text;
}

/* A check that failed: one line, or after a few of them only counted. */
__attribute__((format(printf, 1, 2)))
static void wrong(const char *format, ...)
{
    char text[1000];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (now.wrong++ < MOST_LINES) CHECK(0, "%s: %s", title(), text);
    else failed++;
}

static float *directions[MAX_DIRECTIONS];      /* of the record's --steer and --project */
static int    n_directions;

static void drop_runs(void)
{
    mi_free(now.run[0]);
    mi_free(now.run[1]);
    mi_edits_free(&now.edits);
    while (n_directions) free(directions[--n_directions]);
    memset(now.run, 0, sizeof now.run);
    memset(&now.edits, 0, sizeof now.edits);
    now.ready = 0;
}

static void drop_run(MiRun **run, Rows *of)
{
    mi_free(*run);
    *run = NULL;
    of->n = 0;
}

static int same_rows(const Rows *a, const Rows *b)
{
    return a->n == b->n && !memcmp(a->at, b->at, (size_t)a->n * sizeof *a->at);
}

/* Unedited runs outlive a record: the next one mostly has the same prompt. */
static void share_runs(void)
{
    if (!same_rows(&now.base_of, &now.tokens)) drop_run(&now.base, &now.base_of);
    if (!same_rows(&now.donor_of, &now.source)) drop_run(&now.donor, &now.donor_of);
}

static void run_failed(const char *where)
{
    wrong("%s: %s", where, mi_error());
    now.ready = -1;
}

/* --steer and --project: the direction is the difference of the two texts' last tokens. */
static int parse_direction(const char *op, const char *argument)
{
    int first = now.edits.n, project = !strcmp(op, "project"), ok = 1;
    if (mi_edits_parse(&now.edits, now.model, NULL, now.tokens.at, now.tokens.n, op, argument) < 0)
        return -1;
    MiRun *toward = mi_run(now.model, now.toward.at, now.toward.n, NULL, &ONE_THREAD);
    MiRun *away = mi_run(now.model, now.away.at, now.away.n, NULL, &ONE_THREAD);
    for (int i = first; i < now.edits.n && ok; i++) {
        MiEdit *edit = &now.edits.at[i];
        const float *to = mi_site(toward, 0, edit->site, edit->layer, now.toward.n - 1);
        const float *from = mi_site(away, 0, edit->site, edit->layer, now.away.n - 1);
        float *v = calloc((size_t)edit->count, sizeof *v);
        double norm = 0;
        ok = to && from && v && n_directions < MAX_DIRECTIONS;
        for (int j = 0; j < edit->count && ok; j++) {
            v[j] = to[edit->first + j] - from[edit->first + j];
            norm += (double)v[j] * (double)v[j];
        }
        for (int j = 0; j < edit->count && ok && project; j++) v[j] = (float)(v[j] / sqrt(norm));
        edit->value = v;
        if (ok) directions[n_directions++] = v;
        else free(v);
    }
    mi_free(toward);
    mi_free(away);
    return ok ? 0 : -1;
}

/* Unedited runs, then the edits twice: recomputing their cone, and the whole pass. */
static void run_record(void)
{
    doing("%s", title());
    now.ready = 1;
    if (!now.base) now.base = mi_run(now.model, now.tokens.at, now.tokens.n, NULL, &ONE_THREAD);
    if (!now.base) { run_failed("mi_run"); return; }
    now.base_of = now.tokens;
    if (!now.donor && now.source.n)
        now.donor = mi_run(now.model, now.source.at, now.source.n, NULL, &ONE_THREAD);
    if (!now.donor && now.source.n) { run_failed("mi_run of the source"); return; }
    now.donor_of = now.source;
    for (int i = 0; i < now.n_edits; i++) {
        const char *op = now.edit[i][0], *argument = now.edit[i][1];
        int parsed = !strcmp(op, "steer") || !strcmp(op, "project")
                     ? parse_direction(op, argument)
                     : mi_edits_parse(&now.edits, now.model, NULL, now.tokens.at, now.tokens.n, op,
                                      argument);
        if (parsed < 0) { run_failed("mi_edits_parse"); return; }
    }
    if (!now.n_edits) return;
    if (mi_edits_bind(&now.edits, now.base, now.donor) < 0) { run_failed("mi_edits_bind"); return; }
    MiLane lane = {.trunk = now.base, .edits = now.edits.at, .n_edits = now.edits.n, .t0 = -1};
    now.run[0] = mi_fork(&lane, 1, -1, MI_KEEP_ALL);
    if (!now.run[0]) { run_failed("mi_fork"); return; }
    now.run[1] = mi_run(now.model, now.tokens.at, now.tokens.n, &now.edits, &ONE_THREAD);
    if (!now.run[1]) run_failed("mi_run with edits");
}

/* ---- What mi says, in the order of the file: the numbers, NULL if there are none ---- */

static float *logits_of(const MiRun *run, const char *what, int *n)
{
    int V = mi_shape(now.model).n_vocab, first = 0, T = now.tokens.n;
    int centre = strstr(what, "centred") != NULL;
    if (!strncmp(what, "last", 4)) first = T - 1;
    *n = (T - first) * V;
    float *logits = calloc((size_t)*n + 1, sizeof *logits);
    for (int t = first; t < T && logits; t++) {
        float *row = logits + (size_t)(t - first) * (size_t)V;
        double mean = 0;
        if (mi_logits(run, 0, t, row) < 0) return free(logits), NULL;
        for (int i = 0; i < V; i++) mean += row[i] / (double)V;
        for (int i = 0; i < V && centre; i++) row[i] -= (float)mean;
    }
    return logits;
}

static float *loss_of(const MiRun *run, int *n)
{
    int V = mi_shape(now.model).n_vocab, T = now.tokens.n;
    float *logits = logits_of(run, "logits", n);
    double loss = 0;
    if (!logits) return NULL;
    for (int t = 0; t + 1 < T; t++) {
        const float *row = logits + (size_t)t * (size_t)V;
        loss += (mi_log_sum_exp(row, V) - row[now.tokens.at[t + 1]]) / (T - 1);
    }
    logits[0] = (float)loss;
    *n = 1;
    return logits;
}

/* A trunk that grows: the edits hold for the new tokens as they do on the command line. */
static float *greedy_rows(int *n)
{
    int V = mi_shape(now.model).n_vocab, row = -1;
    MiOptions options = {.capacity = now.tokens.n + *n, .keep = MI_KEEP_CACHE, .threads = 1};
    MiRun *run = mi_run(now.model, now.tokens.at, now.tokens.n, now.n_edits ? &now.edits : NULL,
                        &options);
    float *rows = calloc((size_t)*n + 1, sizeof *rows), *logits = calloc((size_t)V, sizeof *logits);
    int ok = run && rows && logits;
    for (int i = 0; i < *n && ok; i++) {
        ok = mi_logits(run, 0, now.tokens.n + i - 1, logits) >= 0;
        mi_top(logits, V, 1, &row);
        rows[i] = (float)row;
        ok = ok && row >= 0 && row < V && (i + 1 == *n || mi_append(run, &row, 1) >= 0);
    }
    mi_free(run);
    free(logits);
    if (!ok) free(rows);
    return ok ? rows : NULL;
}

static float *site_of(const MiRun *run, int site, int layer, int *n)
{
    MiShape s = mi_shape(now.model);
    MiWidth kind = mi_site_info(site)->width;
    int T = now.tokens.n, keys = kind == MI_KEYS;
    int width = kind == MI_ONE ? 1 : kind == MI_D_MLP ? s.d_mlp : s.d_model;
    *n = keys ? s.n_head * T * (T + 1) / 2 : T * width;
    float *values = calloc((size_t)*n + 1, sizeof *values), *out = values;
    for (int t = 0; t < T && values; t++)
        for (int h = 0; h < (keys ? s.n_head : 1); h++) {
            const float *row = keys ? mi_head(run, 0, (MiSite)site, layer, h, t)
                                    : mi_site(run, 0, (MiSite)site, layer, t);
            int length = keys ? t + 1 : width;
            if (!row) return free(values), NULL;
            memcpy(out, row, (size_t)length * sizeof *row);
            out += length;
        }
    return values;
}

static float *lens_of(const MiRun *run, int final, int *n)
{
    MiShape s = mi_shape(now.model);
    *n = (2 * s.n_layer + 1) * s.n_vocab;
    float *logits = calloc((size_t)*n, sizeof *logits);
    int ok = logits != NULL;
    for (int half = 0; half <= 2 * s.n_layer && ok; half++) {
        int end = half == 2 * s.n_layer;
        MiSite site = end ? MI_resid_post : half & 1 ? MI_resid_mid : MI_resid_pre;
        ok = mi_lens(run, 0, site, end ? s.n_layer - 1 : half / 2, now.tokens.n - 1, final,
                     logits + (size_t)half * (size_t)s.n_vocab) >= 0;
    }
    if (!ok) free(logits);
    return ok ? logits : NULL;
}

static int site_by_name(const char *name)
{
    for (int site = 0; site < MI_N_SITES; site++)
        if (!strcmp(mi_site_info(site)->name, name)) return site;
    return -1;
}

static float *values_of(const MiRun *run, const char *what, int layer, int *n)
{
    if (!strcmp(what, "greedy")) return greedy_rows(n);
    if (!strcmp(what, "loss")) return loss_of(run, n);
    if (!strncmp(what, "lens", 4)) return lens_of(run, !strcmp(what, "lens_final"), n);
    int site = site_by_name(what);
    return site >= 0 ? site_of(run, site, layer, n) : logits_of(run, what, n);
}

/* ---- Comparing ---- */

/* "logits[4][17]", "L1.q[4][17]", "L1H2.pattern[4][3]": the place of number i of a tensor */
static const char *place(const char *what, int layer, int i)
{
    static char text[200];
    MiShape s = mi_shape(now.model);
    int site = site_by_name(what), T = now.tokens.n, t = 0;
    MiWidth kind = site >= 0 ? mi_site_info(site)->width : MI_ONE;
    int width = site < 0 ? s.n_vocab : kind == MI_D_MLP ? s.d_mlp : kind == MI_ONE ? 1 : s.d_model;
    if (!strcmp(what, "loss") || !strcmp(what, "greedy"))
        snprintf(text, sizeof text, "%s[%d]", what, i);
    else if (kind == MI_KEYS && site >= 0) {
        while (i >= s.n_head * (t + 1)) i -= s.n_head * ++t;
        snprintf(text, sizeof text, "L%dH%d.%s[%d][%d]", layer, i / (t + 1), what, t, i % (t + 1));
    } else if (site >= 0 && mi_site_info(site)->place == MI_BLOCK)
        snprintf(text, sizeof text, "L%d.%s[%d][%d]", layer, what, i / width, i % width);
    else
        snprintf(text, sizeof text, "%s[%d][%d]", what,
                 i / width + (strncmp(what, "last", 4) ? 0 : T - 1), i % width);
    return text;
}

/* One check for one tensor: the fork's, then the trunk's. -inf must be -inf; NaN never passes. */
static void compare(const char *what, int layer, const float *golden, int n)
{
    static const char *way[] = {"fork", "trunk"};
    double scale = 0;
    if (!now.ready) run_record();
    if (now.ready < 0) return;
    for (int i = 0; i < n; i++)
        if (isfinite(golden[i]) && fabs(golden[i]) > scale) scale = fabs(golden[i]);
    double allowed = strcmp(what, "greedy") ? TOLERANCE * scale : 0;
    for (int r = now.n_edits && strcmp(what, "greedy") ? 0 : 1; r < 2; r++) {
        int got_n = n, worst = -1;
        double most = 0;
        float *got = values_of(now.n_edits ? now.run[r] : now.base, what, layer, &got_n);
        if (!got || got_n != n) {
            wrong("%s of layer %d: %s", what, layer,
                  got ? "not as many numbers as in the golden file" : mi_error());
            free(got);
            return;
        }
        for (int i = 0; i < n; i++) {
            double off = got[i] == golden[i] ? 0 : fabs((double)got[i] - (double)golden[i]);
            if (off <= allowed || (worst >= 0 && off <= most)) continue;
            worst = i;
            most = isnan(off) ? INFINITY : off;
        }
        if (worst >= 0) {
            wrong("%s = %.7g, %s gives %.7g (%s; allowed +-%.2g)",
                  place(what, layer, worst), (double)got[worst], now.by, (double)golden[worst],
                  now.n_edits ? way[r] : "no edits", allowed);
            free(got);
            return;
        }
        free(got);
    }
    CHECK(1, " ");
}

/* ---- The golden file ---- */

static int read_rows(const char *text, Rows *rows)
{
    int used, n;
    if (sscanf(text, "%d%n", &n, &used) != 1 || n < 0 || n > 64) return -1;
    for (rows->n = 0; rows->n < n; rows->n++) {
        text += used;
        if (sscanf(text, "%d%n", &rows->at[rows->n], &used) != 1) return -1;
    }
    return 0;
}

/* A file of another tiny would fail everywhere and explain nothing. */
static int open_model(const char *path, unsigned long long wanted)
{
    uint64_t fnv = 0xcbf29ce484222325;
    FILE *file = fopen(path, "rb");
    for (int c; file && (c = getc(file)) != EOF;) fnv = (fnv ^ (uint64_t)c) * 0x100000001b3;
    if (file) fclose(file);
    CHECK(fnv == wanted, "golden %s: not the model that the golden file was made from (run "
          "tests/golden/make_golden.py)", path);
    if (fnv != wanted) return -1;
    now.model = mi_open(path);
    CHECK(now.model, "golden %s: mi_open: %s", path, mi_error());
    return now.model ? 0 : -1;
}

static void next_record(const char *by)
{
    drop_runs();
    snprintf(now.by, sizeof now.by, "%.63s", by);
    now.n_edits = 0;
    now.source.n = now.toward.n = now.away.n = 0;
}

/* When a tensor's turn comes: sites without edits layer by layer, then all else. */
static int wave_of(const char *what, int layer)
{
    int site = site_by_name(what), n_layer = mi_shape(now.model).n_layer;
    if (site < 0 || now.n_edits) return n_layer + 2;
    MiPlace place = mi_site_info(site)->place;
    return place == MI_ENTRY ? 0 : place == MI_FINAL ? n_layer + 1 : 1 + layer;
}

/* Compare what belongs to this wave. Returns 0 if the file was read to its end. */
static int replay(FILE *file, int wave)
{
    static char line[4096];
    static float golden[1 << 16];
    int ok = 1, layer, n, records = 0, end = -1;
    while (ok && end < 0 && fgets(line, sizeof line, file)) {
        char what[64], op[64];
        int used = 0;
        unsigned long long fnv;
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "by ", 3)) next_record(line + 3), records++;
        else if (!strncmp(line, "tokens ", 7)) ok = read_rows(line + 7, &now.tokens) == 0;
        else if (!strncmp(line, "source ", 7)) ok = read_rows(line + 7, &now.source) == 0;
        else if (!strncmp(line, "toward ", 7)) ok = read_rows(line + 7, &now.toward) == 0;
        else if (!strncmp(line, "away ", 5)) ok = read_rows(line + 5, &now.away) == 0;
        else if (sscanf(line, "edit %63s %n", op, &used) == 1 && now.n_edits < MAX_EDITS) {
            snprintf(now.edit[now.n_edits][0], sizeof now.edit[0][0], "%s", op);
            snprintf(now.edit[now.n_edits++][1], sizeof now.edit[0][1], "%s", line + used);
        } else if (sscanf(line, "compare %63s %d %d", what, &layer, &n) == 3) {
            ok = n >= 0 && n <= 1 << 16;
            ok = ok && fread(golden, sizeof *golden, (size_t)n, file) == (size_t)n;
            ok = ok && getc(file) == '\n';
            if (!ok || wave_of(what, layer) != wave) continue;
            if (!now.ready) share_runs();
            compare(what, layer, golden, n);
        } else if (sscanf(line, "end %d", &end) == 1) {
            ok = end == records;
        } else if (sscanf(line, "model %199s %llx", now.file, &fnv) == 2) {
            if (!now.model && open_model(now.file, fnv) < 0) return 0;
        } else ok = 0;
    }
    return ok && end >= 0 ? 0 : -1;
}

static int body(void)
{
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);      /* what failed stays said if something crashes */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[200];
        snprintf(path, sizeof path, "tests/golden/%s.golden", names[i]);
        doing("golden %s", path);
        FILE *file = fopen(path, "rb");
        int read = file ? replay(file, 0) : -1;
        int last = now.model ? mi_shape(now.model).n_layer + 2 : 0;
        for (int wave = 1; wave <= last && read == 0; wave++) {
            rewind(file);
            read = replay(file, wave);
        }
        if (now.wrong > MOST_LINES)
            printf("     (and %d more of this model; begin with the first)\n",
                   now.wrong - MOST_LINES);
        CHECK(read == 0, "golden %s: %s", path,
              file ? "cut off, or not what make_golden.py writes" : "no such file");
        drop_runs();
        drop_run(&now.base, &now.base_of);
        drop_run(&now.donor, &now.donor_of);
        mi_close(now.model);
        memset(&now, 0, sizeof now);
        if (file) fclose(file);
    }
    return report();
}

int main(void) { return in_scratch(body); }
