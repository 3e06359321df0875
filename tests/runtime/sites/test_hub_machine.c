/* The hub's rules, one by one: a hub machine and members that are only messages. Whole runs under faults are in
 * fuzz_rounds.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sites/hub_machine.h"

#define SECOND 1000000000ull

static weft_hub_machine *hub;
static uint64_t now;
static int hold_syncs; /* 1: records stay unsynced */
static weft_site_run run;

static struct {
    weft_site_commit seal, commit;
    weft_site_set opened, root_to, refused;
    weft_site_open open;
    weft_site_result root;
    int seals, commits, aborts, opens, fences, epochs, rollbacks, drains, audits;
    weft_status refusal;
    uint8_t why;
} seen;

static void digest(const void *data, size_t n, weft_site_hash *out) {
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < n; i++) out->b[i % 32] ^= (uint8_t)(((const uint8_t *)data)[i] + i);
}

static void note(void *arg, const weft_hub_action *a) {
    (void)arg;
    const weft_site_message *m = a->message;
    if (a->kind == WEFT_HUB_REFUSE) seen.refusal = m->u.error.status;
    if (a->kind == WEFT_HUB_SEND) {
        if (m->type == WEFT_SITE_OPEN) seen.open = m->u.open, seen.opened = a->to, seen.opens++;
        if (m->type == WEFT_SITE_ROOT) seen.root = m->u.result, seen.root_to = a->to;
        if (m->type == WEFT_SITE_AUDIT) seen.audits++;
    }
    if (a->kind != WEFT_HUB_APPEND) return;
    if (m->type == WEFT_SITE_SEAL) seen.seal = m->u.commit, seen.seals++;
    if (m->type == WEFT_SITE_COMMIT) seen.commit = m->u.commit, seen.commits++;
    seen.aborts += m->type == WEFT_SITE_ABORT;
    seen.epochs += m->type == WEFT_SITE_EPOCH;
    seen.rollbacks += m->type == WEFT_SITE_ROLLBACK;
    if (m->type == WEFT_SITE_MEMBER && m->u.member.state == WEFT_MEMBER_FENCED)
        seen.fences++, seen.why = m->u.member.reason;
}

static void step(weft_hub_event e) {
    weft_hub_actions out = {note, NULL};
    assert_int_equal(weft_hub_step(hub, &e, now, &out), WEFT_OK);
    for (int i = 0; !hold_syncs && hub->synced < hub->seq && i < 50; i++) {
        weft_hub_event s = {.kind = WEFT_HUB_SYNCED, .seq = hub->seq};
        assert_int_equal(weft_hub_step(hub, &s, now, &out), WEFT_OK);
    }
}

static weft_site_message message;

static weft_site_message *from(uint32_t m, uint16_t type) {
    memset(&message, 0, sizeof message);
    message.type = type;
    message.incarnation = hub->member[m].incarnation;
    return &message;
}

static void say(uint32_t m) {
    step((weft_hub_event){.kind = WEFT_HUB_MESSAGE, .member = (uint16_t)m, .message = &message});
}

static void hello(uint32_t m, uint8_t chain) {
    weft_site_hello *h = &from(m, WEFT_SITE_HELLO)->u.hello;
    snprintf(h->site, sizeof h->site, "s%u", m);
    h->run = run;
    step((weft_hub_event){.kind = WEFT_HUB_HELLO, .conn = m + 1, .chain = chain, .message = &message});
}

static void join(uint32_t m) {
    hello(m, WEFT_CHAIN_SAME);
    from(m, WEFT_SITE_CAUGHT_UP)->u.caught_up.nversions = run.nfragments;
    message.u.caught_up.versions[0] = hub->fragment[0].version;
    say(m);
    for (uint32_t k = 0; k <= m; k++) { /* all have the same content */
        from(k, WEFT_SITE_AUDITED)->u.audit.version = hub->fragment[0].version;
        say(k);
    }
    assert_int_equal(hub->member[m].state, WEFT_MEMBER_ACTIVE);
}

