/* Stands in for NVIDIA's management library, by its soname: FAKE_GPUS is how many there are, FAKE_GPU_FAULT what ails the
 * last one: ecc, rows, heat, bus, taken; "driver": the library is there, the driver is not. GPU i is at 0000:0i:00.0, draws
 * 500 W and 100 more for each i (FAKE_GPU_WATTS: that of all), and counts 7 J whenever it is asked; "blind": it tells none
 * of that; "uncounted": no energy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

typedef struct nvml_device *device;

API int nvmlInit_v2(void);
API int nvmlShutdown(void);
API int nvmlDeviceGetCount_v2(unsigned *n);
API int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d);
API int nvmlDeviceGetMemoryInfo(device d, unsigned long long *m);
API int nvmlDeviceGetTotalEccErrors(device d, int kind, int counter, unsigned long long *n);
API int nvmlDeviceGetRemappedRows(device d, unsigned *ok, unsigned *bad, unsigned *pending, unsigned *failed);
API int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *reasons);
API int nvmlDeviceGetTemperature(device d, int sensor, unsigned *celsius);

API int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, device *d);
API int nvmlDeviceGetPowerUsage(device d, unsigned *milliwatts);
API int nvmlDeviceGetTotalEnergyConsumption(device d, unsigned long long *millijoules);
API int nvmlDeviceGetClockInfo(device d, int which, unsigned *mhz);

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static char places[64];

static unsigned gpus(void) {
    const char *n = getenv("FAKE_GPUS");
    return n ? (unsigned)atoi(n) : 1;
}

static int ails(const char *fault) {
    const char *f = getenv("FAKE_GPU_FAULT");
    return f && !strcmp(f, fault);
}

static int is_last(device d) {
    return (char *)d == &places[gpus() - 1];
}

int nvmlInit_v2(void) {
    return ails("driver") ? 9 : 0;
}

int nvmlShutdown(void) {
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *n) {
    *n = gpus();
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) {
    if (ails("bus") && i == gpus() - 1) return 15;
    *d = (device)&places[i];
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, device *d) {
    unsigned i;
    if (sscanf(pci, "0000:%x:00.0", &i) != 1 || i >= gpus()) return NOT_FOUND;
    *d = (device)&places[i];
    return 0;
}

int nvmlDeviceGetPowerUsage(device d, unsigned *milliwatts) {
    const char *w = getenv("FAKE_GPU_WATTS");
    *milliwatts = w ? (unsigned)atoi(w) * 1000 : 500000 + 100000 * (unsigned)((char *)d - places);
    return ails("blind") ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetTotalEnergyConsumption(device d, unsigned long long *millijoules) {
    static unsigned long long counted = 123456789;
    (void)d;
    *millijoules = counted += 7000;
    return ails("blind") || ails("uncounted") ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetClockInfo(device d, int which, unsigned *mhz) {
    (void)d;
    *mhz = which == 1 ? 1980 : 3201; /* SM; memory */
    return ails("blind") ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetMemoryInfo(device d, unsigned long long *m) {
    m[0] = 80000000000;
    m[2] = ails("taken") && is_last(d) ? 60000000000 : 1000000000;
    m[1] = m[0] - m[2];
    return 0;
}

int nvmlDeviceGetTotalEccErrors(device d, int kind, int counter, unsigned long long *n) {
    /* uncorrected, since the driver was loaded; corrected ones are common */
    *n = kind == 1 && counter == 0 ? (ails("ecc") && is_last(d) ? 3 : 0) : 1000;
    return 0;
}

int nvmlDeviceGetRemappedRows(device d, unsigned *ok, unsigned *bad, unsigned *pending, unsigned *failed) {
    *ok = *bad = 1;
    *pending = ails("rows") && is_last(d);
    *failed = 0;
    return 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *reasons) {
    *reasons = ails("heat") && is_last(d) ? 0x40 : 0x4; /* 0x4: a power cap, which is no fault */
    return 0;
}

int nvmlDeviceGetTemperature(device d, int sensor, unsigned *celsius) {
    (void)d;
    (void)sensor;
    *celsius = 93;
    return ails("blind") ? NOT_SUPPORTED : 0;
}
