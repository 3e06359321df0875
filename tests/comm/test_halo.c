/* Halos: random faces between random peers, on one node, between nodes, and in between. Every rank knows the plan of all
 * ranks (a pure function of the seed), so a receiver computes what must be in every element, and that nothing beside the
 * faces was touched. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "comm/ctrl.h"
#include "tests/support/mpi_test.h"

#define LINKS  40 /* messages of a random halo, over all ranks */
#define FIELDS 3
#define HALOS  3
#define UNSET  0xa5

static const weft_dtype types[] = {WEFT_F64, WEFT_F32, WEFT_BF16, WEFT_U8, WEFT_I64, WEFT_I32};

static weft_group *group_of(weft_ctx *c) {
    weft_group *g;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
    return g;
}

/* --- a face in memory of its own
 * -------------------------------------------------------------------------------------------------- */

typedef struct place {
    weft_face face;
    char *memory;
    size_t bytes;
} place;

static uint64_t draw(uint64_t stream, uint64_t at, uint64_t below) {
    return weft_rng_u64(mpi_test_seed(), stream, at) % below;
}

/* Extents whose product is n, in random order. */
static void shape(weft_face *f, size_t n, uint64_t stream) {
    f->nd = 1 + (int)draw(stream, 0, 4);
    for (int d = 0; d < f->nd; d++) f->n[d] = 1;
    size_t left = n;
    for (int d = 0; d < f->nd - 1; d++)
        for (size_t p = 2; p <= 7; p++)
            if (left && left % p == 0 && draw(stream, 10 + (uint64_t)d * 8 + p, 2)) {
                f->n[d] *= p;
                left /= p;
            }
    f->n[f->nd - 1] *= left;
    if (draw(stream, 1, 2)) { /* the long one first */
        const size_t t = f->n[0];
        f->n[0] = f->n[f->nd - 1];
        f->n[f->nd - 1] = t;
    }
}

/* Strides with gaps, of either sign, nested in random order, and not always of whole elements. */
static void lay_out(place *p, uint64_t stream) {
    weft_face *f = &p->face;
    const size_t unit = weft_dtype_size(f->t);
    ptrdiff_t step = (ptrdiff_t)unit, low = 0;
    int order[4] = {0, 1, 2, 3};
    for (int d = f->nd - 1; d > 0; d--) {
        const int k = (int)draw(stream, 20 + (uint64_t)d, (uint64_t)d + 1), t = order[d];
        order[d] = order[k];
        order[k] = t;
    }
    for (int k = 0; k < f->nd; k++) {
        const int d = order[k];
        const uint64_t r = draw(stream, 30 + (uint64_t)k, 1000);
        step += (ptrdiff_t)(r % 3 * unit);
        if (r % 11 == 0) step += 1; /* a byte: no whole element */
        f->stride[d] = r / 500 ? -step : step;
        if (r / 500) low += step * (ptrdiff_t)(f->n[d] - 1);
        step *= (ptrdiff_t)f->n[d];
    }
    p->bytes = (size_t)step + unit;
    p->memory = malloc(p->bytes);
    memset(p->memory, UNSET, p->bytes);
    f->base = p->memory + low;
}

static char *element(const weft_face *f, size_t i) {
    char *at = f->base;
    for (int d = f->nd - 1; d >= 0; d--) {
        at += (ptrdiff_t)(i % f->n[d]) * f->stride[d];
        i /= f->n[d];
    }
    return at;
}

/* --- a plan of all ranks
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct link_plan {
    int from, to, label, faces;
    weft_dtype t[FIELDS];
    size_t n[FIELDS];
} link_plan;

typedef struct halo_case {
    int nlinks, nsend, nrecv;
    link_plan link[LINKS];
    place send[LINKS * FIELDS], recv[LINKS * FIELDS];
    int send_link[LINKS * FIELDS], recv_link[LINKS * FIELDS]; /* link * FIELDS + face */
    uint64_t stream;
    weft_halo *halo;
} halo_case;

static int taken(const halo_case *c, int n, int from, int to, int label) {
    for (int i = 0; i < n; i++)
        if (c->link[i].from == from && c->link[i].to == to && c->link[i].label == label) return 1;
    return 0;
}

