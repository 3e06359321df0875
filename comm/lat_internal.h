/* What the files of the LAT lane share. */
#ifndef WEFT_COMM_LAT_INTERNAL_H
#define WEFT_COMM_LAT_INTERNAL_H

#include "comm/engine.h"
#include "comm/lat.h"
#include "comm/shm/segment.h"
#include "comm/shm/wait.h"
#include "comm/stall.h"

#define LAT_WINDOWS  4
#define LAT_ENTRIES  (WEFT_LAT_BYTES / 8)
#define LAT_REQUESTS 1024
#define LAT_INLINE   (FLAG_DATA - 16) /* bytes of values that fit beside the header in a flag line */

typedef struct lat_header {
    uint32_t admit_min; /* MIN in serial arithmetic */
    uint32_t hash_min,
        nhash_min; /* MIN of the hash and of its complement; not each other's complement: ranks disagree */
    uint32_t flags_or; /* OR */
} lat_header;

typedef struct lat_record {
    lat_header header;
    unsigned char values[WEFT_LAT_BYTES];
} lat_record;

_Static_assert(sizeof(lat_header) == 16, "the header is part of the wire format");

/* Neighbouring reductions of one type and operator: folded in one go. */
typedef struct lat_run {
    weft_dtype type;
    weft_redop op;
    uint32_t offset, bytes;
} lat_run;

typedef struct lat_entry {
    void *out;
    uint32_t offset, bytes;
} lat_entry;

typedef struct lat_window {
    lat_record record;
    int entries, runs, timed;
    size_t bytes;
    uint64_t began;
    uint32_t hash;
    const void *site; /* where it was closed */
    lat_entry entry[LAT_ENTRIES];
    lat_run run[LAT_ENTRIES];
} lat_window;

struct weft_req {
    lat *lat;
    uint64_t seq; /* of its record */
    weft_req *next;
};

typedef enum lat_phase { LAT_IDLE, LAT_NODE, LAT_NODES, LAT_RELEASE } lat_phase;

typedef struct lat_net lat_net;

struct lat {
    engine_item item;
    weft_group *group;
    segment segment;
    flag_line *line;
    stall_note *note;
    unsigned char *slot;
    uint64_t closed, started, done; /* records */
    uint64_t missed;                /* ns: since when weft_test says no; 0: it does not */
    uint32_t hash;
    lat_phase phase;
    int seen; /* ranks of the node whose record is here */
    lat_net *net;
    const unsigned char **source, **partial; /* of a fold: one per rank of the node */
    unsigned char *scratch;                  /* partial sums of more than WEFT_REDUCE_MAX ranks */
    weft_req *free, req[LAT_REQUESTS];
    lat_window window[LAT_WINDOWS];
};

weft_status lat_advance(engine_item *item, int *moved, int *waits_for);

int lat_agrees(const lat_header *h);
void lat_join_headers(lat_header *h, const lat_header *other);

/* lat_fold.c: the values of w become the tree over src[0..p); src[i] may be w's own. */
weft_status lat_fold(lat *l, lat_window *w, int p, const unsigned char **src);
/* Bytes of scratch that folding p records takes. */
size_t lat_fold_scratch(int p);

/* lat_net.c: the exchange between the lowest ranks of the nodes. NULL where there is one node. */
weft_status lat_net_create(weft_group *g, lat_net **n);
void lat_net_destroy(lat_net *n);
weft_status lat_net_begin(lat_net *n, lat *l, lat_window *w);
/* OK: the record of w is that of all nodes. */
weft_status lat_net_advance(lat_net *n, lat *l, lat_window *w, int *moved, int *waits_for);

#endif
