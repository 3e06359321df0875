/* What weft launch shows: a table that stays in its place on a terminal, lines where something has changed elsewhere, JSON on
 * request. */
#ifndef WEFT_CLI_LAUNCH_VIEW_H
#define WEFT_CLI_LAUNCH_VIEW_H

#include "weft/launch.h"

enum { LAUNCH_VIEW_SITES = 16 };

typedef struct launch_view {
    double steps;              /* of the run; 0: not known */
    int json, terminal, lines; /* lines: of the table on the screen */
    double shown, told;        /* when */
    weft_launch_site last[LAUNCH_VIEW_SITES];
} launch_view;

void launch_view_open(launch_view *v, int json);
/* `final`: as a whole table, whatever has changed. */
void launch_view_show(launch_view *v, const weft_launch_site *s, size_t n, int final);
/* Ctrl-C: what goes on, and how to come back. */
void launch_view_goodbye(const launch_view *v, const char *run_file);
void launch_view_end(const launch_view *v, int code, const char *why);

#endif
