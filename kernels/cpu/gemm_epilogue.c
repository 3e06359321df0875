/* What happens to a tile of fp32 sums before it is stored, 16 columns at a time (order: weft_epilogue). */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ukr.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vmath.h"

/* Row m, columns n to n + count of C; ta, tc: the dtypes of the operands and of C, constants at every call.
 */
VEC_INLINE vec epilogue(const weft_epilogue *e, weft_dtype ta, weft_dtype tc, int64_t m, int64_t n, int count,
                        vec v) {
    if (e->scale != 0.0f && e->scale != 1.0f) v = vec_mul(v, vec_set(e->scale));
    if (e->act_bwd) return vec_mul(v, vec_gelu_grad(vec_load(tc, e->act_bwd, m * e->ldp + n, count)));
    if (e->bias) v = vec_add(v, vec_load(ta, e->bias, n, count));
    if (e->pre) vec_store(tc, e->pre, m * e->ldp + n, count, v);
    if (e->act == WEFT_ACT_GELU) v = vec_gelu(v);
    if (e->residual) v = vec_add(v, vec_load(tc, e->residual, m * e->ldr + n, count));
    return v;
}

VEC_INLINE void finish(const struct cpu_gemm_out *o, weft_dtype ta, weft_dtype tc, int64_t row, int64_t col,
                       int rows, int cols, const float *tile, float *partial, int64_t ldp, int add,
                       int last) {
    for (int i = 0; i < rows; i++, tile += CPU_NR, partial += partial ? ldp : 0)
        VEC_FOR(j, count, 0, cols, {
            vec v = vec_load_f32(tile + j, count);
            if (add) v = vec_add(vec_load_f32(partial + j, count), v);
            if (!last) {
                vec_store_f32(partial + j, count, v);
            } else {
                if (o->e) v = epilogue(o->e, ta, tc, row + i, col + j, count, v);
                vec_store(tc, o->c, (row + i) * o->d->ldc + col + j, count, v);
            }
        });
}

void CPU_NAME(cpu_gemm_finish)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows, int cols,
                               const float *tile, float *partial, int64_t ldp, int add, int last) {
    if (o->d->a == WEFT_F32)
        finish(o, WEFT_F32, WEFT_F32, row, col, rows, cols, tile, partial, ldp, add, last);
    else if (o->d->c == WEFT_F32)
        finish(o, WEFT_BF16, WEFT_F32, row, col, rows, cols, tile, partial, ldp, add, last);
    else
        finish(o, WEFT_BF16, WEFT_BF16, row, col, rows, cols, tile, partial, ldp, add, last);
}

/* Gate or up, columns n on: what comes before the gate. */
VEC_INLINE vec gated_part(const weft_epilogue *e, weft_dtype ta, weft_dtype tc, int64_t m, int64_t n,
                          int count, vec v) {
    if (!e) return v;
    if (e->scale != 0.0f && e->scale != 1.0f) v = vec_mul(v, vec_set(e->scale));
    if (e->bias) v = vec_add(v, vec_load(ta, e->bias, n, count));
    if (e->pre) vec_store(tc, e->pre, m * e->ldp + n, count, v);
    return v;
}

VEC_INLINE void finish_gated(const struct cpu_gemm_out *o, weft_dtype ta, weft_dtype tc, int64_t row,
                             int64_t col, int rows, int cols, const float *gate, const float *up) {
    const weft_epilogue *e = o->e;
    const int64_t half = o->d->n / 2;
    for (int64_t m = row; m < row + rows; m++, gate += CPU_NR, up += CPU_NR)
        VEC_FOR(j, count, 0, cols, {
            vec g = gated_part(e, ta, tc, m, col + j, count, vec_load_f32(gate + j, count));
            vec u = gated_part(e, ta, tc, m, half + col + j, count, vec_load_f32(up + j, count));
            vec v = vec_mul(vec_div(g, vec_add(vec_set(1.0f), vec_exp(vec_neg(g)))), u);
            if (e && e->residual) v = vec_add(v, vec_load(tc, e->residual, m * e->ldr + col + j, count));
            vec_store(tc, o->c, m * o->d->ldc + col + j, count, v);
        });
}

void CPU_NAME(cpu_gemm_finish_gated)(const struct cpu_gemm_out *o, int64_t row, int64_t col, int rows,
                                     int cols, const float *gate, const float *up) {
    if (o->d->a == WEFT_F32)
        finish_gated(o, WEFT_F32, WEFT_F32, row, col, rows, cols, gate, up);
    else if (o->d->c == WEFT_F32)
        finish_gated(o, WEFT_BF16, WEFT_F32, row, col, rows, cols, gate, up);
    else
        finish_gated(o, WEFT_BF16, WEFT_BF16, row, col, rows, cols, gate, up);
}
