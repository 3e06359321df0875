/* Tensors -> buckets -> messages; see plan.h. */
#include "comm/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/status.h"

#define ALIGN 64 /* cuts keep whole cache lines together */

static const weft_dtype dtypes[] = {WEFT_F32, WEFT_BF16, WEFT_F64, WEFT_I32, WEFT_I64};

static const char *name_of(const weft_tensor *t) {
    return t->name ? t->name : "unnamed";
}

static size_t bytes_of(const weft_tensor *t) {
    return t->n * weft_dtype_size(t->t);
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

/* Memory that stands in two tensors (a tied weight listed twice) would be summed twice. */
static weft_status check_overlap(int nt, const weft_tensor *t) {
    const weft_tensor **sorted = weft_calloc((size_t)nt, sizeof *sorted);
    if (!sorted) return WEFT_ERR_NOMEM;
    int m = 0;
    for (int i = 0; i < nt; i++)
        if (t[i].n) sorted[m++] = &t[i];
    qsort(sorted, (size_t)m, sizeof *sorted, by_address);
    weft_status s = WEFT_OK;
    for (int i = 1; i < m && s == WEFT_OK; i++)
        if ((uintptr_t)sorted[i - 1]->ptr + bytes_of(sorted[i - 1]) > (uintptr_t)sorted[i]->ptr)
            s = weft_fail(WEFT_ERR_ARG, "tensors '%s' and '%s' overlap in memory", name_of(sorted[i - 1]),
                          name_of(sorted[i]));
    free(sorted);
    return s;
}

/* --- growing arrays: counted first, so that each is allocated once
 * --------------------------------------------- */

static size_t messages_of(size_t bytes, size_t message) {
    return bytes / message + (bytes % message != 0);
}

static weft_status make_room(plan *p, int nt, const weft_tensor *t, size_t message) {
    size_t most = (size_t)nt; /* a packed message holds at least one tensor */
    for (int i = 0; i < nt; i++)
        if (!weft_add_ok(most, messages_of(bytes_of(&t[i]), message), &most) || most > INT32_MAX / 2)
            return weft_fail(WEFT_ERR_ARG, "more than 2^30 messages: raise the message size");
    p->bucket = weft_calloc((size_t)nt, sizeof *p->bucket);
    p->message = weft_calloc(most, sizeof *p->message);
    p->span = weft_calloc(most, sizeof *p->span);
    p->bucket_of = weft_calloc((size_t)nt, sizeof *p->bucket_of);
    return p->bucket && p->message && p->span && p->bucket_of ? WEFT_OK : WEFT_ERR_NOMEM;
}

static plan_message *add_message(plan *p, weft_dtype t, int bucket) {
    plan_message *m = &p->message[p->nmessages++];
    *m = (plan_message){.type = t, .bucket = bucket, .span0 = p->nspans};
    return m;
}

static void add_span(plan *p, plan_message *m, char *at, size_t bytes) {
    plan_span *last = m->nspans ? &p->span[p->nspans - 1] : NULL;
    if (last && last->at + last->bytes == at) {
        last->bytes += bytes;
    } else {
        p->span[p->nspans++] = (plan_span){at, bytes};
        m->nspans++;
    }
    m->n += bytes / weft_dtype_size(m->type);
    if (m->n * weft_dtype_size(m->type) > p->most) p->most = m->n * weft_dtype_size(m->type);
}

/* Equal pieces of whole cache lines: no short tail message. */
static void cut(plan *p, const weft_tensor *t, int bucket, size_t message) {
    const size_t bytes = bytes_of(t), pieces = messages_of(bytes, message);
    const size_t piece = weft_align_up((bytes + pieces - 1) / pieces, ALIGN);
    for (size_t at = 0; at < bytes; at += piece)
        add_span(p, add_message(p, t->t, bucket), (char *)t->ptr + at,
                 bytes - at < piece ? bytes - at : piece);
}

static void plan_one_bucket(plan *p, const weft_tensor *t, int b, size_t message) {
    plan_bucket *k = &p->bucket[b];
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        plan_message *open = NULL;
        for (int i = k->first; i <= k->last; i++) {
            const size_t bytes = bytes_of(&t[i]);
            if (t[i].t != dtypes[d] || !bytes || bytes >= message / 4) continue;
            if (open && open->n * weft_dtype_size(open->type) + bytes > message) open = NULL;
            if (!open) open = add_message(p, t[i].t, b);
            add_span(p, open, t[i].ptr, bytes);
        }
    }
    for (int i = k->last; i >= k->first; i--)
        if (bytes_of(&t[i]) && bytes_of(&t[i]) >= message / 4) cut(p, &t[i], b, message);
    k->end = p->nmessages;
}

static void fill_buckets(plan *p, int nt, const weft_tensor *t, size_t bucket) {
    size_t bytes = 0;
    for (int i = nt - 1; i >= 0; i--) {
        if (p->nbuckets == 0 || (bytes && bytes + bytes_of(&t[i]) > bucket)) {
            p->bucket[p->nbuckets++] = (plan_bucket){.first = i, .last = i};
            bytes = 0;
        }
        bytes += bytes_of(&t[i]);
        p->bucket[p->nbuckets - 1].first = i;
        p->bucket_of[i] = p->nbuckets - 1;
    }
}

weft_status plan_build(plan *p, int nt, const weft_tensor *t, size_t bucket, size_t message) {
    memset(p, 0, sizeof *p);
    for (int i = 0; i < nt; i++) WEFT_TRY(check_tensor(&t[i], i));
    WEFT_TRY(check_overlap(nt, t));
    weft_status s = make_room(p, nt, t, message);
    if (s < 0) {
        plan_free(p);
        return s;
    }
    fill_buckets(p, nt, t, bucket);
    for (int b = 0; b < p->nbuckets; b++) plan_one_bucket(p, t, b, message);
    for (int m = 0; m < p->nmessages; m++) {
        p->packs |= p->message[m].nspans > 1;
        p->bf16 |= p->message[m].type == WEFT_BF16;
    }
    return WEFT_OK;
}

void plan_free(plan *p) {
    free(p->bucket);
    free(p->message);
    free(p->span);
    free(p->bucket_of);
    memset(p, 0, sizeof *p);
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
