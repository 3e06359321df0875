/* The script's interpreter; see script.h. A statement is done at once or blocks; while one blocks, packets are carried in
 * slices of 10 ms. A command is the leader of a session of its own, so that all it starts can be found again,
 * mpirun's ranks (which have process groups of their own) too. */
#include "tests/wan/script.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#define SLICE_NS   10000000u
#define LOG_PIECE  65536
#define ENVIRON    262144
#define REAP_S     5.0 /* a killed command is gone by then */
#define KILL_TURNS 50  /* a tree that forks while it is killed */

static double since(const wan_script *s, uint64_t ns) {
    return (double)(ns - s->start_ns) * 1e-9;
}

static weft_status at_line(const wan_script *s, weft_status status) {
    return weft_context(status, "line %d", s->scenario->statement[s->next].line);
}

weft_status wan_script_open(wan_script *s, const wan_scenario *scenario, wan_forward *forward,
                            const char *dir) {
    char self[32] = "";
    memset(s, 0, sizeof *s);
    s->scenario = scenario;
    s->forward = forward;
    s->dir = dir;
    s->own_proc = readlink("/proc/self", self, sizeof self - 1) > 0 && atol(self) == getpid();
    s->done_s = weft_calloc((size_t)scenario->statements + 1, sizeof *s->done_s);
    if (!s->done_s) return WEFT_ERR_NOMEM;
    for (int i = 0; i < scenario->statements; i++) s->done_s[i] = -1;
    return WEFT_OK;
}

void wan_script_close(wan_script *s) {
    free(s->done_s);
    s->done_s = NULL;
}

/* --- commands --- */

static char *log_path(const wan_script *s, int command) {
    const char *log = s->scenario->command[command].log;
    return *log == '/' ? weft_strdup(log) : weft_path_join(s->dir, log);
}

static void environment(const wan_script *s, int site) {
    char name[WAN_NAME + 8], address[32];
    for (int i = 0; i < s->scenario->sites; i++) {
        const uint32_t a = wan_net_address(i);
        snprintf(name, sizeof name, "WAN_%s", s->scenario->site[i].name);
        snprintf(address, sizeof address, "%u.%u.%u.%u", a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255);
        setenv(name, address, 1);
        if (i == site) setenv("WAN_ADDRESS", address, 1);
    }
    setenv("WAN_SITE", s->scenario->site[site].name, 1);
}

static void become(const wan_script *s, const wan_command *c, int log) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    setsid();
    const int null = open("/dev/null", O_RDONLY);
    if (wan_net_enter(s->forward->net, c->site) != WEFT_OK || dup2(null, 0) < 0 || dup2(log, 1) < 0 ||
        dup2(log, 2) < 0)
        _exit(126);
    environment(s, c->site);
    execl("/bin/sh", "sh", "-c", c->text, (char *)NULL);
    _exit(127);
}

static weft_status start(wan_script *s, int command) {
    const wan_command *c = &s->scenario->command[command];
    wan_child *k = &s->child[command];
    if (k->leader) {
        if (!k->started) return WEFT_IN_PROGRESS; /* killed, not yet reaped */
        return weft_fail(WEFT_ERR_STATE, "%s runs already", c->name);
    }
    char *path = log_path(s, command);
    if (!path) return WEFT_ERR_NOMEM;
    /* a log is of this run, but of all its starts */
    const int fresh = k->from_ns ? 0 : O_TRUNC;
    const int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | fresh, 0644);
    free(path);
    if (log < 0) return weft_fail_create(errno, "log of %s", c->name);
    const pid_t pid = fork();
    if (pid == 0) become(s, c, log);
    close(log);
    if (pid < 0) return weft_fail_errno(errno, "fork");
    k->leader = pid;
    k->started = 1;
    k->from_ns = weft_now_ns();
    return WEFT_OK;
}

static void reap(wan_script *s) {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (int i = 0; i < s->scenario->commands; i++) {
            wan_child *k = &s->child[i];
            if (k->leader != pid) continue;
            k->leader = 0;
            k->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            if (s->verbose)
                fprintf(stderr, "wanem: %8.3f %s ended with %d\n", since(s, weft_now_ns()),
                        s->scenario->command[i].name, k->code);
        }
    }
}

/* Session of a process that is not a zombie; -1. */
static long session_of(const char *pid) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    const char *end = n > 0 ? strrchr(text, ')') : NULL;
    char state = 0;
    long session = -1;
    if (!end || sscanf(end + 1, " %c %*d %*d %ld", &state, &session) != 2 || state == 'Z') return -1;
    return session;
}

