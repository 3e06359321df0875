/* Fuzz target: status.json of another site's supervisor. What is accepted can be shown and reckoned with: a known state, one
 * printable line, an exit code that is one, finite numbers; and hours added up from it stay finite and never shrink. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/launch/launch_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    launch_status s;
    launch_costs c = {.node = 7, .job = 1, .job_node = 3};
    if (launch_status_parse((const char *)data, n, &s) < 0) {
        must(!s.there, "refused, but there");
        return 0;
    }
    must(s.there && s.state < LAUNCH_JOB_STATES, "no state");
    must(memchr(s.why, 0, sizeof s.why) != NULL, "a line without end");
    for (const char *p = s.why; *p; p++) must(isprint((unsigned char)*p), "not printable");
    must(!s.has_exit || (s.exit >= 0 && s.exit <= 255), "no exit code");
    const double all[] = {s.step_s,       s.save_s,      s.remaining_s, s.node_seconds,
                          s.core_seconds, s.gpu_seconds, s.began_unix,  s.now_unix};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) must(isfinite(all[i]), "not finite");
    for (int i = 0; i < 2; i++) {
        const double before = c.node + c.job_node;
        launch_costs_take(&c, &s);
        must(isfinite(c.node + c.job_node) && c.node + c.job_node >= before, "hours were lost");
    }
    return 0;
}
