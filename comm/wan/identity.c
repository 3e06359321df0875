/* Authorities and certificates; see identity.h. X.509 v3 by libcrypto: P-256 and SHA-256, serial numbers of 64 random bits.
 *
 * A member's certificate says CA:FALSE and may sign only; the authority's has no room for another authority below it
 * (pathlen 0), so that a member cannot make members. */
#include "comm/wan/identity.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "comm/wan/identity_internal.h"

enum { PEM_MAX = 64 << 10, URI_MAX = 256 };

weft_status wan_ssl_fail(weft_status s, const char *fmt, ...) {
    char text[512], why[160] = "";
    unsigned long e = ERR_peek_last_error();
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (e) ERR_error_string_n(e, why, sizeof why);
    ERR_clear_error();
    return weft_fail(s, "%s%s%s%s", text, e ? " (" : "", why, e ? ")" : "");
}

int weft_wan_name_ok(const char *s) {
    size_t n = s ? strlen(s) : 0;
    if (!n || n >= WEFT_WAN_NAME_MAX || s[0] == '.') return 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)s[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '.' &&
            c != '_' && c != '-')
            return 0;
    }
    return 1;
}

static weft_status name_check(const char *what, const char *s) {
    if (weft_wan_name_ok(s)) return WEFT_OK;
    return weft_fail(WEFT_ERR_ARG,
                     "%s \"%s\": a name has 1 to %d letters, digits, '.', '_' or '-', and no '.' in front",
                     what, s ? s : "", WEFT_WAN_NAME_MAX - 1);
}

/* ---- PEM ---- */

static BIO *text_bio(const char *pem) {
    size_t n = pem ? strlen(pem) : 0;
    return n && n < PEM_MAX ? BIO_new_mem_buf(pem, (int)n) : NULL;
}

static weft_status read_cert(const char *what, const char *pem, X509 **cert) {
    BIO *b = text_bio(pem);
    *cert = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;
    BIO_free(b);
    return *cert ? WEFT_OK : wan_ssl_fail(WEFT_ERR_FORMAT, "%s: not a certificate in PEM", what);
}

/* An encrypted key must not ask the terminal for its password. */
static int no_password(char *buf, int size, int rw, void *arg) {
    (void)buf, (void)size, (void)rw, (void)arg;
    return -1;
}

static weft_status read_key(const char *what, const char *pem, EVP_PKEY **key) {
    BIO *b = text_bio(pem);
    *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;
    BIO_free(b);
    return *key ? WEFT_OK : wan_ssl_fail(WEFT_ERR_FORMAT, "%s: not a private key in PEM", what);
}

/* What b holds as a fresh string; frees b. */
static weft_status take_text(BIO *b, int written, char **out) {
    char *data = NULL;
    long n = b && written ? BIO_get_mem_data(b, &data) : 0;
    *out = n > 0 ? weft_calloc((size_t)n + 1, 1) : NULL;
    if (*out) memcpy(*out, data, (size_t)n);
    BIO_free(b);
    return *out ? WEFT_OK : wan_ssl_fail(WEFT_ERR_NOMEM, "no memory for a PEM text");
}

static weft_status write_pems(X509 *cert, EVP_PKEY *key, char **cert_pem, char **key_pem) {
    BIO *b = BIO_new(BIO_s_mem());
    WEFT_TRY(take_text(b, b && PEM_write_bio_X509(b, cert), cert_pem));
    b = BIO_new(BIO_s_secmem());
    weft_status s = take_text(b, b && PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL), key_pem);
    if (s < 0) {
        free(*cert_pem);
        *cert_pem = NULL;
    }
    return s;
}

/* ---- making ---- */

static int add_ext(X509 *cert, int nid, const char *value) {
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    int ok = e && X509_add_ext(cert, e, -1);
    X509_EXTENSION_free(e);
    return ok;
}

typedef struct cert_plan {
    const char *common_name, *uri, *constraints, *usage, *extended; /* extended: NULL: none */
    int64_t from, until;
} cert_plan;

/* A certificate for key as planned, signed with ca_key in the name of issuer (NULL: its own). */
static X509 *make_cert(const cert_plan *p, EVP_PKEY *key, const X509_NAME *issuer, EVP_PKEY *ca_key) {
    uint64_t serial = 0;
    X509 *c = X509_new();
    X509_NAME *subject = X509_NAME_new();
    int ok = c && subject && RAND_bytes((unsigned char *)&serial, sizeof serial) == 1;
    serial = serial >> 1 | 1; /* positive, not zero */
    ok = ok && X509_set_version(c, X509_VERSION_3) &&
         ASN1_INTEGER_set_uint64(X509_get_serialNumber(c), serial);
    ok = ok && ASN1_TIME_set(X509_getm_notBefore(c), (time_t)p->from) &&
         ASN1_TIME_set(X509_getm_notAfter(c), (time_t)p->until);
    ok = ok && X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)p->common_name,
                                          -1, -1, 0);
    ok = ok && X509_set_subject_name(c, subject) && X509_set_issuer_name(c, issuer ? issuer : subject);
    ok = ok && X509_set_pubkey(c, key) && add_ext(c, NID_basic_constraints, p->constraints) &&
         add_ext(c, NID_key_usage, p->usage) && add_ext(c, NID_subject_alt_name, p->uri);
    ok = ok && (!p->extended || add_ext(c, NID_ext_key_usage, p->extended));
    ok = ok && X509_sign(c, ca_key, EVP_sha256());
    X509_NAME_free(subject);
    if (ok) return c;
    X509_free(c);
    return NULL;
}

