/* test_program.c - what the program reads and writes, and its statistics, function by function.
 *
 * Where something is wrong these functions say so and exit: such a case runs in a child, and what
 * it says is compared. */
#include "scratch.h"

#include <sys/resource.h>

#undef _DEFAULT_SOURCE
#undef MI_NO_MAIN
#define main mi_main
#include "../mi.c"
#undef main

#include "check.h"

static char said[4096];
static int  status_of_child;

static void listen_to(pid_t child, int from)
{
    size_t n = 0;
    for (ssize_t got; (got = read(from, said + n, sizeof said - 1 - n)) > 0;) n += got;
    said[n] = 0;
    close(from);
    while (waitpid(child, &status_of_child, 0) < 0) {}
}

/* The code runs in a child of ours, with its stderr in said. 99: it came to its end. */
#define IN_CHILD(...)                                                                            \
    do {                                                                                         \
        int ends[2];                                                                             \
        if (pipe(ends) < 0) abort();                                                             \
        fflush(NULL);                                                                            \
        pid_t child = fork();                                                                    \
        if (child == 0) {                                                                        \
            alarm(20);                                                                           \
            dup2(ends[1], 2);                                                                    \
            close(ends[0]), close(ends[1]);                                                      \
            __VA_ARGS__;                                                                         \
            _exit(99);                                                                           \
        }                                                                                        \
        close(ends[1]);                                                                          \
        listen_to(child, ends[0]);                                                               \
    } while (0)

/* It exits with this status and one line in which these words stand. */
#define REFUSES(status, words, what, ...)                                                        \
    do {                                                                                         \
        doing("%s", what);                                                                       \
        IN_CHILD(__VA_ARGS__);                                                                   \
        CHECK(WIFEXITED(status_of_child) && WEXITSTATUS(status_of_child) == status &&            \
              strstr(said, words) && !strncmp(said, "mi: ", 4) &&                                \
              strchr(said, '\n') == said + strlen(said) - 1,                                     \
              "%s: expected status %d and \"%s\", got %x and \"%s\"", what, status, words,       \
              status_of_child, said);                                                            \
    } while (0)

static const char *put(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file)) abort();
    return path;
}

static const char *put_text(const char *path, const char *text)
{
    return put(path, text, strlen(text));
}

static int holds(const char *path, const char *text)
{
    char  bytes[4096] = "";
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    bytes[fread(bytes, 1, sizeof bytes - 1, file)] = 0;
    fclose(file);
    return !strcmp(bytes, text);
}

/* Files in the directory, hidden ones too */
static int count_files(void)
{
    char  line[16];
    FILE *ls = popen("ls -A | wc -l", "r");
    if (!ls || !fgets(line, sizeof line, ls)) abort();
    pclose(ls);
    return atoi(line);
}

/* ---- Reading ---- */

static void reads(const char *what, const char *bytes, size_t n, const char *want, size_t n_want)
{
    size_t got;
    char  *text = read_all(put("in", bytes, n), 1000, &got);
    CHECK(got == n_want && !memcmp(text, want, n_want) && !text[got], "read_all: %s", what);
    free(text);
}

static void reads_prompt(const char *what, const char *typed, const char *want)
{
    size_t n;
    int    saved = dup(0), fd = open(put_text("in", typed), O_RDONLY);
    dup2(fd, 0);
    standard_input_is_read = 0;
    char *text = read_standard_input(&n);
    CHECK(n == strlen(want) && !strcmp(text, want), "standard input, %s: \"%s\"", what, text);
    free(text);
    dup2(saved, 0);
    close(fd), close(saved);
}

static void from(const char *path, int fd)              /* the child's standard input */
{
    int opened = path ? open(path, O_RDONLY) : fd;
    dup2(opened, 0);
    standard_input_is_read = 0;
}

