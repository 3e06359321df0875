/* Values of the configuration: text to typed field and back to canonical YAML; the messages about them; the
 * nearest known name.
 *
 * The canonical text is what weft_config_dump prints. Reading a dump gives the same values and the same dump,
 * which the tests check for every table and the fuzz target for every input: so integers are printed in full,
 * floats keep the digits that were given (they are shorter than %.17g and mean the same double), and strings
 * are quoted unless every byte is harmless. */
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/mem.h"

/* ---- messages ---- */

static void describe(const weft_config_key *key, char *buf, size_t cap) {
    const char *noun = key->type == WEFT_CONFIG_INT ? "an integer" : "a number";
    const char *fmt = key->type == WEFT_CONFIG_INT ? "%s from %.0f to %.0f" : "%s from %g to %g";
    switch (key->type) {
    case WEFT_CONFIG_INT:
    case WEFT_CONFIG_FLOAT:
        if (key->min == 0 && key->max == 0)
            snprintf(buf, cap, "%s", noun);
        else if (key->max >= 1e15)
            snprintf(buf, cap, "%s of at least %g", noun, key->min);
        else
            snprintf(buf, cap, fmt, noun, key->min, key->max);
        break;
    case WEFT_CONFIG_BOOL: snprintf(buf, cap, "true or false"); break;
    case WEFT_CONFIG_STRING: snprintf(buf, cap, "a string"); break;
    case WEFT_CONFIG_LIST: snprintf(buf, cap, "a list of strings"); break;
    case WEFT_CONFIG_OTHER: snprintf(buf, cap, "a section"); break;
    case WEFT_CONFIG_ENUM: {
        size_t n = (size_t)snprintf(buf, cap, "one of");
        for (size_t i = 0; key->choices[i] && n < cap; i++)
            n += (size_t)snprintf(buf + n, cap - n, "%s %s", i ? "," : "", key->choices[i]);
        break;
    }
    }
}

weft_status config_expected(const weft_config_key *key, const char *place, const char *found) {
    char want[512];
    describe(key, want, sizeof want);
    return weft_fail(WEFT_ERR_CONFIG, "%s: %s: found %s, expected %s", place, key->name, found, want);
}

const char *config_shown(char buf[CONFIG_SHOWN_MAX], const char *s) {
    size_t n = strlen(s), keep = n < CONFIG_SHOWN_MAX ? n : CONFIG_SHOWN_MAX - 12;
    while (keep < n && keep && ((unsigned char)s[keep] & 0xc0) == 0x80) keep--; /* whole characters */
    for (size_t i = 0; i < keep; i++) buf[i] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? ' ' : s[i];
    strcpy(buf + keep, keep < n ? "..." : "");
    return buf;
}

static weft_status unexpected(const weft_config_key *key, const char *place, const config_scalar *v) {
    char shown[CONFIG_SHOWN_MAX], found[CONFIG_SHOWN_MAX + 8];
    if (v->plain && !v->text[0])
        snprintf(found, sizeof found, "nothing");
    else
        snprintf(found, sizeof found, "'%s'", config_shown(shown, v->text));
    return config_expected(key, place, found);
}

/* ---- the nearest known name ---- */

static int least(int a, int b) {
    return a < b ? a : b;
}

