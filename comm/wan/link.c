/* Bytes over one connection; see link.h. TLS sits between a caller and a BIO of ours whose writes go to the ring and whose
 * reads come from the socket, so that records leave in large sends, and rate, delay, faults and counts are in one place. */
#include "comm/wan/link.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "comm/wan/identity_internal.h"

enum {
    RING = 256 << 10, /* bytes; with a delay DELAY_RING: what is on its way */
    DELAY_RING = 8 << 20,
    RING_SEND = 128 << 10, /* more waits in the ring: it is full for its user */
};
#define KEY_BYTES                                                                                            \
    ((uint64_t)64 << 30) /* AES-GCM may encrypt 2^24.5 records, 380 GB, with one key (RFC 8446, 5.5) */

static _Thread_local uint64_t bio_now; /* the time of the call that is inside OpenSSL */

/* ---- the socket ---- */

/* Receives; > 0, 0: nothing for now, -1: ended, errno says why (0: the other end closed). */
static ssize_t pull(wan_link *l, void *to, size_t n) {
    ssize_t k = -1;
    errno = ECONNRESET;
    if (!weft_fault_hit(WEFT_FAULT_READ)) k = recv(l->fd, to, n, 0);
    if (k > 0) {
        l->wire_in += (uint64_t)k;
        l->heard = bio_now;
        return k;
    }
    if (k == 0) errno = 0;
    return k < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static size_t allowed(wan_link *l, size_t n, uint64_t now) {
    if (l->pays_later) return n;
    n = wan_bucket_may(&l->own, n, now);
    return l->shared ? wan_bucket_may(l->shared, n, now) : n;
}

weft_status wan_link_flush(wan_link *l, uint64_t now) {
    l->starved = 0;
    while (!l->full) {
        size_t n = 0;
        const void *p = wan_ring_due(&l->out, now, &n);
        if (!p) break;
        size_t may = allowed(l, n, now);
        if (!may) {
            l->starved = 1;
            l->sent = now; /* it stands still because it must */
            break;
        }
        errno = ECONNRESET;
        ssize_t k = weft_fault_hit(WEFT_FAULT_SEND) ? -1 : send(l->fd, p, may, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && errno == EAGAIN) {
            l->full = 1;
            break;
        }
        if (k < 0) return weft_fail(WEFT_ERR_LINK, "cannot send: %s", strerror(errno));
        wan_ring_drop(&l->out, (size_t)k);
        wan_bucket_take(&l->own, (size_t)k);
        if (l->shared) wan_bucket_take(l->shared, (size_t)k);
        l->wire_out += (uint64_t)k;
        l->sent = now;
    }
    return WEFT_OK;
}

uint64_t wan_link_next(const wan_link *l, uint64_t now) {
    uint64_t at = wan_ring_next(&l->out), own, shared;
    if (at == UINT64_MAX || l->full) return UINT64_MAX;
    if (!l->starved) return at;
    own = wan_bucket_next(&l->own, now);
    shared = l->shared ? wan_bucket_next(l->shared, now) : 0;
    if (own > at) at = own;
    return shared > at ? shared : at;
}

/* How many more bytes the ring takes from its user. */
static size_t room(const wan_link *l) {
    size_t used = wan_ring_used(&l->out), most = l->out.delay ? l->out.size / 2 : RING_SEND;
    return used < most ? l->out.size - used : 0;
}

/* ---- OpenSSL's view ---- */

static int bio_write(BIO *b, const char *from, int n) {
    wan_link *l = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    size_t space = room(l);
    if (n <= 0) return 0;
    size_t k = space ? wan_ring_put(&l->out, from, (size_t)n < space ? (size_t)n : space, bio_now) : 0;
    if (k) return (int)k;
    BIO_set_retry_write(b);
    return -1;
}

static int bio_read(BIO *b, char *to, int n) {
    wan_link *l = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (n <= 0) return 0;
    ssize_t k = pull(l, to, (size_t)n);
    if (k > 0) return (int)k;
    if (k == 0) BIO_set_retry_read(b);
    return k == 0 ? -1 : 0;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr) {
    (void)b, (void)num, (void)ptr;
    return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *method; /* one a process, never freed */
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static void make_method(void) {
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weft link");
    if (!method) return;
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_ctrl(method, bio_ctrl);
}

weft_status wan_link_open(wan_link *l, int fd, const wan_tls *tls, int accept, int data, uint64_t delay_ns) {
    memset(l, 0, sizeof *l);
    l->fd = fd;
    l->pays_later = !data;
    weft_status s = wan_ring_open(&l->out, delay_ns ? DELAY_RING : RING, delay_ns);
    if (s >= 0 && tls) {
        pthread_once(&method_once, make_method);
        BIO *b = method ? BIO_new(method) : NULL;
        if (b) {
            BIO_set_data(b, l);
            BIO_set_init(b, 1);
        }
        l->ssl = wan_tls_session(tls, b, accept, data);
        if (!l->ssl) s = weft_fail(WEFT_ERR_NOMEM, "no memory for a TLS session");
    }
    if (s < 0) wan_link_close(l);
    return s;
}

void wan_link_close(wan_link *l) {
    if (l->ssl && l->fd >= 0 &&
        SSL_is_init_finished(l->ssl)) { /* a word of farewell, if there is room for it */
        SSL_shutdown(l->ssl);
        if (wan_link_flush(l, bio_now) < 0) weft_clear_error();
    }
    SSL_free(l->ssl);
    ERR_clear_error();
    if (l->fd >= 0) close(l->fd);
    wan_ring_close(&l->out);
    l->ssl = NULL;
    l->fd = -1;
}

/* What OpenSSL's refusal means: WEFT_IN_PROGRESS: later. */
static weft_status judge(wan_link *l, int result, const char *doing) {
    int saved = errno, e = SSL_get_error(l->ssl, result);
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE) return WEFT_IN_PROGRESS;
    long verify = SSL_get_verify_result(l->ssl);
    if (e == SSL_ERROR_SSL && verify != X509_V_OK) {
        ERR_clear_error();
        return weft_fail(WEFT_ERR_AUTH, "%s: its certificate does not hold: %s", doing,
                         X509_verify_cert_error_string(verify));
    }
    if (e == SSL_ERROR_SSL) return wan_ssl_fail(WEFT_ERR_AUTH, "%s: TLS", doing);
    ERR_clear_error();
    return weft_fail(WEFT_ERR_LINK, "%s: %s", doing,
                     e == SSL_ERROR_ZERO_RETURN || !saved ? "the other end closed it" : strerror(saved));
}

weft_status wan_link_shake(wan_link *l, uint64_t now) {
    if (!l->ssl) return WEFT_OK;
    bio_now = now;
    ERR_clear_error();
    errno = 0;
    int k = SSL_do_handshake(l->ssl);
    weft_status s = k == 1 ? WEFT_OK : judge(l, k, "handshake");
    weft_status f = wan_link_flush(l, now); /* an alert goes out as well */
    return s < 0 ? s : f < 0 ? f : s;
}

weft_status wan_link_read(wan_link *l, void *to, size_t n, size_t *got, uint64_t now) {
    *got = 0;
    bio_now = now;
    if (!l->ssl) {
        ssize_t k = pull(l, to, n);
        if (k < 0)
            return weft_fail(WEFT_ERR_LINK, "reading: %s",
                             errno ? strerror(errno) : "the other end closed it");
        *got = (size_t)k;
        return WEFT_OK;
    }
    ERR_clear_error();
    errno = 0;
    int k = SSL_read_ex(l->ssl, to, n, got);
    if (k == 1) return WEFT_OK;
    *got = 0;
    weft_status s = judge(l, k, "reading");
    return s < 0 ? s : WEFT_OK;
}

weft_status wan_link_write(wan_link *l, const void *from, size_t n, size_t *took, uint64_t now) {
    *took = 0;
    bio_now = now;
    if (!l->ssl) {
        *took = room(l) ? wan_ring_put(&l->out, from, n, now) : 0;
        return WEFT_OK;
    }
    ERR_clear_error();
    if (l->wire_out - l->keyed > KEY_BYTES && SSL_key_update(l->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
        l->keyed = l->wire_out;
    ERR_clear_error();
    errno = 0;
    int k = SSL_write_ex(l->ssl, from, n, took);
    if (k == 1) return WEFT_OK;
    *took = 0;
    weft_status s = judge(l, k, "writing");
    return s < 0 ? s : WEFT_OK;
}
