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
#include "runtime/sites/log.h"
#include "runtime/sites/message.h"
#include "runtime/sites/sites.h"
#include "tests/support/scratch.h"

#define SITES    4
#define DEADLINE 300.0 /* s: of anything here */

static weft_model_desc model = {.family = WEFT_LLAMA,
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
                               .ready_fd = h->ready,
                               .machine = {.suspect_ns = 500000000, .fence_ns = 1500000000}};
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

/* --- what all must agree about ----------------------------------------------------------------------------------------- */

/* A number for the outer weights of each fragment at each version: whoever comes first says it, the others must agree. */
enum { FRAGMENTS = 8, VERSIONS = 4096 };
static struct {
    pthread_mutex_t lock;
    uint64_t print[FRAGMENTS][VERSIONS];
    int compared, differ;
} book = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void open_book(void) {
    memset(book.print, 0, sizeof book.print);
    book.compared = book.differ = 0;
}

static void enter(weft_sites *s, int p) {
    weft_sites_hold(s, 1); /* a site that is behind goes on catching up */
    const uint64_t version = weft_sites_version(s, p);
    const unsigned char *b = (const unsigned char *)weft_sites_weights(s, p);
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; version < VERSIONS && i < weft_sites_fragments(s)->item[p].elements * sizeof(float);
         i++)
        h = (h ^ b[i]) * 1099511628211ull;
    weft_sites_hold(s, 0);
    if (version >= VERSIONS) return;
    pthread_mutex_lock(&book.lock);
    uint64_t *said = &book.print[p][version];
    if (*said) book.compared++;
    if (*said && *said != h) book.differ++;
    *said = h;
    pthread_mutex_unlock(&book.lock);
}

/* --- a site ----------------------------------------------------------------------------------------------------------- */

typedef struct live_site {
    const live_hub *hub;
    char name[16];
    int number, steps, begins;  /* begins: with weights of its own seed */
    volatile sig_atomic_t stop; /* killed: it vanishes */
    weft_sites_rules rules;
    double rate; /* bytes/s that it may send; 0: no limit */
    pthread_t thread;
    /* what came of it */
    weft_status result;
    char why[512];
    const char *doing;
    volatile uint64_t merged, rebased, replaced;
    volatile int joined, step;
    volatile int flip; /* a bit of its outer weights is to fall over */
} live_site;

/* As of a broken memory. */
static void flip(live_site *v, weft_sites *s) {
    size_t n = 0;
    const weft_sites_array *a = weft_sites_arrays(s, &n);
    weft_sites_hold(s, 1);
    ((unsigned char *)(a[0].ptr + 100))[2] ^= 1;
    weft_sites_hold(s, 0);
    v->flip = 0;
}

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
    enter(s, p);
    for (size_t i = 0; i < w->f->item[p].elements; i++)
        w->of[p][i] = what == WEFT_SITES_REBASE ? w->of[p][i] + vector[i] : vector[i];
    return WEFT_OK;
}

