/* exp, exp2, log, tanh, sigmoid, GELU on sixteen lanes.
 *
 * Polynomials on a reduced range (coefficients from scripts/vmath_coefficients.py), true division and square
 * root, no tables: the same bits on every instruction-set level. NaN goes through; infinities and denormals
 * are right. tests/kernels/test_vmath.c measures the errors against long double: exp, exp2, log, tanh,
 * rsqrt at most 2 ulp, sigmoid 3, GELU 4. Source: Muller, Elementary Functions, 2016, chapters 3 and 11 (minimax
 * polynomials, Cody and Waite reduction).
 */
#ifndef WEFT_CPU_VMATH_H
#define WEFT_CPU_VMATH_H

#include "kernels/cpu/vec.h"

/* e^x = 2^n e^r with n = rint(x / ln 2), |r| <= ln2/2. n ln2_high is exact, so r is good to the last bit. The
 * clamp keeps n in the range of vec_scale2; beyond it the result is 0 or infinity anyway. max(low, x) returns
 * x if it is NaN, which is why the constants come first. */
VEC_INLINE vec vec_exp(vec x) {
    x = vec_max(vec_set(-104.0f), x);
    x = vec_min(vec_set(89.0f), x);
    vec n = vec_rint(vec_mul(x, vec_set(0x1.715476p+0f)));
    vec r = vec_fnma(n, vec_set(0x1.62ep-1f), x);
    r = vec_fnma(n, vec_set(0x1.0bfbe8p-15f), r);
    vec q = vec_fma(vec_set(0x1.6d10fcp-10f), r, vec_set(0x1.120b62p-7f));
    q = vec_fma(q, r, vec_set(0x1.55551ap-5f));
    q = vec_fma(q, r, vec_set(0x1.5554dep-3f));
    q = vec_fma(q, r, vec_set(0.5f));
    vec p = vec_fma(q, vec_mul(r, r), r);
    return vec_scale2(vec_add(p, vec_set(1.0f)), n);
}

/* 2^x for x <= 254: x - rint(x) is exact, which makes it a third shorter than vec_exp. Below the clamp the
 * result is 0 anyway. The coefficients weigh r < 0 twice, where an ulp of the result is half as large. */
VEC_INLINE vec vec_exp2_reduced(vec r) { /* |r| <= 1/2 */
    vec p = vec_fma(vec_set(0x1.5ab438p-10f), r, vec_set(0x1.3ceca0p-7f));
    p = vec_fma(p, r, vec_set(0x1.c6baa2p-5f));
    p = vec_fma(p, r, vec_set(0x1.ebf9b4p-3f));
    p = vec_fma(p, r, vec_set(0x1.62e424p-1f));
    return vec_fma(p, r, vec_set(1.0f));
}
VEC_INLINE vec vec_exp2(vec x) {
    x = vec_max(vec_set(-152.0f), x);
    vec n = vec_rint(x);
    return vec_scale2(vec_exp2_reduced(vec_sub(x, n)), n);
}

/* ln x = e ln 2 + ln(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)). Negative: NaN; 0: -infinity. */
VEC_INLINE vec vec_log(vec x) {
    vmask tiny = vec_lt(x, vec_set(0x1p-126f));
    vec normal = vec_select(tiny, vec_mul(x, vec_set(0x1p25f)), x);
    veci u = vec_bits(normal);
    veci e = veci_sar(veci_sub(u, veci_set(0x3f3504f3)), 23);
    vec f = vec_sub(vec_of_bits(veci_sub(u, veci_shl(e, 23))), vec_set(1.0f));
    vec exponent = vec_sub(vec_of_int(e), vec_select(tiny, vec_set(25.0f), vec_zero()));
    vec f2 = vec_mul(f, f);
    vec q = vec_fma(vec_set(0x1.1d8ea6p-4f), f, vec_set(-0x1.d635bcp-4f));
    q = vec_fma(q, f, vec_set(0x1.dea282p-4f));
    q = vec_fma(q, f, vec_set(-0x1.fcf4c6p-4f));
    q = vec_fma(q, f, vec_set(0x1.23d21ap-3f));
    q = vec_fma(q, f, vec_set(-0x1.555b4ap-3f));
    q = vec_fma(q, f, vec_set(0x1.999d5ap-3f));
    q = vec_fma(q, f, vec_set(-0x1.fffffcp-3f));
    q = vec_fma(q, f, vec_set(0x1.555554p-2f));
    vec y = vec_mul(vec_mul(q, f2), f);
    y = vec_fma(exponent, vec_set(0x1.0bfbe8p-15f), y);
    y = vec_fnma(f2, vec_set(0.5f), y);
    y = vec_fma(exponent, vec_set(0x1.62ep-1f), vec_add(f, y));
    vec infinity = vec_set(__builtin_inff());
    y = vec_select(vec_eq(x, infinity), infinity, y);
    y = vec_select(vec_eq(x, vec_zero()), vec_neg(infinity), y);
    y = vec_select(vec_lt(x, vec_zero()), vec_set(__builtin_nanf("")), y);
    return vec_select(vec_eq(x, x), y, x);
}

/* 1/d for d in [1, 2], to one ulp: the quadratic 1/d (1 + T3(2d - 3)/99) is wrong by 1/99 at most, and each Newton
 * step squares that. Twice as fast as a division. */
