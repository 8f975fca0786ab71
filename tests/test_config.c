/* test_config.c - what config.json says is computed, or refused by name.
 *
 * Replays tests/golden/config (made by make_config.py there): models that transformers saved, each
 * with another setting, have its logits up to 1e-4, or are refused with the name of the setting.
 * Then configs that no library writes. Run it from the root of the repository. */
#include "scratch.h"
#include "check.h"
#include "mi.h"

#include <ctype.h>
#include <math.h>

#define GOLDEN "tests/golden/config/"
enum { V = 24 };
static const int tokens[] = {3, 17, 0, 22, 9, 9, 14};
enum { T = sizeof tokens / sizeof *tokens };

static char folder[1100], model_path[1200], config_path[1200], other[1200];

static void write_to(const char *path, const void *bytes, size_t n)
{
    remove(path);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n, "test_config: cannot write %s", path);
    if (file) fclose(file);
}

static char *read_all(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    char *bytes = calloc(1, 1 << 20);
    *n = file ? fread(bytes, 1, (1 << 20) - 1, file) : 0;
    CHECK(*n, "test_config: cannot read %s", path);
    if (file) fclose(file);
    return bytes;
}

static void copy_to(const char *path, const char *from)
{
    size_t n;
    char *bytes = read_all(from, &n);
    write_to(path, bytes, n);
    free(bytes);
}

static void config(const char *text)
{
    if (text) write_to(config_path, text, strlen(text));
    else remove(config_path);
}

static int logits_of(MiModel *model, float *logits)
{
    MiRun *run = model ? mi_run(model, tokens, T, NULL, &(MiOptions){.threads = 1}) : NULL;
    int status = run ? mi_logits(run, 0, T - 1, logits) : -1;
    mi_free(run);
    return status;
}

/* Opening fails with one printable line that mentions all of these words, separated by |. */
static void refused(const char *name, const char *words)
{
    doing("%s", name);
    MiModel *model = mi_open(model_path);
    char     list[400];
    snprintf(list, sizeof list, "%s", words);
    CHECK(!model, "%s: is accepted", name);
    for (char *word = strtok(list, "|"); word && !model; word = strtok(NULL, "|"))
        CHECK(strstr(mi_error(), word), "%s: no word of \"%s\" in: %s", name, word, mi_error());
    for (const char *c = mi_error(); *c && !model; c++)
        if (iscntrl((unsigned char)*c)) CHECK(0, "%s: not one line: %s", name, mi_error());
    mi_close(model);
}

static float plain[V];

/* Opening works, and gives the plain model's logits bit for bit, or others. */
static void opens(const char *name, int as_plain)
{
    float logits[V] = {0};
    doing("%s", name);
    MiModel *model = mi_open(model_path);
    CHECK(model && logits_of(model, logits) == 0, "%s: %s", name, mi_error());
    int same = memcmp(logits, plain, sizeof plain) == 0;
    CHECK(!model || same == as_plain, "%s: %s logits", name, same ? "the plain file's" : "other");
    mi_close(model);
}

/* ---- What transformers saved ---- */

static void replay(char *line)
{
    char  name[64], weights[64], kind[64], from[200];
    float logits[V];
    int   used = 0;
    if (sscanf(line, "%63s %63s %63s %n", name, weights, kind, &used) != 3) return;
    snprintf(from, sizeof from, GOLDEN "%s.safetensors", weights);
    copy_to(model_path, from);
    snprintf(from, sizeof from, GOLDEN "%s.json", name);
    copy_to(config_path, from);
    char *rest = line + used, what[100];
    rest[strcspn(rest, "\n")] = 0;
    snprintf(what, sizeof what, "saved with %s", name);
    if (!strcmp(kind, "refused")) {
        char words[100];
        snprintf(words, sizeof words, "%s|config.json|model.safetensors", rest);
        refused(what, words);
        return;
    }
    doing("%s", what);
    MiModel *model = mi_open(model_path);
    CHECK(model && logits_of(model, logits) == 0, "%s: %s", what, mi_error());
    double worst = 0;
    for (int i = 0; i < V && model; i++) {
        double error = fabs(strtod(rest, &rest) - (double)logits[i]);
        if (!(error <= worst)) worst = error;
    }
    CHECK(worst <= 1e-4, "%s: a logit is off by %g", what, worst);
    mi_close(model);
}