weft_status weft_wan_authority_create(const char *run, int64_t seconds, char **cert_pem, char **key_pem) {
    char uri[URI_MAX], cn[WEFT_WAN_NAME_MAX];
    int64_t now = (int64_t)time(NULL);
    *cert_pem = *key_pem = NULL;
    WEFT_TRY(name_check("run", run));
    if (seconds <= 0) return weft_fail(WEFT_ERR_ARG, "an authority must be valid for more than 0 s");
    snprintf(uri, sizeof uri, "URI:weft://%s", run);
    snprintf(cn, sizeof cn, "weft authority");
    /* An hour back: clocks of sites differ. */
    cert_plan plan = {
        cn,         uri,          "critical,CA:TRUE,pathlen:0", "critical,keyCertSign,cRLSign", NULL,
        now - 3600, now + seconds};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = key ? make_cert(&plan, key, NULL, key) : NULL;
    weft_status s = cert ? write_pems(cert, key, cert_pem, key_pem)
                         : wan_ssl_fail(WEFT_ERR_INTERNAL, "cannot make an authority for run %s", run);
    X509_free(cert);
    EVP_PKEY_free(key);
    return s;
}

weft_status weft_wan_issue(const char *ca_cert_pem, const char *ca_key_pem, const char *site,
                           const char *role, int64_t from, int64_t until, char **cert_pem, char **key_pem) {
    X509 *ca = NULL, *cert = NULL;
    EVP_PKEY *ca_key = NULL, *key = NULL;
    char run[WEFT_WAN_NAME_MAX], uri[URI_MAX], cn[WEFT_WAN_NAME_MAX];
    weft_status s = WEFT_OK;
    *cert_pem = *key_pem = NULL;
    WEFT_TRY(name_check("site", site));
    WEFT_TRY(name_check("role", role));
    if (from >= until) return weft_fail(WEFT_ERR_ARG, "a certificate must begin before it ends");
    WEFT_GOTO(read_cert("authority", ca_cert_pem, &ca), done);
    WEFT_GOTO(read_key("authority", ca_key_pem, &ca_key), done);
    WEFT_GOTO(wan_cert_names(ca, run, NULL), done);
    if (X509_check_private_key(ca, ca_key) != 1) {
        s = wan_ssl_fail(WEFT_ERR_AUTH, "the authority's key does not belong to its certificate");
        goto done;
    }
    snprintf(uri, sizeof uri, "URI:weft://%s/%s/%s", run, site, role);
    snprintf(cn, sizeof cn, "weft member");
    cert_plan plan = {cn,   uri,  "critical,CA:FALSE", "critical,digitalSignature", "clientAuth,serverAuth",
                      from, until};
    key = EVP_EC_gen("P-256");
    cert = key ? make_cert(&plan, key, X509_get_subject_name(ca), ca_key) : NULL;
    s = cert ? write_pems(cert, key, cert_pem, key_pem)
             : wan_ssl_fail(WEFT_ERR_INTERNAL, "cannot make a certificate for %s/%s", site, role);
done:
    X509_free(ca);
    X509_free(cert);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(key);
    return s;
}

/* ---- reading ---- */

/* Cuts the next part of a URI (up to '/' or the end) into out. */
static int next_part(const char **at, char out[WEFT_WAN_NAME_MAX]) {
    size_t n = strcspn(*at, "/");
    if (n >= WEFT_WAN_NAME_MAX) return 0;
    memcpy(out, *at, n);
    out[n] = 0;
    *at += n;
    return weft_wan_name_ok(out);
}

static int parse_uri(const char *uri, char run[WEFT_WAN_NAME_MAX], char *name) {
    static const char scheme[] = "weft://";
    char site[WEFT_WAN_NAME_MAX] = "", role[WEFT_WAN_NAME_MAX] = "";
    const char *at = uri + sizeof scheme - 1;
    if (strncmp(uri, scheme, sizeof scheme - 1) != 0 || !next_part(&at, run)) return 0;
    if (!name) return !*at;
    if (*at++ != '/' || !next_part(&at, site) || *at++ != '/' || !next_part(&at, role) || *at) return 0;
    snprintf(name, WEFT_WAN_PEER_MAX, "%s/%s", site, role);
    return 1;
}

