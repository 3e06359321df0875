/* The ref backend as kernels.c sees it: open, exec, memory, scratch sizes, and the table. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/mem.h"
#include "kernels/check.h"
#include "kernels/ref/ref.h"

#define REF_ALIGN      ((size_t)64)
#define REF_HUGE_PAGE  ((size_t)2 << 20)
#define REF_HUGE_BYTES ((size_t)4 << 20)

/* Zeroed memory, aligned as the contract says. */
static weft_status ref_allocate(size_t bytes, void **p) {
    size_t align = bytes >= REF_HUGE_BYTES ? REF_HUGE_PAGE : REF_ALIGN;
    *p = NULL;
    if (bytes > SIZE_MAX - align) return weft_fail(WEFT_ERR_NOMEM, "out of memory: %zu bytes", bytes);
    bytes = weft_align_up(bytes ? bytes : 1, align);
    if (!weft_fault_hit(WEFT_FAULT_ALLOC)) *p = aligned_alloc(align, bytes);
    if (!*p) return weft_fail(WEFT_ERR_NOMEM, "out of memory: %zu bytes", bytes);
    if (align == REF_HUGE_PAGE) madvise(*p, bytes, MADV_HUGEPAGE); /* a hint: no harm if refused */
    memset(*p, 0, bytes);
    return WEFT_OK;
}

static weft_status ref_alloc(weft_backend *b, size_t bytes, void **p) {
    (void)b;
    WEFT_TRY(weft_check_given("alloc", p != NULL));
    return ref_allocate(bytes, p);
}

static void ref_release(weft_backend *b, void *p) {
    (void)b;
    free(p);
}

static weft_status ref_copy(weft_exec *x, void *dst, const void *src, size_t bytes) {
    (void)x;
    WEFT_TRY(weft_check_given("copy", bytes == 0 || (dst && src)));
    if (bytes) memcpy(dst, src, bytes);
    return WEFT_OK;
}

static weft_status ref_fill(weft_exec *x, void *dst, int byte, size_t bytes) {
    (void)x;
    WEFT_TRY(weft_check_given("fill", bytes == 0 || dst));
    if (bytes) memset(dst, byte, bytes);
    return WEFT_OK;
}

static weft_status ref_sync(weft_exec *x) {
    (void)x;
    return WEFT_OK;
}

static const struct weft_ops ref_ops = {
    .alloc = ref_alloc,
    .release = ref_release,
    .copy = ref_copy,
    .fill = ref_fill,
    .sync = ref_sync,
    .gemm = ref_gemm,
    .gemm_pack = ref_gemm_pack,
    .embed_fwd = ref_embed_fwd,
    .embed_bwd = ref_embed_bwd,
    .norm_fwd = ref_norm_fwd,
    .norm_bwd = ref_norm_bwd,
    .gelu_fwd = ref_gelu_fwd,
    .gelu_bwd = ref_gelu_bwd,
    .swiglu_fwd = ref_swiglu_fwd,
    .swiglu_bwd = ref_swiglu_bwd,
    .rope = ref_rope,
    .attn_fwd = ref_attn_fwd,
    .attn_bwd = ref_attn_bwd,
    .attn_merge = ref_attn_merge,
    .loss_stats = ref_loss_stats,
    .loss_grad = ref_loss_grad,
    .gemm_groups = ref_gemm_groups,
    .route_fwd = ref_route_fwd,
    .route_load = ref_route_load,
    .route_bwd = ref_route_bwd,
    .route_sort = ref_route_sort,
    .rows_scatter = ref_rows_scatter,
    .rows_combine = ref_rows_combine,
    .rows_combine_bwd = ref_rows_combine_bwd,
    .adamw = ref_adamw,
    .newton_schulz = ref_newton_schulz,
    .sumsq = ref_sumsq,
    .sumsq_blocks = ref_sumsq_blocks,
    .absmax = ref_absmax,
    .cast = ref_cast,
    .cast_rows = ref_cast_rows,
    .axpby = ref_axpby,
    .transpose = ref_transpose,
    .box_copy = ref_box_copy,
    .reduce_p = ref_reduce_p,
    .reduce_push = ref_reduce_push,
    .scale_copy = ref_scale_copy,
    .outer_step = ref_outer_step,
    .quant = ref_quant,
    .dequant_axpy = ref_dequant_axpy,
    .probe_fma = ref_probe_fma,
};

