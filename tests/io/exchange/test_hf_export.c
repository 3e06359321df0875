/* HuggingFace export: byte-equal to what transformers saved, in one file and in shards, into new directories
 * and over old ones, and complete or not there at all whatever fails. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/rng.h"
#include "fixture.h"
#include "io/exchange/hf_internal.h"
#include "io/exchange/safetensors.h"

static weft_status export(const char *dir, const model *m, const char *tokenizer, uint64_t shard) {
    return weft_hf_export(dir, &m->desc, m->t, m->n, tokenizer, shard);
}

/* The directory reads back as m. */
static void assert_holds(const char *dir, const model *m, weft_dtype t) {
    model back;
    weft_model_desc d;
    assert_ok(weft_hf_config_read(dir, &d));
    assert_memory_equal(&d, &m->desc, sizeof d);
    model_create(&back, &d, t);
    assert_ok(weft_hf_import(dir, &d, back.t, back.n));
    assert_same_model(&back, m);
    model_destroy(&back);
}

static void the_round_trip_is_byte_equal(void **state) {
    (void)state;
    static const struct {
        const char *name;
        weft_dtype t;
    } golden[] = {{"gpt2", WEFT_F32}, {"llama", WEFT_BF16}, {"llama3_tied", WEFT_F32}, {"mixtral", WEFT_F32}};
    char *root = scratch_make();
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        model m;
        model_golden(&m, golden[i].name, golden[i].t);
        char dir[4096];
        snprintf(dir, sizeof dir, "%s/deep/%s/", root,
                 golden[i].name); /* parents are made; a slash at the end is fine */
        assert_ok(export(dir, &m, NULL, 0));
        assert_int_equal(entries(dir), 4);
        size_t na, nb;
        char *a = slurp(at(dir, "model.safetensors"), &na);
        char *b = slurp(at(at(GOLDEN, golden[i].name), "model.safetensors"), &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na);
        free(a);
        free(b);
        assert_holds(dir, &m, golden[i].t);

        /* negative control: one element changed in memory is one element changed in the file */
        ((unsigned char *)model_find(&m, "layers.01.attn.k.weight")->ptr)[4] ^= 1;
        assert_ok(export(dir, &m, NULL, 0));
        a = slurp(at(dir, "model.safetensors"), &na);
        b = slurp(at(at(GOLDEN, golden[i].name), "model.safetensors"), &nb);
        size_t differ = 0;
        for (size_t k = 0; k < na; k++) differ += a[k] != b[k];
        assert_int_equal(differ, 1);
        free(a);
        free(b);
        model_destroy(&m);
    }
    assert_int_equal(entries(at(root, "deep")), sizeof golden / sizeof *golden);
    scratch_remove(root);
}

