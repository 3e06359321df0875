/* Stands for CUDA's header where sources are compiled for the emulated device (emulator.h): the part that weft uses. */
#ifndef WEFT_TESTS_CUDA_RUNTIME_H
#define WEFT_TESTS_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#include "tests/cuda/emulator/emulator.h"

/* --- the language -------------------------------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define threadIdx    (emu_self->index)
#define blockIdx     (emu_self->block->index)
#define blockDim     (emu_self->block->size)
#define gridDim      (emu_self->block->grid)
#define warpSize     32
/* the dynamic shared memory: device.cuh declares it so */
#define WEFT_DYNAMIC(name) unsigned char *const name = emu_self->block->shared

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMU_VECTOR(T, name)                                                                                  \
    struct alignas(2 * sizeof(T)) name##2 {                                                                  \
        T x, y;                                                                                              \
    };                                                                                                       \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 {                                        \
        T x, y, z, w;                                                                                        \
    };                                                                                                       \
    static inline name##2 make_##name##2(T x, T y) {                                                         \
        return {x, y};                                                                                       \
    }                                                                                                        \
    static inline name##4 make_##name##4(T x, T y, T z, T w) {                                               \
        return {x, y, z, w};                                                                                 \
    }
EMU_VECTOR(float, float)
EMU_VECTOR(double, double)
EMU_VECTOR(int, int)
EMU_VECTOR(unsigned, uint)
EMU_VECTOR(short, short)
EMU_VECTOR(unsigned short, ushort)
EMU_VECTOR(unsigned char, uchar)
#undef EMU_VECTOR

template <class A, class B> static inline auto min(A a, B b) -> typename std::common_type<A, B>::type {
    return a < b ? a : b;
}
template <class A, class B> static inline auto max(A a, B b) -> typename std::common_type<A, B>::type {
    return a < b ? b : a;
}

/* --- barriers, shuffles, votes ----------------------------------------------------------------------------------------- */

