/* Status with a context chain: how errors travel inside weft.
 *
 * The function that finds an error calls weft_fail() once with the cause; every caller may add what it was
 * doing with WEFT_TRY_CTX(). The chain is one thread-local string, outermost context first. */
#ifndef WEFT_BASE_STATUS_H
#define WEFT_BASE_STATUS_H

#include "weft/status.h"

/* Sets the thread's error text and returns s. The text is one line that names what was found, what was
 * expected and what to do. */
weft_status weft_fail(weft_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Like weft_fail, from errno value e: chooses SPACE, ACCESS, NOTFOUND, NOMEM or IO and appends strerror. */
weft_status weft_fail_errno(int e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for something that could not be created: a missing parent directory is ACCESS too, not NOTFOUND.
 */
weft_status weft_fail_create(int e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prepends "fmt: " to the thread's error text and returns s unchanged. */
weft_status weft_context(weft_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Empties the thread's error text. */
void weft_clear_error(void);

/* Returns from the calling function if expr is an error. The only macro that hides control flow. */
#define WEFT_TRY(expr)                                                                                       \
    do {                                                                                                     \
        weft_status weft_try_ = (expr);                                                                      \
        if (weft_try_ < 0) return weft_try_;                                                                 \
    } while (0)

/* The same, and adds a context. */
#define WEFT_TRY_CTX(expr, ...)                                                                              \
    do {                                                                                                     \
        weft_status weft_try_ = (expr);                                                                      \
        if (weft_try_ < 0) return weft_context(weft_try_, __VA_ARGS__);                                      \
    } while (0)

/* For functions with one clean-up label: assigns to a local `s` and jumps. */
#define WEFT_GOTO(expr, label)                                                                               \
    do {                                                                                                     \
        s = (expr);                                                                                          \
        if (s < 0) goto label;                                                                               \
    } while (0)

#endif
