/* Sums and extremes: over one tensor (sumsq, absmax), element-wise over p tensors (reduce_p, reduce_push), and the linear
 * combinations (axpby, scale_copy).
 *
 * reduce_p, reduce_push, axpby and scale_copy are equal by == on every backend, so here they are fp32 and not double:
 * their formulas are the definition. A tree over p values: adjacent pairs first, an odd one carried up. */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/half.h"
#include "kernels/ref/ref.h"

weft_status ref_sumsq(weft_exec *x, size_t n, const float *v, double *out) {
    (void)x;
    double sum = 0;
    WEFT_TRY(weft_check_given("sumsq", out && (n == 0 || v)));
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * v[i];
    *out = sum;
    return WEFT_OK;
}

weft_status ref_sumsq_blocks(weft_exec *x, size_t n, const float *v, double *sums) {
    enum { BLOCK = 16384 };
    WEFT_TRY(weft_check_given("sumsq_blocks", n == 0 || (v && sums)));
    for (size_t i = 0; i < n; i += BLOCK)
        WEFT_TRY(ref_sumsq(x, n - i < BLOCK ? n - i : BLOCK, v + i, &sums[i / BLOCK]));
    return WEFT_OK;
}

weft_status ref_absmax(weft_exec *x, size_t n, const float *v, float *out) {
    (void)x;
    float max = 0;
    WEFT_TRY(weft_check_given("absmax", out && (n == 0 || v)));
    for (size_t i = 0; i < n; i++)
        if (fabsf(v[i]) > max || v[i] != v[i]) max = fabsf(v[i]); /* once NaN, no comparison replaces it */
    *out = max;
    return WEFT_OK;
}

weft_status ref_axpby(weft_exec *x, size_t n, float a, const float *v, float b, float *y) {
    (void)x;
    WEFT_TRY(weft_check_given("axpby", n == 0 || (v && y)));
    for (size_t i = 0; i < n; i++) y[i] = fmaf(a, v[i], b == 0.0f ? 0.0f : b * y[i]);
    return WEFT_OK;
}

weft_status ref_scale_copy(weft_exec *x, size_t n, float w, const float *src, float *dst) {
    (void)x;
    WEFT_TRY(weft_check_given("scale_copy", n == 0 || (dst && (src || w == 0.0f))));
    for (size_t i = 0; i < n; i++) dst[i] = w == 0.0f ? 0.0f : w * src[i];
    return WEFT_OK;
}

/* MIN and MAX: the left one of equals; a NaN on either side wins. */
#define REF_MIN(a, b) ((b) < (a) || (b) != (b) ? (b) : (a))
#define REF_MAX(a, b) ((b) > (a) || (b) != (b) ? (b) : (a))

static float ref_pair_f32(weft_redop op, float a, float b) {
    return op == WEFT_SUM ? a + b : op == WEFT_MIN ? REF_MIN(a, b) : REF_MAX(a, b);
}

static double ref_pair_f64(weft_redop op, double a, double b) {
    return op == WEFT_SUM ? a + b : op == WEFT_MIN ? REF_MIN(a, b) : REF_MAX(a, b);
}

/* Integers widened to 64 bits: a sum that is cut back to the element's width wraps as the narrow one would.
 */
static uint64_t ref_pair_u64(weft_redop op, uint64_t a, uint64_t b) {
    switch (op) {
    case WEFT_SUM: return a + b;
    case WEFT_MIN: return REF_MIN(a, b);
    case WEFT_MAX: return REF_MAX(a, b);
    case WEFT_BOR: return a | b;
    case WEFT_BAND: return a & b;
    default: return a && b;
    }
}

static int64_t ref_pair_i64(weft_redop op, int64_t a, int64_t b) {
    if (op == WEFT_MIN) return REF_MIN(a, b);
    if (op == WEFT_MAX) return REF_MAX(a, b);
    return (int64_t)ref_pair_u64(op, (uint64_t)a, (uint64_t)b);
}

/* One level of the tree after another: v[0..p) shrinks to v[0]; only places with has[] are taken. */
#define REF_TREE(pair, op, p, v)                                                                             \
    for (int left = (p); left > 1; left = (left + 1) / 2)                                                    \
        for (int s = 0; s < left; s += 2) {                                                                  \
            const int right = s + 1 < left && has[s + 1];                                                    \
            (v)[s / 2] = has[s] && right ? pair(op, (v)[s], (v)[s + 1]) : has[s] ? (v)[s] : (v)[s + right];  \
            has[s / 2] = has[s] || right;                                                                    \
        }

