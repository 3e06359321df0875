/* Attention for every descriptor: f32 or bf16, any head dimension, any strides. Plain fp32 arithmetic in shared memory; what
 * the faster kernels do not take comes here, and they are compared with it.
 *
 * Forward: a block makes CHUNK channels of ROWS rows (see attention.cuh). It goes through the keys that its rows see, KEYS
 * at a time: scores by slices of the head dimension, online softmax (Milakov & Gimelshein 2018), then the product with V.
 * Where the head dimension is more than CHUNK, several blocks compute the same scores.
 *
 * Backward (Dao, FlashAttention-2, 2023), without atomics: one pass over rows makes dQ, one over keys makes dK and dV. The
 * two are mirror images, one kernel: its tile of `own` rows stays (queries, or keys), the `other` ones pass by. With x = own
 * and y = other: s = x.y of Q and K, dp = x.y of dO and V; p = exp(s - lse), ds = p (dp - D).
 *
 * Per tile pair ROWS * KEYS * (hd + CHUNK) fma on as many fp32 units, both operands from shared memory: at best a third of
 * the fp32 peak, by the count of shared-memory accesses (never measured). */
#include "kernels/cuda/attention.cuh"

enum {
    TILE = 32,  /* rows and keys of a tile */
    SLICE = 32, /* of the head dimension, for scores */
    CHUNK = 64, /* channels of the output that a block makes */
    THREADS =
        128, /* a thread has 4 rows and 2 columns of a tile of scores, 4 rows and 4 channels of an output */
    OWN = 4,
    PITCH = SLICE + 1,
    WIDE = CHUNK + 1
};

/* Rows of a thread: mine() .. + OWN; columns: column() + 16 n. The 16 threads of a row are half a warp. */
static __device__ __forceinline__ int mine() {
    return (int)threadIdx.x / 16 * OWN;
}
static __device__ __forceinline__ int column() {
    return (int)threadIdx.x % 16;
}

