/* Products by cuBLASLt. What its epilogues can do is asked of them: bias; GELU with what went into it; its derivative;
 * the gradient of the bias beside that of the weight; C or a residual as an addend. A gated product with a `pre` is one
 * product into it and a pass over it (gate and up are rounded to the type of C first, which our own kernels do not do).
 * Everything else is computed as fp32 sums in scratch, some rows at a time, and finished by our epilogue. */
#include "kernels/cuda/cublaslt.cuh"

static uint32_t alignment_of(const void *p) {
    const uintptr_t at = (uintptr_t)p;
    uint32_t a = 256;
    while (at % a) a /= 2;
    return a;
}

void lt_align(lt_product *p) {
    p->key.align[0] = alignment_of(p->b);
    p->key.align[1] = alignment_of(p->a);
    p->key.align[2] = alignment_of(p->c ? p->c : p->d);
    p->key.align[3] = alignment_of(p->d);
}

static int32_t type_of(weft_dtype t) {
    return t == WEFT_BF16 ? LT_R_16BF : LT_R_32F;
}

lt_product lt_product_of(const gemm_call *p) {
    const weft_gemm_desc *d = p->d;
    lt_product q;
    memset(&q, 0, sizeof q); /* the key is compared byte by byte */
    q.key.m = d->m, q.key.n = d->n, q.key.k = d->k;
    q.key.lda = d->lda, q.key.ldb = d->ldb, q.key.ldc = q.key.ldd = d->ldc;
    q.key.in = type_of(d->a), q.key.out = type_of(d->c);
    q.key.trans_a = d->trans_a, q.key.trans_b = d->trans_b;
    q.key.epilogue = LT_EPILOGUE_DEFAULT;
    q.key.add = d->beta;
    q.a = p->a, q.b = p->b, q.d = p->c;
    q.alpha = p->e && p->e->scale != 0.0f ? p->e->scale : 1.0f;
    return q;
}

/* Where Lt reads or writes what goes beside GELU. 0: not as it lies. */
static int set_aux(lt_product *q, const void *aux, int64_t ld) {
    q->aux = (void *)(uintptr_t)aux;
    q->key.ldaux = ld;
    return (uintptr_t)aux % 16 == 0 && ld % 8 == 0;
}

/* The product with all of its epilogue but col_sum, if Lt has that. */
static int fuse(const gemm_call *p, lt_product *q) {
    const weft_gemm_desc *d = p->d;
    const weft_epilogue *e = p->e;
    *q = lt_product_of(p);
    if (!e) return 1;
    const int gelu = e->act == WEFT_ACT_GELU;
    if (e->act_bwd) {
        q->key.epilogue = LT_EPILOGUE_DGELU;
        return !d->beta && set_aux(q, e->act_bwd, e->ldp);
    }
    if ((e->bias && d->a != d->c) || (e->residual && (d->beta || gelu || e->pre)) || (e->pre && !gelu))
        return 0;
    if (gelu && d->beta) return 0;
    if (gelu) q->key.epilogue = LT_EPILOGUE_GELU;
    if (e->bias) {
        q->key.epilogue = (gelu ? LT_EPILOGUE_GELU : 0) | LT_EPILOGUE_BIAS;
        q->bias = (void *)(uintptr_t)e->bias;
    }
    if (e->residual) {
        q->c = e->residual;
        q->key.ldc = e->ldr;
        q->key.add = 1;
    }
    if (!e->pre) return 1;
    q->key.epilogue |= LT_EPILOGUE_AUX;
    return set_aux(q, e->pre, e->ldp);
}

/* pre = op(A) op(B) and bias, of a gated product. */
static int fuse_gated(const gemm_call *p, lt_product *q) {
    const weft_epilogue *e = p->e;
    if (!e || !e->pre || (e->bias && p->d->a != p->d->c)) return 0;
    *q = lt_product_of(p);
    q->d = e->pre;
    q->key.ldc = q->key.ldd = e->ldp;
    if (e->bias) {
        q->key.epilogue = LT_EPILOGUE_BIAS;
        q->bias = (void *)(uintptr_t)e->bias;
    }
    return 1;
}

