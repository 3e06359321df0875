/* Preloaded into a program under test: kills it at its n-th change of the file system, as kill -9 or a power cut would.
 *
 * WEFT_KILL_AT=n: the n-th call of write, pwrite, fsync, rename, unlink, unlinkat, rmdir, ftruncate or mkdir does not
 * happen (a write happens by half), the process is killed. WEFT_KILL_COUNT=path: their number is written there at the
 * end. Files of the terminal and pipes do not count. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* ISO C has no conversion from an object to a function pointer; POSIX has: through their bytes. */
#define REAL(name)                                                                                           \
    static __typeof__(&name) real;                                                                           \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

static atomic_long calls;

static int due(void) {
    static long at = -1;
    const char *e = getenv("WEFT_KILL_AT");
    if (at < 0) at = e ? atol(e) : 0;
    return atomic_fetch_add(&calls, 1) + 1 == at;
}

static void die(void) {
    raise(SIGKILL);
    for (;;) pause();
}

static int is_file(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

EXPORT ssize_t write(int fd, const void *p, size_t n) {
    REAL(write);
    if (!is_file(fd) || !due()) return real(fd, p, n);
    if (real(fd, p, n / 2) >= 0) die();
    die();
    return -1;
}

EXPORT ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    REAL(pwrite);
    if (!due()) return real(fd, p, n, at);
    if (real(fd, p, n / 2, at) >= 0) die();
    die();
    return -1;
}

EXPORT int fsync(int fd) {
    REAL(fsync);
    if (due()) die();
    return real(fd);
}

EXPORT int rename(const char *from, const char *to) {
    REAL(rename);
    if (due()) die();
    return real(from, to);
}

EXPORT int unlink(const char *path) {
    REAL(unlink);
    if (due()) die();
    return real(path);
}

EXPORT int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat);
    if (due()) die();
    return real(dir, path, flags);
}

EXPORT int rmdir(const char *path) {
    REAL(rmdir);
    if (due()) die();
    return real(path);
}

EXPORT int ftruncate(int fd, off_t n) {
    REAL(ftruncate);
    if (due()) die();
    return real(fd, n);
}

EXPORT int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (due()) die();
    return real(path, mode);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("WEFT_KILL_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (!f) return;
    fprintf(f, "%ld\n", atomic_load(&calls));
    fclose(f);
}
