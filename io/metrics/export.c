/* The exporter: what is said about a run, and the thread that writes the textfile; see export.h. The HTTP server is
 * http.c.
 *
 * Facts about the run come from the options, the rest from the writer's state (state.h) and the registry (families.h).
 * Both readers, the server and the textfile thread, render into one buffer under one lock; the training thread never
 * takes it. */
#include "io/metrics/export.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/metrics/export_internal.h"
#include "io/metrics/families.h"
#include "io/metrics/state.h"
#include "weft/version.h"

enum { TEXT_BYTES = 1 << 18, PARTS_MAX = 64, NAME_BYTES = 64, TEXTFILE_S = 5 };

typedef struct part {
    char name[NAME_BYTES];
    uint64_t bytes;
} part;

struct weft_export {
    const metrics_state *state;
    char run[256], host[NAME_BYTES + 1], pid[16], ranks[16];
    double began, steps;
    part part[PARTS_MAX];
    int nparts;
    http_server *http;
    char *textfile;
    locale_t c_locale;
    pthread_mutex_t lock;
    /* under lock */
    family_map families;
    char text[TEXT_BYTES];
    /* the thread of the textfile */
    pthread_mutex_t stop_lock;
    pthread_cond_t wake;
    pthread_t writer;
    int writing, stop, failing;
};

/* ---- what is said ---- */

static void one(om_text *o, om_kind kind, const char *name, const char *unit, const char *help, double v) {
    if (!isfinite(v)) return;
    om_family(o, kind, name, unit, help);
    om_sample(o, NULL, 0, v);
}

static double get(const _Atomic double *v) {
    return atomic_load_explicit((_Atomic double *)v, memory_order_relaxed);
}

static double count_of(const _Atomic uint64_t *v) {
    return (double)atomic_load_explicit((_Atomic uint64_t *)v, memory_order_relaxed);
}

static int running(const metrics_state *s) {
    return !atomic_load_explicit((_Atomic int *)&s->ended, memory_order_relaxed);
}

static int64_t step_of(const metrics_state *s) {
    return atomic_load_explicit((_Atomic int64_t *)&s->step, memory_order_relaxed);
}

static void say_run(const weft_export *e, om_text *o) {
    const metrics_state *s = e->state;
    const om_label who[] = {
        {"run", e->run}, {"version", WEFT_VERSION}, {"host", e->host}, {"pid", e->pid}, {"ranks", e->ranks}};
    om_family(o, OM_INFO, "weft_run", NULL, "Which run this is.");
    om_sample(o, who, sizeof who / sizeof *who, 1);
    one(o, OM_GAUGE, "weft_run_start_time", "seconds", "When this process began, since 1970.", e->began);
    one(o, OM_GAUGE, "weft_run_running", NULL, "1 while the run trains, 0 once it has ended.", running(s));
    one(o, OM_GAUGE, "weft_run_step", NULL, "Optimiser steps done.", (double)step_of(s));
    one(o, OM_GAUGE, "weft_run_steps_planned", NULL, "Optimiser steps at which the run ends.", e->steps);
    one(o, OM_COUNTER, "weft_run_tokens", NULL, "Tokens trained on.", count_of(&s->tokens));
    one(o, OM_COUNTER, "weft_run_samples", NULL, "Samples drawn.", count_of(&s->g));
    one(o, OM_COUNTER, "weft_run_records", NULL, "Records written by this process.", count_of(&s->records));
    if (get(&s->record_t) > 0)
        one(o, OM_GAUGE, "weft_run_last_record_time", "seconds",
            "When the last record was written, since 1970.", get(&s->record_t));
}

static void say_events(const metrics_state *s, om_text *o) {
    const uint32_t n = atomic_load_explicit((_Atomic uint32_t *)&s->nevents, memory_order_acquire);
    if (n) om_family(o, OM_COUNTER, "weft_events", NULL, "Events of this process by kind.");
    for (uint32_t i = 0; i < n; i++)
        om_sample(o, &(om_label){"event", s->event[i].name}, 1, count_of(&s->event[i].count));
    one(o, OM_GAUGE, "weft_checkpoint_time", "seconds", "When the last checkpoint was complete, since 1970.",
        get(&s->save_t));
    one(o, OM_GAUGE, "weft_checkpoint_step", NULL, "Step of the last checkpoint.", get(&s->save_step));
    one(o, OM_GAUGE, "weft_checkpoint_duration", "seconds", "How long the last checkpoint took.",
        get(&s->save_seconds));
    one(o, OM_GAUGE, "weft_checkpoint_exposed", "seconds",
        "How long the training waited for the last checkpoint.", get(&s->save_exposed));
    one(o, OM_GAUGE, "weft_checkpoint_size", "bytes", "Size of the last checkpoint.", get(&s->save_bytes));
}

static void say_memory(const weft_export *e, om_text *o) {
    struct rusage u;
    if (e->nparts)
        om_family(o, OM_GAUGE, "weft_memory_planned", "bytes", "Planned memory of a rank by part.");
    for (int i = 0; i < e->nparts; i++)
        om_sample(o, &(om_label){"part", e->part[i].name}, 1, (double)e->part[i].bytes);
    if (getrusage(RUSAGE_SELF, &u) == 0)
        one(o, OM_GAUGE, "weft_memory_resident_peak", "bytes", "Most memory that rank 0 has had.",
            (double)u.ru_maxrss * 1024);
}

