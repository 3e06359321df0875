/* The meter of a GPU, on a library that stands in for NVIDIA's (tests/runtime/health/fake_nvml.c): the right GPU, the units,
 * the energy since it was opened, and what a GPU does not tell. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/status.h"
#include "runtime/meter/meter.h"

static weft_meter *open_meter(const char *pci, unsigned index) {
    weft_meter *m = NULL;
    assert_int_equal(weft_meter_open(pci, index, &m), WEFT_OK);
    return m;
}

static void figures_are_those_of_the_gpu(void **state) {
    (void)state;
    weft_meter_reading r;
    setenv("FAKE_GPUS", "3", 1);
    weft_meter *m = open_meter("0000:02:00.0", 0); /* the bus counts, not the number */
    weft_meter_read(m, &r);
    assert_true(r.watts == 700 && r.sm_hz == 1980e6 && r.memory_hz == 3201e6 && r.celsius == 93);
    assert_true(r.joules == 7);
    weft_meter_read(m, &r);
    assert_true(r.joules == 14);
    weft_meter_close(m);
    m = open_meter("0000:ff:00.0", 1); /* not known to the library: by number */
    weft_meter_read(m, &r);
    assert_true(r.watts == 600);
    weft_meter_close(m);
    m = open_meter(NULL, 0);
    weft_meter_read(m, &r);
    assert_true(r.watts == 500);
    weft_meter_close(m);
}

static void energy_without_a_counter_is_that_of_the_power(void **state) {
    (void)state;
    weft_meter_reading r;
    setenv("FAKE_GPU_FAULT", "uncounted", 1);
    setenv("FAKE_GPU_WATTS", "100", 1);
    weft_meter *m = open_meter(NULL, 0);
    weft_meter_read(m, &r);
    assert_true(r.joules == 0);
    const double t0 = weft_now();
    usleep(50000);
    setenv("FAKE_GPU_WATTS", "300", 1);
    weft_meter_read(m, &r);
    const double most = (weft_now() - t0) * 200 + 20; /* the first reading was a little before t0 */
    assert_true(r.joules >= 0.05 * 200 && r.joules <= most);
    weft_meter_close(m);
    unsetenv("FAKE_GPU_WATTS");
    unsetenv("FAKE_GPU_FAULT");
}

static void what_it_does_not_tell_is_nan(void **state) {
    (void)state;
    weft_meter_reading r;
    setenv("FAKE_GPU_FAULT", "blind", 1);
    weft_meter *m = open_meter(NULL, 0);
    weft_meter_read(m, &r);
    assert_true(isnan(r.watts) && isnan(r.joules) && isnan(r.sm_hz) && isnan(r.memory_hz) &&
                isnan(r.celsius));
    weft_meter_close(m);
    unsetenv("FAKE_GPU_FAULT");
}

static void no_driver_is_an_error_with_a_reason(void **state) {
    (void)state;
    weft_meter *m;
    setenv("FAKE_GPU_FAULT", "driver", 1);
    assert_int_equal(weft_meter_open(NULL, 0, &m), WEFT_ERR_DEVICE);
    assert_null(m);
    assert_non_null(strstr(weft_last_error(), "driver does not answer"));
    setenv("FAKE_GPU_FAULT", "bus", 1);
    assert_int_equal(weft_meter_open(NULL, 2, &m), WEFT_ERR_DEVICE);
    assert_non_null(strstr(weft_last_error(), "GPU 2"));
    unsetenv("FAKE_GPU_FAULT");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_those_of_the_gpu),
        cmocka_unit_test(energy_without_a_counter_is_that_of_the_power),
        cmocka_unit_test(what_it_does_not_tell_is_nan),
        cmocka_unit_test(no_driver_is_an_error_with_a_reason),
    };
    return cmocka_run_group_tests_name("meter", tests, NULL, NULL);
}
