/* HuggingFace import: every element lands where the tables of docs say, and a directory that does not hold
 * exactly the model of its config.json is refused with the whole list of differences. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/fault.h"
#include "fixture.h"
#include "io/exchange/hf_internal.h"
#include "io/exchange/safetensors.h"

/* A golden model's file in memory, to be written again with changes. */
typedef struct raw {
    size_t n;
    weft_st_source t[64];
    char name[64][96];
} raw;

static void raw_load(raw *r, const char *golden) {
    weft_st *f;
    assert_ok(weft_st_open(at(at(GOLDEN, golden), "model.safetensors"), &f));
    r->n = weft_st_count(f);
    assert_true(r->n <= 60);
    for (size_t i = 0; i < r->n; i++) {
        const weft_st_tensor *t = weft_st_at(f, i);
        void *p = malloc(t->bytes);
        assert_ok(weft_st_read(f, t, 0, (int64_t)(t->bytes / weft_dtype_size(t->t)), t->t, p));
        snprintf(r->name[i], sizeof r->name[i], "%s", t->name);
        r->t[i] = (weft_st_source){.t = t->t, .ndim = t->ndim, .ptr = p};
        memcpy(r->t[i].shape, t->shape, sizeof t->shape);
    }
    weft_st_close(f);
}

static void raw_free(raw *r) {
    for (size_t i = 0; i < r->n; i++) free((void *)(uintptr_t)r->t[i].ptr);
}

static size_t raw_find(const raw *r, const char *name) {
    for (size_t i = 0; i < r->n; i++)
        if (!strcmp(r->name[i], name)) return i;
    fail_msg("no tensor %s", name);
    return 0;
}

static void raw_add(raw *r, const char *name, weft_dtype t, int64_t rows, const void *data, size_t bytes) {
    void *p = malloc(bytes);
    memcpy(p, data, bytes);
    snprintf(r->name[r->n], sizeof r->name[0], "%s", name);
    r->t[r->n++] = (weft_st_source){.t = t, .ndim = 1, .shape = {rows}, .ptr = p};
}

/* Writes the tensors [from, to) into dir/file. */
static void raw_write(raw *r, const char *dir, const char *file, size_t from, size_t to) {
    for (size_t i = 0; i < r->n; i++) r->t[i].name = r->name[i];
    assert_ok(weft_st_write(at(dir, file), r->t + from, to - from, NULL, 0));
}

static weft_status import(const char *dir, const char *golden, weft_dtype t, model *m) {
    weft_model_desc d;
    assert_ok(weft_hf_config_read(at(GOLDEN, golden), &d));
    model_create(m, &d, t);
    return weft_hf_import(dir, &m->desc, m->t, m->n);
}

