/* The pure parts of the transport: the queue and what the receiver remembers, the bucket and the ring, the number of streams,
 * strangers, addresses. */
#include "base/rng.h"
#include "comm/wan/address.h"
#include "comm/wan/grow.h"
#include "comm/wan/guard.h"
#include "comm/wan/queue.h"
#include "comm/wan/throttle.h"
#include "tests/support/scratch.h"

#define MS 1000000u

static weft_wan_chunk chunk(uint64_t i, uint32_t bytes) {
    weft_wan_chunk h = {.kind = WEFT_WAN_RESULT, .round = i, .bytes = bytes};
    return h;
}

/* ---- the queue ---- */

static void late_chunks_fly_twice(void **state) {
    wan_queue q;
    wan_item out;
    (void)state;
    assert_ok(wan_queue_open(&q));
    for (uint64_t i = 0; i < 5; i++) {
        weft_wan_chunk h = chunk(i, 100);
        assert_ok(wan_queue_add(&q, &h, &q, 0));
    }
    for (uint64_t i = 0; i < 4; i++) {
        const wan_item *it = wan_queue_take(&q, 0, i * 100 * MS);
        assert_int_equal(it->id, i + 1);
        assert_int_equal(wan_queue_ack(&q, it->id, i * 100 * MS + 50 * MS, &out), 1); /* 50 ms each */
        assert_int_equal(wan_queue_ack(&q, i + 1, 0, &out), 0);
    }
    const wan_item *last = wan_queue_take(&q, 0, 1000 * MS);
    assert_null(wan_queue_take(&q, 1, 1000 * MS));
    assert_null(wan_queue_again(&q, 1, 1100 * MS, 0));        /* twice the median is not over */
    assert_null(wan_queue_again(&q, 1, 1101 * MS, 100 * MS)); /* two round trips are not */
    assert_null(wan_queue_again(&q, 0, 1101 * MS, 0));        /* not on the same stream */
    assert_ptr_equal(wan_queue_again(&q, 1, 1101 * MS, 0), last);
    assert_null(wan_queue_again(&q, 2, 1500 * MS, 0)); /* two copies are enough */
    wan_queue_lost(&q, 0);
    assert_false(wan_queue_ready(&q)); /* the other copy flies on */
    wan_queue_lost(&q, 1);
    assert_true(wan_queue_ready(&q));
    assert_int_equal(wan_queue_take(&q, 2, 2000 * MS)->id, 5); /* the same number */
    wan_queue_lost(&q, 2);
    assert_int_equal(wan_queue_ack(&q, 5, 0, &out), 1); /* it had come through: while it waits */
    assert_int_equal(out.h.round, 4);
    assert_int_equal(wan_queue_count(&q), 0);
    wan_queue_close(&q);
}

static void credit_and_numbers_bound_what_flies(void **state) {
    wan_queue q;
    wan_item out;
    (void)state;
    assert_ok(wan_queue_open(&q));
    for (uint64_t i = 0; i < 2 * WAN_WINDOW; i++) {
        weft_wan_chunk h = chunk(i, 1);
        assert_ok(wan_queue_add(&q, &h, &q, 1));
    }
    q.window = 3;
    for (int i = 0; i < 3; i++) assert_non_null(wan_queue_take(&q, 0, 0));
    assert_null(wan_queue_take(&q, 0, 0));
    q.window = WAN_WINDOW;
    /* Number 1 stays behind, all others come through: at WAN_WINDOW it ends. */
    uint64_t id = 4;
    assert_int_equal(wan_queue_ack(&q, 2, 0, &out) + wan_queue_ack(&q, 3, 0, &out), 2);
    for (const wan_item *i; (i = wan_queue_take(&q, 0, 0)); id++) {
        assert_int_equal(i->id, id);
        assert_int_equal(wan_queue_ack(&q, id, 0, &out), 1);
    }
    assert_int_equal(id, WAN_WINDOW + 1);
    wan_queue_lost(&q, 0); /* its stream dies: it must be the next, whatever waits */
    weft_wan_chunk h = chunk(1u << 20, 1);
    assert_ok(wan_queue_add(&q, &h, &q, 0));
    assert_int_equal(wan_queue_take(&q, 1, 0)->id, 1);
    assert_null(wan_queue_take(&q, 1, 0));
    assert_int_equal(wan_queue_ack(&q, 1, 0, &out), 1);
    assert_int_equal(wan_queue_take(&q, 1, 0)->h.round, 1u << 20);
    wan_queue_close(&q);
}

