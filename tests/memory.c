/* memory.c - the program when memory ends, at every place where it can. Used by memory.sh.
 *
 *     cc -shared -fPIC -DPRELOAD memory.c -o fail.so -ldl     allocations that fail, for LD_PRELOAD
 *     cc memory.c -o memory; memory PROGRAM FAIL.SO           runs command lines under it
 *
 * For each command line: allocation number N fails, alone (a large one, say) and with all after it
 * (memory has ended), for N = 1, 2, ... up to the last. Then the program gives status 1, nothing on
 * stdout, one line that says so on stderr, and no file; or, where it can do without, exactly what
 * it gives when nothing fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef PRELOAD

/* FAIL_AT=N: the Nth allocation fails, and all after it if FAIL_ALL is set. FAIL_COUNT=FILE: how
 * many there were. Those of the OpenMP library are left alone: it ends the program by itself. */
static long at = -1, count;
static int  all, counting;
static void *(*next_malloc)(size_t), *(*next_calloc)(size_t, size_t), *(*next_realloc)(void *, size_t);
static void *(*next_mmap)(void *, size_t, int, int, int, off_t);
static char early[65536];       /* what dlsym itself needs before it has found anything */
static size_t used;

static void *early_memory(size_t n)
{
    void *memory = early + used;
    used += (n + 15) / 16 * 16;
    return used > sizeof early ? NULL : memory;
}

static void find_next(void)
{
    static int finding;
    if (finding++) return;
    next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    next_calloc = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    next_realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
    next_mmap = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
}

static int fails(void *caller)
{
    Dl_info info;
    if (!counting) return 0;
    if (dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "omp.so")) return 0;
    count++;
    if (count != at && !(all && at > 0 && count > at)) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n)
{
    if (!next_malloc) find_next();
    if (!next_malloc) return early_memory(n);
    return fails(__builtin_return_address(0)) ? NULL : next_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (!next_calloc) find_next();
    if (!next_calloc) return early_memory(n * size);
    return fails(__builtin_return_address(0)) ? NULL : next_calloc(n, size);
}

void *realloc(void *old, size_t n)
{
    if (!next_realloc) find_next();
    return fails(__builtin_return_address(0)) ? NULL : next_realloc(old, n);
}

void *mmap(void *where, size_t n, int protection, int flags, int file, off_t offset)
{
    if (!next_mmap) find_next();
    return fails(__builtin_return_address(0)) ? MAP_FAILED
         : next_mmap(where, n, protection, flags, file, offset);
}

__attribute__((constructor))
static void start(void)
{
    const char *number = getenv("FAIL_AT");
    at = number ? atol(number) : -1;
    all = getenv("FAIL_ALL") != NULL;
    counting = 1;
}

__attribute__((destructor))
static void end(void)
{
    const char *path = getenv("FAIL_COUNT");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
    counting = 0;
    if (file >= 0) dprintf(file, "%ld\n", count), close(file);
}

#else

#include <dirent.h>
#include <sys/wait.h>
#include "check.h"

enum { MOST = 1 << 20 };
static const char *program, *preload;

/* In the order of the parts of mi.c that they go through. */
static const char *const commands[][16] = {
    {"--tokens", "33 34 35", "--ablate", "L0H1"},
    {"ABCABC", "--ablate", "heads", "--each", "--tsv"},
    {"--tokens", "33 34 35", "--source-tokens", "33 36 35", "--patch", "L*.resid_mid@*", "--each",
     "--answer", "#40", "--versus", "#41", "--svg", "a.svg", "--json"},
    {"ABCD", "-n", "6", "--temp", "1", "--ablate", "L1H*@-1=mean", "--json"},
    {"ABCDEF", "--lens", "--loss", "--attn", "L0H*", "-k", "5", "--answer", "E"},
    {"ABCD", "--save", "L*.resid_post=a.npy", "--knockout", "L0H1@2:1", "--steer", "L1.resid_mid=2",
     "--toward", "B", "--away", "C"},
    {"--data", "t.tsv", "--patch", "L0H*@S", "--each", "--json"},
    {"--data", "t.tsv", "--ablate", "L1.mlp_out=mean", "--tsv"},
    {"ABCABC", "--noise", "embed@B#1=3s", "--source", "same", "--patch", "L*.resid_post@*", "--each",
     "--samples", "2"},
    {"ABC", "--explain", "--ablate", "not:L0H1"},
    {"ABC", "--source", "ACB", "--dla", "--attribute", "heads", "--answer", "#33", "--versus", "#34"},
    {"ABC", "--neurons", "L1", "--weights", "L1H0,L0H1", "--answer", "#33"},
    {"ABC", "--dla=tokens", "--ablate", "L1H1", "--answer", "#33"},
    {"ABC", "--source", "ACB", "--attribute", "edges", "--steps", "1", "--answer", "#33"},
    {"ABC", "--attribute", "L1H*.q", "--answer", "#33", "--ablate", "L0H1"},
    {"--data", "t.tsv", "--circuit", "t.txt"},
    {"--data", "t.tsv", "--ablate", "file:t.txt", "--each", "--stability", "1"},
    {"ABC", "--source", "ACB", "--path", "heads", "--into", "L2H1.q", "--edges", "--answer", "#33"},
    {"ABC", "--source", "ACB", "--patch", "L0.resid_pre@1", "--from", "L1.resid_post@2", "--along",
     "data:t.tsv", "--patch", "L*.mlp_out@1", "--along", "random:1:2", "--each"},
};
static const char table[] = "prompt\tsource\tanswer\tversus\tgroup\tS\tlabel\n"
                            "ABC\tABD\tE\tF\t1\tB\t1\nACC\tADC\tF\tE\t2\tA\t0\n"
                            "BCA\tBDA\tF\tE\t2\tC\t1\n";

