/* Cut-offs between the ways to do a collective on one node; equal on all ranks of a context. They change how long a
 * collective takes, never its bits.
 *
 * `weft bench tune` measures them and writes a table, which weft_init of rank 0 reads and gives to all:
 *
 *     weft-tune 1
 *     # comments
 *     ranks 2
 *     together 16384
 *     slot 131072
 *     stream_push 67108864
 *     stream_copy never
 *     end
 */
#ifndef WEFT_COMM_SHM_TUNE_H
#define WEFT_COMM_SHM_TUNE_H

#include <stddef.h>
#include <stdint.h>

#include "weft/comm.h"

#define TUNE_NEVER SIZE_MAX
#define TUNE_TEXT  1024 /* bytes that hold any table */
#define TUNE_PATH  4096

typedef struct shm_tune {
    size_t together; /* up to so many bytes everybody reads everything at once (coll.h); at most MEET_MOST */
    size_t slot;     /* bytes of a message of a larger blocking collective; 16 KiB to 4 MiB */
    size_t stream_push; /* from so many bytes on, read and written by all ranks, sums go past the caches; */
    size_t stream_copy; /* so do copies. Both: at least 1 MiB, or TUNE_NEVER */
    int ranks;          /* that measured it; 0: nobody has */
} shm_tune;

/* What holds where nobody has measured. */
#define SHM_TUNE_DEFAULT                                                                                     \
    (shm_tune) {                                                                                             \
        16384, 131072, (size_t)64 << 20, (size_t)64 << 20, 0                                                 \
    }

/* Reads a table of n bytes; *t is untouched on errors. FORMAT: not a table, or a truncated one, with the line; CONFIG: a
 * value out of its bounds; VERSION: a newer one. Pure. */
weft_status tune_parse(const char *text, size_t n, shm_tune *t);
/* The table of t. Pure. */
void tune_print(const shm_tune *t, char text[TUNE_TEXT]);
/* The file of this host: $XDG_CACHE_HOME/weft/tune-<hostname>, or below ~/.cache. NOTFOUND: neither variable is set. */
weft_status tune_path(char path[TUNE_PATH]);
/* The table that this process's environment asks for: $WEFT_TUNE (a file, or `off`), else tune_path if it is there. `path`
 * is the file, "" where the defaults hold. On errors *t is the defaults. */
weft_status tune_find(shm_tune *t, char path[TUNE_PATH]);

/* (C) Gives what rank 0 finds to all ranks of c. A table that cannot be read is a warning. */
weft_status tune_join(weft_ctx *c);
/* (C) t, equal on all ranks, for c from now on; `slot` for the groups that are committed later. */
void tune_set(weft_ctx *c, const shm_tune *t);
const shm_tune *tune_of(const weft_ctx *c);
/* Do its blocking collectives look at a table? They do with more than one rank, all on one node. */
int tune_serves(const weft_group *g);

#endif
