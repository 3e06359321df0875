/* What a rank reads: its micro-batches of a step, by the layout, through the loader (io/dataset/loader.h). */
#include "runtime/train/internal.h"

static weft_status next_micro_batch(void *arg, weft_loader_at *at, uint64_t *g, size_t *n) {
    const weft_layout *l = &((const weft_trainer *)arg)->layout;
    const uint64_t first = at->g + (uint64_t)((l->micro_first + at->micro) * l->micro_batch);
    *n = (size_t)l->micro_batch;
    for (size_t i = 0; i < *n; i++) g[i] = first + i;
    if (++at->micro == l->micro_count) *at = (weft_loader_at){at->g + (uint64_t)l->batch, 0};
    return WEFT_OK;
}

weft_status trainer_open_feed(weft_trainer *t) {
    const weft_loader_opts o = {.size = sizeof o,
                                .rows = t->layout.micro_batch,
                                .context = t->context,
                                .documents = t->c->data.pack,
                                .ahead = (int)t->c->data.prefetch,
                                .next = next_micro_batch,
                                .arg = t};
    weft_arena_note(&t->memory, "batches", weft_loader_bytes(&o));
    return weft_loader_create(t->data, &o, &t->loader);
}
