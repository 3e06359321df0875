/* LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019), forward and backward; formulas: ref/norm.c.
 *
 * Forward: a row lies in the registers of a group of threads (a warp for short rows, a block else), so it is read once:
 * mean, variance of the centred row, output. Backward: a group takes a chunk of 16 to 64 rows, holds its columns' parts of
 * dgamma and dbeta in registers over the chunk, and has the next row on its way while it computes this one; the parts of the
 * chunks are then added in a fixed order by norm_sum_kernel. The size of a chunk depends on the number of rows alone: it is
 * as large as leaves 512 chunks, four for each multiprocessor of an H200.
 *
 * Floors in bf16, bytes an element: forward 4 (read, write), backward 6, with dres 8; the parts of dgamma and dbeta add 16
 * bytes a chunk and column, half a byte an element at 32 rows, most of it in L2. 16384 x 4096 at 4.3 TB/s: 62, 94, 125 us.
 *
 * Rows that do not fit (more than NORM_MOST vectors) are read three times forward, from L2 after the first; backward takes
 * dgamma and dbeta by columns first, then din by rows. */
#include "kernels/cuda/rows.cuh"

#define NORM_THREADS 512
#define NORM_HELD    4 /* vectors of a row that a thread holds, at most */
#define NORM_MOST    (NORM_THREADS * NORM_HELD)
#define NORM_SINGLE                                                                                          \
    384 /* backward: threads that hold one vector each; two blocks of them fit with their registers */

/* --- forward ------------------------------------------------------------------------------------------------------------- */

struct norm_fwd_args {
    const void *in, *gamma, *beta; /* beta NULL: none */
    void *out;
    float *mean, *rstd; /* mean NULL: RMS */
    int64_t rows, cols;
    float eps;
};

/* gamma xhat + beta of a vector. */
template <class T, int V>
static __device__ __forceinline__ void norm_put(const norm_fwd_args &a, int64_t at, T *out, float (&v)[V],
                                                float mean, float rstd) {
    float gamma[V], beta[V];
    floats_load((const T *)a.gamma + at, gamma);
    if (a.beta) floats_load((const T *)a.beta + at, beta);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float xhat = (v[i] - mean) * rstd;
        v[i] = a.beta ? fmaf(xhat, gamma[i], beta[i]) : xhat * gamma[i];
    }
    floats_store(out + at, v);
}

template <int V> static __device__ __forceinline__ float squares_of(const float (&v)[V], float mean) {
    float s[V];
#pragma unroll
    for (int i = 0; i < V; i++) s[i] = (v[i] - mean) * (v[i] - mean);
    return vector_sum(s);
}

template <class T, int V>
static __global__ void __launch_bounds__(NORM_THREADS) norm_fwd_kernel(norm_fwd_args a) {
    __shared__ row_sums shared;
    const int vectors = (int)(a.cols / V), step = (int)blockDim.x, tid = (int)threadIdx.x;
    int turn = 0;
    for (int64_t row = rows_first(); row < a.rows; row += rows_step()) {
        const T *in = (const T *)a.in + row * a.cols;
        typename raw_of<T, V>::type held[NORM_HELD];
        float mean = 0.0f, sum[1] = {0.0f}, v[V];
#pragma unroll
        for (int k = 0; k < NORM_HELD; k++)
            if (tid + k * step < vectors) held[k] = raw_load<T, V>(in + (int64_t)(tid + k * step) * V);
        if (a.mean) {
#pragma unroll
            for (int k = 0; k < NORM_HELD; k++)
                if (tid + k * step < vectors) {
                    raw_floats(held[k], v);
                    sum[0] += vector_sum(v);
                }
            row_sum(sum, &shared, &turn);
            mean = sum[0] / (float)a.cols;
            sum[0] = 0.0f;
        }
#pragma unroll
        for (int k = 0; k < NORM_HELD; k++)
            if (tid + k * step < vectors) {
                raw_floats(held[k], v);
                sum[0] += squares_of(v, mean);
            }
        row_sum(sum, &shared, &turn);
        const float rstd = 1.0f / sqrtf(sum[0] / (float)a.cols + a.eps);
        if (tid == 0) {
            if (a.mean) a.mean[row] = mean;
            a.rstd[row] = rstd;
        }
#pragma unroll
        for (int k = 0; k < NORM_HELD; k++)
            if (tid + k * step < vectors) {
                raw_floats(held[k], v);
                norm_put(a, (int64_t)(tid + k * step) * V, (T *)a.out + row * a.cols, v, mean, rstd);
            }
    }
}

