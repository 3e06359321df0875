/* FlashAttention-3 (Shah et al. 2024) forward for Hopper: wgmma and TMA, bf16, head dimensions that are multiples of 8 up to
 * 128, all masks.
 *
 * Persistent blocks of a producer warpgroup and 2 (head dimension 128) or 3 (64) consumers, 64 rows (attention.cuh) each.
 * The producer's one thread brings Q once a tile, K and V by tiles of KEYS keys through two stages each; the boxes of Q and O
 * are [tokens][heads of the group][64 channels], so TMA itself makes the packed rows, fills up with zeros and clips.
 * A consumer keeps S, P and O in registers. Two overlaps hide the softmax behind the tensor cores: consumers take turns by
 * named barriers, so that one's softmax runs beside the other's products; and within a consumer S of the next tile is issued
 * before O += P V of this one and is waited for first. O leaves through the shared memory of Q by a TMA store.
 *
 * Tiles of rows go longest first, dealt to the blocks in turn; nothing depends on which block does one: same bits every run.
 *
 * Expected, never measured. Head dimension 128, 128 x 128: 8.4 Mflop, 2048 cycles of an H200's tensor cores (2 x 1024 x 2 bf16
 * flop a cycle and multiprocessor); 16384 exp2 at 16 a cycle: 1024 cycles, hidden but for the first and last tile of a row;
 * head dimension 64, 192 x 128: 1536 against 1536, so exp2 bounds it to about 60 % of the peak. K and V of a tile are 64 KiB
 * from L2 in 2048 cycles: 32 bytes a cycle of about 64. Published for the method: 600 to 700 TFLOP/s at 16k. */
#include "kernels/cuda/hopper_attention.cuh"

enum {
    KEYS = 128, /* of a tile */
    STAGES = 2,
    BOX_KEYS = KEYS * 128, /* bytes of a box of keys */
    TURN = 1               /* named barriers TURN + consumer, TURN + consumers + consumer */
};

struct hopper_maps {
    CUtensorMap q, k, v, o;
};

template <int HD> constexpr int consumers = HD > 64 ? 2 : 3;

template <int HD> struct hopper_shared {
    unsigned char q[consumers<HD>][HD / BOX][BOX_ROWS]; /* O too */
    unsigned char k[STAGES][HD / BOX][BOX_KEYS], v[STAGES][HD / BOX][BOX_KEYS];
    uint64_t q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

#ifdef HOPPER_HERE

/* One tile of rows, and the keys that they see: the same in every warp. */
struct row_tile {
    attn_place p;
    int row0, low, high;
};

template <int HD> static __device__ __forceinline__ row_tile tile_of(const attn_args &a, int item) {
    const int rows = consumers<HD> * ROWS, tiles = (a.rows + rows - 1) / rows;
    int whole_low, whole_high;
    row_tile t;
    t.p = attn_place_of(a, item % a.pairs);
    t.row0 = (tiles - 1 - item / a.pairs) * rows;
    seen_by(a, t.p, t.row0, rows, &t.low, &t.high, &whole_low, &whole_high);
    return t;
}

/* --- producer ------------------------------------------------------------------------------------------------------ */

/* K or V of the keys from key0 on, once the stage is free. */
template <int HD>
static __device__ __forceinline__ void
load_keys(const attn_args &a, const CUtensorMap *map, const attn_place &p, int key0, int n,
          unsigned char (*stage)[HD / BOX][BOX_KEYS], uint64_t *full, uint64_t *empty) {
    const int s = ring_stage<STAGES>(n);
    mbar_wait(&empty[s], ring_parity<STAGES>(n) ^ 1);
    mbar_expect_tx(&full[s], HD / BOX * BOX_KEYS);
    for (int i = 0; i < HD / BOX; i++) load_box<0>(a, p, map, &full[s], i * BOX, key0, stage[s][i]);
}

/* Q, once O of the tile before has left. */
template <int HD>
static __device__ __forceinline__ void load_rows(const attn_args &a, const hopper_maps &maps,
                                                 hopper_shared<HD> *m, const row_tile &t, int n) {
    mbar_wait(&m->q_empty, (uint32_t)(n & 1) ^ 1);
    mbar_expect_tx(&m->q_full, sizeof m->q);
    for (int c = 0; c < consumers<HD>; c++)
        for (int i = 0; i < HD / BOX; i++)
            load_box<1>(a, t.p, &maps.q, &m->q_full, i * BOX, t.row0 + c * ROWS, m->q[c][i]);
}

template <int HD>
static __device__ __forceinline__ void produce(const attn_args &a, const hopper_maps &maps,
                                               hopper_shared<HD> *m, int items) {
    int n = 0, q_uses = 0;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        const row_tile t = tile_of<HD>(a, item);
        if (lane_id() != 0) continue;
        load_rows<HD>(a, maps, m, t, q_uses++);
        for (int key0 = t.low; key0 < t.high; key0 += KEYS, n++) {
            load_keys<HD>(a, &maps.k, t.p, key0, n, m->k, m->k_full, m->k_empty);
            load_keys<HD>(a, &maps.v, t.p, key0, n, m->v, m->v_full, m->v_empty);
        }
    }
}

