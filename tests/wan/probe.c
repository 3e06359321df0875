/* See probe.h. The emulator runs in a child, as in wanem; each packet carries its number, its time of sending and bytes that
 * follow from the number, so that every kind of damage shows. */
#include "tests/wan/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define PORT      9000
#define BUFFER    (16 << 20)
#define QUIET_MS  400
#define MOST_SIZE 9000

static pid_t emulate(wan_net *net, const wan_shape *shape) {
    static wan_forward f;
    const pid_t pid = fork();
    if (pid != 0) return pid;
    const struct sched_param p = {.sched_priority = 20};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)!sched_setscheduler(0, SCHED_FIFO, &p);
    if (wan_forward_open(&f, net, 7) != WEFT_OK) _exit(1);
    f.link[0][1].shape = f.link[1][0].shape = *shape;
    for (;;)
        if (wan_forward_run(&f, weft_now_ns() + 1000000000u) < 0) _exit(1);
}

static int receiver(const wan_net *net, int site) {
    const int fd = wan_net_socket(net, site, SOCK_DGRAM | SOCK_NONBLOCK), on = 1, buffer = BUFFER;
    const struct sockaddr_in at = {AF_INET, htons(PORT), {htonl(wan_net_address(site))}, {0}};
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) != 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    if (bind(fd, (const struct sockaddr *)&at, sizeof at) == 0) return fd;
    close(fd);
    return -1;
}

static double wall(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static unsigned char filler(int number, int at) {
    return (unsigned char)(number * 31 + at * 7);
}

static void fill(unsigned char *p, int number, int n) {
    const double now = wall();
    for (int i = 0; i < n; i++) p[i] = filler(number, i);
    memcpy(p, &number, sizeof number);
    memcpy(p + 4, &now, sizeof now);
}

static void count(probe_run *r, const unsigned char *p, ssize_t n, double at, int *latest) {
    int number = 0, same = 1;
    double sent = 0;
    memcpy(&number, p, sizeof number);
    memcpy(&sent, p + 4, sizeof sent);
    for (int i = 12; i < n; i++) same &= p[i] == filler(number, i);
    if (!same || number < 0 || number >= r->sent || !(sent > at - 60 && sent < at + 1)) {
        r->strange++;
        return;
    }
    if (r->arrived++ == 0) r->first_s = at;
    r->last_s = at;
    r->overtaken += number < *latest;
    if (number > *latest) *latest = number;
    if (r->copies[number]++ == 0) r->delay_ms[number] = (at - sent) * 1e3;
}

/* Reads what is there; the number of packets. */
static int drain(probe_run *r, int fd, int *latest) {
    unsigned char data[MOST_SIZE];
    union {
        struct cmsghdr h;
        char space[128];
    } control;
    for (int n = 0;; n++) {
        struct iovec v = {data, sizeof data};
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        struct timespec t = {0};
        const ssize_t got = recvmsg(fd, &m, 0);
        if (got < 12) return n;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS)
                memcpy(&t, CMSG_DATA(c), sizeof t);
        count(r, data, got, (double)t.tv_sec + (double)t.tv_nsec * 1e-9, latest);
    }
}

static weft_status exchange(probe_run *r, int out, int in, int to, int n, int bytes, int group) {
    const struct sockaddr_in at = {AF_INET, htons(PORT), {htonl(wan_net_address(to))}, {0}};
    unsigned char data[MOST_SIZE];
    const size_t size = (size_t)(bytes - PROBE_WIRE);
    int latest = -1;
    while (r->sent < n) {
        fill(data, r->sent, (int)size);
        if (sendto(out, data, size, 0, (const struct sockaddr *)&at, sizeof at) != (ssize_t)size)
            return weft_fail_errno(errno, "send");
        if (++r->sent % group) continue;
        usleep(1000);
        drain(r, in, &latest);
    }
    struct pollfd p = {.fd = in, .events = POLLIN};
    while (r->arrived + r->strange < n && poll(&p, 1, QUIET_MS) == 1) drain(r, in, &latest);
    while (poll(&p, 1, 20) == 1) drain(r, in, &latest); /* second copies */
    return WEFT_OK;
}

weft_status probe(wan_net *net, const wan_shape *shape, int n, int bytes, int group, int back, probe_run *r) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < PROBE_MOST; i++) r->delay_ms[i] = -1;
    const int out = wan_net_socket(net, back, SOCK_DGRAM), in = receiver(net, !back);
    if (out < 0 || in < 0) return weft_fail_errno(errno, "socket");
    const pid_t pid = emulate(net, shape);
    weft_status s = pid < 0 ? weft_fail_errno(errno, "fork") : exchange(r, out, in, !back, n, bytes, group);
    if (pid > 0) {
        int status = 0;
        if (kill(pid, SIGKILL) != 0 || waitpid(pid, &status, 0) < 0 || !WIFSIGNALED(status))
            s = weft_fail(WEFT_ERR_STATE, "the emulator had ended");
    }
    close(out);
    close(in);
    return s;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_delay(const probe_run *r) {
    static double d[PROBE_MOST];
    int n = 0;
    for (int i = 0; i < r->sent; i++)
        if (r->copies[i]) d[n++] = r->delay_ms[i];
    qsort(d, (size_t)n, sizeof *d, by_value);
    return n ? d[n / 2] : -1;
}

double probe_rate(const probe_run *r, int bytes) {
    const double s = r->last_s - r->first_s;
    return s > 0 ? (r->arrived - 1) * 8.0 * bytes / s : 0;
}
