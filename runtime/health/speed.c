/* Speeds that only a comparison with the node's class can judge: memory bandwidth (the triad of STREAM: McCalpin, "Memory
 * bandwidth and machine balance in current high performance computers", IEEE TCCA 1995) and round trips of small
 * messages, through the loopback or to a peer's port (a refused connection is an answer, too). */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "runtime/health/health.h"

#define TRIAD_BYTES  (192u << 20) /* of the three arrays of all threads together, at least */
#define TRIAD_THREAD (24u << 20)  /* of one thread, at least */
#define TRIAD_TURNS  6
#define TRIAD_MOST_S 1.5
#define PINGS        100
#define PEER_PINGS   5
#define PING_WAIT_MS 1000

/* The threads wait at the gate until it is known how many could be started. */
typedef struct band {
    pthread_mutex_t gate;
    pthread_barrier_t together;
    size_t n; /* doubles of one array of one thread */
    int threads;
    double best; /* seconds; thread 0's, like stop */
    int failed, stop;
} band;

typedef struct member {
    band *b;
    int index;
    pthread_t thread;
} member;

__attribute__((noinline)) static void triad(double *restrict a, const double *restrict b,
                                            const double *restrict c, size_t n, double s) {
    for (size_t i = 0; i < n; i++) a[i] = b[i] + s * c[i];
}

static void turns(band *b, int index, double *a) {
    const double first = weft_now();
    for (int turn = 0; turn < TRIAD_TURNS; turn++) {
        double began = 0;
        if (index == 0) {
            b->stop = turn > 1 && weft_now() - first > TRIAD_MOST_S;
            began = weft_now();
        }
        pthread_barrier_wait(&b->together);
        if (b->stop) break; /* written before the barrier, and next after the one below */
        triad(a, a + b->n, a + 2 * b->n, b->n, 1.0 + turn);
        pthread_barrier_wait(&b->together);
        if (index == 0 && weft_now() - began < b->best) b->best = weft_now() - began;
    }
}

static void *run(void *arg) {
    member *m = arg;
    band *b = m->b;
    pthread_mutex_lock(&b->gate);
    pthread_mutex_unlock(&b->gate);
    double *a = malloc(3 * b->n * sizeof *a);
    if (!a) __atomic_store_n(&b->failed, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; a && i < 3 * b->n; i++) a[i] = (double)(i & 1023); /* its pages are near the thread */
    pthread_barrier_wait(&b->together);
    if (!__atomic_load_n(&b->failed, __ATOMIC_RELAXED)) turns(b, m->index, a); /* stored before the barrier */
    free(a);
    return NULL;
}

static void measure(band *b, member *m) {
    int started = 1;
    pthread_mutex_init(&b->gate, NULL);
    pthread_mutex_lock(&b->gate);
    for (; started < b->threads; started++) {
        m[started] = (member){.b = b, .index = started};
        if (pthread_create(&m[started].thread, NULL, run, &m[started])) break;
    }
    b->threads = started;
    pthread_barrier_init(&b->together, NULL, (unsigned)started);
    pthread_mutex_unlock(&b->gate);
    m[0] = (member){.b = b};
    run(&m[0]);
    for (int i = 1; i < started; i++) pthread_join(m[i].thread, NULL);
    pthread_barrier_destroy(&b->together);
    pthread_mutex_destroy(&b->gate);
}

void health_stream(health_run *h) {
    cpu_set_t set;
    char text[8192];
    if (sched_getaffinity(0, sizeof set, &set)) CPU_ZERO(&set);
    band b = {.threads = CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1, .best = INFINITY};
    size_t bytes = TRIAD_BYTES / (size_t)b.threads;
    if (bytes < TRIAD_THREAD) bytes = TRIAD_THREAD;
    const double room = health_slurp(h, text, sizeof text, "/proc/meminfo") > 0
                            ? 1024 * health_field(text, "MemAvailable", 0)
                            : 0;
    if (room > 0 && (double)bytes * b.threads > room / 4) {
        health_find(h, WEFT_CHECK_STREAM, WEFT_HEALTH_DEGRADED, "",
                    "memory bandwidth: too little memory is free to measure it (%.0f MB)", room / 1e6);
        return;
    }
    b.n = bytes / (3 * sizeof(double));
    member *m = weft_calloc((size_t)b.threads, sizeof *m);
    if (m) measure(&b, m);
    free(m);
    if (!isfinite(b.best)) {
        health_find(h, WEFT_CHECK_STREAM, WEFT_HEALTH_DEGRADED, "",
                    "memory bandwidth: no memory to measure it");
        return;
    }
    const double rate = 3.0 * (double)b.n * sizeof(double) * b.threads / b.best;
    health_number(health_find(h, WEFT_CHECK_STREAM, WEFT_HEALTH_OK, "",
                              "memory bandwidth: %.1f GB/s (triad, %d threads)", rate / 1e9, b.threads),
                  rate / 1e9, NAN, "GB/s", 1);
}