static void test_reading(void)
{
    size_t n;
    doing("reading");
    reads("a text", "Mary\n", 5, "Mary\n", 5);
    reads("an empty file", "", 0, "", 0);
    reads("a BOM", "\xEF\xBB\xBF""Mary", 7, "Mary", 4);
    reads("a BOM only", "\xEF\xBB\xBF", 3, "", 0);
    reads("a BOM is dropped once", "\xEF\xBB\xBF\xEF\xBB\xBF", 6, "\xEF\xBB\xBF", 3);
    reads("zero bytes", "a\0b", 3, "a\0b", 3);
    char full[1000];
    memset(full, 'x', sizeof full);
    reads("just as many as may be", full, 1000, full, 1000);
    reads_prompt("one newline goes", "Mary\n", "Mary");
    reads_prompt("one only", "Mary\n\n", "Mary\n");
    reads_prompt("CRLF", "Mary\r\n", "Mary");
    reads_prompt("CRLF inside", "Mary\r\nJohn\r\n", "Mary\r\nJohn");
    reads_prompt("\\r without \\n", "Mary\r", "Mary\r");
    reads_prompt("BOM", "\xEF\xBB\xBFMary\n", "Mary");
    reads_prompt("nothing", "\n", "");

    mkdir("folder", 0777);
    REFUSES(1, "folder: a folder", "a folder", read_all("folder", 10, &n));
    REFUSES(1, "standard input: a folder", "mi - < FOLDER", from("folder", 0);
            read_standard_input(&n));
    REFUSES(1, "none: No such file", "no file", read_all("none", 10, &n));
    REFUSES(1, "a file without a name", "an empty name", read_all("", 10, &n));
    Command command;
    char   *argv[] = { "mi", "--model", "", NULL };
    REFUSES(2, "--model: the name of a file is empty", "an empty name after a flag",
            check(parse_command(&command, 3, argv), FAULT_OF_USER));
    REFUSES(1, "standard input: more than 1048576 bytes", "input without end",
            from("/dev/zero", 0); read_standard_input(&n));
    REFUSES(1, "/dev/zero: more than 10 bytes", "a device without end",
            read_all("/dev/zero", 10, &n));
    REFUSES(1, "in: more than 999 bytes", "a file over the limit",
            read_all(put("in", full, 1000), 999, &n));
    REFUSES(1, "UTF-16", "UTF-16", read_all(put("in", "\xFF\xFEM\0", 4), 10, &n));
    REFUSES(1, "cannot be read", "a read that fails", from(NULL, open("/dev/null", O_WRONLY));
            read_all("-", 10, &n));

    doing("pipes");
    mkfifo("fifo", 0666);
    REFUSES(1, "fifo: a pipe that nobody writes to", "a FIFO that nobody writes",
            read_all("fifo", 10, &n));
    IN_CHILD(
        if (fork() == 0) {
            alarm(10);                                  /* nobody waits for it */
            usleep(300000);
            int fd = open("fifo", O_WRONLY);
            usleep(300000);
            _exit(write(fd, "Mary", 4) != 4);
        }
        char *text = read_all("fifo", 10, &n);
        _exit(n == 4 && !strcmp(text, "Mary") ? 98 : 1));
    CHECK(WEXITSTATUS(status_of_child) == 98, "a FIFO whose writer comes later: \"%s\"", said);
    IN_CHILD(
        char name[32];
        int  ends[2];
        if (pipe(ends)) abort();
        if (fork() == 0) {
            alarm(10);                                  /* nobody waits for it */
            for (int i = 0; i < 50000; i++)
                if (write(ends[1], "0123456789", 10) != 10) abort();
            _exit(0);
        }
        close(ends[1]);
        snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
        char *text = read_all(name, 1 << 20, &n);
        _exit(n == 500000 && !memcmp(text + n - 10, "0123456789", 10) ? 98 : 1));
    CHECK(WEXITSTATUS(status_of_child) == 98, "<(...): \"%s\"", said);
    unlink("fifo");
}

/* After an @, the longest name of a column that fits; numbers are positions unless {in braces}. A
 * cell is one place of the prompt. */
static void test_columns(void)
{
    static const Column columns[] = {
        { "S", "4" }, { "S-3", "5" }, { "IO", "-1" }, { "3rd", "6" }, { "3", "7" }, { "S1+1", "8" },
        { "-2", "0" }, { "in the", "2" }, { "IOO", "all" }, { "all", "3" }, { "late", "10" },
        { "none", "" }, { "first", "-10" }, { "early", "-11" }, { "a}", "1" },
        { "huge", "123456789" },
    };
    static const struct { const char *at; int pos, last; const char *rest, *says; } cases[] = {
        { "S", 4, 4, "", 0 }, { "S,L1H1", 4, 4, ",L1H1", 0 }, { "S:IO", 4, 4, ":IO", 0 },
        { "S-3", 5, 5, "", 0 }, { "S-3:S", 5, 5, ":S", 0 }, { "IO", 9, 9, "", 0 },
        { "3rd", 6, 6, "", 0 }, { "3", 3, 3, "", 0 }, { "{3}", 7, 7, "", 0 },
        { "{3},", 7, 7, ",", 0 }, { "{S}-3", 4, 4, "-3", 0 }, { "S1+1", 8, 8, "", 0 },
        { "-2", 8, 8, "", 0 }, { "{-2}", 0, 0, "", 0 }, { "in the", 2, 2, "", 0 },
        { "*", 0, 9, "", 0 }, { "all", 0, 9, "", 0 }, { "{all}", 3, 3, "", 0 },
        { "2-4", 2, 4, "", 0 }, { "first", 0, 0, "", 0 }, { "{a}}", 1, 1, "", 0 },
        { "{S", 0, 0, "", "tokenizer" }, { "{S3}", 0, 0, "", "tokenizer" },
        { "{}", 0, 0, "", "tokenizer" }, { "SX", 0, 0, "", "tokenizer" },
        { "I", 0, 0, "", "tokenizer" }, { "S2", 0, 0, "", "tokenizer" },
        { "{S-3", 0, 0, "", "tokenizer" }, { "\"S\"", 0, 0, "", "tokenizer" },
        { "IOO", 0, 0, "", "IOO says \"all\"" },
        { "late", 0, 0, "", "late says 10, but the prompt has 10" },
        { "early", 0, 0, "", "early says -11" }, { "none", 0, 0, "", "none is empty" },
        { "huge", 0, 0, "", "huge says 123456789" }, { "12", 0, 0, "", "no position 12" },
    };
    static char flag[] = "--ablate";
    ListFiles files = { 0 };
    doing("columns as positions");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int value = 0; value < 2; value++) {       /* also where a value follows: "S=mean" */
            char   text[64];
            Range  pos = { -7, -7, 0, 0 };
            snprintf(text, sizeof text, "%s%s", cases[i].at, value ? "=mean" : "");
            Parser p = { .n = 10, .flag = flag, .argument = text, .at = text, .files = &files,
                         .end = text + strlen(cases[i].at), .columns = columns,
                         .n_columns = sizeof columns / sizeof *columns };
            int status = parse_position(&p, &pos);
            if (cases[i].says)
                CHECK(status == -1 && strstr(error_text, cases[i].says), "@%s: %s", text,
                      status ? error_text : "is accepted");
            else
                CHECK(status == 0 && pos.lo == cases[i].pos && pos.hi == cases[i].last &&
                      p.at == text + strlen(cases[i].at) - strlen(cases[i].rest),
                      "@%s is %d to %d, and then '%s': %s", text, pos.lo, pos.hi, p.at,
                      status ? error_text : "");
        }
}

