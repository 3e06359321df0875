/* Between the files of the cpu ops: the loop over a range that the team shares, and the ops that the table
 * lists. */
#ifndef WEFT_CPU_OPS_H
#define WEFT_CPU_OPS_H

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

/* About so many elements of an element-wise op are one block: long enough to hide the call, short enough for
 * the tick, and what is not longer than one block is not worth waking the team for. */
#define OPS_BLOCK 16384

typedef void ops_range_job(void *arg, int64_t begin, int64_t end);

/* Calls job over disjoint ranges that make up [0, n), cut at multiples of `unit`, each at most `block` long
 * (a multiple of unit). Which member gets which range is fixed by n, unit and the team; the result must not
 * depend on it. */
void ops_for(weft_exec *x, int64_t n, int64_t unit, int64_t block, ops_range_job *job, void *arg);

/* An op that reads and writes more than 1.5 times the L3 cache: what it reads comes from memory, and what it writes
 * first has left the caches before it ends. */
int ops_beyond_cache(const weft_exec *x, double bytes);

/* Shall such an op write `dst`, whose rows are of `row` bytes, past the caches (stream.h)? */
static inline int ops_streams(const weft_exec *x, double bytes, const void *dst, size_t row) {
    return ((uintptr_t)dst | row) % CPU_LINE == 0 && ops_beyond_cache(x, bytes);
}

/* ops_for over the n elements of an element-wise op that reads and writes `bytes` in all. Beyond the caches
 * each block is walked in four strands of OPS_RUN elements at a time: prefetchers stop at the end of a page,
 * and a core keeps more lines in flight if it reads at several places. */
#define OPS_STRANDS 4
#define OPS_RUN     256
void ops_elements(weft_exec *x, int64_t n, double bytes, ops_range_job *job, void *arg);

/* The rows that make one block, for ops whose item is a row of `cols` elements. */
static inline int64_t ops_rows(int64_t cols) {
    return cols >= OPS_BLOCK ? 1 : OPS_BLOCK / (cols > 0 ? cols : 1);
}

static inline int64_t ops_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static inline int64_t ops_round_up(int64_t a, int64_t b) {
    return ops_ceil_div(a, b) * b;
}

/* norm_bwd sums dgamma and dbeta over blocks of so many rows; part of the bit contract. */
#define OPS_NORM_BLOCK 64
static inline size_t ops_norm_bwd_scratch(const weft_norm_desc *d) {
    return (size_t)ops_ceil_div(d->rows, OPS_NORM_BLOCK) * 2 * (size_t)d->cols * sizeof(float);
}

/* name(arg, begin, end, t) for constant t, as jobs: name_f32, name_bf16, and the choice between them. */
#define OPS_PER_DTYPE(name)                                                                                  \
    static void name##_f32(void *arg, int64_t begin, int64_t end) {                                          \
        name(arg, begin, end, WEFT_F32);                                                                     \
    }                                                                                                        \
    static void name##_bf16(void *arg, int64_t begin, int64_t end) {                                         \
        name(arg, begin, end, WEFT_BF16);                                                                    \
    }                                                                                                        \
    static ops_range_job *name##_of(weft_dtype t) {                                                          \
        return t == WEFT_F32 ? name##_f32 : name##_bf16;                                                     \
    }

/* The product of loss_stats: z[tokens, columns] = h w^T. */
static inline weft_gemm_desc ops_loss_gemm(const weft_loss_desc *d) {
    weft_gemm_desc g = {
        .size = sizeof g, .m = d->tokens, .n = weft_loss_columns(d), .k = d->channels, .trans_b = 1};
    g.lda = g.ldb = d->channels;
    g.ldc = g.n;
    g.a = g.b = g.c = d->t;
    return g;
}

/* Scratch of the ops that need some; descriptors are taken as valid. */
size_t ops_attn_fwd_scratch(const weft_backend *b, const weft_attn_desc *d, int threads);
size_t ops_attn_bwd_scratch(const weft_backend *b, const weft_attn_desc *d, int threads);
size_t ops_attn_fwd_part(const weft_backend *b, const weft_attn_desc *d); /* of one member */
size_t ops_attn_bwd_part(const weft_backend *b, const weft_attn_desc *d);
size_t ops_newton_schulz_scratch(const struct cpu_backend *b, const weft_newton_schulz_desc *d, int threads);

/* Each source writes its ops into the table. */
#ifdef CPU_LEVEL
void CPU_NAME(ops_fill_activation)(struct weft_ops *t);
void CPU_NAME(ops_fill_norm)(struct weft_ops *t);
void CPU_NAME(ops_fill_embed)(struct weft_ops *t);
void CPU_NAME(ops_fill_optim)(struct weft_ops *t);
void CPU_NAME(ops_fill_data)(struct weft_ops *t);
void CPU_NAME(ops_fill_reduce)(struct weft_ops *t);
void CPU_NAME(ops_fill_codec)(struct weft_ops *t);
void CPU_NAME(ops_fill_experts)(struct weft_ops *t);
void CPU_NAME(ops_fill_loss)(struct weft_ops *t);
void CPU_NAME(ops_fill_attention_forward)(struct weft_ops *t);
void CPU_NAME(ops_fill_attention_backward)(struct weft_ops *t);
void CPU_NAME(ops_fill_attention_merge)(struct weft_ops *t);
#endif
void ops_fill_newton_schulz(struct weft_ops *t);
void ops_fill_box_copy(struct weft_ops *t);

#endif
