/* The fp32 micro-kernel of this level: a tile of C in registers, one fma chain an element.
 *
 * C[i,j] (+)= sum over k of A[k*CPU_MR + i] * B[k*ldb + j], for i < rows and j < CPU_NR. The chain of an
 * element begins at +0 and takes k in rising order, on every level: the bits do not depend on the tile's
 * shape. `a` is a packed panel [k][CPU_MR]; `b` a packed panel [k][CPU_NR] (ldb = CPU_NR, 64-byte aligned) or
 * CPU_NR columns of a row-major matrix. accumulate adds the finished chain to C with one addition.
 *
 * Shapes: AVX-512 has 32 registers, 8x48 = 24 accumulators + 3 of B + 1 broadcast of A; widths of 48 divide
 * the usual 768, 2304, 3072. AVX2 has 16: 6x16 = 12 + 2 + 2; portable has the same tile. The tile is a macro
 * over its rows, because accumulators in an array reach registers only if the compiler likes. Source: Goto &
 * van de Geijn, "Anatomy of high-performance matrix multiplication", 2008; Van Zee & van de Geijn, BLIS, 2015. */
#ifndef WEFT_KERNELS_CPU_UKR_H
#define WEFT_KERNELS_CPU_UKR_H

#include <stdint.h>

#include "kernels/cpu/cpu.h"

#if CPU_LEVEL == CPU_PORTABLE
#include "kernels/cpu/ukr_portable.h"
#else
#include <immintrin.h>
#endif

#if CPU_LEVEL == CPU_AVX2

#define CPU_MR 6
#define CPU_NR 16

#define CPU_ROWS_1(X) X(0)
#define CPU_ROWS_2(X) CPU_ROWS_1(X) X(1)
#define CPU_ROWS_4(X) CPU_ROWS_2(X) X(2) X(3)
#define CPU_ROWS_6(X) CPU_ROWS_4(X) X(4) X(5)

#define CPU_UKR_ZERO(i) __m256 c##i##0 = _mm256_setzero_ps(), c##i##1 = _mm256_setzero_ps();
#define CPU_UKR_FMA(i)                                                                                       \
    {                                                                                                        \
        __m256 ai = _mm256_broadcast_ss(a + (i));                                                            \
        c##i##0 = _mm256_fmadd_ps(ai, b0, c##i##0);                                                          \
        c##i##1 = _mm256_fmadd_ps(ai, b1, c##i##1);                                                          \
    }
#define CPU_UKR_ADD(i)                                                                                       \
    c##i##0 = _mm256_add_ps(_mm256_loadu_ps(c + (i)*ldc), c##i##0);                                          \
    c##i##1 = _mm256_add_ps(_mm256_loadu_ps(c + (i)*ldc + 8), c##i##1);
