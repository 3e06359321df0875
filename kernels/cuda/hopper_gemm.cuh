/* The matrix product of sm_90a: C = epilogue(op(A) op(B) (+ C)), bf16 operands, f32 sums, bf16 or f32 C.
 *
 * One persistent block a multiprocessor, 384 threads: a producer warpgroup, of which one thread drives the copy engine
 * (TMA), and two consumer warpgroups, which feed the tensor cores (wgmma). Between them a ring of stages in shared
 * memory, 64 of k each: full[s] (the bytes have come) and empty[s] (every consumer that reads it is through).
 *  - 256 columns: both consumers work on one tile of 128 x 256, 64 rows each; 4 stages of 48 KB.
 *  - 128 columns: a tile of 128 x 128 each, in turns ("ping-pong"): one's epilogue runs under the other's products;
 *    6 stages of 32 KB. The turn passes through two more mbarriers.
 * Clusters of 2 blocks along M share B: each loads one half of its rows (columns of C) and multicasts it, so a stage is
 * free only when the consumers of both blocks are through with it, and empty[s] counts those of both.
 * The tile of B always comes in two halves; a gated product (SwiGLU) takes gate columns as the first and up columns as
 * the second, so that one thread holds both sums of an element of C.
 * A plain C leaves through a swizzled staging box (64 rows of 128 bytes, two a consumer, in turns) and a TMA store, or,
 * for + C in f32, TMA's add: one addition for each element. (The engine's f32 addition flushes subnormals to zero.)
 * Edges: TMA reads zeros outside and writes nothing there. With an epilogue each warp turns its sums through shared
 * memory into whole rows (gemm_epilogue.cuh does the rest).
 *
 * Sums: each element is one chain over k in steps of 16 as wgmma rounds it. Where there are few tiles and much k, k is cut
 * into parts (hopper_table.c: by the shape, the number of multiprocessors and the room in the scratch): each part leaves its sums in scratch,
 * and a second kernel adds them in their order and finishes them. So the bits depend on operands, shape and device.
 *
 * Learnt from: PTX ISA; CUTLASS's warp-specialised kernels; Shankhdhar, "Outperforming cuBLAS on H100" (2024). */
#ifndef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH

#include "kernels/cuda/gemm_epilogue.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"

#define HOPPER_ROWS      128 /* of a tile */
#define HOPPER_STEP      64  /* of k in a stage */
#define HOPPER_THREADS   384
#define HOPPER_GROUP     128  /* threads of a warpgroup */
#define HOPPER_BOX_BYTES 8192 /* of 64 rows of 128 bytes */
#define HOPPER_A_BYTES   (HOPPER_ROWS * HOPPER_STEP * 2)

enum hopper_epilogue { HOPPER_PLAIN, HOPPER_FULL, HOPPER_GATED };

/* By value to the kernel. Columns are those of the sums; gated: gate and up. */
struct hopper_work {
    int m, columns_c;     /* of C */
    int units_m, units_n; /* units: the tiles of a cluster; tiles */
    int splits;           /* parts of k, each a C of its own, split_rows rows below the one before */
    int steps_each, split_rows;
    int together; /* units of M that are walked before the next columns */
    int steps;    /* of k */
    int half;     /* columns from a tile's first half of B to its second */
    int across;   /* columns of C in a tile */
    int cluster, add;
};

template <int columns> struct hopper_tile {
    static const int stages = columns == 256 ? 4 : 6;
    static const int blocks = 256 / columns;           /* of 64 rows, for one consumer */
    static const int readers = columns == 256 ? 2 : 1; /* consumers of a stage, in a block */
    static const int half_bytes = columns / 2 * HOPPER_STEP * 2;
    static const int stage_bytes = HOPPER_A_BYTES + 2 * half_bytes;
    static const int out_at = stages * stage_bytes;
    static const int bars_at = out_at + 4 * HOPPER_BOX_BYTES;
    static const int shared_bytes = bars_at + (2 * stages + 2) * 8;
};

struct hopper_place {
    int m_unit, n_unit;
    int first, steps; /* of k */
    int row;          /* of C, where the part of k has its own */
};

