/* bf16 <-> f32 in integers: round to nearest even, NaN quieted, denormals kept. The definition that every
 * backend must match bit for bit. */
#ifndef WEFT_BASE_BF16_H
#define WEFT_BASE_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t weft_bf16;

static inline float weft_bf16_to_f32(weft_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline weft_bf16 weft_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (weft_bf16)((u >> 16) | 0x40u);
    return (weft_bf16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#endif
