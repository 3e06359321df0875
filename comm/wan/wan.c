/* The endpoint: one epoll set, its timers, and the public calls; see wan.h and endpoint.h.
 *
 * A poll waits, reads what came, lets peers look at their clocks, writes what can be written, acknowledges, and frees what
 * ended; it goes round until a callback was made, somebody woke it, or its time is over. */
#include "comm/wan/wan.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "comm/wan/endpoint.h"

enum { TICK_MS = 50, LATE_MS = 5, EVENTS = 64, ACCEPTS = 16, BACKLOG = 64, USER_TIMEOUT_MS = 15000 };

/* ---- sockets ---- */

static void set_int(int fd, int level, int name, int value) {
    (void)setsockopt(fd, level, name, &value,
                     sizeof value); /* wishes: a kernel that knows them not does without */
}

void wan_socket_lowat(int fd, int bytes) {
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
}

static void prepare_socket(int fd) {
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
    wan_socket_lowat(fd, WAN_LOWAT);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3);
}

int wan_dial_socket(const wan_address *a) {
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        weft_fail_errno(errno, "socket");
        return -1;
    }
    prepare_socket(fd);
    if (!connect(fd, (const struct sockaddr *)&a->sa, a->len) || errno == EINPROGRESS) return fd;
    weft_fail(WEFT_ERR_LINK, "connect: %s", strerror(errno));
    close(fd);
    return -1;
}

static struct tcp_info kernels_view(int fd) {
    struct tcp_info t;
    socklen_t n = sizeof t;
    memset(&t, 0, sizeof t);
    (void)getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &n); /* zeros where it is no TCP */
    return t;
}

uint64_t wan_socket_acked(int fd) {
    return kernels_view(fd).tcpi_bytes_acked;
}

double wan_socket_rtt(int fd) {
    return 1e-6 * kernels_view(fd).tcpi_rtt;
}

double wan_dice(weft_wan *w) {
    return weft_rng_uniform(w->instance, 1, w->dice++);
}

/* ---- connections ---- */

static int watch(wan_conn *c, unsigned events) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = events;
    e.data.ptr = c;
    int op = c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (c->events == events) return 1;
    if (epoll_ctl(c->w->epoll, op, c->link.fd, &e)) return 0;
    c->events = events;
    return 1;
}

wan_conn *wan_conn_open(weft_wan *w, int fd, int accept, int data, const wan_address *a) {
    wan_conn *c = weft_calloc(1, sizeof *c);
    uint64_t delay = (uint64_t)w->o.delay_ms * WAN_MS;
    if (!c) {
        close(fd);
        return NULL;
    }
    c->w = w;
    if (wan_link_open(&c->link, fd, w->o.insecure_lab ? NULL : &w->tls, accept, data, delay) < 0) {
        free(c);
        return NULL;
    }
    if (w->o.rate_cap) c->link.shared = &w->bucket;
    c->accepted = accept;
    c->data = data;
    c->phase = accept ? WAN_SHAKING : WAN_DIALLING;
    c->deadline = w->now + (uint64_t)w->o.handshake_ms * WAN_MS;
    c->address = *a;
    c->link.heard = c->link.sent = w->now;
    wan_address_print(a, 1, c->host);
    if (!watch(c, accept ? EPOLLIN : EPOLLOUT)) {
        weft_fail_errno(errno, "epoll");
        wan_link_close(&c->link);
        free(c);
        return NULL;
    }
    c->next = w->conns;
    w->conns = c;
    return c;
}

void wan_conn_detach(wan_conn *c) {
    if (c->events) (void)epoll_ctl(c->w->epoll, EPOLL_CTL_DEL, c->link.fd, NULL);
    c->events = 0;
}

static void free_conn(wan_conn *c) {
    free(c->body);
    free(c->say);
    free(c);
}

/* Frees what ended, and lets another connection be the first. */
static void reap(weft_wan *w) {
    wan_conn *first = w->conns, *last = first;
    if (first && first->next) {
        while (last->next) last = last->next;
        last->next = first;
        w->conns = first->next;
        first->next = NULL;
    }
    for (wan_conn **at = &w->conns; *at;) {
        wan_conn *c = *at;
        if (c->phase == WAN_DEAD) {
            *at = c->next;
            free_conn(c);
        } else {
            at = &c->next;
        }
    }
}

/* ---- what comes ---- */

