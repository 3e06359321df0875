/* reduce_p, reduce_push: one result from p arrays, element by element, in a tree.
 *
 * Adjacent pairs first, an odd one carried up: the order of the node's ranks. bf16 and f16 are widened, added
 * in fp32 and rounded once. MIN and MAX keep the left one of equals and any NaN. All p values of an element
 * are read before it is written, so a destination may be one of the sources. Equal by == on every backend. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"

struct reduce {
    const void *const *src; /* those that are there */
    void *const *dst;
    int p, d, streams; /* the first `streams` of dst are written past the caches */
    int full;          /* p, if no place is empty and the loop is unrolled; or 0: */
    int steps;
    uint8_t step[WEFT_PUSH_MAX][2]; /* v[first] takes v[second] in */
};

/* v[0..p) shrinks to v[0]; p is a constant, so that v stays in registers. */
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

VEC_INLINE void push(const struct reduce *r, weft_dtype t, int64_t i, int m, vec a) {
    for (int k = 0; k < r->streams; k++) vec_stream(1, t, r->dst[k], i, m, a);
    for (int k = r->streams; k < r->d; k++) vec_store(t, r->dst[k], i, m, a);
}

#define FLOAT_LOOP(t, pair, p_)                                                                              \
    VEC_FOR(i, m, begin, end, {                                                                              \
        vec v[p_];                                                                                           \
        for (int s = 0; s < (p_); s++) v[s] = vec_load(t, r->src[s], i, m);                                  \
        TREE(v, p_, pair)                                                                                    \
        push(r, t, i, m, v[0]);                                                                              \
    })
#define FLOAT_STEPS(t, pair)                                                                                 \
    VEC_FOR(i, m, begin, end, {                                                                              \
        vec v[WEFT_PUSH_MAX];                                                                                \
        for (int s = 0; s < r->p; s++) v[s] = vec_load(t, r->src[s], i, m);                                  \
        for (int k = 0; k < r->steps; k++) v[r->step[k][0]] = pair(v[r->step[k][0]], v[r->step[k][1]]);      \
        push(r, t, i, m, v[0]);                                                                              \
    })
#define FLOAT_JOB(name, t, pair)                                                                             \
    static void name(void *arg, int64_t begin, int64_t end) {                                                \
        const struct reduce *r = arg;                                                                        \
        switch (r->full) {                                                                                   \
        case 1: FLOAT_LOOP(t, pair, 1); break;                                                               \
        case 2: FLOAT_LOOP(t, pair, 2); break;                                                               \
        case 4: FLOAT_LOOP(t, pair, 4); break;                                                               \
        case 8: FLOAT_LOOP(t, pair, 8); break;                                                               \
        default: FLOAT_STEPS(t, pair);                                                                       \
        }                                                                                                    \
    }
