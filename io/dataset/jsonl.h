/* Private to io/dataset: one line of JSONL -> its text. */
#ifndef WEFT_IO_DATASET_JSONL_H
#define WEFT_IO_DATASET_JSONL_H

#include <stddef.h>

#include "base/status.h"

#define JSONL_MAX_LINE ((size_t)256 << 20)

typedef struct jsonl_text {
    const char *text; /* NULL: a blank line. Owned by `json`; may hold zero bytes. */
    size_t n;
    void *json;
} jsonl_text;

/* Member `field` of the object in line[0..n). FORMAT names file, line and place. */
weft_status jsonl_parse(const char *file, size_t number, const char *line, size_t n, const char *field,
                        jsonl_text *t);
void jsonl_free(jsonl_text *t);

#endif
