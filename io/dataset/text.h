/* Private to io/dataset: an open corpus, as prepare uses it. */
#ifndef WEFT_IO_DATASET_TEXT_H
#define WEFT_IO_DATASET_TEXT_H

#include "io/dataset/blocks.h"
#include "io/dataset/holdout.h"
#include "io/dataset/jsonl.h"

struct weft_text {
    text_inputs inputs;
    char *field;
    jsonl_form form;
    int skip_bad;
    holdout_rule hold;      /* share 0 until text_hold_out */
    uint64_t *cut;          /* by input; see blocks.h */
    uint64_t budget;        /* text_sample: bytes that next delivers in all; 0: everything */
    double share;           /* of all text that the budget is */
    size_t sampled;         /* the input that these are of */
    uint64_t jumps;         /* blocks of it so far */
    double owed, delivered; /* bytes that the inputs before it were good for; bytes that came */
    int torn;               /* the block began somewhere inside a line */
    /* where next is */
    block_reader reader;
    text_block block;
    size_t at; /* in the block */
    uint64_t line;
    jsonl_text doc;
    char *joined; /* the contents of a conversation */
    size_t joined_cap;
};

/* From now on, next delivers only what is not held out. Counts documents (up to 100) and finds where plain ones are to
 * be cut; rewinds. */
weft_status text_hold_out(weft_text *t, double share);
/* From now on, next delivers about so many bytes, spread over the corpus in blocks (of packed files the first part);
 * 0: all. Rewinds. */
weft_status text_sample(weft_text *t, uint64_t bytes);
/* Name of the first file. */
const char *text_name(const weft_text *t);

#endif
