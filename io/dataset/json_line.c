/* Reading one string out of a line of JSON without building a tree: a corpus is millions of lines of which nothing but
 * that string is wanted, and jansson took more time than the tokenizer.
 *
 * One pass over the line by the grammar of RFC 8259. Whatever is not plainly right, or rare (an exponent, a key with
 * escapes, many keys, deep nesting), is left to jansson, whose word is final and which knows how to say what is wrong. So
 * this must never accept a line that jansson refuses, nor find another text; the fuzz target compares the two. */
#include "io/dataset/json_line.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "io/tokenizer/split.h"

#define MAX_DEPTH  16
#define MAX_KEYS   32
#define MAX_DIGITS 18 /* of an integer: it fits 64 bits */

typedef struct span {
    const uint8_t *s;
    size_t n;
    int escaped;
} span;

typedef struct scanner {
    const uint8_t *p, *end;
    int depth;
    const char *field;
    size_t field_n;
    span text; /* of the field, once found; s is NULL before */
} scanner;

static void blanks(scanner *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\r' || *c->p == '\n')) c->p++;
}

static int next_is(scanner *c, uint8_t byte) {
    blanks(c);
    if (c->p == c->end || *c->p != byte) return 0;
    c->p++;
    return 1;
}

/* Four hexadecimal digits, or -1. */
static int hex4(const uint8_t *p, const uint8_t *end) {
    int v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int d = p[i] >= '0' && p[i] <= '9'   ? p[i] - '0'
                : p[i] >= 'a' && p[i] <= 'f' ? p[i] - 'a' + 10
                : p[i] >= 'A' && p[i] <= 'F' ? p[i] - 'A' + 10
                                             : -1;
        if (d < 0) return -1;
        v = 16 * v + d;
    }
    return v;
}

/* The code point of an escape whose 'u' p points behind; *p moves on. -1: half a pair, or no digits. */
static int32_t code_point(const uint8_t **p, const uint8_t *end) {
    int a = hex4(*p, end), b;
    if (a < 0) return -1;
    *p += 4;
    if (a < 0xD800 || a > 0xDFFF) return a;
    if (a > 0xDBFF || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u') return -1;
    b = hex4(*p + 2, end);
    if (b < 0xDC00 || b > 0xDFFF) return -1;
    *p += 6;
    return 0x10000 + ((a - 0xD800) << 10) + (b - 0xDC00);
}

static int escape(scanner *c) {
    if (++c->p == c->end) return 0;
    uint8_t e = *c->p++;
    return e == 'u' ? code_point(&c->p, c->end) >= 0 : strchr("\"\\/bfnrt", e) && e;
}

static int string(scanner *c, span *out) {
    if (!next_is(c, '"')) return 0;
    *out = (span){.s = c->p};
    uint8_t high = 0;
    for (;;) {
        while (c->p < c->end && *c->p >= ' ' && *c->p != '"' && *c->p != '\\') high |= *c->p++;
        if (c->p == c->end || *c->p < ' ') return 0;
        if (*c->p == '"') break;
        out->escaped = 1;
        if (!escape(c)) return 0;
    }
    out->n = (size_t)(c->p++ - out->s);
    return high < 0x80 || tok_valid_utf8(out->s, out->n);
}

static size_t digits(scanner *c) {
    const uint8_t *from = c->p;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9') c->p++;
    return (size_t)(c->p - from);
}

static int number(scanner *c) {
    if (*c->p == '-') c->p++;
    const uint8_t *first = c->p;
    size_t n = digits(c);
    if (n < 1 || n > MAX_DIGITS || (n > 1 && *first == '0')) return 0;
    if (c->p < c->end && *c->p == '.') {
        c->p++;
        n = digits(c);
        if (n < 1 || n > MAX_DIGITS) return 0;
    }
    return c->p == c->end || (*c->p != 'e' && *c->p != 'E');
}

static int word(scanner *c, const char *w) {
    size_t n = strlen(w);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, w, n) != 0) return 0;
    c->p += n;
    return 1;
}

