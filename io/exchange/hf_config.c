/* config.json -> weft_model_desc.
 *
 * The file is a dictionary that transformers completes with the defaults of the model's class, so a missing
 * key is the default of GPT2Config, LlamaConfig or MixtralConfig, and null means missing. What matters here is what weft
 * must *not* accept in silence: a key that makes transformers compute something else than weft does is
 * refused by name. Keys that steer only training or caching there (dropout, use_cache, torch_dtype) are not
 * looked at. Source: the configuration classes of transformers 4.x and 5.x, whose files differ in where they
 * keep the rotary parameters (rope_theta and rope_scaling, or one dictionary rope_parameters). */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/status.h"
#include "io/exchange/hf_internal.h"

#define CONFIG_MAX (1u << 20)
#define REQUIRED   INT64_MIN

typedef struct config {
    const char *name; /* of the file, for messages */
    json_t *root;
} config;

/* A value that is there and not null. */
static json_t *get(json_t *object, const char *key) {
    json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

static weft_status get_int(const config *c, const char *key, int64_t missing, int64_t hi, int64_t *out) {
    json_t *v = get(c->root, key);
    if (!v && missing == REQUIRED) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is missing", c->name, key);
    *out = missing;
    if (!v) return WEFT_OK;
    if (!json_is_integer(v)) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is not an integer", c->name, key);
    *out = json_integer_value(v);
    if (*out < 1 || *out > hi)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %s is %lld; it must be between 1 and %lld", c->name, key,
                         (long long)*out, (long long)hi);
    return WEFT_OK;
}

static weft_status get_number(const config *c, json_t *object, const char *key, double missing, double *out) {
    json_t *v = get(object, key);
    *out = missing;
    if (!v) return WEFT_OK;
    if (!json_is_number(v)) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is not a number", c->name, key);
    *out = json_number_value(v);
    return WEFT_OK;
}

static weft_status get_bool(const config *c, const char *key, int missing, int *out) {
    json_t *v = get(c->root, key);
    *out = missing;
    if (!v) return WEFT_OK;
    if (!json_is_boolean(v))
        return weft_fail(WEFT_ERR_FORMAT, "%s: %s is neither true nor false", c->name, key);
    *out = json_is_true(v);
    return WEFT_OK;
}

/* A switch that must stand where weft has it. */
static weft_status require_bool(const config *c, const char *key, int value) {
    int v;
    WEFT_TRY(get_bool(c, key, value, &v));
    if (v != value)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %s is %s; weft computes only the other kind of model",
                         c->name, key, v ? "true" : "false");
    return WEFT_OK;
}

