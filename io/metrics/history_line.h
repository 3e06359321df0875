/* One line of metrics.jsonl, read in two ways that must agree. */
#ifndef WEFT_IO_METRICS_HISTORY_LINE_H
#define WEFT_IO_METRICS_HISTORY_LINE_H

#include <stddef.h>

#include "base/status.h"

enum { HISTORY_MEMBERS_MAX = 1024 };

typedef struct history_member {
    const char *name; /* len bytes, borrowed from the line or the tree */
    size_t len;
    double value;
} history_member;

typedef struct history_line {
    enum { HISTORY_BROKEN, HISTORY_RECORD, HISTORY_EVENT, HISTORY_OTHER } kind;
    double t, step, tokens;
    char event[32];
    size_t n; /* members of "k" that are numbers; those beyond HISTORY_MEMBERS_MAX are left out */
    history_member member[HISTORY_MEMBERS_MAX];
    void *tree; /* jansson's, if the members point into it */
} history_line;

/* Scans a record in the writer's layout; 0 (nothing to free) if the line is anything else. */
int history_scan(const char *line, size_t n, history_line *l);
/* Parses any line. NOMEM only; a line that is no record, event or object of this version is BROKEN. */
weft_status history_parse(const char *line, size_t n, history_line *l);
void history_line_free(history_line *l);

#endif
