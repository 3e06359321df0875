/* Which level this machine has.
 *
 * The best that the processor and the system support, at most the one asked for (options, or WEFT_ISA, which
 * wins). avx512bf16 must also be exact and, unless it is asked for, not slower than avx512: up to there levels
 * give the same bits, so the choice is about time alone. amx has an order of its own for bf16 products. On x86-64 without AVX2, FMA and F16C there is none: the backend
 * does not open, and "auto" takes ref. Elsewhere there is one, portable. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"

static const char *const level_name[] = {"none", "portable", "avx2", "avx512", "avx512bf16", "amx"};
#define BEST (int)(sizeof level_name / sizeof *level_name - 1)

const char *cpu_level_name(int level) {
    return level_name[level];
}

#if CPU_X86

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* of asm/prctl.h, which older headers do not have */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA  18

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
    if ((low >> 17 & 3) != 3) return 0;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0) return 1;
    weft_warn("the processor has AMX, but the system does not give it to this process (%s); an alternate "
              "signal stack of "
              "less than about 12 KiB is a common reason. bf16 products are slower without it, and their "
              "bits differ",
              strerror(errno));
    return 0;
}

/* __builtin_cpu_supports also asks whether the system saves the registers (xgetbv). */
/* The best level but not above `limit`: what is not wanted is not asked of the system. */
static int detect_level(int limit) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_AVX2;
    if (!__builtin_cpu_supports("avx512bf16")) return CPU_AVX512;
    return limit >= CPU_AMX && has_amx() ? CPU_AMX : CPU_AVX512BF16;
}

/* The level, or the one below if its bf16 instruction is no good. */
static int keep_or_lower(int level, const char *asked) {
    if (level == CPU_AVX512BF16 && !(cpu_bf16_is_exact() && (asked || cpu_bf16_is_fast()))) return CPU_AVX512;
    return level;
}

#else

static int detect_level(int limit) {
    (void)limit;
    return CPU_PORTABLE;
}

static int keep_or_lower(int level, const char *asked) {
    (void)asked;
    return level;
}

#endif

weft_status cpu_choose_level(const char *asked, int *level) {
    const char *wish = getenv("WEFT_ISA");
    int limit = BEST;
    if (wish && *wish) asked = wish;
    if (asked) {
        while (limit > 0 && strcmp(asked, level_name[limit]) != 0) limit--;
        if (limit == 0)
            return weft_fail(WEFT_ERR_ARG,
                             "instruction set '%s', expected portable, avx2, avx512, avx512bf16 or amx",
                             asked);
    }
    const int best = detect_level(limit);
    if (best == 0)
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "this processor has no AVX2, FMA and F16C; use the backend ref");
    *level = keep_or_lower(best < limit ? best : limit, asked);
    return WEFT_OK;
}
