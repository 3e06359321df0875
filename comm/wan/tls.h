/* TLS 1.3 between members of a run: what a connection may be, and who is at the other end. Mutual certificates of the run's
 * authority, no tickets, no resumption, nothing older. ALPN tells control connections from data streams. One thread. */
#ifndef WEFT_COMM_WAN_TLS_H
#define WEFT_COMM_WAN_TLS_H

#include <openssl/ssl.h>

#include "comm/wan/identity.h"

typedef struct wan_tls {
    SSL_CTX *ctx;
    const weft_wan_identity *id; /* borrowed */
} wan_tls;

enum { WAN_KEY = 32 }; /* bytes of an exported key */

/* AUTH, NOMEM. */
weft_status wan_tls_open(const weft_wan_identity *id, wan_tls *t);
void wan_tls_close(wan_tls *t);

/* A session over `bio` (taken over). `data`: asks for weft-data/1 instead of weft-ctl/1; an acceptor takes either. NULL:
 * no memory. */
SSL *wan_tls_session(const wan_tls *t, BIO *bio, int accept, int data);

/* After the handshake: who is there (site/role), by which certificate, and is it a data stream? AUTH: not of this run. */
weft_status wan_tls_who(const wan_tls *t, SSL *ssl, char name[WEFT_WAN_PEER_MAX],
                        uint8_t fingerprint[WEFT_WAN_FINGERPRINT], int *data);
/* The key that only the two ends of this session can compute (RFC 8446, 7.5). */
weft_status wan_tls_export(SSL *ssl, uint8_t key[WAN_KEY]);
/* Proof that the holder of a control session (its key) opens this stream (its key): HMAC-SHA256 over both, the number of the
 * stream and of the session. */
weft_status wan_tls_proof(const uint8_t control[WAN_KEY], const uint8_t stream[WAN_KEY], uint16_t index,
                          uint64_t session, uint8_t out[WAN_KEY]);

#endif