static void test_golden(void)
{
    size_t n;
    char  *text = read_all(GOLDEN "golden.txt", &n);
    int    lines = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        char copy[1000];
        snprintf(copy, sizeof copy, "%.*s", (int)(end - line), line);
        replay(copy);
    }
    CHECK(lines >= 26, "test_config: only %d golden lines", lines);
    free(text);
}

/* ---- What else may stand there ---- */

#define SHAPE "\"n_head\":3,\"n_embd\":12,\"n_layer\":3,\"vocab_size\":24,\"n_positions\":10"

static void test_fields(void)
{
    static const struct { const char *text, *words; } bad[] = {
        {"{" SHAPE ",\"model_type\":\"gpt_neo\"}", "model_type|gpt_neo|gpt2"},
        {"{" SHAPE ",\"model_type\":7}", "model_type"},
        {"{" SHAPE ",\"activation_function\":\"gelu_newer\"}", "activation_function|gelu_newer"},
        {"{" SHAPE ",\"activation_function\":[\"gelu_new\"]}", "activation_function"},
        {"{" SHAPE ",\"activation_function\":null}", "activation_function"},
        {"{" SHAPE ",\"layer_norm_epsilon\":\"1e-5\"}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":-1e-5}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":NaN}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":1e39}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":1e-5x}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":0x1p-9}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"layer_norm_epsilon\":null}", "layer_norm_epsilon"},
        {"{" SHAPE ",\"scale_attn_weights\":0}", "scale_attn_weights"},
        {"{" SHAPE ",\"scale_attn_weights\":\"false\"}", "scale_attn_weights"},
        {"{" SHAPE ",\"scale_attn_by_inverse_layer_idx\":1}", "scale_attn_by_inverse_layer_idx"},
        {"{" SHAPE ",\"tie_word_embeddings\":0}", "tie_word_embeddings"},
        {"{" SHAPE ",\"n_inner\":64}", "n_inner|64|48"},
        {"{" SHAPE ",\"hidden_size\":16}", "hidden_size|16|12"},
        {"{\"n_head\":3,\"n_embd\":768}", "n_embd|768|12"},
        {"{\"n_head\":3,\"n_layer\":12}", "n_layer|12|3"},
        {"{\"n_head\":3,\"num_hidden_layers\":2}", "num_hidden_layers|2|3"},
        {"{\"n_head\":3,\"vocab_size\":50257}", "vocab_size|50257|24"},
        {"{\"n_head\":3,\"n_positions\":1024}", "n_positions|1024|10"},
        {"{\"n_head\":3,\"max_position_embeddings\":9}", "max_position_embeddings|9|10"},
        {"{\"n_head\":3,\"n_ctx\":1024}", "n_ctx|1024|10"},
        {"{\"n_head\":3,\"n_embd\":\"12\"}", "n_embd"},
        {"{\"n_head\":3,\"num_attention_heads\":4}", "num_attention_heads|4"},
        {"{\"n_head\":3,\"n_head\":4}", "n_head|4"},
        {"{\"n_head\":5}", "n_head|5|12"},
        {"{\"n_head\":3.0}", "n_head"},
        {"{\"n_embd\":12}", "--n-head"},
        {"{}", "--n-head"},
        {NULL, "--n-head|12"},
    };
    static const char *const good[] = {
        "{" SHAPE "}", "{\"num_attention_heads\":3}", "{\"num_attention_heads\":3,\"n_head\":3}",
        "\xEF\xBB\xBF{" SHAPE "}", "  {" SHAPE "}\n\n", "\xEF\xBB\xBF\r\n{" SHAPE "\r\n}\r\n",
        "{" SHAPE ",\"n_inner\":null,\"layer_norm_epsilon\":0.00001}",
        "{" SHAPE ",\"n_inner\":48,\"layer_norm_epsilon\":1E-05,\"n_ctx\":10}",
        "{" SHAPE ",\"add_cross_attention\":null,\"is_causal\":true}",
        "{" SHAPE ",\"a\":{\"n_head\":4,\"activation_function\":\"relu\"},\"b\":[\"n_head\",7]}",
        "{" SHAPE ",\"attn_pdrop\":0.5,\"summary_activation\":\"tanh\",\"dtype\":\"bfloat16\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config(bad[i].text);
        refused(bad[i].text ? bad[i].text : "no config.json", bad[i].words);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) config(good[i]), opens(good[i], 1);
    config("{" SHAPE ",\"layer_norm_epsilon\":0}"), opens("an epsilon of 0", 0);
}

