/* Slurm's words: what may stand on a command line, times, and what sbatch and squeue print. Strict: a line that is not
 * exactly as expected is an error that shows it, never a guess. Pure, any thread. */
#ifndef WEFT_LAUNCH_SLURM_TEXT_H
#define WEFT_LAUNCH_SLURM_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    SLURM_NAME = 128,      /* bytes of a comment, a reason, a node list (cut), their zero included */
    SLURM_WORD_MAX = 1024, /* of a word on a command line */
    SLURM_JOBS = 256,      /* jobs of a listing at most */
};

/* May s stand on a command line, of a shell or of ssh? 1 to SLURM_WORD_MAX - 1 letters, digits and _./:=,@%+-; a word that is
 * no option does not begin with '-'. */
int slurm_word_ok(const char *s, int may_be_option);
/* The same for the name of a site: letters, digits, '_' and '-', first a letter or digit, fewer than 32, and not "hub". */
int slurm_site_ok(const char *s);

/* A time limit as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S, UNLIMITED. Seconds, INT64_MAX: no limit, -1: it is
 * none (what squeue prints for unknown, INVALID and NOT_SET, too). */
int64_t slurm_time(const char *s);

/* The states of a job that make a difference here. */
typedef enum slurm_state {
    SLURM_PENDING, /* waits, also one that was put back */
    SLURM_RUNNING, /* has its nodes: CONFIGURING, RUNNING, SUSPENDED, STOPPED, RESIZING, SIGNALING, STAGE_OUT */
    SLURM_ENDING,   /* COMPLETING: its nodes are not free yet */
    SLURM_DONE,     /* COMPLETED */
    SLURM_FAILED,   /* FAILED, OUT_OF_MEMORY, DEADLINE, REVOKED, SPECIAL_EXIT */
    SLURM_CANCELED, /* CANCELLED */
    SLURM_TIMEOUT,  /* TIMEOUT */
    SLURM_NODE,     /* NODE_FAIL, BOOT_FAIL */
    SLURM_PREEMPT,  /* PREEMPTED */
    SLURM_STATES
} slurm_state;

const char *slurm_state_name(slurm_state s);
/* Will it not run any more, without being put back? */
static inline int slurm_is_over(slurm_state s) {
    return s >= SLURM_DONE;
}

typedef struct slurm_job {
    uint64_t id;
    slurm_state state;
    int64_t left_s;          /* of its time limit; INT64_MAX: no limit, -1: unknown */
    uint32_t generation;     /* of the comment */
    char reason[SLURM_NAME]; /* why it waits */
    char start[SLURM_NAME];  /* when it began or may begin, as Slurm writes it */
    char nodes[SLURM_NAME];
    char comment[SLURM_NAME];
} slurm_job;

/* The format option of squeue for slurm_parse_jobs, and how a job's lines are asked for: --name=NAME, own jobs, all states. */
#define SLURM_FORMAT "%i|%T|%r|%S|%L|%N|%k"

/* The output of `squeue -h -o SLURM_FORMAT`: jobs whose comment is "PREFIX:GENERATION"; others are left out. Job arrays are
 * refused. FORMAT: what stands there. */
weft_status slurm_parse_jobs(const char *text, size_t n, const char *prefix, slurm_job *jobs, size_t cap,
                             size_t *count);
/* What has to change before a pending job whose reason squeue gives as `reason` can start, whatever becomes free; NULL: it waits
 * for something that comes by itself, or may. */
const char *slurm_stuck(const char *reason);
/* The output of `sbatch --parsable`: "ID" or "ID;CLUSTER", lines of other programs before it allowed. */
weft_status slurm_parse_submitted(const char *text, size_t n, uint64_t *id);

#endif
