/* Private to io/checkpoint: tensors and the sets (stored pieces) that they are made of. The plan of a save and the
 * manifest of a checkpoint are both such a table. */
#ifndef WEFT_IO_CKPT_TABLE_H
#define WEFT_IO_CKPT_TABLE_H

#include "base/box.h"
#include "base/status.h"
#include "weft/ckpt.h"

#define CKPT_MAX_TENSORS (1 << 20)
#define CKPT_MAX_SETS    (1 << 24)
#define CKPT_MAX_FILES   4096
#define CKPT_MAX_BOXES   4096 /* pieces of one tensor, unless they are ranges */

/* A piece of a tensor: a box of it, or a range of its elements in row-major order. */
typedef struct ckpt_piece {
    weft_box box;             /* unused if flat_hi > 0 */
    int64_t flat_lo, flat_hi; /* flat_hi > 0: [flat_lo, flat_hi) */
} ckpt_piece;

typedef struct ckpt_tensor {
    char *name; /* owned */
    weft_dtype dtype;
    uint32_t ndim;
    int64_t shape[WEFT_MAX_DIMS];
    int64_t elements;
    size_t first, n; /* its sets */
} ckpt_tensor;

typedef struct ckpt_set {
    size_t tensor;
    ckpt_piece piece;
    int64_t elements;
    int32_t file;
    uint32_t number; /* among the sets of its tensor: the last part of the dataset's name */
} ckpt_set;

typedef struct ckpt_table {
    ckpt_tensor *tensor; /* by name */
    size_t ntensors;
    ckpt_set *set; /* by tensor, then place */
    size_t nsets;
} ckpt_table;

void ckpt_table_free(ckpt_table *t);
/* NULL: no such tensor. */
const ckpt_tensor *ckpt_table_find(const ckpt_table *t, const char *name);
/* Name of the dataset of set i: "/" tensor "/" number. */
#define CKPT_DATASET_MAX (WEFT_CKPT_NAME_MAX + 16)
void ckpt_dataset_name(const ckpt_table *t, size_t i, char name[CKPT_DATASET_MAX]);

/* -1, 0, 1: an order of the pieces of one tensor, by their places. */
int ckpt_piece_order(const ckpt_piece *a, const ckpt_piece *b);
int ckpt_name_ok(const char *name);
/* Elements of a tensor of this shape, or -1 (no dimension, a size < 1, bytes beyond 2^61). */
int64_t ckpt_elements(weft_dtype dtype, uint32_t ndim, const int64_t *shape);
/* Is the piece inside the shape and not empty? *elements: how many. A piece of box.ndim 0 becomes the whole. */
int ckpt_piece_ok(ckpt_piece *p, uint32_t ndim, const int64_t *shape, int64_t *elements);
/* Do the sets of each tensor cover it, each element once? Else SHAPE, with the first few that do not. */
weft_status ckpt_table_covers(const ckpt_table *t);

/* Runs: calls fn for each maximal run of elements that two pieces of one tensor share, contiguous in both: `n` elements
 * from element `a` of the first and `b` of the second (each in its own row-major order). Ends at the first error. */
typedef weft_status (*ckpt_run_fn)(void *arg, int64_t a, int64_t b, int64_t n);
weft_status ckpt_runs(uint32_t ndim, const int64_t *shape, const ckpt_piece *first, const ckpt_piece *second,
                      ckpt_run_fn fn, void *arg);
/* Elements that the two share. */
int64_t ckpt_shared(uint32_t ndim, const int64_t *shape, const ckpt_piece *first, const ckpt_piece *second);

#endif
