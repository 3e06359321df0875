/* Flags that any rank raises and all ranks see at the same step (weft_raise, weft_step).
 *
 * Those raised before step s travel in the header of the first record closed after it in the carrier: the lowest group
 * that has all ranks of the context, weft's own if there is no other. If none is closed before step s + 1, an empty
 * record goes there. All ranks read the result at step s + 2. */
#ifndef WEFT_COMM_FLAGS_H
#define WEFT_COMM_FLAGS_H

#include <stdint.h>

#include "weft/comm.h"

#define FLAGS_STEPS 4 /* whose results are remembered */

typedef struct step_flags {
    uint64_t step;            /* calls of weft_step */
    uint32_t raised, leaving; /* leaving: raised before the last step */
    struct {
        const weft_group *group; /* the carrier whose record took them; NULL: none yet */
        uint64_t seq;            /* of that record */
        uint32_t agreed;
        int here;
    } of[FLAGS_STEPS]; /* by step */
} step_flags;

/* The flags that record seq of g takes along. */
uint32_t flags_take(weft_ctx *c, const weft_group *g, uint64_t seq);
/* Record seq of g is complete. */
void flags_arrived(weft_ctx *c, const weft_group *g, uint64_t seq, uint32_t agreed);

#endif
