/* The device carrier of a build without NCCL's headers: all memory is host memory. */
#include "base/status.h"
#include "comm/nccl/after.h"
#include "comm/nccl/device.h"

int device_built(void) {
    return 0;
}

int device_holds(int nt, const weft_tensor *t) {
    (void)nt;
    (void)t;
    return 0;
}

weft_status device_mover_create(const mover_spec *spec, mover **v) {
    (void)spec;
    *v = NULL;
    return WEFT_OK;
}

weft_status device_commit(weft_ctx *c) {
    (void)c;
    return WEFT_OK;
}

void device_close_group(weft_group *g, int healthy) {
    (void)g;
    (void)healthy;
}

void device_stop(weft_ctx *c) {
    (void)c;
}

void device_destroy(weft_ctx *c) {
    (void)c;
}

weft_status after_create(int n, after **out) {
    (void)n;
    *out = NULL;
    return weft_fail(WEFT_ERR_UNSUPPORTED, "built without CUDA");
}

void after_destroy(after *a) {
    (void)a;
}

void after_reset(after *a) {
    (void)a;
}

weft_status after_announce(after *a, int i, void *stream) {
    (void)a;
    (void)i;
    (void)stream;
    return WEFT_ERR_UNSUPPORTED;
}

weft_status after_next(after *a, int *i) {
    (void)a;
    (void)i;
    return WEFT_IN_PROGRESS;
}
