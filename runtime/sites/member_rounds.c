/* Rounds of a fragment as a member sees them, and what brings a fragment that is behind to the log's version.
 *
 * Invariants: APPLY is said for a COMMIT record only, once, in the order of versions, and only when the whole result is
 * here and has the record's root. One attempt at a time: a new one voids the old one. A commit whose result cannot be
 * waited for, or of an attempt that this member was not in, is fetched. */
#include <string.h>

#include "runtime/sites/member_internal.h"

#define OVERTAKEN 2 /* missed rounds in a row after which the own work is given up */

static void say(weft_member_machine *m, uint8_t kind, const weft_site_key *key) {
    member_emit(m, &(weft_member_action){.kind = kind, .key = *key});
}

static int held_for(const weft_member_fragment *f, uint64_t round) {
    return f->ready_held && f->ready.key.round == round;
}

static void discard(weft_member_machine *m, weft_member_fragment *f) {
    if (!f->ready_held) return;
    f->ready_held = 0;
    say(m, WEFT_DO_DISCARD, &f->ready.key);
}

void member_void(weft_member_machine *m, uint32_t p) {
    weft_member_fragment *f = &m->fragment[p];
    if (f->stage == WEFT_STAGE_NONE) return;
    f->stage = WEFT_STAGE_NONE;
    if (f->pending == WEFT_PENDING_RESULT) f->pending = WEFT_PENDING_NONE;
    say(m, WEFT_DO_VOID, &f->attempt.key);
}

void member_lose(weft_member_machine *m) {
    for (uint32_t p = 0; p < m->run.nfragments; p++) {
        weft_member_fragment *f = &m->fragment[p];
        member_void(m, p);
        discard(m, f);
        f->resyncing = f->audit = 0;
        f->missed = 0;
    }
}

/* --- saying it to the hub --- */

static void send_ready(weft_member_machine *m, const weft_member_fragment *f) {
    member_message(m, WEFT_SITE_READY)->u.ready = f->ready;
    member_send(m);
}

static void send_have(weft_member_machine *m, const weft_member_fragment *f) {
    member_message(m, WEFT_SITE_HAVE)->u.have = (weft_site_have){f->attempt.key, f->have};
    member_send(m);
}

static void send_result(weft_member_machine *m, uint16_t type, const weft_member_fragment *f,
                        const weft_site_hash *root) {
    member_message(m, type)->u.result = (weft_site_result){f->attempt.key, *root};
    member_send(m);
}

/* Not before the last commit is merged: this one could not follow it, and the site's work would be lost. */
static void say_prepared(weft_member_machine *m, const weft_member_fragment *f) {
    if (f->stage == WEFT_STAGE_SEALED && f->prepared && !f->pending)
        send_result(m, WEFT_SITE_PREPARED, f, &f->root);
}

void member_repeat(weft_member_machine *m) {
    for (uint32_t p = 0; p < m->run.nfragments; p++) {
        const weft_member_fragment *f = &m->fragment[p];
        if (held_for(f, f->committed + 1)) send_ready(m, f);
        if (f->stage == WEFT_STAGE_NONE || f->pending == WEFT_PENDING_RESULT) continue;
        if (f->have) send_have(m, f);
        if (f->reduced) send_result(m, WEFT_SITE_REDUCED, f, &f->part_root);
        say_prepared(m, f);
    }
}

/* --- attempts --- */

/* BEGIN or OFFER: with the parts. */
static void say_parts(weft_member_machine *m, const weft_member_fragment *f, uint8_t kind) {
    const weft_site_commit *a = &f->attempt;
    const weft_site_run *run = &m->run;
    uint64_t chunks = (run->elements[a->key.fragment] + run->chunk - 1) / run->chunk;
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_parts_cut(a->members, a->shares, (uint32_t)chunks, bound);
    member_emit(m, &(weft_member_action){.kind = kind,
                                         .key = a->key,
                                         .epoch = a->epoch,
                                         .members = a->members,
                                         .gather = a->gather,
                                         .bound = bound});
}

