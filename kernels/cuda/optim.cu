/* The optimiser's passes: AdamW in one pass (Loshchilov & Hutter 2019), the outer step, and the norms of gradients.
 *
 * sumsq: a block of threads takes a chunk of 2^k blocks of 16384 elements. Of a block of elements, thread t adds the vectors
 * t, t + 256, ... in f32, a lane of a vector by itself; then the lanes, the warps and the warps' sums are added in fixed
 * trees. Sums of blocks are f64, in pairs, an odd one carried up, inside a chunk and then over the chunks; as chunks hold a
 * power of two of blocks, n alone decides the bits. Not the bits of cpu, which has 16 lanes. */
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sumsq.cuh"

#define OPTIM_LENGTH 4

/* --- adamw ------------------------------------------------------------------------------------------------------------------ */

struct adamw {
    size_t n;
    float *master, *m, *v;
    const float *g;
    uint16_t *w; /* NULL: none */
    int whole;
    float clip, beta1, beta2, rest1, rest2, unbias1, unbias2, lr, eps, decay;
};

static __global__ void __launch_bounds__(CUDA_THREADS) adamw_kernel(const __grid_constant__ struct adamw a) {
    FOR_VECTORS(i, a.n, OPTIM_LENGTH) {
        const int left = vector_left(a.n, i, OPTIM_LENGTH);
        float g[OPTIM_LENGTH], m[OPTIM_LENGTH], v[OPTIM_LENGTH], p[OPTIM_LENGTH];
        uint16_t w[OPTIM_LENGTH];
        load_vector(a.g + i, left, a.whole, g);
        load_vector(a.m + i, left, a.whole, m);
        load_vector(a.v + i, left, a.whole, v);
        load_vector(a.master + i, left, a.whole, p);
#pragma unroll
        for (int k = 0; k < OPTIM_LENGTH; k++) {
            const float gradient = a.clip * g[k];
            m[k] = fmaf(a.beta1, m[k], a.rest1 * gradient);
            v[k] = fmaf(a.beta2, v[k], a.rest2 * (gradient * gradient));
            const float size = sqrtf(v[k] * a.unbias2) + a.eps;
            p[k] = fmaf(-a.lr, fmaf(a.decay, p[k], m[k] * a.unbias1 / size), p[k]);
            w[k] = bf16_of(p[k]);
        }
        store_vector(a.m + i, left, a.whole, m);
        store_vector(a.v + i, left, a.whole, v);
        store_vector(a.master + i, left, a.whole, p);
        if (a.w) store_vector(a.w + i, left, a.whole, w);
    }
}

extern "C" weft_status cuda_adamw(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                                  const float *g, uint16_t *w, const float *clip, const uint32_t *skip) {
    WEFT_TRY(weft_check_adamw(d));
    WEFT_TRY(weft_check_given("adamw", clip && skip && (d->n == 0 || (master && m && v && g))));
    if (*skip) return WEFT_OK;
    struct adamw a = {d->n,
                      master,
                      m,
                      v,
                      g,
                      w,
                      1,
                      *clip,
                      d->beta1,
                      d->beta2,
                      1.0f - d->beta1,
                      1.0f - d->beta2,
                      1.0f / d->bias1,
                      1.0f / d->bias2,
                      d->lr,
                      d->eps,
                      d->weight_decay};
    const void *const all[] = {master, m, v, g};
    for (int i = 0; i < 4; i++) a.whole &= cuda_aligned(all[i], CUDA_VECTOR);
    a.whole &= cuda_aligned(w, OPTIM_LENGTH * sizeof *w);
    return cuda_launch(x, "adamw", adamw_kernel, cuda_vectors_grid(x, d->n, OPTIM_LENGTH), dim3(CUDA_THREADS),
                       0, a);
}

/* --- outer_step -------------------------------------------------------------------------------------------------------------- */

