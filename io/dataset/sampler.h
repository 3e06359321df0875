/* Private to io/dataset: the open stream. */
#ifndef WEFT_IO_DATASET_SAMPLER_H
#define WEFT_IO_DATASET_SAMPLER_H

#include "io/dataset/schedule.h"
#include "io/dataset/shard.h"

typedef struct data_source {
    char *name;
    uint64_t uid;     /* of the name */
    uint64_t content; /* of its shards' digests, in order */
    size_t nshards;
    weft_shard *shard;
    uint64_t *window; /* nshards + 1: windows before each shard */
    uint64_t *eval;   /* the same for evaluation windows */
} data_source;

struct weft_data {
    uint64_t seed;
    int64_t context;
    size_t nsources;
    data_source *source;
    schedule plan;
    weft_shard_info info;
};

static inline uint64_t source_windows(const data_source *s) {
    return s->window[s->nshards];
}

#endif
