/* weft/gemm.h: the installed product, a thin wrapper of the op table. It owns what callers of the table
 * plan themselves: a backend, a team, scratch that grows, and packs. */
#include "weft/gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "kernels/check.h"

struct weft_gemm_context {
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *exec;
    weft_exec_opts opts; /* of exec, with its scratch */
    int packs;           /* alive */
};

struct weft_gemm_pack {
    weft_gemm_context *owner;
    weft_gemm_desc desc;
    void *panels;
    size_t bytes;
};

weft_status weft_gemm_open(const weft_gemm_opts *o, weft_gemm_context **out) {
    if (!out) return weft_fail(WEFT_ERR_ARG, "gemm open: no place for the result");
    *out = NULL;
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "gemm open: options of %u bytes, expected %zu", o->size, sizeof *o);
    if (o && o->threads < 0) return weft_fail(WEFT_ERR_ARG, "gemm open: %d threads", o->threads);
    weft_backend_opts bo = {.size = sizeof bo, .isa = o ? o->isa : NULL};
    weft_gemm_context *x = weft_calloc(1, sizeof *x);
    weft_status s = WEFT_ERR_NOMEM;
    if (!x) return weft_context(s, "gemm open");
    x->opts = (weft_exec_opts){.size = sizeof x->opts, .threads = o && o->threads ? o->threads : 1};
    x->opts.pin = o && o->pin;
    WEFT_GOTO(weft_backend_open(bo.isa ? "cpu" : "host", &bo, &x->backend), failed);
    x->ops = weft_backend_ops(x->backend);
    WEFT_GOTO(weft_exec_create(x->backend, &x->opts, &x->exec), failed);
    *out = x;
    return WEFT_OK;
failed:
    weft_backend_close(x->backend);
    free(x);
    return weft_context(s, "gemm open");
}

weft_status weft_gemm_close(weft_gemm_context **x) {
    if (!x || !*x) return WEFT_OK;
    if ((*x)->packs)
        return weft_fail(WEFT_ERR_STATE, "gemm close: %d packed matrices are left; free them first",
                         (*x)->packs);
    weft_exec_destroy((*x)->exec);
    weft_backend_close((*x)->backend);
    free(*x);
    *x = NULL;
    return WEFT_OK;
}

weft_status weft_gemm_get_info(const weft_gemm_context *x, weft_gemm_info *info) {
    weft_backend_desc d;
    if (!x || !info) return weft_fail(WEFT_ERR_ARG, "gemm info: context and result are needed");
    if (info->size != sizeof *info)
        return weft_fail(WEFT_ERR_ARG, "gemm info: %u bytes, expected %zu", info->size, sizeof *info);
    WEFT_TRY(weft_backend_info(x->backend, &d));
    info->threads = x->opts.threads;
    info->cores = d.cores;
    info->contract = d.contract;
    snprintf(info->isa, sizeof info->isa, "%s", d.isa);
    snprintf(info->model, sizeof info->model, "%s", d.model);
    return WEFT_OK;
}

static int64_t stride(int64_t given, int64_t row) {
    return given ? given : row;
}

static weft_status describe(const weft_gemm_call *g, weft_gemm_desc *d) {
    if (!g) return weft_fail(WEFT_ERR_ARG, "gemm: no call");
    if (g->size != sizeof *g)
        return weft_fail(WEFT_ERR_ARG, "gemm: a call of %u bytes, expected %zu", g->size, sizeof *g);
    *d = (weft_gemm_desc){
        .size = sizeof *d, .m = g->m, .n = g->n, .k = g->k, .a = g->in, .b = g->in, .c = g->out};
    d->trans_a = g->trans_a;
    d->trans_b = g->trans_b;
    d->beta = g->beta;
    d->lda = stride(g->lda, g->trans_a ? g->m : g->k);
    d->ldb = stride(g->packed ? 0 : g->ldb, g->trans_b ? g->k : g->n);
    d->ldc = stride(g->ldc, g->n);
    if (!g->packed) return WEFT_OK;
    d->b_packed = 1;
    d->pack_version = g->version ? g->version : g->packed->desc.pack_version;
    return WEFT_OK;
}

static int has_epilogue(const weft_gemm_call *g) {
    return g->scale != 0 || g->bias || g->pre || g->gelu || g->gelu_grad || g->residual || g->col_sum;
}

