/* mi.h - look inside a GPT-2 while it thinks. This header is the manual of the library.
 *
 *     cc -O3 -c -DMI_NO_MAIN mi.c              then link mi.o and -lm
 *
 * What does head 3 of layer 5 contribute? Run the model, run it again without the head, compare:
 *
 *     MiModel     *model = mi_open("tiny.safetensors");
 *     MiTokenizer *words = mi_tokenizer_open("tokenizer.bin", model);
 *     int tokens[64];
 *     int n = (int)mi_encode(words, "When Mary and John went to the store, John gave a drink to",
 *                            58, tokens, 64);
 *     MiRun  *base  = mi_run(model, tokens, n, NULL, NULL);             // all sites, all layers
 *
 *     MiEdits edits = {0};
 *     mi_edits_parse(&edits, model, words, tokens, n, "ablate", "L5H3");
 *     mi_edits_bind(&edits, base, NULL);
 *     MiLane  lane  = {.trunk = base, .edits = edits.at, .n_edits = edits.n, .t0 = -1};
 *     MiRun  *fork  = mi_fork(&lane, 1, -1, MI_KEEP_ALL);               // only what can change
 *
 *     float before[2], after[2];
 *     int   names[2] = {mi_row_of_id(words, 5335), mi_row_of_id(words, 1757)}; // " Mary", " John"
 *     mi_logits_of(base, 0, n - 1, names, 2, before);
 *     mi_logits_of(fork, 0, n - 1, names, 2, after);
 *     const float *pattern = mi_head(base, 0, MI_pattern, 5, 3, n - 1); // one weight per key
 *
 * Every function that can fail returns NULL or a negative number, and mi_error() says why.
 * A token is a row of the model's embedding; the tokenizer knows its GPT-2 id and its text.
 * Letters:  L layers  H heads  D d_model  d = D/H  F d_mlp (4D in GPT-2)  V vocabulary  T positions
 */
#ifndef MI_H
#define MI_H

#include <stddef.h>
#include <stdint.h>

#define MI_VERSION "0.1"

const char *mi_error(void);     /* why the last call of this thread failed: one line */

/* ---- The sites: every intermediate value of the forward pass has a name ----
 *
 * One row per position. BLOCK sites exist in each layer. "half" is the half-layer that computes
 * the site: half 2l is attention of layer l, half 2l+1 its MLP, half 2L the final LayerNorm.
 * Values and names are those of TransformerLens without weight processing. */

#define MI_SITES(X)                                                                              \
    /* name       width     place  half  TransformerLens name                                */ \
    X(embed,      D_MODEL,  ENTRY, 0, "hook_embed",               "row of wte")                  \
    X(pos_embed,  D_MODEL,  ENTRY, 0, "hook_pos_embed",           "row of wpe")                  \
    X(resid_pre,  D_MODEL,  BLOCK, 0, "blocks.%d.hook_resid_pre",                                \
      "embed + pos_embed, or resid_post of the layer below")                                     \
    X(ln1_scale,  ONE,      BLOCK, 0, "blocks.%d.ln1.hook_scale", "sigma of resid_pre")          \
    X(ln1,        D_MODEL,  BLOCK, 0, NULL, "(resid_pre - mean) / sigma * gamma + beta")         \
    X(q,          HEADS,    BLOCK, 0, "blocks.%d.attn.hook_q",    "ln1 W_Q + b_Q")               \
    X(k,          HEADS,    BLOCK, 0, "blocks.%d.attn.hook_k",    "ln1 W_K + b_K")               \
    X(v,          HEADS,    BLOCK, 0, "blocks.%d.attn.hook_v",    "ln1 W_V + b_V")               \
    X(scores,     KEYS,     BLOCK, 0, "blocks.%d.attn.hook_attn_scores", "q.k / sqrt(d)")        \
    X(pattern,    KEYS,     BLOCK, 0, "blocks.%d.attn.hook_pattern", "softmax of scores")        \
    X(z,          HEADS,    BLOCK, 0, "blocks.%d.attn.hook_z",    "sum over keys of pattern v")  \
    X(attn_out,   D_MODEL,  BLOCK, 0, "blocks.%d.hook_attn_out",  "z W_O + b_O")                 \
    X(resid_mid,  D_MODEL,  BLOCK, 1, "blocks.%d.hook_resid_mid", "resid_pre + attn_out")        \
    X(ln2_scale,  ONE,      BLOCK, 1, "blocks.%d.ln2.hook_scale", "sigma of resid_mid")          \
    X(ln2,        D_MODEL,  BLOCK, 1, NULL, "(resid_mid - mean) / sigma * gamma + beta")         \
    X(mlp_pre,    D_MLP,    BLOCK, 1, "blocks.%d.mlp.hook_pre",   "ln2 W_in + b_in")             \
    X(mlp_post,   D_MLP,    BLOCK, 1, "blocks.%d.mlp.hook_post",  "GELU of mlp_pre")             \
    X(mlp_out,    D_MODEL,  BLOCK, 1, "blocks.%d.hook_mlp_out",   "mlp_post W_out + b_out")      \
    X(resid_post, D_MODEL,  BLOCK, 1, "blocks.%d.hook_resid_post", "resid_mid + mlp_out")        \
    X(ln_f_scale, ONE,      FINAL, 0, "ln_final.hook_scale", "sigma of the last resid_post")     \
    X(ln_f,       D_MODEL,  FINAL, 0, NULL, "input of the unembedding")

