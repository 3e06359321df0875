/* Between the files of the hub machine; see hub_machine.h.
 *
 *   hub_machine.c   events, and in which order what they change takes effect
 *   hub_record.c    what a record means for the state: the one way in which anything lasting changes, so that replaying
 *                   the log gives the same machine
 *   hub_members.c   who is here: HELLO, silence, fencing, draining, epochs
 *   hub_rounds.c    attempts from OPEN to COMMIT
 *   hub_audits.c    roots that must be equal */
#ifndef WEFT_SITES_HUB_INTERNAL_H
#define WEFT_SITES_HUB_INTERNAL_H

#include "runtime/sites/hub_machine.h"

#define HUB_SECOND 1000000000ull

/* The scratch message, emptied. */
weft_site_message *hub_message(weft_hub_machine *h, uint16_t type);
/* Sends the scratch message to those of `to` that are live. */
void hub_send(weft_hub_machine *h, weft_site_set to);
/* Appends the scratch message as a record and applies it; its number. */
uint64_t hub_append(weft_hub_machine *h);
/* Applies a record's body; h->seq is its number. CORRUPT if it does not follow from the state. */
weft_status hub_apply(weft_hub_machine *h, const weft_site_message *body);

static inline int hub_on_disk(const weft_hub_machine *h, uint64_t seq) {
    return h->synced >= seq;
}

static inline int hub_takes_part(uint8_t state) {
    return state == WEFT_MEMBER_ACTIVE || state == WEFT_MEMBER_SUSPECT || state == WEFT_MEMBER_DRAINING;
}
weft_site_set hub_in_state(const weft_hub_machine *h, uint8_t state);

/* --- members --- */
void hub_hello(weft_hub_machine *h, const weft_hub_event *e);
void hub_heard(weft_hub_machine *h, uint32_t m, const weft_site_message *msg);
void hub_admin(weft_hub_machine *h, const weft_site_message *msg);
/* Logs that m's incarnation is over: `state` is FENCED, OUT or EJECTED. */
void hub_end_member(weft_hub_machine *h, uint32_t m, uint8_t state, uint8_t reason);
/* m brought all that the log has. */
int hub_has_all(const weft_hub_machine *h, uint32_t m);
void hub_activate(weft_hub_machine *h, uint32_t m);
void hub_detect(weft_hub_machine *h); /* silence, stalls, loneliness, rates */
void hub_settle_members(weft_hub_machine *h);
/* The rates of the members of `who`, in ascending order, for the solver; how many. */
int hub_rates(const weft_hub_machine *h, weft_site_set who, weft_parts_site site[WEFT_SITE_MEMBERS]);

/* --- rounds --- */
void hub_ready(weft_hub_machine *h, uint32_t m, const weft_site_ready *r);
void hub_have(weft_hub_machine *h, uint32_t m, const weft_site_have *r);
void hub_reduced(weft_hub_machine *h, uint32_t m, const weft_site_result *r);
void hub_prepared(weft_hub_machine *h, uint32_t m, const weft_site_result *r);
void hub_settle_round(weft_hub_machine *h, uint32_t p);
/* 1 if m is in an attempt, or has a contribution that is not committed. */
int hub_in_flight(const weft_hub_machine *h, uint32_t m);
/* What a member that is back has missed of the attempts it is in. */
void hub_greet_rounds(weft_hub_machine *h, uint32_t m);

/* --- audits --- */
void hub_audit_ask(weft_hub_machine *h, uint32_t p, weft_site_set who, int regular);
void hub_audit_joiner(weft_hub_machine *h, uint32_t m);
void hub_audited(weft_hub_machine *h, uint32_t m, const weft_site_audit *a);
void hub_settle_audits(weft_hub_machine *h);

#endif
