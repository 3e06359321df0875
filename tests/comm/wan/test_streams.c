/* Many streams: a slow one does not set the pace, the kernel of a dead stream is noticed, and what goes over the wire says
 * nothing. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/rng.h"
#include "tests/comm/wan/wan_case.h"

enum { STREAMS = 8, SIZE = 64 << 10, RATE = 3 << 20 };

static int reached(void *arg) {
    const int **v = arg;
    return *v[0] >= *v[1];
}

static void until(test_end **e, int n, const int *value, int least, double seconds) {
    const int *v[2] = {value, &least};
    if (!ends_until(e, n, reached, v, seconds)) fail_msg("%d of %d after %g s", *value, least, seconds);
}

/* n ends of one run, a pair after the other. */
static void pairs(test_run *r, test_end *e, int n, const weft_wan_opts *o) {
    *r = run_make("r");
    for (int i = 0; i < 2 * n; i++) {
        char site[16];
        snprintf(site, sizeof site, "s%d", i);
        end_open(&e[i], run_member(r, site, "member"), o);
    }
    for (int i = 0; i < n; i++) ends_meet(&e[2 * i], &e[2 * i + 1]);
}

/* Chunks from e to its peer whose bytes nobody looks at: this is about time. */
static void send_plain(test_end *e, int chunks) {
    static uint8_t data[SIZE];
    weft_wan_chunk h = {.kind = WEFT_WAN_STATE, .bytes = SIZE};
    for (int i = 0; i < chunks; i++) assert_ok(weft_wan_send_chunk(e->peer, &h, data, WEFT_WAN_PRIO_STATE));
}

static void keep_nothing(test_end *e) {
    e->keep = 1;
    e->sink = malloc(SIZE);
    assert_non_null(e->sink);
}

/* Bytes/s of `chunks` chunks over 8 streams of which the first is held to `slow`: by work stealing. */
static double stealing(int chunks, uint64_t slow) {
    test_run r;
    test_end e[2];
    test_end *both[2] = {&e[0], &e[1]};
    weft_wan_opts o = {.streams = STREAMS};
    weft_wan_peer_stats st;
    pairs(&r, e, 1, &o);
    keep_nothing(&e[0]);
    keep_nothing(&e[1]);
    send_plain(&e[0], STREAMS); /* opens them */
    until(both, 2, &e[0].sent_ok, STREAMS, 10);
    ends_for(both, 2, 0.2);
    weft_wan_peer_stats_get(e[0].peer, &st);
    assert_int_equal(st.streams, STREAMS);
    for (int i = 0; i < STREAMS; i++) weft_wan_test_slow(e[0].w, i, i ? RATE : slow);
    double t = weft_now();
    send_plain(&e[0], chunks);
    until(both, 2, &e[0].sent_ok, chunks + STREAMS, 60);
    t = weft_now() - t;
    weft_wan_peer_stats_get(e[0].peer, &st);
    print_message("%d chunks in %.2f s, %d resent\n", chunks, t, (int)st.resent);
    end_close(&e[0]);
    end_close(&e[1]);
    run_free(&r);
    return chunks * (double)SIZE / t;
}

/* The control: the chunks dealt out in turn to 8 connections of one stream each. */
static double dealt(int chunks, uint64_t slow) {
    test_run r;
    test_end e[2 * STREAMS];
    test_end *all[2 * STREAMS];
    weft_wan_opts o = {.streams = 1};
    pairs(&r, e, STREAMS, &o);
    for (int i = 0; i < 2 * STREAMS; i++) {
        all[i] = &e[i];
        keep_nothing(&e[i]);
    }
    for (int i = 0; i < STREAMS; i++) send_plain(&e[2 * i], 1);
    for (int i = 0; i < STREAMS; i++) until(all, 2 * STREAMS, &e[2 * i].sent_ok, 1, 10);
    for (int i = 0; i < STREAMS; i++) weft_wan_test_slow(e[2 * i].w, 0, i ? RATE : slow);
    double t = weft_now();
    for (int i = 0; i < STREAMS; i++) send_plain(&e[2 * i], chunks / STREAMS);
    for (int i = 0; i < STREAMS; i++) until(all, 2 * STREAMS, &e[2 * i].sent_ok, 1 + chunks / STREAMS, 60);
    t = weft_now() - t;
    for (int i = 0; i < 2 * STREAMS; i++) end_close(&e[i]);
    run_free(&r);
    return chunks * (double)SIZE / t;
}

