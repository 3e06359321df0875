/* GGUF: read back by a reader of its own, written from the description of the format. Names, shapes, types, alignment,
 * every element, every pair, and the tokenizer. (gguf_live has llama.cpp's and transformers' readers do the same.) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/fault.h"
#include "base/rng.h"
#include "fixture.h"
#include "io/exchange/format.h"
#include "io/tokenizer/tokenizer.h"
#include "kernels/ref/half.h"

#define TOKENIZERS WEFT_SOURCE_DIR "/tests/io/tokenizer/golden"

/* ---- a reader ---- */

typedef struct tensor {
    char name[80];
    uint32_t ndim, type;
    uint64_t dim[2], at;
} tensor;

typedef struct pair {
    char key[80];
    uint32_t type, of; /* of: of an array's elements */
    uint64_t n;        /* elements, or bytes of a string */
    const char *value;
} pair;

typedef struct gguf {
    char *file;
    size_t size, data;
    uint64_t ntensors, npairs;
    tensor t[64];
    pair p[64];
} gguf;

static uint64_t take(const char **at, int bytes) {
    uint64_t v = 0;
    memcpy(&v, *at, (size_t)bytes);
    *at += bytes;
    return v;
}

static void text(const char **at, char *out, size_t cap) {
    uint64_t n = take(at, 8);
    assert_true(n < cap);
    memcpy(out, *at, n);
    out[n] = 0;
    *at += n;
}

static const int width[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}; /* of value types; 8 string, 9 array */

static void step_over(const char **at, uint32_t type) {
    if (type == 8) {
        uint64_t n = take(at, 8);
        *at += n;
    } else
        *at += width[type];
}

static void gguf_open(gguf *g, const char *path) {
    memset(g, 0, sizeof *g);
    g->file = slurp(path, &g->size);
    const char *at = g->file;
    assert_memory_equal(at, "GGUF\3\0\0\0", 8);
    at += 8;
    g->ntensors = take(&at, 8);
    g->npairs = take(&at, 8);
    assert_true(g->ntensors <= 64 && g->npairs <= 64);
    for (uint64_t i = 0; i < g->npairs; i++) {
        pair *p = &g->p[i];
        text(&at, p->key, sizeof p->key);
        p->type = (uint32_t)take(&at, 4);
        p->value = at;
        if (p->type == 9) {
            p->of = (uint32_t)take(&at, 4);
            p->n = take(&at, 8);
            p->value = at;
            for (uint64_t k = 0; k < p->n; k++) step_over(&at, p->of);
        } else
            step_over(&at, p->type);
    }
    for (uint64_t i = 0; i < g->ntensors; i++) {
        tensor *t = &g->t[i];
        text(&at, t->name, sizeof t->name);
        t->ndim = (uint32_t)take(&at, 4);
        assert_true(t->ndim == 1 || t->ndim == 2);
        t->dim[0] = take(&at, 8);
        t->dim[1] = t->ndim == 2 ? take(&at, 8) : 1;
        t->type = (uint32_t)take(&at, 4);
        t->at = take(&at, 8);
        assert_int_equal(t->at % 32, 0);
    }
    g->data = ((size_t)(at - g->file) + 31) / 32 * 32;
    assert_int_equal(g->size % 32, 0);
}

static const pair *find_pair(const gguf *g, const char *key, uint32_t type) {
    for (uint64_t i = 0; i < g->npairs; i++)
        if (!strcmp(g->p[i].key, key)) {
            assert_int_equal(g->p[i].type, type);
            return &g->p[i];
        }
    return NULL;
}

static void assert_u32(const gguf *g, const char *key, uint32_t want) {
    const pair *p = find_pair(g, key, 4);
    uint32_t v = 0;
    if (!p) fail_msg("no key %s", key);
    memcpy(&v, p->value, 4);
    assert_int_equal(v, want);
}

