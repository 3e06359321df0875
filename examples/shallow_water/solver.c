/* Second order in space (limited linear reconstruction of depth, surface and velocity) and time (Heun), well balanced
 * and positive (Audusse et al. 2004, section 4). The state of a cell after a step is one expression of its neighbours
 * wherever it is computed, so the solution has the same bits for any number of ranks: the time step is a minimum, which
 * has no order, and sums are only looked at. */
#include "solver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CFL 0.25
#define DRY 1e-8 /* depth below which water stands still, of the case's scale */

static int cells_of(const sw_solver *s) {
    return s->pitch * (s->own[1] + 2 * SW_GHOST);
}
/* Index of the cell (i, j) of this rank. */
static int at(const sw_solver *s, int i, int j) {
    return (j + SW_GHOST) * s->pitch + i + SW_GHOST;
}

/* --- making one ------------------------------------------------------------------------------------------------ */

static void split(sw_solver *s, MPI_Comm ranks) {
    int rank, size;
    MPI_Comm_rank(ranks, &rank);
    MPI_Comm_size(ranks, &size);
    s->parts[0] = s->parts[1] = 0;
    MPI_Dims_create(size, 2, s->parts);
    s->at[0] = rank % s->parts[0];
    s->at[1] = rank / s->parts[0];
    for (int d = 0; d < 2; d++) {
        s->first[d] = (int)((long long)s->n[d] * s->at[d] / s->parts[d]);
        s->own[d] = (int)((long long)s->n[d] * (s->at[d] + 1) / s->parts[d]) - s->first[d];
        s->d[d] = (s->of->hi[d] - s->of->lo[d]) / s->n[d];
        for (int up = 0; up < 2; up++) {
            int p[2] = {s->at[0], s->at[1]};
            p[d] += up ? 1 : -1;
            const int outside = p[d] < 0 || p[d] >= s->parts[d];
            p[d] = (p[d] + s->parts[d]) % s->parts[d];
            s->neighbour[2 * d + up] = outside && s->of->edge != SW_PERIODIC ? -1 : p[1] * s->parts[0] + p[0];
        }
    }
    s->pitch = s->own[0] + 2 * SW_GHOST;
}

static int allocate(sw_solver *s) {
    const size_t n = (size_t)cells_of(s);
    int ok = 1;
    for (int f = 0; f < 3; f++) {
        s->u[f] = calloc(n, sizeof(double));
        s->before[f] = calloc(n, sizeof(double));
        s->rate[f] = calloc(n, sizeof(double));
        ok = ok && s->u[f] && s->before[f] && s->rate[f];
    }
    s->bed = calloc(n, sizeof(double));
    for (int k = 0; k < 4; k++) {
        s->side[k] = calloc((size_t)s->pitch, sizeof(sw_side));
        ok = ok && s->side[k];
    }
    s->high_below = calloc((size_t)s->pitch, sizeof(sw_side));
    if (ok && s->bed && s->high_below) return 0;
    fprintf(stderr, "shallow_water: no memory for %d x %d cells\n", s->own[0], s->own[1]);
    return -1;
}

/* Where the middle of cell k of the whole domain is. Ghosts lie where their values come from. */
static double place(const sw_solver *s, int d, int k) {
    const int n = s->n[d];
    if (s->of->edge == SW_PERIODIC) k = (k + n) % n;
    if (k < 0) k = -1 - k;
    if (k >= n) k = 2 * n - 1 - k;
    return s->of->lo[d] + (k + 0.5) * s->d[d];
}

static void fill(sw_solver *s) {
    for (int j = -SW_GHOST; j < s->own[1] + SW_GHOST; j++)
        for (int i = -SW_GHOST; i < s->own[0] + SW_GHOST; i++) {
            const double x = place(s, 0, s->first[0] + i), y = place(s, 1, s->first[1] + j);
            const sw_state q = s->of->start(x, y);
            const int k = at(s, i, j);
            s->bed[k] = s->of->bed(x, y);
            s->u[0][k] = q.h;
            s->u[1][k] = q.h * q.u;
            s->u[2][k] = q.h * q.v;
        }
}

/* Two strips a side and field: what goes out, and the ghosts that come in. A strip that travels east is way 1 on both
 * ends. */
