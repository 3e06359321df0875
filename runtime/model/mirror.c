/* Memory that host and ops both use; see mirror.h. */
#include "runtime/model/mirror.h"

#include <stdlib.h>

#include "base/mem.h"

int weft_backend_apart(const weft_backend *b) {
    weft_backend_desc d;
    return weft_backend_info(b, &d) >= 0 && d.device;
}

weft_status weft_mirror_plan(weft_mirror *m, const weft_backend *b, size_t bytes) {
    *m = (weft_mirror){.bytes = bytes, .apart = weft_backend_apart(b)};
    if (m->apart && !(m->host = weft_calloc(1, bytes))) return WEFT_ERR_NOMEM;
    return WEFT_OK;
}

void weft_mirror_place(weft_mirror *m, void *ops) {
    m->ops = ops;
    if (!m->apart) m->host = ops;
}

void weft_mirror_free(weft_mirror *m) {
    if (m->apart) free(m->host);
    *m = (weft_mirror){0};
}

weft_status weft_mirror_push(const weft_mirror *m, const struct weft_ops *ops, weft_exec *x, size_t bytes) {
    return m->apart ? ops->copy(x, m->ops, m->host, bytes) : WEFT_OK;
}

weft_status weft_mirror_pull(const weft_mirror *m, const struct weft_ops *ops, weft_exec *x, size_t bytes) {
    return m->apart ? ops->copy(x, m->host, m->ops, bytes) : WEFT_OK;
}
