/* One line of JSONL; see jsonl.h. JSON itself is jansson's: numbers, escapes, surrogates, depth. */
#include "io/dataset/jsonl.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static int blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r' && s[i] != '\n') return 0;
    return 1;
}

/* "a, b, c": what the line has instead. */
static void member_names(json_t *o, char *out, size_t cap) {
    const char *key;
    json_t *value;
    size_t used = 0;
    out[0] = 0;
    json_object_foreach(o, key, value) {
        int n = snprintf(out + used, cap - used, "%s%s", used ? ", " : "", key);
        if (n < 0 || (size_t)n >= cap - used) return;
        used += (size_t)n;
    }
}

weft_status jsonl_parse(const char *file, size_t number, const char *line, size_t n, const char *field,
                        jsonl_text *t) {
    memset(t, 0, sizeof *t);
    if (number == 1 && n >= 3 && !memcmp(line, "\xef\xbb\xbf", 3)) { /* a byte order mark */
        line += 3;
        n -= 3;
    }
    if (blank(line, n)) return WEFT_OK;
    json_error_t e;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!o)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%zu:%d: not JSON: %s; a .jsonl file has one object a line",
                         file, number, e.column < 1 ? 1 : e.column, e.text);
    json_t *v = json_object_get(o, field);
    weft_status s = WEFT_OK;
    if (!json_is_object(o))
        s = weft_fail(WEFT_ERR_FORMAT, "%s:%zu: not a JSON object, but one object a line is expected", file,
                      number);
    else if (!v) {
        char names[256];
        member_names(o, names, sizeof names);
        s = weft_fail(WEFT_ERR_FORMAT, "%s:%zu: no member \"%s\"; the line has: %s", file, number, field,
                      names);
    } else if (!json_is_string(v))
        s = weft_fail(WEFT_ERR_FORMAT, "%s:%zu: member \"%s\" is not a string", file, number, field);
    if (s < 0) {
        json_decref(o);
        return s;
    }
    t->text = json_string_value(v);
    t->n = json_string_length(v);
    t->json = o;
    return WEFT_OK;
}

void jsonl_free(jsonl_text *t) {
    json_decref(t->json);
    memset(t, 0, sizeof *t);
}
