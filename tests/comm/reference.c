/* The serial reference; see reference.h. */
#include "tests/comm/reference.h"

#include "base/bf16.h"
#include "base/rng.h"

const weft_dtype reference_types[REFERENCE_TYPES] = {WEFT_F32, WEFT_BF16, WEFT_F64,
                                                     WEFT_I32, WEFT_I64,  WEFT_U64};

typedef struct operand {
    int there;
    double f;
    uint64_t i;
} operand;

static operand value(uint64_t stream, int rank, weft_dtype t, size_t i) {
    const uint64_t bits = weft_rng_u64(stream * 1000 + (uint64_t)rank, 1, i);
    /* sums of mixed magnitude: another order has other bits */
    const double v = ((double)(int64_t)bits) * 0x1p-63 * (double)(1 << (bits % 16));
    operand o = {1, v, bits};
    if (t == WEFT_F32) o.f = (float)v;
    if (t == WEFT_BF16) o.f = weft_bf16_to_f32(weft_f32_to_bf16((float)v));
    if (t == WEFT_I32) o.i = (uint64_t)(int64_t)(int32_t)bits;
    return o;
}

static void store(void *p, weft_dtype t, size_t i, operand o) {
    switch (t) {
    case WEFT_F32: ((float *)p)[i] = (float)o.f; return;
    case WEFT_BF16: ((uint16_t *)p)[i] = weft_f32_to_bf16((float)o.f); return;
    case WEFT_F64: ((double *)p)[i] = o.f; return;
    case WEFT_I32: ((uint32_t *)p)[i] = (uint32_t)o.i; return;
    default: ((uint64_t *)p)[i] = o.i; return;
    }
}

static uint64_t merge_ints(weft_dtype t, weft_redop op, uint64_t a, uint64_t b) {
    const int less = t == WEFT_U64 ? b < a : (int64_t)b < (int64_t)a;
    switch (op) {
    case WEFT_SUM: return t == WEFT_I32 ? (uint64_t)(int64_t)(int32_t)(uint32_t)(a + b) : a + b;
    case WEFT_MIN: return less ? b : a;
    case WEFT_MAX: return less ? a : b;
    case WEFT_BOR: return a | b;
    case WEFT_BAND: return a & b;
    default: return a && b;
    }
}

static operand merge(weft_dtype t, weft_redop op, operand a, operand b) {
    if (!a.there) return b;
    if (!b.there) return a;
    if (t == WEFT_I32 || t == WEFT_I64 || t == WEFT_U64)
        a.i = merge_ints(t, op, a.i, b.i);
    else if (op == WEFT_MIN || op == WEFT_MAX)
        a.f = (op == WEFT_MIN) == (b.f < a.f) ? b.f : a.f;
    else
        a.f = t == WEFT_F64 ? a.f + b.f : (double)((float)a.f + (float)b.f);
    return a;
}

static operand tree(uint64_t stream, int lo, int width, int size, const unsigned char *contributes,
                    weft_dtype t, weft_redop op, size_t i) {
    if (lo >= size) return (operand){0, 0, 0};
    if (width == 1) return contributes[lo] ? value(stream, lo, t, i) : (operand){0, 0, 0};
    return merge(t, op, tree(stream, lo, width / 2, size, contributes, t, op, i),
                 tree(stream, lo + width / 2, width / 2, size, contributes, t, op, i));
}

void reference_fill(uint64_t stream, int rank, weft_dtype t, size_t n, void *p) {
    for (size_t i = 0; i < n; i++) store(p, t, i, value(stream, rank, t, i));
}

void reference_sum(uint64_t stream, int size, const unsigned char *contributes, weft_dtype t, weft_redop op,
                   size_t n, void *p) {
    int width = 1;
    while (width < size) width *= 2;
    for (size_t i = 0; i < n; i++) store(p, t, i, tree(stream, 0, width, size, contributes, t, op, i));
}
