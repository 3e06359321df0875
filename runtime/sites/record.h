/* A record of the hub's log, as bytes: what the log holds, what members are sent verbatim and keep, and what makes the
 * chain that says who has seen what.
 *
 *   u32 len     bytes of the whole record, header included
 *   u32 crc32c  of everything behind it
 *   u64 seq     1, 2, 3 ... without gaps
 *   u64 term    of the hub that wrote it; never falls
 *   u64 unix_ns when
 *   u16 type, u16 ver, u32 0
 *   u8  prev[32] chain of the record before (zeros for the first)
 *   body
 *
 * chain = SHA-256(record). All little-endian. Pure functions, any thread. */
#ifndef WEFT_SITES_RECORD_H
#define WEFT_SITES_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    WEFT_RECORD_HEADER = 72,
    WEFT_RECORD_MAX = 1 << 20, /* a record goes to members in one control frame */
    WEFT_CHAIN_BYTES = 32,
    WEFT_RECORD_VERSION = 1
};

typedef struct weft_log_record {
    uint64_t seq, term, unix_ns;
    uint16_t type, ver; /* type: message.h */
    uint8_t prev[WEFT_CHAIN_BYTES], chain[WEFT_CHAIN_BYTES];
    const void *body; /* borrowed */
    uint32_t body_bytes;
    const void *raw; /* the whole record, borrowed */
    uint32_t raw_bytes;
} weft_log_record;

/* Packs r's seq, term, unix_ns, type, prev and body into out[cap], sets r's ver, raw, raw_bytes and chain (raw points
 * into out). ARG if cap is too small or the body too long. */
weft_status weft_record_pack(weft_log_record *r, void *out, size_t cap);

/* Reads the record at data[n] (more may follow it). IN_PROGRESS: data ends before the record does (or before its header).
 * CORRUPT: crc or length wrong. VERSION: a newer weft wrote it. The chain is computed, not compared: the caller holds
 * r->prev against what it has. */
weft_status weft_record_parse(const void *data, size_t n, weft_log_record *r);

#endif
