/* The tokenizer inside: a table of tokens, a table of merges, and the steps that build them.
 *
 * A reader or the trainer creates an empty object (tok_new), gives it every token (tok_put), indexes them
 * (tok_index), adds the merges in order of rank (tok_add_merge) and closes it (tok_finish). From then on the
 * object is never written, so that any number of threads may encode with it. */
#ifndef WEFT_IO_TOKENIZER_TOK_H
#define WEFT_IO_TOKENIZER_TOK_H

#include "io/tokenizer/tokenizer.h"

#define TOK_NONE UINT32_MAX
#define TOK_MAX_VOCAB                                                                                        \
    (1u << 22) /* bounds the tables that a file can ask for; the largest known vocabulary is 2^18 */
#define TOK_MAX_FILE ((size_t)256 << 20)

typedef enum tok_kind {
    TOK_HOLE,     /* no token has this id */
    TOK_ORDINARY, /* made from text by merges */
    TOK_ADDED,    /* recognised in any text, before splitting ("added", not "special") */
    TOK_SPECIAL   /* recognised only with WEFT_TOK_SPECIALS */
} tok_kind;

typedef struct tok_merge {
    uint32_t left, right, id;
} tok_merge;

/* One slot of the pair table; key is left << 32 | right, empty: all ones. */
typedef struct tok_pair_slot {
    uint64_t key;
    uint32_t rank, id;
} tok_pair_slot;

/* One slot of the token table: upper half of the hash of the bytes, and the id; empty: TOK_NONE. */
typedef struct tok_token_slot {
    uint32_t tag, id;
} tok_token_slot;

struct weft_tok {
    weft_tok_split split;
    int ignore_merges; /* a piece that is a token is that token, whatever its merges */

    uint32_t nvocab;     /* the largest id + 1 */
    uint32_t *off, *len; /* the bytes of a token are bytes + off[id], len[id] */
    uint8_t *kind;       /* tok_kind */
    uint8_t *whole;      /* 1: encoding the token's bytes gives the token */
    uint8_t *bytes;
    size_t nbytes, cap_bytes;

    uint32_t byte_id[256];
    tok_merge *merges; /* in order of rank */
    uint32_t nmerges, cap_merges;
    tok_pair_slot *pairs;
    tok_token_slot *tokens;
    int pair_shift, token_shift; /* 64 - log2(slots) */

    uint32_t *added; /* ids of ADDED and SPECIAL tokens by (first byte, longest first) */
    uint32_t nadded;
    uint32_t added_at[257]; /* those that begin with byte b: added[added_at[b]] to added[added_at[b + 1]] */
};

/* An object with room for ids 0..nvocab-1, all holes. NOMEM; FORMAT if nvocab is 0 or above TOK_MAX_VOCAB. */
weft_status tok_new(uint32_t nvocab, weft_tok_split split, weft_tok **out);
/* Gives id its bytes (copied; n >= 1). FORMAT if the id is out of range or taken. */
weft_status tok_put(weft_tok *t, uint32_t id, const void *bytes, size_t n, tok_kind kind);
/* After the last tok_put: makes tok_find work. UNSUPPORTED if a byte has no token (not every text could be
 * encoded); FORMAT if two ordinary tokens have the same bytes. */
weft_status tok_index(weft_tok *t);
/* After tok_index: the merge of the next rank. FORMAT if a part is no ordinary token, the joined bytes are
 * none, or the pair has a merge already. */
weft_status tok_add_merge(weft_tok *t, uint32_t left, uint32_t right);
/* After the last merge: the rest of the tables. NOMEM. */
weft_status tok_finish(weft_tok *t);

/* The ordinary token with these bytes, or TOK_NONE. */
uint32_t tok_find(const weft_tok *t, const void *s, size_t n);
/* The same for a caller that has the bytes' XXH3-64. */
uint32_t tok_lookup(const weft_tok *t, const uint8_t *s, size_t n, uint64_t hash);
/* "\"bytes\"" with everything but printable ASCII as \\xNN, shortened to fit: names a token in a message. */
#define TOK_NAME 72
const char *tok_name(const void *s, size_t n, char buf[TOK_NAME]);

/* The slot of (left, right), or NULL if no merge joins them. */
static inline const tok_pair_slot *tok_pair(const weft_tok *t, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    size_t mask = ((size_t)1 << (64 - t->pair_shift)) - 1;
    for (size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> t->pair_shift);; i = (i + 1) & mask) {
        const tok_pair_slot *p = &t->pairs[i];
        if (p->key == key) return p;
        if (p->key == UINT64_MAX) return NULL;
    }
}

/* merge.c: byte-pair encoding of one piece by ranks, whatever its length. */
#define TOK_SHORT 64 /* pieces up to this many bytes need no scratch */
typedef struct tok_scratch {
    void *p;
    size_t bytes;
} tok_scratch;
/* ids has room for n; *k = number of ids. NOMEM. */
weft_status tok_merge_piece(const weft_tok *t, const uint8_t *s, size_t n, tok_scratch *scratch,
                            uint32_t *ids, size_t *k);

/* byte_map.c: bytes as the printable characters of byte-level vocabularies. */
/* The code point that stands for byte b. */
uint32_t tok_byte_char(uint8_t b);
/* Appends the UTF-8 of the mapped bytes to out (room for 2 n); returns its length. */
size_t tok_map_bytes(const uint8_t *s, size_t n, char *out);
/* The bytes that mapped text s stands for into out (room for n); 0 if a character stands for no byte, else 1.
 */
int tok_unmap_text(const char *s, size_t n, uint8_t *out, size_t *k);

/* read_tiktoken.c: lines of "base64 rank". `name` is for messages. */
weft_status tok_parse_tiktoken(const char *name, const char *text, size_t n, weft_tok **out);
/* read_vocab.c: the pair vocab.json (an object token -> id) and merges.txt (a line a merge). */
weft_status tok_parse_vocab_merges(const char *vocab_name, const char *vocab, size_t nvocab,
                                   const char *merges_name, const char *merges, size_t nmerges,
                                   weft_tok **out);
/* read_vocab.c: the merge of two tokens in mapped text. FORMAT if one is no token. */
weft_status tok_add_merge_text(weft_tok *t, const char *left, size_t nleft, const char *right, size_t nright);
/* read_vocab.c: the same for "left right", as in merges.txt. */
weft_status tok_add_merge_line(weft_tok *t, const char *line, size_t n);
/* read_vocab.c: an ordinary token given as mapped text. FORMAT if a character stands for no byte. */
weft_status tok_put_text(weft_tok *t, uint32_t id, const char *text, size_t n);

#endif
