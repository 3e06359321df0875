/* Codecs of outer gradients and the outer step: equal by == on every backend, level and team for any length and any
 * bits; known answers; what is decoded is near what went in. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "kernels/codec.h"
#include "tests/support/kernels_case.h"

static const weft_codec codecs[] = {WEFT_CODEC_INT8B128, WEFT_CODEC_INT4B128, WEFT_CODEC_TOPK2};

/* --- the same bytes everywhere --- */

typedef struct quant_arg {
    weft_codec codec;
    weft_dtype t;
    size_t n;
    const void *v;
    const unsigned char *code;
    float a;
} quant_arg;

static weft_status call_quant(const kt_run *r, const void *arg, void *const *out) {
    const quant_arg *a = arg;
    return r->ops->quant(r->exec, a->codec, a->v, a->t, a->n, out[0], out[1]);
}

static weft_status call_add(const kt_run *r, const void *arg, void *const *out) {
    const quant_arg *a = arg;
    return r->ops->dequant_axpy(r->exec, a->codec, a->code, a->n, a->a, out[0]);
}

/* Numbers of all kinds: ordinary; of two sizes (ties everywhere); of widely different sizes and mostly 0; any bits. */
static void fill(kt_rng *rng, weft_dtype t, void *v, size_t n, int kind) {
    kt_fill(rng, t, v, n, kind == 1 ? 1e-38 : 1);
    for (size_t i = 0; i < n; i++) {
        double x = kt_get(t, v, i);
        if (kind == 2) kt_put(t, v, i, (kt_int(rng, 0, 99) ? 0.5 : 1) * (kt_int(rng, 0, 1) ? 1 : -1));
        if (kind == 3) kt_put(t, v, i, kt_int(rng, 0, 40) ? 0 : ldexp(x, (int)kt_int(rng, -140, 120)));
        if (kind == 4)
            kt_put(t, v, i, (double)kt_int(rng, -254, 254) / 2); /* ties of rint where scale is 1 */
        uint64_t bits = kt_bits(rng);
        if (kind == 5) memcpy((char *)v + i * weft_dtype_size(t), &bits, weft_dtype_size(t));
    }
    if (kind == 6 && n)
        kt_put(t, v, (size_t)kt_int(rng, 0, (int64_t)n - 1), kt_int(rng, 0, 1) ? NAN : -INFINITY);
}

static void codes_and_sums_are_equal_everywhere(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int round = 0; round < 210; round++) {
        kt_pool pool = {0};
        quant_arg a = {.codec = codecs[round % 3], .t = round / 3 % 2 ? WEFT_BF16 : WEFT_F32};
        static const int64_t longest[] = {300, 5000, 70000};
        uint64_t nonfinite = 0;
        a.n = (size_t)kt_size(&rng, longest[round / 6 % 3]);
        if (round % 7 == 0) a.n = (size_t)kt_int(&rng, 1, 4) * 4096;
        void *v = kt_tensor(&pool, &rng, a.t, a.n);
        fill(&rng, a.t, v, a.n, round / 6 % 7);
        a.v = v;
        a.a = (float)kt_uniform(&rng);
        kt_freeze(&pool);
        kt_case c = {.name = "quant", .op = -1, .nout = 2, .call = call_quant, .arg = &a};
        c.out[0] = (kt_out){.name = "code", .t = WEFT_U8, .n = weft_codec_bytes(a.codec, a.n)};
        c.out[1] = (kt_out){.name = "nonfinite", .t = WEFT_U64, .n = 1};
        kt_compare(&c, &rng);
        kt_pool more = {0};
        unsigned char *code = kt_new(&more, c.out[0].n, KT_FLUSH);
        float *acc = kt_random(&more, &rng, WEFT_F32, a.n, 1);
        assert_int_equal(
            kt_runs[0].ops->quant(kt_exec(&kt_runs[0], 0), a.codec, v, a.t, a.n, code, &nonfinite), WEFT_OK);
        kt_freeze(&more);
        a.code = code;
        c = (kt_case){.name = "dequant_axpy", .op = -1, .nout = 1, .call = call_add, .arg = &a};
        c.out[0] = (kt_out){.name = "acc", .t = WEFT_F32, .n = a.n, .init = acc};
        kt_compare(&c, &rng);
        kt_free(&more);
        kt_free(&pool);
    }
}

