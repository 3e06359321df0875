/* The vectorised mathematics: errors in units in the last place over every 97th float of all 2^32 against
 * long double, the same bits on every instruction-set level, special values, bf16 rounding as base/bf16.h. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "vmath_level.h"

#if LDBL_MANT_DIG > 64 /* long double in software */
#define FINE   19997u
#define COARSE 99991u
#else
#define FINE   97u  /* primes: all exponents, all low bits */
#define COARSE 997u /* where long double takes long */
#endif
#define BATCH 4096

typedef long double exact_function(long double x);

static long double exact_sigmoid(long double x) {
    return 1 / (1 + expl(-x));
}
static long double exact_rsqrt(long double x) {
    return 1 / sqrtl(x);
}
static long double exact_z2(long double x) {
    return 1.595769121605730711759784L * (x + 0.044715L * x * x * x);
}
static long double exact_gelu(long double x) {
    return x * exact_sigmoid(exact_z2(x));
}
static long double exact_gelu_grad(long double x) {
    long double s = exact_sigmoid(exact_z2(x)), slope = 1.595769121605730711759784L * (1 + 0.134145L * x * x);
    return s + x * s * (1 - s) * slope;
}

static float of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* The distance of two consecutive floats at y. */
static long double ulp(long double y) {
    int e = y == 0 ? -126 : ilogbl(y);
    return ldexpl(1, (e < -126 ? -126 : e > 127 ? 127 : e) - 23);
}

/* Error of y against the exact value, in ulp. Beyond the largest float infinity is as good as the largest
 * float. */
static long double error_in_ulp(float y, long double exact) {
    if (isnan(y) || isnan(exact)) return isnan(y) && isnan(exact) ? 0 : INFINITY;
    if (isinf(y)) return (exact < 0) == (y < 0) && fabsl(exact) >= 0x1.fffffep127L ? 0 : INFINITY;
    if (isinf(exact)) return INFINITY;
    return fabsl((long double)y - exact) / ulp(exact);
}

/* The bound in ulp. */
static long double bound(enum vmath_function f) {
    if (f == VMATH_SIGMOID) return 3;
    if (f == VMATH_GELU) return 4;
    return 2;
}

/* The levels of this processor, portable first. */
typedef void apply_function(enum vmath_function f, const float *x, float *y, int64_t n);
typedef void to_bf16_function(const float *x, uint16_t *y, int64_t n);
static struct {
    apply_function *apply;
    to_bf16_function *to_bf16;
} level[3];
static int levels;

static void add_level(apply_function *apply, to_bf16_function *to_bf16) {
    level[levels].apply = apply;
    level[levels++].to_bf16 = to_bf16;
}

static void find_levels(void) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    add_level(vmath_apply_portable, vmath_to_bf16_portable);
    add_level(vmath_apply_avx2, vmath_to_bf16_avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        add_level(vmath_apply_avx512, vmath_to_bf16_avx512);
#else
    add_level(vmath_apply_portable, vmath_to_bf16_portable);
#endif
}

/* y = f(x) by the first level; the others give the same bits. */
static void apply(enum vmath_function f, const float *x, float *y, int64_t n) {
    static float other[BATCH];
    level[0].apply(f, x, y, n);
    for (int l = 1; l < levels; l++) {
        level[l].apply(f, x, other, n);
        assert_memory_equal(y, other, (size_t)n * sizeof *y);
    }
}

/* A default run takes every fifth of the floats that `test_vmath dense` takes. */
static uint32_t sparse = 5;

/* Every stride-th of all floats but those beyond +-limit. Returns the worst error as a part of its bound;
 * checks that all levels give the same bits. */
static long double worst_error(enum vmath_function f, exact_function *exact, float limit, uint32_t stride) {
    if (stride > 1) stride *= sparse; /* all floats are all */
    static float x[BATCH], y[BATCH];
    long double worst = 0, worst_part = 0;
    float where = 0;
    uint64_t next = 0, n = 0;
    while (next < 1ull << 32) {
        int64_t count = 0;
        for (; count < BATCH && next < 1ull << 32; next += stride) {
            float v = of_bits((uint32_t)next);
            if (!(fabsf(v) > limit)) x[count++] = v; /* NaN too */
        }
        apply(f, x, y, count);
        for (int64_t i = 0; i < count; i++) {
            long double e = error_in_ulp(y[i], exact(x[i])), part = e / bound(f);
            if (part > worst_part) {
                worst_part = part;
                worst = e;
                where = x[i];
            }
        }
        n += (uint64_t)count;
    }
    printf("# %llu floats, worst %.3Lf ulp at %a: %.2Lf of the bound\n", (unsigned long long)n, worst,
           (double)where, worst_part);
    return worst_part;
}

static void exp_within_2_ulp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_EXP, expl, 110, FINE) <= 1);
}
static void exp2_within_2_ulp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_EXP2, exp2l, 160, FINE) <= 1);
}
static void log_within_2_ulp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_LOG, logl, INFINITY, FINE) <= 1);
}
static void tanh_within_2_ulp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_TANH, tanhl, 20, COARSE) <= 1);
}
static void sigmoid_within_3_ulp(void **state) {
    (void)state; /* beyond 87 e^-x leaves the range of float: the result is 0 where it could be denormal */
    assert_true(worst_error(VMATH_SIGMOID, exact_sigmoid, 87, COARSE) <= 1);
}
static void rsqrt_within_2_ulp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_RSQRT, exact_rsqrt, INFINITY, COARSE) <= 1);
}
static void gelu_within_4_ulp(void **state) {
    (void)state; /* at -9 GELU is 1e-28 */
    assert_true(worst_error(VMATH_GELU, exact_gelu, 9, COARSE) <= 1);
}