/* --- consumers ----------------------------------------------------------------------------------------------------- */

/* A thread's rows g and g + 8 of its warp's 16. */
struct consumer_rows {
    int2 seen[2];
    int whole_low, whole_high; /* keys that the warp's rows see all */
    float max[2], sum[2];
};

/* Issues S = Q K^T. */
template <int HD>
static __device__ __forceinline__ void
issue_scores(const unsigned char (*q)[BOX_ROWS], const unsigned char (*k)[BOX_KEYS], float (&s)[KEYS / 2]) {
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
        wgmma<KEYS, 0, 0>(s, wgmma_advance(wgmma_k_major(q[c / 4]), (uint32_t)(c % 4 * 32)),
                          wgmma_advance(wgmma_k_major(k[c / 4]), (uint32_t)(c % 4 * 32)), c != 0);
    wgmma_commit();
}

/* Issues O = O + P V, or P V. */
template <int HD>
static __device__ __forceinline__ void issue_values(const uint32_t (&p)[KEYS / 16][4],
                                                    const unsigned char (*v)[BOX_KEYS], float (&o)[HD / 2],
                                                    int accumulate) {
    const uint64_t b = wgmma_mn_major(v, BOX_KEYS);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
        wgmma<HD, 1>(o, p[k], wgmma_advance(b, (uint32_t)k * 2048), accumulate || k != 0);
    wgmma_commit();
}

/* s becomes the weights of the keys from key0 on; *shrink: of what was there before. */
template <int MASKED>
static __device__ __forceinline__ void weigh(const attn_args &a, int key0, float (&s)[KEYS / 2],
                                             consumer_rows &r, float (&shrink)[2]) {
    const int t = lane_id() % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = r.max[h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 4 * n + 2 * h; i < 4 * n + 2 * h + 2; i++) {
                if (MASKED) {
                    const int key = key0 + 8 * n + 2 * t + i % 2;
                    if (key < r.seen[h].x || key >= r.seen[h].y) s[i] = -INFINITY;
                }
                top = fmaxf(top, s[i]);
            }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float base = top == -INFINITY ? 0.0f : top * a.exponent;
        shrink[h] = fast_exp2(r.max[h] * a.exponent - base);
        r.max[h] = top;
        float sum = r.sum[h] * shrink[h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 4 * n + 2 * h; i < 4 * n + 2 * h + 2; i++) {
                s[i] = fast_exp2(fmaf(s[i], a.exponent, -base));
                sum += s[i];
            }
        r.sum[h] = sum;
    }
}

static __device__ __forceinline__ void softmax(const attn_args &a, int key0, float (&s)[KEYS / 2],
                                               consumer_rows &r, float (&shrink)[2]) {
    if (key0 >= r.whole_low && key0 + KEYS <= r.whole_high)
        weigh<0>(a, key0, s, r, shrink);
    else
        weigh<1>(a, key0, s, r, shrink);
}

