/* Finite volumes for the shallow water equations on a rectangle, split over ranks in two dimensions. */
#ifndef SW_SOLVER_H
#define SW_SOLVER_H

#include <stdint.h>

#include "cases.h"
#include "comm.h"
#include "riemann.h"

#define SW_GHOST 2

/* What the tests leave out, to see that the checks notice. */
typedef enum sw_broken { SW_WHOLE, SW_NO_SLOPES, SW_NO_BALANCE, SW_NO_HALO } sw_broken;

typedef struct sw_solver {
    const sw_case *of;
    const comm_ops *ops;
    comm *comm;
    sw_broken broken;
    int n[2];             /* cells of the whole domain */
    int parts[2], at[2];  /* ranks along x and y, and where this one is */
    int first[2], own[2]; /* this rank's cells */
    int neighbour[4];     /* west, east, south, north; -1: the edge of the domain */
    double d[2];          /* size of a cell */
    int pitch;            /* own[0] + 2 SW_GHOST */
    double *u[3];         /* depth, momentum along x and y; with ghosts */
    double *before[3], *rate[3], *bed;
    sw_side *side[4];    /* a row of cells: low and high side along x, then y */
    sw_side *high_below; /* the high sides along y of the row before */
} sw_solver;

typedef struct sw_diagnosis {
    double mass, energy, shallowest, fastest;
} sw_diagnosis;

/* Collective. 0, or -1 after a message. */
int sw_open(sw_solver *s, const sw_case *of, int n, const comm_ops *ops, MPI_Comm ranks, sw_broken broken);
/* The longest stable time step of all ranks, at most `left`. */
int sw_time_step(sw_solver *s, double left, double *dt);
/* Two stages of Heun's method. */
int sw_step(sw_solver *s, double dt);
int sw_diagnose(sw_solver *s, sw_diagnosis *d);
/* Mean and largest error of the depth against the exact solution. */
int sw_error(sw_solver *s, double t, double *mean, double *largest);
/* Over cells and their places: equal exactly if all ranks hold the same solution, however it is split. */
int sw_checksum(sw_solver *s, uint64_t *sum);
/* This rank's cells of field f (u[f]) without ghosts, row-major: own[1] rows of own[0]. Not collective. */
void sw_get(const sw_solver *s, int f, double *cells);
void sw_set(sw_solver *s, int f, const double *cells);
int sw_close(sw_solver *s);

#endif