template <class T, int V>
static __global__ void __launch_bounds__(NORM_THREADS) norm_fwd_wide_kernel(norm_fwd_args a) {
    __shared__ row_sums shared;
    const int64_t first = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
    int turn = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *in = (const T *)a.in + row * a.cols;
        float mean = 0.0f, sum[1] = {0.0f}, v[V];
        for (int64_t at = first; a.mean && at < a.cols; at += step) {
            floats_load(in + at, v);
            sum[0] += vector_sum(v);
        }
        if (a.mean) {
            row_sum(sum, &shared, &turn);
            mean = sum[0] / (float)a.cols;
            sum[0] = 0.0f;
        }
        for (int64_t at = first; at < a.cols; at += step) {
            floats_load(in + at, v);
            sum[0] += squares_of(v, mean);
        }
        row_sum(sum, &shared, &turn);
        const float rstd = 1.0f / sqrtf(sum[0] / (float)a.cols + a.eps);
        if (threadIdx.x == 0) {
            if (a.mean) a.mean[row] = mean;
            a.rstd[row] = rstd;
        }
        for (int64_t at = first; at < a.cols; at += step) {
            floats_load(in + at, v);
            norm_put(a, at, (T *)a.out + row * a.cols, v, mean, rstd);
        }
    }
}

extern "C" weft_status cuda_norm_fwd(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                                     const void *beta, void *out, float *mean, float *rstd) {
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_fwd", in && gamma && out && rstd && (mean || d->kind == WEFT_NORM_RMS)));
    const int whole = d->cols % rows_vector(d->t) == 0;
    const int aligned = rows_aligned(in) && rows_aligned(gamma) && rows_aligned(beta) && rows_aligned(out);
    const int64_t vectors = d->cols / (whole ? rows_vector(d->t) : 1);
    const norm_fwd_args a = {in,   gamma,   beta,    out,   d->kind == WEFT_NORM_LAYER ? mean : NULL,
                             rstd, d->rows, d->cols, d->eps};
    if (vectors > NORM_MOST)
        return cuda_launch(x, "norm_fwd", ROWS_SUM_KERNEL(norm_fwd_wide_kernel, d->t, whole, aligned),
                           dim3(rows_grid(d->rows, 1)), dim3(NORM_THREADS), 0, a);
    /* short rows: a warp each, four a block; longer ones: two vectors a thread as long as the block is not full */
    const dim3 block = vectors <= CUDA_WARP * NORM_HELD ? dim3(CUDA_WARP, 4)
                                                        : dim3(rows_threads(divup(vectors, 2), NORM_THREADS));
    return cuda_launch(x, "norm_fwd", ROWS_SUM_KERNEL(norm_fwd_kernel, d->t, whole, aligned),
                       dim3(rows_grid(d->rows, block.y)), block, 0, a);
}

/* --- backward ------------------------------------------------------------------------------------------------------------ */

struct norm_bwd_args {
    const void *dout, *in, *gamma;
    const float *mean, *rstd; /* mean NULL: RMS */
    const void *dres;         /* NULL: none; may be din */
    void *din;
    float *parts; /* [2, chunks, cols]: of dgamma, of dbeta */
    int64_t rows, cols, chunks;
    int32_t chunk, with_beta;
};

/* What a vector adds to the two row sums, and to the columns' parts. */
template <int V>
static __device__ __forceinline__ void norm_gather(const float (&dy)[V], const float (&x)[V],
                                                   const float (&gamma)[V], float mean, float rstd,
                                                   float (&sum)[2], float (&dgamma)[V], float (&dbeta)[V]) {
    float odd[2] = {0.0f, 0.0f}; /* two chains */
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float xhat = (x[i] - mean) * rstd, g = dy[i] * gamma[i];
        float *to = i % 2 ? odd : sum;
        to[0] += g;
        to[1] = fmaf(g, xhat, to[1]);
        dgamma[i] = fmaf(dy[i], xhat, dgamma[i]);
        dbeta[i] += dy[i];
    }
    sum[0] += odd[0];
    sum[1] += odd[1];
}

