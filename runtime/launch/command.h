/* Running a program with a deadline: its input given, its output captured or sent to a file.
 *
 * No shell: argv goes to execvp as it is. The program leads a process group of its own, so that whatever it
 * started is ended with it, and a terminal's Ctrl-C does not reach it. Output beyond the limit is dropped and
 * counted as an error by weft_command_run (what is cut cannot be parsed).
 *
 * Two ways: weft_command_run waits; weft_command_start, then weft_command_fds into a poll(2) and
 * weft_command_step after it, for a loop that has other things to do. One thread a command. */
#ifndef WEFT_LAUNCH_COMMAND_H
#define WEFT_LAUNCH_COMMAND_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

enum {
    WEFT_COMMAND_OUT = 1 << 20, /* bytes kept of each of stdout and stderr, if the options say nothing */
    WEFT_COMMAND_FDS = 3,       /* what weft_command_fds writes at most */
    WEFT_COMMAND_ENV = 32,      /* changes of the environment at most */
};

typedef struct weft_command_opts {
    const char *const
        *env;          /* changes to the environment, NULL-terminated: "NAME=VALUE" sets, "NAME" removes */
    const char *dir;   /* working directory; NULL: this process's */
    const void *input; /* what it reads from stdin; NULL: /dev/null */
    size_t ninput;
    const char *log;    /* stdout and stderr are appended to this file instead of being captured */
    int64_t timeout_ms; /* killed after this time; 0: never */
    size_t most;        /* bytes kept of stdout and of stderr; 0: WEFT_COMMAND_OUT */
    int with_parent;    /* SIGKILLed when the thread that started it ends */
} weft_command_opts;

typedef struct weft_command_text {
    char *text; /* zero-terminated; never NULL once the command was started */
    size_t n, most;
    int cut; /* there was more */
} weft_command_text;

typedef struct weft_command {
    pid_t pid;     /* 0: none; stays after the end */
    int running;   /* until it has ended and its output is read */
    int exit_code; /* once ended: 0 to 255; 128 + signal */
    int timed_out; /* killed because of timeout_ms */
    weft_command_text out, err;
    /* private */
    int fd[2], pidfd, reaped;
    uint64_t deadline_ns, reaped_ns;
} weft_command;

/* Starts argv (NULL-terminated; argv[0] is looked for in PATH). SERVICE if there is no such program, ACCESS, NOMEM, IO;
 * on an error nothing runs and nothing has to be closed. */
weft_status weft_command_start(weft_command *c, const char *const *argv, const weft_command_opts *o);
/* What poll(2) has to watch; returns how many. Without a pidfd (old kernels) poll at most 50 ms. */
int weft_command_fds(const weft_command *c, struct pollfd fds[WEFT_COMMAND_FDS]);
/* Milliseconds until weft_command_step has to be called even if no descriptor is ready; -1: no need. */
int weft_command_wait_ms(const weft_command *c);
/* Reads what is there, looks for the end, enforces the deadline. WEFT_IN_PROGRESS or WEFT_OK (it has ended, c->running is 0).
 * Never blocks. */
weft_status weft_command_step(weft_command *c);
/* A signal to the program alone, or to its whole group. Nothing if it has ended. */
void weft_command_kill(weft_command *c, int sig, int group);
/* Kills what still runs, reaps it, frees the text. A zeroed or closed command is no harm. */
void weft_command_close(weft_command *c);

/* Starts, waits and leaves the outcome in *c, to be closed in any case. OK whatever the exit code (look at exit_code);
 * TIMEOUT if it was killed for lateness, FORMAT if output was cut, else as weft_command_start. */
weft_status weft_command_run(weft_command *c, const char *const *argv, const weft_command_opts *o);
/* The same, and an exit code other than 0 is SERVICE: "NAME exited with 1: LAST LINE OF STDERR". */
weft_status weft_command_check(weft_command *c, const char *const *argv, const weft_command_opts *o);
/* The last line of what it wrote to stderr that is not empty, as messages show it (printable, cut). Returns buf. */
const char *weft_command_complaint(const weft_command *c, char *buf, size_t cap);

#endif
