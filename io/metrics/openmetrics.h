/* Text for monitoring systems, written into a buffer of the caller: OpenMetrics 1.0, or the classic Prometheus text 0.0.4
 * that the textfile collector of node exporter reads. No allocation, no lock. Numbers are written in the locale of the
 * thread, which must be "C" (uselocale). */
#ifndef WEFT_IO_METRICS_OPENMETRICS_H
#define WEFT_IO_METRICS_OPENMETRICS_H

#include <stddef.h>

#include "base/status.h"

typedef enum om_format { OM_OPENMETRICS, OM_CLASSIC } om_format;
typedef enum om_kind { OM_GAUGE, OM_COUNTER, OM_INFO } om_kind;

enum { OM_NAME_MAX = 128 };

typedef struct om_label {
    const char *key;   /* [A-Za-z_][A-Za-z0-9_]* */
    const char *value; /* any UTF-8 */
} om_label;

typedef struct om_text {
    char *buf;
    size_t room, n; /* n: bytes so far, no zero behind them */
    om_format format;
    int full;               /* a line did not fit; nothing was written from there on */
    char name[OM_NAME_MAX]; /* of the samples of this family, suffix included */
} om_text;

void om_begin(om_text *o, char *buf, size_t room, om_format format);
/* Begins a family; each name once. unit: "seconds", "bytes", ... or NULL; the name ends with it: family "weft_time",
 * unit "seconds" gives weft_time_seconds; and so does weft_time_seconds. A counter's samples end with _total, an info's with _info. */
void om_family(om_text *o, om_kind kind, const char *name, const char *unit, const char *help);
void om_sample(om_text *o, const om_label *label, int nlabels, double v);
/* SPACE: the text is not complete. */
weft_status om_end(om_text *o);

const char *om_content_type(om_format format);

#endif
