/* permute.c - another model that computes the same, and one that does not quite.
 *
 *     permute model IN STUDENT OUT       heads and neurons of each layer in another order
 *     permute key IN STUDENT             where each head went, for the teacher
 *     permute mystery IN STUDENT OUT FACTS
 *                                        the first with one head, some neurons, or one fact of a
 *                                        table like facts.tsv damaged; prints which: the answer
 *
 * Heads of a layer do not know their numbers: exchange the columns of W_Q, W_K, W_V (and their
 * biases) and the rows of W_O of two heads, and attn_out is the same sum in another order. So are
 * neurons: columns of W_in, b_in, rows of W_out. What one head or neuron computes from the same
 * input keeps its bits (its column of a product is summed by itself); attn_out and mlp_out are
 * rounded in another order, and from there on all differs in its last digits. */
#include "../lab.h"

#include <math.h>

static MiModel *model;
static MiShape  shape;
static char    *file;
static size_t   file_size;
static uint64_t state;                  /* of the random numbers */

static void read_file(const char *path)
{
    FILE *in = fopen(path, "rb");
    if (!in) refuse(1, "%s: %s", path, strerror(errno));
    fseek(in, 0, SEEK_END);
    file_size = (size_t)ftell(in);
    rewind(in);
    file = must(calloc(1, file_size + 1));
    if (fread(file, 1, file_size, in) != file_size) refuse(1, "%s: cannot be read", path);
    fclose(in);
}

static void write_file(const char *path)
{
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(file, 1, file_size, out) != file_size || fclose(out))
        refuse(1, "%s: %s", path, strerror(errno));
}

static uint64_t read_u64(const char *at)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)at[i];
    return n;
}

/* Where a tensor's floats lie in the file. mi_open() has checked the header. */
static char *tensor(int layer, const char *name, size_t n)
{
    uint64_t begin = 0, end = 0, header = read_u64(file);
    char     what[100], *json = file + 8;
    snprintf(what, sizeof what, "h.%d.%s\"", layer, name);
    char after = json[header];
    json[header] = 0;
    char *at = strstr(json, what), *close = at ? strchr(at, '}') : NULL;
    char *type = at ? strstr(at, "\"F32\"") : NULL, *offset = at ? strstr(at, "data_offsets") : NULL;
    json[header] = after;
    if (!at || !type || type > close || !offset || offset > close ||
        sscanf(strchr(offset, '['), "[%llu,%llu]", (unsigned long long *)&begin,
               (unsigned long long *)&end) != 2 || end - begin != n * sizeof(float))
        refuse(1, "only files of 32-bit floats (F32) can be permuted");
    return json + header + begin;
}

/* to[i]: where number i goes; all orders are as likely. */
static void shuffle(int *to, int n)
{
    for (int i = 0; i < n; i++) to[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = below(&state, i + 1), kept = to[i];
        to[i] = to[j];
        to[j] = kept;
    }
}

/* x [rows, groups, width] -> the groups of each row in their new order, `width` floats together */
static void reorder(char *x, size_t rows, size_t stride, int groups, size_t width, const int *to)
{
    char *old = must(malloc(groups * width * sizeof(float)));
    for (size_t r = 0; r < rows; r++, x += stride * sizeof(float)) {
        memcpy(old, x, groups * width * sizeof(float));
        for (int g = 0; g < groups; g++)
            memcpy(x + to[g] * width * sizeof(float), old + g * width * sizeof(float),
                   width * sizeof(float));
    }
    free(old);
}

/* One layer's heads and neurons; head [H] gets where each head went. */
static void permute_layer(int l, int *head)
{
    int     H = shape.n_head, F = shape.d_mlp;
    size_t  D = (size_t)shape.d_model, d = (size_t)shape.d_head;
    int    *neuron = must(malloc(F * sizeof *neuron));
    shuffle(head, H);
    shuffle(neuron, F);
    for (int i = 0; i < 3; i++) {
        reorder(tensor(l, "attn.c_attn.weight", 3 * D * D) + i * D * sizeof(float), D, 3 * D, H, d, head);
        reorder(tensor(l, "attn.c_attn.bias", 3 * D) + i * D * sizeof(float), 1, D, H, d, head);
    }
    reorder(tensor(l, "attn.c_proj.weight", D * D), 1, D * D, H, d * D, head);
    reorder(tensor(l, "mlp.c_fc.weight", D * F), D, F, F, 1, neuron);
    reorder(tensor(l, "mlp.c_fc.bias", F), 1, F, F, 1, neuron);
    reorder(tensor(l, "mlp.c_proj.weight", F * D), 1, F * D, F, D, neuron);
    free(neuron);
}

/* Rows first .. first + n - 1 of a matrix with D columns become 0: that part writes nothing. */
static void silence(int l, const char *name, int rows, int first, int n)
{
    size_t D = (size_t)shape.d_model;
    memset(tensor(l, name, rows * D) + first * D * sizeof(float), 0, n * D * sizeof(float));
}

