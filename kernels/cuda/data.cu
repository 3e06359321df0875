/* cast, cast_rows, axpby, scale_copy: every element once, by accesses of 16 bytes. Equal by == to ref. */
#include "kernels/cuda/elements.cuh"

/* --- cast ---------------------------------------------------------------------------------------------------------------- */

#define CAST_LENGTH 8

static __device__ __forceinline__ float quiet(float f) {
    return f != f ? __uint_as_float(__float_as_uint(f) | 0x00400000u) : f;
}

/* f64 rounded to odd, which one more rounding to 8 or 11 bits turns into the nearest (Boldo & Melquiond 2008). */
static __device__ __forceinline__ float f32_odd(double v) {
    const float f = (float)v;
    const double magnitude = fabs(v), rounded = fabs((double)f);
    if (v != v || rounded == magnitude) return f;
    return __uint_as_float((__float_as_uint(f) - (rounded > magnitude)) | 1u);
}

/* Everything but f64 is exact in f32, so one rounding is left: that to the target. */
template <int FROM, int TO>
static __device__ __forceinline__ typename element<TO>::type cast_one(typename element<FROM>::type v) {
    if constexpr (FROM == WEFT_F64) {
        if constexpr (TO == WEFT_F32)
            return (float)v;
        else
            return narrow<TO>(f32_odd(v));
    } else {
        const float f = quiet(widen<FROM>(v));
        if constexpr (TO == WEFT_F64)
            return (double)f;
        else
            return narrow<TO>(f);
    }
}

template <int FROM, int TO>
static __global__ void __launch_bounds__(CUDA_THREADS)
    cast_kernel(size_t n, const typename element<FROM>::type *src, typename element<TO>::type *dst,
                int whole) {
    FOR_VECTORS(i, n, CAST_LENGTH) {
        const int m = vector_left(n, i, CAST_LENGTH);
        typename element<FROM>::type from[CAST_LENGTH];
        typename element<TO>::type to[CAST_LENGTH];
        load_vector(src + i, m, whole, from);
#pragma unroll
        for (int k = 0; k < CAST_LENGTH; k++) to[k] = cast_one<FROM, TO>(from[k]);
        store_vector(dst + i, m, whole, to);
    }
}

template <int FROM, int TO>
static weft_status cast_launch(weft_exec *x, size_t n, const void *src, void *dst) {
    return cuda_launch(x, "cast", cast_kernel<FROM, TO>, cuda_vectors_grid(x, n, CAST_LENGTH),
                       dim3(CUDA_THREADS), 0, n, (const typename element<FROM>::type *)src,
                       (typename element<TO>::type *)dst,
                       cuda_aligned(src, CUDA_VECTOR) && cuda_aligned(dst, CUDA_VECTOR));
}

extern "C" weft_status cuda_cast(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src,
                                 void *dst) {
    WEFT_TRY(weft_check_cast(from, to, n, src, dst));
    if (from == to) return cuda_copy(x, dst, src, n * weft_dtype_size(from));
#define PAIR(a, b)                                                                                           \
    if (from == a && to == b) return cast_launch<a, b>(x, n, src, dst);
    PAIR(WEFT_F32, WEFT_BF16)
    PAIR(WEFT_F32, WEFT_F16)
    PAIR(WEFT_F32, WEFT_F64)
    PAIR(WEFT_BF16, WEFT_F32)
    PAIR(WEFT_BF16, WEFT_F16)
    PAIR(WEFT_BF16, WEFT_F64)
    PAIR(WEFT_F16, WEFT_F32)
    PAIR(WEFT_F16, WEFT_BF16)
    PAIR(WEFT_F16, WEFT_F64)
    PAIR(WEFT_F64, WEFT_F32)
    PAIR(WEFT_F64, WEFT_BF16)
    PAIR(WEFT_F64, WEFT_F16)
#undef PAIR
    return WEFT_ERR_INTERNAL; /* the check knows no other */
}

/* --- cast_rows ------------------------------------------------------------------------------------------------------------ */

struct rows {
    int64_t rows, cols, lds, ldd;
    int add, whole;
};

/* Threads lie along a row, threadIdx.y over rows: no division. A sum is of f32. */
template <int FROM, int TO>
static __global__ void __launch_bounds__(CUDA_THREADS)
    cast_rows_kernel(const struct rows r, const typename element<FROM>::type *src,
                     typename element<TO>::type *dst) {
    const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * CAST_LENGTH;
    const int m = first < r.cols ? vector_left((size_t)r.cols, (size_t)first, CAST_LENGTH) : 0;
    if (m == 0) return; /* no barrier follows */
    for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; row < r.rows;
         row += (int64_t)gridDim.y * blockDim.y) {
        typename element<FROM>::type from[CAST_LENGTH];
        typename element<TO>::type to[CAST_LENGTH], *out = dst + row * r.ldd + first;
        load_vector(src + row * r.lds + first, m, r.whole, from);
#pragma unroll
        for (int k = 0; k < CAST_LENGTH; k++) to[k] = cast_one<FROM, TO>(from[k]);
        if constexpr (TO == WEFT_F32) {
            if (r.add) {
                float old[CAST_LENGTH];
                load_vector(out, m, r.whole, old);
#pragma unroll
                for (int k = 0; k < CAST_LENGTH; k++) to[k] = __fadd_rn(old[k], to[k]);
            }
        }
        store_vector(out, m, r.whole, to);
    }
}

