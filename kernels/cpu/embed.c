/* Embedding: rows of a table are copied out, gradients of rows are added back.
 *
 * Backward: each member owns a range of channels and walks all tokens in order, so a row of the table is the
 * sum of its tokens in token order on any team, without atomics, sorting or scratch. The ranges are multiples
 * of a cache line, so members never write to the same line of an aligned table. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"

struct embed {
    const weft_embed_desc *d;
    const int32_t *ids, *pos;
    const void *wte, *wpe, *dout;
    void *out;
    float *dwte, *dwpe;
    int past; /* out goes past the caches */
};

static weft_status embed_check_ids(const weft_embed_desc *d, const int32_t *ids, const int32_t *pos) {
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

VEC_INLINE void embed_fwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct embed *e = arg;
    int64_t c = e->d->channels;
    for (int64_t token = begin; token < end; token++) {
        int64_t row = weft_embed_row(e->d, e->ids[token]), word = row * c, out = token * c;
        if (row < 0) { /* another rank's */
            memset((char *)e->out + (size_t)out * (t == WEFT_F32 ? 4 : 2), 0,
                   (size_t)c * (t == WEFT_F32 ? 4 : 2));
        } else if (e->wpe) {
            int64_t place = e->pos[token] * c;
            VEC_FOR(i, m, 0, c, {
                vec sum = vec_add(vec_load(t, e->wte, word + i, m), vec_load(t, e->wpe, place + i, m));
                vec_stream(e->past, t, e->out, out + i, m, sum);
            });
        } else if (t == WEFT_F32) {
            VEC_FOR(i, m, 0, c,
                    { vec_stream(e->past, t, e->out, out + i, m, vec_load(t, e->wte, word + i, m)); });
        } else {
            memcpy((uint16_t *)e->out + out, (const uint16_t *)e->wte + word, (size_t)c * 2);
        }
    }
}
OPS_PER_DTYPE(embed_fwd)

/* Channels [begin, end) of all tokens. */
VEC_INLINE void embed_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct embed *e = arg;
    int64_t c = e->d->channels;
    for (int64_t token = 0; token < e->d->tokens; token++) {
        int64_t row = weft_embed_row(e->d, e->ids[token]);
        if (row < 0) continue; /* another rank's */
        float *word = e->dwte + row * c, *place = e->dwpe ? e->dwpe + e->pos[token] * c : NULL;
        VEC_FOR(i, m, begin, end, {
            vec dy = vec_load(t, e->dout, token * c + i, m);
            vec_store_f32(word + i, m, vec_add(vec_load_f32(word + i, m), dy));
            if (place) vec_store_f32(place + i, m, vec_add(vec_load_f32(place + i, m), dy));
        });
    }
}
OPS_PER_DTYPE(embed_bwd)

static weft_status op_embed_fwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids,
                                const int32_t *pos, const void *wte, const void *wpe, void *out) {
    struct embed e = {.d = d, .ids = ids, .pos = pos, .wte = wte, .wpe = wpe, .out = out};
    WEFT_TRY(weft_check_embed(d, ids, wte, pos, wpe, out));
    WEFT_TRY(embed_check_ids(d, ids, wpe ? pos : NULL));
    size_t row = (size_t)d->channels * weft_dtype_size(d->t);
    e.past = ops_streams(x, (wpe ? 3.0 : 2.0) * (double)d->tokens * (double)row, out, row);
    ops_for(x, d->tokens, 1, ops_rows(d->channels), embed_fwd_of(d->t), &e);
    return WEFT_OK;
}

static weft_status op_embed_bwd(weft_exec *x, const weft_embed_desc *d, const int32_t *ids,
                                const int32_t *pos, const void *dout, float *dwte, float *dwpe) {
    struct embed e = {.d = d, .ids = ids, .pos = pos, .dout = dout, .dwte = dwte, .dwpe = dwpe};
    WEFT_TRY(weft_check_embed(d, ids, dwte, pos, dwpe, dout));
    WEFT_TRY(embed_check_ids(d, ids, dwpe ? pos : NULL));
    if (d->tokens == 0) return WEFT_OK;
    /* a block is the channels of one member at most: a block of fewer would walk the tokens again */
    int64_t block = d->channels * d->tokens <= OPS_BLOCK
                        ? d->channels
                        : ops_ceil_div(ops_ceil_div(d->channels, 16), x->threads) * 16;
    ops_for(x, d->channels, 16, block, embed_bwd_of(d->t), &e);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_embed)(struct weft_ops *t) {
    t->embed_fwd = op_embed_fwd;
    t->embed_bwd = op_embed_bwd;
}