typedef enum {
#define X(name, width, place, half, tl, what) MI_##name,
    MI_SITES(X)
#undef X
    MI_N_SITES
} MiSite;

/* The width of a row. HEADS is D seen as [H, d]. KEYS is [H, keys]: read it with mi_head(); of
 * each head's row only the keys up to the query exist. */
typedef enum { MI_ONE, MI_D_MODEL, MI_HEADS, MI_D_MLP, MI_KEYS } MiWidth;
typedef enum { MI_ENTRY, MI_BLOCK, MI_FINAL } MiPlace;

typedef struct {
    const char *name;
    MiWidth     width;
    MiPlace     place;
    int         half;           /* 0 attention, 1 MLP */
    const char *tl_name;        /* NULL: TransformerLens has no such hook */
    const char *what;           /* its formula */
} MiSiteInfo;

const MiSiteInfo *mi_site_info(int site);

typedef char MiLabel[64];           /* a name in a table */

/* ---- The model: weights, read-only, shared by any number of runs ---- */

typedef struct MiModel MiModel;
typedef struct MiRun   MiRun;       /* the activations: see below */
typedef struct {
    int   n_layer, n_head, d_model, d_head, d_mlp, n_ctx, n_vocab;
    float epsilon;              /* of every LayerNorm */
} MiShape;

/* The tensors of the file: field of mi.c's structs, name, shape. In shapes D, F and V are as
 * above, A is 3D (queries, keys and values side by side), N the context. Those of a block follow
 * "h.0.", "h.1." ... */
#define MI_MODEL_TENSORS(X)                                                                      \
    X(wte,        "wte.weight",  "VD")                                                           \
    X(wpe,        "wpe.weight",  "ND")                                                           \
    X(ln_f_gamma, "ln_f.weight", "D")                                                            \
    X(ln_f_beta,  "ln_f.bias",   "D")
#define MI_BLOCK_TENSORS(X)                                                                      \
    X(ln1_gamma,  "ln_1.weight",        "D")                                                     \
    X(ln1_beta,   "ln_1.bias",          "D")                                                     \
    X(W_QKV,      "attn.c_attn.weight", "DA")                                                    \
    X(b_QKV,      "attn.c_attn.bias",   "A")                                                     \
    X(W_O,        "attn.c_proj.weight", "DD")                                                    \
    X(b_O,        "attn.c_proj.bias",   "D")                                                     \
    X(ln2_gamma,  "ln_2.weight",        "D")                                                     \
    X(ln2_beta,   "ln_2.bias",          "D")                                                     \
    X(W_in,       "mlp.c_fc.weight",    "DF")                                                    \
    X(b_in,       "mlp.c_fc.bias",      "F")                                                     \
    X(W_out,      "mlp.c_proj.weight",  "FD")                                                    \
    X(b_out,      "mlp.c_proj.bias",    "D")

