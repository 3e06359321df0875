/* The reader of metrics text; see openmetrics_read.h. */
#include "io/metrics/openmetrics_read.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A place in one line. */
typedef struct cursor {
    const char *p, *end;
} cursor;

static int name_char(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == ':';
}

static int read_name(cursor *c, char out[OM_READ_NAME]) {
    size_t n = 0;
    while (c->p + n < c->end && name_char(c->p[n])) n++;
    if (n == 0 || n >= OM_READ_NAME) return 0;
    memcpy(out, c->p, n);
    out[n] = 0;
    c->p += n;
    return 1;
}

static int accept_char(cursor *c, char want) {
    if (c->p >= c->end || *c->p != want) return 0;
    c->p++;
    return 1;
}

static int read_quoted(cursor *c, char out[OM_READ_VALUE]) {
    size_t n = 0;
    if (!accept_char(c, '"')) return 0;
    while (c->p < c->end && *c->p != '"') {
        char v = *c->p++;
        if (v == '\\') {
            if (c->p >= c->end) return 0;
            v = *c->p++;
            if (v == 'n') v = '\n';
        }
        if (n + 1 >= OM_READ_VALUE || !v) return 0;
        out[n++] = v;
    }
    out[n] = 0;
    return accept_char(c, '"');
}

static int read_labels(cursor *c, om_read_sample *s) {
    s->nlabels = 0;
    if (!accept_char(c, '{')) return 1;
    while (!accept_char(c, '}')) {
        if (s->nlabels && !accept_char(c, ',')) return 0;
        if (s->nlabels == OM_READ_LABELS) return 0;
        if (!read_name(c, s->label[s->nlabels].key) || !accept_char(c, '=') ||
            !read_quoted(c, s->label[s->nlabels].value))
            return 0;
        s->nlabels++;
    }
    return 1;
}

static int read_value(cursor *c, double *v) {
    char text[64], *end;
    size_t n = 0;
    if (!accept_char(c, ' ')) return 0;
    while (c->p + n < c->end && c->p[n] != ' ' && c->p[n] != '#') n++;
    if (n == 0 || n >= sizeof text || isspace((unsigned char)*c->p)) return 0;
    memcpy(text, c->p, n);
    text[n] = 0;
    if (!strcmp(text, "+Inf")) return *v = INFINITY, 1;
    if (strspn(text, "+-.0123456789eE") != n && strcmp(text, "NaN") && strcmp(text, "-Inf")) return 0;
    *v = strtod(text, &end);
    return !*end;
}

weft_status om_read(const char *text, size_t n, void (*take)(void *arg, const om_read_sample *s), void *arg) {
    om_read_sample s;
    size_t line = 0;
    for (const char *p = text, *end = text + n; p < end;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        cursor c = {p, newline ? newline : end};
        line++;
        p = newline ? newline + 1 : end;
        if (c.p < c.end && c.end[-1] == '\r') c.end--;
        if (c.p == c.end || *c.p == '#') continue;
        if (!read_name(&c, s.name) || !read_labels(&c, &s) || !read_value(&c, &s.value))
            return weft_fail(WEFT_ERR_FORMAT, "line %zu is no sample of OpenMetrics text", line);
        take(arg, &s);
    }
    return WEFT_OK;
}

const char *om_read_label(const om_read_sample *s, const char *key) {
    for (int i = 0; i < s->nlabels; i++)
        if (!strcmp(s->label[i].key, key)) return s->label[i].value;
    return NULL;
}
