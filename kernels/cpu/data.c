/* Data movement: cast, axpby, scale_copy, transpose. All but transpose are equal by == on every backend. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/vec.h"

struct move {
    const void *src;
    void *dst;
    float a, b;
    int64_t rows, cols;
};

/* --- cast: pairs of f32, bf16, f16 through a register of floats --- */

#define CAST(from, to)                                                                                       \
    static void cast_##from##_##to(void *arg, int64_t begin, int64_t end) {                                  \
        const struct move *c = arg;                                                                          \
        VEC_FOR(i, m, begin, end, { vec_store(to, c->dst, i, m, vec_load(from, c->src, i, m)); });           \
    }
CAST(WEFT_F32, WEFT_BF16)
CAST(WEFT_F32, WEFT_F16)
CAST(WEFT_BF16, WEFT_F16)
CAST(WEFT_F16, WEFT_F32)
CAST(WEFT_F16, WEFT_BF16)

/* The only pair that rounds nothing and passes no conversion that would quiet a NaN. */
static void cast_WEFT_BF16_WEFT_F32(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    VEC_FOR(i, m, begin, end, {
        vec a = vec_load_bf16((const uint16_t *)c->src + i, m);
        vec quiet = vec_of_bits(veci_or(vec_bits(a), veci_set(0x00400000)));
        vec_store_f32((float *)c->dst + i, m, vec_select(vec_eq(a, a), a, quiet));
    });
}

/* --- cast: f64 --- */

/* The float next to v on the side of zero, its last bit set if anything was lost. Rounding that once more to
 * 8 or 11 bits gives the correctly rounded result; rounding to nearest twice would not (Boldo & Melquiond
 * 2008). */
static float round_to_odd(double v) {
    float f = (float)v;
    uint32_t u;
    double size = v < 0 ? -v : v, rounded = f < 0 ? -(double)f : (double)f;
    if (v != v || rounded == size) return f;
    memcpy(&u, &f, 4);
    if (rounded > size) u--; /* back towards zero; from infinity to the largest finite value */
    u |= 1u;
    memcpy(&f, &u, 4);
    return f;
}

VEC_INLINE void cast_from_f64(const struct move *c, int64_t begin, int64_t end, weft_dtype to) {
    const double *src = c->src;
    float odd[VEC_LANES] = {0};
    VEC_FOR(i, m, begin, end, {
        for (int l = 0; l < m; l++) odd[l] = to == WEFT_F32 ? (float)src[i + l] : round_to_odd(src[i + l]);
        vec_store(to, c->dst, i, m, vec_load_f32(odd, VEC_LANES));
    });
}
static void cast_WEFT_F64_WEFT_F32(void *arg, int64_t begin, int64_t end) {
    cast_from_f64(arg, begin, end, WEFT_F32);
}
static void cast_WEFT_F64_WEFT_BF16(void *arg, int64_t begin, int64_t end) {
    cast_from_f64(arg, begin, end, WEFT_BF16);
}
static void cast_WEFT_F64_WEFT_F16(void *arg, int64_t begin, int64_t end) {
    cast_from_f64(arg, begin, end, WEFT_F16);
}

VEC_INLINE void cast_to_f64(const struct move *c, int64_t begin, int64_t end, weft_dtype from) {
    double *dst = c->dst;
    float v[VEC_LANES];
    VEC_FOR(i, m, begin, end, {
        vec_store_f32(v, VEC_LANES, vec_load(from, c->src, i, m));
        for (int l = 0; l < m; l++) dst[i + l] = v[l];
    });
}
static void cast_WEFT_F32_WEFT_F64(void *arg, int64_t begin, int64_t end) {
    cast_to_f64(arg, begin, end, WEFT_F32);
}
static void cast_WEFT_BF16_WEFT_F64(void *arg, int64_t begin, int64_t end) {
    cast_to_f64(arg, begin, end, WEFT_BF16);
}
static void cast_WEFT_F16_WEFT_F64(void *arg, int64_t begin, int64_t end) {
    cast_to_f64(arg, begin, end, WEFT_F16);
}

/* Equal dtypes are a copy, bit by bit. */
static void copy_2(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    memcpy((uint16_t *)c->dst + begin, (const uint16_t *)c->src + begin, (size_t)(end - begin) * 2);
}
static void copy_4(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    memcpy((float *)c->dst + begin, (const float *)c->src + begin, (size_t)(end - begin) * 4);
}
static void copy_8(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    memcpy((double *)c->dst + begin, (const double *)c->src + begin, (size_t)(end - begin) * 8);
}

