/* What the commands share: the table of commands, the MPI job, and the way a command ends.
 * One file per command; argp reads the arguments; exit codes are those of docs/exit-codes.md. */
#ifndef WEFT_RUNTIME_CLI_H
#define WEFT_RUNTIME_CLI_H

#include <argp.h>
#include <jansson.h>
#include <signal.h>

#include "weft/comm.h"

typedef struct cli_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is "weft NAME"; returns the exit code */
} cli_command;

int cli_train(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_data(int argc, char **argv);
int cli_data_import(int argc, char **argv);
int cli_data_export(int argc, char **argv);
int cli_ckpt(int argc, char **argv);
int cli_ckpt_ls(int argc, char **argv);
int cli_ckpt_show(int argc, char **argv);
int cli_ckpt_verify(int argc, char **argv);
int cli_ckpt_diff(int argc, char **argv);
int cli_ckpt_prune(int argc, char **argv);
int cli_ckpt_repair(int argc, char **argv);
int cli_ckpt_convert(int argc, char **argv);
int cli_report(int argc, char **argv);
int cli_compare(int argc, char **argv);
int cli_top(int argc, char **argv);
int cli_trace(int argc, char **argv);
int cli_info(int argc, char **argv);
/* weft info --plan FILE */
int cli_plan(const char *file, const char *const *sets, size_t nsets, int ranks, int json);
int cli_doctor(int argc, char **argv);
int cli_health(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_hub(int argc, char **argv);
int cli_launch(int argc, char **argv);
int cli_agent(int argc, char **argv);
int cli_supervise(int argc, char **argv);

/* `weft NAME SUB ...`: runs the subcommand argv[1] of n, or prints them (--help: 0; none or unknown: 64). */
int cli_group(const char *name, const cli_command *sub, size_t n, const char *example, int argc, char **argv);

/* Prints "weft: error: TEXT" for s and returns its exit code. */
int cli_fail(weft_status s);
/* argp_parse with exit code 64 for a wrong command line. Returns 0, or the exit code to end with (--help:
 * -1). */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);
/* A number of an option, or an error that names the option and ends the program with 64. */
long long cli_int(const struct argp_state *state, const char *option, const char *text, long long lo,
                  long long hi);
double cli_float(const struct argp_state *state, const char *option, const char *text, double lo, double hi);

/* Text and numbers for JSON: null where a string is no UTF-8 (a path may be any bytes) or a number is not finite. */
json_t *cli_json_text(const char *text);
json_t *cli_json_number(double v);
/* Prints j as one line and frees it; NULL, or what cannot be said in JSON, is an error. Returns the exit code. */
int cli_json_print(json_t *j);

/* --- the MPI job
 * ---------------------------------------------------------------------------------------------------- */

typedef struct cli_job {
    weft_ctx *ctx;
    weft_group *group; /* all ranks */
    int rank, ranks;
    int sharing; /* ranks of this node that may run on the same cores, this one included */
    int place;   /* of this rank among those of its node */
} cli_job;

/* MPI_Init, HDF5, logger, weft_init, one group. */
weft_status cli_job_begin(cli_job *j, const char *log_level, const char *log_json);
/* Ends the job with the exit code of s: all ranks together if they agree (or s is OK), else MPI_Abort.
 * `agreed`: every rank has this same status. code < 0: from s. */
int cli_job_end(cli_job *j, weft_status s, int agreed, int code);

/* Runs `mpirun -n ranks weft ARGS...` (args NULL-terminated) and returns its exit code; Ctrl-C and SIGTERM reach the
 * ranks as a wish to finish the step and save. */
int cli_mpirun(int ranks, char *const *args);

/* SIGINT, SIGTERM and SIGUSR1 set the flag (finish the step, save, exit 85); a second SIGINT or SIGTERM ends the process at
 * once. */
const volatile sig_atomic_t *cli_catch_signals(void);

#endif
