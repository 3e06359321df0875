/* The supervisor's files in DIR: run.lock, chain.json, status.json, stop. All but the lock are replaced by rename. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "runtime/launch/supervise_live.h"

enum { FILE_MOST = 1 << 20 };

void live_path(const live *l, char path[LIVE_PATH], const char *name) {
    snprintf(path, LIVE_PATH, "%.*s/%s", LIVE_PATH - LIVE_NAME - 2, l->dir, name);
}

weft_status live_lock(live *l) {
    char path[LIVE_PATH], text[64];
    live_path(l, path, "run.lock");
    if (l->lock < 0) l->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (l->lock < 0) return weft_fail_create(errno, "opening %s", path);
    if (flock(l->lock, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK || errno == EINTR ? WEFT_IN_PROGRESS
                                                      : weft_fail_errno(errno, "locking %s", path);
    const int n = snprintf(text, sizeof text, "%llu\n", (unsigned long long)l->job);
    if (ftruncate(l->lock, 0) < 0) return weft_fail_errno(errno, "writing %s", path);
    return weft_pwrite_all(l->lock, text, (size_t)n, 0, path);
}

/* --- chain.json --- */

static void bad_nodes_in(live *l, const json_t *bad) {
    const char *name;
    json_t *times;
    json_object_foreach((json_t *)(uintptr_t)bad, name, times) {
        if (l->nbad == LIVE_BAD || strlen(name) >= LIVE_NAME || !json_is_integer(times)) continue;
        live_bad *b = &l->bad[l->nbad++];
        snprintf(b->name, sizeof b->name, "%s", name);
        const json_int_t n = json_integer_value(times);
        b->blamed = n < 0 ? 0 : n > 255 ? 255 : (uint32_t)n;
    }
}

static weft_status chain_of_json(live *l, const char *text, size_t n, weft_supervise_record *r) {
    json_error_t why;
    json_t *bad = NULL, *j = json_loadb(text, n, 0, &why);
    json_int_t version = 0, generation = 0, first = 0, job = 0, next = 0, saved = 0, stale = 0, faults = 0;
    int intent = 0, ended = 0;
    if (!j)
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s/chain.json: line %d: %s; if the chain is to begin anew, remove it", l->dir,
                         why.line, why.text);
    const int ok = json_unpack_ex(j, &why, 0, "{s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:I, s?o}", "v",
                                  &version, "generation", &generation, "first", &first, "job", &job,
                                  "next_job", &next, "intent", &intent, "ended", &ended, "saved", &saved,
                                  "stale", &stale, "faults", &faults, "bad", &bad) == 0;
    const int sound = ok && version == 1 && generation >= 0 && generation < INT32_MAX && first >= 0 &&
                      first <= generation && job >= 0 && next >= 0 && saved >= 0 && stale >= 0 &&
                      stale < INT32_MAX && faults >= 0 && faults < INT32_MAX && (!bad || json_is_object(bad));
    if (sound) {
        *r = (weft_supervise_record){.generation = (uint32_t)generation,
                                     .first = (uint32_t)first,
                                     .job = (uint64_t)job,
                                     .next_job = (uint64_t)next,
                                     .intent = intent,
                                     .ended = ended,
                                     .saved = (uint64_t)saved,
                                     .stale = (uint32_t)stale,
                                     .faults = (uint32_t)faults};
        if (bad) bad_nodes_in(l, bad);
    }
    json_decref(j);
    if (!sound)
        return weft_fail(
            WEFT_ERR_FORMAT,
            "%s/chain.json is no record of a chain of version 1; if the chain is to begin anew, remove it",
            l->dir);
    return WEFT_OK;
}

weft_status live_read_chain(live *l, weft_supervise_record *r, int *found) {
    char path[LIVE_PATH], *text = NULL;
    size_t n = 0;
    live_path(l, path, "chain.json");
    memset(r, 0, sizeof *r);
    weft_status s = weft_file_read(path, FILE_MOST, &text, &n);
    *found = s >= 0;
    if (s == WEFT_ERR_NOTFOUND) {
        weft_clear_error();
        return WEFT_OK;
    }
    if (s >= 0) s = chain_of_json(l, text, n, r);
    free(text);
    return s;
}

static weft_status write_json(const live *l, const char *name, json_t *j) {
    char path[LIVE_PATH];
    live_path(l, path, name);
    char *text = j ? json_dumps(j, JSON_PRESERVE_ORDER | JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text) return weft_fail(WEFT_ERR_NOMEM, "out of memory writing %s", path);
    const size_t n = strlen(text);
    text[n] = '\n'; /* in place of the zero */
    const weft_status s = weft_file_write(path, text, n + 1);
    free(text);
    return s;
}

weft_status live_write_chain(live *l) {
    const weft_supervise_record *r = &l->m->record;
    json_t *bad = json_object();
    live_blames_out(l);
    for (uint32_t i = 0; i < l->nbad; i++)
        if (l->bad[i].blamed) json_object_set_new(bad, l->bad[i].name, json_integer(l->bad[i].blamed));
    return write_json(l, "chain.json",
                      json_pack("{s:i, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:I, s:o}", "v", 1,
                                "generation", (json_int_t)r->generation, "first", (json_int_t)r->first, "job",
                                (json_int_t)r->job, "next_job", (json_int_t)r->next_job, "intent", r->intent,
                                "ended", r->ended, "saved", (json_int_t)r->saved, "stale",
                                (json_int_t)r->stale, "faults", (json_int_t)r->faults, "bad", bad));
}

