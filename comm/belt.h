/* The belt: carries the messages of one round of a bulk up the reduction tree and down again.
 *
 * A message passes five stages, each in message order, on every rank:
 *
 *   posted    receives of the children's partial sums are open
 *   reduced   own data and the children's are summed, and the sum is on its way to the parent
 *   asked     the receive of the result from the parent is open (the root has the result already)
 *   arrived   the result is in the tensor, and on its way to the children
 *   done      MPI has let go of the tensor
 *
 * Five counters are the whole state: done <= arrived <= asked <= reduced <= posted <= done + WINDOW. Stages
 * of different messages overlap, which is the pipeline. Message m uses the tree of class m (tree.h), so each
 * rank is the root of its share and the traffic of every rank is that of a reduce-scatter and an allgather.
 * Messages of one stage between two ranks have one tag and are posted in message order, so MPI's
 * non-overtaking rule matches them.
 *
 * Sums are f32 inside for bf16: a rank with children sends its partial sum as f32, and the root rounds once.
 * Ranks that do not contribute are absent leaves of the tree: neither read nor added. */
#ifndef WEFT_COMM_BELT_H
#define WEFT_COMM_BELT_H

#include "comm/mover.h"
#include "weft/comm.h"

/* Allocates. */
weft_status belt_create(const mover_spec *s, mover **v);

#endif
