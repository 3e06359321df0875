/* Checked allocation, the planned arena, and the fault counter that drives both. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/fault.h"
#include "base/mem.h"
#include "tests/support/scratch.h"

static int live;

static weft_status take(void *arg, size_t bytes, void **p) {
    if (*(int *)arg) return weft_fail(WEFT_ERR_NOMEM, "no");
    *p = aligned_alloc(64, bytes);
    live++;
    return *p ? WEFT_OK : WEFT_ERR_NOMEM;
}

static void give(void *arg, void *p) {
    (void)arg;
    free(p);
    live--;
}

static void sizes_that_do_not_fit_are_refused(void **state) {
    (void)state;
    assert_null(weft_calloc(SIZE_MAX / 2, 3));
    assert_non_null(strstr(weft_last_error(), "out of memory"));
    char *p = weft_strdup("kept");
    assert_null(weft_reallocarray(p, SIZE_MAX / 2, 3));
    assert_string_equal(p, "kept");
    p = weft_reallocarray(p, 100, 1);
    assert_string_equal(p, "kept");
    free(p);
    p = weft_calloc(0, 0); /* never NULL for no bytes: NULL means exhaustion */
    assert_non_null(p);
    free(p);
}

static void the_nth_check_fails_and_only_that(void **state) {
    (void)state;
    weft_fault_arm(WEFT_FAULT_ALLOC, 3);
    void *p[4];
    for (int i = 0; i < 4; i++) p[i] = weft_calloc(1, 1);
    assert_non_null(p[0]);
    assert_non_null(p[1]);
    assert_null(p[2]);
    assert_non_null(p[3]);
    weft_fault_arm(WEFT_FAULT_ALLOC, 1);
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    assert_false(weft_fault_hit(WEFT_FAULT_ALLOC));
    for (int i = 0; i < 4; i++) free(p[i]);
}

static _Atomic int hits;

static void *hammer(void *arg) {
    for (int i = 0; i < 10000; i++)
        if (weft_fault_hit(WEFT_FAULT_SEND)) atomic_fetch_add(&hits, 1);
    return arg;
}

static void one_thread_of_many_is_hit(void **state) {
    pthread_t t[4];
    (void)state;
    weft_fault_arm(WEFT_FAULT_SEND, 20000);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, hammer, NULL), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_int_equal(hits, 1);
}

static void an_arena_is_planned_then_committed_once(void **state) {
    weft_arena a = {0};
    int refuse = 0;
    (void)state;
    size_t x = weft_arena_reserve(&a, "weights", 100), y = weft_arena_reserve(&a, "moments", 1);
    size_t z = weft_arena_reserve(&a, "weights", 64);
    assert_int_equal(x, 0);
    assert_int_equal(y, 128);
    assert_int_equal(z, 192);
    assert_int_equal(a.bytes, 256);
    assert_int_equal(a.nparts, 2);
    assert_int_equal(a.part[0].bytes, 192);
    assert_int_equal(a.part[1].bytes, 64);
    assert_ok(weft_arena_commit(&a, take, give, &refuse));
    assert_int_equal((uintptr_t)weft_arena_at(&a, y) % 64, 0);
    memset(weft_arena_at(&a, 0), 1, a.bytes);
    assert_error(weft_arena_commit(&a, take, give, &refuse), WEFT_ERR_STATE, "twice");
    weft_arena_destroy(&a);
    assert_int_equal(live, 0);
    assert_null(a.base);
}

static void a_plan_that_cannot_be_is_refused_at_commit(void **state) {
    weft_arena a = {0};
    int refuse = 1;
    (void)state;
    weft_arena_reserve(&a, "part", 10);
    assert_error(weft_arena_commit(&a, take, give, &refuse), WEFT_ERR_NOMEM, "the plan of 64 bytes: no");
    weft_arena_reserve(&a, "part", SIZE_MAX - 3);
    refuse = 0;
    assert_error(weft_arena_commit(&a, take, give, &refuse), WEFT_ERR_NOMEM, "address space");
    assert_int_equal(weft_arena_reserve(&a, "part", 1), 0); /* stays refused */
    assert_error(weft_arena_commit(&a, take, give, &refuse), WEFT_ERR_NOMEM, "address space");
    weft_arena_destroy(&a);
    for (int i = 0; i < 4; i++)
        weft_arena_reserve(&a, "part", SIZE_MAX / 4 - 64); /* only their sum is too large */
    weft_arena_reserve(&a, "part", SIZE_MAX / 4 - 64);
    assert_error(weft_arena_commit(&a, take, give, &refuse), WEFT_ERR_NOMEM, "address space");
    weft_arena_destroy(&a);
    assert_int_equal(live, 0);
}

static void more_parts_than_places_count_with_the_last(void **state) {
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i",
                                        "j", "k", "l", "m", "n", "o", "p", "q", "r"};
    weft_arena a = {0};
    size_t sum = 0;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) weft_arena_reserve(&a, names[i], 64);
    assert_int_equal(a.nparts, WEFT_ARENA_PARTS);
    for (int i = 0; i < a.nparts; i++) sum += a.part[i].bytes;
    assert_int_equal(sum, a.bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(the_nth_check_fails_and_only_that),
        cmocka_unit_test(one_thread_of_many_is_hit),
        cmocka_unit_test(an_arena_is_planned_then_committed_once),
        cmocka_unit_test(a_plan_that_cannot_be_is_refused_at_commit),
        cmocka_unit_test(more_parts_than_places_count_with_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
