/* test_edges.c - the edges of mi.h: what each function does at the first and the last of what it is
 * given, and just beyond. Each check here goes red for a change that no other test notices. */
#include "scratch.h"
#include "check.h"
#include "world.h"

#include <stddef.h>

static World w;

/* ---- Tokens ---- */

/* A lane's tokens are those of its trunk, below its first row and from it on. */
static void tokens_are_those_of_the_trunk(void)
{
    int T = w.T, last = T - 1;
    MiEdit edit = {.op = MI_SCALE, .site = MI_resid_mid, .head = -1, .count = w.s.d_model,
                   .pos = T / 2, .pos_end = INT_MAX, .amount = 2};
    MiLane lanes[2] = {{w.base, &edit, 1, -1, 0}, {w.base, &edit, 1, 0, 0}};
    MiRun *fork = mi_fork(lanes, 2, -1, MI_KEEP_NONE);
    CHECK(fork, "tokens of a fork: %s", mi_error());
    for (int t = 0; t < T && fork; t++)
        CHECK(mi_token(w.base, 0, t) == w.tokens[t] && mi_token(fork, 0, t) == w.tokens[t] &&
              mi_token(fork, 1, t) == w.tokens[t], "token of position %d is %d, in lanes %d and %d,"
              " not %d", t, mi_token(w.base, 0, t), mi_token(fork, 0, t), mi_token(fork, 1, t),
              w.tokens[t]);
    mi_free(fork);
    lanes[0].read = lanes[1].read = last;               /* then the last rows lie apart */
    fork = mi_fork(lanes, 2, -1, MI_KEEP_NONE);
    for (int i = 0; i < 2 && fork; i++)
        CHECK(mi_n_tokens(fork, i) == last && mi_token(fork, i, last - 1) == w.tokens[last - 1] &&
              mi_token(fork, i, last) == -1, "tokens of lane %d that is read before the last", i);
    mi_free(fork);
    CHECK(mi_token(w.base, 0, -1) == -1 && mi_token(w.base, 0, T) == -1 &&
          mi_token(w.base, 1, 0) == -1 && mi_token(w.base, -1, 0) == -1 &&
          mi_n_tokens(w.base, 1) == -1 && mi_n_tokens(w.base, -1) == -1,
          "a position or a lane that does not exist has a token");
}

/* Rows of the vocabulary are 0 .. V-1, in a prompt, in what it grows by, and in what is read. */
static void tokens_outside_the_vocabulary(void)
{
    int V = w.s.n_vocab, wrong[] = {-1, V, V + 1, INT_MIN, INT_MAX};
    float logit[2];
    for (int i = 0; i < 5; i++) {
        int tokens[3] = {0, V - 1, wrong[i]}, pair[2] = {V - 1, wrong[i]};
        MiOptions options = {.capacity = 4, .threads = 1};
        MiRun *bad = mi_run(w.model, tokens, 3, NULL, &options);
        CHECK(!bad && strstr(mi_error(), "position 2"), "a prompt with token %d of %d: %s",
              wrong[i], V, bad ? "runs" : mi_error());
        mi_free(bad);
        MiRun *good = mi_run(w.model, tokens, 2, NULL, &options);
        CHECK(good, "a prompt of the first and the last token: %s", mi_error());
        if (!good) continue;
        CHECK(mi_append(good, &wrong[i], 1) == -1 && mi_n_tokens(good, 0) == 2,
              "token %d of %d is appended", wrong[i], V);
        CHECK(mi_logits_of(good, 0, 1, pair, 2, logit) == -1, "the logit of token %d of %d",
              wrong[i], V);
        CHECK(mi_logits_of(good, 0, 1, tokens, 2, logit) == 0, "logits of two tokens: %s",
              mi_error());
        mi_free(good);
    }
}

/* What cannot be read is -1 and a line that cannot move a cursor. */
static void errors_are_minus_one_and_a_line(void)
{
    static float logits[4096];
    CHECK(mi_logits(w.base, 0, w.T, logits) == -1 && mi_logits(w.base, 0, -1, logits) == -1 &&
          mi_logits(w.base, 1, 0, logits) == -1, "logits of no position are read");
    CHECK(mi_lens(w.base, 0, MI_resid_mid, w.s.n_layer, 0, 0, logits) == -1 &&
          mi_lens(w.base, 0, MI_z, 0, w.T, 0, logits) == -1, "the lens of no value is read");
    MiModel *none = mi_open("no\x7f\x1b[2J\xc2\x9b\x80\n~\xc2\xa0such");
    CHECK(!none && !strncmp(mi_error(), "no??[2J???~\xc2\xa0such: ", 19),
          "a file that is not there: %s", mi_error());
    mi_close(none);
}

/* GPT-2's contractions are lower case; elsewhere an apostrophe is a sign before a word. */
static void contractions_are_lower_case(void)
{
    static const struct { const char *text, *tokens; } cases[] = {
        {"it's", "it|'s"}, {"'The", "'|The"}, {"IT'S", "IT|'|S"}, {"I'M", "I|'|M"},
        {"they'LL", "they|'|LL"}, {"'Re", "'|Re"}, {"'D", "'|D"}, {"we've", "we|'ve"},
        {"'Ve", "'|Ve"}, {"I'm'm", "I|'m|'m"}, {" 's", " '|s"}, {"'", "'"},
    };
    MiTokenizer *words = mi_tokenizer_open("tokenizer.bin", NULL);
    CHECK(words, "tokenizer.bin: %s", mi_error());
    for (size_t i = 0; i < sizeof cases / sizeof *cases && words; i++) {
        int tokens[16], length;
        char got[64] = "";
        int64_t n = mi_encode(words, cases[i].text, strlen(cases[i].text), tokens, 16);
        for (int t = 0; t < n; t++) {
            const char *bytes = mi_token_bytes(words, tokens[t], &length);
            size_t used = strlen(got);
            snprintf(got + used, sizeof got - used, "%s%.*s", t ? "|" : "", length, bytes);
        }
        CHECK(!strcmp(got, cases[i].tokens), "\"%s\" is %s, not %s", cases[i].text, got,
              cases[i].tokens);
    }
    static const char *const labels[][2] = {{"\n", "\\n"}, {"\t", "\\t"}, {" a", "·a"},
                                            {"\1", "<01>"}};
    for (int i = 0; i < 4 && words; i++) {
        int     token = -1;
        MiLabel label;
        mi_encode(words, labels[i][0], strlen(labels[i][0]), &token, 1);
        CHECK(!strcmp(mi_token_label(words, token, label, sizeof label), labels[i][1]),
              "the label of token %d is %s, not %s", token, label, labels[i][1]);
    }
    mi_tokenizer_close(words);
}

