/* attn_fwd and attn_bwd on cuda: which kernels take a call.
 *
 * hopper (wgmma and TMA, sm_90a), flash (mma.sync, sm_80 and later; also the split of long key ranges for generation),
 * simple (everything). WEFT_ATTENTION=hopper, flash or simple takes away the better ones, for tests and comparisons: what
 * the one named does not take goes to the next. Results of the three differ in rounding. */
#include <stdlib.h>

#include "kernels/cuda/attention.cuh"

enum provider { HOPPER, FLASH, SIMPLE };

/* The best provider that may be used. */
static enum provider best(void) {
    const char *name = getenv("WEFT_ATTENTION");
    if (name && strcmp(name, "simple") == 0) return SIMPLE;
    if (name && strcmp(name, "flash") == 0) return FLASH;
    return HOPPER; /* "auto" too */
}

static weft_status args_of(const weft_attn_desc *d, const void *q, const void *k, const void *v,
                           const int32_t *doc_start, attn_args *a) {
    int64_t rows;
    memset(a, 0, sizeof *a);
    if (!weft_mul_i64_ok(d->tq, d->hq / d->hkv, &rows) || rows > ATTN_MOST || d->tk > ATTN_MOST ||
        (double)(rows + d->tk + 64) * d->batch * d->hkv * (d->hd + 64) / 2048 > INT32_MAX)
        return weft_fail(
            WEFT_ERR_UNSUPPORTED,
            "attention on cuda: %d x %lld queries x %d heads, %lld keys are more than its grids hold",
            d->batch, (long long)d->tq, d->hq, (long long)d->tk);
    a->d = *d;
    a->group = d->hq / d->hkv;
    a->rows = (int32_t)rows;
    a->keys = (int32_t)d->tk;
    a->pairs = d->batch * d->hkv;
    a->exponent = d->scale * ATTN_LOG2E;
    a->doc_start = doc_start;
    a->q = q;
    a->k = k;
    a->v = v;
    return WEFT_OK;
}

size_t cuda_attn_fwd_scratch(const weft_backend *b, const weft_attn_desc *d) {
    (void)b;
    return weft_check_attn(d) < 0 ? 0 : attn_flash_forward_scratch(d);
}

size_t cuda_attn_bwd_scratch(const weft_backend *b, const weft_attn_desc *d) {
    (void)b;
    return weft_check_attn(d) < 0 ? 0 : (size_t)d->batch * (size_t)d->hq * (size_t)d->tq * sizeof(float2);
}

weft_status cuda_attn_fwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                          const int32_t *doc_start, void *o, float *lse) {
    const enum provider most = best();
    attn_args a;
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0 || d->tq == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_fwd", q && o && lse && (d->tk == 0 || (k && v))));
    WEFT_TRY(cuda_need_scratch(x, "attn_fwd", cuda_attn_fwd_scratch(x->backend, d)));
    WEFT_TRY(args_of(d, q, k, v, doc_start, &a));
    a.o = o;
    a.lse = lse;
    a.narrow = !attn_aligned(o, d->so);
    if (most <= HOPPER && attn_hopper_takes(x, &a)) {
        const weft_status s = attn_hopper_forward(x, &a);
        if (s != WEFT_ERR_UNSUPPORTED) return s; /* the copy engine refuses a layout: nothing was done */
        weft_clear_error();
    }
    if (most <= FLASH && attn_flash_takes(&a)) return attn_flash_forward(x, &a);
    return attn_simple_forward(x, &a);
}

weft_status cuda_attn_bwd(weft_exec *x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
                          const int32_t *doc_start, const void *o, const float *lse, const void *do_,
                          void *dq, void *dk, void *dv) {
    attn_args a;
    WEFT_TRY(weft_check_attn(d));
    if (d->batch == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("attn_bwd", (d->tq == 0 || (q && o && lse && do_ && dq)) &&
                                              (d->tk == 0 || (k && v && dk && dv))));
    WEFT_TRY(cuda_need_scratch(x, "attn_bwd", cuda_attn_bwd_scratch(x->backend, d)));
    WEFT_TRY(args_of(d, q, k, v, doc_start, &a));
    a.o = (void *)(uintptr_t)o;
    a.lse = (float *)(uintptr_t)lse;
    a.dout = do_;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    a.narrow = !attn_aligned(dq, d->sq) || !attn_aligned(dk, d->sk) || !attn_aligned(dv, d->sv);
    a.stats = (float2 *)x->scratch;
    const enum provider most = best();
    if (most <= HOPPER && attn_hopper_takes(x, &a)) {
        const weft_status s = attn_hopper_backward(x, &a);
        if (s != WEFT_ERR_UNSUPPORTED) return s;
        weft_clear_error();
    }
    if (most <= FLASH && attn_flash_takes(&a)) return attn_flash_backward(x, &a);
    return attn_simple_backward(x, &a);
}
