/* The events of a run: marks on lanes over wall time, and the latest of them in words. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/report/page.h"

enum { LANES_MAX = 12, ROWS_MAX = 200 };

/* The members of an event beside v, t and ev, as "name value" in the order of the file. */
static void details(FILE *f, const char *json) {
    const char *key;
    json_t *value, *root = json_loads(json, JSON_ALLOW_NUL, NULL);
    int n = 0;
    json_object_foreach(root, key, value) {
        if (!strcmp(key, "v") || !strcmp(key, "t") || !strcmp(key, "ev")) continue;
        if (n++) fputs(", ", f);
        html_string(f, key);
        fputc(' ', f);
        if (json_is_string(value)) {
            html_text(f, json_string_value(value), json_string_length(value));
        } else {
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
            if (text) html_string(f, text);
            free(text);
        }
    }
    json_decref(root);
}

static void table(page *p) {
    const weft_history *h = &p->history;
    char text[NUMBER_MAX];
    number_format clock = {UNIT_CLOCK, 1, "", 0};
    size_t from = h->nevents > ROWS_MAX ? h->nevents - ROWS_MAX : 0;
    fprintf(p->f, "<details><summary>%s%zu events in words</summary><table class=\"events\">\n",
            from ? "The last " : "", h->nevents - from);
    for (size_t i = from; i < h->nevents; i++) {
        const weft_event *e = &h->event[i];
        fprintf(p->f, "<tr><td>%s</td><td>", number_print(text, &clock, fmax(e->t - p->t0, 0)));
        html_string(p->f, e->name);
        fputs("</td><td>", p->f);
        details(p->f, e->json);
        fputs("</td></tr>\n", p->f);
    }
    fputs("</table></details>\n", p->f);
}

weft_status page_events(page *p) {
    const weft_history *h = &p->history;
    const char *lane[LANES_MAX];
    int nlanes = 0;
    if (!h->nevents) {
        fputs("<p class=\"missing\">Events: the run recorded none.</p>\n", p->f);
        return WEFT_OK;
    }
    chart_mark *mark = weft_calloc(h->nevents, sizeof *mark);
    if (!mark) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < h->nevents; i++) {
        int at = 0;
        while (at < nlanes && strcmp(lane[at], h->event[i].name) != 0) at++;
        if (at == nlanes && nlanes < LANES_MAX) lane[nlanes++] = h->event[i].name;
        if (at == LANES_MAX) lane[at = LANES_MAX - 1] = "others";
        mark[i] = (chart_mark){h->event[i].t - p->t0, at};
    }
    fputs("<section>\n", p->f);
    chart_lanes(p->f, "Events", "over wall time", lane, nlanes, mark, h->nevents, p->t1 - p->t0);
    table(p);
    fputs("</section>\n", p->f);
    free(mark);
    return WEFT_OK;
}
