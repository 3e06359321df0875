/* The plan of a save; see plan.h.
 *
 * Usually all ranks hold the same parts (data parallelism): they find out by one small reduction, and nothing more is
 * sent. Otherwise rank 0 gathers all parts and tells them to all. From there on every rank computes alike: parts sorted
 * by tensor and place, equal ones are one set with several owners; sets are dealt to files by bytes, and the segments of
 * each set to its owners by bytes, the least loaded first. */
#include "io/checkpoint/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "comm/ctrl.h"
#include "io/container/container.h"

typedef struct wire_part { /* a part as it is sent */
    char name[WEFT_CKPT_NAME_MAX + 1];
    uint32_t dtype, ndim;
    int64_t shape[WEFT_MAX_DIMS];
    ckpt_piece piece;
    int32_t rank, index; /* whose, and which of its parts */
} wire_part;

void ckpt_plan_free(ckpt_plan *p) {
    ckpt_table_free(&p->table);
    free(p->leader);
    free(p->file_set);
    free(p->file_end);
    free(p->in_file);
    free(p->segment);
    free(p->mine);
    free(p->part);
    memset(p, 0, sizeof *p);
}

/* --- the parts of one rank -------------------------------------------------------------------------------------- */

static weft_status wire_of(const weft_ckpt_part *q, int rank, int index, wire_part *w) {
    int64_t elements;
    memset(w, 0, sizeof *w); /* they are compared as bytes */
    if (!q->name || !ckpt_name_ok(q->name))
        return weft_fail(WEFT_ERR_ARG, "part %d: '%s' is no name for a tensor", index,
                         q->name ? q->name : "");
    if (ckpt_elements(q->dtype, q->ndim, q->shape) < 0)
        return weft_fail(WEFT_ERR_ARG, "part %d: tensor %s has an impossible type or shape", index, q->name);
    memcpy(w->name, q->name, strlen(q->name));
    w->dtype = (uint32_t)q->dtype;
    w->ndim = q->ndim;
    memcpy(w->shape, q->shape, q->ndim * sizeof *w->shape);
    if (q->flat_lo || q->flat_hi) {
        w->piece.flat_lo = q->flat_lo;
        w->piece.flat_hi = q->flat_hi;
    } else if (q->box.ndim && q->box.ndim <= WEFT_MAX_DIMS) {
        w->piece.box.ndim = q->box.ndim;
        memcpy(w->piece.box.off, q->box.off, q->box.ndim * sizeof *q->box.off);
        memcpy(w->piece.box.ext, q->box.ext, q->box.ndim * sizeof *q->box.ext);
    }
    if (!ckpt_piece_ok(&w->piece, w->ndim, w->shape, &elements))
        return weft_fail(WEFT_ERR_ARG, "part %d: it leaves tensor %s, or is empty", index, q->name);
    w->rank = rank;
    w->index = index;
    return WEFT_OK;
}

static weft_status wire_all(const weft_ckpt_part *parts, size_t n, int rank, wire_part *w) {
    if (n > CKPT_MAX_TENSORS) return weft_fail(WEFT_ERR_ARG, "%zu parts on one rank", n);
    for (size_t i = 0; i < n; i++) WEFT_TRY(wire_of(&parts[i], rank, (int)i, &w[i]));
    return WEFT_OK;
}

uint64_t ckpt_signature(const weft_ckpt_part *parts, size_t n, int files, int64_t segment_bytes) {
    const int64_t head[3] = {(int64_t)n, files, segment_bytes};
    uint64_t h = XXH3_64bits(head, sizeof head);
    wire_part w;
    for (size_t i = 0; i < n; i++)
        h = wire_of(&parts[i], 0, (int)i, &w) < 0 ? 0 : XXH3_64bits_withSeed(&w, sizeof w, h);
    return h;
}

/* --- the parts of all ------------------------------------------------------------------------------------------- */

typedef struct whole { /* what all ranks hold */
    wire_part *part;
    size_t n;
    int replicated; /* part is the list of each rank */
} whole;

