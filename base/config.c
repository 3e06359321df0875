/* Reading the configuration: a walk over libfyaml's events, then the sets, then what is missing.
 *
 * The walk keeps the dotted path of where it is and looks every name up in the caller's table, so no document
 * tree exists and nothing in the file can grow: anchors, aliases and tags are refused where they stand (no
 * expansion, no merge keys), nesting, names, lists and the file are bounded. Text is checked to be UTF-8
 * without control characters before libfyaml sees it. libfyaml prints nothing: its first diagnostic becomes
 * the status text. */
#include "base/config.h"

#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/file.h"
#include "base/mem.h"

enum { FILE_MAX = 1 << 20, DEPTH_MAX = 8, PLACE_MAX = 320 };

typedef struct reader {
    weft_config *c;
    const char *name; /* of the file, or of the set whose value is being read */
    int is_file;      /* places are name:line:column, and line numbers are remembered */
    struct fy_diag *diag;
    struct fy_parser *parser;
    struct fy_event *event; /* the current one, owned; NULL at the end */
    int line, column;       /* where it begins, from 1 */
    char path[CONFIG_NAME_MAX];
} reader;

void *config_alloc(weft_config *c, size_t n) {
    config_block *b = weft_calloc(1, sizeof *b + (n ? n : 1));
    if (!b) return NULL;
    b->next = c->blocks;
    c->blocks = b;
    return b->data;
}

/* ---- places and messages ---- */

static void place_of(const reader *r, char place[PLACE_MAX]) {
    if (r->is_file)
        snprintf(place, PLACE_MAX, "%.250s:%d:%d", r->name, r->line, r->column);
    else
        snprintf(place, PLACE_MAX, "%.300s", r->name);
}

static weft_status fail_here(const reader *r, const char *what) {
    char place[PLACE_MAX];
    place_of(r, place);
    return weft_fail(WEFT_ERR_CONFIG, "%s: %s", place, what);
}

/* libfyaml's first complaint, on one line. */
static weft_status fail_yaml(reader *r) {
    void *cursor = NULL;
    struct fy_diag_error *e = fy_diag_errors_iterate(r->diag, &cursor);
    if (!e) return fail_here(r, "not YAML");
    char what[256];
    size_t n = 0;
    for (const char *p = e->msg; p && *p && *p != '\n' && n + 1 < sizeof what; p++) what[n++] = *p;
    what[n] = 0;
    r->line = e->line + 1;
    r->column = e->column + 1;
    char text[320];
    snprintf(text, sizeof text, "not YAML: %s", what);
    return fail_here(r, text);
}

/* UTF-8 without control characters; on an error the place of the first bad byte is in r. */
static weft_status check_text(reader *r, const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    r->line = r->column = 1;
    while (p < end) {
        uint32_t u = *p, more = u < 0x80 ? 0 : u >= 0xf0 ? 3 : u >= 0xe0 ? 2 : 1;
        static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
        if ((u >= 0x80 && u < 0xc0) || u >= 0xf8 || (size_t)(end - p) <= more)
            return fail_here(r, "not UTF-8");
        if (more) u &= 0x3fu >> more;
        for (uint32_t i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80) return fail_here(r, "not UTF-8");
            u = u << 6 | (p[i] & 0x3fu);
        }
        if (u < smallest[more] || u > 0x10ffff || (u >= 0xd800 && u < 0xe000))
            return fail_here(r, "not UTF-8");
        if ((u < 0x20 && u != '\t' && u != '\n' && u != '\r') || (u >= 0x7f && u < 0xa0) ||
            (u & 0xfffe) == 0xfffe)
            return fail_here(r, "a control character; write it as an escape in double quotes");
        r->column++;
        if (u == '\n') r->line++, r->column = 1;
        p += more + 1;
    }
    return WEFT_OK;
}

/* ---- events ---- */

