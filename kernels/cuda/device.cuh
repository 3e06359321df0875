/* What the sources of the cuda backend share: the exec, launches, bf16, vectors, and fixed-order sums of a block.
 *
 * The sources are compiled twice: by nvcc for GPUs, and by a C++ compiler against tests/cuda/emulator, a functional model of
 * the device (WEFT_EMULATED), so that every kernel runs in the tests of machines without a GPU. Therefore launches go
 * through cuda_launch instead of <<< >>>, and inline assembly stands only in this header, mma.cuh and hopper.cuh, each piece
 * with its model beside it.
 *
 * Rules of the kernels: no atomics on floats (same bits each run), no thread leaves before a barrier that others reach, sums
 * in an order that the descriptor fixes. -fmad=false: a product and a sum are one rounding only where fmaf says so. */
#ifndef WEFT_KERNELS_CUDA_DEVICE_CUH
#define WEFT_KERNELS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/cuda/ops.h"
}

#define CUDA_WARP    32
#define CUDA_RESULTS 8192

typedef struct cuda_backend {
    weft_backend base;
    weft_backend_desc desc;
    int sms;            /* multiprocessors */
    int major, minor;   /* compute capability */
    size_t shared_most; /* bytes of shared memory that a block may ask for */
    int gemm;           /* what WEFT_GEMM asks for (gemm.cuh) */
    struct cuda_lt *lt; /* cuBLASLt; NULL: none */
    char lt_state[128]; /* its version, or why there is none */
} cuda_backend;

typedef struct cuda_exec {
    weft_exec base;
    cudaStream_t stream;
    int32_t *
        fault; /* a word in pinned memory of the host, seen by both: 0, or the weft_status that a kernel found */
    uint64_t *
        results; /* CUDA_RESULTS words in pinned memory of the host, for what the blocks of a kernel find: one a block */
    weft_status failed;
    void (*tick)(void *arg); /* what the host has to do while it waits; NULL: nothing */
    void *tick_arg;
    struct lt_plans *lt; /* products that cuBLASLt has planned; NULL: none */
} cuda_exec;

static inline cuda_exec *cuda_of(weft_exec *x) {
    return (cuda_exec *)x;
}
static inline const cuda_backend *cuda_device(const weft_exec *x) {
    return (const cuda_backend *)x->backend;
}

