/* The choice of tiles: the best of its model, the same each time, and sensible where the answer is known. */
#include <stdio.h>

#include "kernels/cuda/hopper_table.h"

static int failures;
#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            printf("line %d: %s\n", __LINE__, #what);                                                        \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

static void check_best(int64_t m, int64_t n, int64_t k, int gated, int sms) {
    const hopper_choice c = hopper_choose(m, n, k, gated, sms), again = hopper_choose(m, n, k, gated, sms);
    CHECK(c.columns == again.columns && c.cluster == again.cluster && c.rows_together == again.rows_together);
    CHECK((c.columns == 128 || c.columns == 256) && (c.cluster == 1 || c.cluster == 2) &&
          c.rows_together > 0);
    CHECK(c.parts == 1 || (!gated && k >= (int64_t)448 * c.parts)); /* no part is short */
    for (int i = 0; i < 4; i++) {
        const hopper_choice other = {i / 2 ? 128 : 256, 1 + i % 2, 1, 1, 0};
        CHECK(other.cluster > sms || c.cycles <= hopper_predict(&other, m, n, k, gated, sms));
    }
    /* what is planned for more rows and k is enough */
    const int64_t need = c.parts > 1 ? 4 * c.parts * hopper_part_rows(&c, m) * ((n + 3) / 4 * 4) : 0;
    CHECK(need <= hopper_parts_bytes(m, n, k, gated));
    CHECK(need <= hopper_parts_bytes(2 * m, n, k + 100, gated));
    /* never less than the tensor cores need */
    CHECK(c.cycles * sms * 2048 >= (double)m * (double)n * (double)k);
}

int main(void) {
    static const int64_t sizes[] = {1, 63, 128, 129, 768, 4096, 50304, (int64_t)1 << 29};
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            for (int l = 0; l < 7; l++)
                for (int gated = 0; gated < 2; gated++) {
                    check_best(sizes[i], 2 * sizes[j], sizes[l], gated, 132);
                    check_best(sizes[i], 2 * sizes[j], sizes[l], gated, 1);
                }
    hopper_choice c = hopper_choose(8192, 8192, 8192, 0, 132);
    CHECK(c.columns == 256 && c.cluster == 2 && c.parts == 1); /* bound by the tensor cores if B is shared */
    c = hopper_choose(128, 4096, 4096, 0, 132);
    CHECK(c.cluster == 1); /* one tile of rows: nothing to share */
    c = hopper_choose(768, 768, 8192, 0, 132);
    CHECK(c.columns == 128 &&
          c.parts > 1); /* few tiles: small ones, and k in parts, for more multiprocessors */
    printf("%d failures\n", failures);
    return failures != 0;
}
