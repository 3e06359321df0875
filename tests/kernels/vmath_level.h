/* The functions of kernels/cpu/vmath.h as loops over arrays, compiled once per instruction-set level. */
#ifndef TESTS_KERNELS_VMATH_LEVEL_H
#define TESTS_KERNELS_VMATH_LEVEL_H

#include <stdint.h>

enum vmath_function {
    VMATH_EXP,
    VMATH_EXP2,
    VMATH_LOG,
    VMATH_TANH,
    VMATH_SIGMOID,
    VMATH_RSQRT,
    VMATH_GELU,
    VMATH_GELU_GRAD,
    VMATH_BAD_EXP, /* off by 2^-22: the negative control */
    VMATH_FUNCTIONS
};

void vmath_apply_portable(enum vmath_function f, const float *x, float *y, int64_t n);
void vmath_apply_avx2(enum vmath_function f, const float *x, float *y, int64_t n);
void vmath_apply_avx512(enum vmath_function f, const float *x, float *y, int64_t n);
void vmath_to_bf16_portable(const float *x, uint16_t *y, int64_t n);
void vmath_to_bf16_avx2(const float *x, uint16_t *y, int64_t n);
void vmath_to_bf16_avx512(const float *x, uint16_t *y, int64_t n);

#endif
