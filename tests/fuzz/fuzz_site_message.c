/* Messages between sites: any bytes give a message that packs to the same bytes again, or a refusal. The first byte is
 * the type. */
#include <stdlib.h>
#include <string.h>

#include "runtime/sites/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static weft_site_message m;
    static uint8_t again[WEFT_SITE_BODY_MAX];
    size_t k = 0;
    if (!n) return 0;
    weft_status s = weft_site_unpack(data[0], data + 1, n - 1, &m);
    if (s < 0) {
        if (s != WEFT_ERR_FORMAT && s != WEFT_ERR_VERSION) abort();
        return 0;
    }
    if (weft_site_pack(&m, again, sizeof again, &k) < 0 || k != n - 1 || memcmp(again, data + 1, k) != 0)
        abort();
    return 0;
}
