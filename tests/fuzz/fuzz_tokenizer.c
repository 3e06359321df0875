/* Fuzz target of the tokenizer. The first byte of the input chooses: the parser of tokenizer.json, of
 * .tiktoken, of vocab.json + merges.txt (cut at the first zero byte), or a round trip of the rest through a
 * vocabulary that was trained at start-up. What a parser accepts must encode and decode any bytes exactly,
 * with at most one id a byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char sample[] =
    "In the beginning God created the heaven and the earth. And the earth was without form, "
    "and void; and darkness was upon the face of the deep.\n\n 123 4567 don't we'll";

static weft_status one_document(void *arg, const char **text, size_t *n) {
    int *left = arg;
    *text = *left ? sample : NULL;
    *n = *left ? sizeof sample - 1 : 0;
    *left = 0;
    return WEFT_OK;
}

static const weft_tok *trained(int split) {
    static weft_tok *t[2];
    static const char *const specials[] = {"<|endoftext|>"};
    if (!t[split]) {
        int left = 1;
        weft_tok_opts o = {.size = sizeof o,
                           .vocab = 320,
                           .split = (weft_tok_split)split,
                           .specials = specials,
                           .nspecial = 1};
        if (weft_tok_train(&o, one_document, &left, &t[split]) < 0) abort();
    }
    return t[split];
}

static void round_trip(const weft_tok *t, const uint8_t *s, size_t n, uint32_t flags) {
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    uint8_t *back = malloc(n + 1);
    size_t k, bytes;
    if (!ids || !back) abort();
    if (weft_tok_encode(t, s, n, flags, ids, n + 1, &k) < 0 || k > n) abort();
    if (weft_tok_decode(t, ids, k, back, n, &bytes) < 0 || bytes != n || memcmp(back, s, n) != 0) abort();
    free(ids);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    const char *s = (const char *)data + 1;
    size_t n = size - 1;
    weft_tok *t = NULL;
    weft_status st;
    const char *zero;
    switch (data[0] % 5) {
    case 0: st = weft_tok_parse_json("fuzz", s, n, &t); break;
    case 1: st = tok_parse_tiktoken("fuzz", s, n, &t); break;
    case 2:
        zero = memchr(s, 0, n);
        if (!zero) return 0;
        st =
            tok_parse_vocab_merges("v", s, (size_t)(zero - s), "m", zero + 1, n - (size_t)(zero - s) - 1, &t);
        break;
    default:
        round_trip(trained(data[0] % 5 - 3), data + 1, n, data[0] & 0x80 ? WEFT_TOK_SPECIALS : 0);
        return 0;
    }
    if ((st < 0) != !t) abort();
    if (t) {
        round_trip(t, data, size, WEFT_TOK_SPECIALS);
        round_trip(t, (const uint8_t *)sample, sizeof sample - 1, 0);
    }
    weft_tok_destroy(t);
    return 0;
}
