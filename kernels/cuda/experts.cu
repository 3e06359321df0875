/* Mixture of experts: the router and the way of rows to the experts and back; formulas: ref/experts.c.
 *
 * The router is small (4 bytes a logit): a warp has a token, its logits in registers, 32 neighbours apart. Who is chosen
 * follows from integers that are ordered as the logits are, so it is the same on every backend: of equal logits the lower
 * index, NaN last. Rows: floors in bf16 a channel of a token with k choices: scatter 2 + 2k bytes, combine 4 + 2k (with a
 * residual), its backward 2 + 4k; the row of dout is read by k neighbouring warps of a block, once from memory. All sums in an
 * order that the descriptor fixes. */
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sort.cuh"

#define ROUTE_THREADS 128
#define ROUTE_MOST    (WEFT_EXPERTS_MAX / CUDA_WARP) /* logits of a lane */
#define ROWS_THREADS  256
#define ALL_LANES     0xffffffffu

struct route_args {
    const float *logits, *prob_in, *lse_in, *weight_in, *load_in, *dweight;
    const int32_t *choice_in;
    float *prob, *lse, *weight, *load, *share;
    int32_t *choice;
    void *dlogits;
    int64_t tokens, length;
    int32_t experts, chosen;
    float balance, zloss;
};

/* --- the router ---------------------------------------------------------------------------------------------------------- */

