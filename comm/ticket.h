/* Tickets: the One-Order rule for operations that make a device wait for other devices.
 *
 * Such an operation (a NCCL kernel) occupies its device until all its members run it. Two rules keep that from ending
 * in a circle. R2: all ranks issue the operations that they share in one order, the order of their tickets. R3: an
 * operation is issued only when all its members have posted it. tests/comm/test_one_order.c walks all interleavings of
 * small programs through this code, and shows the hang when a rule is dropped.
 *
 * The list of slots (bucket b of plan p, in `messages` pieces) is fixed at commit and equal on all ranks of the context
 * but for `mine`. It is walked in cycles: ticket 1 is slot 0 of the first cycle, ticket n + 1 is slot 0 of the second. A
 * bulk with tickets is therefore started by its members once in every cycle (weight 0: nothing to give). Ticket numbers
 * are compared by serial arithmetic, so they may pass 2^32.
 *
 * What it asks of the program: a rank posts all its tickets of a cycle before a later one (or anything that needs a
 * peer's later one) is waited for. And of the device: tickets go through one stream, or there is a kernel slot for each
 * message of the credit; otherwise a device may start them in another order than they were issued in.
 *
 * Agreement: every rank tells, in any reduction over the whole context, the last ticket such that it and all before it
 * are posted here or none of this rank's business. The minimum is admitted. Values only grow, so it does not matter in
 * which order reductions arrive. Pure: no MPI, no clock, no allocation after create. Main thread. */
#ifndef WEFT_COMM_TICKET_H
#define WEFT_COMM_TICKET_H

#include <stdint.h>

#include "weft/status.h"

#define TICKET_CREDIT   2          /* messages issued and not yet complete, on one rank */
#define TICKET_PULSE_NS 1000000u   /* age of news before a message of their own is spent on them */
#define TICKET_SLOTS    (1u << 24) /* of one list: far below half of the numbers */

typedef enum ticket_admission {
    TICKET_AGREED, /* R3: issued when all members have posted it */
    /* Issued when posted here. Only where the device has room for credit + 1 kernels and the program does not wait for
     * the whole device between a start and its wait. */
    TICKET_STATIC,
} ticket_admission;

typedef struct ticket_slot {
    uint32_t phase; /* sorted by phase, then order, plan and bucket; no two slots have the same four */
    uint32_t order; /* in which buckets are expected to become final */
    uint32_t plan, bucket;
    uint32_t messages; /* pieces that it is issued in, >= 1 */
    int mine;          /* this rank is a member; not part of the agreement */
} ticket_slot;

typedef struct tickets {
    /* fixed at commit */
    ticket_slot *slot;
    uint32_t n;
    ticket_admission admission;
    int credit;
    uint32_t before; /* the number before the first ticket */
    uint64_t pulse_ns;
    /* where this rank stands */
    uint32_t *posted;                      /* rounds of each slot */
    uint32_t admitted;                     /* tickets up to this one may be issued */
    uint32_t ready, ready_at, ready_round; /* tickets up to `ready` are posted; then comes slot ready_at */
    uint32_t told;                         /* the last value of ticket_tell */
    uint32_t issued, issue_at, issue_round,
        message; /* tickets up to `issued` are out; next is slot issue_at */
    int outstanding;
    uint64_t since; /* when there was something to tell, 0: nothing */
} tickets;

/* a comes after b, mod 2^32. */
static inline int ticket_after(uint32_t a, uint32_t b) {
    return (int32_t)(a - b) > 0;
}
/* The minimum in that sense: how the values of the ranks are combined. */
static inline uint32_t ticket_min(uint32_t a, uint32_t b) {
    return ticket_after(a, b) ? b : a;
}

/* Copies and sorts the slots. `before`: the number before the first ticket (0, but for tests). n may be 0: then nothing
 * is ever issued. ARG: duplicate keys, no messages, too many; NOMEM. On an error t is empty. */
weft_status tickets_create(tickets *t, const ticket_slot *slot, uint32_t n, ticket_admission admission,
                           int credit, uint32_t before);
void tickets_destroy(tickets *t);
/* Of everything that must be equal on all ranks. */
uint64_t tickets_hash(const tickets *t);
/* Index of a bucket in the list; -1: it has no ticket. */
int64_t tickets_find(const tickets *t, uint32_t plan, uint32_t bucket);

/* A new round of slot i is READY here. STATE: its last round has not been issued yet. */
weft_status ticket_post(tickets *t, uint32_t i);

/* What this rank tells in a reduction over the whole context, found as it is being sent. */
uint32_t ticket_mine(tickets *t);
/* Such a reduction is complete here, with this minimum. INTERNAL: it is beyond what this rank told. */
weft_status ticket_admitted(tickets *t, uint32_t min);

/* Pulses carry the agreement where no reduction does (pulse.h): values travel up a tree whenever they have grown, the
 * minimum travels down. below: the minimum that the ranks below this one told, or ticket_mine if there are none. 1: *value
 * is news for the rank above (for the uppermost: for all), and counts as told; it is older than TICKET_PULSE_NS, or `now`
 * is 0: a message that came in asks for an answer. */
int ticket_tell(tickets *t, uint32_t below, uint64_t now, uint32_t *value);

/* 1: message *message of slot *i is to be issued now, before all others. 0: nothing yet. */
int ticket_next(tickets *t, uint32_t *i, uint32_t *message);
/* It was issued. */
void ticket_issued(tickets *t);
/* One message that was issued is complete: gives the credit back. */
void ticket_done(tickets *t);
/* All that is admitted and concerns this rank has been issued. */
int ticket_drained(tickets *t);

#endif