static void gpt2_matrices_are_transposed_and_split(void **state) {
    (void)state;
    raw r;
    model m;
    raw_load(&r, "gpt2");
    model_golden(&m, "gpt2", WEFT_F32);
    static const char *const parts[] = {"layers.01.attn.q", "layers.01.attn.k", "layers.01.attn.v"};
    const float *w = r.t[raw_find(&r, "transformer.h.1.attn.c_attn.weight")].ptr;
    const float *b = r.t[raw_find(&r, "transformer.h.1.attn.c_attn.bias")].ptr;
    char name[64], hf[96];
    int differs = 0;
    for (int p = 0; p < 3; p++) {
        snprintf(name, sizeof name, "%s.weight", parts[p]);
        const float *x = model_find(&m, name)->ptr;
        snprintf(name, sizeof name, "%s.bias", parts[p]);
        const float *y = model_find(&m, name)->ptr;
        for (int o = 0; o < 16; o++) {
            for (int i = 0; i < 16; i++) {
                assert_true(x[o * 16 + i] == w[i * 48 + p * 16 + o]);
                differs +=
                    x[o * 16 + i] != w[o * 48 + p * 16 + i]; /* control: what comes without a transpose */
            }
            assert_true(y[o] == b[p * 16 + o]);
        }
    }
    assert_true(differs > 700);

    /* all others, square or not, in every layer */
    static const struct {
        const char *weft, *hf;
        int64_t out, in; /* in 0: no matrix of a projection, taken as it is */
    } rest[] = {
        {"attn.o.weight", "attn.c_proj.weight", 16, 16},  {"attn.o.bias", "attn.c_proj.bias", 16, 0},
        {"mlp.up.weight", "mlp.c_fc.weight", 64, 16},     {"mlp.up.bias", "mlp.c_fc.bias", 64, 0},
        {"mlp.down.weight", "mlp.c_proj.weight", 16, 64}, {"mlp.down.bias", "mlp.c_proj.bias", 16, 0},
        {"norm1.weight", "ln_1.weight", 16, 0},           {"norm1.bias", "ln_1.bias", 16, 0},
        {"norm2.weight", "ln_2.weight", 16, 0},           {"norm2.bias", "ln_2.bias", 16, 0},
    };
    for (int layer = 0; layer < 2; layer++)
        for (size_t k = 0; k < sizeof rest / sizeof *rest; k++) {
            snprintf(name, sizeof name, "layers.%02d.%s", layer, rest[k].weft);
            snprintf(hf, sizeof hf, "transformer.h.%d.%s", layer, rest[k].hf);
            const float *x = model_find(&m, name)->ptr, *y = r.t[raw_find(&r, hf)].ptr;
            int64_t cols = rest[k].in ? rest[k].in : 1;
            for (int64_t o = 0; o < rest[k].out; o++)
                for (int64_t i = 0; i < cols; i++)
                    if (x[o * cols + i] != y[i * rest[k].out + o])
                        fail_msg("%s is not %s at %d, %d", name, hf, (int)o, (int)i);
        }
    static const char *const outer[][2] = {{"embed.tok.weight", "wte.weight"},
                                           {"embed.pos.weight", "wpe.weight"},
                                           {"final_norm.weight", "ln_f.weight"},
                                           {"final_norm.bias", "ln_f.bias"}};
    for (size_t k = 0; k < 4; k++) {
        snprintf(hf, sizeof hf, "transformer.%s", outer[k][1]);
        const weft_named *t = model_find(&m, outer[k][0]);
        assert_memory_equal(t->ptr, r.t[raw_find(&r, hf)].ptr, named_bytes(t));
    }
    model_destroy(&m);
    raw_free(&r);
}

static void llama_tensors_are_taken_as_they_are(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"embed.tok.weight", "model.embed_tokens.weight"},
        {"layers.01.norm1.weight", "model.layers.1.input_layernorm.weight"},
        {"layers.00.attn.q.weight", "model.layers.0.self_attn.q_proj.weight"},
        {"layers.00.attn.k.weight", "model.layers.0.self_attn.k_proj.weight"},
        {"layers.01.attn.v.weight", "model.layers.1.self_attn.v_proj.weight"},
        {"layers.01.attn.o.weight", "model.layers.1.self_attn.o_proj.weight"},
        {"layers.01.norm2.weight", "model.layers.1.post_attention_layernorm.weight"},
        {"layers.01.mlp.gate.weight", "model.layers.1.mlp.gate_proj.weight"},
        {"layers.01.mlp.up.weight", "model.layers.1.mlp.up_proj.weight"},
        {"layers.00.mlp.down.weight", "model.layers.0.mlp.down_proj.weight"},
        {"final_norm.weight", "model.norm.weight"},
        {"head.weight", "lm_head.weight"},
    };
    raw r;
    model m, wide;
    raw_load(&r, "llama");
    model_golden(&m, "llama", WEFT_BF16);
    model_golden(&wide, "llama", WEFT_F32);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const weft_named *t = model_find(&m, pairs[i][0]), *f = model_find(&wide, pairs[i][0]);
        const uint16_t *want = r.t[raw_find(&r, pairs[i][1])].ptr;
        assert_memory_equal(t->ptr, want, named_bytes(t));
        for (size_t k = 0; k < named_bytes(t) / 2; k++)
            assert_true(((float *)f->ptr)[k] == weft_bf16_to_f32(want[k]));
    }
    model_destroy(&m);
    model_destroy(&wide);
    raw_free(&r);
}

