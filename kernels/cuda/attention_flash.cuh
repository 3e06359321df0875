/* Tiles of the flash kernels (attention_flash*.cu) in shared memory: rows of HD bf16, in 16-byte chunks that are swizzled so
 * that the eight rows of an ldmatrix lie in different banks; how they are fetched, read as fragments and written out.
 *
 * HD is 64 or 128; a head dimension below it is filled up with zeros. */
#ifndef WEFT_KERNELS_CUDA_ATTENTION_FLASH_CUH
#define WEFT_KERNELS_CUDA_ATTENTION_FLASH_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/mma.cuh"

/* Byte of chunk c of row r. */
template <int HD> static __device__ __forceinline__ int tile_at(int r, int c) {
    return r * HD * 2 + ((c ^ (r & 7)) << 4);
}

/* Begins to copy rows [first, first + ROWS) of queries (BY_ROW) or of keys; zeros past the last. */
template <int HD, int ROWS, int THREADS, int BY_ROW>
static __device__ __forceinline__ void tile_fetch(const attn_args &a, const attn_place &p, const void *data,
                                                  const int64_t (&stride)[3], int first,
                                                  unsigned char *tile) {
    const uint16_t *from = (const uint16_t *)data;
    for (int i = (int)threadIdx.x; i < ROWS * HD / 8; i += THREADS) {
        const int r = i / (HD / 8), c = i % (HD / 8), at = first + r;
        const int there = at < (BY_ROW ? a.rows : a.keys) && c * 8 < a.d.hd;
        const int64_t row = !there ? 0 : BY_ROW ? attn_row_at(a, stride, p, at) : attn_key_at(stride, p, at);
        cp_async_16(tile + tile_at<HD>(r, c), from + row + (there ? c * 8 : 0), there ? 16 : 0);
    }
}

/* A[16,16]: rows from row0 on, channels 16 k .. */
template <int HD>
static __device__ __forceinline__ void tile_left(const unsigned char *tile, int row0, int k,
                                                 uint32_t (&a)[4]) {
    ldmatrix_x4(a, tile + tile_at<HD>(row0 + (lane_id() & 15), 2 * k + (lane_id() >> 4)));
}
/* B[16,16] as two fragments: column n is row row0 + n of the tile, k runs over its channels 16 k ..: x = row . row */
template <int HD>
static __device__ __forceinline__ void tile_right(const unsigned char *tile, int row0, int k,
                                                  uint32_t (&b)[2][2]) {
    const int l = lane_id();
    uint32_t r[4];
    ldmatrix_x4(r, tile + tile_at<HD>(row0 + (l & 7) + (l >> 4 << 3), 2 * k + (l >> 3 & 1)));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}
/* B[16,16] as two fragments: k runs over the rows from row0 on, columns are the channels 16 n ..: weights times rows. */
template <int HD>
static __device__ __forceinline__ void tile_values(const unsigned char *tile, int row0, int n,
                                                   uint32_t (&b)[2][2]) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, tile + tile_at<HD>(row0 + (lane_id() & 15), 2 * n + (lane_id() >> 4)));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

/* Two neighbouring fragments of D, rounded, are one of A. */
static __device__ __forceinline__ void tile_weights(const float (&d0)[4], const float (&d1)[4],
                                                    uint32_t (&a)[4]) {
    a[0] = pack2(d0[0], d0[1]);
    a[1] = pack2(d0[2], d0[3]);
    a[2] = pack2(d1[0], d1[1]);
    a[3] = pack2(d1[2], d1[3]);
}

/* Writes the 16 rows out[][] * factor (of rows g and g + 8) of a warp, by way of its rows of a tile that nobody else reads. */
template <int HD, int BY_ROW>
static __device__ __forceinline__ void tile_store(const attn_args &a, const attn_place &p,
                                                  unsigned char *tile, int row0,
                                                  const float (&out)[HD / 8][4], const float (&factor)[2],
                                                  int first, const int64_t (&stride)[3], void *data) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < HD / 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint32_t *)(tile + tile_at<HD>(row0 + g + 8 * h, n) + 4 * t) =
                pack2(out[n][2 * h] * factor[h], out[n][2 * h + 1] * factor[h]);
    __syncwarp();
    for (int i = lane_id(); i < 16 * HD / 8; i += CUDA_WARP) {
        const int r = row0 + i / (HD / 8), c = i % (HD / 8), at = first + r;
        if (at >= (BY_ROW ? a.rows : a.keys) || c * 8 >= a.d.hd) continue;
        const int64_t row = BY_ROW ? attn_row_at(a, stride, p, at) : attn_key_at(stride, p, at);
        const unsigned char *from = tile + tile_at<HD>(r, c);
        uint16_t *to = (uint16_t *)data + row + c * 8;
        if (a.narrow)
            for (int e = 0; e < 8; e++) to[e] = ((const uint16_t *)from)[e];
        else
            *(uint4 *)to = *(const uint4 *)from;
    }
}

/* The intervals of ROWS rows: of each, and over all: they see something in [low, high), all see [whole_low, whole_high). */
template <int ROWS> struct intervals {
    int2 of[ROWS];
    int low[ROWS / CUDA_WARP], high[ROWS / CUDA_WARP], whole_low[ROWS / CUDA_WARP],
        whole_high[ROWS / CUDA_WARP];
};

/* By the first ROWS threads; a barrier follows. */
template <int ROWS>
static __device__ __forceinline__ void find_intervals(const attn_args &a, const attn_place &p, int row0,
                                                      intervals<ROWS> *to) {
    int first, end;
    if (threadIdx.x >= ROWS) return;
    attn_visible(a, p, row0 + (int)threadIdx.x, &first, &end);
    to->of[threadIdx.x] = make_int2(first, end);
    const int low = __reduce_min_sync(0xffffffffu, first), high = __reduce_max_sync(0xffffffffu, end);
    const int whole_low = __reduce_max_sync(0xffffffffu, first),
              whole_high = __reduce_min_sync(0xffffffffu, end);
    if (lane_id() == 0) {
        to->low[warp_id()] = low;
        to->high[warp_id()] = high;
        to->whole_low[warp_id()] = whole_low;
        to->whole_high[warp_id()] = whole_high;
    }
}
template <int ROWS>
static __device__ __forceinline__ void span(const intervals<ROWS> *of, int *low, int *high, int *whole_low,
                                            int *whole_high) {
    *low = of->low[0], *high = of->high[0], *whole_low = of->whole_low[0], *whole_high = of->whole_high[0];
#pragma unroll
    for (int i = 1; i < ROWS / CUDA_WARP; i++) {
        *low = min(*low, of->low[i]);
        *high = max(*high, of->high[i]);
        *whole_low = max(*whole_low, of->whole_low[i]);
        *whole_high = min(*whole_high, of->whole_high[i]);
    }
}

#endif
