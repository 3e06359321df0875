/* What the attention kernels of Hopper share (hopper_attention.cu, hopper_attention_backward.cu).
 *
 * Tensors are maps [batch][token][head][channel] for the copy engine. A box is 64 rows of 64 channels: of queries, 64 / group
 * tokens x group heads, which are the packed rows of attention.cuh in their order, so TMA makes them, fills up with zeros and
 * clips; of keys, tokens of one head. A block is a producer warpgroup, of which one thread works, and consumers that have 64
 * rows each of a tile that stays while tiles of others pass by. Blocks are persistent: tiles, longest first, are dealt to
 * them in turn; nothing depends on which block does one. */
#ifndef WEFT_KERNELS_CUDA_HOPPER_ATTENTION_CUH
#define WEFT_KERNELS_CUDA_HOPPER_ATTENTION_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper_map.h"
#include "kernels/cuda/hopper_wgmma.cuh"

enum {
    GROUP = 128,          /* threads of a warpgroup */
    ROWS = 64,            /* of a consumer */
    BOX = 64,             /* channels of a box: 128 bytes */
    BOX_ROWS = ROWS * 128 /* bytes */
};

/* 16-byte pieces, whole tokens in a box. The maximum is of unscaled scores, so the scale is positive. Few rows are left to
 * the kernels that can split the keys. */
static inline int hopper_attention_takes(const weft_exec *x, const attn_args *a) {
    const weft_attn_desc *d = &a->d;
    return hopper_runs_on(cuda_device(x)->major, cuda_device(x)->minor) && d->t == WEFT_BF16 &&
           d->hd % 8 == 0 && d->hd <= 128 && d->scale > 0 && ROWS % a->group == 0 && a->rows > ROWS &&
           a->keys > 0 && attn_aligned(a->q, d->sq) && attn_aligned(a->k, d->sk) &&
           attn_aligned(a->v, d->sv) && (!a->dout || attn_aligned(a->dout, d->so));
}

/* heads: of the tensor; a box has box_tokens x box_heads x 64 channels. */
static inline weft_status hopper_attention_map(const weft_attn_desc *d, const void *data,
                                               const int64_t (&stride)[3], int64_t tokens, int heads,
                                               int box_tokens, int box_heads, CUtensorMap *map) {
    const int64_t size[4] = {d->hd, heads, tokens, d->batch}, by[4] = {1, stride[2], stride[1], stride[0]};
    const int box[4] = {BOX, box_heads, box_tokens, 1};
    struct hopper_tensor t;
    memset(&t, 0, sizeof t);
    t.base = data;
    t.t = WEFT_BF16;
    t.rank = 4;
    for (int i = 0; i < 4; i++) {
        t.size[i] = size[i];
        t.stride[i] = size[i] > 1 ? by[i] : d->hd; /* what is not used may be anything */
        t.box[i] = box[i];
    }
    return hopper_map(&t, map);
}
static inline weft_status hopper_row_map(const attn_args *a, const void *data, const int64_t (&stride)[3],
                                         CUtensorMap *map) {
    return hopper_attention_map(&a->d, data, stride, a->d.tq, a->d.hq, ROWS / a->group, a->group, map);
}
static inline weft_status hopper_key_map(const attn_args *a, const void *data, const int64_t (&stride)[3],
                                         int tokens, CUtensorMap *map) {
    return hopper_attention_map(&a->d, data, stride, a->d.tk, a->d.hkv, tokens, 1, map);
}

#ifdef HOPPER_HERE

/* The n-th use of a ring of `stages`: its place, and the parity of the phase that fills it (frees it: the other). */
template <int stages> static __device__ __forceinline__ int ring_stage(int n) {
    return n % stages;
}
template <int stages> static __device__ __forceinline__ uint32_t ring_parity(int n) {
    return (uint32_t)(n / stages & 1);
}

