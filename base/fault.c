/* Fault injection; see fault.h. */
#include "base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic long countdown[WEFT_FAULT_SITES]; /* relaxed: a test needs no order between sites */
static _Atomic int armed = -1;                   /* -1: WEFT_FAULT not read yet */

static void read_environment(void) {
    static const char *const names[WEFT_FAULT_SITES] = {"alloc", "read", "write", "sync", "rename", "send"};
    int any = 0;
    const char *e = getenv("WEFT_FAULT");
    if (e)
        for (int i = 0; i < WEFT_FAULT_SITES; i++) {
            size_t n = strlen(names[i]);
            if (!strncmp(e, names[i], n) && e[n] == ':') {
                atomic_store_explicit(&countdown[i], strtol(e + n + 1, NULL, 10), memory_order_relaxed);
                any = 1;
            }
        }
    int unread = -1;
    atomic_compare_exchange_strong(&armed, &unread, any);
}

void weft_fault_arm(weft_fault_site site, long n) {
    atomic_store_explicit(&countdown[site], n, memory_order_relaxed);
    atomic_store(&armed, 1);
}

int weft_fault_hit(weft_fault_site site) {
    int a = atomic_load_explicit(&armed, memory_order_relaxed);
    if (a == 0) return 0;
    if (a < 0) {
        read_environment();
        return weft_fault_hit(site);
    }
    if (atomic_load_explicit(&countdown[site], memory_order_relaxed) <= 0) return 0;
    return atomic_fetch_sub_explicit(&countdown[site], 1, memory_order_relaxed) == 1;
}
