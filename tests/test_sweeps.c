/* test_sweeps.c - a sweep is one run per cell, and its numbers are those of transformer_lens.
 *
 *     test_sweeps                 everything
 *     test_sweeps 17              the random sweeps of the configuration with seed 17
 *
 * First tests/golden/NAME.sweeps (made by make_golden.py, whose docstring has the format) is
 * replayed: each table of transformer_lens.patching as one mi_sweep(), up to 1e-4 of its largest
 * number. Then sweeps of random models and edits: each cell == the same edits as a fork of one
 * lane == the whole pass with the held edits and the cell's. */
#include "scratch.h"
#include "check.h"
#include "world.h"

#define TOLERANCE 1e-4

enum { MAX_CELLS = 2000, N_CONFIGURATIONS = 40 };

/* ---- What is measured ---- */

/* A metric reads like any program would: the difference of two logits at a position; or all bits
 * of all logits that can be read, as one number. */
typedef struct {
    int     at, tokens[2];
    int     bits;               /* 1: every bit counts */
    int     all;                /* ... of every position (a run that is read whole) */
    int     read;               /* how many positions a lane has, if not all */
    int     n_vocab, broken;
    float  *logits;
    int     told, last, total;  /* by progress: how often, and the last numbers */
    int     bad_progress, too_long;
} Meter;

static double bits_of(Meter *meter, const MiRun *run, int lane)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (int t = meter->all ? 0 : meter->at; t <= meter->at; t++) {
        if (mi_logits(run, lane, t, meter->logits) < 0) return meter->broken++, NAN;
        for (int i = 0; i < meter->n_vocab; i++) {
            uint32_t bits;
            memcpy(&bits, &meter->logits[i], sizeof bits);
            hash = (hash ^ bits) * 0x100000001b3;
        }
    }
    return (double)(hash >> 12);        /* 52 bits: exact as a double */
}

static double measure(void *context, const MiRun *run, int lane)
{
    Meter *meter = context;
    float  logits[2];
    meter->too_long |= meter->read && lane && mi_n_tokens(run, lane) != meter->read;
    if (meter->bits) return bits_of(meter, run, lane);
    if (mi_logits_of(run, lane, meter->at, meter->tokens, 2, logits) < 0)
        return meter->broken++, NAN;
    return (double)logits[0] - (double)logits[1];
}

static void progress(void *context, int done, int n)
{
    Meter *meter = context;
    meter->bad_progress |= done <= meter->last || done > n || (meter->told && n != meter->total);
    meter->told++;
    meter->last = done;
    meter->total = n;
}

/* ---- Cells: all edits of a sweep, and where each cell's begin ---- */

typedef struct {
    MiEdits edits;              /* as MiSweep wants them; their values belong to someone else */
    int     first[MAX_CELLS + 1], n;
} Cells;

static void add_cell(World *w, Cells *cells, const MiEdits *own)
{
    if (cells->n == MAX_CELLS) abort();
    for (int i = 0; i < own->n; i++) {
        if (cells->edits.n % 64 == 0) {
            MiEdit *more = memory(w, (size_t)(cells->edits.n + 64) * sizeof *more);
            if (cells->edits.n)
                memcpy(more, cells->edits.at, (size_t)cells->edits.n * sizeof *more);
            cells->edits.at = more;
        }
        cells->edits.at[cells->edits.n++] = own->at[i];
    }
    cells->first[++cells->n] = cells->edits.n;
}

static MiEdits cell(const Cells *cells, int i)
{
    return (MiEdits){.at = cells->edits.at + cells->first[i],
                     .n = cells->first[i + 1] - cells->first[i]};
}

static const char *sweep(const Cells *cells, const MiRun *trunk, int read, Meter *meter,
                         double *values)
{
    MiSweep plan = {.trunk = trunk, .edits = cells->edits.at, .first = cells->first,
                    .n_cells = cells->n, .read = read, .metric = measure, .progress = progress,
                    .context = meter};
    meter->told = meter->last = meter->total = meter->bad_progress = meter->broken = 0;
    meter->too_long = 0;
    meter->read = read;
    if (mi_sweep(&plan, values) < 0) return because("mi_sweep fails: %s", message());
    if (meter->broken) return because("%d lanes cannot be measured: %s", meter->broken, message());
    if (meter->too_long) return because("lanes have more positions than the %d that are read", read);
    if (meter->bad_progress || meter->last != meter->total)
        return because("progress does not count up to all cells: it ends with %d of %d",
                       meter->last, meter->total);
    return NULL;
}

