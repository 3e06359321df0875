/* The member machine: its connection to the hub, the records of the log, its place among the members, its drift.
 *
 * Invariants: it believes the log, in order, and of transient messages only what the log does not contradict; it says
 * again after every reconnect what the hub may have missed; without the hub it goes on until its drift is exhausted. */
#include "runtime/sites/member_machine.h"

#include <string.h>

#include "runtime/sites/member_internal.h"

#define DRIFT_ROUNDS 4
#define NEXT_STEP    UINT64_MAX

void member_emit(weft_member_machine *m, const weft_member_action *a) {
    m->out->emit(m->out->arg, a);
}

weft_site_message *member_message(weft_member_machine *m, uint16_t type) {
    memset(&m->scratch, 0, sizeof m->scratch);
    m->scratch.type = type;
    m->scratch.incarnation = m->incarnation;
    return &m->scratch;
}

void member_send(weft_member_machine *m) {
    if (!m->welcomed && m->scratch.type != WEFT_SITE_HELLO) return;
    member_emit(m, &(weft_member_action){.kind = WEFT_DO_SEND, .message = &m->scratch});
}

static void say(weft_member_machine *m, uint8_t kind) {
    member_emit(m, &(weft_member_action){.kind = kind});
}

void weft_member_init(weft_member_machine *m, const weft_member_opts *opts, const uint64_t *versions) {
    memset(m, 0, sizeof *m);
    m->opts = *opts;
    m->run = opts->run;
    if (!m->opts.heartbeat_ns) m->opts.heartbeat_ns = MEMBER_SECOND;
    if (!m->opts.hub_silent_ns) m->opts.hub_silent_ns = 5 * MEMBER_SECOND;
    if (!m->opts.stranded_ns) m->opts.stranded_ns = 20 * MEMBER_SECOND;
    if (!m->opts.retry_ns) m->opts.retry_ns = 2 * MEMBER_SECOND;
    for (uint32_t p = 0; versions && p < m->run.nfragments; p++) m->fragment[p].version = versions[p];
}

uint32_t weft_member_h(const weft_member_machine *m) {
    if (m->incarnation && weft_site_has(m->epoch.active, m->member)) return m->epoch.h[m->member];
    return m->run.h;
}

int weft_member_may_ready(const weft_member_machine *m, uint32_t fragment) {
    const weft_member_fragment *f = &m->fragment[fragment];
    return m->state == WEFT_MEMBER_ACTIVE && !m->drain && !f->ready_held && !f->pending && !f->fetching &&
           !f->resyncing && !f->lost && f->version == f->committed;
}

weft_site_set weft_member_donors(const weft_member_machine *m) {
    weft_site_set s = 0;
    for (uint32_t k = 0; k < WEFT_SITE_MEMBERS; k++) {
        uint8_t state = m->peer[k].state;
        if (m->peer[k].incarnation && (state == WEFT_MEMBER_ACTIVE || state == WEFT_MEMBER_DRAINING))
            s |= weft_site_bit(k);
    }
    return m->incarnation ? s & ~weft_site_bit(m->member) : s;
}

weft_site_set weft_member_peers(const weft_member_machine *m) {
    weft_site_set s = weft_member_donors(m);
    for (uint32_t k = 0; k < WEFT_SITE_MEMBERS; k++)
        if (m->peer[k].incarnation && m->peer[k].state == WEFT_MEMBER_OBSERVER) s |= weft_site_bit(k);
    return m->incarnation ? s & ~weft_site_bit(m->member) : s;
}

/* --- the connection --- */

static uint32_t tell_versions(const weft_member_machine *m, uint64_t versions[WEFT_SITE_FRAGMENTS]) {
    for (uint32_t p = 0; p < m->run.nfragments; p++)
        versions[p] = m->fragment[p].lost ? 0 : m->fragment[p].version;
    return m->run.nfragments;
}

static void up(weft_member_machine *m) {
    m->connected = 1;
    m->welcomed = 0;
    m->heard_ns = m->now_ns;
    weft_site_hello *h = &member_message(m, WEFT_SITE_HELLO)->u.hello;
    memcpy(h->site, m->opts.site, sizeof h->site);
    memcpy(h->address, m->opts.address, sizeof h->address);
    h->seq = m->seq;
    h->chain = m->chain;
    h->egress = m->beat.egress;
    h->ingress = m->beat.ingress;
    h->run = m->opts.run;
    h->nversions = tell_versions(m, h->versions);
    member_send(m);
}

