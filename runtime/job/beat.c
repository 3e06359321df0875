/* Heartbeats and answers as bytes. The layout is the order of the fields below; the check sum is CRC-32C of all before it. */
#include "runtime/job/beat.h"

#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/crc32c.h"

#define BEAT_MAGIC   0x31424857u /* "WHB1" */
#define ANSWER_MAGIC 0x31414857u /* "WHA1" */

static void seal(uint8_t *to, size_t bytes) {
    weft_put_u32(to + bytes - 4, weft_crc32c(0, to, bytes - 4));
}

/* A datagram of this size and kind, whole, with this token. */
static int genuine(const uint8_t *from, size_t bytes, size_t expected, uint32_t magic,
                   const uint64_t token[2]) {
    return bytes == expected && weft_get_u32(from) == magic &&
           weft_get_u32(from + bytes - 4) == weft_crc32c(0, from, bytes - 4) &&
           weft_get_u64(from + 8) == token[0] && weft_get_u64(from + 16) == token[1];
}

void job_beat_pack(const job_beat *b, uint8_t to[JOB_BEAT_BYTES]) {
    weft_put_u32(to, BEAT_MAGIC);
    weft_put_u16(to + 4, b->node);
    weft_put_u16(to + 6, b->flags);
    weft_put_u64(to + 8, b->token[0]);
    weft_put_u64(to + 16, b->token[1]);
    weft_put_u64(to + 24, b->boot);
    weft_put_u64(to + 32, b->min_step);
    weft_put_u64(to + 40, b->max_step);
    weft_put_u64(to + 48, b->mono_ns);
    weft_put_u32(to + 56, b->live_ranks);
    weft_put_u32(to + 60, b->epoch);
    weft_put_u64(to + 64, b->saved);
    weft_put_u64(to + 72, b->step_ns);
    weft_put_u64(to + 80, b->save_ns);
    weft_put_u16(to + 88, b->dead_ranks);
    weft_put_u16(to + 90, b->phase);
    seal(to, JOB_BEAT_BYTES);
}

int job_beat_unpack(const void *from, size_t bytes, const uint64_t token[2], job_beat *b) {
    const uint8_t *p = from;
    *b = (job_beat){.node = 0};
    if (!genuine(p, bytes, JOB_BEAT_BYTES, BEAT_MAGIC, token)) return 0;
    *b = (job_beat){.node = weft_get_u16(p + 4),
                    .flags = weft_get_u16(p + 6),
                    .token = {token[0], token[1]},
                    .boot = weft_get_u64(p + 24),
                    .min_step = weft_get_u64(p + 32),
                    .max_step = weft_get_u64(p + 40),
                    .mono_ns = weft_get_u64(p + 48),
                    .live_ranks = weft_get_u32(p + 56),
                    .epoch = weft_get_u32(p + 60),
                    .saved = weft_get_u64(p + 64),
                    .step_ns = weft_get_u64(p + 72),
                    .save_ns = weft_get_u64(p + 80),
                    .dead_ranks = weft_get_u16(p + 88),
                    .phase = weft_get_u16(p + 90)};
    return 1;
}

void job_answer_pack(const job_answer *a, uint8_t to[JOB_ANSWER_BYTES]) {
    weft_put_u32(to, ANSWER_MAGIC);
    weft_put_u32(to + 4, a->orders);
    weft_put_u64(to + 8, a->token[0]);
    weft_put_u64(to + 16, a->token[1]);
    weft_put_u64(to + 24, a->stop);
    weft_put_u64(to + 32, (uint64_t)a->remaining_ms);
    weft_put_u32(to + 40, a->epoch);
    seal(to, JOB_ANSWER_BYTES);
}

int job_answer_unpack(const void *from, size_t bytes, const uint64_t token[2], job_answer *a) {
    const uint8_t *p = from;
    *a = (job_answer){.orders = 0};
    if (!genuine(p, bytes, JOB_ANSWER_BYTES, ANSWER_MAGIC, token)) return 0;
    *a = (job_answer){.orders = weft_get_u32(p + 4),
                      .epoch = weft_get_u32(p + 40),
                      .token = {token[0], token[1]},
                      .stop = weft_get_u64(p + 24),
                      .remaining_ms = (int64_t)weft_get_u64(p + 32)};
    return 1;
}

/* ---- the token ---- */

int job_token_make(uint64_t token[2]) {
    return getrandom(token, 2 * sizeof *token, 0) == 2 * (ssize_t)sizeof *token;
}

void job_token_text(const uint64_t token[2], char text[JOB_TOKEN_TEXT]) {
    static const char digit[] = "0123456789abcdef";
    for (int i = 0; i < JOB_TOKEN_TEXT - 1; i++) text[i] = digit[token[i / 16] >> (60 - 4 * (i % 16)) & 15];
    text[JOB_TOKEN_TEXT - 1] = 0;
}

int job_token_read(const char *text, uint64_t token[2]) {
    token[0] = token[1] = 0;
    if (strlen(text) != JOB_TOKEN_TEXT - 1) return 0;
    for (int i = 0; i < JOB_TOKEN_TEXT - 1; i++) {
        const char c = text[i];
        const int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0) return 0;
        token[i / 16] = token[i / 16] << 4 | (uint64_t)v;
    }
    return 1;
}
