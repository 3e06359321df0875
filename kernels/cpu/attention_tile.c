/* Attention's product on tiles in registers, written over vec.h.
 *
 * AVX-512 has 32 registers: 6 rows of 64 lanes take 24 accumulators, 4 of B and a broadcast of A. On the
 * other levels a vec is several registers, and 6 rows of 16 lanes fill them. The tile is a macro over its
 * rows and vectors, because accumulators in an array reach registers only if the compiler likes. Operands
 * come from the nearest caches: a prefetch would only take a place beside the fma. Source: Goto & van de
 * Geijn, "Anatomy of high-performance matrix multiplication", 2008. */
#include "kernels/cpu/attention_tile.h"

#define VECS_1(Y, i) Y(i, 0)
#define VECS_2(Y, i) VECS_1(Y, i) Y(i, 1)
#define VECS_3(Y, i) VECS_2(Y, i) Y(i, 2)
#define VECS_4(Y, i) VECS_3(Y, i) Y(i, 3)

#define ROWS_4(X, v) X(0, v) X(1, v) X(2, v) X(3, v)
#define ROWS_6(X, v) ROWS_4(X, v) X(4, v) X(5, v)

#define TILE_AT(i, j)    (c + (i)*ldc + (j)*VEC_LANES)
#define TILE_ZERO(i, j)  vec c##i##j = vec_zero();
#define TILE_LOAD(i, j)  c##i##j = vec_load_f32(TILE_AT(i, j), VEC_LANES);
#define TILE_STORE(i, j) vec_store_f32(TILE_AT(i, j), VEC_LANES, c##i##j);
#define TILE_B(i, j)     vec b##j = vec_load_f32(b + (j)*VEC_LANES, VEC_LANES);
#define TILE_FMA(i, j)   c##i##j = vec_fma(x, b##j, c##i##j);

#define ROW_ZERO(i, v)  v(TILE_ZERO, i)
#define ROW_LOAD(i, v)  v(TILE_LOAD, i)
#define ROW_STORE(i, v) v(TILE_STORE, i)
#define ROW_FMA(i, v)                                                                                        \
    {                                                                                                        \
        vec x = vec_set(A(i));                                                                               \
        v(TILE_FMA, i)                                                                                       \
    }

#define TILE(name, rows, vecs)                                                                               \
    static __attribute__((noinline)) void name##_##rows##_##vecs(int64_t k, const float *a, int64_t lda,     \
                                                                 const float *b, int64_t ldb, float *c,      \
                                                                 int64_t ldc, int add) {                     \
        const float *a3 = a + 3 * lda;                                                                       \
        ROWS_##rows(ROW_ZERO, VECS_##vecs);                                                                  \
        if (add) {                                                                                           \
            ROWS_##rows(ROW_LOAD, VECS_##vecs);                                                              \
        }                                                                                                    \
        for (; k > 0; k--, b += ldb, A_NEXT) {                                                               \
            VECS_##vecs(TILE_B, 0);                                                                          \
            ROWS_##rows(ROW_FMA, VECS_##vecs);                                                               \
        }                                                                                                    \
        ROWS_##rows(ROW_STORE, VECS_##vecs);                                                                 \
    }

#if CPU_LEVEL >= CPU_AVX512
#define MOST_VECS 4
#define TILES(name)                                                                                          \
    TILE(name, 4, 1)                                                                                         \
    TILE(name, 4, 2)                                                                                         \
    TILE(name, 4, 3)                                                                                         \
    TILE(name, 4, 4)                                                                                         \
    TILE(name, 6, 1)                                                                                         \
    TILE(name, 6, 2)                                                                                         \
    TILE(name, 6, 3)                                                                                         \
    TILE(name, 6, 4)                                                                                         \
    static tile_kernel *const name[2][MOST_VECS] = {{name##_4_1, name##_4_2, name##_4_3, name##_4_4},        \
                                                    {name##_6_1, name##_6_2, name##_6_3, name##_6_4}};
#else
#define MOST_VECS 1
#define TILES(name)                                                                                          \
    TILE(name, 4, 1)                                                                                         \
    TILE(name, 6, 1) static tile_kernel *const name[2][MOST_VECS] = {{name##_4_1}, {name##_6_1}};
#endif

typedef void tile_kernel(int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
                         int64_t ldc, int add);

/* rows of A lie lda apart: two pointers, so that six of them are addressed with factors 1 and 2 */
#define A(i)   ((i) < 3 ? a[(i)*lda] : a3[((i)-3) * lda])
#define A_NEXT a++, a3++
TILES(along)
#undef A
#undef A_NEXT

/* columns of A lie ATTN_GROUP apart */
#define A(i)   a[i]
#define A_NEXT a += ATTN_GROUP, (void)a3
TILES(across)

void CPU_NAME(attn_multiply)(int64_t rows, int64_t vecs, int64_t k, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float *c, int64_t ldc, int add) {
    tile_kernel *const(*kernel)[MOST_VECS] = lda == ATTN_ACROSS ? across : along;
    int64_t next = lda == ATTN_ACROSS ? 1 : lda;
    for (int64_t v = 0, n; v < vecs; v += n) {
        n = vecs - v < MOST_VECS ? vecs - v : MOST_VECS;
        for (int64_t i = 0; i < rows; i += ATTN_TILE)
            kernel[rows - i > 4][n - 1](k, a + i * next, lda, b + v * VEC_LANES, ldb,
                                        c + i * ldc + v * VEC_LANES, ldc, add);
    }
}