/* --- blames --- */

void live_blames_in(live *l) {
    for (uint32_t i = 0; i < l->nnodes; i++)
        for (uint32_t k = 0; k < l->nbad; k++)
            if (!strcmp(l->node[i].name, l->bad[k].name)) l->m->node[i].blamed = (uint8_t)l->bad[k].blamed;
}

void live_blames_out(live *l) {
    const int anew = l->m->record.first == l->m->record.generation && l->m->phase < WEFT_SUPERVISE_CHECK;
    if (anew) l->nbad = 0; /* a new chain forgives */
    for (uint32_t i = 0; i < l->nnodes; i++) {
        uint32_t k = 0;
        if (anew) l->m->node[i].blamed = 0;
        while (k < l->nbad && strcmp(l->node[i].name, l->bad[k].name) != 0) k++;
        if (k == l->nbad && (!l->m->node[i].blamed || l->nbad == LIVE_BAD)) continue;
        if (k == l->nbad) {
            snprintf(l->bad[k].name, sizeof l->bad[k].name, "%s", l->node[i].name);
            l->nbad++;
        }
        l->bad[k].blamed = l->m->node[i].blamed;
    }
}

/* --- status.json --- */

/* Does the node belong to no step and is no longer heard of? */
static int is_dead(const live *l, uint32_t i) {
    const weft_supervise_node *n = &l->m->node[i];
    return n->seen_ns && n->cell == WEFT_SUPERVISE_NO_CELL &&
           (int64_t)weft_now_ns() - n->seen_ns > l->m->rules.silent_ns;
}

/* `nodes`: those that train or could; `bad`: those that do not count any more. A dead node is one of the latter. */
static json_t *node_names(const live *l, int bad) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < l->nnodes; i++) {
        const weft_supervise_node *n = &l->m->node[i];
        const int dead = is_dead(l, i);
        const int is_bad = n->blamed >= WEFT_SUPERVISE_BLAMES || n->drained || n->beat.ill || dead;
        if (bad ? is_bad : !dead) json_array_append_new(list, json_string(l->node[i].name));
    }
    return list;
}

static double number_in_environment(const char *name) {
    const char *text = getenv(name);
    const double v = text ? strtod(text, NULL) : 0;
    return v > 0 && v < 1e6 ? v : 0;
}

void live_read_spent(live *l) {
    static const char *const names[] = {"node_seconds", "core_seconds", "gpu_seconds"};
    char path[LIVE_PATH];
    live_path(l, path, "status.json");
    json_t *j = json_load_file(path, 0, NULL);
    for (int i = 0; i < 3; i++) {
        const double v = json_number_value(json_object_get(j, names[i]));
        l->spent[i] = v > 0 ? v : 0;
    }
    json_decref(j);
}

weft_status live_write_status(live *l) {
    const weft_supervise_machine *m = l->m;
    const int64_t now = (int64_t)weft_now_ns();
    const double seconds = (double)(now - l->began_ns) * 1e-9;
    uint32_t relaunches = 0, nodes = 0;
    uint64_t step = 0;
    for (uint32_t c = 0; c < m->rules.cells; c++) {
        const weft_supervise_cell *x = &m->cell[c];
        relaunches += x->launch > 1 ? x->launch - 1 : 0;
        if (x->phase == WEFT_CELL_RUN) nodes += x->nodes;
        if (x->max_step > step) step = x->max_step;
    }
    const double each = seconds * l->nnodes;
    const char *shown =
        m->why[0] || m->phase != WEFT_SUPERVISE_INIT ? m->why : "waits for the lock of the run";
    if (m->phase == WEFT_SUPERVISE_WAIT_HUB) shown = "waits for the hub";
    const uint64_t saved = weft_supervise_saved(m);
    json_t *j = json_pack(
        "{s:i, s:s, s:s, s:I, s:i, s:s, s:s, s:i, s:o, s:o, s:i, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:f, "
        "s:f, s:f, s:f, s:f}",
        "v", 1, "run", l->c->run, "site", l->c->site, "job", (json_int_t)l->job, "generation",
        (int)m->record.generation, "state", weft_supervise_state(m), "why", shown, "relaunch",
        (int)relaunches, "nodes", node_names(l, 0), "bad", node_names(l, 1), "ranks",
        (int)(nodes * (uint32_t)l->c->tasks_per_node), "step", (json_int_t)step, "saved",
        (json_int_t)saved - 1, "step_s", (double)m->step_ns * 1e-9, "save_s", (double)m->save_ns * 1e-9,
        "remaining_s", m->end_ns == INT64_MAX ? -1.0 : (double)(m->end_ns - now) * 1e-9, "exit",
        m->phase == WEFT_SUPERVISE_END ? json_integer(m->code) : json_null(), "next_job",
        m->record.next_job ? json_integer((json_int_t)m->record.next_job) : json_null(), "node_seconds",
        l->spent[0] + each, "core_seconds", l->spent[1] + each * number_in_environment("SLURM_CPUS_ON_NODE"),
        "gpu_seconds", l->spent[2] + each * number_in_environment("SLURM_GPUS_ON_NODE"), "began_unix",
        l->began_wall, "now_unix", weft_wall());
    if (j && l->tail[0]) {
        json_t *text = json_string(l->tail);
        if (text) json_object_set_new(j, "tail", text);
    }
    return write_json(l, "status.json", j);
}

int live_stop_wanted(const live *l) {
    char path[LIVE_PATH];
    live_path(l, path, "stop");
    return access(path, F_OK) == 0;
}