static void plan_links(halo_case *c) {
    static const size_t sizes[] = {0, 1, 2, 12, 60, 360, 1024, 5040};
    const uint64_t size = (uint64_t)mpi_test_size();
    for (int i = 0; i < LINKS; i++) {
        link_plan *l = &c->link[c->nlinks];
        const uint64_t s = c->stream + (uint64_t)i * 16;
        l->from = (int)draw(s, 0, size);
        l->to = (int)draw(s, 1, size);
        l->label = (int)draw(s, 2, i % 3 ? 4 : 128); /* few labels: the same peer several times */
        if (taken(c, c->nlinks, l->from, l->to, l->label)) continue;
        l->faces = 1 + (int)draw(s, 3, FIELDS);
        for (int k = 0; k < l->faces; k++) {
            l->t[k] = types[draw(s, 10 + (uint64_t)k, sizeof types / sizeof *types)];
            l->n[k] = sizes[draw(s, 20 + (uint64_t)k, sizeof sizes / sizeof *sizes)];
        }
        c->nlinks++;
    }
}

static void add_faces(halo_case *c, int link, int peer, int receives) {
    const link_plan *l = &c->link[link];
    for (int k = 0; k < l->faces; k++) {
        int *n = receives ? &c->nrecv : &c->nsend;
        place *p = receives ? &c->recv[*n] : &c->send[*n];
        (receives ? c->recv_link : c->send_link)[*n] = link * FIELDS + k;
        const uint64_t s = c->stream + 100000 + (uint64_t)(link * FIELDS + k) * 4 + (uint64_t)receives;
        p->face = (weft_face){.t = l->t[k], .peer = peer, .label = l->label};
        shape(&p->face, l->n[k], s);
        lay_out(p, s);
        (*n)++;
    }
}

static void make(halo_case *c, weft_group *g, uint64_t stream) {
    weft_face send[LINKS * FIELDS], recv[LINKS * FIELDS];
    memset(c, 0, sizeof *c);
    c->stream = stream;
    plan_links(c);
    for (int i = 0; i < c->nlinks; i++) {
        if (c->link[i].from == mpi_test_rank()) add_faces(c, i, c->link[i].to, 0);
        if (c->link[i].to == mpi_test_rank()) add_faces(c, i, c->link[i].from, 1);
    }
    for (int i = 0; i < c->nsend; i++) send[i] = c->send[i].face;
    for (int i = 0; i < c->nrecv; i++) recv[i] = c->recv[i].face;
    assert_ok(weft_halo_create(g, c->nsend, send, c->nrecv, recv, &c->halo));
}

static void release(halo_case *c) {
    for (int i = 0; i < c->nsend; i++) free(c->send[i].memory);
    for (int i = 0; i < c->nrecv; i++) free(c->recv[i].memory);
}

static uint64_t value(const halo_case *c, int face, size_t i, int round) {
    return weft_rng_u64(mpi_test_seed(), c->stream + 7 + (uint64_t)round * 1000003, (uint64_t)face << 32 | i);
}

static void fill(halo_case *c, int round) {
    for (int k = 0; k < c->nsend; k++) {
        const weft_face *f = &c->send[k].face;
        const size_t unit = weft_dtype_size(f->t);
        for (size_t i = 0; i < c->link[c->send_link[k] / FIELDS].n[c->send_link[k] % FIELDS]; i++) {
            const uint64_t v = value(c, c->send_link[k], i, round);
            memcpy(element(f, i), &v, unit);
        }
    }
}

/* Takes the expected bytes out of the memory; what is left must be as it was. */
static void check(halo_case *c, int round) {
    for (int k = 0; k < c->nrecv; k++) {
        place *p = &c->recv[k];
        const size_t unit = weft_dtype_size(p->face.t);
        for (size_t i = 0; i < c->link[c->recv_link[k] / FIELDS].n[c->recv_link[k] % FIELDS]; i++) {
            const uint64_t v = value(c, c->recv_link[k], i, round);
            char *at = element(&p->face, i);
            if (memcmp(at, &v, unit) != 0)
                fail_msg("rank %d, round %d, face %d from rank %d, element %zu", mpi_test_rank(), round, k,
                         p->face.peer, i);
            memset(at, UNSET, unit);
        }
        for (size_t i = 0; i < p->bytes; i++)
            if ((unsigned char)p->memory[i] != UNSET)
                fail_msg("rank %d, round %d, face %d: byte %zu beside it was touched", mpi_test_rank(), round,
                         k, i);
    }
}

/* --- the tests
 * -------------------------------------------------------------------------------------------------------- */

static void a_nap(int round, uint64_t at) {
    const uint64_t r = weft_rng_u64(mpi_test_seed() + (uint64_t)mpi_test_rank(), (uint64_t)round, at);
    if (r % 3 == 0) usleep((useconds_t)(r / 3 % 400));
}

