/* One line of metrics.jsonl; see history_line.h.
 *
 * The scanner accepts a subset of what jansson accepts and says "not mine" to the rest, so it need not be a
 * JSON parser: no escapes, no white space, ASCII only, members in the writer's order, numbers whose value one
 * exact division or multiplication gives (at most 15 digits and a power of ten up to 22, both exact in a
 * double: W. D. Clinger, "How to read floating point numbers accurately", PLDI'90). */
#include "io/metrics/history_line.h"

#include <jansson.h>
#include <string.h>

/* ---- the scanner ---- */

static int literal(const char **p, const char *end, const char *text) {
    size_t n = strlen(text);
    if ((size_t)(end - *p) < n || memcmp(*p, text, n) != 0) return 0;
    *p += n;
    return 1;
}

/* A string without escapes; its bytes without the quotes. */
static int plain_string(const char **p, const char *end, const char **s, size_t *n) {
    if (*p == end || **p != '"') return 0;
    const char *q = *s = *p + 1;
    while (q < end && *q != '"') {
        if ((unsigned char)*q < 0x20 || (unsigned char)*q > 0x7e || *q == '\\') return 0;
        q++;
    }
    if (q == end) return 0;
    *n = (size_t)(q - *s);
    *p = q + 1;
    return 1;
}

static int is_digit(const char *p, const char *end) {
    return p < end && *p >= '0' && *p <= '9';
}

static int number(const char **at, const char *end, double *r) {
    static const double power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *p = *at;
    int negative = p < end && *p == '-', digits = 0, scale = 0;
    long long v = 0;
    p += negative;
    if (!is_digit(p, end) || (*p == '0' && is_digit(p + 1, end))) return 0;
    for (; is_digit(p, end); p++, digits++) {
        if (digits == 15) return 0;
        v = 10 * v + (*p - '0');
    }
    if (p < end && *p == '.') {
        if (!is_digit(++p, end)) return 0;
        for (; is_digit(p, end); p++, digits++, scale--) {
            if (digits == 15) return 0;
            v = 10 * v + (*p - '0');
        }
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        int down = p < end && *p == '-', e = 0;
        p += p < end && (*p == '-' || *p == '+');
        if (!is_digit(p, end)) return 0;
        for (; is_digit(p, end); p++) {
            e = 10 * e + (*p - '0');
            if (e > 99) return 0;
        }
        scale += down ? -e : e;
    }
    if (scale < -22 || scale > 22) return 0;
    double d = scale < 0 ? (double)v / power[-scale] : (double)v * power[scale];
    *r = negative ? -d : d;
    *at = p;
    return 1;
}

int history_scan(const char *line, size_t n, history_line *l) {
    const char *p = line, *end = line + n, *site;
    size_t len;
    double g;
    l->n = 0;
    l->tree = NULL;
    l->kind = HISTORY_BROKEN;
    if (!literal(&p, end, "{\"v\":1,\"t\":") || !number(&p, end, &l->t) || !literal(&p, end, ",\"site\":") ||
        !plain_string(&p, end, &site, &len) || !literal(&p, end, ",\"step\":") ||
        !number(&p, end, &l->step) || !literal(&p, end, ",\"g\":") || !number(&p, end, &g) ||
        !literal(&p, end, ",\"tokens\":") || !number(&p, end, &l->tokens) || !literal(&p, end, ",\"k\":{"))
        return 0;
    while (p < end && *p == '"') {
        history_member *m = &l->member[l->n];
        if (l->n == HISTORY_MEMBERS_MAX || !plain_string(&p, end, &m->name, &m->len) ||
            !literal(&p, end, ":") || !number(&p, end, &m->value))
            return 0;
        l->n++;
        if (!literal(&p, end, ",")) break;
        if (p == end || *p != '"') return 0;
    }
    if (!literal(&p, end, "}}") || p != end) return 0;
    l->kind = HISTORY_RECORD;
    return 1;
}

/* ---- jansson ---- */

static int number_of(const json_t *object, const char *key, double *r) {
    const json_t *j = json_object_get(object, key);
    if (!json_is_number(j)) return 0;
    *r = json_number_value(j);
    return 1;
}

static void read_record(json_t *root, history_line *l) {
    const char *name;
    json_t *value, *k = json_object_get(root, "k");
    if (!number_of(root, "step", &l->step) || !number_of(root, "tokens", &l->tokens) || !json_is_object(k))
        return;
    l->kind = HISTORY_RECORD;
    json_object_foreach(k, name, value) {
        if (!json_is_number(value)) continue;
        if (l->n == HISTORY_MEMBERS_MAX) break;
        l->member[l->n++] = (history_member){name, strlen(name), json_number_value(value)};
    }
}

/* As much of s as fits, cut between characters. */
static void copy_name(char *to, size_t cap, const char *s) {
    size_t n = strlen(s);
    if (n >= cap)
        for (n = cap - 1; n && ((unsigned char)s[n] & 0xc0) == 0x80; n--) {
        }
    memset(to, 0, cap);
    memcpy(to, s, n);
}

weft_status history_parse(const char *line, size_t n, history_line *l) {
    double version;
    json_error_t e;
    l->n = 0;
    l->kind = HISTORY_BROKEN;
    json_t *root = l->tree = json_loadb(line, n, 0, &e);
    if (!root && json_error_code(&e) == json_error_out_of_memory)
        return weft_fail(WEFT_ERR_NOMEM, "out of memory in JSON");
    if (!number_of(root, "v", &version) || version != 1 || !number_of(root, "t", &l->t)) return WEFT_OK;
    const json_t *event = json_object_get(root, "ev");
    if (json_is_string(event)) {
        l->kind = HISTORY_EVENT;
        copy_name(l->event, sizeof l->event, json_string_value(event));
    } else if (json_object_get(root, "k")) {
        read_record(root, l);
    } else {
        l->kind = HISTORY_OTHER; /* a record of a kind that this version does not know */
    }
    return WEFT_OK;
}

void history_line_free(history_line *l) {
    json_decref(l->tree);
    l->tree = NULL;
}
