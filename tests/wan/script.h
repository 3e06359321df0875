/* Runs a scenario: starts and kills commands, changes links, waits for logs, while packets are carried. One thread. */
#ifndef WEFT_TESTS_WAN_SCRIPT_H
#define WEFT_TESTS_WAN_SCRIPT_H

#include <sys/types.h>

#include "tests/wan/forward.h"
#include "tests/wan/scenario.h"

typedef struct wan_child {
    pid_t leader;     /* of its session; 0: not running */
    int started;      /* 0 once it was killed, until it is reaped */
    int code;         /* of its last end: exit code, or 128 + signal */
    int64_t log_from; /* where waits go on looking */
    uint64_t from_ns; /* of its last start */
} wan_child;

typedef struct wan_script {
    const wan_scenario *scenario;
    wan_forward *forward;
    const char *dir;
    int verbose, own_proc;
    int next;                      /* statement */
    uint64_t start_ns, reached_ns; /* when the statement before was done */
    double *done_s;                /* of each statement, since the start; -1: not reached */
    wan_child child[WAN_COMMANDS];
} wan_script;

/* dir: where logs lie; it exists. All pointers are borrowed. */
weft_status wan_script_open(wan_script *s, const wan_scenario *scenario, wan_forward *forward,
                            const char *dir);
void wan_script_close(wan_script *s);
/* From the first statement to the last. TIMEOUT, PEER: something that was waited for did not happen, with the line;
 * all commands are killed in any case. *stop may be set by a signal. */
weft_status wan_script_run(wan_script *s, volatile int *stop);

#endif
