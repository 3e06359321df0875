/* How far the clocks of the ranks are apart: for traces that lay the ranks side by side. */
#ifndef WEFT_COMM_SKEW_H
#define WEFT_COMM_SKEW_H

#include "weft/comm.h"

typedef struct weft_skew {
    uint64_t t;           /* ns of this rank's CLOCK_MONOTONIC, when it was measured */
    double offset, bound; /* ns: this rank's clock is offset ahead of rank 0's, give or take bound */
} weft_skew;

/* Collective over g, on the CTRL lane, with the context's timeout and peer watch: every rank exchanges 40 to 400
 * small messages with rank 0, one rank after the other. Rank 0 gets {now, 0, 0}. TIMEOUT, PEER. Main thread.
 *
 * Of the round trips the shortest counts (Cristian, "Probabilistic clock synchronization", 1989): rank 0 read its clock
 * somewhere within it, so its middle is wrong by at most half of it. */
weft_status weft_ctrl_skew(weft_group *g, weft_skew *s);

#endif
