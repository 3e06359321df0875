/* config.json: the golden files, what is refused and by which name, defaults, both generations of rotary
 * keys, and that what weft writes it reads back to the last bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "fixture.h"
#include "io/exchange/hf_internal.h"

static weft_status parse(const char *text, weft_model_desc *m) {
    return weft_hf_config_parse("config.json", text, strlen(text), m);
}

static void golden_configurations_are_read(void **state) {
    (void)state;
    weft_model_desc m;
    assert_ok(weft_hf_config_read(GOLDEN "/gpt2", &m));
    assert_int_equal(m.family, WEFT_GPT2);
    assert_true(m.layers == 2 && m.hidden == 16 && m.heads == 2 && m.kv_heads == 2 && m.head_dim == 8);
    assert_true(m.ffn == 64 && m.context == 32 && m.vocab == 61 && m.vocab_padded == 64);
    assert_true(m.tied == 1 && m.bias == 1 && m.norm_eps == 1e-5 && m.bos == 60 && m.eos == 60 &&
                m.init_std == 0.02);

    assert_ok(weft_hf_config_read(GOLDEN "/llama", &m));
    assert_int_equal(m.family, WEFT_LLAMA);
    assert_true(m.layers == 2 && m.hidden == 32 && m.heads == 4 && m.kv_heads == 2 && m.head_dim == 8);
    assert_true(m.ffn == 40 && m.context == 64 && m.vocab == 61 && !m.tied && !m.bias);
    assert_true(m.rope_theta == 10000 && !m.rope_llama3 && m.norm_eps == 1e-5 && m.bos == 1 && m.eos == 2);

    assert_ok(weft_hf_config_read(GOLDEN "/llama3_tied", &m));
    assert_true(m.tied && m.rope_llama3 && m.rope_theta == 500 && m.rope_factor == 8 &&
                m.rope_low_freq == 1 && m.rope_high_freq == 4 && m.rope_original_context == 64 &&
                m.norm_eps == 1e-6);

    assert_ok(weft_hf_config_read(GOLDEN "/mixtral", &m));
    assert_true(m.family == WEFT_LLAMA && m.experts == 4 && m.experts_per_token == 2 &&
                m.router_balance == 0 && m.router_z == 0 && m.ffn == 20 && !m.tied && m.rope_theta == 10000);

    assert_error(weft_hf_config_read("/nonexistent", &m), WEFT_ERR_NOTFOUND, "config.json");
}

static void missing_keys_are_the_classes_defaults(void **state) {
    (void)state;
    weft_model_desc m;
    assert_ok(parse("{\"model_type\":\"gpt2\"}", &m));
    assert_true(m.layers == 12 && m.hidden == 768 && m.heads == 12 && m.ffn == 3072 && m.context == 1024);
    assert_true(m.vocab == 50257 && m.vocab_padded == 50304 && m.bos == 50256 && m.eos == 50256 && m.tied);
    assert_int_equal(weft_model_parameters(&m), 124439808); /* GPT-2 small, as everybody counts it */

    assert_ok(parse(
        "{\"model_type\":\"llama\",\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,"
        "\"num_key_value_heads\":8,\"intermediate_size\":14336,\"vocab_size\":128256,\"head_dim\":null,"
        "\"max_position_embeddings\":8192,\"rope_theta\":500000.0,\"bos_token_id\":128000,"
        "\"eos_token_id\":[128001,128008,128009],\"rms_norm_eps\":1e-05}",
        &m));
    assert_true(m.head_dim == 128 && !m.tied && m.rope_theta == 500000 && m.bos == 128000 && m.eos == 128001);
    assert_int_equal(weft_model_parameters(&m), 8030261248); /* Llama-3 8B */

    assert_ok(parse("{\"model_type\":\"mixtral\",\"hidden_size\":4096,\"num_hidden_layers\":32,"
                    "\"num_attention_heads\":32,\"intermediate_size\":14336,\"vocab_size\":32000}",
                    &m));
    assert_true(m.experts == 8 && m.experts_per_token == 2 && m.kv_heads == 8 && m.context == 131072);
    assert_true(m.rope_theta == 1e6 && m.norm_eps == 1e-5 && m.router_balance == 0.001 && m.router_z == 0);
    assert_int_equal(weft_model_parameters(&m), 46702792704); /* Mixtral 8x7B */
}

#define LLAMA                                                                                                \
    "\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"         \
    "\"intermediate_size\":40,\"vocab_size\":61"
#define MIXTRAL                                                                                              \
    "\"model_type\":\"mixtral\",\"hidden_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":4,"       \
    "\"num_key_value_heads\":2,\"intermediate_size\":40,\"vocab_size\":61"
