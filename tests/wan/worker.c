/* A site of a run whose training is only emulated: steps are timed waits, weights move towards a target that all sites
 * share and each sees with noise of its own. Everything between sites is real (runtime/sites), so many sites fit on
 * few cores. What such a run says of time is labelled emulated compute.
 *
 *   worker --invite FILE [--hub HOST:PORT] [--listen HOST:PORT] [--step-ms N] [--every H] [--layers N] [--hidden N] [--sync]
 *          [--up CODEC] [--down CODEC] [--chunk N] [--audit N] [--seconds S] [--steps N] [--seed N] [--rate MBIT]
 *
 * Lines on standard output: `joined`, one for each merge, and at the end `done {JSON}` with what it did and a digest of each
 * fragment's outer weights. SIGTERM: takes its leave. */
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "runtime/sites/sites.h"

#define PULL       0.02f /* of the way to the target, a step */
#define NOISE      0.1f  /* of a site's view of the target */
#define KEEP       0.5f  /* of the local weights, where training has gone on meanwhile (alpha) */
#define LEAVE_MS   30000
#define WAIT_NS    5000000
#define TOKENS     1024 /* a step */
#define LOOK_STEPS 50

typedef struct worker {
    weft_sites_opts o;
    int step_ms;
    double seconds;
    int64_t steps;
    uint64_t seed;
    /* as it runs */
    weft_sites *site;
    const weft_fragments *f;
    float **theta, **target, *vector;
    int64_t *left;
    weft_sites_work *work;
    int64_t step;
    uint64_t merges, rebases, replaced;
    double began, joined_s, waited_s, round_s;
} worker;

static volatile sig_atomic_t stop;

static void on_signal(int signal) {
    stop = signal;
}

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "worker: error: %s\n", weft_last_error());
    exit(weft_exit_code(s));
}

static void say(void *arg, const char *text) {
    (void)arg;
    printf("waiting: %s\n", text);
}

static void *room(size_t n, size_t each) {
    void *p = weft_calloc(n, each);
    if (!p) check(WEFT_ERR_NOMEM);
    return p;
}

static void prepare(worker *w) {
    const size_t n = (size_t)w->f->n;
    w->theta = room(n, sizeof *w->theta);
    w->target = room(n, sizeof *w->target);
    w->left = room(n, sizeof *w->left);
    w->work = room(n, sizeof *w->work);
    w->vector = room(w->f->largest, sizeof *w->vector);
    for (int p = 0; p < w->f->n; p++) {
        const size_t used = w->f->item[p].used, all = w->f->item[p].elements;
        w->theta[p] = room(all, sizeof **w->theta);
        w->target[p] = room(all, sizeof **w->target);
        for (size_t i = 0; i < used; i++)
            w->target[p][i] = (float)weft_rng_uniform(1, (uint64_t)p, i) - 0.5f +
                              NOISE * ((float)weft_rng_uniform(w->seed + 2, (uint64_t)p, i) - 0.5f);
        weft_sites_begin(w->site, p, w->theta[p]);
    }
}

/* --- training, emulated --- */

static void train(worker *w, double *next) {
    for (int p = 0; p < w->f->n; p++) {
        float *x = w->theta[p];
        const float *t = w->target[p];
        for (size_t i = 0; i < w->f->item[p].used; i++) x[i] += PULL * (t[i] - x[i]);
        w->work[p].tokens += TOKENS;
        w->work[p].steps++;
    }
    w->step++;
    const double wait = *next - weft_now();
    if (wait > 0) {
        const struct timespec t = {(time_t)wait, (long)((wait - floor(wait)) * 1e9)};
        nanosleep(&t, NULL);
    }
    *next = fmax(*next, weft_now() - w->step_ms * 1e-3) + w->step_ms * 1e-3;
}

static double loss(const worker *w) {
    double sum = 0;
    size_t n = 0;
    for (int p = 0; p < w->f->n; p++) {
        const float *x = weft_sites_weights(w->site, p);
        n += w->f->item[p].used;
        for (size_t i = 0; i < w->f->item[p].used; i++) {
            const double d = x[i] - (weft_rng_uniform(1, (uint64_t)p, i) - 0.5);
            sum += d * d;
        }
    }
    return sum / (double)n;
}

/* --- what sites exchange --- */

