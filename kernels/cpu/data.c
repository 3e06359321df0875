/* Data movement: cast, cast_rows, axpby, scale_copy, transpose. All but transpose are equal by == on every backend. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/transpose.h"

struct move {
    const void *src;
    void *dst;
    float a, b;
    int64_t rows, cols;
    int past; /* dst goes past the caches */
};

/* --- cast: pairs of f32, bf16, f16 through a register of floats --- */

#define CAST(from, to)                                                                                       \
    static void cast_##from##_##to(void *arg, int64_t begin, int64_t end) {                                  \
        const struct move *c = arg;                                                                          \
        VEC_FOR(i, m, begin, end, { vec_stream(c->past, to, c->dst, i, m, vec_load(from, c->src, i, m)); }); \
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
        vec_stream(c->past, WEFT_F32, c->dst, i, m, vec_select(vec_eq(a, a), a, quiet));
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
        vec_stream(c->past, to, c->dst, i, m, vec_load_f32(odd, VEC_LANES));
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
    double bytes = (double)n * (double)(weft_dtype_size(from) + weft_dtype_size(to));
    c.past = src != dst && ops_streams(x, bytes, dst, 0);
    ops_elements(x, (int64_t)n, bytes, job[from][to], &c);
    return WEFT_OK;
}
_Static_assert(WEFT_F32 == 0 && WEFT_BF16 == 1 && WEFT_F16 == 2 && WEFT_F64 == 3,
               "the order of op_cast's table");

/* --- cast_rows --- */

struct rows {
    const void *src;
    void *dst;
    int64_t cols, lds, ldd;
    int add;
};

VEC_INLINE void cast_rows(void *arg, int64_t begin, int64_t end, weft_dtype from, weft_dtype to) {
    const struct rows *r = arg;
    for (int64_t row = begin; row < end; row++) {
        const int64_t s = row * r->lds, d = row * r->ldd;
        if (r->add)
            VEC_FOR(c, m, 0, r->cols, {
                vec sum = vec_add(vec_load(to, r->dst, d + c, m), vec_load(from, r->src, s + c, m));
                vec_store(to, r->dst, d + c, m, sum);
            });
        else
            VEC_FOR(c, m, 0, r->cols, { vec_store(to, r->dst, d + c, m, vec_load(from, r->src, s + c, m)); });
    }
}
#define CAST_ROWS(from, to)                                                                                  \
    static void rows_##from##_##to(void *arg, int64_t begin, int64_t end) {                                  \
        cast_rows(arg, begin, end, from, to);                                                                \
    }
CAST_ROWS(WEFT_F32, WEFT_F32)
CAST_ROWS(WEFT_F32, WEFT_BF16)
CAST_ROWS(WEFT_BF16, WEFT_F32)
CAST_ROWS(WEFT_BF16, WEFT_BF16)

static weft_status op_cast_rows(weft_exec *x, weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                                const void *src, int64_t lds, void *dst, int64_t ldd, int add) {
    static ops_range_job *const job[2][2] = {{rows_WEFT_F32_WEFT_F32, rows_WEFT_F32_WEFT_BF16},
                                             {rows_WEFT_BF16_WEFT_F32, rows_WEFT_BF16_WEFT_BF16}};
    struct rows r = {src, dst, cols, lds, ldd, add};
    WEFT_TRY(weft_check_cast_rows(from, to, rows, cols, src, lds, dst, ldd, add));
    ops_for(x, rows, 1, ops_rows(cols), job[from][to], &r);
    return WEFT_OK;
}

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
    ops_elements(x, (int64_t)n, 12.0 * (double)n, axpby, &c);
    return WEFT_OK;
}