/* Any bytes at all are decoded, equally and within acc; so is a code of which one byte has changed. */
static void any_bytes_decode(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int round = 0; round < 60; round++) {
        kt_pool pool = {0};
        quant_arg a = {.codec = codecs[round % 3], .n = (size_t)kt_size(&rng, 9000), .a = 0.5f};
        if (round % 2) a.n = (size_t)kt_int(&rng, 4000, 9000);
        size_t bytes = weft_codec_bytes(a.codec, a.n);
        unsigned char *code = kt_new(&pool, bytes, KT_FLUSH);
        float *acc = kt_random(&pool, &rng, WEFT_F32, a.n, 1);
        for (size_t i = 0; i < bytes; i++) code[i] = (unsigned char)kt_bits(&rng);
        if (round % 4 > 1) {
            uint64_t nonfinite;
            kt_exec(&kt_runs[0], 0);
            kt_ok(&kt_runs[0],
                  kt_runs[0].ops->quant(kt_runs[0].exec, a.codec, acc, WEFT_F32, a.n, code, &nonfinite));
            code[kt_int(&rng, 0, (int64_t)codec_code_bytes(a.codec, a.n) - 1)] ^=
                (unsigned char)kt_int(&rng, 1, 255);
        }
        a.code = code;
        kt_freeze(&pool);
        kt_case c = {.name = "dequant_axpy", .op = -1, .nout = 1, .call = call_add, .arg = &a};
        c.out[0] = (kt_out){.name = "acc", .t = WEFT_F32, .n = a.n, .init = acc};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* --- known answers --- */

static void expect_code(weft_codec c, const float *v, size_t n, const unsigned char *want, size_t bytes) {
    enum { ROOM = 64 };
    kt_pool pool = {0};
    unsigned char *got = kt_new(&pool, ROOM, 0);
    float *in = kt_new(&pool, n * sizeof *in, 0);
    uint64_t nonfinite = 99;
    memcpy(in, v, n * sizeof *in);
    assert_int_equal(weft_codec_bytes(c, n), bytes);
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        memset(got, 0xaa, ROOM);
        kt_ok(r, r->ops->quant(kt_exec(r, 0), c, in, WEFT_F32, n, got, &nonfinite));
        if (memcmp(got, want, bytes) != 0) fail_msg("%s: codec %d has other bytes", r->label, (int)c);
        assert_int_equal(got[bytes], 0xaa);
    }
    kt_free(&pool);
}

