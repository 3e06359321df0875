/* The peak that this machine reaches now: independent fma chains in registers, on every member at once.
 *
 * Clock, steal time and neighbours change from minute to minute; a percentage is worth something only beside
 * the peak of the same run. bf16 is measured with the instruction that the gemm of this level uses: without
 * one, bf16 products are fp32 products. */
#include <stdatomic.h>

#include "base/clock.h"
#include "kernels/check.h"
#include "kernels/cpu/gemm.h"
#if CPU_LEVEL == CPU_PORTABLE
#include "kernels/cpu/portable.h"
#else
#include <immintrin.h>
#endif

#define CHAINS 12
#define ROUNDS 2000 /* about 10 us */

#if CPU_LEVEL == CPU_PORTABLE
typedef vpart wide;
#define SPLAT(f)     vpart_set(f)
#define FMA(a, b, c) vpart_fma((a), (b), (c))
#elif CPU_LEVEL == CPU_AVX2
typedef __m256 wide;
#define SPLAT(f)     _mm256_set1_ps(f)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#else
typedef __m512 wide;
#define SPLAT(f)     _mm512_set1_ps(f)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#endif

#define EACH(X)  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define BEGIN(i) wide s##i = SPLAT(1.0f + (float)(i));
#define STEP(i)  s##i = FMA(s##i, m, a);
#define ADD(i)   sum = FMA(sum, one, s##i);

/* Flops done; the volatile sink, read and written, keeps the compiler from leaving the work out. */
static double loop_f32(volatile float *sink) {
    wide m = SPLAT(*sink), a = SPLAT(1e-3f), one = SPLAT(1.0f), sum = SPLAT(0.0f);
    float out[sizeof(wide) / 4];
    EACH(BEGIN)
    for (int r = 0; r < ROUNDS; r++) {
        EACH(STEP)
    }
    EACH(ADD)
    __builtin_memcpy(out, &sum, sizeof out);
    *sink = out[0] < 0.0f ? 0.25f : 0.5f;
    return 2.0 * CHAINS * ROUNDS * (sizeof(wide) / 4);
}

#if CPU_LEVEL == CPU_AVX512BF16
#define STEP_PAIR(i) s##i = _mm512_dpbf16_ps(s##i, (__m512bh)m, (__m512bh)m);
static double loop_bf16(volatile float *sink) {
    wide m = SPLAT(*sink), one = SPLAT(1.0f), sum = SPLAT(0.0f);
    float out[sizeof(wide) / 4];
    EACH(BEGIN)
    for (int r = 0; r < ROUNDS; r++) {
        EACH(STEP_PAIR)
    }
    EACH(ADD)
    __builtin_memcpy(out, &sum, sizeof out);
    *sink = out[0] < 0.0f ? 0.25f : 0.5f;
    return 4.0 * CHAINS * ROUNDS * (sizeof(wide) / 4);
}
#else
static double loop_bf16(volatile float *sink) {
    return loop_f32(sink);
}
#endif

struct probe {
    weft_dtype t;
    uint64_t end;
    _Atomic uint64_t flops;
    weft_exec *x;
};

static void probe_part(void *arg, int member, int members) {
    struct probe *v = arg;
    volatile float sink = 0.5f;
    double flops = 0;
    (void)members;
    do {
        flops += v->t == WEFT_F32 ? loop_f32(&sink) : loop_bf16(&sink);
        if (member == 0) cpu_tick(v->x);
    } while (weft_now_ns() < v->end);
    atomic_fetch_add_explicit(&v->flops, (uint64_t)flops, memory_order_relaxed); /* read after the job */
}

weft_status CPU_NAME(cpu_probe_fma)(weft_exec *x, weft_dtype t, double seconds, double *flops) {
    WEFT_TRY(weft_check_probe(t, seconds, flops));
    uint64_t begin = weft_now_ns();
    struct probe v = {.t = t, .end = begin + (uint64_t)(seconds * 1e9), .x = x};
    cpu_run(x, probe_part, &v);
    *flops = (double)v.flops / ((double)(weft_now_ns() - begin) * 1e-9);
    return WEFT_OK;
}