static void test_split(void)
{
    static const struct { const char *argument; int at; } cases[] = {
        { "L5H3=x.npy", 4 }, { "L5H3", -1 }, { "L5H3=", 4 }, { "L5H3=lr=0.1/z.npy", 4 },
        { "L5H3=x@prompt.npy", 4 }, { "L5.resid_pre@\"a=b\"=x.npy", 18 },
        { "L5H3@\"=", -1 }, { "=x", 0 }, { "", -1 }, { "logits=a\"b=c.npy", 6 },
    };
    doing("find_value of files");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *found = find_value(cases[i].argument, 1);
        CHECK(cases[i].at < 0 ? !found : found == cases[i].argument + cases[i].at,
              "find_value: %s", cases[i].argument);
    }
}

/* ---- Tables ---- */

/* want: the cells with | between them and / before each row; header first */
static void table(const char *what, const char *path, const char *text, const char *want)
{
    MiTable rows[2];                                    /* the program's and the library's */
    doing("table: %s", what);
    rows[0] = read_table(put_text(path, text));
    CHECK(mi_table_read(&rows[1], path) == 0, "mi_table_read: %s: %s", what, mi_error());
    for (int i = 0; i < 2; i++) {
        char all[4096] = "";
        for (int r = -1; r < rows[i].n_rows; r++)
            for (int c = 0; c < rows[i].n_cols; c++)
                append(all, sizeof all, "%s%s", c ? "|" : r < 0 ? "" : "/",
                       r < 0 ? rows[i].header[c] : rows[i].cells[r * rows[i].n_cols + c]);
        CHECK(!strcmp(all, want), "table: %s: %s", what, all);
        mi_table_free(&rows[i]);
    }
}

static void test_tables(void)
{
    table("tabs", "t.tsv", "prompt\tanswer\na b\tc\n", "prompt|answer/a b|c");
    table("no last newline", "t.tsv", "prompt\tanswer\na\tb", "prompt|answer/a|b");
    table("an empty last cell", "t.tsv", "prompt\tanswer\na\t", "prompt|answer/a|");
    table("CRLF", "t.tsv", "prompt\tanswer\r\na\tb\r\nc\td\r\n", "prompt|answer/a|b/c|d");
    table("CRLF and quotes", "t.tsv", "p\tq\r\n\"a\"\t\"b\"\r\n", "p|q/a|b");
    table("lone CR, as pandas", "t.tsv", "p\tq\ra\tb\r", "p|q/a|b");
    table("empty lines", "t.tsv", "\n\np\tq\n\n\na\tb\n\r\n", "p|q/a|b");
    table("one column", "t", "prompt\na, b\n", "prompt/a, b");
    table("BOM", "t.tsv", "\xEF\xBB\xBFprompt\tq\na\tb\n", "prompt|q/a|b");
    table(".csv", "t.csv", "prompt,answer\n\"Then, Mary\", John\n",
          "prompt|answer/Then, Mary| John");
    table(".CSV", "t.CSV", "prompt\na\tb\n", "prompt/a\tb");
    table(".csv of one column", "t.csv", "prompt\n\"a,b\"\n", "prompt/a,b");
    table("commas without .csv", "t", "prompt,answer\na,b\n", "prompt|answer/a|b");
    table("tabs before commas", "t", "a,b\tc\n1,2\t3\n", "a,b|c/1,2|3");
    table("a quoted tab in the header", "t", "\"a\tb\",c\n1,2\n", "a\tb|c/1|2");
    table("a quoted comma in the header", "t", "\"a,b\"\nx,y\n", "a,b/x,y");
    table("quotes in a TSV", "t.tsv", "prompt\tq\n\"He said \"\" Mary \"\"\"\tb\n",
          "prompt|q/He said \" Mary \"|b");
    table("tabs and newlines in quotes", "t.tsv", "p\tq\n\"a\tb\n\nc\"\t\"\r\n\"\n",
          "p|q/a\tb\n\nc|\r\n");
    table("an empty quoted cell", "t.tsv", "p\n\"\"\nx\n", "p//x");
    table("only quotes", "t.tsv", "p\n\"\"\"\"\n\"\"\"\"\"\"", "p/\"/\"\"");
    table("a quote inside", "t.tsv", "p\tq\n5\" disk\ta\"b\"\n", "p|q/5\" disk|a\"b\"");
    table("spaces stay", "t.csv", "p,q\n a , \"b\n", "p|q/ a | \"b");
    table("pandas' index", "t.csv", ",prompt\n0,a\n1,b\n", "|prompt/0|a/1|b");
    table("two without a name", "t.csv", ",,prompt\n0,1,a\n", "||prompt/0|1|a");

    MiTable rows;
    REFUSES(1, "t.tsv: row 2 (line 3): expected the header's 2 cells, found 3", "a row too long",
            read_table(put_text("t.tsv", "p\tq\na\tb\na\tb\tc\n")));
    REFUSES(1, "t.tsv: row 1 (line 3): expected the header's 2 cells, found 1", "a row too short",
            read_table(put_text("t.tsv", "p\tq\n\na\n")));
    REFUSES(1, "t.tsv: row 2 (line 4): expected the header's 2 cells, found 1",
            "lines inside quotes count",
            read_table(put_text("t.tsv", "p\tq\n\"a\nb\"\tb\na\n")));
    REFUSES(1, "row 2 (line 5): expected", "lines of CRLF count once",
            read_table(put_text("t.tsv", "p\tq\r\n\r\na\tb\r\n\r\na\r\n")));
    REFUSES(1, "row 1 (line 2): a quote is opened and never closed", "unclosed",
            read_table(put_text("t.tsv", "p\tq\na\t\"b\nc\td\n")));
    REFUSES(1, "never closed", "unclosed at the end", read_table(put_text("t.tsv", "p\n\"")));
    REFUSES(1, "never closed", "a doubled quote at the end",
            read_table(put_text("t.tsv", "p\n\"a\"\"")));
    REFUSES(1, "row 0 (line 1): a quote", "unclosed header", read_table(put_text("t", "\"p\nq")));
    REFUSES(1, "row 1 (line 2): text after a closing quote", "text after a quote",
            read_table(put_text("t.tsv", "p\n\"Mary\" said\n")));
    REFUSES(1, "zero byte", "a zero byte", read_table(put("t.tsv", "p\na\0b\n", 6)));
    REFUSES(1, "two columns are named q", "a name twice",
            read_table(put_text("t.tsv", "p\tq\tq\na\tb\tc\n")));
    REFUSES(1, "expected a header and rows", "an empty table", read_table(put_text("t.tsv", "\n")));
    REFUSES(1, "expected a header and rows", "a header only",
            read_table(put_text("t.tsv", "p\tq\n")));
    REFUSES(1, "standard input: expected", "nothing on standard input", from("/dev/null", 0);
            read_table("-"));
    char wide[12001];
    memset(wide, '\t', sizeof wide);
    wide[6000] = '\n';
    REFUSES(1, "more than 4096 columns", "many columns",
            read_table(put("t.tsv", wide, sizeof wide)));

    doing("a table of a million rows");
    FILE *file = fopen("million.csv", "wb");
    fputs("prompt,answer,group\n", file);
    for (int i = 0; i < 1000000; i++) fprintf(file, "\"Then, %d and Mary\", Mary,%d\n", i, i);
    fclose(file);
    clock_t start = clock();
    rows = read_table("million.csv");
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    CHECK(rows.n_rows == 1000000 && !strcmp(mi_cell(&rows, 999999, "group"), "999999") &&
          !strcmp(mi_cell(&rows, 7, "prompt"), "Then, 7 and Mary") && !mi_cell(&rows, 0, "versus"),
          "a million rows: cells");
    CHECK(seconds < 20, "a million rows take %.1f s", seconds);
    start = clock();
    const char **name = must(malloc(1000000 * sizeof *name));
    for (int i = 0; i < 1000000; i++) name[i] = rows.cells[3 * (size_t)i + 2];
    int n_groups;
    int *group = mi_groups(name, 1000000, &n_groups);
    seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    CHECK(n_groups == 1000000 && group[999999] == 999999 && seconds < 20,
          "a million groups: %d in %.1f s", n_groups, seconds);
    free(group);
    free(name);
    mi_table_free(&rows);
    unlink("million.csv");
}