/* DEVICE with the call's name, or NOMEM; OK. */
weft_status cuda_failed(cudaError_t e, const char *call);
#define CUDA_TRY(call)                                                                                       \
    do {                                                                                                     \
        cudaError_t cuda_try_ = (call);                                                                      \
        if (cuda_try_ != cudaSuccess) return cuda_failed(cuda_try_, #call);                                  \
    } while (0)

/* Copies `bytes` of device memory to the host, and waits: for ops with a host result. */
weft_status cuda_result(weft_exec *x, void *host, const void *device, size_t bytes);
/* What products keep in a backend and in an exec (gemm.cu). */
weft_status gemm_open(cuda_backend *b);
void gemm_close(cuda_backend *b);
weft_status gemm_exec_open(cuda_exec *x);
void gemm_exec_close(cuda_exec *x);

/* NOMEM if the exec has less scratch. */
weft_status cuda_need_scratch(const weft_exec *x, const char *op, size_t bytes);

/* --- launches ------------------------------------------------------------------------------------------------------ */

template <class T> struct cuda_same { typedef T type; };

weft_status cuda_launch_bytes(weft_exec *x, const char *name, const void *kernel, dim3 grid, dim3 block,
                              dim3 cluster, size_t shared, void **args);

#ifdef WEFT_EMULATED
#include <cuda_launch.h>
#else
/* Launches kernel<grid, block> with `shared` bytes of dynamic shared memory (any size that the device has) on the stream of
 * x, in clusters of `cluster` blocks (1: none). A grid with a 0 does nothing. Arguments are converted to the kernel's. */
template <class... P>
weft_status cuda_launch_cluster(weft_exec *x, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                dim3 cluster, size_t shared, typename cuda_same<P>::type... args) {
    void *list[] = {(void *)&args..., NULL};
    return cuda_launch_bytes(x, name, (const void *)kernel, grid, block, cluster, shared, list);
}
#endif
template <class... P>
weft_status cuda_launch(weft_exec *x, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                        size_t shared, typename cuda_same<P>::type... args) {
    return cuda_launch_cluster(x, name, kernel, grid, block, dim3(1, 1, 1), shared, args...);
}

static inline int64_t divup(int64_t n, int64_t d) {
    return (n + d - 1) / d;
}
/* Blocks for n items of `each` a block: enough to fill the device `waves` times, no more than there is work. */
static inline unsigned cuda_blocks(const weft_exec *x, int64_t n, int64_t each, int waves) {
    const int64_t need = divup(n, each), most = (int64_t)cuda_device(x)->sms * waves;
    return (unsigned)(need < most ? need : most);
}

/* --- in kernels ----------------------------------------------------------------------------------------------------- */

/* An array in static shared memory (not in clusters: the emulator has one for all blocks that run at a time). */
#define WEFT_SHARED(type, name, n) __shared__ type name[n]

/* The dynamic shared memory, 1024-byte aligned where the kernel's own static arrays leave it so (use none then). */
#ifndef WEFT_EMULATED
#define WEFT_DYNAMIC(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

static __device__ __forceinline__ int lane_id() {
    return (int)(threadIdx.x & (CUDA_WARP - 1));
}
static __device__ __forceinline__ int warp_id() {
    return (int)(threadIdx.x / CUDA_WARP);
}

/* Remembers that the data were wrong; sync() gives s. */
static __device__ __forceinline__ void raise_fault(int32_t *fault, int s) {
    *(volatile int32_t *)fault = s;
}

/* bf16, bit for bit base/bf16.h. */
static __device__ __forceinline__ float f32_of(uint16_t h) {
    return __uint_as_float((uint32_t)h << 16);
}
static __device__ __forceinline__ uint16_t bf16_of(float f) {
    const uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
/* Two at once, the first in the low half; a NaN becomes 0x7fff. One instruction. */
static __device__ __forceinline__ uint32_t pack2(float low, float high) {
#ifdef WEFT_EMULATED
    const uint32_t a = low != low ? 0x7fffu : bf16_of(low), b = high != high ? 0x7fffu : bf16_of(high);
    return a | b << 16;
#else
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#endif
}
static __device__ __forceinline__ float2 unpack2(uint32_t u) {
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}

/* 2^x (2 ulp) and 1/x (1 ulp) by one instruction of the special function unit; denormals, also of the argument, are 0. */
static __device__ __forceinline__ float fast_exp2(float x) {
#ifdef WEFT_EMULATED
    const float r = exp2f(x);
    return r < FLT_MIN ? 0.0f : r;
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}
static __device__ __forceinline__ float fast_reciprocal(float x) {
#ifdef WEFT_EMULATED
    const float r = 1.0f / (fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x);
    return fabsf(r) < FLT_MIN ? copysignf(0.0f, r) : r;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

/* An element of the model's dtype as float. */
static __device__ __forceinline__ float load1(const float *p) {
    return *p;
}
static __device__ __forceinline__ float load1(const uint16_t *p) {
    return f32_of(*p);
}
static __device__ __forceinline__ void store1(float *p, float v) {
    *p = v;
}
static __device__ __forceinline__ void store1(uint16_t *p, float v) {
    *p = bf16_of(v);
}

/* N neighbouring elements as floats by one access of N * sizeof(T) = 4, 8 or 16 bytes, to which p must be aligned. */
template <int BYTES> struct cuda_word;
template <> struct cuda_word<4> { typedef uint32_t type; };
template <> struct cuda_word<8> { typedef uint2 type; };
template <> struct cuda_word<16> { typedef uint4 type; };

template <int N> static __device__ __forceinline__ void load_n(const float *p, float (&v)[N]) {
    typename cuda_word<N * 4>::type w = *(const typename cuda_word<N * 4>::type *)p;
    memcpy(v, &w, sizeof w);
}
template <int N> static __device__ __forceinline__ void load_n(const uint16_t *p, float (&v)[N]) {
    typename cuda_word<N * 2>::type w = *(const typename cuda_word<N * 2>::type *)p;
    uint32_t half[N / 2];
    memcpy(half, &w, sizeof w);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const float2 f = unpack2(half[i]);
        v[2 * i] = f.x;
        v[2 * i + 1] = f.y;
    }
}
template <int N> static __device__ __forceinline__ void store_n(float *p, const float (&v)[N]) {
    typename cuda_word<N * 4>::type w;
    memcpy(&w, v, sizeof w);
    *(typename cuda_word<N * 4>::type *)p = w;
}
template <int N> static __device__ __forceinline__ void store_n(uint16_t *p, const float (&v)[N]) {
    typename cuda_word<N * 2>::type w;
    uint32_t half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        half[i] = (uint32_t)bf16_of(v[2 * i]) | (uint32_t)bf16_of(v[2 * i + 1]) << 16;
    memcpy(&w, half, sizeof w);
    *(typename cuda_word<N * 2>::type *)p = w;
}

/* Of all lanes of the warp, by a butterfly: all get the same bits. */
static __device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = CUDA_WARP / 2; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
static __device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int d = CUDA_WARP / 2; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
/* Of all threads of a block of whole warps; `part` is shared memory for 32 floats. All threads call it; it begins and ends
 * with a barrier, so `part` may be used again at once. */
static __device__ __forceinline__ float block_sum(float v, float *part) {
    const int warps = (int)(blockDim.x / CUDA_WARP);
    v = warp_sum(v);
    __syncthreads();
    if (lane_id() == 0) part[warp_id()] = v;
    __syncthreads();
    v = lane_id() < warps ? part[lane_id()] : 0.0f;
    v = warp_sum(v);
    __syncthreads();
    return v;
}
static __device__ __forceinline__ float block_max(float v, float *part) {
    const int warps = (int)(blockDim.x / CUDA_WARP);
    v = warp_max(v);
    __syncthreads();
    if (lane_id() == 0) part[warp_id()] = v;
    __syncthreads();
    v = lane_id() < warps ? part[lane_id()] : part[0];
    v = warp_max(v);
    __syncthreads();
    return v;
}

#endif
