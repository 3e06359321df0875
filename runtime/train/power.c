/* Power, energy, clocks and heat of the GPU that rank 0 computes on, once a second, as metrics. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/cuda/calls.h"
#include "runtime/meter/meter.h"
#include "runtime/train/internal.h"

#define METER_S 1.0 /* between two readings: each may cost some milliseconds */

static const struct {
    const char *name, *unit;
} figure[TRAINER_GPU_FIGURES] = {{"gpu_power", "W"},
                                 {"gpu_energy", "J"},
                                 {"gpu_sm_clock", "Hz"},
                                 {"gpu_memory_clock", "Hz"},
                                 {"gpu_temperature", "C"}};

/* Where the device is on its bus, in the words of NVML; "" if that cannot be known. */
static const char *bus_of(int index, char *text, int n) {
    int (*bus_id)(char *, int, int);
    void *f = weft_cuda_function("cudaDeviceGetPCIBusId");
    *text = 0;
    if (!f) return text;
    memcpy(&bus_id, &f, sizeof bus_id);
    if (bus_id(text, n, index) != 0) *text = 0;
    return text;
}

void trainer_power_open(weft_trainer *t) {
    weft_backend_desc d;
    char bus[32];
    if (weft_backend_info(t->backend, &d) < 0 || !d.device) return;
    for (int i = 0; i < TRAINER_GPU_FIGURES; i++)
        t->id_gpu[i] = weft_metric(figure[i].name, WEFT_METRIC_GAUGE, figure[i].unit);
    bus_of(d.index, bus, sizeof bus);
    if (weft_meter_open(*bus ? bus : NULL, (unsigned)d.index, &t->meter) < 0)
        weft_debug("no power of the GPU in the metrics: %s", weft_last_error());
}

void trainer_power_close(weft_trainer *t) {
    weft_meter_close(t->meter);
    t->meter = NULL;
}

void trainer_watch_power(weft_trainer *t, int last) {
    weft_meter_reading r = {NAN, NAN, NAN, NAN, NAN}; /* not in this record */
    const double now = weft_now();
    if (!t->meter) return;
    if (last || now - t->meter_at >= METER_S) {
        t->meter_at = now;
        weft_meter_read(t->meter, &r);
    }
    const double v[TRAINER_GPU_FIGURES] = {r.watts, r.joules, r.sm_hz, r.memory_hz, r.celsius};
    for (int i = 0; i < TRAINER_GPU_FIGURES; i++) weft_metric_set(t->id_gpu[i], v[i]);
}
