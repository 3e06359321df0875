/* f16, and narrowing from double, in integers: round to nearest even, NaN quieted with the upper payload bits
 * kept (what the x86 conversions do), denormals exact. The definition that every backend must match bit for
 * bit. */
#ifndef WEFT_KERNELS_REF_HALF_H
#define WEFT_KERNELS_REF_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t ref_f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float ref_f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* A float or its quiet form if it is a NaN. */
static inline float ref_quiet(float f) {
    uint32_t u = ref_f32_bits(f);
    return (u & 0x7fffffffu) > 0x7f800000u ? ref_f32_from_bits(u | 0x00400000u) : f;
}

static inline float ref_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
    if (exponent == 31) /* infinity or NaN */
        return ref_f32_from_bits(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x00400000u : 0));
    if (exponent == 0) { /* zero or denormal: fraction * 2^-24, exact in f32 */
        float f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    return ref_f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static inline uint16_t ref_f32_to_f16(float f) {
    uint32_t u = ref_f32_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    uint32_t fraction, shift, kept, dropped, half;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* >= 2^16 */
    if (magnitude < 0x33000000u) return (uint16_t)sign;              /* < 2^-25 */
    if (magnitude >= 0x38800000u) {                                  /* normal in f16: >= 2^-14 */
        fraction = magnitude - 0x38000000u;                          /* rebias 127 -> 15 */
        shift = 13;
    } else { /* denormal in f16: significand shifted to units of 2^-24 */
        fraction = (magnitude & 0x007fffffu) | 0x00800000u;
        shift = 126 - (magnitude >> 23);
    }
    kept = fraction >> shift;
    dropped = fraction & ((1u << shift) - 1);
    half = 1u << (shift - 1);
    kept +=
        dropped > half || (dropped == half && (kept & 1)); /* a carry into the exponent is the right answer */
    return (uint16_t)(sign | kept);
}

/* f64 -> f32 rounded to odd: truncated, and the last bit set if anything was lost. Rounding that once more to
 * 8 or 11 bits gives the correctly rounded result, which rounding to nearest twice would not (Boldo &
 * Melquiond 2008). */
static inline float ref_f64_to_f32_odd(double v) {
    float f = (float)v; /* nearest; NaN quieted, payload kept */
    uint32_t u = ref_f32_bits(f);
    double magnitude = v < 0 ? -v : v, rounded = f < 0 ? -(double)f : (double)f;
    if (v != v || rounded == magnitude) return f;
    if (rounded > magnitude) u--; /* back towards zero; from infinity to the largest finite */
    return ref_f32_from_bits(u | 1u);
}

#endif
