/* Mixture of experts: the router and the way of rows to the experts and back; the formulas stand in kernels/ref/experts.c.
 *
 * A token, or for route_load a sequence, is one member's, and its sums have one order: the bits do not depend on the
 * team. Who is chosen follows from comparisons of the logits alone, so it is the same on every backend. route_sort
 * is a counting sort on one member: it moves four bytes a choice, where the experts read thousands. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/vmath.h"

struct route {
    const weft_route_desc *d;
    const float *logits, *prob, *lse, *weight, *load, *dweight;
    const int32_t *choice;
    float *prob_out, *lse_out, *weight_out, *load_out, *share_out;
    int32_t *choice_out;
    void *dlogits;
};

/* --- forward --- */

VEC_INLINE vec keep(vec a, int m) {
    return m == VEC_LANES ? a : vec_select(vmask_first(m), a, vec_zero());
}

static void choose(const float *z, int32_t experts, int32_t chosen, int32_t *choice) {
    unsigned char taken[WEFT_EXPERTS_MAX];
    memset(taken, 0, (size_t)experts);
    for (int32_t j = 0; j < chosen; j++) {
        int32_t best = 0;
        while (best + 1 < experts && taken[best]) best++;
        for (int32_t e = best + 1; e < experts; e++) {
            if (taken[e]) continue;
            if (z[e] > z[best] || (z[best] != z[best] && z[e] == z[e])) best = e;
        }
        taken[best] = 1;
        choice[j] = best;
    }
}

/* Softmax over the chosen; the first has the largest logit. */
VEC_INLINE void weigh(const float *z, int32_t chosen, const int32_t *choice, float *weight) {
    const vec top = vec_set(z[choice[0]]);
    vec sum = vec_zero();
    for (int32_t j = 0; j < chosen; j++) weight[j] = z[choice[j]];
    VEC_FOR(i, m, 0, chosen, {
        vec e = vec_exp(vec_sub(vec_load_f32(weight + i, m), top));
        vec_store_f32(weight + i, m, e);
        sum = vec_add(sum, keep(e, m));
    });
    const vec all = vec_set(vec_sum(sum));
    VEC_FOR(i, m, 0, chosen, { vec_store_f32(weight + i, m, vec_div(vec_load_f32(weight + i, m), all)); });
}

VEC_INLINE float log_sum_exp(const float *z, int64_t n) {
    vec max = vec_set(-__builtin_inff()), sum = vec_zero();
    VEC_FOR(i, m, 0, n, {
        vec a = vec_load_f32(z + i, m);
        max = vec_max(max, m == VEC_LANES ? a : vec_select(vmask_first(m), a, max));
    });
    const float top = vec_largest(max); /* a maximum that some NaN hid does not matter: the sum is NaN then */
    VEC_FOR(i, m, 0, n,
            { sum = vec_add(sum, keep(vec_exp(vec_sub(vec_load_f32(z + i, m), vec_set(top))), m)); });
    return top + vec_first(vec_log(vec_set(vec_sum(sum))));
}

static void route_fwd(void *arg, int64_t begin, int64_t end) {
    const struct route *r = arg;
    const int32_t experts = r->d->experts, chosen = r->d->chosen;
    for (int64_t i = begin; i < end; i++) {
        const float *z = r->logits + i * experts;
        float *p = r->prob_out + i * experts;
        choose(z, experts, chosen, r->choice_out + i * chosen);
        weigh(z, chosen, r->choice_out + i * chosen, r->weight_out + i * chosen);
        const float lse = r->lse_out[i] = log_sum_exp(z, experts);
        VEC_FOR(e, m, 0, experts,
                { vec_store_f32(p + e, m, vec_exp(vec_sub(vec_load_f32(z + e, m), vec_set(lse)))); });
    }
}

/* Sequences [begin, end). */
static void route_load(void *arg, int64_t begin, int64_t end) {
    const struct route *r = arg;
    const int32_t experts = r->d->experts, chosen = r->d->chosen;
    for (int64_t s = begin; s < end; s++) {
        float *load = r->load_out + s * experts, *share = r->share_out + s * experts;
        memset(load, 0, (size_t)experts * sizeof *load);
        memset(share, 0, (size_t)experts * sizeof *share);
        for (int64_t i = s * r->d->length; i < (s + 1) * r->d->length; i++) {
            const float *p = r->prob + i * experts;
            for (int32_t j = 0; j < chosen; j++) load[r->choice[i * chosen + j]] += 1.0f;
            VEC_FOR(e, m, 0, experts, {
                vec_store_f32(share + e, m, vec_add(vec_load_f32(share + e, m), vec_load_f32(p + e, m)));
            });
        }
    }
}

