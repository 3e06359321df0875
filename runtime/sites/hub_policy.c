/* The roster and the log: what the owner of the directory ordered becomes records, and who may connect at all. */
#include <string.h>

#include "base/log.h"
#include "runtime/sites/hub_live.h"

int hubd_is_revoked(const hub_live *h, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]) {
    return !weft_roster_knows(&h->roster, fingerprint);
}

static void order(hub_live *h, weft_site_verb verb, const weft_roster_site *s) {
    weft_site_message m = {.type = WEFT_SITE_ADMIN};
    m.u.admin.verb = (uint8_t)verb;
    m.u.admin.kind = s->kind;
    m.u.admin.pi = s->pi;
    memcpy(m.u.admin.site, s->site, sizeof m.u.admin.site);
    hubd_raise(h, &(weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &m});
    hubd_settle(h);
}

static void apply(hub_live *h, const weft_roster_site *s) {
    const int at = weft_hub_find(h->machine, s->site);
    const weft_hub_member *m = at < 0 ? NULL : &h->machine->member[at];
    const int ejected = m && m->state == WEFT_MEMBER_EJECTED;
    if (!weft_roster_admits(s)) {
        if (!ejected) order(h, WEFT_ADMIN_EJECT, s);
        return;
    }
    if (ejected) order(h, WEFT_ADMIN_ALLOW, s);
    if (m ? m->kind != s->kind || m->pi != s->pi : s->kind != WEFT_SITE_FULL || s->pi != 1)
        order(h, WEFT_ADMIN_ROSTER, s);
}

weft_status hubd_reload(hub_live *h) {
    weft_roster r;
    const weft_status s = weft_roster_load(h->config->dir, &r);
    if (s < 0) { /* what was read before stays */
        weft_roster_free(&r);
        return s;
    }
    weft_roster_free(&h->roster);
    h->roster = r;
    for (size_t i = 0; i < r.nsites; i++) apply(h, &r.site[i]);
    if (h->wan) weft_wan_recheck(h->wan);
    return h->fatal < 0 ? h->fatal : WEFT_OK;
}
