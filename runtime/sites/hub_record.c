/* What a record means for the hub's state. A running hub appends a record and applies it at once; a restarted one applies
 * what the log holds: the lasting part of the state is a function of the log. That a record is on disk is a second,
 * later event (h->synced): nothing that depends on it is said before. */
#include <string.h>

#include "runtime/sites/hub_internal.h"

weft_site_message *hub_message(weft_hub_machine *h, uint16_t type) {
    memset(&h->scratch, 0, sizeof h->scratch);
    h->scratch.type = type;
    return &h->scratch;
}

void hub_send(weft_hub_machine *h, weft_site_set to) {
    weft_hub_action a = {.kind = WEFT_HUB_SEND, .message = &h->scratch};
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(to, m) && h->member[m].live) a.to |= weft_site_bit(m);
    if (a.to) h->out->emit(h->out->arg, &a);
}

uint64_t hub_append(weft_hub_machine *h) {
    weft_hub_action a = {.kind = WEFT_HUB_APPEND, .seq = ++h->seq, .message = &h->scratch};
    hub_apply(h, &h->scratch);
    h->out->emit(h->out->arg, &a);
    return h->seq;
}

/* The first attempt of a round: terms take turns in the upper byte, so that a restarted hub, which does not know of
 * attempts that were only opened, gives none of their numbers again. */
static uint16_t first_attempt(const weft_hub_machine *h) {
    return (uint16_t)((h->term & 0xff) << 8);
}

/* What was said by an incarnation that is over counts no more. */
static void forget(weft_hub_machine *h, uint32_t m) {
    weft_site_set rest = ~weft_site_bit(m);
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        weft_hub_fragment *f = &h->fragment[p];
        f->lost |= ~rest;
        f->ready &= rest;
        f->unfit &= rest;
        f->regular &= rest;
        f->reduced &= rest;
        f->prepared &= rest;
        f->have[m] = 0;
        f->norms[m].n = 0;
        f->audit.asked &= rest;
        f->audit.got &= rest;
        f->audit.agreed &= rest;
    }
}

static void apply_member(weft_hub_machine *h, const weft_site_member *r) {
    weft_hub_member *m = &h->member[r->member];
    if (r->member >= h->nmembers) h->nmembers = r->member + 1u;
    if (r->incarnation != m->incarnation || !hub_takes_part(r->state)) forget(h, r->member);
    m->incarnation = r->incarnation;
    if (r->incarnation > h->incarnations) h->incarnations = r->incarnation;
    m->state = r->state;
    m->reason = r->reason;
    m->kind = r->kind;
    m->pi = r->pi;
    m->after = h->seq;
    memcpy(m->site, r->site, sizeof m->site);
    memcpy(m->address, r->address, sizeof m->address);
}

static void apply_epoch(weft_hub_machine *h, const weft_site_epoch *r) {
    h->epoch = *r;
    h->epoch_seq = h->seq;
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(r->active, m) && !hub_takes_part(h->member[m].state))
            h->member[m].state = WEFT_MEMBER_ACTIVE;
}

static void apply_param(weft_hub_machine *h, const weft_site_param *r) {
    double v = r->value;
    if (!(v >= 0 && v < 4e9)) return;
    if (!strcmp(r->name, "min_sites")) h->run.min_sites = (uint32_t)v;
    if (!strcmp(r->name, "quorum")) h->run.quorum = (uint32_t)v;
    if (!strcmp(r->name, "audit_every")) h->run.audit_every = (uint32_t)v;
    if (!strcmp(r->name, "eta")) h->run.eta = (float)v;
    if (!strcmp(r->name, "h") && v >= 1) h->run.h = (uint32_t)v;
}

static void apply_admin(weft_hub_machine *h, const weft_site_admin *r) {
    int at = weft_hub_find(h, r->site);
    if (at < 0) {
        if (h->nmembers == WEFT_SITE_MEMBERS) return;
        at = (int)h->nmembers++;
        memcpy(h->member[at].site, r->site, sizeof r->site);
        h->member[at].pi = 1;
    }
    weft_hub_member *m = &h->member[at];
    if (r->verb == WEFT_ADMIN_ROSTER) m->kind = r->kind, m->pi = r->pi;
    if (r->verb == WEFT_ADMIN_EJECT && m->state == WEFT_MEMBER_OUT) m->state = WEFT_MEMBER_EJECTED;
    if (r->verb == WEFT_ADMIN_ALLOW && m->state == WEFT_MEMBER_EJECTED) m->state = WEFT_MEMBER_OUT;
}

static void close_round(weft_hub_fragment *f) {
    f->ready = f->unfit = 0;
    f->reduced = f->prepared = 0;
    memset(f->have, 0, sizeof f->have);
    f->root_known = 0;
}

