/* A program with a context of its own, beside the shim's: while its bulk is under way it blocks in MPI, in calls that the
 * other rank makes only after its bulk is over. With the shim these calls make progress of the bulk; without it the
 * ranks wait for each other until weft's timeout (the argument, ms). Exit 1 on a wrong answer, 2 on an error of weft. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weft/comm.h>

#define N      300000
#define ROUNDS 5

static float x[N];
static int rank, ranks, wrong;

static void check(weft_status s) {
    if (s >= 0) return;
    fprintf(stderr, "rank %d: %s\n", rank, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 2);
}

static void block(int how) {
    const int before = (rank + ranks - 1) % ranks;
    double got = -1;
    MPI_Request r;
    if (how == 0) MPI_Recv(&got, 1, MPI_DOUBLE, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (how > 0) MPI_Irecv(&got, 1, MPI_DOUBLE, before, 0, MPI_COMM_WORLD, &r);
    if (how == 1) MPI_Wait(&r, MPI_STATUS_IGNORE);
    if (how == 2) MPI_Waitall(1, &r, MPI_STATUSES_IGNORE);
    int index, n;
    if (how == 3) MPI_Waitany(1, &r, &index, MPI_STATUS_IGNORE);
    if (how == 4) MPI_Waitsome(1, &r, &n, &index, MPI_STATUSES_IGNORE);
    if (got != before) wrong++;
}

/* Even ranks block before they wait for the bulk, odd ones send after it. */
static void round_of(weft_bulk *b, int i) {
    const double me = rank;
    double sum = 1;
    for (int k = 0; k < N; k++) x[k] = (float)(rank + k % 7);
    check(weft_bulk_start(b, 1));
    check(weft_bulk_ready(b, WEFT_ALL));
    MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    if (sum != ranks) wrong++;
    if (rank % 2 == 0) block(i);
    check(weft_bulk_wait(b, WEFT_ALL, -1, NULL));
    if (rank % 2) MPI_Send(&me, 1, MPI_DOUBLE, (rank + 1) % ranks, 0, MPI_COMM_WORLD);
    for (int k = 0; k < N; k++)
        if (x[k] != (float)(ranks * (ranks - 1) / 2 + ranks * (k % 7))) wrong++;
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    weft_ctx *c;
    weft_group *g;
    weft_bulk *b;
    int level, all_wrong;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const weft_comm_opts o = {.size = sizeof o, .timeout_ms = argc > 1 ? atoi(argv[1]) : 0};
    const weft_tensor t = {.ptr = x, .n = N, .t = WEFT_F32, .name = "x"};
    check(weft_init(MPI_COMM_WORLD, &o, &c));
    check(weft_group_create(c, MPI_COMM_WORLD, "own", &g));
    check(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
    check(weft_commit(c));
    for (int i = 0; i < ROUNDS; i++) round_of(b, i);
    check(weft_finalize(&c, -1));
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (!rank) printf("%d wrong\n", all_wrong);
    MPI_Finalize();
    return all_wrong != 0;
}