template <int FROM, int TO>
static weft_status cast_rows_launch(weft_exec *x, struct rows r, const void *src, void *dst) {
    const int64_t vectors = divup(r.cols, CAST_LENGTH);
    unsigned wide = 1, most = CUDA_THREADS;
    while (wide < most && wide < vectors) wide *= 2;
    const dim3 block(wide, most / wide);
    const int64_t across = divup(vectors, wide), down = divup(r.rows, block.y);
    const int64_t enough = divup((int64_t)cuda_device(x)->sms * CUDA_WAVES, across);
    const size_t from = weft_dtype_size((weft_dtype)FROM), to = weft_dtype_size((weft_dtype)TO);
    r.whole = cuda_aligned(src, CUDA_VECTOR) && cuda_aligned(dst, CUDA_VECTOR) &&
              (size_t)r.lds * from % CUDA_VECTOR == 0 && (size_t)r.ldd * to % CUDA_VECTOR == 0;
    return cuda_launch(x, "cast_rows", cast_rows_kernel<FROM, TO>,
                       dim3((unsigned)across, (unsigned)(down < enough ? down : enough)), block, 0, r,
                       (const typename element<FROM>::type *)src, (typename element<TO>::type *)dst);
}

extern "C" weft_status cuda_cast_rows(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows,
                                      int64_t cols, const void *src, int64_t lds, void *dst, int64_t ldd,
                                      int add) {
    WEFT_TRY(weft_check_cast_rows(from, to, rows, cols, src, lds, dst, ldd, add));
    if (rows == 0 || cols == 0) return WEFT_OK;
    const struct rows r = {rows, cols, lds, ldd, add, 0};
    if (from == WEFT_F32) {
        if (to == WEFT_F32) return cast_rows_launch<WEFT_F32, WEFT_F32>(x, r, src, dst);
        return cast_rows_launch<WEFT_F32, WEFT_BF16>(x, r, src, dst);
    }
    if (to == WEFT_F32) return cast_rows_launch<WEFT_BF16, WEFT_F32>(x, r, src, dst);
    return cast_rows_launch<WEFT_BF16, WEFT_BF16>(x, r, src, dst);
}

/* --- linear combinations ---------------------------------------------------------------------------------------------------- */

#define LINEAR_LENGTH 4

/* b = 0 does not read y. */
static __global__ void __launch_bounds__(CUDA_THREADS)
    axpby_kernel(size_t n, float a, const float *v, float b, float *y, int whole) {
    FOR_VECTORS(i, n, LINEAR_LENGTH) {
        const int m = vector_left(n, i, LINEAR_LENGTH);
        float in[LINEAR_LENGTH], out[LINEAR_LENGTH] = {0};
        load_vector(v + i, m, whole, in);
        if (b != 0.0f) load_vector(y + i, m, whole, out);
#pragma unroll
        for (int k = 0; k < LINEAR_LENGTH; k++)
            out[k] = __fmaf_rn(a, in[k], b != 0.0f ? __fmul_rn(b, out[k]) : 0.0f);
        store_vector(y + i, m, whole, out);
    }
}

extern "C" weft_status cuda_axpby(weft_exec *x, size_t n, float a, const float *v, float b, float *y) {
    WEFT_TRY(weft_check_given("axpby", n == 0 || (v && y)));
    return cuda_launch(x, "axpby", axpby_kernel, cuda_vectors_grid(x, n, LINEAR_LENGTH), dim3(CUDA_THREADS),
                       0, n, a, v, b, y, cuda_aligned(v, CUDA_VECTOR) && cuda_aligned(y, CUDA_VECTOR));
}

/* Two accesses of 16 bytes at a time, as there is only one input. */
#define SCALE_LENGTH 8

static __global__ void __launch_bounds__(CUDA_THREADS)
    scale_copy_kernel(size_t n, float w, const float *src, float *dst, int whole) {
    FOR_VECTORS(i, n, SCALE_LENGTH) {
        const int m = vector_left(n, i, SCALE_LENGTH);
        float v[SCALE_LENGTH];
        load_vector(src + i, m, whole, v);
#pragma unroll
        for (int k = 0; k < SCALE_LENGTH; k++) v[k] = __fmul_rn(w, v[k]);
        store_vector(dst + i, m, whole, v);
    }
}

extern "C" weft_status cuda_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst) {
    WEFT_TRY(weft_check_given("scale_copy", n == 0 || (dst && (src || w == 0.0f))));
    if (w == 0.0f) return cuda_fill(x, dst, 0, n * sizeof *dst);
    return cuda_launch(x, "scale_copy", scale_copy_kernel, cuda_vectors_grid(x, n, SCALE_LENGTH),
                       dim3(CUDA_THREADS), 0, n, w, src, dst,
                       cuda_aligned(src, CUDA_VECTOR) && cuda_aligned(dst, CUDA_VECTOR));
}
