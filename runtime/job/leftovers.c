/* Cleaning a node between two MPI steps of one job.
 *
 * A rank that is killed leaves its vader segment in /dev/shm: memory of the node until somebody removes it. The names say
 * host and user, not the job of Slurm, and other jobs of the user may run here: so a segment goes only if no process has
 * it mapped. It is found out for all segments in one pass over /proc. */
#include "runtime/job/leftovers.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum { SEGMENTS_MOST = 4096, NAME_MOST = 256, AGE_S = 2, ENVIRON_MOST = 1 << 20, LINE_MOST = 4096 + 128 };
#define ORPHAN_NS 60000000000ull

static uint32_t process_of(const struct dirent *e) {
    return isdigit((unsigned char)e->d_name[0]) ? (uint32_t)strtoul(e->d_name, NULL, 10) : 0;
}

static int mine(int proc, const char *name) {
    struct stat st;
    return fstatat(proc, name, &st, 0) == 0 && st.st_uid == geteuid();
}

/* ---- ranks ---- */

static int has(const char *entries, size_t n, const char *entry, size_t length, int whole) {
    for (size_t i = 0; i < n; i += strlen(entries + i) + 1)
        if (!strncmp(entries + i, entry, length) && (!whole || !entries[i + length])) return 1;
    return 0;
}

/* What /proc says of the environment that a process was started with: it is a rank of this job on this node. */
static int is_rank(int proc, const char *pid, char *text, const char *const want[2]) {
    char path[NAME_MOST + 16];
    snprintf(path, sizeof path, "%s/environ", pid);
    const int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t got = 0;
    if (fd < 0) return 0;
    while (n < ENVIRON_MOST - 1 && (got = read(fd, text + n, ENVIRON_MOST - 1 - n)) > 0) n += (size_t)got;
    close(fd);
    text[n] = 0;
    return has(text, n, "PMIX_RANK=", strlen("PMIX_RANK="), 0) && has(text, n, want[0], strlen(want[0]), 1) &&
           has(text, n, want[1], strlen(want[1]), 1);
}

static int kill_strays(const char *job, const char *node) {
    char want_job[NAME_MOST], want_node[NAME_MOST], *text = weft_calloc(1, ENVIRON_MOST);
    const char *const want[2] = {want_job, want_node};
    const int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = proc < 0 ? NULL : fdopendir(proc);
    int n = 0;
    snprintf(want_job, sizeof want_job, "SLURM_JOB_ID=%.200s", job);
    snprintf(want_node, sizeof want_node, "SLURMD_NODENAME=%.200s", node);
    for (struct dirent *e; text && d && (e = readdir(d));) {
        const uint32_t pid = process_of(e);
        if (!pid || pid == (uint32_t)getpid() || !mine(proc, e->d_name) || !job_process_started(pid) ||
            !is_rank(proc, e->d_name, text, want))
            continue;
        kill((pid_t)pid, SIGKILL);
        n++;
    }
    if (d)
        closedir(d);
    else if (proc >= 0)
        close(proc);
    free(text);
    return n;
}

int job_kill_ranks(const job_page *p) {
    const char *job = getenv("SLURM_JOB_ID"), *node = getenv("SLURMD_NODENAME");
    int n = 0;
    for (uint32_t i = 0; i < p->ranks; i++) {
        job_slot *s = p->slot + i;
        const uint32_t pid = atomic_load_explicit(&s->pid, memory_order_acquire);
        if (!pid) continue;
        if (!job_slot_alive(s)) {
            atomic_store_explicit(&s->pid, 0,
                                  memory_order_release); /* its owner is gone: nobody else writes it */
            continue;
        }
        if (pid != (uint32_t)getpid()) kill((pid_t)pid, SIGKILL);
        n++;
    }
    return job && node && *job && *node && !getenv("PMIX_RANK") ? n + kill_strays(job, node) : n;
}

/* ---- shared memory ---- */

typedef struct segment {
    char name[NAME_MOST];
    uint64_t bytes;
    int used;
} segment;