/* Wider than one piece of a Conv1D weight, and with an MLP that is not 4 x hidden. */
static void large_matrices_pass_through_bounded_pieces(void **state) {
    (void)state;
    char *root = scratch_make();
    uint64_t seed = test_seed();
    weft_model_desc d = {.family = WEFT_GPT2,
                         .layers = 1,
                         .hidden = 704,
                         .heads = 11,
                         .kv_heads = 11,
                         .head_dim = 64,
                         .ffn = 1999,
                         .context = 3,
                         .vocab = 5,
                         .vocab_padded = 64,
                         .tied = 0,
                         .bias = 1,
                         .norm_eps = 1e-5,
                         .init_std = 0.02,
                         .bos = -1,
                         .eos = 4};
    for (int bf16 = 0; bf16 < 2; bf16++) {
        model m;
        model_create(&m, &d, bf16 ? WEFT_BF16 : WEFT_F32);
        for (size_t i = 0; i < m.n; i++)
            for (size_t k = 0; k + 8 <= named_bytes(&m.t[i]); k += 8) {
                uint64_t r = weft_rng_u64(seed, i, k) & 0x3fff3fff3fff3fffu; /* finite in every format */
                memcpy((char *)m.t[i].ptr + k, &r, 8);
            }
        char dir[4096];
        snprintf(dir, sizeof dir, "%s/m%d", root, bf16);
        assert_ok(export(dir, &m, NULL, 0));
        assert_holds(dir, &m, m.t->t);
        const weft_named *up = model_find(&m, "layers.00.mlp.up.weight");
        weft_st *f;
        assert_ok(weft_st_open(at(dir, "model.safetensors"), &f));
        const weft_st_tensor *t = weft_st_find(f, "transformer.h.0.mlp.c_fc.weight");
        assert_true(t && t->shape[0] == 704 && t->shape[1] == 1999 &&
                    t->bytes > (bf16 ? 2u << 20 : 4u << 20));
        float *x = malloc(704 * 1999 * 4);
        assert_ok(weft_st_read(f, t, 0, 704 * 1999, up->t, x));
        size_t e = weft_dtype_size(up->t);
        for (size_t i = 0; i < 704; i++)
            for (size_t o = 0; o < 1999; o++)
                if (memcmp((char *)x + (i * 1999 + o) * e, (char *)up->ptr + (o * 704 + i) * e, e))
                    fail_msg("c_fc[%zu][%zu] is not up[%zu][%zu]", i, o, o, i);
        free(x);
        weft_st_close(f);
        model_destroy(&m);
    }
    scratch_remove(root);
}

static void shards_have_an_index_and_leave_nothing_stale(void **state) {
    (void)state;
    char *root = scratch_make(), dir[4096];
    snprintf(dir, sizeof dir, "%s/m", root);
    model m;
    model_golden(&m, "llama", WEFT_F32);
    assert_ok(export(dir, &m, NULL, 20000));
    assert_int_equal(access(at(dir, "model.safetensors"), F_OK), -1);
    assert_holds(dir, &m, WEFT_F32);

    json_t *index = json_load_file(at(dir, "model.safetensors.index.json"), 0, NULL);
    json_t *map = json_object_get(index, "weight_map");
    assert_int_equal(json_object_size(map), m.n);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")),
                     17888 * 4);
    const char *name, *before = "";
    json_t *file;
    size_t n = 0;
    json_object_foreach(map, name, file) {
        assert_true(strcmp(before, name) < 0); /* in the order of names */
        before = name;
        weft_st *f;
        assert_ok(weft_st_open(at(dir, json_string_value(file)), &f));
        assert_non_null(weft_st_find(f, name));
        assert_string_equal(weft_st_metadata(f, "format"), "pt");
        weft_st_close(f);
        n++;
    }
    json_decref(index);
    assert_int_equal(n, m.n);
    int sharded = entries(dir);
    assert_true(sharded >= 4 + 4);

    /* over the shards: one file; over it: fewer, larger shards. No file of before stays. */
    assert_ok(export(dir, &m, NULL, 0));
    assert_int_equal(entries(dir), 4);
    assert_holds(dir, &m, WEFT_F32);
    assert_ok(export(dir, &m, NULL, 20000));
    assert_int_equal(entries(dir), sharded);
    assert_ok(export(dir, &m, NULL, 40000));
    assert_true(entries(dir) < sharded);
    assert_holds(dir, &m, WEFT_F32);
    assert_ok(export(dir, &m, NULL, 1)); /* a tensor larger than a shard has one of its own */
    assert_int_equal(entries(dir), 4 + (int)m.n);
    assert_holds(dir, &m, WEFT_F32);
    model_destroy(&m);
    scratch_remove(root);
}

