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

template <int columns> static hopper_kernel kernel_of_form(const weft_gemm_desc *d, int kind, int f32) {
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
    if (!hopper_runs_on(device->major, device->minor)) return 0;
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
    w.splits = c.parts;
    w.steps_each = (int)divup(w.steps, c.parts);
    w.split_rows = (int)hopper_part_rows(&c, d->m);
    w.add = d->beta && c.parts == 1;
    const int64_t units = (int64_t)w.units_m * w.units_n * c.parts,
                  workers = sms / c.cluster > 0 ? sms / c.cluster : 1;
    *blocks = (unsigned)((units < workers ? units : workers) * c.cluster);
    return w;
}

/* --- k in parts: sums in scratch, then added --- */

static int64_t part_ld(const weft_gemm_desc *d) {
    return divup(d->n, 4) * 4;
}
static size_t part_bytes(const weft_gemm_desc *d, const hopper_choice &c) {
    return c.parts == 1
               ? 0
               : (size_t)c.parts * (size_t)hopper_part_rows(&c, d->m) * (size_t)part_ld(d) * sizeof(float);
}

#define ADD_THREADS 256
#define ADD_ROWS    65535

/* C = epilogue of the parts' sums, added in their order: a thread has two columns. */
__global__ void __launch_bounds__(ADD_THREADS)
    hopper_add_kernel(const float *sums, int parts, int64_t part_stride, int64_t ld, int m,
                      const __grid_constant__ gemm_epi e) {
    const int64_t n = 2 * ((int64_t)blockIdx.x * ADD_THREADS + threadIdx.x);
    if (n >= e.n) return;
    for (int row = (int)blockIdx.y; row < m; row += (int)gridDim.y) {
        const float *from = sums + row * ld + n;
        float2 v = *(const float2 *)from;
        for (int i = 1; i < parts; i++) v = epi_add(v, *(const float2 *)(from + i * part_stride));
        epi_store2(e, row, n, v);
    }
}

static weft_status add_parts(weft_exec *x, const weft_gemm_desc *d, const hopper_work &w, const gemm_epi &e) {
    const dim3 grid((unsigned)divup(divup(d->n, 2), ADD_THREADS),
                    (unsigned)(d->m < ADD_ROWS ? d->m : ADD_ROWS));
    const int64_t ld = part_ld(d);
    return cuda_launch(x, "hopper_add", hopper_add_kernel, grid, dim3(ADD_THREADS), 0,
                       (const float *)x->scratch, w.splits, w.split_rows * ld, ld, (int)d->m, e);
}

/* p with tile c; gemm_own_takes it. */
static weft_status launch(weft_exec *x, const gemm_call *p, const hopper_choice &c) {
    const weft_gemm_desc *d = p->d;
    const gemm_epi e = epi_of(d, p->c, p->e);
    const int parted = c.parts > 1, kind = parted ? HOPPER_PLAIN : kind_of(p, e), half = c.columns / 2;
    CUtensorMap map_a, map_b, map_c;
    unsigned blocks;
    const hopper_work w = work_of(p, c, cuda_device(x)->sms, &blocks);
    if ((int64_t)w.units_m * w.units_n * c.parts > INT32_MAX)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: too many tiles");
    WEFT_TRY(d->trans_a ? hopper_matrix_map(p->a, WEFT_BF16, d->k, d->m, d->lda, HOPPER_STEP, &map_a)
                        : hopper_matrix_map(p->a, WEFT_BF16, d->m, d->k, d->lda, HOPPER_ROWS, &map_a));
    WEFT_TRY(d->trans_b ? hopper_matrix_map(p->b, WEFT_BF16, d->n, d->k, d->ldb, half, &map_b)
                        : hopper_matrix_map(p->b, WEFT_BF16, d->k, d->n, d->ldb, HOPPER_STEP, &map_b));
    map_c = map_a; /* not read unless plain */
    if (parted) {
        WEFT_TRY(hopper_matrix_map(x->scratch, WEFT_F32, (int64_t)w.split_rows * c.parts, d->n, part_ld(d),
                                   64, &map_c));
    } else if (kind == HOPPER_PLAIN) {
        WEFT_TRY(hopper_matrix_map(p->c, d->c, d->m, d->n, d->ldc, 64, &map_c));
    }
    const int f32 = parted || d->c == WEFT_F32;
    const hopper_kernel kernel =
        c.columns == 256 ? kernel_of_form<256>(d, kind, f32) : kernel_of_form<128>(d, kind, f32);
    const size_t shared = c.columns == 256 ? hopper_tile<256>::shared_bytes : hopper_tile<128>::shared_bytes;
    WEFT_TRY(cuda_launch_cluster(x, "hopper_gemm", kernel, dim3(blocks), dim3(HOPPER_THREADS),
                                 dim3((unsigned)c.cluster), shared, w, e, map_a, map_b, map_c));
    return parted ? add_parts(x, d, w, e) : WEFT_OK;
}

/* WEFT_HOPPER_TILE=columns,cluster (as in 256,2): this tile, and k in one part, instead of the table's, for tests and
 * measurements. */
static hopper_choice choose(const cuda_backend *b, const weft_gemm_desc *d) {
    hopper_choice c = hopper_choose(d->m, d->n, d->k, d->gated, b->sms);
    const char *asked = getenv("WEFT_HOPPER_TILE");
    int columns, cluster;
    if (asked && sscanf(asked, "%d,%d", &columns, &cluster) == 2 && (columns == 128 || columns == 256) &&
        (cluster == 1 || cluster == 2)) {
        c.columns = columns;
        c.rows_together = c.rows_together * c.cluster / cluster;
        c.cluster = cluster;
        c.parts = 1;
    }
    return c;
}

/* An exec without room for the sums of parts (its plan did not know of this shape) computes one part. */
weft_status gemm_own(weft_exec *x, const gemm_call *p) {
    if (!gemm_own_takes(x, p)) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: not for the Hopper product");
    hopper_choice c = choose(cuda_device(x), p->d);
    if (part_bytes(p->d, c) > x->scratch_bytes) c.parts = 1;
    return launch(x, p, c);
}

size_t gemm_own_scratch(const weft_backend *b, const weft_gemm_desc *d) {
    const cuda_backend *device = (const cuda_backend *)b;
    if (!hopper_runs_on(device->major, device->minor) || d->a != WEFT_BF16 || d->m < 1 || d->n < 1 ||
        d->k < 1)
        return 0;
    return (size_t)hopper_parts_bytes(d->m, d->n, d->k, d->gated);
}
