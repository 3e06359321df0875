/* The hub machine: events, and the order in which what they changed takes effect.
 *
 * The idea: an event only notes what it says; then `settle` looks at the whole state and does what has become possible,
 * until nothing moves. So nothing depends on the order in which messages arrived, and a restarted hub, which has
 * forgotten all that is not in the log, comes to the same conclusions from what the members say again.
 *
 * Invariants: records are appended in order and applied when they are appended; what depends on a record is sent after
 * SYNCED of it; an attempt that was sealed ends in one COMMIT or one ABORT. */
#include "runtime/sites/hub_machine.h"

#include <string.h>

#include "runtime/sites/hub_internal.h"

#define PASSES 8 /* of settle: each appends something, or it is the last */

static uint64_t or_else(uint64_t v, uint64_t fallback) {
    return v ? v : fallback;
}

void weft_hub_init(weft_hub_machine *h, const weft_hub_opts *opts) {
    memset(h, 0, sizeof *h);
    h->opts = *opts;
    weft_hub_opts *o = &h->opts;
    o->suspect_ns = or_else(o->suspect_ns, 3 * HUB_SECOND);
    o->fence_ns = or_else(o->fence_ns, 10 * HUB_SECOND);
    o->stall_ns = or_else(o->stall_ns, 60 * HUB_SECOND);
    o->deadline_first_ns = or_else(o->deadline_first_ns, 20 * HUB_SECOND);
    o->deadline_min_ns = or_else(o->deadline_min_ns, 10 * HUB_SECOND);
    o->deadline_max_ns = or_else(o->deadline_max_ns, 600 * HUB_SECOND);
    o->restore_ns = or_else(o->restore_ns, 30 * HUB_SECOND);
}

int weft_hub_find(const weft_hub_machine *h, const char *site) {
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (!strncmp(h->member[m].site, site, WEFT_SITE_NAME)) return (int)m;
    return -1;
}

uint32_t weft_hub_chunks(const weft_hub_machine *h, uint32_t fragment) {
    return (uint32_t)((h->run.elements[fragment] + h->run.chunk - 1) / h->run.chunk);
}

weft_site_set hub_in_state(const weft_hub_machine *h, uint8_t state) {
    weft_site_set s = 0;
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (h->member[m].state == state) s |= weft_site_bit(m);
    return s;
}

weft_site_set weft_hub_active(const weft_hub_machine *h) {
    return hub_in_state(h, WEFT_MEMBER_ACTIVE) | hub_in_state(h, WEFT_MEMBER_SUSPECT) |
           hub_in_state(h, WEFT_MEMBER_DRAINING);
}

weft_status weft_hub_replay(weft_hub_machine *h, const weft_site_record *r) {
    if (h->booted) return weft_fail(WEFT_ERR_STATE, "records are replayed before the hub starts");
    if (r->seq != h->seq + 1)
        return weft_fail(WEFT_ERR_CORRUPT, "record %llu of the hub's log follows record %llu",
                         (unsigned long long)r->seq, (unsigned long long)h->seq);
    h->seq = h->synced = r->seq;
    return hub_apply(h, &r->body);
}

/* A new term: what was sealed and not committed is void; members have the fence time to come back, and those that were
 * active are waited for. */
static void boot(weft_hub_machine *h) {
    h->booted = 1;
    hub_message(h, WEFT_SITE_TERM)->u.term.term = h->term + 1;
    hub_append(h);
    for (uint32_t m = 0; m < h->nmembers; m++) {
        h->member[m].heard_ns = h->now_ns;
        h->member[m].progress_ns = h->now_ns;
    }
    h->epoch_ns = h->now_ns;
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        weft_hub_fragment *f = &h->fragment[p];
        f->regular = weft_hub_active(h);
        if (f->phase == WEFT_ROUND_COMMITTING) f->phase = WEFT_ROUND_IDLE;
        if (f->phase != WEFT_ROUND_SEALED) continue;
        weft_site_key key = f->attempt.key;
        hub_message(h, WEFT_SITE_ABORT)->u.abort = (weft_site_abort){key, WEFT_WHY_RESTART};
        hub_append(h);
    }
}

static void settle(weft_hub_machine *h) {
    if (!hub_on_disk(h, h->term_seq)) return; /* members that hear of this hub hear of its term first */
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t seq = h->seq;
        hub_settle_members(h);
        for (uint32_t p = 0; p < h->run.nfragments; p++) hub_settle_round(h, p);
        hub_settle_audits(h);
        if (pass && h->seq == seq) break; /* what ended without a record shows in the second pass */
    }
}

static void message(weft_hub_machine *h, uint32_t m, const weft_site_message *msg) {
    weft_hub_member *from = &h->member[m];
    if (msg->incarnation != from->incarnation) return; /* said by an earlier life */
    if (!from->live) return;
    hub_heard(h, m, msg);
    if (!hub_takes_part(from->state)) return;
    switch (msg->type) {
    case WEFT_SITE_READY: hub_ready(h, m, &msg->u.ready); break;
    case WEFT_SITE_HAVE: hub_have(h, m, &msg->u.have); break;
    case WEFT_SITE_REDUCED: hub_reduced(h, m, &msg->u.result); break;
    case WEFT_SITE_PREPARED: hub_prepared(h, m, &msg->u.result); break;
    default: break;
    }
}

weft_status weft_hub_step(weft_hub_machine *h, const weft_hub_event *e, uint64_t now_ns,
                          weft_hub_actions *out) {
    if (h->booted == (e->kind == WEFT_HUB_BOOT))
        return weft_fail(WEFT_ERR_STATE, "a hub boots once, before anything else");
    if ((e->kind == WEFT_HUB_MESSAGE || e->kind == WEFT_HUB_DOWN) && e->member >= h->nmembers)
        return weft_fail(WEFT_ERR_STATE, "the hub has no member %u", e->member);
    h->out = out;
    if (now_ns > h->now_ns) h->now_ns = now_ns;
    switch (e->kind) {
    case WEFT_HUB_BOOT: boot(h); break;
    case WEFT_HUB_SYNCED:
        if (e->seq > h->seq) return weft_fail(WEFT_ERR_STATE, "a record was synced that was not appended");
        if (e->seq > h->synced) h->synced = e->seq;
        break;
    case WEFT_HUB_HELLO: hub_hello(h, e); break;
    case WEFT_HUB_MESSAGE: message(h, e->member, e->message); break;
    case WEFT_HUB_DOWN: h->member[e->member].connected = h->member[e->member].live = 0; break;
    case WEFT_HUB_ADMIN: hub_admin(h, e->message); break;
    case WEFT_HUB_TICK: hub_detect(h); break;
    default: return weft_fail(WEFT_ERR_STATE, "the hub knows no event %u", e->kind);
    }
    settle(h);
    h->out = NULL;
    return WEFT_OK;
}