/* ---- Addresses ---- */

/* Numbers that are 0, 1 or -1 once they have run over 32 or 64 bits. */
static void absurd_numbers_are_refused(void)
{
    static const char *const addresses[] = {
        "L4294967296H0", "L0H4294967296", "L0-4294967296H0", "L0N4294967296", "L0H0@4294967296",
        "L0H0@-4294967295", "L0H0@0-4294967296", "L0.pattern@0:4294967296", "L4294967296.mlp_out",
        "L18446744073709551616H0", "L0H0@18446744073709551616", "L2147483648H0", "L99999999999H0",
        "blocks.4294967296.attn.hook_z", "L0H0@-18446744073709551615",
    };
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        MiEdits edits = {0};
        int status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "scale", addresses[i]);
        char text[64];
        snprintf(text, sizeof text, "%s=2", addresses[i]);
        if (status < 0)
            status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "scale", text);
        CHECK(status == -1 && edits.n == 0, "%s is taken for an address", addresses[i]);
        mi_edits_free(&edits);
    }
}

/* What is refused is quoted, with a caret under the culprit. */
static void carets_point_at_the_culprit(void)
{
    static const struct { const char *op, *argument, *culprit; } cases[] = {
        {"ablate", "blocks.9.attn.hook_z", "9.attn"}, {"ablate", "L0H99", "99"},
        {"ablate", "L0H0,L9H0", "9H0"}, {"ablate", "L0-9H0", "9H0"}, {"ablate", "L0H0@99", "99"},
        {"ablate", "L0H0@3-1", "3-1"}, {"ablate", "L0H0=meen", "meen"},
        {"ablate", "L0.resid_pr", "resid_pr"}, {"ablate", "L0.ln1_scale", "L0.ln1_scale"},
        {"ablate", "L0H0.pattern=mean", "mean"}, {"ablate", "L0H0.mlp_out", "mlp_out"},
        {"scale", "not:L0H0,L1.mlp_out=2", "L1.mlp_out"},
        {"scale", "not:L0H0@1,L0H1@2=2", "L0H1@2"},
        {"scale", "not:L0H0@1-2,L0H1@1-3=2", "L0H1@1-3"},
        {"scale", "not:L0H0@1-3,L0H1@2-3=2", "L0H1@2-3"},
        {"scale", "not:L0H0.pattern@2:1=2", "L0H0.pattern"}, {"scale", "L0H0=two", "two"},
        {"scale", "L0H0", ""}, {"knockout", "L0H0@1:2", "2"}, {"knockout", "L0.mlp_out", "L0"},
        {"knockout", "L0H0.q@1:0", ".q"}, {"steer", "L0H0.scores=1", "L0H0"},
        {"patch", "L0H0 @1", " @1"}, {"patch", "L0H0@1;", ";"}, {"patch", "L0H0=1,L0H1", "1,L0H1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *argument = cases[i].argument, *culprit = cases[i].culprit;
        MiEdits edits = {0};
        int status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, cases[i].op, argument);
        const char *why = mi_error(), *last = strrchr(why, '\n'), *quoted = strstr(why, argument);
        long want = *culprit ? strstr(argument, culprit) - argument : (long)strlen(argument);
        long got = last ? (long)strspn(last + 1, " ") - 4 : -1;
        CHECK(status == -1 && quoted && last && last[1 + 4 + got] == '^' && got == want,
              "%s '%s' is refused with the caret at %ld, not %ld: %s", cases[i].op, argument, got,
              want, status ? why : "(not at all)");
        CHECK(edits.n == 0, "%s '%s' is refused and leaves edits", cases[i].op, argument);
        mi_edits_free(&edits);
    }
}

/* A word that is near a site's name, or begins it, may have been meant for that: in a layer its
 * sites, elsewhere the others and the groups. Of a short word one letter may be wrong, else two. */
static void near_names_are_suggested(void)
{
#define LONG "resid_pre_and_more_than_any_name_of_a_site_has_in_it_"
    static const char *const cases[][2] = {
        {"L0.resid_pr", "resid_pre"}, {"L0.residpre", "resid_pre"}, {"L0.mlp_otu", "mlp_out"},
        {"L0.rsid_pots", ""}, {"L0.rsid_pot", "resid_post"}, {"L0.xresid_mid", "resid_mid"},
        {"L0.ln3", "ln1"}, {"L0.xz", "z"}, {"L0.pat", "pattern"}, {"L0.pa", ""},
        {"L0.hook_attn_outt", "attn_out"}, {"L0.hook_q", "q"}, {"L0.hook_", ""}, {"L0.embed", ""},
        {"L0.heads", ""}, {"L0.scoress@1", "scores"}, {"L0.mlp", "mlp_pre"}, {"L0.", ""},
        {"L0.scorxx", "scores"}, {"L0.scoxxx", ""}, {"L0.mlp_pts", "mlp_pre"},
        {"embd", "embed"}, {"pos_embd", "pos_embed"}, {"hads", "heads"}, {"mlp", "mlps"},
        {"attn", "attns"}, {"resd", "resid"}, {"hea", "heads"}, {"ln_g", "ln_f"}, {"mp", ""},
        {"ln_f_scal", "ln_f_scale"}, {"embedxx", "embed"}, {"embx", ""}, {"scores", ""},
        {"hook_embedd", "embed"}, {"zzzzzz", ""}, {"hexxx", ""}, {"hedas", "heads"},
        {"ln_f_", "ln_f_scale"}, {"ln_f_s", "ln_f_scale"},
        {LONG LONG LONG LONG, ""}, {"L0." LONG LONG LONG LONG, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MiEdits edits = {0};
        char    want[64];
        snprintf(want, sizeof want, *cases[i][1] ? "; did you mean %s? mi --sites"
                                                 : "; mi --sites%s", cases[i][1]);
        int status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "freeze", cases[i][0]);
        CHECK(status == -1 && strstr(mi_error(), want), "%s may have been meant for '%s': %s",
              cases[i][0], cases[i][1], status ? mi_error() : "it is accepted");
        mi_edits_free(&edits);
    }
}