static void resume(weft_member_machine *m) {
    if (!m->paused) return;
    m->paused = 0;
    say(m, WEFT_DO_RESUME);
}

static void joined(weft_member_machine *m) {
    m->state = WEFT_MEMBER_ACTIVE;
    m->commit_step = NEXT_STEP;
    say(m, WEFT_DO_JOINED);
    resume(m);
}

static void welcome(weft_member_machine *m, uint64_t incarnation, const weft_site_welcome *w) {
    int active = w->state == WEFT_MEMBER_ACTIVE || w->state == WEFT_MEMBER_DRAINING;
    if (incarnation != m->incarnation) member_lose(m);
    m->member = w->member;
    m->incarnation = incarnation;
    m->term = w->term;
    m->welcomed = 1;
    if (active) {
        if (!member_is_active(m)) joined(m);
        if (w->state == WEFT_MEMBER_DRAINING) m->state = WEFT_MEMBER_DRAINING;
        member_repeat(m);
    } else {
        m->state = WEFT_MEMBER_OBSERVER;
        m->caught_up_sent = 0;
        for (uint32_t p = 0; p < m->run.nfragments; p++) {
            weft_member_fragment *f = &m->fragment[p];
            f->reached = 0;
            if (f->version > f->committed && !f->fetching) f->lost = 1;
        }
    }
    say(m, WEFT_DO_PEERS);
    if (m->drain) {
        member_message(m, WEFT_SITE_DRAIN);
        member_send(m);
    }
}

static void fail(weft_member_machine *m, weft_status s) {
    if (m->ended) return;
    m->ended = 1;
    member_emit(m, &(weft_member_action){.kind = WEFT_DO_FAIL, .status = s});
}

/* This incarnation is over. */
static void over(weft_member_machine *m, uint8_t state, uint8_t reason) {
    int was_welcomed = m->welcomed;
    if (!m->incarnation || m->ended) return;
    member_lose(m);
    m->incarnation = 0;
    m->welcomed = 0;
    m->state = WEFT_MEMBER_FENCED;
    if (state == WEFT_MEMBER_EJECTED)
        fail(m, WEFT_ERR_AUTH);
    else if (state == WEFT_MEMBER_OUT) {
        m->ended = 1;
        m->state = WEFT_MEMBER_OUT;
        say(m, WEFT_DO_LEFT);
    } else if (was_welcomed) /* else HELLO was said already, and WELCOME will come */
        member_emit(m, &(weft_member_action){.kind = WEFT_DO_REJOIN, .reason = reason});
}

static void refused(weft_member_machine *m, const weft_site_error *e) {
    weft_status s = e->status;
    if (s == WEFT_ERR_HUB_STALE || s == WEFT_ERR_LAYOUT || s == WEFT_ERR_AUTH || s == WEFT_ERR_ACCESS)
        fail(m, s);
    else
        say(m, WEFT_DO_REDIAL);
}

static void message(weft_member_machine *m, const weft_site_message *msg) {
    m->heard_ns = m->now_ns;
    if (msg->type == WEFT_SITE_WELCOME) welcome(m, msg->incarnation, &msg->u.welcome);
    if (msg->type == WEFT_SITE_ERROR) refused(m, &msg->u.error);
    if (!m->welcomed) return;
    switch (msg->type) {
    case WEFT_SITE_OPEN: member_open(m, &msg->u.open); break;
    case WEFT_SITE_ROOT: member_root(m, &msg->u.result); break;
    case WEFT_SITE_AUDIT: member_audit(m, &msg->u.audit); break;
    case WEFT_SITE_RESYNC: member_resync(m, &msg->u.audit); break;
    case WEFT_SITE_FENCE:
        over(m, msg->u.fence.reason == WEFT_WHY_DRAINED ? WEFT_MEMBER_OUT : WEFT_MEMBER_FENCED,
             msg->u.fence.reason);
        break;
    case WEFT_SITE_DRAIN: m->drain = 1; break;
    default: break;
    }
}

/* --- the log --- */

static void member_record(weft_member_machine *m, const weft_site_member *r) {
    weft_member_peer *p = &m->peer[r->member];
    p->incarnation = r->incarnation;
    p->state = r->state;
    memcpy(p->site, r->site, sizeof p->site);
    memcpy(p->address, r->address, sizeof p->address);
    if (m->incarnation && r->member == m->member) {
        if (r->incarnation != m->incarnation)
            over(m, WEFT_MEMBER_FENCED, WEFT_WHY_REPLACED);
        else if (r->state == WEFT_MEMBER_DRAINING)
            m->state = WEFT_MEMBER_DRAINING;
        else if (r->state == WEFT_MEMBER_FENCED || r->state == WEFT_MEMBER_OUT ||
                 r->state == WEFT_MEMBER_EJECTED)
            over(m, r->state, r->reason);
    } else if (m->welcomed)
        say(m, WEFT_DO_PEERS);
}

