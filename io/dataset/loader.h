/* The micro-batches of one member, in order, made ahead of their use.
 *
 * One thread fills a ring of `ahead` + 1 buffers (with ahead = 1: a double buffer) while the owner computes with the one it
 * took last, and tells the kernel which pages come after those. What is in a micro-batch is a pure function of its place,
 * so the thread changes when it is made and never what it is; `ahead` = 0 makes it when it is taken, without a thread.
 *
 * All calls are the owner's, one thread at a time. The data set may be written (reweight, restore) before the first take
 * and between weft_loader_rest and the next one. */
#ifndef WEFT_IO_DATASET_LOADER_H
#define WEFT_IO_DATASET_LOADER_H

#include "io/dataset/dataset.h"

#define WEFT_LOADER_AHEAD 64 /* at most so many micro-batches ahead */

typedef struct weft_loader_at {
    uint64_t g;    /* first sample of the step */
    int64_t micro; /* which of the member's micro-batches of that step */
} weft_loader_at;

/* The samples of the micro-batch at *at into g[0..*n), *n <= rows (what is left of the rows is empty: no token, no
 * target), and *at becomes that of the next one. Pure; called on the loader's thread. */
typedef weft_status weft_loader_next(void *arg, weft_loader_at *at, uint64_t *g, size_t *n);

typedef struct weft_loader_opts {
    uint32_t size;
    int64_t rows, context; /* of a micro-batch; the context is the data set's */
    int documents;         /* rows have starts */
    int ahead;             /* 0..WEFT_LOADER_AHEAD */
    weft_loader_next *next;
    void *arg; /* borrowed, as is the data set */
} weft_loader_opts;

typedef struct weft_loader weft_loader;

/* ARG; NOMEM, also if no thread can be had. Nothing is made before the first take. */
weft_status weft_loader_create(const weft_data *d, const weft_loader_opts *o, weft_loader **l);
/* Ends the thread; it may be in the middle of a micro-batch. NULL is taken. */
void weft_loader_destroy(weft_loader *l);
/* The micro-batch at *at, which becomes the place of the next one (another g: this was the step's last); its rows are the owner's until the next take. Taking them in order finds them made; any other
 * place (a step repeated, a run rolled back) begins anew there. Whatever was wrong when it was made (CORRUPT: a damaged
 * segment) is said here, with the place and the file, and again by every further take of it. */
weft_status weft_loader_take(weft_loader *l, weft_loader_at *at, weft_rows *rows);
/* Returns when the thread does not read the data set any more, and forgets what it has made; the next take wakes it. */
void weft_loader_rest(weft_loader *l);
/* Bytes of the buffers that such a loader has. */
size_t weft_loader_bytes(const weft_loader_opts *o);

#endif
