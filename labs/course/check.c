/* check.c - run an exercise's cases and say what is wrong with it.
 *
 *     check table DRIVER SEED EXERCISE...      the numbers of the reference and of every known wrong
 *                                              formula, to stdout
 *     check audit TABLE EXERCISE...            can they all be told apart?
 *     check grade TABLE DRIVER EXERCISE POINTS the student's numbers against such a table: a line
 *                                              EXERCISE POINTS OF WHY, with tabs
 *
 * A driver (drive.h) is a shared library with the student's function inside. Each case runs in a
 * process of its own, which may compute and nothing else: limits of time, memory and files, and on
 * Linux a filter that ends it when it starts a program, writes a file or opens the network. What it
 * prints is dropped. It hands over numbers, in memory that is shared; what is right is not in it, so
 * it cannot claim to be right. The judge never loads it. */
#define _GNU_SOURCE
#include "drive.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

enum { MOST_CASES = 8, MOST_VARIANTS = 24, SECONDS = 3, MEMORY = 1 << 30 };

typedef struct { char says[200]; int n_cases; Out *of[MOST_CASES]; } Variant;
typedef struct { Variant at[MOST_VARIANTS]; int n; } Table;

#define TOLERANCE 2e-4

__attribute__((noreturn, format(printf, 1, 2)))
static void stop(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    exit(2);
}

/* ---- A driver ---- */

typedef struct {
    void        (*open)(void);
    const char *(*says)(const char *, int);
    int         (*cases)(const char *);
    void        (*run)(const char *, int, int, uint64_t, Out *);
} Driver;

static void load(const char *path, Driver *driver)
{
    void *library = dlopen(path, RTLD_NOW), *found[4];
    if (!library) stop("%s", dlerror());
    static const char *const names[] = {"course_open", "course_says", "course_cases", "course_run"};
    for (int i = 0; i < 4; i++)
        if (!(found[i] = dlsym(library, names[i]))) stop("%s has no %s()", path, names[i]);
    memcpy(driver, found, sizeof found);
}

static void write_table(const char *path, uint64_t seed, char **exercise, int n)
{
    Driver driver;
    load(path, &driver);
    driver.open();
    for (int e = 0; e < n; e++) {
        const char *name = exercise[e];
        for (int v = 0; v == 0 || driver.says(name, v); v++) {
            printf("=\t%s\t%llu\t%s\n", name, (unsigned long long)seed, v ? driver.says(name, v) : "");
            for (int c = 0; c < driver.cases(name); c++) {
                Out *out = calloc(1, sizeof *out);
                driver.run(name, v, c, seed, out);
                printf("-\t%s\n", out->name);
                for (int i = 0; i < out->n; i++) printf("%.9g\t%s\n", out->at[i].value, out->at[i].label);
                free(out);
            }
        }
    }
}

/* The exercise's part of a table; its seed. */
static uint64_t read_table(const char *path, const char *exercise, Table *table)
{
    FILE    *file = fopen(path, "r");
    char     line[600];
    int      ours = 0;
    uint64_t seed = 0;
    Variant *v = NULL;
    Out     *out = NULL;
    if (!file) stop("%s: cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *rest = line, *first = strsep(&rest, "\t");
        if (*first == '=') {
            ours = !strcmp(strsep(&rest, "\t"), exercise);
            if (!ours) continue;
            if (table->n == MOST_VARIANTS) stop("%s: too many variants of %s", path, exercise);
            v = &table->at[table->n++];
            seed = strtoull(strsep(&rest, "\t"), NULL, 10);
            snprintf(v->says, sizeof v->says, "%s", rest);
        } else if (ours && !strcmp(first, "-")) {
            if (v->n_cases == MOST_CASES) stop("%s: too many cases of %s", path, exercise);
            out = v->of[v->n_cases++] = calloc(1, sizeof *out);
            snprintf(out->name, sizeof out->name, "%s", rest);
        } else if (ours) {
            out->at[out->n].value = strtof(first, NULL);
            snprintf(out->at[out->n++].label, sizeof out->at->label, "%s", rest);
        }
    }
    fclose(file);
    if (!table->n) stop("%s: does not know the exercise %s", path, exercise);
    return seed;
}

/* ---- A process that may compute and nothing else ---- */

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#define DENY(call)    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1),                        \
                      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define FLAGS_OF(n)   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))

/* Files may be opened for reading until `closed`. */
static void lock_up(int closed)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        DENY(execve), DENY(execveat), DENY(clone), DENY(kill), DENY(tkill), DENY(ptrace),
        DENY(socket), DENY(connect), DENY(unlinkat), DENY(renameat2), DENY(mkdirat),
        DENY(fchmodat), DENY(fchownat), DENY(truncate), DENY(ftruncate), DENY(linkat),
        DENY(symlinkat), DENY(process_vm_writev), DENY(prlimit64), DENY(setrlimit), DENY(mknodat),
        DENY(setsid), DENY(setpgid), DENY(chdir), DENY(pwrite64),
#ifdef SYS_clone3
        DENY(clone3),
#endif
#ifdef SYS_openat2
        DENY(openat2),
