/* Private to io/dataset: one line of JSONL -> its text. */
#ifndef WEFT_IO_DATASET_JSONL_H
#define WEFT_IO_DATASET_JSONL_H

#include "io/dataset/chat.h"

typedef struct jsonl_form { /* what a line should be */
    const char *field;      /* the member that is the text */
    weft_chat chat;         /* or a conversation */
} jsonl_form;

typedef struct jsonl_text {
    int found;        /* 0: a blank line */
    const char *text; /* in the line, in `room` or in `json`; may hold zero bytes; NULL: a conversation */
    size_t n;
    chat chat; /* its parts point into `json` */
    void *json;
    char *room;
    size_t cap;
} jsonl_text;

/* The document in line[0..n). t: all zero, or used before and freed by jsonl_free since. FORMAT names file, line and
 * place. */
weft_status jsonl_parse(const char *file, size_t number, const char *line, size_t n, const jsonl_form *form,
                        jsonl_text *t);
/* Frees the document, and keeps the room for another's parts; that goes with jsonl_end. */
void jsonl_free(jsonl_text *t);
void jsonl_end(jsonl_text *t);

#endif
