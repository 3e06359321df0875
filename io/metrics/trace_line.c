/* Lines of a trace file; see trace_line.h. An event is moved as text: its time is replaced, the rest is kept. Names cannot
 * hold a quotation mark (weft_trace_write sees to it), so "ts": is found where it is meant. */
#include "io/metrics/trace_line.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the head ---- */

static const char end_of_head[] = "\"traceEvents\":[";

static weft_status read_clock(const json_t *list, trace_head *h) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        double v[3];
        for (size_t k = 0; k < 3; k++) {
            const json_t *number = json_array_get(m, k);
            if (!json_is_number(number))
                return weft_fail(WEFT_ERR_FORMAT, "a measurement of the clock is not [t, offset, bound]");
            v[k] = json_number_value(number);
        }
        if (!(v[0] >= 0 && v[0] < 0x1p63) || !(v[2] >= 0) || h->n == TRACE_CLOCKS_MAX ||
            (h->n && v[0] < (double)h->clock[h->n - 1].t))
            return weft_fail(WEFT_ERR_FORMAT, "measurements of the clock are out of order, or more than %d",
                             TRACE_CLOCKS_MAX);
        h->clock[h->n++] = (weft_trace_clock){(uint64_t)v[0], v[1], v[2]};
    }
    return WEFT_OK;
}

weft_status trace_head_read(const char *line, size_t n, trace_head *h) {
    char text[TRACE_HEAD_MAX + 2];
    const size_t mark = sizeof end_of_head - 1;
    memset(h, 0, sizeof *h);
    if (n < mark || n > TRACE_HEAD_MAX || memcmp(line + n - mark, end_of_head, mark) != 0)
        return weft_fail(WEFT_ERR_FORMAT, "the first line is not that of a trace of weft");
    memcpy(text, line, n);
    memcpy(text + n, "]}", 2);
    json_error_t e;
    json_t *root = json_loadb(text, n + 2, JSON_REJECT_DUPLICATES, &e);
    const json_t *other = json_object_get(root, "otherData"), *rank = json_object_get(other, "rank");
    const char *lost = json_string_value(json_object_get(other, "lost_events"));
    weft_status s = WEFT_OK;
    if (!root)
        s = weft_fail(WEFT_ERR_FORMAT, "the first line is not JSON: %.100s", e.text);
    else if (!json_is_integer(rank) || json_integer_value(rank) < 0 || json_integer_value(rank) > INT32_MAX ||
             !lost)
        s = weft_fail(WEFT_ERR_FORMAT, "the first line names no rank: written by an older weft?");
    else
        s = read_clock(json_object_get(other, "clock"), h);
    if (s >= 0 && lost) {
        h->rank = (int)json_integer_value(rank);
        h->lost = strtod(lost, NULL);
    }
    json_decref(root);
    return s;
}

/* ---- clocks ---- */

int trace_same_clock(const trace_head *h) {
    for (size_t i = 0; i < h->n; i++)
        if (fabs(h->clock[i].offset) > h->clock[i].bound) return 0;
    return 1;
}

double trace_offset(const trace_head *h, double t) {
    size_t i = 0;
    if (trace_same_clock(h)) return 0;
    while (i < h->n && (double)h->clock[i].t <= t) i++;
    if (i == 0) return h->clock[0].offset; /* beyond the ends the nearest measurement holds */
    if (i == h->n) return h->clock[h->n - 1].offset;
    const weft_trace_clock *a = &h->clock[i - 1], *b = &h->clock[i];
    if (b->t == a->t) return a->offset;
    return a->offset + (b->offset - a->offset) * (t - (double)a->t) / (double)(b->t - a->t);
}

/* ---- events ---- */

weft_status trace_line_move(const trace_head *h, const char *line, size_t n, char *out, size_t *len,
                            int *last) {
    static const char mark[] = "\"ts\":";
    const size_t marks = sizeof mark - 1;
    char number[40], *end;
    size_t digits = 0;
    *len = 0;
    *last = n == 2 && !memcmp(line, "]}", 2);
    if (*last) return WEFT_OK;
    if (n && line[n - 1] == ',') n--;
    if (n < 2 || n > TRACE_LINE_MAX || line[0] != '{' || line[n - 1] != '}' || memchr(line, 0, n))
        return weft_fail(WEFT_ERR_FORMAT, "a line is no event of weft's");
    const char *ts = memmem(line, n, mark, marks);
    if (!ts) {
        memcpy(out, line, n);
        *len = n;
        return WEFT_OK;
    }
    const char *from = ts + marks;
    const size_t rest = n - (size_t)(from - line);
    while (digits < rest && digits < sizeof number - 1 && strchr("0123456789.", from[digits])) digits++;
    memcpy(number, from, digits);
    number[digits] = 0;
    const double us = strtod(number, &end);
    const char behind = digits < rest ? from[digits] : 0;
    if (digits == 0 || *end || !(us < 1e15) || (behind != ',' && behind != '}'))
        return weft_fail(WEFT_ERR_FORMAT, "a line has a time that is no number");
    const size_t head = (size_t)(from - line), tail = rest - digits;
    memcpy(out, line, head);
    const int k = snprintf(out + head, 32 + digits, "%.3f", us - trace_offset(h, us * 1e3) * 1e-3);
    if (k < 0 || (size_t)k >= 32 + digits) return weft_fail(WEFT_ERR_FORMAT, "a time is out of range");
    memcpy(out + head + k, from + digits, tail);
    *len = head + (size_t)k + tail;
    return WEFT_OK;
}
