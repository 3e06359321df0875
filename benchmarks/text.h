/* The text that benchmarks of tokens use. */
#ifndef WEFT_BENCHMARKS_TEXT_H
#define WEFT_BENCHMARKS_TEXT_H

#include <stddef.h>

/* The text of path; NULL: the King James text of the program `bible`, or a made-up one where that is missing. *name says
 * which. Free with free(). Ends the program on errors. */
char *bench_text(const char *path, size_t *n, const char **name);

#endif
