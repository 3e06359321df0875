/* Private to io/dataset: a foreign token file used where it lies, as its sidecar describes it. */
#ifndef WEFT_IO_DATASET_ADOPT_H
#define WEFT_IO_DATASET_ADOPT_H

#include <stdatomic.h>

#include "io/dataset/dataset.h"
#include "io/dataset/token_file.h"

#define ADOPT_SEGMENT ((uint64_t)4 << 20) /* bytes a digest covers */

typedef struct adopt_sidecar {
    token_kind kind;
    token_type type;
    uint64_t file_bytes, at, idx_bytes; /* idx_bytes: 0 without an index */
    weft_shard_info info;               /* tokens, vocab, eot, tokenizer, width, source_bytes, texts */
    uint8_t idx_digest[16];
    size_t segments;
    uint8_t (
        *digest)[16]; /* XXH3-128 of every ADOPT_SEGMENT bytes of the tokens, the last one shorter; owned */
} adopt_sidecar;

/* The parser of a sidecar, from memory; also what the fuzz target enters. FORMAT, VERSION, NOMEM. */
weft_status adopt_parse(const char *name, const char *text, size_t n, adopt_sidecar *s);
void adopt_sidecar_free(adopt_sidecar *s);

typedef struct adopted {
    token_file f;
    adopt_sidecar s;
    const char *tokens; /* mapped */
    int64_t one[2];     /* the document starts of a file without an index */
    const int64_t *doc; /* info.docs + 1 */
    uint8_t digest_of_all[16];
    _Atomic uint64_t *seen; /* a bit a segment: it was digested; relaxed, the bytes do not change */
} adopted;

/* 1 if path has a sidecar. */
int adopt_is(const char *path);
/* Opens path by its sidecar; the index is digested, the tokens when they are first asked for. CORRUPT: the file or its
 * index is not what was adopted. */
weft_status adopt_open(const char *path, adopted **a);
void adopt_close(adopted *a);
/* Makes sure that bytes [lo, hi) of the tokens are what was adopted. Any thread. CORRUPT names the range. */
weft_status adopt_check(const adopted *a, uint64_t lo, uint64_t hi);

/* Shared with trade.c. What the options, the tokenizer and the format say together: vocab, eot, tokenizer, texts. */
struct weft_import_opts;
weft_status trade_describe(const token_file *f, const struct weft_import_opts *o, weft_shard_info *info);
/* Bytes of text that the ids stand for; 0 if tok is NULL. Special tokens stand for none. */
uint64_t trade_text_bytes(const weft_tok *tok, const uint32_t *ids, size_t n);

#endif
