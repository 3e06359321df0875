/* The reader of references of the health check: any bytes are refused as no reference, or give one whose medians are
 * finite and which any report can be held against. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/health/health.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static weft_health_report report;
    const weft_health_opts opts = {.size = sizeof opts};
    health_run run = {.o = &opts, .r = &report, .root = ""};
    char *text = calloc(n + 1, 1);
    if (!text) return 0;
    memcpy(text, data, n);
    memset(&report, 0, sizeof report);
    const weft_status s = health_reference_read(text, &run.reference);
    free(text);
    if (s < 0) {
        if (run.reference || (s != WEFT_ERR_FORMAT && s != WEFT_ERR_NOMEM)) abort();
        return 0;
    }
    static const char *const subject[] = {"", "eth0", "installed", "/scratch"};
    for (uint32_t bit = 1; bit < WEFT_CHECK_FULL; bit <<= 1)
        for (size_t i = 0; i < sizeof subject / sizeof *subject; i++) {
            size_t nodes;
            const double median = health_reference_median(run.reference, bit, subject[i], &nodes);
            if (nodes ? !isfinite(median) : !isnan(median)) abort();
            health_number(health_find(&run, bit, WEFT_HEALTH_OK, subject[i], "%s", subject[i]), 3.5, NAN, "u",
                          i & 1 ? -1 : 1);
        }
    health_reference_compare(&run);
    char *json = weft_health_json(&report);
    if (!json) abort();
    free(json);
    health_reference_free(run.reference);
    return 0;
}
