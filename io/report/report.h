/* report.html of a run: one file, inline SVG and CSS, no JavaScript, no network; legible at 390 and 1440 px,
 * colour-blind safe, dark and light. Reads DIR/metrics.jsonl, DIR/run.json (start-up facts), DIR/config.yaml,
 * and prints what is there: a missing series leaves its picture out, with a line that says so. */
#ifndef WEFT_IO_REPORT_H
#define WEFT_IO_REPORT_H

#include "base/status.h"

/* Writes `out` atomically. NOTFOUND if DIR holds no metrics. */
weft_status weft_report_write(const char *dir, const char *out);

#endif
