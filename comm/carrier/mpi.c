/* Messages over MPI, on the lane's own communicator. */
#include "base/status.h"
#include "comm/carrier/carrier.h"

static weft_status mpi_send(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r) {
    return p2p_check(MPI_Isend(buf, (int)bytes, MPI_BYTE, to, tag, lane->comm, &r->handle.mpi), "MPI_Isend");
}

static weft_status mpi_recv(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r) {
    return p2p_check(MPI_Irecv(buf, (int)bytes, MPI_BYTE, from, tag, lane->comm, &r->handle.mpi),
                     "MPI_Irecv");
}

static weft_status mpi_test(p2p_request *r, int *done) {
    MPI_Status st;
    int n = 0;
    WEFT_TRY(p2p_check(MPI_Test(&r->handle.mpi, done, &st), "MPI_Test"));
    if (!*done || !r->receives) return WEFT_OK;
    if (MPI_Get_count(&st, MPI_BYTE, &n) != MPI_SUCCESS || n < 0) n = 0; /* cancelled */
    r->bytes = (uint32_t)n;
    return WEFT_OK;
}

/* Sends cannot be cancelled. A cancelled receive completes at once unless its message is already arriving. */
static void mpi_cancel(p2p_request *r) {
    if (r->receives) MPI_Cancel(&r->handle.mpi);
}

const carrier carrier_mpi = {
    .name = "mpi", .send = mpi_send, .recv = mpi_recv, .test = mpi_test, .cancel = mpi_cancel};
