/* One tile of a product on any GPU from sm_80 on: sums in registers from operands in global memory, for gemm_simple.cu and
 * gemm_groups.cu.
 *
 * A block computes BM x BN sums. bf16: warps of 32-row fragments by mma.sync, operands brought by cp.async in stages of
 * 32 k, three deep, kept in shared memory as they lie in global memory and turned by ldmatrix. f32: 16 x 16 threads of
 * (BM/16) x (BN/16) sums each, one fma chain in k order, no tensor cores (TF32 would not be fp32); stages of 16 k go
 * through registers, k outermost in shared memory. Rows are padded by 16 bytes against bank conflicts. What lies outside
 * the operands is 0 in shared memory, so the loops know no edges. An element's sum is a chain in k order whatever the
 * tile, the form and the place: the same bits from every kernel here.
 *
 * Source of the shape: Goto & van de Geijn 2008; for GPUs NVIDIA, CUTLASS: "Efficient GEMM in CUDA". */
#ifndef WEFT_KERNELS_CUDA_GEMM_TILE_CUH
#define WEFT_KERNELS_CUDA_GEMM_TILE_CUH

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/mma.cuh"

/* An operand as it is stored. along_k: its rows are of one m (n) and k neighbours lie side by side. */
struct gemm_operand {
    const void *p;
    int64_t ld;
    int chunks; /* 16-byte pieces are aligned */
};

/* The part of a line of m or n that a tile takes: local index i is first + i while that is < end. half != 0: gate and up of
 * a gated product in turn, G of each: local pieces 0, 2, 4 .. of G are gate's, the others half further on. */
struct gemm_line {
    int64_t first, end, half;
};
template <int G> EPI int64_t line_at(const gemm_line &l, int i, int *left) {
    const int64_t at = l.half ? l.first + i / (2 * G) * G + i % G : l.first + i;
    *left = at < l.end ? (l.end - at < 64 ? (int)(l.end - at) : 64) : 0;
    return l.half && i / G % 2 ? at + l.half : at;
}

/* What a tile needs to know; by value to kernels (or made in them, for groups). */
struct gemm_tile {
    gemm_operand a, b;
    gemm_line m, n;
    int64_t k;
};

static inline int gemm_chunks(weft_dtype t, const void *p, int64_t ld, int64_t other) {
    const int64_t each = 16 / (int64_t)weft_dtype_size(t);
    return (uintptr_t)p % 16 == 0 && ld % each == 0 && other % each == 0;
}

/* The whole of a call's operands, as a tile that has not been placed. */
static inline gemm_tile gemm_tile_of(const gemm_call *p) {
    const weft_gemm_desc *d = p->d;
    gemm_tile t;
    memset(&t, 0, sizeof t);
    t.k = d->k;
    t.m.end = d->m;
    t.n.half = d->gated ? d->n / 2 : 0;
    t.n.end = d->gated ? t.n.half : d->n;
    t.a.p = p->a;
    t.a.ld = d->lda;
    t.a.chunks = gemm_chunks(d->a, p->a, d->lda, 0);
    t.b.p = p->b;
    t.b.ld = d->ldb;
    t.b.chunks = gemm_chunks(d->b, p->b, d->ldb, d->trans_b ? 0 : t.n.half);
    return t;
}

/* --- bf16 ------------------------------------------------------------------------------------------------------------ */

#define TILE_K16    32
#define TILE_STAGES 3
#define TILE_GATE16 8 /* gate and up alternate by the columns of an mma */

/* Of a tile of BM x BN with warps of WM x WN. */
template <int BM, int BN, int WM, int WN> struct tile16 {
    enum {
        THREADS = BM / WM * (BN / WN) * 32,
        WARPS_N = BN / WN,
        FM = WM / 16,
        FN = WN / 8,
    };
};
/* Elements of a stage of an operand of R rows or columns; its row stride in shared memory. */
template <int R, int ALONG_K> struct stage16 {
    enum { STRIDE = (ALONG_K ? TILE_K16 : R) + 8, ELEMENTS = (ALONG_K ? R : TILE_K16) * STRIDE };
};

