/* The status page: one HTML page without anything from elsewhere, the JSON that it draws, and the same as OpenMetrics.
 * libmicrohttpd on a thread of its own, which serves copies of what was published last: it cannot disturb the hub.
 *
 *   /             the page: map of the sites, rounds, losses, events; asks /status.json every second
 *   /status.json  what was published
 *   /metrics      OpenMetrics text
 *   /healthz      {"ok": true} while what was published is younger than 10 s, else 503 */
#ifndef WEFT_SITES_PAGE_H
#define WEFT_SITES_PAGE_H

#include <stddef.h>

#include "base/status.h"

typedef struct weft_page weft_page;

/* Listens on "HOST:PORT" (numeric; port 0: any). CONFIG: the address is none or taken. UNSUPPORTED: built without
 * libmicrohttpd. */
weft_status weft_page_open(const char *where, weft_page **p);
int weft_page_port(const weft_page *p);
/* Takes both texts (fresh, to be freed with free()), which are what is answered from now on. */
void weft_page_publish(weft_page *p, char *json, char *metrics);
void weft_page_close(weft_page *p);

#endif
