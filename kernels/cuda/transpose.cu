/* transpose: square tiles through shared memory, so that reading and writing are both whole lines.
 *
 * A lane moves words of 4 bytes: one element of 4 bytes or two neighbours of 2 bytes. A row of the tile is one word longer
 * than the tile: then neither the rows that come in nor the columns that go out meet in a bank (elements of 2 bytes: two
 * lanes do). Where words are not aligned, or at the edges, elements move alone. */
#include "kernels/cuda/elements.cuh"

#define TILE_WORDS 32
#define TILE_WARPS 8

template <class T>
static __global__ void __launch_bounds__(CUDA_WARP *TILE_WARPS)
    transpose_kernel(int64_t rows, int64_t cols, const T *src, T *dst, int whole_src, int whole_dst) {
    enum { PAIR = 4 / sizeof(T), TILE = TILE_WORDS * PAIR };
    WEFT_SHARED(uint32_t, words, TILE * (TILE_WORDS + 1));
    T *tile = (T *)words;
    const int64_t across = (cols + TILE - 1) / TILE, tiles = across * ((rows + TILE - 1) / TILE);
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        const int64_t i0 = t / across * TILE, j0 = t % across * TILE;
        const int at = (int)threadIdx.x * PAIR;
        for (int r = (int)threadIdx.y; r < TILE; r += TILE_WARPS) {
            const int64_t i = i0 + r, j = j0 + at;
            const int m = i < rows && j < cols ? vector_left((size_t)cols, (size_t)j, PAIR) : 0;
            T v[PAIR];
            load_vector(src + i * cols + j, m, whole_src, v);
            store_vector(tile + r * (TILE + PAIR) + at, PAIR, 1, v);
        }
        __syncthreads();
        for (int c = (int)threadIdx.y; c < TILE; c += TILE_WARPS) {
            const int64_t i = i0 + at, j = j0 + c;
            const int m = i < rows && j < cols ? vector_left((size_t)rows, (size_t)i, PAIR) : 0;
            T v[PAIR];
#pragma unroll
            for (int k = 0; k < PAIR; k++) v[k] = tile[(at + k) * (TILE + PAIR) + c];
            store_vector(dst + j * rows + i, m, whole_dst, v);
        }
        __syncthreads();
    }
}

template <class T>
static weft_status transpose_launch(weft_exec *x, int64_t rows, int64_t cols, const void *src, void *dst) {
    enum { PAIR = 4 / sizeof(T), TILE = TILE_WORDS * PAIR };
    const int64_t tiles = divup(rows, TILE) * divup(cols, TILE);
    return cuda_launch(x, "transpose", transpose_kernel<T>, dim3(cuda_blocks(x, tiles, 1, CUDA_WAVES)),
                       dim3(CUDA_WARP, TILE_WARPS), 0, rows, cols, (const T *)src, (T *)dst,
                       cuda_aligned(src, 4) && cols % PAIR == 0, cuda_aligned(dst, 4) && rows % PAIR == 0);
}

extern "C" weft_status cuda_transpose(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src,
                                      void *dst) {
    WEFT_TRY(weft_check_transpose(elem, rows, cols, src, dst));
    return elem == 4 ? transpose_launch<uint32_t>(x, rows, cols, src, dst)
                     : transpose_launch<uint16_t>(x, rows, cols, src, dst);
}
