/* What the portable level is made of: the vector extensions of gcc (12 on) and clang, and no instruction by
 * name.
 *
 * A part is as many floats as one register surely has: four (NEON, SSE), or eight where the compiler may use
 * AVX. On x86-64 this level is compiled with AVX2 and FMA, so that fmaf is an instruction there as well: it is
 * for the tests, which hold it to the bits of the other levels on every build. Square roots, fma and rounding
 * are written lane by lane; both compilers make one instruction of such a loop. */
#ifndef WEFT_CPU_PORTABLE_H
#define WEFT_CPU_PORTABLE_H

#include <stdint.h>

#define PART_INLINE static inline __attribute__((always_inline))

#if defined(__AVX__)
#define PART_LANES 8
#else
#define PART_LANES 4
#endif

typedef float vpart __attribute__((vector_size(PART_LANES * 4)));
typedef int32_t vpart_i __attribute__((vector_size(PART_LANES * 4)));
typedef uint32_t vpart_u __attribute__((vector_size(PART_LANES * 4)));
typedef uint16_t vpart_h __attribute__((vector_size(PART_LANES * 2)));

/* The same at any address and over any type. */
typedef vpart vpart_at __attribute__((aligned(1), may_alias));
typedef vpart_u vpart_u_at __attribute__((aligned(1), may_alias));
typedef vpart_h vpart_h_at __attribute__((aligned(1), may_alias));

PART_INLINE vpart vpart_load(const void *p) {
    return *(const vpart_at *)p;
}
PART_INLINE void vpart_store(void *p, vpart a) {
    *(vpart_at *)p = a;
}
PART_INLINE vpart vpart_set(float x) {
    vpart r;
    for (int i = 0; i < PART_LANES; i++) r[i] = x;
    return r;
}
PART_INLINE vpart_i vpart_set_i(int32_t x) {
    vpart_i r;
    for (int i = 0; i < PART_LANES; i++) r[i] = x;
    return r;
}
/* a*b + c, rounded once */
PART_INLINE vpart vpart_fma(vpart a, vpart b, vpart c) {
    vpart r;
    for (int i = 0; i < PART_LANES; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
}
PART_INLINE vpart vpart_sqrt(vpart a) {
    vpart r;
    for (int i = 0; i < PART_LANES; i++) r[i] = __builtin_sqrtf(a[i]);
    return r;
}
PART_INLINE vpart vpart_rint(vpart a) {
    vpart r;
    for (int i = 0; i < PART_LANES; i++) r[i] = __builtin_rintf(a[i]);
    return r;
}
/* m: all bits of a lane set or clear */
PART_INLINE vpart_i vpart_select_i(vpart_i m, vpart_i yes, vpart_i no) {
    return (m & yes) | (~m & no);
}
PART_INLINE vpart vpart_select(vpart_i m, vpart yes, vpart no) {
    return (vpart)vpart_select_i(m, (vpart_i)yes, (vpart_i)no);
}

/* Four words, the unit of transposes. */
typedef float vquad __attribute__((vector_size(16)));
typedef int32_t vquad_i __attribute__((vector_size(16)));
typedef uint32_t vquad_u __attribute__((vector_size(16)));
typedef vquad vquad_at __attribute__((aligned(1), may_alias));

PART_INLINE vquad vquad_load(const void *p) {
    return *(const vquad_at *)p;
}
PART_INLINE void vquad_store(void *p, vquad a) {
    *(vquad_at *)p = a;
}
/* r[i][j] becomes r[j][i]. */
PART_INLINE void vquad_flip(vquad r[4]) {
    vquad lo01 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    vquad hi01 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    vquad lo23 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    vquad hi23 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(lo01, lo23, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(lo01, lo23, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(hi01, hi23, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(hi01, hi23, 2, 3, 6, 7);
}

#endif
