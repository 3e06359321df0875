/* llm.c and llama2.c files: what is written is laid out as those programs read it, reads back bit for bit, and is
 * refused when it is damaged or when the format cannot say what the model is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "fixture.h"
#include "io/exchange/elements.h"
#include "io/exchange/format.h"
#include "io/exchange/safetensors.h"
#include "kernels/ref/half.h"

static weft_status export(const char *format, const char *path, const model *m, weft_dtype t, int version) {
    const weft_export_opts o = {.size = sizeof o, .t = t, .version = version};
    return weft_format_export(weft_format_find(format), path, &m->desc, m->t, m->n, &o);
}

/* Through the public door: detect, describe, import. */
static void read_back(const char *path, const char *format, model *m, weft_dtype t) {
    const weft_format *f;
    weft_model_desc d;
    assert_ok(weft_format_detect(path, &f));
    assert_string_equal(f->name, format);
    assert_ok(f->describe(path, &d));
    model_create(m, &d, t);
    assert_ok(f->import(path, &d, m->t, m->n));
}

static void assert_same_sizes(const weft_model_desc *a, const weft_model_desc *b) {
    assert_int_equal(a->family, b->family);
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->heads, b->heads);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->ffn, b->ffn);
    assert_int_equal(a->context, b->context);
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->vocab_padded, b->vocab_padded);
    assert_int_equal(a->tied, b->tied);
    assert_int_equal(a->bias, b->bias);
    assert_true(a->norm_eps == b->norm_eps && a->rope_theta == b->rope_theta);
    assert_int_equal(a->rope_llama3, b->rope_llama3);
}

static const struct {
    const char *model, *format;
    weft_dtype file;
    int version;
} kinds[] = {{"gpt2", "llmc", WEFT_F32, 0},     {"gpt2", "llmc", WEFT_BF16, 0},
             {"llama", "llmc", WEFT_F32, 0},    {"llama", "llmc", WEFT_BF16, 0},
             {"llama", "llama2c", WEFT_F32, 0}, {"llama", "llama2c", WEFT_F32, 1}};
#define KINDS (sizeof kinds / sizeof *kinds)

/* Model -> file -> model -> file: the models and the files are equal. The golden Llama's weights are bf16. */
static void the_round_trip_is_bit_equal(void **state) {
    (void)state;
    char *root = scratch_make();
    for (size_t i = 0; i < KINDS; i++) {
        model m, back;
        const char *a = at(root, "a.bin"), *b = at(root, "b.bin");
        if (kinds[i].file == WEFT_BF16 && !strcmp(kinds[i].model, "gpt2")) continue; /* its weights are f32 */
        model_golden(&m, kinds[i].model, WEFT_F32);
        assert_ok(export(kinds[i].format, a, &m, kinds[i].file, kinds[i].version));
        read_back(a, kinds[i].format, &back, WEFT_F32);
        assert_same_sizes(&m.desc, &back.desc);
        assert_same_model(&m, &back);
        assert_ok(export(kinds[i].format, b, &back, kinds[i].file, kinds[i].version));
        size_t na, nb;
        char *fa = slurp(a, &na), *fb = slurp(b, &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(fa, fb, na);

        /* negative control: one element changed in memory is one element changed in the file */
        ((unsigned char *)model_find(&back, "layers.01.attn.k.weight")->ptr)[3] ^= 1;
        assert_ok(export(kinds[i].format, b, &back, kinds[i].file, kinds[i].version));
        free(fb);
        fb = slurp(b, &nb);
        size_t differ = 0;
        for (size_t k = 0; k < na; k++) differ += fa[k] != fb[k];
        assert_int_equal(differ, 1);
        free(fa);
        free(fb);
        model_destroy(&m);
        model_destroy(&back);
    }
    assert_int_equal(entries(root), 2);
    scratch_remove(root);
}

static void bf16_files_hold_rounded_weights(void **state) {
    (void)state;
    char *root = scratch_make();
    model m, half, back;
    model_golden(&m, "gpt2", WEFT_F32);
    model_golden(&half, "gpt2", WEFT_BF16);
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_BF16, 0));
    read_back(at(root, "a"), "llmc", &back, WEFT_BF16);
    assert_same_model(&half, &back);
    size_t nf, nb;
    free(slurp(at(root, "a"), &nb));
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_F32, 0));
    free(slurp(at(root, "a"), &nf));
    assert_int_equal(nf - 1024, 2 * (nb - 1024));
    model_destroy(&m);
    model_destroy(&half);
    model_destroy(&back);
    scratch_remove(root);
}

