/* Is a checkpoint whole, and what can be mended? Of io/ and runtime/, local to one process, no MPI. */
#ifndef WEFT_IO_CKPT_VERIFY_H
#define WEFT_IO_CKPT_VERIFY_H

#include "io/checkpoint/reader.h"

typedef struct ckpt_damage {
    const char *file;   /* name inside the directory */
    const char *tensor; /* NULL: not of one tensor */
    int64_t piece;      /* set of the tensor, -1: not of one */
    int64_t segment;    /* of the set, -1: not of one */
    int64_t lo, hi;     /* bytes of the file; hi 0: all of it */
    const char *text;   /* what is wrong */
} ckpt_damage;

typedef void (*ckpt_damage_fn)(void *arg, const ckpt_damage *d);

/* Sizes, manifest, catalogues, HDF5 metadata, tables of digests and extra files; deep: also every byte of every tensor and
 * between them. Tells each damage. CORRUPT if there was any; NOTFOUND, VERSION, FORMAT: dir is no checkpoint (of ours). */
weft_status ckpt_verify(const char *dir, int deep, ckpt_damage_fn fn, void *arg);

/* Mends what can be mended from the directories `from` (copies of this checkpoint; may be none: tables of digests follow
 * from the data). Files are replaced whole; the damaged ones stay as NAME.bad. told: each file that was mended. CORRUPT:
 * something could not be mended; nothing was made worse. */
weft_status ckpt_repair(const char *dir, const char *const *from, size_t n,
                        void (*told)(void *, const char *file), void *arg);

typedef struct ckpt_difference {
    const char *tensor;
    enum { CKPT_ONLY_FIRST, CKPT_ONLY_SECOND, CKPT_OTHER_SHAPE, CKPT_OTHER_VALUES } kind;
    int64_t elements, differing; /* OTHER_VALUES: of how many, and how many differ in a bit */
    double largest;              /* OTHER_VALUES: largest absolute difference; NaN where one value is */
} ckpt_difference;

/* Compares the tensors of two checkpoints whose names begin with prefix (NULL: all); pieces do not matter. *found: how
 * many differ. */
weft_status ckpt_diff(const char *a, const char *b, const char *prefix,
                      void (*fn)(void *, const ckpt_difference *), void *arg, size_t *found);

#endif
