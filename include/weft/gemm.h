/* Matrix products for any program: C = epilogue(op(A) op(B) + beta C), in f32 or bf16, on a team of
 * threads.
 *
 * It needs no MPI_Init and calls no MPI. The kernels are chosen at run time for the processor (AVX2,
 * AVX-512, AMX where they exist; portable vector code elsewhere). Matrices are row-major; sizes and
 * strides are in elements; op(X) is X or, if said, its transpose. Sums are f32. Results do not depend on
 * the number of threads.
 *
 *   weft_gemm_context *x;
 *   weft_gemm_opts o = {.size = sizeof o, .threads = 4};
 *   weft_gemm_call g = {.size = sizeof g, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c};
 *   if (weft_gemm_open(&o, &x) < 0 || weft_gemm(x, &g) < 0) puts(weft_last_error());
 *   weft_gemm_close(&x);
 *
 * Structures begin with their size, so that they can grow: fill it with sizeof, and everything that is not
 * named with zeros. Method: packed panels and register tiles as in Goto & van de Geijn, "Anatomy of
 * high-performance matrix multiplication", ACM TOMS 34(3), 2008; Van Zee & van de Geijn, "BLIS", ACM TOMS
 * 41(3), 2015. */
#ifndef WEFT_GEMM_H
#define WEFT_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "weft/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A team of threads with their scratch memory. One thread at a time uses a context; several contexts may
 * be used at once. The calling thread works as a member of the team. */
typedef struct weft_gemm_context weft_gemm_context;

/* op(B) laid out for the kernels, for a matrix that is multiplied with more than once (weights, a fixed
 * basis). */
typedef struct weft_gemm_pack weft_gemm_pack;

/* isa: the highest level to use, "portable", "avx2", "avx512", "avx512bf16" or "amx"; NULL: the best that is
 * here. The environment's WEFT_ISA overrides it. */
typedef struct weft_gemm_opts {
    uint32_t size;   /* sizeof(weft_gemm_opts) */
    int threads;     /* members of the team, the caller included; 0: 1. With MPI: the cores of this rank */
    int pin;         /* 1: the other members stay on cores of the affinity mask, if it has enough */
    const char *isa; /* see above */
} weft_gemm_opts;

typedef struct weft_gemm_info {
    uint32_t size;     /* sizeof(weft_gemm_info), set by the caller */
    int threads;       /* of the context */
    int cores;         /* that this process may use */
    uint32_t contract; /* products of equal contract, inputs and isa have equal bits */
    char isa[16];      /* "portable", "avx2", ... */
    char model[64];    /* the processor's name */
} weft_gemm_info;

/* One product. Strides of 0 mean that rows lie without gaps. What is NULL or 0 is left out. Operands are
 * the caller's, are only read (c, pre and col_sum are written), and must not overlap what is written.
 * 64-byte alignment makes calls faster; the alignment of the type is enough.
 *
 * Epilogue, on the f32 sums before they are stored, in this order: times scale; + bias[n]; the value so
 * far goes to pre[m, n]; GELU (tanh form); + residual[m, n]; rounding to the type of c. Backward,
 * gelu_grad in place of bias, pre, gelu and residual: the sums, scaled, times GELU'(gelu_grad[m, n]).
 * Backward, col_sum beside a weight's gradient (trans_a 1, trans_b 0): the bias's gradient, the sum over k
 * of op(A)[m, k], added to its old value if beta. */
typedef struct weft_gemm_call {
    uint32_t size;                /* sizeof(weft_gemm_call) */
    weft_dtype in, out;           /* of a and b: f32 or bf16; of c: f32, or bf16 if in is. 0 is f32 */
    uint8_t trans_a;              /* 0: a is [m, k]; 1: a is [k, m], used transposed */
    uint8_t trans_b;              /* 0: b is [k, n]; 1: b is [n, k], used transposed */
    uint8_t beta;                 /* 1: add to c (f32 only); 0: c is written and not read */
    uint8_t gelu;                 /* 1: GELU */
    int64_t m, n, k;              /* >= 0 */
    int64_t lda, ldb, ldc;        /* distance of the rows of a, b and c as they are stored */
    const void *a, *b;            /* type in; b and ldb are not looked at if packed is given */
    void *c;                      /* [m, n], type out */
    const weft_gemm_pack *packed; /* op(B), made for the same n, k, in and trans_b */
    uint64_t version;             /* 0, or the version that packed must have, else STALE */
    float scale;                  /* 0 means 1; another than 1 needs beta 0 */
    const void *bias;             /* [n], type in */
    void *pre;                    /* [m, n], type out, rows ldp apart: what GELU's derivative will need */
    const void *gelu_grad;        /* [m, n], type out, rows ldp apart: what pre was */
    const void *residual;         /* [m, n], type out, rows ldr apart */
    int64_t ldp, ldr;
    float *col_sum; /* [m] */
} weft_gemm_call;

/* Creates a context. o may be NULL: one thread. Any thread. ARG, UNSUPPORTED (isa), NOMEM. */
WEFT_API weft_status weft_gemm_open(const weft_gemm_opts *o, weft_gemm_context **x);
/* Frees the context and sets *x to NULL; *x may be NULL. STATE if packs of it are left: nothing is freed. */
WEFT_API weft_status weft_gemm_close(weft_gemm_context **x);
/* What the context runs on. ARG. */
WEFT_API weft_status weft_gemm_get_info(const weft_gemm_context *x, weft_gemm_info *info);

/* Makes the scratch large enough for g (only types, transposes, sizes and strides are looked at), so that
 * weft_gemm with such a shape allocates nothing. Scratch only grows. ARG, UNSUPPORTED, NOMEM. */
WEFT_API weft_status weft_gemm_plan(weft_gemm_context *x, const weft_gemm_call *g);

/* Computes the product and returns when it is complete. A shape that was not planned is planned first.
 * ARG, UNSUPPORTED (types), NOMEM, STALE (packed does not fit): nothing was written. */
WEFT_API weft_status weft_gemm(weft_gemm_context *x, const weft_gemm_call *g);

/* Packs op(B): n, k, in, trans_b, ldb and b of g are used; version is the caller's name for this state of
 * b. The pack keeps no reference to b. It belongs to x, is destroyed before x is closed, and serves every
 * context of the same isa; products that read it may run at once. On the thread that uses x. ARG,
 * UNSUPPORTED, NOMEM. */
WEFT_API weft_status weft_gemm_pack_create(weft_gemm_context *x, const weft_gemm_call *g, uint64_t version,
                                           weft_gemm_pack **p);
/* Packs b, of the shape and stride that p was made with, into p: no allocation. On the thread that uses the
 * pack's context, and not while a product reads p. ARG. */
WEFT_API weft_status weft_gemm_pack_refresh(weft_gemm_pack *p, const void *b, uint64_t version);
/* The version of the last create or refresh. Any thread, but not during a refresh. */
WEFT_API uint64_t weft_gemm_pack_version(const weft_gemm_pack *p);
/* Bytes of memory of the panels. Any thread. */
WEFT_API size_t weft_gemm_pack_bytes(const weft_gemm_pack *p);
/* Frees *p and sets it to NULL; *p may be NULL. On the thread that uses the pack's context. */
WEFT_API void weft_gemm_pack_destroy(weft_gemm_pack **p);

#ifdef __cplusplus
}
#endif
#endif
