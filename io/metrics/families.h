/* The registry as families of OpenMetrics: "time/forward" in seconds is weft_time_seconds{part="forward"}. */
#ifndef WEFT_IO_METRICS_FAMILIES_H
#define WEFT_IO_METRICS_FAMILIES_H

#include <stdint.h>

#include "io/metrics/openmetrics.h"
#include "io/metrics/registry.h"

/* Where each metric goes, worked out when there are new ones. One thread at a time. */
typedef struct family_map {
    uint32_t known;              /* metrics that are placed */
    uint32_t first[METRICS_MAX]; /* the first metric of the same family */
    struct family_place {
        char name[OM_NAME_MAX - 16]; /* of the family, without unit */
        const char *unit;            /* OpenMetrics' word, or NULL */
        const char *key, *help;
        const char *value; /* of the label: what stands behind the '/'; NULL: no label */
        int renamed;       /* letters were changed: label "name" tells what it was */
    } place[METRICS_MAX];
} family_map;

/* All metrics that have been recorded at least once, family by family. */
void families_render(family_map *f, om_text *o);

#endif
