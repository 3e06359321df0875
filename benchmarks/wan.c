/* Goodput between two sites: comm/wan with TLS, one TLS stream, 1 and 16 plain TCP flows, in turn, over the same link.
 *
 *   bench_wan keys DIR                       an authority and two identities
 *   bench_wan serve DIR [--insecure]         takes all that comes (ports 7001 and 7002)
 *   bench_wan drive DIR HOST [--seconds S] [--repeats N] [--link MBIT] [--streams N] [--insecure] [--only LIST]
 *
 * Each transfer begins cold: its own connections. Goodput is payload that the other side has acknowledged, over all of the
 * time and over its second half; of comm/wan
 * and the TLS stream in whole chunks. benchmarks/wan.sh runs it over emulated links (docs/wanem.md). */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "benchmarks/harness.h"
#include "benchmarks/wan_flow.h"
#include "comm/wan/wan.h"

#define PORT_PLAIN  7001
#define PORT_WAN    7002
#define PIECE       (512u << 10)
#define PLACES      1024 /* pieces that may be arriving */
#define WINDOW      128  /* pieces that wait to be sent */
#define MODES       4
#define MOST_REPEAT 64
#define PAUSE_US    700000 /* until queues on the way are empty */
#define LIFE_S      86400
#define PEM_MAX     65536

enum { TCP1, TCP16, TLS1, WAN };
static const char *const modes[MODES] = {"tcp-1", "tcp-16", "tls-1", "weft"};

typedef struct options {
    const char *dir, *host, *only;
    double seconds, link;
    int repeats, streams, insecure;
} options;

/* --- identities --- */

static void keep(const char *dir, const char *name, const char *text) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    bench_check(weft_file_write(path, text, strlen(text)));
}

static char *kept(const char *dir, const char *name) {
    char path[4096], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    bench_check(weft_file_read(path, PEM_MAX, &text, &n));
    return text;
}

static void keys(const char *dir) {
    static const char *const sites[] = {"a", "b"};
    char *ca = NULL, *ca_key = NULL, name[16];
    bench_check(weft_mkdirs(dir));
    bench_check(weft_wan_authority_create("bench", LIFE_S, &ca, &ca_key));
    keep(dir, "ca.pem", ca);
    for (int i = 0; i < 2; i++) {
        char *cert = NULL, *key = NULL;
        const int64_t now = (int64_t)weft_wall();
        bench_check(weft_wan_issue(ca, ca_key, sites[i], "member", now - 60, now + LIFE_S, &cert, &key));
        snprintf(name, sizeof name, "%s.pem", sites[i]);
        keep(dir, name, cert);
        snprintf(name, sizeof name, "%s.key", sites[i]);
        keep(dir, name, key);
        free(cert);
        free(key);
    }
    free(ca);
    free(ca_key);
}

static weft_wan_identity *identity(const char *dir, const char *site) {
    char name[16];
    weft_wan_identity *id = NULL;
    char *ca = kept(dir, "ca.pem");
    snprintf(name, sizeof name, "%s.pem", site);
    char *cert = kept(dir, name);
    snprintf(name, sizeof name, "%s.key", site);
    char *key = kept(dir, name);
    bench_check(weft_wan_identity_load(ca, cert, key, &id));
    free(ca);
    free(cert);
    free(key);
    return id;
}

/* --- the side that takes --- */

typedef struct places {
    void *unused[PLACES];
    int n;
} places;

static void *place(void *arg, weft_wan_peer *p, const weft_wan_chunk *h) {
    places *s = arg;
    (void)p;
    if (h->bytes > PIECE) return NULL;
    return s->n ? s->unused[--s->n] : malloc(PIECE);
}

static void free_place(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    places *s = arg;
    (void)p;
    (void)h;
    if (s->n < PLACES)
        s->unused[s->n++] = at;
    else
        free(at);
}

static void serve(const options *o) {
    static places s;
    char listen[32];
    weft_wan *w = NULL;
    snprintf(listen, sizeof listen, ":%d", PORT_WAN);
    const weft_wan_opts opts = {
        .identity = o->insecure ? NULL : identity(o->dir, "b"),
        .insecure_lab = o->insecure,
        .lab_name = "b/member",
        .listen = listen,
        .calls = {.chunk_place = place, .chunk_arrived = free_place, .chunk_lost = free_place},
        .arg = &s};
    bench_check(weft_wan_open(&opts, &w));
    bench_flow_serve(PORT_PLAIN);
    printf("listening\n");
    fflush(stdout);
    for (;;) bench_check(weft_wan_poll(w, -1));
}

/* --- the side that sends --- */

typedef struct sender {
    weft_wan_peer *peer;
    void *piece;
    int up, waiting, over;
    uint64_t done;
    uint32_t next;
} sender;

static void more(sender *s) {
    while (!s->over && s->waiting < WINDOW) {
        const weft_wan_chunk h = {.kind = WEFT_WAN_CONTRIB, .chunk = s->next++, .bytes = PIECE};
        bench_check(weft_wan_send_chunk(s->peer, &h, s->piece, WEFT_WAN_PRIO_CONTRIB));
        s->waiting++;
    }
}

static void sent(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, const void *data, weft_status status) {
    sender *s = arg;
    (void)p;
    (void)data;
    s->waiting--;
    if (status == WEFT_OK && !s->over) s->done += h->bytes;
}

static void up(void *arg, weft_wan_peer *p) {
    (void)p;
    ((sender *)arg)->up = 1;
}

