/* What a rank reads: its micro-batches of a step, by the layout, through the loader (io/dataset/loader.h). */
#include <string.h>

#include "runtime/train/internal.h"

static weft_status next_micro_batch(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    const weft_layout *l = &((const weft_trainer *)arg)->layout;
    const uint64_t first =
        at->g + (uint64_t)((l->micro_first + at->micro * l->micro_stride) * l->micro_batch);
    *n = (size_t)l->micro_batch;
    for (size_t i = 0; i < *n; i++) g[i] = first + i;
    if (++at->micro == l->micro_count) *at = (weft_loader_at){at->g + (uint64_t)l->batch, 0};
    return WEFT_OK;
}

/* data.private: as many samples of this site as the step has for this rank, in one micro-batch at least: without any
 * the rank still takes part in the sum. */
static weft_status next_of_site(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    const weft_trainer *t = arg;
    const weft_layout *l = &t->layout;
    const size_t rows = (size_t)l->micro_batch, from = (size_t)at->micro * rows;
    size_t count = 0;
    WEFT_TRY(weft_data_assign(t->data, at->g, (size_t)l->batch, t->members, (size_t)t->ranks, (size_t)t->rank,
                              t->share, &count));
    *n = from >= count ? 0 : count - from < rows ? count - from : rows;
    memcpy(g, t->share + from, *n * sizeof *g);
    at->micro++;
    if (from + rows >= count) *at = (weft_loader_at){at->g + (uint64_t)l->batch, 0};
    return WEFT_OK;
}

weft_status trainer_open_feed(weft_trainer *t) {
    const weft_loader_opts o = {.size = sizeof o,
                                .rows = t->layout.micro_batch,
                                .context = t->context,
                                .documents = t->c->data.pack,
                                .ahead = (int)t->c->data.prefetch,
                                .next = t->c->data.private ? next_of_site : next_micro_batch,
                                .arg = t};
    weft_arena_note(&t->memory, "batches", weft_loader_bytes(&o));
    return weft_loader_create(t->data, &o, &t->loader);
}
