/* The optimiser ops of every backend against `ref`, by hand, and by what they are for. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "tests/support/kernels_case.h"

#define CALL(name) static weft_status name(const kt_run *r, const void *arg, void *const *out)

static kt_rng rng_of_test(void) {
    return (kt_rng){kt_seed()};
}

/* --- adamw --- */

typedef struct adamw_arg {
    weft_adamw_desc d;
    const float *g;
    float clip;
    uint32_t skip;
    int with_w;
} adamw_arg;

CALL(call_adamw) { /* outputs: master, m, v, w */
    const adamw_arg *a = arg;
    return r->ops->adamw(r->exec, &a->d, out[0], out[1], out[2], a->g, a->with_w ? out[3] : NULL, &a->clip,
                         &a->skip);
}

static void check_adamw(const kt_run *r, const void *arg, void *const *out) {
    const adamw_arg *a = arg;
    for (size_t i = 0; a->with_w && !a->skip && i < a->d.n; i++)
        if (((const uint16_t *)out[3])[i] != weft_f32_to_bf16(((const float *)out[0])[i]))
            fail_msg("adamw on %s: w[%zu] is not its own master rounded", r->label, i);
}

static void adamw(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 40; round++) {
        kt_pool pool = {0};
        size_t n = round == 0 ? 70001 : round == 1 ? 0 : (size_t)kt_size(&rng, 3000);
        int step = (int)kt_int(&rng, 1, 1000);
        adamw_arg a = {.clip = round % 3 ? 1 : 0.37f, .skip = round % 5 == 4 ? 7 : 0, .with_w = round % 2};
        kt_case c = {
            .name = "adamw", .op = -1, .nout = 4, .call = call_adamw, .check = check_adamw, .arg = &a};
        float *p = kt_random(&pool, &rng, WEFT_F32, n, 1), *m = kt_random(&pool, &rng, WEFT_F32, n, 0.1);
        float *v = kt_random(&pool, &rng, WEFT_F32, n, 0.1), *g = kt_random(&pool, &rng, WEFT_F32, n, 0.3);
        uint16_t *w = kt_random(&pool, &rng, WEFT_BF16, n, 1);
        double *tol[4];
        a.d = (weft_adamw_desc){.size = sizeof a.d,
                                .n = n,
                                .lr = 0.01f,
                                .beta1 = 0.9f,
                                .beta2 = 0.95f,
                                .eps = 1e-8f,
                                .weight_decay = 0.1f};
        a.d.bias1 = (float)(1 - pow(0.9, step));
        a.d.bias2 = (float)(1 - pow(0.95, step));
        for (size_t i = 0; i < n; i++) v[i] *= v[i];
        if (round >= 30 && n) g[kt_int(&rng, 0, (int64_t)n - 1)] = round % 2 ? NAN : INFINITY;
        a.g = g;
        for (int j = 0; j < 4; j++) tol[j] = kt_tolerances(n);
        for (size_t i = 0; !a.skip && i < n; i++) {
            double grad = (double)a.clip * g[i], in_m = 0.9 * fabs((double)m[i]) + 0.1 * fabs(grad);
            double new_m = (double)a.d.beta1 * m[i] + (1 - (double)a.d.beta1) * grad;
            double new_v = (double)a.d.beta2 * v[i] + (1 - (double)a.d.beta2) * grad * grad;
            double divisor = sqrt(new_v / a.d.bias2) + a.d.eps, update = new_m / a.d.bias1 / divisor;
            double err_m = 5 * KT_U * in_m; /* clip, two products, one sum; terms may cancel */
            tol[1][i] = err_m;
            tol[2][i] = 6 * KT_U * new_v; /* no cancellation */
            /* the update: m's error, then 12 roundings of relative size; v's enters by half */
            tol[0][i] = a.d.lr * (err_m / a.d.bias1 / divisor + 16 * KT_U * fabs(update) +
                                  4 * KT_U * 0.1 * fabs((double)p[i])) +
                        2 * KT_U * fabs((double)p[i]) + 0x1p-126;
            tol[3][i] = a.with_w ? tol[0][i] : 0;
        }
        kt_freeze(&pool);
        c.out[0] = (kt_out){.name = "master", .t = WEFT_F32, .n = n, .init = p, .tol = tol[0]};
        c.out[1] = (kt_out){.name = "m", .t = WEFT_F32, .n = n, .init = m, .tol = tol[1]};
        c.out[2] = (kt_out){.name = "v", .t = WEFT_F32, .n = n, .init = v, .tol = tol[2]};
        c.out[3] = (kt_out){.name = "w", .t = WEFT_BF16, .n = n, .init = w, .tol = tol[3]};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

/* One element by hand: the first step from zero moments moves by lr in the direction of the gradient's sign.
 */
static void adamw_first_step_by_hand(void **state) {
    static const float start[4][2] = {{2, -4}, {0, 0}, {0, 0}, {16, -8}};
    kt_pool pool = {0};
    float *all[4];
    (void)state;
    for (int j = 0; j < 4; j++) all[j] = kt_new(&pool, sizeof start[j], 0);
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        weft_adamw_desc d = {.size = sizeof d,
                             .n = 2,
                             .lr = 0.5f,
                             .beta1 = 0.75f,
                             .beta2 = 0.9375f,
                             .eps = 0,
                             .weight_decay = 0.25f,
                             .bias1 = 0.25f,
                             .bias2 = 0.0625f};
        float *p = all[0], *m = all[1], *v = all[2], *g = all[3], clip = 0.5f;
        uint32_t skip = 1;
        for (int j = 0; j < 4; j++) memcpy(all[j], start[j], sizeof start[j]);
        kt_ok(r, r->ops->adamw(kt_exec(r, 0), &d, p, m, v, g, NULL, &clip, &skip));
        assert_true(p[0] == 2 && p[1] == -4 && m[0] == 0 && v[1] == 0);
        skip = 0;
        kt_ok(r, r->ops->adamw(r->exec, &d, p, m, v, g, NULL, &clip, &skip));
        assert_true(m[0] == 2 && m[1] == -1 && v[0] == 4 && v[1] == 1);
        assert_true(fabsf(p[0] - (2 - 0.5f * (1 + 0.25f * 2))) < 1e-6f);
        assert_true(fabsf(p[1] - (-4 - 0.5f * (-1 - 0.25f * 4))) < 1e-6f);
    }
    kt_free(&pool);
}