static void refuse(weft_wan *w, int fd, const char *host, const char *why) {
    uint64_t muffled = 0;
    w->stats.refused++;
    close(fd);
    if (wan_guard_say(&w->guard, host, w->now, &muffled))
        weft_warn("sites: refused a connection from %s: %s", host, why);
}

static void accept_one(weft_wan *w, int fd, const wan_address *a) {
    char host[WAN_ADDRESS_TEXT];
    wan_address_print(a, 1, host);
    w->stats.accepted++;
    if (w->o.insecure_lab && !wan_address_is_lab(a)) {
        refuse(w, fd, host, "plain connections are for loopback and 10.77.0.0/16");
        return;
    }
    if (!wan_guard_enter(&w->guard, host)) {
        w->stats.crowded++;
        refuse(w, fd, host, "too many that are not authenticated yet");
        return;
    }
    prepare_socket(fd);
    wan_conn *c = wan_conn_open(w, fd, 1, 0, a);
    if (!c) {
        wan_guard_leave(&w->guard, host);
        return;
    }
    c->counted = 1;
    wan_peer_shake(c);
}

/* Listens, or not. */
static void hear(weft_wan *w, int on) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = on ? EPOLLIN : 0;
    e.data.ptr = w;
    if (w->listener >= 0) (void)epoll_ctl(w->epoll, EPOLL_CTL_MOD, w->listener, &e);
    w->deaf = !on;
}

static void accept_all(weft_wan *w) {
    for (int i = 0; i < ACCEPTS; i++) {
        wan_address a;
        memset(&a, 0, sizeof a);
        a.len = sizeof a.sa;
        int fd = accept4(w->listener, (struct sockaddr *)&a.sa, &a.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE)) hear(w, 0); /* until the next tick */
        if (fd < 0) return;
        accept_one(w, fd, &a);
    }
}

static void connected(wan_conn *c) {
    int e = 0;
    socklen_t n = sizeof e;
    if (getsockopt(c->link.fd, SOL_SOCKET, SO_ERROR, &e, &n) || e) {
        weft_fail(WEFT_ERR_LINK, "cannot connect: %s", strerror(e ? e : errno));
        wan_conn_end(c, WEFT_ERR_LINK);
        return;
    }
    c->phase = WAN_SHAKING;
    wan_peer_shake(c);
}

static void serve(wan_conn *c, unsigned events) {
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) c->link.full = 0;
    if (c->phase == WAN_DIALLING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
        connected(c);
    else if (c->phase == WAN_SHAKING)
        wan_peer_shake(c);
    else if (c->phase == WAN_HELD && events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        c->quiet = 1;
        weft_fail(WEFT_ERR_LINK, "given up by the other side");
        wan_conn_end(c, WEFT_ERR_LINK);
    } else if (c->phase == WAN_GREETING || c->phase == WAN_READY) {
        if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) c->more = 1;
    }
}

/* ---- the round ---- */

static void read_all(weft_wan *w) {
    for (wan_conn *c = w->conns; c; c = c->next)
        if (c->more && (c->phase == WAN_GREETING || c->phase == WAN_READY)) wan_conn_read(c);
}

static void write_all(weft_wan *w) {
    for (wan_conn *c = w->conns; c; c = c->next) {
        if (c->phase == WAN_DEAD || c->phase == WAN_DIALLING) continue;
        if (c->phase == WAN_SHAKING || c->phase == WAN_HELD) {
            weft_status s = wan_link_flush(&c->link, w->now);
            if (s < 0) wan_conn_end(c, s);
        } else if (!c->link.full && (wan_conn_has_out(c) || c->data)) {
            wan_conn_write(c);
        }
    }
}

static void rewatch(weft_wan *w) {
    for (wan_conn *c = w->conns; c; c = c->next) {
        unsigned events = c->phase == WAN_HELD ? 0 : EPOLLIN;
        if (c->phase == WAN_DEAD) continue;
        if (c->phase == WAN_DIALLING || c->link.full) events |= EPOLLOUT;
        if (c->phase == WAN_HELD) events |= EPOLLRDHUP;
        if (!watch(c, events)) {
            weft_fail_errno(errno, "epoll");
            wan_conn_end(c, WEFT_ERR_IO);
        }
    }
}

static void look_at_clocks(weft_wan *w) {
    if (w->now < w->tick_at) return;
    w->tick_at = w->now + (uint64_t)TICK_MS * WAN_MS;
    if (w->deaf) hear(w, 1);
    for (wan_conn *c = w->conns; c; c = c->next) {
        if (c->phase == WAN_DEAD || c->phase == WAN_READY || w->now < c->deadline) continue;
        weft_fail(WEFT_ERR_TIMEOUT, "not authenticated within %d ms", w->o.handshake_ms);
        wan_conn_end(c, WEFT_ERR_TIMEOUT);
    }
    for (weft_wan_peer *p = w->peers; p; p = p->next) wan_peer_tick(p);
}