static const char *told(const MiEdit *e)
{
    static char text[200];
    snprintf(text, sizeof text, "op %d of %s layer %d head %d columns %d+%d rows %d-%d order %d",
             (int)e->op, mi_site_info(e->site)->name, e->layer, e->head, e->first, e->count, e->pos,
             e->pos_end == INT_MAX ? -1 : e->pos_end - 1, e->order);
    return text;
}

/* ---- The tables of transformer_lens ---- */

enum { MAX_AXES = 4 };

static struct {
    char     file[200], by[80], op[20], argument[100];
    MiModel *model;
    int      tokens[64], source[64], n, n_source, names[2];
    int      axis[MAX_AXES], n_axes;
} table;

/* Cell i of "L*.resid_pre@*" -> "L2.resid_pre@3" */
static void concrete(int i, char *text, size_t room)
{
    int at[MAX_AXES], star = 0;
    size_t used = 0;
    for (int a = table.n_axes - 1; a >= 0; i /= table.axis[a--]) at[a] = i % table.axis[a];
    for (const char *c = table.argument; *c && used + 12 < room; c++)
        used += (size_t)(*c == '*' ? sprintf(text + used, "%d", at[star++])
                                   : sprintf(text + used, "%c", *c));
    text[used] = 0;
}

/* "odd7.safetensors get_act_patch_resid_pre" */
static const char *table_name(void)
{
    static char text[1300];
    const char *shown = strncmp(table.file, "tests/golden/", 13) ? table.file : table.file + 13;
    snprintf(text, sizeof text, "golden sweep %s %s (--patch %s)", shown, table.by,
             table.argument);
    return text;
}

/* One check per table and way of reading; one more that cells beyond the query are refused. */
static void replay_cells(World *w, const float *golden, int n)
{
    static Cells cells;
    static double values[MAX_CELLS];
    static int which[MAX_CELLS];
    int count = 1, refused = 0, later = 0, T = table.n, computed = 0;
    double scale = 0;
    MiOptions options = {.threads = 1};
    doing("%s", table_name());
    cells = (Cells){0};
    MiRun *base = mi_run(table.model, table.tokens, T, NULL, &options);
    MiRun *source = mi_run(table.model, table.source, table.n_source, NULL, &options);
    for (int a = 0; a < table.n_axes; a++) count *= table.axis[a];
    CHECK(base && source && count == n && n <= MAX_CELLS, "%s: %s", table_name(),
          base && source ? "not as many cells as its axes say" : mi_error());
    if (!base || !source || count != n || n > MAX_CELLS) return mi_free(base), mi_free(source);
    static MiEdits parsed[MAX_CELLS];
    memset(parsed, 0, sizeof parsed);
    for (int i = 0; i < n; i++) {
        char text[200];
        concrete(i, text, sizeof text);
        const char *colon = strchr(text, ':'), *at = strrchr(text, '@');
        which[i] = -1;
        scale = fmax(scale, fabs((double)golden[i]));
        int bad = mi_edits_parse(&parsed[i], table.model, NULL, table.tokens, T, table.op, text) < 0;
        if (colon && atoi(colon + 1) > atoi(at + 1)) {
            later++, refused += bad;
            continue;
        }
        if (bad || mi_edits_bind(&parsed[i], base, source) < 0) {
            CHECK(0, "%s: %s is not understood: %s", table_name(), text, mi_error());
            continue;
        }
        which[i] = cells.n;
        add_cell(w, &cells, &parsed[i]);
    }
    CHECK(refused == later, "%s: %d keys after their query are not refused", table_name(),
          later - refused);
    for (int read = 0; read <= T; read += T) {
        Meter meter = {.at = T - 1, .tokens = {table.names[0], table.names[1]}};
        const char *why = sweep(&cells, base, read, &meter, values);
        double unchanged = measure(&meter, base, 0);
        int worst = -1;
        double most = TOLERANCE * scale;
        computed += meter.total;
        for (int i = 0; i < n && !why; i++) {
            double got = which[i] < 0 ? unchanged : values[which[i]];
            double off = fabs(got - (double)golden[i]);
            if (off <= most) continue;
            worst = i;
            most = isnan(off) ? INFINITY : off;
        }
        char text[200];
        if (worst >= 0) concrete(worst, text, sizeof text);
        if (worst >= 0 && !why)
            why = because("%s gives %.7g, not %.7g (unpatched %.7g; allowed +-%.2g)", text,
                          which[worst] < 0 ? unchanged : values[which[worst]],
                          (double)golden[worst], unchanged, TOLERANCE * scale);
        CHECK(!why, "%s, read %d: %s", table_name(), read, why);
    }
    CHECK(computed, "%s: no cell was computed", table_name());
    for (int i = 0; i < n; i++) mi_edits_free(&parsed[i]);
    mi_free(base);
    mi_free(source);
}

