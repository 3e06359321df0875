/* Private to io/container: the bytes at the front of a file, and the catalogue as a struct. */
#ifndef WEFT_IO_CONTAINER_LAYOUT_H
#define WEFT_IO_CONTAINER_LAYOUT_H

#include "io/container/container.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and mapped as they are");

#define CONTAINER_MAGIC     "WEFTH5\r\n" /* \r\n: a transfer in text mode shows */
#define CONTAINER_VERSION   1
#define CONTAINER_PAGE      4096
#define CONTAINER_MAX_BLOCK ((int64_t)64 << 20)
#define CONTAINER_MAX_META  ((int64_t)1 << 30)
#define CONTAINER_ROWS_NAME "/sys/xxh"
#define CONTAINER_MIN_ROWS  256 /* a page: HDF5 would put a smaller table into a gap between datasets */

/* The first bytes of the file; the catalogue text follows, then zeros up to `block`. */
typedef struct container_prefix {
    char magic[8];
    uint32_t version;
    uint32_t block;      /* bytes of the user block: a power of two */
    uint64_t file_bytes; /* of the whole file */
    uint64_t text_bytes; /* of the catalogue */
    uint8_t digest[16];  /* XXH3-128 of the 32 bytes before and the catalogue */
} container_prefix;

_Static_assert(sizeof(container_prefix) == 48, "written as it is");

typedef struct catalogue {
    char *format;
    int32_t version;
    int64_t segment_bytes;
    int64_t meta_bytes; /* HDF5 metadata: [block, block + meta_bytes) */
    uint8_t meta_digest[16];
    weft_attr *attrs; /* owned, with their strings */
    size_t nattrs;
    weft_container_dataset *sets; /* owned, with their names; in file order; the last is /sys/xxh */
    uint8_t (*roots)[16];         /* of each but the last: digest of its rows */
    size_t nsets;
} catalogue;

void catalogue_free(catalogue *k);
/* The catalogue as JSON text, without its final zero; free(). NOMEM. */
weft_status catalogue_format(const catalogue *k, char **text, size_t *n);
/* Parses and checks against the file's size: types, shapes, places, order, rows. CORRUPT: the digest held, so
 * whoever wrote it broke the rules. k is to be freed in any case. */
weft_status catalogue_parse(const char *path, const char *text, size_t n, int64_t block, int64_t file_bytes,
                            catalogue *k);

/* Bytes of shape x dtype, or -1 (no dimension, a size < 1, overflow, unknown type). */
int64_t container_bytes(weft_dtype dtype, uint32_t ndim, const int64_t *shape);

/* HDF5's part: makes the file at `path` (replacing it) with a user block of `block` bytes, the attributes and
 * the datasets, and fills at and bytes of sets; *meta_bytes and *file_bytes say how far metadata and file
 * reach. */
weft_status container_h5_create(const char *path, int64_t block, int64_t alignment, const weft_attr *attrs,
                                size_t nattrs, weft_container_dataset *sets, size_t nsets,
                                int64_t *meta_bytes, int64_t *file_bytes);

#endif
