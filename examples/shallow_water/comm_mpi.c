/* Plain MPI: a derived datatype a face, persistent requests, one MPI_Allreduce a reduction. */
#include <stdio.h>
#include <stdlib.h>

#include "comm.h"

struct comm {
    MPI_Comm ranks;
    int nrequests, ntypes;
    MPI_Request request[2 * COMM_FACES];
    MPI_Datatype type[2 * COMM_FACES];
};

static int check(int e, const char *what) {
    if (e == MPI_SUCCESS) return 0;
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    MPI_Error_string(e, text, &n);
    fprintf(stderr, "shallow_water: %s: %s\n", what, text);
    return -1;
}

static comm *mpi_open(MPI_Comm ranks) {
    comm *c = calloc(1, sizeof *c);
    if (!c || check(MPI_Comm_dup(ranks, &c->ranks), "MPI_Comm_dup")) {
        free(c);
        return NULL;
    }
    return c;
}

static MPI_Datatype strip(comm *c, const comm_face *f) {
    MPI_Datatype *t = &c->type[c->ntypes++];
    MPI_Type_vector(f->rows, f->columns, (int)f->pitch, MPI_DOUBLE, t);
    MPI_Type_commit(t);
    return *t;
}

static int mpi_plan(comm *c, int n, const comm_face *send, const comm_face *recv) {
    /* All receives before all sends. Faces of one peer and way match in order: MPI messages do not overtake. */
    for (int i = 0; i < n; i++)
        MPI_Recv_init(recv[i].base, 1, strip(c, &recv[i]), recv[i].peer, recv[i].way, c->ranks,
                      &c->request[c->nrequests++]);
    for (int i = 0; i < n; i++)
        MPI_Send_init(send[i].base, 1, strip(c, &send[i]), send[i].peer, send[i].way, c->ranks,
                      &c->request[c->nrequests++]);
    return 0;
}

static int mpi_commit(comm *c) {
    (void)c;
    return 0;
}

static int mpi_halo_start(comm *c) {
    return check(MPI_Startall(c->nrequests, c->request), "MPI_Startall");
}

static int mpi_halo_wait(comm *c) {
    return check(MPI_Waitall(c->nrequests, c->request, MPI_STATUSES_IGNORE), "MPI_Waitall");
}

static int mpi_min(comm *c, double *x) {
    return check(MPI_Allreduce(MPI_IN_PLACE, x, 1, MPI_DOUBLE, MPI_MIN, c->ranks), "MPI_Allreduce");
}

static int mpi_diagnose(comm *c, int nsum, double *sum, double *min, double *max) {
    if (check(MPI_Allreduce(MPI_IN_PLACE, sum, nsum, MPI_DOUBLE, MPI_SUM, c->ranks), "MPI_Allreduce"))
        return -1;
    if (mpi_min(c, min)) return -1;
    return check(MPI_Allreduce(MPI_IN_PLACE, max, 1, MPI_DOUBLE, MPI_MAX, c->ranks), "MPI_Allreduce");
}

static int mpi_checksum(comm *c, uint64_t *sum) {
    return check(MPI_Allreduce(MPI_IN_PLACE, sum, 1, MPI_UINT64_T, MPI_SUM, c->ranks), "MPI_Allreduce");
}

static int mpi_close(comm *c) {
    for (int i = 0; i < c->nrequests; i++) MPI_Request_free(&c->request[i]);
    for (int i = 0; i < c->ntypes; i++) MPI_Type_free(&c->type[i]);
    MPI_Comm_free(&c->ranks);
    free(c);
    return 0;
}

const comm_ops comm_mpi = {"mpi",         mpi_open, mpi_plan,     mpi_commit,   mpi_halo_start,
                           mpi_halo_wait, mpi_min,  mpi_diagnose, mpi_checksum, mpi_close};
