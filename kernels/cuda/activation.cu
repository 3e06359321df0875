/* GELU and SwiGLU, forward and backward (formulas: gelu.cuh).
 *
 * Every element is read once and written once. Bytes an output in bf16 (f32: twice that): GELU 4 and 6, SwiGLU 6 and 10; the
 * floor of 2^26 outputs on an H200, at 4.3 TB/s: 62, 94, 94 and 156 us. A thread has all its 16-byte loads under way before
 * it computes: two vectors of each input. */
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/rows.cuh"

#define ACT_THREADS 256
#define ACT_AHEAD   2 /* vectors of each input that a thread has under way */

/* --- GELU: n elements; what is left beyond whole vectors is the first block's --- */

template <class T, int V>
static __global__ void __launch_bounds__(ACT_THREADS) gelu_fwd_kernel(size_t n, const void *in, void *out) {
    const T *a = (const T *)in;
    T *to = (T *)out;
    const size_t vectors = n / V, tile = ACT_THREADS * ACT_AHEAD;
    for (size_t first = blockIdx.x * tile + threadIdx.x; first < vectors; first += gridDim.x * tile) {
        typename raw_of<T, V>::type w[ACT_AHEAD];
#pragma unroll
        for (int k = 0; k < ACT_AHEAD; k++)
            if (first + k * ACT_THREADS < vectors) w[k] = raw_load<T, V>(a + (first + k * ACT_THREADS) * V);
#pragma unroll
        for (int k = 0; k < ACT_AHEAD; k++) {
            float v[V];
            if (first + k * ACT_THREADS >= vectors) break;
            raw_floats(w[k], v);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = gelu_of(v[i]);
            floats_store(to + (first + k * ACT_THREADS) * V, v);
        }
    }
    if (blockIdx.x == 0 && threadIdx.x < n % V) {
        const size_t i = vectors * V + threadIdx.x;
        store1(to + i, gelu_of(load1(a + i)));
    }
}

template <class T, int V>
static __global__ void __launch_bounds__(ACT_THREADS)
    gelu_bwd_kernel(size_t n, const void *dout, const void *in, void *din) {
    const T *a = (const T *)in, *dy = (const T *)dout;
    T *to = (T *)din;
    const size_t vectors = n / V, tile = ACT_THREADS * ACT_AHEAD;
    for (size_t first = blockIdx.x * tile + threadIdx.x; first < vectors; first += gridDim.x * tile) {
        typename raw_of<T, V>::type w[ACT_AHEAD], dw[ACT_AHEAD];
#pragma unroll
        for (int k = 0; k < ACT_AHEAD; k++)
            if (first + k * ACT_THREADS < vectors) {
                w[k] = raw_load<T, V>(a + (first + k * ACT_THREADS) * V);
                dw[k] = raw_load<T, V>(dy + (first + k * ACT_THREADS) * V);
            }
#pragma unroll
        for (int k = 0; k < ACT_AHEAD; k++) {
            float v[V], d[V];
            if (first + k * ACT_THREADS >= vectors) break;
            raw_floats(w[k], v);
            raw_floats(dw[k], d);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = d[i] * gelu_slope(v[i]);
            floats_store(to + (first + k * ACT_THREADS) * V, v);
        }
    }
    if (blockIdx.x == 0 && threadIdx.x < n % V) {
        const size_t i = vectors * V + threadIdx.x;
        store1(to + i, load1(dy + i) * gelu_slope(load1(a + i)));
    }
}

static dim3 gelu_grid(size_t n, int whole, weft_dtype t) {
    return dim3(rows_grid((int64_t)n, (int64_t)ACT_THREADS * ACT_AHEAD * (whole ? rows_vector(t) : 1)));
}

extern "C" weft_status cuda_gelu_fwd(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out) {
    WEFT_TRY(weft_check_model_dtype("gelu_fwd", t));
    WEFT_TRY(weft_check_given("gelu_fwd", n == 0 || (a && out)));
    const int whole = rows_aligned(a) && rows_aligned(out);
    return cuda_launch(x, "gelu_fwd", ROWS_KERNEL(gelu_fwd_kernel, t, whole), gelu_grid(n, whole, t),
                       dim3(ACT_THREADS), 0, n, a, out);
}

extern "C" weft_status cuda_gelu_bwd(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a,
                                     void *da) {
    WEFT_TRY(weft_check_model_dtype("gelu_bwd", t));
    WEFT_TRY(weft_check_given("gelu_bwd", n == 0 || (dout && a && da)));
    const int whole = rows_aligned(a) && rows_aligned(dout) && rows_aligned(da);
    return cuda_launch(x, "gelu_bwd", ROWS_KERNEL(gelu_bwd_kernel, t, whole), gelu_grid(n, whole, t),
                       dim3(ACT_THREADS), 0, n, dout, a, da);
}

/* --- SwiGLU: a row of gu is gate | up. A block has a tile of ACT_AHEAD vectors a thread of a row's outputs; grid.x goes
 *     over rows, grid.y over tiles --- */

struct swiglu_args {
    const void *gu, *dout;
    void *out; /* forward: [rows, cols]; backward: [rows, 2 cols], may be gu */
    int64_t rows, cols;
};

