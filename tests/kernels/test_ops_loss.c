/* What the loss ops promise beyond agreeing with ref: shards of a vocabulary combine to the whole, and the statistics are
 * those of the logits as they were stored. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/kernels_case.h"

/* One vocabulary and the same cut in two, combined: log of the sum of e^lse. A column left out is noticed. */
static void vocabulary_shards_agree(void **state) {
    enum { T = 7, C = 12, V = 45, CUT = 19 };
    kt_rng rng = {kt_seed()};
    float h[T * C], w[V * C], z[T * V], lse[4][T], hit[4][T];
    const int64_t begin[4] = {0, 0, CUT, CUT}, end[4] = {V, CUT, V, V - 1};
    (void)state;
    kt_fill(&rng, WEFT_F32, h, T * C, 0.8);
    kt_fill(&rng, WEFT_F32, w, V * C, 0.8);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        for (int part = 0; part < 4; part++) {
            int64_t n = end[part] - begin[part];
            weft_loss_desc d = {
                .size = sizeof d, .tokens = T, .channels = C, .vocab = n, .vocab_padded = n, .t = WEFT_F32};
            int32_t target[T];
            for (int i = 0; i < T; i++) { /* a target of another shard is none */
                int64_t local = 6 * i - begin[part];
                target[i] = local >= 0 && local < n ? (int32_t)local : -1;
            }
            kt_exec_for(r, WEFT_OP_LOSS, &d);
            assert_int_equal(
                r->ops->loss_stats(r->exec, &d, h, w + begin[part] * C, target, z, lse[part], hit[part]),
                WEFT_OK);
        }
        double without = 0; /* the column may be a small one for some token, not for all */
        for (int i = 0; i < T; i++) {
            double one = exp((double)lse[1][i]), whole = (double)lse[0][i];
            assert_true(fabs(log(one + exp((double)lse[2][i])) - whole) < 4e-6); /* a few ulp of lse */
            without = fmax(without, fabs(log(one + exp((double)lse[3][i])) - whole));
            assert_true(hit[1][i] + hit[2][i] == hit[0][i]);
        }
        assert_true(without > 1e-5);
    }
}

/* The probabilities that the gradient will see are e^(stored logit - lse): they sum to one only if lse is that of the
 * logits after rounding to bf16. That of the unrounded ones misses by more than the bar. */
static void statistics_are_of_the_rounded_logits(void **state) {
    enum { T = 9, C = 24, V = 50 };
    kt_rng rng = {kt_seed()};
    uint16_t h[T * C], w[V * C], z[T * V];
    float lse[T], hit[T];
    int32_t target[T] = {0};
    const weft_loss_desc d = {
        .size = sizeof d, .tokens = T, .channels = C, .vocab = V, .vocab_padded = V, .t = WEFT_BF16};
    (void)state;
    kt_fill(&rng, WEFT_BF16, h, T * C, 1);
    kt_fill(&rng, WEFT_BF16, w, V * C, 1);
    for (int run = 0; run < kt_nruns; run++) {
        kt_run *r = &kt_runs[run];
        double miss = 0;
        kt_exec_for(r, WEFT_OP_LOSS, &d);
        assert_int_equal(r->ops->loss_stats(r->exec, &d, h, w, target, z, lse, hit), WEFT_OK);
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
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabulary_shards_agree),
        cmocka_unit_test(statistics_are_of_the_rounded_logits),
    };
    return cmocka_run_group_tests(tests, kt_open, kt_close);
}
