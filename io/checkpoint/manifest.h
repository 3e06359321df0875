/* Private to io/checkpoint: the manifest, the one file that says that a directory is a checkpoint and what is in it.
 *
 * {"format": "weft-ckpt", "version": 1, "run": uuid, "step", "created_ns", "writer": {"weft", "ranks"}, "digest": "xxh3-128",
 *  "segment_bytes",
 *  "files":  [{"path", "bytes", "digest"}]        containers; the digest is that of their catalogue, so of all they hold
 *  "extra":  [{"path", "bytes", "digest"}]        other files, the digest of their bytes
 *  "tensors": [{"name", "dtype", "shape", "sets": [{"off", "ext"} or {"flat": [lo, hi]}, and "file": index]}]
 *  "state": {...}}                                the program's
 *
 * Set j of tensor t is the dataset "/t/j" of its file. manifest.sha256 beside it holds its SHA-256 as sha256sum prints it. */
#ifndef WEFT_IO_CKPT_MANIFEST_H
#define WEFT_IO_CKPT_MANIFEST_H

#include "io/checkpoint/table.h"

#define CKPT_FORMAT        "weft-ckpt"
#define CKPT_VERSION       1
#define CKPT_FILE_FORMAT   "weft-ckpt-file" /* of the containers */
#define CKPT_MANIFEST_FILE "manifest.json"
#define CKPT_SEAL_FILE     "manifest.sha256"
#define CKPT_MANIFEST_MAX  ((size_t)1 << 30)
#define CKPT_RUN_CHARS     33 /* 32 hexadecimal digits */
#define CKPT_PATH_MAX      200
#define CKPT_MAX_EXTRA     1024

typedef struct ckpt_file {
    char path[CKPT_PATH_MAX + 1]; /* a name inside the directory */
    int64_t bytes;
    uint8_t digest[16];
} ckpt_file;

typedef struct ckpt_manifest {
    char run[CKPT_RUN_CHARS];
    char weft[64]; /* version of the writer */
    int64_t ranks, step, created_ns, segment_bytes;
    ckpt_file *file, *extra;
    size_t nfiles, nextra;
    ckpt_table table;
    char *state; /* JSON object */
} ckpt_manifest;

void ckpt_manifest_free(ckpt_manifest *m);
/* JSON text; free(). `table` is taken from t, the rest from m (m->table is not looked at). FORMAT: the state is no object. */
weft_status ckpt_manifest_format(const ckpt_manifest *m, const ckpt_table *t, char **text, size_t *n);
/* Parses and checks everything that can be checked without the files. FORMAT, VERSION, CORRUPT, NOMEM. m is to be freed
 * in any case. */
weft_status ckpt_manifest_parse(const char *path, const char *text, size_t n, ckpt_manifest *m);
/* Reads DIR/manifest.json and checks it against its SHA-256. NOTFOUND: dir is no checkpoint. CORRUPT, ... */
weft_status ckpt_manifest_read(const char *dir, ckpt_manifest *m);
/* Writes both files: manifest.json whole and synced, then its seal. Local. */
weft_status ckpt_manifest_write(const char *dir, const char *text, size_t n);

#endif
