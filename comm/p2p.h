/* Point-to-point messages: the only place where bytes enter MPI.
 * Non-blocking; a request that is MPI_REQUEST_NULL counts as complete. A failing MPI call becomes
 * WEFT_ERR_LINK. Messages are at most P2P_MAX bytes (MPI-3 counts are int): callers cut. */
#ifndef WEFT_COMM_P2P_H
#define WEFT_COMM_P2P_H

#include "weft/comm.h"

#define P2P_MAX ((size_t)1 << 30)

weft_status p2p_send(weft_group *g, MPI_Comm lane, const void *buf, size_t bytes, int to, int tag,
                     MPI_Request *r);
weft_status p2p_recv(weft_group *g, MPI_Comm lane, void *buf, size_t bytes, int from, int tag,
                     MPI_Request *r);
/* *done = 1 once r is complete; *bytes (may be NULL) then is the size of a received message. */
weft_status p2p_test(MPI_Request *r, int *done, size_t *bytes);
/* Gives up n requests of a group that failed. Returns 1 if MPI has let go of all of their buffers; 0 if it
 * may still touch one: then the memory must not be freed. */
int p2p_abandon(MPI_Request *r, int n, int receives);
/* MPI's error code as a status with MPI's text. OK for MPI_SUCCESS. */
weft_status p2p_check(int mpi_error, const char *call);

#endif