static weft_status op_cast(weft_exec *x, weft_dtype from, weft_dtype to, size_t n, const void *src,
                           void *dst) {
    static ops_range_job *const job[4][4] = {
        /* WEFT_F32, WEFT_BF16, WEFT_F16, WEFT_F64 are 0 to 3 */
        {copy_4, cast_WEFT_F32_WEFT_BF16, cast_WEFT_F32_WEFT_F16, cast_WEFT_F32_WEFT_F64},
        {cast_WEFT_BF16_WEFT_F32, copy_2, cast_WEFT_BF16_WEFT_F16, cast_WEFT_BF16_WEFT_F64},
        {cast_WEFT_F16_WEFT_F32, cast_WEFT_F16_WEFT_BF16, copy_2, cast_WEFT_F16_WEFT_F64},
        {cast_WEFT_F64_WEFT_F32, cast_WEFT_F64_WEFT_BF16, cast_WEFT_F64_WEFT_F16, copy_8},
    };
    struct move c = {.src = src, .dst = dst};
    WEFT_TRY(weft_check_cast(from, to, n, src, dst));
    ops_for(x, (int64_t)n, 64, OPS_BLOCK, job[from][to], &c);
    return WEFT_OK;
}
_Static_assert(WEFT_F32 == 0 && WEFT_BF16 == 1 && WEFT_F16 == 2 && WEFT_F64 == 3,
               "the order of op_cast's table");

/* --- linear combinations --- */

static void axpby(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    const float *v = c->src;
    float *y = c->dst;
    vec a = vec_set(c->a), b = vec_set(c->b);
    if (c->b == 0.0f)
        VEC_FOR(i, m, begin, end,
                { vec_store_f32(y + i, m, vec_fma(a, vec_load_f32(v + i, m), vec_zero())); });
    else
        VEC_FOR(i, m, begin, end, {
            vec old = vec_mul(b, vec_load_f32(y + i, m));
            vec_store_f32(y + i, m, vec_fma(a, vec_load_f32(v + i, m), old));
        });
}

static weft_status op_axpby(weft_exec *x, size_t n, float a, const float *v, float b, float *y) {
    struct move c = {.src = v, .dst = y, .a = a, .b = b};
    WEFT_TRY(weft_check_given("axpby", n == 0 || (v && y)));
    ops_for(x, (int64_t)n, 64, OPS_BLOCK, axpby, &c);
    return WEFT_OK;
}

static void scale_copy(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    const float *src = c->src;
    float *dst = c->dst;
    vec w = vec_set(c->a);
    if (c->a == 0.0f)
        memset(dst + begin, 0, (size_t)(end - begin) * sizeof *dst);
    else
        VEC_FOR(i, m, begin, end, { vec_store_f32(dst + i, m, vec_mul(w, vec_load_f32(src + i, m))); });
}

static weft_status op_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst) {
    struct move c = {.src = src, .dst = dst, .a = w};
    WEFT_TRY(weft_check_given("scale_copy", n == 0 || (dst && (src || w == 0.0f))));
    ops_for(x, (int64_t)n, 64, OPS_BLOCK, scale_copy, &c);
    return WEFT_OK;
}

/* --- transpose: 8x8 tiles through registers, in blocks of 64x64: lines and pages stay in reach
 * --- */

#define SIDE 64

/* One tile of up to 8x8 elements from src[i, j], for the edges. */
VEC_INLINE void transpose_edge(const struct move *c, size_t elem, int64_t i, int64_t j) {
    for (int64_t jj = j; jj < j + 8 && jj < c->cols; jj++)
        for (int64_t ii = i; ii < i + 8 && ii < c->rows; ii++)
            memcpy((char *)c->dst + (size_t)(jj * c->rows + ii) * elem,
                   (const char *)c->src + (size_t)(ii * c->cols + jj) * elem, elem);
}

/* Rows [begin, end) of dst, that is columns of src; begin is a multiple of SIDE. */
VEC_INLINE void transpose(const struct move *c, int64_t begin, int64_t end, size_t elem) {
    int64_t rows = c->rows, cols = c->cols;
    for (int64_t j0 = begin; j0 < end; j0 += SIDE)
        for (int64_t i0 = 0; i0 < rows; i0 += SIDE)
            for (int64_t j = j0; j < j0 + SIDE && j < end; j += 8)
                for (int64_t i = i0; i < i0 + SIDE && i < rows; i += 8) {
                    int64_t from = i * cols + j, to = j * rows + i;
                    if (j + 8 > cols || i + 8 > rows)
                        transpose_edge(c, elem, i, j);
                    else if (elem == 4)
                        tile8_transpose_f32((const float *)c->src + from, cols, (float *)c->dst + to, rows);
                    else
                        tile8_transpose_u16((const uint16_t *)c->src + from, cols, (uint16_t *)c->dst + to,
                                            rows);
                }
}
static void transpose_2(void *arg, int64_t begin, int64_t end) {
    transpose(arg, begin, end, 2);
}
static void transpose_4(void *arg, int64_t begin, int64_t end) {
    transpose(arg, begin, end, 4);
}

static weft_status op_transpose(weft_exec *x, size_t elem, int64_t rows, int64_t cols, const void *src,
                                void *dst) {
    struct move c = {.src = src, .dst = dst, .rows = rows, .cols = cols};
    WEFT_TRY(weft_check_transpose(elem, rows, cols, src, dst));
    if (rows > 0) ops_for(x, cols, SIDE, ops_rows(rows), elem == 4 ? transpose_4 : transpose_2, &c);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_data)(struct weft_ops *t) {
    t->cast = op_cast;
    t->axpby = op_axpby;
    t->scale_copy = op_scale_copy;
    t->transpose = op_transpose;
}
