/* GELU in its tanh form, SiLU, and their derivatives: the one definition of the cuda backend.
 *
 * With z(a) = sqrt(2/pi) (a + 0.044715 a^3) and s = sigmoid(2z): gelu(a) = a s, gelu'(a) = s + 2 a s (1 - s) z', as in
 * ref/activation.c: the sigmoid form does not cancel for large negative a. expf and the division are the accurate ones.
 * z is linear in a times a factor that is bounded at |a| = 100, where s is 0 or 1 already, so nothing overflows that does
 * not in ref; NaN stays NaN. */
#ifndef WEFT_KERNELS_CUDA_GELU_CUH
#define WEFT_KERNELS_CUDA_GELU_CUH

#include "kernels/cuda/device.cuh"

#define GELU_SQRT_2_OVER_PI 0.79788456080286535588f
#define GELU_CUBE           (0.044715f * GELU_SQRT_2_OVER_PI)

static __device__ __forceinline__ float sigmoid_of(float a) {
    return 1.0f / (1.0f + expf(-a));
}
static __device__ __forceinline__ float silu_of(float a) {
    return a / (1.0f + expf(-a));
}
static __device__ __forceinline__ float gelu_square(float a) {
    return fminf(a * a, 1e4f);
}
static __device__ __forceinline__ float gelu_of(float a) {
    return a * sigmoid_of(2.0f * a * fmaf(GELU_CUBE, gelu_square(a), GELU_SQRT_2_OVER_PI));
}
static __device__ __forceinline__ float gelu_slope(float a) {
    const float square = gelu_square(a);
    const float s = sigmoid_of(2.0f * a * fmaf(GELU_CUBE, square, GELU_SQRT_2_OVER_PI));
    const float slope = fmaf(3.0f * GELU_CUBE, square, GELU_SQRT_2_OVER_PI);
    return fmaf(2.0f * a * s * (1.0f - s), slope, s);
}

#endif