static int read_rows(const char *text, int *rows)
{
    int used, n;
    if (sscanf(text, "%d%n", &n, &used) != 1 || n < 1 || n > 64) return -1;
    for (int i = 0; i < n; i++) {
        text += used;
        if (sscanf(text, "%d%n", &rows[i], &used) != 1) return -1;
    }
    return n;
}

/* A file of another tiny would fail everywhere and explain nothing. */
static int open_table_model(unsigned long long wanted)
{
    uint64_t fnv = 0xcbf29ce484222325;
    FILE *file = fopen(table.file, "rb");
    for (int c; file && (c = getc(file)) != EOF;) fnv = (fnv ^ (uint64_t)c) * 0x100000001b3;
    if (file) fclose(file);
    CHECK(fnv == wanted, "golden sweep %s: not the model that the file was made from (run "
          "tests/golden/make_golden.py)", table.file);
    if (fnv != wanted) return -1;
    table.model = mi_open(table.file);
    CHECK(table.model, "golden sweep %s: mi_open: %s", table.file, mi_error());
    return table.model ? 0 : -1;
}

static int replay(World *w, FILE *file)
{
    static char line[4096];
    static float golden[MAX_CELLS];
    int ok = 1, n, records = 0, end = -1;
    while (ok && end < 0 && fgets(line, sizeof line, file)) {
        unsigned long long fnv;
        int *axis = table.axis;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "by %79s", table.by) == 1) records++, table.n_source = 0;
        else if (!strncmp(line, "tokens ", 7)) ok = (table.n = read_rows(line + 7, table.tokens)) > 0;
        else if (!strncmp(line, "source ", 7))
            ok = (table.n_source = read_rows(line + 7, table.source)) == table.n;
        else if (sscanf(line, "answer %d", &table.names[0]) == 1) ;
        else if (sscanf(line, "versus %d", &table.names[1]) == 1) ;
        else if (sscanf(line, "sweep %19s %99s", table.op, table.argument) == 2) ;
        else if (!strncmp(line, "axes ", 5))
            ok = (table.n_axes = sscanf(line, "axes %d %d %d %d", axis, axis + 1, axis + 2,
                                        axis + 3)) > 0;
        else if (sscanf(line, "compare cells 0 %d", &n) == 1) {
            ok = n > 0 && n <= MAX_CELLS;
            ok = ok && fread(golden, sizeof *golden, (size_t)n, file) == (size_t)n;
            ok = ok && getc(file) == '\n';
            if (ok) replay_cells(w, golden, n);
            free_from(w, 0);
        } else if (sscanf(line, "end %d", &end) == 1) ok = end == records;
        else if (sscanf(line, "model %199s %llx", table.file, &fnv) == 2) {
            if (open_table_model(fnv) < 0) return 0;
        } else ok = 0;
    }
    return ok && end >= 0 ? 0 : -1;
}

static void golden_tables(World *w)
{
    static const char *names[] = {"odd7", "brain11", "tiny"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[200];
        snprintf(path, sizeof path, "tests/golden/%s.sweeps", names[i]);
        doing("golden sweep %s", path);
        memset(w, 0, sizeof *w);
        FILE *file = fopen(path, "rb");
        int read = file ? replay(w, file) : -1;
        CHECK(read == 0, "golden sweep %s: %s", path,
              file ? "cut off, or not what make_golden.py writes" : "no such file");
        mi_close(table.model);
        memset(&table, 0, sizeof table);
        if (file) fclose(file);
    }
}

/* ---- Random sweeps ---- */

