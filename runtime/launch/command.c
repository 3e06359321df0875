/* Programs with a deadline; see command.h.
 *
 * Input is a memory file rather than a pipe: nobody has to feed it, and a program that does not read it does no
 * harm. That exec failed is told by a pipe that exec closes. The end is seen by a pidfd where the kernel has
 * one; pipes that something in the background still holds are read for a quarter of a second more. */
#include "runtime/launch/command.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

extern char **environ;

enum { LINGER_NS = 250000000, POLL_MS = 50, READ_BYTES = 1 << 16 };

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Does entry set or remove the variable `change` ("NAME=VALUE" or "NAME")? */
static int same_name(const char *entry, const char *change) {
    const size_t n = strcspn(change, "=");
    return !strncmp(entry, change, n) && entry[n] == '=';
}

/* The environment with the changes; the strings are borrowed. */
static char **environment(const char *const *changes) {
    size_t n = 0, k = 0, m = 0;
    while (environ[n]) n++;
    while (changes && changes[m]) m++;
    char **env = weft_calloc(n + m + 1, sizeof *env);
    if (!env) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t j = 0;
        while (j < m && !same_name(environ[i], changes[j])) j++;
        if (j == m) env[k++] = environ[i];
    }
    for (size_t j = 0; j < m; j++)
        if (strchr(changes[j], '=')) env[k++] = (char *)changes[j];
    return env;
}

static weft_status input_file(const weft_command_opts *o, int *fd) {
    if (!o->input) {
        *fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return *fd < 0 ? weft_fail_errno(errno, "opening /dev/null") : WEFT_OK;
    }
    *fd = memfd_create("weft-input", MFD_CLOEXEC);
    if (*fd < 0) return weft_fail_errno(errno, "making the input of a command");
    WEFT_TRY(weft_write_all(*fd, o->input, o->ninput, "the input of a command"));
    if (lseek(*fd, 0, SEEK_SET) < 0) return weft_fail_errno(errno, "rewinding the input of a command");
    return WEFT_OK;
}

/* Descriptors of a start: [0] input, [1] stdout, [2] stderr of the child; told: errno of a failed exec. */
typedef struct ends {
    int child[3], told[2];
} ends;

static weft_status open_ends(weft_command *c, const weft_command_opts *o, ends *e) {
    WEFT_TRY(input_file(o, &e->child[0]));
    if (pipe2(e->told, O_CLOEXEC) != 0) return weft_fail_errno(errno, "making a pipe");
    for (int i = 0; i < 2; i++) {
        if (o->log) {
            e->child[1 + i] = open(o->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
            if (e->child[1 + i] < 0) return weft_fail_create(errno, "opening '%s'", o->log);
            continue;
        }
        int p[2] = {-1, -1};
        if (pipe2(p, O_CLOEXEC) != 0) return weft_fail_errno(errno, "making a pipe");
        c->fd[i] = p[0];
        e->child[1 + i] = p[1];
        fcntl(p[0], F_SETFL, O_NONBLOCK);
    }
    return WEFT_OK;
}

/* Only calls that are safe between fork and exec. */
static void child_main(const char *const *argv, char **env, const weft_command_opts *o, const ends *e) {
    sigset_t none;
    int failed = 0;
    setpgid(0, 0);
    if (o->with_parent) prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 3 && !failed; i++) failed = dup2(e->child[i], i) < 0 ? errno : 0;
    if (!failed && o->dir && chdir(o->dir) != 0) failed = errno;
    if (!failed) {
        execvpe(argv[0], (char *const *)argv, env);
        failed = errno;
    }
    if (write(e->told[1], &failed, sizeof failed) < 0) _exit(126);
    _exit(127);
}

