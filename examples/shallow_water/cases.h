/* The problems: sea bed, initial state, and what is known about the solution. */
#ifndef SW_CASES_H
#define SW_CASES_H

typedef enum sw_edge { SW_WALL, SW_PERIODIC } sw_edge;

typedef struct sw_state {
    double h, u, v; /* depth, velocity */
} sw_state;

typedef struct sw_case {
    const char *name, *what;
    double lo[2], hi[2]; /* the domain */
    double g, end;       /* gravity, time to simulate */
    double wiggle;       /* differences between cells far below this are smooth, and are not limited */
    sw_edge edge;
    double (*bed)(double x, double y);
    sw_state (*start)(double x, double y);
    /* The solution at `end`; NULL: none in closed form. For dam: a one-dimensional computation, made by
     * `prepare`. */
    sw_state (*exact)(double x, double y, double t);
    void (*prepare)(void);
    double max_error,
        min_order; /* what --check asks for: error of the finest grid; order between the last two */
} sw_case;

/* NULL: no such case. */
const sw_case *sw_case_find(const char *name);
/* All, until NULL. */
const sw_case *sw_case_at(int i);

/* A dam of the given radius on a fine radial grid of length `size` (radial.c), and its state at radius r. */
void sw_radial_solve(double g, double end, double radius, double inside, double outside, double size);
sw_state sw_radial_at(double r);

#endif
