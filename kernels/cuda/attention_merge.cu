/* attn_merge: what queries found in some keys and what they found in others, as one.
 *
 * A warp makes a row. With a >= b the two lse of a row and e = exp(b - a): the larger one's o weighs 1 / (1 + e), the
 * other's e / (1 + e), and the new lse is a + log(1 + e): no difference of large numbers, no overflow. Bytes: o once, sum
 * twice. Source: Liu et al., Ring Attention, 2023; Milakov & Gimelshein, online softmax, 2018. */
#include "kernels/cuda/device.cuh"

enum { THREADS = 128 };

struct merge_args {
    weft_attn_desc d;
    int begin;
    const void *o;
    const float *lse;
    float *sum, *sum_lse;
};

template <class T> __global__ void __launch_bounds__(THREADS) attn_merge_rows(const merge_args a) {
    const int64_t item = (int64_t)blockIdx.x * (THREADS / CUDA_WARP) + warp_id();
    const int64_t head = item % a.d.hq, i = item / a.d.hq % a.d.tq, b = item / a.d.hq / a.d.tq;
    if (b >= a.d.batch) return; /* a whole warp */
    const int64_t row = (b * a.d.hq + head) * a.d.tq + i,
                  at = b * a.d.so[0] + i * a.d.so[1] + head * a.d.so[2];
    const T *o = (const T *)a.o + at;
    float *sum = a.sum + at;
    const float there = a.begin ? -INFINITY : a.sum_lse[row], come = a.lse[row];
    if (there == -INFINITY) { /* o is 0 where lse is -inf too */
        for (int c = lane_id(); c < a.d.hd; c += CUDA_WARP) sum[c] = load1(o + c);
        __syncwarp(); /* all lanes have read sum_lse */
        if (lane_id() == 0) a.sum_lse[row] = come;
    } else if (come != -INFINITY) {
        const int larger = come > there;
        const float high = larger ? come : there, low = larger ? there : come;
        const float e = expf(low - high), most = 1.0f / (1.0f + e), rest = e * most;
        const float fresh = larger ? most : rest, old = larger ? rest : most;
        for (int c = lane_id(); c < a.d.hd; c += CUDA_WARP) sum[c] = fmaf(fresh, load1(o + c), old * sum[c]);
        __syncwarp();
        if (lane_id() == 0) a.sum_lse[row] = high + log1pf(e);
    }
}

weft_status cuda_attn_merge(weft_exec *x, const weft_attn_desc *d, int begin, const void *o, const float *lse,
                            float *sum, float *sum_lse) {
    WEFT_TRY(weft_check_attn_merge(d, begin, o, lse, sum, sum_lse));
    const merge_args a = {*d, begin, o, lse, sum, sum_lse};
    const int64_t blocks = divup((int64_t)d->batch * d->tq * d->hq, THREADS / CUDA_WARP);
    if (blocks > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "attn_merge on cuda: more than 2^31 blocks of rows");
    return cuda_launch(x, "attn_merge", d->t == WEFT_F32 ? attn_merge_rows<float> : attn_merge_rows<uint16_t>,
                       dim3((unsigned)blocks), dim3(THREADS), 0, a);
}
