/* Private to io/dataset: what an unfinished preparation needs to be taken up again, in DIR/.prepare:
 *
 *   identity.json   inputs (path, size, time of change) and options; written when the work begins
 *   state.json      how far it is; replaced as a whole (temporary file, fsync, rename, fsync) after every piece
 *   lock            held by the process that works here
 *   tokenizer/      the trained one
 *   SIDE-NNNNN.wtok.h5               finished shards; .tokens, .doc, .mask beside it: spools of the open one */
#ifndef WEFT_IO_DATASET_JOURNAL_H
#define WEFT_IO_DATASET_JOURNAL_H

#include "io/dataset/shard.h"
#include "io/dataset/text.h"

#define JOURNAL_SIDES      2 /* train, valid */
#define JOURNAL_MAX_SHARDS 65536

typedef struct journal_side {
    uint64_t shard;     /* number of the open one; those before are finished */
    shard_place before; /* totals of those; digests unused */
    shard_place open;   /* of the open one */
} journal_side;

typedef struct journal_state {
    uint64_t tokenizer;       /* fingerprint */
    uint64_t input, at, line; /* where the next block begins */
    uint64_t text_bytes, skipped;
    int done; /* all text is tokenized, all shards are finished: they only have to be put in place */
    journal_side side[JOURNAL_SIDES];
} journal_state;

/* What must be the same for the work to go on; free(). tok NULL: it is trained as o says. */
weft_status journal_identity(const weft_text *t, const weft_tok *tok, const weft_prepare_opts *o,
                             char **json);
/* WEFT_OK if both are the same; else ARG, and the error text names the first difference. FORMAT: `saved` is none. */
weft_status journal_compare(const char *saved, const char *now);
weft_status journal_format(const journal_state *s, char **json);
/* FORMAT: not such a state, or a number out of range. */
weft_status journal_parse(const char *json, size_t n, journal_state *s);

#endif
