/* Preloaded into a program under test: makes its n-th change of the file system go wrong.
 *
 * WEFT_KILL_AT=n: the n-th call of write, pwrite, fallocate, fsync, fdatasync, rename, unlink, unlinkat, rmdir, ftruncate or mkdir.
 * WEFT_KILL_KIND: what happens then.
 *   kill (default)  the call does not happen (a write happens by half), the process is killed: kill -9, or a power cut
 *   eio             it fails once with EIO
 *   enospc          it fails with ENOSPC, and so does every write, fallocate and mkdir from there on: the disk is full
 *   short           a write happens by half and says so; nothing else
 * WEFT_KILL_PATH=text: only calls on files whose path holds it count (those by name not at all).
 * WEFT_KILL_RANK=r: only in the process of this rank of mpirun. WEFT_KILL_COUNT=path: their number is written there at
 * the end. Files of the terminal and pipes do not count. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* ISO C has no conversion from an object to a function pointer; POSIX has: through their bytes. */
#define REAL(name)                                                                                           \
    static __typeof__(&name) real;                                                                           \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

enum { NOTHING, KILL, FAIL, SHORT };

static atomic_long calls;

static int is_me(void) {
    const char *want = getenv("WEFT_KILL_RANK"), *have = getenv("OMPI_COMM_WORLD_RANK");
    return !want || !*want || (have && !strcmp(want, have));
}

/* Does the file (fd < 0: called by its name) count? */
static int counts(int fd) {
    static const char *part;
    char link[64], path[4096];
    if (!part) part = getenv("WEFT_KILL_PATH") ? getenv("WEFT_KILL_PATH") : "";
    if (!*part) return 1;
    if (fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, part) != NULL;
}

/* What is to happen to this call; fills: it takes room. */
static int due(int fills) {
    static long at = -1;
    static const char *kind;
    if (at < 0) {
        kind = getenv("WEFT_KILL_KIND") ? getenv("WEFT_KILL_KIND") : "kill";
        at = getenv("WEFT_KILL_AT") && is_me() ? atol(getenv("WEFT_KILL_AT")) : 0;
    }
    const long i = atomic_fetch_add(&calls, 1) + 1;
    if (!strcmp(kind, "enospc")) {
        errno = ENOSPC;
        return at && i >= at && fills ? FAIL : NOTHING;
    }
    if (i != at) return NOTHING;
    errno = EIO;
    return !strcmp(kind, "eio") ? FAIL : strcmp(kind, "short") ? KILL : SHORT;
}

static void die(void) {
    raise(SIGKILL);
    for (;;) pause();
}

/* For calls that happen as a whole or not at all: 1 if it fails. */
static int stopped(int fd, int fills) {
    const int what = counts(fd) ? due(fills) : NOTHING;
    if (what == KILL) die();
    return what == FAIL;
}

static int is_file(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

EXPORT ssize_t write(int fd, const void *p, size_t n) {
    REAL(write);
    const int what = is_file(fd) && counts(fd) ? due(1) : NOTHING;
    if (what == FAIL) return -1;
    const ssize_t done = real(fd, p, what == NOTHING || n < 2 ? n : n / 2);
    if (what == KILL) die();
    return done;
}

/* Whole pages, so that a half write past the cache is one that the system could make. */
static size_t half(size_t n) {
    return n > 8192 ? n / 2 / 4096 * 4096 : n < 2 || n % 512 == 0 ? n : n / 2;
}

EXPORT ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    REAL(pwrite);
    const int what = counts(fd) ? due(1) : NOTHING;
    if (what == FAIL) return -1;
    const ssize_t done = real(fd, p, what == NOTHING ? n : half(n), at);
    if (what == KILL) die();
    return done;
}

EXPORT ssize_t pwrite64(int fd, const void *p, size_t n, off_t at) {
    return pwrite(fd, p, n, at);
}

EXPORT int fallocate(int fd, int mode, off_t at, off_t n) {
    REAL(fallocate);
    return stopped(fd, 1) ? -1 : real(fd, mode, at, n);
}

EXPORT int fsync(int fd) {
    REAL(fsync);
    return stopped(fd, 0) ? -1 : real(fd);
}

EXPORT int fdatasync(int fd) {
    REAL(fdatasync);
    return stopped(fd, 0) ? -1 : real(fd);
}

EXPORT int rename(const char *from, const char *to) {
    REAL(rename);
    return stopped(-1, 0) ? -1 : real(from, to);
}

EXPORT int unlink(const char *path) {
    REAL(unlink);
    return stopped(-1, 0) ? -1 : real(path);
}

EXPORT int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    return stopped(-1, 0) ? -1 : real(dir, path, flags);
}

EXPORT int rmdir(const char *path) {
    REAL(rmdir);
    return stopped(-1, 0) ? -1 : real(path);
}

EXPORT int ftruncate(int fd, off_t n) {
    REAL(ftruncate);
    return stopped(fd, 0) ? -1 : real(fd, n);
}

EXPORT int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return stopped(-1, 1) ? -1 : real(path, mode);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("WEFT_KILL_COUNT");
    FILE *f = path && *path && is_me() ? fopen(path, "w") : NULL;
    if (!f) return;
    fprintf(f, "%ld\n", atomic_load(&calls));
    fclose(f);
}
