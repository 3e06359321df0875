/* The optimiser's passes: AdamW in one pass, and the norms of gradients.
 *
 * sumsq and absmax: a block is 16384 elements; chunks of 2^k blocks, at most 64 of them, are shared out.
 * Inside a chunk and then over the chunks the block sums are added in pairs, an odd one carried up. As chunks
 * hold a power of two of blocks, this is the pairwise tree over all blocks, whatever k: n alone decides the
 * bits. Source of AdamW: Loshchilov & Hutter 2019. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/vmath.h"

#define SUM_BLOCK  16384
#define SUM_CHUNKS 64

struct adamw {
    const weft_adamw_desc *d;
    float *master, *m, *v;
    const float *g;
    uint16_t *w;
    float clip;
};

static void adamw(void *arg, int64_t begin, int64_t end) {
    const struct adamw *a = arg;
    const weft_adamw_desc *d = a->d;
    vec clip = vec_set(a->clip), beta1 = vec_set(d->beta1), beta2 = vec_set(d->beta2);
    vec rest1 = vec_set(1.0f - d->beta1), rest2 = vec_set(1.0f - d->beta2);
    vec unbias1 = vec_set(1.0f / d->bias1), unbias2 = vec_set(1.0f / d->bias2);
    vec lr = vec_set(d->lr), eps = vec_set(d->eps), decay = vec_set(d->weight_decay);
    VEC_FOR(i, n, begin, end, {
        vec g = vec_mul(clip, vec_load_f32(a->g + i, n)), p = vec_load_f32(a->master + i, n);
        vec m = vec_fma(beta1, vec_load_f32(a->m + i, n), vec_mul(rest1, g));
        vec v = vec_fma(beta2, vec_load_f32(a->v + i, n), vec_mul(rest2, vec_mul(g, g)));
        vec size = vec_add(vec_sqrt(vec_mul(v, unbias2)), eps);
        vec step = vec_fma(decay, p, vec_div(vec_mul(m, unbias1), size));
        p = vec_fnma(lr, step, p);
        vec_store_f32(a->m + i, n, m);
        vec_store_f32(a->v + i, n, v);
        vec_store_f32(a->master + i, n, p);
        if (a->w) vec_store_bf16(a->w + i, n, p);
    });
}

static weft_status op_adamw(weft_exec *x, const weft_adamw_desc *d, float *master, float *m, float *v,
                            const float *g, uint16_t *w, const float *clip, const uint32_t *skip) {
    WEFT_TRY(weft_check_adamw(d));
    WEFT_TRY(weft_check_given("adamw", clip && skip && (d->n == 0 || (master && m && v && g))));
    if (*skip) return WEFT_OK;
    struct adamw a = {d, master, m, v, g, w, *clip};
    ops_elements(x, (int64_t)d->n, (w ? 30.0 : 28.0) * (double)d->n, adamw, &a);
    return WEFT_OK;
}

struct outer {
    const weft_outer_desc *d;
    const float *delta;
    float *v, *theta;
};

static void outer(void *arg, int64_t begin, int64_t end) {
    const struct outer *o = arg;
    vec mu = vec_set(o->d->mu), eta = vec_set(o->d->eta);
    VEC_FOR(i, m, begin, end, {
        vec x = vec_load_f32(o->delta + i, m), v = vec_fma(mu, vec_load_f32(o->v + i, m), x);
        vec_store_f32(o->v + i, m, v);
        vec_store_f32(o->theta + i, m, vec_fnma(eta, vec_fma(mu, v, x), vec_load_f32(o->theta + i, m)));
    });
}

static weft_status op_outer_step(weft_exec *x, const weft_outer_desc *d, const float *delta, float *v,
                                 float *theta) {
    WEFT_TRY(weft_check_outer(d, delta, v, theta));
    struct outer o = {d, delta, v, theta};
    ops_elements(x, (int64_t)d->n, 20.0 * (double)d->n, outer, &o);
    return WEFT_OK;
}

struct fold {
    const float *v;
    int64_t n, chunk; /* elements of a chunk: SUM_BLOCK * 2^k */
    double sum[SUM_CHUNKS];
    uint32_t max[SUM_CHUNKS];
};

static double block_sumsq(const float *v, int64_t n) {
    vec s = vec_zero();
    VEC_FOR(i, m, 0, n, {
        vec a = vec_load_f32(v + i, m);
        s = vec_fma(a, a, s);
    });
    return vec_sum(s);
}