/* Rises with z; zeros of both signs are equal; NaN is 1, below all numbers, so that 0 is left for "none". */
static __device__ __forceinline__ uint32_t route_key(float z) {
    const uint32_t u = __float_as_uint(z + 0.0f);
    return z != z ? 1u : u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float route_value(uint32_t key) {
    return __uint_as_float(key == 1u ? 0x7fc00000u : key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* The largest key that is left, of equal ones the first expert; all lanes get both. N keys a lane, of experts n * 32 + lane. */
template <int N> static __device__ __forceinline__ int route_next(const uint32_t (&key)[N], uint32_t *most) {
    uint32_t best = 0;
    unsigned first = WEFT_EXPERTS_MAX;
#pragma unroll
    for (int n = 0; n < N; n++) best = key[n] > best ? key[n] : best;
    *most = __reduce_max_sync(ALL_LANES, best);
#pragma unroll
    for (int n = N - 1; n >= 0; n--)
        if (key[n] == *most) first = (unsigned)(n * CUDA_WARP + lane_id());
    return (int)__reduce_min_sync(ALL_LANES, first);
}

/* Chooses, and writes e^(z - largest) of the chosen to weight; gives their sum. */
template <int N>
static __device__ __forceinline__ float route_choose(const route_args &a, const float (&z)[N],
                                                     int64_t token) {
    uint32_t key[N], most;
    float top = 0.0f, sum = 0.0f;
#pragma unroll
    for (int n = 0; n < N; n++) key[n] = n * CUDA_WARP + lane_id() < a.experts ? route_key(z[n]) : 0u;
    for (int j = 0; j < a.chosen; j++) {
        const int e = route_next(key, &most);
#pragma unroll
        for (int n = 0; n < N; n++) key[n] = n * CUDA_WARP + lane_id() == e ? 0u : key[n];
        if (j == 0) top = route_value(most);
        const float weight = expf(route_value(most) - top);
        sum += weight;
        if (lane_id() == 0) {
            a.choice[token * a.chosen + j] = e;
            a.weight[token * a.chosen + j] = weight;
        }
    }
    return sum;
}

template <int N> static __global__ void __launch_bounds__(ROUTE_THREADS) route_fwd_kernel(route_args a) {
    for (int64_t token = rows_first(); token < a.tokens; token += rows_step()) {
        float z[N], largest = -INFINITY, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int e = n * CUDA_WARP + lane_id();
            z[n] = e < a.experts ? a.logits[token * a.experts + e] : -INFINITY;
            largest = fmaxf(largest, z[n]);
        }
        const float chosen = route_choose(a, z, token);
        __syncwarp();
        for (int j = lane_id(); j < a.chosen; j += CUDA_WARP) a.weight[token * a.chosen + j] /= chosen;
        largest = warp_max(largest); /* that a NaN may be hidden does not matter: the sum is one then */
#pragma unroll
        for (int n = 0; n < N; n++)
            if (n * CUDA_WARP + lane_id() < a.experts) sum += expf(z[n] - largest);
        const float lse = largest + logf(warp_sum(sum));
        if (lane_id() == 0) a.lse[token] = lse;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int e = n * CUDA_WARP + lane_id();
            if (e < a.experts) a.prob[token * a.experts + e] = expf(z[n] - lse);
        }
    }
}

/* A block has 8 experts (a sector of a row) of a sequence; threadIdx.y takes every blockDim.y-th token; then in pairs. */
#define LOAD_EXPERTS 8
#define LOAD_WAYS    64
static __global__ void __launch_bounds__(LOAD_EXPERTS *LOAD_WAYS) route_load_kernel(route_args a) {
    WEFT_SHARED(float, part, 2 * LOAD_WAYS * LOAD_EXPERTS);
    const int tid = (int)(threadIdx.y * LOAD_EXPERTS + threadIdx.x),
              e = (int)(blockIdx.x * LOAD_EXPERTS + threadIdx.x);
    float *count = part, *share = part + LOAD_WAYS * LOAD_EXPERTS;
    for (int64_t s = blockIdx.y; s * a.length < a.tokens; s += gridDim.y) {
        float chosen = 0.0f, sum = 0.0f;
        if (e < a.experts) {
#pragma unroll 4
            for (int64_t i = s * a.length + threadIdx.y; i < (s + 1) * a.length; i += blockDim.y) {
                sum += a.prob_in[i * a.experts + e];
                for (int j = 0; j < a.chosen; j++) chosen += a.choice_in[i * a.chosen + j] == e ? 1.0f : 0.0f;
            }
        }
        count[tid] = chosen;
        share[tid] = sum;
        __syncthreads();
        for (unsigned n = blockDim.y / 2; n; n /= 2) {
            if (threadIdx.y < n) {
                count[tid] += count[tid + n * LOAD_EXPERTS];
                share[tid] += share[tid + n * LOAD_EXPERTS];
            }
            __syncthreads();
        }
        if (threadIdx.y == 0 && e < a.experts) {
            a.load[s * a.experts + e] = count[tid];
            a.share[s * a.experts + e] = share[tid];
        }
        __syncthreads();
    }
}

template <class T> static __global__ void __launch_bounds__(ROUTE_THREADS) route_bwd_kernel(route_args a) {
    for (int64_t token = rows_first(); token < a.tokens; token += rows_step()) {
        const float *p = a.prob_in + token * a.experts, *load = a.load_in + token / a.length * a.experts;
        const float *w = a.weight_in + token * a.chosen, *dw = a.dweight + token * a.chosen;
        const int32_t *choice = a.choice_in + token * a.chosen;
        float mean = 0.0f, among = 0.0f;
        for (int e = lane_id(); e < a.experts; e += CUDA_WARP) mean = fmaf(p[e], a.balance * load[e], mean);
        for (int j = lane_id(); j < a.chosen; j += CUDA_WARP) among = fmaf(w[j], dw[j], among);
        const float shift = 2.0f * a.zloss * a.lse_in[token] - warp_sum(mean);
        among = warp_sum(among);
        for (int e = lane_id(); e < a.experts; e += CUDA_WARP) {
            float dz = p[e] * fmaf(a.balance, load[e], shift);
            for (int j = 0; j < a.chosen; j++)
                if (choice[j] == e) dz = fmaf(w[j], dw[j] - among, dz);
            store1((T *)a.dlogits + token * a.experts + e, dz);
        }
    }
}

static route_args route_args_of(const weft_route_desc *d) {
    route_args a;
    memset(&a, 0, sizeof a);
    a.tokens = d->tokens;
    a.length = d->length;
    a.experts = d->experts;
    a.chosen = d->chosen;
    a.balance = d->balance;
    a.zloss = d->zloss;
    return a;
}

/* A warp a token. */
static weft_status route_launch(weft_exec *x, const char *name, void (*kernel)(route_args),
                                const route_args *a) {
    const dim3 block(CUDA_WARP, ROUTE_THREADS / CUDA_WARP);
    return cuda_launch(x, name, kernel, dim3(rows_grid(a->tokens, block.y)), block, 0, *a);
}

extern "C" weft_status cuda_route_fwd(weft_exec *x, const weft_route_desc *d, const float *logits,
                                      float *prob, float *lse, int32_t *choice, float *weight) {
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_fwd", d->tokens == 0 || (logits && prob && lse && choice && weight)));
    route_args a = route_args_of(d);
    a.logits = logits;
    a.prob = prob;
    a.lse = lse;
    a.choice = choice;
    a.weight = weight;
    const int64_t n = divup(d->experts, CUDA_WARP);
    return route_launch(x, "route_fwd",
                        n <= 1   ? route_fwd_kernel<1>
                        : n <= 2 ? route_fwd_kernel<2>
                        : n <= 4 ? route_fwd_kernel<4>
                        : n <= 8 ? route_fwd_kernel<8>
                                 : route_fwd_kernel<ROUTE_MOST>,
                        &a);
}

extern "C" weft_status cuda_route_load(weft_exec *x, const weft_route_desc *d, const float *prob,
                                       const int32_t *choice, float *load, float *share) {
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_load", d->tokens == 0 || (prob && choice && load && share)));
    route_args a = route_args_of(d);
    a.prob_in = prob;
    a.choice_in = choice;
    a.load = load;
    a.share = share;
    const int64_t sequences = d->tokens / d->length;
    unsigned ways = 4;
    while (ways < LOAD_WAYS && ways < d->length) ways *= 2;
    return cuda_launch(
        x, "route_load", route_load_kernel,
        dim3((unsigned)divup(d->experts, LOAD_EXPERTS), (unsigned)(sequences < 65535 ? sequences : 65535)),
        dim3(LOAD_EXPERTS, ways), 0, a);
}

extern "C" weft_status cuda_route_bwd(weft_exec *x, const weft_route_desc *d, const float *prob,
                                      const float *lse, const int32_t *choice, const float *weight,
                                      const float *load, const float *dweight, void *dlogits) {
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given(
        "route_bwd", d->tokens == 0 || (prob && lse && choice && weight && load && dweight && dlogits)));
    route_args a = route_args_of(d);
    a.prob_in = prob;
    a.lse_in = lse;
    a.choice_in = choice;
    a.weight_in = weight;
    a.load_in = load;
    a.dweight = dweight;
    a.dlogits = dlogits;
    return route_launch(x, "route_bwd",
                        d->t == WEFT_F32 ? route_bwd_kernel<float> : route_bwd_kernel<uint16_t>, &a);
}

