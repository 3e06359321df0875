/* Is this node fit to train? Checks with a verdict in plain words, the number behind it and its bound.
 *
 *   weft_health_opts o = {.size = sizeof o, .checks = WEFT_CHECK_QUICK};
 *   static weft_health_report r = {.size = sizeof r};
 *   if (weft_health_run(&o, &r) < 0) puts(weft_last_error());
 *   for (uint32_t i = 0; i < r.n; i++) puts(r.finding[i].text);
 *
 * The quick checks only look and write one small file a folder: load does not make them fail, and they
 * end within 2 s on a sound node. The full ones also measure, on all allowed cores, within 5 s: what else runs on
 * the node shows in them. A folder whose server is dead takes its patience longer. Needs no MPI. What is kept from one node as JSON lines
 * (weft health --full --json) is, from several nodes, a reference: their medians are the node class's, and a
 * node below 85 % of them fails. */
#ifndef WEFT_HEALTH_H
#define WEFT_HEALTH_H

#include <stddef.h>
#include <stdint.h>

#include "weft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    WEFT_CHECK_MEMORY = 1u << 0, /* free memory, of the machine and of the cgroup; errors that ECC counted */
    WEFT_CHECK_SHM = 1u << 1,    /* room in /dev/shm */
    WEFT_CHECK_DISK = 1u << 2,   /* folders: a small file, its sync, its time, free space and inodes */
    WEFT_CHECK_NIC = 1u << 3,    /* carrier and speed of interfaces, state of InfiniBand ports */
    WEFT_CHECK_GPU = 1u << 4,    /* NVML: count, ECC, retired pages, throttling; absent: said, no failure */
    WEFT_CHECK_CLOCK = 1u << 5,  /* is it disciplined, how far off */
    WEFT_CHECK_LEFTOVERS = 1u << 6, /* of dead jobs: processes, shared memory */
    WEFT_CHECK_CORES = 1u << 7,     /* checked products on every core: numbers, rate, share */
    WEFT_CHECK_STREAM = 1u << 8,    /* memory bandwidth */
    WEFT_CHECK_WRITE = 1u << 9,     /* 64 MiB to a file, and its sync */
    WEFT_CHECK_PING = 1u << 10,     /* round trips on the loopback, or to a peer */
    WEFT_CHECK_QUICK = (1u << 7) - 1,
    WEFT_CHECK_FULL = (1u << 11) - 1
};

typedef enum weft_health_verdict {
    WEFT_HEALTH_OK = 0,
    WEFT_HEALTH_DEGRADED = 1, /* works, not as it should */
    WEFT_HEALTH_FAIL = 2      /* do not start a job here */
} weft_health_verdict;

/* Texts and arrays are borrowed for the call. */
typedef struct weft_health_opts {
    uint32_t size;   /* sizeof(weft_health_opts) */
    uint32_t checks; /* WEFT_CHECK_*, ORed; 0: QUICK */
    const char *const
        *dir; /* folders to write to; none: TMPDIR or /tmp. As root the spool of slurmd is added */
    size_t dirs;
    const char *const *nic; /* interfaces that must be there and up, besides those found; may be NULL */
    size_t nics;
    const char *peer;      /* "HOST:PORT" to ping; NULL: the loopback */
    const char *reference; /* JSON lines of reports; NULL: none */
    double patience_s;     /* how long a folder may take before it counts as dead; 0: 20 s */
} weft_health_opts;

typedef struct weft_health_finding {
    uint32_t check; /* WEFT_CHECK_* */
    weft_health_verdict verdict;
    int better;   /* +1: larger values are better; -1: smaller ones; 0: not for comparison between nodes */
    double value; /* NaN: no number */
    double bound; /* what value was held against; NaN: nothing */
    char unit[8]; /* of both */
    char subject[64]; /* "eth0", "/tmp", "" */
    char text[240];   /* one line that says it all */
} weft_health_finding;

#define WEFT_HEALTH_FINDINGS 96

typedef struct weft_health_report {
    uint32_t size; /* sizeof(weft_health_report), set by the caller */
    weft_health_verdict worst;
    uint32_t n, left_out; /* findings here; those for which there was no room (they count in worst) */
    double seconds;       /* taken */
    char node[64];        /* SLURMD_NODENAME, or the host's name */
    weft_health_finding finding[WEFT_HEALTH_FINDINGS];
} weft_health_report;

/* Runs the checks. A node that is not fit is no error: see out->worst. Any thread, one call at a time in a
 * process; starts threads of its own and ends them, except one that hangs in a write to a dead server.
 * ARG, FORMAT (reference), NOMEM. */
WEFT_API weft_status weft_health_run(const weft_health_opts *o, weft_health_report *out);
/* The name of one check ("memory"), NULL for an unknown bit; and its bit, 0 for an unknown name. */
WEFT_API const char *weft_health_check_name(uint32_t check);
WEFT_API uint32_t weft_health_check_of(const char *name);
/* The report as one line of JSON in a fresh string; NULL: NOMEM. Free with free(). */
WEFT_API char *weft_health_json(const weft_health_report *r);

#ifdef __cplusplus
}
#endif
#endif