static inline void __syncthreads() {
    emu_barrier_sync(0, 0);
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    (void)emu_exchange(mask, 0, NULL);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

template <class T> static inline T emu_from(uint32_t mask, T v, unsigned lane) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    uint32_t who = 0;
    memcpy(&bits, &v, sizeof v);
    const uint64_t *all = emu_exchange(mask, bits, &who);
    T r;
    if (!(who >> lane & 1)) emu_die("a shuffle reads lane %u, which does not take part", lane);
    memcpy(&r, &all[lane], sizeof r);
    return r;
}
template <class T> static inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32) {
    const unsigned lane = emu_self->lane, base = lane & ~(unsigned)(width - 1);
    return emu_from(mask, v, base + ((unsigned)from & (unsigned)(width - 1)));
}
template <class T> static inline T __shfl_xor_sync(uint32_t mask, T v, int with, int width = 32) {
    const unsigned lane = emu_self->lane, other = lane ^ (unsigned)with,
                   end = (lane | (unsigned)(width - 1)) + 1;
    return emu_from(mask, v, other < end ? other : lane);
}
template <class T> static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32) {
    const unsigned lane = emu_self->lane, other = lane + by, end = (lane | (unsigned)(width - 1)) + 1;
    return emu_from(mask, v, other < end ? other : lane);
}
template <class T> static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32) {
    const unsigned lane = emu_self->lane, base = lane & ~(unsigned)(width - 1);
    return emu_from(mask, v, lane - base >= by ? lane - by : lane);
}
static inline uint32_t __ballot_sync(uint32_t mask, int p) {
    uint32_t who = 0, r = 0;
    const uint64_t *all = emu_exchange(mask, p != 0, &who);
    for (int i = 0; i < 32; i++)
        if (who >> i & 1 && all[i]) r |= 1u << i;
    return r;
}
static inline int __any_sync(uint32_t mask, int p) {
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(uint32_t mask, int p) {
    return __ballot_sync(mask, !p) == 0;
}
static inline uint32_t __activemask() {
    return 0xffffffffu;
}
#define EMU_REDUCE(name, T, expression)                                                                      \
    static inline T name(uint32_t mask, T v) {                                                               \
        uint32_t who = 0;                                                                                    \
        const uint64_t *all = emu_exchange(mask, (uint32_t)v, &who);                                         \
        T r = v;                                                                                             \
        int first = 1;                                                                                       \
        for (int i = 0; i < 32; i++)                                                                         \
            if (who >> i & 1) {                                                                              \
                const T a = (T)(uint32_t)all[i];                                                             \
                r = first ? a : (T)(expression);                                                             \
                first = 0;                                                                                   \
            }                                                                                                \
        return r;                                                                                            \
    }
EMU_REDUCE(__reduce_max_sync, uint32_t, a > r ? a : r)
EMU_REDUCE(__reduce_min_sync, uint32_t, a < r ? a : r)
EMU_REDUCE(__reduce_add_sync, uint32_t, r + a)
EMU_REDUCE(__reduce_or_sync, uint32_t, r | a)
EMU_REDUCE(__reduce_and_sync, uint32_t, r &a)
EMU_REDUCE(__reduce_max_sync, int, a > r ? a : r)
EMU_REDUCE(__reduce_min_sync, int, a < r ? a : r)
EMU_REDUCE(__reduce_add_sync, int, r + a)
#undef EMU_REDUCE

/* --- memory ---------------------------------------------------------------------------------------------------------------- */

template <class T> static inline T __ldg(const T *p) {
    return *p;
}
template <class T> static inline T __ldcs(const T *p) {
    return *p;
}
template <class T> static inline T __ldcg(const T *p) {
    return *p;
}
template <class T> static inline void __stcs(T *p, T v) {
    *p = v;
}
template <class T> static inline void __stcg(T *p, T v) {
    *p = v;
}
#define EMU_ATOMIC(name, expression)                                                                         \
    template <class T> static inline T name(T *p, T v) {                                                     \
        static_assert((T)0.5 == 0,                                                                           \
                      "no atomics on floating-point numbers: sums would change from run to run");            \
        const T old = *p;                                                                                    \
        *p = (T)(expression);                                                                                \
        return old;                                                                                          \
    }
EMU_ATOMIC(atomicAdd, old + v)
EMU_ATOMIC(atomicSub, old - v)
EMU_ATOMIC(atomicMax, old > v ? old : v)
EMU_ATOMIC(atomicMin, old < v ? old : v)
EMU_ATOMIC(atomicOr, old | v)
EMU_ATOMIC(atomicAnd, old &v)
EMU_ATOMIC(atomicXor, old ^ v)
EMU_ATOMIC(atomicExch, v)
#undef EMU_ATOMIC
template <class T> static inline T atomicCAS(T *p, T expected, T v) {
    const T old = *p;
    if (old == expected) *p = v;
    return old;
}

/* --- arithmetic -------------------------------------------------------------------------------------------------------------- */

template <class To, class From> static inline To emu_bits(From v) {
    To r;
    static_assert(sizeof r == sizeof v, "bits");
    memcpy(&r, &v, sizeof r);
    return r;
}
static inline uint32_t __float_as_uint(float v) {
    return emu_bits<uint32_t>(v);
}
static inline int __float_as_int(float v) {
    return emu_bits<int>(v);
}
static inline float __uint_as_float(uint32_t v) {
    return emu_bits<float>(v);
}
static inline float __int_as_float(int v) {
    return emu_bits<float>(v);
}
static inline long long __double_as_longlong(double v) {
    return emu_bits<long long>(v);
}
static inline double __longlong_as_double(long long v) {
    return emu_bits<double>(v);
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dsub_rn(double a, double b) {
    return a - b;
}
static inline double __ddiv_rn(double a, double b) {
    return a / b;
}
static inline double __dsqrt_rn(double a) {
    return sqrt(a);
}
static inline double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}
#define __expf(v) expf(v) /* the C library has functions of these names, which it does not show */
#define __logf(v) logf(v)
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float rsqrtf(float v) {
    return (float)(1.0 / sqrt((double)v));
}
static inline double rsqrt(double v) {
    return 1.0 / sqrt(v);
}
static inline float __saturatef(float v) {
    return v < 0 ? 0 : v > 1 ? 1 : v;
}
static inline int __float2int_rn(float v) {
    return (int)rintf(v);
}
static inline float __int2float_rn(int v) {
    return (float)v;
}
static inline float __double2float_rn(double v) {
    return (float)v;
}
static inline int __popc(unsigned v) {
    return __builtin_popcount(v);
}
static inline int __popcll(unsigned long long v) {
    return __builtin_popcountll(v);
}
static inline int __ffs(int v) {
    return __builtin_ffs(v);
}
static inline int __clz(int v) {
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline long long clock64() {
    return 0;
}

/* --- the runtime --------------------------------------------------------------------------------------------------------------- */

extern "C" {
typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
} cudaError_t;
typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaMemoryType {
    cudaMemoryTypeUnregistered,
    cudaMemoryTypeHost,
    cudaMemoryTypeDevice,
    cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
    enum cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};
typedef struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount, l2CacheSize;
} cudaDeviceProp;
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
};
#define cudaStreamNonBlocking    1u
#define cudaEventDefault         0u
#define cudaEventDisableTiming   2u
#define cudaHostAllocDefault     0u
#define cudaHostAllocPortable    1u
#define cudaHostAllocMapped      2u
#define cudaHostRegisterDefault  0u
#define cudaHostRegisterPortable 1u
#define cudaHostRegisterMapped   2u

