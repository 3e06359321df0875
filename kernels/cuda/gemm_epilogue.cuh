/* What happens to the sums of a product before they are stored: the one definition for all providers (kernels.h,
 * weft_epilogue, says what it is). A kernel holds sums in registers, two neighbours of a row at a time, and gives them to
 *   epi_store2           plain: columns n and n+1, n even, of row m; columns past the end are left out
 *   epi_store_gated2     gated: gate and up of the columns n and n+1 of C
 * or, when it stores C by other means (TMA), to epi_value2 / epi_gated2, which do everything but that last store.
 * Rows are the caller's to check.
 *
 * A gated kernel holds gate and up of a column in one thread: it interleaves the columns of op(B) as it loads them. */
#ifndef WEFT_KERNELS_CUDA_GEMM_EPILOGUE_CUH
#define WEFT_KERNELS_CUDA_GEMM_EPILOGUE_CUH

#include "kernels/cuda/gelu.cuh"

/* By value to kernels. NULL and 0 leave a step out. */
struct gemm_epi {
    void *c;
    const void *bias, *act_bwd, *residual;
    void *pre;
    int64_t n, ldc, ldp, ldr;  /* n: columns of the sums; gated: gate and up */
    float scale;               /* 1: none */
    uint8_t in_bf16, out_bf16; /* bias; C, pre, act_bwd and residual */
    uint8_t add, gelu, gated;  /* add: C is added to */
    uint8_t pairs; /* two neighbours that begin at an even column are one aligned access, everywhere */
};

static inline int epi_even(const void *p, int64_t ld, size_t pair) {
    return !p || ((uintptr_t)p % pair == 0 && ld % 2 == 0);
}

/* Of a checked call; e may be NULL. col_sum is not part of it. */
static inline gemm_epi epi_of(const weft_gemm_desc *d, void *c, const weft_epilogue *e) {
    gemm_epi p;
    memset(&p, 0, sizeof p);
    p.c = c;
    p.n = d->n;
    p.ldc = d->ldc;
    p.scale = e && e->scale != 0.0f ? e->scale : 1.0f;
    p.in_bf16 = d->a == WEFT_BF16;
    p.out_bf16 = d->c == WEFT_BF16;
    p.add = d->beta;
    p.gated = d->gated;
    if (e) {
        p.bias = e->bias;
        p.pre = e->pre;
        p.act_bwd = e->act_bwd;
        p.residual = e->residual;
        p.ldp = e->ldp;
        p.ldr = e->ldr;
        p.gelu = e->act == WEFT_ACT_GELU;
    }
    const size_t pair = p.out_bf16 ? 4 : 8;
    p.pairs = epi_even(c, p.ldc, pair) && epi_even(p.pre, p.ldp, pair) && epi_even(p.act_bwd, p.ldp, pair) &&
              epi_even(p.residual, p.ldr, pair) && (!d->gated || d->n / 2 % 2 == 0);
    return p;
}

#ifdef __CUDACC__
#define EPI static __device__ __forceinline__
#else
#define EPI static inline
#endif

/* Elements `at` and, if both, at + 1; as one access if pairs (at is even then). */
EPI float2 epi_load2(const void *p, int bf16, int pairs, int64_t at, int both) {
    float2 v = make_float2(0.0f, 0.0f);
    if (bf16) {
        const uint16_t *h = (const uint16_t *)p + at;
        if (both && pairs) return unpack2(*(const uint32_t *)h);
        v.x = f32_of(h[0]);
        if (both) v.y = f32_of(h[1]);
    } else {
        const float *f = (const float *)p + at;
        if (both && pairs) return *(const float2 *)f;
        v.x = f[0];
        if (both) v.y = f[1];
    }
    return v;
}

EPI void epi_put2(void *p, int bf16, int pairs, int64_t at, int both, float2 v) {
    if (bf16) {
        uint16_t *h = (uint16_t *)p + at;
        const uint32_t two = pack2(v.x, v.y);
        if (both && pairs) {
            *(uint32_t *)h = two;
            return;
        }
        h[0] = (uint16_t)two;
        if (both) h[1] = (uint16_t)(two >> 16);
    } else {
        float *f = (float *)p + at;
        if (both && pairs) {
            *(float2 *)f = v;
            return;
        }
        f[0] = v.x;
        if (both) f[1] = v.y;
    }
}

EPI float2 epi_add(float2 v, float2 w) {
    return make_float2(v.x + w.x, v.y + w.y);
}