/* file:NAME stands for the addresses in a file, also without a program around; they outlive it. */
static void lists_may_stand_in_files(void)
{
    char    path[1100], argument[1200];
    MiEdits edits = {0};
    MiCells cells;
    snprintf(path, sizeof path, "%s/list.txt", scratch);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs("# a list\nL0H1@1 # one\n\n\tL1H0,L0H0@2\r\n", file) > 0, "%s", path);
    if (!file || fclose(file)) return;
    snprintf(argument, sizeof argument, "L1H1,file:%s=2", path);
    CHECK(mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "scale", argument) == 0 &&
          edits.n == 4 && edits.at[1].pos == 1 && edits.at[2].layer == 1 && edits.at[3].pos == 2,
          "%s: %d edits: %s", argument, edits.n, mi_error());
    mi_edits_free(&edits);
    snprintf(argument, sizeof argument, "file:%s", path);
    int status = mi_cells_parse(&cells, w.model, NULL, w.tokens, w.T, "ablate", argument);
    CHECK(status == 0 && cells.n_rows == 3 && !strcmp(cells.address[0], "L0H1@1"), "%s: %s",
          argument, status ? mi_error() : cells.address[0]);
    if (status == 0) mi_cells_free(&cells);
    CHECK(mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "ablate", "file:/dev/null") == -1 &&
          strstr(mi_error(), "/dev/null: is a device"), "file:/dev/null: %s", mi_error());
}

/* What was written with several values is swept: the last such part is the columns, a list is one
 * column. One cell is no sweep; what is refused leaves nothing. */
