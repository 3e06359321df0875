/* reduce_p: one result from p = 1..16 arrays, element by element, in a tree.
 *
 * Adjacent pairs first, an odd one carried up: the order of the node's ranks. bf16 and f16 are widened, added
 * in fp32 and rounded once. MIN and MAX keep the left one of equals and any NaN. All p values of an element
 * are read before it is written, so dst may be one of the sources. Equal by == on every backend. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"

struct reduce {
    const void *const *src;
    void *dst;
    int p, past; /* past: dst goes past the caches (float types) */
};

/* v[0..p) shrinks to v[0]; p is a constant where it matters, so that v stays in registers. */
#define TREE(v, p, PAIR)                                                                                     \
    for (int left = (p); left > 1; left = (left + 1) / 2)                                                    \
        for (int s = 0; s < left; s += 2) (v)[s / 2] = s + 1 < left ? PAIR((v)[s], (v)[s + 1]) : (v)[s];

VEC_INLINE vec pair_sum(vec a, vec b) {
    return vec_add(a, b);
}
/* vec_min(b, a) is b < a ? b : a */
VEC_INLINE vec pair_min(vec a, vec b) {
    return vec_select(vec_eq(b, b), vec_min(b, a), b);
}
VEC_INLINE vec pair_max(vec a, vec b) {
    return vec_select(vec_eq(b, b), vec_max(b, a), b);
}

#define FLOAT_LOOP(t, pair, p_)                                                                              \
    VEC_FOR(i, m, begin, end, {                                                                              \
        vec v[WEFT_REDUCE_MAX];                                                                              \
        for (int s = 0; s < (p_); s++) v[s] = vec_load(t, r->src[s], i, m);                                  \
        TREE(v, p_, pair)                                                                                    \
        vec_stream(r->past, t, r->dst, i, m, v[0]);                                                          \
    })
#define FLOAT_JOB(name, t, pair)                                                                             \
    static void name(void *arg, int64_t begin, int64_t end) {                                                \
        const struct reduce *r = arg;                                                                        \
        if (r->p == 2)                                                                                       \
            FLOAT_LOOP(t, pair, 2);                                                                          \
        else if (r->p == 4)                                                                                  \
            FLOAT_LOOP(t, pair, 4);                                                                          \
        else if (r->p == 8)                                                                                  \
            FLOAT_LOOP(t, pair, 8);                                                                          \
        else                                                                                                 \
            FLOAT_LOOP(t, pair, r->p);                                                                       \
    }