static weft_status all_alike(weft_group *g, uint64_t signature, int *alike) {
    uint64_t v[2] = {signature, ~signature};
    WEFT_TRY(weft_ctrl_allreduce(g, v, 2, WEFT_U64, WEFT_MAX));
    *alike = v[0] == ~v[1];
    return WEFT_OK;
}

/* Everybody's parts on everybody. Lists are padded to the longest. */
static weft_status exchange(weft_group *g, const wire_part *mine, size_t n, whole *all) {
    const int size = weft_group_size(g), rank = weft_group_rank(g);
    int64_t most = (int64_t)n, total = (int64_t)n;
    WEFT_TRY(weft_ctrl_allreduce(g, &most, 1, WEFT_I64, WEFT_MAX));
    WEFT_TRY(weft_ctrl_allreduce(g, &total, 1, WEFT_I64, WEFT_SUM));
    const size_t room = (size_t)most;
    wire_part *send = weft_calloc(room ? room : 1, sizeof *send);
    wire_part *recv = rank == 0 ? weft_calloc(room * (size_t)size + 1, sizeof *recv) : NULL;
    all->part = weft_calloc((size_t)total + 1, sizeof *all->part);
    all->n = (size_t)total;
    weft_status s = send && (recv || rank != 0) && all->part ? WEFT_OK : WEFT_ERR_NOMEM;
    s = weft_ctrl_agree(g, s);
    if (s >= 0) {
        if (n) memcpy(send, mine, n * sizeof *send);
        s = weft_ctrl_gather(g, send, room * sizeof *send, recv, 0);
    }
    if (s >= 0 && rank == 0) { /* padding has no name */
        size_t k = 0;
        for (size_t i = 0; i < room * (size_t)size; i++)
            if (recv[i].name[0]) all->part[k++] = recv[i];
    }
    if (s >= 0) s = weft_ctrl_bcast(g, all->part, all->n * sizeof *all->part, 0);
    free(send);
    free(recv);
    return s;
}

/* --- sets ------------------------------------------------------------------------------------------------------- */

static int by_place(const void *x, const void *y) {
    const wire_part *a = x, *b = y;
    int order = strcmp(a->name, b->name);
    if (!order) order = ckpt_piece_order(&a->piece, &b->piece);
    return order ? order : (a->rank > b->rank) - (a->rank < b->rank);
}

static weft_status same_tensor(const wire_part *a, const wire_part *b) {
    if (a->dtype == b->dtype && a->ndim == b->ndim && !memcmp(a->shape, b->shape, sizeof a->shape))
        return WEFT_OK;
    return weft_fail(WEFT_ERR_SHAPE, "ranks %d and %d give tensor %s another type or shape", a->rank, b->rank,
                     a->name);
}

/* A piece is the dataset "/tensor/number": no other tensor may need a group of that name. */
static weft_status names_apart(const ckpt_table *t) {
    char name[WEFT_CKPT_NAME_MAX + 1];
    for (size_t i = 0; i < t->ntensors; i++) {
        snprintf(name, sizeof name, "%s", t->tensor[i].name);
        for (char *p; (p = strrchr(name, '/'));) {
            const int number = !p[1 + strspn(p + 1, "0123456789")];
            *p = 0;
            if (number && ckpt_table_find(t, name))
                return weft_fail(WEFT_ERR_ARG, "tensor %s has the name of a piece of tensor %s",
                                 t->tensor[i].name, name);
        }
    }
    return WEFT_OK;
}