/* Number `unit` of the walk: a part of k after the other; in it down `together` units of M, then the next columns, then
 * the next rows. */
HOPPER hopper_place hopper_walk(const hopper_work &w, int unit) {
    const int part = unit / (w.units_m * w.units_n), tile = unit % (w.units_m * w.units_n);
    const int band = w.together * w.units_n, first = tile / band * w.together, in = tile % band;
    const int rows = min(w.together, w.units_m - first);
    hopper_place p;
    p.m_unit = first + in % rows;
    p.n_unit = in / rows;
    p.first = part * w.steps_each;
    p.steps = min(w.steps_each, w.steps - p.first);
    p.row = part * w.split_rows;
    return p;
}
HOPPER int hopper_units(const hopper_work &w) {
    return w.splits * w.units_m * w.units_n;
}

/* The boxes of stage s: what is k0 to k0 + 64 of A's rows m0 on and of B's columns n0 on. */
template <int columns, int trans_a, int trans_b>
HOPPER void hopper_load(const hopper_work &w, const CUtensorMap *map_a, const CUtensorMap *map_b,
                        unsigned char *stage, uint64_t *full, int m0, int n0, int k0, int rank) {
    typedef hopper_tile<columns> tile;
    mbar_expect_tx(full, tile::stage_bytes);
    if (trans_a) { /* boxes of 64 rows of k by 64 of m */
        tma_load(stage, map_a, full, m0, k0);
        tma_load(stage + HOPPER_A_BYTES / 2, map_a, full, m0 + 64, k0);
    } else {
        tma_load(stage, map_a, full, k0, m0);
    }
    for (int h = 0; h < 2; h++) {
        if (w.cluster == 2 && h != rank) continue; /* the other block's, which sends it here */
        unsigned char *to = stage + HOPPER_A_BYTES + h * tile::half_bytes;
        const int n = n0 + h * w.half;
        const int boxes = trans_b ? columns / 128 : 1;
        for (int i = 0; i < boxes; i++, to += HOPPER_BOX_BYTES) {
            const int c0 = trans_b ? n + 64 * i : k0, c1 = trans_b ? k0 : n;
            if (w.cluster == 2)
                tma_multicast(to, map_b, full, 3, c0, c1);
            else
                tma_load(to, map_b, full, c0, c1);
        }
    }
}

template <int columns, int trans_a, int trans_b>
HOPPER void hopper_produce(const hopper_work &w, const CUtensorMap *map_a, const CUtensorMap *map_b,
                           unsigned char *shared, uint64_t *full, uint64_t *empty) {
    typedef hopper_tile<columns> tile;
    const int rank = (int)cluster_rank(), workers = (int)gridDim.x / w.cluster;
    uint32_t at = 0;
    tma_prefetch_map(map_a);
    tma_prefetch_map(map_b);
    for (int unit = (int)blockIdx.x / w.cluster; unit < hopper_units(w); unit += workers) {
        const hopper_place p = hopper_walk(w, unit);
        const int m0 = (p.m_unit * w.cluster + rank) * HOPPER_ROWS, n0 = p.n_unit * w.across;
        for (int i = 0; i < p.steps; i++, at++) {
            const uint32_t s = at % tile::stages;
            mbar_wait(&empty[s], (at / tile::stages & 1) ^ 1); /* the first round finds every stage empty */
            hopper_load<columns, trans_a, trans_b>(w, map_a, map_b, shared + s * tile::stage_bytes, &full[s],
                                                   m0, n0, (p.first + i) * HOPPER_STEP, rank);
        }
    }
}

/* This warpgroup is through with the stage: tells the producers of all blocks that write into it. */
HOPPER void hopper_release(const hopper_work &w, uint64_t *empty) {
    const int thread = (int)threadIdx.x % HOPPER_GROUP;
    if (thread < w.cluster) mbar_arrive_at(empty, (uint32_t)thread);
}

