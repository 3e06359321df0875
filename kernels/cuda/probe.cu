/* The peak that this device reaches now: independent chains in registers, on every multiprocessor at once.
 *
 * f32: fma. bf16: wgmma on sm_90, whose mma.sync is slower; mma.sync elsewhere. Clock
 * and power change from minute to minute, so a percentage is worth something only beside the peak of the same run. */
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/mma.cuh"

extern "C" {
#include "base/clock.h"
}

#define CHAINS    8
#define MMA_FLOPS (2.0 * 16 * 8 * 16) /* of a warp */
#define WARPS     (CUDA_THREADS / CUDA_WARP)
#define BLOCKS    2 /* a multiprocessor */
/* wgmma: two warpgroups a multiprocessor, 64 rows each, of 64 of k a round, by the same 256 columns */
#define GROUPS      2
#define GROUP       128
#define A_BYTES     8192
#define B_BYTES     32768
#define WGMMA_BYTES (GROUPS * A_BYTES + B_BYTES)
#define WGMMA_FLOPS (2.0 * 64 * 256 * 64) /* of a warpgroup, a round */
#define ROUNDS_MIN  16
#define ROUNDS_MAX  (1 << 24)

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

static __global__ void __launch_bounds__(GROUPS *GROUP, 1) probe_wgmma_kernel(int rounds, uint64_t *results) {
#ifdef HOPPER_HERE
    WEFT_DYNAMIC(shared);
    for (uint32_t i = threadIdx.x; i < WGMMA_BYTES / 16; i += GROUPS * GROUP) { /* no two alike, none large */
        const uint32_t w = pack2((float)(i * 37 % 101) - 50.0f, (float)(i * 53 % 97) - 48.0f);
        shared_store(shared + 16 * i, make_uint4(w, w ^ 0x00150003u, w ^ 0x00030025u, w ^ 0x00210011u));
    }
    fence_async();
    __syncthreads();
    const uint64_t a = wgmma_k_major(shared + threadIdx.x / GROUP * A_BYTES),
                   b = wgmma_k_major(shared + GROUPS * A_BYTES);
    float d[128], sum = 0;
#pragma unroll
    for (int i = 0; i < 128; i++) d[i] = 0;
    for (int r = 0; r < rounds; r++) {
        wgmma_fence();
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            wgmma<256, 0, 0>(d, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(d);
    }
#pragma unroll
    for (int i = 0; i < 128; i++) sum += d[i];
    leave(sum, results);
#endif
}

static weft_status launch(weft_exec *x, weft_dtype t, int hopper, unsigned grid, int rounds) {
    uint64_t *results = cuda_of(x)->results;
    if (hopper)
        return cuda_launch(x, "probe_fma", probe_wgmma_kernel, dim3(grid), dim3(GROUPS * GROUP), WGMMA_BYTES,
                           rounds, results);
    return cuda_launch(x, "probe_fma", t == WEFT_F32 ? probe_f32_kernel : probe_bf16_kernel, dim3(grid),
                       dim3(CUDA_THREADS), 0, rounds, 0.5f, results);
}

/* Each launch does twice the work of the one before until about half of the time is left; the last one counts, which is long
 * beside what a launch costs and runs at the clock that work gives. */
extern "C" weft_status cuda_probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops) {
    WEFT_TRY(weft_check_probe(t, seconds, flops));
    const int hopper = t == WEFT_BF16 && hopper_runs_on(cuda_device(x)->major, cuda_device(x)->minor);
    const unsigned grid = (unsigned)cuda_device(x)->sms * (hopper ? 1 : BLOCKS);
    const double each = hopper ? WGMMA_FLOPS * GROUPS * grid
                               : (t == WEFT_F32 ? 2.0 * CUDA_THREADS : MMA_FLOPS * WARPS) * CHAINS * grid;
    const double begin = weft_now();
    WEFT_TRY(cuda_sync(x));
    for (int rounds = ROUNDS_MIN;; rounds *= 2) {
        const double start = weft_now();
        WEFT_TRY(launch(x, t, hopper, grid, rounds));
        WEFT_TRY(cuda_sync(x));
        const double now = weft_now();
        *flops = each * rounds / (now - start);
        if (now - begin >= seconds / 2 || rounds >= ROUNDS_MAX) return WEFT_OK;
    }
}
