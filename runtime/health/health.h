/* What the checks share: the run they belong to, how a finding is made, small readers of /proc and /sys.
 *
 * A check looks at one thing, makes one finding that says how it is, and one more for each part that is wrong
 * (a core, an interface). It never fails as a function: what cannot be looked at is said. Files of the kernel
 * are read below `root`, "" outside tests. */
#ifndef WEFT_RUNTIME_HEALTH_H
#define WEFT_RUNTIME_HEALTH_H

#include <math.h>

#include "base/status.h"
#include "weft/health.h"

#define HEALTH_PATH 512
/* A node below this share of its class's median, or a core below that of its node, is not what it should be. */
#define HEALTH_SHARE 0.85

typedef struct health_run {
    const weft_health_opts *o;
    weft_health_report *r;
    const char *root;
    struct health_reference *reference; /* NULL: none */
} health_run;

/* Adds a finding and returns it, for its numbers; where the report is full, a place that is thrown away. */
weft_health_finding *health_find(health_run *h, uint32_t check, weft_health_verdict v, const char *subject,
                                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Gives a finding its number. */
void health_number(weft_health_finding *f, double value, double bound, const char *unit, int better);

/* Reads at most cap - 1 bytes of root/fmt and ends them with a zero. Bytes read, -1: not there. */
long health_slurp(const health_run *h, char *text, size_t cap, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The number that a small file holds; `none` if there is none ("max"). */
double health_read_number(const health_run *h, double none, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The number behind "\nKEY " or "\nKEY: " in text; `none` if the key is not there. */
double health_field(const char *text, const char *key, double none);

/* Calls visit for each process of /proc, in any order. */
void health_processes(const health_run *h, void (*visit)(void *arg, int pid), void *arg);
/* The short name of a process, "?" if it is gone. */
void health_process_name(const health_run *h, int pid, char *name, size_t cap);

/* The checks. */
void health_memory(health_run *h);
void health_shm(health_run *h);
void health_disk(health_run *h);
void health_nic(health_run *h);
void health_gpu(health_run *h);
void health_clock(health_run *h);
void health_leftovers(health_run *h);
void health_cores(health_run *h);
void health_stream(health_run *h);
void health_write(health_run *h);
void health_ping(health_run *h);

/* The folders that are written to: fills at most cap, returns how many. */
#define HEALTH_DIRS 8
size_t health_dirs(const health_run *h, char (*dir)[HEALTH_PATH], size_t cap);

/* --- reference.c: the class of the node --------------------------------------------------------------------- */

typedef struct health_reference health_reference;
/* Reads JSON lines. FORMAT, NOMEM. */
weft_status health_reference_read(const char *text, health_reference **out);
void health_reference_free(health_reference *ref);
/* The median of a finding's value over the reports, and from how many; NaN and 0: unknown there. */
double health_reference_median(const health_reference *ref, uint32_t check, const char *subject,
                               size_t *nodes);
/* Holds every finding that compares against the class, and says what is missing here. */
void health_reference_compare(health_run *h);

/* --- cores.c: for tests ----------------------------------------------------------------------------------------- */

/* Rows of c[n, n] that are not those of a[n, n] b[n, n], all whole numbers: c x = a (b x) in integers with x drawn from
 * seed (Freivalds, "Probabilistic machines can use less running time", IFIP 1977). A wrong row escapes with
 * probability below 1 in 1000. n <= HEALTH_PRODUCT. */
#define HEALTH_PRODUCT 192
int health_wrong_rows(const float *a, const float *b, const float *c, int n, uint64_t seed);

#endif