/* One of up to two names for the same thing. */
static weft_status require_word(const config *c, const char *key, const char *word, const char *same) {
    json_t *v = get(c->root, key);
    if (!v) return WEFT_OK;
    const char *s = json_string_value(v);
    if (!s) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is not a string", c->name, key);
    if (strcmp(s, word) != 0 && strcmp(s, same) != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %s is %.60s; weft computes %s", c->name, key, s, word);
    return WEFT_OK;
}

static weft_status require_absent(const config *c, const char *key) {
    if (get(c->root, key))
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %s is set; weft has no such thing", c->name, key);
    return WEFT_OK;
}

/* A token id, the first of a list of them (Llama 3 has three ends), or none. `missing` is the class's
 * default, which counts only if the vocabulary has it. */
static weft_status get_token(const config *c, const char *key, int64_t missing, int64_t vocab, int64_t *out) {
    *out = missing < vocab ? missing : -1;
    json_t *v = json_object_get(c->root, key);
    if (json_is_null(v)) *out = -1;
    if (!v || json_is_null(v)) return WEFT_OK;
    if (json_is_array(v)) v = json_array_get(v, 0);
    if (!json_is_integer(v)) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is not a token id", c->name, key);
    *out = json_integer_value(v);
    if (*out < 0 || *out >= vocab)
        return weft_fail(WEFT_ERR_VOCAB,
                         "%s: %s is %lld, outside the vocabulary of %lld; null stands for none", c->name, key,
                         (long long)*out, (long long)vocab);
    return WEFT_OK;
}

/* ---- rotary positions ---- */

typedef struct rope {
    int has_theta, llama3;
    double theta, factor, low, high;
    int64_t original;
} rope;

static weft_status parse_rope(const config *c, const char *key, rope *r) {
    json_t *d = get(c->root, key);
    memset(r, 0, sizeof *r);
    if (!d) return WEFT_OK;
    if (!json_is_object(d)) return weft_fail(WEFT_ERR_FORMAT, "%s: %s is not an object", c->name, key);
    const char *k;
    json_t *v;
    json_object_foreach(d, k, v) if (json_is_object(v)) return weft_fail(
        WEFT_ERR_UNSUPPORTED, "%s: %s differs between kinds of layers (%.60s)", c->name, key, k);
    r->has_theta = get(d, "rope_theta") != NULL;
    WEFT_TRY(get_number(c, d, "rope_theta", 0, &r->theta));
    double rotary = 1;
    WEFT_TRY(get_number(c, d, "partial_rotary_factor", 1, &rotary));
    if (rotary != 1)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: partial_rotary_factor is %g; weft rotates all of a head",
                         c->name, rotary);

    json_t *type = get(d, "rope_type") ? get(d, "rope_type") : get(d, "type"); /* "type" before 4.43 */
    if (!type && json_object_size(d) > (size_t)r->has_theta)
        return weft_fail(WEFT_ERR_FORMAT, "%s: %s has no rope_type", c->name, key);
    const char *name = type ? json_string_value(type) : "default";
    if (!name) return weft_fail(WEFT_ERR_FORMAT, "%s: %s: rope_type is not a string", c->name, key);
    if (!strcmp(name, "default")) return WEFT_OK;
    if (strcmp(name, "llama3") != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %s has rope_type %.60s; weft computes default and llama3",
                         c->name, key, name);
    double original;
    r->llama3 = 1;
    WEFT_TRY(get_number(c, d, "factor", NAN, &r->factor));
    WEFT_TRY(get_number(c, d, "low_freq_factor", NAN, &r->low));
    WEFT_TRY(get_number(c, d, "high_freq_factor", NAN, &r->high));
    WEFT_TRY(get_number(c, d, "original_max_position_embeddings", NAN, &original));
    if (isnan(r->factor) || isnan(r->low) || isnan(r->high) || isnan(original))
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: %s: llama3 scaling needs factor, low_freq_factor, high_freq_factor and "
                         "original_max_position_embeddings",
                         c->name, key);
    if (original < 1 || original > HF_MAX_CONTEXT || original != floor(original))
        return weft_fail(WEFT_ERR_FORMAT, "%s: %s: original_max_position_embeddings is %g", c->name, key,
                         original);
    r->original = (int64_t)original;
    return WEFT_OK;
}

/* A file may say it in the old way, in the new way, or in both; then they must agree. */
static weft_status read_rope(const config *c, double missing, weft_model_desc *m) {
    rope v4, v5;
    WEFT_TRY(parse_rope(c, "rope_scaling", &v4));
    WEFT_TRY(parse_rope(c, "rope_parameters", &v5));
    double top;
    WEFT_TRY(get_number(c, c->root, "rope_theta", 0, &top));
    if (get(c->root, "rope_theta") && !v4.has_theta) {
        v4.has_theta = 1;
        v4.theta = top;
    }
    if (v4.has_theta && v5.has_theta && v4.theta != v5.theta)
        return weft_fail(WEFT_ERR_FORMAT, "%s: rope_theta is %g, but rope_parameters says %g", c->name,
                         v4.theta, v5.theta);
    int both = get(c->root, "rope_parameters") && get(c->root, "rope_scaling");
    if (both && (v4.llama3 != v5.llama3 || v4.factor != v5.factor || v4.low != v5.low || v4.high != v5.high ||
                 v4.original != v5.original))
        return weft_fail(WEFT_ERR_FORMAT, "%s: rope_scaling and rope_parameters disagree", c->name);
    const rope *r = v5.llama3 ? &v5 : &v4;
    m->rope_theta = v4.has_theta ? v4.theta : v5.has_theta ? v5.theta : missing;
    m->rope_llama3 = r->llama3;
    m->rope_factor = r->factor;
    m->rope_low_freq = r->low;
    m->rope_high_freq = r->high;
    m->rope_original_context = r->original;
    return WEFT_OK;
}

/* ---- the families ---- */

