/* A run's metrics for monitoring systems, while it goes on: an HTTP endpoint and a file for node exporter's textfile
 * collector. Threads of its own; they only read atomics, so the training neither waits for them nor allocates.
 *
 * GET /metrics: OpenMetrics, or classic Prometheus text for those who ask for text/plain. GET /healthz: JSON. The
 * endpoint has no password and no encryption: it listens where it is told to, loopback unless told otherwise. */
#ifndef WEFT_IO_METRICS_EXPORT_H
#define WEFT_IO_METRICS_EXPORT_H

#include "io/metrics/metrics.h"

typedef struct weft_export weft_export;

typedef struct weft_export_part {
    const char *name;
    uint64_t bytes;
} weft_export_part;

typedef struct weft_export_opts {
    uint32_t size;
    const char *run;  /* name of the run */
    int port;         /* TCP port of the endpoint; 0: none; < 0: any that is free (weft_export_port tells) */
    const char *bind; /* numeric address; NULL: 127.0.0.1 */
    const char *textfile;         /* path, replaced as a whole every 5 s and at the end; NULL: none */
    const weft_export_part *part; /* planned memory by part, copied */
    int nparts;
    int ranks;
    int64_t steps; /* at which the run ends; 0: not known */
} weft_export_opts;

/* m is borrowed and must outlive the exporter. CONFIG: the address is not one, or the port is taken; ACCESS, SPACE: the
 * file cannot be written; UNSUPPORTED: this weft was built without libmicrohttpd. */
weft_status weft_export_open(const weft_export_opts *o, const weft_metrics *m, weft_export **e);
/* The TCP port that it listens on; 0: none. */
int weft_export_port(const weft_export *e);
/* Writes the file a last time. NULL is allowed. */
void weft_export_close(weft_export *e);

#endif