/* Four whole blocks side by side: a core reads faster from four places than from one. */
static void blocks_sumsq(const float *v, double sum[4]) {
    vec s[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    for (int64_t i = 0; i < SUM_BLOCK; i += 4 * VEC_LANES)
        for (int b = 0; b < 4; b++)
            for (int64_t j = i; j < i + 4 * VEC_LANES; j += VEC_LANES) {
                vec a = vec_load_f32(v + b * SUM_BLOCK + j, VEC_LANES);
                s[b] = vec_fma(a, a, s[b]);
            }
    for (int b = 0; b < 4; b++) sum[b] = vec_sum(s[b]);
}

/* The pairwise tree over blocks, like a binary counter: pending[l] is the sum of a finished subtree of 2^l
 * blocks. What is left at the end is carried up from the smallest to the largest. */
struct tree {
    double pending[64];
    uint64_t filled;
};
static void tree_add(struct tree *t, double s) {
    int level = 0;
    for (; t->filled >> level & 1; level++) s = t->pending[level] + s;
    t->pending[level] = s;
    t->filled++;
}
static double tree_total(const struct tree *t) {
    double total = 0;
    int any = 0;
    for (int level = 0; level < 64; level++)
        if (t->filled >> level & 1) {
            total = any ? t->pending[level] + total : t->pending[level];
            any = 1;
        }
    return total;
}

static double tree_sumsq(const float *v, int64_t n) {
    struct tree t = {.filled = 0};
    int64_t at = 0;
    for (; at + 4 * SUM_BLOCK <= n; at += 4 * SUM_BLOCK) {
        double sum[4];
        blocks_sumsq(v + at, sum);
        for (int b = 0; b < 4; b++) tree_add(&t, sum[b]);
    }
    for (; at < n; at += SUM_BLOCK)
        tree_add(&t, block_sumsq(v + at, n - at < SUM_BLOCK ? n - at : SUM_BLOCK));
    return tree_total(&t);
}

static void sumsq_chunks(void *arg, int64_t begin, int64_t end) {
    struct fold *f = arg;
    for (int64_t c = begin; c < end; c++) {
        int64_t at = c * f->chunk;
        f->sum[c] = tree_sumsq(f->v + at, f->n - at < f->chunk ? f->n - at : f->chunk);
    }
}

struct blocks {
    const float *v;
    int64_t n;
    double *sum;
};
static void sumsq_each(void *arg, int64_t begin, int64_t end) {
    const struct blocks *f = arg;
    int64_t b = begin;
    for (; b + 4 <= end && (b + 4) * SUM_BLOCK <= f->n; b += 4)
        blocks_sumsq(f->v + b * SUM_BLOCK, f->sum + b);
    for (; b < end; b++) {
        const int64_t left = f->n - b * SUM_BLOCK;
        f->sum[b] = block_sumsq(f->v + b * SUM_BLOCK, left < SUM_BLOCK ? left : SUM_BLOCK);
    }
}

static weft_status op_sumsq_blocks(weft_exec *x, size_t n, const float *v, double *sums) {
    WEFT_TRY(weft_check_given("sumsq_blocks", n == 0 || (v && sums)));
    struct blocks f = {v, (int64_t)n, sums};
    ops_for(x, ops_ceil_div(f.n, SUM_BLOCK), 4, 4, sumsq_each, &f);
    return WEFT_OK;
}

/* The bits of |v| as integers order like |v|, and NaN above infinity. */
VEC_INLINE veci larger(veci best, const float *v, int m) {
    return veci_max(best, vec_bits(vec_abs(vec_load_f32(v, m))));
}
static void absmax_chunks(void *arg, int64_t begin, int64_t end) {
    struct fold *f = arg;
    for (int64_t c = begin; c < end; c++) {
        int64_t at = c * f->chunk, last = f->n - at < f->chunk ? f->n : at + f->chunk;
        veci best = veci_set(0), four[4] = {best, best, best, best};
        for (; at + 4 * SUM_BLOCK <= last; at += 4 * SUM_BLOCK) /* four places, as above */
            for (int64_t i = 0; i < SUM_BLOCK; i += 4 * VEC_LANES)
                for (int b = 0; b < 4; b++)
                    for (int64_t j = i; j < i + 4 * VEC_LANES; j += VEC_LANES)
                        four[b] = larger(four[b], f->v + at + b * SUM_BLOCK + j, VEC_LANES);
        VEC_FOR(i, m, at, last, { best = larger(best, f->v + i, m); });
        for (int b = 0; b < 4; b++) best = veci_max(best, four[b]);
        float lanes[VEC_LANES];
        uint32_t bits[VEC_LANES], max = 0;
        vec_store_f32(lanes, VEC_LANES, vec_of_bits(best));
        memcpy(bits, lanes, sizeof bits);
        for (int l = 0; l < VEC_LANES; l++) max = bits[l] > max ? bits[l] : max;
        f->max[c] = max;
    }
}

/* Chunks of the smallest power of two of blocks that makes at most SUM_CHUNKS of them. Returns their number.
 */
static int64_t fold_plan(struct fold *f, const float *v, size_t n) {
    f->v = v;
    f->n = (int64_t)n;
    f->chunk = SUM_BLOCK;
    while (ops_ceil_div(f->n, f->chunk) > SUM_CHUNKS) f->chunk *= 2;
    return ops_ceil_div(f->n, f->chunk);
}

static weft_status op_sumsq(weft_exec *x, size_t n, const float *v, double *out) {
    struct fold f;
    WEFT_TRY(weft_check_given("sumsq", out && (n == 0 || v)));
    int64_t chunks = fold_plan(&f, v, n);
    ops_for(x, chunks, 1, 1, sumsq_chunks, &f);
    for (int64_t left = chunks; left > 1; left = (left + 1) / 2)
        for (int64_t i = 0; i < left; i += 2)
            f.sum[i / 2] = i + 1 < left ? f.sum[i] + f.sum[i + 1] : f.sum[i];
    *out = chunks ? f.sum[0] : 0.0;
    return WEFT_OK;
}

static weft_status op_absmax(weft_exec *x, size_t n, const float *v, float *out) {
    struct fold f;
    uint32_t max = 0;
    WEFT_TRY(weft_check_given("absmax", out && (n == 0 || v)));
    int64_t chunks = fold_plan(&f, v, n);
    ops_for(x, chunks, 1, 1, absmax_chunks, &f);
    for (int64_t i = 0; i < chunks; i++) max = f.max[i] > max ? f.max[i] : max;
    memcpy(out, &max, sizeof *out);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_optim)(struct weft_ops *t) {
    t->adamw = op_adamw;
    t->outer_step = op_outer_step;
    t->sumsq = op_sumsq;
    t->sumsq_blocks = op_sumsq_blocks;
    t->absmax = op_absmax;
}
