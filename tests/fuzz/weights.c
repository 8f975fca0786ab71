/* A model file with its config.json, from anyone: refused in one line, or a model that runs.
 * Input: the length of config.json (2 bytes), config.json, then the file. */
#include "fuzz.h"
#include "mi.h"

static char directory[1000], model_file[1100], config_file[1100];

static void remove_directory(void)
{
    unlink(config_file);
    unlink(model_file);
    rmdir(directory);
}

static void make_directory(void)
{
    const char *above = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/mi-fuzz-XXXXXX", above && *above ? above : "/tmp");
    if (!mkdtemp(directory) || atexit(remove_directory)) abort();
    snprintf(model_file, sizeof model_file, "%s/model.safetensors", directory);
    snprintf(config_file, sizeof config_file, "%s/config.json", directory);
}

static void put(const char *path, const uint8_t *data, size_t size)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) abort();
    close(file);
}

static void try_run(MiModel *model)
{
    MiShape s = mi_shape(model);
    if ((double)s.n_vocab + (double)s.d_mlp * s.n_layer + s.n_ctx > 1e5) return;
    int tokens[3] = {0, s.n_vocab - 1, s.n_vocab / 2}, n = s.n_ctx < 3 ? s.n_ctx : 3;
    float *logits = malloc((size_t)s.n_vocab * sizeof *logits);
    MiOptions options = {.threads = 1};
    MiRun *run = mi_run(model, tokens, n, NULL, &options);
    MUST(run, "a model that opens does not run: %s", mi_error());
    MUST(mi_logits(run, 0, n - 1, logits) == 0, "%s", mi_error());
    mi_free(run);
    free(logits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t config = size < 2 ? 0 : (size_t)(data[0] | data[1] << 8);
    if (!*directory) make_directory();
    if (size < 2 || config > size - 2) return -1;
    if (config) put(config_file, data + 2, config);
    else unlink(config_file);
    put(model_file, data + 2 + config, size - 2 - config);
    MiModel *model = mi_open(model_file);
    if (model) try_run(model);
    else must_say_why(mi_error());
    mi_close(model);
    return 0;
}
