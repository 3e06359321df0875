/* Fuzz target: datagrams between agents and the supervisor. The token is that of the input, the sum is made right half of
 * the time, so that what is behind both is reached; what is accepted packs to the same bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "runtime/job/beat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static void try_both(const uint8_t *data, size_t n) {
    uint64_t token[2] = {0};
    uint8_t again[JOB_BEAT_BYTES];
    job_beat b;
    job_answer a;
    if (n >= 24) token[0] = weft_get_u64(data + 8), token[1] = weft_get_u64(data + 16);
    if (job_beat_unpack(data, n, token, &b)) {
        job_beat_pack(&b, again);
        must(n == JOB_BEAT_BYTES && !memcmp(data, again, n), "another heartbeat");
    }
    if (job_answer_unpack(data, n, token, &a)) {
        job_answer_pack(&a, again);
        must(n == JOB_ANSWER_BYTES && !memcmp(data, again, n), "another answer");
    }
    token[0] ^= 1;
    must(!job_beat_unpack(data, n, token, &b) && !job_answer_unpack(data, n, token, &a), "another job's");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    try_both(data, n);
    if (n != JOB_BEAT_BYTES && n != JOB_ANSWER_BYTES) return 0;
    uint8_t mended[JOB_BEAT_BYTES];
    memcpy(mended, data, n);
    memcpy(mended, n == JOB_BEAT_BYTES ? "WHB1" : "WHA1", 4);
    weft_put_u32(mended + n - 4, weft_crc32c(0, mended, n - 4));
    try_both(mended, n);
    return 0;
}
