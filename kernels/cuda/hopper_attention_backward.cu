/* FlashAttention backward for Hopper: wgmma and TMA; what hopper_attention.cu takes.
 *
 * Two passes without atomics, as attention_flash_backward.cu, and one kernel for both, for they are mirror images: a tile of
 * 64 `own` tokens a consumer (x1, x2) stays in shared memory, tiles of 64 `other` ones (y1, y2) pass by:
 *   rows: own queries (x = Q, dO), other keys (y = K, V):    dQ += dS y1
 *   keys: own keys (x = K, V), other queries (y = Q, dO):    dK += dS y1, dV += P y2     (all transposed)
 * S = x1 y1^T and dP = x2 y2^T go to registers, P = exp(S - lse) and dS = P (dP - D) are rounded there and are left operands
 * as they are; y1 and y2 are read as both kinds of right operand. While one consumer is at exp, the others' products run.
 * What consumers need of rows that pass by (lse, D, the keys that they see) the producer's warp puts beside the tile.
 *
 * Why not one pass, 5 products instead of 7: its dQ is added up in memory, either by atomics in any order (other bits each
 * run) or by blocks that wait for each other. Measure that on a device first.
 *
 * Expected, never measured, at head dimension 128: a step of 64 x 64 of the keys' pass is 2.1 Mfma, 1024 cycles of an H200's
 * tensor cores, S and dP and their operands from shared memory 4 x 16 KiB read once a consumer: about 512 cycles at 128 bytes;
 * 4096 exp2: 256 cycles; with 5/7 of the flops that are counted, at best about 60 % of the peak. */
#include "kernels/cuda/hopper_attention.cuh"

enum { STAGES = 2, STORE = 1 /* named barriers STORE + consumer */ };

/* own: x1, x2; other: y1, y2; out: of x1 (dQ or dK) and of x2 (dV). */
struct gradient_maps {
    CUtensorMap own[2], other[2], out[2];
};

/* Two sums of 64 channels leave no room for a third consumer. */
template <int HD, int KEYS> constexpr int consumers = HD > 64 || KEYS ? 2 : 3;

/* Of rows that pass by: lse * log2(e) and D; the keys that they see; those that all see. */
struct passing {
    float2 stats[ROWS];
    int2 seen[ROWS];
    int whole_low, whole_high;
};

template <int HD, int KEYS> struct gradient_shared {
    unsigned char own[consumers<HD, KEYS>][2][HD / BOX][BOX_ROWS], other[STAGES][2][HD / BOX][BOX_ROWS];
    passing rows[STAGES];
    uint64_t own_full, own_empty, full[STAGES], empty[STAGES];
};

#ifdef HOPPER_HERE

/* A tile of own tokens, and the others [low, high) that it has to do with. The same in every warp. */
struct own_tile {
    attn_place p;
    int pair, own0, low, high;
};

template <int HD, int KEYS> static __device__ __forceinline__ own_tile tile_of(const attn_args &a, int item) {
    const int n = consumers<HD, KEYS> * ROWS, tiles = ((KEYS ? a.keys : a.rows) + n - 1) / n;
    int whole_low, whole_high;
    own_tile t;
    t.pair = item % a.pairs;
    t.p = attn_place_of(a, t.pair);
    t.own0 = (KEYS ? item / a.pairs : tiles - 1 - item / a.pairs) * n;
    if (KEYS)
        attn_viewers(a, t.own0, t.own0 + n, &t.low, &t.high);
    else
        seen_by(a, t.p, t.own0, n, &t.low, &t.high, &whole_low, &whole_high);
    if (KEYS) t.low -= t.low % ROWS; /* boxes hold whole tokens */
    return t;
}

/* --- producer ------------------------------------------------------------------------------------------------------ */

template <int HD, int KEYS>
static __device__ __forceinline__ void load_own(const attn_args &a, const gradient_maps &maps,
                                                gradient_shared<HD, KEYS> *m, const own_tile &t, int n) {
    mbar_wait(&m->own_empty, (uint32_t)(n & 1) ^ 1);
    mbar_expect_tx(&m->own_full, sizeof m->own);
    for (int c = 0; c < consumers<HD, KEYS>; c++)
        for (int x = 0; x < 2; x++)
            for (int i = 0; i < HD / BOX; i++)
                load_box<!KEYS>(a, t.p, &maps.own[x], &m->own_full, i * BOX, t.own0 + c * ROWS,
                                m->own[c][x][i]);
}

