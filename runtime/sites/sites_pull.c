/* Chunks that are asked for: state and past rounds for those who catch up, results and contributions that did not come.
 * Served to others behind everything else; what this site lacks is asked for as catch_up.h says. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/sites_internal.h"

typedef struct slab { /* of state, on its way out */
    void *data;
    uint8_t used;
} slab;

typedef struct ordered { /* what a peer wants and was not sent yet */
    uint8_t used;
    weft_wan_peer *to;
    weft_site_pull pull; /* the rest of it */
} ordered;

enum { ORDERS_MOST = 256, ASKS_AT_ONCE = 32, ROUNDS_AT_ONCE = 4 };

struct site_pull {
    slab out[SITE_SLABS];
    ordered order[ORDERS_MOST];
    uint16_t turn; /* who was asked last */
    size_t bytes;  /* of a slab */
};

weft_status site_pull_open(weft_sites *s) {
    struct site_pull *q = s->pull = weft_calloc(1, sizeof *q);
    if (!q) return WEFT_ERR_NOMEM;
    q->bytes = 2 * sizeof(float) * s->o.rules.chunk;
    const weft_catch_up_opts o = {.size = sizeof o,
                                  .fragments = (uint32_t)s->fragments.n,
                                  .vault = s->vault,
                                  .exchange = s->exchange,
                                  .mu = s->o.rules.mu};
    return weft_catch_up_create(&o, &s->catch_up);
}

void site_pull_close(weft_sites *s) {
    struct site_pull *q = s->pull;
    weft_catch_up_destroy(s->catch_up);
    for (int i = 0; q && i < SITE_SLABS; i++) free(q->out[i].data);
    free(q);
    s->pull = NULL;
    s->catch_up = NULL;
}

static slab *take(struct site_pull *q) {
    for (int i = 0; i < SITE_SLABS; i++) {
        slab *b = &q->out[i];
        if (b->used) continue;
        if (!b->data && !(b->data = weft_calloc(1, q->bytes))) return NULL;
        b->used = 1;
        return b;
    }
    return NULL;
}

/* --- serving ---------------------------------------------------------------------------------------------------------- */

static weft_wan_chunk header(const weft_sites *s, const weft_site_pull *w, uint8_t kind) {
    return (weft_wan_chunk){.epoch = s->machine->epoch.epoch,
                            .fragment = w->key.fragment,
                            .round = w->key.round,
                            .attempt = w->key.attempt,
                            .kind = kind,
                            .src = w->src,
                            .part = SITE_SERVED,
                            .chunk = w->first,
                            .incarnation = s->machine->incarnation};
}

static void missing(weft_wan_peer *to, const weft_site_pull *w) {
    weft_site_message m = {.type = WEFT_SITE_MISSING};
    m.u.pull = *w;
    (void)site_say(to, &m);
}

/* The first chunk of an order; 0: no room now. */
static int serve_state(weft_sites *s, ordered *o) {
    struct site_pull *q = s->pull;
    weft_wan_chunk h = header(s, &o->pull, WEFT_WAN_STATE);
    slab *b = take(q);
    if (!b) return 0;
    h.bytes = (uint32_t)weft_vault_state_bytes(s->vault, h.fragment, h.chunk);
    if (s->f[h.fragment].fetching ||
        weft_vault_export(s->vault, h.fragment, h.chunk, b->data, &h.version) < 0 ||
        weft_wan_send_chunk(o->to, &h, b->data, WEFT_WAN_PRIO_STATE) < 0) {
        b->used = 0;
        missing(o->to, &o->pull);
    }
    return 1;
}

static void serve_bytes(weft_sites *s, ordered *o) {
    const weft_site_pull *w = &o->pull;
    weft_exchange *x = s->exchange[w->key.fragment];
    weft_exchange_chunk c = {.kind =
                                 w->kind == WEFT_PULL_RESULT ? WEFT_EXCHANGE_RESULT : WEFT_EXCHANGE_CONTRIB,
                             .round = w->key.round,
                             .attempt = w->key.attempt,
                             .src = w->src,
                             .chunk = w->first,
                             .incarnation = s->machine->incarnation};
    const void *data = x ? weft_exchange_serve(x, &c) : NULL;
    weft_wan_chunk h = header(s, w, (uint8_t)(c.kind + WEFT_WAN_CONTRIB));
    h.codec = (uint8_t)c.codec;
    h.bytes = c.bytes;
    h.src = c.src;
    h.attempt = c.attempt;
    if (c.incarnation) h.incarnation = c.incarnation;
    if (data && weft_wan_send_chunk(o->to, &h, data, WEFT_WAN_PRIO_CONTRIB) >= 0) return;
    if (data) weft_exchange_sent(x, WEFT_EXCHANGE_MEMBERS, &c, data, WEFT_DROPPED);
    missing(o->to, w);
}

