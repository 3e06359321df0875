/* Chooses the level; see digest.h. */
#include "io/container/digest_level.h"

static const digest_level *level(void) {
#ifdef WEFT_DIGEST_X86
    if (__builtin_cpu_supports("avx512f")) return &digest_avx512;
    if (__builtin_cpu_supports("avx2")) return &digest_avx2;
#endif
    return &digest_base;
}

void weft_digest(const void *p, size_t n, uint8_t out[WEFT_DIGEST_BYTES]) {
    level()->all(p, n, out);
}

void weft_digest_begin(weft_digest_state *s) {
    level()->begin(s);
}

void weft_digest_add(weft_digest_state *s, const void *p, size_t n) {
    level()->add(s, p, n);
}

void weft_digest_end(const weft_digest_state *s, uint8_t out[WEFT_DIGEST_BYTES]) {
    level()->end(s, out);
}
