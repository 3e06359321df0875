/* Rotary position embedding, rotate-half form (Su et al. 2021), in place: the pair (v[i], v[i + hd/2]) of every head turns
 * by the angle of row pos[token] of the table; backward turns back.
 *
 * Floor: every element read and written once, 4 bytes in bf16; the row of the table is read by all heads of a token, from L1
 * after the first. A thread turns V pairs, 2 loads of 16 bytes under way with those of the table; threads go over the pairs of
 * a token, so there is no division of an index of the whole tensor. */
#include "kernels/cuda/rows.cuh"

#define ROPE_THREADS 256

struct rope_args {
    const int32_t *pos;
    const float *cos_sin;
    void *v;
    int64_t tokens, stride;
    int32_t heads, half; /* half: hd / 2 */
    float sign;          /* of the sines */
};

template <class T, int V> static __global__ void __launch_bounds__(ROPE_THREADS) rope_kernel(rope_args a) {
    const int per_head = a.half / V, work = a.heads * per_head;
    for (int64_t token = rows_first(); token < a.tokens; token += rows_step()) {
        const float *cosines = a.cos_sin + (int64_t)a.pos[token] * (2 * a.half), *sines = cosines + a.half;
        T *row = (T *)a.v + token * a.stride;
        for (int w = (int)threadIdx.x; w < work; w += (int)blockDim.x) {
            const int head = w / per_head, i = (w - head * per_head) * V;
            T *low = row + (int64_t)head * (2 * a.half) + i, *high = low + a.half;
            float x[V], y[V], c[V], s[V];
            floats_load(low, x);
            floats_load(high, y);
            floats_load(cosines + i, c);
            floats_load(sines + i, s);
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float b = a.sign * s[k], turned = fmaf(y[k], c[k], x[k] * b);
                x[k] = fmaf(x[k], c[k], -(y[k] * b));
                y[k] = turned;
            }
            floats_store(low, x);
            floats_store(high, y);
        }
    }
}

extern "C" weft_status cuda_rope(weft_exec *x, const weft_rope_desc *d, const int32_t *pos,
                                 const float *cos_sin, void *v) {
    WEFT_TRY(weft_check_rope(d, pos, cos_sin, v));
    const int length = rows_vector(d->t);
    const int whole =
        d->hd / 2 % length == 0 && d->token_stride % length == 0 && rows_aligned(v) && rows_aligned(cos_sin);
    const int64_t work = (int64_t)d->heads * (d->hd / 2 / (whole ? length : 1));
    if (work > INT32_MAX) return weft_fail(WEFT_ERR_UNSUPPORTED, "rope: %d heads of %d", d->heads, d->hd);
    const rope_args a = {
        pos, cos_sin, v, d->tokens, d->token_stride, d->heads, d->hd / 2, d->inverse ? -1.0f : 1.0f};
    const dim3 block = rows_block(work, ROPE_THREADS);
    return cuda_launch(x, "rope", ROWS_KERNEL(rope_kernel, d->t, whole),
                       dim3(work ? rows_grid(d->tokens, block.y) : 0), block, 0, a);
}
