/* A hub's log being written by a process that is killed or made to fail: log_child DIR SEED. Appends records up to the
 * LAST one, and says on its standard output which are durable: "SEQ CHAIN" with one write(2) each. Exit code 0: done, 3:
 * the log reported an error (text on stderr), which is what a full or failing disk must end in. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/rng.h"
#include "runtime/sites/log.h"
#include "tests/runtime/sites/log_child.h"

static int say_durable(const weft_hub_log *l) {
    char line[128];
    int k = snprintf(line, sizeof line, "%llu ", (unsigned long long)l->synced);
    for (int i = 0; i < WEFT_CHAIN_BYTES; i++)
        k += snprintf(line + k, sizeof line - (size_t)k, "%02x", l->chain[i]);
    line[k++] = '\n';
    return write(1, line, (size_t)k) == k;
}

int main(int argc, char **argv) {
    const weft_hub_log_opts opts = {.size = sizeof opts, .segment_bytes = LOG_CHILD_SEGMENT};
    static unsigned char body[LOG_CHILD_BODY];
    weft_hub_log *l = NULL;
    if (argc != 3) return 64;
    const uint64_t seed = strtoull(argv[2], NULL, 10);
    weft_status s = weft_hub_log_open(argv[1], &opts, &l, NULL);
    if (s >= 0 && l->seq && !say_durable(l)) return 4; /* what opening found counts as durable */
    while (s >= 0 && l->seq < LOG_CHILD_LAST) {
        const uint64_t seq = l->seq + 1;
        const size_t n = log_child_body(seed, seq, body);
        s = weft_hub_log_append(l, 1 + seq / 16, seq, 7, body, n, NULL);
        if (s >= 0 && log_child_syncs(seed, seq)) {
            s = weft_hub_log_sync(l);
            if (s >= 0 && !say_durable(l)) return 4;
        }
    }
    if (s < 0) fprintf(stderr, "%s\n", weft_last_error());
    weft_hub_log_close(l);
    return s < 0 ? 3 : 0;
}