/* Equal by == to ref: three fused products. */
static __global__ void __launch_bounds__(CUDA_THREADS)
    outer_kernel(size_t n, float eta, float mu, const float *delta, float *v, float *theta, int whole) {
    FOR_VECTORS(i, n, OPTIM_LENGTH) {
        const int left = vector_left(n, i, OPTIM_LENGTH);
        float x[OPTIM_LENGTH], velocity[OPTIM_LENGTH], p[OPTIM_LENGTH];
        load_vector(delta + i, left, whole, x);
        load_vector(v + i, left, whole, velocity);
        load_vector(theta + i, left, whole, p);
#pragma unroll
        for (int k = 0; k < OPTIM_LENGTH; k++) {
            velocity[k] = __fmaf_rn(mu, velocity[k], x[k]);
            p[k] = __fmaf_rn(-eta, __fmaf_rn(mu, velocity[k], x[k]), p[k]);
        }
        store_vector(v + i, left, whole, velocity);
        store_vector(theta + i, left, whole, p);
    }
}

extern "C" weft_status cuda_outer_step(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                                       float *theta) {
    WEFT_TRY(weft_check_outer(d, delta, v, theta));
    const int whole =
        cuda_aligned(delta, CUDA_VECTOR) && cuda_aligned(v, CUDA_VECTOR) && cuda_aligned(theta, CUDA_VECTOR);
    return cuda_launch(x, "outer_step", outer_kernel, cuda_vectors_grid(x, d->n, OPTIM_LENGTH),
                       dim3(CUDA_THREADS), 0, d->n, d->eta, d->mu, delta, v, theta, whole);
}

/* --- sumsq, sumsq_blocks, absmax ------------------------------------------------------------------------------------------------ */

/* The tree over blocks, kept by one thread like a binary counter: pending[l] is a finished subtree of 2^l blocks. */
#define TREE_LEVELS 40
struct tree {
    double pending[TREE_LEVELS];
    float part[CUDA_WARP]; /* of block_sum */
};
static __device__ __forceinline__ void tree_add(struct tree &t, int64_t blocks_before, double s) {
    int level = 0;
    for (; blocks_before >> level & 1; level++) s = __dadd_rn(t.pending[level], s);
    t.pending[level] = s;
}
static __device__ __forceinline__ double tree_total(const struct tree &t, int64_t blocks) {
    double total = 0;
    int any = 0;
    for (int level = 0; blocks >> level; level++)
        if (blocks >> level & 1) {
            total = any ? __dadd_rn(t.pending[level], total) : t.pending[level];
            any = 1;
        }
    return total;
}

