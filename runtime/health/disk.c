/* Folders: each is written to by a thread of its own, all at once, under one deadline: a write to a file server that
 * is gone never returns, and that is the finding. Such a thread is left behind; what it holds is its own (the
 * probe, freed by whoever lets go last). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "runtime/health/health.h"

#define PATIENCE_S     20.0
#define SLOW_S         1.2 /* a small file took longer: degraded */
#define WRITE_BYTES    (64u << 20)
#define WRITE_PIECE    (4u << 20)
#define WRITE_MOST_S   1.5 /* then what is written so far is synced and counted */
#define FREE_NONE      0.01
#define FREE_LOW       0.05
#define FREE_LOW_BYTES 10e9 /* a large disk may be fuller */
#define TIME_LOW_S     1.0  /* the server's clock against ours */
#define TIME_NONE_S    60.0

typedef enum stage { OPENING, WRITING, SYNCING, READING, REMOVING, DONE } stage;
static const char *const doing[] = {"opening a file in", "writing to",           "syncing a file in",
                                    "reading from",      "removing a file from", ""};

/* What the thread sees; its own until it is done. */
typedef struct seen {
    double took;      /* seconds, all of it */
    double rate;      /* bytes a second, the sync included */
    double free, all; /* bytes */
    double inodes;    /* share free */
    double clock_off; /* seconds by which the file's time lies outside what we saw */
} seen;

typedef struct probe {
    pthread_mutex_t lock; /* of at, done, error, seen, holders */
    pthread_cond_t changed;
    int holders; /* the thread, and who waits for it */
    size_t bytes;
    stage at; /* where it is, or where it failed */
    int done, error;
    seen seen;
    char dir[HEALTH_PATH];
} probe;

static void let_go(probe *p) {
    pthread_mutex_lock(&p->lock);
    const int last = --p->holders == 0;
    pthread_mutex_unlock(&p->lock);
    if (!last) return;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p);
}

static void is_at(probe *p, stage at) {
    pthread_mutex_lock(&p->lock);
    p->at = at;
    pthread_mutex_unlock(&p->lock);
}

/* Writes p->bytes in pieces; returns 0 or an errno. */
static int write_some(probe *p, seen *r, int fd, char *piece, size_t n) {
    const double began = weft_now();
    size_t done = 0;
    while (done < p->bytes && weft_now() - began < WRITE_MOST_S) {
        const size_t want = p->bytes - done < n ? p->bytes - done : n;
        ssize_t k = write(fd, piece, want);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return k < 0 ? errno : EIO;
        done += (size_t)k;
    }
    is_at(p, SYNCING);
    if (fsync(fd)) return errno;
    r->rate = (double)done / (weft_now() - began);
    return 0;
}

static int read_back(int fd, const char *piece, size_t n) {
    char got[4096];
    const size_t want = n < sizeof got ? n : sizeof got;
    ssize_t k = pread(fd, got, want, 0);
    return k < 0 ? errno : (size_t)k != want || memcmp(got, piece, want) != 0 ? EIO : 0;
}

static int look(probe *p, seen *r) {
    char path[HEALTH_PATH + 32];
    struct statvfs v;
    struct stat st;
    const size_t n = p->bytes < WRITE_PIECE ? p->bytes : WRITE_PIECE;
    char *piece = weft_calloc(n, 1);
    if (!piece) return ENOMEM;
    for (size_t i = 0; i < n; i++) piece[i] = (char)(i * 2654435761u >> 24);
    if (!statvfs(p->dir, &v)) {
        r->free = (double)v.f_bavail * (double)v.f_frsize;
        r->all = (double)v.f_blocks * (double)v.f_frsize;
        r->inodes = v.f_files ? (double)v.f_favail / (double)v.f_files : 1;
    }
    snprintf(path, sizeof path, "%s/.weft-health-XXXXXX", p->dir);
    const double before = weft_wall();
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        const int why = errno;
        free(piece);
        return why;
    }
    is_at(p, WRITING);
    int e = write_some(p, r, fd, piece, n);
    const double after = weft_wall();
    if (!e) {
        is_at(p, READING);
        e = read_back(fd, piece, n);
        if (!fstat(fd, &st)) {
            const double t = (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec * 1e-9;
            r->clock_off = t < before ? t - before : t > after ? t - after : 0;
        }
    }
    if (!e) is_at(p, REMOVING);
    if (unlink(path) && !e) e = errno;
    close(fd);
    free(piece);
    return e;
}

