/* Every core multiplies matrices for a moment, and every product is checked.
 *
 * Three things are told apart: wrong numbers (each product is whole numbers and must be exact), a slow core (its best
 * slice, short enough that nobody interrupts it, against the median of the cores), and a core that somebody else uses
 * (processor time of the thread against the time that passed). Cores that share units (SMT) are looked at one after the
 * other, so that they do not slow each other down. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "runtime/health/health.h"
#include "weft/gemm.h"

#define SIZE       HEALTH_PRODUCT
#define SLICE_S    0.4
#define WAVES      4    /* at most so many threads of a core are looked at apart */
#define SHARE_LOW  0.85 /* degraded below this share of the core's time */
#define SHARE_NONE 0.60 /* fail: a job waits for its slowest rank */
#define SLOW_NONE  0.60 /* of the median core's rate */
#define NAMED      8    /* bad cores that are said one by one */
#define PROCESSES  4096

typedef struct core {
    int cpu, wave;
    pthread_t thread;
    int started, ok, wrong; /* wrong: products */
    double best, share;     /* seconds of the best slice; processor time a second */
} core;

int health_wrong_rows(const float *a, const float *b, const float *c, int n, uint64_t seed) {
    int64_t x[HEALTH_PRODUCT], bx[HEALTH_PRODUCT];
    int wrong = 0;
    for (int i = 0; i < n; i++) x[i] = (int64_t)(weft_rng_u64(seed, 0, (uint64_t)i) % 4093);
    for (int i = 0; i < n; i++) {
        bx[i] = 0;
        for (int k = 0; k < n; k++) bx[i] += (int64_t)b[i * n + k] * x[k];
    }
    for (int i = 0; i < n; i++) {
        int64_t left = 0, right = 0;
        int whole = 1;
        for (int k = 0; k < n; k++) {
            const float v = c[i * n + k];
            const int fits = v > -1e9f && v < 1e9f && (float)(int64_t)v == v;
            whole &= fits;
            left += fits ? (int64_t)v * x[k] : 0;
            right += (int64_t)a[i * n + k] * bx[k];
        }
        wrong += !whole || left != right;
    }
    return wrong;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void multiply(core *c, weft_gemm_context *x, float *m) {
    float *a = m, *b = m + SIZE * SIZE, *product = m + 2 * SIZE * SIZE;
    weft_gemm_call g = {.size = sizeof g, .m = SIZE, .n = SIZE, .k = SIZE, .a = a, .b = b, .c = product};
    for (int i = 0; i < 2 * SIZE * SIZE; i++)
        m[i] = (float)((int)(weft_rng_u64((uint64_t)c->cpu, 1, (uint64_t)i) % 17) - 8);
    if (weft_gemm(x, &g) < 0) return; /* plans */
    const double began = weft_now(), cpu = cpu_seconds();
    double now = began;
    for (uint64_t turn = 1; now - began < SLICE_S; turn++) {
        const double t0 = weft_now();
        memset(product, 0, SIZE * SIZE * sizeof *product);
        if (weft_gemm(x, &g) < 0) return;
        const double took = weft_now() - t0;
        if (took < c->best) c->best = took;
        c->wrong += health_wrong_rows(a, b, product, SIZE, turn) > 0;
        now = weft_now();
    }
    c->share = (cpu_seconds() - cpu) / (now - began);
    c->ok = 1;
}

static void *run(void *arg) {
    core *c = arg;
    weft_gemm_context *x = NULL;
    weft_gemm_opts o = {.size = sizeof o, .threads = 1};
    float *m = weft_calloc(3 * SIZE * SIZE, sizeof *m);
    if (m && weft_gemm_open(&o, &x) >= 0) multiply(c, x, m);
    (void)weft_gemm_close(&x);
    free(m);
    return NULL;
}

static void run_wave(core *c, int n, int wave) {
    for (int i = 0; i < n; i++) {
        pthread_attr_t attr;
        cpu_set_t set;
        if (c[i].wave != wave) continue;
        CPU_ZERO(&set);
        CPU_SET(c[i].cpu, &set);
        pthread_attr_init(&attr);
        pthread_attr_setaffinity_np(&attr, sizeof set, &set);
        c[i].started = pthread_create(&c[i].thread, &attr, run, &c[i]) == 0;
        pthread_attr_destroy(&attr);
    }
    for (int i = 0; i < n; i++)
        if (c[i].wave == wave && c[i].started) pthread_join(c[i].thread, NULL);
}

/* Which thread of its core a processor is, by the list of its siblings ("0,64", "0-1"). */
static int wave_of(const health_run *h, int cpu) {
    char text[128];
    int wave = 0;
    if (health_slurp(h, text, sizeof text, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                     cpu) <= 0)
        return 0;
    for (char *p = text; *p;) {
        long lo = strtol(p, &p, 10), hi = lo;
        if (*p == '-') hi = strtol(p + 1, &p, 10);
        for (; lo <= hi; lo++, wave++)
            if (lo >= cpu) return wave < WAVES ? wave : WAVES - 1;
        if (*p != ',') break;
        p++;
    }
    return 0;
}

/* --- who else runs here: processor time of all processes, before and after ------------------------------------ */

typedef struct used {
    int pid;
    double ticks;
} used;

typedef struct survey {
    const health_run *h;
    used *list; /* [PROCESSES], from before */
    int n, cpu; /* cpu: look for the busiest that last ran there */
    int pid;    /* the busiest */
    double ticks, all;
} survey;

/* Field n of /proc/PID/stat (proc(5) counts from 1) as a number; p stands behind the name, which is field 2. */
static double field(const char *p, int n) {
    for (int at = 3; at < n && *p; at++) p += 1 + strcspn(p + 1, " ");
    return strtod(p, NULL);
}

/* Ticks of all threads of a process, and where it last ran. 0: gone. */
static int ticks_of(const health_run *h, int pid, double *ticks, int *cpu) {
    char text[1024];
    if (health_slurp(h, text, sizeof text, "/proc/%d/stat", pid) <= 0) return 0;
    const char *p = strrchr(text, ')'); /* the name may hold anything */
    if (!p) return 0;
    *ticks = field(p + 1, 14) + field(p + 1, 15);
    *cpu = (int)field(p + 1, 39);
    return 1;
}

static void note(void *arg, int pid) {
    survey *s = arg;
    int cpu;
    if (s->n < PROCESSES && ticks_of(s->h, pid, &s->list[s->n].ticks, &cpu)) s->list[s->n++].pid = pid;
}

static void compare(void *arg, int pid) {
    survey *s = arg;
    double ticks;
    int cpu;
    if (pid == (int)getpid() || !ticks_of(s->h, pid, &ticks, &cpu) || cpu != s->cpu) return;
    for (int i = 0; i < s->n; i++)
        if (s->list[i].pid == pid) ticks -= s->list[i].ticks;
    s->all += ticks;
    if (ticks <= s->ticks) return;
    s->ticks = ticks;
    s->pid = pid;
}

/* Ticks that the host took from a processor. */
static double stolen(const health_run *h, int cpu) {
    char text[65536], key[16], *line;
    double v[8] = {0};
    if (health_slurp(h, text, sizeof text, "/proc/stat") <= 0) return 0;
    snprintf(key, sizeof key, "\ncpu%d ", cpu);
    line = strstr(text, key);
    if (!line || sscanf(line + strlen(key), "%lf %lf %lf %lf %lf %lf %lf %lf", v, v + 1, v + 2, v + 3, v + 4,
                        v + 5, v + 6, v + 7) != 8)
        return 0;
    return v[7];
}

static void name_competitor(survey *s, int cpu, double stolen_before, char *text, size_t cap) {
    char name[32];
    s->cpu = cpu;
    s->pid = 0;
    s->ticks = s->all = 0;
    health_processes(s->h, compare, s);
    const double host = stolen(s->h, cpu) - stolen_before;
    if (host > s->all) {
        snprintf(text, cap, "the host of this guest takes it");
    } else if (s->pid) {
        health_process_name(s->h, s->pid, name, sizeof name);
        snprintf(text, cap, "%s (pid %d) runs there", name, s->pid);
    } else {
        snprintf(text, cap, "somebody else runs there");
    }
}

/* --- what it means --------------------------------------------------------------------------------------------- */

static int by_best(const void *a, const void *b) {
    const core *x = a, *y = b;
    return (x->best > y->best) - (x->best < y->best);
}

static int say_core(health_run *h, survey *s, const core *c, double median, double stolen_before, int *said) {
    char name[16], who[96];
    const double rate = median / c->best;
    const double flops = 2.0 * SIZE * SIZE * SIZE;
    const int wrong = c->wrong > 0, taken = c->share < SHARE_LOW, slow = rate < HEALTH_SHARE;
    if (!wrong && !taken && !slow) return 0;
    if (!wrong && (*said)++ >= NAMED) return 1;
    snprintf(name, sizeof name, "core %d", c->cpu);
    if (wrong)
        health_number(health_find(h, WEFT_CHECK_CORES, WEFT_HEALTH_FAIL, name,
                                  "core %d: %d products came out WRONG: take this node out of service",
                                  c->cpu, c->wrong),
                      c->wrong, 0, "", 0);
    if (taken) {
        name_competitor(s, c->cpu, stolen_before, who, sizeof who);
        health_number(
            health_find(h, WEFT_CHECK_CORES, c->share < SHARE_NONE ? WEFT_HEALTH_FAIL : WEFT_HEALTH_DEGRADED,
                        name,
                        "core %d: only %.0f %% of its time was to be had (at least %.0f %% expected): %s",
                        c->cpu, 100 * c->share, 100 * SHARE_LOW, who),
            100 * c->share, 100 * (c->share < SHARE_NONE ? SHARE_NONE : SHARE_LOW), "%", 0);
    }
    if (slow)
        health_number(health_find(h, WEFT_CHECK_CORES,
                                  rate < SLOW_NONE ? WEFT_HEALTH_FAIL : WEFT_HEALTH_DEGRADED, name,
                                  "core %d: %.1f GFLOP/s, %.0f %% of this node's median core (at least %.0f "
                                  "%% expected): throttled, or its "
                                  "sibling is busy",
                                  c->cpu, flops / c->best * 1e-9, 100 * rate, 100 * HEALTH_SHARE),
                      100 * rate, 100 * (rate < SLOW_NONE ? SLOW_NONE : HEALTH_SHARE), "%", 0);
    return 1;
}

static void say_all(health_run *h, survey *s, core *c, int n, const double *stolen_before) {
    int bad = 0, said = 0, measured = 0;
    qsort(c, (size_t)n, sizeof *c, by_best);
    while (measured < n && c[measured].ok) measured++; /* those that could not run have an infinite best */
    if (!measured) {
        health_find(h, WEFT_CHECK_CORES, WEFT_HEALTH_FAIL, "",
                    "cores: no thread could be started, or no memory for it");
        return;
    }
    const double median = c[(measured - 1) / 2].best, flops = 2.0 * SIZE * SIZE * SIZE;
    for (int i = 0; i < measured; i++) bad += say_core(h, s, &c[i], median, stolen_before[c[i].cpu], &said);
    const weft_health_verdict v = measured < n ? WEFT_HEALTH_DEGRADED : WEFT_HEALTH_OK;
    health_number(health_find(h, WEFT_CHECK_CORES, v, "",
                              "cores: %d of %d without remark, products exact, median %.1f GFLOP/s a core%s",
                              measured - bad, n, flops / median * 1e-9,
                              measured < n ? "; on some no thread could be started" : ""),
                  flops / median * 1e-9, NAN, "GFLOP/s", 1);
}

void health_cores(health_run *h) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) CPU_ZERO(&set);
    const int n = CPU_COUNT(&set);
    core *c = weft_calloc((size_t)(n > 0 ? n : 1), sizeof *c);
    survey s = {.h = h, .list = weft_calloc(PROCESSES, sizeof *s.list)};
    double *before = weft_calloc(CPU_SETSIZE, sizeof *before);
    if (!c || !s.list || !before || n < 1) {
        health_find(h, WEFT_CHECK_CORES, WEFT_HEALTH_FAIL, "", "cores: no memory to look at them");
    } else {
        for (int cpu = 0, i = 0; cpu < CPU_SETSIZE && i < n; cpu++) {
            if (!CPU_ISSET(cpu, &set)) continue;
            before[cpu] = stolen(h, cpu);
            c[i++] = (core){.cpu = cpu, .wave = wave_of(h, cpu), .best = INFINITY};
        }
        health_processes(h, note, &s);
        for (int wave = 0; wave < WAVES; wave++) run_wave(c, n, wave);
        say_all(h, &s, c, n, before);
    }
    free(before);
    free(s.list);
    free(c);
}
