/* The LAT lane; see lat.h. */
#include "comm/lat.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "base/trace.h"
#include "comm/ctrl.h"
#include "comm/drive.h"
#include "comm/engine.h"
#include "comm/flags.h"
#include "comm/group.h"
#include "comm/lat_internal.h"
#include "comm/stall.h"
#include "comm/ticket.h"

#define SPINS 400 /* looks before a blocking call takes the long way: about 10 us */
#define TIMED 16  /* one in so many is timed while no bulk is under way */

/* --- making one -------------------------------------------------------------------------------------------- */

static size_t slot_bytes(void) {
    return weft_align_up(sizeof(lat_record), 128);
}

weft_status lat_create(weft_group *g, lat **out) {
    lat *l = weft_calloc(1, sizeof *l);
    *out = NULL;
    weft_status s = l ? WEFT_OK : WEFT_ERR_NOMEM;
    if (l) {
        l->group = g;
        l->item = (engine_item){.group = g, .advance = lat_advance};
        l->source = weft_calloc((size_t)g->node.size, sizeof *l->source);
        l->partial = weft_calloc((size_t)g->node.size, sizeof *l->partial);
        l->scratch = weft_calloc(lat_fold_scratch(g->node.size), 1);
        if (!l->source || !l->partial || !l->scratch) s = WEFT_ERR_NOMEM;
        if (s == WEFT_OK) s = lat_net_create(g, &l->net);
        for (int i = 0; i < LAT_REQUESTS; i++) {
            l->req[i].lat = l;
            l->req[i].next = i + 1 < LAT_REQUESTS ? &l->req[i + 1] : NULL;
        }
        l->free = l->req;
    }
    /* One place more than ranks: the release. */
    const size_t places = (size_t)g->node.size + 1, lines = 2 * places * 2 * sizeof(flag_line);
    const size_t notes = 2 * places * sizeof(stall_note), slots = 2 * places * slot_bytes();
    s = weft_ctrl_agree(g, s);
    if (s >= 0) s = segment_create(g, lines + notes + slots, &l->segment);
    if (s < 0) {
        lat_destroy(l);
        return weft_context(s, "small reductions");
    }
    l->line = l->segment.at;
    l->note = (stall_note *)(void *)((unsigned char *)l->segment.at + lines);
    l->slot = (unsigned char *)l->segment.at + lines + notes;
    *out = l;
    return WEFT_OK;
}

void lat_destroy(lat *l) {
    if (!l) return;
    engine_remove(l->group->ctx, &l->item);
    segment_destroy(&l->segment);
    lat_net_destroy(l->net);
    free(l->scratch);
    free(l->source);
    free(l->partial);
    free(l);
}

/* The line (two cache lines apart: neighbours are fetched in pairs) and the slot of a place for a record. */
static flag_line *line_of(const lat *l, int place, uint64_t epoch) {
    return l->line + 2 * (2 * (size_t)place + (epoch & 1));
}
static unsigned char *slot_of(const lat *l, int place, uint64_t epoch) {
    return l->slot + (2 * (size_t)place + (epoch & 1)) * slot_bytes();
}

static stall_note *note_of(const lat *l, int place, uint64_t epoch) {
    return &l->note[2 * (size_t)place + (epoch & 1)];
}

/* --- windows ----------------------------------------------------------------------------------------------- */

static lat_window *window_of(lat *l, uint64_t seq) {
    return &l->window[seq % LAT_WINDOWS];
}

/* The open window; records are numbered from 1. */
static lat_window *open_window(lat *l) {
    return window_of(l, l->closed + 1);
}

/* Bytes of a value; 0: not a type of this lane. */
static size_t size_of(weft_dtype t) {
    switch (t) {
    case WEFT_F64:
    case WEFT_I64:
    case WEFT_U64: return 8;
    case WEFT_F32:
    case WEFT_I32: return 4;
    default: return 0;
    }
}

static uint32_t mix(uint32_t h, uint32_t v) {
    h ^= v;
    h *= 0x9e3779b1u;
    return h ^ h >> 15;
}

static void add_run(lat_window *w, weft_dtype t, weft_redop op, size_t offset, size_t bytes) {
    lat_run *last = w->runs ? &w->run[w->runs - 1] : NULL;
    if (last && last->type == t && last->op == op) {
        last->bytes += (uint32_t)bytes;
    } else {
        w->run[w->runs++] =
            (lat_run){.type = t, .op = op, .offset = (uint32_t)offset, .bytes = (uint32_t)bytes};
    }
}

