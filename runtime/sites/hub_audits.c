/* Audits: the same version must have the same root everywhere. One inquiry per fragment at a time: the members asked
 * answer with the version they have and its root. Every so many commits all active members are asked; those that differ
 * from the largest group (ties: from the lowest member's) are fenced, come back, and are repaired as joiners are. A
 * joiner is asked together with the active ones until it has answered some version as one of them did, for every
 * fragment; if the roots differ it is told to compare leaves with that one. */
#include <string.h>

#include "runtime/sites/hub_internal.h"

#define ASK_AGAIN (HUB_SECOND)      /* a joiner whose version nobody else answered */
#define GIVE_UP   (30 * HUB_SECOND) /* waiting for all answers */

void hub_audit_ask(weft_hub_machine *h, uint32_t p, weft_site_set who, int regular) {
    weft_hub_fragment *f = &h->fragment[p];
    weft_hub_audit *a = &f->audit;
    if (a->version != f->version || !a->asked) {
        a->version = f->version;
        a->asked = a->got = 0;
        a->regular = 0;
    }
    if (regular) a->regular = 1;
    who |= hub_in_state(h, WEFT_MEMBER_AUDITING) &
           ~a->agreed; /* else audits in quick succession leave a joiner out */
    a->asked |= who;
    a->got &= ~who;
    a->asked_ns = h->now_ns;
    /* Where commits follow each other fast, joiner and active ones answer different versions: every other time the next
     * one is asked for, which each answers when it gets there. */
    uint64_t ahead = a->regular ? 0 : a->asks++ & 1;
    hub_message(h, WEFT_SITE_AUDIT)->u.audit =
        (weft_site_audit){.fragment = p, .version = f->version + ahead};
    hub_send(h, who);
}

void hub_audit_joiner(weft_hub_machine *h, uint32_t m) {
    for (uint32_t p = 0; p < h->run.nfragments; p++)
        if (!weft_site_has(h->fragment[p].audit.agreed, m))
            hub_audit_ask(h, p, weft_hub_active(h) | weft_site_bit(m), 0);
}

void hub_audited(weft_hub_machine *h, uint32_t m, const weft_site_audit *r) {
    if (r->fragment >= h->run.nfragments) return;
    weft_hub_audit *a = &h->fragment[r->fragment].audit;
    h->member[m].versions[r->fragment] = r->version;
    if (!weft_site_has(a->asked, m)) return;
    a->at[m] = r->version;
    a->root[m] = r->root;
    a->got |= weft_site_bit(m);
}

static int same_root(const weft_hub_audit *a, uint32_t i, uint32_t k) {
    return memcmp(&a->root[i], &a->root[k], sizeof a->root[i]) == 0;
}

/* Compares joiner m with the first active member that answered the same version. */
static void compare(weft_hub_machine *h, uint32_t p, uint32_t m, weft_site_set active) {
    weft_hub_audit *a = &h->fragment[p].audit;
    for (uint32_t k = 0; k < h->nmembers; k++) {
        if (!weft_site_has(active & a->got, k) || a->at[k] != a->at[m]) continue;
        if (same_root(a, m, k)) {
            a->agreed |= weft_site_bit(m);
            return;
        }
        a->got &= ~weft_site_bit(m);
        a->asked &= ~weft_site_bit(m);
        hub_message(h, WEFT_SITE_RESYNC)->u.audit = (weft_site_audit){p, a->at[k], a->root[k], (uint16_t)k};
        hub_send(h, weft_site_bit(m));
        return;
    }
}

/* 1 if the roots of all fragments of this joiner were found right. */
static int settle_joiner(weft_hub_machine *h, uint32_t m) {
    weft_site_set active = weft_hub_active(h);
    int all = 1;
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        weft_hub_audit *a = &h->fragment[p].audit;
        if (weft_site_has(a->agreed, m)) continue;
        if (weft_site_has(a->got, m)) compare(h, p, m, active);
        if (weft_site_has(a->agreed, m)) continue;
        all = 0;
        if (h->now_ns - a->asked_ns > ASK_AGAIN) hub_audit_ask(h, p, active | weft_site_bit(m), 0);
    }
    return all;
}

static weft_site_set group_of(const weft_hub_audit *a, weft_site_set who, uint32_t m) {
    weft_site_set s = 0;
    for (uint32_t k = 0; k < WEFT_SITE_MEMBERS; k++)
        if (weft_site_has(who, k) && same_root(a, m, k)) s |= weft_site_bit(k);
    return s;
}

static void settle_regular(weft_hub_machine *h, uint32_t p) {
    weft_hub_audit *a = &h->fragment[p].audit;
    weft_site_set active = weft_hub_active(h), who = 0, most = 0;
    if ((a->asked & active & ~a->got) && h->now_ns - a->asked_ns < GIVE_UP) return;
    a->regular = 0;
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(a->got & active, m) && a->at[m] == a->version) who |= weft_site_bit(m);
    for (uint32_t m = 0; m < h->nmembers; m++) {
        if (!weft_site_has(who, m)) continue;
        weft_site_set g = group_of(a, who, m);
        if (weft_site_count(g) > weft_site_count(most)) most = g;
    }
    if (weft_site_count(who) < 2) return;
    weft_site_agreed *r = &hub_message(h, WEFT_SITE_AGREED)->u.agreed;
    *r = (weft_site_agreed){p, a->version, a->root[weft_site_first(most)], most, who & ~most};
    weft_site_set differ = r->differ;
    hub_append(h);
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(differ, m)) hub_end_member(h, m, WEFT_MEMBER_FENCED, WEFT_WHY_AUDIT);
}

void hub_settle_audits(weft_hub_machine *h) {
    weft_site_set joiners = hub_in_state(h, WEFT_MEMBER_AUDITING);
    for (uint32_t m = 0; m < h->nmembers; m++) {
        if (!weft_site_has(joiners, m)) continue; /* if nobody is active, there is nobody to differ from */
        if (weft_hub_active(h) ? settle_joiner(h, m) : hub_has_all(h, m)) hub_activate(h, m);
    }
    for (uint32_t p = 0; p < h->run.nfragments; p++)
        if (h->fragment[p].audit.regular) settle_regular(h, p);
}
