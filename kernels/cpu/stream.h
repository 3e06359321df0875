/* Stores that go past the caches, for what is written once and too large to be found there later.
 *
 * An ordinary store to a line that is not cached reads the line first, and drives out another: half as much
 * traffic again as a copy needs. Whether it pays is a matter of size alone (ops_streams, ops.h); the bits are
 * the same. Such stores are weakly ordered: ops_for fences them before anybody is told that the data is there.
 * Levels without them store as usual. */
#ifndef WEFT_CPU_STREAM_H
#define WEFT_CPU_STREAM_H

#include "kernels/cpu/vec.h"

#if defined(__x86_64__) && CPU_LEVEL != CPU_PORTABLE

#if defined(__AVX512F__)
VEC_INLINE void stream_f32(float *p, vec a) {
    _mm512_stream_ps(p, a);
}
VEC_INLINE __m256i stream_low_halves_(veci a) {
    return _mm512_cvtepi32_epi16(a);
}
VEC_INLINE __m256i stream_halves_f16_(vec a) {
    return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
VEC_INLINE void stream_f32(float *p, vec a) {
    _mm256_stream_ps(p, a.lo);
    _mm256_stream_ps(p + 8, a.hi);
}
/* of values below 2^16 */
VEC_INLINE __m256i stream_low_halves_(veci a) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8);
}
VEC_INLINE __m256i stream_halves_f16_(vec a) {
    __m128i lo = _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i hi = _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
}
#endif

/* p: 32-byte aligned */
VEC_INLINE void stream_halves_(uint16_t *p, __m256i h) {
    _mm256_stream_si256((__m256i *)(void *)p, h);
}
/* 64 bytes; p is a line */
VEC_INLINE void stream_line(void *p, const void *v) {
    for (int i = 0; i < 2; i++)
        _mm256_stream_si256((__m256i *)p + i, _mm256_load_si256((const __m256i *)v + i));
}
VEC_INLINE void stream_bf16(uint16_t *p, vec a) {
    stream_halves_(p, stream_low_halves_(vec_round_bf16_(a)));
}
VEC_INLINE void stream_f16(uint16_t *p, vec a) {
    stream_halves_(p, stream_halves_f16_(a));
}

#else

VEC_INLINE void stream_f32(float *p, vec a) {
    vec_store_f32(p, VEC_LANES, a);
}
VEC_INLINE void stream_line(void *p, const void *v) {
    memcpy(p, v, 64);
}
VEC_INLINE void stream_bf16(uint16_t *p, vec a) {
    vec_store_bf16(p, VEC_LANES, a);
}
VEC_INLINE void stream_f16(uint16_t *p, vec a) {
    vec_store_f16(p, VEC_LANES, a);
}

#endif

/* vec_store, past the caches if `past`: then element i lies at a multiple of VEC_LANES elements from a line's
 * beginning. */
VEC_INLINE void vec_stream(int past, weft_dtype t, void *p, int64_t i, int m, vec a) {
    if (!past || m != VEC_LANES)
        vec_store(t, p, i, m, a);
    else if (t == WEFT_F32)
        stream_f32((float *)p + i, a);
    else if (t == WEFT_F16)
        stream_f16((uint16_t *)p + i, a);
    else
        stream_bf16((uint16_t *)p + i, a);
}

#endif
