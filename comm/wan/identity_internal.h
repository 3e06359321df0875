/* What comm/wan knows of certificates beyond identity.h: OpenSSL's objects. Not for others. */
#ifndef WEFT_COMM_WAN_IDENTITY_INTERNAL_H
#define WEFT_COMM_WAN_IDENTITY_INTERNAL_H

#include <openssl/x509.h>

#include "comm/wan/identity.h"

struct weft_wan_identity {
    X509 *ca, *cert;
    EVP_PKEY *key;
    char run[WEFT_WAN_NAME_MAX];
    char name[WEFT_WAN_PEER_MAX];
};

/* weft_fail with OpenSSL's reason behind the text; empties OpenSSL's queue of errors. */
weft_status wan_ssl_fail(weft_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The names in a certificate's subjectAltName, weft://RUN/SITE/ROLE; name may be NULL for an authority's weft://RUN.
 * FORMAT: there is not exactly one such name. */
weft_status wan_cert_names(X509 *cert, char run[WEFT_WAN_NAME_MAX], char name[WEFT_WAN_PEER_MAX]);

weft_status wan_cert_fingerprint(X509 *cert, uint8_t out[WEFT_WAN_FINGERPRINT]);

#endif
