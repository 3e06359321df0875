#include "benchmarks/peers/cblas.h"

#include <stdlib.h>

#define ROW_MAJOR 101
#define PLAIN     111
#define TRANSPOSE 112

struct cblas_plan {
    cblas_sgemm_call *call;
    int trans_a, trans_b, m, n, k, lda, ldb, ldc;
};

void *cblas_plan(cblas_sgemm_call *call, const weft_gemm_desc *d) {
    struct cblas_plan *p = malloc(sizeof *p);
    if (!p) return NULL;
    *p = (struct cblas_plan){call,
                             d->trans_a ? TRANSPOSE : PLAIN,
                             d->trans_b ? TRANSPOSE : PLAIN,
                             (int)d->m,
                             (int)d->n,
                             (int)d->k,
                             (int)d->lda,
                             (int)d->ldb,
                             (int)d->ldc};
    return p;
}

void cblas_run(void *plan, const void *a, const void *b, void *c) {
    const struct cblas_plan *p = plan;
    p->call(ROW_MAJOR, p->trans_a, p->trans_b, p->m, p->n, p->k, 1.0f, a, p->lda, b, p->ldb, 0.0f, c, p->ldc);
}

void cblas_drop(void *plan) {
    free(plan);
}
