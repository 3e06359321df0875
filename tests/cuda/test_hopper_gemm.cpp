/* The Hopper product on the emulated device: every form, epilogue, tile and cluster against double arithmetic, odd sizes;
 * and copies of the kernel with one mistake each, which must be found: by a wrong sum or by a rule of the model. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "kernels/cuda/gemm_epilogue.cuh"
#include "kernels/cuda/hopper_map.h"
#include "kernels/cuda/hopper_wgmma.cuh"

static uint32_t case_state = 1;
/* Eighths in [-2, 2): sums of their products are exact in f32. */
static float case_number() {
    case_state = case_state * 1664525u + 1013904223u;
    return (float)((int)(case_state >> 27) - 16) / 8.0f;
}

/* Each copy of the kernel has a namespace of its own. */
#define KERNEL "kernels/cuda/hopper_gemm.cuh"
#define CASE   "tests/cuda/hopper_case.h"
#define MISTAKEN_CASES                                                                                       \
    static int mistaken() {                                                                                  \
        return run_case<256, 0, 0, HOPPER_PLAIN, 0>(2, 257, 140, 450, 0, 2) +                                \
               run_case<128, 0, 1, HOPPER_PLAIN, 1>(1, 130, 300, 450, 0, 1);                                 \
    }

/* --- right --- */

namespace right {
#include KERNEL
#include CASE
MISTAKEN_CASES

static int sizes_and_forms() {
    int wrong = 0;
    /* columns, trans_a, trans_b, kind, f32 (cluster, m, n, k, add, sms) */
    wrong += run_case<256, 0, 0, HOPPER_PLAIN, 0>(1, 1, 1, 1, 0, 4);
    wrong += run_case<256, 0, 0, HOPPER_PLAIN, 0>(2, 385, 513, 333, 0, 4);
    wrong += run_case<256, 0, 1, HOPPER_PLAIN, 0>(2, 129, 300, 65, 0, 4);
    wrong += run_case<256, 1, 1, HOPPER_PLAIN, 1>(2, 140, 261, 131, 1, 4);
    wrong += run_case<256, 1, 1, HOPPER_PLAIN, 1>(1, 70, 257, 64, 0, 2);
    wrong += run_case<128, 0, 0, HOPPER_PLAIN, 0>(2, 385, 257, 450, 0, 2);
    wrong += run_case<128, 0, 1, HOPPER_PLAIN, 1>(1, 257, 200, 129, 0, 1);
    wrong += run_case<128, 1, 1, HOPPER_PLAIN, 1>(2, 127, 131, 63, 1, 2);
    return wrong;
}

static int epilogues() {
    int wrong = 0;
    wrong += run_case<256, 0, 0, HOPPER_FULL, 0>(1, 131, 259, 70, 0, 2);
    wrong += run_case<128, 0, 1, HOPPER_FULL, 0>(2, 260, 77, 64, 0, 2);
    wrong += run_case<256, 1, 1, HOPPER_FULL, 1>(2, 66, 130, 100, 1, 2);
    wrong += run_case<128, 0, 0, HOPPER_FULL, 1>(1, 129, 129, 31, 0, 1);
    wrong += run_case<256, 0, 0, HOPPER_GATED, 0>(2, 130, 300, 40, 0, 2);
    wrong += run_case<128, 0, 1, HOPPER_GATED, 0>(1, 67, 150, 65, 0, 1);
    return wrong;
}

} // namespace right

/* --- wrong: the same source, with a function of hopper.cuh replaced --- */

