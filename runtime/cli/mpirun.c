/* weft train --ranks N: starts mpirun on this machine and makes Ctrl-C safe.
 *
 * mpirun answers Ctrl-C and SIGTERM by killing its ranks within two seconds, whatever they are doing. Here it
 * runs in a session of its own, out of the terminal's reach; this process catches the signal and sends mpirun
 * SIGUSR1, which it passes on to the ranks and waits: they finish the step, save and end with 85. A second
 * signal goes through as it is. */
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

static volatile sig_atomic_t mpirun_pid, asked;

static void forward(int sig) {
    if (mpirun_pid > 0) kill((pid_t)mpirun_pid, asked ? sig : SIGUSR1);
    asked = 1;
}

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

static void run_mpirun(char **v) {
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlives this process */
    setsid();
    execvp(v[0], v);
    fprintf(stderr, "weft: error: mpirun could not be started: %s (apt-get install openmpi-bin)\n",
            strerror(errno));
    _exit(69);
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
    struct sigaction a = {.sa_handler = forward};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    pid_t child = fork();
    if (child < 0) return cli_fail(weft_fail_errno(errno, "starting mpirun"));
    if (child == 0) run_mpirun(v);
    mpirun_pid = child;
    if (asked) kill(child, SIGUSR1); /* a signal between fork and here */
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    free(v);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
