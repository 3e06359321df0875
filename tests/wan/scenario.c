/* The scenario's parser; see scenario.h. A line is cut into words at blanks; a text in double quotes is one word, and what
 * follows `: ` in a command line is the shell's. */
#include "tests/wan/scenario.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define WORDS        24
#define LIMIT_S      600.0
#define WAIT_S       60.0
#define LATE_MS      1.0
#define MTU          1500
#define LEAST_MTU    576
#define MOST_MTU     65535
#define MOST_SECONDS 1e6

const char wan_scenario_help[] =
    "  mtu BYTES | seed N | limit SECONDS | late MS      1500, 1, 600, 1 (p99 of lateness that makes a run "
    "invalid)\n"
    "  site NAME [congestion=cubic]                      address 10.77.<1, 2, ...>.1; commands see it as "
    "$WAN_NAME\n"
    "  site NAME egress RATE|off ingress RATE|off        a cap that all links of the site share\n"
    "  link A>B SETTING...                               A<>B: both directions; *: every site\n"
    "  flow A>B [port=N] [nth=N] SETTING...              one connection (the nth to begin), or all to or "
    "from a port\n"
    "  run NAME in SITE [log=FILE]: SHELL COMMAND        declares and starts; `command` only declares\n"
    "  start NAME | kill [-SIGNAL] NAME [rank=N]         KILL, STOP and CONT reach all its processes, or one "
    "MPI rank\n"
    "  wait NAME \"TEXT\" [SECONDS]                        until its log says so (60 s), from the last wait "
    "or mark on\n"
    "  mark NAME | never NAME \"TEXT\" | alive NAME       from here on | not once in the whole log | it "
    "still runs\n"
    "  exit NAME [CODE] [SECONDS]                        it ends with this code (0) within that time (60 s)\n"
    "  t=SECONDS | +SECONDS                              waits; the rest of the line may be a statement\n"
    "Settings: rate=500M queue=2M delay=25ms jitter=1ms reorder=yes loss=0.1% burst=ENTER/LEAVE/LOSS "
    "duplicate=1%\n"
    "  corrupt=1% (a checksum finds it) forge=1% (none does) blackhole up; 0 or off takes one back.\n"
    "The script runs from top to bottom and the run ends with it.\n";

enum {
    RATE,
    QUEUE,
    DELAY,
    JITTER,
    REORDER,
    LOSS,
    BURST_ENTER,
    BURST_LEAVE,
    BURST_LOSS,
    DUPLICATE,
    CORRUPT,
    FORGE,
    BLACKHOLE
};

enum { UNIT_RATE, UNIT_BYTES, UNIT_TIME, UNIT_SHARE, UNIT_FLAG };

static const struct {
    const char *name;
    int key, unit;
} settings[] = {
    {"rate", RATE, UNIT_RATE},
    {"queue", QUEUE, UNIT_BYTES},
    {"delay", DELAY, UNIT_TIME},
    {"jitter", JITTER, UNIT_TIME},
    {"reorder", REORDER, UNIT_FLAG},
    {"loss", LOSS, UNIT_SHARE},
    {"duplicate", DUPLICATE, UNIT_SHARE},
    {"corrupt", CORRUPT, UNIT_SHARE},
    {"forge", FORGE, UNIT_SHARE},
};

void wan_change_apply(const wan_change *c, wan_shape *s) {
    for (int i = 0; i < c->n; i++) {
        const double v = c->item[i].value;
        switch (c->item[i].key) {
        case RATE: s->rate = v; break;
        case QUEUE: s->queue = (uint64_t)v; break;
        case DELAY: s->delay_ns = (uint64_t)v; break;
        case JITTER: s->jitter_ns = (uint64_t)v; break;
        case REORDER: s->reorder = v > 0; break;
        case LOSS: s->loss = v; break;
        case BURST_ENTER: s->burst_enter = v; break;
        case BURST_LEAVE: s->burst_leave = v; break;
        case BURST_LOSS: s->burst_loss = v; break;
        case DUPLICATE: s->duplicate = v; break;
        case CORRUPT: s->corrupt = v; break;
        case FORGE: s->forge = v; break;
        default: s->blackhole = v > 0; break;
        }
    }
}

typedef struct line {
    wan_scenario *s;
    const char *name;
    int number, words, next;
    char *word[WORDS];
    char *rest; /* behind ": " */
} line;

