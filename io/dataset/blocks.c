/* Cutting a corpus into blocks, on one thread, at a few GB/s: tokenizing is what takes time, and it can be done on many
 * blocks at once.
 *
 * JSONL is cut behind a newline. Plain text is cut where no splitter joins: between an ASCII letter or digit and a
 * newline. (Neither GPT-2's nor cl100k's pattern has an alternative that continues over that place, and none looks ahead
 * or back across it: whitespace runs, where \s+(?!\S) looks ahead, begin at the newline. Punctuation may swallow
 * newlines in cl100k, so it does not count.) Hence the ids are those of the whole document; the test compares. Text
 * that has no such place for long is cut at any safe place of the tokenizer's (split.h).
 *
 * Invariant: a block depends on the text from its beginning on and on nothing else, not on how it was read, so that a
 * reader that was sent to its beginning makes the same block. */
#include "io/dataset/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/tokenizer/split.h"

#define PATIENCE                                                                                             \
    ((size_t)4 << 20) /* plain text this long without a newline behind a letter is cut elsewhere */

void blocks_open(block_reader *r, const text_inputs *inputs, const uint64_t *cut, size_t block_bytes) {
    *r = (block_reader){
        .inputs = inputs, .cut = cut, .block_bytes = block_bytes ? block_bytes : BLOCK_BYTES, .line = 1};
}

static void close_input(block_reader *r) {
    stream_close(r->stream);
    r->stream = NULL;
    r->lo = r->hi = 0;
    r->end = 0;
}

void blocks_close(block_reader *r) {
    close_input(r);
    free(r->buf);
    r->buf = NULL;
}

weft_status blocks_seek(block_reader *r, size_t input, uint64_t at, uint64_t line) {
    close_input(r);
    r->before = 0;
    for (r->input = 0; r->input < input && r->input < r->inputs->n; r->input++)
        r->before += r->inputs->item[r->input].bytes;
    r->at = at;
    r->line = line;
    return WEFT_OK;
}

static weft_status open_input(block_reader *r) {
    const text_input *i = &r->inputs->item[r->input];
    WEFT_TRY(stream_open(i->path, i->name, i->packing, &r->stream));
    return stream_skip(r->stream, r->at);
}

/* Reads on until `want` bytes wait, or the input ends. */
static weft_status fill(block_reader *r, size_t want) {
    if (r->hi - r->lo >= want || r->end) return WEFT_OK;
    if (r->lo) {
        memmove(r->buf, r->buf + r->lo, r->hi - r->lo);
        r->hi -= r->lo;
        r->lo = 0;
    }
    if (r->cap < want) {
        char *p = weft_reallocarray(r->buf, want, 1);
        if (!p) return WEFT_ERR_NOMEM;
        r->buf = p;
        r->cap = want;
    }
    while (r->hi < want && !r->end) {
        size_t n;
        WEFT_TRY(stream_read(r->stream, r->buf + r->hi, want - r->hi, &n));
        r->hi += n;
        r->end = n == 0;
    }
    return WEFT_OK;
}

static int letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Where s[0..n) may end as a block; 0: nowhere. */
static size_t find_cut(const char *s, size_t n, int jsonl) {
    if (jsonl) {
        const char *nl = memrchr(s, '\n', n);
        return nl ? (size_t)(nl - s) + 1 : 0;
    }
    for (size_t i = n; i > 1;) {
        const char *nl = memrchr(s + 1, '\n', i - 1);
        if (!nl) break;
        if (letter_or_digit(nl[-1])) return (size_t)(nl - s);
        i = (size_t)(nl - s);
    }
    if (n < PATIENCE) return 0;
    size_t cut = tok_safe_cut((const uint8_t *)s, n, n / 2);
    return cut < n ? cut : 0;
}

size_t block_piece(const char *s, size_t n) {
    for (size_t want = BLOCK_BYTES; want < n; want *= 2) {
        size_t cut = find_cut(s, want, 0);
        if (cut) return cut;
    }
    return n;
}

static size_t smaller(uint64_t a, size_t b) {
    return a < b ? (size_t)a : b;
}

/* Bytes of the next block, which then wait in r->buf; 0: the input is at its end. */
static weft_status next_size(block_reader *r, size_t *size) {
    const text_input *in = &r->inputs->item[r->input];
    uint64_t stop = r->cut && !in->jsonl && r->at < r->cut[r->input] ? r->cut[r->input] - r->at : UINT64_MAX;
    for (size_t want = r->block_bytes;; want *= 2) {
        /* one byte more than wanted, so that the end shows */
        WEFT_TRY(fill(r, smaller(stop, want + 1)));
        size_t have = r->hi - r->lo;
        if (stop <= want && have >= stop)
            *size = (size_t)stop;
        else if (have <= want) /* the input has ended */
            *size = have;
        else
            *size = find_cut(r->buf + r->lo, want, in->jsonl);
        if (*size || !have) return WEFT_OK;
        if (want > BLOCK_MAX_UNIT) break;
    }
    if (in->jsonl)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%llu: the line is longer than 256 MiB", in->name,
                         (unsigned long long)r->line);
    return weft_fail(WEFT_ERR_FORMAT,
                     "%s: no place to cut this text in 256 MiB from byte %llu on; is it text?", in->name,
                     (unsigned long long)r->at);
}

static uint64_t count_lines(const char *s, size_t n) {
    uint64_t k = 0;
    for (size_t i = 0; i < n; i++) k += s[i] == '\n';
    return k;
}

/* Moves n bytes of what waits into b. */
static weft_status take(block_reader *r, size_t n, text_block *b) {
    if (b->cap < n) {
        char *p = weft_reallocarray(b->buf, n, 1);
        if (!p) return WEFT_ERR_NOMEM;
        b->buf = p;
        b->cap = n;
    }
    const text_input *in = &r->inputs->item[r->input];
    uint64_t cut = r->cut && !in->jsonl ? r->cut[r->input] : BLOCK_NO_CUT;
    memcpy(b->buf, r->buf + r->lo, n);
    b->n = n;
    b->input = r->input;
    b->at = r->at;
    b->line = r->line;
    b->lines = count_lines(b->buf, n);
    b->consumed = r->before + stream_consumed(r->stream);
    b->begins = r->at == 0 || r->at == cut;
    b->held = r->at >= cut;
    r->lo += n;
    r->at += n;
    r->line += b->lines;
    return WEFT_OK;
}

weft_status blocks_next(block_reader *r, text_block *b) {
    b->n = 0;
    for (; r->input < r->inputs->n; r->input++) {
        size_t n;
        if (!r->stream) WEFT_TRY(open_input(r));
        WEFT_TRY(next_size(r, &n));
        if (n) return take(r, n, b);
        WEFT_TRY(inputs_unchanged(&r->inputs->item[r->input]));
        r->before += r->inputs->item[r->input].bytes;
        r->at = 0;
        r->line = 1;
        close_input(r);
    }
    return WEFT_OK;
}
