/* The smallest program on libweft: every rank contributes a vector, all get the same sum, bit for bit.
 *
 *   cc allreduce.c $(pkg-config --cflags --libs weft) -o allreduce && mpirun -n 4 ./allreduce */
#include <stdio.h>
#include <weft/comm.h>

#define N 1000

static int check(weft_status s) {
    if (s >= 0) return 0;
    fprintf(stderr, "weft: %s\n", weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, weft_exit_code(s));
    return 1;
}

int main(int argc, char **argv) {
    static float x[N];
    weft_ctx *ctx;
    weft_group *g;
    weft_bulk *sum;
    weft_tensor t = {.ptr = x, .n = N, .t = WEFT_F32, .name = "x"};

    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    check(weft_init(MPI_COMM_WORLD, NULL, &ctx));
    check(weft_group_create(ctx, MPI_COMM_WORLD, "all", &g));
    check(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &sum));
    check(weft_commit(ctx)); /* plans are frozen and compared; nothing is created later */

    for (int i = 0; i < N; i++) x[i] = (float)(weft_group_rank(g) + 1);
    check(weft_bulk_start(sum, 1));
    check(weft_bulk_ready(sum, WEFT_ALL));
    check(weft_bulk_wait(sum, WEFT_ALL, -1, NULL));
    int n = weft_group_size(g), good = x[0] == (float)(n * (n + 1) / 2) && x[N - 1] == x[0];
    printf("rank %d: %g%s\n", weft_group_rank(g), (double)x[0], good ? "" : " is wrong");
    check(weft_finalize(&ctx, -1));
    MPI_Finalize();
    return !good;
}