/* A weight as it lies in the file. The published GPT-2 has its tensors at odd addresses: this type
 * tells the compiler so, and w[i] is read like any float. Code that takes float * takes a copy:
 * memcpy(x, w + i * cols, cols * sizeof *x). */
typedef float MiWeight __attribute__((aligned(1), may_alias));

/* A GPT-2 .safetensors file, or the folder with its model.safetensors. What the config.json beside
 * it says is computed, or the file is refused with the name of the setting. */
MiModel *mi_open(const char *path);

typedef struct {
    int n_head;                 /* 0: the file or config.json says it, or the shape is OpenAI's */
} MiOpen;
MiModel *mi_open_with(const char *path, const MiOpen *options);
void     mi_close(MiModel *model);
MiShape  mi_shape(const MiModel *model);

/* A weight by its field in the tables above, "W_QKV", or "W_U" [V,D], which is wte unless the file
 * has another: w[i * cols + j], i < rows, j < cols, for as long as the model is open; vectors have
 * one row. Of F16 and BF16 files it is the converted value, the one that the runs use. layer: 0
 * outside the blocks. NULL if there is no such weight or layer. */
const MiWeight *mi_weight(const MiModel *model, const char *name, int layer, int *rows, int *cols);

/* ---- Files of other tools ----
 *
 * They may come from anyone: sizes, shapes and syntax are checked before the first value is given
 * out. -1: mi_error() says what is wrong, and nothing is left open. */

typedef struct {
    const char     *name, *dtype;       /* the type as the file says it, "F32" */
    int             n_dims;
    int64_t         shape[8];
    const MiWeight *value;              /* row by row; NULL unless F32, or converted F16 or BF16 */
} MiTensor;

typedef struct MiFile MiFile;
typedef struct {                /* any .safetensors: its tensors, sorted by name */
    MiTensor *at;
    int       n;
    MiFile   *file;
} MiTensors;

int  mi_tensors_open(MiTensors *tensors, const char *path);
void mi_tensors_close(MiTensors *tensors);

typedef struct {
    int         parent;         /* the object or list that it is in; -1: it is the whole text */
    char        type;           /* { object, [ list, " string, 0 number, t true, f false, n null */
    const char *key;            /* in an object; else NULL */
    const char *text;           /* of a string */
    double      number;         /* of a number */
} MiValue;

typedef struct {                /* a JSON text: its values in their order, at[0] the whole */
    MiValue *at;
    int      n;
    char    *text;              /* in which keys and strings lie */
} MiJson;

int  mi_json_read(MiJson *json, const char *path);
void mi_json_free(MiJson *json);

typedef struct {                /* a table as --data reads it, .tsv or .csv: a header, then rows */
    const char *file;           /* the path that was given; borrowed */
    int         n_rows, n_cols;
    char      **header, **cells;        /* [n_cols], [n_rows,n_cols]: at row r, r * n_cols on */
    char       *text;           /* in which they lie */
} MiTable;

int         mi_table_read(MiTable *table, const char *path);
const char *mi_cell(const MiTable *table, int row, const char *column); /* NULL: no such column */
void        mi_table_free(MiTable *table);

/* ---- Tokens ---- */

typedef struct MiTokenizer MiTokenizer;

MiTokenizer *mi_tokenizer_open(const char *path, const MiModel *model);   /* model's vocabulary */
void         mi_tokenizer_close(MiTokenizer *tokenizer);

/* Does it know the text of this model's tokens? It does where the model has vocab_ids, or as many
 * tokens as GPT-2 (50257, or up to 50304 with rows that stand for nothing), or "vocab": "gpt2" in
 * its __metadata__. Of another vocabulary it knows nothing: mi_encode() fails, tokens have no
 * bytes, and ids are rows. */
int          mi_has_text(const MiTokenizer *tokenizer);

/* Any bytes -> tokens. Returns how many there are, also when that is more than cap. */
int64_t      mi_encode(const MiTokenizer *tokenizer, const char *text, size_t n, int *tokens,
                       int64_t cap);
const char  *mi_token_bytes(const MiTokenizer *tokenizer, int token, int *n);
/* A token as people can read it, "·Mary": its space is a dot, what nobody could see is spelt out.
 * Returns label. */
