/* The models of Hopper's instructions against what the PTX ISA manual says of them, in numbers of the manual's own figures
 * and not in terms of the helpers that kernels use; and their rules: what must end the program runs in a child. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "kernels/cuda/hopper_wgmma.cuh"

static int failures;
#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            printf("line %d: %s\n", __LINE__, #what);                                                        \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

#define SHARED  (64 << 10)
#define BARS_AT (SHARED - 256)

template <class F> static void run(unsigned threads, unsigned cluster, F kernel) {
    emu_run_grid("test", {cluster, 1, 1}, {threads, 1, 1}, {cluster, 1, 1}, SHARED, kernel);
}

/* Runs f in a child; 1 if the emulator ended it with a message that has `text`. */
template <class F> static int says(const char *text, F f) {
    int pipes[2], status = 0;
    char said[2000];
    size_t n = 0;
    if (pipe(pipes)) return 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        f();
        _exit(0);
    }
    close(pipes[1]);
    for (ssize_t got; n + 1 < sizeof said && (got = read(pipes[0], said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    close(pipes[0]);
    waitpid(child, &status, 0);
    const int found = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, text);
    if (!found) printf("expected '%s', status %d, said: %s\n", text, status, said);
    return found;
}

static uint64_t *bar_of(unsigned char *shared) {
    return (uint64_t *)(shared + BARS_AT);
}
static void make_bar(uint64_t *bar, uint32_t arrivals) {
    if (threadIdx.x == 0) {
        mbar_init(bar, arrivals);
        mbar_init_fence();
    }
    cluster_sync();
}

/* --- mbarrier --- */

/* Phases: parity 1 has passed on a fresh one; 0 passes with the last arrival, then 1 has not. */
static void mbarrier_phases() {
    run(64, 1, [] {
        WEFT_DYNAMIC(shared);
        uint64_t *bar = bar_of(shared);
        make_bar(bar, 64);
        if (threadIdx.x == 0) {
            CHECK(mbar_try_wait(bar, 1));
            CHECK(!mbar_try_wait(bar, 0));
        }
        cluster_sync();
        mbar_arrive(bar);
        mbar_wait(bar, 0);
        CHECK(!mbar_try_wait(bar, 1));
        cluster_sync();
        mbar_arrive(bar);
        mbar_wait(bar, 1);
        cluster_sync();
    });
}

/* --- TMA --- */

/* f32 [5][40], boxes of 32 by 4, at (16, 3): columns 16-39 and rows 3, 4 exist. */
static float source[5 * 40] __attribute__((aligned(128)));

static CUresult make_map(CUtensorMap *m, void *base, uint64_t cols, uint64_t row_bytes, uint32_t box_cols,
                         uint32_t box_rows) {
    const uint64_t size[2] = {cols, 5}, stride[1] = {row_bytes};
    const uint32_t box[2] = {box_cols, box_rows}, one[2] = {1, 1};
    return cuTensorMapEncodeTiled(m, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, base, size, stride, box, one,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
static CUtensorMap source_map() {
    CUtensorMap m;
    for (int i = 0; i < 200; i++) source[i] = (float)(100 * (i / 40) + i % 40);
    CHECK(make_map(&m, source, 40, 160, 32, 4) == CUDA_SUCCESS);
    return m;
}

/* The manual's figure of the 128-byte swizzle: in row r of eight, the 16-byte chunk c lies in place c ^ r. */
static void tma_loads_swizzled_and_clipped() {
    const CUtensorMap map = source_map();
    run(32, 1, [&] {
        WEFT_DYNAMIC(shared);
        uint64_t *bar = bar_of(shared);
        make_bar(bar, 1);
        if (threadIdx.x == 0) {
            mbar_expect_tx(bar, 32 * 4 * 4); /* all of the box counts, also what lies outside */
            tma_load(shared + 1024, &map, bar, 16, 3);
        }
        mbar_wait(bar, 0);
        if (threadIdx.x == 0)
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 32; c++) {
                    float got;
                    memcpy(&got, shared + 1024 + r * 128 + ((c / 4) ^ r) * 16 + c % 4 * 4, 4);
                    CHECK(got == (r < 2 && c < 24 ? (float)(100 * (3 + r) + 16 + c) : 0.0f));
                }
    });
}

/* A store writes the same pattern back, and nothing outside; an add adds. */
static void tma_stores_and_adds() {
    static float target[5 * 40] __attribute__((aligned(128)));
    const CUtensorMap from = source_map();
    CUtensorMap to;
    CHECK(make_map(&to, target, 36, 160, 32, 4) == CUDA_SUCCESS);
    for (float &f : target) f = 0.5f;
    run(32, 1, [&] {
        WEFT_DYNAMIC(shared);
        uint64_t *bar = bar_of(shared);
        make_bar(bar, 1);
        if (threadIdx.x != 0) return;
        mbar_expect_tx(bar, 512);
        tma_load(shared, &from, bar, 0, 0);
        mbar_wait(bar, 0);
        tma_store(&to, shared, 8, 2); /* rows 2 to 4, columns 8 to 35 */
        tma_commit();
        tma_wait<0>();
        tma_add(&to, shared, 8, 2);
        tma_commit();
        tma_wait_read<0>();
    });
    for (int r = 0; r < 5; r++)
        for (int c = 0; c < 40; c++)
            CHECK(target[r * 40 + c] ==
                  (r >= 2 && c >= 8 && c < 36 ? 2.0f * (float)(100 * (r - 2) + c - 8) : 0.5f));
}

/* Both blocks get what each sends, and count it on barriers of their own. */
static void multicast_reaches_both() {
    const CUtensorMap map = source_map();
    run(32, 2, [&] {
        WEFT_DYNAMIC(shared);
        uint64_t *bar = bar_of(shared);
        const int rank = (int)cluster_rank();
        make_bar(bar, 1);
        if (threadIdx.x == 0) {
            mbar_expect_tx(bar, 1024);
            tma_multicast(shared + rank * 1024, &map, bar, 3, 0, rank);
        }
        mbar_wait(bar, 0);
        float first[2];
        for (int i = 0; i < 2; i++) memcpy(&first[i], shared + i * 1024, 4);
        CHECK(first[0] == 0.0f && first[1] == 100.0f);
        cluster_sync();
    });
}

static void maps_are_refused() {
    CUtensorMap m;
    CHECK(make_map(&m, source, 40, 160, 32, 4) == CUDA_SUCCESS);
    CHECK(make_map(&m, source + 1, 39, 160, 32, 4) != CUDA_SUCCESS); /* base not 16-aligned */
    CHECK(make_map(&m, source, 39, 156, 32, 4) != CUDA_SUCCESS);     /* rows not 16-aligned */
    CHECK(make_map(&m, source, 40, 160, 64, 4) != CUDA_SUCCESS);     /* 256 bytes in a swizzle of 128 */
    CHECK(make_map(&m, source, 40, 160, 32, 257) != CUDA_SUCCESS);
}

/* --- wgmma --- */

static float bf16_number(int i) {
    return (float)((i * 37 + 11) % 29 - 14) / 4.0f;
}
static uint16_t bf16_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)(u >> 16);
}

