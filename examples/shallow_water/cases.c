/* lake: at rest over a bump; nothing may move. wave: the first two-dimensional standing wave of a closed basin, so
 * low that linear theory holds to 1e-6 of it. bowl: a drop of water oscillating in a paraboloid with a moving shore
 * (Thacker, J. Fluid Mech. 107, 1981). dam: the circular dam break of PDEBench (arXiv 2210.07182), against a
 * radial computation; at the end its waves have not reached the walls. */
#include "cases.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

static double flat(double x, double y) {
    (void)x;
    (void)y;
    return 0;
}

/* --- lake ------------------------------------------------------------------------------------------------------ */

static double bump(double x, double y) {
    return 0.8 * exp(-5 * (x - 0.9) * (x - 0.9) - 50 * (y - 0.5) * (y - 0.5));
}

static sw_state lake(double x, double y) {
    return (sw_state){1 - bump(x, y), 0, 0};
}

static sw_state lake_exact(double x, double y, double t) {
    (void)t;
    return lake(x, y);
}

/* --- wave: h = 1 + a cos(kx) cos(ky) cos(wt), w = k sqrt(2 g) -------------------------------------------------- */

#define WAVE 1e-6

static sw_state wave_exact(double x, double y, double t) {
    const double k = 2 * pi, w = k * sqrt(2.0), c = WAVE * k / w * sin(w * t);
    return (sw_state){1 + WAVE * cos(k * x) * cos(k * y) * cos(w * t), c * sin(k * x) * cos(k * y),
                      c * cos(k * x) * sin(k * y)};
}

static sw_state wave(double x, double y) {
    return wave_exact(x, y, 0);
}

/* --- bowl ------------------------------------------------------------------------------------------------------ */

#define BOWL_G      9.81
#define BOWL_DEPTH  0.1
#define BOWL_RADIUS 1.0
#define BOWL_RATIO  0.2 /* Thacker's A */

static double bowl_bed(double x, double y) {
    return BOWL_DEPTH * ((x * x + y * y) / (BOWL_RADIUS * BOWL_RADIUS) - 1);
}

static sw_state bowl_exact(double x, double y, double t) {
    const double w = sqrt(8 * BOWL_G * BOWL_DEPTH) / BOWL_RADIUS, a = BOWL_RATIO;
    const double q = 1 - a * cos(w * t), f = (1 - a * a) / (q * q);
    const double r2 = (x * x + y * y) / (BOWL_RADIUS * BOWL_RADIUS);
    const double h = BOWL_DEPTH * (sqrt(f) - 1 - r2 * (f - 1)) - bowl_bed(x, y);
    if (h <= 0) return (sw_state){0, 0, 0};
    const double s = w * a * sin(w * t) / (2 * q);
    return (sw_state){h, s * x, s * y};
}

static sw_state bowl(double x, double y) {
    return bowl_exact(x, y, 0);
}

/* --- dam ------------------------------------------------------------------------------------------------------- */

static sw_state dam(double x, double y) {
    return (sw_state){x * x + y * y < 0.5 * 0.5 ? 2 : 1, 0, 0};
}

static sw_state dam_exact(double x, double y, double t) {
    (void)t;
    const double r = sqrt(x * x + y * y);
    const sw_state s = sw_radial_at(r);
    return r > 0 ? (sw_state){s.h, s.u * x / r, s.u * y / r} : s;
}

static void dam_prepare(void) {
    sw_radial_solve(1, 1, 0.5, 2, 1, 4);
}

static const sw_case cases[] = {
    {"lake",
     "lake at rest over a bump: nothing may move",
     {0, 0},
     {2, 1},
     9.81,
     0.5,
     1,
     SW_PERIODIC,
     bump,
     lake,
     lake_exact,
     NULL,
     1e-13,
     0},
    {"wave",
     "standing wave in a closed basin",
     {0, 0},
     {1, 1},
     1,
     0.5,
     WAVE,
     SW_WALL,
     flat,
     wave,
     wave_exact,
     NULL,
     1e-7,
     1.9},
    {"bowl",
     "Thacker's oscillating paraboloid, with a moving shore",
     {-2, -2},
     {2, 2},
     BOWL_G,
     2.2429,
     0.01,
     SW_WALL,
     bowl_bed,
     bowl,
     bowl_exact,
     NULL,
     5e-3,
     0.8},
    {"dam",
     "circular dam break (PDEBench)",
     {-2.5, -2.5},
     {2.5, 2.5},
     1,
     1,
     0,
     SW_WALL,
     flat,
     dam,
     dam_exact,
     dam_prepare,
     5e-2,
     0.7},
};

const sw_case *sw_case_at(int i) {
    return i < (int)(sizeof cases / sizeof cases[0]) ? &cases[i] : NULL;
}

const sw_case *sw_case_find(const char *name) {
    for (int i = 0; sw_case_at(i); i++)
        if (strcmp(sw_case_at(i)->name, name) == 0) return sw_case_at(i);
    return NULL;
}
