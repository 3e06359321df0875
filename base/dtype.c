/* Sizes and names of data types. */
#include "weft/types.h"

static const struct {
    size_t size;
    const char *name;
} table[WEFT_DTYPE_COUNT] = {
    [WEFT_F32] = {4, "f32"}, [WEFT_BF16] = {2, "bf16"}, [WEFT_F16] = {2, "f16"}, [WEFT_F64] = {8, "f64"},
    [WEFT_I32] = {4, "i32"}, [WEFT_I64] = {8, "i64"},   [WEFT_U64] = {8, "u64"}, [WEFT_U16] = {2, "u16"},
    [WEFT_U32] = {4, "u32"}, [WEFT_U8] = {1, "u8"},
};

size_t weft_dtype_size(weft_dtype t) {
    return (unsigned)t < WEFT_DTYPE_COUNT ? table[t].size : 0;
}

const char *weft_dtype_name(weft_dtype t) {
    return (unsigned)t < WEFT_DTYPE_COUNT ? table[t].name : "?";
}