/* ---- Writing ---- */

/* An exit before the leak checker's own, which cannot look into a process of another user */
static void end_early(void) { _exit(1); }

/* Devices are tried without the right to replace them: what is tested here may be broken, and the
 * machine is not to suffer from that. */
static void become_nobody(void)
{
    if (geteuid() == 0 && setuid(65534)) abort();
    atexit(end_early);
}

static void test_writing(void)
{
    struct stat info;
    int files;
    doing("writing");
    unlink("out"), unlink("in");
    umask(027);
    /* first: a process asks once what is ignored */
    IN_CHILD(
        signal(SIGINT, SIG_IGN);
        Writer w;
        open_writer(&w, "out");
        raise(SIGINT);
        write_bytes(&w, "kept", 4);
        finish_writer(&w));
    CHECK(WEXITSTATUS(status_of_child) == 99 && holds("out", "kept") && unlink("out") == 0,
          "a signal that is ignored stays ignored");
    check_writable("out");
    CHECK(stat("out", &info) < 0, "check_writable leaves nothing");
    files = count_files();
    put_text("out.part", "mine");
    write_whole("out", "one", 3);
    stat("out", &info);
    CHECK(holds("out", "one") && (info.st_mode & 0777) == 0640, "a new file, by the umask: %o",
          info.st_mode);
    chmod("out", 0604);
    check_writable("out");
    CHECK(holds("out", "one"), "check_writable does not touch a file");
    write_whole("out", "two", 3);
    stat("out", &info);
    CHECK(holds("out", "two") && (info.st_mode & 0777) == 0604, "a file replaced keeps its mode");
    CHECK(holds("out.part", "mine"), "a file FILE.part is not ours");
    CHECK(count_files() == files + 2, "nothing else is left");
    write_whole("out", "", 0);
    CHECK(holds("out", "") && stat("out", &info) == 0, "an empty file");

    doing("symlinks");
    mkdir("far", 0777);
    CHECK(symlink("far/near", "link") == 0 && symlink("../aim", "far/near") == 0, "symlink");
    REFUSES(1, "link: cannot be written: a symlink to nowhere", "a dangling symlink",
            check_writable("link"));
    put_text("aim", "three");
    write_whole("link", "four", 4);
    CHECK(lstat("link", &info) == 0 && S_ISLNK(info.st_mode) && lstat("far/near", &info) == 0 &&
          S_ISLNK(info.st_mode) && holds("aim", "four") && lstat("aim", &info) == 0 &&
          S_ISREG(info.st_mode), "symlinks stay; the file at their end is replaced");
    CHECK(symlink("loop", "loop") == 0, "symlink");
    REFUSES(1, "loop: cannot be written", "a loop of symlinks", write_whole("loop", "x", 1));
    char *a = target_of("link"), *b = target_of("./far/../aim"), *c = target_of("/tmp/../mi-x"),
         *d = target_of("/mi-x");
    CHECK(!strcmp(a, b) && strcmp(a, c) && !strcmp(c, "/mi-x") && !strcmp(d, c),
          "target_of: %s, %s, %s, %s", a, b, c, d);
    free(a), free(b), free(c), free(d);

    doing("what cannot be written");
    files = count_files();
    REFUSES(1, "folder: cannot be written: Is a directory", "a folder", check_writable("folder"));
    REFUSES(1, "none/x.npy: cannot be written: there is no such folder", "no folder",
            check_writable("none/x.npy"));
    REFUSES(1, "out/x: cannot be written: Not a directory", "a file as folder",
            check_writable("out/x"));
    REFUSES(1, "new/: cannot be written", "a name that ends in /", check_writable("new/"));
    REFUSES(1, "a file without a name: cannot be written", "no name", check_writable(""));
    char lengthy[5000];
    memset(lengthy, 'x', sizeof lengthy);
    lengthy[300] = 0;
    REFUSES(1, "File name too long", "a long name", check_writable(lengthy));
    lengthy[300] = 'x', lengthy[4999] = 0;
    REFUSES(1, "cannot be written", "a longer name", write_whole(lengthy, "x", 1));
    memset(lengthy, 'x', 255), lengthy[255] = 0;
    write_whole(lengthy, "x", 1);
    CHECK(holds(lengthy, "x"), "the longest name that there is");
    unlink(lengthy);
    REFUSES(1, "Permission denied", "a folder of others", if (chdir("/")) abort();
            become_nobody(); check_writable("mi-test-x"));
    put_text("locked", "x"), chmod("locked", 0444);
    REFUSES(1, "locked: cannot be written: Permission denied", "a file that is read-only",
            if (chmod(".", 0777)) abort();
            become_nobody(); check_writable("locked"));
    CHECK(unlink("locked") == 0, "... stays");
    REFUSES(1, "cannot be written: No space left", "a full device", become_nobody();
            write_whole("/dev/full", "x", 1));
    struct rlimit limit = { 100, 100 };
    REFUSES(1, "cannot be written: File too large", "a limit of file sizes",
            setrlimit(RLIMIT_FSIZE, &limit); write_whole("out", lengthy, 1000));
    CHECK(holds("out", "") && count_files() == files, "... and the old file is as it was: %d of %d",
          count_files(), files);

    doing("written directly");
    IN_CHILD(
        become_nobody();
        check_writable("/dev/null");
        write_whole("/dev/null", "x", 1);
        _exit(98));
    CHECK(WEXITSTATUS(status_of_child) == 98, "/dev/null is written into: %s", said);
    IN_CHILD(
        dup2(open("in", O_WRONLY | O_CREAT | O_TRUNC, 0666), 1);
        if (write(1, "before ", 7) != 7) abort();
        write_whole("/dev/stdout", "here ", 5);
        write_whole("/dev/fd/1", "too ", 4);
        dup2(1, 2);
        write_whole("/dev/stderr", "and there ", 10);
        if (write(1, "after", 5) != 5) abort());
    CHECK(holds("in", "before here too and there after"), "/dev/stdout is written where it stands");
    mkfifo("fifo", 0666);
    IN_CHILD(
        if (fork() == 0) {
            alarm(10);                                  /* nobody waits for it */
            write_whole("fifo", "whole", 5);
            _exit(0);
        }
        char *text = read_all("fifo", 10, &(size_t){ 0 });
        _exit(strcmp(text, "whole") ? 1 : 98));
    CHECK(WEXITSTATUS(status_of_child) == 98 && stat("fifo", &info) == 0 && S_ISFIFO(info.st_mode),
          "a FIFO is written into");
    check_writable("fifo");                             /* does not wait for a reader */
    unlink("fifo");
}