weft_status export_render(weft_export *e, om_format format,
                          void (*take)(void *arg, const char *text, size_t n), void *arg) {
    om_text o;
    pthread_mutex_lock(&e->lock);
    locale_t before = uselocale(e->c_locale);
    om_begin(&o, e->text, sizeof e->text, format);
    say_run(e, &o);
    say_events(e->state, &o);
    say_memory(e, &o);
    families_render(&e->families, &o);
    uselocale(before);
    const weft_status s = om_end(&o);
    if (s >= 0) take(arg, e->text, o.n);
    pthread_mutex_unlock(&e->lock);
    return s;
}

size_t export_health(const weft_export *e, char *text, size_t bytes) {
    const double t = get(&e->state->record_t), age = t > 0 ? fmax(weft_wall() - t, 0) : 0;
    const long long ms = (long long)(fmin(age, 1e9) * 1000);
    const int n =
        snprintf(text, bytes, "{\"status\":\"%s\",\"step\":%lld,\"seconds_since_record\":%lld.%03lld}\n",
                 !running(e->state) ? "ended"
                 : t > 0            ? "running"
                                    : "starting",
                 (long long)step_of(e->state), ms / 1000, ms % 1000);
    return n < 0 ? 0 : (size_t)n < bytes ? (size_t)n : bytes - 1;
}

/* ---- the textfile ---- */

typedef struct saving {
    const char *path;
    weft_status s;
} saving;

static void save_text(void *arg, const char *text, size_t n) {
    saving *save = arg;
    save->s = weft_file_write(save->path, text, n);
}

static weft_status write_textfile(weft_export *e) {
    saving save = {e->textfile, WEFT_OK};
    WEFT_TRY(export_render(e, OM_CLASSIC, save_text, &save));
    return save.s;
}

/* Warns once of a place that fails, not every 5 s. */
static void write_or_warn(weft_export *e) {
    const int failed = write_textfile(e) < 0;
    if (failed && !e->failing) weft_warn("log.textfile: %s", weft_last_error());
    e->failing = failed;
}

static void *write_loop(void *arg) {
    weft_export *e = arg;
    struct timespec until;
    pthread_mutex_lock(&e->stop_lock);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += TEXTFILE_S;
        while (!e->stop && pthread_cond_timedwait(&e->wake, &e->stop_lock, &until) != ETIMEDOUT) {
        }
        if (e->stop) break;
        pthread_mutex_unlock(&e->stop_lock);
        write_or_warn(e);
        pthread_mutex_lock(&e->stop_lock);
    }
    pthread_mutex_unlock(&e->stop_lock);
    return NULL;
}

static weft_status start_writer(weft_export *e, const char *path) {
    e->textfile = weft_strdup(path);
    if (!e->textfile) return WEFT_ERR_NOMEM;
    WEFT_TRY(write_textfile(e)); /* a place that cannot be written is found out now */
    const int error = pthread_create(&e->writer, NULL, write_loop, e);
    if (error) return weft_fail_errno(error, "starting the thread that writes %s", path);
    e->writing = 1;
    return WEFT_OK;
}

/* ---- opening and closing ---- */

static void describe(weft_export *e, const weft_export_opts *o) {
    json_t *utf8 = json_string(o->run ? o->run : "");
    snprintf(e->run, sizeof e->run, "%s",
             utf8 && strlen(o->run ? o->run : "") < sizeof e->run && o->run ? o->run : "?");
    json_decref(utf8);
    if (gethostname(e->host, NAME_BYTES) < 0) strcpy(e->host, "?");
    snprintf(e->pid, sizeof e->pid, "%ld", (long)getpid());
    snprintf(e->ranks, sizeof e->ranks, "%d", o->ranks);
    e->began = weft_wall();
    e->steps = o->steps > 0 ? (double)o->steps : (double)NAN;
    for (; e->nparts < o->nparts && e->nparts < PARTS_MAX; e->nparts++) {
        snprintf(e->part[e->nparts].name, NAME_BYTES, "%s", o->part[e->nparts].name);
        e->part[e->nparts].bytes = o->part[e->nparts].bytes;
    }
}

static weft_status start(weft_export *e, const weft_export_opts *o) {
    e->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (e->c_locale == (locale_t)0) return weft_fail(WEFT_ERR_NOMEM, "out of memory: the C locale");
    describe(e, o);
    if (o->port) WEFT_TRY(http_open(e, o->bind ? o->bind : "127.0.0.1", o->port < 0 ? 0 : o->port, &e->http));
    return o->textfile ? start_writer(e, o->textfile) : WEFT_OK;
}

weft_status weft_export_open(const weft_export_opts *o, const weft_metrics *m, weft_export **out) {
    pthread_condattr_t monotonic;
    *out = NULL;
    weft_export *e = weft_calloc(1, sizeof *e);
    if (!e) return WEFT_ERR_NOMEM;
    e->state = metrics_state_of(m);
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->stop_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    const weft_status s = start(e, o);
    if (s < 0)
        weft_export_close(e);
    else
        *out = e;
    return s;
}

int weft_export_port(const weft_export *e) {
    return e->http ? http_port(e->http) : 0;
}

void weft_export_close(weft_export *e) {
    if (!e) return;
    http_close(e->http);
    if (e->writing) {
        pthread_mutex_lock(&e->stop_lock);
        e->stop = 1;
        pthread_cond_signal(&e->wake);
        pthread_mutex_unlock(&e->stop_lock);
        pthread_join(e->writer, NULL);
        write_or_warn(e);
    }
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->stop_lock);
    pthread_mutex_destroy(&e->lock);
    if (e->c_locale != (locale_t)0) freelocale(e->c_locale);
    free(e->textfile);
    free(e);
}
