/* The loader gives what the data set gives, whatever is made ahead, wherever it is sent, and however slow its owner is;
 * what is wrong is said where it is taken; it ends at any moment. */
#include <sched.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/dataset/loader.h"
#include "io/dataset/sampler.h"
#include "tests/support/scratch.h"

enum { T = 100, ROWS = 3, MICROS = 4, BATCH = 16, VOCAB = 500, TOKENS = 400000, AHEADS = 4 };

static const int aheads[AHEADS] = {0, 1, 2, 7};

/* BATCH samples a step in MICROS micro-batches, the last of which is short; samples beyond 2^40 do not exist. */
static weft_status next(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    const int *micros = arg;
    *n = at->micro == *micros - 1 ? ROWS - 1 : ROWS;
    for (size_t i = 0; i < *n; i++) g[i] = at->g + (uint64_t)at->micro * ROWS + i;
    if (at->g >> 40) return weft_fail(WEFT_ERR_ARG, "step at sample %llu", (unsigned long long)at->g);
    if (++at->micro == *micros) *at = (weft_loader_at){at->g + BATCH, 0};
    return WEFT_OK;
}
static int micros = MICROS;

static void make_shard(const char *path) {
    weft_shard_info info = {.vocab = VOCAB, .eot = 1, .tokenizer = 1};
    weft_shard_writer *w;
    static uint32_t ids[TOKENS];
    for (uint64_t i = 0; i < TOKENS; i++) ids[i] = (uint32_t)(weft_rng_u64(1, 1, i) % VOCAB);
    assert_ok(weft_shard_create(path, &info, &w));
    for (uint64_t at = 0; at < TOKENS; at += 1000) assert_ok(weft_shard_append(w, ids + at, NULL, 1000, 1));
    assert_ok(weft_shard_finish(w, NULL));
}

typedef struct setup {
    char path[4200];
    weft_data *d;
    weft_rows want;
} setup;

static void begin(setup *s, const char *dir) {
    snprintf(s->path, sizeof s->path, "%s/a.wtok.h5", dir);
    make_shard(s->path);
    const char *path = s->path;
    const weft_source_spec src[2] = {{"a", 3, &path, 1}, {"b", 1, &path, 1}};
    assert_ok(weft_data_open(src, 2, T, 5, 64, &s->d));
    assert_ok(weft_rows_alloc(ROWS, T, 1, &s->want));
}

static void end(setup *s) {
    weft_rows_free(&s->want);
    weft_data_close(s->d);
    assert_int_equal(unlink(s->path), 0);
}

static weft_loader *open_loader(const setup *s, int ahead) {
    weft_loader *l;
    const weft_loader_opts o = {sizeof o, ROWS, T, 1, ahead, next, &micros};
    assert_ok(weft_loader_create(s->d, &o, &l));
    return l;
}

/* The rows of the micro-batch at `at`, by the data set. */
static void check(setup *s, weft_loader_at at, const weft_rows *r) {
    uint64_t g[ROWS];
    size_t n;
    assert_ok(next(&micros, &at, g, &n));
    assert_ok(weft_data_rows(s->d, g, n, &s->want));
    for (size_t i = n * (T + 1); i < ROWS * (T + 1); i++) s->want.tok[i] = -1;
    for (size_t i = n * T; i < ROWS * T; i++) s->want.target[i] = -1, s->want.start[i] = 0;
    assert_memory_equal(r->tok, s->want.tok, ROWS * (T + 1) * 4);
    assert_memory_equal(r->target, s->want.target, ROWS * T * 4);
    assert_memory_equal(r->start, s->want.start, ROWS * T * 4);
}

/* Also: what comes next is what the plan says. */
static weft_status take(weft_loader *l, weft_loader_at at, weft_rows *r) {
    weft_loader_at after = at, want = at;
    uint64_t g[ROWS];
    size_t n;
    WEFT_TRY(weft_loader_take(l, &after, r));
    assert_ok(next(&micros, &want, g, &n));
    assert_int_equal(after.g, want.g);
    assert_int_equal(after.micro, want.micro);
    return WEFT_OK;
}

static void dawdle(uint64_t seed, uint64_t i) {
    const uint64_t r = weft_rng_u64(seed, 9, i);
    if (r % 4 == 0) usleep((unsigned)(r >> 8) % 300);
    if (r % 4 == 1) sched_yield();
}

