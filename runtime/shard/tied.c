/* The gradient of a table that embeddings and head share (tied models).
 *
 * In a pipeline the first stage has one half of it, the last the other: both hold the table, add the halves to one sum, and
 * so make the same update. Reproducible runs that have both ends in one place keep the halves apart as well, each with a
 * tree of its own over micro-batches and ranks, and add them last: the bits are then those of the pipeline. */
#include "runtime/shard/internal.h"

static size_t table_of(const weft_shards *s) {
    const size_t first = weft_params_unit(s->params, WEFT_UNIT_EMBED, 0);
    return first < s->params->nunits ? first : weft_params_unit(s->params, WEFT_UNIT_TABLE, 0);
}

void tied_plan(weft_shards *s) {
    const weft_params *p = s->params;
    const size_t embed = weft_params_unit(p, WEFT_UNIT_EMBED, 0),
                 head = weft_params_unit(p, WEFT_UNIT_HEAD, 0);
    s->ngrads = p->nunits;
    s->own_grads = s->own;
    s->all_grads = p->elements;
    if (!s->o.reproducible || embed == p->nunits || head == p->nunits || weft_params_find(p, "head.weight"))
        return;
    s->apart = p->unit[embed];
    s->apart.offset = s->all_grads;
    s->share[s->ngrads] =
        (weft_share){.first = s->share[embed].first, .n = s->share[embed].n, .at = s->own_grads};
    s->own_grads += s->share[embed].n;
    s->all_grads += s->apart.elements;
    s->ngrads++;
}

weft_status weft_shards_tie(weft_shards *s, weft_group *ends) {
    const weft_share *h = &s->share[table_of(s)];
    const weft_tensor t = {.ptr = h->gradient, .n = h->n, .t = WEFT_F32, .name = "tied embeddings"};
    const weft_bulk_opts o = {.size = sizeof o};
    return weft_bulk_create(ends, WEFT_BULK_ALLREDUCE, 1, &t, &o, &s->tie);
}

weft_status tied_sum(weft_shards *s) {
    if (s->ngrads > s->params->nunits) {
        const weft_share *h = &s->share[table_of(s)];
        const void *halves[2] = {h->gradient, s->share[s->params->nunits].gradient};
        return s->ops->reduce_p(s->x, WEFT_F32, WEFT_SUM, 2, halves, h->gradient, h->n);
    }
    if (!s->tie) return WEFT_OK;
    WEFT_TRY(weft_bulk_start(s->tie, 1));
    WEFT_TRY(shard_ready(s, s->tie, WEFT_ALL));
    WEFT_TRY_CTX(weft_bulk_wait(s->tie, WEFT_ALL, -1, NULL), "tied embeddings");
    return WEFT_OK;
}
