/* GELU in its tanh form, SiLU, and their derivatives: the one definition of the cuda backend.
 *
 * With y(a) = 2 sqrt(2/pi) (a + 0.044715 a^3) and s = sigmoid(y): gelu(a) = a s, gelu'(a) = s + a s (1 - s) y', as in
 * ref/activation.c. The sigmoid form does not cancel for large negative a, and 1 - s is found from the same exponential as
 * s, without subtracting. exp and 1/x are the special function unit's (2 ulp and 1 ulp): an element of a memory-bound kernel
 * has about 27 instructions on an H200, and expf with a true division would take most of them. a^2 is bounded at 100^2, where
 * s is 0 or 1 already, so nothing overflows that does not in ref; NaN stays NaN. */
#ifndef WEFT_KERNELS_CUDA_GELU_CUH
#define WEFT_KERNELS_CUDA_GELU_CUH

#include "kernels/cuda/device.cuh"

#define GELU_LINEAR 1.59576912160573071f /* 2 sqrt(2/pi) */
#define GELU_CUBE   (0.044715f * GELU_LINEAR)
#define LOG2_E      1.44269504088896341f

/* e^a; what is smaller than the smallest normal number becomes 0. */
static __device__ __forceinline__ float exp_of(float a) {
    return fast_exp2(a * LOG2_E);
}
static __device__ __forceinline__ float sigmoid_of(float a) {
    return fast_reciprocal(1.0f + exp_of(-a));
}
/* s = sigmoid(a), rest = 1 - s, both to full relative precision. */
static __device__ __forceinline__ void sigmoid_both(float a, float *s, float *rest) {
    const float q = exp_of(-fabsf(a)), large = fast_reciprocal(1.0f + q), small = q * large;
    *s = a < 0.0f ? small : large;
    *rest = a < 0.0f ? large : small;
}
static __device__ __forceinline__ float silu_of(float a) {
    return a * sigmoid_of(a);
}

static __device__ __forceinline__ float gelu_square(float a) {
    return fminf(a * a, 1e4f);
}
static __device__ __forceinline__ float gelu_of(float a) {
    return a * sigmoid_of(a * fmaf(GELU_CUBE, gelu_square(a), GELU_LINEAR));
}
static __device__ __forceinline__ float gelu_slope(float a) {
    const float square = gelu_square(a);
    float s, rest;
    sigmoid_both(a * fmaf(GELU_CUBE, square, GELU_LINEAR), &s, &rest);
    return fmaf(a * (s * rest), fmaf(3.0f * GELU_CUBE, square, GELU_LINEAR), s);
}

#endif
