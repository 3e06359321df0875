/* See wan_case.h. */
#include "tests/comm/wan/wan_case.h"

#include "base/clock.h"
#include "base/rng.h"

test_run run_make(const char *name) {
    test_run r = {NULL, NULL};
    assert_ok(weft_wan_authority_create(name, 3600, &r.ca_cert, &r.ca_key));
    return r;
}

void run_free(test_run *r) {
    free(r->ca_cert);
    free(r->ca_key);
}

weft_wan_identity *run_member(const test_run *r, const char *site, const char *role) {
    char *cert = NULL, *key = NULL;
    weft_wan_identity *id = NULL;
    int64_t now = (int64_t)time(NULL);
    assert_ok(weft_wan_issue(r->ca_cert, r->ca_key, site, role, now - 60, now + 3600, &cert, &key));
    assert_ok(weft_wan_identity_load(r->ca_cert, cert, key, &id));
    free(cert);
    free(key);
    return id;
}

/* ---- chunks ---- */

uint32_t chunk_size(uint64_t seed, uint64_t i) {
    uint64_t r = weft_rng_u64(seed, 5, i);
    return r % 50 ? (uint32_t)(r >> 8) % 3000 : (uint32_t)(r >> 8) % 300000;
}

void chunk_fill(uint64_t seed, uint64_t i, uint8_t *p, size_t n) {
    uint64_t x = weft_rng_u64(seed, 6, i) | 1;
    for (size_t k = 0; k < n; k++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        p[k] = (uint8_t)(x >> 32);
    }
}

static uint32_t size_of(const test_end *e, uint64_t i) {
    return e->size ? e->size : chunk_size(e->seed, i);
}

/* ---- callbacks ---- */

static void on_up(void *arg, weft_wan_peer *p) {
    test_end *e = arg;
    e->ups++;
    e->peer = p;
}

static void on_down(void *arg, weft_wan_peer *p, weft_status why) {
    test_end *e = arg;
    (void)p;
    e->downs++;
    e->last_down = why;
}

static void on_message(void *arg, weft_wan_peer *p, uint16_t type, const void *body, size_t n) {
    test_end *e = arg;
    (void)p, (void)type;
    snprintf(e->last, sizeof e->last, "%.*s", (int)(n < 200 ? n : 200), (const char *)body);
    e->messages++;
}

static void *on_place(void *arg, weft_wan_peer *p, const weft_wan_chunk *h) {
    test_end *e = arg;
    (void)p;
    e->placed++;
    if (e->keep) return e->sink;
    assert_true(h->round < e->expect);
    assert_int_equal(h->bytes, size_of(e, h->round));
    assert_int_equal(e->seen[h->round], 0);
    if (e->refuse_every && h->round % (uint64_t)e->refuse_every == 0) {
        e->seen[h->round]++;
        e->arrived++;
        return NULL;
    }
    assert_null(e->place[h->round]); /* not while it is being received */
    e->place[h->round] = malloc(h->bytes + 1u);
    assert_non_null(e->place[h->round]);
    return e->place[h->round];
}

static void on_arrived(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    test_end *e = arg;
    (void)p;
    e->arrived++;
    e->bytes += h->bytes;
    if (e->keep) return;
    uint8_t *want = malloc(h->bytes + 1u);
    assert_non_null(want);
    chunk_fill(e->seed, h->round, want, h->bytes);
    assert_ptr_equal(at, e->place[h->round]);
    assert_memory_equal(at, want, h->bytes);
    assert_int_equal(e->seen[h->round]++, 0);
    assert_true(h->fragment == 3 && h->chunk == (uint32_t)h->round && h->version == h->round * 7);
    free(want);
    free(at);
    e->place[h->round] = NULL;
}

static void on_lost(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    test_end *e = arg;
    (void)p;
    e->lost++;
    if (e->keep) return;
    assert_ptr_equal(at, e->place[h->round]);
    free(at);
    e->place[h->round] = NULL;
}

