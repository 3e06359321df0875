/* safetensors: reading elements, with conversion to the dtype that the caller computes in.
 *
 * Elements are read in pieces that stay in the second-level cache and are converted there; the file's own
 * dtype is read straight to its place. Widening is exact. Narrowing rounds to nearest even; F64 to BF16 goes
 * through F32. */
#include <string.h>

#include "base/file.h"
#include "base/status.h"
#include "io/exchange/elements.h"
#include "io/exchange/safetensors_internal.h"

#define PIECE 65536 /* bytes */

weft_status weft_st_read(const weft_st *f, const weft_st_tensor *t, int64_t first, int64_t n, weft_dtype to,
                         void *dst) {
    if (f->fd < 0) return weft_fail(WEFT_ERR_STATE, "%s: only its header was given", f->path);
    size_t from_size = weft_dtype_size(t->t), to_size = weft_dtype_size(to);
    if (!from_size || (to != t->t && (to == WEFT_F16 || !elements_convertible(t->t, to))))
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: %.100s is %s, which weft does not convert to %s", f->path,
                         t->name, t->dtype, weft_dtype_name(to));
    int64_t count = (int64_t)(t->bytes / from_size);
    if (first < 0 || n < 0 || n > count || first > count - n)
        return weft_fail(WEFT_ERR_ARG, "%s: %lld elements from %lld on of %.100s, which has %lld", f->path,
                         (long long)n, (long long)first, t->name, (long long)count);
    int64_t at = t->at + first * (int64_t)from_size;
    if (to == t->t) return weft_pread_all(f->fd, dst, (size_t)n * from_size, at, f->path);
    unsigned char piece[PIECE];
    for (size_t left = (size_t)n, k; left; left -= k) {
        k = left < PIECE / from_size ? left : PIECE / from_size;
        WEFT_TRY(weft_pread_all(f->fd, piece, k * from_size, at, f->path));
        elements_convert(t->t, to, k, piece, dst);
        dst = (char *)dst + k * to_size;
        at += (int64_t)(k * from_size);
    }
    return WEFT_OK;
}