EMU_API cudaError_t cudaGetDeviceCount(int *n);
EMU_API cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
EMU_API cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int device);
EMU_API cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int device);
EMU_API cudaError_t cudaSetDevice(int device);
EMU_API cudaError_t cudaGetDevice(int *device);
EMU_API cudaError_t cudaDeviceSynchronize(void);
EMU_API cudaError_t cudaDriverGetVersion(int *v);
EMU_API cudaError_t cudaRuntimeGetVersion(int *v);
EMU_API cudaError_t cudaGetLastError(void);
EMU_API cudaError_t cudaPeekAtLastError(void);
EMU_API const char *cudaGetErrorString(cudaError_t e);
EMU_API const char *cudaGetErrorName(cudaError_t e);
EMU_API cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
EMU_API cudaError_t cudaMalloc(void **p, size_t bytes);
EMU_API cudaError_t cudaFree(void *p);
EMU_API cudaError_t cudaMallocHost(void **p, size_t bytes);
EMU_API cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
EMU_API cudaError_t cudaFreeHost(void *p);
EMU_API cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags);
EMU_API cudaError_t cudaHostUnregister(void *p);
EMU_API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p);
EMU_API cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind);
EMU_API cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                                    cudaStream_t s);
EMU_API cudaError_t cudaMemset(void *p, int byte, size_t bytes);
EMU_API cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s);
EMU_API cudaError_t cudaStreamCreate(cudaStream_t *s);
EMU_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
EMU_API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
EMU_API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
EMU_API cudaError_t cudaStreamDestroy(cudaStream_t s);
EMU_API cudaError_t cudaStreamSynchronize(cudaStream_t s);
EMU_API cudaError_t cudaStreamQuery(cudaStream_t s);
EMU_API cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
EMU_API cudaError_t cudaEventCreate(cudaEvent_t *e);
EMU_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
EMU_API cudaError_t cudaEventDestroy(cudaEvent_t e);
EMU_API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
EMU_API cudaError_t cudaEventQuery(cudaEvent_t e);
EMU_API cudaError_t cudaEventSynchronize(cudaEvent_t e);
EMU_API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b);
EMU_API cudaError_t cudaLaunchHostFunc(cudaStream_t s, void (*f)(void *), void *arg);
}

/* Appends work that touches device memory to the stream (host.cpp). */
EMU_API void emu_enqueue(cudaStream_t s, std::function<void()> work);
/* Work that others have to do their part of: step is called whenever somebody asks for the stream, or waits for it, until it
 * gives true. */
EMU_API void emu_enqueue_steps(cudaStream_t s, std::function<bool()> step);

#endif