/* A name that Open MPI or weft gives on this host to memory of this user. */
static int known(const char *name, const char *ompi) {
    unsigned long pid = 0;
    char dash = 0;
    return !strncmp(name, ompi, strlen(ompi)) ||
           (sscanf(name, "weft-%lu%c%*[0-9a-f]", &pid, &dash) == 2 && dash == '-' &&
            !job_process_started((uint32_t)pid) && strspn(name + 5, "0123456789abcdef-") == strlen(name + 5));
}

/* A control page whose agent was killed with its job. A page lives in one boot, so its clock is this one's; the agent of
 * another pid namespace seems gone, but its time goes on. */
static int is_orphan_page(int dir, const char *name) {
    job_page_head h = {0};
    if (strncmp(name, "weft-", 5) != 0) return 0;
    const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, &h, sizeof h);
    close(fd);
    if (n != (ssize_t)sizeof h || h.magic != JOB_PAGE_MAGIC) return 0;
    const uint64_t told = atomic_load_explicit(&h.agent_ns, memory_order_relaxed), now = weft_now_ns();
    return !job_process_started(h.agent) && told && now > told && now - told > ORPHAN_NS;
}

static size_t list_segments(const char *dir, segment *list) {
    char host[128] = "", ompi[NAME_MOST];
    DIR *d = opendir(dir);
    size_t n = 0;
    if (gethostname(host, sizeof host - 1) < 0) host[0] = 0;
    snprintf(ompi, sizeof ompi, "vader_segment.%s.%u.", host, (unsigned)geteuid());
    for (struct dirent *e; d && n < SEGMENTS_MOST && (e = readdir(d));) {
        struct stat st;
        if (strlen(e->d_name) >= NAME_MOST ||
            (!known(e->d_name, ompi) && !is_orphan_page(dirfd(d), e->d_name)) ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
            st.st_uid != geteuid() || st.st_ctime > time(NULL) - AGE_S)
            continue;
        list[n] = (segment){.bytes = (uint64_t)st.st_size};
        snprintf(list[n++].name, NAME_MOST, "%s", e->d_name);
    }
    if (d) closedir(d);
    return n;
}

static void mark(segment *list, size_t n, const char *path, const char *dir) {
    const size_t k = strlen(dir);
    if (strncmp(path, dir, k) != 0 || path[k] != '/') return;
    for (size_t i = 0; i < n; i++)
        if (!strncmp(path + k + 1, list[i].name, strlen(list[i].name))) list[i].used = 1;
}

/* Marks what a process has mapped. One that may not be looked into is no MPI rank: those are ordinary programs of this user. */
static void mark_maps(int proc, const char *pid, segment *list, size_t n, const char *dir) {
    char path[NAME_MOST + 16], line[LINE_MOST];
    snprintf(path, sizeof path, "%s/maps", pid);
    const int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (fd >= 0 && !f) close(fd);
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        const char *at = strchr(line, '/');
        if (at) mark(list, n, at, dir);
    }
    fclose(f);
}

/* 0: there is no /proc to find out by. */
static int mark_used(segment *list, size_t n, const char *dir) {
    const int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = proc < 0 ? NULL : fdopendir(proc);
    if (proc >= 0 && !d) close(proc);
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));)
        if (process_of(e) && mine(proc, e->d_name)) mark_maps(proc, e->d_name, list, n, dir);
    closedir(d);
    return 1;
}

int job_remove_leftovers(const char *dir, uint64_t *bytes) {
    segment *list = weft_calloc(SEGMENTS_MOST, sizeof *list);
    char path[4096];
    int removed = 0;
    if (bytes) *bytes = 0;
    const size_t n = list ? list_segments(dir, list) : 0;
    const int sure = n && mark_used(list, n, dir);
    for (size_t i = 0; sure && i < n; i++) {
        if (list[i].used) continue;
        snprintf(path, sizeof path, "%s/%s", dir, list[i].name);
        if (unlink(path) < 0) continue;
        removed++;
        if (bytes) *bytes += list[i].bytes;
    }
    free(list);
    return removed;
}
