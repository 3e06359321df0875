/* weft agent: one process a node, without MPI. It makes the node's control page, tells the supervisor each second how far
 * the ranks of the node are, and puts the answer (stop word, time left) into the page. When the supervisor gives up an MPI
 * step it kills what is left of its ranks here and removes their shared memory, so that the next step finds a clean node.
 *
 * It ends when told to, when it has heard no answer for `silence_s`, or by SIGTERM; the page goes with it. */
#ifndef WEFT_RUNTIME_JOB_AGENT_H
#define WEFT_RUNTIME_JOB_AGENT_H

#include <signal.h>
#include <stdint.h>

#include "base/status.h"

typedef struct job_agent_opts {
    uint32_t size;
    const char *supervisor; /* HOST:PORT; an IPv6 address in brackets */
    const char *page;       /* NULL: job_page_name */
    uint64_t token[2];
    uint16_t node;    /* its number in heartbeats */
    uint32_t ranks;   /* slots of the page; 0: JOB_AGENT_RANKS */
    double every_s;   /* between heartbeats; 0: 1 */
    double silence_s; /* without an answer: end; 0: never (Slurm ends the step with the job) */
    char *const
        *health; /* command of the quick check, NULL-terminated; NULL: there is none, all nodes pass */
    const volatile sig_atomic_t *stop; /* set by a signal; NULL: none */
} job_agent_opts;

enum { JOB_AGENT_RANKS = 256 };

/* Runs until told to end. CONFIG, SERVICE (the address has no host), ACCESS, SPACE, IO. */
weft_status job_agent_run(const job_agent_opts *o);

/* Fills in what the environment of a step says: WEFT_SUPERVISOR, WEFT_TOKEN, and this node's place in WEFT_NODES (a list of
 * node names with commas; its entry that equals SLURMD_NODENAME), else SLURM_NODEID, else 0. CONFIG: something is missing
 * or malformed. */
weft_status job_agent_environment(job_agent_opts *o);

#endif
