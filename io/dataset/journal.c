/* Identity and state of a preparation as JSON, both ways. The state is read from a disk that may have lost anything, so
 * every number is checked; what it says of the spools is checked by their digests (spool.c). */
#include "io/dataset/journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define MAX_COUNT ((json_int_t)1 << 60)

static int put(json_t *o, const char *key, json_t *value) {
    return o && json_object_set_new(o, key, value) == 0;
}

static json_t *hex(uint64_t v) {
    char s[17];
    snprintf(s, sizeof s, "%016" PRIx64, v);
    return json_string(s);
}

static json_t *number(uint64_t v) {
    return json_integer((json_int_t)v);
}

/* A path may be any bytes, JSON may not: everything but printable ASCII as %XX. */
static json_t *path_text(const char *path) {
    size_t n = strlen(path);
    char *s = weft_calloc(n + 1, 3), *q = s;
    if (!s) return NULL;
    for (const unsigned char *p = (const unsigned char *)path; *p; p++)
        if (*p > ' ' && *p < 0x7f && *p != '%')
            *q++ = (char)*p;
        else
            q += sprintf(q, "%%%02X", *p);
    json_t *j = json_string(s);
    free(s);
    return j;
}

static json_t *inputs_json(const text_inputs *t) {
    json_t *a = json_array();
    for (size_t i = 0; a && i < t->n; i++) {
        json_t *e = json_array();
        int ok = e && json_array_append_new(e, path_text(t->item[i].path)) == 0 &&
                 json_array_append_new(e, number(t->item[i].bytes)) == 0 &&
                 json_array_append_new(e, json_integer(t->item[i].mtime_ns)) == 0 &&
                 json_array_append(a, e) == 0;
        json_decref(e);
        if (!ok) {
            json_decref(a);
            a = NULL;
        }
    }
    return a;
}

static json_t *tokenizer_json(const weft_tok *tok, const weft_prepare_opts *o) {
    if (tok) return hex(weft_tok_fingerprint(tok));
    const weft_tok_opts *w = o->train;
    json_t *special = json_array(), *j = json_object();
    for (size_t i = 0; special && i < w->nspecial; i++)
        json_array_append_new(special, path_text(w->specials[i]));
    int ok = put(j, "vocab", number(w->vocab)) && put(j, "min_frequency", number(w->min_frequency)) &&
             put(j, "split", number(w->split)) && put(j, "specials", special) &&
             put(j, "text", number(o->train_bytes));
    if (ok) return j;
    json_decref(j);
    return NULL;
}

weft_status journal_identity(const weft_text *t, const weft_tok *tok, const weft_prepare_opts *o,
                             char **json) {
    json_t *j = json_object();
    int ok = put(j, "format", json_string("weft-prepare")) && put(j, "version", json_integer(1)) &&
             put(j, "holdout", json_real(o->holdout)) && put(j, "field", path_text(t->field)) &&
             put(j, "template", number((uint64_t)t->form.chat)) &&
             put(j, "source", path_text(o->source ? o->source : "")) &&
             put(j, "licence", path_text(o->licence ? o->licence : "")) &&
             put(j, "site", path_text(o->site ? o->site : "")) &&
             put(j, "shard_tokens", number(o->shard_tokens)) &&
             put(j, "block_bytes", number(o->block_bytes)) && put(j, "tokenizer", tokenizer_json(tok, o)) &&
             put(j, "inputs", inputs_json(&t->inputs));
    *json = ok ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return *json ? WEFT_OK : weft_fail(WEFT_ERR_NOMEM, "out of memory: the identity of the preparation");
}

static weft_status compare_inputs(const json_t *a, const json_t *b) {
    size_t n = json_array_size(a), m = json_array_size(b);
    for (size_t i = 0; i < n && i < m; i++) {
        const json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        const char *was = json_string_value(json_array_get(x, 0)),
                   *is = json_string_value(json_array_get(y, 0));
        if (json_equal(x, y)) continue;
        if (was && is && !strcmp(was, is)) return weft_fail(WEFT_ERR_ARG, "%s has changed since", is);
        return weft_fail(WEFT_ERR_ARG, "text file %zu was %s, now it is %s", i + 1, was ? was : "?",
                         is ? is : "?");
    }
    return weft_fail(WEFT_ERR_ARG, "it was of %zu text files, now there are %zu", n, m);
}

weft_status journal_compare(const char *saved, const char *now) {
    json_error_t e;
    json_t *a = json_loads(saved, JSON_REJECT_DUPLICATES, &e), *b = json_loads(now, 0, &e), *v;
    weft_status s = WEFT_OK;
    if (!a || !b || !json_equal(json_object_get(a, "format"), json_object_get(b, "format")))
        s = weft_fail(WEFT_ERR_FORMAT, "its identity.json is damaged");
    const char *key;
    if (s == WEFT_OK) json_object_foreach(b, key, v) {
            const json_t *u = json_object_get(a, key);
            if (s < 0 || json_equal(u, v)) continue;
            if (!strcmp(key, "inputs")) {
                s = compare_inputs(u, v);
                continue;
            }
            char *was = u ? json_dumps(u, JSON_ENCODE_ANY | JSON_COMPACT) : NULL,
                 *is = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
            s = weft_fail(WEFT_ERR_ARG, "%s was %s, now it is %s", key, was ? was : "not given",
                          is ? is : "?");
            free(was);
            free(is);
        }
    json_decref(a);
    json_decref(b);
    return s;
}