static void on_sent(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, const void *data, weft_status s) {
    test_end *e = arg;
    (void)p;
    e->sent_ok += s == WEFT_OK;
    e->sent_dropped += s == WEFT_DROPPED;
    e->sent_peer += s == WEFT_ERR_PEER;
    if (e->keep) return;
    assert_in_range(e->back[h->round]++, 0, e->two_peers);
    memset((void *)(uintptr_t)data, 0xee, h->bytes); /* whoever still reads it is found out */
    free((void *)(uintptr_t)data);
}

static int on_revoked(void *arg, const uint8_t fingerprint[WEFT_WAN_FINGERPRINT]) {
    const test_end *e = arg;
    return e->check_revoked && !memcmp(e->revoked, fingerprint, WEFT_WAN_FINGERPRINT);
}

/* ---- ends ---- */

void end_open(test_end *e, weft_wan_identity *id, const weft_wan_opts *o) {
    weft_wan_opts opts;
    memset(e, 0, sizeof *e);
    memset(&opts, 0, sizeof opts);
    if (o) opts = *o;
    e->id = id;
    opts.identity = id;
    opts.calls = (weft_wan_calls){.up = on_up,
                                  .down = on_down,
                                  .message = on_message,
                                  .chunk_place = on_place,
                                  .chunk_arrived = on_arrived,
                                  .chunk_lost = on_lost,
                                  .chunk_sent = on_sent,
                                  .revoked = on_revoked};
    opts.arg = e;
    if (!opts.listen) opts.listen = "127.0.0.1:0";
    assert_ok(weft_wan_open(&opts, &e->w));
}

void end_close(test_end *e) {
    weft_wan_close(e->w);
    weft_wan_identity_free(e->id);
    for (uint64_t i = 0; e->place && i < e->expect; i++) free(e->place[i]);
    free(e->place);
    free(e->seen);
    free(e->back);
    free(e->sink);
    memset(e, 0, sizeof *e);
}

void end_expect(test_end *e, uint64_t n, uint64_t seed, uint32_t size) {
    free(e->seen);
    free(e->back);
    free(e->place);
    e->expect = n;
    e->seed = seed;
    e->size = size;
    e->seen = calloc(n, 1);
    e->back = calloc(n, 1);
    e->place = calloc(n, sizeof *e->place);
    assert_true(e->seen && e->back && e->place);
}

void end_send(test_end *e, weft_wan_peer *to, uint64_t i, int priority) {
    uint32_t n = size_of(e, i);
    weft_wan_chunk h = {.fragment = 3,
                        .round = i,
                        .kind = WEFT_WAN_CONTRIB,
                        .chunk = (uint32_t)i,
                        .bytes = n,
                        .version = i * 7};
    uint8_t *data = malloc(n + 1u);
    assert_non_null(data);
    chunk_fill(e->seed, i, data, n);
    assert_ok(weft_wan_send_chunk(to, &h, data, priority));
}

void ends_for(test_end **e, int n, double seconds) {
    ends_until(e, n, NULL, NULL, seconds);
}

int ends_until(test_end **e, int n, int (*done)(void *arg), void *arg, double seconds) {
    double end = weft_now() + (done ? 20 * seconds : seconds);
    while (!done || !done(arg)) {
        if (weft_now() > end) return 0;
        for (int i = 0; i < n; i++) assert_ok(weft_wan_poll(e[i]->w, i == n - 1 ? 1 : 0));
    }
    return 1;
}

void end_address(const test_end *e, char out[32]) {
    snprintf(out, 32, "127.0.0.1:%d", weft_wan_port(e->w));
}

static int both_up(void *arg) {
    test_end **e = arg;
    return e[0]->peer && e[1]->peer && weft_wan_peer_up(e[0]->peer) && weft_wan_peer_up(e[1]->peer);
}

weft_wan_peer *ends_meet(test_end *a, test_end *b) {
    test_end *both[2] = {a, b};
    char address[32];
    weft_wan_peer *p = NULL;
    end_address(b, address);
    assert_ok(weft_wan_dial(a->w, address, weft_wan_identity_name(b->id), &p));
    assert_true(ends_until(both, 2, both_up, both, 10));
    assert_ptr_equal(p, a->peer);
    return p;
}