static weft_status ref_open(const weft_backend_opts *o, weft_backend **b) {
    (void)o; /* scalar code has no instruction-set levels */
    *b = weft_calloc(1, sizeof **b);
    if (!*b) return weft_context(WEFT_ERR_NOMEM, "opening the ref backend");
    (*b)->cls = &weft_backend_ref;
    (*b)->ops = &ref_ops;
    return WEFT_OK;
}

static void ref_close(weft_backend *b) {
    free(b);
}

/* "model name" of /proc/cpuinfo; left empty where there is none. */
static void ref_cpu_model(char *model, size_t n) {
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon || colon[1] != ' ') continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(model, n, "%s", colon + 2);
        break;
    }
    if (f) fclose(f);
}

static size_t ref_cache(int name) {
    long bytes = sysconf(name);
    return bytes > 0 ? (size_t)bytes : 0;
}

static weft_status ref_info(const weft_backend *b, weft_backend_desc *d) {
    cpu_set_t cores;
    (void)b;
    memset(d, 0, sizeof *d);
    snprintf(d->name, sizeof d->name, "ref");
    snprintf(d->isa, sizeof d->isa, "scalar");
    ref_cpu_model(d->model, sizeof d->model);
    d->cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    d->l1d = ref_cache(_SC_LEVEL1_DCACHE_SIZE);
    d->l2 = ref_cache(_SC_LEVEL2_CACHE_SIZE);
    d->l3 = ref_cache(_SC_LEVEL3_CACHE_SIZE);
    d->contract = WEFT_KERNELS_CONTRACT;
    return WEFT_OK;
}

/* Any number of threads may be asked for; the team has one member, and the exec says so. */
static weft_status ref_exec_create(weft_backend *b, const weft_exec_opts *o, weft_exec **x) {
    weft_status s;
    *x = NULL;
    if (o && o->threads < 0) return weft_fail(WEFT_ERR_ARG, "exec: %d threads", o->threads);
    weft_exec *new = weft_calloc(1, sizeof *new);
    if (!new) return weft_context(WEFT_ERR_NOMEM, "creating a ref exec");
    new->backend = b;
    new->threads = 1;
    new->scratch_bytes = o ? o->scratch : 0;
    s = ref_allocate(new->scratch_bytes, &new->scratch);
    if (s < 0) {
        free(new);
        return weft_context(s, "creating a ref exec with %zu bytes of scratch", o ? o->scratch : 0);
    }
    *x = new;
    return WEFT_OK;
}

static void ref_exec_destroy(weft_exec *x) {
    if (!x) return;
    free(x->scratch);
    free(x);
}

weft_status ref_scratch(weft_exec *x, const char *op, size_t doubles, double **p) {
    size_t bytes;
    *p = x->scratch;
    if (weft_mul_ok(doubles, sizeof **p, &bytes) && bytes <= x->scratch_bytes) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOMEM, "%s needs scratch for %zu doubles, the exec has %zu bytes", op, doubles,
                     x->scratch_bytes);
}

/* A descriptor that the op would refuse needs nothing. */
static size_t ref_scratch_of(const weft_backend *b, weft_op_id op, const void *desc, int threads) {
    size_t doubles = 0;
    (void)b;
    (void)threads;
    if (!desc) return 0;
    switch (op) {
    case WEFT_OP_EMBED_BWD: doubles = ref_embed_bwd_doubles(desc); break;
    case WEFT_OP_ATTN_FWD:
        if (weft_check_attn(desc) == WEFT_OK) doubles = ref_attn_fwd_doubles(desc);
        break;
    case WEFT_OP_ATTN_BWD:
        if (weft_check_attn(desc) == WEFT_OK) doubles = ref_attn_bwd_doubles(desc);
        break;
    case WEFT_OP_NEWTON_SCHULZ: doubles = ref_newton_schulz_doubles(desc); break;
    default: break;
    }
    return doubles * sizeof(double);
}

const weft_backend_class weft_backend_ref = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .info = ref_info,
    .exec_create = ref_exec_create,
    .exec_destroy = ref_exec_destroy,
    .scratch = ref_scratch_of,
};
