/* Tensors -> buckets -> messages; see plan.h. */
#include "comm/plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"

#define ALIGN 64 /* cuts keep whole cache lines together */
#define UNIT  16 /* elements: parts of ranks are multiples of it */

static const weft_dtype dtypes[] = {WEFT_F32, WEFT_BF16, WEFT_F64, WEFT_I32, WEFT_I64};

static const char *name_of(const weft_tensor *t) {
    return t->name ? t->name : "unnamed";
}

static size_t bytes_of(const weft_tensor *t) {
    return t->n * weft_dtype_size(t->t);
}

static uintptr_t end_of(const weft_tensor *t) {
    return (uintptr_t)t->ptr + bytes_of(t);
}

static weft_status check_tensor(const weft_tensor *t, int i) {
    size_t bytes;
    int known = 0;
    for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++) known |= dtypes[k] == t->t;
    if (!known)
        return weft_fail(WEFT_ERR_ARG, "tensor %d '%s': dtype %s; f32, f64, bf16, i32 and i64 can be reduced",
                         i, name_of(t), weft_dtype_name(t->t));
    if (!weft_mul_ok(t->n, weft_dtype_size(t->t), &bytes) || bytes > SIZE_MAX / 4)
        return weft_fail(WEFT_ERR_ARG, "tensor %d '%s': %zu elements exceed the address space", i, name_of(t),
                         t->n);
    if (!t->ptr && t->n) return weft_fail(WEFT_ERR_ARG, "tensor %d '%s': no memory", i, name_of(t));
    return WEFT_OK;
}

static int by_address(const void *a, const void *b) {
    const weft_tensor *x = *(const weft_tensor *const *)a, *y = *(const weft_tensor *const *)b;
    if (x->ptr != y->ptr) return (uintptr_t)x->ptr < (uintptr_t)y->ptr ? -1 : 1;
    return (x->n > y->n) - (x->n < y->n);
}

/* Memory that stands in two tensors (a tied weight listed twice) would be summed twice. What is only sent may overlap
 * what is only sent: tensors before `senders`. */
static weft_status check_overlap(int nt, const weft_tensor *t, int senders) {
    const weft_tensor **sorted = weft_calloc((size_t)nt, sizeof *sorted);
    if (!sorted) return WEFT_ERR_NOMEM;
    int m = 0;
    for (int i = 0; i < nt; i++)
        if (t[i].n) sorted[m++] = &t[i];
    qsort(sorted, (size_t)m, sizeof *sorted, by_address);
    const weft_tensor *any = NULL, *written = NULL; /* those that reach furthest so far */
    weft_status s = WEFT_OK;
    for (int i = 0; i < m && s == WEFT_OK; i++) {
        const int writes = sorted[i] - t >= senders;
        const weft_tensor *other = writes ? any : written;
        if (other && end_of(other) > (uintptr_t)sorted[i]->ptr)
            s = weft_fail(WEFT_ERR_ARG, "tensors '%s' and '%s' overlap in memory", name_of(other),
                          name_of(sorted[i]));
        if (!any || end_of(sorted[i]) > end_of(any)) any = sorted[i];
        if (writes && (!written || end_of(sorted[i]) > end_of(written))) written = sorted[i];
    }
    free(sorted);
    return s;
}

/* --- parts of ranks -------------------------------------------------------------------------------------- */

static size_t ceil_div(size_t a, size_t b) {
    assert(b > 0);
    return a / b + (a % b != 0);
}

/* Elements of a rank's part, but for the last ones. */
static size_t part_of(size_t n, int size) {
    return weft_align_up(ceil_div(n, (size_t)size), UNIT);
}

void weft_part(size_t n, int size, int r, size_t *lo, size_t *hi) {
    const size_t part = part_of(n, size);
    *lo = part > 0 && (size_t)r > n / part ? n : (size_t)r * part;
    *hi = n - *lo < part ? n : *lo + part;
}

