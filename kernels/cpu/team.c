/* The team: workers that wait for a job, run their part, and say so.
 *
 * Each worker has one cache line with two words: `posted` counts the jobs that it was given (written by the
 * caller only), `done` the jobs that it finished (written by the worker only). A job is over when done ==
 * posted on every line, so that handing over a job and getting it back moves one line each way. There is no
 * barrier inside a job and no work stealing: who computes what is a function of the member's number alone.
 *
 * Waiting, on both sides: spin with pause for 20 us (ops follow each other faster than that inside a step),
 * yield once, then sleep on the word with futex. Spinning where threads outnumber cores burns the time slice
 * of the one that is waited for (MPI ranks side by side, a busy machine), so nobody spins when the team has
 * more members than the process has cores, or when the machine has more runnable threads than cores
 * (/proc/loadavg, read every 10 ms at most).
 *
 * Sleeping without lost wake-ups: the sleeper sets `asleep`, then reads the word; the writer sets the word,
 * then reads `asleep`. All four are sequentially consistent, so one of the two sees the other (Dekker), and
 * futex itself does not sleep if the word has changed. */
#include "kernels/cpu/team.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"

#define SPIN_NS   20000u
#define SAMPLE_NS 10000000u

/* A counter that one thread writes and one waits on. */
struct word {
    _Atomic uint32_t value;
    _Atomic uint32_t asleep; /* the waiter is in futex, or about to be */
};

struct worker {
    _Alignas(CPU_LINE) struct word posted;
    struct word done;
    struct cpu_team *team;
    pthread_t thread;
    int member;
};

struct cpu_team {
    int members, cores;
    int spinless; /* more members than cores */
    long online;  /* cores of the machine */
    /* the current job: written before `posted`, read after it */
    cpu_job *job;
    void *arg;
    /* the sample of the machine's load */
    int loadavg; /* descriptor of /proc/loadavg, or -1 */
    _Atomic uint64_t sample_at;
    _Atomic int crowded;
    struct worker *worker; /* [members - 1] */
};

_Static_assert(sizeof(struct worker) == CPU_LINE, "one line a worker");

/* More runnable threads than cores in the machine. The count includes the reader. */
static int machine_is_crowded(int loadavg, long online) {
    char text[128];
    double load[3];
    long runnable;
    ssize_t n = pread(loadavg, text, sizeof text - 1, 0);
    if (n <= 0) return 0;
    text[n] = 0;
    return sscanf(text, "%lf %lf %lf %ld", &load[0], &load[1], &load[2], &runnable) == 4 && runnable > online;
}

static int may_spin(struct cpu_team *t) {
    if (t->spinless) return 0;
    if (t->loadavg < 0) return 1;
    uint64_t now = weft_now_ns(), at = atomic_load_explicit(&t->sample_at, memory_order_relaxed);
    /* Whoever moves sample_at on takes the sample; the others use the last one. Relaxed: it is a hint. */
    if (now >= at && atomic_compare_exchange_strong_explicit(&t->sample_at, &at, now + SAMPLE_NS,
                                                             memory_order_relaxed, memory_order_relaxed))
        atomic_store_explicit(&t->crowded, machine_is_crowded(t->loadavg, t->online), memory_order_relaxed);
    return !atomic_load_explicit(&t->crowded, memory_order_relaxed);
}

/* In a spin: leaves the core's resources to its other thread. */
static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *value, uint32_t old, uint64_t ns) {
    struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    syscall(SYS_futex, value, FUTEX_WAIT_PRIVATE, old, ns ? &limit : NULL, NULL, 0);
}

static void set_word(struct word *w, uint32_t value) {
    atomic_store_explicit(&w->value, value, memory_order_seq_cst); /* also releases what was written before */
    if (atomic_load_explicit(&w->asleep, memory_order_seq_cst))
        syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Acquire: what the writer did before set_word is visible after a change was seen. */
static int has_changed(struct word *w, uint32_t old) {
    return atomic_load_explicit(&w->value, memory_order_acquire) != old;
}

/* Returns once the word differs from old. */
static void await_change(struct cpu_team *t, struct word *w, uint32_t old, void (*idle)(void *),
                         void *idle_arg, uint64_t idle_ns) {
    if (has_changed(w, old)) return;
    if (may_spin(t)) {
        uint64_t end = weft_now_ns() + SPIN_NS;
        do {
            for (int i = 0; i < 64; i++) {
                if (has_changed(w, old)) return;
                relax();
            }
            if (idle) idle(idle_arg);
        } while (weft_now_ns() < end);
        sched_yield();
    }
    while (!has_changed(w, old)) {
        atomic_store_explicit(&w->asleep, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&w->value, memory_order_seq_cst) == old) futex_wait(&w->value, old, idle_ns);
        atomic_store_explicit(&w->asleep, 0, memory_order_relaxed);
        if (idle) idle(idle_arg);
    }
}

