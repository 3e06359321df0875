/* safetensors: reading elements, with conversion to the dtype that the caller computes in.
 *
 * Elements are read in pieces that stay in the second-level cache and are converted there; the file's own
 * dtype is read straight to its place. Widening is exact. Narrowing rounds to nearest even; F64 to BF16 goes
 * through F32. */
#include <string.h>

#include "base/bf16.h"
#include "base/file.h"
#include "base/status.h"
#include "io/exchange/safetensors_internal.h"

#define PIECE 65536 /* bytes */

/* IEEE half to single: the exponent is rebased; subnormal halves are normalised by one exact multiplication.
 */
static float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu, u;
    float f;
    if (exponent == 0) {
        f = (float)mantissa * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    } else if (exponent == 31)
        u = sign | 0x7f800000u | mantissa << 13;
    else
        u = sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&f, &u, 4);
    return f;
}

/* src is a piece of the file and has any alignment. */
static void widen(const unsigned char *src, weft_dtype from, size_t n, float *dst) {
    for (size_t i = 0; i < n; i++) {
        if (from == WEFT_F64) {
            double d;
            memcpy(&d, src + 8 * i, 8);
            dst[i] = (float)d;
        } else if (from == WEFT_F32)
            memcpy(&dst[i], src + 4 * i, 4);
        else {
            uint16_t h;
            memcpy(&h, src + 2 * i, 2);
            dst[i] = from == WEFT_BF16 ? weft_bf16_to_f32(h) : f16_to_f32(h);
        }
    }
}

static void convert(const unsigned char *src, weft_dtype from, weft_dtype to, size_t n, void *dst) {
    if (to == WEFT_F32) {
        widen(src, from, n, dst);
        return;
    }
    weft_bf16 *out = dst;
    float f[256];
    size_t size = weft_dtype_size(from);
    for (size_t i = 0; i < n; i += 256) {
        size_t k = n - i < 256 ? n - i : 256;
        widen(src + i * size, from, k, f);
        for (size_t j = 0; j < k; j++) out[i + j] = weft_f32_to_bf16(f[j]);
    }
}

weft_status weft_st_read(const weft_st *f, const weft_st_tensor *t, int64_t first, int64_t n, weft_dtype to,
                         void *dst) {
    if (f->fd < 0) return weft_fail(WEFT_ERR_STATE, "%s: only its header was given", f->path);
    size_t from_size = weft_dtype_size(t->t), to_size = weft_dtype_size(to);
    int from_float = t->t == WEFT_F32 || t->t == WEFT_BF16 || t->t == WEFT_F16 || t->t == WEFT_F64;
    if (!from_size || (to != t->t && (!from_float || (to != WEFT_F32 && to != WEFT_BF16))))
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %.100s is %s, which weft does not convert to %s", f->path,
                         t->name, t->dtype, weft_dtype_name(to));
    int64_t count = (int64_t)(t->bytes / from_size);
    if (first < 0 || n < 0 || n > count || first > count - n)
        return weft_fail(WEFT_ERR_ARG, "%s: %lld elements from %lld on of %.100s, which has %lld", f->path,
                         (long long)n, (long long)first, t->name, (long long)count);
    int64_t at = t->at + first * (int64_t)from_size;
    if (to == t->t) return weft_pread_all(f->fd, dst, (size_t)n * from_size, at, f->path);
    unsigned char piece[PIECE];
    for (size_t left = (size_t)n, k; left; left -= k) {
        k = left < PIECE / from_size ? left : PIECE / from_size;
        WEFT_TRY(weft_pread_all(f->fd, piece, k * from_size, at, f->path));
        convert(piece, t->t, to, k, dst);
        dst = (char *)dst + k * to_size;
        at += (int64_t)(k * from_size);
    }
    return WEFT_OK;
}
