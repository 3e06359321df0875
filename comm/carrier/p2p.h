/* Point-to-point messages of a lane: the only place where bytes leave the process.
 *
 * A lane is a group's set of end points for one kind of traffic; nobody else's messages match its own. What carries it
 * stands behind carrier.h and is chosen for a context by weft_init: MPI; UCX with WEFT_CARRIER=ucx; with
 * WEFT_EMU_LINK="delay_us=13000,gbit=25" an emulated link between nodes (emu.c). Everything is non-blocking; messages of one sender, receiver and tag arrive in
 * order. Messages are at most P2P_MAX bytes (MPI-3 counts are int): callers cut. Tags are 0 to P2P_TAGS - 1. Main
 * thread. */
#ifndef WEFT_COMM_CARRIER_P2P_H
#define WEFT_COMM_CARRIER_P2P_H

#include "weft/comm.h"

#define P2P_MAX  ((size_t)1 << 30)
#define P2P_TAGS 32768 /* what every MPI has */

typedef enum p2p_kind { P2P_CTRL, P2P_ALARM, P2P_LAT, P2P_HALO, P2P_BULK } p2p_kind;

typedef struct p2p_lane p2p_lane;

typedef union p2p_handle {
    MPI_Request mpi;
    void *pointer;
} p2p_handle;

/* A message under way. All zero: none, which counts as complete. Stays where it is until it is complete. */
typedef struct p2p_request {
    p2p_lane *lane;           /* NULL: complete */
    p2p_handle handle, stamp; /* the carrier's; stamp: of emu.c */
    uint64_t due;             /* emu.c: when it is there, in ns */
    uint32_t bytes;           /* of a receive, once complete: of the message */
    uint8_t receives;         /* 1: a receive */
} p2p_request;

/* Collective over g; all ranks get the same status where kind is not CTRL or ALARM. Takes the private communicator comm over, which is freed by close. CTRL and ALARM come first, and
 * the carriers of the others may talk over CTRL. */
weft_status p2p_open(weft_group *g, p2p_kind kind, MPI_Comm comm, p2p_lane **lane);
/* healthy: all ranks close it together; else what needs the others is left alone. NULL is allowed. */
void p2p_close(p2p_lane *lane, int healthy);
/* The carriers that this weft can use: "mpi, ucx". */
const char *p2p_known(void);
/* What carries the lane: "mpi". */
const char *p2p_carrier(const p2p_lane *lane);
MPI_Comm p2p_comm(const p2p_lane *lane);

/* LINK: the carrier failed. */
weft_status p2p_send(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r);
/* from: a rank of the group; MPI_ANY_SOURCE for CTRL and ALARM only. */
weft_status p2p_recv(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r);
weft_status p2p_poll(p2p_request *r, int *done); /* use p2p_test */
/* *done = 1 once r is complete. Makes progress. */
static inline weft_status p2p_test(p2p_request *r, int *done) {
    *done = !r->lane;
    return *done ? WEFT_OK : p2p_poll(r, done);
}
/* Lets MPI move the program's own messages. */
void p2p_nudge(void);
/* Gives up n requests of a group that failed. Returns 1 if the carrier has let go of all of their buffers; 0 if it
 * may still touch one: then neither the buffers nor the requests may be freed. */
int p2p_abandon(p2p_request *r, int n);
/* MPI's error code as a status with MPI's text. OK for MPI_SUCCESS. */
weft_status p2p_check(int mpi_error, const char *call);

#endif
