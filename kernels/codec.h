/* The lossy codecs of outer gradients: what the bytes are. Both backends and the callers of quant and
 * dequant_axpy know them from here.
 *
 * A code is the codes of all n elements, then one bf16 scale a block (little-endian, at any byte). The last block may
 * be short. A block of zeros has scale 0. A block with a NaN or an infinity in it has a NaN for scale and codes
 * of 0 (topk2: of empty slots).
 *
 *  int8b128  blocks of 128. scale = bf16(max |x| / 127), q = rint(x / scale), at most 127 in size; a byte.
 *  int4b128  the same with 7; four bits, the first of two elements in the low half.
 *  topk2     blocks of 4096. Of m elements the ceil(m/64) largest by |x| (of equals the first) are kept, if they are
 *            not 0, in the order of their indices. A slot is 14 bits, low bits first: index, then level << 12. s is
 *            the root of the mean square of the kept; scale = bf16(3/4 s); levels 0 to 3 stand for -3, -1, 1, 3
 *            times the scale (uniform over 6 s), a value being of the outer ones from |x| = 2 scale on. A slot
 *            whose index is not above its predecessor's is empty, and so are all after it.
 *
 * Quotients are rounded to f32 before rint; codes times scales are exact in f32 but for denormals: so decoding is
 * the same everywhere. */
#ifndef WEFT_KERNELS_CODEC_H
#define WEFT_KERNELS_CODEC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bf16.h"
#include "kernels/kernels.h"

#define CODEC_BLOCK     128
#define CODEC_TOP_BLOCK 4096
#define CODEC_TOP_EVERY 64 /* one of so many is kept */
#define CODEC_TOP       (CODEC_TOP_BLOCK / CODEC_TOP_EVERY)
#define CODEC_SLOT_BITS 14
#define CODEC_NAN_SCALE 0x7fc0u

static inline size_t codec_block(weft_codec c) {
    return c == WEFT_CODEC_TOPK2 ? CODEC_TOP_BLOCK : CODEC_BLOCK;
}
static inline size_t codec_blocks(weft_codec c, size_t n) {
    return n / codec_block(c) + (n % codec_block(c) != 0);
}
/* Kept elements of a topk2 block of m. */
static inline size_t codec_slots(size_t m) {
    return (m + CODEC_TOP_EVERY - 1) / CODEC_TOP_EVERY;
}
/* Bytes of the codes of n elements, so the place of the first scale. Blocks but the last fill whole bytes. */
static inline size_t codec_code_bytes(weft_codec c, size_t n) {
    if (c == WEFT_CODEC_INT8B128) return n;
    if (c == WEFT_CODEC_INT4B128) return n / 2 + n % 2;
    return n / CODEC_TOP_BLOCK * (CODEC_TOP * CODEC_SLOT_BITS / 8) +
           (codec_slots(n % CODEC_TOP_BLOCK) * CODEC_SLOT_BITS + 7) / 8;
}
static inline size_t weft_codec_bytes(weft_codec c, size_t n) {
    return codec_code_bytes(c, n) + codec_blocks(c, n) * sizeof(uint16_t);
}

static inline weft_bf16 codec_get_scale(const unsigned char *scales, size_t block) {
    return (weft_bf16)(scales[2 * block] | scales[2 * block + 1] << 8);
}
static inline void codec_put_scale(unsigned char *scales, size_t block, weft_bf16 s) {
    scales[2 * block] = (unsigned char)s;
    scales[2 * block + 1] = (unsigned char)(s >> 8);
}

/* The scale of a topk2 block from the kept values, in the order of their indices. */
static inline weft_bf16 codec_top_scale(const float *kept, size_t k) {
    double sum = 0;
    for (size_t i = 0; i < k; i++) sum += (double)kept[i] * (double)kept[i];
    return weft_f32_to_bf16(k ? (float)(0.75 * sqrt(sum / (double)k)) : 0.0f);
}
static inline unsigned codec_top_level(float x, float scale) {
    int outer = fabsf(x) >= 2 * scale;
    return x < 0 ? (outer ? 0 : 1) : (outer ? 3 : 2);
}
/* Slots of a block: 14 bits each from a byte boundary on. */
static inline void codec_put_slots(unsigned char *code, const uint16_t *slot, size_t k) {
    uint32_t pending = 0;
    int bits = 0;
    for (size_t i = 0; i < k; i++) {
        pending |= (uint32_t)slot[i] << bits;
        for (bits += CODEC_SLOT_BITS; bits >= 8; bits -= 8) {
            *code++ = (unsigned char)pending;
            pending >>= 8;
        }
    }
    if (bits) *code = (unsigned char)pending;
}
static inline void codec_get_slots(const unsigned char *code, uint16_t *slot, size_t k) {
    uint32_t pending = 0;
    int bits = 0;
    for (size_t i = 0; i < k; i++) {
        for (; bits < CODEC_SLOT_BITS; bits += 8) pending |= (uint32_t)*code++ << bits;
        slot[i] = pending & ((1u << CODEC_SLOT_BITS) - 1);
        pending >>= CODEC_SLOT_BITS;
        bits -= CODEC_SLOT_BITS;
    }
}

/* The slots of k kept elements in `slots` slots; index[] rises. The first slot of an empty block has the index 0, as
 * if before it there were one: it is kept empty by the scale, which is 0 or NaN. */
static inline void codec_top_encode(unsigned char *code, unsigned char *scales, size_t block, size_t slots,
                                    const uint16_t *index, const float *kept, size_t k) {
    uint16_t slot[CODEC_TOP] = {0};
    weft_bf16 scale = codec_top_scale(kept, k);
    float s = weft_bf16_to_f32(scale);
    for (size_t i = 0; i < k; i++) slot[i] = (uint16_t)(index[i] | codec_top_level(kept[i], s) << 12);
    for (size_t i = k; i < slots && k; i++) slot[i] = slot[k - 1];
    codec_put_slots(code, slot, slots);
    codec_put_scale(scales, block, scale);
}

/* Adds a block of m elements: acc = fma(a, value, acc) at the kept ones; everywhere if the scale is NaN. */
static inline void codec_top_add(const unsigned char *code, weft_bf16 scale, size_t m, float a, float *acc) {
    uint16_t slot[CODEC_TOP];
    size_t slots = codec_slots(m);
    float s = weft_bf16_to_f32(scale);
    if (s != s) {
        for (size_t i = 0; i < m; i++) acc[i] = fmaf(a, s, acc[i]);
        return;
    }
    if (s == 0) return;
    codec_get_slots(code, slot, slots);
    for (size_t i = 0, next = 0; i < slots; i++) {
        size_t at = slot[i] & (CODEC_TOP_BLOCK - 1);
        if (at < next || at >= m) return; /* empty, or not written by quant */
        acc[at] = fmaf(a, (float)(2 * (slot[i] >> 12) - 3) * s, acc[at]);
        next = at + 1;
    }
}

#endif