/* The sums of one tile; `steps` of k, in stages from number `at` on. a_offset: of this consumer's rows in A's part of a stage. */
template <int columns, int trans_a, int trans_b>
HOPPER void hopper_multiply(const hopper_work &w, unsigned char *shared, uint64_t *full, uint64_t *empty,
                            uint32_t at, int steps, int a_offset, float (&d)[256 / columns][columns / 2]) {
    typedef hopper_tile<columns> tile;
    const int a_next = trans_a ? 16 * 128 : 16 * 2,
              b_next = trans_b ? 16 * 128 : 16 * 2; /* bytes for 16 of k */
    for (int i = 0; i < steps; i++, at++) {
        const uint32_t s = at % tile::stages;
        unsigned char *stage = shared + s * tile::stage_bytes;
        const uint64_t a =
            trans_a ? wgmma_mn_major(stage + a_offset, HOPPER_BOX_BYTES) : wgmma_k_major(stage + a_offset);
        const uint64_t b = trans_b ? wgmma_mn_major(stage + HOPPER_A_BYTES, HOPPER_BOX_BYTES)
                                   : wgmma_k_major(stage + HOPPER_A_BYTES);
        mbar_wait(&full[s], at / tile::stages & 1);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HOPPER_STEP / 16; k++)
#pragma unroll
            for (int r = 0; r < tile::blocks; r++)
                wgmma<columns, trans_a, trans_b>(
                    d[r], wgmma_advance(a, (uint32_t)(k * a_next + r * HOPPER_BOX_BYTES)),
                    wgmma_advance(b, (uint32_t)(k * b_next)), i + k);
        wgmma_commit();
        wgmma_wait<1>(); /* the step before */
        if (i) hopper_release(w, &empty[(at - 1) % tile::stages]);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int r = 0; r < tile::blocks; r++) wgmma_pin(d[r]);
    hopper_release(w, &empty[(at - 1) % tile::stages]);
}

/* --- C leaves: plain, by TMA --- */

/* Box `box` of a block of 64 rows: sums -> bf16 or f32 -> staging at `out`, swizzled. */
template <int f32, int count>
HOPPER void hopper_stage_box(const float (&d)[count], unsigned char *out, int box) {
    const int lane = (int)threadIdx.x % 32,
              rows = (int)threadIdx.x % HOPPER_GROUP / 32 * 16; /* of this warp */
    if constexpr (f32) {
#pragma unroll
        for (int i = 0; i < 8; i++) { /* 8 columns of 4 bytes a fragment: 32 bytes of the row */
            const uint32_t at = (uint32_t)((rows + lane / 4 + i % 2 * 8) * 128 + i / 2 * 32 + lane % 4 * 8);
            shared_store(out + swizzle128(at), make_float2(d[box * 16 + 2 * i], d[box * 16 + 2 * i + 1]));
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) { /* matrices 0, 2: rows 0-7; 1, 3: 8-15; 2, 3: the next 8 columns */
            uint32_t r[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                r[j] = pack2(d[box * 32 + i * 8 + 2 * j], d[box * 32 + i * 8 + 2 * j + 1]);
            stmatrix_x4(out + swizzle128((uint32_t)((rows + lane % 16) * 128 + (2 * i + lane / 16) * 16)), r);
        }
    }
}

/* 64 rows from m0 on, through the two staging boxes of this consumer. Thread 0 of the warpgroup owns the stores. */
template <int f32, int count>
HOPPER void hopper_store_plain(const hopper_work &w, const float (&d)[count], const CUtensorMap *map_c,
                               unsigned char *out, int consumer, int m0, int n0) {
    const int wide = f32 ? 32 : 64, owner = threadIdx.x % HOPPER_GROUP == 0;
#pragma unroll
    for (int box = 0; box < 2 * count / wide; box++) {
        unsigned char *to = out + box % 2 * HOPPER_BOX_BYTES;
        if (owner) tma_wait_read<1>(); /* the store before the last has read this box */
        named_sync(1 + consumer, HOPPER_GROUP);
        hopper_stage_box<f32>(d, to, box);
        fence_async();
        named_sync(1 + consumer, HOPPER_GROUP);
        if (!owner) continue;
        if (f32 && w.add)
            tma_add(map_c, to, n0 + box * wide, m0);
        else
            tma_store(map_c, to, n0 + box * wide, m0);
        tma_commit();
    }
}

/* --- C leaves: with an epilogue, by ordinary stores of whole rows --- */

/* Each warp turns its 16 rows through 4 KB of its own, 64 columns of sums at a time, so that all that the epilogue reads
 * and writes is 128 (f32: 256) neighbouring bytes, and its code is a loop. Row r, columns 2 p and 2 p + 1 lie in place
 * p ^ 4 (r % 8) of 32 in the row: fragments come without bank conflicts, rows leave so. */
HOPPER float2 *hopper_turned(float2 *turn, int row, int pair) {
    return turn + row * 32 + (pair ^ row % 8 * 4);
}

/* Columns 8 first to 8 first + 32 of the sums to pairs at on. */
template <int count> HOPPER void hopper_turn(const float (&d)[count], float2 *turn, int first, int pairs_at) {
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 8; i++)
        *hopper_turned(turn, lane / 4 + i % 2 * 8, pairs_at + i / 2 * 4 + lane % 4) =
            make_float2(d[first * 4 + 2 * i], d[first * 4 + 2 * i + 1]);
}