static void write_a_lot(const char *text)
{
    Writer w;
    static char piece[1 << 16];
    memset(piece, *text, sizeof piece);
    open_writer(&w, "out");
    for (int i = 0; i < 64; i++) write_bytes(&w, piece, sizeof piece);
    finish_writer(&w);
}

static void test_interruptions(void)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    doing("signals");
    put_text("out", "old");
    int files = count_files();
    for (int i = 0; i < 4; i++) {
        IN_CHILD(
            Writer w;
            open_writer(&w, "out");
            write_bytes(&w, "new", 3);
            raise(numbers[i]));
        CHECK(WIFSIGNALED(status_of_child) && WTERMSIG(status_of_child) == numbers[i] &&
              holds("out", "old") && count_files() == files,
              "signal %d: status %x, %d files of %d", numbers[i], status_of_child, count_files(),
              files);
    }
    IN_CHILD(
        Writer w;
        open_writer(&w, "out");
        write_bytes(&w, "x", 1);
        mi_fail("a run that fails");
        leave(1));
    CHECK(holds("out", "old") && count_files() == files, "an exit leaves nothing behind");
    doing("signals at any time");
    for (int i = 0; i < 40; i++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) for (alarm(10);;) write_a_lot("a");
        usleep(1000 + 777 * i);
        kill(child, SIGTERM);
        waitpid(child, NULL, 0);
    }
    CHECK(stat("out", &(struct stat){ 0 }) == 0 && count_files() == files,
          "forty interrupted writers leave %d files more", count_files() - files);

    doing("two writers of one name");
    pid_t child[4];
    for (int i = 0; i < 4; i++)
        if ((child[i] = fork()) == 0) {
            for (int j = 0; j < 10; j++) write_a_lot(&"abcd"[i]);
            _exit(0);
        }
    for (int i = 0; i < 4; i++) {
        int status;
        waitpid(child[i], &status, 0);
        CHECK(status == 0, "parallel writers: status %x", status);
    }
    size_t n;
    char  *text = read_all("out", 1 << 23, &n);
    CHECK(n == 64 << 16 && strspn(text, (char[]){ *text, 0 }) == n && count_files() == files,
          "parallel writers: one of them, whole");
    free(text);
}

