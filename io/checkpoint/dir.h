/* Private to io/ and runtime/: the directory that holds a program's checkpoints. Local, any thread; no MPI. */
#ifndef WEFT_IO_CKPT_DIR_H
#define WEFT_IO_CKPT_DIR_H

#include "io/checkpoint/manifest.h"

typedef struct ckpt_entry {
    char name[128]; /* of the directory inside the root */
    int64_t step, created_ns;
    weft_status status; /* of its manifest; step and created_ns only if OK */
} ckpt_entry;

/* Every directory below root that has a manifest, and those named like checkpoints that have none or a broken one; the
 * newest first (by step, then time). An entry without a usable manifest has its status. *list: free(). */
weft_status ckpt_list(const char *root, ckpt_entry **list, size_t *n);
/* "step_0000012000". */
void ckpt_step_name(int64_t step, char name[32]);
/* Points ROOT/latest at `name`; a failure is only warned of. */
void ckpt_point_latest(const char *root, const char *name);
/* Removes a checkpoint so that at no instant a part of it looks like one. */
weft_status ckpt_remove(const char *root, const char *name);
/* Gives the sealed directory `from` (a path inside root) the name; what had it goes, but only then. On an error that one is
 * still there, or both. */
weft_status ckpt_take_name(const char *root, const char *from, const char *name);
/* Removes what killed saves and removals have left. Nobody may be saving. */
void ckpt_sweep(const char *root);
/* Removes all but the `keep` newest that open (0: all stay), those named pin, and steps that are multiples of keep_every
 * (0: none). A file "pin" in a checkpoint keeps it for ever. newest: the step that was just saved; what has a later one was
 * passed over as damaged when the program resumed: it neither counts nor goes. CKPT_ALL_STEPS: all count, and the first that
 * does is read whole. dry: only tells. */
#define CKPT_ALL_STEPS (-1)
weft_status ckpt_prune(const char *root, int64_t keep, int64_t keep_every, int64_t newest, int dry,
                       void (*told)(void *, const char *name), void *arg);

#endif
