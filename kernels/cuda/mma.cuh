/* The tensor cores and the asynchronous copies that every GPU from sm_80 on has: mma.sync, ldmatrix, cp.async. Thin
 * wrappers, one instruction each, named after the PTX ISA manual, which is the source of their layouts; with WEFT_EMULATED
 * their functional models. All 32 lanes of a warp call mma_* and ldmatrix_* together. Not in clusters (the models keep
 * the operands of one block).
 *
 * Fragments of D[16,8] += A[16,16] B[16,8], with g = lane / 4 and t = lane % 4 (bf16 pairs, the first in the low half):
 *   a[0]: row g,  k 2t, 2t+1     a[1]: row g+8, the same k     a[2], a[3]: the same rows, k 2t+8, 2t+9
 *   b[0]: k 2t, 2t+1, column g   b[1]: k 2t+8, 2t+9, column g
 *   d[0], d[1]: row g, columns 2t, 2t+1     d[2], d[3]: row g+8
 * The products are exact; how their sum and D are rounded is the hardware's own. */
#ifndef WEFT_KERNELS_CUDA_MMA_CUH
#define WEFT_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/device.cuh"

#ifndef WEFT_EMULATED

static __device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8x8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l % 8 of matrix l / 8
 * (16 bytes, 16-byte aligned) and gets in r[i] the elements 2t, 2t+1 of row g of matrix i. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
/* The same of the transposed matrices: r[i] holds column g of rows 2t, 2t+1. */
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes of shared memory from global memory, of which only the first `bytes` (0 to 16) are read; the rest becomes 0.
 * Both addresses 16-byte aligned. Past the L1 cache. Visible to this thread after cp_async_wait, to others after a
 * barrier more. */
static __device__ __forceinline__ void cp_async_16(void *to, const void *from, int bytes) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
        "l"(from), "r"(bytes)
        : "memory");
}
/* Ends a group of copies of this thread. */
static __device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of the latest groups of this thread are under way. */
template <int N> static __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

#define MMA_THREADS      1024

/* What the lanes of a warp show each other. Two of each, used in turn: who writes the next has seen that all have read
 * the one before. */
struct mma_operands {
    uint32_t of[2][MMA_THREADS][6];
    unsigned turn[MMA_THREADS];
};
inline mma_operands mma_shown;

/* Gives n words; the words of all lanes of the warp. */
static inline uint32_t (*mma_exchange(const uint32_t *mine, int n))[6] {
    const unsigned thread = emu_self->linear, turn = mma_shown.turn[thread]++ & 1;
    memcpy(mma_shown.of[turn][thread], mine, (size_t)n * sizeof *mine);
    __syncwarp();
    return &mma_shown.of[turn][thread & ~31u];
}

static inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    uint32_t(*all)[6] = mma_exchange(mine, 6);
    const int g = (int)emu_self->lane / 4, t = (int)emu_self->lane % 4;
    for (int i = 0; i < 4; i++) {
        const int row = i / 2, column = 2 * t + i % 2;
        double sum = 0;
        for (int k = 0; k < 16; k += 2) {
            const int high = k / 8, quad = k % 8 / 2;
            const float2 u = unpack2(all[4 * g + quad][2 * high + row]);
            const float2 v = unpack2(all[4 * column + quad][4 + high]);
            sum += (double)u.x * (double)v.x + (double)u.y * (double)v.y;
        }
        d[i] = (float)((double)d[i] + sum);
    }
}

static inline const uint16_t *ldmatrix_row(uint32_t (*all)[6], int matrix, int row) {
    const uint32_t *word = all[8 * matrix + row];
    return (const uint16_t *)((uintptr_t)word[0] | (uintptr_t)word[1] << 32);
}
static inline void ldmatrix_show(const void *row, uint32_t (**all)[6]) {
    const uint32_t mine[2] = {(uint32_t)(uintptr_t)row, (uint32_t)((uintptr_t)row >> 32)};
    if ((uintptr_t)row % 16) emu_die("ldmatrix: the address of a row is not a multiple of 16");
    *all = mma_exchange(mine, 2);
}
static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    uint32_t(*all)[6];
    ldmatrix_show(row, &all);
    for (int i = 0; i < 4; i++)
        memcpy(&r[i], ldmatrix_row(all, i, (int)emu_self->lane / 4) + 2 * (emu_self->lane % 4), 4);
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    uint32_t(*all)[6];
    ldmatrix_show(row, &all);
    const int g = (int)emu_self->lane / 4, t = (int)emu_self->lane % 4;
    for (int i = 0; i < 4; i++)
        r[i] = ldmatrix_row(all, i, 2 * t)[g] | (uint32_t)ldmatrix_row(all, i, 2 * t + 1)[g] << 16;
}

/* Copies that a thread has asked for and that are done as late as the manual allows: when it waits for them. */
#define CP_ASYNC_PENDING 64
struct cp_async_copy {
    void *to;
    const void *from;
    int bytes;
    unsigned group;
};
struct cp_async_queue {
    cp_async_copy copy[CP_ASYNC_PENDING];
    unsigned first, end, groups;
};
inline cp_async_queue cp_async_queues[MMA_THREADS];

static inline void cp_async_16(void *to, const void *from, int bytes) {
    cp_async_queue *q = &cp_async_queues[emu_self->linear];
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) emu_die("cp.async: an address is not a multiple of 16");
    if (bytes < 0 || bytes > 16) emu_die("cp.async: %d bytes of 16", bytes);
    if (q->end - q->first == CP_ASYNC_PENDING)
        emu_die("cp.async: more than %d pending copies", CP_ASYNC_PENDING);
    const cp_async_copy c = {to, from, bytes, q->groups};
    q->copy[q->end++ % CP_ASYNC_PENDING] = c;
}
static inline void cp_async_commit() {
    cp_async_queues[emu_self->linear].groups++;
}
template <int N> static inline void cp_async_wait() {
    cp_async_queue *q = &cp_async_queues[emu_self->linear];
    for (; q->first != q->end && q->copy[q->first % CP_ASYNC_PENDING].group + N < q->groups; q->first++) {
        const cp_async_copy *c = &q->copy[q->first % CP_ASYNC_PENDING];
        memset(c->to, 0, 16);
        if (c->bytes) memcpy(c->to, c->from, (size_t)c->bytes);
    }
}

#endif
#endif
