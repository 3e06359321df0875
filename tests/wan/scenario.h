/* A scenario: sites, what runs in them, and what happens to them, as lines of text (docs/wanem.md; wanem --help).
 *
 * All lines form one script that runs from top to bottom; `site` and `command` lines only declare. Errors name file and
 * line. */
#ifndef WEFT_TESTS_WAN_SCENARIO_H
#define WEFT_TESTS_WAN_SCENARIO_H

#include "tests/wan/net.h"
#include "tests/wan/pipe.h"

#define WAN_NAME     32
#define WAN_COMMANDS 32
#define WAN_CHANGES  16

/* Settings of a pipe, applied to what stands there. */
typedef struct wan_change {
    int n;
    struct {
        int key;
        double value; /* bit/s, ns, bytes, probability, 0 or 1 */
    } item[WAN_CHANGES];
} wan_change;

typedef struct wan_site {
    char name[WAN_NAME], congestion[WAN_NAME]; /* of TCP; "": the system's */
} wan_site;

typedef struct wan_command {
    char name[WAN_NAME];
    int site;
    char *log; /* relative to the run's directory */
    char *text;
} wan_command;

typedef enum wan_verb {
    WAN_AT,    /* seconds since the start */
    WAN_AFTER, /* seconds since the statement before */
    WAN_LINK,
    WAN_CAP, /* of a site: change of its egress, change2 of its ingress */
    WAN_FLOW,
    WAN_START,
    WAN_KILL,
    WAN_MARK,  /* waits look at what the log says from here on */
    WAN_WAIT,  /* for a text in a log */
    WAN_NEVER, /* the whole log is without the text */
    WAN_ALIVE, /* it still runs */
    WAN_EXIT,  /* the command ends with this code */
} wan_verb;

typedef struct wan_statement {
    wan_verb verb;
    int line;
    double seconds;             /* AT, AFTER; limit of WAIT and EXIT */
    int src, dst;               /* LINK, FLOW, CAP (src); -1: all */
    wan_change change, change2; /* LINK, FLOW, CAP */
    int port, nth;              /* FLOW */
    int command;                /* START to EXIT */
    int signal, rank;           /* KILL; rank -1: all of the command's processes */
    int code;                   /* EXIT */
    char *text;                 /* WAIT, NEVER */
} wan_statement;

typedef struct wan_scenario {
    int mtu;
    uint64_t seed;
    double limit_s; /* of the whole run */
    double late_ms; /* p99 lateness beyond which the run is invalid */
    int sites, commands;
    wan_site site[WAN_SITES];
    wan_command command[WAN_COMMANDS];
    wan_statement *statement;
    int statements, room;
    char *text; /* the file, cut into lines */
} wan_scenario;

/* Reads a scenario; `text` (zero-terminated, writable, from malloc) becomes the scenario's. CONFIG with file and line.
 * Free with wan_scenario_destroy, after an error, too. */
weft_status wan_scenario_parse(const char *name, char *text, wan_scenario *s);
void wan_scenario_destroy(wan_scenario *s);

void wan_change_apply(const wan_change *c, wan_shape *shape);

/* The grammar, for --help. */
extern const char wan_scenario_help[];

#endif
