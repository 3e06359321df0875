/* weft trace merge: one trace of those of all ranks. `weft train` does it at its end; this is for files that lay apart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/metrics/trace.h"
#include "runtime/cli/cli.h"

typedef struct arguments {
    const char *verb, *dir, *out;
} arguments;

static const struct argp_option options[] = {
    {"out", 'o', "FILE", 0, "where to write it (default: DIR/trace.json)", 0}, {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o': a->out = arg; return 0;
    case ARGP_KEY_ARG:
        if (!a->verb && strcmp(arg, "merge") != 0) argp_error(state, "unknown: '%s' (merge)", arg);
        if (a->dir) argp_error(state, "too many arguments: '%s'", arg);
        if (a->verb)
            a->dir = arg;
        else
            a->verb = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->dir) argp_error(state, "which directory? weft trace merge DIR");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "merge DIR",
    "Makes one file of DIR/trace.<rank>.json of all ranks, with all times on the clock of rank 0. Open it at "
    "ui.perfetto.dev or chrome://tracing.\vExample:\n  weft trace merge runs/kjv",
    0,
    0,
    0};

int cli_trace(int argc, char **argv) {
    arguments a = {0};
    weft_trace_merged m;
    cli_parse(&argp, argc, argv, &a);
    char *path = a.out ? NULL : weft_path_join(a.dir, "trace.json");
    const char *out = a.out ? a.out : path;
    const weft_status s = out ? weft_trace_merge(a.dir, out, &m) : WEFT_ERR_NOMEM;
    if (s >= 0)
        printf("%s: %d ranks, %.0f events, clocks within %.1f us\n", out, m.ranks, m.events, m.bound_us);
    free(path);
    return s < 0 ? cli_fail(s) : 0;
}