/* There, but of no use: never ignored. */
static void test_unusable(void)
{
    static const char *const bad[] = {
        "", "{", "{\"n_head\":3", "{" SHAPE, "{" SHAPE "} x", "// of a person\n{" SHAPE "}",
        "{" SHAPE "} // of a person", "{ /* */ " SHAPE "}", "[]", "3", "null", "n_head: 3\n",
        "\xEF\xBB\xBF", "\xFE\xFF{", "{" SHAPE ",}", "{n_head:3}", "{'n_head':3}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char name[200];
        snprintf(name, sizeof name, "config.json: %s", bad[i]);
        config(bad[i]), refused(name, "config.json|model.safetensors");
    }
    size_t n = (1 << 20) + 1;
    char  *large = malloc(n);
    memset(large, ' ', n);
    memcpy(large, "{" SHAPE "}", strlen("{" SHAPE "}"));
    write_to(config_path, large, n), refused("a config.json over 1 MiB", "config.json");
    write_to(config_path, large, n - 1), opens("a config.json of 1 MiB", 1);
    memcpy(large, "{" SHAPE "}\0{\"n_embd\":7}", strlen("{" SHAPE "}") + 14);
    write_to(config_path, large, 200), refused("a config.json with a zero byte", "config.json");
    free(large);
    remove(config_path);
    if (mkfifo(config_path, 0644) == 0) refused("a config.json that is a pipe", "config.json|pipe");
    remove(config_path);
    if (symlink("/is/not/there", config_path) == 0)
        refused("a config.json that leads nowhere", "config.json");
    remove(config_path);
    if (symlink("/dev/zero", config_path) == 0)
        refused("a config.json that is a device", "config.json|device");
    remove(config_path);
    if (geteuid() != 0) {
        config("{" SHAPE "}"), chmod(config_path, 0);
        refused("a config.json that may not be read", "config.json");
    }
    config(NULL);
}

/* Downloads are often links into a cache: config.json lies beside the link or its target. */
static void test_links(void)
{
    char link[1200], target[1300];
    snprintf(other, sizeof other, "%s/blobs", folder);
    snprintf(target, sizeof target, "%s/0123abcd", other);
    snprintf(link, sizeof link, "%s/link.safetensors", folder);
    CHECK(mkdir(other, 0777) == 0, "test_config: cannot make %s", other);
    copy_to(target, GOLDEN "plain.safetensors");
    CHECK(symlink("blobs/0123abcd", link) == 0, "test_config: cannot link");
    char model_before[sizeof model_path];
    strcpy(model_before, model_path), strcpy(model_path, link);

    config("{" SHAPE "}"), opens("config.json beside the link", 1);
    config(NULL), refused("config.json nowhere", "--n-head");
    snprintf(other, sizeof other, "%s/blobs/config.json", folder);
    write_to(other, "{" SHAPE "}", strlen("{" SHAPE "}"));
    opens("config.json beside the target", 1);
    config("{" SHAPE ",\"layer_norm_epsilon\":0.1}");
    opens("config.json beside both: the link's", 0);
    config("{}"), refused("config.json beside both: the link's, and useless", "--n-head");
    config(NULL);
    write_to(other, "{", 1), refused("config.json beside the target, cut", "config.json");
    char here[1000];
    if (getcwd(here, sizeof here) && chdir(folder) == 0) {  /* a name without a folder */
        strcpy(model_path, "link.safetensors");
        config("{" SHAPE "}"), opens("a link in the working directory", 1);
        CHECK(chdir(here) == 0, "test_config: cannot go back");
    }
    strcpy(model_path, model_before);
}

