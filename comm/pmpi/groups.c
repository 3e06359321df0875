/* Which communicator has which group. The table of groups is by membership, so a loop of MPI_Comm_dup and MPI_Comm_free
 * makes one group, not many, and lookups after a dup need no message: a group is made by all its members together, so
 * all of them have it or none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/pmpi/shim.h"

#define GROUPS     200                /* weft has 256 for a process; some are the program's own */
#define TIMEOUT_MS ((int64_t)1 << 40) /* MPI waits for ever */

shim_counts shim_count;

static weft_ctx *ctx;
static int keyval = MPI_KEYVAL_INVALID;

static struct {
    MPI_Group ranks;
    weft_group *group;
} table[GROUPS];
static int groups;

/* The last answer: a loop reduces over one communicator again and again. */
static MPI_Comm last_comm = MPI_COMM_NULL;
static weft_group *last_group;

static int forget(MPI_Comm comm, int key, void *value, void *extra) {
    (void)key, (void)value, (void)extra;
    if (comm == last_comm) last_comm = MPI_COMM_NULL;
    return MPI_SUCCESS;
}

weft_group *shim_group(MPI_Comm comm) {
    if (!ctx) return NULL;
    if (comm == last_comm) return last_group;
    weft_group *g = NULL;
    int found = 0;
    if (comm == MPI_COMM_NULL || PMPI_Comm_get_attr(comm, keyval, &g, &found) != MPI_SUCCESS) return NULL;
    last_comm = comm;
    last_group = found ? g : NULL;
    return last_group;
}

static weft_group *group_of(MPI_Comm comm) {
    MPI_Group ranks;
    int same;
    PMPI_Comm_group(comm, &ranks);
    for (int i = 0; i < groups; i++) {
        PMPI_Group_compare(ranks, table[i].ranks, &same);
        if (same != MPI_IDENT) continue;
        PMPI_Group_free(&ranks);
        return table[i].group;
    }
    weft_group *g = NULL;
    /* A process in many communicators has a full table before others have: all must know, or they would wait for it. */
    int room = groups < GROUPS, all;
    PMPI_Allreduce(&room, &all, 1, MPI_INT, MPI_MIN, comm);
    if (!all || weft_group_create(ctx, comm, "MPI communicator", &g) < 0) {
        PMPI_Group_free(&ranks);
        return NULL;
    }
    table[groups].ranks = ranks;
    table[groups++].group = g;
    return g;
}

void shim_attach(MPI_Comm comm) {
    int inter, size;
    if (!ctx || comm == MPI_COMM_NULL) return;
    PMPI_Comm_test_inter(comm, &inter);
    if (inter) return;
    PMPI_Comm_size(comm, &size);
    weft_group *g = size > 1 ? group_of(comm) : NULL;
    if (g) PMPI_Comm_set_attr(comm, keyval, g);
    last_comm = MPI_COMM_NULL;
}

void shim_begin(int level) {
    const char *wanted = getenv("WEFT_PMPI");
    /* Several threads may call MPI at once: which of them would weft follow? */
    if ((wanted && strcmp(wanted, "off") == 0) || level != MPI_THREAD_FUNNELED) return;
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = TIMEOUT_MS, .stall_ms = -1};
    weft_ctx *c = NULL;
    if (weft_init(MPI_COMM_WORLD, &o, &c) < 0) {
        fprintf(stderr, "weft_pmpi: not in use: %s\n", weft_last_error());
        return;
    }
    PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, forget, &keyval, NULL);
    ctx = c;
    shim_attach(MPI_COMM_WORLD);
}

static void report(void) {
    const char *wanted = getenv("WEFT_PMPI_STATS");
    if (!wanted || strcmp(wanted, "1") != 0) return;
    static const char *const name[SHIM_CALLS] = {"allreduce_c", "allreduce_fortran", "barrier", "polled"};
    unsigned long sum[2 * SHIM_CALLS];
    int rank;
    PMPI_Reduce(&shim_count, sum, 2 * SHIM_CALLS, MPI_UNSIGNED_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    PMPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank) return;
    fprintf(stderr, "weft_pmpi: all ranks:");
    for (int i = 0; i < SHIM_CALLS; i++)
        fprintf(stderr, " %s %lu of %lu", name[i], sum[SHIM_CALLS + i], sum[i]);
    fprintf(stderr, " by weft\n");
}

void shim_end(void) {
    report();
    if (!ctx) return;
    weft_ctx *c = ctx;
    ctx = NULL;
    last_comm = MPI_COMM_NULL;
    for (int i = 0; i < groups; i++) PMPI_Group_free(&table[i].ranks);
    PMPI_Comm_free_keyval(&keyval);
    weft_finalize(&c, -1);
}