#define GPT2 "\"model_type\":\"gpt2\",\"n_embd\":16,\"n_head\":2,\"n_layer\":2,\"vocab_size\":61"
#define L3                                                                                                   \
    "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":"  \
    "64"

static void rotary_parameters_of_both_generations(void **state) {
    (void)state;
    weft_model_desc m, v5;
    assert_ok(parse("{" LLAMA "}", &m));
    assert_true(m.rope_theta == 10000 && !m.rope_llama3);
    assert_ok(parse("{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":777.5}}", &m));
    assert_true(m.rope_theta == 777.5 && !m.rope_llama3);
    assert_ok(parse("{" LLAMA ",\"rope_parameters\":{\"rope_theta\":777.5}}", &m));
    assert_true(m.rope_theta == 777.5 && !m.rope_llama3);
    assert_ok(parse("{" LLAMA ",\"rope_scaling\":null,\"rope_theta\":5}", &m));
    assert_true(m.rope_theta == 5 && !m.rope_llama3);
    assert_ok(
        parse("{" LLAMA ",\"rope_theta\":500.0,\"rope_scaling\":{\"rope_type\":\"llama3\"," L3 "}}", &m));
    assert_true(m.rope_llama3 && m.rope_factor == 8 && m.rope_original_context == 64 && m.rope_theta == 500);
    assert_ok(parse("{" LLAMA ",\"rope_theta\":500.0,\"rope_scaling\":{\"type\":\"llama3\"," L3 "}}", &v5));
    assert_memory_equal(&m, &v5, sizeof m);
    assert_ok(
        parse("{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500.0," L3 "}}", &v5));
    assert_memory_equal(&m, &v5, sizeof m);
}

