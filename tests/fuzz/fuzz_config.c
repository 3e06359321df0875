/* The reader of run files: any bytes give a configuration whose dump reads back as itself, or a message that
 * names a place. */
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "tests/base/config_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    sample_run run, again;
    weft_config *c, *d;
    weft_status s =
        weft_config_parse("f", (const char *)data, n, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c);
    if (s < 0) {
        if (c || s != WEFT_ERR_CONFIG || strncmp(weft_last_error(), "f:", 2) != 0) abort();
        return 0;
    }
    const char *text = weft_config_dump(c);
    if (weft_config_parse("d", text, strlen(text), NULL, 0, sample_keys, SAMPLE_KEYS, &again, &d) < 0)
        abort();
    if (strcmp(text, weft_config_dump(d)) != 0) abort();
    weft_config_destroy(d);
    weft_config_destroy(c);
    return 0;
}
