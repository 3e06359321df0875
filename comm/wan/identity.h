/* Who a process is to the others of its run: a certificate of the run's own authority, for the name
 * weft://RUN/SITE/ROLE (its only subjectAltName). Keys are P-256; texts are PEM. An authority is made once a run, where the
 * hub lives, and signs one certificate a member; nobody else's certificates count.
 *
 * Any thread; an identity is immutable once loaded. */
#ifndef WEFT_COMM_WAN_IDENTITY_H
#define WEFT_COMM_WAN_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    WEFT_WAN_NAME_MAX = 64,   /* bytes of a run's, a site's or a role's name with the zero: [A-Za-z0-9._-] */
    WEFT_WAN_PEER_MAX = 128,  /* of "site/role" */
    WEFT_WAN_FINGERPRINT = 32 /* SHA-256 of a certificate (DER) */
};

typedef struct weft_wan_identity weft_wan_identity;

/* A new authority for `run`, valid from now for `seconds`. The texts are fresh strings, free with free(); the key is a
 * secret: write it with mode 0600. ARG: a name that is none. */
weft_status weft_wan_authority_create(const char *run, int64_t seconds, char **cert_pem, char **key_pem);

/* A key and a certificate for site/role signed by the authority, valid from `from` until `until` (seconds since 1970).
 * ARG, FORMAT (not PEM), AUTH (key and certificate do not belong together). */
weft_status weft_wan_issue(const char *ca_cert_pem, const char *ca_key_pem, const char *site,
                           const char *role, int64_t from, int64_t until, char **cert_pem, char **key_pem);

/* Reads what weft_wan_issue made. AUTH: the certificate is not of this authority, expired, or has another key. */
weft_status weft_wan_identity_load(const char *ca_cert_pem, const char *cert_pem, const char *key_pem,
                                   weft_wan_identity **id);
void weft_wan_identity_free(weft_wan_identity *id);

const char *weft_wan_identity_run(const weft_wan_identity *id);
const char *weft_wan_identity_name(const weft_wan_identity *id); /* "site/role" */
int64_t weft_wan_identity_until(const weft_wan_identity *id);    /* end of validity, seconds since 1970 */
void weft_wan_identity_fingerprint(const weft_wan_identity *id, uint8_t out[WEFT_WAN_FINGERPRINT]);

/* The fingerprint of the first certificate of a PEM text, e.g. to revoke it. FORMAT. */
weft_status weft_wan_fingerprint(const char *cert_pem, uint8_t out[WEFT_WAN_FINGERPRINT]);

/* 1 if s is a name as above. */
int weft_wan_name_ok(const char *s);

#endif
