/* Which mover carries which bulk; see mover.h. */
#include "comm/mover.h"

#include "base/status.h"
#include "comm/belt.h"
#include "comm/direct.h"
#include "comm/nccl/device.h"
#include "comm/shm/pipe.h"

weft_status mover_create(const mover_spec *s, mover **v) {
    *v = NULL;
    WEFT_TRY(device_mover_create(s, v));
    if (*v) return WEFT_OK;
    if (pipe_serves(s->group)) return pipe_create(s, v);
    if (s->kind == WEFT_BULK_ALLREDUCE || s->kind == WEFT_BULK_BCAST) return belt_create(s, v);
    return direct_create(s, v);
}

void mover_destroy(mover *v) {
    if (v) v->ops->destroy(v);
}