static void offer(weft_member_machine *m, weft_member_fragment *f) {
    if (f->offered || f->stage != WEFT_STAGE_OPEN || !held_for(f, f->attempt.key.round)) return;
    f->offered = 1;
    say_parts(m, f, WEFT_DO_OFFER);
}

static void begin(weft_member_machine *m, const weft_site_commit *a) {
    weft_member_fragment *f = &m->fragment[a->key.fragment];
    member_void(m, a->key.fragment);
    f->attempt = *a;
    f->stage = WEFT_STAGE_OPEN;
    f->offered = f->reduced = f->got = f->root_known = f->prepared = 0;
    f->have = 0;
    f->asked_ns = m->now_ns;
    say_parts(m, f, WEFT_DO_BEGIN);
}

/* The attempt to be made of an OPEN, a SEAL or a COMMIT is for the next version, and this member is in it. */
static int concerns(const weft_member_machine *m, const weft_site_key *key, weft_site_set members) {
    if (key->fragment >= m->run.nfragments || !member_is_active(m) || !weft_site_has(members, m->member))
        return 0;
    return key->round == m->fragment[key->fragment].committed + 1;
}

void member_open(weft_member_machine *m, const weft_site_open *o) {
    if (!concerns(m, &o->key, o->members)) return;
    weft_member_fragment *f = &m->fragment[o->key.fragment];
    if (f->stage == WEFT_STAGE_NONE || !member_same_key(&f->attempt.key, &o->key)) {
        weft_site_commit a = {.key = o->key, .epoch = o->epoch, .members = o->members, .gather = o->gather};
        memcpy(a.shares, o->shares, sizeof a.shares);
        begin(m, &a);
    }
    offer(m, f);
}

static void pull(weft_member_machine *m, const weft_member_fragment *f, uint8_t wrong) {
    const weft_site_commit *a = &f->attempt;
    member_emit(
        m, &(weft_member_action){.kind = WEFT_DO_PULL, .key = a->key, .members = a->members, .wrong = wrong});
}

/* Everything is here, and it is what it should be? */
static void check_result(weft_member_machine *m, weft_member_fragment *f) {
    if (f->stage != WEFT_STAGE_SEALED || !f->root_known || f->prepared) return;
    if (f->attempt.in) {
        if (!f->got) return;
        if (memcmp(&f->got_root, &f->root, sizeof f->root) != 0) {
            f->got = 0;
            f->asked_ns = m->now_ns;
            pull(m, f, 1);
            return;
        }
    }
    f->prepared = 1;
    say_prepared(m, f);
}

void member_sealed(weft_member_machine *m, const weft_site_commit *c) {
    if (!concerns(m, &c->key, c->members)) return;
    weft_member_fragment *f = &m->fragment[c->key.fragment];
    if (f->stage == WEFT_STAGE_NONE || !member_same_key(&f->attempt.key, &c->key)) begin(m, c);
    f->attempt = *c;
    f->stage = WEFT_STAGE_SEALED;
    if (c->in)
        member_emit(m, &(weft_member_action){.kind = WEFT_DO_SEAL, .key = c->key, .commit = &f->attempt});
    check_result(m, f);
}

static weft_member_fragment *in_attempt(weft_member_machine *m, const weft_site_key *key) {
    if (key->fragment >= m->run.nfragments) return NULL;
    weft_member_fragment *f = &m->fragment[key->fragment];
    return f->stage != WEFT_STAGE_NONE && member_same_key(&f->attempt.key, key) ? f : NULL;
}

void member_root(weft_member_machine *m, const weft_site_result *r) {
    weft_member_fragment *f = in_attempt(m, &r->key);
    if (!f || f->root_known) return;
    f->root = r->root;
    f->root_known = 1;
    f->asked_ns = m->now_ns;
    check_result(m, f);
}

weft_status member_ready(weft_member_machine *m, const weft_site_ready *r) {
    if (r->key.fragment >= m->run.nfragments)
        return weft_fail(WEFT_ERR_STATE, "the run has no fragment %u", r->key.fragment);
    weft_member_fragment *f = &m->fragment[r->key.fragment];
    if (!weft_member_may_ready(m, r->key.fragment) || r->key.round != f->version + 1) {
        say(m, WEFT_DO_DISCARD, &r->key); /* overtaken on its way from the training's thread */
        return WEFT_OK;
    }
    f->ready = *r;
    f->ready.key.attempt = 0;
    f->ready_held = 1;
    send_ready(m, f);
    offer(m, f);
    return WEFT_OK;
}

