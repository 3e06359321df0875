/* The products of many experts in one visit of the team: each member does its part of every group's product, one group
 * after the other, without waiting for the others.
 *
 * A group is planned by every member for itself, in a fraction of a microsecond; who does what follows from the shape of
 * C, so groups that add to one matrix (TN) meet in one member in the order of the groups. Source of the shape: Gale et
 * al., MegaBlocks, 2022. */
#include "kernels/check.h"
#include "kernels/cpu/gemm.h"

struct groups_job {
    const weft_gemm_desc *d;
    const weft_groups *g;
    const void *a, *b;
    void *c;
    const weft_epilogue *e;
    weft_exec *x;
    size_t part; /* scratch of a member */
};

/* The product of group i; 0: there is nothing to do. */
static int group_desc(const weft_gemm_desc *d, const weft_groups *g, int32_t i, weft_gemm_desc *one) {
    *one = *d;
    *(d->trans_a ? &one->k : &one->m) = g->first[i + 1] - g->first[i];
    return g->first[i + 1] > g->first[i] && one->m > 0 && one->n > 0;
}

static void multiply_group(const struct groups_job *job, int32_t i, int member, int members) {
    const weft_groups *g = job->g;
    const int64_t row = g->first[i], matrix = i % g->matrices * g->stride;
    const size_t in = weft_dtype_size(job->d->a), out = weft_dtype_size(job->d->c);
    weft_gemm_desc one;
    weft_epilogue e = job->e ? *job->e : (weft_epilogue){.size = sizeof e};
    struct cpu_gemm_plan p;
    if (!group_desc(job->d, g, i, &one)) return;
    if (e.pre) e.pre = (char *)e.pre + (size_t)(row * e.ldp) * out;
    const char *a = (const char *)job->a + (size_t)(row * one.lda) * in;
    const char *b = (const char *)job->b + (size_t)(one.trans_a ? row * one.ldb : matrix) * in;
    char *c = (char *)job->c + (size_t)(one.trans_a ? matrix : row * one.ldc) * out;
    cpu_gemm_plan_tiles(cpu_backend_of(job->x), &one, members, &p);
    const struct cpu_gemm_out to = {&one, job->e ? &e : NULL, c};
    cpu_gemm_member(job->x, &p, &to, a, b, member, cpu_member_scratch(job->x, job->part, member));
}

static void multiply_groups(void *arg, int member, int members) {
    const struct groups_job *job = arg;
    for (int32_t i = 0; i < job->g->groups; i++) multiply_group(job, i, member, members);
}

/* What a member needs for groups of up to d's rows: fewer may need more, since a plan rounds. */
static size_t part_of(const struct cpu_backend *b, const weft_gemm_desc *d, int threads) {
    const int64_t rows = d->trans_a ? d->k : d->m;
    size_t most = 0;
    for (int64_t n = 1; n <= rows; n++) {
        weft_gemm_desc one = *d;
        struct cpu_gemm_plan p;
        *(d->trans_a ? &one.k : &one.m) = n;
        cpu_gemm_plan_tiles(b, &one, threads, &p);
        if (cpu_gemm_member_bytes(&p) > most) most = cpu_gemm_member_bytes(&p);
    }
    return cpu_part(most);
}

size_t cpu_gemm_groups_scratch(const struct cpu_backend *b, const weft_gemm_desc *d, int threads) {
    if (weft_check_gemm_desc(d) < 0 || d->m == 0 || d->n == 0) return 0;
    return part_of(b, d, threads) * (size_t)threads;
}

weft_status cpu_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                            const void *b, void *c, const weft_epilogue *e) {
    WEFT_TRY(weft_check_groups(d, g, a, b, c, e));
    struct groups_job job = {.d = d, .g = g, .a = a, .b = b, .c = c, .e = e, .x = x};
    for (int32_t i = 0; i < g->groups; i++) { /* exactly what these groups need */
        weft_gemm_desc one;
        struct cpu_gemm_plan p;
        if (!group_desc(d, g, i, &one)) continue;
        cpu_gemm_plan_tiles(cpu_backend_of(x), &one, x->threads, &p);
        if (cpu_gemm_member_bytes(&p) > job.part) job.part = cpu_gemm_member_bytes(&p);
    }
    if (!job.part) return WEFT_OK;
    WEFT_TRY_CTX(cpu_need_scratch(x, cpu_part(job.part) * (size_t)x->threads), "gemm_groups");
    cpu_run(x, multiply_groups, &job);
    return WEFT_OK;
}
