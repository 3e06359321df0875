/* Private to io/dataset: an open token shard, and the names inside its file. */
#ifndef WEFT_IO_DATASET_SHARD_H
#define WEFT_IO_DATASET_SHARD_H

#include "io/container/container.h"
#include "io/dataset/dataset.h"

#define SHARD_FORMAT     "weft-tokens"
#define SHARD_VERSION    2                    /* with a mask; 1 without one */
#define SHARD_SEGMENT    ((int64_t)256 << 10) /* digested once, by the first sample in it, in some 60 us */
#define SHARD_MAX_TOKENS ((uint64_t)1 << 50)
#define SHARD_MAX_VOCAB  ((uint32_t)1 << 30) /* ids fit int32 */

typedef struct weft_shard {
    struct adopted *adopted; /* a foreign file in place (adopt.h); then file and the sets are NULL */
    weft_container *file;
    const weft_container_dataset *tokens_set, *doc_set, *mask_set; /* mask_set: NULL without a mask */
    const void *tokens;                                            /* u16 or u32, mapped */
    weft_shard_info info;
} weft_shard;

/* Everything but the bytes of the tokens is checked; those by shard_copy. path: a native shard, or a foreign file that
 * has a sidecar. */
weft_status shard_open(const char *path, weft_shard *s);
void shard_close(weft_shard *s);
const char *shard_file(const weft_shard *s);
/* Names the whole content. */
void shard_digest(const weft_shard *s, uint8_t digest[16]);
/* The info.docs + 1 document starts, mapped; call shard_check_docs(lo, hi) before entries [lo, hi) are trusted. */
const int64_t *shard_doc(const weft_shard *s);
weft_status shard_check_docs(const weft_shard *s, uint64_t lo, uint64_t hi);
/* Tokens [at, at + n) as int32. CORRUPT: a damaged segment, an id >= vocab. Any thread. */
weft_status shard_copy(const weft_shard *s, uint64_t at, size_t n, int32_t *out);
/* The mask of tokens [at, at + n): 0 or 1; all 1 without a mask. CORRUPT. Any thread. */
weft_status shard_copy_mask(const weft_shard *s, uint64_t at, size_t n, uint8_t *out);

/* weft_shard_append in pieces: a document is one begin and any number of puts. */
weft_status shard_begin_document(weft_shard_writer *w);
weft_status shard_put(weft_shard_writer *w, const uint32_t *ids, const uint8_t *mask, size_t n,
                      uint64_t source_bytes);

/* A writer that can be taken up again: its spools are PATH.tokens, .doc and .mask, and outlive it. A place of all zeros
 * is a new shard; else the writer stands where it stood at shard_save_place. CORRUPT: the spools are not what they were. */
#define SHARD_SPOOLS 3
typedef struct shard_place {
    uint64_t tokens, docs, source_bytes, targets;
    uint8_t digest[SHARD_SPOOLS][16];
} shard_place;
weft_status shard_create_at(const char *path, const weft_shard_info *info, const shard_place *from,
                            weft_shard_writer **w);
/* What was put so far is on the disk, and where that is. */
weft_status shard_save_place(weft_shard_writer *w, shard_place *place);
weft_status shard_remove_spools(const char *path);
const weft_shard_info *shard_writer_info(const weft_shard_writer *w);

/* Bytes a token takes for this vocabulary. */
static inline int shard_width(uint32_t vocab) {
    return vocab <= 65536 ? 2 : 4;
}

#endif
