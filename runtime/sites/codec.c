/* All codecs behind one pair of functions, over the op table; what the bytes of the lossy ones are: kernels/codec.h.
 *
 * f32 and bf16 go through the ops cast and axpby. Encoded bytes lie at any address (a chunk's place in a frame), those
 * ops want aligned values, so both go through a small tile on the stack. */
#include "runtime/sites/codec.h"

#include <string.h>

#include "base/bf16.h"
#include "kernels/codec.h"

#define TILE 2048

static const char *const names[WEFT_CODER_CODECS] = {
    [WEFT_CODEC_F32] = "f32",       [WEFT_CODEC_BF16] = "bf16",   [WEFT_CODEC_INT8B128] = "int8",
    [WEFT_CODEC_INT4B128] = "int4", [WEFT_CODEC_TOPK2] = "topk2",
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "f32 and bf16 travel as they lie in memory");

const char *weft_coder_name(weft_codec c) {
    return (unsigned)c < WEFT_CODER_CODECS ? names[c] : NULL;
}

weft_status weft_coder_find(const char *name, weft_codec *c) {
    for (int i = 0; i < WEFT_CODER_CODECS; i++)
        if (strcmp(name, names[i]) == 0) {
            *c = (weft_codec)i;
            return WEFT_OK;
        }
    return weft_fail(WEFT_ERR_CONFIG, "no codec '%.32s'; there are f32, bf16, int8, int4 and topk2", name);
}

size_t weft_coder_bytes(weft_codec c, size_t n) {
    if ((unsigned)c >= WEFT_CODER_CODECS) return 0;
    if (c == WEFT_CODEC_F32) return n * sizeof(float);
    return c == WEFT_CODEC_BF16 ? n * sizeof(weft_bf16) : weft_codec_bytes(c, n);
}

static weft_status check(weft_codec c, int given) {
    if (!weft_coder_name(c)) return weft_fail(WEFT_ERR_ARG, "codec %d is none", (int)c);
    return given ? WEFT_OK : weft_fail(WEFT_ERR_ARG, "codec %s: no buffer", weft_coder_name(c));
}

static uint32_t count_nonfinite(const float *x, size_t n) {
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad += (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad;
}

weft_status weft_coder_encode(const weft_coder *k, weft_codec c, const float *x, size_t n, void *dst,
                              uint64_t *nonfinite) {
    WEFT_TRY(check(c, n == 0 || (x && dst)));
    if (c != WEFT_CODEC_F32 && c != WEFT_CODEC_BF16)
        return k->ops->quant(k->exec, c, x, WEFT_F32, n, dst, nonfinite);
    *nonfinite = 0;
    for (size_t at = 0; at < n; at += TILE) { /* counted while it is in the cache */
        size_t m = n - at < TILE ? n - at : TILE;
        weft_bf16 tile[TILE];
        *nonfinite += count_nonfinite(x + at, m);
        if (c == WEFT_CODEC_BF16) WEFT_TRY(k->ops->cast(k->exec, WEFT_F32, WEFT_BF16, m, x + at, tile));
        memcpy((char *)dst + weft_coder_bytes(c, at), c == WEFT_CODEC_F32 ? (const void *)(x + at) : tile,
               weft_coder_bytes(c, m));
    }
    return WEFT_OK;
}

/* acc += a * the m <= TILE values at src */
static weft_status add_tile(const weft_coder *k, weft_codec c, const void *src, size_t m, float a,
                            float *acc) {
    float value[TILE];
    if (c == WEFT_CODEC_F32) {
        memcpy(value, src, m * sizeof *value);
    } else {
        weft_bf16 half[TILE];
        memcpy(half, src, m * sizeof *half);
        WEFT_TRY(k->ops->cast(k->exec, WEFT_BF16, WEFT_F32, m, half, value));
    }
    return k->ops->axpby(k->exec, m, a, value, 1, acc);
}

weft_status weft_coder_add(const weft_coder *k, weft_codec c, const void *src, size_t n, float a,
                           float *acc) {
    WEFT_TRY(check(c, n == 0 || (src && acc)));
    if (c != WEFT_CODEC_F32 && c != WEFT_CODEC_BF16) return k->ops->dequant_axpy(k->exec, c, src, n, a, acc);
    for (size_t at = 0; at < n; at += TILE)
        WEFT_TRY(add_tile(k, c, (const char *)src + weft_coder_bytes(c, at), n - at < TILE ? n - at : TILE, a,
                          acc + at));
    return WEFT_OK;
}

weft_status weft_coder_decode(const weft_coder *k, weft_codec c, const void *src, size_t n, float *x) {
    WEFT_TRY(check(c, n == 0 || (src && x)));
    if (n) memset(x, 0, n * sizeof *x);
    return weft_coder_add(k, c, src, n, 1, x);
}
