/* report.html: reads what the run left behind, writes the page into memory, then the file as a whole.
 * The page is well-formed XML as well as HTML, so that a strict parser can check it. */
#include "io/report/report.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/report/page.h"

enum { RUN_BYTES_MAX = 16 << 20, CONFIG_BYTES_MAX = 1 << 20 };

/* ---- reading ---- */

static void add_problem(page *p, const char *what) {
    size_t n = strlen(p->problem);
    snprintf(p->problem + n, sizeof p->problem - n, "%s%.200s.", n ? " " : "", what);
}

/* A file that is missing is no problem; one that cannot be read is told on the page. */
static weft_status read_optional(page *p, const char *dir, const char *name, size_t max, char **data,
                                 size_t *n) {
    char *path = weft_path_join(dir, name);
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_file_read(path, max, data, n);
    if (s < 0 && s != WEFT_ERR_NOTFOUND) add_problem(p, weft_last_error());
    free(path);
    return s == WEFT_ERR_NOMEM ? s : WEFT_OK;
}

static weft_status read_run(page *p, const char *dir) {
    char *text = NULL, what[200];
    size_t n = 0;
    json_error_t e;
    WEFT_TRY(read_optional(p, dir, "run.json", RUN_BYTES_MAX, &text, &n));
    if (!text) return WEFT_OK;
    p->run = json_loadb(text, n, JSON_ALLOW_NUL, &e);
    free(text);
    if (!p->run) {
        snprintf(what, sizeof what, "run.json is not JSON: line %d, column %d: %.100s", e.line, e.column,
                 e.text);
        add_problem(p, what);
    } else if (!json_is_object(p->run)) {
        add_problem(p, "run.json is not a JSON object");
    }
    return WEFT_OK;
}

static weft_status read_history(page *p, const char *dir) {
    char *path = weft_path_join(dir, "metrics.jsonl");
    if (!path) return WEFT_ERR_NOMEM;
    weft_status s = weft_history_read(path, &p->history);
    if (s == WEFT_OK && !p->history.nseries && !p->history.nevents)
        s = weft_fail(WEFT_ERR_NOTFOUND, "%s holds no records yet", path);
    free(path);
    return s;
}

static void widen(double range[2], const double *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (v[i] < range[0]) range[0] = v[i];
        if (v[i] > range[1]) range[1] = v[i];
    }
}

/* The range that the pictures share: from zero unless the run began late, to the last record. */
static void find_ranges(page *p) {
    const weft_history *h = &p->history;
    double tokens[2] = {INFINITY, 0}, step[2] = {INFINITY, 0}, t[2] = {INFINITY, -INFINITY};
    int shared_seen = 0;
    for (size_t i = 0; i < h->nseries; i++) {
        const weft_series *s = &h->series[i];
        if (s->t == h->t && shared_seen++) continue; /* in every record, like one before */
        widen(tokens, s->tokens, s->n);
        widen(step, s->step, s->n);
        widen(t, s->t, s->n);
    }
    for (size_t i = 0; i < h->nevents; i++) widen(t, &h->event[i].t, 1);
    const double *range = tokens[1] > 0 ? tokens : step;
    double lo = range[0] > range[1] / 4 && isfinite(range[0]) ? range[0] : 0;
    p->axis = tokens[1] > 0 ? AXIS_TOKENS : AXIS_STEP;
    p->x = (chart_x){lo, range[1] > lo ? range[1] : lo + 1, p->axis == AXIS_TOKENS ? "tokens" : "steps"};
    p->t0 = t[0];
    p->t1 = t[1];
}

/* ---- writing ---- */

static weft_status write_body(FILE *f, void *arg) {
    page *p = arg;
    p->f = f;
    page_head(p, p->dir);
    fputs("<main>\n", p->f);
    WEFT_TRY(page_figures(p));
    WEFT_TRY(page_pictures(p));
    WEFT_TRY(page_sites(p));
    WEFT_TRY(page_saves(p));
    WEFT_TRY(page_events(p));
    page_engine(p);
    page_samples(p);
    page_tables(p);
    WEFT_TRY(page_other_metrics(p));
    page_config(p);
    fputs("</main>\n<footer>Lines are means of at most 320 equal intervals; the pale band spans the smallest "
          "and the "
          "largest value of each. Where a run went back to a checkpoint, the later values are shown. All "
          "values are "
          "in metrics.jsonl.</footer>\n</body>\n</html>\n",
          p->f);
    return WEFT_OK;
}

weft_status page_write(const char *out, weft_status (*body)(FILE *f, void *arg), void *arg) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = NULL;
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0 || !(f = open_memstream(&text, &n))) {
        if (plain != (locale_t)0) freelocale(plain);
        return weft_fail(WEFT_ERR_NOMEM, "out of memory while writing the report");
    }
    locale_t before = uselocale(plain);
    weft_status s = body(f, arg);
    uselocale(before);
    freelocale(plain);
    int failed = ferror(f);
    if (fclose(f) != 0) failed = 1;
    if (s == WEFT_OK && failed) s = weft_fail(WEFT_ERR_NOMEM, "out of memory while writing the report");
    if (s == WEFT_OK) s = weft_file_write(out, text, n);
    free(text);
    return s;
}

weft_status weft_report_write(const char *dir, const char *out) {
    page p;
    memset(&p, 0, sizeof p);
    p.dir = dir;
    weft_status s = read_history(&p, dir);
    if (s == WEFT_OK) s = read_run(&p, dir);
    if (s == WEFT_OK) s = read_optional(&p, dir, "config.yaml", CONFIG_BYTES_MAX, &p.config, &p.config_bytes);
    if (s == WEFT_OK) {
        find_ranges(&p);
        s = page_write(out, write_body, &p);
    }
    weft_history_free(&p.history);
    json_decref(p.run);
    free(p.config);
    return s < 0 ? weft_context(s, "the report of %s", dir) : s;
}