static enum fy_scalar_style style_of(const struct fy_event *e) {
    if (e->type != FYET_SCALAR || !e->scalar.value) return FYSS_PLAIN;
    return fy_scalar_token_get_style(e->scalar.value);
}

/* libfyaml's tokens of quoted strings and aliases begin behind the quote and the star. */
static int is_behind_mark(const struct fy_event *e) {
    return e->type == FYET_ALIAS || style_of(e) == FYSS_SINGLE_QUOTED || style_of(e) == FYSS_DOUBLE_QUOTED;
}

/* Moves to the next event. Refuses what a run file has no use for. */
static weft_status next(reader *r) {
    if (r->event) fy_parser_event_free(r->parser, r->event);
    r->event = fy_parser_parse(r->parser);
    if (fy_diag_got_error(r->diag)) return fail_yaml(r);
    if (!r->event) return WEFT_OK;
    const struct fy_mark *m = fy_event_start_mark(r->event);
    if (m) r->line = m->line + 1, r->column = m->column + 1 - is_behind_mark(r->event);
    if (r->event->type == FYET_ALIAS || fy_event_get_anchor_token(r->event))
        return fail_here(r, "anchors and aliases are not read here; write the value out");
    if (fy_event_get_tag_token(r->event))
        return fail_here(r, "tags are not read here; the key decides the type");
    /* libfyaml 0.7.12 reads memory that it has not set where such a block is nothing but spaces. */
    if (style_of(r->event) == FYSS_LITERAL || style_of(r->event) == FYSS_FOLDED)
        return fail_here(r, "blocks of text (| and >) are not read here; write a quoted string");
    return WEFT_OK;
}

static enum fy_event_type type_of(const reader *r) {
    return r->event ? r->event->type : FYET_NONE;
}

/* The current scalar as a string that lives as long as the config. */
static weft_status scalar(reader *r, config_scalar *v) {
    struct fy_token *t = fy_event_get_token(r->event);
    size_t n = 0;
    const char *s = t ? fy_token_get_text(t, &n) : NULL;
    if (t && !s) n = 0;
    if (n && memchr(s, 0, n)) return fail_here(r, "a zero byte inside a string");
    char *copy = config_alloc(r->c, n + 1);
    if (!copy) return WEFT_ERR_NOMEM;
    if (n) memcpy(copy, s, n);
    v->text = copy;
    v->plain = style_of(r->event) == FYSS_PLAIN;
    return WEFT_OK;
}

/* ---- values ---- */

static size_t find(const weft_config *c, const char *name) {
    size_t i = 0;
    while (i < c->nkeys && strcmp(c->keys[i].name, name) != 0) i++;
    return i;
}

static weft_status read_list(reader *r, size_t k) {
    weft_config *c = r->c;
    char place[PLACE_MAX];
    place_of(r, place);
    if (c->keys[k].type != WEFT_CONFIG_LIST) return config_expected(&c->keys[k], place, "a list");
    config_scalar *v = NULL;
    size_t n = 0, room = 0;
    for (;;) {
        WEFT_TRY(next(r));
        if (type_of(r) == FYET_SEQUENCE_END) break;
        if (type_of(r) != FYET_SCALAR) return fail_here(r, "a list holds plain values, no lists or sections");
        if (n == CONFIG_LIST_MAX) return fail_here(r, "a list of more than 4096 values");
        if (n == room) {
            room = room ? 2 * room : 16;
            config_scalar *more = config_alloc(c, room * sizeof *more);
            if (!more) return WEFT_ERR_NOMEM;
            if (n) memcpy(more, v, n * sizeof *v);
            v = more;
        }
        WEFT_TRY(scalar(r, &v[n++]));
    }
    return config_store_list(c, k, place, v, n);
}

/* Reads over the value at the current event, whatever it is. */
static weft_status skip_value(reader *r) {
    int depth = 0;
    for (;;) {
        const enum fy_event_type t = type_of(r);
        if (t == FYET_MAPPING_START || t == FYET_SEQUENCE_START) depth++;
        if (t == FYET_MAPPING_END || t == FYET_SEQUENCE_END) depth--;
        if (depth > DEPTH_MAX) return fail_here(r, "sections nest too deeply");
        if (depth <= 0 || t == FYET_NONE) return WEFT_OK;
        WEFT_TRY(next(r));
    }
}

