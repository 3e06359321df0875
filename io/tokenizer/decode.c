/* Ids to bytes: the tokens' bytes one after the other. */
#include <string.h>

#include "base/checked.h"
#include "io/tokenizer/tok.h"

weft_status weft_tok_decode(const weft_tok *t, const uint32_t *ids, size_t n, void *buf, size_t cap,
                            size_t *k) {
    size_t need = 0;
    *k = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= t->nvocab)
            return weft_fail(WEFT_ERR_VOCAB, "id %u at place %zu is outside the vocabulary of %u", ids[i], i,
                             t->nvocab);
        if (t->kind[ids[i]] == TOK_HOLE)
            return weft_fail(WEFT_ERR_VOCAB, "id %u at place %zu has no token", ids[i], i);
        if (!weft_add_ok(need, t->len[ids[i]], &need))
            return weft_fail(WEFT_ERR_NOMEM, "%zu ids: too many bytes", n);
    }
    *k = need;
    if (!buf) return WEFT_OK;
    if (need > cap)
        return weft_fail(WEFT_ERR_NOMEM, "%zu ids are %zu bytes; there is room for %zu", n, need, cap);
    uint8_t *out = buf;
    for (size_t i = 0; i < n; i++) {
        memcpy(out, t->bytes + t->off[ids[i]], t->len[ids[i]]);
        out += t->len[ids[i]];
    }
    return WEFT_OK;
}
