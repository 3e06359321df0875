/* wanem: an emulated wide-area network of sites on one machine (docs/wanem.md).
 *
 * Each site is a network namespace with a TUN device; this program carries every packet between them and does to it
 * what the scenario says. Everything that it starts dies with it. */
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "tests/wan/script.h"

#define MOST_TEXT (16u << 20)
#define EXIT_FAIL 75 /* what was waited for did not happen */
#define EXIT_LATE 76 /* the machine was too slow for the times to mean anything */
#define EXIT_SKIP 77

typedef struct options {
    const char *scenario, *out, *json, *capture;
    int normal, verbose;
} options;

static volatile int stop;

static void on_signal(int signal) {
    stop = signal;
}

static void usage(FILE *f) {
    fprintf(f,
            "Usage: wanem [--out DIR] [--json FILE] [--capture FILE] [--normal] [-v] SCENARIO|-\n"
            "Runs a scenario on an emulated wide-area network: sites are network namespaces, links have "
            "rate, delay, jitter,\n"
            "loss and more. Needs root, or user namespaces and access to /dev/net/tun.\n"
            "  --out DIR       logs of the commands (.)        --json FILE    counters and times (standard "
            "output)\n"
            "  --capture FILE  all packets sent, as pcap        --normal       do not ask for a real-time "
            "priority\n"
            "  -v              say what happens\n"
            "Exit: 0 done, 64 wrong call, 75 something waited for did not happen, 76 it did, but packets "
            "were handed on too\n"
            "late, 77 namespaces are not permitted, 78 wrong scenario.\n\nA scenario:\n%s\nExample:\n"
            "  site a\n  site b congestion=cubic\n  link a<>b rate=100M delay=25ms loss=0.1%%\n"
            "  run server in b: weft hub --listen $WAN_b:7700\n  wait server \"listening\" 10\n"
            "  run client in a: weft train run.yaml --site a --join $WAN_b:7700 --invite a.invite\n"
            "  t=12 link a>b blackhole\n  t=20 kill -KILL client\n  +10 link a>b up\n  start client\n"
            "  wait client \"committed\" 60\n",
            wan_scenario_help);
}

static int parse_options(int argc, char **argv, options *o) {
    enum { OUT = 1000, JSON, CAPTURE, NORMAL };
    static const struct option known[] = {{"out", 1, NULL, OUT},         {"json", 1, NULL, JSON},
                                          {"capture", 1, NULL, CAPTURE}, {"normal", 0, NULL, NORMAL},
                                          {"help", 0, NULL, 'h'},        {0}};
    *o = (options){.out = "."};
    for (int c; (c = getopt_long(argc, argv, "hv", known, NULL)) != -1;) {
        switch (c) {
        case OUT: o->out = optarg; break;
        case JSON: o->json = optarg; break;
        case CAPTURE: o->capture = optarg; break;
        case NORMAL: o->normal = 1; break;
        case 'v': o->verbose = 1; break;
        case 'h': usage(stdout); exit(0);
        default: return 0;
        }
    }
    o->scenario = optind + 1 == argc ? argv[optind] : NULL;
    return o->scenario != NULL;
}

/* --- the report --- */

static void print_text(FILE *f, const char *key, const char *text) {
    fprintf(f, "\"%s\": \"", key);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') fputc('\\', f);
        if ((unsigned char)*p >= ' ') fputc(*p, f);
    }
    fputc('"', f);
}

static void print_counts(FILE *f, const char *kind, const char *a, const char *b, const wan_counts *n,
                         int *first) {
    if (!n->packets) return;
    fprintf(f,
            "%s\n    {\"kind\": \"%s\", \"from\": \"%s\", \"to\": \"%s\", \"packets\": %llu, \"bytes\": "
            "%llu, \"out\": %llu, "
            "\"out_bytes\": %llu, \"queue_full\": %llu, \"lost\": %llu, \"blackholed\": %llu, "
            "\"duplicated\": %llu, "
            "\"corrupted\": %llu, \"forged\": %llu}",
            *first ? "" : ",", kind, a, b, (unsigned long long)n->packets, (unsigned long long)n->bytes,
            (unsigned long long)n->out, (unsigned long long)n->out_bytes, (unsigned long long)n->queue_full,
            (unsigned long long)n->lost, (unsigned long long)n->blackholed, (unsigned long long)n->duplicated,
            (unsigned long long)n->corrupted, (unsigned long long)n->forged);
    *first = 0;
}

