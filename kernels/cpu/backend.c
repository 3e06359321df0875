/* The cpu backend: the op table of this machine's level, and execs. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/team.h"

#define UNKNOWN_L3 ((size_t)32 << 20) /* where the system does not say */

static void fill_table(struct weft_ops *t, int level) {
    cpu_fill_memory(t);
    cpu_fill_ops_portable(t);
    cpu_fill_gemm_portable(t);
    t->gemm_groups = cpu_gemm_groups;
#if CPU_X86
    if (level == CPU_AVX2) cpu_fill_ops_avx2(t);
    if (level >= CPU_AVX512) cpu_fill_ops_avx512(t);
    if (level == CPU_AVX2) cpu_fill_gemm_avx2(t);
    if (level == CPU_AVX512) cpu_fill_gemm_avx512(t);
    if (level == CPU_AVX512BF16) cpu_fill_gemm_avx512bf16(t);
    if (level == CPU_AMX) {
        cpu_fill_gemm_amx(t);
        cpu_fill_attention_amx(t);
    }
#endif
    (void)level;
}

static weft_status open_backend(const weft_backend_opts *o, weft_backend **out) {
    int level = 0;
    WEFT_TRY(cpu_choose_level(o ? o->isa : NULL, &level));
    struct cpu_backend *b = weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->base.cls = &weft_backend_cpu;
    b->base.ops = &b->table;
    b->level = level;
    fill_table(&b->table, level);
    cpu_read_topology(b);
    b->beyond_cache =
        o && o->beyond_cache ? (double)o->beyond_cache : 1.5 * (double)(b->desc.l3 ? b->desc.l3 : UNKNOWN_L3);
    snprintf(b->desc.name, sizeof b->desc.name, "cpu");
    snprintf(b->desc.isa, sizeof b->desc.isa, "%s", cpu_level_name(level));
    b->desc.contract = WEFT_KERNELS_CONTRACT;
    b->desc.bf16_order = level == CPU_AMX;
    *out = &b->base;
    return WEFT_OK;
}

static void close_backend(weft_backend *b) {
    free(b);
}

static weft_status info(const weft_backend *b, weft_backend_desc *d) {
    *d = ((const struct cpu_backend *)b)->desc;
    return WEFT_OK;
}

/* --- exec --- */

static void touch_part(void *arg, int member, int members) {
    weft_exec *x = arg;
    int64_t begin, end;
    cpu_split((int64_t)x->scratch_bytes, 4096, member, members, &begin, &end);
    for (int64_t i = begin; i < end; i += 4096) ((volatile char *)x->scratch)[i] = 0;
}

static void destroy_exec(weft_exec *base) {
    struct cpu_exec *x = (struct cpu_exec *)base;
    cpu_team_destroy(x->team);
    cpu_release(x->scratch_owned);
    free(x);
}

static weft_status create_exec(weft_backend *base, const weft_exec_opts *o, weft_exec **out) {
    struct cpu_backend *b = (struct cpu_backend *)base;
    int threads = o && o->threads ? o->threads : 1;
    weft_status s = WEFT_ERR_NOMEM;
    struct cpu_exec *x = weft_calloc(1, sizeof *x);
    if (!x) return weft_context(s, "an exec of %d threads", threads);
    x->base = (struct weft_exec){.backend = base, .threads = threads, .scratch_bytes = o ? o->scratch : 0};
    if (o && o->tick) {
        x->tick = o->tick;
        x->tick_arg = o->tick_arg;
        x->tick_ns = (uint64_t)o->tick_us * 1000u;
    }
    WEFT_GOTO(cpu_alloc(x->base.scratch_bytes, &x->scratch_owned), failed);
    x->base.scratch = x->scratch_owned;
    WEFT_GOTO(
        cpu_team_create(threads, b->desc.cores, o && o->pin && b->pus >= threads ? b->pu : NULL, &x->team),
        failed);
    cpu_run(&x->base, touch_part, &x->base);
    *out = &x->base;
    return WEFT_OK;
failed:
    destroy_exec(&x->base);
    return weft_context(s, "an exec of %d threads and %zu bytes of scratch", threads, o ? o->scratch : 0);
}

void cpu_tick(weft_exec *base) {
    struct cpu_exec *x = (struct cpu_exec *)base;
    if (!x->tick) return;
    uint64_t now = weft_now_ns();
    if (now < x->tick_next) return;
    x->tick(x->tick_arg);
    x->tick_next = now + x->tick_ns;
}

static void idle_tick(void *x) {
    cpu_tick(x);
}

void cpu_run(weft_exec *base, cpu_job *job, void *arg) {
    struct cpu_exec *x = (struct cpu_exec *)base;
    if (base->threads == 1)
        job(arg, 0, 1);
    else
        cpu_team_run(x->team, job, arg, x->tick ? idle_tick : NULL, base, x->tick ? x->tick_ns + 1 : 0);
}

weft_status cpu_need_scratch(const weft_exec *x, size_t bytes) {
    if (bytes <= x->scratch_bytes) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOMEM,
                     "needs %zu bytes of scratch, the exec has %zu; plan it with weft_op_scratch", bytes,
                     x->scratch_bytes);
}

static size_t scratch(const weft_backend *base, weft_op_id op, const void *desc, int threads) {
    const struct cpu_backend *b = (const struct cpu_backend *)base;
    if (op == WEFT_OP_GEMM_GROUPS) return cpu_gemm_groups_scratch(b, desc, threads);
    return op == WEFT_OP_GEMM ? cpu_gemm_scratch(b, desc, threads) : cpu_ops_scratch(b, op, desc, threads);
}

const weft_backend_class weft_backend_cpu = {
    .name = "cpu",
    .open = open_backend,
    .close = close_backend,
    .info = info,
    .exec_create = create_exec,
    .exec_destroy = destroy_exec,
    .scratch = scratch,
};
