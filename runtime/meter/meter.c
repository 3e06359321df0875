/* The figures of one GPU; see meter.h. */
#include "runtime/meter/meter.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "runtime/meter/nvml.h"

struct weft_meter {
    nvml library;
    nvml_handle gpu;
    unsigned long long energy0;         /* mJ */
    int counts;                         /* it has a counter of energy */
    double summed, last_at, last_watts; /* else: joules so far, and the last reading */
};

void weft_meter_close(weft_meter *m) {
    if (!m) return;
    nvml_close(&m->library);
    free(m);
}

weft_status weft_meter_open(const char *pci, unsigned index, weft_meter **out) {
    *out = NULL;
    weft_meter *m = weft_calloc(1, sizeof *m);
    if (!m) return WEFT_ERR_NOMEM;
    weft_status s = nvml_open(&m->library);
    const nvml *l = &m->library;
    const int by_bus = s == WEFT_OK && pci && l->handle_of_bus && l->handle_of_bus(pci, &m->gpu) == 0;
    if (s == WEFT_OK && !by_bus && l->handle(index, &m->gpu) != 0)
        s = weft_fail(WEFT_ERR_DEVICE, "the NVIDIA library does not know GPU %u", index);
    if (s < 0) {
        weft_meter_close(m);
        return s;
    }
    m->counts = l->energy && l->energy(m->gpu, &m->energy0) == 0;
    m->last_at = weft_now();
    m->last_watts = NAN;
    *out = m;
    return WEFT_OK;
}

static double clock_of(const weft_meter *m, int which) {
    unsigned mhz = 0;
    return m->library.clock && m->library.clock(m->gpu, which, &mhz) == 0 ? mhz * 1e6 : (double)NAN;
}

/* Trapezoids of the power between readings. */
static double sum_up(weft_meter *m, double watts) {
    const double now = weft_now();
    if (isfinite(watts) && isfinite(m->last_watts))
        m->summed += (now - m->last_at) * (watts + m->last_watts) / 2;
    m->last_at = now;
    m->last_watts = watts;
    return isfinite(watts) ? m->summed : (double)NAN;
}

void weft_meter_read(weft_meter *m, weft_meter_reading *r) {
    const nvml *l = &m->library;
    unsigned v = 0;
    unsigned long long e = 0;
    *r = (weft_meter_reading){.watts = NAN, .joules = NAN, .celsius = NAN};
    if (l->power && l->power(m->gpu, &v) == 0) r->watts = v / 1e3;
    if (l->temperature && l->temperature(m->gpu, NVML_TEMPERATURE_GPU, &v) == 0) r->celsius = v;
    r->sm_hz = clock_of(m, NVML_CLOCK_SM);
    r->memory_hz = clock_of(m, NVML_CLOCK_MEMORY);
    if (!m->counts)
        r->joules = sum_up(m, r->watts);
    else if (l->energy(m->gpu, &e) == 0)
        r->joules = (double)(e - m->energy0) / 1e3;
}
