/* Tensors with random contents for tests of bulks, and what a reduction of them must give: the stated tree over the
 * ranks, f32 inside for bf16, absent leaves for ranks of weight 0; written apart from the library. */
#ifndef WEFT_TESTS_COMM_BULK_CASE_H
#define WEFT_TESTS_COMM_BULK_CASE_H

#include "tests/support/mpi_test.h"

#define MOST 24

typedef struct tensors {
    int n;
    weft_tensor t[MOST];
    uint64_t stream; /* of the values */
    weft_redop op;
} tensors;

typedef struct operand { /* of the tree */
    int there;
    double f;
    int64_t i;
} operand;

/* 1 to MOST tensors of all types, of at most `most` elements, equal on all ranks. Memory of its own. */
void tensors_random(tensors *s, uint64_t stream, size_t most);
void tensors_release(tensors *s);
size_t tensors_bytes(const weft_tensor *t);
/* This rank's values: a pure function of (stream, rank, tensor, element). weight 0: NaN in every floating type. */
void tensors_fill(tensors *s, double weight);
/* Fails unless tensor i, or its elements [lo, hi), are the reduction over the ranks whose weight is not 0. */
void tensors_check(const tensors *s, int i, const double *weight);
void tensors_check_part(const tensors *s, int i, const double *weight, size_t lo, size_t hi);
/* Element i as the tree over [lo, lo + width) gives it; as ((x0 + x1) + x2) + ... does: what the tree is not. */
operand tensors_tree(const tensors *s, int lo, int width, int tensor, size_t i, const double *weight);
operand tensors_left_fold(const tensors *s, int tensor, size_t i, const double *weight);
/* Weight 1 for everybody. */
const double *everybody(void);

#endif