#define FLOAT_JOBS(t)                                                                                        \
    FLOAT_JOB(sum_##t, t, pair_sum)                                                                          \
    FLOAT_JOB(min_##t, t, pair_min)                                                                          \
    FLOAT_JOB(max_##t, t, pair_max)
FLOAT_JOBS(WEFT_F32)
FLOAT_JOBS(WEFT_BF16)
FLOAT_JOBS(WEFT_F16)

/* f64 and integers: the same tree on columns of 16 elements, which the compiler vectorises. */
#define PLAIN_JOB(name, type, PAIR)                                                                          \
    static void name(void *arg, int64_t begin, int64_t end) {                                                \
        const struct reduce *r = arg;                                                                        \
        for (int64_t i = begin; i < end; i += VEC_LANES) {                                                   \
            type v[WEFT_REDUCE_MAX][VEC_LANES];                                                              \
            size_t bytes = (size_t)(end - i < VEC_LANES ? end - i : VEC_LANES) * sizeof(type);               \
            memset(v[0], 0, sizeof v[0]);                                                                    \
            for (int s = 0; s < r->p; s++) {                                                                 \
                if (s) memset(v[s], 0, sizeof v[s]);                                                         \
                memcpy(v[s], (const type *)r->src[s] + i, bytes);                                            \
            }                                                                                                \
            for (int left = r->p; left > 1; left = (left + 1) / 2)                                           \
                for (int s = 0; s < left; s += 2)                                                            \
                    for (int l = 0; l < VEC_LANES; l++)                                                      \
                        v[s / 2][l] = s + 1 < left ? (type)PAIR(v[s][l], v[s + 1][l]) : v[s][l];             \
            memcpy((type *)r->dst + i, v[0], bytes);                                                         \
        }                                                                                                    \
    }
#define SUM_OF(a, b)  ((a) + (b))
#define MIN_OF(a, b)  ((b) < (a) || (b) != (b) ? (b) : (a))
#define MAX_OF(a, b)  ((b) > (a) || (b) != (b) ? (b) : (a))
#define BOR_OF(a, b)  ((a) | (b))
#define BAND_OF(a, b) ((a) & (b))
#define LAND_OF(a, b) ((a) && (b))
PLAIN_JOB(sum_f64, double, SUM_OF)
PLAIN_JOB(min_f64, double, MIN_OF)
PLAIN_JOB(max_f64, double, MAX_OF)
/* Sums and bit operations of signed integers are those of the unsigned ones (two's complement, wrapping). */
#define UNSIGNED_JOBS(name, type)                                                                            \
    PLAIN_JOB(sum_##name, type, SUM_OF)                                                                      \
    PLAIN_JOB(min_##name, type, MIN_OF)                                                                      \
    PLAIN_JOB(max_##name, type, MAX_OF)                                                                      \
    PLAIN_JOB(bor_##name, type, BOR_OF)                                                                      \
    PLAIN_JOB(band_##name, type, BAND_OF)                                                                    \
    PLAIN_JOB(land_##name, type, LAND_OF)
UNSIGNED_JOBS(u8, uint8_t)
UNSIGNED_JOBS(u16, uint16_t)
UNSIGNED_JOBS(u32, uint32_t)
UNSIGNED_JOBS(u64, uint64_t)
PLAIN_JOB(min_i32, int32_t, MIN_OF)
PLAIN_JOB(max_i32, int32_t, MAX_OF)
PLAIN_JOB(min_i64, int64_t, MIN_OF)
PLAIN_JOB(max_i64, int64_t, MAX_OF)

#define UNSIGNED_ROW(n)                                                                                      \
    { sum_##n, min_##n, max_##n, bor_##n, band_##n, land_##n }
static ops_range_job *const jobs[WEFT_DTYPE_COUNT][WEFT_REDOP_COUNT] = {
    [WEFT_F32] = {sum_WEFT_F32, min_WEFT_F32, max_WEFT_F32},
    [WEFT_BF16] = {sum_WEFT_BF16, min_WEFT_BF16, max_WEFT_BF16},
    [WEFT_F16] = {sum_WEFT_F16, min_WEFT_F16, max_WEFT_F16},
    [WEFT_F64] = {sum_f64, min_f64, max_f64},
    [WEFT_I32] = {sum_u32, min_i32, max_i32, bor_u32, band_u32, land_u32},
    [WEFT_I64] = {sum_u64, min_i64, max_i64, bor_u64, band_u64, land_u64},
    [WEFT_U64] = UNSIGNED_ROW(u64),
    [WEFT_U16] = UNSIGNED_ROW(u16),
    [WEFT_U32] = UNSIGNED_ROW(u32),
    [WEFT_U8] = UNSIGNED_ROW(u8),
};

static weft_status op_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                               void *dst, size_t n) {
    struct reduce r = {src, dst, p, 0};
    WEFT_TRY(weft_check_reduce_p(t, op, p, src, dst, n));
    double bytes = (double)(p + 1) * (double)n * (double)weft_dtype_size(t);
    r.past = ops_streams(x, bytes, dst, 0);
    for (int s = 0; n && s < p; s++) r.past &= src[s] != dst;
    ops_elements(x, (int64_t)n, bytes, jobs[t][op], &r);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_reduce)(struct weft_ops *t) {
    t->reduce_p = op_reduce_p;
}