static int32_t word(const char *file, int i) {
    int32_t v;
    memcpy(&v, file + 4 * i, 4);
    return v;
}

static float element(const char *file, size_t header, size_t i) {
    float f;
    memcpy(&f, file + header + 4 * i, 4);
    return f;
}

static float weight(model *m, const char *name, int64_t row, int64_t col) {
    const weft_named *t = model_find(m, name);
    return ((float *)t->ptr)[row * (t->ndim == 2 ? t->shape[1] : 1) + col];
}

/* The offsets that train_gpt2.c computes, written down again here. */
static void gpt2_lies_where_llmc_looks_for_it(void **state) {
    (void)state;
    enum { T = 32, V = 61, L = 2, NH = 2, C = 16, Vp = 128 };
    static const int32_t header[] = {20240326, 3, T, V, L, NH, C, Vp};
    char *root = scratch_make();
    model m;
    model_golden(&m, "gpt2", WEFT_F32);
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_F32, 0));
    size_t n;
    char *f = slurp(at(root, "a"), &n);
    for (int i = 0; i < 8; i++) assert_int_equal(word(f, i), header[i]);
    for (int i = 8; i < 256; i++) assert_int_equal(word(f, i), 0);
    size_t wpe = Vp * C, ln1w = wpe + T * C, qkvw = ln1w + 2 * L * C, qkvb = qkvw + L * 3 * C * C,
           attw = qkvb + L * 3 * C, fcw = attw + L * C * C + 3 * L * C, fcb = fcw + L * 4 * C * C,
           projw = fcb + L * 4 * C, lnfb = projw + L * 4 * C * C + L * C + C;
    assert_int_equal(n, 1024 + 4 * (lnfb + C));
    for (size_t i = V * C; i < Vp * C; i++) assert_true(element(f, 1024, i) == 0);
    assert_true(element(f, 1024, 60 * C + 3) == weight(&m, "embed.tok.weight", 60, 3));
    assert_true(element(f, 1024, wpe + 31 * C + 5) == weight(&m, "embed.pos.weight", 31, 5));
    /* layer 1, output 2 C + 4 of q|k|v is output 4 of v; [out, in], where HuggingFace has [in, out] */
    assert_true(element(f, 1024, qkvw + (3 * C + 2 * C + 4) * C + 7) ==
                weight(&m, "layers.01.attn.v.weight", 4, 7));
    assert_true(element(f, 1024, qkvw + (3 * C + 2 * C + 4) * C + 7) !=
                weight(&m, "layers.01.attn.v.weight", 7, 4));
    assert_true(element(f, 1024, qkvb + C + 9) == weight(&m, "layers.00.attn.k.bias", 9, 0));
    assert_true(element(f, 1024, fcw + (4 * C + 63) * C + 2) == weight(&m, "layers.01.mlp.up.weight", 63, 2));
    assert_true(element(f, 1024, projw + (C + 3) * 4 * C + 50) ==
                weight(&m, "layers.01.mlp.down.weight", 3, 50));
    assert_true(element(f, 1024, lnfb + 15) == weight(&m, "final_norm.bias", 15, 0));
    free(f);
    model_destroy(&m);
    scratch_remove(root);
}

/* Row h * 8 + 2 j + s of a file of interleaved pairs is row h * 8 + 4 s + j here (head_dim 8). */
static void assert_interleaved(const char *f, size_t header, size_t at0, model *m, const char *name,
                               int rows) {
    int moved = 0;
    for (int r = 0; r < rows; r++) {
        int row = r / 8 * 8 + r % 2 * 4 + r % 8 / 2;
        for (int c = 0; c < 32; c++)
            assert_true(element(f, header, at0 + (size_t)(r * 32 + c)) == weight(m, name, row, c));
        moved += element(f, header, at0 + (size_t)r * 32) != weight(m, name, r, 0); /* negative control */
    }
    assert_int_equal(moved, rows - rows / 8 * 2); /* the first and the last of a head stay */
}

