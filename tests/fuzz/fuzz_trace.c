/* Fuzz target: heads and lines of trace files are refused or kept within their bounds. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/metrics/trace_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

static void check_line(const trace_head *h, const char *line, size_t n) {
    char out[TRACE_LINE_MAX + 64];
    size_t len;
    int last;
    if (trace_line_move(h, line, n, out, &len, &last) < 0) return;
    promise(last ? len == 0 : len >= 2 && len <= TRACE_LINE_MAX + 32 && out[0] == '{' && out[len - 1] == '}');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static trace_head h, fixed = {.n = 2, .clock = {{1000, 1e9, 10}, {900000000, -1e9, 10}}};
    const char *p = (const char *)data, *end = p + n;
    const char *newline = memchr(p, '\n', n);
    const weft_status s = trace_head_read(p, newline ? (size_t)(newline - p) : n, &h);
    promise(h.n <= TRACE_CLOCKS_MAX && h.rank >= 0);
    if (s >= 0 && h.n) (void)trace_offset(&h, 1e9);
    for (p = newline ? newline + 1 : end; p < end; p = newline ? newline + 1 : end) {
        newline = memchr(p, '\n', (size_t)(end - p));
        check_line(s >= 0 ? &h : &fixed, p, (size_t)((newline ? newline : end) - p));
    }
    return 0;
}
