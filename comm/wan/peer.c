/* Which connections there are; see endpoint.h.
 *
 * Both sides may dial. Who accepts a control connection while his own dial to the same peer is under way, and has the lower
 * name, holds it back for a moment: his own dial wins at the other side, whose dial is given up. So one session comes up,
 * not two in turn. A process that was started anew has another instance number, and its session ends the old one's.
 * Data streams are dialled by who dialled the session, and begin with a proof that only its owner can make. */
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/wan/endpoint.h"

enum { PEERS_MOST = 256, SESSION_BODY = 21, BIND_BODY = 43, HOLD_MS = 3000, PING_MS = 1000 };

/* ---- peers ---- */

static weft_wan_peer *find_peer(weft_wan *w, const char *name) {
    for (weft_wan_peer *p = w->peers; p; p = p->next)
        if (!strcmp(p->name, name)) return p;
    return NULL;
}

weft_wan_peer *wan_peer_of(weft_wan *w, const char *name) {
    int n = 0;
    weft_wan_peer *p = find_peer(w, name), **last = &w->peers;
    if (p) return p;
    for (; *last; last = &(*last)->next) n++;
    if (n >= PEERS_MOST) {
        weft_fail(WEFT_ERR_NOMEM, "more than %d peers", PEERS_MOST);
        return NULL;
    }
    p = weft_calloc(1, sizeof *p);
    if (!p || wan_queue_open(&p->queue) < 0) {
        free(p);
        return NULL;
    }
    p->w = w;
    snprintf(p->name, sizeof p->name, "%s", name);
    *last = p;
    return p;
}

void wan_peer_free(weft_wan_peer *p) {
    wan_queue_close(&p->queue);
    free(p);
}

static const char *own_name(const weft_wan *w) {
    return w->name;
}

static uint64_t backoff(weft_wan *w, unsigned tries, unsigned most_ms) {
    uint64_t ms = (uint64_t)200 << (tries < 10 ? tries : 10);
    if (ms > most_ms) ms = most_ms;
    return w->now + (uint64_t)((0.5 + wan_dice(w)) * (double)ms * WAN_MS);
}

/* ---- the end of a connection ---- */

static void stop_being_a_stranger(wan_conn *c) {
    if (c->counted) wan_guard_leave(&c->w->guard, c->host);
    c->counted = 0;
}

/* A complaint, once a minute and address. */
static void complain(wan_conn *c, const char *what, const char *why) {
    uint64_t muffled = 0;
    if (!wan_guard_say(&c->w->guard, c->host, c->w->now, &muffled)) return;
    weft_warn("sites: %s %s: %.*s%s", what, c->host, WAN_WHY, why,
              muffled ? " (and more of that kind before)" : "");
}

static void count_refusal(wan_conn *c, weft_status why, const char *text) {
    weft_wan_stats *s = &c->w->stats;
    s->refused++;
    if (why == WEFT_ERR_AUTH) s->auth++;
    if (why == WEFT_ERR_TIMEOUT) s->late++;
    complain(c, "refused a connection from", text);
}

static void session_ended(weft_wan_peer *p, int quiet, weft_status why) {
    weft_wan_calls *calls = &p->w->o.calls;
    p->control = NULL;
    p->nacks = p->asked = p->told = 0;
    p->redial_at = backoff(p->w, 0, 200);
    OPENSSL_cleanse(p->key, sizeof p->key);
    for (int i = 0; i < WAN_STREAMS; i++) {
        if (!p->stream[i]) continue;
        p->stream[i]->quiet = 1;
        wan_conn_end(p->stream[i], why);
    }
    p->was_busy = 0;
    if (quiet) return;
    p->w->called = 1;
    if (calls->down) calls->down(p->w->o.arg, p, why);
}

static void dial_failed(wan_conn *c, weft_status why, const char *text) {
    weft_wan_peer *p = c->peer;
    unsigned most = why == WEFT_ERR_AUTH ? 30000 : why == WEFT_ERR_TIMEOUT ? 10000 : 2000;
    p->dialling = NULL;
    p->redial_at = backoff(p->w, p->tries++, most);
    if (!c->quiet) complain(c, "no session yet with", text);
}

static void stream_ended(wan_conn *c) {
    weft_wan_peer *p = c->peer;
    int i = c->index;
    p->stream[i] = NULL;
    p->stream_at[i] = backoff(p->w, c->quiet ? 0 : p->stream_tries[i]++, 5000);
    if (!c->quiet) p->stats.redials++;
    wan_chunk_stream_lost(c);
}