/* --- round trips ----------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int may(int fd, short events) {
    struct pollfd p = {.fd = fd, .events = events};
    int k;
    while ((k = poll(&p, 1, PING_WAIT_MS)) < 0 && errno == EINTR) continue;
    return k > 0;
}

/* A connection to ourselves: fd[0] and fd[1] are its ends. An errno, 0: done. */
static int connect_loopback(int fd[2]) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    const int one = 1;
    int e = 0;
    const int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    fd[1] = -1;
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (door < 0 || fd[0] < 0 || bind(door, (struct sockaddr *)&a, n) || listen(door, 1) ||
        getsockname(door, (struct sockaddr *)&a, &n) ||
        (connect(fd[0], (struct sockaddr *)&a, n) && errno != EINPROGRESS))
        e = errno ? errno : EIO;
    else if (!may(door, POLLIN) || (fd[1] = accept4(door, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0 ||
             !may(fd[0], POLLOUT))
        e = ETIMEDOUT;
    for (int i = 0; i < 2 && !e; i++) setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (door >= 0) close(door);
    return e;
}

static int send_over(int from, int to) {
    char c = 'p';
    if (send(from, &c, 1, MSG_NOSIGNAL) != 1) return errno;
    if (!may(to, POLLIN)) return ETIMEDOUT;
    return recv(to, &c, 1, 0) == 1 ? 0 : EIO;
}

/* The median of round trips, in seconds; an errno through *e. */
static double ping_loopback(int *e) {
    double took[PINGS];
    int fd[2];
    *e = connect_loopback(fd);
    for (int i = 0; i < PINGS && !*e; i++) {
        const double began = weft_now();
        *e = send_over(fd[0], fd[1]);
        if (!*e) *e = send_over(fd[1], fd[0]);
        took[i] = weft_now() - began;
    }
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0) close(fd[i]);
    if (*e) return NAN;
    qsort(took, PINGS, sizeof *took, by_value);
    return took[PINGS / 2];
}

/* The time until a port answers, be it with a refusal. */
static double knock(const struct addrinfo *a, int *e) {
    socklen_t n = sizeof *e;
    const double began = weft_now();
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    *e = fd < 0 ? errno : 0;
    if (!*e && connect(fd, a->ai_addr, a->ai_addrlen)) {
        *e = errno;
        if (*e == EINPROGRESS)
            *e = may(fd, POLLOUT) ? (getsockopt(fd, SOL_SOCKET, SO_ERROR, e, &n) ? errno : *e) : ETIMEDOUT;
    }
    const double took = weft_now() - began;
    if (fd >= 0) close(fd);
    if (*e == ECONNREFUSED) *e = 0;
    return took;
}

static double ping_peer(const char *peer, int *e, const char **why) {
    char host[256];
    const char *colon = strrchr(peer, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *a = NULL;
    double took[PEER_PINGS];
    if (!colon || colon == peer || !colon[1] || (size_t)(colon - peer) >= sizeof host) {
        *e = EINVAL;
        *why = "it is not HOST:PORT";
        return NAN;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - peer), peer);
    const int k = getaddrinfo(host, colon + 1, &hints, &a);
    if (k) {
        *e = EINVAL;
        *why = gai_strerror(k);
        return NAN;
    }
    for (int i = 0; i < PEER_PINGS && !*e; i++) took[i] = knock(a, e);
    freeaddrinfo(a);
    *why = strerror(*e);
    if (*e) return NAN;
    qsort(took, PEER_PINGS, sizeof *took, by_value);
    return took[PEER_PINGS / 2];
}

void health_ping(health_run *h) {
    int e = 0;
    const char *why = "";
    const char *peer = h->o->peer ? h->o->peer : "";
    const double took = *peer ? ping_peer(peer, &e, &why) : ping_loopback(&e);
    if (e) {
        if (*peer)
            health_find(h, WEFT_CHECK_PING, WEFT_HEALTH_FAIL, peer, "peer %.100s does not answer: %s", peer,
                        why);
        else
            health_find(h, WEFT_CHECK_PING, WEFT_HEALTH_FAIL, "",
                        "the loopback does not answer: %s: ip link set lo up", strerror(e));
        return;
    }
    health_number(health_find(h, WEFT_CHECK_PING, WEFT_HEALTH_OK, peer, "%s%.100s: %.0f us there and back",
                              *peer ? "peer " : "loopback", peer, took * 1e6),
                  took * 1e6, NAN, "us", -1);
}