static void random_faces_arrive_whole_and_alone(void **state) {
    (void)state;
    for (int trial = 0; trial < 6; trial++) {
        weft_ctx *c = mpi_test_context_on(trial % MPI_TEST_MAPS, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        static halo_case h;
        make(&h, g, 5000000 + (uint64_t)trial * 1000000);
        assert_ok(weft_commit(c));
        for (int round = 0; round < 5; round++) {
            fill(&h, round);
            assert_ok(weft_halo_start(h.halo));
            fill(&h, 99); /* the send faces are ours again */
            assert_ok(weft_halo_wait(h.halo, -1));
            check(&h, round);
        }
        mpi_test_finalize(c);
        release(&h);
    }
}

/* Ranks at random speed, three halos under way, waited for in different orders, bulks and control operations beside. */
static void halos_overlap_each_other_and_bulks(void **state) {
    (void)state;
    static halo_case h[HALOS];
    for (int map = 0; map < MPI_TEST_MAPS; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        int64_t sum[3000];
        const weft_tensor t = {sum, 3000, WEFT_I64, 0, "sum"};
        weft_bulk *b;
        assert_ok(weft_bulk_create(g, WEFT_BULK_ALLREDUCE, 1, &t, NULL, &b));
        for (int k = 0; k < HALOS; k++) make(&h[k], g, 50000000 + (uint64_t)(map * HALOS + k) * 1000000);
        assert_ok(weft_commit(c));
        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < 3000; i++) sum[i] = i + round + mpi_test_rank();
            assert_ok(weft_bulk_start(b, 1));
            for (int k = 0; k < HALOS; k++) {
                fill(&h[k], round);
                a_nap(round, (uint64_t)k);
                assert_ok(weft_halo_start(h[k].halo));
            }
            assert_ok(weft_bulk_ready(b, 0));
            if (round % 4 == 0) assert_ok(weft_ctrl_barrier(g));
            for (int k = 0; k < HALOS; k++) {
                const int w = (k + mpi_test_rank()) % HALOS;
                a_nap(round, 10 + (uint64_t)k);
                assert_ok(weft_halo_wait(h[w].halo, -1));
                check(&h[w], round);
            }
            assert_ok(weft_bulk_wait(b, 0, -1, NULL));
            const int n = mpi_test_size();
            for (int i = 0; i < 3000; i++) assert_int_equal(sum[i], n * (i + round) + n * (n - 1) / 2);
        }
        mpi_test_finalize(c);
        for (int k = 0; k < HALOS; k++) release(&h[k]);
    }
}

/* One way only: nothing but the two generations holds the sender back. */
static void a_fast_sender_does_not_overwrite(void **state) {
    (void)state;
    enum { ROUNDS = 60, N = 500 };
    const int me = mpi_test_rank(), last = mpi_test_size() - 1;
    for (int map = 0; map < MPI_TEST_MAPS; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        int64_t out[N], in[N];
        const weft_face s = {out, WEFT_I64, 1, {N}, {8}, last, 1}, r = {in, WEFT_I64, 1, {N}, {8}, 0, 1};
        weft_halo *h;
        assert_ok(weft_halo_create(g, me == 0, &s, me == last, &r, &h));
        assert_ok(weft_commit(c));
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < N; i++) out[i] = round * 1000 + i;
            if (me == last && last && round % 7 == 0) usleep(2000);
            assert_ok(weft_halo_start(h));
            assert_ok(weft_halo_wait(h, -1));
            for (int i = 0; i < N && me == last; i++) assert_int_equal(in[i], round * 1000 + i);
        }
        mpi_test_finalize(c);
    }
}