/* ---- .npy ---- */

static char npy[4096];

/* version, header (%s: numbers), values */
static const char *put_npy(int version, const char *header, const void *values, size_t size)
{
    int n = (int)strlen(header), start = version > 1 ? 12 : 10;
    memset(npy, 0, sizeof npy);
    memcpy(npy, "\x93NUMPY", 6);
    npy[6] = (char)version;
    npy[8] = (char)n, npy[9] = (char)(n >> 8);
    memcpy(npy + start, header, n);
    memcpy(npy + start + n, values, size);
    return put("x.npy", npy, start + n + size);
}

static const float  six[6] = { 1, -2, 3.5f, 4, 5, 6 };
static const double wide_six[6] = { 1, -2, 3.5, 4, 5, 6 };

static void reads_npy(const char *what, int version, const char *header, int wide,
                      const char *shape)
{
    char got[64];
    doing(".npy: %s", what);
    Array a = read_npy(put_npy(version, header, wide ? (void *)wide_six : (void *)six,
                               wide ? sizeof wide_six : sizeof six));
    print_shape(got, sizeof got, &a);
    CHECK(a.n == 6 && !memcmp(a.values, six, sizeof six) && !strcmp(got, shape), ".npy: %s: (%s)",
          what, got);
    free(a.values);
}

static void test_npy(void)
{
    reads_npy("as numpy writes it", 1,
              "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }     \n", 0, "2, 3");
    reads_npy("float64", 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (6,), }\n", 1, "6,");
    reads_npy("another order", 1, "{\"shape\":(3,2),\"fortran_order\":False,\"descr\":\"=f4\"}", 0,
              "3, 2");
    reads_npy("spaces", 1, "{ 'shape' : ( 3 , 2 ) , 'descr' : '|f8' , 'fortran_order' : False }", 1,
              "3, 2");
    reads_npy("longs", 1, "{'descr': 'f4', 'fortran_order': False, 'shape': (2L, 3L), }", 0,
              "2, 3");
    reads_npy("version 2", 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 0,
              "2, 3");
    reads_npy("version 3", 3, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 0,
              "2, 3");
    reads_npy("six axes", 1,
              "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2, 1, 3, 1), }", 0,
              "1, 1, 2, 1, 3, 1");

#define DICT(descr, order, shape) \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"
    static const struct { const char *what, *header, *words; int version; } bad[] = {
        { "records", DICT("[('x', '<f4'), ('y', '<f4')]", "False", "(3,)"),
          "its header says 'descr':[('x'", 1 },
        { "'<f4' in a field", DICT("[('<f4', '<f4')]", "False", "(6,)"), "one plain array", 1 },
        { "big-endian", DICT("'>f4'", "False", "(6,)"), "its numbers are >f4", 1 },
        { "float16", DICT("'<f2'", "False", "(12,)"), "dtype=np.float32", 1 },
        { "integers", DICT("'<i4'", "False", "(6,)"), "its numbers are <i4", 1 },
        { "bool", DICT("'|b1'", "False", "(24,)"), "its numbers are |b1", 1 },
        { "f16", DICT("'<f16'", "False", "(2,)"), "its numbers are <f16", 1 },
        { "a time", DICT("'<M8[ns]'", "False", "(3,)"), "its numbers are <M8[ns]", 1 },
        { "Fortran", DICT("'<f4'", "True", "(2, 3)"), "it is in Fortran's order", 1 },
        { "order of another kind", DICT("'<f4'", "0", "(2, 3)"),
          "its header says 'fortran_order':0", 1 },
        { "no axis of 0", DICT("'<f4'", "False", "(0,)"), "its shape is (0,)", 1 },
        { "no tuple", DICT("'<f4'", "False", "6"), "its header says 'shape':6", 1 },
        { "negative", DICT("'<f4'", "False", "(-6,)"), "its header says 'shape':(-6", 1 },
        { "seven axes", DICT("'<f4'", "False", "(1,1,1,1,1,1,6)"), "at most 6 axes", 1 },
        { "large", DICT("'<f4'", "False", "(65536, 65536)"), "at most 6 axes and 268435456", 1 },
        { "larger", DICT("'<f4'", "False", "(18446744073709551617, 1)"), "at most", 1 },
        { "unclosed shape", DICT("'<f4'", "False", "(6,"), "header", 1 },
        { "nested shape", DICT("'<f4'", "False", "((6,),)"), "its header says", 1 },
        { "more than there is", DICT("'<f4'", "False", "(7,)"),
          "its shape needs 28 bytes; 24 follow", 1 },
        { "less than there is", DICT("'<f4'", "False", "(5,)"),
          "its shape needs 20 bytes; 24 follow", 1 },
        { "another size", DICT("'<f8'", "False", "(6,)"), "its shape needs 48", 1 },
        { "no shape", "{'descr': '<f4', 'fortran_order': False}", "not that of one array", 1 },
        { "an unknown key", "{'descr': '<f4', 'order': False, 'shape': (6,)}",
          "its header says 'order'", 1 },
        { "more than a dict", DICT("'<f4'", "False", "(6,)") " + 1", "not that of one array", 1 },
        { "unclosed", "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)", "header", 1 },
        { "an unclosed key", "{'descr", "its header says", 1 },
        { "no dict", "[]", "its header", 1 },
        { "empty", "", "its header", 1 },
        { "version 4", DICT("'<f4'", "False", "(6,)"), "version 4.0", 4 },
        { "version 0", DICT("'<f4'", "False", "(6,)"), "version 0.0", 0 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_npy(bad[i].version, bad[i].header, six, sizeof six);
        REFUSES(1, bad[i].words, bad[i].what, read_npy("x.npy"));
        CHECK(strstr(said, "mi: x.npy: "), ".npy, %s: names the file", bad[i].what);
    }
    REFUSES(1, "np.save", "an .npz", read_npy(put_text("x.npy", "PK\3\4 and so on")));
    REFUSES(1, "not an array", "text", read_npy(put_text("x.npy", "1 2 3\n")));
    REFUSES(1, "not an array", "nothing", read_npy(put_text("x.npy", "")));
    for (int n = 1; n < 80; n++) {                      /* every truncation of a good one */
        put_npy(1, DICT("'<f4'", "False", "(6,)"), six, sizeof six);
        put("x.npy", npy, n);
        Array a;
        doing(".npy cut to %d bytes", n);
        unsigned char *exact = memcpy(must(malloc(n)), npy, n);     /* for the sanitizers */
        CHECK(parse_npy(exact, n, &a) < 0, ".npy cut to %d bytes", n);
        free(exact);
    }

    doing("write_npy");
    Array shapes[] = { { 0, {0}, 1, NULL }, { 1, {6}, 6, NULL }, { 3, {1, 3, 2}, 6, NULL },
                       { 6, {1, 1, 2, 1, 3, 1}, 6, NULL } };
    for (int i = 0; i < 4; i++) {
        size_t n;
        char   want[64], got[64];
        shapes[i].values = (float *)six;
        write_npy("y.npy", &shapes[i]);
        Array back = read_npy("y.npy");
        char *bytes = read_all("y.npy", 4096, &n);
        print_shape(want, sizeof want, &shapes[i]);
        print_shape(got, sizeof got, &back);
        CHECK(!strcmp(want, got) && !memcmp(back.values, six, back.n * 4) &&
              back.n == shapes[i].n && (n - 4 * back.n) % 64 == 0 &&
              bytes[n - 4 * back.n - 1] == '\n',
              "write_npy: (%s) comes back as (%s)", want, got);
        free(back.values);
        free(bytes);
    }
}

/* ---- Statistics ---- */

static int close_to(double got, double want)
{
    return isnan(want) ? isnan(got) : fabs(got - want) <= 1e-9 * (1 + fabs(want));
}

static MiEstimate ratio_over(const double *a, size_t a_stride, const double *b, size_t b_stride,
                             const int *group, int n)
{
    MiEstimate e;
    CHECK(mi_ratio(a, a_stride, b, b_stride, group, n, &e) == 0, "mi_ratio: %s", mi_error());
    return e;
}

/* The line of statistics.golden with this name: mean, error, n, groups, critical */
static void golden(FILE *file, const char *name, MiEstimate e)
{
    char   line[1024];
    size_t n = strlen(name);
    double v[5];
    rewind(file);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, n) && line[n] == ' ' &&
            sscanf(line + n, "%lf %lf %lf %lf %lf", v, v + 1, v + 2, v + 3, v + 4) == 5) {
            CHECK(close_to(e.mean, v[0]) && close_to(e.error, v[1]) && e.n == v[2] &&
                  e.n_groups == v[3] && close_to(e.critical, v[4]),
                  "%s: %.12g +- %.12g over %d in %d groups, t %.12g; expected %s", name, e.mean,
                  e.error, e.n, e.n_groups, e.critical, line);
            return;
        }
    CHECK(0, "%s is not in statistics.golden", name);
}

