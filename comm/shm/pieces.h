/* What a message of a pipe (pipe.h) is made of on this rank, and the three things that are done with it. Each function
 * copies or sums at most one message; the caller sees to it that memory may be read and written. */
#ifndef WEFT_COMM_SHM_PIECES_H
#define WEFT_COMM_SHM_PIECES_H

#include <stdatomic.h>

#include "comm/group.h"
#include "comm/mover.h"
#include "comm/shm/calls.h"
#include "comm/shm/heap.h"
#include "comm/shm/segment.h"

#define PIPE_SLOTS       2
#define PIPE_ALIGN       ((size_t)64) /* of spans in a slot */
#define PIPE_PAGE        ((size_t)4096)
#define PIPE_ROUND_SHIFT 24 /* counters: round << 24 | messages */
#define PIPE_MESSAGES    ((1 << PIPE_ROUND_SHIFT) - 1)

typedef enum pipe_stage { STAGE_IN, STAGE_RED, STAGE_OUT, PIPE_STAGES } pipe_stage;

typedef struct pipe_line { /* of one rank, which alone writes it */
    _Alignas(64) _Atomic uint64_t count[PIPE_STAGES];
} pipe_line;

typedef struct pipe_state {
    mover base;
    weft_group *group;
    const plan *plan;
    weft_bulk_kind kind;
    weft_redop op;
    int root, p, me;
    uint32_t id;
    /* shared memory */
    segment memory;
    pipe_line *line;   /* by rank */
    heap_place *place; /* bulks: of message m of rank r at [r * places + m]; NULL: nothing is in the heap */
    size_t places;
    char *slots; /* rank r's at r * PIPE_SLOTS * slot */
    size_t slot;
    /* this round */
    uint64_t round, number;
    call_line mine, *call; /* call: by rank */
    int starting, published, over, contributors;
    int count[PIPE_STAGES], done; /* messages that have passed here */
    int known[PIPE_STAGES];       /* messages that are known to have passed everywhere else */
    int sums, one_source;         /* has STAGE_RED; BCAST: the rank that gives, else -1 */
    int out_needs_all;            /* STAGE_OUT needs the stage before from all ranks */
    int read_here;                /* others read our own memory, and not only slots */
    int past;                     /* results go past the caches */
    size_t stride;                /* from a rank's span in a slot to the next one's */
} pipe_state;

/* At the start of a round, when all calls are known. */
void pieces_begin(pipe_state *v);

/* Does message m need to be copied to our slot? */
int pieces_copies_in(const pipe_state *v, int m);
void pieces_in(pipe_state *v, int m);
weft_status pieces_red(pipe_state *v, int m);
/* Does STAGE_OUT of message m copy anything? */
int pieces_copies_out(const pipe_state *v, int m);
weft_status pieces_out(pipe_state *v, int m);

#endif