static int by_parts(weft_bulk_kind k) {
    return k == WEFT_BULK_REDUCE_SCATTER || k == WEFT_BULK_ALLGATHER;
}

/* Pieces of a rank's part so that `size` of them fit into a message, if that is possible at all. */
static size_t part_pieces(size_t n, int size, size_t unit, size_t message) {
    const size_t most = message / unit / (size_t)size / UNIT * UNIT;
    return ceil_div(part_of(n, size), most > UNIT ? most : UNIT);
}

/* --- arrays: counted first, so that each is allocated once ----------------------------------------------- */

typedef struct builder {
    plan *p;
    int nt;
    const weft_tensor *t;
    size_t bucket, message;
} builder;

static size_t messages_of(const builder *b, const weft_tensor *t) {
    const size_t bytes = bytes_of(t);
    if (b->p->kind == WEFT_BULK_ALLTOALLV) return ceil_div(bytes, b->p->piece);
    if (!by_parts(b->p->kind)) return ceil_div(bytes, b->message);
    return t->n ? part_pieces(t->n, b->p->size, weft_dtype_size(t->t), b->message) : 0;
}

static weft_status make_room(const builder *b) {
    plan *p = b->p;
    size_t most = 0, spans, per = by_parts(p->kind) ? (size_t)p->size : 1;
    for (int i = 0; i < b->nt; i++) {
        const size_t m = messages_of(b, &b->t[i]);
        if (p->kind == WEFT_BULK_ALLTOALLV) {
            per = 2 * (size_t)p->size;
            most = m > most ? m : most;
        } else if (!weft_add_ok(most, m ? m : 1, &most)) { /* a packed message holds at least one tensor */
            most = SIZE_MAX;
        }
    }
    if (most > INT32_MAX / 2 || !weft_mul_ok(most, per, &spans) || spans > INT32_MAX / 2)
        return weft_fail(WEFT_ERR_ARG, "more than 2^30 messages: raise the message size");
    p->bucket = weft_calloc((size_t)b->nt, sizeof *p->bucket);
    p->message = weft_calloc(most + 1, sizeof *p->message);
    p->span = weft_calloc(spans + 1, sizeof *p->span);
    p->order = weft_calloc((size_t)b->nt, sizeof *p->order);
    p->bucket_of = weft_calloc((size_t)b->nt, sizeof *p->bucket_of);
    return p->bucket && p->message && p->span && p->order && p->bucket_of ? WEFT_OK : WEFT_ERR_NOMEM;
}

static plan_message *add_message(plan *p, weft_dtype t, int bucket) {
    plan_message *m = &p->message[p->nmessages++];
    *m = (plan_message){.type = t, .bucket = bucket, .span0 = p->nspans};
    return m;
}

static void add_span(plan *p, plan_message *m, char *at, const char *in, size_t bytes) {
    p->span[p->nspans++] = (plan_span){at, in, bytes};
    m->nspans++;
    m->n += bytes / weft_dtype_size(m->type);
    if (m->n * weft_dtype_size(m->type) > p->most) p->most = m->n * weft_dtype_size(m->type);
}

/* --- ALLREDUCE, BCAST ------------------------------------------------------------------------------------ */

static void add_packed(plan *p, plan_message *m, char *at, size_t bytes) {
    plan_span *last = m->nspans ? &p->span[p->nspans - 1] : NULL;
    if (!last || last->at + last->bytes != at) {
        add_span(p, m, at, at, bytes);
        return;
    }
    last->bytes += bytes;
    m->n += bytes / weft_dtype_size(m->type);
    if (m->n * weft_dtype_size(m->type) > p->most) p->most = m->n * weft_dtype_size(m->type);
}

/* Equal pieces of whole cache lines: no short tail message. */
static void cut(const builder *b, const weft_tensor *t, int bucket) {
    const size_t bytes = bytes_of(t);
    const size_t piece = weft_align_up(ceil_div(bytes, messages_of(b, t)), ALIGN);
    for (size_t at = 0; at < bytes; at += piece) {
        char *here = (char *)t->ptr + at;
        add_span(b->p, add_message(b->p, t->t, bucket), here, here, bytes - at < piece ? bytes - at : piece);
    }
}

