/* The instructions of sm_90a that CUDA C++ has no words for: mbarrier, the bulk tensor copy engine (TMA), wgmma
 * descriptors, stmatrix, register reallocation, named barriers, clusters. Thin wrappers, one instruction each; names
 * follow the PTX ISA manual, which is the source of every one. wgmma itself stands in hopper_wgmma.cuh.
 *
 * With WEFT_EMULATED the same functions come from tests/cuda/emulator/hopper_model.h, which checks their rules.
 *
 * Rules (the model enforces what is marked *)
 *  - Shared memory of these kernels is dynamic, WEFT_DYNAMIC (1024-aligned); the first 4 KB of it or a struct at its
 *    end hold the mbarriers (uint64_t).
 *  - mbarrier: init by one thread, then mbar_init_fence() by it*, then a barrier of all users (cluster_sync in a
 *    cluster). A wait names the parity of the phase it waits for: 0 first, flipping each time the ring wraps. A wait
 *    for parity 1 on a fresh barrier returns at once.
 *  - A TMA load's bytes are visible only after the wait for its mbarrier*; its destination must be free when it is
 *    issued*. 128-byte swizzle: boxes are 64 bf16 (32 f32) wide, 1024-aligned*.
 *  - What threads write into shared memory by ordinary stores (shared_store, stmatrix) and wgmma or TMA read next needs
 *    fence_async() by each writing thread*, then a barrier.
 *  - TMA store: one thread issues, tma_commit(), tma_wait_read<n>() before its source is written again*,
 *    tma_wait<0>() or the kernel's end before others read the result.
 *  - setmaxnreg: whole warpgroups, in a kernel with __launch_bounds__(threads, 1), each role one branch of one if/else.
 *  - A cluster's blocks must not end while others may still arrive on their barriers*: cluster_sync() last. */
#ifndef WEFT_KERNELS_CUDA_HOPPER_CUH
#define WEFT_KERNELS_CUDA_HOPPER_CUH

#include <stddef.h>
#include <stdint.h>

/* Other GPUs compile kernels of these instructions as empty bodies: #ifdef HOPPER_HERE. */
#if defined(WEFT_EMULATED) || !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_HERE 1
#endif

/* Whether a device of this compute capability runs them: this build may have no code for sm_90a (WEFT_CUDA_ARCHS). */
static inline int hopper_runs_on(int major, int minor) {
#ifdef WEFT_NO_HOPPER
    (void)major;
    (void)minor;
    return 0;
#else
    return major == 9 && minor == 0;
#endif
}

#ifdef WEFT_EMULATED
#include <hopper_model.h> /* tests/cuda/emulator */
#else

#include <cuda.h> /* CUtensorMap; nothing of the driver is linked */
#include <cuda_runtime.h>

#define HOPPER __device__ __forceinline__

/* The 32-bit shared-memory address of p. */
HOPPER uint32_t smem_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* --- mbarrier --- */

/* arrivals: how many arrivals (mbar_arrive, mbar_expect_tx) complete a phase. */
HOPPER void mbar_init(uint64_t *bar, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(bar)), "r"(arrivals)
                 : "memory");
}
/* Makes inits of this thread visible to the copy engine and to the cluster. */
HOPPER void mbar_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/* Arrives, and the phase also waits for so many bytes of TMA loads. */
HOPPER void mbar_expect_tx(uint64_t *bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(bar)), "r"(bytes)
                 : "memory");
}
HOPPER void mbar_arrive(uint64_t *bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(bar)) : "memory");
}
/* Arrives on the barrier at the same place in block `cta` of the cluster (its own included). Orders nothing that this
 * thread wrote before it (that would cost a fence of the whole GPU): for barriers that say "read". */
HOPPER void mbar_arrive_at(uint64_t *bar, uint32_t cta) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(smem_address(bar)),
                 "r"(cta)
                 : "memory");
}
/* 1 if the phase of this parity has completed; may sleep a little first. */
HOPPER int mbar_try_wait(uint64_t *bar, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(smem_address(bar)), "r"(parity)
                 : "memory");
    return (int)done;
}

/* Waits until the phase of this parity has completed. */
HOPPER void mbar_wait(uint64_t *bar, uint32_t parity) {
    while (!mbar_try_wait(bar, parity)) {
    }
}

/* --- fences --- */

/* Ordinary writes of this thread to shared memory become visible to wgmma and TMA. */
HOPPER void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- TMA; coordinates in elements, the innermost first --- */

HOPPER void tma_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A family of one rank: tma_load (box to dst, its bytes count on bar), tma_multicast (to the same place in every block
 * of `mask`, counting on the barrier at the same place there), tma_store (box from src, clipped), tma_add (f32 or bf16
 * as the map says: adds). PARAMS: the coordinates as parameters; OPERANDS: as operands. */
