/* NVML by dlopen; see nvml.h. */
#include "runtime/meter/nvml.h"

#include <dlfcn.h>
#include <string.h>

#include "base/status.h"

/* The address of a function as a pointer to one: dlsym returns a pointer to data. */
static int take(void *library, const char *name, void *f, size_t n) {
    void *p = dlsym(library, name);
    memcpy(f, &p, n);
    return p != NULL;
}
#define TAKE(member, name) take(m->library, name, &m->member, sizeof m->member)

void nvml_close(nvml *m) {
    if (m->shutdown) (void)m->shutdown();
    if (m->library) dlclose(m->library);
    memset(m, 0, sizeof *m);
}

weft_status nvml_open(nvml *m) {
    memset(m, 0, sizeof *m);
    m->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!m->library) return weft_fail(WEFT_ERR_UNSUPPORTED, "there is no NVIDIA driver (libnvidia-ml.so.1)");
    (void)TAKE(handle_of_bus, "nvmlDeviceGetHandleByPciBusId_v2");
    (void)TAKE(name, "nvmlDeviceGetName");
    (void)TAKE(memory, "nvmlDeviceGetMemoryInfo");
    (void)TAKE(ecc, "nvmlDeviceGetTotalEccErrors");
    (void)TAKE(pending, "nvmlDeviceGetRetiredPagesPendingStatus");
    (void)TAKE(remapped, "nvmlDeviceGetRemappedRows");
    (void)TAKE(throttle, "nvmlDeviceGetCurrentClocksThrottleReasons");
    (void)TAKE(temperature, "nvmlDeviceGetTemperature");
    (void)TAKE(power, "nvmlDeviceGetPowerUsage");
    (void)TAKE(energy, "nvmlDeviceGetTotalEnergyConsumption");
    (void)TAKE(clock, "nvmlDeviceGetClockInfo");
    const int usable = TAKE(init, "nvmlInit_v2") & TAKE(count, "nvmlDeviceGetCount_v2") &
                       TAKE(handle, "nvmlDeviceGetHandleByIndex_v2");
    if (!usable || m->init() != 0) {
        nvml_close(m);
        return usable ? weft_fail(WEFT_ERR_DEVICE, "the NVIDIA library is there, but its driver does not "
                                                   "answer: nvidia-smi says why")
                      : weft_fail(WEFT_ERR_UNSUPPORTED,
                                  "the NVIDIA library here lacks functions that are needed");
    }
    if (!TAKE(shutdown, "nvmlShutdown")) m->shutdown = NULL;
    return WEFT_OK;
}