/* Edit distance with adjacent swaps (optimal string alignment) of strings shorter than CONFIG_NAME_MAX. */
static int distance(const char *a, size_t na, const char *b, size_t nb) {
    int row[3][CONFIG_NAME_MAX + 1];
    if (na > CONFIG_NAME_MAX || nb > CONFIG_NAME_MAX) return CONFIG_NAME_MAX;
    for (size_t j = 0; j <= nb; j++) row[0][j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int *now = row[i % 3], *before = row[(i + 2) % 3], *two = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int d = before[j - 1] + (a[i - 1] != b[j - 1]);
            d = least(d, least(before[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d = least(d, two[j - 2] + 1);
            now[j] = d;
        }
    }
    return row[na % 3][nb];
}

static const char *last_part(const char *name, size_t n) {
    while (n && name[n - 1] != '.') n--;
    return name + n;
}

/* How far the candidate name[0..n) is from path; a right last part in a wrong section counts as near. */
static int score(const char *path, const char *name, size_t n) {
    size_t np = strlen(path);
    const char *a = last_part(path, np), *b = last_part(name, n);
    size_t na = np - (size_t)(a - path), nb = n - (size_t)(b - name);
    if (na == nb && !memcmp(a, b, na)) return 1;
    return distance(path, np, name, n);
}

int config_is_section(const weft_config *c, const char *path) {
    size_t n = strlen(path);
    for (size_t i = 0; i < c->nkeys; i++)
        if (!strncmp(c->keys[i].name, path, n) && c->keys[i].name[n] == '.') return 1;
    return 0;
}

weft_status config_unknown(const weft_config *c, const char *place, const char *path, int is_section) {
    const char *best = NULL, *kind = is_section ? "section" : "key";
    size_t nbest = 0, n = strlen(path);
    int lowest = 1 + (n / 4 > 2 ? (int)(n / 4) : 2); /* a name is near if about one letter in four is wrong */
    if (lowest > (int)n) lowest = (int)n;            /* and some letter is right */
    for (size_t i = 0; i < c->nkeys; i++)
        for (const char *name = c->keys[i].name, *end = name; *end;) {
            end += strcspn(end, ".");
            if (is_section == (*end == '.')) {
                int d = score(path, name, (size_t)(end - name));
                if (d < lowest) lowest = d, best = name, nbest = (size_t)(end - name);
            }
            end += *end == '.';
        }
    char shown[CONFIG_SHOWN_MAX];
    config_shown(shown, path);
    if (!best) return weft_fail(WEFT_ERR_CONFIG, "%s: unknown %s '%s'", place, kind, shown);
    return weft_fail(WEFT_ERR_CONFIG, "%s: unknown %s '%s'; did you mean '%.*s'?", place, kind, shown,
                     (int)nbest, best);
}

/* ---- text to value ---- */

/* Digits with single underscores between them, and for integers one of k, M, G at the end; 0 if it is not
 * one. */
static int parse_int(const char *s, int64_t *r) {
    int negative = *s == '-', digits = 0;
    int64_t v = 0, scale = 1;
    s += *s == '-' || *s == '+';
    for (; isdigit((unsigned char)*s) || (*s == '_' && digits && isdigit((unsigned char)s[1])); s++) {
        if (*s == '_') continue;
        digits++;
        int d = *s - '0'; /* counted down: the range of int64_t is larger on that side */
        if (__builtin_mul_overflow(v, (int64_t)10, &v) || __builtin_sub_overflow(v, (int64_t)d, &v)) return 0;
    }
    if (*s == 'k')
        scale = 1000, s++;
    else if (*s == 'M')
        scale = 1000000, s++;
    else if (*s == 'G')
        scale = 1000000000, s++;
    if (!digits || *s) return 0;
    if (__builtin_mul_overflow(v, scale, &v)) return 0;
    if (!negative && __builtin_sub_overflow((int64_t)0, v, &v)) return 0;
    *r = v;
    return 1;
}

/* A finite decimal number, underscores between digits allowed; `clean` receives it without them. The
 * process's locale belongs to the program that links weft, so the number is read in the C locale. */
static int parse_float(const char *s, double *r, char *clean, size_t cap) {
    size_t n = 0;
    for (size_t i = 0; s[i]; i++) {
        if (s[i] == '_') {
            if (!i || !isdigit((unsigned char)s[i - 1]) || !isdigit((unsigned char)s[i + 1])) return 0;
            continue;
        }
        if (!isdigit((unsigned char)s[i]) && !strchr("+-.eE", s[i])) return 0;
        if (n + 1 >= cap) return 0;
        clean[n++] = s[i];
    }
    clean[n] = 0;
    if (!n) return 0;
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) return 0;
    locale_t before = uselocale(plain);
    char *end;
    *r = strtod(clean, &end);
    uselocale(before);
    freelocale(plain);
    return !*end && isfinite(*r);
}

static int parse_bool(const char *s) {
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (size_t i = 0; i < 3; i++) {
        if (!strcmp(s, yes[i])) return 1;
        if (!strcmp(s, no[i])) return 0;
    }
    return -1;
}

static int is_null(const config_scalar *v) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    if (!v->plain) return 0;
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++)
        if (!strcmp(v->text, nulls[i])) return 1;
    return 0;
}