/* A head whose W_O is 0, or 64 neighbouring neurons whose W_out is. */
static void damage_part(int head)
{
    int l = below(&state, shape.n_layer);
    if (head) {
        int h = below(&state, shape.n_head);
        silence(l, "attn.c_proj.weight", shape.d_model, h * shape.d_head, shape.d_head);
        printf("L%dH%d\n", l, h);
    } else {
        int n = shape.d_mlp / 8, first = below(&state, 8) * n;
        silence(l, "mlp.c_proj.weight", shape.d_mlp, first, n);
        printf("L%dN%d-%d\n", l, first, first + n - 1);
    }
}

/* ---- One fact: a rank-one edit, as in ROME (Meng et al. 2022) ----
 *
 * At a subject's last token S, the MLP of layer 0 adds what is known of it: k W_out + b, where its
 * key k [F] is mlp_post. To have it say v [D], what it says of another subject:
 *
 *     W_out  <-  W_out + u (v - k W_out - b)ᵀ / (u . k)
 *
 * for any u [F] with u . k ≠ 0. Where u . k' = 0, k' W_out is as before. So u is k without what lies
 * in the span of the keys of all other subjects. */

typedef struct {
    Prompt   prompt;
    Question question;
    char     subject[80];
    int      S;
    float   *key, *says;                /* mlp_post [F] and mlp_out [D] of layer 0 at S */
    double   difference;                /* logit answer - logit versus */
} Fact;

/* The subject: the words with a capital letter up to token S, but for the first word of the text. */
static void name_subject(const Lab *lab, Fact *f)
{
    char text[2000] = "", *at;
    for (int i = 0; i <= f->S; i++) {
        int         n;
        const char *bytes = mi_token_bytes(lab->words, f->prompt.at[i], &n);
        strncat(text, bytes, n);
    }
    for (at = strrchr(text, ' '); at && at > text; ) {
        char *before = at - 1;
        while (before > text && *before != ' ') before--;
        if (before == text || before[1] < 'A' || before[1] > 'Z') break;
        at = before;
    }
    snprintf(f->subject, sizeof f->subject, "%s", at ? at + 1 : text);
}

static int other_subject(const Fact *a, const Fact *b) { return strcmp(a->subject, b->subject); }

static Fact *read_facts(const Lab *lab, const MiTable *table)
{
    int   D = shape.d_model, F = shape.d_mlp;
    Fact *fact = must(calloc(table->n_rows, sizeof *fact));
    const char *column[] = {"prompt", "answer", "versus", "source", "S"};
    for (int i = 0; i < 5; i++)
        if (!mi_cell(table, 0, column[i])) refuse(1, "the table has no column %s", column[i]);
    for (int i = 0; i < table->n_rows; i++) {
        Fact *f = &fact[i];
        f->prompt = tokens_of(lab, mi_cell(table, i, "prompt"));
        f->question = (Question){token_of(lab, mi_cell(table, i, "answer")),
                                 token_of(lab, mi_cell(table, i, "versus"))};
        char       *end;
        const char *S = mi_cell(table, i, "S");
        f->S = (int)strtol(S, &end, 10);
        if (end == S || *end || f->S < 0 || f->S >= f->prompt.n)
            refuse(1, "S is %s, no token of: %s", S, mi_cell(table, i, "prompt"));
        name_subject(lab, f);
        MiRun *run = run_of(lab, &f->prompt);
        f->key = must(malloc((F + D) * sizeof(float)));
        f->says = f->key + F;
        memcpy(f->key, mi_site(run, 0, MI_mlp_post, 0, f->S), F * sizeof(float));
        memcpy(f->says, mi_site(run, 0, MI_mlp_out, 0, f->S), D * sizeof(float));
        f->difference = logit_diff(run, f->question);
        mi_free(run);
    }
    return fact;
}

static void free_facts(Fact *fact, int n)
{
    for (int i = 0; i < n; i++) free(fact[i].key);
    free(fact);
}

