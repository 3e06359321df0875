/* The portable product in bf16; see gemm_simple.cu. */
#include "kernels/cuda/gemm_simple.cuh"

template <int BM, int BN, int WM, int WN, int A_K, int B_K>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 128 ? 2 : 4)
    gemm16(const gemm_tile given, const gemm_epi e, const int64_t rows, const int64_t columns) {
    WEFT_DYNAMIC(memory);
    float sum[WM / 16][WN / 8][4];
    gemm_tile t = given;
    place_tile<BM, BN>(&t, rows, columns);
    tile_sums16<BM, BN, WM, WN, A_K, B_K>(sum, t, memory);
    tile_store16<BM, BN, WM, WN>(sum, e, t.m, t.n.first, memory);
}

template <int B, int WM, int A_K, int B_K> static weft_status launch16(const simple_launch *l) {
    return cuda_launch(l->x, "gemm", gemm16<B, B, WM, 32, A_K, B_K>, dim3((unsigned)tiles_of(l, B)),
                       dim3(tile16<B, B, WM, 32>::THREADS), shared16<B, B, A_K, B_K>::BYTES, l->t, l->e,
                       divup(l->m, B), tiles_of(l, B) / divup(l->m, B));
}

weft_status gemm_simple16(const simple_launch *l, int large) {
    return large ? FORMS(launch16, 128, 64) : FORMS(launch16, 64, 32);
}
