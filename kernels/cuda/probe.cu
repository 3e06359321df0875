/* The peak that this device reaches now: independent chains in registers, on every multiprocessor at once.
 *
 * f32: fma. bf16: mma.sync, the tensor cores' instruction of all GPUs from sm_80 on; Hopper's own (wgmma) is faster. Clock
 * and power change from minute to minute, so a percentage is worth something only beside the peak of the same run. */
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/mma.cuh"

extern "C" {
#include "base/clock.h"
}

#define CHAINS     8
#define MMA_FLOPS  (2.0 * 16 * 8 * 16) /* of a warp */
#define WARPS      (CUDA_THREADS / CUDA_WARP)
#define BLOCKS     2 /* a multiprocessor */
#define ROUNDS_MIN 16
#define ROUNDS_MAX (1 << 24)

/* What a thread ends with goes out if it is a number that does not occur: so the work cannot be left out. */
static __device__ __forceinline__ void leave(float sum, uint64_t *results) {
    if (sum == 12345.0f) results[0] = 1;
}

static __global__ void __launch_bounds__(CUDA_THREADS)
    probe_f32_kernel(int rounds, float factor, uint64_t *results) {
    float s[CHAINS], sum = 0;
#pragma unroll
    for (int k = 0; k < CHAINS; k++) s[k] = (float)(k + (int)threadIdx.x);
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++) s[k] = __fmaf_rn(s[k], factor, 1e-3f);
#pragma unroll
    for (int k = 0; k < CHAINS; k++) sum += s[k];
    leave(sum, results);
}

static __global__ void __launch_bounds__(CUDA_THREADS)
    probe_bf16_kernel(int rounds, float factor, uint64_t *results) {
    const uint32_t word = pack2(factor, -factor);
    const uint32_t a[4] = {word, word, word, word}, b[2] = {word, word};
    float s[CHAINS][4], sum = 0;
#pragma unroll
    for (int k = 0; k < CHAINS; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[k][i] = (float)(k + i);
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++) mma_m16n8k16(s[k], a, b);
#pragma unroll
    for (int k = 0; k < CHAINS; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum += s[k][i];
    leave(sum, results);
}

/* Each launch does twice the work of the one before until about half of the time is left; the last one counts, which is long
 * beside what a launch costs and runs at the clock that work gives. */
extern "C" weft_status cuda_probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops) {
    WEFT_TRY(weft_check_probe(t, seconds, flops));
    const unsigned grid = (unsigned)cuda_device(x)->sms * BLOCKS;
    const double each = (t == WEFT_F32 ? 2.0 * CUDA_THREADS : MMA_FLOPS * WARPS) * CHAINS * grid;
    const double begin = weft_now();
    WEFT_TRY(cuda_sync(x));
    for (int rounds = ROUNDS_MIN;; rounds *= 2) {
        const double start = weft_now();
        WEFT_TRY(cuda_launch(x, "probe_fma", t == WEFT_F32 ? probe_f32_kernel : probe_bf16_kernel, dim3(grid),
                             dim3(CUDA_THREADS), 0, rounds, 0.5f, cuda_of(x)->results));
        WEFT_TRY(cuda_sync(x));
        const double now = weft_now();
        *flops = each * rounds / (now - start);
        if (now - begin >= seconds / 2 || rounds >= ROUNDS_MAX) return WEFT_OK;
    }
}
