/* ukr.h's tile in compiler vector extensions: 6x16. NEON has 32 registers of four lanes: 24 accumulators, four
 * of B, and A as an operand of the fma. With eight lanes a part the tile is that of AVX2. */
#ifndef WEFT_CPU_UKR_PORTABLE_H
#define WEFT_CPU_UKR_PORTABLE_H

#include "kernels/cpu/portable.h"

#define CPU_MR 6
#define CPU_NR 16

#define CPU_ROWS_1(X) X(0)
#define CPU_ROWS_2(X) CPU_ROWS_1(X) X(1)
#define CPU_ROWS_4(X) CPU_ROWS_2(X) X(2) X(3)
#define CPU_ROWS_6(X) CPU_ROWS_4(X) X(4) X(5)

/* X(i, j) for the parts j of row i */
#if PART_LANES == 8
#define CPU_UKR_PARTS(X, i) X(i, 0) X(i, 1)
#else
#define CPU_UKR_PARTS(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)
#endif

#define CPU_UKR_ZERO_PART(i, j)  vpart c##i##j = vpart_set(0.0f);
#define CPU_UKR_FMA_PART(i, j)   c##i##j = vpart_fma(ai, b##j, c##i##j);
#define CPU_UKR_ADD_PART(i, j)   c##i##j = vpart_load(c + (i)*ldc + (j)*PART_LANES) + c##i##j;
#define CPU_UKR_STORE_PART(i, j) vpart_store(c + (i)*ldc + (j)*PART_LANES, c##i##j);
#define CPU_UKR_LOAD_PART(i, j)  vpart b##j = vpart_load(b + (j)*PART_LANES);

#define CPU_UKR_ZERO(i)  CPU_UKR_PARTS(CPU_UKR_ZERO_PART, i)
#define CPU_UKR_ADD(i)   CPU_UKR_PARTS(CPU_UKR_ADD_PART, i)
#define CPU_UKR_STORE(i) CPU_UKR_PARTS(CPU_UKR_STORE_PART, i)
#define CPU_UKR_FMA(i)                                                                                       \
    {                                                                                                        \
        vpart ai = vpart_set(a[i]);                                                                          \
        CPU_UKR_PARTS(CPU_UKR_FMA_PART, i)                                                                   \
    }
#define CPU_UKR_AHEAD  __builtin_prefetch(b + 8 * ldb)
#define CPU_UKR_LOAD_B CPU_UKR_PARTS(CPU_UKR_LOAD_PART, 0)

#endif
