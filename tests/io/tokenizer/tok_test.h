/* What the tokenizer's tests share: a small vocabulary trained in place, random texts, encoding into fresh
 * memory. */
#ifndef WEFT_TESTS_TOK_TEST_H
#define WEFT_TESTS_TOK_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/tokenizer/tokenizer.h"

/* Fails the test with the error text if s is not WEFT_OK. */
#define assert_ok(s)                                                                                         \
    do {                                                                                                     \
        weft_status ok_ = (s);                                                                               \
        if (ok_ != WEFT_OK) fail_msg("%s: %s", weft_status_name(ok_), weft_last_error());                    \
    } while (0)

/* A stream of documents for weft_tok_train. */
typedef struct doc_list {
    const char *const *text;
    const size_t *len; /* NULL: strlen */
    size_t n, at;
} doc_list;
weft_status doc_list_next(void *arg, const char **text, size_t *n);

/* Options with the special token "<|endoftext|>" (id 0). */
weft_tok_opts tok_test_opts(uint32_t vocab, weft_tok_split split, int threads);
/* Trains on one text. */
weft_tok *tok_test_train(const char *text, size_t n, uint32_t vocab, weft_tok_split split, int threads);

/* A text of n bytes made of words, scripts, white space, contractions and line breaks: valid UTF-8, or with
 * `any_bytes` sprinkled with arbitrary bytes. Freed with free(). */
char *tok_test_text(uint64_t seed, size_t n, int any_bytes);

/* Ids of s with room for exactly n + 1; *k of them. Freed with free(). */
uint32_t *tok_test_encode(const weft_tok *t, const void *s, size_t n, uint32_t flags, size_t *k);

/* The King James text of the program `bible` (4 298 239 bytes), or NULL where that is not installed. */
char *tok_test_kjv(size_t *n);

/* FNV-1a of little-endian ids: what the golden files keep of a long result. */
uint64_t tok_test_hash(const uint32_t *ids, size_t n);

/* A fresh directory under TMPDIR; freed with free() after weft_remove_tree. */
char *tok_test_dir(void);
/* Seed of this run: WEFT_TEST_SEED or the clock; printed. */
uint64_t tok_test_seed(void);

#endif
