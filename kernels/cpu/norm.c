/* LayerNorm and RMSNorm, forward and backward.
 *
 * Forward, per row: mean, variance of the centred row (two passes over a row that stays in L1: no
 * cancellation), then the affine map. Backward, per row, with g = dout gamma and xhat = (x - mean) rstd: din
 * = rstd (g - mean(g) - xhat mean(g xhat)) [+ dres];   RMS: without mean(g). dgamma and dbeta are summed over
 * blocks of 64 rows into scratch, and the blocks in a pairwise tree, so that the bits do not depend on which
 * member took which block. Source: Ba, Kiros, Hinton 2016; Zhang & Sennrich 2019. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/vmath.h"

struct norm {
    const weft_norm_desc *d;
    const void *in, *gamma, *beta, *dout, *dres;
    void *out;
    float *mean, *rstd;
    const float *mean_in, *rstd_in;
    float *partial; /* per block of rows: dgamma [cols], dbeta [cols] */
    float *dgamma, *dbeta;
    int past; /* out goes past the caches */
};

/* Sum of a row's terms in four accumulators of sixteen lanes; TERM(sum, i, m) adds the terms i .. i+m. */
#define ROW_SUM(out, n, TERM)                                                                                \
    do {                                                                                                     \
        vec s0 = vec_zero(), s1 = vec_zero(), s2 = vec_zero(), s3 = vec_zero();                              \
        int64_t i_ = 0;                                                                                      \
        for (; i_ + 4 * VEC_LANES <= (n); i_ += 4 * VEC_LANES) {                                             \
            s0 = TERM(s0, i_, VEC_LANES);                                                                    \
            s1 = TERM(s1, i_ + VEC_LANES, VEC_LANES);                                                        \
            s2 = TERM(s2, i_ + 2 * VEC_LANES, VEC_LANES);                                                    \
            s3 = TERM(s3, i_ + 3 * VEC_LANES, VEC_LANES);                                                    \
        }                                                                                                    \
        for (; i_ + VEC_LANES <= (n); i_ += VEC_LANES) s0 = TERM(s0, i_, VEC_LANES);                         \
        if (i_ < (n)) s0 = TERM(s0, i_, (int)((n)-i_));                                                      \
        out = vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));                                            \
    } while (0)

/* The tail's idle lanes are zero after loading but not after subtracting a mean. */
VEC_INLINE vec keep_first(vec a, int m) {
    return m == VEC_LANES ? a : vec_select(vmask_first(m), a, vec_zero());
}
VEC_INLINE vec add_square(vec sum, vec a, vec mean, int m) {
    vec c = keep_first(vec_sub(a, mean), m);
    return vec_fma(c, c, sum);
}

VEC_INLINE void norm_fwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct norm *n = arg;
    int64_t cols = n->d->cols;
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * cols;
        float mean = 0.0f, square;
        if (n->d->kind == WEFT_NORM_LAYER) {
#define TERM(sum, i, m) vec_add(sum, vec_load(t, n->in, at + (i), m))
            ROW_SUM(mean, cols, TERM);
#undef TERM
            mean /= (float)cols;
            n->mean[row] = mean;
        }
        vec centre = vec_set(mean);
#define TERM(sum, i, m) add_square(sum, vec_load(t, n->in, at + (i), m), centre, m)
        ROW_SUM(square, cols, TERM);
#undef TERM
        float rstd = 1.0f / __builtin_sqrtf(square / (float)cols + n->d->eps);
        n->rstd[row] = rstd;
        vec scale = vec_set(rstd);
        VEC_FOR(i, m, 0, cols, {
            vec xhat = vec_mul(vec_sub(vec_load(t, n->in, at + i, m), centre), scale);
            vec gamma = vec_load(t, n->gamma, i, m);
            vec y = n->beta ? vec_fma(xhat, gamma, vec_load(t, n->beta, i, m)) : vec_mul(xhat, gamma);
            vec_stream(n->past, t, n->out, at + i, m, y);
        });
    }
}
OPS_PER_DTYPE(norm_fwd)

/* One row: its share of dgamma and dbeta into the partials, and din. */
VEC_INLINE void norm_bwd_row(const struct norm *n, int64_t row, float *dgamma, float *dbeta, weft_dtype t) {
    int64_t cols = n->d->cols, at = row * cols;
    int layer = n->d->kind == WEFT_NORM_LAYER;
    vec mean = vec_set(layer ? n->mean_in[row] : 0.0f), rstd = vec_set(n->rstd_in[row]);
    vec sum_g = vec_zero(), sum_gx = vec_zero(), sum_g2 = vec_zero(), sum_gx2 = vec_zero();
    int64_t pair = 0; /* even vectors into one accumulator, odd ones into the other */
    VEC_FOR(i, m, 0, cols, {
        vec dy = vec_load(t, n->dout, at + i, m);
        vec xhat = keep_first(vec_mul(vec_sub(vec_load(t, n->in, at + i, m), mean), rstd), m);
        vec g = vec_mul(dy, vec_load(t, n->gamma, i, m));
        vec_store_f32(dgamma + i, m, vec_fma(dy, xhat, vec_load_f32(dgamma + i, m)));
        if (dbeta) vec_store_f32(dbeta + i, m, vec_add(dy, vec_load_f32(dbeta + i, m)));
        if (pair++ % 2 == 0) {
            sum_g = vec_add(sum_g, g);
            sum_gx = vec_fma(g, xhat, sum_gx);
        } else {
            sum_g2 = vec_add(sum_g2, g);
            sum_gx2 = vec_fma(g, xhat, sum_gx2);
        }
    });
    vec mean_g = vec_set(layer ? vec_sum(vec_add(sum_g, sum_g2)) / (float)cols : 0.0f);
    vec mean_gx = vec_set(vec_sum(vec_add(sum_gx, sum_gx2)) / (float)cols);
    VEC_FOR(i, m, 0, cols, {
        vec xhat = vec_mul(vec_sub(vec_load(t, n->in, at + i, m), mean), rstd);
        vec g = vec_mul(vec_load(t, n->dout, at + i, m), vec_load(t, n->gamma, i, m));
        vec dx = vec_mul(rstd, vec_fnma(xhat, mean_gx, vec_sub(g, mean_g)));
        if (n->dres) dx = vec_add(dx, vec_load(t, n->dres, at + i, m));
        vec_stream(n->past, t, n->out, at + i, m, dx);
    });
}