VEC_INLINE vec vec_inverse_(vec d) {
    vec y = vec_fma(vec_fma(vec_set(0x1.4afd6ap-2f), d, vec_set(-0x1.745d18p+0f)), d, vec_set(0x1.0f83ep+1f));
    y = vec_fma(vec_fnma(d, y, vec_set(1.0f)), y, y);
    return vec_fma(vec_fnma(d, y, vec_set(1.0f)), y, y);
}

/* 1 / (1 + e^-x) */
VEC_INLINE vec vec_sigmoid(vec x) {
    return vec_div(vec_set(1.0f), vec_add(vec_set(1.0f), vec_exp(vec_neg(x))));
}

/* On |x|: x + x^3 q(x^2) near 0, where 1 - 2/(e^2x + 1) would cancel. */
VEC_INLINE vec vec_tanh(vec x) {
    vec size = vec_abs(x), x2 = vec_mul(x, x);
    vec q = vec_fma(vec_set(-0x1.8f8de4p-8f), x2, vec_set(0x1.58048ep-6f));
    q = vec_fma(q, x2, vec_set(-0x1.b9258ap-5f));
    q = vec_fma(q, x2, vec_set(0x1.110e1cp-3f));
    q = vec_fma(q, x2, vec_set(-0x1.555552p-2f));
    vec small = vec_fma(vec_mul(q, x2), size, size);
    vec large = vec_exp(vec_add(size, size));
    large = vec_sub(vec_set(1.0f), vec_div(vec_set(2.0f), vec_add(large, vec_set(1.0f))));
    veci sign = veci_and(vec_bits(x), veci_set((int32_t)0x80000000u));
    vec y = vec_select(vec_lt(size, vec_set(0.625f)), small, large);
    return vec_of_bits(veci_or(vec_bits(y), sign));
}

/* 1/sqrt(x) by square root and division: each rounded once */
VEC_INLINE vec vec_rsqrt(vec x) {
    return vec_div(vec_set(1.0f), vec_sqrt(x));
}

/* GELU in its tanh form, written as x / (1 + e^-2z), 2z = x (a + b x^2): no cancellation for negative x.
 *
 * An error in 2z is magnified by |2z| in e^-2z, so the exponent is formed to 31 bits, in powers of two: a and b are
 * taken times -log2 e, in a high and a low part, and what x^2 and a + b x^2 lose comes back (Dekker 1971). a's high
 * part has so few bits that sum - a is exact; n leaves the exponent inside an fma. From |x| = 11.5 on the power is 0
 * or infinity. The clamps turn a NaN into a number: x carries it. */
#define VEC_GELU_A_HIGH -0x1.268p+1f
#define VEC_GELU_A_LOW  -0x1.7610dep-10f
#define VEC_GELU_B_HIGH -0x1.a5a7dp-4f
#define VEC_GELU_B_LOW  0x1.151aaep-29f
#define VEC_GELU_SLOPE1 0x1.988454p+0f /* a, and 3 b, for the derivative */
#define VEC_GELU_SLOPE3 0x1.b6676cp-3f

VEC_INLINE vec vec_gelu(vec x) {
    vec v = vec_min(vec_max(x, vec_set(-11.5f)), vec_set(11.5f)), square = vec_mul(v, v);
    vec a = vec_set(VEC_GELU_A_HIGH), b = vec_set(VEC_GELU_B_HIGH), sum = vec_fma(b, square, a);
    vec low = vec_fma(vec_set(VEC_GELU_B_LOW), square, vec_set(VEC_GELU_A_LOW));
    low = vec_fnma(b, vec_fnma(v, v, square), low);
    low = vec_sub(low, vec_fnma(b, square, vec_sub(sum, a)));
    vec n = vec_rint(vec_mul(v, sum));
    vec r = vec_fma(v, low, vec_fma(v, sum, vec_neg(n)));
    return vec_div(x, vec_add(vec_set(1.0f), vec_scale2(vec_exp2_reduced(r), n)));
}

/* d GELU / dx = s + x s (1 - s) (2z)', s = sigmoid(2z). With e = exp(-|2z|) and t = 1/(1 + e): s is t or e t,
 * and s (1 - s) = e t t: no difference is taken and nothing overflows. Beyond |x| = 32 the result is 0 or 1;
 * the clamp keeps x^2 finite. */
VEC_INLINE vec vec_gelu_grad(vec x) {
    x = vec_max(vec_set(-32.0f), x);
    x = vec_min(vec_set(32.0f), x);
    vec x2 = vec_mul(x, x), b = vec_set(VEC_GELU_B_HIGH), a = vec_set(VEC_GELU_A_HIGH + VEC_GELU_A_LOW);
    vec e = vec_exp2(vec_neg(vec_abs(vec_mul(x, vec_fma(x2, b, a)))));
    vec t = vec_inverse_(vec_add(vec_set(1.0f), e)), et = vec_mul(e, t);
    vec s = vec_select(vec_lt(x, vec_zero()), et, t);
    vec slope = vec_fma(x2, vec_set(VEC_GELU_SLOPE3), vec_set(VEC_GELU_SLOPE1));
    return vec_fma(vec_mul(vec_mul(et, t), x), slope, s);
}

#endif
