/* Chunks over streams; see endpoint.h. A sender keeps a chunk until its number comes back in a CREDIT. A receiver may get
 * two copies at once: both are written to the one place (they are the same bytes), the first that is whole counts, and what
 * still comes of the other goes nowhere. A sender whose chunk came through by another copy, or was taken back, ends the
 * frame with zeros: the data is its owner's at once. */
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "comm/wan/endpoint.h"

/* ---- in ---- */

/* Another stream that is receiving the same chunk to its place. */
static wan_conn *twin(const wan_conn *c) {
    for (int i = 0; i < WAN_STREAMS; i++) {
        wan_conn *o = c->peer->stream[i];
        if (o && o != c && o->rx.active && !o->rx.discard && o->rx.id == c->rx.id) return o;
    }
    return NULL;
}

void wan_chunk_acknowledge(weft_wan_peer *p) {
    uint8_t body[8 + 8 * WAN_ACKS];
    if (!p->nacks || !p->control) return;
    weft_put_u32(body, (uint32_t)(p->w->o.credits ? p->w->o.credits : WAN_WINDOW));
    weft_put_u32(body + 4, (uint32_t)p->nacks);
    for (int i = 0; i < p->nacks; i++) weft_put_u64(body + 8 + 8 * i, p->acks[i]);
    size_t n = 8 + 8 * (size_t)p->nacks;
    p->nacks = 0;
    weft_status s = wan_conn_say(p->control, WEFT_WAN_CREDIT, body, n);
    if (s < 0) wan_conn_end(p->control, s);
}

static void acknowledge(weft_wan_peer *p, uint64_t id) {
    if (p->nacks == WAN_ACKS) wan_chunk_acknowledge(p);
    if (p->nacks < WAN_ACKS) p->acks[p->nacks++] = id;
}

void wan_chunk_begin(wan_conn *c) {
    weft_wan_peer *p = c->peer;
    weft_wan_calls *calls = &c->w->o.calls;
    wan_rx *r = &c->rx;
    const wan_conn *other = NULL;
    r->active = r->discard = 1; /* until there is a place */
    r->at = NULL;
    if (!wan_seen_has(&p->seen, r->id)) {
        other = twin(c);
        if (other)
            r->at = other->rx.at;
        else if (calls->chunk_place) {
            c->w->called = 1;
            r->at = calls->chunk_place(c->w->o.arg, p, &r->h);
        }
        if (!r->at) wan_seen_add(&p->seen, r->id);
    }
    r->discard = !r->at;
    if (c->phase != WAN_DEAD && r->discard)
        acknowledge(p, r->id);
    else if (c->phase == WAN_DEAD && r->at && !other && calls->chunk_lost)
        calls->chunk_lost(c->w->o.arg, p, &r->h, r->at); /* the place was given by who ended us */
}

void wan_chunk_done(wan_conn *c, wan_chunk_end how) {
    weft_wan_peer *p = c->peer;
    weft_wan_calls *calls = &c->w->o.calls;
    wan_rx r = c->rx;
    wan_conn *other = NULL;
    c->rx.active = 0;
    if (r.discard) return;
    if (how == WAN_CHUNK_WHOLE) {
        while ((other = twin(c))) other->rx.discard = 1;
        wan_seen_add(&p->seen, r.id);
        acknowledge(p, r.id);
        p->stats.bytes_in += r.h.bytes;
        c->w->called = 1;
        if (calls->chunk_arrived) calls->chunk_arrived(c->w->o.arg, p, &r.h, r.at);
        return;
    }
    if (how == WAN_CHUNK_BAD) { /* neither copy can be trusted with the place */
        while ((other = twin(c))) {
            other->rx.discard = 1;
            weft_fail(WEFT_ERR_CORRUPT, "another copy of its chunk has a wrong check sum");
            wan_conn_end(other, WEFT_ERR_CORRUPT);
        }
        weft_fail(WEFT_ERR_CORRUPT, "a chunk with a wrong check sum");
        wan_conn_end(c, WEFT_ERR_CORRUPT);
    }
    if (twin(c) || !calls->chunk_lost) return;
    c->w->called = 1;
    calls->chunk_lost(c->w->o.arg, p, &r.h, r.at);
}

/* ---- out ---- */

int wan_chunk_waits(const wan_conn *c) {
    return c->data && c->phase == WAN_READY && wan_queue_ready(&c->peer->queue);
}

