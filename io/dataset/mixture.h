/* The sources of a run as a run file writes them: "NAME=WEIGHT:SHARD,SHARD,...". */
#ifndef WEFT_IO_DATASET_MIXTURE_H
#define WEFT_IO_DATASET_MIXTURE_H

#include "io/dataset/dataset.h"

#define WEFT_SOURCE_NAME 64 /* longest name, with its end */

typedef struct weft_mixture {
    size_t n;
    weft_source_spec *spec; /* with all it points to owned by the mixture */
} weft_mixture;

/* Reads n sources. NAME: letters, digits and ._-/; WEIGHT: a number above 0, in any unit; shards as they stand. CONFIG
 * says which source is wrong and how. On an error *m is empty. */
weft_status weft_mixture_parse(const char *const *text, size_t n, weft_mixture *m);
/* One source `name` of these shards. */
weft_status weft_mixture_single(const char *name, const char *const *shards, size_t n, weft_mixture *m);
/* The sources that are not named after `site` (weft_source_at) are elsewhere: they lose their shards. CONFIG: none is
 * here. */
weft_status weft_mixture_at(weft_mixture *m, const char *site);
/* Replaces shell patterns (* ? [) in the shards by the files they stand for, in the order of
 * their bytes. A file of just that name is no pattern. NOTFOUND: a pattern without files. */
weft_status weft_mixture_expand(weft_mixture *m);
void weft_mixture_free(weft_mixture *m);

#endif