static int is_small(const builder *b, const weft_tensor *t) {
    return bytes_of(t) < b->message / 4;
}

static void cut_bucket(const builder *b, int bucket) {
    plan *p = b->p;
    const plan_bucket *k = &p->bucket[bucket];
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        plan_message *open = NULL;
        for (int i = 0; i <= k->last - k->first; i++) {
            /* by ascending address, as far as anybody knows */
            const weft_tensor *t = &b->t[p->order[p->kind == WEFT_BULK_BCAST ? k->first + i : k->last - i]];
            const size_t bytes = bytes_of(t);
            if (t->t != dtypes[d] || !bytes || !is_small(b, t)) continue;
            if (open && open->n * weft_dtype_size(open->type) + bytes > b->message) open = NULL;
            if (!open) open = add_message(p, t->t, bucket);
            add_packed(p, open, t->ptr, bytes);
        }
    }
    for (int i = k->first; i <= k->last; i++)
        if (b->t[p->order[i]].n && !is_small(b, &b->t[p->order[i]])) cut(b, &b->t[p->order[i]], bucket);
}

/* --- REDUCE_SCATTER, ALLGATHER, ALLTOALLV ---------------------------------------------------------------- */

static void cut_parts(const builder *b, const weft_tensor *t, int bucket) {
    const size_t unit = weft_dtype_size(t->t), pieces = messages_of(b, t);
    const size_t piece = pieces ? weft_align_up(ceil_div(part_of(t->n, b->p->size), pieces), UNIT) : 0;
    for (size_t k = 0; k < pieces; k++) {
        plan_message *m = add_message(b->p, t->t, bucket);
        for (int r = 0; r < b->p->size; r++) {
            size_t lo, hi;
            weft_part(t->n, b->p->size, r, &lo, &hi);
            lo = hi - lo < k * piece ? hi : lo + k * piece;
            char *at = (char *)t->ptr + lo * unit;
            add_span(b->p, m, at, at, (hi - lo < piece ? hi - lo : piece) * unit);
        }
    }
}

static void cut_alltoallv(const builder *b) {
    plan *p = b->p;
    size_t most = 0;
    for (int i = 0; i < b->nt; i++)
        if (messages_of(b, &b->t[i]) > most) most = messages_of(b, &b->t[i]);
    for (size_t k = 0; k < most; k++) {
        plan_message *m = add_message(p, WEFT_U8, 0);
        for (int i = 0; i < b->nt; i++) {
            const size_t bytes = bytes_of(&b->t[i]), lo = bytes < k * p->piece ? bytes : k * p->piece;
            const size_t now = bytes - lo < p->piece ? bytes - lo : p->piece;
            char *at = b->t[i].n ? (char *)b->t[i].ptr + lo : NULL;
            add_span(p, m, i < p->size ? NULL : at, i < p->size ? at : NULL, now);
        }
    }
    p->nbuckets = 1;
    p->bucket[0] = (plan_bucket){.first = 0, .last = b->nt - 1, .end = p->nmessages};
    for (int i = 0; i < b->nt; i++) p->order[i] = i;
}

void plan_lengths(plan *p, const size_t *bytes, const weft_tensor *t, void *const *place) {
    const int tensors = 2 * p->size;
    size_t most = 0;
    for (int i = 0; i < tensors; i++) {
        const size_t pieces = ceil_div(bytes[i], p->piece);
        most = pieces > most ? pieces : most;
    }
    p->nmessages = p->bucket[0].end = (int)most;
    for (int k = 0; k < p->nmessages; k++) {
        plan_message *m = &p->message[k];
        const size_t at = (size_t)k * p->piece;
        m->n = 0;
        for (int i = 0; i < tensors; i++) {
            const size_t left = bytes[i] > at ? bytes[i] - at : 0, now = left < p->piece ? left : p->piece;
            char *from = now ? (char *)(place ? place[i] : t[i].ptr) + at : NULL;
            p->span[m->span0 + i] = (plan_span){i < p->size ? NULL : from, i < p->size ? from : NULL, now};
            m->n += now;
        }
    }
}

