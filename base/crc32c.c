/* CRC-32C; see crc32c.h. Reflected polynomial 0x82f63b78, register inverted before and after (RFC 3720, B.4). */
#include "base/crc32c.h"

#include <string.h>

uint32_t weft_crc32c_portable(uint32_t crc, const void *data, size_t n) {
    /* Half a byte at a time: the table fits in a cache line. */
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const unsigned char *p = data;
    uint32_t c = ~crc;
    while (n--) {
        c ^= *p++;
        c = (c >> 4) ^ table[c & 15];
        c = (c >> 4) ^ table[c & 15];
    }
    return ~c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const void *data, size_t n) {
    const unsigned char *p = data;
    uint64_t c = (uint32_t)~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        c = __builtin_ia32_crc32di(c, v);
    }
    while (n--) c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
    return ~(uint32_t)c;
}

uint32_t weft_crc32c(uint32_t crc, const void *data, size_t n) {
    return __builtin_cpu_supports("sse4.2") ? by_instruction(crc, data, n)
                                            : weft_crc32c_portable(crc, data, n);
}
#else
uint32_t weft_crc32c(uint32_t crc, const void *data, size_t n) {
    return weft_crc32c_portable(crc, data, n);
}
#endif
