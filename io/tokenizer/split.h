/* Splitters: cut a text into the pieces that byte-pair merges never cross.
 *
 * GPT-2:
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * cl100k (GPT-4, Llama 3):
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * Any bytes are valid input. For valid UTF-8 the pieces are those of the regular expressions. A byte that
 * begins no well-formed UTF-8 sequence (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF)
 * is one character of the class "other", like punctuation; so the pieces joined are always the text, byte for
 * byte. */
#ifndef WEFT_IO_TOKENIZER_SPLIT_H
#define WEFT_IO_TOKENIZER_SPLIT_H

#include <stddef.h>
#include <stdint.h>

#include "io/tokenizer/tokenizer.h"

/* Bytes of the first piece of s[0..n); n >= 1, the result is in 1..n. Any thread. */
size_t tok_next_piece(weft_tok_split split, const uint8_t *s, size_t n);

/* A place at which s may be cut in two without changing its pieces: the first boundary at or after `from`
 * between a letter and something that is none, or n. (No alternative of either expression continues a letter
 * with anything but a letter, none looks behind, and none looks ahead over such a place.) Any thread. */
size_t tok_safe_cut(const uint8_t *s, size_t n, size_t from);

/* The regular expression of a splitter as HuggingFace's tokenizer.json spells it. */
const char *tok_split_pattern(weft_tok_split split);
/* The splitter whose expression `pattern` is, in any of the spellings in use; 0 if it is none of them. */
int tok_split_of_pattern(const char *pattern, weft_tok_split *split);

/* 1 if s[0..n) is white space only. */
int tok_is_space(const uint8_t *s, size_t n);
/* 1 if s[0..n) is well-formed UTF-8. */
int tok_valid_utf8(const uint8_t *s, size_t n);

#endif