weft_status wan_cert_names(X509 *cert, char run[WEFT_WAN_NAME_MAX], char name[WEFT_WAN_PEER_MAX]) {
    GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int ok = 0;
    run[0] = 0;
    if (name) name[0] = 0;
    if (all && sk_GENERAL_NAME_num(all) == 1) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, 0);
        if (g->type == GEN_URI) {
            const char *text = (const char *)ASN1_STRING_get0_data(g->d.uniformResourceIdentifier);
            size_t n = (size_t)ASN1_STRING_length(g->d.uniformResourceIdentifier);
            char uri[URI_MAX] = "";
            if (n < sizeof uri && !memchr(text, 0, n)) { /* a zero inside would end the name early */
                memcpy(uri, text, n);
                ok = parse_uri(uri, run, name);
            }
        }
    }
    GENERAL_NAMES_free(all);
    if (ok) return WEFT_OK;
    return wan_ssl_fail(WEFT_ERR_FORMAT, "the certificate has no name of the form weft://RUN%s",
                        name ? "/SITE/ROLE" : "");
}

weft_status wan_cert_fingerprint(X509 *cert, uint8_t out[WEFT_WAN_FINGERPRINT]) {
    unsigned int n = 0;
    memset(out, 0, WEFT_WAN_FINGERPRINT);
    if (X509_digest(cert, EVP_sha256(), out, &n) && n == WEFT_WAN_FINGERPRINT) return WEFT_OK;
    return wan_ssl_fail(WEFT_ERR_INTERNAL, "cannot hash a certificate");
}

weft_status weft_wan_fingerprint(const char *cert_pem, uint8_t out[WEFT_WAN_FINGERPRINT]) {
    X509 *cert = NULL;
    memset(out, 0, WEFT_WAN_FINGERPRINT);
    WEFT_TRY(read_cert("certificate", cert_pem, &cert));
    weft_status s = wan_cert_fingerprint(cert, out);
    X509_free(cert);
    return s;
}

/* Is cert of this authority, and valid now? */
static weft_status verify(X509 *ca, X509 *cert) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *c = X509_STORE_CTX_new();
    int ok = store && c && X509_STORE_add_cert(store, ca) && X509_STORE_CTX_init(c, store, cert, NULL);
    int verified = ok && X509_verify_cert(c) == 1;
    weft_status s = WEFT_OK;
    if (!ok)
        s = wan_ssl_fail(WEFT_ERR_NOMEM, "no memory to verify a certificate");
    else if (!verified)
        s = weft_fail(WEFT_ERR_AUTH, "the certificate does not hold: %s",
                      X509_verify_cert_error_string(X509_STORE_CTX_get_error(c)));
    X509_STORE_CTX_free(c);
    X509_STORE_free(store);
    ERR_clear_error();
    return s;
}

weft_status weft_wan_identity_load(const char *ca_cert_pem, const char *cert_pem, const char *key_pem,
                                   weft_wan_identity **out) {
    char ca_run[WEFT_WAN_NAME_MAX];
    weft_status s = WEFT_OK;
    *out = NULL;
    weft_wan_identity *id = weft_calloc(1, sizeof *id);
    if (!id) return WEFT_ERR_NOMEM;
    WEFT_GOTO(read_cert("authority", ca_cert_pem, &id->ca), failed);
    WEFT_GOTO(read_cert("certificate", cert_pem, &id->cert), failed);
    WEFT_GOTO(read_key("key", key_pem, &id->key), failed);
    WEFT_GOTO(wan_cert_names(id->ca, ca_run, NULL), failed);
    WEFT_GOTO(wan_cert_names(id->cert, id->run, id->name), failed);
    WEFT_GOTO(verify(id->ca, id->cert), failed);
    if (X509_check_private_key(id->cert, id->key) != 1)
        s = wan_ssl_fail(WEFT_ERR_AUTH, "the key does not belong to the certificate of %s", id->name);
    else if (strcmp(ca_run, id->run) != 0)
        s = weft_fail(WEFT_ERR_AUTH, "a certificate for run %s, signed by the authority of run %s", id->run,
                      ca_run);
    if (s < 0) goto failed;
    *out = id;
    return WEFT_OK;
failed:
    weft_wan_identity_free(id);
    return s;
}

void weft_wan_identity_free(weft_wan_identity *id) {
    if (!id) return;
    X509_free(id->ca);
    X509_free(id->cert);
    EVP_PKEY_free(id->key);
    free(id);
}

const char *weft_wan_identity_run(const weft_wan_identity *id) {
    return id->run;
}

const char *weft_wan_identity_name(const weft_wan_identity *id) {
    return id->name;
}

int64_t weft_wan_identity_until(const weft_wan_identity *id) {
    struct tm t;
    memset(&t, 0, sizeof t);
    if (!ASN1_TIME_to_tm(X509_get0_notAfter(id->cert), &t)) return 0;
    return (int64_t)timegm(&t);
}

void weft_wan_identity_fingerprint(const weft_wan_identity *id, uint8_t out[WEFT_WAN_FINGERPRINT]) {
    if (wan_cert_fingerprint(id->cert, out) < 0) weft_clear_error();
}
