/* The device carrier: bulks whose tensors are in device memory travel by NCCL.
 *
 * One stream of the device takes all of weft's operations, in one order on all ranks; the host never waits for it:
 * communicators are non-blocking, the end of each operation is an event. At most TICKET_CREDIT messages are in the
 * stream. Messages of a bulk are its plan's, one NCCL group each. Which order:
 *
 *   by start   where no rank has device bulks of two groups (data parallelism alone). Members begin the bulks of a group in
 *              one order, and the vote of each round has shown that all of them did, so that is the order: bulks are
 *              started as often as one likes, and a message goes out when it is ready here. A kernel may then wait on
 *              its device for a late peer: the communicator has at most CTAS_MOST blocks, and the program does not wait
 *              for the whole device (cudaFree, cudaDeviceSynchronize) between a start and its wait. It makes ready what
 *              it started first before it waits for what it started later.
 *   tickets    (ticket.h) else. All committed bulks are started in rounds, each once before any for the second time, by
 *              all members (weight 0: nothing to give), and none is waited for before this rank has made ready all of
 *              its own in the round. A message goes out when it is ready on all ranks.
 *
 * When an operation fails on any rank, all ranks learn it (pulse.h), abort their communicators and return LINK for their
 * device bulks, until a weft_commit that makes new ones; the host carriers go on. Main thread. */
#ifndef WEFT_COMM_NCCL_DEVICE_H
#define WEFT_COMM_NCCL_DEVICE_H

#include "comm/mover.h"

#define DEVICE_CHUNK ((size_t)4 << 20) /* bytes of a message */

/* 1 if this build can move what is in device memory (it was made with NCCL's and CUDA's headers). */
int device_built(void);
/* Whether tensors of this rank are in device memory: 1 all, 0 none, -1 some. Local. */
int device_holds(int nt, const weft_tensor *t);
/* Collective over the spec's group: the mover for tensors in device memory; *v = NULL where they are in host memory on
 * all ranks. Where NCCL cannot be used on some rank, messages are staged through host memory (staged.h). ARG: here and
 * there. */
weft_status device_mover_create(const mover_spec *spec, mover **v);
/* Collective over the context, after all bulks are made: numbers the tickets anew. STATE: a device bulk is under way. */
weft_status device_commit(weft_ctx *c);
/* The group's communicator. Not collective after an error. */
void device_close_group(weft_group *g, int healthy);
/* Its messages; before the groups are destroyed. */
void device_stop(weft_ctx *c);
/* The rest; after them. */
void device_destroy(weft_ctx *c);

#endif
