/* Newton-Schulz orthogonalisation of Muon: products through the table's gemm, the rest element-wise. Asynchronous.
 *
 * X / |X|_F has singular values in (0, 1]; every round maps each by s <- a s + b s^3 + c s^5, which is
 * X <- aX + (bG + cG^2) X with G = X X^T. On the transpose if rows > cols, so that G is the smaller Gram matrix. The norm
 * stays on the device; a zero matrix is scaled by zero and stays zero. Source: Jordan et al., Muon, 2024. */
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/sumsq.cuh"

#define MUON_A 3.4445f
#define MUON_B -4.7750f
#define MUON_C 2.0315f

#define NORM_CHUNKS CUDA_THREADS /* one a thread */
#define ALIGN       ((size_t)256)

struct plan {
    int64_t m, n; /* the smaller and the larger extent */
    int flip;
    weft_gemm_desc gram, square, apply; /* X X^T, G G, H X */
    size_t bytes;                       /* the sums of the norm, G, H, the next X, and X itself if flipped */
};

static weft_gemm_desc product(int64_t m, int64_t n, int64_t k, int64_t ldb, uint8_t trans_b) {
    weft_gemm_desc g;
    memset(&g, 0, sizeof g);
    g.size = sizeof g;
    g.m = m;
    g.n = g.ldc = n;
    g.k = g.lda = k;
    g.ldb = ldb;
    g.trans_b = trans_b;
    return g; /* f32 is 0 */
}

static weft_status plan_make(const weft_newton_schulz_desc *d, struct plan *p) {
    size_t square, wide, floats;
    p->flip = d->rows > d->cols;
    p->m = p->flip ? d->cols : d->rows;
    p->n = p->flip ? d->rows : d->cols;
    p->gram = product(p->m, p->m, p->n, p->n, 1);
    p->square = product(p->m, p->m, p->m, p->m, 0);
    p->apply = product(p->m, p->n, p->m, p->n, 0);
    if (!weft_mul_ok((size_t)p->m * 2, (size_t)p->m, &square) ||
        !weft_mul_ok((size_t)p->m * (p->flip ? 2 : 1), (size_t)p->n, &wide) ||
        !weft_add_ok(square, wide, &floats) || !weft_mul_ok(floats, sizeof(float), &p->bytes) ||
        !weft_add_ok(p->bytes, NORM_CHUNKS * sizeof(double) + ALIGN, &p->bytes))
        return weft_fail(WEFT_ERR_ARG, "newton_schulz: %lld x %lld is too large", (long long)d->rows,
                         (long long)d->cols);
    p->bytes = weft_align_up(p->bytes - ALIGN, ALIGN);
    return WEFT_OK;
}

extern "C" size_t cuda_newton_schulz_scratch(const weft_backend *b, const weft_newton_schulz_desc *d) {
    struct plan p;
    size_t gemm = 0;
    if (!d || d->rows <= 0 || d->cols <= 0 || plan_make(d, &p) < 0) return 0;
    const weft_gemm_desc *const all[] = {&p.gram, &p.square, &p.apply};
    for (int i = 0; i < 3; i++) {
        const size_t s = cuda_gemm_scratch(b, all[i]);
        gemm = s > gemm ? s : gemm;
    }
    return p.bytes + gemm;
}

/* dst = v / sqrt(sum of sums[0, chunks)), or 0 if that is 0. Every block of threads adds the sums, in the same tree. */
static __global__ void __launch_bounds__(CUDA_THREADS)
    normalise_kernel(size_t n, const double *sums, int chunks, const float *v, float *dst, int whole) {
    WEFT_SHARED(double, part, CUDA_THREADS);
    part[threadIdx.x] = (int)threadIdx.x < chunks ? sums[threadIdx.x] : 0.0;
    for (int left = CUDA_THREADS / 2; left; left /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < left)
            part[threadIdx.x] = __dadd_rn(part[threadIdx.x], part[threadIdx.x + left]);
    }
    __syncthreads();
    const double norm = part[0];
    const float w = norm == 0 ? 0.0f : (float)(1 / sqrt(norm));
    FOR_VECTORS(i, n, 4) {
        const int m = vector_left(n, i, 4);
        float a[4];
        load_vector(v + i, m, whole, a);
#pragma unroll
        for (int k = 0; k < 4; k++) a[k] *= w;
        store_vector(dst + i, m, whole, a);
    }
}