/* The caller says it where the file cannot; what the file says stands. */
static void test_n_head(void)
{
    static const struct { const char *text; int given, heads; const char *words; } cases[] = {
        {NULL, 0, 0, "--n-head"}, {NULL, 3, 3, ""}, {NULL, 4, 4, ""}, {NULL, 5, 0, "5|12"},
        {NULL, -3, 0, "-3"}, {NULL, 13, 0, "13"}, {"{\"n_embd\":12}", 4, 4, ""},
        {"{" SHAPE "}", 3, 3, ""}, {"{" SHAPE "}", 4, 0, "3|4"}, {"{", 3, 0, "config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config(cases[i].text);
        doing("n_head %d beside %s", cases[i].given, cases[i].text);
        MiModel *model = mi_open_with(model_path, &(MiOpen){.n_head = cases[i].given});
        CHECK((model ? mi_shape(model).n_head : 0) == cases[i].heads,
              "mi_open_with: case %zu: %d heads (%s)", i, model ? mi_shape(model).n_head : 0,
              mi_error());
        char list[100];
        snprintf(list, sizeof list, "%s", cases[i].words);
        for (char *word = strtok(list, "|"); word && !model; word = strtok(NULL, "|"))
            CHECK(strstr(mi_error(), word), "mi_open_with: case %zu: no %s in: %s", i, word,
                  mi_error());
        mi_close(model);
    }
    config("{" SHAPE ",\"layer_norm_epsilon\":0.25}");
    MiModel *model = mi_open_with(model_path, NULL);
    CHECK(model && mi_shape(model).epsilon == 0.25f, "mi_shape: epsilon");
    mi_close(model);
    config("{" SHAPE "}");
    model = mi_open(model_path);
    CHECK(model && mi_shape(model).epsilon == 1e-5f, "mi_shape: epsilon without a word of it");
    mi_close(model);
}

/* sigma of every LayerNorm and the lens, with an epsilon that matters. */
static void test_epsilon(void)
{
    config("{" SHAPE ",\"layer_norm_epsilon\":2.5}");
    MiModel *model = mi_open(model_path);
    MiRun   *run = model ? mi_run(model, tokens, T, NULL, &(MiOptions){.threads = 1}) : NULL;
    static const MiSite of[][2] = {{MI_ln1_scale, MI_resid_pre}, {MI_ln2_scale, MI_resid_mid},
                                   {MI_ln_f_scale, MI_resid_post}};
    CHECK(run, "epsilon 2.5: %s", mi_error());
    for (int k = 0; k < 3 && run; k++) {
        const float *sigma = mi_site(run, 0, of[k][0], k == 2 ? 0 : 1, T - 1);
        const float *x = mi_site(run, 0, of[k][1], k == 2 ? 2 : 1, T - 1);
        double mean = 0, squares = 0;
        for (int i = 0; i < 12; i++) mean += (double)x[i] / 12;
        for (int i = 0; i < 12; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
        double exact = sqrt(squares / 12 + 2.5);
        CHECK(fabs((double)*sigma - exact) < 1e-5 * exact, "%s: %g, not %g",
              mi_site_info(of[k][0])->name, (double)*sigma, exact);
    }
    float lens[V], logits[V];
    int ok = run && mi_lens(run, 0, MI_resid_post, 2, T - 1, 0, lens) == 0 &&
             mi_logits(run, 0, T - 1, logits) == 0;
    CHECK(ok && !memcmp(lens, logits, sizeof lens), "mi_lens: at the end not the logits");
    mi_free(run);
    mi_close(model);
}

static int body(void)
{
    snprintf(folder, sizeof folder, "%s", scratch);
    snprintf(model_path, sizeof model_path, "%s/model.safetensors", folder);
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    test_golden();
    copy_to(model_path, GOLDEN "plain.safetensors");
    config("{" SHAPE "}");
    MiModel *model = mi_open(model_path);
    CHECK(model && logits_of(model, plain) == 0, "test_config: the plain file: %s", mi_error());
    mi_close(model);
    test_fields();
    test_unusable();
    test_n_head();
    test_epsilon();
    test_links();
    return report();
}

int main(void)
{
    return in_scratch(body);
}