static Meter random_meter(World *w, int at, int all)
{
    Meter meter = {.at = at, .bits = below(w, 3) > 0, .all = all, .n_vocab = w->s.n_vocab,
                   .tokens = {below(w, w->s.n_vocab), below(w, w->s.n_vocab)}};
    meter.logits = memory(w, (size_t)w->s.n_vocab * sizeof *meter.logits);
    return meter;
}

/* Every cell == its edits as a fork of one lane == the whole pass. lanes, passes: try one in that
 * many, and always the first and the last cell. */
static const char *cells_are_runs(World *w, const Cells *cells, const MiRun *base,
                                  const MiEdits *held, int read, Meter *meter, int lanes,
                                  int passes)
{
    static double values[MAX_CELLS];
    int last = cells->n - 1;
    TRY(sweep(cells, base, read, meter, values));
    double unchanged = measure(meter, base, 0);
    for (int i = 0; i <= last; i++) {
        MiEdits own = cell(cells, i);
        const MiEdit *shown = &own.at[0];
        int lowest = lowest_row(own), n = read ? read : w->T;
        if (lowest >= n && values[i] != unchanged)
            return because("cell %d of %d touches only positions that are not read, and gives %.17g"
                           " instead of %.17g: %s", i, cells->n, values[i], unchanged, told(shown));
        if (i % lanes == 0 || i == last) {
            MiLane lane = {base, own.at, own.n, -1, read};
            MiRun *alone = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
            if (!alone) return because("cell %d of %d as a fork: %s: %s", i, cells->n, message(),
                                       told(shown));
            double value = measure(meter, alone, 0);
            mi_free(alone);
            if (value != values[i])
                return because("cell %d of %d gives %.17g, as a lane of its own %.17g (read %d): %s",
                               i, cells->n, values[i], value, read, told(shown));
        }
        if (i % passes == 0 || i == last) {
            MiEdits all = joined(w, *held, own);
            MiOptions options = {.threads = 1};
            MiRun *pass = mi_run(w->model, w->tokens, w->T, &all, &options);
            if (!pass) return because("cell %d of %d as a whole pass: %s: %s", i, cells->n,
                                      message(), told(shown));
            double value = measure(meter, pass, 0);
            mi_free(pass);
            if (value != values[i])
                return because("cell %d of %d gives %.17g, the whole pass %.17g (read %d): %s", i,
                               cells->n, values[i], value, read, told(shown));
        }
    }
    return NULL;
}

static MiEdits held_edits(World *w, int site, int layer)
{
    MiEdits held = {0};
    if (below(w, 2)) {          /* one before and one after the cells' at the same place */
        MiEdit e = random_edit(w, site, w->T);
        e.layer = layer, e.pos = 0, e.pos_end = INT_MAX, e.value_stride = 0;
        e.op = MI_SCALE, e.amount = 1.5f, e.order = 0;
        add_edit(w, &held, e);
        e.op = MI_ADD, e.amount = 0.125f, e.order = 2;
        e.value = random_values(w, MI_ADD, site, 1, e.count);
        if (below(w, 2)) add_edit(w, &held, e);
    }
    if (below(w, 2)) add_edit(w, &held, random_edit(w, below(w, MI_N_SITES), w->T));
    return held;
}

/* Cells at all kinds of sites, one or several edits each, from any position on; read at the last
 * position, at one before it, or whole. */
static const char *cell_is_its_edits_alone(World *w)
{
    static Cells cells;
    int n = 1 + below(w, 50), any = below(w, MI_N_SITES), layer = layers_of(w, any) - 1;
    MiEdits held = held_edits(w, any, layer);
    MiRun *base = held.n ? whole(w, &held) : w->base;
    if (!base) return because("%s", lost);
    cells = (Cells){0};
    for (int i = 0; i < n; i++) {
        MiEdits own = {0};
        int site = i < MI_N_SITES ? i : below(w, MI_N_SITES);
        MiEdit e = random_edit(w, below(w, 2) ? any : site, w->T);
        if (below(w, 2)) {      /* between the held ones: these do not commute */
            e.op = MI_ADD, e.amount = 0.25f, e.order = 1, e.value_stride = 0;
            e.value = random_values(w, MI_ADD, e.site, 1, e.count);
        }
        if (below(w, 2)) e.layer = layers_of(w, e.site) - 1;
        add_edit(w, &own, e);
        for (int more = below(w, 4) ? 0 : 1 + below(w, 2); more; more--)
            add_edit(w, &own, random_edit(w, below(w, MI_N_SITES), w->T));
        add_cell(w, &cells, &own);
    }
    w->edits[0] = 0;            /* the cell that failed is told by itself */
    int read = below(w, 3) ? 1 + below(w, w->T) : below(w, 2) ? w->T : 0;
    Meter meter = random_meter(w, read ? read - 1 : w->T - 1, !read && below(w, 2));
    if (!meter.all && !read) meter.at = below(w, w->T);
    return cells_are_runs(w, &cells, base, &held, read, &meter, 1, 3);
}

