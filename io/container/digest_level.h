/* One level of digest.c, compiled once for each set of vectors: XXH_VECTOR and DIGEST_LEVEL are set by CMake. */
#ifndef WEFT_IO_CONTAINER_DIGEST_LEVEL_H
#define WEFT_IO_CONTAINER_DIGEST_LEVEL_H

#include "io/container/digest.h"

typedef struct digest_level {
    void (*all)(const void *p, size_t n, uint8_t out[WEFT_DIGEST_BYTES]);
    void (*begin)(weft_digest_state *s);
    void (*add)(weft_digest_state *s, const void *p, size_t n);
    void (*end)(const weft_digest_state *s, uint8_t out[WEFT_DIGEST_BYTES]);
} digest_level;

extern const digest_level digest_base, digest_avx2, digest_avx512;

#endif
