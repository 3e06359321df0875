/* The MPI functions as C programs call them. */
#include <mpi.h>

#include "comm/pmpi/shim.h"

/* --- begin and end --------------------------------------------------------------------------------------------- */

SHOWN int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
    const int wanted = required < MPI_THREAD_FUNNELED ? MPI_THREAD_FUNNELED : required;
    const int e = PMPI_Init_thread(argc, argv, wanted, provided);
    if (e == MPI_SUCCESS) shim_begin(*provided < wanted ? *provided : wanted);
    return e;
}

SHOWN int MPI_Init(int *argc, char ***argv) {
    int provided;
    return MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
}

SHOWN int MPI_Finalize(void) {
    shim_end();
    return PMPI_Finalize();
}

/* --- reductions ------------------------------------------------------------------------------------------------ */

SHOWN int MPI_Allreduce(const void *in, void *out, int n, MPI_Datatype t, MPI_Op op, MPI_Comm comm) {
    return shim_allreduce(in, out, n, t, op, comm, SHIM_ALLREDUCE_C);
}

SHOWN int MPI_Barrier(MPI_Comm comm) {
    return shim_barrier(comm);
}

/* --- new communicators ----------------------------------------------------------------------------------------- */

static int attach(int e, const MPI_Comm *made) {
    if (e == MPI_SUCCESS) shim_attach(*made);
    return e;
}

SHOWN int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *out) {
    return attach(PMPI_Comm_dup(comm, out), out);
}
SHOWN int MPI_Comm_dup_with_info(MPI_Comm comm, MPI_Info info, MPI_Comm *out) {
    return attach(PMPI_Comm_dup_with_info(comm, info, out), out);
}
SHOWN int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *out) {
    return attach(PMPI_Comm_split(comm, color, key, out), out);
}
SHOWN int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *out) {
    return attach(PMPI_Comm_split_type(comm, type, key, info, out), out);
}
SHOWN int MPI_Comm_create(MPI_Comm comm, MPI_Group group, MPI_Comm *out) {
    return attach(PMPI_Comm_create(comm, group, out), out);
}
SHOWN int MPI_Comm_create_group(MPI_Comm comm, MPI_Group group, int tag, MPI_Comm *out) {
    return attach(PMPI_Comm_create_group(comm, group, tag, out), out);
}
SHOWN int MPI_Cart_create(MPI_Comm comm, int nd, const int dims[], const int periods[], int reorder,
                          MPI_Comm *out) {
    return attach(PMPI_Cart_create(comm, nd, dims, periods, reorder, out), out);
}
SHOWN int MPI_Cart_sub(MPI_Comm comm, const int remain[], MPI_Comm *out) {
    return attach(PMPI_Cart_sub(comm, remain, out), out);
}

/* --- calls that wait ------------------------------------------------------------------------------------------- */

SHOWN int MPI_Wait(MPI_Request *r, MPI_Status *status) {
    shim_settle(1, r, 1);
    return PMPI_Wait(r, status);
}
SHOWN int MPI_Waitall(int n, MPI_Request *r, MPI_Status *statuses) {
    shim_settle(n, r, 1);
    return PMPI_Waitall(n, r, statuses);
}
SHOWN int MPI_Waitany(int n, MPI_Request *r, int *index, MPI_Status *status) {
    shim_settle(n, r, 0);
    return PMPI_Waitany(n, r, index, status);
}
SHOWN int MPI_Waitsome(int n, MPI_Request *r, int *done, int *indices, MPI_Status *statuses) {
    shim_settle(n, r, 0);
    return PMPI_Waitsome(n, r, done, indices, statuses);
}

SHOWN int MPI_Recv(void *buf, int n, MPI_Datatype t, int source, int tag, MPI_Comm comm, MPI_Status *status) {
    return shim_recv(buf, n, t, source, tag, comm, status);
}
SHOWN int MPI_Send(const void *buf, int n, MPI_Datatype t, int to, int tag, MPI_Comm comm) {
    return shim_send(buf, n, t, to, tag, comm);
}
SHOWN int MPI_Sendrecv(const void *out, int nout, MPI_Datatype tout, int to, int tag_out, void *in, int nin,
                       MPI_Datatype tin, int from, int tag_in, MPI_Comm comm, MPI_Status *status) {
    MPI_Request r[2];
    if (!shim_busy())
        return PMPI_Sendrecv(out, nout, tout, to, tag_out, in, nin, tin, from, tag_in, comm, status);
    int e = PMPI_Irecv(in, nin, tin, from, tag_in, comm, &r[0]);
    if (e == MPI_SUCCESS) e = PMPI_Isend(out, nout, tout, to, tag_out, comm, &r[1]);
    if (e != MPI_SUCCESS) return e;
    shim_settle(2, r, 1);
    e = PMPI_Wait(&r[1], MPI_STATUS_IGNORE);
    const int e2 = PMPI_Wait(&r[0], status);
    return e != MPI_SUCCESS ? e : e2;
}
