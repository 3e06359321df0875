/* The O(1) checks of every op's descriptor and pointers, in one place, so that all backends refuse the same
 * calls with the same status. Each returns WEFT_OK, ARG (wrong in itself) or UNSUPPORTED (a dtype or kind
 * that the op does not take) and writes nothing. Data (token ids, targets) is checked by the ops. Private to
 * kernels/. */
#ifndef WEFT_KERNELS_CHECK_H
#define WEFT_KERNELS_CHECK_H

#include "base/box.h"
#include "base/checked.h"
#include "base/status.h"
#include "kernels/kernels.h"

/* Descriptors carry their size, so that a caller compiled against another version of the table is caught. */
#define WEFT_CHECK_SIZE(d, what)                                                                             \
    do {                                                                                                     \
        if (!(d) || (d)->size != sizeof *(d))                                                                \
            return weft_fail(WEFT_ERR_ARG, what ": descriptor missing or of another size");                  \
    } while (0)

static inline weft_status weft_check_model_dtype(const char *what, weft_dtype t) {
    if (t == WEFT_F32 || t == WEFT_BF16) return WEFT_OK;
    return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: dtype %s, expected f32 or bf16", what, weft_dtype_name(t));
}

/* rows x cols elements fit into the address space whatever their type; both >= 0. */
static inline weft_status weft_check_extent(const char *what, int64_t rows, int64_t cols) {
    int64_t n;
    if (rows < 0 || cols < 0 || !weft_mul_i64_ok(rows, cols, &n) || n > INT64_MAX / 16)
        return weft_fail(WEFT_ERR_ARG, "%s: %lld x %lld elements", what, (long long)rows, (long long)cols);
    return WEFT_OK;
}

/* A row-major matrix [rows, cols] with row stride ld. */
static inline weft_status weft_check_matrix(const char *what, int64_t rows, int64_t cols, int64_t ld) {
    WEFT_TRY(weft_check_extent(what, rows, cols));
    if (ld < cols)
        return weft_fail(WEFT_ERR_ARG, "%s: row stride %lld, expected at least %lld", what, (long long)ld,
                         (long long)cols);
    return weft_check_extent(what, rows, ld);
}

static inline weft_status weft_check_given(const char *what, int given) {
    return given ? WEFT_OK : weft_fail(WEFT_ERR_ARG, "%s: a required pointer is NULL", what);
}

/* What gemm and gemm_pack share. */
static inline weft_status weft_check_gemm_desc(const weft_gemm_desc *d) {
    WEFT_CHECK_SIZE(d, "gemm");
    WEFT_TRY(weft_check_model_dtype("gemm", d->a));
    if (d->b != d->a)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: a is %s and b is %s, expected equal dtypes",
                         weft_dtype_name(d->a), weft_dtype_name(d->b));
    if (d->c != WEFT_F32 && !(d->c == WEFT_BF16 && d->a == WEFT_BF16))
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: c is %s, expected f32, or bf16 with bf16 inputs",
                         weft_dtype_name(d->c));
    if (d->trans_a > 1 || d->trans_b > 1 || d->beta > 1 || d->b_packed > 1)
        return weft_fail(WEFT_ERR_ARG, "gemm: trans_a, trans_b, beta and b_packed are 0 or 1");
    if (d->gated > 1 || (d->gated && (d->n % 2 != 0 || d->beta || d->b_packed)))
        return weft_fail(WEFT_ERR_ARG, "gemm: gated needs an even n, beta 0 and a b that is not packed");
    if (d->beta && d->c != WEFT_F32) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: beta 1 needs c in f32");
    if (d->m < 0 || d->n < 0 || d->k < 0)
        return weft_fail(WEFT_ERR_ARG, "gemm: m %lld, n %lld, k %lld", (long long)d->m, (long long)d->n,
                         (long long)d->k);
    if (!d->b_packed)
        WEFT_TRY(weft_check_matrix("gemm: b", d->trans_b ? d->n : d->k, d->trans_b ? d->k : d->n, d->ldb));
    return WEFT_OK;
}

