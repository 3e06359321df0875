/* Where weft top looks: the files of a run directory, or the endpoint of a run. Both speak of metrics by the names of
 * the registry; the endpoint's families are turned back into them. */
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/metrics/follow.h"
#include "io/metrics/openmetrics_read.h"
#include "runtime/cli/top.h"
#include "runtime/train/run_config.h"

enum { ANSWER_BYTES = 4 << 20, ANSWER_S = 3, RUN_BYTES_MAX = 16 << 20 };

struct top_source {
    char *dir;          /* NULL: an endpoint */
    weft_follow *files; /* of dir */
    char host[256], port[16];
    int answered;
    char *answer; /* ANSWER_BYTES */
};

const char *const top_phase_name[TOP_PHASES] = {"forward", "backward", "optim", "comm", "data", "other"};
const char *const top_lane_name[TOP_LANES] = {"lat", "lat_loaded", "halo", "bulk", "ctrl"};

void top_run_init(top_run *r) {
    memset(r, 0, sizeof *r);
    double *const unknown[] = {&r->steps,      &r->time_limit, &r->first_t,   &r->t,      &r->loss,
                               &r->valid,      &r->valid_step, &r->bpb,       &r->rate,   &r->mfu,
                               &r->norm,       &r->lr,         &r->save_step, &r->save_t, &r->save_seconds,
                               &r->save_bytes, &r->watts,      &r->joules,    &r->hertz,  &r->celsius};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) *unknown[i] = NAN;
    for (int i = 0; i < TOP_PHASES; i++) r->phase[i] = NAN;
}

void top_run_free(top_run *r) {
    free(r->losses);
    memset(r, 0, sizeof *r);
}

static void add_loss(top_run *r, double v) {
    if (r->nlosses == r->room) {
        const size_t more = r->room ? 2 * r->room : 1024;
        double *p = weft_reallocarray(r->losses, more, sizeof *p);
        if (!p) return; /* the curve stays as it is */
        r->losses = p;
        r->room = more;
    }
    r->losses[r->nlosses++] = v;
}

/* ---- a metric by its name ---- */

static int part_of(const char *name, const char *stem, const char *const *parts, int n) {
    const size_t k = strlen(stem);
    if (strncmp(name, stem, k) != 0 || name[k] != '/') return -1;
    for (int i = 0; i < n; i++)
        if (!strcmp(name + k + 1, parts[i])) return i;
    return -1;
}

static void set_metric(top_run *r, const char *name, double v) {
    static const struct {
        const char *name;
        size_t at;
    } plain[] = {{"loss/train", offsetof(top_run, loss)},
                 {"loss/valid", offsetof(top_run, valid)},
                 {"bpb/valid", offsetof(top_run, bpb)},
                 {"tokens_per_s", offsetof(top_run, rate)},
                 {"mfu", offsetof(top_run, mfu)},
                 {"grad_norm", offsetof(top_run, norm)},
                 {"lr", offsetof(top_run, lr)},
                 {"gpu_power", offsetof(top_run, watts)},
                 {"gpu_energy", offsetof(top_run, joules)},
                 {"gpu_sm_clock", offsetof(top_run, hertz)},
                 {"gpu_temperature", offsetof(top_run, celsius)}};
    static const struct {
        const char *stem;
        size_t at;
    } lane[] = {{"lane_ops", offsetof(top_lane, ops)},
                {"lane_bytes", offsetof(top_lane, bytes)},
                {"lane_p50", offsetof(top_lane, p50)},
                {"lane_p99", offsetof(top_lane, p99)},
                {"lane_max", offsetof(top_lane, max)}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(name, plain[i].name)) memcpy((char *)r + plain[i].at, &v, sizeof v);
    int k = part_of(name, "time", top_phase_name, TOP_PHASES);
    if (k >= 0) r->phase[k] = v;
    for (size_t i = 0; i < sizeof lane / sizeof *lane; i++)
        if ((k = part_of(name, lane[i].stem, top_lane_name, TOP_LANES)) >= 0)
            memcpy((char *)&r->lane[k] + lane[i].at, &v, sizeof v);
    if (!strcmp(name, "loss/valid")) r->valid_step = r->step;
}