/* x becomes din. */
template <int V>
static __device__ __forceinline__ void norm_slope(const float (&dy)[V], float (&x)[V],
                                                  const float (&gamma)[V], float mean, float rstd,
                                                  const float (&row_mean)[2]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float xhat = (x[i] - mean) * rstd;
        x[i] = rstd * fmaf(-xhat, row_mean[1], dy[i] * gamma[i] - row_mean[0]);
    }
}

/* H vectors a thread; a chunk of rows for each row of the block. Four are so many registers that the next row has to wait. */
template <class T, int V, int H>
static __global__ void __launch_bounds__(H == 1 ? NORM_SINGLE : NORM_THREADS, H == 1 ? 2 : 1)
    norm_bwd_kernel(norm_bwd_args a) {
    typedef typename raw_of<T, V>::type raw;
    constexpr bool AHEAD = H < 4;
    __shared__ row_sums shared;
    const int64_t chunk = rows_first(), begin = chunk * a.chunk;
    const int rows = begin >= a.rows ? 0 : begin + a.chunk < a.rows ? a.chunk : (int)(a.rows - begin);
    const int tid = (int)threadIdx.x, step = (int)blockDim.x;
    float dgamma[H][V], dbeta[H][V];
    const int cols = (int)a.cols;
    const float share = 1.0f / (float)cols;
    raw next_dy[H] = {}, next_x[H] = {};
    int turn = 0;
#pragma unroll
    for (int k = 0; k < H; k++) {
        const int at = (tid + k * step) * V;
#pragma unroll
        for (int i = 0; i < V; i++) dgamma[k][i] = dbeta[k][i] = 0.0f;
        if (!AHEAD || rows == 0 || at >= cols) continue;
        next_dy[k] = raw_load<T, V>((const T *)a.dout + begin * cols + at);
        next_x[k] = raw_load<T, V>((const T *)a.in + begin * cols + at);
    }
    for (int row = 0; row < rows; row++) {
        const int64_t here = (begin + row) * cols;
        const float mean = a.mean ? a.mean[begin + row] : 0.0f, rstd = a.rstd[begin + row];
        raw dy_now[H], x_now[H], dres[H];
        float dy[V], x[V], gamma[V], sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < H; k++) {
            const int at = (tid + k * step) * V;
            if (at >= cols) continue;
            if (a.dres) dres[k] = raw_load<T, V>((const T *)a.dres + here + at);
            dy_now[k] = AHEAD ? next_dy[k] : raw_load<T, V>((const T *)a.dout + here + at);
            x_now[k] = AHEAD ? next_x[k] : raw_load<T, V>((const T *)a.in + here + at);
            if (!AHEAD || row + 1 == rows) continue;
            next_dy[k] = raw_load<T, V>((const T *)a.dout + here + cols + at);
            next_x[k] = raw_load<T, V>((const T *)a.in + here + cols + at);
        }
#pragma unroll
        for (int k = 0; k < H; k++) {
            const int at = (tid + k * step) * V;
            if (at >= cols) continue;
            raw_floats(dy_now[k], dy);
            raw_floats(x_now[k], x);
            floats_load((const T *)a.gamma + at, gamma); /* stays in L1 */
            norm_gather(dy, x, gamma, mean, rstd, sum, dgamma[k], dbeta[k]);
        }
        row_sum(sum, &shared, &turn);
        const float row_mean[2] = {a.mean ? sum[0] * share : 0.0f, sum[1] * share};
#pragma unroll
        for (int k = 0; k < H; k++) {
            const int at = (tid + k * step) * V;
            if (at >= cols) continue;
            raw_floats(dy_now[k], dy);
            raw_floats(x_now[k], x);
            floats_load((const T *)a.gamma + at, gamma);
            norm_slope(dy, x, gamma, mean, rstd, row_mean);
            if (a.dres) {
                raw_floats(dres[k], dy);
#pragma unroll
                for (int i = 0; i < V; i++) x[i] += dy[i];
            }
            floats_store((T *)a.din + here + at, x);
        }
    }
    if (rows == 0) return; /* of a warp with rows of its own: no barrier follows */
#pragma unroll
    for (int k = 0; k < H; k++) {
        const int at = (tid + k * step) * V;
        if (at >= cols) continue;
        floats_store(a.parts + chunk * cols + at, dgamma[k]);
        if (a.with_beta) floats_store(a.parts + (a.chunks + chunk) * cols + at, dbeta[k]);
    }
}