/* Blocks [begin, end) of 64 rows. */
VEC_INLINE void norm_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct norm *n = arg;
    int64_t cols = n->d->cols;
    for (int64_t block = begin; block < end; block++) {
        float *dgamma = n->partial + block * 2 * cols, *dbeta = n->dbeta ? dgamma + cols : NULL;
        int64_t last = (block + 1) * OPS_NORM_BLOCK < n->d->rows ? (block + 1) * OPS_NORM_BLOCK : n->d->rows;
        memset(dgamma, 0, (size_t)cols * 2 * sizeof(float));
        for (int64_t row = block * OPS_NORM_BLOCK; row < last; row++) norm_bwd_row(n, row, dgamma, dbeta, t);
    }
}
OPS_PER_DTYPE(norm_bwd)

/* Columns [begin, end): the blocks in a pairwise tree, in place, then into dgamma and dbeta. */
static void norm_combine(void *arg, int64_t begin, int64_t end) {
    const struct norm *n = arg;
    int64_t cols = n->d->cols, blocks = ops_ceil_div(n->d->rows, OPS_NORM_BLOCK);
    for (int part = 0; part < (n->dbeta ? 2 : 1); part++) {
        float *sums = n->partial + part * cols, *total = part ? n->dbeta : n->dgamma;
        for (int64_t step = 1; step < blocks; step *= 2)
            for (int64_t b = 0; b + step < blocks; b += 2 * step) {
                float *left = sums + b * 2 * cols, *right = left + step * 2 * cols;
                VEC_FOR(i, m, begin, end, {
                    vec_store_f32(left + i, m,
                                  vec_add(vec_load_f32(left + i, m), vec_load_f32(right + i, m)));
                });
            }
        VEC_FOR(i, m, begin, end, {
            vec_store_f32(total + i, m, vec_add(vec_load_f32(total + i, m), vec_load_f32(sums + i, m)));
        });
    }
}

static weft_status op_norm_fwd(weft_exec *x, const weft_norm_desc *d, const void *in, const void *gamma,
                               const void *beta, void *out, float *mean, float *rstd) {
    struct norm n = {.d = d, .in = in, .gamma = gamma, .beta = beta, .out = out, .mean = mean, .rstd = rstd};
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_fwd", in && gamma && out && rstd && (mean || d->kind == WEFT_NORM_RMS)));
    size_t row = (size_t)d->cols * weft_dtype_size(d->t);
    n.past = in != out && ops_streams(x, 2.0 * (double)d->rows * (double)row, out, row);
    ops_for(x, d->rows, 1, ops_rows(d->cols), norm_fwd_of(d->t), &n);
    return WEFT_OK;
}

static weft_status op_norm_bwd(weft_exec *x, const weft_norm_desc *d, const void *dout, const void *in,
                               const void *gamma, const float *mean, const float *rstd, const void *dres,
                               void *din, float *dgamma, float *dbeta) {
    WEFT_TRY(weft_check_norm(d));
    if (d->rows == 0) return WEFT_OK;
    WEFT_TRY(weft_check_given("norm_bwd", dout && in && gamma && rstd && din && dgamma &&
                                              (mean || d->kind == WEFT_NORM_RMS)));
    WEFT_TRY_CTX(cpu_need_scratch(x, ops_norm_bwd_scratch(d)), "norm_bwd");
    struct norm n = {.d = d, .in = in, .gamma = gamma, .dout = dout, .dres = dres, .out = din};
    n.mean_in = mean;
    n.rstd_in = rstd;
    n.partial = x->scratch;
    n.dgamma = dgamma;
    n.dbeta = dbeta;
    size_t row = (size_t)d->cols * weft_dtype_size(d->t);
    n.past = din != dres && din != in && din != dout &&
             ops_streams(x, (dres ? 4.0 : 3.0) * (double)d->rows * (double)row, din, row);
    int64_t blocks = ops_ceil_div(d->rows, OPS_NORM_BLOCK);
    ops_for(x, blocks, 1, ops_ceil_div(ops_rows(d->cols), OPS_NORM_BLOCK), norm_bwd_of(d->t), &n);
    ops_for(x, d->cols, 64, ops_ceil_div(OPS_BLOCK, blocks), norm_combine, &n);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_norm)(struct weft_ops *t) {
    t->norm_fwd = op_norm_fwd;
    t->norm_bwd = op_norm_bwd;
}
