/* TLS sessions; see tls.h. */
#include "comm/wan/tls.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/bytes.h"
#include "comm/wan/identity_internal.h"

/* As ALPN wants them: a length, then the name. */
static const unsigned char control_alpn[] = "\x0aweft-ctl/1", data_alpn[] = "\x0bweft-data/1";
static const char label[] = "EXPORTER-weft-wan-bind-1";

/* Takes what a client offers if it is exactly one of the two. */
static int choose(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
                  unsigned int n, void *arg) {
    (void)ssl, (void)arg;
    const unsigned char *const known[] = {control_alpn, data_alpn};
    for (int i = 0; i < 2; i++)
        if (n == (unsigned)known[i][0] + 1 && !memcmp(in, known[i], n)) {
            *out = in + 1;
            *outlen = in[0];
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

weft_status wan_tls_open(const weft_wan_identity *id, wan_tls *t) {
    SSL_CTX *c = SSL_CTX_new(TLS_method());
    t->id = id;
    t->ctx = c;
    int ok = c && SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) &&
             SSL_CTX_use_certificate(c, id->cert) == 1 && SSL_CTX_use_PrivateKey(c, id->key) == 1 &&
             X509_STORE_add_cert(SSL_CTX_get_cert_store(c), id->ca) && SSL_CTX_set_num_tickets(c, 0);
    if (!ok) {
        wan_tls_close(t);
        return wan_ssl_fail(WEFT_ERR_AUTH, "cannot prepare TLS for %s", id->name);
    }
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(c, 1);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_IGNORE_UNEXPECTED_EOF); /* frames tell where they end */
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_select_cb(c, choose, NULL);
    SSL_CTX_set_read_ahead(c, 1);
    return WEFT_OK;
}

void wan_tls_close(wan_tls *t) {
    SSL_CTX_free(t->ctx);
    t->ctx = NULL;
}

SSL *wan_tls_session(const wan_tls *t, BIO *bio, int accept, int data) {
    SSL *ssl = bio ? SSL_new(t->ctx) : NULL;
    if (!ssl) {
        BIO_free(bio);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_bio(ssl, bio, bio);
    SSL_set_default_read_buffer_len(ssl, 64 << 10);
    if (accept) {
        SSL_set_accept_state(ssl);
        return ssl;
    }
    SSL_set_connect_state(ssl);
    const unsigned char *alpn = data ? data_alpn : control_alpn;
    if (SSL_set_alpn_protos(ssl, alpn, alpn[0] + 1u)) { /* 0 is success here */
        SSL_free(ssl);
        ERR_clear_error();
        return NULL;
    }
    return ssl;
}

weft_status wan_tls_who(const wan_tls *t, SSL *ssl, char name[WEFT_WAN_PEER_MAX],
                        uint8_t fingerprint[WEFT_WAN_FINGERPRINT], int *data) {
    char run[WEFT_WAN_NAME_MAX];
    const unsigned char *alpn = NULL;
    unsigned int n = 0;
    weft_status s = WEFT_OK;
    name[0] = 0;
    X509 *cert = SSL_get1_peer_certificate(ssl);
    if (!cert || SSL_get_verify_result(ssl) != X509_V_OK) {
        X509_free(cert);
        return weft_fail(WEFT_ERR_AUTH, "no certificate that holds");
    }
    s = wan_cert_names(cert, run, name);
    if (s >= 0) s = wan_cert_fingerprint(cert, fingerprint);
    X509_free(cert);
    WEFT_TRY(s);
    if (strcmp(run, t->id->run) != 0)
        return weft_fail(WEFT_ERR_AUTH, "a member of run %s, this is run %s", run, t->id->run);
    SSL_get0_alpn_selected(ssl, &alpn, &n);
    if (n == control_alpn[0] && !memcmp(alpn, control_alpn + 1, n))
        *data = 0;
    else if (n == data_alpn[0] && !memcmp(alpn, data_alpn + 1, n))
        *data = 1;
    else
        return weft_fail(WEFT_ERR_AUTH, "neither a control connection nor a data stream of weft");
    return WEFT_OK;
}

weft_status wan_tls_export(SSL *ssl, uint8_t key[WAN_KEY]) {
    if (SSL_export_keying_material(ssl, key, WAN_KEY, label, sizeof label - 1, NULL, 0, 0) == 1)
        return WEFT_OK;
    return wan_ssl_fail(WEFT_ERR_AUTH, "TLS gives no key for streams");
}

weft_status wan_tls_proof(const uint8_t control[WAN_KEY], const uint8_t stream[WAN_KEY], uint16_t index,
                          uint64_t session, uint8_t out[WAN_KEY]) {
    uint8_t text[WAN_KEY + 10];
    unsigned int n = 0;
    memcpy(text, stream, WAN_KEY);
    weft_put_u16(text + WAN_KEY, index);
    weft_put_u64(text + WAN_KEY + 2, session);
    if (HMAC(EVP_sha256(), control, WAN_KEY, text, sizeof text, out, &n) && n == WAN_KEY) return WEFT_OK;
    return wan_ssl_fail(WEFT_ERR_INTERNAL, "HMAC-SHA256 failed");
}