static float ref_load_f32(weft_dtype t, const void *p, size_t i) {
    if (t == WEFT_BF16) return weft_bf16_to_f32(((const weft_bf16 *)p)[i]);
    if (t == WEFT_F16) return ref_f16_to_f32(((const uint16_t *)p)[i]);
    return ((const float *)p)[i];
}

static void ref_store_f32(weft_dtype t, void *p, size_t i, float v) {
    if (t == WEFT_BF16)
        ((weft_bf16 *)p)[i] = weft_f32_to_bf16(v);
    else if (t == WEFT_F16)
        ((uint16_t *)p)[i] = ref_f32_to_f16(v);
    else
        ((float *)p)[i] = v;
}

static uint64_t ref_load_u64(weft_dtype t, const void *p, size_t i) {
    if (t == WEFT_U64) return ((const uint64_t *)p)[i];
    if (t == WEFT_U32) return ((const uint32_t *)p)[i];
    if (t == WEFT_U16) return ((const uint16_t *)p)[i];
    return ((const uint8_t *)p)[i];
}

static void ref_store_u64(weft_dtype t, void *p, size_t i, uint64_t v) {
    if (t == WEFT_U64)
        ((uint64_t *)p)[i] = v;
    else if (t == WEFT_U32)
        ((uint32_t *)p)[i] = (uint32_t)v;
    else if (t == WEFT_U16)
        ((uint16_t *)p)[i] = (uint16_t)v;
    else
        ((uint8_t *)p)[i] = (uint8_t)v;
}

/* All p values of element i are read before any dst[i] is written, so a dst may be one of the sources. */
weft_status ref_reduce_push(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, int d,
                            void *const *dst, size_t n, int past) {
    (void)x, (void)past;
    WEFT_TRY(weft_check_reduce_push(t, op, p, src, d, dst, n));
    for (size_t i = 0; i < n; i++) {
        int has[WEFT_PUSH_MAX];
        for (int s = 0; s < p; s++) has[s] = src[s] != NULL;
        if (t == WEFT_F64) {
            double v[WEFT_PUSH_MAX] = {0};
            for (int s = 0; s < p; s++)
                if (has[s]) v[s] = ((const double *)src[s])[i];
            REF_TREE(ref_pair_f64, op, p, v)
            for (int k = 0; k < d; k++) ((double *)dst[k])[i] = v[0];
        } else if (t == WEFT_I32 || t == WEFT_I64) {
            int64_t v[WEFT_PUSH_MAX] = {0};
            for (int s = 0; s < p; s++)
                if (has[s])
                    v[s] = t == WEFT_I64 ? ((const int64_t *)src[s])[i] : ((const int32_t *)src[s])[i];
            REF_TREE(ref_pair_i64, op, p, v)
            for (int k = 0; k < d; k++) {
                if (t == WEFT_I64)
                    ((int64_t *)dst[k])[i] = v[0];
                else
                    ((uint32_t *)dst[k])[i] = (uint32_t)v[0];
            }
        } else if (t == WEFT_U64 || t == WEFT_U32 || t == WEFT_U16 || t == WEFT_U8) {
            uint64_t v[WEFT_PUSH_MAX] = {0};
            for (int s = 0; s < p; s++)
                if (has[s]) v[s] = ref_load_u64(t, src[s], i);
            REF_TREE(ref_pair_u64, op, p, v)
            for (int k = 0; k < d; k++) ref_store_u64(t, dst[k], i, v[0]);
        } else {
            float v[WEFT_PUSH_MAX] = {0};
            for (int s = 0; s < p; s++)
                if (has[s]) v[s] = ref_load_f32(t, src[s], i);
            REF_TREE(ref_pair_f32, op, p, v)
            for (int k = 0; k < d; k++) ref_store_f32(t, dst[k], i, v[0]);
        }
    }
    return WEFT_OK;
}

weft_status ref_reduce_p(weft_exec *x, weft_dtype t, weft_redop op, int p, const void *const *src, void *dst,
                         size_t n) {
    WEFT_TRY(weft_check_reduce_p(t, op, p, src, dst, n));
    return ref_reduce_push(x, t, op, p, src, 1, &dst, n, 0);
}
