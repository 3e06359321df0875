/* The thread of a site: connections, messages, time. What happens is given to the member machine, which says what to do
 * (sites_round.c does it). The lock is taken for each thing that happens, and is free while the thread waits. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/sites/record.h"
#include "runtime/sites/sites_internal.h"

#define TICK_NS 200000000ull
#define POLL_MS 50

/* --- the machine ------------------------------------------------------------------------------------------------------ */

static void emit(void *arg, const weft_member_action *a) {
    site_act(arg, a);
}

static void step(weft_sites *s, const weft_member_event *e) {
    weft_member_actions out = {.emit = emit, .arg = s};
    const weft_status r = weft_member_step(s->machine, e, weft_now_ns(), &out);
    if (r < 0) site_fail(s, r, weft_last_error());
}

/* Actions are answered by events only when the machine is through with the event before. */
void site_event(weft_sites *s, const weft_member_event *e) {
    if (s->stepping) {
        if (s->nqueue == SITE_EVENTS)
            site_fail(s, WEFT_ERR_INTERNAL, "too many events in one step of the site's machine");
        else
            s->queue[s->nqueue++] = *e;
        return;
    }
    s->stepping = 1;
    step(s, e);
    for (int i = 0; i < s->nqueue; i++) {
        const weft_member_event next = s->queue[i]; /* the queue may grow meanwhile */
        step(s, &next);
    }
    s->nqueue = 0;
    s->stepping = 0;
}

void site_fail(weft_sites *s, weft_status why, const char *text) {
    if (s->lost < 0) return;
    s->lost = why;
    snprintf(s->why, sizeof s->why, "%s", text ? text : "");
    pthread_cond_broadcast(&s->changed);
}

/* --- connections ------------------------------------------------------------------------------------------------------ */

weft_wan_peer *site_peer(weft_sites *s, uint16_t member) {
    weft_wan_peer *p = member < WEFT_SITE_MEMBERS ? s->peer[member] : NULL;
    return p && weft_wan_peer_up(p) ? p : NULL;
}

weft_status site_say(weft_wan_peer *p, const weft_site_message *m) {
    uint8_t body[WEFT_SITE_BODY_MAX];
    size_t n = 0;
    WEFT_TRY(weft_site_pack(m, body, sizeof body, &n));
    return weft_wan_send(p, m->type, body, n);
}

/* The member behind a connection, by the name in its certificate; -1: none that is known. */
int site_member_of(const weft_sites *s, const weft_wan_peer *p) {
    const char *name = weft_wan_peer_name(p);
    const size_t n = strcspn(name, "/");
    for (int m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (strlen(s->machine->peer[m].site) == n && n && !strncmp(s->machine->peer[m].site, name, n))
            return m;
    return -1;
}

static void on_up(void *arg, weft_wan_peer *p) {
    weft_sites *s = arg;
    pthread_mutex_lock(&s->lock);
    if (p == s->hub) {
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_UP});
    } else {
        const int m = site_member_of(s, p);
        if (m >= 0) s->peer[m] = p;
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_down(void *arg, weft_wan_peer *p, weft_status why) {
    weft_sites *s = arg;
    pthread_mutex_lock(&s->lock);
    if (p == s->hub) {
        if (why == WEFT_ERR_AUTH && !s->joined) site_fail(s, why, weft_last_error());
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_DOWN});
    }
    pthread_mutex_unlock(&s->lock);
}

/* The log counts from earlier versions again, because nobody had the newer ones any more: what was being fetched is not to be
 * had, and what was committed since does not count. */
static void roll_back(weft_sites *s, const weft_site_rollback *r) {
    for (uint32_t p = 0; p < (uint32_t)s->fragments.n && p < r->nversions; p++) {
        site_fragment *f = &s->f[p];
        f->pending = f->tell_applied = f->open = 0;
        f->fetching = 1;
        if (weft_catch_up_rollback(s->catch_up, p, r->versions[p]) < 0)
            site_fail(s, WEFT_ERR_INTERNAL, weft_last_error());
    }
}