#endif
#ifdef SYS_io_uring_setup
        DENY(io_uring_setup),
#endif
#ifdef SYS_fork
        DENY(fork), DENY(vfork), DENY(open), DENY(creat), DENY(unlink), DENY(rename), DENY(mkdir),
        DENY(rmdir), DENY(chmod), DENY(chown), DENY(link), DENY(symlink), DENY(mknod),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 4),
        FLAGS_OF(2),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, closed ? 0xFFFFFFFFu : O_WRONLY | O_RDWR | O_CREAT | O_TRUNC,
                 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, closed ? SECCOMP_RET_ERRNO | EPERM : SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
#else
static void lock_up(int closed) { (void)closed; }
#endif

static void limit(int what, rlim_t most)
{
    struct rlimit to = {most, most};
    setrlimit(what, &to);
}

static void run_alone(const char *path, const char *exercise, int which, uint64_t seed, Out *out,
                      int err)
{
    Driver driver;
    int    null = open("/dev/null", O_RDWR);
    dup2(null, 0), dup2(null, 1), dup2(err, 2);
    for (int fd = 3; fd < 256; fd++) close(fd);
    limit(RLIMIT_CPU, SECONDS);
    limit(RLIMIT_FSIZE, 1 << 16);
    limit(RLIMIT_CORE, 0);
#if !defined(__SANITIZE_ADDRESS__)
    limit(RLIMIT_AS, MEMORY);
#endif
    lock_up(0);
    load(path, &driver);
    driver.open();
    lock_up(1);
    driver.run(exercise, 0, which, seed, out);
    _exit(0);
}

/* The last line that the process wrote on stderr. */
static void last_line(int err, char *text, size_t size)
{
    char    all[4000];
    off_t   end = lseek(err, 0, SEEK_END);
    ssize_t n = pread(err, all, sizeof all - 1, end > 3999 ? end - 3999 : 0);
    while (n > 0 && all[n - 1] == '\n') n--;
    all[n > 0 ? n : 0] = 0;
    const char *line = strrchr(all, '\n');
    snprintf(text, size, "%.150s", line ? line + 1 : all);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ') *c = '?';
}

/* Runs one case; 0, or why there are no numbers. */
static const char *run_case(const char *path, const char *exercise, int which, uint64_t seed, Out *out)
{
    static char why[300];
    char   said[160], name[] = "/tmp/mi-check-XXXXXX";
    int    err = mkstemp(name), status = 0, waited = 0;
    if (err < 0) stop("%s: %s", name, strerror(errno));
    unlink(name);
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) stop("fork: %s", strerror(errno));
    if (child == 0) setpgid(0, 0), run_alone(path, exercise, which, seed, out, err);
    while (waitpid(child, &status, WNOHANG) == 0) {
        struct timespec ms = {.tv_nsec = waited < 50 ? 1000000 : 20000000};
        nanosleep(&ms, NULL);
        if (++waited > 50 + SECONDS * 50 * 4) kill(-child, SIGKILL), kill(child, SIGKILL);
    }
    kill(-child, SIGKILL);                              /* whatever it left */
    last_line(err, said, sizeof said);
    close(err);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && out->done == 1) return NULL;
    int sign = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (sign == SIGKILL || sign == SIGXCPU) snprintf(why, sizeof why, "does not end (%d s)", SECONDS);
    else if (sign == SIGSYS) strcpy(why, "starts a program, writes a file or the like: not allowed");
    else if (sign == SIGSEGV || sign == SIGBUS) strcpy(why, "reads or writes where nothing is (crash)");
    else if (sign) snprintf(why, sizeof why, "crashes: %s%s%s", strsignal(sign), *said ? ": " : "", said);
    else if (WEXITSTATUS(status) && *said) snprintf(why, sizeof why, "%s", said);
    else snprintf(why, sizeof why, "ends the program with exit(%d)", WEXITSTATUS(status));
    return why;
}

/* ---- Judging ---- */

static int near(float a, float b, double tolerance)
{
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    if (isinf(a) || isinf(b)) return a == b;
    return fabs((double)a - b) <= tolerance * (1 + fabs((double)b));
}

static int same(const Out *a, const Out *b, double tolerance)
{
    if (a->n != b->n) return 0;
    for (int i = 0; i < a->n; i++)
        if (!near(a->at[i].value, b->at[i].value, tolerance)) return 0;
    return 1;
}

/* The known wrong formula that gives the student's numbers: in all cases that it fails itself, or in
 * the cases that the student fails. */
static const char *diagnose(const Table *t, Out *const got[], const int *right, const char *const *why)
{
    const Variant *ref = &t->at[0];
    for (int loose = 0; loose < 2; loose++)
        for (int v = 1; v < t->n; v++) {
            int match = 1, differs = 0;
            for (int c = 0; c < ref->n_cases && match; c++) {
                if (why[c]) match = loose;
                else if (!loose || !right[c]) match = same(got[c], t->at[v].of[c], TOLERANCE);
                differs |= !why[c] && !right[c] && !same(t->at[v].of[c], ref->of[c], TOLERANCE);
            }
            if (match && differs) return t->at[v].says;
        }
    return NULL;
}