const char  *mi_token_label(const MiTokenizer *tokenizer, int token, char *label, size_t size);
int          mi_row_of_id(const MiTokenizer *tokenizer, int gpt2_id);     /* -1: not in the model */
int          mi_id_of_row(const MiTokenizer *tokenizer, int token);

/* ---- Edits: one row of the table that hook() applies after each site ----
 *
 * An edit may use the old value of its own row, constants fixed before the run, and
 * (seed, sample, address): nothing else (but see MI_CALL). Forks and their bit-for-bit promises
 * rest on that. */

typedef enum {
    MI_SET,         /* x <- v                     v: `value`, or the constant `amount` if NULL */
    MI_MIX,         /* x <- x + amount (v - x); only the part in the span of `basis`, if any    */
    MI_ADD,         /* x <- x + amount v                                                       */
    MI_SCALE,       /* x <- amount x                                                           */
    MI_PROJECT,     /* x <- x - (x.v) v           v has norm 1                                 */
    MI_NOISE,       /* x <- x + amount g          g standard normal, keyed by the address      */
    MI_CALL         /* x <- whatever `call` makes of it                                        */
} MiOp;

typedef enum {      /* where mi_edits_bind() takes `value` from */
    MI_FROM_VALUE,  /* it is there already (or the op needs none) */
    MI_FROM_TLZERO, MI_FROM_MEAN, MI_FROM_BASE, MI_FROM_SOURCE,
    MI_FROM_CALLER  /* it does not: a direction or an array that the caller has to set */
} MiFrom;

typedef struct MiEdit MiEdit;

/* The function of an MI_CALL. x [n]: the columns of the edit in one row, in with their old values
 * (after the edits before this one; of scores and pattern the keys up to the query, and no call if
 * there are none), out with what is to stand there. view: which row of which lane of which run;
 * edit is its edit. 0, or -1: the call that computes the run fails, with what mi_look() said, if
 * that failed.
 *
 * It has to be pure: for the same x, position, context and what mi_look() shows, the same bits, and
 * nothing else may come in: no counters, no other lanes. Rows and lanes come in any order, some
 * never (what cannot change what is read is not computed), some more than once. It is called by the
 * thread that computes the run; runs in several threads call it in each of them. */
typedef struct {
    const MiRun  *run;
    int           lane, pos;
    const MiEdit *edit;
} MiView;
typedef int MiCall(void *context, const MiView *view, float *x, int n);

/* What is finished when a row is edited, edits included: sites of its own lane that stand before
 * its site in the order of a pass (that of MI_SITES, layer by layer), at positions up to its own,
 * if its `sees` has them: then its runs keep them, and a trunk must have kept them before it can be
 * forked with it. A whole row, or of q, k, v, z, scores and pattern one head (-1: the whole row);
 * NULL for anything else. */
const float *mi_look(const MiView *view, MiSite site, int layer, int head, int pos);

struct MiEdit {
    MiOp         op;
    MiSite       site;
    int          layer;         /* 0 for ENTRY and FINAL sites */
    int          head;          /* scores and pattern: the head; elsewhere -1 or 0: see `first` */
    int          first, count;  /* columns of the row; for scores and pattern: keys */
    int          pos, pos_end;  /* rows pos <= t < pos_end (scores and pattern: queries) */
    float        amount;
    const float *value;         /* of row t: value + (t - pos) * value_stride; borrowed */
    size_t       value_stride;  /* 0: the same for every row */
    uint64_t     seed, sample;  /* MI_NOISE */
    int          order;         /* edits of one site apply in this order, then as listed */
    MiFrom       from;
    const float *basis;         /* MI_MIX: [rank,count] orthonormal rows, or NULL; borrowed */
    int          rank;
    MiCall      *call;          /* MI_CALL */
    void        *context;       /* the first thing that it is given */
    uint64_t     sees;          /* MI_KEEP(resid_pre) | ...: what it looks at; 0: x alone */
};

typedef struct {                /* a list of edits, and the constants they use */
    MiEdit *at;
    int     n;
    float **constants;
    int     n_constants;
} MiEdits;