/* Copies a contribution in; the rest of its last 8 bytes is zero. */
static void add_entry(lat *l, lat_window *w, const void *in, void *out, size_t n, weft_dtype t,
                      weft_redop op) {
    const size_t bytes = n * size_of(t), padded = (bytes + 7) & ~(size_t)7;
    unsigned char *to = w->record.values + w->bytes;
    if (bytes == 8) { /* the common case, without a call */
        memcpy(to, in, 8);
    } else {
        memset(to + padded - 8, 0, 8);
        memcpy(to, in, bytes);
    }
    w->entry[w->entries++] = (lat_entry){.out = out, .offset = (uint32_t)w->bytes, .bytes = (uint32_t)bytes};
    add_run(w, t, op, w->bytes, padded);
    w->bytes += padded;
    l->hash = mix(l->hash, (uint32_t)n << 12 | (uint32_t)t << 4 | (uint32_t)op);
}

/* Whether records carry the agreement on tickets: there are some, and all ranks take part. */
static int reaches_all(const lat *l) {
    return l->group->ctx->tickets && l->group->size == l->group->ctx->all->size;
}

static void close_window(lat *l, const void *site) {
    lat_window *w = open_window(l);
    weft_ctx *c = l->group->ctx;
    l->closed++;
    w->site = site;
    l->hash = w->hash = mix(l->hash, (uint32_t)l->closed);
    w->record.header = (lat_header){.admit_min = UINT32_MAX, .hash_min = l->hash, .nhash_min = ~l->hash};
    if (reaches_all(l)) w->record.header.admit_min = ticket_mine(c->tickets);
    w->record.header.flags_or = flags_take(c, l->group, l->closed);
    w->timed = c->engine.bulk || l->closed % TIMED == 0;
    if (w->timed) w->began = weft_now_ns();
}

/* --- a record on its way --------------------------------------------------------------------------------------- */

static void write_record(flag_line *line, unsigned char *slot, const lat_record *r, size_t bytes,
                         uint64_t epoch) {
    memcpy(line->data, &r->header, sizeof r->header);
    if (bytes <= LAT_INLINE)
        memcpy(line->data + sizeof r->header, r->values, bytes);
    else
        memcpy(slot, r->values, bytes);
    flag_post(line, epoch);
}

static const unsigned char *values_at(const flag_line *line, const unsigned char *slot, size_t bytes) {
    return bytes <= LAT_INLINE ? line->data + sizeof(lat_header) : slot;
}

static void start(lat *l) {
    const uint64_t e = l->started = l->done + 1;
    lat_window *w = window_of(l, e);
    const int me = l->group->node.me;
    l->seen = 0;
    const lat_run *first = &w->run[0];
    *note_of(l, me, e) = (stall_note){.seq = e,
                                      .entries = (uint32_t)w->entries,
                                      .bytes = (uint32_t)w->bytes,
                                      .type = w->runs ? (uint32_t)first->type : WEFT_DTYPE_COUNT,
                                      .op = w->runs ? (uint32_t)first->op : 0,
                                      .site = stall_site(l->group->ctx, w->site)};
    if (l->group->node.size > 1) write_record(line_of(l, me, e), slot_of(l, me, e), &w->record, w->bytes, e);
    l->phase = LAT_NODE;
}

int lat_agrees(const lat_header *h) {
    return h->hash_min == ~h->nhash_min;
}

void lat_join_headers(lat_header *h, const lat_header *o) {
    if ((int32_t)(o->admit_min - h->admit_min) < 0) h->admit_min = o->admit_min;
    if (o->hash_min < h->hash_min) h->hash_min = o->hash_min;
    if (o->nhash_min < h->nhash_min) h->nhash_min = o->nhash_min;
    h->flags_or |= o->flags_or;
}

/* Folds the records of this node's ranks into the window's own. */
static weft_status fold_node(lat *l, lat_window *w, uint64_t e) {
    const group_nodes *n = &l->group->node;
    const unsigned char **src = l->source;
    for (int i = 0; i < n->size; i++) {
        const flag_line *line = line_of(l, i, e);
        lat_header h;
        memcpy(&h, line->data, sizeof h);
        if (i != n->me) lat_join_headers(&w->record.header, &h);
        src[i] = i == n->me ? w->record.values : values_at(line, slot_of(l, i, e), w->bytes);
    }
    return lat_agrees(&w->record.header) ? lat_fold(l, w, n->size, src) : WEFT_OK;
}