/* What the others can is measured, too: the machine may be busy. The better of some tries each, in turn. */
static void a_slow_stream_does_not_set_the_pace(void **state) {
    const double slow = 0.05 * RATE, share = (7 * RATE + slow) / (8.0 * RATE);
    double all = 0, stolen = 0;
    (void)state;
    double even = dealt(64, (uint64_t)slow), sum = 0;
    for (int i = 0; i < 12 && (i < 2 || stolen < 0.9 * sum || even > 0.15 * sum); i++) {
        double v = stealing(640, RATE), u = stealing(640, (uint64_t)slow);
        all = v > all ? v : all;
        stolen = u > stolen ? u : stolen;
        sum = share * all;
    }
    print_message("of the sum of the streams, %.1f MB/s: work stealing %.1f %%, dealt out in turn %.1f %%\n",
                  sum * 1e-6, 100 * stolen / sum, 100 * even / sum);
    assert_true(stolen >= 0.9 * sum);
    assert_true(even <= 0.15 * sum);
}

/* ---- a proxy that looks ---- */

enum { WIRES = 16, NEEDLE = 16 };

typedef struct wire {
    int from, to;
    uint8_t tail[NEEDLE]; /* the last bytes, since a needle may be cut */
    size_t ntail;
} wire;

typedef struct proxy {
    int listener, port, target, n;
    int stuck; /* forwards nothing, and closes nothing */
    wire wire[2 * WIRES];
    uint64_t bytes, needles;
} proxy;

static const char needle[NEEDLE + 1] = "canary-7f3a91d2b";

static int on_loopback(int port, int listening) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    if (listening)
        assert_true(!bind(fd, (struct sockaddr *)&in, sizeof in) && !listen(fd, 16));
    else
        assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof in), 0);
    return fd;
}

static void proxy_open(proxy *x, int target) {
    struct sockaddr_in in;
    socklen_t n = sizeof in;
    memset(x, 0, sizeof *x);
    x->target = target;
    x->listener = on_loopback(0, 1);
    fcntl(x->listener, F_SETFL, O_NONBLOCK);
    getsockname(x->listener, (struct sockaddr *)&in, &n);
    x->port = ntohs(in.sin_port);
}

static void look(proxy *x, wire *w, const uint8_t *p, size_t n) {
    uint8_t text[NEEDLE + 8192];
    memcpy(text, w->tail, w->ntail);
    memcpy(text + w->ntail, p, n);
    size_t all = w->ntail + n;
    for (size_t i = 0; i + NEEDLE <= all; i++) x->needles += !memcmp(text + i, needle, NEEDLE);
    w->ntail = all < NEEDLE - 1 ? all : NEEDLE - 1;
    memcpy(w->tail, text + all - w->ntail, w->ntail);
    x->bytes += n;
}

static void forward(proxy *x, wire *w) {
    uint8_t p[8192];
    ssize_t n = recv(w->from, p, sizeof p, MSG_DONTWAIT);
    if (n == 0) shutdown(w->to, SHUT_WR);
    if (n <= 0) return;
    look(x, w, p, (size_t)n);
    for (ssize_t at = 0, k; at<n; at += k> 0 ? k : 0)
        if ((k = send(w->to, p + at, (size_t)(n - at), MSG_NOSIGNAL)) < 0) return;
}

static void proxy_pump(proxy *x) {
    int fd;
    while (!x->stuck && x->n < 2 * WIRES && (fd = accept(x->listener, NULL, NULL)) >= 0) {
        int to = on_loopback(x->target, 0);
        x->wire[x->n++] = (wire){.from = fd, .to = to};
        x->wire[x->n++] = (wire){.from = to, .to = fd};
    }
    for (int round = 0; !x->stuck && round < 8; round++)
        for (int i = 0; i < x->n; i++) forward(x, &x->wire[i]);
}

static void proxy_close(proxy *x) {
    for (int i = 0; i < x->n; i += 2) {
        close(x->wire[i].from);
        close(x->wire[i].to);
    }
    close(x->listener);
}

