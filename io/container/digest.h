/* XXH3-128 in the widest vectors that this processor has: the same digests everywhere, at the speed of the memory. Of
 * io/, any thread. */
#ifndef WEFT_IO_CONTAINER_DIGEST_H
#define WEFT_IO_CONTAINER_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define WEFT_DIGEST_BYTES 16

typedef struct weft_digest_state { /* of a digest that is made in pieces */
    _Alignas(64) unsigned char room[640];
} weft_digest_state;

/* Canonical bytes of the digest of n bytes. */
void weft_digest(const void *p, size_t n, uint8_t out[WEFT_DIGEST_BYTES]);
void weft_digest_begin(weft_digest_state *s);
void weft_digest_add(weft_digest_state *s, const void *p, size_t n);
void weft_digest_end(const weft_digest_state *s, uint8_t out[WEFT_DIGEST_BYTES]);

#endif
