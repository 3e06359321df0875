/* How chunks come and go: place, arrived, lost; next, sent; missing, serve.
 *
 * A transfer has its own hold on its slab. One that fills a cell gives it to the table when it is whole, unless the cell was
 * given up meanwhile (then `slab` there is another, or none): so a round may end, be voided or forgotten at any time. */
#include <string.h>

#include "runtime/sites/exchange_internal.h"

/* --- coming --- */

/* Is this contribution's chunk one that this member needs by the terms that it knows? Others are taken in as far as there
 * is room: their sender may have heard of an attempt that this member has not. */
static int needed_now(const weft_exchange *x, const exchange_slot *s, const weft_exchange_chunk *c) {
    uint32_t first = 0, end = 0;
    if (!s || !s->known) return 0;
    exchange_part(x, s, x->self, &first, &end);
    return exchange_in(s->members, c->src) && c->chunk >= first && c->chunk < end;
}

/* The row that a chunk belongs to; -1: it has no place. */
static int row_for(const weft_exchange *x, const weft_exchange_chunk *c) {
    uint64_t open = x->version + 1;
    const exchange_slot *s = exchange_slot_of(x, c->round);
    if (c->src >= WEFT_EXCHANGE_MEMBERS || c->chunk >= x->count || !c->round) return -1;
    switch (c->kind) {
    case WEFT_EXCHANGE_CONTRIB:
        if ((c->round != open && c->round != open + 1) || c->src == x->self || c->codec != x->up) return -1;
        return needed_now(x, s, c) || x->early < x->early_most ? c->src : -1;
    case WEFT_EXCHANGE_RESULT:
        if (!s || !s->known || s->gather || s->attempt != (int32_t)c->attempt || c->codec != x->down)
            return -1;
        if (exchange_owner(s, c->chunk) != c->src || (c->src == x->self && !s->committed)) return -1;
        return EXCHANGE_RESULT;
    case WEFT_EXCHANGE_REPLAY:
        if (!s || !s->committed) return -1;
        if (s->gather) return exchange_in(s->set, c->src) && c->codec == x->up ? c->src : -1;
        return c->codec == x->down ? EXCHANGE_RESULT : -1;
    case WEFT_EXCHANGE_STATE: break;
    }
    return -1;
}

/* 0: an older incarnation's. A newer one voids what is here. */
static int admit(weft_exchange *x, exchange_slot *s, const weft_exchange_chunk *c) {
    if (c->kind != WEFT_EXCHANGE_CONTRIB) return 1;
    if (c->incarnation < s->incarnation[c->src]) return 0;
    if (c->incarnation > s->incarnation[c->src]) {
        if (s->incarnation[c->src]) exchange_clear_row(x, s, c->src);
        s->incarnation[c->src] = c->incarnation;
    }
    return 1;
}

void *weft_exchange_place(weft_exchange *x, const weft_exchange_chunk *c) {
    int row = row_for(x, c);
    if (row < 0 || c->bytes != exchange_bytes(x, c->codec, c->chunk)) return NULL;
    exchange_slot *s = exchange_open_slot(x, c->round);
    if (s->sealed && !s->committed && row != EXCHANGE_RESULT) return NULL; /* too late to count */
    if (!admit(x, s, c)) return NULL;
    exchange_cell *cell = exchange_cell_of(x, s, (uint32_t)row, c->chunk);
    if (cell->state != CELL_EMPTY) return NULL;
    cell->slab = weft_slabs_take(row == EXCHANGE_RESULT ? x->downs : x->ups);
    if (!cell->slab) return NULL;
    cell->state = CELL_COMING;
    x->early += c->kind == WEFT_EXCHANGE_CONTRIB && !needed_now(x, s, c);
    return cell->slab;
}

/* The cell that this transfer still fills. */
static exchange_cell *cell_of_transfer(const weft_exchange *x, const weft_exchange_chunk *c, const void *at,
                                       exchange_slot **s, uint32_t *row) {
    *s = exchange_slot_of(x, c->round);
    *row = c->kind == WEFT_EXCHANGE_RESULT || (c->kind == WEFT_EXCHANGE_REPLAY && *s && !(*s)->gather)
               ? EXCHANGE_RESULT
               : c->src;
    if (!*s || *row >= EXCHANGE_ROWS || c->chunk >= x->count) return NULL;
    exchange_cell *cell = exchange_cell_of(x, *s, *row, c->chunk);
    return cell->state == CELL_COMING && cell->slab == at ? cell : NULL;
}

