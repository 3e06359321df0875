/* Arguments, errors, signals and the MPI job of the commands; see cli.h. */
#include <errno.h>
#include <hdf5.h>
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "runtime/cli/cli.h"

int cli_fail(weft_status s) {
    fflush(stdout);
    fprintf(stderr, "weft: error: %s\n", weft_last_error());
    return weft_exit_code(s);
}

int cli_group(const char *name, const cli_command *sub, size_t n, const char *example, int argc,
              char **argv) {
    static char full[64];
    int help = argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "-?"));
    weft_log_open(WEFT_LOG_INFO, -1, NULL);
    for (size_t i = 0; argc >= 2 && i < n; i++) {
        if (strcmp(argv[1], sub[i].name)) continue;
        snprintf(full, sizeof full, "weft %s %s", name, sub[i].name);
        argv[1] = full;
        return sub[i].run(argc - 1, argv + 1);
    }
    FILE *f = help ? stdout : stderr;
    if (!help && argc >= 2) fprintf(f, "weft: error: unknown command '%s %s'\n\n", name, argv[1]);
    fprintf(f, "Usage: weft %s COMMAND [OPTION...]\n\n", name);
    for (size_t i = 0; i < n; i++) fprintf(f, "  %-8s %s\n", sub[i].name, sub[i].summary);
    fprintf(f, "\nExample:\n  %s\n", example);
    return help ? 0 : 64;
}

void cli_parse(const struct argp *argp, int argc, char **argv, void *input) {
    argp_err_exit_status = 64;
    argp_parse(argp, argc, argv, 0, NULL, input);
}

long long cli_int(const struct argp_state *state, const char *option, const char *text, long long lo,
                  long long hi) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || *end || end == text || v < lo || v > hi)
        argp_error(state, "%s takes a whole number from %lld to %lld, not '%s'", option, lo, hi, text);
    return v;
}

double cli_float(const struct argp_state *state, const char *option, const char *text, double lo, double hi) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (errno || *end || end == text || !(v >= lo && v <= hi))
        argp_error(state, "%s takes a number from %g to %g, not '%s'", option, lo, hi, text);
    return v;
}

json_t *cli_json_text(const char *text) {
    json_t *j = json_string(text);
    return j ? j : json_null();
}

json_t *cli_json_number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

int cli_json_print(json_t *j) {
    char *text = j ? json_dumps(j, JSON_PRESERVE_ORDER) : NULL;
    json_decref(j);
    if (!text) return cli_fail(weft_fail(WEFT_ERR_NOMEM, "out of memory printing JSON"));
    puts(text);
    free(text);
    return 0;
}

static volatile sig_atomic_t stop_requested;

static void on_signal(int sig) {
    if (stop_requested &&
        sig != SIGUSR1) { /* asked twice: now. SIGUSR1 is repeated until it is heard (mpirun.c) */
        signal(sig, SIG_DFL);
        raise(sig);
    }
    stop_requested = 1;
}

const volatile sig_atomic_t *cli_catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL); /* what mpirun passes on */
    return &stop_requested;
}

/* Ranks of the node whose allowed processors overlap this one's: bound apart, every rank has its own. *place: of this one
 * among all ranks of the node. */
static int ranks_on_my_cores(int *place) {
    MPI_Comm node;
    cpu_set_t mine;
    int ranks = 0, sharing = 0;
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) CPU_ZERO(&mine);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &ranks);
    MPI_Comm_rank(node, place);
    cpu_set_t *all = weft_calloc((size_t)ranks, sizeof *all);
    int ok = all != NULL, all_ok = 0;
    MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, node);
    if (all && all_ok) {
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, node);
        for (int i = 0; i < ranks; i++) {
            cpu_set_t both;
            CPU_AND(&both, &mine, &all[i]);
            sharing += CPU_COUNT(&both) > 0;
        }
    } else {
        sharing = ranks;
    }
    free(all);
    MPI_Comm_free(&node);
    return sharing > 0 ? sharing : 1;
}

static weft_status begin(cli_job *j) {
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
        provided < MPI_THREAD_FUNNELED) {
        fprintf(stderr, "weft: error: MPI could not be started; is the program run by the mpirun of the MPI "
                        "it was built with?\n");
        return WEFT_ERR_SERVICE;
    }
    H5open(); /* behind MPI_Init: the parallel library ties itself to MPI */
    j->sharing = ranks_on_my_cores(&j->place);
    WEFT_TRY(weft_init(MPI_COMM_WORLD, NULL, &j->ctx));
    WEFT_TRY(weft_group_create(j->ctx, MPI_COMM_WORLD, "world", &j->group));
    j->rank = weft_group_rank(j->group);
    j->ranks = weft_group_size(j->group);
    return WEFT_OK;
}

weft_status cli_job_begin(cli_job *j, const char *log_level, const char *log_json) {
    memset(j, 0, sizeof *j);
    weft_log_level level = weft_log_level_of(log_level ? log_level : "info");
    if (level == WEFT_LOG_OFF && log_level && strcmp(log_level, "off")) {
        fprintf(stderr, "weft: error: unknown log level '%s' (error, warn, info, debug, off)\n", log_level);
        exit(64);
    }
    weft_status s = begin(j);
    if (s >= 0) s = weft_log_open(level, j->ranks > 1 ? j->rank : -1, j->rank == 0 ? log_json : NULL);
    return s;
}

int cli_job_end(cli_job *j, weft_status s, int agreed, int code) {
    int rc = s < 0 ? weft_exit_code(s) : code > 0 ? code : 0;
    if (s < 0 && (!agreed || j->rank == 0)) cli_fail(s);
    if (s < 0 && !agreed) {
        fflush(NULL);
        MPI_Abort(MPI_COMM_WORLD, rc);
    }
    if (j->ctx && weft_finalize(&j->ctx, 10000) < 0 && s >= 0) {
        cli_fail(WEFT_ERR_PEER);
        MPI_Abort(MPI_COMM_WORLD, weft_exit_code(WEFT_ERR_PEER));
    }
    weft_log_close();
    MPI_Finalize();
    return rc;
}