/* The edits that a command line means, for each position or head, from a source that starts like
 * the prompt. Where source and prompt are equal up to a row, nothing may be computed. */
static const char *patches_of_a_shared_prefix(World *w)
{
    static const char *const sites[] = {"resid_pre", "attn_out", "mlp_out", "resid_post", "q", "k",
                                        "v", "mlp_post", "ln1", "ln2_scale", "resid_mid"};
    static Cells cells;
    int *tokens = random_tokens(w, w->T), shared = below(w, w->T + 1), computed = 0;
    for (int t = 0; t < shared; t++) tokens[t] = w->tokens[t];
    for (int t = shared; t < w->T; t++)
        if (t == shared && tokens[t] == w->tokens[t]) tokens[t] = (tokens[t] + 1) % w->s.n_vocab;
    MiRun *source = run(w, tokens, w->T, NULL, (MiOptions){0});
    if (!source) return because("%s", lost);
    cells = (Cells){0};
    const char *site = sites[below(w, (int)(sizeof sites / sizeof *sites))];
    int by_head = below(w, 3) == 0;
    for (int l = 0; l < w->s.n_layer; l++)
        for (int i = 0; i < (by_head ? w->s.n_head : 1); i++)
            for (int t = 0; t < w->T && cells.n < MAX_CELLS; t++) {
                MiEdits own = {0};
                char text[64];
                if (by_head) snprintf(text, sizeof text, "L%dH%d.z@%d", l, i, t);
                else snprintf(text, sizeof text, "L%d.%s@%d", l, site, t);
                TRY(parse_edits(w, &own, "patch", text, w->base, source));
                w->edits[0] = 0;
                add_cell(w, &cells, &own);
                computed += t >= shared;
                if (w->n_lists == MAX_LISTS) l = w->s.n_layer, i = w->s.n_head, t = w->T;
            }
    Meter meter = random_meter(w, w->T - 1, 0);
    MiEdits none = {0};
    TRY(cells_are_runs(w, &cells, w->base, &none, w->T, &meter, 2, 8));
    /* Every row after the first that differs may still happen to be equal: at most `computed`. */
    if (meter.total > computed)
        return because("%d cells of %s are computed, but only %d patch a row after the %d that "
                       "source and prompt share", meter.total, by_head ? "z" : site, computed,
                       shared);
    if (shared < w->T && !meter.total)
        return because("no cell of %s is computed, though %d rows differ", by_head ? "z" : site,
                       w->T - shared);
    return NULL;
}

/* Setting a site to what the trunk has there: no cell is computed, at whatever site. One column
 * or one row that differs, and it is. */
