#include "vmath_level.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vmath.h"

VEC_INLINE vec apply(enum vmath_function f, vec x) {
    switch (f) {
    case VMATH_EXP: return vec_exp(x);
    case VMATH_EXP2: return vec_exp2(x);
    case VMATH_LOG: return vec_log(x);
    case VMATH_TANH: return vec_tanh(x);
    case VMATH_SIGMOID: return vec_sigmoid(x);
    case VMATH_RSQRT: return vec_rsqrt(x);
    case VMATH_GELU: return vec_gelu(x);
    case VMATH_GELU_GRAD: return vec_gelu_grad(x);
    default: return vec_fma(vec_exp(x), vec_set(0x1p-22f), vec_exp(x));
    }
}

void CPU_NAME(vmath_apply)(enum vmath_function f, const float *x, float *y, int64_t n) {
    VEC_FOR(i, m, 0, n, { vec_store_f32(y + i, m, apply(f, vec_load_f32(x + i, m))); });
}

void CPU_NAME(vmath_to_bf16)(const float *x, uint16_t *y, int64_t n) {
    VEC_FOR(i, m, 0, n, { vec_store_bf16(y + i, m, vec_load_f32(x + i, m)); });
}
