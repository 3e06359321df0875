/* Who is late, and with what.
 *
 * Every rank of a node keeps a board in shared memory: what it waits for now, or what it last waited for and how long ago
 * it left weft; and a table of its call sites as text, because an address means nothing to another process. Each small
 * reduction leaves a note beside its record. A wait longer than stall_ms reports, once, from the boards: which ranks of
 * this node have not come and what they do instead. Dead ranks are the business of peers.h. */
#ifndef WEFT_COMM_STALL_H
#define WEFT_COMM_STALL_H

#include <stdint.h>

#include "comm/drive.h"
#include "weft/comm.h"

#define STALL_TEXT 384

typedef struct stall stall;

/* What a rank posted as a small reduction. */
typedef struct stall_note {
    uint64_t seq;
    uint32_t entries, bytes;
    uint32_t type, op; /* of the first entry */
    uint32_t site, reserved;
} stall_note;

/* Collective over the context. */
weft_status stall_create(weft_ctx *c, stall **s);
void stall_destroy(stall *s);

/* The number of a call site; it enters the table when it is seen for the first time. */
uint32_t stall_site(weft_ctx *c, const void *address);
/* This rank begins and ends to wait for op. */
void stall_enter(const comm_op *op);
void stall_leave(weft_ctx *c);
/* "rank 1 (...) posts 3 reductions, first f64 sum of ..., at prog(main+0x12)". */
void stall_describe(const weft_group *g, int rank, const stall_note *n, char *text, size_t bytes);
/* A stall that a rank of this node reported. */
typedef struct stall_told {
    double seconds;        /* how long it had waited then */
    char text[STALL_TEXT]; /* "rank 0 (...) waits in bcast of group 'world': rank 1 (...) is outside weft" */
} stall_told;

/* 1: *told is one that this rank has not been given yet; of several by one rank in between, the last. Main thread. */
int stall_news(weft_ctx *c, stall_told *told);
/* Logs who keeps op waiting, after `waited` ns, and returns 1; 0 if a lower rank of the node that waits in the group has
 * the word: ask again. */
int stall_report(const comm_op *op, uint64_t waited);

#endif
