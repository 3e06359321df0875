/* Who is here. A site gets a number once and an incarnation whenever it comes without the state of the last one: HELLO,
 * OBSERVER (catching up), AUDITING (roots are compared), ACTIVE from an EPOCH record on; then SUSPECT, DRAINING, or the
 * end of the incarnation: FENCED, OUT, EJECTED.
 *
 * An epoch is made whenever the set of those that take part changes, or measured rates have moved. Local steps follow
 * speed, H_m = max(1, floor(H v_m / v_max)), so that unequal sites are ready at the same time.
 *
 * If nobody is active and nobody that is here has the newest versions (all sites were lost, and came back from
 * checkpoints), the best of them becomes the truth after a while: a ROLLBACK record says so. */
#include <math.h>
#include <string.h>

#include "runtime/sites/hub_internal.h"

#define RATES_EVERY (30 * HUB_SECOND)
#define DONOR_NS    (10 * HUB_SECOND) /* that one who leaves stays for those who catch up */
#define SMOOTH      0.3               /* of a new rate in its moving average */

static void refuse(weft_hub_machine *h, uint64_t conn, weft_status s, const char *why) {
    weft_site_message *m = hub_message(h, WEFT_SITE_ERROR);
    m->u.error.status = s;
    strncpy(m->u.error.text, why, WEFT_SITE_TEXT - 1);
    weft_hub_action a = {.kind = WEFT_HUB_REFUSE, .conn = conn, .message = m};
    h->out->emit(h->out->arg, &a);
}

static int is_refused(weft_hub_machine *h, const weft_hub_event *e, int at) {
    const weft_site_hello *hello = &e->message->u.hello;
    if (e->chain != WEFT_CHAIN_SAME)
        refuse(h, e->conn, WEFT_ERR_HUB_STALE, "the hub's log lacks records that this site has seen");
    else if (h->founded && memcmp(&hello->run.layout_fp, &h->run.layout_fp, sizeof(weft_site_hash)) != 0)
        refuse(h, e->conn, WEFT_ERR_LAYOUT, "model, fragments or parameters are not those of the run");
    else if (at < 0 && h->nmembers == WEFT_SITE_MEMBERS)
        refuse(h, e->conn, WEFT_ERR_QUORUM, "the run has had 64 sites, there is no number left");
    else if (at >= 0 && h->member[at].state == WEFT_MEMBER_EJECTED)
        refuse(h, e->conn, WEFT_ERR_AUTH, "this site was ejected from the run");
    else
        return 0;
    return 1;
}

static void log_member(weft_hub_machine *h, uint32_t at, uint64_t incarnation, uint8_t state,
                       uint8_t reason) {
    const weft_hub_member *m = &h->member[at];
    weft_site_member *r = &hub_message(h, WEFT_SITE_MEMBER)->u.member;
    *r = (weft_site_member){.member = (uint16_t)at,
                            .incarnation = incarnation,
                            .state = state,
                            .reason = reason,
                            .kind = m->kind,
                            .pi = m->pi};
    memcpy(r->site, m->site, sizeof r->site);
    memcpy(r->address, m->address, sizeof r->address);
    hub_append(h);
}

static int any_version(const weft_site_hello *hello) {
    for (uint32_t p = 0; p < hello->nversions; p++)
        if (hello->versions[p]) return 1;
    return 0;
}

static void roll_back_to(weft_hub_machine *h, uint32_t m) {
    weft_site_rollback *r = &hub_message(h, WEFT_SITE_ROLLBACK)->u.rollback;
    r->member = (uint16_t)m;
    r->nversions = h->run.nfragments;
    memcpy(r->versions, h->member[m].versions, sizeof r->versions);
    hub_append(h);
}

static void take_versions(weft_hub_machine *h, uint32_t m, const weft_site_hello *hello) {
    memset(h->member[m].versions, 0, sizeof h->member[m].versions);
    h->member[m].told = 1;
    if (hello->nversions == h->run.nfragments)
        memcpy(h->member[m].versions, hello->versions, sizeof h->member[m].versions);
}

