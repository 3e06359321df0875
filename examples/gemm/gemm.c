/* A layer of a neural network, or any matrix that many others are multiplied with: y = gelu(x w^T + bias),
 * with w packed once. Checks a sample of the result against sums in double, and prints the speed. No
 * MPI_Init is needed.
 *
 *   cc -O2 gemm.c $(pkg-config --cflags --libs weft) -lm -o gemm && ./gemm [threads] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <weft/gemm.h>

enum { M = 512, N = 3072, K = 768, TIMES = 20 };

static float x[M * K], w[N * K], bias[N], y[M * N];

static void must(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "gemm: %s\n", weft_last_error());
    exit(weft_exit_code(s));
}

static void fill(float *v, int n, unsigned seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f;
    }
}

static double expected(int i, int j) {
    double v = bias[j];
    for (int k = 0; k < K; k++) v += (double)x[i * K + k] * w[j * K + k];
    return 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
}

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    weft_gemm_opts o = {.size = sizeof o, .threads = argc > 1 ? atoi(argv[1]) : 1};
    weft_gemm_info info = {.size = sizeof info};
    weft_gemm_context *team;
    weft_gemm_pack *packed;
    fill(x, M * K, 1);
    fill(w, N * K, 2);
    fill(bias, N, 3);

    must(weft_gemm_open(&o, &team));
    must(weft_gemm_get_info(team, &info));
    weft_gemm_call layer = {
        .size = sizeof layer, .m = M, .n = N, .k = K, .trans_b = 1, .a = x, .b = w, .c = y};
    layer.bias = bias;
    layer.gelu = 1;
    must(weft_gemm_pack_create(team, &layer, 1, &packed)); /* version 1 of w */
    layer.packed = packed;
    must(weft_gemm_plan(team, &layer)); /* from here on nothing is allocated */

    double best = 1e9, worst = 0;
    for (int i = 0; i < TIMES; i++) {
        double begin = now();
        must(weft_gemm(team, &layer));
        double took = now() - begin;
        if (took < best) best = took;
    }
    for (int i = 0; i < M; i += 37)
        for (int j = 0; j < N; j += 41) worst = fmax(worst, fabs(y[i * N + j] - expected(i, j)));
    printf("%s, %d thread%s: %.1f Gflop/s at best, largest error %.1e: %s\n", info.isa, info.threads,
           info.threads > 1 ? "s" : "", 2.0 * M * N * K / best * 1e-9, worst,
           worst < 1e-4 ? "right" : "wrong");

    weft_gemm_pack_destroy(&packed);
    must(weft_gemm_close(&team));
    return !(worst < 1e-4);
}
