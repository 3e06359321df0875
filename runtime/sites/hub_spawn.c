/* A hub of one's own: `weft train --hub new` forks and execs this same program before MPI_Init; see hub.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "runtime/sites/hub.h"
#include "runtime/sites/roster.h"

#define DAY 86400
enum { HOME_DAYS = 365, NAP_MS = 20 };

static void become_hub(const char *self, const char *dir, const char *listen, const char *run, int ready) {
    char fd[16];
    const char *v[16];
    int n = 0;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    snprintf(fd, sizeof fd, "%d", ready);
    v[n++] = "weft";
    v[n++] = "hub";
    v[n++] = "--dir", v[n++] = dir;
    if (listen) v[n++] = "--listen", v[n++] = listen;
    if (run) v[n++] = "--run", v[n++] = run;
    v[n++] = "--ready-fd", v[n++] = fd;
    v[n++] = "--parent";
    v[n] = NULL;
    setpgid(0, 0); /* what a terminal or mpirun sends to the ranks is not for the hub */
    execv(self, (char *const *)(uintptr_t)v);
    fprintf(stderr, "weft: error: the hub could not be started: %s\n", strerror(errno));
    _exit(69);
}

/* Reads "HOST:PORT\n" from fd within the time. */
static weft_status wait_ready(int fd, double timeout_s, weft_hub_child *out) {
    const double end = weft_now() + timeout_s;
    size_t n = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        const double left = end - weft_now();
        if (left <= 0) return weft_fail(WEFT_ERR_TIMEOUT, "the hub did not listen within %g s", timeout_s);
        if (poll(&p, 1, (int)(left * 1000) + 1) <= 0) continue;
        const ssize_t k = read(fd, out->address + n, sizeof out->address - 1 - n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return weft_fail(WEFT_ERR_SERVICE,
                             "the hub ended before it listened; its own message stands above");
        n += (size_t)k;
        out->address[n] = 0;
        char *end_of_line = strchr(out->address, '\n');
        if (end_of_line) *end_of_line = 0;
        if (end_of_line) return WEFT_OK;
        if (n == sizeof out->address - 1)
            return weft_fail(WEFT_ERR_INTERNAL, "the hub's address is too long");
    }
}

/* The home site's invitation: the one of last time if it is still good, else a new one. The port may have changed. */
static weft_status home_invite(const char *dir, const char *home, weft_hub_child *out) {
    char path[4096];
    weft_roster r;
    uint8_t print[WEFT_WAN_FINGERPRINT];
    snprintf(path, sizeof path, "%s/invite-%s.json", dir, home);
    weft_status s = weft_invite_read(path, &out->invite);
    if (s >= 0 && out->invite.expires - (int64_t)time(NULL) < 7 * DAY) s = WEFT_ERR_AUTH;
    if (s >= 0) s = weft_wan_fingerprint(out->invite.certificate, print);
    if (s >= 0 && (s = weft_roster_load(dir, &r)) >= 0) {
        if (!weft_roster_knows(&r, print)) s = WEFT_ERR_AUTH;
        weft_roster_free(&r);
    }
    if (s < 0) {
        json_t *answer = NULL;
        weft_invite_free(&out->invite);
        WEFT_TRY(weft_roster_invite(dir, home, -1, -1, HOME_DAYS, out->address, &out->invite));
        WEFT_TRY(weft_hub_ask(dir, "reload", &answer));
        json_decref(answer);
    }
    snprintf(out->invite.hub, sizeof out->invite.hub, "%s", out->address);
    return weft_invite_write(&out->invite, path);
}

weft_status weft_hub_spawn(const char *dir, const char *listen, const char *run, const char *home,
                           double timeout_s, weft_hub_child *out) {
    char self[4096];
    int ready[2];
    memset(out, 0, sizeof *out);
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return weft_fail_errno(errno, "reading /proc/self/exe");
    self[n] = 0;
    if (pipe(ready) < 0) return weft_fail_errno(errno, "starting the hub");
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        close(ready[0]);
        become_hub(self, dir, listen, run, ready[1]);
    }
    close(ready[1]);
    weft_status s = pid < 0 ? weft_fail_errno(errno, "starting the hub") : WEFT_OK;
    out->pid = pid;
    if (s >= 0) s = wait_ready(ready[0], timeout_s, out);
    close(ready[0]);
    if (s >= 0) s = home_invite(dir, home, out);
    if (s < 0) {
        weft_invite_free(&out->invite);
        if (pid > 0) {
            char why[512];
            snprintf(why, sizeof why, "%s", weft_last_error());
            weft_hub_reap(out, 2);
            s = weft_fail(s, "%s", why);
        }
    }
    return s;
}

weft_status weft_hub_reap(weft_hub_child *c, double timeout_s) {
    const double end = weft_now() + timeout_s;
    int status = 0;
    if (c->pid <= 0) return WEFT_OK;
    kill(c->pid, SIGTERM);
    while (waitpid(c->pid, &status, WNOHANG) == 0) {
        if (weft_now() > end) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, &status, 0);
            break;
        }
        poll(NULL, 0, NAP_MS);
    }
    c->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return WEFT_OK;
    return weft_fail(WEFT_ERR_PEER, "the hub ended with %s %d", WIFEXITED(status) ? "code" : "signal",
                     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}
