/* The emulated device itself: that it computes, and that it finds what it is there to find. What must end the program runs in
 * a child. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuda/emulator/cuda_runtime.h"

#define N 96

static int failures;
#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            printf("line %d: %s\n", __LINE__, #what);                                                        \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

template <class F>
static void launch(cudaStream_t s, unsigned blocks, unsigned threads, size_t shared, F kernel) {
    emu_enqueue(s, [=]() {
        emu_run_grid("test", {blocks, 1, 1}, {threads, 1, 1}, {1, 1, 1}, shared, kernel);
    });
}

/* Runs f in a child; the signal that ended it, 0 for none. */
template <class F> static int ends_by(F f) {
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        f();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* Turns N numbers round by way of shared memory. */
static void reverse(int *v, bool with_barrier) {
    __shared__ int part[N];
    part[threadIdx.x] = v[threadIdx.x];
    if (with_barrier) __syncthreads();
    v[threadIdx.x] = part[N - 1 - threadIdx.x];
}

static int reversals_that_are_wrong(bool with_barrier) {
    int wrong = 0, *v = NULL, host[N];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) host[i] = 1000 * round + i;
        CHECK(cudaMalloc((void **)&v, sizeof host) == cudaSuccess);
        CHECK(cudaMemcpy(v, host, sizeof host, cudaMemcpyHostToDevice) == cudaSuccess);
        launch(NULL, 1, N, 0, [=]() { reverse(v, with_barrier); });
        CHECK(cudaMemcpy(host, v, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess);
        int good = 1;
        for (int i = 0; i < N; i++) good &= host[i] == 1000 * round + N - 1 - i;
        wrong += !good;
        CHECK(cudaFree(v) == cudaSuccess);
    }
    return wrong;
}

static void sums_of_warps() {
    int *v = NULL, host[64];
    CHECK(cudaMalloc((void **)&v, sizeof host) == cudaSuccess);
    launch(NULL, 1, 64, 0, [=]() {
        int s = (int)threadIdx.x;
        for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
        if (threadIdx.x % 2 && __ballot_sync(0xaaaaaaaau, threadIdx.x % 4 == 1) != 0x22222222u) s = -1;
        v[threadIdx.x] = s;
    });
    CHECK(cudaMemcpy(host, v, sizeof host, cudaMemcpyDefault) == cudaSuccess);
    for (int i = 0; i < 64; i++) CHECK(host[i] == (i < 32 ? 496 : 1520));
    cudaFree(v);
}

/* Nothing happens before somebody waits; pinned memory is read then, other memory at the call. */
static void streams_are_lazy() {
    cudaStream_t a, b;
    cudaEvent_t e;
    int *pinned = NULL, *v = NULL, plain = 5, seen = 0;
    CHECK(cudaStreamCreate(&a) == cudaSuccess && cudaStreamCreate(&b) == cudaSuccess &&
          cudaEventCreate(&e) == cudaSuccess);
    CHECK(cudaHostAlloc((void **)&pinned, 2 * sizeof *pinned, 0) == cudaSuccess &&
          cudaMalloc((void **)&v, 8) == cudaSuccess);
    pinned[0] = 1;
    pinned[1] = 0;
    CHECK(cudaMemcpyAsync(v, pinned, 4, cudaMemcpyDefault, a) == cudaSuccess);
    CHECK(cudaMemcpyAsync(v + 1, &plain, 4, cudaMemcpyDefault, a) == cudaSuccess);
    CHECK(cudaEventRecord(e, a) == cudaSuccess && cudaStreamWaitEvent(b, e, 0) == cudaSuccess);
    launch(b, 1, 1, 0, [=]() { pinned[1] = v[0] * 10 + v[1]; });
    pinned[0] = 2;
    plain = 6;
    CHECK(pinned[1] == 0);
    CHECK(cudaEventQuery(e) == cudaErrorNotReady);
    CHECK(cudaStreamSynchronize(b) == cudaSuccess);
    CHECK(pinned[1] == 25);
    for (seen = 0; cudaStreamQuery(a) != cudaSuccess && seen < 100; seen++) {
    }
    CHECK(seen < 100);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaEventDestroy(e);
    cudaFreeHost(pinned);
    cudaFree(v);
}

static float *fresh(size_t n) {
    float *v = NULL;
    CHECK(cudaMalloc((void **)&v, n * sizeof *v) == cudaSuccess);
    return v;
}

static void memory_is_the_devices() {
    float *v = fresh(64), seen = 0;
    CHECK(cudaMemcpy(&seen, v, 4, cudaMemcpyDefault) == cudaSuccess && seen != seen);
    CHECK(ends_by([=]() { _exit(*(volatile float *)v == 0); }) == SIGSEGV);
    CHECK(ends_by([=]() { *(volatile float *)v = 1; }) == SIGSEGV);
    CHECK(ends_by([=]() {
              launch(NULL, 1, 1, 0, [=]() { v[64] = 1; });
              cudaDeviceSynchronize();
          }) == SIGSEGV);
    CHECK(ends_by([=]() {
              cudaFree(v);
              launch(NULL, 1, 1, 0, [=]() { v[0] = 1; });
              cudaDeviceSynchronize();
          }) == SIGSEGV);
    CHECK(ends_by([=]() {
              launch(NULL, 1, 1, 0, [=]() { v[0] = 1; });
              cudaDeviceSynchronize();
          }) == 0);
    CHECK(cudaMemcpy(v, v, 4, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    cudaFree(v);
}

static void faults_of_kernels_are_found() {
    auto run = [](unsigned threads, size_t shared, std::function<void()> k) {
        return ends_by([=]() {
            launch(NULL, 1, threads, shared, k);
            cudaDeviceSynchronize();
        });
    };
    CHECK(run(64, 0, []() { __syncthreads(); }) == 0);
    CHECK(run(64, 0, []() {
              if (threadIdx.x < 32) __syncthreads();
          }) == SIGABRT);
    CHECK(run(64, 0, []() {
              if (threadIdx.x < 32) emu_barrier_sync(1, 64);
          }) == SIGABRT);
    CHECK(run(32, 0, []() {
              if (threadIdx.x < 16) (void)__shfl_sync(0x0000ffffu, 1, 20);
          }) == SIGABRT);
    CHECK(run(32, 0, []() { (void)__shfl_sync(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u, 1, 0); }) ==
          SIGABRT);
    CHECK(run(32, 100, []() { emu_self->block->shared[99] = 1; }) == 0);
    CHECK(run(32, 100, []() { emu_self->block->shared[100] = 1; }) == SIGABRT);
}

int main() {
    CHECK(reversals_that_are_wrong(true) == 0);
    CHECK(reversals_that_are_wrong(false) > 10);
    sums_of_warps();
    streams_are_lazy();
    memory_is_the_devices();
    faults_of_kernels_are_found();
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
