/* Frames between processes of different sites: a header of 32 bytes, a body, and the CRC-32C of both; and the 48 bytes with
 * which the body of a chunk begins. All numbers little-endian, packed and unpacked one by one.
 *
 *     u32 magic 'WSIT'  u8 major  u8 minor  u16 type  u32 flags  u32 body  u64 req  u64 term | body | u32 crc
 *
 * Pure: no I/O, no allocation. A length is checked against its limit before anybody makes room for it. Any thread. */
#ifndef WEFT_COMM_WAN_FRAME_H
#define WEFT_COMM_WAN_FRAME_H

#include <stdint.h>

#include "base/status.h"

#define WEFT_WAN_MAGIC 0x54495357u /* "WSIT" */

enum {
    WEFT_WAN_MAJOR = 1, /* another major version is refused */
    WEFT_WAN_MINOR = 0,
    WEFT_WAN_FRAME = 32, /* bytes of a header */
    WEFT_WAN_CHUNK = 48, /* bytes of a chunk's header, the beginning of its body */
    WEFT_WAN_CRC = 4,
    WEFT_WAN_BODY_MAX = 1 << 20,  /* of a control frame */
    WEFT_WAN_DATA_MAX = 16 << 20, /* payload of a chunk */
};

/* Types from WEFT_WAN_OWN on belong to the transport; those below to whoever uses it. */
enum {
    WEFT_WAN_OWN = 0x8000,
    WEFT_WAN_SESSION = WEFT_WAN_OWN, /* first frame of a control connection, in both directions */
    WEFT_WAN_REFUSED,                /* the control connection is not wanted: another one stands */
    WEFT_WAN_BIND,                   /* first frame of a data stream, from who dialled */
    WEFT_WAN_BOUND,                  /* its answer */
    WEFT_WAN_CREDIT,                 /* chunks that are through, and how many more may be under way */
    WEFT_WAN_STREAMS,                /* please dial so many streams */
    WEFT_WAN_PING,
    WEFT_WAN_PONG,
    WEFT_WAN_CHUNK_FRAME, /* on data streams only */
    WEFT_WAN_TYPES_END,
};

typedef struct weft_wan_frame {
    uint8_t major, minor;
    uint16_t type;
    uint32_t flags;
    uint32_t body; /* bytes between the header and the check sum */
    uint64_t req;
    uint64_t term;
} weft_wan_frame;

enum { WEFT_WAN_CONTRIB = 1, WEFT_WAN_RESULT, WEFT_WAN_STATE, WEFT_WAN_REPLAY };

/* What a chunk is. The transport looks at `bytes` only (and at fragment, round, attempt to drop chunks). */
typedef struct weft_wan_chunk {
    uint32_t epoch;
    uint32_t fragment;
    uint64_t round;
    uint16_t attempt;
    uint8_t kind; /* WEFT_WAN_CONTRIB .. WEFT_WAN_REPLAY */
    uint8_t codec;
    uint16_t src;
    uint16_t part;
    uint32_t chunk;
    uint32_t bytes; /* of the payload, at most WEFT_WAN_DATA_MAX */
    uint64_t incarnation;
    uint64_t version;
} weft_wan_chunk;

void weft_wan_frame_pack(const weft_wan_frame *f, uint8_t out[WEFT_WAN_FRAME]);
/* FORMAT: not our magic, or a body longer than `limit`; VERSION: another major. */
weft_status weft_wan_frame_unpack(const uint8_t in[WEFT_WAN_FRAME], uint32_t limit, weft_wan_frame *f);

void weft_wan_chunk_pack(const weft_wan_chunk *c, uint8_t out[WEFT_WAN_CHUNK]);
/* FORMAT: a kind that does not exist, or a payload longer than a chunk may be. */
weft_status weft_wan_chunk_unpack(const uint8_t in[WEFT_WAN_CHUNK], weft_wan_chunk *c);

#endif
