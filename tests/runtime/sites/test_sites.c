/* Live sites around a live hub, in one process: threads in place of jobs, loopback in place of a wide-area network, drawn
 * numbers in place of training; all else is real. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "runtime/sites/hub.h"
#include "runtime/sites/sites.h"
#include "tests/support/scratch.h"

#define SITES    4
#define DEADLINE 60.0 /* s: of anything here */

static const weft_model_desc model = {.family = WEFT_LLAMA,
                                      .layers = 4,
                                      .hidden = 32,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = 8,
                                      .ffn = 64,
                                      .context = 32,
                                      .vocab = 250,
                                      .vocab_padded = 256,
                                      .norm_eps = 1e-5,
                                      .rope_theta = 10000,
                                      .init_std = 0.02};

/* --- the hub ---------------------------------------------------------------------------------------------------------- */

typedef struct live_hub {
    char dir[1024], address[64];
    volatile sig_atomic_t stop;
    pthread_t thread;
    weft_status result;
    int ready;
} live_hub;

static void *run_hub(void *arg) {
    live_hub *h = arg;
    const weft_hub_config c = {.size = sizeof c,
                               .dir = h->dir,
                               .listen = h->address[0] ? h->address : "127.0.0.1:0",
                               .run = "lab",
                               .insecure_lab = 1,
                               .ready_fd = h->ready};
    h->result = weft_hub_run(&c, &h->stop);
    if (h->result < 0) fprintf(stderr, "hub: %s\n", weft_last_error());
    return NULL;
}

/* Begins, or begins again at the same address. */
static void start_hub(live_hub *h) {
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    h->ready = fd[1];
    h->stop = 0;
    assert_int_equal(pthread_create(&h->thread, NULL, run_hub, h), 0);
    char line[64] = "";
    assert_true(read(fd[0], line, sizeof line - 1) > 0);
    line[strcspn(line, "\n")] = 0;
    snprintf(h->address, sizeof h->address, "%s", line);
    close(fd[0]);
}

static void stop_hub(live_hub *h) {
    h->stop = 1;
    pthread_join(h->thread, NULL);
    assert_int_equal(h->result, WEFT_OK);
}

/* --- a site ----------------------------------------------------------------------------------------------------------- */

typedef struct live_site {
    const live_hub *hub;
    char name[16];
    int number, steps, begins; /* begins: with weights of its own seed */
    volatile sig_atomic_t stop; /* killed: it vanishes */
    weft_sites_rules rules;
    pthread_t thread;
    /* what came of it */
    weft_status result;
    char why[512];
    const char *doing;
    uint64_t merged, rebased, replaced;
    float *weights; /* all fragments at the end */
    size_t n;
    int step;
} live_site;

static float noise(uint64_t *s) {
    *s = *s * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(*s >> 40) / (1 << 24) - 0.5);
}

