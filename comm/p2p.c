/* Point-to-point messages over MPI; see p2p.h. */
#include "comm/p2p.h"

#include "base/fault.h"
#include "base/status.h"

weft_status p2p_check(int e, const char *call) {
    if (e == MPI_SUCCESS) return WEFT_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n = 0;
    MPI_Error_string(e, text, &n);
    return weft_fail(WEFT_ERR_LINK, "%s: %s", call, text);
}

weft_status p2p_send(weft_group *g, MPI_Comm lane, const void *buf, size_t bytes, int to, int tag,
                     MPI_Request *r) {
    *r = MPI_REQUEST_NULL;
    if (bytes > P2P_MAX) return weft_fail(WEFT_ERR_INTERNAL, "message of %zu bytes", bytes);
    if (weft_fault_hit(WEFT_FAULT_SEND))
        return weft_fail(WEFT_ERR_LINK, "sending %zu bytes to %s: injected fault", bytes,
                         weft_group_peer(g, to));
    weft_status s = p2p_check(MPI_Isend(buf, (int)bytes, MPI_BYTE, to, tag, lane, r), "MPI_Isend");
    return s < 0 ? weft_context(s, "sending %zu bytes to %s", bytes, weft_group_peer(g, to)) : s;
}

weft_status p2p_recv(weft_group *g, MPI_Comm lane, void *buf, size_t bytes, int from, int tag,
                     MPI_Request *r) {
    *r = MPI_REQUEST_NULL;
    if (bytes > P2P_MAX) return weft_fail(WEFT_ERR_INTERNAL, "message of %zu bytes", bytes);
    weft_status s = p2p_check(MPI_Irecv(buf, (int)bytes, MPI_BYTE, from, tag, lane, r), "MPI_Irecv");
    return s < 0 ? weft_context(s, "receiving %zu bytes from %s", bytes, weft_group_peer(g, from)) : s;
}

weft_status p2p_test(MPI_Request *r, int *done, size_t *bytes) {
    if (*r == MPI_REQUEST_NULL) {
        *done = 1;
        return WEFT_OK;
    }
    MPI_Status st;
    int n = 0;
    WEFT_TRY(p2p_check(MPI_Test(r, done, &st), "MPI_Test"));
    if (*done && bytes) {
        WEFT_TRY(p2p_check(MPI_Get_count(&st, MPI_BYTE, &n), "MPI_Get_count"));
        *bytes = (size_t)n;
    }
    return WEFT_OK;
}

int p2p_abandon(MPI_Request *r, int n, int receives) {
    int free_of_mpi = 1;
    for (int i = 0; i < n; i++) {
        if (r[i] == MPI_REQUEST_NULL) continue;
        int done = 0;
        if (receives) MPI_Cancel(&r[i]);
        /* A cancelled receive completes at once unless its message is already arriving. */
        for (int tries = 0; tries < 100 && !done; tries++)
            if (MPI_Test(&r[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
        if (!done) free_of_mpi = 0;
    }
    return free_of_mpi;
}
