/* Memory: what is free, in the machine and under every limit of a control group on the way up; what ECC counted;
 * room in /dev/shm. Too little is a fault of the node: a job that starts there ends in the out-of-memory killer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "runtime/health/health.h"

#define MEMORY_LOW  0.25   /* degraded below this share free */
#define MEMORY_NONE 0.10   /* fail */
#define CORRECTED   1000.0 /* errors that ECC corrected since the start: more is a module that is dying */
#define CONTROLLERS 64
#define SHM_NONE    16e6 /* bytes: below this no MPI job starts */
#define SHM_LOW     512e6
#define GIB         1073741824.0

typedef struct room {
    double free, total;
    char where[HEALTH_PATH]; /* folder of the control group; "": the machine */
} room;

/* A limit of one group: takes its place if less is free there. Two generations of control groups. */
static void look_at_group(const health_run *h, const char *base, int two, room *least) {
    char text[8192];
    const double limit = two ? health_read_number(h, INFINITY, "%s/memory.max", base)
                             : health_read_number(h, INFINITY, "%s/memory.limit_in_bytes", base);
    const double used = two ? health_read_number(h, NAN, "%s/memory.current", base)
                            : health_read_number(h, NAN, "%s/memory.usage_in_bytes", base);
    if (!isfinite(limit) || !(limit > 0 && limit < 1e18) || !isfinite(used)) return;
    if (health_slurp(h, text, sizeof text, "%s/memory.stat", base) < 0) text[0] = 0;
    const double cache = health_field(text, two ? "inactive_file" : "total_inactive_file", 0);
    double left = limit - used + cache; /* pages of files that nobody looks at can be had back */
    if (left < 0) left = 0;
    if (left / limit >= least->free / least->total) return;
    *least = (room){.free = left, .total = limit};
    snprintf(least->where, sizeof least->where, "%s", base);
}

static void look_at_groups(const health_run *h, room *least) {
    char text[8192], base[HEALTH_PATH];
    if (health_slurp(h, text, sizeof text, "/proc/self/cgroup") <= 0) return;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *kind = strchr(line, ':'), *path = kind ? strchr(kind + 1, ':') : NULL;
        if (!path) continue;
        const int two = path == kind + 1;
        if (!two && strncmp(kind, ":memory:", 8) != 0) continue;
        const char *mount = two ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
        snprintf(base, sizeof base, "%s%.400s", mount, strcmp(path + 1, "/") ? path + 1 : "");
        for (const size_t end = strlen(mount); strlen(base) >= end;) {
            look_at_group(h, base, two, least);
            char *slash = strrchr(base, '/');
            if (!slash) break;
            *slash = 0;
        }
    }
}

typedef struct biggest {
    const health_run *h;
    int pid;
    double pages;
} biggest;

static void is_bigger(void *arg, int pid) {
    biggest *b = arg;
    char text[128];
    double all, resident;
    if (health_slurp(b->h, text, sizeof text, "/proc/%d/statm", pid) <= 0) return;
    if (sscanf(text, "%lf %lf", &all, &resident) != 2 || resident <= b->pages) return;
    b->pages = resident;
    b->pid = pid;
}

/* "; the largest program is NAME (pid N) with M GiB", of the group whose memory is short. */
static void name_biggest(const health_run *h, const room *r, char *text, size_t cap) {
    char list[16384], name[32];
    biggest b = {.h = h};
    if (*r->where && health_slurp(h, list, sizeof list, "%s/cgroup.procs", r->where) > 0)
        for (char *p = strtok(list, "\n"); p; p = strtok(NULL, "\n")) is_bigger(&b, atoi(p));
    if (!b.pid) health_processes(h, is_bigger, &b);
    text[0] = 0;
    if (!b.pid) return;
    health_process_name(h, b.pid, name, sizeof name);
    snprintf(text, cap, "; the largest program is %s (pid %d) with %.2f GiB", name, b.pid,
             b.pages * 4096 / GIB);
}

