/* The bytes of a log record; see record.h. */
#include "runtime/sites/record.h"

#include <openssl/sha.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

enum {
    AT_LEN = 0,
    AT_CRC = 4,
    AT_SEQ = 8,
    AT_TERM = 16,
    AT_TIME = 24,
    AT_TYPE = 32,
    AT_VER = 34,
    AT_ZERO = 36,
    AT_PREV = 40
};

static uint32_t crc_of(const unsigned char *p, uint32_t len) {
    return weft_crc32c(0, p + AT_SEQ, len - AT_SEQ);
}

weft_status weft_record_pack(weft_log_record *r, void *out, size_t cap) {
    unsigned char *p = out;
    if (r->body_bytes > WEFT_RECORD_MAX - WEFT_RECORD_HEADER)
        return weft_fail(WEFT_ERR_ARG, "a log record has at most %d bytes, this one's body has %u",
                         WEFT_RECORD_MAX, r->body_bytes);
    const uint32_t len = WEFT_RECORD_HEADER + r->body_bytes;
    if (cap < len) return weft_fail(WEFT_ERR_ARG, "a log record of %u bytes into a buffer of %zu", len, cap);
    r->ver = WEFT_RECORD_VERSION;
    weft_put_u32(p + AT_LEN, len);
    weft_put_u64(p + AT_SEQ, r->seq);
    weft_put_u64(p + AT_TERM, r->term);
    weft_put_u64(p + AT_TIME, r->unix_ns);
    weft_put_u16(p + AT_TYPE, r->type);
    weft_put_u16(p + AT_VER, r->ver);
    weft_put_u32(p + AT_ZERO, 0);
    memcpy(p + AT_PREV, r->prev, WEFT_CHAIN_BYTES);
    if (r->body_bytes) memmove(p + WEFT_RECORD_HEADER, r->body, r->body_bytes);
    weft_put_u32(p + AT_CRC, crc_of(p, len));
    SHA256(p, len, r->chain);
    r->body = p + WEFT_RECORD_HEADER;
    r->raw = p;
    r->raw_bytes = len;
    return WEFT_OK;
}

weft_status weft_record_parse(const void *data, size_t n, weft_log_record *r) {
    const unsigned char *p = data;
    memset(r, 0, sizeof *r);
    if (n < WEFT_RECORD_HEADER) return WEFT_IN_PROGRESS;
    const uint32_t len = weft_get_u32(p + AT_LEN);
    if (len < WEFT_RECORD_HEADER || len > WEFT_RECORD_MAX)
        return weft_fail(WEFT_ERR_CORRUPT, "a log record of %u bytes (%d to %d are possible)", len,
                         WEFT_RECORD_HEADER, WEFT_RECORD_MAX);
    if (n < len) return WEFT_IN_PROGRESS;
    if (weft_get_u32(p + AT_CRC) != crc_of(p, len))
        return weft_fail(WEFT_ERR_CORRUPT, "a log record whose checksum is wrong");
    r->seq = weft_get_u64(p + AT_SEQ);
    r->term = weft_get_u64(p + AT_TERM);
    r->unix_ns = weft_get_u64(p + AT_TIME);
    r->type = weft_get_u16(p + AT_TYPE);
    r->ver = weft_get_u16(p + AT_VER);
    if (r->ver > WEFT_RECORD_VERSION)
        return weft_fail(WEFT_ERR_VERSION,
                         "log record %llu has version %u, this weft reads up to %d: a newer one wrote it",
                         (unsigned long long)r->seq, r->ver, WEFT_RECORD_VERSION);
    if (weft_get_u32(p + AT_ZERO) || !r->seq || !r->ver)
        return weft_fail(WEFT_ERR_CORRUPT, "a log record whose header is none");
    memcpy(r->prev, p + AT_PREV, WEFT_CHAIN_BYTES);
    SHA256(p, len, r->chain);
    r->body = p + WEFT_RECORD_HEADER;
    r->body_bytes = len - WEFT_RECORD_HEADER;
    r->raw = p;
    r->raw_bytes = len;
    return WEFT_OK;
}
