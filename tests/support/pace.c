/* Preloaded into a training: a pause of WEFT_PACE_MS after each record of a step, so that a test that waits for something else
 * (a time limit, another node, a second site) does not compute meanwhile what nobody looks at. All ranks wait for the one that
 * writes. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) ssize_t write(int fd, const void *buf, size_t n) {
    static __typeof__(&write) real;
    static const char step[] = "\"loss/train\":";
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "write"); /* ISO C has no such conversion; POSIX has */
    const ssize_t done = real(fd, buf, n);
    const char *ms = getenv("WEFT_PACE_MS");
    if (ms && n > sizeof step && ((const char *)buf)[0] == '{' && memmem(buf, n, step, sizeof step - 1)) {
        const long pause = atol(ms);
        const struct timespec t = {pause / 1000, pause % 1000 * 1000000};
        nanosleep(&t, NULL);
    }
    return done;
}
