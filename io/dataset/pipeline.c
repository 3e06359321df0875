/* A ring of blocks, and threads without fixed tasks: whoever is free writes the oldest block if it is tokenized, reads
 * another if few wait, or tokenizes one. Reading and writing are done by one thread at a time, so that both see the
 * text in order; which thread that is does not matter, and one thread alone can do it all.
 *
 * Memory: at most 2 blocks a thread, and (but for one block) IN_FLIGHT bytes of text. Everything in `run` is under its
 * lock, except the block that a thread has taken; a broadcast tells of every change. */
#include "io/dataset/pipeline.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define MAX_THREADS 256
#define IN_FLIGHT   ((uint64_t)64 << 20)
#define KEEP        ((size_t)8 << 20) /* larger buffers are given back */
#define ERROR_TEXT  1024

typedef struct ring_slot {
    text_block block;
    token_block tokens;
    int ready; /* tokenized, or failed */
    weft_status status;
    char error[ERROR_TEXT];
} ring_slot;

typedef struct run {
    const pipeline *p;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    ring_slot *slot;
    uint64_t slots, read, taken,
        written;        /* blocks so far; slot i of the ring holds block number i mod slots */
    uint64_t in_flight; /* bytes of text read and not yet written */
    int reading, writing, end, finished; /* end: nothing more is to be read */
    weft_status status;
    char error[ERROR_TEXT];
} run;

static void keep_error(weft_status s, weft_status *status, char *text) {
    *status = s;
    snprintf(text, ERROR_TEXT, "%s", s < 0 ? weft_last_error() : "");
}

static void shrink(ring_slot *s) {
    if (s->block.cap > KEEP) {
        free(s->block.buf);
        s->block.buf = NULL;
        s->block.cap = 0;
    }
    if (s->tokens.cap * sizeof *s->tokens.ids > KEEP) token_block_free(&s->tokens);
}

/* Each of these is called with the lock held and leaves it for the work. */
static void do_read(run *r) {
    ring_slot *s = &r->slot[r->read % r->slots];
    r->reading = 1;
    pthread_mutex_unlock(&r->lock);
    s->ready = 0;
    keep_error(blocks_next(r->p->reader, &s->block), &s->status, s->error);
    pthread_mutex_lock(&r->lock);
    r->reading = 0;
    r->end = s->status < 0 || !s->block.n;
    if (s->status < 0 || s->block.n) {
        r->read++;
        r->in_flight += s->block.n;
    }
}

static void do_tokenize(run *r) {
    ring_slot *s = &r->slot[r->taken++ % r->slots];
    pthread_mutex_unlock(&r->lock);
    if (s->status == WEFT_OK)
        keep_error(tokenize_block(r->p->job, &s->block, &s->tokens), &s->status, s->error);
    pthread_mutex_lock(&r->lock);
    s->ready = 1;
}

static void do_write(run *r) {
    ring_slot *s = &r->slot[r->written % r->slots];
    r->writing = 1;
    pthread_mutex_unlock(&r->lock);
    uint64_t n = s->block.n;
    if (s->status == WEFT_OK) keep_error(r->p->write(r->p->arg, &s->block, &s->tokens), &s->status, s->error);
    shrink(s);
    pthread_mutex_lock(&r->lock);
    r->writing = 0;
    r->written++;
    r->in_flight -= n;
    if (s->status < 0) {
        r->finished = 1;
        r->status = s->status;
        memcpy(r->error, s->error, ERROR_TEXT);
    }
}

static void *work(void *arg) {
    run *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->finished) {
        uint64_t waiting = r->read - r->taken;
        int can_write = !r->writing && r->written < r->read && r->slot[r->written % r->slots].ready;
        int can_read = !r->reading && !r->end && r->read - r->written < r->slots && r->in_flight < IN_FLIGHT;
        if (can_write)
            do_write(r);
        else if (can_read && waiting < (uint64_t)r->p->threads)
            do_read(r);
        else if (waiting)
            do_tokenize(r);
        else if (r->end && r->written == r->read && !r->reading)
            r->finished = 1;
        else {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

weft_status pipeline_run(const pipeline *p) {
    pthread_t id[MAX_THREADS];
    int threads = p->threads < 1 ? 1 : p->threads > MAX_THREADS ? MAX_THREADS : p->threads, started = 1;
    run r = {.p = p, .slots = 2 * (uint64_t)threads};
    if (!(r.slot = weft_calloc(r.slots, sizeof *r.slot))) return WEFT_ERR_NOMEM;
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.changed, NULL);
    for (; started < threads; started++) /* where one cannot be started, the others do its share */
        if (pthread_create(&id[started], NULL, work, &r) != 0) break;
    work(&r);
    for (int i = 1; i < started; i++) pthread_join(id[i], NULL);
    pthread_cond_destroy(&r.changed);
    pthread_mutex_destroy(&r.lock);
    for (uint64_t i = 0; i < r.slots; i++) {
        free(r.slot[i].block.buf);
        token_block_free(&r.slot[i].tokens);
    }
    free(r.slot);
    return r.status < 0 ? weft_fail(r.status, "%s", r.error) : WEFT_OK;
}
