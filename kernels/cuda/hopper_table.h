/* Which tile of the Hopper product (hopper_gemm.cuh) computes a shape. */
#ifndef WEFT_KERNELS_CUDA_HOPPER_TABLE_H
#define WEFT_KERNELS_CUDA_HOPPER_TABLE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hopper_choice {
    int columns;       /* of a tile of sums: 256 (both consumers on one tile) or 128 (a tile each, in turn) */
    int cluster;       /* blocks that share B: 1 or 2 */
    int parts;         /* that k is cut into; 1: one chain */
    int rows_together; /* units of M that are walked before the next columns (for the L2 cache) */
    double cycles;     /* what the model predicts; comparable among choices only */
} hopper_choice;

/* m, n, k > 0 of the sums (gated: n is gate and up); sms: multiprocessors. Depends on its arguments only. */
hopper_choice hopper_choose(int64_t m, int64_t n, int64_t k, int gated, int sms);

/* Rows of one part's sums: all rows of its tiles. */
int64_t hopper_part_rows(const hopper_choice *c, int64_t m);

/* Bytes of the sums of parts of any product with this n and no more m and k. */
int64_t hopper_parts_bytes(int64_t m, int64_t n, int64_t k, int gated);

/* What a choice predicts for a shape, in cycles. */
double hopper_predict(const hopper_choice *c, int64_t m, int64_t n, int64_t k, int gated, int sms);

#ifdef __cplusplus
}
#endif
#endif