static void begin(wan_conn *c, const wan_item *i) {
    wan_tx *t = &c->tx;
    weft_wan_frame f = {
        WEFT_WAN_MAJOR, WEFT_WAN_MINOR, WEFT_WAN_CHUNK_FRAME, 0, WEFT_WAN_CHUNK + i->h.bytes, i->id, 0};
    memset(t, 0, sizeof *t);
    t->active = 1;
    t->id = i->id;
    t->data = i->data;
    t->bytes = i->h.bytes;
    weft_wan_frame_pack(&f, t->head);
    weft_wan_chunk_pack(&i->h, t->head + WEFT_WAN_FRAME);
}

int wan_chunk_next(wan_conn *c) {
    weft_wan_peer *p = c->peer;
    if (!c->data || c->phase != WAN_READY) return 0;
    const wan_item *i = wan_queue_take(&p->queue, c->index, c->w->now);
    if (!i && !wan_link_pending(&c->link))
        i = wan_queue_again(&p->queue, c->index, c->w->now, (uint64_t)(p->rtt * 1e9));
    if (!i) return 0;
    begin(c, i);
    return 1;
}

/* No stream needs the data of chunk id any more. */
static void let_go(weft_wan_peer *p, uint64_t id) {
    for (int k = 0; id && k < WAN_STREAMS; k++) {
        wan_conn *c = p->stream[k];
        if (!c || !c->tx.active || c->tx.id != id) continue;
        c->tx.data = NULL;
        c->tx.voided = 1;
    }
}

static void give_back(weft_wan_peer *p, const wan_item *i, weft_status s) {
    weft_wan_calls *calls = &p->w->o.calls;
    let_go(p, i->id);
    p->w->called = 1;
    if (calls->chunk_sent) calls->chunk_sent(p->w->o.arg, p, &i->h, i->data, s);
}

void wan_chunk_credit(weft_wan_peer *p, const uint8_t *body, size_t n) {
    wan_item i;
    uint32_t window = weft_get_u32(body), ids = weft_get_u32(body + 4);
    p->queue.window = window < WAN_WINDOW ? window : WAN_WINDOW;
    for (uint32_t k = 0; k < ids && 16 + 8 * (size_t)k <= n; k++) {
        if (!wan_queue_ack(&p->queue, weft_get_u64(body + 8 + 8 * (size_t)k), p->w->now, &i)) continue;
        p->stats.bytes_out += i.h.bytes;
        give_back(p, &i, WEFT_OK);
    }
}

void wan_chunk_stream_lost(wan_conn *c) {
    weft_wan_calls *calls = &c->w->o.calls;
    wan_queue_lost(&c->peer->queue, c->index);
    c->tx.active = 0;
    wan_rx r = c->rx;
    c->rx.active = 0;
    if (!r.active || r.discard || twin(c) || !calls->chunk_lost) return;
    c->w->called = 1;
    calls->chunk_lost(c->w->o.arg, c->peer, &r.h, r.at);
}

/* ---- taking back ---- */

typedef struct what {
    uint32_t fragment;
    uint64_t round;
    uint16_t attempt;
} what;

static int matches(const weft_wan_chunk *h, const void *arg) {
    const what *m = arg;
    return (m->fragment == UINT32_MAX || m->fragment == h->fragment) &&
           (m->round == UINT64_MAX || m->round == h->round) &&
           (m->attempt == UINT16_MAX || m->attempt == h->attempt);
}

static void take_back(weft_wan_peer *p, const what *m, weft_status s) {
    wan_item i;
    while (wan_queue_pull(&p->queue, matches, m, &i)) give_back(p, &i, s);
}

void weft_wan_drop_chunks(weft_wan_peer *p, uint32_t fragment, uint64_t round, uint16_t attempt) {
    what m = {fragment, round, attempt};
    take_back(p, &m, WEFT_DROPPED);
}

void wan_chunk_return_all(weft_wan_peer *p, weft_status s) {
    what m = {UINT32_MAX, UINT64_MAX, UINT16_MAX};
    take_back(p, &m, s);
}

weft_status weft_wan_send_chunk(weft_wan_peer *p, const weft_wan_chunk *h, const void *data, int priority) {
    if (h->bytes > WEFT_WAN_DATA_MAX)
        return weft_fail(WEFT_ERR_ARG, "a chunk of %u bytes, at most %d", h->bytes, WEFT_WAN_DATA_MAX);
    if (h->kind < WEFT_WAN_CONTRIB || h->kind > WEFT_WAN_REPLAY || priority < 0 ||
        priority >= WEFT_WAN_PRIORITIES)
        return weft_fail(WEFT_ERR_ARG, "a chunk of kind %u and priority %d", h->kind, priority);
    return wan_queue_add(&p->queue, h, data, priority);
}
