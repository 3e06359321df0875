/* Fuzz target: launch.json. What is accepted is of this run, has counts that fit and hours that are finite, and is the same
 * after it was written and read again. */
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

static int same(const launch_record *a, const launch_record *b) {
    return a->generation == b->generation && a->next == b->next && a->job == b->job &&
           a->intent == b->intent && a->ended == b->ended && (!a->ended || a->code == b->code) &&
           a->deaths == b->deaths && a->saved == b->saved;
}

static int finite_costs(const launch_costs *c) {
    const double all[] = {c->node, c->core, c->gpu, c->job_node, c->job_core, c->job_gpu};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!isfinite(all[i]) || all[i] < 0) return 0;
    return 1;
}

static int near(double a, double b) {
    return fabs(a - b) <= 1e-9 * fabs(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static launch_config c;
    launch_record r[LAUNCH_SITES] = {{0}}, again[LAUNCH_SITES] = {{0}};
    launch_costs costs[LAUNCH_SITES] = {{0}}, costs_again[LAUNCH_SITES] = {{0}};
    char *text = NULL;
    c.run.name = "far";
    c.nsites = 2;
    c.site[0].name = "north";
    c.site[1].name = "south";
    snprintf(c.id, sizeof c.id, "0123abcd");
    if (launch_state_parse("fuzz", (const char *)data, n, &c, r, costs) < 0) return 0;
    must(launch_state_format(&c, r, costs, &text) >= 0, weft_last_error());
    must(launch_state_parse("again", text, strlen(text), &c, again, costs_again) >= 0, weft_last_error());
    free(text);
    for (size_t i = 0; i < c.nsites; i++) {
        must(same(&r[i], &again[i]), "another record");
        must(r[i].code >= -1 && r[i].code <= 255, "no exit code");
        must(finite_costs(&costs[i]), "hours that are none");
        must(near(costs[i].node, costs_again[i].node) && near(costs[i].job_gpu, costs_again[i].job_gpu) &&
                 costs[i].bytes == costs_again[i].bytes,
             "other hours");
    }
    return 0;
}
