/* What the hub knows, as JSON: of the machine (now), the transport (now) and the index (so far). */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/sites/hub_live.h"

enum { ROUNDS_SHOWN = 64, EVENTS_SHOWN = 32 };

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static double seconds_since(uint64_t then_ns) {
    const uint64_t now = weft_now_ns();
    return then_ns && now > then_ns ? (double)(now - then_ns) * 1e-9 : 0;
}

static const hub_link *link_of(const hub_live *h, uint32_t member) {
    for (int i = 0; i < HUB_LINKS; i++)
        if (h->link[i].state == LINK_RAISED && h->link[i].member == (int)member) return &h->link[i];
    return NULL;
}

static void add_link(const hub_live *h, uint32_t member, json_t *j) {
    const hub_link *k = link_of(h, member);
    weft_wan_peer_stats s;
    json_object_set_new(j, "connected", json_boolean(k != NULL));
    if (!k) return;
    memset(&s, 0, sizeof s);
    weft_wan_peer_stats_get(k->peer, &s);
    json_object_set_new(j, "rtt", number(s.rtt));
    json_object_set_new(j, "from", json_string(weft_wan_peer_address(k->peer)));
}

static json_t *site(const hub_live *h, uint32_t i) {
    static const char *const kinds[] = {"member", "leaf", "observer"};
    const weft_hub_machine *m = h->machine;
    const weft_hub_member *x = &m->member[i];
    const int active = weft_site_has(weft_hub_active(m), i);
    json_t *j = json_pack(
        "{s:s, s:i, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:o, s:o, s:o}", "site", x->site, "member", (int)i,
        "state", weft_site_state_name(x->state), "role", x->kind < 3 ? kinds[x->kind] : "?", "address",
        x->address, "data_weight", number(x->pi), "incarnation", (json_int_t)x->incarnation, "tokens",
        (json_int_t)(x->tokens / (m->run.nfragments ? m->run.nfragments : 1)), "step", (json_int_t)x->step,
        "steps_per_s", number(x->steps_per_s), "egress", number(x->egress), "ingress", number(x->ingress));
    if (!j) return NULL;
    json_object_set_new(j, "silent", active ? number(seconds_since(x->heard_ns)) : json_null());
    json_object_set_new(j, "share", number(active ? (double)m->epoch.shares[i] / (double)WEFT_PARTS_ONE : 0));
    json_object_set_new(j, "h", json_integer(active ? m->epoch.h[i] : 0));
    json_object_set_new(j, "utilisation",
                        h->looks[i] ? number((double)h->busy[i] / (double)h->looks[i]) : json_null());
    add_link(h, i, j);
    return j;
}

/* What the index knows of a site is added to what the machine knows: commits, joins, bytes, loss. */
static void add_history(json_t *sites, json_t *history) {
    size_t i = 0, k = 0;
    json_t *s, *x;
    json_array_foreach(sites, i, s) {
        const char *a = json_string_value(json_object_get(s, "site"));
        json_array_foreach(history, k, x) {
            const char *b = json_string_value(json_object_get(x, "site"));
            if (!a || !b || strcmp(a, b) != 0) continue;
            json_object_update_missing(s, x);
            json_object_set(s, "tokens", json_object_get(x, "tokens")); /* the exact count */
        }
    }
    json_decref(history);
}

static json_t *site_names(const weft_hub_machine *m, weft_site_set set) {
    json_t *j = json_array();
    for (uint32_t i = 0; i < m->nmembers; i++)
        if (weft_site_has(set, i)) json_array_append_new(j, json_string(m->member[i].site));
    return j;
}

static json_t *fragment(const weft_hub_machine *m, uint32_t p) {
    static const char *const phases[] = {"idle", "open", "sealed", "committing"};
    const weft_hub_fragment *f = &m->fragment[p];
    return json_pack("{s:i, s:I, s:s, s:I, s:o}", "fragment", (int)p, "version", (json_int_t)f->version,
                     "phase", f->phase < 4 ? phases[f->phase] : "?", "elements",
                     (json_int_t)m->run.elements[p], "ready", site_names(m, f->ready));
}

static json_t *run_of(const weft_hub_machine *m) {
    if (!m->founded) return json_null();
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:f}", "name", m->run.name, "h", (int)m->run.h,
                     "tau", (int)m->run.tau, "quorum", (int)m->run.quorum, "min_sites", (int)m->run.min_sites,
                     "fragments", (int)m->run.nfragments, "mu", (double)m->run.mu, "eta",
                     (double)m->epoch.eta);
}

json_t *hubd_status(hub_live *h) {
    const weft_hub_machine *m = h->machine;
    weft_wan_stats w;
    memset(&w, 0, sizeof w);
    weft_wan_stats_get(h->wan, &w);
    hubd_follow_index(h);
    json_t *sites = json_array(), *fragments = json_array();
    for (uint32_t i = 0; i < m->nmembers; i++) json_array_append_new(sites, site(h, i));
    for (uint32_t p = 0; m->founded && p < m->run.nfragments; p++)
        json_array_append_new(fragments, fragment(m, p));
    if (h->index) add_history(sites, weft_hub_index_sites(h->index));
    json_t *j = json_pack(
        "{s:s, s:s, s:i, s:I, s:I, s:I, s:f, s:f, s:o, s:i, s:o, s:f, s:o, s:o, s:{s:I, s:I, s:I}}", "hub",
        h->roster.run, "address", h->address, "pid", (int)getpid(), "term", (json_int_t)m->term, "seq",
        (json_int_t)h->log->seq, "synced", (json_int_t)h->log->synced, "now", weft_wall(), "since",
        h->started_wall, "run", run_of(m), "epoch", (int)m->epoch.epoch, "active",
        site_names(m, weft_hub_active(m)), "deadline", (double)weft_hub_deadline_ns(m) * 1e-9, "sites", sites,
        "fragments", fragments, "connections", "accepted", (json_int_t)w.accepted, "refused",
        (json_int_t)w.refused, "not_authenticated", (json_int_t)w.auth);
    if (!j || !h->index) return j;
    json_object_set_new(j, "indexed", json_integer((json_int_t)weft_hub_index_seq(h->index)));
    json_object_set_new(j, "totals", weft_hub_index_totals(h->index));
    json_object_set_new(j, "rounds", weft_hub_index_rounds(h->index, ROUNDS_SHOWN));
    json_object_set_new(j, "events", weft_hub_index_events(h->index, EVENTS_SHOWN));
    return j;
}
