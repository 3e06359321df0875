/* Sockets to listen on: the address is what was asked for, a port that is taken is told, and what is no address is refused. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/listen.h"
#include "tests/support/scratch.h"

static void a_port_is_found_and_then_taken(void **state) {
    int fd = -1, other = -1, port = 0, same = 0;
    char where[64];
    (void)state;
    assert_ok(weft_listen("127.0.0.1", 0, &fd, &port));
    assert_true(fd >= 0 && port > 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC && fcntl(fd, F_GETFL) & O_NONBLOCK);
    snprintf(where, sizeof where, "cannot listen on 127.0.0.1, port %d: ", port);
    assert_error(weft_listen("127.0.0.1", port, &other, &same), WEFT_ERR_CONFIG, where);
    assert_int_equal(other, -1);
    close(fd);
    snprintf(where, sizeof where, ":%d", port); /* control: free again, and no host is loopback */
    assert_ok(weft_listen_at(where, &fd, &same));
    assert_int_equal(same, port);
    close(fd);
}

static void what_is_no_address_is_refused(void **state) {
    static const char *const bad[] = {
        "",       "127.0.0.1",       "127.0.0.1:",  "127.0.0.1:x", "127.0.0.1:-1",
        "::1:80", "127.0.0.1:65536", "127.0.0.1:8 "};
    int fd = 0, port = 0;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_error(weft_listen_at(bad[i], &fd, &port), WEFT_ERR_CONFIG, "like 127.0.0.1:8080");
        assert_int_equal(fd, -1);
    }
    assert_error(weft_listen("localhost", 0, &fd, &port), WEFT_ERR_CONFIG,
                 "'localhost' is not a numeric address");
    assert_error(weft_listen_at("[127.0.0.x]:1", &fd, &port), WEFT_ERR_CONFIG, "not a numeric address");
}

static void version_six_is_written_in_brackets(void **state) {
    int fd = -1, port = 0;
    (void)state;
    const weft_status s = weft_listen_at("[::1]:0", &fd, &port);
    if (s < 0) skip(); /* a machine without it */
    assert_true(port > 0);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_port_is_found_and_then_taken),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(version_six_is_written_in_brackets),
    };
    return cmocka_run_group_tests_name("listen", tests, NULL, NULL);
}
