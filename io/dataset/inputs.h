/* Private to io/dataset: which files a corpus is made of. */
#ifndef WEFT_IO_DATASET_INPUTS_H
#define WEFT_IO_DATASET_INPUTS_H

#include "io/dataset/stream.h"

typedef struct text_input {
    char *path, *name; /* name: for messages */
    stream_packing packing;
    int jsonl;      /* one object a line; else plain text, one document */
    int passing;    /* standard input: another one next time */
    uint64_t bytes; /* of the file, packed */
    int64_t mtime_ns;
} text_input;

typedef struct text_inputs {
    text_input *item;
    size_t n, cap;
    uint64_t bytes; /* of all */
    int passing;    /* one of them is standard input */
    int stdin_fd;   /* its copy; -1: none */
} text_inputs;

/* args: files, directories (all *.txt, *.text, *.jsonl and *.ndjson below them, packed or not, by name), patterns of the
 * shell, and "-" for standard input, which is copied into an unnamed file in spool_dir first (NULL: "-" is refused).
 * stdin_plain: standard input is plain text. *out is to be freed in any case. NOTFOUND, ACCESS, FORMAT. */
weft_status inputs_expand(const char *const *args, size_t n, int stdin_plain, const char *spool_dir,
                          text_inputs *out);
/* FORMAT: the file has been changed since it was looked at. */
weft_status inputs_unchanged(const text_input *i);
void inputs_free(text_inputs *t);

#endif
