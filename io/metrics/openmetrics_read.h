/* Reads OpenMetrics and classic Prometheus text, as far as weft itself writes it: samples with labels. */
#ifndef WEFT_IO_METRICS_OPENMETRICS_READ_H
#define WEFT_IO_METRICS_OPENMETRICS_READ_H

#include <stddef.h>

#include "base/status.h"

enum { OM_READ_NAME = 128, OM_READ_VALUE = 256, OM_READ_LABELS = 8 };

typedef struct om_read_sample {
    char name[OM_READ_NAME];
    int nlabels;
    struct {
        char key[OM_READ_NAME], value[OM_READ_VALUE]; /* unescaped */
    } label[OM_READ_LABELS];
    double value;
} om_read_sample;

/* Calls take for each sample; comments, time stamps and exemplars are skipped. FORMAT with the number of the line: no
 * such text, or longer names or more labels than above. */
weft_status om_read(const char *text, size_t n, void (*take)(void *arg, const om_read_sample *s), void *arg);
/* The value of a label, or NULL. */
const char *om_read_label(const om_read_sample *s, const char *key);

#endif
