/* Memory that both the host and the ops of a backend use: one memory where ops use the host's; two, with copies between
 * them, where the backend's memory is a device's. What the host writes for ops is pushed before they run, what ops leave
 * for the host is pulled behind them; on a backend of the host both do nothing. */
#ifndef WEFT_RUNTIME_MIRROR_H
#define WEFT_RUNTIME_MIRROR_H

#include "kernels/kernels.h"

typedef struct weft_mirror {
    void *host,
        *ops; /* equal where apart is 0; set once the backend's memory is placed (weft_mirror_place) */
    size_t bytes;
    int apart;
} weft_mirror;

/* Is the memory of this backend a device's, which the host cannot touch? */
int weft_backend_apart(const weft_backend *b);
/* Takes the host's memory, where it needs any of its own (zeroed). The backend's is the caller's plan. NOMEM. */
weft_status weft_mirror_plan(weft_mirror *m, const weft_backend *b, size_t bytes);
/* ops: `bytes` of the backend's memory */
void weft_mirror_place(weft_mirror *m, void *ops);
void weft_mirror_free(weft_mirror *m);
/* The first `bytes` to the ops, from the ops. Complete on return. */
weft_status weft_mirror_push(const weft_mirror *m, const struct weft_ops *ops, weft_exec *x, size_t bytes);
weft_status weft_mirror_pull(const weft_mirror *m, const struct weft_ops *ops, weft_exec *x, size_t bytes);

#endif
