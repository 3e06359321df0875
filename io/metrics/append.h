/* An append-only file whose records are whole: a record is written with one write(2), and one that could not
 * be written completely is cut off again, so that a full disk leaves no half record in the middle of the
 * file. */
#ifndef WEFT_IO_METRICS_APPEND_H
#define WEFT_IO_METRICS_APPEND_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct append_file {
    int fd;
    char *path;
    int64_t size; /* of the whole records */
} append_file;

/* Opens dir/name for appending, creating it. The caller is the only writer. */
weft_status append_open(append_file *f, const char *dir, const char *name);
/* Appends one record. SPACE, ACCESS, IO: the file is as it was before, and a later record may succeed. */
weft_status append_record(append_file *f, const void *data, size_t n);
void append_close(append_file *f);

#endif