#define HOPPER_TMA(RANK, PARAMS, OPERANDS, AT2, AT3, AT4)                                                    \
    HOPPER void tma_load(void *dst, const CUtensorMap *map, uint64_t *bar, PARAMS) {                         \
        asm volatile("cp.async.bulk.tensor." RANK                                                            \
                     ".shared::cluster.global.tile.mbarrier::complete_tx::bytes"                             \
                     " [%0], [%1, {" AT3 "}], [%2];" ::"r"(smem_address(dst)),                               \
                     "l"(map), "r"(smem_address(bar)), OPERANDS                                              \
                     : "memory");                                                                            \
    }                                                                                                        \
    HOPPER void tma_multicast(void *dst, const CUtensorMap *map, uint64_t *bar, uint16_t mask, PARAMS) {     \
        asm volatile("cp.async.bulk.tensor." RANK                                                            \
                     ".shared::cluster.global.tile.mbarrier::complete_tx::bytes"                             \
                     ".multicast::cluster [%0], [%1, {" AT4 "}], [%2], %3;" ::"r"(smem_address(dst)),        \
                     "l"(map), "r"(smem_address(bar)), "h"(mask), OPERANDS                                   \
                     : "memory");                                                                            \
    }                                                                                                        \
    HOPPER void tma_store(const CUtensorMap *map, const void *src, PARAMS) {                                 \
        asm volatile("cp.async.bulk.tensor." RANK ".global.shared::cta.tile.bulk_group [%0, {" AT2           \
                     "}], [%1];" ::"l"(map),                                                                 \
                     "r"(smem_address(src)), OPERANDS                                                        \
                     : "memory");                                                                            \
    }                                                                                                        \
    HOPPER void tma_add(const CUtensorMap *map, const void *src, PARAMS) {                                   \
        asm volatile("cp.reduce.async.bulk.tensor." RANK                                                     \
                     ".global.shared::cta.add.tile.bulk_group [%0, {" AT2 "}], [%1];" ::"l"(map),            \
                     "r"(smem_address(src)), OPERANDS                                                        \
                     : "memory");                                                                            \
    }

#define HOPPER_C2 int c0, int c1
#define HOPPER_C3 HOPPER_C2, int c2
#define HOPPER_C4 HOPPER_C3, int c3
#define HOPPER_O2 "r"(c0), "r"(c1)
#define HOPPER_O3 HOPPER_O2, "r"(c2)
#define HOPPER_O4 HOPPER_O3, "r"(c3)
HOPPER_TMA("2d", HOPPER_C2, HOPPER_O2, "%2, %3", "%3, %4", "%4, %5")
HOPPER_TMA("3d", HOPPER_C3, HOPPER_O3, "%2, %3, %4", "%3, %4, %5", "%4, %5, %6")
HOPPER_TMA("4d", HOPPER_C4, HOPPER_O4, "%2, %3, %4, %5", "%3, %4, %5, %6", "%4, %5, %6, %7")
#undef HOPPER_TMA

/* The stores and adds of this thread so far are one group. */
HOPPER void tma_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/* All but the latest n groups of this thread have read their sources. */
template <int n> HOPPER void tma_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory");
}
/* ... and have written. */
template <int n> HOPPER void tma_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(n) : "memory");
}

/* --- shared memory --- */

/* 16 bytes to shared memory that wgmma or TMA will read. */
HOPPER void shared_store(void *p, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(smem_address(p)), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}
HOPPER void shared_store(void *p, float2 v) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(smem_address(p)), "f"(v.x), "f"(v.y) : "memory");
}

/* Four 8x8 matrices of 16-bit elements: lane l holds row l/4, columns 2(l%4) and the next, of matrix i in r[i];
 * lane l gives the address (16-aligned) of row l%8 of matrix l/8. */
HOPPER void stmatrix_x4(void *row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
/* The same, but what a lane holds is of the transposed matrix. */
HOPPER void stmatrix_x4_trans(void *row, const uint32_t (&r)[4]) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_address(row)),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
        : "memory");
}

/* --- warps, blocks, clusters --- */

/* Registers of a thread of this warpgroup from here on: n a multiple of 8, 24 to 256. */
template <int n> HOPPER void registers_lower() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> HOPPER void registers_raise() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

/* Barrier id (1 to 15; 0 is __syncthreads) of `threads` threads, a multiple of 32, each calling once. */
HOPPER void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/* Arrives and does not wait; the arriving threads count among `threads`. */
HOPPER void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* 1 in one lane of the converged warp. */
HOPPER int elect_one() {
    uint32_t chosen;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(chosen)::"memory");
    return (int)chosen;
}

HOPPER uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
/* All threads of all blocks of the cluster: arrive (release), and wait (acquire). */
HOPPER void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
HOPPER void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Stops the kernel with an error (a broken promise of the host's code). */
HOPPER void hopper_trap() {
    asm volatile("trap;");
}

#endif

/* --- what both worlds share --- */

HOPPER void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

/* The byte at `offset` of a 1024-aligned tile of 128-byte rows, after the 128-byte swizzle: bits 4 to 6 of the address
 * are exchanged (xor) with bits 7 to 9. Own inverse. */
HOPPER uint32_t swizzle128(uint32_t offset) {
    return offset ^ (offset >> 3 & 0x70);
}

#endif