static void cells_of_a_sweep(void)
{
    int L = w.s.n_layer, H = w.s.n_head, T = w.T;
    static const MiCells none;
    const struct { const char *op, *argument; int rows, cols, cell, edits, site, layer, first, pos;
                   const char *row, *col, *address, *row_axis, *col_axis; } cases[] = {
        {"ablate", "heads", L, H, H + 1, L * H, MI_z, 1, w.s.d_head, 0, "L1", "H1", "L1H1",
         "layer", "head"},
        {"patch", "L0H1@*", 1, T, 3, T, MI_z, 0, w.s.d_head, 3, "", "3", "L0H1@3", "", "position"},
        {"freeze", "L*.mlp_out@1-2", L, 2, 3, 2 * L, MI_mlp_out, 1, 0, 2, "L1", "2",
         "L1.mlp_out@2", "layer", "position"},
        {"knockout", "L0H0@*:*", T, T, 2 * T + 1, T * (T + 1) / 2, MI_scores, 0, 1, 2, "2", "1",
         "L0H0@2:1", "", "key"},
        {"scale", "L0N5,L1H0@2=3", 2, 1, 1, 2, MI_z, 1, 0, 2, "L1H0@2", "", "L1H0@2", "", ""},
        {"ablate", "L0N3-7", 5, 1, 2, 5, MI_mlp_post, 0, 5, 0, "N5", "", "L0N5", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MiCells c;
        int status = mi_cells_parse(&c, w.model, NULL, w.tokens, T, cases[i].op, cases[i].argument);
        CHECK(status == 0, "cells of %s %s: %s", cases[i].op, cases[i].argument, mi_error());
        if (status) continue;
        int           cell = cases[i].cell, at = c.first[cell], n = c.n_rows * c.n_cols;
        const MiEdit *e = &c.edits.at[at];
        CHECK(c.n_rows == cases[i].rows && c.n_cols == cases[i].cols && c.first[0] == 0 &&
              c.first[n] == c.edits.n && c.edits.n == cases[i].edits && c.first[cell + 1] == at + 1,
              "cells of %s: %d x %d, %d edits", cases[i].argument, c.n_rows, c.n_cols, c.edits.n);
        CHECK((int)e->site == cases[i].site && e->layer == cases[i].layer &&
              e->first == cases[i].first && e->pos == cases[i].pos, "cell %d of %s edits %s of "
              "layer %d, column %d, position %d", cell, cases[i].argument,
              mi_site_info(e->site)->name, e->layer, e->first, e->pos);
        CHECK(!strcmp(c.row[cell / c.n_cols], cases[i].row) &&
              !strcmp(c.col[cell % c.n_cols], cases[i].col) &&
              !strcmp(c.address[cell], cases[i].address) &&
              !strcmp(c.row_axis, cases[i].row_axis) && !strcmp(c.col_axis, cases[i].col_axis),
              "cell %d of %s is '%s' '%s' '%s' of '%s' '%s'", cell, cases[i].argument,
              c.row[cell / c.n_cols], c.col[cell % c.n_cols], c.address[cell], c.row_axis,
              c.col_axis);
        if (cases[i].site == MI_scores)
            CHECK(c.first[2] == 1 && c.first[T] == 1 && !*c.address[1], "a key after its query");
        mi_cells_free(&c);
        CHECK(!memcmp(&c, &none, sizeof c), "what was freed is still there");
    }
    static const char *const bad[][3] = {
        {"ablate", "L0H0", "written with several values"}, {"zap", "heads", "no such intervention"},
        {"knockout", "L0H0@0:*", "written with several values"}, {"ablate", "L0H", "expected"},
        {"ablate", "heads=all", "an ablation is"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        MiCells c;
        memset(&c, 0x55, sizeof c);
        CHECK(mi_cells_parse(&c, w.model, NULL, w.tokens, T, bad[i][0], bad[i][1]) == -1 &&
              strstr(mi_error(), bad[i][2]), "cells of %s %s: %s", bad[i][0], bad[i][1],
              mi_error());
        CHECK(!memcmp(&c, &none, sizeof c), "what was refused leaves cells");
    }
}

/* A value is one finite decimal number and nothing else; a size may count deviations, 3s. */
static void values_are_whole_numbers_or_nothing(void)
{
    static const struct { const char *op, *value; int good; float amount; } cases[] = {
        {"scale", "2", 1, 2}, {"scale", "-2.5", 1, -2.5f}, {"scale", ".5", 1, 0.5f},
        {"scale", "+1e-3", 1, 1e-3f}, {"scale", "0", 1, 0}, {"scale", "2x", 0, 0},
        {"scale", "0x10", 0, 0}, {"scale", " 2", 0, 0}, {"scale", "2 ", 0, 0},
        {"scale", "\t2", 0, 0}, {"scale", "inf", 0, 0}, {"scale", "-inf", 0, 0},
        {"scale", "nan", 0, 0}, {"scale", "1e999", 0, 0}, {"scale", "1e39", 0, 0},
        {"scale", "", 0, 0}, {"scale", "2s", 0, 0}, {"scale", "--2", 0, 0}, {"scale", "1e", 0, 0},
        {"scale", "1,5", 0, 0}, {"noise", "0.25", 1, 0.25f}, {"noise", "s", 0, 0},
        {"noise", "3ss", 0, 0}, {"noise", "3 s", 0, 0}, {"noise", "0x3s", 0, 0},
        {"noise", " 3s", 0, 0}, {"noise", "infs", 0, 0}, {"noise", "1e39s", 0, 0},
        {"patch", "0.5", 1, 0.5f}, {"patch", "half", 0, 0}, {"patch", "1", 1, 1},
        {"steer", "-4", 1, -4}, {"steer", "4x", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MiEdits edits = {0};
        char text[64];
        snprintf(text, sizeof text, "L0.resid_mid@1=%s", cases[i].value);
        int status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, cases[i].op, text);
        CHECK(status == cases[i].good - 1, "%s '%s' %s", cases[i].op, text,
              status ? mi_error() : "is accepted");
        CHECK(edits.n == cases[i].good && (!edits.n || edits.at[0].amount == cases[i].amount),
              "%s '%s' gives %d edits", cases[i].op, text, edits.n);
        mi_edits_free(&edits);
    }
}

/* @TEXT is the run of tokens that spell it; of several, #n says which. */
static void positions_by_their_text(void)
{
    static const struct { const char *at; int pos, end; const char *refusal; } cases[] = {
        {"\"BC\"", 1, 3, 0}, {"\"AB\"#2", 3, 5, 0}, {"\"AB\"#1", 0, 2, 0}, {"C", 2, 3, 0},
        {"A#2", 3, 4, 0}, {"\"ABCABD\"", 0, 6, 0}, {"D", 5, 6, 0}, {"\"B\"#2,L0H1@C", 4, 5, 0},
        {"A", 0, 0, "2 times"}, {"\"AB\"", 0, 0, "2 times"}, {"A#3", 0, 0, "only 2 times"},
        {"A#0", 0, 0, "#1"}, {"A#", 0, 0, "#1"}, {"E", 0, 0, "no token"},
        {"\"AC\"", 0, 0, "spells"}, {"\"DA\"", 0, 0, "spells"}, {"\"A", 0, 0, "not closed"},
        {"\"\"", 0, 0, "expected"}, {"", 0, 0, "expected"}, {"BC", 1, 3, 0},
        {"\"BC\"x", 0, 0, ""},
        {"\"AB\"#2x", 0, 0, ""}, {"a", 0, 0, "no token"},
    };
    MiModel *model = mi_open("tests/golden/odd7.safetensors");
    MiTokenizer *words = model ? mi_tokenizer_open("tokenizer.bin", model) : NULL;
    int tokens[8];
    CHECK(words && mi_encode(words, "ABCABD", 6, tokens, 8) == 6, "ABCABD: %s", mi_error());
    for (size_t i = 0; i < sizeof cases / sizeof *cases && words; i++) {
        for (int value = 0; value < 2; value++) {
            MiEdits edits = {0};
            char text[64];
            snprintf(text, sizeof text, "L0H0@%s%s", cases[i].at, value ? "=2" : "");
            int status = mi_edits_parse(&edits, model, words, tokens, 6,
                                        value ? "scale" : "freeze", text);
            if (cases[i].end)
                CHECK(status == 0 && edits.at[0].pos == cases[i].pos &&
                      edits.at[0].pos_end == cases[i].end, "%s: %s", text,
                      status ? mi_error() : "another position");
            else if (cases[i].refusal)
                CHECK(status == -1 && strstr(mi_error(), cases[i].refusal), "%s: %s", text,
                      status ? mi_error() : "is accepted");
            mi_edits_free(&edits);
        }
    }
    mi_tokenizer_close(words);
    mi_close(model);
}

/* A patch needs the source's row: there is none behind the source's end. */
static void patches_end_with_the_source(void)
{
    int shorter = w.T - 2;
    MiRun *source = run(&w, w.tokens, shorter, NULL, (MiOptions){0});
    for (int t = 0; t < w.T && source; t++)
        for (int range = 0; range < 2; range++) {
            MiEdits edits = {0};
            char text[64];
            snprintf(text, sizeof text, range ? "L0.resid_mid@0-%d" : "L0.resid_mid@%d", t);
            int status = mi_edits_parse(&edits, w.model, NULL, w.tokens, w.T, "patch", text);
            CHECK(status == 0, "%s: %s", text, mi_error());
            status = mi_edits_bind(&edits, w.base, source);
            CHECK(status == (t < shorter ? 0 : -1), "patch %s from a source of %d tokens %s", text,
                  shorter, status ? mi_error() : "is bound");
            if (status == 0 && t < shorter) {
                const float *row = mi_site(source, 0, MI_resid_mid, 0, range ? 0 : t);
                CHECK(edits.at[0].value && !memcmp(edits.at[0].value, row, sizeof *row *
                      (size_t)w.s.d_model), "patch %s is not the source's row", text);
            }
            mi_edits_free(&edits);
        }
}

/* ---- Files changed by hand ---- */

typedef struct { char *at; size_t n; } Bytes;

static Bytes read_file(const char *path)
{
    Bytes file = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return file;
    fseek(f, 0, SEEK_END);
    file.n = (size_t)ftell(f);
    rewind(f);
    file.at = calloc(file.n + 1, 1);
    if (!file.at || fread(file.at, 1, file.n, f) != file.n) file.n = 0;
    fclose(f);
    return file;
}

/* A random model's file: 8 bytes, the header of this length, the data. */
static Bytes random_model_bytes(RandomModel shape, size_t *length)
{
    const char *path = random_model_file(shape);
    Bytes file = read_file(path);
    unlink(path);
    *length = 0;
    for (int i = 7; i >= 0; i--) *length = *length << 8 | (unsigned char)file.at[i];
    return file;
}

/* Write the header, which may have grown, and the data; open it. */
static MiModel *open_changed(const char *header, const void *data, size_t n)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/changed.safetensors", scratch);
    FILE *f = fopen(path, "wb");
    size_t length = strlen(header), wrote = 0;
    for (int i = 0; i < 8 && f; i++) fputc((int)(length >> 8 * i & 255), f);
    if (f) wrote = fwrite(header, 1, length, f) + fwrite(data, 1, n, f), fclose(f);
    MiModel *model = wrote == length + n ? mi_open(path) : NULL;
    unlink(path);
    return model;
}

/* A tensor belongs to layer 7 if it is called h.7.SOMETHING, and else to none. The last ones are
 * one name twice, once with an escape. */
static void tensors_that_are_in_no_layer(void)
{
#define AND "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\""
    static const struct { const char *name; int wrong; } extra[] = {
        {"ab7.x", 0}, {"h.x", 0}, {"h.7", 0}, {"h.7x", 0}, {"h.-7.x", 0}, {"transformer.7.x", 0},
        {"h7.x", 0}, {"mask", 0}, {"h.0.attn.masked_bias", 0}, {"h.7.x", 1},
        {"transformer.h.7.x", 1}, {"\\u0041" AND "A", 1},
        {"\\u00e9" AND "\xc3\xa9", 1}, {"\\u20ac" AND "\xe2\x82\xac", 1},
        {"\\ud83d\\ude00" AND "\xf0\x9f\x98\x80", 1},
        {"\xc3\xa9" AND "\xc3\xa8", 0},
    };
#undef AND
    RandomModel shape = {.n_layer = 1, .n_head = 1, .d_head = 8, .n_ctx = 8, .n_vocab = 40};
    size_t length;
    Bytes file = random_model_bytes(shape, &length);
    char *header = calloc(length + 400, 1);
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
        memcpy(header, file.at + 8, length);
        header[length] = 0;
        char *end = strrchr(header, '}');
        size_t n = file.n - 8 - length;
        sprintf(end, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[%zu,%zu]}}",
                extra[i].name, n, n);
        MiModel *model = open_changed(header, file.at + 8 + length, n);
        CHECK(extra[i].wrong ? !model : model && mi_shape(model).n_layer == 1,
              "a model with a tensor %s: %s", extra[i].name, model ? "opens" : mi_error());
        mi_close(model);
    }
    free(header);
    free(file.at);
}

