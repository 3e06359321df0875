/* Private to io/dataset: the text of an ordinary line of JSONL, fast. */
#ifndef WEFT_IO_DATASET_JSON_LINE_H
#define WEFT_IO_DATASET_JSON_LINE_H

#include <stddef.h>

#include "base/status.h"

/* Looks for the string that is member `field` of the one object in line[0..n). *found = 1: the line is JSON by jansson's
 * rules (no duplicate keys), and *text, *len is the string, in the line itself or, if it has escapes, in *buf, which
 * grows and is the caller's to free. *found = 0: anything else, be it wrong or only unusual: ask jansson. NOMEM. */
weft_status json_line_text(const char *line, size_t n, const char *field, char **buf, size_t *cap,
                           const char **text, size_t *len, int *found);

#endif
