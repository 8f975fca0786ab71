/* check.h - what the tests need: CHECK(condition, "name: why", ...) and, at the end of main,
 * return report(). One line is printed for each check that fails, and one for the sum. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

static int passed, failed;

#define CHECK(condition, ...)                                                                    \
    do {                                                                                         \
        if (condition) {                                                                         \
            passed++;                                                                            \
        } else {                                                                                 \
            failed++;                                                                            \
            printf("FAIL ");                                                                     \
            printf(__VA_ARGS__);                                                                 \
            printf("\n");                                                                        \
            fflush(stdout);     /* what was said stays said if a crash follows */                \
        }                                                                                        \
    } while (0)

static int report(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

#endif