/* ms until something of our own is due, at most `most`. */
static int64_t pause_ms(weft_wan *w, int64_t most) {
    uint64_t next = w->conns || w->peers ? w->tick_at : UINT64_MAX;
    for (const wan_conn *c = w->conns; c; c = c->next) {
        if (c->phase == WAN_DEAD || c->phase == WAN_DIALLING || c->phase == WAN_HELD) continue;
        if (c->more && c->phase != WAN_SHAKING) return 0;
        uint64_t due = wan_link_next(&c->link, w->now);
        if (due <= w->now || (due == UINT64_MAX && !c->link.full && wan_conn_has_out(c))) return 0;
        if (due < next) next = due;
        /* An idle stream looks for late chunks. */
        if (c->data && c->phase == WAN_READY && !c->tx.active && c->peer->queue.flying.n &&
            w->now + LATE_MS * WAN_MS < next)
            next = w->now + LATE_MS * WAN_MS;
    }
    if (next == UINT64_MAX) return most;
    int64_t ms = next > w->now ? (int64_t)((next - w->now + WAN_MS - 1) / WAN_MS) : 0;
    return most >= 0 && most < ms ? most : ms;
}

static void drain_wake(weft_wan *w) {
    uint64_t n = 0;
    if (read(w->wake, &n, sizeof n) == sizeof n) w->called = 1;
}

static weft_status go_round(weft_wan *w, int64_t timeout_ms) {
    struct epoll_event e[EVENTS];
    int64_t ms = pause_ms(w, timeout_ms);
    int n = epoll_wait(w->epoll, e, EVENTS, ms > INT32_MAX ? INT32_MAX : (int)ms);
    w->now = weft_now_ns();
    if (n < 0 && errno != EINTR) return weft_fail_errno(errno, "epoll_wait");
    if (n < 0) w->called = 1; /* a signal: the caller may want to look */
    for (int i = 0; i < n; i++) {
        if (e[i].data.ptr == w)
            accept_all(w);
        else if (e[i].data.ptr == &w->wake)
            drain_wake(w);
        else
            serve(e[i].data.ptr, e[i].events);
    }
    read_all(w);
    look_at_clocks(w);
    for (weft_wan_peer *p = w->peers; p; p = p->next) wan_chunk_acknowledge(p);
    write_all(w);
    for (weft_wan_peer *p = w->peers; p; p = p->next) wan_chunk_acknowledge(p);
    rewatch(w);
    reap(w);
    return WEFT_OK;
}

weft_status weft_wan_poll(weft_wan *w, int64_t timeout_ms) {
    uint64_t end = weft_now_ns() + weft_span_ns(timeout_ms, WAN_MS);
    weft_status s = WEFT_OK;
    if (w->polling) return weft_fail(WEFT_ERR_STATE, "a poll inside a poll");
    w->polling = 1;
    w->called = 0;
    w->now = weft_now_ns();
    do {
        int64_t left = timeout_ms;
        if (timeout_ms > 0) left = w->now < end ? (int64_t)((end - w->now + WAN_MS - 1) / WAN_MS) : 0;
        s = go_round(w, left);
    } while (s >= 0 && !w->called && (timeout_ms < 0 || w->now < end));
    w->polling = 0;
    return s;
}

void weft_wan_wake(weft_wan *w) {
    uint64_t one = 1;
    int saved = errno;
    ssize_t n = write(w->wake, &one, sizeof one); /* full: it is awake already */
    (void)n;
    errno = saved;
}

int weft_wan_fd(const weft_wan *w) {
    return w->epoll;
}

/* ---- opening ---- */

static int or_else(int v, int otherwise) {
    return v > 0 ? v : otherwise;
}

