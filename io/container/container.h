/* The container: one HDF5 file of attributes and plain arrays, whose bytes weft writes and reads without
 * HDF5.
 *
 *   0        user block: "WEFTH5\r\n", sizes, digest, and the catalogue (JSON): attributes, and for every
 * dataset its type, shape, byte offset, and the digest of its digests block    HDF5 superblock and all HDF5
 * metadata, in one piece
 *   ...      datasets: contiguous, aligned, in file order; bytes between them are zero
 *   /sys/xxh XXH3-128 of every segment of every dataset, 16 bytes a row, canonical order
 *
 * HDF5 makes the file, so that h5dump and h5py open it. weft reads it by its own catalogue: what a damaged or
 * hostile file can reach is one bounded JSON parser and checked arithmetic, never the HDF5 library. The
 * catalogue carries a digest of itself and of the HDF5 metadata, and the root of every dataset's digests, so
 * that its own digest names the whole content. All numbers are little-endian. XXH3 finds damage; it is no
 * defence against a forger.
 *
 * A file appears under its name complete and synced, or not at all. */
#ifndef WEFT_IO_CONTAINER_H
#define WEFT_IO_CONTAINER_H

#include <stddef.h>
#include <stdint.h>

#include "base/box.h"
#include "base/status.h"
#include "weft/types.h"

#define WEFT_CONTAINER_NAME_MAX     255
#define WEFT_CONTAINER_MAX_DATASETS 65536
#define WEFT_CONTAINER_MAX_ATTRS    256

typedef enum weft_attr_type { WEFT_ATTR_STRING, WEFT_ATTR_I64, WEFT_ATTR_F64 } weft_attr_type;

typedef struct weft_attr { /* an attribute of the root group */
    const char *name;
    weft_attr_type type;
    const char *s; /* STRING: UTF-8 */
    int64_t i;     /* I64 */
    double f;      /* F64: finite */
} weft_attr;

typedef struct weft_container_dataset {
    const char
        *name; /* absolute: "/tokens", "/model/layers.00.attn.q.weight/0"; groups are made on the way */
    weft_dtype dtype;
    uint32_t ndim; /* 1..WEFT_MAX_DIMS */
    int64_t shape[WEFT_MAX_DIMS];
    /* filled by create and open */
    int64_t at, bytes; /* place in the file */
    int64_t row, rows; /* its digests in /sys/xxh */
} weft_container_dataset;

/* --- writing: one process, one thread at a time per writer; any number of writers at once
 * ----------------------- */

/* Starts HDF5. To be called by the thread that called MPI_Init before another thread creates a container: HDF5 makes an
 * attribute of MPI when it starts. IO. */
weft_status weft_container_start(void);

typedef struct weft_container_opts {
    uint32_t size;
    const char *format;    /* what the file is: "weft-tokens" */
    int32_t version;       /* of that format, >= 1 */
    int64_t segment_bytes; /* bytes a digest covers: a power of two in [4 KiB, 1 GiB] */
    int64_t alignment; /* of datasets of 4096 bytes and more: a power of two in [4 KiB, 64 MiB]; 0: 4 KiB */
    const weft_attr *attrs;
    size_t nattrs;
} weft_container_opts;

typedef struct weft_container_writer weft_container_writer;

/* Makes a temporary file beside `path` with all metadata and space for all bytes, and fills at, bytes, row,
 * rows of sets. Nothing exists under `path` before commit. ARG: a name, shape or option; ACCESS, NOTFOUND,
 * SPACE, IO. */
weft_status weft_container_create(const char *path, const weft_container_opts *o,
                                  weft_container_dataset *sets, size_t n, weft_container_writer **w);
/* Writes the next n bytes of dataset `set` (an index into sets) and digests them. ARG: more than it holds. */
weft_status weft_container_append(weft_container_writer *w, size_t set, const void *data, size_t n);
/* Bytes that somebody else writes (another process, past this object) into the temporary file at sets[set].at:
 * the file's name until commit (the writer's own), and the word that segment `segment` of dataset `set` is there,
 * with its digest. A dataset is either appended or filled, segments in any order, each once. ARG. */
