/* Hand-written matchers for the two splitting expressions; see split.h.
 *
 * Each alternative of an expression becomes one test at the start of a piece. Runs of letters, numbers and
 * "others" never need backtracking; only runs of white space do, because `\s+(?!\S)` leaves the last one to
 * the piece that follows and `\s*[\r\n]+` ends at the run's last line break. ASCII takes one table load a
 * character; the rest is decoded and looked up in the generated tables. */
#include "io/tokenizer/split.h"

#include <string.h>

#include "io/tokenizer/unicode_tables.h"

enum char_class { OTHER, LETTER, NUMBER, SPACE };

/* One character at s: its bytes and class. */
typedef struct glyph {
    size_t len;
    unsigned cls;
} glyph;

/* O, L, N, S: the classes of ASCII. */
#define O OTHER
#define L LETTER
#define N NUMBER
#define S SPACE
static const uint8_t ascii_class[128] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, /* 00: \t \n \v \f \r */
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* 10 */
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* 20: space */
    N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O, /* 30: digits */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, /* 40: A-O */
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* 50: P-Z */
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, /* 60: a-o */
    L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /* 70: p-z */
};
#undef O
#undef L
#undef N
#undef S

/* Bytes of the well-formed multi-byte sequence at s and its code point; 0 if there is none. Unicode table
 * 3-7. */
static size_t decode_utf8(const uint8_t *s, size_t n, uint32_t *code) {
    uint32_t a = s[0];
    if (a < 0xC2 || a > 0xF4 || n < 2) return 0;
    uint8_t low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
    uint8_t high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) return 0;
    if (a < 0xE0) {
        *code = (a & 0x1F) << 6 | (s[1] & 0x3F);
        return 2;
    }
    if (n < 3 || (s[2] & 0xC0) != 0x80) return 0;
    if (a < 0xF0) {
        *code = (a & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
        return 3;
    }
    if (n < 4 || (s[3] & 0xC0) != 0x80) return 0;
    *code = (a & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 | (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
    return 4;
}

static glyph wide_glyph(const uint8_t *s, size_t n) {
    uint32_t c = 0;
    size_t len = decode_utf8(s, n, &c);
    if (!len) return (glyph){1, OTHER};
    unsigned bits = unicode_bits[(size_t)unicode_block[c >> 8] * 64 + ((c & 255) >> 2)];
    return (glyph){len, bits >> (2 * (c & 3)) & 3};
}

static inline glyph glyph_at(const uint8_t *s, size_t n) {
    if (s[0] < 128) return (glyph){1, ascii_class[s[0]]};
    return wide_glyph(s, n);
}

/* The end of the run of class cls that begins at `at`. */
static inline size_t run_end(const uint8_t *s, size_t n, size_t at, unsigned cls) {
    while (at < n) {
        glyph g = glyph_at(s + at, n - at);
        if (g.cls != cls) break;
        at += g.len;
    }
    return at;
}

/* `\s+(?!\S)|\s+` at a run of white space: all of it at the end of the text; else all but its last character;
 * else (one character) that one. With `breaks`, `\s*[\r\n]+` goes first: up to the last line break of the
 * run. */
static size_t space_piece(const uint8_t *s, size_t n, int breaks) {
    size_t end = 0, last = 0, after_break = 0;
    while (end < n) {
        glyph g = glyph_at(s + end, n - end);
        if (g.cls != SPACE) break;
        last = end;
        if (s[end] == '\n' || s[end] == '\r') after_break = end + 1;
        end += g.len;
    }
    if (breaks && after_break) return after_break;
    return end == n || last == 0 ? end : last;
}

/* 's 't 're 've 'm 'll 'd at s[0] == '\''; `fold`: in any case, and U+017F (long s) for s. 0: none. */
static size_t contraction(const uint8_t *s, size_t n, int fold) {
    if (n < 2) return 0;
    uint8_t bit = fold ? 0x20 : 0;
    uint8_t a = s[1] | bit;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n < 3) return 0;
    uint8_t b = s[2] | bit;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return fold && s[1] == 0xC5 && s[2] == 0xBF ? 3 : 0;
}

static size_t gpt2_piece(const uint8_t *s, size_t n) {
    if (s[0] == '\'') {
        size_t k = contraction(s, n, 0);
        if (k) return k;
    }
    size_t at = s[0] == ' ' && n > 1; /* the optional space before a run */
    glyph g = glyph_at(s + at, n - at);
    if (g.cls == SPACE) return space_piece(s, n, 0);
    return run_end(s, n, at + g.len, g.cls);
}

static size_t cl100k_piece(const uint8_t *s, size_t n) {
    if (s[0] == '\'') {
        size_t k = contraction(s, n, 1);
        if (k) return k;
    }
    glyph g = glyph_at(s, n);
    if (g.cls == LETTER) return run_end(s, n, g.len, LETTER);
    if (g.cls == NUMBER) {
        size_t at = g.len;
        for (int i = 1; i < 3 && at < n; i++) {
            glyph h = glyph_at(s + at, n - at);
            if (h.cls != NUMBER) break;
            at += h.len;
        }
        return at;
    }
    glyph next = g.len < n ? glyph_at(s + g.len, n - g.len) : (glyph){0, SPACE};
    if (next.cls == LETTER && s[0] != '\r' && s[0] != '\n') return run_end(s, n, g.len + next.len, LETTER);
    size_t at = g.len;
    if (g.cls == SPACE) {
        if (s[0] != ' ' || next.cls != OTHER) return space_piece(s, n, 1);
        at += next.len;
    }
    at = run_end(s, n, at, OTHER);
    while (at < n && (s[at] == '\r' || s[at] == '\n')) at++;
    return at;
}

size_t tok_next_piece(weft_tok_split split, const uint8_t *s, size_t n) {
    return split == WEFT_SPLIT_GPT2 ? gpt2_piece(s, n) : cl100k_piece(s, n);
}

size_t tok_safe_cut(const uint8_t *s, size_t n, size_t from) {
    if (from >= n) return n;
    /* Start on a character: step back over at most three continuation bytes. Inside an ill-formed sequence
     * this may start at a wrong byte, so only a letter seen whole from here counts, and a letter is always
     * well formed. */
    size_t at = from;
    while (at > 0 && from - at < 3 && (s[at] & 0xC0) == 0x80) at--;
    int letter = 0;
    while (at < n) {
        glyph g = glyph_at(s + at, n - at);
        if (letter && g.cls != LETTER && at >= from) return at;
        letter = g.cls == LETTER;
        at += g.len;
    }
    return n;
}

static const struct {
    weft_tok_split split;
    const char *pattern; /* the first of a splitter is the one that is written */
} patterns[] = {
    {WEFT_SPLIT_GPT2, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {WEFT_SPLIT_GPT2, "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {WEFT_SPLIT_CL100K, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {WEFT_SPLIT_CL100K, "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}|"
                        " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"},
};

const char *tok_split_pattern(weft_tok_split split) {
    size_t i = 0;
    while (patterns[i].split != split) i++;
    return patterns[i].pattern;
}

int tok_split_of_pattern(const char *pattern, weft_tok_split *split) {
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (!strcmp(pattern, patterns[i].pattern)) {
            *split = patterns[i].split;
            return 1;
        }
    return 0;
}

int tok_is_space(const uint8_t *s, size_t n) {
    return run_end(s, n, 0, SPACE) == n;
}

int tok_valid_utf8(const uint8_t *s, size_t n) {
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = s[at] < 128 ? 1 : decode_utf8(s + at, n - at, &code);
        if (!len) return 0;
        at += len;
    }
    return 1;
}
