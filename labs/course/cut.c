/* cut.c - take functions out of a C file, and put others in: by their names alone.
 *
 *     cut assign FILE EDIT...              the student's copy of FILE, to stdout
 *         3:NAME                           the body of NAME becomes a stub of exercise 3
 *         NAME=OTHER                       NAME, a twin, only calls OTHER, which has its parameters
 *         -NAME                            NAME goes, and the comment above it
 *     cut splice TEACHER STUDENT NAME...   TEACHER, and below each NAME the student's function as
 *                                          student_NAME; helpers above it that TEACHER lacks and it
 *                                          calls come along. #line keeps the student's line numbers
 *     cut state TEACHER STUDENT NAME TWIN...   says what is wrong with NAME and its helpers before
 *                                          they are compiled; ends with 0: nothing; 3: it is the stub
 *
 * A function starts in column 0 and ends with a brace in column 0, as all of mi.c do: so one whose
 * braces do not match spoils no other. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4000 };

typedef struct {
    const char *name;
    size_t      n_name, comment, start, open, close, end;   /* { and }; end: behind the line of } */
    int         line, open_line;                            /* of start and of {, from 1 */
} Function;

typedef struct {
    const char *path;
    char       *text;
    size_t      n;
    Function    at[MOST];
    int         n_functions;
} Source;

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

static int is_name(int c) { return isalnum((unsigned char)c) || c == '_'; }

/* The end of the comment, string, character or name that starts at i; i + 1 for all else. */
static size_t token_end(const char *text, size_t i)
{
    char c = text[i];
    if (c == '/' && text[i + 1] == '*') {
        const char *end = strstr(text + i + 2, "*/");
        return end ? (size_t)(end - text) + 2 : strlen(text);
    }
    if (c == '/' && text[i + 1] == '/') return i + strcspn(text + i, "\n");
    if (c == '"' || c == '\'') {
        for (i++; text[i] && text[i] != c && text[i] != '\n'; i++)
            if (text[i] == '\\' && text[i + 1]) i++;
        return text[i] == c ? i + 1 : i;
    }
    if (!is_name(c)) return i + 1;
    while (is_name(text[i])) i++;
    return i;
}

/* Behind a line, and behind those that a backslash joins to it. */
static size_t line_end(const char *text, size_t i)
{
    for (; text[i]; i++)
        if (text[i] == '\n' && (i == 0 || text[i - 1] != '\\')) return i + 1;
    return i;
}

/* If a function's definition starts at i, in column 0: where its parts are. */
static int read_function(const Source *s, size_t i, Function *f)
{
    const char *t = s->text;
    size_t      name = 0, after = 0;
    int         depth = 0;
    *f = (Function){.start = i};
    for (size_t next; t[i] && t[i] != ';' && t[i] != '=' && t[i] != '{'; i = next) {
        next = token_end(t, i);
        if (is_name(t[i]) && depth == 0) name = i, after = next;
        if (t[i] == '(' && depth++ == 0 && after && !f->name &&
            strncmp(t + name, "__attribute__", 13)) f->name = t + name, f->n_name = after - name;
        if (t[i] == ')') depth--;
    }
    if (t[i] != '{' || !f->name) return 0;
    f->open = i;
    for (depth = 0; t[i]; i = token_end(t, i)) {
        if (t[i] == '}' && (depth == 1 || t[i - 1] == '\n')) {
            f->close = i;
            f->end = line_end(t, i);
            return 1;
        }
        depth += (t[i] == '{') - (t[i] == '}');
    }
    return 0;
}

static Source read_source(const char *path)
{
    Source s = {.path = path, .text = malloc(1 << 22)};
    FILE  *file = fopen(path, "rb");
    if (!file || !s.text) stop("%s: cannot be read", path);
    s.n = fread(s.text, 1, (1 << 22) - 1, file);
    s.text[s.n] = 0;
    fclose(file);
    if (strlen(s.text) != s.n) stop("%s: is no text", path);
    int    line = 1;
    size_t comment = 0;                                 /* where what belongs to the next begins */
    for (size_t i = 0, next; i < s.n; i = next) {
        Function f;
        next = line_end(s.text, i);
        if (s.text[i] == '/' && s.text[i + 1] == '*') {
            comment = i;
            next = line_end(s.text, token_end(s.text, i) - 1);
        } else if (isspace((unsigned char)s.text[i]) || s.text[i] == '#') {
            comment = next;
        } else if (s.n_functions < MOST && read_function(&s, i, &f)) {
            f.comment = comment;
            f.line = f.open_line = line;
            for (size_t j = i; j < f.open; j++) f.open_line += s.text[j] == '\n';
            s.at[s.n_functions++] = f;
            next = f.end;
        }
        if (s.text[i] != '/' && s.text[i] != '#' && !isspace((unsigned char)s.text[i])) comment = next;
        for (size_t j = i; j < next; j++) line += s.text[j] == '\n';
    }
    return s;
}

