/* Tensors that are final only when a stream of the device has come so far.
 *
 * Kernels that write a gradient have been launched, not run, when the program says that it is ready. So an event goes into
 * the stream behind them, and the tensor counts as ready when that is over: no engine, NCCL or copy touches it before.
 * Events are made once, one for each tensor of the bulk. They are looked at in the order in which they were recorded; the
 * host never waits. Main thread. */
#ifndef WEFT_COMM_NCCL_AFTER_H
#define WEFT_COMM_NCCL_AFTER_H

#include "weft/status.h"

typedef struct after after;

/* For `n` announcements between two resets. UNSUPPORTED: there is no CUDA here; DEVICE, NOMEM. */
weft_status after_create(int n, after **out);
/* NULL is allowed. */
void after_destroy(after *a);
/* Forgets what was announced. */
void after_reset(after *a);
/* Tensor i (any number) is final when what is in `stream`, a cudaStream_t, is complete. */
weft_status after_announce(after *a, int i, void *stream);
/* OK: *i is the oldest announcement whose work is complete, which is taken from the list; IN_PROGRESS: none (now). */
weft_status after_next(after *a, int *i);

#endif