static void *work(void *arg) {
    struct worker *w = arg;
    struct cpu_team *t = w->team;
    for (uint32_t seen = 0;; seen++) {
        await_change(t, &w->posted, seen, NULL, NULL, 0);
        if (!t->job) return NULL;
        t->job(t->arg, w->member, t->members);
        set_word(&w->done, seen + 1);
    }
}

static void post(struct cpu_team *t, int workers) {
    for (int i = 0; i < workers; i++) {
        struct word *w = &t->worker[i].posted;
        set_word(w, atomic_load_explicit(&w->value, memory_order_relaxed) + 1);
    }
}

void cpu_team_run(struct cpu_team *t, cpu_job *job, void *arg, void (*idle)(void *), void *idle_arg,
                  uint64_t idle_ns) {
    t->job = job;
    t->arg = arg;
    post(t, t->members - 1);
    job(arg, 0, t->members);
    for (int i = 0; i < t->members - 1; i++) {
        struct worker *w = &t->worker[i];
        uint32_t posted = atomic_load_explicit(&w->posted.value, memory_order_relaxed);
        await_change(t, &w->done, posted - 1, idle, idle_arg, idle_ns);
    }
}

/* Pinning is a wish: a refusal (a changed affinity mask) leaves the worker where the system puts it. */
static void pin(pthread_t thread, int pu) {
    cpu_set_t set;
    if (pu < 0 || pu >= CPU_SETSIZE) return;
    CPU_ZERO(&set);
    CPU_SET(pu, &set);
    pthread_setaffinity_np(thread, sizeof set, &set);
}

/* Workers take no signals: handlers run on the threads that the program knows. */
static int start_workers(struct cpu_team *t, const int *pu) {
    sigset_t all, before;
    int e = 0, started = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < t->members - 1; started++) {
        struct worker *w = &t->worker[started];
        w->team = t;
        w->member = started + 1;
        e = weft_fault_hit(WEFT_FAULT_ALLOC) ? EAGAIN : pthread_create(&w->thread, NULL, work, w);
        if (e) break;
        if (pu) pin(w->thread, pu[w->member]);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e ? -started - 1 : started;
}

static void end_workers(struct cpu_team *t, int workers) {
    t->job = NULL;
    post(t, workers);
    for (int i = 0; i < workers; i++) pthread_join(t->worker[i].thread, NULL);
}

static void free_team(struct cpu_team *t) {
    if (t->loadavg >= 0) close(t->loadavg);
    free(t->worker);
    free(t);
}

weft_status cpu_team_create(int members, int cores, const int *pu, struct cpu_team **out) {
    *out = NULL;
    if (members < 1 || members > CPU_TEAM_MAX)
        return weft_fail(WEFT_ERR_ARG, "a team of %d threads, expected 1 to %d", members, CPU_TEAM_MAX);
    struct cpu_team *t = weft_calloc(1, sizeof *t);
    if (!t) return weft_context(WEFT_ERR_NOMEM, "a team of %d threads", members);
    t->members = members;
    t->cores = cores;
    t->spinless = members > cores;
    t->online = sysconf(_SC_NPROCESSORS_ONLN);
    t->loadavg = members > 1 ? open("/proc/loadavg", O_RDONLY | O_CLOEXEC) : -1;
    size_t bytes =
        sizeof(struct worker) * (size_t)members; /* one more than used: never an empty allocation */
    if (!weft_fault_hit(WEFT_FAULT_ALLOC)) t->worker = aligned_alloc(CPU_LINE, bytes);
    if (!t->worker) {
        free_team(t);
        return weft_fail(WEFT_ERR_NOMEM, "a team of %d threads: out of memory", members);
    }
    for (int i = 0; i < members; i++) t->worker[i] = (struct worker){.team = t};
    int started = start_workers(t, pu);
    if (started < 0) {
        started = -started - 1;
        end_workers(t, started);
        free_team(t);
        return weft_fail(WEFT_ERR_NOMEM,
                         "a team of %d threads: the system started only %d; fewer threads, or ulimit -u",
                         members, started + 1);
    }
    *out = t;
    return WEFT_OK;
}

void cpu_team_destroy(struct cpu_team *t) {
    if (!t) return;
    end_workers(t, t->members - 1);
    free_team(t);
}
