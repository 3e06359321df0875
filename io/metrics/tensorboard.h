/* TensorBoard event files: TFRecord framing with masked CRC-32C around protobuf Event messages. */
#ifndef WEFT_IO_METRICS_TENSORBOARD_H
#define WEFT_IO_METRICS_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct tb_writer tb_writer;

/* Creates DIR/events.out.tfevents.<sec>.<host>.<pid>.<n> and writes the version event. */
weft_status tb_open(const char *dir, tb_writer **w);
/* One event of scalars: begin, any number of scalars (those beyond 256 are left out), end. */
void tb_begin(tb_writer *w, double wall, int64_t step);
void tb_scalar(tb_writer *w, const char *tag, float value);
weft_status tb_end(tb_writer *w);
void tb_close(tb_writer *w);

/* The masked form of a CRC-32C that the record format stores. */
static inline uint32_t tb_mask(uint32_t crc) {
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

#endif