/* "3s" is 3 standard deviations of the embedding, around its mean wherever that is. */
static void noise_in_standard_deviations(void)
{
    RandomModel shape = {.n_layer = 1, .n_head = 1, .d_head = 8, .n_ctx = 8, .n_vocab = 40};
    size_t length;
    Bytes file = random_model_bytes(shape, &length);
    char *header = calloc(length + 1, 1), *data = file.at + 8 + length;
    memcpy(header, file.at + 8, length);
    size_t from, n = 40 * 8;
    char *entry = strstr(header, "\"wte.weight\"");
    char *offsets = entry ? strstr(entry, "data_offsets\":[") : NULL;
    if (offsets && sscanf(offsets, "data_offsets\":[%zu", &from) == 1)
        for (int shift = 0; shift < 2; shift++) {
            float *wte = memory(&w, n * sizeof *wte), amounts[2] = {0};
            double sum = 0, squares = 0;
            memcpy(wte, data + from, n * sizeof *wte);
            for (size_t i = 0; i < n; i++) wte[i] += (float)(3 * shift), sum += (double)wte[i];
            for (size_t i = 0; i < n; i++)
                squares += ((double)wte[i] - sum / (double)n) * ((double)wte[i] - sum / (double)n);
            memcpy(data + from, wte, n * sizeof *wte);
            MiModel *model = open_changed(header, data, file.n - 8 - length);
            CHECK(model, "a model with other embeddings: %s", mi_error());
            for (int i = 0; i < 2 && model; i++) {
                MiEdits edits = {0};
                int tokens[2] = {1, 2};
                CHECK(mi_edits_parse(&edits, model, NULL, tokens, 2, "noise",
                                     i ? "embed=0.5s" : "embed=3s") == 0, "3s: %s", mi_error());
                if (edits.n) amounts[i] = edits.at[0].amount;
                mi_edits_free(&edits);
            }
            double deviation = sqrt(squares / (double)n);
            CHECK(fabs((double)amounts[0] - 3 * deviation) < 1e-5 &&
                  fabs((double)amounts[1] - deviation / 2) < 1e-5,
                  "embeddings with mean %g and deviation %g: 3s is %g, 0.5s is %g",
                  sum / (double)n, deviation, (double)amounts[0], (double)amounts[1]);
            mi_close(model);
        }
    else
        CHECK(0, "the header of a random model has no wte.weight");
    free(header);
    free(file.at);
}

/* A half by its bits: sign, 5 bits of exponent, 10 of fraction; or the upper half of a float. */
static float half_value(unsigned bits, int bfloat)
{
    unsigned exponent = bits >> 10 & 31, fraction = bits & 1023;
    uint32_t wide = bits << 16;
    float    value;
    if (bfloat) return memcpy(&value, &wide, sizeof value), value;
    value = exponent == 31 ? (fraction ? NAN : INFINITY)
          : exponent ? ldexpf(1 + (float)fraction / 1024, (int)exponent - 15)
          : ldexpf((float)fraction / 1024, -14);
    return bits & 0x8000 ? -value : value;
}

