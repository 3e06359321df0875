/* Events behind gradients; see after.h. */
#include "comm/nccl/after.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/nccl/api.h"

struct after {
    const nccl_api *api;
    int most, first, end; /* announcements [first, end) are not over */
    struct {
        cudaEvent_t event;
        int tensor;
    } item[];
};

void after_destroy(after *a) {
    if (!a) return;
    for (int i = 0; i < a->most; i++)
        if (a->item[i].event) a->api->cudaEventDestroy(a->item[i].event);
    free(a);
}

weft_status after_create(int n, after **out) {
    const nccl_api *api = nccl_load();
    *out = NULL;
    if (!api) return weft_fail(WEFT_ERR_UNSUPPORTED, "no CUDA runtime for events");
    after *a = weft_calloc(1, sizeof *a + (size_t)n * sizeof a->item[0]);
    if (!a) return WEFT_ERR_NOMEM;
    a->api = api;
    a->most = n;
    for (int i = 0; i < n; i++) {
        const weft_status s =
            cuda_check(api, api->cudaEventCreateWithFlags(&a->item[i].event, cudaEventDisableTiming),
                       "cudaEventCreateWithFlags");
        if (s < 0) {
            after_destroy(a);
            return s;
        }
    }
    *out = a;
    return WEFT_OK;
}

void after_reset(after *a) {
    a->first = a->end = 0;
}

weft_status after_announce(after *a, int i, void *stream) {
    if (a->end == a->most) return weft_fail(WEFT_ERR_INTERNAL, "more than %d tensors announced", a->most);
    WEFT_TRY(cuda_check(a->api, a->api->cudaEventRecord(a->item[a->end].event, stream), "cudaEventRecord"));
    a->item[a->end++].tensor = i;
    return WEFT_OK;
}

weft_status after_next(after *a, int *i) {
    if (a->first == a->end) return WEFT_IN_PROGRESS;
    const cudaError_t e = a->api->cudaEventQuery(a->item[a->first].event);
    if (e == cudaErrorNotReady) return WEFT_IN_PROGRESS;
    WEFT_TRY(cuda_check(a->api, e, "cudaEventQuery"));
    *i = a->item[a->first++].tensor;
    return WEFT_OK;
}
