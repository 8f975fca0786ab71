/* A file of another tool, from anyone, as JSON and as tensors: refused in one line, or all that is
 * given out can be read. */
#include "fuzz.h"
#include "mi.h"

static void read_json(const char *path)
{
    MiJson json;
    size_t length = 0;
    if (mi_json_read(&json, path) < 0) {
        must_say_why(mi_error());
        MUST(!json.at && !json.text, "something is left");
        return;
    }
    MUST(json.n > 0 && json.at[0].parent == -1, "there is no first value");
    for (int i = 0; i < json.n; i++) {
        MiValue *v = &json.at[i];
        int      above = i ? json.at[v->parent].type : 0;
        MUST(i == 0 || (v->parent >= 0 && v->parent < i), "value %d has parent %d", i, v->parent);
        MUST(strchr("{[\"0tfn", v->type) && (i == 0 || above == '{' || above == '['),
             "value %d has type %d in %d", i, v->type, above);
        MUST((v->key != NULL) == (above == '{') && (v->text != NULL) == (v->type == '"'),
             "value %d, its key or text", i);
        length += (v->key ? strlen(v->key) : 0) + (v->text ? strlen(v->text) : 0);
    }
    MUST(length < (size_t)1 << 30, "%zu", length);
    mi_json_free(&json);
}

static void read_tensors(const char *path)
{
    MiTensors file;
    volatile float sum = 0;
    if (mi_tensors_open(&file, path) < 0) {
        must_say_why(mi_error());
        MUST(!file.at && !file.n, "something is left");
        return;
    }
    for (int i = 0; i < file.n; i++) {
        MiTensor *t = &file.at[i];
        int64_t   n = 1;
        for (int d = 0; d < t->n_dims; d++) n *= t->shape[d];
        for (int64_t e = 0; t->value && e < n; e++) sum = sum + t->value[e];
        MUST(strlen(t->name) + strlen(t->dtype) < (size_t)1 << 30, "a name");
    }
    mi_tensors_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = file_of(data, size);
    read_json(path);
    read_tensors(path);
    return 0;
}