static weft_status wrong(const line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static weft_status wrong(const line *l, const char *fmt, ...) {
    char text[512];
    va_list a;
    va_start(a, fmt);
    vsnprintf(text, sizeof text, fmt, a);
    va_end(a);
    return weft_fail(WEFT_ERR_CONFIG, "%s:%d: %s", l->name, l->number, text);
}

/* --- words and numbers --- */

static weft_status cut(line *l, char *p) {
    l->words = l->next = 0;
    l->rest = NULL;
    while (*p) {
        while (isspace((unsigned char)*p)) p++;
        if (!*p || *p == '#') break;
        if (l->words == WORDS) return wrong(l, "more than %d words", WORDS);
        const int quoted = *p == '"';
        l->word[l->words++] = p += quoted;
        while (*p && (quoted ? *p != '"' : !isspace((unsigned char)*p))) p++;
        if (quoted && !*p) return wrong(l, "a quote without its end");
        const int ends = !quoted && p[-1] == ':';
        if (ends) p[-1] = 0;
        if (*p) *p++ = 0;
        if (ends) {
            l->rest = p;
            break;
        }
    }
    return WEFT_OK;
}

static const char *next(line *l) {
    return l->next < l->words ? l->word[l->next++] : NULL;
}

/* A number and its unit; 1 if the whole word is one. */
static int number(const char *w, const char **unit, double *v) {
    char *end = NULL;
    errno = 0;
    *v = strtod(w, &end);
    *unit = end;
    return end != w && errno == 0 && isfinite(*v) && *v >= 0;
}

static int scale(const char *unit, int what, double *v) {
    static const struct {
        const char *unit;
        int what;
        double factor;
    } known[] = {{"k", UNIT_RATE, 1e3}, {"M", UNIT_RATE, 1e6},  {"G", UNIT_RATE, 1e9},
                 {"", UNIT_RATE, 1},    {"k", UNIT_BYTES, 1e3}, {"M", UNIT_BYTES, 1e6},
                 {"", UNIT_BYTES, 1},   {"us", UNIT_TIME, 1e3}, {"ms", UNIT_TIME, 1e6},
                 {"s", UNIT_TIME, 1e9}, {"%", UNIT_SHARE, .01}, {"", UNIT_SHARE, 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].what != what || strcmp(known[i].unit, unit) != 0) continue;
        *v *= known[i].factor;
        return what != UNIT_SHARE || *v <= 1;
    }
    return what == UNIT_TIME && !*unit && !(*v > 0); /* 0 needs no unit */
}

static weft_status value_of(const line *l, const char *w, int unit, double *v) {
    static const char *const expected[] = {"a rate in bit/s such as 500M", "bytes such as 2M",
                                           "a time such as 25ms", "a probability such as 0.1% or 0.001",
                                           "yes or no"};
    const char *rest = NULL;
    *v = 0;
    if (strcmp(w, "off") == 0 || strcmp(w, "no") == 0) return WEFT_OK;
    if (unit == UNIT_FLAG && strcmp(w, "yes") == 0)
        *v = 1;
    else if (unit == UNIT_FLAG || !number(w, &rest, v) || !scale(rest, unit, v))
        return wrong(l, "\"%s\", expected %s", w, expected[unit]);
    return WEFT_OK;
}

static weft_status whole(const line *l, const char *w, long least, long most, int *v) {
    char *end = NULL;
    const long x = w ? strtol(w, &end, 10) : 0;
    if (!w || end == w || *end || x < least || x > most)
        return wrong(l, "\"%s\", expected a whole number from %ld to %ld", w ? w : "", least, most);
    *v = (int)x;
    return WEFT_OK;
}

static weft_status seconds(const line *l, const char *w, double *v) {
    const char *unit = NULL;
    if (!number(w, &unit, v) || (*unit && strcmp(unit, "s") != 0) || *v > MOST_SECONDS)
        return wrong(l, "\"%s\", expected seconds", w);
    return WEFT_OK;
}

static weft_status name_of(const line *l, const char *w, char out[WAN_NAME]) {
    const size_t n = w ? strlen(w) : 0;
    int good = n > 0 && n < WAN_NAME;
    for (size_t i = 0; i < n && good; i++) good = isalnum((unsigned char)w[i]) || w[i] == '_';
    if (!good)
        return wrong(l, "\"%s\", expected a name of up to %d letters, digits and _", w ? w : "",
                     WAN_NAME - 1);
    memcpy(out, w, n + 1);
    return WEFT_OK;
}

static int find_site(const wan_scenario *s, const char *w, size_t n) {
    for (int i = 0; i < s->sites; i++)
        if (strlen(s->site[i].name) == n && memcmp(s->site[i].name, w, n) == 0) return i;
    return -1;
}

