/* weft report: report.html of a run directory. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "io/report/report.h"
#include "runtime/cli/cli.h"

typedef struct arguments {
    const char *dir, *out;
} arguments;

static const struct argp_option options[] = {
    {"out", 'o', "FILE", 0, "where to write it (default: RUN/report.html)", 0}, {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o': a->out = arg; return 0;
    case ARGP_KEY_ARG:
        if (a->dir) argp_error(state, "too many arguments: '%s'", arg);
        a->dir = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which run directory?"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {options,
                                 parse,
                                 "RUN",
                                 "Makes one HTML file with the pictures and facts of a run, also of one that "
                                 "is still going on: inline SVG, no JavaScript, "
                                 "no network.\vExample:\n  weft report runs/kjv",
                                 0,
                                 0,
                                 0};

int cli_report(int argc, char **argv) {
    arguments a = {0};
    cli_parse(&argp, argc, argv, &a);
    char *out = a.out ? NULL : weft_path_join(a.dir, "report.html");
    const char *path = a.out ? a.out : out;
    weft_status s = path ? weft_report_write(a.dir, path) : WEFT_ERR_NOMEM;
    if (s >= 0) printf("%s\n", path);
    free(out);
    return s < 0 ? cli_fail(s) : 0;
}