static void known_codes(void **state) {
    /* 127: scale 1 = 0x3f80. Ties go to even: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, -0.5 -> 0, -1.5 -> -2. */
    static const float eight[] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127};
    static const unsigned char code8[] = {127, 0, 2, 2, 0, 0xfe, 0x81, 0x80, 0x3f};
    /* 7: scale 1; the first of two in the low half; -7 is 9, -2 is 14 */
    static const float four[] = {7, -7, 2.5f, 3.5f, -1.5f};
    static const unsigned char code4[] = {0x97, 0x42, 0x0e, 0x80, 0x3f};
    /* 178 / 127 of the least bf16 is rounded to one of them: 178 is cut to 127 */
    static const float cut[] = {178 * 0x1p-133f, -178 * 0x1p-133f, 3 * 0x1p-133f};
    static const unsigned char code_cut[] = {127, 0x81, 3, 0x01, 0x00};
    /* two of 65 are kept: 8 at 1 (outer) and -4 at 64 (inner): s = sqrt(40), 0.75 s = 4.743, bf16 4.75 = 0x4098;
     * 8 < 9.5 is inner too. Slots 1 | 2<<12 = 0x2001 and 64 | 1<<12 = 0x1040, 14 bits each. */
    static const unsigned char top[] = {0x01, 0x20, 0x10, 0x04, 0x98, 0x40};
    static const unsigned char equal[] = {0x01, 0xa0, 0x00, 0x08, 0x98, 0x40};
    static const unsigned char single[] = {0x05, 0x60, 0x01, 0x08, 0x10, 0x40};
    float sparse[65] = {0};
    (void)state;
    expect_code(WEFT_CODEC_INT8B128, eight, 7, code8, sizeof code8);
    expect_code(WEFT_CODEC_INT4B128, four, 5, code4, sizeof code4);
    expect_code(WEFT_CODEC_INT8B128, cut, 3, code_cut, sizeof code_cut);
    sparse[1] = 8;
    sparse[64] = -4;
    sparse[2] = 3.9f;
    expect_code(WEFT_CODEC_TOPK2, sparse, 65, top, sizeof top);
    sparse[2] = 4; /* of equals the first: slot 2 | 2<<12 */
    expect_code(WEFT_CODEC_TOPK2, sparse, 65, equal, sizeof equal);
    memset(sparse, 0, sizeof sparse); /* one is kept: 3 at 5, s = 3, scale 2.25; the other slot repeats it */
    sparse[5] = 3;
    expect_code(WEFT_CODEC_TOPK2, sparse, 65, single, sizeof single);
}

static void blocks_that_are_not_finite(void **state) {
    enum { N = 128 * 3 + 5, MOST = 4096 + 70 };
    kt_pool pool = {0};
    float *v = kt_new(&pool, MOST * sizeof *v, 0), *acc = kt_new(&pool, MOST * sizeof *acc, 0);
    unsigned char *code = kt_new(&pool, 2 * MOST, 0);
    (void)state;
    for (int i = 0; i < kt_nruns; i++)
        for (int c = 0; c < 3; c++) {
            kt_run *r = &kt_runs[i];
            size_t n = codecs[c] == WEFT_CODEC_TOPK2 ? MOST : N, block = codec_block(codecs[c]);
            uint64_t nonfinite = 0;
            for (size_t j = 0; j < n; j++) v[j] = (float)(j % 10) - 4, acc[j] = 0;
            v[block + 3] = NAN;
            v[block + 4] = -INFINITY;
            kt_exec(r, 0);
            kt_ok(r, r->ops->quant(r->exec, codecs[c], v, WEFT_F32, n, code, &nonfinite));
            assert_int_equal(nonfinite, 2);
            kt_ok(r, r->ops->dequant_axpy(r->exec, codecs[c], code, n, 1, acc));
            for (size_t j = 0; j < n; j++)
                if (isnan(acc[j]) != (j / block == 1))
                    fail_msg("%s: codec %d, element %zu", r->label, codecs[c], j);
            v[block + 3] = v[block + 4] = 1;
            kt_ok(r, r->ops->quant(r->exec, codecs[c], v, WEFT_F32, n, code, &nonfinite));
            assert_int_equal(nonfinite, 0);
        }
    kt_free(&pool);
}

