/* What kernels over rows share: V neighbouring elements of T = float or uint16_t (bf16) by one access, where V is 16 bytes'
 * worth if the length of the rows allows it, else 1; groups of threads that have a row each; sums over a row. Rows that could
 * be read by 16 bytes but for their address are of loose<T>: element by element, by the same threads in the same order, so
 * that the bits of sums do not depend on addresses. Kernels without sums need no such instance.
 *
 * A kernel over rows is launched with blockDim.x threads for a row, a multiple of a warp, and blockDim.y rows a block, of
 * which there is more than one only if blockDim.x is a warp: then a row's sums need no barrier, else all threads of the
 * block have the same row and reach the same barriers. */
#ifndef WEFT_KERNELS_CUDA_ROWS_CUH
#define WEFT_KERNELS_CUDA_ROWS_CUH

#include "kernels/cuda/device.cuh"

/* --- on the host ------------------------------------------------------------------------------------------------------ */

static inline int rows_aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}
/* Elements of t that an access of 16 bytes holds. */
static inline int rows_vector(weft_dtype t) {
    return t == WEFT_F32 ? 4 : 8;
}
/* Picks the instance of kernel<T, V>: whole: 16 bytes an access. */
#define ROWS_KERNEL(kernel, t, whole)                                                                        \
    ((t) == WEFT_F32 ? ((whole) ? kernel<float, 4> : kernel<float, 1>)                                       \
                     : ((whole) ? kernel<uint16_t, 8> : kernel<uint16_t, 1>))
/* The same for kernels with sums: whole: as far as lengths go; aligned: the addresses. */
#define ROWS_SUM_KERNEL(kernel, t, whole, aligned)                                                           \
    (!(whole) || (aligned) ? ROWS_KERNEL(kernel, t, whole)                                                   \
     : (t) == WEFT_F32     ? kernel<loose<float>, 4>                                                         \
                           : kernel<loose<uint16_t>, 8>)

/* Threads for n things, whole warps, at most `most`. */
static inline unsigned rows_threads(int64_t n, int most) {
    return n >= most ? (unsigned)most : n <= 0 ? CUDA_WARP : (unsigned)(divup(n, CUDA_WARP) * CUDA_WARP);
}
/* A block of about `threads`, `along` of them on each of its rows. */
static inline dim3 rows_block(int64_t along, int threads) {
    const unsigned x = rows_threads(along, threads);
    return dim3(x, x == CUDA_WARP ? (unsigned)threads / CUDA_WARP : 1);
}
/* Blocks for n items, `each` a block: as many as a grid can have at most, so kernels go on with a stride of the grid. */
static inline unsigned rows_grid(int64_t n, int64_t each) {
    const int64_t blocks = divup(n, each);
    return (unsigned)(blocks < INT32_MAX ? blocks : INT32_MAX);
}

/* --- in kernels ------------------------------------------------------------------------------------------------------- */

/* The row of this thread, and the step to its next one. */
static __device__ __forceinline__ int64_t rows_first() {
    return (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
}
static __device__ __forceinline__ int64_t rows_step() {
    return (int64_t)gridDim.x * blockDim.y;
}

template <class T> struct loose { T element; };

/* V elements as they lie in memory, and as floats. */
template <class T, int V> struct raw_of {
    typedef uint4 type;
    static __device__ __forceinline__ type load(const T *p) { return *(const uint4 *)p; }
};
template <> struct raw_of<float, 1> {
    typedef float type;
    static __device__ __forceinline__ type load(const float *p) { return *p; }
};
template <> struct raw_of<uint16_t, 1> {
    typedef uint16_t type;
    static __device__ __forceinline__ type load(const uint16_t *p) { return *p; }
};
template <int V> struct raw_of<loose<float>, V> {
    typedef uint4 type;
    static __device__ __forceinline__ type load(const loose<float> *p) {
        return make_uint4(__float_as_uint(p[0].element), __float_as_uint(p[1].element),
                          __float_as_uint(p[2].element), __float_as_uint(p[3].element));
    }
};
template <int V> struct raw_of<loose<uint16_t>, V> {
    typedef uint4 type;
    static __device__ __forceinline__ uint32_t pair(const loose<uint16_t> *p) {
        return (uint32_t)p[0].element | (uint32_t)p[1].element << 16;
    }
    static __device__ __forceinline__ type load(const loose<uint16_t> *p) {
        return make_uint4(pair(p), pair(p + 2), pair(p + 4), pair(p + 6));
    }
};
template <class T, int V> static __device__ __forceinline__ typename raw_of<T, V>::type raw_load(const T *p) {
    return raw_of<T, V>::load(p);
}
static __device__ __forceinline__ void raw_floats(uint4 w, float (&v)[4]) {
    memcpy(v, &w, sizeof w);
}
static __device__ __forceinline__ void raw_floats(uint4 w, float (&v)[8]) {
    uint32_t half[4];
    memcpy(half, &w, sizeof w);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = unpack2(half[i]);
        v[2 * i] = f.x;
        v[2 * i + 1] = f.y;
    }
}
static __device__ __forceinline__ void raw_floats(float w, float (&v)[1]) {
    v[0] = w;
}
static __device__ __forceinline__ void raw_floats(uint16_t w, float (&v)[1]) {
    v[0] = f32_of(w);
}