/* Two levels that take turns; each face at the place that the round before did not use. */
static void faces_move_between_rounds(void **state) {
    (void)state;
    enum { ROUNDS = 9, N = 300, FACES = 3 };
    const int me = mpi_test_rank(), n = mpi_test_size(), to = (me + 1) % n, from = (me + n - 1) % n;
    for (int map = 0; map < MPI_TEST_MAPS; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        static int32_t out[2][FACES][N], in[2][FACES][N];
        weft_face s[FACES], r[FACES];
        for (int k = 0; k < FACES; k++) { /* the messages are not in the order of the faces */
            s[k] = (weft_face){out[0][k], WEFT_I32, 1, {N}, {4}, to, 1 - k % 2};
            r[k] = (weft_face){in[0][k], WEFT_I32, 1, {N}, {4}, from, 1 - k % 2};
        }
        weft_halo *h;
        assert_ok(weft_halo_create(g, FACES, s, FACES, r, &h));
        assert_ok(weft_commit(c));
        for (int round = 0; round < ROUNDS; round++) {
            const int level = round % 2;
            memset(in, UNSET, sizeof in);
            memset(out, 0, sizeof out);
            for (int k = 0; k < FACES; k++) {
                for (int i = 0; i < N; i++) out[level][k][i] = ((me * ROUNDS + round) * FACES + k) * N + i;
                assert_ok(weft_halo_move(h, 0, k, out[level][k]));
                assert_ok(weft_halo_move(h, 1, k, in[level][k]));
            }
            assert_ok(weft_halo_start(h));
            assert_error(weft_halo_move(h, 0, 0, out), WEFT_ERR_STATE, "before its wait");
            assert_ok(weft_halo_wait(h, -1));
            for (int k = 0; k < FACES; k++)
                for (int i = 0; i < N; i++) {
                    assert_int_equal(in[level][k][i], ((from * ROUNDS + round) * FACES + k) * N + i);
                    assert_int_equal(in[!level][k][i], (int32_t)0xa5a5a5a5);
                }
        }
        assert_error(weft_halo_move(h, 1, FACES, out), WEFT_ERR_ARG, "received face 3");
        assert_error(weft_halo_move(h, 0, 0, NULL), WEFT_ERR_ARG, "sent face 0");
        mpi_test_finalize(c);
    }
}

enum { WEST, EAST };

typedef struct ring {
    double cell[4]; /* west halo, west face, east face, east halo */
    weft_face send[2], recv[2];
} ring;

/* A periodic line of ranks: my east face goes to my east neighbour's west halo. by_label: a message is named by the side
 * it leaves from; else by the side it arrives at on the sender's map, which is matching by direction. */
static void make_ring(ring *r, int by_label) {
    const int n = mpi_test_size(), me = mpi_test_rank(), east = (me + 1) % n, west = (me + n - 1) % n;
    for (int i = 0; i < 4; i++) r->cell[i] = i == 1 || i == 2 ? me * 10 + i : -1;
    r->send[0] = (weft_face){&r->cell[1], WEFT_F64, 1, {1}, {8}, west, WEST};
    r->send[1] = (weft_face){&r->cell[2], WEFT_F64, 1, {1}, {8}, east, EAST};
    r->recv[0] = (weft_face){&r->cell[0], WEFT_F64, 1, {1}, {8}, west, by_label ? EAST : WEST};
    r->recv[1] = (weft_face){&r->cell[3], WEFT_F64, 1, {1}, {8}, east, by_label ? WEST : EAST};
}

static void one_peer_in_the_west_and_in_the_east(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    for (int map = 0; map < MPI_TEST_MAPS; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        weft_halo *h;
        ring r;
        make_ring(&r, 1);
        assert_ok(weft_halo_create(g, 2, r.send, 2, r.recv, &h));
        assert_ok(weft_commit(c));
        assert_ok(weft_halo_start(h));
        assert_ok(weft_halo_wait(h, -1));
        assert_true(r.cell[0] == (me + n - 1) % n * 10 + 2);
        assert_true(r.cell[3] == (me + 1) % n * 10 + 1);
        mpi_test_finalize(c);
    }
}