static const Function *find(const Source *s, const char *name, size_t n)
{
    for (const Function *f = s->at; f < s->at + s->n_functions; f++)
        if (f->n_name == n && !memcmp(f->name, name, n)) return f;
    return NULL;
}

static const Function *must_find(const Source *s, const char *name, size_t n)
{
    const Function *f = find(s, name, n);
    if (!f) stop("%s: has no function %.*s()", s->path, (int)n, name);
    return f;
}

static void put(const Source *s, size_t from, size_t to)
{
    fwrite(s->text + from, 1, to - from, stdout);
}

/* OTHER(a, b, ...): the names of f's parameters, each the last before a comma. */
static void put_call(const Source *s, const Function *f, const char *other)
{
    const char *t = s->text, *separator = "";
    size_t      i = (size_t)(f->name - t) + f->n_name, name = 0, end = 0;
    printf("%s(", other);
    for (size_t next; i < f->open; i = next) {
        next = token_end(t, i);
        if (is_name(t[i])) name = i, end = next;
        if ((t[i] == ',' || t[i] == ')') && end) {
            printf("%s%.*s", separator, (int)(end - name), t + name);
            separator = ", ";
            end = 0;
        }
    }
    printf(");\n");
}

static int by_place(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    return (x > y) - (x < y);
}

static void assign(const char *path, char **edit, int n)
{
    Source      s = read_source(path);
    size_t      done = 0;
    const char *place[MOST];
    const Function *of[MOST];
    for (int i = 0; i < n; i++) {                       /* in the order of the file */
        char *name = edit[i], *colon = strchr(name, ':');
        name = *name == '-' ? name + 1 : colon ? colon + 1 : name;
        of[i] = must_find(&s, name, strcspn(name, "="));
        place[i] = of[i]->name;
    }
    qsort(place, n, sizeof *place, by_place);
    for (int p = 0; p < n; p++) {
        int i = 0;
        while (of[i]->name != place[p]) i++;
        const Function *f = of[i];
        const char     *other = strchr(edit[i], '=');
        put(&s, done, *edit[i] == '-' ? f->comment : f->open);
        done = f->end;
        if (*edit[i] == '-') {
            done += s.text[done] == '\n';
            continue;
        }
        printf("{\n    ");
        if (other) put_call(&s, f, other + 1);
        else printf("fprintf(stderr, \"exercise %d: %%s() is yours to write\\n\", __func__), exit(1);\n",
                    atoi(edit[i]));
        printf("}\n");
    }
    put(&s, done, s.n);
}

/* A function of the student's, its own name with student_ before it: also where it calls itself. */
static void put_student(const Source *s, const Function *f)
{
    const char *t = s->text;
    for (size_t i = f->start, next; i < f->end; i = next) {
        next = token_end(t, i);
        if (next - i == f->n_name && !memcmp(t + i, f->name, f->n_name)) printf("student_");
        put(s, i, next);
    }
}

static int uses(const Source *s, const Function *f, const Function *other)
{
    for (size_t i = f->open, next; i < f->end; i = next) {
        next = token_end(s->text, i);
        if (next - i == other->n_name && !memcmp(s->text + i, other->name, other->n_name)) return 1;
    }
    return 0;
}

/* Which of the student's functions are helpers: those that an exercise's function calls, or a helper
 * does, and TEACHER lacks. (All else that differs may come from another version of the file.) */
static void find_helpers(const Source *mine, const Source *theirs, char **name, int n, char *helper)
{
    static char asked[MOST];
    for (int i = 0; i < n; i++)
        asked[must_find(theirs, name[i], strlen(name[i])) - theirs->at] = 1;
    for (int more = 1; more;) {
        more = 0;
        for (int i = 0; i < theirs->n_functions; i++)
            for (int j = 0; j < theirs->n_functions && (asked[i] || helper[i]); j++) {
                const Function *h = &theirs->at[j];
                if (asked[j] || helper[j] || find(mine, h->name, h->n_name)) continue;
                if (uses(theirs, &theirs->at[i], h)) helper[j] = 1, more = 1;
            }
    }
}