static lt_plan *plan_of(weft_exec *x, lt_product *q) {
    lt_align(q);
    return lt_plan_of(cuda_of(x)->lt, &q->key);
}
static weft_status run(weft_exec *x, lt_plan *plan, const lt_product *q) {
    return lt_run(cuda_of(x)->lt, plan, q, x->scratch, cuda_of(x)->stream);
}
static float *stage_of(weft_exec *x) {
    return (float *)((char *)x->scratch + LT_WORKSPACE);
}

/* --- col_sum beside the product ----------------------------------------------------------------------------------------- */

/* Lt's B is our A, so the sums of its columns over k are ours of the rows of op(A). It writes them and cannot add, so
 * with beta they come to the stage first. */
static weft_status with_sums(weft_exec *x, const gemm_call *p, lt_product q, int *summed) {
    q.key.epilogue = LT_EPILOGUE_BGRADB;
    q.bias = p->d->beta ? stage_of(x) : p->e->col_sum;
    lt_plan *plan = plan_of(x, &q);
    if (!plan) return WEFT_ERR_UNSUPPORTED;
    WEFT_TRY(run(x, plan, &q));
    *summed = 1;
    return p->d->beta ? gemm_add(x, p->d->m, stage_of(x), p->e->col_sum) : WEFT_OK;
}

/* --- sums that wait for our epilogue --------------------------------------------------------------------------------------- */

static int64_t stage_rows(const weft_gemm_desc *d) {
    const int64_t rows = (int64_t)(LT_STAGE / 4) / d->n;
    return rows < 1 ? 1 : rows < d->m ? rows : d->m;
}

static lt_product staged(weft_exec *x, const gemm_call *p, int64_t first, int64_t rows) {
    lt_product q = lt_product_of(p);
    const int64_t at = p->d->trans_a ? first : first * p->d->lda;
    q.a = (const char *)p->a + (size_t)at * weft_dtype_size(p->d->a);
    q.d = stage_of(x);
    q.key.m = rows;
    q.key.ldc = q.key.ldd = p->d->n;
    q.key.out = LT_R_32F;
    q.key.add = 0;
    q.alpha = 1.0f; /* the epilogue scales */
    return q;
}

static weft_status in_stages(weft_exec *x, const gemm_call *p) {
    const int64_t each = stage_rows(p->d), m = p->d->m;
    for (int enqueue = 0; enqueue < 2; enqueue++) /* first: can Lt do all of them? */
        for (int64_t first = 0; first < m; first += each) {
            const int64_t rows = m - first < each ? m - first : each;
            lt_product q = staged(x, p, first, rows);
            lt_plan *plan = plan_of(x, &q);
            if (!plan)
                return enqueue ? weft_fail(WEFT_ERR_INTERNAL, "cuBLASLt: a plan was lost")
                               : WEFT_ERR_UNSUPPORTED;
            if (!enqueue) continue;
            WEFT_TRY(run(x, plan, &q));
            WEFT_TRY(gemm_finish(x, p, stage_of(x), first, rows));
        }
    return WEFT_OK;
}

/* --- the provider -------------------------------------------------------------------------------------------------------------- */

size_t gemm_cublaslt_scratch(const weft_backend *b, const weft_gemm_desc *d) {
    (void)b;
    const size_t stage = (size_t)stage_rows(d) * (size_t)d->n * sizeof(float),
                 sums = (size_t)d->m * sizeof(float);
    return LT_WORKSPACE + (stage > sums ? stage : sums);
}

weft_status gemm_cublaslt(weft_exec *x, const gemm_call *p, int *summed) {
    lt_product q;
    *summed = 0;
    WEFT_TRY(cuda_need_scratch(x, "gemm by cuBLASLt", gemm_cublaslt_scratch(x->backend, p->d)));
    if (p->d->gated) {
        lt_plan *plan = fuse_gated(p, &q) ? plan_of(x, &q) : NULL;
        if (!plan) return in_stages(x, p);
        WEFT_TRY(run(x, plan, &q));
        return gemm_gate(x, p);
    }
    if (!fuse(p, &q)) return in_stages(x, p);
    if (p->e && p->e->col_sum && p->d->c == WEFT_F32 &&
        q.key.epilogue == LT_EPILOGUE_DEFAULT) { /* sums have C's type */
        const weft_status s = with_sums(x, p, q, summed);
        if (s != WEFT_ERR_UNSUPPORTED) return s;
    }
    lt_plan *plan = plan_of(x, &q);
    return plan ? run(x, plan, &q) : in_stages(x, p);
}
