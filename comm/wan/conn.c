/* Frames on a connection; see endpoint.h. Reading is a small machine: header, body, sum; or header, header of a chunk,
 * payload straight to its place, sum. Nothing longer than what the phase allows gets room. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/crc32c.h"
#include "base/mem.h"
#include "comm/wan/endpoint.h"

/* One record at a time: what TLS could not hand on at once it has encrypted already, and its sum is kept, since its bytes
 * may be zeros by the next call. Offered more than a record, TLS would keep more than one. */
enum { WAN_RECORD = 16384 };

static const uint8_t zeros[WAN_RECORD];

/* ---- in ---- */

/* Reads up to `want` bytes of the current stage to `to`; 1: they are complete. */
static int fill(wan_conn *c, uint8_t *to, size_t want, size_t *turn) {
    size_t got = 0;
    if (c->got < want) {
        weft_status s = wan_link_read(&c->link, to + c->got, want - c->got, &got, c->w->now);
        if (s < 0) {
            wan_conn_end(c, s);
            return 0;
        }
        c->got += got;
        *turn += got;
        if (!got) c->more = 0;
    }
    return c->got == want;
}

static void next_stage(wan_conn *c, wan_stage stage) {
    c->stage = stage;
    c->got = 0;
}

static uint32_t body_limit(const wan_conn *c) {
    if (c->phase != WAN_READY) return WAN_STRANGER_BODY;
    return c->data ? WEFT_WAN_CHUNK + WEFT_WAN_DATA_MAX : WEFT_WAN_BODY_MAX;
}

static weft_status on_head(wan_conn *c) {
    weft_wan_frame *f = &c->frame;
    WEFT_TRY(weft_wan_frame_unpack(c->head, body_limit(c), f));
    c->crc = weft_crc32c(0, c->head, WEFT_WAN_FRAME);
    if (f->type == WEFT_WAN_CHUNK_FRAME) {
        if (c->phase != WAN_READY || !c->data || f->body < WEFT_WAN_CHUNK || !f->req)
            return weft_fail(WEFT_ERR_FORMAT, "a chunk where none may come");
        next_stage(c, WAN_CHUNK_HEAD);
        return WEFT_OK;
    }
    int answer = f->type == WEFT_WAN_BOUND && !c->accepted && !c->bound && !f->body;
    if (c->phase == WAN_READY && c->data && !answer)
        return weft_fail(WEFT_ERR_FORMAT, "a frame of type %u on a data stream", f->type);
    if (f->body > c->body_size) {
        uint8_t *more = weft_reallocarray(c->body, f->body, 1);
        if (!more) return WEFT_ERR_NOMEM;
        c->body = more;
        c->body_size = f->body;
    }
    next_stage(c, WAN_BODY);
    return WEFT_OK;
}

static weft_status on_chunk_head(wan_conn *c) {
    WEFT_TRY(weft_wan_chunk_unpack(c->head, &c->rx.h));
    if (c->rx.h.bytes != c->frame.body - WEFT_WAN_CHUNK)
        return weft_fail(WEFT_ERR_FORMAT, "a chunk of %u bytes in a frame of %u", c->rx.h.bytes,
                         c->frame.body);
    c->crc = weft_crc32c(c->crc, c->head, WEFT_WAN_CHUNK);
    c->rx.id = c->frame.req;
    next_stage(c, WAN_PAYLOAD);
    wan_chunk_begin(c);
    return WEFT_OK;
}

/* Payload, piece by piece; what is dropped goes to the scratch. */
static int on_payload(wan_conn *c, size_t *turn) {
    size_t left = c->rx.h.bytes - c->got, got = 0;
    int place = !c->rx.discard;
    uint8_t *to = place ? c->rx.at + c->got : c->w->scratch;
    if (!place && left > WAN_SCRATCH) left = WAN_SCRATCH;
    if (place && left > WAN_TURN) left = WAN_TURN;
    if (!left) return 1;
    weft_status s = wan_link_read(&c->link, to, left, &got, c->w->now);
    if (s < 0) {
        wan_conn_end(c, s);
        return 0;
    }
    if (!got) c->more = 0;
    c->crc = weft_crc32c(c->crc, to, got);
    c->got += got;
    *turn += got;
    return c->got == c->rx.h.bytes;
}

static weft_status on_sum(wan_conn *c) {
    uint32_t sum = weft_get_u32(c->head);
    next_stage(c, WAN_HEAD);
    if (c->rx.active) {
        /* The complement: the sender gave up in between, and knows. */
        wan_chunk_end how = sum == c->crc ? WAN_CHUNK_WHOLE : sum == ~c->crc ? WAN_CHUNK_VOID : WAN_CHUNK_BAD;
        wan_chunk_done(c, how);
        return WEFT_OK;
    }
    if (sum != c->crc)
        return weft_fail(WEFT_ERR_CORRUPT, "a frame of type %u with a wrong check sum", c->frame.type);
    return wan_peer_frame(c, c->body);
}

/* One stage; 0: no more bytes for now, or the end. */
static int advance(wan_conn *c, size_t *turn) {
    weft_status s = WEFT_OK;
    switch (c->stage) {
    case WAN_HEAD:
        if (!fill(c, c->head, WEFT_WAN_FRAME, turn)) return 0;
        s = on_head(c);
        break;
    case WAN_BODY:
        if (!fill(c, c->body, c->frame.body, turn)) return 0;
        c->crc = weft_crc32c(c->crc, c->body, c->frame.body);
        next_stage(c, WAN_SUM);
        break;
    case WAN_CHUNK_HEAD:
        if (!fill(c, c->head, WEFT_WAN_CHUNK, turn)) return 0;
        s = on_chunk_head(c);
        break;
    case WAN_PAYLOAD:
        if (!on_payload(c, turn)) return c->more && c->phase != WAN_DEAD;
        next_stage(c, WAN_SUM);
        break;
    case WAN_SUM:
        if (!fill(c, c->head, WEFT_WAN_CRC, turn)) return 0;
        s = on_sum(c);
        break;
    }
    if (s < 0 && c->phase != WAN_DEAD) wan_conn_end(c, s);
    return c->phase != WAN_DEAD && c->phase != WAN_HELD;
}