static int is_rank(const char *pid, int rank) {
    static char text[ENVIRON]; /* one thread */
    char path[64], want[64];
    snprintf(path, sizeof path, "/proc/%.20s/environ", pid);
    const int w = snprintf(want, sizeof want, "OMPI_COMM_WORLD_RANK=%d", rank);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && memmem(text, (size_t)n, want, (size_t)w + 1) != NULL;
}

/* Signals all of a session, or one rank in it; how many there were. */
static int signal_session(pid_t leader, int signal, int rank) {
    DIR *d = opendir("/proc");
    int found = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || session_of(e->d_name) != leader) continue;
        if (rank >= 0 && !is_rank(e->d_name, rank)) continue;
        found += kill((pid_t)atol(e->d_name), signal) == 0;
    }
    closedir(d);
    return found;
}

static void kill_all_of(wan_script *s, pid_t leader) {
    kill(s->own_proc ? leader : -leader, SIGKILL); /* by its number: it may not have begun its session yet */
    for (int i = 0; s->own_proc && i < KILL_TURNS && signal_session(leader, SIGKILL, -1); i++) continue;
}

static weft_status send(wan_script *s, const wan_statement *t) {
    wan_child *k = &s->child[t->command];
    const char *name = s->scenario->command[t->command].name;
    const int whole = t->signal == SIGKILL || t->signal == SIGSTOP || t->signal == SIGCONT;
    if (!k->leader) return weft_fail(WEFT_ERR_STATE, "%s does not run (it ended with %d)", name, k->code);
    if (t->rank >= 0) {
        if (s->own_proc && signal_session(k->leader, t->signal, t->rank)) return WEFT_OK;
        return weft_fail(WEFT_ERR_NOTFOUND, "%s has no rank %d", name, t->rank);
    }
    if (t->signal == SIGKILL) {
        k->started = 0;
        kill_all_of(s, k->leader);
    } else if (whole && s->own_proc) {
        signal_session(k->leader, t->signal, -1);
    } else {
        kill(whole ? -k->leader : k->leader, t->signal);
    }
    return WEFT_OK;
}

/* --- logs --- */

/* Looks for text from *at on, and leaves *at behind it, or where it may begin. */
static weft_status in_log(const wan_script *s, int command, const char *text, int64_t *at, int *found) {
    static char piece[LOG_PIECE]; /* one thread */
    char *path = log_path(s, command);
    const size_t want = strlen(text);
    *found = 0;
    if (!path) return WEFT_ERR_NOMEM;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    if (fd < 0) return errno == ENOENT ? WEFT_OK : weft_fail_errno(errno, "log");
    for (ssize_t n; !*found && (n = pread(fd, piece, sizeof piece, *at)) >= (ssize_t)want && n > 0;) {
        const char *p = memmem(piece, (size_t)n, text, want);
        *found = p != NULL;
        *at += p ? p - piece + (int64_t)want : n - (int64_t)want + 1;
        if (n < LOG_PIECE) break;
    }
    close(fd);
    return WEFT_OK;
}

static weft_status mark(wan_script *s, int command) {
    char *path = log_path(s, command);
    if (!path) return WEFT_ERR_NOMEM;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    const off_t end = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    if (fd >= 0) close(fd);
    s->child[command].log_from = end > 0 ? end : 0;
    return WEFT_OK;
}

static weft_status await(wan_script *s, const wan_statement *t) {
    wan_child *k = &s->child[t->command];
    const wan_command *c = &s->scenario->command[t->command];
    int found = 0;
    WEFT_TRY(in_log(s, t->command, t->text, &k->log_from, &found));
    if (found) return WEFT_OK;
    if (!k->leader)
        return weft_fail(WEFT_ERR_PEER, "%s ended with %d and its log (%s) does not say \"%s\"", c->name,
                         k->code, c->log, t->text);
    if (since(s, weft_now_ns()) - since(s, s->reached_ns) > t->seconds)
        return weft_fail(WEFT_ERR_TIMEOUT, "the log of %s (%s) does not say \"%s\" within %g s", c->name,
                         c->log, t->text, t->seconds);
    return WEFT_IN_PROGRESS;
}

static weft_status never(const wan_script *s, const wan_statement *t) {
    int64_t at = 0;
    int found = 0;
    const wan_command *c = &s->scenario->command[t->command];
    WEFT_TRY(in_log(s, t->command, t->text, &at, &found));
    return found ? weft_fail(WEFT_ERR_STATE, "the log of %s (%s) says \"%s\"", c->name, c->log, t->text)
                 : WEFT_OK;
}

static weft_status alive(const wan_script *s, const wan_statement *t) {
    const wan_child *k = &s->child[t->command];
    const wan_command *c = &s->scenario->command[t->command];
    return k->leader ? WEFT_OK
                     : weft_fail(WEFT_ERR_PEER, "%s has ended with %d (log %s)", c->name, k->code, c->log);
}

