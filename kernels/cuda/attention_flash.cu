/* FlashAttention-2 (Dao 2023) forward on the tensor cores of every GPU from sm_80 on: bf16, head dimensions that are
 * multiples of 8 up to 128, all masks.
 *
 * A block of four warps has 64 * MT rows (attention.cuh), 16 * MT a warp. Q stays in shared memory; keys pass by, KEYS at a
 * time: S = Q K^T in registers, online softmax (rows of a quad of lanes), P rounded to bf16 in registers is the left operand
 * of P V. V of a tile is fetched during S, the next K during softmax and P V. Tiles that all rows see whole carry no mask
 * code; warps skip tiles that none of their rows see. Sums of a row are in a fixed order: same bits every run.
 *
 * Few rows and long keys (generation): the keys are split over blocks, by shape alone, and the parts merged in their order.
 *
 * Expected, never measured. Per tile pair of 128 x 64 at head dimension 128: 4.2 Mflop = 4096 cycles of an A100's tensor
 * cores (1024 fma a cycle); shared memory: 2 operands of 64 x 256 bytes x 4 warps, 1024 cycles; exp2: 8192 of 16 a cycle,
 * 512 cycles. Bound by mma.sync, so 60 to 70 % of its peak as published for FlashAttention-2; on Hopper mma.sync itself
 * reaches about 62 % of wgmma. Generation moves the keys and values once: 2 * tk * hkv * hd * 2 bytes. */
#include "kernels/cuda/attention_flash.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * CUDA_WARP,
    SPLIT_KEYS = 128,   /* a part has at least so many keys */
    SPLIT_BLOCKS = 264, /* and there are at most about so many blocks: two a multiprocessor of an H200 */
    SPLIT_MOST = 64
};

/* Keys of a tile: the registers of S beside those of the output. */
template <int HD, int MT> constexpr int flash_keys = HD *MT > 128 ? 32 : 64;

/* --- one warp ------------------------------------------------------------------------------------------------------ */

template <int HD, int MT> struct flash_state {
    float out[MT][HD / 8][4];
    float max[MT][2], sum[MT][2]; /* of rows g and g + 8; sum: this lane's part */
};

template <int HD, int MT>
static __device__ __forceinline__ void scores(const unsigned char *q, const unsigned char *k, int row0,
                                              float (&s)[MT][flash_keys<HD, MT> / 8][4]) {
    constexpr int KEYS = flash_keys<HD, MT>;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
    for (int c = 0; c < HD / 16; c++) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) tile_left<HD>(q, row0 + 16 * m, c, left[m]);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t right[2][2];
            tile_right<HD>(k, 16 * n, c, right);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16(s[m][2 * n], left[m], right[0]);
                mma_m16n8k16(s[m][2 * n + 1], left[m], right[1]);
            }
        }
    }
}

/* s becomes the weights of the keys from key0 on; what was there before shrinks. */
template <int HD, int MT, int MASKED>
static __device__ __forceinline__ void softmax(const attn_args &a, const int2 *interval, int row0, int key0,
                                               float (&s)[MT][flash_keys<HD, MT> / 8][4],
                                               flash_state<HD, MT> &f) {
    constexpr int KEYS = flash_keys<HD, MT>;
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = f.max[m][h];
            if (MASKED) {
                const int2 seen = interval[row0 + 16 * m + g + 8 * h];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int c = 2 * h; c < 2 * h + 2; c++) {
                        const int key = key0 + 8 * n + 2 * t + c % 2;
                        if (key < seen.x || key >= seen.y) s[m][n][c] = -INFINITY;
                    }
            }
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float base = top == -INFINITY ? 0.0f : top * a.exponent;
            const float shrink = fast_exp2(f.max[m][h] * a.exponent - base);
            float sum = f.sum[m][h] * shrink;
            f.max[m][h] = top;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int c = 2 * h; c < 2 * h + 2; c++) {
                    s[m][n][c] = fast_exp2(fmaf(s[m][n][c], a.exponent, -base));
                    sum += s[m][n][c];
                }
            f.sum[m][h] = sum;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                f.out[m][n][2 * h] *= shrink;
                f.out[m][n][2 * h + 1] *= shrink;
            }
        }
}

template <int HD, int MT>
static __device__ __forceinline__ void
weigh(const unsigned char *v, const float (&s)[MT][flash_keys<HD, MT> / 8][4], flash_state<HD, MT> &f) {
    constexpr int KEYS = flash_keys<HD, MT>;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) tile_weights(s[m][2 * k], s[m][2 * k + 1], left[m]);
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            uint32_t right[2][2];
            tile_values<HD>(v, 16 * k, n, right);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16(f.out[m][2 * n], left[m], right[0]);
                mma_m16n8k16(f.out[m][2 * n + 1], left[m], right[1]);
            }
        }
    }
}

/* --- the kernel ---------------------------------------------------------------------------------------------------- */

/* Parts of a split: o is [splits][pairs * rows][hd], lse [splits][pairs * rows]. */
struct flash_parts {
    int splits;
    float *lse, *o;
};