/* Sorted parts -> tensors and sets. owner[i]: where the parts of set i begin in w; owner[nsets] = n. */
static weft_status make_table(const wire_part *w, size_t n, int replicated, ckpt_table *t, size_t *owner) {
    for (size_t i = 0; i < n; i++) {
        const int new_tensor = !i || strcmp(w[i].name, w[i - 1].name) != 0;
        if (!new_tensor) WEFT_TRY(same_tensor(&w[i - 1], &w[i]));
        if (!new_tensor && !ckpt_piece_order(&w[i].piece, &w[i - 1].piece)) {
            if (w[i].rank == w[i - 1].rank || replicated)
                return weft_fail(WEFT_ERR_ARG, "rank %d gives a part of tensor %s twice", w[i].rank,
                                 w[i].name);
            continue;
        }
        if (new_tensor) {
            ckpt_tensor *e = &t->tensor[t->ntensors++];
            *e = (ckpt_tensor){.dtype = (weft_dtype)w[i].dtype, .ndim = w[i].ndim, .first = t->nsets};
            memcpy(e->shape, w[i].shape, sizeof e->shape);
            e->elements = ckpt_elements(e->dtype, e->ndim, e->shape);
            if (!(e->name = weft_strdup(w[i].name))) return WEFT_ERR_NOMEM;
        }
        ckpt_tensor *e = &t->tensor[t->ntensors - 1];
        owner[t->nsets] = i;
        ckpt_set *set = &t->set[t->nsets++];
        *set = (ckpt_set){.tensor = t->ntensors - 1, .piece = w[i].piece, .number = (uint32_t)e->n++};
        ckpt_piece_ok(&set->piece, e->ndim, e->shape, &set->elements);
    }
    owner[t->nsets] = n;
    WEFT_TRY(names_apart(t));
    return ckpt_table_covers(t);
}

static int64_t set_bytes(const ckpt_table *t, size_t i) {
    return t->set[i].elements * (int64_t)weft_dtype_size(t->tensor[t->set[i].tensor].dtype);
}

/* --- files and segments ------------------------------------------------------------------------------------------ */

static int least(const int64_t *load, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (load[i] < load[best]) best = i;
    return best;
}

static weft_status deal_files(ckpt_plan *p) {
    ckpt_table *t = &p->table;
    int64_t *load = weft_calloc((size_t)p->nfiles, sizeof *load);
    if (!load) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < t->nsets; i++) {
        t->set[i].file = least(load, p->nfiles);
        load[t->set[i].file] += set_bytes(t, i);
        p->bytes += set_bytes(t, i);
    }
    free(load);
    size_t k = 0;
    for (int f = 0; f < p->nfiles; f++) {
        const size_t begin = k;
        for (size_t i = 0; i < t->nsets; i++)
            if (t->set[i].file == f) {
                p->in_file[i] = (uint32_t)(k - begin);
                p->file_set[k++] = i;
            }
        p->file_end[f] = k;
        if (k - begin >= WEFT_CONTAINER_MAX_DATASETS)
            return weft_fail(WEFT_ERR_ARG, "a checkpoint of %zu pieces needs more than %d files", t->nsets,
                             p->nfiles);
    }
    return WEFT_OK;
}

/* A segment goes to its owner that has least so far; small sets, which may share a page of the file, to the first. */
static weft_status deal_segments(ckpt_plan *p, const wire_part *w, const size_t *owner, int replicated,
                                 int size) {
    const ckpt_table *t = &p->table;
    int64_t *load = weft_calloc((size_t)size, sizeof *load);
    if (!load) return WEFT_ERR_NOMEM;
    for (size_t k = 0; k < t->nsets; k++) {
        const size_t i = p->file_set[k];
        const int64_t bytes = set_bytes(t, i);
        for (int64_t at = 0; at < bytes; at += p->segment_bytes) {
            ckpt_segment *g = &p->segment[p->nsegments++];
            *g = (ckpt_segment){.set = (uint32_t)i, .number = (uint32_t)(at / p->segment_bytes)};
            g->bytes = bytes - at < p->segment_bytes ? bytes - at : p->segment_bytes;
            g->rank = replicated ? 0 : w[owner[i]].rank;
            if (bytes >= 4096) {
                if (replicated) g->rank = least(load, size);
                for (size_t q = owner[i]; !replicated && q < owner[i + 1]; q++)
                    if (load[w[q].rank] < load[g->rank]) g->rank = w[q].rank;
            }
            load[g->rank] += g->bytes;
        }
    }
    free(load);
    return WEFT_OK;
}

