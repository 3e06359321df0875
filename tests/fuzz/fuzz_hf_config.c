/* Fuzz target: a config.json that is accepted describes a model that can be built, and reads back from what
 * weft writes of it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/exchange/hf_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void promise(int kept) {
    if (!kept) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    weft_model_desc m, back;
    if (weft_hf_config_parse("fuzz", (const char *)data, n, &m) < 0) {
        promise(*weft_last_error() != 0 && m.layers == 0);
        return 0;
    }
    promise(weft_model_check(&m) == WEFT_OK);
    promise(weft_model_parameters(&m) > 0);
    char *text = weft_hf_config_text(&m, WEFT_F32);
    promise(text && weft_hf_config_parse("back", text, strlen(text), &back) == WEFT_OK);
    promise(!memcmp(&m, &back, sizeof m));
    free(text);
    if (m.layers > 64) return 0; /* bounded memory */
    weft_named *t;
    size_t count;
    promise(weft_model_tensors(&m, &t, &count) == WEFT_OK);
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += t[i].shape[0] * (t[i].ndim == 2 ? t[i].shape[1] : 1);
    promise(sum == weft_model_parameters(&m));
    free(t);
    return 0;
}