/* What comes out is as near as the code can be: half a step, or half a step and the cut at the end. */
static void decoded_values_are_near(void **state) {
    enum { N = 4096 * 2 };
    kt_pool pool = {0};
    float *v = kt_new(&pool, N * sizeof *v, 0), *acc = kt_new(&pool, N * sizeof *acc, 0);
    unsigned char *code = kt_new(&pool, 2 * N, 0);
    kt_rng rng = {kt_seed()};
    uint64_t nonfinite;
    (void)state;
    kt_fill(&rng, WEFT_F32, v, N, 0.01);
    for (int c = 0; c < 3; c++) {
        kt_run *r = &kt_runs[kt_nruns - 1];
        double error = 0, all = 0;
        kt_exec(r, 0);
        memset(acc, 0, N * sizeof *acc);
        kt_ok(r, r->ops->quant(r->exec, codecs[c], v, WEFT_F32, N, code, &nonfinite));
        kt_ok(r, r->ops->dequant_axpy(r->exec, codecs[c], code, N, 1, acc));
        for (size_t j = 0; j < N; j++) {
            double e = acc[j] - v[j];
            error += e * e;
            all += (double)v[j] * v[j];
            if (codecs[c] == WEFT_CODEC_TOPK2) continue;
            double step =
                weft_bf16_to_f32(codec_get_scale(code + codec_code_bytes(codecs[c], N), j / CODEC_BLOCK));
            assert_true(fabs(e) <= 0.51 * step);
        }
        print_message("# codec %d: %.4f of the energy is lost\n", (int)codecs[c], error / all);
        /* a 64th of Gaussian-like numbers holds 9 % of the energy; two bits keep most of that */
        assert_true(error / all < (codecs[c] == WEFT_CODEC_TOPK2      ? 0.95
                                   : codecs[c] == WEFT_CODEC_INT4B128 ? 0.03
                                                                      : 1e-4));
    }
    kt_free(&pool);
}

/* The corrected product with 1/scale is the rounded quotient: scales of all mantissas, numbers of all sizes that
 * matter. ref divides. */
static void quotients_are_rounded_once(void **state) {
    enum { N = 128 * 128 };
    kt_pool pool = {0};
    float *v = kt_new(&pool, N * sizeof *v, 0);
    unsigned char *want = kt_new(&pool, 2 * N, 0), *got = kt_new(&pool, 2 * N, 0);
    kt_rng rng = {kt_seed()};
    uint64_t nonfinite;
    (void)state;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < N;
             i++) { /* block b: scale with mantissa b, numbers next to the ties between codes */
            float scale = ldexpf(1 + (float)(i / 128) / 128, round - 10),
                  tie = (float)kt_int(&rng, -127, 126) + 0.5f;
            v[i] = tie * scale;
            for (int64_t ulps = kt_int(&rng, -2, 2); ulps; ulps += ulps < 0 ? 1 : -1)
                v[i] = nextafterf(v[i], ulps < 0 ? -INFINITY : INFINITY);
            if (i % 128 == 0) v[i] = 127 * scale;
        }
        assert_int_equal(kt_runs[0].ops->quant(kt_exec(&kt_runs[0], 0), WEFT_CODEC_INT8B128, v, WEFT_F32, N,
                                               want, &nonfinite),
                         WEFT_OK);
        for (int i = 1; i < kt_nruns; i++) {
            kt_run *r = &kt_runs[i];
            kt_ok(r, r->ops->quant(kt_exec(r, 0), WEFT_CODEC_INT8B128, v, WEFT_F32, N, got, &nonfinite));
            assert_memory_equal(got, want, weft_codec_bytes(WEFT_CODEC_INT8B128, N));
        }
    }
    kt_free(&pool);
    /* the control: without the correction some would be wrong */
    int wrong = 0;
    for (int b = 0; b < 128; b++)
        for (int q = 0; q < 127; q++) {
            float scale = 1 + (float)b / 128, x = ((float)q + 0.5f) * scale;
            for (int up = -1; up <= 1; up++) {
                float y = up ? nextafterf(x, up * INFINITY) : x;
                wrong += rintf(y * (1 / scale)) != rintf(y / scale);
            }
        }
    assert_true(wrong > 0);
}

/* --- the outer step --- */

typedef struct outer_arg {
    weft_outer_desc d;
    const float *delta;
} outer_arg;

static weft_status call_outer(const kt_run *r, const void *arg, void *const *out) {
    const outer_arg *a = arg;
    return r->ops->outer_step(r->exec, &a->d, a->delta, out[0], out[1]);
}

