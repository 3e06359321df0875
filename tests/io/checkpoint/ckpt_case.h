/* Random layouts of a few tensors over the ranks of a group, filled with values that tell where they belong. */
#ifndef WEFT_TESTS_CKPT_CASE_H
#define WEFT_TESTS_CKPT_CASE_H

#include "tests/support/mpi_test.h"
#include "weft/ckpt.h"

#define CASE_PARTS 16

typedef enum case_layout { /* how a tensor is cut */
                           CASE_REPLICATED,
                           CASE_ROWS,
                           CASE_COLUMNS,
                           CASE_TILES,
                           CASE_FLAT,
                           CASE_ROOT, /* rank 0 has it all */
                           CASE_LAYOUTS
} case_layout;

typedef struct case_parts {
    weft_ckpt_part part[CASE_PARTS];
    size_t n;
    int64_t elements[CASE_PARTS];
} case_parts;

/* The parts of rank `rank` of `size` in a layout drawn from `seed` (equal on all ranks); memory is allocated. */
void case_make(uint64_t seed, int rank, int size, case_parts *c);
/* The same layout for every tensor. */
void case_make_as(case_layout layout, int rank, int size, case_parts *c);
/* Values as they must be after version `v`. */
void case_fill(case_parts *c, int64_t v);
void case_scribble(case_parts *c);
/* Fails unless every element has its value. */
void case_check(const case_parts *c, int64_t v);
void case_free(case_parts *c);

/* A fresh directory that all ranks know; rank 0 removes it. */
char *case_directory(void);
void case_remove(char *dir);

#endif
