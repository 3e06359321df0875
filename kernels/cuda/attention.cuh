/* What the attention kernels of the cuda backend share.
 *
 * The query heads of a key head are handled together, as one long list of rows: row r of (batch, key head) is token r /
 * group of query head key_head * group + r % group. So keys are read once for all heads of a group, sums over the group are
 * made by one block in a fixed order, and one token of generation still is `group` rows of a product. Every mask is an
 * interval: row r sees the keys [first, end), counted from the descriptor's key 0.
 *
 * Scores are kept times log2(e): softmax by exp2. Blocks are numbered in one dimension, those with the most keys (the
 * last rows, the first keys under a causal mask) first; blocks of one (batch, key head) are `pairs` apart. */
#ifndef WEFT_KERNELS_CUDA_ATTENTION_CUH
#define WEFT_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/device.cuh"

#define ATTN_LOG2E 1.4426950408889634f
#define ATTN_LN2   0.69314718055994531f
/* Rows and keys are int32 in kernels, and a tile may reach past their end. */
#define ATTN_MOST (INT32_MAX - 4096)

/* The argument of the kernels, by value. */
typedef struct attn_args {
    weft_attn_desc d;
    int32_t group, rows, keys; /* rows = tq * group, keys = tk */
    int32_t pairs;             /* batch * hkv */
    int32_t narrow;            /* outputs (o; dq, dk, dv) are not for accesses of 16 bytes */
    float exponent;            /* scale * log2(e) */
    const int32_t *doc_start;
    const void *q, *k, *v;
    void *o;    /* written by the forward pass, read by the backward pass */
    float *lse; /* likewise */
    const void *dout;
    void *dq, *dk, *dv;
    float2 *stats; /* [pairs, rows]: lse * log2(e) and D of a row; the scratch of the backward pass */
} attn_args;

/* Rows of 16-byte aligned pieces: bf16, a head dimension that is a multiple of 8. */
static inline int attn_aligned(const void *p, const int64_t (&stride)[3]) {
    return (uintptr_t)p % 16 == 0 && stride[0] % 8 == 0 && stride[1] % 8 == 0 && stride[2] % 8 == 0;
}

/* Which kernels take a call depends on the descriptor and on how the inputs are aligned, not on the outputs.
 * What a provider is asked, in this order; the first that takes the call does it (attention.cu). `simple` takes all. */
int attn_flash_takes(const attn_args *a);
int attn_hopper_takes(const weft_exec *x, const attn_args *a);

weft_status attn_simple_forward(weft_exec *x, const attn_args *a);
weft_status attn_simple_backward(weft_exec *x, const attn_args *a);
weft_status attn_flash_forward(weft_exec *x, const attn_args *a);
weft_status attn_flash_backward(weft_exec *x, const attn_args *a);
weft_status attn_hopper_forward(weft_exec *x, const attn_args *a);
weft_status attn_hopper_backward(weft_exec *x, const attn_args *a);
size_t attn_flash_forward_scratch(const weft_attn_desc *d); /* of a range of keys that is split; else 0 */

/* Fills a->stats: the first step of every backward pass. */
weft_status attn_row_stats(weft_exec *x, const attn_args *a);

/* --- in kernels ---------------------------------------------------------------------------------------------------- */

/* Where a block stands. */
struct attn_place {
    int batch, key_head;
};
static __device__ __forceinline__ attn_place attn_place_of(const attn_args &a, int pair) {
    attn_place p = {pair / a.d.hkv, pair % a.d.hkv};
    return p;
}

static __device__ __forceinline__ int attn_head(const attn_args &a, const attn_place &p, int row) {
    return p.key_head * a.group + row % a.group;
}
/* Element 0 of a row in a tensor of queries with strides s. */
static __device__ __forceinline__ int64_t attn_row_at(const attn_args &a, const int64_t (&s)[3],
                                                      const attn_place &p, int row) {
    return p.batch * s[0] + row / a.group * s[1] + attn_head(a, p, row) * s[2];
}
static __device__ __forceinline__ int64_t attn_key_at(const int64_t (&s)[3], const attn_place &p, int key) {
    return p.batch * s[0] + key * s[1] + p.key_head * s[2];
}
static __device__ __forceinline__ int64_t attn_lse_at(const attn_args &a, const attn_place &p, int row) {
    return ((int64_t)p.batch * a.d.hq + attn_head(a, p, row)) * a.d.tq + row / a.group;
}

static __device__ __forceinline__ int attn_clamp(int64_t v, int most) {
    return v < 0 ? 0 : v > most ? most : (int)v;
}

/* The keys [first, end) that a row sees. Rows that see none, and those past the last, get [keys, 0). */
static __device__ __forceinline__ void attn_visible(const attn_args &a, const attn_place &p, int row,
                                                    int *first, int *end) {
    *first = a.keys;
    *end = 0;
    if (row >= a.rows) return;
    const int token = row / a.group;
    const int64_t position = a.d.q_pos0 - a.d.k_pos0 + token; /* of the query, counted from key 0 */
    int64_t low = 0, high = a.keys;
    if (a.d.causal && high > position + 1) high = position + 1;
    if (a.d.window > 0 && low < position - a.d.window + 1) low = position - a.d.window + 1;
    if (a.doc_start) {
        const int64_t start = a.doc_start[p.batch * a.d.tq + token] - a.d.k_pos0;
        if (low < start) low = start;
    }
    if (low >= high) return;
    *first = (int)low;
    *end = (int)high;
}

/* The rows [first, end) that may see a key of [from, to), documents aside. */
static __device__ __forceinline__ void attn_viewers(const attn_args &a, int from, int to, int *first,
                                                    int *end) {
    const int64_t shift = a.d.k_pos0 - a.d.q_pos0; /* token of the query at key 0's position */
    int64_t low = 0, high = a.d.tq;
    if (a.d.causal && low < shift + from) low = shift + from;
    if (a.d.window > 0 && high > shift + to - 1 + a.d.window) high = shift + to - 1 + a.d.window;
    if (low > high) low = high;
    *first = attn_clamp(low, (int)a.d.tq) * a.group;
    *end = attn_clamp(high, (int)a.d.tq) * a.group;
}

#endif