static const char *cells_that_change_nothing(World *w)
{
    static Cells cells, changed;
    static double values[MAX_CELLS];
    MiEdits held = {0};
    MiEdit first = random_edit(w, MI_embed, w->T);      /* elsewhere: values of the trunk count */
    if (below(w, 2)) add_edit(w, &held, first);
    MiRun *base = held.n ? whole(w, &held) : w->base;
    if (!base) return because("%s", lost);
    cells = changed = (Cells){0};
    for (int site = 0; site < MI_N_SITES; site++) {
        if (site == MI_embed) continue;
        int layer = below(w, layers_of(w, site)), keys = is_keys(site);
        int width = keys ? w->T : width_of(w, site);
        int pos = below(w, w->T), end = pos + 1 + below(w, w->T - pos);
        int from = below(w, keys ? pos + 1 : width), count = 1 + below(w, width - from);
        MiEdits own = {0};
        add_edit(w, &own, copy_edit(w, base, site, layer, keys ? below(w, w->s.n_head) : -1, from,
                                    count, pos, end));
        add_cell(w, &cells, &own);
        MiEdit other = own.at[0];       /* one number of its last row is another */
        size_t n = (size_t)(end - pos) * (size_t)count;
        float *value = memory(w, n * sizeof *value);
        memcpy(value, other.value, n * sizeof *value);
        int exist = keys ? least(count, end - from) : count;
        value[n - (size_t)count + (size_t)below(w, exist)] += 0.5f;
        other.value = value;
        MiEdits own2 = {0};
        add_edit(w, &own2, other);
        add_cell(w, &changed, &own2);
        if (below(w, 2)) {              /* a second edit that does nothing */
            add_edit(w, &own2, own.at[0]);
            MiEdit swap = own2.at[0];
            own2.at[0] = own2.at[1], own2.at[1] = swap;
            add_cell(w, &changed, &own2);
        }
    }
    w->edits[0] = 0;
    Meter meter = random_meter(w, w->T - 1, 0);
    TRY(sweep(&cells, base, w->T, &meter, values));
    if (meter.total) return because("%d of %d cells are computed, which write what is there",
                                    meter.total, cells.n);
    double unchanged = measure(&meter, base, 0);
    for (int i = 0; i < cells.n; i++)
        if (values[i] != unchanged)
            return because("cell %d writes what is there and gives %.17g, not %.17g: %s", i,
                           values[i], unchanged, told(&cell(&cells, i).at[0]));
    TRY(sweep(&changed, base, w->T, &meter, values));
    if (meter.total != changed.n)
        return because("only %d of %d cells are computed, which write another number", meter.total,
                       changed.n);
    return cells_are_runs(w, &changed, base, &held, w->T, &meter, 1, 4);
}

/* Mixing a score with its equal changes nothing, unless it is infinite: x + amount (v - x) is then
 * not a number. Held: a key of the last layer is infinite, so that the last query never looks at
 * it. The cell's query must be found to be not a number, though v is x bit for bit. */
static const char *mixing_infinity_is_a_change(World *w)
{
    static Cells cells;
    double values[2];
    int last = w->T - 1, layer = w->s.n_layer - 1, head = below(w, w->s.n_head);
    if (!last) return NULL;
    const float *q = mi_head(w->base, 0, MI_q, layer, head, last);
    if (!q || q[0] == 0) return q ? NULL : message();
    MiEdits held = {0};
    add_edit(w, &held, (MiEdit){.op = MI_SET, .site = MI_k, .layer = layer, .head = -1,
                                .first = head * w->s.d_head, .count = 1, .pos_end = 1,
                                .amount = q[0] > 0 ? -INFINITY : INFINITY});
    MiRun *base = whole(w, &held);
    if (!base) return because("%s", lost);
    cells = (Cells){0};
    for (int key = 0; key < 2; key++) {
        MiEdits own = {0};
        add_edit(w, &own, copy_edit(w, base, MI_scores, layer, head, key, 1, last, last + 1));
        own.at[0].op = MI_MIX;
        own.at[0].amount = 0.5f;
        add_cell(w, &cells, &own);
    }
    Meter meter = {.at = last, .n_vocab = w->s.n_vocab, .tokens = {0, w->s.n_vocab - 1}};
    TRY(sweep(&cells, base, w->T, &meter, values));
    if (isnan(measure(&meter, base, 0))) return because("the held run is not a number");
    if (!isnan(values[0])) return because("-infinity mixed with itself gives %.17g", values[0]);
    if (values[1] != measure(&meter, base, 0) || meter.total != 1)
        return because("a finite score mixed with itself gives %.17g; %d cells are computed",
                       values[1], meter.total);
    return NULL;
}

/* A cell that writes what the trunk shows after a held edit: the held edit then comes once more.
 * Not the same as changing nothing. */
static const char *held_edit_comes_after_the_cell(World *w)
{
    static Cells cells;
    MiEdits held = {0}, own = {0};
    int site = below(w, MI_N_SITES), layer = below(w, layers_of(w, site)), keys = is_keys(site);
    int head = keys ? below(w, w->s.n_head) : -1, width = keys ? w->T : width_of(w, site);
    MiEdit e = {.op = MI_SCALE, .amount = 0.5f, .site = (MiSite)site, .layer = layer, .head = head,
                .count = width, .pos_end = INT_MAX, .order = 2};
    add_edit(w, &held, e);
    MiRun *base = whole(w, &held);
    if (!base) return because("%s", lost);
    add_edit(w, &own, copy_edit(w, base, site, layer, head, 0, width, 0, w->T));
    own.at[0].order = 1;
    cells = (Cells){0};
    add_cell(w, &cells, &own);
    Meter meter = random_meter(w, w->T - 1, 0);
    return cells_are_runs(w, &cells, base, &held, w->T, &meter, 1, 1);
}

