/* Escaping, numbers and ticks; see text.h. */
#include "io/report/text.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define NARROW_SPACE "\xe2\x80\xaf" /* U+202F: a number and its unit stay together */
#define MINUS        "\xe2\x88\x92" /* U+2212: as wide as a digit */

/* ---- escaping ---- */

/* Bytes of the well-formed UTF-8 character at s, 0 if it is none. */
static size_t utf8_length(const unsigned char *s, size_t n) {
    size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    uint32_t two = len > 1 ? (uint32_t)s[0] << 8 | s[1] : 0;
    if (len == 3 && (two < 0xe0a0 || (two >= 0xeda0 && two < 0xee00))) return 0; /* too long, surrogate */
    if (len == 3 && two == 0xefbf && s[2] >= 0xbe) return 0;                     /* U+FFFE, U+FFFF */
    if (len == 4 && (two < 0xf090 || two > 0xf48f)) return 0;
    return len;
}

void html_text(FILE *f, const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    while (n) {
        size_t len = utf8_length(p, n);
        int c = *p;
        if (len == 1 && strchr("&<>\"'", c) && c)
            fprintf(f, "&#%d;", c);
        else if (len == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ||
                 (len == 2 && c == 0xc2 && p[1] < 0xa0))
            fputs("\xef\xbf\xbd", f);
        else
            fwrite(p, 1, len, f);
        p += len ? len : 1;
        n -= len ? len : 1;
    }
}

void html_string(FILE *f, const char *s) {
    html_text(f, s, strlen(s));
}

/* ---- numbers ---- */

number_format number_format_for(unit u, double max, double step) {
    static const struct {
        double from, scale;
        const char *suffix;
    } si[] = {{1e12, 1e12, NARROW_SPACE "T"},
              {1e9, 1e9, NARROW_SPACE "G"},
              {1e6, 1e6, NARROW_SPACE "M"},
              {1e4, 1e3, NARROW_SPACE "k"},
              {0, 1, ""}};
    number_format f = {u, 1, "", 0};
    if (u == UNIT_SECONDS) {
        f.scale = max >= 1 ? 1 : max >= 1e-3 ? 1e-3 : 1e-6;
        f.suffix = max >= 1 ? NARROW_SPACE "s" : max >= 1e-3 ? NARROW_SPACE "ms" : NARROW_SPACE "µs";
    } else if (u == UNIT_PERCENT) {
        f.scale = 0.01;
        f.suffix = NARROW_SPACE "%";
    } else if (u == UNIT_PLAIN) {
        size_t i = 0;
        while (max < si[i].from) i++;
        f.scale = si[i].scale;
        f.suffix = si[i].suffix;
    }
    double rest = step > 0 ? step / f.scale : 1;
    for (; f.decimals <= 6 && fabs(rest - round(rest)) > 1e-6 * rest; rest *= 10) f.decimals++;
    if ((u == UNIT_PLAIN && max < 1e-2 && max > 0) || f.decimals > 6) f.decimals = -1;
    return f;
}

/* 65 -> 1:05, 3725 -> 1:02:05, 90000 -> 1 d 1:00 */
static void print_clock(char *s, double v) {
    long long t = (long long)(v + 0.5), days = t / 86400, h = t / 3600 % 24, m = t / 60 % 60;
    if (days)
        snprintf(s, NUMBER_MAX, "%lld" NARROW_SPACE "d %lld:%02lld", days, h, m);
    else if (h)
        snprintf(s, NUMBER_MAX, "%lld:%02lld:%02lld", h, m, t % 60);
    else
        snprintf(s, NUMBER_MAX, "%lld:%02lld", m, t % 60);
}

const char *number_print(char s[NUMBER_MAX], const number_format *f, double v) {
    char digits[32];
    if (f->unit == UNIT_CLOCK) {
        print_clock(s, v);
        return s;
    }
    double a = fabs(v / f->scale);
    if (v == 0) return strcpy(s, "0");
    if (f->decimals < 0) {
        snprintf(digits, sizeof digits, "%.3g", a);
        char *e = strchr(digits, 'e'); /* 1e-05 -> 1e-5 */
        if (e && e[2] == '0') memmove(e + 2, e + 3, strlen(e + 3) + 1);
    } else {
        snprintf(digits, sizeof digits, "%.*f", f->decimals, a > 1e18 ? 1e18 : a);
    }
    snprintf(s, NUMBER_MAX, "%s%s%s", v < 0 && strpbrk(digits, "123456789") ? MINUS : "", digits, f->suffix);
    return s;
}

const char *number_alone(char s[NUMBER_MAX], unit u, double v, int digits) {
    double a = fabs(v), step = a > 0 ? pow(10, floor(log10(a)) + 1 - digits) : 1;
    if (u == UNIT_PLAIN && v == trunc(v) && a < 1e4) step = 1;
    number_format f = number_format_for(u, a, step);
    return number_print(s, &f, v);
}

/* ---- ticks ---- */

/* The nearest of 1, 2, 2.5, 5 times a power of ten. */
static double round_step(double raw) {
    double ten = pow(10, floor(log10(raw))), m = raw / ten;
    return ten * (m < 1.5 ? 1 : m < 2.25 ? 2 : m < 3.5 ? 2.5 : m < 7 ? 5 : 10);
}

static double clock_step(double raw) {
    static const double steps[] = {1,   2,    5,    10,   15,    30,    60,    120,   300,    600,
                                   900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (raw <= steps[i]) return steps[i];
    return 864000 * ceil(raw / 864000);
}

ticks ticks_linear(unit u, double lo, double hi, int want) {
    ticks t = {0, {0}, {u, 1, "", 0}};
    double raw = (hi - lo) / want;
    if (!(raw > 0) || !isfinite(raw)) raw = 1;
    double step = u == UNIT_CLOCK     ? clock_step(raw)
                  : u == UNIT_PERCENT ? round_step(raw * 100) / 100
                                      : round_step(raw);
    double first = ceil(lo / step - 1e-9);
    for (; t.n < TICKS_MAX; t.n++) {
        double v = (first + t.n) * step;
        if (v > hi + 1e-9 * step || !isfinite(v)) break;
        t.at[t.n] = v;
    }
    t.format = number_format_for(u, fmax(fabs(lo), fabs(hi)), step);
    return t;
}

ticks ticks_log(unit u, double lo, double hi) {
    ticks t = {0, {0}, {u, 1, "", -1}};
    double decades = log10(hi / lo);
    int every = decades > 8 ? (int)ceil(decades / 8) : 1;
    for (int e = (int)floor(log10(lo)); e <= (int)ceil(log10(hi)); e++) {
        static const double between[] = {1, 2, 5};
        for (int i = 0; i < (decades < 3.5 ? 3 : 1); i++) {
            double v = between[i] * pow(10, e);
            if (e % every || v < lo * 0.999999 || v > hi * 1.000001 || t.n == TICKS_MAX) continue;
            t.at[t.n++] = v;
        }
    }
    return t;
}