static weft_status ended(wan_script *s, const wan_statement *t) {
    const wan_child *k = &s->child[t->command];
    const wan_command *c = &s->scenario->command[t->command];
    if (!k->leader && k->code == t->code) return WEFT_OK;
    if (!k->leader)
        return weft_fail(WEFT_ERR_PEER, "%s ended with %d instead of %d (log %s)", c->name, k->code, t->code,
                         c->log);
    if (since(s, weft_now_ns()) - since(s, s->reached_ns) > t->seconds)
        return weft_fail(WEFT_ERR_TIMEOUT, "%s has not ended within %g s (log %s)", c->name, t->seconds,
                         c->log);
    return WEFT_IN_PROGRESS;
}

/* --- statements --- */

static void change_links(wan_forward *f, const wan_statement *t) {
    for (int a = 0; a < f->net->sites; a++)
        for (int b = 0; b < f->net->sites; b++)
            if (a != b && (t->src < 0 || t->src == a) && (t->dst < 0 || t->dst == b))
                wan_change_apply(&t->change, &f->link[a][b].shape);
}

static weft_status step(wan_script *s) {
    const wan_statement *t = &s->scenario->statement[s->next];
    wan_forward *f = s->forward;
    const uint64_t now = weft_now_ns();
    wan_shape shape = {0};
    switch (t->verb) {
    case WAN_AT: return since(s, now) >= t->seconds ? WEFT_OK : WEFT_IN_PROGRESS;
    case WAN_AFTER: return since(s, now) - since(s, s->reached_ns) >= t->seconds ? WEFT_OK : WEFT_IN_PROGRESS;
    case WAN_LINK: change_links(f, t); return WEFT_OK;
    case WAN_CAP:
        wan_change_apply(&t->change, &f->egress[t->src].shape);
        wan_change_apply(&t->change2, &f->ingress[t->src].shape);
        return WEFT_OK;
    case WAN_FLOW:
        wan_change_apply(&t->change, &shape);
        return wan_forward_flow(f, t->src, t->dst, (uint16_t)t->port, t->nth, &shape);
    case WAN_START: return start(s, t->command);
    case WAN_KILL: return send(s, t);
    case WAN_MARK: return mark(s, t->command);
    case WAN_WAIT: return await(s, t);
    case WAN_NEVER: return never(s, t);
    case WAN_ALIVE: return alive(s, t);
    default: return ended(s, t);
    }
}

static void report_statement(const wan_script *s) {
    static const char *const verbs[] = {"t=",   "+",    "link", "site",  "flow",  "start",
                                        "kill", "mark", "wait", "never", "alive", "exit"};
    const wan_statement *t = &s->scenario->statement[s->next];
    if (!s->verbose || t->verb == WAN_AT || t->verb == WAN_AFTER) return;
    const int named = t->verb >= WAN_START;
    fprintf(stderr, "wanem: %8.3f line %d: %s%s%s%s%s\n", s->done_s[s->next], t->line, verbs[t->verb],
            named ? " " : "", named ? s->scenario->command[t->command].name : "", t->text ? ": " : "",
            t->text ? t->text : "");
}

static weft_status run(wan_script *s, volatile int *stop) {
    while (s->next < s->scenario->statements) {
        reap(s);
        if (*stop) return weft_fail(WEFT_ERR_STATE, "stopped by signal %d", *stop);
        const weft_status status = step(s);
        if (status < 0) return at_line(s, status);
        const uint64_t now = weft_now_ns();
        if (since(s, now) > s->scenario->limit_s)
            return at_line(
                s, weft_fail(WEFT_ERR_TIMEOUT, "the run's limit of %g s is over", s->scenario->limit_s));
        if (status == WEFT_IN_PROGRESS) {
            WEFT_TRY(wan_forward_run(s->forward, now + SLICE_NS));
            continue;
        }
        s->reached_ns = now;
        s->done_s[s->next] = since(s, now);
        report_statement(s);
        s->next++;
    }
    return WEFT_OK;
}

weft_status wan_script_run(wan_script *s, volatile int *stop) {
    s->start_ns = s->reached_ns = weft_now_ns();
    const weft_status status = run(s, stop);
    for (int i = 0; i < s->scenario->commands; i++)
        if (s->child[i].leader) kill_all_of(s, s->child[i].leader);
    for (const uint64_t from = weft_now_ns(); weft_now_ns() - from < (uint64_t)(REAP_S * 1e9);) {
        int left = 0;
        reap(s);
        for (int i = 0; i < s->scenario->commands; i++) left += s->child[i].leader != 0;
        if (!left) break;
        usleep(1000);
    }
    return status;
}