static void ready(uint32_t m, uint64_t tokens, uint64_t steps, double norm) {
    weft_site_ready *r = &from(m, WEFT_SITE_READY)->u.ready;
    *r = (weft_site_ready){.key = {0, hub->fragment[0].version + 1, 0},
                           .tokens = tokens,
                           .steps = steps,
                           .planned = 1000,
                           .norm = norm};
    r->root.b[0] = (uint8_t)(m + 1);
    say(m);
}

static void have(uint32_t m, weft_site_set who) {
    from(m, WEFT_SITE_HAVE)->u.have = (weft_site_have){seen.open.key, who};
    say(m);
}

static void reduced(uint32_t m) {
    from(m, WEFT_SITE_REDUCED)->u.result = (weft_site_result){seen.open.key, {{(uint8_t)m}}};
    say(m);
}

static void prepared(uint32_t m) {
    from(m, WEFT_SITE_PREPARED)->u.result = (weft_site_result){seen.open.key, seen.root.root};
    say(m);
}

/* A whole round of all n members. */
static void whole_round(uint32_t n, double norm) {
    int commits = seen.commits;
    for (uint32_t m = 0; m < n; m++) ready(m, 1000, 10, norm);
    for (uint32_t m = 0; m < n; m++) have(m, ~0ull);
    for (uint32_t m = 0; m < n; m++) reduced(m);
    for (uint32_t m = 0; m < n; m++) prepared(m);
    assert_int_equal(seen.commits, commits + 1);
}

static void beat(uint32_t m, double rate, uint64_t progress) {
    from(m, WEFT_SITE_HEARTBEAT)->u.heartbeat =
        (weft_site_heartbeat){.progress = progress, .steps_per_s = rate};
    say(m);
}

static void tick(double seconds) {
    now += (uint64_t)(seconds * 1e9);
    step((weft_hub_event){.kind = WEFT_HUB_TICK});
}

static int start(void **state) {
    (void)state;
    const weft_hub_opts opts = {.digest = digest};
    hub = malloc(sizeof *hub);
    if (!hub) return 1;
    weft_hub_init(hub, &opts);
    memset(&seen, 0, sizeof seen);
    memset(&run, 0, sizeof run);
    run = (weft_site_run){
        .name = "r", .bits_up = 8125, .bits_down = 8125, .h = 100, .chunk = 1, .nfragments = 1};
    run.elements[0] = 12;
    run.min_sites = 1;
    hold_syncs = 0;
    now = SECOND;
    step((weft_hub_event){.kind = WEFT_HUB_BOOT});
    return 0;
}

static int stop(void **state) {
    (void)state;
    free(hub);
    return 0;
}

/* --- rules --- */

static void round_of_three(void **state) {
    (void)state;
    for (uint32_t m = 0; m < 3; m++) join(m);
    for (uint32_t m = 0; m < 3; m++) ready(m, 1000 * (m + 1), 10, 1);
    assert_int_equal(seen.opened, 7);
    assert_false(seen.open.gather);
    have(0, 7), have(1, 7);
    assert_int_equal(seen.seals, 0); /* an owner lacks something */
    have(2, 3);
    assert_int_equal(seen.seals, 0);
    have(2, 7);
    assert_int_equal(seen.seals, 1);
    assert_true(seen.seal.weight[0] == (float)(1.0 / 6) && seen.seal.weight[2] == .5f);
    reduced(0), reduced(1);
    assert_int_equal(seen.root_to, 0);
    reduced(2);
    assert_int_equal(seen.root_to, 7);
    prepared(0), prepared(1);
    assert_int_equal(seen.commits, 0);
    prepared(2);
    assert_int_equal(seen.commits, 1);
    assert_int_equal(hub->fragment[0].version, 1);
    assert_int_equal(seen.commit.tokens[1], 2000);
}

static void nothing_before_the_disk(void **state) {
    (void)state;
    join(0), join(1);
    hold_syncs = 1;
    hello(2, WEFT_CHAIN_SAME);
    assert_false(hub->member[2].live); /* WELCOME waits for its record */
    for (uint32_t m = 0; m < 2; m++) ready(m, 1000, 10, 1);
    have(0, 3), have(1, 3);
    assert_int_equal(seen.seals, 1);
    assert_int_equal(seen.root_to, 0); /* ROOT waits for the SEAL */
    hold_syncs = 0;
    tick(.2);
    assert_true(hub->member[2].live);
    assert_int_equal(seen.root_to, 3);
}