static int node_is_here(lat *l, uint64_t e, int *waits_for) {
    const group_nodes *n = &l->group->node;
    for (; l->seen < n->size; l->seen++) {
        if (l->seen == n->me || flag_epoch(line_of(l, l->seen, e)) >= e) continue;
        *waits_for = n->rank[l->seen];
        return 0;
    }
    return 1;
}

/* Ours, and the first of this node that differs. */
static weft_status disagree(const lat *l, const lat_window *w) {
    const weft_group *g = l->group;
    const group_nodes *n = &g->node;
    const uint64_t e = l->started;
    char ours[256], theirs[256];
    stall_describe(g, g->rank, note_of(l, n->me, e), ours, sizeof ours);
    for (int i = 0; i < n->size; i++) {
        lat_header h;
        memcpy(&h, line_of(l, i, e)->data, sizeof h);
        if (i == n->me || h.hash_min == w->hash) continue;
        stall_describe(g, n->rank[i], note_of(l, i, e), theirs, sizeof theirs);
        return weft_fail(WEFT_ERR_ORDER, "the ranks do not post the same reductions: %s, but %s", ours,
                         theirs);
    }
    return weft_fail(WEFT_ERR_ORDER,
                     "the ranks do not post the same reductions: %s, a rank of another node another", ours);
}

static weft_status finish(lat *l, lat_window *w) {
    weft_ctx *c = l->group->ctx;
    if (!lat_agrees(&w->record.header)) return disagree(l, w);
    for (int i = 0; i < w->entries; i++)
        memcpy(w->entry[i].out, w->record.values + w->entry[i].offset, w->entry[i].bytes);
    if (reaches_all(l)) WEFT_TRY(ticket_admitted(c->tickets, w->record.header.admit_min));
    flags_arrived(c, l->group, l->started, w->record.header.flags_or);
    const uint64_t now = w->timed ? weft_now_ns() : 0;
    engine_count(c, LANE_LAT, w->timed ? now - w->began : 0, w->bytes);
    if (w->timed) weft_trace_add(WEFT_TRACK_LAT, l->group->name, w->began, now, (uint32_t)w->bytes);
    c->engine.records++;
    c->engine.entries += (uint64_t)w->entries;
    w->entries = w->runs = 0;
    w->bytes = 0;
    l->done++;
    l->phase = LAT_IDLE;
    return WEFT_OK;
}

/* The record under way, as far as it goes. OK: it is complete. */
static weft_status advance_record(lat *l, int *moved, int *waits_for) {
    const group_nodes *n = &l->group->node;
    const uint64_t e = l->started;
    lat_window *w = window_of(l, e);
    if (l->phase == LAT_NODE) {
        if (!node_is_here(l, e, waits_for)) return WEFT_IN_PROGRESS;
        if (n->size > 1) WEFT_TRY(fold_node(l, w, e));
        if (n->count == 1) return finish(l, w);
        l->phase = n->me == 0 ? LAT_NODES : LAT_RELEASE;
        *moved = 1;
        if (n->me == 0) WEFT_TRY(lat_net_begin(l->net, l, w));
    }
    if (l->phase == LAT_NODES) {
        const weft_status s = lat_net_advance(l->net, l, w, moved, waits_for);
        if (s != WEFT_OK) return s;
        if (n->size > 1)
            write_record(line_of(l, n->size, e), slot_of(l, n->size, e), &w->record, w->bytes, e);
        return finish(l, w);
    }
    const flag_line *line = line_of(l, n->size, e);
    if (flag_epoch(line) < e) {
        *waits_for = n->rank[0];
        return WEFT_IN_PROGRESS;
    }
    memcpy(&w->record.header, line->data, sizeof w->record.header);
    memcpy(w->record.values, values_at(line, slot_of(l, n->size, e), w->bytes), w->bytes);
    return finish(l, w);
}

