/* A peer that speaks the C interface of BLAS: its plan is the call with everything but the pointers. */
#ifndef WEFT_BENCH_PEERS_CBLAS_H
#define WEFT_BENCH_PEERS_CBLAS_H

#include "benchmarks/peers/peers.h"

/* order, transposes, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc */
typedef void cblas_sgemm_call(int, int, int, int, int, int, float, const float *, int, const float *, int,
                              float, float *, int);

void *cblas_plan(cblas_sgemm_call *call, const weft_gemm_desc *d);
void cblas_run(void *plan, const void *a, const void *b, void *c);
void cblas_drop(void *plan);

#endif
