/* The device carrier of a build without NCCL's headers: all memory is host memory. */
#include "comm/nccl/device.h"

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
