/* The portable product: every form, type, stride and epilogue, on any GPU from sm_80 on. gemm_tile.cuh computes a tile, a
 * block one tile. Neighbouring blocks take tiles of the same few columns of op(B), so that what they read is shared in the
 * L2 cache. Large tiles where they fill the device, else small ones; an element's bits do not depend on it. */
#include "kernels/cuda/gemm_simple.cuh"

weft_status gemm_simple(weft_exec *x, const gemm_call *p) {
    const weft_gemm_desc *d = p->d;
    simple_launch l;
    l.x = x;
    l.t = gemm_tile_of(p);
    l.e = epi_of(d, p->c, p->e);
    l.m = d->m;
    l.n = d->n;
    l.a_k = !d->trans_a;
    l.b_k = d->trans_b;
    if (tiles_of(&l, 64) > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "gemm: C of %lld x %lld is more than the portable kernel can do", (long long)d->m,
                         (long long)d->n);
    const int large = tiles_of(&l, 128) >= cuda_device(x)->sms;
    return d->a == WEFT_BF16 ? gemm_simple16(&l, large) : gemm_simple32(&l, large);
}
