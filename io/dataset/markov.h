/* Private to io/dataset: a first-order Markov chain whose entropy is known, as a source of text to learn.
 *
 * State i has min(vocab, 128) successors, chosen by a keyed permutation, the first of them i+1 (so that every
 * state can be reached from every other); their probabilities are a softmax of Philox normals divided by
 * `concentration` (large: nearly uniform), rounded to multiples of 2^-32, so that what is sampled is exactly
 * what is computed with. */
#ifndef WEFT_IO_DATASET_MARKOV_H
#define WEFT_IO_DATASET_MARKOV_H

#include <stdint.h>

#include "base/status.h"

#define MARKOV_MAX_VOCAB 65536

typedef struct markov {
    uint32_t vocab, fan;
    uint64_t seed;
    uint32_t *next;  /* [vocab][fan] successors */
    uint32_t *below; /* [vocab][fan] cumulative probability before each, in 2^-32 */
} markov;

/* ARG: vocab outside [2, 65536], concentration not in (0, inf). */
weft_status markov_create(markov *m, uint32_t vocab, uint64_t seed, double concentration);
void markov_destroy(markov *m);
/* Probability of the k-th successor of i. */
double markov_share(const markov *m, uint32_t i, uint32_t k);
/* Probability of j after i. */
double markov_probability(const markov *m, uint32_t i, uint32_t j);
/* The state after i at step t. */
uint32_t markov_step(const markov *m, uint32_t i, uint64_t t);
/* Bits a symbol: -sum_i pi_i sum_j p_ij log2 p_ij with pi the stationary distribution. ARG: the chain is so
 * close to deterministic that pi cannot be found. */
weft_status markov_entropy(const markov *m, double *bits);

#endif
