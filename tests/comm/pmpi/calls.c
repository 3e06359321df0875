/* An MPI program that knows nothing of weft: reductions of every type, operator and size, in place and not, on
 * communicators that come and go, among messages. Prints what it got; the shim must not change a line of it. Values are
 * small integers, so sums have one answer in any order. Exit 1 if an answer is wrong. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST  1200 /* values; beyond the lane for every type */
#define LARGE (1 << 20)

static int rank, ranks, wrong;

static uint64_t digest = 14695981039346656037u;

static void eat(const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ p[i]) * 1099511628211u;
}

static int value(int r, int i) {
    return (r * 7 + i * 3) % 11 + 1;
}

static long long expected(MPI_Op op, int n, int i) {
    long long x = value(0, i);
    for (int r = 1; r < n; r++) {
        const int y = value(r, i);
        if (op == MPI_SUM) x += y;
        if (op == MPI_MIN) x = x < y ? x : y;
        if (op == MPI_MAX) x = x > y ? x : y;
        if (op == MPI_BOR) x |= y;
        if (op == MPI_BAND) x &= y;
        if (op == MPI_LAND) x = x && y;
        if (op == MPI_PROD) x *= y;
    }
    return x;
}

/* One reduction of n values, in place or not, on a communicator of whom this rank is `me`. */
#define KIND(T, M)                                                                                           \
    static void reduce_##M(MPI_Comm c, int me, int size, MPI_Op op, int n, int in_place) {                   \
        static T in[MOST], out[MOST];                                                                        \
        for (int i = 0; i < n; i++) in[i] = out[i] = (T)value(me, i);                                        \
        MPI_Allreduce(in_place ? MPI_IN_PLACE : in, out, n, M, op, c);                                       \
        for (int i = 0; i < n; i++)                                                                          \
            if (out[i] != (T)expected(op, size, i) || in[i] != (T)value(me, i)) wrong++;                     \
        eat(out, (size_t)n * sizeof(T));                                                                     \
    }
KIND(double, MPI_DOUBLE)
KIND(float, MPI_FLOAT)
KIND(int, MPI_INT)
KIND(long, MPI_LONG)
KIND(unsigned, MPI_UNSIGNED)
KIND(uint64_t, MPI_UINT64_T)
KIND(short, MPI_SHORT)

static void all_kinds(MPI_Comm c) {
    static const int sizes[] = {1, 5, 8, 127, 512, 513, 1024, MOST};
    const MPI_Op ops[] = {MPI_SUM, MPI_MIN, MPI_MAX, MPI_BOR, MPI_BAND, MPI_LAND};
    int me, size;
    MPI_Comm_rank(c, &me);
    MPI_Comm_size(c, &size);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int place = 0; place < 2; place++) {
            for (int o = 0; o < 6; o++) {
                if (o < 3) reduce_MPI_DOUBLE(c, me, size, ops[o], sizes[s], place);
                if (o < 3) reduce_MPI_FLOAT(c, me, size, ops[o], sizes[s], place);
                reduce_MPI_INT(c, me, size, ops[o], sizes[s], place);
                reduce_MPI_LONG(c, me, size, ops[o], sizes[s], place);
                reduce_MPI_UNSIGNED(c, me, size, ops[o], sizes[s], place);
                reduce_MPI_UINT64_T(c, me, size, ops[o], sizes[s], place);
                reduce_MPI_SHORT(c, me, size, ops[o], sizes[s], place);
            }
            reduce_MPI_INT(c, me, size, MPI_PROD, sizes[s], place);
        }
}

/* A derived type and an operator of the program: MPI's business. */
static void add_pairs(void *in, void *io, int *n, MPI_Datatype *t) {
    (void)t;
    for (int i = 0; i < 2 * *n; i++) ((double *)io)[i] += ((double *)in)[i];
}

static void own_type(void) {
    double pair[2] = {rank, 1}, sum[2];
    MPI_Datatype t;
    MPI_Op op;
    MPI_Type_contiguous(2, MPI_DOUBLE, &t);
    MPI_Type_commit(&t);
    MPI_Op_create(add_pairs, 1, &op);
    MPI_Allreduce(pair, sum, 1, t, op, MPI_COMM_WORLD);
    if (sum[0] != ranks * (ranks - 1) / 2.0 || sum[1] != ranks) wrong++;
    MPI_Op_free(&op);
    MPI_Type_free(&t);
}

