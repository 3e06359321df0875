/* One line of JSONL; see jsonl.h. JSON itself is jansson's: numbers, escapes, surrogates, depth. */
#include "io/dataset/jsonl.h"

#include "io/dataset/json_line.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

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

static weft_status get_text(const char *file, size_t number, json_t *o, const char *field, jsonl_text *t) {
    json_t *v = json_object_get(o, field);
    if (!v) {
        char names[256];
        member_names(o, names, sizeof names);
        int talk = json_object_get(o, "messages") || json_object_get(o, "completion");
        return weft_fail(WEFT_ERR_FORMAT, "%s:%zu: no member \"%s\"; the line has: %s%s", file, number, field,
                         names, talk ? "; conversations need a chat template (--template)" : "");
    }
    if (!json_is_string(v))
        return weft_fail(WEFT_ERR_FORMAT, "%s:%zu: member \"%s\" is not a string", file, number, field);
    t->text = json_string_value(v);
    t->n = json_string_length(v);
    return WEFT_OK;
}

static weft_status get_chat(const char *file, size_t number, json_t *o, weft_chat template, jsonl_text *t) {
    size_t cap = strlen(file) + 32;
    char *where = weft_calloc(cap, 1);
    if (!where) return WEFT_ERR_NOMEM;
    snprintf(where, cap, "%s:%zu", file, number);
    weft_status s = chat_render(where, o, template, &t->chat);
    free(where);
    return s;
}

weft_status jsonl_parse(const char *file, size_t number, const char *line, size_t n, const jsonl_form *form,
                        jsonl_text *t) {
    if (number == 1 && n >= 3 && !memcmp(line, "\xef\xbb\xbf", 3)) { /* a byte order mark */
        line += 3;
        n -= 3;
    }
    if (blank(line, n)) return WEFT_OK;
    if (!form->chat) {
        WEFT_TRY(json_line_text(line, n, form->field, &t->room, &t->cap, &t->text, &t->n, &t->found));
        if (t->found) return WEFT_OK;
    }
    json_error_t e;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!o)
        return weft_fail(WEFT_ERR_FORMAT, "%s:%zu:%d: not JSON: %s; a .jsonl file has one object a line",
                         file, number, e.column < 1 ? 1 : e.column, e.text);
    weft_status s;
    if (!json_is_object(o))
        s = weft_fail(WEFT_ERR_FORMAT, "%s:%zu: not a JSON object, but one object a line is expected", file,
                      number);
    else if (form->chat)
        s = get_chat(file, number, o, form->chat, t);
    else
        s = get_text(file, number, o, form->field, t);
    if (s < 0) {
        json_decref(o);
        return s;
    }
    t->json = o;
    t->found = 1;
    return WEFT_OK;
}

void jsonl_free(jsonl_text *t) {
    json_decref(t->json);
    t->json = NULL;
    t->found = 0;
    t->text = NULL;
    t->n = 0;
}

void jsonl_end(jsonl_text *t) {
    jsonl_free(t);
    chat_free(&t->chat);
    free(t->room);
    t->room = NULL;
    t->cap = 0;
}
