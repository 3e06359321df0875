/* Runs one op with one set of inputs on every backend, instruction-set level and thread count, and compares.
 *
 * A case names the op's outputs, their initial contents and, for every element, how far another backend may
 * be from `ref`. What the runner checks for each run: status OK; nothing outside the outputs written; every
 * element within its tolerance (0, the default: the same bits; a NaN for a NaN); and for `cpu` the same bits
 * at every level, thread count and alignment. */
#ifndef WEFT_TESTS_KERNELS_CASE_H
#define WEFT_TESTS_KERNELS_CASE_H

#include "kernels/kernels.h"
#include "tests/support/kernels_buffer.h"

#define KT_U 0x1p-24 /* unit roundoff of f32: |fl(x) - x| <= KT_U |x| */

typedef struct kt_run {
    char label[48]; /* "cpu/avx512 x2" */
    int is_ref;
    int threads;
    int device;     /* its ops are asynchronous; an op's errors of the data come with the wait */
    uint32_t order; /* of the sums in bf16 products: runs of one order give the same bits */
    weft_backend *backend;
    const struct weft_ops *ops;
    weft_exec *exec;
    size_t scratch; /* of the exec */
} kt_run;

extern kt_run kt_runs[24];
extern int kt_nruns;

/* cmocka group setup and teardown: ref, and cpu at each level that this machine has with 1, 2 and 3 threads.
 * Prints what is missing. kt_runs[0] is ref. */
int kt_open(void **state);
int kt_close(void **state);
/* Gives the run an exec with at least `bytes` of scratch. */
weft_exec *kt_exec(kt_run *r, size_t bytes);
/* The call of an op was right: asserts its status, waits for the run's exec and asserts that too. */
void kt_ok(const kt_run *r, weft_status s);
/* Lets the device use an array of the test's own that begins and ends with a page (KT_SHARED) until kt_close. */
#define KT_SHARED __attribute__((aligned(4096)))
void kt_share(void *p, size_t bytes);
/* kt_exec with what op needs for desc; op < 0: none. */
weft_exec *kt_exec_for(kt_run *r, int op, const void *desc);

#define KT_OUTS 4

typedef struct kt_out {
    const char *name;
    weft_dtype t;
    size_t n;
    const void *init; /* initial contents; NULL: a pattern */
    double
        *tol; /* n tolerances on the f32 value, before rounding to bf16; NULL: all 0. Freed by the runner */
    double *
        tiles; /* n more for runs whose bf16 products have an order of their own; NULL: none. Freed likewise */
} kt_out;

typedef struct kt_case {
    const char *name;
    int op; /* weft_op_id for its scratch, or -1 */
    const void *desc;
    int nout;
    kt_out out[KT_OUTS];
    weft_status (*call)(const kt_run *r, const void *arg, void *const *out);
    /* More about one run's outputs; NULL: nothing. Asserts. */
    void (*check)(const kt_run *r, const void *arg, void *const *out);
    const void *arg;
    int may_tie;        /* exact results are often ties of bf16: which neighbour they round to says nothing */
    int nan_may_spread; /* a NaN of ref must be one everywhere; the converse is not asked */
} kt_case;

/* n zeros, to be filled with tolerances. */
double *kt_tolerances(size_t n);
/* Runs the case everywhere; frees the tolerances; fails the test with a message at the first difference. */
void kt_compare(const kt_case *c, kt_rng *r);
/* The same, but the message of the first difference is returned; NULL: none. Valid until the next call. */
const char *kt_difference(const kt_case *c, kt_rng *r);
/* Mallocs of this process so far; -1 where they cannot be counted (sanitizers). */
long kt_mallocs(void);

#endif