static weft_status site_of(const line *l, const char *w, size_t n, int or_all, int *site) {
    *site = -1;
    if (or_all && n == 1 && *w == '*') return WEFT_OK;
    *site = find_site(l->s, w, n);
    return *site >= 0 ? WEFT_OK : wrong(l, "no site \"%.*s\"; sites are declared above their use", (int)n, w);
}

static weft_status command_of(line *l, int *command) {
    const char *w = next(l);
    for (*command = 0; *command < l->s->commands; ++*command)
        if (w && strcmp(l->s->command[*command].name, w) == 0) return WEFT_OK;
    return wrong(l, "no command \"%s\"; commands are declared above their use", w ? w : "");
}

/* --- settings --- */

static weft_status set(const line *l, wan_change *c, int key, double value) {
    if (c->n == WAN_CHANGES) return wrong(l, "more than %d settings", WAN_CHANGES);
    c->item[c->n].key = key;
    c->item[c->n++].value = value;
    return WEFT_OK;
}

static weft_status burst(const line *l, char *w, wan_change *c) {
    const int key[] = {BURST_ENTER, BURST_LEAVE, BURST_LOSS};
    double v = 0;
    if (strcmp(w, "off") == 0) return set(l, c, BURST_ENTER, 0);
    char *save = NULL, *part = strtok_r(w, "/", &save);
    for (int i = 0; i < 3; i++, part = strtok_r(NULL, "/", &save)) {
        if (!part) return wrong(l, "burst=ENTER/LEAVE/LOSS wants three probabilities");
        WEFT_TRY(value_of(l, part, UNIT_SHARE, &v));
        WEFT_TRY(set(l, c, key[i], v));
    }
    return WEFT_OK;
}

static weft_status setting(const line *l, char *w, wan_change *c) {
    char *is = strchr(w, '=');
    double v = 0;
    if (strcmp(w, "blackhole") == 0) return set(l, c, BLACKHOLE, 1);
    if (strcmp(w, "up") == 0) return set(l, c, BLACKHOLE, 0);
    if (strncmp(w, "burst=", 6) == 0) return burst(l, is + 1, c);
    for (size_t i = 0; is && i < sizeof settings / sizeof *settings; i++) {
        const size_t n = strlen(settings[i].name);
        if (n != (size_t)(is - w) || memcmp(w, settings[i].name, n) != 0) continue;
        WEFT_TRY(value_of(l, is + 1, settings[i].unit, &v));
        return set(l, c, settings[i].key, v);
    }
    return wrong(l,
                 "unknown setting \"%s\" (rate queue delay jitter reorder loss burst duplicate corrupt forge "
                 "blackhole up)",
                 w);
}

/* --- statements --- */

static weft_status add(const line *l, wan_verb verb, wan_statement **out) {
    wan_scenario *s = l->s;
    if (s->statements == s->room) {
        const int room = s->room ? 2 * s->room : 64;
        wan_statement *p = weft_reallocarray(s->statement, (size_t)room, sizeof *p);
        if (!p) return WEFT_ERR_NOMEM;
        s->statement = p;
        s->room = room;
    }
    *out = &s->statement[s->statements++];
    memset(*out, 0, sizeof **out);
    (*out)->verb = verb;
    (*out)->line = l->number;
    (*out)->seconds = WAIT_S;
    (*out)->rank = (*out)->src = (*out)->dst = -1;
    return WEFT_OK;
}

static weft_status parse_site(line *l) {
    wan_scenario *s = l->s;
    char name[WAN_NAME] = "";
    const char *w;
    WEFT_TRY(name_of(l, next(l), name));
    int site = find_site(s, name, strlen(name));
    if (site < 0) {
        if (s->sites == WAN_SITES) return wrong(l, "more than %d sites", WAN_SITES);
        memcpy(s->site[site = s->sites++].name, name, sizeof name);
    }
    while ((w = next(l))) {
        const int ingress = strcmp(w, "ingress") == 0;
        wan_statement *t = NULL;
        double rate = 0;
        if (strncmp(w, "congestion=", 11) == 0) {
            WEFT_TRY(name_of(l, w + 11, s->site[site].congestion));
            continue;
        }
        if (!ingress && strcmp(w, "egress") != 0)
            return wrong(l, "\"%s\", expected congestion=, egress or ingress", w);
        if (!(w = next(l))) return wrong(l, "a cap without its rate");
        WEFT_TRY(value_of(l, w, UNIT_RATE, &rate));
        WEFT_TRY(add(l, WAN_CAP, &t));
        t->src = site;
        WEFT_TRY(set(l, ingress ? &t->change2 : &t->change, RATE, rate));
    }
    return WEFT_OK;
}