/* Any order of flights, losses and acknowledgements: what is given back is given back once, and nothing is forgotten. */
static void nothing_is_lost_or_doubled(void **state) {
    enum { N = 3000 };
    static uint8_t back[N], sent[N + 1];
    uint64_t seed = test_seed(), dice = 0, now = 0, of[N + 1], left = N;
    wan_queue q;
    wan_item out;
    (void)state;
    memset(back, 0, sizeof back);
    assert_ok(wan_queue_open(&q));
    for (uint64_t i = 0; i < N; i++) {
        weft_wan_chunk h = chunk(i, 1 + i % 999);
        assert_ok(wan_queue_add(&q, &h, &back[i], (int)(i % WEFT_WAN_PRIORITIES)));
    }
    while (left) {
        uint64_t r = weft_rng_u64(seed, 3, dice++);
        int stream = (int)((r >> 8) % 5);
        now += (r >> 16) % (30 * MS);
        if (r % 10 < 5) {
            const wan_item *i = wan_queue_take(&q, stream, now);
            if (!i) i = wan_queue_again(&q, stream, now, 0);
            if (i) {
                assert_ptr_equal(i->data, &back[i->h.round]);
                of[i->id] = i->h.round;
                sent[i->id] = 1;
            }
        } else if (r % 10 < 9) {
            uint64_t id = 1 + (r >> 20) % N;
            int fresh = sent[id] && !back[of[id]];
            int got = wan_queue_ack(&q, id, now, &out);
            assert_int_equal(got, fresh);
            if (got) {
                assert_int_equal(out.h.round, of[id]);
                back[of[id]]++;
                left--;
            }
        } else if (r % 40 == 9) {
            wan_queue_lost(&q, stream);
        }
        assert_int_equal(wan_queue_count(&q), left);
    }
    wan_queue_close(&q);
}

static void the_receiver_remembers(void **state) {
    static wan_seen s;
    uint64_t seed = test_seed();
    static uint8_t truth[4 * WAN_WINDOW];
    (void)state;
    memset(&s, 0, sizeof s);
    memset(truth, 0, sizeof truth);
    for (uint64_t i = 0, top = 0; i < 3 * WAN_WINDOW; i++) {
        uint64_t low = top > 1000 ? top - 1000 : 1, id = low + weft_rng_u64(seed, 1, i) % 1100;
        if (id >= 4 * WAN_WINDOW) break;
        assert_int_equal(wan_seen_has(&s, id), truth[id]);
        truth[id] = 1;
        wan_seen_add(&s, id);
        assert_int_equal(wan_seen_has(&s, id), 1);
        if (id > top) top = id;
    }
    uint64_t top = s.top;
    assert_int_equal(wan_seen_has(&s, top - WAN_WINDOW), 1); /* too long ago to say */
    wan_seen_add(&s, top + 2 * WAN_WINDOW);
    assert_int_equal(wan_seen_has(&s, top + WAN_WINDOW + 1), 0);
    assert_int_equal(wan_seen_has(&s, top), 1);
}

/* ---- throttle ---- */

static void a_bucket_holds_its_rate(void **state) {
    wan_bucket b;
    uint64_t seed = test_seed(), sent = 0;
    const uint64_t rate = 10000000, start = 5 * MS;
    (void)state;
    wan_bucket_set(&b, rate, start);
    uint64_t now = start;
    for (uint64_t i = 0; now < start + 2000 * MS; i++) {
        size_t n = 1 + weft_rng_u64(seed, 2, i) % 100000, may = wan_bucket_may(&b, n, now);
        assert_true(may <= n);
        wan_bucket_take(&b, may);
        sent += may;
        uint64_t next = wan_bucket_next(&b, now);
        if (next) assert_true(next > now && next < now + 100 * MS);
        now = next ? next : now + 100000;
        assert_true(sent <= (uint64_t)b.burst + (now - start) * rate / 1000000000u + 1);
    }
    assert_true((double)sent > 0.98 * 2 * (double)rate);
    wan_bucket_set(&b, 0, now);
    assert_int_equal(wan_bucket_may(&b, 12345, now), 12345);
    assert_int_equal(wan_bucket_next(&b, now), 0);
}

static void a_ring_gives_back_what_it_took_in_time(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    for (int delayed = 0; delayed < 2; delayed++) {
        wan_ring r;
        uint64_t delay = delayed ? 20 * MS : 0, put = 0, got = 0, now = 1;
        static uint64_t when[1 << 20];
        assert_ok(wan_ring_open(&r, 4096, delay));
        for (uint64_t i = 0; got < 200000; i++) {
            uint8_t p[700];
            size_t n = weft_rng_u64(seed, 3, i) % sizeof p, have = 0;
            for (size_t k = 0; k < n; k++) p[k] = (uint8_t)((put + k) * 37);
            n = wan_ring_put(&r, p, n, now);
            for (size_t k = 0; k < n; k++) when[put + k] = now;
            put += n;
            now += weft_rng_u64(seed, 4, i) % (3 * MS);
            const uint8_t *q = wan_ring_due(&r, now, &have);
            assert_true(have || delayed || put == got);
            for (size_t k = 0; k < have; k++) {
                assert_int_equal(q[k], (uint8_t)((got + k) * 37));
                assert_true(now - when[got + k] + MS > delay); /* a mark is for a millisecond */
            }
            wan_ring_drop(&r, have);
            got += have;
            assert_int_equal(wan_ring_used(&r), put - got);
            if (put > got && delayed) assert_true(wan_ring_next(&r) < now + delay + 1);
            if (put == got) assert_int_equal(wan_ring_next(&r), UINT64_MAX);
        }
        wan_ring_close(&r);
    }
}