typedef struct watched {
    proxy *x;
    const int *value;
    int least;
} watched;

static int pump_until(void *arg) {
    watched *w = arg;
    proxy_pump(w->x);
    return *w->value >= w->least;
}

/* Sends the needle as a message and in chunks from a to b through the proxy; how often the wire showed it. */
static uint64_t needles_on_the_wire(int lab) {
    test_run r = run_make("r");
    test_end a, b;
    test_end *both[2] = {&a, &b};
    weft_wan_opts oa = {.streams = 2, .insecure_lab = lab, .lab_name = lab ? "a/member" : NULL}, ob = oa;
    proxy x;
    weft_wan_peer *p = NULL;
    char address[32];
    uint8_t data[4096];
    ob.lab_name = lab ? "b/member" : NULL;
    end_open(&a, lab ? NULL : run_member(&r, "a", "member"), &oa);
    end_open(&b, lab ? NULL : run_member(&r, "b", "member"), &ob);
    a.keep = b.keep = 1;
    b.sink = malloc(sizeof data);
    proxy_open(&x, weft_wan_port(b.w));
    snprintf(address, sizeof address, "127.0.0.1:%d", x.port);
    assert_ok(weft_wan_dial(a.w, address, "b/member", &p));
    watched up = {&x, &a.ups, 1}, told = {&x, &b.messages, 1}, sent = {&x, &a.sent_ok, 50};
    assert_true(ends_until(both, 2, pump_until, &up, 10));
    assert_ok(weft_wan_send(p, 9, needle, NEEDLE));
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)needle[i % NEEDLE];
    weft_wan_chunk h = {.kind = WEFT_WAN_STATE, .bytes = sizeof data};
    for (int i = 0; i < 50; i++) assert_ok(weft_wan_send_chunk(p, &h, data, WEFT_WAN_PRIO_STATE));
    assert_true(ends_until(both, 2, pump_until, &told, 10));
    assert_true(ends_until(both, 2, pump_until, &sent, 20));
    assert_string_equal(b.last, needle);
    assert_memory_equal(b.sink, data, sizeof data);
    assert_true(x.bytes > 50 * sizeof data);
    end_close(&a);
    end_close(&b);
    proxy_close(&x);
    run_free(&r);
    return x.needles;
}

static void the_wire_says_nothing(void **state) {
    (void)state;
    assert_int_equal(needles_on_the_wire(0), 0);
    assert_true(needles_on_the_wire(1) >= 50 * (4096 / NEEDLE - 1)); /* the control: plain shows it */
}

/* The path goes silent, without an end: streams are given up after stall_ms, the session after dead_ms; when the path is
 * back, the rest arrives. */
static void a_black_hole_is_noticed(void **state) {
    test_run r = run_make("r");
    test_end a, b;
    test_end *both[2] = {&a, &b};
    weft_wan_opts o = {
        .streams = 2, .dead_ms = 4000, .stall_ms = 2500, .handshake_ms = 10000, .rate_cap = 4 << 20};
    weft_wan_peer *p = NULL;
    proxy x;
    char address[32];
    (void)state;
    end_open(&a, run_member(&r, "a", "member"), &o);
    end_open(&b, run_member(&r, "b", "member"), &o);
    end_expect(&a, 100, 1, SIZE);
    end_expect(&b, 100, 1, SIZE);
    proxy_open(&x, weft_wan_port(b.w));
    snprintf(address, sizeof address, "127.0.0.1:%d", x.port);
    assert_ok(weft_wan_dial(a.w, address, "b/member", &p));
    for (uint64_t i = 0; i < 100; i++) end_send(&a, p, i, 1);
    watched some = {&x, &b.arrived, 10}, all = {&x, &a.sent_ok, 100};
    assert_true(ends_until(both, 2, pump_until, &some, 20));
    watched down = {&x, &a.downs, a.downs + 1}, other = {&x, &b.downs, b.downs + 1};
    x.stuck = 1;
    double t = weft_now();
    assert_true(ends_until(both, 2, pump_until, &down, 10));
    assert_true(ends_until(both, 2, pump_until, &other, 10));
    t = weft_now() - t;
    assert_true(t > 0.5); /* and it ends: ends_until */
    assert_int_equal(a.last_down, WEFT_ERR_TIMEOUT);
    x.stuck = 0;
    assert_true(ends_until(both, 2, pump_until, &all, 30));
    for (int i = 0; i < 100; i++) assert_int_equal(b.seen[i], 1);
    end_close(&a);
    end_close(&b);
    proxy_close(&x);
    run_free(&r);
}