/* Add the edits that "--OP ARGUMENT" of the command line means, e.g. ("ablate", "L5H3@-1=mean"),
 * for a prompt of n tokens; "file:NAME" in it stands for the addresses in a file, which is read
 * now. OP: ablate patch freeze scale knockout noise steer project set. The values are still open;
 * those of the last three are the caller's to set. */
int  mi_edits_parse(MiEdits *edits, const MiModel *model, const MiTokenizer *tokenizer,
                    const int *tokens, int n, const char *op, const char *argument);
/* Fill in the values: means and frozen values from base, patches from source (unedited runs). */
int  mi_edits_bind(MiEdits *edits, const MiRun *base, const MiRun *source);
void mi_edits_free(MiEdits *edits);

/* ---- Runs: the activations of one prompt (a trunk), or of many edited cones (a fork) ---- */

/* Which sites of the blocks are kept for all layers, and so can be read after the run: a set of
 * bits. Of the others there is one layer at a time. */
#define MI_KEEP(site)  ((uint64_t)1 << (MI_##site))
#define MI_KEEP_NONE   ((uint64_t)1 << 63)     /* no site: the empty set, since 0 means all */
#define MI_KEEP_CACHE  ((uint64_t)1 << 62)     /* k and v: a run can grow, but not be forked */
#define MI_KEEP_ALL    (MI_KEEP_CACHE - 1)

typedef struct {
    uint64_t keep;      /* MI_KEEP(z) | ...; 0 means MI_KEEP_ALL. A trunk always keeps k, v,
                         * resid_pre, attn_out and resid_post too, which its forks read; with
                         * MI_KEEP_CACHE only k and v. Sites outside the blocks (embed, ln_f ...)
                         * are always there */
    int      capacity;  /* the most positions this run can grow to; 0: as many as tokens */
    int      threads;   /* 0: as many as the machine has */
    int      naive;     /* 1: the kernels to read instead of the fast ones; the bits are equal */
} MiOptions;

/* A trunk: all layers of all positions. edits may be NULL. The list of edits and their values
 * must outlive the run (and its forks, which apply them too), the run its forks, the model both. */
MiRun *mi_run(const MiModel *model, const int *tokens, int n, const MiEdits *edits,
              const MiOptions *options);
int    mi_append(MiRun *trunk, const int *tokens, int n);   /* grow by n tokens: decoding */
int    mi_forward(MiRun *run, int from, int to);            /* compute rows from <= r < to */
void   mi_free(MiRun *run);

/* A lane is one experiment: the trunk's run with further edits, recomputed from position t0 on.
 * It inherits the trunk's edits. Lanes of a fork may have different trunks and lengths. The trunk,
 * the edits and their values must outlive the fork; the array of lanes need not. */
typedef struct {
    const MiRun  *trunk;        /* a run of mi_run(), not a fork */
    const MiEdit *edits;
    int           n_edits;
    int           t0;           /* -1: the lowest row that the edits touch */
    int           read;         /* 0, or how many positions to compute: then only the last of them
                                 * is read, and the last layer leaves the others out */
} MiLane;

/* Recompute the light cones of all lanes, from half-layer `half` up (-1: the lowest edited). keep
 * as in MiOptions: 0 means MI_KEEP_ALL, MI_KEEP_NONE is enough for logits. */
MiRun *mi_fork(const MiLane *lanes, int n_lanes, int half, uint64_t keep);

/* Reading. A lane reads like a whole run: what its cone leaves out comes from its trunk.
 * A trunk has one lane, 0. mi_site() is a whole row; mi_head() is the part of one head: d floats
 * of q, k, v, z, or the weights of keys 0..pos of scores and pattern. NULL if not kept. */
int          mi_n_tokens(const MiRun *run, int lane);
int          mi_token(const MiRun *run, int lane, int pos);
const float *mi_site(const MiRun *run, int lane, MiSite site, int layer, int pos);
const float *mi_head(const MiRun *run, int lane, MiSite site, int layer, int head, int pos);
int          mi_logits(const MiRun *run, int lane, int pos, float *logits /* [V] */);
int          mi_logits_of(const MiRun *run, int lane, int pos, const int *tokens, int n,
                          float *logits /* [n] */);
/* Of positions from <= t < to, the same bits: W_U is read once for all of them. */
int          mi_logits_all(const MiRun *run, int lane, int from, int to,
                           float *logits /* [to-from,V] */);