void member_have(weft_member_machine *m, const weft_member_event *e) {
    weft_member_fragment *f = in_attempt(m, &e->key);
    if (!f || !(e->set & ~f->have)) return;
    f->have |= e->set;
    send_have(m, f);
}

void member_reduced(weft_member_machine *m, const weft_member_event *e) {
    weft_member_fragment *f = in_attempt(m, &e->key);
    if (!f || f->reduced) return;
    f->reduced = 1;
    f->part_root = e->root;
    send_result(m, WEFT_SITE_REDUCED, f, &f->part_root);
}

/* --- commits --- */

static void apply(weft_member_machine *m, weft_member_fragment *f) {
    const weft_site_commit *c = &f->attempt;
    uint8_t how = WEFT_APPLY_LATE;
    int in = weft_site_has(c->in, m->member); /* perhaps by what an earlier life gave */
    if (in && held_for(f, c->key.round))
        how = WEFT_APPLY_MINE;
    else if (weft_site_has(c->excluded, m->member) || (c->in && !in && ++f->missed >= OVERTAKEN))
        how = WEFT_APPLY_OVERTAKE;
    if (how != WEFT_APPLY_LATE) f->missed = 0;
    f->ready_held = 0;
    f->stage = WEFT_STAGE_NONE;
    f->pending = WEFT_PENDING_APPLY;
    member_emit(m, &(weft_member_action){.kind = WEFT_DO_APPLY, .key = c->key, .commit = c, .how = how});
}

/* A committed result may be applied once it is prepared: whole, with the root of the record. */
static void apply_if_here(weft_member_machine *m, weft_member_fragment *f) {
    if (f->pending == WEFT_PENDING_RESULT && f->prepared) apply(m, f);
}

void member_got(weft_member_machine *m, const weft_member_event *e) {
    weft_member_fragment *f = in_attempt(m, &e->key);
    if (!f) return;
    f->got = 1;
    f->got_root = e->root;
    check_result(m, f);
    apply_if_here(m, f);
}

static int can_follow(const weft_member_machine *m, const weft_member_fragment *f,
                      const weft_site_commit *c) {
    return concerns(m, &c->key, c->members) && f->version + 1 == c->key.round && !f->pending && !f->lost &&
           !f->fetching && !f->resyncing;
}

void member_committed(weft_member_machine *m, const weft_site_commit *c) {
    if (c->key.fragment >= m->run.nfragments) return;
    weft_member_fragment *f = &m->fragment[c->key.fragment];
    int follow = can_follow(m, f, c);
    int here = f->stage == WEFT_STAGE_SEALED && member_same_key(&f->attempt.key, &c->key);
    if (follow && !here) member_sealed(m, c);
    f->committed = c->key.round;
    if (!follow) {
        member_void(m, c->key.fragment);
        if (f->ready_held && f->ready.key.round <= f->committed) discard(m, f);
        return;
    }
    f->attempt = *c;
    f->pending = WEFT_PENDING_RESULT;
    f->asked_ns = m->now_ns;
    if (!f->root_known) {
        f->root = c->root;
        f->root_known = 1;
        if (!f->got && c->in) pull(m, f, 0);
        check_result(m, f);
    }
    apply_if_here(m, f);
}

weft_status member_applied(weft_member_machine *m, uint32_t p, uint64_t version) {
    if (p >= m->run.nfragments || m->fragment[p].pending != WEFT_PENDING_APPLY ||
        version != m->fragment[p].version + 1)
        return weft_fail(WEFT_ERR_STATE, "version %llu of fragment %u was not to be applied",
                         (unsigned long long)version, p);
    m->fragment[p].pending = WEFT_PENDING_NONE;
    m->fragment[p].version = version;
    say_prepared(m, &m->fragment[p]);
    return WEFT_OK;
}

/* --- catching up, audits --- */