/* --- newton_schulz --- */

typedef struct ortho_arg {
    weft_newton_schulz_desc d;
} ortho_arg;

CALL(call_newton_schulz) {
    const ortho_arg *a = arg;
    return r->ops->newton_schulz(r->exec, &a->d, out[0]);
}

static void newton_schulz_agrees(void **state) {
    kt_rng rng = rng_of_test();
    (void)state;
    for (int round = 0; round < 12; round++) {
        kt_pool pool = {0};
        ortho_arg a = {
            {.size = sizeof a.d, .rows = kt_size(&rng, 130), .cols = kt_size(&rng, 130), .rounds = 5}};
        size_t n = (size_t)(a.d.rows * a.d.cols);
        kt_case c = {.name = "newton_schulz",
                     .op = WEFT_OP_NEWTON_SCHULZ,
                     .desc = &a.d,
                     .nout = 1,
                     .call = call_newton_schulz,
                     .arg = &a};
        float *x = kt_random(&pool, &rng, WEFT_F32, n, 0.02);
        double *tol = kt_tolerances(n);
        /* A rounding of relative size sqrt(k) u enters in each product; small singular values grow by 3.4445
         * a round, and their errors with them. Entries and singular values are at most about 1.2. */
        for (size_t i = 0; i < n; i++)
            tol[i] = pow(3.4445, 5) * 4 * sqrt((double)(a.d.rows + a.d.cols)) * KT_U;
        kt_freeze(&pool);
        c.out[0] = (kt_out){.name = "x", .t = WEFT_F32, .n = n, .init = x, .tol = tol};
        kt_compare(&c, &rng);
        kt_free(&pool);
    }
}

enum { NS_SMALL = 8, NS_LARGE = 24 };

