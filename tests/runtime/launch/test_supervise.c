/* The supervisor's rules one by one: what each exit code, signal and time does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/launch/supervise_machine.h"

static const int64_t second = 1000000000;
static weft_supervise_machine *m;
static weft_supervise_actions out;
static int64_t now;

static const weft_supervise_rules plain = {.nodes = 4,
                                           .cells = 1,
                                           .min_nodes = 1,
                                           .chain = WEFT_CHAIN_SUCCESSOR,
                                           .max_generations = 10,
                                           .no_progress = 3,
                                           .lead_ns = 20 * second,
                                           .silent_ns = 3 * second,
                                           .hang_ns = 60 * second,
                                           .answer_ns = 30 * second,
                                           .died_ns = 2 * second,
                                           .kill_ns = 10 * second};

static int setup(void **state) {
    (void)state;
    m = calloc(1, sizeof *m);
    return m ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    free(m);
    return 0;
}

static int did(weft_supervise_action_kind kind) {
    for (uint32_t i = 0; i < out.n; i++)
        if (out.item[i].kind == kind) return (int)i + 1;
    return 0;
}

static void give(weft_supervise_event e) {
    weft_supervise_step(m, &e, now, &out);
}

/* One heartbeat of each node, then time passes. */
static void beats(uint32_t live, uint64_t step, uint64_t saved, int64_t pass) {
    for (uint32_t n = 0; n < m->rules.nodes; n++)
        give((weft_supervise_event){.kind = WEFT_SAW_BEAT,
                                    .node = n,
                                    .beat = {.live = m->node[n].cell == 0 ? live : 0,
                                             .epoch = m->epoch,
                                             .min_step = step,
                                             .max_step = step,
                                             .saved = saved,
                                             .step_ns = 100000000,
                                             .save_ns = 200000000}});
    now += pass;
}

/* Up to the first step. */
static void begin(const weft_supervise_rules *rules, const weft_supervise_record *record, uint64_t job) {
    now = 1000 * second;
    weft_supervise_begin(m, rules, now);
    give((weft_supervise_event){.kind = WEFT_SAW_REMAINING, .remaining_ns = 1000 * second});
    give((weft_supervise_event){.kind = WEFT_SAW_LOCK,
                                .found = record != NULL,
                                .job = job,
                                .record = record ? *record : (weft_supervise_record){0}});
    assert_true(did(WEFT_DO_WRITE));
    give((weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = 1});
    assert_true(did(WEFT_DO_AGENTS));
    now += second / 2;
    beats(0, 0, 0, 0);
    assert_true(did(WEFT_DO_LAUNCH));
}

static void exits(int code) {
    give((weft_supervise_event){.kind = WEFT_SAW_EXIT, .cell = 0, .launch = m->cell[0].launch, .code = code});
}

/* After an end that is chained: writes, submits, ends; returns the code. */
static int goes_on(uint64_t next) {
    assert_true(did(WEFT_DO_WRITE));
    assert_true(m->record.intent);
    give((weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = 1});
    assert_true(did(WEFT_DO_SUBMIT));
    give((weft_supervise_event){.kind = WEFT_SAW_SUBMITTED, .ok = 1, .job = next});
    assert_true(did(WEFT_DO_WRITE));
    assert_int_equal(m->record.next_job, next);
    give((weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = 1});
    const int i = did(WEFT_DO_EXIT);
    assert_true(i);
    return out.item[i - 1].code;
}

static int ends(void) {
    assert_true(did(WEFT_DO_WRITE));
    assert_true(m->record.ended);
    give((weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = 1});
    assert_false(did(WEFT_DO_SUBMIT));
    const int i = did(WEFT_DO_EXIT);
    assert_true(i);
    return out.item[i - 1].code;
}

static void codes_decide_what_follows(void **state) {
    (void)state;
    static const struct {
        int code, chained;
    } of[] = {{0, 0}, {85, 1}, {75, 1}, {86, 0}, {93, 0}, {64, 0}, {78, 0}, {1, 0}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        begin(&plain, NULL, 7);
        beats(1, 5, 3, second);
        beats(1, 6, 3, second);
        exits(of[i].code);
        assert_int_equal(of[i].chained ? goes_on(8) : ends(), of[i].code);
    }
}

