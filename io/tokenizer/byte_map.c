/* The byte map of byte-level BPE: each byte as one printable character, so that any bytes can stand in a JSON
 * string or in a line of merges.txt. Bytes 33-126, 161-172 and 174-255 are the characters with their own
 * number; the other 68, in ascending order, are U+0100, U+0101, ... (Radford et al. 2019). */
#include "io/tokenizer/tok.h"

static int stands_for_itself(uint32_t b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

uint32_t tok_byte_char(uint8_t b) {
    if (stands_for_itself(b)) return b;
    if (b <= 32) return 0x100u + b;
    if (b <= 160) return 0x100u + 33 + (b - 127u); /* 127-160 follow 0-32 */
    return 0x100u + 67;                            /* 173 */
}

/* The byte for which code point c stands, or -1. */
static int byte_of_char(uint32_t c) {
    if (c < 0x100) return stands_for_itself(c) ? (int)c : -1;
    c -= 0x100;
    if (c <= 32) return (int)c;
    if (c <= 66) return (int)(c - 33 + 127);
    return c == 67 ? 173 : -1;
}

size_t tok_map_bytes(const uint8_t *s, size_t n, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = tok_byte_char(s[i]);
        if (c < 0x80) {
            out[k++] = (char)c;
        } else { /* never above U+0143 */
            out[k++] = (char)(0xC0 | c >> 6);
            out[k++] = (char)(0x80 | (c & 0x3F));
        }
    }
    return k;
}

int tok_unmap_text(const char *s, size_t n, uint8_t *out, size_t *k) {
    *k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = (uint8_t)s[i++];
        if (c >= 0x80) {
            if ((c & 0xE0) != 0xC0 || i == n || ((uint8_t)s[i] & 0xC0) != 0x80) return 0;
            c = (c & 0x1F) << 6 | ((uint8_t)s[i++] & 0x3F);
            if (c < 0x80) return 0;
        }
        int b = byte_of_char(c);
        if (b < 0) return 0;
        out[(*k)++] = (uint8_t)b;
    }
    return 1;
}
