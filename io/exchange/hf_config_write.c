/* weft_model_desc -> config.json and generation_config.json, as text.
 *
 * One file serves transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters): each ignores the other's
 * keys or finds the same there. Real numbers are written with the fewest digits that give the same double
 * back, so that an epsilon reads 1e-05 and not 1.0000000000000001e-05. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/exchange/hf_internal.h"

static void put(json_t *o, const char *key, json_t *v) {
    json_object_set_new(o, key, v);
}
static void put_int(json_t *o, const char *key, int64_t v) {
    put(o, key, json_integer(v));
}
static void put_real(json_t *o, const char *key, double v) {
    put(o, key, json_real(v));
}
static void put_bool(json_t *o, const char *key, int v) {
    put(o, key, json_boolean(v));
}
static void put_text(json_t *o, const char *key, const char *v) {
    put(o, key, json_string(v));
}
static void put_token(json_t *o, const char *key, int64_t v) {
    put(o, key, v < 0 ? json_null() : json_integer(v));
}

static json_t *rope_dictionary(const weft_model_desc *m, int with_theta) {
    json_t *d = json_object();
    put_text(d, "rope_type", m->rope_llama3 ? "llama3" : "default");
    if (with_theta) put_real(d, "rope_theta", m->rope_theta);
    if (m->rope_llama3) {
        put_real(d, "factor", m->rope_factor);
        put_real(d, "low_freq_factor", m->rope_low_freq);
        put_real(d, "high_freq_factor", m->rope_high_freq);
        put_int(d, "original_max_position_embeddings", m->rope_original_context);
    }
    return d;
}

static void put_gpt2(json_t *o, const weft_model_desc *m) {
    put(o, "architectures", json_pack("[s]", "GPT2LMHeadModel"));
    put_text(o, "model_type", "gpt2");
    put_int(o, "n_layer", m->layers);
    put_int(o, "n_embd", m->hidden);
    put_int(o, "n_head", m->heads);
    put(o, "n_inner", m->ffn == 4 * m->hidden ? json_null() : json_integer(m->ffn));
    put_int(o, "n_positions", m->context);
    put_int(o, "n_ctx", m->context);
    put_text(o, "activation_function", "gelu_new");
    put_real(o, "layer_norm_epsilon", m->norm_eps);
    /* weft trains without dropout */
    put_real(o, "resid_pdrop", 0);
    put_real(o, "embd_pdrop", 0);
    put_real(o, "attn_pdrop", 0);
}

static void put_llama(json_t *o, const weft_model_desc *m) {
    put(o, "architectures", json_pack("[s]", m->experts ? "MixtralForCausalLM" : "LlamaForCausalLM"));
    put_text(o, "model_type", m->experts ? "mixtral" : "llama");
    if (m->experts) {
        put_int(o, "num_local_experts", m->experts);
        put_int(o, "num_experts_per_tok", m->experts_per_token);
        put_real(o, "router_aux_loss_coef", m->router_balance);
        put_real(o, "router_z_loss_coef", m->router_z);
    }
    put_int(o, "num_hidden_layers", m->layers);
    put_int(o, "hidden_size", m->hidden);
    put_int(o, "num_attention_heads", m->heads);
    put_int(o, "num_key_value_heads", m->kv_heads);
    put_int(o, "head_dim", m->head_dim);
    put_int(o, "intermediate_size", m->ffn);
    put_int(o, "max_position_embeddings", m->context);
    put_text(o, "hidden_act", "silu");
    put_real(o, "rms_norm_eps", m->norm_eps);
    put_bool(o, "attention_bias", 0);
    put_bool(o, "mlp_bias", 0);
    put_real(o, "rope_theta", m->rope_theta);
    put(o, "rope_scaling", m->rope_llama3 ? rope_dictionary(m, 0) : json_null());
    put(o, "rope_parameters", rope_dictionary(m, 1));
}

/* The fewest significant digits that keep every one of the numbers. */
static size_t digits(const double *v, size_t n) {
    for (size_t p = 6; p < 17; p++) { /* below 6, 500000 would read 5e5 */
        size_t same = 0;
        for (; same < n; same++) {
            char text[64];
            snprintf(text, sizeof text, "%.*g", (int)p, v[same]);
            if (strtod(text, NULL) != v[same]) break;
        }
        if (same == n) return p;
    }
    return 17;
}

static char *finish(json_t *o, size_t precision) {
    char *text = json_dumps(o, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(precision));
    json_decref(o);
    return text;
}

char *weft_hf_config_text(const weft_model_desc *m, weft_dtype t) {
    json_t *o = json_object();
    if (m->family == WEFT_GPT2)
        put_gpt2(o, m);
    else
        put_llama(o, m);
    put_int(o, "vocab_size", m->vocab);
    put_token(o, "bos_token_id", m->bos);
    put_token(o, "eos_token_id", m->eos);
    put_bool(o, "tie_word_embeddings", m->tied);
    put_real(o, "initializer_range", m->init_std);
    put_text(o, "torch_dtype", t == WEFT_BF16 ? "bfloat16" : t == WEFT_F16 ? "float16" : "float32");
    const double real[] = {m->norm_eps,      m->rope_theta,     m->init_std,       m->rope_factor,
                           m->rope_low_freq, m->rope_high_freq, m->router_balance, m->router_z};
    return finish(o, digits(real, sizeof real / sizeof *real));
}

char *weft_hf_generation_text(const weft_model_desc *m) {
    json_t *o = json_object();
    put_bool(o, "_from_model_config", 1);
    put_token(o, "bos_token_id", m->bos);
    put_token(o, "eos_token_id", m->eos);
    return finish(o, 17);
}
