/* Accounts of a run over several sites, added up from the records of the log as they come by: who joined and left, and what
 * each site contributed. Pure; a member that reads the log from its beginning has the same accounts as the hub's index. */
#ifndef WEFT_SITES_LEDGER_H
#define WEFT_SITES_LEDGER_H

#include "runtime/sites/message.h"

enum { WEFT_LEDGER_CHANGES = 32 }; /* the last ones are kept */

typedef struct weft_ledger_site {
    char site[WEFT_SITE_NAME]; /* "": no such member */
    uint8_t active, reason;    /* reason: of its last MEMBER record (weft_site_reason) */
    uint32_t joins, leaves;
    uint64_t commits, bytes; /* of all fragments */
    uint64_t tokens, steps;  /* whose work is in the run: of the first fragment's commits */
    double loss;             /* at its last commit */
    double active_s, since;  /* seconds active before `since` (unix); since: when it became active */
} weft_ledger_site;

typedef struct weft_ledger_change {
    double time; /* unix */
    uint16_t member;
    uint8_t joined, reason; /* reason: of a leave */
} weft_ledger_change;

typedef struct weft_ledger {
    double began, now; /* times of the first and the last record */
    uint64_t commits, aborts, tokens, bytes;
    weft_site_set active;
    weft_ledger_site site[WEFT_SITE_MEMBERS];
    uint64_t changes; /* so far; number i stands in change[i % WEFT_LEDGER_CHANGES] */
    weft_ledger_change change[WEFT_LEDGER_CHANGES];
} weft_ledger;

/* Zeroed memory is an empty ledger. Records in the order of the log, each once. */
void weft_ledger_apply(weft_ledger *l, const weft_site_record *r);
/* Part of the run's time in which the site was active, 0 to 1. */
double weft_ledger_presence(const weft_ledger *l, uint32_t member);

#endif