static inline weft_status weft_check_epilogue(const weft_gemm_desc *d, const weft_epilogue *e) {
    WEFT_CHECK_SIZE(e, "gemm epilogue");
    if (e->act != WEFT_ACT_NONE && e->act != WEFT_ACT_GELU)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm epilogue: activation %d, expected none or GELU",
                         (int)e->act);
    if (e->act_bwd && (e->bias || e->pre || e->residual || e->act != WEFT_ACT_NONE))
        return weft_fail(WEFT_ERR_ARG, "gemm epilogue: act_bwd excludes bias, pre, act and residual");
    if (d->gated && (e->act != WEFT_ACT_NONE || e->act_bwd || e->col_sum))
        return weft_fail(WEFT_ERR_ARG, "gemm epilogue: a gated product excludes act, act_bwd and col_sum");
    if (e->scale != 0.0f && e->scale != 1.0f && d->beta)
        return weft_fail(WEFT_ERR_ARG, "gemm epilogue: a scale needs beta 0");
    if (e->col_sum && !(d->trans_a && !d->trans_b))
        return weft_fail(WEFT_ERR_ARG, "gemm epilogue: col_sum needs the TN form");
    if (e->col_sum && d->n == 0) return weft_fail(WEFT_ERR_ARG, "gemm epilogue: col_sum needs n > 0");
    if (e->pre || e->act_bwd) WEFT_TRY(weft_check_matrix("gemm epilogue: pre", d->m, d->n, e->ldp));
    if (e->residual)
        WEFT_TRY(weft_check_matrix("gemm epilogue: residual", d->m, d->gated ? d->n / 2 : d->n, e->ldr));
    return WEFT_OK;
}

static inline weft_status weft_check_gemm(const weft_gemm_desc *d, const void *a, const void *b,
                                          const void *c, const weft_epilogue *e) {
    WEFT_TRY(weft_check_gemm_desc(d));
    WEFT_TRY(weft_check_matrix("gemm: a", d->trans_a ? d->k : d->m, d->trans_a ? d->m : d->k, d->lda));
    WEFT_TRY(weft_check_matrix("gemm: c", d->m, d->gated ? d->n / 2 : d->n, d->ldc));
    if (e) WEFT_TRY(weft_check_epilogue(d, e));
    if (d->m == 0 || d->n == 0) return WEFT_OK;
    return weft_check_given("gemm", c && (d->k == 0 || (a && b)));
}

/* A part [first, first + n) of `whole`; n 0: all of it, first 0. Vocabularies are cut into parts. */
static inline weft_status weft_check_range(const char *what, int64_t first, int64_t n, int64_t whole) {
    if (first >= 0 && n >= 0 && first <= whole && n <= whole - first && (n || !first)) return WEFT_OK;
    return weft_fail(WEFT_ERR_ARG, "%s: %lld from %lld on, there are %lld", what, (long long)n,
                     (long long)first, (long long)whole);
}

/* The row of the table that id stands in, or -1: in the part of another rank. */
static inline int64_t weft_embed_row(const weft_embed_desc *d, int32_t id) {
    int64_t row = id - d->first;
    return !d->rows || (row >= 0 && row < d->rows) ? row : -1;
}

/* Columns of z, and how many of them are of the vocabulary: the first ones. */
static inline int64_t weft_loss_columns(const weft_loss_desc *d) {
    return d->columns ? d->columns : d->vocab_padded;
}
static inline int64_t weft_loss_unmasked(const weft_loss_desc *d) {
    int64_t n = d->vocab - d->first, columns = weft_loss_columns(d);
    return n < 0 ? 0 : n < columns ? n : columns;
}
/* The column of z that the target stands in, or -1: ignored, or in the part of another rank. */
static inline int64_t weft_loss_hit(const weft_loss_desc *d, int32_t target) {
    int64_t column = target - d->first;
    return target >= 0 && column >= 0 && column < weft_loss_columns(d) ? column : -1;
}

