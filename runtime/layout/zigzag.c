/* Chunks of a row; see zigzag.h. */
#include "runtime/layout/zigzag.h"

#include <stdio.h>
#include <string.h>

/* Chunks of a row of P pieces. */
static int cuts(int pieces) {
    return pieces > 1 ? 2 * pieces : 1;
}

weft_status weft_zigzag_make(int64_t tokens, int64_t pieces, int cp, int at, weft_zigzag *z) {
    memset(z, 0, sizeof *z);
    if (pieces == 0) pieces = cp;
    if (cp < 1 || at < 0 || at >= cp) return weft_fail(WEFT_ERR_ARG, "layout: place %d of cp %d", at, cp);
    if (pieces < 1 || pieces > WEFT_PIECES_MOST || pieces % cp)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.pieces is %lld: the pieces of a sequence are dealt to layout.cp %d ranks; take a "
            "multiple of that, at most %d",
            (long long)pieces, cp, WEFT_PIECES_MOST);
    const int64_t n = cuts((int)pieces), lower = tokens / n * n;
    if (tokens < 1 || tokens % n) {
        const int64_t upper = lower + n;
        char below[48] = "";
        if (lower > 0) (void)snprintf(below, sizeof below, "%lld or ", (long long)lower);
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.context is %lld tokens, which layout.cp %d cuts into %lld equal chunks; the nearest that "
            "works is %s%lld",
            (long long)tokens, cp, (long long)n, below, (long long)upper);
    }
    *z = (weft_zigzag){cp, at, (int)pieces, (int)(n / cp), tokens, tokens / n};
    return WEFT_OK;
}

int weft_zigzag_chunk(const weft_zigzag *z, int at, int i) {
    const int piece = at * (z->pieces / z->size) + i / 2;
    return i % 2 ? 2 * z->pieces - 1 - piece : piece;
}

void weft_zigzag_find(const weft_zigzag *z, int64_t t, int *at, int *i, int64_t *place) {
    const int chunk = (int)(t / z->length), second = chunk >= z->pieces, each = z->pieces / z->size;
    const int piece = second ? 2 * z->pieces - 1 - chunk : chunk;
    *at = piece / each;
    *i = 2 * (piece % each) + second;
    *place = t % z->length;
}