/* rest = 1 - s. */
static __device__ __forceinline__ void swiglu_slopes(float gate, float up, float dy, float *dgate,
                                                     float *dup) {
    float s, rest;
    sigmoid_both(gate, &s, &rest);
    *dgate = dy * up * s * fmaf(gate, rest, 1.0f);
    *dup = dy * gate * s;
}

template <class T, int V>
static __global__ void __launch_bounds__(ACT_THREADS) swiglu_fwd_kernel(swiglu_args a) {
    const int64_t vectors = a.cols / V, tile = (int64_t)blockDim.x * ACT_AHEAD;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *gate = (const T *)a.gu + row * 2 * a.cols, *up = gate + a.cols;
        T *out = (T *)a.out + row * a.cols;
        for (int64_t first = blockIdx.y * tile + threadIdx.x; first < vectors; first += gridDim.y * tile) {
            typename raw_of<T, V>::type wg[ACT_AHEAD], wu[ACT_AHEAD];
#pragma unroll
            for (int k = 0; k < ACT_AHEAD; k++) {
                const int64_t at = first + k * blockDim.x;
                if (at < vectors) wg[k] = raw_load<T, V>(gate + at * V), wu[k] = raw_load<T, V>(up + at * V);
            }
#pragma unroll
            for (int k = 0; k < ACT_AHEAD; k++) {
                const int64_t at = first + k * blockDim.x;
                float g[V], u[V];
                if (at >= vectors) break;
                raw_floats(wg[k], g);
                raw_floats(wu[k], u);
#pragma unroll
                for (int i = 0; i < V; i++) g[i] = silu_of(g[i]) * u[i];
                floats_store(out + at * V, g);
            }
        }
    }
}

template <class T, int V>
static __global__ void __launch_bounds__(ACT_THREADS) swiglu_bwd_kernel(swiglu_args a) {
    const int64_t vectors = a.cols / V, tile = (int64_t)blockDim.x * ACT_AHEAD;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *gate = (const T *)a.gu + row * 2 * a.cols, *up = gate + a.cols;
        const T *dout = (const T *)a.dout + row * a.cols;
        T *dgate = (T *)a.out + row * 2 * a.cols, *dup = dgate + a.cols;
        for (int64_t first = blockIdx.y * tile + threadIdx.x; first < vectors; first += gridDim.y * tile) {
            typename raw_of<T, V>::type wg[ACT_AHEAD], wu[ACT_AHEAD], wd[ACT_AHEAD];
#pragma unroll
            for (int k = 0; k < ACT_AHEAD; k++) {
                const int64_t at = first + k * blockDim.x;
                if (at >= vectors) continue;
                wg[k] = raw_load<T, V>(gate + at * V);
                wu[k] = raw_load<T, V>(up + at * V);
                wd[k] = raw_load<T, V>(dout + at * V);
            }
#pragma unroll
            for (int k = 0; k < ACT_AHEAD; k++) {
                const int64_t at = first + k * blockDim.x;
                float g[V], u[V], d[V];
                if (at >= vectors) break;
                raw_floats(wg[k], g);
                raw_floats(wu[k], u);
                raw_floats(wd[k], d);
#pragma unroll
                for (int i = 0; i < V; i++) swiglu_slopes(g[i], u[i], d[i], &g[i], &u[i]);
                floats_store(dgate + at * V, g);
                floats_store(dup + at * V, u);
            }
        }
    }
}

static weft_status swiglu(weft_exec *x, const char *name, void (*kernel)(swiglu_args), const swiglu_args *a,
                          int length) {
    const int64_t vectors = a->cols / length;
    const dim3 block(rows_threads(divup(vectors, ACT_AHEAD), ACT_THREADS));
    const int64_t tiles = divup(vectors, (int64_t)block.x * ACT_AHEAD);
    return cuda_launch(x, name, kernel,
                       dim3(rows_grid(a->rows, 1), (unsigned)(tiles < 65535 ? tiles : 65535)), block, 0, *a);
}

extern "C" weft_status cuda_swiglu_fwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu,
                                       void *out) {
    WEFT_TRY(weft_check_model_dtype("swiglu_fwd", t));
    WEFT_TRY(weft_check_extent("swiglu_fwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_fwd", rows == 0 || cols == 0 || (gu && out)));
    const int whole = cols % rows_vector(t) == 0 && rows_aligned(gu) && rows_aligned(out);
    const swiglu_args a = {gu, NULL, out, rows, cols};
    return swiglu(x, "swiglu_fwd", ROWS_KERNEL(swiglu_fwd_kernel, t, whole), &a, whole ? rows_vector(t) : 1);
}

extern "C" weft_status cuda_swiglu_bwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols,
                                       const void *dout, const void *gu, void *dgu) {
    WEFT_TRY(weft_check_model_dtype("swiglu_bwd", t));
    WEFT_TRY(weft_check_extent("swiglu_bwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_bwd", rows == 0 || cols == 0 || (dout && gu && dgu)));
    const int whole =
        cols % rows_vector(t) == 0 && rows_aligned(gu) && rows_aligned(dout) && rows_aligned(dgu);
    const swiglu_args a = {gu, dout, dgu, rows, cols};
    return swiglu(x, "swiglu_bwd", ROWS_KERNEL(swiglu_bwd_kernel, t, whole), &a, whole ? rows_vector(t) : 1);
}
