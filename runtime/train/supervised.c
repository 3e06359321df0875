/* A run whose job is supervised (weft/job.h): where it is told how far the training is, and whether to stop.
 *
 * The stop word of a node's page is read where the flag of the signal is read, and travels in the statistics of the step,
 * so all ranks stop behind the same step although their pages change at different moments. */
#include "runtime/train/internal.h"

weft_status trainer_job_open(weft_trainer *t) {
    const weft_status s = weft_job_attach(&t->job);
    if (s == WEFT_ERR_UNSUPPORTED) {
        weft_clear_error();
        return WEFT_OK;
    }
    WEFT_TRY_CTX(s, "the supervisor of this job");
    trainer_phase(t, WEFT_JOB_START);
    return WEFT_OK;
}

void trainer_phase(weft_trainer *t, uint32_t phase) {
    (void)weft_job_beat(t->job, (uint64_t)t->st.step, phase);
}

int trainer_asked(const weft_trainer *t) {
    const int why = weft_job_asked(t->job);
    if (why) return 1 + (why < TRAINER_STOPS ? why : TRAINER_STOPS - 1);
    return t->o.stop && *t->o.stop ? 1 : 0;
}

const char *trainer_asked_text(const weft_trainer *t) {
    const int asked = trainer_asked(t);
    return asked > 1 ? weft_stop_text(asked - 1) : asked ? "signal" : NULL;
}

const char *trainer_stop_text(const double stops[TRAINER_STOPS]) {
    for (int why = 1; why < TRAINER_STOPS; why++)
        if (stops[why] > 0) return weft_stop_text(why);
    return stops[0] > 0 ? "signal" : NULL;
}