/* A record of the log, verbatim: it must be the one after the last. */
static void on_record(weft_sites *s, const weft_site_raw *raw) {
    weft_log_record r;
    weft_site_record known = {0};
    if (s->machine->ended) return;
    weft_status st = weft_record_parse(raw->data, raw->bytes, &r);
    if (st == WEFT_OK &&
        (r.seq != s->machine->seq + 1 || memcmp(r.prev, s->machine->chain.b, sizeof r.prev) != 0))
        st = weft_fail(WEFT_ERR_ORDER, "record %llu after %llu", (unsigned long long)r.seq,
                       (unsigned long long)s->machine->seq);
    if (st == WEFT_OK) st = weft_site_unpack(r.type, r.body, r.body_bytes, &known.body);
    if (st != WEFT_OK) {
        weft_warn("the hub's log as it comes here does not hold together (%s); asking for it again",
                  weft_last_error());
        site_redial(s);
        return;
    }
    known.seq = r.seq;
    known.term = r.term;
    known.unix_ns = r.unix_ns;
    memcpy(known.chain.b, r.chain, sizeof known.chain.b);
    weft_ledger_apply(&s->ledger, &known);
    if (known.body.type == WEFT_SITE_COMMIT) site_committed(s, &known.body.u.commit);
    site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_RECORD, .record = &known});
    if (known.body.type == WEFT_SITE_ROLLBACK) roll_back(s, &known.body.u.rollback);
}

static void on_message(void *arg, weft_wan_peer *p, uint16_t type, const void *body, size_t n) {
    weft_sites *s = arg;
    weft_site_message m;
    if (weft_site_unpack(type, body, n, &m) < 0) {
        weft_warn("%s: a message of type %u that cannot be read: %s", weft_wan_peer_name(p), type,
                  weft_last_error());
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (p != s->hub)
        site_pull_message(s, p, &m);
    else if (m.type == WEFT_SITE_RECORD)
        on_record(s, &m.u.raw);
    else
        site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_MESSAGE, .message = &m});
    if (m.type == WEFT_SITE_WELCOME) site_make_exchanges(s);
    pthread_mutex_unlock(&s->lock);
}

/* --- chunks ----------------------------------------------------------------------------------------------------------- */

static weft_exchange *exchange_of(weft_sites *s, const weft_wan_chunk *h) {
    return h->fragment < (uint32_t)s->fragments.n ? s->exchange[h->fragment] : NULL;
}

static weft_exchange_chunk chunk_of(const weft_wan_chunk *h) {
    return (weft_exchange_chunk){.kind = (weft_exchange_kind)(h->kind - WEFT_WAN_CONTRIB),
                                 .codec = (weft_codec)h->codec,
                                 .round = h->round,
                                 .attempt = h->attempt,
                                 .src = h->src,
                                 .chunk = h->chunk,
                                 .bytes = h->bytes,
                                 .incarnation = h->incarnation};
}

static void *on_place(void *arg, weft_wan_peer *p, const weft_wan_chunk *h) {
    weft_sites *s = arg;
    void *at = NULL;
    pthread_mutex_lock(&s->lock);
    weft_exchange *x = exchange_of(s, h);
    const weft_exchange_chunk c = chunk_of(h);
    if (h->kind == WEFT_WAN_STATE)
        at = site_pull_place(s, p, h);
    else if (x && !(c.kind == WEFT_EXCHANGE_CONTRIB && site_member_of(s, p) != h->src &&
                    !s->f[h->fragment].sealed))
        at = weft_exchange_place(x, &c);
    pthread_mutex_unlock(&s->lock);
    return at;
}