/* --- backward --- */

VEC_INLINE void route_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct route *r = arg;
    const weft_route_desc *d = r->d;
    const vec balance = vec_set(d->balance);
    float dz[WEFT_EXPERTS_MAX];
    for (int64_t i = begin; i < end; i++) {
        const float *p = r->prob + i * d->experts, *load = r->load + i / d->length * d->experts;
        const float *w = r->weight + i * d->chosen, *dw = r->dweight + i * d->chosen;
        vec sum = vec_zero();
        VEC_FOR(e, m, 0, d->experts, {
            vec b = vec_mul(balance, vec_load_f32(load + e, m));
            sum = vec_fma(vec_load_f32(p + e, m), b, sum);
        });
        const vec shift = vec_set(2.0f * d->zloss * r->lse[i] - vec_sum(sum));
        VEC_FOR(e, m, 0, d->experts, {
            vec b = vec_fma(balance, vec_load_f32(load + e, m), shift);
            vec_store_f32(dz + e, m, vec_mul(vec_load_f32(p + e, m), b));
        });
        float among = 0;
        for (int32_t j = 0; j < d->chosen; j++) among += w[j] * dw[j];
        for (int32_t j = 0; j < d->chosen; j++) dz[r->choice[i * d->chosen + j]] += w[j] * (dw[j] - among);
        VEC_FOR(e, m, 0, d->experts,
                { vec_store(t, r->dlogits, i * d->experts + e, m, vec_load_f32(dz + e, m)); });
    }
}
OPS_PER_DTYPE(route_bwd)

static weft_status op_route_fwd(weft_exec *x, const weft_route_desc *d, const float *logits, float *prob,
                                float *lse, int32_t *choice, float *weight) {
    struct route r = {.d = d, .logits = logits, .prob_out = prob};
    r.lse_out = lse, r.choice_out = choice, r.weight_out = weight;
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_fwd", d->tokens == 0 || (logits && prob && lse && choice && weight)));
    ops_for(x, d->tokens, 1, ops_rows(d->experts * (int64_t)(d->chosen + 2)), route_fwd, &r);
    return WEFT_OK;
}

static weft_status op_route_load(weft_exec *x, const weft_route_desc *d, const float *prob,
                                 const int32_t *choice, float *load, float *share) {
    struct route r = {.d = d, .prob = prob, .choice = choice, .load_out = load, .share_out = share};
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given("route_load", d->tokens == 0 || (prob && choice && load && share)));
    ops_for(x, d->tokens / d->length, 1, ops_rows(d->experts * d->length), route_load, &r);
    return WEFT_OK;
}

static weft_status op_route_bwd(weft_exec *x, const weft_route_desc *d, const float *prob, const float *lse,
                                const int32_t *choice, const float *weight, const float *load,
                                const float *dweight, void *dlogits) {
    struct route r = {.d = d, .prob = prob, .lse = lse, .choice = choice, .weight = weight};
    r.load = load, r.dweight = dweight, r.dlogits = dlogits;
    WEFT_TRY(weft_check_route(d));
    WEFT_TRY(weft_check_given(
        "route_bwd", d->tokens == 0 || (prob && lse && choice && weight && load && dweight && dlogits)));
    ops_for(x, d->tokens, 1, ops_rows(d->experts), route_bwd_of(d->t), &r);
    return WEFT_OK;
}

static weft_status op_route_sort(weft_exec *x, int64_t n, int32_t experts, const int32_t *choice,
                                 int64_t *first, int32_t *place) {
    int64_t next[WEFT_EXPERTS_MAX] = {0};
    (void)x;
    WEFT_TRY(weft_check_route_sort(n, experts, choice, first, place));
    for (int64_t i = 0; i < n; i++) next[choice[i]]++;
    first[0] = 0;
    for (int32_t e = 0; e < experts; e++) {
        first[e + 1] = first[e] + next[e];
        next[e] = first[e];
    }
    for (int64_t i = 0; i < n; i++) place[i] = (int32_t)next[choice[i]]++;
    return WEFT_OK;
}