void wan_conn_end(wan_conn *c, weft_status why) {
    char text[WAN_WHY] = "";
    wan_phase was = c->phase;
    weft_wan_peer *p = c->peer;
    if (was == WAN_DEAD) return;
    if (why < 0) snprintf(text, sizeof text, "%.*s", WAN_WHY - 1, weft_last_error());
    c->phase = WAN_DEAD;
    if (p) {
        p->stats.wire_out += c->link.wire_out;
        p->stats.wire_in += c->link.wire_in;
    }
    wan_conn_detach(c);
    wan_link_close(&c->link);
    stop_being_a_stranger(c);
    if (c->accepted && was != WAN_READY && !c->quiet) count_refusal(c, why, text);
    if (!p) return;
    if (p->held == c) p->held = NULL;
    if (p->dialling == c) dial_failed(c, why, text);
    if (c->data && p->stream[c->index] == c) stream_ended(c);
    if (p->control != c) return;
    weft_fail(why, "%s", text);
    session_ended(p, c->quiet, why);
}

static void end_quietly(wan_conn *c) {
    if (!c) return;
    c->quiet = 1;
    wan_conn_end(c, WEFT_OK);
}

void wan_peer_hang_up(weft_wan_peer *p) {
    p->dial = 0;
    p->tries = 0;
    end_quietly(p->dialling);
    end_quietly(p->held);
    if (p->control) wan_conn_write(p->control); /* what was said last, if there is room for it */
    end_quietly(p->control);
    wan_chunk_return_all(p, WEFT_DROPPED);
}

/* ---- greetings ---- */

static weft_status greet(wan_conn *c) {
    uint8_t body[WAN_STRANGER_BODY] = {0};
    const weft_wan *w = c->w;
    size_t n = w->o.insecure_lab ? strlen(own_name(w)) : 0;
    weft_put_u64(body, w->instance);
    weft_put_u64(body + 8, c->session);
    weft_put_u32(body + 16, (uint32_t)(w->o.credits ? w->o.credits : WAN_WINDOW));
    body[20] = (uint8_t)n;
    memcpy(body + SESSION_BODY, own_name(w), n);
    return wan_conn_say(c, WEFT_WAN_SESSION, body, SESSION_BODY + n);
}

/* The proof that stream c belongs to the session of its peer. */
static weft_status proof_of(const weft_wan_peer *p, const wan_conn *c, uint16_t index, uint8_t out[WAN_KEY]) {
    uint8_t key[WAN_KEY] = {0};
    if (c->link.ssl) WEFT_TRY(wan_tls_export(c->link.ssl, key));
    return wan_tls_proof(p->key, key, index, p->session, out);
}

static weft_status bind_stream(wan_conn *c) {
    uint8_t body[WAN_STRANGER_BODY] = {0};
    const weft_wan *w = c->w;
    size_t n = w->o.insecure_lab ? strlen(own_name(w)) : 0;
    if (!c->peer->control) return weft_fail(WEFT_ERR_LINK, "its session ended");
    weft_put_u64(body, c->peer->session);
    weft_put_u16(body + 8, (uint16_t)c->index);
    WEFT_TRY(proof_of(c->peer, c, (uint16_t)c->index, body + 10));
    body[42] = (uint8_t)n;
    memcpy(body + BIND_BODY, own_name(w), n);
    return wan_conn_say(c, WEFT_WAN_BIND, body, BIND_BODY + n);
}

/* In the lab names are believed. */
static weft_status lab_name(wan_conn *c, const uint8_t *body, size_t at) {
    size_t n = c->frame.body - at;
    if (n != body[at - 1] || n >= sizeof c->name || memchr(body + at, 0, n))
        return weft_fail(WEFT_ERR_FORMAT, "a greeting that does not fit its length");
    if (!c->w->o.insecure_lab) return n ? weft_fail(WEFT_ERR_FORMAT, "a name in a greeting") : WEFT_OK;
    memcpy(c->name, body + at, n);
    c->name[n] = 0;
    return n ? WEFT_OK : weft_fail(WEFT_ERR_FORMAT, "a greeting without a name");
}

