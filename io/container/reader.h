/* Private to io/container: an open container, for reader.c and mend.c. */
#ifndef WEFT_IO_CONTAINER_READER_H
#define WEFT_IO_CONTAINER_READER_H

#include <stdatomic.h>

#include "io/container/layout.h"

struct weft_container {
    char *path;
    const char *map;
    int fd;
    int64_t file_bytes, block;
    uint8_t digest[16];
    catalogue k;
    _Atomic uint64_t *seen; /* a bit for every row */
    _Atomic int64_t fetched;
};

/* Opens a file whose front is whole; HDF5 metadata and tables of digests are not looked at. */
weft_status container_open_front(const char *path, const char *format, int32_t max_version,
                                 weft_container **out);

#endif