static weft_status take_mine(ckpt_plan *p, const wire_part *w, const size_t *owner, int replicated,
                             int rank) {
    for (size_t i = 0; i < p->table.nsets; i++) {
        p->part[i] = -1;
        for (size_t q = owner[i]; q < owner[i + 1]; q++)
            if (replicated || w[q].rank == rank) p->part[i] = w[q].index;
    }
    for (size_t k = 0; k < p->nsegments; k++) p->nmine += p->segment[k].rank == rank;
    if (!(p->mine = weft_calloc(p->nmine + 1, sizeof *p->mine))) return WEFT_ERR_NOMEM;
    p->nmine = 0;
    for (size_t k = 0; k < p->nsegments; k++)
        if (p->segment[k].rank == rank) p->mine[p->nmine++] = k;
    return WEFT_OK;
}

static weft_status choose_leaders(weft_group *g, int files, ckpt_plan *p) {
    const int size = weft_group_size(g), nodes = weft_group_nodes(g);
    p->nfiles = files ? files : nodes;
    if ((size_t)p->nfiles > p->table.nsets) p->nfiles = (int)p->table.nsets;
    if (p->nfiles > CKPT_MAX_FILES) p->nfiles = CKPT_MAX_FILES;
    if (!(p->leader = weft_calloc((size_t)p->nfiles, sizeof *p->leader))) return WEFT_ERR_NOMEM;
    for (int f = 0; f < p->nfiles; f++)
        p->leader[f] =
            p->nfiles == nodes ? weft_group_node_leader(g, f) : (int)((int64_t)f * size / p->nfiles);
    return WEFT_OK;
}

static weft_status build(weft_group *g, whole *all, int files, ckpt_plan *p) {
    const int size = weft_group_size(g), rank = weft_group_rank(g);
    ckpt_table *t = &p->table;
    if (!all->n) return weft_fail(WEFT_ERR_ARG, "a checkpoint of no tensors");
    qsort(all->part, all->n, sizeof *all->part, by_place);
    size_t *owner = weft_calloc(all->n + 1, sizeof *owner), segments = 0;
    t->tensor = weft_calloc(all->n, sizeof *t->tensor);
    t->set = weft_calloc(all->n, sizeof *t->set);
    weft_status s = owner && t->tensor && t->set ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) s = make_table(all->part, all->n, all->replicated, t, owner);
    if (s >= 0) s = choose_leaders(g, files, p);
    for (size_t i = 0; s >= 0 && i < t->nsets; i++)
        segments += (size_t)((set_bytes(t, i) - 1) / p->segment_bytes) + 1;
    if (s >= 0) {
        p->file_set = weft_calloc(t->nsets, sizeof *p->file_set);
        p->file_end = weft_calloc((size_t)p->nfiles, sizeof *p->file_end);
        p->in_file = weft_calloc(t->nsets, sizeof *p->in_file);
        p->part = weft_calloc(t->nsets, sizeof *p->part);
        p->segment = weft_calloc(segments, sizeof *p->segment);
        if (!p->file_set || !p->file_end || !p->in_file || !p->part || !p->segment) s = WEFT_ERR_NOMEM;
    }
    if (s >= 0) s = deal_files(p);
    if (s >= 0) s = deal_segments(p, all->part, owner, all->replicated, size);
    if (s >= 0) s = take_mine(p, all->part, owner, all->replicated, rank);
    free(owner);
    return s;
}

weft_status ckpt_plan_make(weft_group *g, const weft_ckpt_part *parts, size_t n, int files,
                           int64_t segment_bytes, ckpt_plan *p) {
    memset(p, 0, sizeof *p);
    p->segment_bytes = segment_bytes;
    p->signature = ckpt_signature(parts, n, files, segment_bytes);
    wire_part *mine = weft_calloc(n + 1, sizeof *mine);
    whole all = {.n = n};
    weft_status s = mine ? wire_all(parts, n, weft_group_rank(g), mine) : WEFT_ERR_NOMEM;
    s = weft_ctrl_agree(g, s);
    if (s >= 0) s = all_alike(g, p->signature, &all.replicated);
    if (s >= 0 && !all.replicated) s = exchange(g, mine, n, &all);
    if (s >= 0) {
        if (all.replicated) all.part = mine;
        s = weft_ctrl_agree(g, build(g, &all, files, p));
    }
    if (all.part != mine) free(all.part);
    free(mine);
    p->made = s >= 0;
    return s;
}
