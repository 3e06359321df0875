/* Linear and softmax cross entropy over one chunk of tokens (formulas: ref/loss.c).
 *
 * loss_stats: z = h w^T by the table's gemm, then the statistics of the *stored* logits, so that the softmax of the gradient
 * sums to one in bf16 too. A block has a row and reads it once: each thread keeps the largest logit so far and the sum of
 * exponentials below it (Milakov & Gimelshein 2018), and the threads' pairs are combined in a fixed tree. loss_grad: in
 * place, once over the row.
 *
 * Floors in bf16: 2 bytes a logit for the statistics, 4 for the gradient; 2048 tokens of 50304: 48 and 96 us at 4.3 TB/s,
 * of 131072: 125 and 250 us. Four loads of 16 bytes of a thread are under way (the gradient: two). One exponential a logit:
 * about half of what the special function units do in that time. */
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/rows.cuh"

#define LOSS_THREADS 256
#define LOSS_AHEAD   4
#define GRAD_AHEAD   2

struct loss_args {
    const int32_t *target;
    void *z;
    float *lse, *z_target;
    const float *lse_in;
    int32_t *fault;
    int64_t tokens, columns, unmasked, first, vocab;
    float scale;
};

/* The column of z that a target is in, or -1; a target that is none raises the fault. */
static __device__ __forceinline__ int64_t loss_hit(const loss_args &a, int32_t target) {
    const int64_t column = target - a.first;
    if (target >= a.vocab) raise_fault(a.fault, WEFT_ERR_VOCAB);
    return target >= 0 && target < a.vocab && column >= 0 && column < a.columns ? column : -1;
}

/* Of the logits so far: the largest, but at least -FLT_MAX, and the sum of e^(z - largest). */
struct softmax_part {
    float largest, sum;
};

static __device__ __forceinline__ softmax_part softmax_both(softmax_part a, softmax_part b) {
    const float largest = fmaxf(a.largest, b.largest);
    return softmax_part{largest, a.sum * exp_of(a.largest - largest) + b.sum * exp_of(b.largest - largest)};
}
static __device__ __forceinline__ softmax_part softmax_warp(softmax_part p) {
#pragma unroll
    for (int d = CUDA_WARP / 2; d; d /= 2) {
        softmax_part other;
        other.largest = __shfl_xor_sync(0xffffffffu, p.largest, d);
        other.sum = __shfl_xor_sync(0xffffffffu, p.sum, d);
        p = softmax_both(p, other);
    }
    return p;
}
/* A NaN is no largest, but makes the sum one. */
template <int V> static __device__ __forceinline__ void softmax_add(softmax_part *p, const float (&v)[V]) {
    float e[V], largest = p->largest;
#pragma unroll
    for (int i = 0; i < V; i++) largest = fmaxf(largest, v[i]);
#pragma unroll
    for (int i = 0; i < V; i++) e[i] = exp_of(v[i] - largest);
    p->sum = p->sum * exp_of(p->largest - largest) + vector_sum(e);
    p->largest = largest;
}

template <class T, int V>
static __global__ void __launch_bounds__(LOSS_THREADS) loss_stats_kernel(loss_args a) {
    WEFT_SHARED(softmax_part, parts, LOSS_THREADS / CUDA_WARP);
    const int64_t vectors = a.unmasked / V, step = blockDim.x;
    const int warps = (int)(blockDim.x / CUDA_WARP);
    for (int64_t row = blockIdx.x; row < a.tokens; row += gridDim.x) {
        const T *z = (const T *)a.z + row * a.columns;
        softmax_part p = {-FLT_MAX, 0.0f};
        for (int64_t first = threadIdx.x; first < vectors; first += LOSS_AHEAD * step) {
            typename raw_of<T, V>::type w[LOSS_AHEAD];
            float v[V];
#pragma unroll
            for (int k = 0; k < LOSS_AHEAD; k++)
                if (first + k * step < vectors) w[k] = raw_load<T, V>(z + (first + k * step) * V);
#pragma unroll
            for (int k = 0; k < LOSS_AHEAD; k++)
                if (first + k * step < vectors) {
                    raw_floats(w[k], v);
                    softmax_add(&p, v);
                }
        }
        if (threadIdx.x < a.unmasked % V) {
            const float last[1] = {load1(z + vectors * V + threadIdx.x)};
            softmax_add(&p, last);
        }
        p = softmax_warp(p);
        if (lane_id() == 0) parts[warp_id()] = p;
        __syncthreads();
        if (warp_id() == 0) {
            p = softmax_warp(lane_id() < warps ? parts[lane_id()] : softmax_part{-FLT_MAX, 0.0f});
            if (lane_id() == 0) {
                const int64_t hit = loss_hit(a, a.target[row]);
                a.lse[row] = p.largest + logf(p.sum); /* -inf if all is masked */
                a.z_target[row] = hit < 0 ? 0.0f : load1(z + hit);
            }
        }
        __syncthreads();
    }
}