static void gpt2_without_prefix_and_with_old_buffers(void **state) {
    (void)state;
    char *dir = scratch_make();
    raw r;
    model want, m;
    raw_load(&r, "gpt2");
    model_golden(&want, "gpt2", WEFT_F32);
    for (size_t i = 0; i < r.n; i++)
        memmove(r.name[i], r.name[i] + strlen("transformer."), sizeof r.name[i] - 12);
    const float zero[4] = {0};
    raw_add(&r, "h.0.attn.bias", WEFT_U8, 4, zero, 4);
    raw_add(&r, "h.1.attn.masked_bias", WEFT_F32, 1, zero, 4);
    raw_write(&r, dir, "model.safetensors", 0, r.n);
    assert_ok(import(dir, "gpt2", WEFT_F32, &m));
    assert_same_model(&m, &want);
    model_destroy(&m);

    snprintf(r.name[r.n - 1], sizeof r.name[0],
             "h.1.attn.other_bias"); /* only those buffers are let through */
    raw_write(&r, dir, "model.safetensors", 0, r.n);
    assert_error(import(dir, "gpt2", WEFT_F32, &m), WEFT_ERR_SHAPE, "h.1.attn.other_bias is unexpected");
    model_destroy(&m);
    model_destroy(&want);
    raw_free(&r);
    scratch_remove(dir);
}

