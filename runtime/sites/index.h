/* An index of the hub's log for questions: SQLite, DIR/index.db. It decides nothing and may be deleted at any time: opening
 * makes it anew from the log. Every record is applied in a transaction that also notes its number and chain, so that it is
 * never half of anything, and an index of another history is noticed.
 *
 * Tables: run, members, events (joins, leaves and what else a person wants to know), rounds (a row per commit), shares (a
 * row per commit and site: weight, tokens, steps, bytes, loss), aborts, audits. One thread. */
#ifndef WEFT_SITES_INDEX_H
#define WEFT_SITES_INDEX_H

#include <jansson.h>

#include "runtime/sites/log.h"

typedef struct weft_hub_index weft_hub_index;

/* Opens or makes the index and brings it up to the log's synced records, or by `most` of them (0: all). A file that is damaged or of another history is
 * set aside (said) and made anew. IO, SPACE, NOMEM. */
weft_status weft_hub_index_open(const char *path, weft_hub_log *l, uint64_t most, weft_hub_index **x);
void weft_hub_index_close(weft_hub_index *x);
/* Applies what the log has and the index lacks, at most `most` records (0: all). About 20,000 records/s. */
weft_status weft_hub_index_follow(weft_hub_index *x, weft_hub_log *l, uint64_t most);
/* Last record applied. */
uint64_t weft_hub_index_seq(const weft_hub_index *x);

/* Questions; new references. NULL: out of memory or a damaged file.
 * sites: [{site, member, state, since, joins, leaves, commits, tokens, steps, bytes, last_commit, loss}]
 * rounds: the last `most` commits, newest first: [{seq, time, fragment, round, attempt, sites, tokens, loss, seconds}]
 * events: the last `most`, newest first: [{seq, time, site, what, why}]
 * totals: {commits, aborts, tokens, bytes, audits, differing} */
json_t *weft_hub_index_sites(weft_hub_index *x);
json_t *weft_hub_index_rounds(weft_hub_index *x, int most);
json_t *weft_hub_index_events(weft_hub_index *x, int most);
json_t *weft_hub_index_totals(weft_hub_index *x);

#endif
