/* Rates from transfers: what is sustained counts, not a burst and not the time between transfers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "runtime/sites/rates.h"

#define TICK 200000000ull

typedef struct line {
    weft_rate r;
    uint64_t now, wire, payload;
} line;

/* n ticks with `bytes` each; payload moves in pieces of `piece`. */
static void run(line *l, int n, uint64_t bytes, uint64_t piece) {
    for (int i = 0; i < n; i++) {
        l->now += TICK;
        l->wire += bytes;
        if (piece) l->payload = l->wire / piece * piece;
        weft_rate_tick(&l->r, l->wire, l->payload, l->now);
    }
}

static void assert_near(double v, double want) {
    assert_true(v > 0.9 * want && v < 1.1 * want);
}

static void a_transfer_has_a_rate(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 2, 20000, 1000);
    assert_true(l.r.rate == 0); /* nothing is sustained yet */
    run(&l, 20, 20000, 1000);
    assert_near(l.r.rate, 800e3);
}

static void a_burst_is_none(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 20, 20000, 1000);
    run(&l, 2, 4000000, 1000);
    run(&l, 2, 20000, 1000);
    assert_near(l.r.rate, 800e3);
}

static void idle_time_says_nothing(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 20, 20000, 1000);
    const double busy = l.r.rate;
    run(&l, 10, 10, 0); /* the last two seconds in which it may still be under way */
    const double after = l.r.rate;
    assert_true(after > 0.75 * busy);
    run(&l, 5000, 10, 0); /* only heartbeats */
    assert_true(l.r.rate == after);
}

static void pieces_longer_than_a_tick_count(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 40, 20000, 90000);
    assert_near(l.r.rate, 800e3);
}

static void it_falls_when_the_line_does(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 20, 80000, 1000);
    assert_near(l.r.rate, 3200e3);
    run(&l, 200, 20000, 1000);
    assert_near(l.r.rate, 800e3);
}

static void a_counter_may_begin_anew(void **state) {
    (void)state;
    line l = {.now = 1};
    run(&l, 20, 20000, 1000);
    l.wire = l.payload = 0;
    run(&l, 20, 20000, 1000);
    assert_near(l.r.rate, 800e3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transfer_has_a_rate),       cmocka_unit_test(a_burst_is_none),
        cmocka_unit_test(idle_time_says_nothing),      cmocka_unit_test(pieces_longer_than_a_tick_count),
        cmocka_unit_test(it_falls_when_the_line_does), cmocka_unit_test(a_counter_may_begin_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
