/* See left_out.h. */
#include "tests/support/left_out.h"

#include <stddef.h>

int bulks_begun, left_out = -1;
static weft_bulk *skipped;

weft_status __real_weft_bulk_start(weft_bulk *b, double weight);
weft_status __real_weft_bulk_ready(weft_bulk *b, int i);
weft_status __real_weft_bulk_ready_after(weft_bulk *b, int i, void *stream);
weft_status __real_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);
weft_status __wrap_weft_bulk_start(weft_bulk *b, double weight);
weft_status __wrap_weft_bulk_ready(weft_bulk *b, int i);
weft_status __wrap_weft_bulk_ready_after(weft_bulk *b, int i, void *stream);
weft_status __wrap_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight);

weft_status __wrap_weft_bulk_start(weft_bulk *b, double weight) {
    if (bulks_begun++ == left_out) {
        skipped = b;
        return WEFT_OK;
    }
    if (skipped == b) skipped = NULL;
    return __real_weft_bulk_start(b, weight);
}
weft_status __wrap_weft_bulk_ready(weft_bulk *b, int i) {
    return skipped == b ? WEFT_OK : __real_weft_bulk_ready(b, i);
}
weft_status __wrap_weft_bulk_ready_after(weft_bulk *b, int i, void *stream) {
    return skipped == b ? WEFT_OK : __real_weft_bulk_ready_after(b, i, stream);
}
weft_status __wrap_weft_bulk_wait(weft_bulk *b, int i, int64_t timeout_ms, double *total_weight) {
    return skipped == b ? WEFT_OK : __real_weft_bulk_wait(b, i, timeout_ms, total_weight);
}