static void a_chain_without_new_checkpoint_ends_with_93(void **state) {
    (void)state;
    weft_supervise_record r;
    begin(&plain, NULL, 1);
    for (uint64_t job = 1; job < 4; job++) {
        beats(1, 5, 3, second);
        beats(1, 6, 3, second);
        exits(85);
        if (job == 4) break;
        if (m->record.stale >= 3) break;
        assert_int_equal(goes_on(job + 1), 85);
        r = m->record;
        begin(&plain, &r, job + 1);
    }
    beats(1, 7, 3, second);
    beats(1, 7, 3, second);
    exits(85);
    assert_int_equal(ends(), 93);
    /* a program that never says what it saves is not judged by it */
    begin(&plain, NULL, 1);
    for (uint64_t job = 1; job < 6; job++) {
        exits(85);
        assert_int_equal(goes_on(job + 1), 85);
        r = m->record;
        begin(&plain, &r, job + 1);
    }
}

static void three_faults_of_the_site_end_a_chain(void **state) {
    (void)state;
    weft_supervise_record r = {0};
    begin(&plain, NULL, 1);
    for (uint64_t job = 1; job < 3; job++) {
        exits(75);
        assert_int_equal(goes_on(job + 1), 75);
        r = m->record;
        begin(&plain, &r, job + 1);
    }
    exits(75);
    assert_int_equal(ends(), 75);
}

static void the_cap_holds_whatever_the_environment_says(void **state) {
    (void)state;
    weft_supervise_rules rules = plain;
    rules.max_generations = 3;
    begin(&rules, NULL, 1);
    for (uint64_t job = 1; job < 3; job++) {
        beats(1, 5 + job, 10 * job, second);
        beats(1, 6 + job, 10 * job, second);
        exits(85);
        assert_int_equal(goes_on(job + 1), 85);
        const weft_supervise_record r = m->record;
        begin(&rules, &r, job + 1); /* WEFT_GENERATION is not set: expected is 0 */
        assert_int_equal(m->record.generation, job);
    }
    beats(1, 9, 50, second);
    beats(1, 9, 50, second);
    exits(85);
    assert_int_equal(ends(), 85);
    /* a new submission after the end begins anew */
    const weft_supervise_record r = m->record;
    begin(&rules, &r, 9);
    assert_int_equal(m->record.generation, 3);
    assert_int_equal(m->record.first, 3);
}

static void it_stops_before_the_limit_by_what_saving_takes(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    beats(1, 5, 3, second);
    assert_int_equal(weft_supervise_lead(m), 20 * second);
    give((weft_supervise_event){.kind = WEFT_SAW_BEAT,
                                .node = 0,
                                .beat = {.live = 1,
                                         .epoch = m->epoch,
                                         .min_step = 5,
                                         .max_step = 5,
                                         .saved = 3,
                                         .step_ns = 4 * second,
                                         .save_ns = 40 * second}});
    assert_int_equal(weft_supervise_lead(m), (60 + 8 + 15) * second);
    give((weft_supervise_event){.kind = WEFT_SAW_REMAINING, .remaining_ns = 84 * second});
    assert_int_equal(m->stop, WEFT_SUPERVISE_GO_ON);
    give((weft_supervise_event){.kind = WEFT_SAW_REMAINING, .remaining_ns = 82 * second});
    assert_int_equal(m->stop, WEFT_SUPERVISE_TIME);
    assert_false(did(WEFT_DO_KILL));
    give((weft_supervise_event){.kind = WEFT_SAW_REMAINING, .remaining_ns = 9 * second});
    assert_true(did(WEFT_DO_KILL)); /* what is committed counts */
    give((weft_supervise_event){.kind = WEFT_SAW_KILLED, .cell = 0, .launch = 1});
    assert_int_equal(goes_on(2), 85);
}