/* Puts op(A)[i][k] into shared memory as the manual draws it: K-major: 64 k a row of 128 bytes; MN-major: 64 i a row, boxes
 * of `box` bytes; chunk c of row r in place c ^ (r % 8). */
static void put(unsigned char *tile, int mn_major, int i, int k, uint32_t box, float v) {
    const int row = mn_major ? k : i, column = mn_major ? i % 64 : k;
    const uint16_t h = bf16_bits(v);
    unsigned char *to = tile + (mn_major ? (uint32_t)(i / 64) * box : 0);
    memcpy(to + row * 128 + ((column / 8) ^ (row % 8)) * 16 + column % 8 * 2, &h, 2);
}

#define AT_B 8192
/* D = A B + D (twice), k 16 to 31 of tiles of 64 k; a_registers: A as fragments. */
template <int N, int trans_a, int trans_b, int a_registers> static void product() {
    run(128, 1, [] {
        WEFT_DYNAMIC(shared);
        const int t = (int)threadIdx.x, g = t % 32 / 4, q = t % 4;
        for (int k = 0; k < 64; k++) {
            if (t < 64) put(shared, trans_a, t, k, 8192, bf16_number(t * 64 + k));
            for (int n = t; n < N; n += 128)
                put(shared + AT_B, trans_b, n, k, 8192, bf16_number(7 * n + 3 * k));
        }
        fence_async();
        __syncthreads();
        float d[N / 2];
        for (int i = 0; i < N / 2; i++) d[i] = (float)i;
        const uint64_t a = trans_a ? wgmma_mn_major(shared + 16 * 128, 8192) : wgmma_k_major(shared + 32);
        const uint64_t b =
            trans_b ? wgmma_mn_major(shared + AT_B + 16 * 128, 8192) : wgmma_k_major(shared + AT_B + 32);
        uint32_t fragment[4];
        for (int i = 0; i < 4; i++) {
            const int row = t / 32 * 16 + g + 8 * (i % 2), k = 16 + 2 * q + 8 * (i / 2);
            fragment[i] = bf16_bits(bf16_number(row * 64 + k)) |
                          (uint32_t)bf16_bits(bf16_number(row * 64 + k + 1)) << 16;
        }
        wgmma_fence();
        for (int twice = 0; twice < 2; twice++) {
            if constexpr (a_registers)
                wgmma<N, trans_b>(d, fragment, b, 1);
            else
                wgmma<N, trans_a, trans_b>(d, a, b, 1);
        }
        wgmma_commit();
        CHECK(d[0] != d[0]); /* in flight */
        wgmma_wait<0>();
        for (int i = 0; i < N / 2; i++) {
            const int row = t / 32 * 16 + g + 8 * (i / 2 % 2), column = i / 4 * 8 + 2 * q + i % 2;
            float want = (float)i;
            for (int k = 16; k < 32; k++)
                want += 2 * bf16_number(row * 64 + k) * bf16_number(7 * column + 3 * k);
            CHECK(d[i] == want);
        }
    });
}