/* The value of key k at the current event. */
static weft_status read_value(reader *r, size_t k) {
    char place[PLACE_MAX];
    config_scalar v;
    place_of(r, place);
    if (r->c->keys[k].type == WEFT_CONFIG_OTHER) return skip_value(r);
    switch (type_of(r)) {
    case FYET_SCALAR: WEFT_TRY(scalar(r, &v)); return config_store(r->c, k, place, &v);
    case FYET_SEQUENCE_START: return read_list(r, k);
    default: return config_expected(&r->c->keys[k], place, "a section");
    }
}

static weft_status open_section(reader *r) {
    weft_config *c = r->c;
    char place[PLACE_MAX];
    place_of(r, place);
    for (size_t i = 0; i < c->nsections; i++)
        if (!strcmp(c->section[i].path, r->path))
            return weft_fail(WEFT_ERR_CONFIG, "%s: section '%s' stands twice; the first is at line %d", place,
                             r->path, c->section[i].line);
    char *path = config_alloc(c, strlen(r->path) + 1);
    if (!path) return WEFT_ERR_NOMEM;
    c->section[c->nsections].path = strcpy(path, r->path);
    c->section[c->nsections++].line = r->line;
    return WEFT_OK;
}

static weft_status read_mapping(reader *r, int depth);

/* A known section whose name ends at the current key event: its mapping, or nothing. */
static weft_status read_section(reader *r, int depth) {
    char text[CONFIG_NAME_MAX + 96];
    config_scalar v = {0};
    WEFT_TRY(open_section(r));
    WEFT_TRY(next(r));
    if (type_of(r) == FYET_MAPPING_START) return read_mapping(r, depth + 1);
    if (type_of(r) == FYET_SCALAR) {
        WEFT_TRY(scalar(r, &v));
        if (v.plain && !v.text[0]) return WEFT_OK; /* every key of it commented out */
    }
    snprintf(text, sizeof text, "%s is a section: expected 'key: value' lines below it", r->path);
    return fail_here(r, text);
}

static weft_status read_member(reader *r, int depth) {
    weft_config *c = r->c;
    char place[PLACE_MAX];
    config_scalar name = {0};
    place_of(r, place);
    if (type_of(r) != FYET_SCALAR) return fail_here(r, "a key must be a plain name");
    WEFT_TRY(scalar(r, &name));
    size_t at = strlen(r->path), n = strlen(name.text);
    if (at + n + 2 > sizeof r->path) return fail_here(r, "unknown key: longer than any that exists");
    snprintf(r->path + at, sizeof r->path - at, "%s%s", at ? "." : "", name.text);
    size_t k = find(c, r->path);
    if (k == c->nkeys && config_is_section(c, r->path)) {
        WEFT_TRY(read_section(r, depth));
    } else if (k == c->nkeys) {
        WEFT_TRY(next(r));
        return config_unknown(c, place, r->path, type_of(r) == FYET_MAPPING_START);
    } else {
        if (c->state[k].line)
            return weft_fail(WEFT_ERR_CONFIG, "%s: key '%s' stands twice; the first is at line %d", place,
                             r->path, c->state[k].line);
        int line = r->line;
        WEFT_TRY(next(r));
        WEFT_TRY(read_value(r, k));
        c->state[k].given = 1;
        c->state[k].line = line;
    }
    r->path[at] = 0;
    return WEFT_OK;
}

static weft_status read_mapping(reader *r, int depth) {
    if (depth > DEPTH_MAX) return fail_here(r, "sections nest too deeply");
    for (;;) {
        WEFT_TRY(next(r));
        if (type_of(r) == FYET_MAPPING_END) return WEFT_OK;
        WEFT_TRY(read_member(r, depth));
    }
}