static inline void nothing() {}
template <int n> static inline void wait_for_none() {}
template <int n> static inline void wait_for_less() {
    wgmma_wait<n + 1>();
}

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define wgmma_fence nothing
namespace no_wgmma_fence {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_wgmma_fence
#undef wgmma_fence

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define wgmma_wait wait_for_none
namespace no_wgmma_wait {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_wgmma_wait
#undef wgmma_wait

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define wgmma_wait wait_for_less
namespace stage_released_early {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace stage_released_early
#undef wgmma_wait

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define fence_async nothing
namespace no_async_fence {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_async_fence
#undef fence_async

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define mbar_init_fence nothing
namespace no_init_fence {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_init_fence
#undef mbar_init_fence

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define tma_wait_read wait_for_none
namespace staging_reused_early {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace staging_reused_early
#undef tma_wait_read

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define swizzle128(offset) (offset)
namespace no_swizzle {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_swizzle
#undef swizzle128

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define mbar_wait(bar, parity) mbar_wait(bar, (parity) ^ 1)
namespace wrong_phase {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace wrong_phase
#undef mbar_wait

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define mbar_expect_tx(bar, bytes) mbar_expect_tx(bar, (bytes)-HOPPER_BOX_BYTES)
namespace box_not_waited_for {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace box_not_waited_for
#undef mbar_expect_tx

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define mbar_arrive_at(bar, cta) ((void)(cta), mbar_arrive(bar))
namespace neighbour_not_asked {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace neighbour_not_asked
#undef mbar_arrive_at

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define named_sync(id, threads) ((void)(id))
namespace staging_not_complete {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace staging_not_complete
#undef named_sync

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define cluster_sync nothing
namespace no_cluster_sync {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace no_cluster_sync
#undef cluster_sync

#undef WEFT_KERNELS_CUDA_HOPPER_GEMM_CUH
#define wgmma_mn_major(tile, bytes) wgmma_mn_major(tile, (bytes) / 2)
#define wgmma_k_major(tile)         wgmma_descriptor(smem_address(tile), 16, 512)
namespace wrong_strides {
#include KERNEL
#include CASE
MISTAKEN_CASES
} // namespace wrong_strides
#undef wgmma_mn_major
#undef wgmma_k_major

/* --- */

/* Runs f in a child with this seed: 0 if it says 0; what a rule of the model says goes to `said`. */
static int run_apart(int (*f)(), int seed, char *said, size_t most) {
    int pipes[2], status = 0;
    char text[16];
    if (pipe(pipes)) return 1;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        snprintf(text, sizeof text, "%d", seed);
        setenv("WEFT_EMU_SEED", text, 1);
        dup2(pipes[1], 2);
        const int wrong = f() != 0;
        fflush(NULL);
        _exit(wrong);
    }
    close(pipes[1]);
    size_t n = 0;
    for (ssize_t got; n + 1 < most && (got = read(pipes[0], said + n, most - 1 - n)) > 0;) n += (size_t)got;
    said[n] = 0;
    close(pipes[0]);
    waitpid(child, &status, 0);
    return status;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*f)();
    } mistakes[] = {{"no wgmma.fence", no_wgmma_fence::mistaken},
                    {"no wgmma.wait_group", no_wgmma_wait::mistaken},
                    {"stage released a step early", stage_released_early::mistaken},
                    {"no fence.proxy.async", no_async_fence::mistaken},
                    {"no fence.mbarrier_init", no_init_fence::mistaken},
                    {"staging written while TMA reads it", staging_reused_early::mistaken},
                    {"no swizzle", no_swizzle::mistaken},
                    {"waits for the other phase", wrong_phase::mistaken},
                    {"does not wait for one box", box_not_waited_for::mistaken},
                    {"does not ask the other block", neighbour_not_asked::mistaken},
                    {"stores staging before all have written", staging_not_complete::mistaken},
                    {"no barrier of the cluster", no_cluster_sync::mistaken},
                    {"wrong strides in descriptors", wrong_strides::mistaken}};
    char said[400];
    int failures = 0, seeds = argc > 1 ? atoi(argv[1]) : 2;
    for (int seed = 1; seed <= seeds; seed++) {
        int (*const right[])() = {right::sizes_and_forms, right::epilogues, right::mistaken};
        for (int i = 0; i < 3; i++)
            if (run_apart(right[i], seed, said, sizeof said)) {
                printf("FAILED: part %d, seed %d: %s\n", i, seed, said);
                failures++;
            }
    }
    for (size_t i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        const int found = run_apart(mistakes[i].f, 1, said, sizeof said) != 0;
        said[strcspn(said, "\n")] = 0;
        printf("%s: %s%s%s\n", mistakes[i].name, found ? "found" : "NOT FOUND", *said ? ": " : "", said);
        failures += !found;
    }
    return failures != 0;
}
