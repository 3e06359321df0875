/* The control page of a node: what the agent and the ranks of a node tell each other, in one file of /dev/shm.
 *
 * The header is the agent's, a slot its rank's; every word has one writer. Words are stored with release and loaded with
 * acquire; a reader may see the words of two beats mixed, never a torn word. The page outlives the ranks: those of the
 * next MPI step of the job take the slots over. It says nothing that is secret and takes nothing from a file that does
 * not belong to this user alone. */
#ifndef WEFT_RUNTIME_JOB_PAGE_H
#define WEFT_RUNTIME_JOB_PAGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define JOB_PAGE_MAGIC   0x4c544357u /* "WCTL" */
#define JOB_PAGE_VERSION 1u
enum { JOB_PAGE_RANKS_MOST = 1024, JOB_PAGE_NAME = 256, JOB_WAIT_S = 30 };

typedef struct job_page_head {
    uint32_t magic, version;
    uint64_t run[2];          /* the token of the job, as two little-endian numbers */
    _Atomic uint64_t stop;    /* enum weft_stop_why */
    _Atomic int64_t deadline; /* ns of CLOCK_MONOTONIC at which the job is ended from outside; 0: not known */
    uint32_t ranks;           /* slots that follow */
    uint32_t agent;           /* its pid */
    _Atomic uint64_t agent_ns; /* CLOCK_MONOTONIC of its last round */
    uint64_t pad;
} job_page_head;

typedef struct job_slot {
    _Atomic uint64_t step;    /* completed */
    _Atomic uint64_t mono_ns; /* of the last beat, on this node's clock; the last word written */
    _Atomic uint32_t phase;
    _Atomic uint32_t pid;     /* 0: nobody; the last word written by who takes a slot */
    _Atomic uint64_t step_ns; /* a step takes, measured */
    _Atomic uint64_t saved;   /* step of the last committed checkpoint + 1; 0: none */
    _Atomic uint64_t save_ns; /* a checkpoint takes, measured; 0: not known */
    _Atomic uint64_t started; /* start time of the process (job_process_started): pids come again */
    uint64_t pad;
} job_slot;

_Static_assert(sizeof(job_page_head) == 64 && sizeof(job_slot) == 64, "one cache line each");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "words of the page are written by other processes");

typedef struct job_page {
    job_page_head *head;
    job_slot *slot; /* [head->ranks], and `ranks` here: the header is not trusted after it was checked */
    uint32_t ranks;
    size_t bytes;
} job_page;

/* The file of the page of this process' node: WEFT_JOB_PAGE, or
 * /dev/shm/weft-<SLURM_CLUSTER_NAME>-<SLURM_JOB_ID>-<SLURMD_NODENAME>[-c<WEFT_CELL>]. Agent and ranks ask the same function,
 * so WEFT_CELL is set for both or for none.
 * UNSUPPORTED: neither is set. CONFIG: a name that cannot be one of a file. */
weft_status job_page_name(char name[JOB_PAGE_NAME]);

/* Agent: makes the page, with nobody in it, mode 0600. One that is there is taken over with its ranks if it is a whole page
 * of this run with as many slots, else it is removed first if it belongs to this user. ARG, ACCESS, SPACE, IO. */
weft_status job_page_create(const char *name, const uint64_t run[2], uint32_t ranks, job_page *p);
/* Rank: maps the page that the agent has made. NOTFOUND: not there (yet). ACCESS: not a plain file of this user alone.
 * FORMAT: not a page, or cut. VERSION. */
weft_status job_page_open(const char *name, job_page *p);
void job_page_close(job_page *p);                    /* unmaps */
void job_page_remove(const char *name, job_page *p); /* and removes the file */

/* Rank: takes slot i. What is in it is that of an earlier step of the job: its end is not waited for. ARG: no such slot. */
weft_status job_slot_take(job_page *p, uint32_t i);
void job_slot_leave(job_page *p, uint32_t i); /* only if it is still this process' */

/* Start time of a process in clock ticks since boot (/proc/PID/stat); 0: there is none. */
uint64_t job_process_started(uint32_t pid);
/* The process that took the slot still runs (a zombie does not). */
int job_slot_alive(const job_slot *s);

/* What the ranks of the node do, together. */
typedef struct job_node {
    uint32_t live,
        dead; /* processes of taken slots that run; that have gone without leaving, nor were about to end */
    uint64_t min_step, max_step; /* of those that live; 0: none lives */
    uint64_t saved;              /* the least of those that live */
    uint64_t step_ns, save_ns;   /* the most */
    uint32_t phase;              /* of the one that is least far */
    int waits;                   /* a live rank is in WEFT_JOB_WAIT and has said so again within JOB_WAIT_S */
} job_node;
void job_page_look(const job_page *p, job_node *n);

#endif
