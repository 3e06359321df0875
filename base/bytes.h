/* Little-endian numbers in byte strings, at any alignment: what files and frames are packed with. Any thread. */
#ifndef WEFT_BASE_BYTES_H
#define WEFT_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

static inline void weft_put_u16(void *to, uint16_t v) {
    unsigned char *p = to;
    for (int i = 0; i < 2; i++) p[i] = (unsigned char)(v >> 8 * i);
}
static inline void weft_put_u32(void *to, uint32_t v) {
    unsigned char *p = to;
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}
static inline void weft_put_u64(void *to, uint64_t v) {
    unsigned char *p = to;
    for (int i = 0; i < 8; i++) p[i] = (unsigned char)(v >> 8 * i);
}
static inline uint16_t weft_get_u16(const void *from) {
    const unsigned char *p = from;
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t weft_get_u32(const void *from) {
    const unsigned char *p = from;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) v |= (uint32_t)p[i] << 8 * i;
    return v;
}
static inline uint64_t weft_get_u64(const void *from) {
    const unsigned char *p = from;
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}
/* Floating point by its bits. */
static inline uint32_t weft_bits_f32(float f) {
    uint32_t v;
    memcpy(&v, &f, sizeof v);
    return v;
}
static inline float weft_f32_bits(uint32_t v) {
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}
static inline uint64_t weft_bits_f64(double f) {
    uint64_t v;
    memcpy(&v, &f, sizeof v);
    return v;
}
static inline double weft_f64_bits(uint64_t v) {
    double f;
    memcpy(&f, &v, sizeof f);
    return f;
}

#endif