static __device__ __forceinline__ float half_max(float v) {
#pragma unroll
    for (int d = 8; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}
static __device__ __forceinline__ float half_sum(float v) {
#pragma unroll
    for (int d = 8; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

/* One tensor as a kernel sees it: queries go by rows, keys by keys. */
template <class T> struct view {
    const T *data;
    const int64_t (&stride)[3];
    int by_row, n; /* n: rows or keys there are */
};

/* Copies channels [c0, c0 + width) of tokens [first, first + TILE) to shared memory; 0 outside. */
template <class T>
static __device__ __forceinline__ void stage(const attn_args &a, const attn_place &p, const view<T> &t,
                                             int first, int c0, int width, int pitch, float *to) {
    for (int i = (int)threadIdx.x; i < TILE * width; i += THREADS) {
        const int token = first + i / width, c = c0 + i % width;
        float v = 0;
        if (token < t.n && c < a.d.hd)
            v = load1(t.data +
                      (t.by_row ? attn_row_at(a, t.stride, p, token) : attn_key_at(t.stride, p, token)) + c);
        to[i / width * pitch + i % width] = v;
    }
}

/* s[OWN][2] += products over the head dimension of x's tokens from x0 on with y's from y0 on. */
template <class T>
static __device__ __forceinline__ void products(const attn_args &a, const attn_place &p, const view<T> &x,
                                                int x0, const view<T> &y, int y0, float *left, float *right,
                                                float (&s)[OWN][2]) {
    for (int c0 = 0; c0 < a.d.hd; c0 += SLICE) {
        __syncthreads();
        stage(a, p, x, x0, c0, SLICE, PITCH, left);
        stage(a, p, y, y0, c0, SLICE, PITCH, right);
        __syncthreads();
        for (int c = 0; c < SLICE; c++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float r = right[(column() + 16 * n) * PITCH + c];
#pragma unroll
                for (int m = 0; m < OWN; m++) s[m][n] = fmaf(left[(mine() + m) * PITCH + c], r, s[m][n]);
            }
    }
}

/* out[OWN][4] += weights of the thread's rows times the channels from c0 on of y's tokens. */
template <class T>
static __device__ __forceinline__ void weigh(const attn_args &a, const attn_place &p, const float *weight,
                                             const view<T> &y, int y0, int c0, float *right,
                                             float (&out)[OWN][4]) {
    __syncthreads();
    stage(a, p, y, y0, c0, CHUNK, WIDE, right);
    __syncthreads();
    for (int j = 0; j < TILE; j++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const float r = right[j * WIDE + column() + 16 * n];
#pragma unroll
            for (int m = 0; m < OWN; m++) out[m][n] = fmaf(weight[(mine() + m) * PITCH + j], r, out[m][n]);
        }
}

template <class T>
static __device__ __forceinline__ void put(const attn_args &a, T *to, int64_t at, int c0,
                                           const float (&out)[4], float factor) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const int c = c0 + column() + 16 * n;
        if (c < a.d.hd) store1(to + at + c, out[n] * factor);
    }
}

/* --- forward ------------------------------------------------------------------------------------------------------- */

/* Intervals of the tile's rows, and what they span together. */
static __device__ __forceinline__ void intervals(const attn_args &a, const attn_place &p, int row0,
                                                 int *first, int *end, int *low, int *high) {
    if (threadIdx.x < TILE)
        attn_visible(a, p, row0 + (int)threadIdx.x, &first[threadIdx.x], &end[threadIdx.x]);
    __syncthreads();
    *low = a.keys;
    *high = 0;
    for (int i = 0; i < TILE; i++) {
        *low = first[i] < *low ? first[i] : *low;
        *high = end[i] > *high ? end[i] : *high;
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 4) attn_simple_rows(const attn_args a, int chunks) {
    WEFT_SHARED(float, left, TILE *PITCH);
    WEFT_SHARED(float, right, TILE *WIDE);
    WEFT_SHARED(float, weight, TILE *PITCH);
    WEFT_SHARED(int, first, TILE);
    WEFT_SHARED(int, end, TILE);
    const int item = (int)(blockIdx.x / (unsigned)chunks), c0 = (int)(blockIdx.x % (unsigned)chunks) * CHUNK;
    const attn_place p = attn_place_of(a, item % a.pairs);
    const int row0 = ((a.rows - 1) / TILE - item / a.pairs) * TILE;
    const view<T> q = {(const T *)a.q, a.d.sq, 1, a.rows}, k = {(const T *)a.k, a.d.sk, 0, a.keys},
                  v = {(const T *)a.v, a.d.sv, 0, a.keys};
    float max[OWN], sum[OWN] = {0}, out[OWN][4] = {{0}};
    int low, high;
    intervals(a, p, row0, first, end, &low, &high);
    for (int m = 0; m < OWN; m++) max[m] = -INFINITY;
    for (int key0 = low; key0 < high; key0 += TILE) {
        float s[OWN][2] = {{0}};
        products(a, p, q, row0, k, key0, left, right, s);
#pragma unroll
        for (int m = 0; m < OWN; m++) {
            float top = max[m];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int key = key0 + column() + 16 * n;
                s[m][n] =
                    key >= first[mine() + m] && key < end[mine() + m] ? s[m][n] * a.exponent : -INFINITY;
                top = fmaxf(top, s[m][n]);
            }
            top = half_max(top);
            const float base = top == -INFINITY ? 0.0f : top, shrink = exp2f(max[m] - base);
            max[m] = top;
            sum[m] *= shrink;
#pragma unroll
            for (int n = 0; n < 4; n++) out[m][n] *= shrink;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float w = exp2f(s[m][n] - base);
                sum[m] += w;
                weight[(mine() + m) * PITCH + column() + 16 * n] = w;
            }
        }
        weigh(a, p, weight, v, key0, c0, right, out);
    }
#pragma unroll
    for (int m = 0; m < OWN; m++) {
        const int row = row0 + mine() + m;
        const float total = half_sum(sum[m]);
        if (row >= a.rows) continue;
        const int seen = end[mine() + m] > 0; /* else o is 0 */
        put(a, (T *)a.o, attn_row_at(a, a.d.so, p, row), c0, out[m], seen ? 1.0f / total : 0.0f);
        if (c0 == 0 && column() == 0)
            a.lse[attn_lse_at(a, p, row)] = seen ? (max[m] + log2f(total)) * ATTN_LN2 : -INFINITY;
    }
}