/* --- sorting --------------------------------------------------------------------------------------------------------------- */

struct route_sort_args {
    const int32_t *choice;
    int32_t *place;
    int64_t *first; /* pinned memory of the host: experts + 1 */
    int32_t *fault;
    int64_t n;
    int32_t experts, bits;
};

static __global__ void __launch_bounds__(SORT_WARPS *CUDA_WARP) route_sort_kernel(route_sort_args a) {
    WEFT_DYNAMIC(shared);
    const sort_counts c = {(uint32_t *)shared + ((size_t)1 << a.bits), (uint32_t *)shared, a.bits};
    sort_pass(
        a.n, 0, c,
        [&](int64_t i) {
            const int32_t e = a.choice[i];
            const bool wrong = e < 0 || e >= a.experts;
            if (wrong) raise_fault(a.fault, WEFT_ERR_VOCAB);
            return sort_item{wrong ? SORT_NONE : (uint32_t)e, (uint32_t)i};
        },
        [&](uint32_t place, sort_item item) { a.place[item.index] = (int32_t)place; });
    for (int e = (int)threadIdx.x; e <= a.experts; e += (int)blockDim.x)
        a.first[e] = e < a.experts ? (int64_t)c.total[e] : a.n;
}

extern "C" weft_status cuda_route_sort(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice,
                                       int64_t *first, int32_t *place) {
    WEFT_TRY(weft_check_route_sort_shape(n, experts, choice, first, place));
    int64_t *result = (int64_t *)cuda_of(x)->results;
    route_sort_args a = {choice, place, result, cuda_of(x)->fault, n, experts, 1};
    while (experts > 1 << a.bits) a.bits++;
    const unsigned threads = sort_threads(n);
    WEFT_TRY(cuda_launch(x, "route_sort", route_sort_kernel, dim3(1), dim3(threads),
                         sort_shared(threads, a.bits), a));
    WEFT_TRY(cuda_sync(x));
    memcpy(first, result, ((size_t)experts + 1) * sizeof *first);
    return WEFT_OK;
}