static void serve(weft_sites *s) {
    struct site_pull *q = s->pull;
    for (int i = 0; i < ORDERS_MOST; i++) {
        ordered *o = &q->order[i];
        if (!o->used) continue;
        if (!weft_wan_peer_up(o->to)) {
            o->used = 0;
            continue;
        }
        if (o->pull.kind != WEFT_PULL_STATE)
            serve_bytes(s, o);
        else if (!serve_state(s, o))
            return;
        o->pull.first++;
        if (--o->pull.count == 0) o->used = 0;
    }
}

static void take_order(weft_sites *s, weft_wan_peer *p, const weft_site_pull *w) {
    struct site_pull *q = s->pull;
    const uint32_t most = w->key.fragment < (uint32_t)s->fragments.n
                              ? weft_chunks_count(weft_vault_chunks(s->vault, w->key.fragment))
                              : 0;
    if (w->first >= most || w->count == 0 || w->count > most - w->first) return; /* nonsense */
    for (int i = 0; i < ORDERS_MOST; i++) {
        if (q->order[i].used) continue;
        q->order[i] = (ordered){.used = 1, .to = p, .pull = *w};
        return;
    }
    missing(p, w);
}

static void send_leaves(weft_sites *s, weft_wan_peer *p, const weft_site_audit *a) {
    static _Thread_local weft_site_message m;
    uint64_t version = 0;
    weft_site_hash root;
    if (a->fragment >= (uint32_t)s->fragments.n ||
        weft_vault_root(s->vault, a->fragment, &version, &root) < 0)
        return;
    const uint32_t n = weft_chunks_count(weft_vault_chunks(s->vault, a->fragment));
    for (uint32_t first = 0; first < n; first += WEFT_SITE_LEAVES) {
        m = (weft_site_message){.type = WEFT_SITE_LEAVES_AT};
        m.u.leaves = (weft_site_leaves){.fragment = a->fragment, .version = version, .first = first};
        while (m.u.leaves.count < WEFT_SITE_LEAVES && first + m.u.leaves.count < n) {
            if (weft_vault_leaf(s->vault, a->fragment, first + m.u.leaves.count, &root) < 0) return;
            memcpy(m.u.leaves.leaf[m.u.leaves.count++].b, root.b, sizeof root.b);
        }
        if (site_say(p, &m) < 0) return;
    }
}

/* --- catching up ------------------------------------------------------------------------------------------------------ */

void site_fetch(weft_sites *s, int p, uint64_t version) {
    s->f[p].fetching = 1;
    if (weft_catch_up_want(s->catch_up, (uint32_t)p, version) < 0)
        site_fail(s, WEFT_ERR_NOMEM, weft_last_error());
}

void site_resync(weft_sites *s, int p, uint16_t donor) {
    weft_site_message m = {.type = WEFT_SITE_LEAVES_OF};
    weft_wan_peer *to = site_peer(s, donor);
    m.u.audit = (weft_site_audit){.fragment = (uint32_t)p};
    if (to) (void)site_say(to, &m); /* else it is ordered again */
}

static void compare(weft_sites *s, const weft_site_leaves *l) {
    uint32_t differ = 0;
    if (l->fragment >= (uint32_t)s->fragments.n || s->hold) return;
    if (weft_catch_up_leaves(s->catch_up, l->fragment, l->version, l->first, l->count, l->leaf, &differ) < 0)
        return;
    if (differ)
        weft_warn("fragment %u: %u chunks differ from those of others; fetching them", l->fragment, differ);
    s->f[l->fragment].fetching = 1;
}

void *site_pull_place(weft_sites *s, weft_wan_peer *p, const weft_wan_chunk *h) {
    const int donor = site_member_of(s, p);
    if (donor < 0 || s->hold || h->fragment >= (uint32_t)s->fragments.n) return NULL;
    return weft_catch_up_place(s->catch_up, (uint16_t)donor, h->fragment, h->chunk, h->version, h->bytes);
}