/* Waits until exec has happened, or says why it has not. */
static weft_status started(weft_command *c, const char *name, ends *e) {
    int failed = 0;
    ssize_t n;
    close_fd(&e->told[1]);
    do n = read(e->told[0], &failed, sizeof failed);
    while (n < 0 && errno == EINTR);
    if (n <= 0) return WEFT_OK;
    while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR) continue;
    if (failed == ENOENT)
        return weft_fail(WEFT_ERR_SERVICE, "the program '%s' is not there (PATH, or a module to load?)",
                         name);
    return weft_fail_errno(failed, "starting '%s'", name);
}

static weft_status text_init(weft_command_text *t, size_t most) {
    t->most = most;
    t->text = weft_calloc(1, 1);
    return t->text ? WEFT_OK : WEFT_ERR_NOMEM;
}

static void forget(weft_command *c) {
    free(c->out.text);
    free(c->err.text);
    for (int i = 0; i < 2; i++) close_fd(&c->fd[i]);
    close_fd(&c->pidfd);
    *c = (weft_command){.fd = {-1, -1}, .pidfd = -1, .reaped = 1};
}

weft_status weft_command_start(weft_command *c, const char *const *argv, const weft_command_opts *o) {
    static const weft_command_opts none;
    weft_status s = WEFT_OK;
    ends e = {{-1, -1, -1}, {-1, -1}};
    char **env = NULL;
    if (!o) o = &none;
    *c = (weft_command){.fd = {-1, -1}, .pidfd = -1, .reaped = 1};
    WEFT_GOTO(text_init(&c->out, o->most ? o->most : WEFT_COMMAND_OUT), done);
    WEFT_GOTO(text_init(&c->err, o->most ? o->most : WEFT_COMMAND_OUT), done);
    env = environment(o->env);
    if (!env) WEFT_GOTO(WEFT_ERR_NOMEM, done);
    WEFT_GOTO(open_ends(c, o, &e), done);
    c->pid = fork();
    if (c->pid < 0) WEFT_GOTO(weft_fail_errno(errno, "starting '%s'", argv[0]), done);
    if (c->pid == 0) child_main(argv, env, o, &e);
    setpgid(c->pid, c->pid); /* whoever comes first */
    WEFT_GOTO(started(c, argv[0], &e), done);
#ifdef SYS_pidfd_open
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (c->pidfd >= 0) fcntl(c->pidfd, F_SETFD, FD_CLOEXEC);
#endif
    c->running = 1;
    c->reaped = 0;
    if (o->timeout_ms > 0) c->deadline_ns = weft_now_ns() + weft_span_ns(o->timeout_ms, 1000000);
done:
    for (int i = 0; i < 3; i++) close_fd(&e.child[i]);
    for (int i = 0; i < 2; i++) close_fd(&e.told[i]);
    free(env);
    if (s < 0) forget(c);
    return s;
}

int weft_command_fds(const weft_command *c, struct pollfd fds[WEFT_COMMAND_FDS]) {
    int n = 0;
    if (!c->running) return 0;
    for (int i = 0; i < 2; i++)
        if (c->fd[i] >= 0) fds[n++] = (struct pollfd){.fd = c->fd[i], .events = POLLIN};
    if (c->pidfd >= 0 && !c->reaped) fds[n++] = (struct pollfd){.fd = c->pidfd, .events = POLLIN};
    return n;
}

int weft_command_wait_ms(const weft_command *c) {
    if (!c->running) return -1;
    if (c->reaped || c->pidfd < 0) return POLL_MS;
    if (!c->deadline_ns) return -1;
    const uint64_t now = weft_now_ns();
    return now >= c->deadline_ns ? 0 : (int)((c->deadline_ns - now) / 1000000 % 3600000 + 1);
}

static void keep(weft_command_text *t, const char *data, size_t n) {
    if (n > t->most - t->n) {
        n = t->most - t->n;
        t->cut = 1;
    }
    char *p = n ? weft_reallocarray(t->text, t->n + n + 1, 1) : NULL;
    if (!p) {
        t->cut |= n > 0;
        return;
    }
    memcpy(p + t->n, data, n);
    t->n += n;
    p[t->n] = 0;
    t->text = p;
}

