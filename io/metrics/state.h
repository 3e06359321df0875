/* What a run is known to do now, for those who ask while it goes on: the last record and the events so far. Written by
 * the metrics writer under its lock, read by any thread without one: each value is a relaxed atomic, so a reader may see
 * a step and the tokens of the step before. */
#ifndef WEFT_IO_METRICS_STATE_H
#define WEFT_IO_METRICS_STATE_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdint.h>

#include "io/metrics/metrics.h"

enum { STATE_EVENTS_MAX = 32, STATE_EVENT_NAME = 32 };

typedef struct state_event {
    char name[STATE_EVENT_NAME];
    _Atomic uint64_t count;
} state_event;

typedef struct metrics_state {
    _Atomic int64_t step;
    _Atomic uint64_t g, tokens, records;
    _Atomic double record_t; /* wall time of the last record; 0: none yet */
    _Atomic int ended;       /* an event "end" came and no "start" after it */
    /* the last checkpoint; NaN: none, or not said */
    _Atomic double save_t, save_step, save_seconds, save_bytes, save_exposed;
    _Atomic uint32_t nevents; /* release: the names below it are written */
    state_event event[STATE_EVENTS_MAX];
} metrics_state;

void state_init(metrics_state *s);
void state_record(metrics_state *s, double t, int64_t step, uint64_t g, uint64_t tokens);
/* object: the event as it stands in the file. Names beyond STATE_EVENTS_MAX are not counted. */
void state_note_event(metrics_state *s, double t, const char *name, const json_t *object);

/* Borrowed from the writer, for as long as it is open. */
const metrics_state *metrics_state_of(const weft_metrics *m);

#endif
