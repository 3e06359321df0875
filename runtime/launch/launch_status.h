/* status.json: what a supervisor says about its job, as weft launch reads it. Written by `weft supervise`; what is unknown or
 * missing there is 0 here, what is of another shape is an error. Pure, any thread. */
#ifndef WEFT_LAUNCH_STATUS_H
#define WEFT_LAUNCH_STATUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum launch_job_state { /* of the supervisor */
                                LAUNCH_JOB_INIT,
                                LAUNCH_JOB_CHECK,
                                LAUNCH_JOB_WAIT_HUB,
                                LAUNCH_JOB_RUN,
                                LAUNCH_JOB_REPAIR,
                                LAUNCH_JOB_STOPPING,
                                LAUNCH_JOB_CHAIN,
                                LAUNCH_JOB_END,
                                LAUNCH_JOB_STATES
} launch_job_state;

typedef struct launch_status {
    int there; /* there is a status.json, and it could be read */
    launch_job_state state;
    char why[160];
    uint64_t job, next_job, step, saved, ranks;
    uint32_t generation, relaunch, nodes, bad;
    int has_exit, exit;
    double step_s, save_s, remaining_s;
    double node_seconds, core_seconds, gpu_seconds; /* of all generations so far */
    double began_unix, now_unix;
} launch_status;

const char *launch_job_state_name(launch_job_state s);
/* FORMAT: not JSON, or not such an object; VERSION. */
weft_status launch_status_parse(const char *text, size_t n, launch_status *out);

#endif