/* ---- one text: a file, or the quoted or bracketed value of a set ---- */

static weft_status read_stream(reader *r, size_t k) {
    do WEFT_TRY(next(r));
    while (type_of(r) == FYET_STREAM_START || type_of(r) == FYET_DOCUMENT_START);
    if (!r->is_file) {
        WEFT_TRY(read_value(r, k));
    } else if (type_of(r) == FYET_MAPPING_START) {
        WEFT_TRY(read_mapping(r, 1));
    } else if (type_of(r) == FYET_SCALAR) {
        config_scalar v;
        WEFT_TRY(scalar(r, &v));
        if (v.text[0]) return fail_here(r, "expected 'key: value' lines");
    } else if (type_of(r) != FYET_STREAM_END) {
        return fail_here(r, "expected 'key: value' lines");
    }
    while (type_of(r) != FYET_STREAM_END) {
        WEFT_TRY(next(r));
        if (!r->event) return fail_here(r, "not YAML");
        if (type_of(r) == FYET_DOCUMENT_START) return fail_here(r, "a second document; a run file is one");
    }
    return WEFT_OK;
}

/* Starts libfyaml on text[0..n), quietly. */
static weft_status open_reader(reader *r, const char *text, size_t n) {
    struct fy_diag_cfg quiet;
    fy_diag_cfg_default(&quiet);
    quiet.fp = NULL;
    quiet.level = FYET_ERROR;
    r->diag = fy_diag_create(&quiet);
    if (r->diag) fy_diag_set_collect_errors(r->diag, true);
    struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_DEFAULT_VERSION_1_2,
                               .diag = r->diag};
    r->parser = r->diag ? fy_parser_create(&cfg) : NULL;
    if (r->parser && fy_parser_set_string(r->parser, text, n) == 0) return WEFT_OK;
    return weft_fail(WEFT_ERR_NOMEM, "%s: the YAML reader did not start", r->name);
}

static void close_reader(reader *r) {
    if (r->event) fy_parser_event_free(r->parser, r->event);
    if (r->parser) fy_parser_destroy(r->parser);
    if (r->diag) fy_diag_destroy(r->diag);
}

/* k: the key whose value the text is, or nkeys for a file. */
static weft_status read_text(weft_config *c, const char *name, const char *text, size_t n, size_t k) {
    reader r = {.c = c, .name = name, .is_file = k == c->nkeys, .line = 1, .column = 1};
    WEFT_TRY(check_text(&r, text, n));
    weft_status s = open_reader(&r, text, n);
    if (s == WEFT_OK) s = read_stream(&r, k);
    close_reader(&r);
    return s;
}

/* A default or the right side of a set: YAML if it begins with a quote or a bracket, else as it stands. */
static weft_status store_text(weft_config *c, size_t k, const char *place, const char *text) {
    size_t n = strlen(text);
    if (*text == '[' || *text == '"' || *text == '\'') return read_text(c, place, text, n, k);
    reader r = {.c = c, .name = place};
    WEFT_TRY(check_text(&r, text, n));
    config_scalar v = {text, 1};
    return config_store(c, k, place, &v);
}

/* ---- the whole ---- */

/* A table that contradicts itself is weft's bug, found by the first run of any test that uses it. */
static weft_status check_table(const weft_config *c) {
    for (size_t i = 0; i < c->nkeys; i++) {
        const weft_config_key *key = &c->keys[i];
        if (strlen(key->name) >= CONFIG_NAME_MAX - 1 || find(c, key->name) != i ||
            config_is_section(c, key->name) || (key->type == WEFT_CONFIG_ENUM && !key->choices))
            return weft_fail(WEFT_ERR_INTERNAL, "the table entry of key '%s' contradicts itself or another",
                             key->name);
    }
    return WEFT_OK;
}