/* Wide rows, first: the columns' parts of a chunk. grid.x: vectors, grid.y: chunks. */
template <class T, int V>
static __global__ void __launch_bounds__(NORM_THREADS) norm_bwd_columns_kernel(norm_bwd_args a) {
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    for (int64_t chunk = blockIdx.y; chunk < a.chunks && at < a.cols; chunk += gridDim.y) {
        const int64_t begin = chunk * a.chunk, end = begin + a.chunk < a.rows ? begin + a.chunk : a.rows;
        float dgamma[V], dbeta[V];
#pragma unroll
        for (int i = 0; i < V; i++) dgamma[i] = dbeta[i] = 0.0f;
#pragma unroll 4
        for (int64_t row = begin; row < end; row++) {
            const float mean = a.mean ? a.mean[row] : 0.0f, rstd = a.rstd[row];
            float dy[V], x[V];
            floats_load((const T *)a.dout + row * a.cols + at, dy);
            floats_load((const T *)a.in + row * a.cols + at, x);
#pragma unroll
            for (int i = 0; i < V; i++) {
                dgamma[i] = fmaf(dy[i], (x[i] - mean) * rstd, dgamma[i]);
                dbeta[i] += dy[i];
            }
        }
        floats_store(a.parts + chunk * a.cols + at, dgamma);
        if (a.with_beta) floats_store(a.parts + (a.chunks + chunk) * a.cols + at, dbeta);
    }
}

/* Wide rows, then: din, a row a block. */
template <class T, int V>
static __global__ void __launch_bounds__(NORM_THREADS, 2) norm_bwd_rows_kernel(norm_bwd_args a) {
    __shared__ row_sums shared;
    const int64_t first = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
    int turn = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const T *dout = (const T *)a.dout + row * a.cols, *in = (const T *)a.in + row * a.cols;
        const float mean = a.mean ? a.mean[row] : 0.0f, rstd = a.rstd[row];
        float dy[V], x[V], gamma[V], unused[2][V], sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < V; i++) unused[0][i] = unused[1][i] = 0.0f;
        for (int64_t at = first; at < a.cols; at += step) {
            floats_load(dout + at, dy);
            floats_load(in + at, x);
            floats_load((const T *)a.gamma + at, gamma);
            norm_gather(dy, x, gamma, mean, rstd, sum, unused[0], unused[1]);
        }
        row_sum(sum, &shared, &turn);
        const float row_mean[2] = {a.mean ? sum[0] / (float)a.cols : 0.0f, sum[1] / (float)a.cols};
        for (int64_t at = first; at < a.cols; at += step) {
            floats_load(dout + at, dy);
            floats_load(in + at, x);
            floats_load((const T *)a.gamma + at, gamma);
            norm_slope(dy, x, gamma, mean, rstd, row_mean);
            if (a.dres) {
                floats_load((const T *)a.dres + row * a.cols + at, dy);
#pragma unroll
                for (int i = 0; i < V; i++) x[i] += dy[i];
            }
            floats_store((T *)a.din + row * a.cols + at, x);
        }
    }
}

/* The parts of a column in order, each of blockDim.y threads every blockDim.y-th of them, then in pairs; a warp has 32
 * columns. grid.y: dgamma, dbeta. */
