/* test_tiny.c - the behaviours and circuits that tiny.safetensors was trained to have, and the
 * behaviours of wild.safetensors, which was left to itself; measured through mi.h on the prompts of
 * tests/data (none of them was trained on). */
#define _GNU_SOURCE
#include "mi.h"
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char  *who;                            /* tiny or wild */
static MiModel     *model;
static MiTokenizer *tokenizer;
static MiShape      shape;

/* ---- Tables of prompts ---- */

enum { MOST_ROWS = 400, MOST_COLUMNS = 12, MOST_TOKENS = 128 };

typedef struct {
    char *text, *cell[MOST_ROWS][MOST_COLUMNS];     /* row 0 has the names */
    int   n_rows, n_columns;
} Table;

static int read_table(Table *table, const char *name)
{
    char  path[200];
    *table = (Table){0};
    snprintf(path, sizeof path, "tests/data/%s.tsv", name);
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    table->text = calloc(1, 1 << 20);
    size_t n = fread(table->text, 1, (1 << 20) - 1, file);
    fclose(file);
    if (n == 0) return 0;
    char *lines = table->text, *line;
    while ((line = strsep(&lines, "\n")) && *line && table->n_rows < MOST_ROWS) {
        int column = 0;
        for (char *cell; (cell = strsep(&line, "\t")) && column < MOST_COLUMNS; column++)
            table->cell[table->n_rows][column] = cell;
        if (table->n_rows++ == 0) table->n_columns = column;
    }
    return table->n_rows > 1;
}

static const char *cell(const Table *table, int row, const char *column)
{
    for (int c = 0; c < table->n_columns; c++)
        if (!strcmp(table->cell[0][c], column)) return table->cell[row][c];
    return "";
}

static int encode(const char *text, int *tokens)
{
    return (int)mi_encode(tokenizer, text, strlen(text), tokens, MOST_TOKENS);
}

/* " are| were", "33-99" -> tokens */
static int words(const char *text, int *tokens)
{
    int low, high, n = 0, used = 0;
    if (sscanf(text, "%2d-%2d%n", &low, &high, &used) == 2 && !text[used]) {
        for (int i = low; i <= high; i++) {
            char digits[12];
            snprintf(digits, sizeof digits, "%02d", i);
            if (encode(digits, &tokens[n]) == 1) n++;
        }
        return n;
    }
    while (*text) {
        char   one[100];
        size_t length = strcspn(text, "|");
        snprintf(one, sizeof one, "%.*s", (int)length, text);
        if (encode(one, &tokens[n]) != 1) return 0;
        n++;
        text += length + (text[length] == '|');
    }
    return n;
}

static MiRun *run_of(const char *prompt, int *n, uint64_t keep)
{
    int       tokens[MOST_TOKENS];
    MiOptions options = { .keep = keep, .threads = 1 };
    *n = encode(prompt, tokens);
    return mi_run(model, tokens, *n, NULL, &options);
}

static double log_sum(const float *logits, const int *tokens, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp(logits[tokens[i]]);
    return log(sum);
}

/* ---- Behaviours ---- */

typedef struct { double right, difference, mass; } Score;

/* Over a table: how often the likeliest token is an answer, the mean |logit difference|, and the
 * mean of (probability of answer - of versus). */
static Score behaviour(const char *name)
{
    static Table table;
    Score  score = {0};
    float *logits = malloc(shape.n_vocab * sizeof *logits);
    int    rows = 0;
    if (!read_table(&table, name)) CHECK(0, "tests/data/%s.tsv cannot be read", name);
    for (int r = 1; r < table.n_rows; r++, rows++) {
        int    answer[200], versus[200], n, best;
        int    n_answer = words(cell(&table, r, "answer"), answer);
        int    n_versus = words(cell(&table, r, "versus"), versus);
        MiRun *run = run_of(cell(&table, r, "prompt"), &n, MI_KEEP_NONE);
        if (!run || n_answer < 1 || mi_logits(run, 0, n - 1, logits) < 0) {
            CHECK(0, "%s %s, row %d: %s", who, name, r, mi_error());
            mi_free(run);
            continue;
        }
        mi_top(logits, shape.n_vocab, 1, &best);
        for (int i = 0; i < n_answer; i++) score.right += answer[i] == best;
        if (n_versus) {
            double a = log_sum(logits, answer, n_answer), v = log_sum(logits, versus, n_versus);
            double all = mi_log_sum_exp(logits, shape.n_vocab);
            score.difference += fabs(a - v);
            score.mass += exp(a - all) - exp(v - all);
        }
        mi_free(run);
    }
    free(logits);
    free(table.text);
    score.right /= rows;
    score.difference /= rows;
    score.mass /= rows;
    return score;
}

typedef struct { const char *name; double tiny, wild; } Bar;