/* Negative control: with the same peer on both sides each halo gets the wrong face; else the commit refuses. */
static void matching_by_direction_is_wrong(void **state) {
    (void)state;
    const int n = mpi_test_size(), me = mpi_test_rank();
    weft_ctx *c = mpi_test_context_on(MPI_TEST_ONE_NODE, MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g = group_of(c);
    weft_halo *h;
    ring r;
    make_ring(&r, 0);
    assert_ok(weft_halo_create(g, 2, r.send, 2, r.recv, &h));
    if (n > 2) {
        assert_error(weft_commit(c), WEFT_ERR_ORDER, "nothing");
        assert_error(weft_finalize(&c, 1000), WEFT_ERR_ORDER, NULL);
        return;
    }
    assert_ok(weft_commit(c));
    assert_ok(weft_halo_start(h));
    assert_ok(weft_halo_wait(h, -1));
    assert_true(r.cell[0] != (me + n - 1) % n * 10 + 2);
    assert_true(r.cell[3] != (me + 1) % n * 10 + 1);
    mpi_test_finalize(c);
}

/* The last rank expects something else than the first sends; both say so. */
static void disagreeing_plans_are_an_order_error(void **state) {
    (void)state;
    static const char *const text[] = {"sends 10 x f64 where", "expects 11 x f64", "sends 10 x f64 where",
                                       "expects 10 x f32",     "expects nothing",  "sends nothing where"};
    const int me = mpi_test_rank(), last = mpi_test_size() - 1;
    for (int k = 0; k < 6; k++) {
        weft_ctx *c =
            mpi_test_context_on(k % 2 ? MPI_TEST_OWN_NODES : MPI_TEST_ONE_NODE, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        double out[16], in[16];
        const weft_face s = {out, WEFT_F64, 1, {10}, {8}, last, 5};
        weft_face r = {in, WEFT_F64, 1, {k < 2 ? 11 : 10}, {8}, 0, 5};
        if (k == 2 || k == 3) r.t = WEFT_F32;
        weft_halo *h;
        assert_ok(weft_halo_create(g, me == 0 && k != 5, &s, me == last && k != 4, &r, &h));
        assert_error(weft_commit(c), WEFT_ERR_ORDER, text[k]);
        assert_error(weft_commit(c), WEFT_ERR_ORDER, "halo 0: label 5: rank 0 (");
        assert_error(weft_finalize(&c, 1000), WEFT_ERR_ORDER, NULL);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context_on(MPI_TEST_ONE_NODE, MPI_TEST_PATIENCE_MS, 4096);
    weft_group *g = group_of(c);
    weft_halo *h;
    double v[8] = {0};
    const weft_face good = {v, WEFT_F64, 1, {4}, {8}, mpi_test_rank(), 0};
    weft_face bad[] = {good, good, good, good, good, good, good};
    bad[0].nd = 0;
    bad[1].nd = 5;
    bad[2].peer = mpi_test_size();
    bad[3].label = 128;
    bad[4].base = NULL;
    bad[5].t = WEFT_DTYPE_COUNT;
    bad[6].n[0] = SIZE_MAX / 4;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_error(weft_halo_create(g, 1, &bad[i], 0, NULL, &h), WEFT_ERR_ARG, "sent face 0");
        assert_null(h);
    }
    assert_error(weft_halo_create(g, 1, NULL, 0, NULL, &h), WEFT_ERR_ARG, NULL);
    assert_error(weft_halo_create(g, -1, &good, 0, NULL, &h), WEFT_ERR_ARG, NULL);
    weft_face to = good;
    to.base = v + 4;
    assert_ok(weft_halo_create(g, 1, &good, 1, &to, &h));
    assert_error(weft_halo_start(h), WEFT_ERR_STATE, "before weft_commit");
    assert_ok(weft_commit(c));
    assert_error(weft_halo_wait(h, -1), WEFT_ERR_STATE, "without a start");
    v[1] = 3;
    assert_ok(weft_halo_start(h));
    assert_error(weft_halo_start(h), WEFT_ERR_STATE, "before its wait");
    assert_ok(weft_halo_wait(h, -1));
    assert_true(v[5] == 3);
    mpi_test_finalize(c);
}

/* A rank that does not come is a timeout of the wait, not a hang. */
static void a_missing_neighbour_is_a_timeout(void **state) {
    (void)state;
    const int me = mpi_test_rank(), last = mpi_test_size() - 1;
    if (!last) return;
    for (int map = 0; map < 2; map++) {
        weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
        weft_group *g = group_of(c);
        double out[3] = {0}, in[3];
        const weft_face s = {out, WEFT_F64, 1, {3}, {8}, 0, 1}, r = {in, WEFT_F64, 1, {3}, {8}, last, 1};
        weft_halo *h;
        assert_ok(weft_halo_create(g, me == last, &s, me == 0, &r, &h));
        assert_ok(weft_commit(c));
        if (me == 0) {
            assert_ok(weft_halo_start(h));
            assert_error(weft_halo_wait(h, 200), WEFT_ERR_TIMEOUT, "waiting for rank");
        }
        MPI_Barrier(MPI_COMM_WORLD);
        assert_true(weft_finalize(&c, 1000) < 0);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_faces_arrive_whole_and_alone),
        cmocka_unit_test(halos_overlap_each_other_and_bulks),
        cmocka_unit_test(a_fast_sender_does_not_overwrite),
        cmocka_unit_test(faces_move_between_rounds),
        cmocka_unit_test(one_peer_in_the_west_and_in_the_east),
        cmocka_unit_test(matching_by_direction_is_wrong),
        cmocka_unit_test(disagreeing_plans_are_an_order_error),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(a_missing_neighbour_is_a_timeout),
    };
    return mpi_test_main(&argc, &argv, "halo", tests, sizeof tests / sizeof *tests);
}