static int in_range(const weft_config_key *key, double v) {
    return (key->min == 0 && key->max == 0) || (v >= key->min && v <= key->max);
}

/* ---- value to text ---- */

static int harmless(const char *s) {
    config_scalar v = {s, 1};
    if (is_null(&v) || !(isalnum((unsigned char)*s) || *s == '/' || *s == '_')) return 0;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("_./+-", *s)) return 0;
    return 1;
}

/* One code point of valid UTF-8. */
static uint32_t decode(const char **s) {
    const unsigned char *p = (const unsigned char *)*s;
    int more = *p < 0x80 ? 0 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;
    uint32_t u = more ? *p & (0x3fu >> more) : *p;
    for (int i = 1; i <= more && p[i]; i++) u = u << 6 | (p[i] & 0x3f);
    for (*s += 1; more-- && **s;) *s += 1;
    return u;
}

/* Writes s as a YAML scalar to out (10 * strlen(s) + 3 bytes are enough); returns the end. */
static char *quote(char *out, const char *s) {
    size_t n = strlen(s);
    if (harmless(s)) {
        memcpy(out, s, n + 1);
        return out + n;
    }
    *out++ = '"';
    while (*s) {
        const char *start = s;
        uint32_t u = decode(&s);
        if (u == '"' || u == '\\')
            out += sprintf(out, "\\%c", (int)u);
        else if (u < 0x20 || (u >= 0x7f && u < 0xa0) || u == 0x2028 || u == 0x2029 || u == 0xfeff ||
                 (u & 0xfffe) == 0xfffe)
            out += sprintf(out, "\\U%08x", u);
        else
            for (; start < s; start++) *out++ = *start;
    }
    *out++ = '"';
    *out = 0;
    return out;
}

static weft_status keep_quoted(weft_config *c, const char **text, const char *s) {
    char *q = config_alloc(c, 10 * strlen(s) + 3);
    if (!q) return WEFT_ERR_NOMEM;
    quote(q, s);
    *text = q;
    return WEFT_OK;
}

static const char *keep(weft_config *c, const char *s) {
    char *p = config_alloc(c, strlen(s) + 1);
    return p ? strcpy(p, s) : NULL;
}

/* ---- storing ---- */

weft_status config_store(weft_config *c, size_t k, const char *place, const config_scalar *v) {
    const weft_config_key *key = &c->keys[k];
    char *field = c->out + key->offset, buf[128];
    const char *text = NULL;
    switch (key->type) {
    case WEFT_CONFIG_INT: {
        int64_t i;
        if (!parse_int(v->text, &i) || !in_range(key, (double)i)) return unexpected(key, place, v);
        memcpy(field, &i, sizeof i);
        snprintf(buf, sizeof buf, "%lld", (long long)i);
        text = keep(c, buf);
        break;
    }
    case WEFT_CONFIG_FLOAT: {
        double d;
        if (!parse_float(v->text, &d, buf, sizeof buf) || !in_range(key, d)) return unexpected(key, place, v);
        memcpy(field, &d, sizeof d);
        text = keep(c, buf);
        break;
    }
    case WEFT_CONFIG_BOOL: {
        int b = parse_bool(v->text);
        if (b < 0) return unexpected(key, place, v);
        memcpy(field, &b, sizeof b);
        text = b ? "true" : "false";
        break;
    }
    case WEFT_CONFIG_ENUM: {
        int i = 0;
        while (key->choices[i] && strcmp(key->choices[i], v->text) != 0) i++;
        if (!key->choices[i]) return unexpected(key, place, v);
        memcpy(field, &i, sizeof i);
        return keep_quoted(c, &c->state[k].text, key->choices[i]);
    }
    case WEFT_CONFIG_STRING: {
        const char *s = is_null(v) ? NULL : keep(c, v->text);
        if (!s && !is_null(v)) return WEFT_ERR_NOMEM;
        memcpy(field, &s, sizeof s);
        if (s) return keep_quoted(c, &c->state[k].text, s);
        text = "null";
        break;
    }
    case WEFT_CONFIG_LIST: return config_store_list(c, k, place, v, is_null(v) ? 0 : 1);
    case WEFT_CONFIG_OTHER: return WEFT_OK; /* read over before */
    }
    if (!text) return WEFT_ERR_NOMEM;
    c->state[k].text = text;
    return WEFT_OK;
}