/* Of n >= 1 positions of any runs of one model, likewise. */
typedef struct { const MiRun *run; int lane, pos; } MiPosition;
int          mi_logits_at(const MiPosition *positions, int n, float *logits /* [n,V] */);

/* Where numbers end: the first value of a lane, in the order of a whole pass (site after site, and
 * in each the lowest position), that is infinite or not a number. A score of -infinity is a key cut
 * off, and is none. 1: here; 0: all sites are numbers (logits may still be too large). The lane is
 * computed once more, whatever was kept. */
int          mi_first_nonfinite(const MiRun *run, int lane, MiSite *site, int *layer, int *pos);

/* The logit lens: what the model would say if the residual stream ended here. */
int          mi_lens(const MiRun *run, int lane, MiSite site, int layer, int pos, int final,
                     float *logits /* [V] */);
int          mi_lens_all(const MiRun *run, int lane, MiSite site, int layer, int from, int to,
                         int final, float *logits /* [to-from,V] */);

/* Writers: the residual stream at its end, resid_post of the last layer, is the sum of what each
 * writer added, x [D]. In this order: embed, pos_embed; of each layer its H heads, the biases, the
 * MLP; then for each sum of the stream (resid_pre, attn_out, resid_mid, resid_post) that an edit of
 * the lane changes, what it left there less what would have been. A head's part is z_h W_O without
 * the constant (b_V + beta W_V) W_O, which joins b_O in the biases, as in TransformerLens. -1 if a
 * site was not kept: z, mlp_out, and of edited sums their parts. */
int          mi_n_writers(const MiRun *run, int lane);
int          mi_writer(const MiRun *run, int lane, int writer, int pos, double *x /* [D] */,
                       MiLabel name);

/* ---- Gradients ----
 *
 * The gradient of a metric, a number that the logits of position pos of a lane give, at every
 * number of every site: d metric / d x, in a run of its own with one lane, 0, to be read with
 * mi_site() and mi_head() under the same names, in the same shapes; it has no logits, lens or
 * writers, and does not fork or grow. dlogits [V]: the metric's gradient at the logits; for
 * logit a - logit b it is 1 at a, -1 at b, else 0. keep as in mi_fork().
 *
 * x is what the readers of the site read, so its value after the lane's edits; all its readers
 * count, all later sites follow. Edits are constants: what one sets has no gradient below it. At
 * ln1_scale and the like it is that of sigma as the divisor; at resid_pre and the like it includes
 * the way through mean and sigma. Positions after pos have gradient 0. Where values are not numbers
 * gradients are not either.
 *
 * NULL if the lane has no such position, or if the run did not keep what is read again: resid_pre,
 * ln1_scale, q, k, v, scores, pattern, resid_mid, ln2_scale and mlp_pre, at all positions up to pos
 * (mi_error() names the first that is missing). run and edits need not outlive the gradient. */
MiRun *mi_gradient(const MiRun *run, int lane, int pos, const float *dlogits /* [V] */,
                   uint64_t keep);

/* The same of any number that the end of the stream gives, resid_post of the last layer at
 * positions 0 .. n-1: dresid is its gradient there. Nothing above is asked: ln_f and its scale have
 * none. */
MiRun *mi_gradient_of_stream(const MiRun *run, int lane, int n, const float *dresid /* [n,D] */,
                             uint64_t keep);

/* ---- Sweeps: one run per cell, all cells of a fork together ---- */

typedef struct {
    const MiRun  *trunk;        /* the run with all edits that hold in every cell */
    const MiEdit *edits;        /* cell i's own: edits[first[i]] .. edits[first[i + 1] - 1] */
    const int    *first;        /* [n_cells + 1] */
    int           n_cells;
    int           read;         /* as in MiLane: how many positions; the last is read. 0: all.
                                 * A cell whose edits all come after it changes nothing */
    double      (*metric)(void *context, const MiRun *run, int lane);   /* of the trunk, then of
                                 * each fork's lanes in their order. NAN after a call that failed
                                 * ends the sweep with that call's mi_error() */
    void        (*progress)(void *context, int done, int n);    /* or NULL */
    void         *context;
} MiSweep;