/* A new life of a site: whatever was said in the last one is over. */
static uint32_t admit(weft_hub_machine *h, int at, const weft_site_hello *hello) {
    int founding = !h->founded;
    if (founding) {
        hub_message(h, WEFT_SITE_RUN)->u.run = hello->run;
        hub_append(h);
    }
    uint32_t m = at >= 0 ? (uint32_t)at : h->nmembers;
    weft_hub_member *me = &h->member[m];
    if (at < 0) me->pi = 1;
    memcpy(me->site, hello->site, sizeof me->site);
    memcpy(me->address, hello->address, sizeof me->address);
    log_member(h, m, h->incarnations + 1, WEFT_MEMBER_OBSERVER, WEFT_WHY_NONE);
    me->beat_ns = me->ngaps = 0;
    me->steps_per_s = 0;
    me->egress = hello->egress;
    me->ingress = hello->ingress;
    take_versions(h, m, hello);
    if (founding && any_version(hello)) roll_back_to(h, m);
    return m;
}

void hub_hello(weft_hub_machine *h, const weft_hub_event *e) {
    const weft_site_message *msg = e->message;
    int at = weft_hub_find(h, msg->u.hello.site);
    if (is_refused(h, e, at)) return;
    int same = 0;
    if (at >= 0 && msg->incarnation && msg->incarnation == h->member[at].incarnation) {
        uint8_t s = h->member[at].state;
        same = hub_takes_part(s) || s == WEFT_MEMBER_OBSERVER || s == WEFT_MEMBER_AUDITING;
    }
    uint32_t m = same ? (uint32_t)at : admit(h, at, &msg->u.hello);
    weft_hub_member *me = &h->member[m];
    if (me->state == WEFT_MEMBER_AUDITING) me->state = WEFT_MEMBER_OBSERVER;
    if (me->state == WEFT_MEMBER_SUSPECT) me->state = WEFT_MEMBER_ACTIVE;
    take_versions(h, m, &msg->u.hello);
    me->heard_ns = me->progress_ns = h->now_ns;
    me->connected = 1;
    me->live = 0;
    me->due = WEFT_DUE_WELCOME;
    weft_hub_action a = {.kind = WEFT_HUB_BIND, .conn = e->conn, .member = (uint16_t)m};
    h->out->emit(h->out->arg, &a);
}

static void average(double *to, double v) {
    if (!isfinite(v) || v <= 0) return;
    *to = *to > 0 ? *to + SMOOTH * (v - *to) : v;
}

static void heartbeat(weft_hub_machine *h, weft_hub_member *me, const weft_site_heartbeat *b) {
    if (me->beat_ns) me->gap[me->ngaps++ % WEFT_HUB_GAPS] = h->now_ns - me->beat_ns;
    me->beat_ns = h->now_ns;
    if (b->progress != me->progress || b->waiting) me->progress_ns = h->now_ns;
    me->progress = b->progress;
    me->step = b->step;
    me->waiting = b->waiting;
    average(&me->steps_per_s, b->steps_per_s);
    average(&me->egress, b->egress);
    average(&me->ingress, b->ingress);
}

/* Said, or ordered: leave after the rounds in flight. */
static void drain(weft_hub_machine *h, uint32_t m) {
    uint8_t s = h->member[m].state;
    if (s == WEFT_MEMBER_OBSERVER || s == WEFT_MEMBER_AUDITING)
        hub_end_member(h, m, WEFT_MEMBER_OUT, WEFT_WHY_DRAINED);
    else if (hub_takes_part(s) && s != WEFT_MEMBER_DRAINING) {
        h->member[m].donor_ns = 0;
        log_member(h, m, h->member[m].incarnation, WEFT_MEMBER_DRAINING, WEFT_WHY_DRAINED);
    }
}

int hub_has_all(const weft_hub_machine *h, uint32_t m) {
    if (!h->member[m].told) return 0;
    for (uint32_t p = 0; p < h->run.nfragments; p++)
        if (h->member[m].versions[p] != h->fragment[p].version) return 0;
    return 1;
}

