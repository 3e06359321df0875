/* A cuda backend for programs of tests: the arithmetic of the cpu backend on memory that the host cannot touch.
 *
 * Memory has no access rights but during an op, so host code that reads or writes it ends with SIGSEGV where it does so; an
 * op that is given memory of the host where the device's is asked for refuses it. The sums are cpu's: what is computed
 * through it must be equal, bit for bit. Linked before the libraries, its class takes the place of the real one.
 * WEFT_POISON_MEMORY: bytes of the device. One thread uses it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/calls.h"

#define REGIONS 64

typedef struct poison {
    weft_backend base;
    weft_backend *cpu;
} poison;

static struct {
    char *at;
    size_t bytes;
} region[REGIONS];

static const struct weft_ops *cpu;

static void protect(int rights) {
    for (int i = 0; i < REGIONS; i++)
        if (region[i].at && mprotect(region[i].at, region[i].bytes, rights)) abort();
}

static int is_devices(const void *p) {
    const char *c = p;
    for (int i = 0; i < REGIONS; i++)
        if (region[i].at && c >= region[i].at && c < region[i].at + region[i].bytes) return 1;
    return 0;
}

static weft_status check(const char *op, const void *const *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] && !is_devices(p[i]))
            return weft_fail(WEFT_ERR_ARG, "%s: argument %zu of those in memory of the device is the host's",
                             op, i);
    return WEFT_OK;
}

/* An op whose trailing arguments are addresses in memory of the device. */
#define OP(name, parameters, arguments, ...)                                                                 \
    static weft_status poison_##name parameters {                                                            \
        const void *const of_device[] = {__VA_ARGS__};                                                       \
        WEFT_TRY(check(#name, of_device, sizeof of_device / sizeof *of_device));                             \
        protect(PROT_READ | PROT_WRITE);                                                                     \
        const weft_status s = cpu->name arguments;                                                           \
        protect(PROT_NONE);                                                                                  \
        return s;                                                                                            \
    }

static weft_status poison_alloc(weft_backend *b, size_t bytes, void **p) {
    (void)b;
    const size_t page = 4096, n = (bytes / page + 1) * page;
    int i = 0;
    while (i < REGIONS && region[i].at) i++;
    *p = i < REGIONS ? mmap(NULL, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
    if (*p == MAP_FAILED) return weft_fail(WEFT_ERR_NOMEM, "no memory on the device");
    region[i].at = *p;
    region[i].bytes = n;
    return WEFT_OK;
}

static void poison_release(weft_backend *b, void *p) {
    (void)b;
    for (int i = 0; p && i < REGIONS; i++)
        if (region[i].at == p) {
            munmap(p, region[i].bytes);
            region[i].at = NULL;
        }
}

static weft_status poison_sync(weft_exec *x) {
    return cpu->sync(x);
}

OP(copy, (weft_exec * x, void *dst, const void *src, size_t bytes), (x, dst, src, bytes), NULL)
OP(fill, (weft_exec * x, void *dst, int byte, size_t bytes), (x, dst, byte, bytes), dst)
OP(gemm,
   (weft_exec * x, const weft_gemm_desc *d, const void *a, const void *b, void *c, const weft_epilogue *e),
   (x, d, a, b, c, e), a, b, c, e ? e->bias : NULL, e ? e->residual : NULL, e ? e->pre : NULL,
   e ? e->act_bwd : NULL, e ? e->col_sum : NULL)
OP(gemm_pack, (weft_exec * x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes),
   (x, d, b, dst, bytes), b, dst)
OP(embed_fwd,
   (weft_exec * x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos, const void *wte,
    const void *wpe, void *out),
   (x, d, ids, pos, wte, wpe, out), ids, pos, wte, wpe, out)
OP(embed_bwd,
   (weft_exec * x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos, const void *dout,
    float *dwte, float *dwpe),
   (x, d, ids, pos, dout, dwte, dwpe), ids, pos, dout, dwte, dwpe)
OP(norm_fwd,
   (weft_exec * x, const weft_norm_desc *d, const void *in, const void *gamma, const void *beta, void *out,
    float *mean, float *rstd),
   (x, d, in, gamma, beta, out, mean, rstd), in, gamma, beta, out, mean, rstd)
OP(norm_bwd,
   (weft_exec * x, const weft_norm_desc *d, const void *dout, const void *in, const void *gamma,
    const float *mean, const float *rstd, const void *dres, void *din, float *dgamma, float *dbeta),
   (x, d, dout, in, gamma, mean, rstd, dres, din, dgamma, dbeta), dout, in, gamma, mean, rstd, dres, din,
   dgamma, dbeta)
OP(gelu_fwd, (weft_exec * x, weft_dtype t, size_t n, const void *a, void *out), (x, t, n, a, out), a, out)
OP(gelu_bwd, (weft_exec * x, weft_dtype t, size_t n, const void *dout, const void *a, void *da),
   (x, t, n, dout, a, da), dout, a, da)
OP(swiglu_fwd, (weft_exec * x, weft_dtype t, int64_t rows, int64_t cols, const void *gu, void *out),
   (x, t, rows, cols, gu, out), gu, out)
OP(swiglu_bwd,
   (weft_exec * x, weft_dtype t, int64_t rows, int64_t cols, const void *dout, const void *gu, void *dgu),
   (x, t, rows, cols, dout, gu, dgu), dout, gu, dgu)
OP(rope, (weft_exec * x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin, void *v),
   (x, d, pos, cos_sin, v), pos, cos_sin, v)
OP(attn_fwd,
   (weft_exec * x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
    const int32_t *doc_start, void *o, float *lse),
   (x, d, q, k, v, doc_start, o, lse), q, k, v, doc_start, o, lse)
OP(attn_bwd,
   (weft_exec * x, const weft_attn_desc *d, const void *q, const void *k, const void *v,
    const int32_t *doc_start, const void *o, const float *lse, const void *do_, void *dq, void *dk, void *dv),
   (x, d, q, k, v, doc_start, o, lse, do_, dq, dk, dv), q, k, v, doc_start, o, lse, do_, dq, dk, dv)
OP(attn_merge,
   (weft_exec * x, const weft_attn_desc *d, int begin, const void *o, const float *lse, float *sum,
    float *sum_lse),
   (x, d, begin, o, lse, sum, sum_lse), o, lse, sum, sum_lse)
OP(loss_stats,
   (weft_exec * x, const weft_loss_desc *d, const void *h, const void *w, const int32_t *target, void *z,
    float *lse, float *z_target),
   (x, d, h, w, target, z, lse, z_target), h, w, target, z, lse, z_target)
OP(loss_grad, (weft_exec * x, const weft_loss_desc *d, const float *lse, const int32_t *target, void *z),
   (x, d, lse, target, z), lse, target, z)
OP(gemm_groups,
   (weft_exec * x, const weft_gemm_desc *d, const weft_groups *g, const void *a, const void *b, void *c,
    const weft_epilogue *e),
   (x, d, g, a, b, c, e), a, b, c, e ? e->pre : NULL)
OP(route_fwd,
   (weft_exec * x, const weft_route_desc *d, const float *logits, float *prob, float *lse, int32_t *choice,
    float *weight),
   (x, d, logits, prob, lse, choice, weight), logits, prob, lse, choice, weight)
OP(route_load,
   (weft_exec * x, const weft_route_desc *d, const float *prob, const int32_t *choice, float *load,
    float *share),
   (x, d, prob, choice, load, share), prob, choice, load, share)
OP(route_bwd,
   (weft_exec * x, const weft_route_desc *d, const float *prob, const float *lse, const int32_t *choice,
    const float *weight, const float *load, const float *dweight, void *dlogits),
   (x, d, prob, lse, choice, weight, load, dweight, dlogits), prob, lse, choice, weight, load, dweight,
   dlogits)
OP(route_sort,
   (weft_exec * x, int64_t n, int32_t experts, const int32_t *choice, int64_t *first, int32_t *place),
   (x, n, experts, choice, first, place), choice, place)
OP(rows_scatter, (weft_exec * x, const weft_rows_desc *d, const void *in, const int32_t *place, void *out),
   (x, d, in, place, out), in, place, out)
OP(rows_combine,
   (weft_exec * x, const weft_rows_desc *d, const void *in, const int32_t *place, const float *weight,
    const void *residual, void *out),
   (x, d, in, place, weight, residual, out), in, place, weight, residual, out)
OP(rows_combine_bwd,
   (weft_exec * x, const weft_rows_desc *d, const void *dout, const int32_t *place, const float *weight,
    void *rows, float *dweight),
   (x, d, dout, place, weight, rows, dweight), dout, place, weight, rows, dweight)
OP(adamw,
   (weft_exec * x, const weft_adamw_desc *d, float *master, float *m, float *v, const float *g, uint16_t *w,
    const float *clip, const uint32_t *skip),
   (x, d, master, m, v, g, w, clip, skip), master, m, v, g, w)
OP(newton_schulz, (weft_exec * x, const weft_newton_schulz_desc *d, float *v), (x, d, v), v)
OP(sumsq, (weft_exec * x, size_t n, const float *v, double *out), (x, n, v, out), v)
OP(sumsq_blocks, (weft_exec * x, size_t n, const float *v, double *sums), (x, n, v, sums), v)
OP(absmax, (weft_exec * x, size_t n, const float *v, float *out), (x, n, v, out), v)
OP(cast, (weft_exec * x, weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst),
   (x, from, to, n, src, dst), src, dst)
OP(cast_rows,
   (weft_exec * x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols, const void *src, int64_t lds,
    void *dst, int64_t ldd, int add),
   (x, from, to, rows, cols, src, lds, dst, ldd, add), src, dst)
OP(axpby, (weft_exec * x, size_t n, float a, const float *v, float b, float *y), (x, n, a, v, b, y), v, y)
OP(transpose, (weft_exec * x, size_t elem, int64_t rows, int64_t cols, const void *src, void *dst),
   (x, elem, rows, cols, src, dst), src, dst)
OP(box_copy,
   (weft_exec * x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src, const int64_t *src_stride,
    void *dst, const int64_t *dst_stride),
   (x, elem, ndim, ext, src, src_stride, dst, dst_stride), src, dst)
OP(reduce_p, (weft_exec * x, weft_dtype t, weft_redop op, int p, const void *const *src, void *dst, size_t n),
   (x, t, op, p, src, dst, n), src[0], src[p - 1], dst)
OP(reduce_push,
   (weft_exec * x, weft_dtype t, weft_redop op, int p, const void *const *src, int d, void *const *dst,
    size_t n, int past),
   (x, t, op, p, src, d, dst, n, past), dst[0], dst[d - 1])
OP(scale_copy, (weft_exec * x, size_t n, float w, const float *src, float *dst), (x, n, w, src, dst), src,
   dst)
OP(outer_step, (weft_exec * x, const weft_outer_desc *d, const float *delta, float *v, float *theta),
   (x, d, delta, v, theta), delta, v, theta)
OP(quant,
   (weft_exec * x, weft_codec c, const void *v, weft_dtype t, size_t n, void *dst, uint64_t *nonfinite),
   (x, c, v, t, n, dst, nonfinite), v, dst)
OP(dequant_axpy, (weft_exec * x, weft_codec c, const void *src, size_t n, float a, float *acc),
   (x, c, src, n, a, acc), src, acc)
OP(probe_fma, (weft_exec * x, weft_dtype t, double seconds, double *flops), (x, t, seconds, flops), NULL)

#define HAS(name) .name = poison_##name
static const struct weft_ops ops = {HAS(alloc),
                                    HAS(release),
                                    HAS(copy),
                                    HAS(fill),
                                    HAS(sync),
                                    HAS(gemm),
                                    HAS(gemm_pack),
                                    HAS(embed_fwd),
                                    HAS(embed_bwd),
                                    HAS(norm_fwd),
                                    HAS(norm_bwd),
                                    HAS(gelu_fwd),
                                    HAS(gelu_bwd),
                                    HAS(swiglu_fwd),
                                    HAS(swiglu_bwd),
                                    HAS(rope),
                                    HAS(attn_fwd),
                                    HAS(attn_bwd),
                                    HAS(attn_merge),
                                    HAS(loss_stats),
                                    HAS(loss_grad),
                                    HAS(gemm_groups),
                                    HAS(route_fwd),
                                    HAS(route_load),
                                    HAS(route_bwd),
                                    HAS(route_sort),
                                    HAS(rows_scatter),
                                    HAS(rows_combine),
                                    HAS(rows_combine_bwd),
                                    HAS(adamw),
                                    HAS(newton_schulz),
                                    HAS(sumsq),
                                    HAS(sumsq_blocks),
                                    HAS(absmax),
                                    HAS(cast),
                                    HAS(cast_rows),
                                    HAS(axpby),
                                    HAS(transpose),
                                    HAS(box_copy),
                                    HAS(reduce_p),
                                    HAS(reduce_push),
                                    HAS(scale_copy),
                                    HAS(outer_step),
                                    HAS(quant),
                                    HAS(dequant_axpy),
                                    HAS(probe_fma)};

/* --- the class --------------------------------------------------------------------------------------------------------- */

static weft_status open_backend(const weft_backend_opts *o, weft_backend **b) {
    (void)o;
    poison *p = weft_calloc(1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    const weft_status s = weft_backend_open("cpu", NULL, &p->cpu);
    if (s < 0) {
        free(p);
        return s;
    }
    cpu = weft_backend_ops(p->cpu);
    p->base = (weft_backend){&weft_backend_cuda, &ops};
    *b = &p->base;
    return WEFT_OK;
}

static void close_backend(weft_backend *b) {
    weft_backend_close(((poison *)b)->cpu);
    free(b);
}

static weft_status info(const weft_backend *b, weft_backend_desc *d) {
    const char *bytes = getenv("WEFT_POISON_MEMORY");
    WEFT_TRY(weft_backend_info(((const poison *)b)->cpu, d));
    snprintf(d->name, sizeof d->name, "cuda");
    snprintf(d->isa, sizeof d->isa, "poison");
    snprintf(d->model, sizeof d->model, "poisoned memory");
    d->device = 1;
    d->memory = bytes ? strtoull(bytes, NULL, 10) : (size_t)4 << 30;
    return WEFT_OK;
}

static weft_status exec_create(weft_backend *b, const weft_exec_opts *o, weft_exec **x) {
    return weft_exec_create(((poison *)b)->cpu, o, x);
}

static void exec_destroy(weft_exec *x) {
    weft_exec_destroy(x);
}

static size_t scratch(const weft_backend *b, weft_op_id op, const void *desc, int threads) {
    return weft_op_scratch(((const poison *)b)->cpu, op, desc, threads);
}

const weft_backend_class weft_backend_cuda = {
    "cuda", open_backend, close_backend, info, exec_create, exec_destroy, scratch,
};

/* Without CUDA: bulks between ranks are the host's. */
void *weft_cuda_function(const char *name) {
    (void)name;
    return NULL;
}

void *weft_cuda_stream(weft_exec *x) {
    (void)x;
    return NULL;
}
