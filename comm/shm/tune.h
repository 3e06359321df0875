/* Cut-offs between the ways to do a collective on one node; equal on all ranks of a context. */
#ifndef WEFT_COMM_SHM_TUNE_H
#define WEFT_COMM_SHM_TUNE_H

#include <stddef.h>

typedef struct shm_tune {
    size_t together;    /* up to so many bytes everybody reads everything at once (coll.h) */
    size_t slot;        /* bytes of a message of a larger blocking collective */
    size_t stream_push; /* from so many bytes on, read and written by all ranks, sums go past the caches; */
    size_t stream_copy; /* so do copies */
} shm_tune;

/* What holds where nobody has measured. */
#define SHM_TUNE_DEFAULT                                                                                     \
    (shm_tune) {                                                                                             \
        16384, 131072, (size_t)64 << 20, (size_t)64 << 20                                                    \
    }

#endif
