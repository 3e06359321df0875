/* box_copy: a strided box of up to eight dimensions from one layout to another (halos, resharding).
 *
 * The plan drops dimensions of one index and merges neighbours that are contiguous in both layouts; what is
 * left is an odometer over rows, each copied by memcpy if both innermost strides are 1, else element by
 * element with the size as a constant. A short row (the few cells of a halo's width) is an element of a longer
 * one. Pieces of rows are shared out to the team. No arithmetic, so one version for all instruction sets. */
#include <string.h>

#include "kernels/cpu/ops.h"

#define SHORT_ROW 64        /* bytes: such a row, contiguous in both, is one element of a longer row */
#define PIECE     OPS_BLOCK /* elements: a long row is cut, so that the team can share it */

struct box {
    int ndim;                                                           /* of the odometer: without the row */
    int64_t ext[WEFT_MAX_DIMS], from[WEFT_MAX_DIMS], to[WEFT_MAX_DIMS]; /* strides in bytes, innermost last */
    int64_t n, n_from, n_to, pieces;                                    /* the row */
    size_t elem;
    const char *src;
    char *dst;
};

#define COPY_STRIDED(size)                                                                                   \
    case size:                                                                                               \
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * b->n_to, src + i * b->n_from, size);                \
        break;

static void copy_row(const struct box *b, int64_t n, const char *src, char *dst) {
    if (b->n_from == (int64_t)b->elem && b->n_to == (int64_t)b->elem) {
        memcpy(dst, src, (size_t)n * b->elem);
        return;
    }
    switch (b->elem) {
        COPY_STRIDED(1)
        COPY_STRIDED(2)
        COPY_STRIDED(4)
        COPY_STRIDED(8)
        COPY_STRIDED(16)
        COPY_STRIDED(24)
        COPY_STRIDED(32)
        COPY_STRIDED(48)
        COPY_STRIDED(64)
    default:
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * b->n_to, src + i * b->n_from, b->elem);
    }
}

/* Pieces [begin, end) of the rows, in the order of the odometer. */
static void copy_pieces(void *arg, int64_t begin, int64_t end) {
    const struct box *b = arg;
    int64_t index[WEFT_MAX_DIMS], row = begin / b->pieces, piece = begin % b->pieces, from = 0, to = 0;
    for (int i = b->ndim - 1; i >= 0; i--) {
        index[i] = row % b->ext[i];
        row /= b->ext[i];
        from += index[i] * b->from[i];
        to += index[i] * b->to[i];
    }
    for (int64_t at = begin; at < end; at++) {
        int64_t first = piece * PIECE, n = b->n - first < PIECE ? b->n - first : PIECE;
        copy_row(b, n, b->src + from + first * b->n_from, b->dst + to + first * b->n_to);
        if (++piece < b->pieces) continue;
        piece = 0;
        for (int i = b->ndim - 1; i >= 0; i--) {
            from += b->from[i];
            to += b->to[i];
            if (++index[i] < b->ext[i]) break;
            from -= b->ext[i] * b->from[i];
            to -= b->ext[i] * b->to[i];
            index[i] = 0;
        }
    }
}

/* The dimensions that are left after merging, the innermost as the row. Returns the number of rows. */
static int64_t box_plan(struct box *b, size_t elem, uint32_t ndim, const int64_t *ext, const int64_t *from,
                        const int64_t *to) {
    int64_t rows = 1, bytes = (int64_t)elem;
    b->elem = elem;
    b->ndim = 0;
    for (uint32_t i = 0; i < ndim; i++) {
        int64_t f = from[i] * bytes, t = to[i] * bytes;
        int last = b->ndim - 1;
        if (ext[i] == 0) return 0;
        if (ext[i] == 1) continue;
        if (last >= 0 && b->from[last] == ext[i] * f && b->to[last] == ext[i] * t) {
            b->ext[last] *= ext[i];
            b->from[last] = f;
            b->to[last] = t;
        } else {
            b->ext[b->ndim] = ext[i];
            b->from[b->ndim] = f;
            b->to[b->ndim++] = t;
        }
    }
    if (b->ndim == 0) {
        b->n = 1;
        b->n_from = b->n_to = bytes;
        return 1;
    }
    b->ndim--;
    if (b->ndim > 0 && b->from[b->ndim] == bytes && b->to[b->ndim] == bytes &&
        b->ext[b->ndim] * bytes <= SHORT_ROW) {
        b->elem = (size_t)(b->ext[b->ndim] * bytes);
        b->ndim--;
    }
    b->n = b->ext[b->ndim];
    b->n_from = b->from[b->ndim];
    b->n_to = b->to[b->ndim];
    for (int i = 0; i < b->ndim; i++) rows *= b->ext[i];
    return rows;
}

static weft_status op_box_copy(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                               const int64_t *src_stride, void *dst, const int64_t *dst_stride) {
    struct box b;
    int64_t rows;
    WEFT_TRY(weft_check_box_copy(elem, ndim, ext, src, src_stride, dst, dst_stride));
    b.src = src;
    b.dst = dst;
    rows = box_plan(&b, elem, ndim, ext, src_stride, dst_stride);
    if (rows == 0) return WEFT_OK;
    b.pieces = ops_ceil_div(b.n, PIECE);
    ops_for(x, rows * b.pieces, 1, ops_rows(b.n), copy_pieces, &b);
    return WEFT_OK;
}

void ops_fill_box_copy(struct weft_ops *t) {
    t->box_copy = op_box_copy;
}
