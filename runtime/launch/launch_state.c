/* launch.json; see launch_state.h. */
#include "runtime/launch/launch_state.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { STATE_MAX = 1 << 20 };

/* A supervisor's sums go on from those of the job before it, so they only grow; smaller ones are of a directory that began anew. */
void launch_costs_take(launch_costs *c, const launch_status *s) {
    if (!s->there || !s->job) return;
    if (s->job != c->job && s->node_seconds < c->job_node) {
        c->node += c->job_node;
        c->core += c->job_core;
        c->gpu += c->job_gpu;
        c->job_node = c->job_core = c->job_gpu = 0;
    }
    c->job = s->job;
    c->job_node = fmax(c->job_node, s->node_seconds);
    c->job_core = fmax(c->job_core, s->core_seconds);
    c->job_gpu = fmax(c->job_gpu, s->gpu_seconds);
}

static double number(const json_t *o, const char *key) {
    const double d = json_number_value(json_object_get(o, key));
    return isfinite(d) && d > 0 ? d : 0;
}

static uint64_t whole(const json_t *o, const char *key) {
    const json_int_t v = json_integer_value(json_object_get(o, key));
    return v > 0 ? (uint64_t)v : 0;
}

/* A count of at most 32 bits; a larger one is none. */
static uint32_t small(const json_t *o, const char *key) {
    const uint64_t v = whole(o, key);
    return v < INT32_MAX ? (uint32_t)v : 0;
}

/* Exit codes, and -1: nobody knows. */
static int exit_of(const json_t *o) {
    const json_int_t v = json_integer_value(json_object_get(o, "exit"));
    return v >= -1 && v <= 255 ? (int)v : 1;
}

static void read_site(const json_t *o, launch_record *r, launch_costs *c) {
    const json_t *hours = json_object_get(o, "seconds");
    *r = (launch_record){.generation = small(o, "generation"),
                         .next = small(o, "next"),
                         .job = whole(o, "job"),
                         .intent = json_is_true(json_object_get(o, "intent")),
                         .ended = json_is_integer(json_object_get(o, "exit")),
                         .code = exit_of(o),
                         .deaths = small(o, "deaths"),
                         .saved = whole(o, "saved")};
    *c = (launch_costs){.node = number(hours, "node"),
                        .core = number(hours, "core"),
                        .gpu = number(hours, "gpu"),
                        .job = whole(hours, "job"),
                        .job_node = number(hours, "job_node"),
                        .job_core = number(hours, "job_core"),
                        .job_gpu = number(hours, "job_gpu"),
                        .bytes = whole(o, "bytes")};
}

static weft_status read_object(const char *path, const json_t *o, const launch_config *c,
                               launch_record *records, launch_costs *costs) {
    const char *id = json_string_value(json_object_get(o, "id"));
    if (whole(o, "v") != 1)
        return weft_fail(whole(o, "v") > 1 ? WEFT_ERR_VERSION : WEFT_ERR_FORMAT,
                         "%s: not what this weft wrote (version %llu)", path,
                         (unsigned long long)whole(o, "v"));
    if (!id || strcmp(id, c->id) != 0)
        return weft_fail(WEFT_ERR_CONFIG,
                         "%s is of another run: the run's name or the directory of its home site has changed "
                         "since. End the old "
                         "run's jobs (weft launch --stop with the old run file), then remove the file",
                         path);
    for (size_t i = 0; i < c->nsites; i++)
        read_site(json_object_get(json_object_get(o, "sites"), c->site[i].name), &records[i], &costs[i]);
    return WEFT_OK;
}

weft_status launch_state_parse(const char *path, const char *text, size_t n, const launch_config *c,
                               launch_record *records, launch_costs *costs) {
    json_error_t e;
    json_t *o = json_loadb(text, n, 0, &e);
    if (!o) return weft_fail(WEFT_ERR_FORMAT, "%s:%d: %.80s", path, e.line, e.text);
    const weft_status s = read_object(path, o, c, records, costs);
    json_decref(o);
    return s;
}

weft_status launch_state_read(const char *path, const launch_config *c, launch_record *records,
                              launch_costs *costs, int *found) {
    char *text = NULL;
    size_t n = 0;
    *found = 0;
    weft_status s = weft_file_read(path, STATE_MAX, &text, &n);
    if (s == WEFT_ERR_NOTFOUND) {
        weft_clear_error();
        return WEFT_OK;
    }
    if (s >= 0) s = launch_state_parse(path, text, n, c, records, costs);
    free(text);
    *found = s >= 0;
    return s;
}

static json_t *write_site(const launch_record *r, const launch_costs *c) {
    json_t *o = json_pack("{s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:{s:f, s:f, s:f, s:I, s:f, s:f, s:f}}",
                          "generation", (json_int_t)r->generation, "next", (json_int_t)r->next, "job",
                          (json_int_t)r->job, "intent", r->intent, "deaths", (json_int_t)r->deaths, "saved",
                          (json_int_t)r->saved, "bytes", (json_int_t)c->bytes, "seconds", "node", c->node,
                          "core", c->core, "gpu", c->gpu, "job", (json_int_t)c->job, "job_node", c->job_node,
                          "job_core", c->job_core, "job_gpu", c->job_gpu);
    if (o && r->ended) json_object_set_new(o, "exit", json_integer(r->code));
    return o;
}

weft_status launch_state_format(const launch_config *c, const launch_record *records,
                                const launch_costs *costs, char **text) {
    json_t *sites = json_object();
    for (size_t i = 0; i < c->nsites; i++)
        json_object_set_new(sites, c->site[i].name, write_site(&records[i], &costs[i]));
    json_t *o = json_pack("{s:i, s:s, s:s, s:o}", "v", 1, "run", c->run.name, "id", c->id, "sites", sites);
    *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(o);
    return *text ? WEFT_OK
                 : weft_fail(WEFT_ERR_NOMEM, "out of memory for the record of run '%s'", c->run.name);
}

weft_status launch_state_write(const char *path, const launch_config *c, const launch_machine *m,
                               const launch_costs *costs) {
    launch_record records[LAUNCH_SITES];
    char *text = NULL;
    for (size_t i = 0; i < c->nsites; i++) records[i] = m->site[i].record;
    weft_status s = launch_state_format(c, records, costs, &text);
    if (s >= 0) s = weft_file_write(path, text, strlen(text));
    free(text);
    return s;
}