static weft_status apply_defaults(weft_config *c) {
    for (size_t k = 0; k < c->nkeys; k++) {
        const weft_config_key *key = &c->keys[k];
        if (!key->def && key->type != WEFT_CONFIG_STRING && key->type != WEFT_CONFIG_LIST) continue;
        weft_status s = store_text(c, k, "default", key->def ? key->def : "");
        if (s < 0) return weft_context(s == WEFT_ERR_NOMEM ? s : WEFT_ERR_INTERNAL, "key table");
    }
    return WEFT_OK;
}

static weft_status apply_set(weft_config *c, const char *set) {
    const char *eq = strchr(set, '=');
    char place[PLACE_MAX], name[CONFIG_NAME_MAX];
    char shown[CONFIG_SHOWN_MAX];
    snprintf(place, sizeof place, "--set %s", config_shown(shown, set));
    if (!eq || eq == set || (size_t)(eq - set) >= sizeof name)
        return weft_fail(WEFT_ERR_CONFIG, "%s: expected key=value", place);
    memcpy(name, set, (size_t)(eq - set));
    name[eq - set] = 0;
    size_t k = find(c, name);
    if (k == c->nkeys && config_is_section(c, name))
        return weft_fail(WEFT_ERR_CONFIG, "%s: '%s' is a section; set its keys one by one", place, name);
    if (k == c->nkeys) return config_unknown(c, place, name, 0);
    if (c->keys[k].type == WEFT_CONFIG_OTHER)
        return weft_fail(WEFT_ERR_CONFIG, "%s: '%s' is a section that is not read here", place, name);
    WEFT_TRY(store_text(c, k, place, eq + 1));
    c->state[k].given = 1;
    return WEFT_OK;
}

