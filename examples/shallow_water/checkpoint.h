/* Checkpoints of the simulation by weft: its three fields without ghosts, and what else a program puts beside them
 * (examples/coupled: a model), as one cut. Taken up again by any number of ranks. Only with the carrier weft, after
 * sw_open. All functions are collective. */
#ifndef SW_CHECKPOINT_H
#define SW_CHECKPOINT_H

#include <weft/ckpt.h>

#include "solver.h"

#define SW_MORE_PARTS 4

typedef struct sw_checkpoint sw_checkpoint;

/* more: further parts; their memory is borrowed until close. NULL after a message. */
sw_checkpoint *sw_checkpoint_open(sw_solver *s, const char *dir, const weft_ckpt_part *more, size_t nmore);
/* Fills the fields and the further parts from the newest checkpoint. *state: its state, on every rank; free().
 * 1: there is none, and all is as it was; -1 after a message. */
int sw_checkpoint_load(sw_checkpoint *c, int64_t *step, char **state);
/* The number after `key` in a state. 0, or -1 after a message. */
int sw_checkpoint_number(const char *state, const char *key, double *x);
/* Begins to save. The fields may change at once, the further parts after sw_checkpoint_staged. While another save is
 * under way, nothing is begun. A save that fails is told on stderr: the run goes on, and so do the checkpoints before. */
void sw_checkpoint_begin(sw_checkpoint *c, int64_t step, const char *state);
void sw_checkpoint_staged(sw_checkpoint *c);
/* Once a step. */
void sw_checkpoint_progress(sw_checkpoint *c);
/* Waits for the save under way, and saves this step unless it was that. 0: it is on the disk; -1 after a message. */
int sw_checkpoint_last(sw_checkpoint *c, int64_t step, const char *state);
/* Step of the newest that is on the disk, and how long it took (0: not known); -1: there is none. Local. */
int64_t sw_checkpoint_newest(const sw_checkpoint *c, double *seconds);
/* Before sw_close. NULL is fine. */
void sw_checkpoint_close(sw_checkpoint *c);

#endif
