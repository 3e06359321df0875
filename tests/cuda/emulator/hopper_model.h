/* Functional models of the instructions of kernels/cuda/hopper.cuh and hopper_wgmma.cuh, from the PTX ISA manual: what they
 * compute, and which rules of theirs a kernel breaks (the program ends with a message).
 *
 * Time is modelled at its worst. A TMA load leaves NaN in its destination when it is issued and brings the bytes later, in an
 * order of its own. A wgmma takes its operands when the first of its threads issues it, leaves NaN in the accumulators, and
 * gives the sums in each thread's wait; operands that have changed by then are an error. A TMA store reads its source in
 * wait_group.read and not before; a source that has changed since is an error, and so is a block that ends before that.
 *
 * Detected: waits for phases that never end (a deadlock), arrivals beyond the count, transaction counts out of range, an
 * mbarrier that is used by TMA or by other blocks without the init fence, that was overwritten, or whose block has ended;
 * shared_store and stmatrix data read by wgmma or TMA without the writer's fence; wgmma without wgmma.fence since the last
 * commit, accumulators touched in flight, threads of a warpgroup that disagree, descriptors and boxes that the device would
 * refuse. Not detected: plain stores read by wgmma or TMA without a fence, A fragments in registers changed in flight. */
#ifndef WEFT_TESTS_CUDA_HOPPER_MODEL_H
#define WEFT_TESTS_CUDA_HOPPER_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_runtime.h"
#include "tests/cuda/emulator/emulator.h"

#define HOPPER static inline

/* --- the part of <cuda.h> that maps need; values as there --- */

typedef int CUresult;
#define CUDA_SUCCESS             0
#define CUDA_ERROR_INVALID_VALUE 1
typedef struct CUtensorMap {
    alignas(128) uint64_t opaque[16];
} CUtensorMap;
typedef enum {
    CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
    CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9
} CUtensorMapDataType;
typedef enum { CU_TENSOR_MAP_INTERLEAVE_NONE } CUtensorMapInterleave;
typedef enum { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 } CUtensorMapSwizzle;
typedef enum {
    CU_TENSOR_MAP_L2_PROMOTION_NONE = 0,
    CU_TENSOR_MAP_L2_PROMOTION_L2_128B = 2,
    CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3
} CUtensorMapL2promotion;
typedef enum { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE } CUtensorMapFloatOOBfill;
EMU_API CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, uint32_t rank, void *base,
                                        const uint64_t *size, const uint64_t *stride_bytes,
                                        const uint32_t *box, const uint32_t *element_stride,
                                        CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                        CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

/* --- as in hopper.cuh --- */

EMU_API uint32_t smem_address(const void *p);

EMU_API void mbar_init(uint64_t *bar, uint32_t arrivals);
EMU_API void mbar_init_fence(void);
EMU_API void mbar_expect_tx(uint64_t *bar, uint32_t bytes);
EMU_API void mbar_arrive(uint64_t *bar);
EMU_API void mbar_arrive_at(uint64_t *bar, uint32_t cta);
EMU_API int mbar_try_wait(uint64_t *bar, uint32_t parity);
EMU_API void mbar_wait(uint64_t *bar, uint32_t parity);
EMU_API void fence_async(void);

EMU_API void emu_tma_load(void *dst, const CUtensorMap *map, uint64_t *bar, uint32_t mask, int rank,
                          const int *at);
EMU_API void emu_tma_store(const CUtensorMap *map, const void *src, int add, int rank, const int *at);
EMU_API void emu_tma_wait(int groups, int written);
EMU_API void tma_prefetch_map(const CUtensorMap *map);
EMU_API void tma_commit(void);
template <int n> HOPPER void tma_wait_read() {
    emu_tma_wait(n, 0);
}
template <int n> HOPPER void tma_wait() {
    emu_tma_wait(n, 1);
}
/* Coordinates: 2 to 4 of them. mask 0: this block only. */
template <class... I> HOPPER void tma_load(void *dst, const CUtensorMap *map, uint64_t *bar, int c0, I... c) {
    const int at[] = {c0, c...};
    emu_tma_load(dst, map, bar, 0, 1 + (int)sizeof...(c), at);
}
template <class... I>
HOPPER void tma_multicast(void *dst, const CUtensorMap *map, uint64_t *bar, uint16_t mask, int c0, I... c) {
    const int at[] = {c0, c...};
    emu_tma_load(dst, map, bar, mask, 1 + (int)sizeof...(c), at);
}
template <class... I> HOPPER void tma_store(const CUtensorMap *map, const void *src, int c0, I... c) {
    const int at[] = {c0, c...};
    emu_tma_store(map, src, 0, 1 + (int)sizeof...(c), at);
}
template <class... I> HOPPER void tma_add(const CUtensorMap *map, const void *src, int c0, I... c) {
    const int at[] = {c0, c...};
    emu_tma_store(map, src, 1, 1 + (int)sizeof...(c), at);
}

EMU_API void emu_shared_store(void *p, const void *v, size_t bytes);
HOPPER void shared_store(void *p, uint4 v) {
    emu_shared_store(p, &v, sizeof v);
}
HOPPER void shared_store(void *p, float2 v) {
    emu_shared_store(p, &v, sizeof v);
}
EMU_API void emu_stmatrix(void *row, const uint32_t *r, int trans);
HOPPER void stmatrix_x4(void *row, const uint32_t (&r)[4]) {
    emu_stmatrix(row, r, 0);
}
HOPPER void stmatrix_x4_trans(void *row, const uint32_t (&r)[4]) {
    emu_stmatrix(row, r, 1);
}

EMU_API void emu_set_registers(int n);
template <int n> HOPPER void registers_lower() {
    emu_set_registers(n);
}
template <int n> HOPPER void registers_raise() {
    emu_set_registers(n);
}
EMU_API void named_sync(int id, int threads);
EMU_API void named_arrive(int id, int threads);
EMU_API int elect_one(void);
EMU_API uint32_t cluster_rank(void);
EMU_API void cluster_arrive(void);
EMU_API void cluster_wait(void);
HOPPER void hopper_trap() {
    emu_die("trap");
}

/* --- as in hopper_wgmma.cuh --- */

EMU_API void wgmma_fence(void);
EMU_API void wgmma_commit(void);
EMU_API void emu_wgmma_wait(int groups);
template <int n> HOPPER void wgmma_wait() {
    emu_wgmma_wait(n);
}
template <int R> HOPPER void wgmma_pin(float (&d)[R]) {
    (void)d;
}
/* a_registers: NULL: A is in shared memory. */
EMU_API void emu_wgmma(int n, float *d, const uint32_t *a_registers, uint64_t a, uint64_t b, int trans_a,
                       int trans_b, int accumulate);
template <int N, int trans_a, int trans_b>
HOPPER void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
    emu_wgmma(N, d, nullptr, a, b, trans_a, trans_b, accumulate);
}
template <int N, int trans_b>
HOPPER void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    emu_wgmma(N, d, a, 0, b, 0, trans_b, accumulate);
}

#endif
