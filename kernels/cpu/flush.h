/* Denormals as zero, taken and given, for as long as the caller says: what processors' bf16 instructions do,
 * and so part of the bit contract for bf16 products.
 *
 * x86 judges smallness after rounding, ARM before it: a sum within half a unit below 2^-126 is 2^-126 on one
 * and 0 on the other. Processors without such a mode keep denormals here. */
#ifndef WEFT_CPU_FLUSH_H
#define WEFT_CPU_FLUSH_H

#include <stdint.h>

#if defined(__x86_64__)

#include <xmmintrin.h>
#define CPU_FLUSH_BITS 0x8040u /* MXCSR's FTZ and DAZ */
static inline uint64_t cpu_flush_get_(void) {
    return _mm_getcsr();
}
static inline void cpu_flush_set_(uint64_t mode) {
    _mm_setcsr((unsigned)mode);
}

#elif defined(__aarch64__)

#define CPU_FLUSH_BITS (1u << 24) /* FPCR's FZ */
static inline uint64_t cpu_flush_get_(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void cpu_flush_set_(uint64_t mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}

#else

#define CPU_FLUSH_BITS 0u
static inline uint64_t cpu_flush_get_(void) {
    return 0;
}
static inline void cpu_flush_set_(uint64_t mode) {
    (void)mode;
}

#endif

/* Returns what cpu_flush_end wants. */
static inline uint64_t cpu_flush_begin(void) {
    uint64_t before = cpu_flush_get_();
    cpu_flush_set_(before | CPU_FLUSH_BITS);
    return before;
}
static inline void cpu_flush_end(uint64_t before) {
    cpu_flush_set_(before);
}

#endif
