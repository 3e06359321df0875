/* Frames; see frame.h. */
#include "comm/wan/frame.h"

#include <string.h>

#include "base/bytes.h"

void weft_wan_frame_pack(const weft_wan_frame *f, uint8_t out[WEFT_WAN_FRAME]) {
    weft_put_u32(out, WEFT_WAN_MAGIC);
    out[4] = f->major;
    out[5] = f->minor;
    weft_put_u16(out + 6, f->type);
    weft_put_u32(out + 8, f->flags);
    weft_put_u32(out + 12, f->body);
    weft_put_u64(out + 16, f->req);
    weft_put_u64(out + 24, f->term);
}

weft_status weft_wan_frame_unpack(const uint8_t in[WEFT_WAN_FRAME], uint32_t limit, weft_wan_frame *f) {
    memset(f, 0, sizeof *f);
    if (weft_get_u32(in) != WEFT_WAN_MAGIC)
        return weft_fail(WEFT_ERR_FORMAT, "not a frame of weft: it begins with %02x %02x %02x %02x", in[0],
                         in[1], in[2], in[3]);
    f->major = in[4];
    f->minor = in[5];
    f->type = weft_get_u16(in + 6);
    f->flags = weft_get_u32(in + 8);
    f->body = weft_get_u32(in + 12);
    f->req = weft_get_u64(in + 16);
    f->term = weft_get_u64(in + 24);
    if (f->major != WEFT_WAN_MAJOR)
        return weft_fail(WEFT_ERR_VERSION, "a frame of version %d.%d, this weft speaks %d.%d", f->major,
                         f->minor, WEFT_WAN_MAJOR, WEFT_WAN_MINOR);
    if (f->body > limit)
        return weft_fail(WEFT_ERR_FORMAT, "a frame of type %u with a body of %u bytes, at most %u are taken",
                         f->type, f->body, limit);
    return WEFT_OK;
}

void weft_wan_chunk_pack(const weft_wan_chunk *c, uint8_t out[WEFT_WAN_CHUNK]) {
    weft_put_u32(out, c->epoch);
    weft_put_u32(out + 4, c->fragment);
    weft_put_u64(out + 8, c->round);
    weft_put_u16(out + 16, c->attempt);
    out[18] = c->kind;
    out[19] = c->codec;
    weft_put_u16(out + 20, c->src);
    weft_put_u16(out + 22, c->part);
    weft_put_u32(out + 24, c->chunk);
    weft_put_u32(out + 28, c->bytes);
    weft_put_u64(out + 32, c->incarnation);
    weft_put_u64(out + 40, c->version);
}

weft_status weft_wan_chunk_unpack(const uint8_t in[WEFT_WAN_CHUNK], weft_wan_chunk *c) {
    memset(c, 0, sizeof *c);
    c->epoch = weft_get_u32(in);
    c->fragment = weft_get_u32(in + 4);
    c->round = weft_get_u64(in + 8);
    c->attempt = weft_get_u16(in + 16);
    c->kind = in[18];
    c->codec = in[19];
    c->src = weft_get_u16(in + 20);
    c->part = weft_get_u16(in + 22);
    c->chunk = weft_get_u32(in + 24);
    c->bytes = weft_get_u32(in + 28);
    c->incarnation = weft_get_u64(in + 32);
    c->version = weft_get_u64(in + 40);
    if (c->kind < WEFT_WAN_CONTRIB || c->kind > WEFT_WAN_REPLAY)
        return weft_fail(WEFT_ERR_FORMAT, "a chunk of kind %u, known are 1 to 4", c->kind);
    if (c->bytes > WEFT_WAN_DATA_MAX)
        return weft_fail(WEFT_ERR_FORMAT, "a chunk of %u bytes, at most %d are taken", c->bytes,
                         WEFT_WAN_DATA_MAX);
    return WEFT_OK;
}
