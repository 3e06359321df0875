/* The index of the hub's log: it says what the log says, and losing, damaging or interrupting it loses nothing. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rng.h"
#include "runtime/sites/index.h"
#include "runtime/sites/message.h"
#include "runtime/sites/parts.h"

enum { SITES = 3, ROUNDS = 400 };

static char root[256], dir[300], db[340];
static uint64_t seed;

static int fresh(void **state) {
    static int n;
    (void)state;
    snprintf(dir, sizeof dir, "%s/%d", root, n++);
    snprintf(db, sizeof db, "%s/index.db", dir);
    return 0;
}

/* ---- a log of a run that never was ---- */

static void add(weft_hub_log *l, const weft_site_message *m) {
    static uint8_t body[WEFT_SITE_BODY_MAX];
    size_t n = 0;
    if (weft_site_pack(m, body, sizeof body, &n) < 0) fail_msg("%s", weft_last_error());
    assert_int_equal(weft_hub_log_append(l, 1, (1000 + l->seq) * 1000000000ull, m->type, body, n, NULL),
                     WEFT_OK);
}

static void add_member(weft_hub_log *l, uint16_t member, uint8_t state) {
    weft_site_message m = {.type = WEFT_SITE_MEMBER};
    m.u.member.member = member;
    m.u.member.incarnation = 1;
    m.u.member.state = state;
    m.u.member.pi = 1;
    m.u.member.reason = state == WEFT_MEMBER_FENCED ? WEFT_WHY_SILENT : WEFT_WHY_NONE;
    snprintf(m.u.member.site, sizeof m.u.member.site, "site%d", member);
    snprintf(m.u.member.address, sizeof m.u.member.address, "127.0.0.1:%d", 7000 + member);
    add(l, &m);
}

static void add_epoch(weft_hub_log *l, uint32_t epoch, weft_site_set active) {
    weft_site_message m = {.type = WEFT_SITE_EPOCH};
    m.u.epoch.epoch = epoch;
    m.u.epoch.active = active;
    m.u.epoch.eta = 0.5f;
    for (uint32_t i = 0; i < SITES; i++) m.u.epoch.h[i] = 30;
    m.u.epoch.shares[0] = WEFT_PARTS_ONE;
    add(l, &m);
}

typedef struct sums {
    uint64_t commits[SITES], tokens[SITES], bytes[SITES], aborts, all;
} sums;

static void add_round(weft_hub_log *l, uint64_t round, sums *want) {
    weft_site_message m = {.type = WEFT_SITE_SEAL};
    weft_site_commit *c = &m.u.commit;
    c->key = (weft_site_key){.fragment = 0, .round = round, .attempt = 0};
    c->members = 7;
    c->in = weft_rng_u64(seed, round, 0) % 8;
    for (uint32_t i = 0; i < SITES; i++) {
        if (!weft_site_has(c->in, i)) continue;
        c->weight[i] = 1.0f / (float)weft_site_count(c->in);
        c->tokens[i] = weft_rng_u64(seed, round, 1 + i) % 100000;
        c->steps[i] = 30;
        c->bytes[i] = 1 + weft_rng_u64(seed, round, 10 + i) % 100000;
        c->loss[i] = 2.5;
        want->commits[i]++;
        want->tokens[i] += c->tokens[i];
        want->bytes[i] += c->bytes[i];
    }
    add(l, &m);
    m.type = WEFT_SITE_COMMIT;
    c->eta = 0.5f;
    add(l, &m);
    want->all++;
}

static void add_abort(weft_hub_log *l, uint64_t round) {
    weft_site_message m = {.type = WEFT_SITE_ABORT};
    m.u.abort.key.round = round;
    m.u.abort.reason = WEFT_WHY_OWNER;
    add(l, &m);
}

static weft_hub_log *make_log(int rounds, sums *want) {
    weft_hub_log *l = NULL;
    weft_site_message m = {.type = WEFT_SITE_RUN};
    memset(want, 0, sizeof *want);
    assert_int_equal(weft_hub_log_open(dir, NULL, &l, NULL), WEFT_OK);
    snprintf(m.u.run.name, sizeof m.u.run.name, "kjv");
    m.u.run.h = 30;
    m.u.run.nfragments = 1;
    m.u.run.chunk = 4096;
    m.u.run.elements[0] = 4096;
    m.u.run.retain = 4;
    m.u.run.bits_up = m.u.run.bits_down = 32000;
    add(l, &m);
    for (uint16_t i = 0; i < SITES; i++) add_member(l, i, WEFT_MEMBER_OBSERVER);
    add_epoch(l, 1, 7);
    for (int r = 1; r <= rounds; r++) {
        if (r % 10 == 0) add_abort(l, (uint64_t)r), want->aborts++;
        add_round(l, (uint64_t)r, want);
    }
    add_member(l, 2, WEFT_MEMBER_FENCED);
    add_epoch(l, 2, 3);
    assert_int_equal(weft_hub_log_sync(l), WEFT_OK);
    return l;
}

/* ---- what it says ---- */

static json_int_t integer(const json_t *j, const char *key) {
    assert_true(json_is_integer(json_object_get(j, key)));
    return json_integer_value(json_object_get(j, key));
}

