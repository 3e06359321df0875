/* See wan_flow.h. What is on its way or in a buffer does not count: SIOCOUTQ says how much of what was written the other
 * side has not yet acknowledged. */
#include "benchmarks/wan_flow.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/harness.h"

#define PIECE (256 << 10)

static unsigned char piece[PIECE];

static void *serve(void *arg) {
    static unsigned char sink[PIECE];
    struct pollfd p[BENCH_FLOWS + 1] = {{.fd = (int)(intptr_t)arg, .events = POLLIN}};
    int n = 1;
    for (;;) {
        if (poll(p, (nfds_t)n, -1) < 0) continue;
        for (int i = n - 1; i > 0; i--) {
            if (!p[i].revents || recv(p[i].fd, sink, sizeof sink, 0) > 0) continue;
            close(p[i].fd);
            p[i] = p[--n];
        }
        if (!p[0].revents) continue;
        const int fd = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && n <= BENCH_FLOWS)
            p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
        else if (fd >= 0)
            close(fd);
    }
    return NULL;
}

void bench_flow_serve(uint16_t port) {
    const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    pthread_t thread;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (const struct sockaddr *)&at, sizeof at) != 0 || listen(fd, BENCH_FLOWS) != 0)
        bench_check(weft_fail_errno(errno, "listen on port %d", port));
    if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) != 0)
        bench_check(weft_fail(WEFT_ERR_NOMEM, "no thread"));
    pthread_detach(thread);
}

static int dial(const char *host, uint16_t port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    const struct linger drop = {1, 0}; /* what was not sent by the end is of no use */
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
        bench_check(weft_fail(WEFT_ERR_ARG, "%s: not an IPv4 address", host));
    if (fd < 0 || connect(fd, (const struct sockaddr *)&at, sizeof at) != 0)
        bench_check(weft_fail_errno(errno, "connect to %s:%d", host, port));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
    return fd;
}

static uint64_t acknowledged(const struct pollfd *p, int n, uint64_t written) {
    for (int i = 0; i < n; i++) {
        int waiting = 0;
        if (ioctl(p[i].fd, SIOCOUTQ, &waiting) == 0 && waiting > 0) written -= (uint64_t)waiting;
    }
    return written;
}

bench_carried bench_flow_send(const char *host, uint16_t port, int n, double seconds) {
    struct pollfd p[BENCH_FLOWS];
    bench_carried c = {.seconds = seconds};
    uint64_t written = 0;
    for (int i = 0; i < n; i++) p[i] = (struct pollfd){.fd = dial(host, port), .events = POLLOUT};
    const double from = weft_now();
    for (double t = 0; t < seconds; t = weft_now() - from) {
        if (!c.half && t >= seconds / 2) c.half = acknowledged(p, n, written);
        if (poll(p, (nfds_t)n, 10) <= 0) continue;
        for (int i = 0; i < n; i++) {
            if (!p[i].revents) continue;
            const ssize_t w = send(p[i].fd, piece, sizeof piece, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (w < 0 && errno != EAGAIN) bench_check(weft_fail_errno(errno, "send"));
            if (w > 0) written += (uint64_t)w;
        }
    }
    c.all = acknowledged(p, n, written);
    for (int i = 0; i < n; i++) close(p[i].fd);
    return c;
}