static weft_status who_is_there(wan_conn *c) {
    const weft_wan_calls *calls = &c->w->o.calls;
    int data = 0;
    if (!c->link.ssl) return WEFT_OK;
    WEFT_TRY(wan_tls_who(&c->w->tls, c->link.ssl, c->name, c->fingerprint, &data));
    if (c->accepted)
        c->data = data;
    else if (c->data != data)
        return weft_fail(WEFT_ERR_AUTH, "the other end is no %s", c->data ? "stream" : "session");
    if (calls->revoked && calls->revoked(c->w->o.arg, c->fingerprint))
        return weft_fail(WEFT_ERR_AUTH, "the certificate of %s is revoked", c->name);
    if (!c->accepted && strcmp(c->name, c->peer->name) != 0)
        return weft_fail(WEFT_ERR_AUTH, "%s answers instead of %s", c->name, c->peer->name);
    return WEFT_OK;
}

/* Chunks may go. Who dialled does not wait for BOUND: if the stream is not taken, they go again on another one. */
static void stream_ready(wan_conn *c) {
    c->phase = WAN_READY;
    c->link.pays_later = 0;
    c->link.sent = c->link.heard = c->w->now;
    wan_bucket_set(&c->link.own, c->w->slow[c->index], c->w->now);
}

void wan_peer_shake(wan_conn *c) {
    weft_status s = wan_link_shake(&c->link, c->w->now);
    if (s == WEFT_IN_PROGRESS) return;
    if (s >= 0) s = who_is_there(c);
    if (s >= 0) {
        c->link.pays_later = !c->data;
        c->phase = WAN_GREETING;
        c->more = 1;
        if (!c->accepted && !c->data) s = greet(c);
        if (!c->accepted && c->data && (s = bind_stream(c)) >= 0) stream_ready(c);
    }
    if (s < 0) wan_conn_end(c, s);
}

/* ---- a session ---- */

static weft_status session_up(weft_wan_peer *p, wan_conn *c) {
    weft_wan_calls *calls = &p->w->o.calls;
    if (p->control) {
        weft_fail(WEFT_ERR_LINK, "another session takes its place");
        wan_conn_end(p->control, WEFT_ERR_LINK);
    }
    if (p->dialling == c) p->dialling = NULL;
    if (p->held == c) p->held = NULL;
    end_quietly(p->dialling);
    end_quietly(p->held);
    if (c->phase == WAN_DEAD) return WEFT_OK;
    if (c->link.ssl) WEFT_TRY(wan_tls_export(c->link.ssl, p->key));
    int other = p->instance && p->instance != c->instance;
    p->instance = c->instance;
    if (other) {
        memset(&p->seen, 0, sizeof p->seen);
        wan_chunk_return_all(p, WEFT_ERR_PEER);
        if (c->phase == WAN_DEAD) return WEFT_OK;
    }
    p->control = c;
    p->session = c->session;
    p->queue.window = c->window < WAN_WINDOW ? c->window : WAN_WINDOW;
    memcpy(p->fingerprint, c->fingerprint, sizeof p->fingerprint);
    memset(p->stream_tries, 0, sizeof p->stream_tries);
    memset(p->stream_at, 0, sizeof p->stream_at);
    wan_address_print(&c->address, 0, p->at);
    p->tries = 0;
    p->ping_at = 0;
    p->guessed = p->rtt_min <= 0 || p->guessed;
    if (p->guessed) p->rtt = p->rtt_min = wan_socket_rtt(c->link.fd); /* until a ping says better */
    p->stats.sessions++;
    c->phase = WAN_READY;
    c->link.heard = p->w->now;
    p->w->tick_at = 0;
    stop_being_a_stranger(c);
    p->w->called = 1;
    if (calls->up) calls->up(p->w->o.arg, p);
    return WEFT_OK;
}

static weft_status accept_session(weft_wan_peer *p, wan_conn *c) {
    if (RAND_bytes((unsigned char *)&c->session, sizeof c->session) != 1)
        return weft_fail(WEFT_ERR_INTERNAL, "no random numbers");
    WEFT_TRY(greet(c));
    return session_up(p, c);
}

/* A control connection is offered: taken, held or refused. */
static weft_status offered(wan_conn *c) {
    weft_wan *w = c->w;
    if (!strcmp(c->name, own_name(w)))
        return weft_fail(WEFT_ERR_AUTH, "somebody else under the name of this process, %s", own_name(w));
    weft_wan_peer *p = wan_peer_of(w, c->name);
    if (!p) return WEFT_ERR_NOMEM;
    c->peer = p;
    if (p->control && !p->control->accepted && p->instance == c->instance) {
        WEFT_TRY(wan_conn_say(c, WEFT_WAN_REFUSED, NULL, 0)); /* ours stands */
        wan_conn_write(c);
        end_quietly(c);
        return WEFT_OK;
    }
    if (!p->control && p->dialling && strcmp(own_name(w), p->name) < 0) {
        end_quietly(p->held);
        p->held = c;
        p->held_until = w->now + (uint64_t)HOLD_MS * WAN_MS;
        c->phase = WAN_HELD;
        return WEFT_OK;
    }
    return accept_session(p, c);
}