/* pos and wpe stand or fall together. */
static inline weft_status weft_check_embed(const weft_embed_desc *d, const int32_t *ids, const void *table,
                                           const int32_t *pos, const void *pos_table, const void *rows) {
    WEFT_CHECK_SIZE(d, "embed");
    WEFT_TRY(weft_check_model_dtype("embed", d->t));
    WEFT_TRY(weft_check_extent("embed: tokens", d->tokens, d->channels));
    WEFT_TRY(weft_check_extent("embed: vocabulary", d->vocab, d->channels));
    WEFT_TRY(weft_check_extent("embed: positions", d->positions, d->channels));
    if (d->channels == 0) return weft_fail(WEFT_ERR_ARG, "embed: 0 channels");
    /* the last part may reach into the padding of the vocabulary */
    WEFT_TRY(weft_check_range("embed: rows", d->first, d->rows, INT32_MAX));
    if (d->tokens == 0) return WEFT_OK;
    return weft_check_given("embed", ids && table && rows && (!pos_table || pos));
}

static inline weft_status weft_check_norm(const weft_norm_desc *d) {
    WEFT_CHECK_SIZE(d, "norm");
    WEFT_TRY(weft_check_model_dtype("norm", d->t));
    if (d->kind != WEFT_NORM_LAYER && d->kind != WEFT_NORM_RMS)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "norm: kind %d", (int)d->kind);
    WEFT_TRY(weft_check_extent("norm", d->rows, d->cols));
    if (d->cols == 0) return weft_fail(WEFT_ERR_ARG, "norm: 0 columns");
    if (!(d->eps >= 0.0f)) return weft_fail(WEFT_ERR_ARG, "norm: eps %g, expected >= 0", (double)d->eps);
    return WEFT_OK;
}

static inline weft_status weft_check_rope(const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                                          const void *v) {
    int64_t row;
    WEFT_CHECK_SIZE(d, "rope");
    WEFT_TRY(weft_check_model_dtype("rope", d->t));
    if (d->heads < 0 || d->hd < 2 || d->hd % 2 != 0)
        return weft_fail(WEFT_ERR_ARG, "rope: %d heads of %d, expected an even head dimension", d->heads,
                         d->hd);
    row = (int64_t)d->heads * d->hd;
    WEFT_TRY(weft_check_matrix("rope", d->tokens, row, d->token_stride));
    if (d->inverse > 1) return weft_fail(WEFT_ERR_ARG, "rope: inverse is 0 or 1");
    return weft_check_given("rope", d->tokens == 0 || d->heads == 0 || (pos && cos_sin && v));
}

static inline weft_status weft_check_attn(const weft_attn_desc *d) {
    int64_t end;
    WEFT_CHECK_SIZE(d, "attention");
    WEFT_TRY(weft_check_model_dtype("attention", d->t));
    if (d->batch < 0 || d->hq < 1 || d->hkv < 1 || d->hq % d->hkv != 0 || d->hd < 1 || d->tq < 0 || d->tk < 0)
        return weft_fail(WEFT_ERR_ARG,
                         "attention: batch %d, %d query and %d key heads of %d, %lld queries, %lld keys",
                         d->batch, d->hq, d->hkv, d->hd, (long long)d->tq, (long long)d->tk);
    if (d->window < 0 || d->causal > 1)
        return weft_fail(WEFT_ERR_ARG, "attention: window %d, causal %d", d->window, (int)d->causal);
    WEFT_TRY(weft_check_extent("attention: queries", d->tq, (int64_t)d->hq * d->hd));
    WEFT_TRY(weft_check_extent("attention: keys", d->tk, (int64_t)d->hkv * d->hd));
    for (int i = 0; i < 3; i++)
        if (d->sq[i] < 0 || d->sk[i] < 0 || d->sv[i] < 0 || d->so[i] < 0)
            return weft_fail(WEFT_ERR_ARG, "attention: negative stride");
    if (!weft_add_i64_ok(d->q_pos0, d->tq, &end) || !weft_add_i64_ok(d->k_pos0, d->tk, &end) ||
        d->q_pos0 < INT64_MIN / 2 || d->k_pos0 < INT64_MIN / 2)
        return weft_fail(WEFT_ERR_ARG, "attention: positions out of range");
    return WEFT_OK;
}

static inline weft_status weft_check_attn_merge(const weft_attn_desc *d, int begin, const void *o,
                                                const float *lse, const float *sum, const float *sum_lse) {
    WEFT_TRY(weft_check_attn(d));
    if (begin != 0 && begin != 1) return weft_fail(WEFT_ERR_ARG, "attn_merge: begin is 0 or 1");
    return weft_check_given("attn_merge", d->batch == 0 || d->tq == 0 || (o && lse && sum && sum_lse));
}

