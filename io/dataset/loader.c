/* A ring of micro-batches between one thread that makes them and one that uses them; see loader.h.
 *
 * made and taken count micro-batches since the last start. The owner holds slot taken - 1; the thread may fill the slots
 * of taken .. taken + ahead - 1, which are others, for the ring has ahead + 1. Everything but the contents of a slot that
 * is being filled or held is under the lock. A wait here is for this process's own thread, which waits for nothing but
 * the file system. */
#include "io/dataset/loader.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/mem.h"

#define HINTS      8 /* micro-batches whose pages are asked for before they are made */
#define ERROR_TEXT 2048

typedef struct slot {
    weft_loader_at at, after; /* after: of the micro-batch that follows */
    weft_rows rows;
    weft_status status;
    char error[ERROR_TEXT];
} slot;

struct weft_loader {
    const weft_data *d;
    weft_loader_opts o;
    uint64_t *g; /* [rows] */
    size_t slots;
    slot *slot;

    pthread_t thread;
    int running; /* there is a thread */
    pthread_mutex_t lock;
    pthread_cond_t wanted, ready; /* there is room, or a new start; a slot is full */
    int stop, started, busy,
        stuck; /* busy: the thread reads the data set; stuck: the one made last has failed */
    uint64_t made, taken;
    weft_loader_at cursor, expected; /* of the micro-batch to make next, to take next */
    weft_loader_at hint;             /* thread's own: the first whose pages have not been asked for */
    uint64_t hints;                  /* thread's own: how many of those asked for are not made yet */
};

static int same(weft_loader_at a, weft_loader_at b) {
    return a.g == b.g && a.micro == b.micro;
}

/* Rows [n, rows): nothing in, nothing expected. */
static void clear_rows(const weft_loader *l, size_t n, const weft_rows *r) {
    const size_t T = (size_t)l->o.context, rest = (size_t)l->o.rows - n;
    if (!rest) return;
    memset(r->tok + n * (T + 1), 0xff, rest * (T + 1) * sizeof *r->tok);
    memset(r->target + n * T, 0xff, rest * T * sizeof *r->target);
    if (r->start) memset(r->start + n * T, 0, rest * T * sizeof *r->start);
}

/* Makes the micro-batch at `at`. A failure is kept with it. */
static void fill(weft_loader *l, slot *s, weft_loader_at at) {
    size_t n = 0;
    s->at = s->after = at;
    s->status = l->o.next(l->o.arg, &s->after, l->g, &n);
    if (s->status >= 0) s->status = weft_data_rows(l->d, l->g, n, &s->rows);
    if (s->status >= 0) {
        clear_rows(l, n, &s->rows);
        return;
    }
    snprintf(s->error, sizeof s->error, "%s", weft_last_error());
    weft_clear_error();
}

/* Asks for pages until HINTS micro-batches behind the one made last are on their way. */
static void ask_ahead(weft_loader *l) {
    for (; l->hints < HINTS; l->hints++) {
        size_t n = 0;
        if (l->o.next(l->o.arg, &l->hint, l->g, &n) < 0) {
            weft_clear_error(); /* making it will say what is wrong */
            return;
        }
        weft_data_prefetch(l->d, l->g, n);
    }
}

/* Waits for a slot to fill; NULL: the end. Called and returns with the lock held. */
static slot *next_slot(weft_loader *l, weft_loader_at *at) {
    while (!l->stop && (!l->started || l->stuck || l->made == l->taken + (uint64_t)l->o.ahead))
        pthread_cond_wait(&l->wanted, &l->lock);
    if (l->stop) return NULL;
    *at = l->cursor;
    l->busy = 1;
    return &l->slot[l->made % l->slots];
}