static weft_status on_session(wan_conn *c, const uint8_t *body) {
    if (c->frame.body < SESSION_BODY || c->data) return weft_fail(WEFT_ERR_FORMAT, "a greeting that is none");
    c->instance = weft_get_u64(body);
    c->window = weft_get_u32(body + 16);
    if (!c->instance || !c->window) return weft_fail(WEFT_ERR_FORMAT, "a greeting of nobody");
    WEFT_TRY(lab_name(c, body, SESSION_BODY));
    if (c->accepted) return offered(c);
    c->session = weft_get_u64(body + 8);
    if (strcmp(c->name, c->peer->name) != 0)
        return weft_fail(WEFT_ERR_AUTH, "%s answers instead of %s", c->name, c->peer->name);
    return session_up(c->peer, c);
}

/* ---- a stream ---- */

static weft_status on_bind(wan_conn *c, const uint8_t *body) {
    uint8_t want[WAN_KEY];
    const weft_wan *w = c->w;
    int most = w->o.max_streams;
    if (c->frame.body < BIND_BODY) return weft_fail(WEFT_ERR_FORMAT, "a BIND that is none");
    if (w->o.insecure_lab) c->data = 1;
    if (!c->data) return weft_fail(WEFT_ERR_FORMAT, "a BIND on a control connection");
    WEFT_TRY(lab_name(c, body, BIND_BODY));
    weft_wan_peer *p = find_peer(c->w, c->name);
    if (!p || !p->control) return weft_fail(WEFT_ERR_AUTH, "a stream of %s, which has no session", c->name);
    if (weft_get_u64(body) != p->session) {
        c->quiet = 1; /* late: of a session that was */
        return weft_fail(WEFT_ERR_LINK, "a stream of another session");
    }
    int index = weft_get_u16(body + 8);
    WEFT_TRY(proof_of(p, c, (uint16_t)index, want));
    if (CRYPTO_memcmp(want, body + 10, WAN_KEY) != 0)
        return weft_fail(WEFT_ERR_AUTH, "a stream whose proof does not belong to the session of %s", c->name);
    if (index >= most) return weft_fail(WEFT_ERR_FORMAT, "stream %d, at most %d", index, most);
    if (p->stream[index]) {
        p->stream[index]->quiet = 1;
        weft_fail(WEFT_ERR_LINK, "another stream takes its place");
        wan_conn_end(p->stream[index], WEFT_ERR_LINK);
        if (c->phase == WAN_DEAD || !p->control) return WEFT_OK;
    }
    c->peer = p;
    c->index = index;
    WEFT_TRY(wan_conn_say(c, WEFT_WAN_BOUND, NULL, 0));
    p->stream[index] = c;
    stream_ready(c);
    stop_being_a_stranger(c);
    return WEFT_OK;
}

/* ---- frames ---- */

static weft_status on_greeting(wan_conn *c, const uint8_t *body) {
    uint16_t type = c->frame.type;
    if (type == WEFT_WAN_SESSION) return on_session(c, body);
    if (type == WEFT_WAN_BIND && c->accepted) return on_bind(c, body);
    if (type == WEFT_WAN_REFUSED && !c->accepted && !c->data) {
        c->quiet = 1;
        return weft_fail(WEFT_ERR_LINK, "the other side has a session already");
    }
    return weft_fail(WEFT_ERR_FORMAT, "a frame of type %u before any greeting", type);
}

static void on_pong(weft_wan_peer *p, const uint8_t *body) {
    double rtt = (double)(p->w->now - weft_get_u64(body)) * 1e-9;
    if (!(rtt >= 0 && rtt < 3600)) return;
    if (p->guessed) p->rtt = p->rtt_min = 0;
    p->guessed = 0;
    p->rtt = p->rtt > 0 ? 0.875 * p->rtt + 0.125 * rtt : rtt;
    if (p->rtt_min <= 0 || rtt < p->rtt_min) p->rtt_min = rtt;
}

