/* Private to io/checkpoint: the object and a save under way. */
#ifndef WEFT_IO_CKPT_INTERNAL_H
#define WEFT_IO_CKPT_INTERNAL_H

#include <stdatomic.h>

#include "io/checkpoint/dir.h"
#include "io/checkpoint/manifest.h"
#include "io/checkpoint/plan.h"
#include "io/checkpoint/worker.h"
#include "io/container/container.h"

#define CKPT_PAGE    4096
#define CKPT_SEGMENT ((int64_t)4 << 20)

/* A save goes through these; every rank is done with one before any begins the next. */
typedef enum ckpt_phase {
    CKPT_IDLE,
    CKPT_STAGE,  /* leaders make the files; everybody stages */
    CKPT_WRITE,  /* everybody writes its segments and syncs */
    CKPT_SEAL,   /* leaders write digests and catalogues, sync and rename the files */
    CKPT_COMMIT, /* rank 0: manifest, rename of the directory, retention */
} ckpt_phase;

typedef struct ckpt_save {
    ckpt_phase phase;
    int64_t step;
    int unstaged; /* written from the parts' memory while the caller waits */
    char *state;  /* rank 0 */
    char *tmp;    /* the directory while it grows */
    double began, exposed;
    const void **part; /* memory of this rank's parts */
    int nparts;
    _Atomic size_t next;             /* mine[next]: to be staged next */
    _Atomic int64_t *left;           /* by part: segments not staged yet; [nparts]: of all */
    uint8_t (*digest)[16];           /* of mine */
    size_t *slot;                    /* offset in the arena of each of mine */
    weft_container_writer **writer;  /* by file; NULL: not led from here */
    char (*path)[CKPT_PATH_MAX + 1]; /* by file: its temporary name inside tmp */
    int64_t *at;                     /* by set: place in its file */
    weft_container_id *id;           /* by file */
} ckpt_save;

struct weft_ckpt {
    weft_group *g;
    int rank, size;
    char *root;
    weft_ckpt_opts o;
    char run[CKPT_RUN_CHARS];
    int swept; /* what killed saves have left is gone */
    ckpt_plan plan;
    char *arena;
    size_t arena_bytes;
    ckpt_worker *worker;
    ckpt_save save;
    weft_ckpt_info info;
};

/* stage.c: memory and bytes of one rank */
size_t ckpt_arena_needed(const ckpt_plan *p);
weft_status ckpt_arena_take(weft_ckpt *c, size_t bytes);
void ckpt_arena_release(weft_ckpt *c);
/* Stages segments until none is left, beside whoever else does. Fails only with opts.fetch, which is the caller's thread's. */
weft_status ckpt_stage_all(weft_ckpt *c);
/* The segments of this rank into the files, synced; from the arena, or (unstaged) through it. Writer thread; the caller's
 * if it fetches. */
weft_status ckpt_write_mine(weft_ckpt *c);

/* commit.c: rank 0's last phase. Writer thread. */
weft_status ckpt_commit(weft_ckpt *c);

#endif