/* --- the state ------------------------------------------------------------------------------------------------- */

static json_t *place_json(const shard_place *p, int digests) {
    json_t *j = json_object(), *a = json_array();
    int ok = put(j, "tokens", number(p->tokens)) && put(j, "docs", number(p->docs)) &&
             put(j, "source_bytes", number(p->source_bytes)) && put(j, "targets", number(p->targets)) && a;
    for (int i = 0; ok && i < SHARD_SPOOLS; i++) {
        char text[33];
        for (int k = 0; k < 16; k++) snprintf(text + 2 * k, 3, "%02x", p->digest[i][k]);
        ok = json_array_append_new(a, json_string(text)) == 0;
    }
    ok = ok && (!digests || json_object_set(j, "digests", a) == 0);
    json_decref(a);
    if (ok) return j;
    json_decref(j);
    return NULL;
}

static json_t *side_json(const journal_side *s) {
    json_t *j = json_object();
    if (put(j, "shard", number(s->shard)) && put(j, "before", place_json(&s->before, 0)) &&
        put(j, "open", place_json(&s->open, 1)))
        return j;
    json_decref(j);
    return NULL;
}

weft_status journal_format(const journal_state *s, char **json) {
    json_t *j = json_object();
    int ok = put(j, "format", json_string("weft-prepare-state")) && put(j, "version", json_integer(1)) &&
             put(j, "tokenizer", hex(s->tokenizer)) && put(j, "input", number(s->input)) &&
             put(j, "at", number(s->at)) && put(j, "line", number(s->line)) &&
             put(j, "text_bytes", number(s->text_bytes)) && put(j, "skipped", number(s->skipped)) &&
             put(j, "done", number((uint64_t)s->done)) && put(j, "train", side_json(&s->side[0])) &&
             put(j, "valid", side_json(&s->side[1]));
    *json = ok ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return *json ? WEFT_OK : weft_fail(WEFT_ERR_NOMEM, "out of memory: the state of the preparation");
}

static int get(const json_t *o, const char *key, uint64_t *v) {
    const json_t *j = json_object_get(o, key);
    json_int_t i = json_integer_value(j);
    *v = (uint64_t)i;
    return json_is_integer(j) && i >= 0 && i <= MAX_COUNT;
}

static int get_digest(const json_t *j, uint8_t digest[16]) {
    const char *s = json_string_value(j);
    if (!s || strlen(s) != 32 || strspn(s, "0123456789abcdef") != 32) return 0;
    for (int k = 0; k < 16; k++) {
        char two[3] = {s[2 * k], s[2 * k + 1], 0};
        digest[k] = (uint8_t)strtoul(two, NULL, 16);
    }
    return 1;
}

static int get_place(const json_t *o, int digests, shard_place *p) {
    if (!get(o, "tokens", &p->tokens) || !get(o, "docs", &p->docs) ||
        !get(o, "source_bytes", &p->source_bytes) || !get(o, "targets", &p->targets) ||
        p->tokens > SHARD_MAX_TOKENS || p->targets > p->tokens)
        return 0;
    for (size_t i = 0; digests && i < SHARD_SPOOLS; i++)
        if (!get_digest(json_array_get(json_object_get(o, "digests"), i), p->digest[i])) return 0;
    return 1;
}

static int get_side(const json_t *o, journal_side *s) {
    return get(o, "shard", &s->shard) && s->shard <= JOURNAL_MAX_SHARDS &&
           get_place(json_object_get(o, "before"), 0, &s->before) &&
           get_place(json_object_get(o, "open"), 1, &s->open);
}

weft_status journal_parse(const char *json, size_t n, journal_state *s) {
    json_error_t e;
    uint64_t version = 0, done = 0;
    *s = (journal_state){0};
    json_t *j = json_loadb(json, n, JSON_REJECT_DUPLICATES, &e);
    const char *format = json_string_value(json_object_get(j, "format")),
               *tokenizer = json_string_value(json_object_get(j, "tokenizer"));
    int ok = format && !strcmp(format, "weft-prepare-state") && get(j, "version", &version) && version == 1 &&
             tokenizer && strlen(tokenizer) == 16 && strspn(tokenizer, "0123456789abcdef") == 16 &&
             get(j, "input", &s->input) && get(j, "at", &s->at) && get(j, "line", &s->line) &&
             get(j, "text_bytes", &s->text_bytes) && get(j, "skipped", &s->skipped) &&
             get(j, "done", &done) && done <= 1 && get_side(json_object_get(j, "train"), &s->side[0]) &&
             get_side(json_object_get(j, "valid"), &s->side[1]);
    if (ok) s->tokenizer = strtoull(tokenizer, NULL, 16);
    s->done = (int)done;
    json_decref(j);
    return ok ? WEFT_OK : weft_fail(WEFT_ERR_FORMAT, "the state of the preparation is damaged");
}
