/* Private to io/dataset: where a preparation puts its tokens: one side (train or valid), of one or more shards. */
#ifndef WEFT_IO_DATASET_SIDE_H
#define WEFT_IO_DATASET_SIDE_H

#include "io/dataset/journal.h"
#include "io/dataset/tokenize.h"

typedef struct side {
    const char *name, *work; /* borrowed; work: the directory of unfinished things */
    weft_shard_info info;    /* what every shard of it says of itself */
    uint64_t limit;          /* tokens behind which a shard is closed */
    weft_shard_writer *w;    /* of the open shard; NULL: none */
    journal_side state;      /* its `open` is brought up to date by side_save */
    uint64_t spools;         /* shards before this have no spools any more */
} side;

/* Opens a side where `from` says, or empty (from NULL). CORRUPT: finished shards or spools are not what they were. */
weft_status side_open(side *s, const journal_side *from);
/* Tokens of a document, or more of the last one. A shard that is full is finished first, whoever the tokens belong to:
 * a document that is longer goes on in the next as one of its own. */
weft_status side_put(side *s, const uint32_t *ids, const uint8_t *mask, const token_doc *d);
/* What was put so far is on the disk; state says where. */
weft_status side_save(side *s);
/* After the state was written: what only an older state needed goes. */
weft_status side_forget(side *s);
/* Finishes the last shard. FORMAT: there is not one token. */
weft_status side_finish(side *s);
/* After side_finish: moves the shards into dir under their final names. May be called again after it was killed. */
weft_status side_place(const side *s, const char *dir);
/* Removes older shards of this side in dir that are none of it (all, if s->state.shard is 0). */
weft_status side_sweep(const side *s, const char *dir);
void side_close(side *s);

uint64_t side_tokens(const side *s);
/* After side_finish: of all shards together. */
void side_total(const side *s, weft_shard_info *info);

#endif
