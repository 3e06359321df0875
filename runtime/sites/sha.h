/* SHA-256 over chunks: a leaf is the hash of a chunk's bytes, a root the hash of the leaves in a row. Who has the leaves of
 * a root can tell which chunk is wrong. Any thread. */
#ifndef WEFT_RUNTIME_SITES_SHA_H
#define WEFT_RUNTIME_SITES_SHA_H

#include <stddef.h>

#include "runtime/sites/message.h"

/* *d = SHA-256 of n bytes. INTERNAL if libcrypto fails. */
weft_status weft_sha_of(const void *data, size_t n, weft_site_hash *d);
/* *d = SHA-256 of a, then b. */
weft_status weft_sha_pair(const void *a, size_t na, const void *b, size_t nb, weft_site_hash *d);
/* *d = SHA-256 over n digests one after the other. */
weft_status weft_sha_list(const weft_site_hash *leaves, size_t n, weft_site_hash *d);
int weft_sha_equal(const weft_site_hash *a, const weft_site_hash *b);

#endif
