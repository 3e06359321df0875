/* The stream as JSON: what it is made of (to refuse a resume on other data) and the schedule of mixtures.
 *
 * {"format": "weft-data", "version": 1, "perm": 1, "seed": hex, "context": T, "block": B,
 *  "sources": [{"name", "windows", "content": hex}, ..], "schedule": [{"g0", "weights": [W_s ..]}, ..]}
 * Blocks and counts follow from these and are computed again. The position g is the trainer's to keep. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/dataset/sampler.h"

#define STATE_MAX ((size_t)256 << 20)

static int put(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

static json_t *hex(uint64_t v) {
    char s[17];
    snprintf(s, sizeof s, "%016" PRIx64, v);
    return json_string(s);
}

static json_t *sources_json(const weft_data *d) {
    json_t *a = json_array();
    for (size_t i = 0; a && i < d->nsources; i++) {
        const data_source *s = &d->source[i];
        json_t *o = json_object();
        int ok = o && put(o, "name", json_string(s->name)) &&
                 put(o, "windows", json_integer((json_int_t)source_windows(s))) &&
                 put(o, "content", hex(s->content));
        if (!ok || json_array_append(a, o) < 0) {
            json_decref(a);
            a = NULL;
        }
        json_decref(o);
    }
    return a;
}

static json_t *schedule_json(const schedule *p) {
    json_t *a = json_array();
    for (size_t i = 0; a && i < p->n; i++) {
        json_t *o = json_object(), *w = json_array();
        int ok = o && w && put(o, "g0", json_integer((json_int_t)p->entry[i].g0));
        for (size_t s = 0; ok && s < p->sources; s++)
            ok = json_array_append_new(w, json_integer((json_int_t)p->entry[i].weight[s])) == 0;
        ok = ok && json_object_set(o, "weights", w) == 0;
        if (!ok || json_array_append(a, o) < 0) {
            json_decref(a);
            a = NULL;
        }
        json_decref(w);
        json_decref(o);
    }
    return a;
}

weft_status weft_data_state(const weft_data *d, char **json) {
    json_t *o = json_object();
    int ok = o && put(o, "format", json_string("weft-data")) && put(o, "version", json_integer(1)) &&
             put(o, "perm", json_integer(1)) && put(o, "seed", hex(d->seed)) &&
             put(o, "context", json_integer(d->context)) &&
             put(o, "block", json_integer((json_int_t)d->plan.block)) && put(o, "sources", sources_json(d)) &&
             put(o, "schedule", schedule_json(&d->plan));
    *json = ok ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *json
               ? WEFT_OK
               : weft_fail(WEFT_ERR_NOMEM, "out of memory, or a source's name is not UTF-8: the data state");
}

/* --- back
 * ------------------------------------------------------------------------------------------------------- */

static int64_t get_int(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? json_integer_value(v) : -1;
}

static int is_hex(const json_t *o, const char *key, uint64_t want) {
    char s[17];
    const char *t = json_string_value(json_object_get(o, key));
    snprintf(s, sizeof s, "%016" PRIx64, want);
    return t && !strcmp(s, t);
}

static weft_status differs(const char *what) {
    return weft_fail(WEFT_ERR_CORRUPT, "the data state is of another stream: %s differs", what);
}

static weft_status check_identity(const weft_data *d, const json_t *o) {
    const char *format = json_string_value(json_object_get(o, "format"));
    if (!format || strcmp(format, "weft-data")) return weft_fail(WEFT_ERR_FORMAT, "this is no data state");
    if (get_int(o, "version") != 1 || get_int(o, "perm") != 1)
        return weft_fail(WEFT_ERR_VERSION,
                         "data state version %" PRId64 ", perm %" PRId64 "; this weft reads 1 and 1",
                         get_int(o, "version"), get_int(o, "perm"));
    if (!is_hex(o, "seed", d->seed)) return differs("the seed");
    if (get_int(o, "context") != d->context) return differs("the context length");
    if (get_int(o, "block") != (int64_t)d->plan.block) return differs("the sampler block");
    const json_t *sources = json_object_get(o, "sources");
    if (json_array_size(sources) != d->nsources) return differs("the number of sources");
    for (size_t i = 0; i < d->nsources; i++) {
        const json_t *e = json_array_get(sources, i);
        const data_source *s = &d->source[i];
        const char *name = json_string_value(json_object_get(e, "name"));
        if (!name || strcmp(name, s->name)) return differs("the name of a source");
        if (!is_hex(e, "content", s->content) || get_int(e, "windows") != (int64_t)source_windows(s))
            return weft_fail(WEFT_ERR_CORRUPT,
                             "the data state is of another stream: the shards of source %s have changed",
                             s->name);
    }
    return WEFT_OK;
}

static weft_status read_schedule(const json_t *a, schedule *plan) {
    size_t n = json_array_size(a);
    uint64_t W[SCHEDULE_MAX_SOURCES];
    if (n < 1) return weft_fail(WEFT_ERR_FORMAT, "the data state has no schedule");
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(a, i), *w = json_object_get(e, "weights");
        int64_t g0 = get_int(e, "g0");
        if (g0 < 0 || json_array_size(w) != plan->sources)
            return weft_fail(WEFT_ERR_FORMAT, "entry %zu of the schedule in the data state is not valid", i);
        for (size_t s = 0; s < plan->sources; s++) {
            const json_t *v = json_array_get(w, s);
            if (!json_is_integer(v) || json_integer_value(v) < 0)
                return weft_fail(WEFT_ERR_FORMAT,
                                 "entry %zu of the schedule in the data state has a bad weight", i);
            W[s] = (uint64_t)json_integer_value(v);
        }
        weft_status st = schedule_append(plan, (uint64_t)g0, W);
        if (st == WEFT_ERR_ARG) st = WEFT_ERR_FORMAT; /* here it is the file that is wrong */
        WEFT_TRY_CTX(st, "entry %zu of the schedule in the data state", i);
    }
    return WEFT_OK;
}

weft_status weft_data_restore(weft_data *d, const char *json) {
    json_error_t e;
    size_t n = strnlen(json, STATE_MAX);
    if (n == STATE_MAX) return weft_fail(WEFT_ERR_FORMAT, "the data state exceeds 256 MiB");
    json_t *o = json_loadb(json, n, JSON_REJECT_DUPLICATES, &e);
    if (!o)
        return weft_fail(WEFT_ERR_FORMAT, "the data state is not JSON: line %d, column %d: %s", e.line,
                         e.column, e.text);
    schedule plan = {.seed = d->seed, .block = d->plan.block, .sources = d->nsources};
    weft_status s = check_identity(d, o);
    if (s == WEFT_OK) s = read_schedule(json_object_get(o, "schedule"), &plan);
    json_decref(o);
    if (s < 0) {
        schedule_free(&plan);
        return s;
    }
    schedule_free(&d->plan);
    d->plan = plan;
    return WEFT_OK;
}