/* grid.x: rows, grid.y: tiles of GRAD_AHEAD vectors a thread. */
template <class T, int V>
static __global__ void __launch_bounds__(LOSS_THREADS) loss_grad_kernel(loss_args a) {
    const int64_t vectors = a.columns / V, step = blockDim.x;
    for (int64_t row = blockIdx.x; row < a.tokens; row += gridDim.x) {
        T *z = (T *)a.z + row * a.columns;
        const int32_t target = a.target[row];
        const int64_t hit = loss_hit(a, target), live = target >= 0 && target < a.vocab ? a.unmasked : 0;
        const float lse = a.lse_in[row];
        for (int64_t first = blockIdx.y * step * GRAD_AHEAD + threadIdx.x; first < vectors;
             first += gridDim.y * step * GRAD_AHEAD) {
            typename raw_of<T, V>::type w[GRAD_AHEAD];
#pragma unroll
            for (int k = 0; k < GRAD_AHEAD; k++)
                if (first + k * step < vectors) w[k] = raw_load<T, V>(z + (first + k * step) * V);
#pragma unroll
            for (int k = 0; k < GRAD_AHEAD; k++) {
                const int64_t at = (first + k * step) * V;
                float v[V];
                if (first + k * step >= vectors) break;
                raw_floats(w[k], v);
#pragma unroll
                for (int i = 0; i < V; i++) {
                    const float p = exp_of(v[i] - lse);
                    v[i] = at + i < live ? (at + i == hit ? p - 1.0f : p) * a.scale : 0.0f;
                }
                floats_store(z + at, v);
            }
        }
    }
}

/* --- on the host --------------------------------------------------------------------------------------------------------- */

static weft_gemm_desc loss_gemm(const weft_loss_desc *d) {
    weft_gemm_desc g;
    memset(&g, 0, sizeof g);
    g.size = sizeof g;
    g.m = d->tokens;
    g.n = g.ldc = weft_loss_columns(d);
    g.k = g.lda = g.ldb = d->channels;
    g.a = g.b = g.c = d->t;
    g.trans_b = 1;
    return g;
}

extern "C" size_t cuda_loss_scratch(const weft_backend *b, const weft_loss_desc *d) {
    if (weft_check_loss(d) != WEFT_OK) return 0;
    const weft_gemm_desc g = loss_gemm(d);
    return cuda_gemm_scratch(b, &g);
}

static loss_args loss_args_of(weft_exec *x, const weft_loss_desc *d, const int32_t *target, void *z) {
    loss_args a;
    memset(&a, 0, sizeof a);
    a.target = target;
    a.z = z;
    a.fault = cuda_of(x)->fault;
    a.tokens = d->tokens;
    a.columns = weft_loss_columns(d);
    a.unmasked = weft_loss_unmasked(d);
    a.first = d->first;
    a.vocab = d->vocab;
    a.scale = d->grad_scale;
    return a;
}

extern "C" weft_status cuda_loss_stats(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                                       const int32_t *target, void *z, float *lse, float *z_target) {
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_stats", h && w && target && z && lse && z_target));
    const weft_gemm_desc g = loss_gemm(d);
    WEFT_TRY_CTX(cuda_gemm(x, &g, h, w, z, NULL), "loss_stats");
    loss_args a = loss_args_of(x, d, target, z);
    a.lse = lse;
    a.z_target = z_target;
    const int whole = a.columns % rows_vector(d->t) == 0;
    const int64_t vectors = divup(a.unmasked, whole ? rows_vector(d->t) : 1);
    return cuda_launch(x, "loss_stats", ROWS_SUM_KERNEL(loss_stats_kernel, d->t, whole, rows_aligned(z)),
                       dim3(rows_grid(a.tokens, 1)),
                       dim3(rows_threads(divup(vectors, LOSS_AHEAD), LOSS_THREADS)), 0, a);
}

extern "C" weft_status cuda_loss_grad(weft_exec *x, const weft_loss_desc *d, const float *lse,
                                      const int32_t *target, void *z) {
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_grad", lse && target && z));
    loss_args a = loss_args_of(x, d, target, z);
    a.lse_in = lse;
    const int whole = a.columns % rows_vector(d->t) == 0 && rows_aligned(z);
    const int64_t vectors = a.columns / (whole ? rows_vector(d->t) : 1);
    const dim3 block(rows_threads(divup(vectors, GRAD_AHEAD), LOSS_THREADS));
    const int64_t tiles = divup(vectors, (int64_t)block.x * GRAD_AHEAD);
    return cuda_launch(x, "loss_grad", ROWS_KERNEL(loss_grad_kernel, d->t, whole),
                       dim3(rows_grid(a.tokens, 1), (unsigned)(tiles < 65535 ? tiles : 65535)), block, 0, a);
}
