/* What the emulator does is what it was told: rate within 2 %, round trips within 1 ms, losses by chi-square, order, copies,
 * damage, silence. Every check is also made of a link without its setting, and must fail there.
 *
 * Arrivals are timed by the kernel. A check is made again, up to TURNS times, if it does not hold: the machine may be shared,
 * and an emulator that did not get to run is not one that computed wrongly; one that computes wrongly does so each time.
 * The links without the setting get one turn. An argument n: every check n times as long. */
#include <math.h>

#include "tests/support/scratch.h"
#include "tests/wan/probe.h"

#define CHI_SQUARE 10.83 /* one degree of freedom, p = 0.001 */
#define TURNS      40

static wan_net net;
static probe_run run;
static int longer = 1;

static void pass(const wan_shape *shape, int n, int bytes, int group, int back) {
    assert_ok(probe(&net, shape, n, bytes, group, back, &run));
}

/* --- rate --- */

static double rate_error(const wan_shape *shape, double want, int turns) {
    const int bytes = 1400;
    int n = (int)(want * longer / 8 / bytes / 2); /* half a second */
    if (n > PROBE_MOST) n = PROBE_MOST;
    double best = 1;
    for (int i = 0; i < turns && best > 0.02; i++) {
        pass(shape, n, bytes, (int)(want / 8 / bytes / 1000 * 2) + 1, 0); /* twice the rate */
        const double e = fabs(probe_rate(&run, bytes) / want - 1);
        best = e < best ? e : best;
    }
    return best;
}

/* What comes through of twice the rate if nothing holds it back. */
static double open_rate(double want) {
    const wan_shape open = {.rate = 0};
    (void)rate_error(&open, want, 1);
    return probe_rate(&run, 1400);
}

static void test_rate(void **state) {
    (void)state;
    const double rates[] = {10e6, 40e6, 150e6};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        const wan_shape shape = {.rate = rates[i], .queue = 64 << 20};
        const double e = rate_error(&shape, rates[i], TURNS);
        print_message("%.0f Mbit/s: off by %.2f %%\n", rates[i] * 1e-6, 100 * e);
        if (e <= 0.02) continue;
        const double can = open_rate(rates[i]);
        print_message("without a limit this machine carries %.0f Mbit/s\n", can * 1e-6);
        assert_true(can < 1.3 * rates[i]); /* it cannot show more */
    }
    const wan_shape open = {.rate = 0};
    assert_true(rate_error(&open, 40e6, 1) > 0.02);
}

/* --- delay --- */

static double round_trip_error(const wan_shape *shape, double want_ms, int turns) {
    double best = 1e9;
    for (int i = 0; i < turns && best > 1; i++) {
        pass(shape, 200 * longer, 200, 4, 0);
        const double forth = probe_delay(&run);
        pass(shape, 200 * longer, 200, 4, 1);
        const double e = fabs(forth + probe_delay(&run) - want_ms);
        best = e < best ? e : best;
    }
    return best;
}

static void test_round_trip(void **state) {
    (void)state;
    const double want[] = {10, 50, 150};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const wan_shape shape = {.delay_ns = (uint64_t)(want[i] / 2 * 1e6)};
        const double e = round_trip_error(&shape, want[i], TURNS);
        print_message("%.0f ms: off by %.3f ms\n", want[i], e);
        assert_true(e <= 1);
    }
    const wan_shape open = {.rate = 0};
    assert_true(round_trip_error(&open, 10, 1) > 1);
}

/* --- loss --- */

static double chi_square(double seen, double n, double p) {
    return (seen - n * p) * (seen - n * p) / (n * p * (1 - p));
}

/* Whether `check` gives less than the bound of its test in one of TURNS. */
#define HOLDS_IN_TIME(check)                                                                                 \
    do {                                                                                                     \
        int turn = 0;                                                                                        \
        while (!(check)) assert_true(++turn < TURNS);                                                        \
    } while (0)

/* Lost at all, and lost after one that was lost, against what independent losses would be. */
static double bernoulli(const wan_shape *shape, double p) {
    const int n = PROBE_MOST;
    int lost = 0, pairs = 0;
    pass(shape, n, PROBE_LEAST, 100, 0);
    for (int i = 0; i < n; i++) {
        lost += !run.copies[i];
        pairs += i > 0 && !run.copies[i] && !run.copies[i - 1];
    }
    const double all = chi_square(lost, n, p), after = chi_square(pairs, n - 1, p * p);
    print_message("loss %.2g: %d of %d, %d after another: chi-square %.2f, %.2f\n", p, lost, n, pairs, all,
                  after);
    return all > after ? all : after;
}

/* Transitions of Gilbert-Elliott that loses all while bad: each by its own probability. */
static double bursts(const wan_shape *shape, double enter, double leave) {
    double bad = 0, good = 0, entered = 0, left = 0;
    pass(shape, PROBE_MOST, PROBE_LEAST, 100, 0);
    for (int i = 1; i < run.sent; i++) {
        const int was = !run.copies[i - 1], is = !run.copies[i];
        bad += was, good += !was;
        entered += !was && is, left += was && !is;
    }
    const double a = chi_square(entered, good, enter), b = bad > 0 ? chi_square(left, bad, leave) : 1e9;
    print_message("bursts: entered %.0f of %.0f, left %.0f of %.0f: chi-square %.2f, %.2f\n", entered, good,
                  left, bad, a, b);
    return a > b ? a : b;
}

