/* The engine; see engine.h. */
#include "comm/engine.h"

#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/trace.h"
#include "comm/carrier/p2p.h"
#include "comm/group.h"

static engine_item **find(engine_item **list, const engine_item *i) {
    while (*list && *list != i) list = &(*list)->next;
    return list;
}

void engine_add(weft_ctx *c, engine_lane lane, engine_item *i) {
    engine *e = &c->engine;
    if (i->listed) return;
    engine_item **at = lane == LANE_BULK ? &e->bulk : &e->urgent;
    while (*at && (lane != LANE_BULK || !i->urgent || (*at)->urgent)) at = &(*at)->next;
    i->next = *at;
    i->listed = 1;
    *at = i;
}

void engine_remove(weft_ctx *c, engine_item *i) {
    engine *e = &c->engine;
    engine_item **at = find(&e->urgent, i);
    if (!*at) at = find(&e->bulk, i);
    if (*at) *at = i->next;
    i->listed = 0;
}

/* Advances one item; over or failed, it leaves its list. */
static void advance(weft_ctx *c, engine_item *i, int *moved) {
    int waits_for = -1;
    const weft_status s = i->group->broken == WEFT_OK ? i->advance(i, moved, &waits_for) : i->group->broken;
    if (s == WEFT_IN_PROGRESS) {
        if (waits_for >= 0) i->group->waits_for = waits_for;
        return;
    }
    engine_remove(c, i);
    *moved = 1;
    if (s < 0) group_break(i->group, weft_context(s, "group '%s'", i->group->name));
}

static void one_piece(weft_ctx *c, int *moved) {
    engine *e = &c->engine;
    const uint64_t began = weft_now_ns();
    for (engine_item *i = e->bulk, *next; i && !*moved; i = next) {
        next = i->next;
        advance(c, i, moved);
    }
    if (!*moved) return;
    const uint64_t ended = weft_now_ns(), took = ended - began;
    weft_trace_add(WEFT_TRACK_PIECE, "piece", began, ended, (uint32_t)e->quanta);
    if (took > e->longest_quantum) e->longest_quantum = took;
    e->quanta++;
}

void engine_poll(weft_ctx *c, int bulks, int *moved) {
    engine *e = &c->engine;
    if (e->in_poll || (!e->urgent && !e->bulk)) return;
    e->in_poll = 1;
    for (engine_item *i = e->urgent, *next; i; i = next) {
        next = i->next;
        advance(c, i, moved);
    }
    if (!*moved && bulks && e->bulk) one_piece(c, moved);
    e->in_poll = 0;
}

/* Peers of all that is under way. An error breaks the group, and is seen there. */
static void look_at_peers(const engine_item *list) {
    for (const engine_item *i = list; i; i = i->next) {
        if (i->group->broken != WEFT_OK) continue;
        const weft_status s = peers_check(i->group);
        if (s < 0) group_break(i->group, weft_context(s, "group '%s'", i->group->name));
    }
}

void engine_glance(weft_ctx *c, int bulks) {
    engine *e = &c->engine;
    int moved = 0;
    engine_poll(c, bulks, &moved);
    if (moved || (!e->urgent && !e->bulk)) return;
    const uint64_t now = weft_now_ns();
    if (now < e->look_at) return;
    if (e->look_at) {
        look_at_peers(e->urgent);
        look_at_peers(e->bulk);
    }
    e->look_at = now + PEERS_PERIOD_NS;
}

static weft_ctx *contexts;

void engine_join(weft_ctx *c) {
    c->next = contexts;
    contexts = c;
}

void engine_leave(weft_ctx *c) {
    weft_ctx **at = &contexts;
    while (*at && *at != c) at = &(*at)->next;
    if (*at) *at = c->next;
}

void engine_poll_others(const weft_ctx *c) {
    int moved = 0;
    for (weft_ctx *o = contexts; o; o = o->next)
        if (o != c) engine_poll(o, !o->engine.quiet, &moved);
    p2p_nudge();
}