static void who_asks_and_who_cancels_gets_no_successor(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    give((weft_supervise_event){.kind = WEFT_SAW_ASKED});
    assert_int_equal(m->stop, WEFT_SUPERVISE_ASKED);
    exits(85);
    assert_int_equal(ends(), 85);
    begin(&plain, NULL, 1);
    give((weft_supervise_event){.kind = WEFT_SAW_GONE});
    exits(85);
    assert_int_equal(ends(), 85);
    begin(&plain, NULL, 1); /* a signal far from the limit: preempted, and that goes on */
    give((weft_supervise_event){.kind = WEFT_SAW_TERM});
    assert_int_equal(m->stop, WEFT_SUPERVISE_PREEMPTED);
    exits(85);
    assert_int_equal(goes_on(2), 85);
}

/* Kills the step, lets the agents answer. */
static void repaired(uint32_t without) {
    assert_int_equal(m->cell[0].phase, WEFT_CELL_KILL);
    give((weft_supervise_event){.kind = WEFT_SAW_KILLED, .cell = 0, .launch = m->cell[0].launch});
    assert_false(did(WEFT_DO_LAUNCH)); /* not before the agents have answered */
    for (uint32_t n = 0; n < m->rules.nodes; n++)
        if (n != without)
            give((weft_supervise_event){.kind = WEFT_SAW_BEAT, .node = n, .beat = {.epoch = m->epoch}});
}

static void a_silent_node_is_left_and_a_spare_takes_its_place(void **state) {
    (void)state;
    weft_supervise_rules rules = plain;
    rules.spares = 1;
    begin(&rules, NULL, 1);
    assert_int_equal(m->node[3].cell, WEFT_SUPERVISE_NO_CELL);
    for (int i = 0; i < 8 && !did(WEFT_DO_KILL); i++) {
        for (uint32_t n = 0; n < 4; n++)
            if (n != 1)
                give((weft_supervise_event){
                    .kind = WEFT_SAW_BEAT, .node = n, .beat = {.live = n < 3, .epoch = m->epoch}});
        now += second / 2;
        give((weft_supervise_event){.kind = WEFT_SAW_TICK});
    }
    repaired(1);
    assert_int_equal(m->cell[0].phase, WEFT_CELL_RUN);
    assert_int_equal(m->cell[0].launch, 2);
    assert_int_equal(m->node[1].cell, WEFT_SUPERVISE_NO_CELL);
    assert_int_equal(m->node[3].cell, 0);
    assert_int_equal(m->node[1].blamed, 1);
}

static void a_node_that_was_only_slow_stays(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    for (int i = 0; i < 8 && !did(WEFT_DO_KILL); i++) {
        for (uint32_t n = 0; n < 3; n++)
            give((weft_supervise_event){
                .kind = WEFT_SAW_BEAT, .node = n, .beat = {.live = 1, .epoch = m->epoch}});
        now += second / 2;
        give((weft_supervise_event){.kind = WEFT_SAW_TICK});
    }
    give((weft_supervise_event){.kind = WEFT_SAW_BEAT, .node = 3, .beat = {.live = 1, .epoch = m->epoch}});
    repaired(99);
    assert_int_equal(m->cell[0].phase, WEFT_CELL_RUN);
    assert_int_equal(m->cell[0].nodes, 4);
    assert_int_equal(m->node[3].blamed, 0);
}

static void fewer_nodes_only_if_the_program_can(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    for (int i = 0; i < 8 && !did(WEFT_DO_KILL); i++) {
        for (uint32_t n = 1; n < 4; n++)
            give((weft_supervise_event){
                .kind = WEFT_SAW_BEAT, .node = n, .beat = {.live = 1, .epoch = m->epoch}});
        now += second / 2;
        give((weft_supervise_event){.kind = WEFT_SAW_TICK});
    }
    repaired(0);
    assert_true(did(WEFT_DO_ASK));
    assert_int_equal(out.item[did(WEFT_DO_ASK) - 1].nodes, 3);
    give((weft_supervise_event){.kind = WEFT_SAW_LAYOUT, .cell = 0, .nodes = 3, .ok = 0});
    assert_int_equal(out.item[did(WEFT_DO_ASK) - 1].nodes, 2);
    give((weft_supervise_event){.kind = WEFT_SAW_LAYOUT, .cell = 0, .nodes = 2, .ok = 1});
    assert_int_equal(out.item[did(WEFT_DO_LAUNCH) - 1].nodes, 2);
}

