/* The speed of this backend's own inner loop: the dot product of gemm.c, one element of C after another. */
#include "base/clock.h"
#include "kernels/check.h"
#include "kernels/ref/ref.h"

#define PROBE_LENGTH 1024

weft_status ref_probe_fma(weft_exec *x, weft_dtype t, double seconds, double *flops) {
    (void)x;
    float f32[2 * PROBE_LENGTH];
    weft_bf16 bf16[2 * PROBE_LENGTH];
    const void *v = t == WEFT_BF16 ? (const void *)bf16 : (const void *)f32;
    double begin, now, done = 0;
    volatile double sink = 0;
    WEFT_TRY(weft_check_probe(t, seconds, flops));
    for (int i = 0; i < 2 * PROBE_LENGTH; i++) {
        f32[i] = 1.0f / (float)(i + 1);
        bf16[i] = weft_f32_to_bf16(f32[i]);
    }
    begin = now = weft_now();
    while (now - begin < seconds) {
        double sum = 0;
        for (int i = 0; i < PROBE_LENGTH; i++) sum += ref_get(t, v, i) * ref_get(t, v, PROBE_LENGTH + i);
        sink = sink + sum;
        done += 2.0 * PROBE_LENGTH;
        now = weft_now();
    }
    *flops = done / (now - begin);
    return WEFT_OK;
}