static void all_mismatches_come_in_one_message(void **state) {
    (void)state;
    char *dir = scratch_make();
    raw r;
    model m;
    raw_load(&r, "llama");
    snprintf(r.name[raw_find(&r, "model.norm.weight")], 96, "model.norm.wait");
    r.t[raw_find(&r, "model.embed_tokens.weight")].shape[0] = 30;
    size_t k = raw_find(&r, "model.layers.1.self_attn.k_proj.weight");
    r.t[k].shape[0] = 32;
    r.t[k].shape[1] = 16; /* transposed: the same bytes */
    k = raw_find(&r, "model.layers.1.input_layernorm.weight");
    r.t[k].t = WEFT_U16;
    raw_add(&r, "model.layers.2.input_layernorm.weight", WEFT_F32, 1, "abcd", 4);
    raw_write(&r, dir, "model.safetensors", 0, r.n);
    weft_status s = import(dir, "llama", WEFT_F32, &m);
    static const char *const parts[] = {
        "6 mismatches",
        "model.norm.weight is missing",
        "model.norm.wait is unexpected",
        "model.embed_tokens.weight has shape [30, 32], expected [61, 32]",
        "model.layers.1.self_attn.k_proj.weight has shape [32, 16], expected [16, 32]",
        "model.layers.1.input_layernorm.weight is U16, expected F32",
        "model.layers.2.input_layernorm.weight is unexpected"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_error(s, WEFT_ERR_SHAPE, parts[i]);
    for (size_t i = 0; i < named_bytes(m.t); i++)
        assert_int_equal(((unsigned char *)m.t->ptr)[i], 0xa5); /* untouched */
    model_destroy(&m);

    /* another model altogether: more complaints than an error text holds are counted */
    s = import(at(GOLDEN, "gpt2"), "llama", WEFT_F32, &m);
    assert_error(s, WEFT_ERR_SHAPE, "49 mismatches");
    assert_error(s, WEFT_ERR_SHAPE, "transformer.h.1.mlp.c_proj.weight is unexpected");
    model_destroy(&m);
    raw_free(&r);
    scratch_remove(dir);
}

static void tied_heads(void **state) {
    (void)state;
    char *dir = scratch_make();
    raw r;
    model want, m;
    raw_load(&r, "llama3_tied");
    model_golden(&want, "llama3_tied", WEFT_F32);
    size_t e = raw_find(&r, "model.embed_tokens.weight");
    raw_add(&r, "lm_head.weight", WEFT_F32, 61, r.t[e].ptr, 61 * 16 * 4);
    r.t[r.n - 1].ndim = 2;
    r.t[r.n - 1].shape[1] = 16;
    raw_write(&r, dir, "model.safetensors", 0, r.n);
    assert_ok(import(dir, "llama3_tied", WEFT_F32, &m)); /* a copy of the embedding is harmless */
    assert_same_model(&m, &want);
    model_destroy(&m);

    float *head = (float *)(uintptr_t)r.t[r.n - 1].ptr;
    head[61 * 16 - 1] += 1;
    raw_write(&r, dir, "model.safetensors", 0, r.n);
    assert_error(import(dir, "llama3_tied", WEFT_F32, &m), WEFT_ERR_SHAPE, "lm_head.weight differs");
    model_destroy(&m);

    want.desc.tied = 0; /* an untied description needs the head that the golden file does not have */
    model_create(&m, &want.desc, WEFT_F32);
    assert_error(weft_hf_import(GOLDEN "/llama3_tied", &m.desc, m.t, m.n), WEFT_ERR_SHAPE,
                 "lm_head.weight is missing");
    assert_ok(weft_hf_import(dir, &m.desc, m.t, m.n));
    assert_memory_equal(model_find(&m, "head.weight")->ptr, head, 61 * 16 * 4);
    model_destroy(&m);
    model_destroy(&want);
    raw_free(&r);
    scratch_remove(dir);
}

/* ---- shards ---- */

static void write_index(const raw *r, const char *dir, size_t split, const char *first, const char *second) {
    char text[16384];
    int n = sprintf(text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < r->n; i++)
        n += sprintf(text + n, "%s\"%s\":\"%s\"", i ? "," : "", r->name[i], i < split ? first : second);
    n += sprintf(text + n, "}}");
    spew(at(dir, "model.safetensors.index.json"), text, (size_t)n);
}

static void indexed_shards_are_read_and_checked(void **state) {
    (void)state;
    char *dir = scratch_make();
    raw r;
    model want, m;
    raw_load(&r, "llama");
    model_golden(&want, "llama", WEFT_F32);
    raw_write(&r, dir, "a.safetensors", 0, 7);
    raw_write(&r, dir, "b.safetensors", 7, r.n);
    write_index(&r, dir, 7, "a.safetensors", "b.safetensors");
    assert_ok(import(dir, "llama", WEFT_F32, &m));
    assert_same_model(&m, &want);
    model_destroy(&m);

    /* one tensor in both shards */
    raw_write(&r, dir, "b.safetensors", 6, r.n);
    char part[160];
    snprintf(part, sizeof part, "%s is in two shards", r.name[6]);
    assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_SHAPE, part);
    model_destroy(&m);

    /* one in neither, though the index names it */
    raw_write(&r, dir, "b.safetensors", 8, r.n);
    snprintf(part, sizeof part, "%s is in the index but not in b.safetensors", r.name[7]);
    assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_SHAPE, part);
    model_destroy(&m);

    /* one that the index does not know */
    raw_write(&r, dir, "b.safetensors", 7, r.n);
    snprintf(part, sizeof part, "%s is in a shard but not in the index", r.name[r.n - 1]);
    r.n--;
    write_index(&r, dir, 7, "a.safetensors", "b.safetensors");
    r.n++;
    assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_SHAPE, part);
    model_destroy(&m);

    /* file names that lead elsewhere, or nowhere */
    write_index(&r, dir, 7, "../a.safetensors", "b.safetensors");
    assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_FORMAT, "is not in a file of this directory");
    model_destroy(&m);
    write_index(&r, dir, 7, "c.safetensors", "b.safetensors");
    assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_NOTFOUND, "c.safetensors");
    model_destroy(&m);
    static const char *const broken[] = {"",
                                         "[]",
                                         "{\"weight_map\":{}}",
                                         "{\"weight_map\":[]}",
                                         "{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}",
                                         "{\"weight_map\":{\"a\":3}}"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        spew(at(dir, "model.safetensors.index.json"), broken[i], strlen(broken[i]));
        assert_error(import(dir, "llama", WEFT_F32, &m), WEFT_ERR_FORMAT, "index.json");
        model_destroy(&m);
    }
    model_destroy(&want);
    raw_free(&r);
    scratch_remove(dir);
}

