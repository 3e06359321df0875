/* Checkpoints: tensors that the ranks of a group hold in parts, saved while the program goes on, and loaded by any
 * number of ranks in any other parts.
 *
 *   ROOT/step_0000012000/      s000.h5 ...     the tensors: HDF5 files, each byte under a digest
 *                              manifest.json   which tensor is where; the state text of the program
 *                              manifest.sha256 (in the form of sha256sum)
 *   ROOT/latest -> step_0000012000
 *
 * A directory is a checkpoint if its manifest is there and fits its digest; then all that it names was on the disk
 * before. Nothing that happens at any instant (a kill, a full disk, an I/O error) makes an earlier checkpoint unusable:
 * a save fails, the program goes on. One checkpoint is one consistent cut: all parts given to one weft_ckpt_begin.
 *
 * Parts are described in global coordinates, so a program may come back with another number of ranks and other parts.
 * Parts that several ranks hold alike (replicas) are stored once; the ranks share the writing.
 *
 * All functions are collective over the group and belong to the thread that called weft_init, unless said otherwise.
 * Files are written by one thread a rank, which calls neither MPI nor the caller. */
#ifndef WEFT_CKPT_H
#define WEFT_CKPT_H

#include "weft/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_CKPT_NAME_MAX 200

/* The part of one tensor that this rank holds: contiguous in memory, row-major. */
typedef struct weft_ckpt_part {
    const char *
        name; /* of the tensor: "sim/temperature"; [A-Za-z0-9._-] and single '/' inside; <= WEFT_CKPT_NAME_MAX; not
                 "a/0" beside a tensor "a": its pieces are stored under such names */
    weft_dtype dtype;
    uint32_t ndim;                /* 1..WEFT_MAX_DIMS */
    int64_t shape[WEFT_MAX_DIMS]; /* of the whole tensor; each >= 1 */
    weft_box box;                 /* where the part is in it; box.ndim == 0: it is all of it */
    int64_t flat_lo,
        flat_hi; /* flat_hi > 0: the part is no box but elements [flat_lo, flat_hi) in row-major order */
    void *ptr;   /* borrowed; read by saves, written by loads; host memory unless opts say how to reach it */
} weft_ckpt_part;

typedef struct weft_ckpt_opts {
    uint32_t size;
    int files;             /* of a checkpoint; 0: one a node of the group */
    int64_t keep;          /* newest checkpoints kept; 0: all. The newest that can be read is never removed */
    int64_t keep_every;    /* also kept: steps that are a multiple of this; 0: none */
    int64_t segment_bytes; /* bytes under one digest: a power of two in [4 KiB, 1 GiB]; 0: 4 MiB */
    size_t staging; /* most bytes of memory a rank uses to stage a save; 0: as much as its share needs */
    /* Called by the writer thread of rank 0: puts more files into `dir`, which the manifest then names too. NULL: none. */
    weft_status (*extra)(void *arg, const char *dir);
    void *extra_arg;
    /* Parts that the host cannot read (memory of a device): copies bytes of a part to the host's `to`. Called by the
     * caller's thread alone, which stages everything inside weft_ckpt_begin then, or, where nothing is staged, copies and
     * writes inside weft_ckpt_wait. NULL: parts are host memory. */
    weft_status (*fetch)(void *arg, void *to, const void *part, size_t bytes);
    void *fetch_arg;
} weft_ckpt_opts;

typedef struct weft_ckpt_info {     /* equal on all ranks but for the times, which are this rank's */
    int64_t step;                   /* of the last save that ended; -1: none */
    int64_t bytes;                  /* of its tensors, over all ranks */
    double seconds;                 /* from begin to the end */
    double exposed;                 /* of these, spent inside weft calls by the caller's thread */
    int64_t saved, failed, skipped; /* saves since open; skipped: begun while another was under way */
    int busy;                       /* a save is under way */
} weft_ckpt_info;

typedef struct weft_ckpt weft_ckpt;