static void caught_up(weft_hub_machine *h, uint32_t m, const weft_site_caught_up *c) {
    weft_hub_member *me = &h->member[m];
    if (c->nversions != h->run.nfragments) return;
    memcpy(me->versions, c->versions, sizeof me->versions);
    me->told = 1;
    if (me->kind == WEFT_SITE_WATCHER) return;
    if (me->state == WEFT_MEMBER_AUDITING) return; /* under way */
    if (me->state != WEFT_MEMBER_OBSERVER) return;
    me->state = WEFT_MEMBER_AUDITING;
    if (weft_hub_active(h)) hub_audit_joiner(h, m);
}

void hub_heard(weft_hub_machine *h, uint32_t m, const weft_site_message *msg) {
    weft_hub_member *me = &h->member[m];
    me->heard_ns = h->now_ns;
    if (me->state == WEFT_MEMBER_SUSPECT) me->state = WEFT_MEMBER_ACTIVE;
    if (msg->type == WEFT_SITE_HEARTBEAT) heartbeat(h, me, &msg->u.heartbeat);
    if (msg->type == WEFT_SITE_CAUGHT_UP) caught_up(h, m, &msg->u.caught_up);
    if (msg->type == WEFT_SITE_AUDITED) hub_audited(h, m, &msg->u.audit);
    if (msg->type == WEFT_SITE_DRAIN) drain(h, m);
}

void hub_end_member(weft_hub_machine *h, uint32_t m, uint8_t state, uint8_t reason) {
    log_member(h, m, h->member[m].incarnation, state, reason);
    h->member[m].due = WEFT_DUE_FENCE;
}

void hub_activate(weft_hub_machine *h, uint32_t m) {
    h->member[m].state = WEFT_MEMBER_ACTIVE;
    h->member[m].progress_ns = h->now_ns;
    h->epoch_due = WEFT_WHY_JOIN;
}

void hub_admin(weft_hub_machine *h, const weft_site_message *msg) {
    if (msg->type != WEFT_SITE_ADMIN && msg->type != WEFT_SITE_PARAM) return;
    weft_site_message *r = hub_message(h, msg->type);
    r->u = msg->u;
    hub_append(h);
    if (msg->type == WEFT_SITE_PARAM) {
        if (h->founded) h->epoch_due = WEFT_WHY_ADMIN;
        return;
    }
    int at = weft_hub_find(h, msg->u.admin.site);
    if (at < 0) return;
    uint8_t verb = msg->u.admin.verb;
    if (verb == WEFT_ADMIN_EJECT && h->member[at].state != WEFT_MEMBER_EJECTED)
        hub_end_member(h, (uint32_t)at, WEFT_MEMBER_EJECTED, WEFT_WHY_ADMIN);
    if (verb == WEFT_ADMIN_DRAIN) {
        drain(h, (uint32_t)at);
        hub_message(h, WEFT_SITE_DRAIN);
        hub_send(h, weft_site_bit((uint32_t)at));
    }
    if (verb == WEFT_ADMIN_ROSTER && h->founded) h->epoch_due = WEFT_WHY_ADMIN;
}

/* --- time --- */

/* The median of the first n values of v, which it sorts. */
static uint64_t median(uint64_t *v, uint32_t n) {
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && v[k - 1] > v[k]; k--) {
            uint64_t t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return n ? v[n / 2] : 0;
}

uint64_t weft_hub_fence_ns(const weft_hub_machine *h, uint32_t member) {
    const weft_hub_member *m = &h->member[member];
    uint64_t gap[WEFT_HUB_GAPS], away[WEFT_HUB_GAPS] = {0};
    uint32_t n = m->ngaps < WEFT_HUB_GAPS ? m->ngaps : WEFT_HUB_GAPS;
    memcpy(gap, m->gap, sizeof gap);
    uint64_t mid = median(gap, n);
    for (uint32_t i = 0; i < n; i++) away[i] = gap[i] > mid ? gap[i] - mid : mid - gap[i];
    uint64_t limit = mid + 6 * median(away, n);
    return limit > h->opts.fence_ns ? limit : h->opts.fence_ns;
}

