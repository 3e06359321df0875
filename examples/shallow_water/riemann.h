/* Slopes and fluxes of the shallow water equations, shared by the plane and the radial solver. */
#ifndef SW_RIEMANN_H
#define SW_RIEMANN_H

#include <math.h>

/* One side of a face: depth, bed, velocity normal to it and along it. */
typedef struct sw_side {
    double h, b, u, v;
} sw_side;

/* Flux through a face. The momentum that the left cell loses and that the right one gains differ over a sloping bed. */
typedef struct sw_flux {
    double mass, left, right, along;
} sw_flux;

/* Slope of a cell from the differences to its neighbours (van Albada), linear where both are far below sqrt(eps). */
static inline double sw_slope(double a, double b, double eps) {
    const double top = (b * b + eps) * a + (a * a + eps) * b, bottom = a * a + b * b + 2 * eps;
    return bottom > 0 ? top / bottom : 0;
}

/* HLL, with the hydrostatic reconstruction of Audusse et al. (SIAM J. Sci. Comput. 25, 2004). */
static inline sw_flux sw_face(const sw_side *l, const sw_side *r, double g) {
    const double top = l->b > r->b ? l->b : r->b;
    const double hl = fmax(0, l->h + l->b - top), hr = fmax(0, r->h + r->b - top);
    const double cl = sqrt(g * hl), cr = sqrt(g * hr);
    const double sl = fmin(0, fmin(l->u - cl, r->u - cr)), sr = fmax(0, fmax(l->u + cl, r->u + cr));
    sw_flux f = {0};
    double push = 0;
    if (sr - sl > 1e-14) { /* else both sides are dry */
        const double w = 1 / (sr - sl), ql = hl * l->u, qr = hr * r->u;
        f.mass = w * (sr * ql - sl * qr + sl * sr * (hr - hl));
        push = w * (sr * (ql * l->u + 0.5 * g * hl * hl) - sl * (qr * r->u + 0.5 * g * hr * hr) +
                    sl * sr * (qr - ql));
    }
    f.left = push + 0.5 * g * (l->h * l->h - hl * hl);
    f.right = push + 0.5 * g * (r->h * r->h - hr * hr);
    f.along = f.mass * (f.mass > 0 ? l->v : r->v);
    return f;
}

#endif
