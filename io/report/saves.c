/* Checkpoints of the run: when each was written, how long it took, and what became of it; the failed ones in red, and in
 * words. From the events "checkpoint" {"step","seconds"[,"bytes","exposed","mode"]}, "checkpoint_failed" {"step"[,"failed"]}
 * and what says that one was read back: "verify" {"step","state"}, "resume" and "rollback" {"step"}. Members that are
 * missing are left out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/report/page.h"

enum { ROWS_MAX = 50 };

typedef struct save {
    double t, step, seconds, exposed, bytes;
    int failed;
    const char *mode, *why, *state; /* of the events' trees, or literals */
} save;

typedef struct saves {
    size_t n, failed, trees;
    save *list;
    json_t **tree; /* of every event that is used */
} saves;

static double number_of(const json_t *event, const char *key) {
    const json_t *v = json_object_get(event, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static void add_save(saves *s, const weft_event *e, const json_t *tree) {
    save *a = &s->list[s->n++];
    *a = (save){.t = e->t,
                .step = number_of(tree, "step"),
                .seconds = number_of(tree, "seconds"),
                .exposed = number_of(tree, "exposed"),
                .bytes = number_of(tree, "bytes"),
                .failed = !strcmp(e->name, "checkpoint_failed"),
                .mode = json_string_value(json_object_get(tree, "mode")),
                .why = json_string_value(json_object_get(tree, "failed"))};
    if (!a->why) a->why = json_string_value(json_object_get(tree, "reason"));
    s->failed += (size_t)a->failed;
}

/* What a later event says about the newest save of a step. */
static void note_state(saves *s, double step, const char *state) {
    for (size_t i = s->n; state && i--;)
        if (s->list[i].step == step && !s->list[i].failed) {
            s->list[i].state = state;
            return;
        }
}

static weft_status collect(const weft_history *h, saves *s) {
    static const char *const used[][2] = {/* event, what it says of a checkpoint; NULL: its member "state" */
                                          {"verify", NULL},
                                          {"resume", "resumed from"},
                                          {"rollback", "rolled back to"}};
    s->list = weft_calloc(h->nevents, sizeof *s->list);
    s->tree = weft_calloc(h->nevents, sizeof(json_t *));
    if (!s->list || !s->tree) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < h->nevents; i++) {
        const weft_event *e = &h->event[i];
        const int is_save = !strcmp(e->name, "checkpoint") || !strcmp(e->name, "checkpoint_failed");
        size_t k = 0;
        while (k < 3 && strcmp(e->name, used[k][0]) != 0) k++;
        if (!is_save && k == 3) continue;
        json_t *tree = s->tree[s->trees++] = json_loads(e->json, JSON_ALLOW_NUL, NULL);
        if (is_save)
            add_save(s, e, tree);
        else
            note_state(s, number_of(tree, "step"),
                       used[k][1] ? used[k][1] : json_string_value(json_object_get(tree, "state")));
    }
    return WEFT_OK;
}

/* ---- the picture ---- */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static weft_status draw(page *p, const saves *s) {
    char median[NUMBER_MAX], share[NUMBER_MAX];
    chart_bar *bar = weft_calloc(s->n, sizeof *bar);
    double *seconds = weft_calloc(s->n, sizeof *seconds), exposed = 0;
    chart_bars c = {.title = "Checkpoints",
                    .sub = "seconds of each save, over wall time",
                    .unit = UNIT_SECONDS,
                    .bar = bar};
    size_t n = 0;
    if (!bar || !seconds) {
        free(bar);
        free(seconds);
        return WEFT_ERR_NOMEM;
    }
    for (size_t i = 0; i < s->n; i++) {
        const save *a = &s->list[i];
        bar[c.n++] =
            (chart_bar){a->t - p->t0, a->failed ? (double)NAN : fmax(a->seconds, 0)}; /* not said: 0 */
        if (!a->failed && isfinite(a->seconds)) {
            seconds[n++] = a->seconds;
            exposed += isfinite(a->exposed) ? a->exposed : a->seconds;
        }
    }
    qsort(seconds, n, sizeof *seconds, ascending);
    if (n && p->t1 > p->t0)
        snprintf(c.note, sizeof c.note,
                 "%zu saved, %zu failed; median %s; the run waited for them %s of its time", s->n - s->failed,
                 s->failed, number_alone(median, UNIT_SECONDS, seconds[n / 2], 3),
                 number_alone(share, UNIT_PERCENT, exposed / (p->t1 - p->t0), 2));
    else
        snprintf(c.note, sizeof c.note, "%zu saved, %zu failed", s->n - s->failed, s->failed);
    chart_bars_draw(p->f, &c, p->t1 - p->t0);
    free(bar);
    free(seconds);
    return WEFT_OK;
}

/* ---- the table ---- */

static void cell(FILE *f, unit u, double v, int digits) {
    char text[NUMBER_MAX];
    fprintf(f, "<td class=\"n\">%s</td>", isfinite(v) ? number_alone(text, u, v, digits) : "");
}

static void table(page *p, const saves *s) {
    char text[NUMBER_MAX];
    const number_format clock = {UNIT_CLOCK, 1, "", 0}, whole = number_format_for(UNIT_PLAIN, 1, 1);
    const size_t from = s->n > ROWS_MAX ? s->n - ROWS_MAX : 0;
    fprintf(p->f,
            "<details%s><summary>%s%zu saves</summary><div class=\"card wide\"><table class=\"dense\">\n",
            s->failed ? " open=\"open\"" : "", from ? "The last " : "", s->n - from);
    fputs("<tr><th>time</th><td class=\"n\">step</td><td class=\"n\">seconds</td><td class=\"n\">waited "
          "for</td>"
          "<td class=\"n\">bytes</td><td class=\"n\">bytes/s</td><td>how</td><td>state</td></tr>\n",
          p->f);
    for (size_t i = from; i < s->n; i++) {
        const save *a = &s->list[i];
        fprintf(p->f, "<tr><th>%s</th><td class=\"n\">", number_print(text, &clock, fmax(a->t - p->t0, 0)));
        fprintf(p->f, "%s</td>", isfinite(a->step) ? number_print(text, &whole, a->step) : "");
        cell(p->f, UNIT_SECONDS, a->seconds, 3);
        cell(p->f, UNIT_SECONDS, a->exposed, 3);
        cell(p->f, UNIT_PLAIN, a->bytes, 3);
        cell(p->f, UNIT_PLAIN, a->bytes / a->seconds, 3);
        fputs("<td>", p->f);
        html_string(p->f, a->mode ? a->mode : "");
        fprintf(p->f, "</td><td%s>", a->failed ? " class=\"bad\"" : "");
        html_string(p->f, a->failed ? "failed" : a->state ? a->state : "saved");
        if (a->failed && a->why) {
            fputs(": ", p->f);
            html_string(p->f, a->why);
        }
        fputs("</td></tr>\n", p->f);
    }
    fputs("</table></div></details>\n", p->f);
}

weft_status page_saves(page *p) {
    saves s = {0};
    weft_status status = collect(&p->history, &s);
    if (status >= 0 && s.n) {
        fputs("<section>\n", p->f);
        status = draw(p, &s);
        if (status >= 0) table(p, &s);
        fputs("</section>\n", p->f);
    }
    for (size_t i = 0; i < s.trees; i++) json_decref(s.tree[i]);
    free(s.tree);
    free(s.list);
    return status;
}
