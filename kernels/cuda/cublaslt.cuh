/* cuBLASLt on weft's terms: row-major products, plans that are found once.
 *
 * A row-major matrix is the column-major one of its transpose, so C = op(A) op(B) is asked for as
 * C^T = op(B)^T op(A)^T: Lt's A is our B, its B is our A, its rows are our columns, and the transposes stay as they are. */
#ifndef WEFT_KERNELS_CUDA_CUBLASLT_CUH
#define WEFT_KERNELS_CUDA_CUBLASLT_CUH

#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/gemm.cuh"

#define LT_WORKSPACE ((size_t)32 << 20) /* what NVIDIA recommends for Hopper; all that an algorithm may use */
#define LT_STAGE                                                                                             \
    ((size_t)64 << 20) /* fp32 sums that wait for an epilogue that Lt has not: so many at a time */
#define LT_PLANS 192   /* shapes of a model and its epilogues; the oldest goes */
#define LT_TRIED 16    /* algorithms that a benchmark asks for */

struct cuda_lt { /* of a backend */
    void *library;
    lt_api api;
};

/* One product as Lt does it, in our terms: D = epilogue(alpha op(A) op(B) + beta C). Compared byte by byte. */
struct lt_key {
    int64_t m, n, k, lda, ldb, ldc, ldd, ldaux;
    int32_t in, out; /* LT_R_ */
    int32_t trans_a, trans_b, epilogue, add;
    uint32_t align[4]; /* of our b, a, c, d: Lt's A, B, C, D */
};
struct lt_product {
    lt_key key;
    const void *a, *b, *c;
    void *d, *bias, *aux; /* bias: [n]; BGRADB: [m] */
    float alpha;
};
struct lt_plan {
    lt_key key;
    void *desc, *layout[4]; /* of Lt's A, B, C, D */
    lt_algo algo;
    size_t workspace;
    int found;
};
struct lt_plans { /* of an exec */
    const lt_api *api;
    void *handle, *pref;
    lt_plan plan[LT_PLANS];
    unsigned used; /* so many were made */
};

/* The library, or NULL: *why says so. WEFT_CUBLASLT names another file to open. */
cuda_lt *lt_open(const char **why);
void lt_close(cuda_lt *lt);
weft_status lt_plans_create(const cuda_lt *lt, lt_plans **plans);
void lt_plans_destroy(lt_plans *plans);

/* The plan of a product, made if there is none yet (which allocates; later calls do not). NULL: Lt cannot do it. */
lt_plan *lt_plan_of(lt_plans *plans, const lt_key *key);
/* Up to `most` algorithms for it, best first, as Lt thinks. */
int lt_search(lt_plans *plans, const lt_plan *plan, lt_found *found, int most);
/* Enqueues it with the plan's algorithm; workspace: LT_WORKSPACE bytes. */
weft_status lt_run(lt_plans *plans, lt_plan *plan, const lt_product *p, void *workspace, cudaStream_t stream);

/* The key of a product of d's matrices without an epilogue; ld of D and C, and pointers, are the caller's. */
lt_product lt_product_of(const gemm_call *p);
/* Fills in the alignments. */
void lt_align(lt_product *p);

#endif
