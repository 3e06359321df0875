/* The launch machine, rule by rule (fuzz_launch.c has it under faults). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/launch/launch_machine.h"
#include "runtime/launch/launch_state.h"

#define S INT64_C(1000000000)

static launch_machine m;
static launch_actions a;
static int64_t now;

static void begin(size_t n, int home, int64_t least) {
    launch_rules r = {.nsites = n,
                      .home = home,
                      .min_sites = least,
                      .window_ns = 600 * S,
                      .settle_ns = 15 * S,
                      .grace_ns = 60 * S,
                      .retry_ns = 2 * S};
    for (size_t i = 0; i < n; i++) r.poll_ns[i] = 10 * S;
    now = 100 * S;
    launch_machine_init(&m, &r, NULL, now);
}

static void event(const launch_event *e) {
    launch_machine_step(&m, e, now, &a);
    for (size_t i = 0; i < a.n; i++) /* saves succeed at once */
        if (a.item[i].kind == LAUNCH_DO_SAVE) {
            launch_actions before = a;
            event(&(launch_event){.kind = LAUNCH_EV_SAVED, .id = before.item[i].id, .ok = 1});
            for (size_t k = 0; k < a.n && before.n < LAUNCH_ACTIONS; k++) before.item[before.n++] = a.item[k];
            a = before;
        }
}

static void tick(int64_t seconds) {
    now += seconds * S;
    event(&(launch_event){.kind = LAUNCH_EV_TICK});
}

/* The operation that is on its way at a site. */
static launch_op op(size_t site) {
    return m.site[site].op;
}

static void answer(size_t site, launch_answer how, uint64_t job) {
    event(&(launch_event){.kind = LAUNCH_EV_ANSWER,
                          .site = site,
                          .id = m.site[site].op_id,
                          .answer = how,
                          .job = job,
                          .text = "because"});
}

static void list(size_t site, const slurm_job *jobs, size_t n, const launch_status *st, uint32_t address) {
    assert_int_equal(op(site), LAUNCH_OP_LIST);
    event(&(launch_event){.kind = LAUNCH_EV_ANSWER,
                          .site = site,
                          .id = m.site[site].op_id,
                          .jobs = jobs,
                          .njobs = n,
                          .status = st,
                          .address = address});
}

static void submit(size_t site, uint64_t job) {
    list(site, NULL, 0, NULL, 0);
    assert_int_equal(op(site), LAUNCH_OP_PREPARE);
    answer(site, LAUNCH_DONE, 0);
    assert_int_equal(op(site), LAUNCH_OP_SUBMIT);
    assert_true(m.site[site].record.intent);
    answer(site, LAUNCH_DONE, job);
    assert_int_equal(m.site[site].phase, LAUNCH_QUEUED);
}

static void one_site_to_its_end(void **state) {
    slurm_job j = {.id = 7, .state = SLURM_RUNNING};
    launch_status st = {.there = 1, .job = 7, .state = LAUNCH_JOB_RUN};
    (void)state;
    begin(1, -1, 1);
    tick(0);
    submit(0, 7);
    tick(10);
    list(0, &j, 1, &st, 0);
    assert_int_equal(m.site[0].phase, LAUNCH_UP);
    j.state = SLURM_DONE;
    st.state = LAUNCH_JOB_END;
    st.has_exit = 1;
    tick(10);
    list(0, &j, 1, &st, 0);
    assert_false(m.ended); /* once is not enough */
    tick(10);
    list(0, &j, 1, &st, 0);
    assert_true(m.ended);
    assert_int_equal(m.code, 0);
}