/* V floats to and from memory. Stores to bf16 round two at a time by one instruction; a NaN becomes 0x7fff there. */
static __device__ __forceinline__ void floats_load(const float *p, float (&v)[4]) {
    raw_floats(*(const uint4 *)p, v);
}
static __device__ __forceinline__ void floats_load(const uint16_t *p, float (&v)[8]) {
    raw_floats(*(const uint4 *)p, v);
}
static __device__ __forceinline__ void floats_load(const float *p, float (&v)[8]) {
    float4 w[2] = {((const float4 *)p)[0], ((const float4 *)p)[1]};
    memcpy(v, w, sizeof w);
}
static __device__ __forceinline__ void floats_load(const float *p, float (&v)[1]) {
    v[0] = *p;
}
static __device__ __forceinline__ void floats_load(const uint16_t *p, float (&v)[1]) {
    v[0] = f32_of(*p);
}
template <class T, int V>
static __device__ __forceinline__ void floats_load(const loose<T> *p, float (&v)[V]) {
    raw_floats(raw_load<loose<T>, V>(p), v);
}
template <class T> static __device__ __forceinline__ float load1(const loose<T> *p) {
    return load1(&p->element);
}
static __device__ __forceinline__ void floats_store(float *p, const float (&v)[4]) {
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
}
static __device__ __forceinline__ void floats_store(float *p, const float (&v)[8]) {
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void floats_store(uint16_t *p, const float (&v)[8]) {
    *(uint4 *)p = make_uint4(pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
}
static __device__ __forceinline__ void floats_store(float *p, const float (&v)[1]) {
    *p = v[0];
}
static __device__ __forceinline__ void floats_store(uint16_t *p, const float (&v)[1]) {
    *p = bf16_of(v[0]);
}

template <class T, int V>
static __device__ __forceinline__ void floats_store(loose<T> *p, const float (&v)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) store1(&p[i].element, v[i]);
}

/* V floats in pairs, so that the additions of a vector do not wait for each other. */
template <int V> static __device__ __forceinline__ float vector_sum(const float (&v)[V]) {
    float s[V];
#pragma unroll
    for (int i = 0; i < V; i++) s[i] = v[i];
#pragma unroll
    for (int n = V / 2; n; n /= 2)
#pragma unroll
        for (int i = 0; i < n; i++) s[i] += s[i + n];
    return s[0];
}

/* Shared memory of row_sum: two sets, so that one barrier a sum is enough: who writes a set again has passed the barrier
 * of the other one, which nobody reaches before he has read this. */
#define ROW_SUMS 2
struct row_sums {
    float part[2][ROW_SUMS][CUDA_WARP];
};

/* The sums of N values over the threads of a row; all get the same bits. turn: 0 at first, the thread's own. */
template <int N> static __device__ __forceinline__ void row_sum(float (&v)[N], row_sums *s, int *turn) {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = warp_sum(v[i]);
    if (blockDim.x == CUDA_WARP) return;
    float(*part)[CUDA_WARP] = s->part[*turn];
    const int lane = lane_id();
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane == 0) part[i][warp_id()] = v[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = warp_sum(lane < (int)(blockDim.x / CUDA_WARP) ? part[i][lane] : 0.0f);
    *turn ^= 1;
}

#endif