static inline weft_status weft_check_loss(const weft_loss_desc *d) {
    WEFT_CHECK_SIZE(d, "loss");
    WEFT_TRY(weft_check_model_dtype("loss", d->t));
    if (d->vocab < 1 || d->vocab > d->vocab_padded || d->vocab > INT32_MAX || d->channels < 1)
        return weft_fail(WEFT_ERR_ARG, "loss: vocabulary %lld, padded %lld, %lld channels",
                         (long long)d->vocab, (long long)d->vocab_padded, (long long)d->channels);
    WEFT_TRY(weft_check_extent("loss: logits", d->tokens, d->vocab_padded));
    WEFT_TRY(weft_check_extent("loss: hidden", d->tokens, d->channels));
    WEFT_TRY(weft_check_range("loss: columns", d->first, d->columns, d->vocab_padded));
    return weft_check_extent("loss: weights", d->vocab_padded, d->channels);
}

static inline weft_status weft_check_groups(const weft_gemm_desc *d, const weft_groups *g, const void *a,
                                            const void *b, const void *c, const weft_epilogue *e) {
    WEFT_CHECK_SIZE(g, "gemm_groups");
    if (g->groups < 0 || g->matrices < 1 || g->groups % g->matrices || g->stride < 0)
        return weft_fail(WEFT_ERR_ARG, "gemm_groups: %d groups of %d matrices", g->groups, g->matrices);
    WEFT_TRY(weft_check_given("gemm_groups", g->first != NULL));
    if (g->first[0] != 0) return weft_fail(WEFT_ERR_ARG, "gemm_groups: the first row is not 0");
    for (int32_t i = 0; i < g->groups; i++)
        if (g->first[i + 1] < g->first[i])
            return weft_fail(WEFT_ERR_ARG, "gemm_groups: group %d ends at row %lld, before it begins", i,
                             (long long)g->first[i + 1]);
    WEFT_CHECK_SIZE(d, "gemm_groups");
    weft_gemm_desc all = *d;
    if (d->trans_a)
        all.k = g->first[g->groups];
    else
        all.m = g->first[g->groups];
    if (d->b_packed || (d->trans_a && (d->trans_b || !d->beta || e)) || (!d->trans_a && d->beta))
        return weft_fail(WEFT_ERR_ARG,
                         "gemm_groups: the forms are NT, NN (beta 0) and TN (beta 1, no epilogue)");
    if (e && (e->bias || e->act || e->act_bwd || e->residual || e->col_sum || e->scale != 0.0f))
        return weft_fail(WEFT_ERR_ARG, "gemm_groups: an epilogue has nothing but pre");
    return weft_check_gemm(&all, a, b, c, e);
}

static inline weft_status weft_check_route(const weft_route_desc *d) {
    WEFT_CHECK_SIZE(d, "route");
    WEFT_TRY(weft_check_model_dtype("route", d->t));
    if (d->experts < 1 || d->experts > WEFT_EXPERTS_MAX || d->chosen < 1 || d->chosen > d->experts)
        return weft_fail(WEFT_ERR_ARG, "route: %d of %d experts, at most %d are possible", d->chosen,
                         d->experts, WEFT_EXPERTS_MAX);
    WEFT_TRY(weft_check_extent("route", d->tokens, d->experts));
    if (d->length < 1 || d->tokens % d->length)
        return weft_fail(WEFT_ERR_ARG, "route: %lld tokens in sequences of %lld", (long long)d->tokens,
                         (long long)d->length);
    return WEFT_OK;
}

static inline weft_status weft_check_route_sort_shape(int64_t n, int32_t experts, const int32_t *choice,
                                                      const int64_t *first, const int32_t *place) {
    if (n < 0 || n > INT32_MAX || experts < 1 || experts > WEFT_EXPERTS_MAX)
        return weft_fail(WEFT_ERR_ARG, "route_sort: %lld choices of %d experts", (long long)n, experts);
    return weft_check_given("route_sort", first && (n == 0 || (choice && place)));
}

