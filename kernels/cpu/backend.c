/* The cpu backend: which level this machine has, the op table of that level, and execs.
 *
 * The level is the best that the processor and the system support, at most the one asked for (options, or
 * WEFT_ISA, which wins). avx512bf16 must also be exact and, unless it is asked for, not slower than avx512:
 * all levels give the same bits, so the choice is about time alone. Without AVX2, FMA and F16C the backend
 * does not open, and "auto" takes ref. */
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cpu/team.h"

/* of asm/prctl.h, which older headers do not have */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

static const char *const level_name[] = {"none", "avx2", "avx512", "avx512bf16", "amx"};

static int has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* AMX tiles and their bf16 product: the processor has them, the system saves them, and gives them to this process
 * (8 KiB of state a thread, which Linux gives on request only; threads inherit it). */
static int has_amx(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 22) || !(d & 1u << 24)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* __builtin_cpu_supports also asks whether the system saves the registers (xgetbv). */
static int detect_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_AVX2;
    if (!__builtin_cpu_supports("avx512bf16")) return CPU_AVX512;
    return has_amx() ? CPU_AMX : CPU_AVX512BF16;
}

/* *level: the best that is there and asked for. */
static weft_status choose_level(const weft_backend_opts *o, int *level) {
    const char *asked = getenv("WEFT_ISA");
    int best = detect_level(), limit = CPU_AMX;
    if (!asked || !*asked) asked = o ? o->isa : NULL;
    if (best == 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "this processor has no AVX2, FMA and F16C; use the backend ref");
    if (asked) {
        while (limit > 0 && strcmp(asked, level_name[limit]) != 0) limit--;
        if (limit == 0)
            return weft_fail(WEFT_ERR_ARG, "instruction set '%s', expected avx2, avx512, avx512bf16 or amx",
                             asked);
    }
    *level = best < limit ? best : limit;
    if (*level == CPU_AVX512BF16 && !(cpu_bf16_is_exact() && (asked || cpu_bf16_is_fast())))
        *level = CPU_AVX512;
    return WEFT_OK;
}

static void fill_table(struct weft_ops *t, int level) {
    cpu_fill_memory(t);
    if (level == CPU_AVX2)
        cpu_fill_ops_avx2(t);
    else
        cpu_fill_ops_avx512(t);
    if (level == CPU_AVX2)
        cpu_fill_gemm_avx2(t);
    else if (level == CPU_AVX512)
        cpu_fill_gemm_avx512(t);
    else if (level == CPU_AVX512BF16)
        cpu_fill_gemm_avx512bf16(t);
    else
        cpu_fill_gemm_amx(t);
}

static weft_status open_backend(const weft_backend_opts *o, weft_backend **out) {
    int level = 0;
    WEFT_TRY(choose_level(o, &level));
    struct cpu_backend *b = weft_calloc(1, sizeof *b);
    if (!b) return WEFT_ERR_NOMEM;
    b->base.cls = &weft_backend_cpu;
    b->base.ops = &b->table;
    b->level = level;
    fill_table(&b->table, level);
    cpu_read_topology(b);
    snprintf(b->desc.name, sizeof b->desc.name, "cpu");
    snprintf(b->desc.isa, sizeof b->desc.isa, "%s", level_name[level]);
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
