/* libweft_pmpi.so: small MPI_Allreduce calls of an unmodified program take weft's LAT lane.
 *
 * Preloaded, it defines the MPI functions that it serves; everything else, and every case that it does not serve, is
 * the MPI library's (PMPI_*). Which way a call goes depends only on what all ranks of the call know alike: the
 * communicator, type, operator and count. Private to comm/pmpi; main thread. */
#ifndef WEFT_COMM_PMPI_SHIM_H
#define WEFT_COMM_PMPI_SHIM_H

#include <mpi.h>

#include "weft/comm.h"

typedef enum shim_call {
    SHIM_ALLREDUCE_C,
    SHIM_ALLREDUCE_FORTRAN,
    SHIM_BARRIER,
    SHIM_POLLED, /* waits, sends and receives that made progress of weft meanwhile */
    SHIM_CALLS
} shim_call;

#define SHOWN __attribute__((visibility("default"))) /* what the program finds in place of MPI's */

/* Calls of each kind, and those of them that weft served. */
typedef struct shim_counts {
    unsigned long calls[SHIM_CALLS], served[SHIM_CALLS];
} shim_counts;
extern shim_counts shim_count;

/* After PMPI_Init: the context and the group of MPI_COMM_WORLD. Collective. level: what MPI provides. Without effect if
 * WEFT_PMPI=off, or if weft cannot work; then the program is as without the shim. */
void shim_begin(int level);
/* Before PMPI_Finalize. Collective. */
void shim_end(void);

/* Attaches a group to a new communicator (MPI_COMM_NULL is allowed). Communicators of the same ranks in the same order
 * share one: their blocking collectives come in one order on all ranks anyway. Collective over the communicator. */
void shim_attach(MPI_Comm comm);
/* The group of comm; NULL: MPI's business. */
weft_group *shim_group(MPI_Comm comm);

/* MPI_Allreduce, wherever it goes. */
int shim_allreduce(const void *in, void *out, int n, MPI_Datatype t, MPI_Op op, MPI_Comm comm, shim_call by);
int shim_barrier(MPI_Comm comm);

/* Is other work of weft under way than the shim's own? Then a blocking call of MPI would hold up the peers' calls of
 * weft, and must be polled. */
int shim_busy(void);
/* If so, makes progress of weft and MPI until all of the requests are complete, or any. They are not freed. */
void shim_settle(int n, const MPI_Request *r, int all);
int shim_send(const void *buf, int n, MPI_Datatype t, int to, int tag, MPI_Comm comm);
int shim_recv(void *buf, int n, MPI_Datatype t, int source, int tag, MPI_Comm comm, MPI_Status *status);

#endif