static void scale_copy(void *arg, int64_t begin, int64_t end) {
    const struct move *c = arg;
    const float *src = c->src;
    float *dst = c->dst;
    vec w = vec_set(c->a);
    if (c->a == 0.0f)
        VEC_FOR(i, m, begin, end, { vec_stream(c->past, WEFT_F32, dst, i, m, vec_zero()); });
    else
        VEC_FOR(i, m, begin, end,
                { vec_stream(c->past, WEFT_F32, dst, i, m, vec_mul(w, vec_load_f32(src + i, m))); });
}

static weft_status op_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst) {
    struct move c = {.src = src, .dst = dst, .a = w};
    WEFT_TRY(weft_check_given("scale_copy", n == 0 || (dst && (src || w == 0.0f))));
    double bytes = (w == 0.0f ? 4.0 : 8.0) * (double)n;
    c.past = src != dst && ops_streams(x, bytes, dst, 0);
    ops_elements(x, (int64_t)n, bytes, scale_copy, &c);
    return WEFT_OK;
}

/* --- transpose --- */

/* A piece is a few long rows of src; inside, tiles whose columns are whole lines of dst. More rows at a time than
 * a core's prefetchers follow are slower, and fewer rows leave single lines in dst. */
#define TALL(elem) (2 * CPU_LINE / (int64_t)(elem))
#define WIDE       4096

/* src rows [i, i_end), columns [j, j_end), one element at a time: the edges. */
VEC_INLINE void transpose_edge(const struct move *c, size_t elem, int64_t i0, int64_t i1, int64_t j0,
                               int64_t j1) {
    for (int64_t j = j0; j < j1; j++)
        for (int64_t i = i0; i < i1; i++)
            memcpy((char *)c->dst + (size_t)(j * c->rows + i) * elem,
                   (const char *)c->src + (size_t)(i * c->cols + j) * elem, elem);
}

/* Rows [i0, i1) of src by columns [j0, j1): all lines of a row of dst together. */
VEC_INLINE void transpose_piece(const struct move *c, size_t elem, int64_t i0, int64_t i1, int64_t j0,
                                int64_t j1) {
    size_t from = (size_t)c->cols * elem, to = (size_t)c->rows * elem;
    int64_t high = CPU_LINE / (int64_t)elem, wide = 16 / (int64_t)elem; /* rows and columns of a tile */
    int64_t whole_i = i0 + (i1 - i0) / high * high, whole_j = j0 + (j1 - j0) / wide * wide;
    for (int64_t j = j0; j < whole_j; j += wide)
        for (int64_t i = i0; i < whole_i; i += high)
            tile_transpose(elem, (const char *)c->src + (size_t)i * from + (size_t)j * elem, from,
                           (char *)c->dst + (size_t)j * to + (size_t)i * elem, to, c->past);
    transpose_edge(c, elem, i0, whole_i, whole_j, j1);
    transpose_edge(c, elem, whole_i, i1, j0, j1);
}

/* Items are pieces of TALL rows by WIDE columns, row by row. */
VEC_INLINE void transpose(const struct move *c, int64_t begin, int64_t end, size_t elem) {
    int64_t across = ops_ceil_div(c->cols, WIDE);
    for (int64_t item = begin; item < end; item++) {
        int64_t i = item / across * TALL(elem), j = item % across * WIDE;
        transpose_piece(c, elem, i, i + TALL(elem) < c->rows ? i + TALL(elem) : c->rows, j,
                        j + WIDE < c->cols ? j + WIDE : c->cols);
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
    int64_t items = ops_ceil_div(rows, TALL(elem)) * ops_ceil_div(cols, WIDE);
    c.past = ops_streams(x, 2.0 * (double)rows * (double)cols * (double)elem, dst, (size_t)rows * elem);
    ops_for(x, items, 1, ops_rows(TALL(elem) * (cols < WIDE ? cols : WIDE)),
            elem == 4 ? transpose_4 : transpose_2, &c);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_data)(struct weft_ops *t) {
    t->cast = op_cast;
    t->cast_rows = op_cast_rows;
    t->axpby = op_axpby;
    t->scale_copy = op_scale_copy;
    t->transpose = op_transpose;
}
