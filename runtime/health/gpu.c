/* GPUs, through NVIDIA's management library, which is opened at run time: weft is built without it, and a node without
 * GPUs is no failure unless its class has them. The few names and numbers used of it are declared here as its
 * documented interface (NVML API, version 2 symbols) has them. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "runtime/health/health.h"

typedef struct nvml_device *device;
typedef struct nvml_memory {
    unsigned long long total, free, used;
} nvml_memory;

enum {
    NVML_TEMPERATURE_GPU = 0,
    NVML_UNCORRECTED = 1,
    NVML_VOLATILE = 0,
};
/* Reasons for a low clock that speak of a fault: the slow-down of the hardware, by heat, by the power brake; heat as
 * the driver sees it. (A power cap is how the site wants it.) */
#define NVML_SLOWDOWN 0x08ull
#define NVML_SW_HEAT  0x20ull
#define NVML_HW_HEAT  0x40ull
#define NVML_BRAKE    0x80ull

typedef struct nvml {
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *n);
    int (*handle)(unsigned i, device *d);
    int (*name)(device d, char *name, unsigned n);
    int (*memory)(device d, nvml_memory *m);
    int (*ecc)(device d, int kind, int counter, unsigned long long *n);
    int (*pending)(device d, unsigned *yes);
    int (*remapped)(device d, unsigned *ok, unsigned *bad, unsigned *pending, unsigned *failed);
    int (*throttle)(device d, unsigned long long *reasons);
    int (*temperature)(device d, int sensor, unsigned *celsius);
} nvml;

/* The address of a function as a pointer to one: dlsym returns a pointer to data. */
static int take(void *lib, const char *name, void *f, size_t n) {
    void *p = dlsym(lib, name);
    memcpy(f, &p, n);
    return p != NULL;
}
#define TAKE(member, name) take(lib, name, &m->member, sizeof m->member)

static int open_nvml(void *lib, nvml *m) {
    memset(m, 0, sizeof *m);
    (void)TAKE(name, "nvmlDeviceGetName");
    (void)TAKE(memory, "nvmlDeviceGetMemoryInfo");
    (void)TAKE(ecc, "nvmlDeviceGetTotalEccErrors");
    (void)TAKE(pending, "nvmlDeviceGetRetiredPagesPendingStatus");
    (void)TAKE(remapped, "nvmlDeviceGetRemappedRows");
    (void)TAKE(throttle, "nvmlDeviceGetCurrentClocksThrottleReasons");
    (void)TAKE(temperature, "nvmlDeviceGetTemperature");
    return TAKE(init, "nvmlInit_v2") && TAKE(shutdown, "nvmlShutdown") &&
           TAKE(count, "nvmlDeviceGetCount_v2") && TAKE(handle, "nvmlDeviceGetHandleByIndex_v2");
}

static void bad(health_run *h, weft_health_verdict v, const char *gpu, const char *what, double value) {
    health_number(health_find(h, WEFT_CHECK_GPU, v, gpu, "%s: %s", gpu, what), value, 0, "", 0);
}

static void look_at(health_run *h, const nvml *m, unsigned i, unsigned *sound) {
    char gpu[16], name[96] = "?", text[160];
    device d = NULL;
    unsigned yes = 0, ok = 0, rows = 0, failed = 0, heat = 0;
    unsigned long long errors = 0, reasons = 0;
    nvml_memory memory = {0};
    const uint32_t before = h->r->n + h->r->left_out;
    snprintf(gpu, sizeof gpu, "GPU %u", i);
    if (m->handle(i, &d) != 0) {
        bad(h, WEFT_HEALTH_FAIL, gpu, "does not answer (fallen off the bus?): reset it or the node", NAN);
        return;
    }
    if (m->name && m->name(d, name, sizeof name) != 0) snprintf(name, sizeof name, "?");
    if (m->ecc && m->ecc(d, NVML_UNCORRECTED, NVML_VOLATILE, &errors) == 0 && errors) {
        snprintf(text, sizeof text,
                 "%llu memory errors that ECC could not correct since the driver was loaded", errors);
        bad(h, WEFT_HEALTH_FAIL, gpu, text, (double)errors);
    }
    if (m->pending && m->pending(d, &yes) == 0 && yes)
        bad(h, WEFT_HEALTH_DEGRADED, gpu, "pages of its memory wait to be retired: reset it", 1);
    yes = 0;
    if (m->remapped && m->remapped(d, &ok, &rows, &yes, &failed) == 0) {
        if (failed)
            bad(h, WEFT_HEALTH_FAIL, gpu, "a bad row of its memory could not be remapped: replace it", 1);
        else if (yes)
            bad(h, WEFT_HEALTH_DEGRADED, gpu, "rows of its memory wait to be remapped: reset it", 1);
    }
    if (m->throttle && m->throttle(d, &reasons) == 0) {
        if (m->temperature && m->temperature(d, NVML_TEMPERATURE_GPU, &heat) != 0) heat = 0;
        if (reasons & (NVML_SLOWDOWN | NVML_HW_HEAT | NVML_SW_HEAT | NVML_BRAKE)) {
            snprintf(text, sizeof text,
                     "its clock is held down by %s (%u degrees): look at cooling and power",
                     reasons & NVML_BRAKE                      ? "the power brake"
                     : reasons & (NVML_HW_HEAT | NVML_SW_HEAT) ? "heat"
                                                               : "the hardware",
                     heat);
            bad(h, WEFT_HEALTH_DEGRADED, gpu, text, (double)heat);
        }
    }
    if (m->memory && m->memory(d, &memory) == 0 && memory.total && memory.used > memory.total / 5) {
        snprintf(text, sizeof text, "%.1f of %.1f GB of its memory are taken by another program",
                 (double)memory.used / 1e9, (double)memory.total / 1e9);
        bad(h, WEFT_HEALTH_DEGRADED, gpu, text, (double)memory.used / 1e9);
    }
    if (h->r->n + h->r->left_out == before) (*sound)++;
}

static void absent(health_run *h, const char *why) {
    health_number(health_find(h, WEFT_CHECK_GPU, WEFT_HEALTH_OK, "count", "no GPUs: %s", why), 0, NAN, "", 1);
}

void health_gpu(health_run *h) {
    nvml m;
    unsigned n = 0, sound = 0;
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        absent(h, "there is no NVIDIA driver (libnvidia-ml.so.1)");
        return;
    }
    if (!open_nvml(lib, &m))
        absent(h, "the NVIDIA library here lacks functions that are needed");
    else if (m.init() != 0)
        bad(h, WEFT_HEALTH_FAIL, "count",
            "the NVIDIA library is there, but its driver does not answer: nvidia-smi says why", NAN);
    else {
        if (m.count(&n) != 0) n = 0;
        for (unsigned i = 0; i < n; i++) look_at(h, &m, i, &sound);
        health_number(health_find(h, WEFT_CHECK_GPU, WEFT_HEALTH_OK, "count",
                                  "%u GPU%s, %u of them without remark", n, n == 1 ? "" : "s", sound),
                      n, NAN, "", 1);
        (void)m.shutdown();
    }
    dlclose(lib);
}