/* 16 rows from m0 on, 64 columns from n0 on; what the epilogue reads for `reads` rows is under way together. */
template <int reads>
HOPPER void hopper_finish_rows(const gemm_epi &e, const hopper_work &w, float2 *turn, int m0, int n0) {
    const int lane = (int)threadIdx.x % 32, n = n0 + 2 * lane;
#pragma unroll 1
    for (int row = 0; row < 16; row += reads) {
        epi_reads beside[reads];
        const int rows = n < w.columns_c ? min(reads, w.m - m0 - row) : 0;
#pragma unroll
        for (int i = 0; i < reads; i++)
            if (i < rows) beside[i] = epi_read2(e, m0 + row + i, n);
#pragma unroll
        for (int i = 0; i < reads; i++) {
            float2 pre, v;
            if (i >= rows) continue;
            v = epi_apply2(e, beside[i], *hopper_turned(turn, row + i, lane), &pre);
            epi_put_pre2(e, m0 + row + i, n, pre);
            epi_put_c2(e, m0 + row + i, n, v);
        }
    }
}

/* 16 rows from m0 on, 32 columns of C from n0 on: gate in pairs 0 to 15, up in 16 to 31. */
HOPPER void hopper_finish_gated(const gemm_epi &e, const hopper_work &w, float2 *turn, int m0, int n0) {
    const int lane = (int)threadIdx.x % 32, n = n0 + lane % 16 * 2;
#pragma unroll 2
    for (int row = lane / 16; row < 16; row += 2)
        if (m0 + row < w.m)
            epi_store_gated2(e, m0 + row, n, *hopper_turned(turn, row, lane % 16),
                             *hopper_turned(turn, row, 16 + lane % 16));
}

/* Blocks of 64 rows from m0 on. */
template <int kind, int f32, int blocks, int count>
HOPPER void hopper_store_finished(const gemm_epi &any, const hopper_work &w, const float (&d)[blocks][count],
                                  unsigned char *out, int m0, int n0) {
    const int warp = (int)threadIdx.x % HOPPER_GROUP / 32, gated = kind == HOPPER_GATED;
    const int groups = count / 4, up = gated ? groups / 2 : 4,
              step = gated ? 4 : 8; /* groups: 8 columns of sums */
    const int parts = groups / 8;
    float2 *turn = (float2 *)out + warp * 16 * 32;
    gemm_epi e = any; /* what is known here leaves the code */
    e.in_bf16 = 1;
    e.out_bf16 = !f32;
    if (!f32) e.add = 0;
#pragma unroll 1
    for (int part = 0; part < blocks * parts; part++) {
        const int m = m0 + part / parts * 64 + 16 * warp;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < blocks * parts; i++) { /* registers have no run-time numbers */
            if (i != part) continue;
            hopper_turn(d[i / parts], turn, step * (i % parts), 0);
            hopper_turn(d[i / parts], turn, step * (i % parts) + up, 16);
        }
        __syncwarp();
        if (gated)
            hopper_finish_gated(e, w, turn, m, n0 + part % parts * 32);
        else
            hopper_finish_rows<f32 ? 4 : 8>(e, w, turn, m, n0 + part % parts * 64);
    }
}