static void a_supervisor_that_slept_blames_nobody(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    beats(1, 5, 3, 100 * second); /* this process was not run for long: it has not heard anybody either */
    give((weft_supervise_event){.kind = WEFT_SAW_TICK});
    assert_false(did(WEFT_DO_KILL));
    beats(1, 6, 3, 0);
    for (int i = 0; i < 8; i++, now += second / 2) give((weft_supervise_event){.kind = WEFT_SAW_TICK});
    assert_int_equal(m->cell[0].phase, WEFT_CELL_KILL); /* the control: awake, it does */
}

static void a_start_that_hangs_is_begun_again(void **state) {
    (void)state;
    for (int speaks = 0; speaks < 2; speaks++) {
        weft_supervise_rules rules = plain;
        rules.speaks = speaks;
        rules.start_ns = 120 * second;
        begin(&rules, NULL, 1);
        int waited = 0;
        while (waited < 300 && m->cell[0].phase == WEFT_CELL_RUN) {
            beats(0, 0, 0, second / 2);
            waited++;
        }
        assert_int_equal(waited < 300, speaks); /* a program that never speaks is left alone */
        assert_in_range(waited, 240, 300);
        if (!speaks) continue;
        repaired(99);
        assert_int_equal(m->cell[0].launch, 2);
        beats(1, 5, 3, second); /* now it is known how long it takes */
        exits(137);
        beats(0, 0, 0, 0);
        assert_int_equal(m->cell[0].launch, 3);
        for (waited = 0; waited < 300 && m->cell[0].phase == WEFT_CELL_RUN; waited++)
            beats(0, 0, 0, second / 2);
        assert_in_range(waited, 60, 80);
    }
}

static void relaunches_without_a_checkpoint_are_counted(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    for (int i = 0; i < WEFT_SUPERVISE_RELAUNCHES; i++) {
        exits(137);
        assert_false(did(WEFT_DO_LAUNCH));
        beats(0, 0, 0, 0);
        assert_true(did(WEFT_DO_LAUNCH));
    }
    exits(137);
    beats(0, 0, 0, 0);
    assert_int_equal(goes_on(2), 75);
}

static void an_end_at_an_unknown_submission_is_looked_up(void **state) {
    (void)state;
    begin(&plain, NULL, 1);
    exits(85);
    give((weft_supervise_event){.kind = WEFT_SAW_WROTE, .ok = 1});
    give((weft_supervise_event){.kind = WEFT_SAW_SUBMITTED, .ok = 0});
    assert_true(did(WEFT_DO_FIND));
    give((weft_supervise_event){.kind = WEFT_SAW_FOUND, .ok = 1, .job = 5});
    assert_int_equal(m->record.next_job, 5);
    /* a life that finds the intent of the one before looks first, too */
    const weft_supervise_record r = {.generation = 2, .job = 9, .intent = 1};
    weft_supervise_begin(m, &plain, now);
    give((weft_supervise_event){.kind = WEFT_SAW_LOCK, .found = 1, .job = 9, .record = r});
    assert_true(did(WEFT_DO_FIND));
    assert_false(did(WEFT_DO_WRITE));
    give((weft_supervise_event){.kind = WEFT_SAW_FOUND, .ok = 1, .job = 0});
    assert_int_equal(m->record.generation, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_decide_what_follows),
        cmocka_unit_test(a_chain_without_new_checkpoint_ends_with_93),
        cmocka_unit_test(three_faults_of_the_site_end_a_chain),
        cmocka_unit_test(the_cap_holds_whatever_the_environment_says),
        cmocka_unit_test(it_stops_before_the_limit_by_what_saving_takes),
        cmocka_unit_test(who_asks_and_who_cancels_gets_no_successor),
        cmocka_unit_test(a_silent_node_is_left_and_a_spare_takes_its_place),
        cmocka_unit_test(a_node_that_was_only_slow_stays),
        cmocka_unit_test(fewer_nodes_only_if_the_program_can),
        cmocka_unit_test(a_supervisor_that_slept_blames_nobody),
        cmocka_unit_test(a_start_that_hangs_is_begun_again),
        cmocka_unit_test(relaunches_without_a_checkpoint_are_counted),
        cmocka_unit_test(an_end_at_an_unknown_submission_is_looked_up),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
