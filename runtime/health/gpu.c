/* GPUs, through NVIDIA's management library; a node without GPUs is no failure unless its class has them. */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "runtime/health/health.h"
#include "runtime/meter/nvml.h"

static void bad(health_run *h, weft_health_verdict v, const char *gpu, const char *what, double value) {
    health_number(health_find(h, WEFT_CHECK_GPU, v, gpu, "%s: %s", gpu, what), value, 0, "", 0);
}

static void look_at(health_run *h, const nvml *m, unsigned i, unsigned *sound) {
    char gpu[16], name[96] = "?", text[160];
    nvml_handle d = NULL;
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
    const weft_status s = nvml_open(&m);
    if (s == WEFT_ERR_UNSUPPORTED) {
        absent(h, weft_last_error());
        return;
    }
    if (s < 0) {
        bad(h, WEFT_HEALTH_FAIL, "count", weft_last_error(), NAN);
        return;
    }
    if (m.count(&n) != 0) n = 0;
    for (unsigned i = 0; i < n; i++) look_at(h, &m, i, &sound);
    health_number(health_find(h, WEFT_CHECK_GPU, WEFT_HEALTH_OK, "count",
                              "%u GPU%s, %u of them without remark", n, n == 1 ? "" : "s", sound),
                  n, NAN, "", 1);
    nvml_close(&m);
}