static weft_status train(live_site *v, weft_sites *s, weights *w, float *vector) {
    const weft_sites_work work = {
        .tokens = 1000 + 100 * (uint64_t)v->number, .steps = v->rules.every, .loss = 2};
    for (v->step = 1; v->step <= v->steps && !v->stop; v->step++) {
        v->doing = "training";
        for (int p = 0; p < w->f->n; p++)
            for (size_t i = 0; i < w->f->item[p].used; i++) w->of[p][i] += 1e-3f * noise(&w->rng);
        pause_ms(2);
        if (v->flip) flip(v, s);
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
    return weft_sites_leave(s, (int64_t)(DEADLINE * 1e3));
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
    for (int p = 0; r >= 0 && p < w.f->n; p++) {
        memcpy(w.of[p], weft_sites_weights(s, p), w.f->item[p].elements * sizeof **w.of);
        enter(s, p);
    }
    v->joined = r >= 0;
    if (r >= 0) r = train(v, s, &w, vector);
    if (r >= 0 && !v->stop) r = last_words(v, s, &w, vector);
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
                               .rate = v->rate,
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

static void start_slow_site(live_site *v, const live_hub *h, int number, int steps, weft_sites_rules r,
                            int begins, double rate) {
    memset(v, 0, sizeof *v);
    v->rate = rate;
    v->begins = begins;
    v->hub = h;
    v->number = number;
    v->steps = steps;
    v->rules = r;
    snprintf(v->name, sizeof v->name, "site%d", number);
    assert_int_equal(pthread_create(&v->thread, NULL, run_site, v), 0);
}

static void start_site(live_site *v, const live_hub *h, int number, int steps, weft_sites_rules r,
                       int begins) {
    start_slow_site(v, h, number, steps, r, begins, 0);
}

static void end_site(live_site *v) {
    pthread_join(v->thread, NULL);
    if (v->result < 0) fail_msg("%s, %s at step %d: %s", v->name, v->doing, v->step, v->why);
    printf("  %s: %llu rounds with it, %llu without, %llu replaced\n", v->name, (unsigned long long)v->merged,
           (unsigned long long)v->rebased, (unsigned long long)v->replaced);
}

/* --- tests ------------------------------------------------------------------------------------------------------------ */

static void begin(void **dir, live_hub *h) {
    memset(h, 0, sizeof *h);
    open_book();
    assert_int_equal(scratch_make(dir), 0);
    snprintf(h->dir, sizeof h->dir, "%s/hub", (char *)*dir);
    start_hub(h);
}

/* The longest time between two commits, by the log: longer than the shortest deadline of a round (10 s), and somebody has
 * waited in vain for somebody. */
static double longest_pause(const live_hub *h) {
    weft_hub_log *l = NULL;
    const weft_hub_log_opts o = {.size = sizeof o, .read_only = 1};
    uint64_t last = 0, longest = 0;
    assert_ok(weft_hub_log_open(h->dir, &o, &l, NULL));
    for (uint64_t seq = 1; seq <= l->seq; seq++) {
        weft_log_record r;
        assert_ok(weft_hub_log_read(l, seq, &r));
        if (r.type != WEFT_SITE_COMMIT) continue;
        if (last && r.unix_ns - last > longest) longest = r.unix_ns - last;
        last = r.unix_ns;
    }
    weft_hub_log_close(l);
    return (double)longest * 1e-9;
}

/* Sites that the hub gave up because they did not finish a round in time: where nobody was disturbed, a fault of ours. */
static int stuck(const live_hub *h) {
    const weft_hub_log_opts o = {.size = sizeof o, .read_only = 1};
    weft_hub_log *l = NULL;
    int n = 0;
    assert_ok(weft_hub_log_open(h->dir, &o, &l, NULL));
    for (uint64_t seq = 1; seq <= l->seq; seq++) {
        static weft_site_message m;
        weft_log_record r;
        assert_ok(weft_hub_log_read(l, seq, &r));
        assert_ok(weft_site_unpack(r.type, r.body, r.body_bytes, &m));
        n += m.type == WEFT_SITE_MEMBER && m.u.member.reason == WEFT_WHY_STUCK;
    }
    weft_hub_log_close(l);
    return n;
}

static void end(void **dir, live_hub *h, int others) {
    stop_hub(h);
    const double pause = longest_pause(h);
    printf("  %.1f s at most between two commits\n", pause);
    printf("  %d versions of fragments compared, %d differ\n", book.compared, book.differ);
    assert_int_equal(book.differ, 0);
    assert_true(!others || book.compared > 0);
    assert_int_equal(scratch_remove(dir), 0);
}

static void until_merged(const live_site *v, uint64_t rounds) {
    for (const double until = weft_now() + DEADLINE; v->merged < rounds; pause_ms(5))
        if (weft_now() > until)
            fail_msg("%s has %llu rounds, not %llu; it is %s at step %d", v->name,
                     (unsigned long long)v->merged, (unsigned long long)rounds, v->doing, v->step);
}

static void agree(weft_sites_rules r, int n, int steps) {
    void *dir = NULL;
    live_hub h;
    live_site v[SITES];
    begin(&dir, &h);
    for (int i = 0; i < n; i++) start_site(&v[i], &h, i, steps, r, 1);
    for (int i = 0; i < n; i++) end_site(&v[i]);
    for (int i = 0; i < n; i++) assert_true(v[i].merged > 0);
    assert_int_equal(stuck(&h), 0);
    end(&dir, &h, n > 1);
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

/* A site with weights of its own comes when rounds have been; another one vanishes and comes back with nothing. */
static void come_and_go(void **state) {
    const weft_sites_rules r = rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
    void *dir = NULL;
    live_hub h;
    live_site v[SITES];
    (void)state;
    begin(&dir, &h);
    start_site(&v[0], &h, 0, 1000000, r, 1);
    start_site(&v[1], &h, 1, 1000000, r, 1);
    until_merged(&v[0], 6);
    start_site(&v[2], &h, 2, 1000000, r, 77);
    until_merged(&v[2], 4);
    v[1].stop = 1;
    end_site(&v[1]);
    until_merged(&v[0], v[0].merged + 4);
    start_site(&v[1], &h, 1, 1000000, r, 78);
    until_merged(&v[1], 4);
    until_merged(&v[2], v[2].merged + 4);
    for (int i = 0; i < 3; i++) v[i].stop = 1;
    for (int i = 0; i < 3; i++) end_site(&v[i]);
    end(&dir, &h, 1);
}

/* The hub ends and comes back: nobody has to join again, and rounds go on. */
static void hub_comes_back(void **state) {
    const weft_sites_rules r = rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT8B128, WEFT_CODEC_INT8B128);
    void *dir = NULL;
    live_hub h;
    live_site v[2];
    (void)state;
    begin(&dir, &h);
    for (int i = 0; i < 2; i++) start_site(&v[i], &h, i, 1000000, r, 1);
    for (int i = 0; i < 2; i++) until_merged(&v[i], 6);
    const uint64_t replaced[2] = {v[0].replaced, v[1].replaced}; /* who came second had to take the first's */
    for (int k = 0; k < 3; k++) {
        until_merged(&v[0], v[0].merged + 3);
        stop_hub(&h);
        pause_ms(500);
        start_hub(&h);
        for (int i = 0; i < 2; i++) until_merged(&v[i], v[i].merged + 3);
    }
    for (int i = 0; i < 2; i++) assert_int_equal(v[i].replaced, replaced[i]);
    for (int i = 0; i < 2; i++) v[i].stop = 1;
    for (int i = 0; i < 2; i++) end_site(&v[i]);
    end(&dir, &h, 1);
}

/* A bit of one of three falls over. Audits: it is found, and the site gets the others' bits again. Without them nobody
 * knows. */
static void a_bit_falls_over(int audits) {
    weft_sites_rules r = rules(WEFT_PRESET_STREAM, WEFT_CODEC_INT4B128, WEFT_CODEC_INT8B128);
    void *dir = NULL;
    live_hub h;
    live_site v[3];
    r.every =
        150; /* commits far enough apart for who comes back to be compared with the others at one version */
    r.audit_every = audits ? 2 : 0;
    begin(&dir, &h);
    for (int i = 0; i < 3; i++) start_site(&v[i], &h, i, 1000000, r, 1);
    for (int i = 0; i < 3; i++) until_merged(&v[i], 6);
    const uint64_t replaced = v[1].replaced;
    v[1].flip = 1;
    for (const double until = weft_now() + DEADLINE; audits && v[1].replaced == replaced; pause_ms(5))
        if (weft_now() > until) fail_msg("the audits find nothing");
    if (!audits) until_merged(&v[0], v[0].merged + 9);
    assert_true(book.differ > 0); /* until it was found */
    if (audits) {
        until_merged(&v[1], v[1].merged + 3);
        open_book();
    }
    until_merged(&v[0], v[0].merged + 9);
    if (!audits)
        assert_true(book.differ >
                    3); /* it stays (a site that is late twice takes its own Theta, with the bit) */
    if (!audits) book.differ = 0;
    for (int i = 0; i < 3; i++) v[i].stop = 1;
    for (int i = 0; i < 3; i++) end_site(&v[i]);
    end(&dir, &h, 1);
}

static void audits_find_a_bit(void **state) {
    (void)state;
    a_bit_falls_over(1);
    a_bit_falls_over(0);
}

/* The share of member m in the last commit of all sites together; what is equal if there is none yet. */
static uint32_t last_share(const live_hub *h, int m) {
    const weft_hub_log_opts o = {.size = sizeof o, .read_only = 1};
    weft_hub_log *l = NULL;
    uint32_t share = WEFT_PARTS_ONE / SITES;
    assert_ok(weft_hub_log_open(h->dir, &o, &l, NULL));
    for (uint64_t seq = 1; seq <= l->seq; seq++) {
        static weft_site_message msg;
        weft_log_record r;
        assert_ok(weft_hub_log_read(l, seq, &r));
        assert_ok(weft_site_unpack(r.type, r.body, r.body_bytes, &msg));
        if (msg.type != WEFT_SITE_COMMIT || weft_site_count(msg.u.commit.members) != SITES) continue;
        if (!msg.u.commit.gather) share = msg.u.commit.shares[m];
    }
    weft_hub_log_close(l);
    return share;
}

/* One of four may send at a quarter of the others' rate: it comes to reduce less than they do. */
static void a_slow_line_has_a_smaller_part(void **state) {
    const weft_sites_rules r = rules(WEFT_PRESET_SYNC, WEFT_CODEC_F32, WEFT_CODEC_F32);
    void *dir = NULL;
    live_hub h;
    live_site v[SITES];
    (void)state;
    model.hidden = 64; /* a round takes seconds on such lines */
    model.head_dim = 16;
    model.ffn = 256;
    begin(&dir, &h);
    for (int i = 0; i < SITES; i++) {
        start_slow_site(&v[i], &h, i, 1000000, r, 1, i == 0 ? 5e5 : 2e6);
        while (!v[i].joined) pause_ms(5); /* so that it is member i */
    }
    const uint32_t equal = WEFT_PARTS_ONE / SITES;
    uint32_t share = equal;
    for (const double until = weft_now() + 5 * DEADLINE; share > equal / 2 && weft_now() < until;
         pause_ms(5000))
        share = last_share(&h, 0);
    printf("  its share: %.3f of all\n", (double)share / WEFT_PARTS_ONE);
    assert_true(share <= equal / 2);
    for (int i = 0; i < SITES; i++) v[i].stop = 1;
    for (int i = 0; i < SITES; i++) end_site(&v[i]);
    end(&dir, &h, 1);
}

int main(int argc, char **argv) {
    const struct CMUnitTest slow[] = {cmocka_unit_test(a_slow_line_has_a_smaller_part)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_site),    cmocka_unit_test(two_sites),      cmocka_unit_test(four_sites),
        cmocka_unit_test(come_and_go), cmocka_unit_test(hub_comes_back), cmocka_unit_test(audits_find_a_bit),
    };
    (void)weft_log_open(WEFT_LOG_INFO, -1, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    return argc > 1 && !strcmp(argv[1], "slow") ? cmocka_run_group_tests(slow, NULL, NULL)
                                                : cmocka_run_group_tests(tests, NULL, NULL);
}