/* --- rows ------------------------------------------------------------------------------------------------------------------ */

struct rows_args {
    const void *in, *residual; /* residual NULL: none */
    const int32_t *place;
    const float *weight; /* NULL: ones */
    void *out;
    float *dweight;
    int64_t tokens, cols;
    int32_t chosen;
};

template <class T, int V>
static __global__ void __launch_bounds__(ROWS_THREADS) rows_scatter_kernel(rows_args a) {
    for (int64_t i = rows_first(); i < a.tokens; i += rows_step())
        for (int64_t at = (int64_t)threadIdx.x * V; at < a.cols; at += (int64_t)blockDim.x * V) {
            const typename raw_of<T, V>::type w = raw_load<T, V>((const T *)a.in + i * a.cols + at);
            for (int j = 0; j < a.chosen; j++)
                *(typename raw_of<T, V>::type *)((T *)a.out + a.place[i * a.chosen + j] * a.cols + at) = w;
        }
}

#define COMBINE_AHEAD 4 /* rows under way */
template <class T, int V>
static __global__ void __launch_bounds__(ROWS_THREADS, 4) rows_combine_kernel(rows_args a) {
    for (int64_t i = rows_first(); i < a.tokens; i += rows_step())
        for (int64_t at = (int64_t)threadIdx.x * V; at < a.cols; at += (int64_t)blockDim.x * V) {
            float sum[V], v[V];
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] = 0.0f;
            if (a.residual) floats_load((const T *)a.residual + i * a.cols + at, sum);
            for (int first = 0; first < a.chosen; first += COMBINE_AHEAD) {
                typename raw_of<T, V>::type w[COMBINE_AHEAD];
#pragma unroll
                for (int j = 0; j < COMBINE_AHEAD; j++)
                    if (first + j < a.chosen)
                        w[j] =
                            raw_load<T, V>((const T *)a.in + a.place[i * a.chosen + first + j] * a.cols + at);
#pragma unroll
                for (int j = 0; j < COMBINE_AHEAD; j++) {
                    if (first + j >= a.chosen) break;
                    const float weight = a.weight ? a.weight[i * a.chosen + first + j] : 1.0f;
                    raw_floats(w[j], v);
#pragma unroll
                    for (int k = 0; k < V; k++) sum[k] = fmaf(weight, v[k], sum[k]);
                }
            }
            floats_store((T *)a.out + i * a.cols + at, sum);
        }
}

