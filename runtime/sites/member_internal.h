/* Between the files of the member machine; see member_machine.h.
 *
 *   member_machine.c  connection, records, membership, drift
 *   member_rounds.c   attempts and commits of a fragment, catching up, audits */
#ifndef WEFT_SITES_MEMBER_INTERNAL_H
#define WEFT_SITES_MEMBER_INTERNAL_H

#include "runtime/sites/member_machine.h"

#define MEMBER_SECOND 1000000000ull

void member_emit(weft_member_machine *m, const weft_member_action *a);
/* The scratch message, emptied, with this incarnation; and its way to the hub, if it is there. */
weft_site_message *member_message(weft_member_machine *m, uint16_t type);
void member_send(weft_member_machine *m);

static inline int member_is_active(const weft_member_machine *m) {
    return m->state == WEFT_MEMBER_ACTIVE || m->state == WEFT_MEMBER_DRAINING;
}
static inline int member_same_key(const weft_site_key *a, const weft_site_key *b) {
    return a->fragment == b->fragment && a->round == b->round && a->attempt == b->attempt;
}

/* --- what the hub says about rounds --- */
void member_open(weft_member_machine *m, const weft_site_open *o);
void member_sealed(weft_member_machine *m, const weft_site_commit *c);
void member_root(weft_member_machine *m, const weft_site_result *r);
void member_committed(weft_member_machine *m, const weft_site_commit *c);
void member_rollback(weft_member_machine *m, const weft_site_rollback *r);
void member_audit(weft_member_machine *m, const weft_site_audit *a);
void member_resync(weft_member_machine *m, const weft_site_audit *a);
/* The attempt of p, if there is one, is void. */
void member_void(weft_member_machine *m, uint32_t p);
/* This incarnation is over: attempts are void, contributions of no use. */
void member_lose(weft_member_machine *m);
/* Says again what a hub that was away may have missed. */
void member_repeat(weft_member_machine *m);

/* --- what exchange and training say --- */
weft_status member_ready(weft_member_machine *m, const weft_site_ready *r);
void member_have(weft_member_machine *m, const weft_member_event *e);
void member_reduced(weft_member_machine *m, const weft_member_event *e);
void member_got(weft_member_machine *m, const weft_member_event *e);
weft_status member_applied(weft_member_machine *m, uint32_t p, uint64_t version);
void member_fetched(weft_member_machine *m, uint32_t p, uint64_t version);
void member_audited(weft_member_machine *m, const weft_member_event *e);

/* Does what has become possible, or is due again, for fragment p; 1 if it is at the log's version. */
int member_settle(weft_member_machine *m, uint32_t p);

#endif