/* Makes ROOT if it is not there, starts the writer threads. One program at a time may save into ROOT (the first save removes
 * what killed ones have left); others may load from it. ARG, ACCESS, NOMEM, IO. opts may be NULL. */
WEFT_API weft_status weft_ckpt_open(weft_group *g, const char *root, const weft_ckpt_opts *o,
                                    weft_ckpt **out);
/* Waits for a save that is under way (its failure is returned), ends the threads. NULL is fine. */
WEFT_API weft_status weft_ckpt_close(weft_ckpt *c);
/* The same without a word to the other ranks, for a program that ends because something broke: a save under way is given up
 * (what it has written goes with the next save). Not collective. NULL is fine. */
WEFT_API void weft_ckpt_abandon(weft_ckpt *c);

/* Begins to save these parts as checkpoint `step`. state: JSON object of rank 0 that goes into the manifest (NULL
 * elsewhere, or none). The parts together must cover each tensor once. Until weft_ckpt_staged the memory must not change;
 * afterwards it may. DROPPED: another save is under way, nothing was begun. ARG, SHAPE: parts that do not fit together,
 * all told at once. An error of the disk may show here or later; the object stays usable after it. */
WEFT_API weft_status weft_ckpt_begin(weft_ckpt *c, int64_t step, const weft_ckpt_part *parts, size_t n,
                                     const char *state);
/* Plans for such parts beforehand and takes the staging memory, so that the first begin costs what later ones do. */
WEFT_API weft_status weft_ckpt_plan(weft_ckpt *c, const weft_ckpt_part *parts, size_t n);
/* Bytes of staging memory that the plan takes on this rank. Not collective. */
WEFT_API size_t weft_ckpt_staging(const weft_ckpt *c);
/* Waits until part i (< 0: every part) of the save under way is staged, helping to stage; then it may change. Not
 * collective. An error of staging is the save's and shows in progress. */
WEFT_API weft_status weft_ckpt_staged(weft_ckpt *c, int i);
/* At step boundaries: brings a save that is under way further, without waiting for the disk. OK: none is under way (any
 * more); IN_PROGRESS; an error: the save failed, told once. Nothing is sent if no save is under way. info may be NULL. */
WEFT_API weft_status weft_ckpt_progress(weft_ckpt *c, weft_ckpt_info *info);
/* The same until the save ends. */
WEFT_API weft_status weft_ckpt_wait(weft_ckpt *c, weft_ckpt_info *info);
/* begin, wait: saves from the memory of the parts, without staging. */
WEFT_API weft_status weft_ckpt_save(weft_ckpt *c, int64_t step, const weft_ckpt_part *parts, size_t n,
                                    const char *state);

typedef struct weft_ckpt_load_opts {
    uint32_t size;
    const char *prefix; /* only tensors whose names begin so count as unexpected; NULL: all */
    int partial;        /* 1: tensors of the checkpoint that nobody asks for are fine */
    int64_t fetched;    /* out: bytes that this rank fetched from files */
    int64_t needed;     /* out: bytes of its parts */
    /* Parts that the host cannot write: copies bytes to where they belong in a part. NULL: parts are host memory. */
    weft_status (*store)(void *arg, void *part, const void *from, size_t bytes);
    void *store_arg;
} weft_ckpt_load_opts;

/* Fills the parts from the checkpoint `step` (-1: the newest that can be read whole: damaged ones are warned of, and
 * left alone). Every byte is checked against its digest before it is used. f32 and bf16 convert into each other; other
 * types must agree. *step: which it was. *state: its state text, on every rank, free with free(); NULL: not wanted.
 * NOTFOUND: there is none. SHAPE: missing, unexpected and misshapen tensors, all named at once. CORRUPT names file,
 * tensor and bytes. After an error the parts hold no particular values. */
WEFT_API weft_status weft_ckpt_load(weft_ckpt *c, int64_t *step, const weft_ckpt_part *parts, size_t n,
                                    weft_ckpt_load_opts *o, char **state);

#ifdef __cplusplus
}
#endif
#endif
