/* Scenarios are read as written, errors name line and what would do, and a pipe's fates follow from the seed alone. */
#include <signal.h>

#include "base/mem.h"
#include "tests/support/scratch.h"
#include "tests/wan/scenario.h"

static weft_status parse(const char *text, wan_scenario *s) {
    char *own = weft_strdup(text);
    assert_non_null(own);
    return wan_scenario_parse("x.wan", own, s);
}

static void test_reads(void **state) {
    (void)state;
    wan_scenario s;
    wan_shape shape = {.loss = 0.5, .blackhole = 1};
    assert_ok(parse(
        "mtu 9000 # jumbo\nseed 42\nlimit 90\nlate 20ms\nsite a\nsite b congestion=reno egress 10M\n"
        "link a<>b rate=1.5G delay=25ms jitter=500us loss=0.1% burst=1%/0.25/1 reorder=yes up\n"
        "command c in b log=other.log: echo \"# not a comment\" > f: g\n"
        "t=12.5 kill -KILL c rank=2\n+3 wait c \"two words\" 7\nflow a>b port=7 nth=3 rate=5M\nexit c 85 9",
        &s));
    assert_int_equal(s.mtu, 9000);
    assert_int_equal(s.seed, 42);
    assert_int_equal(s.statements, 9);
    const wan_statement *t = s.statement;
    assert_int_equal(t[0].verb, WAN_CAP);
    assert_true(t[1].src == 0 && t[1].dst == 1 && t[2].src == 1 && t[2].dst == 0);
    wan_change_apply(&t[2].change, &shape);
    assert_true(shape.rate == 1.5e9 && shape.delay_ns == 25000000 && shape.jitter_ns == 500000 &&
                shape.reorder);
    assert_true(shape.loss == 0.001 && shape.burst_enter == 0.01 && shape.burst_leave == 0.25 &&
                shape.burst_loss == 1);
    assert_int_equal(shape.blackhole, 0);
    assert_string_equal(s.command[0].text, "echo \"# not a comment\" > f: g");
    assert_string_equal(s.command[0].log, "other.log");
    assert_true(t[3].verb == WAN_AT && t[3].seconds == 12.5);
    assert_true(t[4].signal == SIGKILL && t[4].rank == 2);
    assert_string_equal(t[6].text, "two words");
    assert_true(t[7].port == 7 && t[7].nth == 3 && t[8].code == 85 && t[8].seconds == 9);
    wan_scenario_destroy(&s);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"", "no site"},
        {"site a\nlink a>c rate=1M", "x.wan:2: no site \"c\""},
        {"site a\nsite b\nlink a>b rate=fast", "x.wan:3: \"fast\", expected a rate"},
        {"site a\nsite b\nlink a>b delay=25", "expected a time such as 25ms"},
        {"site a\nsite b\nlink a>b loss=120%", "expected a probability"},
        {"site a\nsite b\nlink a>b loss=nan", "expected a probability"},
        {"site a\nsite b\nlink a>b speed=1", "unknown setting \"speed=1\""},
        {"site a\nsite b\nlink a-b", "expected A>B"},
        {"site a\nsite b\nlink a>b burst=1%/2%", "three probabilities"},
        {"site a\nrun c in a", "expected a colon"},
        {"site a\nrun c on a: x", "run NAME in SITE"},
        {"site a\nrun c in a: x\nrun c in a: y", "stands here twice"},
        {"site a\nkill b", "no command \"b\""},
        {"site a\nrun c in a: x\nkill -NONE c", "expected a whole number"},
        {"site a\nrun c in a: x\nwait c", "expected a text"},
        {"site a\nrun c in a: x\nwait c \"x", "quote without its end"},
        {"site a\nrun c in a: x\nexit c 0 5 6", "one word too many"},
        {"site a\nt=soon", "expected seconds"},
        {"site a\nmtu 20", "from 576"},
        {"site a b", "expected congestion="},
        {"site a-b", "expected a name"},
        {"site a\nfly", "unknown statement \"fly\""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        wan_scenario s;
        assert_error(parse(wrong[i].text, &s), WEFT_ERR_CONFIG, wrong[i].says);
        wan_scenario_destroy(&s);
    }
}

static uint64_t fates(const wan_shape *shape, uint64_t seed, const char *name, int *lost) {
    wan_pipe p;
    uint64_t sum = 0;
    wan_pipe_init(&p, seed, name);
    p.shape = *shape;
    *lost = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        const wan_fate f = wan_pipe_pass(&p, i * 1000, 1000);
        *lost += f.copies == 0;
        sum = sum * 1099511628211u + (f.copies ? f.due_ns[0] : 7);
    }
    return sum;
}

static void test_fates(void **state) {
    (void)state;
    int a = 0, b = 0;
    const wan_shape shape = {.loss = 0.01, .delay_ns = 1000000, .jitter_ns = 500000, .reorder = 1};
    const wan_shape more = {.loss = 0.01, .duplicate = 0.1, .corrupt = 0.1};
    assert_true(fates(&shape, 1, "a>b", &a) == fates(&shape, 1, "a>b", &b));
    assert_true(fates(&shape, 1, "a>b", &a) != fates(&shape, 2, "a>b", &b));
    assert_true(fates(&shape, 1, "a>b", &a) != fates(&shape, 1, "b>a", &b));
    fates(&more, 1, "b>a", &a); /* the same packets are lost, whatever else happens */
    assert_int_equal(a, b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads), cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_fates)};
    return cmocka_run_group_tests_name("wan_scenario", tests, NULL, NULL);
}
