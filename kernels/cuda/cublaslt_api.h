/* The part of cuBLASLt's C interface that weft calls (NVIDIA, cuBLAS documentation, "cuBLASLt API"), declared here so that
 * building weft needs none of it: the library is opened at run time. tests/cuda/test_cublaslt_abi compares every number
 * with NVIDIA's header where that is installed. The interface of versions 12 and 13 is the same for what stands here. */
#ifndef WEFT_KERNELS_CUDA_CUBLASLT_API_H
#define WEFT_KERNELS_CUDA_CUBLASLT_API_H

#include <stddef.h>
#include <stdint.h>

enum { LT_SUCCESS = 0, LT_NOT_SUPPORTED = 15 };
enum { LT_R_32F = 0, LT_R_16BF = 14 };
enum { LT_COMPUTE_32F = 68 }; /* fp32 products in fp32, never TF32 */
enum { LT_OP_N = 0, LT_OP_T = 1 };

enum { /* attributes of a product */
       LT_DESC_TRANSA = 3,
       LT_DESC_TRANSB = 4,
       LT_DESC_EPILOGUE = 7,
       LT_DESC_BIAS_POINTER = 8,
       LT_DESC_AUX_POINTER = 11,
       LT_DESC_AUX_LD = 12
};
enum { /* what happens to the sums */
       LT_EPILOGUE_DEFAULT = 1,
       LT_EPILOGUE_BIAS = 4,
       LT_EPILOGUE_GELU = 32,
       LT_EPILOGUE_AUX = 128, /* with GELU: what went into it is stored, too */
       LT_EPILOGUE_DGELU = 64 | 128,
       LT_EPILOGUE_BGRADB = 512 /* the sums of B over k go to the bias pointer */
};
enum { /* attributes of a search */
       LT_PREF_WORKSPACE = 1,
       LT_PREF_REDUCTION_MASK = 3,
       LT_PREF_ALIGN_A = 5,
       LT_PREF_ALIGN_B = 6,
       LT_PREF_ALIGN_C = 7,
       LT_PREF_ALIGN_D = 8
};
enum { LT_REDUCTION_COMPUTE_TYPE = 2 }; /* parts of k meet in fp32 in the workspace, in a fixed order */

typedef struct lt_algo {
    uint64_t data[8];
} lt_algo;

typedef struct lt_found {
    lt_algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} lt_found;

typedef struct lt_api {
    size_t (*version)(void);
    const char *(*status_name)(int status);
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*desc_create)(void **desc, int compute, int scale);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *v, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*pref_create)(void **pref);
    int (*pref_destroy)(void *pref);
    int (*pref_set)(void *pref, int attribute, const void *v, size_t bytes);
    int (*search)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int most,
                  lt_found *found, int *n);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *la, const void *b,
                  void *lb, const void *beta, const void *c, void *lc, void *d, void *ld, const lt_algo *algo,
                  void *workspace, size_t bytes, void *stream);
} lt_api;

#endif
