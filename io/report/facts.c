/* The words of the report: head, samples, tables and configuration, from run.json and config.yaml.
 * Whatever stands in those files is shown as text; nothing of it becomes markup. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "io/report/page.h"

enum { SAMPLES_MAX = 32, SAMPLE_BYTES_MAX = 8192, TABLES_MAX = 64, ROWS_MAX = 500, CELLS_MAX = 16 };

const char *page_run_string(const page *p, const char *key) {
    return json_string_value(json_object_get(p->run, key));
}

static void head_line(page *p, const char *name, const char *key) {
    const char *s = page_run_string(p, key);
    if (!s) return;
    fprintf(p->f, "<p class=\"fact\"><span>%s</span> <code>", name);
    html_string(p->f, s);
    fputs("</code></p>\n", p->f);
}

/* Seconds since the epoch as a date, or "started" of run.json as it stands if that is text. */
static void head_date(page *p) {
    const json_t *started = json_object_get(p->run, "started");
    char when[64];
    struct tm tm;
    if (json_is_string(started)) {
        head_line(p, "started", "started");
        return;
    }
    double seconds = json_is_number(started) ? json_number_value(started) : p->t0;
    time_t t = fabs(seconds) < 1e14 ? (time_t)seconds : 0;
    if (gmtime_r(&t, &tm) && strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm))
        fprintf(p->f, "<p class=\"fact\"><span>%s</span> <code>%s</code></p>\n",
                json_is_number(started) ? "started" : "first record", when);
}

void page_head(page *p, const char *dir) {
    const char *title = page_run_string(p, "title");
    if (!title) title = dir;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          p->f);
    html_string(p->f, title);
    fprintf(p->f, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<header><h1>", report_style);
    html_string(p->f, title);
    fputs("</h1>\n", p->f);
    head_date(p);
    head_line(p, "command", "command");
    if (p->problem[0]) {
        fputs("<p class=\"missing\">", p->f);
        html_string(p->f, p->problem);
        fputs("</p>\n", p->f);
    }
    if (p->history.skipped)
        fprintf(p->f, "<p class=\"missing\">metrics.jsonl: %zu %s torn or of another format.</p>\n",
                p->history.skipped, p->history.skipped == 1 ? "line is" : "lines are");
    fputs("</header>\n", p->f);
}

/* ---- samples ---- */

void page_samples(page *p) {
    const json_t *samples = json_object_get(p->run, "samples");
    size_t n = json_array_size(samples), shown = n < SAMPLES_MAX ? n : SAMPLES_MAX;
    if (!n) return;
    fputs("<section><h2>Samples</h2>\n", p->f);
    for (size_t i = 0; i < shown; i++) {
        const json_t *s = json_array_get(samples, i);
        if (!json_is_string(s)) continue;
        size_t len = json_string_length(s), keep = len < SAMPLE_BYTES_MAX ? len : SAMPLE_BYTES_MAX;
        const char *text = json_string_value(s);
        while (keep < len && keep && ((unsigned char)text[keep] & 0xc0) == 0x80) keep--;
        fputs("<pre class=\"sample\">", p->f);
        html_text(p->f, text, keep);
        fputs("</pre>\n", p->f);
        if (keep < len)
            fprintf(p->f, "<p class=\"missing\">%zu more bytes are in run.json.</p>\n", len - keep);
    }
    if (shown < n) fprintf(p->f, "<p class=\"missing\">%zu more samples are in run.json.</p>\n", n - shown);
    fputs("</section>\n", p->f);
}

/* ---- tables ---- */

static int looks_like_number(const char *s) {
    size_t n = strspn(s, "0123456789.,_+-% ");
    return *s && n && strpbrk(s, "0123456789") && strlen(s + n) <= 8;
}

static void cell(FILE *f, const json_t *v, int first) {
    char number[64];
    const char *s = json_string_value(v);
    size_t n = json_string_length(v);
    if (json_is_number(v) || json_is_boolean(v)) {
        if (json_is_integer(v))
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        else
            snprintf(number, sizeof number, "%.6g", json_number_value(v));
        s = json_is_true(v) ? "yes" : json_is_false(v) ? "no" : number;
        n = strlen(s);
    }
    fprintf(f, "<%s%s>", first ? "th" : "td", !first && s && looks_like_number(s) ? " class=\"n\"" : "");
    if (s) html_text(f, s, n);
    fprintf(f, "</%s>", first ? "th" : "td");
}

static void one_table(FILE *f, const json_t *table) {
    const json_t *rows = json_object_get(table, "rows");
    const char *name = json_string_value(json_object_get(table, "name"));
    size_t n = json_array_size(rows), widest = 0;
    if (n == 0) return;
    if (n > ROWS_MAX) n = ROWS_MAX;
    for (size_t i = 0; i < n; i++) {
        size_t cells = json_array_size(json_array_get(rows, i));
        if (cells > widest) widest = cells < CELLS_MAX ? cells : CELLS_MAX;
    }
    fprintf(f, "<div class=\"card%s\"><h3>", widest > 3 ? " wide" : "");
    html_string(f, name ? name : "");
    fputs("</h3><table>\n", f);
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        if (!json_array_size(row)) continue;
        fputs("<tr>", f);
        for (size_t k = 0; k < widest; k++) {
            const json_t *v = json_array_get(row, k);
            if (v)
                cell(f, v, k == 0);
            else
                fputs("<td></td>", f);
        }
        fputs("</tr>\n", f);
    }
    fputs("</table></div>\n", f);
}

void page_tables(page *p) {
    const json_t *tables = json_object_get(p->run, "tables");
    size_t n = json_array_size(tables);
    if (!n) return;
    fputs("<section><h2>Facts</h2><div class=\"cards\">\n", p->f);
    for (size_t i = 0; i < n && i < TABLES_MAX; i++) one_table(p->f, json_array_get(tables, i));
    fputs("</div></section>\n", p->f);
}

void page_config(page *p) {
    if (!p->config) return;
    fputs("<section><h2>Configuration</h2><details><summary>config.yaml as resolved</summary><pre>", p->f);
    html_text(p->f, p->config, p->config_bytes);
    fputs("</pre></details></section>\n", p->f);
}
