/* Reports as JSON, and the class of a node: the medians of reports of several nodes.
 *
 * A report is one object; a reference is any number of them, one behind the other. What compares is named by its check
 * and its subject; folders (disk, write) compare whatever they are called. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "runtime/health/health.h"

#define REPORTS      4096
#define LATENCY_MOST 2.0 /* small messages are noisy: degraded above this many times the median */

static const char *const verdicts[] = {"ok", "degraded", "fail"};

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *text(const char *s) {
    json_t *j = json_string(s);
    return j ? j : json_string("?"); /* no UTF-8 */
}

char *weft_health_json(const weft_health_report *r) {
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < r->n; i++) {
        const weft_health_finding *f = &r->finding[i];
        const char *check = weft_health_check_name(f->check);
        json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:o, s:o, s:s, s:i, s:o}", "check",
                                              check ? check : "?", "subject", text(f->subject), "verdict",
                                              verdicts[f->verdict], "value", number(f->value), "bound",
                                              number(f->bound), "unit", f->unit, "better", f->better, "text",
                                              text(f->text)));
    }
    json_t *j =
        json_pack("{s:i, s:o, s:s, s:f, s:i, s:o}", "v", 1, "node", text(r->node), "verdict",
                  verdicts[r->worst], "seconds", r->seconds, "left_out", (int)r->left_out, "findings", list);
    char *out = j ? json_dumps(j, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    if (!out) (void)weft_fail(WEFT_ERR_NOMEM, "no memory for the report");
    return out;
}

/* --- the class --------------------------------------------------------------------------------------------------- */

typedef struct entry {
    uint32_t check;
    int better;
    double value;
    char subject[64];
} entry;

struct health_reference {
    entry *entry;
    size_t n, room;
};

static weft_status keep(health_reference *ref, const json_t *finding) {
    const char *check = NULL, *subject = NULL, *unit = NULL;
    double value = 0;
    int better = 0;
    if (json_unpack((json_t *)finding, "{s:s, s:s, s:F, s:i, s:s}", "check", &check, "subject", &subject,
                    "value", &value, "better", &better, "unit", &unit))
        return WEFT_OK; /* no number: nothing to compare */
    const uint32_t bit = weft_health_check_of(check);
    if (!bit || !better || strlen(subject) >= sizeof ref->entry->subject || !isfinite(value)) return WEFT_OK;
    if (ref->n == ref->room) {
        const size_t room = ref->room ? 2 * ref->room : 64;
        entry *more = weft_reallocarray(ref->entry, room, sizeof *more);
        if (!more) return WEFT_ERR_NOMEM;
        ref->entry = more;
        ref->room = room;
    }
    entry *e = &ref->entry[ref->n++];
    *e = (entry){.check = bit, .better = better, .value = value};
    snprintf(e->subject, sizeof e->subject, "%s", subject);
    return WEFT_OK;
}

weft_status health_reference_read(const char *s, health_reference **out) {
    health_reference *ref = weft_calloc(1, sizeof *ref);
    weft_status st = ref ? WEFT_OK : WEFT_ERR_NOMEM;
    int reports = 0;
    *out = NULL;
    const char *end = s + strlen(s);
    while (st >= 0) {
        json_error_t e;
        while (s < end && strchr(" \t\r\n", *s)) s++;
        if (s == end) break;
        json_t *j = json_loadb(s, (size_t)(end - s), JSON_DISABLE_EOF_CHECK, &e), *f;
        const json_t *list = json_object_get(j, "findings");
        size_t i;
        if (!j)
            st = weft_fail(WEFT_ERR_FORMAT, "report %d is not JSON: %s", reports + 1, e.text);
        else if (!json_is_array(list))
            st = weft_fail(WEFT_ERR_FORMAT,
                           "report %d has no list 'findings': make it with weft health --full --json",
                           reports + 1);
        else if (++reports > REPORTS)
            st = weft_fail(WEFT_ERR_FORMAT, "more than %d reports", REPORTS);
        else
            json_array_foreach(list, i, f) if (st >= 0) st = keep(ref, f);
        if (j) s += e.position;
        json_decref(j);
    }
    if (st >= 0 && !reports)
        st = weft_fail(WEFT_ERR_FORMAT, "no report in it: make it with weft health --full --json");
    if (st < 0)
        health_reference_free(ref);
    else
        *out = ref;
    return st;
}

void health_reference_free(health_reference *ref) {
    if (ref) free(ref->entry);
    free(ref);
}

static int by_value(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int is_same(const entry *e, uint32_t check, const char *subject) {
    if (e->check != check) return 0;
    return check == WEFT_CHECK_WRITE || !strcmp(e->subject, subject);
}

double health_reference_median(const health_reference *ref, uint32_t check, const char *subject,
                               size_t *nodes) {
    size_t n = 0;
    double median = NAN;
    double *v = weft_calloc(ref->n ? ref->n : 1, sizeof *v);
    for (size_t i = 0; v && i < ref->n; i++)
        if (is_same(&ref->entry[i], check, subject)) v[n++] = ref->entry[i].value;
    if (n) {
        qsort(v, n, sizeof *v, by_value);
        median = n % 2 ? v[n / 2] : 0.5 * v[n / 2 - 1] + 0.5 * v[n / 2];
    }
    free(v);
    *nodes = n;
    return median;
}

static void hold(health_run *h, weft_health_finding *f) {
    size_t nodes;
    const double median = health_reference_median(h->reference, f->check, f->subject, &nodes);
    if (!nodes || !(median > 0)) return;
    const double bound = f->better > 0 ? HEALTH_SHARE * median : LATENCY_MOST * median;
    const int bad = f->better > 0 ? !(f->value >= bound) : !(f->value <= bound);
    const size_t used = strlen(f->text);
    f->bound = bound;
    if (bad) {
        f->verdict = f->better > 0 ? WEFT_HEALTH_FAIL : WEFT_HEALTH_DEGRADED;
        if (f->verdict > h->r->worst) h->r->worst = f->verdict;
    }
    char more[128];
    snprintf(more, sizeof more, "; %.0f %% of the class's median %.4g %.8s (%zu nodes; %s %.0f %% expected)",
             100 * f->value / median, median, f->unit, nodes, f->better > 0 ? "at least" : "at most",
             f->better > 0 ? 100 * HEALTH_SHARE : 100 * LATENCY_MOST);
    snprintf(f->text + used, sizeof f->text - used, "%s", more);
}

void health_reference_compare(health_run *h) {
    const uint32_t n = h->r->n;
    for (uint32_t i = 0; i < n; i++)
        if (h->r->finding[i].better && isfinite(h->r->finding[i].value)) hold(h, &h->r->finding[i]);
}