static bench_carried transfer(const options *o, int streams, weft_wan_peer_stats *stats) {
    sender s = {.piece = bench_zalloc(PIECE, 1)};
    char address[128];
    weft_wan *w = NULL;
    bench_carried c = {.seconds = o->seconds};
    const weft_wan_opts opts = {.identity = o->insecure ? NULL : identity(o->dir, "a"),
                                .insecure_lab = o->insecure,
                                .lab_name = "a/member",
                                .streams = streams,
                                .link_rate = (uint64_t)(o->link * 1e6 / 8),
                                .calls = {.up = up, .chunk_sent = sent},
                                .arg = &s};
    snprintf(address, sizeof address, "%s:%d", o->host, PORT_WAN);
    bench_check(weft_wan_open(&opts, &w));
    bench_check(weft_wan_dial(w, address, "b/member", &s.peer));
    for (const double from = weft_now(); !s.up;) {
        if (weft_now() - from > 20) bench_check(weft_fail(WEFT_ERR_TIMEOUT, "no session with %s", address));
        bench_check(weft_wan_poll(w, 100));
    }
    const double from = weft_now();
    for (double t = 0; t < o->seconds; t = weft_now() - from) {
        if (!c.half && t >= o->seconds / 2) c.half = s.done;
        more(&s);
        bench_check(weft_wan_poll(w, 10));
    }
    c.seconds = weft_now() - from;
    c.all = s.done;
    s.over = 1;
    weft_wan_peer_stats_get(s.peer, stats);
    weft_wan_close(w);
    weft_wan_identity_free((weft_wan_identity *)(uintptr_t)opts.identity);
    free(s.piece);
    return c;
}

static double mbit(uint64_t bytes, double seconds) {
    return (double)bytes * 8e-6 / seconds;
}

static void drive(const options *o) {
    static double all[MODES][MOST_REPEAT], half[MODES][MOST_REPEAT];
    for (int r = 0; r < o->repeats; r++) {
        for (int m = 0; m < MODES; m++) {
            weft_wan_peer_stats stats = {0};
            if (!bench_listed(o->only, modes[m])) continue;
            const bench_carried c = m <= TCP16
                                        ? bench_flow_send(o->host, PORT_PLAIN, m == TCP1 ? 1 : 16, o->seconds)
                                        : transfer(o, m == TLS1 ? 1 : o->streams, &stats);
            all[m][r] = mbit(c.all, c.seconds);
            half[m][r] = mbit(c.all - c.half, c.seconds - o->seconds / 2);
            printf(
                "{\"mode\": \"%s\", \"repeat\": %d, \"mbit\": %.1f, \"second_half\": %.1f, \"streams\": %d, "
                "\"resent\": %llu, \"rtt_ms\": %.1f}\n",
                modes[m], r, all[m][r], half[m][r], stats.streams, (unsigned long long)stats.resent,
                stats.rtt * 1e3);
            fflush(stdout);
            usleep(PAUSE_US);
        }
    }
    for (int m = 0; m < MODES; m++) {
        if (!bench_listed(o->only, modes[m])) continue;
        const struct bench_stats a = bench_stats_of(all[m], o->repeats),
                                 h = bench_stats_of(half[m], o->repeats);
        printf("%-7s %6.1f Mbit/s (%.1f to %.1f), second half %6.1f (%.1f to %.1f)", modes[m], a.median,
               a.min, a.max, h.median, h.min, h.max);
        printf(o->link > 0 ? ": %.0f %%, %.0f %% of the link\n" : "\n", 100 * a.median / o->link,
               100 * h.median / o->link);
    }
}

static int usage(void) {
    fprintf(stderr, "Usage: bench_wan keys DIR | serve DIR [--insecure] |\n"
                    "       drive DIR HOST [--seconds S] [--repeats N] [--link MBIT] [--streams N] "
                    "[--insecure] [--only tcp-1,tcp-16,tls-1,weft]\n");
    return 64;
}

int main(int argc, char **argv) {
    static const struct option known[] = {{"seconds", 1, NULL, 's'},
                                          {"repeats", 1, NULL, 'r'},
                                          {"link", 1, NULL, 'l'},
                                          {"streams", 1, NULL, 'n'},
                                          {"only", 1, NULL, 'o'},
                                          {"insecure", 0, NULL, 'i'},
                                          {0}};
    options o = {.seconds = 6, .repeats = 3};
    bench_begin("bench_wan");
    signal(SIGPIPE, SIG_IGN);
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 's')
            o.seconds = atof(optarg);
        else if (c == 'r')
            o.repeats = atoi(optarg);
        else if (c == 'l')
            o.link = atof(optarg);
        else if (c == 'n')
            o.streams = atoi(optarg);
        else if (c == 'o')
            o.only = optarg;
        else if (c == 'i')
            o.insecure = 1;
        else
            return usage();
    }
    if (argc - optind < 2 || o.repeats < 1 || o.repeats > MOST_REPEAT || !(o.seconds > 0)) return usage();
    o.dir = argv[optind + 1];
    o.host = argc - optind > 2 ? argv[optind + 2] : NULL;
    if (strcmp(argv[optind], "keys") == 0)
        keys(o.dir);
    else if (strcmp(argv[optind], "serve") == 0)
        serve(&o);
    else if (strcmp(argv[optind], "drive") == 0 && o.host)
        drive(&o);
    else
        return usage();
    return 0;
}
