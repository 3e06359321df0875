/* What goes with a product but is none: the column sums of a weight gradient, and the epilogue on sums that a library
 * has left in memory. */
#include "kernels/cuda/gemm.cuh"

/* --- col_sum ------------------------------------------------------------------------------------------------------------- */

#define SUM_WARPS   8
#define SUM_COLUMNS 64 /* of a block: two a lane */

/* part[block of rows][columns] = the sums of GEMM_SUM_ROWS rows of a[rows, columns]: every warp adds every eighth row, then
 * the warps are added in their order. */
__global__ void __launch_bounds__(SUM_WARPS * 32)
    sum_rows(const void *a, const int64_t lda, const int bf16, const int pairs, const int64_t rows,
             const int64_t columns, float *part) {
    WEFT_SHARED(float2, warps, SUM_WARPS * 32);
    const int64_t column = (int64_t)blockIdx.x * SUM_COLUMNS + 2 * lane_id();
    const int64_t first = (int64_t)blockIdx.y * GEMM_SUM_ROWS;
    const int64_t end = first + GEMM_SUM_ROWS < rows ? first + GEMM_SUM_ROWS : rows;
    const int both = column + 1 < columns;
    float2 sum = make_float2(0.0f, 0.0f);
    if (column < columns)
        for (int64_t row = first + warp_id(); row < end; row += SUM_WARPS)
            sum = epi_add(sum, epi_load2(a, bf16, pairs, row * lda + column, both));
    warps[threadIdx.x] = sum;
    __syncthreads();
    if (warp_id() == 0 && column < columns) {
        for (int w = 1; w < SUM_WARPS; w++) sum = epi_add(sum, warps[w * 32 + threadIdx.x]);
        epi_put2(part, 0, 0, (int64_t)blockIdx.y * columns + column, both, sum);
    }
}

__global__ void sum_parts(const float *part, const int64_t parts, const int64_t columns, const int add,
                          float *out) {
    const int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (int64_t i = 0; i < parts; i++) sum += part[i * columns + column];
    out[column] = add ? out[column] + sum : sum;
}

size_t gemm_col_sum_scratch(const weft_gemm_desc *d) {
    if (!d->trans_a || d->trans_b) return 0;
    return (size_t)divup(d->k, GEMM_SUM_ROWS) * (size_t)d->m * sizeof(float);
}

weft_status gemm_col_sum(weft_exec *x, const gemm_call *p) {
    const weft_gemm_desc *d = p->d;
    const int64_t parts = divup(d->k, GEMM_SUM_ROWS);
    const int bf16 = d->a == WEFT_BF16;
    WEFT_TRY(cuda_need_scratch(x, "gemm: col_sum", gemm_col_sum_scratch(d)));
    if (parts > 65535)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm: col_sum over %lld rows, at most %d are possible",
                         (long long)d->k, 65535 * GEMM_SUM_ROWS);
    WEFT_TRY(cuda_launch(x, "gemm: col_sum", sum_rows,
                         dim3((unsigned)divup(d->m, SUM_COLUMNS), (unsigned)parts), dim3(SUM_WARPS * 32), 0,
                         p->a, d->lda, bf16, epi_even(p->a, d->lda, bf16 ? 4 : 8), d->k, d->m,
                         (float *)x->scratch));
    return cuda_launch(x, "gemm: col_sum", sum_parts, dim3((unsigned)divup(d->m, 128)), dim3(128), 0,
                       (const float *)x->scratch, parts, d->m, (int)d->beta, p->e->col_sum);
}

__global__ void add_sums(const int64_t n, const float *sums, float *out) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] += sums[i];
}

weft_status gemm_add(weft_exec *x, int64_t n, const float *sums, float *out) {
    return cuda_launch(x, "gemm: col_sum", add_sums, dim3((unsigned)divup(n, 256)), dim3(256), 0, n, sums,
                       out);
}

/* --- the epilogue alone --------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(256)
    finish(const gemm_epi e, const float *sums, const int even, const int64_t first, const int64_t rows) {
    const int64_t columns = e.gated ? e.n / 2 : e.n, pairs = (columns + 1) / 2;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * pairs; i += step) {
        const int64_t row = i / pairs, n = i % pairs * 2;
        const int both = n + 1 < columns;
        const float2 v = epi_load2(sums, 0, even, row * e.n + n, both);
        if (e.gated)
            epi_store_gated2(e, first + row, n, v, epi_load2(sums, 0, even, row * e.n + columns + n, both));
        else
            epi_store2(e, first + row, n, v);
    }
}

weft_status gemm_finish(weft_exec *x, const gemm_call *p, const float *sums, int64_t first, int64_t rows) {
    const gemm_epi e = epi_of(p->d, p->c, p->e);
    const int64_t columns = e.gated ? e.n / 2 : e.n;
    const int even = e.n % 2 == 0 && (!e.gated || columns % 2 == 0) && (uintptr_t)sums % 8 == 0;
    return cuda_launch(x, "gemm: epilogue", finish, dim3(cuda_blocks(x, rows * divup(columns, 2), 256, 8)),
                       dim3(256), 0, e, sums, even, first, rows);
}

/* From gate and up as they stand in e.pre. */
__global__ void __launch_bounds__(256) gate(const gemm_epi e, const int64_t rows) {
    const int64_t half = e.n / 2, pairs = (half + 1) / 2, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * pairs; i += step) {
        const int64_t row = i / pairs, n = i % pairs * 2, at = row * e.ldp + n;
        const int both = n + 1 < half;
        const float2 u = epi_load2(e.pre, e.out_bf16, e.pairs, at, both);
        epi_put2(e.c, e.out_bf16, e.pairs, row * e.ldc + n, both,
                 epi_gate2(e, row, n, both, u, epi_load2(e.pre, e.out_bf16, e.pairs, at + half, both)));
    }
}

weft_status gemm_gate(weft_exec *x, const gemm_call *p) {
    const gemm_epi e = epi_of(p->d, p->c, p->e);
    return cuda_launch(x, "gemm: gate", gate, dim3(cuda_blocks(x, p->d->m * divup(e.n / 2, 2), 256, 8)),
                       dim3(256), 0, e, p->d->m);
}