/* A warp for each choice of each token; it has BACK_AHEAD vectors of both rows under way. */
#define BACK_AHEAD 2
template <class T, int V>
static __global__ void __launch_bounds__(ROWS_THREADS) rows_combine_bwd_kernel(rows_args a) {
    for (int64_t n = rows_first(); n < a.tokens * a.chosen; n += rows_step()) {
        const T *dout = (const T *)a.in + n / a.chosen * a.cols;
        T *row = (T *)a.out + a.place[n] * a.cols;
        const float weight = a.weight[n];
        float sum = 0.0f;
        for (int64_t first = (int64_t)lane_id() * V; first < a.cols; first += CUDA_WARP * V * BACK_AHEAD) {
            typename raw_of<T, V>::type dw[BACK_AHEAD], w[BACK_AHEAD];
            float dy[V], y[V];
#pragma unroll
            for (int k = 0; k < BACK_AHEAD; k++)
                if (first + k * CUDA_WARP * V < a.cols) {
                    dw[k] = raw_load<T, V>(dout + first + k * CUDA_WARP * V);
                    w[k] = raw_load<T, V>(row + first + k * CUDA_WARP * V);
                }
#pragma unroll
            for (int k = 0; k < BACK_AHEAD; k++) {
                if (first + k * CUDA_WARP * V >= a.cols) break;
                raw_floats(dw[k], dy);
                raw_floats(w[k], y);
#pragma unroll
                for (int i = 0; i < V; i++) {
                    y[i] *= dy[i];
                    dy[i] *= weight;
                }
                sum += vector_sum(y);
                floats_store(row + first + k * CUDA_WARP * V, dy);
            }
        }
        sum = warp_sum(sum);
        if (lane_id() == 0) a.dweight[n] = sum;
    }
}

static rows_args rows_args_of(const weft_rows_desc *d, const void *in, const int32_t *place, void *out) {
    rows_args a;
    memset(&a, 0, sizeof a);
    a.in = in;
    a.place = place;
    a.out = out;
    a.tokens = d->tokens;
    a.cols = d->cols;
    a.chosen = d->chosen;
    return a;
}

static int rows_whole(const weft_rows_desc *d, const void *a, const void *b, const void *c) {
    return d->cols % rows_vector(d->t) == 0 && rows_aligned(a) && rows_aligned(b) && rows_aligned(c);
}

/* Threads side by side over the row of a token. */
static weft_status rows_launch(weft_exec *x, const char *name, void (*kernel)(rows_args),
                               const weft_rows_desc *d, int whole, const rows_args *a) {
    const dim3 block = rows_block(d->cols / (whole ? rows_vector(d->t) : 1), ROWS_THREADS);
    return cuda_launch(x, name, kernel, dim3(d->cols ? rows_grid(d->tokens, block.y) : 0), block, 0, *a);
}

extern "C" weft_status cuda_rows_scatter(weft_exec *x, const weft_rows_desc *d, const void *in,
                                         const int32_t *place, void *out) {
    WEFT_TRY(weft_check_rows(d, in, place, out));
    const rows_args a = rows_args_of(d, in, place, out);
    const int whole = rows_whole(d, in, out, NULL);
    return rows_launch(x, "rows_scatter", ROWS_KERNEL(rows_scatter_kernel, d->t, whole), d, whole, &a);
}

extern "C" weft_status cuda_rows_combine(weft_exec *x, const weft_rows_desc *d, const void *in,
                                         const int32_t *place, const float *weight, const void *residual,
                                         void *out) {
    WEFT_TRY(weft_check_rows(d, in, place, out));
    rows_args a = rows_args_of(d, in, place, out);
    a.weight = weight;
    a.residual = residual;
    const int whole = rows_whole(d, in, residual, out);
    return rows_launch(x, "rows_combine", ROWS_KERNEL(rows_combine_kernel, d->t, whole), d, whole, &a);
}

extern "C" weft_status cuda_rows_combine_bwd(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                             const int32_t *place, const float *weight, void *rows,
                                             float *dweight) {
    WEFT_TRY(weft_check_rows(d, dout, place, rows));
    WEFT_TRY(weft_check_given("rows_combine_bwd", d->tokens == 0 || (weight && dweight)));
    rows_args a = rows_args_of(d, dout, place, rows);
    a.weight = weight;
    a.dweight = dweight;
    const dim3 block(CUDA_WARP, ROWS_THREADS / CUDA_WARP);
    return cuda_launch(x, "rows_combine_bwd",
                       ROWS_SUM_KERNEL(rows_combine_bwd_kernel, d->t, d->cols % rows_vector(d->t) == 0,
                                       rows_aligned(dout) && rows_aligned(rows)),
                       dim3(rows_grid(d->tokens * d->chosen, block.y)), block, 0, a);
}