static void unsupported_and_malformed_files_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *text;
        weft_status want;
        const char *part;
    } bad[] = {
        {"", WEFT_ERR_FORMAT, "not valid JSON"},
        {"[]", WEFT_ERR_FORMAT, "not a JSON object"},
        {"{}", WEFT_ERR_FORMAT, "no model_type"},
        {"{" LLAMA ",\"hidden_size\":32}", WEFT_ERR_FORMAT, "duplicate"},
        {"{\"model_type\":\"mistral\"}", WEFT_ERR_UNSUPPORTED, "model_type is mistral"},
        {"{\"model_type\":\"llama\"}", WEFT_ERR_FORMAT, "num_hidden_layers is missing"},
        {"{" LLAMA ",\"architectures\":[\"LlamaForSequenceClassification\"]}", WEFT_ERR_UNSUPPORTED,
         "LlamaForSequenceClassification"},
        {"{" LLAMA ",\"architectures\":\"x\"}", WEFT_ERR_FORMAT, "architectures"},
        {"{" LLAMA ",\"attention_bias\":true}", WEFT_ERR_UNSUPPORTED, "attention_bias"},
        {"{" LLAMA ",\"mlp_bias\":true}", WEFT_ERR_UNSUPPORTED, "mlp_bias"},
        {"{" LLAMA ",\"hidden_act\":\"gelu\"}", WEFT_ERR_UNSUPPORTED, "hidden_act is gelu"},
        {"{" LLAMA ",\"sliding_window\":4096}", WEFT_ERR_UNSUPPORTED, "sliding_window"},
        {"{" LLAMA ",\"partial_rotary_factor\":0.5}", WEFT_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {"{" LLAMA ",\"quantization_config\":{\"bits\":4}}", WEFT_ERR_UNSUPPORTED, "quantization_config"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", WEFT_ERR_UNSUPPORTED, "yarn"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", WEFT_ERR_UNSUPPORTED, "linear"},
        {"{" LLAMA ",\"rope_scaling\":{\"factor\":2}}", WEFT_ERR_FORMAT, "no rope_type"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0}}", WEFT_ERR_FORMAT,
         "needs factor"},
        {"{" LLAMA ",\"rope_scaling\":3}", WEFT_ERR_FORMAT, "rope_scaling is not an object"},
        {"{" LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1.0}}}", WEFT_ERR_UNSUPPORTED,
         "full_attention"},
        {"{" LLAMA ",\"rope_theta\":500.0,\"rope_parameters\":{\"rope_theta\":501.0}}", WEFT_ERR_FORMAT,
         "rope_theta is 500, but rope_parameters says 501"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\"," L3
         "},\"rope_parameters\":{\"rope_type\":\"default\"}}",
         WEFT_ERR_FORMAT, "disagree"},
        {"{" LLAMA ",\"rope_theta\":0}", WEFT_ERR_FORMAT, "rope_theta is 0"},
        {"{" LLAMA ",\"rms_norm_eps\":-1}", WEFT_ERR_FORMAT, "epsilon"},
        {"{" LLAMA ",\"rms_norm_eps\":\"1e-5\"}", WEFT_ERR_FORMAT, "rms_norm_eps is not a number"},
        {"{" LLAMA ",\"initializer_range\":0}", WEFT_ERR_FORMAT, "initializer_range"},
        {"{" LLAMA ",\"num_key_value_heads\":3}", WEFT_ERR_FORMAT, "3 key-value heads"},
        {"{" LLAMA ",\"num_key_value_heads\":0}", WEFT_ERR_FORMAT, "num_key_value_heads is 0"},
        {"{" LLAMA ",\"head_dim\":7}", WEFT_ERR_FORMAT, "even head width"},
        {"{" LLAMA ",\"head_dim\":1048576}", WEFT_ERR_FORMAT, "wider than"},
        {"{" LLAMA ",\"max_position_embeddings\":1e3}", WEFT_ERR_FORMAT,
         "max_position_embeddings is not an integer"},
        {"{" LLAMA ",\"tie_word_embeddings\":1}", WEFT_ERR_FORMAT, "tie_word_embeddings"},
        {"{" LLAMA ",\"eos_token_id\":61}", WEFT_ERR_VOCAB,
         "eos_token_id is 61, outside the vocabulary of 61"},
        {"{" LLAMA ",\"eos_token_id\":[-1]}", WEFT_ERR_VOCAB, "outside the vocabulary"},
        {"{" LLAMA ",\"eos_token_id\":[]}", WEFT_ERR_FORMAT, "eos_token_id is not a token id"},
        {"{" MIXTRAL ",\"num_local_experts\":1025}", WEFT_ERR_FORMAT, "num_local_experts is 1025"},
        {"{" MIXTRAL ",\"num_experts_per_tok\":9}", WEFT_ERR_FORMAT, "9 of 8 experts"},
        {"{" MIXTRAL ",\"router_aux_loss_coef\":-1}", WEFT_ERR_FORMAT, "must not be negative"},
        {"{" MIXTRAL ",\"router_jitter_noise\":0.1}", WEFT_ERR_UNSUPPORTED, "router_jitter_noise"},
        {"{" MIXTRAL ",\"sliding_window\":4096}", WEFT_ERR_UNSUPPORTED, "sliding_window"},
        {"{" MIXTRAL ",\"architectures\":[\"LlamaForCausalLM\"]}", WEFT_ERR_UNSUPPORTED, "LlamaForCausalLM"},
        {"{" GPT2 ",\"activation_function\":\"relu\"}", WEFT_ERR_UNSUPPORTED, "relu"},
        {"{" GPT2 ",\"activation_function\":3}", WEFT_ERR_FORMAT, "not a string"},
        {"{" GPT2 ",\"scale_attn_weights\":false}", WEFT_ERR_UNSUPPORTED, "scale_attn_weights"},
        {"{" GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", WEFT_ERR_UNSUPPORTED, "inverse_layer_idx"},
        {"{" GPT2 ",\"add_cross_attention\":true}", WEFT_ERR_UNSUPPORTED, "add_cross_attention"},
        {"{" GPT2 ",\"n_inner\":-5}", WEFT_ERR_FORMAT, "n_inner is -5"},
        {"{\"model_type\":\"gpt2\",\"n_embd\":15,\"n_head\":2}", WEFT_ERR_FORMAT, "not a multiple"},
        {"{\"model_type\":\"gpt2\",\"n_layer\":4097}", WEFT_ERR_FORMAT, "n_layer is 4097"},
        {"{\"model_type\":\"gpt2\",\"vocab_size\":99999999999}", WEFT_ERR_FORMAT, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        weft_model_desc m, zero = {0};
        assert_error(parse(bad[i].text, &m), bad[i].want, bad[i].part);
        assert_memory_equal(&m, &zero, sizeof m);
    }
    /* the base of all those cases is itself accepted, or they would prove nothing */
    weft_model_desc m;
    assert_ok(parse("{" LLAMA "}", &m));
    assert_ok(parse("{" GPT2 "}", &m));
    assert_ok(parse("{" MIXTRAL "}", &m));
}

static double any(uint64_t seed, uint64_t i, double lo, double hi) {
    return lo + (hi - lo) * weft_rng_uniform(seed, 9, i);
}
static int64_t pick(uint64_t seed, uint64_t i, int64_t n) {
    return 1 + (int64_t)(weft_rng_u64(seed, 8, i) % (uint64_t)n);
}

