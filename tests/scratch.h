/* scratch.h - run a test in a child process that has a directory of its own.
 *
 *     static int body(void) { doing("an empty file"); ...; return report(); }
 *     int main(void) { return in_scratch(body); }
 *
 * Why a child: a broken loader crashes or hangs. The parent then says in which case, and removes
 * the directory (in $TMPDIR, else /tmp) however the child ended. Include it before any system
 * header: it asks for POSIX. */
#ifndef SCRATCH_H
#define SCRATCH_H
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#define _DARWIN_C_SOURCE

#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char scratch[1024];              /* the directory */
static unsigned seconds_per_case = 60;  /* a case that takes longer counts as hung */

static struct { char doing[400]; int done; } *shared;   /* what the parent sees of the child */
static volatile pid_t scratch_child;

/* Names the case that runs from here on. */
static void doing(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(shared->doing, sizeof shared->doing, format, arguments);
    va_end(arguments);
    alarm(seconds_per_case);
}

static void scratch_stop(int number)
{
    (void)number;
    if (scratch_child > 0) kill(scratch_child, SIGKILL);
}

static int scratch_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int in_scratch(int (*body)(void))
{
    const char *above = getenv("TMPDIR");
    if (!above || !*above) above = "/tmp";
    int length = snprintf(scratch, sizeof scratch, "%s/mi-test-XXXXXX", above);
    if (length >= (int)sizeof scratch || !mkdtemp(scratch)) return perror(scratch), 1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return perror("mmap"), 1;

    struct sigaction stop = {.sa_handler = scratch_stop};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGHUP, &stop, NULL);
    fflush(NULL);
    scratch_child = fork();
    if (scratch_child < 0) return perror("fork"), 1;
    if (scratch_child == 0) {
        signal(SIGINT, SIG_DFL), signal(SIGTERM, SIG_DFL), signal(SIGHUP, SIG_DFL);
        int status = body();
        alarm(0);
        fflush(NULL);
        shared->done = 1;
        exit(status);
    }
    int status = 0;
    while (waitpid(scratch_child, &status, 0) < 0) {}
    nftw(scratch, scratch_remove, 16, FTW_DEPTH | FTW_PHYS);

    int failed = !WIFEXITED(status) || !shared->done;
    if (failed && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        printf("FAIL %s: hangs\n", shared->doing);
    else if (failed && WIFSIGNALED(status))
        printf("FAIL %s: crashes with signal %d\n", shared->doing, WTERMSIG(status));
    else if (failed)
        printf("FAIL %s: ends the process with status %d\n", shared->doing, WEXITSTATUS(status));
    if (failed) printf("0 passed, 1 failed\n");
    munmap(shared, sizeof *shared);
    return failed ? 1 : WEXITSTATUS(status);
}
#endif