/* 8 elements of which `left` are there, any alignment. */
EPI void copy_few(uint16_t *to, const uint16_t *from, int left) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t low = 2 * i < left ? from[2 * i] : 0, high = 2 * i + 1 < left ? from[2 * i + 1] : 0;
        w[i] = low | high << 16;
    }
    *(uint4 *)to = make_uint4(w[0], w[1], w[2], w[3]);
}

/* Brings k0 .. k0 + 31 of a line of R to a stage. */
template <int R, int ALONG_K, int THREADS>
EPI void bring16(uint16_t *to, const gemm_operand &o, const gemm_line &line, int64_t k0, int64_t k_end) {
    const int per_row = (ALONG_K ? TILE_K16 : R) / 8;
    for (int i = (int)threadIdx.x; i < R * TILE_K16 / 8; i += THREADS) {
        const int row = i / per_row, column = i % per_row * 8;
        const int64_t k = k0 + (ALONG_K ? column : row);
        int left;
        const int64_t at = line_at<TILE_GATE16>(line, ALONG_K ? row : column, &left);
        const int64_t k_left = k_end - k;
        if (ALONG_K) left = left ? (k_left < 8 ? (int)k_left : 8) : 0;
        if (k_left <= 0 || left < 0) left = 0;
        if (left > 8) left = 8;
        const uint16_t *from = (const uint16_t *)o.p + (left ? (ALONG_K ? at * o.ld + k : k * o.ld + at) : 0);
        uint16_t *place = to + row * stage16<R, ALONG_K>::STRIDE + column;
        if (o.chunks)
            cp_async_16(place, from, 2 * left);
        else
            copy_few(place, from, left);
    }
}

