/* The trace as JSON; see trace.h. Numbers and literals only, so the text is put together by hand into one buffer. */
#include "io/metrics/trace.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/trace.h"

#define EVENT_BYTES 256 /* of one event as text, at most: names are cut at 120 */
#define HEAD_BYTES  4096
#define CLOCK_BYTES 96 /* of one measurement as text, at most */

static const char *const track_name[WEFT_TRACKS] = {"step",  "waits", "reductions",
                                                    "halos", "bulks", "pieces of bulks"};

/* Names come from tensors and programs: what JSON would not take becomes '_'. */
static void safe_name(const char *name, char *out, size_t n) {
    size_t i = 0;
    for (; name[i] && i + 1 < n; i++)
        out[i] = name[i] < ' ' || name[i] == '"' || name[i] == '\\' || name[i] > '~' ? '_' : name[i];
    out[i] = 0;
}

static size_t put_clock(char *text, size_t room, const weft_trace_clock *clock, size_t n) {
    size_t at = (size_t)snprintf(text, room, "\"clock\":[");
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, room - at, "%s[%llu,%.1f,%.1f]", i ? "," : "",
                               (unsigned long long)clock[i].t, clock[i].offset, clock[i].bound);
    return at + (size_t)snprintf(text + at, room - at, "]");
}

weft_status weft_trace_write(const char *path, int rank, const weft_trace_clock *clock, size_t nclock) {
    size_t n, at = 0;
    uint64_t lost;
    weft_trace_at(0, &n, &lost);
    if (!weft_trace_is_open()) return WEFT_OK;
    const size_t room = HEAD_BYTES + nclock * CLOCK_BYTES + n * EVENT_BYTES;
    char *text = weft_calloc(room, 1), name[121];
    if (!text) return WEFT_ERR_NOMEM;
    at += (size_t)snprintf(text + at, room - at,
                           "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"rank\":%d,\"lost_events\":\"%llu\",",
                           rank, (unsigned long long)lost);
    at += put_clock(text + at, room - at, clock, nclock);
    at += (size_t)snprintf(text + at, room - at,
                           "},\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":"
                           "{\"name\":\"rank %d\"}}",
                           rank, rank);
    for (int k = 0; k < WEFT_TRACKS; k++)
        at += (size_t)snprintf(
            text + at, room - at,
            ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}}",
            rank, k, track_name[k]);
    for (size_t i = 0; i < n; i++) {
        size_t count;
        const weft_trace_event *e = weft_trace_at(i, &count, NULL);
        safe_name(e->name, name, sizeof name);
        at += (size_t)snprintf(
            text + at, room - at,
            ",\n{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f,"
            "\"args\":{\"n\":%u}}",
            name, rank, e->track, (double)e->begin * 1e-3, (double)(e->end - e->begin) * 1e-3, e->arg);
    }
    at += (size_t)snprintf(text + at, room - at, "\n]}\n");
    const weft_status s = weft_file_write(path, text, at);
    free(text);
    return s < 0 ? weft_context(s, "writing the trace") : s;
}
