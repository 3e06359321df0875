/* The engine: one look at everything of a context that can move, most urgent first.
 *
 * Reductions and halos are advanced first; only if none of them moved, one piece of one bulk (a message at most): so a
 * reduction waits for at most one piece on each rank that it needs. Urgent bulks go before others, and among equals
 * those that were started first; a bulk that cannot move lets the next one go. All of it happens inside weft calls on
 * the thread that called weft_init; nothing here waits. Errors break the group of what failed and are seen there. */
#ifndef WEFT_COMM_ENGINE_H
#define WEFT_COMM_ENGINE_H

#include "base/hist.h"
#include "weft/comm.h"

typedef enum engine_lane { LANE_LAT, LANE_HALO, LANE_BULK, LANE_CTRL, LANES } engine_lane;

/* Something with a place in a list of what is under way. */
typedef struct engine_item {
    struct engine_item *next;
    weft_group *group;
    int listed, urgent;
    /* Moves what it can without waiting, a bulk at most one piece; *moved = 1 if it did. OK: over, and taken off the
     * list. IN_PROGRESS. An error breaks the group. */
    weft_status (*advance)(struct engine_item *i, int *moved, int *waits_for);
} engine_item;

typedef struct lane_record {
    weft_hist ns; /* from start to completion */
    uint64_t count, bytes;
} lane_record;

typedef struct engine {
    engine_item *urgent; /* LAT and HALO under way */
    engine_item *bulk;   /* bulks under way, urgent ones first */
    int quiet;           /* depth of weft_quiet */
    int in_poll;         /* a tick may come while a piece is under way */
    lane_record lane[LANES];
    weft_hist loaded; /* LAT with a bulk beside it */
    uint64_t records, entries, quanta, pulses, longest_quantum;
    uint64_t look_at; /* when a glance looks at the peers */
} engine;

/* Puts an item on its list. Main thread. */
void engine_add(weft_ctx *c, engine_lane lane, engine_item *i);
/* Takes it off (after an error, or at its end); harmless if it is not there. */
void engine_remove(weft_ctx *c, engine_item *i);

/* The contexts of this process: a program's own, and that of the MPI shim (comm/pmpi). */
void engine_join(weft_ctx *c);
void engine_leave(weft_ctx *c);
/* One look at all contexts but c, and one of MPI at the program's own messages: while a rank waits in weft, what it sent
 * before by MPI must go on (MPI's progress rule), and between ranks of one node weft itself may need no message. */
void engine_poll_others(const weft_ctx *c);

/* One look. bulks = 0: no piece of a bulk. *moved = 1 if anything did. */
void engine_poll(weft_ctx *c, int bulks, int *moved);

/* One look by a caller that does not wait: the same, and now and then at the peers, since nobody else does. */
void engine_glance(weft_ctx *c, int bulks);

/* An operation of the lane that took `ns` is complete (ns = 0: not timed). */
void engine_count(weft_ctx *c, engine_lane lane, uint64_t ns, uint64_t bytes);

#endif
