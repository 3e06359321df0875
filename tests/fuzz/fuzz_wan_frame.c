/* Fuzz target: headers of frames and chunks. What is accepted is within its limits and packs to the same bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/wan/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint8_t again[WEFT_WAN_CHUNK];
    weft_wan_frame f;
    weft_wan_chunk c;
    if (n < WEFT_WAN_FRAME) return 0;
    if (weft_wan_frame_unpack(data, WEFT_WAN_BODY_MAX, &f) >= 0) {
        must(f.body <= WEFT_WAN_BODY_MAX, "a body beyond its limit");
        weft_wan_frame_pack(&f, again);
        must(!memcmp(data, again, WEFT_WAN_FRAME), "another header");
    }
    if (n < WEFT_WAN_FRAME + WEFT_WAN_CHUNK) return 0;
    if (weft_wan_chunk_unpack(data + WEFT_WAN_FRAME, &c) >= 0) {
        must(c.bytes <= WEFT_WAN_DATA_MAX, "a payload beyond its limit");
        weft_wan_chunk_pack(&c, again);
        must(!memcmp(data + WEFT_WAN_FRAME, again, WEFT_WAN_CHUNK), "another chunk");
    }
    return 0;
}