template <int HD, int KEYS>
static __device__ __forceinline__ void load_other(const attn_args &a, const gradient_maps &maps,
                                                  gradient_shared<HD, KEYS> *m, const attn_place &p,
                                                  int other0, int s) {
    mbar_expect_tx(&m->full[s], sizeof m->other[s]);
    for (int y = 0; y < 2; y++)
        for (int i = 0; i < HD / BOX; i++)
            load_box<KEYS>(a, p, &maps.other[y], &m->full[s], i * BOX, other0, m->other[s][y][i]);
}

static __device__ __forceinline__ void describe_rows(const attn_args &a, const own_tile &t, int row0,
                                                     passing *to) {
    int low, high, whole_low, whole_high;
    for (int i = lane_id(); i < ROWS; i += CUDA_WARP) {
        const int row = row0 + i;
        attn_visible(a, t.p, row, &to->seen[i].x, &to->seen[i].y);
        to->stats[i] = row < a.rows ? a.stats[(int64_t)t.pair * a.rows + row] : make_float2(0, 0);
    }
    seen_by(a, t.p, row0, ROWS, &low, &high, &whole_low, &whole_high);
    to->whole_low = whole_low, to->whole_high = whole_high; /* all lanes the same */
}

template <int HD, int KEYS>
static __device__ __forceinline__ void produce(const attn_args &a, const gradient_maps &maps,
                                               gradient_shared<HD, KEYS> *m, int items) {
    int n = 0, tiles = 0;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        const own_tile t = tile_of<HD, KEYS>(a, item);
        if (lane_id() == 0) load_own<HD, KEYS>(a, maps, m, t, tiles);
        tiles++;
        for (int other0 = t.low; other0 < t.high; other0 += ROWS, n++) {
            const int s = ring_stage<STAGES>(n);
            mbar_wait(&m->empty[s], ring_parity<STAGES>(n) ^ 1);
            if (lane_id() == 0) load_other<HD, KEYS>(a, maps, m, t.p, other0, s);
            if (!KEYS) continue;
            describe_rows(a, t, other0, &m->rows[s]);
            mbar_arrive(&m->full[s]); /* every lane: its part is there */
        }
    }
}

/* --- consumers ----------------------------------------------------------------------------------------------------- */

/* What a thread knows of the rows of queries among own (rows g and g + 8) or others (its columns, read as they come). */
struct gradient_rows {
    int2 seen[2];
    float2 stats[2];
    int whole_low, whole_high; /* keys that the warp's rows see all */
};

/* Issues s = x y^T. */
template <int HD>
static __device__ __forceinline__ void
issue_products(const unsigned char (*x)[BOX_ROWS], const unsigned char (*y)[BOX_ROWS], float (&s)[ROWS / 2]) {
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
        wgmma<ROWS, 0, 0>(s, wgmma_advance(wgmma_k_major(x[c / 4]), (uint32_t)(c % 4 * 32)),
                          wgmma_advance(wgmma_k_major(y[c / 4]), (uint32_t)(c % 4 * 32)), c != 0);
    wgmma_commit();
}

/* Issues out += w y. */
template <int HD>
static __device__ __forceinline__ void issue_sums(const uint32_t (&w)[ROWS / 16][4],
                                                  const unsigned char (*y)[BOX_ROWS], float (&out)[HD / 2]) {
    const uint64_t b = wgmma_mn_major(y, BOX_ROWS);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) wgmma<HD, 1>(out, w[k], wgmma_advance(b, (uint32_t)k * 2048), 1);
    wgmma_commit();
}