/* Communicators that come and go: far more than there can be groups. */
static void many_communicators(void) {
    for (int i = 0; i < 600; i++) {
        MPI_Comm c;
        int one = 1, sum = 0, size;
        if (i % 2)
            MPI_Comm_dup(MPI_COMM_WORLD, &c);
        else
            MPI_Comm_split(MPI_COMM_WORLD, rank % 2, i % 4 ? rank : -rank, &c);
        MPI_Comm_size(c, &size);
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, c);
        if (sum != size) wrong++;
        MPI_Comm_free(&c);
    }
}

/* The sender's message is too large to leave before the receiver asks for it: it must move while the sender waits in a
 * reduction. */
static void message_beside_reduction(void) {
    int *big = calloc(LARGE, sizeof *big);
    int one = 1, sum = 0;
    MPI_Request r = MPI_REQUEST_NULL;
    if (!big) MPI_Abort(MPI_COMM_WORLD, 2);
    if (rank == 0) {
        for (int i = 0; i < LARGE; i++) big[i] = i;
        MPI_Isend(big, LARGE, MPI_INT, 1, 5, MPI_COMM_WORLD, &r);
    }
    if (rank == 1) {
        MPI_Status s;
        int n;
        MPI_Recv(big, LARGE, MPI_INT, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &s);
        MPI_Get_count(&s, MPI_INT, &n);
        if (n != LARGE || s.MPI_TAG != 5 || s.MPI_SOURCE != 0 || big[LARGE - 1] != LARGE - 1) wrong++;
    }
    MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Wait(&r, MPI_STATUS_IGNORE);
    MPI_Barrier(MPI_COMM_WORLD);
    if (sum != ranks) wrong++;
    free(big);
}

/* A ring of requests, waited for in every way. */
static void ring(void) {
    for (int way = 0; way < 4; way++) {
        int out = rank + 100 * way, in = -1, index, done, indices[2];
        MPI_Request r[2];
        MPI_Status s[2];
        MPI_Irecv(&in, 1, MPI_INT, (rank + ranks - 1) % ranks, way, MPI_COMM_WORLD, &r[0]);
        MPI_Isend(&out, 1, MPI_INT, (rank + 1) % ranks, way, MPI_COMM_WORLD, &r[1]);
        if (way == 0) MPI_Waitall(2, r, s);
        if (way == 1) MPI_Wait(&r[0], s), MPI_Wait(&r[1], MPI_STATUS_IGNORE);
        if (way == 2) MPI_Waitany(2, r, &index, s), MPI_Waitany(2, r, &index, s);
        for (int left = way == 3 ? 2 : 0; left > 0; left -= done) MPI_Waitsome(2, r, &done, indices, s);
        if (in != (rank + ranks - 1) % ranks + 100 * way) wrong++;
        if (way == 0 && s[0].MPI_SOURCE != (rank + ranks - 1) % ranks) wrong++;
    }
    int out = rank, in = -1;
    MPI_Sendrecv(&out, 1, MPI_INT, (rank + 1) % ranks, 9, &in, 1, MPI_INT, MPI_ANY_SOURCE, 9, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    if (in != (rank + ranks - 1) % ranks) wrong++;
}

int main(int argc, char **argv) {
    MPI_Comm half, grid;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    all_kinds(MPI_COMM_WORLD);
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
    all_kinds(half);
    const int dims[1] = {ranks}, periods[1] = {1};
    MPI_Cart_create(MPI_COMM_WORLD, 1, dims, periods, 0, &grid);
    all_kinds(grid);
    own_type();
    many_communicators();
    if (ranks > 1) message_beside_reduction();
    ring();
    MPI_Comm_free(&grid);
    MPI_Comm_free(&half);
    int all_wrong;
    MPI_Allreduce(&wrong, &all_wrong, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (!rank) printf("%d wrong, digest %016llx\n", all_wrong, (unsigned long long)digest);
    MPI_Finalize();
    return all_wrong != 0;
}
