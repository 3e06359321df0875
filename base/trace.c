/* The ring of events; see trace.h. */
#include "base/trace.h"

#include <stdlib.h>

#include "base/mem.h"

static weft_trace_event *ring;
static size_t capacity;
static uint64_t written;

weft_status weft_trace_open(size_t events) {
    weft_trace_close();
    ring = weft_calloc(events, sizeof *ring);
    if (!ring) return WEFT_ERR_NOMEM;
    capacity = events;
    return WEFT_OK;
}

void weft_trace_close(void) {
    free(ring);
    ring = NULL;
    capacity = 0;
    written = 0;
}

int weft_trace_is_open(void) {
    return ring != NULL;
}

void weft_trace_add(weft_track track, const char *name, uint64_t begin, uint64_t end, uint32_t arg) {
    if (!ring) return;
    ring[written++ % capacity] = (weft_trace_event){begin, end, name, track, arg};
}

const weft_trace_event *weft_trace_at(size_t i, size_t *n, uint64_t *lost) {
    *n = written < capacity ? (size_t)written : capacity;
    if (lost) *lost = written - *n;
    return i < *n ? &ring[(written - *n + i) % capacity] : NULL;
}
