/* attn_merge: what queries found in some keys and what they found in others, as one.
 *
 * With a >= b the two lse of a row and e = exp(b - a): the larger one's o weighs 1 / (1 + e), the other's e / (1 + e),
 * and the new lse is a + log(1 + e): no difference of large numbers, no overflow. A row is one item; rows go in the
 * order of memory. Source: Liu et al., Ring Attention, 2023; Milakov & Gimelshein, online softmax, 2018. */
#include "kernels/cpu/ops.h"
#include "kernels/cpu/vmath.h"

struct merge {
    const weft_attn_desc *d;
    const void *o;
    const float *lse;
    float *sum, *sum_lse;
    int begin;
};

VEC_INLINE void merge_row(const struct merge *a, int64_t at, float lse, float *sum_lse, weft_dtype t) {
    const int64_t hd = a->d->hd;
    float *sum = a->sum + at;
    if (a->begin || *sum_lse == -__builtin_inff()) { /* o is 0 where lse is -inf too */
        VEC_FOR(c, m, 0, hd, { vec_store_f32(sum + c, m, vec_load(t, a->o, at + c, m)); });
        *sum_lse = lse;
        return;
    }
    if (lse == -__builtin_inff()) return;
    const int larger = lse > *sum_lse;
    const float high = larger ? lse : *sum_lse, low = larger ? *sum_lse : lse;
    const vec e = vec_exp(vec_set(low - high)), all = vec_add(vec_set(1.0f), e);
    const vec most = vec_div(vec_set(1.0f), all), rest = vec_mul(e, most);
    const vec new = larger ? most : rest, old = larger ? rest : most;
    VEC_FOR(c, m, 0, hd, {
        const vec kept = vec_mul(old, vec_load_f32(sum + c, m));
        vec_store_f32(sum + c, m, vec_fma(new, vec_load(t, a->o, at + c, m), kept));
    });
    *sum_lse = vec_first(vec_add(vec_set(high), vec_log(all)));
}

VEC_INLINE void merge(void *arg, int64_t begin, int64_t end, weft_dtype t) {
    const struct merge *a = arg;
    const weft_attn_desc *d = a->d;
    for (int64_t item = begin; item < end; item++) {
        const int64_t head = item % d->hq, i = item / d->hq % d->tq, b = item / d->hq / d->tq;
        const int64_t row = (b * d->hq + head) * d->tq + i;
        merge_row(a, b * d->so[0] + i * d->so[1] + head * d->so[2], a->lse[row], &a->sum_lse[row], t);
    }
}
OPS_PER_DTYPE(merge)

static weft_status op_attn_merge(weft_exec *x, const weft_attn_desc *d, int begin, const void *o,
                                 const float *lse, float *sum, float *sum_lse) {
    struct merge a = {d, o, lse, sum, sum_lse, begin};
    WEFT_TRY(weft_check_attn_merge(d, begin, o, lse, sum, sum_lse));
    ops_for(x, (int64_t)d->batch * d->tq * d->hq, 1, ops_rows(d->hd), merge_of(d->t), &a);
    return WEFT_OK;
}

void CPU_NAME(ops_fill_attention_merge)(struct weft_ops *t) {
    t->attn_merge = op_attn_merge;
}