static void test_golden(const MiTable *rows, FILE *file)
{
    enum { N = 60 };
    double v[N][5];                     /* base, edited, source, edited - base, source - base */
    const char *names[N], *none[N] = {0};
    int n_groups, n = rows->n_rows;
    CHECK(n == N, "statistics.tsv: %d rows", n);
    for (int i = 0; i < N; i++) {
        v[i][0] = atof(mi_cell(rows, i, "base"));
        v[i][1] = atof(mi_cell(rows, i, "edited"));
        v[i][2] = atof(mi_cell(rows, i, "source"));
        v[i][3] = v[i][1] - v[i][0];
        v[i][4] = v[i][2] - v[i][0];
        names[i] = mi_cell(rows, i, "group");
    }
    for (int single = 0; single < 2; single++) {
        int *group = mi_groups(single ? none : names, N, &n_groups);
        const char *how = single ? "single" : "clustered", *what[] = { "base", "edited", "change" };
        const int column[] = { 0, 1, 3 };
        char name[64];
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "%s.%s", how, what[i]);
            golden(file, name, mean_over(&v[0][column[i]], 5, group, N));
        }
        snprintf(name, sizeof name, "%s.share", how);
        golden(file, name, ratio_over(&v[0][1], 5, &v[0][0], 5, group, N));
        snprintf(name, sizeof name, "%s.restored", how);
        golden(file, name, ratio_over(&v[0][3], 5, &v[0][4], 5, group, N));
        free(group);
    }
    int *group = mi_groups(names, N, &n_groups), wrong = 0;
    char line[1024] = "";
    rewind(file);
    while (fgets(line, sizeof line, file) && strncmp(line, "groups ", 7)) {}
    char *at = line + 6;
    for (int i = 0; i < N; i++) wrong += group[i] != strtod(at, &at);
    CHECK(wrong == 0, "number_groups: %d of 60 rows are in another group", wrong);

    for (int i = 3; i < N; i += 7) v[i][i % 3] = i % 2 ? NAN : INFINITY;
    CHECK(drop_rows(&v[0][0], 5, N, group) == 9, "drop_rows: says how many");
    golden(file, "kept.base", mean_over(&v[0][0], 5, group, N));
    golden(file, "kept.restored", ratio_over(&v[0][3], 5, &v[0][4], 5, group, N));
    free(group);
}