static void other_files_are_copied_or_kept(void **state) {
    (void)state;
    char *root = scratch_make(), dir[4096], tok[4096];
    snprintf(dir, sizeof dir, "%s/m", root);
    snprintf(tok, sizeof tok, "%s/tok", root);
    model m;
    model_golden(&m, "gpt2", WEFT_F32);
    assert_ok(weft_mkdirs(tok));
    assert_error(export(dir, &m, tok, 0), WEFT_ERR_NOTFOUND, "has no tokenizer.json");
    assert_int_equal(entries(dir), -1);
    spew(at(tok, "tokenizer.json"), "{}", 2);
    spew(at(tok, "merges.txt"), "a b\n", 4);
    spew(at(tok, "secret.txt"), "x", 1);
    assert_ok(export(dir, &m, tok, 0));
    assert_int_equal(entries(dir), 6);
    char *text = slurp(at(dir, "merges.txt"), NULL);
    assert_string_equal(text, "a b\n");
    free(text);
    text = slurp(at(dir, "README.md"), NULL);
    assert_non_null(strstr(text, "| parameters | 8080 |"));
    free(text);
    spew(at(dir, "README.md"), "mine", 4);
    spew(at(dir, "model-notes.txt"), "mine", 4);
    assert_ok(export(dir, &m, dir, 0)); /* its own tokenizer */
    text = slurp(at(dir, "README.md"), NULL);
    assert_string_equal(text, "mine");
    free(text);
    assert_int_equal(entries(dir), 7);
    assert_error(export(at(dir, "README.md"), &m, NULL, 0), WEFT_ERR_ACCESS, "is not a directory");
    model_destroy(&m);
    scratch_remove(root);
}

/* For every place where an allocation, a write, a sync or a rename can fail: nothing is there, or, if what
 * failed is the sync of the parent behind the rename, the whole directory. */
static void a_failed_export_leaves_nothing(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_ALLOC, WEFT_FAULT_WRITE, WEFT_FAULT_SYNC,
                                            WEFT_FAULT_RENAME};
    static const int behind[] = {1, 0, 1, 0};
    char *root = scratch_make(), dir[4096];
    snprintf(dir, sizeof dir, "%s/m", root);
    model m;
    model_golden(&m, "llama3_tied", WEFT_F32);
    for (size_t i = 0; i < 4; i++) {
        int nothing = 0, whole = 0;
        for (long nth = 1;; nth++) {
            weft_fault_arm(sites[i], nth);
            weft_status s = export(dir, &m, NULL, 20000);
            weft_fault_arm(sites[i], 0);
            int there = entries(root);
            if (there) {
                assert_int_equal(there, 1);
                assert_holds(dir, &m, WEFT_F32);
                assert_ok(weft_remove_tree(dir));
            }
            if (s == WEFT_OK) {
                assert_int_equal(there, 1);
                break;
            }
            nothing += !there;
            whole += there;
        }
        assert_int_equal(whole, behind[i]);
        assert_true(nothing >= 5);
    }
    model_destroy(&m);
    scratch_remove(root);
}

/* Over an existing export, each file is the old or the new one, and there are no others. */
static void a_failed_export_over_another_keeps_whole_files(void **state) {
    (void)state;
    char *root = scratch_make(), dir[4096];
    snprintf(dir, sizeof dir, "%s/m", root);
    model m;
    model_golden(&m, "llama3_tied", WEFT_F32);
    assert_ok(export(dir, &m, NULL, 0));
    for (long nth = 1;; nth++) {
        weft_fault_arm(WEFT_FAULT_WRITE, nth);
        weft_status s = export(dir, &m, NULL, 0);
        weft_fault_arm(WEFT_FAULT_WRITE, 0);
        assert_int_equal(entries(dir), 4);
        assert_holds(dir, &m, WEFT_F32);
        if (s == WEFT_OK) break;
        assert_error(s, WEFT_ERR_SPACE, dir);
        assert_true(nth < 1000);
    }
    model_destroy(&m);
    scratch_remove(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_round_trip_is_byte_equal),
        cmocka_unit_test(large_matrices_pass_through_bounded_pieces),
        cmocka_unit_test(shards_have_an_index_and_leave_nothing_stale),
        cmocka_unit_test(other_files_are_copied_or_kept),
        cmocka_unit_test(a_failed_export_leaves_nothing),
        cmocka_unit_test(a_failed_export_over_another_keeps_whole_files),
    };
    return cmocka_run_group_tests_name("io/exchange/hf_export", tests, NULL, NULL);
}
