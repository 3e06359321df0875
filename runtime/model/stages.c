/* The layers of a pipeline's stages; see stages.h. */
#include "runtime/model/stages.h"

#include <stdlib.h>

#include "base/mem.h"

/* Of a token, in multiply-adds of a forward pass; a backward pass is twice that. The embedding costs none. */
static weft_pipeline_costs costs(const weft_model_desc *d, int64_t context, int again, double *layer) {
    const int64_t heads = d->heads * d->head_dim, kv = d->kv_heads * d->head_dim;
    const int64_t mlp = (d->family == WEFT_LLAMA ? 3 : 2) * d->ffn * (d->experts ? d->experts_per_token : 1);
    const double one =
        (double)d->hidden * (double)(2 * heads + 2 * kv + mlp) + (double)heads * (double)context;
    for (int64_t l = 0; l < d->layers; l++) layer[l] = one * (3 + again);
    return (weft_pipeline_costs){
        .layers = d->layers, .layer = layer, .head = 3 * (double)d->hidden * (double)d->vocab_padded};
}

static weft_status as_given(const weft_model_desc *d, int parts, const int64_t *layers, int64_t *first) {
    for (int k = 0; k < parts; k++) {
        if (layers[k] < 1 || layers[k] > d->layers)
            return weft_fail(
                WEFT_ERR_CONFIG,
                "layout.stages: %lld layers in a stage; each needs at least one of the model's %lld",
                (long long)layers[k], (long long)d->layers);
        first[k + 1] = first[k] + layers[k];
    }
    if (first[parts] != d->layers)
        return weft_fail(WEFT_ERR_CONFIG, "layout.stages has %lld layers, the model has %lld",
                         (long long)first[parts], (long long)d->layers);
    return WEFT_OK;
}

weft_status weft_stages_cut(const weft_model_desc *d, int64_t context, int again, int stages, int chunks,
                            const int64_t *layers, int stage, weft_chunk *chunk) {
    const int parts = stages * chunks;
    if (parts > d->layers)
        return weft_fail(WEFT_ERR_CONFIG,
                         "%lld layers are too few for %d pipeline stages with %d chunks each; layout.pp x "
                         "layout.chunks can be %lld at most",
                         (long long)d->layers, stages, chunks, (long long)d->layers);
    int64_t *first = weft_calloc((size_t)parts + 1, sizeof *first);
    double *layer = weft_calloc((size_t)d->layers, sizeof *layer);
    weft_status s = first && layer ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0 && layers) s = as_given(d, parts, layers, first);
    if (s >= 0 && !layers) {
        const weft_pipeline_costs c = costs(d, context, again, layer);
        s = weft_pipeline_split(&c, parts, first);
    }
    for (int c = 0; s >= 0 && c < chunks; c++) {
        const int k = c * stages + stage;
        chunk[c] =
            (weft_chunk){.first = first[k], .end = first[k + 1], .embeds = k == 0, .heads = k == parts - 1};
    }
    free(first);
    free(layer);
    return s;
}
