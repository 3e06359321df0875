/* Private to io/dataset: read in order, tokenize at once, write in order. */
#ifndef WEFT_IO_DATASET_PIPELINE_H
#define WEFT_IO_DATASET_PIPELINE_H

#include "io/dataset/tokenize.h"

typedef struct pipeline {
    block_reader *reader;
    const tokenizer_job *job;
    /* Blocks arrive in the order of the text, one at a time, from any of the threads. An error ends the pipeline. */
    weft_status (*write)(void *arg, const text_block *b, const token_block *t);
    void *arg;
    int threads; /* >= 1, the caller's among them */
} pipeline;

/* Runs until the reader is at its end. The first error in the order of the text is returned, with its text; nothing
 * behind it has been written. */
weft_status pipeline_run(const pipeline *p);

#endif
