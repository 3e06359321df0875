/* Accounts from log records; see ledger.h. */
#include "runtime/sites/ledger.h"

#include <string.h>

static void note_change(weft_ledger *l, uint32_t m, int joined) {
    weft_ledger_site *s = &l->site[m];
    l->change[l->changes++ % WEFT_LEDGER_CHANGES] =
        (weft_ledger_change){l->now, (uint16_t)m, (uint8_t)joined, joined ? WEFT_WHY_NONE : s->reason};
    s->active = (uint8_t)joined;
    if (joined) {
        s->joins++;
        s->since = l->now;
    } else {
        s->leaves++;
        s->active_s += l->now - s->since;
    }
}

static void apply_epoch(weft_ledger *l, const weft_site_epoch *e) {
    const weft_site_set changed = e->active ^ l->active;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(changed, m)) note_change(l, m, weft_site_has(e->active, m));
    l->active = e->active;
}

/* Every fragment's commit carries the work since that fragment left last: the first one's add up to all work, once. */
static void apply_commit(weft_ledger *l, const weft_site_commit *c) {
    const uint64_t once = c->key.fragment == 0;
    l->commits++;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        weft_ledger_site *s = &l->site[m];
        if (!weft_site_has(c->in, m)) continue;
        s->commits++;
        s->tokens += once * c->tokens[m];
        s->steps += once * c->steps[m];
        s->bytes += c->bytes[m];
        s->loss = c->loss[m];
        l->tokens += once * c->tokens[m];
        l->bytes += c->bytes[m];
    }
}

void weft_ledger_apply(weft_ledger *l, const weft_site_record *r) {
    const double time = (double)r->unix_ns * 1e-9;
    if (!l->began) l->began = time;
    if (time > l->now) l->now = time; /* clocks are set back sometimes */
    switch (r->body.type) {
    case WEFT_SITE_MEMBER:
        memcpy(l->site[r->body.u.member.member].site, r->body.u.member.site, WEFT_SITE_NAME);
        l->site[r->body.u.member.member].reason = r->body.u.member.reason;
        break;
    case WEFT_SITE_EPOCH: apply_epoch(l, &r->body.u.epoch); break;
    case WEFT_SITE_COMMIT: apply_commit(l, &r->body.u.commit); break;
    case WEFT_SITE_ABORT: l->aborts++; break;
    default: break;
    }
}

double weft_ledger_presence(const weft_ledger *l, uint32_t member) {
    const weft_ledger_site *s = &l->site[member];
    const double all = l->now - l->began, here = s->active_s + (s->active ? l->now - s->since : 0);
    return all > 0 ? here / all : s->active;
}