static void check(weft_hub_index *x, const sums *want) {
    json_t *sites = weft_hub_index_sites(x), *totals = weft_hub_index_totals(x),
           *rounds = weft_hub_index_rounds(x, 5), *events = weft_hub_index_events(x, 3);
    assert_int_equal(json_array_size(sites), SITES);
    for (uint32_t i = 0; i < SITES; i++) {
        const json_t *s = json_array_get(sites, i);
        assert_int_equal(integer(s, "commits"), want->commits[i]);
        assert_int_equal(integer(s, "tokens"), want->tokens[i]);
        assert_int_equal(integer(s, "bytes"), want->bytes[i]);
        assert_int_equal(integer(s, "joins"), 1);
        assert_int_equal(integer(s, "leaves"), i == 2);
    }
    assert_int_equal(integer(totals, "commits"), want->all);
    assert_int_equal(integer(totals, "aborts"), want->aborts);
    assert_int_equal(json_array_size(rounds), 5);
    assert_int_equal(integer(json_array_get(rounds, 0), "round"), want->all);
    assert_true(json_number_value(json_object_get(json_array_get(rounds, 0), "seconds")) == 1.0);
    assert_string_equal(json_string_value(json_object_get(json_array_get(events, 0), "site")), "site2");
    assert_string_equal(json_string_value(json_object_get(json_array_get(events, 0), "what")), "left");
    assert_string_equal(json_string_value(json_object_get(json_array_get(events, 1), "why")),
                        weft_site_reason_name(WEFT_WHY_SILENT));
    json_decref(sites);
    json_decref(totals);
    json_decref(rounds);
    json_decref(events);
}

static void open_and_check(weft_hub_log *l, const sums *want) {
    weft_hub_index *x = NULL;
    if (weft_hub_index_open(db, l, 0, &x) < 0) fail_msg("%s", weft_last_error());
    assert_int_equal(weft_hub_index_seq(x), l->seq);
    check(x, want);
    weft_hub_index_close(x);
}

static void says_what_the_log_says(void **state) {
    (void)state;
    sums want;
    weft_hub_log *l = make_log(ROUNDS, &want);
    open_and_check(l, &want);
    open_and_check(l, &want); /* again: nothing is counted twice */
    assert_int_equal(unlink(db), 0);
    open_and_check(l, &want); /* lost: made anew */
    assert_int_equal(unlink(db), 0);
    weft_hub_index *x = NULL; /* piece by piece */
    assert_int_equal(weft_hub_index_open(db, l, 7, &x), WEFT_OK);
    for (uint64_t at = 7; at < l->seq; at += 7) {
        assert_int_equal(weft_hub_index_seq(x), at);
        assert_int_equal(weft_hub_index_follow(x, l, 7), WEFT_OK);
    }
    assert_int_equal(weft_hub_index_seq(x), l->seq);
    check(x, &want);
    weft_hub_index_close(x);
    weft_hub_log_close(l);
}

static void damage_is_set_aside(void **state) {
    (void)state;
    sums want;
    char bad[400];
    char *data = NULL;
    size_t n = 0;
    weft_hub_log *l = make_log(50, &want);
    open_and_check(l, &want);
    assert_int_equal(weft_file_read(db, 1 << 24, &data, &n), WEFT_OK);
    memset(data, 0x5a, n < 4096 ? n : 4096);
    assert_int_equal(weft_file_write(db, data, n), WEFT_OK);
    free(data);
    open_and_check(l, &want);
    snprintf(bad, sizeof bad, "%s.bad", db);
    assert_int_equal(access(bad, F_OK), 0);
    weft_hub_log_close(l);
}

/* The index of a run that is not this one, as after a restored backup. */
static void another_history_is_noticed(void **state) {
    (void)state;
    sums want, other;
    char here[340];
    weft_hub_log *a = make_log(20, &want);
    open_and_check(a, &want);
    memcpy(here, db, sizeof here);
    seed++;
    fresh(NULL);
    weft_hub_log *b = make_log(30, &other);
    seed--;
    memcpy(db, here, sizeof db);
    open_and_check(b, &other);
    weft_hub_log_close(a);
    weft_hub_log_close(b);
}

/* Killed anywhere while it follows: the next one goes on, and every commit is counted once. */
static void killed_while_it_follows(void **state) {
    (void)state;
    sums want;
    int interrupted = 0;
    weft_hub_log *l = make_log(ROUNDS, &want);
    for (int trial = 0; trial < 25; trial++) {
        for (int again = 0; again < 3; again++) {
            const pid_t pid = fork();
            assert_true(pid >= 0);
            if (pid == 0) {
                weft_hub_index *x = NULL;
                _exit(weft_hub_index_open(db, l, 0, &x) < 0);
            }
            usleep((useconds_t)(weft_rng_u64(seed, (uint64_t)trial, (uint64_t)again) % 12000));
            kill(pid, SIGKILL);
            int status = 0;
            waitpid(pid, &status, 0);
            interrupted += WIFSIGNALED(status);
        }
        open_and_check(l, &want);
        char more[400];
        const char *suffix[] = {"", "-wal", "-shm", ".bad"};
        for (int i = 0; i < 4; i++) {
            snprintf(more, sizeof more, "%s%s", db, suffix[i]);
            if (i < 3) unlink(more);
        }
        assert_int_not_equal(access(more, F_OK), 0); /* it was not thrown away to get there */
    }
    printf("interrupted %d of 75 times\n", interrupted);
    weft_hub_log_close(l);
}

int main(void) {
    const char *e = getenv("WEFT_SEED"), *tmp = getenv("TMPDIR");
    seed = e ? strtoull(e, NULL, 10) : (uint64_t)getpid();
    printf("WEFT_SEED=%llu\n", (unsigned long long)seed);
    snprintf(root, sizeof root, "%.200s/weft-hub-index-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(says_what_the_log_says, fresh),
        cmocka_unit_test_setup(damage_is_set_aside, fresh),
        cmocka_unit_test_setup(another_history_is_noticed, fresh),
        cmocka_unit_test_setup(killed_while_it_follows, fresh),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    weft_remove_tree(root);
    return failed;
}
