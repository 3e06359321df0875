/* What gemm_simple.cu (who launches) and its two kernels share. */
#ifndef WEFT_KERNELS_CUDA_GEMM_SIMPLE_CUH
#define WEFT_KERNELS_CUDA_GEMM_SIMPLE_CUH

#include "kernels/cuda/gemm_tile.cuh"

#define SUPER_ROWS 8

/* The tile of a block. rows, columns: in tiles. */
template <int BM, int BN> EPI void place_tile(gemm_tile *t, int64_t rows, int64_t columns) {
    const int64_t band = SUPER_ROWS * columns, first = blockIdx.x / band * SUPER_ROWS;
    const int64_t high = rows - first < SUPER_ROWS ? rows - first : SUPER_ROWS, in = blockIdx.x % band;
    t->m.first = (first + in % high) * BM;
    t->n.first = in / high * (t->n.half ? BN / 2 : BN);
}

struct simple_launch {
    weft_exec *x;
    gemm_tile t;
    gemm_epi e;
    int64_t m, n; /* of C; gated: n is gate and up */
    int a_k, b_k; /* k neighbours lie side by side */
};

static inline int64_t tiles_of(const simple_launch *l, int edge) {
    return divup(l->m, edge) * (l->t.n.half ? divup(l->t.n.half, edge / 2) : divup(l->n, edge));
}

/* Launches the kernel with tiles of 128, if large, or of 64. */
weft_status gemm_simple16(const simple_launch *l, int large);
weft_status gemm_simple32(const simple_launch *l, int large);

/* Calls launch<..., A along k, B along k> for the form of the product. */
#define FORMS(launch, ...)                                                                                   \
    (l->a_k   ? l->b_k ? launch<__VA_ARGS__, 1, 1>(l) : launch<__VA_ARGS__, 1, 0>(l)                         \
       : l->b_k ? launch<__VA_ARGS__, 0, 1>(l)                                                               \
              : launch<__VA_ARGS__, 0, 0>(l))

#endif