static weft_status check_required(const weft_config *c, const char *name) {
    char list[512];
    size_t missing = 0, n = 0;
    for (size_t k = 0; k < c->nkeys; k++) {
        if (c->state[k].text || c->keys[k].type == WEFT_CONFIG_OTHER) continue;
        if (missing++ < 8 && n < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s'%s'", n ? ", " : "", c->keys[k].name);
    }
    if (!missing) return WEFT_OK;
    return weft_fail(WEFT_ERR_CONFIG, "%s: %zu required key%s missing: %s%s", name, missing,
                     missing == 1 ? " is" : "s are", list, missing > 8 ? ", ..." : "");
}

static weft_status fill(weft_config *c, const char *name, const char *text, size_t n, const char *const *sets,
                        size_t nsets) {
    size_t levels = 1; /* sections in the table, counted generously */
    for (size_t i = 0; i < c->nkeys; i++)
        for (const char *p = c->keys[i].name; *p; p++) levels += *p == '.';
    c->state = config_alloc(c, c->nkeys * sizeof *c->state);
    c->section = config_alloc(c, levels * sizeof *c->section);
    if (!c->state || !c->section) return WEFT_ERR_NOMEM;
    WEFT_TRY(check_table(c));
    WEFT_TRY(apply_defaults(c));
    if (n > FILE_MAX)
        return weft_fail(WEFT_ERR_CONFIG, "%s: %zu bytes, expected at most %d", name, n, FILE_MAX);
    WEFT_TRY(read_text(c, name, text, n, c->nkeys));
    for (size_t i = 0; i < nsets; i++) WEFT_TRY(apply_set(c, sets[i]));
    WEFT_TRY(check_required(c, name));
    return config_build_dump(c);
}

weft_status weft_config_parse(const char *name, const char *text, size_t n, const char *const *sets,
                              size_t nsets, const weft_config_key *keys, size_t nkeys, void *out,
                              weft_config **config) {
    *config = NULL;
    weft_config *c = weft_calloc(1, sizeof *c);
    if (!c) return WEFT_ERR_NOMEM;
    c->keys = keys;
    c->nkeys = nkeys;
    c->out = out;
    weft_status s = fill(c, name, text, n, sets, nsets);
    c->out = NULL;
    if (s < 0)
        weft_config_destroy(c);
    else
        *config = c;
    return s;
}

weft_status weft_config_load(const char *path, const char *const *sets, size_t nsets,
                             const weft_config_key *keys, size_t nkeys, void *out, weft_config **config) {
    char *text = NULL;
    size_t n = 0;
    *config = NULL;
    if (!path) return weft_config_parse("configuration", "", 0, sets, nsets, keys, nkeys, out, config);
    weft_status s = weft_file_read(path, FILE_MAX, &text, &n);
    if (s == WEFT_ERR_FORMAT) s = WEFT_ERR_CONFIG;
    if (s == WEFT_OK) s = weft_config_parse(path, text, n, sets, nsets, keys, nkeys, out, config);
    free(text);
    return s;
}

/* ---- the members of a section ---- */

typedef struct member_list {
    const char *section;
    char (*name)[WEFT_CONFIG_NAME];
    size_t cap, n;
} member_list;

/* A mapping whose path is a prefix of the section's, or the section itself. */
static weft_status list_mapping(reader *r, member_list *l) {
    const size_t at = strlen(r->path);
    for (;;) {
        WEFT_TRY(next(r));
        if (type_of(r) != FYET_SCALAR)
            return WEFT_OK; /* its end; what else stands here the real reader refuses */
        config_scalar name = {0};
        WEFT_TRY(scalar(r, &name));
        if (!name.text || at + strlen(name.text) + 2 > sizeof r->path)
            return fail_here(r, "unknown key: longer than any that exists");
        const int inside = !strcmp(r->path, l->section);
        if (inside && (!l->name || l->n == l->cap)) return fail_here(r, "more entries than are read here");
        if (inside) strcpy(l->name[l->n++], name.text);
        snprintf(r->path + at, sizeof r->path - at, "%s%s", at ? "." : "", name.text);
        const size_t n = strlen(r->path);
        WEFT_TRY(next(r));
        if (!inside && type_of(r) == FYET_MAPPING_START && !strncmp(r->path, l->section, n) &&
            (l->section[n] == '.' || !l->section[n]))
            WEFT_TRY(list_mapping(r, l)); /* no deeper than the section's name has dots */
        else
            WEFT_TRY(skip_value(r));
        r->path[at] = 0;
    }
}

static weft_status list_stream(reader *r, member_list *l) {
    do WEFT_TRY(next(r));
    while (type_of(r) == FYET_STREAM_START || type_of(r) == FYET_DOCUMENT_START);
    return type_of(r) == FYET_MAPPING_START ? list_mapping(r, l) : WEFT_OK;
}

weft_status weft_config_members(const char *name, const char *text, size_t n, const char *section,
                                char (*member)[WEFT_CONFIG_NAME], size_t cap, size_t *count) {
    member_list list = {.section = section, .name = member, .cap = cap};
    *count = 0;
    weft_config *c = weft_calloc(1, sizeof *c);
    if (!c) return WEFT_ERR_NOMEM;
    reader r = {.c = c, .name = name, .is_file = 1, .line = 1, .column = 1};
    weft_status s = n > FILE_MAX
                        ? weft_fail(WEFT_ERR_CONFIG, "%s: %zu bytes, expected at most %d", name, n, FILE_MAX)
                        : check_text(&r, text, n);
    if (s >= 0) s = open_reader(&r, text, n);
    if (s >= 0) s = list_stream(&r, &list);
    close_reader(&r);
    weft_config_destroy(c);
    *count = list.n;
    return s;
}

void weft_config_destroy(weft_config *c) {
    if (!c) return;
    for (config_block *b = c->blocks, *after; b; b = after) {
        after = b->next;
        free(b);
    }
    free(c->dump);
    free(c);
}

int weft_config_given(const weft_config *c, const char *name) {
    size_t k = find(c, name);
    return k < c->nkeys && c->state[k].given;
}

int weft_config_line(const weft_config *c, const char *name) {
    size_t k = find(c, name);
    return k < c->nkeys ? c->state[k].line : 0;
}
