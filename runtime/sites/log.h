/* The hub's log: append-only, and the truth about a run. Whatever a hub tells anybody stands here first, durably.
 *
 * The interface is a table of operations, so that a replicated log can take the place of the file. The one here is
 * `file`: segments DIR/log-<first seq> of 64 MiB at most, one writer (a lock on DIR/lock), records as in record.h.
 *
 * Opening reads all of it. What a crash can leave, an incomplete or unreadable last record, is cut off and said; damage
 * with readable records behind it, a broken chain or a missing segment is CORRUPT: nothing is repaired silently. With
 * `recover` the log is cut there, what is cut off is kept beside it as cut-<seq>-<unix time>, and that is said loudly.
 *
 * After any failed write or sync the log has failed: every later call is ERR_STATE, the hub has to end (a page that
 * fsync lost may read as written afterwards, so nothing is tried again), and the next start finds what is really there.
 *
 * One thread at a time. */
#ifndef WEFT_SITES_LOG_H
#define WEFT_SITES_LOG_H

#include "runtime/sites/record.h"

typedef struct weft_hub_log weft_hub_log;

typedef struct weft_hub_log_ops {
    const char *name;
    weft_status (*append)(weft_hub_log *l, const weft_log_record *r);
    weft_status (*sync)(weft_hub_log *l);
    weft_status (*read)(weft_hub_log *l, uint64_t seq, weft_log_record *r);
    weft_status (*lease)(weft_hub_log *l);
    void (*close)(weft_hub_log *l);
} weft_hub_log_ops;

struct weft_hub_log {
    const weft_hub_log_ops *ops;
    uint64_t seq, synced; /* last record appended, last one known to be durable; 0: none */
    uint64_t term;        /* of the last record */
    uint8_t chain[WEFT_CHAIN_BYTES];
    int failed;
    unsigned char *buf; /* WEFT_RECORD_MAX, for packing */
};

typedef struct weft_hub_log_opts {
    uint32_t size;          /* sizeof */
    int recover;            /* cut at damage instead of refusing */
    int read_only;          /* verify and read; no lock, nothing is changed; append is ERR_STATE */
    uint64_t segment_bytes; /* 0: 64 MiB */
} weft_hub_log_opts;

typedef struct weft_hub_log_found {
    uint64_t records, segments, cut_bytes; /* cut_bytes: torn tail, or what recover took away */
    uint64_t damaged_seq;                  /* recover: first record that was not readable; 0: none */
    char where[256];                       /* of the cut: file and byte */
} weft_hub_log_found;

/* Opens (or, if there is none and not read_only, begins) the log in dir. ACCESS: another hub holds it. CORRUPT, VERSION,
 * NOTFOUND (read_only), IO, SPACE, NOMEM. found may be NULL; it is filled on CORRUPT, too. */
weft_status weft_hub_log_open(const char *dir, const weft_hub_log_opts *opts, weft_hub_log **l,
                              weft_hub_log_found *found);
void weft_hub_log_close(weft_hub_log *l);

/* Appends {term, unix_ns, type, body} as record seq + 1; *out (may be NULL) is it, borrowed until the next call. It is
 * durable only after sync. SPACE, IO, ARG, STATE. term must not fall. */
weft_status weft_hub_log_append(weft_hub_log *l, uint64_t term, uint64_t unix_ns, uint16_t type,
                                const void *body, size_t n, weft_log_record *out);
/* All that was appended is durable when this returns OK. */
weft_status weft_hub_log_sync(weft_hub_log *l);
/* Record seq, checked again; borrowed until the next call. NOTFOUND, CORRUPT, IO. */
weft_status weft_hub_log_read(weft_hub_log *l, uint64_t seq, weft_log_record *r);
/* Is this process still the only writer? STATE if not. */
weft_status weft_hub_log_lease(weft_hub_log *l);

/* How somebody who has seen record seq with this chain stands to the log:
 * OK (on it; seq 0: has seen nothing), or HUB_STALE: it has seen records that this log lacks (an old backup), or others
 * than this log holds (another history). The text says which. */
weft_status weft_hub_log_compare(weft_hub_log *l, uint64_t seq, const uint8_t chain[WEFT_CHAIN_BYTES]);

#endif
