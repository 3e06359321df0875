/* Text of the hub's status; see hub_report.h. */
#include "runtime/sites/hub_report.h"

#include <string.h>
#include <time.h>

enum { ROUNDS = 5, EVENTS = 8 };

static double num(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}
static const char *text(const json_t *j, const char *key) {
    const char *t = json_string_value(json_object_get(j, key));
    return t ? t : "";
}

/* "3 s", "12 min", "5 h", "9 d". */
static const char *span(double s, char out[32]) {
    if (s < 0) s = 0;
    if (s < 120)
        snprintf(out, 32, "%.0f s", s);
    else if (s < 7200)
        snprintf(out, 32, "%.0f min", s / 60);
    else if (s < 172800)
        snprintf(out, 32, "%.1f h", s / 3600);
    else
        snprintf(out, 32, "%.1f d", s / 86400);
    return out;
}

static const char *amount(double v, char out[32]) {
    static const char *const unit[] = {"", "k", "M", "G", "T"};
    int i = 0;
    while (v >= 10000 && i < 4) v /= 1000, i++;
    snprintf(out, 32, i ? "%.1f%s" : "%.0f%s", v, unit[i]);
    return out;
}

static const char *optional(const json_t *j, const char *key, const char *format, double scale,
                            char out[32]) {
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v) || json_number_value(v) == 0)
        snprintf(out, 32, "-");
    else
        snprintf(out, 32, format, json_number_value(v) * scale);
    return out;
}

static void sites(FILE *f, const json_t *status) {
    size_t i;
    const json_t *s, *all = json_object_get(status, "sites");
    if (!json_array_size(all)) {
        fprintf(f, "\nno site has joined yet (weft hub invite SITE)\n");
        return;
    }
    fprintf(f, "\n%-16s %-10s %-4s %8s %8s %8s %8s %7s %6s %6s %6s %5s %6s\n", "site", "state", "link",
            "commits", "tokens", "bytes", "steps/s", "loss", "rtt ms", "share", "busy", "joins", "leaves");
    json_array_foreach(all, i, s) {
        char a[32], b[32], c[32], d[32], e[32], g[32];
        fprintf(f, "%-16s %-10s %-4s %8.0f %8s %8s %8s %7s %6s %5.0f%% %6s %5.0f %6.0f\n", text(s, "site"),
                text(s, "state"), json_is_true(json_object_get(s, "connected")) ? "up" : "-",
                num(s, "commits"), amount(num(s, "tokens"), a), amount(num(s, "bytes"), b),
                optional(s, "steps_per_s", "%.2f", 1, c), optional(s, "loss", "%.4f", 1, d),
                optional(s, "rtt", "%.1f", 1000, e), num(s, "share") * 100,
                optional(s, "utilisation", "%.1f%%", 100, g), num(s, "joins"), num(s, "leaves"));
    }
}

static void rounds(FILE *f, const json_t *status) {
    size_t i;
    const json_t *r, *all = json_object_get(status, "rounds");
    const double now = num(status, "now");
    if (!json_array_size(all)) return;
    fprintf(f, "\nlast rounds\n");
    json_array_foreach(all, i, r) {
        char a[32], b[32], c[32];
        if (i == ROUNDS) break;
        fprintf(f, "  fragment %.0f round %.0f: %.0f site%s, %s tokens, loss %s, %s ago\n",
                num(r, "fragment"), num(r, "round"), num(r, "sites"), num(r, "sites") == 1 ? "" : "s",
                amount(num(r, "tokens"), a), optional(r, "loss", "%.4f", 1, b),
                span(now - num(r, "time"), c));
    }
}

static void events(FILE *f, const json_t *status) {
    size_t i;
    const json_t *e, *all = json_object_get(status, "events");
    if (!json_array_size(all)) return;
    fprintf(f, "\nlast events\n");
    json_array_foreach(all, i, e) {
        char when[32] = "";
        const time_t t = (time_t)num(e, "time");
        struct tm tm;
        if (i == EVENTS) break;
        if (localtime_r(&t, &tm)) strftime(when, sizeof when, "%m-%d %H:%M:%S", &tm);
        fprintf(f, "  %s  %s%s%s %s\n", when, text(e, "site"), text(e, "site")[0] ? " " : "", text(e, "what"),
                text(e, "why"));
    }
}

void hub_report_print(FILE *f, const json_t *status) {
    char a[32], b[32], c[32];
    const json_t *totals = json_object_get(status, "totals");
    fprintf(f, "run %s, hub %s, term %.0f, up %s, %.0f records\n", text(status, "hub"),
            text(status, "address"), num(status, "term"), span(num(status, "now") - num(status, "since"), a),
            num(status, "seq"));
    fprintf(
        f,
        "%zu site%s active, epoch %.0f, %.0f commits, %.0f void attempts, %s tokens, %s bytes of updates\n",
        json_array_size(json_object_get(status, "active")),
        json_array_size(json_object_get(status, "active")) == 1 ? "" : "s", num(status, "epoch"),
        num(totals, "commits"), num(totals, "aborts"), amount(num(totals, "tokens"), b),
        amount(num(totals, "bytes"), c));
    if (num(totals, "differing") > 0)
        fprintf(f, "WARNING: %.0f audits found sites with different content\n", num(totals, "differing"));
    sites(f, status);
    rounds(f, status);
    events(f, status);
}
