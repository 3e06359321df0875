/* Text for the page: HTML escaping, numbers with SI units, tick positions. */
#ifndef WEFT_IO_REPORT_TEXT_H
#define WEFT_IO_REPORT_TEXT_H

#include <stddef.h>
#include <stdio.h>

/* Writes n bytes as text: markup escaped, control characters and what is not UTF-8 as U+FFFD. */
void html_text(FILE *f, const char *s, size_t n);
void html_string(FILE *f, const char *s);

enum { NUMBER_MAX = 48, TICKS_MAX = 24 };

typedef enum unit {
    UNIT_PLAIN,   /* 12.3 M, 0.045, 3e-4 */
    UNIT_SECONDS, /* 12 ms */
    UNIT_PERCENT, /* the value is a fraction */
    UNIT_CLOCK,   /* seconds as 1:05:00 */
} unit;

/* How all numbers of one axis are written: the same prefix, the same decimals. */
typedef struct number_format {
    unit unit;
    double scale;
    const char *suffix;
    int decimals; /* -1: as short as possible */
} number_format;

/* For values up to max in size that differ by step. */
number_format number_format_for(unit u, double max, double step);
/* Writes v to s[NUMBER_MAX], with narrow no-break spaces; returns s. */
const char *number_print(char s[NUMBER_MAX], const number_format *f, double v);
/* One value on its own, with `digits` significant digits. */
const char *number_alone(char s[NUMBER_MAX], unit u, double v, int digits);

typedef struct ticks {
    int n;
    double at[TICKS_MAX];
    number_format format;
} ticks;

/* About `want` round positions in [lo, hi]. */
ticks ticks_linear(unit u, double lo, double hi, int want);
/* Powers of ten, with 2 and 5 between them where that is few; lo > 0. */
ticks ticks_log(unit u, double lo, double hi);

#endif
