/* Endpoints over loopback: sessions come up and come back, messages are ordered, every chunk arrives once and whole though
 * streams die all the time. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/rng.h"
#include "tests/comm/wan/wan_case.h"

static int reached(void *arg) {
    const int **v = arg;
    return *v[0] >= *v[1];
}

static void until(test_end *a, test_end *b, const int *value, int least, double seconds) {
    test_end *both[2] = {a, b};
    const int *v[2] = {value, &least};
    if (!ends_until(both, 2, reached, v, seconds)) fail_msg("%d of %d after %g s", *value, least, seconds);
}

static void two(test_run *r, test_end *a, test_end *b, const weft_wan_opts *o) {
    *r = run_make("r");
    end_open(a, run_member(r, "a", "member"), o);
    end_open(b, run_member(r, "b", "member"), o);
}

static void done(test_run *r, test_end *a, test_end *b) {
    end_close(a);
    end_close(b);
    run_free(r);
}

static int has_rtt(void *arg) {
    weft_wan_peer_stats s;
    weft_wan_peer_stats_get(arg, &s);
    return s.rtt > 0;
}

static void messages_arrive_in_order(void **state) {
    test_run r;
    test_end a, b;
    (void)state;
    two(&r, &a, &b, NULL);
    weft_wan_peer *p = ends_meet(&a, &b);
    assert_string_equal(weft_wan_peer_name(p), "b/member");
    assert_string_equal(weft_wan_peer_name(b.peer), "a/member");
    for (int i = 0; i < 1000; i++) {
        char text[16];
        snprintf(text, sizeof text, "m%d", i);
        assert_ok(weft_wan_send(p, 7, text, strlen(text)));
        if (i % 100 == 0) until(&a, &b, &b.messages, i + 1, 5);
    }
    until(&a, &b, &b.messages, 1000, 5);
    assert_string_equal(b.last, "m999");
    char *big = calloc(1, WEFT_WAN_BODY_MAX + 1);
    memset(big, 'x', WEFT_WAN_BODY_MAX);
    assert_ok(weft_wan_send(b.peer, 8, big, WEFT_WAN_BODY_MAX));
    assert_error(weft_wan_send(b.peer, 8, big, WEFT_WAN_BODY_MAX + 1), WEFT_ERR_ARG, "1048577");
    until(&a, &b, &a.messages, 1, 5);
    free(big);
    weft_wan_peer_stats s;
    assert_true(ends_until((test_end *[]){&a, &b}, 2, has_rtt, p, 5)); /* by the first ping */
    weft_wan_peer_stats_get(p, &s);
    assert_true(s.up && s.rtt < 60 && s.streams == 0);
    done(&r, &a, &b);
}

/* Both dial each other at the same moment: one session, and neither side sees it change. */
static void both_may_dial(void **state) {
    test_run r;
    test_end a, b;
    test_end *both[2] = {&a, &b};
    (void)state;
    for (int i = 0; i < 6; i++) {
        char at_a[32], at_b[32];
        weft_wan_peer *pa = NULL, *pb = NULL;
        weft_wan_opts o = {.delay_ms = i % 2 ? 20 : 0}; /* with a delay the greetings cross */
        two(&r, &a, &b, &o);
        end_address(&a, at_a);
        end_address(&b, at_b);
        assert_ok(weft_wan_dial(a.w, at_b, "b/member", &pa));
        assert_ok(weft_wan_dial(b.w, at_a, "a/member", &pb));
        until(&a, &b, &a.ups, 1, 10);
        until(&a, &b, &b.ups, 1, 10);
        ends_for(both, 2, 0.3); /* nothing more comes of it */
        assert_true(weft_wan_peer_up(pa) && weft_wan_peer_up(pb));
        assert_true(a.ups == 1 && b.ups == 1 && !a.downs && !b.downs);
        done(&r, &a, &b);
    }
}

typedef struct storm {
    test_end *a, *b;
    uint64_t seed, n, kills;
} storm;