static void apply_seal(weft_hub_machine *h, const weft_site_commit *c) {
    weft_hub_fragment *f = &h->fragment[c->key.fragment];
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_parts_cut(c->members, c->shares, weft_hub_chunks(h, c->key.fragment), bound);
    f->attempt = *c;
    f->owners = weft_parts_owners(bound);
    f->phase = WEFT_ROUND_SEALED;
    f->after = h->seq;
    f->next_attempt = (uint16_t)(c->key.attempt + 1);
}

static void apply_commit(weft_hub_machine *h, const weft_site_commit *c) {
    weft_hub_fragment *f = &h->fragment[c->key.fragment];
    f->version = c->key.round;
    f->attempt = *c;
    f->phase = WEFT_ROUND_COMMITTING;
    f->after = h->seq;
    f->next_attempt = first_attempt(h);
    close_round(f);
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(c->in, m)) h->member[m].tokens += c->tokens[m];
}

static void apply_abort(weft_hub_machine *h, const weft_site_abort *r) {
    weft_hub_fragment *f = &h->fragment[r->key.fragment];
    f->phase = WEFT_ROUND_IDLE;
    f->after = h->seq;
    f->reduced = f->prepared = 0;
    f->root_known = 0;
    if (r->key.attempt >= f->next_attempt) f->next_attempt = (uint16_t)(r->key.attempt + 1);
}

static void apply_rollback(weft_hub_machine *h, const weft_site_rollback *r) {
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) h->member[m].told = 0;
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        weft_hub_fragment *f = &h->fragment[p];
        f->version = r->versions[p];
        f->phase = WEFT_ROUND_IDLE;
        f->after = h->seq;
        f->next_attempt = first_attempt(h);
        close_round(f);
        memset(&f->audit, 0, sizeof f->audit);
    }
}

static void apply_term(weft_hub_machine *h, uint64_t term) {
    h->term = term;
    h->term_seq = h->seq;
    for (uint32_t p = 0; p < WEFT_SITE_FRAGMENTS; p++) h->fragment[p].next_attempt = first_attempt(h);
}

/* What can be applied now: the same for the hub's own records and for those of a log. */
static int follows(const weft_hub_machine *h, const weft_site_message *b) {
    const weft_site_key *key = NULL;
    switch (b->type) {
    case WEFT_SITE_RUN: return !h->founded;
    case WEFT_SITE_TERM: return b->u.term.term > h->term;
    case WEFT_SITE_MEMBER:
    case WEFT_SITE_PARAM:
    case WEFT_SITE_ADMIN: return 1;
    case WEFT_SITE_EPOCH: return h->founded && b->u.epoch.epoch == h->epoch.epoch + 1;
    case WEFT_SITE_ROLLBACK: return h->founded && b->u.rollback.nversions == h->run.nfragments;
    case WEFT_SITE_AGREED: return b->u.agreed.fragment < h->run.nfragments;
    case WEFT_SITE_SEAL:
    case WEFT_SITE_COMMIT: key = &b->u.commit.key; break;
    case WEFT_SITE_ABORT: key = &b->u.abort.key; break;
    default: return 0;
    }
    return key->fragment < h->run.nfragments && key->round == h->fragment[key->fragment].version + 1;
}

weft_status hub_apply(weft_hub_machine *h, const weft_site_message *b) {
    if (!follows(h, b))
        return weft_fail(WEFT_ERR_CORRUPT,
                         "record %llu of the hub's log, %s, does not follow from those before it",
                         (unsigned long long)h->seq, weft_site_type_name(b->type));
    switch (b->type) {
    case WEFT_SITE_RUN:
        h->run = b->u.run;
        h->founded = 1;
        break;
    case WEFT_SITE_TERM: apply_term(h, b->u.term.term); break;
    case WEFT_SITE_MEMBER: apply_member(h, &b->u.member); break;
    case WEFT_SITE_EPOCH: apply_epoch(h, &b->u.epoch); break;
    case WEFT_SITE_PARAM: apply_param(h, &b->u.param); break;
    case WEFT_SITE_SEAL: apply_seal(h, &b->u.commit); break;
    case WEFT_SITE_COMMIT: apply_commit(h, &b->u.commit); break;
    case WEFT_SITE_ABORT: apply_abort(h, &b->u.abort); break;
    case WEFT_SITE_ADMIN: apply_admin(h, &b->u.admin); break;
    case WEFT_SITE_ROLLBACK: apply_rollback(h, &b->u.rollback); break;
    default: break; /* AGREED: for readers of the log */
    }
    return WEFT_OK;
}