int site_pull_arrived(weft_sites *s, const weft_wan_chunk *h, void *at) {
    if (h->kind != WEFT_WAN_STATE) return 0;
    if (s->hold) /* somebody reads what it would change: it is asked for again */
        weft_catch_up_lost(s->catch_up, at);
    else
        (void)weft_catch_up_arrived(s->catch_up, at);
    return 1;
}

int site_pull_lost(weft_sites *s, const weft_wan_chunk *h, void *at) {
    if (h->kind != WEFT_WAN_STATE) return 0;
    weft_catch_up_lost(s->catch_up, at);
    return 1;
}

int site_pull_sent(weft_sites *s, const weft_wan_chunk *h, const void *data) {
    if (h->kind != WEFT_WAN_STATE) return 0;
    for (int i = 0; i < SITE_SLABS; i++)
        if (s->pull->out[i].data == data) s->pull->out[i].used = 0;
    return 1;
}

static void fetched(weft_sites *s, uint32_t p, uint64_t version) {
    site_fragment *f = &s->f[p];
    f->fetching = 0;
    f->replaced = f->moved = 1;
    const weft_member_event e = {.kind = WEFT_MEMBER_FETCHED, .key = {.fragment = p, .round = version}};
    site_event(s, &e);
    pthread_cond_broadcast(&s->changed);
}

static int catch_up(weft_sites *s, uint64_t now) {
    weft_catch_up_ask ask[ASKS_AT_ONCE];
    uint32_t n = ASKS_AT_ONCE, p = 0;
    uint64_t version = 0;
    weft_site_set donors = weft_member_donors(s->machine);
    for (uint16_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (!site_peer(s, m)) donors &= ~weft_site_bit(m);
    weft_catch_up_donors(s->catch_up, donors);
    if (weft_catch_up_work(s->catch_up, now, ROUNDS_AT_ONCE, ask, &n) < 0) {
        site_fail(s, WEFT_ERR_INTERNAL, weft_last_error());
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        weft_site_message m = {.type = WEFT_SITE_PULL};
        m.u.pull = ask[i].pull;
        if (site_say(site_peer(s, ask[i].donor), &m) < 0)
            weft_catch_up_missing(s->catch_up, ask[i].donor, &ask[i].pull);
    }
    while (weft_catch_up_done(s->catch_up, &p, &version)) fetched(s, p, version);
    weft_catch_up_idle(s->catch_up);
    return n == ASKS_AT_ONCE;
}

/* --- a round that lacks something ------------------------------------------------------------------------------------- */

void site_ask(weft_sites *s, int p, weft_site_set members) {
    const site_fragment *f = &s->f[p];
    weft_exchange *x = s->exchange[p];
    uint64_t cursor = 0;
    weft_exchange_chunk c;
    uint16_t m = s->pull->turn;
    members &= ~weft_site_bit(s->machine->member);
    while (x && weft_exchange_missing(x, f->key.round, members, &cursor, &c)) {
        weft_site_message say = {.type = WEFT_SITE_PULL};
        for (int k = 0; k < WEFT_SITE_MEMBERS; k++) {
            m = (uint16_t)((m + 1) % WEFT_SITE_MEMBERS);
            if (weft_site_has(members, m) && site_peer(s, m)) break;
        }
        say.u.pull = (weft_site_pull){.kind = f->gather ? WEFT_PULL_CONTRIB : WEFT_PULL_RESULT,
                                      .key = f->key,
                                      .src = c.src,
                                      .first = c.chunk,
                                      .count = 1};
        weft_wan_peer *to = site_peer(s, m);
        if (!to || site_say(to, &say) < 0) break;
    }
    s->pull->turn = m;
}

/* --- both ------------------------------------------------------------------------------------------------------------- */

void site_pull_message(weft_sites *s, weft_wan_peer *p, const weft_site_message *m) {
    const int from = site_member_of(s, p);
    switch ((weft_site_type)m->type) {
    case WEFT_SITE_PULL: take_order(s, p, &m->u.pull); break;
    case WEFT_SITE_LEAVES_OF: send_leaves(s, p, &m->u.audit); break;
    case WEFT_SITE_LEAVES_AT: compare(s, &m->u.leaves); break;
    case WEFT_SITE_MISSING:
        if (from >= 0) weft_catch_up_missing(s->catch_up, (uint16_t)from, &m->u.pull);
        break;
    default: break;
    }
}

int site_pull_work(weft_sites *s, uint64_t now) {
    serve(s);
    return !s->hold && catch_up(s, now);
}