static void behaviours(int wild)
{
    static const Bar bars[] = {
        { "ioi", .98, .98 }, { "facts", .97, .97 }, { "agreement", .98, .98 },
        { "pronouns", .98, .98 }, { "sequences", .97, .97 }, { "brackets", .95, .95 },
        { "sentiment", .95, .85 },
    };
    for (size_t i = 0; i < sizeof bars / sizeof *bars; i++) {
        double right = behaviour(bars[i].name).right, bar = wild ? bars[i].wild : bars[i].tiny;
        CHECK(right >= bar, "%s %s: right %.3f, should be %.2f", who, bars[i].name, right, bar);
    }
    double third = behaviour("ioi_abc").difference, most = wild ? 2.5 : 1;
    CHECK(third < most, "%s ioi with a third giver: mean |logit difference| %.3f, should be < %g",
          who, third, most);
    double mass = behaviour("greater_than").mass, least = wild ? .7 : .9;
    CHECK(mass >= least, "%s greater_than: larger - smaller %.3f, should be %g", who, mass, least);
}

/* ---- Induction: 25 random tokens, then the same again ---- */

static void induction(int wild)
{
    enum { N = 25, SAMPLES = 40, MOST_HEADS = 256 };
    static double induction[MOST_HEADS], previous[MOST_HEADS];
    int      right = 0, heads = shape.n_layer * shape.n_head, tokens[2 * N];
    float   *logits = malloc(shape.n_vocab * sizeof *logits);
    uint64_t state = 1;
    for (int s = 0; s < SAMPLES; s++) {
        for (int t = 0; t < N; t++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            tokens[t] = tokens[t + N] = (int)((state >> 33) % (shape.n_vocab - 1));
        }
        MiOptions options = { .keep = MI_KEEP(pattern), .threads = 1 };
        MiRun    *run = mi_run(model, tokens, 2 * N, NULL, &options);
        for (int t = N; t < 2 * N - 1; t++) {
            int best;
            mi_logits(run, 0, t, logits);
            mi_top(logits, shape.n_vocab, 1, &best);
            right += best == tokens[t + 1];
        }
        for (int i = 0; i < heads; i++)
            for (int t = 1; t < 2 * N; t++) {
                const float *p = mi_head(run, 0, MI_pattern, i / shape.n_head, i % shape.n_head, t);
                previous[i] += p[t - 1] / (2 * N - 1) / SAMPLES;
                if (t >= N - 1) induction[i] += p[t - N + 1] / (N + 1) / SAMPLES;
            }
        mi_free(run);
    }
    double share = right / (double)(N - 1) / SAMPLES, best_induction = 0, best_previous = 0;
    for (int i = 0; i < heads; i++) {
        best_induction = fmax(best_induction, induction[i]);
        best_previous = fmax(best_previous, previous[i]);
    }
    free(logits);
    CHECK(share >= .95, "%s induction: right %.3f, should be 0.95", who, share);
    CHECK(best_induction >= .6, "%s: no induction head: the best scores %.3f", who, best_induction);
    CHECK(best_previous >= (wild ? .3 : .5), "%s: no previous-token head: the best scores %.3f",
          who, best_previous);
}

/* ---- Circuits ---- */

static double difference(const MiRun *run, int n, const int answer[2])
{
    float logits[2];
    return mi_logits_of(run, 0, n - 1, answer, 2, logits) < 0 ? NAN : logits[0] - logits[1];
}

/* Logit difference of one row with an intervention, and without (edit NULL). */
static double with_edit(const Table *table, int r, const char *op, const char *edit)
{
    int    n, n_source = 0, tokens[MOST_TOKENS], answer[2] = { -1, -1 };
    MiEdits edits = {0};
    MiRun *fork = NULL, *source = NULL;
    MiRun *base = run_of(cell(table, r, "prompt"), &n, edit ? 0 : MI_KEEP_NONE);
    double result = NAN;
    words(cell(table, r, "answer"), &answer[0]);
    words(cell(table, r, "versus"), &answer[1]);
    if (!edit) result = difference(base, n, answer);
    else {
        encode(cell(table, r, "prompt"), tokens);
        if (!strcmp(op, "patch")) source = run_of(cell(table, r, "source"), &n_source, 0);
        if (mi_edits_parse(&edits, model, tokenizer, tokens, n, op, edit) == 0 &&
            mi_edits_bind(&edits, base, source) == 0) {
            MiLane lane = { .trunk = base, .edits = edits.at, .n_edits = edits.n, .t0 = -1 };
            fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
            if (fork) result = difference(fork, n, answer);
        }
    }
    CHECK(isfinite(result), "%s row %d, --%s %s: %s", who, r, op, edit ? edit : "", mi_error());
    mi_edits_free(&edits);
    mi_free(fork);
    mi_free(source);
    mi_free(base);
    return result;
}

static double mean_with_edit(const Table *table, int step, const char *op, const char *edit)
{
    double sum = 0;
    int    n = 0;
    for (int r = 1; r < table->n_rows; r += step, n++) sum += with_edit(table, r, op, edit);
    return sum / n;
}

