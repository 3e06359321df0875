/* See rounds.h. */
#include "tests/runtime/sites/rounds.h"

#include "base/rng.h"
#include "tests/support/scratch.h"

static weft_backend *backend[2];
weft_coder rounds_coder[2];

uint64_t rounds_below(rounds_rng *r, uint64_t n) {
    return weft_rng_u64(r->seed, 1, r->at++) % n;
}

double rounds_normal(rounds_rng *r) {
    return weft_rng_normal(r->seed, 2, r->at++);
}

int rounds_open(void **state) {
    static const char *const name[2] = {"ref", "cpu"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        weft_exec_opts o = {.size = sizeof o, .threads = 1};
        if (weft_backend_open(name[i], NULL, &backend[i]) < 0) return -1;
        if (weft_exec_create(backend[i], &o, &rounds_coder[i].exec) < 0) return -1;
        rounds_coder[i].ops = weft_backend_ops(backend[i]);
    }
    return 0;
}

int rounds_close(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        weft_exec_destroy(rounds_coder[i].exec);
        weft_backend_close(backend[i]);
    }
    return 0;
}

void rounds_begin_net(rounds_net *n, uint64_t seed, int sites, weft_chunks chunks, weft_codec up,
                      weft_codec down) {
    *n = (rounds_net){.rng = {seed, 0}, .chunks = chunks, .up = up, .down = down, .sites = sites};
    uint16_t id = (uint16_t)rounds_below(&n->rng, 8);
    for (int i = 0; i < sites; i++, id = (uint16_t)(id + 1 + rounds_below(&n->rng, 6))) {
        n->id[i] = id;
        n->alive[i] = 1;
        n->d[i] = calloc(weft_chunks_padded(chunks), sizeof *n->d[i]);
        weft_exchange_opts o = {.size = sizeof o,
                                .self = id,
                                .chunks = chunks,
                                .up = up,
                                .down = down,
                                .coder = &rounds_coder[i % 2]};
        assert_non_null(n->d[i]);
        assert_int_equal(weft_exchange_create(&o, &n->x[i]), WEFT_OK);
    }
}

void rounds_end_net(rounds_net *n) {
    rounds_settle_down(n);
    for (int i = 0; i < n->sites; i++) {
        weft_exchange_destroy(n->x[i]);
        free(n->d[i]);
    }
}

uint64_t rounds_members(const rounds_net *n) {
    uint64_t set = 0;
    for (int i = 0; i < n->sites; i++)
        if (n->alive[i]) set |= 1ull << n->id[i];
    return set;
}

void rounds_offer(rounds_net *n) {
    double total = 0, w[ROUNDS_SITES];
    for (int i = 0; i < n->sites; i++) total += w[i] = 0.1 + (double)rounds_below(&n->rng, 1000);
    for (int i = 0; i < n->sites; i++) {
        uint64_t bad = 1;
        weft_site_hash root;
        n->weight[n->id[i]] = (float)(w[i] / total);
        for (size_t k = 0; k < n->chunks.elements; k++) n->d[i][k] = (float)rounds_normal(&n->rng) * 1e-3f;
        if (!n->alive[i]) continue;
        assert_int_equal(weft_exchange_offer(n->x[i], n->d[i], &bad, &root), WEFT_OK);
        assert_int_equal(bad, 0);
    }
}

/* Parts of random sizes, some empty. */
static void cut(rounds_net *n) {
    uint32_t count = weft_chunks_count(n->chunks), at = 0;
    int last = n->sites - 1;
    while (!n->alive[last]) last--;
    for (int i = 0, m = 0; m < WEFT_EXCHANGE_MEMBERS; m++) {
        n->bound[m] = at;
        if (i == n->sites || n->id[i] != m) continue;
        if (n->alive[i]) at = i == last ? count : at + (uint32_t)rounds_below(&n->rng, (count - at) / 2 + 2);
        if (at > count) at = count;
        i++;
    }
    n->bound[WEFT_EXCHANGE_MEMBERS] = at;
}

