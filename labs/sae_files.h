/* sae_files.h - a sparse autoencoder as SAELens saves it: a folder with cfg.json, of version 6 or
 * older, and sae_weights.safetensors. What is not understood is refused by its name: a setting that
 * is read past may be the one that changes every number.
 *
 *     Sae s = open_sae(&lab, "folder");
 *
 * Two things are not in these files, but in a list of SAELens itself; put them into cfg.json:
 * "norm_scaling_factor" of expected_average_only_in, and in old files whether the model's stream
 * was centred, "model_from_pretrained_kwargs": {"center_writing_weights": true}. */
#ifndef SAE_FILES_H
#define SAE_FILES_H

#include "lab.h"

#include <math.h>

enum { STANDARD, JUMPRELU, GATED, TOPK };
enum { PLAIN, AVERAGE, RESCALE, LAYER_NORM };

typedef struct {
    MiJson    cfg;
    MiTensors file;
    int       architecture, norm, activation, less_b_dec, rescales, centred, bos, is_z, head;
    int       d_in, d_sae, k;
    double    factor;           /* of AVERAGE; 0: not said */
    int       says_centred;
    const char *hook;
    MiSite    site;
    int       layer, first;     /* x is columns first .. first + d_in - 1 of that site */
    const MiWeight *W_enc, *b_enc, *W_dec, *b_dec, *threshold, *b_mag, *r_mag;
    double   *size;             /* [d_sae] |row of W_dec| */
    double   *u, *p;            /* [d_in], [d_sae], and */
    int      *top;              /* [d_sae]: room for encode() */
} Sae;

/* What cfg.json may say. A setting's values, words of JSON or strings, give 0 1 2 ..., those with a
 * / between them the same; # is a number itself, null leaves what is usual. */
#define F(field) offsetof(Sae, field)
#define ANY      "float32/torch.float32/float16/torch.float16/bfloat16/torch.bfloat16"
static const struct { const char *key, *values; size_t field; int least; } SETTINGS[] = {
    {"architecture", "standard jumprelu gated topk", F(architecture), 0},
    {"activation_fn", "relu topk", F(activation), 0},
    {"activation_fn_str", "relu topk", F(activation), 0},
    {"normalize_activations", "none/null/false expected_average_only_in/true "
                              "constant_norm_rescale layer_norm", F(norm), 0},
    {"apply_b_dec_to_input", "false true", F(less_b_dec), 0},
    {"rescale_acts_by_decoder_norm", "false true", F(rescales), 0},
    {"center_writing_weights", "false true", F(centred), 0},
    {"prepend_bos", "false true", F(bos), 0},
    {"hook_head_index", "null/#", F(head), 0}, {"hook_point_head_index", "null/#", F(head), 0},
    {"d_in", "#", F(d_in), 1}, {"d_sae", "#", F(d_sae), 1}, {"k", "#", F(k), 1},
    {"norm_scaling_factor", "#", F(factor), 0}, {"hook_name", "*", F(hook), 0},
    {"hook_point", "*", F(hook), 0}, {"dtype", ANY, 0, 0}, {"metadata", "{", 0, 0},
    {"model_from_pretrained_kwargs", "{/null", 0, 0}, {"activation_fn_kwargs", "{/null", 0, 0},
    {"fold_ln", "true/false", 0, 0}, {"center_unembed", "true/false", 0, 0},
    {"finetuning_scaling_factor", "false/null", 0, 0},
    {"reshape_activations", "none hook_z", F(is_z), 0},
    {"seqpos_slice", "[/null", 0, 0}, {"hook_name_out", "null", 0, 0},
    {"hook_head_index_out", "null", 0, 0},
};

/* And what it may say of how it was trained, which changes nothing here. */
static const char TRAINING[] =
    "model_name model_class_name model_kwargs hook_layer hook_point_layer hook_eval "
    "hook_point_eval hf_hook_name dataset_path dataset_trust_remote_code streaming "
    "is_dataset_tokenized context_size device act_store_device seed sae_lens_version "
    "sae_lens_training_version neuronpedia_id exclude_special_tokens sequence_separator_token "
    "disable_concat_sequences use_cached_activations cached_activations_path "
    "n_batches_in_buffer tokens_per_buffer store_batch_size store_batch_size_prompts "
    "train_batch_size train_batch_size_tokens eval_batch_size_prompts n_eval_batches "
    "n_eval_seqs training_tokens total_training_tokens total_training_steps finetuning_tokens "
    "finetuning_method from_pretrained_path b_dec_init_method expansion_factor l1_coefficient "
    "l1_warm_up_steps l0_coefficient l0_warm_up_steps lp_norm lr lr_end lr_scheduler_name "
    "lr_warm_up_steps lr_decay_steps n_restart_cycles adam_beta1 adam_beta2 "
    "mse_loss_normalization use_ghost_grads noise_scale normalize_sae_decoder "
    "decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm "
    "decoder_init_norm init_encoder_as_decoder_transpose scale_sparsity_penalty_by_decoder_norm "
    "jumprelu_init_threshold jumprelu_bandwidth feature_sampling_window feature_sampling_method "
    "feature_reinit_scale resample_batches dead_feature_window dead_feature_threshold "
    "dead_feature_estimation_method autocast autocast_lm compile_llm compile_sae "
    "llm_compilation_mode sae_compilation_mode log_to_wandb wandb_project training_architecture "
    "training_architecture_details l0 num_dead_features wandb_entity wandb_id "
    "wandb_log_frequency run_name eval_every_n_wandb_logs verbose resume "
    "log_activations_store_to_wandb log_optimizer_state_to_wandb n_checkpoints checkpoint_path";

