/* Thread-local error text and the one table of status values and exit codes of the project. */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX 4096

static _Thread_local char error_text[TEXT_MAX];

static const struct {
    weft_status status;
    int exit_code;
    const char *name;
} table[] = {
    {WEFT_OK, 0, "OK"},
    {WEFT_IN_PROGRESS, 0, "IN_PROGRESS"},
    {WEFT_DROPPED, 0, "DROPPED"},
    {WEFT_NO_CONTRIB, 0, "NO_CONTRIB"},
    {WEFT_ERR_ARG, 64, "ERR_ARG"},
    {WEFT_ERR_STATE, 70, "ERR_STATE"},
    {WEFT_ERR_UNSUPPORTED, 64, "ERR_UNSUPPORTED"},
    {WEFT_ERR_INTERNAL, 70, "ERR_INTERNAL"},
    {WEFT_ERR_CONFIG, 78, "ERR_CONFIG"},
    {WEFT_ERR_NOTFOUND, 66, "ERR_NOTFOUND"},
    {WEFT_ERR_FORMAT, 65, "ERR_FORMAT"},
    {WEFT_ERR_CORRUPT, 65, "ERR_CORRUPT"},
    {WEFT_ERR_VERSION, 65, "ERR_VERSION"},
    {WEFT_ERR_SHAPE, 94, "ERR_SHAPE"},
    {WEFT_ERR_VOCAB, 95, "ERR_VOCAB"},
    {WEFT_ERR_NONFINITE, 96, "ERR_NONFINITE"},
    {WEFT_ERR_AUTH, 65, "ERR_AUTH"},
    {WEFT_ERR_NOMEM, 71, "ERR_NOMEM"},
    {WEFT_ERR_IO, 74, "ERR_IO"},
    {WEFT_ERR_SPACE, 72, "ERR_SPACE"},
    {WEFT_ERR_ACCESS, 73, "ERR_ACCESS"},
    {WEFT_ERR_SERVICE, 69, "ERR_SERVICE"},
    {WEFT_ERR_ORDER, 76, "ERR_ORDER"},
    {WEFT_ERR_TIMEOUT, 76, "ERR_TIMEOUT"},
    {WEFT_ERR_PEER, 76, "ERR_PEER"},
    {WEFT_ERR_LINK, 76, "ERR_LINK"},
    {WEFT_ERR_DEVICE, 71, "ERR_DEVICE"},
    {WEFT_ERR_STALE, 70, "ERR_STALE"},
    {WEFT_ERR_DIVERGED, 93, "ERR_DIVERGED"},
    {WEFT_ERR_HUB_STALE, 75, "ERR_HUB_STALE"},
    {WEFT_ERR_FENCED, 75, "ERR_FENCED"},
    {WEFT_ERR_HUB_LOST, 75, "ERR_HUB_LOST"},
    {WEFT_ERR_LAYOUT, 75, "ERR_LAYOUT"},
    {WEFT_ERR_QUORUM, 75, "ERR_QUORUM"},
};

const char *weft_status_name(weft_status s) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].status == s) return table[i].name;
    return "ERR_UNKNOWN";
}

int weft_exit_code(weft_status s) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].status == s) return table[i].exit_code;
    return 70;
}

const char *weft_last_error(void) {
    return error_text;
}

void weft_clear_error(void) {
    error_text[0] = 0;
}

weft_status weft_fail(weft_status s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(error_text, sizeof error_text, fmt, ap);
    va_end(ap);
    return s;
}

static weft_status status_of_errno(int e) {
    switch (e) {
    case ENOSPC:
    case EDQUOT: return WEFT_ERR_SPACE;
    case EROFS:
    case EACCES:
    case EPERM: return WEFT_ERR_ACCESS;
    case ENOENT:
    case ENOTDIR: return WEFT_ERR_NOTFOUND;
    case ENOMEM: return WEFT_ERR_NOMEM;
    default: return WEFT_ERR_IO;
    }
}

weft_status weft_fail_errno(int e, const char *fmt, ...) {
    char text[TEXT_MAX / 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return weft_fail(status_of_errno(e), "%s: %s", text, strerror(e));
}

weft_status weft_fail_create(int e, const char *fmt, ...) {
    char text[TEXT_MAX / 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    weft_status s = status_of_errno(e);
    return weft_fail(s == WEFT_ERR_NOTFOUND ? WEFT_ERR_ACCESS : s, "%s: %s", text, strerror(e));
}

weft_status weft_context(weft_status s, const char *fmt, ...) {
    char text[TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= (int)sizeof text - 3) return s;
    size_t at = (size_t)n + 2, keep = strnlen(error_text, sizeof text - 1 - at); /* the far end gives way */
    memmove(error_text + at, error_text, keep);
    memcpy(error_text, text, (size_t)n);
    memcpy(error_text + n, ": ", 2);
    error_text[at + keep] = 0;
    return s;
}
