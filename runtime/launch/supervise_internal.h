/* Between the two sources of the supervisor's machine: the job (supervise_machine.c) and its cells
 * (supervise_cells.c). */
#ifndef WEFT_LAUNCH_SUPERVISE_INTERNAL_H
#define WEFT_LAUNCH_SUPERVISE_INTERNAL_H

#include "runtime/launch/supervise_machine.h"

void supervise_say(weft_supervise_machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The next action of this step, to be filled in. */
weft_supervise_action *supervise_do(weft_supervise_machine *m, weft_supervise_action_kind kind);
/* All cells are done (or will not be): the code, and what comes after. */
void supervise_conclude(weft_supervise_machine *m);

/* A new order to the nodes of a cell; WEFT_SUPERVISE_NO_CELL: to all nodes. */
void supervise_order(weft_supervise_machine *m, uint32_t cell);
/* Have all agents answered, or is the time for it over? */
int supervise_checked(const weft_supervise_machine *m, int64_t now);
/* Shares the nodes out and launches all cells. */
void supervise_form(weft_supervise_machine *m, int64_t now);
void supervise_done(weft_supervise_machine *m, uint32_t cell, int code, int64_t now);
/* What time alone brings: silence, hangs, ranks that died, the kill before the limit. */
void supervise_cells(weft_supervise_machine *m, int64_t now);
/* All that waits for something waits so much longer. */
void supervise_shift(weft_supervise_machine *m, int64_t by_ns);

void supervise_beat(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now);
void supervise_layout(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now);
void supervise_exited(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now);
void supervise_killed(weft_supervise_machine *m, const weft_supervise_event *e, int64_t now);

#endif