/* Streams die as chunks arrive, on either side, whatever the machine's pace. */
enum { KILLS = 80 };

static int storm_done(void *arg) {
    storm *s = arg;
    while (s->kills < KILLS && (uint64_t)s->b->arrived > s->kills * s->n / KILLS) {
        uint64_t r = weft_rng_u64(s->seed, 9, s->kills++);
        weft_wan_test_kill(r % 2 ? s->a->peer : s->b->peer, (int)(r >> 16) % 4);
    }
    return s->a->sent_ok == (int)s->n && s->b->arrived == (int)s->n;
}

/* The number of chunks is the first argument of the program. */
static uint64_t chunks = 3000;

static void every_chunk_arrives_once(void **state) {
    test_run r;
    test_end a, b;
    test_end *both[2] = {&a, &b};
    weft_wan_opts o = {.streams = 4, .rate_cap = 30 << 20}; /* so that there is time for it */
    weft_wan_peer_stats st;
    (void)state;
    storm s = {&a, &b, test_seed(), chunks, 0};
    two(&r, &a, &b, &o);
    end_expect(&a, s.n, s.seed, 0);
    end_expect(&b, s.n, s.seed, 0);
    b.refuse_every = 17;
    weft_wan_peer *p = ends_meet(&a, &b);
    for (uint64_t i = 0; i < s.n; i++) end_send(&a, p, i, (int)(i % WEFT_WAN_PRIORITIES));
    if (!ends_until(both, 2, storm_done, &s, 100))
        fail_msg("sent %d, arrived %d of %llu", a.sent_ok, b.arrived, (unsigned long long)s.n);
    for (uint64_t i = 0; i < s.n; i++) assert_true(b.seen[i] == 1 && a.back[i] == 1);
    weft_wan_peer_stats_get(p, &st);
    print_message("%llu chunks, %llu kills, %llu resent, %d begun in vain\n", (unsigned long long)s.n,
                  (unsigned long long)s.kills, (unsigned long long)st.resent, b.lost);
    assert_true(s.kills == KILLS && st.resent > 0 && b.lost > 0);
    done(&r, &a, &b);
}

/* Queued before there is a session, sent when there is one; the session dies and the rest follows by the next. */
static void chunks_survive_a_session(void **state) {
    test_run r;
    test_end a, b;
    weft_wan_opts o = {.streams = 2, .rate_cap = 4 << 20};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 100, 1, 40000);
    end_expect(&b, 100, 1, 40000);
    char address[32];
    weft_wan_peer *p = NULL;
    end_address(&b, address);
    assert_ok(weft_wan_dial(a.w, address, "b/member", &p));
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    until(&a, &b, &b.arrived, 20, 10);
    assert_true(b.arrived < 60);
    weft_wan_hang_up(b.peer); /* a dials again */
    until(&a, &b, &a.sent_ok, 100, 20);
    assert_true(a.ups == 2 && a.downs == 1 && b.downs == 0);
    for (int i = 0; i < 100; i++) assert_true(b.seen[i] == 1 && a.back[i] == 1);
    done(&r, &a, &b);
}

/* The other process starts anew: what was meant for the old one comes back. */
static void a_new_process_is_another_one(void **state) {
    test_run r;
    test_end a, b, c;
    weft_wan_opts o = {.streams = 2, .rate_cap = 2 << 20};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 100, 1, 40000);
    end_expect(&b, 100, 1, 40000);
    weft_wan_peer *p = ends_meet(&a, &b);
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    until(&a, &b, &b.arrived, 10, 10);
    char listen[32];
    snprintf(listen, sizeof listen, "127.0.0.1:%d", weft_wan_port(b.w));
    weft_wan_identity *again = run_member(&r, "b", "member");
    end_close(&b);
    o.listen = listen;
    end_open(&c, again, &o);
    until(&a, &c, &a.ups, 2, 10);
    until(&a, &c, &c.ups, 1, 10);
    assert_int_equal(a.sent_ok + a.sent_peer, 100);
    assert_true(a.sent_peer > 0);
    done(&r, &a, &c);
}

