/* The accounts of a run over several sites, for the report: an event when a site joins or leaves, and now and then one a site
 * with what it has contributed so far. Rank 0's; the figures are the log's (runtime/sites/ledger.h). */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "runtime/sites/sites.h"
#include "runtime/train/internal.h"

#define EVERY_S 60.0

static void tell_change(weft_trainer *t, const weft_ledger *l, const weft_ledger_change *c) {
    char json[256];
    snprintf(json, sizeof json, "\"step\":%lld,\"site\":\"%s\",\"why\":\"%s\"", (long long)t->st.step,
             l->site[c->member].site, weft_site_reason_name(c->reason));
    trainer_event(t, c->joined ? "site_joined" : "site_left", json);
}

static void tell_site(weft_trainer *t, const weft_ledger *l, uint32_t m) {
    const weft_ledger_site *s = &l->site[m];
    char json[512], loss[40] = "null";
    if (isfinite(s->loss) && s->commits) snprintf(loss, sizeof loss, "%.6g", s->loss);
    snprintf(json, sizeof json,
             "\"step\":%lld,\"site\":\"%s\",\"active\":%s,\"joins\":%u,\"leaves\":%u,\"presence\":%.4f,"
             "\"rounds\":%llu,"
             "\"tokens\":%llu,\"steps\":%llu,\"bytes\":%llu,\"loss\":%s",
             (long long)t->st.step, s->site, s->active ? "true" : "false", s->joins, s->leaves,
             weft_ledger_presence(l, m), (unsigned long long)s->commits, (unsigned long long)s->tokens,
             (unsigned long long)s->steps, (unsigned long long)s->bytes, loss);
    trainer_event(t, "site", json);
}

void trainer_accounts(weft_trainer *t, int now) {
    weft_ledger l;
    if (!t->outer.sites) return;
    weft_sites_accounts(t->outer.sites, &l);
    uint64_t first =
        t->outer.tell_next > 0 ? t->outer.told : l.changes; /* what was before this process is history */
    if (l.changes > first + WEFT_LEDGER_CHANGES) first = l.changes - WEFT_LEDGER_CHANGES;
    for (uint64_t i = first; i < l.changes; i++) tell_change(t, &l, &l.change[i % WEFT_LEDGER_CHANGES]);
    if (!now && l.changes == first && weft_now() < t->outer.tell_next) return;
    t->outer.told = l.changes;
    t->outer.tell_next = weft_now() + EVERY_S;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (l.site[m].site[0]) tell_site(t, &l, m);
}
