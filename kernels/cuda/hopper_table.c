/* The choice of a tile by a model of waves; a table of measured shapes takes its place once there are measurements.
 *
 * A block that computes a tile of 128 x C sums needs, for each 64 of k, 128 * C * 64 / 2048 = 4 C cycles of the tensor
 * cores and 128 (128 + C / cluster) bytes from the L2 cache; the slower of the two is its step. Tiles go to the
 * multiprocessors in waves. Two consumers on one tile show their epilogue in full; in turns only the last one shows.
 * The constants below are of the H100's and H200's data sheets and of others' measurements, none of our own:
 * docs/performance.md says how the prediction is made. */
#include "kernels/cuda/hopper_table.h"

#define TILE_ROWS      128
#define STEP           64
#define L2_BYTES       36.0   /* a cycle and multiprocessor when all read */
#define L2_PORT        64.0   /* ... at most, when few do */
#define FILL_CYCLES    1200.0 /* launch of a block, first loads */
#define STORE_CYCLES   1500.0 /* the epilogue of a tile of 128 x 256 */
#define ROWS_TOGETHER  16     /* tiles; with 8 columns of them about one wave */
#define IN_TURN_FACTOR 1.05   /* hand-over between the consumers */
#define PARTS_MOST     8
#define PART_STEPS     8 /* of k at least */
#define PARTS_BYTES                                                                                          \
    ((int64_t)64 << 20)   /* of all sums of parts at most: the L2 cache has them when they are added */
#define ADD_CYCLES 3500.0 /* the second kernel: launch, first reads */
#define ADD_BYTES  2500.0 /* a cycle, of all multiprocessors */

static int64_t up(int64_t n, int64_t d) {
    return (n + d - 1) / d;
}

double hopper_predict(const hopper_choice *c, int64_t m, int64_t n, int64_t k, int gated, int sms) {
    const int64_t across = gated ? c->columns / 2 : c->columns;
    const int64_t units = c->parts * up(up(m, TILE_ROWS), c->cluster) * up(gated ? n / 2 : n, across);
    const int64_t workers = sms / c->cluster > 0 ? sms / c->cluster : 1;
    const int64_t busy = units < workers ? units * c->cluster : sms;
    const double share = L2_BYTES * sms / (double)busy, rate = share < L2_PORT ? share : L2_PORT;
    const double math = 4.0 * c->columns;
    const double load = 128.0 * (TILE_ROWS + (double)c->columns / c->cluster) / rate;
    const double step = math > load ? math : load, store = STORE_CYCLES * c->columns / 256;
    const double waves = (double)up(units, workers), main = (double)up(up(k, STEP), c->parts) * step;
    const double add =
        c->parts == 1 ? 0 : ADD_CYCLES + 4.0 * (2 * c->parts + 2) * (double)m * (double)n / ADD_BYTES;
    if (c->columns == 256) return FILL_CYCLES + waves * (main + store) + add;
    /* in turns: a tile's main loop hides the other's epilogue, or waits for it */
    return FILL_CYCLES + waves * (main > store ? main : store) * IN_TURN_FACTOR + store + add;
}

int64_t hopper_part_rows(const hopper_choice *c, int64_t m) {
    return up(up(m, TILE_ROWS), c->cluster) * c->cluster * TILE_ROWS;
}

int64_t hopper_parts_bytes(int64_t m, int64_t n, int64_t k, int gated) {
    const hopper_choice widest = {.cluster = 2};
    const int64_t rows = hopper_part_rows(&widest, m);
    if (gated || up(k, STEP) < 2 * PART_STEPS) return 0;
    if (rows >= PARTS_BYTES || up(n, 4) * 16 > PARTS_BYTES / PARTS_MOST / rows) return PARTS_BYTES;
    return PARTS_MOST * rows * up(n, 4) * 16;
}

/* Parts of whole steps, none empty, each long enough, and all of them not too large. */
static int may_cut(const hopper_choice *c, int64_t m, int64_t n, int64_t k, int gated) {
    const int64_t steps = up(k, STEP), rows = hopper_part_rows(c, m);
    if (c->parts == 1) return 1;
    if (gated || steps / c->parts < PART_STEPS || up(steps, up(steps, c->parts)) != c->parts) return 0;
    return rows <= PARTS_BYTES && up(n, 4) * 16 <= PARTS_BYTES / c->parts / rows;
}

hopper_choice hopper_choose(int64_t m, int64_t n, int64_t k, int gated, int sms) {
    static const int columns[] = {256, 128};
    hopper_choice best = {256, 1, 1, ROWS_TOGETHER, 0};
    for (int parts = 1; parts <= PARTS_MOST; parts++)
        for (int i = 0; i < 2; i++)
            for (int cluster = 1; cluster <= (sms > 1 ? 2 : 1); cluster++) {
                hopper_choice c = {columns[i], cluster, parts, ROWS_TOGETHER / cluster, 0};
                if (!may_cut(&c, m, n, k, gated)) continue;
                c.cycles = hopper_predict(&c, m, n, k, gated, sms);
                if (best.cycles == 0 || c.cycles < best.cycles) best = c;
            }
    return best;
}
