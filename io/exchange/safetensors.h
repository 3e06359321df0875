/* safetensors: reading with full validation before use, and writing that is complete or not there.
 * Format: u64 little-endian header size, JSON header, tensor bytes. Every size is bounded and checked; an unreadable
 * file gives FORMAT with what is wrong and where. Source: the safetensors format description. */
#ifndef WEFT_IO_SAFETENSORS_H
#define WEFT_IO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "weft/types.h"

typedef struct weft_st weft_st;

typedef struct weft_st_tensor {
    const char *name; /* owned by the weft_st */
    char dtype[12];   /* as written: "F32", "BF16", ... */
    weft_dtype t;     /* WEFT_DTYPE_COUNT if weft does not compute with it */
    uint32_t ndim;
    int64_t shape[8];
    int64_t at; /* byte offset in the file */
    size_t bytes;
} weft_st_tensor;

/* Opens a file and validates its whole header against its size. */
weft_status weft_st_open(const char *path, weft_st **out);
/* Validates a header image (first bytes of a file of file_bytes bytes); the fuzz target's entry. */
weft_status weft_st_parse(const char *name, const void *data, size_t n, size_t file_bytes, weft_st **out);
void weft_st_close(weft_st *f);
size_t weft_st_count(const weft_st *f);
const weft_st_tensor *weft_st_at(const weft_st *f, size_t i);
const weft_st_tensor *weft_st_find(const weft_st *f, const char *name); /* NULL: not there */
const char *weft_st_metadata(const weft_st *f, const char *key);        /* NULL: not there */
/* Reads the elements [first, first + n) of t, converted to `to` (f32 or bf16; from F32, BF16, F16, F64), or as they are if
 * `to` is t's own dtype. Any thread. UNSUPPORTED: a dtype that cannot be converted. */
weft_status weft_st_read(const weft_st *f, const weft_st_tensor *t, int64_t first, int64_t n, weft_dtype to,
                         void *dst);

typedef struct weft_st_source { /* one tensor to write */
    const char *name;
    weft_dtype t;
    uint32_t ndim;
    int64_t shape[8];
    const void *ptr; /* contiguous host memory */
} weft_st_source;

/* Writes all tensors (in the library's own order: dtype descending, then name) with "__metadata__" {"format":"pt", and
 * the nmeta pairs}. Temporary file, fsync, rename. */
weft_status weft_st_write(const char *path, const weft_st_source *t, size_t n, const char *const (*meta)[2],
                          size_t nmeta);

#endif
