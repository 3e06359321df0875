/* What the cpu ops of all levels share: the loop over a range, and the scratch that each op needs. */
#include "kernels/cpu/attention.h"

struct range {
    weft_exec *x;
    int64_t n, unit, block;
    ops_range_job *job;
    void *arg;
    int strands;
};

static void in_strands(const struct range *r, int64_t begin) {
    for (int64_t at = 0; at < OPS_BLOCK / OPS_STRANDS; at += OPS_RUN)
        for (int s = 0; s < OPS_STRANDS; s++) {
            int64_t i = begin + s * (OPS_BLOCK / OPS_STRANDS) + at;
            r->job(r->arg, i, i + OPS_RUN);
        }
}

static void range_job(void *arg, int member, int members) {
    const struct range *r = arg;
    int64_t begin, end;
    cpu_split(r->n, r->unit, member, members, &begin, &end);
    for (int64_t i = begin; i < end; i += r->block) {
        if (r->strands && end - i >= OPS_BLOCK)
            in_strands(r, i);
        else
            r->job(r->arg, i, end - i < r->block ? end : i + r->block);
        if (member == 0) cpu_tick(r->x);
    }
#if defined(__x86_64__)
    __builtin_ia32_sfence(); /* what went past the caches (stream.h) is there when the member says so */
#endif
}

static void run_range(struct range *r) {
    if (r->n <= 0) return;
    if (r->n <= r->block || r->x->threads == 1)
        range_job(r, 0, 1);
    else
        cpu_run(r->x, range_job, r);
}

void ops_for(weft_exec *x, int64_t n, int64_t unit, int64_t block, ops_range_job *job, void *arg) {
    struct range r = {x, n, unit, ops_round_up(block, unit), job, arg, 0};
    run_range(&r);
}

int ops_beyond_cache(const weft_exec *x, double bytes) {
    return bytes > cpu_backend_of(x)->beyond_cache;
}

void ops_elements(weft_exec *x, int64_t n, double bytes, ops_range_job *job, void *arg) {
    struct range r = {x, n, OPS_RUN, OPS_BLOCK, job, arg, ops_beyond_cache(x, bytes)};
    run_range(&r);
}

static size_t times_threads(size_t part, int threads) {
    size_t bytes;
    return part != SIZE_MAX && weft_mul_ok(cpu_part(part), (size_t)threads, &bytes) ? bytes : SIZE_MAX;
}

static int on_tiles(const weft_backend *b, const weft_attn_desc *d) {
    return ((const struct cpu_backend *)b)->level == CPU_AMX && d->t == WEFT_BF16;
}

size_t ops_attn_fwd_part(const weft_backend *b, const weft_attn_desc *d) {
    struct attn_forward_scratch forward;
    struct attn_amx_forward tiles;
    struct attn_decode_scratch decode;
    if (attn_is_few(d)) return attn_decode_layout(d, NULL, &decode);
    return on_tiles(b, d) ? attn_amx_forward_layout(d, NULL, &tiles) : attn_forward_layout(d, NULL, &forward);
}

size_t ops_attn_fwd_scratch(const weft_backend *b, const weft_attn_desc *d, int threads) {
    return times_threads(ops_attn_fwd_part(b, d), threads);
}

size_t ops_attn_bwd_part(const weft_backend *b, const weft_attn_desc *d) {
    struct attn_backward_scratch backward;
    struct attn_amx_backward tiles;
    return on_tiles(b, d) ? attn_amx_backward_layout(d, NULL, &tiles)
                          : attn_backward_layout(d, NULL, &backward);
}

size_t ops_attn_bwd_scratch(const weft_backend *b, const weft_attn_desc *d, int threads) {
    return times_threads(ops_attn_bwd_part(b, d), threads);
}

/* A descriptor that the op would refuse needs nothing. */
size_t cpu_ops_scratch(const struct cpu_backend *b, weft_op_id op, const void *desc, int threads) {
    if (!desc) return 0;
    switch (op) {
    case WEFT_OP_NORM_BWD: return weft_check_norm(desc) < 0 ? 0 : ops_norm_bwd_scratch(desc);
    case WEFT_OP_ATTN_FWD:
        return weft_check_attn(desc) < 0 ? 0 : ops_attn_fwd_scratch(&b->base, desc, threads);
    case WEFT_OP_ATTN_BWD:
        return weft_check_attn(desc) < 0 ? 0 : ops_attn_bwd_scratch(&b->base, desc, threads);
    case WEFT_OP_LOSS: {
        if (weft_check_loss(desc) < 0) return 0;
        weft_gemm_desc g = ops_loss_gemm(desc);
        return cpu_gemm_scratch(b, &g, threads);
    }
    case WEFT_OP_NEWTON_SCHULZ: return ops_newton_schulz_scratch(b, desc, threads);
    default: return 0; /* embed_bwd sums straight into the tables, sumsq keeps its tree on the stack */
    }
}