#define FLOAT_JOBS(t)                                                                                        \
    FLOAT_JOB(sum_##t, t, pair_sum)                                                                          \
    FLOAT_JOB(min_##t, t, pair_min)                                                                          \
    FLOAT_JOB(max_##t, t, pair_max)
FLOAT_JOBS(WEFT_F32)
FLOAT_JOBS(WEFT_BF16)
FLOAT_JOBS(WEFT_F16)

/* f64 and integers: the same tree on columns of 16 elements, which the compiler vectorises. */
VEC_INLINE void push_column(const struct reduce *r, size_t unit, int64_t i, int m, const void *v) {
    int k = 0;
    for (; m == VEC_LANES && unit >= 4 && k < r->streams; k++)
        for (size_t at = 0; at < VEC_LANES * unit; at += CPU_LINE)
            stream_line((char *)r->dst[k] + (size_t)i * unit + at, (const char *)v + at);
    for (; k < r->d; k++) memcpy((char *)r->dst[k] + (size_t)i * unit, v, (size_t)m * unit);
}

#define PLAIN_LOAD(type, p_)                                                                                 \
    for (int s = 0; s < (p_); s++) {                                                                         \
        if (m < VEC_LANES) memset(v[s], 0, sizeof v[s]);                                                     \
        memcpy(v[s], (const type *)r->src[s] + i, (size_t)m * sizeof(type));                                 \
    }
#define PLAIN_PAIR(type, PAIR, to, a, b)                                                                     \
    for (int l = 0; l < VEC_LANES; l++) v[to][l] = (type)PAIR(v[a][l], v[b][l])
#define PLAIN_JOB(name, type, PAIR)                                                                          \
    static void name(void *arg, int64_t begin, int64_t end) {                                                \
        const struct reduce *r = arg;                                                                        \
        if (r->full == 2) {                                                                                  \
            VEC_FOR(i, m, begin, end, {                                                                      \
                _Alignas(CPU_LINE) type v[2][VEC_LANES];                                                     \
                PLAIN_LOAD(type, 2)                                                                          \
                PLAIN_PAIR(type, PAIR, 0, 0, 1);                                                             \
                push_column(r, sizeof(type), i, m, v[0]);                                                    \
            });                                                                                              \
        } else {                                                                                             \
            VEC_FOR(i, m, begin, end, {                                                                      \
                _Alignas(CPU_LINE) type v[WEFT_PUSH_MAX][VEC_LANES];                                         \
                PLAIN_LOAD(type, r->p)                                                                       \
                for (int k = 0; k < r->steps; k++)                                                           \
                    PLAIN_PAIR(type, PAIR, r->step[k][0], r->step[k][0], r->step[k][1]);                     \
                push_column(r, sizeof(type), i, m, v[0]);                                                    \
            });                                                                                              \
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

/* The merges of a tree over p places of which only some are taken; the taken ones are numbered in order. */
static void plan_steps(struct reduce *r, int p, const void *const *place) {
    int16_t at[WEFT_PUSH_MAX];
    int taken = 0;
    for (int s = 0; s < p; s++) at[s] = (int16_t)(place[s] ? taken++ : -1);
    for (int left = p; left > 1; left = (left + 1) / 2)
        for (int s = 0; s < left; s += 2) {
            const int a = at[s], b = s + 1 < left ? at[s + 1] : -1;
            at[s / 2] = (int16_t)(a >= 0 ? a : b);
            if (a < 0 || b < 0) continue;
            r->step[r->steps][0] = (uint8_t)a;
            r->step[r->steps++][1] = (uint8_t)b;
        }
    const int n = taken == 1 ? 1 : p;
    if (taken == n && (n == 1 || n == 2 || n == 4 || n == 8)) r->full = n;
}

/* What has just been read is in the caches, and cheapest to write there. */
static int can_stream(const struct reduce *r, const void *dst) {
    for (int s = 0; s < r->p; s++)
        if (r->src[s] == dst) return 0;
    return (uintptr_t)dst % CPU_LINE == 0;
}

static weft_status push_all(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, int d,
                            void *const *dst, size_t n, int past) {
    const void *there[WEFT_PUSH_MAX];
    void *to[WEFT_PUSH_MAX];
    struct reduce r = {.src = there, .dst = to, .d = d};
    int kept = d;
    for (int s = 0; s < p; s++)
        if (src[s]) there[r.p++] = src[s];
    for (int k = 0; k < d; k++) {
        if (past && can_stream(&r, dst[k]))
            to[r.streams++] = dst[k];
        else
            to[--kept] = dst[k];
    }
    plan_steps(&r, p, src);
    const double bytes = (double)(r.p + d) * (double)n * (double)weft_dtype_size(t);
    ops_elements(x, (int64_t)n, bytes, jobs[t][op], &r);
    return WEFT_OK;
}

static weft_status op_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                               void *dst, size_t n) {
    WEFT_TRY(weft_check_reduce_p(t, op, p, src, dst, n));
    if (!n) return WEFT_OK;
    const double bytes = (double)(p + 1) * (double)n * (double)weft_dtype_size(t);
    return push_all(x, t, op, p, src, 1, &dst, n, ops_beyond_cache(x, bytes));
}

static weft_status op_reduce_push(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src,
                                  int d, void *const *dst, size_t n, int past) {
    WEFT_TRY(weft_check_reduce_push(t, op, p, src, d, dst, n));
    return n ? push_all(x, t, op, p, src, d, dst, n, past) : WEFT_OK;
}

void CPU_NAME(ops_fill_reduce)(struct weft_ops *t) {
    t->reduce_p = op_reduce_p;
    t->reduce_push = op_reduce_push;
}