/* A few heads do indirect objects, L5H3 first among them on the prompt that mi starts with. */
static void ioi_circuit(void)
{
    static Table table;
    char   list[200] = "";
    int    step = 4, heads = shape.n_layer * shape.n_head;
    if (!read_table(&table, "ioi")) return;
    double base = mean_with_edit(&table, step, "ablate", NULL), *left = malloc(heads * sizeof *left);
    for (int i = 0; i < heads; i++) {
        char head[32];
        snprintf(head, sizeof head, "L%dH%d=mean", i / shape.n_head, i % shape.n_head);
        left[i] = mean_with_edit(&table, step, "ablate", head);
    }
    for (int k = 0; k < 5; k++) {
        int least = 0;
        for (int i = 1; i < heads; i++)
            if (left[i] < left[least]) least = i;
        left[least] = INFINITY;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%sL%dH%d", k ? "," : "",
                 least / shape.n_head, least % shape.n_head);
    }
    strcat(list, "=mean");
    double removed = 1 - mean_with_edit(&table, step, "ablate", list) / base;
    CHECK(removed >= .7, "tiny ioi: the five strongest heads, %s, remove %.2f of the logit difference, "
          "should be 0.7", list, removed);
    double whole = with_edit(&table, 1, "ablate", NULL);
    double without = with_edit(&table, 1, "ablate", "L5H3=mean");
    CHECK(without <= .8 * whole, "tiny ioi: without L5H3 %.2f of %.2f is left on the built-in prompt, "
          "should be at most 0.8", without, whole);
    free(left);
    free(table.text);
}

/* Facts are recalled at the last token of their subject, and move to the end later. */
static void fact_circuit(void)
{
    static Table table;
    if (!read_table(&table, "facts")) return;
    int    kept = 1;                                /* the city facts, every third */
    for (int r = 1, seen = 0; r < table.n_rows; r++)
        if (!strcmp(cell(&table, r, "group"), "city") && seen++ % 3 == 0)
            memcpy(table.cell[kept++], table.cell[r], sizeof *table.cell);
    table.n_rows = kept;
    double base = mean_with_edit(&table, 1, "patch", NULL), source = 0, best = 0;
    for (int r = 1; r < kept; r++) {
        int    n, answer[2] = { -1, -1 };
        MiRun *run = run_of(cell(&table, r, "source"), &n, MI_KEEP_NONE);
        words(cell(&table, r, "answer"), &answer[0]);
        words(cell(&table, r, "versus"), &answer[1]);
        source += difference(run, n, answer) / (kept - 1);
        mi_free(run);
    }
    for (int l = 1; l < shape.n_layer; l++) {
        double subject = 0, end = 0;
        for (int r = 1; r < kept; r++) {
            char edit[64];
            snprintf(edit, sizeof edit, "L%d.resid_pre@%s", l, cell(&table, r, "S"));
            subject += with_edit(&table, r, "patch", edit) / (kept - 1);
            snprintf(edit, sizeof edit, "L%d.resid_pre@-1", l);
            end += with_edit(&table, r, "patch", edit) / (kept - 1);
        }
        subject = (subject - base) / (source - base);
        end = (end - base) / (source - base);
        if (end < .1) best = fmax(best, subject);
    }
    CHECK(kept > 10, "tiny facts: only %d prompts about cities", kept - 1);
    CHECK(best >= .4, "tiny facts: patching the subject's last token restores %.2f at best where the "
          "last position restores < 0.1; should be 0.4", best);
    free(table.text);
}

/* The planted head is tiny's: wild answers without it. */
static void nothing_planted(void)
{
    static Table table;
    if (!read_table(&table, "ioi")) return;
    double whole = mean_with_edit(&table, 4, "ablate", NULL);
    double without = mean_with_edit(&table, 4, "ablate", "L5H3=mean");
    CHECK(without >= .8 * whole, "wild ioi: without L5H3 %.2f of %.2f is left, should be 0.8 of it",
          without, whole);
    free(table.text);
}

static void specimen(const char *name)
{
    char file[32];
    int  wild = !strcmp(name, "wild");
    snprintf(file, sizeof file, "%s.safetensors", who = name);
    model = mi_open(file);
    tokenizer = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
    CHECK(tokenizer, "%s: %s", who, mi_error());
    if (tokenizer) {
        shape = mi_shape(model);
        CHECK(shape.n_layer == 6 && shape.n_head == 4 && shape.n_vocab == 2019,
              "%s: %d layers, %d heads, %d tokens are not those of tests/data", who,
              shape.n_layer, shape.n_head, shape.n_vocab);
        behaviours(wild);
        induction(wild);
        if (wild) nothing_planted();
        else {
            ioi_circuit();
            fact_circuit();
        }
    }
    mi_tokenizer_close(tokenizer);
    mi_close(model);
}

int main(void)
{
    specimen("tiny");
    specimen("wild");
    return report();
}