weft_status weft_exchange_arrived(weft_exchange *x, const weft_exchange_chunk *c, void *at) {
    exchange_slot *s = NULL;
    uint32_t row = 0, first = 0, end = 0;
    exchange_cell *cell = cell_of_transfer(x, c, at, &s, &row);
    if (!cell) {
        exchange_drop(x, at);
        return WEFT_DROPPED;
    }
    cell->state = CELL_HERE;
    cell->hashed = 0;
    if (!s->known) return WEFT_OK;
    exchange_part(x, s, x->self, &first, &end);
    s->here[row] += row == EXCHANGE_RESULT || (c->chunk >= first && c->chunk < end);
    if (row != EXCHANGE_RESULT && !s->gather)
        return WEFT_OK; /* an owner has no use for leaves of contributions */
    weft_site_hash leaf;
    return exchange_leaf(x, s, row, c->chunk, &leaf);
}

void weft_exchange_lost(weft_exchange *x, const weft_exchange_chunk *c, void *at) {
    exchange_slot *s = NULL;
    uint32_t row = 0;
    exchange_cell *cell = cell_of_transfer(x, c, at, &s, &row);
    if (cell) {
        cell->state = CELL_EMPTY;
        cell->slab = NULL;
        if (c->kind == WEFT_EXCHANGE_CONTRIB && !needed_now(x, s, c) && x->early) x->early--;
    }
    exchange_drop(x, at);
}

/* --- going --- */

/* The first chunk of that kind which the peer lacks and which is here; x->count: none. */
static uint32_t next_for(weft_exchange *x, const exchange_slot *s, int kind, uint32_t peer) {
    uint32_t first = 0, end = 0, row = kind == SEND_RESULT ? EXCHANGE_RESULT : x->self;
    uint32_t *hint = &x->hint[kind][peer];
    const uint8_t *sent = exchange_sent_at(x, kind, peer);
    exchange_part(x, s, kind == SEND_RESULT ? x->self : peer, &first, &end);
    uint32_t i = *hint > first ? *hint : first;
    while (i < end && sent[i] != SENT_NOT) i++;
    *hint = i;
    return i < end && exchange_cell_of(x, s, row, i)->state == CELL_HERE ? i : x->count;
}

static int give(weft_exchange *x, const exchange_slot *s, int kind, uint32_t peer, weft_exchange_item *item) {
    uint32_t i = next_for(x, s, kind, peer);
    if (i == x->count) return 0;
    int result = kind == SEND_RESULT;
    weft_codec codec = result ? x->down : x->up;
    exchange_sent_at(x, kind, peer)[i] = SENT_OUT;
    item->to = (uint16_t)peer;
    item->data = exchange_cell_of(x, s, result ? EXCHANGE_RESULT : x->self, i)->slab;
    item->chunk = (weft_exchange_chunk){.kind = result ? WEFT_EXCHANGE_RESULT : WEFT_EXCHANGE_CONTRIB,
                                        .codec = codec,
                                        .round = s->round,
                                        .attempt = (uint16_t)s->attempt,
                                        .src = x->self,
                                        .chunk = i,
                                        .bytes = (uint32_t)exchange_bytes(x, codec, i)};
    exchange_hold(x, item->data);
    x->turn = (peer + 1) % WEFT_EXCHANGE_MEMBERS;
    return 1;
}

int weft_exchange_next(weft_exchange *x, uint64_t ready, weft_exchange_item *item) {
    const exchange_slot *s = exchange_slot_of(x, x->version + 1);
    if (!s || !s->known) return 0;
    ready &= s->members & ~(1ull << x->self);
    int kind = s->sealed ? SEND_RESULT : SEND_CONTRIB;
    if (!ready || (s->sealed && s->gather)) return 0;
    for (uint32_t i = 0; i < WEFT_EXCHANGE_MEMBERS; i++) {
        uint32_t peer = (x->turn + i) % WEFT_EXCHANGE_MEMBERS;
        if (exchange_in(ready, peer) && give(x, s, kind, peer, item)) return 1;
    }
    return 0;
}

void weft_exchange_sent(weft_exchange *x, uint16_t to, const weft_exchange_chunk *c, const void *data,
                        weft_status s) {
    const exchange_slot *slot = exchange_slot_of(x, x->version + 1);
    int kind = c->kind == WEFT_EXCHANGE_RESULT ? SEND_RESULT : SEND_CONTRIB;
    exchange_drop(x, data);
    if (!slot || c->round != slot->round || c->kind == WEFT_EXCHANGE_REPLAY || to >= WEFT_EXCHANGE_MEMBERS ||
        c->chunk >= x->count)
        return;
    if (kind == SEND_RESULT && slot->attempt != (int32_t)c->attempt) return; /* another content */
    uint8_t *sent = exchange_sent_at(x, kind, to) + c->chunk;
    if (*sent != SENT_OUT) return;
    int there = s >= 0 && s != WEFT_DROPPED;
    *sent = there ? SENT_DONE : SENT_NOT;
    if (!there && c->chunk < x->hint[kind][to]) x->hint[kind][to] = c->chunk;
}

void weft_exchange_resend(weft_exchange *x, uint16_t to) {
    if (to >= WEFT_EXCHANGE_MEMBERS) return;
    for (int kind = 0; kind < SEND_KINDS; kind++) {
        memset(exchange_sent_at(x, kind, to), SENT_NOT, x->count);
        x->hint[kind][to] = 0;
    }
}

