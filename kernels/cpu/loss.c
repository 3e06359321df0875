/* Linear and softmax cross entropy over one chunk of tokens.
 *
 * loss_stats: z = h w^T by the table's gemm, then per row the largest logit and the sum of exponentials of
 * the *stored* logits, so that the softmax of the gradient sums to one also in bf16. loss_grad: in place. A
 * row is one member's, so the bits do not depend on the team. Masked columns (>= vocab) are neither read nor
 * anything but zero in the gradient. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/vmath.h"

struct loss {
    const weft_loss_desc *d;
    const int32_t *target;
    void *z;
    float *lse, *z_target;
    const float *lse_in;
};

/* Four accumulators: the row comes from L2, one chain of maxima or sums would wait for itself. */
VEC_INLINE float row_max(const void *z, int64_t at, int64_t n, weft_dtype t) {
    vec m0 = vec_set(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES) {
        m0 = vec_max(m0, vec_load(t, z, at + i, VEC_LANES));
        m1 = vec_max(m1, vec_load(t, z, at + i + VEC_LANES, VEC_LANES));
        m2 = vec_max(m2, vec_load(t, z, at + i + 2 * VEC_LANES, VEC_LANES));
        m3 = vec_max(m3, vec_load(t, z, at + i + 3 * VEC_LANES, VEC_LANES));
    }
    for (; i < n; i += VEC_LANES) {
        int m = n - i < VEC_LANES ? (int)(n - i) : VEC_LANES;
        vec a = vec_load(t, z, at + i, m);
        m0 = vec_max(m0, vec_select(vmask_first(m), a, m0));
    }
    return vec_largest(vec_max(vec_max(m0, m1), vec_max(m2, m3)));
}

/* e^(a - b) */
VEC_INLINE vec exp_difference(vec a, vec b) {
    vec x = vec_mul(vec_sub(a, b), vec_set(0x1.715476p+0f));
    return vec_exp2(vec_min(vec_set(254.0f), x));
}

VEC_INLINE float row_sum_exp(const void *z, int64_t at, int64_t n, float max, weft_dtype t) {
    vec top = vec_set(max), s0 = vec_zero(), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES) {
        s0 = vec_add(s0, exp_difference(vec_load(t, z, at + i, VEC_LANES), top));
        s1 = vec_add(s1, exp_difference(vec_load(t, z, at + i + VEC_LANES, VEC_LANES), top));
        s2 = vec_add(s2, exp_difference(vec_load(t, z, at + i + 2 * VEC_LANES, VEC_LANES), top));
        s3 = vec_add(s3, exp_difference(vec_load(t, z, at + i + 3 * VEC_LANES, VEC_LANES), top));
    }
    for (; i < n; i += VEC_LANES) {
        int m = n - i < VEC_LANES ? (int)(n - i) : VEC_LANES;
        vec e = exp_difference(vec_load(t, z, at + i, m), top);
        s0 = vec_add(s0, vec_select(vmask_first(m), e, vec_zero()));
    }
    return vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
}

VEC_INLINE void loss_stats(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct loss *l = arg;
    int64_t columns = weft_loss_columns(l->d), unmasked = weft_loss_unmasked(l->d);
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * columns, hit = weft_loss_hit(l->d, l->target[row]);
        float max = row_max(l->z, at, unmasked, t);
        /* a maximum that some NaN hid does not matter: the sum is NaN then */
        float sum = row_sum_exp(l->z, at, unmasked, max, t);
        l->lse[row] = unmasked ? max + vec_first(vec_log(vec_set(sum))) : -__builtin_inff();
        l->z_target[row] = hit < 0 ? 0.0f : vec_first(vec_load(t, l->z, at + hit, 1));
    }
}
OPS_PER_DTYPE(loss_stats)

VEC_INLINE void loss_grad(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct loss *l = arg;
    vec scale = vec_set(l->d->grad_scale);
    int64_t columns = weft_loss_columns(l->d), unmasked = weft_loss_unmasked(l->d);
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * columns, masked = l->target[row] < 0 ? 0 : unmasked;
        if (masked) {
            int64_t hit = weft_loss_hit(l->d, l->target[row]);
            vec lse = vec_set(l->lse_in[row]), z_hit = vec_zero(), p;
            if (hit >= 0) z_hit = vec_load(t, l->z, at + hit, 1);
            VEC_FOR(i, m, 0, masked, {
                p = exp_difference(vec_load(t, l->z, at + i, m), lse);
                vec_store(t, l->z, at + i, m, vec_mul(p, scale));
            });
            p = vec_sub(exp_difference(z_hit, lse), vec_set(1.0f));
            if (hit >= 0) vec_store(t, l->z, at + hit, 1, vec_mul(p, scale));
        }
        memset((char *)l->z + (size_t)(at + masked) * (t == WEFT_F32 ? 4 : 2), 0,
               (size_t)(columns - masked) * (t == WEFT_F32 ? 4 : 2));
    }
}
OPS_PER_DTYPE(loss_grad)

static weft_status loss_check_targets(const weft_loss_desc *d, const int32_t *target) {
    for (int64_t i = 0; i < d->tokens; i++)
        if (target[i] >= d->vocab)
            return weft_fail(WEFT_ERR_VOCAB,
                             "loss: token %lld has target %d, the vocabulary has %lld entries", (long long)i,
                             target[i], (long long)d->vocab);
    return WEFT_OK;
}

static weft_status op_loss_stats(weft_exec *x, const weft_loss_desc *d, const void *h, const void *w,
                                 const int32_t *target, void *z, float *lse, float *z_target) {
    struct loss l = {.d = d, .target = target, .z = z, .lse = lse, .z_target = z_target};
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_stats", h && w && target && z && lse && z_target));
    WEFT_TRY(loss_check_targets(d, target));
    weft_gemm_desc g = ops_loss_gemm(d);
    WEFT_TRY_CTX(x->backend->ops->gemm(x, &g, h, w, z, NULL), "loss_stats");
    ops_for(x, d->tokens, 1, ops_rows(g.n), loss_stats_of(d->t), &l);
    return WEFT_OK;
}

static weft_status op_loss_grad(weft_exec *x, const weft_loss_desc *d, const float *lse,
                                const int32_t *target, void *z) {
    struct loss l = {.d = d, .target = target, .z = z, .lse_in = lse};
    WEFT_TRY(weft_check_loss(d));
    if (d->tokens == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("loss_grad", lse && target && z));
    WEFT_TRY(loss_check_targets(d, target));
    ops_for(x, d->tokens, 1, ops_rows(weft_loss_columns(d)), loss_grad_of(d->t), &l);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_loss)(struct weft_ops *t) {
    t->loss_stats = op_loss_stats;
    t->loss_grad = op_loss_grad;
}