/* The number of a word in a list, "a/b c": 0 0 1; -1 if it is not there. */
static int number_of(const char *list, const char *word)
{
    for (int number = 0;;) {
        size_t n = strcspn(list, " /");
        if (n == strlen(word) && !memcmp(list, word, n)) return number;
        if (!list[n]) return -1;
        number += list[n] == ' ';
        list += n + 1;
    }
}

/* One value of cfg.json -> its field. 1 if it is a setting: what is in it are settings, too. */
static int take_setting(Sae *s, const MiValue *v, uint64_t *seen)
{
    static const char types[] = "tfn0{[", literals[] = "true/false/null/#/{/[/*";
    static const char *const words[] = {"true", "false", "null", "#", "{", "["};
    const char *key = v->key;
    if (!key && v->type != 'n') refuse(1, "cfg.json: seqpos_slice leaves positions out");
    if (!key) return 1;
    const char *word = v->type == '"' ? v->text : words[strchr(types, v->type) - types];
    int i = 0, n = sizeof SETTINGS / sizeof *SETTINGS;
    while (i < n && strcmp(SETTINGS[i].key, key)) i++;
    if (i == n && number_of(TRAINING, key) >= 0) return 0;
    if (i == n) refuse(1, "cfg.json: %s is not understood", key);
    const char *values = SETTINGS[i].values;
    size_t      field = SETTINGS[i].field;
    int number = v->type != '"' ? number_of(values, word)
               : number_of(literals, word) >= 0 ? -1 : *values == '*' ? 0 : number_of(values, word);
    if (number < 0) refuse(1, "cfg.json: %s is %s; what can be computed is %s", key, word, values);
    for (int j = 0; j < n; j++)
        if (*seen >> j & 1 && (j == i || (field && SETTINGS[j].field == field)))
            refuse(1, "cfg.json says %s twice, or %s beside it", key, SETTINGS[j].key);
    *seen |= (uint64_t)1 << i;
    if (v->type == '0' && field == F(factor)) return s->factor = v->number, 1;
    if (*values == '*') return s->hook = v->text, 1;
    double given = v->type == '0' ? v->number : number;
    if (v->type == '0' && (given != floor(given) || given < SETTINGS[i].least || given > 1 << 24))
        refuse(1, "cfg.json: %s is %g", key, given);
    if (field && v->type != 'n') *(int *)((char *)s + field) = (int)given;
    return 1;
}

/* cfg.json -> all settings, and what SAELens takes where it says nothing. */
static void read_cfg(Sae *s, const char *path)
{
    uint64_t seen = 0;
    check(mi_json_read(&s->cfg, path));
    const MiJson *cfg = &s->cfg;
    if (cfg->at[0].type != '{') refuse(1, "%s: not an object", path);
    char *is_setting = must(calloc(cfg->n, 1));
    is_setting[0] = 1;
    s->less_b_dec = 1, s->head = -1;
    int has_bos = 0, is_new = 0;
    for (int i = 1; i < cfg->n; i++) {
        const MiValue *v = &cfg->at[i];
        is_setting[i] = is_setting[v->parent] && take_setting(s, v, &seen);
        if (!is_setting[i] || !v->key) continue;
        has_bos |= !strcmp(v->key, "prepend_bos");
        is_new |= !strcmp(v->key, "metadata");
        s->says_centred |= is_new || !strcmp(v->key, "model_from_pretrained_kwargs");
    }
    free(is_setting);
    if (!has_bos) s->bos = 1;
    if (is_new && !(seen & 1)) refuse(1, "%s: architecture is missing", path);
    if (!s->hook || !s->d_in || !s->d_sae)
        refuse(1, "%s: d_in, d_sae or hook_name is missing", path);
    if (s->activation && s->architecture == STANDARD) s->architecture = TOPK;
    if (s->activation && s->architecture != TOPK)
        refuse(1, "cfg.json: topk of another architecture");
    if (s->architecture == TOPK && (s->k < 1 || s->k > s->d_sae))
        refuse(1, "cfg.json: topk, and k is %d of %d", s->k, s->d_sae);
    if (s->norm == AVERAGE && !(s->factor > 0))
        refuse(1, "cfg.json: expected_average_only_in needs norm_scaling_factor: "
                  "see labs/sae_files.h");
}

