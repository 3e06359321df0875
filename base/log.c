/* The logger; see log.h. A record is formatted into one buffer and written with one write(2), so that lines
 * of several ranks and threads do not mix. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static weft_log_level threshold = WEFT_LOG_OFF;
static int log_rank = -1;
static int json_fd = -1;

static const char *const names[] = {"off", "error", "warn", "info", "debug"};

weft_log_level weft_log_level_of(const char *name) {
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) return (weft_log_level)i;
    return WEFT_LOG_OFF;
}

weft_status weft_log_open(weft_log_level level, int rank, const char *json_path) {
    weft_log_close();
    threshold = level;
    log_rank = rank;
    if (json_path) {
        json_fd = open(json_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (json_fd < 0) return weft_fail_errno(errno, "opening the log %s", json_path);
    }
    return WEFT_OK;
}

weft_log_level weft_log_threshold(void) {
    return threshold;
}

void weft_log_close(void) {
    if (json_fd >= 0) close(json_fd);
    json_fd = -1;
    threshold = WEFT_LOG_OFF;
}

void weft_log_set_rank(int rank) {
    log_rank = rank;
}

static void write_json(weft_log_level level, const char *msg) {
    char line[8192];
    int n = snprintf(line, sizeof line, "{\"t\":%.6f,\"level\":\"%s\",\"rank\":%d,\"msg\":\"", weft_wall(),
                     names[level], log_rank);
    for (; *msg && n < (int)sizeof line - 16; msg++) {
        unsigned char c = (unsigned char)*msg;
        if (c == '"' || c == '\\')
            n += snprintf(line + n, 3, "\\%c", c);
        else if (c < 0x20)
            n += snprintf(line + n, 7, "\\u%04x", c);
        else
            line[n++] = (char)c;
    }
    n += snprintf(line + n, sizeof line - (size_t)n, "\"}\n");
    if (write(json_fd, line, (size_t)n) < 0) return; /* a log that cannot be written must not stop the run */
}

void weft_log(weft_log_level level, const char *fmt, ...) {
    if (level > threshold || level == WEFT_LOG_OFF) return;
    char msg[4096], line[4224];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    const char *label = level == WEFT_LOG_INFO    ? ""
                        : level == WEFT_LOG_ERROR ? "error: "
                        : level == WEFT_LOG_WARN  ? "warning: "
                                                  : "debug: ";
    int n = log_rank >= 0 ? snprintf(line, sizeof line, "[%d] %s%s\n", log_rank, label, msg)
                          : snprintf(line, sizeof line, "weft: %s%s\n", label, msg);
    if (n > (int)sizeof line - 1) n = (int)sizeof line - 1;
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return;
    if (json_fd >= 0) write_json(level, msg);
}
