/* Between the exporter and its HTTP server. */
#ifndef WEFT_IO_METRICS_EXPORT_INTERNAL_H
#define WEFT_IO_METRICS_EXPORT_INTERNAL_H

#include "io/metrics/export.h"
#include "io/metrics/openmetrics.h"

typedef struct http_server http_server;

/* Renders into buffers of the exporter under its lock and calls take() with the text before it gives the lock back. */
weft_status export_render(weft_export *e, om_format format,
                          void (*take)(void *arg, const char *text, size_t n), void *arg);
/* {"status":"running","step":12,...} and a newline into text[bytes]; returns the length. */
size_t export_health(const weft_export *e, char *text, size_t bytes);

weft_status http_open(weft_export *e, const char *bind, int port, http_server **h);
int http_port(const http_server *h);
void http_close(http_server *h);

#endif