static void print_pipes(FILE *f, const wan_scenario *s, const wan_forward *w) {
    int first = 1;
    fprintf(f, "  \"pipes\": [");
    for (int a = 0; a < s->sites; a++) {
        print_counts(f, "egress", s->site[a].name, "", &w->egress[a].n, &first);
        for (int b = 0; b < s->sites; b++)
            print_counts(f, "link", s->site[a].name, s->site[b].name, &w->link[a][b].n, &first);
        print_counts(f, "ingress", "", s->site[a].name, &w->ingress[a].n, &first);
    }
    for (int i = 0; i < w->flows; i++)
        print_counts(f, "flow", s->site[w->flow[i].src].name, s->site[w->flow[i].dst].name,
                     &w->flow[i].pipe.n, &first);
    fprintf(f, "\n  ],\n");
}

static void print_script(FILE *f, const wan_script *s) {
    const wan_scenario *c = s->scenario;
    fprintf(f, "  \"statements\": [");
    for (int i = 0; i < s->next; i++)
        fprintf(f, "%s\n    {\"line\": %d, \"done_s\": %.4f}", i ? "," : "", c->statement[i].line,
                s->done_s[i]);
    fprintf(f, "\n  ],\n  \"commands\": [");
    for (int i = 0; i < c->commands; i++)
        fprintf(f, "%s\n    {\"name\": \"%s\", \"site\": \"%s\", \"code\": %d}", i ? "," : "",
                c->command[i].name, c->site[c->command[i].site].name, s->child[i].code);
    fprintf(f, "\n  ],\n");
}

static double ms(uint64_t ns) {
    return (double)ns * 1e-6;
}

static int is_late(const wan_scenario *s, const wan_forward *w) {
    return ms(weft_hist_quantile(&w->late, 0.99)) > s->late_ms;
}

static void print_late(FILE *f, const wan_scenario *s, const wan_forward *w) {
    fprintf(f,
            "  \"late_ms\": {\"count\": %llu, \"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"max\": %.4f, "
            "\"limit_p99\": %g},\n",
            (unsigned long long)w->late.count, ms(weft_hist_quantile(&w->late, .5)),
            ms(weft_hist_quantile(&w->late, .9)), ms(weft_hist_quantile(&w->late, .99)), ms(w->late.max),
            s->late_ms);
    fprintf(f, "  \"stray\": %llu, \"refused\": %llu, \"no_memory\": %llu,\n", (unsigned long long)w->stray,
            (unsigned long long)w->refused, (unsigned long long)w->no_memory);
}

static weft_status report(const options *o, const wan_script *s, weft_status result, double seconds) {
    FILE *f = o->json ? fopen(o->json, "w") : stdout;
    if (!f) return weft_fail(WEFT_ERR_ACCESS, "cannot write %s", o->json);
    fprintf(f, "{\n  \"seconds\": %.3f, \"mtu\": %d, \"seed\": %llu,\n", seconds, s->scenario->mtu,
            (unsigned long long)s->scenario->seed);
    print_script(f, s);
    print_pipes(f, s->scenario, s->forward);
    print_late(f, s->scenario, s->forward);
    if (result < 0) {
        fprintf(f, "  ");
        print_text(f, "failed", weft_last_error());
        fprintf(f, ",\n");
    }
    fprintf(f, "  \"valid\": %s\n}\n", is_late(s->scenario, s->forward) ? "false" : "true");
    const int bad = ferror(f) || (o->json && fclose(f) != 0);
    return bad ? weft_fail(WEFT_ERR_IO, "cannot write the report") : WEFT_OK;
}

/* --- the run --- */

