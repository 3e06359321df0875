/* The registry of metrics: names that start-up registers once, values that any thread may set at any time.
 *
 * A value is one relaxed atomic double: a record is a sample of each metric, not a consistent cut through all
 * of them, and nothing is published through it. NaN means "not set", so a gauge that nobody feeds does not
 * appear. */
#include "io/metrics/registry.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "io/metrics/metrics.h"

typedef struct metric {
    char name[METRIC_NAME_MAX];
    const char *unit;
    int kind;
    _Atomic double value, last;
} metric;

static metric table[METRICS_MAX];
static _Atomic uint32_t count; /* release: whoever sees an id sees its entry */
static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;

static int good_name(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n >= METRIC_NAME_MAX) return 0;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr("_./:-", *name)) return 0;
    return 1;
}

uint32_t weft_metric(const char *name, int kind, const char *unit) {
    if (!good_name(name)) {
        weft_fail(WEFT_ERR_ARG, "metric name '%s': expected 1 to 63 letters, digits or _./:-", name);
        return WEFT_METRIC_NONE;
    }
    pthread_mutex_lock(&registering);
    uint32_t n = atomic_load_explicit(&count, memory_order_relaxed), i = 0;
    while (i < n && strcmp(table[i].name, name) != 0) i++;
    if (i == METRICS_MAX) {
        weft_fail(WEFT_ERR_ARG, "metric '%s': all %d places are taken", name, METRICS_MAX);
        i = WEFT_METRIC_NONE;
    } else if (i == n) {
        strcpy(table[i].name, name);
        table[i].kind = kind;
        table[i].unit = unit;
        atomic_store_explicit(&table[i].value, kind == WEFT_METRIC_COUNTER ? 0.0 : NAN, memory_order_relaxed);
        atomic_store_explicit(&table[i].last, NAN, memory_order_relaxed);
        atomic_store_explicit(&count, n + 1, memory_order_release);
    }
    pthread_mutex_unlock(&registering);
    return i;
}

void weft_metric_set(uint32_t id, double v) {
    if (id < metric_count()) atomic_store_explicit(&table[id].value, v, memory_order_relaxed);
}

void weft_metric_add(uint32_t id, double v) {
    if (id >= metric_count()) return;
    double before = atomic_load_explicit(&table[id].value, memory_order_relaxed), after;
    do after = isnan(before) ? v : before + v;
    while (!atomic_compare_exchange_weak_explicit(&table[id].value, &before, after, memory_order_relaxed,
                                                  memory_order_relaxed));
}

double weft_metric_get(uint32_t id) {
    return id < metric_count() ? atomic_load_explicit(&table[id].value, memory_order_relaxed) : (double)NAN;
}

uint32_t metric_count(void) {
    return atomic_load_explicit(&count, memory_order_acquire);
}

const char *metric_name(uint32_t id) {
    return table[id].name;
}

int metric_kind(uint32_t id) {
    return table[id].kind;
}

const char *metric_unit(uint32_t id) {
    return table[id].unit;
}

double metric_last(uint32_t id) {
    return table[id].kind == WEFT_METRIC_COUNTER
               ? weft_metric_get(id)
               : atomic_load_explicit(&table[id].last, memory_order_relaxed);
}

void metric_said(uint32_t id, double v) {
    atomic_store_explicit(&table[id].last, v, memory_order_relaxed);
}
