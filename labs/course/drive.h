/* drive.h - what a driver gives to check.c: cases of each exercise, which call the function that was
 * to be written and put down the numbers that come out. A driver never judges: what is right stands
 * in a table of the same cases, made with the reference, and what is wrong in a known way too.
 *
 *     course_run("softmax", 0, 2, 7, &out)     the student's or the reference; case 2, seed 7
 *     course_run("softmax", 1, 2, 7, &out)     the first wrong formula, where the driver knows some
 */
#ifndef DRIVE_H
#define DRIVE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_OUT = 600 };

typedef struct { float value; char label[60]; } Number;
typedef struct {
    char   name[100];                   /* of the case */
    int    n, done;
    Number at[MOST_OUT];
} Out;

/* Functions of a driver. Cases and variants count from 0 and end where it returns NULL; variant 0
 * has no saying. course_open() comes first: then no file is opened any more. */
void        course_open(void);
const char *course_says(const char *exercise, int variant);
int         course_cases(const char *exercise);
void        course_run(const char *exercise, int variant, int which, uint64_t seed, Out *out);

__attribute__((format(printf, 3, 4)))
static inline void put(Out *out, double value, const char *format, ...)
{
    va_list list;
    if (out->n >= MOST_OUT) return;
    va_start(list, format);
    vsnprintf(out->at[out->n].label, sizeof out->at->label, format, list);
    va_end(list);
    out->at[out->n++].value = (float)value;
}

/* The same numbers everywhere, in [-1, 1): splitmix64. */
static inline float draw(uint64_t *seed)
{
    uint64_t x = *seed += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (float)(int32_t)((x ^ x >> 31) >> 40) * 0x1p-23f - 1;
}

static inline void fill(float *x, int n, float size, uint64_t *seed)
{
    for (int i = 0; i < n; i++) x[i] = size * draw(seed);
}

#endif