template <int HD, int MT>
static __device__ __forceinline__ void store_part(const attn_args &a, const flash_parts &parts, int split,
                                                  int pair, int row, float sum, float max, int h,
                                                  const float (&out)[HD / 8][4]) {
    const int64_t at = ((int64_t)split * a.pairs + pair) * a.rows + row;
    const float factor = max == -INFINITY ? 0.0f : 1.0f / sum;
    if (lane_id() % 4 == 0)
        parts.lse[at] =
            max == -INFINITY && !(sum != sum) ? -INFINITY : (max * a.exponent + log2f(sum)) * ATTN_LN2;
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
        const int c = 8 * n + 2 * (lane_id() % 4);
        if (c >= a.d.hd) continue;
        *(float2 *)(parts.o + at * a.d.hd + c) =
            make_float2(out[n][2 * h] * factor, out[n][2 * h + 1] * factor);
    }
}

template <int HD, int MT, int SPLIT>
static __device__ __forceinline__ void
finish(const attn_args &a, const attn_place &p, int pair, const flash_parts &parts, int split, int row0,
       const int2 *interval, unsigned char *q, flash_state<HD, MT> &f) {
    const int own = warp_id() * 16 * MT, g = lane_id() / 4;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = own + 16 * m + g + 8 * h, row = row0 + r;
            float sum = f.sum[m][h];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const int seen = interval[r].y > 0; /* else o is 0 */
            factor[h] = seen ? 1.0f / sum : 0.0f;
            if (row >= a.rows) continue;
            if (SPLIT)
                store_part<HD, MT>(a, parts, split, pair, row, sum, f.max[m][h], h, f.out[m]);
            else if (lane_id() % 4 == 0)
                a.lse[attn_lse_at(a, p, row)] =
                    seen ? (f.max[m][h] * a.exponent + log2f(sum)) * ATTN_LN2 : -INFINITY;
        }
        if (!SPLIT) tile_store<HD, 1>(a, p, q, own + 16 * m, f.out[m], factor, row0, a.d.so, a.o);
    }
}

template <int HD, int MT> constexpr size_t flash_shared() {
    return (size_t)(64 * MT + 2 * flash_keys<HD, MT>)*HD * 2 + sizeof(intervals<64 * MT>);
}

template <int HD, int MT, int SPLIT>
__global__ void __launch_bounds__(THREADS, 1) attn_flash_rows(const attn_args a, const flash_parts parts) {
    constexpr int ROWS = 64 * MT, KEYS = flash_keys<HD, MT>;
    WEFT_DYNAMIC(shared);
    unsigned char *const q = shared, *const k = q + ROWS * HD * 2, *const v = k + KEYS * HD * 2;
    intervals<ROWS> *const seen = (intervals<ROWS> *)(v + KEYS * HD * 2);
    const int pair = (int)(blockIdx.x % (unsigned)a.pairs), item = (int)(blockIdx.x / (unsigned)a.pairs);
    const int split = SPLIT ? item % parts.splits : 0, tile = SPLIT ? item / parts.splits : item;
    const int row0 = ((a.rows - 1) / ROWS - tile) * ROWS, own = warp_id() * 16 * MT;
    const attn_place p = attn_place_of(a, pair);
    int low, high, whole_low, whole_high;
    flash_state<HD, MT> f;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        f.max[m][0] = f.max[m][1] = -INFINITY;
        f.sum[m][0] = f.sum[m][1] = 0;
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
            f.out[m][n][0] = f.out[m][n][1] = f.out[m][n][2] = f.out[m][n][3] = 0;
    }
    find_intervals<ROWS>(a, p, row0, seen);
    tile_fetch<HD, ROWS, THREADS, 1>(a, p, a.q, a.d.sq, row0, q);
    __syncthreads();
    span<ROWS>(seen, &low, &high, &whole_low, &whole_high);
    if (SPLIT && low < high) {
        const int each = (int)((high - low + KEYS * parts.splits - 1) / (KEYS * parts.splits)) * KEYS;
        low = min(low + split * each, high);
        high = min(low + each, high);
    }
    const int warp_low = seen->low[own / CUDA_WARP], warp_high = seen->high[own / CUDA_WARP];
    if (low < high) tile_fetch<HD, KEYS, THREADS, 0>(a, p, a.k, a.d.sk, low, k);
    cp_async_commit();
    for (int key0 = low; key0 < high; key0 += KEYS) {
        const int works = key0 < warp_high && key0 + KEYS > warp_low;
        float s[MT][KEYS / 8][4];
        cp_async_wait<0>();
        __syncthreads(); /* K is here; nobody reads V any more */
        tile_fetch<HD, KEYS, THREADS, 0>(a, p, a.v, a.d.sv, key0, v);
        cp_async_commit();
        if (works) scores<HD, MT>(q, k, own, s);
        cp_async_wait<0>();
        __syncthreads(); /* V is here; nobody reads K any more */
        if (key0 + KEYS < high) tile_fetch<HD, KEYS, THREADS, 0>(a, p, a.k, a.d.sk, key0 + KEYS, k);
        cp_async_commit();
        if (!works) continue;
        if (key0 >= whole_low && key0 + KEYS <= whole_high)
            softmax<HD, MT, 0>(a, seen->of, own, key0, s, f);
        else
            softmax<HD, MT, 1>(a, seen->of, own, key0, s, f);
        weigh<HD, MT>(v, s, f);
    }
    cp_async_wait<0>();
    __syncthreads();
    finish<HD, MT, SPLIT>(a, p, pair, parts, split, row0, seen->of, q, f);
}