static __device__ __forceinline__ void round_weights(const float (&s)[KEYS / 2],
                                                     uint32_t (&p)[KEYS / 16][4]) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[k][i] = pack2(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

/* Waits for the turn of this consumer; gives it to the next. */
template <int HD> static __device__ __forceinline__ void take_turn(int consumer) {
    named_sync(TURN + consumer, 2 * GROUP);
}
template <int HD> static __device__ __forceinline__ void pass_turn(int consumer) {
    named_arrive(TURN + (consumer + 1) % consumers<HD>, 2 * GROUP);
}

/* The tiles of keys of one tile of rows; n: uses of the rings so far. */
template <int HD>
static __device__ __forceinline__ void attend(const attn_args &a, hopper_shared<HD> *m, const row_tile &t,
                                              int consumer, int n, consumer_rows &r, float (&o)[HD / 2]) {
    float s[KEYS / 2], shrink[2];
    uint32_t p[KEYS / 16][4];
    mbar_wait(&m->k_full[ring_stage<STAGES>(n)], ring_parity<STAGES>(n));
    take_turn<HD>(consumer);
    issue_scores<HD>(m->q[consumer], m->k[ring_stage<STAGES>(n)], s);
    pass_turn<HD>(consumer);
    wgmma_wait<0>();
    wgmma_pin(s);
    release(&m->k_empty[ring_stage<STAGES>(n)]);
    softmax(a, t.low, s, r, shrink);
    round_weights(s, p);
    for (int key0 = t.low + KEYS; key0 < t.high; key0 += KEYS, n++) {
        mbar_wait(&m->k_full[ring_stage<STAGES>(n + 1)], ring_parity<STAGES>(n + 1));
        take_turn<HD>(consumer);
        issue_scores<HD>(m->q[consumer], m->k[ring_stage<STAGES>(n + 1)], s);
        mbar_wait(&m->v_full[ring_stage<STAGES>(n)], ring_parity<STAGES>(n));
        issue_values<HD>(p, m->v[ring_stage<STAGES>(n)], o, key0 != t.low + KEYS);
        pass_turn<HD>(consumer);
        wgmma_wait<1>();
        wgmma_pin(s);
        release(&m->k_empty[ring_stage<STAGES>(n + 1)]);
        softmax(a, key0, s, r, shrink);
        wgmma_wait<0>();
        wgmma_pin(o);
        release(&m->v_empty[ring_stage<STAGES>(n)]);
#pragma unroll
        for (int i = 0; i < HD / 2; i++) o[i] *= shrink[i / 2 % 2];
        round_weights(s, p);
    }
    mbar_wait(&m->v_full[ring_stage<STAGES>(n)], ring_parity<STAGES>(n));
    issue_values<HD>(p, m->v[ring_stage<STAGES>(n)], o, t.high - t.low > KEYS);
    wgmma_wait<0>();
    wgmma_pin(o);
    release(&m->v_empty[ring_stage<STAGES>(n)]);
}

/* Writes lse, and O by way of the shared memory of Q. */
template <int HD>
static __device__ __forceinline__ void finish(const attn_args &a, const hopper_maps &maps,
                                              hopper_shared<HD> *m, const row_tile &t, int consumer,
                                              const consumer_rows &r, const float (&o)[HD / 2]) {
    const int warp = (int)threadIdx.x % GROUP / CUDA_WARP, l = lane_id(), row0 = t.row0 + consumer * ROWS;
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = row0 + 16 * warp + l / 4 + 8 * h;
        const int seen = r.seen[h].y > 0; /* else o is 0 */
        float sum = r.sum[h];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        factor[h] = 1.0f / sum;
        if (!seen) factor[h] = 0;
        if (row < a.rows && l % 4 == 0)
            a.lse[attn_lse_at(a, t.p, row)] =
                seen ? (r.max[h] * a.exponent + log2f(sum)) * ATTN_LN2 : -INFINITY;
    }
    store_boxes<HD, 1>(a, t.p, &maps.o, o, factor, row0, m->q[consumer], TURN + consumers<HD> + consumer,
                       a.d.so, a.o);
}