static void *work(void *arg) {
    weft_loader *l = arg;
    weft_loader_at at, asked = {0};
    pthread_mutex_lock(&l->lock);
    for (slot *s; (s = next_slot(l, &at));) {
        pthread_mutex_unlock(&l->lock);
        if (l->hints && same(at, asked)) {
            l->hints--; /* this one's pages are on their way */
        } else {
            l->hint = at;
            l->hints = 0;
        }
        fill(l, s, at);
        pthread_mutex_lock(&l->lock);
        l->made++;
        l->stuck = s->status < 0;
        l->cursor = asked = s->after;
        pthread_cond_signal(&l->ready);
        if (!l->stop && !l->stuck) {
            pthread_mutex_unlock(&l->lock);
            ask_ahead(l); /* when the micro-batch is there already: it must not wait for those after it */
            pthread_mutex_lock(&l->lock);
        }
        l->busy = 0;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Signals are the owner's. */
static weft_status start_thread(weft_loader *l) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = weft_fault_hit(WEFT_FAULT_ALLOC) ? EAGAIN : pthread_create(&l->thread, NULL, work, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    l->running = e == 0;
    return e ? weft_fail(WEFT_ERR_NOMEM, "no thread to read ahead with: %s; data.prefetch: 0 does without",
                         strerror(e))
             : WEFT_OK;
}

size_t weft_loader_bytes(const weft_loader_opts *o) {
    const size_t cells = (size_t)(2 + (o->documents != 0)) * (size_t)o->context + 1;
    return ((size_t)o->ahead + 1) * (size_t)o->rows * cells * sizeof(int32_t);
}

static weft_status allocate(weft_loader *l) {
    l->g = weft_calloc((size_t)l->o.rows, sizeof *l->g);
    l->slot = weft_calloc((size_t)l->o.ahead + 1, sizeof *l->slot);
    if (!l->g || !l->slot) return WEFT_ERR_NOMEM;
    for (; l->slots < (size_t)l->o.ahead + 1; l->slots++)
        WEFT_TRY(weft_rows_alloc((size_t)l->o.rows, l->o.context, l->o.documents, &l->slot[l->slots].rows));
    return l->o.ahead ? start_thread(l) : WEFT_OK;
}

weft_status weft_loader_create(const weft_data *d, const weft_loader_opts *o, weft_loader **out) {
    *out = NULL;
    if (o->rows < 1 || o->context < 1 || o->ahead < 0 || o->ahead > WEFT_LOADER_AHEAD)
        return weft_fail(WEFT_ERR_ARG,
                         "a loader of %" PRId64 " rows of %" PRId64 " tokens, %d ahead (of at most %d)",
                         o->rows, o->context, o->ahead, WEFT_LOADER_AHEAD);
    weft_loader *l = weft_calloc(1, sizeof *l);
    if (!l) return WEFT_ERR_NOMEM;
    l->d = d;
    l->o = *o;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wanted, NULL);
    pthread_cond_init(&l->ready, NULL);
    weft_status s = allocate(l);
    if (s < 0) {
        weft_loader_destroy(l);
        return s;
    }
    *out = l;
    return WEFT_OK;
}

void weft_loader_destroy(weft_loader *l) {
    if (!l) return;
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->stop = 1;
        pthread_cond_signal(&l->wanted);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    pthread_cond_destroy(&l->ready);
    pthread_cond_destroy(&l->wanted);
    pthread_mutex_destroy(&l->lock);
    for (size_t i = 0; i < l->slots; i++) weft_rows_free(&l->slot[i].rows);
    free(l->slot);
    free(l->g);
    free(l);
}

/* Stops the thread before its next micro-batch and forgets what it has made. Called and returns with the lock held. */
static void rest(weft_loader *l) {
    l->started = 0;
    while (l->busy) pthread_cond_wait(&l->ready, &l->lock);
    l->made = l->taken;
    l->stuck = 0; /* now: what was just made may have failed, too */
}

void weft_loader_rest(weft_loader *l) {
    if (!l->running) return;
    pthread_mutex_lock(&l->lock);
    rest(l);
    pthread_mutex_unlock(&l->lock);
}

/* The slot with the micro-batch at `at`, made by the thread. Called and returns with the lock held. */
static slot *wait_for(weft_loader *l, weft_loader_at at) {
    if (!l->started || !same(l->expected, at)) {
        rest(l);
        l->started = 1;
        l->cursor = l->expected = at;
    }
    pthread_cond_signal(&l->wanted); /* taking the last one has made room */
    while (l->made == l->taken) pthread_cond_wait(&l->ready, &l->lock);
    return &l->slot[l->taken % l->slots];
}

weft_status weft_loader_take(weft_loader *l, weft_loader_at *at, weft_rows *rows) {
    slot *s = l->slot;
    if (!l->running) {
        fill(l, s, *at);
    } else {
        pthread_mutex_lock(&l->lock);
        s = wait_for(l, *at);
        if (s->status >= 0) {
            l->taken++;
            l->expected = s->after;
            pthread_cond_signal(&l->wanted);
        }
        pthread_mutex_unlock(&l->lock);
    }
    if (s->status < 0) return weft_fail(s->status, "%s", s->error);
    *rows = s->rows;
    *at = s->after;
    return WEFT_OK;
}
