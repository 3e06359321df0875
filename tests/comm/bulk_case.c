/* Random tensors and their reductions; see bulk_case.h. */
#include "tests/comm/bulk_case.h"

#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/rng.h"

static const weft_dtype types[] = {WEFT_F32, WEFT_BF16, WEFT_F64, WEFT_I32, WEFT_I64};

/* --- values: a pure function of (stream, rank, tensor, element)
 * --------------------------------------------------- */

static double value(const tensors *s, int rank, int tensor, size_t i) {
    const uint64_t seed = mpi_test_seed() + (uint64_t)rank * 7919, at = (uint64_t)tensor << 40 | i;
    return weft_rng_normal(seed, s->stream, at) * (double)(1 << (weft_rng_u64(seed, s->stream + 1, at) % 16));
}

static void store(void *p, weft_dtype t, size_t i, double v) {
    switch (t) {
    case WEFT_F32: ((float *)p)[i] = (float)v; return;
    case WEFT_BF16: ((uint16_t *)p)[i] = weft_f32_to_bf16((float)v); return;
    case WEFT_F64: ((double *)p)[i] = v; return;
    case WEFT_I32: ((int32_t *)p)[i] = (int32_t)v; return;
    default: ((int64_t *)p)[i] = (int64_t)(v * 1e6); return;
    }
}

static operand leaf(const tensors *s, int rank, int tensor, size_t i, const double *weight) {
    const weft_dtype t = s->t[tensor].t;
    const double v = value(s, rank, tensor, i);
    operand r = {weight[rank] != 0, v, 0};
    if (t == WEFT_F32) r.f = (float)v;
    if (t == WEFT_BF16) r.f = weft_bf16_to_f32(weft_f32_to_bf16((float)v));
    if (t == WEFT_I32) r.i = (int32_t)v;
    if (t == WEFT_I64) r.i = (int64_t)(v * 1e6);
    return r;
}

/* As a comparison: 1 if b is to be taken instead of a. */
static int takes(weft_dtype t, weft_redop op, operand a, operand b) {
    const int is_int = t == WEFT_I32 || t == WEFT_I64;
    const int less = is_int ? b.i < a.i : b.f < a.f, more = is_int ? b.i > a.i : b.f > a.f;
    return op == WEFT_MIN ? less : more;
}

static operand add(weft_dtype t, weft_redop op, operand a, operand b) {
    if (!a.there) return b;
    if (!b.there) return a;
    if (op != WEFT_SUM) return takes(t, op, a, b) ? b : a;
    if (t == WEFT_F64)
        a.f = a.f + b.f;
    else if (t == WEFT_F32 || t == WEFT_BF16)
        a.f = (float)a.f + (float)b.f;
    else if (t == WEFT_I32)
        a.i = (int32_t)((uint32_t)a.i + (uint32_t)b.i);
    else
        a.i = (int64_t)((uint64_t)a.i + (uint64_t)b.i);
    return a;
}

/* Adjacent pairs first, an odd one carried up; written apart from comm/tree.c. */
operand tensors_tree(const tensors *s, int lo, int width, int tensor, size_t i, const double *weight) {
    if (width == 1) return leaf(s, lo, tensor, i, weight);
    const operand left = tensors_tree(s, lo, width / 2, tensor, i, weight);
    if (lo + width / 2 >= mpi_test_size()) return left;
    return add(s->t[tensor].t, s->op, left, tensors_tree(s, lo + width / 2, width / 2, tensor, i, weight));
}

/* ((x0 + x1) + x2) + ...: what the tree is not. */
operand tensors_left_fold(const tensors *s, int tensor, size_t i, const double *weight) {
    operand r = leaf(s, 0, tensor, i, weight);
    for (int k = 1; k < mpi_test_size(); k++)
        r = add(s->t[tensor].t, s->op, r, leaf(s, k, tensor, i, weight));
    return r;
}

static void store_sum(void *p, weft_dtype t, size_t i, operand v) {
    if (t == WEFT_I32)
        ((int32_t *)p)[i] = (int32_t)v.i;
    else if (t == WEFT_I64)
        ((int64_t *)p)[i] = v.i;
    else
        store(p, t, i, v.f);
}

/* --- making and checking
 * -------------------------------------------------------------------------------------------- */

size_t tensors_bytes(const weft_tensor *t) {
    return t->n * weft_dtype_size(t->t);
}

void tensors_release(tensors *s) {
    for (int i = 0; i < s->n; i++) free(s->t[i].ptr);
}

void tensors_random(tensors *s, uint64_t stream, size_t most) {
    static const size_t sizes[] = {0, 1, 2, 3, 17, 61, 127, 1009, 4096, 10007};
    const uint64_t seed = mpi_test_seed();
    s->stream = stream * 2;
    s->op = WEFT_SUM;
    s->n = 1 + (int)(weft_rng_u64(seed, stream, 1) % MOST);
    for (int i = 0; i < s->n; i++) {
        const uint64_t r = weft_rng_u64(seed, stream, 100 + (uint64_t)i);
        size_t n = sizes[r % 10];
        if (n > most) n = most;
        const weft_dtype t = types[(r >> 8) % 5];
        s->t[i] = (weft_tensor){malloc(n * weft_dtype_size(t) + 1), n, t, i, "random"};
    }
}

void tensors_fill(tensors *s, double weight) {
    for (int i = 0; i < s->n; i++) {
        if (weight == 0) memset(s->t[i].ptr, 0xff, tensors_bytes(&s->t[i])); /* NaN in every floating type */
        for (size_t k = 0; weight != 0 && k < s->t[i].n; k++)
            store(s->t[i].ptr, s->t[i].t, k, value(s, mpi_test_rank(), i, k));
    }
}

void tensors_check_part(const tensors *s, int i, const double *weight, size_t lo, size_t hi) {
    const weft_tensor *t = &s->t[i];
    char *want = malloc(tensors_bytes(t) + 1);
    for (size_t k = lo; k < hi; k++) store_sum(want, t->t, k, tensors_tree(s, 0, 64, i, k, weight));
    const size_t unit = weft_dtype_size(t->t);
    for (size_t k = lo * unit; k < hi * unit; k++)
        if (want[k] != ((char *)t->ptr)[k])
            fail_msg("rank %d: tensor %d (%zu x %s), byte %zu", mpi_test_rank(), i, t->n,
                     weft_dtype_name(t->t), k);
    free(want);
}

void tensors_check(const tensors *s, int i, const double *weight) {
    tensors_check_part(s, i, weight, 0, s->t[i].n);
}

const double *everybody(void) {
    static double w[64];
    for (int i = 0; i < 64; i++) w[i] = 1;
    return w;
}