/* The fragments of 16 rows of A, from row m and column k of the stage. */
template <int R, int ALONG_K> EPI void fragment_a(uint32_t (&a)[4], const uint16_t *s, int m, int k) {
    const int l = lane_id(), stride = stage16<R, ALONG_K>::STRIDE;
    if (ALONG_K)
        ldmatrix_x4(a, s + (m + l % 16) * stride + k + l / 16 * 8);
    else
        ldmatrix_x4_trans(a, s + (k + l / 16 * 8 + l % 8) * stride + m + l / 8 % 2 * 8);
}
/* Those of two neighbouring blocks of 8 columns of B. */
template <int R, int ALONG_K> EPI void fragment_b(uint32_t (&b)[2][2], const uint16_t *s, int n, int k) {
    const int l = lane_id(), stride = stage16<R, ALONG_K>::STRIDE;
    uint32_t r[4];
    if (ALONG_K)
        ldmatrix_x4(r, s + (n + l / 16 * 8 + l % 8) * stride + k + l / 8 % 2 * 8);
    else
        ldmatrix_x4_trans(r, s + (k + l % 16) * stride + n + l / 16 * 8);
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

template <int BM, int BN, int WM, int WN, int A_K, int B_K>
EPI void tile_stage16(float (&sum)[WM / 16][WN / 8][4], const uint16_t *a, const uint16_t *b) {
    typedef tile16<BM, BN, WM, WN> shape;
    const int m = warp_id() / shape::WARPS_N * WM, n = warp_id() % shape::WARPS_N * WN;
#pragma unroll
    for (int k = 0; k < TILE_K16; k += 16) {
        uint32_t fa[shape::FM][4], fb[shape::FN / 2][2][2];
#pragma unroll
        for (int i = 0; i < shape::FM; i++) fragment_a<BM, A_K>(fa[i], a, m + 16 * i, k);
#pragma unroll
        for (int j = 0; j < shape::FN / 2; j++) fragment_b<BN, B_K>(fb[j], b, n + 16 * j, k);
#pragma unroll
        for (int i = 0; i < shape::FM; i++)
#pragma unroll
            for (int j = 0; j < shape::FN; j++) mma_m16n8k16(sum[i][j], fa[i], fb[j / 2][j % 2]);
    }
}

template <int BM, int BN, int A_K, int B_K> struct shared16 {
    enum {
        A = stage16<BM, A_K>::ELEMENTS,
        B = stage16<BN, B_K>::ELEMENTS,
        BYTES = TILE_STAGES * (A + B) * 2,
    };
};

/* The sums of a tile. Begins and ends with all threads of the block and shared memory free. */
template <int BM, int BN, int WM, int WN, int A_K, int B_K>
EPI void tile_sums16(float (&sum)[WM / 16][WN / 8][4], const gemm_tile &t, unsigned char *memory) {
    typedef shared16<BM, BN, A_K, B_K> shared;
    const int threads = tile16<BM, BN, WM, WN>::THREADS;
    uint16_t *a = (uint16_t *)memory, *b = a + TILE_STAGES * shared::A;
    const int64_t stages = (t.k + TILE_K16 - 1) / TILE_K16;
    memset(sum, 0, sizeof sum);
#pragma unroll
    for (int s = 0; s < TILE_STAGES - 1; s++) {
        if (s < stages) {
            bring16<BM, A_K, threads>(a + s * shared::A, t.a, t.m, (int64_t)s * TILE_K16, t.k);
            bring16<BN, B_K, threads>(b + s * shared::B, t.b, t.n, (int64_t)s * TILE_K16, t.k);
        }
        cp_async_commit();
    }
    int at = 0, next = TILE_STAGES - 1;
    for (int64_t s = 0; s < stages; s++) {
        cp_async_wait<TILE_STAGES - 2>(); /* stage s is here ... */
        __syncthreads();                  /* ... for all, and all are through with the one before */
        if (s + TILE_STAGES - 1 < stages) {
            const int64_t k0 = (s + TILE_STAGES - 1) * TILE_K16;
            bring16<BM, A_K, threads>(a + next * shared::A, t.a, t.m, k0, t.k);
            bring16<BN, B_K, threads>(b + next * shared::B, t.b, t.n, k0, t.k);
        }
        cp_async_commit();
        tile_stage16<BM, BN, WM, WN, A_K, B_K>(sum, a + at * shared::A, b + at * shared::B);
        at = at + 1 == TILE_STAGES ? 0 : at + 1;
        next = next + 1 == TILE_STAGES ? 0 : next + 1;
    }
    __syncthreads();
}

/* Sixteen rows of a warp's sums wait in its own piece of shared memory for the epilogue, so that lanes take neighbours of a
 * row, whole segments of memory are written, and there is little code. */
#define TILE_PARK16 36 /* floats between the rows: 32 and 4 against bank conflicts */

template <int BM, int BN, int WM, int WN> EPI void park16(const float (&sum)[WN / 8][4], float *park) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int j = 0; j < WN / 8; j++) {
        *(float2 *)(park + g * TILE_PARK16 + 8 * j + 2 * t) = make_float2(sum[j][0], sum[j][1]);
        *(float2 *)(park + (g + 8) * TILE_PARK16 + 8 * j + 2 * t) = make_float2(sum[j][2], sum[j][3]);
    }
}

/* The epilogue of 16 parked rows from `row` on, of 32 sums each; column: of C. */
EPI void unpark16(const float *park, const gemm_epi &e, int64_t row, int64_t end, int64_t column) {
    const int pairs = e.gated ? 8 : 16;
#pragma unroll 1
    for (int i = lane_id(); i < 16 * pairs; i += 32) {
        const int r = i / pairs, q = i % pairs;
        if (row + r >= end) continue;
        const float *from = park + r * TILE_PARK16 + (e.gated ? q / 4 * 16 + q % 4 * 2 : 2 * q);
        if (e.gated)
            epi_store_gated2(e, row + r, column + 2 * q, *(const float2 *)from,
                             *(const float2 *)(from + TILE_GATE16));
        else
            epi_store2(e, row + r, column + 2 * q, *(const float2 *)from);
    }
}