static void set_event(top_run *r, const char *name, double count, double t) {
    int i = 0;
    while (i < r->nevents && strcmp(r->event[i].name, name) != 0) i++;
    if (i == TOP_EVENTS) return;
    if (i == r->nevents) snprintf(r->event[r->nevents++].name, TOP_NAME, "%s", name);
    r->event[i].count = count;
    r->event[i].t = t;
    if (!strcmp(name, "checkpoint")) r->saves = count;
}

/* ---- files ---- */

static double member(const history_line *l, const char *key) {
    const json_t *v = json_object_get(l->tree, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static void take_event(top_run *r, const history_line *l) {
    double count = 1;
    for (int i = 0; i < r->nevents; i++)
        if (!strcmp(r->event[i].name, l->event)) count += r->event[i].count;
    set_event(r, l->event, count, l->t);
    if (!strcmp(l->event, "start") || !strcmp(l->event, "end")) r->ended = !strcmp(l->event, "end");
    snprintf(r->state, sizeof r->state, "%s", r->ended ? "ended" : "running");
    const char *reason = json_string_value(json_object_get(l->tree, "reason"));
    if (r->ended && reason) snprintf(r->state, sizeof r->state, "ended: %.40s", reason);
    if (strcmp(l->event, "checkpoint") != 0) return;
    r->save_t = l->t;
    r->save_step = member(l, "step");
    r->save_seconds = member(l, "seconds");
    r->save_bytes = member(l, "bytes");
}

static void take_record(top_run *r, const history_line *l) {
    char name[64];
    r->step = l->step;
    r->tokens = l->tokens;
    r->t = l->t;
    if (isnan(r->first_t)) r->first_t = l->t;
    for (size_t i = 0; i < l->n; i++) {
        if (l->member[i].len >= sizeof name) continue;
        memcpy(name, l->member[i].name, l->member[i].len);
        name[l->member[i].len] = 0;
        set_metric(r, name, l->member[i].value);
        if (!strcmp(name, "loss/train")) add_loss(r, l->member[i].value);
    }
}

static void begin_anew(top_run *r) {
    char title[sizeof r->title];
    const double steps = r->steps, limit = r->time_limit;
    memcpy(title, r->title, sizeof title);
    top_run_free(r);
    top_run_init(r);
    memcpy(r->title, title, sizeof title);
    strcpy(r->state, "running");
    r->steps = steps;
    r->time_limit = limit;
}

static void take_line(void *arg, const history_line *l) {
    top_run *r = arg;
    if (!l)
        begin_anew(r);
    else if (l->kind == HISTORY_RECORD)
        take_record(r, l);
    else
        take_event(r, l);
}

/* Title and length of the run, where run.json and config.yaml say them; a weft of another version may say otherwise. */
static void read_plan(const char *dir, top_run *r) {
    char *path = weft_path_join(dir, "run.json"), *text = NULL;
    size_t n = 0;
    snprintf(r->title, sizeof r->title, "%s", dir);
    if (path && weft_file_read(path, RUN_BYTES_MAX, &text, &n) >= 0) {
        json_t *j = json_loadb(text, n, 0, NULL);
        const char *title = json_string_value(json_object_get(j, "title"));
        if (title) snprintf(r->title, sizeof r->title, "%s", title);
        json_decref(j);
    }
    free(text);
    free(path);
    path = weft_path_join(dir, "config.yaml");
    weft_run_config c;
    weft_config *config = NULL;
    if (path && weft_run_config_load(path, NULL, 0, &c, &config) >= 0) {
        r->steps = (double)c.train.steps;
        if (c.train.time_limit > 0) r->time_limit = c.train.time_limit;
        weft_config_destroy(config);
    }
    free(path);
    weft_clear_error();
}

/* ---- an endpoint ---- */

/* The families of io/metrics/families.c and export.c back to what they came from. */
static void take_sample(void *arg, const om_read_sample *s) {
    static const struct {
        const char *family, *key, *stem;
    } named[] = {{"weft_loss_nats", "data", "loss"},
                 {"weft_bpb", "data", "bpb"},
                 {"weft_tokens_per_second", NULL, "tokens_per_s"},
                 {"weft_mfu", NULL, "mfu"},
                 {"weft_grad_norm", NULL, "grad_norm"},
                 {"weft_lr", NULL, "lr"},
                 {"weft_time_seconds", "part", "time"},
                 {"weft_lane_ops", "lane", "lane_ops"},
                 {"weft_lane_bytes", "lane", "lane_bytes"},
                 {"weft_lane_p50_seconds", "lane", "lane_p50"},
                 {"weft_lane_p99_seconds", "lane", "lane_p99"},
                 {"weft_lane_max_seconds", "lane", "lane_max"},
                 {"weft_gpu_power_watts", NULL, "gpu_power"},
                 {"weft_gpu_energy_joules", NULL, "gpu_energy"},
                 {"weft_gpu_sm_clock_hertz", NULL, "gpu_sm_clock"},
                 {"weft_gpu_temperature_celsius", NULL, "gpu_temperature"}};
    static const struct {
        const char *name;
        size_t at;
    } plain[] = {{"weft_run_step", offsetof(top_run, step)},
                 {"weft_run_steps_planned", offsetof(top_run, steps)},
                 {"weft_run_tokens_total", offsetof(top_run, tokens)},
                 {"weft_run_start_time_seconds", offsetof(top_run, first_t)},
                 {"weft_run_last_record_time_seconds", offsetof(top_run, t)},
                 {"weft_checkpoint_step", offsetof(top_run, save_step)},
                 {"weft_checkpoint_time_seconds", offsetof(top_run, save_t)},
                 {"weft_checkpoint_duration_seconds", offsetof(top_run, save_seconds)},
                 {"weft_checkpoint_size_bytes", offsetof(top_run, save_bytes)}};
    top_run *r = arg;
    char name[OM_READ_NAME + OM_READ_VALUE];
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(s->name, plain[i].name)) memcpy((char *)r + plain[i].at, &s->value, sizeof s->value);
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        const char *part = named[i].key ? om_read_label(s, named[i].key) : NULL;
        if (strcmp(s->name, named[i].family) != 0) continue;
        snprintf(name, sizeof name, "%s%s%s", named[i].stem, part ? "/" : "", part ? part : "");
        set_metric(r, name, s->value);
        r->valid_step = NAN; /* it does not say */
    }
    if (!strcmp(s->name, "weft_run_info") && om_read_label(s, "run"))
        snprintf(r->title, sizeof r->title, "%.127s", om_read_label(s, "run"));
    if (!strcmp(s->name, "weft_events_total") && om_read_label(s, "event"))
        set_event(r, om_read_label(s, "event"), s->value, NAN);
    if (!strcmp(s->name, "weft_run_running")) {
        r->ended = s->value == 0;
        strcpy(r->state, r->ended ? "ended" : "running");
    }
}

