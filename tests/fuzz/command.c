/* Whole command lines. Input: one argument a line; a last line that begins with < is stdin. */
#include "program.h"

/* 21 numbers, as NumPy writes them. */
static void put_array(const char *name)
{
    static const float values[21] = {1, 0, 2, 0, 0, -0.5f};
    char file[128 + sizeof values];
    snprintf(file, 129, "\x93NUMPY\1%cv%c%-117s\n", 0, 0,
             "{'descr': '<f4', 'fortran_order': False, 'shape': (21,), }");
    memcpy(file + 128, values, sizeof values);
    put_file(name, (const uint8_t *)file, sizeof file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char table[] = "prompt\tsource\tanswer\tversus\tgroup\tS\n"
                                "ABC\tABD\tE\tF\t1\tB\nACC\tADC\tF\tE\t2\t1\n";
    const char *arguments[40];
    int n = 0;
    char *text = malloc(size + 1), *rest = text;
    memcpy(text, data, size);
    text[size] = 0;
    for (char *line; n < 36 && (line = strsep(&rest, "\n"));) {
        if (*line == '<') { rest = line + 1; break; }
        arguments[n++] = line;
    }
    arguments[n] = NULL;
    put_file("t.tsv", (const uint8_t *)table, sizeof table - 1);
    put_array("x.npy");
    run_program(arguments, (const uint8_t *)(rest ? rest : ""), rest ? strlen(rest) : 0);
    free(text);
    return 0;
}