weft_status lat_advance(engine_item *item, int *moved, int *waits_for) {
    lat *l = (lat *)item;
    while (l->done < l->closed) {
        if (l->phase == LAT_IDLE) {
            start(l);
            *moved = 1;
        }
        const weft_status s = advance_record(l, moved, waits_for);
        if (s != WEFT_OK)
            return s < 0 ? weft_context(s, "reduction %llu", (unsigned long long)l->started) : s;
        *moved = 1;
    }
    return WEFT_OK;
}

/* --- waiting --------------------------------------------------------------------------------------------------- */

typedef struct record_wait {
    comm_op op;
    lat *lat;
    uint64_t seq; /* until this record is complete */
} record_wait;

static weft_status wait_record(comm_op *op, int *moved) {
    const record_wait *w = (const record_wait *)op;
    (void)moved;
    return w->lat->done >= w->seq ? WEFT_OK : WEFT_IN_PROGRESS;
}

static weft_status wait_for(lat *l, uint64_t seq, int64_t timeout_ms, const void *site) {
    weft_group *g = l->group;
    record_wait w = {
        .op = {.group = g, .what = "small reduction", .waits_for = -1, .advance = wait_record, .site = site},
        .lat = l,
        .seq = seq};
    if (l->done >= seq) return WEFT_OK;
    lat_window *record = window_of(l, seq);
    if (!record->timed) { /* most are not timed because they are short; this one is not */
        record->timed = 1;
        record->began = weft_now_ns();
    }
    return comm_drive(&w.op, group_deadline(g, timeout_ms));
}

/* Closes the open window and sends it on its way. */
static weft_status flush(lat *l, const void *site) {
    weft_group *g = l->group;
    int moved = 0, waits_for = -1;
    close_window(l, site);
    const weft_status s = lat_advance(&l->item, &moved, &waits_for);
    if (s == WEFT_IN_PROGRESS) engine_add(g->ctx, LANE_LAT, &l->item);
    return s < 0 ? group_break(g, weft_context(s, "group '%s'", g->name)) : WEFT_OK;
}

static weft_status refuse(size_t n, weft_dtype t, weft_redop op) {
    if (!lat_takes(n, t))
        return weft_fail(WEFT_ERR_ARG,
                         "small reduction of %zu x %s: f32, f64, i32, i64 or u64, at most %d bytes", n,
                         weft_dtype_name(t), WEFT_LAT_BYTES);
    return weft_fail(WEFT_ERR_ARG, "reduction operator %d on %s", (int)op, weft_dtype_name(t));
}

static weft_status check(weft_group *g, const void *in, const void *out, size_t n, weft_dtype t,
                         weft_redop op) {
    if (!g || !g->small) return weft_fail(WEFT_ERR_ARG, "reduction without a group");
    if (!n || !in || !out) return weft_fail(WEFT_ERR_ARG, "reduction of %zu values without memory", n);
    const int whole = t != WEFT_F32 && t != WEFT_F64;
    if (!lat_takes(n, t) || (unsigned)op >= WEFT_REDOP_COUNT || (op > WEFT_MAX && !whole))
        return refuse(n, t, op);
    return group_usable(g);
}

int lat_takes(size_t n, weft_dtype t) {
    const size_t size = size_of(t);
    return size && n <= WEFT_LAT_BYTES / size;
}

/* Room in the open window for so many values: a window that is too full is sent, and a queue that is full waited for. */
static weft_status make_room(lat *l, size_t n, weft_dtype t, const void *site) {
    const size_t padded = (n * size_of(t) + 7) & ~(size_t)7;
    return open_window(l)->bytes + padded <= WEFT_LAT_BYTES ? WEFT_OK : lat_pulse(l->group, site);
}

weft_status weft_reduce_post(weft_group *g, const void *in, void *out, size_t n, weft_dtype t, weft_redop op,
                             weft_req **r) {
    if (!r) return weft_fail(WEFT_ERR_ARG, "reduction: no place for the request");
    *r = NULL;
    WEFT_TRY(check(g, in, out, n, t, op));
    lat *l = g->small;
    const void *site = __builtin_return_address(0);
    if (!l->free)
        return weft_fail(WEFT_ERR_STATE, "more than %d reductions in flight in group '%s'", LAT_REQUESTS,
                         g->name);
    WEFT_TRY(make_room(l, n, t, site));
    add_entry(l, open_window(l), in, out, n, t, op);
    weft_req *q = l->free;
    l->free = q->next;
    q->seq = l->closed + 1;
    *r = q;
    if (open_window(l)->bytes == WEFT_LAT_BYTES) return make_room(l, 1, WEFT_F64, site);
    return WEFT_OK;
}

