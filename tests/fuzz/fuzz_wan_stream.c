/* Fuzz target: what a connection of the transport does with any bytes: as a stranger, as a member's session, as its stream.
 * The input is a script: a mode, then pieces that go out raw or as frames whose check sums are right. Whatever comes, every
 * place that was given for a chunk is given back once, and the endpoint lives on. Plain connections: TLS is OpenSSL's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "comm/wan/endpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { STRANGER, SESSION, STREAM, MODES, PIECE = 4096 };

static weft_wan *w;
static int places;

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static void *place(void *arg, weft_wan_peer *p, const weft_wan_chunk *h) {
    (void)arg, (void)p;
    if (h->chunk % 5 == 4 || h->bytes > 1 << 20) return NULL;
    places++;
    return malloc(h->bytes + 1u);
}

static void give_back(void *arg, weft_wan_peer *p, const weft_wan_chunk *h, void *at) {
    (void)arg, (void)p, (void)h;
    places--;
    free(at);
}

static void polls(int times) {
    while (times--) must(weft_wan_poll(w, 0) >= 0, weft_last_error());
}

/* A connection that w has accepted; our end. */
static int accepted(void) {
    int fd[2];
    wan_address lab;
    must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), "socketpair");
    must(wan_address_parse("127.0.0.1:9", &lab) >= 0, "address");
    wan_conn *c = wan_conn_open(w, fd[0], 1, 0, &lab);
    must(c != NULL, weft_last_error());
    wan_peer_shake(c);
    return fd[1];
}

static void put(int fd, const uint8_t *p, size_t n) {
    for (size_t at = 0; at < n;) {
        uint8_t heard[512];
        ssize_t k = send(fd, p + at, n - at, MSG_NOSIGNAL);
        if (k > 0) {
            at += (size_t)k;
            continue;
        }
        while ((k = recv(fd, heard, sizeof heard, 0)) > 0) {
        }
        if (k == 0) return; /* it has hung up */
        polls(1);
    }
}

static uint32_t spoil; /* what the check sum of the next frame is xored with */

static void put_frame(int fd, uint16_t type, uint64_t req, const uint8_t *body, size_t n) {
    uint8_t p[WEFT_WAN_FRAME + PIECE + WEFT_WAN_CRC];
    weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, type, 0, (uint32_t)n, req, 0};
    weft_wan_frame_pack(&f, p);
    if (n) memcpy(p + WEFT_WAN_FRAME, body, n);
    weft_put_u32(p + WEFT_WAN_FRAME + n, weft_crc32c(0, p, WEFT_WAN_FRAME + n) ^ spoil);
    put(fd, p, WEFT_WAN_FRAME + n + WEFT_WAN_CRC);
}

static const char name[] = "f/member";

static int session(uint64_t *id) {
    uint8_t body[21 + sizeof name - 1] = {0}, answer[WEFT_WAN_FRAME + 21] = {0};
    int fd = accepted();
    weft_put_u64(body, 5);
    weft_put_u32(body + 16, 9);
    body[20] = sizeof name - 1;
    memcpy(body + 21, name, sizeof name - 1);
    put_frame(fd, WEFT_WAN_SESSION, 0, body, sizeof body);
    polls(1);
    must(recv(fd, answer, sizeof answer, 0) == sizeof answer, "no session");
    *id = weft_get_u64(answer + WEFT_WAN_FRAME + 8);
    return fd;
}

static int stream(uint64_t id) {
    uint8_t body[43 + sizeof name - 1] = {0}, zero[WAN_KEY] = {0};
    int fd = accepted();
    weft_put_u64(body, id);
    weft_put_u16(body + 8, 1);
    must(wan_tls_proof(zero, zero, 1, id, body + 10) >= 0, "proof");
    body[42] = sizeof name - 1;
    memcpy(body + 43, name, sizeof name - 1);
    put_frame(fd, WEFT_WAN_BIND, 0, body, sizeof body);
    polls(1);
    must(recv(fd, body, WEFT_WAN_FRAME, MSG_PEEK) == WEFT_WAN_FRAME, "no stream");
    return fd;
}

/* A chunk with the length that is true, unless the script wants it wrong. */
static void put_chunk(int fd, const uint8_t *p, size_t n) {
    uint8_t body[PIECE] = {0};
    size_t payload = n > 6 ? n - 6 : 0;
    weft_wan_chunk h = {
        .kind = (uint8_t)(1 + p[0] % 4), .chunk = p[1], .round = p[2], .bytes = (uint32_t)payload};
    if (p[3] == 255) h.bytes ^= p[4];
    weft_wan_chunk_pack(&h, body);
    if (p[3] == 254) body[18] = p[4];
    if (payload) memcpy(body + WEFT_WAN_CHUNK, p + 6, payload);
    spoil = p[3] == 253 ? UINT32_MAX : p[3] == 252; /* given up by its sender, or wrong */
    put_frame(fd, WEFT_WAN_CHUNK_FRAME, p[5], body, WEFT_WAN_CHUNK + payload);
    spoil = 0;
}

static void play(int fd, int mode, const uint8_t *p, size_t n) {
    while (n >= 2) {
        size_t len = (size_t)p[1] * (p[0] & 64 ? 8 : 1);
        int how = p[0] % 4;
        p += 2, n -= 2;
        if (len > n) len = n;
        if (how == 0)
            put(fd, p, len);
        else if (how == 1 && len >= 6 && mode == STREAM)
            put_chunk(fd, p, len);
        else if (len >= 2)
            put_frame(fd, (uint16_t)(how == 2 ? WEFT_WAN_OWN + p[0] % 12 : weft_get_u16(p)), p[1], p + 2,
                      len - 2);
        p += len, n -= len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint64_t id = 0;
    if (!w) {
        weft_wan_opts o = {
            .insecure_lab = 1,
            .lab_name = "v/member",
            .calls = {.chunk_place = place, .chunk_arrived = give_back, .chunk_lost = give_back}};
        must(weft_wan_open(&o, &w) >= 0, weft_last_error());
    }
    if (!n) return 0;
    int mode = data[0] % MODES, control = mode == STRANGER ? accepted() : session(&id);
    int fd = mode == STREAM ? stream(id) : control;
    play(fd, mode, data + 1, n - 1);
    polls(2);
    close(control);
    if (fd != control) close(fd);
    for (int i = 0; i < 5 && w->conns; i++) polls(1);
    must(!w->conns, "a connection outlives its end");
    must(!places, "a place that was not given back");
    return 0;
}