weft_status wan_peer_frame(wan_conn *c, const uint8_t *body) {
    weft_wan_peer *p = c->peer;
    weft_wan_calls *calls = &c->w->o.calls;
    const weft_wan_frame *f = &c->frame;
    if (c->phase != WAN_READY) return on_greeting(c, body);
    if (c->data) { /* conn.c lets only BOUND through */
        p->stream_tries[c->index] = 0;
        c->bound = 1;
        return WEFT_OK;
    }
    if (f->type < WEFT_WAN_OWN) {
        c->w->called = 1;
        if (calls->message) calls->message(c->w->o.arg, p, f->type, body, f->body);
        return WEFT_OK;
    }
    if (f->type == WEFT_WAN_CREDIT && f->body >= 8)
        wan_chunk_credit(p, body, f->body);
    else if (f->type == WEFT_WAN_STREAMS && f->body == 4)
        p->asked = (int)(weft_get_u32(body) & 0xffff);
    else if (f->type == WEFT_WAN_PING && f->body == 8)
        return wan_conn_say(c, WEFT_WAN_PONG, body, 8);
    else if (f->type == WEFT_WAN_PONG && f->body == 8)
        on_pong(p, body);
    else
        return weft_fail(WEFT_ERR_FORMAT, "a frame of type %u and %u bytes", f->type, f->body);
    return WEFT_OK;
}

/* ---- dialling ---- */

/* Dials a control connection, or stream `index`. */
static wan_conn *dial(weft_wan_peer *p, int index) {
    const wan_address *to = index < 0 ? &p->to : &p->control->address;
    int fd = wan_dial_socket(to);
    wan_conn *c = fd >= 0 ? wan_conn_open(p->w, fd, 0, index >= 0, to) : NULL;
    if (!c) return NULL;
    c->peer = p;
    c->index = index < 0 ? 0 : index;
    return c;
}

static void dial_session(weft_wan_peer *p) {
    p->dialling = dial(p, -1);
    if (p->dialling) return;
    uint64_t muffled = 0;
    if (wan_guard_say(&p->w->guard, p->name, p->w->now, &muffled))
        weft_warn("sites: cannot dial %s: %s", p->name, weft_last_error());
    p->redial_at = backoff(p->w, p->tries++, 10000);
}

static void dial_streams(weft_wan_peer *p, int want) {
    for (int i = 0; i < want; i++) {
        if (p->stream[i] || p->w->now < p->stream_at[i]) continue;
        p->stream[i] = dial(p, i);
        if (!p->stream[i]) p->stream_at[i] = backoff(p->w, p->stream_tries[i]++, 5000);
    }
}

/* How many streams there should be: none before there is something to send. */
static int wanted(weft_wan_peer *p) {
    const weft_wan_opts *o = &p->w->o;
    int busy = wan_queue_count(&p->queue) > 0;
    if (!busy && !p->told) return 0;
    if (o->streams) return o->streams;
    if (!p->grow.n && o->link_rate && p->rtt_min <= 0) return 2; /* until the first round trip is known */
    if (!p->grow.n) wan_grow_start(&p->grow, (double)o->link_rate, p->rtt_min, o->max_streams);
    return p->grow.n;
}

static void see_to_streams(weft_wan_peer *p) {
    int want = wanted(p), most = p->w->o.max_streams;
    if (p->control->accepted) { /* the other side dials */
        uint8_t body[4];
        if (want == p->told) return;
        weft_put_u32(body, (uint32_t)want);
        p->told = want;
        weft_status s = wan_conn_say(p->control, WEFT_WAN_STREAMS, body, sizeof body);
        if (s < 0) wan_conn_end(p->control, s);
        return;
    }
    p->told = want;
    if (p->asked > want) want = p->asked;
    dial_streams(p, want < most ? want : most);
}

/* ---- time ---- */