static void splice(const char *teacher, const char *student, char **name, int n)
{
    Source mine = read_source(teacher), theirs = read_source(student);
    size_t done = 0;
    int    line = 1, helped = 0;
    static char helper[MOST];
    find_helpers(&mine, &theirs, name, n, helper);
    for (int i = 0; i < mine.n_functions; i++) {
        const Function *f = &mine.at[i], *g = NULL;
        for (int j = 0; j < n; j++)
            if (f->n_name == strlen(name[j]) && !memcmp(f->name, name[j], f->n_name))
                g = must_find(&theirs, name[j], f->n_name);
        if (!g) continue;
        put(&mine, done, f->end);
        for (; done < f->end; done++) line += mine.text[done] == '\n';
        for (; theirs.at + helped < g; helped++) {
            const Function *h = &theirs.at[helped];
            if (!helper[helped]) continue;
            printf("#line %d \"%s\"\n", h->line, student);
            put(&theirs, h->start, h->end);
        }
        printf("#line %d \"%s\"\n", g->line, student);
        put_student(&theirs, g);
        printf("\n#line %d \"%s\"\n", line, teacher);
    }
    put(&mine, done, mine.n);
}

/* A function of the exercise, or a helper of its own, has no words that others have done it with. */
static void check_words(const Source *s, const Function *f, const char *const *word, int n)
{
    int n_name = (int)f->n_name;
    for (size_t i = f->open, next; i < f->close; i = next) {
        next = token_end(s->text, i);
        if (s->text[i] == '#' && s->text[i - 1] == '\n')
            printf("%.*s() has a line with #: write it in C alone\n", n_name, f->name), exit(1);
        for (int j = 0; j < n; j++)
            if (next - i == strlen(word[j]) && !memcmp(s->text + i, word[j], next - i))
                printf("%.*s() uses %s: write the sum itself\n", n_name, f->name, word[j]), exit(1);
    }
}

/* What can be said of a function without compiling it. A helper that called it back would reach the
 * teacher's, not the student's: it may not. */
static void state(const char *teacher, const char *student, char *name, char **twin, int n_twins)
{
    static const char *const never[] = {"fast_kernels", "naive_kernels", "asm", "__asm__",
                                        "__attribute__", "syscall"};
    static const char *word[MOST];
    static char     helper[MOST];
    int             n = 0, depth = 0;
    Source          mine = read_source(teacher), s = read_source(student);
    const Function *f = find(&s, name, strlen(name));
    if (!f) printf("%s() is not there, or its last } is not in the first column\n", name), exit(1);
    for (size_t i = f->open, next; i < f->close; i = next) {
        next = token_end(s.text, i);
        depth += (s.text[i] == '{') - (s.text[i] == '}');
        if (s.text[i] == '"' && memmem(s.text + i, next - i, "is yours to write", 17))
            printf("%s() is not written yet\n", name), exit(3);
    }
    if (depth != 1) printf("does not compile: the { and } of %s() do not match\n", name), exit(1);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) word[n++] = never[i];
    for (int i = 0; i < n_twins && n + 1 < MOST; i++) word[n++] = twin[i];
    check_words(&s, f, word, n);
    word[n++] = name;
    find_helpers(&mine, &s, &name, 1, helper);
    for (int i = 0; i < s.n_functions; i++)
        if (helper[i]) check_words(&s, &s.at[i], word, n);
}

int main(int argc, char **argv)
{
    const char *how = argc > 2 ? argv[1] : "";
    if (!strcmp(how, "assign")) assign(argv[2], argv + 3, argc - 3);
    else if (!strcmp(how, "splice") && argc > 3) splice(argv[2], argv[3], argv + 4, argc - 4);
    else if (!strcmp(how, "state") && argc > 4)
        state(argv[2], argv[3], argv[4], argv + 5, argc - 5);
    else stop("cut assign FILE EDIT...\ncut splice TEACHER STUDENT NAME...\n"
              "cut state TEACHER STUDENT NAME TWIN...");
    return 0;
}