weft_status weft_reduce_flush(weft_group *g) {
    if (!g || !g->small) return weft_fail(WEFT_ERR_ARG, "flush without a group");
    WEFT_TRY(group_usable(g));
    if (!open_window(g->small)->entries) return WEFT_OK;
    return make_room(g->small, WEFT_LAT_BYTES / 8, WEFT_F64, __builtin_return_address(0));
}

static void release_request(weft_req **r) {
    weft_req *q = *r;
    q->next = q->lat->free;
    q->lat->free = q;
    *r = NULL;
}

/* A program that tests in a loop waits, too: its weft_quiet ends like that of a wait. */
static int long_missed(lat *l) {
    const uint64_t now = weft_now_ns();
    if (!l->missed) l->missed = now;
    return now - l->missed >= DRIVE_QUIET_NS;
}

weft_status weft_test(weft_req **r) {
    if (!r) return weft_fail(WEFT_ERR_ARG, "test without a request");
    if (!*r) return WEFT_OK;
    lat *l = (*r)->lat;
    WEFT_TRY(group_usable(l->group));
    if ((*r)->seq > l->closed) WEFT_TRY(weft_reduce_flush(l->group));
    if (l->done < (*r)->seq) engine_glance(l->group->ctx, !l->group->ctx->engine.quiet || long_missed(l));
    WEFT_TRY(group_usable(l->group));
    if (l->done < (*r)->seq) return WEFT_IN_PROGRESS;
    l->missed = 0;
    release_request(r);
    return WEFT_OK;
}

weft_status weft_wait(weft_req **r, int64_t timeout_ms) {
    if (!r) return weft_fail(WEFT_ERR_ARG, "wait without a request");
    if (!*r) return WEFT_OK;
    lat *l = (*r)->lat;
    const void *site = __builtin_return_address(0);
    WEFT_TRY(group_usable(l->group));
    if ((*r)->seq > l->closed) WEFT_TRY(make_room(l, WEFT_LAT_BYTES / 8, WEFT_F64, site));
    WEFT_TRY(wait_for(l, (*r)->seq, timeout_ms, site));
    release_request(r);
    return WEFT_OK;
}

weft_status lat_allreduce(weft_group *g, const void *in, void *out, size_t n, weft_dtype t, weft_redop op,
                          const void *site) {
    WEFT_TRY(check(g, in, out, n, t, op));
    lat *l = g->small;
    weft_ctx *c = g->ctx;
    WEFT_TRY(make_room(l, n, t, site));
    add_entry(l, open_window(l), in, out, n, t, op);
    close_window(l, site);
    const uint64_t seq = l->closed;
    weft_status s = WEFT_IN_PROGRESS;
    const int alone = !c->engine.urgent && !c->engine.bulk && !peers_crowded(c->peers);
    for (int i = alone ? SPINS : 1; i > 0 && s == WEFT_IN_PROGRESS; i--) {
        int moved = 0, waits_for = -1;
        s = lat_advance(&l->item, &moved, &waits_for);
    }
    if (s < 0) return group_break(g, weft_context(s, "group '%s'", g->name));
    if (s == WEFT_IN_PROGRESS) engine_add(c, LANE_LAT, &l->item);
    /* A queue that is full is waited for here, so that there is an open window after every call. */
    return s == WEFT_OK ? s : wait_for(l, seq, -1, site);
}

weft_status lat_pulse(weft_group *g, const void *site) {
    lat *l = g->small;
    WEFT_TRY(flush(l, site));
    return wait_for(l, l->closed + 1 > LAT_WINDOWS ? l->closed + 1 - LAT_WINDOWS : 0, -1, site);
}

weft_status lat_wait(const weft_group *g, uint64_t seq, const void *site) {
    return wait_for(g->small, seq, -1, site);
}

const stall_note *lat_last(const weft_group *g, int rank) {
    const lat *l = g->small;
    for (int i = 0; l && i < g->node.size; i++) {
        if (g->node.rank[i] != rank) continue;
        const stall_note *a = note_of(l, i, 0), *b = note_of(l, i, 1);
        return a->seq > b->seq ? a : b;
    }
    return NULL;
}
