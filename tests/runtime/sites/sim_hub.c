/* What a live hub does around its machine, in virtual time: an append is on disk only after a sync, a killed hub may
 * lose what was not synced, synced records are streamed to connections in order. */
#include <stdlib.h>
#include <string.h>

#include "tests/runtime/sites/sim.h"

#define TICK (500 * MS)

static void to_site(sim_world *w, uint64_t c, const weft_site_message *m, uint64_t record) {
    sim_conn *k = &w->conn[c];
    if (!k->open || k->hub_life != w->hub.life) return;
    uint64_t at = w->now + sim_latency(w), hole = w->site[k->site].hole_until;
    if (hole > w->now) at = hole + sim_latency(w);
    if (at <= k->to_site) at = k->to_site + 1;
    k->to_site = at;
    sim_event *e = sim_later(w, at - w->now, EV_TO_SITE, k->site);
    e->life = c;
    e->b = record;
    if (m) e->bytes = sim_pack(w, m);
}

/* Synced records that a connection has not got yet. */
static void stream(sim_world *w, uint64_t c, uint64_t from, uint64_t to) {
    for (uint64_t seq = from; seq <= to; seq++) to_site(w, c, NULL, seq);
}

static void append(sim_world *w, const weft_hub_action *a) {
    w->log = sim_grow(w->log, &w->log_cap, w->nlog + 1, sizeof *w->log);
    sim_record *r = &w->log[w->nlog++];
    r->bytes = sim_pack(w, a->message);
    r->term = w->hub.machine->term;
    r->chain = sim_hash(w->nlog > 1 ? w->log[w->nlog - 2].chain : 0, r->term);
    for (uint32_t i = 0; i < r->bytes.n; i++) r->chain = sim_hash(r->chain, r->bytes.data[i]);
    if (a->seq != w->nlog)
        sim_violation(w, "record %llu was appended as %zu", (unsigned long long)a->seq, w->nlog);
    sim_say(w, "  append %llu %s", (unsigned long long)a->seq, weft_site_type_name(a->message->type));
    if (w->hub.disk_busy) return;
    w->hub.disk_busy = 1;
    sim_event *e =
        sim_later(w, (1 + sim_draw(w, w->hub.slow_until > w->now ? 3000 : 15)) * MS, EV_SYNCED, SIM_HUB);
    e->b = w->nlog;
    e->life = w->hub.life;
}

static void emit(void *arg, const weft_hub_action *a) {
    sim_world *w = arg;
    if (!w->hub.alive) return; /* killed in the middle of a step */
    switch (a->kind) {
    case WEFT_HUB_SEND:
        sim_say(w, "  hub -> %llx %s", (unsigned long long)a->to, weft_site_type_name(a->message->type));
        for (size_t c = 1; c < w->nconn; c++)
            if (w->conn[c].open && w->conn[c].hub_life == w->hub.life && w->conn[c].member >= 0 &&
                weft_site_has(a->to, (uint32_t)w->conn[c].member))
                to_site(w, c, a->message, 0);
        break;
    case WEFT_HUB_APPEND:
        append(w, a);
        if (w->hub.kill_at_append) sim_hub_kill(w, w->hub.kill_at_append);
        break;
    case WEFT_HUB_BIND:
        for (size_t c = 1; c < w->nconn; c++)
            if (c != a->conn && w->conn[c].member == (int)a->member && w->conn[c].hub_life == w->hub.life) {
                w->conn[c].member = -1;
                sim_close(w, c);
            }
        w->conn[a->conn].member = a->member;
        break;
    case WEFT_HUB_REFUSE:
        to_site(w, a->conn, a->message, 0);
        sim_close(w, a->conn);
        break;
    case WEFT_HUB_CLOSE:
        for (size_t c = 1; c < w->nconn; c++)
            if (w->conn[c].open && w->conn[c].member >= 0 && w->conn[c].hub_life == w->hub.life &&
                weft_site_has(a->to, (uint32_t)w->conn[c].member))
                sim_close(w, c);
        break;
    default: break;
    }
}

static void step(sim_world *w, const weft_hub_event *e) {
    weft_hub_actions out = {emit, w};
    if (weft_hub_step(w->hub.machine, e, w->now, &out) < 0)
        sim_violation(w, "the hub machine refused an event: %s", weft_last_error());
}

static weft_site_record unpacked(sim_world *w, uint64_t seq) {
    weft_site_record r = {
        .seq = seq, .term = w->log[seq - 1].term, .chain = sim_as_hash(w->log[seq - 1].chain)};
    sim_unpack(w, &w->log[seq - 1].bytes, &r.body);
    return r;
}

