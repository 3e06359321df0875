/* Held out: of few documents the last part of each, from a line start on; of many, whole documents: those of JSONL by
 * a hash of their text, plain ones by the number of their file. */
#include "io/dataset/holdout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "base/rng.h"
#include "io/dataset/blocks.h"

#define LOOK_BACK ((uint64_t)16 << 20)
#define READ      ((size_t)1 << 20)

static uint64_t wanted(const holdout_rule *h, uint64_t n) {
    return n - (uint64_t)ceil((double)n * h->share);
}

static size_t cut_of_few(const holdout_rule *h, const char *s, size_t n) {
    size_t want = (size_t)wanted(h, n);
    if (want) {
        const char *nl = memrchr(s, '\n', want);
        if (nl) return (size_t)(nl - s) + 1;
    }
    const char *nl = memchr(s + want, '\n', n - want);
    return nl ? (size_t)(nl - s) + 1 : n;
}

static int chosen(const holdout_rule *h, const char *stream, uint64_t number) {
    return weft_rng_uniform(0, weft_rng_stream(stream), number) < h->share;
}

size_t holdout_split(const holdout_rule *h, const char *s, size_t n) {
    if (!(h->share > 0)) return n;
    if (h->few) return cut_of_few(h, s, n);
    return chosen(h, "holdout", XXH3_64bits(s, n)) ? 0 : n;
}

int holdout_input(const holdout_rule *h, size_t input) {
    return h->share > 0 && !h->few && chosen(h, "holdout file", input);
}

static weft_status text_bytes(const text_input *in, char *buf, uint64_t *n) {
    text_stream *s;
    *n = in->bytes;
    if (in->packing == STREAM_RAW) return WEFT_OK;
    WEFT_TRY(stream_open(in->path, in->name, in->packing, &s));
    weft_status st;
    size_t k = 1;
    for (*n = 0; (st = stream_read(s, buf, READ, &k)) == WEFT_OK && k;) *n += k;
    stream_close(s);
    return st;
}

/* The last line start at or before `want` that LOOK_BACK reaches, else the first behind it, else n. */
static weft_status find_line(text_stream *s, char *buf, uint64_t want, uint64_t n, uint64_t *cut) {
    uint64_t at = want > LOOK_BACK ? want - LOOK_BACK : 0, best = 0;
    WEFT_TRY(stream_skip(s, at));
    for (;;) {
        size_t k;
        WEFT_TRY(stream_read(s, buf, READ, &k));
        size_t front = at >= want ? 0 : want - at < k ? (size_t)(want - at) : k;
        const char *nl = front ? memrchr(buf, '\n', front) : NULL;
        if (nl) best = at + (uint64_t)(nl - buf) + 1;
        at += k;
        if (best && at >= want) break;
        nl = k > front ? memchr(buf + front, '\n', k - front) : NULL;
        if (nl) best = at - k + (uint64_t)(nl - buf) + 1;
        if (nl || !k) break;
    }
    *cut = best ? best : n;
    return WEFT_OK;
}

weft_status holdout_place(const holdout_rule *h, const text_input *in, uint64_t *cut) {
    uint64_t n;
    text_stream *s = NULL;
    *cut = BLOCK_NO_CUT;
    if (!(h->share > 0) || !h->few || in->jsonl) return WEFT_OK;
    char *buf = weft_calloc(READ, 1);
    if (!buf) return WEFT_ERR_NOMEM;
    weft_status st = text_bytes(in, buf, &n);
    if (st == WEFT_OK) st = stream_open(in->path, in->name, in->packing, &s);
    if (st == WEFT_OK) st = find_line(s, buf, wanted(h, n), n, cut);
    if (st == WEFT_OK && *cut == n) *cut = BLOCK_NO_CUT;
    stream_close(s);
    free(buf);
    return st;
}
