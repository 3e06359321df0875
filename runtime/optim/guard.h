/* The guard: refuses an update whose loss or gradient norm is far out of its recent range.
 *
 * Keeps exponential averages of mean and variance of the loss and of the logarithm of the gradient norm over
 * accepted steps; a z-score above the limit, or a value that is not finite, means: skip this update. All
 * ranks see the same numbers and decide alike. */
#ifndef WEFT_RUNTIME_GUARD_H
#define WEFT_RUNTIME_GUARD_H

#include <stdint.h>

typedef struct weft_guard_track {
    double mean, var;
} weft_guard_track;

typedef struct weft_guard {
    double limit;     /* z-score; 0: only non-finite values are refused */
    int64_t accepted; /* steps in the averages; the z-score counts from the 50th on */
    int64_t skipped;  /* in all */
    int64_t in_a_row; /* skipped without an accepted step between */
    weft_guard_track loss, norm;
} weft_guard;

typedef enum weft_verdict { WEFT_ACCEPT, WEFT_SKIP_NONFINITE, WEFT_SKIP_LOSS, WEFT_SKIP_NORM } weft_verdict;

/* Judges one step and updates the averages if it is accepted. *z: the larger of the two scores. */
weft_verdict weft_guard_judge(weft_guard *g, double loss, double grad_norm, double *z);

#endif
