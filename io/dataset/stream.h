/* Private to io/dataset: the bytes of a text file, unpacked on the way. */
#ifndef WEFT_IO_DATASET_STREAM_H
#define WEFT_IO_DATASET_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum stream_packing { STREAM_RAW, STREAM_ZSTD, STREAM_GZIP } stream_packing;

typedef struct text_stream text_stream;

/* What the first bytes of a file say. */
stream_packing stream_packing_of(const void *head, size_t n);

/* Opens path; `name` (borrowed) stands for it in messages. NOTFOUND, ACCESS, IO, NOMEM. */
weft_status stream_open(const char *path, const char *name, stream_packing packing, text_stream **s);
/* The next 1..cap bytes of text; *n = 0 at the end. FORMAT: truncated or damaged; names the file and the frame (zstd) or
 * member (gzip), the first being 1. IO. */
weft_status stream_read(text_stream *s, void *buf, size_t cap, size_t *n);
/* Passes over n bytes of text: at once in a raw file, by unpacking them in others. FORMAT: there are fewer. */
weft_status stream_skip(text_stream *s, uint64_t n);
/* Bytes of the file (packed) used so far. */
uint64_t stream_consumed(const text_stream *s);
void stream_close(text_stream *s);

#endif