/* A consumer warpgroup: its tiles one after the other. turn: two mbarriers, of the tiles' main loops. */
template <int columns, int trans_a, int trans_b, int kind, int f32>
HOPPER void hopper_consume(const hopper_work &w, const gemm_epi &e, const CUtensorMap *map_c,
                           unsigned char *shared, uint64_t *full, uint64_t *empty, uint64_t *turn,
                           int consumer) {
    typedef hopper_tile<columns> tile;
    const int in_turn = tile::readers == 1, rank = (int)cluster_rank(), workers = (int)gridDim.x / w.cluster;
    const int rows_at = in_turn ? 0 : 64 * consumer;
    unsigned char *out = shared + tile::out_at + consumer * 2 * HOPPER_BOX_BYTES;
    int number = 0;  /* of the tile, among this block's */
    uint32_t at = 0; /* of its first stage */
    for (int unit = (int)blockIdx.x / w.cluster; unit < hopper_units(w); unit += workers, number++) {
        float d[tile::blocks][columns / 2];
        const hopper_place p = hopper_walk(w, unit);
        const uint32_t from = at;
        at += (uint32_t)p.steps;
        if (in_turn && number % 2 != consumer) continue;
        const int m0 = (p.m_unit * w.cluster + rank) * HOPPER_ROWS + rows_at, n0 = p.n_unit * w.across;
        /* the first consumer's first turn is there from the start */
        if (in_turn) mbar_wait(&turn[consumer], (uint32_t)(number / 2 & 1) ^ (consumer == 0));
        hopper_multiply<columns, trans_a, trans_b>(w, shared, full, empty, from, p.steps, rows_at * 128, d);
        if (in_turn && threadIdx.x % HOPPER_GROUP == 0) mbar_arrive(&turn[1 - consumer]);
        if constexpr (kind == HOPPER_PLAIN) {
#pragma unroll
            for (int r = 0; r < tile::blocks; r++)
                hopper_store_plain<f32>(w, d[r], map_c, out, consumer, p.row + m0 + 64 * r, n0);
        } else {
            hopper_store_finished<kind, f32>(e, w, d, out, m0, n0);
        }
    }
    if (kind == HOPPER_PLAIN && threadIdx.x % HOPPER_GROUP == 0)
        tma_wait_read<0>(); /* the staging lives as long as the block */
}

/* trans_a: A is [K, M]; trans_b: B is [K, N] (both: not contiguous along k). kind: hopper_epilogue; f32: C's dtype. */
template <int columns, int trans_a, int trans_b, int kind, int f32>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    hopper_gemm_kernel(const __grid_constant__ hopper_work w, const __grid_constant__ gemm_epi e,
                       const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                       const __grid_constant__ CUtensorMap map_c) {
#ifdef HOPPER_HERE
    typedef hopper_tile<columns> tile;
    WEFT_DYNAMIC(shared);
    uint64_t *full = (uint64_t *)(shared + tile::bars_at), *empty = full + tile::stages,
             *turn = empty + tile::stages;
    if (threadIdx.x == 0) {
        if (smem_address(shared) % 1024) hopper_trap(); /* the swizzle follows addresses */
        for (int s = 0; s < tile::stages; s++) {
            mbar_init(&full[s], 1);
            mbar_init(&empty[s], (uint32_t)(tile::readers * w.cluster));
        }
        mbar_init(&turn[0], 1);
        mbar_init(&turn[1], 1);
        mbar_init_fence();
    }
    cluster_sync();
    if (threadIdx.x < HOPPER_GROUP) {
        registers_lower<24>();
        if (threadIdx.x == 0)
            hopper_produce<columns, trans_a, trans_b>(w, &map_a, &map_b, shared, full, empty);
    } else {
        registers_raise<240>();
        hopper_consume<columns, trans_a, trans_b, kind, f32>(w, e, &map_c, shared, full, empty, turn,
                                                             (int)threadIdx.x / HOPPER_GROUP - 1);
    }
    __syncwarp();
    cluster_sync(); /* no block ends while another may still arrive on its barriers or write into its stages */
#endif
}

#endif
