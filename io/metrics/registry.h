/* The table of metrics as the writer sees it. */
#ifndef WEFT_IO_METRICS_REGISTRY_H
#define WEFT_IO_METRICS_REGISTRY_H

#include <stdint.h>

enum { METRICS_MAX = 256, METRIC_NAME_MAX = 64 };

/* How many metrics are registered; ids count from 0. */
uint32_t metric_count(void);
const char *metric_name(uint32_t id);

#endif