static inline weft_status weft_check_route_sort(int64_t n, int32_t experts, const int32_t *choice,
                                                const int64_t *first, const int32_t *place) {
    WEFT_TRY(weft_check_route_sort_shape(n, experts, choice, first, place));
    for (int64_t i = 0; i < n; i++)
        if (choice[i] < 0 || choice[i] >= experts)
            return weft_fail(WEFT_ERR_VOCAB, "route_sort: choice %lld is expert %d of %d", (long long)i,
                             choice[i], experts);
    return WEFT_OK;
}

static inline weft_status weft_check_rows(const weft_rows_desc *d, const void *a, const int32_t *place,
                                          const void *b) {
    WEFT_CHECK_SIZE(d, "rows");
    WEFT_TRY(weft_check_model_dtype("rows", d->t));
    if (d->chosen < 1 || d->chosen > WEFT_EXPERTS_MAX)
        return weft_fail(WEFT_ERR_ARG, "rows: %d choices a token", d->chosen);
    WEFT_TRY(weft_check_extent("rows", d->tokens, d->cols));
    WEFT_TRY(weft_check_extent("rows", d->tokens * d->chosen, d->cols));
    return weft_check_given("rows", d->tokens == 0 || d->cols == 0 || (a && place && b));
}

static inline weft_status weft_check_adamw(const weft_adamw_desc *d) {
    WEFT_CHECK_SIZE(d, "adamw");
    if (!(d->bias1 > 0.0f) || !(d->bias2 > 0.0f))
        return weft_fail(WEFT_ERR_ARG, "adamw: bias corrections %g and %g, expected > 0", (double)d->bias1,
                         (double)d->bias2);
    return WEFT_OK;
}

static inline weft_status weft_check_newton_schulz(const weft_newton_schulz_desc *d, const float *v) {
    WEFT_CHECK_SIZE(d, "newton_schulz");
    WEFT_TRY(weft_check_extent("newton_schulz", d->rows, d->cols));
    if (d->rounds < 0) return weft_fail(WEFT_ERR_ARG, "newton_schulz: %d rounds", d->rounds);
    return weft_check_given("newton_schulz", v || d->rows == 0 || d->cols == 0);
}

static inline weft_status weft_check_float_dtype(const char *what, weft_dtype t) {
    if (t == WEFT_F32 || t == WEFT_BF16 || t == WEFT_F16 || t == WEFT_F64) return WEFT_OK;
    return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: dtype %s, expected f32, bf16, f16 or f64", what,
                     weft_dtype_name(t));
}

static inline weft_status weft_check_cast(weft_dtype from, weft_dtype to, size_t n, const void *src,
                                          const void *dst) {
    WEFT_TRY(weft_check_float_dtype("cast", from));
    WEFT_TRY(weft_check_float_dtype("cast", to));
    return weft_check_given("cast", n == 0 || (src && dst));
}

static inline weft_status weft_check_cast_rows(weft_dtype from, weft_dtype to, int64_t rows, int64_t cols,
                                               const void *src, int64_t lds, const void *dst, int64_t ldd,
                                               int add) {
    WEFT_TRY(weft_check_model_dtype("cast_rows", from));
    WEFT_TRY(weft_check_model_dtype("cast_rows", to));
    if (add != 0 && add != 1) return weft_fail(WEFT_ERR_ARG, "cast_rows: add is 0 or 1");
    if (add && to != WEFT_F32) return weft_fail(WEFT_ERR_UNSUPPORTED, "cast_rows: sums are f32");
    WEFT_TRY(weft_check_matrix("cast_rows: from", rows, cols, lds));
    WEFT_TRY(weft_check_matrix("cast_rows: to", rows, cols, ldd));
    return weft_check_given("cast_rows", rows == 0 || cols == 0 || (src && dst));
}

static inline weft_status weft_check_transpose(size_t elem, int64_t rows, int64_t cols, const void *src,
                                               const void *dst) {
    if (elem != 2 && elem != 4)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "transpose: elements of %zu bytes, expected 2 or 4", elem);
    WEFT_TRY(weft_check_extent("transpose", rows, cols));
    return weft_check_given("transpose", rows == 0 || cols == 0 || (src && dst));
}

