/* The dam break in one dimension, on a grid far finer than any of the plane: (rh)_t + (rhu)_r = 0,
 * (rhu)_t + (r(hu^2 + gh^2/2))_r = gh^2/2. Every rank computes it for itself, with the same bits. */
#include <math.h>

#include "cases.h"
#include "riemann.h"

#define CELLS 2000
#define CFL   0.45

static double depth[CELLS], flow[CELLS], width;

/* First order in space: the grid makes up for it. */
static void step(double dt, double g) {
    static double dh[CELLS], dq[CELLS];
    for (int i = 0; i < CELLS; i++) dh[i] = dq[i] = 0;
    for (int i = 0; i <= CELLS; i++) {
        const int l = i > 0 ? i - 1 : 0, r = i < CELLS ? i : CELLS - 1;
        const double mirror = i > 0 ? 1 : -1;
        const sw_side a = {depth[l], 0, mirror * flow[l] / depth[l], 0},
                      b = {depth[r], 0, flow[r] / depth[r], 0};
        const sw_flux f = sw_face(&a, &b, g);
        const double area = i * width;
        if (i > 0) dh[l] -= area * f.mass, dq[l] -= area * f.left;
        if (i < CELLS) dh[r] += area * f.mass, dq[r] += area * f.right;
    }
    for (int i = 0; i < CELLS; i++) {
        const double s = dt / ((i + 0.5) * width * width);
        dq[i] += 0.5 * g * depth[i] * depth[i] * width;
        depth[i] += s * dh[i];
        flow[i] += s * dq[i];
    }
}

void sw_radial_solve(double g, double end, double radius, double inside, double outside, double size) {
    width = size / CELLS;
    for (int i = 0; i < CELLS; i++) {
        depth[i] = (i + 0.5) * width < radius ? inside : outside;
        flow[i] = 0;
    }
    for (double t = 0; t < end;) {
        double fastest = 0;
        for (int i = 0; i < CELLS; i++)
            fastest = fmax(fastest, fabs(flow[i] / depth[i]) + sqrt(g * depth[i]));
        const double dt = fmin(CFL * width / fastest, end - t);
        step(dt, g);
        t = dt < end - t ? t + dt : end;
    }
}

sw_state sw_radial_at(double r) {
    const double x = r / width - 0.5;
    const int i = x < 0 ? 0 : x > CELLS - 2 ? CELLS - 2 : (int)x;
    const double w = x < 0 ? 0 : x - i;
    const double h = (1 - w) * depth[i] + w * depth[i + 1], q = (1 - w) * flow[i] + w * flow[i + 1];
    return (sw_state){h, q / h, 0};
}