/* All 65536 halves as embeddings of one model. */
static void halves_are_exact(void)
{
    enum { V = 512, D = 128, N = 8 };
    RandomModel shape = {.n_layer = 1, .n_head = 2, .d_head = D / 2, .n_ctx = N, .n_vocab = V};
    size_t length, from = 0, total = 0;
    Bytes file = random_model_bytes(shape, &length);
    for (int bfloat = 0; bfloat < 2; bfloat++) {
        char *header = calloc(2 * length, 1), *out = header, *end = file.at + 8 + length;
        for (char *in = file.at + 8; in < end;) {       /* every type F16, every offset half */
            size_t a, b;
            int used = 0, wte = !strncmp(in, "\"wte.weight\"", 12);
            if (wte) total = 1;
            if (!strncmp(in, "\"F32\"", 5)) {
                out += sprintf(out, bfloat ? "\"BF16\"" : "\"F16\""), in += 5;
            } else if (sscanf(in, "data_offsets\":[%zu,%zu]%n", &a, &b, &used) == 2 && used) {
                out += sprintf(out, "data_offsets\":[%zu,%zu]", a / 2, b / 2), in += used;
                if (total == 1) from = a / 2, total = 0;
            } else {
                *out++ = *in++;
            }
        }
        total = (file.n - 8 - length) / 2;
        uint16_t *data = calloc(total / 2, sizeof *data);
        for (int i = 0; i < V * D; i++) data[from / 2 + (size_t)i] = (uint16_t)i;
        MiModel *model = open_changed(header, data, total);
        CHECK(model, "a model of halves: %s", mi_error());
        int wrong = 0, first = -1;
        for (int token = 0; token < V && model; token += N) {
            int tokens[N];
            MiOptions options = {.keep = MI_KEEP_NONE, .threads = 1};
            for (int t = 0; t < N; t++) tokens[t] = token + t;
            MiRun *embedded = mi_run(model, tokens, N, NULL, &options);
            for (int i = 0; i < N * D; i++) {
                const float *x = embedded ? mi_site(embedded, 0, MI_embed, 0, i / D) : NULL;
                float want = half_value((unsigned)(token * D + i), bfloat);
                int same = x && (isnan(want) ? isnan(x[i % D]) : !memcmp(&x[i % D], &want, 4));
                if (!same && wrong++ == 0) first = token * D + i;
            }
            mi_free(embedded);
        }
        CHECK(!wrong, "%d of all %s are read wrong, the first is 0x%04X", wrong,
              bfloat ? "bfloat16" : "halves", (unsigned)first);
        mi_close(model);
        free(data);
        free(header);
    }
    free(file.at);
}

/* ---- Numbers about logits ---- */

static void top_and_its_ties(void)
{
    static const float logits[] = {1, 3, 3, -2, 3, 7, 1, -INFINITY};
    static const int order[] = {5, 1, 2, 4, 0, 6, 3, 7};
    enum { N = sizeof order / sizeof *order };
    for (int n = 0; n <= N; n++)
        for (int k = 0; k <= N + 2; k++) {
            int top[N + 3], want[N + 3] = {0}, m = 0, found, same = 1;
            for (int i = 0; i < N; i++)
                if (order[i] < n) want[m++] = order[i];
            for (int i = 0; i < N + 3; i++) top[i] = -7;
            found = mi_top(logits, n, k, top);
            for (int i = 0; i < N + 3; i++) same &= top[i] == (i < found ? want[i] : -7);
            CHECK(found == (k < n ? k : n) && same, "the %d highest of %d: %d, from %d on", k, n,
                  found, top[0]);
        }
}

static void log_sum_exp_at_the_ends(void)
{
    static const double shifts[] = {0, 1000, -1000, 3e38, -3e38};
    for (int i = 0; i < 5; i++) {
        float logits[4];
        for (int j = 0; j < 4; j++) logits[j] = (float)shifts[i];
        double sum = mi_log_sum_exp(logits, 4), want = (double)(float)shifts[i] + log(4);
        CHECK(fabs(sum - want) <= 1e-12 * fabs(want), "log sum exp of four times %g is %.17g",
              shifts[i], sum);
    }
    float cut[] = {-INFINITY, 2, -INFINITY}, none[] = {-INFINITY, -INFINITY};
    CHECK(mi_log_sum_exp(cut, 3) == 2, "log sum exp of 2 alone is %g", mi_log_sum_exp(cut, 3));
    CHECK(mi_log_sum_exp(none, 2) == -INFINITY && mi_log_sum_exp(none, 0) == -INFINITY,
          "log sum exp of nothing is %g", mi_log_sum_exp(none, 2));
}

/* ---- Edits ---- */

/* Computing rows from .. to-1 again leaves all others as they were, their edits included. */
static void rows_computed_again_stay_alone(void)
{
    MiEdits list = {0};
    for (int site = 0; site < MI_N_SITES; site++)
        for (int head = 0; head < (is_keys(site) ? w.s.n_head : 1); head++)
            add_edit(&w, &list, (MiEdit){.op = MI_SCALE, .site = (MiSite)site, .amount = 1.25f,
                     .head = is_keys(site) ? head : -1, .pos_end = INT_MAX,
                     .count = is_keys(site) ? w.T : width_of(&w, site)});
    MiRun *twin = whole(&w, &list), *again = whole(&w, &list);
    for (int from = 0; from < w.T && twin && again; from++)
        for (int to = from + 1; to <= w.T; to += 2) {
            CHECK(mi_forward(again, from, to) == 0, "rows again: %s", mi_error());
            const char *why = same_sites(&w, trunk(again), trunk(twin), rows(0, w.T));
            CHECK(!why, "rows %d to %d again: %s", from, to - 1, why);
            if (why) return;
        }
    CHECK(mi_forward(again, 0, w.T + 1) == -1 && mi_forward(again, -1, 1) == -1 &&
          mi_forward(again, 2, 1) == -1, "rows that are not there are computed");
}

/* Columns, layers, heads and rows of an edit are those that exist. */
static void edits_end_with_the_row(void)
{
    for (int site = 0; site < MI_N_SITES; site++) {
        int keys = is_keys(site), width = keys ? w.s.n_ctx : width_of(&w, site);
        int layers = layers_of(&w, site), head = keys ? w.s.n_head - 1 : -1;
        struct { int layer, head, first, count, pos, end, good; } cases[] = {
            {layers - 1, head, 0, width, 0, 1, 1}, {0, head, width - 1, 1, w.T - 1, w.T, 1},
            {layers, head, 0, 1, 0, 1, 0}, {-1, head, 0, 1, 0, 1, 0},
            {0, head, 0, width + 1, 0, 1, 0}, {0, head, width, 1, 0, 1, 0},
            {0, head, 1, width, 0, 1, 0}, {0, head, -1, 1, 0, 1, 0}, {0, head, 0, 0, 0, 1, 0},
            {0, head, 1, INT_MAX, 0, 1, 0}, {0, head, 0, 1, -1, 1, 0}, {0, head, 0, 1, 1, 1, 0},
            {0, keys ? w.s.n_head : -1, 0, 1, 0, 1, !keys}, {0, -1, 0, 1, 0, 1, !keys},
        };
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            MiEdit edit = {.op = MI_SCALE, .site = (MiSite)site, .layer = cases[i].layer,
                           .head = cases[i].head, .first = cases[i].first, .amount = 1,
                           .count = cases[i].count, .pos = cases[i].pos, .pos_end = cases[i].end};
            MiEdits list = {.at = &edit, .n = 1};
            MiLane  lane = {w.base, &edit, 1, -1, 0};
            MiOptions options = {.threads = 1};
            MiRun  *pass = mi_run(w.model, w.tokens, w.T, &list, &options);
            MiRun  *fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
            CHECK(!pass == !cases[i].good && !fork == !cases[i].good, "an edit of %s, layer %d, "
                  "head %d, columns %d + %d, rows %d to %d %s", mi_site_info(site)->name,
                  edit.layer, edit.head, edit.first, edit.count, edit.pos, edit.pos_end - 1,
                  cases[i].good ? mi_error() : "is accepted");
            mi_free(pass);
            mi_free(fork);
        }
    }
}