static weft_status read_input(char **text) {
    *text = weft_calloc(1, MOST_TEXT);
    if (!*text) return WEFT_ERR_NOMEM;
    const size_t n = fread(*text, 1, MOST_TEXT - 1, stdin);
    const int bad = ferror(stdin) || n == MOST_TEXT - 1;
    if (!bad) return WEFT_OK;
    free(*text);
    return weft_fail(WEFT_ERR_IO, "cannot read a scenario from standard input");
}

static weft_status read_scenario(const char *path, wan_scenario *s) {
    char *text = NULL;
    size_t n = 0;
    WEFT_TRY(strcmp(path, "-") == 0 ? read_input(&text) : weft_file_read(path, MOST_TEXT, &text, &n));
    return wan_scenario_parse(path, text, s);
}

static weft_status set_congestion(const wan_net *n, const wan_scenario *s) {
    for (int i = 0; i < s->sites; i++)
        if (*s->site[i].congestion)
            WEFT_TRY_CTX(
                wan_net_sysctl(n, i, "/proc/sys/net/ipv4/tcp_congestion_control", s->site[i].congestion),
                "congestion control %s of site %s", s->site[i].congestion, s->site[i].name);
    return WEFT_OK;
}

static int run(const options *o, const wan_scenario *scenario, wan_forward *forward) {
    wan_script script;
    weft_status s = o->capture ? wan_forward_capture(forward, o->capture) : WEFT_OK;
    if (s == WEFT_OK) s = wan_script_open(&script, scenario, forward, o->out);
    if (s != WEFT_OK) {
        fprintf(stderr, "wanem: %s\n", weft_last_error());
        return weft_exit_code(s);
    }
    script.verbose = o->verbose;
    const double from = weft_now();
    s = wan_script_run(&script, &stop);
    const weft_status written = report(o, &script, s, weft_now() - from);
    wan_script_close(&script);
    if (s < 0 || written < 0) {
        fprintf(stderr, "wanem: %s\n", weft_last_error());
        return s < 0 ? EXIT_FAIL : weft_exit_code(written);
    }
    if (!is_late(scenario, forward)) return 0;
    fprintf(stderr,
            "wanem: p99 of lateness is %.2f ms, above %g ms: the machine is too busy, this run's times mean "
            "nothing\n",
            ms(weft_hist_quantile(&forward->late, 0.99)), scenario->late_ms);
    return EXIT_LATE;
}

static int carried_out(const options *o, const wan_scenario *scenario) {
    wan_net net;
    static wan_forward forward;
    weft_status s = wan_net_open(&net, scenario->sites, scenario->mtu);
    if (s == WEFT_OK) s = set_congestion(&net, scenario);
    if (s == WEFT_OK) s = wan_forward_open(&forward, &net, scenario->seed);
    if (s != WEFT_OK) {
        fprintf(stderr, "wanem: %s\n", weft_last_error());
        return s == WEFT_ERR_SERVICE ? EXIT_SKIP : weft_exit_code(s);
    }
    const struct sched_param p = {.sched_priority = 20};
    if (!o->normal) (void)!sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p);
    const int code = run(o, scenario, &forward);
    wan_forward_close(&forward);
    wan_net_close(&net);
    return code;
}

int main(int argc, char **argv) {
    options o;
    wan_scenario scenario = {0};
    struct sigaction a = {.sa_handler = on_signal};
    if (!parse_options(argc, argv, &o)) {
        usage(stderr);
        return 64;
    }
    weft_status s = read_scenario(o.scenario, &scenario);
    if (s == WEFT_OK) s = weft_mkdirs(o.out);
    if (s == WEFT_OK) s = wan_isolate();
    if (s != WEFT_OK) {
        fprintf(stderr, "wanem: %s\n", weft_last_error());
        wan_scenario_destroy(&scenario);
        return s == WEFT_ERR_SERVICE ? EXIT_SKIP : weft_exit_code(s);
    }
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    const int code = carried_out(&o, &scenario);
    wan_scenario_destroy(&scenario);
    return code;
}
