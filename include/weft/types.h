/* Data types and reduction operators: shared by kernels, communication and files. */
#ifndef WEFT_TYPES_H
#define WEFT_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "weft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum weft_dtype {
    WEFT_F32 = 0,
    WEFT_BF16 = 1,
    WEFT_F16 = 2,
    WEFT_F64 = 3,
    WEFT_I32 = 4,
    WEFT_I64 = 5,
    WEFT_U64 = 6,
    WEFT_U16 = 7,
    WEFT_U32 = 8,
    WEFT_U8 = 9,
    WEFT_DTYPE_COUNT
} weft_dtype;

typedef enum weft_redop {
    WEFT_SUM = 0,
    WEFT_MIN = 1,
    WEFT_MAX = 2,
    WEFT_BOR = 3,
    WEFT_BAND = 4,
    WEFT_LAND = 5,
    WEFT_REDOP_COUNT
} weft_redop;

#define WEFT_MAX_DIMS 8

/* Which part of a global tensor somebody holds, in global coordinates. */
typedef struct weft_box {
    uint32_t ndim;
    int64_t off[WEFT_MAX_DIMS]; /* first index of each dimension */
    int64_t ext[WEFT_MAX_DIMS]; /* number of indices of each dimension */
} weft_box;

/* Bytes of one element; 0 for an unknown type. Any thread. */
WEFT_API size_t weft_dtype_size(weft_dtype t);
/* Lower-case name ("bf16"); "?" for an unknown type. Any thread. */
WEFT_API const char *weft_dtype_name(weft_dtype t);

#ifdef __cplusplus
}
#endif
#endif