void rounds_attempt(rounds_net *n, uint64_t round, uint16_t attempt, int gather) {
    cut(n);
    n->terms = (weft_exchange_terms){round, attempt, gather, rounds_members(n), gather ? NULL : n->bound, 0};
    int first = (int)rounds_below(&n->rng, (uint64_t)n->sites);
    for (int k = 0; k < n->sites; k++) {
        int i = (first + k) % n->sites;
        if (!n->alive[i]) continue;
        assert_int_equal(weft_exchange_begin(n->x[i], &n->terms), WEFT_OK);
        for (uint64_t m = rounds_below(&n->rng, 40); m; m--) rounds_move(n); /* some hear of it later */
    }
}

static int site_of(const rounds_net *n, uint16_t id) {
    for (int i = 0; i < n->sites; i++)
        if (n->id[i] == id) return i;
    fail_msg("a chunk for member %u, which is none", id);
    return -1;
}

/* The transfer's data reaches its end, or gets lost at one of three places. */
static void land(rounds_net *n, rounds_flight *f) {
    int to = site_of(n, f->item.to), fate = (int)rounds_below(&n->rng, 100);
    weft_status s = WEFT_OK;
    f->used = 0;
    void *at = fate < n->trouble / 3 || !n->alive[to] ? NULL : weft_exchange_place(n->x[to], &f->item.chunk);
    if (fate < n->trouble / 3 || !n->alive[to]) {
        s = WEFT_ERR_PEER;
    } else if (at && fate < n->trouble) {
        memset(at, 0xee, f->item.chunk.bytes / 2);
        weft_exchange_lost(n->x[to], &f->item.chunk, at);
        s = WEFT_ERR_PEER;
    } else if (at) {
        memcpy(at, f->item.data, f->item.chunk.bytes);
        assert_true(weft_exchange_arrived(n->x[to], &f->item.chunk, at) >= 0);
        n->delivered++;
        if (rounds_below(&n->rng, 100) < (uint64_t)n->trouble) { /* it was there, but nobody heard of it */
            s = WEFT_ERR_PEER;
            n->repeated++;
        }
    }
    weft_exchange_sent(n->x[f->from], f->item.to, &f->item.chunk, f->item.data, s);
}

int rounds_move(rounds_net *n) {
    uint64_t first = rounds_below(&n->rng, ROUNDS_FLIGHTS), who = rounds_below(&n->rng, (uint64_t)n->sites);
    int take_off = rounds_below(&n->rng, 2) != 0;
    for (int pass = 0; pass < 2; pass++, take_off = !take_off)
        for (uint64_t k = 0; k < ROUNDS_FLIGHTS; k++) {
            rounds_flight *f = &n->flight[(first + k) % ROUNDS_FLIGHTS];
            if (f->used == take_off) continue;
            if (f->used) {
                land(n, f);
                return 1;
            }
            for (int i = 0; i < n->sites && !f->used; i++) {
                int from = (int)((who + (uint64_t)i) % (uint64_t)n->sites);
                if (!n->alive[from] || !weft_exchange_next(n->x[from], ~0ull, &f->item)) continue;
                f->used = 1;
                f->from = from;
            }
            if (f->used) return 1;
            break;
        }
    return 0;
}

void rounds_settle_down(rounds_net *n) {
    for (int i = 0; i < ROUNDS_FLIGHTS; i++)
        if (n->flight[i].used) land(n, &n->flight[i]);
}

static int all_have(const rounds_net *n, uint64_t set) {
    for (int i = 0; i < n->sites; i++) {
        int owner = n->terms.gather || n->bound[n->id[i]] < n->bound[n->id[i] + 1];
        if (n->alive[i] && owner && (weft_exchange_have(n->x[i]) & set) != set) return 0;
    }
    return 1;
}