/* --- rows --- */

struct rows {
    const weft_rows_desc *d;
    const int32_t *place;
    const void *in, *residual;
    void *out;
    const float *weight;
    float *dweight;
};

static void rows_scatter(void *arg, int64_t begin, int64_t end) {
    const struct rows *r = arg;
    const size_t row = (size_t)r->d->cols * weft_dtype_size(r->d->t);
    for (int64_t i = begin; i < end; i++)
        for (int64_t n = i * r->d->chosen; n < (i + 1) * r->d->chosen; n++)
            memcpy((char *)r->out + (size_t)r->place[n] * row, (const char *)r->in + (size_t)i * row, row);
}

VEC_INLINE void rows_combine(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct rows *r = arg;
    const int64_t cols = r->d->cols;
    for (int64_t i = begin; i < end; i++)
        VEC_FOR(c, m, 0, cols, {
            vec sum = r->residual ? vec_load(t, r->residual, i * cols + c, m) : vec_zero();
            for (int64_t n = i * r->d->chosen; n < (i + 1) * r->d->chosen; n++) {
                vec w = vec_set(r->weight ? r->weight[n] : 1.0f);
                sum = vec_fma(w, vec_load(t, r->in, r->place[n] * cols + c, m), sum);
            }
            vec_store(t, r->out, i * cols + c, m, sum);
        });
}
OPS_PER_DTYPE(rows_combine)

VEC_INLINE void rows_combine_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct rows *r = arg;
    const int64_t cols = r->d->cols;
    for (int64_t n = begin * r->d->chosen; n < end * r->d->chosen; n++) {
        const int64_t row = n / r->d->chosen * cols, there = r->place[n] * cols;
        const vec w = vec_set(r->weight[n]);
        vec even = vec_zero(), odd = vec_zero();
        int64_t pair = 0;
        VEC_FOR(c, m, 0, cols, {
            vec dy = vec_load(t, r->in, row + c, m), y = vec_load(t, r->out, there + c, m);
            if (pair++ % 2 == 0)
                even = vec_fma(dy, y, even);
            else
                odd = vec_fma(dy, y, odd);
            vec_store(t, r->out, there + c, m, vec_mul(w, dy));
        });
        r->dweight[n] = vec_sum(vec_add(even, odd));
    }
}
OPS_PER_DTYPE(rows_combine_bwd)

static int64_t rows_block(const weft_rows_desc *d) {
    return ops_rows(d->cols * d->chosen);
}

static weft_status op_rows_scatter(weft_exec *x, const weft_rows_desc *d, const void *in,
                                   const int32_t *place, void *out) {
    struct rows r = {.d = d, .place = place, .in = in, .out = out};
    WEFT_TRY(weft_check_rows(d, in, place, out));
    ops_for(x, d->cols ? d->tokens : 0, 1, rows_block(d), rows_scatter, &r);
    return WEFT_OK;
}

static weft_status op_rows_combine(weft_exec *x, const weft_rows_desc *d, const void *in,
                                   const int32_t *place, const float *weight, const void *residual,
                                   void *out) {
    struct rows r = {.d = d, .place = place, .in = in, .weight = weight, .residual = residual, .out = out};
    WEFT_TRY(weft_check_rows(d, in, place, out));
    ops_for(x, d->tokens, 1, rows_block(d), rows_combine_of(d->t), &r);
    return WEFT_OK;
}

static weft_status op_rows_combine_bwd(weft_exec *x, const weft_rows_desc *d, const void *dout,
                                       const int32_t *place, const float *weight, void *rows,
                                       float *dweight) {
    struct rows r = {.d = d, .place = place, .in = dout, .weight = weight, .out = rows, .dweight = dweight};
    WEFT_TRY(weft_check_rows(d, dout, place, rows));
    WEFT_TRY(weft_check_given("rows_combine_bwd", d->tokens == 0 || (weight && dweight)));
    ops_for(x, d->tokens, 1, rows_block(d), rows_combine_bwd_of(d->t), &r);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_experts)(struct weft_ops *t) {
    t->route_fwd = op_route_fwd;
    t->route_load = op_route_load;
    t->route_bwd = op_route_bwd;
    t->route_sort = op_route_sort;
    t->rows_scatter = op_rows_scatter;
    t->rows_combine = op_rows_combine;
    t->rows_combine_bwd = op_rows_combine_bwd;
}
