/* What the three safetensors sources share: the open file, the table of dtypes, and writing from a producer.
 */
#ifndef WEFT_IO_SAFETENSORS_INTERNAL_H
#define WEFT_IO_SAFETENSORS_INTERNAL_H

#include <jansson.h>

#include "io/exchange/safetensors.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian and are read without swapping"
#endif

#define ST_HEADER_MAX 100000000u /* bound of the format */
#define ST_METADATA   "__metadata__"

struct weft_st {
    char *path;
    int fd;         /* -1: only a header image was parsed */
    json_t *header; /* owns the names */
    size_t n;
    weft_st_tensor *tensor; /* in the order of the file */
    size_t *by_name;        /* indices into tensor, sorted by name */
};

/* The dtypes of the format in the order in which tensors are written (so that wide elements stay aligned). */
typedef struct st_dtype {
    const char *name;
    unsigned bits;
    weft_dtype t; /* WEFT_DTYPE_COUNT: weft does not compute with it */
} st_dtype;

extern const st_dtype weft_st_dtypes[];
extern const size_t weft_st_ndtypes;

/* Produces the rows [row, row + rows) of tensor i, contiguous. Rows run along shape[0]; a 0-d tensor is one
 * row. */
typedef weft_status (*st_fill)(void *arg, size_t i, int64_t row, int64_t rows, void *dst);

/* weft_st_write, where tensors with ptr == NULL come from `fill`, a bounded number of rows at a time. */
weft_status weft_st_write_from(const char *path, const weft_st_source *t, size_t n,
                               const char *const (*meta)[2], size_t nmeta, st_fill fill, void *arg);

#endif
