/* What a run shows while it goes on: the endpoint and the textfile, and how the lanes of the engine do. Rank 0. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/stall.h"
#include "io/metrics/export.h"
#include "runtime/train/internal.h"

#define LANES_S                                                                                              \
    10.0 /* between looks at the lanes: a look costs some microseconds, and each is a line of metrics.jsonl */

enum { LANE_OPS, LANE_BYTES, LANE_P50, LANE_P99, LANE_MAX };

static const struct {
    const char *stem, *unit;
} lane_figure[TRAINER_LANE_FIGURES] = {
    {"lane_ops", ""}, {"lane_bytes", "bytes"}, {"lane_p50", "s"}, {"lane_p99", "s"}, {"lane_max", "s"}};
static const char *const lane_name[TRAINER_LANES] = {"lat", "lat_loaded", "halo", "bulk", "ctrl"};

static void register_lanes(weft_trainer *t) {
    char name[64];
    for (int l = 0; l < TRAINER_LANES; l++)
        for (int f = 0; f < TRAINER_LANE_FIGURES; f++) {
            snprintf(name, sizeof name, "%s/%s", lane_figure[f].stem, lane_name[l]);
            t->id_lane[l][f] = weft_metric(name, WEFT_METRIC_GAUGE, lane_figure[f].unit);
        }
}

static void set_lane(const uint32_t *id, const weft_lane_stats *s) {
    const int used = s->count > 0;
    weft_metric_set(id[LANE_OPS], used ? (double)s->count : (double)NAN);
    weft_metric_set(id[LANE_BYTES], used && s->bytes ? (double)s->bytes : (double)NAN);
    weft_metric_set(id[LANE_P50], used && s->max_us > 0 ? s->p50_us * 1e-6 : (double)NAN);
    weft_metric_set(id[LANE_P99], used && s->max_us > 0 ? s->p99_us * 1e-6 : (double)NAN);
    weft_metric_set(id[LANE_MAX], used && s->max_us > 0 ? s->max_us * 1e-6 : (double)NAN);
}

static void stall_event(weft_trainer *t, const stall_told *told) {
    json_t *j = json_pack("{s:I, s:f, s:s}", "step", (json_int_t)t->st.step, "seconds", told->seconds, "text",
                          told->text);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    if (text) {
        text[strlen(text) - 1] = 0; /* members without braces */
        if (weft_metrics_event(t->metrics, "stall", text + 1) < 0) weft_warn("%s", weft_last_error());
    }
    json_decref(j);
    free(text);
}

/* Waits that ranks of rank 0's node have reported become events, so that the report has them. */
static void note_stalls(weft_trainer *t) {
    stall_told told;
    while (stall_news(t->o.ctx, &told)) stall_event(t, &told);
}

void trainer_watch_lanes(weft_trainer *t, int last) {
    weft_stats_buf s = {.size = sizeof s};
    const double now = weft_now();
    if (t->ranks == 1) return;
    note_stalls(t);
    if (!t->lanes_at) t->lanes_at = now + 1 - LANES_S; /* the first steps are not like the others */
    if ((last || now - t->lanes_at >= LANES_S) && weft_stats(t->o.ctx, &s, 0) >= 0)
        t->lanes_at = now;
    else
        s = (weft_stats_buf){.size = sizeof s}; /* not in this record */
    const weft_lane_stats *const lane[TRAINER_LANES] = {&s.lat, &s.lat_loaded, &s.halo, &s.bulk, &s.ctrl};
    for (int l = 0; l < TRAINER_LANES; l++) set_lane(t->id_lane[l], lane[l]);
}

weft_status trainer_watch_open(weft_trainer *t) {
    weft_export_part part[sizeof t->memory.part / sizeof *t->memory.part];
    for (int i = 0; i < t->memory.nparts; i++)
        part[i] = (weft_export_part){t->memory.part[i].name, t->memory.part[i].bytes};
    const weft_export_opts o = {.size = sizeof o,
                                .run = t->c->run.name,
                                .port = (int)t->c->log.metrics_port,
                                .bind = t->c->log.metrics_bind,
                                .textfile = t->c->log.textfile,
                                .part = part,
                                .nparts = t->memory.nparts,
                                .ranks = t->ranks,
                                .steps = t->c->train.steps};
    register_lanes(t);
    trainer_power_open(t);
    if (!o.port && !o.textfile) return WEFT_OK;
    WEFT_TRY(weft_export_open(&o, t->metrics, &t->exporter));
    if (o.port) weft_info("metrics: http://%s:%d/metrics", o.bind, weft_export_port(t->exporter));
    return WEFT_OK;
}

void trainer_watch_close(weft_trainer *t) {
    weft_export_close(t->exporter);
    t->exporter = NULL;
    trainer_power_close(t);
}
