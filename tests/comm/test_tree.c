/* The tree: its shape is the stated one, every class computes the same expression, and another order does
 * not. */
#include <stdlib.h>

#include "base/rng.h"
#include "comm/tree.h"
#include "tests/support/mpi_test.h"

#define MOST 70

/* The definition: adjacent pairs first, an odd one carried up. */
static float by_definition(const float *x, int n) {
    float v[MOST];
    for (int i = 0; i < n; i++) v[i] = x[i];
    while (n > 1) {
        int m = 0;
        for (int i = 0; i + 1 < n; i += 2) v[m++] = v[i] + v[i + 1];
        if (n % 2) v[m++] = v[n - 1];
        n = m;
    }
    return v[0];
}

/* What rank sends up, by following the places that tree_place gives. */
static float by_places(const float *x, int rank, int size, uint32_t k, int *messages) {
    tree_node n;
    tree_place(rank, size, k, &n);
    float sum = x[rank];
    for (int c = 0; c < n.nchild; c++) {
        tree_node child;
        tree_place(n.child[c].rank, size, k, &child);
        assert_int_equal(child.parent, rank);
        assert_int_equal(child.lo, n.child[c].lo);
        assert_int_equal(child.hi, n.child[c].hi);
        const float part = by_places(x, n.child[c].rank, size, k, messages);
        sum = n.child[c].right ? sum + part : part + sum;
        ++*messages;
    }
    return sum;
}

static void fill(float *x, int n, uint64_t seed) {
    for (int i = 0; i < n; i++)
        x[i] =
            (float)(weft_rng_normal(seed, 1, (uint64_t)i) * (1 << (weft_rng_u64(seed, 2, (uint64_t)i) % 20)));
}

static void every_class_computes_the_definition(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    for (int size = 1; size < MOST; size++) {
        float x[MOST];
        fill(x, size, seed + (uint64_t)size);
        const float want = by_definition(x, size);
        int was_root[MOST] = {0};
        for (uint32_t k = 0; k < tree_classes(size); k++) {
            int root = -1, messages = 0;
            for (int r = 0; r < size; r++) {
                tree_node n;
                tree_place(r, size, k, &n);
                if (n.parent >= 0) continue;
                assert_int_equal(root, -1); /* one root */
                root = r;
            }
            assert_true(root >= 0);
            was_root[root] = 1;
            assert_true(by_places(x, root, size, k, &messages) == want);
            assert_int_equal(messages, size - 1); /* everybody is reached once */
        }
        for (int r = 0; r < size; r++) assert_true(was_root[r]);
    }
}

static void class_0_is_the_binomial_tree(void **state) {
    (void)state;
    for (int size = 1; size < MOST; size++)
        for (int r = 0; r < size; r++) {
            tree_node n;
            tree_place(r, size, 0, &n);
            int children = 0;
            for (int d = 1; r % (2 * d) == 0 && d < size; d *= 2)
                if (r + d < size) assert_int_equal(n.child[children++].rank, r + d);
            assert_int_equal(n.nchild, children);
            assert_int_equal(n.parent, r ? r - (r & -r) : -1);
        }
}

/* Negative control: the test above can tell orders apart. */
static void another_order_gives_other_bits(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    int left = 0, arrival = 0;
    for (int t = 0; t < 200; t++) {
        float x[8], y[8], fold = 0;
        fill(x, 8, seed + 1000 + (uint64_t)t);
        for (int i = 0; i < 8; i++) fold = i ? fold + x[i] : x[0];
        for (int i = 0; i < 8; i++) y[i] = x[i * 3 % 8];
        left += fold != by_definition(x, 8);
        arrival += by_definition(y, 8) != by_definition(x, 8);
    }
    assert_true(left > 50);
    assert_true(arrival > 50);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_class_computes_the_definition),
        cmocka_unit_test(class_0_is_the_binomial_tree),
        cmocka_unit_test(another_order_gives_other_bits),
    };
    return mpi_test_main(&argc, &argv, "tree", tests, sizeof tests / sizeof *tests);
}
