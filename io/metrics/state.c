/* The state of a run; see state.h. */
#include "io/metrics/state.h"

#include <math.h>
#include <string.h>

static void set(_Atomic double *to, double v) {
    atomic_store_explicit(to, v, memory_order_relaxed);
}

void state_init(metrics_state *s) {
    memset(s, 0, sizeof *s);
    set(&s->save_t, NAN);
    set(&s->save_step, NAN);
    set(&s->save_seconds, NAN);
    set(&s->save_bytes, NAN);
    set(&s->save_exposed, NAN);
}

void state_record(metrics_state *s, double t, int64_t step, uint64_t g, uint64_t tokens) {
    atomic_store_explicit(&s->step, step, memory_order_relaxed);
    atomic_store_explicit(&s->g, g, memory_order_relaxed);
    atomic_store_explicit(&s->tokens, tokens, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->records, 1, memory_order_relaxed);
    set(&s->record_t, t);
}

static void count(metrics_state *s, const char *name) {
    uint32_t n = atomic_load_explicit(&s->nevents, memory_order_relaxed), i = 0;
    while (i < n && strcmp(s->event[i].name, name) != 0) i++;
    if (i == STATE_EVENTS_MAX) return;
    if (i == n) strcpy(s->event[i].name, name);
    atomic_fetch_add_explicit(&s->event[i].count, 1, memory_order_relaxed);
    if (i == n) atomic_store_explicit(&s->nevents, n + 1, memory_order_release);
}

static double member(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

void state_note_event(metrics_state *s, double t, const char *name, const json_t *object) {
    if (!strcmp(name, "checkpoint")) {
        set(&s->save_t, t);
        set(&s->save_step, member(object, "step"));
        set(&s->save_seconds, member(object, "seconds"));
        set(&s->save_bytes, member(object, "bytes"));
        set(&s->save_exposed, member(object, "exposed"));
    }
    if (!strcmp(name, "end") || !strcmp(name, "start"))
        atomic_store_explicit(&s->ended, !strcmp(name, "end"), memory_order_relaxed);
    if (strlen(name) < STATE_EVENT_NAME) count(s, name);
}
