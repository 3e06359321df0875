/* Matrix products: what was asked for is checked here, then a provider computes it; gemm.cuh says which. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/gemm_info.h"
#include "kernels/cuda/gemm_pack.cuh"

static const char *const provider_names[] = {"auto", "own", "cublaslt", "simple"};

const char *gemm_provider_name(gemm_provider p) {
    return provider_names[p];
}

weft_status gemm_provider_asked(gemm_provider *p) {
    const char *name = getenv("WEFT_GEMM");
    *p = GEMM_AUTO;
    if (!name || !*name) return WEFT_OK;
    for (int i = 0; i < 4; i++)
        if (strcmp(name, provider_names[i]) == 0) {
            *p = (gemm_provider)i;
            return WEFT_OK;
        }
    return weft_fail(WEFT_ERR_ARG, "WEFT_GEMM is '%s', expected auto, own, cublaslt or simple", name);
}

/* --- what a backend and an exec have for it ------------------------------------------------------------------------------ */

weft_status gemm_open(cuda_backend *b) {
    const char *why = "not asked for (WEFT_GEMM)";
    gemm_provider asked;
    WEFT_TRY(gemm_provider_asked(&asked));
    b->gemm = asked;
    if (asked == GEMM_AUTO || asked == GEMM_CUBLASLT) b->lt = lt_open(&why);
    if (b->lt) {
        const size_t v = b->lt->api.version(); /* 130205: 13.2.5 */
        snprintf(b->lt_state, sizeof b->lt_state, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
    } else {
        snprintf(b->lt_state, sizeof b->lt_state, "no cuBLASLt: %s", why);
    }
    return WEFT_OK;
}
void gemm_close(cuda_backend *b) {
    lt_close(b->lt);
}
weft_status gemm_exec_open(cuda_exec *x) {
    const cuda_backend *b = cuda_device(&x->base);
    return b->lt ? lt_plans_create(b->lt, &x->lt) : WEFT_OK;
}
void gemm_exec_close(cuda_exec *x) {
    lt_plans_destroy(x->lt);
}

/* --- the call ----------------------------------------------------------------------------------------------------------------- */

gemm_provider gemm_choose(const weft_exec *x, const gemm_call *p) {
    const cuda_backend *b = cuda_device(x);
    const int own = b->gemm != GEMM_CUBLASLT && b->gemm != GEMM_SIMPLE && p->d->k > 0 && gemm_own_takes(x, p);
    const int library = cuda_of((weft_exec *)x)->lt && p->d->k > 0;
    if (b->gemm == GEMM_OWN) return own ? GEMM_OWN : GEMM_SIMPLE;
    if (b->gemm == GEMM_CUBLASLT) return library ? GEMM_CUBLASLT : GEMM_SIMPLE;
    if (own && (!library || gemm_own_wins(p->d, p->e))) return GEMM_OWN;
    return b->gemm == GEMM_AUTO && library ? GEMM_CUBLASLT : GEMM_SIMPLE;
}

static weft_status multiply(weft_exec *x, const gemm_call *p) {
    int summed = 0;
    weft_status s = WEFT_ERR_UNSUPPORTED;
    switch (gemm_choose(x, p)) {
    case GEMM_OWN: s = gemm_own(x, p); break;
    case GEMM_CUBLASLT: s = gemm_cublaslt(x, p, &summed); break;
    default: break;
    }
    if (s == WEFT_ERR_UNSUPPORTED) s = gemm_simple(x, p);
    if (s < 0 || summed || !p->e || !p->e->col_sum) return s;
    return gemm_col_sum(x, p);
}

weft_status cuda_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                      const weft_epilogue *e) {
    weft_gemm_desc plain;
    WEFT_TRY(weft_check_gemm(d, a, b, c, e));
    if (d->m == 0 || d->n == 0) return WEFT_OK;
    if (d->b_packed) {
        WEFT_TRY(gemm_unpack(x, d, b, &plain, &b));
        d = &plain;
    }
    const gemm_call call = {d, a, b, c, e};
    return multiply(x, &call);
}

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

size_t cuda_gemm_scratch(const weft_backend *b, const weft_gemm_desc *d) {
    const cuda_backend *device = (const cuda_backend *)b;
    if (weft_check_gemm_desc(d) < 0 || d->m == 0 || d->n == 0) return 0;
    size_t need = gemm_col_sum_scratch(d);
    if (device->gemm == GEMM_AUTO || device->gemm == GEMM_OWN) need = most(need, gemm_own_scratch(b, d));
    if (device->lt) need = most(need, gemm_cublaslt_scratch(b, d));
    return need;
}

/* --- questions ------------------------------------------------------------------------------------------------------------- */

const char *cuda_gemm_provider(const weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b,
                               void *c, const weft_epilogue *e) {
    const gemm_call call = {d, a, b, c, e};
    return provider_names[gemm_choose(x, &call)];
}

const char *cuda_gemm_library(const weft_backend *b) {
    return ((const cuda_backend *)b)->lt_state;
}

/* The plan of the product without epilogue, or NULL. */
static lt_plan *plain_plan(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c) {
    const gemm_call call = {d, a, b, c, NULL};
    if (!cuda_of(x)->lt || weft_check_gemm(d, a, b, c, NULL) < 0 || d->gated || d->b_packed) return NULL;
    lt_product q = lt_product_of(&call);
    lt_align(&q);
    return lt_plan_of(cuda_of(x)->lt, &q.key);
}

int cuda_gemm_algorithms(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c) {
    lt_found found[LT_TRIED];
    const lt_plan *plan = plain_plan(x, d, a, b, c);
    return plan ? lt_search(cuda_of(x)->lt, plan, found, LT_TRIED) : 0;
}

weft_status cuda_gemm_use_algorithm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b,
                                    void *c, int index) {
    lt_found found[LT_TRIED];
    lt_plan *plan = plain_plan(x, d, a, b, c);
    const int n = plan ? lt_search(cuda_of(x)->lt, plan, found, LT_TRIED) : 0;
    if (index < 0 || index >= n)
        return weft_fail(WEFT_ERR_ARG, "cuBLASLt has %d algorithms for this, not %d", n, index + 1);
    plan->algo = found[index].algo;
    return WEFT_OK;
}