static double all_bits(void *context, const MiRun *run, int lane)
{
    static float logits[4096];
    uint64_t hash = 0xcbf29ce484222325;
    (void)context;
    if (mi_logits(run, lane, mi_n_tokens(run, lane) - 1, logits) < 0) return -1;
    for (int i = 0; i < w.s.n_vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3;
    }
    return (double)(hash >> 12);
}

/* A sweep of one cell gives what the edit gives as a fork of `full`, and not what no edit gives. */
static void cell_is_computed(const char *name, const MiRun *swept, const MiRun *full, MiEdit edit)
{
    int first[2] = {0, 1};
    double value = 0, unchanged = all_bits(NULL, full, 0), alone;
    MiSweep sweep = {.trunk = swept, .edits = &edit, .first = first, .n_cells = 1, .read = w.T,
                     .metric = all_bits};
    MiLane lane = {full, &edit, 1, -1, 0};
    MiRun *fork = mi_fork(&lane, 1, -1, MI_KEEP_NONE);
    CHECK(fork && mi_sweep(&sweep, &value) == 0, "%s: %s", name, mi_error());
    alone = fork ? all_bits(NULL, fork, 0) : 0;
    CHECK(alone != unchanged, "%s of %s changes nothing: try another edit", name,
          mi_site_info(edit.site)->name);
    CHECK(value == alone, "a cell that is to %s %s is taken for one that changes nothing", name,
          mi_site_info(edit.site)->name);
    mi_free(fork);
}

/* Whether a cell would change nothing depends on what it does with its value, ... */
static void cells_by_operation(void)
{
    static const char *const names[] = {"", "", "add", "scale", "project", "add noise to"};
    static const MiSite sites[] = {MI_resid_mid, MI_z, MI_mlp_post, MI_scores, MI_ln2_scale};
    for (int i = 0; i < 5; i++)
        for (int op = MI_ADD; op <= MI_NOISE; op++)
            for (int one = 0; one < 2; one++) {
                int keys = sites[i] == MI_scores;
                const float *x = part(trunk(w.base), sites[i], 0, keys ? 0 : -1, w.T - 1);
                MiEdit edit = {.op = (MiOp)op, .site = sites[i], .head = keys ? 0 : -1,
                               .count = keys ? w.T : width_of(&w, sites[i]), .pos = w.T - 1,
                               .pos_end = w.T, .amount = 0.5f, .value = x};
                if (one) edit.count = 1, edit.amount = x[0];    /* what is there is the amount */
                if (one && (op == MI_SCALE || op == MI_NOISE)) edit.value = NULL;
                cell_is_computed(names[op], w.base, w.base, edit);
            }
}

/* ... and on what the trunk kept: the buffer of a site that it did not keep has the last layer's
 * values, whatever layer is asked for. */
static void cells_of_a_trunk_that_kept_little(void)
{
    MiRun *little = run(&w, w.tokens, w.T, NULL, (MiOptions){.keep = MI_KEEP_NONE});
    for (int site = 0; site < MI_N_SITES && little; site++) {
        int keys = is_keys(site);
        if (part(trunk(little), site, 0, keys ? 0 : -1, w.T - 1)) continue;
        MiEdit edit = {.op = MI_SET, .site = (MiSite)site, .head = keys ? 0 : -1,
                       .count = keys ? w.T : width_of(&w, site), .pos = w.T - 1, .pos_end = w.T};
        edit.value = part(trunk(w.base), site, w.s.n_layer - 1, edit.head, w.T - 1);
        cell_is_computed("set to the last layer's", little, w.base, edit);
    }
}

/* ---- Noise ---- */

static uint64_t mixed(uint64_t x)
{
    return random_bits(&x);
}

/* The number of an address: the same in every version, so that a seed can be published. Box and
 * Muller's normal number of 64 bits that are mixed from the seed, the sample and the address. */
