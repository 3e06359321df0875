/* The mixture; see schedule.h. Part of perm=1: a changed line changes every run. */
#include "io/dataset/schedule.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/dataset/perm.h"

typedef unsigned __int128 u128;

weft_status schedule_weights(const double *w, size_t n, uint64_t *weight) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(w[i] >= 0) || !isfinite(w[i]))
            return weft_fail(WEFT_ERR_ARG, "weight %zu is %g; a finite number >= 0 is needed", i, w[i]);
        sum += w[i];
    }
    if (!(sum > 0) || !isfinite(sum)) return weft_fail(WEFT_ERR_ARG, "the weights sum to %g", sum);
    for (size_t i = 0; i < n; i++) {
        double x = round(w[i] / sum * 0x1p32);
        weight[i] = w[i] == 0 ? 0 : x < 1 ? 1 : (uint64_t)x;
    }
    return WEFT_OK;
}

void schedule_free(schedule *s) {
    for (size_t i = 0; i < s->n; i++) free(s->entry[i].weight);
    free(s->entry);
    s->entry = NULL;
    s->n = 0;
}

void schedule_counts(const schedule_entry *e, size_t sources, uint64_t n, uint64_t *count) {
    uint64_t rest[SCHEDULE_MAX_SOURCES], sum = 0;
    assert(sources > 0);
    for (size_t s = 0; s < sources; s++) {
        u128 x = (u128)n * e->weight[s];
        count[s] = (uint64_t)(x / e->total);
        rest[s] = (uint64_t)(x % e->total);
        sum += count[s];
    }
    /* Fewer remain than there are remainders above 0, so that a source without weight never gets one. */
    for (uint64_t left = n - sum; left; left--) {
        size_t best = 0;
        for (size_t s = 1; s < sources; s++)
            if (rest[s] > rest[best]) best = s;
        count[best]++;
        rest[best] = 0;
    }
}

/* The configured block, doubled until every source has at least one sample in each. */
static uint64_t block_for(uint64_t block, const uint64_t *weight, size_t sources, uint64_t total) {
    for (size_t s = 0; s < sources; s++)
        while (weight[s] && (u128)block * weight[s] < total) block *= 2;
    return block;
}

weft_status schedule_append(schedule *s, uint64_t g0, const uint64_t *weight) {
    const schedule_entry *last = s->n ? &s->entry[s->n - 1] : NULL;
    if (s->n == SCHEDULE_MAX_ENTRIES)
        return weft_fail(WEFT_ERR_ARG, "the schedule has %zu entries already", s->n);
    if (g0 >= SCHEDULE_MAX_G || (last ? g0 <= last->g0 || (g0 - last->g0) % last->block : g0 != 0))
        return weft_fail(WEFT_ERR_ARG, "a mixture cannot change at sample %" PRIu64 ": %s%" PRIu64, g0,
                         last ? "it must lie a multiple of the block behind the last change; the block is "
                              : "it must be ",
                         last ? last->block : (uint64_t)0);
    uint64_t total = 0;
    for (size_t i = 0; i < s->sources; i++) {
        if (weight[i] > (uint64_t)1 << 32) return weft_fail(WEFT_ERR_ARG, "weight %zu exceeds 2^32", i);
        total += weight[i];
    }
    if (!total) return weft_fail(WEFT_ERR_ARG, "the weights sum to 0");
    schedule_entry *entry = weft_reallocarray(s->entry, s->n + 1, sizeof *entry);
    if (!entry) return WEFT_ERR_NOMEM;
    s->entry = entry;
    last = s->n ? &entry[s->n - 1] : NULL;
    schedule_entry *e = &entry[s->n];
    if (!(e->weight = weft_calloc(2 * s->sources, sizeof *e->weight))) return WEFT_ERR_NOMEM;
    e->base = e->weight + s->sources;
    e->g0 = g0;
    e->total = total;
    e->block = block_for(s->block, weight, s->sources, total);
    memcpy(e->weight, weight, s->sources * sizeof *weight);
    if (last) {
        schedule_counts(last, s->sources, g0 - last->g0, e->base);
        for (size_t i = 0; i < s->sources; i++) e->base[i] += last->base[i];
    }
    s->n++;
    return WEFT_OK;
}

static const schedule_entry *entry_of(const schedule *s, uint64_t g) {
    size_t lo = 0, hi = s->n; /* entry[lo].g0 <= g < entry[hi].g0 */
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->entry[mid].g0 <= g)
            lo = mid;
        else
            hi = mid;
    }
    return &s->entry[lo];
}

static void lay_out(const schedule *s, schedule_block *b, uint64_t g) {
    const schedule_entry *e = entry_of(s, g);
    uint64_t index = (g - e->g0) / e->block, n = index * e->block;
    uint64_t after[SCHEDULE_MAX_SOURCES];
    schedule_counts(e, s->sources, n, b->drawn);
    schedule_counts(e, s->sources, n + e->block, after);
    b->first[0] = 0;
    for (size_t i = 0; i < s->sources; i++) {
        b->first[i + 1] = b->first[i] + (after[i] - b->drawn[i]);
        b->drawn[i] += e->base[i];
    }
    b->entry = e;
    b->g = e->g0 + n;
    b->key = perm_key(s->seed, 0, index, 1);
}

uint32_t schedule_locate(const schedule *s, schedule_block *b, uint64_t g, uint64_t *i) {
    if (!b->entry || g < b->g || g - b->g >= b->entry->block) lay_out(s, b, g);
    uint64_t u = perm_apply(b->entry->block, b->key, g - b->g);
    size_t source = 0;
    while (u >= b->first[source + 1]) source++;
    *i = b->drawn[source] + (u - b->first[source]);
    return (uint32_t)source;
}