static void drain(int *fd, weft_command_text *t) {
    char data[READ_BYTES];
    for (int reads = 0; *fd >= 0 && reads < 16; reads++) {
        const ssize_t n = read(*fd, data, sizeof data);
        if (n > 0) {
            keep(t, data, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close_fd(fd);
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

static void reap(weft_command *c, int flags) {
    int status = 0;
    if (c->reaped) return;
    pid_t p;
    do p = waitpid(c->pid, &status, flags);
    while (p < 0 && errno == EINTR);
    if (p == 0) return;
    c->reaped = 1;
    c->reaped_ns = weft_now_ns();
    if (p < 0)
        c->exit_code = 255; /* somebody else waited for it */
    else
        c->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

weft_status weft_command_step(weft_command *c) {
    if (!c->running) return WEFT_OK;
    reap(c, WNOHANG);
    drain(&c->fd[0], &c->out);
    drain(&c->fd[1], &c->err);
    const uint64_t now = weft_now_ns();
    if (!c->reaped && c->deadline_ns && now >= c->deadline_ns && !c->timed_out) {
        c->timed_out = 1;
        weft_command_kill(c, SIGKILL, 1);
    }
    if (!c->reaped || ((c->fd[0] >= 0 || c->fd[1] >= 0) && now - c->reaped_ns < LINGER_NS))
        return WEFT_IN_PROGRESS;
    c->running = 0;
    for (int i = 0; i < 2; i++) close_fd(&c->fd[i]);
    return WEFT_OK;
}

void weft_command_kill(weft_command *c, int sig, int group) {
    if (c->pid > 0 && !c->reaped) kill(group ? -c->pid : c->pid, sig);
}

void weft_command_close(weft_command *c) {
    if (c->pid == 0 && !c->out.text) return; /* zeroed: its descriptors are none of ours */
    weft_command_kill(c, SIGKILL, 1);
    reap(c, 0);
    forget(c);
}

weft_status weft_command_run(weft_command *c, const char *const *argv, const weft_command_opts *o) {
    WEFT_TRY(weft_command_start(c, argv, o));
    while (weft_command_step(c) == WEFT_IN_PROGRESS) {
        struct pollfd fds[WEFT_COMMAND_FDS] = {{0}};
        const int n = weft_command_fds(c, fds);
        poll(fds, (nfds_t)n, weft_command_wait_ms(c));
    }
    if (c->timed_out)
        return weft_fail(WEFT_ERR_TIMEOUT, "'%s' did not end within %.3g s", argv[0],
                         (double)o->timeout_ms * 1e-3);
    if (c->out.cut || c->err.cut)
        return weft_fail(WEFT_ERR_FORMAT, "'%s' wrote more than %zu bytes", argv[0], c->out.most);
    return WEFT_OK;
}

const char *weft_command_complaint(const weft_command *c, char *buf, size_t cap) {
    const char *text = c->err.text ? c->err.text : "";
    size_t end = c->err.n, n = 0;
    while (end > 0 && isspace((unsigned char)text[end - 1])) end--;
    size_t begin = end;
    while (begin > 0 && text[begin - 1] != '\n') begin--;
    for (; begin < end && n + 1 < cap; begin++)
        buf[n++] = isprint((unsigned char)text[begin]) ? text[begin] : '?';
    buf[n] = 0;
    return buf;
}

weft_status weft_command_check(weft_command *c, const char *const *argv, const weft_command_opts *o) {
    char line[256];
    WEFT_TRY(weft_command_run(c, argv, o));
    if (c->exit_code == 0) return WEFT_OK;
    weft_command_complaint(c, line, sizeof line);
    return weft_fail(WEFT_ERR_SERVICE, "'%s' exited with %d: %s", argv[0], c->exit_code,
                     *line ? line : "(it said nothing)");
}