static void test_quantiles(FILE *file)
{
    char line[1024];
    int  n = 0, freedom;
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        double want, got;
        if (sscanf(line, "t %d %lf", &freedom, &want) != 2) continue;
        got = t_quantile(freedom);
        CHECK(fabs(got / want - 1) < 1e-9, "t_quantile(%d): %.15g, expected %.15g", freedom, got,
              want);
        n++;
    }
    CHECK(n > 100, "quantiles of %d degrees of freedom", n);
    CHECK(isnan(t_quantile(0)), "t_quantile(0)");
}

static void test_estimates(void)
{
    double v[] = { 1, NAN, 3, NAN, 5, NAN, 7, 9 };                      /* [4,2] */
    const char *names[] = { "a", "b", "a", NULL };
    int n_groups, *group = mi_groups(names, 4, &n_groups);
    CHECK(n_groups == 3 && group[0] == 0 && group[1] == 1 && group[2] == 0 && group[3] == 2,
          "number_groups: in the order of their first rows");
    CHECK(drop_rows(v, 2, 3, group) == 0, "drop_rows: NAN everywhere is no cell");
    CHECK(drop_rows(v, 2, 4, group) == 3 && group[0] == -1 && group[3] == 2,
          "drop_rows: NAN in some rows");
    CHECK(drop_rows(v, 2, 4, group) == 0, "drop_rows: a row leaves once");
    MiEstimate e = mean_over(v, 2, group, 4);
    CHECK(e.mean == 7 && e.n == 1 && e.n_groups == 1 && isnan(e.error) && isnan(e.critical) &&
          !(fabs(e.mean) <= e.critical * e.error), "one group: no error");
    free(group);
    const char *same[] = { "a", "a", "a", "a" };
    group = mi_groups(same, 4, &n_groups);
    v[1] = v[3] = v[5] = 0, v[7] = -INFINITY;
    CHECK(drop_rows(v, 2, 4, group) == 1 && group[3] == -1, "drop_rows: infinity");
    group[3] = 0;
    e = mean_over(v, 2, group, 4);
    CHECK(n_groups == 1 && e.mean == 4 && e.n == 4 && isnan(e.error), "all rows in one group");
    for (int i = 0; i < 4; i++) group[i] = -1;
    e = mean_over(v, 2, group, 4);
    CHECK(e.n == 0 && isnan(e.mean) && isnan(e.error), "no rows: no mean");
    free(group);
    group = mi_groups((const char *[]){ "", "" }, 2, &n_groups);
    CHECK(n_groups == 2, "an empty name is a group of its own");
    e = mean_over((double[]){ -1, 1.2 }, 1, group, 2);
    CHECK((fabs(e.mean) <= e.critical * e.error), "t with one degree of freedom is 12.7");
    e = mean_over((double[]){ 1, 1.1 }, 1, group, 2);
    CHECK(!(fabs(e.mean) <= e.critical * e.error), "1.05 +- .05 is not 0");
    e = mean_over((double[]){ 0, 0 }, 1, group, 2);
    CHECK(e.mean == 0 && e.error == 0 && (fabs(e.mean) <= e.critical * e.error), "zeros are 0");
    e = ratio_over((double[]){ 1, 2 }, 1, (double[]){ 1, -1 }, 1, group, 2);
    CHECK(isnan(e.mean), "a ratio to 0 is none");
    e = ratio_over((double[]){ 2, 4 }, 1, (double[]){ -1, -2 }, 1, group, 2);
    CHECK(e.mean == -2 && e.error == 0, "a ratio of negative sums");
    free(group);
    group = mi_groups(NULL, 0, &n_groups);
    CHECK(n_groups == 0, "no rows, no groups");
    free(group);
}

/* The mean over all rows has the bits of a sum over the rows of the parts, in order. */
static void test_program_of_a_study(void)
{
    enum { N = 1000 };
    static double v[N];
    double sum = 0;
    int n_groups, n = 0, *group = mi_groups((const char *[N]){0}, N, &n_groups);
    uint64_t bits = 1;
    for (int i = 0; i < N; i++)
        bits = mix_bits(bits + i), v[i] = ldexp((double)(int64_t)bits, (int)(bits % 40) - 60);
    for (int part = 0; part < 3; part++)
        for (int i = part * N / 3; i < (part + 1) * N / 3; i++, n++) {
            char text[32];
            snprintf(text, sizeof text, "%.17g", v[i]);
            sum += strtod(text, NULL);
        }
    double mean = sum / n, whole = mean_over(v, 1, group, N).mean;
    CHECK(!memcmp(&mean, &whole, sizeof mean), "three parts: %.17g, the whole %.17g", mean, whole);
    free(group);
}

static char tables[4096];               /* tests/golden, from the root */

static int body(void)
{
    if (chdir(scratch) < 0) return perror(scratch), 1;
    test_columns();
    test_split();
    test_reading();
    test_tables();
    test_writing();
    test_interruptions();
    test_npy();

    doing("statistics");
    if (chdir(tables) < 0) return perror(tables), 1;
    FILE *file = fopen("statistics.golden", "r");
    MiTable rows = read_table("statistics.tsv");
    CHECK(file != NULL, "tests/golden/statistics.golden is not there");
    if (file) test_golden(&rows, file), test_quantiles(file), fclose(file);
    test_estimates();
    test_program_of_a_study();
    mi_table_free(&rows);
    return report();
}

int main(void)
{
    if (!realpath("tests/golden", tables)) return perror("tests/golden"), 1;
    return in_scratch(body);
}