static weft_status parse_link(line *l, wan_verb verb) {
    const char *w = next(l), *arrow = w ? strchr(w, '>') : NULL;
    wan_statement *t = NULL;
    if (!arrow) return wrong(l, "\"%s\", expected A>B or A<>B", w ? w : "");
    const int both = arrow > w && arrow[-1] == '<';
    if (both && verb == WAN_FLOW) return wrong(l, "a flow has one direction: A>B");
    WEFT_TRY(add(l, verb, &t));
    WEFT_TRY(site_of(l, w, (size_t)(arrow - w - both), verb == WAN_LINK, &t->src));
    WEFT_TRY(site_of(l, arrow + 1, strlen(arrow + 1), verb == WAN_LINK, &t->dst));
    for (w = next(l); w; w = next(l)) {
        if (verb == WAN_FLOW && strncmp(w, "port=", 5) == 0)
            WEFT_TRY(whole(l, w + 5, 1, 65535, &t->port));
        else if (verb == WAN_FLOW && strncmp(w, "nth=", 4) == 0)
            WEFT_TRY(whole(l, w + 4, 1, 1 << 20, &t->nth));
        else
            WEFT_TRY(setting(l, l->word[l->next - 1], &t->change));
    }
    if (!both) return WEFT_OK;
    const int forth = l->s->statements - 1;
    WEFT_TRY(add(l, verb, &t));
    *t = l->s->statement[forth];
    t->src = l->s->statement[forth].dst;
    t->dst = l->s->statement[forth].src;
    return WEFT_OK;
}

static weft_status parse_command(line *l, int start) {
    wan_scenario *s = l->s;
    if (s->commands == WAN_COMMANDS) return wrong(l, "more than %d commands", WAN_COMMANDS);
    wan_command *c = &s->command[s->commands];
    const char *w;
    char log[WAN_NAME + 8] = "";
    WEFT_TRY(name_of(l, next(l), c->name));
    for (int i = 0; i < s->commands; i++)
        if (strcmp(s->command[i].name, c->name) == 0)
            return wrong(l, "command \"%s\" stands here twice", c->name);
    w = next(l);
    if (!w || strcmp(w, "in") != 0 || !(w = next(l))) return wrong(l, "expected: run NAME in SITE: COMMAND");
    WEFT_TRY(site_of(l, w, strlen(w), 0, &c->site));
    snprintf(log, sizeof log, "%s.log", c->name);
    w = next(l);
    if (w && strncmp(w, "log=", 4) != 0) return wrong(l, "\"%s\", expected log=FILE or a colon", w);
    if (!l->rest) return wrong(l, "expected a colon and the shell's command");
    s->commands++;
    c->log = weft_strdup(w ? w + 4 : log);
    c->text = l->rest;
    if (!c->log) return WEFT_ERR_NOMEM;
    wan_statement *t = NULL;
    if (!start) return WEFT_OK;
    WEFT_TRY(add(l, WAN_START, &t));
    t->command = s->commands - 1;
    return WEFT_OK;
}

static weft_status signal_of(const line *l, const char *w, int *signal) {
    static const struct {
        const char *name;
        int signal;
    } known[] = {{"KILL", SIGKILL}, {"TERM", SIGTERM}, {"INT", SIGINT}, {"STOP", SIGSTOP}, {"CONT", SIGCONT}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(w, known[i].name) != 0) continue;
        *signal = known[i].signal;
        return WEFT_OK;
    }
    return whole(l, w, 1, SIGRTMAX, signal);
}

static weft_status parse_kill(line *l) {
    wan_statement *t = NULL;
    WEFT_TRY(add(l, WAN_KILL, &t));
    t->signal = SIGTERM;
    if (l->next < l->words && l->word[l->next][0] == '-') WEFT_TRY(signal_of(l, next(l) + 1, &t->signal));
    WEFT_TRY(command_of(l, &t->command));
    const char *w = next(l);
    if (!w) return WEFT_OK;
    if (strncmp(w, "rank=", 5) != 0) return wrong(l, "\"%s\", expected rank=N", w);
    return whole(l, w + 5, 0, 1 << 20, &t->rank);
}

