/* Pieces in the words of checkpoints; see shard.h. */
#include <string.h>

#include "runtime/shard/shard.h"

static weft_ckpt_part blank(const weft_piece *p, const char *name, weft_dtype t, void *ptr) {
    weft_ckpt_part part = {.name = name, .dtype = t, .ndim = p->param->ndim, .ptr = ptr};
    memcpy(part.shape, p->param->shape, part.ndim * sizeof *part.shape);
    return part;
}

/* Rows [row, row + rows) and columns [column, column + columns) of the tensor's box. */
static weft_box rows_of(const weft_param *q, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    weft_box b = q->box;
    b.off[0] += row;
    b.ext[0] = rows;
    b.off[1] += column;
    b.ext[1] = columns;
    return b;
}

size_t weft_piece_parts(const weft_piece *p, const char *name, weft_dtype t, void *ptr,
                        weft_ckpt_part part[WEFT_PIECE_PARTS]) {
    const weft_param *q = p->param;
    const int64_t n = (int64_t)weft_piece_elements(p), first = (int64_t)p->first,
                  width = q->ndim == 2 ? q->box.ext[1] : 1;
    if (!n) return 0;
    part[0] = blank(p, name, t, ptr);
    if ((size_t)n == q->n) {
        part[0].box = q->box;
        return 1;
    }
    if (q->ndim == 1 || width == q->shape[1]) {
        part[0].flat_lo = q->box.off[0] * width + first;
        part[0].flat_hi = part[0].flat_lo + n;
        return 1;
    }
    size_t k = 0;
    for (int64_t at = first, end = first + n; at < end;) {
        const int64_t row = at / width, column = at % width, left = end - at;
        const int64_t rows = column || left < width ? 1 : left / width;
        const int64_t columns = rows > 1 ? width : left < width - column ? left : width - column;
        part[k] = blank(p, name, t, (char *)ptr + (size_t)(at - first) * weft_dtype_size(t));
        part[k++].box = rows_of(q, row, rows, column, columns);
        at += rows * columns;
    }
    return k;
}
