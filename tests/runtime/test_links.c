/* Links: a whole schedule is played with messages whose contents name sender, chunk, micro-batch and direction; ranks take
 * their time, on one node, on nodes of their own and in between. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "runtime/layout/links.h"
#include "runtime/layout/pipeline.h"
#include "tests/support/mpi_test.h"

enum { N = 3000, STEPS = 3 };

static weft_group *group_of(weft_ctx *c) {
    weft_group *g;
    assert_ok(weft_group_create(c, MPI_COMM_WORLD, "stages", &g));
    return g;
}

static void a_nap(uint64_t at) {
    const uint64_t r = weft_rng_u64(mpi_test_seed() + (uint64_t)mpi_test_rank(), 1, at);
    if (r % 4 == 0) usleep((useconds_t)(r / 4 % 500));
}

/* What virtual stage k gives micro-batch `micro` of step `step`. */
static int32_t mark(int k, int backward, int micro, int step) {
    return ((step * 64 + micro) * 64 + k) * 2 + backward;
}

static void fill(int32_t *data, int32_t value) {
    for (int i = 0; i < N; i++) data[i] = (int32_t)((uint32_t)value ^ (uint32_t)i << 20);
}

static void check(const int32_t *data, int32_t value) {
    for (int i = 0; i < N; i++)
        if (data[i] != ((int32_t)((uint32_t)value ^ (uint32_t)i << 20)))
            fail_msg("element %d: %d instead of %d", i, data[i],
                     (int32_t)((uint32_t)value ^ (uint32_t)i << 20));
}

static void run_step(weft_links *l, const weft_pipeline *p, int step) {
    int32_t *in = malloc(N * sizeof *in), *out = malloc(N * sizeof *out);
    assert_non_null(in);
    assert_non_null(out);
    for (size_t i = 0; i < p->n; i++) {
        const weft_pipeline_action *a = &p->action[i];
        const int k = a->chunk * p->stages + p->stage, last = p->stages * p->chunks - 1;
        const int from = a->backward ? k + 1 : k - 1;
        fill(in, -1);
        assert_ok(weft_links_receive(l, a->chunk, a->backward, in));
        check(in, from < 0 || from > last ? -1 : mark(from, a->backward, a->micro, step));
        a_nap((uint64_t)step << 20 | i);
        fill(out, mark(k, a->backward, a->micro, step));
        assert_ok(weft_links_send(l, a->chunk, a->backward, out));
        fill(out, -1); /* it is ours again */
    }
    free(in);
    free(out);
}

static void every_message_finds_its_pass(void **state) {
    (void)state;
    const int stages = mpi_test_size(), me = mpi_test_rank();
    for (int map = 0; map < MPI_TEST_MAPS; map++)
        for (int chunks = 1; chunks <= (stages > 1 ? 3 : 1); chunks++) {
            weft_ctx *c = mpi_test_context_on(map, MPI_TEST_PATIENCE_MS, 4096);
            weft_group *g = group_of(c);
            weft_links *l;
            weft_pipeline p;
            const int micros = chunks == 2 ? 2 * stages + 1 : 2 * stages;
            assert_ok(weft_links_create(g, chunks, N, WEFT_I32, &l));
            assert_ok(weft_commit(c));
            for (int step = 0; step < STEPS; step++) { /* the last is an evaluation */
                assert_ok(weft_pipeline_create(stages, me, chunks, micros, step + 1 < STEPS, &p));
                run_step(l, &p, step);
                weft_pipeline_destroy(&p);
            }
            assert_true(stages == 1 || weft_links_waited(l) > 0);
            assert_true(weft_links_waited(l) == 0);
            mpi_test_finalize(c);
            weft_links_destroy(l);
        }
}

/* Two buffers for each direction of each joint, on the stage that sends. */
static void memory_is_that_of_all_links(void **state) {
    (void)state;
    for (int stages = 1; stages <= 5; stages++)
        for (int chunks = 1; chunks <= 3; chunks++) {
            size_t bytes = 0;
            for (int s = 0; s < stages; s++) bytes += weft_links_bytes(stages, s, chunks, 10, WEFT_BF16);
            assert_int_equal(bytes, (stages * chunks - 1) * 2 * 2 * 10 * 2);
        }
    assert_int_equal(weft_links_bytes(2, 0, 1, 100, WEFT_F32), 800);
    assert_int_equal(weft_links_bytes(2, 1, 2, 100, WEFT_F32), 3 * 800);
}

static void more_virtual_stages_than_links_are_refused(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context_on(MPI_TEST_ONE_NODE, MPI_TEST_PATIENCE_MS, 4096);
    weft_links *l;
    const int chunks = 200 / mpi_test_size() + 1;
    const weft_status s = weft_links_create(group_of(c), chunks, 8, WEFT_F32, &l);
    assert_error(s, WEFT_ERR_UNSUPPORTED, "chunks");
    assert_null(l);
    assert_ok(weft_commit(c));
    mpi_test_finalize(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_finds_its_pass),
        cmocka_unit_test(memory_is_that_of_all_links),
        cmocka_unit_test(more_virtual_stages_than_links_are_refused),
    };
    return mpi_test_main(&argc, &argv, "links", tests, sizeof tests / sizeof *tests);
}