/* More rows than a fork takes at once, with one thread and with two. */
static const char *many_cells_in_several_forks(World *w)
{
    static Cells cells;
    static double one[MAX_CELLS], two[MAX_CELLS];
    static const MiSite sites[] = {MI_z, MI_resid_mid, MI_k, MI_mlp_out, MI_pattern, MI_v, MI_q};
    MiEdits held = held_edits(w, MI_z, below(w, w->s.n_layer));
    MiRun *base = held.n ? whole(w, &held) : w->base;
    MiRun *threads = run(w, w->tokens, w->T, held.n ? &held : NULL, (MiOptions){.threads = 2});
    if (!base || !threads) return because("%s", lost);
    int rows_of_all = 0, n = 300 + below(w, 200);
    cells = (Cells){0};
    for (int i = 0; i < n; i++) {
        MiSite site = sites[below(w, (int)(sizeof sites / sizeof *sites))];
        MiEdit e = {.op = below(w, 2) ? MI_SET : MI_SCALE, .site = site, .head = -1,
                    .layer = below(w, w->s.n_layer), .count = width_of(w, site),
                    .pos = below(w, w->T), .pos_end = INT_MAX, .amount = 0.5f, .order = 1};
        if (site == MI_z) e.first = below(w, w->s.n_head) * w->s.d_head, e.count = w->s.d_head;
        if (site == MI_pattern) e.head = below(w, w->s.n_head), e.count = e.pos + 1;
        if (below(w, 2)) e.pos_end = e.pos + 1;
        rows_of_all += w->T - e.pos;
        MiEdits own = {.at = &e, .n = 1};
        add_cell(w, &cells, &own);
    }
    w->edits[0] = 0;
    Meter meter = random_meter(w, w->T - 1, 0);
    TRY(cells_are_runs(w, &cells, base, &held, w->T, &meter, 9, 61));
    TRY(sweep(&cells, base, w->T, &meter, one));
    if (rows_of_all > 3000 && meter.told < 2)
        return because("%d rows of %d cells in one fork", rows_of_all, cells.n);
    TRY(sweep(&cells, threads, w->T, &meter, two));
    for (int i = 0; i < cells.n; i++)
        if (one[i] != two[i])
            return because("cell %d gives %.17g with one thread, %.17g with two: %s", i, one[i],
                           two[i], told(&cell(&cells, i).at[0]));
    return NULL;
}

/* A lane of which one position is read: in the last layer, all but k and v of the other rows is
 * left out, and asking for it is an error that names the site; everything else is there. */
static const char *left_out_rows_are_errors(World *w)
{
    MiLane lanes[3];
    MiEdits own[3] = {{0}};
    MiRun *passes[3];
    int n = 1 + below(w, 3), L = w->s.n_layer;
    for (int i = 0; i < n; i++) {
        add_edit(w, &own[i], random_edit(w, below(w, MI_N_SITES), w->T));
        int lowest = lowest_row(own[i]);
        lanes[i] = (MiLane){w->base, own[i].at, own[i].n, -1,
                            lowest + 1 + below(w, w->T - lowest)};
        passes[i] = whole(w, &own[i]);
    }
    MiRun *fork = fork_lanes(w, lanes, n, -1, MI_KEEP_ALL);
    if (!fork) return because("%s", lost);
    int fork_half = 2 * L;
    for (int i = 0; i < n; i++) fork_half = least(fork_half, lowest_half(w, own[i]));
    for (int i = 0; i < n; i++) {
        int t0 = lowest_row(own[i]), read = lanes[i].read;
        if (mi_n_tokens(fork, i) != read)
            return because("lane %d has %d tokens, read is %d", i, mi_n_tokens(fork, i), read);
        for (int site = 0; site < MI_N_SITES; site++)
            for (int layer = 0; layer < layers_of(w, site); layer++)
                for (int t = 0; t <= read; t++) {
                    const char *name = mi_site_info(site)->name;
                    int half = half_of(w, site, layer), out = t >= read;
                    out |= t >= t0 && t < read - 1 && half >= 2 * L - 2 && half >= fork_half
                           && site != MI_k && site != MI_v;
                    if (!out) {
                        const char *why = same_address(w, lane_of(fork, i), trunk(passes[i]), site,
                                                       layer, t);
                        if (why) return because("lane %d, read %d: %s", i, read, why);
                        continue;
                    }
                    if (mi_site(fork, i, (MiSite)site, layer, t))
                        return because("lane %d, read %d: %s of layer %d, pos %d was left out, and "
                                       "can be read", i, read, name, layer, t);
                    if (t < read && !strstr(message(), name))
                        return because("lane %d, read %d: reading %s of pos %d says only \"%s\"", i,
                                       read, name, t, message());
                }
        float logits[1];
        int row = 0, before = read - 2;
        if (before >= t0 && mi_logits_of(fork, i, before, &row, 1, logits) >= 0)
            return because("lane %d, read %d: logits of pos %d were left out, and can be read", i,
                           read, before);
        TRY(same_logits(w, lane_of(fork, i), trunk(passes[i]), read - 1));
    }
    return NULL;
}

