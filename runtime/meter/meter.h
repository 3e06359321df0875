/* What one GPU draws and how fast it runs. Reading costs up to some milliseconds: once a second is enough. One thread. */
#ifndef WEFT_RUNTIME_METER_METER_H
#define WEFT_RUNTIME_METER_METER_H

#include "weft/status.h"

typedef struct weft_meter weft_meter;

/* NaN: this GPU does not tell. */
typedef struct weft_meter_reading {
    double watts;  /* now (the driver averages over up to a second) */
    double joules; /* since the meter was opened; from the power where the GPU has no counter of energy */
    double sm_hz, memory_hz; /* clocks now */
    double celsius;
} weft_meter_reading;

/* pci: where the GPU is ("0000:1b:00.0"); NULL, or one that the library does not know: number `index` of the library.
 * UNSUPPORTED, DEVICE, NOMEM. */
weft_status weft_meter_open(const char *pci, unsigned index, weft_meter **m);
/* NULL is allowed. */
void weft_meter_close(weft_meter *m);
void weft_meter_read(weft_meter *m, weft_meter_reading *r);

#endif
