/* The writer thread; see worker.h. All of it under one mutex: a job is seconds, a look at it nanoseconds. */
#include "io/checkpoint/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"

struct ckpt_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t turn; /* a job began, or ended */
    ckpt_job job;        /* NULL: none */
    void *arg;
    int ending;
    weft_status status;
    char text[2048];
};

static void note(ckpt_worker *w, weft_status s) {
    w->status = s;
    snprintf(w->text, sizeof w->text, "%s", s < 0 ? weft_last_error() : "");
}

static void *run(void *arg) {
    ckpt_worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->job && !w->ending) pthread_cond_wait(&w->turn, &w->lock);
        if (!w->job) break;
        pthread_mutex_unlock(&w->lock);
        const weft_status s = w->job(w->arg);
        pthread_mutex_lock(&w->lock);
        note(w, s);
        w->job = NULL;
        pthread_cond_broadcast(&w->turn);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

weft_status ckpt_worker_create(ckpt_worker **out) {
    ckpt_worker *w = weft_calloc(1, sizeof *w);
    if (!w) return WEFT_ERR_NOMEM;
    pthread_condattr_t monotonic;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->turn, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigset_t all, old; /* signals are the main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int e = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        pthread_mutex_destroy(&w->lock);
        pthread_cond_destroy(&w->turn);
        free(w);
        return weft_fail_errno(e, "starting the writer thread of checkpoints");
    }
    *out = w;
    return WEFT_OK;
}

void ckpt_worker_destroy(ckpt_worker *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->ending = 1;
    pthread_cond_broadcast(&w->turn);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->turn);
    free(w);
}

void ckpt_worker_start(ckpt_worker *w, ckpt_job job, void *arg) {
    pthread_mutex_lock(&w->lock);
    w->job = job;
    w->arg = arg;
    w->status = WEFT_OK;
    pthread_cond_broadcast(&w->turn);
    pthread_mutex_unlock(&w->lock);
}

void ckpt_worker_do(ckpt_worker *w, ckpt_job job, void *arg) {
    note(w, job(arg));
}

int ckpt_worker_busy(ckpt_worker *w) {
    pthread_mutex_lock(&w->lock);
    const int busy = w->job != NULL;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

int ckpt_worker_join(ckpt_worker *w, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&w->lock);
    while (w->job && pthread_cond_timedwait(&w->turn, &w->lock, &until) == 0) {
    }
    const int over = w->job == NULL;
    pthread_mutex_unlock(&w->lock);
    return over;
}

weft_status ckpt_worker_result(ckpt_worker *w) {
    pthread_mutex_lock(&w->lock);
    const weft_status s = w->status < 0 ? weft_fail(w->status, "%s", w->text) : WEFT_OK;
    pthread_mutex_unlock(&w->lock);
    return s;
}
