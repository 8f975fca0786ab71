/* fuzz.h - what the harnesses share. Each is one LLVMFuzzerTestOneInput for clang's libFuzzer, with
 * the address and undefined-behaviour sanitizers on: `make fuzz` builds and runs them all. */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold; libFuzzer keeps the input for which it does not. */
#define MUST(condition, ...)                                                                     \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "MUST hold: %s: ", #condition);                                      \
            fprintf(stderr, __VA_ARGS__);                                                        \
            fprintf(stderr, "\n");                                                               \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

/* A file in memory that holds these bytes, by a path; the same file each time. */
static inline const char *file_of(const uint8_t *data, size_t size)
{
    static int  descriptor = -1;
    static char path[64];
    if (descriptor < 0) {
        descriptor = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    }
    if (descriptor < 0 || ftruncate(descriptor, 0) || lseek(descriptor, 0, SEEK_SET) < 0 ||
        write(descriptor, data, size) != (ssize_t)size || lseek(descriptor, 0, SEEK_SET) < 0)
        abort();
    return path;
}

/* One line that says why, as every failure of mi.h gives. */
static inline void must_say_why(const char *why)
{
    MUST(*why && !strchr(why, '\n'), "\"%s\"", why);
}
#endif