void engine_count(weft_ctx *c, engine_lane lane, uint64_t ns, uint64_t bytes) {
    engine *e = &c->engine;
    e->lane[lane].count++;
    e->lane[lane].bytes += bytes;
    if (!ns) return;
    weft_hist_add(&e->lane[lane].ns, ns);
    if (lane == LANE_LAT && e->bulk) weft_hist_add(&e->loaded, ns);
}

/* --- the caller's side ---------------------------------------------------------------------------------------- */

static int anything_left(void) {
    for (const weft_ctx *c = contexts; c; c = c->next)
        if (c->engine.urgent || c->engine.bulk) return 1;
    return 0;
}

static weft_status progress_of_all(uint64_t until) {
    while (anything_left()) {
        engine_poll_others(NULL);
        if (weft_now_ns() >= until) break;
    }
    return anything_left() ? WEFT_IN_PROGRESS : WEFT_OK;
}

weft_status weft_progress(weft_ctx *c, int64_t usec) {
    const uint64_t until = weft_now_ns() + (usec > 0 ? (uint64_t)usec * 1000u : 0);
    if (!c) return progress_of_all(until);
    engine *e = &c->engine;
    do {
        engine_glance(c, 1);
    } while ((e->urgent || e->bulk) && weft_now_ns() < until);
    return group_usable(c->all);
}

weft_status weft_poll(weft_ctx *c, int64_t usec) {
    if (!c) return weft_fail(WEFT_ERR_ARG, "poll without a context");
    const engine *e = &c->engine;
    if (!e->urgent && !e->bulk) return group_usable(c->all);
    const uint64_t until = weft_now_ns() + (usec > 0 ? (uint64_t)usec * 1000u : 0);
    int moved;
    do {
        moved = 0;
        engine_poll(c, 1, &moved);
    } while (moved && weft_now_ns() < until);
    return group_usable(c->all);
}

weft_status weft_quiet(weft_ctx *c, int on) {
    if (!c) return weft_fail(WEFT_ERR_ARG, "quiet without a context");
    if (!on && !c->engine.quiet) return weft_fail(WEFT_ERR_STATE, "weft_quiet ended more often than begun");
    c->engine.quiet += on ? 1 : -1;
    return WEFT_OK;
}

static weft_lane_stats lane_stats(const weft_hist *h, uint64_t count, uint64_t bytes) {
    return (weft_lane_stats){.count = count,
                             .bytes = bytes,
                             .p50_us = (double)weft_hist_quantile(h, 0.5) * 1e-3,
                             .p99_us = (double)weft_hist_quantile(h, 0.99) * 1e-3,
                             .max_us = (double)h->max * 1e-3};
}

static weft_lane_stats stats_of(const engine *e, engine_lane l) {
    return lane_stats(&e->lane[l].ns, e->lane[l].count, e->lane[l].bytes);
}

weft_status weft_stats(weft_ctx *c, weft_stats_buf *s, int reset) {
    if (!c || !s || s->size != sizeof *s)
        return weft_fail(WEFT_ERR_ARG, "statistics: the structure has %u bytes, expected %zu",
                         s ? s->size : 0, sizeof *s);
    engine *e = &c->engine;
    s->lat = stats_of(e, LANE_LAT);
    s->halo = stats_of(e, LANE_HALO);
    s->bulk = stats_of(e, LANE_BULK);
    s->ctrl = stats_of(e, LANE_CTRL);
    s->lat_loaded = lane_stats(&e->loaded, e->loaded.count, 0);
    s->records = e->records;
    s->entries = e->entries;
    s->quanta = e->quanta;
    s->pulses = e->pulses;
    s->longest_quantum_us = (double)e->longest_quantum * 1e-3;
    if (!reset) return WEFT_OK;
    memset(e->lane, 0, sizeof e->lane);
    memset(&e->loaded, 0, sizeof e->loaded);
    e->records = e->entries = e->quanta = e->pulses = e->longest_quantum = 0;
    return WEFT_OK;
}
