/* Private to io/dataset: a corpus cut into blocks that can be tokenized apart from one another. */
#ifndef WEFT_IO_DATASET_BLOCKS_H
#define WEFT_IO_DATASET_BLOCKS_H

#include "io/dataset/inputs.h"

#define BLOCK_BYTES    ((size_t)1 << 20)
#define BLOCK_MAX_UNIT ((size_t)256 << 20) /* a line of JSONL; plain text without a place to cut */
#define BLOCK_NO_CUT   UINT64_MAX

/* A run of whole lines of one JSONL file, or a piece of one plain document whose tokens are those that the whole
 * document has there. */
typedef struct text_block {
    char *buf; /* owned */
    size_t n, cap;
    size_t input;
    uint64_t at, line; /* place in the unpacked file; number of the first line, from 1 */
    uint64_t lines;    /* line ends in it */
    uint64_t consumed; /* packed bytes of the corpus read so far */
    int begins;        /* plain: a document begins here */
    int held;          /* plain: belongs to the held-out end */
} text_block;

typedef struct block_reader {
    const text_inputs *inputs;
    const uint64_t
        *cut; /* by input: where the held-out end of a plain document begins, or BLOCK_NO_CUT; NULL: none */
    size_t block_bytes;
    size_t input;      /* the open one */
    uint64_t at, line; /* of the next block */
    uint64_t before;   /* packed bytes of the inputs before this */
    text_stream *stream;
    char *buf; /* text [lo, hi) is read and in no block yet */
    size_t lo, hi, cap;
    int end; /* of the open input */
} block_reader;

void blocks_open(block_reader *r, const text_inputs *inputs, const uint64_t *cut, size_t block_bytes);
void blocks_close(block_reader *r);
/* Goes to a place where a block began. */
weft_status blocks_seek(block_reader *r, size_t input, uint64_t at, uint64_t line);
/* The next block into b (its buffer is used again); b->n = 0 at the end of the corpus. Where blocks begin and end depends
 * on the files and block_bytes alone. FORMAT: a line that is too long, a damaged file. */
weft_status blocks_next(block_reader *r, text_block *b);
/* Length of the first piece of plain text s[0..n), n >= 1, that can be tokenized apart: about a block. */
size_t block_piece(const char *s, size_t n);

#endif
