/* Products of groups of rows, each with a matrix of its own, in one launch for up to GROUPS groups (what a launch knows
 * of them travels with its arguments: nothing is copied to the device first). The tiles are those of the portable
 * product, so every sum has the bits that gemm_simple gives it.
 *
 * NT and NN: the tiles of all groups stand in one row, and a block finds its group in a table of where each begins. TN: a
 * block takes a tile of one matrix through the groups that add to it, in their order: no two blocks write one element.
 * Source of the shape: Gale et al., MegaBlocks, 2022. */
#include "kernels/cuda/gemm_tile.cuh"

#define GROUPS 128 /* 2 KB of the arguments */
#define EDGE   64  /* of a tile: groups are often small */

struct group_table {
    int64_t first[GROUPS + 1];
    int32_t tile[GROUPS + 1];        /* NT, NN: where the row tiles of a group begin */
    int32_t groups, matrices, begin; /* begin: of the first of them among all */
    int64_t stride;
};

/* The group whose tiles tile t is among. */
EPI int group_of(const group_table &g, int32_t t) {
    int low = 0, high = g.groups - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (g.tile[middle] <= t)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Sets t to the tile of this block of a NT or NN product. */
template <class T> EPI void place_rows(gemm_tile *t, const group_table &g) {
    const int i = group_of(g, (int32_t)blockIdx.y);
    t->m.first = g.first[i] + (int64_t)((int32_t)blockIdx.y - g.tile[i]) * EDGE;
    t->m.end = g.first[i + 1];
    t->n.first = (int64_t)blockIdx.x * (t->n.half ? EDGE / 2 : EDGE);
    t->b.p = (const T *)t->b.p + (g.begin + i) % g.matrices * g.stride;
}

template <int B_K>
__global__ void __launch_bounds__(128) rows16(const gemm_tile given, const gemm_epi e, const group_table g) {
    WEFT_DYNAMIC(memory);
    float sum[2][4][4];
    gemm_tile t = given;
    place_rows<uint16_t>(&t, g);
    tile_sums16<EDGE, EDGE, 32, 32, 1, B_K>(sum, t, memory);
    tile_store16<EDGE, EDGE, 32, 32>(sum, e, t.m, t.n.first, memory);
}
template <int B_K>
__global__ void __launch_bounds__(TILE_THREADS32, 2)
    rows32(const gemm_tile given, const gemm_epi e, const group_table g) {
    WEFT_DYNAMIC(memory);
    float sum[EDGE / 16][EDGE / 16];
    gemm_tile t = given;
    place_rows<float>(&t, g);
    tile_sums32<EDGE, EDGE, 1, B_K>(sum, t, memory);
    tile_store32<EDGE, EDGE>(sum, e, t.m, t.n.first, memory);
}

/* TN: block (x, y, z) has tile (y, x) of the matrix that group z is the first to add to. */
template <class T>
EPI void place_sum(gemm_tile *t, gemm_epi *e, const gemm_tile &given, const gemm_epi &whole,
                   const group_table &g, int i) {
    const int64_t row = g.first[i];
    *t = given;
    *e = whole;
    t->m.first = (int64_t)blockIdx.y * EDGE;
    t->n.first = (int64_t)blockIdx.x * EDGE;
    t->k = g.first[i + 1] - row;
    t->a.p = (const T *)given.a.p + row * given.a.ld;
    t->b.p = (const T *)given.b.p + row * given.b.ld;
    e->c = (float *)whole.c + (g.begin + i) % g.matrices * g.stride;
}

__global__ void __launch_bounds__(128)
    sums16(const gemm_tile given, const gemm_epi whole, const group_table g) {
    WEFT_DYNAMIC(memory);
    for (int i = (int)blockIdx.z; i < g.groups; i += g.matrices) {
        float sum[2][4][4];
        gemm_tile t;
        gemm_epi e;
        if (g.first[i] == g.first[i + 1]) continue;
        place_sum<uint16_t>(&t, &e, given, whole, g, i);
        tile_sums16<EDGE, EDGE, 32, 32, 0, 0>(sum, t, memory);
        tile_store16<EDGE, EDGE, 32, 32>(sum, e, t.m, t.n.first, memory);
    }
}
__global__ void __launch_bounds__(TILE_THREADS32, 2)
    sums32(const gemm_tile given, const gemm_epi whole, const group_table g) {
    WEFT_DYNAMIC(memory);
    for (int i = (int)blockIdx.z; i < g.groups; i += g.matrices) {
        float sum[EDGE / 16][EDGE / 16];
        gemm_tile t;
        gemm_epi e;
        if (g.first[i] == g.first[i + 1]) continue;
        place_sum<float>(&t, &e, given, whole, g, i);
        tile_sums32<EDGE, EDGE, 0, 0>(sum, t, memory);
        tile_store32<EDGE, EDGE>(sum, e, t.m, t.n.first, memory);
    }
}

/* --- the launches ---------------------------------------------------------------------------------------------------------- */

/* The groups from `begin` on that go into one launch: up to GROUPS, and up to the row tiles that a grid has. */
#define ROW_TILES 65535
static weft_status fill_table(const weft_groups *g, int32_t begin, int tiles, group_table *t) {
    memset(t, 0, sizeof *t);
    t->matrices = g->matrices;
    t->stride = g->stride;
    t->begin = begin;
    t->first[0] = g->first[begin];
    for (int32_t i = begin; i < g->groups && t->groups < GROUPS; i++) {
        const int64_t more = tiles ? divup(g->first[i + 1] - g->first[i], EDGE) : 0;
        if (t->tile[t->groups] + more > ROW_TILES) break;
        t->first[t->groups + 1] = g->first[i + 1];
        t->tile[t->groups + 1] = t->tile[t->groups] + (int32_t)more;
        t->groups++;
    }
    if (t->groups) return WEFT_OK;
    return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm_groups: group %d has %lld rows, at most %d are possible",
                     begin, (long long)(g->first[begin + 1] - g->first[begin]), ROW_TILES * EDGE);
}