int mi_sweep(const MiSweep *sweep, double *values /* [n_cells] */);

/* The cells that "--OP ARGUMENT --each" of the command line sweeps, e.g. ("ablate", "heads"), as a
 * table: a list is one column, else the last part that was written with several values is the
 * columns. Their values are still open: mi_edits_bind(&cells.edits, base, source). */
typedef struct {
    MiEdits  edits;             /* cell i's: first[i] .. first[i + 1] - 1; none: there is no cell */
    int     *first;             /* [n_rows n_cols + 1] */
    int      n_rows, n_cols;
    MiLabel *row, *col;         /* "L5", "H3", "12 ·John" */
    MiLabel *address;           /* [n_rows,n_cols] what to type to get at a cell: "L5H3@12" */
    MiLabel  row_axis, col_axis;
} MiCells;

int  mi_cells_parse(MiCells *cells, const MiModel *model, const MiTokenizer *tokenizer,
                    const int *tokens, int n, const char *op, const char *argument);
void mi_cells_free(MiCells *cells);

/* ---- Paths: what comes from one part to another by the residual stream alone ----
 *
 * (Wang et al. 2022.) First the senders' run: base's prompt with the senders' edits (their values
 * still open: they are bound to source, e.g. {.op = MI_SET, .from = MI_FROM_SOURCE, .site = MI_z}),
 * the queries, keys and values of all heads held at base's own, and with freeze_mlps the MLPs'
 * outputs too. base must have kept q, k, v and mlp_out. Then what a reader reads there, at
 * positions 0 .. n-1, becomes an edit for base: reader says which, its site q, k or v (with the
 * head's columns), ln2 (an MLP) or ln_f (the logits), its layer and positions (none before n: no
 * edit). One sender and one reader, MLPs frozen: an edge. */
MiRun *mi_senders(const MiRun *base, const MiRun *source, const MiEdit *senders, int n,
                  int freeze_mlps);
int    mi_receiver(const MiRun *senders, int n, MiEdit reader, MiEdits *edits);

/* What a reader makes of any stream x [D]: out [count] <- its LayerNorm; of q, k and v that times
 * its columns of W, plus b. The bits are those of a run. Of reader its site, layer and columns are
 * taken, of ln2 and ln_f the whole row: so in an MI_CALL one reader alone can read something else.
 */
int    mi_reader(const MiRun *run, const MiEdit *reader, const float *x, float *out);

/* The same to first order, for all readers at once: dx [D] <- the gradient of what a reader reads
 * of the stream at a position, through its own LayerNorm and for q, k and v its own head. gradient
 * is that of the run's lane, and kept the reader's site. All readers above one place of the stream
 * add up to the gradient there; times what a writer would change, it is the score of an edge (EAP,
 * Syed et al. 2023). -1 where an edit stands between the stream and the reader. */
int    mi_reader_gradient(const MiRun *run, int lane, const MiRun *gradient, const MiEdit *reader,
                          int pos, float *dx);

/* ---- Means over many prompts ----
 *
 * Prompts of one group (made from one template, say) are not independent: errors are those of sums
 * over groups. group [n] has each row's, 0 1 2 ..., -1: the row is left out. */

typedef struct {
    double mean, error;         /* error: its standard error; NAN with less than 2 groups */
    int    n, n_groups;         /* rows, and groups of them, that it is taken over */
    double critical;            /* mean +- critical error is right 95 times in 100 (Student) */
} MiEstimate;

int *mi_groups(const char *const *name, int n, int *n_groups);      /* equal names; to be freed */
int  mi_mean(const double *v, size_t stride, const int *group, int n, MiEstimate *mean);
int  mi_ratio(const double *a, size_t a_stride, const double *b, size_t b_stride, const int *group,
              int n, MiEstimate *ratio);                            /* sum of a / sum of b */

/* ---- Numbers about logits ---- */

/* The k highest, ties to the lowest index; what is not a number comes after all numbers. Returns
 * how many there are, k or n. */
int    mi_top(const float *logits, int n, int k, int *top);
double mi_log_sum_exp(const float *logits, int n);  /* log probability = logit - this; NaN of NaN */

#endif
