/* Ranges for NVIDIA's tools (NVTX: Nsight Systems and others that inject themselves), of the same names as the trace. Off,
 * at the cost of one load, unless a tool is attached when weft_range_init is called, and always in a build without the
 * headers of NVTX 3. Names are copied by the tool. Any thread. */
#ifndef WEFT_BASE_RANGE_H
#define WEFT_BASE_RANGE_H

#include <stdint.h>

extern int weft_ranges_on; /* written once, by weft_range_init */

/* A tool is attached if the environment's NVTX_INJECTION64_PATH names it, as the tools see to. weft_init calls this. */
void weft_range_init(void);

void weft_range_push_on(const char *name);
void weft_range_pop_on(void);
uint64_t weft_range_start_on(const char *name);
void weft_range_end_on(uint64_t id);

/* What this thread does from here to the pop; nests. */
static inline void weft_range_push(const char *name) {
    if (weft_ranges_on) weft_range_push_on(name);
}
static inline void weft_range_pop(void) {
    if (weft_ranges_on) weft_range_pop_on();
}
/* Something that goes on beside it, until weft_range_end. */
static inline uint64_t weft_range_start(const char *name) {
    return weft_ranges_on ? weft_range_start_on(name) : 0;
}
static inline void weft_range_end(uint64_t id) {
    if (weft_ranges_on) weft_range_end_on(id);
}

#endif