static void *run(void *arg) {
    probe *p = arg;
    const double began = weft_now();
    seen r = {0};
    const int e = look(p, &r);
    r.took = weft_now() - began;
    pthread_mutex_lock(&p->lock);
    p->seen = r;
    p->error = e;
    if (!e) p->at = DONE;
    p->done = 1;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    let_go(p);
    return NULL;
}

static probe *start(const char *dir, size_t bytes) {
    pthread_t thread;
    pthread_attr_t attr;
    pthread_condattr_t monotonic;
    probe *p = weft_calloc(1, sizeof *p);
    if (!p) return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    snprintf(p->dir, sizeof p->dir, "%.*s", HEALTH_PATH - 1, dir);
    p->bytes = bytes;
    p->holders = 2;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    const int e = pthread_create(&thread, &attr, run, p);
    pthread_attr_destroy(&attr);
    if (e) {
        p->holders = 1; /* there is no thread */
        let_go(p);
        return NULL;
    }
    return p;
}

/* Waits until *p is done or the deadline passed, copies what it found and lets it go. */
static void finish(probe *p, const struct timespec *deadline, probe *found) {
    pthread_mutex_lock(&p->lock);
    while (!p->done && pthread_cond_timedwait(&p->changed, &p->lock, deadline) != ETIMEDOUT) continue;
    *found = *p;
    pthread_mutex_unlock(&p->lock);
    let_go(p);
}

static struct timespec in_seconds(double s) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const double at = (double)t.tv_sec + (double)t.tv_nsec * 1e-9 + s;
    t.tv_sec = (time_t)at;
    t.tv_nsec = (long)((at - (double)t.tv_sec) * 1e9);
    return t;
}

static double patience_of(const health_run *h) {
    return h->o->patience_s > 0 ? h->o->patience_s : PATIENCE_S;
}

/* 1: something is wrong, and said. */
static int say_failure(health_run *h, uint32_t check, const probe *p) {
    const double patience = patience_of(h);
    if (!p->done) {
        health_number(health_find(h, check, WEFT_HEALTH_FAIL, p->dir,
                                  "%.150s: %s it took more than %.1f s: its server does not answer", p->dir,
                                  doing[p->at], patience),
                      patience, patience, "s", 0);
        return 1;
    }
    if (!p->error) return 0;
    health_find(h, check, WEFT_HEALTH_FAIL, p->dir, "%.150s: %s it failed: %s%s", p->dir, doing[p->at],
                strerror(p->error),
                p->error == ENOSPC   ? " (disk full)"
                : p->error == EDQUOT ? " (quota)"
                                     : "");
    return 1;
}

static void say_room(health_run *h, const probe *p) {
    const seen *r = &p->seen;
    const double share = r->all > 0 ? r->free / r->all : 1, least = share < r->inodes ? share : r->inodes;
    const int low = least < FREE_LOW && (r->free < FREE_LOW_BYTES || r->inodes < FREE_LOW);
    const int none = least < FREE_NONE && low;
    const weft_health_verdict v = none ? WEFT_HEALTH_FAIL : low ? WEFT_HEALTH_DEGRADED : WEFT_HEALTH_OK;
    health_number(health_find(h, WEFT_CHECK_DISK, v, p->dir,
                              "%.120s: can be written, %.1f GB free (%.1f %% of the space, %.0f %% of the "
                              "inodes; at least %.0f %% expected)",
                              p->dir, r->free / 1e9, 100 * share, 100 * r->inodes, 100 * FREE_LOW),
                  100 * least, 100 * (none ? FREE_NONE : FREE_LOW), "%", 0);
    if (r->took > SLOW_S)
        health_number(health_find(h, WEFT_CHECK_DISK, WEFT_HEALTH_DEGRADED, p->dir,
                                  "%.120s: a file of 4 KiB took %.1f s (at most %.1f s expected): it or its "
                                  "server is overloaded",
                                  p->dir, r->took, SLOW_S),
                      r->took, SLOW_S, "s", 0);
    const double off = fabs(r->clock_off);
    if (off > TIME_LOW_S)
        health_number(health_find(h, WEFT_CHECK_CLOCK,
                                  off > TIME_NONE_S ? WEFT_HEALTH_FAIL : WEFT_HEALTH_DEGRADED, p->dir,
                                  "%.120s: its server's clock is %.1f s %s this node's (at most %.0f s "
                                  "expected): make writes wrong "
                                  "decisions, certificates fail",
                                  p->dir, off, r->clock_off < 0 ? "behind" : "before", TIME_LOW_S),
                      off, TIME_LOW_S, "s", 0);
}

