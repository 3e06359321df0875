/* What the ops at both ends of a model promise beyond agreeing with ref: parts of a vocabulary combine to the whole, and
 * the statistics of the loss are those of the logits as they were stored. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/kernels_case.h"

/* One vocabulary of 45 in 64 columns, and the same in three parts, the last of them all padding: statistics combine
 * (log of the sum of e^lse) and gradients from the whole lse are the columns of the whole gradient, bit for bit. A
 * column left out is noticed. */
enum { TOKENS = 7, WIDE = 12, WORDS = 45, PADDED = 64, PARTS = 3 };

typedef struct part {
    int64_t first, columns; /* columns 0: all */
    float *z, *lse, *hit;
} part;

static void make_part(kt_pool *pool, part *p) {
    p->z = kt_new(pool, TOKENS * PADDED * sizeof *p->z, 0);
    p->lse = kt_new(pool, TOKENS * sizeof *p->lse, 0);
    p->hit = kt_new(pool, TOKENS * sizeof *p->hit, 0);
}

static void stats_of(kt_run *r, weft_loss_desc *d, const float *h, const float *w, const int32_t *target,
                     part *p) {
    d->first = p->first, d->columns = p->columns;
    kt_exec_for(r, WEFT_OP_LOSS, d);
    kt_ok(r, r->ops->loss_stats(r->exec, d, h, w + p->first * WIDE, target, p->z, p->lse, p->hit));
}

static void vocabulary_parts_are_the_whole(void **state) {
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    const float *h = kt_random(&pool, &rng, WEFT_F32, TOKENS * WIDE, 0.8);
    const float *w = kt_random(&pool, &rng, WEFT_F32, PADDED * WIDE, 0.8);
    static const int32_t targets[TOKENS] = {0, 18, 19, -1, 44, 30, 7};
    int32_t *target = kt_tensor(&pool, &rng, WEFT_I32, TOKENS);
    part whole = {0}, less = {.first = 19, .columns = 25},
         parts[PARTS] = {{.columns = 19}, {.first = 19, .columns = 30}, {.first = 49, .columns = 15}};
    (void)state;
    memcpy(target, targets, sizeof targets);
    make_part(&pool, &whole);
    make_part(&pool, &less);
    for (int p = 0; p < PARTS; p++) make_part(&pool, &parts[p]);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        weft_loss_desc d = {.size = sizeof d,
                            .tokens = TOKENS,
                            .channels = WIDE,
                            .vocab = WORDS,
                            .vocab_padded = PADDED,
                            .t = WEFT_F32,
                            .grad_scale = 0.5f};
        stats_of(r, &d, h, w, target, &whole);
        stats_of(r, &d, h, w, target, &less);
        for (int p = 0; p < PARTS; p++) stats_of(r, &d, h, w, target, &parts[p]);
        double without = 0; /* the column may be a small one for some token, not for all */
        for (int i = 0; i < TOKENS; i++) {
            double sum = 0, hit = 0, all = (double)whole.lse[i];
            for (int p = 0; p < PARTS; p++)
                sum += exp((double)parts[p].lse[i]), hit += (double)parts[p].hit[i];
            assert_true(fabs(log(sum) - all) < 4e-6); /* a few ulp of lse */
            assert_true(hit == (double)whole.hit[i] && (target[i] < 0 || hit != 0));
            without = fmax(without, fabs(log(exp((double)parts[0].lse[i]) + exp((double)less.lse[i])) - all));
        }
        assert_true(without > 1e-5);
        d.first = d.columns = 0;
        kt_ok(r, r->ops->loss_grad(r->exec, &d, whole.lse, target, whole.z));
        for (int p = 0; p < PARTS; p++) {
            d.first = parts[p].first, d.columns = parts[p].columns;
            kt_ok(r, r->ops->loss_grad(r->exec, &d, whole.lse, target, parts[p].z));
            for (int i = 0; i < TOKENS; i++)
                for (int64_t j = 0; j < d.columns; j++)
                    if (parts[p].first + j < PADDED)
                        assert_true(parts[p].z[i * d.columns + j] == whole.z[i * PADDED + d.first + j]);
        }
    }
    kt_free(&pool);
}

/* The parts of a table: outputs sum to the whole table's bit for bit (all but one are zeros), and each adds to its own
 * rows, and to the positions of its own tokens. */