static void epoch_record(weft_member_machine *m, const weft_site_epoch *e) {
    m->epoch = *e;
    for (uint32_t k = 0; k < WEFT_SITE_MEMBERS; k++)
        if (weft_site_has(e->active, k) && m->peer[k].state == WEFT_MEMBER_OBSERVER)
            m->peer[k].state = WEFT_MEMBER_ACTIVE;
    if (m->welcomed) say(m, WEFT_DO_PEERS);
    if (m->incarnation && weft_site_has(e->active, m->member) && m->state == WEFT_MEMBER_OBSERVER) joined(m);
}

static void param_record(weft_member_machine *m, const weft_site_param *r) {
    if (!strcmp(r->name, "h") && r->value >= 1 && r->value < 4e9) m->run.h = (uint32_t)r->value;
}

static void commit_record(weft_member_machine *m, const weft_site_commit *c) {
    if (m->commit_step != NEXT_STEP) m->commit_step = m->beat.step;
    resume(m);
    member_committed(m, c);
}

static void abort_record(weft_member_machine *m, const weft_site_abort *r) {
    if (r->key.fragment >= m->run.nfragments) return;
    const weft_member_fragment *f = &m->fragment[r->key.fragment];
    if (member_same_key(&f->attempt.key, &r->key) && !f->pending) member_void(m, r->key.fragment);
}

static void term_record(weft_member_machine *m, uint64_t term) {
    m->term = term;
    for (uint32_t p = 0; p < m->run.nfragments; p++)
        if (!m->fragment[p].pending) member_void(m, p);
}

static weft_status record(weft_member_machine *m, const weft_site_record *r) {
    m->heard_ns = m->now_ns;
    if (r->seq <= m->seq) return WEFT_OK;
    if (r->seq != m->seq + 1)
        return weft_fail(WEFT_ERR_STATE, "record %llu of the log follows record %llu",
                         (unsigned long long)r->seq, (unsigned long long)m->seq);
    m->seq = r->seq;
    m->chain = r->chain;
    const weft_site_message *b = &r->body;
    switch (b->type) {
    case WEFT_SITE_RUN:
        if (memcmp(&b->u.run.layout_fp, &m->opts.run.layout_fp, sizeof(weft_site_hash)) != 0)
            fail(m, WEFT_ERR_LAYOUT);
        else
            m->run = b->u.run;
        break;
    case WEFT_SITE_TERM: term_record(m, b->u.term.term); break;
    case WEFT_SITE_MEMBER: member_record(m, &b->u.member); break;
    case WEFT_SITE_EPOCH: epoch_record(m, &b->u.epoch); break;
    case WEFT_SITE_PARAM: param_record(m, &b->u.param); break;
    case WEFT_SITE_SEAL: member_sealed(m, &b->u.commit); break;
    case WEFT_SITE_COMMIT: commit_record(m, &b->u.commit); break;
    case WEFT_SITE_ABORT: abort_record(m, &b->u.abort); break;
    case WEFT_SITE_ROLLBACK: member_rollback(m, &b->u.rollback); break;
    default: break;
    }
    return WEFT_OK;
}

/* --- time --- */

/* Active, and behind for long: perhaps those that had the newest version are gone. Whether they come back, or an older
 * state has to do, is for the hub to say, once nobody poses as active who lacks something. */
static void check_stranded(weft_member_machine *m) {
    int behind = 0;
    uint64_t most = m->opts.stranded_ns * (weft_member_donors(m) ? 3 : 1);
    for (uint32_t p = 0; p < m->run.nfragments; p++)
        behind |= m->fragment[p].fetching || m->fragment[p].pending == WEFT_PENDING_RESULT;
    if (!member_is_active(m) || !behind)
        m->stranded_ns = 0;
    else if (!m->stranded_ns)
        m->stranded_ns = m->now_ns;
    else if (m->now_ns - m->stranded_ns >= most && m->welcomed) {
        m->stranded_ns = 0;
        over(m, WEFT_MEMBER_FENCED, WEFT_WHY_REPLACED);
    }
}

