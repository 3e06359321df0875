/* A library with cuBLASLt's functions, for the emulated device: each product is a loop over column-major matrices, done in
 * double in the stream's turn. It knows nothing of weft's order of things, so a wrong layout, stride or epilogue gives wrong
 * numbers; and it is strict: what NVIDIA's documentation asks of a call is checked, and an algorithm is good only for the
 * alignments that it was searched with.
 *
 * FAKE_LT_REFUSE: epilogues (their numbers, or-ed) that no algorithm is found for; 1: the plain one. */
#include <functional>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cublaslt_api.h"
#include "tests/cuda/emulator/cuda_runtime.h"
#include "tests/cuda/fakelt/fake_cublaslt.h"

#define MAGIC   0x66616b656c74u
#define INVALID 7

struct layout {
    int type;
    int64_t rows, columns, ld;
};
struct desc {
    int trans_a, trans_b, epilogue;
    void *bias, *aux;
    int64_t aux_ld;
};
struct preference {
    uint64_t workspace;
    uint32_t reductions, align[4];
};

static unsigned long calls[FAKE_LT_EPILOGUES], searches;

/* --- reading and writing, in double -------------------------------------------------------------------------------------- */

static double get(int type, const void *p, int64_t i) {
    float f;
    if (type == LT_R_32F) return (double)((const float *)p)[i];
    const uint32_t u = (uint32_t)((const uint16_t *)p)[i] << 16;
    memcpy(&f, &u, 4);
    return (double)f;
}
static void put(int type, void *p, int64_t i, double v) {
    const float f = (float)v;
    uint32_t u;
    if (type == LT_R_32F) {
        ((float *)p)[i] = f;
        return;
    }
    memcpy(&u, &f, 4);
    ((uint16_t *)p)[i] =
        (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static double gelu(double a) {
    return a / (1 + exp(-2 * 0.79788456080286535588 * (a + 0.044715 * a * a * a)));
}
static double gelu_slope(double a) {
    const double s = 1 / (1 + exp(-2 * 0.79788456080286535588 * (a + 0.044715 * a * a * a)));
    return s + 2 * a * s * (1 - s) * 0.79788456080286535588 * (1 + 3 * 0.044715 * a * a);
}

/* --- one product ------------------------------------------------------------------------------------------------------------ */

struct product {
    desc d;
    layout a, b, c, r;
    float alpha, beta;
    const void *pa, *pb, *pc;
    void *pr, *workspace;
    size_t bytes;
};

static double dot(const product &p, int64_t i, int64_t j) {
    const int64_t k = p.d.trans_a ? p.a.rows : p.a.columns;
    double sum = 0;
    for (int64_t l = 0; l < k; l++)
        sum += get(p.a.type, p.pa, p.d.trans_a ? i * p.a.ld + l : l * p.a.ld + i) *
               get(p.b.type, p.pb, p.d.trans_b ? l * p.b.ld + j : j * p.b.ld + l);
    return sum;
}

static double finish(const product &p, int64_t i, int64_t j, double v) {
    const int e = p.d.epilogue;
    if (e == LT_EPILOGUE_DGELU) return v * gelu_slope(get(p.r.type, p.d.aux, j * p.d.aux_ld + i));
    if (e & LT_EPILOGUE_BIAS) v += get(p.r.type, p.d.bias, i);
    if (e & LT_EPILOGUE_AUX) put(p.r.type, p.d.aux, j * p.d.aux_ld + i, v);
    return e & LT_EPILOGUE_GELU ? gelu(v) : v;
}

static void compute(const product &p) {
    memset(p.workspace, 0xEE, p.bytes < 4096 ? p.bytes : 4096); /* it is the library's to spoil */
    for (int64_t j = 0; j < p.r.columns; j++)
        for (int64_t i = 0; i < p.r.rows; i++) {
            double v = (double)p.alpha * dot(p, i, j);
            if (p.beta != 0) v += (double)p.beta * get(p.c.type, p.pc, j * p.c.ld + i);
            put(p.r.type, p.pr, j * p.r.ld + i, finish(p, i, j, v));
        }
    if (p.d.epilogue == LT_EPILOGUE_BGRADB)
        for (int64_t j = 0; j < p.r.columns; j++) {
            double sum = 0;
            for (int64_t l = 0; l < (p.d.trans_b ? p.b.columns : p.b.rows); l++)
                sum += get(p.b.type, p.pb, p.d.trans_b ? l * p.b.ld + j : j * p.b.ld + l);
            put(p.r.type, p.d.bias, j, sum);
        }
}

/* --- what a call must be --------------------------------------------------------------------------------------------------------- */

static int no(const char *what) {
    fprintf(stderr, "fake cuBLASLt: %s\n", what);
    return 0;
}

static int fits(const desc *d, const layout *a, const layout *b, const layout *c, const layout *r) {
    const int64_t m = d->trans_a ? a->columns : a->rows, k = d->trans_a ? a->rows : a->columns;
    const int64_t n = d->trans_b ? b->rows : b->columns, k2 = d->trans_b ? b->columns : b->rows;
    const layout *const all[] = {a, b, c, r};
    for (const layout *l : all)
        if (l->ld < l->rows) return no("a leading dimension is less than the rows");
    if (k != k2 || m != r->rows || n != r->columns || m != c->rows || n != c->columns)
        return no("shapes do not fit");
    if (a->type != b->type || c->type != r->type) return no("types");
    return 1;
}

static int known(int epilogue) {
    switch (epilogue) {
    case LT_EPILOGUE_DEFAULT:
    case LT_EPILOGUE_BIAS:
    case LT_EPILOGUE_GELU:
    case LT_EPILOGUE_GELU | LT_EPILOGUE_BIAS:
    case LT_EPILOGUE_GELU | LT_EPILOGUE_AUX:
    case LT_EPILOGUE_GELU | LT_EPILOGUE_AUX | LT_EPILOGUE_BIAS:
    case LT_EPILOGUE_DGELU:
    case LT_EPILOGUE_BGRADB: return 1;
    default: return no("an epilogue that cuBLASLt does not have");
    }
}

static int refused(const desc *d, const layout *r) {
    const char *v = getenv("FAKE_LT_REFUSE");
    const int mask = v ? atoi(v) : 0;
    if (d->epilogue & LT_EPILOGUE_AUX && r->type != LT_R_16BF)
        return 1; /* as NVIDIA's for fp32 outputs of bf16 products */
    return d->epilogue & mask;
}

static int rules(const product &p, const lt_algo *algo) {
    const void *const at[4] = {p.pa, p.pb, p.pc, p.pr};
    if (algo->data[0] != MAGIC || algo->data[1] != (uint64_t)p.d.epilogue)
        return no("an algorithm of another product");
    for (int i = 0; i < 4; i++)
        if (!at[i] || (uintptr_t)at[i] % algo->data[2 + i])
            return no("a matrix is not aligned as the search was told");
    if (p.bytes < algo->data[6] || (uintptr_t)p.workspace % 256) return no("the workspace");
    if ((p.d.epilogue & LT_EPILOGUE_BIAS || p.d.epilogue == LT_EPILOGUE_BGRADB) && !p.d.bias)
        return no("no bias");
    if (p.d.epilogue & LT_EPILOGUE_AUX)
        if (!p.d.aux || (uintptr_t)p.d.aux % 16 || p.d.aux_ld % 8 || p.d.aux_ld < p.r.rows)
            return no("the auxiliary matrix");
    return 1;
}

/* --- the interface --------------------------------------------------------------------------------------------------------------- */

#define API extern "C" __attribute__((visibility("default")))

API size_t cublasLtGetVersion(void) {
    return 130000;
}
API const char *cublasLtGetStatusName(int status) {
    return status == LT_SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_INVALID_VALUE";
}
API int cublasLtCreate(void **handle) {
    *handle = calloc(1, 8);
    return *handle ? LT_SUCCESS : INVALID;
}
API int cublasLtDestroy(void *handle) {
    free(handle);
    return LT_SUCCESS;
}

API int cublasLtMatmulDescCreate(void **out, int compute_type, int scale) {
    if (compute_type != LT_COMPUTE_32F || scale != LT_R_32F) return INVALID;
    desc *d = (desc *)calloc(1, sizeof *d);
    d->epilogue = LT_EPILOGUE_DEFAULT;
    *out = d;
    return LT_SUCCESS;
}
API int cublasLtMatmulDescDestroy(void *d) {
    free(d);
    return LT_SUCCESS;
}
API int cublasLtMatmulDescSetAttribute(void *to, int attribute, const void *v, size_t bytes) {
    desc *d = (desc *)to;
    int32_t word = 0;
    if (bytes == 4) memcpy(&word, v, 4);
    switch (attribute) {
    case LT_DESC_TRANSA: d->trans_a = word; return bytes == 4 ? LT_SUCCESS : INVALID;
    case LT_DESC_TRANSB: d->trans_b = word; return bytes == 4 ? LT_SUCCESS : INVALID;
    case LT_DESC_EPILOGUE: d->epilogue = word; return bytes == 4 && known(word) ? LT_SUCCESS : INVALID;
    case LT_DESC_BIAS_POINTER: memcpy(&d->bias, v, 8); return bytes == 8 ? LT_SUCCESS : INVALID;
    case LT_DESC_AUX_POINTER: memcpy(&d->aux, v, 8); return bytes == 8 ? LT_SUCCESS : INVALID;
    case LT_DESC_AUX_LD: memcpy(&d->aux_ld, v, 8); return bytes == 8 ? LT_SUCCESS : INVALID;
    default: return INVALID;
    }
}

API int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    layout *l = (layout *)calloc(1, sizeof *l);
    l->type = type;
    l->rows = (int64_t)rows;
    l->columns = (int64_t)columns;
    l->ld = ld;
    *out = l;
    return LT_SUCCESS;
}
API int cublasLtMatrixLayoutDestroy(void *l) {
    free(l);
    return LT_SUCCESS;
}

API int cublasLtMatmulPreferenceCreate(void **out) {
    preference *p = (preference *)calloc(1, sizeof *p);
    p->reductions = 7;
    for (uint32_t &a : p->align) a = 256;
    *out = p;
    return LT_SUCCESS;
}
API int cublasLtMatmulPreferenceDestroy(void *p) {
    free(p);
    return LT_SUCCESS;
}
API int cublasLtMatmulPreferenceSetAttribute(void *to, int attribute, const void *v, size_t bytes) {
    preference *p = (preference *)to;
    if (attribute == LT_PREF_WORKSPACE && bytes == 8) {
        memcpy(&p->workspace, v, 8);
        return LT_SUCCESS;
    }
    if (bytes != 4) return INVALID;
    if (attribute == LT_PREF_REDUCTION_MASK)
        memcpy(&p->reductions, v, 4);
    else if (attribute >= LT_PREF_ALIGN_A && attribute <= LT_PREF_ALIGN_D)
        memcpy(&p->align[attribute - LT_PREF_ALIGN_A], v, 4);
    else
        return INVALID;
    return LT_SUCCESS;
}

API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *d, void *a, void *b, void *c, void *r, void *pref,
                                       int most, lt_found *found, int *n) {
    const preference *p = (const preference *)pref;
    (void)handle;
    searches++;
    *n = 0;
    if (!fits((desc *)d, (layout *)a, (layout *)b, (layout *)c, (layout *)r)) return INVALID;
    if (p->reductions & ~(uint32_t)LT_REDUCTION_COMPUTE_TYPE)
        return no("sums in an order of their own are allowed") + INVALID;
    if (most < 1 || refused((desc *)d, (layout *)r)) return LT_NOT_SUPPORTED;
    memset(found, 0, sizeof *found);
    found->algo.data[0] = MAGIC;
    found->algo.data[1] = (uint64_t)((desc *)d)->epilogue;
    for (int i = 0; i < 4; i++) found->algo.data[2 + i] = p->align[i];
    found->algo.data[6] = found->workspace = p->workspace < 1024 ? p->workspace : 1024;
    *n = 1;
    return LT_SUCCESS;
}

API int cublasLtMatmul(void *handle, void *d, const void *alpha, const void *a, void *la, const void *b,
                       void *lb, const void *beta, const void *c, void *lc, void *r, void *lr,
                       const lt_algo *algo, void *workspace, size_t bytes, void *stream) {
    (void)handle;
    if (!fits((desc *)d, (layout *)la, (layout *)lb, (layout *)lc, (layout *)lr)) return INVALID;
    product p;
    p.d = *(desc *)d, p.a = *(layout *)la, p.b = *(layout *)lb, p.c = *(layout *)lc, p.r = *(layout *)lr;
    p.alpha = *(const float *)alpha, p.beta = *(const float *)beta;
    p.pa = a, p.pb = b, p.pc = c, p.pr = r, p.workspace = workspace, p.bytes = bytes;
    if (!rules(p, algo)) return INVALID;
    calls[p.d.epilogue]++;
    emu_enqueue((cudaStream_t)stream, [p]() { compute(p); });
    return LT_SUCCESS;
}

API unsigned long fake_lt_calls(int epilogue) {
    return calls[epilogue];
}
API unsigned long fake_lt_searches(void) {
    return searches;
}
