/* Generation: one sequence, keys and values of earlier tokens kept, sampling by temperature, top-k and top-p.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/internal.h"

typedef struct ranked {
    float logit;
    int32_t id;
} ranked;

struct weft_decoder {
    weft_model *m;
    void *memory; /* the caches of all layers */
    kv_cache *cache;
    int64_t position;
    void *last;         /* [V] logits in t */
    weft_mirror logits; /* f32 */
    ranked *ranking;    /* [vocab] of the sampler */
};

weft_status weft_decoder_create(weft_model *m, weft_decoder **out) {
    *out = NULL;
    if (!model_is_whole(m))
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "this rank holds a part of the model only: it cannot generate");
    weft_decoder *d = weft_calloc(1, sizeof *d);
    if (!d) return WEFT_ERR_NOMEM;
    d->m = m;
    const size_t one = (size_t)(m->d.context * m->d.kv_heads * m->d.head_dim) * m->elem,
                 last = ((size_t)m->V * m->elem + 63) / 64 * 64, wide = (size_t)m->V * sizeof(float);
    weft_status s = m->ops->alloc(m->backend, one * 2 * (size_t)m->d.layers + last + wide, &d->memory);
    if (s >= 0) s = weft_mirror_plan(&d->logits, m->backend, wide);
    d->cache = weft_calloc((size_t)m->d.layers, sizeof *d->cache);
    d->ranking = weft_calloc((size_t)m->V, sizeof *d->ranking);
    if (s >= 0 && (!d->cache || !d->ranking)) s = WEFT_ERR_NOMEM;
    if (s < 0) {
        weft_decoder_destroy(d);
        return s;
    }
    for (int64_t l = 0; l < m->d.layers; l++) {
        d->cache[l].k = (char *)d->memory + one * 2 * (size_t)l;
        d->cache[l].v = (char *)d->cache[l].k + one;
    }
    d->last = (char *)d->memory + one * 2 * (size_t)m->d.layers;
    weft_mirror_place(&d->logits, (char *)d->last + last);
    *out = d;
    return WEFT_OK;
}

void weft_decoder_destroy(weft_decoder *d) {
    if (!d) return;
    if (d->memory) d->m->ops->release(d->m->backend, d->memory);
    free(d->cache);
    weft_mirror_free(&d->logits);
    free(d->ranking);
    free(d);
}

int64_t weft_decoder_position(const weft_decoder *d) {
    return d->position;
}

/* Up to N tokens at once: what the activations hold. */
static weft_status feed_piece(weft_decoder *d, const int32_t *ids, int64_t n) {
    weft_model *m = d->m;
    slot *s = &m->slot[0];
    for (int64_t i = 0; i < n; i++) {
        s->host.ids[i] = ids[i];
        s->host.pos[i] = (int32_t)(d->position + i);
    }
    m->s = s;
    m->fresh = -1;
    WEFT_TRY(tokens_push(m, s, 0, 0));
    WEFT_TRY(unit_open(m, m->embed, WEFT_FORWARD));
    WEFT_TRY(embed_fwd(m, n, s->acts[0].x));
    WEFT_TRY(unit_close(m, m->embed, WEFT_FORWARD));
    for (int64_t l = 0; l < m->layers; l++) {
        d->cache[l].position = d->position;
        WEFT_TRY(layer_open(m, l, WEFT_FORWARD));
        WEFT_TRY(
            block_fwd(m, l, &s->acts[l], 1, n, &d->cache[l], l + 1 < m->layers ? s->acts[l + 1].x : s->exit));
        WEFT_TRY(layer_close(m, l, WEFT_FORWARD));
    }
    d->position += n;
    return WEFT_OK;
}

weft_status weft_decoder_feed(weft_decoder *d, const int32_t *ids, int64_t n, const float **logits) {
    weft_model *m = d->m;
    *logits = NULL;
    if (n < 1 || n > m->d.context - d->position)
        return weft_fail(WEFT_ERR_ARG, "%lld more tokens do not fit: %lld of %lld positions are used",
                         (long long)n, (long long)d->position, (long long)m->d.context);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i += k) {
        k = n - i < m->o.context ? n - i : m->o.context;
        WEFT_TRY(feed_piece(d, ids + i, k));
    }
    WEFT_TRY(head_open(m, WEFT_FORWARD));
    WEFT_TRY(head_logits(m, m->slot[0].exit, k - 1, 1, d->last));
    WEFT_TRY(head_close(m, WEFT_FORWARD));
    WEFT_TRY(m->ops->cast(m->x, m->o.t, WEFT_F32, (size_t)m->V, d->last, d->logits.ops));
    WEFT_TRY(weft_mirror_pull(&d->logits, m->ops, m->x, d->logits.bytes));
    *logits = d->logits.host;
    return WEFT_OK;
}

static int larger_first(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit)
                                : (x->id > y->id) - (x->id < y->id);
}

int32_t weft_decoder_sample(weft_decoder *d, const float *logits, double temperature, int64_t top_k,
                            double top_p, double u) {
    int64_t vocab = d->m->d.vocab;
    ranked *r = d->ranking;
    if (temperature <= 0) {
        int64_t best = 0;
        for (int64_t i = 1; i < vocab; i++)
            if (logits[i] > logits[best]) best = i;
        return (int32_t)best;
    }
    for (int64_t i = 0; i < vocab; i++) r[i] = (ranked){logits[i], (int32_t)i};
    qsort(r, (size_t)vocab, sizeof *r, larger_first);
    int64_t n = top_k > 0 && top_k < vocab ? top_k : vocab;
    double top = r[0].logit, total = 0;
    for (int64_t i = 0; i < n; i++) total += exp((r[i].logit - top) / temperature);
    double kept = 0;
    int64_t last = 0;
    for (; last < n; last++) { /* the smallest set with mass top_p */
        kept += exp((r[last].logit - top) / temperature);
        if (top_p > 0 && top_p < 1 && kept >= top_p * total) {
            n = last + 1;
            break;
        }
    }
    double want = u * kept, seen = 0;
    for (int64_t i = 0; i < n; i++) {
        seen += exp((r[i].logit - top) / temperature);
        if (seen > want) return r[i].id;
    }
    return r[n - 1].id;
}
