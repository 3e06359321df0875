/* weft train --ranks N: starts mpirun on this machine and makes Ctrl-C safe.
 *
 * mpirun answers Ctrl-C and SIGTERM by killing its ranks within two seconds, whatever they are doing. Here it
 * runs in a session of its own, out of the terminal's reach; this process takes the signal and sends mpirun
 * SIGUSR1, which it passes on to the ranks: they finish the step, save and end with 85. It is sent again until
 * mpirun has ended, for whoever was not yet listening: SIGUSR1 is ignored from the start, mpirun passes it on when
 * it can, and ranks take it as often as it comes (cli_catch_signals). A second signal goes through as it is. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "runtime/cli/cli.h"

#define AGAIN_S 1 /* between one SIGUSR1 and the next */

/* mpirun [--allow-run-as-root] --oversubscribe --bind-to none -n N /path/to/weft ARGS... */
static char **command_line(const char *ranks, char *self, char *const *args) {
    size_t n = 0, k = 0;
    while (args[n]) n++;
    char **v = weft_calloc(n + 10, sizeof *v);
    if (!v) return NULL;
    v[k++] = "mpirun";
    if (geteuid() == 0) v[k++] = "--allow-run-as-root";
    v[k++] = "--oversubscribe";
    v[k++] = "--bind-to"; /* else one or two ranks get one core each, however many there are */
    v[k++] = "none";
    v[k++] = "-n";
    v[k++] = (char *)ranks;
    v[k++] = self;
    for (size_t i = 0; i < n; i++) v[k++] = args[i];
    return v;
}

static void run_mpirun(char **v, const sigset_t *mask) {
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlives this process */
    setsid();
    signal(SIGUSR1, SIG_IGN);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(v[0], v);
    fprintf(stderr, "weft: error: mpirun could not be started: %s (apt-get install openmpi-bin)\n",
            strerror(errno));
    _exit(69);
}

/* Waits for mpirun and passes on what this process is told, with `signals` blocked. Returns the exit code. Ranks that died
 * of SIGUSR1 had hardly begun: they have stopped as asked. */
static int attend(pid_t child, const sigset_t *signals) {
    const struct timespec again = {AGAIN_S, 0};
    int status = 0, asked = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        const int sig = asked ? sigtimedwait(signals, NULL, &again) : sigwaitinfo(signals, NULL);
        if (sig == SIGCHLD) continue;
        if (asked && sig > 0) kill(child, sig);
        if (sig > 0) asked = 1;
        if (asked) kill(child, SIGUSR1);
    }
    if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
    return asked && WEXITSTATUS(status) == 128 + SIGUSR1 ? 85 : WEXITSTATUS(status);
}

int cli_mpirun(int ranks, char *const *args) {
    char self[4096], count[16];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return cli_fail(weft_fail_errno(errno, "reading /proc/self/exe"));
    self[n] = 0;
    snprintf(count, sizeof count, "%d", ranks);
    char **v = command_line(count, self, args);
    if (!v) return cli_fail(WEFT_ERR_NOMEM);
    if (isatty(STDOUT_FILENO)) setenv("WEFT_TERMINAL", "1", 0);
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);
    signal(SIGINT, SIG_DFL); /* a shell has it ignored by what runs in the background */
    const pid_t child = fork();
    if (child < 0) return cli_fail(weft_fail_errno(errno, "starting mpirun"));
    if (child == 0) run_mpirun(v, &before);
    const int code = attend(child, &signals);
    sigprocmask(SIG_SETMASK, &before, NULL);
    free(v);
    return code;
}
