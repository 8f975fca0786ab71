/* program.c - what program.h promises: the program called as a function. */
#include "program.h"
#include "redirect.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>

/* ---- What the program took and did not give back when it left by exit() ---- */

enum { MEMORY, MAPPING, STREAM, N_KINDS };
enum { MOST_TAKEN = 1 << 14 };                          /* a hash table; a run takes fewer */
typedef struct { void *at; size_t size; int kind; } Taken;
static Taken taken[MOST_TAKEN];
static int   n_taken;

static Taken *place_of(const void *at)
{
    size_t i = (uintptr_t)at / 16 * 0x9E3779B1u % MOST_TAKEN;
    while (taken[i].at && taken[i].at != at) i = (i + 1) % MOST_TAKEN;
    return &taken[i];
}

static void *note(void *at, size_t size, int kind)
{
    if (!at || at == MAP_FAILED) return at;
    MUST(++n_taken < MOST_TAKEN / 2, "too many allocations to keep an eye on");
    *place_of(at) = (Taken){ at, size, kind };
    return at;
}

static void forget(const void *at)
{
    Taken *hole = place_of(at);
    if (!at || !hole->at) return;
    n_taken--;
    hole->at = NULL;
    size_t i = (size_t)(hole - taken + 1) % MOST_TAKEN;
    for (; taken[i].at; i = (i + 1) % MOST_TAKEN) {     /* what follows may have wanted its place */
        Taken moved = taken[i];
        taken[i].at = NULL;
        *place_of(moved.at) = moved;
    }
}

static void give_back_all(void)
{
    for (int kind = STREAM; kind >= MEMORY && n_taken > 0; kind--)
        for (int i = 0; i < MOST_TAKEN; i++) {
            if (!taken[i].at || taken[i].kind != kind) continue;
            if (kind == STREAM) fclose(taken[i].at);
            else if (kind == MAPPING) munmap(taken[i].at, taken[i].size);
            else free(taken[i].at);
            taken[i].at = NULL;
            n_taken--;
        }
}

void *fuzz_malloc(size_t n) { return note(malloc(n), n, MEMORY); }
void *fuzz_calloc(size_t n, size_t size) { return note(calloc(n, size), n, MEMORY); }
char *fuzz_strdup(const char *s) { return note(strdup(s), 0, MEMORY); }
char *fuzz_strndup(const char *s, size_t n) { return note(strndup(s, n), 0, MEMORY); }

void fuzz_free(void *at)
{
    Taken *here = place_of(at), was = *here;
    forget(at);
    if (was.at && was.kind == MAPPING) munmap(at, was.size);
    else free(at);
}

void *fuzz_realloc(void *at, size_t n)
{
    void *bigger = realloc(at, n);
    if (bigger) forget(at), note(bigger, n, MEMORY);
    return bigger;
}

void *fuzz_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset)
{
    return note(mmap(at, n, protection, flags, file, offset), n, MAPPING);
}

int fuzz_munmap(void *at, size_t n) { return forget(at), munmap(at, n); }
int fuzz_fclose(FILE *f) { return forget(f), fclose(f); }

/* ---- Its folder ---- */

static char sandbox[1000];
static int  sandbox_fd = -1, outside_fd = -1;

/* Only names within the folder can be opened: a fuzzer tries every other, too. */
static int is_inside(const char *path)
{
    size_t n = strlen(sandbox);
    if (!strncmp(path, sandbox, n) && path[n] == '/') path += n + 1;
    int outside = *path == '/';
    for (const char *up = path; (up = strstr(up, "..")); up++)
        outside |= (up == path || up[-1] == '/') && (!up[2] || up[2] == '/');
    return outside ? errno = EACCES, 0 : 1;
}

FILE *fuzz_fopen(const char *path, const char *mode)
{
    return is_inside(path) ? note(fopen(path, mode), 0, STREAM) : NULL;
}

FILE *fuzz_fdopen(int file, const char *mode)
{
    return note(fdopen(file, mode), 0, STREAM);
}

FILE *fuzz_open_memstream(char **text, size_t *size)
{
    return note(open_memstream(text, size), 0, STREAM);
}

int fuzz_open(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    int mode = flags & O_CREAT ? va_arg(list, int) : 0;
    va_end(list);
    return is_inside(path) ? open(path, flags, mode) : -1;
}

int fuzz_rename(const char *from, const char *to)
{
    return is_inside(from) && is_inside(to) ? rename(from, to) : -1;
}