static void llama_lies_where_run_c_looks_for_it(void **state) {
    (void)state;
    enum { D = 32, H = 40, L = 2, NH = 4, KV = 2, V = 61, T = 64, HD = 8 };
    static const int32_t header[] = {D, H, L, NH, KV, -V, T};
    char *root = scratch_make();
    model m;
    size_t n;
    model_golden(&m, "llama", WEFT_F32);
    assert_ok(export("llama2c", at(root, "v0"), &m, WEFT_F32, 0));
    char *f = slurp(at(root, "v0"), &n);
    for (int i = 0; i < 7; i++) assert_int_equal(word(f, i), header[i]);
    size_t wq = V * D + L * D, wk = wq + L * D * D, wv = wk + L * KV * HD * D,
           w1 = wv + L * KV * HD * D + L * D * D + L * D, w2 = w1 + L * H * D, w3 = w2 + L * H * D,
           norm = w3 + L * H * D, cosines = norm + D, sines = cosines + T * HD / 2, head = sines + T * HD / 2;
    assert_int_equal(n, 28 + 4 * (head + V * D));
    assert_interleaved(f, 28, wq + D * D, &m, "layers.01.attn.q.weight", D);
    assert_interleaved(f, 28, wk + KV * HD * D, &m, "layers.01.attn.k.weight", KV * HD);
    assert_true(element(f, 28, wv + 5 * D + 2) == weight(&m, "layers.00.attn.v.weight", 5, 2));
    assert_true(element(f, 28, w1 + 39 * D) == weight(&m, "layers.00.mlp.gate.weight", 39, 0));
    assert_true(element(f, 28, w2 + D * H + 41) == weight(&m, "layers.01.mlp.down.weight", 1, 1));
    assert_true(element(f, 28, w3 + 31) == weight(&m, "layers.00.mlp.up.weight", 0, 31));
    assert_true(element(f, 28, head + 60 * D + 31) == weight(&m, "head.weight", 60, 31));
    assert_float_equal(element(f, 28, cosines + 3 * 4 + 1), 0.955336489, 1e-6); /* cos(3 * 10000^(-2/8)) */
    assert_float_equal(element(f, 28, sines + 3 * 4 + 1), 0.295520207, 1e-6);
    free(f);

    assert_ok(export("llama2c", at(root, "v1"), &m, WEFT_F32, 1));
    f = slurp(at(root, "v1"), &n);
    assert_int_equal(word(f, 0), 0x616b3432);
    assert_int_equal(word(f, 1), 1);
    assert_int_equal(word(f, 7), V);
    for (int i = 36; i < 256; i++) assert_int_equal(f[i], 0);
    assert_int_equal(n, 256 + 4 * (head + V * D - T * HD));
    size_t embed = 2 * L * D + D;
    assert_true(element(f, 256, embed + 60 * D + 1) == weight(&m, "embed.tok.weight", 60, 1));
    assert_interleaved(f, 256, embed + V * D, &m, "layers.00.attn.q.weight", D);
    free(f);

    assert_ok(export("llmc", at(root, "llmc"), &m, WEFT_F32, 0));
    f = slurp(at(root, "llmc"), &n);
    static const int32_t llmc[] = {20240803, 3, T, V, L, NH, KV, D, 1, 8, 0, 10000, 0, 4, 3, 1};
    for (int i = 0; i < 16; i++) assert_int_equal(word(f, i), llmc[i]);
    size_t qkv = V * D + L * D, up = qkv + L * (NH + 2 * KV) * HD * D + L * D * D + L * D,
           gate = up + L * H * D;
    assert_interleaved(f, 1024, qkv, &m, "layers.00.attn.q.weight", D);
    assert_interleaved(f, 1024, qkv + D * D, &m, "layers.00.attn.k.weight", KV * HD);
    assert_true(element(f, 1024, up + 3) == weight(&m, "layers.00.mlp.up.weight", 0, 3));
    assert_true(element(f, 1024, gate + H * D + 3) == weight(&m, "layers.01.mlp.gate.weight", 0, 3));
    free(f);
    model_destroy(&m);
    scratch_remove(root);
}