/* The derivative crosses zero at -0.75, so its error is measured against 1. */
static void gelu_derivative_within_4_in_2_24(void **state) {
    long double worst = 0;
    float x, y;
    (void)state;
    for (int i = -400000; i <= 400000; i++) {
        x = (float)i * 1e-4f;
        apply(VMATH_GELU_GRAD, &x, &y, 1);
        worst = fmaxl(worst, fabsl(y - exact_gelu_grad(x)));
    }
    printf("# gelu'      worst %.3Lf x 2^-24\n", worst * 0x1p24L);
    assert_true(worst <= 4 * 0x1p-24L);
}

static void a_wrong_exp_is_noticed(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_BAD_EXP, expl, 110, COARSE) > 1);
}

static float one(enum vmath_function f, float x) {
    float y;
    apply(f, &x, &y, 1);
    return y;
}

static void special_values(void **state) {
    (void)state;
    for (int f = 0; f < VMATH_BAD_EXP; f++) assert_true(isnan(one((enum vmath_function)f, NAN)));
    assert_true(one(VMATH_EXP, -INFINITY) == 0 && one(VMATH_EXP, INFINITY) == INFINITY);
    assert_true(one(VMATH_EXP2, -INFINITY) == 0 && one(VMATH_EXP2, 3.0f) == 8);
    assert_true(one(VMATH_EXP, 0.0f) == 1 && one(VMATH_EXP, -0.0f) == 1);
    assert_true(one(VMATH_LOG, 0.0f) == -INFINITY && one(VMATH_LOG, -0.0f) == -INFINITY);
    assert_true(one(VMATH_LOG, INFINITY) == INFINITY && isnan(one(VMATH_LOG, -1.0f)));
    assert_true(one(VMATH_LOG, 1.0f) == 0);
    assert_true(one(VMATH_TANH, INFINITY) == 1 && one(VMATH_TANH, -INFINITY) == -1);
    assert_true(signbit(one(VMATH_TANH, -0.0f)) && one(VMATH_TANH, -0.0f) == 0);
    assert_true(one(VMATH_SIGMOID, INFINITY) == 1 && one(VMATH_SIGMOID, -INFINITY) == 0);
    assert_true(one(VMATH_RSQRT, 0.0f) == INFINITY && one(VMATH_RSQRT, INFINITY) == 0);
    assert_true(one(VMATH_GELU, INFINITY) == INFINITY && one(VMATH_GELU, -1e30f) == 0);
    assert_true(one(VMATH_GELU, 1e30f) == 1e30f);
    assert_true(one(VMATH_GELU_GRAD, 1e30f) == 1 && one(VMATH_GELU_GRAD, -1e30f) == 0);
}

static void bf16_as_defined(void **state) {
    static float x[BATCH];
    static uint16_t y[BATCH];
    (void)state;
    for (uint64_t next = 0; next < 1ull << 32;) {
        int64_t n = 0;
        for (; n < BATCH && next < 1ull << 32; next += FINE * sparse) x[n++] = of_bits((uint32_t)next);
        for (int l = 0; l < levels; l++) {
            level[l].to_bf16(x, y, n);
            for (int64_t i = 0; i < n; i++)
                if (y[i] != weft_f32_to_bf16(x[i])) fail_msg("%a gives %04x", (double)x[i], y[i]);
        }
    }
}

/* --- `test_vmath every_*`: every float there is, against libm in double, whose error is 2^-29 of ours --- */

static long double double_exp(long double x) {
    return (long double)exp((double)x);
}
static long double double_log(long double x) {
    return (long double)log((double)x);
}
static long double double_tanh(long double x) {
    return (long double)tanh((double)x);
}
static long double double_gelu(long double x) {
    double v = (double)x, z2 = 1.5957691216057308 * (v + 0.044715 * v * v * v);
    return (long double)(v / (1 + exp(-z2)));
}

static void every_exp(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_EXP, double_exp, 110, 1) <= 1);
}
static void every_log(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_LOG, double_log, INFINITY, 1) <= 1);
}
static void every_tanh(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_TANH, double_tanh, INFINITY, 1) <= 1);
}
static void every_gelu(void **state) {
    (void)state;
    assert_true(worst_error(VMATH_GELU, double_gelu, 9, 1) <= 1);
}
static const struct CMUnitTest every_float[] = {
    cmocka_unit_test(every_exp),
    cmocka_unit_test(every_log),
    cmocka_unit_test(every_tanh),
    cmocka_unit_test(every_gelu),
};

int main(int argc, char **argv) {
    find_levels();
    if (levels == 0) {
        printf("# this processor has no AVX2 and FMA\n");
        return 77;
    }
    if (argc > 1 && !strcmp(argv[1], "dense")) {
        sparse = 1;
    } else if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests(every_float, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_within_2_ulp),       cmocka_unit_test(exp2_within_2_ulp),
        cmocka_unit_test(log_within_2_ulp),       cmocka_unit_test(tanh_within_2_ulp),
        cmocka_unit_test(sigmoid_within_3_ulp),   cmocka_unit_test(rsqrt_within_2_ulp),
        cmocka_unit_test(gelu_within_4_ulp),      cmocka_unit_test(gelu_derivative_within_4_in_2_24),
        cmocka_unit_test(a_wrong_exp_is_noticed), cmocka_unit_test(special_values),
        cmocka_unit_test(bf16_as_defined),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