static void what_is_dropped_comes_back_at_once(void **state) {
    test_run r;
    test_end a, b;
    test_end *both[2] = {&a, &b};
    weft_wan_opts o = {.streams = 3, .rate_cap = 8 << 20};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 200, 2, 200000);
    end_expect(&b, 200, 2, 200000);
    weft_wan_peer *p = ends_meet(&a, &b);
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    until(&a, &b, &b.arrived, 5, 10);
    weft_wan_drop_chunks(p, 3, 99, UINT16_MAX);
    assert_int_equal(a.sent_dropped, 1);
    weft_wan_drop_chunks(p, 4, UINT64_MAX, UINT16_MAX); /* none of that fragment */
    assert_int_equal(a.sent_dropped, 1);
    weft_wan_drop_chunks(p, 3, UINT64_MAX, UINT16_MAX);
    assert_int_equal(a.sent_dropped + a.sent_ok, 100);
    /* Streams live on: what was cut off in the middle ended in zeros. */
    weft_wan_peer_stats st;
    for (uint64_t i = 100; i < 200; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    int before = a.sent_ok;
    until(&a, &b, &a.sent_ok, before + 100, 20);
    ends_for(both, 2, 0.1);
    weft_wan_peer_stats_get(p, &st);
    assert_int_equal(st.redials, 0);
    assert_true(b.lost > 0 && b.seen[99] == 0);
    for (int i = 100; i < 200; i++) assert_int_equal(b.seen[i], 1);
    done(&r, &a, &b);
}

/* Results before contributions before state, but state does not starve. */
static void priorities_hold(void **state) {
    test_run r;
    test_end a, b;
    test_end *both[2] = {&a, &b};
    weft_wan_opts o = {.streams = 1, .rate_cap = 8 << 20};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 300, 3, 50000);
    end_expect(&b, 300, 3, 50000);
    weft_wan_peer *p = ends_meet(&a, &b);
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, WEFT_WAN_PRIO_STATE);
    for (uint64_t i = 100; i < 200; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    for (uint64_t i = 200; i < 300; i++) end_send(&a, p, i, WEFT_WAN_PRIO_RESULT);
    until(&a, &b, &b.arrived, 150, 20);
    int by[3] = {0, 0, 0};
    for (int i = 0; i < 300; i++) by[i / 100] += b.seen[i];
    print_message("of 150: %d results, %d contributions, %d state\n", by[2], by[1], by[0]);
    assert_int_equal(by[2], 100);
    assert_in_range(by[0], 4, 10);
    until(&a, &b, &a.sent_ok, 300, 20);
    (void)both;
    done(&r, &a, &b);
}

static void a_cap_holds(void **state) {
    test_run r;
    test_end a, b;
    weft_wan_opts o = {.streams = 4, .rate_cap = 10 << 20};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 100, 4, 100000);
    end_expect(&b, 100, 4, 100000);
    weft_wan_peer *p = ends_meet(&a, &b);
    double t = weft_now();
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    until(&a, &b, &a.sent_ok, 100, 20);
    t = weft_now() - t;
    print_message("10 MB at most 10.5 MB/s: %.3f s\n", t);
    assert_true(t > 0.9); /* and it ends: until() */
    done(&r, &a, &b);
}