uint64_t weft_hub_deadline_ns(const weft_hub_machine *h) {
    uint64_t v[WEFT_HUB_DURATIONS];
    uint32_t n = h->ndurations < WEFT_HUB_DURATIONS ? h->ndurations : WEFT_HUB_DURATIONS;
    memcpy(v, h->durations, sizeof v);
    uint64_t d = 4 * median(v, n);
    if (n < 4 && d < h->opts.deadline_first_ns) d = h->opts.deadline_first_ns;
    if (d < h->opts.deadline_min_ns) d = h->opts.deadline_min_ns;
    return d < h->opts.deadline_max_ns ? d : h->opts.deadline_max_ns;
}

static uint64_t stall_ns(const weft_hub_machine *h, const weft_hub_member *m) {
    uint64_t steps = m->steps_per_s > 0 ? (uint64_t)(8e9 / m->steps_per_s) : 0;
    return steps > h->opts.stall_ns ? steps : h->opts.stall_ns;
}

static void detect_member(weft_hub_machine *h, uint32_t m) {
    weft_hub_member *me = &h->member[m];
    uint64_t silent = h->now_ns - me->heard_ns;
    int here =
        hub_takes_part(me->state) || me->state == WEFT_MEMBER_OBSERVER || me->state == WEFT_MEMBER_AUDITING;
    if (!here) return;
    if (silent > weft_hub_fence_ns(h, m))
        hub_end_member(h, m, WEFT_MEMBER_FENCED, WEFT_WHY_SILENT);
    else if (silent > h->opts.suspect_ns && me->state == WEFT_MEMBER_ACTIVE)
        me->state = WEFT_MEMBER_SUSPECT;
    else if (me->state == WEFT_MEMBER_ACTIVE && me->live && h->now_ns - me->progress_ns > stall_ns(h, me))
        hub_end_member(h, m, WEFT_MEMBER_FENCED, WEFT_WHY_STALLED);
}

/* How much of the log's state m brought, counting only what the log knows. */
static uint64_t brought(const weft_hub_machine *h, uint32_t m) {
    uint64_t sum = 0;
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        uint64_t v = h->member[m].versions[p];
        if (v <= h->fragment[p].version) sum += v;
    }
    return sum;
}

static void detect_loneliness(weft_hub_machine *h) {
    weft_site_set here = hub_in_state(h, WEFT_MEMBER_OBSERVER) | hub_in_state(h, WEFT_MEMBER_AUDITING);
    if (!h->founded || weft_hub_active(h) || !here) {
        h->lonely_ns = 0;
        return;
    }
    if (!h->lonely_ns) h->lonely_ns = h->now_ns;
    if (h->now_ns - h->lonely_ns < h->opts.restore_ns) return;
    int best = -1;
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(here, m) && h->member[m].live && h->member[m].kind != WEFT_SITE_WATCHER &&
            (best < 0 || brought(h, m) > brought(h, (uint32_t)best)))
            best = (int)m;
    h->lonely_ns = h->now_ns;
    if (best >= 0 && !hub_has_all(h, (uint32_t)best)) roll_back_to(h, (uint32_t)best);
}

/* --- epochs --- */

int hub_rates(const weft_hub_machine *h, weft_site_set who, weft_parts_site site[WEFT_SITE_MEMBERS]) {
    int n = 0;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(who, m))
            site[n++] = (weft_parts_site){h->member[m].egress, h->member[m].ingress,
                                          h->member[m].kind == WEFT_SITE_LEAF};
    return n;
}

static uint32_t local_steps(const weft_hub_machine *h, weft_site_set who, uint32_t m) {
    double fastest = 0, v = h->member[m].steps_per_s;
    for (uint32_t k = 0; k < h->nmembers; k++)
        if (weft_site_has(who, k)) fastest = fmax(fastest, h->member[k].steps_per_s);
    if (!(v > 0)) return h->run.h;
    double steps = floor(h->run.h * (v / fastest));
    return steps < 1 ? 1 : (uint32_t)steps;
}

