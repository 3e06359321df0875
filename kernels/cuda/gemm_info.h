/* What tests, benchmarks and `weft info` ask the products of the cuda backend; C. */
#ifndef WEFT_KERNELS_CUDA_GEMM_INFO_H
#define WEFT_KERNELS_CUDA_GEMM_INFO_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Who computes this product on this exec: "own", "cublaslt" or "simple" (before a provider has said that it cannot). */
const char *cuda_gemm_provider(const weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b,
                               void *c, const weft_epilogue *e);
/* "cuBLASLt 13.0.0", or why there is none. Valid as long as b. */
const char *cuda_gemm_library(const weft_backend *b);
/* Algorithms that cuBLASLt proposes for the product without its epilogue, best first; 0: none, or no cuBLASLt. */
int cuda_gemm_algorithms(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c);
/* From now on the product without epilogue takes the algorithm `index` of those when cuBLASLt computes it on x. ARG. */
weft_status cuda_gemm_use_algorithm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b,
                                    void *c, int index);

#ifdef __cplusplus
}
#endif
#endif
