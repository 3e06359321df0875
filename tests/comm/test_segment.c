/* Segments: one memory per node, zeroed, and errors that all ranks learn. Fewer than two ranks share nothing. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/shm/segment.h"
#include "comm/shm/wait.h"
#include "tests/support/mpi_test.h"

#define BYTES 100001

/* What the kernel says is mapped at `at`. */
static void mapped_file(const void *at, char *text, size_t n) {
    FILE *f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    text[0] = 0;
    while (fgets(text, (int)n, f))
        if (strtoull(text, NULL, 16) == (uintptr_t)at) break;
    fclose(f);
}

/* The memory has never had a name that a kill could leave behind; `named`: it had to have one. */
static void check_file(const segment *s, int named) {
    char line[512];
    mapped_file(s->at, line, sizeof line);
    assert_int_equal(strstr(line, "/memfd:weft") != NULL, !named);
    assert_int_equal(strstr(line, "/dev/shm/weft-") != NULL, named);
}

/* Every rank writes its number at its place; all see those of their own node and nobody else's. */
static void check_sharing(weft_ctx *c) {
    weft_group *g = c->all;
    segment s;
    assert_ok(segment_create(g, BYTES, &s));
    assert_int_equal(s.bytes, BYTES);
    unsigned char *at = s.at;
    for (size_t i = 0; i < BYTES; i++) assert_int_equal(at[i], 0);
    assert_ok(weft_ctrl_barrier(g));
    at[BYTES - 1 - (size_t)g->rank] = (unsigned char)(g->rank + 1);
    assert_ok(weft_ctrl_barrier(g));
    for (int r = 0; r < g->size; r++) {
        const int seen = at[BYTES - 1 - r];
        assert_int_equal(seen, g->node.of[r] == g->node.of[g->rank] ? r + 1 : 0);
    }
    assert_ok(weft_ctrl_barrier(g));
    segment_destroy(&s);
    assert_null(s.at);
}

static void ranks_of_a_node_share_it(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    check_sharing(c);
    mpi_test_finalize(c);
}

static void nodes_share_nothing(void **state) {
    (void)state;
    char map[64] = "";
    for (int r = 0; r < mpi_test_size(); r++) strcat(map, r == 0 ? "7" : r % 3 ? ",7" : ",1");
    setenv("WEFT_NODE_MAP", map, 1);
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    check_sharing(c);
    mpi_test_finalize(c);
    unsetenv("WEFT_NODE_MAP");
}

static void only_without_a_memfd_it_has_a_name(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    for (int named = 0; named < 2; named++) {
        segment s;
        weft_fault_arm(WEFT_FAULT_WRITE, named);
        assert_ok(segment_create(c->all, BYTES, &s));
        weft_fault_arm(WEFT_FAULT_WRITE, 0);
        if (c->all->size > 1) check_file(&s, named);
        segment_destroy(&s);
        weft_fault_arm(WEFT_FAULT_WRITE, named);
        check_sharing(c);
        weft_fault_arm(WEFT_FAULT_WRITE, 0);
    }
    mpi_test_finalize(c);
}

/* More memory than there can be is refused by all ranks, and the group lives on. */
static void too_much_is_an_error_on_all_ranks(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    segment s;
    const weft_status r = segment_create(c->all, (size_t)1 << 60, &s);
    assert_error(r, WEFT_ERR_NOMEM, c->all->size > 1 ? "MiB left" : "mapping");
    assert_null(s.at);
    check_sharing(c);
    mpi_test_finalize(c);
}

static void different_sizes_are_an_order_error(void **state) {
    (void)state;
    if (mpi_test_size() == 1) return;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    segment s;
    const size_t bytes = c->all->rank == c->all->size - 1 ? 4096 : 8192;
    assert_error(segment_create(c->all, bytes, &s), WEFT_ERR_ORDER, "4096 bytes here, 8192");
    assert_null(s.at);
    check_sharing(c);
    mpi_test_finalize(c);
}

static void no_bytes_are_no_memory(void **state) {
    (void)state;
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 1024);
    segment s;
    assert_ok(segment_create(c->all, 0, &s));
    assert_null(s.at);
    segment_destroy(&s);
    mpi_test_finalize(c);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_of_a_node_share_it),
        cmocka_unit_test(nodes_share_nothing),
        cmocka_unit_test(only_without_a_memfd_it_has_a_name),
        cmocka_unit_test(too_much_is_an_error_on_all_ranks),
        cmocka_unit_test(different_sizes_are_an_order_error),
        cmocka_unit_test(no_bytes_are_no_memory),
    };
    return mpi_test_main(&argc, &argv, "segment", tests, sizeof tests / sizeof *tests);
}
