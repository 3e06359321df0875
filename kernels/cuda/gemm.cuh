/* Matrix products on the device: who computes them. gemm.cu checks a call and asks a provider:
 *   own       hopper_gemm.cu: TMA and wgmma, sm_90a; takes what gemm_own_takes says
 *   cublaslt  cublaslt.cu: NVIDIA's library, where one is found (dlopen)
 *   simple    gemm_simple.cu: every GPU, every call
 * WEFT_GEMM=auto|own|cublaslt|simple (default auto): auto takes own where hopper_table.c knows it to be faster than
 * cuBLASLt or where there is no cuBLASLt, else cuBLASLt, else simple; a provider that was asked for by name and cannot
 * do a product leaves it to simple. The choice depends on the descriptor and the device alone, so that the same call
 * gives the same bits each time. Row-major throughout. */
#ifndef WEFT_KERNELS_CUDA_GEMM_CUH
#define WEFT_KERNELS_CUDA_GEMM_CUH

#include "kernels/cuda/gemm_epilogue.cuh"

enum gemm_provider { GEMM_AUTO, GEMM_OWN, GEMM_CUBLASLT, GEMM_SIMPLE };

/* A product that has been checked: m, n > 0, b is not packed, a and b are there unless k is 0. */
struct gemm_call {
    const weft_gemm_desc *d;
    const void *a, *b;
    void *c;
    const weft_epilogue *e; /* NULL: none */
};

/* Providers. What they enqueue does everything but col_sum, which is gemm_col_sum's unless a provider says that it was
 * done (*summed = 1). UNSUPPORTED: nothing was enqueued, another provider may. */
weft_status gemm_simple(weft_exec *x, const gemm_call *p);
weft_status gemm_cublaslt(weft_exec *x, const gemm_call *p, int *summed);
weft_status gemm_own(weft_exec *x, const gemm_call *p);

/* 1 if gemm_own computes this on this device: bf16, sm_90, alignments of TMA (16 bytes: bases, strides). */
int gemm_own_takes(const weft_exec *x, const gemm_call *p);
/* 1 if hopper_table.c has it faster than cuBLASLt's best on this shape. By descriptor only. */
int gemm_own_wins(const weft_gemm_desc *d, const weft_epilogue *e);
/* Scratch of a product by a provider, whatever its epilogue, in bytes. */
size_t gemm_own_scratch(const weft_backend *b, const weft_gemm_desc *d);
size_t gemm_cublaslt_scratch(const weft_backend *b, const weft_gemm_desc *d);

/* col_sum of p's epilogue (TN): partial sums over GEMM_SUM_ROWS rows each, in scratch, then those in their order. */
#define GEMM_SUM_ROWS 256
weft_status gemm_col_sum(weft_exec *x, const gemm_call *p);
size_t gemm_col_sum_scratch(const weft_gemm_desc *d);

/* The epilogue of p on sums that lie in device memory [rows, p.d->n] (f32), as rows first, first + 1 ... of C. */
weft_status gemm_finish(weft_exec *x, const gemm_call *p, const float *sums, int64_t first, int64_t rows);

/* out[i] += sums[i]. */
weft_status gemm_add(weft_exec *x, int64_t n, const float *sums, float *out);
/* C of a gated product whose pre is there. */
weft_status gemm_gate(weft_exec *x, const gemm_call *p);

/* Which provider auto or WEFT_GEMM chooses for the product. */
gemm_provider gemm_choose(const weft_exec *x, const gemm_call *p);
const char *gemm_provider_name(gemm_provider p);
/* What WEFT_GEMM says: ARG if it is none of the names. */
weft_status gemm_provider_asked(gemm_provider *p);

#endif