template <int HD>
static __device__ __forceinline__ void consume(const attn_args &a, const hopper_maps &maps,
                                               hopper_shared<HD> *m, int items) {
    const int consumer = (int)threadIdx.x / GROUP - 1, warp = (int)threadIdx.x % GROUP / CUDA_WARP;
    int n = 0, q_uses = 0;
    if (consumer == consumers<HD> - 1) pass_turn<HD>(consumer);
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        const row_tile t = tile_of<HD>(a, item);
        const int row0 = t.row0 + consumer * ROWS + 16 * warp;
        consumer_rows r;
        float o[HD / 2];
        int low, high;
        seen_by(a, t.p, row0, 16, &low, &high, &r.whole_low, &r.whole_high);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            attn_visible(a, t.p, row0 + lane_id() / 4 + 8 * h, &r.seen[h].x, &r.seen[h].y);
            r.max[h] = -INFINITY;
            r.sum[h] = 0;
        }
        mbar_wait(&m->q_full, (uint32_t)(q_uses++ & 1));
        if (t.low < t.high) {
            attend<HD>(a, m, t, consumer, n, r, o);
            n += (t.high - t.low + KEYS - 1) / KEYS;
        } else {
#pragma unroll
            for (int i = 0; i < HD / 2; i++) o[i] = 0;
        }
        finish<HD>(a, maps, m, t, consumer, r, o);
        release(&m->q_empty);
    }
    if (consumer == 0) take_turn<HD>(consumer); /* the last turn that was passed */
}

#endif

template <int HD>
__global__ void __launch_bounds__((1 + consumers<HD>)*GROUP, 1)
    attn_hopper_rows(const attn_args a, const __grid_constant__ hopper_maps maps, int items) {
#ifdef HOPPER_HERE
    WEFT_DYNAMIC(shared);
    hopper_shared<HD> *const m = (hopper_shared<HD> *)shared;
    if (threadIdx.x == 0) {
        mbar_init(&m->q_full, 1);
        mbar_init(&m->q_empty, consumers<HD>);
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&m->k_full[i], 1);
            mbar_init(&m->v_full[i], 1);
            mbar_init(&m->k_empty[i], consumers<HD>);
            mbar_init(&m->v_empty[i], consumers<HD>);
        }
        mbar_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_lower<HD == 128 ? 24 : 32>();
        if (threadIdx.x < CUDA_WARP) produce<HD>(a, maps, m, items);
    } else {
        registers_raise<HD == 128 ? 240 : 160>();
        consume<HD>(a, maps, m, items);
    }
#endif
}

/* --- host ---------------------------------------------------------------------------------------------------------- */

template <int HD> static weft_status forward(weft_exec *x, const attn_args *a, const hopper_maps &maps) {
    const int64_t items = divup(a->rows, consumers<HD> * ROWS) * a->pairs;
    const unsigned blocks = cuda_blocks(x, items, 1, 1);
    return cuda_launch(x, "attn_fwd", attn_hopper_rows<HD>, dim3(blocks), dim3((1 + consumers<HD>)*GROUP),
                       sizeof(hopper_shared<HD>), *a, maps, (int)items);
}

weft_status attn_hopper_forward(weft_exec *x, const attn_args *a) {
    const weft_attn_desc *d = &a->d;
    hopper_maps maps;
    WEFT_TRY(hopper_row_map(a, a->q, d->sq, &maps.q));
    WEFT_TRY(hopper_key_map(a, a->k, d->sk, KEYS, &maps.k));
    WEFT_TRY(hopper_key_map(a, a->v, d->sv, KEYS, &maps.v));
    maps.o = maps.q; /* not used */
    if (!a->narrow) WEFT_TRY(hopper_row_map(a, a->o, d->so, &maps.o));
    return d->hd > 64 ? forward<128>(x, a, maps) : forward<64>(x, a, maps);
}

int attn_hopper_takes(const weft_exec *x, const attn_args *a) {
    return hopper_attention_takes(x, a);
}
