/* See tok_test.h. */
#include "tests/io/tokenizer/tok_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"

weft_status doc_list_next(void *arg, const char **text, size_t *n) {
    doc_list *d = arg;
    *text = d->at < d->n ? d->text[d->at] : NULL;
    *n = !*text ? 0 : d->len ? d->len[d->at] : strlen(*text);
    d->at++;
    return WEFT_OK;
}

weft_tok_opts tok_test_opts(uint32_t vocab, weft_tok_split split, int threads) {
    static const char *const specials[] = {"<|endoftext|>"};
    return (weft_tok_opts){.size = sizeof(weft_tok_opts),
                           .vocab = vocab,
                           .split = split,
                           .threads = threads,
                           .specials = specials,
                           .nspecial = 1};
}

weft_tok *tok_test_train(const char *text, size_t n, uint32_t vocab, weft_tok_split split, int threads) {
    weft_tok_opts o = tok_test_opts(vocab, split, threads);
    doc_list d = {&text, &n, 1, 0};
    weft_tok *t = NULL;
    assert_ok(weft_tok_train(&o, doc_list_next, &d, &t));
    return t;
}

char *tok_test_text(uint64_t seed, size_t n, int any_bytes) {
    static const char *const parts[] = {"the",
                                        " and",
                                        " of",
                                        " unto",
                                        "LORD",
                                        " 's",
                                        "'s",
                                        "'LL",
                                        "don't",
                                        " we've",
                                        "it\xc5\xbf",
                                        "'\xc5\xbf",
                                        " ",
                                        " ",
                                        "  ",
                                        "   ",
                                        "\n",
                                        "\n\n",
                                        "\r\n",
                                        "\t",
                                        "\v",
                                        "\xc2\x85",
                                        "\xc2\xa0",
                                        "\xe3\x80\x80",
                                        "1",
                                        "23",
                                        "4567",
                                        " 89",
                                        "\xd9\xa3",
                                        "\xc2\xbd",
                                        ".",
                                        "...",
                                        "!?",
                                        " --",
                                        "(",
                                        "=",
                                        "\xe2\x80\x94",
                                        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80",
                                        "\xe4\xbd\xa0\xe5\xa5\xbd",
                                        "\xef\xbc\x8c",
                                        "\xd0\x9f\xd1\x80\xd0\xb8",
                                        "\xc3\xa9",
                                        "e\xcc\x81",
                                        "\xed\x95\x9c",
                                        "<|endoftext|>",
                                        "aaaaaaa",
                                        "ababab",
                                        "x"};
    const size_t nparts = sizeof parts / sizeof *parts;
    char *s = malloc(n + 1);
    assert_non_null(s);
    size_t k = 0;
    for (uint64_t i = 0; k < n; i++) {
        uint64_t r = weft_rng_u64(seed, 1, i);
        const char *p = parts[r % nparts];
        size_t len = strlen(p);
        char byte = (char)(r >> 40);
        if (any_bytes && (r >> 32) % 4 == 0) p = &byte, len = 1;
        if (k + len > n) p = "q", len = 1; /* never cuts a character in two */
        memcpy(s + k, p, len);
        k += len;
    }
    s[n] = 0;
    return s;
}

uint32_t *tok_test_encode(const weft_tok *t, const void *s, size_t n, uint32_t flags, size_t *k) {
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    assert_non_null(ids);
    assert_ok(weft_tok_encode(t, s, n, flags, ids, n + 1, k));
    return ids;
}

char *tok_test_kjv(size_t *n) {
    enum { BYTES = 4298239 };
    FILE *p = popen("bible -p /usr/lib Gen1:1-Rev22:21 2>/dev/null", "r");
    char *s = malloc(BYTES + 1);
    assert_non_null(s);
    *n = p ? fread(s, 1, BYTES + 1, p) : 0;
    if (p) pclose(p);
    if (*n == BYTES) return s;
    free(s);
    return NULL;
}

uint64_t tok_test_hash(const uint32_t *ids, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        for (int b = 0; b < 32; b += 8) h = (h ^ (ids[i] >> b & 255)) * 0x100000001b3u;
    return h;
}

char *tok_test_dir(void) {
    const char *base = getenv("TMPDIR");
    char path[512];
    snprintf(path, sizeof path, "%s/weft-tok-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

uint64_t tok_test_seed(void) {
    const char *e = getenv("WEFT_TEST_SEED");
    uint64_t seed = e ? strtoull(e, NULL, 10) : (uint64_t)time(NULL);
    print_message("WEFT_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}