int fuzz_link(const char *from, const char *to)
{
    return is_inside(from) && is_inside(to) ? link(from, to) : -1;
}

int fuzz_unlink(const char *path) { return is_inside(path) ? unlink(path) : -1; }
int fuzz_mkstemp(char *path) { return is_inside(path) ? mkstemp(path) : -1; }

char *fuzz_realpath(const char *path, char *room)
{
    if (strcmp(path, "/proc/self/exe")) return note(realpath(path, room), 0, MEMORY);
    char *own = room ? room : fuzz_malloc(PATH_MAX);
    snprintf(own, PATH_MAX, "%s/mi", sandbox);          /* what lies beside the program is here */
    return own;
}

ssize_t fuzz_readlink(const char *path, char *room, size_t size)
{
    if (strcmp(path, "/proc/self/exe")) return readlink(path, room, size);
    return snprintf(room, size, "%s/mi", sandbox);
}

/* The tokenizer of a file that is as it was at the first call, as that call left it. */
void *fuzz_tokenizer(const char *path, size_t size, void *open)
{
    static int         image = -1;
    static struct stat first;
    struct stat        now;
    if (!is_inside(path) || stat(path, &now) || image < 0 || now.st_ino != first.st_ino ||
        now.st_size != first.st_size) {
        void *tokenizer = ((void *(*)(const char *))open)(path);
        if (!tokenizer || image >= 0) return tokenizer;
        if ((image = memfd_create("tokenizer", MFD_CLOEXEC)) < 0 || stat(path, &first) ||
            write(image, tokenizer, size) != (ssize_t)size) abort();
        image = fcntl(image, F_DUPFD_CLOEXEC, 100);
        return tokenizer;
    }
    return fuzz_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, image, 0);
}

/* ---- Leaving ---- */

static jmp_buf way_out;
static void  (*at_end[32])(void);
static int     n_at_end;

int fuzz_atexit(void (*call)(void)) { return at_end[n_at_end++ % 32] = call, 0; }

__attribute__((noreturn))
void fuzz_exit(int status)
{
    while (n_at_end > 0) at_end[--n_at_end % 32]();
    longjmp(way_out, status + 1);
}

__attribute__((noreturn))
void fuzz__exit(int status) { longjmp(way_out, status + 1); }
int fuzz_execv(const char *path, char *const *argv) { return (void)path, (void)argv, -1; }

/* ---- One run ---- */

void __sanitizer_set_report_fd(void *descriptor);

static int streams[3] = {-1, -1, -1}, own_streams[3];   /* the program's, and the fuzzer's */

static void clear_sandbox(int all)
{
    DIR *folder = opendir(sandbox);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        const char *name = entry->d_name;
        int ours = !strcmp(name, "tokenizer.bin") || !strcmp(name, "tiny.safetensors");
        if (*name == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
        if (!ours || all) unlinkat(sandbox_fd, name, 0);
    }
    if (folder) closedir(folder);
    if (all) rmdir(sandbox);
}

static void leave_sandbox(void) { clear_sandbox(1); }

static void make_sandbox(void)
{
    const char *above = getenv("TMPDIR");
    char path[1100];
    snprintf(sandbox, sizeof sandbox, "%s/mi-fuzz-XXXXXX", above && *above ? above : "/tmp");
    if (!mkdtemp(sandbox) || atexit(leave_sandbox)) abort();
    for (int i = 0; i < 2; i++) {
        char *from = realpath(i ? "tokenizer.bin" : "tests/golden/odd7.safetensors", NULL);
        snprintf(path, sizeof path, "%s/%s", sandbox, i ? "tokenizer.bin" : "tiny.safetensors");
        if (!from || symlink(from, path)) abort();
        free(from);
    }
    sandbox_fd = open(sandbox, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    outside_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        streams[i] = memfd_create("stream", MFD_CLOEXEC);
        own_streams[i] = fcntl(i, F_DUPFD_CLOEXEC, 100);
        if (own_streams[i] < 0) own_streams[i] = open("/dev/null", O_RDWR);
    }
    __sanitizer_set_report_fd((void *)(intptr_t)own_streams[2]);   /* not into the program's own */
    setenv("NO_COLOR", "1", 1), unsetenv("MI_MODEL"), unsetenv("COLUMNS");
    signal(SIGPIPE, SIG_IGN), signal(SIGXFSZ, SIG_IGN);
}

