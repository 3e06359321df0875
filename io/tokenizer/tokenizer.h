/* Byte-level BPE tokenizer: train, encode, decode, and the files that other tools read.
 *
 * Ids are the same as those of the reference implementations (tiktoken, HuggingFace tokenizers) for the same
 * vocabulary (HuggingFace's with add_special_tokens=False: encoding adds no token around the text). Splitters: GPT-2's
 * and cl100k/Llama-3's; an unknown pattern is refused.
 * Source of the method: Sennrich et al. 2016; Radford et al. 2019 (byte level). */
#ifndef WEFT_IO_TOKENIZER_H
#define WEFT_IO_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct weft_tok weft_tok;

typedef enum weft_tok_split { WEFT_SPLIT_GPT2 = 0, WEFT_SPLIT_CL100K = 1 } weft_tok_split;

typedef struct weft_tok_opts {
    uint32_t size;
    uint32_t vocab;         /* wanted size, specials and the 256 bytes included; >= 256 + nspecial */
    uint32_t min_frequency; /* merges rarer than this are not made; 0 is 1 */
    weft_tok_split split;
    int threads;                 /* result does not depend on it; 0: 1 */
    const char *const *specials; /* their ids are 0..nspecial-1 */
    size_t nspecial;
    void (*progress)(void *arg, const char *phase, double fraction); /* NULL: silent */
    void *progress_arg;
} weft_tok_opts;

/* Delivers the next document (borrowed until the next call); *n = 0 and *text = NULL at the end. */
typedef weft_status (*weft_read_fn)(void *arg, const char **text, size_t *n);

/* Flags of encode and save. */
enum { WEFT_TOK_SPECIALS = 1 /* recognise the text of special tokens */ };
enum {
    WEFT_TOK_JSON = 1 /* tokenizer.json, tokenizer_config.json */,
    WEFT_TOK_VOCAB_MERGES = 2 /* vocab.json, merges.txt */
};

/* path: a tokenizer.json, a .tiktoken file, a merges.txt or vocab.json (the other beside it), or a directory holding
 * one of these. NOTFOUND, FORMAT, UNSUPPORTED (names the feature). Any thread. */
weft_status weft_tok_load(const char *path, weft_tok **out);
/* The parser of tokenizer.json alone, from memory; also a fuzz target's entry. */
weft_status weft_tok_parse_json(const char *name, const char *text, size_t n, weft_tok **out);
weft_status weft_tok_train(const weft_tok_opts *o, weft_read_fn next_doc, void *arg, weft_tok **out);
/* Writes the chosen formats into the directory `dir`, each file atomically. ACCESS, SPACE, IO. */
weft_status weft_tok_save(const weft_tok *t, const char *dir, uint32_t formats);
void weft_tok_destroy(weft_tok *t);

/* Number of ids (the largest id + 1). */
uint32_t weft_tok_vocab(const weft_tok *t);
/* Id of a special (or otherwise added) token by its text, or -1. */
int64_t weft_tok_special(const weft_tok *t, const char *text);
/* Id of the end-of-text token ("<|endoftext|>", "</s>", "<|end_of_text|>", else the first special), or -1. */
int64_t weft_tok_eot(const weft_tok *t);
/* XXH3-64 of (splitter, every token's bytes and kind in id order, merges in order of rank). Tokenizers that give
 * different ids have different fingerprints; the file form that a tokenizer was read from does not matter. */
uint64_t weft_tok_fingerprint(const weft_tok *t);

/* Appends ids of s[0..n) to ids[0..cap); *k = number of ids. NOMEM if cap is too small (n + 1 always suffices, one
 * id per byte at most); then nothing is promised about ids. Any byte string is valid input. Any thread, several at
 * once (the piece cache is per call). */
weft_status weft_tok_encode(const weft_tok *t, const void *s, size_t n, uint32_t flags, uint32_t *ids,
                            size_t cap, size_t *k);
/* Bytes of the ids into buf[0..cap); *k = number of bytes needed (buf may be NULL with cap 0). VOCAB: an id that does
 * not exist. NOMEM: cap too small. Any thread. */
weft_status weft_tok_decode(const weft_tok *t, const uint32_t *ids, size_t n, void *buf, size_t cap,
                            size_t *k);

#endif