static weft_status parse_on_log(line *l, wan_verb verb) {
    wan_statement *t = NULL;
    WEFT_TRY(add(l, verb, &t));
    WEFT_TRY(command_of(l, &t->command));
    if (verb == WAN_WAIT || verb == WAN_NEVER) {
        t->text = l->next < l->words ? l->word[l->next++] : NULL;
        if (!t->text || !*t->text) return wrong(l, "expected a text in quotes");
    }
    const char *w = next(l);
    if (w && verb == WAN_EXIT) {
        WEFT_TRY(whole(l, w, 0, 255, &t->code));
        w = next(l);
    }
    if (w && (verb == WAN_EXIT || verb == WAN_WAIT)) {
        WEFT_TRY(seconds(l, w, &t->seconds));
        w = next(l);
    }
    return w ? wrong(l, "\"%s\" is one word too many", w) : WEFT_OK;
}

static weft_status parse_number(line *l, const char *what, int *done) {
    wan_scenario *s = l->s;
    const char *unit = NULL, *w = l->next < l->words ? l->word[l->next] : "";
    int seed = 0;
    *done = 1;
    l->next++;
    if (strcmp(what, "mtu") == 0) return whole(l, w, LEAST_MTU, MOST_MTU, &s->mtu);
    if (strcmp(what, "limit") == 0) return seconds(l, w, &s->limit_s);
    if (strcmp(what, "seed") == 0) {
        WEFT_TRY(whole(l, w, 0, 0x7FFFFFFF, &seed));
        s->seed = (uint64_t)seed;
        return WEFT_OK;
    }
    if (strcmp(what, "late") == 0) {
        if (!number(w, &unit, &s->late_ms) || (*unit && strcmp(unit, "ms") != 0))
            return wrong(l, "\"%s\", expected milliseconds", w);
        return WEFT_OK;
    }
    l->next--;
    *done = 0;
    return WEFT_OK;
}

static weft_status parse_statement(line *l) {
    const char *w = next(l);
    wan_statement *t = NULL;
    int done = 0;
    if (!w) return WEFT_OK;
    if (*w == '+' || strncmp(w, "t=", 2) == 0) {
        WEFT_TRY(add(l, *w == '+' ? WAN_AFTER : WAN_AT, &t));
        WEFT_TRY(seconds(l, w + (*w == '+' ? 1 : 2), &t->seconds));
        return parse_statement(l);
    }
    WEFT_TRY(parse_number(l, w, &done));
    if (done) return WEFT_OK;
    if (strcmp(w, "site") == 0) return parse_site(l);
    if (strcmp(w, "link") == 0) return parse_link(l, WAN_LINK);
    if (strcmp(w, "flow") == 0) return parse_link(l, WAN_FLOW);
    if (strcmp(w, "run") == 0) return parse_command(l, 1);
    if (strcmp(w, "command") == 0) return parse_command(l, 0);
    if (strcmp(w, "kill") == 0) return parse_kill(l);
    if (strcmp(w, "start") == 0) return parse_on_log(l, WAN_START);
    if (strcmp(w, "mark") == 0) return parse_on_log(l, WAN_MARK);
    if (strcmp(w, "wait") == 0) return parse_on_log(l, WAN_WAIT);
    if (strcmp(w, "never") == 0) return parse_on_log(l, WAN_NEVER);
    if (strcmp(w, "alive") == 0) return parse_on_log(l, WAN_ALIVE);
    if (strcmp(w, "exit") == 0) return parse_on_log(l, WAN_EXIT);
    return wrong(l,
                 "unknown statement \"%s\" (mtu seed limit late site link flow run command start kill wait "
                 "mark never exit t= +)",
                 w);
}

weft_status wan_scenario_parse(const char *name, char *text, wan_scenario *s) {
    memset(s, 0, sizeof *s);
    *s = (wan_scenario){.mtu = MTU, .seed = 1, .limit_s = LIMIT_S, .late_ms = LATE_MS, .text = text};
    line l = {.s = s, .name = name};
    for (char *p = text, *end; *p; p = end) {
        end = strchrnul(p, '\n');
        if (*end) *end++ = 0;
        l.number++;
        WEFT_TRY(cut(&l, p));
        WEFT_TRY(parse_statement(&l));
    }
    return s->sites ? WEFT_OK : weft_fail(WEFT_ERR_CONFIG, "%s: no site", name);
}

void wan_scenario_destroy(wan_scenario *s) {
    for (int i = 0; i < s->commands; i++) free(s->command[i].log);
    free(s->statement);
    free(s->text);
    memset(s, 0, sizeof *s);
}
