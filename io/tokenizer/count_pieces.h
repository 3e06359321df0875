/* The first half of training: how often does each distinct piece occur in a stream of documents? */
#ifndef WEFT_IO_TOKENIZER_COUNT_PIECES_H
#define WEFT_IO_TOKENIZER_COUNT_PIECES_H

#include "io/tokenizer/tokenizer.h"

typedef struct piece_slot {
    uint64_t hash;
    uint64_t count; /* 0: empty */
    size_t off;     /* of the bytes, in piece_table.bytes */
    size_t len;
} piece_slot;

/* A hash table of distinct pieces, which owns their bytes. All zero is an empty one. */
typedef struct piece_table {
    piece_slot *slots;
    size_t nslots; /* a power of two, or 0 */
    size_t used;
    uint8_t *bytes;
    size_t nbytes, cap_bytes;
} piece_table;

/* Splits and counts all documents, on `threads` threads; documents are read on the caller's. *out must be
 * freed by piece_table_free also after an error. The counts do not depend on the number of threads. NOMEM, or
 * what next_doc returned. */
weft_status count_pieces(weft_tok_split split, int threads, weft_read_fn next_doc, void *arg,
                         piece_table *out);
void piece_table_free(piece_table *t);

#endif