void member_rollback(weft_member_machine *m, const weft_site_rollback *r) {
    int mine =
        m->incarnation && r->member == m->member; /* it counts as it is; if it has moved on, it tells again */
    for (uint32_t p = 0; p < m->run.nfragments && p < r->nversions; p++) {
        weft_member_fragment *f = &m->fragment[p];
        member_void(m, p);
        discard(m, f);
        f->committed = r->versions[p];
        /* What a checkpoint holds may be of after the rollback: then the audit of joiners tells. */
        f->lost = m->incarnation && !mine && f->version > f->committed;
        if (mine || f->version == f->committed) f->fetching = 0; /* there was nobody to fetch more from */
    }
    m->caught_up_sent = 0;
}

void member_fetched(weft_member_machine *m, uint32_t p, uint64_t version) {
    if (p >= m->run.nfragments) return;
    weft_member_fragment *f = &m->fragment[p];
    if (!f->fetching && !f->resyncing) return;
    m->caught_up_sent = 0;
    f->fetching = f->resyncing = f->lost = 0;
    f->version = version;
    f->missed = 0;
}

void member_audit(weft_member_machine *m, const weft_site_audit *a) {
    if (a->fragment >= m->run.nfragments) return;
    m->fragment[a->fragment].audit = 1;
    m->fragment[a->fragment].audit_version = a->version;
}

void member_resync(weft_member_machine *m, const weft_site_audit *a) {
    if (a->fragment >= m->run.nfragments || member_is_active(m)) return;
    weft_member_fragment *f = &m->fragment[a->fragment];
    f->resyncing = 1;
    f->fetch_ns = 0;
    f->donor = a->donor;
    f->donor_root = a->root;
    f->audit = 0;
    f->audit_version = a->version;
}

void member_audited(weft_member_machine *m, const weft_member_event *e) {
    if (e->key.fragment >= m->run.nfragments || !m->fragment[e->key.fragment].audit) return;
    m->fragment[e->key.fragment].audit = 0;
    member_message(m, WEFT_SITE_AUDITED)->u.audit =
        (weft_site_audit){.fragment = e->key.fragment, .version = e->key.round, .root = e->root};
    member_send(m);
}

/* The time for asking (again) has come? Then it is now. */
static int is_due(const weft_member_machine *m, uint64_t *asked_ns) {
    if (*asked_ns && m->now_ns - *asked_ns < m->opts.retry_ns) return 0;
    *asked_ns = m->now_ns ? m->now_ns : 1;
    return 1;
}

static void ask(weft_member_machine *m, uint8_t kind, uint32_t p, uint64_t version) {
    const weft_member_fragment *f = &m->fragment[p];
    member_emit(m, &(weft_member_action){
                       .kind = kind, .key = {p, version, 0}, .donor = f->donor, .root = f->donor_root});
}

int member_settle(weft_member_machine *m, uint32_t p) {
    weft_member_fragment *f = &m->fragment[p];
    int behind = f->lost || f->version < f->committed;
    if (f->resyncing) {
        if (m->welcomed && is_due(m, &f->fetch_ns)) ask(m, WEFT_DO_RESYNC, p, f->audit_version);
        return 0;
    }
    if (behind && !f->pending && m->incarnation) {
        if (!f->fetching) f->fetch_ns = 0;
        f->fetching = 1;
        if (is_due(m, &f->fetch_ns)) ask(m, WEFT_DO_FETCH, p, f->committed);
    }
    int waits = f->pending == WEFT_PENDING_RESULT || (f->stage == WEFT_STAGE_SEALED && f->root_known);
    if (waits && !f->prepared && f->attempt.in && is_due(m, &f->asked_ns)) pull(m, f, 0);
    if (f->audit == 1 || (f->audit == 2 && m->now_ns - f->audit_ns >= m->opts.retry_ns)) {
        if (!behind && !f->fetching && f->version >= f->audit_version) {
            f->audit = 2;
            f->audit_ns = m->now_ns;
            ask(m, WEFT_DO_AUDIT, p, f->version);
        }
    }
    return !behind && !f->fetching && !f->pending;
}
