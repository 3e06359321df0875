/* Gradients on their way to their sums.
 *
 * zero 0, 1: micro-batches are added where the units lie, and a unit leaves when the last one is through with it. zero 2, 3:
 * each micro-batch's gradient of a unit is summed over the ranks and this rank's share of it added to what it has; the buffer
 * is waited for when another unit needs it.
 *
 * Reproducible: the gradients of micro-batches are the leaves of one binary tree, which is summed as a binary counter:
 * level k holds the finished subtree of 2^k leaves. */
#include <string.h>

#include "runtime/shard/internal.h"

/* v [n] is the gradient of micro-batch i: merges it with the finished left neighbours, whose levels lie `at` elements in;
 * unless it is the last, the result becomes one of them. */
static weft_status merge(weft_shards *s, int64_t i, size_t at, size_t n, float *v) {
    int k = 0;
    for (; (i >> k) & 1; k++) {
        const void *pair[2] = {s->level[k] + at, v};
        WEFT_TRY(s->ops->reduce_p(s->x, WEFT_F32, WEFT_SUM, 2, pair, v, n));
    }
    return i + 1 < s->micros ? s->ops->copy(s->x, s->level[k] + at, v, n * 4) : WEFT_OK;
}

/* --- zero 2, 3 ------------------------------------------------------------------------------------------------------- */

/* The share of the sum over the ranks, in v, joins those of earlier micro-batches. */
static weft_status add(weft_shards *s, size_t unit, float *v) {
    const weft_share *h = &s->share[unit];
    const int64_t i = s->done[unit]++;
    if (s->o.reproducible) {
        WEFT_TRY(merge(s, i, h->at, h->n, v));
        return i + 1 < s->micros ? WEFT_OK : s->ops->copy(s->x, h->gradient, v, h->n * 4);
    }
    if (i == 0) return s->ops->copy(s->x, h->gradient, v, h->n * 4);
    const void *pair[2] = {h->gradient, v};
    return s->ops->reduce_p(s->x, WEFT_F32, WEFT_SUM, 2, pair, h->gradient, h->n);
}

static weft_status arrive(weft_shards *s, buffer *b) {
    if (!b->moving) return WEFT_OK;
    WEFT_TRY_CTX(weft_bulk_wait(s->reduce[b->unit], WEFT_ALL, -1, NULL), "summing gradients");
    b->moving = 0;
    WEFT_TRY(add(s, b->unit, (float *)b->ptr + s->share[b->unit].first));
    b->unit = NOBODY;
    return WEFT_OK;
}

static weft_status buffer_gradient(weft_shards *s, size_t unit, float **g) {
    buffer *b = &s->summed[shard_buffer_of(s, unit)];
    if (!s->open[unit]) {
        WEFT_TRY(arrive(s, b));
        if (b->unit != NOBODY) return weft_fail(WEFT_ERR_INTERNAL, "two gradients in one buffer");
        b->unit = unit;
        WEFT_TRY(s->ops->fill(s->x, b->ptr, 0, shard_unit(s, unit)->elements * 4));
    }
    s->open[unit] = 1;
    *g = b->ptr;
    return WEFT_OK;
}

static weft_status buffer_final(weft_shards *s, size_t unit) {
    s->open[unit] = 0;
    s->summed[shard_buffer_of(s, unit)].moving = 1;
    WEFT_TRY(weft_bulk_start(s->reduce[unit], 1));
    return shard_ready(s, s->reduce[unit], WEFT_ALL);
}

/* --- the store -------------------------------------------------------------------------------------------------------- */

weft_status reduce_gradient(void *arg, size_t unit, float **g) {
    weft_shards *s = arg;
    *g = NULL;
    if (unit == s->ngrads) return WEFT_OK;
    if (s->o.zero >= 2) return buffer_gradient(s, unit, g);
    *g = s->grads + shard_unit(s, unit)->offset;
    if (s->open[unit]) return WEFT_OK;
    s->open[unit] = 1;
    if (s->done[unit] && !s->o.reproducible) return WEFT_OK;
    return s->ops->fill(s->x, *g, 0, shard_unit(s, unit)->elements * 4);
}

weft_status reduce_final(void *arg, size_t unit) {
    weft_shards *s = arg;
    if (s->o.zero >= 2) return buffer_final(s, unit);
    const weft_unit *u = shard_unit(s, unit);
    const int64_t i = s->done[unit]++;
    s->open[unit] = 0;
    if (s->o.reproducible) WEFT_TRY(merge(s, i, u->offset, u->elements, s->grads + u->offset));
    weft_bulk *sum = u->role == WEFT_UNIT_EXPERTS ? s->sum_experts : s->sum;
    return sum && i + 1 == s->micros ? shard_ready(s, sum, s->place[unit]) : WEFT_OK;
}

weft_status reduce_begin(weft_shards *s) {
    if (s->sum) WEFT_TRY(weft_bulk_start(s->sum, 1));
    return s->sum_experts ? weft_bulk_start(s->sum_experts, 1) : WEFT_OK;
}

weft_status reduce_end(weft_shards *s) {
    for (int i = 0; i < BUFFERS && s->o.zero >= 2; i++) WEFT_TRY(arrive(s, &s->summed[i]));
    weft_bulk *const sum[] = {s->sum, s->sum_experts};
    for (int i = 0; i < 2; i++)
        if (sum[i]) WEFT_TRY(shard_ready(s, sum[i], WEFT_ALL));
    for (int i = 0; i < 2; i++)
        if (sum[i]) WEFT_TRY_CTX(weft_bulk_wait(sum[i], WEFT_ALL, -1, NULL), "gradient sum");
    return WEFT_OK;
}