static int plan_halo(sw_solver *s) {
    comm_face send[COMM_FACES], recv[COMM_FACES];
    int n = 0;
    for (int side = 0; side < 4; side++) {
        if (s->neighbour[side] < 0) continue;
        const int d = side / 2, up = side % 2;
        int out[2] = {0, 0}, in[2] = {0, 0}, extent[2] = {s->own[0], s->own[1]};
        extent[d] = SW_GHOST;
        out[d] = up ? s->own[d] - SW_GHOST : 0;
        in[d] = up ? s->own[d] : -SW_GHOST;
        for (int f = 0; f < 3; f++, n++) {
            send[n] = (comm_face){
                s->u[f] + at(s, out[0], out[1]), extent[1], extent[0], s->pitch, s->neighbour[side], side};
            recv[n] = send[n];
            recv[n].base = s->u[f] + at(s, in[0], in[1]);
            recv[n].way = side ^ 1;
        }
    }
    return s->ops->plan(s->comm, n, send, recv);
}

int sw_open(sw_solver *s, const sw_case *of, int n, const comm_ops *ops, MPI_Comm ranks, sw_broken broken) {
    *s = (sw_solver){.of = of, .ops = ops, .broken = broken};
    s->n[0] = n;
    s->n[1] = (int)(n * (of->hi[1] - of->lo[1]) / (of->hi[0] - of->lo[0]) + 0.5);
    split(s, ranks);
    if (s->n[0] / s->parts[0] < SW_GHOST || s->n[1] / s->parts[1] < SW_GHOST) {
        fprintf(stderr,
                "shallow_water: %d x %d cells are too few for %d x %d ranks; give each at least %d x %d\n",
                s->n[0], s->n[1], s->parts[0], s->parts[1], SW_GHOST, SW_GHOST);
        return -1;
    }
    if (allocate(s)) return -1;
    fill(s);
    s->comm = ops->open(ranks);
    return !s->comm || plan_halo(s) || ops->commit(s->comm) ? -1 : 0;
}

int sw_close(sw_solver *s) {
    const int failed = s->comm ? s->ops->close(s->comm) : 0;
    for (int f = 0; f < 3; f++) {
        free(s->u[f]);
        free(s->before[f]);
        free(s->rate[f]);
    }
    for (int k = 0; k < 4; k++) free(s->side[k]);
    free(s->high_below);
    free(s->bed);
    return failed;
}

void sw_get(const sw_solver *s, int f, double *cells) {
    const size_t n = (size_t)s->own[0];
    for (int j = 0; j < s->own[1]; j++)
        memcpy(cells + (size_t)j * n, s->u[f] + at(s, 0, j), n * sizeof(double));
}

void sw_set(sw_solver *s, int f, const double *cells) {
    const size_t n = (size_t)s->own[0];
    for (int j = 0; j < s->own[1]; j++)
        memcpy(s->u[f] + at(s, 0, j), cells + (size_t)j * n, n * sizeof(double));
}

/* --- a step ---------------------------------------------------------------------------------------------------- */

static double velocity(double momentum, double h) {
    return h > DRY ? momentum / h : 0;
}

/* Ghosts behind a wall are mirrored. */
static void mirror(sw_solver *s) {
    for (int side = 0; side < 4; side++) {
        if (s->neighbour[side] >= 0) continue;
        const int d = side / 2, up = side % 2;
        for (int k = 0; k < SW_GHOST; k++)
            for (int t = 0; t < s->own[1 - d]; t++) {
                const int ghost = up ? s->own[d] + k : -1 - k;
                const int inner = up ? s->own[d] - 1 - k : k;
                const int to = d ? at(s, t, ghost) : at(s, ghost, t),
                          from = d ? at(s, t, inner) : at(s, inner, t);
                for (int f = 0; f < 3; f++) s->u[f][to] = f == 1 + d ? -s->u[f][from] : s->u[f][from];
            }
    }
}

