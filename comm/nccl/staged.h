/* The way of device tensors where NCCL cannot be used: every message is copied to host memory when it is ready, carried by
 * the mover that host memory would have, and copied back. Slow, but the run goes on. */
#ifndef WEFT_COMM_NCCL_STAGED_H
#define WEFT_COMM_NCCL_STAGED_H

#include "comm/mover.h"
#include "comm/nccl/api.h"

/* Collective over the spec's group. */
weft_status staged_mover_create(const nccl_api *a, const mover_spec *spec, mover **out);

#endif
