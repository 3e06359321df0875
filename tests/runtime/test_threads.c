/* Threads for a rank: its share of the cores it may use; who is bound too tightly is told how to mend it. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/train/threads.h"

static void threads_are_a_share_of_the_cores(void **state) {
    int cores = weft_allowed_cores();
    (void)state;
    assert_true(cores >= 1 && cores <= sysconf(_SC_NPROCESSORS_ONLN));
    assert_int_equal(weft_default_threads(1), cores);
    assert_int_equal(weft_default_threads(2), cores > 1 ? cores / 2 : 1);
    assert_int_equal(weft_default_threads(1000000), 1);
}

static void a_bound_rank_is_noticed(void **state) {
    cpu_set_t before, one;
    char text[256] = "";
    int cpu = 0;
    (void)state;
    if (sched_getaffinity(0, sizeof before, &before) != 0) skip();
    if (CPU_COUNT(&before) == sysconf(_SC_NPROCESSORS_ONLN))
        assert_int_equal(weft_misbound(1000, 10, text, 256), 0);
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2) skip();
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) skip();
    int cores = weft_allowed_cores(), threads = weft_default_threads(1),
        alone = weft_misbound(1, 1, text, 256);
    int many = weft_misbound(4, 1, text, sizeof text), named = strstr(text, "--map-by slot:PE=4") != NULL;
    int shared = weft_misbound(1, 2, text, sizeof text), none = strstr(text, "--bind-to none") != NULL;
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(cores, 1);
    assert_int_equal(threads, 1);
    assert_int_equal(alone, 0);
    assert_true(many && named && shared && none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_are_a_share_of_the_cores),
        cmocka_unit_test(a_bound_rank_is_noticed),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