void wan_conn_read(wan_conn *c) {
    size_t turn = 0;
    c->more = 1;
    while (turn < WAN_TURN)
        if (!advance(c, &turn)) {
            /* A stage that is not complete has read until there was nothing: only a full turn leaves bytes behind. */
            if (c->phase != WAN_DEAD && c->more) continue;
            break;
        }
    if (c->phase == WAN_DEAD || c->phase == WAN_HELD) c->more = 0;
}

/* ---- out ---- */

weft_status wan_conn_say(wan_conn *c, uint16_t type, const void *body, size_t n) {
    weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, type, 0, (uint32_t)n, 0, 0};
    size_t need = WEFT_WAN_FRAME + n + WEFT_WAN_CRC, waits = c->say_to - c->say_from;
    if (waits + need > WAN_SAY_MAX)
        return weft_fail(WEFT_ERR_NOMEM, "%zu bytes of messages wait for %s, which does not take them", waits,
                         c->peer ? c->peer->name : c->host);
    if (c->say_from && c->say_to + need > c->say_size) {
        memmove(c->say, c->say + c->say_from, waits);
        c->say_from = 0;
        c->say_to = waits;
    }
    if (c->say_to + need > c->say_size) {
        size_t size = 2 * (c->say_to + need);
        uint8_t *more = weft_reallocarray(c->say, size, 1);
        if (!more) return WEFT_ERR_NOMEM;
        c->say = more;
        c->say_size = size;
    }
    uint8_t *p = c->say + c->say_to;
    weft_wan_frame_pack(&f, p);
    if (n) memcpy(p + WEFT_WAN_FRAME, body, n);
    weft_put_u32(p + WEFT_WAN_FRAME + n, weft_crc32c(0, p, WEFT_WAN_FRAME + n));
    c->say_to += need;
    return WEFT_OK;
}

/* Hands n bytes to the link; 1: it took some. */
static int put(wan_conn *c, const uint8_t *from, size_t n, size_t *took) {
    weft_status s = wan_link_write(&c->link, from, n, took, c->w->now);
    if (s >= 0 && !*took) {
        s = wan_link_flush(&c->link, c->w->now);
        if (s >= 0) s = wan_link_write(&c->link, from, n, took, c->w->now);
    }
    if (s < 0) wan_conn_end(c, s);
    return s >= 0 && *took > 0;
}

static int write_messages(wan_conn *c, size_t *turn) {
    size_t took = 0;
    if (!put(c, c->say + c->say_from, c->say_to - c->say_from, &took)) return 0;
    c->say_from += took;
    *turn += took;
    if (c->say_from == c->say_to) c->say_from = c->say_to = 0;
    return 1;
}

/* The next piece of the frame of c->tx: where it is and how long. Its sum is known when all before it is gone. */
static const uint8_t *piece(wan_tx *t, size_t *n) {
    const size_t head = sizeof t->head, data = head + t->bytes;
    if (t->at < head) {
        *n = head - t->at;
        return t->head + t->at;
    }
    if (t->at < data) {
        size_t left = data - t->at;
        *n = left < WAN_RECORD ? left : WAN_RECORD; /* never less on a retry, as TLS wants it */
        return t->data ? t->data + (t->at - head) : zeros;
    }
    if (t->at == data) weft_put_u32(t->sum, t->voided ? ~t->crc : t->crc);
    *n = data + WEFT_WAN_CRC - t->at;
    return t->sum + (t->at - data);
}

static int write_chunk(wan_conn *c, size_t *turn) {
    wan_tx *t = &c->tx;
    size_t n = 0, took = 0;
    const uint8_t *p = piece(t, &n);
    int went = put(c, p, n, &took);
    if (!went && c->link.ssl && !t->stuck) {
        t->stuck = (uint32_t)n;
        t->stuck_crc = weft_crc32c(t->crc, p, t->stuck);
    }
    if (!went) return 0;
    if (t->at < sizeof t->head + t->bytes)
        t->crc = t->stuck == took ? t->stuck_crc : weft_crc32c(t->crc, p, took);
    t->stuck = 0;
    t->at += took;
    *turn += took;
    if (t->at == sizeof t->head + t->bytes + WEFT_WAN_CRC) t->active = 0;
    return 1;
}

int wan_conn_has_out(const wan_conn *c) {
    if (c->phase == WAN_DEAD || c->phase == WAN_DIALLING || c->phase == WAN_SHAKING) return 0;
    return c->say_to > c->say_from || c->tx.active || wan_link_pending(&c->link) || wan_chunk_waits(c);
}

void wan_conn_write(wan_conn *c) {
    size_t turn = 0;
    while (c->phase != WAN_DEAD && turn < WAN_TURN) {
        int went = 0;
        if (c->tx.active)
            went = write_chunk(c, &turn);
        else if (c->say_to > c->say_from)
            went = write_messages(c, &turn);
        else
            went = wan_chunk_next(c);
        if (!went) break;
    }
    if (c->phase == WAN_DEAD) return;
    weft_status s = wan_link_flush(&c->link, c->w->now);
    if (s < 0) wan_conn_end(c, s);
}
