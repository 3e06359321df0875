/* The ops of the cuda backend, as their sources define them; table.c puts them into the table. Contract: kernels.h. */
#ifndef WEFT_KERNELS_CUDA_OPS_H
#define WEFT_KERNELS_CUDA_OPS_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct weft_ops cuda_ops;

weft_status cuda_alloc(weft_backend *b, size_t bytes, void **p);
void cuda_release(weft_backend *b, void *p);
weft_status cuda_copy(weft_exec *x, void *dst, const void *src, size_t bytes);
weft_status cuda_fill(weft_exec *x, void *dst, int byte, size_t bytes);
weft_status cuda_sync(weft_exec *x);
/* Lets the device read and write memory of the host where it is (tests). */
void cuda_host_map(void *p, size_t bytes);
void cuda_host_unmap(void *p);
weft_status cuda_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                      const weft_epilogue *e);
weft_status cuda_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes);
weft_status cuda_embed_fwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                           const void *wte, const void *wpe, void *out);
weft_status cuda_embed_bwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                           const void *dout, float *dwte, float *dwpe);
weft_status cuda_norm_fwd(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                          const void *beta, void *out, float *mean, float *rstd);
weft_status cuda_norm_bwd(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                          const void *gamma, const float *mean, const float *rstd, const void *dres,
                          void *din, float *dgamma, float *dbeta);
weft_status cuda_gelu_fwd(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out);
weft_status cuda_gelu_bwd(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a, void *da);
weft_status cuda_swiglu_fwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu,
                            void *out);
weft_status cuda_swiglu_bwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *dout,
                            const void *gu, void *dgu);
weft_status cuda_rope(weft_exec *x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                      void *v);
weft_status cuda_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                          const int32_t *doc_start, void *o, float *lse);
weft_status cuda_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                          const int32_t *doc_start, const void *o, const float *lse, const void *do_,
                          void *dq, void *dk, void *dv);
weft_status cuda_attn_merge(weft_exec *x, const weft_attn_desc *d, int begin, const void *o, const float *lse,
                            float *sum, float *sum_lse);
weft_status cuda_loss_stats(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                            const int32_t *target, void *z, float *lse, float *z_target);
weft_status cuda_loss_grad(weft_exec *x, const weft_loss_desc *d, const float *lse, const int32_t *target,
                           void *z);
weft_status cuda_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                             const void *b, void *c, const weft_epilogue *e);
weft_status cuda_route_fwd(weft_exec *x, const weft_route_desc *d, const float *logits, float *prob,
                           float *lse, int32_t *choice, float *weight);
weft_status cuda_route_load(weft_exec *x, const weft_route_desc *d, const float *prob, const int32_t *choice,
                            float *load, float *share);
weft_status cuda_route_bwd(weft_exec *x, const weft_route_desc *d, const float *prob, const float *lse,
                           const int32_t *choice, const float *weight, const float *load,
                           const float *dweight, void *dlogits);
weft_status cuda_route_sort(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice, int64_t *first,
                            int32_t *place);
weft_status cuda_rows_scatter(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                              void *out);
weft_status cuda_rows_combine(weft_exec *x, const weft_rows_desc *d, const void *in, const int32_t *place,
                              const float *weight, const void *residual, void *out);
weft_status cuda_rows_combine_bwd(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                  const int32_t *place, const float *weight, void *rows, float *dweight);
weft_status cuda_adamw(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                       const float *g, uint16_t *w, const float *clip, const uint32_t *skip);
weft_status cuda_newton_schulz(weft_exec *x, const weft_newton_schulz_desc *d, float *v);
weft_status cuda_sumsq(weft_exec *x, size_t n, const float *v, double *out);
weft_status cuda_sumsq_blocks(weft_exec *x, size_t n, const float *v, double *sums);
weft_status cuda_absmax(weft_exec *x, size_t n, const float *v, float *out);
weft_status cuda_cast(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst);
weft_status cuda_cast_rows(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                           const void *src, int64_t lds, void *dst, int64_t ldd, int add);
weft_status cuda_axpby(weft_exec *x, size_t n, float a, const float *v, float b, float *y);
weft_status cuda_transpose(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src, void *dst);
weft_status cuda_box_copy(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                          const int64_t *src_stride, void *dst, const int64_t *dst_stride);
weft_status cuda_reduce_push(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, int d,
                             void *const *dst, size_t n, int past);
weft_status cuda_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, void *dst,
                          size_t n);
weft_status cuda_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst);
weft_status cuda_outer_step(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                            float *theta);
weft_status cuda_quant(weft_exec *x, weft_codec c, const void *v, weft_dtype t, size_t n, void *dst,
                       uint64_t *nonfinite);
weft_status cuda_dequant_axpy(weft_exec *x, weft_codec c, const void *src, size_t n, float a, float *acc);
weft_status cuda_probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops);

/* Scratch of ops; 0 for descriptors that the op refuses. */
size_t cuda_gemm_scratch(const weft_backend *b, const weft_gemm_desc *d);
size_t cuda_gemm_groups_scratch(const weft_backend *b, const weft_gemm_desc *d);
size_t cuda_embed_bwd_scratch(const weft_backend *b, const weft_embed_desc *d);
size_t cuda_norm_bwd_scratch(const weft_backend *b, const weft_norm_desc *d);
size_t cuda_attn_fwd_scratch(const weft_backend *b, const weft_attn_desc *d);
size_t cuda_attn_bwd_scratch(const weft_backend *b, const weft_attn_desc *d);
size_t cuda_loss_scratch(const weft_backend *b, const weft_loss_desc *d);
size_t cuda_newton_schulz_scratch(const weft_backend *b, const weft_newton_schulz_desc *d);

#ifdef __cplusplus
}
#endif
#endif