void sim_hub_start(sim_world *w) {
    weft_hub_opts opts = {.digest = sim_digest, .deadline_first_ns = 20000 * MS, .restore_ns = 20000 * MS};
    w->hub.alive = 1;
    w->hub.life++;
    w->hub.disk_busy = 0;
    w->hub.kill_at_append = w->hub.kill_at_sync = 0;
    weft_hub_init(w->hub.machine, &opts);
    for (uint64_t seq = 1; seq <= w->nlog; seq++) {
        weft_site_record r = unpacked(w, seq);
        if (weft_hub_replay(w->hub.machine, &r) < 0) sim_violation(w, "replay: %s", weft_last_error());
    }
    w->hub.synced = w->nlog;
    sim_oracle_log(w);
    sim_say(w, "hub starts at record %zu", w->nlog);
    step(w, &(weft_hub_event){.kind = WEFT_HUB_BOOT});
    sim_later(w, TICK, EV_TICK_HUB, SIM_HUB)->life = w->hub.life;
}

void sim_hub_kill(sim_world *w, uint64_t for_ms) {
    if (!w->hub.alive) return;
    w->hub.alive = 0;
    w->hub.kill_at_append = w->hub.kill_at_sync = 0;
    w->r->restarts++;
    uint64_t keep = w->hub.synced + sim_draw(w, w->nlog - w->hub.synced + 1);
    sim_say(w, "hub killed: %zu records, %llu synced, %llu survive", w->nlog,
            (unsigned long long)w->hub.synced, (unsigned long long)keep);
    while (w->nlog > keep) {
        free(w->log[--w->nlog].bytes.data);
        w->log[w->nlog].bytes.data = NULL;
    }
    for (size_t c = 1; c < w->nconn; c++)
        if (w->conn[c].hub_life == w->hub.life) sim_close(w, c);
    sim_later(w, for_ms * MS, EV_START, SIM_HUB);
}

static void synced(sim_world *w, uint64_t seq) {
    uint64_t from = w->hub.synced + 1;
    w->hub.synced = seq;
    w->hub.disk_busy = 0;
    sim_oracle_log(w);
    if (w->hub.kill_at_sync) {
        sim_hub_kill(w, w->hub.kill_at_sync);
        return;
    }
    for (size_t c = 1; c < w->nconn; c++)
        if (w->conn[c].open && w->conn[c].streaming && w->conn[c].hub_life == w->hub.life)
            stream(w, c, from, seq);
    step(w, &(weft_hub_event){.kind = WEFT_HUB_SYNCED, .seq = seq});
    if (w->hub.alive && w->nlog > w->hub.synced && !w->hub.disk_busy) {
        w->hub.disk_busy = 1;
        sim_event *e = sim_later(w, (1 + sim_draw(w, 15)) * MS, EV_SYNCED, SIM_HUB);
        e->b = w->nlog;
        e->life = w->hub.life;
    }
}

static uint8_t check_chain(const sim_world *w, const weft_site_hello *h) {
    if (!h->seq) return WEFT_CHAIN_SAME;
    if (h->seq > w->hub.synced) return WEFT_CHAIN_AHEAD;
    return w->log[h->seq - 1].chain == sim_of_hash(&h->chain) ? WEFT_CHAIN_SAME : WEFT_CHAIN_OTHER;
}

static void received(sim_world *w, uint64_t c, const weft_site_message *m) {
    sim_conn *k = &w->conn[c];
    if (m->type != WEFT_SITE_HELLO) {
        if (k->member >= 0)
            step(w, &(weft_hub_event){.kind = WEFT_HUB_MESSAGE, .member = (uint16_t)k->member, .message = m});
        return;
    }
    uint8_t chain = check_chain(w, &m->u.hello);
    if (chain == WEFT_CHAIN_SAME && !k->streaming) {
        k->streaming = 1;
        stream(w, c, m->u.hello.seq + 1, w->hub.synced);
    }
    step(w, &(weft_hub_event){.kind = WEFT_HUB_HELLO, .chain = chain, .conn = c, .message = m});
}

void sim_hub_event(sim_world *w, const sim_event *e) {
    static weft_site_message m;
    if (!w->hub.alive) return;
    if (e->kind == EV_TICK_HUB && e->life == w->hub.life) {
        step(w, &(weft_hub_event){.kind = WEFT_HUB_TICK});
        sim_later(w, TICK, EV_TICK_HUB, SIM_HUB)->life = w->hub.life;
    }
    if (e->kind == EV_SYNCED && e->life == w->hub.life) synced(w, e->b);
    if (e->kind == EV_TO_HUB && w->conn[e->b].hub_life == w->hub.life) {
        sim_unpack(w, &e->bytes, &m);
        received(w, e->b, &m);
    }
    if (e->kind == EV_REPLAYED) { /* on whatever connection that site has now */
        sim_unpack(w, &e->bytes, &m);
        uint64_t c = w->site[e->a].conn;
        if (c && w->conn[c].open && w->conn[c].hub_life == w->hub.life && w->conn[c].member >= 0)
            step(w, &(weft_hub_event){
                        .kind = WEFT_HUB_MESSAGE, .member = (uint16_t)w->conn[c].member, .message = &m});
    }
    if (e->kind == EV_CLOSED && w->conn[e->b].hub_life == w->hub.life && w->conn[e->b].member >= 0) {
        uint16_t member = (uint16_t)w->conn[e->b].member;
        w->conn[e->b].member = -1;
        step(w, &(weft_hub_event){.kind = WEFT_HUB_DOWN, .member = member});
    }
}
