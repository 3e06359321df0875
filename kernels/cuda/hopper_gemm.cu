/* The Hopper product, host's side: what it takes, its tile, its maps, its launch. The kernel is hopper_gemm.cuh. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/hopper_gemm.cuh"
#include "kernels/cuda/hopper_map.h"
#include "kernels/cuda/hopper_table.h"

typedef void (*hopper_kernel)(hopper_work, gemm_epi, CUtensorMap, CUtensorMap, CUtensorMap);

/* --- which kernel --- */

template <int columns, int trans_a, int trans_b> static hopper_kernel kernel_of(int kind, int f32) {
    if (kind == HOPPER_GATED) {
        if constexpr (!trans_a) return hopper_gemm_kernel<columns, trans_a, trans_b, HOPPER_GATED, 0>;
    }
    if (kind == HOPPER_FULL)
        return f32 ? hopper_gemm_kernel<columns, trans_a, trans_b, HOPPER_FULL, 1>
                   : hopper_gemm_kernel<columns, trans_a, trans_b, HOPPER_FULL, 0>;
    return f32 ? hopper_gemm_kernel<columns, trans_a, trans_b, HOPPER_PLAIN, 1>
               : hopper_gemm_kernel<columns, trans_a, trans_b, HOPPER_PLAIN, 0>;
}

template <int columns> static hopper_kernel kernel_of_form(const weft_gemm_desc *d, int kind) {
    const int f32 = d->c == WEFT_F32;
    if (d->trans_a) return kernel_of<columns, 1, 1>(kind, f32);
    return d->trans_b ? kernel_of<columns, 0, 0>(kind, f32) : kernel_of<columns, 0, 1>(kind, f32);
}

static int kind_of(const gemm_call *p, const gemm_epi &e) {
    const weft_gemm_desc *d = p->d;
    if (d->gated) return HOPPER_GATED;
    const int plain = e.scale == 1.0f && !e.bias && !e.pre && !e.act_bwd && !e.gelu && !e.residual;
    return plain && hopper_aligned(p->c, d->c, d->m, d->n, d->ldc) ? HOPPER_PLAIN : HOPPER_FULL;
}

int gemm_own_takes(const weft_exec *x, const gemm_call *p) {
    const weft_gemm_desc *d = p->d;
    const cuda_backend *device = cuda_device(x);
    if (device->major != 9 || device->minor != 0) return 0;
    if (d->a != WEFT_BF16 || d->b_packed || d->m < 1 || d->n < 1 || d->k < 1) return 0;
    if (d->trans_a && (d->trans_b || d->gated)) return 0;
    if (d->gated && d->c != WEFT_BF16) return 0;
    if (d->m >= (int64_t)1 << 30 || d->n >= (int64_t)1 << 30) return 0;
    return hopper_aligned(p->a, d->a, d->trans_a ? d->k : d->m, d->trans_a ? d->m : d->k, d->lda) &&
           hopper_aligned(p->b, d->b, d->trans_b ? d->n : d->k, d->trans_b ? d->k : d->n, d->ldb);
}

/* Nothing has been measured yet (docs/performance.md): where there is cuBLASLt, it computes. */
int gemm_own_wins(const weft_gemm_desc *d, const weft_epilogue *e) {
    (void)d;
    (void)e;
    return 0;
}

size_t gemm_own_scratch(const weft_backend *b, const weft_gemm_desc *d) {
    (void)b;
    (void)d;
    return 0;
}

/* --- launch --- */

static hopper_work work_of(const gemm_call *p, const hopper_choice &c, int sms, unsigned *blocks) {
    const weft_gemm_desc *d = p->d;
    hopper_work w;
    memset(&w, 0, sizeof w);
    w.m = (int)d->m;
    w.columns_c = (int)(d->gated ? d->n / 2 : d->n);
    w.across = d->gated ? c.columns / 2 : c.columns;
    w.half = d->gated ? (int)(d->n / 2) : c.columns / 2;
    w.cluster = c.cluster;
    w.units_m = (int)divup(divup(d->m, HOPPER_ROWS), c.cluster);
    w.units_n = (int)divup(w.columns_c, w.across);
    w.together = c.rows_together;
    w.steps = (int)divup(d->k, HOPPER_STEP);
    w.add = d->beta;
    const int64_t units = (int64_t)w.units_m * w.units_n, workers = sms / c.cluster > 0 ? sms / c.cluster : 1;
    *blocks = (unsigned)((units < workers ? units : workers) * c.cluster);
    return w;
}

/* p with tile c; gemm_own_takes it. */
static weft_status launch(weft_exec *x, const gemm_call *p, const hopper_choice &c) {
    const weft_gemm_desc *d = p->d;
    const gemm_epi e = epi_of(d, p->c, p->e);
    const int kind = kind_of(p, e), half = c.columns / 2;
    CUtensorMap map_a, map_b, map_c;
    unsigned blocks;
    const hopper_work w = work_of(p, c, cuda_device(x)->sms, &blocks);
    if ((int64_t)w.units_m * w.units_n > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: too many tiles");
    WEFT_TRY(d->trans_a ? hopper_matrix_map(p->a, WEFT_BF16, d->k, d->m, d->lda, HOPPER_STEP, &map_a)
                        : hopper_matrix_map(p->a, WEFT_BF16, d->m, d->k, d->lda, HOPPER_ROWS, &map_a));
    WEFT_TRY(d->trans_b ? hopper_matrix_map(p->b, WEFT_BF16, d->n, d->k, d->ldb, half, &map_b)
                        : hopper_matrix_map(p->b, WEFT_BF16, d->k, d->n, d->ldb, HOPPER_STEP, &map_b));
    map_c = map_a; /* not read unless plain */
    if (kind == HOPPER_PLAIN) WEFT_TRY(hopper_matrix_map(p->c, d->c, d->m, d->n, d->ldc, 64, &map_c));
    const hopper_kernel kernel =
        c.columns == 256 ? kernel_of_form<256>(d, kind) : kernel_of_form<128>(d, kind);
    const size_t shared = c.columns == 256 ? hopper_tile<256>::shared_bytes : hopper_tile<128>::shared_bytes;
    return cuda_launch_cluster(x, "hopper_gemm", kernel, dim3(blocks), dim3(HOPPER_THREADS),
                               dim3((unsigned)c.cluster), shared, w, e, map_a, map_b, map_c);
}

/* WEFT_HOPPER_TILE=columns,cluster (as in 256,2): this tile instead of the table's, for tests and measurements. */
static hopper_choice choose(const weft_exec *x, const weft_gemm_desc *d) {
    hopper_choice c = hopper_choose(d->m, d->n, d->k, d->gated, cuda_device(x)->sms);
    const char *asked = getenv("WEFT_HOPPER_TILE");
    int columns, cluster;
    if (asked && sscanf(asked, "%d,%d", &columns, &cluster) == 2 && (columns == 128 || columns == 256) &&
        (cluster == 1 || cluster == 2)) {
        c.columns = columns;
        c.rows_together = c.rows_together * c.cluster / cluster;
        c.cluster = cluster;
    }
    return c;
}

weft_status gemm_own(weft_exec *x, const gemm_call *p) {
    if (!gemm_own_takes(x, p)) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: not for the Hopper product");
    return launch(x, p, choose(x, p->d));
}