/* One thread of a warpgroup says that all have done with a stage, or with something else. */
static __device__ __forceinline__ void release(uint64_t *empty) {
    if (threadIdx.x % GROUP == 0) mbar_arrive(empty);
}

/* Keys that rows [from, from + n) see together, and those that all see. By a whole warp. */
static __device__ __forceinline__ void seen_by(const attn_args &a, const attn_place &p, int from, int n,
                                               int *low, int *high, int *whole_low, int *whole_high) {
    int first = a.keys, end = 0, all_first = 0, all_end = a.keys;
    for (int r = lane_id(); r < n; r += CUDA_WARP) {
        int f, e;
        attn_visible(a, p, from + r, &f, &e);
        first = min(first, f), end = max(end, e);
        all_first = max(all_first, f), all_end = min(all_end, e);
    }
    *low = __reduce_min_sync(0xffffffffu, first);
    *high = __reduce_max_sync(0xffffffffu, end);
    *whole_low = __reduce_max_sync(0xffffffffu, all_first);
    *whole_high = __reduce_min_sync(0xffffffffu, all_end);
}

/* Box `channel` / 64 of 64 rows (BY_ROW) or keys from `first` on: by the one thread that loads. */
template <int BY_ROW>
static __device__ __forceinline__ void load_box(const attn_args &a, const attn_place &p,
                                                const CUtensorMap *map, uint64_t *full, int channel,
                                                int first, void *box) {
    if (BY_ROW)
        tma_load(box, map, full, channel, p.key_head * a.group, first / a.group, p.batch);
    else
        tma_load(box, map, full, channel, p.key_head, first, p.batch);
}

/* Writes a consumer's 64 rows of sums, times the factors of a thread's rows g and g + 8, by way of boxes that nobody else
 * reads any more. `barrier`: a named one of this consumer. On return the boxes are free. */
template <int HD, int BY_ROW>
static __device__ __forceinline__ void
store_boxes(const attn_args &a, const attn_place &p, const CUtensorMap *map, const float (&sums)[HD / 2],
            const float (&factor)[2], int first, unsigned char (*box)[BOX_ROWS], int barrier,
            const int64_t (&stride)[3], void *data) {
    const int thread = (int)threadIdx.x % GROUP, warp = thread / CUDA_WARP, l = lane_id();
    /* a matrix of stmatrix: rows 0..7 or 8..15 of the warp, 8 channels; lane l gives the row l % 8 of matrix l / 8 */
#pragma unroll
    for (int c = 0; c < HD / 16; c++) {
        uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            word[i] = pack2(sums[8 * c + 2 * i] * factor[i % 2], sums[8 * c + 2 * i + 1] * factor[i % 2]);
        const int row = 16 * warp + l % 16, channel = 16 * c + l / 16 * 8;
        stmatrix_x4(box[channel / BOX] + swizzle128((uint32_t)(row * 128 + channel % BOX * 2)), word);
    }
    fence_async();
    named_sync(barrier, GROUP);
    if (a.narrow) { /* TMA cannot write there */
        for (int r = warp; r < ROWS && first + r < (BY_ROW ? a.rows : a.keys); r += GROUP / CUDA_WARP) {
            uint16_t *to = (uint16_t *)data + (BY_ROW ? attn_row_at(a, stride, p, first + r)
                                                      : attn_key_at(stride, p, first + r));
            for (int c = l; c < a.d.hd; c += CUDA_WARP)
                to[c] = *(const uint16_t *)(box[c / BOX] + swizzle128((uint32_t)(r * 128 + c % BOX * 2)));
        }
        named_sync(barrier, GROUP);
    } else if (thread == 0) {
        for (int i = 0; i < HD / BOX; i++) {
            if (BY_ROW)
                tma_store(map, box[i], i * BOX, p.key_head * a.group, first / a.group, p.batch);
            else
                tma_store(map, box[i], i * BOX, p.key_head, first, p.batch);
        }
        tma_commit();
        tma_wait_read<0>();
    }
}

#endif
#endif
