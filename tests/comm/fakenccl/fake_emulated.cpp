/* The stand-in for NCCL on the emulated device (tests/cuda/emulator): its kernels are work of the emulated streams, which do a
 * step whenever somebody asks for the stream. CUDA's functions are the emulator's. */
#include <stdlib.h>
#include <time.h>

#include "tests/cuda/emulator/cuda_runtime.h"

extern "C" {
struct fake_kernel;
int fake_kernel_advance(struct fake_kernel *k);
void fake_kernel_free(struct fake_kernel *k);
EMU_API void fake_launch(cudaStream_t s, struct fake_kernel *k);
EMU_API uint64_t fake_now_us(void);
EMU_API uint32_t fake_random(uint32_t below);
}

void fake_launch(cudaStream_t s, struct fake_kernel *k) {
    emu_enqueue_steps(s, [=]() {
        if (!fake_kernel_advance(k)) return false;
        fake_kernel_free(k);
        return true;
    });
}

uint64_t fake_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

uint32_t fake_random(uint32_t below) {
    static uint32_t x = 1;
    x = x * 1664525u + 1013904223u;
    return below ? (x >> 8) % below : 0;
}
