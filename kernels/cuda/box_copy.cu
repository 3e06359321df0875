/* box_copy: a strided box of up to eight dimensions from one layout to another.
 *
 * The host makes a plan: the bytes of an element are the innermost dimension; dimensions of one index fall away; the others
 * are ordered by their stride in the destination, so that neighbouring threads write neighbouring bytes; what is contiguous
 * in both layouts becomes one dimension. All strides and the innermost extent are then counted in units, the largest power
 * of two of bytes up to 16 that divides them and both addresses. A kernel's row is the innermost dimension that is left;
 * threadIdx.y and the grid go over the rows, whose place is found by division once a row. */
#include "kernels/cuda/elements.cuh"

#define BOX_DIMS (WEFT_MAX_DIMS + 1) /* and the bytes of an element */

struct box {
    int ndim;                                            /* of the rows */
    int64_t ext[BOX_DIMS], from[BOX_DIMS], to[BOX_DIMS]; /* outermost first */
    int64_t n, n_from, n_to, rows;                       /* units of a row, their strides; rows */
};

static __device__ __forceinline__ void box_place(const struct box &b, int64_t row, int64_t *from,
                                                 int64_t *to) {
    *from = *to = 0;
    for (int i = b.ndim - 1; i > 0; i--) {
        const int64_t index = row % b.ext[i];
        row /= b.ext[i];
        *from += index * b.from[i];
        *to += index * b.to[i];
    }
    if (b.ndim > 0) {
        *from += row * b.from[0];
        *to += row * b.to[0];
    }
}

template <class T>
static __global__ void __launch_bounds__(CUDA_THREADS, 4)
    box_kernel(const __grid_constant__ struct box b, const T *src, T *dst) {
    for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; row < b.rows;
         row += (int64_t)gridDim.y * blockDim.y) {
        int64_t from, to;
        box_place(b, row, &from, &to);
        for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < b.n;
             i += (int64_t)gridDim.x * blockDim.x)
            dst[to + i * b.n_to] = src[from + i * b.n_from];
    }
}

static int64_t size_of_stride(int64_t stride) {
    return stride < 0 ? -stride : stride;
}

/* Adds a dimension inside the last one, as a part of it where both layouts go on. */
static void box_add(struct box *b, int64_t ext, int64_t from, int64_t to) {
    const int last = b->ndim - 1;
    if (ext == 1) return;
    if (last >= 0 && b->from[last] == ext * from && b->to[last] == ext * to) {
        b->ext[last] *= ext;
        b->from[last] = from;
        b->to[last] = to;
        return;
    }
    b->ext[b->ndim] = ext;
    b->from[b->ndim] = from;
    b->to[b->ndim++] = to;
}

/* The unit: the largest power of two that divides the addresses, all strides but the innermost (1), and its extent. */
static size_t box_unit(struct box *b, const void *src, const void *dst) {
    const int last = b->ndim - 1;
    const int contiguous = last >= 0 && b->from[last] == 1 && b->to[last] == 1;
    uintptr_t all = (uintptr_t)src | (uintptr_t)dst | CUDA_VECTOR;
    for (int i = 0; i < b->ndim - contiguous; i++) all |= (uintptr_t)b->from[i] | (uintptr_t)b->to[i];
    all = contiguous ? all | (uintptr_t)b->ext[last] : 1;
    const int64_t unit = (int64_t)(all & -all);
    for (int i = 0; i < b->ndim - contiguous; i++) {
        b->from[i] /= unit;
        b->to[i] /= unit;
    }
    if (contiguous) b->ext[last] /= unit;
    if (contiguous && b->ext[last] == 1) b->ndim--;
    return (size_t)unit;
}

/* The plan without its unit: strides in bytes. Returns 0 if the box is empty. */
static int box_plan(struct box *b, size_t elem, uint32_t ndim, const int64_t *ext, const int64_t *from,
                    const int64_t *to) {
    int order[WEFT_MAX_DIMS];
    for (uint32_t i = 0; i < ndim; i++) {
        uint32_t at = i;
        if (ext[i] == 0) return 0;
        for (; at > 0 && size_of_stride(to[order[at - 1]]) < size_of_stride(to[i]); at--)
            order[at] = order[at - 1];
        order[at] = (int)i;
    }
    for (uint32_t i = 0; i < ndim; i++)
        box_add(b, ext[order[i]], from[order[i]] * (int64_t)elem, to[order[i]] * (int64_t)elem);
    box_add(b, (int64_t)elem, 1, 1);
    return 1;
}

/* Takes the innermost dimension for the row. */
static void box_row(struct box *b) {
    b->n = b->n_from = b->n_to = b->rows = 1;
    if (b->ndim > 0) {
        b->ndim--;
        b->n = b->ext[b->ndim];
        b->n_from = b->from[b->ndim];
        b->n_to = b->to[b->ndim];
    }
    for (int i = 0; i < b->ndim; i++) b->rows *= b->ext[i];
}

template <class T>
static weft_status box_launch(weft_exec *x, const struct box *b, const void *src, void *dst) {
    unsigned wide = 1;
    while (wide < CUDA_THREADS && wide < b->n) wide *= 2;
    const dim3 block(wide, CUDA_THREADS / wide);
    const unsigned down = cuda_blocks(x, b->rows, block.y, 4 * CUDA_WAVES);
    const int64_t across = divup(b->n, wide),
                  enough = divup((int64_t)cuda_device(x)->sms * 4 * CUDA_WAVES, down);
    return cuda_launch(x, "box_copy", box_kernel<T>,
                       dim3((unsigned)(across < enough ? across : enough), down), block, 0, *b,
                       (const T *)src, (T *)dst);
}

extern "C" weft_status cuda_box_copy(weft_exec *x, size_t elem, uint32_t ndim, const int64_t *ext,
                                     const void *src, const int64_t *src_stride, void *dst,
                                     const int64_t *dst_stride) {
    WEFT_TRY(weft_check_box_copy(elem, ndim, ext, src, src_stride, dst, dst_stride));
    struct box b;
    memset(&b, 0, sizeof b);
    if (!box_plan(&b, elem, ndim, ext, src_stride, dst_stride)) return WEFT_OK;
    const size_t unit = box_unit(&b, src, dst);
    box_row(&b);
    if (unit == 16) return box_launch<uint4>(x, &b, src, dst);
    if (unit == 8) return box_launch<uint2>(x, &b, src, dst);
    if (unit == 4) return box_launch<uint32_t>(x, &b, src, dst);
    if (unit == 2) return box_launch<uint16_t>(x, &b, src, dst);
    return box_launch<uint8_t>(x, &b, src, dst);
}