static void pause_ms(long ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* What a trainer has of it. */
typedef struct weights {
    float **of; /* by fragment */
    const weft_fragments *f;
    uint64_t rng;
} weights;

static weft_status take_in(live_site *v, weft_sites *s, weights *w, float *vector) {
    int p;
    const weft_sites_what what = weft_sites_news(s, &p);
    if (what == WEFT_SITES_LOST) return weft_sites_error(s);
    if (what == WEFT_SITES_NOTHING) return WEFT_OK;
    WEFT_TRY(weft_sites_merge(s, p, vector));
    v->merged += what == WEFT_SITES_MERGE;
    v->rebased += what == WEFT_SITES_REBASE;
    v->replaced += what == WEFT_SITES_REPLACE;
    for (size_t i = 0; i < w->f->item[p].elements; i++)
        w->of[p][i] = what == WEFT_SITES_REBASE ? w->of[p][i] + vector[i] : vector[i];
    return WEFT_OK;
}

static weft_status train(live_site *v, weft_sites *s, weights *w, float *vector) {
    const weft_sites_work work = {.tokens = 1000 + 100 * (uint64_t)v->number, .steps = v->rules.every, .loss = 2};
    for (v->step = 1; v->step <= v->steps && !v->stop; v->step++) {
        v->doing = "training";
        for (int p = 0; p < w->f->n; p++)
            for (size_t i = 0; i < w->f->item[p].used; i++) w->of[p][i] += 1e-3f * noise(&w->rng);
        pause_ms(2);
        WEFT_TRY(take_in(v, s, w, vector));
        const int p = weft_sites_due(s, v->step, 0.002);
        if (p >= 0) WEFT_TRY(weft_sites_offer(s, p, w->of[p], &work));
        v->doing = "waiting";
        for (const double until = weft_now() + DEADLINE; weft_sites_must_wait(s) && !v->stop; pause_ms(1)) {
            WEFT_TRY(take_in(v, s, w, vector));
            if (weft_now() > until) return weft_fail(WEFT_ERR_TIMEOUT, "step %d: waits for ever", v->step);
        }
    }
    return WEFT_OK;
}

static weft_status last_words(live_site *v, weft_sites *s, weights *w, float *vector) {
    const weft_sites_work work = {.tokens = 1000, .steps = 1, .loss = 2};
    const double until = weft_now() + DEADLINE;
    for (int p = 0; p < w->f->n; p++) {
        v->doing = "offering for the last time";
        for (; !weft_sites_may(s, p); pause_ms(1)) {
            WEFT_TRY(take_in(v, s, w, vector));
            if (weft_now() > until) return weft_fail(WEFT_ERR_TIMEOUT, "fragment %d may not leave", p);
        }
        WEFT_TRY(weft_sites_offer(s, p, w->of[p], &work));
    }
    v->doing = "waiting for the last rounds";
    for (int p = 0; p < w->f->n; p++)
        for (; !weft_sites_back(s, p); pause_ms(1)) {
            WEFT_TRY(take_in(v, s, w, vector));
            if (weft_now() > until) return weft_fail(WEFT_ERR_TIMEOUT, "fragment %d does not come back", p);
        }
    v->doing = "leaving";
    return weft_sites_leave(s, 20000);
}

static weft_status live(live_site *v, weft_sites *s) {
    weights w = {.f = weft_sites_fragments(s), .rng = 1000 + (uint64_t)v->number};
    float *vector = calloc(w.f->largest, sizeof *vector);
    w.of = calloc((size_t)w.f->n, sizeof *w.of);
    uint64_t rng = v->begins ? (uint64_t)v->begins : 1;
    for (int p = 0; p < w.f->n; p++) {
        w.of[p] = calloc(w.f->item[p].elements, sizeof **w.of);
        for (size_t i = 0; i < w.f->item[p].used; i++) w.of[p][i] = noise(&rng);
        weft_sites_begin(s, p, w.of[p]);
    }
    v->doing = "joining";
    weft_status r = weft_sites_join(s, (int64_t)(DEADLINE * 1e3), NULL, NULL);
    for (int p = 0; r >= 0 && p < w.f->n; p++)
        memcpy(w.of[p], weft_sites_weights(s, p), w.f->item[p].elements * sizeof **w.of);
    if (r >= 0) r = train(v, s, &w, vector);
    if (r >= 0 && !v->stop) r = last_words(v, s, &w, vector);
    for (int p = 0; p < w.f->n; p++) v->n += w.f->item[p].elements;
    v->weights = calloc(v->n, sizeof *v->weights);
    for (int p = 0, at = 0; p < w.f->n; at += (int)w.f->item[p].elements, p++)
        memcpy(v->weights + at, weft_sites_weights(s, p), w.f->item[p].elements * sizeof *v->weights);
    for (int p = 0; p < w.f->n; p++) free(w.of[p]);
    free(w.of);
    free(vector);
    return r;
}

static void *run_site(void *arg) {
    live_site *v = arg;
    weft_sites *s = NULL;
    const weft_sites_opts o = {.size = sizeof o,
                               .hub = v->hub->address,
                               .lab_name = v->name,
                               .insecure_lab = 1,
                               .listen = "127.0.0.1:0",
                               .device = "cpu",
                               .model = model,
                               .rules = v->rules,
                               .stop = &v->stop};
    v->result = weft_sites_open(&o, &s);
    if (v->result >= 0) v->result = live(v, s);
    if (v->result < 0) snprintf(v->why, sizeof v->why, "%s", weft_last_error());
    weft_sites_close(s);
    return NULL;
}

static weft_sites_rules rules(weft_sites_preset preset, weft_codec up, weft_codec down) {
    return (weft_sites_rules){.preset = preset,
                              .every = 20,
                              .up = up,
                              .down = down,
                              .chunk = 4096,
                              .mu = 0.9f,
                              .min_sites = 1,
                              .audit_every = 2};
}

static void start_site(live_site *v, const live_hub *h, int number, int steps, weft_sites_rules r) {
    memset(v, 0, sizeof *v);
    v->hub = h;
    v->number = number;
    v->steps = steps;
    v->rules = r;
    snprintf(v->name, sizeof v->name, "site%d", number);
    assert_int_equal(pthread_create(&v->thread, NULL, run_site, v), 0);
}

static void end_site(live_site *v) {
    pthread_join(v->thread, NULL);
    if (v->result < 0) fail_msg("%s, %s at step %d: %s", v->name, v->doing, v->step, v->why);
    printf("  %s: %llu rounds with it, %llu without, %llu replaced\n", v->name, (unsigned long long)v->merged,
           (unsigned long long)v->rebased, (unsigned long long)v->replaced);
}

/* --- tests ------------------------------------------------------------------------------------------------------------ */

static void agree(weft_sites_rules r, int n, int steps) {
    live_hub h = {0};
    live_site v[SITES];
    void *dir = NULL;
    assert_int_equal(scratch_make(&dir), 0);
    snprintf(h.dir, sizeof h.dir, "%s/hub", (char *)dir);
    start_hub(&h);
    for (int i = 0; i < n; i++) start_site(&v[i], &h, i, steps, r);
    for (int i = 0; i < n; i++) end_site(&v[i]);
    stop_hub(&h);
    /* who leaves last has seen rounds that the others have not: all who left together have the same */
    for (int i = 0; i < n; i++) {
        assert_true(v[i].merged > 0);
        free(v[i].weights);
    }
    assert_int_equal(scratch_remove(&dir), 0);
}

static void one_site(void **state) {
    (void)state;
    agree(rules(WEFT_PRESET_SYNC, WEFT_CODEC_F32, WEFT_CODEC_F32), 1, 100);
    agree(rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128), 1, 100);
}

static void two_sites(void **state) {
    (void)state;
    agree(rules(WEFT_PRESET_SYNC, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128), 2, 100);
    agree(rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128), 2, 200);
}

static void four_sites(void **state) {
    (void)state;
    agree(rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT8B128, WEFT_CODEC_INT8B128), 4, 200);
    agree(rules(WEFT_PRESET_SYNC, WEFT_CODEC_TOPK2, WEFT_CODEC_F32), 4, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_site),
        cmocka_unit_test(two_sites),
        cmocka_unit_test(four_sites),
    };
    (void)weft_log_open(WEFT_LOG_INFO, -1, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