/* What is wrong in one cell is an error of the sweep, not a number. */
static const char *a_bad_cell_is_an_error(World *w)
{
    static Cells cells;
    static double values[MAX_CELLS];
    MiEdits good = {0}, bad = {0};
    add_edit(w, &good, random_edit(w, MI_z, w->T));
    MiEdit e = {.op = MI_SET, .site = MI_resid_pre, .head = -1, .count = w->s.d_model, .pos_end = 1};
    switch (below(w, 4)) {
    case 0: e.layer = w->s.n_layer; break;
    case 1: e.count++; break;
    case 2: e.from = MI_FROM_SOURCE; break;             /* not bound yet */
    default: e.op = MI_ADD;                             /* adds nothing at all */
    }
    add_edit(w, &bad, e);
    cells = (Cells){0};
    add_cell(w, &cells, &good);
    add_cell(w, &cells, &bad);
    Meter meter = random_meter(w, w->T - 1, 0);
    const char *why = sweep(&cells, w->base, w->T, &meter, values);
    return why ? NULL : because("mi_sweep takes a wrong edit: %s", told(&e));
}

static const struct { const char *name; const char *(*holds)(World *); } promises[] = {
    {"a cell == its edits alone", cell_is_its_edits_alone},
    {"patches of a shared prefix", patches_of_a_shared_prefix},
    {"cells that change nothing", cells_that_change_nothing},
    {"mixing infinity is a change", mixing_infinity_is_a_change},
    {"a held edit comes after the cell", held_edit_comes_after_the_cell},
    {"many cells in several forks", many_cells_in_several_forks},
    {"rows that are left out", left_out_rows_are_errors},
    {"a bad cell is an error", a_bad_cell_is_an_error},
};
enum { N_PROMISES = sizeof promises / sizeof *promises };

static uint64_t only_seed;

static void random_sweeps(World *w)
{
    static int failures[N_PROMISES];
    uint64_t first = only_seed ? only_seed : 101;
    for (uint64_t seed = first; seed < first + (only_seed ? 1 : N_CONFIGURATIONS); seed++) {
        doing("an unedited run of a random model: seed %d", (int)seed);
        if (open_world(w, seed)) {
            CHECK(0, "an unedited run of a random model: %s: %s", w->where, lost);
            close_world(w);
            return;
        }
        for (int i = 0; i < N_PROMISES; i++) {
            int seldom = promises[i].holds == many_cells_in_several_forks;
            if (failures[i] == 3 || (seldom && seed % 8 && !only_seed)) continue;
            begin(w, seed * 64 + (uint64_t)i);
            doing("sweep: %s: %s", promises[i].name, w->where);
            const char *why = promises[i].holds(w);
            failures[i] += why != NULL;
            CHECK(!why, "sweep: %s: %s: %s%s%s", promises[i].name, w->where, why ? why : "",
                  w->edits[0] ? "; edits:" : "", w->edits);
            free_from(w, 1);
        }
        close_world(w);
    }
}

static int body(void)
{
    static World w;
    setenv("TMPDIR", scratch, 1);               /* models go where a crash does not leave them */
    if (!only_seed) golden_tables(&w);
    random_sweeps(&w);
    return report();
}

int main(int argc, char **argv)
{
    if (argc > 1) only_seed = (uint64_t)atoi(argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return in_scratch(body);
}