/* train_llama3.py of the llama3 branch writes floats behind the integers. */
static void both_headers_of_llama_3_are_read(void **state) {
    (void)state;
    char *root = scratch_make();
    model m, back;
    size_t n;
    model_golden(&m, "llama", WEFT_F32);
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_BF16, 0));
    char *f = slurp(at(root, "a"), &n), *g = calloc(n + 1024, 1);
    int32_t tail[] = {8 /* multiple of */, 1 /* scaled */, 3, 1};
    float floats[] = {1.3f, 1e-6f, 500000};
    memcpy(g, f, 32);
    memcpy(g + 32, tail, sizeof tail);
    memcpy(g + 1024, floats, sizeof floats);
    memcpy(g + 2048, f + 1024, n - 1024);
    spew(at(root, "b"), g, n + 1024);
    read_back(at(root, "b"), "llmc", &back, WEFT_F32);
    assert_same_model(&m, &back);
    assert_true(back.desc.norm_eps == 1e-6 && back.desc.rope_theta == 500000 && back.desc.rope_llama3 == 1 &&
                back.desc.rope_factor == 8 && back.desc.rope_original_context == 8192);
    free(f);
    free(g);
    model_destroy(&m);
    model_destroy(&back);
    scratch_remove(root);
}

static void a_tied_llama_stays_tied(void **state) {
    (void)state;
    char *root = scratch_make();
    model m, back;
    model_golden(&m, "llama3_tied", WEFT_F32);
    m.desc.rope_llama3 = 0; /* what the formats cannot say */
    m.desc.norm_eps = 1e-5;
    m.desc.rope_theta = 10000;
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_F32, 0));
    read_back(at(root, "a"), "llmc", &back, WEFT_F32);
    assert_int_equal(back.desc.tied, 1);
    assert_same_model(&m, &back);
    model_destroy(&back);
    for (int version = 0; version < 2; version++) {
        assert_ok(export("llama2c", at(root, "a"), &m, WEFT_F32, version));
        read_back(at(root, "a"), "llama2c", &back, WEFT_F32);
        assert_int_equal(back.desc.tied, 1);
        assert_same_model(&m, &back);
        model_destroy(&back);
    }
    /* a head that differs in one bit is a head of its own */
    size_t n;
    assert_ok(export("llmc", at(root, "a"), &m, WEFT_F32, 0));
    char *f = slurp(at(root, "a"), &n);
    f[n - 4] ^= 1;
    spew(at(root, "a"), f, n);
    free(f);
    read_back(at(root, "a"), "llmc", &back, WEFT_F32);
    assert_int_equal(back.desc.tied, 0);
    model_destroy(&back);
    model_destroy(&m);
    scratch_remove(root);
}