/* A delay of 40 ms each way: a round trip takes 80. */
static void a_delay_delays(void **state) {
    test_run r;
    test_end a, b;
    weft_wan_peer_stats st;
    weft_wan_opts o = {.streams = 2, .delay_ms = 40};
    (void)state;
    two(&r, &a, &b, &o);
    end_expect(&a, 50, 4, 100000);
    end_expect(&b, 50, 4, 100000);
    weft_wan_peer *p = ends_meet(&a, &b);
    for (uint64_t i = 0; i < 50; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
    until(&a, &b, &a.sent_ok, 50, 20);
    weft_wan_peer_stats_get(p, &st);
    assert_true(st.rtt > 0.079 && st.rtt < 60);
    done(&r, &a, &b);
}

/* Every send, receive and allocation fails once, somewhere in a short life: nothing is lost, nothing twice. */
static void faults_are_survived(void **state) {
    static const weft_fault_site sites[] = {WEFT_FAULT_SEND, WEFT_FAULT_READ, WEFT_FAULT_ALLOC};
    uint64_t seed = test_seed();
    (void)state;
    for (uint64_t k = 0; k < 30; k++) {
        test_run r;
        test_end a, b;
        weft_wan_opts o = {.streams = 2};
        two(&r, &a, &b, &o);
        end_expect(&a, 40, seed, 20000);
        end_expect(&b, 40, seed, 20000);
        char address[32];
        weft_wan_peer *p = NULL;
        end_address(&b, address);
        assert_ok(weft_wan_dial(a.w, address, "b/member", &p));
        for (uint64_t i = 0; i < 40; i++) end_send(&a, p, i, WEFT_WAN_PRIO_CONTRIB);
        weft_fault_arm(sites[k % 3], (long)(1 + weft_rng_u64(seed, 1, k) % (k % 3 == 2 ? 12 : 60)));
        until(&a, &b, &a.sent_ok, 40, 30);
        for (int i = 0; i < 3; i++) weft_fault_arm(sites[i], 0);
        for (int i = 0; i < 40; i++) assert_true(b.seen[i] == 1 && a.back[i] == 1);
        done(&r, &a, &b);
    }
}

static void wrong_options_are_refused(void **state) {
    test_run r = run_make("r");
    weft_wan_identity *id = run_member(&r, "a", "member");
    weft_wan *w = NULL;
    weft_wan_peer *p = NULL;
    (void)state;
    weft_wan_opts o = {.insecure_lab = 1, .lab_name = "a/member", .listen = "0.0.0.0:0"};
    assert_error(weft_wan_open(&o, &w), WEFT_ERR_ACCESS, "10.77");
    o.listen = "127.0.0.1:0";
    assert_ok(weft_wan_open(&o, &w));
    assert_error(weft_wan_dial(w, "192.0.2.1:1", "b/member", &p), WEFT_ERR_ACCESS, "10.77");
    assert_error(weft_wan_dial(w, "127.0.0.1:1", "a/member", &p), WEFT_ERR_ARG, "site/role");
    assert_error(weft_wan_dial(w, "127.0.0.1", "b/member", &p), WEFT_ERR_ARG, "HOST:PORT");
    assert_error(weft_wan_dial(w, "::1:5", "b/member", &p), WEFT_ERR_ARG, "HOST:PORT");
    weft_wan_close(w);
    o.identity = id;
    assert_error(weft_wan_open(&o, &w), WEFT_ERR_ARG, "lab");
    o = (weft_wan_opts){.listen = "127.0.0.1:0"};
    assert_error(weft_wan_open(&o, &w), WEFT_ERR_ARG, "identity");
    o = (weft_wan_opts){.identity = id, .streams = 65};
    assert_error(weft_wan_open(&o, &w), WEFT_ERR_ARG, "at most 64 streams");
    weft_wan_identity_free(id);
    run_free(&r);
}

int main(int argc, char **argv) {
    if (argc > 1) chunks = strtoull(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_in_order),
        cmocka_unit_test(both_may_dial),
        cmocka_unit_test(every_chunk_arrives_once),
        cmocka_unit_test(chunks_survive_a_session),
        cmocka_unit_test(a_new_process_is_another_one),
        cmocka_unit_test(what_is_dropped_comes_back_at_once),
        cmocka_unit_test(priorities_hold),
        cmocka_unit_test(a_cap_holds),
        cmocka_unit_test(a_delay_delays),
        cmocka_unit_test(faults_are_survived),
        cmocka_unit_test(wrong_options_are_refused),
    };
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
