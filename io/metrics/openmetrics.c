/* The renderer; see openmetrics.h. Formats: OpenMetrics 1.0.0 (prometheus/OpenMetrics, specification/OpenMetrics.md) and
 * Prometheus' "Text-based format" 0.0.4. They differ in what TYPE names: the family (OpenMetrics), or the very name of
 * the samples (classic), in the UNIT line, the end mark and the quoting of HELP. */
#include "io/metrics/openmetrics.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char eof_line[] = "# EOF\n";
enum { EOF_BYTES = sizeof eof_line - 1, NUMBER_BYTES = 32 };

void om_begin(om_text *o, char *buf, size_t room, om_format format) {
    memset(o, 0, sizeof *o);
    o->buf = buf;
    o->room = room > EOF_BYTES ? room - EOF_BYTES : 0; /* the end always fits */
    o->format = format;
}

/* ---- pieces of a line ---- */

static void put(om_text *o, const char *s, size_t n) {
    if (o->full || n > o->room - o->n) {
        o->full = 1;
        return;
    }
    memcpy(o->buf + o->n, s, n);
    o->n += n;
}

static void puts_(om_text *o, const char *s) {
    put(o, s, strlen(s));
}

static void put_quoted(om_text *o, const char *s, int quotes) {
    for (;;) {
        size_t n = strcspn(s, quotes ? "\\\n\"" : "\\\n");
        put(o, s, n);
        s += n;
        if (!*s) return;
        put(o, *s == '\n' ? "\\n" : *s == '"' ? "\\\"" : "\\\\", 2);
        s++;
    }
}

static size_t digits_of(char *at, uint64_t v) {
    char text[24];
    size_t n = sizeof text;
    do text[--n] = (char)('0' + v % 10);
    while (v /= 10);
    memcpy(at, text + n, sizeof text - n);
    return sizeof text - n;
}

static void put_number(om_text *o, double v) {
    char text[NUMBER_BYTES];
    size_t n = 0;
    if (isnan(v)) {
        puts_(o, "NaN");
    } else if (isinf(v)) {
        puts_(o, v > 0 ? "+Inf" : "-Inf");
    } else if (v == trunc(v) && fabs(v) < 0x1p53) {
        if (v < 0) text[n++] = '-';
        n += digits_of(text + n, (uint64_t)fabs(v));
        put(o, text, n);
    } else {
        put(o, text, (size_t)snprintf(text, sizeof text, "%.12g", v));
    }
}

/* ---- lines ---- */

/* "# WORD name text" */
static void comment(om_text *o, const char *word, const char *name, const char *text, int quotes) {
    puts_(o, "# ");
    puts_(o, word);
    puts_(o, " ");
    puts_(o, name);
    puts_(o, " ");
    put_quoted(o, text, quotes);
    puts_(o, "\n");
}

void om_family(om_text *o, om_kind kind, const char *name, const char *unit, const char *help) {
    static const char *const suffix[] = {"", "_total", "_info"};
    static const char *const type[][3] = {{"gauge", "counter", "info"}, {"gauge", "counter", "gauge"}};
    const size_t before = o->n;
    char family[OM_NAME_MAX];
    const size_t length = strlen(name), tail = unit ? strlen(unit) : 0;
    const int told =
        length > tail && name[length - tail - 1] == '_' && !strcmp(name + length - tail, unit ? unit : "");
    int n =
        snprintf(family, sizeof family, "%s%s%s", name, unit && !told ? "_" : "", unit && !told ? unit : "");
    if (n < 0 || (size_t)n + strlen(suffix[kind]) >= sizeof o->name) {
        o->full = 1;
        return;
    }
    strcpy(stpcpy(o->name, family), suffix[kind]);
    const char *said = o->format == OM_CLASSIC ? o->name : family;
    comment(o, "TYPE", said, type[o->format == OM_CLASSIC][kind], 0);
    if (unit && o->format == OM_OPENMETRICS) comment(o, "UNIT", said, unit, 0);
    comment(o, "HELP", said, help, o->format == OM_OPENMETRICS);
    if (o->full) o->n = before;
}

void om_sample(om_text *o, const om_label *label, int nlabels, double v) {
    const size_t before = o->n;
    puts_(o, o->name);
    for (int i = 0; i < nlabels; i++) {
        put(o, i ? "," : "{", 1);
        puts_(o, label[i].key);
        put(o, "=\"", 2);
        put_quoted(o, label[i].value, 1);
        put(o, "\"", 1);
    }
    puts_(o, nlabels ? "} " : " ");
    put_number(o, v);
    put(o, "\n", 1);
    if (o->full) o->n = before;
}

weft_status om_end(om_text *o) {
    if (o->format == OM_OPENMETRICS && o->room) {
        memcpy(o->buf + o->n, eof_line, EOF_BYTES);
        o->n += EOF_BYTES;
    }
    return o->full ? weft_fail(WEFT_ERR_SPACE, "metrics text: more than %zu bytes", o->room) : WEFT_OK;
}

const char *om_content_type(om_format format) {
    return format == OM_OPENMETRICS ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                    : "text/plain; version=0.0.4; charset=utf-8";
}