/* P and dS of s and dp, rounded, as left operands. own: the first of the warp's own tokens. */
template <int KEYS, int MASKED>
static __device__ __forceinline__ void weights(const attn_args &a, const gradient_rows &r,
                                               const passing *rows, int own, int other0,
                                               const float (&s)[ROWS / 2], const float (&dp)[ROWS / 2],
                                               uint32_t (&p)[ROWS / 16][4], uint32_t (&ds)[ROWS / 16][4]) {
    const int g = lane_id() / 4, quad = lane_id() % 4;
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++) {
        float w[4], dw[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int h = i / 2;
            const int column = 8 * n + 2 * quad + i % 2;
            const float2 stats = KEYS ? rows->stats[column] : r.stats[h];
            w[i] = fast_exp2(fmaf(s[4 * n + i], a.exponent, -stats.x));
            dw[i] = w[i] * (dp[4 * n + i] - stats.y);
            if (MASKED) {
                const int2 of = KEYS ? rows->seen[column] : r.seen[h];
                const int key = KEYS ? own + g + 8 * h : other0 + column;
                if (key < of.x || key >= of.y) w[i] = dw[i] = 0;
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (KEYS) p[n / 2][n % 2 * 2 + h] = pack2(w[2 * h], w[2 * h + 1]);
            ds[n / 2][n % 2 * 2 + h] = pack2(dw[2 * h], dw[2 * h + 1]);
        }
    }
}

template <int HD, int KEYS>
static __device__ __forceinline__ void add_tile(const attn_args &a, gradient_shared<HD, KEYS> *m,
                                                const gradient_rows &r, int consumer, int own, int other0,
                                                int n, float (&out)[HD / 2], float (&out_v)[HD / 2]) {
    const int stage = ring_stage<STAGES>(n);
    const passing *rows = &m->rows[stage];
    float s[ROWS / 2], dp[ROWS / 2];
    uint32_t p[ROWS / 16][4], ds[ROWS / 16][4];
    mbar_wait(&m->full[stage], ring_parity<STAGES>(n));
    issue_products<HD>(m->own[consumer][0], m->other[stage][0], s);
    issue_products<HD>(m->own[consumer][1], m->other[stage][1], dp);
    wgmma_wait<0>();
    wgmma_pin(s);
    wgmma_pin(dp);
    const int first = KEYS ? own : other0, end = first + (KEYS ? 16 : ROWS); /* keys */
    if (first >= (KEYS ? rows->whole_low : r.whole_low) && end <= (KEYS ? rows->whole_high : r.whole_high))
        weights<KEYS, 0>(a, r, rows, own, other0, s, dp, p, ds);
    else
        weights<KEYS, 1>(a, r, rows, own, other0, s, dp, p, ds);
    issue_sums<HD>(ds, m->other[stage][0], out);
    if (KEYS) issue_sums<HD>(p, m->other[stage][1], out_v);
    wgmma_wait<0>();
    wgmma_pin(out);
    if (KEYS) wgmma_pin(out_v);
    release(&m->empty[stage]);
}

template <int HD, int KEYS>
static __device__ __forceinline__ void consume(const attn_args &a, const gradient_maps &maps,
                                               gradient_shared<HD, KEYS> *m, int items) {
    const int consumer = (int)threadIdx.x / GROUP - 1, warp = (int)threadIdx.x % GROUP / CUDA_WARP;
    const float scale[2] = {a.d.scale, a.d.scale}, one[2] = {1, 1};
    int n = 0, tiles = 0;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        const own_tile t = tile_of<HD, KEYS>(a, item);
        const int own0 = t.own0 + consumer * ROWS, own = own0 + 16 * warp;
        gradient_rows r;
        float out[HD / 2], out_v[HD / 2];
#pragma unroll
        for (int i = 0; i < HD / 2; i++) out[i] = out_v[i] = 0;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = own + lane_id() / 4 + 8 * h;
            if (KEYS) continue;
            attn_visible(a, t.p, row, &r.seen[h].x, &r.seen[h].y);
            r.stats[h] = row < a.rows ? a.stats[(int64_t)t.pair * a.rows + row] : make_float2(0, 0);
        }
        if (!KEYS) {
            int low, high;
            seen_by(a, t.p, own, 16, &low, &high, &r.whole_low, &r.whole_high);
        }
        mbar_wait(&m->own_full, (uint32_t)(tiles++ & 1));
        const int end = n + (t.high > t.low ? (t.high - t.low + ROWS - 1) / ROWS : 0);
        for (int other0 = t.low; n < end; other0 += ROWS, n++)
            add_tile<HD, KEYS>(a, m, r, consumer, own, other0, n, out, out_v);
        store_boxes<HD, !KEYS>(a, t.p, &maps.out[0], out, scale, own0, m->own[consumer][0], STORE + consumer,
                               KEYS ? a.d.sk : a.d.sq, KEYS ? a.dk : a.dq);
        if (KEYS)
            store_boxes<HD, 0>(a, t.p, &maps.out[1], out_v, one, own0, m->own[consumer][1], STORE + consumer,
                               a.d.sv, a.dv);
        release(&m->own_empty);
    }
}

