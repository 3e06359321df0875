/* The keyed permutation; see perm.h. Changing any line here changes every training run: the golden test holds
 * it. */
#include "io/dataset/perm.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t perm_key(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    const uint64_t v[4] = {a, b, c, d};
    return XXH3_64bits(v, sizeof v);
}

uint64_t perm_name(const char *name) {
    return XXH3_64bits(name, strlen(name));
}

static inline uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53u;
    x ^= x >> 33;
    return x;
}

static inline uint64_t feistel(uint64_t n, uint64_t key, uint64_t i, int rounds) {
    if (n == 1) return 0;
    int bits = 64 - __builtin_clzll(n - 1), h = (bits + 1) / 2; /* least h >= 1 with 4^h >= n */
    uint64_t mask = ((uint64_t)1 << h) - 1;
    do {
        uint64_t left = i >> h, right = i & mask;
        for (int k = 0; k < rounds; k++) {
            uint64_t t = left ^ (mix(right + key + (uint64_t)k * 0x9E3779B97F4A7C15u) & mask);
            left = right;
            right = t;
        }
        i = left << h | right;
    } while (i >= n);
    return i;
}

uint64_t perm_apply(uint64_t n, uint64_t key, uint64_t i) {
    return feistel(n, key, i, PERM_ROUNDS);
}

uint64_t perm_apply_rounds(uint64_t n, uint64_t key, uint64_t i, int rounds) {
    return feistel(n, key, i, rounds);
}