static inline weft_status weft_check_box_copy(size_t elem, uint32_t ndim, const int64_t *ext, const void *src,
                                              const int64_t *src_stride, const void *dst,
                                              const int64_t *dst_stride) {
    int64_t n = 1;
    if (elem < 1 || elem > 16)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "box_copy: elements of %zu bytes", elem);
    if (ndim > WEFT_MAX_DIMS) return weft_fail(WEFT_ERR_ARG, "box_copy: %u dimensions, at most 8", ndim);
    WEFT_TRY(weft_check_given("box_copy", ndim == 0 || (ext && src_stride && dst_stride)));
    for (uint32_t i = 0; i < ndim; i++) {
        WEFT_TRY(weft_check_extent("box_copy", n, ext[i]));
        n *= ext[i];
    }
    return weft_check_given("box_copy", n == 0 || (src && dst));
}

static inline weft_status weft_check_reduction(const char *what, weft_dtype t, weft_redop op) {
    int is_float = t == WEFT_F32 || t == WEFT_BF16 || t == WEFT_F16 || t == WEFT_F64;
    if ((unsigned)op >= WEFT_REDOP_COUNT) return weft_fail(WEFT_ERR_ARG, "%s: operator %d", what, (int)op);
    if (weft_dtype_size(t) == 0) return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: dtype %d", what, (int)t);
    if (is_float && op != WEFT_SUM && op != WEFT_MIN && op != WEFT_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: a bitwise or logical operator on %s", what,
                         weft_dtype_name(t));
    return WEFT_OK;
}

static inline weft_status weft_check_reduce_p(weft_dtype t, weft_redop op, int p, const void *const *src,
                                              const void *dst, size_t n) {
    if (p < 1 || p > WEFT_REDUCE_MAX)
        return weft_fail(WEFT_ERR_ARG, "reduce_p: %d sources, expected 1 to 16", p);
    WEFT_TRY(weft_check_reduction("reduce_p", t, op));
    WEFT_TRY(weft_check_given("reduce_p", n == 0 || (src && dst)));
    for (int i = 0; n && i < p; i++) WEFT_TRY(weft_check_given("reduce_p", src[i] != NULL));
    return WEFT_OK;
}

static inline weft_status weft_check_reduce_push(weft_dtype t, weft_redop op, int p, const void *const *src,
                                                 int d, void *const *dst, size_t n) {
    int there = 0;
    if (p < 1 || p > WEFT_PUSH_MAX || d < 1 || d > WEFT_PUSH_MAX)
        return weft_fail(WEFT_ERR_ARG, "reduce_push: %d sources, %d destinations, expected 1 to %d", p, d,
                         WEFT_PUSH_MAX);
    WEFT_TRY(weft_check_reduction("reduce_push", t, op));
    WEFT_TRY(weft_check_given("reduce_push", n == 0 || (src && dst)));
    for (int i = 0; n && i < p; i++) there |= src[i] != NULL;
    for (int i = 0; n && i < d; i++) there &= dst[i] != NULL;
    return weft_check_given("reduce_push", n == 0 || there);
}

static inline weft_status weft_check_outer(const weft_outer_desc *d, const float *delta, const float *v,
                                           const float *theta) {
    WEFT_CHECK_SIZE(d, "outer_step");
    return weft_check_given("outer_step", d->n == 0 || (delta && v && theta));
}

static inline weft_status weft_check_codec(const char *what, weft_codec c, size_t n, int given) {
    if (c != WEFT_CODEC_INT8B128 && c != WEFT_CODEC_INT4B128 && c != WEFT_CODEC_TOPK2)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s: codec %d, expected int8b128, int4b128 or topk2", what,
                         (int)c);
    if (n > INT64_MAX / 16) return weft_fail(WEFT_ERR_ARG, "%s: %zu elements", what, n);
    return weft_check_given(what, n == 0 || given);
}

static inline weft_status weft_check_probe(weft_dtype t, double seconds, const double *flops) {
    WEFT_TRY(weft_check_model_dtype("probe_fma", t));
    if (!(seconds > 0) || seconds > 3600 || !flops)
        return weft_fail(WEFT_ERR_ARG, "probe_fma: %g s", seconds);
    return WEFT_OK;
}

#endif
