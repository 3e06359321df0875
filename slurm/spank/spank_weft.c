/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Options of srun, sbatch and salloc for weft, as a plugin of Slurm (SPANK).
 *
 *   srun --weft-join=HOST:PORT weft train run.yaml     the site dials this hub (WEFT_JOIN)
 *   --weft-voucher=ID                                  the voucher that the step is paid with (WEFT_VOUCHER)
 *   --weft-meter                                       slurmd's log says how long each step ran on a node (WEFT_METER)
 *
 * The options of an allocation hold for its steps, too: srun and sbatch carry them there. This one file includes Slurm's
 * header and is loaded by Slurm, so it stands under Slurm's licence, is built apart (README.md) and uses nothing of weft:
 * what they share is the names of environment variables.
 *
 * The plugin must never be in the way: whatever goes wrong besides a wrong option is logged and passed over. */
#include <slurm/slurm.h>
#include <slurm/spank.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#pragma GCC visibility push(default)
extern const char plugin_name[], plugin_type[];
extern const unsigned int plugin_version, spank_plugin_version;
SPANK_PLUGIN(weft, 1)
int slurm_spank_init(spank_t sp, int argc, char *argv[]);
int slurm_spank_user_init(spank_t sp, int argc, char *argv[]);
int slurm_spank_exit(spank_t sp, int argc, char *argv[]);
#pragma GCC visibility pop

enum { JOIN, VOUCHER, METER, OPTIONS };
enum { VALUE = 256 };

static char value[OPTIONS][VALUE]; /* "": not given */
static struct timespec began;      /* of the step on this node; 0: not begun */

static int is_made_of(const char *text, const char *others) {
    const size_t n = strlen(text);
    if (n == 0 || n >= VALUE) return 0;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        const int plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && !strchr(others, c)) return 0;
    }
    return 1;
}

/* "HOST:PORT", "[ADDRESS]:PORT", or "@FILE": a file that holds one. */
static int is_address(const char *text) {
    if (text[0] == '@') return is_made_of(text + 1, "/._-+=,@%");
    const char *colon = strrchr(text, ':');
    if (!is_made_of(text, ".-:[]%_") || !colon || colon == text) return 0;
    char *end;
    const long port = strtol(colon + 1, &end, 10);
    return colon[1] >= '0' && colon[1] <= '9' && !*end && port >= 1 && port <= 65535;
}

/* Called where the option is given (remote 0), and again on each node of a step. */
static int take(int which, const char *text, int remote) {
    if (which == METER) text = "1";
    if (!text) text = "";
    const char *expected = NULL;
    if (which == JOIN && !is_address(text)) expected = "--weft-join takes HOST:PORT or @FILE";
    if (which == VOUCHER && !is_made_of(text, "._-:"))
        expected = "--weft-voucher takes letters, digits and ._-:";
    if (expected) {
        if (!remote) slurm_error("%s, not '%.100s'", expected, text);
        return -1;
    }
    snprintf(value[which], VALUE, "%s", text);
    return 0;
}

static struct spank_option option[OPTIONS] = {
    [JOIN] = {"weft-join", "HOST:PORT", "weft: the hub of the run that this site joins", 1, JOIN, take},
    [VOUCHER] = {"weft-voucher", "ID", "weft: the voucher that the step is paid with", 1, VOUCHER, take},
    [METER] = {"weft-meter", NULL, "weft: log how long each step runs on a node", 0, METER, take},
};

int slurm_spank_init(spank_t sp, int argc, char *argv[]) {
    (void)argc;
    (void)argv;
    if (spank_context() == S_CTX_SLURMD || spank_context() == S_CTX_JOB_SCRIPT)
        return 0; /* no options there */
    for (int i = 0; i < OPTIONS; i++)
        if (spank_option_register(sp, &option[i]) != ESPANK_SUCCESS)
            slurm_error("weft: --%s is not to be had", option[i].name);
    return 0;
}

/* In the step, as its user, before its tasks start: what they get to know. */
int slurm_spank_user_init(spank_t sp, int argc, char *argv[]) {
    static const char *const name[OPTIONS] = {
        [JOIN] = "WEFT_JOIN", [VOUCHER] = "WEFT_VOUCHER", [METER] = "WEFT_METER"};
    (void)argc;
    (void)argv;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int i = 0; i < OPTIONS; i++)
        if (value[i][0] && spank_setenv(sp, name[i], value[i], 1) != ESPANK_SUCCESS)
            slurm_error("weft: %s could not be set", name[i]);
    return 0;
}

/* The end of a step on a node: one line for whoever adds up hours. */
int slurm_spank_exit(spank_t sp, int argc, char *argv[]) {
    uint32_t job = 0, step = 0, tasks = 0;
    char step_name[16], host[64] = "?";
    struct timespec now;
    (void)argc;
    (void)argv;
    if (!value[METER][0] || spank_remote(sp) != 1 || (!began.tv_sec && !began.tv_nsec)) return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double seconds = (double)(now.tv_sec - began.tv_sec) + (double)(now.tv_nsec - began.tv_nsec) * 1e-9;
    if (spank_get_item(sp, S_JOB_ID, &job) != ESPANK_SUCCESS) job = 0;
    if (spank_get_item(sp, S_JOB_STEPID, &step) != ESPANK_SUCCESS) step = 0;
    if (spank_get_item(sp, S_JOB_LOCAL_TASK_COUNT, &tasks) != ESPANK_SUCCESS) tasks = 0;
    if (spank_getenv(sp, "SLURMD_NODENAME", host, sizeof host) != ESPANK_SUCCESS &&
        gethostname(host, sizeof host - 1))
        snprintf(host, sizeof host, "?");
    if (step == SLURM_BATCH_SCRIPT)
        snprintf(step_name, sizeof step_name, "batch");
    else
        snprintf(step_name, sizeof step_name, "%u", step);
    slurm_info("weft-meter: job=%u step=%s node=%s tasks=%u seconds=%.3f voucher=%s", job, step_name, host,
               tasks, seconds, value[VOUCHER][0] ? value[VOUCHER] : "-");
    return 0;
}