static void outer_step_is_equal_everywhere(void **state) {
    kt_rng rng = {kt_seed()};
    (void)state;
    for (int round = 0; round < 20; round++) {
        kt_pool pool = {0};
        outer_arg a = {{.size = sizeof a.d, .eta = 0.7f, .mu = 0.9f}, NULL};
        a.d.n = (size_t)kt_size(&rng, round < 3 ? 100000 : 2000);
        float *delta = kt_random(&pool, &rng, WEFT_F32, a.d.n, 1);
        float *v = kt_random(&pool, &rng, WEFT_F32, a.d.n, 1),
              *theta = kt_random(&pool, &rng, WEFT_F32, a.d.n, 1);
        if (a.d.n > 2) delta[a.d.n / 2] = round % 2 ? NAN : INFINITY;
        kt_freeze(&pool);
        a.delta = delta;
        kt_case c = {.name = "outer_step", .op = -1, .nout = 2, .call = call_outer, .arg = &a};
        c.out[0] = (kt_out){.name = "v", .t = WEFT_F32, .n = a.d.n, .init = v};
        c.out[1] = (kt_out){.name = "theta", .t = WEFT_F32, .n = a.d.n, .init = theta};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* Golden: with products rounded on their own the last bits are others. */
static void outer_step_fuses(void **state) {
    weft_outer_desc d = {.size = sizeof d, .n = 1, .eta = 0.7f, .mu = 0.9f};
    kt_pool pool = {0};
    float *delta = kt_new(&pool, sizeof *delta, 0), *v = kt_new(&pool, sizeof *v, 0);
    float *theta = kt_new(&pool, sizeof *theta, 0);
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        *delta = 0.3f, *v = 0x1.170a3ep-1f, *theta = 1.1f;
        volatile float product = d.mu * *v;
        float split = product + *delta; /* the control */
        kt_ok(r, r->ops->outer_step(kt_exec(r, 0), &d, delta, v, theta));
        assert_true(*v == 0x1.94bc6ap-1f && *theta == 0x1.91648ap-2f);
        assert_true(split == 0x1.94bc6cp-1f);
    }
    kt_free(&pool);
}

static void what_is_refused(void **state) {
    (void)state;
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        float v[4] = {0}, acc[4] = {1, 2, 3, 4};
        unsigned char code[16];
        uint64_t bad;
        weft_outer_desc d = {.size = sizeof d, .n = 4};
        kt_exec(r, 0);
        assert_int_equal(r->ops->quant(r->exec, WEFT_CODEC_BF16, v, WEFT_F32, 4, code, &bad),
                         WEFT_ERR_UNSUPPORTED);
        assert_int_equal(r->ops->quant(r->exec, WEFT_CODEC_TOPK2, v, WEFT_F64, 4, code, &bad),
                         WEFT_ERR_UNSUPPORTED);
        assert_int_equal(r->ops->quant(r->exec, WEFT_CODEC_TOPK2, v, WEFT_F32, 4, NULL, &bad), WEFT_ERR_ARG);
        assert_int_equal(r->ops->quant(r->exec, WEFT_CODEC_TOPK2, v, WEFT_F32, 4, code, NULL), WEFT_ERR_ARG);
        assert_int_equal(r->ops->dequant_axpy(r->exec, (weft_codec)7, code, 4, 1, acc), WEFT_ERR_UNSUPPORTED);
        assert_int_equal(r->ops->dequant_axpy(r->exec, WEFT_CODEC_INT4B128, NULL, 4, 1, acc), WEFT_ERR_ARG);
        assert_int_equal(r->ops->outer_step(r->exec, &d, v, NULL, acc), WEFT_ERR_ARG);
        d.size = 1;
        assert_int_equal(r->ops->outer_step(r->exec, &d, v, v, acc), WEFT_ERR_ARG);
        assert_true(acc[0] == 1 && acc[3] == 4);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_sums_are_equal_everywhere),
        cmocka_unit_test(any_bytes_decode),
        cmocka_unit_test(known_codes),
        cmocka_unit_test(blocks_that_are_not_finite),
        cmocka_unit_test(decoded_values_are_near),
        cmocka_unit_test(quotients_are_rounded_once),
        cmocka_unit_test(outer_step_is_equal_everywhere),
        cmocka_unit_test(outer_step_fuses),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests_name("codec", tests, kt_open, kt_close);
}
