/* test_memory.c - each allocation of the library fails once: the call ends with an error that says
 * so, or gives the same bits as ever; nothing crashes and nothing is left behind.
 *
 * It includes mi.c, whose malloc and kin are those below. */
#define malloc   failing_malloc
#define calloc   failing_calloc
#define realloc  failing_realloc
#define free     counting_free
#define mmap     failing_mmap
#define munmap   counting_munmap
#define realpath failing_realpath
#include "../mi.c"
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef mmap
#undef munmap
#undef realpath

void *malloc(size_t), *calloc(size_t, size_t), *realloc(void *, size_t);
void  free(void *);
void *mmap(void *, size_t, int, int, int, off_t);
int   munmap(void *, size_t);
char *realpath(const char *, char *);

static long allocations, failing = -1, alive;

static int fails(void)
{
    if (allocations++ != failing) return 0;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *at)
{
    alive += at != NULL;
    return at;
}

void *failing_malloc(size_t n)
{
    return fails() ? NULL : counted(malloc(n));
}

void *failing_calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(calloc(n, size));
}

void *failing_realloc(void *at, size_t n)
{
    if (fails()) return NULL;
    alive += !at;
    return realloc(at, n);
}

void counting_free(void *at)
{
    alive -= at != NULL;
    free(at);
}

void *failing_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset)
{
    return fails() ? MAP_FAILED : counted(mmap(at, n, protection, flags, file, offset));
}

int counting_munmap(void *at, size_t n)
{
    alive--;
    return munmap(at, n);
}

char *failing_realpath(const char *path, char *resolved)
{
    return fails() ? NULL : counted(realpath(path, resolved));
}

#include "check.h"

#define MODEL "tests/golden/beside5/model.safetensors"
enum { T = 6, V = 61 };
static const int tokens[T] = {5, 17, 0, 60, 9, 9};
static const char *step;            /* what was tried last */

static double meter(void *context, const MiRun *run, int lane)
{
    float logit;
    int   token = *(int *)context;
    return mi_logits_of(run, lane, T - 1, &token, 1, &logit) < 0 ? NAN : (double)logit;
}

static MiModel     *model;
static MiTokenizer *words;
static MiRun       *base, *grown, *fork_;
static MiEdits      edits;

#define TRY(name, ok)       \
    do {                    \
        step = name;        \
        if (!(ok)) return -1; \
    } while (0)

/* All that allocates, once; what comes out is put into out [V + 4]. -1: a call failed. */
static int session(float *out)
{
    int64_t n = 0;
    int     row[40], token = 3, first[3] = {0, 1, 2}, layer, pos;
    double  values[2];
    MiSite  site;
    TRY("mi_open", model = mi_open(MODEL));
    TRY("mi_tokenizer_open", words = mi_tokenizer_open("tokenizer.bin", NULL));
    TRY("mi_encode", (n = mi_encode(words, "Hello, supercalifragilistic world", 33, row, 40)) > 0);
    TRY("mi_run", base = mi_run(model, tokens, T, NULL, NULL));
    TRY("mi_edits_parse", mi_edits_parse(&edits, model, NULL, tokens, T, "ablate", "L0H1") >= 0);
    TRY("mi_edits_parse", mi_edits_parse(&edits, model, NULL, tokens, T, "ablate",
                                         "not:L0H1@3=mean") >= 0);
    TRY("mi_edits_bind", mi_edits_bind(&edits, base, NULL) >= 0);
    MiOptions options = {.capacity = T, .keep = MI_KEEP_CACHE};
    TRY("mi_run", grown = mi_run(model, tokens, T - 1, &edits, &options));
    TRY("mi_append", mi_append(grown, tokens + T - 1, 1) >= 0);
    MiLane lane = {.trunk = base, .edits = edits.at, .n_edits = edits.n, .t0 = -1};
    TRY("mi_fork", fork_ = mi_fork(&lane, 1, -1, MI_KEEP_ALL));
    TRY("mi_logits", mi_logits(fork_, 0, T - 1, out) >= 0);
    TRY("mi_lens", mi_lens(fork_, 0, MI_resid_mid, 1, T - 1, 0, out) >= 0);
    TRY("mi_logits", mi_logits(grown, 0, T - 1, out) >= 0);
    TRY("mi_first_nonfinite", mi_first_nonfinite(fork_, 0, &site, &layer, &pos) == 0);
    MiSweep sweep = {.trunk = base, .edits = edits.at, .first = first, .n_cells = 2, .read = T,
                     .metric = meter, .context = &token};
    TRY("mi_sweep", mi_sweep(&sweep, values) >= 0);
    out[V] = (float)n, out[V + 1] = (float)values[0], out[V + 2] = (float)values[1];
    return 0;
}

static void clean_up(void)
{
    mi_free(fork_), mi_free(grown), mi_free(base);
    mi_edits_free(&edits);
    mi_tokenizer_close(words);
    mi_close(model);
    fork_ = grown = base = NULL, words = NULL, model = NULL;
    edits = (MiEdits){0};
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    float expected[V + 4] = {0}, got[V + 4];
    CHECK(session(expected) == 0, "%s: %s", step, mi_error());
    clean_up();
    long n = allocations, same = 0;
    CHECK(alive == 0, "a session leaves %ld allocations", alive);
    for (failing = 0; failing < n; failing++) {
        allocations = alive = 0;
        error_text[0] = 0;
        memset(got, 0, sizeof got);
        int status = session(got);
        if (status == 0)
            CHECK(!memcmp(got, expected, sizeof got), "allocation %ld fails: other numbers",
                  failing);
        else
            CHECK(strstr(mi_error(), "memory"), "allocation %ld fails in %s: \"%s\"", failing, step,
                  mi_error());
        same += status == 0;
        clean_up();
        CHECK(alive == 0, "allocation %ld fails in %s: %ld are left", failing, step, alive);
    }
    CHECK(n > 40 && same <= 1, "%ld of %ld allocations are not missed", same, n);
    return report();
}
