/* Samples as a model takes them: tokens, what counts as a target, and where each token's document begins.
 *
 * A target counts if the shard's mask says so (no mask: always). With documents kept apart, the first token of a document
 * is predicted from another document: it counts only where it is the end-of-text token, for "the text ends here" is
 * what the model shall say there; any other first token cannot be known. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "io/dataset/sampler.h"

#define MASK_PIECE 4096

/* The shard's document that token `at` belongs to: the last that starts there or before. */
static weft_status document_of(const weft_shard *s, const int64_t *doc, uint64_t at, uint64_t *k) {
    uint64_t lo = 0, hi = s->info.docs; /* doc[lo] <= at < doc[hi] */
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        WEFT_TRY(shard_check_docs(s, mid, mid + 1));
        if (doc[mid] <= (int64_t)at)
            lo = mid;
        else
            hi = mid;
    }
    *k = lo;
    return WEFT_OK;
}

/* start[0..n) of the inputs; targets that another document would have to foretell become -1. tok has n + 1 tokens. */
static weft_status mark_documents(const weft_shard *s, uint64_t at, int64_t n, const int32_t *tok,
                                  int32_t *target, int32_t *start) {
    const int64_t *doc = shard_doc(s), first = (int64_t)at;
    uint64_t k;
    int32_t begin = 0;
    WEFT_TRY(document_of(s, doc, at, &k));
    for (int64_t t = 0;;) { /* document k goes on at t */
        WEFT_TRY(shard_check_docs(s, k + 1, k + 2));
        if (doc[k + 1] < first + t)
            return weft_fail(WEFT_ERR_CORRUPT, "%s: document %" PRIu64 " ends before it starts",
                             shard_file(s), k);
        const int64_t end = doc[k + 1] - first, stop = end < n ? end : n;
        for (; t < stop; t++) start[t] = begin;
        if (end > n) return WEFT_OK; /* as the last one's does, at the latest: shard_open has seen to it */
        if (end > 0 && tok[end] != s->info.eot) target[end - 1] = -1;
        begin = (int32_t)end;
        k++;
    }
}

/* Targets [0, n), which are tokens from `at` on, become -1 where the mask is 0. */
static weft_status apply_mask(const weft_shard *s, uint64_t at, int64_t n, int32_t *target) {
    uint8_t mask[MASK_PIECE];
    for (int64_t t = 0; t < n; t += MASK_PIECE) {
        int64_t k = n - t < MASK_PIECE ? n - t : MASK_PIECE;
        WEFT_TRY(shard_copy_mask(s, at + (uint64_t)t, (size_t)k, mask));
        for (int64_t i = 0; i < k; i++) target[t + i] |= (int32_t)mask[i] - 1; /* 0: all bits, which is -1 */
    }
    return WEFT_OK;
}

/* Tokens [at, at + n] of a shard as row number `row` of rows that are T + 1 and T wide. */
static weft_status fill_row(const weft_shard *s, uint64_t at, int64_t n, int64_t T, size_t row,
                            const weft_rows *rows) {
    int32_t *tok = rows->tok + row * (size_t)(T + 1), *target = rows->target + row * (size_t)T;
    int32_t *start = rows->start ? rows->start + row * (size_t)T : NULL;
    WEFT_TRY(shard_copy(s, at, (size_t)n + 1, tok));
    memcpy(target, tok + 1, (size_t)n * sizeof *target);
    if (s->mask_set) WEFT_TRY(apply_mask(s, at + 1, n, target));
    if (start) WEFT_TRY(mark_documents(s, at, n, tok, target, start));
    for (int64_t t = n; t < T; t++) { /* behind the end of the shard */
        tok[t + 1] = target[t] = -1;
        if (start) start[t] = 0;
    }
    return WEFT_OK;
}

weft_status weft_data_rows(const weft_data *d, const uint64_t *g, size_t n, const weft_rows *rows) {
    schedule_block b;
    b.entry = NULL;
    for (size_t k = 0; k < n; k++) {
        const weft_shard *h = NULL;
        uint64_t at = 0;
        WEFT_TRY(sampler_place(d, &b, g[k], &h, &at));
        WEFT_TRY_CTX(fill_row(h, at, d->context, d->context, k, rows), "sample %" PRIu64, g[k]);
    }
    return WEFT_OK;
}

weft_status weft_data_eval_rows(const weft_data *d, size_t source, uint64_t w, size_t row,
                                const weft_rows *rows) {
    const weft_shard *h = NULL;
    uint64_t at = 0;
    int64_t valid = 0;
    WEFT_TRY(sampler_eval_place(d, source, w, &h, &at, &valid));
    WEFT_TRY_CTX(fill_row(h, at, valid, d->context, row, rows), "evaluation window %" PRIu64, w);
    return WEFT_OK;
}

weft_status weft_rows_alloc(size_t n, int64_t context, int documents, weft_rows *rows) {
    size_t tokens = 0;
    memset(rows, 0, sizeof *rows);
    if (context < 1 || !weft_mul_ok(n, (size_t)context + 1, &tokens))
        return weft_fail(WEFT_ERR_ARG, "%zu rows of %" PRId64 " tokens", n, context);
    rows->tok = weft_calloc(tokens, sizeof *rows->tok);
    rows->target = weft_calloc(tokens - n, sizeof *rows->target);
    if (documents) rows->start = weft_calloc(tokens - n, sizeof *rows->start);
    if (rows->tok && rows->target && (!documents || rows->start)) return WEFT_OK;
    weft_rows_free(rows);
    return WEFT_ERR_NOMEM;
}

void weft_rows_free(weft_rows *rows) {
    free(rows->tok);
    free(rows->target);
    free(rows->start);
    memset(rows, 0, sizeof *rows);
}
