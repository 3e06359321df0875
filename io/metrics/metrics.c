/* The writer of metrics.jsonl.
 *
 * A record is formatted into a buffer of the writer's own (no allocation after open) and appended with one
 * write(2): from then on it survives the death of the process. A thread of its own calls fdatasync once a
 * second while there is something new, so that a power failure costs at most about a second and no training
 * step waits for a disk. An error of that thread is returned by the next emit.
 *
 * Numbers: integers in full, others with 9 significant digits, which is a float32 exactly. JSON has no
 * infinity: a value that is not finite is left out, like one that is not set. */
#include "io/metrics/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "io/metrics/append.h"
#include "io/metrics/registry.h"
#include "io/metrics/state.h"
#include "io/metrics/tensorboard.h"

enum {
    HEAD_MAX = 640,
    MEMBER_MAX = METRIC_NAME_MAX + 32,
    LINE_MAX_BYTES = HEAD_MAX + METRICS_MAX * MEMBER_MAX + 4
};
enum { EVENT_MAX = 1 << 16 };

struct weft_metrics {
    append_file file;
    tb_writer *tb; /* NULL: none */
    locale_t c_locale;
    char *site; /* as a JSON string, quotes included */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t syncer;
    int syncing; /* the thread runs */
    /* under lock */
    int stop, dirty;
    int sync_errno; /* of a failed fdatasync, until an emit has returned it */
    metrics_state state;
    char line[LINE_MAX_BYTES];
};

/* ---- the thread that syncs ---- */

static void wait_a_second(weft_metrics *m) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    while (!m->stop && pthread_cond_timedwait(&m->wake, &m->lock, &until) != ETIMEDOUT) {
    }
}

