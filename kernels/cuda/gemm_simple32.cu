/* The portable product in f32; see gemm_simple.cu. */
#include "kernels/cuda/gemm_simple.cuh"

template <int BM, int BN, int A_K, int B_K>
__global__ void __launch_bounds__(TILE_THREADS32)
    gemm32(const gemm_tile given, const gemm_epi e, const int64_t rows, const int64_t columns) {
    WEFT_DYNAMIC(memory);
    float sum[BM / 16][BN / 16];
    gemm_tile t = given;
    place_tile<BM, BN>(&t, rows, columns);
    tile_sums32<BM, BN, A_K, B_K>(sum, t, memory);
    tile_store32<BM, BN>(sum, e, t.m, t.n.first, memory);
}

template <int B, int A_K, int B_K> static weft_status launch32(const simple_launch *l) {
    return cuda_launch(l->x, "gemm", gemm32<B, B, A_K, B_K>, dim3((unsigned)tiles_of(l, B)),
                       dim3(TILE_THREADS32), shared32<B, B>::BYTES, l->t, l->e, divup(l->m, B),
                       tiles_of(l, B) / divup(l->m, B));
}

weft_status gemm_simple32(const simple_launch *l, int large) {
    return large ? FORMS(launch32, 128) : FORMS(launch32, 64);
}
