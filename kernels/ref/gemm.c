/* C = epilogue(op(A) op(B) + beta C): one dot product in double per element, then the epilogue on it. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

/* A packed B of this backend: this header, then op(B) as a plain row-major [k, n]. */
typedef struct ref_pack {
    char magic[8];
    uint64_t version;
    int64_t n, k;
    uint32_t dtype, trans_b, contract, zero[5];
} ref_pack;

static const char ref_pack_magic[8] = "wftpref";

static void ref_pack_header(const weft_gemm_desc *d, uint64_t version, ref_pack *h) {
    memset(h, 0, sizeof *h);
    memcpy(h->magic, ref_pack_magic, sizeof h->magic);
    h->version = version;
    h->n = d->n;
    h->k = d->k;
    h->dtype = d->b;
    h->trans_b = d->trans_b;
    h->contract = WEFT_KERNELS_CONTRACT;
}

weft_status ref_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes) {
    (void)x;
    ref_pack h;
    char *data = dst;
    size_t elem, at = sizeof h;
    WEFT_TRY(weft_check_gemm_desc(d));
    if (d->b_packed) return weft_fail(WEFT_ERR_ARG, "gemm_pack: b is packed already");
    if (d->gated) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm_pack: a gated product takes b as it is");
    WEFT_TRY(weft_check_given("gemm_pack", bytes != NULL));
    WEFT_TRY(weft_check_extent("gemm_pack", d->k, d->n));
    elem = weft_dtype_size(d->b);
    if (dst) {
        WEFT_TRY(weft_check_given("gemm_pack", b || d->k == 0 || d->n == 0));
        ref_pack_header(d, d->pack_version, &h);
        memcpy(data, &h, sizeof h);
        for (int64_t k = 0; k < d->k; k++)
            for (int64_t n = 0; n < d->n; n++, at += elem) {
                int64_t from = d->trans_b ? n * d->ldb + k : k * d->ldb + n;
                memcpy(data + at, (const char *)b + (size_t)from * elem, elem);
            }
    }
    *bytes = sizeof h + (size_t)d->k * (size_t)d->n * elem;
    return WEFT_OK;
}

static weft_status ref_check_pack(const weft_gemm_desc *d, const void *pack) {
    ref_pack found, wanted;
    memcpy(&found, pack, sizeof found);
    ref_pack_header(d, d->pack_version, &wanted);
    if (memcmp(&found, &wanted, sizeof found) == 0) return WEFT_OK;
    if (memcmp(found.magic, ref_pack_magic, sizeof found.magic) != 0)
        return weft_fail(WEFT_ERR_STALE, "gemm: b was not packed by the ref backend; pack it again");
    return weft_fail(
        WEFT_ERR_STALE,
        "gemm: b is packed as [%lld, %lld] version %llu, expected [%lld, %lld] version %llu; pack it again",
        (long long)found.k, (long long)found.n, (unsigned long long)found.version, (long long)d->k,
        (long long)d->n, (unsigned long long)d->pack_version);
}

/* The epilogue of element (m, n) with accumulated value v, in the order of the contract. */
static double ref_epilogue(const weft_gemm_desc *d, const weft_epilogue *e, int64_t m, int64_t n, double v) {
    if (e->scale != 0.0f) v *= e->scale;
    if (e->act_bwd) return v * ref_gelu_derivative(ref_get(d->c, e->act_bwd, m * e->ldp + n));
    if (e->bias) v += ref_get(d->a, e->bias, n);
    if (e->pre) ref_put(d->c, e->pre, m * e->ldp + n, v);
    if (e->act == WEFT_ACT_GELU) v = ref_gelu(v);
    if (e->residual) v += ref_get(d->c, e->residual, m * e->ldr + n);
    return v;
}

/* Element (m, n) of op(A) op(B); strides of A and B between rows and columns. */
static double ref_dot(const weft_gemm_desc *d, const void *a, const void *b, const int64_t stride[4],
                      int64_t m, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < d->k; k++)
        sum +=
            ref_get(d->a, a, m * stride[0] + k * stride[1]) * ref_get(d->b, b, k * stride[2] + n * stride[3]);
    return sum;
}

/* Element (m, n) of a gated product from its two sums. */
static double ref_gated(const weft_gemm_desc *d, const weft_epilogue *e, int64_t m, int64_t n, double gate,
                        double up) {
    weft_epilogue part = e ? *e : (weft_epilogue){0};
    part.residual = NULL;
    gate = ref_epilogue(d, &part, m, n, gate);
    up = ref_epilogue(d, &part, m, d->n / 2 + n, up);
    double v = gate / (1 + exp(-gate)) * up;
    return e && e->residual ? v + ref_get(d->c, e->residual, m * e->ldr + n) : v;
}

weft_status ref_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                     const weft_epilogue *e) {
    (void)x;
    WEFT_TRY(weft_check_gemm(d, a, b, c, e));
    if (d->m == 0 || d->n == 0) return WEFT_OK;
    int64_t stride[4] = {d->trans_a ? 1 : d->lda, d->trans_a ? d->lda : 1, d->trans_b ? 1 : d->ldb,
                         d->trans_b ? d->ldb : 1};
    if (d->b_packed) {
        WEFT_TRY(weft_check_given("gemm", b != NULL));
        WEFT_TRY(ref_check_pack(d, b));
        b = (const char *)b + sizeof(ref_pack);
        stride[2] = d->n;
        stride[3] = 1;
    }
    for (int64_t m = 0; m < d->m; m++) {
        for (int64_t n = 0; d->gated && n < d->n / 2; n++)
            ref_put(d->c, c, m * d->ldc + n,
                    ref_gated(d, e, m, n, ref_dot(d, a, b, stride, m, n),
                              ref_dot(d, a, b, stride, m, d->n / 2 + n)));
        for (int64_t n = 0; !d->gated && n < d->n; n++) {
            double sum = ref_dot(d, a, b, stride, m, n);
            if (d->beta) sum += ref_get(d->c, c, m * d->ldc + n);
            if (e) sum = ref_epilogue(d, e, m, n, sum);
            ref_put(d->c, c, m * d->ldc + n, sum);
        }
        if (e && e->col_sum) {
            double sum = d->beta ? (double)e->col_sum[m] : 0.0;
            for (int64_t k = 0; k < d->k; k++) sum += ref_get(d->a, a, m * stride[0] + k * stride[1]);
            e->col_sum[m] = (float)sum;
        }
    }
    return WEFT_OK;
}