#define CPU_UKR_STORE(i)                                                                                     \
    _mm256_storeu_ps(c + (i)*ldc, c##i##0);                                                                  \
    _mm256_storeu_ps(c + (i)*ldc + 8, c##i##1);
#define CPU_UKR_AHEAD  _mm_prefetch((const char *)(b + 8 * ldb), _MM_HINT_T0)
#define CPU_UKR_LOAD_B __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);

#elif CPU_LEVEL == CPU_AMX

#define CPU_MR 32
#define CPU_NR 32

#elif CPU_LEVEL != CPU_PORTABLE

#define CPU_MR 8
#define CPU_NR 48

#define CPU_ROWS_1(X) X(0)
#define CPU_ROWS_2(X) CPU_ROWS_1(X) X(1)
#define CPU_ROWS_4(X) CPU_ROWS_2(X) X(2) X(3)
#define CPU_ROWS_8(X) CPU_ROWS_4(X) X(4) X(5) X(6) X(7)

#define CPU_UKR_ZERO(i)                                                                                      \
    __m512 c##i##0 = _mm512_setzero_ps(), c##i##1 = _mm512_setzero_ps(), c##i##2 = _mm512_setzero_ps();
#define CPU_UKR_FMA(i)                                                                                       \
    {                                                                                                        \
        __m512 ai = _mm512_set1_ps(a[i]);                                                                    \
        c##i##0 = _mm512_fmadd_ps(ai, b0, c##i##0);                                                          \
        c##i##1 = _mm512_fmadd_ps(ai, b1, c##i##1);                                                          \
        c##i##2 = _mm512_fmadd_ps(ai, b2, c##i##2);                                                          \
    }
#define CPU_UKR_ADD(i)                                                                                       \
    c##i##0 = _mm512_add_ps(_mm512_loadu_ps(c + (i)*ldc), c##i##0);                                          \
    c##i##1 = _mm512_add_ps(_mm512_loadu_ps(c + (i)*ldc + 16), c##i##1);                                     \
    c##i##2 = _mm512_add_ps(_mm512_loadu_ps(c + (i)*ldc + 32), c##i##2);
#define CPU_UKR_STORE(i)                                                                                     \
    _mm512_storeu_ps(c + (i)*ldc, c##i##0);                                                                  \
    _mm512_storeu_ps(c + (i)*ldc + 16, c##i##1);                                                             \
    _mm512_storeu_ps(c + (i)*ldc + 32, c##i##2);
#define CPU_UKR_AHEAD                                                                                        \
    _mm_prefetch((const char *)(b + 8 * ldb), _MM_HINT_T0);                                                  \
    _mm_prefetch((const char *)(b + 8 * ldb + 16), _MM_HINT_T0);                                             \
    _mm_prefetch((const char *)(b + 8 * ldb + 32), _MM_HINT_T0)
#define CPU_UKR_LOAD_B                                                                                       \
    __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16), b2 = _mm512_loadu_ps(b + 32);

#endif

#if CPU_LEVEL != CPU_AMX /* gemm_amx.c has its own */

#define CPU_UKR_PREFETCH(i)                                                                                  \
    __builtin_prefetch(c + (i)*ldc);                                                                         \
    __builtin_prefetch(c + (i)*ldc + CPU_NR - 1);

/* A kernel of r rows whose inner step is FMA(row); gemm_tile.c makes the bf16 ones of it. */
#define CPU_UKR(name, r, FMA)                                                                                \
    static inline void name##_##r(int64_t k, const float *a, const float *b, int64_t ldb, float *c,          \
                                  int64_t ldc, int accumulate) {                                             \
        CPU_ROWS_##r(CPU_UKR_PREFETCH);                                                                      \
        CPU_ROWS_##r(CPU_UKR_ZERO);                                                                          \
        for (; k > 0; k--, a += CPU_MR, b += ldb) {                                                          \
            CPU_UKR_AHEAD;                                                                                   \
            CPU_UKR_LOAD_B;                                                                                  \
            CPU_ROWS_##r(FMA);                                                                               \
        }                                                                                                    \
        if (accumulate) {                                                                                    \
            CPU_ROWS_##r(CPU_UKR_ADD);                                                                       \
        }                                                                                                    \
        CPU_ROWS_##r(CPU_UKR_STORE);                                                                         \
    }

/* A kernel of all rows and, for the last rows of a matrix, of fewer: the smallest that has `rows`. */
#if CPU_MR == 6
#define CPU_UKR_FAMILY(name, FMA)                                                                            \
    CPU_UKR(name, 1, FMA)                                                                                    \
    CPU_UKR(name, 2, FMA)                                                                                    \
    CPU_UKR(name, 4, FMA)                                                                                    \
    CPU_UKR(name, 6, FMA)
#define CPU_UKR_FULL cpu_ukr_6
#else
#define CPU_UKR_FAMILY(name, FMA)                                                                            \
    CPU_UKR(name, 1, FMA)                                                                                    \
    CPU_UKR(name, 2, FMA)                                                                                    \
    CPU_UKR(name, 4, FMA)                                                                                    \
    CPU_UKR(name, 8, FMA)
#define CPU_UKR_FULL cpu_ukr_8
#endif

/* cpu_ukr_1, _2, _4 and CPU_UKR_FULL (all CPU_MR rows) */
CPU_UKR_FAMILY(cpu_ukr, CPU_UKR_FMA)

#endif

#endif