static void products() {
    product<64, 0, 0, 0>();
    product<96, 0, 0, 0>();
    product<128, 0, 1, 0>();
    product<192, 1, 1, 0>();
    product<256, 1, 0, 0>();
    product<64, 0, 1, 1>();
    product<256, 0, 0, 1>();
}

/* --- matrices --- */

static void stmatrix_places() {
    run(32, 1, [] {
        WEFT_DYNAMIC(shared);
        const int l = (int)threadIdx.x;
        uint32_t r[4];
        for (int i = 0; i < 4; i++) r[i] = (uint32_t)(i << 8 | l) | (uint32_t)(0x8000 | i << 8 | l) << 16;
        stmatrix_x4(shared + l * 16, r);
        stmatrix_x4_trans(shared + 512 + l * 16, r);
        __syncthreads();
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++) {
                uint16_t plain, turned;
                memcpy(&plain, shared + (8 * i + l / 4) * 16 + (2 * (l % 4) + half) * 2, 2);
                memcpy(&turned, shared + 512 + (8 * i + 2 * (l % 4) + half) * 16 + l / 4 * 2, 2);
                CHECK(plain == (half << 15 | i << 8 | l) && turned == plain);
            }
    });
}

/* --- rules --- */

static void rules() {
    const CUtensorMap map = source_map();
    CHECK(says("deadlock", [] {
        run(32, 1, [] {
            WEFT_DYNAMIC(shared);
            make_bar(bar_of(shared), 2);
            if (threadIdx.x == 0) mbar_arrive(bar_of(shared));
            mbar_wait(bar_of(shared), 0);
        });
    }));
    CHECK(says("no mbarrier", [] {
        run(32, 1, [] {
            WEFT_DYNAMIC(shared);
            mbar_arrive(bar_of(shared));
        });
    }));
    CHECK(says("without fence.mbarrier_init", [] {
        run(32, 1, [] {
            WEFT_DYNAMIC(shared);
            if (threadIdx.x) return;
            mbar_init(bar_of(shared), 1);
            mbar_expect_tx(bar_of(shared), 0);
        });
    }));
    CHECK(says("swizzled box", [&] {
        run(32, 1, [&] {
            WEFT_DYNAMIC(shared);
            make_bar(bar_of(shared), 1);
            if (threadIdx.x == 0) tma_load(shared + 128, &map, bar_of(shared), 0, 0);
        });
    }));
    CHECK(says("after its block has ended", [&] {
        run(32, 1, [&] {
            WEFT_DYNAMIC(shared);
            make_bar(bar_of(shared), 1);
            if (threadIdx.x == 0) tma_load(shared, &map, bar_of(shared), 0, 0);
        });
    }));
    CHECK(says("before its TMA store had read", [&] {
        run(32, 1, [&] {
            WEFT_DYNAMIC(shared);
            if (threadIdx.x) return;
            tma_store(&map, shared, 0, 0);
            tma_commit();
        });
    }));
    CHECK(says("without fence.proxy.async", [&] {
        run(32, 1, [&] {
            WEFT_DYNAMIC(shared);
            if (threadIdx.x == 1) shared_store(shared, make_float2(1, 2));
            __syncthreads();
            fence_async(); /* of each thread, but after the barrier would be too late on the device; here: not the writer's */
            if (threadIdx.x == 0) shared_store(shared + 16, make_float2(1, 2));
            if (threadIdx.x == 0) tma_store(&map, shared, 0, 0);
        });
    }));
    CHECK(says("written before tma_wait_read", [&] {
        run(32, 1, [&] {
            WEFT_DYNAMIC(shared);
            if (threadIdx.x) return;
            tma_store(&map, shared, 0, 0);
            tma_commit();
            shared[5] = 1;
            tma_wait_read<0>();
        });
    }));
}