void put_file(const char *name, const uint8_t *data, size_t size)
{
    if (!*sandbox) make_sandbox();
    int file = openat(sandbox_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) abort();
    close(file);
}

/* What stands in a stream; it is empty afterwards. */
static char *text_of(int stream, size_t *size)
{
    *size = (size_t)lseek(stream, 0, SEEK_END);
    char *text = calloc(*size + 1, 1);
    if (!text || pread(stream, text, *size, 0) != (ssize_t)*size || ftruncate(stream, 0)) abort();
    lseek(stream, 0, SEEK_SET);
    return text;
}

static void must_fail_well(int status, const char *out, size_t n_out, const char *err)
{
    int lines = 0;
    const char *second = strchr(err, '\n');
    MUST(n_out == 0, "status %d, and stdout says: %.200s", status, out);
    MUST(!strncmp(err, "mi: ", 4), "status %d, and stderr says: \"%.200s\"", status, err);
    for (const char *c = err; *c; c++) {
        lines += *c == '\n';
        MUST(*c == '\n' || ((unsigned char)*c >= 32 && *c != 127), "control character %d in: %s",
             *c, err);
    }
    MUST(lines <= 4, "%d lines on stderr: %s", lines, err);
    MUST(!second || !second[1] || !strncmp(second + 1, "    ", 4), "a second line: %s", err);
}

/* The files that lie in the folder beside those that were put there. */
static int files_left(const char *const *known)
{
    int n = 0;
    DIR *folder = opendir(sandbox);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        int ours = entry->d_name[0] == '.' && (!entry->d_name[1] || !strcmp(entry->d_name, ".."));
        for (int i = 0; known[i]; i++) ours |= !strcmp(entry->d_name, known[i]);
        n += !ours;
    }
    if (folder) closedir(folder);
    return n;
}

int run_program(const char *const *arguments, const uint8_t *input, size_t n_input)
{
    static const char *const known[] = {"tokenizer.bin", "tiny.safetensors", "t.tsv", "t.csv",
                                        "x.npy", NULL};
    static char *argv[64];
    static char  room[1 << 16];
    char  *at = room;
    int    argc = 0;
    size_t n_out, n_err;
    if (!*sandbox) make_sandbox();
    for (int i = -1; argc < 63 && (i < 0 || arguments[i]); i++) {
        const char *argument = i < 0 ? "mi" : arguments[i];
        size_t n = strlen(argument) + 1;
        if (n > (size_t)(room + sizeof room - at)) break;
        argv[argc++] = memcpy(at, argument, n);
        at += n;
    }
    argv[argc] = NULL;
    if (pwrite(streams[0], input, n_input, 0) != (ssize_t)n_input ||
        ftruncate(streams[0], (off_t)n_input) || lseek(streams[0], 0, SEEK_SET)) abort();
    fflush(stdout), fflush(stderr);
    if (fchdir(sandbox_fd)) abort();
    for (int i = 0; i < 3; i++) dup2(streams[i], i);
    clearerr(stdin), fseek(stdin, 0, SEEK_SET);
    int status = setjmp(way_out);
    if (status == 0) {
        status = mi_main(argc, argv);
        while (n_at_end > 0) at_end[--n_at_end % 32]();
    } else status--;
    fflush(stdout), fflush(stderr);
    for (int i = 0; i < 3; i++) dup2(own_streams[i], i);
    if (fchdir(outside_fd)) abort();
    n_at_end = 0;
    give_back_all();
    for (int file = 3; file < 24; file++) {             /* descriptors without a stream */
        int ours = file == sandbox_fd || file == outside_fd;
        for (int i = 0; i < 3; i++) ours |= file == streams[i];
        struct stat info;
        if (!ours && fstat(file, &info) == 0 && S_ISREG(info.st_mode) && fcntl(file, F_GETFD) == 0)
            close(file);
    }
    char *out = text_of(streams[1], &n_out), *err = text_of(streams[2], &n_err);
    if (getenv("FUZZ_SHOW")) fprintf(stderr, "status %d\n%s%s", status, out, err);
    MUST(status >= 0 && status <= 2, "exit status %d", status);
    if (status) must_fail_well(status, out, n_out, err);
    if (status) MUST(files_left(known) == 0, "status %d, and a file is left: %s", status, err);
    clear_sandbox(0);
    free(out);
    free(err);
    return status;
}
