/* Launching a run at one or several centres: one ordinary batch job of Slurm per site, from the `launch:` section of a run file
 * (docs/run-file.md). What `weft launch` does, for programs of one's own.
 *
 * A weft_launch holds no job: it watches. Its process may end or be killed at any moment; the next one, wherever it is started,
 * finds the jobs again by their comments and goes on. One thread at a time; different objects are independent. */
#ifndef WEFT_LAUNCH_H
#define WEFT_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

#include "weft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_launch weft_launch;

typedef struct weft_launch_opts {
    uint32_t size;           /* sizeof(weft_launch_opts) */
    const char *const *sets; /* KEY=VALUE that override keys of the run file; borrowed until open returns */
    size_t nsets;
    const char *state; /* file that remembers jobs; NULL: RUN.launch.json beside RUN.yaml */
    const char *weft;  /* the command at sites whose driver is local; NULL: "weft", to be found in PATH */
    const char
        *env_dir;    /* where environment profiles are; NULL: there are none but files named by their path */
    int observe;     /* 1: submit nothing and lock nothing; look at what is there, and stop it if asked to */
    int again;       /* 1: also submit what had ended well */
    double poll_s;   /* seconds between two looks at a site; 0: 10, and 30 over ssh */
    double settle_s; /* seconds that a submission which was cut off may still take effect in; 0: 15 */
} weft_launch_opts;

typedef struct weft_launch_site {
    char name[32];
    char phase[16]; /* looking, preparing, saving, submitting, queued, starting, training, ended */
    char state
        [16]; /* of its supervisor: init, check, wait_hub, run, repair, stopping, chain, end; "": not known */
    char why[160]; /* what it waits for, or why it ended */
    int lost;      /* it cannot be reached now; the rest is as it was last seen */
    uint64_t job;  /* 0: none yet */
    uint32_t generation, relaunch, nodes;
    int exit_code;                            /* once ended; -1: before, or there never was a job */
    uint64_t step, saved;                     /* newest step; newest checkpoint's step */
    double step_s;                            /* seconds of a step; 0: not known */
    double remaining_s;                       /* until the time limit; < 0: not known */
    double node_hours, core_hours, gpu_hours; /* of all its jobs that were seen */
    uint64_t bytes;                           /* sent to other sites; 0 until the end */
} weft_launch_site;

/* Reads and checks the run file; contacts nobody. CONFIG names the site, the key, the line and what would work; NOTFOUND;
 * STATE: another weft launch watches this run (not with observe); NOMEM, ACCESS, IO. */
WEFT_API weft_status weft_launch_open(const char *run_file, const weft_launch_opts *o, weft_launch **out);
/* The batch script of a site's first job (site NULL: of the first site), zero-terminated, cut at cap; *need: bytes with the zero.
 * NOTFOUND: no such site. */
WEFT_API weft_status weft_launch_script(const weft_launch *l, const char *site, char *buf, size_t cap,
                                        size_t *need);
/* Goes on until every site has a job, has ended or cannot be reached, at most timeout_ms. Idempotent: a site that has a job gets
 * no second one. WEFT_IN_PROGRESS: not all of them yet. */
WEFT_API weft_status weft_launch_submit(weft_launch *l, int64_t timeout_ms);
/* Goes on for at most timeout_ms, or until something has changed, and tells how the sites are: min(cap, sites) of them, *n all.
 * WEFT_IN_PROGRESS while the run goes on; OK: it has ended. */
WEFT_API weft_status weft_launch_poll(weft_launch *l, weft_launch_site *s, size_t cap, size_t *n,
                                      int64_t timeout_ms);
/* Asks a site (NULL: all) to save and end, and takes its jobs that wait out of the queue; weft_launch_poll does it. NOTFOUND. */
WEFT_API weft_status weft_launch_stop(weft_launch *l, const char *site);
/* Exit code of the run (docs/exit-codes.md) and why, once it has ended; -1 before. *why is borrowed; may be NULL. */
WEFT_API int weft_launch_result(const weft_launch *l, const char **why);
/* Leaves jobs running. NULL is no harm. */
WEFT_API void weft_launch_close(weft_launch *l);

#ifdef __cplusplus
}
#endif

#endif
