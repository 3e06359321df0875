/* What the parts of `weft doctor` share: a finding, and how it is filled. */
#ifndef WEFT_RUNTIME_CLI_DOCTOR_H
#define WEFT_RUNTIME_CLI_DOCTOR_H

#include <stddef.h>

typedef enum verdict { GOOD, NOTE, BAD } verdict;

typedef struct finding {
    const char *subject; /* a literal */
    verdict v;
    char found[256], mend[256]; /* mend: "" if there is nothing to do */
} finding;

/* What can be said of Slurm from here, a login node or inside a job: at most cap findings; returns how many. Slurm's
 * commands are asked, each with a deadline; none is run where there is no Slurm. */
size_t doctor_slurm(finding *f, size_t cap);

#endif