/* Beyond the drift only if something of its own waits: otherwise the next sync point is what helps. */
static void check_drift(weft_member_machine *m) {
    uint64_t most = m->opts.drift_max ? m->opts.drift_max : DRIFT_ROUNDS * (uint64_t)weft_member_h(m);
    int waits = 0;
    for (uint32_t p = 0; p < m->run.nfragments; p++) waits |= !weft_member_may_ready(m, p);
    if (m->commit_step == NEXT_STEP || (m->paused && !waits)) {
        m->commit_step = m->beat.step;
        resume(m);
    }
    if (member_is_active(m) && waits && !m->paused && m->beat.step - m->commit_step >= most) {
        m->paused = 1;
        say(m, WEFT_DO_PAUSE);
    }
}

static void tick(weft_member_machine *m, const weft_site_heartbeat *beat) {
    m->beat = *beat;
    check_stranded(m);
    if (m->welcomed && m->now_ns - m->beat_ns >= m->opts.heartbeat_ns) {
        m->beat_ns = m->now_ns;
        weft_site_heartbeat *b = &member_message(m, WEFT_SITE_HEARTBEAT)->u.heartbeat;
        *b = *beat;
        b->waiting = beat->waiting || m->paused;
        member_send(m);
    }
    if (m->connected && m->now_ns - m->heard_ns >= m->opts.hub_silent_ns) {
        m->heard_ns = m->now_ns;
        say(m, WEFT_DO_REDIAL);
    }
    check_drift(m);
}

static void settle(weft_member_machine *m) {
    int all = 1;
    for (uint32_t p = 0; p < m->run.nfragments; p++) {
        if (member_settle(m, p)) m->fragment[p].reached = 1;
        all &= m->fragment[p].reached && !m->fragment[p].resyncing && !m->fragment[p].lost;
    }
    if (m->state == WEFT_MEMBER_OBSERVER && m->welcomed && all && !m->caught_up_sent) {
        m->caught_up_sent = 1;
        weft_site_caught_up *c = &member_message(m, WEFT_SITE_CAUGHT_UP)->u.caught_up;
        c->nversions = tell_versions(m, c->versions);
        member_send(m);
    }
}

weft_status weft_member_step(weft_member_machine *m, const weft_member_event *e, uint64_t now_ns,
                             weft_member_actions *out) {
    weft_status s = WEFT_OK;
    if (m->ended) return WEFT_OK;
    m->out = out;
    if (now_ns > m->now_ns) m->now_ns = now_ns;
    switch (e->kind) {
    case WEFT_MEMBER_UP: up(m); break;
    case WEFT_MEMBER_DOWN: m->connected = m->welcomed = 0; break;
    case WEFT_MEMBER_MESSAGE: message(m, e->message); break;
    case WEFT_MEMBER_RECORD: s = record(m, e->record); break;
    case WEFT_MEMBER_TICK: tick(m, e->beat); break;
    case WEFT_MEMBER_READY: s = member_ready(m, e->ready); break;
    case WEFT_MEMBER_HAVE: member_have(m, e); break;
    case WEFT_MEMBER_REDUCED: member_reduced(m, e); break;
    case WEFT_MEMBER_GOT: member_got(m, e); break;
    case WEFT_MEMBER_APPLIED: s = member_applied(m, e->key.fragment, e->key.round); break;
    case WEFT_MEMBER_FETCHED: member_fetched(m, e->key.fragment, e->key.round); break;
    case WEFT_MEMBER_AUDITED: member_audited(m, e); break;
    case WEFT_MEMBER_DRAIN:
        m->drain = 1;
        member_message(m, WEFT_SITE_DRAIN);
        member_send(m);
        break;
    default: s = weft_fail(WEFT_ERR_STATE, "a member knows no event %u", e->kind);
    }
    if (!m->ended) settle(m);
    m->out = NULL;
    return s;
}

const char *weft_member_action_name(uint8_t kind) {
    static const char *const name[] = {"SEND",    "PEERS",  "BEGIN",  "OFFER",  "SEAL",  "PULL",   "VOID",
                                       "DISCARD", "APPLY",  "FETCH",  "RESYNC", "AUDIT", "JOINED", "PAUSE",
                                       "RESUME",  "REDIAL", "REJOIN", "LEFT",   "FAIL"};
    _Static_assert(sizeof name / sizeof *name == WEFT_DO_FAIL + 1, "a name per action");
    return kind <= WEFT_DO_FAIL ? name[kind] : "?";
}