static void assert_f32(const gguf *g, const char *key, float want) {
    const pair *p = find_pair(g, key, 6);
    float v = 0;
    if (!p) fail_msg("no key %s", key);
    memcpy(&v, p->value, 4);
    assert_true(v == want);
}

static void assert_text(const gguf *g, const char *key, const char *want) {
    const pair *p = find_pair(g, key, 8);
    char v[256];
    if (!p) fail_msg("no key %s", key);
    const char *at = p->value;
    text(&at, v, sizeof v);
    assert_string_equal(v, want);
}

/* Element i of an array of strings. */
static void element(const pair *p, uint64_t i, char *out, size_t cap) {
    const char *at = p->value;
    assert_true(p->of == 8 && i < p->n);
    while (i--) step_over(&at, 8);
    text(&at, out, cap);
}

/* ---- elements ---- */

/* The file's element [row, col] as bits of its type, and what it should be from a float. */
static uint32_t bits(const gguf *g, const tensor *t, uint64_t row, uint64_t col) {
    uint32_t v = 0;
    size_t size = t->type ? 2 : 4;
    memcpy(&v, g->file + g->data + t->at + (row * (t->ndim == 2 ? t->dim[0] : 1) + col) * size, size);
    return v;
}

static uint32_t expected(float f, uint32_t type) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if (type == 0) return u;
    if (type == 30) return weft_f32_to_bf16(f);
    return ref_f32_to_f16(f);
}

/* Tensor `name` is the canonical tensors `parts`, stacked; heads > 0: rows of pairs in heads of that many. */
static void assert_tensor(const gguf *g, model *m, const char *name, const char *const *parts, int nparts,
                          uint32_t type, int64_t head) {
    const tensor *t = NULL;
    for (uint64_t i = 0; i < g->ntensors; i++)
        if (!strcmp(g->t[i].name, name)) t = &g->t[i];
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->type, type);
    uint64_t at = 0;
    for (int p = 0; p < nparts; p++) {
        const weft_named *w = model_find(m, parts[p]);
        int64_t cols = w->ndim == 2 ? w->shape[1] : 1;
        assert_int_equal(t->ndim, w->ndim);
        if (w->ndim == 2) assert_int_equal(t->dim[0], cols); /* fastest first */
        for (int64_t r = 0; r < w->shape[0]; r++, at++) {
            int64_t k = r % (head ? head : 1), row = head ? r - k + k % 2 * (head / 2) + k / 2 : r;
            for (int64_t c = 0; c < cols; c++)
                if (bits(g, t, at, (uint64_t)c) != expected(((float *)w->ptr)[row * cols + c], type))
                    fail_msg("%s[%d, %d]", name, (int)at, (int)c);
        }
    }
    assert_int_equal(t->ndim == 2 ? t->dim[1] : t->dim[0], at);
}

static void one(const gguf *g, model *m, const char *name, const char *part, uint32_t type, int64_t head) {
    assert_tensor(g, m, name, &part, 1, type, head);
}

/* ---- models ---- */

static const weft_dtype dtypes[] = {WEFT_F32, WEFT_BF16, WEFT_F16};
static const uint32_t types[] = {0, 30, 1}, file_types[] = {0, 32, 1};

static weft_status export(const char *path, const model *m, weft_dtype t, const char *tokenizer) {
    const weft_export_opts o = {.size = sizeof o, .t = t, .tokenizer = tokenizer};
    return weft_format_export(weft_format_find("gguf"), path, &m->desc, m->t, m->n, &o);
}

