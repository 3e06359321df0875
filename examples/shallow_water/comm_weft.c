/* weft: a planned halo of all faces, reductions of one moment in one message. */
#include <stdio.h>
#include <stdlib.h>

#include "comm_weft.h"

struct comm {
    weft_ctx *ctx;
    weft_group *ranks;
    weft_halo *halo;
};

static int check(weft_status s) {
    if (s >= 0) return 0;
    fprintf(stderr, "shallow_water: %s\n", weft_last_error());
    return -1;
}

static comm *open_weft(MPI_Comm ranks) {
    comm *c = calloc(1, sizeof *c);
    if (!c || check(weft_init(ranks, NULL, &c->ctx)) ||
        check(weft_group_create(c->ctx, ranks, "shallow water", &c->ranks))) {
        free(c);
        return NULL;
    }
    return c;
}

weft_ctx *comm_weft_context(comm *c) {
    return c->ctx;
}
weft_group *comm_weft_group(comm *c) {
    return c->ranks;
}

static weft_face face_of(const comm_face *f) {
    return (weft_face){.base = f->base,
                       .t = WEFT_F64,
                       .nd = 2,
                       .n = {(size_t)f->rows, (size_t)f->columns},
                       .stride = {f->pitch * (ptrdiff_t)sizeof(double), sizeof(double)},
                       .peer = f->peer,
                       .label = f->way};
}

static int plan(comm *c, int n, const comm_face *send, const comm_face *recv) {
    weft_face s[COMM_FACES], r[COMM_FACES];
    for (int i = 0; i < n; i++) {
        s[i] = face_of(&send[i]);
        r[i] = face_of(&recv[i]);
    }
    return check(weft_halo_create(c->ranks, n, s, n, r, &c->halo));
}

static int commit(comm *c) {
    return check(weft_commit(c->ctx));
}

static int halo_start(comm *c) {
    return check(weft_halo_start(c->halo));
}

static int halo_wait(comm *c) {
    return check(weft_halo_wait(c->halo, -1));
}

static int min(comm *c, double *x) {
    return check(weft_allreduce(c->ranks, x, x, 1, WEFT_F64, WEFT_MIN));
}

/* Posted together, sent as one record. */
static int diagnose(comm *c, int nsum, double *sum, double *least, double *most) {
    weft_req *r[3] = {0};
    if (check(weft_reduce_post(c->ranks, sum, sum, (size_t)nsum, WEFT_F64, WEFT_SUM, &r[0])) ||
        check(weft_reduce_post(c->ranks, least, least, 1, WEFT_F64, WEFT_MIN, &r[1])) ||
        check(weft_reduce_post(c->ranks, most, most, 1, WEFT_F64, WEFT_MAX, &r[2])))
        return -1;
    for (int i = 0; i < 3; i++)
        if (check(weft_wait(&r[i], -1))) return -1;
    return 0;
}

static int checksum(comm *c, uint64_t *sum) {
    return check(weft_allreduce(c->ranks, sum, sum, 1, WEFT_U64, WEFT_SUM));
}

static int close_weft(comm *c) {
    const int failed = check(weft_finalize(&c->ctx, -1));
    free(c);
    return failed;
}

const comm_ops comm_weft = {"weft",    open_weft, plan,     commit,   halo_start,
                            halo_wait, min,       diagnose, checksum, close_weft};