/* Two weft launch at once, or a submission later than any patience: of two jobs of a generation one stays. */
static void duplicates_are_canceled(void **state) {
    const slurm_job j[] = {{.id = 8, .state = SLURM_PENDING},
                           {.id = 7, .state = SLURM_PENDING},
                           {.id = 9, .state = SLURM_PENDING, .generation = 1}};
    (void)state;
    begin(1, -1, 1);
    tick(0);
    list(0, j, 3, NULL, 0);
    assert_int_equal(op(0), LAUNCH_OP_CANCEL);
    assert_int_equal(a.item[a.n - 1].job, 8);
    answer(0, LAUNCH_DONE, 0);
    assert_int_not_equal(op(0), LAUNCH_OP_CANCEL); /* 9 is a successor */
    assert_int_equal(m.site[0].record.job, 7);
    /* the one that runs stays, even if it is younger */
    const slurm_job k[] = {{.id = 7, .state = SLURM_PENDING}, {.id = 8, .state = SLURM_RUNNING}};
    begin(1, -1, 1);
    tick(0);
    list(0, k, 2, NULL, 0);
    assert_int_equal(a.item[a.n - 1].job, 7);
}

static void a_refused_job_ends_its_site(void **state) {
    (void)state;
    begin(2, 0, 1);
    tick(0);
    list(1, NULL, 0, NULL, 0);
    answer(1, LAUNCH_DONE, 0);
    answer(1, LAUNCH_REFUSED, 0);
    assert_int_equal(m.site[1].phase, LAUNCH_ENDED);
    assert_int_equal(m.site[1].record.code, 69);
    assert_string_equal(m.site[1].why, "because");
    assert_false(m.ended);
}

static void too_few_within_the_window(void **state) {
    slurm_job j = {.id = 7, .state = SLURM_RUNNING};
    launch_status st = {.there = 1, .job = 7, .state = LAUNCH_JOB_RUN};
    (void)state;
    for (int wait = 0; wait < 2; wait++) {
        begin(2, 0, 2);
        m.rules.on_window = wait ? LAUNCH_WAIT : LAUNCH_CANCEL;
        tick(0);
        submit(0, 7);
        submit(1, 9);
        tick(10);
        list(0, &j, 1, &st, 1);
        const slurm_job q = {.id = 9, .state = SLURM_PENDING};
        list(1, &q, 1, NULL, 0);
        tick(599);
        assert_int_equal(m.site[0].stop, 0);
        tick(2);
        assert_int_equal(m.site[0].stop, !wait);
        assert_int_equal(m.site[1].stop, !wait);
        assert_int_equal(m.code, wait ? 0 : 69);
    }
}

static void the_hub_is_carried_again_when_it_moves(void **state) {
    slurm_job j = {.id = 7, .state = SLURM_RUNNING}, k = {.id = 9, .state = SLURM_RUNNING};
    (void)state;
    begin(2, 0, 1);
    tick(0);
    submit(0, 7);
    submit(1, 9);
    for (uint32_t version = 1; version < 4; version++) {
        tick(10);
        list(1, &k, 1, NULL, 0);
        list(0, &j, 1, NULL, version);
        tick(0);
        assert_int_equal(op(1), LAUNCH_OP_CARRY);
        if (version == 2) { /* not heard: again */
            answer(1, LAUNCH_UNKNOWN, 0);
            tick(10);
            list(0, &j, 1, NULL, version);
            list(1, &k, 1, NULL, 0);
            assert_int_equal(op(1), LAUNCH_OP_CARRY);
        }
        answer(1, LAUNCH_DONE, 0);
        tick(0);
        assert_int_not_equal(op(1), LAUNCH_OP_CARRY);
    }
}

