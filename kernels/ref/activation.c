/* GELU in its tanh form (Hendrycks & Gimpel 2016) and SwiGLU (Shazeer 2020), with their derivatives.
 *
 * With z(a) = sqrt(2/pi) (a + 0.044715 a^3): gelu(a) = a (1 + tanh z)/2 = a s with s = sigmoid(2z), and
 * gelu'(a) = s + 2 a s (1 - s) z'. The sigmoid form does not cancel for large negative a as 1 + tanh z does.
 */
#include <math.h>

#include "kernels/check.h"
#include "kernels/ref/ref.h"

#define SQRT_2_OVER_PI 0.79788456080286535588

static double ref_sigmoid(double a) {
    return 1 / (1 + exp(-a));
}

double ref_gelu(double a) {
    double z = SQRT_2_OVER_PI * (a + 0.044715 * a * a * a);
    return a * ref_sigmoid(2 * z);
}

double ref_gelu_derivative(double a) {
    double z = SQRT_2_OVER_PI * (a + 0.044715 * a * a * a), dz = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * a * a);
    double s = ref_sigmoid(2 * z);
    return s + 2 * a * s * (1 - s) * dz;
}

weft_status ref_gelu_fwd(weft_exec *x, weft_dtype t, size_t n, const void *a, void *out) {
    (void)x;
    WEFT_TRY(weft_check_model_dtype("gelu_fwd", t));
    WEFT_TRY(weft_check_given("gelu_fwd", n == 0 || (a && out)));
    for (int64_t i = 0; i < (int64_t)n; i++) ref_put(t, out, i, ref_gelu(ref_get(t, a, i)));
    return WEFT_OK;
}

weft_status ref_gelu_bwd(weft_exec *x, weft_dtype t, size_t n, const void *dout, const void *a, void *da) {
    (void)x;
    WEFT_TRY(weft_check_model_dtype("gelu_bwd", t));
    WEFT_TRY(weft_check_given("gelu_bwd", n == 0 || (dout && a && da)));
    for (int64_t i = 0; i < (int64_t)n; i++)
        ref_put(t, da, i, ref_get(t, dout, i) * ref_gelu_derivative(ref_get(t, a, i)));
    return WEFT_OK;
}

/* gu [rows, 2 cols] = gate | up; out[r, c] = gate sigmoid(gate) up. */
weft_status ref_swiglu_fwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *gu,
                           void *out) {
    (void)x;
    WEFT_TRY(weft_check_model_dtype("swiglu_fwd", t));
    WEFT_TRY(weft_check_extent("swiglu_fwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_fwd", rows == 0 || cols == 0 || (gu && out)));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double gate = ref_get(t, gu, r * 2 * cols + c), up = ref_get(t, gu, r * 2 * cols + cols + c);
            ref_put(t, out, r * cols + c, gate * ref_sigmoid(gate) * up);
        }
    return WEFT_OK;
}

/* With s = sigmoid(gate): dup = dout gate s; dgate = dout up s (1 + gate (1 - s)). */
weft_status ref_swiglu_bwd(weft_exec *x, weft_dtype t, int64_t rows, int64_t cols, const void *dout,
                           const void *gu, void *dgu) {
    (void)x;
    WEFT_TRY(weft_check_model_dtype("swiglu_bwd", t));
    WEFT_TRY(weft_check_extent("swiglu_bwd", rows, cols));
    WEFT_TRY(weft_check_given("swiglu_bwd", rows == 0 || cols == 0 || (dout && gu && dgu)));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            int64_t at_gate = r * 2 * cols + c, at_up = at_gate + cols;
            double gate = ref_get(t, gu, at_gate), up = ref_get(t, gu, at_up);
            double s = ref_sigmoid(gate), dy = ref_get(t, dout, r * cols + c);
            ref_put(t, dgu, at_gate, dy * up * s * (1 + gate * (1 - s)));
            ref_put(t, dgu, at_up, dy * gate * s);
        }
    return WEFT_OK;
}