static weft_model_desc random_desc(uint64_t seed) {
    weft_model_desc m;
    memset(&m, 0, sizeof m);
    m.family = pick(seed, 0, 2) == 1 ? WEFT_GPT2 : WEFT_LLAMA;
    m.layers = pick(seed, 1, 100);
    m.kv_heads = pick(seed, 2, 8);
    m.heads = m.kv_heads * (m.family == WEFT_LLAMA ? pick(seed, 3, 4) : 1);
    m.head_dim = 2 * pick(seed, 4, 64);
    m.hidden = m.family == WEFT_GPT2 || pick(seed, 5, 2) == 1 ? m.heads * m.head_dim : pick(seed, 6, 2000);
    m.ffn = pick(seed, 7, 2) == 1 ? 4 * m.hidden : pick(seed, 8, 5000);
    m.context = pick(seed, 9, 100000);
    m.vocab = pick(seed, 10, 200000);
    m.vocab_padded = (m.vocab + 63) / 64 * 64;
    m.tied = pick(seed, 11, 2) == 1;
    m.bias = m.family == WEFT_GPT2;
    m.norm_eps = pick(seed, 12, 2) == 1 ? 1e-5 : any(seed, 1, 1e-9, 1e-3);
    m.init_std = pick(seed, 13, 2) == 1 ? 0.02 : any(seed, 2, 1e-3, 1);
    m.bos = pick(seed, 14, 2) == 1 ? -1 : pick(seed, 15, m.vocab) - 1;
    m.eos = pick(seed, 16, 2) == 1 ? -1 : pick(seed, 17, m.vocab) - 1;
    if (m.family == WEFT_GPT2) return m;
    if (pick(seed, 21, 2) == 1) {
        m.experts = pick(seed, 22, 12);
        m.experts_per_token = pick(seed, 23, m.experts);
        m.router_balance = pick(seed, 24, 2) == 1 ? 0 : any(seed, 7, 0, 1);
        m.router_z = pick(seed, 25, 2) == 1 ? 0.001 : any(seed, 8, 0, 1);
    }
    m.rope_theta = pick(seed, 18, 2) == 1 ? 10000 : any(seed, 3, 1, 1e6);
    m.rope_llama3 = pick(seed, 19, 2) == 1;
    if (!m.rope_llama3) return m;
    m.rope_factor = any(seed, 4, 1, 64);
    m.rope_low_freq = any(seed, 5, 0.1, 2);
    m.rope_high_freq = m.rope_low_freq + any(seed, 6, 0.1, 8);
    m.rope_original_context = pick(seed, 20, 10000);
    return m;
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    uint64_t seed = test_seed();
    for (uint64_t k = 0; k < 2000; k++) {
        weft_model_desc m = random_desc(seed + k), back;
        char *text = weft_hf_config_text(&m, WEFT_F32);
        assert_non_null(text);
        assert_ok(parse(text, &back));
        if (memcmp(&m, &back, sizeof m)) fail_msg("seed %llu: %s", (unsigned long long)(seed + k), text);
        free(text);
    }
}

