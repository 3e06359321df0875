/* AMX tiles (Sapphire Rapids and later) for bf16 products: of gemm_amx.c and of the attention on tiles.
 *
 * A tile register holds 16 rows of 64 bytes. tdpbf16ps multiplies 16 rows of A, 16 pairs of k each, by 16 pairs
 * of k of 16 columns of B: 16 x 16 x 32 fma in 16 cycles. A tile of C is 2 x 2 registers, 32 x 32; a step of 16
 * units loads two registers of A and two of B for four products.
 *
 * Panels, as the registers want them: B is two of 16 columns, [unit][column]; A is [16 units][row][unit], the rows
 * of a K-contiguous operand as they stand. Both are filled with zero to whole steps of 16 units.
 *
 * Bits: within a step the even k of a row form one fma chain from +0 and the odd k another, then C += even + odd,
 * all with denormals as zero. That is not the order of the other levels, and they could not follow it at their
 * speed: bf16 products of this level are a class of their own (kernels.h). C is continued in the register from
 * call to call, so where K is cut (at a whole step) does not show. Source: Intel, Architecture Instruction Set
 * Extensions Programming Reference, chapter on AMX. */
#ifndef WEFT_CPU_AMX_H
#define WEFT_CPU_AMX_H

#include <immintrin.h>
#include <stdint.h>

#define AMX_STEP  16 /* units */
#define AMX_ROWS  16 /* and columns of C */
#define AMX_BYTES 64 /* of a row of a register */
#define AMX_WORDS (AMX_ROWS * AMX_STEP)
#define AMX_BLOCK (2 * AMX_ROWS) /* rows and columns of a product */

/* The operand of ldtilecfg: all eight registers whole. */
struct amx_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_config) == 64, "as the instruction reads it");

static inline void amx_begin(void) {
    static const struct amx_config whole = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&whole);
}

static inline void amx_end(void) {
    _tile_release();
}

/* C[32, 32] (+)= A B over `units` (whole steps). B's panels and C's halves may lie anywhere; a row of C's halves is
 * ldc after the one above. stream: B comes from L2 and shall not displace A in L1. */
static inline __attribute__((always_inline)) void amx_multiply(int64_t units, const uint32_t *a,
                                                               const uint32_t *b, const uint32_t *b_right,
                                                               float *c, float *c_right, int64_t ldc,
                                                               int accumulate, const int stream) {
    const size_t c_bytes = (size_t)ldc * 4;
    const int64_t low = AMX_ROWS * ldc;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c_right, c_bytes);
        _tile_loadd(2, c + low, c_bytes);
        _tile_loadd(3, c_right + low, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; units > 0; units -= AMX_STEP, a += 2 * AMX_WORDS, b += AMX_WORDS, b_right += AMX_WORDS) {
        if (stream)
            _tile_stream_loadd(6, b, AMX_BYTES);
        else
            _tile_loadd(6, b, AMX_BYTES);
        _tile_loadd(4, a, AMX_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        if (stream)
            _tile_stream_loadd(7, b_right, AMX_BYTES);
        else
            _tile_loadd(7, b_right, AMX_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + AMX_WORDS, AMX_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c_right, c_bytes);
    _tile_stored(2, c + low, c_bytes);
    _tile_stored(3, c_right + low, c_bytes);
}

/* r[i] word j becomes r[j] word i. */
static inline void amx_flip(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

#endif
