/* What carries the messages of a lane. A carrier fills this table; p2p.c chooses one for each lane when it opens. */
#ifndef WEFT_COMM_CARRIER_CARRIER_H
#define WEFT_COMM_CARRIER_CARRIER_H

#include "comm/carrier/p2p.h"

typedef struct carrier {
    const char *name;
    /* Collective over the lane's group; sets lane->state. NULL: nothing to do. On an error nothing stays behind. */
    weft_status (*open)(p2p_lane *lane);
    /* healthy: all ranks come here. NULL: nothing to do. */
    void (*close)(p2p_lane *lane, int healthy);
    /* Fill r->handle; p2p.c has checked sizes and filled the rest. */
    weft_status (*send)(p2p_lane *lane, const void *buf, size_t bytes, int to, int tag, p2p_request *r);
    weft_status (*recv)(p2p_lane *lane, void *buf, size_t bytes, int from, int tag, p2p_request *r);
    /* Of a request under way; a receive that is done has r->bytes set. */
    weft_status (*test)(p2p_request *r, int *done);
    /* Asks for the end of a request that nobody will wait for; test tells when it is over. NULL: cannot. */
    void (*cancel)(p2p_request *r);
} carrier;

struct p2p_lane {
    const carrier *carrier;
    weft_group *group;
    MPI_Comm comm; /* private to the lane */
    p2p_kind kind;
    void *state; /* the carrier's */
};

extern const carrier carrier_mpi; /* CTRL and ALARM always; the others unless told otherwise */
extern const carrier carrier_emu; /* if WEFT_EMU_LINK is set and the group has several nodes */
extern const carrier carrier_ucx; /* if WEFT_CARRIER=ucx, where it was built */
/* Reads "delay_us=13000,gbit=25", in any order; what is missing is no delay, or no limit. ARG. */
weft_status emu_parse(const char *text, uint64_t *delay_ns, double *ns_per_byte);

#endif
