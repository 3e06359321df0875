/* How activations and their gradients go from one stage of a pipeline to the next.
 *
 * Between two neighbouring virtual stages (pipeline.h) there is a link each way. A message is copied on both ends (on one
 * node through shared memory, else by the carrier), so buffers are the caller's own again on return; a sender may be two
 * messages of a link ahead of its receiver, which is more than either schedule needs (a wait in weft_links_send then lets
 * all other traffic go on). Receives are posted before they are needed. No third rank takes part, links do not wait for
 * each other, and gradients travel behind them.
 *
 * A link is a halo with one face (weft/comm.h). Measured beside an urgent broadcast in a group of two (benchmarks/stages.c)
 * a message of 1 MiB takes 0.3 ms instead of 0.2, since its two copies follow each other; but the broadcast has both ranks
 * agree on every message first, keeps the sender until the receiver is there, and takes the messages of a group in one
 * order, which would let the two directions of a pipeline wait for each other. */
#ifndef WEFT_RUNTIME_LINKS_H
#define WEFT_RUNTIME_LINKS_H

#include "weft/comm.h"

typedef struct weft_links weft_links;

/* Collective over `stages`, whose ranks are the stages in order; before weft_commit. n elements of type t a message.
 * UNSUPPORTED: more virtual stages than a group has halos. */
weft_status weft_links_create(weft_group *stages, int chunks, size_t n, weft_dtype t, weft_links **l);
void weft_links_destroy(weft_links *l);
/* Memory of the links for messages on their way, of a stage; neighbours on the same node. Pure. */
size_t weft_links_bytes(int stages, int stage, int chunks, size_t n, weft_dtype t);

/* The output of the chunk's pass, to the stage that needs it: forward the residual stream behind its layers, backward the
 * gradient at its entry. Nothing to do behind the last and before the first virtual stage. */
weft_status weft_links_send(weft_links *l, int chunk, int backward, void *data);
/* The input of the chunk's pass. Waits. Nothing to do for what begins here. */
weft_status weft_links_receive(weft_links *l, int chunk, int backward, void *data);
/* Seconds spent in receives since the last call. */
double weft_links_waited(weft_links *l);

#endif