static void one_wgmma(int fence, void (*meanwhile)(unsigned char *, float *)) {
    run(128, 1, [=] {
        WEFT_DYNAMIC(shared);
        float d[32];
        for (float &f : d) f = 0;
        if (fence) wgmma_fence();
        wgmma<64, 0, 0>(d, wgmma_k_major(shared), wgmma_k_major(shared + AT_B), 0);
        wgmma_commit();
        if (threadIdx.x == 77) meanwhile(shared, d);
        wgmma_wait<0>();
    });
}

static void rules_of_wgmma() {
    CHECK(says("no wgmma.fence", [] { one_wgmma(0, [](unsigned char *, float *) {}); }));
    CHECK(
        says("accumulators were touched", [] { one_wgmma(1, [](unsigned char *, float *d) { d[3] = 1; }); }));
    CHECK(
        says("B was overwritten", [] { one_wgmma(1, [](unsigned char *s, float *) { s[AT_B + 4] ^= 1; }); }));
    CHECK(says("A was overwritten", [] { one_wgmma(1, [](unsigned char *s, float *) { s[4] ^= 1; }); }));
    CHECK(says("different ones", [] {
        run(128, 1, [] {
            WEFT_DYNAMIC(shared);
            float d[32];
            wgmma_fence();
            wgmma<64, 0, 0>(d, wgmma_k_major(shared), wgmma_k_major(shared + (threadIdx.x == 9 ? 1024 : 0)),
                            0);
        });
    }));
    CHECK(says("with wgmma in flight", [] {
        run(128, 1, [] {
            WEFT_DYNAMIC(shared);
            float d[32];
            wgmma_fence();
            wgmma<64, 0, 0>(d, wgmma_k_major(shared), wgmma_k_major(shared), 0);
            wgmma_commit();
        });
    }));
}

int main() {
    mbarrier_phases();
    tma_loads_swizzled_and_clipped();
    tma_stores_and_adds();
    multicast_reaches_both();
    maps_are_refused();
    products();
    stmatrix_places();
    rules();
    rules_of_wgmma();
    printf("%d failures\n", failures);
    return failures != 0;
}