static void llama_is_what_llama_cpp_expects(void **state) {
    (void)state;
    char *root = scratch_make();
    model m;
    assert_int_equal(ref_f32_to_f16(-1.5f), 0xbe00); /* what the comparison of f16 stands on */
    model_golden(&m, "llama", WEFT_F32);
    for (int i = 0; i < 3; i++) {
        gguf g;
        assert_ok(export(at(root, "a"), &m, dtypes[i], NULL));
        gguf_open(&g, at(root, "a"));
        assert_int_equal(g.ntensors, 2 * 9 + 3);
        assert_text(&g, "general.architecture", "llama");
        assert_u32(&g, "general.file_type", file_types[i]);
        assert_u32(&g, "general.alignment", 32);
        assert_u32(&g, "llama.block_count", 2);
        assert_u32(&g, "llama.context_length", 64);
        assert_u32(&g, "llama.embedding_length", 32);
        assert_u32(&g, "llama.feed_forward_length", 40);
        assert_u32(&g, "llama.attention.head_count", 4);
        assert_u32(&g, "llama.attention.head_count_kv", 2);
        assert_u32(&g, "llama.rope.dimension_count", 8);
        assert_u32(&g, "llama.vocab_size", 61);
        assert_f32(&g, "llama.rope.freq_base", 10000);
        assert_f32(&g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        assert_text(&g, "tokenizer.ggml.model", "none");
        one(&g, &m, "token_embd.weight", "embed.tok.weight", types[i], 0);
        one(&g, &m, "blk.1.attn_q.weight", "layers.01.attn.q.weight", types[i], 8);
        one(&g, &m, "blk.0.attn_k.weight", "layers.00.attn.k.weight", types[i], 8);
        one(&g, &m, "blk.1.attn_v.weight", "layers.01.attn.v.weight", types[i], 0);
        one(&g, &m, "blk.1.attn_output.weight", "layers.01.attn.o.weight", types[i], 0);
        one(&g, &m, "blk.0.ffn_gate.weight", "layers.00.mlp.gate.weight", types[i], 0);
        one(&g, &m, "blk.1.ffn_up.weight", "layers.01.mlp.up.weight", types[i], 0);
        one(&g, &m, "blk.1.ffn_down.weight", "layers.01.mlp.down.weight", types[i], 0);
        one(&g, &m, "blk.1.attn_norm.weight", "layers.01.norm1.weight", 0, 0); /* vectors stay f32 */
        one(&g, &m, "blk.0.ffn_norm.weight", "layers.00.norm2.weight", 0, 0);
        one(&g, &m, "output_norm.weight", "final_norm.weight", 0, 0);
        one(&g, &m, "output.weight", "head.weight", types[i], 0);
        free(g.file);
    }
    model_destroy(&m);
    scratch_remove(root);
}

static void gpt2_is_what_llama_cpp_expects(void **state) {
    (void)state;
    static const char *const qkv[] = {"layers.01.attn.q.weight", "layers.01.attn.k.weight",
                                      "layers.01.attn.v.weight"};
    static const char *const qkv_bias[] = {"layers.00.attn.q.bias", "layers.00.attn.k.bias",
                                           "layers.00.attn.v.bias"};
    char *root = scratch_make();
    model m;
    model_golden(&m, "gpt2", WEFT_F32);
    for (int i = 0; i < 3; i++) {
        gguf g;
        assert_ok(export(at(root, "a"), &m, dtypes[i], NULL));
        gguf_open(&g, at(root, "a"));
        assert_int_equal(g.ntensors, 2 * 12 + 4);
        assert_text(&g, "general.architecture", "gpt2");
        assert_u32(&g, "gpt2.feed_forward_length", 64);
        assert_u32(&g, "gpt2.attention.head_count", 2);
        assert_f32(&g, "gpt2.attention.layer_norm_epsilon", 1e-5f);
        one(&g, &m, "position_embd.weight", "embed.pos.weight", 0, 0);
        assert_tensor(&g, &m, "blk.1.attn_qkv.weight", qkv, 3, types[i], 0);
        assert_tensor(&g, &m, "blk.0.attn_qkv.bias", qkv_bias, 3, 0, 0);
        one(&g, &m, "blk.1.attn_output.weight", "layers.01.attn.o.weight", types[i], 0);
        one(&g, &m, "blk.0.ffn_up.weight", "layers.00.mlp.up.weight", types[i], 0);
        one(&g, &m, "blk.0.ffn_up.bias", "layers.00.mlp.up.bias", 0, 0);
        one(&g, &m, "blk.1.ffn_down.weight", "layers.01.mlp.down.weight", types[i], 0);
        one(&g, &m, "output_norm.bias", "final_norm.bias", 0, 0);
        free(g.file);
    }
    model_destroy(&m);
    scratch_remove(root);
}

/* Llama-3 scaling as a table: 1 where waves are short, the factor where they are long, in between in between. */
static void rope_scaling_travels_as_factors(void **state) {
    (void)state;
    char *root = scratch_make();
    model m;
    gguf g;
    model_golden(&m, "llama3_tied", WEFT_F32);
    assert_ok(export(at(root, "a"), &m, WEFT_F16, NULL));
    gguf_open(&g, at(root, "a"));
    const tensor *t = NULL;
    for (uint64_t i = 0; i < g.ntensors; i++) {
        if (!strcmp(g.t[i].name, "rope_freqs.weight")) t = &g.t[i];
        assert_string_not_equal(g.t[i].name, "output.weight"); /* tied */
    }
    assert_non_null(t);
    assert_true(t->type == 0 && t->ndim == 1 && t->dim[0] == 4);
    for (int j = 0; j < 4; j++) {
        float f;
        uint32_t u = bits(&g, t, (uint64_t)j, 0);
        memcpy(&f, &u, 4);
        double wave = 2 * 3.14159265358979323846 * pow(500, 2.0 * j / 8), smooth = (64 / wave - 1) / (4 - 1),
               want = wave < 16   ? 1
                      : wave > 64 ? 8
                                  : 1 / ((1 - smooth) / 8 + smooth);
        assert_float_equal(f, want, 1e-6 * want);
    }
    free(g.file);
    model_destroy(&m);
    scratch_remove(root);
}

/* A model as small as the tokenizer's vocabulary allows. */
static void small_model(model *m, int64_t vocab) {
    const weft_model_desc d = {.family = WEFT_LLAMA,
                               .layers = 1,
                               .hidden = 8,
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 4,
                               .ffn = 12,
                               .context = 16,
                               .vocab = vocab,
                               .vocab_padded = (vocab + 63) / 64 * 64,
                               .tied = 1,
                               .norm_eps = 1e-5,
                               .rope_theta = 10000,
                               .init_std = 0.02,
                               .bos = -1,
                               .eos = -1};
    model_create(m, &d, WEFT_F32);
    for (size_t i = 0; i < m->n; i++)
        for (size_t k = 0; k < named_bytes(&m->t[i]) / 4; k++)
            ((float *)m->t[i].ptr)[k] = (float)(weft_rng_u64(1, i, k) % 1000) * 0.001f;
}

static void the_tokenizer_goes_along(void **state) {
    (void)state;
    static const struct {
        const char *file, *pre;
    } kinds[] = {{"gpt2.json", "gpt-2"}, {"cl100k.json", "dbrx"}};
    char *root = scratch_make();
    for (int i = 0; i < 2; i++) {
        const char *path = at(TOKENIZERS, kinds[i].file);
        weft_tok *tok;
        model m;
        gguf g;
        assert_ok(weft_tok_load(path, &tok));
        uint32_t n = weft_tok_vocab(tok);
        small_model(&m, n + 3);
        assert_ok(export(at(root, "a"), &m, WEFT_F32, path));
        gguf_open(&g, at(root, "a"));
        assert_text(&g, "tokenizer.ggml.model", "gpt2");
        assert_text(&g, "tokenizer.ggml.pre", kinds[i].pre);
        const pair *tokens = find_pair(&g, "tokenizer.ggml.tokens", 9),
                   *kind = find_pair(&g, "tokenizer.ggml.token_type", 9),
                   *merges = find_pair(&g, "tokenizer.ggml.merges", 9);
        assert_true(tokens && kind && merges && tokens->n == n + 3 && kind->n == n + 3 && kind->of == 5 &&
                    merges->n > 0);
        char s[512], left[512], *joined;
        element(tokens, n + 1, s, sizeof s);
        snprintf(left, sizeof left, "[PAD%u]", n + 1);
        assert_string_equal(s, left);
        int32_t type;
        memcpy(&type, kind->value + 4 * (n + 1), 4);
        assert_int_equal(type, 5);
        assert_true(weft_tok_eot(tok) >= 0);
        memcpy(&type, kind->value + 4 * weft_tok_eot(tok), 4);
        assert_int_equal(type, 3); /* control */
        element(tokens, (uint64_t)weft_tok_eot(tok), s, sizeof s);
        assert_true(s[0] == '<' && s[1] == '|');
        assert_u32(&g, "tokenizer.ggml.eos_token_id", (uint32_t)weft_tok_eot(tok));
        /* the token " t" or its like: a space is U+0120 in the byte-level alphabet; every merge joins to a token */
        int spaces = 0;
        for (uint64_t k = 0; k < merges->n; k++) {
            element(merges, k, s, sizeof s);
            char *space = strchr(s, ' ');
            assert_non_null(space);
            assert_null(strchr(space + 1, ' '));
            spaces += strstr(s, "\xc4\xa0") != NULL;
            if (k % 97) continue; /* a few of them: the search is slow */
            memmove(space, space + 1, strlen(space));
            joined = s;
            int found = 0;
            for (uint64_t q = 0; q < n && !found; q++) {
                element(tokens, q, left, sizeof left);
                found = !strcmp(left, joined);
            }
            assert_true(found);
        }
        assert_true(spaces > 0);
        free(g.file);
        model_destroy(&m);

        small_model(&m, n - 1);
        assert_error(export(at(root, "b"), &m, WEFT_F32, path), WEFT_ERR_VOCAB, "the model only");
        assert_int_equal(entries(root), 1);
        model_destroy(&m);
        weft_tok_destroy(tok);
    }
    scratch_remove(root);
}

static void numbers_too_large_for_f16_are_refused(void **state) {
    (void)state;
    char *root = scratch_make();
    model m;
    model_golden(&m, "llama", WEFT_F32);
    ((float *)model_find(&m, "layers.01.mlp.down.weight")->ptr)[41] = 7e4f;
    assert_error(export(at(root, "a"), &m, WEFT_F16, NULL), WEFT_ERR_NONFINITE,
                 "layers.01.mlp.down.weight[1, 1]");
    assert_ok(export(at(root, "b"), &m, WEFT_BF16, NULL));
    const weft_export_opts o = {.size = sizeof o, .t = WEFT_F16};
    assert_error(weft_format_export(weft_format_find("hf"), at(root, "hf"), &m.desc, m.t, m.n, &o),
                 WEFT_ERR_NONFINITE, "layers.1.mlp.down_proj.weight");
    assert_int_equal(entries(root), 1);
    ((float *)model_find(&m, "layers.01.mlp.down.weight")->ptr)[41] =
        INFINITY; /* what was infinite stays so */
    assert_ok(export(at(root, "a"), &m, WEFT_F16, NULL));
    model_destroy(&m);
    scratch_remove(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_is_what_llama_cpp_expects),
        cmocka_unit_test(gpt2_is_what_llama_cpp_expects),
        cmocka_unit_test(rope_scaling_travels_as_factors),
        cmocka_unit_test(the_tokenizer_goes_along),
        cmocka_unit_test(numbers_too_large_for_f16_are_refused),
    };
    return cmocka_run_group_tests_name("io/exchange/gguf", tests, NULL, NULL);
}
