/* What a dead MPI step leaves on a node: processes that would not die, and shared memory with names. */
#ifndef WEFT_RUNTIME_JOB_LEFTOVERS_H
#define WEFT_RUNTIME_JOB_LEFTOVERS_H

#include "runtime/job/page.h"

/* Kills (SIGKILL) the ranks of the page, and the MPI ranks of this job on this node that never took a slot: processes of
 * this user whose environment has the same SLURM_JOB_ID and SLURMD_NODENAME as this process, and PMIX_RANK. Returns how
 * many of them lived; the caller comes again until it is 0. Not for a process that is a rank itself. */
int job_kill_ranks(const job_page *p);

/* Removes from `dir` ("/dev/shm") the segments of Open MPI on this host (vader_segment.<hostname>.<uid>.*) and of weft
 * (weft-<pid>-*, and control pages whose agent has been gone for a minute) that belong to this user, are older than two
 * seconds and are mapped in no process. Returns how many;
 * *bytes (may be NULL): their size. */
int job_remove_leftovers(const char *dir, uint64_t *bytes);

#endif
