/* XXH3 for one set of vectors; see digest_level.h. */
#include "io/container/digest_level.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(XXH3_state_t) <= sizeof(weft_digest_state), "the state has room");
_Static_assert(_Alignof(XXH3_state_t) <= _Alignof(weft_digest_state), "the state is aligned");

static void all(const void *p, size_t n, uint8_t out[WEFT_DIGEST_BYTES]) {
    XXH128_canonicalFromHash((XXH128_canonical_t *)out, XXH3_128bits(p, n));
}

static void begin(weft_digest_state *s) {
    XXH3_128bits_reset((XXH3_state_t *)s);
}

static void add(weft_digest_state *s, const void *p, size_t n) {
    XXH3_128bits_update((XXH3_state_t *)s, p, n);
}

static void end(const weft_digest_state *s, uint8_t out[WEFT_DIGEST_BYTES]) {
    XXH128_canonicalFromHash((XXH128_canonical_t *)out, XXH3_128bits_digest((const XXH3_state_t *)s));
}

const digest_level DIGEST_LEVEL = {all, begin, add, end};