static weft_status check_opts(const weft_wan_opts *o, weft_wan *w) {
    w->o = *o;
    w->o.listen = w->o.lab_name = NULL; /* not kept */
    w->o.max_streams = or_else(o->max_streams, WAN_STREAMS);
    w->o.handshake_ms = or_else(o->handshake_ms, 10000);
    w->o.dead_ms = or_else(o->dead_ms, 10000);
    w->o.stall_ms = or_else(o->stall_ms, 5000);
    if (w->o.max_streams > WAN_STREAMS || o->streams > w->o.max_streams || o->streams < 0 ||
        o->delay_ms < 0 || o->credits < 0 || o->credits > WAN_WINDOW)
        return weft_fail(WEFT_ERR_ARG, "at most %d streams and %d credits", WAN_STREAMS, WAN_WINDOW);
    if (o->insecure_lab) {
        size_t n = o->lab_name ? strlen(o->lab_name) : 0;
        if (o->identity || !n || n >= WEFT_WAN_PEER_MAX)
            return weft_fail(WEFT_ERR_ARG, "a lab endpoint has a name and no identity");
        snprintf(w->name, sizeof w->name, "%s", o->lab_name);
        weft_warn("sites: INSECURE LAB: connections are neither encrypted nor authenticated");
        return WEFT_OK;
    }
    if (!o->identity) return weft_fail(WEFT_ERR_ARG, "an endpoint needs an identity");
    snprintf(w->name, sizeof w->name, "%s", weft_wan_identity_name(o->identity));
    return wan_tls_open(o->identity, &w->tls);
}

static weft_status add_plain_fd(weft_wan *w, int fd, void *tag) {
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = EPOLLIN;
    e.data.ptr = tag;
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) ? weft_fail_errno(errno, "epoll") : WEFT_OK;
}

static weft_status listen_on(weft_wan *w, const char *text) {
    wan_address a;
    WEFT_TRY(wan_address_parse(text, &a));
    if (w->o.insecure_lab && !wan_address_is_lab(&a))
        return weft_fail(WEFT_ERR_ACCESS, "%s: plain connections are for loopback and 10.77.0.0/16", text);
    w->listener = socket(a.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (w->listener < 0) return weft_fail_errno(errno, "socket");
    set_int(w->listener, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(w->listener, (const struct sockaddr *)&a.sa, a.len) || listen(w->listener, BACKLOG))
        return weft_fail(WEFT_ERR_ACCESS, "cannot listen on %s: %s", text, strerror(errno));
    a.len = sizeof a.sa;
    if (getsockname(w->listener, (struct sockaddr *)&a.sa, &a.len))
        return weft_fail_errno(errno, "getsockname");
    w->port = wan_address_port(&a);
    return add_plain_fd(w, w->listener, w);
}

weft_status weft_wan_open(const weft_wan_opts *o, weft_wan **out) {
    weft_wan *w = weft_calloc(1, sizeof *w);
    weft_status s = WEFT_OK;
    *out = NULL;
    if (!w) return WEFT_ERR_NOMEM;
    w->epoll = w->wake = w->listener = -1;
    w->now = weft_now_ns();
    WEFT_GOTO(check_opts(o, w), failed);
    wan_guard_set(&w->guard, or_else(o->max_strangers, 64));
    wan_bucket_set(&w->bucket, o->rate_cap, w->now);
    if (RAND_bytes((unsigned char *)&w->instance, sizeof w->instance) != 1)
        WEFT_GOTO(weft_fail(WEFT_ERR_INTERNAL, "no random numbers"), failed);
    w->instance |= 1; /* not 0 */
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->epoll < 0 || w->wake < 0) WEFT_GOTO(weft_fail_errno(errno, "epoll"), failed);
    WEFT_GOTO(add_plain_fd(w, w->wake, &w->wake), failed);
    if (o->listen) WEFT_GOTO(listen_on(w, o->listen), failed);
    *out = w;
    return WEFT_OK;
failed:
    weft_wan_close(w);
    return s;
}

static void ignore_calls(weft_wan *w) {
    void (*sent)(void *, weft_wan_peer *, const weft_wan_chunk *, const void *, weft_status) =
        w->o.calls.chunk_sent;
    memset(&w->o.calls, 0, sizeof w->o.calls);
    w->o.calls.chunk_sent = sent;
}

void weft_wan_close(weft_wan *w) {
    if (!w) return;
    ignore_calls(w);
    for (weft_wan_peer *p = w->peers; p; p = p->next) wan_peer_hang_up(p);
    for (wan_conn *c = w->conns; c; c = c->next) {
        c->quiet = 1;
        wan_conn_end(c, WEFT_OK);
    }
    reap(w);
    for (weft_wan_peer *p = w->peers, *next; p; p = next) {
        next = p->next;
        wan_peer_free(p);
    }
    if (w->listener >= 0) close(w->listener);
    if (w->wake >= 0) close(w->wake);
    if (w->epoll >= 0) close(w->epoll);
    wan_tls_close(&w->tls);
    free(w);
}

