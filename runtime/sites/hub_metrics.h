/* The hub's status as OpenMetrics. */
#ifndef WEFT_SITES_HUB_METRICS_H
#define WEFT_SITES_HUB_METRICS_H

#include <jansson.h>

/* Of what hub_status.c made; a fresh text, free with free(); NULL: out of memory. Any thread. */
char *hub_metrics_text(const json_t *status);

#endif
