/* Codecs of outer gradients and the outer step, element by element; what the bytes are: kernels/codec.h. */
#include <math.h>

#include "kernels/check.h"
#include "kernels/codec.h"
#include "kernels/ref/ref.h"

static float element(weft_dtype t, const void *v, size_t i) {
    return (float)ref_get(t, v, (int64_t)i);
}

/* How many of v[at, at + m) are NaN or infinite; *largest: the largest |v| if none is. */
static uint64_t look(weft_dtype t, const void *v, size_t at, size_t m, float *largest) {
    uint64_t bad = 0;
    *largest = 0;
    for (size_t i = at; i < at + m; i++) {
        float size = fabsf(element(t, v, i));
        if (!isfinite(size)) bad++;
        if (size > *largest) *largest = size;
    }
    return bad;
}

static void put_code(weft_codec c, unsigned char *code, size_t i, int q) {
    if (c == WEFT_CODEC_INT8B128)
        code[i] = (unsigned char)q;
    else if (i % 2 == 0)
        code[i / 2] = (unsigned char)(q & 15);
    else
        code[i / 2] = (unsigned char)(code[i / 2] | (q & 15) << 4);
}

static int get_code(weft_codec c, const unsigned char *code, size_t i) {
    if (c == WEFT_CODEC_INT8B128) return (signed char)code[i];
    int q = i % 2 ? code[i / 2] >> 4 : code[i / 2] & 15;
    return q < 8 ? q : q - 16;
}

/* Block `block` of int8b128 or int4b128, elements [at, at + m). */
static uint64_t quant_linear(weft_codec c, const void *v, weft_dtype t, size_t at, size_t m,
                             unsigned char *code, unsigned char *scales) {
    float largest, limit = c == WEFT_CODEC_INT8B128 ? 127 : 7;
    uint64_t bad = look(t, v, at, m, &largest);
    weft_bf16 scale = bad ? CODEC_NAN_SCALE : weft_f32_to_bf16(largest / limit);
    float s = weft_bf16_to_f32(scale);
    for (size_t i = at; i < at + m; i++) {
        float q = bad || s == 0 ? 0 : rintf(element(t, v, i) / s);
        put_code(c, code, i, (int)fminf(fmaxf(q, -limit), limit));
    }
    codec_put_scale(scales, at / CODEC_BLOCK, scale);
    return bad;
}

/* The largest by |x|, one after the other, of equals the first; then in the order of their indices. */
static uint64_t quant_top(const void *v, weft_dtype t, size_t at, size_t m, unsigned char *code,
                          unsigned char *scales) {
    unsigned char taken[CODEC_TOP_BLOCK] = {0};
    uint16_t index[CODEC_TOP];
    float largest, kept[CODEC_TOP];
    size_t k = 0, slots = codec_slots(m), block = at / CODEC_TOP_BLOCK;
    uint64_t bad = look(t, v, at, m, &largest);
    for (size_t i = 0; !bad && i < slots; i++) {
        size_t best = m;
        for (size_t j = 0; j < m; j++) {
            float size = fabsf(element(t, v, at + j));
            if (!taken[j] && size > (best < m ? fabsf(element(t, v, at + best)) : 0)) best = j;
        }
        if (best < m) taken[best] = 1;
    }
    for (size_t j = 0; j < m; j++)
        if (taken[j]) {
            index[k] = (uint16_t)j;
            kept[k++] = element(t, v, at + j);
        }
    codec_top_encode(code + block * (CODEC_TOP * CODEC_SLOT_BITS / 8), scales, block, slots, index, kept, k);
    if (bad) codec_put_scale(scales, block, CODEC_NAN_SCALE);
    return bad;
}

weft_status ref_quant(weft_exec *x, weft_codec c, const void *v, weft_dtype t, size_t n, void *dst,
                      uint64_t *nonfinite) {
    (void)x;
    WEFT_TRY(weft_check_codec("quant", c, n, v && dst));
    WEFT_TRY(weft_check_model_dtype("quant", t));
    WEFT_TRY(weft_check_given("quant", nonfinite != NULL));
    unsigned char *code = dst, *scales = code + codec_code_bytes(c, n);
    *nonfinite = 0;
    for (size_t at = 0; at < n; at += codec_block(c)) {
        size_t m = n - at < codec_block(c) ? n - at : codec_block(c);
        *nonfinite += c == WEFT_CODEC_TOPK2 ? quant_top(v, t, at, m, code, scales)
                                            : quant_linear(c, v, t, at, m, code, scales);
    }
    return WEFT_OK;
}

weft_status ref_dequant_axpy(weft_exec *x, weft_codec c, const void *src, size_t n, float a, float *acc) {
    (void)x;
    WEFT_TRY(weft_check_codec("dequant_axpy", c, n, src && acc));
    const unsigned char *code = src, *scales = code + codec_code_bytes(c, n);
    for (size_t at = 0; at < n; at += codec_block(c)) {
        size_t block = at / codec_block(c), m = n - at < codec_block(c) ? n - at : codec_block(c);
        weft_bf16 scale = codec_get_scale(scales, block);
        if (c == WEFT_CODEC_TOPK2)
            codec_top_add(code + block * (CODEC_TOP * CODEC_SLOT_BITS / 8), scale, m, a, acc + at);
        else
            for (size_t i = at; i < at + m; i++)
                acc[i] = fmaf(a, (float)get_code(c, code, i) * weft_bf16_to_f32(scale), acc[i]);
    }
    return WEFT_OK;
}

weft_status ref_outer_step(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                           float *theta) {
    (void)x;
    WEFT_TRY(weft_check_outer(d, delta, v, theta));
    for (size_t i = 0; i < d->n; i++) {
        v[i] = fmaf(d->mu, v[i], delta[i]);
        theta[i] = fmaf(-d->eta, fmaf(d->mu, v[i], delta[i]), theta[i]);
    }
    return WEFT_OK;
}