static weft_status connect_to(const top_source *s, int *out) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    const struct timeval patience = {ANSWER_S, 0};
    const int e = getaddrinfo(s->host, s->port, &hints, &list);
    int fd = -1, error = ENOTCONN;
    if (e) return weft_fail(WEFT_ERR_NOTFOUND, "%s, port %s: %s", s->host, s->port, gai_strerror(e));
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
        error = errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    *out = fd;
    return fd < 0 ? weft_fail(WEFT_ERR_NOTFOUND, "no endpoint at %s, port %s: %s", s->host, s->port,
                              strerror(error))
                  : WEFT_OK;
}

/* GET /metrics into s->answer; HTTP/1.0, so that the body is what comes until the end. */
static weft_status ask(top_source *s, size_t *n) {
    char request[512];
    int fd = -1;
    const double until = weft_now() + ANSWER_S;
    WEFT_TRY(connect_to(s, &fd));
    const int len =
        snprintf(request, sizeof request,
                 "GET /metrics HTTP/1.0\r\nHost: %s:%s\r\nAccept: application/openmetrics-text\r\n\r\n",
                 s->host, s->port);
    weft_status status = WEFT_OK;
    if (send(fd, request, (size_t)len, MSG_NOSIGNAL) != len)
        status = weft_fail(WEFT_ERR_IO, "asking %s, port %s: %s", s->host, s->port, strerror(errno));
    for (*n = 0; status >= 0;) {
        const ssize_t k = recv(fd, s->answer + *n, ANSWER_BYTES - *n, 0);
        if (k == 0) break;
        if (k < 0 && errno != EINTR)
            status = weft_fail(WEFT_ERR_IO, "no answer from %s, port %s", s->host, s->port);
        else if (k > 0)
            *n += (size_t)k;
        if (*n == ANSWER_BYTES)
            status = weft_fail(WEFT_ERR_FORMAT, "more than %d bytes of metrics", ANSWER_BYTES);
        if (weft_now() > until)
            status = weft_fail(WEFT_ERR_IO, "%s, port %s answers too slowly", s->host, s->port);
    }
    close(fd);
    return status;
}

