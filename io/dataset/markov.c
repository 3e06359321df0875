/* The chain; see markov.h. Stationary distribution: power iteration of the lazy chain (I + P) / 2, which has
 * the same one and no period. Entropy rate: Shannon 1948. */
#include "io/dataset/markov.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "io/dataset/perm.h"

#define MARKOV_FAN 128

void markov_destroy(markov *m) {
    free(m->next);
    free(m->below);
    memset(m, 0, sizeof *m);
}

/* Probabilities of one row as integers that sum to 2^32, each at least 1; below[] becomes their running sum.
 */
static void fill_probabilities(markov *m, uint32_t i, double concentration) {
    double w[MARKOV_FAN], sum = 0;
    uint64_t q[MARKOV_FAN], total = 0, stream = weft_rng_stream("markov.row");
    double top = -INFINITY;
    assert(m->fan > 0);
    for (uint32_t k = 0; k < m->fan; k++) {
        w[k] = weft_rng_normal(m->seed, stream, (uint64_t)i * MARKOV_FAN + k) / concentration;
        if (w[k] > top) top = w[k];
    }
    for (uint32_t k = 0; k < m->fan; k++) sum += w[k] = exp(w[k] - top);
    uint32_t largest = 0;
    for (uint32_t k = 0; k < m->fan; k++) {
        q[k] = 1 + (uint64_t)(w[k] / sum * (0x1p32 - MARKOV_FAN));
        total += q[k];
        if (q[k] > q[largest]) largest = k;
    }
    q[largest] += ((uint64_t)1 << 32) - total;
    uint64_t below = 0;
    for (uint32_t k = 0; k < m->fan; k++) {
        m->below[(size_t)i * m->fan + k] = (uint32_t)below;
        below += q[k];
    }
}

static void fill_successors(markov *m, uint32_t i) {
    uint32_t first = (i + 1) % m->vocab, *next = m->next + (size_t)i * m->fan;
    uint64_t key = perm_key(m->seed, i, 0, 3);
    next[0] = first;
    for (uint64_t k = 0, n = 1; n < m->fan; k++) {
        uint32_t j = (uint32_t)perm_apply(m->vocab, key, k);
        if (j != first) next[n++] = j;
    }
}

weft_status markov_create(markov *m, uint32_t vocab, uint64_t seed, double concentration) {
    memset(m, 0, sizeof *m);
    if (vocab < 2 || vocab > MARKOV_MAX_VOCAB)
        return weft_fail(WEFT_ERR_ARG, "synthetic data: vocab %u; 2 to %d are possible", vocab,
                         MARKOV_MAX_VOCAB);
    if (!(concentration > 0) || !isfinite(concentration))
        return weft_fail(WEFT_ERR_ARG, "synthetic data: concentration %g; a number > 0 is needed",
                         concentration);
    m->vocab = vocab;
    m->seed = seed;
    m->fan = vocab < MARKOV_FAN ? vocab : MARKOV_FAN;
    m->next = weft_calloc((size_t)vocab * m->fan, sizeof *m->next);
    m->below = weft_calloc((size_t)vocab * m->fan, sizeof *m->below);
    if (!m->next || !m->below) {
        markov_destroy(m);
        return WEFT_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < vocab; i++) {
        fill_successors(m, i);
        fill_probabilities(m, i, concentration);
    }
    return WEFT_OK;
}

double markov_share(const markov *m, uint32_t i, uint32_t k) {
    const uint32_t *below = m->below + (size_t)i * m->fan;
    uint64_t hi = k + 1 < m->fan ? below[k + 1] : (uint64_t)1 << 32;
    return (double)(hi - below[k]) * 0x1p-32;
}

double markov_probability(const markov *m, uint32_t i, uint32_t j) {
    const uint32_t *next = m->next + (size_t)i * m->fan;
    for (uint32_t k = 0; k < m->fan; k++)
        if (next[k] == j) return markov_share(m, i, k);
    return 0;
}

uint32_t markov_step(const markov *m, uint32_t i, uint64_t t) {
    static const uint64_t stream = 0x6d61726b6f762e74u; /* "markov.t" */
    uint32_t u = (uint32_t)(weft_rng_u64(m->seed, stream, t) >> 32);
    const uint32_t *below = m->below + (size_t)i * m->fan;
    uint32_t lo = 0, hi = m->fan; /* below[lo] <= u < below[hi] */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (below[mid] <= u)
            lo = mid;
        else
            hi = mid;
    }
    return m->next[(size_t)i * m->fan + lo];
}

static double lazy_step(const markov *m, const double *from, double *to) {
    double moved = 0;
    for (uint32_t i = 0; i < m->vocab; i++) to[i] = from[i] / 2;
    for (uint32_t i = 0; i < m->vocab; i++)
        for (uint32_t k = 0; k < m->fan; k++)
            to[m->next[(size_t)i * m->fan + k]] += from[i] / 2 * markov_share(m, i, k);
    for (uint32_t i = 0; i < m->vocab; i++) moved += fabs(to[i] - from[i]);
    return moved;
}

weft_status markov_entropy(const markov *m, double *bits) {
    double *pi = weft_calloc(2 * (size_t)m->vocab, sizeof *pi), moved = 1, h = 0;
    if (!pi) return WEFT_ERR_NOMEM;
    double *other = pi + m->vocab;
    for (uint32_t i = 0; i < m->vocab; i++) pi[i] = 1.0 / m->vocab;
    for (int n = 0; n < 2000 && moved > 1e-12; n++) {
        moved = lazy_step(m, pi, other);
        memcpy(pi, other, m->vocab * sizeof *pi);
    }
    for (uint32_t i = 0; i < m->vocab; i++) {
        double row = 0;
        for (uint32_t k = 0; k < m->fan; k++) {
            double p = markov_share(m, i, k);
            row -= p * log2(p);
        }
        h += pi[i] * row;
    }
    free(pi);
    if (moved > 1e-9)
        return weft_fail(WEFT_ERR_ARG,
                         "synthetic data: the chain mixes too slowly; choose a larger concentration");
    *bits = h;
    return WEFT_OK;
}