static void a_requeued_job_may_start_soon(void **state) {
    slurm_job j = {.id = 7, .state = SLURM_PENDING};
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        begin(1, -1, 1);
        m.rules.chain = mode ? LAUNCH_REQUEUE : LAUNCH_SUCCESSOR;
        strcpy(j.reason, "BeginTime");
        tick(0);
        list(0, &j, 1, NULL, 0);
        assert_int_equal(op(0), LAUNCH_NO_OP); /* its last life may have ended a moment ago */
        tick(10);
        list(0, &j, 1, NULL, 0);
        assert_int_equal(op(0), mode ? LAUNCH_OP_NOW : LAUNCH_NO_OP);
        if (!mode) continue;
        answer(0, LAUNCH_DONE, 0);
        tick(10);
        j.state = SLURM_RUNNING;
        list(0, &j, 1, NULL, 0);
        tick(10);
        j.state = SLURM_PENDING; /* requeued once more: it is as new */
        list(0, &j, 1, NULL, 0);
        assert_int_equal(op(0), LAUNCH_NO_OP);
    }
}

static void observers_submit_nothing(void **state) {
    launch_status st = {.there = 1, .job = 7, .state = LAUNCH_JOB_END, .has_exit = 1, .exit = 85};
    (void)state;
    begin(2, 0, 1);
    m.rules.observe = 1;
    tick(0);
    list(0, NULL, 0, &st, 0);
    list(1, NULL, 0, NULL, 0);
    assert_true(m.ended);
    assert_int_equal(m.code, 85);
    assert_int_equal(m.site[1].record.code, -1);
}

static void what_ended_well_is_not_begun_again(void **state) {
    launch_status st = {.there = 1, .job = 7, .state = LAUNCH_JOB_END, .has_exit = 1, .generation = 4};
    (void)state;
    for (int again = 0; again < 2; again++) {
        begin(1, -1, 1);
        m.rules.again = again;
        tick(0);
        list(0, NULL, 0, &st, 0);
        assert_int_equal(m.ended, !again);
        if (!again) continue;
        answer(0, LAUNCH_DONE, 0);
        assert_int_equal(m.site[0].record.generation, 5); /* as its supervisor will call it */
    }
}

static void a_job_that_died_in_silence_is_submitted_anew_three_times(void **state) {
    (void)state;
    begin(1, -1, 1);
    tick(0);
    submit(0, 1);
    for (uint64_t life = 1; life <= 4; life++) {
        slurm_job j = {.id = life, .state = SLURM_NODE};
        tick(10);
        list(0, &j, 1, NULL, 0);
        tick(10);
        list(0, &j, 1, NULL, 0);
        if (life == 4) break;
        answer(0, LAUNCH_DONE, 0);
        assert_int_equal(op(0), LAUNCH_OP_SUBMIT);
        answer(0, LAUNCH_DONE, life + 1);
    }
    assert_true(m.ended);
    assert_int_equal(m.code, 1);
}

/* A supervisor counts on from the job before it. */
static void hours_count_once(void **state) {
    launch_costs c = {0};
    (void)state;
    launch_costs_take(&c, &(launch_status){.there = 1, .job = 1, .node_seconds = 100, .core_seconds = 200});
    launch_costs_take(&c, &(launch_status){.there = 1, .job = 2, .node_seconds = 130, .core_seconds = 260});
    launch_costs_take(&c, &(launch_status){.there = 1, .job = 2, .node_seconds = 150, .core_seconds = 300});
    assert_true(c.node + c.job_node == 150 && c.core + c.job_core == 300);
    /* the directory was removed: it counts from zero */
    launch_costs_take(&c, &(launch_status){.there = 1, .job = 3, .node_seconds = 10, .core_seconds = 20});
    assert_true(c.node + c.job_node == 160 && c.core + c.job_core == 320);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_site_to_its_end),
        cmocka_unit_test(duplicates_are_canceled),
        cmocka_unit_test(a_refused_job_ends_its_site),
        cmocka_unit_test(too_few_within_the_window),
        cmocka_unit_test(the_hub_is_carried_again_when_it_moves),
        cmocka_unit_test(a_requeued_job_may_start_soon),
        cmocka_unit_test(observers_submit_nothing),
        cmocka_unit_test(what_ended_well_is_not_begun_again),
        cmocka_unit_test(a_job_that_died_in_silence_is_submitted_anew_three_times),
        cmocka_unit_test(hours_count_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
