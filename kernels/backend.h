/* What a backend is made of: kernels.c knows only this. Private to kernels/. */
#ifndef WEFT_KERNELS_BACKEND_H
#define WEFT_KERNELS_BACKEND_H

#include "kernels/kernels.h"

/* One row per backend kind, in kernels.c's table. Handles begin with these headers. */
typedef struct weft_backend_class {
    const char *name;
    weft_status (*open)(const weft_backend_opts *o, weft_backend **b); /* UNSUPPORTED: not on this machine */
    void (*close)(weft_backend *b);
    weft_status (*info)(const weft_backend *b, weft_backend_desc *d);
    weft_status (*exec_create)(weft_backend *b, const weft_exec_opts *o, weft_exec **x);
    void (*exec_destroy)(weft_exec *x);
    size_t (*scratch)(const weft_backend *b, weft_op_id op, const void *desc, int threads);
} weft_backend_class;

struct weft_backend {
    const weft_backend_class *cls;
    const struct weft_ops *ops;
};

struct weft_exec {
    weft_backend *backend;
    int threads;
    void *scratch;
    size_t scratch_bytes;
};

extern const weft_backend_class weft_backend_ref, weft_backend_cpu, weft_backend_cuda;

#endif
