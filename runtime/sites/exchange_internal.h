/* What the files of the exchange share. */
#ifndef WEFT_RUNTIME_SITES_EXCHANGE_INTERNAL_H
#define WEFT_RUNTIME_SITES_EXCHANGE_INTERNAL_H

#include "runtime/sites/exchange.h"
#include "runtime/sites/slabs.h"

#define EXCHANGE_RING 8 /* > kept + open + early */
#define EXCHANGE_RESULT                                                                                      \
    WEFT_EXCHANGE_MEMBERS /* the row of the results; the others are members' contributions */
#define EXCHANGE_ROWS  (WEFT_EXCHANGE_MEMBERS + 1)
#define EXCHANGE_SPARE 16 /* slabs beyond the plan, for transfers that outlive their round */

enum { CELL_EMPTY, CELL_COMING, CELL_HERE };
enum { SENT_NOT, SENT_OUT, SENT_DONE };
enum { SEND_CONTRIB, SEND_RESULT, SEND_KINDS };

typedef struct exchange_cell {
    void *slab; /* HERE: the table's hold; COMING: the transfer's */
    uint8_t state, hashed;
    weft_site_hash leaf;
} exchange_cell;

/* One round. Rounds that nobody spoke of have known = 0 and maybe early contributions. */
typedef struct exchange_slot {
    uint64_t round; /* 0: free */
    int known;      /* its terms are: begun, or committed */
    int sealed, committed, gather;
    int32_t attempt; /* the last that began; -1: none */
    uint64_t members, set;
    float weight[WEFT_EXCHANGE_MEMBERS];
    float eta;
    uint32_t bound[WEFT_EXCHANGE_MEMBERS + 1];
    uint64_t incarnation[WEFT_EXCHANGE_MEMBERS];
    uint32_t here[EXCHANGE_ROWS]; /* HERE cells of a row that are needed here; while known */
    exchange_cell *cell;          /* [EXCHANGE_ROWS][count] */
} exchange_slot;

struct weft_exchange {
    const weft_coder *coder;
    uint16_t self;
    uint32_t kept, count; /* rounds; chunks */
    weft_chunks chunks;
    weft_codec up, down;
    uint64_t version;
    weft_slabs *ups, *downs;
    exchange_slot slot[EXCHANGE_RING];
    float *acc;             /* a chunk */
    weft_site_hash *leaves; /* count */
    /* of round version + 1 */
    uint32_t reduced;           /* chunks of my part */
    uint32_t early, early_most; /* contributions' chunks here or coming that are not needed (yet) */
    uint8_t *sent;              /* [SEND_KINDS][MEMBERS][count] */
    uint32_t hint[SEND_KINDS][WEFT_EXCHANGE_MEMBERS]; /* nothing below is SENT_NOT */
    uint32_t turn;
};

static inline exchange_slot *exchange_slot_of(const weft_exchange *x, uint64_t round) {
    const exchange_slot *s = &x->slot[round % EXCHANGE_RING];
    return round && s->round == round ? (exchange_slot *)s : NULL;
}
static inline exchange_cell *exchange_cell_of(const weft_exchange *x, const exchange_slot *s, uint32_t row,
                                              uint32_t chunk) {
    return &s->cell[(size_t)row * x->count + chunk];
}
static inline int exchange_in(uint64_t set, uint32_t member) {
    return (int)(set >> member & 1);
}
static inline size_t exchange_bytes(const weft_exchange *x, weft_codec c, uint32_t chunk) {
    return weft_coder_bytes(c, weft_chunks_elements(x->chunks, chunk));
}
/* The chunks of a member's part: [*first, *end). */
static inline void exchange_part(const weft_exchange *x, const exchange_slot *s, uint32_t member,
                                 uint32_t *first, uint32_t *end) {
    *first = s->gather ? 0 : s->bound[member];
    *end = s->gather ? x->count : s->bound[member + 1];
}
static inline uint8_t *exchange_sent_at(const weft_exchange *x, int kind, uint32_t peer) {
    return x->sent + ((size_t)kind * WEFT_EXCHANGE_MEMBERS + peer) * x->count;
}
/* The member whose part (butterfly) has the chunk. */
static inline uint32_t exchange_owner(const exchange_slot *s, uint32_t chunk) {
    uint32_t m = 0;
    while (s->bound[m + 1] <= chunk) m++;
    return m;
}
/* A slab may be of either pool. */
static inline void exchange_drop(weft_exchange *x, const void *slab) {
    weft_slabs_drop(x->ups, slab);
    weft_slabs_drop(x->downs, slab);
}
static inline void exchange_hold(weft_exchange *x, const void *slab) {
    weft_slabs_hold(x->ups, slab);
    weft_slabs_hold(x->downs, slab);
}

/* The slot of the round, cleared first if another round lies in it. */
exchange_slot *exchange_open_slot(weft_exchange *x, uint64_t round);
void exchange_clear_row(weft_exchange *x, exchange_slot *s, uint32_t row);
/* The leaf of a cell that is here. */
weft_status exchange_leaf(weft_exchange *x, const exchange_slot *s, uint32_t row, uint32_t chunk,
                          weft_site_hash *leaf);

#endif