void health_disk(health_run *h) {
    char dir[HEALTH_DIRS][HEALTH_PATH];
    probe *p[HEALTH_DIRS], found;
    const size_t n = health_dirs(h, dir, HEALTH_DIRS);
    const struct timespec deadline = in_seconds(patience_of(h));
    for (size_t i = 0; i < n; i++) p[i] = start(dir[i], 4096);
    for (size_t i = 0; i < n; i++) {
        if (!p[i]) {
            health_find(h, WEFT_CHECK_DISK, WEFT_HEALTH_FAIL, dir[i],
                        "%.150s: no memory or thread to look at it", dir[i]);
            continue;
        }
        finish(p[i], &deadline, &found);
        if (!say_failure(h, WEFT_CHECK_DISK, &found)) say_room(h, &found);
    }
}

void health_write(health_run *h) {
    char dir[1][HEALTH_PATH];
    probe found, *p = health_dirs(h, dir, 1) ? start(dir[0], WRITE_BYTES) : NULL;
    if (!p) return;
    const struct timespec deadline = in_seconds(patience_of(h));
    finish(p, &deadline, &found);
    if (say_failure(h, WEFT_CHECK_WRITE, &found)) return;
    health_number(health_find(h, WEFT_CHECK_WRITE, WEFT_HEALTH_OK, found.dir,
                              "%.120s: written and synced at %.0f MB/s", found.dir, found.seen.rate / 1e6),
                  found.seen.rate / 1e6, NAN, "MB/s", 1);
}

/* --- which folders ---------------------------------------------------------------------------------------------- */

static int is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The spool of slurmd, from slurm.conf: %n is the node, %h the host. 0: not said. */
static int spool_of_slurmd(const health_run *h, char *dir, size_t cap) {
    static const char key[] = "SlurmdSpoolDir";
    const char *conf = getenv("SLURM_CONF");
    char *text = weft_calloc(65536, 1), host[64] = "";
    int found = 0;
    if (text && health_slurp(h, text, 65536, "%s", conf && *conf ? conf : "/etc/slurm/slurm.conf") > 0) {
        gethostname(host, sizeof host - 1);
        for (char *line = strtok(text, "\n"); line && !found; line = strtok(NULL, "\n")) {
            while (is_space(*line)) line++;
            if (strncasecmp(line, key, sizeof key - 1) != 0) continue;
            char *from = line + sizeof key - 1;
            while (is_space(*from) || *from == '=') from++;
            size_t n = 0;
            for (; *from && !is_space(*from) && *from != '#' && n + 1 < cap; from++) {
                const char *put = from[0] != '%'   ? NULL
                                  : from[1] == 'n' ? h->r->node
                                  : from[1] == 'h' ? host
                                                   : NULL;
                if (!put) {
                    dir[n++] = *from;
                    continue;
                }
                n += (size_t)snprintf(dir + n, cap - n, "%s", put);
                if (n >= cap) n = cap - 1;
                from++;
            }
            dir[n] = 0;
            found = n > 0;
        }
    }
    free(text);
    return found;
}

size_t health_dirs(const health_run *h, char (*dir)[HEALTH_PATH], size_t cap) {
    size_t n = 0;
    for (; n < h->o->dirs && n < cap; n++)
        snprintf(dir[n], HEALTH_PATH, "%.*s", HEALTH_PATH - 1, h->o->dir[n]);
    if (n == 0 && cap) {
        const char *t = getenv("TMPDIR");
        snprintf(dir[n++], HEALTH_PATH, "%.*s", HEALTH_PATH - 1, t && *t ? t : "/tmp");
    }
    if (n < cap && geteuid() == 0 && spool_of_slurmd(h, dir[n], HEALTH_PATH)) n++;
    return n;
}
