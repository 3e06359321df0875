/* The run of the checks and what they share; see health.h. */
#include "runtime/health/health.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const struct {
    const char *name;
    uint32_t bit;
    void (*run)(health_run *h);
} checks[] = {{"memory", WEFT_CHECK_MEMORY, health_memory},
              {"shm", WEFT_CHECK_SHM, health_shm},
              {"disk", WEFT_CHECK_DISK, health_disk},
              {"nic", WEFT_CHECK_NIC, health_nic},
              {"gpu", WEFT_CHECK_GPU, health_gpu},
              {"clock", WEFT_CHECK_CLOCK, health_clock},
              {"leftovers", WEFT_CHECK_LEFTOVERS, health_leftovers},
              {"cores", WEFT_CHECK_CORES, health_cores},
              {"stream", WEFT_CHECK_STREAM, health_stream},
              {"write", WEFT_CHECK_WRITE, health_write},
              {"ping", WEFT_CHECK_PING, health_ping}};
#define CHECKS (sizeof checks / sizeof *checks)

const char *weft_health_check_name(uint32_t check) {
    for (size_t i = 0; i < CHECKS; i++)
        if (checks[i].bit == check) return checks[i].name;
    return NULL;
}

uint32_t weft_health_check_of(const char *name) {
    for (size_t i = 0; name && i < CHECKS; i++)
        if (!strcmp(checks[i].name, name)) return checks[i].bit;
    return 0;
}

weft_health_finding *health_find(health_run *h, uint32_t check, weft_health_verdict v, const char *subject,
                                 const char *fmt, ...) {
    static weft_health_finding nowhere; /* one call at a time in a process */
    weft_health_report *r = h->r;
    weft_health_finding *f = r->n < WEFT_HEALTH_FINDINGS ? &r->finding[r->n++] : &nowhere;
    va_list args;
    if (f == &nowhere) r->left_out++;
    if (v > r->worst) r->worst = v;
    memset(f, 0, sizeof *f);
    f->check = check;
    f->verdict = v;
    f->value = f->bound = NAN;
    snprintf(f->subject, sizeof f->subject, "%.*s", (int)sizeof f->subject - 1, subject);
    va_start(args, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
    return f;
}

void health_number(weft_health_finding *f, double value, double bound, const char *unit, int better) {
    f->value = value;
    f->bound = bound;
    f->better = better;
    snprintf(f->unit, sizeof f->unit, "%.*s", (int)sizeof f->unit - 1, unit);
}

static long slurp(const health_run *h, char *text, size_t cap, const char *fmt, va_list args) {
    char path[HEALTH_PATH];
    int k = snprintf(path, sizeof path, "%s", h->root);
    if (k < 0 || (size_t)k >= sizeof path) return -1;
    vsnprintf(path + k, sizeof path - (size_t)k, fmt, args);
    text[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t n = 0;
    ssize_t got = 0;
    while (n + 1 < cap && (got = read(fd, text + n, cap - 1 - n)) > 0) n += (size_t)got;
    close(fd);
    text[n] = 0;
    return got < 0 && n == 0 ? -1 : (long)n;
}

long health_slurp(const health_run *h, char *text, size_t cap, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    long n = slurp(h, text, cap, fmt, args);
    va_end(args);
    return n;
}

double health_read_number(const health_run *h, double none, const char *fmt, ...) {
    char text[64], *end;
    va_list args;
    va_start(args, fmt);
    long n = slurp(h, text, sizeof text, fmt, args);
    va_end(args);
    if (n <= 0) return none;
    double v = strtod(text, &end);
    return end == text || !isfinite(v) ? none : v;
}

double health_field(const char *text, const char *key, double none) {
    const size_t n = strlen(key);
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
        if (strncmp(p, key, n) != 0 || (p[n] != ' ' && p[n] != ':')) continue;
        char *end;
        double v = strtod(p + n + 1, &end);
        return end == p + n + 1 ? none : v;
    }
    return none;
}

void health_processes(const health_run *h, void (*visit)(void *arg, int pid), void *arg) {
    char path[HEALTH_PATH];
    snprintf(path, sizeof path, "%s/proc", h->root);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *end;
        long pid = strtol(e->d_name, &end, 10);
        if (pid > 0 && !*end) visit(arg, (int)pid);
    }
    if (d) closedir(d);
}

void health_process_name(const health_run *h, int pid, char *name, size_t cap) {
    if (health_slurp(h, name, cap, "/proc/%d/comm", pid) <= 0) snprintf(name, cap, "?");
    name[strcspn(name, "\n")] = 0;
}

weft_status weft_health_run(const weft_health_opts *o, weft_health_report *out) {
    if (!o || o->size != sizeof *o) return weft_fail(WEFT_ERR_ARG, "weft_health_run: opts.size is not set");
    if (!out || out->size != sizeof *out)
        return weft_fail(WEFT_ERR_ARG, "weft_health_run: report.size is not set");
    if (o->checks & ~(uint32_t)WEFT_CHECK_FULL)
        return weft_fail(WEFT_ERR_ARG, "weft_health_run: unknown checks %#x", o->checks);
    const double began = weft_now();
    memset(out, 0, sizeof *out);
    out->size = sizeof *out;
    health_run h = {.o = o, .r = out, .root = ""};
    const char *node = getenv("SLURMD_NODENAME");
    if (node && *node)
        snprintf(out->node, sizeof out->node, "%.*s", (int)sizeof out->node - 1, node);
    else if (gethostname(out->node, sizeof out->node - 1))
        snprintf(out->node, sizeof out->node, "?");
    if (o->reference) WEFT_TRY_CTX(health_reference_read(o->reference, &h.reference), "the reference");
    const uint32_t wanted = o->checks ? o->checks : WEFT_CHECK_QUICK;
    for (size_t i = 0; i < CHECKS; i++)
        if (wanted & checks[i].bit) checks[i].run(&h);
    if (h.reference) health_reference_compare(&h);
    health_reference_free(h.reference);
    out->seconds = weft_now() - began;
    return WEFT_OK;
}
