/* The accounts of a run: joins, leaves, contributions and presence add up; nobody is charged for what was not committed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sites/ledger.h"

static weft_ledger l;
static weft_site_record r;

static void at(double time, uint16_t type) {
    memset(&r, 0, sizeof r);
    r.unix_ns = (uint64_t)(time * 1e9);
    r.body.type = type;
}

static void member(double time, uint16_t m, const char *site, uint8_t state, uint8_t reason) {
    at(time, WEFT_SITE_MEMBER);
    r.body.u.member.member = m;
    r.body.u.member.state = state;
    r.body.u.member.reason = reason;
    snprintf(r.body.u.member.site, WEFT_SITE_NAME, "%s", site);
    weft_ledger_apply(&l, &r);
}

static void epoch(double time, weft_site_set active) {
    at(time, WEFT_SITE_EPOCH);
    r.body.u.epoch.active = active;
    weft_ledger_apply(&l, &r);
}

static void round_of(double time, uint16_t type, weft_site_set in) {
    at(time, type);
    r.body.u.commit.in = in;
    r.body.u.commit.members = 7;
    for (uint32_t m = 0; m < 3; m++) {
        r.body.u.commit.tokens[m] = 100 * (m + 1);
        r.body.u.commit.steps[m] = 10;
        r.body.u.commit.bytes[m] = 1000;
        r.body.u.commit.loss[m] = 3.5 - m;
    }
    weft_ledger_apply(&l, &r);
}

static void adds_up(void **state) {
    (void)state;
    memset(&l, 0, sizeof l);
    member(1000, 0, "a", WEFT_MEMBER_OBSERVER, WEFT_WHY_NONE);
    epoch(1000, 1);
    member(1010, 1, "b", WEFT_MEMBER_OBSERVER, WEFT_WHY_NONE);
    epoch(1020, 3);
    round_of(1025, WEFT_SITE_SEAL, 3); /* sealed, not committed */
    at(1026, WEFT_SITE_ABORT);
    weft_ledger_apply(&l, &r);
    round_of(1030, WEFT_SITE_COMMIT, 3);
    member(1039, 1, "b", WEFT_MEMBER_FENCED, WEFT_WHY_SILENT);
    epoch(1040, 1);
    round_of(1050, WEFT_SITE_COMMIT, 1);
    epoch(1060, 3);
    epoch(1060, 3); /* the numbers changed, not who is in */
    round_of(1100, WEFT_SITE_COMMIT, 2);
    at(1100, WEFT_SITE_COMMIT); /* of another fragment: the same work once more */
    r.body.u.commit.key.fragment = 1;
    r.body.u.commit.tokens[0] = 7777;
    r.body.u.commit.steps[0] = 77;
    r.body.u.commit.in = 1;
    weft_ledger_apply(&l, &r);
    assert_int_equal(l.site[0].steps, 20);
    assert_int_equal(l.commits, 4);
    assert_int_equal(l.aborts, 1);
    assert_int_equal(l.site[0].commits, 3);
    assert_int_equal(l.site[1].commits, 2);
    assert_int_equal(l.site[0].tokens, 200);
    assert_int_equal(l.site[1].tokens, 400);
    assert_int_equal(l.tokens, 600);
    assert_int_equal(l.bytes, 4000);
    assert_true(l.site[1].loss == 2.5);
    assert_int_equal(l.site[1].joins, 2);
    assert_int_equal(l.site[1].leaves, 1);
    assert_int_equal(l.site[0].leaves, 0);
    assert_int_equal(l.changes, 4);
    assert_int_equal(l.change[2].member, 1);
    assert_false(l.change[2].joined);
    assert_int_equal(l.change[2].reason, WEFT_WHY_SILENT);
    assert_true(fabs(weft_ledger_presence(&l, 0) - 1.0) < 1e-6);
    assert_true(fabs(weft_ledger_presence(&l, 1) - 0.6) < 1e-6); /* 20 + 40 of 100 s */
    assert_true(weft_ledger_presence(&l, 2) == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(adds_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
