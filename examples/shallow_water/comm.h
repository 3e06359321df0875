/* What the solver asks of its ranks. comm_mpi.c answers with plain MPI, comm_weft.c with weft; nothing else in this
 * example communicates. Functions return 0, or -1 after a message on stderr. All are collective. */
#ifndef SW_COMM_H
#define SW_COMM_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

typedef struct comm comm;

/* A strip of cells of one field: rows x columns, `pitch` doubles between rows. `way` is the direction in which it
 * travels (0 to 3): it tells two strips between the same two ranks apart. */
typedef struct comm_face {
    double *base;
    int rows, columns;
    ptrdiff_t pitch;
    int peer, way;
} comm_face;

#define COMM_FACES 12 /* 4 sides, 3 fields */

typedef struct comm_ops {
    const char *name;
    comm *(*open)(MPI_Comm ranks); /* NULL after a message */
    /* The one halo of the run. Faces of one peer and way travel in the order given. Before commit. */
    int (*plan)(comm *c, int n, const comm_face *send, const comm_face *recv);
    int (*commit)(comm *c);
    int (*halo_start)(comm *c);
    int (*halo_wait)(comm *c);
    int (*min)(comm *c, double *x);
    /* Sums, a minimum and a maximum of the same moment. */
    int (*diagnose)(comm *c, int nsum, double *sum, double *min, double *max);
    int (*checksum)(comm *c, uint64_t *sum); /* modulo 2^64: any order gives the same */
    int (*close)(comm *c);
} comm_ops;

extern const comm_ops comm_mpi;
extern const comm_ops comm_weft;

#endif