/* --- all ------------------------------------------------------------------------------------------------- */

typedef struct prio_index {
    int prio, index;
} prio_index;

static int by_prio(const void *a, const void *b) {
    const prio_index *x = a, *y = b;
    if (x->prio != y->prio) return x->prio < y->prio ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static weft_status sort_tensors(const builder *b) {
    plan *p = b->p;
    const int sums = p->kind == WEFT_BULK_ALLREDUCE || p->kind == WEFT_BULK_REDUCE_SCATTER;
    for (int i = 0; i < b->nt; i++) p->order[i] = b->nt - 1 - i;
    if (sums) return WEFT_OK;
    prio_index *k = weft_calloc((size_t)b->nt, sizeof *k);
    if (!k) return WEFT_ERR_NOMEM;
    for (int i = 0; i < b->nt; i++) k[i] = (prio_index){b->t[i].prio, i};
    qsort(k, (size_t)b->nt, sizeof *k, by_prio);
    for (int i = 0; i < b->nt; i++) p->order[i] = k[i].index;
    free(k);
    return WEFT_OK;
}

static void fill_buckets(const builder *b) {
    plan *p = b->p;
    size_t bytes = 0;
    for (int i = 0; i < b->nt; i++) {
        const size_t now = bytes_of(&b->t[p->order[i]]);
        if (p->nbuckets == 0 || (bytes && bytes + now > b->bucket)) {
            p->bucket[p->nbuckets++] = (plan_bucket){.first = i, .last = i};
            bytes = 0;
        }
        bytes += now;
        p->bucket[p->nbuckets - 1].last = i;
        p->bucket_of[p->order[i]] = p->nbuckets - 1;
    }
    for (int k = 0; k < p->nbuckets; k++) {
        if (!by_parts(p->kind)) cut_bucket(b, k);
        for (int i = p->bucket[k].first; by_parts(p->kind) && i <= p->bucket[k].last; i++)
            cut_parts(b, &b->t[p->order[i]], k);
        p->bucket[k].end = p->nmessages;
    }
}

static weft_status build(const builder *b) {
    const int senders = b->p->kind == WEFT_BULK_ALLTOALLV ? b->p->size : 0;
    for (int i = 0; i < b->nt; i++) WEFT_TRY(check_tensor(&b->t[i], i));
    if (senders && b->nt != 2 * senders)
        return weft_fail(WEFT_ERR_ARG, "an all-to-all of %d ranks has %d tensors, not %d", senders,
                         2 * senders, b->nt);
    WEFT_TRY(check_overlap(b->nt, b->t, senders));
    WEFT_TRY(make_room(b));
    if (senders) {
        cut_alltoallv(b);
        return WEFT_OK;
    }
    WEFT_TRY(sort_tensors(b));
    fill_buckets(b);
    return WEFT_OK;
}

weft_status plan_build(plan *p, weft_bulk_kind kind, int size, int nt, const weft_tensor *t, size_t bucket,
                       size_t message) {
    const builder b = {p, nt, t, bucket, message};
    memset(p, 0, sizeof *p);
    p->kind = kind;
    p->size = size;
    p->piece = message / (size_t)size / ALIGN * ALIGN;
    if (p->piece < ALIGN) p->piece = ALIGN;
    const weft_status s = build(&b);
    if (s < 0) {
        plan_free(p);
        return s;
    }
    for (int m = 0; m < p->nmessages; m++) {
        p->packs |= p->message[m].nspans > 1 && !by_parts(kind) && kind != WEFT_BULK_ALLTOALLV;
        p->bf16 |= p->message[m].type == WEFT_BF16;
    }
    return WEFT_OK;
}

void plan_free(plan *p) {
    free(p->bucket);
    free(p->message);
    free(p->span);
    free(p->order);
    free(p->bucket_of);
    memset(p, 0, sizeof *p);
}

/* --- one buffer ------------------------------------------------------------------------------------------ */

void plan_uniform(plan *p, weft_bulk_kind kind, int size, int rank, const void *in, void *out, size_t n,
                  weft_dtype t, size_t message) {
    const size_t unit = weft_dtype_size(t);
    const size_t whole = by_parts(kind) ? part_of(n, size) : n;
    const size_t pieces = by_parts(kind) ? part_pieces(n, size, unit, message) : ceil_div(n * unit, message);
    memset(p, 0, sizeof *p);
    p->kind = kind;
    p->size = size;
    p->nbuckets = 1;
    p->piece = weft_align_up(ceil_div(whole, pieces), by_parts(kind) ? UNIT : ALIGN / unit);
    p->nmessages = (int)ceil_div(whole, p->piece);
    p->most = p->piece * unit * (by_parts(kind) ? (size_t)size : 1);
    p->bf16 = t == WEFT_BF16;
    p->uniform = (struct plan_uniform){in, out, n, whole, t, rank};
}

plan_message plan_message_at(const plan *p, int m) {
    if (p->message) return p->message[m];
    const size_t n = p->uniform.n, piece = p->piece, at = (size_t)m * piece;
    plan_message u = {.type = p->uniform.type, .span0 = m, .nspans = 1};
    u.n = n - at < piece ? n - at : piece;
    if (!by_parts(p->kind)) return u;
    u.span0 = m * p->size;
    u.nspans = p->size;
    u.n = 0;
    for (int r = 0; r < p->size; r++) u.n += plan_span_at(p, &u, r).bytes / weft_dtype_size(u.type);
    return u;
}

plan_span plan_span_at(const plan *p, const plan_message *m, int i) {
    if (p->message) return p->span[m->span0 + i];
    const struct plan_uniform *u = &p->uniform;
    const size_t unit = weft_dtype_size(u->type);
    if (!by_parts(p->kind)) {
        const size_t at = (size_t)m->span0 * p->piece * unit;
        return (plan_span){u->out + at, u->in + at, m->n * unit};
    }
    const size_t skip = (size_t)(m->span0 / p->size) * p->piece; /* in every part */
    size_t lo, hi;
    weft_part(u->n, p->size, i, &lo, &hi);
    const size_t from = hi - lo < skip ? hi : lo + skip, n = hi - from < p->piece ? hi - from : p->piece;
    const size_t in_part = (from - lo) * unit, in_whole = from * unit;
    if (p->kind == WEFT_BULK_REDUCE_SCATTER)
        return (plan_span){i == u->rank ? u->out + in_part : NULL, u->in + in_whole, n * unit};
    return (plan_span){u->out + in_whole, i == u->rank ? u->in + in_part : NULL, n * unit};
}

weft_status weft_bulk_layout(int nt, const weft_tensor *t, size_t *offset, size_t *bytes) {
    if (nt < 0 || (nt && (!t || !offset)) || !bytes)
        return weft_fail(WEFT_ERR_ARG, "layout of %d tensors", nt);
    size_t at = 0;
    for (int i = 0; i < nt; i++) {
        size_t size, unit = weft_dtype_size(t[i].t);
        if (!unit || !weft_mul_ok(t[i].n, unit, &size) || size > SIZE_MAX / 4 ||
            !weft_add_ok(at, size, &at) || at > SIZE_MAX / 4)
            return weft_fail(WEFT_ERR_ARG, "layout: tensor %d '%s' of %zu x %s does not fit", i,
                             name_of(&t[i]), t[i].n, weft_dtype_name(t[i].t));
        offset[i] = at - size;
        at = weft_align_up(at, ALIGN);
    }
    *bytes = at;
    return WEFT_OK;
}