static void weights(void **state) {
    (void)state;
    run.weight = WEFT_WEIGHT_TOKENS2;
    join(0), join(1);
    ready(0, 100, 10, 1), ready(1, 200, 10, 1); /* 1000 : 4000 */
    have(0, 3), have(1, 3);
    assert_true(seen.seal.weight[0] == .2f && seen.seal.weight[1] == .8f);
}

static void shares(void **state) {
    (void)state;
    run.weight = WEFT_WEIGHT_SHARE;
    join(0), join(1);
    from(0, WEFT_SITE_ADMIN)->u.admin = (weft_site_admin){WEFT_ADMIN_ROSTER, WEFT_SITE_FULL, .9, "s0"};
    step((weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &message});
    from(0, WEFT_SITE_ADMIN)->u.admin = (weft_site_admin){WEFT_ADMIN_ROSTER, WEFT_SITE_FULL, .1, "s1"};
    step((weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &message});
    ready(0, 1000, 10, 1), ready(1, 5000, 10, 1); /* more tokens than planned count no more */
    have(0, 3), have(1, 3);
    assert_true(seen.seal.weight[0] == .9f && seen.seal.weight[1] == .1f);
}

static void unfit(void **state) {
    (void)state;
    join(0), join(1);
    for (int k = 0; k < 5; k++) whole_round(2, 1);
    ready(0, 1000, 10, 5.1), ready(1, 1000, 10, 4.9); /* 5 times the median is too far */
    have(0, 3), have(1, 3);
    assert_int_equal(seen.seal.in, 2);
    assert_int_equal(seen.seal.excluded, 1);
    prepared(0), prepared(1);
    ready(0, 1000, 10, NAN), ready(1, 1000, 10, NAN); /* nobody is fit: a round of nothing, not a stop */
    have(0, 3), have(1, 3);
    assert_int_equal(seen.seal.in, 0);
    prepared(0), prepared(1);
    assert_int_equal(seen.commit.in, 0);
}

static void deadlines(void **state) {
    (void)state;
    for (uint32_t m = 0; m < 3; m++) join(m);
    whole_round(3, 1);
    ready(0, 1000, 10, 1), ready(1, 1000, 10, 1); /* 2 is late */
    for (uint32_t m = 0; m < 3; m++) have(m, 3);
    for (int k = 0; k < 19; k++) {
        for (uint32_t m = 0; m < 3; m++) beat(m, 1, (uint64_t)k);
        tick(1);
    }
    assert_int_equal(seen.seals, 1);
    for (uint32_t m = 0; m < 3; m++) beat(m, 1, 100);
    tick(1.5);
    assert_int_equal(seen.seals, 2);
    assert_int_equal(seen.seal.in, 3);
    assert_int_equal(seen.fences, 0);
}

static void silence(void **state) {
    (void)state;
    for (uint32_t m = 0; m < 3; m++) join(m);
    whole_round(3, 1);
    for (uint32_t m = 0; m < 3; m++) ready(m, 1000, 10, 1);
    have(0, 7), have(1, 7);
    for (int k = 0; k < 4; k++) beat(0, 1, 1), beat(1, 1, 1), tick(1);
    assert_int_equal(hub->member[2].state, WEFT_MEMBER_SUSPECT);
    for (int k = 0; k < 8; k++) beat(0, 1, 1), beat(1, 1, 1), tick(1);
    assert_int_equal(hub->member[2].state, WEFT_MEMBER_FENCED); /* within 12 s */
    assert_int_equal(seen.why, WEFT_WHY_SILENT);
    assert_int_equal(seen.aborts, 1); /* it owned a part */
    assert_int_equal(seen.open.members, 3);
    have(0, 3), have(1, 3);
    assert_int_equal(seen.seal.in, 3);
}

