/* The hub's status as text for a terminal. */
#ifndef WEFT_SITES_HUB_REPORT_H
#define WEFT_SITES_HUB_REPORT_H

#include <jansson.h>
#include <stdio.h>

/* Of what hub_status.c made. Missing parts are left out. */
void hub_report_print(FILE *f, const json_t *status);

#endif