/* The epilogue on the sums; first: of C's columns. */
template <int BM, int BN, int WM, int WN>
EPI void tile_store16(const float (&sum)[WM / 16][WN / 8][4], const gemm_epi &e, const gemm_line &m,
                      int64_t first, unsigned char *memory) {
    typedef tile16<BM, BN, WM, WN> shape;
    static_assert(WN == 32, "rows of 32 sums are parked");
    const int64_t row = m.first + warp_id() / shape::WARPS_N * WM;
    const int column = warp_id() % shape::WARPS_N * WN;
    float *park = (float *)memory + warp_id() * 16 * TILE_PARK16;
#pragma unroll
    for (int i = 0; i < shape::FM; i++) {
        park16<BM, BN, WM, WN>(sum[i], park);
        __syncwarp();
        unpark16(park, e, row + 16 * i, m.end, first + (e.gated ? column / 2 : column));
        __syncwarp();
    }
    __syncthreads();
}

/* --- f32 --------------------------------------------------------------------------------------------------------------- */

#define TILE_K32       16
#define TILE_THREADS32 256

template <int R> struct stage32 {
    enum { STRIDE = R + 4, ELEMENTS = TILE_K32 * STRIDE, PIECES = R * TILE_K32 / 4 / TILE_THREADS32 };
};
template <int BM, int BN> struct shared32 {
    enum { BYTES = 2 * (stage32<BM>::ELEMENTS + stage32<BN>::ELEMENTS) * 4 };
};

/* 4 neighbours of which `left` are there. */
EPI float4 load_few(const float *from, int left, int chunks) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (left >= 4 && chunks) return *(const float4 *)from;
    if (left > 0) v.x = from[0];
    if (left > 1) v.y = from[1];
    if (left > 2) v.z = from[2];
    if (left > 3) v.w = from[3];
    return v;
}

/* This thread's pieces of k0 .. k0 + 15 of a line of R, to registers; and from there to a stage. */
template <int R, int ALONG_K>
EPI void bring32(float4 (&v)[stage32<R>::PIECES], const gemm_operand &o, const gemm_line &line, int64_t k0,
                 int64_t k_end) {
    const int per_row = (ALONG_K ? TILE_K32 : R) / 4;
#pragma unroll
    for (int p = 0; p < stage32<R>::PIECES; p++) {
        const int i = (int)threadIdx.x + p * TILE_THREADS32, row = i / per_row, column = i % per_row * 4;
        const int64_t k = k0 + (ALONG_K ? column : row), k_left = k_end - k;
        int left;
        const int64_t at = line_at<R / 2>(line, ALONG_K ? row : column, &left);
        if (ALONG_K) left = left ? (k_left < 4 ? (int)k_left : 4) : 0;
        if (k_left <= 0) left = 0;
        const int64_t place = ALONG_K ? at * o.ld + k : k * o.ld + at;
        v[p] = load_few((const float *)o.p + (left > 0 ? place : 0), left, o.chunks);
    }
}
template <int R, int ALONG_K> EPI void keep32(float *to, const float4 (&v)[stage32<R>::PIECES]) {
    const int per_row = (ALONG_K ? TILE_K32 : R) / 4, stride = stage32<R>::STRIDE;
#pragma unroll
    for (int p = 0; p < stage32<R>::PIECES; p++) {
        const int i = (int)threadIdx.x + p * TILE_THREADS32, row = i / per_row, column = i % per_row * 4;
        if (ALONG_K) {
            to[column * stride + row] = v[p].x;
            to[(column + 1) * stride + row] = v[p].y;
            to[(column + 2) * stride + row] = v[p].z;
            to[(column + 3) * stride + row] = v[p].w;
        } else {
            *(float4 *)(to + row * stride + column) = v[p];
        }
    }
}

