/* wgmma: D[64, N] = A[64, 16] B[16, N] (+ D), bf16 in, f32 sums, by a warpgroup (four warps, the first a multiple of
 * four), asynchronous. PTX ISA, "asynchronous warpgroup level matrix multiply-accumulate".
 *
 * Fragments, lane l of warp w of the warpgroup, g = l / 4, t = l % 4:
 *  - D: d[4 j + i], j < N / 8, is row 16 w + g + 8 (i / 2), column 8 j + 2 t + i % 2.
 *  - A in registers: a[i] holds row 16 w + g + 8 (i % 2), columns 2 t + 8 (i / 2) (low half) and the next.
 * So two neighbouring 8-column groups of D, rounded to bf16 and packed, are an A fragment.
 *
 * Operands in shared memory, 128-byte swizzle, tiles as TMA boxes of 64 elements a row leave them:
 *  - K-major (trans 0): rows of M or N, 64 k a row of 128 bytes. wgmma_k_major(tile + row * 128); the next 16 k:
 *    + 32 bytes. Rows in groups of 8, 1024 bytes apart.
 *  - MN-major (trans 1): rows of k, 64 of M or N a row. wgmma_mn_major(tile + k * 128, bytes between a box of 64
 *    columns and the next); the next 16 k: + 2048 bytes.
 *
 * Order of use: wgmma_fence(), wgmma<...>() ..., wgmma_commit(), wgmma_wait<groups still in flight>(), wgmma_pin(d).
 * Between issue and wait D must not be touched; operands in shared memory not be overwritten; A in registers neither. */
#ifndef WEFT_KERNELS_CUDA_HOPPER_WGMMA_CUH
#define WEFT_KERNELS_CUDA_HOPPER_WGMMA_CUH

#include "kernels/cuda/hopper.cuh"

/* The descriptor of an operand: address, strides of its two modes (both in 16-byte units), 128-byte swizzle. */
HOPPER uint64_t wgmma_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | (uint64_t)1 << 62;
}
HOPPER uint64_t wgmma_k_major(const void *tile) {
    return wgmma_descriptor(smem_address(tile), 16, 1024);
}
HOPPER uint64_t wgmma_mn_major(const void *tile, uint32_t box_bytes) {
    return wgmma_descriptor(smem_address(tile), box_bytes, 1024);
}
/* The same operand so many bytes on. */
HOPPER uint64_t wgmma_advance(uint64_t descriptor, uint32_t bytes) {
    return descriptor + (bytes >> 4);
}

#ifndef WEFT_EMULATED

/* Before the first wgmma of a group: registers that threads wrote (D, A) are ready. */
HOPPER void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
HOPPER void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int n> HOPPER void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/* Keeps the compiler from moving uses of d across this place (it does not know that wgmma writes d later). */
template <int R> HOPPER void wgmma_pin(float (&d)[R]) {
#pragma unroll
    for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#define WGMMA_D16(i)                                                                                         \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),              \
        "+f"(d[i + 6]), "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]),    \
        "+f"(d[i + 12]), "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define WGMMA_D32  WGMMA_D16(0), WGMMA_D16(16)
#define WGMMA_D48  WGMMA_D32, WGMMA_D16(32)
#define WGMMA_D64  WGMMA_D48, WGMMA_D16(48)
#define WGMMA_D96  WGMMA_D64, WGMMA_D16(64), WGMMA_D16(80)
#define WGMMA_D128 WGMMA_D96, WGMMA_D16(96), WGMMA_D16(112)
#define WGMMA_R32                                                                                            \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "   \
    "%22, %23, "                                                                                             \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_R48 WGMMA_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_R64 WGMMA_R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_R96                                                                                            \
    WGMMA_R64                                                                                                \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, "      \
    "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_R128                                                                                           \
    WGMMA_R96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
              "%111, %112, "                                                                                 \
              "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

/* R = N / 2 registers of D; the numbers behind it are those of the operands that follow. */
#define WGMMA_SHARED(N, R, A, B, P, TA, TB)                                                                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P ", 0;\n"                                             \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_R##R                     \
                 "}, %" A ", %" B ", p, 1, 1, %" TA ", %" TB ";\n}"                                          \
                 : WGMMA_D##R                                                                                \
                 : "l"(a), "l"(b), "r"(accumulate), "n"(trans_a), "n"(trans_b)                               \
                 : "memory")
#define WGMMA_REGISTERS(N, R, A0, A1, A2, A3, B, P, TB)                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P ", 0;\n"                                             \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_R##R                     \
                 "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, %" TB ";\n}"                     \
                 : WGMMA_D##R                                                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(trans_b)         \
                 : "memory")

/* accumulate 0: D = A B. */
template <int N, int trans_a, int trans_b>
HOPPER void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
    static_assert(N == 64 || N == 96 || N == 128 || N == 192 || N == 256, "wgmma: N");
    if constexpr (N == 64) WGMMA_SHARED(64, 32, "32", "33", "34", "35", "36");
    if constexpr (N == 96) WGMMA_SHARED(96, 48, "48", "49", "50", "51", "52");
    if constexpr (N == 128) WGMMA_SHARED(128, 64, "64", "65", "66", "67", "68");
    if constexpr (N == 192) WGMMA_SHARED(192, 96, "96", "97", "98", "99", "100");
    if constexpr (N == 256) WGMMA_SHARED(256, 128, "128", "129", "130", "131", "132");
}

/* A in registers. */
template <int N, int trans_b>
HOPPER void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    static_assert(N == 64 || N == 96 || N == 128 || N == 192 || N == 256, "wgmma: N");
    if constexpr (N == 64) WGMMA_REGISTERS(64, 32, "32", "33", "34", "35", "36", "37", "38");
    if constexpr (N == 96) WGMMA_REGISTERS(96, 48, "48", "49", "50", "51", "52", "53", "54");
    if constexpr (N == 128) WGMMA_REGISTERS(128, 64, "64", "65", "66", "67", "68", "69", "70");
    if constexpr (N == 192) WGMMA_REGISTERS(192, 96, "96", "97", "98", "99", "100", "101", "102");
    if constexpr (N == 256) WGMMA_REGISTERS(256, 128, "128", "129", "130", "131", "132", "133", "134");
}

#undef WGMMA_SHARED
#undef WGMMA_REGISTERS
#endif

#endif
