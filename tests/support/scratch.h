/* What tests share: cmocka, a directory of their own, a printed seed, errors that match a text. */
#ifndef WEFT_TESTS_SUPPORT_SCRATCH_H
#define WEFT_TESTS_SUPPORT_SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/status.h"

/* A fresh directory; NULL state on failure. Use as setup and teardown of a test: *state is its path. */
static inline int scratch_make(void **state) {
    const char *base = getenv("TMPDIR");
    char *path = malloc(4096);
    if (!path) return -1;
    snprintf(path, 4096, "%s/weft-test-XXXXXX", base && *base ? base : P_tmpdir);
    *state = mkdtemp(path);
    return *state ? 0 : -1;
}

static inline int scratch_remove(void **state) {
    weft_status s = weft_remove_tree(*state);
    free(*state);
    return s == WEFT_OK ? 0 : -1;
}

/* WEFT_TEST_SEED or the clock, printed so that a failure can be repeated. */
static inline uint64_t test_seed(void) {
    const char *e = getenv("WEFT_TEST_SEED");
    uint64_t seed = e ? strtoull(e, NULL, 10) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
    print_message("WEFT_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

#define assert_ok(expr)                                                                                      \
    do {                                                                                                     \
        if ((expr) != WEFT_OK) fail_msg("%s: %s", #expr, weft_last_error());                                 \
    } while (0)

/* expr returns `status`, and the error text contains `text`. */
#define assert_error(expr, status, text)                                                                     \
    do {                                                                                                     \
        weft_clear_error();                                                                                  \
        assert_string_equal(weft_status_name(expr), weft_status_name(status));                               \
        if (!strstr(weft_last_error(), text))                                                                \
            fail_msg("%s: no \"%s\" in \"%s\"", #expr, text, weft_last_error());                             \
    } while (0)

#endif