#endif

template <int HD, int KEYS>
__global__ void __launch_bounds__((1 + consumers<HD, KEYS>)*GROUP, 1)
    attn_hopper_gradient(const attn_args a, const __grid_constant__ gradient_maps maps, int items) {
#ifdef HOPPER_HERE
    WEFT_DYNAMIC(shared);
    gradient_shared<HD, KEYS> *const m = (gradient_shared<HD, KEYS> *)shared;
    if (threadIdx.x == 0) {
        mbar_init(&m->own_full, 1);
        mbar_init(&m->own_empty, consumers<HD, KEYS>);
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&m->full[i], KEYS ? 1 + CUDA_WARP : 1);
            mbar_init(&m->empty[i], consumers<HD, KEYS>);
        }
        mbar_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_lower<consumers<HD, KEYS> == 2 ? 40 : 32>();
        if (threadIdx.x < CUDA_WARP) produce<HD, KEYS>(a, maps, m, items);
    } else {
        registers_raise<consumers<HD, KEYS> == 2 ? 232 : 160>();
        consume<HD, KEYS>(a, maps, m, items);
    }
#endif
}

/* --- host ---------------------------------------------------------------------------------------------------------- */

template <int HD, int KEYS>
static weft_status pass(weft_exec *x, const attn_args *a, const gradient_maps &maps) {
    const int64_t items = divup(KEYS ? a->keys : a->rows, consumers<HD, KEYS> * ROWS) * a->pairs;
    return cuda_launch(x, KEYS ? "attn_bwd: dK, dV" : "attn_bwd: dQ", attn_hopper_gradient<HD, KEYS>,
                       dim3(cuda_blocks(x, items, 1, 1)), dim3((1 + consumers<HD, KEYS>)*GROUP),
                       sizeof(gradient_shared<HD, KEYS>), *a, maps, (int)items);
}

/* All maps first: after a refusal nothing has been done. */
weft_status attn_hopper_backward(weft_exec *x, const attn_args *a) {
    const weft_attn_desc *d = &a->d;
    gradient_maps rows, keys;
    WEFT_TRY(hopper_row_map(a, a->q, d->sq, &rows.own[0]));
    WEFT_TRY(hopper_row_map(a, a->dout, d->so, &rows.own[1]));
    WEFT_TRY(hopper_key_map(a, a->k, d->sk, ROWS, &rows.other[0]));
    WEFT_TRY(hopper_key_map(a, a->v, d->sv, ROWS, &rows.other[1]));
    for (int i = 0; i < 2; i++) {
        keys.own[i] = rows.other[i], keys.other[i] = rows.own[i];
        rows.out[i] = rows.own[i], keys.out[i] = keys.own[i]; /* not used */
    }
    if (!a->narrow) {
        WEFT_TRY(hopper_row_map(a, a->dq, d->sq, &rows.out[0]));
        WEFT_TRY(hopper_key_map(a, a->dk, d->sk, ROWS, &keys.out[0]));
        WEFT_TRY(hopper_key_map(a, a->dv, d->sv, ROWS, &keys.out[1]));
    }
    WEFT_TRY(attn_row_stats(x, a));
    if (d->hd > 64) {
        WEFT_TRY((pass<128, 0>(x, a, rows)));
        return pass<128, 1>(x, a, keys);
    }
    WEFT_TRY((pass<64, 0>(x, a, rows)));
    return pass<64, 1>(x, a, keys);
}