static void *sync_loop(void *arg) {
    weft_metrics *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->stop || m->dirty) {
        if (m->dirty) {
            m->dirty = 0;
            pthread_mutex_unlock(&m->lock);
            int e = weft_fault_hit(WEFT_FAULT_SYNC) ? EIO : fdatasync(m->file.fd) < 0 ? errno : 0;
            pthread_mutex_lock(&m->lock);
            if (e) m->sync_errno = e;
            wait_a_second(m);
        } else {
            pthread_cond_wait(&m->wake, &m->lock);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* ---- records ---- */

static weft_status append_line(weft_metrics *m, const char *line, size_t n) {
    if (m->sync_errno) {
        int e = m->sync_errno;
        m->sync_errno = 0;
        return weft_fail_errno(e, "syncing %s", m->file.path);
    }
    WEFT_TRY(append_record(&m->file, line, n));
    if (!m->dirty) pthread_cond_signal(&m->wake);
    m->dirty = 1;
    return WEFT_OK;
}

static char *put_number(char *p, double v) {
    if (v == trunc(v) && fabs(v) < 0x1p53) return p + sprintf(p, "%lld", (long long)v);
    return p + sprintf(p, "%.9g", v);
}

/* {"v":1,"t":1700000000.123,"site":"a","step":5,"g":640,"tokens":655360,"k":{"loss/train":3.25,...}} */
static size_t format_record(weft_metrics *m, double wall, int64_t step, uint64_t g, uint64_t tokens) {
    char *p = m->line;
    p += sprintf(p, "{\"v\":1,\"t\":%.3f,\"site\":%s,\"step\":%lld,\"g\":%llu,\"tokens\":%llu,\"k\":{", wall,
                 m->site, (long long)step, (unsigned long long)g, (unsigned long long)tokens);
    if (m->tb) tb_begin(m->tb, wall, step);
    char *first = p;
    for (uint32_t id = 0, n = metric_count(); id < n; id++) {
        double v = weft_metric_get(id);
        if (!isfinite(v)) continue;
        if (p > first) *p++ = ',';
        p += sprintf(p, "\"%s\":", metric_name(id));
        p = put_number(p, v);
        metric_said(id, v);
        if (m->tb) tb_scalar(m->tb, metric_name(id), (float)v);
    }
    return (size_t)(stpcpy(p, "}}\n") - m->line);
}

weft_status weft_metrics_emit(weft_metrics *m, int64_t step, uint64_t g, uint64_t tokens) {
    pthread_mutex_lock(&m->lock);
    locale_t before = uselocale(m->c_locale);
    const double wall = weft_wall();
    size_t n = format_record(m, wall, step, g, tokens);
    uselocale(before);
    state_record(&m->state, wall, step, g, tokens);
    weft_status s = append_line(m, m->line, n);
    if (s == WEFT_OK && m->tb) s = tb_end(m->tb);
    pthread_mutex_unlock(&m->lock);
    return s;
}

/* One line of JSON, as a reader will see it; NULL if the members do not make one. */
static json_t *one_object(const char *line, size_t n) {
    if (memchr(line, '\n', n)) return NULL;
    json_t *j = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(j)) return j;
    json_decref(j);
    return NULL;
}

weft_status weft_metrics_event(weft_metrics *m, const char *name, const char *json) {
    char *line = NULL;
    json_t *quoted = json_string(name);
    char *text = quoted ? json_dumps(quoted, JSON_ENCODE_ANY) : NULL;
    json_decref(quoted);
    if (!text) return weft_fail(WEFT_ERR_ARG, "event name: not UTF-8");
    size_t cap = strlen(text) + (json ? strlen(json) : 0) + 64;
    weft_status s = WEFT_OK;
    if (cap > EVENT_MAX) s = weft_fail(WEFT_ERR_ARG, "event %.32s: more than %d bytes", text, EVENT_MAX);
    if (s == WEFT_OK && !(line = weft_calloc(cap, 1))) s = WEFT_ERR_NOMEM;
    if (s == WEFT_OK) {
        int members = json && *json;
        locale_t before = uselocale(m->c_locale);
        const double wall = weft_wall();
        int n = snprintf(line, cap, "{\"v\":1,\"t\":%.3f,\"ev\":%s%s%s}\n", wall, text, members ? "," : "",
                         members ? json : "");
        uselocale(before);
        json_t *object = one_object(line, (size_t)n - 1);
        if (!object) {
            s = weft_fail(WEFT_ERR_ARG, "event %s: its members are not JSON on one line: %.200s", text, json);
        } else {
            pthread_mutex_lock(&m->lock);
            state_note_event(&m->state, wall, name, object);
            s = append_line(m, line, (size_t)n);
            pthread_mutex_unlock(&m->lock);
        }
        json_decref(object);
    }
    free(line);
    free(text);
    return s;
}

/* ---- opening and closing ---- */

/* A last line without its newline is what a crash left; a newline makes it one broken line for the readers.
 */
static weft_status close_torn_line(append_file *f) {
    char last = '\n';
    if (f->size == 0) return WEFT_OK;
    if (pread(f->fd, &last, 1, f->size - 1) != 1) return weft_fail_errno(errno, "reading %s", f->path);
    return last == '\n' ? WEFT_OK : append_record(f, "\n", 1);
}

static weft_status start(weft_metrics *m, const char *dir, const char *site, int tensorboard) {
    pthread_condattr_t monotonic;
    json_t *name = json_string(site);
    m->site = name ? json_dumps(name, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    json_decref(name);
    if (!m->site || strlen(m->site) > HEAD_MAX - 256)
        return weft_fail(WEFT_ERR_ARG, "site name: expected at most %d bytes of UTF-8", (HEAD_MAX - 256) / 6);
    m->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (m->c_locale == (locale_t)0) return weft_fail(WEFT_ERR_NOMEM, "out of memory: the C locale");
    WEFT_TRY(append_open(&m->file, dir, "metrics.jsonl"));
    WEFT_TRY(close_torn_line(&m->file));
    if (tensorboard) WEFT_TRY(tb_open(dir, &m->tb));
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int e = pthread_create(&m->syncer, NULL, sync_loop, m);
    if (e) return weft_fail_errno(e, "starting the thread that syncs %s", m->file.path);
    m->syncing = 1;
    return WEFT_OK;
}

weft_status weft_metrics_open(const char *dir, const char *site, int tensorboard, weft_metrics **out) {
    *out = NULL;
    weft_metrics *m = weft_calloc(1, sizeof *m);
    if (!m) return WEFT_ERR_NOMEM;
    m->file.fd = -1;
    state_init(&m->state);
    weft_status s = start(m, dir, site ? site : "", tensorboard);
    if (s < 0) {
        weft_metrics_close(m);
        return weft_context(s, "opening the metrics of %s", dir);
    }
    *out = m;
    return WEFT_OK;
}

const metrics_state *metrics_state_of(const weft_metrics *m) {
    return &m->state;
}

void weft_metrics_close(weft_metrics *m) {
    if (!m) return;
    if (m->syncing) {
        pthread_mutex_lock(&m->lock);
        m->stop = 1;
        pthread_cond_signal(&m->wake);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->syncer, NULL);
        pthread_cond_destroy(&m->wake);
        pthread_mutex_destroy(&m->lock);
    }
    tb_close(m->tb);
    append_close(&m->file);
    if (m->c_locale != (locale_t)0) freelocale(m->c_locale);
    free(m->site);
    free(m);
}