static void in_order_and_with_jumps(void **state) {
    const uint64_t seed = test_seed();
    setup s;
    begin(&s, *state);
    for (int k = 0; k < AHEADS; k++)
        for (int jumps = 0; jumps < 2; jumps++) {
            weft_loader *l = open_loader(&s, aheads[k]);
            weft_loader_at at = {0};
            for (uint64_t i = 0; i < 300; i++) {
                weft_rows r;
                const uint64_t dice = weft_rng_u64(seed, (uint64_t)k, i);
                if (jumps && dice % 5 == 0)
                    at = (weft_loader_at){(dice >> 8) % 50 * BATCH, (int64_t)(dice >> 32) % MICROS};
                assert_ok(take(l, at, &r));
                dawdle(seed, i); /* what was taken stays as it is while others are made */
                check(&s, at, &r);
                uint64_t g[ROWS];
                size_t n;
                assert_ok(next(&micros, &at, g, &n));
            }
            weft_loader_destroy(l);
        }
    end(&s);
}

/* Control for the test above: rows kept beyond the next takes are overwritten. */
static void a_buffer_is_used_again(void **state) {
    setup s;
    weft_rows first, later;
    begin(&s, *state);
    weft_loader *l = open_loader(&s, 1);
    assert_ok(take(l, (weft_loader_at){0, 0}, &first));
    assert_ok(take(l, (weft_loader_at){0, 1}, &later));
    assert_ptr_not_equal(first.tok, later.tok);
    assert_ok(take(l, (weft_loader_at){0, 2}, &later));
    assert_ptr_equal(first.tok, later.tok);
    weft_loader_destroy(l);
    end(&s);
}

static void ends_at_any_moment(void **state) {
    const uint64_t seed = test_seed();
    setup s;
    begin(&s, *state);
    for (uint64_t i = 0; i < 200; i++) {
        weft_loader *l = open_loader(&s, (int)(i % 5));
        weft_rows r;
        for (uint64_t k = 0; k < i % 3; k++) assert_ok(take(l, (weft_loader_at){i * BATCH, (int64_t)k}, &r));
        dawdle(seed, i);
        weft_loader_destroy(l);
    }
    weft_loader_destroy(NULL);
    end(&s);
}

