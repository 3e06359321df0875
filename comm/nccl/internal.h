/* What the files of the device carrier share. */
#ifndef WEFT_COMM_NCCL_INTERNAL_H
#define WEFT_COMM_NCCL_INTERNAL_H

#include "comm/engine.h"
#include "comm/nccl/api.h"
#include "comm/nccl/device.h"
#include "comm/pulse.h"
#include "comm/ticket.h"

typedef struct nccl_mover nccl_mover;

/* A message in the stream. */
typedef struct flight {
    nccl_mover *mover;
    ncclComm_t comm;
    cudaEvent_t event;
    int recorded; /* the event is behind it; before that NCCL is still launching */
} flight;

typedef struct device {
    engine_item item; /* of the urgent list while there are tickets: pulses, events, errors */
    weft_ctx *ctx;
    const nccl_api *api;
    cudaStream_t stream;
    flight flight[TICKET_CREDIT]; /* a ring, in the stream's order */
    int first, nflights;
    int by_start; /* no rank has device bulks of two groups: the order is that of their starts, without tickets */
    nccl_mover *head; /* by_start: bulks that are not all issued, in that order */
    tickets tickets;
    nccl_mover **of_slot; /* whose bucket a slot is; NULL: not this rank's */
    pulse *pulse;
    uint32_t era;       /* commits */
    nccl_mover *movers; /* all */
    weft_status failed; /* of all device bulks, until the next commit */
    char failed_text[256];
} device;

struct nccl_mover {
    mover mover;
    nccl_mover *next, *behind; /* all movers; by_start: the one that was started after this one */
    device *device;
    weft_group *group;
    const plan *plan;
    weft_bulk_kind kind;
    weft_redop op;
    int root, id;
    int messages;   /* of the rank that has most: ALLTOALLV */
    uint32_t *slot; /* of each bucket */
    unsigned char *posted;
    void *neutral[WEFT_DTYPE_COUNT]; /* device memory: what a rank gives that does not contribute */
    int under_way, own, contributors;
    int issued, done, empty; /* messages; empty: issued without a kernel */
    int seen;                /* done, when the mover was last advanced: what a waiter may know */
};

weft_status device_fail(device *d, weft_status s);
/* Issues message m of v on the device's stream; NCCL may still be launching when it returns. */
weft_status nccl_issue(nccl_mover *v, int m);
/* Local; d->api is loaded. */
weft_status nccl_mover_create(device *d, const mover_spec *spec, mover **out);
/* Messages of bucket b on the rank that has most. */
int nccl_mover_messages(const nccl_mover *v, int bucket);

#endif
