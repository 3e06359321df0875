/* Private to io/dataset: a file that grows until its length is known, to be copied into a container then. */
#ifndef WEFT_IO_DATASET_SPOOL_H
#define WEFT_IO_DATASET_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "io/container/container.h"

#define SPOOL_BUFFER ((size_t)1 << 20)

typedef struct spool {
    int fd; /* -1: closed */
    char *buf;
    size_t used;
    uint64_t bytes; /* all in all */
    void *digest;   /* of what is in the file; only of one with a name */
} spool;

/* A file without a name beside `path`, so that a killed process leaves nothing. */
weft_status spool_open(spool *s, const char *path, const char *part);
/* A file of this name, to be found again: empty, or (bytes > 0) what it was after `bytes` bytes with this digest; what is
 * behind them goes. CORRUPT: it has other bytes, or fewer. */
weft_status spool_open_named(spool *s, const char *name, uint64_t bytes, const uint8_t digest[16]);
void spool_close(spool *s);
/* Space for n <= SPOOL_BUFFER more bytes, to be filled by the caller. `path` is for messages. */
weft_status spool_room(spool *s, size_t n, const char *path, char **p);
/* Everything so far is on the disk, and digested. Only of one with a name. */
weft_status spool_sync(spool *s, const char *path, uint8_t digest[16]);
/* Appends all bytes to dataset `set`. */
weft_status spool_copy(spool *s, const char *path, weft_container_writer *w, size_t set);

#endif
