/* The member machine beside a training that is slow to merge: what the next round needs of it is said once it has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/sites/member_machine.h"

enum { SELF = 1, BOTH = 3 };

static weft_member_machine m;
static weft_site_record rec;
static weft_site_message msg;
static int sent[WEFT_SITE_TYPE_END], done[WEFT_DO_FAIL + 1];
static weft_site_set asked; /* of the last PULL */
static uint64_t now, seq;

static void emit(void *arg, const weft_member_action *a) {
    (void)arg;
    done[a->kind]++;
    if (a->kind == WEFT_DO_SEND) sent[a->message->type]++;
    if (a->kind == WEFT_DO_PULL) asked = a->members;
}

static void event(weft_member_event e) {
    weft_member_actions out = {.emit = emit};
    now += 1000000;
    assert_int_equal(weft_member_step(&m, &e, now, &out), WEFT_OK);
}

static void tell(uint16_t type) {
    msg.type = type;
    msg.incarnation = 7;
    event((weft_member_event){.kind = WEFT_MEMBER_MESSAGE, .message = &msg});
}

static void record(uint16_t type) {
    rec.seq = ++seq;
    rec.body.type = type;
    event((weft_member_event){.kind = WEFT_MEMBER_RECORD, .record = &rec});
}

static weft_site_key key(uint64_t round) {
    return (weft_site_key){.fragment = 0, .round = round, .attempt = 1};
}

static weft_site_hash root(uint64_t round) {
    weft_site_hash h = {{0}};
    h.b[0] = (uint8_t)round;
    return h;
}

static void connect_again(void) {
    event((weft_member_event){.kind = WEFT_MEMBER_DOWN});
    event((weft_member_event){.kind = WEFT_MEMBER_UP});
    memset(&msg, 0, sizeof msg);
    msg.u.welcome = (weft_site_welcome){.member = SELF, .term = 1, .state = WEFT_MEMBER_ACTIVE};
    tell(WEFT_SITE_WELCOME);
}

static int start(void **state) {
    (void)state;
    weft_member_opts o = {.site = "b", .run = {.nfragments = 1, .chunk = 128, .elements = {256}, .h = 10}};
    memset(&rec, 0, sizeof rec);
    memset(sent, 0, sizeof sent);
    memset(done, 0, sizeof done);
    now = 1000000000;
    seq = 0;
    asked = 0;
    weft_member_init(&m, &o, NULL);
    connect_again();
    return 0;
}

/* Another site's round, until its result is sealed. */
static void seal(uint64_t round) {
    memset(&msg, 0, sizeof msg);
    msg.u.open = (weft_site_open){.key = key(round), .members = BOTH};
    msg.u.open.shares[0] = WEFT_PARTS_ONE;
    tell(WEFT_SITE_OPEN);
    weft_site_commit *c = &rec.body.u.commit;
    memset(c, 0, sizeof *c);
    c->key = key(round);
    c->members = BOTH;
    c->in = 1;
    c->weight[0] = 1;
    c->shares[0] = WEFT_PARTS_ONE;
    c->root = root(round);
    record(WEFT_SITE_SEAL);
    memset(&msg, 0, sizeof msg);
    msg.u.result = (weft_site_result){key(round), root(round)};
    tell(WEFT_SITE_ROOT);
}

static void got(uint64_t round) {
    event((weft_member_event){.kind = WEFT_MEMBER_GOT, .key = key(round), .root = root(round)});
}

static void applied(uint64_t round) {
    event((weft_member_event){.kind = WEFT_MEMBER_APPLIED, .key = key(round)});
}

static void test_slow_merge(void **state) {
    (void)state;
    seal(1);
    got(1);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 1);
    record(WEFT_SITE_COMMIT);
    assert_int_equal(done[WEFT_DO_APPLY], 1);
    seal(2); /* while the training has not merged the first */
    got(2);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 1); /* it could not follow */
    applied(1);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 2);
    record(WEFT_SITE_COMMIT);
    assert_int_equal(done[WEFT_DO_APPLY], 2);
    applied(2);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 2);
    assert_int_equal(done[WEFT_DO_FETCH], 0);
}

static void test_slow_merge_and_a_broken_line(void **state) {
    (void)state;
    seal(1);
    got(1);
    record(WEFT_SITE_COMMIT);
    seal(2);
    event((weft_member_event){.kind = WEFT_MEMBER_HAVE, .key = key(2), .set = 1});
    got(2);
    connect_again();
    assert_int_equal(sent[WEFT_SITE_HAVE], 2); /* the first may be lost */
    applied(1);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 2);
    connect_again();
    assert_int_equal(sent[WEFT_SITE_PREPARED], 3);
}

static void test_pull_says_of_whom(void **state) {
    (void)state;
    seal(1);
    now += 3000000000;
    event((weft_member_event){.kind = WEFT_MEMBER_TICK, .beat = &(weft_site_heartbeat){0}});
    assert_int_equal(done[WEFT_DO_PULL], 1);
    assert_int_equal(asked, BOTH);
    const weft_site_hash wrong = root(9);
    event((weft_member_event){.kind = WEFT_MEMBER_GOT, .key = key(1), .root = wrong});
    assert_int_equal(done[WEFT_DO_PULL], 2);
    assert_int_equal(asked, BOTH);
    assert_int_equal(sent[WEFT_SITE_PREPARED], 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_slow_merge, start),
                                       cmocka_unit_test_setup(test_slow_merge_and_a_broken_line, start),
                                       cmocka_unit_test_setup(test_pull_says_of_whom, start)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
