/* SHA-256 of chunks and of rows of them; libcrypto's. */
#include "runtime/sites/sha.h"

#include <openssl/evp.h>
#include <string.h>

weft_status weft_sha_pair(const void *a, size_t na, const void *b, size_t nb, weft_site_hash *d) {
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    unsigned n = 0;
    int done = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) && EVP_DigestUpdate(c, a, na) &&
               EVP_DigestUpdate(c, b, nb) && EVP_DigestFinal_ex(c, d->b, &n) && n == sizeof d->b;
    EVP_MD_CTX_free(c);
    return done ? WEFT_OK : weft_fail(WEFT_ERR_INTERNAL, "libcrypto made no SHA-256");
}

weft_status weft_sha_of(const void *data, size_t n, weft_site_hash *d) {
    return weft_sha_pair(data, n, NULL, 0, d);
}

weft_status weft_sha_list(const weft_site_hash *leaves, size_t n, weft_site_hash *d) {
    return weft_sha_pair(leaves, n * sizeof *leaves, NULL, 0, d);
}

int weft_sha_equal(const weft_site_hash *a, const weft_site_hash *b) {
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}
