/* FlashAttention-2 backward on the tensor cores of every GPU from sm_80 on; what attention_flash.cu takes, it takes.
 *
 * Two passes without atomics, same bits every run: over rows for dQ, over keys for dK and dV (7 products instead of the 5 of
 * one pass whose dQ is added up in memory). The two are mirror images, one kernel: a block of eight warps keeps a tile of 128
 * `own` tokens of x1, x2 and goes through tiles of 64 `other` ones, y1, y2, two stages of cp.async:
 *   rows: own queries (x = Q, dO), other keys (y = K, V):    dQ += dS y1
 *   keys: own keys (x = K, V), other queries (y = Q, dO):    dK += dS y1, dV += P y2     (all transposed)
 * with S = x1 y1^T, dP = x2 y2^T, P = exp(S - lse), dS = P (dP - D), for 16 own tokens a warp and 32 others at a time, so
 * that all of it stays in registers: P and dS, rounded to bf16, are left operands as they are.
 *
 * Expected, never measured: as the forward pass bound by mma.sync and by shared memory (0.56 ldmatrix.x4 a mma, which on an
 * A100 is as long as the mma itself), so about half of the mma.sync peak. */
#include "kernels/cuda/attention_flash.cuh"

enum { WARPS = 8, THREADS = WARPS * CUDA_WARP, OWN = 128, OTHER = 64, STEP = 32 };

/* What a stage holds of rows that pass by: their intervals, lse and D. */
struct passing {
    intervals<OTHER> seen;
    float2 stats[OTHER];
};

template <int HD> struct gradient_shared {
    unsigned char own[2][OWN * HD * 2], other[2][2][OTHER * HD * 2];
    intervals<OWN> seen; /* of own rows */
    passing stage[2];
};

template <int HD, int KEYS>
static __device__ __forceinline__ void fetch_other(const attn_args &a, const attn_place &p, int pair,
                                                   int other0, unsigned char (*to)[OTHER * HD * 2],
                                                   passing *stage) {
    tile_fetch<HD, OTHER, THREADS, KEYS>(a, p, KEYS ? a.q : a.k, KEYS ? a.d.sq : a.d.sk, other0, to[0]);
    tile_fetch<HD, OTHER, THREADS, KEYS>(a, p, KEYS ? a.dout : a.v, KEYS ? a.d.so : a.d.sv, other0, to[1]);
    if (KEYS) {
        find_intervals<OTHER>(a, p, other0, &stage->seen);
        if (threadIdx.x < OTHER) {
            const int row = other0 + (int)threadIdx.x;
            stage->stats[threadIdx.x] =
                row < a.rows ? a.stats[(int64_t)pair * a.rows + row] : make_float2(0, 0);
        }
    }
}

/* s = x y^T of 16 own tokens and STEP others. */
template <int HD>
static __device__ __forceinline__ void products(const unsigned char *x, int own, const unsigned char *y,
                                                int other, float (&s)[STEP / 8][4]) {
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int c = 0; c < HD / 16; c++) {
        uint32_t left[4];
        tile_left<HD>(x, own, c, left);
#pragma unroll
        for (int n = 0; n < STEP / 16; n++) {
            uint32_t right[2][2];
            tile_right<HD>(y, other + 16 * n, c, right);
            mma_m16n8k16(s[2 * n], left, right[0]);
            mma_m16n8k16(s[2 * n + 1], left, right[1]);
        }
    }
}

/* out += w y */
template <int HD>
static __device__ __forceinline__ void add_product(const float (&w)[STEP / 8][4], const unsigned char *y,
                                                   int other, float (&out)[HD / 8][4]) {
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        uint32_t left[4];
        tile_weights(w[2 * k], w[2 * k + 1], left);
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            uint32_t right[2][2];
            tile_values<HD>(y, other + 16 * k, n, right);
            mma_m16n8k16(out[2 * n], left, right[0]);
            mma_m16n8k16(out[2 * n + 1], left, right[1]);
        }
    }
}

/* A warp's own tokens, rows g and g + 8 of them; rows: what they see, their lse and D. */
struct own_rows {
    int2 seen[2];
    float2 stats[2];
};

/* s and dp become P and dS. own, other: the first of the fragments in their tiles; own0, other0: of the tiles. */
template <int KEYS, int MASKED>
static __device__ __forceinline__ void weights(const attn_args &a, const own_rows &rows, const passing *stage,
                                               int own, int other0, int other, float (&s)[STEP / 8][4],
                                               float (&dp)[STEP / 8][4]) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int h = i / 2, column = other + 8 * n + 2 * t + i % 2;
            const float2 stats = KEYS ? stage->stats[column] : rows.stats[h];
            float w = fast_exp2(fmaf(s[n][i], a.exponent, -stats.x)), ds = w * (dp[n][i] - stats.y);
            if (MASKED) {
                const int2 seen = KEYS ? stage->seen.of[column] : rows.seen[h];
                const int key = KEYS ? own + g + 8 * h : other0 + column;
                if (key < seen.x || key >= seen.y) w = ds = 0;
            }
            s[n][i] = w;
            dp[n][i] = ds;
        }
}