weft_status config_store_list(weft_config *c, size_t k, const char *place, const config_scalar *v, size_t n) {
    const weft_config_key *key = &c->keys[k];
    size_t bytes = 3;
    if (key->type != WEFT_CONFIG_LIST) return config_expected(key, place, "a list");
    for (size_t i = 0; i < n; i++) {
        if (is_null(&v[i])) return unexpected(key, place, &v[i]);
        bytes += 10 * strlen(v[i].text) + 4;
    }
    weft_strlist list = {n, config_alloc(c, n * sizeof *list.item)};
    char *text = config_alloc(c, bytes), *p = text;
    if (!list.item || !text) return WEFT_ERR_NOMEM;
    *p++ = '[';
    for (size_t i = 0; i < n; i++) {
        if (!(list.item[i] = keep(c, v[i].text))) return WEFT_ERR_NOMEM;
        if (i) p = stpcpy(p, ", ");
        p = quote(p, list.item[i]);
    }
    strcpy(p, "]");
    memcpy(c->out + key->offset, &list, sizeof list);
    c->state[k].text = text;
    return WEFT_OK;
}

/* ---- the whole table as text ---- */

/* Every key below prefix[0..n), grouped by section in the order of first appearance. */
static void dump_section(const weft_config *c, FILE *f, const char *prefix, size_t n, int indent) {
    for (size_t i = 0; i < c->nkeys; i++) {
        const char *name = c->keys[i].name;
        if (strncmp(name, prefix, n) != 0 || c->keys[i].type == WEFT_CONFIG_OTHER) continue;
        size_t part = strcspn(name + n, ".");
        if (!name[n + part]) {
            fprintf(f, "%*s%s: %s\n", indent, "", name + n, c->state[i].text);
            continue;
        }
        size_t first = 0; /* the key that opened this section */
        while (strncmp(c->keys[first].name, name, n + part + 1) != 0) first++;
        if (first < i) continue;
        fprintf(f, "%*s%.*s:\n", indent, "", (int)part, name + n);
        dump_section(c, f, name, n + part + 1, indent + 2);
    }
}

weft_status config_build_dump(weft_config *c) {
    size_t n = 0;
    FILE *f = open_memstream(&c->dump, &n);
    if (!f) return weft_fail(WEFT_ERR_NOMEM, "out of memory while writing the configuration");
    dump_section(c, f, "", 0, 0);
    return fclose(f) == 0 ? WEFT_OK
                          : weft_fail(WEFT_ERR_NOMEM, "out of memory while writing the configuration");
}

const char *weft_config_dump(const weft_config *c) {
    return c->dump;
}

char *weft_config_help(const weft_config_key *keys, size_t nkeys) {
    char *text = NULL, want[512];
    size_t n = 0;
    int width = 0;
    for (size_t i = 0; i < nkeys; i++)
        if ((int)strlen(keys[i].name) > width) width = (int)strlen(keys[i].name);
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    for (size_t i = 0; i < nkeys; i++) {
        describe(&keys[i], want, sizeof want);
        fprintf(f, "  %-*s  %s\n", width, keys[i].name, keys[i].doc ? keys[i].doc : "");
        fprintf(f, "  %-*s  %s; ", width, "", want);
        if (keys[i].type == WEFT_CONFIG_OTHER)
            fprintf(f, "read elsewhere\n");
        else if (keys[i].def)
            fprintf(f, "default %s\n", keys[i].def);
        else
            fprintf(f, keys[i].type == WEFT_CONFIG_STRING || keys[i].type == WEFT_CONFIG_LIST
                           ? "default none\n"
                           : "required\n");
    }
    if (fclose(f) == 0) return text;
    free(text);
    return NULL;
}
