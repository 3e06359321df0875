/* Slabs of one size that do not move: where encoded chunks lie. Each is counted: a table that holds it, a transfer that
 * reads it and one that fills it have each their hold, and with the last one it is free again.
 * Grows only by weft_slabs_reserve. One thread at a time. */
#ifndef WEFT_RUNTIME_SITES_SLABS_H
#define WEFT_RUNTIME_SITES_SLABS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct weft_slabs weft_slabs;

/* dir: they lie in files there, which have no name and take their room at once, and the system keeps in memory what is in
 * use; NULL: in memory. ARG, NOMEM. */
weft_status weft_slabs_create(size_t bytes, const char *dir, weft_slabs **s);
void weft_slabs_destroy(weft_slabs *s);
/* Sees to it that there are `count` slabs in all. NOMEM; with a directory SPACE, ACCESS, IO. */
weft_status weft_slabs_reserve(weft_slabs *s, size_t count);
/* A slab with one hold, 64-byte aligned, its bytes unspecified; NULL if all are held. */
void *weft_slabs_take(weft_slabs *s);
void weft_slabs_hold(weft_slabs *s, const void *slab);
void weft_slabs_drop(weft_slabs *s, const void *slab);
/* Is the address a slab that is held? */
int weft_slabs_is_held(const weft_slabs *s, const void *slab);
size_t weft_slabs_count(const weft_slabs *s); /* in all */
size_t weft_slabs_held(const weft_slabs *s);
size_t weft_slabs_bytes(const weft_slabs *s); /* of all */

#endif
