/* What dead jobs left behind: processes of a Slurm job none of whose slurmstepd runs here any more, and shared memory of
 * MPI programs and of weft that nobody has mapped. Both take memory and cores from the next job; neither makes a node
 * unfit, so they only degrade it. A process that may not be looked into (not root) is passed over. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "runtime/health/health.h"

#define JOBS     64
#define SEGMENTS 64
#define YOUNG_S  60 /* a segment may be made before it is mapped */
#define MAPS     (1u << 20)

typedef struct leftovers {
    const health_run *h;
    char *text; /* MAPS bytes */
    long live[JOBS];
    int lives;
    long dead[JOBS];
    int pid[JOBS]; /* one of each */
    int count[JOBS], deads;
    struct {
        char name[NAME_MAX + 1];
        double bytes;
        int mapped;
    } * segment;
    int segments;
} leftovers;

/* "slurmstepd: [JOB.STEP]" is what slurmstepd calls itself; "slurmstepd: [JOB_ARRAY..." does not occur. */
static void note_step(void *arg, int pid) {
    leftovers *l = arg;
    long job;
    char text[256];
    if (l->lives == JOBS || health_slurp(l->h, text, sizeof text, "/proc/%d/cmdline", pid) <= 0) return;
    if (sscanf(text, "slurmstepd: [%ld.", &job) == 1) l->live[l->lives++] = job;
}

static long job_of(const leftovers *l, int pid) {
    const long n = health_slurp(l->h, l->text, MAPS, "/proc/%d/environ", pid);
    static const char key[] = "SLURM_JOB_ID=";
    for (const char *p = l->text; n > 0 && p < l->text + n; p += strlen(p) + 1)
        if (!strncmp(p, key, sizeof key - 1)) return strtol(p + sizeof key - 1, NULL, 10);
    return 0;
}

static void note_orphan(void *arg, int pid) {
    leftovers *l = arg;
    char name[32];
    const long job = pid == (int)getpid() ? 0 : job_of(l, pid);
    if (job <= 0) return;
    for (int i = 0; i < l->lives; i++)
        if (l->live[i] == job) return;
    health_process_name(l->h, pid, name, sizeof name);
    /* the daemons themselves inherit the environment of who started them */
    if (!strncmp(name, "slurm", 5) || !strncmp(name, "munged", 6)) return;
    int i = 0;
    while (i < l->deads && l->dead[i] != job) i++;
    if (i == JOBS) return;
    if (i == l->deads) {
        l->dead[l->deads] = job;
        l->pid[l->deads++] = pid;
    }
    l->count[i]++;
}

static int is_of_a_job(const char *name) {
    static const char *const prefix[] = {"weft-",    "weft_",   "vader_segment.", "sm_segment.",
                                         "psm2_shm", "ucx_shm", "nccl-"};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
        if (!strncmp(name, prefix[i], strlen(prefix[i]))) return 1;
    return 0;
}

static void find_segments(leftovers *l) {
    char path[HEALTH_PATH];
    struct stat st;
    snprintf(path, sizeof path, "%s/dev/shm", l->h->root);
    DIR *d = opendir(path);
    for (struct dirent *e; d && l->segments < SEGMENTS && (e = readdir(d));) {
        if (!is_of_a_job(e->d_name) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) ||
            !S_ISREG(st.st_mode))
            continue;
        if (geteuid() != 0 && st.st_uid != geteuid()) continue;
        if (time(NULL) - st.st_mtime < YOUNG_S) continue;
        snprintf(l->segment[l->segments].name, sizeof l->segment->name, "%s", e->d_name);
        l->segment[l->segments++].bytes = (double)st.st_blocks * 512;
    }
    if (d) closedir(d);
}

static void note_mapped(void *arg, int pid) {
    leftovers *l = arg;
    static const char where[] = "/dev/shm/";
    const long got = health_slurp(l->h, l->text, MAPS, "/proc/%d/maps", pid);
    if (got <= 0) return;
    if (got == MAPS - 1) /* the rest is not seen: nothing can be said */
        for (int i = 0; i < l->segments; i++) l->segment[i].mapped = 1;
    for (const char *p = l->text; (p = strstr(p, where));) {
        p += sizeof where - 1;
        const size_t n = strcspn(p, "\n");
        for (int i = 0; i < l->segments; i++)
            if (strlen(l->segment[i].name) == n && !strncmp(l->segment[i].name, p, n))
                l->segment[i].mapped = 1;
    }
}

static void say_segments(health_run *h, const leftovers *l, int *found) {
    double bytes = 0;
    int n = 0;
    const char *one = "";
    for (int i = 0; i < l->segments; i++) {
        if (l->segment[i].mapped) continue;
        bytes += l->segment[i].bytes;
        one = l->segment[i].name;
        n++;
    }
    if (!n) return;
    (*found)++;
    health_number(
        health_find(
            h, WEFT_CHECK_LEFTOVERS, WEFT_HEALTH_DEGRADED, "/dev/shm",
            "/dev/shm: %d segment%s (%.1f MB) that no process has mapped, e.g. %.80s: rm /dev/shm/%.60s", n,
            n == 1 ? "" : "s", bytes / 1e6, one, one),
        n, 0, "", 0);
}

void health_leftovers(health_run *h) {
    leftovers l = {.h = h, .text = weft_calloc(MAPS, 1), .segment = weft_calloc(SEGMENTS, sizeof *l.segment)};
    int found = 0;
    if (!l.text || !l.segment) {
        health_find(h, WEFT_CHECK_LEFTOVERS, WEFT_HEALTH_DEGRADED, "",
                    "leftovers: no memory to look for them");
        goto out;
    }
    health_processes(h, note_step, &l);
    if (l.lives < JOBS) health_processes(h, note_orphan, &l); /* else not all that live are known */
    find_segments(&l);
    if (l.segments) health_processes(h, note_mapped, &l);
    for (int i = 0; i < l.deads; i++, found++) {
        char name[32], job[32];
        snprintf(job, sizeof job, "job %ld", l.dead[i]);
        health_process_name(h, l.pid[i], name, sizeof name);
        health_number(
            health_find(
                h, WEFT_CHECK_LEFTOVERS, WEFT_HEALTH_DEGRADED, job,
                "%d process%s of job %ld, which runs no step here any more, e.g. %s (pid %d): kill %d",
                l.count[i], l.count[i] == 1 ? "" : "es", l.dead[i], name, l.pid[i], l.pid[i]),
            l.count[i], 0, "", 0);
    }
    say_segments(h, &l, &found);
    if (!found) health_find(h, WEFT_CHECK_LEFTOVERS, WEFT_HEALTH_OK, "", "no leftovers of dead jobs");
out:
    free(l.text);
    free(l.segment);
}
