/* Data movement: cast, cast_rows, transpose, box_copy. */
#include <string.h>

#include "kernels/check.h"
#include "kernels/ref/half.h"
#include "kernels/ref/ref.h"

/* Every source widens to f64 exactly; the only rounding is the one to the target. NaNs are quieted here and
 * not left to the conversion instruction, which a compiler may leave out between equal types. */
static double ref_widen(weft_dtype t, const void *p, size_t i) {
    switch (t) {
    case WEFT_BF16: return ref_quiet(weft_bf16_to_f32(((const weft_bf16 *)p)[i]));
    case WEFT_F16: return ref_f16_to_f32(((const uint16_t *)p)[i]);
    case WEFT_F32: return ref_quiet(((const float *)p)[i]);
    default: return ((const double *)p)[i];
    }
}

static void ref_narrow(weft_dtype t, void *p, size_t i, double v) {
    switch (t) {
    case WEFT_BF16: ((weft_bf16 *)p)[i] = weft_f32_to_bf16(ref_f64_to_f32_odd(v)); break;
    case WEFT_F16: ((uint16_t *)p)[i] = ref_f32_to_f16(ref_f64_to_f32_odd(v)); break;
    case WEFT_F32: ((float *)p)[i] = (float)v; break;
    default: ((double *)p)[i] = v; break;
    }
}

weft_status ref_cast(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src, void *dst) {
    (void)x;
    WEFT_TRY(weft_check_cast(from, to, n, src, dst));
    if (n == 0) return WEFT_OK;
    if (from == to) {
        memcpy(dst, src, n * weft_dtype_size(from));
        return WEFT_OK;
    }
    for (size_t i = 0; i < n; i++) ref_narrow(to, dst, i, ref_widen(from, src, i));
    return WEFT_OK;
}

weft_status ref_cast_rows(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                          const void *src, int64_t lds, void *dst, int64_t ldd, int add) {
    (void)x;
    WEFT_TRY(weft_check_cast_rows(from, to, rows, cols, src, lds, dst, ldd, add));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            const float v = (float)ref_get(from, src, r * lds + c);
            ref_put(to, dst, r * ldd + c, add ? ((const float *)dst)[r * ldd + c] + v : v);
        }
    return WEFT_OK;
}

/* dst[c, r] = src[r, c]. */
weft_status ref_transpose(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src, void *dst) {
    (void)x;
    WEFT_TRY(weft_check_transpose(elem, rows, cols, src, dst));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy((char *)dst + (size_t)(c * rows + r) * elem,
                   (const char *)src + (size_t)(r * cols + c) * elem, elem);
    return WEFT_OK;
}

/* An odometer over the box: index[] counts, the offsets follow. */
weft_status ref_box_copy(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                         const int64_t *src_stride, void *dst, const int64_t *dst_stride) {
    (void)x;
    int64_t index[WEFT_MAX_DIMS] = {0};
    WEFT_TRY(weft_check_box_copy(elem, ndim, ext, src, src_stride, dst, dst_stride));
    for (uint32_t i = 0; i < ndim; i++)
        if (ext[i] == 0) return WEFT_OK;
    for (;;) {
        int64_t from = 0, to = 0;
        uint32_t dim = ndim;
        for (uint32_t i = 0; i < ndim; i++) {
            from += index[i] * src_stride[i];
            to += index[i] * dst_stride[i];
        }
        memcpy((char *)dst + to * (int64_t)elem, (const char *)src + from * (int64_t)elem, elem);
        while (dim > 0 && ++index[dim - 1] == ext[dim - 1]) index[--dim] = 0;
        if (dim == 0) return WEFT_OK;
    }
}