static void tables_in_parts_are_the_whole(void **state) {
    enum { N = 11, C = 19, ROWS = 10, POSITIONS = 6, CUT = 4 };
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    const float *wte = kt_random(&pool, &rng, WEFT_F32, ROWS * C, 1);
    const float *wpe = kt_random(&pool, &rng, WEFT_F32, POSITIONS * C, 1);
    const float *dout = kt_random(&pool, &rng, WEFT_F32, N * C, 1);
    float *out[3], *dwpe[3], *dwte = kt_new(&pool, ROWS * C * sizeof *dwte, 0);
    float *dwte_parts = kt_new(&pool, (ROWS + 2) * C * sizeof *dwte, 0);
    int32_t *ids = kt_tensor(&pool, &rng, WEFT_I32, N), *pos = kt_tensor(&pool, &rng, WEFT_I32, N);
    (void)state;
    for (int i = 0; i < N; i++) ids[i] = 7 * i % ROWS, pos[i] = i % POSITIONS;
    for (int p = 0; p < 3; p++) {
        out[p] = kt_new(&pool, N * C * sizeof *out[p], 0);
        dwpe[p] = kt_new(&pool, POSITIONS * C * sizeof *dwpe[p], 0);
    }
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        memset(dwte, 0, ROWS * C * sizeof *dwte);
        memset(dwte_parts, 0, (ROWS + 2) * C * sizeof *dwte);
        for (int p = 0; p < 3; p++) memset(dwpe[p], 0, POSITIONS * C * sizeof *dwpe[p]);
        for (int p = 0; p < 3; p++) { /* whole; [0, CUT); the rest and two rows of padding */
            weft_embed_desc d = {.size = sizeof d,
                                 .tokens = N,
                                 .channels = C,
                                 .vocab = ROWS,
                                 .positions = POSITIONS,
                                 .t = WEFT_F32,
                                 .first = p == 2 ? CUT : 0,
                                 .rows = p == 0   ? 0
                                         : p == 1 ? CUT
                                                  : ROWS + 2 - CUT};
            float *to = p ? dwte_parts + d.first * C : dwte;
            kt_exec_for(r, WEFT_OP_EMBED_BWD, &d);
            kt_ok(r, r->ops->embed_fwd(r->exec, &d, ids, pos, wte + d.first * C, wpe, out[p]));
            kt_ok(r, r->ops->embed_bwd(r->exec, &d, ids, pos, dout, to, dwpe[p]));
        }
        for (int i = 0; i < N * C; i++) assert_true(out[1][i] + out[2][i] == out[0][i]);
        assert_memory_equal(dwte_parts, dwte, ROWS * C * sizeof *dwte);
        for (int i = 0; i < POSITIONS * C; i++)
            assert_true(fabsf(dwpe[1][i] + dwpe[2][i] - dwpe[0][i]) < 1e-5f);
        for (int i = 0; i < 2 * C; i++) assert_true(dwte_parts[ROWS * C + i] == 0);
    }
    kt_free(&pool);
}

/* The probabilities that the gradient will see are e^(stored logit - lse): they sum to one only if lse is that of the
 * logits after rounding to bf16. That of the unrounded ones misses by more than the bar. */
static void statistics_are_of_the_rounded_logits(void **state) {
    enum { T = 9, C = 24, V = 50 };
    kt_rng rng = {kt_seed()};
    kt_pool pool = {0};
    const uint16_t *h = kt_random(&pool, &rng, WEFT_BF16, T * C, 1),
                   *w = kt_random(&pool, &rng, WEFT_BF16, V * C, 1);
    uint16_t *z = kt_new(&pool, T * V * sizeof *z, 0);
    float *lse = kt_new(&pool, T * sizeof *lse, 0), *hit = kt_new(&pool, T * sizeof *hit, 0);
    int32_t *target = kt_new(&pool, T * sizeof *target, 0);
    const weft_loss_desc d = {
        .size = sizeof d, .tokens = T, .channels = C, .vocab = V, .vocab_padded = V, .t = WEFT_BF16};
    (void)state;
    memset(target, 0, T * sizeof *target);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        double miss = 0;
        kt_exec_for(r, WEFT_OP_LOSS, &d);
        kt_ok(r, r->ops->loss_stats(r->exec, &d, h, w, target, z, lse, hit));
        for (size_t i = 0; i < T; i++) {
            double stored = 0, unrounded = 0, sum = 0;
            for (size_t j = 0; j < V; j++) {
                double exact = 0, rounded = kt_get(WEFT_BF16, z, i * V + j);
                for (size_t k = 0; k < C; k++)
                    exact += kt_get(WEFT_BF16, h, i * C + k) * kt_get(WEFT_BF16, w, j * C + k);
                stored += exp(rounded - (double)lse[i]);
                unrounded += exp(exact);
                sum += exp(rounded);
            }
            assert_true(fabs(stored - 1) < 1e-5);
            miss = fmax(miss, fabs(sum / unrounded - 1));
        }
        assert_true(miss > 1e-4);
    }
    kt_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabulary_parts_are_the_whole),
        cmocka_unit_test(tables_in_parts_are_the_whole),
        cmocka_unit_test(statistics_are_of_the_rounded_logits),
    };
    return cmocka_run_group_tests(tests, kt_open, kt_close);
}
