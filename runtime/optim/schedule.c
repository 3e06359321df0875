/* Learning-rate schedules; see schedule.h. */
#include "runtime/optim/schedule.h"

#include <math.h>

double weft_schedule_lr(const weft_schedule *s, double progress) {
    if (progress < 0) progress = 0;
    if (progress > 1) progress = 1;
    if (progress < s->warmup) return s->lr * progress / s->warmup;
    double span = 1 - s->warmup, after = span > 0 ? (progress - s->warmup) / span : 1;
    switch (s->kind) {
    case WEFT_SCHEDULE_COSINE: return s->min_lr + (s->lr - s->min_lr) * 0.5 * (1 + cos(M_PI * after));
    case WEFT_SCHEDULE_LINEAR: return s->lr + (s->min_lr - s->lr) * after;
    case WEFT_SCHEDULE_WSD:
        if (progress <= 1 - s->decay) return s->lr;
        return s->lr + (s->min_lr - s->lr) * (progress - (1 - s->decay)) / s->decay;
    case WEFT_SCHEDULE_CONSTANT: return s->lr;
    }
    return s->lr;
}