/* The states at the low and the high face, along dimension d, of the n cells from (i, j). */
static void reconstruct(const sw_solver *s, int d, int i, int j, int n, sw_side *low, sw_side *high) {
    const double *h = s->u[0], *qn = s->u[1 + d], *qt = s->u[2 - d], *b = s->bed;
    const double w = s->of->wiggle, x = s->d[d] / (s->of->hi[d] - s->of->lo[d]), eps = w * w * x * x * x;
    const int step = d ? s->pitch : 1, whole = s->broken != SW_NO_SLOPES;
    for (int k = 0, c = at(s, i, j); k < n; k++, c++) {
        const int m = c - step, p = c + step;
        const double u = velocity(qn[c], h[c]), v = velocity(qt[c], h[c]);
        const double eta = h[c] + b[c];
        double dh = 0, de = 0, du = 0, dv = 0;
        if (whole) {
            dh = sw_slope(h[c] - h[m], h[p] - h[c], eps);
            de = sw_slope(eta - (h[m] + b[m]), h[p] + b[p] - eta, eps);
            du = sw_slope(u - velocity(qn[m], h[m]), velocity(qn[p], h[p]) - u, eps);
            dv = sw_slope(v - velocity(qt[m], h[m]), velocity(qt[p], h[p]) - v, eps);
            dh = fmin(fmax(dh, -2 * h[c]), 2 * h[c]);
        }
        low[k] = (sw_side){h[c] - 0.5 * dh, eta - 0.5 * de - (h[c] - 0.5 * dh), u - 0.5 * du, v - 0.5 * dv};
        high[k] = (sw_side){h[c] + 0.5 * dh, eta + 0.5 * de - (h[c] + 0.5 * dh), u + 0.5 * du, v + 0.5 * dv};
    }
}

/* What the flux through the face between cells l and r does to both; -1: not ours to change. */
static void cross(sw_solver *s, int d, int l, int r, const sw_side *a, const sw_side *b) {
    const sw_flux f = sw_face(a, b, s->of->g);
    const double w = 1 / s->d[d];
    if (l >= 0) {
        s->rate[0][l] -= w * f.mass;
        s->rate[1 + d][l] -= w * f.left;
        s->rate[2 - d][l] -= w * f.along;
    }
    if (r >= 0) {
        s->rate[0][r] += w * f.mass;
        s->rate[1 + d][r] += w * f.right;
        s->rate[2 - d][r] += w * f.along;
    }
}

/* The bed's slope within a cell. */
static void lean(sw_solver *s, int d, int c, const sw_side *low, const sw_side *high) {
    if (s->broken == SW_NO_BALANCE) return;
    s->rate[1 + d][c] += 0.5 * s->of->g / s->d[d] * (low->h + high->h) * (low->b - high->b);
}

/* Rate of change of the cells [i0, i1) x [j0, j1), from them and two cells around them. */
static void rates(sw_solver *s, int i0, int i1, int j0, int j1) {
    const int n = i1 - i0;
    if (n <= 0 || j1 <= j0) return;
    for (int f = 0; f < 3; f++)
        for (int j = j0; j < j1; j++) memset(s->rate[f] + at(s, i0, j), 0, (size_t)n * sizeof(double));
    for (int j = j0; j < j1; j++) {
        sw_side *low = s->side[0], *high = s->side[1];
        reconstruct(s, 0, i0 - 1, j, n + 2, low, high);
        for (int k = 0, c = at(s, i0, j); k <= n; k++)
            cross(s, 0, k > 0 ? c + k - 1 : -1, k < n ? c + k : -1, &high[k], &low[k + 1]);
        for (int k = 1; k <= n; k++) lean(s, 0, at(s, i0 + k - 1, j), &low[k], &high[k]);
    }
    for (int j = j0 - 1; j <= j1; j++) {
        sw_side *low = s->side[2], *high = s->side[3];
        reconstruct(s, 1, i0, j, n, low, high);
        for (int k = 0, c = at(s, i0, j); k < n && j >= j0; k++)
            cross(s, 1, j > j0 ? c + k - s->pitch : -1, j < j1 ? c + k : -1, &s->high_below[k], &low[k]);
        for (int k = 0; k < n && j >= j0 && j < j1; k++) lean(s, 1, at(s, i0 + k, j), &low[k], &high[k]);
        memcpy(s->high_below, high, (size_t)n * sizeof *high);
    }
}

/* Rates of all cells: the inner ones while the halo travels, then the four rims. */
static int all_rates(sw_solver *s) {
    const int nx = s->own[0], ny = s->own[1], g = SW_GHOST, halo = s->broken != SW_NO_HALO;
    mirror(s);
    if (halo && s->ops->halo_start(s->comm)) return -1;
    const int x0 = nx > 2 * g ? g : nx, x1 = nx > 2 * g ? nx - g : nx; /* too small: everything is rim */
    const int y0 = ny > 2 * g ? g : ny, y1 = ny > 2 * g ? ny - g : ny;
    rates(s, x0, x1, y0, y1);
    if (halo && s->ops->halo_wait(s->comm)) return -1;
    rates(s, 0, nx, 0, y0);
    rates(s, 0, nx, y1, ny);
    rates(s, 0, x0, y0, y1);
    rates(s, x1, nx, y0, y1);
    return 0;
}