/* ---- several processes ---- */

enum { PROCESSES = 3, EACH = 1500 };

/* One of them: everybody sends EACH chunks to everybody, streams die at random. Does not return. */
static void one_process(const test_run *r, int me, int up, int down) {
    test_end e;
    test_end *self = &e;
    weft_wan_opts o = {.streams = 3, .rate_cap = 20 << 20};
    int ports[PROCESSES], port = 0, others = PROCESSES - 1, ok = 1;
    char site[16], byte = 1;
    snprintf(site, sizeof site, "s%d", me);
    end_open(&e, run_member(r, site, "member"), &o);
    end_expect(&e, (uint64_t)others * EACH, 4, 20000);
    e.two_peers = 1;
    port = weft_wan_port(e.w);
    if (write(up, &port, sizeof port) != sizeof port || read(down, ports, sizeof ports) != sizeof ports)
        _exit(2);
    for (int k = 0; k < PROCESSES; k++) {
        char address[32], name[32];
        weft_wan_peer *p = NULL;
        if (k == me) continue;
        snprintf(address, sizeof address, "127.0.0.1:%d", ports[k]);
        snprintf(name, sizeof name, "s%d/member", k);
        assert_ok(weft_wan_dial(e.w, address, name, &p));
        /* Which of the receiver's numbers are ours: the lower half is for the lower of its two others. */
        uint64_t base = me < (k == 0 ? 2 : k == 1 ? 2 : 1) ? 0 : EACH;
        for (uint64_t i = 0; i < EACH; i++) end_send(&e, p, base + i, 1);
    }
    double end = weft_now() + 300;
    for (uint64_t n = 0; e.arrived < others * EACH || e.sent_ok < others * EACH; n++) {
        ends_for(&self, 1, 0.005);
        if (e.peer && weft_rng_u64(5, (uint64_t)me, n) % 20 == 0) weft_wan_test_kill(e.peer, (int)(n % 3));
        if (weft_now() > end) {
            ok = 0;
            break;
        }
    }
    for (int i = 0; i < others * EACH; i++) ok &= e.seen[i] == 1;
    if (write(up, &byte, 1) != 1) ok = 0;
    fcntl(down, F_SETFL, O_NONBLOCK);
    while (read(down, &byte, 1) < 0 && weft_now() < end)
        ends_for(&self, 1, 0.01); /* others may still need it */
    end_close(&e);
    _exit(ok ? 0 : 1);
}

static void several_processes_exchange(void **state) {
    test_run r = run_make("r");
    int up[PROCESSES][2], down[PROCESSES][2], ports[PROCESSES];
    pid_t pid[PROCESSES];
    char byte;
    (void)state;
    for (int i = 0; i < PROCESSES; i++) {
        assert_true(!pipe(up[i]) && !pipe(down[i]));
        fflush(NULL);
        pid[i] = fork();
        if (!pid[i]) one_process(&r, i, up[i][1], down[i][0]);
        close(up[i][1]);
        close(down[i][0]);
    }
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(read(up[i][0], &ports[i], sizeof ports[i]), sizeof ports[i]);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(write(down[i][1], ports, sizeof ports), sizeof ports);
    for (int i = 0; i < PROCESSES; i++) assert_int_equal(read(up[i][0], &byte, 1), 1);
    for (int i = 0; i < PROCESSES; i++) {
        int status = 0;
        assert_int_equal(write(down[i][1], &byte, 1), 1);
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
        close(up[i][0]);
        close(down[i][1]);
    }
    run_free(&r);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_stream_does_not_set_the_pace),
        cmocka_unit_test(the_wire_says_nothing),
        cmocka_unit_test(a_black_hole_is_noticed),
        cmocka_unit_test(several_processes_exchange),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
