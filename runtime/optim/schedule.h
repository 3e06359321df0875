/* Learning-rate schedules as pure functions of progress. */
#ifndef WEFT_RUNTIME_SCHEDULE_H
#define WEFT_RUNTIME_SCHEDULE_H

typedef enum weft_schedule_kind {
    WEFT_SCHEDULE_COSINE,
    WEFT_SCHEDULE_LINEAR,
    WEFT_SCHEDULE_WSD,
    WEFT_SCHEDULE_CONSTANT
} weft_schedule_kind;

typedef struct weft_schedule {
    weft_schedule_kind kind;
    double lr, min_lr; /* peak and final rate */
    double warmup;     /* share of the run, or steps / total steps: linear from 0 */
    double decay;      /* WSD: share of the run at its end that decays */
} weft_schedule;

/* The rate at `progress` in [0, 1] of the run. WSD: warmup, stable, then linear decay (Hu et al., MiniCPM,
 * 2024). */
double weft_schedule_lr(const weft_schedule *s, double progress);

#endif