/* --- split --------------------------------------------------------------------------------------------------------- */

/* One warp a row: the parts in their order. */
__global__ void __launch_bounds__(THREADS) attn_flash_merge(const attn_args a, const flash_parts parts) {
    const int64_t rows = (int64_t)a.pairs * a.rows, at = (int64_t)blockIdx.x * WARPS + warp_id();
    if (at >= rows) return; /* a whole warp */
    const attn_place p = attn_place_of(a, (int)(at / a.rows));
    const int row = (int)(at % a.rows);
    uint16_t *o = (uint16_t *)a.o + attn_row_at(a, a.d.so, p, row);
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < parts.splits; i++) top = fmaxf(top, parts.lse[i * rows + at]);
    const float base = top == -INFINITY ? 0.0f : top;
    for (int i = 0; i < parts.splits; i++) sum += fast_exp2((parts.lse[i * rows + at] - base) * ATTN_LOG2E);
    for (int c = lane_id(); c < a.d.hd; c += CUDA_WARP) {
        float out = 0;
        for (int i = 0; i < parts.splits; i++) {
            const float w = fast_exp2((parts.lse[i * rows + at] - base) * ATTN_LOG2E) / sum;
            out = fmaf(w, parts.o[(i * rows + at) * a.d.hd + c], out);
        }
        store1(o + c, sum == 0.0f ? 0.0f : out);
    }
    if (lane_id() == 0) a.lse[attn_lse_at(a, p, row)] = sum == 0.0f ? -INFINITY : base + logf(sum);
}

/* How many parts the keys are cut into: 1 where the rows alone make enough blocks. By shape alone. */
static int splits_of(const weft_attn_desc *d) {
    const int64_t rows = d->tq * (d->hq / d->hkv), blocks = divup(rows, 64) * d->batch * d->hkv;
    if (rows > 64 || blocks == 0) return 1;
    int64_t n = SPLIT_BLOCKS / blocks;
    if (n > d->tk / SPLIT_KEYS) n = d->tk / SPLIT_KEYS;
    if (n > SPLIT_MOST) n = SPLIT_MOST;
    return n < 1 ? 1 : (int)n;
}

/* Of a descriptor that passed the check; the products cannot be too large where rows <= 64 and the rest is in memory. */
size_t attn_flash_forward_scratch(const weft_attn_desc *d) {
    const int splits = d->t == WEFT_BF16 ? splits_of(d) : 1;
    if (splits == 1) return 0;
    return (size_t)splits * (size_t)d->batch * (size_t)d->hq * (size_t)d->tq * (size_t)(d->hd + 1) *
           sizeof(float);
}

/* --- host ---------------------------------------------------------------------------------------------------------- */

/* Copies go by 16 bytes. The maximum is of unscaled scores, so the scale must be positive. */
int attn_flash_takes(const attn_args *a) {
    const weft_attn_desc *d = &a->d;
    return d->t == WEFT_BF16 && d->hd % 8 == 0 && d->hd <= 128 && d->scale > 0 && attn_aligned(a->q, d->sq) &&
           attn_aligned(a->k, d->sk) && attn_aligned(a->v, d->sv) &&
           (!a->dout || attn_aligned(a->dout, d->so));
}

template <int HD, int MT, int SPLIT>
static weft_status forward(weft_exec *x, const attn_args *a, const flash_parts &parts) {
    const dim3 grid((unsigned)(divup(a->rows, 64 * MT) * a->pairs * parts.splits));
    return cuda_launch(x, "attn_fwd", attn_flash_rows<HD, MT, SPLIT>, grid, dim3(THREADS),
                       flash_shared<HD, MT>(), *a, parts);
}

weft_status attn_flash_forward(weft_exec *x, const attn_args *a) {
    const int64_t rows = (int64_t)a->pairs * a->rows;
    const int wide = a->d.hd > 64;
    flash_parts parts = {splits_of(&a->d), NULL, NULL};
    if (parts.splits == 1 && a->rows > 64)
        return wide ? forward<128, 2, 0>(x, a, parts) : forward<64, 2, 0>(x, a, parts);
    if (parts.splits == 1) return wide ? forward<128, 1, 0>(x, a, parts) : forward<64, 1, 0>(x, a, parts);
    parts.o = (float *)x->scratch;
    parts.lse = parts.o + parts.splits * rows * a->d.hd; /* o first: hd is even, so its pairs are aligned */
    WEFT_TRY((wide ? forward<128, 1, 1>(x, a, parts) : forward<64, 1, 1>(x, a, parts)));
    return cuda_launch(x, "attn_fwd: merge", attn_flash_merge, dim3((unsigned)divup(rows, WARPS)),
                       dim3(THREADS), 0, *a, parts);
}
