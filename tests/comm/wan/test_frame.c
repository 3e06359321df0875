/* Frames and chunk headers: the bytes of the format, what is refused, and that packing and unpacking are inverse. */
#include "base/bytes.h"
#include "base/rng.h"
#include "comm/wan/frame.h"
#include "tests/support/scratch.h"

static void a_header_is_these_bytes(void **state) {
    static const uint8_t want[WEFT_WAN_FRAME] = {'W', 'S', 'I', 'T', 1, 0, 0x02, 0x80, 3, 0,   0,
                                                 0,   4,   0,   0,   0, 8, 7,    6,    5, 4,   3,
                                                 2,   1,   9,   0,   0, 0, 0,    0,    0, 0x10};
    weft_wan_frame f = {WEFT_WAN_MAJOR,      WEFT_WAN_MINOR,     WEFT_WAN_BIND, 3, 4,
                        0x0102030405060708u, 0x1000000000000009u};
    uint8_t got[WEFT_WAN_FRAME];
    (void)state;
    weft_wan_frame_pack(&f, got);
    assert_memory_equal(got, want, sizeof want);
}

static void a_chunk_is_these_bytes(void **state) {
    static const uint8_t want[WEFT_WAN_CHUNK] = {1,  0, 0, 0, 2, 0, 0, 0, 3,  0, 0, 0, 0,    0, 0, 0,
                                                 4,  0, 2, 5, 6, 0, 7, 0, 8,  0, 0, 0, 0x80, 0, 0, 0,
                                                 10, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0,    0, 0, 0};
    weft_wan_chunk c = {1, 2, 3, 4, WEFT_WAN_RESULT, 5, 6, 7, 8, 128, 10, 11};
    uint8_t got[WEFT_WAN_CHUNK];
    (void)state;
    weft_wan_chunk_pack(&c, got);
    assert_memory_equal(got, want, sizeof want);
}

static void what_is_packed_is_unpacked(void **state) {
    uint64_t seed = test_seed();
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        uint8_t bytes[WEFT_WAN_CHUNK], again[WEFT_WAN_CHUNK];
        weft_wan_frame f;
        weft_wan_chunk c;
        for (int k = 0; k < WEFT_WAN_CHUNK; k++) bytes[k] = (uint8_t)weft_rng_u64(seed, i, (uint64_t)k);
        bytes[18] = (uint8_t)(1 + bytes[18] % 4);
        bytes[31] = 0;
        assert_ok(weft_wan_chunk_unpack(bytes, &c));
        weft_wan_chunk_pack(&c, again);
        assert_memory_equal(bytes, again, WEFT_WAN_CHUNK);
        memcpy(bytes, "WSIT\1", 5);
        assert_ok(weft_wan_frame_unpack(bytes, UINT32_MAX, &f));
        weft_wan_frame_pack(&f, again);
        assert_memory_equal(bytes, again, WEFT_WAN_FRAME);
    }
}

static void what_does_not_fit_is_refused(void **state) {
    weft_wan_frame f = {WEFT_WAN_MAJOR, WEFT_WAN_MINOR, 1, 0, 1000, 0, 0};
    weft_wan_chunk c = {0, 0, 0, 0, WEFT_WAN_STATE, 0, 0, 0, 0, WEFT_WAN_DATA_MAX, 0, 0};
    uint8_t bytes[WEFT_WAN_CHUNK];
    (void)state;
    weft_wan_frame_pack(&f, bytes);
    assert_ok(weft_wan_frame_unpack(bytes, 1000, &f));
    assert_error(weft_wan_frame_unpack(bytes, 999, &f), WEFT_ERR_FORMAT, "1000 bytes, at most 999");
    bytes[4] = 2;
    assert_error(weft_wan_frame_unpack(bytes, 1000, &f), WEFT_ERR_VERSION, "version 2.0");
    assert_error(
        weft_wan_frame_unpack((const uint8_t *)"GET / HTTP/1.1\r\nHost: a\r\n\r\n        ", 1000, &f),
        WEFT_ERR_FORMAT, "47 45 54 20");
    weft_wan_chunk_pack(&c, bytes);
    assert_ok(weft_wan_chunk_unpack(bytes, &c));
    weft_put_u32(bytes + 28, WEFT_WAN_DATA_MAX + 1);
    assert_error(weft_wan_chunk_unpack(bytes, &c), WEFT_ERR_FORMAT, "16777217 bytes");
    weft_put_u32(bytes + 28, 0);
    bytes[18] = 0;
    assert_error(weft_wan_chunk_unpack(bytes, &c), WEFT_ERR_FORMAT, "kind 0");
    bytes[18] = 5;
    assert_error(weft_wan_chunk_unpack(bytes, &c), WEFT_ERR_FORMAT, "kind 5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_is_these_bytes),
        cmocka_unit_test(a_chunk_is_these_bytes),
        cmocka_unit_test(what_is_packed_is_unpacked),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