int sw_step(sw_solver *s, double dt) {
    const size_t bytes = (size_t)cells_of(s) * sizeof(double);
    for (int f = 0; f < 3; f++) memcpy(s->before[f], s->u[f], bytes);
    for (int stage = 0; stage < 2; stage++) {
        if (all_rates(s)) return -1;
        for (int f = 0; f < 3; f++)
            for (int j = 0; j < s->own[1]; j++)
                for (int i = 0, c = at(s, 0, j); i < s->own[0]; i++, c++) {
                    const double next = s->u[f][c] + dt * s->rate[f][c];
                    s->u[f][c] = stage ? 0.5 * (s->before[f][c] + next) : next;
                }
    }
    return 0;
}

int sw_time_step(sw_solver *s, double left, double *dt) {
    *dt = left;
    for (int j = 0; j < s->own[1]; j++)
        for (int i = 0, c = at(s, 0, j); i < s->own[0]; i++, c++) {
            const double h = fmax(0, s->u[0][c]), wave = sqrt(s->of->g * h);
            for (int d = 0; d < 2; d++) {
                const double speed = fabs(velocity(s->u[1 + d][c], h)) + wave;
                if (speed > 0) *dt = fmin(*dt, CFL * s->d[d] / speed);
                if (speed != speed) *dt = -1; /* not a number: the run ends */
            }
        }
    return s->ops->min(s->comm, dt);
}

/* --- looking at it --------------------------------------------------------------------------------------------- */

/* A sum that keeps what was rounded off (Neumaier). */
typedef struct careful {
    double sum, rest;
} careful;

static void add(careful *a, double x) {
    const double t = a->sum + x;
    a->rest += fabs(a->sum) >= fabs(x) ? (a->sum - t) + x : (x - t) + a->sum;
    a->sum = t;
}

int sw_diagnose(sw_solver *s, sw_diagnosis *out) {
    careful mass = {0, 0}, energy = {0, 0};
    const double g = s->of->g, area = s->d[0] * s->d[1];
    out->shallowest = 1e300;
    out->fastest = 0;
    for (int j = 0; j < s->own[1]; j++)
        for (int i = 0, c = at(s, 0, j); i < s->own[0]; i++, c++) {
            const double h = s->u[0][c], u = velocity(s->u[1][c], h), v = velocity(s->u[2][c], h);
            add(&mass, h);
            add(&energy, 0.5 * h * (u * u + v * v) + 0.5 * g * h * h + g * h * s->bed[c]);
            out->shallowest = fmin(out->shallowest, h);
            out->fastest = fmax(out->fastest, sqrt(u * u + v * v));
        }
    double sum[2] = {area * (mass.sum + mass.rest), area * (energy.sum + energy.rest)};
    if (s->ops->diagnose(s->comm, 2, sum, &out->shallowest, &out->fastest)) return -1;
    out->mass = sum[0];
    out->energy = sum[1];
    return 0;
}

int sw_error(sw_solver *s, double t, double *mean, double *largest) {
    double sum = 0, none = 0;
    *largest = 0;
    for (int j = 0; j < s->own[1]; j++)
        for (int i = 0, c = at(s, 0, j); i < s->own[0]; i++, c++) {
            const double x = place(s, 0, s->first[0] + i), y = place(s, 1, s->first[1] + j);
            const double e = fabs(s->u[0][c] - s->of->exact(x, y, t).h);
            sum += e;
            *largest = fmax(*largest, e);
        }
    if (s->ops->diagnose(s->comm, 1, &sum, &none, largest)) return -1;
    *mean = sum / s->n[0] / s->n[1];
    return 0;
}

/* splitmix64's finaliser: every bit of x reaches every bit of the result. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

int sw_checksum(sw_solver *s, uint64_t *out) {
    *out = 0;
    for (int f = 0; f < 3; f++)
        for (int j = 0; j < s->own[1]; j++)
            for (int i = 0, c = at(s, 0, j); i < s->own[0]; i++, c++) {
                const uint64_t where =
                    ((uint64_t)f * (uint64_t)s->n[1] + (uint64_t)(s->first[1] + j)) * (uint64_t)s->n[0] +
                    (uint64_t)(s->first[0] + i);
                uint64_t bits;
                memcpy(&bits, &s->u[f][c], sizeof bits);
                *out += mix(bits ^ mix(where + 1));
            }
    return s->ops->checksum(s->comm, out);
}
