/* weft: a bulk in the simulation's own context, on memory that ranks of a node write into each other. */
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <weft/comm.h>

#include "../shallow_water/comm_weft.h"

struct stream {
    weft_ctx *ctx;
    weft_bulk *bulk;
    float *memory;
    size_t each;
};

static int check(weft_status s) {
    if (s >= 0) return 0;
    fprintf(stderr, "coupled: %s\n", weft_last_error());
    return -1;
}

static stream *open_stream(comm *sim, int tensors, size_t each) {
    stream *s = calloc(1, sizeof *s);
    weft_tensor *t = calloc((size_t)tensors, sizeof *t);
    weft_group *g = comm_weft_group(sim);
    int failed = !s || !t;
    if (!failed) {
        s->ctx = comm_weft_context(sim);
        s->each = each;
        s->memory = weft_mem_alloc(g, (size_t)tensors * each * sizeof(float));
        failed = s->memory ? 0 : check(WEFT_ERR_NOMEM);
    }
    for (int i = 0; i < tensors && !failed; i++)
        t[i] =
            (weft_tensor){.ptr = s->memory + (size_t)i * each, .n = each, .t = WEFT_F32, .name = "gradient"};
    const weft_bulk_opts o = {.size = sizeof o, .bucket = each * sizeof(float)};
    if (!failed) failed = check(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, tensors, t, &o, &s->bulk));
    if (!failed) failed = check(weft_commit(s->ctx));
    free(t);
    if (!failed) return s;
    free(s);
    return NULL;
}

static float *tensor(stream *s, int i) {
    return s->memory + (size_t)i * s->each;
}

static int begin(stream *s) {
    return check(weft_bulk_start(s->bulk, 1));
}
static int ready(stream *s, int i) {
    return check(weft_bulk_ready(s->bulk, i));
}
static int work(stream *s, int usec) {
    return check(weft_progress(s->ctx, usec));
}
static int end(stream *s) {
    return check(weft_bulk_wait(s->bulk, WEFT_ALL, -1, NULL));
}

static void close_stream(stream *s) {
    free(s); /* the rest belongs to the context */
}

const stream_ops stream_weft = {"weft", open_stream, tensor, begin, ready, work, end, close_stream};
