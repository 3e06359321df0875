/* Pipeline schedules: every pass once and in legal order, no more in flight than planned and that much somewhere, no
 * deadlock with two buffers a link, the bubble that theory gives; layers cut as no other cut does better. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "runtime/layout/pipeline.h"

enum { STAGES = 8, CHUNKS = 4, MICROS = 32 };
#define FORWARD  1.0
#define BACKWARD 2.0

/* Every pass once; those of a chunk ascend in both directions; a backward pass behind its forward pass; a slot is taken
 * until its backward pass, and the most that is in flight is what was planned. */
static void check_stage(int p, int s, int v, int m) {
    weft_pipeline g;
    assert_int_equal(weft_pipeline_create(p, s, v, m, 1, &g), WEFT_OK);
    assert_int_equal(g.n, 2 * m * v);
    int next[2][CHUNKS] = {{0}}, most[CHUNKS] = {0}, owner[CHUNKS][MICROS];
    memset(owner, -1, sizeof owner);
    for (size_t i = 0; i < g.n; i++) {
        const weft_pipeline_action *a = &g.action[i];
        assert_in_range(a->chunk, 0, v - 1);
        assert_int_equal(a->micro, next[a->backward][a->chunk]++);
        int *slot = &owner[a->chunk][a->micro % g.slots[a->chunk]];
        assert_int_equal(*slot, a->backward ? a->micro : -1);
        *slot = a->backward ? -1 : a->micro;
        const int flying = next[0][a->chunk] - next[1][a->chunk];
        if (flying > most[a->chunk]) most[a->chunk] = flying;
    }
    for (int c = 0; c < v; c++) {
        assert_int_equal(next[0][c], m);
        assert_int_equal(next[1][c], m);
        assert_int_equal(most[c], g.slots[c]);
    }
    weft_pipeline_destroy(&g);
}

static void every_pass_once_in_legal_order(void **state) {
    (void)state;
    for (int p = 1; p <= STAGES; p++)
        for (int v = 1; v <= CHUNKS; v++)
            for (int m = 1; m <= MICROS; m++)
                for (int s = 0; s < p; s++) check_stage(p, s, v, m);
}

static double play(int p, int v, int m, const double *forward, const double *backward, double *busy) {
    double seconds = 0;
    const weft_pipeline_times t = {forward, backward};
    assert_int_equal(weft_pipeline_play(p, v, m, &t, &seconds, busy), WEFT_OK);
    return seconds;
}

/* Narayanan et al. 2021b: the bubble is (p - 1) / m of the work, with interleaving (p - 1) / (v m). */
static void bubble_is_that_of_theory(void **state) {
    (void)state;
    double forward[STAGES * CHUNKS], backward[STAGES * CHUNKS], busy;
    for (int i = 0; i < STAGES * CHUNKS; i++) forward[i] = FORWARD, backward[i] = BACKWARD;
    for (int p = 1; p <= STAGES; p++)
        for (int v = 1; v <= CHUNKS; v++)
            for (int m = 1; m <= MICROS; m++) {
                const double seconds = play(p, v, m, forward, backward, &busy);
                const double work = m * v * (FORWARD + BACKWARD), bubble = (p - 1) * (FORWARD + BACKWARD);
                assert_true(busy == work);
                double share = -1;
                assert_int_equal(weft_pipeline_bubble(p, v, m, &share), WEFT_OK);
                assert_true(share == seconds / work - 1);
                if (v == 1 || m % p == 0)
                    assert_true(seconds == work + bubble);
                else /* one more group at most, and a micro-batch has to go through all virtual stages */
                    assert_true(seconds >= work + bubble &&
                                seconds <= work + bubble + p * v * (FORWARD + BACKWARD));
            }
}

/* Any times: no deadlock, and never faster than the busiest stage or one micro-batch alone. */
static void unequal_stages_do_not_stand_still(void **state) {
    (void)state;
    double forward[STAGES * CHUNKS], backward[STAGES * CHUNKS], busy;
    for (uint64_t seed = 0; seed < 300; seed++) {
        const int p = 1 + (int)(weft_rng_u64(seed, 1, 0) % STAGES),
                  v = 1 + (int)(weft_rng_u64(seed, 1, 1) % CHUNKS);
        const int m = 1 + (int)(weft_rng_u64(seed, 1, 2) % MICROS);
        double alone = 0;
        for (int i = 0; i < p * v; i++) {
            forward[i] = (double)(1 + weft_rng_u64(seed, 2, (uint64_t)i) % 1000);
            backward[i] = (double)(1 + weft_rng_u64(seed, 3, (uint64_t)i) % 1000);
            alone += forward[i] + backward[i];
        }
        const double seconds = play(p, v, m, forward, backward, &busy);
        assert_true(seconds >= busy && seconds >= alone && seconds <= m * alone);
    }
}

