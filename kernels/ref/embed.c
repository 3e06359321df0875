/* Embedding: forward looks rows up, backward adds rows up.
 *
 * The backward sum runs channel by channel with one double for every row of the table, tokens in order: the
 * same sum that a scatter-add makes, without a table of doubles. */
#include <string.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

/* All ids before anything is written. */
static weft_status ref_check_ids(const weft_embed_desc *d, const int32_t *ids, const int32_t *pos) {
    for (int64_t i = 0; i < d->tokens; i++) {
        if (ids[i] < 0 || ids[i] >= d->vocab)
            return weft_fail(WEFT_ERR_VOCAB, "embed: token %lld has id %d, the vocabulary has %lld entries",
                             (long long)i, ids[i], (long long)d->vocab);
        if (pos && (pos[i] < 0 || pos[i] >= d->positions))
            return weft_fail(WEFT_ERR_VOCAB, "embed: token %lld is at position %d, the table has %lld rows",
                             (long long)i, pos[i], (long long)d->positions);
    }
    return WEFT_OK;
}

/* out[i, c] = wte[ids[i] - first, c] (+ wpe[pos[i], c]), or 0; out [tokens, channels]. */
weft_status ref_embed_fwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                          const void *wte, const void *wpe, void *out) {
    (void)x;
    WEFT_TRY(weft_check_embed(d, ids, wte, pos, wpe, out));
    WEFT_TRY(ref_check_ids(d, ids, wpe ? pos : NULL));
    for (int64_t i = 0; i < d->tokens; i++) {
        int64_t row = weft_embed_row(d, ids[i]);
        for (int64_t c = 0; c < d->channels; c++) {
            double v = row < 0 ? 0 : ref_get(d->t, wte, row * d->channels + c);
            if (wpe && row >= 0) v += ref_get(d->t, wpe, pos[i] * d->channels + c);
            ref_put(d->t, out, i * d->channels + c, v);
        }
    }
    return WEFT_OK;
}

size_t ref_embed_bwd_doubles(const weft_embed_desc *d) {
    int64_t rows = d->vocab > d->positions ? d->vocab : d->positions;
    return rows > 0 ? (size_t)rows : 0;
}

/* dtable[row[i] - first, c] += sum of dout[i, c] over the tokens i of that row that are here. Rows that no token names
 * keep their bits. */
static void ref_scatter_add(const weft_embed_desc *d, const int32_t *ids, const int32_t *row, int64_t first,
                            const void *dout, float *dtable, double *sum) {
    for (int64_t c = 0; c < d->channels; c++)
        for (int pass = 0; pass < 3; pass++)
            for (int64_t i = 0; i < d->tokens; i++) {
                if (weft_embed_row(d, ids[i]) < 0) continue;
                float *to = &dtable[(row[i] - first) * d->channels + c];
                double *s = &sum[row[i] - first];
                if (pass == 0) *s = *to;
                if (pass == 1) *s += ref_get(d->t, dout, i * d->channels + c);
                if (pass == 2) *to = (float)*s;
            }
}

weft_status ref_embed_bwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids, const int32_t *pos,
                          const void *dout, float *dwte, float *dwpe) {
    double *sum;
    WEFT_TRY(weft_check_embed(d, ids, dwte, pos, dwpe, dout));
    WEFT_TRY(ref_check_ids(d, ids, dwpe ? pos : NULL));
    WEFT_TRY(ref_scratch(x, "embed_bwd", ref_embed_bwd_doubles(d), &sum));
    ref_scatter_add(d, ids, ids, d->first, dout, dwte, sum);
    if (dwpe) ref_scatter_add(d, ids, pos, 0, dout, dwpe, sum);
    return WEFT_OK;
}
