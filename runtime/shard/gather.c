/* Weights on their way to the model.
 *
 * zero 1, 2: every rank has all of them, and after an update they come from their owners while the next forward pass has
 * begun. zero 3: a unit is gathered into its buffer when the one before it in the pass is opened, so that it travels while
 * that one computes; a buffer keeps its unit until another needs it. The order is the model's, which is the same on all
 * ranks of the group. */
#include <string.h>

#include "base/clock.h"
#include "runtime/shard/internal.h"

static weft_status start(weft_shards *s, size_t unit, buffer *b) {
    const weft_share *h = &s->share[unit];
    WEFT_TRY(s->ops->copy(s->x, (char *)b->ptr + h->first * s->elem, h->weight, h->n * s->elem));
    b->unit = unit;
    b->moving = 1;
    WEFT_TRY(weft_bulk_start(s->gather[unit], 1));
    return shard_ready(s, s->gather[unit], WEFT_ALL);
}

static weft_status arrive(weft_shards *s, buffer *b) {
    if (!b->moving) return WEFT_OK;
    const double begin = weft_now();
    WEFT_TRY_CTX(weft_bulk_wait(s->gather[b->unit], WEFT_ALL, -1, NULL), "gathering weights");
    s->waited += weft_now() - begin;
    b->moving = 0;
    return WEFT_OK;
}

/* The unit that the pass comes to next, unless its buffer is in use. */
static weft_status prefetch(weft_shards *s, size_t unit, weft_pass pass) {
    if (pass == WEFT_BACKWARD ? unit == 0 : unit + 1 == s->params->nunits) return WEFT_OK;
    const size_t next = pass == WEFT_BACKWARD ? unit - 1 : unit + 1;
    buffer *b = &s->gathered[shard_buffer_of(s, next)];
    if (b->unit == next || b->users ||
        (pass == WEFT_BACKWARD && s->params->unit[next].role == WEFT_UNIT_EMBED))
        return WEFT_OK; /* the embedding's backward pass reads no weights */
    WEFT_TRY(arrive(s, b));
    return start(s, next, b);
}

weft_status gather_weights(void *arg, size_t unit, weft_pass pass, const void **w) {
    weft_shards *s = arg;
    if (s->o.zero < 3) {
        *w = s->weights + s->params->unit[unit].offset * s->elem;
        if (!s->coming[unit]) return WEFT_OK;
        const double begin = weft_now();
        WEFT_TRY_CTX(weft_bulk_wait(s->spread, (int)unit, -1, NULL), "updated weights");
        s->waited += weft_now() - begin;
        s->coming[unit] = 0;
        return WEFT_OK;
    }
    buffer *b = &s->gathered[shard_buffer_of(s, unit)];
    if (b->unit != unit) {
        if (b->users) return weft_fail(WEFT_ERR_INTERNAL, "two units in one buffer");
        WEFT_TRY(arrive(s, b));
        WEFT_TRY(start(s, unit, b));
    }
    WEFT_TRY(arrive(s, b));
    b->users++;
    *w = b->ptr;
    return prefetch(s, unit, pass);
}

weft_status gather_done(void *arg, size_t unit, weft_pass pass) {
    weft_shards *s = arg;
    (void)pass;
    if (s->o.zero == 3) s->gathered[shard_buffer_of(s, unit)].users--;
    return WEFT_OK;
}

weft_status gather_forget(weft_shards *s) {
    for (int i = 0; i < BUFFERS; i++) {
        WEFT_TRY(arrive(s, &s->gathered[i]));
        s->gathered[i].unit = NOBODY;
    }
    return WEFT_OK;
}

weft_status gather_spread(weft_shards *s) {
    const size_t n = s->params->nunits;
    for (size_t i = 0; i < n; i++)
        if (s->coming[i]) {
            WEFT_TRY_CTX(weft_bulk_wait(s->spread, WEFT_ALL, -1, NULL), "updated weights");
            break;
        }
    memset(s->coming, !s->on_device, n);
    WEFT_TRY(weft_bulk_start(s->spread, 1));
    WEFT_TRY(shard_ready(s, s->spread, WEFT_ALL));
    /* What a device still waits for when the run ends would wait for ranks that are gone: nothing is left under way. */
    if (s->on_device) WEFT_TRY_CTX(weft_bulk_wait(s->spread, WEFT_ALL, -1, NULL), "updated weights");
    return WEFT_OK;
}
