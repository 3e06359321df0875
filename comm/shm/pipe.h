/* The pipe: carries bulks of a group whose ranks all live on one node, through shared memory.
 *
 * Each rank has SLOTS slots for messages and one line with three counters: messages whose data others may read (`in`),
 * those whose share it has summed (`red`), those of which it needs nothing more from anybody (`out`). A message m of
 *
 *   ALLREDUCE       in: all but the own slice of the message is copied to the slot
 *                   red: the own slice of all ranks' is summed, into the own tensor and the slot
 *                   out: the other slices are copied from the slots of their owners
 *   REDUCE_SCATTER  in, red as before, with the ranks' parts for slices; nothing to copy out
 *   ALLGATHER, BCAST, ALLTOALLV    in: copied to the slot; out: copied from the others' slots
 *
 * Memory of weft_mem_alloc is a slot of its own: it is read where it is, and sums are written straight to where they
 * belong in everybody's tensors (a symmetric push), so that nothing is copied at all.
 *
 * Slot m % SLOTS is written again when every rank is through with message m (`out`). Counters carry the round in their
 * upper bits and only grow. One call of advance copies or sums at most one message, the oldest that can move.
 *
 * Bits: an element is the tree of reduce_push over the ranks, with those that do not contribute as empty places: those
 * of belt.h. Which rank sums what changes nothing.
 *
 * No vote: who contributes is told by calls.h. Main thread. */
#ifndef WEFT_COMM_SHM_PIPE_H
#define WEFT_COMM_SHM_PIPE_H

#include "comm/mover.h"
#include "comm/shm/calls.h"

/* Can a pipe serve the group? Equal on all ranks. */
int pipe_serves(const weft_group *g);
/* Collective over the group, whose calls (calls.h) are there. */
weft_status pipe_create(const mover_spec *s, mover **v);

/* For blocking collectives: a pipe for uniform plans whose messages fit into slots of `slot` bytes, each rank's span of
 * them rounded up to PIPE_ALIGN. Collective. */
weft_status pipe_create_blocking(weft_group *g, size_t slot, mover **v);
/* The `message` for plan_uniform. */
size_t pipe_message(const mover *v);
/* Begins a round in place of mover_ops.begin; plan (borrowed until it is over) and the calls of all ranks. */
void pipe_begin_blocking(mover *v, const plan *p, weft_redop op, int root, const call_line *all);

/* Tests only: how many slots a rank uses. With 1, a slot is written while others read it. */
extern int pipe_test_slots;

#endif
