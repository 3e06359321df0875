/* A fragment as chunks: the one unit of striping, parts, hashing and catch-up. A fragment of n elements is padded with
 * zeros to a multiple of 128 and cut every `chunk` elements (a multiple of 128); the last chunk may be shorter. */
#ifndef WEFT_RUNTIME_SITES_CHUNKS_H
#define WEFT_RUNTIME_SITES_CHUNKS_H

#include <stddef.h>
#include <stdint.h>

#include "base/checked.h"

#define WEFT_CHUNK_PAD      128
#define WEFT_CHUNK_ELEMENTS (1u << 20)

typedef struct weft_chunks {
    size_t elements; /* of the fragment, not padded; at least 1, at most 2^40 */
    uint32_t chunk;  /* elements of a chunk: a multiple of 128, at most 2^22 */
} weft_chunks;

static inline size_t weft_chunks_padded(weft_chunks c) {
    return weft_align_up(c.elements, WEFT_CHUNK_PAD);
}
static inline uint32_t weft_chunks_count(weft_chunks c) {
    return (uint32_t)((weft_chunks_padded(c) + c.chunk - 1) / c.chunk);
}
static inline size_t weft_chunks_at(weft_chunks c, uint32_t i) {
    return (size_t)i * c.chunk;
}
/* Elements of chunk i < count, a multiple of 128. */
static inline size_t weft_chunks_elements(weft_chunks c, uint32_t i) {
    size_t left = weft_chunks_padded(c) - weft_chunks_at(c, i);
    return left < c.chunk ? left : c.chunk;
}
static inline int weft_chunks_valid(weft_chunks c) {
    return c.elements >= 1 && c.elements <= (size_t)1 << 40 && c.chunk >= WEFT_CHUNK_PAD &&
           c.chunk % WEFT_CHUNK_PAD == 0 && c.chunk <= 1u << 22 &&
           weft_chunks_padded(c) / c.chunk < UINT32_MAX / 2;
}

#endif
