/* The engine of the run: its lanes as last recorded (lane_ops/LANE, lane_bytes, lane_p50, lane_p99, lane_max), and the
 * waits that were so long that somebody was told (events "stall" {"step","seconds","text"}). */
#include <math.h>
#include <string.h>

#include "io/report/page.h"

enum { STALLS_MAX = 50, COLUMNS = 5 };

static const struct {
    const char *stem, *name;
    unit u;
} column[COLUMNS] = {{"lane_ops", "operations", UNIT_PLAIN},
                     {"lane_bytes", "bytes", UNIT_PLAIN},
                     {"lane_p50", "median", UNIT_SECONDS},
                     {"lane_p99", "99 %", UNIT_SECONDS},
                     {"lane_max", "longest", UNIT_SECONDS}};

int page_is_lane(const char *metric) {
    for (int i = 0; i < COLUMNS; i++) {
        const size_t n = strlen(column[i].stem);
        if (!strncmp(metric, column[i].stem, n) && metric[n] == '/') return 1;
    }
    return 0;
}

static void value_of(page *p, const char *stem, const char *lane, unit u) {
    char name[64], text[NUMBER_MAX];
    snprintf(name, sizeof name, "%s/%s", stem, lane);
    const weft_series *s = weft_history_find(&p->history, name);
    fprintf(p->f, "<td class=\"n\">%s</td>", s && s->n ? number_alone(text, u, s->value[s->n - 1], 3) : "");
}

static void lanes(page *p) {
    static const char *const name[][2] = {{"lat", "small reductions"},
                                          {"lat_loaded", "small reductions beside a bulk"},
                                          {"halo", "neighbour exchanges"},
                                          {"bulk", "gradients and parameters"},
                                          {"ctrl", "weft's own messages"}};
    char metric[64];
    int shown = 0;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        snprintf(metric, sizeof metric, "lane_ops/%s", name[i][0]);
        if (!weft_history_find(&p->history, metric)) continue;
        if (!shown++) {
            fputs("<section><h2>Lanes of the engine</h2><div class=\"card wide\"><table "
                  "class=\"dense\">\n<tr><th></th>",
                  p->f);
            for (int k = 0; k < COLUMNS; k++) fprintf(p->f, "<td class=\"n\">%s</td>", column[k].name);
            fputs("</tr>\n", p->f);
        }
        fprintf(p->f, "<tr><th>%s</th>", name[i][1]);
        for (int k = 0; k < COLUMNS; k++) value_of(p, column[k].stem, name[i][0], column[k].u);
        fputs("</tr>\n", p->f);
    }
    if (shown) fputs("</table></div></section>\n", p->f);
}

static void stall_row(page *p, const weft_event *e) {
    char text[NUMBER_MAX];
    const number_format clock = {UNIT_CLOCK, 1, "", 0};
    json_t *tree = json_loads(e->json, JSON_ALLOW_NUL, NULL);
    const json_t *seconds = json_object_get(tree, "seconds"), *what = json_object_get(tree, "text");
    fprintf(p->f, "<tr><td>%s</td><td>", number_print(text, &clock, fmax(e->t - p->t0, 0)));
    if (json_is_number(seconds)) fputs(number_alone(text, UNIT_SECONDS, json_number_value(seconds), 3), p->f);
    fputs("</td><td>", p->f);
    if (json_is_string(what)) html_text(p->f, json_string_value(what), json_string_length(what));
    fputs("</td></tr>\n", p->f);
    json_decref(tree);
}

static void stalls(page *p) {
    const weft_history *h = &p->history;
    size_t n = 0, skip = 0;
    for (size_t i = 0; i < h->nevents; i++) n += !strcmp(h->event[i].name, "stall");
    if (!n) return;
    if (n > STALLS_MAX) skip = n - STALLS_MAX;
    fprintf(p->f,
            "<section><h2>Stalls</h2><p class=\"missing\">Waits so long that they were reported: %zu.</p>\n",
            n);
    fputs("<div class=\"card wide\"><table class=\"events\">\n", p->f);
    for (size_t i = 0; i < h->nevents; i++) {
        if (strcmp(h->event[i].name, "stall") != 0) continue;
        if (skip) {
            skip--;
            continue;
        }
        stall_row(p, &h->event[i]);
    }
    fputs("</table></div></section>\n", p->f);
}

void page_engine(page *p) {
    stalls(p);
    lanes(p);
}
