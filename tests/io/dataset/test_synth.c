/* Synthetic data has the entropy that its shard claims. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>

#include "base/rng.h"
#include "io/dataset/markov.h"
#include "io/dataset/shard.h"
#include "tests/io/container/scratch.h"

static uint64_t seed = 3;

/* Bits a token of the shard's tokens under the chain m, of all transitions. */
static double cross_entropy(const int32_t *tok, uint64_t n, const markov *m) {
    double bits = 0;
    for (uint64_t i = 1; i < n; i++)
        bits -= log2(markov_probability(m, (uint32_t)tok[i - 1], (uint32_t)tok[i]));
    return bits / (double)(n - 1);
}

/* The same from counts alone: nothing of the chain's code. Biased down by about V^2 / (2 n ln 2). */
static double conditional_entropy(const int32_t *tok, uint64_t n, uint32_t vocab) {
    double *pair = calloc((size_t)vocab * vocab, sizeof *pair), *one = calloc(vocab, sizeof *one), bits = 0;
    for (uint64_t i = 1; i < n; i++) {
        pair[(size_t)tok[i - 1] * vocab + (size_t)tok[i]]++;
        one[tok[i - 1]]++;
    }
    for (uint32_t i = 0; i < vocab; i++)
        for (uint32_t j = 0; j < vocab; j++) {
            double c = pair[(size_t)i * vocab + j];
            if (c > 0) bits -= c * log2(c / one[i]);
        }
    free(pair);
    free(one);
    return bits / (double)(n - 1);
}

static int32_t *read_tokens(const char *path, uint64_t n) {
    weft_shard s;
    int32_t *tok = malloc(n * sizeof *tok);
    assert_int_equal(shard_open(path, &s), WEFT_OK);
    assert_int_equal(shard_copy(&s, 0, n, tok), WEFT_OK);
    shard_close(&s);
    return tok;
}

static void the_entropy_is_the_one_claimed(void **state) {
    (void)state;
    static const struct {
        uint32_t vocab;
        double concentration;
    } cases[] = {{2, 1}, {16, 0.3}, {64, 0.3}, {256, 1}, {1000, 3}};
    const uint64_t n = 400000;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        scratch t;
        assert_int_equal(scratch_open(&t), 0);
        const char *path = scratch_path(&t, "s.wtok.h5");
        weft_shard_info info, read;
        markov m, other;
        assert_int_equal(weft_data_synth(path, cases[k].vocab, n, seed, cases[k].concentration, &info),
                         WEFT_OK);
        assert_int_equal(weft_shard_verify(path, &read), WEFT_OK);
        assert_true(read.tokens == n && read.source_bytes == n && read.eot == -1 &&
                    read.vocab == cases[k].vocab);
        assert_true(read.entropy == info.entropy && read.entropy > 0 && read.entropy <= log2(cases[k].vocab));
        int32_t *tok = read_tokens(path, n);
        assert_int_equal(markov_create(&m, cases[k].vocab, seed, cases[k].concentration), WEFT_OK);
        double cross = cross_entropy(tok, n, &m);
        print_message("    vocab %4" PRIu32 ": %.4f bits claimed, %.4f under the chain", cases[k].vocab,
                      read.entropy, cross);
        assert_true(fabs(cross / read.entropy - 1) < 0.01);
        if (cases[k].vocab <= 64) {
            double counted = conditional_entropy(tok, n, cases[k].vocab);
            print_message(", %.4f counted", counted);
            assert_true(fabs(counted / read.entropy - 1) < 0.01);
            /* the control: other probabilities do not fit */
            assert_int_equal(markov_create(&other, cases[k].vocab, seed + 1, cases[k].concentration),
                             WEFT_OK);
            assert_true(cross_entropy(tok, n, &other) > 1.02 * read.entropy);
            markov_destroy(&other);
        }
        print_message("\n");
        markov_destroy(&m);
        free(tok);
        scratch_close(&t);
    }
}

static void rows_are_distributions(void **state) {
    (void)state;
    for (uint32_t vocab = 2; vocab < 300; vocab += 37) {
        markov m;
        assert_int_equal(markov_create(&m, vocab, seed, 0.5), WEFT_OK);
        for (uint32_t i = 0; i < vocab; i++) {
            unsigned char seen[300] = {0};
            double sum = 0;
            assert_int_equal(m.next[(size_t)i * m.fan], (i + 1) % vocab);
            for (uint32_t k = 0; k < m.fan; k++) {
                uint32_t j = m.next[(size_t)i * m.fan + k];
                assert_true(j < vocab && !seen[j] && markov_share(&m, i, k) > 0);
                seen[j] = 1;
                sum += markov_share(&m, i, k);
            }
            assert_true(sum == 1); /* multiples of 2^-32: exact */
        }
        markov_destroy(&m);
    }
}

static void bad_requests_are_refused(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "s.wtok.h5");
    weft_shard_info info;
    assert_int_equal(weft_data_synth(path, 1, 100, 1, 1, &info), WEFT_ERR_ARG);
    assert_int_equal(weft_data_synth(path, 65537, 100, 1, 1, &info), WEFT_ERR_ARG);
    assert_int_equal(weft_data_synth(path, 10, 1, 1, 1, &info), WEFT_ERR_ARG);
    assert_int_equal(weft_data_synth(path, 10, 100, 1, 0, &info), WEFT_ERR_ARG);
    assert_int_equal(weft_data_synth(path, 10, 100, 1, NAN, &info), WEFT_ERR_ARG);
    assert_int_equal(scratch_files(&t), 0);
    scratch_close(&t);
}

int main(int argc, char **argv) {
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    print_message("seed %" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_entropy_is_the_one_claimed),
        cmocka_unit_test(rows_are_distributions),
        cmocka_unit_test(bad_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