static int object(scanner *c);
static int array(scanner *c);

static int value(scanner *c) {
    span s;
    blanks(c);
    if (c->p == c->end) return 0;
    switch (*c->p) {
    case '"': return string(c, &s);
    case '{': return object(c);
    case '[': return array(c);
    case 't': return word(c, "true");
    case 'f': return word(c, "false");
    case 'n': return word(c, "null");
    default: return number(c);
    }
}

static int array(scanner *c) {
    if (!next_is(c, '[') || ++c->depth > MAX_DEPTH) return 0;
    if (!next_is(c, ']')) {
        do {
            if (!value(c)) return 0;
        } while (next_is(c, ','));
        if (!next_is(c, ']')) return 0;
    }
    c->depth--;
    return 1;
}

static int member(scanner *c, span *key) {
    if (!string(c, key) || key->escaped || !next_is(c, ':')) return 0;
    if (c->depth > 1 || key->n != c->field_n || memcmp(key->s, c->field, key->n) != 0) return value(c);
    return string(c, &c->text);
}

static int object(scanner *c) {
    span key[MAX_KEYS];
    size_t n = 0;
    if (!next_is(c, '{') || ++c->depth > MAX_DEPTH) return 0;
    if (!next_is(c, '}')) {
        do {
            if (n == MAX_KEYS || !member(c, &key[n])) return 0;
            for (size_t i = 0; i < n; i++)
                if (key[i].n == key[n].n && !memcmp(key[i].s, key[n].s, key[n].n)) return 0;
            n++;
        } while (next_is(c, ','));
        if (!next_is(c, '}')) return 0;
    }
    c->depth--;
    return 1;
}

static size_t put_utf8(int32_t v, char *out) {
    if (v < 0x80) {
        out[0] = (char)v;
        return 1;
    }
    if (v < 0x800) {
        out[0] = (char)(0xC0 | v >> 6);
        out[1] = (char)(0x80 | (v & 63));
        return 2;
    }
    if (v < 0x10000) {
        out[0] = (char)(0xE0 | v >> 12);
        out[1] = (char)(0x80 | (v >> 6 & 63));
        out[2] = (char)(0x80 | (v & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | v >> 18);
    out[1] = (char)(0x80 | (v >> 12 & 63));
    out[2] = (char)(0x80 | (v >> 6 & 63));
    out[3] = (char)(0x80 | (v & 63));
    return 4;
}

/* A string that `string` has passed; out has room for its n bytes, which is enough: no escape grows. */
static size_t unescape(const span *s, char *out) {
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const uint8_t *p = s->s, *end = s->s + s->n;
    size_t k = 0;
    while (p < end) {
        const uint8_t *stop = memchr(p, '\\', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p);
        memcpy(out + k, p, n);
        k += n;
        p += n;
        if (!stop) break;
        uint8_t e = p[1];
        const char *letter = strchr(from, e);
        p += 2;
        if (e == 'u')
            k += put_utf8(code_point(&p, end), out + k);
        else
            out[k++] = letter ? to[letter - from] : (char)e;
    }
    return k;
}

weft_status json_line_text(const char *line, size_t n, const char *field, char **buf, size_t *cap,
                           const char **text, size_t *len, int *found) {
    scanner c = {.p = (const uint8_t *)line, .field = field, .field_n = strlen(field)};
    c.end = c.p + n;
    *found = 0;
    if (!object(&c) || !c.text.s) return WEFT_OK;
    blanks(&c);
    if (c.p != c.end) return WEFT_OK;
    *found = 1;
    *text = (const char *)c.text.s;
    *len = c.text.n;
    if (!c.text.escaped) return WEFT_OK;
    if (*cap < c.text.n) {
        char *p = weft_reallocarray(*buf, c.text.n, 1);
        if (!p) return WEFT_ERR_NOMEM;
        *buf = p;
        *cap = c.text.n;
    }
    *len = unescape(&c.text, *buf);
    *text = *buf;
    return WEFT_OK;
}