static double normal(const MiEdit *edit, int pos, int element)
{
    uint64_t place = (uint64_t)edit->site << 32 | (uint32_t)edit->layer;
    uint64_t key = mixed(mixed(mixed(edit->seed) ^ edit->sample) ^ place);
    uint64_t bits = mixed(key ^ ((uint64_t)pos << 32 | (uint32_t)element));
    double u = ((double)(bits >> 32) + 1) / 4294967296.0, v = (uint32_t)bits / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

static void noise_is_normal(void)
{
    double sums[5] = {0}, worst = 0, n = 0;
    int beyond[4] = {0}, positive = 0, draws = 60;
    int last = w.s.n_layer - 1, D = w.s.d_model;
    for (int draw = 0; draw < draws; draw++) {
        MiEdit e = {.op = MI_SET, .site = MI_resid_post, .layer = last, .head = -1, .count = D,
                    .pos_end = INT_MAX};
        MiEdits list = {0};
        add_edit(&w, &list, e);
        e.op = MI_NOISE, e.amount = 1, e.seed = 17, e.sample = (uint64_t)draw;
        add_edit(&w, &list, e);
        MiRun *noisy = fork_one(&w, w.base, list, -1, -1);
        for (int t = 0; t < w.T && noisy; t++)
            for (int c = 0; c < D; c++) {
                double x = (double)mi_site(noisy, 0, MI_resid_post, last, t)[c], power = 1;
                double off = fabs(x - normal(&e, t, c));
                if (off > worst) worst = off;
                for (int i = 0; i < 5; i++, power *= x) sums[i] += power;
                for (int i = 0; i < 4; i++) beyond[i] += fabs(x) > i + 0.5;
                positive += x > 0;
            }
        free_from(&w, 1);
        w.edits[0] = 0;
    }
    n = sums[0];
    CHECK(n > 20000 && worst < 1e-5, "noise of %g addresses is off by up to %g", n, worst);
    static const double moment[] = {1, 0, 1, 0, 3}, deviation[] = {0, 1, 1.4142, 3.873, 9.798};
    for (int i = 1; i < 5; i++)
        CHECK(fabs(sums[i] / n - moment[i]) < 4.5 * deviation[i] / sqrt(n),
              "moment %d of noise is %g, not %g", i, sums[i] / n, moment[i]);
    CHECK(fabs(positive / n - 0.5) < 4.5 * 0.5 / sqrt(n), "%g of noise is positive", positive / n);
    for (int i = 0; i < 4; i++) {
        double share = erfc((i + 0.5) / sqrt(2)), off = 4.5 * sqrt(share * (1 - share) / n);
        CHECK(fabs(beyond[i] / n - share) < off, "%g of noise is beyond %g deviations, not %g",
              beyond[i] / n, i + 0.5, share);
    }
}

/* ---- What is refused, in words ---- */

static void what_is_refused_is_said(void)
{
    char want[100];
    int  T = w.T, D = w.s.d_model, last = w.s.n_layer - 1;
    MiEdit wide = {.op = MI_SET, .site = MI_resid_mid, .head = -1, .first = 1, .count = D,
                   .pos_end = 1};
    MiEdits edits = {.at = &wide, .n = 1};
    MiOptions few = {.capacity = 4, .threads = 1, .keep = MI_KEEP(q)};
    CHECK(!mi_run(w.model, w.tokens, 0, NULL, &few) && strstr(mi_error(), "at least one token"),
          "a run of no tokens: %s", mi_error());
    snprintf(want, sizeof want, "no columns 1 to %d", D);
    CHECK(!mi_run(w.model, w.tokens, 2, &edits, &few) && strstr(mi_error(), want),
          "an edit beyond its row: \"%s\", not \"%s\"", mi_error(), want);
    MiLane lane = {.trunk = w.base, .t0 = 0, .read = T};
    MiRun *fork = mi_fork(&lane, 1, 0, 0);
    snprintf(want, sizeof want, "only position %d of", T - 1);
    CHECK(fork && !mi_site(fork, 0, MI_mlp_out, last, 0) && strstr(mi_error(), want),
          "a row that was left out: \"%s\", not \"%s\"", mi_error(), want);
    mi_free(fork);
    lane.read = 1;
    fork = mi_fork(&lane, 1, 0, 0);
    CHECK(fork && mi_n_tokens(fork, 0) == 1, "a lane that is read at its first position: %s",
          fork ? "more tokens" : mi_error());
    mi_free(fork);
}

/* A part of the residual stream that was not kept is no part; a sum edited twice is one part. */
static void writers_are_what_was_kept(void)
{
    int       H = w.s.n_head;
    double   *x = malloc((size_t)w.s.d_model * sizeof *x);
    MiLabel   name;
    MiOptions few = {.threads = 1, .keep = MI_KEEP(q)};
    MiEdit    twice[] = {
        {.op = MI_SCALE, .site = MI_resid_mid, .head = -1, .count = 1, .pos_end = 1, .amount = 2},
        {.op = MI_SCALE, .site = MI_resid_mid, .head = -1, .count = 1, .pos = 1, .pos_end = 2},
        {.op = MI_SCALE, .site = MI_mlp_out, .head = -1, .count = 1, .pos_end = 1, .amount = 2}};
    MiEdits   edits = {.at = twice, .n = 3};
    MiRun    *run = mi_run(w.model, w.tokens, 2, &edits, &few);
    CHECK(run && mi_n_writers(run, 0) == mi_n_writers(w.base, 0) + 1, "writers of a run where one "
          "sum is edited twice: %d", run ? mi_n_writers(run, 0) - mi_n_writers(w.base, 0) : -1);
    const int writers[] = {2, 2 + H - 1, 2 + H + 1};    /* heads, mlp_out */
    for (int i = 0; i < 3 && run; i++)
        CHECK(mi_writer(run, 0, writers[i], 1, x, name) == -1 && strstr(mi_error(), "not kept"),
              "writer %d of a run that kept only q", writers[i]);
    mi_free(run);
    free(x);
}

static int body(void)
{
    setenv("TMPDIR", scratch, 1);
    static const struct { const char *name; void (*test)(void); } tests[] = {
        {"tokens of lanes", tokens_are_those_of_the_trunk},
        {"tokens outside the vocabulary", tokens_outside_the_vocabulary},
        {"errors", errors_are_minus_one_and_a_line},
        {"contractions", contractions_are_lower_case},
        {"absurd numbers", absurd_numbers_are_refused},
        {"carets", carets_point_at_the_culprit},
        {"positions by their text", positions_by_their_text},
        {"near names", near_names_are_suggested},
        {"files", lists_may_stand_in_files},
        {"cells", cells_of_a_sweep},
        {"values", values_are_whole_numbers_or_nothing},
        {"a source that is shorter", patches_end_with_the_source},
        {"tensors in no layer", tensors_that_are_in_no_layer},
        {"noise of 3s", noise_in_standard_deviations},
        {"all halves", halves_are_exact},
        {"the highest logits", top_and_its_ties},
        {"log sum exp", log_sum_exp_at_the_ends},
        {"rows computed again", rows_computed_again_stay_alone},
        {"the end of a row", edits_end_with_the_row},
        {"cells by operation", cells_by_operation},
        {"cells of a trunk that kept little", cells_of_a_trunk_that_kept_little},
        {"noise", noise_is_normal},
        {"words", what_is_refused_is_said},
        {"writers", writers_are_what_was_kept},
    };
    doing("a random model");
    uint64_t seed = 1;                                  /* one with room for what is tried here */
    while (open_world(&w, seed) == 0 &&
           (w.T < 8 || w.T > 24 || w.s.n_layer < 2 || w.s.d_model < 24 || w.s.n_head < 2))
        close_world(&w), seed++;
    CHECK(w.base, "a random model: %s", lost);
    for (size_t i = 0; i < sizeof tests / sizeof *tests && w.base; i++) {
        begin(&w, 1000 + i);
        doing("%s", tests[i].name);
        tests[i].test();
        free_from(&w, 1);
    }
    close_world(&w);
    return report();
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    return in_scratch(body);
}
