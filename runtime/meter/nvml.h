/* NVIDIA's management library, opened at run time: weft is built without it. The few names and numbers used of it are
 * declared here as its documented interface (NVML API, version 2 symbols) has them. A function that this library lacks is
 * NULL; those of the first group are always there. */
#ifndef WEFT_RUNTIME_METER_NVML_H
#define WEFT_RUNTIME_METER_NVML_H

#include "weft/status.h"

typedef struct nvml_device *nvml_handle;
typedef struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
} nvml_memory;

enum {
    NVML_TEMPERATURE_GPU = 0,
    NVML_UNCORRECTED = 1,
    NVML_VOLATILE = 0,
    NVML_CLOCK_SM = 1,
    NVML_CLOCK_MEMORY = 2,
};
/* Reasons for a low clock that speak of a fault: the slow-down of the hardware, by heat, by the power brake; heat as
 * the driver sees it. (A power cap is how the site wants it.) */
#define NVML_SLOWDOWN 0x08ull
#define NVML_SW_HEAT  0x20ull
#define NVML_HW_HEAT  0x40ull
#define NVML_BRAKE    0x80ull

/* All return 0 when they could tell. */
typedef struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *n);
    int (*handle)(unsigned i, nvml_handle *d);

    int (*handle_of_bus)(const char *pci, nvml_handle *d);
    int (*name)(nvml_handle d, char *name, unsigned n);
    int (*memory)(nvml_handle d, nvml_memory *m);
    int (*ecc)(nvml_handle d, int kind, int counter, unsigned long long *n);
    int (*pending)(nvml_handle d, unsigned *yes);
    int (*remapped)(nvml_handle d, unsigned *ok, unsigned *bad, unsigned *pending, unsigned *failed);
    int (*throttle)(nvml_handle d, unsigned long long *reasons);
    int (*temperature)(nvml_handle d, int sensor, unsigned *celsius);
    int (*power)(nvml_handle d, unsigned *milliwatts);
    int (*energy)(nvml_handle d, unsigned long long *millijoules); /* since the driver was loaded */
    int (*clock)(nvml_handle d, int which, unsigned *mhz);
} nvml;

/* UNSUPPORTED: no such library, or not one that can be used; DEVICE: its driver does not answer. The text says which. */
weft_status nvml_open(nvml *m);
/* After an error, too. */
void nvml_close(nvml *m);

#endif
