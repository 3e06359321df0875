/* Opens backends by name and passes calls on to their class. The one file of kernels/ that knows all of them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "kernels/backend.h"

/* "auto" takes the first that this machine can run, "host" the first of those whose memory is the host's. */
static const weft_backend_class *const classes[] = {
    &weft_backend_cuda,
    &weft_backend_cpu,
    &weft_backend_ref,
};
#define CLASSES (sizeof classes / sizeof *classes)

/* "cuda:1" is the class cuda and device 1. */
static int names(const char *name, const char *class, weft_backend_opts *o) {
    const size_t n = strlen(class);
    char *end = NULL;
    if (strncmp(name, class, n) != 0) return 0;
    if (!name[n]) return 1;
    if (name[n] != ':' || strcmp(class, "cuda") != 0 || name[n + 1] < '0' || name[n + 1] > '9') return 0;
    o->device = (int)strtol(name + n + 1, &end, 10);
    o->round = 0;
    return !*end;
}

weft_status weft_backend_open(const char *name, const weft_backend_opts *o, weft_backend **b) {
    if (!name || !b) return weft_fail(WEFT_ERR_ARG, "backend open: name and result are needed");
    *b = NULL;
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "backend open: options of %u bytes, expected %zu", o->size, sizeof *o);
    const int host = strcmp(name, "host") == 0, any = host || strcmp(name, "auto") == 0;
    weft_backend_opts mine = {.size = sizeof mine};
    if (o) mine = *o;
    for (size_t i = 0; i < CLASSES; i++) {
        if (host && classes[i] == &weft_backend_cuda) continue;
        if (!any && !names(name, classes[i]->name, &mine)) continue;
        weft_status s = classes[i]->open(&mine, b);
        if (any && s == WEFT_ERR_UNSUPPORTED && i + 1 < CLASSES) continue;
        return s < 0 ? weft_context(s, "backend %s", classes[i]->name) : s;
    }
    return weft_fail(WEFT_ERR_UNSUPPORTED,
                     "backend '%s': there are cuda, cuda:INDEX, cpu, ref, host and auto", name);
}

const struct weft_ops *weft_backend_ops(const weft_backend *b) {
    return b->ops;
}

weft_status weft_backend_info(const weft_backend *b, weft_backend_desc *d) {
    return b->cls->info(b, d);
}

void weft_backend_close(weft_backend *b) {
    if (b) b->cls->close(b);
}

weft_status weft_exec_create(weft_backend *b, const weft_exec_opts *o, weft_exec **x) {
    if (!b || !x) return weft_fail(WEFT_ERR_ARG, "exec create: backend and result are needed");
    *x = NULL;
    if (o && o->size != sizeof *o)
        return weft_fail(WEFT_ERR_ARG, "exec create: options of %u bytes, expected %zu", o->size, sizeof *o);
    return b->cls->exec_create(b, o, x);
}

void weft_exec_destroy(weft_exec *x) {
    if (x) x->backend->cls->exec_destroy(x);
}

int weft_exec_threads(const weft_exec *x) {
    return x->threads;
}

size_t weft_op_scratch(const weft_backend *b, weft_op_id op, const void *desc, int threads) {
    return desc ? b->cls->scratch(b, op, desc, threads < 1 ? 1 : threads) : 0;
}