static void errors_counted(health_run *h) {
    for (int i = 0; i < CONTROLLERS; i++) {
        const double bad = health_read_number(h, NAN, "/sys/devices/system/edac/mc/mc%d/ue_count", i);
        const double mended = health_read_number(h, 0, "/sys/devices/system/edac/mc/mc%d/ce_count", i);
        char name[16];
        if (isnan(bad)) return;
        snprintf(name, sizeof name, "mc%d", i);
        if (bad > 0)
            health_number(
                health_find(h, WEFT_CHECK_MEMORY, WEFT_HEALTH_FAIL, name,
                            "memory controller %s: %.0f errors that ECC could not correct since the start",
                            name, bad),
                bad, 0, "", 0);
        else if (mended > CORRECTED)
            health_number(
                health_find(h, WEFT_CHECK_MEMORY, WEFT_HEALTH_DEGRADED, name,
                            "memory controller %s: ECC corrected %.0f errors since the start (at most "
                            "%.0f expected): a module is dying",
                            name, mended, CORRECTED),
                mended, CORRECTED, "", 0);
    }
}

void health_memory(health_run *h) {
    char text[8192], who[128] = "";
    if (health_slurp(h, text, sizeof text, "/proc/meminfo") <= 0) {
        health_find(h, WEFT_CHECK_MEMORY, WEFT_HEALTH_DEGRADED, "", "memory: /proc/meminfo cannot be read");
        return;
    }
    room r = {.free = 1024 * health_field(text, "MemAvailable", 0),
              .total = 1024 * health_field(text, "MemTotal", 1)};
    const double machine = r.total;
    look_at_groups(h, &r);
    const double share = r.free / r.total;
    const weft_health_verdict v = share < MEMORY_NONE  ? WEFT_HEALTH_FAIL
                                  : share < MEMORY_LOW ? WEFT_HEALTH_DEGRADED
                                                       : WEFT_HEALTH_OK;
    if (v) name_biggest(h, &r, who, sizeof who);
    health_number(health_find(h, WEFT_CHECK_MEMORY, v, "",
                              "memory: %.2f of %.2f GiB free%s (%.0f %%; at least %.0f %% expected)%s",
                              r.free / GIB, r.total / GIB,
                              *r.where ? " under the limit of the control group" : "", 100 * share,
                              100 * MEMORY_LOW, who),
                  100 * share, 100 * (v == WEFT_HEALTH_FAIL ? MEMORY_NONE : MEMORY_LOW), "%", 0);
    /* a module that is missing since the last start shows against the class */
    health_number(health_find(h, WEFT_CHECK_MEMORY, WEFT_HEALTH_OK, "installed", "memory: %.2f GiB installed",
                              machine / GIB),
                  machine / GIB, NAN, "GiB", 1);
    errors_counted(h);
}

void health_shm(health_run *h) {
    struct statvfs v;
    if (statvfs("/dev/shm", &v)) {
        health_find(h, WEFT_CHECK_SHM, WEFT_HEALTH_FAIL, "/dev/shm",
                    "/dev/shm is not there: the ranks of a node cannot share memory");
        return;
    }
    const double left = (double)v.f_bavail * (double)v.f_frsize,
                 all = (double)v.f_blocks * (double)v.f_frsize;
    const weft_health_verdict w = left < SHM_NONE  ? WEFT_HEALTH_FAIL
                                  : left < SHM_LOW ? WEFT_HEALTH_DEGRADED
                                                   : WEFT_HEALTH_OK;
    health_number(health_find(h, WEFT_CHECK_SHM, w, "/dev/shm",
                              "/dev/shm: %.0f of %.0f MB free (at least %.0f MB expected)%s", left / 1e6,
                              all / 1e6, SHM_LOW / 1e6, w ? "; look for leftovers with ls -l /dev/shm" : ""),
                  left / 1e6, (w == WEFT_HEALTH_FAIL ? SHM_NONE : SHM_LOW) / 1e6, "MB", 0);
}
