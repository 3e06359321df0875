/* Ranges by NVTX 3, whose headers hold all of it: the first call looks for the tool, and without one each call is a test
 * of a pointer. See range.h. */
#include "base/range.h"

#include <stdlib.h>

int weft_ranges_on;

#ifdef WEFT_NVTX

#include <nvtx3/nvToolsExt.h>

void weft_range_init(void) {
    const char *tool = getenv("NVTX_INJECTION64_PATH");
    weft_ranges_on = tool && *tool;
}

void weft_range_push_on(const char *name) {
    nvtxRangePushA(name);
}

void weft_range_pop_on(void) {
    nvtxRangePop();
}

uint64_t weft_range_start_on(const char *name) {
    return nvtxRangeStartA(name);
}

void weft_range_end_on(uint64_t id) {
    nvtxRangeEnd(id);
}

#else

void weft_range_init(void) {}

void weft_range_push_on(const char *name) {
    (void)name;
}

void weft_range_pop_on(void) {}

uint64_t weft_range_start_on(const char *name) {
    (void)name;
    return 0;
}

void weft_range_end_on(uint64_t id) {
    (void)id;
}

#endif