static void what_a_format_cannot_say_is_refused(void **state) {
    (void)state;
    char *root = scratch_make();
    const char *a = at(root, "a");
    model gpt2, llama, scaled;
    model_golden(&gpt2, "gpt2", WEFT_F32);
    model_golden(&llama, "llama", WEFT_F32);
    model_golden(&scaled, "llama3_tied", WEFT_F32);
    assert_error(export("llmc", a, &gpt2, WEFT_F16, 0), WEFT_ERR_UNSUPPORTED, "do not hold f16");
    assert_error(export("llama2c", a, &llama, WEFT_BF16, 0), WEFT_ERR_UNSUPPORTED, "do not hold bf16");
    assert_error(export("llama2c", a, &gpt2, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "Llama models only");
    assert_error(export("llama2c", a, &llama, WEFT_F32, 2), WEFT_ERR_UNSUPPORTED, "versions 0 and 1");
    assert_error(export("llama2c", a, &scaled, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "no rope scaling");
    assert_error(export("llmc", a, &scaled, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "the norm's epsilon");
    scaled.desc.norm_eps = 1e-5;
    assert_error(export("llmc", a, &scaled, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "8, 1, 4 from 8192");
    scaled.desc.rope_llama3 = 0;
    assert_error(export("llama2c", a, &scaled, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "rope_theta");
    gpt2.desc.norm_eps = 1e-6;
    assert_error(export("llmc", a, &gpt2, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "1e-05; this model has 1e-06");
    model mixed;
    model_golden(&mixed, "mixtral", WEFT_F32);
    for (const char *const *f = (const char *const[]){"llmc", "llama2c", "gguf", NULL}; *f; f++)
        assert_error(export(*f, a, &mixed, WEFT_F32, 0), WEFT_ERR_UNSUPPORTED, "without experts");
    model_destroy(&mixed);
    assert_int_equal(entries(root), 0);
    model_destroy(&gpt2);
    model_destroy(&llama);
    model_destroy(&scaled);
    scratch_remove(root);
}

static void expect_refused(const char *path, const char *data, size_t n, weft_status want, const char *part) {
    const weft_format *f;
    weft_model_desc d;
    spew(path, data, n);
    weft_status s = weft_format_detect(path, &f);
    if (s == WEFT_OK) s = f->describe(path, &d);
    assert_error(s, want, part);
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    char *root = scratch_make();
    for (size_t i = 0; i < KINDS; i++) {
        model m;
        size_t n;
        const char *a = at(root, "a");
        model_golden(&m, kinds[i].model, WEFT_F32);
        assert_ok(export(kinds[i].format, a, &m, kinds[i].file, kinds[i].version));
        char *f = slurp(a, &n), *more = calloc(n + 4, 1);
        memcpy(more, f, n);
        expect_refused(a, f, n - 1, WEFT_ERR_FORMAT, "");
        expect_refused(a, f, 20, WEFT_ERR_FORMAT, "");
        expect_refused(a, f, 200, WEFT_ERR_FORMAT, "");
        expect_refused(a, more, n + 4, WEFT_ERR_FORMAT, "");
        for (int k = kinds[i].format[3] == 'c' ? 2 : kinds[i].version ? 2 : 0, end = k + 6; k < end; k++) {
            static const int32_t bad[] = {0, -1, 3, INT32_MAX, INT32_MIN};
            for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
                memcpy(more, f, n);
                if (word(f, k) == bad[b]) continue;
                int loose = !strcmp(kinds[i].format, "llmc") ? kinds[i].model[0] == 'l' ? 2 : 3 : -1;
                if (k == loose && bad[b] == 3)
                    continue; /* a context, a padded vocabulary: no size depends on it */
                memcpy(more + 4 * k, &bad[b], 4);
                expect_refused(a, more, n, WEFT_ERR_FORMAT, "");
            }
        }
        free(f);
        free(more);
        model_destroy(&m);
    }
    char head[1024] = {0};
    int32_t state_magic[] = {20240527, 1}, old[] = {20240326, 2}, newer[] = {20240326, 9},
            quantised[] = {0x616b3432, 2};
    memcpy(head, state_magic, 8);
    expect_refused(at(root, "a"), head, 1024, WEFT_ERR_UNSUPPORTED, "the optimiser's state");
    memcpy(head, old, 8);
    expect_refused(at(root, "a"), head, 1024, WEFT_ERR_UNSUPPORTED, "version 2");
    memcpy(head, newer, 8);
    expect_refused(at(root, "a"), head, 1024, WEFT_ERR_VERSION, "version 9");
    memcpy(head, quantised, 8);
    expect_refused(at(root, "a"), head, 1024, WEFT_ERR_UNSUPPORTED, "quantised");
    const weft_format *f;
    assert_error(weft_format_detect(at(root, "none"), &f), WEFT_ERR_NOTFOUND, "none");
    assert_error(weft_format_detect(root, &f), WEFT_ERR_NOTFOUND, "config.json");
    scratch_remove(root);
}

/* A file read as another model than it holds, or into memory that is not there. */
static void the_caller_s_model_must_fit(void **state) {
    (void)state;
    char *root = scratch_make();
    model m;
    const char *a = at(root, "a");
    model_golden(&m, "llama", WEFT_F32);
    assert_ok(export("llama2c", a, &m, WEFT_F32, 0));
    const weft_format *f = weft_format_find("llama2c");
    weft_model_desc d = m.desc;
    d.context = 32;
    assert_error(f->import(a, &d, m.t, m.n), WEFT_ERR_SHAPE, "another model");
    assert_error(f->import(a, &m.desc, m.t, m.n - 1), WEFT_ERR_SHAPE, "not in the list");
    void *p = m.t[3].ptr;
    m.t[3].ptr = NULL;
    assert_error(f->import(a, &m.desc, m.t, m.n), WEFT_ERR_ARG, "no memory");
    m.t[3].ptr = p;
    model_destroy(&m);
    scratch_remove(root);
}

/* Wherever an allocation, a write, a sync or a rename fails: the old file, or the new one whole. */
static void a_failed_export_leaves_the_old_file(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_ALLOC, WEFT_FAULT_WRITE, WEFT_FAULT_SYNC,
                                            WEFT_FAULT_RENAME};
    char *root = scratch_make();
    model m;
    model_golden(&m, "llama", WEFT_F32);
    const char *a = at(root, "a");
    for (size_t i = 0; i < 4; i++) {
        int failed = 0;
        for (long nth = 1;; nth++) {
            spew(a, "old", 3);
            weft_fault_arm(sites[i], nth);
            weft_status s = export("llmc", a, &m, WEFT_F32, 0);
            weft_fault_arm(sites[i], 0);
            size_t n;
            free(slurp(a, &n));
            assert_int_equal(entries(root), 1);
            if (s == WEFT_OK) break;
            assert_true(n == 3 || i == 0 || i == 2); /* the directory is synced behind the rename */
            failed++;
        }
        assert_true(failed >= 1);
    }
    model_destroy(&m);
    scratch_remove(root);
}

/* Wherever an allocation or a read fails, the import says so, and nothing is lost (leaks: the sanitizer's run). */
static void a_failed_import_is_reported(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_ALLOC, WEFT_FAULT_READ};
    char *root = scratch_make();
    model m, back;
    const char *a = at(root, "a");
    model_golden(&m, "llama", WEFT_F32);
    for (int k = 0; k < 2; k++) {
        const weft_format *f = weft_format_find(k ? "llama2c" : "llmc");
        assert_ok(export(f->name, a, &m, WEFT_F32, 0));
        model_create(&back, &m.desc, WEFT_F32);
        for (int i = 0; i < 2; i++) {
            long nth = 1;
            for (;; nth++) {
                weft_model_desc d;
                weft_fault_arm(sites[i], nth);
                weft_status s = f->describe(a, &d);
                if (s == WEFT_OK) s = f->import(a, &m.desc, back.t, back.n);
                weft_fault_arm(sites[i], 0);
                if (s == WEFT_OK) break;
                assert_true(*weft_last_error() != 0 && nth < 1000);
            }
            assert_true(nth > 3);
            assert_same_model(&m, &back);
        }
        model_destroy(&back);
    }
    model_destroy(&m);
    scratch_remove(root);
}

/* Every f16, its neighbours in f32, and what lies half-way: as the definition has them. */
static void f16_is_rounded_as_defined(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ref_f16_to_f32((uint16_t)h), back;
        uint32_t u;
        uint16_t v;
        elements_convert(WEFT_F16, WEFT_F32, 1, &(uint16_t){(uint16_t)h}, &back);
        assert_memory_equal(&back, &f, 4);
        memcpy(&u, &f, 4);
        static const uint32_t off[] = {0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000};
        for (int k = 0; k < 14; k++) {
            uint32_t near = k < 7 ? u + off[k] : u - off[k - 7];
            memcpy(&f, &near, 4);
            elements_convert(WEFT_F32, WEFT_F16, 1, &f, &v);
            if (v != ref_f32_to_f16(f)) fail_msg("%08x becomes %04x, not %04x", near, v, ref_f32_to_f16(f));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_is_rounded_as_defined),
        cmocka_unit_test(the_round_trip_is_bit_equal),
        cmocka_unit_test(bf16_files_hold_rounded_weights),
        cmocka_unit_test(gpt2_lies_where_llmc_looks_for_it),
        cmocka_unit_test(llama_lies_where_run_c_looks_for_it),
        cmocka_unit_test(both_headers_of_llama_3_are_read),
        cmocka_unit_test(a_tied_llama_stays_tied),
        cmocka_unit_test(what_a_format_cannot_say_is_refused),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(the_caller_s_model_must_fit),
        cmocka_unit_test(a_failed_export_leaves_the_old_file),
        cmocka_unit_test(a_failed_import_is_reported),
    };
    return cmocka_run_group_tests_name("io/exchange/formats", tests, NULL, NULL);
}
