/* All codecs through one door: known bytes, the same on both backends at any address, sums by one fma each. The codes of the
 * lossy ones have their own test (tests/kernels/test_codec.c). */
#include <math.h>

#include "tests/runtime/sites/rounds.h"
#include "tests/support/scratch.h"

static void known_bytes(void **state) {
    static const float x[] = {1, -2.5f, 0x1.01p0f, 0x1.03p0f, 0x1p-133f, INFINITY, NAN};
    /* ties go to the even one: 0x1.01p0 down, 0x1.03p0 up */
    static const unsigned char bf16[] = {0x80, 0x3f, 0x20, 0xc0, 0x80, 0x3f,
                                         0x82, 0x3f, 0x01, 0x00, 0x80, 0x7f};
    unsigned char got[64];
    uint64_t bad = 9;
    (void)state;
    for (int k = 0; k < 2; k++) {
        assert_int_equal(weft_coder_encode(&rounds_coder[k], WEFT_CODEC_F32, x, 7, got + 1, &bad), WEFT_OK);
        assert_memory_equal(got + 1, x, sizeof x);
        assert_int_equal(bad, 2);
        assert_int_equal(weft_coder_encode(&rounds_coder[k], WEFT_CODEC_BF16, x, 7, got + 1, &bad), WEFT_OK);
        assert_memory_equal(got + 1, bf16, sizeof bf16);
        assert_int_equal((got[13] | got[14] << 8) & 0x7fff, 0x7fc0);
        assert_int_equal(bad, 2);
    }
}

static void names_and_sizes(void **state) {
    static const size_t of_1000[] = {4000, 2000, 1000 + 16, 500 + 16, 28 + 2};
    weft_codec c;
    (void)state;
    for (int i = 0; i < WEFT_CODER_CODECS; i++) {
        assert_int_equal(weft_coder_find(weft_coder_name((weft_codec)i), &c), WEFT_OK);
        assert_int_equal(c, i);
        assert_int_equal(weft_coder_bytes(c, 1000), of_1000[i]);
        assert_int_equal(weft_coder_bytes(c, 0), 0);
    }
    assert_error(weft_coder_find("int3", &c), WEFT_ERR_CONFIG, "no codec 'int3'; there are f32");
    assert_null(weft_coder_name((weft_codec)WEFT_CODER_CODECS));
    assert_null(weft_coder_name((weft_codec)-1));
    assert_int_equal(weft_coder_bytes((weft_codec)17, 1000), 0);
    assert_int_equal(weft_coder_decode(&rounds_coder[0], (weft_codec)17, "", 0, NULL), WEFT_ERR_ARG);
}

/* Both backends, unaligned bytes, any length: the same bytes and the same sums; decoding gives what adding to 0 does. */
static void both_backends_agree(void **state) {
    rounds_rng r = {test_seed(), 0};
    enum { MOST = 9000 };
    float *x = malloc(MOST * sizeof *x), *acc[3];
    unsigned char *code[2];
    (void)state;
    for (int k = 0; k < 3; k++) acc[k] = malloc(MOST * sizeof(float));
    for (int k = 0; k < 2; k++) code[k] = malloc(4 * MOST + 4);
    for (int round = 0; round < 100; round++) {
        weft_codec c = (weft_codec)(round % WEFT_CODER_CODECS);
        size_t n = rounds_below(&r, MOST), bytes = weft_coder_bytes(c, n), off = rounds_below(&r, 4);
        float a = (float)rounds_normal(&r);
        uint64_t bad[2] = {7, 8}, want = 0;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)ldexp(rounds_normal(&r), -(int)rounds_below(&r, 60));
            if (round % 10 == 7 && rounds_below(&r, 500) == 0) x[i] = NAN;
            want += !isfinite(x[i]);
            acc[0][i] = acc[1][i] = (float)rounds_normal(&r);
        }
        for (int k = 0; k < 2; k++) {
            assert_int_equal(weft_coder_encode(&rounds_coder[k], c, x, n, code[k] + off, &bad[k]), WEFT_OK);
            assert_int_equal(bad[k], want);
            assert_int_equal(weft_coder_add(&rounds_coder[k], c, code[0] + off, n, a, acc[k]), WEFT_OK);
        }
        assert_memory_equal(code[0] + off, code[1] + off, bytes);
        if (!want) assert_memory_equal(acc[0], acc[1], n * sizeof(float));
        assert_int_equal(weft_coder_decode(&rounds_coder[1], c, code[0] + off, n, acc[2]), WEFT_OK);
        if (c == WEFT_CODEC_F32)
            for (size_t i = 0; i < n; i++) assert_true(acc[2][i] == x[i] || isnan(x[i]));
        for (size_t i = 0; i < n; i++) assert_false(acc[2][i] == 0 && signbit(acc[2][i]));
    }
    for (int k = 0; k < 3; k++) free(acc[k]);
    for (int k = 0; k < 2; k++) free(code[k]);
    free(x);
}

/* One rounding: (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24, and 0 if the product is rounded first. */
static void a_sum_is_fused(void **state) {
    float value = 1 + 0x1p-12f;
    (void)state;
    for (int k = 0; k < 2; k++) {
        float acc = -(1 + 0x1p-11f);
        assert_int_equal(weft_coder_add(&rounds_coder[k], WEFT_CODEC_F32, &value, 1, value, &acc), WEFT_OK);
        assert_true(acc == 0x1p-24f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_bytes),
        cmocka_unit_test(names_and_sizes),
        cmocka_unit_test(both_backends_agree),
        cmocka_unit_test(a_sum_is_fused),
    };
    return cmocka_run_group_tests(tests, rounds_open, rounds_close);
}