/* hook_name -> the site, layer and columns. */
static void find_hook(Sae *s, const Lab *lab)
{
    static const MiSite known[] = {MI_resid_pre, MI_attn_out, MI_resid_mid, MI_mlp_out,
                                   MI_resid_post, MI_z, MI_mlp_post};
    const MiShape *m = &lab->shape;
    char name[64] = "";
    int  i = 0, n = 7 * m->n_layer;
    for (; i < n; i++) {
        s->site = known[i % 7], s->layer = i / 7;
        snprintf(name, sizeof name, mi_site_info(s->site)->tl_name, s->layer);
        if (!strcmp(name, s->hook)) break;
    }
    if (i == n)
        refuse(1, "cfg.json: hook_name %s: only the stream of layers 0-%d, what is added to it, "
                  "attn.hook_z and mlp.hook_post can be read", s->hook, m->n_layer - 1);
    if (s->head >= (s->site == MI_z ? m->n_head : 0))
        refuse(1, "cfg.json: %s has no head %d", s->hook, s->head);
    if (s->is_z && s->site != MI_z)
        refuse(1, "cfg.json: reshape_activations hook_z of %s", s->hook);
    int width = s->head >= 0 ? m->d_head : s->site == MI_mlp_post ? m->d_mlp : m->d_model;
    s->first = s->head >= 0 ? s->head * m->d_head : 0;
    if (width != s->d_in) refuse(1, "d_in is %d; %s of this model has %d", s->d_in, s->hook, width);
    if (s->site == MI_z || s->site == MI_mlp_post) s->centred = 0;     /* not in the stream */
    else if (!s->says_centred)
        refuse(1, "cfg.json does not say whether the stream was centred: see labs/sae_files.h");
}

/* The tensors, all that the architecture has and no others, each a number. */
static void take_tensors(Sae *s, const char *path)
{
    enum { S = 1 << STANDARD, J = 1 << JUMPRELU, G = 1 << GATED, T = 1 << TOPK, ALL = 15 };
    const MiWeight *ones = NULL;
    const struct { const char *name; int rows, cols, of; const MiWeight **to; } known[] = {
        {"W_enc", s->d_in, s->d_sae, ALL, &s->W_enc}, {"b_dec", s->d_in, 0, ALL, &s->b_dec},
        {"W_dec", s->d_sae, s->d_in, ALL, &s->W_dec}, {"b_enc", s->d_sae, 0, S | J | T, &s->b_enc},
        {"b_gate", s->d_sae, 0, G, &s->b_enc}, {"b_mag", s->d_sae, 0, G, &s->b_mag},
        {"r_mag", s->d_sae, 0, G, &s->r_mag}, {"threshold", s->d_sae, 0, J, &s->threshold},
        {"scaling_factor", s->d_sae, 0, 0, &ones},
    };
    int n = sizeof known / sizeof *known;
    check(mi_tensors_open(&s->file, path));
    for (int i = 0; i < s->file.n; i++) {
        const MiTensor *t = &s->file.at[i];
        int k = 0;
        while (k < n && strcmp(known[k].name, t->name)) k++;
        if (k == n || (known[k].of && !(known[k].of >> s->architecture & 1)))
            refuse(1, "%s: tensor %.80s is not understood", path, t->name);
        int rows = known[k].rows, cols = known[k].cols;
        if (t->n_dims != (cols ? 2 : 1) || t->shape[0] != rows || (cols && t->shape[1] != cols))
            refuse(1, "%s: tensor %s should be [%d%s%.0d]", path, t->name, rows, cols ? "," : "",
                   cols);
        if (!t->value) refuse(1, "%s: tensor %s is of type %.8s", path, t->name, t->dtype);
        for (size_t e = 0; e < (size_t)rows * (cols ? cols : 1); e++)
            if (!isfinite(t->value[e]))
                refuse(1, "%s: tensor %s is not all numbers", path, t->name);
        *known[k].to = t->value;
    }
    for (int k = 0; k < n; k++)
        if (known[k].of >> s->architecture & 1 && !*known[k].to)
            refuse(1, "%s: tensor %s is missing", path, known[k].name);
    for (int j = 0; ones && j < s->d_sae; j++)
        if (fabsf(ones[j] - 1) > 1e-5f)
            refuse(1, "%s: scaling_factor is not 1: a finetuned SAE", path);
}

static Sae open_sae(const Lab *lab, const char *folder)
{
    Sae  s = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/cfg.json", folder);
    read_cfg(&s, path);
    find_hook(&s, lab);
    snprintf(path, sizeof path, "%s/sae_weights.safetensors", folder);
    take_tensors(&s, path);
    s.size = must(calloc(s.d_sae, sizeof *s.size));
    s.p = must(calloc(s.d_sae, sizeof *s.p));
    s.u = must(calloc(s.d_in, sizeof *s.u));
    s.top = must(calloc(s.d_sae, sizeof *s.top));
    for (int j = 0; j < s.d_sae; j++) {
        for (int i = 0; i < s.d_in; i++) s.size[j] += pow(s.W_dec[(size_t)j * s.d_in + i], 2);
        s.size[j] = sqrt(s.size[j]);
    }
    return s;
}

static void close_sae(Sae *s)
{
    free(s->size), free(s->p), free(s->u), free(s->top);
    mi_tensors_close(&s->file);
    mi_json_free(&s->cfg);
}

#endif