template <int HD, int KEYS, int MASKED>
static __device__ __forceinline__ void tile_step(const attn_args &a, const gradient_shared<HD> *m, int stage,
                                                 int own0, int other0, const own_rows &rows,
                                                 float (&out)[HD / 8][4], float (&out_v)[HD / 8][4]) {
    const int own = warp_id() * 16;
#pragma unroll 1
    for (int other = 0; other < OTHER; other += STEP) {
        float s[STEP / 8][4], dp[STEP / 8][4];
        products<HD>(m->own[0], own, m->other[stage][0], other, s);
        products<HD>(m->own[1], own, m->other[stage][1], other, dp);
        weights<KEYS, MASKED>(a, rows, &m->stage[stage], own0 + own, other0, other, s, dp);
        add_product<HD>(dp, m->other[stage][0], other, out);
        if (KEYS) add_product<HD>(s, m->other[stage][1], other, out_v);
    }
}

template <int HD, int KEYS>
__global__ void __launch_bounds__(THREADS) attn_flash_gradient(const attn_args a) {
    WEFT_DYNAMIC(shared);
    gradient_shared<HD> *const m = (gradient_shared<HD> *)shared;
    const int pair = (int)(blockIdx.x % (unsigned)a.pairs), tile = (int)(blockIdx.x / (unsigned)a.pairs);
    const int own0 = (KEYS ? tile : (a.rows - 1) / OWN - tile) * OWN, own = warp_id() * 16;
    const attn_place p = attn_place_of(a, pair);
    int low, high, whole_low = 0, whole_high = 0;
    own_rows rows;
    float out[HD / 8][4], out_v[HD / 8][4];
#pragma unroll
    for (int n = 0; n < HD / 8; n++)
        out[n][0] = out[n][1] = out[n][2] = out[n][3] = out_v[n][0] = out_v[n][1] = out_v[n][2] =
            out_v[n][3] = 0;
    tile_fetch<HD, OWN, THREADS, !KEYS>(a, p, KEYS ? a.k : a.q, KEYS ? a.d.sk : a.d.sq, own0, m->own[0]);
    tile_fetch<HD, OWN, THREADS, !KEYS>(a, p, KEYS ? a.v : a.dout, KEYS ? a.d.sv : a.d.so, own0, m->own[1]);
    if (KEYS) {
        attn_viewers(a, own0, own0 + OWN, &low, &high);
    } else {
        find_intervals<OWN>(a, p, own0, &m->seen);
        __syncthreads();
        span<OWN>(&m->seen, &low, &high, &whole_low, &whole_high);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = own + lane_id() / 4 + 8 * h;
            rows.seen[h] = m->seen.of[r];
            rows.stats[h] =
                own0 + r < a.rows ? a.stats[(int64_t)pair * a.rows + own0 + r] : make_float2(0, 0);
        }
    }
    if (low < high) fetch_other<HD, KEYS>(a, p, pair, low, m->other[0], &m->stage[0]);
    cp_async_commit();
    for (int other0 = low, stage = 0; other0 < high; other0 += OTHER, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* this stage is here; nobody reads the other any more */
        if (other0 + OTHER < high)
            fetch_other<HD, KEYS>(a, p, pair, other0 + OTHER, m->other[stage ^ 1], &m->stage[stage ^ 1]);
        cp_async_commit();
        int from = other0, to = other0 + OTHER, seen_low = low,
            seen_high = high; /* keys of the tiles; what they see */
        if (KEYS) {
            from = own0 + own, to = from + 16;
            span<OTHER>(&m->stage[stage].seen, &seen_low, &seen_high, &whole_low, &whole_high);
        } else {
            seen_low = m->seen.low[own / CUDA_WARP], seen_high = m->seen.high[own / CUDA_WARP];
        }
        if (from >= seen_high || to <= seen_low) continue;
        if (from >= whole_low && to <= whole_high)
            tile_step<HD, KEYS, 0>(a, m, stage, own0, other0, rows, out, out_v);
        else
            tile_step<HD, KEYS, 1>(a, m, stage, own0, other0, rows, out, out_v);
    }
    cp_async_wait<0>();
    __syncthreads();
    const float scale[2] = {a.d.scale, a.d.scale}, one[2] = {1, 1};
    tile_store<HD, !KEYS>(a, p, m->own[0], own, out, scale, own0, KEYS ? a.d.sk : a.d.sq, KEYS ? a.dk : a.dq);
    if (KEYS) tile_store<HD, 0>(a, p, m->own[1], own, out_v, one, own0, a.d.sv, a.dv);
}

template <int HD> static weft_status backward(weft_exec *x, const attn_args *a) {
    WEFT_TRY(attn_row_stats(x, a));
    WEFT_TRY(cuda_launch(x, "attn_bwd: dQ", attn_flash_gradient<HD, 0>,
                         dim3((unsigned)(divup(a->rows, OWN) * a->pairs)), dim3(THREADS),
                         sizeof(gradient_shared<HD>), *a));
    return cuda_launch(x, "attn_bwd: dK, dV", attn_flash_gradient<HD, 1>,
                       dim3((unsigned)(divup(a->keys, OWN) * a->pairs)), dim3(THREADS),
                       sizeof(gradient_shared<HD>), *a);
}

/* GPUs of 8.6, 8.9 and 12 have 99 KiB of shared memory a block, which is too little for wide heads. */
weft_status attn_flash_backward(weft_exec *x, const attn_args *a) {
    if (a->d.hd > 64 && sizeof(gradient_shared<128>) > cuda_device(x)->shared_most)
        return attn_simple_backward(x, a);
    return a->d.hd > 64 ? backward<128>(x, a) : backward<64>(x, a);
}