/* The sums v of columns n, n + 1 of row m (n < e.n) up to and with the pre-activation, which is stored. */
EPI float2 epi_pre2(const gemm_epi &e, int64_t m, int64_t n, int both, float2 v) {
    v.x *= e.scale;
    v.y *= e.scale;
    if (e.bias) v = epi_add(v, epi_load2(e.bias, e.in_bf16, 0, n, both));
    if (e.pre) epi_put2(e.pre, e.out_bf16, e.pairs, m * e.ldp + n, both, v);
    return v;
}

/* What the steps read beside the sums; 0 where a step is left out. */
struct epi_reads {
    float2 c, bias, beside; /* beside: of act_bwd or residual, which exclude each other */
};
/* Of row m, columns n and n + 1 < e.n. Apart from what follows, so that a kernel can have many reads under way. */
EPI epi_reads epi_read2(const gemm_epi &e, int64_t m, int64_t n) {
    const int both = n + 1 < e.n;
    epi_reads r;
    r.c = r.bias = r.beside = make_float2(0.0f, 0.0f);
    if (e.add) r.c = epi_load2(e.c, e.out_bf16, e.pairs, m * e.ldc + n, both);
    if (e.bias) r.bias = epi_load2(e.bias, e.in_bf16, 0, n, both);
    if (e.act_bwd) r.beside = epi_load2(e.act_bwd, e.out_bf16, e.pairs, m * e.ldp + n, both);
    if (e.residual) r.beside = epi_load2(e.residual, e.out_bf16, e.pairs, m * e.ldr + n, both);
    return r;
}
/* All of it but the stores; *pre: the pre-activation. */
EPI float2 epi_apply2(const gemm_epi &e, const epi_reads &r, float2 v, float2 *pre) {
    if (e.add) v = epi_add(v, r.c);
    v.x *= e.scale;
    v.y *= e.scale;
    if (e.bias) v = epi_add(v, r.bias);
    *pre = v;
    if (e.act_bwd) v = make_float2(v.x * gelu_slope(r.beside.x), v.y * gelu_slope(r.beside.y));
    if (e.gelu) v = make_float2(gelu_of(v.x), gelu_of(v.y));
    if (e.residual) v = epi_add(v, r.beside);
    return v;
}
EPI void epi_put_pre2(const gemm_epi &e, int64_t m, int64_t n, float2 pre) {
    if (e.pre) epi_put2(e.pre, e.out_bf16, e.pairs, m * e.ldp + n, n + 1 < e.n, pre);
}

/* All of it but the store; n is even and < e.n. */
EPI float2 epi_value2(const gemm_epi &e, int64_t m, int64_t n, float2 v) {
    float2 pre;
    v = epi_apply2(e, epi_read2(e, m, n), v, &pre);
    epi_put_pre2(e, m, n, pre);
    return v;
}
EPI void epi_put_c2(const gemm_epi &e, int64_t m, int64_t n, float2 v) {
    epi_put2(e.c, e.out_bf16, e.pairs, m * e.ldc + n, n + 1 < e.n, v);
}
EPI void epi_store2(const gemm_epi &e, int64_t m, int64_t n, float2 v) {
    if (n < e.n) epi_put_c2(e, m, n, epi_value2(e, m, n, v));
}

/* What follows the pre-activations of a gated product, of its columns n and n + 1 < e.n / 2. */
EPI float2 epi_gate2(const gemm_epi &e, int64_t m, int64_t n, int both, float2 gate, float2 up) {
    const float2 v = make_float2(silu_of(gate.x) * up.x, silu_of(gate.y) * up.y);
    return e.residual ? epi_add(v, epi_load2(e.residual, e.out_bf16, e.pairs, m * e.ldr + n, both)) : v;
}
/* epi_value2 of a gated product. */
EPI float2 epi_gated2(const gemm_epi &e, int64_t m, int64_t n, float2 gate, float2 up) {
    const int64_t half = e.n / 2;
    const int both = n + 1 < half;
    gate = epi_pre2(e, m, n, both, gate);
    return epi_gate2(e, m, n, both, gate, epi_pre2(e, m, half + n, both, up));
}
EPI void epi_store_gated2(const gemm_epi &e, int64_t m, int64_t n, float2 gate, float2 up) {
    const int64_t half = e.n / 2;
    if (n < half)
        epi_put2(e.c, e.out_bf16, e.pairs, m * e.ldc + n, n + 1 < half, epi_gated2(e, m, n, gate, up));
}

#endif
