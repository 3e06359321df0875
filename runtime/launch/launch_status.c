/* status.json; see launch_status.h. It comes from another site: nothing in it is believed to have the right type or size. */
#include "runtime/launch/launch_status.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[LAUNCH_JOB_STATES] = {"init",   "check",    "wait_hub", "run",
                                                     "repair", "stopping", "chain",    "end"};

const char *launch_job_state_name(launch_job_state s) {
    return s < LAUNCH_JOB_STATES ? names[s] : "unknown";
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    const double d = json_is_number(v) ? json_number_value(v) : 0;
    return isfinite(d) ? d : 0;
}

/* A number that counts something: 0 if it is negative or beyond 2^53. */
static uint64_t whole(const json_t *o, const char *key) {
    const double d = number(o, key);
    return d > 0 && d <= 9007199254740992.0 ? (uint64_t)d : 0;
}

static uint32_t small(const json_t *o, const char *key) {
    const uint64_t v = whole(o, key);
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static void line_of(const json_t *o, const char *key, char *out, size_t cap) {
    const char *s = json_string_value(json_object_get(o, key));
    size_t n = 0;
    for (; s && *s && n + 1 < cap; s++) out[n++] = isprint((unsigned char)*s) ? *s : '?';
    out[n] = 0;
}

static weft_status read_object(const json_t *o, launch_status *s) {
    char state[16] = "";
    const uint64_t v = whole(o, "v");
    if (v != 1)
        return weft_fail(v > 1 ? WEFT_ERR_VERSION : WEFT_ERR_FORMAT,
                         "status.json has version %llu, this weft reads 1", (unsigned long long)v);
    line_of(o, "state", state, sizeof state);
    size_t i = 0;
    while (i < LAUNCH_JOB_STATES && strcmp(names[i], state) != 0) i++;
    if (i == LAUNCH_JOB_STATES)
        return weft_fail(WEFT_ERR_FORMAT, "status.json has the unknown state '%s'", state);
    s->state = (launch_job_state)i;
    line_of(o, "why", s->why, sizeof s->why);
    s->job = whole(o, "job");
    s->next_job = whole(o, "next_job");
    s->step = whole(o, "step");
    s->saved = whole(o, "saved");
    s->ranks = whole(o, "ranks");
    s->generation = small(o, "generation");
    s->relaunch = small(o, "relaunch");
    s->nodes = (uint32_t)json_array_size(json_object_get(o, "nodes"));
    s->bad = (uint32_t)json_array_size(json_object_get(o, "bad"));
    const json_t *code = json_object_get(o, "exit");
    s->has_exit = json_is_integer(code) && json_integer_value(code) >= 0 && json_integer_value(code) <= 255;
    if (s->has_exit) s->exit = (int)json_integer_value(code);
    s->step_s = number(o, "step_s");
    s->save_s = number(o, "save_s");
    s->remaining_s = json_is_number(json_object_get(o, "remaining_s")) ? number(o, "remaining_s") : -1;
    s->node_seconds = number(o, "node_seconds");
    s->core_seconds = number(o, "core_seconds");
    s->gpu_seconds = number(o, "gpu_seconds");
    s->began_unix = number(o, "began_unix");
    s->now_unix = number(o, "now_unix");
    s->there = 1;
    return WEFT_OK;
}

weft_status launch_status_parse(const char *text, size_t n, launch_status *out) {
    json_error_t e;
    *out = (launch_status){0};
    json_t *o = json_loadb(text, n, 0, &e);
    if (!o) return weft_fail(WEFT_ERR_FORMAT, "status.json is no JSON: line %d: %.80s", e.line, e.text);
    weft_status s =
        json_is_object(o) ? read_object(o, out) : weft_fail(WEFT_ERR_FORMAT, "status.json is no object");
    if (s < 0) *out = (launch_status){0};
    json_decref(o);
    return s;
}