static weft_status launch_rows(weft_exec *x, const gemm_call *p, const gemm_tile *t, const group_table *g) {
    const gemm_epi e = epi_of(p->d, p->c, p->e);
    const int64_t columns = t->n.half ? divup(t->n.half, EDGE / 2) : divup(p->d->n, EDGE);
    const dim3 grid((unsigned)columns, (unsigned)g->tile[g->groups]);
    if (p->d->a == WEFT_BF16) {
        if (p->d->trans_b)
            return cuda_launch(x, "gemm_groups", rows16<1>, grid, dim3(128),
                               shared16<EDGE, EDGE, 1, 1>::BYTES, *t, e, *g);
        return cuda_launch(x, "gemm_groups", rows16<0>, grid, dim3(128), shared16<EDGE, EDGE, 1, 0>::BYTES,
                           *t, e, *g);
    }
    return cuda_launch(x, "gemm_groups", p->d->trans_b ? rows32<1> : rows32<0>, grid, dim3(TILE_THREADS32),
                       shared32<EDGE, EDGE>::BYTES, *t, e, *g);
}

static weft_status launch_sums(weft_exec *x, const gemm_call *p, const gemm_tile *t, const group_table *g) {
    gemm_epi e = epi_of(p->d, p->c, NULL);
    if (g->stride % 2) e.pairs = 0;
    const int32_t matrices = g->groups < g->matrices ? g->groups : g->matrices;
    const dim3 grid((unsigned)divup(p->d->n, EDGE), (unsigned)divup(p->d->m, EDGE), (unsigned)matrices);
    if (p->d->a == WEFT_BF16)
        return cuda_launch(x, "gemm_groups", sums16, grid, dim3(128), shared16<EDGE, EDGE, 0, 0>::BYTES, *t,
                           e, *g);
    return cuda_launch(x, "gemm_groups", sums32, grid, dim3(TILE_THREADS32), shared32<EDGE, EDGE>::BYTES, *t,
                       e, *g);
}

size_t cuda_gemm_groups_scratch(const weft_backend *b, const weft_gemm_desc *d) {
    (void)b;
    (void)d;
    return 0;
}

weft_status cuda_gemm_groups(weft_exec *x, const weft_gemm_desc *d, const weft_groups *g, const void *a,
                             const void *b, void *c, const weft_epilogue *e) {
    WEFT_TRY(weft_check_groups(d, g, a, b, c, e));
    const gemm_call call = {d, a, b, c, e};
    const int64_t each = 16 / (int64_t)weft_dtype_size(d->a);
    gemm_tile t = gemm_tile_of(&call);
    if (d->n == 0 || (d->trans_a && d->m == 0)) return WEFT_OK;
    if (!d->trans_a && g->stride % each) t.b.chunks = 0;
    if (d->trans_a && divup(d->m, EDGE) > ROW_TILES)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm_groups: matrices of %lld rows", (long long)d->m);
    for (int32_t begin = 0; begin < g->groups;) {
        group_table table;
        WEFT_TRY(fill_table(g, begin, !d->trans_a, &table));
        begin += table.groups;
        WEFT_TRY(d->trans_a ? launch_sums(x, &call, &t, &table) : launch_rows(x, &call, &t, &table));
    }
    return WEFT_OK;
}
