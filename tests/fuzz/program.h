/* program.h - the whole program in one process: mi.c with its main called again and again.
 *
 *     int status = run_program((const char *[]){"--tokens", "33 34", "--json", NULL}, input, size);
 *
 * exit() jumps back here, and what the program had open or allocated is taken back. It runs in a
 * folder of its own with tokenizer.bin, the golden model odd7 as tiny.safetensors (its tokens are
 * the characters ! to U), and the files that put_file() wrote; it cannot write elsewhere. Every run
 * has to end as it should: status 0, 1 or 2; nothing on stdout unless 0; else one line on stderr,
 * and up to three that show the argument; no control character in them; no file left behind. */
#ifndef FUZZ_PROGRAM_H
#define FUZZ_PROGRAM_H
#include "fuzz.h"

void put_file(const char *name, const uint8_t *data, size_t size);
int  run_program(const char *const *arguments, const uint8_t *input, size_t n_input);
#endif