weft_status attn_simple_forward(weft_exec *x, const attn_args *a) {
    const int chunks = (int)divup(a->d.hd, CHUNK);
    const dim3 grid((unsigned)(divup(a->rows, TILE) * a->pairs * chunks));
    if (a->d.t == WEFT_F32)
        return cuda_launch(x, "attn_fwd", attn_simple_rows<float>, grid, dim3(THREADS), 0, *a, chunks);
    return cuda_launch(x, "attn_fwd", attn_simple_rows<uint16_t>, grid, dim3(THREADS), 0, *a, chunks);
}

/* --- backward ------------------------------------------------------------------------------------------------------ */

/* One warp a row: D = dO . O. */
template <class T> __global__ void __launch_bounds__(THREADS) attn_stats(const attn_args a) {
    const int64_t at = (int64_t)blockIdx.x * (THREADS / CUDA_WARP) + warp_id();
    if (at >= (int64_t)a.pairs * a.rows) return; /* whole warps: no barrier follows */
    const attn_place p = attn_place_of(a, (int)(at / a.rows));
    const int row = (int)(at % a.rows);
    const T *o = (const T *)a.o + attn_row_at(a, a.d.so, p, row),
            *dout = (const T *)a.dout + attn_row_at(a, a.d.so, p, row);
    float sum = 0;
    for (int c = lane_id(); c < a.d.hd; c += CUDA_WARP) sum = fmaf(load1(o + c), load1(dout + c), sum);
    sum = warp_sum(sum);
    if (lane_id() == 0) a.stats[at] = make_float2(a.lse[attn_lse_at(a, p, row)] * ATTN_LOG2E, sum);
}

weft_status attn_row_stats(weft_exec *x, const attn_args *a) {
    const dim3 grid((unsigned)divup((int64_t)a->pairs * a->rows, THREADS / CUDA_WARP));
    return cuda_launch(x, "attn_bwd: D", a->d.t == WEFT_F32 ? attn_stats<float> : attn_stats<uint16_t>, grid,
                       dim3(THREADS), 0, *a);
}

/* Rows that pass by a tile of keys: where their intervals are, and their lse and D. */
static __device__ __forceinline__ void fetch_rows(const attn_args &a, const attn_place &p, int pair, int row0,
                                                  int *first, int *end, float2 *stats) {
    __syncthreads();
    if (threadIdx.x < TILE) {
        const int row = row0 + (int)threadIdx.x;
        attn_visible(a, p, row, &first[threadIdx.x], &end[threadIdx.x]);
        stats[threadIdx.x] = row < a.rows ? a.stats[(int64_t)pair * a.rows + row] : make_float2(0, 0);
    }
    __syncthreads();
}