static weft_status read_endpoint(top_source *s, top_run *r) {
    size_t n;
    WEFT_TRY(ask(s, &n));
    const char *body = memmem(s->answer, n, "\r\n\r\n", 4);
    if (!body || n < 12 || memcmp(s->answer, "HTTP/1.", 7) != 0 || memcmp(s->answer + 8, " 200", 4) != 0)
        return weft_fail(WEFT_ERR_FORMAT, "%s, port %s does not answer as an endpoint of weft", s->host,
                         s->port);
    const double before = r->step;
    WEFT_TRY(om_read(body + 4, n - (size_t)(body + 4 - s->answer), take_sample, r));
    if (isfinite(r->loss) && (r->step != before || !r->nlosses)) add_loss(r, r->loss);
    return WEFT_OK;
}

/* ---- both ---- */

static weft_status parse_url(const char *url, top_source *s) {
    const char *p = strncmp(url, "http://", 7) == 0 ? url + 7 : url;
    size_t n = strcspn(p, "/");
    const char *bracket = *p == '[' ? memchr(p, ']', n) : NULL;
    const char *from = bracket ? bracket : p;
    const char *colon = memchr(from, ':', n - (size_t)(from - p));
    const size_t host = bracket ? (size_t)(bracket - p) - 1 : colon ? (size_t)(colon - p) : n;
    if (!colon || host == 0 || host >= sizeof s->host || (size_t)(p + n - colon) > sizeof s->port ||
        p + n - colon < 2)
        return weft_fail(WEFT_ERR_ARG, "'%s' is no run directory, and no http://HOST:PORT", url);
    memcpy(s->host, p + (bracket != NULL), host);
    memcpy(s->port, colon + 1, (size_t)(p + n - colon) - 1);
    return WEFT_OK;
}

weft_status top_source_open(const char *where, top_source **out) {
    *out = NULL;
    top_source *s = weft_calloc(1, sizeof *s);
    if (!s) return WEFT_ERR_NOMEM;
    weft_status status = WEFT_OK;
    if (strncmp(where, "http://", 7) != 0 && (access(where, F_OK) == 0 || !strchr(where, ':'))) {
        char *path = weft_path_join(where, "metrics.jsonl");
        s->dir = weft_strdup(where);
        status = path && s->dir ? weft_follow_open(path, &s->files) : WEFT_ERR_NOMEM;
        free(path);
    } else {
        status = parse_url(where, s);
        if (status >= 0 && !(s->answer = weft_calloc(ANSWER_BYTES, 1))) status = WEFT_ERR_NOMEM;
    }
    if (status < 0)
        top_source_close(s);
    else
        *out = s;
    return status;
}

weft_status top_source_read(top_source *s, top_run *r) {
    if (s->dir) {
        if (!*r->title) read_plan(s->dir, r);
        return weft_follow_more(s->files, take_line, r);
    }
    const weft_status status = read_endpoint(s, r);
    if (status >= 0 || !s->answered) {
        s->answered = status >= 0;
        return status;
    }
    if (!r->ended) snprintf(r->state, sizeof r->state, "no answer");
    weft_clear_error();
    return WEFT_OK;
}

void top_source_close(top_source *s) {
    if (!s) return;
    weft_follow_close(s->files);
    free(s->answer);
    free(s->dir);
    free(s);
}