#define NORM_SUM_ROWS 32
static __global__ void __launch_bounds__(CUDA_WARP *NORM_SUM_ROWS)
    norm_sum_kernel(const float *parts, int64_t chunks, int64_t cols, float *dgamma, float *dbeta) {
    __shared__ float shared[NORM_SUM_ROWS][CUDA_WARP];
    const int64_t at = (int64_t)blockIdx.x * CUDA_WARP + threadIdx.x;
    const float *from = parts + blockIdx.y * chunks * cols + at;
    float *to = (blockIdx.y ? dbeta : dgamma) + at, sum = 0.0f;
    if (at < cols) {
#pragma unroll 4
        for (int64_t c = threadIdx.y; c < chunks; c += blockDim.y) sum += from[c * cols];
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    for (unsigned n = blockDim.y / 2; n; n /= 2) {
        if (threadIdx.y < n) shared[threadIdx.y][threadIdx.x] += shared[threadIdx.y + n][threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && at < cols) *to += shared[0][threadIdx.x];
}

/* Rows of a chunk. */
static int32_t norm_chunk(int64_t rows) {
    return rows <= 8192 ? 16 : rows <= 16384 ? 32 : 64;
}

extern "C" size_t cuda_norm_bwd_scratch(const weft_backend *b, const weft_norm_desc *d) {
    (void)b;
    if (weft_check_norm(d) != WEFT_OK) return 0;
    return (size_t)divup(d->rows, norm_chunk(d->rows)) * (size_t)d->cols * 2 * sizeof(float);
}

/* The instance for threads that hold `held` vectors of a row. */
template <class T, int V> static void (*norm_bwd_held(int held))(norm_bwd_args) {
    constexpr int MOST = V > 4 ? 2 : 4;
    return held == 1   ? norm_bwd_kernel<T, V, 1>
           : held == 2 ? norm_bwd_kernel<T, V, 2>
                       : norm_bwd_kernel<T, V, MOST>;
}

static weft_status norm_bwd_narrow(weft_exec *x, weft_dtype t, int whole, int aligned, int64_t vectors,
                                   const norm_bwd_args *a) {
    const int held = vectors <= NORM_SINGLE ? 1 : vectors <= 2 * NORM_THREADS ? 2 : 4;
    const dim3 block =
        vectors <= CUDA_WARP ? dim3(CUDA_WARP, 4) : dim3(rows_threads(divup(vectors, held), NORM_THREADS));
    void (*(*of)(int))(norm_bwd_args) = ROWS_SUM_KERNEL(norm_bwd_held, t, whole, aligned);
    return cuda_launch(x, "norm_bwd", of(held), dim3((unsigned)divup(a->chunks, block.y)), block, 0, *a);
}

static weft_status norm_bwd_wide(weft_exec *x, weft_dtype t, int whole, int aligned, int64_t vectors,
                                 const norm_bwd_args *a) {
    const dim3 columns((unsigned)divup(whole && !aligned ? a->cols : vectors, 128),
                       (unsigned)(a->chunks < 65535 ? a->chunks : 65535));
    WEFT_TRY(cuda_launch(x, "norm_bwd", ROWS_KERNEL(norm_bwd_columns_kernel, t, whole && aligned), columns,
                         dim3(128), 0, *a));
    return cuda_launch(x, "norm_bwd", ROWS_SUM_KERNEL(norm_bwd_rows_kernel, t, whole, aligned),
                       dim3(rows_grid(a->rows, 1)), dim3(NORM_THREADS), 0, *a);
}

extern "C" weft_status cuda_norm_bwd(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                                     const void *gamma, const float *mean, const float *rstd,
                                     const void *dres, void *din, float *dgamma, float *dbeta) {
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_bwd", dout && in && gamma && rstd && din && dgamma &&
                                              (mean || d->kind == WEFT_NORM_RMS)));
    WEFT_TRY(cuda_need_scratch(x, "norm_bwd", cuda_norm_bwd_scratch(x->backend, d)));
    const int whole = d->cols % rows_vector(d->t) == 0;
    const int aligned = rows_aligned(dout) && rows_aligned(in) && rows_aligned(gamma) && rows_aligned(dres) &&
                        rows_aligned(din);
    const int64_t vectors = d->cols / (whole ? rows_vector(d->t) : 1);
    norm_bwd_args a = {dout,         in,      gamma, d->kind == WEFT_NORM_LAYER ? mean : NULL,
                       rstd,         dres,    din,   (float *)x->scratch,
                       d->rows,      d->cols, 0,     norm_chunk(d->rows),
                       dbeta != NULL};
    a.chunks = divup(d->rows, a.chunk);
    const int64_t most = whole && d->t == WEFT_BF16 ? NORM_THREADS * 2 : NORM_MOST;
    if (a.chunks > INT32_MAX || divup(d->cols, CUDA_WARP) > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "norm_bwd: %lld x %lld elements", (long long)d->rows,
                         (long long)d->cols);
    WEFT_TRY(vectors > most ? norm_bwd_wide(x, d->t, whole, aligned, vectors, &a)
                            : norm_bwd_narrow(x, d->t, whole, aligned, vectors, &a));
    unsigned ways = 1;
    while (ways < NORM_SUM_ROWS && (int64_t)ways < a.chunks) ways *= 2;
    return cuda_launch(x, "norm_bwd", norm_sum_kernel,
                       dim3((unsigned)divup(d->cols, CUDA_WARP), dbeta ? 2 : 1), dim3(CUDA_WARP, ways), 0,
                       (const float *)x->scratch, a.chunks, d->cols, dgamma, dbeta);
}
