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
    int elsewhere;
    uint64_t told; /* windows, if elsewhere */
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
    return s->elsewhere ? s->told : s->window[s->nshards];
}

/* Adds to the totals; VOCAB: other ids than those before. who: for the message. */
weft_status sampler_add_info(weft_data *d, const weft_shard_info *i, const char *who);
/* The shard that sample g lies in, and its first token there. b as for schedule_locate. */
weft_status sampler_place(const weft_data *d, schedule_block *b, uint64_t g, const weft_shard **h,
                          uint64_t *at);
/* The same of an evaluation window, and how many targets it has. */
weft_status sampler_eval_place(const weft_data *d, size_t source, uint64_t w, const weft_shard **h,
                               uint64_t *at, int64_t *valid);

#endif
