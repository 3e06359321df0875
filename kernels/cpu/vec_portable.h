/* vec.h in compiler vector extensions: sixteen lanes as two or four parts (portable.h). Included by vec.h,
 * whose comments say what each function does. NaN results may have other signs and payloads on another
 * architecture; everything else has the bits of the other levels. */
#ifndef WEFT_CPU_VEC_PORTABLE_H
#define WEFT_CPU_VEC_PORTABLE_H

#include "kernels/cpu/portable.h"

#define VEC_PARTS (VEC_LANES / PART_LANES)

typedef struct {
    vpart p[VEC_PARTS];
} vec;
typedef struct {
    vpart_i p[VEC_PARTS];
} veci;
typedef veci vmask; /* all bits of a lane set or clear */

/* A value whose part i is P(i), written out, so that no part needs an address. */
#if PART_LANES == 8
#define VEC_OF(type, P) ((type){{P(0), P(1)}})
#else
#define VEC_OF(type, P) ((type){{P(0), P(1), P(2), P(3)}})
#endif

#define VEC_SET_(i) vpart_set(x)
VEC_INLINE vec vec_set(float x) {
    return VEC_OF(vec, VEC_SET_);
}
VEC_INLINE vec vec_zero(void) {
    return vec_set(0.0f);
}

/* Functions of a and b that are one operator; of float and of integer lanes. */
#define VEC_ADD_(i) (a.p[i] + b.p[i])
#define VEC_SUB_(i) (a.p[i] - b.p[i])
#define VEC_MUL_(i) (a.p[i] * b.p[i])
#define VEC_DIV_(i) (a.p[i] / b.p[i])
#define VEC_AND_(i) (a.p[i] & b.p[i])
#define VEC_OR_(i)  (a.p[i] | b.p[i])
#define VEC_LT_(i)  (vpart_i)(a.p[i] < b.p[i])
#define VEC_EQ_(i)  (vpart_i)(a.p[i] == b.p[i])
#define VEC_NE_(i)  (vpart_i)(a.p[i] != b.p[i])
#define VEC_BINARY(result, name, type, P)                                                                    \
    VEC_INLINE result name(type a, type b) {                                                                 \
        return VEC_OF(result, P);                                                                            \
    }
VEC_BINARY(vec, vec_add, vec, VEC_ADD_)
VEC_BINARY(vec, vec_sub, vec, VEC_SUB_)
VEC_BINARY(vec, vec_mul, vec, VEC_MUL_)
VEC_BINARY(vec, vec_div, vec, VEC_DIV_)
VEC_BINARY(vmask, vec_lt, vec, VEC_LT_)
VEC_BINARY(vmask, vec_eq, vec, VEC_EQ_)
VEC_BINARY(vmask, vec_ne, vec, VEC_NE_)
/* Integer lanes wrap: signed overflow is undefined. */
#define VECI_ADD_(i) (vpart_i)((vpart_u)a.p[i] + (vpart_u)b.p[i])
#define VECI_SUB_(i) (vpart_i)((vpart_u)a.p[i] - (vpart_u)b.p[i])
VEC_BINARY(veci, veci_add, veci, VECI_ADD_)
VEC_BINARY(veci, veci_sub, veci, VECI_SUB_)
VEC_BINARY(veci, veci_and, veci, VEC_AND_)
VEC_BINARY(veci, veci_or, veci, VEC_OR_)
VEC_BINARY(vmask, vmask_and, vmask, VEC_AND_)
VEC_BINARY(vmask, vmask_or, vmask, VEC_OR_)
VEC_BINARY(vmask, veci_lt_, veci, VEC_LT_)
VEC_INLINE vmask veci_gt(veci a, veci b) {
    return veci_lt_(b, a);
}

#define VEC_FMA_(i) vpart_fma(a.p[i], b.p[i], c.p[i])
VEC_INLINE vec vec_fma(vec a, vec b, vec c) {
    return VEC_OF(vec, VEC_FMA_);
}
#define VEC_FNMA_(i) vpart_fma(-a.p[i], b.p[i], c.p[i])
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) {
    return VEC_OF(vec, VEC_FNMA_);
}
#define VEC_SQRT_(i) vpart_sqrt(a.p[i])
VEC_INLINE vec vec_sqrt(vec a) {
    return VEC_OF(vec, VEC_SQRT_);
}
#define VEC_RINT_(i) vpart_rint(a.p[i])
VEC_INLINE vec vec_rint(vec a) {
    return VEC_OF(vec, VEC_RINT_);
}
#define VEC_SELECT_(i) vpart_select(m.p[i], yes.p[i], no.p[i])
VEC_INLINE vec vec_select(vmask m, vec yes, vec no) {
    return VEC_OF(vec, VEC_SELECT_);
}
VEC_INLINE vec vec_min(vec a, vec b) {
    return vec_select(vec_lt(a, b), a, b);
}
VEC_INLINE vec vec_max(vec a, vec b) {
    return vec_select(vec_lt(b, a), a, b);
}

