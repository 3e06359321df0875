/* Element-wise ops of the model: GELU, SwiGLU and rope, forward and backward.
 *
 * Each op is one function over a range, with the dtype as a constant argument; OPS_PER_DTYPE makes the two
 * versions. Formulas and shapes: kernels.h; mathematics: vmath.h. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/stream.h"
#include "kernels/cpu/vmath.h"

struct act {
    const void *dout, *in;
    void *out;
    int64_t cols;
    int past; /* out goes past the caches */
};

VEC_INLINE void gelu_fwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct act *a = arg;
    VEC_FOR(i, m, begin, end, { vec_stream(a->past, t, a->out, i, m, vec_gelu(vec_load(t, a->in, i, m))); });
}
OPS_PER_DTYPE(gelu_fwd)

VEC_INLINE void gelu_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct act *a = arg;
    VEC_FOR(i, m, begin, end, {
        vec slope = vec_gelu_grad(vec_load(t, a->in, i, m));
        vec_stream(a->past, t, a->out, i, m, vec_mul(vec_load(t, a->dout, i, m), slope));
    });
}
OPS_PER_DTYPE(gelu_bwd)

/* in [rows, 2 cols] = gate | up; out = gate sigmoid(gate) up */
VEC_INLINE void swiglu_fwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct act *a = arg;
    for (int64_t row = begin; row < end; row++) {
        int64_t gate_at = row * 2 * a->cols, up_at = gate_at + a->cols, out_at = row * a->cols;
        VEC_FOR(i, m, 0, a->cols, {
            vec gate = vec_load(t, a->in, gate_at + i, m), up = vec_load(t, a->in, up_at + i, m);
            vec silu = vec_div(gate, vec_add(vec_set(1.0f), vec_exp(vec_neg(gate))));
            vec_stream(a->past, t, a->out, out_at + i, m, vec_mul(silu, up));
        });
    }
}
OPS_PER_DTYPE(swiglu_fwd)

/* s = sigmoid(gate): dup = dout gate s, dgate = dout up s (1 + gate (1 - s)) */
VEC_INLINE void swiglu_bwd(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct act *a = arg;
    vec one = vec_set(1.0f);
    for (int64_t row = begin; row < end; row++) {
        int64_t gate_at = row * 2 * a->cols, up_at = gate_at + a->cols, out_at = row * a->cols;
        VEC_FOR(i, m, 0, a->cols, {
            vec gate = vec_load(t, a->in, gate_at + i, m), up = vec_load(t, a->in, up_at + i, m);
            vec s = vec_sigmoid(gate), dy_s = vec_mul(vec_load(t, a->dout, out_at + i, m), s);
            vec slope = vec_fma(gate, vec_sub(one, s), one);
            vec_stream(a->past, t, a->out, gate_at + i, m, vec_mul(vec_mul(dy_s, up), slope));
            vec_stream(a->past, t, a->out, up_at + i, m, vec_mul(dy_s, gate));
        });
    }
}
OPS_PER_DTYPE(swiglu_bwd)

struct rope {
    const weft_rope_desc *d;
    const int32_t *pos;
    const float *table;
    void *v;
};

VEC_INLINE void rope(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct rope *r = arg;
    int64_t hd = r->d->hd, half = hd / 2;
    for (int64_t token = begin; token < end; token++) {
        const float *cosine = r->table + r->pos[token] * hd, *sine = cosine + half;
        for (int64_t head = 0; head < r->d->heads; head++) {
            int64_t lo = token * r->d->token_stride + head * hd, hi = lo + half;
            VEC_FOR(i, m, 0, half, {
                vec a = vec_load(t, r->v, lo + i, m), b = vec_load(t, r->v, hi + i, m);
                vec c = vec_load_f32(cosine + i, m), s = vec_load_f32(sine + i, m);
                if (r->d->inverse) s = vec_neg(s);
                vec_store(t, r->v, lo + i, m, vec_fnma(b, s, vec_mul(a, c)));
                vec_store(t, r->v, hi + i, m, vec_fma(a, s, vec_mul(b, c)));
            });
        }
    }
}
OPS_PER_DTYPE(rope)

static weft_status op_gelu_fwd(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out) {
    struct act arg = {.in = a, .out = out};
    WEFT_TRY(weft_check_model_dtype("gelu_fwd", t));
    WEFT_TRY(weft_check_given("gelu_fwd", n == 0 || (a && out)));
    double bytes = 2.0 * (double)n * (double)weft_dtype_size(t);
    arg.past = a != out && ops_streams(x, bytes, out, 0);
    ops_elements(x, (int64_t)n, bytes, gelu_fwd_of(t), &arg);
    return WEFT_OK;
}

static weft_status op_gelu_bwd(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a,
                               void *da) {
    struct act arg = {.dout = dout, .in = a, .out = da};
    WEFT_TRY(weft_check_model_dtype("gelu_bwd", t));
    WEFT_TRY(weft_check_given("gelu_bwd", n == 0 || (dout && a && da)));
    double bytes = 3.0 * (double)n * (double)weft_dtype_size(t);
    arg.past = da != a && da != dout && ops_streams(x, bytes, da, 0);
    ops_elements(x, (int64_t)n, bytes, gelu_bwd_of(t), &arg);
    return WEFT_OK;
}

static weft_status op_swiglu_fwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu,
                                 void *out) {
    struct act arg = {.in = gu, .out = out, .cols = cols};
    WEFT_TRY(weft_check_model_dtype("swiglu_fwd", t));
    WEFT_TRY(weft_check_extent("swiglu_fwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_fwd", rows == 0 || cols == 0 || (gu && out)));
    size_t row = (size_t)cols * weft_dtype_size(t);
    arg.past = ops_streams(x, 3.0 * (double)rows * (double)row, out, row);
    ops_for(x, rows, 1, ops_rows(cols), swiglu_fwd_of(t), &arg);
    return WEFT_OK;
}

static weft_status op_swiglu_bwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *dout,
                                 const void *gu, void *dgu) {
    struct act arg = {.dout = dout, .in = gu, .out = dgu, .cols = cols};
    WEFT_TRY(weft_check_model_dtype("swiglu_bwd", t));
    WEFT_TRY(weft_check_extent("swiglu_bwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_bwd", rows == 0 || cols == 0 || (dout && gu && dgu)));
    size_t row = (size_t)cols * weft_dtype_size(t);
    arg.past = dgu != gu && ops_streams(x, 5.0 * (double)rows * (double)row, dgu, row);
    ops_for(x, rows, 1, ops_rows(cols), swiglu_bwd_of(t), &arg);
    return WEFT_OK;
}

static weft_status op_rope(weft_exec *x, const weft_rope_desc *d, const int32_t *pos, const float *cos_sin,
                           void *v) {
    struct rope arg = {d, pos, cos_sin, v};
    WEFT_TRY(weft_check_rope(d, pos, cos_sin, v));
    ops_for(x, d->tokens, 1, ops_rows((int64_t)d->heads * d->hd), rope_of(d->t), &arg);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_activation)(struct weft_ops *t) {
    t->gelu_fwd = op_gelu_fwd;
    t->gelu_bwd = op_gelu_bwd;
    t->swiglu_fwd = op_swiglu_fwd;
    t->swiglu_bwd = op_swiglu_bwd;
    t->rope = op_rope;
}
