/* launch.json: what of the launch machine outlives its process, and the hours that were used. Written as a whole. */
#ifndef WEFT_LAUNCH_STATE_H
#define WEFT_LAUNCH_STATE_H

#include "runtime/launch/launch_machine.h"

typedef struct launch_costs { /* seconds */
    double node, core, gpu;   /* of directories before this one */
    uint64_t job;
    double job_node, job_core, job_gpu; /* of `job` and those before it, as its supervisor adds them up */
    uint64_t bytes;
} launch_costs;

/* Adds what a status says; jobs may be seen many times. */
void launch_costs_take(launch_costs *c, const launch_status *s);
/* Fills records and costs by the names of sites; those that are not there stay zero. `path` is for messages. FORMAT, VERSION;
 * CONFIG: it is of another run. */
weft_status launch_state_parse(const char *path, const char *text, size_t n, const launch_config *c,
                               launch_record *records, launch_costs *costs);
/* The file; *found: there was one. */
weft_status launch_state_read(const char *path, const launch_config *c, launch_record *records,
                              launch_costs *costs, int *found);
/* *text is the caller's to free. */
weft_status launch_state_format(const launch_config *c, const launch_record *records,
                                const launch_costs *costs, char **text);
weft_status launch_state_write(const char *path, const launch_config *c, const launch_machine *m,
                               const launch_costs *costs);

#endif