/* Eigenvalues of the symmetric a[n, n] by cyclic Jacobi rotations, left on the diagonal. */
static void jacobi(double *a, int n) {
    for (int sweep = 0; sweep < 30; sweep++)
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++) {
                double theta, t, c, s;
                if (fabs(a[p * n + q]) < 1e-14) continue;
                theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
                t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
                c = 1 / sqrt(t * t + 1);
                s = t * c;
                for (int k = 0; k < n; k++) {
                    double kp = a[k * n + p], kq = a[k * n + q];
                    a[k * n + p] = c * kp - s * kq;
                    a[k * n + q] = s * kp + c * kq;
                }
                for (int k = 0; k < n; k++) {
                    double pk = a[p * n + k], qk = a[q * n + k];
                    a[p * n + k] = c * pk - s * qk;
                    a[q * n + k] = s * pk + c * qk;
                }
            }
}

/* Singular values end within [0.6, 1.3] (the fixed band of the quintic is about [0.68, 1.14]), and the
 * singular vectors stay: old x new^T is symmetric. Wide and tall. */
static void newton_schulz_makes_singular_values_near_one(void **state) {
    kt_rng rng = rng_of_test();
    kt_pool pool = {0};
    float *x = kt_new(&pool, NS_SMALL * NS_LARGE * sizeof *x, 0);
    (void)state;
    for (int run = 0; run < kt_nruns; run++)
        for (int tall = 0; tall < 2; tall++) {
            kt_run *r = &kt_runs[run];
            enum { m = NS_SMALL, n = NS_LARGE };
            weft_newton_schulz_desc d = {
                .size = sizeof d, .rows = tall ? n : m, .cols = tall ? m : n, .rounds = 5};
            float old[m * n];
            double gram[m * m], cross[m * m];
            kt_fill(&rng, WEFT_F32, x, m * n, 3);
            memcpy(old, x, sizeof old);
            kt_exec_for(r, WEFT_OP_NEWTON_SCHULZ, &d);
            kt_ok(r, r->ops->newton_schulz(r->exec, &d, x));
            for (int i = 0; i < m; i++)
                for (int j = 0; j < m; j++) {
                    double g = 0, c = 0;
                    for (int k = 0; k < n; k++) {
                        int at_i = tall ? k * m + i : i * n + k, at_j = tall ? k * m + j : j * n + k;
                        g += (double)x[at_i] * x[at_j];
                        c += (double)old[at_i] * x[at_j];
                    }
                    gram[i * m + j] = g;
                    cross[i * m + j] = c;
                }
            for (int i = 0; i < m; i++)
                for (int j = 0; j < i; j++) assert_true(fabs(cross[i * m + j] - cross[j * m + i]) < 2e-3);
            jacobi(gram, m);
            for (int i = 0; i < m; i++) {
                double s = sqrt(gram[i * m + i]);
                if (!(s > 0.6 && s < 1.3))
                    fail_msg("newton_schulz on %s: a singular value is %g", r->label, s);
            }
        }
    kt_free(&pool);
}

static void newton_schulz_of_zero_is_zero(void **state) {
    kt_pool pool = {0};
    float *x = kt_new(&pool, 6 * sizeof *x, 0);
    (void)state;
    memset(x, 0, 6 * sizeof *x);
    for (int i = 0; i < kt_nruns; i++) {
        kt_run *r = &kt_runs[i];
        weft_newton_schulz_desc d = {.size = sizeof d, .rows = 2, .cols = 3, .rounds = 5};
        kt_ok(r, r->ops->newton_schulz(kt_exec_for(r, WEFT_OP_NEWTON_SCHULZ, &d), &d, x));
        for (int j = 0; j < 6; j++) assert_true(x[j] == 0);
    }
    kt_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw),
        cmocka_unit_test(adamw_first_step_by_hand),
        cmocka_unit_test(newton_schulz_agrees),
        cmocka_unit_test(newton_schulz_makes_singular_values_near_one),
        cmocka_unit_test(newton_schulz_of_zero_is_zero),
    };
    return cmocka_run_group_tests_name("ops", tests, kt_open, kt_close);
}