static void on_arrived(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    weft_sites *s = arg;
    pthread_mutex_lock(&s->lock);
    s->info.received += h->bytes;
    if (!site_pull_arrived(s, h, at)) {
        const weft_exchange_chunk c = chunk_of(h);
        const int from = site_member_of(s, p);
        if (weft_exchange_arrived(exchange_of(s, h), &c, at) >= 0) site_arrived(s, h);
        if (c.kind == WEFT_EXCHANGE_REPLAY && from >= 0)
            weft_catch_up_replayed(s->catch_up, (uint16_t)from, h->fragment, &c);
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_lost(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    weft_sites *s = arg;
    (void)p;
    pthread_mutex_lock(&s->lock);
    if (!site_pull_lost(s, h, at)) {
        const weft_exchange_chunk c = chunk_of(h);
        weft_exchange_lost(exchange_of(s, h), &c, at);
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_sent(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, const void *data, weft_status r) {
    weft_sites *s = arg;
    pthread_mutex_lock(&s->lock);
    if (r == WEFT_OK) s->info.sent += h->bytes;
    if (!site_pull_sent(s, h, data)) {
        const weft_exchange_chunk c = chunk_of(h);
        const uint16_t to = h->part == SITE_SERVED ? WEFT_EXCHANGE_MEMBERS : (uint16_t)site_member_of(s, p);
        weft_exchange_sent(exchange_of(s, h), to, &c, data, r);
    }
    pthread_mutex_unlock(&s->lock);
}

/* --- the thread ------------------------------------------------------------------------------------------------------- */

weft_status site_connect(weft_sites *s) {
    const weft_wan_opts o = {.identity = s->identity,
                             .insecure_lab = s->o.insecure_lab,
                             .lab_name = s->o.insecure_lab ? s->lab_name : NULL,
                             .listen = s->o.listen         ? s->o.listen
                                       : s->o.insecure_lab ? "127.0.0.1:0"
                                                           : ":0",
                             .rate_cap = (uint64_t)s->o.rate,
                             .delay_ms = s->o.delay_ms,
                             .calls = {.up = on_up,
                                       .down = on_down,
                                       .message = on_message,
                                       .chunk_place = on_place,
                                       .chunk_arrived = on_arrived,
                                       .chunk_lost = on_lost,
                                       .chunk_sent = on_sent},
                             .arg = s};
    return weft_wan_open(&o, &s->wan);
}

static void measure(weft_sites *s, uint64_t now) {
    weft_wan_peer_stats all = {0};
    for (int m = 0; m < WEFT_SITE_MEMBERS; m++) {
        weft_wan_peer_stats st = {0};
        if (s->peer[m]) weft_wan_peer_stats_get(s->peer[m], &st);
        all.wire_out += st.wire_out;
        all.bytes_out += st.bytes_out;
        all.wire_in += st.wire_in;
        all.bytes_in += st.bytes_in;
    }
    weft_rate_tick(&s->out, all.wire_out, all.bytes_out, now);
    weft_rate_tick(&s->in, all.wire_in, all.bytes_in, now);
    s->info.rate_out = s->out.rate;
    s->info.rate_in = s->in.rate;
}

/* What comes in is often as slow as who sends it: a line that brings less than it takes away is not believed in. */
static void tick(weft_sites *s, uint64_t now) {
    s->progress += s->busy;
    measure(s, now);
    const weft_site_heartbeat beat = {.step = s->step,
                                      .progress = s->progress,
                                      .steps_per_s = s->steps_per_s,
                                      .waiting = s->waiting,
                                      .egress = s->out.rate,
                                      .ingress = s->out.rate > 0 ? fmax(s->in.rate, s->out.rate) : 0};
    site_event(s, &(weft_member_event){.kind = WEFT_MEMBER_TICK, .beat = &beat});
}

void *site_thread(void *arg) {
    weft_sites *s = arg;
    int busy = 0;
    while (!atomic_load(&s->ending)) {
        const weft_status r = weft_wan_poll(s->wan, busy ? 0 : POLL_MS);
        pthread_mutex_lock(&s->lock);
        if (r < 0) site_fail(s, r, weft_last_error());
        const uint64_t now = weft_now_ns();
        if (now - s->tick_ns >= TICK_NS) {
            s->tick_ns = now;
            tick(s, now);
            site_hub_look(s, now);
        }
        busy = site_work(s);
        busy |= site_pull_work(s, now);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}
