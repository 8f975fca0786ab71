/* redirect.h - included before mi.c to call its main as a function: what it opens and allocates is
 * noted, and leaving is a jump (program.c). */
#ifndef FUZZ_REDIRECT_H
#define FUZZ_REDIRECT_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int     mi_main(int argc, char **argv);
void   *fuzz_malloc(size_t n);
void   *fuzz_calloc(size_t n, size_t size);
void   *fuzz_realloc(void *at, size_t n);
char   *fuzz_strdup(const char *text);
char   *fuzz_strndup(const char *text, size_t n);
void    fuzz_free(void *at);
void   *fuzz_mmap(void *at, size_t n, int protection, int flags, int file, off_t offset);
int     fuzz_munmap(void *at, size_t n);
FILE   *fuzz_fopen(const char *path, const char *mode);
FILE   *fuzz_fdopen(int file, const char *mode);
FILE   *fuzz_open_memstream(char **text, size_t *size);
int     fuzz_fclose(FILE *file);
int     fuzz_open(const char *path, int flags, ...);
int     fuzz_mkstemp(char *path);
int     fuzz_rename(const char *from, const char *to);
int     fuzz_link(const char *from, const char *to);
int     fuzz_unlink(const char *path);
char   *fuzz_realpath(const char *path, char *room);
ssize_t fuzz_readlink(const char *path, char *room, size_t size);
int     fuzz_atexit(void (*call)(void));
int     fuzz_execv(const char *path, char *const *argv);
void   *fuzz_tokenizer(const char *path, size_t size, void *open);
void    fuzz_exit(int status) __attribute__((noreturn));
void    fuzz__exit(int status) __attribute__((noreturn));

#ifdef FUZZ_REDIRECT            /* for mi.c itself */
#undef  _DEFAULT_SOURCE
#define main            mi_main
#define malloc          fuzz_malloc
#define calloc          fuzz_calloc
#define realloc         fuzz_realloc
#define strdup          fuzz_strdup
#define strndup         fuzz_strndup
#define free            fuzz_free
#define mmap            fuzz_mmap
#define munmap          fuzz_munmap
#define fopen           fuzz_fopen
#define fdopen          fuzz_fdopen
#define open_memstream  fuzz_open_memstream
#define fclose          fuzz_fclose
#define open            fuzz_open
#define mkstemp         fuzz_mkstemp
#define rename          fuzz_rename
#define link            fuzz_link
#define unlink          fuzz_unlink
#define remove          fuzz_unlink
#define realpath        fuzz_realpath
#define readlink        fuzz_readlink
#define atexit          fuzz_atexit
#define execv           fuzz_execv
#define exit            fuzz_exit
#define _exit           fuzz__exit
/* Most of a short run is to read tokenizer.bin. tokenizer_open(const char *path), the function,
 * becomes slow_tokenizer_open(const char *path); a call with (path) takes a copy of the first. */
#define tokenizer_open(path)  OPEN_##path)
#define OPEN_const            slow_tokenizer_open(const
#define OPEN_path             fuzz_tokenizer(path, sizeof(MiTokenizer), slow_tokenizer_open
#endif
#endif