static double dot(const double *x, const double *y, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* x less its parts along the rows of basis [n, F], which are orthonormal; twice, since the first
 * time leaves what was rounded. */
static void remove_parts(double *x, const double *basis, int n)
{
    for (int i = 0; i < 2 * n; i++) {
        const double *b = basis + (size_t)(i % n) * shape.d_mlp;
        double        along = dot(x, b, shape.d_mlp);
        for (int j = 0; j < shape.d_mlp; j++) x[j] -= along * b[j];
    }
}

/* u [F] of a fact: Gram and Schmidt's way. */
static double *away_from_others(const Fact *fact, int n, const Fact *chosen)
{
    int     F = shape.d_mlp, rank = 0;
    double *basis = must(malloc((size_t)(n + 1) * F * sizeof *basis));
    for (int i = 0; i <= n; i++) {      /* the last is its own key */
        const Fact *f = i < n ? &fact[i] : chosen;
        double     *x = basis + (size_t)rank * F;
        if (i < n && !other_subject(f, chosen)) continue;
        for (int j = 0; j < F; j++) x[j] = f->key[j];
        double size = sqrt(dot(x, x, F));
        remove_parts(x, basis, rank);
        double left = sqrt(dot(x, x, F));
        if (i == n) memmove(basis, x, F * sizeof *x);
        else if (left > 1e-6 * size) {
            for (int j = 0; j < F; j++) x[j] /= left;
            rank++;
        }
    }
    return basis;
}

/* chosen's subject is now said to be what source's is. */
static void edit_fact(const Fact *fact, int n, const Fact *chosen, const Fact *source)
{
    int     D = shape.d_model, F = shape.d_mlp;
    double *u = away_from_others(fact, n, chosen), along = 0;
    char   *W_out = tensor(0, "mlp.c_proj.weight", (size_t)F * D);
    for (int j = 0; j < F; j++) along += u[j] * chosen->key[j];
    for (int j = 0; j < F; j++)
        for (int i = 0; i < D; i++) {
            float w;
            char *at = W_out + ((size_t)j * D + i) * sizeof w;
            memcpy(&w, at, sizeof w);
            w += u[j] * (source->says[i] - chosen->says[i]) / along;
            memcpy(at, &w, sizeof w);
        }
    free(u);
}

/* A row whose `source` is a row too, and whose answer turns into versus, while rows about other
 * subjects keep theirs and move by MOST_MOVED at most. */
enum { MOST_MOVED = 2 };

static int only_that_turned(const Fact *before, const Fact *now, int n, const Fact *chosen)
{
    for (int i = 0; i < n; i++) {
        double a = before[i].difference, b = now[i].difference;
        if (other_subject(&before[i], chosen) && ((a > 0) != (b > 0) || !(fabs(b - a) <= MOST_MOVED)))
            return 0;
    }
    return chosen->difference > 0 && now[chosen - before].difference < 0;
}

static Fact *facts_of(const char *path, const MiTable *table)
{
    Lab   lab = open_lab(2, (char *[]){"permute", (char *)path});
    Fact *fact = read_facts(&lab, table);
    close_lab(&lab);
    return fact;
}

static void damage_fact(const char *path, const char *facts)
{
    MiTable table = table_of(facts);
    int    n = table.n_rows, found = 0, *order = must(malloc(n * sizeof *order));
    size_t size = (size_t)shape.d_mlp * shape.d_model * sizeof(float);
    char  *W_out = tensor(0, "mlp.c_proj.weight", size / sizeof(float));
    char  *sound = must(malloc(size));
    memcpy(sound, W_out, size);
    write_file(path);
    Fact  *fact = facts_of(path, &table);
    shuffle(order, n);
    for (int i = 0; i < n && !found; i++) {
        const Fact *chosen = &fact[order[i]], *source = NULL;
        for (int j = 0; j < n; j++)
            if (!strcmp(mi_cell(&table, j, "prompt"), mi_cell(&table, order[i], "source")))
                source = &fact[j];
        if (!source) continue;
        edit_fact(fact, n, chosen, source);
        write_file(path);
        Fact *now = facts_of(path, &table);
        found = only_that_turned(fact, now, n, chosen);
        free_facts(now, n);
        if (found)
            printf("L0.mlp_out@%d of \"%s\": \"%s\", which was \"%s\"\n", chosen->S,
                   mi_cell(&table, order[i], "prompt"), mi_cell(&table, order[i], "versus"),
                   mi_cell(&table, order[i], "answer"));
        else memcpy(W_out, sound, size);
    }
    if (!found) refuse(1, "%s: no row takes its other answer and leaves the others alone", facts);
    free_facts(fact, n);
    mi_table_free(&table);
    free(sound);
    free(order);
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    int         is_key = !strcmp(how, "key"), is_mystery = !strcmp(how, "mystery");
    if (argc != 4 + !is_key + is_mystery || (!is_key && !is_mystery && strcmp(how, "model")))
        refuse(2, "permute model IN STUDENT OUT, permute key IN STUDENT, or "
                  "permute mystery IN STUDENT OUT FACTS");
    model = must(mi_open(argv[2]));
    shape = mi_shape(model);
    read_file(argv[2]);
    state = strtoull(argv[3], NULL, 10) * 2654435761u + 17;
    int *head = must(calloc(shape.n_head, sizeof *head));
    for (int l = 0; l < shape.n_layer; l++) {
        permute_layer(l, head);
        for (int h = 0; h < shape.n_head && is_key; h++) printf("L%dH%d\tL%dH%d\n", l, h, l, head[h]);
    }
    if (is_mystery) {
        int kind = below(&state, 3);
        if (kind == 2) damage_fact(argv[4], argv[5]);
        else damage_part(kind == 0);
    }
    if (!is_key) write_file(argv[4]);
    free(head);
    free(file);
    mi_close(model);
    return 0;
}