static void measure(weft_wan_peer *p) {
    uint64_t now = p->w->now;
    double dt = (double)(now - p->tick_at) * 1e-9;
    int busy = wan_queue_count(&p->queue) > 0;
    if (p->tick_at && dt > 0) {
        double a = dt < 1 ? dt : 1, out = (double)(p->stats.bytes_out - p->tick_out) / dt;
        double in = (double)(p->stats.bytes_in - p->tick_in) / dt;
        weft_wan_peer_stats *s = &p->stats;
        if (busy && p->was_busy) s->rate_out = s->rate_out > 0 ? s->rate_out + a * (out - s->rate_out) : out;
        if (in > 0) s->rate_in = s->rate_in > 0 ? s->rate_in + a * (in - s->rate_in) : in;
    }
    if (p->grow.n && !p->w->o.streams)
        wan_grow_feed(&p->grow, (double)now * 1e-9, p->rtt, p->stats.bytes_out, busy && p->was_busy);
    p->was_busy = busy;
    p->tick_at = now;
    p->tick_out = p->stats.bytes_out;
    p->tick_in = p->stats.bytes_in;
}

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Ends a stream whose data does not move. */
static void see_to_stall(wan_conn *c) {
    weft_wan *w = c->w;
    uint64_t stall = (uint64_t)w->o.stall_ms * WAN_MS, delay = (uint64_t)w->o.delay_ms * WAN_MS;
    uint64_t moved = later(c->link.sent, c->stirred), now = w->now;
    int half = c->stage != WAN_HEAD || c->got;
    if (half && now - c->link.heard > 2 * stall + delay) {
        weft_fail(WEFT_ERR_TIMEOUT, "half a chunk came, and nothing for %d ms", 2 * w->o.stall_ms);
        wan_conn_end(c, WEFT_ERR_TIMEOUT);
        return;
    }
    if (now - moved < stall / 4 || now - c->looked < stall / 8) return;
    c->looked = now;
    if (!c->tx.active && !wan_link_pending(&c->link) && !wan_queue_on(&c->peer->queue, c->index)) {
        c->stirred = now;
        return;
    }
    uint64_t acked = wan_socket_acked(c->link.fd);
    if (acked != c->kernel_acked) c->stirred = now;
    c->kernel_acked = acked;
    if (now - later(moved, c->stirred) < stall + delay) return;
    weft_fail(WEFT_ERR_TIMEOUT, "nothing moved for %d ms", w->o.stall_ms);
    wan_conn_end(c, WEFT_ERR_TIMEOUT);
}

/* What the kernel holds beyond what it can send should last until this thread comes by again, which on a busy machine may be
 * late: a tenth of a second of what the stream carries. More would bind chunks too early. */
static void see_to_lowat(wan_conn *c, double dt) {
    double rate = (double)(c->link.wire_out - c->wire_then) / dt, want;
    c->wire_then = c->link.wire_out;
    c->rate = rate > c->rate ? rate : 0.8 * c->rate + 0.2 * rate;
    want = c->rate * 0.1;
    want = want < WAN_LOWAT ? WAN_LOWAT : want > WAN_LOWAT_MOST ? WAN_LOWAT_MOST : want;
    if (want < 1.3 * c->lowat && want > 0.7 * c->lowat) return;
    c->lowat = (int)want;
    wan_socket_lowat(c->link.fd, c->lowat);
}

static void ping(weft_wan_peer *p) {
    uint8_t body[8];
    if (p->w->now < p->ping_at) return;
    p->ping_at = p->w->now + (uint64_t)PING_MS * WAN_MS;
    weft_put_u64(body, p->w->now);
    weft_status s = wan_conn_say(p->control, WEFT_WAN_PING, body, sizeof body);
    if (s < 0) wan_conn_end(p->control, s);
}

void wan_peer_tick(weft_wan_peer *p) {
    weft_wan *w = p->w;
    if (!p->control) {
        if (p->held && w->now > p->held_until) {
            wan_conn *c = p->held;
            c->phase = WAN_GREETING;
            weft_status s = accept_session(p, c);
            if (s < 0) wan_conn_end(c, s);
        } else if (p->dial && !p->dialling && w->now >= p->redial_at) {
            dial_session(p);
        }
        return;
    }
    if (w->now - p->control->link.heard > (uint64_t)w->o.dead_ms * WAN_MS) {
        weft_fail(WEFT_ERR_TIMEOUT, "%s was silent for %d ms", p->name, w->o.dead_ms);
        wan_conn_end(p->control, WEFT_ERR_TIMEOUT);
        return;
    }
    double dt = (double)(w->now - p->tick_at) * 1e-9;
    ping(p);
    if (p->control) see_to_streams(p);
    measure(p);
    for (int i = 0; i < WAN_STREAMS; i++) {
        if (!p->stream[i] || p->stream[i]->phase != WAN_READY) continue;
        if (dt > 0 && dt < 10) see_to_lowat(p->stream[i], dt);
        see_to_stall(p->stream[i]);
    }
}