static void numbers_are_written_as_people_write_them(void **state) {
    (void)state;
    weft_model_desc m;
    assert_ok(weft_hf_config_read(GOLDEN "/llama3_tied", &m));
    char *text = weft_hf_config_text(&m, WEFT_BF16), *generation = weft_hf_generation_text(&m);
    static const char *const lines[] = {"\"rms_norm_eps\": 1e-6",
                                        "\"rope_theta\": 500.0",
                                        "\"initializer_range\": 0.02",
                                        "\"torch_dtype\": \"bfloat16\"",
                                        "\"tie_word_embeddings\": true",
                                        "\"rope_type\": \"llama3\"",
                                        "\"architectures\": [\n    \"LlamaForCausalLM\"\n  ]"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("no %s in\n%s", lines[i], text);
    assert_non_null(strstr(generation, "\"eos_token_id\": 2"));
    free(text);
    free(generation);
}

static void tensors_come_in_the_order_of_the_arena(void **state) {
    (void)state;
    static const char *const gpt2[] = {
        "embed.tok.weight 61 16",        "embed.pos.weight 1024 16",        "layers.00.norm1.weight 16 0",
        "layers.00.norm1.bias 16 0",     "layers.00.attn.q.weight 16 16",   "layers.00.attn.k.weight 16 16",
        "layers.00.attn.v.weight 16 16", "layers.00.attn.q.bias 16 0",      "layers.00.attn.k.bias 16 0",
        "layers.00.attn.v.bias 16 0",    "layers.00.attn.o.weight 16 16",   "layers.00.attn.o.bias 16 0",
        "layers.00.norm2.weight 16 0",   "layers.00.norm2.bias 16 0",       "layers.00.mlp.up.weight 64 16",
        "layers.00.mlp.up.bias 64 0",    "layers.00.mlp.down.weight 16 64", "layers.00.mlp.down.bias 16 0",
    };
    static const char *const llama[] = {
        "embed.tok.weight 61 32",          "layers.00.norm1.weight 32 0",     "layers.00.attn.q.weight 32 32",
        "layers.00.attn.k.weight 16 32",   "layers.00.attn.v.weight 16 32",   "layers.00.attn.o.weight 32 32",
        "layers.00.norm2.weight 32 0",     "layers.00.mlp.gate.weight 40 32", "layers.00.mlp.up.weight 40 32",
        "layers.00.mlp.down.weight 32 40",
    };
    weft_model_desc m;
    weft_named *t;
    size_t n;
    char line[128];
    assert_ok(parse("{" GPT2 "}", &m));
    assert_ok(weft_model_tensors(&m, &t, &n));
    assert_int_equal(n, 2 + 2 * 16 + 2);
    for (size_t i = 0; i < sizeof gpt2 / sizeof *gpt2; i++) {
        snprintf(line, sizeof line, "%s %lld %lld", t[i].name, (long long)t[i].shape[0],
                 (long long)t[i].shape[1]);
        assert_string_equal(line, gpt2[i]);
        assert_int_equal(t[i].ndim, t[i].shape[1] ? 2 : 1);
        assert_null(t[i].ptr);
    }
    assert_string_equal(t[18].name, "layers.01.norm1.weight");
    assert_string_equal(t[n - 2].name, "final_norm.weight");
    assert_string_equal(t[n - 1].name, "final_norm.bias");
    free(t);
    assert_ok(parse("{" LLAMA ",\"num_key_value_heads\":2}", &m));
    assert_ok(weft_model_tensors(&m, &t, &n));
    assert_int_equal(n, 1 + 2 * 9 + 2);
    for (size_t i = 0; i < sizeof llama / sizeof *llama; i++) {
        snprintf(line, sizeof line, "%s %lld %lld", t[i].name, (long long)t[i].shape[0],
                 (long long)t[i].shape[1]);
        assert_string_equal(line, llama[i]);
    }
    assert_string_equal(t[n - 2].name, "final_norm.weight");
    assert_string_equal(t[n - 1].name, "head.weight");
    free(t);

    static const char *const experts[] = {
        "layers.01.mlp.router.weight",          "layers.01.mlp.expert.000.gate.weight",
        "layers.01.mlp.expert.000.up.weight",   "layers.01.mlp.expert.001.gate.weight",
        "layers.01.mlp.expert.001.up.weight",   "layers.01.mlp.expert.000.down.weight",
        "layers.01.mlp.expert.001.down.weight", "final_norm.weight",
    };
    assert_ok(parse("{" MIXTRAL ",\"num_local_experts\":2}", &m));
    assert_ok(weft_model_tensors(&m, &t, &n));
    assert_int_equal(n, 1 + 2 * 13 + 2);
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++)
        assert_string_equal(t[1 + 13 + 6 + i].name, experts[i]);
    free(t);

    /* and their elements are what the parameter count says */
    uint64_t seed = test_seed();
    for (uint64_t k = 0; k < 100; k++) {
        m = random_desc(seed + k);
        assert_ok(weft_model_tensors(&m, &t, &n));
        int64_t sum = 0;
        for (size_t i = 0; i < n; i++) sum += t[i].shape[0] * (t[i].ndim == 2 ? t[i].shape[1] : 1);
        assert_int_equal(sum, weft_model_parameters(&m));
        free(t);
    }
    m.layers = 0;
    assert_error(weft_model_tensors(&m, &t, &n), WEFT_ERR_ARG, "number of layers is 0");
    assert_null(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_configurations_are_read),
        cmocka_unit_test(missing_keys_are_the_classes_defaults),
        cmocka_unit_test(rotary_parameters_of_both_generations),
        cmocka_unit_test(unsupported_and_malformed_files_are_refused_by_name),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(numbers_are_written_as_people_write_them),
        cmocka_unit_test(tensors_come_in_the_order_of_the_arena),
    };
    return cmocka_run_group_tests_name("io/exchange/hf_config", tests, NULL, NULL);
}