/* What this thread adds of the `left` elements of a block; four loads are on their way at a time. */
static __device__ __forceinline__ float squares_of(const float *v, int left, int whole) {
    enum { LENGTH = CUDA_VECTOR / 4, STEP = LENGTH * CUDA_THREADS, AT_ONCE = 4 };
    float sum[LENGTH] = {0};
    for (int i = (int)threadIdx.x * LENGTH; i < left; i += AT_ONCE * STEP) {
        float a[AT_ONCE][LENGTH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int rest = left - i - k * STEP;
            load_vector(v + i + k * STEP, rest < 0 ? 0 : rest < LENGTH ? rest : LENGTH, whole, a[k]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
#pragma unroll
            for (int e = 0; e < LENGTH; e++) sum[e] = fmaf(a[k][e], a[k][e], sum[e]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static __global__ void __launch_bounds__(CUDA_THREADS)
    sumsq_kernel(size_t n, const float *v, int64_t blocks, double *sums, int whole) {
    WEFT_SHARED(struct tree, t, 1);
    const size_t begin = (size_t)blockIdx.x * (size_t)blocks * SUM_BLOCK;
    int64_t done = 0;
    for (size_t at = begin; done < blocks && at < n; done++, at += SUM_BLOCK) {
        const int left = n - at < SUM_BLOCK ? (int)(n - at) : SUM_BLOCK;
        const float sum = block_sum(squares_of(v + at, left, whole), t[0].part);
        if (threadIdx.x == 0) tree_add(t[0], done, (double)sum);
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = tree_total(t[0], done);
}

int64_t cuda_sumsq_chunks(size_t n, int64_t most, int64_t *blocks) {
    const int64_t all = divup((int64_t)n, SUM_BLOCK);
    *blocks = 1;
    while (divup(all, *blocks) > most) *blocks *= 2;
    return divup(all, *blocks);
}

weft_status cuda_sumsq_launch(weft_exec *x, const char *name, size_t n, const float *v, int64_t chunks,
                              int64_t blocks, double *sums) {
    return cuda_launch(x, name, sumsq_kernel, dim3((unsigned)chunks), dim3(CUDA_THREADS), 0, n, v, blocks,
                       sums, cuda_aligned(v, CUDA_VECTOR));
}

extern "C" weft_status cuda_sumsq(weft_exec *x, size_t n, const float *v, double *out) {
    WEFT_TRY(weft_check_given("sumsq", out && (n == 0 || v)));
    int64_t blocks;
    const int64_t chunks = cuda_sumsq_chunks(n, SUM_CHUNKS, &blocks);
    double *sum = (double *)cuda_of(x)->results;
    WEFT_TRY(cuda_sumsq_launch(x, "sumsq", n, v, chunks, blocks, sum));
    WEFT_TRY(cuda_sync(x));
    for (int64_t left = chunks; left > 1; left = (left + 1) / 2)
        for (int64_t i = 0; i < left; i += 2) sum[i / 2] = i + 1 < left ? sum[i] + sum[i + 1] : sum[i];
    *out = chunks ? sum[0] : 0.0;
    return WEFT_OK;
}

/* As many blocks at a time as the page holds. */
extern "C" weft_status cuda_sumsq_blocks(weft_exec *x, size_t n, const float *v, double *sums) {
    WEFT_TRY(weft_check_given("sumsq_blocks", n == 0 || (v && sums)));
    for (size_t at = 0; at < n; at += (size_t)CUDA_RESULTS * SUM_BLOCK) {
        const int64_t left = divup((int64_t)(n - at), SUM_BLOCK),
                      chunks = left < CUDA_RESULTS ? left : CUDA_RESULTS;
        WEFT_TRY(
            cuda_sumsq_launch(x, "sumsq_blocks", n - at, v + at, chunks, 1, (double *)cuda_of(x)->results));
        WEFT_TRY(cuda_sync(x));
        memcpy(sums + at / SUM_BLOCK, cuda_of(x)->results, (size_t)chunks * sizeof *sums);
    }
    return WEFT_OK;
}

/* The bits of |v| as integers order like |v|, and NaN above infinity. */
static __global__ void __launch_bounds__(CUDA_THREADS)
    absmax_kernel(size_t n, const float *v, uint64_t *results, int whole) {
    enum { LENGTH = 8 };
    WEFT_SHARED(uint32_t, part, CUDA_THREADS / CUDA_WARP);
    uint32_t most = 0;
    FOR_VECTORS(i, n, LENGTH) {
        float a[LENGTH];
        load_vector(v + i, vector_left(n, i, LENGTH), whole, a);
#pragma unroll
        for (int k = 0; k < LENGTH; k++) {
            const uint32_t size = __float_as_uint(a[k]) & 0x7fffffffu;
            most = size > most ? size : most;
        }
    }
    most = __reduce_max_sync(0xffffffffu, most);
    if (lane_id() == 0) part[warp_id()] = most;
    __syncthreads();
    most = __reduce_max_sync(0xffffffffu, part[lane_id() % (CUDA_THREADS / CUDA_WARP)]);
    if (threadIdx.x == 0) results[blockIdx.x] = most;
}

extern "C" weft_status cuda_absmax(weft_exec *x, size_t n, const float *v, float *out) {
    WEFT_TRY(weft_check_given("absmax", out && (n == 0 || v)));
    uint64_t *results = cuda_of(x)->results;
    uint32_t most = 0;
    unsigned grid = cuda_vectors_grid(x, n, 8).x;
    if (grid > CUDA_RESULTS) grid = CUDA_RESULTS;
    WEFT_TRY(cuda_launch(x, "absmax", absmax_kernel, dim3(grid), dim3(CUDA_THREADS), 0, n, v, results,
                         cuda_aligned(v, CUDA_VECTOR)));
    WEFT_TRY(cuda_sync(x));
    for (unsigned i = 0; i < grid; i++) most = results[i] > most ? (uint32_t)results[i] : most;
    memcpy(out, &most, sizeof *out);
    return WEFT_OK;
}