static void callers_mistakes_are_named(void **state) {
    (void)state;
    char *dir = scratch_make();
    model m;
    assert_error(import(dir, "gpt2", WEFT_F32, &m), WEFT_ERR_NOTFOUND, "neither model.safetensors nor");
    const char *gpt2 = GOLDEN "/gpt2";
    assert_error(weft_hf_import(gpt2, &m.desc, m.t, m.n - 1), WEFT_ERR_SHAPE,
                 "final_norm.bias is not in the list");
    m.t[3].shape[0]++;
    assert_error(weft_hf_import(gpt2, &m.desc, m.t, m.n), WEFT_ERR_SHAPE,
                 "layers.00.norm1.bias has another shape");
    m.t[3].shape[0]--;
    m.t[3].t = WEFT_F16;
    assert_error(weft_hf_import(gpt2, &m.desc, m.t, m.n), WEFT_ERR_UNSUPPORTED, "is f16");
    m.t[3].t = WEFT_F32;
    void *p = m.t[3].ptr;
    m.t[3].ptr = NULL;
    assert_error(weft_hf_import(gpt2, &m.desc, m.t, m.n), WEFT_ERR_ARG, "layers.00.norm1.bias has no memory");
    m.t[3].ptr = p;
    for (size_t i = 0; i < m.n / 2; i++) { /* any order will do */
        weft_named swap = m.t[i];
        m.t[i] = m.t[m.n - 1 - i];
        m.t[m.n - 1 - i] = swap;
    }
    assert_ok(weft_hf_import(gpt2, &m.desc, m.t, m.n));
    model want;
    model_golden(&want, "gpt2", WEFT_F32);
    for (size_t i = 0; i < m.n; i++)
        assert_memory_equal(m.t[i].ptr, want.t[m.n - 1 - i].ptr, named_bytes(&m.t[i]));
    model_destroy(&want);
    model_destroy(&m);
    scratch_remove(dir);
}

static void failing_reads_and_allocations_are_reported(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_READ, WEFT_FAULT_ALLOC};
    model m;
    model_golden(&m, "gpt2", WEFT_F32);
    for (size_t i = 0; i < 2; i++) {
        long nth = 1;
        for (;; nth++) {
            weft_fault_arm(sites[i], nth);
            weft_status s = weft_hf_import(GOLDEN "/gpt2", &m.desc, m.t, m.n);
            weft_fault_arm(sites[i], 0);
            if (s == WEFT_OK) break;
            assert_int_equal(s, i ? WEFT_ERR_NOMEM : WEFT_ERR_IO);
        }
        assert_true(nth > 10);
    }
    model_destroy(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_matrices_are_transposed_and_split),
        cmocka_unit_test(llama_tensors_are_taken_as_they_are),
        cmocka_unit_test(gpt2_without_prefix_and_with_old_buffers),
        cmocka_unit_test(all_mismatches_come_in_one_message),
        cmocka_unit_test(tied_heads),
        cmocka_unit_test(indexed_shards_are_read_and_checked),
        cmocka_unit_test(callers_mistakes_are_named),
        cmocka_unit_test(failing_reads_and_allocations_are_reported),
    };
    return cmocka_run_group_tests_name("io/exchange/hf_import", tests, NULL, NULL);
}