static weft_status read_gpt2(const config *c, weft_model_desc *m) {
    m->family = WEFT_GPT2;
    m->bias = 1;
    WEFT_TRY(get_int(c, "n_layer", 12, HF_MAX_LAYERS, &m->layers));
    WEFT_TRY(get_int(c, "n_embd", 768, HF_MAX_WIDTH, &m->hidden));
    WEFT_TRY(get_int(c, "n_head", 12, HF_MAX_WIDTH, &m->heads));
    WEFT_TRY(get_int(c, "n_inner", 4 * m->hidden, HF_MAX_WIDTH, &m->ffn));
    WEFT_TRY(get_int(c, "n_positions", 1024, HF_MAX_CONTEXT, &m->context));
    WEFT_TRY(get_int(c, "vocab_size", 50257, HF_MAX_VOCAB, &m->vocab));
    if (m->hidden % m->heads)
        return weft_fail(WEFT_ERR_FORMAT, "%s: n_embd %lld is not a multiple of n_head %lld", c->name,
                         (long long)m->hidden, (long long)m->heads);
    m->kv_heads = m->heads;
    m->head_dim = m->hidden / m->heads;
    WEFT_TRY(get_number(c, c->root, "layer_norm_epsilon", 1e-5, &m->norm_eps));
    WEFT_TRY(get_bool(c, "tie_word_embeddings", 1, &m->tied));
    WEFT_TRY(get_token(c, "bos_token_id", 50256, m->vocab, &m->bos));
    WEFT_TRY(get_token(c, "eos_token_id", 50256, m->vocab, &m->eos));
    WEFT_TRY(require_word(c, "activation_function", "gelu_new", "gelu_pytorch_tanh"));
    WEFT_TRY(require_bool(c, "scale_attn_weights", 1));
    WEFT_TRY(require_bool(c, "scale_attn_by_inverse_layer_idx", 0));
    WEFT_TRY(require_bool(c, "add_cross_attention", 0));
    return WEFT_OK;
}

/* The defaults that differ between the classes of Llama and Mixtral. */
typedef struct llama_defaults {
    int64_t kv_heads, context;
    double norm_eps, rope_theta;
} llama_defaults;

static weft_status read_llama(const config *c, const llama_defaults *missing, weft_model_desc *m) {
    m->family = WEFT_LLAMA;
    WEFT_TRY(get_int(c, "num_hidden_layers", REQUIRED, HF_MAX_LAYERS, &m->layers));
    WEFT_TRY(get_int(c, "hidden_size", REQUIRED, HF_MAX_WIDTH, &m->hidden));
    WEFT_TRY(get_int(c, "num_attention_heads", REQUIRED, HF_MAX_WIDTH, &m->heads));
    WEFT_TRY(get_int(c, "num_key_value_heads", missing->kv_heads ? missing->kv_heads : m->heads, HF_MAX_WIDTH,
                     &m->kv_heads));
    WEFT_TRY(get_int(c, "intermediate_size", REQUIRED, HF_MAX_WIDTH, &m->ffn));
    WEFT_TRY(get_int(c, "max_position_embeddings", missing->context, HF_MAX_CONTEXT, &m->context));
    WEFT_TRY(get_int(c, "vocab_size", REQUIRED, HF_MAX_VOCAB, &m->vocab));
    WEFT_TRY(get_int(c, "head_dim", 0, HF_MAX_WIDTH, &m->head_dim));
    if (!m->head_dim) {
        if (m->hidden % m->heads)
            return weft_fail(WEFT_ERR_FORMAT,
                             "%s: hidden_size %lld is not a multiple of num_attention_heads %lld", c->name,
                             (long long)m->hidden, (long long)m->heads);
        m->head_dim = m->hidden / m->heads;
    }
    WEFT_TRY(get_number(c, c->root, "rms_norm_eps", missing->norm_eps, &m->norm_eps));
    WEFT_TRY(get_bool(c, "tie_word_embeddings", 0, &m->tied));
    WEFT_TRY(get_token(c, "bos_token_id", 1, m->vocab, &m->bos));
    WEFT_TRY(get_token(c, "eos_token_id", 2, m->vocab, &m->eos));
    WEFT_TRY(require_word(c, "hidden_act", "silu", "swish"));
    WEFT_TRY(require_bool(c, "attention_bias", 0));
    WEFT_TRY(require_bool(c, "mlp_bias", 0));
    WEFT_TRY(require_absent(c, "sliding_window"));
    double rotary;
    WEFT_TRY(get_number(c, c->root, "partial_rotary_factor", 1, &rotary));
    if (rotary != 1)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: partial_rotary_factor is %g; weft rotates all of a head",
                         c->name, rotary);
    return read_rope(c, missing->rope_theta, m);
}

