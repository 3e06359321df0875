/* Stands in for NVIDIA's management library, by its soname: FAKE_GPUS is how many there are, FAKE_GPU_FAULT what ails the
 * last one: ecc, rows, heat, bus, taken; "driver": the library is there, the driver is not. */
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
    return 0;
}
