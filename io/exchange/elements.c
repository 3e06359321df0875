/* Conversion of elements, a block that stays in the first-level cache at a time; see elements.h. */
#include "io/exchange/elements.h"

#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "kernels/ref/half.h"

#define BLOCK 256

int elements_convertible(weft_dtype from, weft_dtype to) {
    int in = from == WEFT_F32 || from == WEFT_BF16 || from == WEFT_F16 || from == WEFT_F64;
    return in && (to == WEFT_F32 || to == WEFT_BF16 || to == WEFT_F16);
}

static void widen(weft_dtype from, size_t n, const unsigned char *src, float *dst) {
    uint16_t h;
    double d;
    switch (from) {
    case WEFT_F64:
        for (size_t i = 0; i < n; i++) {
            memcpy(&d, src + 8 * i, 8);
            dst[i] = (float)d;
        }
        break;
    case WEFT_F32: memcpy(dst, src, 4 * n); break;
    case WEFT_BF16:
        for (size_t i = 0; i < n; i++) {
            memcpy(&h, src + 2 * i, 2);
            dst[i] = weft_bf16_to_f32(h);
        }
        break;
    default:
        for (size_t i = 0; i < n; i++) {
            memcpy(&h, src + 2 * i, 2);
            dst[i] = ref_f16_to_f32(h);
        }
    }
}

/* Most weights are normal in f16: those take five instructions; the definition has the rest. */
static uint16_t to_f16(float f) {
    uint32_t u, magnitude;
    memcpy(&u, &f, 4);
    magnitude = u & 0x7fffffffu;
    if (magnitude - 0x38800000u >= 0x47800000u - 0x38800000u) return ref_f32_to_f16(f);
    magnitude +=
        0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u; /* to nearest even; the exponent's bias: 127 -> 15 */
    return (uint16_t)((u >> 16 & 0x8000u) | magnitude >> 13);
}

static void narrow(weft_dtype to, size_t n, const float *src, unsigned char *dst) {
    if (to == WEFT_F32) {
        memcpy(dst, src, 4 * n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h = to == WEFT_BF16 ? weft_f32_to_bf16(src[i]) : to_f16(src[i]);
        memcpy(dst + 2 * i, &h, 2);
    }
}

void elements_convert(weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst) {
    const size_t in = weft_dtype_size(from), out = weft_dtype_size(to);
    if (from == to) {
        memcpy(dst, src, n * in);
        return;
    }
    float f[BLOCK];
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t k = n - i < BLOCK ? n - i : BLOCK;
        widen(from, k, (const unsigned char *)src + i * in, f);
        narrow(to, k, f, (unsigned char *)dst + i * out);
    }
}

size_t elements_overflow(weft_dtype from, weft_dtype to, size_t n, const void *src, const void *dst) {
    if (to != WEFT_F16 || from == WEFT_F16) return n;
    const size_t in = weft_dtype_size(from);
    for (size_t i = 0; i < n; i++) {
        float was;
        uint16_t h;
        memcpy(&h, (const unsigned char *)dst + 2 * i, 2);
        if ((h & 0x7fffu) != 0x7c00u) continue;
        widen(from, 1, (const unsigned char *)src + i * in, &was);
        if (isfinite(was)) return i;
    }
    return n;
}
