/* Elements of all dtypes: f16, and loads and stores of a few neighbouring elements by one access where that is possible.
 *
 * Pointers of the table need not be aligned beyond their element. Element-wise kernels therefore work on vectors of N
 * neighbouring elements, of which the last one of a tensor may be short; `whole` says whether all pointers of the call
 * allow accesses of a whole vector (or of 16 bytes of it). What a vector computes does not depend on how it was loaded. */
#ifndef WEFT_KERNELS_CUDA_ELEMENTS_CUH
#define WEFT_KERNELS_CUDA_ELEMENTS_CUH

#include "kernels/cuda/device.cuh"

#define CUDA_VECTOR 16 /* bytes: the widest access of a thread */

/* Threads of a block of the element-wise kernels, and blocks a multiprocessor that fill it. */
#define CUDA_THREADS 256
#define CUDA_WAVES   8

/* --- on the host ------------------------------------------------------------------------------------------------------ */

/* 1 if p may be accessed by words of `bytes`. */
static inline int cuda_aligned(const void *p, size_t bytes) {
    return (uintptr_t)p % bytes == 0;
}
/* The grid of an element-wise kernel over n elements in vectors of `length`. */
static inline dim3 cuda_vectors_grid(const weft_exec *x, size_t n, int length) {
    return dim3(cuda_blocks(x, (int64_t)n, (int64_t)length * CUDA_THREADS, CUDA_WAVES));
}

/* --- dtypes ------------------------------------------------------------------------------------------------------------ */

/* The C type of an element of dtype T; what the element-wise reductions calculate with. */
template <int T> struct element;
#define CUDA_ELEMENT(dtype, c_type, sum_type)                                                                \
    template <> struct element<dtype> {                                                                      \
        typedef c_type type;                                                                                 \
        typedef sum_type sum;                                                                                \
    };
CUDA_ELEMENT(WEFT_F32, float, float)
CUDA_ELEMENT(WEFT_BF16, uint16_t, float)
CUDA_ELEMENT(WEFT_F16, uint16_t, float)
CUDA_ELEMENT(WEFT_F64, double, double)
CUDA_ELEMENT(WEFT_I32, int32_t, int32_t)
CUDA_ELEMENT(WEFT_I64, int64_t, int64_t)
CUDA_ELEMENT(WEFT_U64, uint64_t, uint64_t)
CUDA_ELEMENT(WEFT_U16, uint16_t, uint16_t)
CUDA_ELEMENT(WEFT_U32, uint32_t, uint32_t)
CUDA_ELEMENT(WEFT_U8, uint8_t, uint8_t)
#undef CUDA_ELEMENT

/* f16 by the exponent's bias: 2^112 carries the 5-bit exponent to that of f32, denormals included. */
static __device__ __forceinline__ float f32_of_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, u = (uint32_t)(h & 0x7fffu) << 13;
    const uint32_t special =
        0x7f800000u | u | (u & 0x007fffffu ? 0x00400000u : 0u); /* infinity; NaN, quiet */
    const uint32_t number = __float_as_uint(__fmul_rn(__uint_as_float(u), 0x1p112f));
    return __uint_as_float(sign | (u >= 0x0f800000u ? special : number));
}
/* To nearest even. Below 2^-14 the sum with 1/2, whose last bit is 2^-24, rounds to the multiples of that. */
static __device__ __forceinline__ uint16_t f16_of(float f) {
    const uint32_t u = __float_as_uint(f), a = u & 0x7fffffffu;
    const uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
    const uint32_t tiny = __float_as_uint(__fadd_rn(__uint_as_float(a), 0.5f)) - 0x3f000000u;
    const uint32_t large = a > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (uint16_t)((u >> 16 & 0x8000u) | (a >= 0x47800000u ? large : a >= 0x38800000u ? normal : tiny));
}

/* An element as what it is summed in, and back. */
template <int T>
static __device__ __forceinline__ typename element<T>::sum widen(typename element<T>::type v) {
    if constexpr (T == WEFT_BF16)
        return f32_of(v);
    else if constexpr (T == WEFT_F16)
        return f32_of_f16(v);
    else
        return v;
}
template <int T>
static __device__ __forceinline__ typename element<T>::type narrow(typename element<T>::sum v) {
    if constexpr (T == WEFT_BF16)
        return bf16_of(v);
    else if constexpr (T == WEFT_F16)
        return f16_of(v);
    else
        return v;
}

/* --- vectors ------------------------------------------------------------------------------------------------------------ */

/* The first element of this thread's first vector, and how far it is to its next one. */
static __device__ __forceinline__ size_t vector_first(int length) {
    return ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * (size_t)length;
}
static __device__ __forceinline__ size_t vector_step(int length) {
    return (size_t)gridDim.x * blockDim.x * (size_t)length;
}
/* Vectors of `length` elements of n, shared out to the threads of the grid: i is the first element of one. */
#define FOR_VECTORS(i, n, length) for (size_t i = vector_first(length); i < (n); i += vector_step(length))

/* The elements from i on that a vector has. */
static __device__ __forceinline__ int vector_left(size_t n, size_t i, int length) {
    return n - i < (size_t)length ? (int)(n - i) : length;
}

/* N elements from p on, of which m are there (the rest is 0). whole: p is aligned to the vector, or to 16 bytes of it. */
template <int N, class T>
static __device__ __forceinline__ void load_vector(const T *p, int m, int whole, T (&v)[N]) {
    enum { BYTES = N * sizeof(T), WORD = BYTES < CUDA_VECTOR ? BYTES : CUDA_VECTOR };
    typedef typename cuda_word<WORD>::type word;
    if (whole && m == N) {
        word w[BYTES / WORD];
#pragma unroll
        for (int i = 0; i < BYTES / WORD; i++) w[i] = ((const word *)p)[i];
        memcpy(v, w, BYTES);
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = i < m ? p[i] : (T)0;
}
template <int N, class T>
static __device__ __forceinline__ void store_vector(T *p, int m, int whole, const T (&v)[N]) {
    enum { BYTES = N * sizeof(T), WORD = BYTES < CUDA_VECTOR ? BYTES : CUDA_VECTOR };
    typedef typename cuda_word<WORD>::type word;
    if (whole && m == N) {
        word w[BYTES / WORD];
        memcpy(w, v, BYTES);
#pragma unroll
        for (int i = 0; i < BYTES / WORD; i++) ((word *)p)[i] = w[i];
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < m) p[i] = v[i];
}

#endif
