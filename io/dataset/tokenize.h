/* Private to io/dataset: a block of text -> its tokens. */
#ifndef WEFT_IO_DATASET_TOKENIZE_H
#define WEFT_IO_DATASET_TOKENIZE_H

#include "io/dataset/text.h"

typedef struct token_doc {  /* a document, or a piece of one */
    uint64_t tokens, bytes; /* bytes of text that they stand for */
    int begins;             /* else it goes on with the last one of this side */
    int held;
} token_doc;

typedef struct token_block {
    uint32_t *ids;
    uint8_t *mask; /* NULL without conversations */
    size_t n, cap;
    token_doc *docs;
    size_t ndocs, cap_docs;
    uint64_t skipped;
} token_block;

typedef struct tokenizer_job { /* the same for all blocks, only read */
    const weft_text *text;
    const weft_tok *tok;
    int64_t eot;
} tokenizer_job;

/* Replaces what is in out. Any thread, several at once. FORMAT: a bad line. */
weft_status tokenize_block(const tokenizer_job *j, const text_block *b, token_block *out);
void token_block_free(token_block *out);

#endif