static void stalled(void **state) {
    (void)state;
    join(0), join(1);
    for (int k = 0; k < 58; k++) beat(0, 1, (uint64_t)k), beat(1, 1, 7), tick(1);
    assert_int_equal(seen.fences, 0);
    for (int k = 0; k < 8; k++) beat(0, 1, (uint64_t)k), beat(1, 1, 7), tick(1);
    assert_int_equal(hub->member[1].state, WEFT_MEMBER_FENCED);
    assert_int_equal(seen.why, WEFT_WHY_STALLED);
}

static void unequal_speed(void **state) {
    (void)state;
    join(0), join(1);
    assert_int_equal(hub->epoch.h[1], 100);
    for (int k = 0; k < 40; k++) beat(0, 4, (uint64_t)k), beat(1, 1, (uint64_t)k), tick(1);
    assert_int_equal(hub->epoch.h[0], 100);
    assert_int_equal(hub->epoch.h[1], 25);
    assert_true(hub->epoch.eta == .6f);
}

static void leaving(void **state) {
    (void)state;
    join(0), join(1);
    whole_round(2, 1);
    ready(0, 1000, 10, 1);
    from(0, WEFT_SITE_DRAIN);
    say(0);
    assert_int_equal(hub->member[0].state, WEFT_MEMBER_DRAINING);
    ready(1, 1000, 10, 1);
    have(0, 3), have(1, 3), prepared(0), prepared(1);
    assert_int_equal(seen.commit.in, 3); /* its last work counts */
    assert_int_equal(hub->member[0].state, WEFT_MEMBER_OUT);
    assert_int_equal(hub->epoch.active, 2);
}

static void refusals(void **state) {
    (void)state;
    join(0);
    hello(0, WEFT_CHAIN_AHEAD);
    assert_int_equal(seen.refusal, WEFT_ERR_HUB_STALE);
    run.layout_fp.b[0] = 1;
    hello(1, WEFT_CHAIN_SAME);
    assert_int_equal(seen.refusal, WEFT_ERR_LAYOUT);
    run.layout_fp.b[0] = 0;
    from(0, WEFT_SITE_ADMIN)->u.admin = (weft_site_admin){.verb = WEFT_ADMIN_EJECT, .site = "s0"};
    step((weft_hub_event){.kind = WEFT_HUB_ADMIN, .message = &message});
    assert_int_equal(hub->member[0].state, WEFT_MEMBER_EJECTED);
    hello(0, WEFT_CHAIN_SAME);
    assert_int_equal(seen.refusal, WEFT_ERR_AUTH);
}

static void min_sites(void **state) {
    (void)state;
    run.min_sites = 2;
    join(0);
    ready(0, 1000, 10, 1);
    assert_int_equal(seen.opens, 0);
    join(1);
    assert_int_equal(seen.opens, 1);
}

static void quorum(void **state) {
    (void)state;
    run.quorum = 2;
    for (uint32_t m = 0; m < 3; m++) join(m);
    ready(0, 1000, 10, 1), ready(1, 1000, 10, 1);
    for (uint32_t m = 0; m < 3; m++) have(m, 3);
    assert_int_equal(seen.seal.in, 3); /* no step time is known: no grace */
    for (uint32_t m = 0; m < 3; m++) reduced(m);
    prepared(0), prepared(2);
    assert_int_equal(seen.commits, 1);
}

static void differing_root(void **state) {
    (void)state;
    run.audit_every = 1;
    for (uint32_t m = 0; m < 3; m++) join(m);
    whole_round(3, 1);
    assert_true(seen.audits > 0);
    for (uint32_t m = 0; m < 3; m++) {
        from(m, WEFT_SITE_AUDITED)->u.audit = (weft_site_audit){.version = 1, .root = {{m == 1}}};
        say(m);
    }
    assert_int_equal(hub->member[1].state, WEFT_MEMBER_FENCED);
    assert_int_equal(seen.why, WEFT_WHY_AUDIT);
    assert_int_equal(weft_hub_active(hub), 5);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, start, stop)
    const struct CMUnitTest tests[] = {
        T(round_of_three), T(nothing_before_the_disk),
        T(weights),        T(shares),
        T(unfit),          T(deadlines),
        T(silence),        T(stalled),
        T(unequal_speed),  T(leaving),
        T(refusals),       T(min_sites),
        T(quorum),         T(differing_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