/* A member that waits too long asks for what is missing. */
static void pull(rounds_net *n, int i) {
    weft_exchange_chunk c;
    uint64_t cursor = 0;
    while (weft_exchange_missing(n->x[i], n->terms.round, ~0ull, &cursor, &c)) {
        int from = site_of(n, c.src);
        void *at = weft_exchange_place(n->x[i], &c);
        assert_non_null(at);
        const void *data = weft_exchange_serve(n->x[from], &c);
        assert_non_null(data);
        memcpy(at, data, c.bytes);
        weft_exchange_sent(n->x[from], n->id[i], &c, data, WEFT_OK);
        assert_int_equal(weft_exchange_arrived(n->x[i], &c, at), WEFT_OK);
        n->pulled++;
    }
}

void rounds_collect(rounds_net *n) {
    uint64_t members = n->terms.members;
    for (long steps = 0; !all_have(n, members); steps++) {
        if (steps > 1000000) fail_msg("the contributions do not arrive");
        if (rounds_move(n)) continue;
        for (int i = 0; i < n->sites; i++)
            if (n->alive[i]) pull(n, i);
    }
}

void rounds_seal(rounds_net *n, uint64_t set) {
    for (int i = 0; i < n->sites; i++)
        if (n->alive[i])
            assert_int_equal(weft_exchange_seal(n->x[i], n->terms.round, n->terms.attempt, set, n->weight),
                             WEFT_OK);
}

void rounds_finish(rounds_net *n, weft_site_hash *root) {
    int waiting = 1;
    for (long steps = 0; waiting; steps++) {
        waiting = 0;
        for (int i = 0; i < n->sites; i++) {
            weft_site_hash r;
            uint32_t left;
            if (!n->alive[i]) continue;
            assert_int_equal(weft_exchange_reduce(n->x[i], (uint32_t)rounds_below(&n->rng, 3), &left),
                             WEFT_OK);
            waiting |= weft_exchange_got(n->x[i], n->terms.round, &r) != WEFT_OK;
        }
        rounds_move(n);
        if (steps > 1000000) fail_msg("the results do not arrive");
    }
    for (int i = 0, seen = 0; i < n->sites; i++) {
        weft_site_hash r;
        if (!n->alive[i]) continue;
        assert_int_equal(weft_exchange_got(n->x[i], n->terms.round, &r), WEFT_OK);
        if (seen++) assert_memory_equal(&r, root, sizeof r);
        *root = r;
    }
}

void rounds_commit(rounds_net *n, uint64_t set) {
    for (int i = 0; i < n->sites; i++)
        if (n->alive[i]) assert_int_equal(weft_exchange_commit(n->x[i], &n->terms, set, n->weight), WEFT_OK);
}

void rounds_reference(const rounds_net *n, int gather, int count, const int *order, float *x) {
    const weft_coder *k = &rounds_coder[0];
    unsigned char *code = malloc(weft_coder_bytes(WEFT_CODEC_F32, n->chunks.chunk));
    assert_non_null(code);
    for (uint32_t c = 0; c < weft_chunks_count(n->chunks); c++) {
        size_t at = weft_chunks_at(n->chunks, c), m = weft_chunks_elements(n->chunks, c);
        uint64_t bad;
        memset(x + at, 0, m * sizeof *x);
        for (int i = 0; i < count; i++) {
            assert_int_equal(weft_coder_encode(k, n->up, n->d[order[i]] + at, m, code, &bad), WEFT_OK);
            assert_int_equal(weft_coder_add(k, n->up, code, m, n->weight[n->id[order[i]]], x + at), WEFT_OK);
        }
        if (gather) continue;
        assert_int_equal(weft_coder_encode(k, n->down, x + at, m, code, &bad), WEFT_OK);
        assert_int_equal(weft_coder_decode(k, n->down, code, m, x + at), WEFT_OK);
    }
    free(code);
}
