/* Private to io/dataset: a conversation -> the parts of text that a model sees, and which of them it learns. */
#ifndef WEFT_IO_DATASET_CHAT_H
#define WEFT_IO_DATASET_CHAT_H

#include <jansson.h>

#include "io/dataset/dataset.h"

#define CHAT_MAX_ROLE     64
#define CHAT_MAX_MESSAGES 65536

typedef enum chat_kind {
    CHAT_TEXT,   /* ordinary text, tokenized by itself; special tokens are not recognised in it */
    CHAT_MARKER, /* a special token of this name, or, if the tokenizer has none, its name as text */
    CHAT_BEGIN, /* the same, but stands for the token before the document, and is left out if there is none */
    CHAT_END    /* the tokenizer's end of text, left out if there is none */
} chat_kind;

typedef struct chat_part {
    chat_kind kind;
    int learn;   /* 1: to be predicted */
    int content; /* 1: of a message, not of the template */
    const char *text;
    size_t n;
} chat_part;

/* All zero: empty. Parts point into the JSON that they were made from. */
typedef struct chat {
    chat_part *part;
    size_t n, cap;
} chat;

/* Renders o; `where` (file:line) begins the messages of errors. FORMAT, NOMEM. */
weft_status chat_render(const char *where, const json_t *o, weft_chat template, chat *c);
void chat_free(chat *c);

#endif
