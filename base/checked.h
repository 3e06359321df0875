/* Integer arithmetic on outside sizes: each returns 1 if the exact result fits, else 0 and leaves *r
 * unspecified. */
#ifndef WEFT_BASE_CHECKED_H
#define WEFT_BASE_CHECKED_H

#include <stddef.h>
#include <stdint.h>

static inline int weft_add_ok(size_t a, size_t b, size_t *r) {
    return !__builtin_add_overflow(a, b, r);
}
static inline int weft_mul_ok(size_t a, size_t b, size_t *r) {
    return !__builtin_mul_overflow(a, b, r);
}
static inline int weft_add_i64_ok(int64_t a, int64_t b, int64_t *r) {
    return !__builtin_add_overflow(a, b, r);
}
static inline int weft_mul_i64_ok(int64_t a, int64_t b, int64_t *r) {
    return !__builtin_mul_overflow(a, b, r);
}

/* Rounds n up to a multiple of a, a power of two. The caller knows that n + a does not wrap. */
static inline size_t weft_align_up(size_t n, size_t a) {
    return (n + a - 1) & ~(a - 1);
}

#endif
