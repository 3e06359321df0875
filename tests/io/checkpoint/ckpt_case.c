#include "tests/io/checkpoint/ckpt_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/box.h"
#include "base/file.h"

typedef struct shape {
    const char *name;
    weft_dtype dtype;
    uint32_t ndim;
    int64_t shape[4];
} shape;

static const shape tensors[] = {
    {"model/layers.00.attn.q.weight", WEFT_F32, 2, {96, 80}},
    {"model/layers.00.norm1.weight", WEFT_F32, 1, {80}},
    {"model/embed.tok.weight", WEFT_F32, 2, {1031, 72}},
    {"optim/m.odd", WEFT_BF16, 2, {37, 53}},
    {"sim/temperature", WEFT_F64, 3, {19, 23, 17}},
    {"sim/tiny", WEFT_I64, 1, {3}},
    {"sim/four", WEFT_F64, 4, {5, 6, 7, 8}},
};
#define TENSORS (sizeof tensors / sizeof *tensors)

static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

static void share(int64_t n, int i, int of, int64_t *lo, int64_t *len) {
    *lo = n * i / of;
    *len = n * (i + 1) / of - *lo;
}

/* The part of `rank`; 0: it has none. */
static int cut(const shape *t, case_layout layout, int rank, int size, weft_ckpt_part *p) {
    *p = (weft_ckpt_part){.name = t->name, .dtype = t->dtype, .ndim = t->ndim};
    memcpy(p->shape, t->shape, sizeof t->shape);
    weft_box b = weft_box_whole(t->ndim, p->shape);
    int rows = 1;
    int64_t n = 1, len;
    for (uint32_t d = 0; d < t->ndim; d++) n *= t->shape[d];
    switch (layout) {
    case CASE_REPLICATED: break;
    case CASE_ROOT:
        if (rank) return 0;
        break;
    case CASE_ROWS: share(t->shape[0], rank, size, &b.off[0], &b.ext[0]); break;
    case CASE_COLUMNS:
        share(t->shape[t->ndim - 1], rank, size, &b.off[t->ndim - 1], &b.ext[t->ndim - 1]);
        break;
    case CASE_TILES:
        while (size % (rows + 1) == 0 && rows * 2 < size) rows++;
        if (t->ndim < 2 || size % rows) rows = 1;
        share(t->shape[0], rank % rows, rows, &b.off[0], &b.ext[0]);
        if (t->ndim > 1) share(t->shape[1], rank / rows, size / rows, &b.off[1], &b.ext[1]);
        break;
    default:
        share(n, rank, size, &p->flat_lo, &len);
        p->flat_hi = p->flat_lo + len;
        return len > 0;
    }
    p->box = b;
    for (uint32_t d = 0; d < t->ndim; d++)
        if (b.ext[d] < 1) return 0;
    return 1;
}

static int64_t elements_of(const weft_ckpt_part *p) {
    return p->flat_hi ? p->flat_hi - p->flat_lo : weft_box_count(&p->box);
}

static void add(const shape *t, case_layout layout, int rank, int size, case_parts *c) {
    weft_ckpt_part p;
    if (!cut(t, layout, rank, size, &p)) return;
    c->elements[c->n] = elements_of(&p);
    p.ptr = calloc((size_t)c->elements[c->n] + 1, weft_dtype_size(t->dtype));
    assert_non_null(p.ptr);
    c->part[c->n++] = p;
}

void case_make(uint64_t seed, int rank, int size, case_parts *c) {
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < TENSORS; i++)
        add(&tensors[i], (case_layout)(mix(seed + 977 * i) % CASE_LAYOUTS), rank, size, c);
}

void case_make_as(case_layout layout, int rank, int size, case_parts *c) {
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < TENSORS; i++) add(&tensors[i], layout, rank, size, c);
}

/* Index in the whole tensor of element i of the part. */
static int64_t global(const weft_ckpt_part *p, int64_t i) {
    if (p->flat_hi) return p->flat_lo + i;
    int64_t at[WEFT_MAX_DIMS], flat = 0;
    for (uint32_t d = p->ndim; d-- > 0;) {
        at[d] = p->box.off[d] + i % p->box.ext[d];
        i /= p->box.ext[d];
    }
    for (uint32_t d = 0; d < p->ndim; d++) flat = flat * p->shape[d] + at[d];
    return flat;
}

static uint64_t bits_of(const weft_ckpt_part *p, int64_t i, int64_t v) {
    uint64_t h = mix((uint64_t)global(p, i) * 31 + (uint64_t)v * 7 + strlen(p->name));
    if (weft_dtype_size(p->dtype) == 2) h &= 0x3fff; /* no NaN that a conversion would change */
    return h;
}

void case_fill(case_parts *c, int64_t v) {
    for (size_t k = 0; k < c->n; k++) {
        const size_t w = weft_dtype_size(c->part[k].dtype);
        for (int64_t i = 0; i < c->elements[k]; i++) {
            const uint64_t b = bits_of(&c->part[k], i, v);
            memcpy((char *)c->part[k].ptr + (size_t)i * w, &b, w);
        }
    }
}

void case_scribble(case_parts *c) {
    for (size_t k = 0; k < c->n; k++)
        memset(c->part[k].ptr, 0xa5, (size_t)c->elements[k] * weft_dtype_size(c->part[k].dtype));
}

void case_check(const case_parts *c, int64_t v) {
    for (size_t k = 0; k < c->n; k++) {
        const size_t w = weft_dtype_size(c->part[k].dtype);
        for (int64_t i = 0; i < c->elements[k]; i++) {
            const uint64_t b = bits_of(&c->part[k], i, v);
            if (memcmp((char *)c->part[k].ptr + (size_t)i * w, &b, w) != 0)
                fail_msg("rank %d: %s: element %lld of the part is not that of version %lld", mpi_test_rank(),
                         c->part[k].name, (long long)i, (long long)v);
        }
    }
}

void case_free(case_parts *c) {
    for (size_t k = 0; k < c->n; k++) free(c->part[k].ptr);
    memset(c, 0, sizeof *c);
}

char *case_directory(void) {
    char *dir = calloc(1, 4096);
    const char *base = getenv("TMPDIR");
    assert_non_null(dir);
    if (!mpi_test_rank()) {
        snprintf(dir, 4096, "%s/weft-test-XXXXXX", base && *base ? base : "/tmp");
        assert_non_null(mkdtemp(dir));
    }
    MPI_Bcast(dir, 4096, MPI_CHAR, 0, MPI_COMM_WORLD);
    return dir;
}

void case_remove(char *dir) {
    MPI_Barrier(MPI_COMM_WORLD);
    if (!mpi_test_rank()) assert_int_equal(weft_remove_tree(dir), WEFT_OK);
    free(dir);
}