/* --- pulling --- */

/* Does this member lack the cell, in the sense of missing? */
static int lacks(const weft_exchange *x, const exchange_slot *s, uint64_t from, uint32_t row,
                 uint32_t chunk) {
    if (exchange_cell_of(x, s, row, chunk)->state != CELL_EMPTY || (s->sealed && !s->set)) return 0;
    if (s->committed) return row == EXCHANGE_RESULT ? !s->gather : s->gather && exchange_in(s->set, row);
    if (row == EXCHANGE_RESULT) return s->sealed && !s->gather && exchange_owner(s, chunk) != x->self;
    uint32_t first = 0, end = 0;
    exchange_part(x, s, x->self, &first, &end);
    return !s->sealed && row != x->self && exchange_in(from & s->members, row) && chunk >= first &&
           chunk < end;
}

/* What its header says. */
static void describe(const weft_exchange *x, const exchange_slot *s, uint32_t row, uint32_t chunk,
                     weft_exchange_chunk *c) {
    int result = row == EXCHANGE_RESULT;
    weft_codec codec = result ? x->down : x->up;
    *c = (weft_exchange_chunk){.kind = s->committed ? WEFT_EXCHANGE_REPLAY
                                       : result     ? WEFT_EXCHANGE_RESULT
                                                    : WEFT_EXCHANGE_CONTRIB,
                               .codec = codec,
                               .round = s->round,
                               .attempt = (uint16_t)(s->attempt < 0 ? 0 : s->attempt),
                               .src = (uint16_t)(result ? exchange_owner(s, chunk) : row),
                               .chunk = chunk,
                               .bytes = (uint32_t)exchange_bytes(x, codec, chunk),
                               .incarnation = result ? 0 : s->incarnation[row]};
}

int weft_exchange_missing(const weft_exchange *x, uint64_t round, uint64_t from, uint64_t *cursor,
                          weft_exchange_chunk *c) {
    const exchange_slot *s = exchange_slot_of(x, round);
    if (!s || !s->known) return 0;
    for (uint64_t i = *cursor; i < (uint64_t)EXCHANGE_ROWS * x->count; i++) {
        uint32_t row = (uint32_t)(i / x->count), chunk = (uint32_t)(i % x->count);
        if (!lacks(x, s, from, row, chunk)) continue;
        describe(x, s, row, chunk, c);
        *cursor = i + 1;
        return 1;
    }
    *cursor = (uint64_t)EXCHANGE_ROWS * x->count;
    return 0;
}

int weft_exchange_missing_of(const weft_exchange *x, uint64_t round, uint32_t chunk, uint32_t *cursor,
                             weft_exchange_chunk *c) {
    const exchange_slot *s = exchange_slot_of(x, round);
    if (!s || !s->committed || chunk >= x->count) return 0;
    for (uint32_t row = *cursor; row < EXCHANGE_ROWS; row++) {
        if (!lacks(x, s, ~0ull, row, chunk)) continue;
        describe(x, s, row, chunk, c);
        *cursor = row + 1;
        return 1;
    }
    *cursor = EXCHANGE_ROWS;
    return 0;
}

int weft_exchange_kept(const weft_exchange *x, uint64_t round, float *eta) {
    const exchange_slot *s = exchange_slot_of(x, round);
    if (!s || !s->committed) return 0;
    if (eta) *eta = s->eta;
    return s->gather ? 2 : 1;
}

size_t weft_exchange_lacking(const weft_exchange *x, uint64_t round, uint32_t chunk) {
    const exchange_slot *s = exchange_slot_of(x, round);
    size_t bytes = 0;
    if (!s || !s->committed || chunk >= x->count) return SIZE_MAX;
    for (uint32_t row = 0; s->set && row < EXCHANGE_ROWS; row++) {
        int needed = row == EXCHANGE_RESULT ? !s->gather : s->gather && exchange_in(s->set, row);
        if (needed && exchange_cell_of(x, s, row, chunk)->state != CELL_HERE)
            bytes += exchange_bytes(x, row == EXCHANGE_RESULT ? x->down : x->up, chunk);
    }
    return bytes;
}

const void *weft_exchange_serve(weft_exchange *x, weft_exchange_chunk *c) {
    const exchange_slot *s = exchange_slot_of(x, c->round);
    if (!s || c->chunk >= x->count || c->src >= WEFT_EXCHANGE_MEMBERS) return NULL;
    int result = s->committed ? !s->gather : c->kind == WEFT_EXCHANGE_RESULT;
    if (result && !s->known) return NULL;
    uint32_t row = result ? EXCHANGE_RESULT : c->src;
    const exchange_cell *cell = exchange_cell_of(x, s, row, c->chunk);
    if (cell->state != CELL_HERE) return NULL;
    describe(x, s, row, c->chunk, c);
    exchange_hold(x, cell->slab);
    return cell->slab;
}