static void evaluation_is_forward_only(void **state) {
    (void)state;
    weft_pipeline g;
    assert_int_equal(weft_pipeline_create(4, 1, 2, 6, 0, &g), WEFT_OK);
    assert_int_equal(g.n, 12);
    int next[2] = {0};
    for (size_t i = 0; i < g.n; i++) {
        assert_false(g.action[i].backward);
        assert_int_equal(g.action[i].micro, next[g.action[i].chunk]++);
    }
    weft_pipeline_destroy(&g);
}

static void what_makes_no_pipeline_is_refused(void **state) {
    (void)state;
    weft_pipeline g;
    int64_t first[8];
    const weft_pipeline_costs few = {.layers = 3};
    assert_int_equal(weft_pipeline_create(0, 0, 1, 1, 1, &g), WEFT_ERR_CONFIG);
    assert_int_equal(weft_pipeline_create(2, 2, 1, 1, 1, &g), WEFT_ERR_CONFIG);
    assert_int_equal(weft_pipeline_create(2, 0, WEFT_CHUNKS_MOST + 1, 1, 1, &g), WEFT_ERR_CONFIG);
    assert_int_equal(weft_pipeline_create(2, 0, 1, 0, 1, &g), WEFT_ERR_CONFIG);
    assert_int_equal(weft_pipeline_split(&few, 4, first), WEFT_ERR_CONFIG);
}

/* --- cuts ------------------------------------------------------------------------------------------------- */

typedef struct worst_and_squares {
    double worst, squares;
} worst_and_squares;

static worst_and_squares price(const weft_pipeline_costs *c, int parts, const int64_t *first) {
    worst_and_squares w = {0};
    for (int k = 0; k < parts; k++) {
        double cost = (k == 0 ? c->embed : 0) + (k == parts - 1 ? c->head : 0);
        for (int64_t i = first[k]; i < first[k + 1]; i++) cost += c->layer ? c->layer[i] : 1;
        if (cost > w.worst) w.worst = cost;
        w.squares += cost * cost;
    }
    return w;
}

/* The best of all cuts, one by one. */
static void try_all(const weft_pipeline_costs *c, int parts, int k, int64_t *first, worst_and_squares *best) {
    if (k == parts) {
        first[k] = c->layers;
        if (first[k] <= first[k - 1]) return;
        const worst_and_squares w = price(c, parts, first);
        if (w.worst < best->worst || (w.worst == best->worst && w.squares < best->squares)) *best = w;
        return;
    }
    for (first[k] = first[k - 1] + 1; first[k] <= c->layers - (parts - k); first[k]++)
        try_all(c, parts, k + 1, first, best);
}

static void no_cut_is_better(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        double layer[12];
        const int parts = 1 + (int)(weft_rng_u64(seed, 1, 0) % 5);
        weft_pipeline_costs c = {.layers = parts + (int64_t)(weft_rng_u64(seed, 1, 1) % 7),
                                 .embed = (double)(weft_rng_u64(seed, 1, 2) % 3),
                                 .head = (double)(weft_rng_u64(seed, 1, 3) % 9)};
        for (int i = 0; i < 12; i++) layer[i] = (double)(1 + weft_rng_u64(seed, 2, (uint64_t)i) % 6);
        if (seed % 2) c.layer = layer;
        int64_t first[8] = {0}, other[8] = {0};
        assert_int_equal(weft_pipeline_split(&c, parts, first), WEFT_OK);
        assert_int_equal(first[0], 0);
        assert_int_equal(first[parts], c.layers);
        for (int k = 0; k < parts; k++) assert_true(first[k] < first[k + 1]);
        worst_and_squares best = {DBL_MAX, DBL_MAX};
        try_all(&c, parts, 1, other, &best);
        const worst_and_squares mine = price(&c, parts, first);
        assert_true(mine.worst == best.worst && mine.squares == best.squares);
    }
}

static void a_heavy_head_takes_layers_from_the_last_stage(void **state) {
    (void)state;
    int64_t first[5];
    const weft_pipeline_costs plain = {.layers = 10}, heavy = {.layers = 10, .head = 2};
    assert_int_equal(weft_pipeline_split(&plain, 4, first), WEFT_OK);
    const int64_t early[5] = {0, 3, 6, 8, 10};
    assert_memory_equal(first, early, sizeof first);
    assert_int_equal(weft_pipeline_split(&heavy, 4, first), WEFT_OK);
    const int64_t less[5] = {0, 3, 6, 9, 10};
    assert_memory_equal(first, less, sizeof first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pass_once_in_legal_order),
        cmocka_unit_test(bubble_is_that_of_theory),
        cmocka_unit_test(unequal_stages_do_not_stand_still),
        cmocka_unit_test(evaluation_is_forward_only),
        cmocka_unit_test(what_makes_no_pipeline_is_refused),
        cmocka_unit_test(no_cut_is_better),
        cmocka_unit_test(a_heavy_head_takes_layers_from_the_last_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
