/* The `ref` backend: every op as its formula, scalar, accumulated in double. It is the oracle of the tests
 * and the fallback on a machine without AVX2; readable first, fast enough for tests.
 *
 * Storage is f32 or bf16; a value is widened to double when it is read and rounded once to f32 (then to bf16)
 * when it is stored. Single-threaded; the exec only carries scratch. The contract of each op stands in
 * kernels/kernels.h. */
#ifndef WEFT_KERNELS_REF_H
#define WEFT_KERNELS_REF_H

#include <stdint.h>

#include "base/bf16.h"
#include "base/status.h"
#include "kernels/backend.h"

/* Element i of a tensor of dtype t (f32 or bf16). */
static inline double ref_get(weft_dtype t, const void *p, int64_t i) {
    return t == WEFT_BF16 ? weft_bf16_to_f32(((const weft_bf16 *)p)[i]) : ((const float *)p)[i];
}

static inline void ref_put(weft_dtype t, void *p, int64_t i, double v) {
    if (t == WEFT_BF16)
        ((weft_bf16 *)p)[i] = weft_f32_to_bf16((float)v);
    else
        ((float *)p)[i] = (float)v;
}

/* Doubles of the exec's scratch; NOMEM if it is too small. */
weft_status ref_scratch(weft_exec *x, const char *op, size_t doubles, double **p);

/* GELU, tanh form, and its derivative (activation.c); gemm's epilogue uses them too. */
double ref_gelu(double a);
double ref_gelu_derivative(double a);

/* Doubles of scratch that an op needs; the descriptor has been checked. */
size_t ref_embed_bwd_doubles(const weft_embed_desc *d);
size_t ref_attn_fwd_doubles(const weft_attn_desc *d);
size_t ref_attn_bwd_doubles(const weft_attn_desc *d);
size_t ref_newton_schulz_doubles(const weft_newton_schulz_desc *d);

/* The ops; see struct weft_ops. */
weft_status ref_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                     const weft_epilogue *e);
weft_status ref_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes);
weft_status ref_embed_fwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                          const void *wte, const void *wpe, void *out);
weft_status ref_embed_bwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                          const void *dout, float *dwte, float *dwpe);
weft_status ref_norm_fwd(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                         const void *beta, void *out, float *mean, float *rstd);
weft_status ref_norm_bwd(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                         const void *gamma, const float *mean, const float *rstd, const void *dres, void *din,
                         float *dgamma, float *dbeta);
weft_status ref_gelu_fwd(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out);
weft_status ref_gelu_bwd(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a, void *da);
weft_status ref_swiglu_fwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu, void *out);
weft_status ref_swiglu_bwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *dout,
                           const void *gu, void *dgu);
weft_status ref_rope(weft_exec *x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                     void *v);
weft_status ref_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                         const int32_t *doc_start, void *o, float *lse);
weft_status ref_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                         const int32_t *doc_start, const void *o, const float *lse, const void *do_, void *dq,
                         void *dk, void *dv);
weft_status ref_attn_merge(weft_exec *x, const weft_attn_desc *d, int begin, const void *o, const float *lse,
                           float *sum, float *sum_lse);
weft_status ref_loss_stats(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                           const int32_t *target, void *z, float *lse, float *z_target);
weft_status ref_loss_grad(weft_exec *x, const weft_loss_desc *d, const float *lse, const int32_t *target,
                          void *z);
weft_status ref_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                            const void *b, void *c, const weft_epilogue *e);
weft_status ref_route_fwd(weft_exec *x, const weft_route_desc *d, const float *logits, float *prob,
                          float *lse, int32_t *choice, float *weight);
weft_status ref_route_load(weft_exec *x, const weft_route_desc *d, const float *prob, const int32_t *choice,
                           float *load, float *share);
weft_status ref_route_bwd(weft_exec *x, const weft_route_desc *d, const float *prob, const float *lse,
                          const int32_t *choice, const float *weight, const float *load, const float *dweight,
                          void *dlogits);
weft_status ref_route_sort(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice, int64_t *first,
                           int32_t *place);
weft_status ref_rows_scatter(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                             void *out);
weft_status ref_rows_combine(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                             const float *weight, const void *residual, void *out);
weft_status ref_rows_combine_bwd(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                 const int32_t *place, const float *weight, void *rows, float *dweight);
weft_status ref_adamw(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                      const float *g, uint16_t *w, const float *clip, const uint32_t *skip);
weft_status ref_newton_schulz(weft_exec *x, const weft_newton_schulz_desc *d, float *v);
weft_status ref_sumsq(weft_exec *x, size_t n, const float *v, double *out);
weft_status ref_sumsq_blocks(weft_exec *x, size_t n, const float *v, double *sums);
weft_status ref_absmax(weft_exec *x, size_t n, const float *v, float *out);
weft_status ref_cast(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst);
weft_status ref_cast_rows(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                          const void *src, int64_t lds, void *dst, int64_t ldd, int add);
weft_status ref_axpby(weft_exec *x, size_t n, float a, const float *v, float b, float *y);
weft_status ref_transpose(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src, void *dst);
weft_status ref_box_copy(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                         const int64_t *src_stride, void *dst, const int64_t *dst_stride);
weft_status ref_reduce_push(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, int d,
                            void *const *dst, size_t n, int past);
weft_status ref_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, void *dst,
                         size_t n);
weft_status ref_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst);
weft_status ref_outer_step(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                           float *theta);
weft_status ref_quant(weft_exec *x, weft_codec c, const void *v, weft_dtype t, size_t n, void *dst,
                      uint64_t *nonfinite);
weft_status ref_dequant_axpy(weft_exec *x, weft_codec c, const void *src, size_t n, float a, float *acc);
weft_status ref_probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops);

#endif