/* The one known wrong formula that gives the student's numbers in this case; not in others: they are
 * wrong in another way. NULL if there is none, or more than one. */
static const char *diagnose_case(const Table *t, const Out *got, int c)
{
    const char *says = NULL;
    for (int v = 1; v < t->n; v++)
        if (same(got, t->at[v].of[c], TOLERANCE)) {
            if (says) return NULL;
            says = t->at[v].says;
        }
    return says;
}

/* What the first number that is wrong says for itself. */
static void explain(const Out *got, const Out *want, double tolerance, char *text, size_t size)
{
    for (int i = 0; i < want->n; i++) {
        float g = i < got->n ? got->at[i].value : NAN, w = want->at[i].value;
        if (near(g, w, tolerance)) continue;
        if (*want->at[i].label == '!') snprintf(text, size, "%s", want->at[i].label + 1);
        else if (isnan(g) || isnan(w))
            snprintf(text, size, "%s: %s is %s", want->name, want->at[i].label,
                     isnan(g) ? "not a number" : "a number, but should be none");
        else snprintf(text, size, "%s: %s is %.5g, not %.5g", want->name, want->at[i].label, g + 0,
                      w + 0);                           /* -0 is 0 */
        return;
    }
}

/* Can all formulas of a table be told apart, also from the right one? How many cannot. */
static int audit(const char *table, const char *exercise)
{
    Table *t = calloc(1, sizeof *t);
    int    alike = 0;
    read_table(table, exercise, t);
    for (int a = 0; a < t->n; a++)
        for (int b = a + 1; b < t->n; b++) {
            int match = 1;
            for (int c = 0; c < t->at[a].n_cases; c++)
                match &= same(t->at[a].of[c], t->at[b].of[c], TOLERANCE);
            if (!match) continue;
            printf("%s: the same numbers: \"%s\" and \"%s\"\n", exercise, t->at[a].says, t->at[b].says);
            alike++;
        }
    return alike;
}

static void grade(const char *table, const char *path, const char *exercise, int points)
{
    static Table t;
    uint64_t    seed = read_table(table, exercise, &t);
    const Variant *ref = &t.at[0];
    Out        *got[MOST_CASES];
    const char *why[MOST_CASES] = {0};
    int         right[MOST_CASES] = {0}, n_right = 0, wrong = -1, first = -1;
    char        text[400] = "";
    for (int c = 0; c < ref->n_cases; c++) {
        got[c] = mmap(NULL, sizeof *got[c], PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (got[c] == MAP_FAILED) stop("out of memory");
        why[c] = run_case(path, exercise, c, seed, got[c]);
        if (why[c]) why[c] = strdup(why[c]);
        if (got[c]->n < 0 || got[c]->n > MOST_OUT) got[c]->n = 0;
        right[c] = !why[c] && same(got[c], ref->of[c], TOLERANCE);
        n_right += right[c];
        if (!right[c] && first < 0) first = c;
        if (!right[c] && !why[c] && wrong < 0) wrong = c;
        if (why[c] && !strncmp(why[c], "does not end", 12)) {           /* so the others may not */
            for (c++; c < ref->n_cases; c++) why[c] = "", got[c] = got[0];
        }
    }
    const char *known = wrong >= 0 ? diagnose(&t, got, right, why) : NULL;
    const char *here = wrong >= 0 && !known ? diagnose_case(&t, got[wrong], wrong) : NULL;
    if (known) snprintf(text, sizeof text, "%s", known);
    else if (here)
        snprintf(text, sizeof text, "%s: %s, and something else is wrong", ref->of[wrong]->name, here);
    else if (wrong >= 0) explain(got[wrong], ref->of[wrong], TOLERANCE, text, sizeof text);
    if (wrong < 0 && first >= 0 && strstr(why[first], "is yours to write"))
        snprintf(text, sizeof text, "%s", why[first]);
    else if (wrong < 0 && first >= 0)
        snprintf(text, sizeof text, "%s: %s", ref->of[first]->name, why[first]);
    printf("%s\t%g\t%d\t%s%s%s\n", exercise, floor(2.0 * points * n_right / ref->n_cases) / 2, points,
           first >= 0 ? exercise : "", first >= 0 ? ": " : "", first >= 0 ? text : "right");
}

int main(int argc, char **argv)
{
    int alike = 0;
    if (argc > 3 && !strcmp(argv[1], "table"))
        write_table(argv[2], strtoull(argv[3], NULL, 10), argv + 4, argc - 4);
    else if (argc == 6 && !strcmp(argv[1], "grade")) grade(argv[2], argv[3], argv[4], atoi(argv[5]));
    else if (argc > 3 && !strcmp(argv[1], "audit"))
        for (int i = 3; i < argc; i++) alike += audit(argv[2], argv[i]);
    else stop("check table DRIVER SEED EXERCISE...\ncheck audit TABLE EXERCISE...\n"
              "check grade TABLE DRIVER EXERCISE POINTS");
    return alike > 0;
}