#define VECI_SET_(i) vpart_set_i(x)
VEC_INLINE veci veci_set(int32_t x) {
    return VEC_OF(veci, VECI_SET_);
}
#define VECI_LOAD_(i) (vpart_i) vpart_load(p + (i)*PART_LANES)
VEC_INLINE veci veci_load(const int32_t *p) {
    return VEC_OF(veci, VECI_LOAD_);
}
VEC_INLINE veci veci_iota(void) {
    static const int32_t lane[VEC_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return veci_load(lane);
}
#define VECI_SELECT_(i) vpart_select_i(m.p[i], yes.p[i], no.p[i])
VEC_INLINE veci veci_select(vmask m, veci yes, veci no) {
    return VEC_OF(veci, VECI_SELECT_);
}
VEC_INLINE veci veci_max(veci a, veci b) {
    return veci_select(veci_gt(a, b), a, b);
}
#define VECI_SHL_(i) (vpart_i)((vpart_u)a.p[i] << n)
VEC_INLINE veci veci_shl(veci a, int n) {
    return VEC_OF(veci, VECI_SHL_);
}
#define VECI_SHR_(i) (vpart_i)((vpart_u)a.p[i] >> n)
VEC_INLINE veci veci_shr(veci a, int n) {
    return VEC_OF(veci, VECI_SHR_);
}
#define VECI_SAR_(i) (a.p[i] >> n)
VEC_INLINE veci veci_sar(veci a, int n) {
    return VEC_OF(veci, VECI_SAR_);
}
VEC_INLINE int vmask_any(vmask a) {
    vpart_i any = a.p[0];
    int32_t r = 0;
    for (int i = 1; i < VEC_PARTS; i++) any |= a.p[i];
    for (int i = 0; i < PART_LANES; i++) r |= any[i];
    return r != 0;
}
VEC_INLINE vmask vmask_first(int m) {
    return veci_gt(veci_set(m), veci_iota());
}
#define VEC_BITS_(i) (vpart_i) a.p[i]
VEC_INLINE veci vec_bits(vec a) {
    return VEC_OF(veci, VEC_BITS_);
}
#define VEC_OF_BITS_(i) (vpart) a.p[i]
VEC_INLINE vec vec_of_bits(veci a) {
    return VEC_OF(vec, VEC_OF_BITS_);
}
#define VEC_OF_INT_(i) __builtin_convertvector(a.p[i], vpart)
VEC_INLINE vec vec_of_int(veci a) {
    return VEC_OF(vec, VEC_OF_INT_);
}
#define VEC_TO_INT_(i) __builtin_convertvector(a.p[i], vpart_i)
VEC_INLINE veci vec_to_int_(vec a) {
    return VEC_OF(veci, VEC_TO_INT_);
}

/* Two multiplications by powers of two: the first is exact for the mantissas that exp makes (0.5 to 2). Where
 * n is NaN, which has no integer, a is NaN too. */
VEC_INLINE vec vec_power2_(veci k) {
    return vec_of_bits(veci_shl(veci_add(k, veci_set(127)), 23));
}
VEC_INLINE vec vec_scale2(vec a, vec n) {
    veci k = vec_to_int_(vec_select(vec_eq(n, n), n, vec_zero())), half = veci_sar(k, 1);
    return vec_mul(vec_mul(a, vec_power2_(half)), vec_power2_(veci_sub(k, half)));
}

#define VEC_LOAD_(i) vpart_load(p + (i)*PART_LANES)
VEC_INLINE vec vec_load_f32(const float *p, int m) {
    float t[VEC_LANES] = {0};
    if (m != VEC_LANES) p = memcpy(t, p, (size_t)m * 4);
    return VEC_OF(vec, VEC_LOAD_);
}
VEC_INLINE void vec_store_f32(float *p, int m, vec a) {
    float t[VEC_LANES], *to = m == VEC_LANES ? p : t;
    for (int i = 0; i < VEC_PARTS; i++) vpart_store(to + i * PART_LANES, a.p[i]);
    if (m != VEC_LANES) memcpy(p, t, (size_t)m * 4);
}
#define VECI_WIDEN_(i) (vpart_i) __builtin_convertvector(*(const vpart_h_at *)(p + (i)*PART_LANES), vpart_u)
VEC_INLINE veci veci_load_u16(const uint16_t *p, int m) {
    uint16_t t[VEC_LANES] = {0};
    if (m != VEC_LANES) p = memcpy(t, p, (size_t)m * 2);
    return VEC_OF(veci, VECI_WIDEN_);
}
VEC_INLINE void veci_store_u16(uint16_t *p, int m, veci a) {
    uint16_t t[VEC_LANES], *to = m == VEC_LANES ? p : t;
    for (int i = 0; i < VEC_PARTS; i++)
        *(vpart_h_at *)(to + i * PART_LANES) = __builtin_convertvector((vpart_u)a.p[i], vpart_h);
    if (m != VEC_LANES) memcpy(p, t, (size_t)m * 2);
}

/* f16 in integers, but for two exact float operations on its denormals; NaN quieted, payload kept. */
VEC_INLINE vec vec_load_f16(const uint16_t *p, int m) {
    veci h = veci_load_u16(p, m), sign = veci_shl(veci_and(h, veci_set(0x8000)), 16);
    veci size = veci_and(h, veci_set(0x7fff)), wide = veci_shl(size, 13);
    veci finite = vec_bits(vec_mul(vec_of_bits(wide), vec_set(0x1p112f)));
    veci quiet = veci_select(veci_gt(size, veci_set(0x7c00)), veci_set(0x00400000), veci_set(0));
    veci other = veci_or(veci_or(wide, veci_set(0x7f800000)), quiet);
    veci r = veci_select(veci_gt(size, veci_set(0x7bff)), other, finite);
    return vec_of_bits(veci_or(r, sign));
}
VEC_INLINE void vec_store_f16(uint16_t *p, int m, vec a) {
    veci u = vec_bits(a), sign = veci_and(veci_shr(u, 16), veci_set(0x8000));
    veci size = veci_and(u, veci_set(0x7fffffff)), upper = veci_shr(size, 13);
    /* rebiased and rounded to even; a carry out of the exponent's range makes infinity */
    veci odd = veci_and(upper, veci_set(1));
    veci normal = veci_shr(veci_add(veci_add(size, odd), veci_set(0xfff - 0x38000000)), 13);
    /* below 2^-14: beside 0.5 a float has the steps of f16's denormals */
    vec beside = vec_add(vec_of_bits(size), vec_set(0.5f));
    veci tiny = veci_sub(vec_bits(beside), vec_bits(vec_set(0.5f)));
    veci nan = veci_or(veci_set(0x7e00), veci_and(upper, veci_set(0x1ff)));
    veci r = veci_select(veci_gt(veci_set(0x38800000), size), tiny, normal);
    r = veci_select(veci_gt(size, veci_set(0x477fffff)), veci_set(0x7c00), r);
    r = veci_select(veci_gt(size, veci_set(0x7f800000)), nan, r);
    veci_store_u16(p, m, veci_or(r, sign));
}

VEC_INLINE float vec_first(vec a) {
    return a.p[0][0];
}
/* Lanes 4i to 4i + 3. */
VEC_INLINE vquad vec_quad_(vec a, int i) {
    vquad r;
    for (int k = 0; k < 4; k++) r[k] = a.p[i * 4 / PART_LANES][i * 4 % PART_LANES + k];
    return r;
}
VEC_INLINE float vec_sum(vec a) {
    vquad s = (vec_quad_(a, 0) + vec_quad_(a, 2)) + (vec_quad_(a, 1) + vec_quad_(a, 3));
    return (s[0] + s[2]) + (s[1] + s[3]);
}
VEC_INLINE vquad vquad_max_(vquad a, vquad b) {
    vquad_i m = a > b;
    return (vquad)((m & (vquad_i)a) | (~m & (vquad_i)b));
}
VEC_INLINE float vec_largest(vec a) {
    vquad s = vquad_max_(vquad_max_(vec_quad_(a, 0), vec_quad_(a, 2)),
                         vquad_max_(vec_quad_(a, 1), vec_quad_(a, 3)));
    float even = s[0] > s[2] ? s[0] : s[2], odd = s[1] > s[3] ? s[1] : s[3];
    return even > odd ? even : odd;
}

#endif
