/* A team of threads that runs one job at a time, for ops of a few microseconds to seconds. */
#ifndef WEFT_KERNELS_CPU_TEAM_H
#define WEFT_KERNELS_CPU_TEAM_H

#include "kernels/cpu/cpu.h"

#define CPU_TEAM_MAX 1024 /* members */

/* Starts members - 1 workers; the caller of cpu_team_run is member 0. cores: how many this process may use
 * (more members than cores: nobody spins). pu: a processing unit for each member to pin workers to, or NULL.
 * ARG, NOMEM (memory or threads exhausted). */
weft_status cpu_team_create(int members, int cores, const int *pu, struct cpu_team **t);
/* Ends and joins the workers. No job may be running. NULL is allowed. */
void cpu_team_destroy(struct cpu_team *t);

/* Runs job(arg, m, members) for every member; returns when all have. While it waits for the others the caller
 * calls idle(idle_arg) (NULL: nothing) again and again, at least every idle_ns. One thread at a time; not
 * from a job. */
void cpu_team_run(struct cpu_team *t, cpu_job *job, void *arg, void (*idle)(void *), void *idle_arg,
                  uint64_t idle_ns);

#endif
