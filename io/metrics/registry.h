/* The table of metrics as the writer sees it. */
#ifndef WEFT_IO_METRICS_REGISTRY_H
#define WEFT_IO_METRICS_REGISTRY_H

#include <stdint.h>

enum { METRICS_MAX = 256, METRIC_NAME_MAX = 64 };

/* How many metrics are registered; ids count from 0. */
uint32_t metric_count(void);
const char *metric_name(uint32_t id);
int metric_kind(uint32_t id);
const char *metric_unit(uint32_t id);
/* What the last record that had the metric said; NaN: none had. A counter: its value now. Any thread. */
double metric_last(uint32_t id);
/* The writer: this record says v. */
void metric_said(uint32_t id, double v);

#endif