/* Mixtral is Llama with experts, and other defaults. router_z_loss_coef is weft's own key. */
static weft_status read_experts(const config *c, weft_model_desc *m) {
    WEFT_TRY(get_int(c, "num_local_experts", 8, HF_MAX_EXPERTS, &m->experts));
    WEFT_TRY(get_int(c, "num_experts_per_tok", 2, HF_MAX_EXPERTS, &m->experts_per_token));
    WEFT_TRY(get_number(c, c->root, "router_aux_loss_coef", 0.001, &m->router_balance));
    WEFT_TRY(get_number(c, c->root, "router_z_loss_coef", 0, &m->router_z));
    double jitter;
    WEFT_TRY(get_number(c, c->root, "router_jitter_noise", 0, &jitter));
    if (jitter != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: router_jitter_noise is %g; weft's router has none",
                         c->name, jitter);
    return WEFT_OK;
}

/* "architectures" names the class that wrote the file; a classifier or a question answerer has another head.
 */
static weft_status check_architecture(const config *c, const char *lm, const char *bare) {
    json_t *list = get(c->root, "architectures");
    if (!list || (json_is_array(list) && !json_array_size(list))) return WEFT_OK;
    const char *s = json_string_value(json_array_get(list, 0));
    if (!s || json_array_size(list) != 1)
        return weft_fail(WEFT_ERR_FORMAT, "%s: architectures is not a list of one name", c->name);
    if (strcmp(s, lm) != 0 && strcmp(s, bare) != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: architecture %.80s; weft imports %s", c->name, s, lm);
    return WEFT_OK;
}

static weft_status read_config(const config *c, weft_model_desc *m) {
    if (!json_is_object(c->root)) return weft_fail(WEFT_ERR_FORMAT, "%s: not a JSON object", c->name);
    const char *type = json_string_value(get(c->root, "model_type"));
    if (!type) return weft_fail(WEFT_ERR_FORMAT, "%s: no model_type", c->name);
    int gpt2 = !strcmp(type, "gpt2");
    int mixtral = !strcmp(type, "mixtral");
    if (!gpt2 && !mixtral && strcmp(type, "llama") != 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: model_type is %.60s; weft knows gpt2, llama and mixtral",
                         c->name, type);
    WEFT_TRY(check_architecture(c,
                                gpt2      ? "GPT2LMHeadModel"
                                : mixtral ? "MixtralForCausalLM"
                                          : "LlamaForCausalLM",
                                gpt2      ? "GPT2Model"
                                : mixtral ? "MixtralModel"
                                          : "LlamaModel"));
    WEFT_TRY(require_absent(c, "quantization_config"));
    static const llama_defaults llama = {0, 2048, 1e-6, 1e4}, mixed = {8, 4096 * 32, 1e-5, 1e6};
    WEFT_TRY(gpt2 ? read_gpt2(c, m) : read_llama(c, mixtral ? &mixed : &llama, m));
    if (mixtral) WEFT_TRY(read_experts(c, m));
    WEFT_TRY(get_number(c, c->root, "initializer_range", 0.02, &m->init_std));
    if (!(m->init_std > 0) || !isfinite(m->init_std))
        return weft_fail(WEFT_ERR_FORMAT, "%s: initializer_range is %g; it must be positive", c->name,
                         m->init_std);
    m->vocab_padded = (m->vocab + 63) / 64 * 64;
    weft_status s = weft_model_check(m);
    if (s == WEFT_ERR_ARG) s = WEFT_ERR_FORMAT; /* the file's fault here, not the caller's */
    return s < 0 ? weft_context(s, "%s", c->name) : s;
}

weft_status weft_hf_config_parse(const char *name, const char *text, size_t n, weft_model_desc *m) {
    memset(m, 0, sizeof *m);
    json_error_t e;
    config c = {name, json_loadb(text, n, JSON_REJECT_DUPLICATES, &e)};
    if (!c.root)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", name, e.line, e.column, e.text);
    weft_status s = read_config(&c, m);
    json_decref(c.root);
    if (s < 0) memset(m, 0, sizeof *m);
    return s;
}

weft_status weft_hf_config_read(const char *dir, weft_model_desc *m) {
    memset(m, 0, sizeof *m);
    char *path = weft_path_join(dir, "config.json"), *text;
    if (!path) return WEFT_ERR_NOMEM;
    size_t n;
    weft_status s = weft_file_read(path, CONFIG_MAX, &text, &n);
    if (s == WEFT_OK) s = weft_hf_config_parse(path, text, n, m);
    free(text);
    free(path);
    return s;
}