/* KEYS: own are keys, and dK and dV are made; else rows, and dQ. */
template <class T, int KEYS>
__global__ void __launch_bounds__(THREADS, 4) attn_simple_gradient(const attn_args a, int chunks) {
    WEFT_SHARED(float, left, TILE *PITCH);
    WEFT_SHARED(float, right, TILE *WIDE);
    WEFT_SHARED(float, p_tile, TILE *PITCH);
    WEFT_SHARED(float, ds_tile, TILE *PITCH);
    WEFT_SHARED(int, first, TILE);
    WEFT_SHARED(int, end, TILE);
    WEFT_SHARED(float2, stats, TILE);
    const int item = (int)(blockIdx.x / (unsigned)chunks), c0 = (int)(blockIdx.x % (unsigned)chunks) * CHUNK;
    const int pair = item % a.pairs, tile = item / a.pairs;
    const int own0 = (KEYS ? tile : (a.rows - 1) / TILE - tile) * TILE;
    const attn_place p = attn_place_of(a, pair);
    const view<T> q = {(const T *)a.q, a.d.sq, 1, a.rows}, k = {(const T *)a.k, a.d.sk, 0, a.keys},
                  v = {(const T *)a.v, a.d.sv, 0, a.keys}, g = {(const T *)a.dout, a.d.so, 1, a.rows};
    float out[OWN][4] = {{0}}, out_v[OWN][4] = {{0}};
    int low, high;
    if (KEYS) {
        attn_viewers(a, own0, own0 + TILE, &low, &high);
    } else {
        fetch_rows(a, p, pair, own0, first, end, stats);
        intervals(a, p, own0, first, end, &low, &high);
    }
    for (int other0 = low; other0 < high; other0 += TILE) {
        float s[OWN][2] = {{0}}, dp[OWN][2] = {{0}};
        if (KEYS) fetch_rows(a, p, pair, other0, first, end, stats);
        products(a, p, KEYS ? k : q, own0, KEYS ? q : k, other0, left, right, s);
        products(a, p, KEYS ? v : g, own0, KEYS ? g : v, other0, left, right, dp);
#pragma unroll
        for (int m = 0; m < OWN; m++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int own = mine() + m, other = column() + 16 * n, row = KEYS ? other : own;
                const int key = KEYS ? own0 + own : other0 + other;
                const int seen = key >= first[row] && key < end[row];
                const float w = seen ? exp2f(fmaf(s[m][n], a.exponent, -stats[row].x)) : 0.0f;
                p_tile[own * PITCH + other] = w;
                ds_tile[own * PITCH + other] = seen ? w * (dp[m][n] - stats[row].y) : 0.0f;
            }
        weigh(a, p, ds_tile, KEYS ? q : k, other0, c0, right, out);
        if (KEYS) weigh(a, p, p_tile, g, other0, c0, right, out_v);
    }
#pragma unroll
    for (int m = 0; m < OWN; m++) {
        const int own = own0 + mine() + m;
        if (own >= (KEYS ? a.keys : a.rows)) continue;
        if (KEYS) {
            put(a, (T *)a.dk, attn_key_at(a.d.sk, p, own), c0, out[m], a.d.scale);
            put(a, (T *)a.dv, attn_key_at(a.d.sv, p, own), c0, out_v[m], 1.0f);
        } else {
            put(a, (T *)a.dq, attn_row_at(a, a.d.sq, p, own), c0, out[m], a.d.scale);
        }
    }
}

template <class T> static weft_status backward(weft_exec *x, const attn_args *a) {
    const int chunks = (int)divup(a->d.hd, CHUNK);
    const int64_t blocks = (int64_t)a->pairs * chunks;
    WEFT_TRY(attn_row_stats(x, a));
    WEFT_TRY(cuda_launch(x, "attn_bwd: dQ", attn_simple_gradient<T, 0>,
                         dim3((unsigned)(divup(a->rows, TILE) * blocks)), dim3(THREADS), 0, *a, chunks));
    return cuda_launch(x, "attn_bwd: dK, dV", attn_simple_gradient<T, 1>,
                       dim3((unsigned)(divup(a->keys, TILE) * blocks)), dim3(THREADS), 0, *a, chunks);
}

weft_status attn_simple_backward(weft_exec *x, const attn_args *a) {
    return a->d.t == WEFT_F32 ? backward<float>(x, a) : backward<uint16_t>(x, a);
}