/* A thread's R / 16 values of a line, half of them from each half of it. */
template <int R> EPI void values32(float (&v)[R / 16], const float *row, int thread) {
    const int half = R / 32;
#pragma unroll
    for (int i = 0; i < half; i++) {
        v[i] = row[thread * half + i];
        v[half + i] = row[R / 2 + thread * half + i];
    }
}

template <int BM, int BN>
EPI void tile_stage32(float (&sum)[BM / 16][BN / 16], const float *a, const float *b) {
    const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
#pragma unroll
    for (int k = 0; k < TILE_K32; k++) {
        float u[BM / 16], v[BN / 16];
        values32<BM>(u, a + k * stage32<BM>::STRIDE, y);
        values32<BN>(v, b + k * stage32<BN>::STRIDE, x);
#pragma unroll
        for (int i = 0; i < BM / 16; i++)
#pragma unroll
            for (int j = 0; j < BN / 16; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
    }
}

template <int BM, int BN, int A_K, int B_K>
EPI void tile_sums32(float (&sum)[BM / 16][BN / 16], const gemm_tile &t, unsigned char *memory) {
    float *a = (float *)memory, *b = a + 2 * stage32<BM>::ELEMENTS;
    float4 va[stage32<BM>::PIECES], vb[stage32<BN>::PIECES];
    memset(sum, 0, sizeof sum);
    int at = 0;
    if (t.k > 0) {
        bring32<BM, A_K>(va, t.a, t.m, 0, t.k);
        bring32<BN, B_K>(vb, t.b, t.n, 0, t.k);
    }
    for (int64_t k0 = 0; k0 < t.k; k0 += TILE_K32, at ^= 1) {
        keep32<BM, A_K>(a + at * stage32<BM>::ELEMENTS, va);
        keep32<BN, B_K>(b + at * stage32<BN>::ELEMENTS, vb);
        __syncthreads(); /* this stage is here, and all are through with the one before the last */
        if (k0 + TILE_K32 < t.k) {
            bring32<BM, A_K>(va, t.a, t.m, k0 + TILE_K32, t.k);
            bring32<BN, B_K>(vb, t.b, t.n, k0 + TILE_K32, t.k);
        }
        tile_stage32<BM, BN>(sum, a + at * stage32<BM>::ELEMENTS, b + at * stage32<BN>::ELEMENTS);
    }
    __syncthreads();
}

/* Half of the rows wait in shared memory at a time. */
template <int BM, int BN>
EPI void tile_store32(const float (&sum)[BM / 16][BN / 16], const gemm_epi &e, const gemm_line &m,
                      int64_t first, unsigned char *memory) {
    const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16, rows = BM / 32, columns = BN / 32,
              stride = BN + 2;
    const int pairs = e.gated ? BN / 4 : BN / 2;
    float *park = (float *)memory;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < rows; i++)
#pragma unroll
            for (int j = 0; j < columns; j++) {
                park[(y * rows + i) * stride + x * columns + j] = sum[half * rows + i][j];
                park[(y * rows + i) * stride + BN / 2 + x * columns + j] = sum[half * rows + i][columns + j];
            }
        __syncthreads();
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < BM / 2 * pairs; i += TILE_THREADS32) {
            const int64_t row = m.first + half * (BM / 2) + i / pairs, n = first + i % pairs * 2;
            const float *from = park + i / pairs * stride + i % pairs * 2;
            if (row >= m.end) continue;
            if (e.gated)
                epi_store_gated2(e, row, n, *(const float2 *)from, *(const float2 *)(from + BN / 2));
            else
                epi_store2(e, row, n, *(const float2 *)from);
        }
        __syncthreads();
    }
}

#endif