int weft_wan_port(const weft_wan *w) {
    return w->port;
}

/* ---- peers, from outside ---- */

weft_status weft_wan_dial(weft_wan *w, const char *address, const char *name, weft_wan_peer **out) {
    wan_address a;
    *out = NULL;
    if (!name || !strcmp(name, w->name) || strlen(name) >= WEFT_WAN_PEER_MAX || !strchr(name, '/'))
        return weft_fail(WEFT_ERR_ARG, "\"%s\": expected the site/role of another process", name ? name : "");
    WEFT_TRY(wan_address_parse(address, &a));
    if (w->o.insecure_lab && !wan_address_is_lab(&a))
        return weft_fail(WEFT_ERR_ACCESS, "%s: plain connections are for loopback and 10.77.0.0/16", address);
    weft_wan_peer *p = wan_peer_of(w, name);
    if (!p) return WEFT_ERR_NOMEM;
    p->to = a;
    p->dial = 1;
    p->tries = 0;
    p->redial_at = 0;
    w->tick_at = 0;
    *out = p;
    return WEFT_OK;
}

void weft_wan_hang_up(weft_wan_peer *p) {
    wan_peer_hang_up(p);
}

weft_status weft_wan_send(weft_wan_peer *p, uint16_t type, const void *body, size_t n) {
    if (type >= WEFT_WAN_OWN || n > WEFT_WAN_BODY_MAX)
        return weft_fail(WEFT_ERR_ARG, "a message of type %u and %zu bytes", type, n);
    if (!p->control) return weft_fail(WEFT_ERR_PEER, "no session with %s", p->name);
    return wan_conn_say(p->control, type, body, n);
}

void weft_wan_recheck(weft_wan *w) {
    const weft_wan_calls *calls = &w->o.calls;
    if (!calls->revoked) return;
    for (weft_wan_peer *p = w->peers; p; p = p->next) {
        if (!p->control || !calls->revoked(w->o.arg, p->fingerprint)) continue;
        weft_fail(WEFT_ERR_AUTH, "the certificate of %s is revoked", p->name);
        wan_conn_end(p->control, WEFT_ERR_AUTH);
    }
}

const char *weft_wan_peer_name(const weft_wan_peer *p) {
    return p->name;
}

const char *weft_wan_peer_address(const weft_wan_peer *p) {
    return p->at;
}

int weft_wan_peer_up(const weft_wan_peer *p) {
    return p->control != NULL;
}

void weft_wan_peer_fingerprint(const weft_wan_peer *p, uint8_t out[WEFT_WAN_FINGERPRINT]) {
    memcpy(out, p->fingerprint, WEFT_WAN_FINGERPRINT);
}

void weft_wan_peer_set_user(weft_wan_peer *p, void *user) {
    p->user = user;
}

void *weft_wan_peer_user(const weft_wan_peer *p) {
    return p->user;
}

static void add_wire(const wan_conn *c, weft_wan_peer_stats *s) {
    if (!c) return;
    s->wire_out += c->link.wire_out;
    s->wire_in += c->link.wire_in;
}

void weft_wan_peer_stats_get(const weft_wan_peer *p, weft_wan_peer_stats *s) {
    *s = p->stats;
    s->up = p->control != NULL;
    s->rtt = p->rtt;
    s->queued = wan_queue_count(&p->queue);
    s->resent = p->queue.resent;
    add_wire(p->control, s);
    for (int i = 0; i < WAN_STREAMS; i++) {
        s->streams += p->stream[i] && p->stream[i]->phase == WAN_READY;
        add_wire(p->stream[i], s);
    }
}

void weft_wan_stats_get(const weft_wan *w, weft_wan_stats *s) {
    *s = w->stats;
    s->strangers = (uint64_t)w->guard.now;
}

/* ---- tests ---- */

void weft_wan_test_slow(weft_wan *w, int index, uint64_t rate) {
    if (index < 0 || index >= WAN_STREAMS) return;
    w->slow[index] = rate;
    for (weft_wan_peer *p = w->peers; p; p = p->next)
        if (p->stream[index]) wan_bucket_set(&p->stream[index]->link.own, rate, weft_now_ns());
}

void weft_wan_test_kill(weft_wan_peer *p, int index) {
    if (index < 0 || index >= WAN_STREAMS || !p->stream[index]) return;
    weft_fail(WEFT_ERR_LINK, "cut by a test");
    wan_conn_end(p->stream[index], WEFT_ERR_LINK);
}