static void damage_is_told_where_it_is_taken(void **state) {
    setup s;
    begin(&s, *state);
    uint32_t source;
    uint64_t window, bad = 5 * BATCH + 4; /* in the second micro-batch of the sixth step */
    assert_ok(weft_data_locate(s.d, bad, &source, &window));
    weft_data_close(s.d);
    weft_shard h;
    assert_ok(shard_open(s.path, &h));
    const long at = (long)h.tokens_set->at + (long)window * T * 2 + 20;
    const uint64_t lo = window * T * 2 / SHARD_SEGMENT, hi = ((window + 1) * T * 2 + 2) / SHARD_SEGMENT;
    shard_close(&h);
    FILE *f = fopen(s.path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    const int byte = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    const char *path = s.path;
    const weft_source_spec src[2] = {{"a", 3, &path, 1}, {"b", 1, &path, 1}};
    for (int k = 0; k < AHEADS; k++) {
        assert_ok(weft_data_open(src, 2, T, 5, 64, &s.d));
        weft_loader *l = open_loader(&s, aheads[k]);
        weft_loader_at p = {0}, sound = {0};
        int failed = 0;
        for (int i = 0; i < 8 * MICROS && !failed; i++) {
            uint64_t g[ROWS];
            size_t n;
            int hit = 0;
            weft_rows r;
            weft_loader_at now = p;
            assert_ok(next(&micros, &p, g, &n));
            for (size_t j = 0; j < n; j++) { /* does it touch the damaged segment? */
                uint64_t w;
                assert_ok(weft_data_locate(s.d, g[j], &source, &w));
                hit |= (w + 1) * T * 2 + 1 >= lo * SHARD_SEGMENT && w * T * 2 < (hi + 1) * SHARD_SEGMENT;
            }
            weft_clear_error();
            weft_status st = take(l, now, &r);
            if (st < 0) {
                failed = 1;
                assert_true(hit);
                assert_int_equal(st, WEFT_ERR_CORRUPT);
                for (int again = 0; again < 2; again++) {
                    assert_non_null(strstr(weft_last_error(), "a.wtok.h5"));
                    assert_non_null(strstr(weft_last_error(), "sample "));
                    assert_int_equal(take(l, now, &r), WEFT_ERR_CORRUPT);
                }
            } else {
                sound = now;
            }
        }
        assert_true(failed);
        weft_rows r;
        if (sound.g || sound.micro) { /* it goes on elsewhere */
            assert_ok(take(l, sound, &r));
            check(&s, sound, &r);
        }
        assert_error(take(l, (weft_loader_at){(uint64_t)1 << 41, 0}, &r), WEFT_ERR_ARG, "step at sample");
        weft_loader_destroy(l);
        weft_data_close(s.d);
    }
    weft_rows_free(&s.want);
}

/* Takes its time, and fails from the second step on. */
static weft_status slow_next(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    if (at->g < BATCH || at->g > 2 * BATCH) return next(arg, at, g, n);
    usleep(3000);
    return weft_fail(WEFT_ERR_IO, "not today");
}

/* The owner leaves while the thread is about to fail: that must not keep it from what is wanted now. */
static void a_failure_that_nobody_waits_for_is_forgotten(void **state) {
    setup s;
    begin(&s, *state);
    weft_loader *l;
    const weft_loader_opts o = {sizeof o, ROWS, T, 1, 2, slow_next, &micros};
    assert_ok(weft_loader_create(s.d, &o, &l));
    for (int i = 0; i < 10; i++) {
        weft_rows r;
        const weft_loader_at last = {0, MICROS - 1}, away = {(3 + (uint64_t)i) * BATCH, 0};
        assert_ok(take(l, last, &r));
        usleep((unsigned)i * 1000);
        alarm(300); /* a thread that stays stuck keeps us waiting */
        assert_ok(take(l, away, &r));
        alarm(0);
        check(&s, away, &r);
    }
    weft_loader_destroy(l);
    end(&s);
}

static void data_may_change_while_it_rests(void **state) {
    setup s;
    begin(&s, *state);
    weft_loader *l = open_loader(&s, 3);
    weft_rows r;
    const double weights[2] = {1, 9};
    for (int k = 0; k < MICROS; k++) assert_ok(take(l, (weft_loader_at){0, k}, &r));
    weft_loader_rest(l);
    assert_ok(weft_data_reweight(s.d, 64, weights));
    weft_loader_rest(l); /* resting already */
    for (uint64_t g = BATCH; g < 20 * BATCH; g += BATCH)
        for (int k = 0; k < MICROS; k++) {
            weft_loader_at at = {g, k};
            assert_ok(take(l, at, &r));
            check(&s, at, &r);
        }
    weft_loader_destroy(l);
    end(&s);
}

static void failures_are_errors(void **state) {
    setup s;
    weft_loader *l;
    begin(&s, *state);
    weft_loader_opts o = {sizeof o, ROWS, T, 1, 2, next, &micros};
    for (long i = 1; i <= 13; i++) { /* loader, samples, slots, three buffers of three rows, the thread */
        weft_fault_arm(WEFT_FAULT_ALLOC, i);
        assert_int_equal(weft_loader_create(s.d, &o, &l), WEFT_ERR_NOMEM);
        assert_null(l);
    }
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    o.ahead = -1;
    assert_int_equal(weft_loader_create(s.d, &o, &l), WEFT_ERR_ARG);
    o.ahead = WEFT_LOADER_AHEAD + 1;
    assert_int_equal(weft_loader_create(s.d, &o, &l), WEFT_ERR_ARG);
    o.ahead = 0, o.rows = 0;
    assert_int_equal(weft_loader_create(s.d, &o, &l), WEFT_ERR_ARG);
    end(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(in_order_and_with_jumps, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(a_buffer_is_used_again, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(ends_at_any_moment, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(damage_is_told_where_it_is_taken, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(a_failure_that_nobody_waits_for_is_forgotten, scratch_make,
                                        scratch_remove),
        cmocka_unit_test_setup_teardown(data_may_change_while_it_rests, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(failures_are_errors, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