/* ---- the number of streams ---- */

/* A link of `link` bytes/s on which one flow makes `flow`: where it settles. */
static int settles(double link, double flow, int max) {
    wan_grow g;
    uint64_t bytes = 0;
    wan_grow_start(&g, 0, 0.05, max);
    assert_int_equal(g.n, max < 2 ? max : 2);
    for (double t = 1; t < 60; t += 0.05) {
        double rate = g.n * flow < link ? g.n * flow : link;
        bytes += (uint64_t)(0.05 * rate);
        wan_grow_feed(&g, t, 0.05, bytes, 1);
    }
    return g.n;
}

static void streams_double_while_it_pays(void **state) {
    wan_grow g;
    (void)state;
    assert_int_equal(settles(1e7, 1e7, 64), 4); /* the first doubling already brings nothing */
    assert_int_equal(settles(1e7, 1.2e6, 64), 16);
    assert_int_equal(settles(1e9, 1e6, 64), 64);
    assert_int_equal(settles(1e9, 1e6, 10), 10);
    assert_int_equal(settles(1e9, 1e6, 1), 1);
    wan_grow_start(&g, 62.5e6, 0.15, 64);
    assert_int_equal(g.n, 9);
    wan_grow_start(&g, 1e10, 0.15, 64);
    assert_int_equal(g.n, 16);
    /* Pauses do not count as poor windows. */
    wan_grow_start(&g, 0, 0.01, 64);
    for (double t = 1; t < 30; t += 0.05) wan_grow_feed(&g, t, 0.01, 0, 0);
    assert_int_equal(g.n, 2);
}

/* ---- strangers and addresses ---- */

static void strangers_are_counted_by_address(void **state) {
    wan_guard g;
    uint64_t muffled = 0;
    (void)state;
    wan_guard_set(&g, 16);
    assert_true(wan_guard_enter(&g, "a") && wan_guard_enter(&g, "a"));
    assert_false(wan_guard_enter(&g, "a"));
    wan_guard_leave(&g, "a");
    assert_true(wan_guard_enter(&g, "a"));
    for (int i = 0; i < 14; i++) {
        char host[16];
        snprintf(host, sizeof host, "h%d", i);
        assert_true(wan_guard_enter(&g, host));
    }
    assert_false(wan_guard_enter(&g, "z"));
    assert_true(wan_guard_say(&g, "a", 1000 * MS, &muffled));
    for (int i = 0; i < 5; i++) assert_false(wan_guard_say(&g, "a", 2000 * MS, &muffled));
    assert_true(wan_guard_say(&g, "b", 2000 * MS, &muffled));
    assert_true(wan_guard_say(&g, "a", (uint64_t)61000 * MS + 1, &muffled));
    assert_int_equal(muffled, 5);
    for (uint64_t i = 0; i < 1000; i++) { /* more addresses than the table has places */
        char host[16];
        snprintf(host, sizeof host, "x%llu", (unsigned long long)i);
        assert_true(wan_guard_say(&g, host, (uint64_t)62000 * MS + i, &muffled));
    }
    assert_false(wan_guard_enter(&g, "a")); /* who has strangers was not forgotten */
}

static void addresses_are_read(void **state) {
    wan_address a;
    char text[WAN_ADDRESS_TEXT];
    static const struct {
        const char *in, *out;
        int lab;
    } good[] = {{"127.0.0.1:5", "127.0.0.1:5", 1},
                {"10.77.3.4:65535", "10.77.3.4:65535", 1},
                {"[::1]:7", "[::1]:7", 1},
                {"10.78.0.1:1", "10.78.0.1:1", 0},
                {":80", "0.0.0.0:80", 0},
                {"[::]:80", "[::]:80", 0},
                {"[::ffff:127.0.0.1]:9", "127.0.0.1:9", 1}};
    static const char *const bad[] = {"",      "a",      "1.2.3.4", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:65536",
                                      "::1:5", "[::1:5", "1:2:3"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(wan_address_parse(good[i].in, &a));
        wan_address_print(&a, 0, text);
        assert_string_equal(text, good[i].out);
        assert_int_equal(wan_address_is_lab(&a), good[i].lab);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(wan_address_parse(bad[i], &a), WEFT_ERR_ARG, "HOST:PORT");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late_chunks_fly_twice),
        cmocka_unit_test(credit_and_numbers_bound_what_flies),
        cmocka_unit_test(nothing_is_lost_or_doubled),
        cmocka_unit_test(the_receiver_remembers),
        cmocka_unit_test(a_bucket_holds_its_rate),
        cmocka_unit_test(a_ring_gives_back_what_it_took_in_time),
        cmocka_unit_test(streams_double_while_it_pays),
        cmocka_unit_test(strangers_are_counted_by_address),
        cmocka_unit_test(addresses_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