static weft_epilogue epilogue(const weft_gemm_call *g) {
    return (weft_epilogue){.size = sizeof(weft_epilogue),
                           .scale = g->scale,
                           .bias = g->bias,
                           .pre = g->pre,
                           .ldp = stride(g->ldp, g->n),
                           .act = g->gelu ? WEFT_ACT_GELU : WEFT_ACT_NONE,
                           .act_bwd = g->gelu_grad,
                           .residual = g->residual,
                           .ldr = stride(g->ldr, g->n),
                           .col_sum = g->col_sum};
}

/* Scratch belongs to an exec from its creation, so more of it means a new exec. The old one goes when the
 * new one stands. */
static weft_status grow(weft_gemm_context *x, const weft_gemm_desc *d) {
    weft_exec_opts o = x->opts;
    weft_exec *larger;
    o.scratch = weft_op_scratch(x->backend, WEFT_OP_GEMM, d, o.threads);
    if (o.scratch <= x->opts.scratch) return WEFT_OK;
    WEFT_TRY(weft_exec_create(x->backend, &o, &larger));
    weft_exec_destroy(x->exec);
    x->exec = larger;
    x->opts = o;
    return WEFT_OK;
}

static weft_status prepare(weft_gemm_context *x, const weft_gemm_call *g, weft_gemm_desc *d) {
    if (!x) return weft_fail(WEFT_ERR_ARG, "gemm: no context");
    WEFT_TRY(describe(g, d));
    WEFT_TRY(weft_check_gemm_desc(d)); /* the scratch is computed from it */
    return grow(x, d);
}

weft_status weft_gemm_plan(weft_gemm_context *x, const weft_gemm_call *g) {
    weft_gemm_desc d;
    return prepare(x, g, &d);
}

weft_status weft_gemm(weft_gemm_context *x, const weft_gemm_call *g) {
    weft_gemm_desc d;
    WEFT_TRY(prepare(x, g, &d));
    weft_epilogue e = epilogue(g);
    const void *b = g->packed ? g->packed->panels : g->b;
    return x->ops->gemm(x->exec, &d, g->a, b, g->c, has_epilogue(g) ? &e : NULL);
}

weft_status weft_gemm_pack_create(weft_gemm_context *x, const weft_gemm_call *g, uint64_t version,
                                  weft_gemm_pack **out) {
    weft_gemm_desc d;
    if (!x || !out) return weft_fail(WEFT_ERR_ARG, "gemm pack: context and result are needed");
    *out = NULL;
    WEFT_TRY(describe(g, &d));
    if (d.b_packed) return weft_fail(WEFT_ERR_ARG, "gemm pack: the call has a packed b already");
    weft_gemm_pack *p = weft_calloc(1, sizeof *p);
    weft_status s = WEFT_ERR_NOMEM;
    if (!p) return weft_context(s, "gemm pack");
    *p = (weft_gemm_pack){.owner = x, .desc = d};
    WEFT_GOTO(x->ops->gemm_pack(x->exec, &d, NULL, NULL, &p->bytes), failed);
    WEFT_GOTO(x->ops->alloc(x->backend, p->bytes, &p->panels), failed);
    WEFT_GOTO(weft_gemm_pack_refresh(p, g->b, version), failed);
    x->packs++;
    *out = p;
    return WEFT_OK;
failed:
    x->ops->release(x->backend, p->panels);
    free(p);
    return weft_context(s, "gemm pack");
}

weft_status weft_gemm_pack_refresh(weft_gemm_pack *p, const void *b, uint64_t version) {
    size_t bytes;
    if (!p) return weft_fail(WEFT_ERR_ARG, "gemm pack refresh: no pack");
    weft_gemm_desc d = p->desc;
    d.pack_version = version;
    WEFT_TRY(p->owner->ops->gemm_pack(p->owner->exec, &d, b, p->panels, &bytes));
    p->desc = d;
    return WEFT_OK;
}

uint64_t weft_gemm_pack_version(const weft_gemm_pack *p) {
    return p->desc.pack_version;
}

size_t weft_gemm_pack_bytes(const weft_gemm_pack *p) {
    return p->bytes;
}

void weft_gemm_pack_destroy(weft_gemm_pack **p) {
    if (!p || !*p) return;
    (*p)->owner->packs--;
    (*p)->owner->ops->release((*p)->owner->backend, (*p)->panels);
    free(*p);
    *p = NULL;
}