typedef struct { int status; size_t n_out, n_err; char out[MOST], err[MOST], files[4096]; } Outcome;

static size_t read_back(const char *path, char *text)
{
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(text, 1, MOST - 1, file) : 0;
    if (file) fclose(file);
    text[n] = 0;
    return n;
}

/* Run in a folder with the table; "NAME SIZE " of each file that is left goes to files. */
static void run(const char *const *command, long fail_at, int fail_all, Outcome *outcome)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char *argv[20] = {(char *)program}, number[32];
        for (int i = 0; command[i]; i++) argv[i + 1] = (char *)command[i];
        snprintf(number, sizeof number, "%ld", fail_at);
        if (chdir("work") || !freopen("/dev/null", "r", stdin) || !freopen("../out", "w", stdout) ||
            !freopen("../err", "w", stderr)) _exit(120);
        setenv("FAIL_AT", number, 1), setenv("FAIL_COUNT", "../count", 1);
        if (fail_all) setenv("FAIL_ALL", "1", 1);
        setenv("LD_PRELOAD", preload, 1), setenv("GOMP_SPINCOUNT", "1000", 1);
        setenv("OMP_NUM_THREADS", "1", 1);
        alarm(20);
        execv(program, argv);
        _exit(121);
    }
    if (child < 0 || waitpid(child, &outcome->status, 0) < 0) perror("fork"), exit(1);
    outcome->n_out = read_back("out", outcome->out);
    outcome->n_err = read_back("err", outcome->err);
    outcome->files[0] = 0;
    DIR *folder = opendir("work");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[400];
        if (entry->d_name[0] == '.' || !strncmp(entry->d_name, "t.", 2)) continue;
        snprintf(path, sizeof path, "work/%s", entry->d_name);
        FILE *file = fopen(path, "rb");
        size_t used = strlen(outcome->files);
        if (file) fseek(file, 0, SEEK_END);
        snprintf(outcome->files + used, sizeof outcome->files - used, "%s %ld ", entry->d_name,
                 file ? ftell(file) : -1L);
        if (file) fclose(file);
        unlink(path);
    }
    if (folder) closedir(folder);
}

/* Why an outcome is wrong, or NULL. */
static const char *wrong(const Outcome *got, const Outcome *good)
{
    static char why[400];
    int code = WEXITSTATUS(got->status), speaks = strstr(got->err, "memory") != NULL;
    const char *first = got->err + strcspn(got->err, "\n");
    if (WIFSIGNALED(got->status)) {
        snprintf(why, sizeof why, "ends with signal %d", WTERMSIG(got->status));
        return why;
    }
    if (code == 0)
        return got->n_out != good->n_out || memcmp(got->out, good->out, good->n_out)
             ? "status 0 and another stdout" : strcmp(got->files, good->files)
             ? "status 0 and other files" : NULL;
    snprintf(why, sizeof why, "status %d, %zu bytes on stdout, files: %.100s; says: %.150s", code,
             got->n_out, *got->files ? got->files : "none", got->err);
    return code == 1 && !got->n_out && !*got->files && speaks && !strncmp(got->err, "mi: ", 4) &&
           (!*first || !first[1]) ? NULL : why;
}

static void try_command(int c)
{
    static Outcome good, got;
    char line[400] = "", number[64];
    int said = 0, more = 0;
    for (int i = 0; commands[c][i]; i++) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, " %s", commands[c][i]);
    }
    run(commands[c], -1, 0, &good);
    long n = read_back("count", number) ? atol(number) : 0, step = getenv("MI_MEMORY_STEP")
           ? atol(getenv("MI_MEMORY_STEP")) : 1;
    CHECK(good.status == 0 && n > 20, "memory: mi%s: status %d, %ld allocations: %.200s", line,
          good.status, n, good.err);
    if (good.status || n <= 20) return;
    for (int all = 0; all < 2; all++)
        for (long i = 1; i <= n; i += step) {
            run(commands[c], i, all, &got);
            const char *why = wrong(&got, &good);
            if (why && said++ >= 5) more++, failed++;
            else CHECK(!why, "memory: mi%s: allocation %ld of %ld fails%s: %s", line, i, n,
                       all ? " and all after it" : "", why);
        }
    printf("%s mi%s: %ld allocations", more ? "    " : "   ", line, n);
    printf(more ? ", and %d more failures\n" : "\n", more);
}

int main(int argc, char **argv)
{
    if (argc != 3) return fprintf(stderr, "usage: memory PROGRAM FAIL.SO\n"), 2;
    program = argv[1], preload = argv[2];
    setvbuf(stdout, NULL, _IOLBF, 0);
    unsetenv("MI_COLOR"), setenv("NO_COLOR", "1", 1);
    FILE *file = fopen("work/t.tsv", "w");
    if (!file) return perror("work/t.tsv"), 1;
    fputs(table, file);
    fclose(file);
    if (!(file = fopen("work/t.txt", "w"))) return perror("work/t.txt"), 1;
    fputs("L0H1 # two heads\nL1H0@S\n", file);
    fclose(file);
    for (int c = 0; c < (int)(sizeof commands / sizeof *commands); c++) try_command(c);
    return report();
}
#endif
