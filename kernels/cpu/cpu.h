/* Inside the cpu room: levels, the exec, the team call, scratch and the fill functions.
 *
 * Levels. A source that depends on the instruction set is compiled once per level with that level's -m flags,
 * -DCPU_LEVEL=<number> and -DCPU_SUFFIX=<name> (CMakeLists.txt). Everything that such a source exports is
 * named CPU_NAME(x), which is x_portable, x_avx2, ...; everything else in it is static. So no
 * function that was compiled for a newer processor can be linked into the path of an older one. Sources
 * without level use no -m flags.
 *
 * Jobs. An op is one or more calls of cpu_run(): every member of the team calls job(arg, member, members)
 * once, the caller as member 0; cpu_run returns when all have returned. No member waits for another inside a
 * job. Members split work statically (cpu_split), and what they compute must not depend on `members` (bit
 * contract, kernels.h). */
#ifndef WEFT_KERNELS_CPU_H
#define WEFT_KERNELS_CPU_H

#include <stddef.h>
#include <stdint.h>

#include "base/checked.h"
#include "base/status.h"
#include "kernels/backend.h"

/* Levels in rising order; each contains the ones below it. */
#define CPU_PORTABLE   1 /* compiler vector extensions (portable.h): any processor; all that aarch64 has */
#define CPU_AVX2       2 /* AVX2, FMA */
#define CPU_AVX512     3 /* F BW VL DQ */
#define CPU_AVX512BF16 4 /* and AVX512_BF16; ops other than gemm are those of CPU_AVX512 */
#define CPU_AMX        5 /* AVX512_BF16, AMX tiles for bf16 products; all else is that of CPU_AVX512 */

#if defined(__x86_64__)
#define CPU_X86 1 /* the levels above portable are compiled */
#else
#define CPU_X86 0
#endif

#define CPU_PASTE2(x, s) x##_##s
#define CPU_PASTE(x, s)  CPU_PASTE2(x, s)
#ifdef CPU_LEVEL
#define CPU_NAME(x) CPU_PASTE(x, CPU_SUFFIX)
#endif

#define CPU_LINE 64 /* bytes of a cache line, and the alignment of packed panels and scratch */

struct cpu_team;

struct cpu_backend {
    struct weft_backend base;
    struct weft_ops table;
    weft_backend_desc desc;
    double beyond_cache; /* bytes: what moves more finds nothing in the caches (ops.h) */
    int level;           /* CPU_PORTABLE ... */
    int pus;             /* entries of pu */
    int pu[512];         /* one processing unit of each core that this process may use, for pinning */
};

struct cpu_exec {
    struct weft_exec base; /* first: a weft_exec of this backend is a cpu_exec */
    struct cpu_team *team;
    void (*tick)(void *arg);
    void *tick_arg;
    uint64_t tick_ns, tick_next; /* member 0 only */
    void *scratch_owned;         /* base.scratch moves (cpu_scratch_take), this does not */
};

static inline struct cpu_backend *cpu_backend_of(const weft_exec *x) {
    return (struct cpu_backend *)x->backend;
}

/* --- team (team.c) --- */

typedef void cpu_job(void *arg, int member, int members);

/* Runs job on every member of the exec's team. Not from inside a job. */
void cpu_run(weft_exec *x, cpu_job *job, void *arg);

/* Calls the exec's tick if it has one and it is due. Member 0 calls it between blocks of about 0.1 ms. */
void cpu_tick(weft_exec *x);

/* The member's part [*begin, *end) of n items, cut at multiples of unit (>= 1). Parts differ by at
 * most one unit, and the last may end short. */
static inline void cpu_split(int64_t n, int64_t unit, int member, int members, int64_t *begin, int64_t *end) {
    int64_t units = (n + unit - 1) / unit, each = units / members, rest = units % members;
    int64_t b = each * member + (member < rest ? member : rest);
    int64_t e = b + each + (member < rest);
    *begin = b * unit < n ? b * unit : n;
    *end = e * unit < n ? e * unit : n;
}

/* --- scratch --- */

/* Fails with NOMEM unless the exec has `bytes` of scratch (from x->scratch, 64-byte aligned). */
weft_status cpu_need_scratch(const weft_exec *x, size_t bytes);

/* Part `member` of scratch cut into parts of `bytes`, each rounded up to a cache line: members never share a
 * line. */
static inline size_t cpu_part(size_t bytes) {
    return weft_align_up(bytes, CPU_LINE);
}
static inline void *cpu_member_scratch(const weft_exec *x, size_t bytes, int member) {
    return (char *)x->scratch + cpu_part(bytes) * (size_t)member;
}

/* An op that calls another op of the table keeps its own scratch by moving the exec's: the inner op sees the
 * rest. Takes and gives nest like a stack, with equal bytes; the caller has checked that they are there. */
static inline void *cpu_scratch_take(weft_exec *x, size_t bytes) {
    void *p = x->scratch;
    x->scratch = (char *)p + cpu_part(bytes);
    x->scratch_bytes -= cpu_part(bytes);
    return p;
}
static inline void cpu_scratch_give(weft_exec *x, size_t bytes) {
    x->scratch = (char *)x->scratch - cpu_part(bytes);
    x->scratch_bytes += cpu_part(bytes);
}

/* Bytes of scratch of an op for a team of `threads`; weft_op_scratch() adds them up. */
size_t cpu_gemm_scratch(const struct cpu_backend *b, const weft_gemm_desc *d, int threads);
size_t cpu_gemm_groups_scratch(const struct cpu_backend *b, const weft_gemm_desc *d, int threads);
size_t cpu_ops_scratch(const struct cpu_backend *b, weft_op_id op, const void *desc,
                       int threads); /* but gemm */

/* --- tables: each writes its ops into t --- */

void cpu_fill_memory(struct weft_ops *t);        /* alloc release copy fill */
void cpu_fill_gemm_portable(struct weft_ops *t); /* gemm gemm_pack probe_fma */
void cpu_fill_gemm_avx2(struct weft_ops *t);
void cpu_fill_gemm_avx512(struct weft_ops *t);
void cpu_fill_gemm_avx512bf16(struct weft_ops *t);
void cpu_fill_gemm_amx(struct weft_ops *t);
void cpu_fill_attention_amx(struct weft_ops *t); /* attn_fwd attn_bwd */
void cpu_fill_ops_portable(struct weft_ops *t);  /* everything else */
void cpu_fill_ops_avx2(struct weft_ops *t);
void cpu_fill_ops_avx512(struct weft_ops *t);

/* The best level that is there and asked for (WEFT_ISA, else `asked`; NULL: no wish), and its name (level.c). */
weft_status cpu_choose_level(const char *asked, int *level);
const char *cpu_level_name(int level);

/* Fills desc (model, caches, cores), pus and pu (topology.c). */
void cpu_read_topology(struct cpu_backend *b);

/* Only on x86-64, where AVX512_BF16 exists (bf16_check.c): 1 if the bf16 instruction does exactly what the widening
 * kernel does; 1 if it is not slower. */
int cpu_bf16_is_exact(void);
int cpu_bf16_is_fast(void);

/* 64-byte aligned, zeroed; from 4 MiB on 2 MiB aligned with huge pages asked for, touched by nobody yet. */
weft_status cpu_alloc(size_t bytes, void **p);
void cpu_release(void *p);

#endif