static weft_status normalise(weft_exec *x, size_t n, const float *v, float *dst, double *sums) {
    int64_t blocks;
    const int64_t chunks = cuda_sumsq_chunks(n, NORM_CHUNKS, &blocks);
    WEFT_TRY(cuda_sumsq_launch(x, "newton_schulz", n, v, chunks, blocks, sums));
    return cuda_launch(x, "newton_schulz", normalise_kernel, cuda_vectors_grid(x, n, 4), dim3(CUDA_THREADS),
                       0, n, sums, (int)chunks, v, dst,
                       cuda_aligned(v, CUDA_VECTOR) && cuda_aligned(dst, CUDA_VECTOR));
}

/* X <- aX + (bG + cG^2) X; the result is in `next`. */
static weft_status newton_round(weft_exec *x, const struct plan *p, const float *cur, float *next,
                                float *gram, float *poly) {
    const struct weft_ops *ops = x->backend->ops;
    const size_t square = (size_t)(p->m * p->m), wide = (size_t)(p->m * p->n);
    WEFT_TRY(ops->gemm(x, &p->gram, cur, cur, gram, NULL));
    WEFT_TRY(ops->gemm(x, &p->square, gram, gram, poly, NULL));
    WEFT_TRY(ops->axpby(x, square, MUON_B, gram, MUON_C, poly));
    WEFT_TRY(ops->gemm(x, &p->apply, poly, cur, next, NULL));
    return ops->axpby(x, wide, MUON_A, cur, 1.0f, next);
}

static weft_status newton_rounds(weft_exec *x, const struct plan *p, int rounds, float *v, double *sums) {
    const struct weft_ops *ops = x->backend->ops;
    const size_t square = (size_t)(p->m * p->m), wide = (size_t)(p->m * p->n);
    float *gram = (float *)(sums + NORM_CHUNKS), *poly = gram + square, *next = poly + square;
    float *cur = p->flip ? next + wide : v;
    WEFT_TRY(normalise(x, wide, v, p->flip ? next : v, sums));
    if (p->flip) WEFT_TRY(ops->transpose(x, sizeof(float), p->n, p->m, next, cur));
    for (int i = 0; i < rounds; i++) {
        float *swap = cur;
        WEFT_TRY(newton_round(x, p, cur, next, gram, poly));
        cur = next;
        next = swap;
    }
    if (p->flip) return ops->transpose(x, sizeof(float), p->m, p->n, cur, v);
    return cur == v ? WEFT_OK : ops->copy(x, v, cur, wide * sizeof *v);
}

/* The products see the scratch behind the op's own part. */
extern "C" weft_status cuda_newton_schulz(weft_exec *x, const weft_newton_schulz_desc *d, float *v) {
    struct plan p;
    WEFT_TRY(weft_check_newton_schulz(d, v));
    if (d->rows == 0 || d->cols == 0) return WEFT_OK;
    WEFT_TRY(plan_make(d, &p));
    WEFT_TRY(cuda_need_scratch(x, "newton_schulz", cuda_newton_schulz_scratch(x->backend, d)));
    double *own = (double *)x->scratch;
    x->scratch = (char *)own + p.bytes;
    x->scratch_bytes -= p.bytes;
    const weft_status s = newton_rounds(x, &p, d->rounds, v, own);
    x->scratch = own;
    x->scratch_bytes += p.bytes;
    return s < 0 ? weft_context(s, "newton_schulz") : WEFT_OK;
}
