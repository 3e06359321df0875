/* weft top: a run as it goes on, in the terminal. */
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/cli/cli.h"
#include "runtime/cli/top.h"

enum { OPT_JSON = 1000, OPT_ONCE };

typedef struct arguments {
    const char *where;
    double interval;
    int once, json;
} arguments;

static const struct argp_option options[] = {
    {"interval", 'i', "S", 0, "seconds between looks (default 1)", 0},
    {"once", OPT_ONCE, 0, 0, "print the view once and end", 0},
    {"json", OPT_JSON, 0, 0, "print one JSON object and end", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'i': a->interval = cli_float(state, "--interval", arg, 0.1, 3600); return 0;
    case OPT_ONCE: a->once = 1; return 0;
    case OPT_JSON: a->json = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->where) argp_error(state, "one run, please: '%s' is a second one", arg);
        a->where = arg;
        return 0;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which run directory, or which http://HOST:PORT?"); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "RUN|URL",
    "Shows a run as it goes on: step, loss, speed, the parts of a step, checkpoints and the lanes of the "
    "engine; from "
    "its directory, or from its endpoint (log.metrics_port). q or Ctrl-C ends it.\v"
    "Examples:\n  weft top runs/kjv\n  weft top http://127.0.0.1:9464\n  weft top runs/kjv --json",
    0,
    0,
    0};

/* ---- the terminal ---- */

typedef struct terminal {
    struct termios before;
    int changed; /* the keyboard: keys come at once and are not echoed */
} terminal;

static void enter(terminal *t) {
    t->changed = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &t->before) == 0;
    if (t->changed) {
        struct termios raw = t->before;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    fputs("\x1b[?1049h\x1b[?25l", stdout); /* the other screen, no cursor */
}

static void leave(const terminal *t) {
    fputs("\x1b[?25h\x1b[?1049l", stdout);
    fflush(stdout);
    if (t->changed) tcsetattr(STDIN_FILENO, TCSANOW, &t->before);
}

static void size_of(int *columns, int *rows) {
    struct winsize w;
    const int known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col && w.ws_row;
    *columns = known ? w.ws_col : 80;
    *rows = known ? w.ws_row : 24;
}

static void draw(const top_run *r, int utf8) {
    static top_screen s;
    int columns, rows;
    size_of(&columns, &rows);
    top_render(r, columns, rows, utf8, weft_wall(), &s);
    fputs("\x1b[H", stdout);
    for (int i = 0; i < s.n; i++) printf("%s\x1b[K%s", s.line[i], i + 1 < rows ? "\r\n" : "");
    if (s.n < rows) fputs("\x1b[J", stdout);
    fflush(stdout);
}

/* Waits for the next look; 1: q was pressed. A resized window interrupts it. */
static int wait_for_key(double seconds, int keys) {
    struct pollfd p = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
    char key;
    if (poll(&p, 1, (int)(seconds * 1000)) <= 0 || !(p.revents & (POLLIN | POLLHUP))) return 0;
    const ssize_t n = read(STDIN_FILENO, &key, 1);
    return n <= 0 || key == 'q' || key == 'Q';
}

static weft_status watch(top_source *source, top_run *r, double interval, int utf8) {
    const volatile sig_atomic_t *stop = cli_catch_signals();
    terminal t;
    weft_status s = WEFT_OK;
    enter(&t);
    while (!*stop) {
        draw(r, utf8);
        if (wait_for_key(interval, t.changed) || *stop) break;
        s = top_source_read(source, r);
        if (s < 0) break;
    }
    leave(&t);
    return s;
}

static void print_once(const top_run *r, int utf8) {
    static top_screen s;
    int columns, rows;
    size_of(&columns, &rows);
    top_render(r, columns, TOP_ROWS_MAX, utf8, weft_wall(), &s);
    for (int i = 0; i < s.n; i++) puts(s.line[i]);
}

int cli_top(int argc, char **argv) {
    arguments a = {.interval = 1};
    top_source *source = NULL;
    top_run r;
    int rc = 0;
    cli_parse(&argp, argc, argv, &a);
    setlocale(LC_CTYPE, "");
    const int utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    top_run_init(&r);
    weft_status s = top_source_open(a.where, &source);
    if (s >= 0) s = top_source_read(source, &r);
    if (s >= 0 && a.json)
        rc = cli_json_print(top_json(&r, weft_wall()));
    else if (s >= 0 && (a.once || !isatty(STDOUT_FILENO)))
        print_once(&r, utf8);
    else if (s >= 0)
        s = watch(source, &r, a.interval, utf8);
    top_source_close(source);
    top_run_free(&r);
    return s < 0 ? cli_fail(s) : rc;
}