const char *weft_container_tmp(const weft_container_writer *w);
weft_status weft_container_filled(weft_container_writer *w, size_t set, int64_t segment,
                                  const uint8_t digest[16]);

typedef struct weft_container_id { /* what a finished file is */
    uint8_t digest[16];            /* weft_container_digest */
    int64_t bytes;
} weft_container_id;

/* Writes digests and catalogue, syncs, renames; frees w in any case. id may be NULL. STATE: a dataset is not
 * full. On an error nothing new is under the final name, unless the rename was done and only the directory
 * could not be synced: the message says so, and the file is complete. */
weft_status weft_container_commit(weft_container_writer *w, weft_container_id *id);
/* Removes the temporary file and frees w (NULL: nothing). */
void weft_container_abort(weft_container_writer *w);

/* --- reading: any thread, several at once
 * -------------------------------------------------------------------------- */

typedef struct weft_container weft_container;

/* Validates everything but the bytes of the datasets (sizes, catalogue, HDF5 metadata, digest table) and maps
 * the file. `format`: what is expected. NOTFOUND, ACCESS, IO, FORMAT (another kind of file, truncated),
 * CORRUPT (damaged), VERSION (a newer container, or a newer `format` than max_version). A file must not
 * shrink while it is mapped. */
weft_status weft_container_open(const char *path, const char *format, int32_t max_version,
                                weft_container **c);
void weft_container_close(weft_container *c);

const char *weft_container_path(const weft_container *c);
/* The digest of the catalogue: equal if and only if attributes and all data are equal. */
void weft_container_digest(const weft_container *c, uint8_t digest[16]);
/* NULL if there is none of that name and type. */
const weft_attr *weft_container_attr(const weft_container *c, const char *name, weft_attr_type type);
const weft_container_dataset *weft_container_find(const weft_container *c, const char *name);
/* The mapped bytes of a dataset, aligned to its element size; call check before trusting them. */
const void *weft_container_data(const weft_container *c, const weft_container_dataset *d);
/* Makes sure that bytes [lo, hi) of d are what was written: digests each segment the first time this process
 * asks for it, then costs a few loads. CORRUPT names file, dataset and byte range. */
weft_status weft_container_check(const weft_container *c, const weft_container_dataset *d, int64_t lo,
                                 int64_t hi);
/* Copies bytes [lo, hi) of d to `to`, checked as by check, by read(2): whole segments go straight there and are
 * digested in passing. CORRUPT, IO, ARG. */
weft_status weft_container_read(const weft_container *c, const weft_container_dataset *d, int64_t lo,
                                int64_t hi, void *to);
/* Bytes fetched from the file by read and check so far, those only needed for a digest included. */
int64_t weft_container_fetched(const weft_container *c);

size_t weft_container_count(const weft_container *c); /* datasets, in file order; the last is /sys/xxh */
const weft_container_dataset *weft_container_at(const weft_container *c, size_t i);
int64_t weft_container_segment(const weft_container *c);
/* The digest of all digests of d: equal bytes have equal roots (with equal segments). */
void weft_container_root(const weft_container *c, const weft_container_dataset *d, uint8_t root[16]);

/* Damage: bytes [lo, hi) of the file; d NULL: between datasets. Returns 0 to go on. */
typedef int (*weft_container_damage_fn)(void *arg, const weft_container_dataset *d, int64_t lo, int64_t hi);
/* Every segment again, and every gap; tells each that is damaged. CORRUPT if there was any. */
weft_status weft_container_scan(const weft_container *c, weft_container_damage_fn fn, void *arg);
/* The same, up to the first. */
weft_status weft_container_verify(const weft_container *c);

/* Mends the file at path, which should be the container of digest `want`, from itself and from a copy (`from`; NULL:
 * none): the mended file takes the name, the old one stays as PATH.bad. CORRUPT: not enough is whole, nothing changed. */
weft_status weft_container_mend(const char *path, const char *from, const char *format, int32_t max_version,
                                const uint8_t want[16]);

#endif
