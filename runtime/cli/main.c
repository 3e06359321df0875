/* weft: the command. `weft COMMAND --help` explains each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "runtime/cli/cli.h"
#include "weft/version.h"

static const cli_command commands[] = {
    {"train", "train a model: mpirun -n 2 weft train run.yaml", cli_train},
    {"eval", "held-out loss and bits per byte of a model", cli_eval},
    {"generate", "continue a text", cli_generate},
    {"data", "prepare, inspect and synthesise token data", cli_data},
    {"ckpt", "convert models to and from other programs' files", cli_ckpt},
    {"report", "make report.html of a run", cli_report},
    {"top", "watch a run in the terminal", cli_top},
    {"compare", "hold runs against each other", cli_compare},
    {"trace", "make one trace of those of all ranks", cli_trace},
    {"info", "what this machine and this build can do", cli_info},
    {"doctor", "what is missing or set badly, and how to mend it", cli_doctor},
    {"health", "is this node fit? As a command, or as Slurm's Prolog", cli_health},
    {"bench", "measure this machine's cut-offs: weft bench tune --ranks 2", cli_bench},
    {"hub", "the hub of a training across sites: who takes part, and the log of it", cli_hub},
    {"launch", "train at one or several centres under Slurm, by one command", cli_launch},
    {"supervise", "leads a batch job of Slurm: time limits, dead nodes, the next job", cli_supervise},
    {"agent", "of a supervised job: one a node, started by weft supervise", cli_agent},
};

static void usage(FILE *f) {
    fprintf(f, "Usage: weft COMMAND [OPTION...]\n\nTrains language models and runs MPI simulations in one "
               "job.\n\nCommands:\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\n`weft COMMAND --help` gives options and an example. Exit codes: docs/exit-codes.md.\n");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return 64;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("weft %s\n", WEFT_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        static char name[64];
        snprintf(name, sizeof name, "weft %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "weft: error: unknown command '%s'\n\n", argv[1]);
    usage(stderr);
    return 64;
}
