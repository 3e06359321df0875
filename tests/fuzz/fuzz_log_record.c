/* Fuzz target: records of a hub's log, which members get verbatim. What is accepted packs to the same bytes; nothing is
 * read behind the end. The first byte says what is tried: the bytes as they are, or with the checksum made right, so that
 * what stands behind it is reached. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "runtime/sites/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* Reads the record at p and holds it against what packing makes of it; its bytes, 0: none. */
static size_t one(const uint8_t *p, size_t n) {
    weft_log_record r, again;
    const weft_status s = weft_record_parse(p, n, &r);
    if (s != WEFT_OK) return 0;
    must(r.raw_bytes <= n && r.body_bytes == r.raw_bytes - WEFT_RECORD_HEADER,
         "a record longer than its bytes");
    uint8_t *out = malloc(r.raw_bytes);
    if (!out) return 0;
    again = r;
    must(weft_record_pack(&again, out, r.raw_bytes) >= 0, weft_last_error());
    if (r.ver == WEFT_RECORD_VERSION) {
        must(!memcmp(out, p, r.raw_bytes), "packed again it is another record");
        must(!memcmp(again.chain, r.chain, WEFT_CHAIN_BYTES), "packed again it has another chain");
    }
    free(out);
    return r.raw_bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (!n) return 0;
    const int mend = data[0] & 1;
    uint8_t *p = malloc(n);
    if (!p) return 0;
    memcpy(p, data + 1, n - 1);
    for (size_t at = 0, k; at < n - 1; at += k) {
        const size_t left = n - 1 - at;
        if (mend && left >= WEFT_RECORD_HEADER) {
            const size_t len = weft_get_u32(p + at);
            if (len >= WEFT_RECORD_HEADER && len <= left)
                weft_put_u32(p + at + 4, weft_crc32c(0, p + at + 8, len - 8));
        }
        k = one(p + at, left);
        if (!k) break;
    }
    free(p);
    return 0;
}