/* FNV-1a over the bits. */
static uint64_t digest(const float *x, size_t n) {
    const unsigned char *p = (const unsigned char *)x;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n * sizeof *x; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* -1: chunks of different versions, or not one at all. */
static int64_t version_of(const worker *w, int p) {
    char *text = weft_sites_state(w->site);
    json_t *state = text ? json_loads(text, 0, NULL) : NULL;
    const json_int_t v = json_integer_value(json_array_get(json_object_get(state, "versions"), (size_t)p));
    json_decref(state);
    free(text);
    return (int64_t)v;
}

/* Which bits stand at which version: the same at every site, or something is wrong. */
static void print_bits(const worker *w, int p) {
    const int64_t before = version_of(w, p);
    const uint64_t d = digest(weft_sites_weights(w->site, p), w->f->item[p].elements);
    if (before >= 0 && version_of(w, p) == before)
        printf("bits fragment=%d version=%lld digest=%016llx at=%.3f\n", p, (long long)before,
               (unsigned long long)d, weft_wall());
}

static const char *const names[] = {"nothing", "merge", "rebase", "replace", "lost"};

static void take(worker *w, int p, weft_sites_what what) {
    weft_sites_info i;
    float *x = w->theta[p];
    const int64_t lag = w->step - w->left[p];
    const float keep = what == WEFT_SITES_MERGE && lag > 1 ? KEEP : 0;
    check(weft_sites_merge(w->site, p, w->vector));
    for (size_t k = 0; k < w->f->item[p].used; k++)
        x[k] = what == WEFT_SITES_REBASE ? x[k] + w->vector[k] : keep * x[k] + (1 - keep) * w->vector[k];
    weft_sites_look(w->site, &i);
    w->merges += what == WEFT_SITES_MERGE;
    w->rebases += what == WEFT_SITES_REBASE;
    w->replaced += what == WEFT_SITES_REPLACE;
    w->round_s += i.round_s;
    printf("%s step=%lld fragment=%d lag=%lld sites=%d commits=%llu round_s=%.3f t=%.3f\n", names[what],
           (long long)w->step, p, (long long)lag, i.sites, (unsigned long long)i.commits, i.round_s,
           weft_now() - w->began);
    print_bits(w, p);
}

static weft_sites_what news(worker *w) {
    int p = -1;
    const weft_sites_what what = weft_sites_news(w->site, &p);
    if (what == WEFT_SITES_LOST) check(weft_sites_error(w->site));
    if (what != WEFT_SITES_NOTHING) take(w, p, what);
    return what;
}

static void exchange(worker *w) {
    const double began = weft_now();
    const struct timespec pause = {.tv_nsec = WAIT_NS};
    news(w);
    const int p = weft_sites_due(w->site, w->step, w->step_ms * 1e-3);
    if (p >= 0 && weft_sites_may(w->site, p)) {
        w->left[p] = w->step;
        check(weft_sites_offer(w->site, p, w->theta[p], &w->work[p]));
        memset(&w->work[p], 0, sizeof w->work[p]);
    }
    while (!stop && weft_sites_must_wait(w->site))
        if (news(w) == WEFT_SITES_NOTHING) nanosleep(&pause, NULL);
    w->waited_s += weft_now() - began;
}

static void report(worker *w) {
    weft_sites_info i;
    const double seconds = weft_now() - w->began - w->joined_s;
    weft_sites_look(w->site, &i);
    printf("done {\"steps\": %lld, \"seconds\": %.3f, \"join_s\": %.3f, \"utilisation\": %.5f, \"waited_s\": "
           "%.3f, \"merges\": %llu, "
           "\"rebases\": %llu, \"replaced\": %llu, \"commits\": %llu, \"missed\": %llu, \"sent\": %llu, "
           "\"received\": %llu, "
           "\"mean_round_s\": %.4f, \"loss\": %.6f, \"fragments\": [",
           (long long)w->step, seconds, w->joined_s, (double)w->step * w->step_ms * 1e-3 / seconds,
           w->waited_s, (unsigned long long)w->merges, (unsigned long long)w->rebases,
           (unsigned long long)w->replaced, (unsigned long long)i.commits, (unsigned long long)i.missed,
           (unsigned long long)i.sent, (unsigned long long)i.received,
           w->merges ? w->round_s / (double)w->merges : 0, loss(w));
    for (int p = 0; p < w->f->n; p++)
        printf("%s\"%016llx\"", p ? ", " : "",
               (unsigned long long)digest(weft_sites_weights(w->site, p), w->f->item[p].elements));
    char *state = weft_sites_state(w->site);
    printf("], \"state\": %s}\n", state ? state : "null");
    free(state);
}

static void run(worker *w) {
    w->began = weft_now();
    check(weft_sites_open(&w->o, &w->site));
    w->f = weft_sites_fragments(w->site);
    prepare(w);
    check(weft_sites_join(w->site, -1, say, NULL));
    for (int p = 0; p < w->f->n; p++)
        memcpy(w->theta[p], weft_sites_weights(w->site, p), w->f->item[p].elements * sizeof **w->theta);
    w->joined_s = weft_now() - w->began;
    for (int p = 0; p < w->f->n; p++) print_bits(w, p);
    printf("joined after %.3f s\n", w->joined_s);
    double next = weft_now() + w->step_ms * 1e-3;
    while (!stop && (!w->steps || w->step < w->steps) &&
           (!(w->seconds > 0) || weft_now() - w->began - w->joined_s < w->seconds)) {
        train(w, &next);
        exchange(w);
        if (w->step % LOOK_STEPS == 0) printf("step %lld loss %.6f\n", (long long)w->step, loss(w));
    }
    const weft_status s = weft_sites_leave(w->site, LEAVE_MS);
    if (s < 0) fprintf(stderr, "worker: left without a farewell: %s\n", weft_last_error());
    report(w);
    weft_sites_close(w->site);
    for (int p = 0; p < w->f->n; p++) free(w->theta[p]), free(w->target[p]);
    free(w->theta), free(w->target), free(w->left), free(w->work), free(w->vector);
}

static const struct option known[] = {{"invite", 1, NULL, 'i'},    {"hub", 1, NULL, 'h'},
                                      {"listen", 1, NULL, 'l'},    {"step-ms", 1, NULL, 'm'},
                                      {"every", 1, NULL, 'e'},     {"layers", 1, NULL, 'y'},
                                      {"hidden", 1, NULL, 'd'},    {"up", 1, NULL, 'u'},
                                      {"down", 1, NULL, 'w'},      {"chunk", 1, NULL, 'c'},
                                      {"audit", 1, NULL, 'a'},     {"seconds", 1, NULL, 's'},
                                      {"steps", 1, NULL, 'n'},     {"seed", 1, NULL, 'r'},
                                      {"rate", 1, NULL, 'b'},      {"sync", 0, NULL, 'k'},
                                      {"name", 1, NULL, 'N'},      {"lab", 0, NULL, 'L'},
                                      {"advertise", 1, NULL, 'A'}, {0}};

static void set_model(weft_model_desc *m, int64_t layers, int64_t hidden) {
    *m = (weft_model_desc){.family = WEFT_LLAMA,
                           .layers = layers,
                           .hidden = hidden,
                           .heads = 4,
                           .kv_heads = 4,
                           .head_dim = hidden / 4,
                           .ffn = 2 * hidden,
                           .context = 64,
                           .vocab = 256,
                           .vocab_padded = 256,
                           .norm_eps = 1e-5,
                           .rope_theta = 10000,
                           .init_std = 0.02};
}

int main(int argc, char **argv) {
    worker w = {.step_ms = 20, .seed = 1};
    int64_t layers = 6, hidden = 64;
    struct sigaction a = {.sa_handler = on_signal};
    w.o = (weft_sites_opts){.size = sizeof w.o, .device = "cpu", .stop = &stop};
    w.o.rules = (weft_sites_rules){
        .preset = WEFT_PRESET_STREAM, .every = 30, .mu = 0.9f, .chunk = 4096, .audit_every = 4};
    check(weft_coder_find("int4", &w.o.rules.up));
    check(weft_coder_find("int8", &w.o.rules.down));
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'i': w.o.invite = optarg; break;
        case 'h': w.o.hub = optarg; break;
        case 'l': w.o.listen = optarg; break;
        case 'A': w.o.advertise = optarg; break;
        case 'm': w.step_ms = atoi(optarg); break;
        case 'e': w.o.rules.every = (uint32_t)atoi(optarg); break;
        case 'y': layers = atoi(optarg); break;
        case 'd': hidden = atoi(optarg); break;
        case 'u': check(weft_coder_find(optarg, &w.o.rules.up)); break;
        case 'w': check(weft_coder_find(optarg, &w.o.rules.down)); break;
        case 'c': w.o.rules.chunk = (uint32_t)atoi(optarg); break;
        case 'a': w.o.rules.audit_every = (uint32_t)atoi(optarg); break;
        case 's': w.seconds = atof(optarg); break;
        case 'n': w.steps = atoll(optarg); break;
        case 'r': w.seed = (uint64_t)atoll(optarg); break;
        case 'b': w.o.rate = atof(optarg) * 1e6 / 8; break;
        case 'k': w.o.rules.preset = WEFT_PRESET_SYNC; break;
        case 'L': w.o.insecure_lab = 1; break;
        case 'N': w.o.lab_name = optarg; break;
        default: return 64;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    check(weft_log_open(WEFT_LOG_INFO, -1, NULL));
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    set_model(&w.o.model, layers, hidden);
    run(&w);
    return 0;
}