static void test_loss(void **state) {
    (void)state;
    const wan_shape one = {.loss = 0.01}, ten = {.loss = 0.1}, open = {.loss = 0};
    const wan_shape burst = {.burst_enter = 0.01, .burst_leave = 0.25, .burst_loss = 1};
    const wan_shape as_often = {.loss = 0.01 / 0.26}; /* as burst, but independent */
    HOLDS_IN_TIME(bernoulli(&one, 0.01) < CHI_SQUARE);
    HOLDS_IN_TIME(bernoulli(&ten, 0.1) < CHI_SQUARE);
    HOLDS_IN_TIME(bursts(&burst, 0.01, 0.25) < CHI_SQUARE);
    HOLDS_IN_TIME((bernoulli(&open, 0.01) > CHI_SQUARE) &
                  (run.arrived == run.sent)); /* nothing else loses any */
    assert_true(bernoulli(&burst, 0.01 / 0.26) > CHI_SQUARE);
    assert_true(bursts(&as_often, 0.01, 0.25) > CHI_SQUARE);
}

/* --- order, copies, damage, silence --- */

static int in_order(const wan_shape *shape) {
    pass(shape, 2000, 200, 10, 0);
    return run.arrived == run.sent && run.overtaken == 0;
}

static int overtakes(const wan_shape *shape) {
    double least = 1e9, most = 0;
    pass(shape, 2000, 200, 10, 0);
    for (int i = 0; i < run.sent; i++) {
        least = run.delay_ms[i] < least ? run.delay_ms[i] : least;
        most = run.delay_ms[i] > most ? run.delay_ms[i] : most;
    }
    print_message("jitter of 5 ms in 10: %.2f to %.2f ms, %d overtaken\n", least, most, run.overtaken);
    return run.arrived == run.sent && run.overtaken > 1000 && least > 4.99 && least < 6 && most > 14;
}

static void test_order(void **state) {
    (void)state;
    wan_shape shape = {.delay_ns = 10000000, .jitter_ns = 5000000};
    HOLDS_IN_TIME(in_order(&shape));
    shape.reorder = 1;
    HOLDS_IN_TIME(overtakes(&shape));
    shape.jitter_ns = 0;
    HOLDS_IN_TIME(in_order(&shape));
}

static int twice(const wan_shape *shape, int n) {
    int good = 1;
    pass(shape, n, PROBE_LEAST, 50, 0);
    for (int i = 0; i < n; i++) good &= run.copies[i] == 1 || run.copies[i] == 2;
    return good && chi_square(run.arrived - n, n, 0.05) < CHI_SQUARE;
}

static void test_copies(void **state) {
    (void)state;
    const wan_shape shape = {.duplicate = 0.05}, open = {.duplicate = 0};
    const int n = 5000;
    HOLDS_IN_TIME(twice(&shape, n));
    pass(&open, n, PROBE_LEAST, 50, 0);
    assert_true(chi_square(run.arrived - n, n, 0.05) > CHI_SQUARE);
}

static int share_lost(const wan_shape *shape, int n, double p) {
    pass(shape, n, 500, 50, 0);
    return run.strange == 0 && chi_square(n - run.arrived, n, p) < CHI_SQUARE;
}
static int share_forged(const wan_shape *shape, int n, double p) {
    pass(shape, n, 500, 50, 0);
    return run.arrived + run.strange == n && chi_square(run.strange, n, p) < CHI_SQUARE;
}

/* The kernel refuses what its checksum finds; a forged packet arrives, and is another. */
static void test_damage(void **state) {
    (void)state;
    const wan_shape corrupt = {.corrupt = 0.05}, forge = {.forge = 0.05};
    const int n = 5000;
    HOLDS_IN_TIME(share_lost(&corrupt, n, 0.05));
    HOLDS_IN_TIME(share_forged(&forge, n, 0.05));
}

static void test_silence(void **state) {
    (void)state;
    const wan_shape hole = {.blackhole = 1}, up = {.blackhole = 0};
    pass(&hole, 500, 200, 50, 0);
    assert_int_equal(run.arrived + run.strange, 0);
    HOLDS_IN_TIME((pass(&up, 500, 200, 50, 0), run.arrived == 500));
}

static void test_queue(void **state) {
    (void)state;
    const wan_shape shape = {.rate = 1e6, .queue = 20 * 500}; /* 20 packets of 4 ms each */
    HOLDS_IN_TIME(
        (pass(&shape, 100, 500, 100, 0), run.arrived >= 20 && run.arrived <= 25)); /* a few leave meanwhile */
    print_message("a queue for 20 packets: %d of 100 arrived\n", run.arrived);
}

int main(int argc, char **argv) {
    if (argc > 1) longer = atoi(argv[1]);
    weft_status s = wan_isolate();
    if (s == WEFT_OK) s = wan_net_open(&net, 2, 1500);
    if (s == WEFT_ERR_SERVICE) {
        fprintf(stderr, "skipped: %s\n", weft_last_error());
        return 77;
    }
    if (s != WEFT_OK) {
        fprintf(stderr, "%s\n", weft_last_error());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate),    cmocka_unit_test(test_round_trip), cmocka_unit_test(test_loss),
        cmocka_unit_test(test_order),   cmocka_unit_test(test_copies),     cmocka_unit_test(test_damage),
        cmocka_unit_test(test_silence), cmocka_unit_test(test_queue),
    };
    return cmocka_run_group_tests_name("wanem", tests, NULL, NULL);
}