static void make_epoch(weft_hub_machine *h, uint8_t reason) {
    weft_parts_site site[WEFT_SITE_MEMBERS];
    double share[WEFT_SITE_MEMBERS];
    uint32_t fixed[WEFT_SITE_MEMBERS];
    weft_site_set who = weft_hub_active(h);
    int n = hub_rates(h, who, site), k = 0;
    weft_site_epoch *r = &hub_message(h, WEFT_SITE_EPOCH)->u.epoch;
    r->epoch = h->epoch.epoch + 1;
    r->reason = reason;
    r->active = who;
    r->eta = h->run.eta > 0 ? h->run.eta : weft_parts_eta(n);
    if (n > 0) {
        weft_parts_solve(n, site, h->run.bits_up, h->run.bits_down, share);
        weft_parts_fix(n, share, fixed);
    }
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(who, m)) {
            r->h[m] = local_steps(h, who, m);
            r->shares[m] = fixed[k++];
        }
    h->epoch_due = 0;
    h->epoch_ns = h->now_ns;
    h->shifted = 0;
    hub_append(h);
}

static void detect_rates(weft_hub_machine *h) {
    if (h->now_ns - h->epoch_ns < RATES_EVERY) return;
    for (uint32_t m = 0; m < h->nmembers; m++) {
        if (!weft_site_has(h->epoch.active, m)) continue;
        double old = h->epoch.h[m], new = local_steps(h, h->epoch.active, m);
        if (fabs(new - old) > 0.1 * old) h->epoch_due = WEFT_WHY_RATES;
    }
}

static void ping(weft_hub_machine *h) {
    if (h->now_ns - h->ping_ns < HUB_SECOND) return;
    h->ping_ns = h->now_ns;
    hub_message(h, WEFT_SITE_PING)->u.ping.seq = h->synced;
    hub_send(h, ~0ull);
}

void hub_detect(weft_hub_machine *h) {
    ping(h);
    for (uint32_t m = 0; m < h->nmembers; m++) detect_member(h, m);
    detect_loneliness(h);
    detect_rates(h);
}

/* --- what has become possible --- */

static void welcome(weft_hub_machine *h, uint32_t m) {
    weft_hub_member *me = &h->member[m];
    weft_site_message *msg = hub_message(h, WEFT_SITE_WELCOME);
    msg->incarnation = me->incarnation;
    msg->u.welcome = (weft_site_welcome){(uint16_t)m, h->term, h->synced, me->state};
    me->live = 1;
    hub_send(h, weft_site_bit(m));
    hub_greet_rounds(h, m);
}

static void dismiss(weft_hub_machine *h, uint32_t m) {
    hub_message(h, WEFT_SITE_FENCE)->u.fence.reason = h->member[m].reason;
    hub_send(h, weft_site_bit(m));
    if (h->member[m].connected) {
        weft_hub_action a = {.kind = WEFT_HUB_CLOSE, .to = weft_site_bit(m)};
        h->out->emit(h->out->arg, &a);
    }
    h->member[m].connected = h->member[m].live = 0;
}

/* The last one that takes part, while somebody is catching up: with it the newest versions would go. It stays for a
 * while. */
static int is_last_donor(weft_hub_machine *h, uint32_t m) {
    int joiners = 0;
    for (uint32_t k = 0; k < h->nmembers; k++) {
        const uint8_t state = h->member[k].state;
        joiners += h->member[k].connected && (state == WEFT_MEMBER_OBSERVER || state == WEFT_MEMBER_AUDITING);
    }
    if (!joiners || weft_hub_active(h) & ~weft_site_bit(m)) return 0;
    if (!h->member[m].donor_ns) h->member[m].donor_ns = h->now_ns;
    return h->now_ns - h->member[m].donor_ns < DONOR_NS;
}

void hub_settle_members(weft_hub_machine *h) {
    for (uint32_t m = 0; m < h->nmembers; m++) {
        weft_hub_member *me = &h->member[m];
        if (me->state == WEFT_MEMBER_DRAINING && !hub_in_flight(h, m) && !is_last_donor(h, m))
            hub_end_member(h, m, WEFT_MEMBER_OUT, WEFT_WHY_DRAINED);
        if (!me->due || !hub_on_disk(h, me->after)) continue;
        uint8_t due = me->due;
        me->due = WEFT_DUE_NOTHING;
        if (due == WEFT_DUE_FENCE)
            dismiss(h, m);
        else if (me->connected)
            welcome(h, m);
    }
    if (h->founded && !h->epoch_due && weft_hub_active(h) != h->epoch.active) h->epoch_due = WEFT_WHY_LEFT;
    if (h->epoch_due) make_epoch(h, h->epoch_due);
}
