/* The logger: levels, a rank prefix, text to stderr or one JSON object a line to a file.
 * The library itself stays silent (level OFF) until a program calls weft_log_open. */
#ifndef WEFT_BASE_LOG_H
#define WEFT_BASE_LOG_H

#include "base/status.h"

typedef enum weft_log_level {
    WEFT_LOG_OFF,
    WEFT_LOG_ERROR,
    WEFT_LOG_WARN,
    WEFT_LOG_INFO,
    WEFT_LOG_DEBUG
} weft_log_level;

/* Sets the threshold, this process's rank (-1: no prefix) and, if json_path is not NULL, a file to which
 * every record is appended as {"t","level","rank","msg"} besides stderr. Main thread, before others log. */
weft_status weft_log_open(weft_log_level level, int rank, const char *json_path);
void weft_log_close(void);
/* The threshold; WEFT_LOG_OFF: nobody has opened it. */
weft_log_level weft_log_threshold(void);
void weft_log_set_rank(int rank);
/* "error".."debug" -> level; OFF for an unknown name. */
weft_log_level weft_log_level_of(const char *name);

/* Writes one record with one write(2). Any thread. */
void weft_log(weft_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define weft_error(...) weft_log(WEFT_LOG_ERROR, __VA_ARGS__)
#define weft_warn(...)  weft_log(WEFT_LOG_WARN, __VA_ARGS__)
#define weft_info(...)  weft_log(WEFT_LOG_INFO, __VA_ARGS__)
#define weft_debug(...) weft_log(WEFT_LOG_DEBUG, __VA_ARGS__)

#endif
