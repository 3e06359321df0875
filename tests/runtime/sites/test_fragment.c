/* Fragments hold every tensor of the model once, whatever holds its parts; parts find their places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sites/fragment.h"

static const weft_model_desc model = {.family = WEFT_LLAMA,
                                      .layers = 7,
                                      .hidden = 64,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 16,
                                      .ffn = 96,
                                      .context = 32,
                                      .vocab = 250,
                                      .vocab_padded = 256,
                                      .norm_eps = 1e-5,
                                      .rope_theta = 10000,
                                      .init_std = 0.02};

static void every_tensor_once(void **state) {
    (void)state;
    for (int strided = 0; strided < 2; strided++) {
        weft_fragments f;
        weft_params w;
        assert_int_equal(weft_params_create(&model, NULL, &w), WEFT_OK);
        assert_int_equal(weft_fragments_make(&model, strided, &f), WEFT_OK);
        assert_int_equal(f.n, strided ? 4 : 1);
        assert_int_equal(f.ntensors, w.n);
        size_t used = 0;
        for (int p = 0; p < f.n; p++) {
            size_t at = 0;
            for (size_t i = f.item[p].first; i < f.item[p].end; i++) {
                const weft_param *q = weft_params_find(&w, f.tensor[i].name);
                assert_non_null(q);
                assert_memory_equal(q->shape, f.tensor[i].shape, sizeof q->shape);
                assert_int_equal(f.tensor[i].at, at);
                at += f.tensor[i].n;
                if (strided && !strncmp(q->name, "layers.", 7))
                    assert_int_equal(strtol(q->name + 7, NULL, 10) % 3, p);
            }
            assert_int_equal(at, f.item[p].used);
            assert_true(f.item[p].elements >= at && f.item[p].elements % WEFT_FRAGMENT_PAD == 0);
            used += at;
        }
        assert_int_equal(used, w.count);
        weft_fragments_free(&f);
        weft_params_destroy(&w);
    }
}

static void prints_tell_models_apart(void **state) {
    (void)state;
    weft_fragments f, g, h;
    weft_model_desc other = model;
    other.ffn += 32;
    assert_int_equal(weft_fragments_make(&model, 1, &f), WEFT_OK);
    assert_int_equal(weft_fragments_make(&model, 0, &g), WEFT_OK);
    assert_int_equal(weft_fragments_make(&other, 1, &h), WEFT_OK);
    assert_memory_not_equal(f.print, g.print, sizeof f.print);
    assert_memory_not_equal(f.print, h.print, sizeof f.print);
    weft_fragments_free(&h);
    assert_int_equal(weft_fragments_make(&model, 1, &h), WEFT_OK);
    assert_memory_equal(f.print, h.print, sizeof f.print);
    weft_fragments_free(&f);
    weft_fragments_free(&g);
    weft_fragments_free(&h);
}

static weft_status copy(void *arg, float *vector, float *part, size_t n) {
    (void)arg;
    memcpy(vector, part, n * sizeof *part);
    return WEFT_OK;
}

/* A matrix from four boxes, and from three ranges: the same vector as from the whole of it; nothing beside it. */
static void parts_find_their_places(void **state) {
    (void)state;
    enum { ROWS = 64, COLUMNS = 96, N = ROWS * COLUMNS };
    static const char name[] = "layers.03.mlp.down.weight";
    weft_fragments f;
    assert_int_equal(weft_fragments_make(&model, 1, &f), WEFT_OK);
    const size_t bytes = f.largest * sizeof(float);
    float *whole = calloc(1, bytes), *built = calloc(1, bytes), *piece = calloc(N, sizeof *piece),
          *values = calloc(N, sizeof *values);
    for (int i = 0; i < N; i++) values[i] = (float)(i + 1);
    weft_ckpt_part part = {
        .name = name, .dtype = WEFT_F32, .ndim = 2, .shape = {ROWS, COLUMNS}, .ptr = values};
    assert_int_equal(weft_fragment_visit(&f, 0, &part, whole, copy, NULL), WEFT_OK);
    for (int q = 0; q < 4; q++) {
        const int row = q / 2 ? 10 : 0, rows = q / 2 ? ROWS - 10 : 10, column = q % 2 ? 37 : 0,
                  columns = q % 2 ? COLUMNS - 37 : 37;
        for (int r = 0; r < rows; r++)
            memcpy(piece + r * columns, values + (row + r) * COLUMNS + column,
                   (size_t)columns * sizeof *piece);
        part.ptr = piece;
        part.box = (weft_box){.ndim = 2, .off = {row, column}, .ext = {rows, columns}};
        assert_int_equal(weft_fragment_visit(&f, 0, &part, built, copy, NULL), WEFT_OK);
    }
    assert_memory_equal(whole, built, bytes);
    memset(built, 0, bytes);
    const int64_t cut[] = {0, 1000, 1001, N};
    for (int q = 0; q < 3; q++) {
        part = (weft_ckpt_part){.name = name,
                                .dtype = WEFT_F32,
                                .ndim = 2,
                                .shape = {ROWS, COLUMNS},
                                .ptr = values + cut[q],
                                .flat_lo = cut[q],
                                .flat_hi = cut[q + 1]};
        assert_int_equal(weft_fragment_visit(&f, 0, &part, built, copy, NULL), WEFT_OK);
    }
    assert_memory_equal(whole, built, bytes);
    memset(built, 0, bytes);
    assert_int_equal(weft_fragment_visit(&f, 1, &part, built, copy, NULL), WEFT_OK); /* of another fragment */
    for (size_t i = 0; i < f.largest; i++) assert_true(built[i] == 0);
    part.shape[1]--;
    assert_int_equal(weft_fragment_visit(&f, 0, &part, built, copy, NULL), WEFT_ERR_SHAPE);
    free(whole);
    free(built);
    free(piece);
    free(values);
    weft_fragments_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_once),
        cmocka_unit_test(prints_tell_models_apart),
        cmocka_unit_test(parts_find_their_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
